//! The idle time-out of a stream: how long one of its directions may wait.
//!
//! The time begins when the user asks for an item that is not there, or the sender has nothing to send or may not: a user who is slow to ask is not idle.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::failure::stream_status;
use crate::mux::StreamError;
use crate::status::{HandlerRan, Origin, Status};

/// Measures how long one direction of a call waits.
pub struct Idle {
    timeout: Duration,
    /// Kept from wait to wait.
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
    /// Shared by the directions of the call: sending waited for too long, and the call was given up for it.
    gave_up: Arc<AtomicU8>,
}

/// Who kept sending waiting.
const NOBODY: u8 = 0;
/// The peer did not take more.
const PEER: u8 = 1;
/// There was nothing to send.
const SOURCE: u8 = 2;

impl Idle {
    /// For the first direction of a call.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            timer: None,
            waiting: false,
            gave_up: Arc::default(),
        }
    }

    /// For the other direction of the same call.
    #[must_use]
    pub fn other(&self) -> Self {
        Self {
            timer: None,
            waiting: false,
            gave_up: Arc::clone(&self.gave_up),
            ..*self
        }
    }

    /// The status of a call whose stream failed; see [`stream_status`].
    #[must_use]
    pub fn status_of(&self, error: StreamError) -> Status {
        let gave_up = self.gave_up.load(Ordering::Acquire);
        match error {
            StreamError::Aborted(reason) if gave_up != NOBODY => {
                let status = Status::deadline_exceeded(reason).with_origin(Origin::Local);
                let status = status.with_handler_ran(HandlerRan::Maybe);
                if gave_up == SOURCE {
                    status.callers_own()
                } else {
                    status
                }
            }
            error => stream_status(error),
        }
    }

    /// Something moved: the next wait begins anew.
    pub(super) fn moved(&mut self) {
        self.waiting = false;
    }

    /// Nothing moves; ready when that was so for as long as may be.
    pub(super) fn poll_waiting(&mut self, task: &mut Context<'_>) -> Poll<()> {
        let begins = !std::mem::replace(&mut self.waiting, true);
        let timeout = self.timeout;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout)));
        if begins {
            // A time-out that no clock reaches is none.
            let Some(until) = Instant::now().checked_add(timeout) else {
                return Poll::Pending;
            };
            timer.as_mut().reset(until);
        }
        timer.as_mut().poll(task)
    }

    /// Nothing was received for too long.
    pub(super) fn received_nothing(&self) -> Status {
        Status::deadline_exceeded(format!(
            "no item came for {:?}, the stream's idle time-out",
            self.timeout
        ))
        .with_origin(Origin::Local)
        .with_handler_ran(HandlerRan::Yes)
    }

    /// Nothing was sent for too long: why the call is given up.
    pub(super) fn sent_nothing(&self, by_source: bool) -> String {
        self.gave_up.store(if by_source { SOURCE } else { PEER }, Ordering::Release);
        format!("no item was sent for {:?}, the stream's idle time-out", self.timeout)
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Idle")
            .field("timeout", &self.timeout)
            .field("waiting", &self.waiting)
            .finish_non_exhaustive()
    }
}
