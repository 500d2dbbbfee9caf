//! The task of one connection: reads, dispatches, flushes, keeps time.
//!
//! **Reading** takes everything that is there, hands it to the mux under the lock, and acts on the events outside of it. Bytes are read into
//! a buffer that the *thread* owns, so an idle connection holds none; a large body is read straight into its own memory.
//!
//! **Flushing** on behalf of callers is put off once: the driver goes to the back of the run queue, so that every task that is ready now
//! queues its frame first, and one write takes them all. There is no delay timer.
//!
//! **Waking** several callers is put off to the next turn, by which the runtime has another worker up. A task that wakes many others otherwise
//! gets that worker out of its sleep for the first one, which is all it finds; it falls asleep and is woken for the next, and so on, at the
//! price of two context switches each.
//!
//! **Handlers** run inside this task ([`Acceptor::run`]), which makes the common short ones cheap. While one runs, the `Core` lies in the
//! [`Baton`], free to be taken: should the handler block its thread, a watchdog takes the core and drives the connection from
//! another task, so that no other call, ping or deadline waits.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

use super::acceptor::Acceptor;
use super::baton::Baton;
use super::connection::{Connection, Lifecycle};
use super::io::{ByteStream, Reader, SharedWrite};
use super::lanes::{Lanes, Relation};
use super::read::{Habit, Leftover, Read, Share, UNSENT_BYTES_MAX};
use super::state::State;
use super::write::{Written, write_out};
use crate::context::Peer;
use crate::mux::{ConnectionEnd, Events, Mux, MuxConfig, Role};
use crate::time;
use crate::wire::hello::Hello;
use crate::wire::pool;

/// Writes of one turn before other tasks get their turn.
const WRITES_PER_TURN: usize = 16;
/// Time that the last frames of a connection have to leave, and the peer to hang up.
const LINGER: Duration = Duration::from_secs(1);
/// Rest after which a connection gives its buffers back.
const SHRINK_AFTER: Duration = Duration::from_secs(1);

/// What only the task of the connection touches.
pub(super) struct Core<A> {
    pub(super) reader: Reader,
    pub(super) leftover: Leftover,
    pub(super) habit: Habit,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// The flush that callers asked for was put off once already.
    put_off: bool,
    /// Nothing was read because too much was unsent, so nothing is registered that would bring the next read.
    pub(super) held_back: bool,
    pub(super) events: Events,
    pub(super) acceptor: A,
    /// The connection is over; what is left is to be sent until then.
    pub(super) linger_until: Option<Instant>,
    /// Something happened since memory was given back.
    grown: bool,
    shrink_at: Option<Instant>,
    pub(super) closed: bool,
}

/// The task of a connection; resolves when the connection is over or another task drives it.
pub struct Driver<A: Acceptor> {
    pub(super) core: Option<Box<Core<A>>>,
    pub(super) baton: Arc<Baton<A>>,
}

impl<A: Acceptor> std::fmt::Debug for Driver<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("connection", &self.baton.connection).finish_non_exhaustive()
    }
}

/// Starts the protocol on a byte stream: returns the handle, and the driver to be spawned.
///
/// A client's stream that has siblings is the lane of its connection, and opens them; that has to be within a runtime.
pub fn start<A: Acceptor>(
    mut stream: ByteStream,
    role: Role,
    config: MuxConfig,
    acceptor: A,
) -> (Connection, Driver<A>) {
    let siblings = stream.siblings.take().filter(|_| role == Role::Client);
    let relation = siblings.map_or(Relation::Alone, |siblings| {
        Relation::Lane(Arc::new(Lanes::new(siblings, config.clone())))
    });
    start_at(relation, None, stream, role, config, acceptor)
}

/// Starts the protocol on one of several streams; `known` is what the peer accepts, if it said so on another.
pub(super) fn start_at<A: Acceptor>(
    relation: Relation,
    known: Option<Hello>,
    stream: ByteStream,
    role: Role,
    config: MuxConfig,
    acceptor: A,
) -> (Connection, Driver<A>) {
    let peer = Peer::new(stream.peer()).with_identity(stream.identity().cloned());
    let config = config.within(&stream.company, role);
    let mux = Mux::in_company(role, config, stream.company, known, time::now());
    let connection = Connection::new(mux, stream.writer, peer, relation, stream.early);
    let context = acceptor.context();
    let core = Core {
        reader: stream.reader,
        leftover: Leftover::default(),
        habit: Habit::default(),
        timer: None,
        put_off: false,
        held_back: false,
        events: Events::default(),
        acceptor,
        linger_until: None,
        grown: false,
        shrink_at: None,
        closed: false,
    };
    let driver = Driver {
        core: Some(Box::new(core)),
        baton: Arc::new(Baton::new(context, connection.clone())),
    };
    (connection, driver)
}

