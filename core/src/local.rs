//! A client that calls a service in the same process: the codec and the interceptors run, no connection does.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Sleep;

use crate::call::handler_span;
use crate::client::{Channel, LocalCalls, RawRequest};
use crate::code::Code;
use crate::context::{self, CancelCause, Cx, CxParts, Peer, Side};
use crate::message::{Batch, Body, MessageStream, Outcome, Reply};
use crate::metadata::Metadata;
use crate::priority::Priority;
use crate::service::{BoxSlot, Inbound, ServerRequest, Service};
use crate::status::{HandlerRan, Origin, Status};
use crate::time;

struct Local {
    service: Arc<dyn Service>,
}

impl Channel {
    /// A channel whose calls are answered by `service` in this process.
    ///
    /// Arguments and replies are encoded and decoded and interceptors run, so that what works here works over a wire; deadlines hold too.
    #[must_use]
    pub fn local(service: impl Service) -> Self {
        Self::from_local(Local {
            service: Arc::new(service),
        })
    }
}

impl LocalCalls for Local {
    fn call(&self, _client: &Cx, mut request: RawRequest) -> Pin<Box<dyn Future<Output = Outcome> + Send>> {
        let found = self.service.methods().iter().find(|spec| {
            spec.id() == request.method() || spec.other_names().iter().any(|alias| alias.id() == request.method())
        });
        let Some(spec) = found else {
            let path = request.path().unwrap_or("?").to_owned();
            return Box::pin(async move { Err(arrived(Status::unimplemented(format!("no method {path} here")))) });
        };
        let cx = Cx::from_parts(CxParts {
            method: Some(spec),
            path: None,
            method_id: spec.id(),
            side: Some(Side::Server),
            deadline: request.bound(),
            priority: Priority::of(request.metadata()),
            peer: Some(Peer::new("local:")),
            metadata: request.metadata().clone(),
            parent: None,
        });
        let inbound = request.take_outbound().map(Inbound::new).unwrap_or_default();
        let mut slot = self.service.slot();
        let request = ServerRequest::new(request.arguments().to_payload(), inbound);
        slot.as_mut().start(spec, cx.clone(), request);
        Box::pin(run(slot, Running::new(cx)))
    }
}

/// Runs the handler as a server does: with its context as the ambient one, and with its panics caught.
async fn run(mut slot: BoxSlot, mut running: Running) -> Outcome {
    let outcome = std::future::poll_fn(|task| match running.poll(|| slot.as_mut().poll(task)) {
        Some(polled) => polled,
        None => Poll::Ready(Err(panicked())),
    })
    .await;
    // As on a server, the handler is gone before its answer leaves; a panic in a destructor goes no further.
    let _dropped = running.poll(|| slot.as_mut().clear());
    let (mut metadata, mut trailers) = running.cx.take_reply().unwrap_or_default();
    let reply = match outcome {
        Ok(reply) => reply,
        Err(status) => {
            running.over = true;
            let mut status = status.into_answer();
            if status.code() == Code::Ok {
                status = Status::internal("the handler failed with the code OK");
            }
            status.metadata_mut().merge(&trailers);
            return Err(arrived(status));
        }
    };
    let (own_metadata, body, own_trailers) = reply.into_parts();
    metadata.merge(&own_metadata);
    trailers.merge(&own_trailers);
    let body = match body {
        Body::Stream(stream) => {
            let deadline = running.cx.deadline();
            let stream = LocalStream {
                stream: Some(stream),
                trailers: std::mem::take(&mut trailers),
                timer: deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into()))),
                running,
            };
            return Ok(Reply::from_parts(metadata, Body::Stream(Box::new(stream)), trailers));
        }
        Body::Encoded(message) => Body::Received(message.to_payload()),
        other => other,
    };
    running.over = true;
    Ok(Reply::from_parts(metadata, body, trailers))
}

/// A call under way: whoever holds its context hears of it when the caller gives it up.
struct Running {
    cx: Cx,
    span: Option<tracing::Span>,
    over: bool,
}

impl Running {
    fn new(cx: Cx) -> Self {
        let span = handler_span(&cx);
        Self { cx, span, over: false }
    }

    /// Runs user code under the call's context; `None` if it panicked.
    fn poll<T>(&self, work: impl FnOnce() -> T) -> Option<T> {
        let mut ambient = Some(self.cx.clone());
        let guarded = AssertUnwindSafe(|| {
            context::enter(&mut ambient, || match &self.span {
                None => work(),
                Some(span) => span.in_scope(work),
            })
        });
        std::panic::catch_unwind(guarded).ok()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            let late = self.cx.deadline().is_some_and(|deadline| deadline <= time::now());
            self.cx.cancel(if late {
                CancelCause::DeadlineExceeded
            } else {
                CancelCause::ClientCancelled
            });
        }
    }
}

/// A handler's stream on its way to a caller in the same process.
struct LocalStream {
    /// `None` once it has ended.
    stream: Option<Box<dyn MessageStream>>,
    trailers: Metadata,
    timer: Option<Pin<Box<Sleep>>>,
    running: Running,
}

impl LocalStream {
    fn end(&mut self) {
        if let Some(mut stream) = self.stream.take() {
            self.trailers.merge(&stream.take_trailers());
            self.running.over = true;
            let _dropped = self.running.poll(|| drop(stream));
        }
    }
}

impl MessageStream for LocalStream {
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>> {
        let Some(stream) = &mut self.stream else {
            return Poll::Ready(Ok(false));
        };
        if let Some(timer) = &mut self.timer
            && timer.as_mut().poll(task).is_ready()
        {
            self.running.cx.cancel(CancelCause::DeadlineExceeded);
            self.end();
            return Poll::Ready(Err(Status::deadline_exceeded(
                "the deadline passed before the stream ended",
            )));
        }
        let filled = self.running.poll(|| stream.poll_fill(task, batch));
        let failed = match filled.unwrap_or_else(|| Poll::Ready(Err(panicked()))) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Ok(true)) => return Poll::Ready(Ok(true)),
            Poll::Ready(Ok(false)) => None,
            Poll::Ready(Err(status)) => Some(status),
        };
        self.end();
        Poll::Ready(match failed {
            None => Ok(false),
            Some(status) => {
                let mut status = status.into_answer();
                status.metadata_mut().merge(&std::mem::take(&mut self.trailers));
                Err(arrived(status))
            }
        })
    }

    fn take_trailers(&mut self) -> Metadata {
        std::mem::take(&mut self.trailers)
    }
}

impl Drop for LocalStream {
    fn drop(&mut self) {
        if self.stream.is_some() {
            self.running.cx.cancel(CancelCause::ClientCancelled);
            self.end();
        }
    }
}

fn panicked() -> Status {
    // What the panic said stays here, as it does on a server.
    Status::internal("the handler panicked")
}

/// The status as a caller gets it over a wire: what does not travel is left behind.
fn arrived(status: Status) -> Status {
    let mut sent = Status::new(status.code(), status.message().to_owned())
        .with_details(bytes::Bytes::copy_from_slice(status.details()))
        .with_app_bytes(status.app_bytes().clone())
        .with_metadata(status.metadata().clone())
        .with_origin(Origin::Remote)
        .with_handler_ran(HandlerRan::Yes);
    if let Some(retryable) = status.retryable_override() {
        sent = sent.with_retryable(retryable);
    }
    sent
}
