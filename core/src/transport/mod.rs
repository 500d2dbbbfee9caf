//! Connections over sockets, encrypted or not, and memory: open and accept *streams*.
//!
//! The seam of this floor is the stream ([`Connection`], [`StreamKey`](crate::mux::StreamKey)), not the byte pipe: a transport
//! that brings streams of its own (QUIC) takes the place of the whole [`driver`], while tcp, unix sockets and memory share it and the mux.
//!
//! One [`driver`] task per connection owns the reading half and everything deferred: parsing, dispatching, flushing, deadlines. Callers queue frames
//! under the connection's lock; a caller that is alone writes them itself within the same poll, and nobody else ever waits for a caller.

pub mod acceptor;
pub mod address;
mod buffer;
pub mod connect;
pub mod connection;
pub mod driver;
pub mod error;
pub mod io;
pub mod listen;
pub mod mem;
mod read;
#[cfg(feature = "tls")]
pub mod tls;
mod write;

pub use address::Address;
pub use connection::Connection;
pub use error::ConnectError;

#[cfg(test)]
mod tests;
