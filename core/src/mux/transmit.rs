//! What leaves next: small frames first, then large streams in turn, one frame each and a few streams at a time.
//!
//! Small frames are copied into one buffer, in order. Large bodies stay where they are and are linked. A turn always takes at least one
//! frame of a waiting stream, so small ones never starve it; and it ends with the frame that reaches [`TURN_BYTES_MAX`] while others are there, so it
//! never delays them for long.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::Bytes;

use super::calls::{ANSWER_PATIENCE, UNSENT_OPEN_BYTES_MAX};
use super::{Mux, StreamKey};
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::frame::{ErrorCode, FrameType, HEADER_BYTES, PREFACE, StreamId, header};
use crate::wire::head::{self, REQUEST_HEAD_BYTES};
use crate::wire::hello::Hello;

/// Linked bytes of one turn: what a fast link takes in well under a millisecond, and enough to keep the system calls few.
const TURN_BYTES_MAX: usize = 256 * 1024;
/// The same while no other stream is open, so that nobody waits behind it: a body of 1 MiB with what stands in front of it. The receiver then
/// copies out what is still in the cache, and reads it in a few pieces: a body of 1 MiB gains a quarter.
const LONE_TURN_BYTES_MAX: usize = 1024 * 1024 + 64 * 1024;
/// Payload of a frame while other streams are open: they take turns, and each waits for the frames of those before it.
const SHARED_FRAME_BYTES_MAX: usize = 128 * 1024;
/// Pieces of one turn: within what one vectored write takes.
const TURN_PIECES_MAX: usize = 48;
/// Streams that take turns with their large messages; those behind them begin when one is done. A thousand large requests at once are then
/// sent a few at a time, and the peer never has to hold a thousand incomplete ones. A stream leaves its place when its queue is
/// empty, and the queue is bounded, so those behind do not starve. 16 messages of 4 MiB are what a peer's default takes.
const ROTATION_STREAMS_MAX: usize = 16;
/// Keys of streams that are over which may stand among the waiting ones before they are looked for.
const STALE_KEYS_MAX: usize = 64;
/// The most bytes of a GOAWAY's reason.
pub(super) const REASON_BYTES_MAX: usize = 512;

/// Frames that are complete and wait for the next turn.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) small: Vec<u8>,
    /// Bytes that were ever queued in `small`.
    queued: u64,
    /// Bytes of those that may have reached the network.
    sent: u64,
    /// Length of what has to come before any frame.
    preface_len: usize,
}

impl Outbox {
    /// The position of the next frame, to compare with [`sent`](Self::sent) later.
    pub(super) fn position(&self) -> u64 {
        self.queued + self.small.len() as u64
    }

    /// Everything before this position may have reached the network.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn push_preface(&mut self, hello: &Hello) {
        self.small.extend_from_slice(&PREFACE);
        self.frame(FrameType::Hello, false, StreamId::CONNECTION, |out| hello.encode(out));
        self.preface_len = self.small.len();
    }

    /// Drops the frames that were not taken to be written; the preface stays, because further frames may follow.
    pub(super) fn forget_unsent(&mut self) {
        let preface_len = if self.queued == 0 { self.preface_len } else { 0 };
        self.small.truncate(preface_len);
    }

    /// Appends a frame whose payload is what `write` appends.
    pub(super) fn frame(
        &mut self,
        frame_type: FrameType,
        fin: bool,
        stream: StreamId,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        let at = self.small.len();
        self.small.extend_from_slice(&[0; HEADER_BYTES]);
        write(&mut self.small);
        let len = self.small.len() - at - HEADER_BYTES;
        self.small[at..at + HEADER_BYTES].copy_from_slice(&header(frame_type, fin, stream, len));
    }

    /// Appends a frame that opens or answers a call: `fixed` and the metadata are its head, `body` its one message.
    #[inline]
    pub(super) fn whole(
        &mut self,
        frame_type: FrameType,
        fin: bool,
        stream: StreamId,
        fixed: &[u8],
        metadata: &Metadata,
        body: &[u8],
    ) {
        let len = fixed.len() + 2 + metadata.encoded_len() + body.len();
        self.small.reserve(HEADER_BYTES + len);
        if metadata.is_empty() {
            // In one piece, because most frames are like this: behind the fixed part stands the length of no metadata.
            let mut head = [0; HEADER_BYTES + REQUEST_HEAD_BYTES];
            let fixed_end = HEADER_BYTES + fixed.len();
            head[..HEADER_BYTES].copy_from_slice(&header(frame_type, fin, stream, len));
            head[HEADER_BYTES..fixed_end].copy_from_slice(fixed);
            self.small.extend_from_slice(&head[..fixed_end + 2]);
        } else {
            self.small.extend_from_slice(&header(frame_type, fin, stream, len));
            self.small.extend_from_slice(fixed);
            head::encode_metadata(metadata, &mut self.small);
        }
        self.small.extend_from_slice(body);
    }

    pub(super) fn push_reset(&mut self, stream: StreamId, code: ErrorCode) {
        self.frame(FrameType::Reset, false, stream, |out| {
            out.extend_from_slice(&(code as u32).to_be_bytes());
        });
    }

    pub(super) fn push_credit(&mut self, stream: StreamId, bytes: u32) {
        self.frame(FrameType::Credit, false, stream, |out| {
            out.extend_from_slice(&bytes.to_be_bytes());
        });
    }

    pub(super) fn push_ping(&mut self, frame_type: FrameType, content: [u8; 8]) {
        self.frame(frame_type, false, StreamId::CONNECTION, |out| {
            out.extend_from_slice(&content);
        });
    }

    pub(super) fn push_go_away(&mut self, last: StreamId, code: ErrorCode, reason: &str) {
        let reason = &reason[..reason.floor_char_boundary(REASON_BYTES_MAX)];
        self.frame(FrameType::GoAway, false, StreamId::CONNECTION, |out| {
            out.extend_from_slice(&last.0.to_be_bytes());
            out.extend_from_slice(&(code as u32).to_be_bytes());
            out.extend_from_slice(reason.as_bytes());
        });
    }

    pub(super) fn push_end(&mut self, stream: StreamId, status: Option<&Status>, trailers: &Metadata) {
        self.frame(FrameType::End, true, stream, |out| {
            head::encode_end(status, trailers, out);
        });
    }
}

