//! One call before it is made: arguments encoded, options to be set.

use std::fmt;
use std::future::IntoFuture;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::channel::Channel;
use super::future::{CallFuture, MetaFuture};
use super::raw::{History, RawRequest, mark_behalf};
use crate::config::ServiceConfig;
use crate::context::Cx;
use crate::interceptor::{Chain, Interceptor};
use crate::message::{FromStatus, MessageStream, ReplyShape, Streaming, Wire};
use crate::metadata::Metadata;
use crate::method::MethodSpec;
use crate::policy::ring::hash;
use crate::priority::{PRIORITY_KEY, Priority};
use crate::status::{HandlerRan, Status};
use crate::time::IntoDuration;
use crate::wire::args::ArgsWriter;
use crate::wire::message::EncodedMessage;

/// A call that was prepared; `.await` makes it.
///
/// The arguments are encoded already, so nothing borrowed is held: the call may be sent to another task. Dropping it, or the future, cancels the call.
#[must_use = "a call is made when it is awaited"]
pub struct Call<T, E> {
    pub(super) channel: Channel,
    pub(super) spec: &'static MethodSpec,
    pub(super) arguments: Result<EncodedMessage, Status>,
    pub(super) outbound: Option<Box<dyn MessageStream>>,
    pub(super) parent: Option<Cx>,
    pub(super) options: Option<Box<Options>>,
    shape: PhantomData<fn() -> (T, E)>,
}

/// What differs from the default.
#[derive(Debug, Default)]
pub(super) struct Options {
    pub(super) timeout: Option<Duration>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) metadata: Metadata,
    pub(super) wait_for_ready: bool,
    pub(super) detached: bool,
    pub(super) route_key: Option<u64>,
    pub(super) priority: Option<Priority>,
    pub(super) chain: Chain,
    pub(super) wrong: Option<Status>,
}

/// What came with a response besides its message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallMeta {
    metadata: Metadata,
    trailers: Metadata,
}

impl CallMeta {
    pub(super) fn new(metadata: Metadata, trailers: Metadata) -> Self {
        Self { metadata, trailers }
    }

    /// The response's metadata, which came before the message.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The trailers, which came after it; for a stream they are in [`Streaming::trailers`] at its end.
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        &self.trailers
    }
}

impl<T: ReplyShape, E: FromStatus> Call<T, E> {
    /// A call of `spec`; for generated code.
    pub fn new(channel: &Channel, spec: &'static MethodSpec, arguments: ArgsWriter) -> Self {
        Self {
            channel: channel.clone(),
            spec,
            arguments: arguments.finish(),
            outbound: None,
            parent: Cx::current(),
            options: None,
            shape: PhantomData,
        }
    }

    /// A call of `spec` whose items follow the arguments; for generated code.
    pub fn streaming<I: Wire>(
        channel: &Channel,
        spec: &'static MethodSpec,
        arguments: ArgsWriter,
        items: Streaming<I>,
    ) -> Self {
        let mut call = Self::new(channel, spec, arguments);
        call.outbound = Some(items.into_messages(spec.wire_encoding()));
        call
    }

    /// Sets the deadline (default: the channel's, 10 s); the method's and the ambient one still hold if they are earlier. For a streaming method it bounds the
    /// whole stream.
    ///
    /// A [`Duration`], or text such as `"250ms"` or `"1m30s"` ([`IntoDuration`]). Zero ends the call with DEADLINE_EXCEEDED before anything is sent; text
    /// that is no duration, with INVALID_ARGUMENT.
    pub fn timeout(mut self, timeout: impl IntoDuration) -> Self {
        match timeout.into_duration() {
            Ok(timeout) => self.options().timeout = Some(timeout),
            Err(error) => self.refuse(error.to_string()),
        }
        self
    }

    /// Sets how long each direction of a stream may wait (default: for ever); for calls over a connection, and without a meaning where nothing streams.
    ///
    /// The call ends with DEADLINE_EXCEEDED, and is cancelled at the server, when this side waits for the next item of the response for so long, or when
    /// for so long no item of the request could be sent, because its source gave none or the server took none. A server that sends nothing for a
    /// reason has to send something now and then. More than zero; a time that is no such thing ends the call with INVALID_ARGUMENT.
    pub fn idle_timeout(mut self, timeout: impl IntoDuration) -> Self {
        match timeout.into_duration() {
            Ok(timeout) if timeout.is_zero() => self.refuse("idle_timeout is 0; it must be more than zero".to_owned()),
            Ok(timeout) => self.options().idle_timeout = Some(timeout),
            Err(error) => self.refuse(error.to_string()),
        }
        self
    }

