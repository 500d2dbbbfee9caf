//! Counts calls against a limit while they come, and says why one is turned away.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::rate::{Counted, Meters, Rule};
use crate::status::Status;
use crate::time;

/// When to come back where nobody knows when a call will be over.
const RETRY_AFTER_CONCURRENCY: Duration = Duration::from_millis(100);

/// What limits are called in a status.
pub(crate) const RATE_POLICY: &str = "rate_limit";
pub(crate) const CONCURRENCY_POLICY: &str = "concurrency_limit";

/// The meters of one limit.
#[derive(Debug)]
pub(crate) struct Counter {
    meters: Mutex<Meters>,
    epoch: Instant,
}

impl Counter {
    pub(crate) fn new(rule: Rule, keys_max: usize) -> Self {
        Self {
            meters: Mutex::new(Meters::new(rule, keys_max)),
            epoch: time::now(),
        }
    }

    pub(crate) fn rule(&self) -> Rule {
        self.lock().rule()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Rule)) {
        let mut meters = self.lock();
        let mut rule = meters.rule();
        change(&mut rule);
        meters.set_rule(rule);
    }

    pub(crate) fn set_keys_max(&self, keys: usize) {
        self.lock().set_keys_max(keys);
    }

    pub(crate) fn keys(&self) -> usize {
        self.lock().keys()
    }

    /// Counts a call; `is_keyed` if only those with the same key count.
    ///
    /// # Errors
    /// Why it is turned away.
    pub(crate) fn take(&self, key: u64, is_keyed: bool) -> Result<Counted, Status> {
        let (taken, rule) = {
            let mut meters = self.lock();
            // With the lock, or calls would come in another order than their times.
            let now = time::now().saturating_duration_since(self.epoch);
            (meters.take(key, now), meters.rule())
        };
        taken.map_err(|after| refusal(rule, is_keyed, after))
    }

    /// A call that was counted there a moment ago is not let through after all.
    pub(crate) fn take_back(&self, counted: Counted) {
        let mut meters = self.lock();
        let now = time::now().saturating_duration_since(self.epoch);
        meters.take_back(counted, now);
    }

    /// A call is over that was counted there; for concurrency.
    pub(crate) fn give_back(&self, counted: Counted) {
        self.lock().give_back(counted);
    }

    fn lock(&self) -> MutexGuard<'_, Meters> {
        self.meters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a call is told that is turned away; `is_keyed` if only those with the same key count.
fn refusal(rule: Rule, is_keyed: bool, after: Duration) -> Status {
    let whose = if is_keyed { " with the same key" } else { "" };
    match rule {
        Rule::Window { limit, per } | Rule::Bucket { limit, per, .. } => {
            // Whole milliseconds, and never too early.
            let after = Duration::from_millis(u64::try_from(after.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX));
            let message = format!(
                "more than {} in {per:?}{whose}; try again after {after:?}",
                calls(limit)
            );
            Status::resource_exhausted(message)
                .with_rejection(RATE_POLICY, "too_many_requests")
                .with_retry_after(after)
        }
        Rule::Concurrency { limit } => {
            let message = format!("more than {} at a time{whose}", calls(limit));
            Status::resource_exhausted(message)
                .with_rejection(CONCURRENCY_POLICY, "too_many_at_once")
                .with_retry_after(RETRY_AFTER_CONCURRENCY)
        }
    }
}

fn calls(count: u32) -> String {
    format!("{count} {}", if count == 1 { "call" } else { "calls" })
}
