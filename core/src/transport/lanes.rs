//! The streams of one QUIC connection as a client uses them: which call shares the lane, and which has a stream to itself.
//!
//! A stream of its own costs a call several times what a place in the lane does, and what it buys is that nobody waits for anybody else's bytes. So the
//! small calls share, and those that stream or bring a large request do not; nor do those of methods that gave a large answer on this connection. A stream is kept for
//! the next such call, unless the call that had it was given up: then it is reset, and what was under way on it is dropped at once. Where packets are
//! lost, small calls have streams of their own, too: in a shared one each loss holds up all of them.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::acceptor::NoCalls;
use super::connection::{Connection, Shared};
use super::driver;
use super::io::Siblings;
use crate::mux::{Company, Events, Exclusive, Mux, MuxConfig, Role, StreamKey};
use crate::wire::frame::ErrorCode;

/// A request above this size has a stream to itself, and so has a call whose method answered with more: to send that much takes many times what a stream
/// costs (`blob64k` and `echo32` of `raw-quinn` in benches/peers).
pub(crate) const OWN_STREAM_BYTES_MIN: usize = 64 * 1024;
/// Streams beside the lane that are open at a time; calls above it share the lane.
const STREAMS_MAX: usize = 127;
/// Rest after which a stream is closed: long enough to serve the next of a series of calls, short enough to hold nothing for long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Methods with large answers that are remembered; of more, the last ones.
const LARGE_METHODS_MAX: usize = 8;

/// What a connection is to others of the same transport.
pub(super) enum Relation {
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
    /// Methods that gave large answers, each in a place of its own; 0 for none.
    large_answers: [AtomicU64; LARGE_METHODS_MAX],
    next_large: AtomicUsize,
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
            large_answers: Default::default(),
            next_large: AtomicUsize::new(0),
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Member>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream for one call; `None` if there are as many as may be.
    fn take(self: &Arc<Self>, lane: &Connection) -> Option<Connection> {
        if !lane.lock().mux.takes_calls() {
            return None;
        }
        let mut streams = self.streams();
        for member in &*streams {
            if !member.own.is_taken() && member.own.take() {
                if member.connection.lock().mux.takes_calls() {
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
        let relation = Relation::Exclusive(OfLane {
            own: Arc::clone(&own),
            lane: lane.downgrade(),
        });
        let config = MuxConfig {
            idle_timeout: Some(IDLE_TIMEOUT),
            ..self.config.clone()
        };
        let (connection, driver) = driver::start_at(relation, known, stream, Role::Client, config, NoCalls);
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

    /// Whether the method gave a large answer.
    fn answers_large(&self, method: u64) -> bool {
        self.large_answers.iter().any(|large| large.load(Ordering::Relaxed) == method)
    }

    /// Notes that an answer was large: its size is known only when it is there, so the next call is the first that it helps.
    fn note_large(&self, method: u64) {
        if !self.answers_large(method) {
            let at = self.next_large.fetch_add(1, Ordering::Relaxed) % LARGE_METHODS_MAX;
            self.large_answers[at].store(method, Ordering::Relaxed);
        }
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
    /// Where a call of `method` is to be opened: here, or on a stream of its own, if that is needed or better.
    #[must_use]
    pub fn for_call(self, method: u64, needs_own_stream: bool) -> Self {
        match self.relation() {
            Relation::Lane(lanes)
                if needs_own_stream || lanes.answers_large(method) || lanes.siblings.spreads_calls() =>
            {
                lanes.take(&self).unwrap_or(self)
            }
            _ => self,
        }
    }

    /// An answer of `method` with so many bytes came on this stream.
    pub fn note_answer(&self, method: u64, bytes: usize) {
        if bytes > OWN_STREAM_BYTES_MIN
            && let Relation::Lane(lanes) = self.relation()
        {
            lanes.note_large(method);
        }
    }

    /// A call for which this stream was taken was not opened.
    pub fn not_opened(&self) {
        if let Relation::Exclusive(of) = self.relation() {
            of.own.give_back();
            of.call_ended();
        }
    }

    /// Client: done with a call; see [`Mux::release_call`].
    pub fn release_call(&self, key: StreamKey) {
        if !matches!(self.relation(), Relation::Exclusive(_)) {
            self.act(|mux| mux.release_call(key));
            return;
        }
        let mut events = Events::default();
        if self.act(|mux| mux.release_with_stream(key, &mut events)) {
            self.cut(events);
        }
    }

    /// Client: gives a call up with a reason; see [`Mux::abort_call`].
    pub fn abort_call(&self, key: StreamKey, reason: String) {
        let is_exclusive = matches!(self.relation(), Relation::Exclusive(_));
        let mut events = Events::default();
        let cuts = self.act(|mux| {
            let running = mux.abort_call(key, reason, &mut events);
            if running && is_exclusive {
                mux.handle_end("the call on this stream was given up", &mut events);
            }
            running && is_exclusive
        });
        if cuts {
            return self.cut(events);
        }
        for waker in events.wakers {
            waker.wake();
        }
    }

    /// The call that had the stream to itself was given up, and the stream with it: both sides drop what is under way.
    fn cut(&self, events: Events) {
        self.writer().reset(ErrorCode::None);
        for waker in events.wakers {
            waker.wake();
        }
        self.wake_driver();
    }

    /// A call has ended elsewhere on the same connection; one that waits here may begin.
    pub(super) fn let_openers_look(&self) {
        self.act(Mux::room_for_openers);
    }

    /// Whether calls run on streams beside this one, which need this handle kept.
    #[must_use]
    pub fn has_busy_siblings(&self) -> bool {
        match self.relation() {
            Relation::Lane(lanes) => lanes.is_busy(),
            Relation::Alone | Relation::Exclusive(_) => false,
        }
    }

    /// Whether calls may run on streams beside this one, now or, as long as it lives, later.
    #[must_use]
    pub fn is_needed_by_siblings(&self) -> bool {
        match self.relation() {
            Relation::Lane(lanes) => lanes.is_busy() || self.lock().mux.end().is_none(),
            Relation::Alone | Relation::Exclusive(_) => false,
        }
    }

    /// Ends the streams beside this one, if there are any.
    pub(super) fn close_siblings(&self, code: ErrorCode, reason: &str) {
        if let Relation::Lane(lanes) = self.relation() {
            let members: Vec<Self> = lanes.streams().iter().map(|member| member.connection.clone()).collect();
            for member in members {
                member.close(code, reason);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::Pin;
    use std::sync::Arc;

    use super::{LARGE_METHODS_MAX, Lanes, MuxConfig, Siblings};
    use crate::transport::io::ByteStream;

    struct Nobody;

    impl Siblings for Nobody {
        fn spreads_calls(&self) -> bool {
            false
        }

        fn open(&self) -> Option<ByteStream> {
            None
        }

        fn accept(&self) -> Pin<Box<dyn Future<Output = Option<ByteStream>> + Send + '_>> {
            Box::pin(std::future::ready(None))
        }
    }

    #[tokio::test]
    async fn methods_with_large_answers_are_remembered_up_to_a_bound() {
        let lanes = Lanes::new(Arc::new(Nobody), MuxConfig::default());
        let methods = 1..=LARGE_METHODS_MAX as u64;
        for method in methods.clone() {
            assert!(!lanes.answers_large(method));
            lanes.note_large(method);
            lanes.note_large(method);
        }
        assert!(methods.clone().all(|method| lanes.answers_large(method)));
        lanes.note_large(100);
        let left = methods.filter(|&method| lanes.answers_large(method)).count();
        assert!(lanes.answers_large(100) && left == LARGE_METHODS_MAX - 1);
    }
}
