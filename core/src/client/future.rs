//! The future of a call. The short way: encode, one lock, one write, wait, decode; no box, no task, no timer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use super::attempt;
use super::call::{Call, CallMeta};
use crate::call::{open_status, stream_status};
use crate::message::{Body, FromStatus, Outcome, Reply, ReplyShape};
use crate::metadata::Metadata;
use crate::method::MethodSpec;
use crate::mux::{OpenRequest, StreamKey, UnaryReply};
use crate::status::{HandlerRan, Status};
use crate::time;
use crate::transport::Connection;

/// A call under way; dropping it cancels the call.
#[must_use = "futures do nothing unless polled"]
pub struct CallFuture<T, E> {
    inner: MetaFuture<T, E>,
}

/// A call under way whose response comes with its metadata.
#[must_use = "futures do nothing unless polled"]
pub struct MetaFuture<T, E> {
    spec: &'static MethodSpec,
    state: State<T, E>,
}

enum State<T, E> {
    Prepared(Call<T, E>),
    /// On a connection, by the short way; the call is kept in case the server provably did not take it up.
    Running(Running, Call<T, E>),
    /// By the general way.
    Boxed(Pin<Box<dyn Future<Output = Outcome> + Send>>),
    Done,
}

/// A stream that is released when its call is done with.
struct Running {
    connection: Connection,
    key: StreamKey,
    /// The stream is gone: its answer was taken.
    answered: bool,
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

impl<T: ReplyShape, E: FromStatus> MetaFuture<T, E> {
    pub(super) fn new(call: Call<T, E>) -> Self {
        Self {
            spec: call.spec,
            state: State::Prepared(call),
        }
    }

    fn poll_outcome(&mut self, task: &mut Context<'_>) -> Poll<Outcome> {
        loop {
            // The running state is looked at in place: it is the one that is polled most.
            if let State::Running(running, _) = &mut self.state {
                let status = match std::task::ready!(running.connection.poll_reply(running.key, task)) {
                    Ok(reply) => {
                        running.answered = true;
                        self.state = State::Done;
                        return Poll::Ready(outcome(reply));
                    }
                    Err(error) => stream_status(error),
                };
                let State::Running(running, call) = std::mem::replace(&mut self.state, State::Done) else {
                    return Poll::Ready(Err(status));
                };
                if status.handler_ran() != HandlerRan::No {
                    return Poll::Ready(Err(status));
                }
                // The server provably did not take it up, so it may be sent again whatever it does; within what is left of its time.
                let deadline = running.connection.deadline(running.key);
                drop(running);
                self.state = State::Boxed(general(call, deadline)?);
                continue;
            }
            match std::mem::replace(&mut self.state, State::Done) {
                State::Prepared(call) => {
                    self.state = begin(call, task)?;
                    if matches!(self.state, State::Running(..)) {
                        // Opening registered the task already.
                        return Poll::Pending;
                    }
                }
                State::Boxed(mut future) => {
                    let polled = future.as_mut().poll(task);
                    if polled.is_pending() {
                        self.state = State::Boxed(future);
                    }
                    return polled;
                }
                State::Running(..) | State::Done => {
                    return Poll::Ready(Err(Status::internal("the call was polled after it had ended")));
                }
            }
        }
    }

    fn poll_meta(&mut self, task: &mut Context<'_>) -> Poll<Result<(T, CallMeta), E>> {
        let result = match std::task::ready!(self.poll_outcome(task)) {
            Ok(reply) => {
                let (metadata, body, trailers) = reply.into_parts();
                T::from_body(body, self.spec).map(|value| (value, CallMeta::new(metadata, trailers)))
            }
            Err(status) => Err(status),
        };
        Poll::Ready(result.map_err(E::from_status))
    }
}

/// Opens the call on the ready connection, or goes the general way.
fn begin<T: ReplyShape, E: FromStatus>(mut call: Call<T, E>, task: &Context<'_>) -> Result<State<T, E>, Status> {
    let plain = !T::STREAMING
        && call.outbound.is_none()
        && call.channel.chain().is_empty()
        && call.options.as_ref().is_none_or(|options| options.chain.is_empty() && options.wrong.is_none());
    if !plain || call.arguments.is_err() {
        return general(call, None).map(State::Boxed);
    }
    let connection = match call.channel.current() {
        Some(current) => match &*current {
            Some(connection) => Connection::clone(connection),
            None => return general(call, None).map(State::Boxed),
        },
        None => return general(call, None).map(State::Boxed),
    };
    let metadata = if call.options.is_none() && call.parent.is_none() {
        Metadata::new()
    } else {
        call.take_metadata()
    };
    let Ok(arguments) = &call.arguments else {
        return general(call, None).map(State::Boxed);
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
                return Err(status);
            }
            request.timeout = deadline.map_or(0, |deadline| time::to_wire_timeout(deadline, now));
            request.deadline = deadline;
            connection.open(now, &request, task)
        }
    };
    match opened {
        Ok(key) => {
            // Kept for the case that the call has to be sent again.
            if !metadata.is_empty()
                && let Some(options) = &mut call.options
            {
                options.metadata = metadata;
            }
            let running = Running {
                connection,
                key,
                answered: false,
            };
            Ok(State::Running(running, call))
        }
        Err(error @ crate::mux::OpenError::TooLarge { .. }) => Err(open_status(error)),
        Err(_) => {
            if !metadata.is_empty() {
                call.options.get_or_insert_default().metadata = metadata;
            }
            general(call, None).map(State::Boxed)
        }
    }
}

fn general<T: ReplyShape, E>(
    call: Call<T, E>,
    limit: Option<Instant>,
) -> Result<Pin<Box<dyn Future<Output = Outcome> + Send>>, Status> {
    let (channel, request, parent, chain) = call.into_request(time::now(), limit)?;
    Ok(attempt::boxed(channel, request, parent, chain))
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
        self.get_mut().inner.poll_meta(task).map(|result| result.map(|(value, _)| value))
    }
}

impl<T: ReplyShape, E: FromStatus> Future for MetaFuture<T, E> {
    type Output = Result<(T, CallMeta), E>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        self.get_mut().poll_meta(task)
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
            State::Prepared(_) => "prepared",
            State::Running(..) => "running",
            State::Boxed(_) => "general",
            State::Done => "done",
        };
        write!(f, "Call({}, {state})", self.spec.path())
    }
}
