//! The receiving half of a stream: bytes of frames -> whole messages.

use std::collections::VecDeque;
use std::task::Waker;

use super::error::StreamError;
use super::flow::Window;
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::frame::{COMPRESSED, MESSAGE_PREFIX_BYTES};
use crate::wire::message::{LINK_BYTES_MIN, Payload};
use crate::wire::pool;

/// Whole messages that arrived together.
#[derive(Debug)]
#[non_exhaustive]
pub enum Chunk {
    /// One message, without its length.
    One(Payload),
    /// Small messages back to back, each with its length in front.
    Batch(Vec<u8>),
}

/// The answer to a unary call.
#[derive(Debug)]
pub struct UnaryReply {
    /// The response's metadata.
    pub metadata: Metadata,
    /// The response; absent if the call failed.
    pub message: Option<Payload>,
    /// How the call failed; `None` for OK.
    pub status: Option<Status>,
    /// The trailers.
    pub trailers: Metadata,
}

#[derive(Debug)]
pub(super) struct RecvHalf {
    pub(super) window: Window,
    pub(super) head: Metadata,
    /// The head came, whether or not it was taken already.
    pub(super) headed: bool,
    /// The head was not taken yet.
    pub(super) head_unread: bool,
    prefix: [u8; MESSAGE_PREFIX_BYTES],
    prefix_len: u8,
    /// Apart, because only large messages need one.
    assembly: Option<Box<Assembly>>,
    /// Nobody reads any more: bytes are dropped as they come.
    pub(super) discarding: bool,
    /// Unread messages, each with the credit that is given back when it is taken.
    chunks: VecDeque<(Chunk, usize)>,
    pub(super) fin: bool,
    pub(super) status: Option<Status>,
    pub(super) trailers: Metadata,
    pub(super) waker: Option<Waker>,
    /// A buffer that the caller lent for its reply.
    pub(super) lent: Vec<u8>,
    /// The lent buffer holds the whole response.
    whole: bool,
}

#[derive(Debug)]
struct Assembly {
    bytes: Vec<u8>,
    len: usize,
    /// Bytes whose credit is withheld, because messages before this one are unread.
    uncredited: usize,
    /// Memory that was counted for it, also while `bytes` is lent.
    reserved: usize,
}

/// What [`RecvHalf::feed`] did.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Fed {
    /// Messages that became complete.
    pub(super) messages: usize,
    /// Bytes whose credit may be given back at once.
    pub(super) credit: usize,
    /// Change of the bytes held in incomplete messages: taken.
    pub(super) reserved: usize,
    /// Change of the bytes held in incomplete messages: given back.
    pub(super) released: usize,
}

impl Default for RecvHalf {
    fn default() -> Self {
        Self {
            window: Window::new(0),
            head: Metadata::new(),
            headed: false,
            head_unread: false,
            prefix: [0; MESSAGE_PREFIX_BYTES],
            prefix_len: 0,
            assembly: None,
            discarding: false,
            chunks: VecDeque::new(),
            fin: false,
            status: None,
            trailers: Metadata::new(),
            waker: None,
            lent: Vec::new(),
            whole: false,
        }
    }
}

impl RecvHalf {
    /// Whether the peer's half ended, so that nothing more comes.
    pub(super) fn is_over(&self) -> bool {
        self.fin
    }

    /// Whether the peer's half ended and all its messages were taken.
    pub(super) fn has_nothing_left(&self) -> bool {
        self.fin && self.chunks.is_empty() && !self.whole
    }