/// What is being written: filled by [`Mux::poll_transmit`], emptied by [`Transmit::advance`].
#[derive(Debug, Default)]
pub struct Transmit {
    small: Vec<u8>,
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    Small(Range<usize>),
    Linked(Bytes),
}

impl Transmit {
    /// Whether everything was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// The bytes to write, if they are in one piece.
    #[must_use]
    pub fn only_slice(&self) -> Option<&[u8]> {
        if self.pieces.len() != 1 {
            return None;
        }
        self.pieces.front().map(|piece| self.bytes(piece))
    }

    fn bytes<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        match piece {
            Piece::Small(range) => &self.small[range.clone()],
            Piece::Linked(bytes) => bytes,
        }
    }

    /// The bytes to write, as slices; returns how many slices were filled.
    pub fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            *slice = IoSlice::new(self.bytes(piece));
            filled += 1;
        }
        filled
    }

    /// Notes that `written` bytes are gone.
    pub fn advance(&mut self, mut written: usize) {
        while written > 0 {
            let Some(front) = self.pieces.front_mut() else { return };
            let len = match front {
                Piece::Small(range) => range.len(),
                Piece::Linked(bytes) => bytes.len(),
            };
            if written < len {
                match front {
                    Piece::Small(range) => range.start += written,
                    Piece::Linked(bytes) => {
                        let _written = bytes.split_to(written);
                    }
                }
                return;
            }
            written -= len;
            self.pieces.pop_front();
        }
    }

    /// Gives the memory back; for a connection that is at rest.
    pub fn shrink(&mut self) {
        if self.pieces.is_empty() {
            self.small = Vec::new();
            self.pieces = VecDeque::new();
        }
    }
}

impl Mux {
    /// Whether [`poll_transmit`](Self::poll_transmit) would have something to write.
    #[must_use]
    pub fn wants_transmit(&self) -> bool {
        !self.outbox.small.is_empty() || !self.ready.is_empty()
    }

