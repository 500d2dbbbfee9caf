//! The general way of a call: interceptors, waiting for a connection, streams, and sending again what was provably not taken up.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::channel::{Channel, Wanted};
use super::faults::Pending;
use super::future::outcome;
use super::governance::Permit;
use super::hedge::hedged;
use super::member::{Completion, Picked};
use super::raw::{Cause, RawRequest, context_of};
use super::retry::{Next as NextAttempt, attempt_timed_out};
use crate::call::{Idle, Pump, PumpEnd, Receive, ReceiveEnd, open_status, stream_status};
use crate::code::Code;
use crate::context::Cx;
use crate::interceptor::{Chain, Next};
use crate::message::{Batch, Body, MessageStream, Outcome, Reply};
use crate::metadata::Metadata;
use crate::mux::{OpenError, OpenRequest, Place, StreamError, StreamKey};
use crate::policy::retry::RetryPolicy;
use crate::policy::verdict::spares_service;
use crate::status::{HandlerRan, Status};
use crate::time;
use crate::transport::Connection;

/// A call by the general way, as a future without a name.
pub(super) type BoxOutcome = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// A call by the general way.
pub(super) fn boxed(channel: Channel, request: RawRequest, parent: Option<Cx>, call_chain: Chain) -> BoxOutcome {
    if channel.chain().is_empty() && call_chain.is_empty() && channel.local_calls().is_none() {
        return Box::pin(run(channel, request));
    }
    Box::pin(async move {
        let begun = Arc::clone(&request.begun);
        let mut cx = context_of(&request, parent);
        let deadline = request.deadline;
        let chain = channel.chain().clone();
        let last = Last { channel, request };
        let call = chain.run(
            &mut cx,
            CallChain {
                chain: call_chain,
                last,
            },
        );
        let outcome = within(deadline, call).await.unwrap_or_else(|| too_late(HandlerRan::Maybe));
        // An interceptor ended the call, or its time was up, before anything was sent.
        outcome.map_err(|status| match begun.load(Ordering::Relaxed) {
            true => status,
            false => status.with_handler_ran(HandlerRan::No),
        })
    })
}

/// The call's own interceptors, inside the channel's.
struct CallChain {
    chain: Chain,
    last: Last,
}

impl Next for CallChain {
    async fn run(self, cx: &mut Cx) -> Outcome {
        self.chain.run(cx, self.last).await
    }
}

/// The end of a client's chain: the wire, or a local service.
struct Last {
    channel: Channel,
    request: RawRequest,
}

impl Next for Last {
    async fn run(mut self, cx: &mut Cx) -> Outcome {
        self.request.begun.store(true, Ordering::Relaxed);
        self.request.metadata.merge(&cx.added_metadata());
        match self.channel.local_calls() {
            Some(calls) => calls.call(cx, self.request).await,
            // In a box of its own, or local calls would carry its state around.
            None => Box::pin(run(self.channel, self.request)).await,
        }
    }
}

/// Ends `call` at `deadline`; `None` if that came first.
async fn within(deadline: Option<Instant>, call: impl Future<Output = Outcome>) -> Option<Outcome> {
    match deadline {
        // Outside a runtime there are no timers; the call itself tells so in its status.
        Some(deadline) if Handle::try_current().is_ok() => tokio::time::timeout_at(deadline.into(), call).await.ok(),
        Some(_) | None => Some(call.await),
    }
}

fn too_late(ran: HandlerRan) -> Outcome {
    Err(Status::deadline_exceeded("the deadline passed before the answer came").with_handler_ran(ran))
}

