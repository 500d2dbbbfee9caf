//! Whether a failed attempt is followed by another, when, and how many of them all calls together may make.
//!
//! Most calls of a service that is down fail whatever is done; retrying them all makes its load many times what it was when it is weakest. So retries are paid
//! for by calls that succeed: each puts a small part of a token into a bucket, and each retry takes a whole one out. Some failures of many calls are made up for, and
//! when all fail hardly any is tried again. Who asks on behalf of a call that is itself a retry does not retry at all.
//!
//! Source: gRFC A6 (policy, pushback), Finagle's retry budget, the SRE book's chapter 21 for retries in one layer only.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::backoff::Backoff;
use crate::code::Code;
use crate::status::{HandlerRan, Status};

/// Attempts of a call at the most, the first included, that a policy can ask for.
pub const ATTEMPTS_MAX: u32 = 5;
/// The least time of an attempt that can be asked for.
const ATTEMPT_TIMEOUT_MIN: Duration = Duration::from_millis(1);
/// A call does not wait for longer than this, though it is asked to: whoever made it can do better than that.
const HINT_MAX: Duration = Duration::from_secs(10);
/// How much later than asked a client comes back at the most, as a part of that: those that were turned away together must not come back together.
const LATER: f64 = 0.2;

/// A token, in thousandths.
const TOKEN: u32 = 1_000;
/// What a call that succeeds pays in: about one retry for eight of them, enough for one of ten endpoints that fails everything.
const DEPOSIT: u32 = 130;
/// What a bucket holds: retries that all calls of a method may make in a row when everything begins to fail.
const CAP: u32 = 20 * TOKEN;
/// What it holds at the beginning: a client with few calls may retry, and ten thousand of them at once do no harm.
const INITIAL: u32 = TOKEN;

/// How calls of a method are tried again when they fail: as [`DEFAULT`](Self::DEFAULT) if nothing else is said.
///
/// Only calls that may run twice are: those of methods with `#[rpc(idempotent)]`, and others that provably did not run. Each retry goes to an endpoint that was not
/// tried yet if there is one, and is paid for by calls that succeeded: 13 of 100 can be retried in the long run, 20 at once at most, so that a service that is
/// down does not get more calls than one that is up. A server may say when to come back (`retry-after-ms`), which is kept; a call whose deadline comes first
/// ends at once, and so does one that would wait for more than 10 s.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::{code::Code, policy::retry::RetryPolicy}; }
/// use std::time::Duration;
///
/// use sinew::{Code, RetryPolicy};
///
/// let patient = RetryPolicy::DEFAULT.attempts(4).attempt_timeout(Duration::from_millis(200));
/// let for_races = RetryPolicy::DEFAULT.codes([Code::Unavailable, Code::Aborted]);
/// assert!(patient != for_races && RetryPolicy::NEVER.max_attempts() == 1);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryPolicy {
    attempts: u32,
    backoff: Backoff,
    codes: u32,
    attempt_timeout: Option<Duration>,
}

impl RetryPolicy {
    /// Up to three attempts, 10 ms apart at first and up to 1 s later, for UNAVAILABLE, and for RESOURCE_EXHAUSTED if its server says when to come back.
    pub const DEFAULT: Self = Self {
        attempts: 3,
        backoff: Backoff::of(Duration::from_millis(10), 2.0, Duration::from_secs(1)),
        codes: bit(Code::Unavailable) | bit(Code::ResourceExhausted),
        attempt_timeout: None,
    };
    /// What fails stays failed, unless the server provably did not take it up.
    pub const NEVER: Self = Self {
        attempts: 1,
        ..Self::DEFAULT
    };

    /// Sets how often a call is made at the most, the first attempt included (1 to 5; what is beyond counts as that).
    #[must_use]
    pub const fn attempts(mut self, attempts: u32) -> Self {
        self.attempts = match attempts {
            0 => 1,
            ATTEMPTS_MAX.. => ATTEMPTS_MAX,
            within => within,
        };
        self
    }

    /// Sets how long to wait before each retry.
    #[must_use]
    pub const fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// Sets the failures that are worth a retry. One that says itself whether it is ([`Status::retryable_override`]) is believed.
    #[must_use]
    pub fn codes(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.codes = codes.into_iter().fold(0, |codes, code| codes | bit(code));
        self
    }

    /// Sets how long one attempt may take, from when it is sent on (default: as long as the call), at least 1 ms: then it is given up, and followed by another if there
    /// may be one. For calls that may run twice only, and not for those that send a stream.
    #[must_use]
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.attempt_timeout = Some(timeout.max(ATTEMPT_TIMEOUT_MIN));
        self
    }

    /// How often a call is made at the most.
    #[must_use]
    pub const fn max_attempts(&self) -> u32 {
        self.attempts
    }

    /// How long is waited between attempts.
    #[must_use]
    pub const fn waits(&self) -> Backoff {
        self.backoff
    }

    /// How long one attempt may take.
    #[must_use]
    pub const fn time_of_attempt(&self) -> Option<Duration> {
        self.attempt_timeout
    }

    /// Whether a call that failed so is one that is tried again, as far as the status tells: cheap, for those that hardly ever are.
    #[must_use]
    pub fn covers(&self, failed: &Status) -> bool {
        if self.attempts <= 1 {
            return false;
        }
        let is_listed = self.codes & bit(failed.code()) != 0;
        // Without a hint that is a quota, or a message that is too large, and stays so.
        let is_hopeless = failed.code() == Code::ResourceExhausted && failed.retry_after().is_none();
        failed.retryable_override().unwrap_or(is_listed && !is_hopeless)
    }

    /// How long to wait before the next attempt of a call that failed, after so many; `None` if there is none. `random` is uniform in 0..1.
    #[must_use]
    pub fn wait(&self, failed: &Status, attempts: u32, is_idempotent: bool, random: f64) -> Option<Duration> {
        let own = self.wait_after_timeout(failed, attempts, is_idempotent, random)?;
        if !self.covers(failed) {
            return None;
        }
        let asked = failed.retry_after().unwrap_or_default();
        (asked <= HINT_MAX).then(|| own.max(asked.mul_f64(1.0 + LATER * random)))
    }

    /// The same after an attempt that took too long, whatever its status is.
    #[must_use]
    pub fn wait_after_timeout(
        &self,
        failed: &Status,
        attempts: u32,
        is_idempotent: bool,
        random: f64,
    ) -> Option<Duration> {
        let may_repeat = is_idempotent || failed.handler_ran() == HandlerRan::No;
        let may_follow = may_repeat && attempts < self.attempts;
        may_follow.then(|| self.backoff.delay(attempts.saturating_sub(1), random))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::DEFAULT
    }
}

