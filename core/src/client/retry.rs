//! Retries of a channel's calls: by which policy, paid for by what, and how many there were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::channel::Channel;
use super::raw::{Cause, History, RawRequest};
use crate::code::Code;
use crate::config::ServiceConfig;
use crate::context::ATTEMPT_KEY;
use crate::method::MethodSpec;
use crate::policy::retry::{RetryBudget, RetryPolicy};
use crate::status::{HandlerRan, Status};
use crate::time;

/// Attempts of a call that the server provably did not take up, the first included: enough to get past a server that leaves and one connection that
/// broke, few enough never to storm.
const ATTEMPTS_MAX: u32 = 3;
/// Methods that have a budget of their own; those of a service that has more share.
const BUDGETS: usize = 64;
/// Places at which a method's budget is looked for.
const PLACES: usize = 16;

/// What all calls of a target share.
pub(super) struct Retries {
    policy: RetryPolicy,
    /// Each with the id of its method; 0 for none yet.
    budgets: [(AtomicU64, RetryBudget); BUDGETS],
    made: AtomicU64,
    withheld: AtomicU64,
}

/// What comes after an attempt that failed.
pub(super) enum Next {
    /// Another one at once: nobody had any work with the last.
    AtOnce,
    /// A retry, after that time.
    After(Duration),
    /// It is what the call came to.
    Over,
}

impl Retries {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            budgets: std::array::from_fn(|_| (AtomicU64::new(0), RetryBudget::new())),
            made: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
        }
    }

    /// The policy of methods of which no configuration says anything.
    pub(super) fn policy(&self) -> RetryPolicy {
        self.policy
    }

    /// An attempt was answered, or failed by no fault of the service.
    #[inline]
    pub(super) fn note_success(&self, method: u64) {
        self.budget(method).deposit();
    }

    /// Retries by policy that were made, and those that were not because nothing paid for them.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.made.load(Ordering::Relaxed), self.withheld.load(Ordering::Relaxed))
    }

    /// What is paid in for a method.
    #[inline]
    fn budget(&self, method: u64) -> &RetryBudget {
        let first = usize::try_from(method % BUDGETS as u64).unwrap_or_default();
        for place in 0..PLACES {
            let (id, budget) = &self.budgets[(first + place) % BUDGETS];
            let is_its_own = match id.load(Ordering::Relaxed) {
                // Whoever comes first has it.
                0 => {
                    let taken = id.compare_exchange(0, method, Ordering::Relaxed, Ordering::Relaxed);
                    taken.is_ok() || taken == Err(method)
                }
                other => other == method,
            };
            if is_its_own {
                return budget;
            }
        }
        &self.budgets[first].1
    }

    fn pay(&self, method: u64) -> bool {
        let is_paid = self.budget(method).withdraw();
        let counter = if is_paid { &self.made } else { &self.withheld };
        counter.fetch_add(1, Ordering::Relaxed);
        is_paid
    }
}

impl Channel {
    /// How calls of a method are tried again.
    pub(super) fn retry_policy(&self, spec: Option<&MethodSpec>) -> RetryPolicy {
        let config = self.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), spec);
        configured.retry.or(for_all.retry).unwrap_or_else(|| self.retries().policy())
    }

    /// Whether an attempt of that method may have less time than its call.
    #[inline]
    pub(super) fn bounds_attempts(&self, spec: &MethodSpec) -> bool {
        match self.config().as_deref() {
            Some(Some(_)) => self.retry_policy(Some(spec)).time_of_attempt().is_some(),
            Some(None) | None => self.retries().policy.time_of_attempt().is_some(),
        }
    }

    /// What comes after an attempt of `request` that failed. A retry that it tells of is paid for.
    pub(super) fn after(&self, request: &RawRequest, policy: &RetryPolicy, failed: &Status, cause: Cause) -> Next {
        // Outside a runtime there is no time to wait for.
        if request.outbound_spent || Handle::try_current().is_err() {
            return Next::Over;
        }
        let History {
            attempts,
            is_on_behalf_of_a_retry,
            ..
        } = request.history;
        let was_turned_away =
            cause == Cause::Failed && failed.handler_ran() == HandlerRan::No && !failed.is_from_server();
        if was_turned_away && failed.is_retryable() && attempts < ATTEMPTS_MAX {
            return Next::AtOnce;
        }
        if is_on_behalf_of_a_retry {
            return Next::Over;
        }
        let (is_idempotent, random) = (request.is_idempotent(), fastrand::f64());
        let wait = match cause {
            Cause::Failed => policy.wait(failed, attempts, is_idempotent, random),
            Cause::TimedOut => policy.wait_after_timeout(failed, attempts, is_idempotent, random),
        };
        let is_in_time = |wait: &Duration| request.deadline.is_none_or(|deadline| time::now() + *wait < deadline);
        match wait.filter(is_in_time) {
            Some(wait) if self.retries().pay(request.method) => Next::After(wait),
            Some(_) | None => Next::Over,
        }
    }
}

impl RawRequest {
    /// Tells the server that this is a retry, so that nobody retries on its behalf.
    pub(super) fn mark_attempt(&mut self) {
        if self.history.was_retried {
            // Key and value keep the rules.
            let _valid = self.metadata.insert(ATTEMPT_KEY, self.history.attempts.to_string());
        }
    }

    /// Until when an attempt that begins now may take, if that is before the whole call's time is up. One that no other can follow has as long as its call.
    pub(super) fn attempt_limit(&self, policy: &RetryPolicy) -> Option<Instant> {
        let may_follow = self.is_idempotent() && self.outbound.is_none() && !self.history.is_on_behalf_of_a_retry;
        let time = policy.time_of_attempt().filter(|_| may_follow)?;
        let limit = time::now().checked_add(time)?;
        self.deadline.is_none_or(|deadline| limit < deadline).then_some(limit)
    }
}

/// The end of an attempt that took too long; the next one may be quicker.
pub(super) fn attempt_timed_out(limit: Duration, ran: HandlerRan) -> Status {
    Status::deadline_exceeded(format!("an attempt was not answered within {limit:?}")).with_handler_ran(ran)
}

/// Whether a failure is the call's own fault, or nobody's: the service is none the worse for it.
pub(super) fn spares_service(status: &Status) -> bool {
    !matches!(
        status.code(),
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::Aborted
            | Code::Internal
            | Code::Unknown
            | Code::DataLoss
            | Code::DeadlineExceeded
            | Code::Cancelled
    )
}

#[cfg(test)]
mod tests {
    use super::{BUDGETS, Retries};
    use crate::policy::retry::RetryPolicy;

    #[test]
    fn methods_have_budgets_of_their_own_as_long_as_there_are_any() {
        let retries = Retries::new(RetryPolicy::DEFAULT);
        let spent = |method| retries.pay(method);
        // One retry is paid for from the start, of each.
        for method in [1, 1 + BUDGETS as u64, 1 + 2 * BUDGETS as u64, 2] {
            assert!(spent(method) && !spent(method), "{method}");
        }
        retries.note_success(1);
        assert_eq!(retries.counts(), (4, 4));
        // What comes above that shares.
        for method in 3..10_000 {
            spent(method);
        }
        let (made, withheld) = retries.counts();
        assert_eq!((made, made + withheld), (BUDGETS as u64, 8 + 9_997));
    }
}