    /// Memory that an incomplete message holds, also while it is lent.
    pub(super) fn assembly_bytes(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.reserved)
    }

    /// Drops what is there and what will come; returns the credit to give back and the memory that is released.
    pub(super) fn discard(&mut self) -> (usize, usize) {
        let freed = (self.unread(), self.assembly_bytes());
        self.discarding = true;
        self.assembly = None;
        self.prefix_len = 0;
        self.chunks.clear();
        self.whole = false;
        freed
    }

    /// Whether the bytes so far end between two messages.
    pub(super) fn is_between_messages(&self) -> bool {
        self.assembly.is_none() && self.prefix_len == 0
    }

    /// Length of the message under way, if it is large enough to be put together apart.
    pub(super) fn assembly_len(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.len)
    }

    /// Bytes that complete the message under way, if it is large enough to be read straight into its own memory.
    pub(super) fn direct_bytes(&self) -> usize {
        self.assembly.as_ref().map_or(0, |assembly| assembly.len - assembly.bytes.len())
    }

    /// The memory of the message under way; to be given back by [`return_assembly`](Self::return_assembly).
    ///
    /// It has room for some bytes, within the `room` of all incomplete messages; none if that is used up.
    pub(super) fn lend_assembly(&mut self, room: usize, fed: &mut Fed) -> Option<Vec<u8>> {
        let assembly = self.assembly.as_mut()?;
        if assembly.bytes.len() == assembly.bytes.capacity() {
            let more = (assembly.len - assembly.bytes.len()).min(DIRECT_GROWTH_BYTES_MIN);
            grow_for(assembly, more, room, fed).ok()?;
        }
        Some(std::mem::take(&mut assembly.bytes))
    }

    /// Takes back the memory with `added` further bytes in it.
    pub(super) fn return_assembly(&mut self, bytes: Vec<u8>, added: usize, fed: &mut Fed) {
        let Some(assembly) = &mut self.assembly else { return };
        fed.reserved += bytes.capacity().saturating_sub(assembly.reserved);
        assembly.reserved = bytes.capacity().max(assembly.reserved);
        assembly.bytes = bytes;
        self.note_assembled(added, fed);
        self.complete_assembly(fed);
    }

    /// Takes up a whole response that is one small message.
    pub(super) fn take_whole(&mut self, head: Metadata, message: &[u8]) {
        self.take_head(head);
        self.lent.extend_from_slice(message);
        self.whole = true;
        self.fin = true;
    }

    /// Takes up the head of a response.
    pub(super) fn take_head(&mut self, head: Metadata) {
        self.head = head;
        self.headed = true;
        self.head_unread = true;
    }

    /// The response that [`take_whole`](Self::take_whole) took up, with the credit to give back.
    #[inline]
    pub(super) fn whole(&mut self) -> Option<(Payload, usize)> {
        if !std::mem::take(&mut self.whole) {
            return None;
        }
        let credit = self.lent.len() + MESSAGE_PREFIX_BYTES;
        Some((Payload::pooled(std::mem::take(&mut self.lent)), credit))
    }

    /// Takes up the bytes of a frame; `bytes_max` bounds one message and `room` the memory of incomplete ones.
    ///
    /// `fed` is right also after an error: bytes that were not queued are credited.
    pub(super) fn feed(
        &mut self,
        bytes: &[u8],
        bytes_max: usize,
        room: usize,
        fed: &mut Fed,
    ) -> Result<(), StreamError> {
        let mut rest = bytes;
        let result = self.feed_all(&mut rest, bytes_max, room, fed);
        if result.is_err() {
            fed.credit += rest.len();
        }
        result
    }

    fn feed_all(&mut self, rest: &mut &[u8], bytes_max: usize, room: usize, fed: &mut Fed) -> Result<(), StreamError> {
        while !rest.is_empty() {
            let bytes = *rest;
            if let Some(assembly) = &mut self.assembly {
                let wanted = (assembly.len - assembly.bytes.len()).min(bytes.len());
                grow_for(assembly, wanted, room, fed)?;
                assembly.bytes.extend_from_slice(&bytes[..wanted]);
                *rest = &bytes[wanted..];
                self.note_assembled(wanted, fed);
                self.complete_assembly(fed);
            } else if self.prefix_len > 0 || bytes.len() < MESSAGE_PREFIX_BYTES {
                let at = usize::from(self.prefix_len);
                let wanted = (MESSAGE_PREFIX_BYTES - at).min(bytes.len());
                self.prefix[at..at + wanted].copy_from_slice(&bytes[..wanted]);
                // At most the length of a prefix.
                self.prefix_len += u8::try_from(wanted).unwrap_or(u8::MAX);
                *rest = &bytes[wanted..];
                if at + wanted == MESSAGE_PREFIX_BYTES {
                    self.prefix_len = 0;
                    self.begin_message(self.prefix, bytes_max, room, fed)?;
                }
            } else {
                let (whole, messages) = whole_messages(bytes, bytes_max)?;
                self.queue(&bytes[..whole], messages);
                fed.messages += messages;
                *rest = &bytes[whole..];
                if let Some((prefix, after)) = rest.split_first_chunk() {
                    *rest = after;
                    self.begin_message(*prefix, bytes_max, room, fed)?;
                }
            }
        }
        Ok(())
    }

    fn begin_message(
        &mut self,
        prefix: [u8; MESSAGE_PREFIX_BYTES],
        bytes_max: usize,
        room: usize,
        fed: &mut Fed,
    ) -> Result<(), StreamError> {
        let begun = message_len(prefix, bytes_max).and_then(|len| self.begin_assembly(len, room, fed));
        if begun.is_err() {
            fed.credit += MESSAGE_PREFIX_BYTES;
        }
        begun
    }

    /// Queues whole small messages, given with their lengths.
    fn queue(&mut self, bytes: &[u8], messages: usize) {
        if messages == 0 {
            return;
        }
        if messages == 1 && self.chunks.is_empty() {
            let mut buffer = std::mem::take(&mut self.lent);
            if buffer.capacity() == 0 {
                buffer = pool::take();
            }
            buffer.extend_from_slice(&bytes[MESSAGE_PREFIX_BYTES..]);
            self.chunks.push_back((Chunk::One(Payload::pooled(buffer)), bytes.len()));
            return;
        }
        self.batch(&[bytes], bytes.len());
    }

    fn begin_assembly(&mut self, len: usize, room: usize, fed: &mut Fed) -> Result<(), StreamError> {
        if len > room {
            return Err(too_much_incomplete(len, room));
        }
        // Memory follows the bytes: what is reserved ahead is bounded, however long the message claims to be.
        let bytes = pool::take_large(len.min(ASSEMBLY_AHEAD_BYTES));
        let reserved = bytes.capacity();
        fed.reserved += reserved;
        self.assembly = Some(Box::new(Assembly {
            bytes,
            len,
            uncredited: MESSAGE_PREFIX_BYTES,
            reserved,
        }));
        self.note_assembled(0, fed);
        self.complete_assembly(fed);
        Ok(())
    }

    /// Credit for a message under way is given as it arrives, but only while nothing before it is unread: so a slow reader holds one
    /// message and one window, never more.
    fn note_assembled(&mut self, bytes: usize, fed: &mut Fed) {
        let Some(assembly) = &mut self.assembly else { return };
        assembly.uncredited += bytes;
        if self.chunks.is_empty() {
            fed.credit += std::mem::take(&mut assembly.uncredited);
        }
    }

    fn complete_assembly(&mut self, fed: &mut Fed) {
        if self.assembly.as_ref().is_none_or(|assembly| assembly.bytes.len() < assembly.len) {
            return;
        }
        let Some(assembly) = self.assembly.take() else { return };
        fed.released += assembly.reserved;
        fed.messages += 1;
        let payload = if assembly.len >= LINK_BYTES_MIN {
            Payload::from(pool::share_large(assembly.bytes))
        } else if self.chunks.is_empty() {
            Payload::pooled(assembly.bytes)
        } else {
            let prefix = u32::try_from(assembly.len).unwrap_or(u32::MAX).to_be_bytes();
            self.batch(&[&prefix, &assembly.bytes], assembly.uncredited);
            pool::give(assembly.bytes);
            return;
        };
        self.chunks.push_back((Chunk::One(payload), assembly.uncredited));
    }

    /// Appends whole small messages, given in parts, to the buffer at the back of the queue: a peer cannot make many tiny messages cost more than
    /// their bytes. `credit` is given back with them.
    fn batch(&mut self, parts: &[&[u8]], credit: usize) {
        if let Some((Chunk::Batch(batch), owed)) = self.chunks.back_mut() {
            parts.iter().for_each(|part| batch.extend_from_slice(part));
            *owed += credit;
            return;
        }
        let mut batch = pool::take();
        parts.iter().for_each(|part| batch.extend_from_slice(part));
        self.chunks.push_back((Chunk::Batch(batch), credit));
    }

    /// The next chunk, with the credit to give back.
    pub(super) fn take(&mut self) -> Option<(Chunk, usize)> {
        if let Some((message, credit)) = self.whole() {
            return Some((Chunk::One(message), credit));
        }
        let (chunk, mut credit) = self.chunks.pop_front()?;
        if self.chunks.is_empty()
            && let Some(assembly) = &mut self.assembly
        {
            credit += std::mem::take(&mut assembly.uncredited);
        }
        Some((chunk, credit))
    }

    /// Takes the first message off a batch and puts the rest back; its credit is accounted for already.
    pub(super) fn split_first(&mut self, batch: Vec<u8>) -> Payload {
        let Some((prefix, rest)) = batch.split_first_chunk::<MESSAGE_PREFIX_BYTES>() else {
            return Payload::empty();
        };
        let len = (u32::from_be_bytes(*prefix) as usize).min(rest.len());
        let first = Payload::copied(&rest[..len]);
        if len < rest.len() {
            let mut left = pool::take();
            left.extend_from_slice(&rest[len..]);
            self.chunks.push_front((Chunk::Batch(left), 0));
        }
        pool::give(batch);
        first
    }

    /// Credit of everything that arrived and was not taken; for a stream that ends unread.
    pub(super) fn unread(&self) -> usize {
        if self.chunks.is_empty() && !self.whole && self.assembly.is_none() {
            return usize::from(self.prefix_len);
        }
        let queued: usize = self.chunks.iter().map(|(_, credit)| credit).sum();
        let whole = if self.whole {
            self.lent.len() + MESSAGE_PREFIX_BYTES
        } else {
            0
        };
        whole + queued + self.assembly.as_ref().map_or(0, |assembly| assembly.uncredited) + usize::from(self.prefix_len)
    }

    pub(super) fn reset(&mut self) {
        self.head.clear();
        self.headed = false;
        self.head_unread = false;
        self.prefix_len = 0;
        self.assembly = None;
        self.discarding = false;
        if !self.chunks.is_empty() {
            self.chunks.clear();
        }
        self.fin = false;
        self.status = None;
        self.trailers.clear();
        self.waker = None;
        self.whole = false;
        if self.lent.capacity() > 0 {
            pool::give(std::mem::take(&mut self.lent));
        }
    }
}

