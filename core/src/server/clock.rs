//! How long handlers take inside their connection's task, told with few readings of the clock.

use std::time::{Duration, Instant};

use crate::policy::inline::{POLL_SLOW, TURN_BUDGET};
use crate::time;

/// Measures handlers without reading the clock for each: of a run of quick ones only the run is timed.
pub(super) struct TurnClock {
    turn_began: Instant,
    last_read: Instant,
    /// Handlers since the clock was read.
    unread: u32,
    /// Handlers that are timed one by one, because a run of them was slow.
    precise: u32,
    over_budget: bool,
}

/// Handlers between two readings of the clock.
const CLOCK_EVERY: u32 = 8;
/// Handlers that are timed one by one after a slow run.
const PRECISE_RUN: u32 = 64;

impl TurnClock {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            turn_began: now,
            last_read: now,
            unread: 0,
            precise: PRECISE_RUN,
            over_budget: false,
        }
    }

    pub(super) fn begin_turn(&mut self, now: Instant) {
        self.turn_began = now;
        self.last_read = now;
        self.unread = 0;
    }

    /// When the turn began, or its handlers were found to take long.
    pub(super) fn turn_began(&self) -> Instant {
        self.turn_began
    }

    /// A handler is about to be polled: what was done before is no part of its time.
    pub(super) fn handler_begins(&mut self) {
        if self.precise > 0 && self.unread == 0 {
            self.last_read = time::now();
        }
    }

    /// A handler was polled; returns how long it took, if that was measured.
    pub(super) fn handler_done(&mut self) -> Option<Duration> {
        self.unread += 1;
        if self.precise == 0 && self.unread < CLOCK_EVERY {
            return None;
        }
        let now = time::now();
        let took = now.saturating_duration_since(self.last_read) / self.unread;
        self.last_read = now;
        let alone = std::mem::take(&mut self.unread) == 1;
        self.precise = self.precise.saturating_sub(1);
        if took > POLL_SLOW / 4 {
            self.precise = PRECISE_RUN;
        }
        if now.saturating_duration_since(self.turn_began) > TURN_BUDGET {
            self.over_budget = true;
            self.turn_began = now;
        }
        alone.then_some(took)
    }

    /// Whether the turn has used up its time; asked once, because the next turn begins with a share of its own.
    pub(super) fn take_over_budget(&mut self) -> bool {
        std::mem::take(&mut self.over_budget)
    }
}
