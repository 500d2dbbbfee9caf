//! The future of a call. The short way: encode, one lock, one write, wait, decode; no box, no task, no timer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::accounts::Failure;
use super::attempt::{self, BoxOutcome};
use super::call::{Call, CallMeta};
use super::channel::{Channel, Wanted};
use super::ejection::MayAsk;
use super::member::{Completion, Picked};
use super::raw::{Cause, History};
use crate::call::{UNKNOWN_METHOD, open_status, stream_status};
use crate::code::Code;
use crate::message::{Body, FromStatus, Outcome, Reply, ReplyShape};
use crate::metadata::Metadata;
use crate::method::MethodSpec;
use crate::mux::{OpenError, OpenRequest, StreamError, StreamKey, UnaryReply};
use crate::policy::breaker::Pass;
use crate::policy::verdict::spares_service;
use crate::priority::Priority;
use crate::status::{HandlerRan, Status};
use crate::time;
use crate::transport::Connection;
use crate::transport::lanes::OWN_STREAM_BYTES_MIN;

/// A call under way; dropping it cancels the call.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<T, E> {
    inner: MetaFuture<T, E>,
}

/// A call under way whose response comes with its metadata.
#[must_use = "futures do nothing unless polled"]
pub struct MetaFuture<T, E> {
    spec: &'static MethodSpec,
    /// Kept while the call runs, in case the server provably did not take it up.
    call: Option<Call<T, E>>,
    state: State,
}

enum State {
    Prepared,
    /// On a connection, by the short way.
    Running(Running),
    /// By the general way.
    Boxed(BoxOutcome),
    Done,
}

/// How a call ended, by which way.
enum Ended {
    Short(UnaryReply),
    General(Outcome),
}

/// A stream that is released when its call is done with.
struct Running {
    connection: Connection,
    key: StreamKey,
    /// The stream is gone: its answer was taken.
    answered: bool,
    priority: Priority,
    /// Of the method's circuit breaker when it began.
    turn: u32,
    completion: Option<Completion>,
}

impl Running {
    /// The attempt ended with that status, or with an answer.
    fn over(&mut self, failed: Option<&Status>) {
        if let Some(completion) = self.completion.take() {
            completion.end(failed);
        }
    }

    /// Nobody waits for the answer any more. If that is because its time is up, it was late, whoever looked at the clock first.
    #[cold]
    fn given_up(&mut self, channel: &Channel, spec: &'static MethodSpec) {
        let now = time::now();
        let is_late = match self.connection.poll_reply(self.key, &Context::from_waker(Waker::noop())) {
            Poll::Pending => self.connection.deadline(self.key).is_some_and(|deadline| deadline <= now),
            Poll::Ready(Err(error)) => error == StreamError::DeadlineExceeded,
            Poll::Ready(Ok(reply)) => {
                self.answered = reply.status.is_none();
                reply.status.is_some_and(|status| status.code() == Code::DeadlineExceeded)
            }
        };
        if !is_late {
            return;
        }
        if let Some(completion) = &mut self.completion {
            completion.set_due(Some(now));
        }
        let governance = channel.governance();
        governance.account(spec.id()).end_late(
            Pass::free(self.turn),
            &channel.guards(spec.name()),
            spec.path(),
            self.priority,
            governance.since(),
        );
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.answered {
            self.connection.release_call(self.key);
        }
    }
}

impl<T: ReplyShape, E: FromStatus> CallFuture<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self {
            inner: MetaFuture::new(call),
        }
    }
}

impl<T, E> Drop for MetaFuture<T, E> {
    fn drop(&mut self) {
        if let (State::Running(running), Some(call)) = (&mut self.state, &self.call) {
            running.given_up(&call.channel, self.spec);
        }
    }
}

impl<T: ReplyShape, E: FromStatus> MetaFuture<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self {
            spec: call.spec,
            call: Some(call),
            state: State::Prepared,
        }
    }

    fn poll_ended(&mut self, task: &mut Context<'_>) -> Poll<Ended> {
        loop {
            match &mut self.state {
                State::Running(running) => {
                    let status = match std::task::ready!(running.connection.poll_reply(running.key, task)) {
                        Ok(mut reply) => {
                            running.answered = reply.status.is_none();
                            if let Some(completion) = &running.completion {
                                completion.take_report(&mut reply.trailers);
                            }
                            let bytes = reply.message.as_ref().map_or(0, |message| message.len());
                            running.connection.note_answer(self.spec.id(), bytes);
                            match reply.status.take() {
                                None => {
                                    running.over(None);
                                    if let Some(call) = &self.call {
                                        call.channel.governance().account(self.spec.id()).note_answer(running.priority);
                                    }
                                    self.state = State::Done;
                                    return Poll::Ready(Ended::Short(reply));
                                }
                                Some(status) => status.with_metadata(reply.trailers),
                            }
                        }
                        Err(error) => stream_status(error),
                    };
                    if let Some(ended) = self.failed(status) {
                        return Poll::Ready(ended);
                    }
                }
                State::Prepared => {
                    let begun = match &mut self.call {
                        Some(call) => begin(call, task),
                        None => Begun::Over(ended_already()),
                    };
                    match begun {
                        Begun::Running(running) => {
                            // Opening registered the task already.
                            self.state = State::Running(running);
                            return Poll::Pending;
                        }
                        Begun::Over(status) => {
                            self.state = State::Done;
                            return Poll::Ready(Ended::General(Err(status)));
                        }
                        Begun::General => {
                            self.state = State::Done;
                            if let Some(call) = self.call.take() {
                                self.state = general(call, None, None);
                            }
                        }
                    }
                }
                State::Boxed(future) => {
                    let outcome = std::task::ready!(future.as_mut().poll(task));
                    self.state = State::Done;
                    return Poll::Ready(Ended::General(outcome));
                }
                State::Done => return Poll::Ready(Ended::General(Err(ended_already()))),
            }
        }
    }
}

