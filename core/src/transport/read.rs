//! How the driver reads: frames through a buffer of the thread, large bodies straight into their own memory.
//!
//! A server takes up what it read piece by piece and runs the handlers of each piece before the next, so that a large batch of small calls
//! works on memory that is still in the processor's cache.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::BufMut;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::acceptor::Acceptor;
use super::buffer::with_buffer;
use super::connection::Connection;
use super::driver::Core;
use crate::mux::{Events, Mux};
use crate::time;
use crate::wire::frame::StreamId;

/// Reads of one turn before other tasks get their turn, whatever they brought.
const READS_PER_TURN: usize = 64;
/// Bytes that are read in one turn before other tasks get their turn: a body of 1 MiB, which comes in many short reads, and then some.
const READ_BYTES_PER_TURN: usize = 1280 * 1024;
/// Unsent bytes above which a server reads nothing more: a client that asks without reading answers stops being heard. A client goes on
/// reading, or two sides that wait for each other would wait for ever.
pub(super) const UNSENT_BYTES_MAX: usize = 1024 * 1024;

/// A body is read straight into its own memory from this size on; below it, one copy costs less than a shorter read.
const DIRECT_READ_BYTES_MIN: usize = 8 * 1024;
/// A message of this size is bulk data: where a long read would end inside of it, a short one comes first, and then the rest of it straight into its
/// own memory.
const BULK_BYTES_MIN: usize = 64 * 1024;
/// Short reads that may be in vain: one that ends bulk data, and one for what comes behind it.
const SHORT_READS_MAX: u8 = 2;
/// What is read after a large body: where one came, another is likely, and then all but its beginning goes straight into its own memory.
const HEAD_READ_BYTES: usize = 512;

/// How a read ended.
pub(super) enum Read {
    /// So many bytes were read; there may be more.
    Some(usize),
    /// Nothing is there.
    Wait,
    /// Nothing will come.
    Over,
}

/// What the last reads say about the next one.
#[derive(Debug, Default)]
pub(super) struct Habit {
    /// The last read went into a body, or began inside of bulk data: more of that is likely.
    bulk: bool,
    /// Short reads one after the other, after which no body was read into its own memory.
    in_vain: u8,
}

impl Habit {
    /// Whether to read no more than the beginning of a frame, `in_bulk` data or behind it. Not for ever: what is cut into tiny frames has to be copied.
    fn reads_short(&self, in_bulk: bool) -> bool {
        (self.bulk || in_bulk) && self.in_vain < SHORT_READS_MAX
    }

    fn read_frames(&mut self, in_bulk: bool, short: bool) {
        self.bulk = in_bulk;
        self.in_vain = if short { self.in_vain + 1 } else { 0 };
    }

    fn read_body(&mut self) {
        self.bulk = true;
        self.in_vain = 0;
    }
}

/// What a turn has read so far.
#[derive(Debug, Default)]
pub(super) struct Share {
    reads: usize,
    bytes: usize,
}

impl Share {
    /// Counts what a read brought; tells whether the turn may take up what is left of it.
    pub(super) fn take(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.bytes < READ_BYTES_PER_TURN
    }

    /// Counts a read whose bytes were counted; tells whether the turn may read on.
    pub(super) fn read_on(&mut self) -> bool {
        self.reads += 1;
        self.reads < READS_PER_TURN && self.bytes < READ_BYTES_PER_TURN
    }
}

/// Bytes that were read and not yet used.
#[derive(Debug, Default)]
pub(super) struct Leftover {
    bytes: Vec<u8>,
    /// How many of them were used since.
    used: usize,
    /// More than the beginning of a frame may be there.
    unparsed: bool,
}

impl Leftover {
    /// Whether there may be whole frames, which are to be taken up before anything is read.
    pub(super) fn is_unparsed(&self) -> bool {
        self.unparsed
    }

    pub(super) fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    fn clear(&mut self) {
        self.set(&[], false);
    }

    fn set(&mut self, bytes: &[u8], unparsed: bool) {
        self.bytes.clear();
        self.bytes.extend_from_slice(bytes);
        self.used = 0;
        self.unparsed = unparsed && !bytes.is_empty();
    }

    /// Notes that `used` more bytes are done with, and whether that was all that can be done.
    fn advance(&mut self, used: usize, done: bool) {
        self.used += used;
        if done || self.used == self.bytes.len() {
            self.bytes.drain(..self.used);
            self.used = 0;
            self.unparsed = false;
        }
    }
}

/// Takes up a piece of `bytes` if it brings calls whose handlers can run, else all: bulk data is not kept, which would be one copy more.
/// Returns how many bytes were used, and whether those left over are only the beginning of a frame.
fn take_up(mux: &mut Mux, bytes: &[u8], piece_bytes: usize, events: &mut Events) -> (usize, bool) {
    let now = time::now();
    let piece = bytes.len().min(piece_bytes);
    let used = mux.handle_input(now, &bytes[..piece], events);
    if piece == bytes.len() {
        return (used, true);
    }
    if events.has_complete_calls() {
        return (used, false);
    }
    (used + mux.handle_input(now, &bytes[used..], events), true)
}