    /// Adds one value to the request's metadata.
    ///
    /// Keys are 1 to 255 of `a-z`, `0-9`, `-`, `_` and `.`; values are printable ASCII, or any bytes where the key ends in `-bin`. What breaks that rule
    /// ends the call with INVALID_ARGUMENT before anything is sent, and more than the server takes (by default 16 KiB in all; 256 entries) ends it too.
    pub fn metadata(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        if let Err(error) = self.options().metadata.append(key.to_owned(), value) {
            self.refuse(error.to_string());
        }
        self
    }

    /// Waits for the connection, up to the deadline, instead of failing while it cannot be made.
    pub fn wait_for_ready(mut self) -> Self {
        self.options().wait_for_ready = true;
        self
    }

    /// Sets what the call is about, as a customer or a document: with the balancer [`ConsistentHash`](super::ConsistentHash), calls of one key go to one endpoint.
    /// The bytes do not travel.
    pub fn route_key(mut self, key: impl AsRef<[u8]>) -> Self {
        self.options().route_key = Some(hash(key.as_ref()));
        self
    }

    /// Sets how much the call matters (default: as much as the call on whose behalf it is made, else [`Priority::Normal`]): a server that has too much to do turns
    /// the lowest away first.
    pub fn priority(mut self, priority: Priority) -> Self {
        self.options().priority = Some(priority);
        self
    }

    /// Leaves the ambient context behind: no inherited deadline, priority, trace or metadata, and no default deadline. A time-out of the method, or of
    /// [`timeout`](Self::timeout), still holds.
    pub fn detached(mut self) -> Self {
        self.parent = None;
        self.options().detached = true;
        self
    }

    /// Makes `cx` the parent: its deadline, trace and propagated metadata hold for this call.
    pub fn within(mut self, cx: &Cx) -> Self {
        self.parent = Some(cx.clone());
        self
    }

    /// Adds an interceptor around this call, inside the channel's.
    pub fn interceptor(mut self, interceptor: impl Interceptor + 'static) -> Self {
        let options = self.options();
        options.chain = options.chain.with(interceptor);
        self
    }

    /// Returns the response's metadata and trailers too.
    pub fn with_meta(self) -> CallWithMeta<T, E> {
        CallWithMeta(self)
    }

    fn options(&mut self) -> &mut Options {
        self.options.get_or_insert_default()
    }

    fn refuse(&mut self, message: String) {
        let status = Status::invalid_argument(message).with_handler_ran(HandlerRan::No);
        self.options().wrong.get_or_insert(status);
    }
}

