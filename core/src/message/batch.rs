//! Streams of messages as they travel: many small ones in one buffer, a large one on its own.

use std::fmt;
use std::task::{Context, Poll};

use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::frame::MESSAGE_PREFIX_BYTES;
use crate::wire::message::{EncodedMessage, Payload};

/// Small messages are collected up to this many bytes before they leave: one frame, one lock, one write.
const BATCH_BYTES: usize = 48 * 1024;

/// Messages that travel together: small ones back to back, each with its length in front, then at most one large one.
#[derive(Debug, Default)]
pub struct Batch {
    /// The small messages.
    pub bytes: Vec<u8>,
    /// The large message behind them.
    pub large: Option<LargeMessage>,
}

/// A message that is too large to be copied into a batch.
#[non_exhaustive]
pub enum LargeMessage {
    /// On its way out.
    Encoded(EncodedMessage),
    /// As it came in.
    Received(Payload),
}

impl LargeMessage {
    /// The message in the form in which it is sent.
    #[must_use]
    pub fn into_encoded(self) -> EncodedMessage {
        match self {
            Self::Encoded(message) => message,
            Self::Received(payload) => EncodedMessage::from_encoded(payload.to_bytes()),
        }
    }

    /// The message in the form in which it is decoded.
    #[must_use]
    pub fn into_payload(self) -> Payload {
        match self {
            Self::Encoded(message) => message.to_payload(),
            Self::Received(payload) => payload,
        }
    }
}

impl fmt::Debug for LargeMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Encoded(message) => message.fmt(f),
            Self::Received(payload) => payload.fmt(f),
        }
    }
}

impl Batch {
    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.large.is_none()
    }

    /// Whether it should leave before more is added.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= BATCH_BYTES || self.large.is_some()
    }

    /// Appends a small message that `write` writes; what was written before an error is taken back.
    ///
    /// # Errors
    /// The error of `write`.
    pub fn push_with<E>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; MESSAGE_PREFIX_BYTES]);
        if let Err(error) = write(&mut self.bytes) {
            self.bytes.truncate(at);
            return Err(error);
        }
        let len = u32::try_from(self.bytes.len() - at - MESSAGE_PREFIX_BYTES).unwrap_or(u32::MAX);
        self.bytes[at..at + MESSAGE_PREFIX_BYTES].copy_from_slice(&len.to_be_bytes());
        Ok(())
    }
}

/// A stream of messages in their encoded form, filled batch by batch.
///
/// One virtual call per batch, none per message.
pub trait MessageStream: Send {
    /// Adds messages to `batch` until it is full or no more are ready.
    ///
    /// - `Ready(Ok(true))`: messages were added, and there may be more.
    /// - `Ready(Ok(false))`: the stream ended in order; nothing was added.
    /// - `Pending`: nothing was added; the task is woken when there is something.
    ///
    /// # Errors
    /// The status with which the stream ended; nothing was added.
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>>;

    /// The trailers, once the stream has ended.
    fn take_trailers(&mut self) -> Metadata {
        Metadata::new()
    }
}
