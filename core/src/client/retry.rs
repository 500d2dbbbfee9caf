//! Retries of a channel's calls: by which policy, paid for by what, and how many there were.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::accounts::{Account, Accounts, Failure, Guards};
use super::channel::Channel;
use super::ejection::MayAsk;
use super::raw::{Cause, History, RawRequest};
use super::snapshot::MethodSnapshot;
use crate::code::Code;
use crate::config::ServiceConfig;
use crate::context::ATTEMPT_KEY;
use crate::method::MethodSpec;
use crate::policy::breaker::Pass;
use crate::policy::hedging::HedgingPolicy;
use crate::policy::retry::RetryPolicy;
use crate::priority::Priority;
use crate::status::{HandlerRan, Status};
use crate::time;

/// Attempts of a call that the server provably did not take up, the first included: enough to get past a server that leaves and one connection that
/// broke, few enough never to storm.
const ATTEMPTS_MAX: u32 = 3;
/// What all calls of a target share.
pub(super) struct Retries {
    policy: RetryPolicy,
    hedging: HedgingPolicy,
    guards: Guards,
    accounts: Accounts,
    made: AtomicU64,
    withheld: AtomicU64,
    hedges: AtomicU64,
    hedges_withheld: AtomicU64,
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
    pub(super) fn new(policy: RetryPolicy, hedging: HedgingPolicy, guards: Guards) -> Self {
        Self {
            policy,
            hedging,
            guards,
            accounts: Accounts::new(),
            made: AtomicU64::new(0),
            withheld: AtomicU64::new(0),
            hedges: AtomicU64::new(0),
            hedges_withheld: AtomicU64::new(0),
        }
    }

    /// The policy of methods of which no configuration says anything.
    pub(super) fn policy(&self) -> RetryPolicy {
        self.policy
    }

    /// The same for calls that take long.
    pub(super) fn hedging(&self) -> HedgingPolicy {
        self.hedging
    }

    /// A call that took long was made a second time, or should have been.
    pub(super) fn count_hedge(&self, is_made: bool, is_wanted: bool) {
        let counter = if is_made { &self.hedges } else { &self.hedges_withheld };
        counter.fetch_add(u64::from(is_wanted), Ordering::Relaxed);
    }

    /// Calls that were made a second time because they took long, and those that were not because nothing paid for it, or there was nobody else.
    pub(super) fn hedge_counts(&self) -> (u64, u64) {
        (
            self.hedges.load(Ordering::Relaxed),
            self.hedges_withheld.load(Ordering::Relaxed),
        )
    }

    /// What is known of a method.
    #[inline]
    pub(super) fn account(&self, method: u64) -> &Account {
        self.accounts.of(method)
    }

    /// When nothing had been called yet.
    pub(super) fn since(&self) -> Instant {
        self.accounts.since()
    }

    /// A retry that was paid for was not made.
    pub(super) fn pay_back(&self, method: u64) {
        self.account(method).pay_back();
        self.made.fetch_sub(1, Ordering::Relaxed);
        self.withheld.fetch_add(1, Ordering::Relaxed);
    }

    /// Retries by policy that were made, and those that were not because nothing paid for them.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.made.load(Ordering::Relaxed), self.withheld.load(Ordering::Relaxed))
    }

    /// Methods of which there is something to tell.
    pub(super) fn methods(&self) -> Vec<MethodSnapshot> {
        self.accounts.snapshot()
    }

    fn pay(&self, method: u64) -> bool {
        let is_paid = self.account(method).pay();
        let counter = if is_paid { &self.made } else { &self.withheld };
        counter.fetch_add(1, Ordering::Relaxed);
        is_paid
    }
}

/// An attempt that the policies let through; if nobody says how it ended, that tells nothing.
pub(super) struct Let<'a> {
    account: &'a Account,
    guards: Guards,
    pass: Pass,
    priority: Priority,
    since: Instant,
    /// When its call is over in any case.
    deadline: Option<Instant>,
    is_over: bool,
}

impl Let<'_> {
    pub(super) fn end_well(mut self) {
        self.is_over = true;
        self.account.end_well(self.pass, &self.guards, self.priority);
    }

    /// `is_answer`: by no fault of the service.
    pub(super) fn end_failed(mut self, request: &RawRequest, status: &Status, is_answer: bool) {
        self.is_over = true;
        let failure = Failure {
            path: request.path().unwrap_or_default(),
            priority: self.priority,
            status,
            is_answer,
        };
        self.account.end_failed(self.pass, &self.guards, &failure, self.since);
    }
}

impl Drop for Let<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        // Whoever looked at the clock first.
        if self.deadline.is_some_and(|deadline| deadline <= time::now()) {
            self.account.end_late(self.pass, &self.guards, self.since);
        } else {
            self.account.end_aside(self.pass, &self.guards);
        }
    }
}

