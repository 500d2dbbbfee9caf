//! Frames <-> streams on one connection, without I/O.
//!
//! [`Mux`] is a value: bytes and instants go in, bytes and events come out. The driver (`transport`) calls, under the connection's lock,
//! - [`Mux::handle_input`] with what it read, [`Mux::handle_timeout`] when [`Mux::next_timeout`] has come, [`Mux::handle_end`] when the
//!   byte stream ended;
//! - [`Mux::poll_transmit`] for what to write, and [`Transmit::advance`] with how much of it was written;
//!
//! and everybody else opens streams, sends and receives through the methods in `calls`. What must happen outside the lock (waking,
//! dispatching) is collected in [`Events`].
//!
//! Invariants: a stream ends exactly once, with one cause; nothing is sent beyond credit; memory is bounded by [`MuxConfig`]'s named limits
//! whatever the peer does; an OPEN leaves in the order of stream ids.
//!
//! Not here: deciding what a message means (`call`, `service`), reading clocks, I/O.

pub mod calls;
mod company;
pub mod config;
mod connection;
pub mod error;
mod flow;
mod frames;
mod heads;
mod ids;
mod lifecycle;
mod nuisance;
mod openers;
mod recv;
mod send;
mod stream;
mod transmit;

use std::collections::VecDeque;
use std::task::Waker;
use std::time::{Duration, Instant};

pub use calls::OpenRequest;
pub use company::{Company, Exclusive, Group};
pub use config::MuxConfig;
pub use error::{ConnectionEnd, OpenError, StreamError};
pub(crate) use frames::CONTIGUOUS_BYTES_MAX;
pub use openers::Place;
pub use recv::{Chunk, UnaryReply};
pub use stream::StreamKey;
pub use transmit::Transmit;

use crate::wire::frame::{ErrorCode, StreamId};
use crate::wire::head::RequestHead;
use crate::wire::hello::Hello;
use crate::wire::message::Payload;
use flow::Window;
use lifecycle::{Keepalive, Shutdown};
use nuisance::Nuisance;
use openers::Openers;
use stream::Streams;
use transmit::Outbox;

/// Which side of a connection a [`Mux`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Role {
    /// Opens streams.
    Client,
    /// Accepts them.
    Server,
}

/// What the driver has to do outside the connection's lock.
#[derive(Debug, Default)]
pub struct Events {
    /// Tasks to wake.
    pub wakers: Vec<Waker>,
    /// Calls that arrived, in order.
    pub incoming: VecDeque<Incoming>,
    /// Calls that are over for their client.
    pub ended: Vec<Ended>,
    /// The peer's HELLO arrived in this batch.
    pub hello: bool,
    /// The peer will accept no further streams.
    pub going_away: bool,
}

impl Events {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wakers.is_empty() && self.incoming.is_empty() && self.ended.is_empty() && !self.hello && !self.going_away
    }

    /// Whether calls arrived whose arguments are complete.
    #[must_use]
    pub fn has_complete_calls(&self) -> bool {
        self.incoming.iter().any(|incoming| !matches!(incoming, Incoming::Opened { arguments: None, .. }))
    }
}

/// A call that arrived at a server.
#[derive(Debug)]
#[non_exhaustive]
pub enum Incoming {
    /// Its head, and its arguments if they came in the same frame.
    Opened {
        /// The stream.
        key: StreamKey,
        /// The request head.
        head: RequestHead,
        /// When the call ends at the latest.
        deadline: Option<Instant>,
        /// The arguments, if they are complete.
        arguments: Option<Payload>,
        /// Nothing follows the arguments.
        fin: bool,
    },
    /// The arguments of a call that was opened before.
    Arguments {
        /// The stream.
        key: StreamKey,
        /// The arguments.
        arguments: Payload,
        /// Nothing follows them.
        fin: bool,
    },
}

impl Incoming {
    /// The stream of the call.
    #[must_use]
    pub fn key(&self) -> StreamKey {
        match self {
            Self::Opened { key, .. } | Self::Arguments { key, .. } => *key,
        }
    }
}

/// A call that is over for its client before the server answered.
#[derive(Debug)]
pub struct Ended {
    /// The stream, which is gone already.
    pub key: StreamKey,
    /// Why.
    pub cause: EndCause,
}

