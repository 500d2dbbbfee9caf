//! Retries of a channel's calls: which failure is followed by another attempt, and when.

use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::channel::Channel;
use super::ejection::MayAsk;
use super::raw::{Cause, History, RawRequest};
use crate::config::ServiceConfig;
use crate::context::ATTEMPT_KEY;
use crate::method::MethodSpec;
use crate::policy::retry::RetryPolicy;
use crate::status::{HandlerRan, Status};
use crate::time;

/// Attempts of a call that the server provably did not take up, the first included: enough to get past a server that leaves and one connection that
/// broke, few enough never to storm.
const ATTEMPTS_MAX: u32 = 3;

/// What comes after an attempt that failed.
pub(super) enum Next {
    /// Another one at once: nobody had any work with the last.
    AtOnce,
    /// A retry, after that time.
    After(Duration),
    /// It is what the call came to.
    Over,
}

impl Channel {
    /// How calls of a method are tried again.
    pub(super) fn retry_policy(&self, method: &str) -> RetryPolicy {
        let config = self.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), method);
        configured.retry.or(for_all.retry).unwrap_or_else(|| self.governance().policies().retry)
    }

    /// Whether calls of a method are tried again at all.
    pub(super) fn is_retried(&self, spec: &MethodSpec) -> bool {
        self.retry_policy(spec.name()).max_attempts() > 1
    }

    /// Whether attempts of that method are watched by a clock of their own: to be given up, or made a second time.
    #[inline]
    pub(super) fn times_attempts(&self, spec: &MethodSpec) -> bool {
        match self.config().as_deref() {
            Some(Some(_)) => {
                self.retry_policy(spec.name()).time_of_attempt().is_some() || self.hedging(spec.name()).is_some()
            }
            Some(None) | None => {
                self.governance().policies().retry.time_of_attempt().is_some()
                    || self.governance().policies().hedging.is_on()
            }
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
            Some(wait) if self.governance().pay(request.method) => Next::After(wait),
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

    /// How long an attempt may take from when it is sent on. One that no other can follow has as long as its call.
    pub(super) fn time_of_attempt(&self, policy: &RetryPolicy) -> Option<Duration> {
        let may_follow = self.is_idempotent() && self.outbound.is_none() && !self.history.is_on_behalf_of_a_retry;
        policy.time_of_attempt().filter(|_| may_follow)
    }

    /// Until when an attempt that is sent `now` may take, if that is before the whole call's time is up.
    pub(super) fn attempt_limit(&self, time: Option<Duration>, now: Instant) -> Option<(Instant, Duration)> {
        let time = time?;
        let limit = now.checked_add(time)?;
        self.deadline.is_none_or(|deadline| limit < deadline).then_some((limit, time))
    }
}

/// The end of an attempt that took too long; the next one may be quicker.
pub(super) fn attempt_timed_out(limit: Duration, ran: HandlerRan) -> Status {
    Status::deadline_exceeded(format!("an attempt was not answered within {limit:?}")).with_handler_ran(ran)
}
