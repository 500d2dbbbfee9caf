//! What a server dispatches to: a table of methods, and slots that run one call each.
//!
//! `#[service]` implements [`Service`]; an implementation by hand serves methods that are known only at run time.

mod slot;

use std::fmt;

pub use slot::{BoxSlot, CallSlot, sharing_slot, slot};

use crate::code::Code;
use crate::message::{MessageStream, Streaming, Wire};
use crate::method::MethodSpec;
use crate::wire::message::Payload;

/// A set of methods under one name, and how to run them.
pub trait Service: Send + Sync + 'static {
    /// The methods.
    fn methods(&self) -> &'static [MethodSpec];
    /// A slot that runs one call after the other.
    fn slot(&self) -> BoxSlot;
}

impl<S: Service> Service for std::sync::Arc<S> {
    fn methods(&self) -> &'static [MethodSpec] {
        (**self).methods()
    }

    fn slot(&self) -> BoxSlot {
        (**self).slot()
    }
}

/// A request as the server hands it to a service: the arguments, and the stream that may follow.
pub struct ServerRequest {
    arguments: Payload,
    inbound: Inbound,
}

impl ServerRequest {
    /// A request.
    #[must_use]
    pub fn new(arguments: Payload, inbound: Inbound) -> Self {
        Self { arguments, inbound }
    }

    /// The arguments, encoded.
    #[must_use]
    pub fn arguments(&self) -> &Payload {
        &self.arguments
    }

    /// Takes the request apart.
    #[must_use]
    pub fn into_parts(self) -> (Payload, Inbound) {
        (self.arguments, self.inbound)
    }
}

impl fmt::Debug for ServerRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerRequest").field("arguments", &self.arguments).finish_non_exhaustive()
    }
}

/// The client's stream of a call; empty for methods without one.
#[derive(Default)]
pub struct Inbound {
    stream: Option<Box<dyn MessageStream>>,
}

impl Inbound {
    /// The messages of `stream`.
    #[must_use]
    pub fn new(stream: Box<dyn MessageStream>) -> Self {
        Self { stream: Some(stream) }
    }

    /// The items of the stream.
    #[must_use]
    pub fn streaming<T: Wire>(self) -> Streaming<T> {
        match self.stream {
            Some(stream) => Streaming::remote(stream, Code::InvalidArgument),
            None => Streaming::empty(),
        }
    }

    /// The messages of the stream, encoded; `None` if there is no stream.
    #[must_use]
    pub fn into_messages(self) -> Option<Box<dyn MessageStream>> {
        self.stream
    }
}

impl fmt::Debug for Inbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbound({})", if self.stream.is_some() { "stream" } else { "none" })
    }
}
