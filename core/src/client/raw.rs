//! Calls without types: what interceptors, proxies and dynamic clients see.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::attempt;
use super::channel::Channel;
use crate::context::{ATTEMPT_KEY, Cx, CxParts, Side};
use crate::interceptor::Chain;
use crate::message::{Batch, MessageStream, Outcome};
use crate::metadata::Metadata;
use crate::method::{MethodSpec, method_id};
use crate::priority::Priority;
use crate::service::ServerRequest;
use crate::status::Status;
use crate::time;
use crate::transport::lanes::OWN_STREAM_BYTES_MIN;
use crate::wire::head::PATH_KEY;
use crate::wire::message::EncodedMessage;

/// A call in its encoded form.
pub struct RawRequest {
    pub(crate) spec: Option<&'static MethodSpec>,
    pub(crate) method: u64,
    pub(crate) path: Option<Arc<str>>,
    pub(crate) arguments: EncodedMessage,
    pub(crate) outbound: Option<Box<dyn MessageStream>>,
    /// The stream that follows the arguments was begun, so the request cannot be sent again.
    pub(crate) outbound_spent: bool,
    pub(crate) streaming: bool,
    pub(crate) metadata: Metadata,
    /// When this side ends the call, or its opening if it is a stream.
    pub(crate) deadline: Option<Instant>,
    /// The deadline bounds the whole stream, not only its opening.
    pub(crate) bounds_stream: bool,
    pub(crate) wait_for_ready: bool,
    /// What the call is about, for balancers.
    pub(crate) route_key: Option<u64>,
    /// How long each direction of a stream may wait.
    pub(crate) idle_timeout: Option<Duration>,
    /// What was tried already.
    pub(crate) history: History,
    /// The interceptors let the call through.
    pub(crate) begun: Arc<AtomicBool>,
}

/// What became of a call so far.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// Attempts that were made.
    pub(crate) attempts: u32,
    /// The endpoints they went to, where there are several.
    pub(crate) tried: Vec<u64>,
    /// How the last one failed, if it is over.
    pub(crate) failed: Option<(Status, Cause)>,
    /// One of them was a retry by policy.
    pub(crate) was_retried: bool,
    /// The last one found nobody who would take it up.
    pub(crate) was_turned_away: bool,
    /// How many did.
    pub(crate) turned_away: u32,
    /// The call is made by a handler whose own call is a retry.
    pub(crate) is_on_behalf_of_a_retry: bool,
}

/// Why an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// As its status says.
    Failed,
    /// It had taken as long as an attempt may.
    TimedOut,
}

impl History {
    /// Of a call that is made within `parent`, and was not tried yet.
    pub(crate) fn within(parent: Option<&Cx>) -> Self {
        Self {
            is_on_behalf_of_a_retry: parent.is_some_and(|parent| parent.attempt() > 1),
            ..Self::default()
        }
    }
}

/// The method's name in its path.
pub(super) fn name_in(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

impl RawRequest {
    /// The id of the method.
    #[must_use]
    pub fn method(&self) -> u64 {
        self.method
    }

    /// What is known about the method.
    #[must_use]
    pub fn spec(&self) -> Option<&'static MethodSpec> {
        self.spec
    }

    /// Service and method, if they are known.
    #[must_use]
    pub fn path(&self) -> Option<&str> {
        match self.spec {
            Some(spec) => Some(spec.path()),
            None => self.path.as_deref(),
        }
    }

    /// The method's name, as configurations know it; empty if it is not known.
    pub(super) fn method_name(&self) -> &str {
        match self.spec {
            Some(spec) => spec.name(),
            None => self.path.as_deref().map(name_in).unwrap_or_default(),
        }
    }

    /// The encoded arguments.
    #[must_use]
    pub fn arguments(&self) -> &EncodedMessage {
        &self.arguments
    }

    /// The request's metadata.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// When the call ends at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// The deadline as the server has it: none if it covers only the opening of a stream.
    #[must_use]
    pub fn bound(&self) -> Option<Instant> {
        self.deadline.filter(|_| !self.streaming || self.bounds_stream)
    }

    /// Whether it is to have a stream of the transport to itself, where there are such.
    pub(super) fn needs_own_stream(&self) -> bool {
        self.streaming || self.outbound.is_some() || self.arguments.message_len() > OWN_STREAM_BYTES_MIN
    }

    /// Whether one message goes there, and one comes back.
    pub(super) fn is_unary(&self) -> bool {
        !self.streaming && self.outbound.is_none()
    }

    /// Whether it may run twice.
    pub(super) fn is_idempotent(&self) -> bool {
        self.spec.is_some_and(MethodSpec::is_idempotent)
    }

    /// Takes the stream that follows the arguments.
    #[must_use]
    pub fn take_outbound(&mut self) -> Option<Box<dyn MessageStream>> {
        self.outbound.take()
    }
}