/// Makes the call over the channel's connection.
async fn run(channel: Channel, mut request: RawRequest) -> Outcome {
    let deadline = request.deadline;
    // Whether a request is on its way that the server may have taken up.
    let sent = AtomicBool::new(false);
    let policy = channel.retry_policy(request.method_name());
    let call = async {
        let mut may_have_run = false;
        // Of all attempts.
        let over = |failed: Status, may_have_run: bool| match failed.handler_ran() {
            HandlerRan::No if may_have_run => failed.with_handler_ran(HandlerRan::Maybe),
            _ => failed,
        };
        loop {
            let (mut before, mut paid) = (None, None);
            if let Some((failed, cause)) = request.history.failed.take() {
                may_have_run |= failed.handler_ran() != HandlerRan::No;
                let next = channel.after(&request, &policy, &failed, cause);
                sent.store(may_have_run, Ordering::Relaxed);
                request.history.was_turned_away = matches!(next, NextAttempt::AtOnce);
                request.history.turned_away += u32::from(request.history.was_turned_away);
                match next {
                    NextAttempt::AtOnce => {}
                    NextAttempt::After(wait) => {
                        paid = Some(channel.governance().paid(request.method));
                        tokio::time::sleep(wait).await;
                    }
                    NextAttempt::Over => return Err(over(failed, may_have_run)),
                }
                before = Some(failed);
            }
            let mut permit = match channel.admit(&request) {
                Ok(permit) => permit,
                // What was tried is what the call came to.
                Err(refused) => return Err(before.map_or(refused, |failed| over(failed, may_have_run))),
            };
            request.history.was_retried |= paid.is_some();
            if let Some(paid) = paid {
                paid.spend();
            }
            request.history.attempts += 1;
            request.mark_attempt();
            match attempt(&channel, &mut request, &policy, (&sent, &mut permit)).await {
                Ok(reply) => {
                    permit.end_well();
                    return Ok(reply);
                }
                Err((status, cause)) => {
                    let is_answer = spares_service(&status) && !policy.covers(&status) && cause == Cause::Failed;
                    permit.end_failed(&request, &status, is_answer);
                    request.history.failed = Some((status, cause));
                }
            }
        }
    };
    let outcome = within(deadline, call).await;
    outcome.unwrap_or_else(|| {
        if sent.load(Ordering::Relaxed) {
            return too_late(HandlerRan::Maybe);
        }
        match channel.last_failure() {
            // It waited for a connection in vain: then that is what its caller has to hear.
            Some(cause) => Err(Status::deadline_exceeded(format!(
                "the deadline passed while waiting for a connection: {}",
                cause.message()
            ))
            .with_handler_ran(HandlerRan::No)
            .with_source(cause)),
            None => too_late(HandlerRan::No),
        }
    })
}

/// A status, and why it ended the attempt.
pub(super) type Failed = (Status, Cause);

/// A call that was opened at an endpoint.
pub(super) struct Opened {
    picked: Picked,
    /// `None` if nothing is sent, because it ends on purpose.
    key: Option<StreamKey>,
    /// Until when the attempt may take, and how long that is.
    limit: Option<(Instant, Duration)>,
    fault: Pending,
}