impl<A: Acceptor> Core<A> {
    pub(super) fn read(&mut self, connection: &Connection, task: &mut Context<'_>) -> Read {
        if self.closed {
            return self.read_in_vain(task);
        }
        let mut state = connection.lock();
        if state.mux.end().is_some() {
            return Read::Wait;
        }
        if state.mux.is_server() && state.mux.unsent_bytes() > UNSENT_BYTES_MAX {
            // Reading goes on when the driver has written.
            self.held_back = true;
            return Read::Wait;
        }
        if self.leftover.is_unparsed() {
            drop(state);
            return self.parse_leftover(connection);
        }
        // Little may be left of bulk data or of its frame. A long read would bring most of what follows, and leave as little of that, and so on: all
        // would be copied.
        let in_bulk = state.mux.message_bytes() >= BULK_BYTES_MIN;
        let direct_min = if in_bulk || self.habit.bulk {
            HEAD_READ_BYTES
        } else {
            DIRECT_READ_BYTES_MIN
        };
        if self.leftover.bytes.is_empty()
            && let Some((id, bytes, want)) = state.mux.lend_body(direct_min)
        {
            drop(state);
            return self.read_body(connection, task, id, bytes, want);
        }
        drop(state);
        with_buffer(|buffer| self.read_frames(connection, task, buffer, in_bulk))
    }

    /// Reads frames, or only the beginning of the next one.
    fn read_frames(
        &mut self,
        connection: &Connection,
        task: &mut Context<'_>,
        buffer: &mut [u8],
        in_bulk: bool,
    ) -> Read {
        let short = self.habit.reads_short(in_bulk);
        let start = self.leftover.bytes.len();
        buffer[..start].copy_from_slice(&self.leftover.bytes);
        let room = if short { HEAD_READ_BYTES } else { buffer.len() };
        let end = buffer.len().min(start + room);
        let mut read = ReadBuf::new(&mut buffer[start..end]);
        let result = match Pin::new(&mut self.reader).poll_read(task, &mut read) {
            Poll::Pending => return Read::Wait,
            Poll::Ready(result) => result.map(|()| read.filled().len()),
        };
        let mut state = connection.lock();
        match result {
            Ok(0) => {
                state.mux.handle_end("the peer closed the connection", &mut self.events);
                Read::Over
            }
            Err(error) => {
                state.handle_broken("reading", &error, &mut self.events);
                Read::Over
            }
            Ok(len) => {
                self.habit.read_frames(in_bulk, short);
                let bytes = &buffer[..start + len];
                let (used, all) = take_up(&mut state.mux, bytes, A::PIECE_BYTES, &mut self.events);
                drop(state);
                self.leftover.set(&bytes[used..], !all);
                Read::Some(len)
            }
        }
    }

    /// Takes up the next piece of what was read before.
    fn parse_leftover(&mut self, connection: &Connection) -> Read {
        let mut state = connection.lock();
        let bytes = &self.leftover.bytes[self.leftover.used..];
        let (used, all) = take_up(&mut state.mux, bytes, A::PIECE_BYTES, &mut self.events);
        drop(state);
        self.leftover.advance(used, all);
        Read::Some(0)
    }

    fn read_body(
        &mut self,
        connection: &Connection,
        task: &mut Context<'_>,
        id: StreamId,
        mut bytes: Vec<u8>,
        want: usize,
    ) -> Read {
        let result = {
            let mut room = (&mut bytes).limit(want);
            let reading = pin!(self.reader.read_buf(&mut room));
            reading.poll(task)
        };
        let added = match &result {
            Poll::Ready(Ok(added)) => *added,
            Poll::Ready(Err(_)) | Poll::Pending => 0,
        };
        let mut state = connection.lock();
        state.mux.return_body(time::now(), id, bytes, added, &mut self.events);
        match result {
            Poll::Pending => Read::Wait,
            Poll::Ready(Ok(0)) => {
                state.mux.handle_end("the peer closed the connection", &mut self.events);
                Read::Over
            }
            Poll::Ready(Ok(added)) => {
                self.habit.read_body();
                Read::Some(added)
            }
            Poll::Ready(Err(error)) => {
                state.handle_broken("reading", &error, &mut self.events);
                Read::Over
            }
        }
    }

    /// After the end: reads what the peer still sends, so that it can read our last frames before the system resets the connection.
    fn read_in_vain(&mut self, task: &mut Context<'_>) -> Read {
        self.leftover.clear();
        with_buffer(|buffer| {
            let mut read = ReadBuf::new(buffer);
            match Pin::new(&mut self.reader).poll_read(task, &mut read) {
                Poll::Pending => Read::Wait,
                Poll::Ready(Ok(())) if !read.filled().is_empty() => Read::Some(read.filled().len()),
                Poll::Ready(Ok(()) | Err(_)) => {
                    self.linger_until = None;
                    Read::Over
                }
            }
        })
    }
}
