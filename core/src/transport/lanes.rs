//! The streams of one QUIC connection as a client uses them: which call shares the lane, and which has a stream to itself.
//!
//! A stream of its own costs a call several times what a place in the lane does, and what it buys is that nobody waits for anybody else's bytes. So the
//! small calls share, and those that stream or bring a large request do not. A stream is kept for the next such call, unless the call that had it was
//! cancelled: then it is reset, and what was under way on it is dropped at once. Where packets are lost, small calls have streams of their own, too: in a
//! shared one each loss holds up all of them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::acceptor::NoCalls;
use super::connection::{Connection, Lifecycle, Shared};
use super::driver;
use super::io::Siblings;
use crate::mux::{Company, Exclusive, MuxConfig, Role};
use crate::wire::frame::ErrorCode;

/// A request above this size has a stream to itself. Source: the cost of a stream is that of some tens of kilobytes (benches/peers).
pub(crate) const OWN_STREAM_BYTES_MIN: usize = 64 * 1024;
/// Streams beside the lane that are open at a time; calls above it share the lane.
const STREAMS_MAX: usize = 127;
/// Rest after which a stream is closed: long enough to serve the next of a series of calls, short enough to hold nothing for long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What a connection is to others of the same transport.
pub(super) enum Place {
    /// There are none, or this side does not open them.
    Alone,
    /// Client: small calls share this one.
    Lane(Arc<Lanes>),
    /// Client: one call at a time has this one to itself.
    Exclusive(OfLane),
}

/// A stream for one call at a time, and the lane of its connection.
pub(super) struct OfLane {
    own: Arc<Exclusive>,
    lane: Weak<Shared>,
}

/// The streams beside the lane.
pub(super) struct Lanes {
    siblings: Arc<dyn Siblings>,
    config: MuxConfig,
    runtime: Handle,
    streams: Mutex<Vec<Member>>,
}

struct Member {
    own: Arc<Exclusive>,
    connection: Connection,
    /// Kept for its destructor.
    _task: Aborting,
}

/// A task that ends with its owner.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lanes {
    /// For a connection within a runtime, which drives its streams.
    pub(super) fn new(siblings: Arc<dyn Siblings>, config: MuxConfig) -> Self {
        Self {
            siblings,
            config,
            runtime: Handle::current(),
            streams: Mutex::default(),
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Member>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream for one call; `None` if there are as many as may be.
    fn take(self: &Arc<Self>, lane: &Connection) -> Option<Connection> {
        let mut streams = self.streams();
        for member in &*streams {
            if !member.own.is_taken() && member.own.take() {
                if !member.connection.is_leaving() {
                    return Some(member.connection.clone());
                }
                member.own.give_back();
            }
        }
        if streams.len() >= STREAMS_MAX {
            return None;
        }
        let stream = self.siblings.open()?;
        let Company::Exclusive(own) = stream.company.clone() else {
            return None;
        };
        let known = lane.lock().mux.hello_of_peer();
        let place = Place::Exclusive(OfLane {
            own: Arc::clone(&own),
            lane: lane.downgrade(),
        });
        let config = MuxConfig {
            idle_timeout: Some(IDLE_TIMEOUT),
            ..self.config.clone()
        };
        let (connection, driver) = driver::start_at(place, known, stream, Role::Client, config, NoCalls);
        let (members, this) = (Arc::downgrade(self), connection.clone());
        let task = self.runtime.spawn(async move {
            driver.await;
            if let Some(members) = members.upgrade() {
                members.streams().retain(|member| !member.connection.is_same(&this));
            }
        });
        let _fresh = own.take();
        streams.push(Member {
            own,
            connection: connection.clone(),
            _task: Aborting(task),
        });
        Some(connection)
    }

    /// Whether a call runs on any of the streams.
    fn is_busy(&self) -> bool {
        self.streams().iter().any(|member| member.own.is_taken())
    }
}

impl OfLane {
    pub(super) fn is_taken(&self) -> bool {
        self.own.is_taken()
    }

    /// The call is over: one that waits for the lane may begin.
    pub(super) fn call_ended(&self) {
        if let Some(shared) = self.lane.upgrade() {
            Connection::of(shared).let_openers_look();
        }
    }
}

impl Connection {
    /// Where a call is to be opened: here, or on a stream of its own.
    #[must_use]
    pub fn for_call(self, needs_own_stream: bool) -> Self {
        match self.place() {
            Place::Lane(lanes) if needs_own_stream || lanes.siblings.spreads_calls() => {
                lanes.take(&self).unwrap_or(self)
            }
            _ => self,
        }
    }

    /// A call for which this stream was taken was not opened.
    pub fn not_opened(&self) {
        if let Place::Exclusive(of) = self.place() {
            of.own.give_back();
            of.call_ended();
        }
    }

    /// Whether calls run on streams beside this one, which need this handle kept.
    #[must_use]
    pub fn has_busy_siblings(&self) -> bool {
        match self.place() {
            Place::Lane(lanes) => lanes.is_busy(),
            Place::Alone | Place::Exclusive(_) => false,
        }
    }

    /// Ends the streams beside this one, if there are any.
    pub(super) fn close_siblings(&self, code: ErrorCode, reason: &str) {
        if let Place::Lane(lanes) = self.place() {
            let members: Vec<Self> = lanes.streams().iter().map(|member| member.connection.clone()).collect();
            for member in members {
                member.close(code, reason);
            }
        }
    }

    fn is_leaving(&self) -> bool {
        matches!(self.current(), Lifecycle::GoingAway | Lifecycle::Closed(_))
    }
}
