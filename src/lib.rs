//! A plain Rust trait becomes a networked service.
//!
//! [`#[service]`](service) on a trait yields a typed client and a registered server; no IDL, no code-generation step, no second language.
//! [`#[interceptor]`](interceptor) makes interceptors that stack as attributes. Calls run over TCP, TLS, QUIC, unix sockets or memory, in MessagePack, with
//! streams in both directions, deadlines that travel, back-pressure, and errors that say whether the handler may have run.
//! Every option of a trait, of a method and of an argument is listed at [`service`].
//!
//! ```
//! use sinew::{Server, Status, service};
//!
//! #[service]
//! pub trait Greeter {
//!     async fn hello(&self, name: &str) -> Result<String, Status>;
//! }
//!
//! struct Polite;
//!
//! impl Greeter for Polite {
//!     async fn hello(&self, name: &str) -> Result<String, Status> {
//!         Ok(format!("Hello, {name}!"))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::builder().service(GreeterServer::new(Polite)).bind("127.0.0.1:0").start().await?;
//! let greeter = GreeterClient::connect(&server.target()).await?;
//! assert_eq!(greeter.hello("Ada").await?, "Hello, Ada!");
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//! - **Transports.** `tcp://host:port` (or just `host:port`), `tls://`, `quic://`, `quic+tcp://` (QUIC where it gets through), `unix:path` and `mem:name`, any
//!   number of them on one server. [`ServerQuic`] and [`ClientQuic`] hold what is particular to QUIC.
//! - **Many servers.** A channel may be to a service: `static:///a:1,b:1`, `file:///path`, `mem:///shop.Orders`, `dns:///host:port` (feature `dns`),
//!   `etcd://host/shop.Orders` (feature `etcd`), or a [`Resolver`]; a [`Balancer`] chooses for each call, [`PeakEwma`] by default. [`ServerBuilder::register`] enters a
//!   server into a registry, [`Instance`] is what it says there. [`Health`] is what a server says of itself, [`HealthCheck`] how its clients find out.
//! - **Configuration.** [`ServiceConfig`] says how a service is called, from code, a file ([`FileConfig`]), etcd or a [`ConfigSource`], and changes while calls run:
//!   time-outs, the balancer, weights, [`Route`]s by label. [`Channel::snapshot`] and [`Serving::snapshot`] show what became of it.
//! - **Security.** `tls://` and `quic://` addresses are encrypted: `ServerTls` says what a server shows and whom it lets in, `ClientTls` whom a client trusts; on
//!   loopback both have development certificates without being told. In clear text, servers bind to and clients dial loopback addresses and unix
//!   sockets only, unless [`dangerous_plaintext`](ServerBuilder::dangerous_plaintext), or `?dangerous_plaintext` at the end of an address, says
//!   otherwise. Who calls is for an interceptor to find out: it reads [`Peer::identity`], what the caller's certificate proves, or [`Cx::metadata`], puts what it found into [`Cx::insert`], and ends the call with a [`Status`] or lets it through. A client adds its
//!   credentials per call ([`Call::metadata`]) or in an interceptor of its channel ([`Cx::add_metadata`], [`Channel::with_interceptor`]).
//! - **Errors.** [`Status`] has a code, a message and whether the handler may have run; [`AppError`](macro@AppError) makes a type of your own
//!   the error of a method, which callers match as [`CallError::App`].
//! - **Deadlines.** Ten seconds until the response, or until the stream of a response begins, unless [`Call::timeout`],
//!   `#[rpc(timeout = "..")]` or [`ChannelBuilder::timeout`] says otherwise; calls that a handler makes have what is left of its own. A task that it
//!   spawns gets that by [`Cx::carry`].
//! - **Governance.** [`RetryPolicy`] says which calls are made again when they fail, [`HedgingPolicy`] which when they take long; [`OutlierDetection`] which
//!   endpoints get none for a while, [`AdaptiveThrottle`] and [`CircuitBreaker`] when none are made at all. What is too much for a server waits or
//!   is turned away, the lowest [`Priority`] first ([`adaptive_concurrency`](ServerBuilder::adaptive_concurrency)), or by the interceptors in [`limits`]. [`Status::policy`],
//!   [`Status::reason`] and [`Status::retry_after`] are what a call that was turned away is told.
//! - **Limits.** [`ServerBuilder`] and [`ChannelBuilder`] have a setter for each that one changes; [`Limits`] has all.
//! - **Testing.** `#[service(mock)]` makes a mock, `XClient::local(handler)` a client without a socket, and the address `mem:name` a server
//!   without a port; with tokio's paused clock (its feature `test-util`), time in a test takes none.
//! - **Observability.** Each handler runs in a `tracing` span named `rpc` with the fields `rpc.system.name`, `rpc.method`, `trace_id` and
//!   `span_id`; traces are taken up from `traceparent` and passed on to nested calls.
//! - **Bytes.** `&[u8]` as an argument and [`bytes::Bytes`](https://docs.rs/bytes) anywhere; `Vec<u8>` would travel as an array of integers, and is
//!   refused.
//! - **The end.** [`ServerBuilder::shutdown_on_signals`] and [`Serving::shutdown`]; [`Drain`] says how long.