const fn bit(code: Code) -> u32 {
    1 << code.as_u8()
}

/// What calls that succeeded have paid in for retries.
#[derive(Debug)]
pub struct RetryBudget(AtomicU32);

impl RetryBudget {
    /// One retry is paid for.
    #[must_use]
    pub const fn new() -> Self {
        Self(AtomicU32::new(INITIAL))
    }

    /// A call succeeded. One that comes at the same time as others may pay in vain.
    #[inline]
    pub fn deposit(&self) {
        let held = self.0.load(Ordering::Relaxed);
        if held < CAP {
            let more = (held + DEPOSIT).min(CAP);
            let _lost = self.0.compare_exchange(held, more, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// Pays for a retry; `false` if there is not enough.
    pub fn withdraw(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| held.checked_sub(TOKEN)).is_ok()
    }

    /// A retry that was paid for was not made.
    pub fn give_back(&self) {
        let more = |held: u32| Some((held + TOKEN).min(CAP));
        let _always = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
    }

    /// Retries that are paid for.
    #[must_use]
    pub fn tokens(&self) -> f64 {
        f64::from(self.0.load(Ordering::Relaxed)) / f64::from(TOKEN)
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ATTEMPTS_MAX, RetryBudget, RetryPolicy};
    use crate::code::Code;
    use crate::status::{HandlerRan, Status};

    const POLICY: RetryPolicy = RetryPolicy::DEFAULT;

    #[test]
    fn only_what_may_run_twice_is_tried_again() {
        let ran = Status::unavailable("x");
        assert!(POLICY.wait(&ran, 1, true, 0.5).is_some());
        assert_eq!(POLICY.wait(&ran, 1, false, 0.5), None);
        let not_run = ran.clone().with_handler_ran(HandlerRan::No);
        assert!(POLICY.wait(&not_run, 1, false, 0.5).is_some());
        for code in [Code::Internal, Code::NotFound, Code::DeadlineExceeded, Code::Aborted] {
            assert_eq!(POLICY.wait(&Status::new(code, "x"), 1, true, 0.5), None, "{code}");
        }
        let says_so = Status::internal("x").with_retryable(true);
        assert!(POLICY.wait(&says_so, 1, true, 0.5).is_some());
        assert_eq!(POLICY.wait(&ran.with_retryable(false), 1, true, 0.5), None);
        assert_eq!(RetryPolicy::NEVER.wait(&says_so, 1, true, 0.5), None);
    }

    #[test]
    fn waits_grow_and_a_server_may_ask_for_more() {
        let ran = Status::unavailable("x");
        let ms = Duration::from_millis;
        let waits: Vec<_> = (1..=4).map(|attempts| POLICY.attempts(9).wait(&ran, attempts, true, 1.0)).collect();
        assert_eq!(waits, [Some(ms(10)), Some(ms(20)), Some(ms(40)), Some(ms(80))]);
        assert_eq!(POLICY.attempts(9).wait(&ran, ATTEMPTS_MAX, true, 1.0), None);
        assert_eq!(POLICY.wait(&ran, 3, true, 1.0), None);

        let busy = Status::resource_exhausted("x");
        assert_eq!(POLICY.wait(&busy, 1, true, 0.0), None, "nobody said that it will pass");
        let busy = busy.with_retry_after(ms(100));
        assert_eq!(POLICY.wait(&busy, 1, true, 0.0), Some(ms(100)));
        assert_eq!(POLICY.wait(&busy, 1, true, 1.0), Some(ms(120)));
        for (asked, waits) in [(10_000, true), (10_001, false)] {
            let busy = busy.clone().with_retry_after(ms(asked));
            assert_eq!(POLICY.wait(&busy, 1, true, 0.0).is_some(), waits, "{asked}");
        }
    }

    #[test]
    fn attempts_are_kept_within_their_range() {
        for (asked, got) in [(0, 1), (1, 1), (5, 5), (6, 5), (u32::MAX, 5)] {
            assert_eq!(POLICY.attempts(asked).max_attempts(), got);
        }
    }

    #[test]
    fn a_bucket_is_never_empty_by_more_than_nothing_and_never_fuller_than_full() {
        let budget = RetryBudget::new();
        assert!(budget.withdraw() && !budget.withdraw());
        assert_eq!(budget.tokens(), 0.0);
        for _ in 0..7 {
            budget.deposit();
        }
        assert!(!budget.withdraw(), "0.91 of a token");
        budget.deposit();
        assert!(budget.withdraw());
        for _ in 0..1_000 {
            budget.deposit();
        }
        assert_eq!(budget.tokens(), 20.0);
        assert_eq!((0..30).filter(|_| budget.withdraw()).count(), 20);
    }
}
