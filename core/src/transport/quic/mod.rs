//! QUIC: one encrypted connection of many streams over UDP, by quinn.
//!
//! Small calls share one stream, the *lane*, which the mux frames as it does a TCP connection; a call that streams, or whose request is large, gets a
//! bidirectional stream of its own, framed the same way, so that a lost packet or a cancellation concerns that call alone. `connection` opens and accepts
//! those streams; everything above sees a [`ByteStream`](super::io::ByteStream) that has siblings.
//!
//! Not here: which call goes where (`lanes`), how many handshakes may be under way (`server`), certificates (`tls`).

mod config;
mod connection;
mod dial;
mod early;
mod error;
mod handshake;
mod listen;
mod socket;
mod stream;

pub use dial::ClientQuic;
pub(crate) use dial::{EarlyData, QuicDialler};
pub(crate) use listen::QuicListener;
pub use listen::{RETRY_ABOVE, SOCKETS_MAX, ServerQuic};
pub(crate) use stream::{QuicReader, QuicWriter};

#[cfg(test)]
mod tests;
