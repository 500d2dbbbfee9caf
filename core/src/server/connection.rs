//! Takes calls off one connection: finds the method, makes the context, decides where the handler runs.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Instant;

use super::Shared;
use super::admission::{Entry, taken_priority};
use super::books::{Books, Calls, cancel, ready_job, spawn, spawn_waiting, tell_of_drain};
use super::clock::TurnClock;
use super::dispatch::{Answer, Job};
use super::limits::{Arrival, Held};
use super::load::{add_report, is_failure};
use super::router::{Route, Router};
use super::slots::slot_for;
use super::watchdog::Attention;
use crate::call::{Receive, ReceiveEnd, UNKNOWN_METHOD, handler_span};
use crate::context::{CancelCause, Cx, Side};
use crate::message::{Body, Outcome, Reply};
use crate::metadata::Metadata;
use crate::method::{Execution, method_id};
use crate::mux::{EndCause, Ended, Events, Incoming, StreamKey};
use crate::policy::concurrency::Ending;
use crate::policy::inline::TURN_BUDGET;
use crate::priority::Priority;
use crate::service::{BoxSlot, Inbound, ServerRequest};
use crate::status::{HandlerRan, Status};
use crate::time;
use crate::transport::Connection;
use crate::transport::acceptor::Acceptor;
use crate::transport::baton::Baton;
use crate::wire::frame::ErrorCode;
use crate::wire::head::{PATH_KEY, RequestHead};
use crate::wire::message::Payload;

/// A call whose arguments are still under way.
struct Waiting {
    route: Option<usize>,
    head: RequestHead,
    deadline: Option<Instant>,
}

/// A call that is complete. Its context and slot are made when its turn comes, so that one of each serves a whole batch.
struct Ready {
    key: StreamKey,
    call: Waiting,
    arguments: Payload,
    /// The client sends nothing after them.
    fin: bool,
}

/// The server's end of one connection.
pub(super) struct ServerConnection {
    books: Books,
    waiting: HashMap<StreamKey, Waiting>,
    /// What arrived and waits for its turn.
    arrived: VecDeque<Incoming>,
    /// No handler begins, because the client does not take the answers that are there.
    held: bool,
    spare_slot: Option<(usize, BoxSlot)>,
    spare_cx: Option<Cx>,
    answers: Vec<(StreamKey, Answer)>,
    /// Answers since the last flush, and those of them that are failures of the server's.
    uncounted: (u64, u64),
    reply_bytes_max: usize,
    /// The call whose handler is polled now, inside the connection's task.
    inline: Option<(StreamKey, Cx)>,
    /// Whether the watchdog looks at this connection.
    attention: Arc<Attention>,
    clock: TurnClock,
}

