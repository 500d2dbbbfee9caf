//! How servers are, as they say: watched at every endpoint of a service before calls go there, and asked by whoever wants to know.
//!
//! A watch is a stream of the connection, beside the calls. A server that does not know the question serves.
//! Source: the gRPC health checking protocol, client side.

use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::attempt::{self, open};
use super::channel::Channel;
use super::raw::{History, RawRequest};
use crate::call::{DEADLINE_DEFAULT, Receive, ReceiveEnd, open_status, stream_status};
use crate::code::Code;
use crate::context::Cx;
use crate::health::{CHECK, HealthStatus, WATCH};
use crate::interceptor::Chain;
use crate::message::{Body, ReplyShape, Streaming};
use crate::metadata::Metadata;
use crate::method::MethodSpec;
use crate::mux::{OpenRequest, StreamKey};
use crate::status::Status;
use crate::time::{self, DurationError, IntoDuration};
use crate::transport::Connection;
use crate::wire::args::ArgsWriter;
use crate::wire::message::EncodedMessage;

/// How long to wait before a watch that broke is begun anew. The connection tells whether the server lives; this is about what it says of itself.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// How a channel finds out which endpoints of a service serve.
///
/// What a status means to a client of several endpoints: SERVING takes calls; DRAINING only if nobody else does; NOT_SERVING, UNKNOWN and SERVICE_UNKNOWN
/// take none; one of a later version counts as SERVING.
///
/// The default is to [`watch`](Self::watch) the service that the target names, or the server as a whole where it names none (`static:///`, `file:///`, `dns://`, and where a
/// resolver is set, whose target may be another name).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthCheck {
    kind: Kind,
    service: Option<String>,
    pub(super) wrong: Option<DurationError>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Off,
    Watch,
    Probe(Duration),
}

impl Default for HealthCheck {
    fn default() -> Self {
        Self::watch()
    }
}

impl HealthCheck {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            service: None,
            wrong: None,
        }
    }

    /// Each server tells when that changes, by a stream that begins with its connection. For its first word it has the connect time-out; a server that does not
    /// know the question (UNIMPLEMENTED) serves, and a stream that breaks is begun anew after a second. The stream is one of the calls that a connection may
    /// have, so that a server which vanished is noticed by keepalive, with or without calls; where the server allows a single call, it is asked once.
    #[must_use]
    pub fn watch() -> Self {
        Self::new(Kind::Watch)
    }

    /// Each server is asked at that interval, for servers that must show that they still answer. It has that time, one second at most; one that has answered
    /// before and then does not three times in a row takes no calls until it does. More than 0, at most 365 days.
    #[must_use]
    pub fn probe(every: impl IntoDuration) -> Self {
        match every.into_duration() {
            Ok(every) => Self::new(Kind::Probe(every)),
            Err(error) => Self {
                wrong: Some(error),
                ..Self::off()
            },
        }
    }

    /// Whoever is connected serves.
    #[must_use]
    pub fn off() -> Self {
        Self::new(Kind::Off)
    }

    /// Asks about this service, in place of the one that the target names.
    #[must_use]
    pub fn service(mut self, name: impl Into<String>) -> Self {
        self.service = Some(name.into());
        self
    }

    /// What is to be asked where the target names `service`.
    pub(super) fn for_service(self, service: Option<&str>) -> Self {
        let service = self.service.or_else(|| service.map(str::to_owned));
        Self { service, ..self }
    }

    /// The interval of a probe.
    pub(super) fn interval(&self) -> Option<Duration> {
        match self.kind {
            Kind::Probe(every) => Some(every),
            Kind::Off | Kind::Watch => None,
        }
    }
}

/// How an endpoint stands by what it said on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It takes calls.
    Serves,
    /// It takes calls if nobody else does.
    Leaves,
    /// It was not heard yet.
    Unheard,
    /// It says that it takes none.
    Refuses(HealthStatus),
    /// It was asked, and does not answer.
    Silent,
}

impl Standing {
    fn of(status: HealthStatus) -> Self {
        match status {
            // What a later version says is for those that know it.
            HealthStatus::Serving | HealthStatus::Other(_) => Self::Serves,
            HealthStatus::Draining => Self::Leaves,
            HealthStatus::Unknown | HealthStatus::NotServing | HealthStatus::ServiceUnknown => Self::Refuses(status),
        }
    }

    /// What it says, for snapshots.
    pub(super) fn health(self) -> HealthStatus {
        match self {
            Self::Serves => HealthStatus::Serving,
            Self::Leaves => HealthStatus::Draining,
            Self::Unheard | Self::Silent => HealthStatus::Unknown,
            Self::Refuses(status) => status,
        }
    }

