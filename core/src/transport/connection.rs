//! One connection as everybody but its driver sees it: a lock around the mux, and the rule about who writes.
//!
//! A caller queues frames under the lock. If its stream is the only one, it writes them itself, outside the lock, before it returns;
//! otherwise the driver is woken once and writes for all. No caller is ever left with a duty that outlasts its poll, so a call that is
//! polled once and then forgotten delays nobody.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::background::BackgroundStream;
use super::io::{Early, SharedWrite, Writer};
use super::lanes::Relation;
use super::state::State;
use super::write::{Written, write_out};
use crate::context::Peer;
use crate::metadata::Metadata;
use crate::mux::{
    Chunk, ConnectionEnd, Events, Mux, OpenError, OpenRequest, Place, StreamError, StreamKey, UnaryReply,
};
use crate::status::Status;
use crate::time;
use crate::wire::frame::ErrorCode;
use crate::wire::message::EncodedMessage;

/// Where a connection stands.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Lifecycle {
    /// The peer's HELLO has not arrived; calls may leave already.
    Connecting,
    /// The peer's HELLO arrived.
    Ready,
    /// The peer accepts no further calls.
    GoingAway,
    /// Over.
    Closed(ConnectionEnd),
}

/// A handle to a connection; cheap to clone.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    state: Mutex<State>,
    pub(super) writer: Writer,
    peer: Peer,
    /// As [`Mux::is_full_of_answers`] said when it was last asked under the lock; read for every call without it.
    full_of_answers: AtomicBool,
    /// Calls that the peer takes at a time, as its HELLO says.
    calls_max: AtomicU32,
    lifecycle: watch::Sender<Lifecycle>,
    /// What it is to other streams of the same connection.
    relation: Relation,
    early: Option<Arc<dyn Early>>,
}

