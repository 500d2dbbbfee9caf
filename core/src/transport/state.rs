//! What lies under a connection's lock.

use std::io;
use std::task::Waker;
use std::time::Instant;

use super::io::StreamReset;
use crate::mux::{Events, Mux, Transmit};

pub(super) struct State {
    pub(super) mux: Mux,
    pub(super) transmit: Transmit,
    /// Somebody writes outside the lock.
    pub(super) writing: bool,
    /// The driver was woken to write.
    pub(super) flush_queued: bool,
    /// A caller has begun to write and left the rest to the driver, which need not wait for company.
    pub(super) flush_begun: bool,
    pub(super) driver: Option<Waker>,
    /// When the driver's timer fires.
    pub(super) timer_at: Option<Instant>,
    /// A write failed; the driver ends the connection.
    pub(super) broken: Option<io::Error>,
}

impl State {
    pub(super) fn new(mux: Mux) -> Self {
        Self {
            mux,
            transmit: Transmit::default(),
            writing: false,
            flush_queued: false,
            flush_begun: false,
            driver: None,
            timer_at: None,
            broken: None,
        }
    }

    /// The byte stream broke while this side was `doing` something.
    pub(super) fn handle_broken(&mut self, doing: &str, error: &io::Error, events: &mut Events) {
        let reset = error.get_ref().and_then(|error| error.downcast_ref::<StreamReset>());
        match reset {
            Some(StreamReset(code)) => self.mux.handle_reset_stream(*code, &error.to_string(), events),
            None => self.mux.handle_end(&format!("{doing} failed: {error}"), events),
        }
    }

    /// Whether a flush was asked for that gains by waiting until all tasks that are ready have queued their frames.
    pub(super) fn may_put_off(&mut self) -> bool {
        self.flush_queued && !std::mem::take(&mut self.flush_begun)
    }
}