    /// Before anything was heard.
    pub(super) fn at_first(check: &HealthCheck) -> Self {
        match check.kind {
            Kind::Off => Self::Serves,
            Kind::Watch | Kind::Probe(_) => Self::Unheard,
        }
    }

    /// Why it takes no calls, if so.
    pub(super) fn complaint(self) -> Option<String> {
        match self {
            Self::Serves | Self::Leaves | Self::Unheard => None,
            Self::Refuses(HealthStatus::ServiceUnknown) => Some(
                "says of its health: service unknown; name the service as its server does, by the target or `HealthCheck::service`".to_owned(),
            ),
            Self::Refuses(status) => Some(format!("says of its health: {status}")),
            Self::Silent => Some("does not answer when asked for its health".to_owned()),
        }
    }
}

/// Asks at one connection until it is dropped, and tells what it hears.
pub(super) async fn follow(connection: Connection, check: &HealthCheck, timeout: Duration, tell: impl Fn(Standing)) {
    let service = check.service.as_deref().unwrap_or_default();
    let was_heard = AtomicBool::new(false);
    let tell = |standing| {
        was_heard.store(true, Ordering::Relaxed);
        tell(standing);
    };
    let mut misses = 0;
    loop {
        let heard = match check.kind {
            Kind::Off => return std::future::pending().await,
            Kind::Watch => watch(&connection, service, timeout, &tell).await,
            Kind::Probe(every) => {
                let asked = ask(&connection, service, every.min(PROBE_TIMEOUT_MAX)).await;
                asked.map(|status| tell(Standing::of(status)))
            }
        };
        match heard {
            Ok(()) => misses = 0,
            Err(Unheard::Silent) => {
                misses += 1;
                if !was_heard.load(Ordering::Relaxed) || misses >= MISSES_MAX {
                    tell(Standing::Silent);
                }
            }
            Err(Unheard::Failed(status)) if status.code() == Code::Unimplemented => {
                tell(Standing::Serves);
                return std::future::pending().await;
            }
            // It answers, only not to this: what it said last stands, and before that it is taken to serve.
            Err(Unheard::Failed(status)) => {
                tracing::debug!(%status, "an endpoint cannot tell its health");
                misses = 0;
                if !was_heard.load(Ordering::Relaxed) {
                    tell(Standing::Serves);
                }
            }
        }
        tokio::time::sleep(check.interval().unwrap_or(WATCH_AGAIN)).await;
    }
}

/// The longest time that a probe waits.
const PROBE_TIMEOUT_MAX: Duration = Duration::from_secs(1);
/// Questions in a row without an answer after which one that has answered before takes no more calls: one may be lost to a moment of load.
const MISSES_MAX: u32 = 3;

/// Why nothing was heard.
enum Unheard {
    Silent,
    Failed(Status),
}

async fn within_time<T>(timeout: Duration, asked: impl Future<Output = Result<T, Status>>) -> Result<T, Unheard> {
    match tokio::time::timeout(timeout, asked).await {
        Ok(heard) => heard.map_err(Unheard::Failed),
        Err(_) => Err(Unheard::Silent),
    }
}

/// Watches until the stream ends; the first word has its time.
async fn watch(
    connection: &Connection,
    service: &str,
    timeout: Duration,
    tell: impl Fn(Standing),
) -> Result<(), Unheard> {
    let mut statuses = watch_stream(connection, service, timeout).await?;
    let _background = connection.background_stream();
    let first = within_time(timeout, async { statuses.next().await.transpose() }).await?;
    let mut next = first;
    while let Some(number) = next {
        tell(Standing::of(HealthStatus::from_number(number)));
        if connection.calls_max() == 1 {
            // The calls need it more.
            drop(statuses);
            return std::future::pending().await;
        }
        next = statuses.next().await.transpose().map_err(Unheard::Failed)?;
    }
    // A server that tells its clients to leave ends its watches before.
    Ok(())
}

/// Opens the stream of a question. That is no answer, and has no time: while a connection has as many calls as it takes, what was said last stands.
async fn question(connection: &Connection, spec: &'static MethodSpec, service: &str) -> Result<StreamKey, Unheard> {
    let arguments = arguments(spec, service).map_err(Unheard::Failed)?;
    let metadata = Metadata::new();
    let opened = open(connection, request(spec, &arguments, &metadata), None).await;
    opened.map(|(key, _)| key).map_err(|error| Unheard::Failed(open_status(error)))
}

