//! Where a caller's answer arrives: one reusable slot per caller, found by the id in its frames.

use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use anyhow::{Result, anyhow};
use bytes::Bytes;

use crate::frame::{Body, END, Head, ITEM};

/// What the reader leaves for a caller, and whom to wake.
#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bytes: Vec<u8>,
    large: Option<Bytes>,
    arrived: bool,
    ended: bool,
    failed: Option<String>,
    waker: Option<Waker>,
}

/// An answer in the caller's hands. Reused, so that the two buffers of a slot go round.
#[derive(Default)]
pub(crate) struct Answer {
    bytes: Vec<u8>,
    large: Option<Bytes>,
    /// Whether the stream is complete, for streams.
    pub(crate) ended: bool,
}

impl Answer {
    /// The body of a reply; the run of item frames of a stream.
    pub(crate) fn body(&self) -> Body<'_> {
        match &self.large {
            Some(bytes) => Body::Large(bytes.clone()),
            None => Body::Small(&self.bytes),
        }
    }

    /// The bytes of a small reply or of a run of items.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Lets go of a large body.
    pub(crate) fn release(&mut self) {
        self.large = None;
    }
}

impl Slot {
    /// Keeps what arrived; returns the task to wake, which the reader does when it has parsed all frames.
    pub(crate) fn deliver(&self, head: Head, body: Body<'_>) -> Option<Waker> {
        let mut state = self.lock();
        match body {
            Body::Small(bytes) | Body::Items(bytes) => state.bytes.extend_from_slice(bytes),
            Body::Large(bytes) => state.large = Some(bytes),
        }
        state.arrived |= head.kind != END;
        state.ended |= head.kind != ITEM;
        state.waker.take()
    }

    /// Ends the call, and all later ones.
    pub(crate) fn fail(&self, cause: &str) {
        let mut state = self.lock();
        state.failed = Some(cause.to_owned());
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// Takes what arrived since the last time into `answer`.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, answer: &mut Answer) -> Poll<Result<()>> {
        let mut state = self.lock();
        if state.arrived || state.ended {
            answer.bytes.clear();
            mem::swap(&mut answer.bytes, &mut state.bytes);
            answer.large = state.large.take();
            answer.ended = mem::take(&mut state.ended);
            state.arrived = false;
            return Poll::Ready(Ok(()));
        }
        if let Some(cause) = &state.failed {
            return Poll::Ready(Err(anyhow!("{cause}")));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
