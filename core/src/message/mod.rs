//! What a call comes to: replies, outcomes, streams, and application errors.
//!
//! Interceptors see these types on both sides. They are not generic over the messages' types, so one interceptor covers unary calls
//! and streams alike and is compiled once.

mod app_error;
mod batch;
mod channel;
mod shape;
mod streaming;

use std::fmt;

pub use app_error::{AppError, CallError, FromStatus, IntoApp, app_status, flatten};
pub use batch::{Batch, LargeMessage, MessageStream};
pub use channel::{SendError, StreamSender};
pub use shape::{ReplyShape, Returns, Wire, respond, respond_infallible};
pub use streaming::Streaming;

use crate::code::Code;
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::message::{EncodedMessage, Payload};

/// How a call ended: with a reply, or with a status.
pub type Outcome = Result<Reply, Status>;

/// A successful answer: metadata, one message or a stream of them, trailers.
#[derive(Default)]
pub struct Reply {
    metadata: Metadata,
    body: Body,
    trailers: Metadata,
}

/// The messages of a reply.
#[derive(Default)]
#[non_exhaustive]
pub enum Body {
    /// No message.
    #[default]
    Empty,
    /// One message that is on its way out.
    Encoded(EncodedMessage),
    /// One message that came in.
    Received(Payload),
    /// A stream of messages.
    Stream(Box<dyn MessageStream>),
}

impl Reply {
    /// A reply with one or many messages.
    #[must_use]
    pub fn new(body: Body) -> Self {
        Self {
            metadata: Metadata::new(),
            body,
            trailers: Metadata::new(),
        }
    }

    /// The metadata that travels before the first message.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The metadata, to add to.
    pub fn metadata_mut(&mut self) -> &mut Metadata {
        &mut self.metadata
    }

    /// The metadata that travels after the last message; of a stream that is received it is known only at its end.
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }

    /// The trailers, to add to.
    pub fn trailers_mut(&mut self) -> &mut Metadata {
        &mut self.trailers
    }

    /// Whether the reply is a stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self.body, Body::Stream(_))
    }

    /// Bytes of the one message; 0 for a stream.
    #[must_use]
    pub fn message_len(&self) -> usize {
        match &self.body {
            Body::Empty | Body::Stream(_) => 0,
            Body::Encoded(message) => message.message_len(),
            Body::Received(payload) => payload.len(),
        }
    }

    /// Replaces the stream by what `wrap` makes of it; a single message is left alone.
    #[must_use]
    pub fn map_stream(mut self, wrap: impl FnOnce(Box<dyn MessageStream>) -> Box<dyn MessageStream>) -> Self {
        if let Body::Stream(stream) = self.body {
            self.body = Body::Stream(wrap(stream));
        }
        self
    }

    /// Takes the reply apart.
    #[must_use]
    pub fn into_parts(self) -> (Metadata, Body, Metadata) {
        (self.metadata, self.body, self.trailers)
    }

    /// A reply with these parts.
    #[must_use]
    pub fn from_parts(metadata: Metadata, body: Body, trailers: Metadata) -> Self {
        Self {
            metadata,
            body,
            trailers,
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("metadata", &self.metadata)
            .field("body", &self.body)
            .field("trailers", &self.trailers)
            .finish()
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("Empty"),
            Self::Encoded(message) => message.fmt(f),
            Self::Received(payload) => payload.fmt(f),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// The code of an outcome, whichever way it went.
pub trait OutcomeCode {
    /// [`Code::Ok`] or the status's code.
    fn code(&self) -> Code;
}

impl OutcomeCode for Outcome {
    fn code(&self) -> Code {
        match self {
            Ok(_) => Code::Ok,
            Err(status) => status.code(),
        }
    }
}

#[cfg(test)]
mod tests;