/// How far a turn of the driver got.
enum Turn {
    /// Waits for the stream, the timer or a caller.
    Wait,
    /// There is more to do at once.
    Again,
    /// The connection is over.
    Over,
}

impl<A: Acceptor> Future for Driver<A> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let Some(core) = self.core.take() else {
            return Poll::Ready(());
        };
        let baton = Arc::clone(&self.baton);
        let mut unwound = Unwound {
            baton: &baton,
            armed: true,
        };
        let turned = turn(core, &baton, task);
        unwound.armed = false;
        let Some((mut core, turn)) = turned else {
            // Another task drives the connection now.
            return Poll::Ready(());
        };
        match turn {
            Turn::Over => {
                core.finish(&baton.connection);
                return Poll::Ready(());
            }
            Turn::Again => task.waker().wake_by_ref(),
            Turn::Wait => {}
        }
        self.core = Some(core);
        Poll::Pending
    }
}

/// Ends the connection if its driver panics, which code of users can make it do outside of their handlers: destructors, subscribers.
struct Unwound<'a, A: Acceptor> {
    baton: &'a Baton<A>,
    armed: bool,
}

impl<A: Acceptor> Drop for Unwound<'_, A> {
    fn drop(&mut self) {
        if self.armed {
            let connection = &self.baton.connection;
            connection.abandon("the task that drove the connection panicked");
            // A second panic that left this destructor would be the end of the process.
            let ended = AssertUnwindSafe(|| A::abandoned(connection, &self.baton.context));
            if catch_unwind(ended).is_err() {
                tracing::error!("a handler could not be ended after the task of its connection had panicked");
            }
        }
    }
}

impl<A: Acceptor> Drop for Driver<A> {
    fn drop(&mut self) {
        if let Some(mut core) = self.core.take() {
            // The runtime of this task is going down, or the owner gave the connection up.
            let connection = &self.baton.connection;
            if connection.lock().mux.end().is_some() {
                // Why it was given up leaves at least if the stream takes it at once.
                core.write(connection, &mut Context::from_waker(Waker::noop()));
            }
            connection.lock().mux.handle_end("the task that drove the connection was stopped", &mut core.events);
            core.finish(connection);
        }
    }
}

/// One turn: time, reading, handlers, writing. `None` if the core was taken away while a handler ran.
fn turn<A: Acceptor>(
    mut core: Box<Core<A>>,
    baton: &Arc<Baton<A>>,
    task: &mut Context<'_>,
) -> Option<(Box<Core<A>>, Turn)> {
    let connection = &baton.connection;
    let mut due = core.begin(connection, task);
    core.wake_held();
    let mut again = false;
    let mut share = Share::default();
    loop {
        let read = core.read(connection, task);
        if std::mem::take(&mut due) {
            // Only now: this task may have waited for long, and what it just read may be the sign of life that was missed.
            core.handle_timeout(connection);
        }
        core.act_on_events(connection);
        let had_jobs;
        (core, had_jobs) = run_jobs(core, baton)?;
        again |= core.acceptor.has_more();
        if let Read::Some(bytes) = read
            && share.take(bytes)
            && core.leftover.is_unparsed()
            && !again
        {
            continue;
        }
        if had_jobs && core.write(connection, task) {
            again = true;
        }
        match read {
            Read::Some(_) if share.read_on() && !again => {}
            Read::Some(_) => {
                again = true;
                break;
            }
            Read::Wait | Read::Over => break,
        }
    }
    match core.flush_due(connection) {
        FlushDue::Later => again = true,
        FlushDue::Now => {
            again |= core.write(connection, task);
            again |= core.acceptor.resume(connection);
        }
        FlushDue::Never => again |= core.acceptor.resume(connection),
    }
    let turn = core.end_of_turn(connection, task, again);
    Some((core, turn))
}

/// What is to be done at the end of a turn about frames that wait.
enum FlushDue {
    /// There are none.
    Never,
    Now,
    /// Others may queue theirs until the next turn.
    Later,
}

/// Polls the handlers that are ready, each with the core within reach of a watchdog.
fn run_jobs<A: Acceptor>(mut core: Box<Core<A>>, baton: &Arc<Baton<A>>) -> Option<(Box<Core<A>>, bool)> {
    let connection = &baton.connection;
    let Some(mut job) = core.acceptor.next_job(connection) else {
        // Answers may be left from a turn that did not end, because its last handler blocked.
        core.acceptor.flush(connection);
        return Some((core, false));
    };
    core.acceptor.before_jobs(baton);
    let mut number = baton.count_handler();
    *baton.lock() = Some((number, core));
    let mut core = loop {
        let done = A::run(&mut job);
        // From one handler to the next the lock is taken once; a watchdog that meets it looks again later.
        let mut lying = baton.lock();
        let Some((_, core)) = lying.as_mut().filter(|(lying, _)| *lying == number) else {
            drop(lying);
            A::done_elsewhere(connection, &baton.context, job, done);
            return None;
        };
        core.acceptor.done(connection, job, done);
        let Some(next) = core.acceptor.next_job(connection) else {
            break lying.take()?.1;
        };
        job = next;
        number = baton.count_handler();
        if let Some((lying, _)) = lying.as_mut() {
            *lying = number;
        }
    };
    core.acceptor.flush(connection);
    Some((core, true))
}