    /// Bytes of complete frames that wait for a turn; the driver of a server stops reading while they are many.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.outbox.small.len()
    }

    /// Fills an empty `transmit` with the next turn; false if there is nothing to write.
    pub fn poll_transmit(&mut self, transmit: &mut Transmit) -> bool {
        debug_assert!(transmit.is_empty(), "a turn is written before the next begins");
        if !self.wants_transmit() {
            return false;
        }
        transmit.small.clear();
        std::mem::swap(&mut transmit.small, &mut self.outbox.small);
        if transmit.small.len() > UNSENT_OPEN_BYTES_MAX {
            // There is room for more calls.
            self.woken.extend(self.openers.drain());
        }
        self.outbox.queued += transmit.small.len() as u64;
        self.outbox.sent = self.outbox.queued;
        let mut small_start = 0;
        let (mut budget, frame_max) = if self.streams.len() <= 1 {
            (LONE_TURN_BYTES_MAX, LONE_TURN_BYTES_MAX)
        } else {
            (TURN_BYTES_MAX, SHARED_FRAME_BYTES_MAX)
        };
        let frame_max = self.peer.max_frame.min(frame_max);
        while budget > 0 && transmit.pieces.len() < TURN_PIECES_MAX {
            let Some(key) = self.ready.pop_front() else { break };
            self.send_turn(key, frame_max, transmit, &mut small_start, &mut budget);
        }
        if small_start < transmit.small.len() {
            transmit.pieces.push_back(Piece::Small(small_start..transmit.small.len()));
        }
        !transmit.pieces.is_empty()
    }

    /// Sends one frame of a stream and puts the stream back in line if it has more.
    fn send_turn(
        &mut self,
        key: StreamKey,
        frame_max: usize,
        transmit: &mut Transmit,
        small_start: &mut usize,
        budget: &mut usize,
    ) {
        let connection_credit = self.send_credit;
        let Some(stream) = self.streams.get(key) else { return };
        let send = &mut stream.send;
        send.listed = false;
        if !send.can_send(connection_credit) {
            if send.has_work() && send.credit > 0 {
                send.listed = true;
                self.starve(key);
            }
            return;
        }
        let mut room = frame_max.min(send.credit as usize).min(connection_credit as usize);
        let len = room.min(send.queued());
        if len > 0 || !send.has_end() {
            let fin = send.fin && len == send.queued() && !send.has_end();
            transmit.small.extend_from_slice(&header(FrameType::Data, fin, stream.id, len));
            transmit.pieces.push_back(Piece::Small(*small_start..transmit.small.len()));
            *small_start = transmit.small.len();
            room = len;
            while room > 0 {
                let piece = send.take(room);
                room -= piece.len();
                transmit.pieces.push_back(Piece::Linked(piece));
            }
            self.queued_answers -= send.uncount_sent(len);
            if send.is_watched() {
                self.undated.push((key, ANSWER_PATIENCE));
            }
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            send.credit -= len;
            self.send_credit -= len;
            *budget = budget.saturating_sub(len as usize);
        }
        if send.queued() > 0 {
            send.listed = true;
            if send.credit == 0 {
                send.listed = false;
            } else if self.send_credit == 0 {
                self.starve(key);
            } else {
                let place = self.ready.len().min(ROTATION_STREAMS_MAX - 1);
                self.ready.insert(place, key);
            }
            return;
        }
        self.after_last_byte(key, transmit);
    }

    /// The queue is empty: ends the half if it is to end, and tells the sender that there is room.
    fn after_last_byte(&mut self, key: StreamKey, transmit: &mut Transmit) {
        let Some(stream) = self.streams.get(key) else { return };
        let id = stream.id;
        if let Some(payload) = stream.send.take_end() {
            let frame = header(FrameType::End, true, id, payload.len());
            transmit.small.extend_from_slice(&frame);
            transmit.small.extend_from_slice(&payload);
            stream.send.closed = true;
        } else if stream.send.fin {
            stream.send.closed = true;
        }
        if let Some(waker) = stream.send.take_waker() {
            self.woken.push(waker);
        }
        if stream.send.closed {
            self.close_if_done(key);
        }
    }

    /// Puts a stream in line if it has something to send that its credit allows.
    pub(super) fn line_up(&mut self, key: StreamKey) {
        let Some(stream) = self.streams.get(key) else { return };
        let send = &mut stream.send;
        if send.listed || !send.has_work() || (send.queued() > 0 && send.credit == 0) {
            return;
        }
        send.listed = true;
        if send.queued() > 0 && self.send_credit == 0 {
            self.starve(key);
        } else {
            self.ready.push_back(key);
        }
    }

    /// Puts a stream among those that wait for the connection's credit.
    ///
    /// Streams that end while they wait leave their keys behind; those are cleared away before they outnumber the living.
    fn starve(&mut self, key: StreamKey) {
        if self.starved.len() > 2 * self.streams.len() + STALE_KEYS_MAX {
            let streams = &mut self.streams;
            self.starved.retain(|key| streams.get(*key).is_some());
        }
        self.starved.push_back(key);
    }

    /// The connection has credit again: those who waited for it go on.
    pub(super) fn feed_starved(&mut self) {
        self.ready.append(&mut self.starved);
    }
}