pub use sinew_core::client::{
    Balancer, Call, CallFuture, CallMeta, CallWithMeta, Candidate, Channel, ChannelBuilder, ChannelSnapshot,
    ConnectivityState, Connector, ConnectsTo, ConsistentHash, EndpointSnapshot, HealthCheck, HealthStatuses,
    LeastRequest, ListSnapshot, LoadReport, MetaFuture, MethodSnapshot, PeakEwma, PickArgs, PickFirst, Picker,
    RoundRobin, StateChanges, WeightedRoundRobin,
};
pub use sinew_core::code::Code;
#[cfg(feature = "etcd")]
pub use sinew_core::config::EtcdConfig;
pub use sinew_core::config::{
    BalancerChoice, ConcurrencyRule, ConfigPublisher, ConfigSource, FileConfig, LimitKey, RateRule, Route,
    ServerPolicy, ServiceConfig, ServiceConfigError,
};
pub use sinew_core::context::{
    CancelCause, Cancelled, Carry, Cx, CxParts, Draining, Identity, Peer, Side, TraceContext, TraceParseError,
};
#[cfg(feature = "dns")]
pub use sinew_core::discovery::DnsResolver;
pub use sinew_core::discovery::{
    Announcement, Announcements, Aperture, Endpoint, EndpointState, FileResolver, FixedList, Instance, MemRegistry,
    MemResolver, Publisher, Registrar, RegistrarError, Resolution, Resolutions, ResolveError, Resolver,
};
#[cfg(feature = "etcd")]
pub use sinew_core::discovery::{Etcd, EtcdError, EtcdResolver};
pub use sinew_core::health::{Health, HealthStatus};
pub use sinew_core::interceptor::{Interceptor, Next};
pub use sinew_core::message::{
    AppError, CallError, FromStatus, Outcome, OutcomeCode, Reply, ReplyShape, SendError, StreamSender, Streaming, Wire,
};
pub use sinew_core::metadata::{Metadata, MetadataError};
pub use sinew_core::method::{Alias, ArgSpec, Encoding, Execution, MethodKind, MethodSpec};
pub use sinew_core::mux::MuxConfig as Limits;
pub use sinew_core::mux::config::ConfigError;
pub use sinew_core::policy::backoff::{Backoff, BackoffError};
pub use sinew_core::policy::breaker::{BreakerState, CircuitBreaker};
pub use sinew_core::policy::hedging::HedgingPolicy;
pub use sinew_core::policy::outlier::OutlierDetection;
pub use sinew_core::policy::retry::RetryPolicy;
pub use sinew_core::policy::throttle::AdaptiveThrottle;
pub use sinew_core::priority::{Priority, PriorityError};
pub use sinew_core::server::{
    AdmissionSnapshot, Collision, Drain, Fallback, LimitSnapshot, MethodAdmission, RejectionSnapshot, Server,
    ServerBuilder, ServerError, ServerLoad, ServerMonitor, ServerSnapshot, Serving,
};
pub use sinew_core::service::{Inbound, ServerRequest, Service};
pub use sinew_core::status::{HandlerRan, Origin, Status};
pub use sinew_core::time::{DurationError, IntoDuration};
pub use sinew_core::transport::Address;
#[cfg(feature = "quic")]
pub use sinew_core::transport::quic::{ClientQuic, ServerQuic};
#[cfg(feature = "tls")]
pub use sinew_core::transport::tls::{ClientTls, ServerTls, TlsConfigError, TlsFault};

