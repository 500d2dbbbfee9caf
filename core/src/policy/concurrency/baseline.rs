//! How calls went when nothing stood in their way, and whether they go much worse now: the suspicion that calls stand in line.
//!
//! Calls are taken in blocks, each as long as it takes to know its mean. The best block of the last seconds is what others are compared with. A block is
//! *steady* if its mean agrees with Little's law; one from a cold start is not, because calls that take long are missing in it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::sample::Sample;

/// For how long a block is compared with. A service may become slower over time, and then is not congested for ever.
const KEPT: Duration = Duration::from_secs(10);
/// The best of each tenth of that is kept.
const PARTS: u32 = 10;
/// Blocks of calls that are few are kept for as many times what they took.
const KEPT_TIMES: u32 = 4;
/// Calls of a block: at least, at most, and else as many as it takes to know their mean to this error.
const BLOCK_MIN: u32 = 32;
const BLOCK_MAX: u32 = 512;
const BLOCK_ERROR: f64 = 0.07;
/// How fast the variation of latencies follows that of new blocks.
const VARIATION_STEP: f64 = 0.2;
/// Calls that the latest averages go over: enough to tell 1.8 times from chance, few enough to see an onset within a few dozen calls.
const RECENT: u32 = 16;
/// Calls whose rate is looked at: twice as many, because gaps between calls vary more.
const RECENT_GAPS: usize = 32;
/// How much a mean may fall short of what Little's law says in a block that is steady.
const STEADY: f64 = 0.6;
/// By how much calls have to be slower for a suspicion; or by so many standard deviations, if that is more.
const SLOWER: f64 = 1.8;
const SLOWER_DEVIATIONS: f64 = 4.0;
/// By how much, next to a block that is not steady.
const SLOWER_THAN_UNSTEADY: f64 = 3.0;
/// By how much there have to be more calls in flight.
const FULLER: f64 = 2.0;
/// Latencies below, in seconds, are all alike: a scheduler makes such differences.
const ALIKE: f64 = 1e-3;
/// Calls in flight over throughput: by how much more the first has to have grown.
const FULLER_THAN_FASTER: f64 = 1.5;
/// Below so much of its throughput a service has not more to do, but has stopped: that tells nothing about how much it can do.
const COLLAPSED: f64 = 0.5;
/// How much faster calls may be next to a block that is not steady.
const FASTER_THAN_UNSTEADY: f64 = 1.5;
/// Without an answer for so many times the latency that a call hardly ever exceeds, a service has stopped, or become another.
const SILENT_TIMES: f64 = 4.0;
/// And at least for so long, in seconds: a process may have been stopped for a moment.
const SILENT_MIN: f64 = 0.1;
/// The share of calls that are given up from which on that is taken for a collapse, and calls over which it is counted.
const GIVEN_UP_SHARE: f64 = 0.5;
const GIVEN_UP_CALLS: f64 = 32.0;
/// Calls in flight that have to be waiting for an answer for that.
const SILENT_IN_FLIGHT: u32 = 8;

/// What calls were like, and what they are like now.
#[derive(Debug)]
pub(super) struct Baseline {
    blocks: VecDeque<Block>,
    /// The best of those that were forgotten, for the case that nothing better comes: it may have been forgotten because calls stood in line.
    former: Option<Block>,
    sample: Sample,
    /// Of the calls of the current block, those that were answered, and how long the quickest of them took.
    answered: u32,
    least: f64,
    /// Calls in flight when those of the current block were admitted, added up.
    in_flight: f64,
    /// Calls in flight over the time of the current block: their integral, and for how long there were any.
    area: f64,
    busy: Duration,
    /// Since when there are calls in flight.
    busy_since: Instant,
    /// Of latencies, over the last blocks.
    variation: Option<f64>,
    recent: Recent,
}

/// Calls in a row.
#[derive(Clone, Copy, Debug)]
struct Block {
    at: Instant,
    /// Without the time in which there was nothing to do.
    took: Duration,
    latency: f64,
    /// Of the quickest answer.
    least: f64,
    /// Calls in flight when they were admitted, on average.
    in_flight: f64,
    rate: f64,
    /// The latency that follows from Little's law.
    by_little: f64,
}

/// The latest calls.
#[derive(Debug, Default)]
struct Recent {
    count: u32,
    latency: f64,
    in_flight: f64,
    /// When those were answered that were.
    ends: VecDeque<Instant>,
    /// The last of them was answered.
    is_answering: bool,
    /// The share of those that were given up, the latest counting most.
    given_up: f64,
}