impl<T: ReplyShape, E> MetaFuture<T, E> {
    /// The attempt by the short way failed: it ends the call, or another one follows by the general way.
    #[cold]
    fn failed(&mut self, status: Status) -> Option<Ended> {
        let State::Running(mut running) = std::mem::replace(&mut self.state, State::Done) else {
            return Some(Ended::General(Err(status)));
        };
        let tried = running.completion.iter().map(|completion| completion.member().id).collect();
        running.over(Some(&status));
        let Some(call) = self.call.take() else {
            return Some(Ended::General(Err(status)));
        };
        let policy = call.channel.retry_policy(self.spec.name());
        let is_covered = policy.covers(&status);
        let account = call.channel.governance().account(self.spec.id());
        let is_answer = spares_service(&status) && !is_covered;
        let failure = Failure {
            path: self.spec.path(),
            priority: running.priority,
            status: &status,
            is_answer,
        };
        let guards = call.channel.guards(self.spec.name());
        account.end_failed(
            Pass::free(running.turn),
            &guards,
            &failure,
            call.channel.governance().since(),
        );
        let may_follow = status.handler_ran() == HandlerRan::No || (self.spec.is_idempotent() && is_covered);
        // The time of the whole call is up; its stream need not know any more when that was.
        let now = time::now();
        let deadline = running.connection.deadline(running.key);
        let is_late = status.code() == Code::DeadlineExceeded
            && deadline.is_none_or(|deadline| deadline <= now)
            && call.deadline(now).0.is_some();
        if !may_follow || is_late {
            return Some(Ended::General(Err(status)));
        }
        let history = History {
            attempts: 1,
            tried,
            failed: Some((status, Cause::Failed)),
            ..History::within(call.parent.as_ref())
        };
        // Within what is left of its time.
        self.state = general(call, deadline, Some(history));
        None
    }
}

impl Ended {
    fn into_outcome(self) -> Outcome {
        match self {
            Self::Short(reply) => outcome(reply),
            Self::General(outcome) => outcome,
        }
    }
}

fn ended_already() -> Status {
    Status::internal("the call was polled after it had ended")
}

/// How a call began.
enum Begun {
    Running(Running),
    /// It has to go the general way.
    General,
    /// It cannot be made.
    Over(Status),
}

/// Whether nothing about the call asks for the general way.
fn is_plain<T: ReplyShape, E>(call: &Call<T, E>) -> bool {
    !T::STREAMING
        && call.outbound.is_none()
        && call.arguments.is_ok()
        && call.channel.chain().is_empty()
        && call.options.as_ref().is_none_or(|options| options.chain.is_empty() && options.wrong.is_none())
        && call.channel.local_calls().is_none()
        && !call.channel.times_attempts(call.spec)
        && !call.channel.has_faults()
}

/// Opens the call on the ready connection, if it is a plain one.
fn begin<T: ReplyShape, E: FromStatus>(call: &mut Call<T, E>, task: &Context<'_>) -> Begun {
    let account = call.channel.governance().account(call.spec.id());
    if !is_plain(call) || !account.is_calm() {
        return Begun::General;
    }
    let turn = account.turn();
    let metadata = if call.options.is_none() && call.parent.is_none() {
        Metadata::new()
    } else {
        call.take_metadata()
    };
    let Some(picked) = choose(call, &metadata) else {
        give_back(call, metadata);
        return Begun::General;
    };
    let Picked {
        connection,
        mut completion,
    } = picked;
    let Ok(arguments) = &call.arguments else {
        return Begun::General;
    };
    let mut request = OpenRequest {
        method: call.spec.id(),
        timeout: 0,
        deadline: None,
        metadata: &metadata,
        arguments,
        fin: true,
    };
    let opened = match call.relative_deadline() {
        Some(timeout) => {
            request.timeout = time::duration_to_wire(timeout);
            connection.open_within(timeout, &mut request, task)
        }
        None => {
            let now = time::now();
            let (deadline, _) = call.deadline(now);
            if let Some(status) = Call::<T, E>::expired(deadline, now) {
                connection.not_opened();
                return Begun::Over(status);
            }
            request.timeout = deadline.map_or(0, |deadline| time::to_wire_timeout(deadline, now));
            request.deadline = deadline;
            connection.open(now, &request, task)
        }
    };
    let priority = Priority::of(&metadata);
    give_back(call, metadata);
    match opened {
        Ok(key) => Begun::Running(Running {
            connection,
            key,
            answered: false,
            priority,
            turn,
            completion: completion.take(),
        }),
        Err(error) => {
            if let Some(completion) = &mut completion {
                completion.set_neutral();
            }
            connection.not_opened();
            match error {
                OpenError::TooLarge { .. } | OpenError::TooManyEntries { .. } => Begun::Over(open_status(error)),
                _ => Begun::General,
            }
        }
    }
}

