//! One stream's state, and the table of all streams of a connection.
//!
//! Slots are used again with the memory that their queues own, so a call in the steady state allocates nothing here.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::time::Instant;

use super::error::StreamError;
use super::ids::IdTable;
use super::recv::RecvHalf;
use super::send::SendHalf;
use super::{Events, Window};
use crate::wire::frame::StreamId;

/// Names an open stream; stays harmless when the stream is over and its slot is used again.
#[derive(Clone, Copy, Debug)]
pub struct StreamKey {
    pub(super) id: StreamId,
    /// Where to look first; the id alone tells streams apart.
    slot: u32,
}

impl PartialEq for StreamKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for StreamKey {}

impl Hash for StreamKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl StreamKey {
    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.id
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) id: StreamId,
    slot: u32,
    /// How many bytes stood before its OPEN in the outbox: tells whether any of it was sent.
    pub(super) opened_at: u64,
    pub(super) deadline: Option<Instant>,
    pub(super) send: SendHalf,
    pub(super) recv: RecvHalf,
    /// Server: the arguments have not been handed out yet.
    pub(super) awaits_arguments: bool,
    /// Apart, because most calls end in order.
    pub(super) error: Option<Box<StreamError>>,
}

impl Stream {
    fn new(slot: u32) -> Self {
        Self {
            id: StreamId::CONNECTION,
            slot,
            opened_at: 0,
            deadline: None,
            send: SendHalf::default(),
            recv: RecvHalf::default(),
            awaits_arguments: false,
            error: None,
        }
    }

    pub(super) fn key(&self) -> StreamKey {
        StreamKey {
            id: self.id,
            slot: self.slot,
        }
    }

    /// Ends the stream with `error`, unless its end arrived before.
    pub(super) fn fail(&mut self, error: StreamError, events: &mut Events) {
        if !self.recv.is_over() && self.error.is_none() {
            self.error = Some(Box::new(error));
        }
        self.send.abort(events);
        events.wakers.extend(self.recv.waker.take());
    }

    pub(super) fn reset(&mut self) {
        self.id = StreamId::CONNECTION;
        self.deadline = None;
        self.awaits_arguments = false;
        self.error = None;
        self.send.reset();
        self.recv.reset();
    }
}

/// The slot of a key whose stream was not in the table when the key was made.
const NO_SLOT: u32 = u32::MAX;

/// A call that arrived whole and has sent nothing yet.
#[derive(Debug)]
struct Whole {
    id: StreamId,
    recv_window: Window,
    send_credit: u32,
    deadline: Option<Instant>,
}

/// Open streams.
///
/// A call that arrives whole waits in a line of its own: most are answered in order and within the turn that reads them, and never enter the
/// table. Whoever asks for anything else of such a stream finds it in the table, because all of the line moves there first.
#[derive(Debug, Default)]
pub(super) struct Streams {
    whole: VecDeque<Whole>,
    slots: Vec<Stream>,
    free: Vec<u32>,
    by_id: IdTable,
    /// No deadline of an open stream is earlier than this.
    earliest_deadline: Option<Instant>,
}

impl Streams {
    pub(super) fn len(&self) -> usize {
        self.by_id.len() + self.whole.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty() && self.whole.is_empty()
    }

    /// Opens a stream whose request is complete.
    #[inline]
    pub(super) fn insert_whole(
        &mut self,
        id: StreamId,
        recv_window: Window,
        send_credit: u32,
        deadline: Option<Instant>,
    ) -> StreamKey {
        self.note_deadline(deadline);
        self.whole.push_back(Whole {
            id,
            recv_window,
            send_credit,
            deadline,
        });
        StreamKey { id, slot: NO_SLOT }
    }

    /// Closes a stream that never entered the table; false if it did.
    #[inline]
    pub(super) fn remove_whole(&mut self, key: StreamKey) -> bool {
        let first = self.whole.front().is_some_and(|whole| whole.id == key.id);
        if first {
            self.whole.pop_front();
        }
        first
    }

    /// Moves the calls that arrived whole into the table.
    fn settle(&mut self) {
        while let Some(whole) = self.whole.pop_front() {
            let stream = self.insert(whole.id, 0, whole.send_credit, whole.deadline);
            stream.recv.window = whole.recv_window;
            stream.recv.fin = true;
        }
    }

    fn note_deadline(&mut self, deadline: Option<Instant>) {
        if let Some(deadline) = deadline {
            self.earliest_deadline = Some(self.earliest_deadline.map_or(deadline, |at| at.min(deadline)));
        }
    }