/// Calls take much longer than they did, without more of them being done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suspicion {
    /// How long they took before.
    pub(super) latency: f64,
    pub(super) variation: f64,
    /// How many are done in a second now.
    pub(super) rate: f64,
    /// What is known of before is more than a cold start.
    pub(super) is_sure: bool,
    /// Most calls are given up, because they take so long: whether fewer of them would help, only trying tells.
    pub(super) is_collapse: bool,
}

impl Baseline {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            blocks: VecDeque::new(),
            former: None,
            sample: Sample::default(),
            answered: 0,
            least: f64::INFINITY,
            in_flight: 0.0,
            area: 0.0,
            busy: Duration::ZERO,
            busy_since: now,
            variation: None,
            recent: Recent::default(),
        }
    }

    /// How long the latest calls took.
    pub(super) fn latency_now(&self) -> f64 {
        self.recent.latency
    }

    /// Whether most calls are given up.
    pub(super) fn is_given_up(&self) -> bool {
        self.recent.given_up >= GIVEN_UP_SHARE
    }

    /// How long calls took in better times.
    pub(super) fn latency_before(&self) -> Option<f64> {
        self.best().map(|block| block.latency)
    }

    /// For `lasted` until `now` there have been so many calls in flight.
    pub(super) fn pass(&mut self, in_flight: u32, lasted: Duration, now: Instant) {
        if in_flight == 0 {
            self.busy_since = now;
            return;
        }
        self.area += f64::from(in_flight) * lasted.as_secs_f64();
        self.busy += lasted;
    }

    /// A call is over that took `latency`, and was one of `in_flight` when it began; it was answered, or given up.
    pub(super) fn note(&mut self, latency: f64, in_flight: u32, now: Instant, answered: bool) {
        self.recent.note(latency, in_flight, now, answered);
        self.sample.add(latency);
        if answered {
            self.answered += 1;
            self.least = self.least.min(latency);
        }
        self.in_flight += f64::from(in_flight);
        let count = self.sample.count();
        let is_known = count >= BLOCK_MAX || (count >= BLOCK_MIN && self.sample.error() <= BLOCK_ERROR);
        // Answers that come all at once tell nothing of how many come in a second.
        if is_known && self.busy.as_secs_f64() >= self.sample.mean() {
            // What is mostly given up is no measure of better times.
            let is_measure = self.answered * 2 >= count;
            let block = self.close(now);
            if is_measure {
                self.keep(block);
            }
        }
    }

    /// Forgets all but how latencies vary; what comes next is the new measure.
    pub(super) fn forget(&mut self) {
        self.former = self.best().copied().or(self.former);
        self.blocks.clear();
        self.recent = Recent::default();
        self.begin();
    }

    /// Whether no answer has come for so long that the service cannot be what it was; to be asked before an answer is noted. Where most calls are given up, that one of
    /// them is answered now and then tells nothing.
    pub(super) fn is_broken(&self, in_flight: u32, now: Instant) -> bool {
        if self.is_given_up() {
            return false;
        }
        self.best().is_some_and(|block| {
            f64::from(in_flight) >= block.in_flight && self.is_silent(in_flight, u32::MAX, block.latency, now)
        })
    }

    /// Whether there are calls in flight, of `limit` that there may be, of which none has come back for much longer than they take that wait for nobody, `latency` on
    /// average.
    pub(super) fn is_silent(&self, in_flight: u32, limit: u32, latency: f64, now: Instant) -> bool {
        let rarely = latency * (1.0 + 2.0 * self.variation().sqrt());
        let patience = (SILENT_TIMES * rarely).max(SILENT_MIN);
        let is_late =
            |last: &Instant| now.saturating_duration_since((*last).max(self.busy_since)).as_secs_f64() > patience;
        in_flight >= SILENT_IN_FLIGHT.min(limit) && self.recent.ends.back().is_some_and(is_late)
    }

    /// Whether calls seem to stand in line: more than half of what came on top of the calls in flight of better times went into latency.
    pub(super) fn suspicion(&self, in_flight: u32, at: Instant) -> Option<Suspicion> {
        let now = &self.recent;
        if now.count < RECENT {
            return None;
        }
        if self.is_given_up() {
            return self.collapse(in_flight);
        }
        let block = self.best()?;
        if f64::from(in_flight) < block.in_flight * FULLER {
            return None;
        }
        let (rate, variation) = (now.rate(at), self.variation());
        let (slower, fuller, faster) = (
            now.latency / block.latency.max(ALIKE),
            now.in_flight / block.in_flight,
            rate / block.rate,
        );
        // The average of the latest weighs as twice as many calls.
        let noise = 1.0 + SLOWER_DEVIATIONS * (variation / f64::from(2 * RECENT)).sqrt();
        let slower_min = if block.is_steady() {
            noise.max(SLOWER)
        } else {
            SLOWER_THAN_UNSTEADY
        };
        let is_no_chance = if block.is_steady() {
            faster >= COLLAPSED
        } else {
            now.latency > 2.0 * block.by_little && faster < FASTER_THAN_UNSTEADY
        };
        let is_suspicious = slower >= slower_min
            && is_no_chance
            && fuller >= FULLER
            && fuller > faster.max(COLLAPSED) * FULLER_THAN_FASTER;
        is_suspicious.then_some(Suspicion {
            latency: block.latency,
            variation,
            rate,
            is_sure: block.is_steady(),
            is_collapse: false,
        })
    }

    /// Most calls are given up. How long they would have taken nobody knows: what there is to go by is that there are so many more of them than in better times.
    fn collapse(&self, in_flight: u32) -> Option<Suspicion> {
        let known = self.best().into_iter().chain(&self.former);
        let block = known.min_by(|one, other| one.in_flight.total_cmp(&other.in_flight))?;
        let is_fuller = f64::from(in_flight) >= block.in_flight * FULLER;
        (is_fuller && self.recent.latency >= block.latency).then_some(Suspicion {
            // A block that is not steady is of calls that stood in line themselves, all but the first.
            latency: if block.is_steady() { block.latency } else { block.least },
            variation: self.variation(),
            rate: block.rate,
            is_sure: block.is_steady(),
            is_collapse: true,
        })
    }

    /// The best block that is kept; of those that are steady, if there are any.
    fn best(&self) -> Option<&Block> {
        self.blocks.iter().min_by(|one, other| one.rank(other))
    }

    fn variation(&self) -> f64 {
        self.variation.unwrap_or_default()
    }

    fn begin(&mut self) {
        (self.sample, self.answered, self.least) = (Sample::default(), 0, f64::INFINITY);
        (self.in_flight, self.area, self.busy) = (0.0, 0.0, Duration::ZERO);
    }

    fn close(&mut self, now: Instant) -> Block {
        let count = f64::from(self.sample.count());
        let took = self.busy;
        let variation = self.sample.variation();
        let before = self.variation.unwrap_or(variation);
        self.variation = Some(before + (variation - before) * VARIATION_STEP);
        let block = Block {
            at: now,
            took,
            latency: self.sample.mean(),
            least: self.least.min(self.sample.mean()),
            in_flight: self.in_flight / count,
            rate: f64::from(self.answered) / took.as_secs_f64().max(1e-9),
            by_little: self.area / count,
        };
        self.begin();
        block
    }

    fn keep(&mut self, block: Block) {
        let kept = |one: &Block| KEPT.max(one.took * KEPT_TIMES);
        self.blocks.retain(|one| block.at.saturating_duration_since(one.at) <= kept(one));
        let part = KEPT / PARTS;
        match self.blocks.back_mut().filter(|last| block.at.saturating_duration_since(last.at) < part) {
            Some(last) if block.rank(last).is_lt() => *last = Block { at: last.at, ..block },
            Some(_) => {}
            None => self.blocks.push_back(block),
        }
    }
}