/// One attempt, which from when it is sent on has as long as its policy allows.
async fn attempt(
    channel: &Channel,
    request: &mut RawRequest,
    policy: &RetryPolicy,
    (sent, permit): (&AtomicBool, &mut Permit<'_>),
) -> Result<Reply, Failed> {
    let hedging = channel.hedging_of(request);
    let opened = open_somewhere(channel, request, policy, None).await?;
    sent.store(true, Ordering::Relaxed);
    permit.sent(request.deadline);
    if let Some(hedging) = hedging {
        // Rare, and its state would make every call's larger.
        return Box::pin(hedged(channel, request, policy, &hedging, opened)).await;
    }
    let limit = opened.limit;
    bounded(limit, answer(channel, request, opened)).await
}

/// Bounds an attempt.
async fn bounded(limit: Option<(Instant, Duration)>, answer: impl Future<Output = Outcome>) -> Result<Reply, Failed> {
    let Some((limit, time)) = limit else {
        return answer.await.map_err(|status| (status, Cause::Failed));
    };
    let timed_out = || Err((attempt_timed_out(time, HandlerRan::Maybe), Cause::TimedOut));
    match within(Some(limit), answer).await {
        None => timed_out(),
        // Its server, or the connection, had the same clock.
        Some(Err(status)) if status.code() == Code::DeadlineExceeded && time::now() >= limit => timed_out(),
        Some(outcome) => outcome.map_err(|status| (status, Cause::Failed)),
    }
}

impl Opened {
    /// The endpoint, where there are several.
    pub(super) fn member(&self) -> Option<u64> {
        self.picked.completion.as_ref().map(|completion| completion.member().id)
    }

    /// To be set when another attempt of the same call is answered first.
    pub(super) fn overtaken(&mut self) -> Option<Arc<AtomicBool>> {
        self.picked.completion.as_mut().map(Completion::overtaken)
    }

    /// The answer, of a call that does not stream.
    pub(super) async fn answered(self, method: u64, idle: Option<Duration>) -> Result<Reply, Failed> {
        let idle = idle.map(Idle::new);
        let guard = Guard {
            connection: self.picked.connection,
            key: self.key,
            pump: None,
            completion: self.picked.completion,
        };
        bounded(self.limit, answered(guard, method, idle.as_ref(), self.fault)).await
    }
}

/// Opens the call at an endpoint: that one, if it was chosen already.
pub(super) async fn open_somewhere(
    channel: &Channel,
    request: &mut RawRequest,
    policy: &RetryPolicy,
    mut chosen: Option<Picked>,
) -> Result<Opened, Failed> {
    let failed = |status: Status| (status, Cause::Failed);
    loop {
        let mut picked = match chosen.take() {
            Some(picked) => picked,
            None => choose(channel, request, policy).await.map_err(failed)?,
        };
        if !request.is_idempotent() {
            // What is sent before the handshake is done can be sent again by others.
            picked.connection.confirmed().await;
        }
        if !request.history.was_turned_away {
            // A stream of its own that was turned away is not asked for again.
            picked.connection = picked.connection.for_call(request.method, request.needs_own_stream());
        }
        if let Some(completion) = picked.completion.as_mut().filter(|_| !request.is_unary()) {
            completion.set_neutral();
        }
        let time = request.time_of_attempt(policy);
        // What a stream has to open in its server need not know.
        let due = |limit: Option<(Instant, Duration)>| limit.map(|(limit, _)| limit).or(request.deadline);
        let fault = channel.fault(request, &picked);
        if fault.is_error() {
            picked.connection.not_opened();
            let limit = request.attempt_limit(time, time::now());
            if let Some(completion) = &mut picked.completion {
                completion.set_due(due(limit));
            }
            return Ok(Opened {
                picked,
                key: None,
                limit,
                fault,
            });
        }
        // Only these parts are borrowed while waiting: a stream is not shared between threads.
        let opening = OpenRequest {
            method: request.method,
            timeout: 0,
            deadline: request.bound(),
            metadata: &request.metadata,
            arguments: &request.arguments,
            fin: request.outbound.is_none(),
        };
        // Of a stream it is only the opening that an attempt's time is about, which its server does not bound.
        let bounds = time.filter(|_| !request.streaming);
        match open_here_or_there(&picked, opening, bounds).await {
            Some(Ok((key, opened))) => {
                let limit = request.attempt_limit(time, opened);
                if let Some(completion) = &mut picked.completion {
                    completion.set_due(due(limit));
                }
                return Ok(Opened {
                    picked,
                    key: Some(key),
                    limit,
                    fault,
                });
            }
            Some(Err(error)) => return Err(failed(not_opened(channel, picked, error))),
            None => {
                // The same endpoint, by another connection.
                let member = picked.completion.as_ref().map(|completion| Arc::clone(completion.member()));
                let left = picked.connection.clone();
                picked.give_up();
                chosen = member.and_then(|member| member.begin_elsewhere(Some(&left), time::now));
            }
        }
    }
}

/// The answer to a call that was opened, or the beginning of it.
async fn answer(channel: &Channel, request: &mut RawRequest, opened: Opened) -> Outcome {
    let Opened { picked, key, fault, .. } = opened;
    let idle = request.idle_timeout.map(Idle::new);
    let connection = picked.connection.clone();
    let mut guard = Guard {
        connection: picked.connection,
        key,
        pump: None,
        completion: picked.completion,
    };
    if let Some(key) = key
        && let Some(outbound) = request.outbound.take()
    {
        request.outbound_spent = true;
        let pump = Pump::new(connection.clone(), key, outbound, PumpEnd::HalfClose);
        let pump = pump.with_idle(idle.as_ref().map(Idle::other));
        guard.pump = Some(Aborting(tokio::spawn(pump)));
    }
    if request.streaming {
        streamed(channel, guard, idle, fault).await
    } else {
        answered(guard, request.method, idle.as_ref(), fault).await
    }
}

/// The answer to a call that does not stream.
async fn answered(mut guard: Guard, method: u64, idle: Option<&Idle>, fault: Pending) -> Outcome {
    let Some(key) = guard.key else {
        return guard.not_sent(fault).await;
    };
    let reply = std::future::poll_fn(|task| guard.connection.poll_reply(key, task)).await;
    let mut reply = reply.map_err(|error| guard.failed(error, idle))?;
    guard.take_report(&mut reply.trailers);
    let bytes = reply.message.as_ref().map_or(0, |message| message.len());
    guard.connection.note_answer(method, bytes);
    fault.pass().await?;
    let outcome = outcome(reply);
    guard.over(outcome.as_ref().err());
    outcome
}

/// The beginning of a stream of answers.
async fn streamed(channel: &Channel, mut guard: Guard, idle: Option<Idle>, fault: Pending) -> Outcome {
    let Some(key) = guard.key else {
        return guard.not_sent(fault).await;
    };
    let head = std::future::poll_fn(|task| guard.connection.poll_head(key, task)).await;
    let metadata = head.map_err(|error| guard.failed(error, idle.as_ref()))?;
    fault.pass().await?;
    if let Some((status, mut trailers)) = guard.connection.take_failure(key) {
        guard.take_report(&mut trailers);
        let status = status.with_metadata(trailers);
        guard.over(Some(&status));
        return Err(status);
    }
    if let Some(completion) = &mut guard.completion {
        completion.begin_stream();
    }
    Ok(streaming_reply(channel, guard, metadata, idle))
}

/// A connection, or a stream of it, for the next attempt.
async fn choose(channel: &Channel, request: &mut RawRequest, policy: &RetryPolicy) -> Result<Picked, Status> {
    let may_ask = request.may_ask(policy);
    let wanted = Wanted {
        method: request.method,
        metadata: &request.metadata,
        route_key: request.route_key,
        may_ask: &move || may_ask,
        tried: &request.history.tried,
        wait_for_ready: request.wait_for_ready,
    };
    let picked = channel.acquire(&wanted).await?;
    request.history.tried.extend(picked.completion.as_ref().map(|completion| completion.member().id));
    Ok(picked)
}

/// Opens the call; `None` if it stands in line there, and the endpoint has another connection with room by now.
async fn open_here_or_there(
    picked: &Picked,
    opening: OpenRequest<'_>,
    time: Option<Duration>,
) -> Option<Result<(StreamKey, Instant), OpenError>> {
    let member = picked.completion.as_ref().map(Completion::member);
    let Some((member, extras)) = member.and_then(|member| Some((member, member.extras.as_ref()?))) else {
        return Some(open(&picked.connection, opening, time).await);
    };
    // Both are cancel safe: whoever leaves the line has nothing sent.
    tokio::select! {
        biased;
        opened = open(&picked.connection, opening, time) => Some(opened),
        () = extras.room(&member.subchannel, &picked.connection) => None,
    }
}

fn not_opened(channel: &Channel, picked: Picked, error: OpenError) -> Status {
    if matches!(error, OpenError::GoingAway | OpenError::Closed(_)) {
        channel.retire(&picked.connection, picked.completion.as_ref());
    }
    picked.give_up();
    open_status(error)
}

/// Opens the call with what is left of its time, or with so much `time` from now if that is less; waits while the connection has as many as it takes. Tells when that was.
pub(super) async fn open(
    connection: &Connection,
    mut request: OpenRequest<'_>,
    time: Option<Duration>,
) -> Result<(StreamKey, Instant), OpenError> {
    let mut waiting = WaitingToOpen {
        connection,
        place: None,
    };
    let whole = request.deadline;
    std::future::poll_fn(|task| {
        let now = time::now();
        let limit = time.and_then(|time| now.checked_add(time));
        request.deadline = limit.into_iter().chain(whole).min();
        request.timeout = request.deadline.map_or(0, |deadline| time::to_wire_timeout(deadline, now));
        match connection.open_in_turn(now, &request, &mut waiting.place, task) {
            Err(OpenError::Full) => Poll::Pending,
            opened => Poll::Ready(opened.map(|key| (key, now))),
        }
    })
    .await
}

fn streaming_reply(channel: &Channel, mut guard: Guard, metadata: Metadata, idle: Option<Idle>) -> Reply {
    let stream = match guard.key.take() {
        Some(key) => ClientStream {
            receive: Receive::new(guard.connection.clone(), key, ReceiveEnd::ReleaseCall).with_idle(idle),
            _pump: guard.pump.take(),
            completion: guard.completion.take(),
            _channel: channel.clone(),
        },
        // The key is taken once, here.
        None => return Reply::default(),
    };
    Reply::from_parts(metadata, Body::Stream(Box::new(stream)), Metadata::new())
}

/// Stands in line until a stream may be opened; leaving the line, for whatever reason, lets the next one have its turn.
struct WaitingToOpen<'a> {
    connection: &'a Connection,
    place: Option<Place>,
}