impl ServerConnection {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            books: Books {
                shared,
                calls: Calls::default(),
            },
            waiting: HashMap::new(),
            arrived: VecDeque::new(),
            held: false,
            spare_slot: None,
            spare_cx: None,
            answers: Vec::new(),
            uncounted: (0, 0),
            reply_bytes_max: 0,
            inline: None,
            attention: Arc::default(),
            clock: TurnClock::new(time::now()),
        }
    }

    pub(super) fn calls(&self) -> Calls {
        Arc::clone(&self.books.calls)
    }

    /// Takes up what arrived until a call is complete.
    fn next_ready(&mut self) -> Option<Ready> {
        while let Some(incoming) = self.arrived.pop_front() {
            match incoming {
                Incoming::Opened {
                    key,
                    head,
                    deadline,
                    arguments,
                    fin,
                } => {
                    let router = &self.books.shared.router;
                    let route = router.find(head.method);
                    if route.is_none()
                        && let Some(status) = refuse_unknown(&head, router.fallback.is_some())
                    {
                        let trailers = Metadata::new();
                        self.answers.push((key, Answer::Failed { status, trailers }));
                        continue;
                    }
                    let call = Waiting { route, head, deadline };
                    if let Some(arguments) = arguments {
                        return Some(Ready {
                            key,
                            call,
                            arguments,
                            fin,
                        });
                    }
                    self.waiting.insert(key, call);
                }
                Incoming::Arguments { key, arguments, fin } => {
                    if let Some(call) = self.waiting.remove(&key) {
                        return Some(Ready {
                            key,
                            call,
                            arguments,
                            fin,
                        });
                    }
                }
            }
        }
        None
    }

    /// Makes the context and the slot of a call whose turn has come.
    fn begin(&mut self, connection: &Connection, ready: Ready, priority: Priority) -> Job {
        let Ready {
            key,
            call,
            arguments,
            fin,
        } = ready;
        let shared = &self.books.shared;
        let route = call.route.and_then(|at| shared.router.route(at));
        let spec = route.map(|route| route.spec);
        // A call that a proxy passes on may stream; whether it does, only its client knows.
        let streams = !fin && spec.is_none_or(|spec| spec.kind().client_streams());
        let inbound = if streams {
            let receive = Receive::new(connection.clone(), key, ReceiveEnd::StopReading);
            Inbound::new(Box::new(receive))
        } else {
            Inbound::default()
        };
        let cx = Cx::renew(self.spare_cx.take(), |parts| {
            parts.method = spec;
            parts.path = match spec {
                Some(_) => None,
                None => call.head.metadata.get(PATH_KEY).map(Arc::from),
            };
            parts.method_id = call.head.method;
            parts.side = Some(Side::Server);
            parts.deadline = call.deadline;
            parts.priority = priority;
            parts.metadata = call.head.metadata;
            if parts.peer.is_none() {
                parts.peer = Some(connection.peer().clone());
            }
        });
        tell_of_drain(shared, &cx);
        let span = handler_span(&cx).map(Box::new);
        let request = ServerRequest::new(arguments, inbound);
        let spare = self.spare_slot.take();
        let slot = slot_for(&self.books.shared, spare, route, &cx, request);
        Job {
            key,
            slot,
            cx: Some(cx),
            route: call.route,
            span,
            panicked: false,
            booked: false,
            admitted: None,
            held: Held::default(),
        }
    }

    /// Whether the call's method has no limit, so that one which is likely to be answered within its first poll need not ask.
    fn is_free(&self, call: &Waiting) -> bool {
        call.route.is_none_or(|method| self.books.shared.admission.is_free(method))
    }

    /// What becomes of a call whose turn has come on its connection.
    #[inline(never)]
    fn enter(&self, call: &Waiting, priority: Priority) -> Entry {
        let shared = &self.books.shared;
        let method = call.route.filter(|at| shared.router.route(*at).is_some_and(Route::is_admitted));
        match method {
            // When it arrived, or nearly so: in a long turn it has waited since.
            Some(method) => shared.admission.enter(method, priority, call.deadline, self.clock.turn_began()),
            None => Entry::Free,
        }
    }

    /// Counts a call whose turn has come at the limits of its service and method.
    ///
    /// # Errors
    /// Why it is turned away.
    fn take_limits(&self, connection: &Connection, call: &Waiting) -> Result<Held, Status> {
        let shared = &self.books.shared;
        let Some(route) = call.route.filter(|_| !shared.configs.is_empty()) else {
            return Ok(Held::default());
        };
        shared.limits.take(
            route,
            Arrival {
                peer: connection.peer(),
                metadata: &call.head.metadata,
            },
        )
    }

    /// A call is answered with why it is turned away.
    fn refuse(&mut self, key: StreamKey, route: Option<usize>, status: Status) {
        self.books.shared.load.rejections.note(route, &status);
        let trailers = status.metadata().clone();
        self.uncounted.0 += 1;
        self.uncounted.1 += u64::from(is_failure(&status));
        self.answers.push((key, Answer::Failed { status, trailers }));
    }

    fn ended(&mut self, connection: &Connection, ended: &Ended) {
        self.waiting.remove(&ended.key);
        self.arrived.retain(|incoming| incoming.key() != ended.key);
        let cause = match ended.cause {
            EndCause::DeadlineExceeded => CancelCause::DeadlineExceeded,
            EndCause::Gone => CancelCause::ClientGone,
            EndCause::Cancelled | EndCause::Refused => CancelCause::ClientCancelled,
        };
        cancel(connection, &self.books.calls, ended.key, cause);
    }

    /// Keeps what the next call can use again.
    fn keep(&mut self, mut job: Job) {
        let clean = job.clear();
        if let Some(route) = job.route.and_then(|at| self.books.shared.router.route(at))
            && clean
        {
            self.spare_slot = Some((route.service, job.slot));
        }
        self.spare_cx = job.cx;
    }
}