/// Memory that a message may reserve ahead of its bytes: what a sender may send without further credit, so a claim costs no more than
/// what the claimant could make us hold anyway.
const ASSEMBLY_AHEAD_BYTES: usize = 1024 * 1024 + 64 * 1024;
/// Bytes by which the memory of a message grows at least before it is read into directly.
const DIRECT_GROWTH_BYTES_MIN: usize = 64 * 1024;

/// Makes room for `more` bytes of the message; `room` bounds what all incomplete messages may reserve beyond what they have.
fn grow_for(assembly: &mut Assembly, more: usize, room: usize, fed: &mut Fed) -> Result<(), StreamError> {
    let before = assembly.bytes.capacity();
    let needed = assembly.bytes.len() + more;
    if before >= needed {
        return Ok(());
    }
    let room = room.saturating_sub(fed.reserved);
    // Twice as much where that fits, so that a message that comes in many pieces is copied only a few times.
    let most = assembly.reserved.saturating_add(room).min(assembly.len);
    if most < needed {
        return Err(too_much_incomplete(assembly.len, room));
    }
    let wanted = (before * 2).clamp(needed, most);
    assembly.bytes.reserve_exact(wanted - assembly.bytes.len());
    let after = assembly.bytes.capacity();
    fed.reserved += after.saturating_sub(assembly.reserved);
    assembly.reserved = after.max(assembly.reserved);
    Ok(())
}