impl Connection {
    pub(super) fn new(mux: Mux, writer: Writer, peer: Peer, relation: Relation, early: Option<Arc<dyn Early>>) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new(mux)),
                writer,
                peer,
                full_of_answers: AtomicBool::new(false),
                calls_max: AtomicU32::new(0),
                lifecycle: watch::Sender::new(Lifecycle::Connecting),
                relation,
                early,
            }),
        }
    }

    pub(super) fn of(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    pub(super) fn downgrade(&self) -> Weak<Shared> {
        Arc::downgrade(&self.shared)
    }

    pub(super) fn relation(&self) -> &Relation {
        &self.shared.relation
    }

    /// The other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.shared.peer
    }

    /// Follows where the connection stands.
    #[must_use]
    pub fn lifecycle(&self) -> watch::Receiver<Lifecycle> {
        self.shared.lifecycle.subscribe()
    }

    /// Where the connection stands now.
    #[must_use]
    pub fn current(&self) -> Lifecycle {
        self.shared.lifecycle.borrow().clone()
    }

    /// Whether the peer's HELLO ever arrived, also when the connection is over.
    #[must_use]
    pub fn was_ready(&self) -> bool {
        self.lock().mux.is_ready()
    }

    /// Whether both are handles to the same connection.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether the handshake is not done yet, so that only what may be done twice is to be asked for.
    #[must_use]
    pub fn is_early(&self) -> bool {
        self.shared.early.as_ref().is_some_and(|early| !early.is_over())
    }

    /// Client: resolves when the handshake is done, or the connection is gone. Cancel safe.
    pub async fn confirmed(&self) {
        if let Some(early) = &self.shared.early {
            early.over().await;
        }
    }

    /// How many streams are open.
    #[must_use]
    pub fn open_streams(&self) -> usize {
        self.lock().mux.open_streams()
    }

    /// Opens a call and registers `task` for its answer.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, now: Instant, request: &OpenRequest<'_>, task: &Context<'_>) -> Result<StreamKey, OpenError> {
        self.open_or(now, request, task, |_| {})
    }

    /// As [`open`](Self::open), but on [`OpenError::Full`] the call waits at its place in the line: `task` is woken when its turn comes. The place is to be
    /// given up with [`stop_waiting_to_open`](Self::stop_waiting_to_open).
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_in_turn(
        &self,
        now: Instant,
        request: &OpenRequest<'_>,
        place: &mut Option<Place>,
        task: &Context<'_>,
    ) -> Result<StreamKey, OpenError> {
        self.open_or(now, request, task, |mux| mux.wait_to_open(place, task))
    }

    fn open_or(
        &self,
        now: Instant,
        request: &OpenRequest<'_>,
        task: &Context<'_>,
        full: impl FnOnce(&mut Mux),
    ) -> Result<StreamKey, OpenError> {
        let mut state = self.lock();
        let was_at_rest = state.mux.open_streams() == 0;
        match state.mux.open(now, request) {
            Ok(key) => {
                if request.fin {
                    state.mux.await_reply(key, task);
                }
                // Only the first stream (keepalive) and an earlier deadline can move the timer forward.
                let timers = was_at_rest
                    || match (request.deadline, state.timer_at) {
                        (Some(deadline), Some(at)) => deadline < at,
                        (deadline, None) => deadline.is_some(),
                        (None, Some(_)) => false,
                    };
                self.after(state, timers);
                Ok(key)
            }
            Err(error) => {
                if error == OpenError::Full {
                    full(&mut state.mux);
                }
                drop(state);
                if error == OpenError::GoingAway {
                    // Used-up ids say so here for the first time: whoever keeps the connection has to make another.
                    self.announce(Lifecycle::GoingAway);
                }
                Err(error)
            }
        }
    }

    /// A call no longer waits for [`OpenError::Full`] to pass; see [`Mux::stop_waiting_to_open`].
    pub fn stop_waiting_to_open(&self, place: Place) {
        self.act(|mux| mux.stop_waiting_to_open(place));
    }

    /// Opens a unary call that ends `timeout` from now at the latest, and registers `task` for its answer.
    ///
    /// Reads no clock while other calls share the connection: the driver, which is about to send them all, does it for all.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_within(
        &self,
        timeout: Duration,
        request: &mut OpenRequest<'_>,
        task: &Context<'_>,
    ) -> Result<StreamKey, OpenError> {
        let mut state = self.lock();
        if state.mux.is_at_rest() || !state.transmit.is_empty() {
            // The first call, or the stream takes nothing at the moment and nobody wakes the driver.
            drop(state);
            let now = time::now();
            request.deadline = now.checked_add(timeout);
            return self.open(now, request, task);
        }
        match state.mux.open_within(timeout, request) {
            Ok(key) => {
                state.mux.await_reply(key, task);
                self.after(state, false);
                Ok(key)
            }
            Err(error) => Err(error),
        }
    }

    /// The answer to a unary call; see [`Mux::poll_answer`].
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_reply(&self, key: StreamKey, task: &Context<'_>) -> Poll<Result<UnaryReply, StreamError>> {
        self.act(|mux| mux.poll_answer(key, task))
    }

    /// When an open call ends at the latest.
    #[must_use]
    pub fn deadline(&self, key: StreamKey) -> Option<Instant> {
        self.lock().mux.deadline(key)
    }

    /// Server: a call ends at `deadline` at the latest, whatever its client allows; see [`Mux::limit_deadline`]. For the task of the connection, which sets
    /// its timer afterwards.
    pub fn limit_deadline(&self, key: StreamKey, deadline: Instant) {
        self.lock().mux.limit_deadline(key, deadline);
    }

    /// The response head of a streaming call; see [`Mux::poll_head`].
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_head(&self, key: StreamKey, task: &Context<'_>) -> Poll<Result<Metadata, StreamError>> {
        self.act(|mux| mux.poll_head(key, task))
    }

    /// The status of a call whose opening failed; see [`Mux::take_failure`].
    #[must_use]
    pub fn take_failure(&self, key: StreamKey) -> Option<(Status, Metadata)> {
        self.act(|mux| mux.take_failure(key))
    }

    /// See [`Mux::add_background_stream`]; until what it returns is dropped.
    #[must_use]
    pub fn background_stream(&self) -> BackgroundStream {
        self.lock().mux.add_background_stream();
        BackgroundStream(self.clone())
    }

    /// The next messages of a stream; see [`Mux::poll_chunk`].
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_chunk(&self, key: StreamKey, task: &Context<'_>) -> Poll<Result<Option<Chunk>, StreamError>> {
        self.act(|mux| mux.poll_chunk(key, task))
    }

    /// How a call ended; see [`Mux::take_status`].
    #[must_use]
    pub fn take_status(&self, key: StreamKey) -> (Option<Status>, Metadata) {
        self.act(|mux| mux.take_status(key))
    }

    /// Whether a stream takes more; see [`Mux::poll_send_ready`].
    ///
    /// # Errors
    /// [`StreamError`].
    pub fn poll_send_ready(&self, key: StreamKey, task: &Context<'_>) -> Poll<Result<(), StreamError>> {
        self.act(|mux| mux.poll_send_ready(key, task))
    }

    /// Sends bytes of whole messages; see [`Mux::send`].
    pub fn send(&self, key: StreamKey, batch: Vec<u8>, fin: bool) {
        self.act(|mux| mux.send(key, batch, fin));
    }

    /// Sends one message; see [`Mux::send_message`].
    pub fn send_message(&self, key: StreamKey, message: EncodedMessage) {
        self.act(|mux| mux.send_message(key, message));
    }

    /// Server: answers a unary call; see [`Mux::reply`].
    pub fn reply(&self, key: StreamKey, metadata: &Metadata, message: &EncodedMessage, trailers: &Metadata) {
        self.act(|mux| mux.reply(key, metadata, message, trailers));
    }

    /// Server: sends the response head of a streaming call; see [`Mux::reply_head`].
    pub fn reply_head(&self, key: StreamKey, metadata: &Metadata) -> bool {
        self.act(|mux| mux.reply_head(key, metadata))
    }

    /// Server: ends a call with a status; see [`Mux::finish_call`].
    pub fn finish_call(&self, key: StreamKey, status: Option<&Status>, trailers: &Metadata) {
        self.act(|mux| mux.finish_call(key, status, trailers));
    }

    /// Server: refuses a call that was not processed; see [`Mux::refuse_call`].
    pub fn refuse_call(&self, key: StreamKey) {
        self.act(|mux| mux.refuse_call(key));
    }

    /// Server: drops what arrives on a stream; see [`Mux::stop_reading`].
    pub fn stop_reading(&self, key: StreamKey) {
        self.act(|mux| mux.stop_reading(key));
    }

    /// Server: counts a handler that runs on though its stream is over; see [`Mux::hold`].
    pub fn hold(&self) {
        self.lock().mux.hold();
    }

    /// Server: such a handler has ended; see [`Mux::release`].
    pub fn release(&self) {
        let mut state = self.lock();
        state.mux.release();
        // The last handler may have been all that held off the end of a drain, or of an idle connection.
        let due = state.mux.next_timeout();
        let sooner = due.is_some_and(|due| state.timer_at.is_none_or(|at| due < at));
        let driver = (sooner || state.mux.is_drained()).then(|| state.driver.clone()).flatten();
        drop(state);
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    /// Server: whether no further handler is to begin; see [`Mux::is_full_of_answers`].
    #[must_use]
    pub fn is_full_of_answers(&self) -> bool {
        self.shared.full_of_answers.load(Ordering::Relaxed)
    }

    /// Notes what the mux says of its answers; after anything that changes them.
    pub(super) fn note_answers(&self, mux: &Mux) {
        self.shared.full_of_answers.store(mux.is_full_of_answers(), Ordering::Relaxed);
    }

    /// Notes what the peer's HELLO says.
    #[cold]
    #[inline(never)]
    pub(super) fn note_hello(&self) -> u32 {
        let max = {
            let state = self.lock();
            if state.mux.is_ready() {
                state.mux.peer().max_streams
            } else {
                0
            }
        };
        self.shared.calls_max.store(max, Ordering::Relaxed);
        max
    }

    /// Client: how many calls the server takes at a time, on this connection; 0 before it has said so.
    #[must_use]
    pub fn calls_max(&self) -> u32 {
        match self.shared.calls_max.load(Ordering::Relaxed) {
            // It may be that it was not noted yet.
            0 => self.note_hello(),
            noted => noted,
        }
    }

    /// The largest message that the peer takes.
    #[must_use]
    pub fn reply_bytes_max(&self) -> usize {
        self.lock().mux.reply_bytes_max()
    }

    /// Server: the least time between two load reports, in milliseconds; 0 if the client wants none.
    #[must_use]
    pub fn load_interval_ms(&self) -> u32 {
        self.lock().mux.load_interval_ms()
    }

    /// Server: asks the client to leave; running calls are still answered.
    pub fn start_drain(&self, now: Instant) {
        let mut state = self.lock();
        state.mux.start_drain(now);
        self.after(state, true);
        self.wake_driver();
    }

    /// Server: another stream of the same connection ended before its time; see [`Mux::count_vain_stream`].
    pub fn count_vain_stream(&self) {
        let mut events = Events::default();
        self.act(|mux| mux.count_vain_stream(time::now(), &mut events));
        for waker in events.wakers {
            waker.wake();
        }
        self.wake_driver();
    }

    /// Ends the connection at once: every call ends with the same cause.
    pub fn close(&self, code: ErrorCode, reason: &str) {
        let mut events = Events::default();
        self.lock().mux.close(code, reason, &mut events);
        for waker in events.wakers.drain(..) {
            waker.wake();
        }
        self.wake_driver();
        self.close_siblings(code, reason);
    }

    /// Ends the connection for a driver that cannot do it itself any more.
    pub(super) fn abandon(&self, reason: &str) {
        let mut events = Events::default();
        let end = {
            let mut state = self.lock();
            state.mux.handle_end(reason, &mut events);
            state.mux.take_woken(&mut events.wakers);
            state.driver = None;
            state.mux.end().cloned()
        };
        for waker in events.wakers {
            waker.wake();
        }
        self.shared.writer.shutdown();
        if let Some(end) = end {
            self.announce(Lifecycle::Closed(end));
        }
    }

    pub(super) fn announce(&self, lifecycle: Lifecycle) {
        self.shared.lifecycle.send_if_modified(|current| {
            if matches!(current, Lifecycle::Closed(_)) || *current == lifecycle {
                return false;
            }
            *current = lifecycle;
            true
        });
    }

    /// Resolves when the peer has everything that was written, or is gone.
    pub async fn flushed(&self) {
        self.shared.writer.flushed().await;
    }

    pub(super) fn wake_driver(&self) {
        let driver = self.lock().driver.clone();
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    pub(super) fn writer(&self) -> &Writer {
        &self.shared.writer
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Only code of this crate runs under the lock; should it panic, the connection is as good as its last consistent write.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies many operations under one lock; the driver flushes afterwards.
    pub(crate) fn batch<T>(&self, work: impl FnOnce(&mut Mux) -> T) -> T {
        let mut state = self.lock();
        let result = work(&mut state.mux);
        let mut wakers = Vec::new();
        state.mux.take_woken(&mut wakers);
        self.note_answers(&state.mux);
        drop(state);
        for waker in wakers {
            waker.wake();
        }
        result
    }

    #[inline]
    pub(super) fn act<T>(&self, work: impl FnOnce(&mut Mux) -> T) -> T {
        let mut state = self.lock();
        let exclusive = match &self.shared.relation {
            Relation::Exclusive(of) if of.is_taken() => Some(of),
            _ => None,
        };
        let result = work(&mut state.mux);
        self.after(state, false);
        if let Some(of) = exclusive
            && !of.is_taken()
        {
            of.call_ended();
        }
        result
    }

    /// After an operation: writes at once if alone, else leaves it to the driver.
    #[inline]
    fn after(&self, state: MutexGuard<'_, State>, timers: bool) {
        if timers || !state.mux.is_quiet() || (!state.flush_queued && state.mux.wants_transmit()) {
            self.follow_up(state, timers);
        }
    }

    #[inline(never)]
    fn follow_up(&self, mut state: MutexGuard<'_, State>, timers: bool) {
        let mut wakers = Vec::new();
        state.mux.take_woken(&mut wakers);
        self.note_answers(&state.mux);
        let mut need_driver = timers && {
            let due = state.mux.next_timeout();
            due.is_some_and(|due| state.timer_at.is_none_or(|at| due < at))
        };
        let mut write_now = false;
        // While a turn is blocked, the driver waits for the stream to take more, and writes what has gathered then.
        if state.mux.wants_transmit() && !state.writing && !state.flush_queued && state.transmit.is_empty() {
            if state.mux.is_alone() {
                write_now = true;
            } else {
                state.flush_queued = true;
                need_driver = true;
            }
        }
        need_driver |= state.mux.is_drained();
        let driver = need_driver.then(|| state.driver.clone()).flatten();
        if write_now {
            self.write_now(state);
        } else {
            drop(state);
        }
        for waker in wakers {
            waker.wake();
        }
        if let Some(driver) = driver {
            driver.wake();
        }
    }

    fn write_now(&self, mut state: MutexGuard<'_, State>) {
        let mut transmit = std::mem::take(&mut state.transmit);
        state.mux.poll_transmit(&mut transmit);
        let mut woken = Vec::new();
        state.mux.take_woken(&mut woken);
        state.writing = true;
        drop(state);
        for waker in woken {
            waker.wake();
        }
        let outcome = write_out(&self.shared.writer, &mut transmit, &mut 0);
        let mut state = self.lock();
        state.transmit = transmit;
        state.writing = false;
        let unfinished = match outcome {
            Ok(Written::All) => state.mux.wants_transmit(),
            Ok(Written::Blocked) => true,
            Err(error) => {
                state.broken = Some(error);
                true
            }
        };
        let over = state.mux.is_drained() || state.mux.end().is_some();
        if unfinished || over {
            state.flush_queued |= unfinished;
            state.flush_begun = true;
            let driver = state.driver.clone();
            drop(state);
            if let Some(driver) = driver {
                driver.wake();
            }
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("peer", &self.shared.peer)
            .field("lifecycle", &self.current())
            .finish_non_exhaustive()
    }
}