/// Why a call ended early at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndCause {
    /// The client reset the stream.
    Cancelled,
    /// The connection is over.
    Gone,
    /// The deadline passed; the client was told.
    DeadlineExceeded,
    /// The message broke a limit; the client was told.
    Refused,
}

/// The state of one connection; see the module's documentation.
#[derive(Debug)]
pub struct Mux {
    role: Role,
    config: MuxConfig,
    /// The streams of the same connection, where the transport has several.
    company: Company,
    /// What the peer accepts: the protocol's constants until its HELLO.
    peer: Hello,
    hello_received: bool,
    preface_received: bool,
    streams: Streams,
    /// Streams that hardly ever carry anything.
    background: usize,
    /// The newest stream that the peer (server role) or we (client role) opened.
    newest: StreamId,
    /// Handlers that still run though their stream is over; they count against `max_streams`.
    held: usize,
    input: frames::Input,
    outbox: Outbox,
    /// Streams with queued bytes and credit, in turn.
    ready: VecDeque<StreamKey>,
    /// Streams with queued bytes that wait for the connection's credit.
    starved: VecDeque<StreamKey>,
    /// Tasks that wait until a stream may be opened.
    openers: Openers,
    send_credit: u32,
    recv_window: Window,
    /// Bytes of incomplete messages, over all streams.
    assembling: usize,
    /// Bytes of unary answers that wait for credit or for their turn.
    queued_answers: usize,
    /// Tasks to wake that were found where no [`Events`] was at hand.
    woken: Vec<Waker>,
    /// Calls whose deadlines begin with the next reading of the clock.
    undated: Vec<(StreamKey, Duration)>,
    nuisance: Nuisance,
    /// The frame under way is tiny; it counts unless it completes a message.
    nuisance_pending: bool,
    keepalive: Keepalive,
    shutdown: Shutdown,
    end: Option<ConnectionEnd>,
}

impl Mux {
    /// A connection's state; the preface and HELLO are queued for sending.
    #[must_use]
    pub fn new(role: Role, config: MuxConfig, now: Instant) -> Self {
        let peer = Hello::default();
        let mut mux = Self {
            role,
            recv_window: Window::new(config.connection_window),
            send_credit: peer.connection_window,
            peer,
            hello_received: false,
            preface_received: false,
            streams: Streams::default(),
            background: 0,
            newest: StreamId::CONNECTION,
            held: 0,
            input: frames::Input::default(),
            outbox: Outbox::default(),
            ready: VecDeque::new(),
            starved: VecDeque::new(),
            openers: Openers::default(),
            assembling: 0,
            queued_answers: 0,
            woken: Vec::new(),
            undated: Vec::new(),
            nuisance: Nuisance::new(now),
            nuisance_pending: false,
            keepalive: Keepalive::new(now),
            shutdown: Shutdown::default(),
            end: None,
            company: Company::Alone,
            config,
        };
        mux.outbox.push_preface(&mux.config.hello());
        mux
    }

    /// A connection's state among others of the same peer; `known` is what the peer said that it accepts, if it said so already.
    #[must_use]
    pub fn in_company(role: Role, config: MuxConfig, company: Company, known: Option<Hello>, now: Instant) -> Self {
        let mut mux = Self::new(role, config, now);
        if let Company::Lane(group) = &company {
            group.set_limit(mux.config.max_streams as usize);
        }
        mux.company = company;
        if let Some(known) = known {
            mux.send_credit = known.connection_window;
            // Each stream gets a window of its own size, by its own HELLO.
            mux.peer = Hello {
                stream_window: mux.peer.stream_window,
                ..known
            };
        }
        mux
    }

    /// Why the connection is over; `None` while it lives.
    #[must_use]
    pub fn end(&self) -> Option<&ConnectionEnd> {
        self.end.as_ref()
    }