/// A method's own time-out holds from the call's arrival, whatever its client allows or forgot to say.
fn limit_time(connection: &Connection, router: &Router, incoming: &mut Incoming, now: Instant) {
    let Incoming::Opened {
        key, head, deadline, ..
    } = incoming
    else {
        return;
    };
    let route = router.find(head.method).and_then(|at| router.route(at));
    let limit = route.and_then(|route| route.spec.timeout()).and_then(|timeout| now.checked_add(timeout));
    if let Some(limit) = limit.filter(|limit| deadline.is_none_or(|deadline| deadline > *limit)) {
        connection.limit_deadline(*key, limit);
        *deadline = Some(limit);
    }
}

/// Refuses what came before the handshake was done, unless it may run twice: somebody else may have sent it.
fn refuse_early(connection: &Connection, router: &Router, events: &mut Events) {
    events.incoming.retain(|incoming| {
        let Incoming::Opened { key, head, .. } = incoming else {
            return true;
        };
        let route = router.find(head.method).and_then(|at| router.route(at));
        let allowed = route.is_some_and(|route| route.spec.is_idempotent());
        if !allowed {
            connection.refuse_call(*key);
        }
        allowed
    });
}

impl Acceptor for ServerConnection {
    type Job = Job;
    type Done = Poll<Outcome>;
    type Context = Books;

    /// About 32 small calls: what they take up, their answers included, stays in a first-level cache.
    const PIECE_BYTES: usize = 2 * 1024;

    fn context(&self) -> Books {
        self.books.clone()
    }

    fn take_events(&mut self, connection: &Connection, events: &mut Events, now: Instant) {
        self.clock.begin_turn(now);
        if connection.is_early() {
            refuse_early(connection, &self.books.shared.router, events);
        }
        if self.books.shared.router.limits_time() {
            for incoming in &mut events.incoming {
                limit_time(connection, &self.books.shared.router, incoming, now);
            }
        }
        if self.arrived.is_empty() {
            std::mem::swap(&mut self.arrived, &mut events.incoming);
        } else {
            self.arrived.append(&mut events.incoming);
        }
        for ended in events.ended.drain(..) {
            self.ended(connection, &ended);
        }
        self.flush(connection);
    }

    fn next_job(&mut self, connection: &Connection) -> Option<Job> {
        loop {
            self.held |= connection.is_full_of_answers();
            if self.held || self.clock.take_over_budget() {
                return None;
            }
            let ready = self.next_ready()?;
            let held = match self.take_limits(connection, &ready.call) {
                Ok(held) => held,
                Err(status) => {
                    self.refuse(ready.key, ready.call.route, status);
                    continue;
                }
            };
            let route = ready.call.route.and_then(|at| self.books.shared.router.route(at));
            let inline = route.is_some_and(|route| route.spec.runs() == Execution::Inline && route.gate.is_inline());
            let trusts = self.books.shared.trusts_priorities;
            let priority = taken_priority(&ready.call.head.metadata, connection.peer(), trusts);
            let entry = match inline && self.is_free(&ready.call) {
                true => Entry::Free,
                false => self.enter(&ready.call, priority),
            };
            let (admitted, turn) = match entry {
                Entry::Free => (None, None),
                Entry::Admitted(admitted) => (Some(admitted), None),
                Entry::Waits(turn) => (None, Some(turn)),
                Entry::Refused(status) => {
                    self.refuse(ready.key, ready.call.route, status);
                    continue;
                }
            };
            let mut job = self.begin(connection, ready, priority);
            job.admitted = admitted;
            job.held = held;
            if let Some(turn) = turn {
                spawn_waiting(connection, &self.books, job, *turn);
                continue;
            }
            if inline {
                self.inline = job.cx.clone().map(|cx| (job.key, cx));
                self.clock.handler_begins();
                return Some(job);
            }
            spawn(connection, &self.books, job, false);
        }
    }

