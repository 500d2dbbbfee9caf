//! Whether a method's handler is polled by its connection at once or in a task of its own.
//!
//! Polling at once saves a task and a wakeup; a handler that computes for long or waits anyway is better off in a task, where another
//! worker can take it. Each method has a score: slow or waiting polls raise it, quick ones lower it, and between the two thresholds
//! nothing changes, so that a method does not flap.

use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

/// An unoptimised build takes about ten times as long for everything, spawning included.
const SCALE: u64 = if cfg!(debug_assertions) { 10 } else { 1 };
/// A first poll that takes longer is better off in a task: about ten times what spawning one costs.
pub const POLL_SLOW: Duration = Duration::from_micros(10 * SCALE);
/// Time of one turn of a connection that handlers may use before finished replies leave and other tasks get their turn.
pub const TURN_BUDGET: Duration = Duration::from_micros(100 * SCALE);

const SCORE_MAX: u8 = 16;
const SPAWN_FROM: u8 = 8;
const SLOW_WEIGHT: u8 = 4;
const WAITED_WEIGHT: u8 = 2;

/// The score of one method.
#[derive(Debug, Default)]
pub struct InlineGate {
    score: AtomicU8,
}

impl InlineGate {
    /// Whether the next call is polled at once.
    #[must_use]
    pub fn is_inline(&self) -> bool {
        self.score.load(Ordering::Relaxed) < SPAWN_FROM
    }

    /// Notes how long a first poll took and whether it finished the call.
    ///
    /// Concurrent notes may lose one another; the next ones make up for it.
    pub fn note(&self, took: Duration, finished: bool) {
        let score = self.score.load(Ordering::Relaxed);
        let new = if took > POLL_SLOW {
            (score + SLOW_WEIGHT).min(SCORE_MAX)
        } else if finished {
            score.saturating_sub(1)
        } else {
            (score + WAITED_WEIGHT).min(SCORE_MAX)
        };
        if new != score {
            self.score.store(new, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{InlineGate, POLL_SLOW, SCORE_MAX};

    const QUICK: Duration = Duration::from_nanos(300);

    #[test]
    fn slow_polls_move_a_method_into_tasks_and_quick_ones_back() {
        let gate = InlineGate::default();
        assert!(gate.is_inline());
        gate.note(POLL_SLOW * 2, true);
        assert!(gate.is_inline(), "once is an accident");
        gate.note(POLL_SLOW * 2, true);
        assert!(!gate.is_inline());
        for _ in 0..SCORE_MAX {
            gate.note(QUICK, true);
        }
        assert!(gate.is_inline());
    }

    #[test]
    fn a_method_that_always_waits_gets_a_task_at_once() {
        let gate = InlineGate::default();
        for _ in 0..4 {
            gate.note(QUICK, false);
        }
        assert!(!gate.is_inline());
    }

    #[test]
    fn an_occasional_wait_changes_nothing() {
        let gate = InlineGate::default();
        for round in 0..100 {
            gate.note(QUICK, round % 4 != 0);
            assert!(gate.is_inline());
        }
    }
}
