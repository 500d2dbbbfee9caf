//! What became of an endpoint's calls within the last seconds, from counts that only grow.

use std::time::{Duration, Instant};

use super::{SWEEP_EVERY, Tally};
use crate::policy::load::{Observation, Pace};
use crate::policy::marks::{Marks, evenly};

/// How far back is looked.
const LONG: Duration = Duration::from_secs(10);
/// The same where it has to be quick.
const SHORT: Duration = Duration::from_secs(2);

/// What is known now, and what was known before.
#[derive(Debug)]
pub(super) struct Window {
    marks: Marks<Observation>,
    now: Instant,
    seen: Observation,
}

impl Window {
    pub(super) fn new(now: Instant, seen: Observation) -> Self {
        Self {
            marks: Marks::new(now, seen, SWEEP_EVERY, LONG),
            now,
            seen,
        }
    }

    /// Nothing before this counts.
    pub(super) fn restart(&mut self, now: Instant, seen: Observation) {
        (self.now, self.seen) = (now, seen);
        self.marks.restart(now, seen);
    }

    /// Takes up what is known now. After a while without a look, in which nothing failed, what was answered came evenly.
    pub(super) fn see(&mut self, now: Instant, seen: Observation) {
        (self.now, self.seen) = (now, seen);
        self.marks.note(now, seen, |last, part| Observation {
            ended: evenly(last.ended, seen.ended, part),
            // How long answers took is not known of a part of them.
            pace: seen.pace,
            ..last
        });
    }

    /// What is known now.
    pub(super) fn seen(&self) -> Observation {
        self.seen
    }

    /// Since the last part began, or the one before if that has only just begun.
    pub(super) fn newest(&self) -> Tally {
        self.since(SWEEP_EVERY)
    }

    /// Within the last 2 s.
    pub(super) fn short(&self) -> Tally {
        self.since(SHORT)
    }

    /// Within the last 10 s.
    pub(super) fn long(&self) -> Tally {
        self.since(LONG)
    }

    /// How long answers took within the last 2 s, if there were so many that it tells something.
    pub(super) fn latency(&self, calls_min: u64) -> Option<Duration> {
        Pace::mean(self.mark(SHORT).pace, self.seen.pace, calls_min)
    }

    fn since(&self, span: Duration) -> Tally {
        let from = self.mark(span);
        let failed = self.seen.failed.saturating_sub(from.failed);
        Tally {
            // Calls that are counted as begun but not yet as under way could make it go back.
            ended: self.seen.ended.saturating_sub(from.ended).max(failed),
            failed,
        }
    }

    /// What was known before that time, or when all began.
    fn mark(&self, span: Duration) -> Observation {
        self.marks.before(self.now, span).unwrap_or(self.seen)
    }
}