impl Channel {
    /// How calls of a method are tried again.
    pub(super) fn retry_policy(&self, spec: Option<&MethodSpec>) -> RetryPolicy {
        let config = self.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), spec);
        configured.retry.or(for_all.retry).unwrap_or_else(|| self.retries().policy())
    }

    /// Whether calls of a method are tried again at all, as far as is known without looking far.
    #[inline]
    pub(super) fn is_retried(&self, spec: &MethodSpec) -> bool {
        match self.config().as_deref() {
            Some(Some(_)) => self.retry_policy(Some(spec)).max_attempts() > 1,
            Some(None) | None => self.retries().policy.max_attempts() > 1,
        }
    }

    /// What may keep calls of a method from being made.
    pub(super) fn guards(&self, spec: Option<&MethodSpec>) -> Guards {
        let config = self.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), spec);
        let default = self.retries().guards;
        Guards {
            throttle: configured.throttle.or(for_all.throttle).unwrap_or(default.throttle),
            breaker: configured.breaker.or(for_all.breaker).unwrap_or(default.breaker),
        }
    }

    /// Lets an attempt through.
    ///
    /// # Errors
    /// UNAVAILABLE if a policy says no.
    pub(super) fn admit(&self, request: &RawRequest) -> Result<Let<'_>, Status> {
        let account = self.retries().account(request.method);
        let guards = self.guards(request.spec);
        let priority = Priority::of(&request.metadata);
        let pass = account.admit(&guards, request.path().unwrap_or_default(), priority)?;
        Ok(Let {
            account,
            guards,
            pass,
            priority,
            since: self.retries().since(),
            deadline: request.deadline,
            is_over: false,
        })
    }

    /// Whether attempts of that method are watched by a clock of their own: to be given up, or made a second time.
    #[inline]
    pub(super) fn times_attempts(&self, spec: &MethodSpec) -> bool {
        match self.config().as_deref() {
            Some(Some(_)) => {
                self.retry_policy(Some(spec)).time_of_attempt().is_some() || self.hedging(Some(spec)).is_some()
            }
            Some(None) | None => self.retries().policy.time_of_attempt().is_some() || self.retries().hedging.is_on(),
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
    /// Whether it may ask an endpoint that is ejected: gladly if it can be made again elsewhere, and not for a call that has failed once already.
    pub(super) fn may_ask(&self, policy: &RetryPolicy) -> MayAsk {
        if !self.history.tried.is_empty() {
            return MayAsk::Never;
        }
        let is_retried = policy.max_attempts() > 1 && !self.history.is_on_behalf_of_a_retry;
        MayAsk::of(self.is_unary(), self.is_idempotent() && is_retried)
    }

    /// Tells the server that this is a retry, so that nobody retries on its behalf.
    pub(super) fn mark_attempt(&mut self) {
        if self.history.was_retried {
            // Key and value keep the rules.
            let _valid = self.metadata.insert(ATTEMPT_KEY, self.history.attempts.to_string());
        }
    }

    /// Until when an attempt that begins now may take, if that is before the whole call's time is up. One that no other can follow has as long as its call.
    pub(super) fn attempt_limit(&self, policy: &RetryPolicy) -> Option<(Instant, Duration)> {
        let may_follow = self.is_idempotent() && self.outbound.is_none() && !self.history.is_on_behalf_of_a_retry;
        let time = policy.time_of_attempt().filter(|_| may_follow)?;
        let limit = time::now().checked_add(time)?;
        self.deadline.is_none_or(|deadline| limit < deadline).then_some((limit, time))
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
    use super::Retries;
    use crate::client::accounts::{ACCOUNTS, Guards};
    use crate::policy::hedging::HedgingPolicy;
    use crate::policy::retry::RetryPolicy;
    use crate::priority::Priority;

    #[test]
    fn methods_have_budgets_of_their_own_as_long_as_there_are_any() {
        let retries = Retries::new(RetryPolicy::DEFAULT, HedgingPolicy::NEVER, Guards::DEFAULT);
        let spent = |method| retries.pay(method);
        // One retry is paid for from the start, of each.
        for method in [1, 1 + ACCOUNTS as u64, 1 + 2 * ACCOUNTS as u64, 2] {
            assert!(spent(method) && !spent(method), "{method}");
        }
        retries.account(1).note_answer(Priority::Normal);
        assert_eq!(retries.counts(), (4, 4));
        // What comes above that shares.
        for method in 3..10_000 {
            spent(method);
        }
        let (made, withheld) = retries.counts();
        assert_eq!((made, made + withheld), (ACCOUNTS as u64 + 1, 8 + 9_997));
    }
}
