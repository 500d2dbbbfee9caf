//! One message: encoded and on its way out, or received and not yet decoded.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::frame::MESSAGE_PREFIX_BYTES;
use super::pool;

/// Below this, bytes are copied; from it on, a [`Bytes`] is linked. Copying 4 KiB costs less than one more segment in a write.
pub const LINK_BYTES_MIN: usize = 4 * 1024;

/// An encoded message with its length prefix, ready to be sent any number of times.
///
/// One large top-level `Bytes` may be linked instead of copied.
pub struct EncodedMessage {
    buffer: Vec<u8>,
    /// Apart, because most messages have none and all of them are moved.
    link: Option<Box<Link>>,
}

#[derive(Clone)]
struct Link {
    at: usize,
    bytes: Bytes,
}

impl EncodedMessage {
    /// A message that is written by `write` into a pooled buffer.
    pub(crate) fn new() -> Self {
        let mut buffer = pool::take();
        buffer.extend_from_slice(&[0; MESSAGE_PREFIX_BYTES]);
        Self { buffer, link: None }
    }

    /// The message that consists of these bytes, encoded elsewhere.
    #[must_use]
    pub fn from_encoded(bytes: Bytes) -> Self {
        let mut message = Self::new();
        message.push_bytes(bytes);
        message.seal();
        message
    }

    pub(crate) fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Appends raw bytes: linked when they are large and nothing is linked yet, else copied.
    pub(crate) fn push_bytes(&mut self, bytes: Bytes) {
        if bytes.len() >= LINK_BYTES_MIN && self.link.is_none() {
            self.link = Some(Box::new(Link {
                at: self.buffer.len(),
                bytes,
            }));
        } else {
            self.buffer.extend_from_slice(&bytes);
        }
    }

    /// Writes the length prefix; to be called once, when all is written.
    pub(crate) fn seal(&mut self) {
        let len = u32::try_from(self.message_len()).unwrap_or(u32::MAX);
        self.buffer[..MESSAGE_PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
    }

    /// Bytes of the message, without its prefix.
    #[must_use]
    pub fn message_len(&self) -> usize {
        self.wire_len() - MESSAGE_PREFIX_BYTES
    }

    /// Bytes that it takes on a stream, with its prefix.
    #[must_use]
    pub fn wire_len(&self) -> usize {
        self.buffer.len() + self.link.as_ref().map_or(0, |link| link.bytes.len())
    }

    /// All bytes with the prefix, if nothing is linked.
    #[must_use]
    pub fn as_contiguous(&self) -> Option<&[u8]> {
        match &self.link {
            None => Some(&self.buffer),
            Some(_) => None,
        }
    }

    /// The bytes with the prefix as shared pieces, for a send queue.
    pub fn to_pieces(&self, mut push: impl FnMut(Bytes)) {
        match &self.link {
            None => push(Bytes::copy_from_slice(&self.buffer)),
            Some(link) => {
                let (before, after) = self.buffer.split_at(link.at);
                push(Bytes::copy_from_slice(before));
                push(link.bytes.clone());
                if !after.is_empty() {
                    push(Bytes::copy_from_slice(after));
                }
            }
        }
    }

    /// As [`to_pieces`](Self::to_pieces) for a message that is sent once: a large buffer is handed over, not copied.
    pub fn into_pieces(mut self, mut push: impl FnMut(Bytes)) {
        if self.link.is_none() && self.buffer.len() >= LINK_BYTES_MIN {
            push(Bytes::from(std::mem::take(&mut self.buffer)));
        } else {
            self.to_pieces(push);
        }
    }

    /// The message as one received it, without going over a wire.
    #[must_use]
    pub fn to_payload(&self) -> Payload {
        match &self.link {
            None => Payload::copied(&self.buffer[MESSAGE_PREFIX_BYTES..]),
            Some(link) if link.at == MESSAGE_PREFIX_BYTES && self.buffer.len() == link.at => {
                Payload::from(link.bytes.clone())
            }
            Some(link) => {
                let mut whole = Vec::with_capacity(self.message_len());
                whole.extend_from_slice(&self.buffer[MESSAGE_PREFIX_BYTES..link.at]);
                whole.extend_from_slice(&link.bytes);
                whole.extend_from_slice(&self.buffer[link.at..]);
                Payload::from(Bytes::from(whole))
            }
        }
    }
}

impl Drop for EncodedMessage {
    fn drop(&mut self) {
        pool::give(std::mem::take(&mut self.buffer));
    }
}

impl fmt::Debug for EncodedMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedMessage({} bytes)", self.message_len())
    }
}

/// A received message, without its prefix.
///
/// A small one lies in a pooled buffer of its own, so that it never pins a read buffer; a large one is shared.
pub struct Payload(Repr);

enum Repr {
    Pooled(Vec<u8>),
    /// Apart, because small messages are moved more often.
    Shared(Box<Bytes>),
}

impl Payload {
    /// A payload with a copy of `bytes` in a pooled buffer.
    #[must_use]
    pub fn copied(bytes: &[u8]) -> Self {
        if bytes.len() >= LINK_BYTES_MIN {
            return Self::from(Bytes::copy_from_slice(bytes));
        }
        let mut buffer = pool::take();
        buffer.extend_from_slice(bytes);
        Self(Repr::Pooled(buffer))
    }

    /// A payload in a buffer that came out of the pool.
    #[must_use]
    pub fn pooled(buffer: Vec<u8>) -> Self {
        Self(Repr::Pooled(buffer))
    }

    /// An empty payload.
    #[must_use]
    pub fn empty() -> Self {
        Self(Repr::Pooled(Vec::new()))
    }

    /// The bytes of `range` as a `Bytes`: shared when this payload is, else copied.
    #[must_use]
    pub(crate) fn slice(&self, range: std::ops::Range<usize>) -> Bytes {
        match &self.0 {
            Repr::Pooled(buffer) => Bytes::copy_from_slice(&buffer[range]),
            Repr::Shared(bytes) => bytes.slice(range),
        }
    }

    /// All bytes as a `Bytes`: shared when this payload is, else copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.slice(0..self.len())
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Shared(Box::new(bytes)))
    }
}

impl Deref for Payload {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Pooled(buffer) => buffer,
            Repr::Shared(bytes) => bytes,
        }
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        if let Repr::Pooled(buffer) = &mut self.0 {
            pool::give(std::mem::take(buffer));
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{EncodedMessage, LINK_BYTES_MIN};

    #[test]
    fn a_large_bytes_is_linked_and_comes_back_whole() {
        let large = Bytes::from(vec![7; LINK_BYTES_MIN]);
        let message = EncodedMessage::from_encoded(large.clone());
        assert_eq!(message.message_len(), LINK_BYTES_MIN);
        assert!(message.as_contiguous().is_none());
        let mut pieces = Vec::new();
        message.to_pieces(|piece| pieces.push(piece));
        assert_eq!(pieces.len(), 2);
        assert_eq!(pieces[1].as_ptr(), large.as_ptr(), "not copied");
        let payload = message.to_payload();
        assert_eq!(payload.to_bytes().as_ptr(), large.as_ptr(), "not copied");
    }

    #[test]
    fn a_small_bytes_is_copied() {
        let small = Bytes::from(vec![7; LINK_BYTES_MIN - 1]);
        let message = EncodedMessage::from_encoded(small);
        let bytes = message.as_contiguous().unwrap();
        assert_eq!(bytes.len(), 4 + LINK_BYTES_MIN - 1);
        assert_eq!(bytes[..4], [0, 0, 0x0f, 0xff]);
    }
}