/// The connection, or a stream of it, that is there for the call.
fn choose<T, E>(call: &Call<T, E>, metadata: &Metadata) -> Option<Picked> {
    let (channel, spec) = (&call.channel, call.spec);
    let mut picked = channel.pick(&Wanted {
        method: call.spec.id(),
        metadata,
        route_key: call.options.as_ref().and_then(|options| options.route_key),
        may_ask: &|| MayAsk::of(true, spec.is_idempotent() && channel.is_retried(spec)),
        tried: &[],
        wait_for_ready: false,
    })?;
    if picked.connection.is_early() && !call.spec.is_idempotent() {
        return None;
    }
    let large = call.arguments.as_ref().is_ok_and(|arguments| arguments.message_len() > OWN_STREAM_BYTES_MIN);
    picked.connection = picked.connection.for_call(call.spec.id(), large);
    Some(picked)
}

/// Keeps the metadata for the case that the call has to be sent again; what was inherited is found again then.
fn give_back<T, E>(call: &mut Call<T, E>, metadata: Metadata) {
    if !metadata.is_empty()
        && let Some(options) = &mut call.options
    {
        options.metadata = metadata;
    }
}

/// The general way, within `limit` and after what the short one came to.
fn general<T: ReplyShape, E>(call: Call<T, E>, limit: Option<Instant>, history: Option<History>) -> State {
    match call.into_request(time::now(), limit) {
        Ok((channel, mut request, parent, chain)) => {
            request.history = history.unwrap_or(request.history);
            State::Boxed(attempt::boxed(channel, request, parent, chain))
        }
        Err(late) => {
            // What was tried before its time was up is what it came to.
            let status = history.and_then(|history| history.failed).map_or(late, |(failed, _)| failed);
            State::Boxed(Box::pin(std::future::ready(Err(status))))
        }
    }
}

/// What a server said that does not know the method by its id: the client knows its name.
fn explain(status: Status, path: &str) -> Status {
    let status = status.of_a_call();
    let unknown = status.code() == Code::Unimplemented && status.message().starts_with(UNKNOWN_METHOD);
    if !unknown || path.is_empty() {
        return status;
    }
    let message = format!("{path} is not served there; is its service added to the server, and under the same name?");
    status.with_message(message)
}

/// The outcome of a unary call, from what came over the wire.
pub(super) fn outcome(reply: UnaryReply) -> Outcome {
    match reply.status {
        Some(status) => Err(status.with_metadata(reply.trailers)),
        None => {
            let body = reply.message.map_or(Body::Empty, Body::Received);
            Ok(Reply::from_parts(reply.metadata, body, reply.trailers))
        }
    }
}

impl<T: ReplyShape, E: FromStatus> Future for CallFuture<T, E> {
    type Output = Result<T, E>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut self.get_mut().inner;
        let result = match std::task::ready!(this.poll_ended(task)) {
            Ended::Short(reply) => match reply.status {
                None => T::from_body(reply.message.map_or(Body::Empty, Body::Received), this.spec),
                Some(status) => Err(explain(status, this.spec.path()).with_metadata(reply.trailers)),
            },
            Ended::General(Ok(reply)) => T::from_body(reply.into_parts().1, this.spec),
            Ended::General(Err(status)) => Err(explain(status, this.spec.path())),
        };
        Poll::Ready(result.map_err(E::from_status))
    }
}

impl<T: ReplyShape, E: FromStatus> Future for MetaFuture<T, E> {
    type Output = Result<(T, CallMeta), E>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let result = std::task::ready!(this.poll_ended(task)).into_outcome().and_then(|reply| {
            let (metadata, body, trailers) = reply.into_parts();
            T::from_body(body, this.spec).map(|value| (value, CallMeta::new(metadata, trailers)))
        });
        Poll::Ready(result.map_err(|status| E::from_status(explain(status, this.spec.path()))))
    }
}

// Nothing in a call is pinned: the boxed way is pinned in its own box.
impl<T, E> Unpin for CallFuture<T, E> {}
impl<T, E> Unpin for MetaFuture<T, E> {}

impl<T, E> fmt::Debug for CallFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl<T, E> fmt::Debug for MetaFuture<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match self.state {
            State::Prepared => "prepared",
            State::Running(_) => "running",
            State::Boxed(_) => "general",
            State::Done => "done",
        };
        write!(f, "Call({}, {state})", self.spec.path())
    }
}
