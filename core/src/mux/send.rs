//! The sending half of a stream: messages -> bytes that wait for credit and for their turn.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use bytes::{Buf, Bytes};

use super::Events;
use super::calls::register;

#[derive(Debug, Default)]
pub(super) struct SendHalf {
    pub(super) credit: u32,
    /// The half ends after the queue.
    pub(super) fin: bool,
    /// Stands in the connection's list of streams with something to send.
    pub(super) listed: bool,
    /// The half ended, here or because the call is over.
    pub(super) closed: bool,
    /// Apart, because a small message leaves without it.
    queue: Option<Box<Queue>>,
}

/// What a piece costs beside its bytes: its place in the queue, and what the allocator and the reference count take.
const PIECE_COST_BYTES: usize = 96;

#[derive(Debug, Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    bytes: usize,
    /// The payload of an END that follows the pieces.
    end: Option<Vec<u8>>,
    /// Waits until there is room.
    waker: Option<Waker>,
    /// Bytes of an answer that the connection counts; kept when the rest is dropped, until the stream is removed.
    counted: usize,
    /// The answer may stand still only for so long.
    impatient: bool,
}

impl SendHalf {
    pub(super) fn push(&mut self, piece: Bytes) {
        if !piece.is_empty() {
            let queue = self.queue.get_or_insert_default();
            queue.bytes += piece.len();
            queue.pieces.push_back(piece);
        }
    }

    pub(super) fn queued(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.bytes)
    }

    /// Memory that the queue holds, in bytes.
    pub(super) fn held(&self) -> usize {
        let held = |queue: &Queue| queue.bytes + queue.pieces.len() * PIECE_COST_BYTES;
        self.queue.as_deref().map_or(0, held)
    }

    /// The queue is an answer, whose bytes the connection counts.
    pub(super) fn count(&mut self) -> usize {
        let queue = self.queue.get_or_insert_default();
        queue.counted = queue.bytes;
        queue.counted
    }

    /// The answer has no deadline, so somebody has to watch whether it is taken.
    pub(super) fn watch(&mut self) {
        self.queue.get_or_insert_default().impatient = true;
    }

    /// Whether it is watched.
    pub(super) fn is_watched(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.impatient)
    }

    /// Of `sent` bytes, those that were counted.
    pub(super) fn uncount_sent(&mut self, sent: usize) -> usize {
        let Some(queue) = &mut self.queue else { return 0 };
        let counted = queue.counted.min(sent);
        queue.counted -= counted;
        counted
    }

    /// Bytes that the connection need not count any longer.
    pub(super) fn uncount(&mut self) -> usize {
        self.queue.as_mut().map_or(0, |queue| std::mem::take(&mut queue.counted))
    }

    /// Ends the call after what is queued.
    pub(super) fn set_end(&mut self, payload: Vec<u8>) {
        self.queue.get_or_insert_default().end = Some(payload);
    }

    pub(super) fn has_end(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.end.is_some())
    }

    pub(super) fn take_end(&mut self) -> Option<Vec<u8>> {
        self.queue.as_mut()?.end.take()
    }

    /// Registers a task that waits for room.
    pub(super) fn wait(&mut self, task: &Context<'_>) {
        register(&mut self.queue.get_or_insert_default().waker, task);
    }

    pub(super) fn take_waker(&mut self) -> Option<Waker> {
        self.queue.as_mut()?.waker.take()
    }

    /// Whether something is left to send: bytes, or the end.
    pub(super) fn has_work(&self) -> bool {
        !self.closed && (self.fin || self.queued() > 0 || self.has_end())
    }

    /// Whether a turn would send something now.
    pub(super) fn can_send(&self, connection_credit: u32) -> bool {
        self.has_work() && (self.queued() == 0 || (self.credit > 0 && connection_credit > 0))
    }

    /// Takes up to `bytes_max` bytes off the queue's front piece; pieces are never joined, so a turn may take several.
    pub(super) fn take(&mut self, bytes_max: usize) -> Bytes {
        let Some(queue) = &mut self.queue else {
            return Bytes::new();
        };
        let Some(front) = queue.pieces.front_mut() else {
            return Bytes::new();
        };
        let taken = if front.len() <= bytes_max {
            queue.pieces.pop_front().unwrap_or_default()
        } else {
            let taken = front.slice(..bytes_max);
            front.advance(bytes_max);
            taken
        };
        queue.bytes -= taken.len();
        taken
    }

    /// Nothing more is sent: the call is over.
    pub(super) fn abort(&mut self, events: &mut Events) {
        self.closed = true;
        self.fin = false;
        if let Some(queue) = &mut self.queue {
            events.wakers.extend(queue.waker.take());
            queue.clear();
        }
    }

    pub(super) fn reset(&mut self) {
        self.credit = 0;
        self.fin = false;
        self.listed = false;
        self.closed = false;
        if let Some(queue) = &mut self.queue {
            queue.clear();
        }
    }
}

impl Queue {
    /// Drops everything and keeps the memory.
    fn clear(&mut self) {
        self.pieces.clear();
        self.bytes = 0;
        self.impatient = false;
        self.end = None;
        self.waker = None;
    }
}
