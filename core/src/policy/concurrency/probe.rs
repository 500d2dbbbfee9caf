//! A probe: for a moment so few calls are let in that none can stand in line, and how long those take is the service's own time.
//!
//! It is taken of whole *cohorts*: of calls that began later those that take long would be missing. While the last of them are under way as many
//! are let in as the service is thought to work on at a time, so that it idles for as long as it takes to let the cohort in, and no longer.

use std::time::{Duration, Instant};

use super::sample::Sample;

/// Calls with fewer of which a probe comes to nothing.
const CALLS_MIN: u32 = 6;
/// A probe ends as soon as its calls take so much of what calls took before it: then nothing stood in line.
const NO_QUEUE: f64 = 0.75;
/// For how many times the latency before it a probe waits for calls in flight to become few, and at least so long.
const DRAIN_TIMES: f64 = 4.0;
const DRAIN_MIN: f64 = 0.1;
/// For how many times what it should take a cohort is let in, and for how many times the latency before it the last of its calls is waited for.
const ADMIT_TIMES: f64 = 4.0;
const WAIT_TIMES: f64 = 8.0;

/// A probe that is under way.
#[derive(Debug)]
pub(super) struct Probe {
    id: u32,
    began: Instant,
    /// How long calls took when it began.
    latency_before: f64,
    /// For how long calls may be let in.
    admitting_max: f64,
    /// Calls that are still to be let in.
    missing: u32,
    /// When the first and the last of its calls were let in.
    first: Option<Instant>,
    last: Option<Instant>,
    /// Of its calls that are under way: how many, and when they began, as seconds from the beginning of the probe added up.
    under_way: u32,
    begins: f64,
    sample: Sample,
}

/// What a probe is to find out, and what is known before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Calls to be let in.
    pub(super) calls: u32,
    /// Calls in flight while they are, at most.
    pub(super) width: f64,
    /// How long a call should take then, in seconds.
    pub(super) latency: f64,
    /// How long calls take now.
    pub(super) latency_before: f64,
}

/// What came of a probe.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    /// `None` if too few calls came back.
    pub(super) sample: Option<Sample>,
    /// For how long calls were let in only while few were in flight.
    pub(super) held: Duration,
}

impl Probe {
    pub(super) fn new(id: u32, now: Instant, plan: &Plan) -> Self {
        let admitting = f64::from(plan.calls) / plan.width * plan.latency;
        Self {
            id,
            began: now,
            latency_before: plan.latency_before,
            admitting_max: ADMIT_TIMES * admitting.max(plan.latency_before),
            missing: plan.calls,
            first: None,
            last: None,
            under_way: 0,
            begins: 0.0,
            sample: Sample::default(),
        }
    }

    /// Whether calls are still to be let in while few are in flight.
    pub(super) fn is_admitting(&self) -> bool {
        self.missing > 0
    }

    /// A call was let in with few in flight; returns the probe's id if it is one of its calls.
    pub(super) fn admit(&mut self, now: Instant) -> Option<u32> {
        self.missing = self.missing.checked_sub(1)?;
        self.first.get_or_insert(now);
        if self.missing == 0 {
            self.last = Some(now);
        }
        self.under_way += 1;
        self.begins += self.seconds(now);
        Some(self.id)
    }

    /// A call that belongs to the probe `id` and began at `began` is over, and took that long.
    pub(super) fn finish(&mut self, id: Option<u32>, began: Instant, latency: f64) {
        if self.leave(id, began) {
            self.sample.add(latency);
        }
    }

    /// A call that belongs to the probe `id` and began at `began` tells nothing, as one that nobody waited for any more when its turn came: another one takes
    /// its place.
    pub(super) fn take_back(&mut self, id: Option<u32>, began: Instant) {
        if self.leave(id, began) {
            self.missing += 1;
            self.last = None;
        }
    }

    fn leave(&mut self, id: Option<u32>, began: Instant) -> bool {
        if id != Some(self.id) {
            return false;
        }
        self.under_way = self.under_way.saturating_sub(1);
        self.begins -= self.seconds(began);
        true
    }

    /// Whether it has found out what it can.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        (self.missing == 0 && self.under_way == 0) || self.is_clear() || self.is_overdue(now)
    }

    /// What came of it.
    pub(super) fn found(&self, now: Instant) -> Found {
        let mut sample = self.sample;
        if !self.is_clear() && self.under_way > 0 {
            // Those that are not back yet count with their age.
            let age = self.seconds(now) - self.begins / f64::from(self.under_way);
            sample.add_many(self.under_way, age.max(0.0));
        }
        Found {
            sample: (sample.count() >= CALLS_MIN).then_some(sample),
            held: self.last.unwrap_or(now).saturating_duration_since(self.first.unwrap_or(self.began)),
        }
    }

    /// Calls took about as long before, so that nothing stood in line then.
    fn is_clear(&self) -> bool {
        self.sample.count() >= CALLS_MIN && self.sample.mean() >= NO_QUEUE * self.latency_before
    }

    fn is_overdue(&self, now: Instant) -> bool {
        let (since, patience) = match (self.first, self.last) {
            (None, _) => (self.began, (DRAIN_TIMES * self.latency_before).max(DRAIN_MIN)),
            (Some(first), None) => (first, self.admitting_max),
            (_, Some(last)) => (last, WAIT_TIMES * self.latency_before),
        };
        now.saturating_duration_since(since).as_secs_f64() > patience
    }

    fn seconds(&self, now: Instant) -> f64 {
        now.saturating_duration_since(self.began).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Plan, Probe};
    use crate::time;

    #[test]
    fn calls_that_tell_nothing_are_followed_by_others() {
        let now = time::now();
        let plan = Plan {
            calls: 16,
            width: 16.0,
            latency: 0.01,
            latency_before: 0.1,
        };
        let mut probe = Probe::new(7, now, &plan);
        for _ in 0..100 {
            // Nobody waits for it any more when its turn comes.
            let id = probe.admit(now);
            assert_eq!(id, Some(7));
            probe.take_back(id, now);
        }
        assert!(probe.is_admitting() && !probe.is_over(now));
        for _ in 0..16 {
            assert_eq!(probe.admit(now), Some(7));
        }
        assert!(!probe.is_admitting());
        let later = now + Duration::from_millis(10);
        for _ in 0..16 {
            probe.finish(Some(7), now, 0.01);
        }
        assert!(probe.is_over(later));
        assert_eq!(probe.found(later).sample.map(|sample| sample.count()), Some(16));
    }
}