impl<T: ReplyShape, E> Call<T, E> {
    /// The time-out that the call or its method sets, and the one that holds: the channel's, if neither sets any.
    #[inline]
    fn timeouts(&self) -> (Option<Duration>, Option<Duration>) {
        let (own, detached) = match &self.options {
            Some(options) => (options.timeout, options.detached),
            None => (None, false),
        };
        let config = self.channel.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), self.spec.name());
        let explicit = match (own, configured.timeout.or_else(|| self.spec.timeout())) {
            (Some(own), Some(method)) => Some(own.min(method)),
            (own, method) => own.or(method),
        };
        let default = if detached {
            None
        } else {
            for_all.timeout.or_else(|| self.channel.default_timeout())
        };
        (explicit, explicit.or(default))
    }

    /// The earliest of all deadlines that hold, and whether it bounds a stream beyond its opening.
    pub(super) fn deadline(&self, now: Instant) -> (Option<Instant>, bool) {
        let (explicit, timeout) = self.timeouts();
        let inherited = self.parent.as_ref().and_then(Cx::deadline);
        // The channel's covers the opening only; an ambient deadline is the one that bounds the stream.
        let timeout = if T::STREAMING && inherited.is_some() {
            explicit
        } else {
            timeout
        };
        let own = timeout.and_then(|timeout| now.checked_add(timeout));
        (
            own.into_iter().chain(inherited).min(),
            explicit.is_some() || inherited.is_some(),
        )
    }

    /// The time-out of a call that nothing but a time-out bounds; its clock need not be read until it is sent.
    pub(super) fn relative_deadline(&self) -> Option<Duration> {
        if self.parent.as_ref().is_some_and(|parent| parent.deadline().is_some()) {
            return None;
        }
        self.timeouts().1.filter(|timeout| !timeout.is_zero())
    }

    /// Whether the call has expired before it began.
    pub(super) fn expired(deadline: Option<Instant>, now: Instant) -> Option<Status> {
        deadline.is_some_and(|deadline| deadline <= now).then(|| {
            Status::deadline_exceeded("the deadline had passed before the call began").with_handler_ran(HandlerRan::No)
        })
    }

    /// The request's metadata: its own, and what the ambient context passes on.
    pub(super) fn take_metadata(&mut self) -> Metadata {
        let mut metadata = match &mut self.options {
            Some(options) => std::mem::take(&mut options.metadata),
            None => Metadata::new(),
        };
        if let Some(parent) = &self.parent {
            let inherited = parent.inherited_metadata();
            let own = metadata.clone();
            for (key, value) in inherited.iter() {
                // What a server took a priority for is what counts, not what was said.
                if own.get_bytes(key).is_none() && key != PRIORITY_KEY {
                    // It was valid where it came from.
                    let _valid = metadata.append(key.to_owned(), value);
                }
            }
            if let Some(trace) = parent.trace() {
                trace.add_to(&mut metadata);
            }
            mark_behalf(parent, &mut metadata);
        }
        let own = self.options.as_ref().and_then(|options| options.priority);
        let inherited = || self.parent.as_ref().map(Cx::priority).filter(|priority| *priority != Priority::Normal);
        if let Some(priority) = own.or_else(inherited) {
            priority.write_to(&mut metadata);
        }
        metadata
    }

    /// The call in its general form.
    pub(super) fn into_request(
        mut self,
        now: Instant,
        limit: Option<Instant>,
    ) -> Result<(Channel, RawRequest, Option<Cx>, Chain), Status> {
        if let Some(wrong) = self.options.as_mut().and_then(|options| options.wrong.take()) {
            return Err(wrong);
        }
        let (mut deadline, bounds_stream) = self.deadline(now);
        if let Some(limit) = limit {
            deadline = Some(deadline.map_or(limit, |deadline| deadline.min(limit)));
        }
        if let Some(status) = Self::expired(deadline, now) {
            return Err(status);
        }
        let metadata = self.take_metadata();
        let config = self.channel.config();
        let (configured, for_all) = ServiceConfig::for_method(config.as_deref(), self.spec.name());
        let waits = configured.wait_for_ready.or(for_all.wait_for_ready);
        drop(config);
        let options = self.options.take().unwrap_or_default();
        let request = RawRequest {
            spec: Some(self.spec),
            method: self.spec.id(),
            path: None,
            arguments: self.arguments?,
            outbound: self.outbound,
            outbound_spent: false,
            streaming: T::STREAMING,
            metadata,
            deadline,
            bounds_stream,
            wait_for_ready: options.wait_for_ready || waits.unwrap_or_else(|| self.channel.waits_for_ready()),
            idle_timeout: options.idle_timeout,
            route_key: options.route_key,
            history: History::within(self.parent.as_ref()),
            begun: Arc::default(),
        };
        Ok((self.channel, request, self.parent, options.chain))
    }
}

impl<T: ReplyShape, E: FromStatus> IntoFuture for Call<T, E> {
    type Output = Result<T, E>;
    type IntoFuture = CallFuture<T, E>;

    fn into_future(self) -> CallFuture<T, E> {
        CallFuture::new(self)
    }
}

impl<T, E> fmt::Debug for Call<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.spec.path())
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// A call whose response comes with its metadata; see [`Call::with_meta`].
#[derive(Debug)]
#[must_use = "a call is made when it is awaited"]
pub struct CallWithMeta<T, E>(pub(super) Call<T, E>);

impl<T: ReplyShape, E: FromStatus> IntoFuture for CallWithMeta<T, E> {
    type Output = Result<(T, CallMeta), E>;
    type IntoFuture = MetaFuture<T, E>;

    fn into_future(self) -> MetaFuture<T, E> {
        MetaFuture::new(self.0)
    }
}