async fn watch_stream(connection: &Connection, service: &str, timeout: Duration) -> Result<Streaming<u8>, Unheard> {
    let key = question(connection, &WATCH, service).await?;
    let receive = Receive::new(connection.clone(), key, ReceiveEnd::ReleaseCall);
    let head = std::future::poll_fn(|task| connection.poll_head(key, task));
    within_time(timeout, async { head.await.map_err(stream_status) }).await?;
    if let Some((status, _)) = connection.take_failure(key) {
        return Err(Unheard::Failed(status));
    }
    Ok(Streaming::remote(Box::new(receive), Code::Internal))
}

async fn ask(connection: &Connection, service: &str, timeout: Duration) -> Result<HealthStatus, Unheard> {
    let key = question(connection, &CHECK, service).await?;
    let mut call = Released {
        connection,
        key: Some(key),
    };
    let reply = std::future::poll_fn(|task| connection.poll_reply(key, task));
    let reply = within_time(timeout, async { reply.await.map_err(stream_status) }).await?;
    call.key = None;
    match (reply.status, reply.message) {
        (Some(status), _) => Err(Unheard::Failed(status)),
        (None, message) => status_in(message.map_or(Body::Empty, Body::Received)).map_err(Unheard::Failed),
    }
}

fn arguments(spec: &'static MethodSpec, service: &str) -> Result<EncodedMessage, Status> {
    let mut arguments = ArgsWriter::new(spec, 1);
    arguments.put_str(service);
    arguments.finish()
}

fn request<'a>(spec: &MethodSpec, arguments: &'a EncodedMessage, metadata: &'a Metadata) -> OpenRequest<'a> {
    OpenRequest {
        method: spec.id(),
        timeout: 0,
        deadline: None,
        metadata,
        arguments,
        fin: true,
    }
}

fn status_in(body: Body) -> Result<HealthStatus, Status> {
    u8::from_body(body, &CHECK).map(HealthStatus::from_number)
}

/// Releases the stream of a question that was given up.
struct Released<'a> {
    connection: &'a Connection,
    key: Option<StreamKey>,
}

impl Drop for Released<'_> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.connection.release_call(key);
        }
    }
}

impl Channel {
    /// Asks a server how `service` is; an empty name stands for the server as a whole. Of a service with several endpoints, one that serves is asked.
    ///
    /// # Errors
    /// UNIMPLEMENTED if the server has no health service; else as for any call.
    ///
    /// # Examples
    /// ```no_run
    /// # mod sinew { pub use sinew_core::{client::Channel, health::HealthStatus, status::Status}; }
    /// use sinew::{Channel, HealthStatus, Status};
    ///
    /// /// For a probe of the platform that runs the server.
    /// async fn is_ready() -> Result<bool, Status> {
    ///     let channel = Channel::connect("127.0.0.1:4000").await?;
    ///     Ok(channel.health_of("shop.Orders").await? == HealthStatus::Serving)
    /// }
    /// ```
    pub async fn health_of(&self, service: &str) -> Result<HealthStatus, Status> {
        let request = self.health_request(&CHECK, service)?;
        let reply = attempt::boxed(self.clone(), request, Cx::current(), Chain::default()).await?;
        status_in(reply.into_parts().1)
    }

    /// Follows how `service` is at a server: at once, and whenever that changes. The stream ends when the server is about to leave.
    ///
    /// # Errors
    /// UNIMPLEMENTED if the server has no health service; else as for any call.
    pub async fn watch_health(&self, service: &str) -> Result<HealthStatuses, Status> {
        let request = self.health_request(&WATCH, service)?;
        let reply = attempt::boxed(self.clone(), request, Cx::current(), Chain::default()).await?;
        Ok(HealthStatuses(Streaming::from_body(reply.into_parts().1, &WATCH)?))
    }

    fn health_request(&self, spec: &'static MethodSpec, service: &str) -> Result<RawRequest, Status> {
        Ok(RawRequest {
            spec: Some(spec),
            method: spec.id(),
            path: None,
            arguments: arguments(spec, service)?,
            outbound: None,
            outbound_spent: false,
            streaming: spec.kind().server_streams(),
            metadata: Metadata::new(),
            deadline: time::now().checked_add(self.default_timeout().unwrap_or(DEADLINE_DEFAULT)),
            bounds_stream: false,
            wait_for_ready: self.waits_for_ready(),
            idle_timeout: None,
            route_key: None,
            history: History::default(),
            begun: std::sync::Arc::default(),
        })
    }
}

/// How a service is, time after time; see [`Channel::watch_health`].
pub struct HealthStatuses(Streaming<u8>);

impl HealthStatuses {
    /// The next status; `None` when the stream has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<HealthStatus, Status>> {
        let number = self.0.next().await?;
        Some(number.map(HealthStatus::from_number))
    }
}

impl fmt::Debug for HealthStatuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HealthStatuses")
    }
}
