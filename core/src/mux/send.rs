//! The sending half of a stream: messages -> bytes that wait for credit and for their turn.

use std::collections::VecDeque;
use std::task::Waker;

use bytes::{Buf, Bytes};

use super::Events;

#[derive(Debug, Default)]
pub(super) struct SendHalf {
    pub(super) credit: u32,
    queue: VecDeque<Bytes>,
    queued: usize,
    /// The half ends after the queue.
    pub(super) fin: bool,
    /// The payload of an END that follows the queue.
    pub(super) end: Option<Vec<u8>>,
    /// Stands in the connection's list of streams with something to send.
    pub(super) listed: bool,
    /// The half ended, here or because the call is over.
    pub(super) closed: bool,
    /// Waits until the queue has room.
    pub(super) waker: Option<Waker>,
}

impl SendHalf {
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            self.queued += piece.len();
            self.queue.push_back(piece);
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queued
    }

    /// Whether something is left to send: bytes, or the end.
    pub(super) fn has_work(&self) -> bool {
        !self.closed && (self.queued > 0 || self.fin || self.end.is_some())
    }

    /// Whether a turn would send something now.
    pub(super) fn can_send(&self, connection_credit: u32) -> bool {
        self.has_work() && (self.queued == 0 || (self.credit > 0 && connection_credit > 0))
    }

    /// Takes up to `bytes_max` bytes off the queue's front piece; pieces are never joined, so a turn may take several.
    pub(super) fn take(&mut self, bytes_max: usize) -> Bytes {
        let Some(front) = self.queue.front_mut() else {
            return Bytes::new();
        };
        let taken = if front.len() <= bytes_max {
            self.queue.pop_front().unwrap_or_default()
        } else {
            let taken = front.slice(..bytes_max);
            front.advance(bytes_max);
            taken
        };
        self.queued -= taken.len();
        taken
    }

    /// Nothing more is sent: the call is over.
    pub(super) fn abort(&mut self, events: &mut Events) {
        self.closed = true;
        self.queue.clear();
        self.queued = 0;
        self.fin = false;
        self.end = None;
        events.wakers.extend(self.waker.take());
    }

    pub(super) fn reset(&mut self) {
        self.credit = 0;
        if !self.queue.is_empty() {
            self.queue.clear();
        }
        self.queued = 0;
        self.fin = false;
        self.end = None;
        self.listed = false;
        self.closed = false;
        self.waker = None;
    }
}