#[doc(inline)]
pub use sinew_macros::{AppError, interceptor, service};

/// Limits of calls, as interceptors: so many in a time, evenly or not, or at once; of all callers together, or of each.
///
/// Stacked as an attribute, on a service or a method, one looks like this:
/// ```
/// use sinew::limits::{peer, rate_limit};
/// use sinew::service;
///
/// #[service]
/// trait Search {
///     async fn find(&self, text: &str) -> Vec<String>;
/// }
///
/// struct Index;
///
/// #[service]
/// impl Search for Index {
///     #[interceptor(rate_limit(500, per = "1s", key = peer))]
///     async fn find(&self, text: &str) -> Vec<String> {
///         vec![text.to_owned()]
///     }
/// }
/// ```
pub mod limits {
    pub use sinew_core::interceptor::limits::{
        ConcurrencyLimit, RateLimit, concurrency_limit, metadata, method, peer, rate_limit, token_bucket,
    };
}

/// Faults on purpose, for tests and game days: delays, errors and answers that never come, for a part of the calls; with the feature `faults`.
///
/// [`Faults`](faults::Faults) is a handle whose clones are one: what is set through one holds at once wherever another was given to. On a channel
/// (`ChannelBuilder::faults`) it is about attempts, so that retries, hedging, ejection and breakers meet what they are for; as an
/// [`Interceptor`] of a server, a service or a method, about calls before their handler. A status that was made by one says so: its
/// [`policy`](Status::policy) is `fault_injection`.
///
/// ```
/// use sinew::Code;
/// use sinew::faults::{Fault, Faults};
///
/// let faults = Faults::new();
/// // Given to `Channel::builder().faults(faults.clone())` or `Server::builder().interceptor(faults.clone())`, it does nothing, until:
/// faults.set([Fault::delay("100ms").percent(20.0), Fault::error(Code::Unavailable).percent(5.0)]);
/// faults.clear();
/// ```
#[cfg(feature = "faults")]
pub mod faults {
    pub use sinew_core::faults::{Fault, FaultCounts, Faults};
}

/// Byte streams for transports of one's own, and for tests that hurt a connection.
pub mod transport {
    pub use sinew_core::transport::error::{AddressError, BindError, ConnectError};
    pub use sinew_core::transport::io::{ByteStream, SharedWrite};
    pub use sinew_core::transport::mem::{MemListener, pair};
}

/// The encoded forms, for proxies, dynamic clients, and services that are implemented by hand.
pub mod wire {
    pub use sinew_core::client::{LocalCalls, RawRequest};
    pub use sinew_core::message::{Batch, Body, LargeMessage, MessageStream};
    pub use sinew_core::method::method_id;
    pub use sinew_core::service::{BoxSlot, CallSlot, slot};
    pub use sinew_core::wire::args::ArgsWriter;
    pub use sinew_core::wire::codec::{decode, encode_into};
    pub use sinew_core::wire::error::{DecodeError, EncodeError};
    pub use sinew_core::wire::message::{EncodedMessage, Payload};
}

/// What generated code names; not for anybody else, and free to change.
#[doc(hidden)]
pub mod __private {
    pub use sinew_core::client::{Call, Channel};
    pub use sinew_core::code::Code;
    pub use sinew_core::context::Cx;
    pub use sinew_core::interceptor::{Interceptor, Link, Links, Next};
    pub use sinew_core::message::{
        AppError, CallError, FromStatus, Outcome, Reply, ReplyShape, Returns, Streaming, Wire, app_status, flatten,
        respond, respond_infallible,
    };
    pub use sinew_core::method::{Alias, ArgSpec, Encoding, Execution, MethodKind, MethodSpec};
    pub use sinew_core::service::{BoxSlot, Inbound, ServerRequest, Service, sharing_slot};
    pub use sinew_core::status::Status;
    pub use sinew_core::wire::args::{ArgsReader, ArgsWriter};
    pub use sinew_core::wire::message::Payload;
}