    /// Opens a stream in a free slot.
    pub(super) fn insert(
        &mut self,
        id: StreamId,
        recv_window: u32,
        send_credit: u32,
        deadline: Option<Instant>,
    ) -> &mut Stream {
        let slot = self.free.pop().unwrap_or_else(|| {
            let slot = u32::try_from(self.slots.len()).unwrap_or(u32::MAX);
            self.slots.push(Stream::new(slot));
            slot
        });
        self.by_id.insert(id, slot);
        self.note_deadline(deadline);
        let stream = &mut self.slots[slot as usize];
        stream.id = id;
        stream.deadline = deadline;
        stream.send.credit = send_credit;
        stream.recv.window = Window::new(recv_window);
        stream
    }

    /// Sets the deadline of an open stream.
    pub(super) fn set_deadline(&mut self, key: StreamKey, deadline: Instant) {
        // Ids grow, so the line is in their order.
        if let Ok(at) = self.whole.binary_search_by_key(&key.id, |whole| whole.id) {
            self.whole[at].deadline = Some(deadline);
        } else if let Some(stream) = self.get(key) {
            stream.deadline = Some(deadline);
        } else {
            return;
        }
        self.note_deadline(Some(deadline));
    }

    /// The credit of an open stream.
    #[inline]
    pub(super) fn send_credit(&mut self, key: StreamKey) -> Option<u32> {
        match self.whole.front() {
            Some(whole) if whole.id == key.id => Some(whole.send_credit),
            _ => self.get(key).map(|stream| stream.send.credit),
        }
    }

    /// The stream of `key`, if it is still open.
    pub(super) fn get(&mut self, key: StreamKey) -> Option<&mut Stream> {
        if key.slot == NO_SLOT {
            return self.by_id(key.id);
        }
        self.slots.get_mut(key.slot as usize).filter(|stream| stream.id == key.id)
    }

    /// The open stream with this id.
    pub(super) fn by_id(&mut self, id: StreamId) -> Option<&mut Stream> {
        self.settle();
        let slot = self.by_id.get(id)?;
        self.slots.get_mut(slot as usize)
    }

    /// Closes the stream and frees its slot; returns it for a last look, to be reset.
    pub(super) fn remove(&mut self, key: StreamKey) -> Option<&mut Stream> {
        let slot = match key.slot {
            NO_SLOT => self.by_id(key.id)?.slot,
            slot => slot,
        };
        let stream = self.slots.get_mut(slot as usize)?;
        if key.id == StreamId::CONNECTION || stream.id != key.id {
            return None;
        }
        self.by_id.remove(key.id);
        self.free.push(slot);
        Some(stream)
    }

    pub(super) fn clear(&mut self) {
        self.whole.clear();
        for stream in &mut self.slots {
            if stream.id != StreamId::CONNECTION {
                self.free.push(stream.slot);
                stream.reset();
            }
        }
        self.by_id.clear();
        self.earliest_deadline = None;
    }

    /// Gives memory back; for a connection without streams.
    pub(super) fn shrink(&mut self) {
        if self.is_empty() {
            self.whole = VecDeque::new();
            self.slots = Vec::new();
            self.free = Vec::new();
            self.by_id = IdTable::default();
            self.earliest_deadline = None;
        }
    }

    pub(super) fn for_each(&mut self, mut visit: impl FnMut(&mut Stream)) {
        self.settle();
        for stream in &mut self.slots {
            if stream.id != StreamId::CONNECTION {
                visit(stream);
            }
        }
    }

    pub(super) fn earliest_deadline(&self) -> Option<Instant> {
        self.earliest_deadline
    }

    /// The keys of all streams whose deadline has come.
    ///
    /// One pass over the table replaces a timer per call: most calls end long before their deadline, so a pass is rare (at most one per
    /// millisecond while deadlines do pass) and an entry costs nothing when its call ends.
    pub(super) fn expired(&mut self, now: Instant) -> Vec<StreamKey> {
        let mut expired = Vec::new();
        if self.earliest_deadline.is_none_or(|earliest| earliest > now) {
            return expired;
        }
        let mut earliest: Option<Instant> = None;
        self.for_each(|stream| match stream.deadline {
            Some(deadline) if deadline <= now => expired.push(stream.key()),
            Some(deadline) => earliest = Some(earliest.map_or(deadline, |at| at.min(deadline))),
            None => {}
        });
        self.earliest_deadline = earliest;
        expired
    }
}