fn too_much_incomplete(len: usize, room: usize) -> StreamError {
    StreamError::TooLarge {
        what: "the incomplete messages of the connection, with this one,",
        len,
        limit: room,
    }
}

/// How many of `bytes` are whole messages, and how many messages those are.
fn whole_messages(bytes: &[u8], bytes_max: usize) -> Result<(usize, usize), StreamError> {
    let (mut end, mut messages) = (0, 0);
    while let Some(prefix) = bytes[end..].first_chunk() {
        let len = message_len(*prefix, bytes_max)?;
        if bytes.len() - end - MESSAGE_PREFIX_BYTES < len || len >= LINK_BYTES_MIN {
            break;
        }
        end += MESSAGE_PREFIX_BYTES + len;
        messages += 1;
    }
    Ok((end, messages))
}

/// The length of a message, checked before anything of it is kept.
pub(super) fn message_len(prefix: [u8; MESSAGE_PREFIX_BYTES], bytes_max: usize) -> Result<usize, StreamError> {
    let len = u32::from_be_bytes(prefix);
    if len & COMPRESSED != 0 {
        return Err(StreamError::Compressed);
    }
    let len = len as usize;
    if len > bytes_max {
        return Err(StreamError::TooLarge {
            what: "the message",
            len,
            limit: bytes_max,
        });
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Chunk, Fed, RecvHalf};
    use crate::mux::error::StreamError;

    const MAX: usize = 64 * 1024;
    const ROOM: usize = 4 * MAX;

    fn feed(half: &mut RecvHalf, bytes: &[u8], bytes_max: usize, room: usize) -> Result<Fed, StreamError> {
        let mut fed = Fed::default();
        half.feed(bytes, bytes_max, room, &mut fed).map(|()| fed)
    }

    fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for message in messages {
            bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(message);
        }
        bytes
    }

    fn unframe(chunk: Chunk) -> Vec<Vec<u8>> {
        match chunk {
            Chunk::One(payload) => vec![payload.to_vec()],
            Chunk::Batch(bytes) => {
                let (mut rest, mut messages) = (&bytes[..], Vec::new());
                while let Some((prefix, after)) = rest.split_first_chunk::<4>() {
                    let (message, after) = after.split_at(u32::from_be_bytes(*prefix) as usize);
                    messages.push(message.to_vec());
                    rest = after;
                }
                messages
            }
        }
    }

    #[test]
    fn a_message_at_the_limit_passes_and_above_it_fails_at_its_length() {
        let mut half = RecvHalf::default();
        assert!(feed(&mut half, &framed(&[vec![1; MAX]]), MAX, ROOM).is_ok());
        let above = u32::try_from(MAX + 1).unwrap().to_be_bytes();
        let error = feed(&mut half, &above, MAX, ROOM).unwrap_err();
        assert!(matches!(error, StreamError::TooLarge { limit: MAX, .. }));
        let mut half = RecvHalf::default();
        assert!(
            feed(&mut half, &0x8000_0001_u32.to_be_bytes(), MAX, ROOM).is_err(),
            "compressed"
        );
    }

    #[test]
    fn a_claim_reserves_no_more_than_a_window() {
        let mut half = RecvHalf::default();
        let claim = u32::try_from(64 * 1024 * 1024).unwrap().to_be_bytes();
        let fed = feed(&mut half, &claim, 1 << 30, 1 << 30).unwrap();
        assert!(fed.reserved <= super::ASSEMBLY_AHEAD_BYTES);
        let mut half = RecvHalf::default();
        assert!(
            feed(&mut half, &framed(&[vec![0; 10_000]]), MAX, 9_999).is_err(),
            "no room"
        );
    }

    proptest! {
        /// Whatever the cuts, the same messages come out and all credit comes back.
        #[test]
        fn messages_survive_any_cut(
            sizes in proptest::collection::vec(prop_oneof![0_usize..50, 3_000_usize..9_000], 0..30),
            cuts in proptest::collection::vec(1_usize..5_000, 1..40),
            take_every in 1_usize..5,
        ) {
            let messages: Vec<Vec<u8>> = (0_u8..).zip(&sizes).map(|(fill, size)| vec![fill; *size]).collect();
            let bytes = framed(&messages);
            let (mut half, mut seen, mut credit) = (RecvHalf::default(), Vec::new(), 0);
            let (mut reserved, mut released) = (0, 0);
            let (mut rest, mut step) = (&bytes[..], 0);
            while !rest.is_empty() {
                let cut = cuts[step % cuts.len()].min(rest.len());
                let fed = feed(&mut half, &rest[..cut], MAX, ROOM).unwrap();
                credit += fed.credit;
                reserved += fed.reserved;
                released += fed.released;
                rest = &rest[cut..];
                step += 1;
                if step % take_every == 0 && let Some((chunk, returned)) = half.take() {
                    credit += returned;
                    seen.extend(unframe(chunk));
                }
            }
            while let Some((chunk, returned)) = half.take() {
                credit += returned;
                seen.extend(unframe(chunk));
            }
            prop_assert_eq!(seen, messages);
            prop_assert!(half.is_between_messages());
            prop_assert_eq!(credit, bytes.len());
            prop_assert_eq!(reserved, released);
        }
    }
}