impl<A: Acceptor> Core<A> {
    /// Registers the task; tells whether the timer has fired.
    fn begin(&mut self, connection: &Connection, task: &Context<'_>) -> bool {
        let mut state = connection.lock();
        match &mut state.driver {
            Some(waker) => waker.clone_from(task.waker()),
            None => state.driver = Some(task.waker().clone()),
        }
        if let Some(error) = state.broken.take() {
            state.handle_broken("writing", &error, &mut self.events);
        }
        if state.mux.has_undated() {
            state.mux.date(time::now());
        }
        // Most of those that were held back will send something: this task flushes for them without being asked.
        state.flush_queued |= !self.events.wakers.is_empty();
        let fired = self.timer.as_ref().is_some_and(|timer| timer.is_elapsed());
        if fired {
            self.timer = None;
            state.timer_at = None;
        }
        fired
    }

    /// Does what is due.
    fn handle_timeout(&mut self, connection: &Connection) {
        let now = time::now();
        let mut state = connection.lock();
        state.mux.handle_timeout(now, &mut self.events);
        if self.shrink_at.is_some_and(|at| at <= now) {
            self.shrink_at = None;
            self.grown = false;
            if state.mux.is_at_rest() && !state.writing {
                state.mux.shrink();
                state.transmit.shrink();
                pool::shrink_large();
                self.leftover.shrink();
                self.events = std::mem::take(&mut self.events).shrunk();
                self.acceptor.shrink();
            }
        }
    }

    fn wake_held(&mut self) {
        for waker in self.events.wakers.drain(..) {
            waker.wake();
        }
    }

    /// Acts on what the mux found, except that several tasks at once are woken by the next turn.
    fn act_on_events(&mut self, connection: &Connection) {
        if self.events.is_empty() {
            return;
        }
        self.grown = true;
        if self.events.hello {
            connection.note_hello();
        }
        if self.events.wakers.len() <= 1 || !self.events.incoming.is_empty() {
            self.wake_held();
        }
        if std::mem::take(&mut self.events.hello) {
            connection.announce(Lifecycle::Ready);
        }
        if std::mem::take(&mut self.events.going_away) {
            connection.announce(Lifecycle::GoingAway);
        }
        if !self.events.incoming.is_empty() || !self.events.ended.is_empty() {
            self.acceptor.take_events(connection, &mut self.events, time::now());
        }
    }

    fn flush_due(&mut self, connection: &Connection) -> FlushDue {
        let mut state = connection.lock();
        self.put_off = !self.put_off && state.may_put_off();
        if self.put_off {
            return FlushDue::Later;
        }
        if state.writing || !state.transmit.is_empty() || state.mux.wants_transmit() {
            return FlushDue::Now;
        }
        state.flush_queued = false;
        FlushDue::Never
    }

    /// Writes what is queued; true if the turn's share is used up and there is more.
    fn write(&mut self, connection: &Connection, task: &mut Context<'_>) -> bool {
        for _ in 0..WRITES_PER_TURN {
            let mut state = connection.lock();
            // Cleared before the next look, so that it never outlives the flush it asked for: with it set, callers leave writing to this task.
            state.flush_queued = false;
            if state.writing || state.broken.is_some() {
                // A caller is writing; it wakes this task if something is left.
                return false;
            }
            connection.note_answers(&state.mux);
            let mut transmit = std::mem::take(&mut state.transmit);
            if transmit.is_empty() && !state.mux.poll_transmit(&mut transmit) {
                state.transmit = transmit;
                return false;
            }
            state.mux.take_woken(&mut self.events.wakers);
            state.writing = true;
            drop(state);
            self.wake_held();
            let mut written = 0;
            let outcome = write_out(connection.writer(), &mut transmit, &mut written);
            let mut state = connection.lock();
            state.transmit = transmit;
            state.writing = false;
            if self.held_back && written > 0 {
                // Nothing is read until the peer has taken enough, so that it takes something has to do as its sign of life.
                state.mux.heard(time::now());
            }
            match outcome {
                Ok(Written::All) => {
                    // The next round would find the same, at the price of another lock.
                    if !state.mux.wants_transmit() {
                        state.flush_queued = false;
                        connection.note_answers(&state.mux);
                        return false;
                    }
                }
                Ok(Written::Blocked) => {
                    drop(state);
                    match connection.writer().poll_write_ready(task) {
                        Poll::Pending | Poll::Ready(Err(_)) => return false,
                        Poll::Ready(Ok(())) => {}
                    }
                }
                Err(error) => {
                    self.linger_until = None;
                    state.handle_broken("writing", &error, &mut self.events);
                    return true;
                }
            }
        }
        true
    }