impl Drop for WaitingToOpen<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.connection.stop_waiting_to_open(place);
        }
    }
}

/// Releases the stream of an attempt that was given up.
struct Guard {
    connection: Connection,
    key: Option<StreamKey>,
    pump: Option<Aborting>,
    completion: Option<Completion>,
}

impl Guard {
    /// The attempt failed; tells with which status.
    fn failed(&mut self, error: StreamError, idle: Option<&Idle>) -> Status {
        let status = match idle {
            Some(idle) => idle.status_of(error),
            None => stream_status(error),
        };
        self.over(Some(&status));
        status
    }

    /// The attempt ends on purpose, as if its endpoint had failed.
    async fn not_sent(&mut self, fault: Pending) -> Outcome {
        let ended = fault.pass().await;
        self.over(ended.as_ref().err());
        ended.map(|()| Reply::default())
    }

    fn take_report(&self, trailers: &mut Metadata) {
        if let Some(completion) = &self.completion {
            completion.take_report(trailers);
        }
    }

    /// The attempt ended with that status, or with an answer.
    fn over(&mut self, failed: Option<&Status>) {
        if let Some(completion) = self.completion.take() {
            completion.end(failed);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.release_call(key);
        }
    }
}

/// A task that ends with its owner.
struct Aborting(JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A response's stream; keeps the channel, and with it the connection, alive.
struct ClientStream {
    receive: Receive,
    _pump: Option<Aborting>,
    /// Ends with the stream; how long that lasts tells nothing.
    completion: Option<Completion>,
    _channel: Channel,
}

impl MessageStream for ClientStream {
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>> {
        self.receive.poll_fill(task, batch).map_err(Status::of_a_call)
    }

    fn take_trailers(&mut self) -> Metadata {
        let mut trailers = self.receive.take_trailers();
        if let Some(completion) = &self.completion {
            completion.take_report(&mut trailers);
        }
        trailers
    }
}
