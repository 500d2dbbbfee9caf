//! Retries of a channel's calls: by which policy, paid for by what, and how many there were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::raw::RawRequest;
use crate::code::Code;
use crate::context::ATTEMPT_KEY;
use crate::method::MethodSpec;
use crate::policy::retry::{RetryBudget, RetryPolicy};
use crate::status::{HandlerRan, Status};
use crate::time;

/// Attempts of a call that the server provably did not take up, the first included: enough to get past a server that leaves and one connection that
/// broke, few enough never to storm.
const ATTEMPTS_MAX: u32 = 3;
/// Buckets of a channel: one for each method, but for the few services that have more of them than share without noticing.
const BUDGETS: usize = 64;

/// What all calls of a target share.
pub(super) struct Retries {
    policy: RetryPolicy,
    budgets: [RetryBudget; BUDGETS],
    made: AtomicU64,
    withheld: AtomicU64,
}

/// What comes after an attempt that failed.
pub(super) enum Next {
    /// Another one, after that time.
    Again(Duration),
    /// It is what the call came to.
    Over,
}

impl Retries {
    pub(super) fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            budgets: std::array::from_fn(|_| RetryBudget::new()),
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
    fn budget(&self, method: u64) -> &RetryBudget {
        let at = usize::try_from(method % BUDGETS as u64).unwrap_or_default();
        &self.budgets[at]
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
        let configured = config.as_deref().and_then(Option::as_deref).and_then(|config| {
            let (method, all) = config.of_method(spec.map_or("", MethodSpec::name));
            method.retry.or(all.retry)
        });
        configured.unwrap_or_else(|| self.retries().policy())
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
    pub(super) fn after(&self, request: &RawRequest, policy: &RetryPolicy, failed: &Status) -> Next {
        if request.outbound_spent {
            return Next::Over;
        }
        let was_not_taken_up = failed.handler_ran() == HandlerRan::No && failed.policy().is_none();
        if was_not_taken_up && failed.is_retryable() {
            // Nobody had any work with it.
            return match request.history.attempts < ATTEMPTS_MAX {
                true => Next::Again(Duration::ZERO),
                false => Next::Over,
            };
        }
        if request.history.is_on_behalf_of_a_retry {
            return Next::Over;
        }
        let wait = policy.wait(
            failed,
            request.history.attempts,
            request.is_idempotent(),
            fastrand::f64(),
        );
        let is_in_time = |wait: &Duration| request.deadline.is_none_or(|deadline| time::now() + *wait < deadline);
        match wait.filter(is_in_time) {
            Some(wait) if self.retries().pay(request.method) => Next::Again(wait),
            Some(_) | None => Next::Over,
        }
    }
}

impl RawRequest {
    /// Tells the server that this is a retry, so that it does not retry on its part.
    pub(super) fn mark_attempt(&mut self) {
        // Key and value keep the rules.
        let _valid = self.metadata.insert(ATTEMPT_KEY, (self.history.attempts + 1).to_string());
    }

    /// Until when this attempt may take, if that is before the whole call's time is up.
    pub(super) fn attempt_limit(&self, policy: &RetryPolicy) -> Option<Instant> {
        let limit = time::now().checked_add(policy.time_of_attempt()?)?;
        self.deadline.is_none_or(|deadline| limit < deadline).then_some(limit)
    }
}

/// The end of an attempt that took too long; the next one may be quicker.
pub(super) fn attempt_timed_out(limit: Duration, ran: HandlerRan) -> Status {
    Status::deadline_exceeded(format!("an attempt was not answered within {limit:?}"))
        .with_handler_ran(ran)
        .with_retryable(true)
}

/// Whether a failure is the call's own fault, or nobody's: the service is none the worse for it.
pub(super) fn is_answer(status: &Status) -> bool {
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