    /// How many streams are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// Whether no stream is open but those in the background.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.streams.len() <= self.background
    }

    /// What the peer accepts: the protocol's constants until its HELLO arrived.
    #[must_use]
    pub fn peer(&self) -> &Hello {
        &self.peer
    }

    /// As if all calls up to `newest` had been made.
    #[cfg(test)]
    pub(crate) fn skip_ids_to(&mut self, newest: StreamId) {
        self.newest = newest;
    }

    /// Whether this side answers calls.
    #[must_use]
    pub fn is_server(&self) -> bool {
        self.role == Role::Server
    }

    /// What the peer said that it accepts, if it did.
    #[must_use]
    pub fn hello_of_peer(&self) -> Option<Hello> {
        self.hello_received.then(|| self.peer.clone())
    }

    /// Tells the other streams of the connection what this one holds.
    fn publish(&self) {
        match &self.company {
            Company::Alone => {}
            Company::Lane(group) => group.publish_lane(self.streams.len() + self.held),
            Company::Exclusive(own) => own.publish(self.assembling),
        }
    }

    /// How many bytes further messages under way may take.
    fn assembly_room(&self) -> usize {
        let taken = self.assembling + self.company.assembling_elsewhere();
        self.config.assembly_bytes_max.saturating_sub(taken)
    }

    /// Whether calls may be opened, if there is room.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        self.end.is_none() && self.shutdown == Shutdown::No
    }

    /// Lets the first call in line open its stream, if there is room now.
    pub fn room_for_openers(&mut self) {
        self.woken.extend(self.openers.pop());
    }

    /// Whether the peer's HELLO arrived.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.hello_received
    }

    /// The limits of this side.
    #[must_use]
    pub fn config(&self) -> &MuxConfig {
        &self.config
    }

    /// Ends the connection because the peer broke the protocol: GOAWAY is queued and every stream fails.
    fn fail(&mut self, code: ErrorCode, reason: impl Into<String>, events: &mut Events) {
        let end = ConnectionEnd::ours(code, reason);
        let last = self.last_taken_up();
        self.finish(end.clone(), events);
        self.outbox.push_go_away(last, code, end.reason());
    }

    /// Ends every stream with the same cause.
    fn finish(&mut self, end: ConnectionEnd, events: &mut Events) {
        self.finish_as(end, EndCause::Gone, events);
    }

    /// As [`finish`](Self::finish), with what it was to the calls of a server.
    fn finish_as(&mut self, end: ConnectionEnd, cause: EndCause, events: &mut Events) {
        if self.end.is_some() {
            return;
        }
        self.end = Some(end.clone());
        let sent = self.outbox.sent();
        let role = self.role;
        if role == Role::Client {
            // What has not left never will: its calls are told so, and may be made elsewhere.
            self.outbox.forget_unsent();
        }
        self.streams.for_each(|stream| {
            let error = StreamError::Connection {
                end: end.clone(),
                sent: stream.opened_at < sent,
            };
            stream.fail(error, events);
            if role == Role::Server {
                events.ended.push(Ended {
                    key: stream.key(),
                    cause,
                });
            }
        });
        if role == Role::Server {
            self.streams.clear();
            if self.held == 0 {
                self.company.at_rest();
            }
            self.queued_answers = 0;
        }
        self.ready.clear();
        self.starved.clear();
        self.assembling = 0;
        self.publish();
        events.wakers.extend(self.openers.drain());
    }

    /// Whether an operation left nobody to wake and no drain to finish.
    #[must_use]
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.woken.is_empty() && (self.shutdown == Shutdown::No || !self.is_drained())
    }

    /// Moves the tasks to wake that [`poll_transmit`](Self::poll_transmit) and the calls found into `wakers`.
    pub fn take_woken(&mut self, wakers: &mut Vec<Waker>) {
        wakers.append(&mut self.woken);
    }

    /// Gives memory back; for a connection that is at rest.
    pub fn shrink(&mut self) {
        self.streams.shrink();
        if self.outbox.small.is_empty() {
            self.outbox.small = Vec::new();
        }
        // Streams in the background may have something to say or to hear.
        self.ready.shrink_to_fit();
        self.starved.shrink_to_fit();
        self.woken.shrink_to_fit();
        self.undated.shrink_to_fit();
    }

    fn last_taken_up(&self) -> StreamId {
        match self.role {
            Role::Server => self.shutdown.last_stream().unwrap_or(self.newest).min(self.newest),
            Role::Client => StreamId::CONNECTION,
        }
    }
}

#[cfg(test)]
mod tests;