impl Block {
    fn is_steady(&self) -> bool {
        self.latency >= STEADY * self.by_little
    }

    /// The better one is less.
    fn rank(&self, other: &Self) -> std::cmp::Ordering {
        other.is_steady().cmp(&self.is_steady()).then(self.latency.total_cmp(&other.latency))
    }
}

impl Recent {
    fn note(&mut self, latency: f64, in_flight: u32, now: Instant, answered: bool) {
        self.count = (self.count + 1).min(RECENT);
        let step = 1.0 / f64::from(self.count);
        self.latency += (latency - self.latency) * step;
        self.in_flight += (f64::from(in_flight) - self.in_flight) * step;
        self.is_answering = answered;
        self.given_up += (f64::from(u8::from(!answered)) - self.given_up) / GIVEN_UP_CALLS;
        if !answered {
            return;
        }
        self.ends.push_back(now);
        if self.ends.len() > RECENT_GAPS {
            self.ends.pop_front();
        }
    }

    /// Answers in a second, as of now.
    fn rate(&self, now: Instant) -> f64 {
        let (Some(first), Some(last)) = (self.ends.front(), self.ends.back()) else {
            return 0.0;
        };
        // Since calls are given up, none has been answered.
        let until = if self.is_answering { *last } else { now };
        let span = until.saturating_duration_since(*first).as_secs_f64();
        (self.ends.len() as f64 - 1.0) / span.max(1e-9)
    }
}
