//! What became of an endpoint's calls within the last seconds, from counts that only grow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{SWEEP_EVERY, Tally};
use crate::policy::load::{Observation, Pace};

/// How far back is looked.
const LONG: Duration = Duration::from_secs(10);
/// The same where it has to be quick.
const SHORT: Duration = Duration::from_secs(2);

/// Counts at the beginning of each part of the last ten seconds, and now.
#[derive(Debug)]
pub(super) struct Window {
    marks: VecDeque<(Instant, Observation)>,
    now: Instant,
    seen: Observation,
}

impl Window {
    pub(super) fn new(now: Instant, seen: Observation) -> Self {
        Self {
            marks: VecDeque::from([(now, seen)]),
            now,
            seen,
        }
    }

    /// Nothing before this counts.
    pub(super) fn restart(&mut self, now: Instant, seen: Observation) {
        *self = Self::new(now, seen);
    }

    /// Takes up what is known now.
    pub(super) fn see(&mut self, now: Instant, seen: Observation) {
        let last = self.marks.back().map_or(self.now, |(at, _)| *at);
        if now.saturating_duration_since(last) > SWEEP_EVERY * 2 {
            // Nothing was looked at for long: what was answered then would hide what fails now.
            return self.restart(now, seen);
        }
        (self.now, self.seen) = (now, seen);
        let is_new = self.marks.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= SWEEP_EVERY);
        if is_new {
            self.marks.push_back((now, seen));
        }
        // One is kept from before, to count from.
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= LONG) {
            self.marks.pop_front();
        }
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
        let is_before = |(at, _): &&(Instant, Observation)| self.now.saturating_duration_since(*at) >= span;
        let mark = self.marks.iter().rev().find(is_before).or_else(|| self.marks.front());
        mark.map_or(self.seen, |(_, seen)| *seen)
    }
}
