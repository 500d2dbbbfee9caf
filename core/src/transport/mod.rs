//! Connections over sockets, encrypted or not, and memory: open and accept *streams*.
//!
//! The seam of this floor is the stream ([`Connection`], [`StreamKey`](crate::mux::StreamKey)), not the byte pipe: what opens a call does not
//! know whether the transport has one byte stream, which all calls share, or more of them (QUIC), of which a large or streaming call takes one for itself.
//!
//! One [`driver`] task per connection owns the reading half and everything deferred: parsing, dispatching, flushing, deadlines. Callers queue frames
//! under the connection's lock; a caller that is alone writes them itself within the same poll, and nobody else ever waits for a caller.

pub mod acceptor;
pub mod address;
pub mod background;
pub mod baton;
mod buffer;
pub mod connect;
pub mod connection;
pub mod driver;
pub mod error;
#[cfg(feature = "quic")]
mod fallback;
pub mod io;
pub(crate) mod lanes;
pub mod listen;
pub mod mem;
#[cfg(feature = "quic")]
pub mod quic;
mod read;
mod state;
#[cfg(feature = "tls")]
pub mod tls;
mod write;

pub use address::Address;
pub use connection::Connection;
pub use error::ConnectError;

#[cfg(test)]
mod tests;