    fn has_more(&self) -> bool {
        !self.held && !self.arrived.is_empty()
    }

    fn resume(&mut self, connection: &Connection) -> bool {
        self.held = self.held && connection.is_full_of_answers();
        let goes_on = self.has_more();
        if goes_on {
            self.clock.begin_turn(time::now());
        }
        goes_on
    }

    fn run(job: &mut Job) -> Poll<Outcome> {
        job.poll_inline()
    }

    fn taken_over(&mut self) {
        if let Some((key, cx)) = self.inline.take() {
            self.books.shared.running.fetch_add(1, Ordering::Relaxed);
            self.books.enter(key, cx, Held::default());
        }
    }

    fn done(&mut self, connection: &Connection, mut job: Job, result: Poll<Outcome>) {
        self.inline = None;
        if job.panicked {
            self.books.shared.panics.fetch_add(1, Ordering::Relaxed);
        }
        let took = self.clock.handler_done();
        if took.is_some() || result.is_pending() {
            let route = job.route.and_then(|at| self.books.shared.router.route(at));
            if let Some(route) = route {
                route.gate.note(took.unwrap_or_default(), result.is_ready());
            }
        }
        let outcome = match result {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => {
                take_up(&self.books, &mut job);
                spawn(connection, &self.books, job, true);
                return;
            }
        };
        end_at_once(&mut job);
        if self.reply_bytes_max == 0 {
            self.reply_bytes_max = connection.reply_bytes_max();
        }
        match job.answer(outcome, self.reply_bytes_max, &self.books.shared.load.rejections) {
            Answer::Stream {
                metadata,
                stream,
                trailers,
            } => {
                let reply = Reply::from_parts(metadata, Body::Stream(stream), trailers);
                ready_job(connection, &self.books, job, Ok(reply));
            }
            mut answer => {
                let route = job.route.and_then(|at| self.books.shared.router.route(at));
                if !route.is_some_and(|route| route.is_built_in) {
                    self.uncounted.0 += 1;
                    self.uncounted.1 += u64::from(answer.is_failure());
                    add_report(&self.books, connection, &mut answer, || self.clock.turn_began());
                }
                self.answers.push((job.key, answer));
                self.keep(job);
            }
        }
    }