    /// Decides how the task goes on, and sets the timer.
    fn end_of_turn(&mut self, connection: &Connection, task: &mut Context<'_>, again: bool) -> Turn {
        self.act_on_events(connection);
        let mut state = connection.lock();
        if state.mux.end().is_some() || state.mux.is_drained() {
            let pending = state.writing || !state.transmit.is_empty() || state.mux.wants_transmit();
            // The last answers of a connection that drains have the drain's time, which its server bounds.
            let answers_left = pending && state.mux.is_server() && state.mux.end().is_none();
            if !answers_left {
                return self.linger(connection, state, task, pending, again);
            }
        }
        let room = state.mux.unsent_bytes() <= UNSENT_BYTES_MAX;
        let again = again | (std::mem::take(&mut self.held_back) && room) | !self.events.wakers.is_empty();
        if state.mux.has_undated() {
            // Opened since the turn began, and nobody else has to wake this task for them.
            state.mux.date(time::now());
        }
        let mut due = state.mux.next_timeout();
        if state.mux.is_at_rest() && (self.shrink_at.is_some() || self.grown) {
            let at = *self.shrink_at.get_or_insert_with(|| time::now() + SHRINK_AFTER);
            due = Some(due.map_or(at, |due| due.min(at)));
        }
        self.set_timer(state, task, due);
        if again { Turn::Again } else { Turn::Wait }
    }

    /// The connection is over: its last frames have a little time to leave, and the peer to hang up.
    fn linger(
        &mut self,
        connection: &Connection,
        state: MutexGuard<'_, State>,
        task: &mut Context<'_>,
        pending: bool,
        again: bool,
    ) -> Turn {
        let end = state.mux.end().cloned();
        let is_client = !state.mux.is_server();
        drop(state);
        let now = time::now();
        if !self.closed {
            self.closed = true;
            let by_peer = end.as_ref().is_some_and(ConnectionEnd::is_by_peer);
            self.linger_until = (!by_peer).then(|| now + LINGER);
        }
        if let Some(end) = end.filter(|_| is_client) {
            // Whoever connects again need not wait until the last frame has left.
            connection.announce(Lifecycle::Closed(end));
        }
        self.wake_held();
        if !pending {
            connection.writer().shutdown();
        }
        match self.linger_until {
            Some(until) if now < until => {
                self.set_timer(connection.lock(), task, Some(until));
                if again { Turn::Again } else { Turn::Wait }
            }
            _ => Turn::Over,
        }
    }

    fn set_timer(&mut self, mut state: MutexGuard<'_, State>, task: &mut Context<'_>, due: Option<Instant>) {
        // A timer that fires early looks and sets itself again, which is cheaper than moving it for every call.
        if self.timer.is_some() && state.timer_at.is_some_and(|at| due.is_none_or(|due| at <= due)) {
            return;
        }
        state.timer_at = due;
        drop(state);
        let Some(due) = due else {
            self.timer = None;
            return;
        };
        let due = tokio::time::Instant::from_std(due);
        let timer = match &mut self.timer {
            Some(timer) => {
                timer.as_mut().reset(due);
                timer
            }
            None => self.timer.insert(Box::pin(tokio::time::sleep_until(due))),
        };
        // Without a share in the task's budget: a timer that is not polled through is not registered.
        if pin!(tokio::task::unconstrained(timer.as_mut())).poll(task).is_ready() {
            task.waker().wake_by_ref();
        }
    }

    /// The connection is over: everybody who waits for it is told.
    fn finish(&mut self, connection: &Connection) {
        {
            let mut state = connection.lock();
            if state.mux.end().is_none() {
                let reason = "the connection was closed";
                state.mux.handle_end(reason, &mut self.events);
            }
            state.mux.take_woken(&mut self.events.wakers);
            state.driver = None;
        }
        self.wake_held();
        self.act_on_events(connection);
        connection.writer().shutdown();
        self.acceptor.closed(connection);
        let end = connection.lock().mux.end().cloned();
        if let Some(end) = end {
            connection.announce(Lifecycle::Closed(end));
        }
    }
}

impl Events {
    /// The same events in as little memory as they need.
    fn shrunk(mut self) -> Self {
        self.wakers.shrink_to_fit();
        self.incoming.shrink_to_fit();
        self.ended.shrink_to_fit();
        self
    }
}
