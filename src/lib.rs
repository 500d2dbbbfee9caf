//! A plain Rust trait becomes a networked service.
//!
//! [`#[service]`](service) on a trait yields a typed client and a registered server; no IDL, no code-generation step, no second language.
//! [`#[interceptor]`](interceptor) makes interceptors that stack as attributes. Calls run over TCP, unix sockets or memory, in MessagePack, with
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

pub use sinew_core::client::{
    Call, CallMeta, CallWithMeta, Channel, ChannelBuilder, ConnectivityState, Connector, StateChanges,
};
pub use sinew_core::code::Code;
pub use sinew_core::context::{CancelCause, Cx, Peer, Side, TraceContext};
pub use sinew_core::interceptor::{Interceptor, Next};
pub use sinew_core::message::{
    AppError, CallError, Outcome, OutcomeCode, Reply, SendError, StreamSender, Streaming, Wire,
};
pub use sinew_core::metadata::{Metadata, MetadataError};
pub use sinew_core::method::{Alias, ArgSpec, Encoding, Execution, MethodKind, MethodSpec};
pub use sinew_core::mux::MuxConfig as Limits;
pub use sinew_core::policy::backoff::Backoff;
pub use sinew_core::server::{Drain, Fallback, Server, ServerBuilder, ServerError, Serving};
pub use sinew_core::service::{Inbound, ServerRequest, Service};
pub use sinew_core::status::{HandlerRan, Origin, Status};
pub use sinew_core::transport::Address;

#[doc(inline)]
pub use sinew_macros::{AppError, interceptor, service};

/// Byte streams for transports of one's own, and for tests that hurt a connection.
pub mod transport {
    pub use sinew_core::transport::error::{AddressError, BindError, ConnectError};
    pub use sinew_core::transport::io::{ByteStream, SharedWrite};
    pub use sinew_core::transport::mem::pair;
}

/// The encoded forms, for proxies and dynamic clients.
pub mod wire {
    pub use sinew_core::message::{Batch, Body, LargeMessage, MessageStream};
    pub use sinew_core::method::method_id;
    pub use sinew_core::wire::codec::{decode, encode_into};
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