    fn done_elsewhere(connection: &Connection, books: &Books, mut job: Job, result: Poll<Outcome>) {
        // Taken, because the job may go on in a task that looks again.
        if std::mem::take(&mut job.panicked) {
            books.shared.panics.fetch_add(1, Ordering::Relaxed);
        }
        job.booked = true;
        if !books.calls.lock().contains_key(&job.key) {
            // The call was over before its handler: it was counted as one that runs on.
            job.clear();
            connection.release();
            books.shared.running.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        match result {
            Poll::Pending => {
                take_up(books, &mut job);
                spawn(connection, books, job, true);
            }
            Poll::Ready(outcome) => {
                if let Some(mut admitted) = job.admitted.take() {
                    admitted.end(Ending::Answered);
                }
                if let Some(route) = job.route.and_then(|at| books.shared.router.route(at)) {
                    // It blocked its thread: from now on the method has tasks of its own.
                    for _ in 0..4 {
                        route.gate.note(TURN_BUDGET, true);
                    }
                }
                ready_job(connection, books, job, outcome);
            }
        }
        // Only now: the handler, or its task, counts without a gap.
        books.shared.running.fetch_sub(1, Ordering::Relaxed);
    }

    fn flush(&mut self, connection: &Connection) {
        // The driver flushes after its handlers.
        self.attention.rest();
        if self.answers.is_empty() {
            return;
        }
        connection.batch(|mux| {
            for (key, answer) in &self.answers {
                match answer {
                    Answer::Unary {
                        metadata,
                        message,
                        trailers,
                    } => mux.reply(*key, metadata, message, trailers),
                    Answer::Failed { status, trailers } => mux.finish_call(*key, Some(status), trailers),
                    Answer::Stream { .. } => {}
                }
            }
        });
        self.answers.clear();
        let (answered, failed) = std::mem::take(&mut self.uncounted);
        self.books.shared.load.count(answered, failed);
    }

    fn before_jobs(&mut self, baton: &Arc<Baton<Self>>) {
        if self.attention.begin() {
            self.books.shared.watchdog.watch(baton, &self.attention);
        }
    }

    fn shrink(&mut self) {
        self.waiting.shrink_to_fit();
        self.arrived.shrink_to_fit();
        self.answers.shrink_to_fit();
        self.spare_slot = None;
        self.spare_cx = None;
    }

    fn abandoned(connection: &Connection, books: &Books) {
        books.cancel_all(connection);
    }

    fn closed(&mut self, connection: &Connection) {
        self.attention.rest();
        self.arrived.clear();
        self.waiting.clear();
        self.answers.clear();
        self.books.cancel_all(connection);
    }
}

/// A handler that did not answer within its first poll is one of those that the limit is about.
fn take_up(books: &Books, job: &mut Job) {
    let shared = &books.shared;
    if job.admitted.is_some() {
        return;
    }
    if let Some(method) = job.route.filter(|at| shared.router.route(*at).is_some_and(Route::is_admitted))
        && shared.admission.is_on(method)
    {
        job.admitted = Some(shared.admission.take_up(method, time::now()));
    }
}

/// A handler that answered within its first poll tells nothing of those that do not, and where there is no limit is not counted either.
fn end_at_once(job: &mut Job) {
    if let Some(mut admitted) = job.admitted.take() {
        admitted.end(Ending::Neutral);
    }
}

/// Why a method that no service has is refused; `None` if the fallback answers it.
///
/// What a caller says the path is may decide who is let in, so a path that does not belong to the method is refused.
fn refuse_unknown(head: &RequestHead, fallback: bool) -> Option<Status> {
    let refused = match head.metadata.get(PATH_KEY) {
        Some(path) if fallback && method_id(path) != head.method => Some(Status::invalid_argument(format!(
            "`{PATH_KEY}` says {path:?}, which is not the method {:#018x}",
            head.method
        ))),
        _ if fallback => None,
        Some(path) => Some(Status::unimplemented(format!("no method {path} here"))),
        None => Some(Status::unimplemented(format!(
            "{UNKNOWN_METHOD} {:#018x} here",
            head.method
        ))),
    };
    refused.map(|status| status.with_handler_ran(HandlerRan::No))
}

/// A connection of a server as its owner sees it.
pub(super) struct Accepted {
    pub(super) connection: Connection,
    pub(super) calls: Calls,
}

impl Accepted {
    /// Tells the client to leave and the handlers that the server goes.
    pub(super) fn start_drain(&self) {
        for running in self.calls.lock().values() {
            running.cx.set_draining();
        }
        self.connection.start_drain(time::now());
    }

    /// Ends everything now.
    pub(super) fn stop(&self) {
        let keys: Vec<StreamKey> = self.calls.lock().keys().copied().collect();
        for key in keys {
            self.connection.finish_call(
                key,
                Some(&Status::unavailable("the server is shutting down")),
                &Metadata::new(),
            );
            cancel(&self.connection, &self.calls, key, CancelCause::ServerStopped);
        }
        self.connection.close(ErrorCode::None, "the server stopped");
    }
}