impl fmt::Debug for RawRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawRequest")
            .field("method", &format_args!("{:#018x}", self.method))
            .field("path", &self.path())
            .field("arguments", &self.arguments)
            .finish_non_exhaustive()
    }
}

impl Channel {
    /// Passes a call on as it came: method, metadata, deadline, arguments and streams in both directions. A server's fallback that calls this is a
    /// proxy.
    ///
    /// # Errors
    /// The upstream server's status, or why it could not be reached.
    pub async fn forward(&self, cx: &Cx, request: ServerRequest) -> Outcome {
        let (arguments, inbound) = request.into_parts();
        let mut metadata = cx.metadata().clone();
        metadata.remove(PATH_KEY);
        // As this server took it, or its clients could claim through it what they cannot claim from it.
        cx.priority().write_to(&mut metadata);
        let path = Some(cx.path()).filter(|path| !path.is_empty()).map(Arc::from);
        if let Some(path) = &path {
            add_path(&mut metadata, path)?;
        }
        let raw = RawRequest {
            spec: cx.method(),
            method: cx.method_id(),
            path,
            arguments: EncodedMessage::from_encoded(arguments.to_bytes()),
            outbound: inbound.into_messages(),
            outbound_spent: false,
            streaming: true,
            metadata,
            deadline: cx.deadline(),
            bounds_stream: true,
            wait_for_ready: self.waits_for_ready(),
            idle_timeout: None,
            route_key: None,
            history: History::within(Some(cx)),
            begun: Arc::default(),
        };
        // What the upstream server says is the answer, as it is.
        match attempt::boxed(self.clone(), raw, Some(cx.clone()), Chain::default()).await {
            Ok(reply) => Ok(reply.map_stream(|stream| Box::new(PassedOn(stream)))),
            Err(status) => Err(status.pass_on()),
        }
    }

    /// Calls a method that is known by its path only, with encoded arguments: for tools and dynamic clients.
    ///
    /// # Errors
    /// The server's status, or why it could not be reached.
    pub async fn call_raw(
        &self,
        path: &str,
        arguments: EncodedMessage,
        outbound: Option<Box<dyn MessageStream>>,
        timeout: Option<Duration>,
    ) -> Outcome {
        let mut metadata = Metadata::new();
        add_path(&mut metadata, path)?;
        let parent = Cx::current();
        if let Some(parent) = &parent {
            parent.priority().write_to(&mut metadata);
            mark_behalf(parent, &mut metadata);
        }
        let raw = RawRequest {
            spec: None,
            method: method_id(path),
            path: Some(Arc::from(path)),
            arguments,
            outbound,
            outbound_spent: false,
            streaming: true,
            metadata,
            deadline: timeout.and_then(|timeout| time::now().checked_add(timeout)),
            bounds_stream: true,
            wait_for_ready: self.waits_for_ready(),
            idle_timeout: None,
            route_key: None,
            history: History::within(parent.as_ref()),
            begun: Arc::default(),
        };
        attempt::boxed(self.clone(), raw, parent, Chain::default()).await.map_err(Status::of_a_call)
    }
}

/// A stream whose failure is passed on as it is.
struct PassedOn(Box<dyn MessageStream>);

impl MessageStream for PassedOn {
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>> {
        self.0.poll_fill(task, batch).map_err(Status::pass_on)
    }

    fn take_trailers(&mut self) -> Metadata {
        self.0.take_trailers()
    }
}

/// Tells the server that a call is made on behalf of one that is a retry, so that nobody further on retries it either.
pub(super) fn mark_behalf(parent: &Cx, metadata: &mut Metadata) {
    let attempt = parent.attempt();
    if attempt > 1 {
        // Key and value keep the rules.
        let _valid = metadata.insert(ATTEMPT_KEY, attempt.to_string());
    }
}

fn add_path(metadata: &mut Metadata, path: &str) -> Result<(), Status> {
    metadata.insert(PATH_KEY, path).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The client's context of a call.
pub(super) fn context_of(request: &RawRequest, parent: Option<Cx>) -> Cx {
    Cx::from_parts(CxParts {
        method: request.spec,
        path: request.path.clone(),
        method_id: request.method,
        side: Some(Side::Client),
        deadline: request.deadline,
        priority: Priority::of(&request.metadata),
        peer: None,
        metadata: request.metadata.clone(),
        parent,
    })
}
