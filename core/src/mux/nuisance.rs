//! Budgets for frames that cost work and come to nothing: the guard against floods.
//!
//! One is for frames that carry nothing: every tiny credit, every data frame that neither completes a message nor carries much, every frame for
//! a stream that the peer knows to be over, every PONG, repeated GOAWAY and unknown extension costs one; a completed message earns one.
//! The other is for calls that come to nothing: every reset, every call that breaks a rule and every call above the limit costs one; an answered
//! call earns one. Time refills both, so honest peers never run out: a client that cancels half of its calls stays even. They are apart,
//! because otherwise cheap messages would pay for calls whose handlers were started in vain.
//!
//! Covers the HTTP/2 families CVE-2019-9511, -9512, -9515, -9517, -9518, CVE-2023-44487 (rapid reset) and CVE-2025-8671.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Frames of this kind that may come in a burst: two for each of 1,024 calls that a client gives up at once.
pub(super) const NUISANCE_FRAMES_MAX: u32 = 2_048;
/// How many are forgiven per second.
const REFILL_PER_SECOND: u32 = 256;

/// Frames without stream bytes that may be under way for a stream when this side ends it: REPLY, END, RESET, CREDIT.
const LATE_FRAMES: u32 = 4;

#[derive(Debug)]
pub(super) struct Nuisance {
    /// For frames that carry nothing.
    frames: Budget,
    /// For calls that come to nothing: the dearer kind, because a handler may have begun.
    calls: Budget,
    /// Frames that may still come for streams that this side ended; nobody can be blamed for them.
    late_frames: u32,
    /// Stream bytes, likewise: never more than the credit that was out.
    late_bytes: usize,
}

impl Nuisance {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            frames: Budget::new(now),
            calls: Budget::new(now),
            late_frames: 0,
            late_bytes: 0,
        }
    }

    /// Counts a frame that carries nothing; false if the peer has had its share.
    #[must_use]
    pub(super) fn spend(&mut self, now: Instant) -> bool {
        self.frames.spend(now)
    }

    /// A message was completed.
    pub(super) fn earn(&mut self) {
        self.frames.earn();
    }

    /// Counts a call that came to nothing by the client's doing; false if it has had its share.
    #[must_use]
    pub(super) fn spend_call(&mut self, now: Instant) -> bool {
        self.calls.spend(now)
    }

    /// A call was answered.
    pub(super) fn earn_call(&mut self) {
        self.calls.earn();
    }

    /// This side ended a stream on which the peer may have sent as much as `credit` that has not arrived; all such bytes together are at
    /// most `bytes_max`.
    pub(super) fn expect_late(&mut self, credit: usize, bytes_max: usize) {
        self.late_frames = (self.late_frames + LATE_FRAMES).min(LATE_FRAMES * NUISANCE_FRAMES_MAX);
        self.late_bytes = (self.late_bytes + credit).min(bytes_max);
    }

    /// Counts a frame with `bytes` for a stream that is over, unless it may have crossed the stream's end; false if the peer has had its share.
    #[must_use]
    pub(super) fn spend_late(&mut self, now: Instant, bytes: usize) -> bool {
        if bytes > 0
            && let Some(left) = self.late_bytes.checked_sub(bytes)
        {
            self.late_bytes = left;
            return true;
        }
        if let Some(left) = self.late_frames.checked_sub(1) {
            self.late_frames = left;
            return true;
        }
        self.spend(now)
    }
}

/// The budget for calls that come to nothing where a connection has several streams.
#[derive(Debug, Default)]
pub(super) struct SharedBudget {
    /// None before the first such call.
    budget: Mutex<Option<Budget>>,
    /// Nothing can be earned.
    used: AtomicBool,
}

impl SharedBudget {
    /// Counts a call that came to nothing by the client's doing; false if it has had its share.
    #[must_use]
    pub(super) fn spend(&self, now: Instant) -> bool {
        let mut budget = self.budget.lock().unwrap_or_else(PoisonError::into_inner);
        self.used.store(true, Ordering::Release);
        budget.get_or_insert_with(|| Budget::new(now)).spend(now)
    }

    /// A call was answered.
    pub(super) fn earn(&self) {
        if self.used.load(Ordering::Acquire)
            && let Some(budget) = &mut *self.budget.lock().unwrap_or_else(PoisonError::into_inner)
        {
            budget.earn();
            self.used.store(budget.left < NUISANCE_FRAMES_MAX, Ordering::Release);
        }
    }
}

/// What is earned back one by one, and by time.
#[derive(Debug)]
struct Budget {
    left: u32,
    refilled: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: NUISANCE_FRAMES_MAX,
            refilled: now,
        }
    }

    /// Counts one such frame; false if the peer has had its share.
    #[must_use]
    fn spend(&mut self, now: Instant) -> bool {
        if self.left == 0 {
            self.refill(now);
        }
        let Some(left) = self.left.checked_sub(1) else {
            return false;
        };
        self.left = left;
        true
    }

    /// The peer did something useful.
    fn earn(&mut self) {
        self.left = (self.left + 1).min(NUISANCE_FRAMES_MAX);
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.refilled).min(Duration::from_secs(60));
        let earned = passed.as_millis() * u128::from(REFILL_PER_SECOND) / 1_000;
        if earned > 0 {
            self.left = u32::try_from(earned).unwrap_or(NUISANCE_FRAMES_MAX).min(NUISANCE_FRAMES_MAX);
            self.refilled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{NUISANCE_FRAMES_MAX, Nuisance, REFILL_PER_SECOND, SharedBudget};

    #[test]
    fn what_crossed_the_end_of_a_stream_is_free_and_no_more() {
        let now = crate::time::now();
        let mut budget = Nuisance::new(now);
        for _ in 0..NUISANCE_FRAMES_MAX {
            assert!(budget.spend(now));
        }
        budget.expect_late(100, 150);
        budget.expect_late(100, 150);
        assert!(budget.spend_late(now, 60) && budget.spend_late(now, 90));
        for _ in 0..2 * super::LATE_FRAMES {
            assert!(budget.spend_late(now, 1));
        }
        assert!(!budget.spend_late(now, 1) && !budget.spend_late(now, 0));
    }

    #[test]
    fn several_streams_share_a_budget() {
        let now = crate::time::now();
        let budget = SharedBudget::default();
        budget.earn();
        for _ in 0..NUISANCE_FRAMES_MAX {
            assert!(budget.spend(now));
        }
        assert!(!budget.spend(now));
        budget.earn();
        assert!(budget.spend(now) && !budget.spend(now));
        for _ in 0..2 * NUISANCE_FRAMES_MAX {
            budget.earn();
        }
        for _ in 0..NUISANCE_FRAMES_MAX {
            assert!(budget.spend(now));
        }
        assert!(!budget.spend(now), "no more is saved up than at the beginning");
    }

    #[test]
    fn a_burst_passes_and_one_more_does_not() {
        let now = crate::time::now();
        let mut budget = Nuisance::new(now);
        for _ in 0..NUISANCE_FRAMES_MAX {
            assert!(budget.spend(now));
        }
        assert!(!budget.spend(now));
        budget.earn();
        assert!(budget.spend(now) && !budget.spend(now));
        let later = now + Duration::from_secs(1);
        for _ in 0..REFILL_PER_SECOND {
            assert!(budget.spend(later));
        }
        assert!(!budget.spend(later));
    }
}
