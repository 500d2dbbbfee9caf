//! The byte streams that the mux runs over: a reading half that the driver owns, and a writing half that callers share.

use std::fmt;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, tcp};
#[cfg(unix)]
use tokio::net::{UnixStream, unix};

use super::address::is_loopback;
use super::mem::{PipeReader, PipeWriter};
#[cfg(feature = "quic")]
use super::quic::{QuicReader, QuicWriter};
use crate::context::Identity;
use crate::mux::Company;
use crate::wire::frame::ErrorCode;

/// Unsent bytes that the kernel holds for a TCP connection: enough to keep a link busy, little enough that a small call does not queue
/// behind megabytes of a large one.
const NOTSENT_LOWAT_BYTES: u32 = 256 * 1024;

/// The send buffer of a connection within this machine, measured with `blob1m` of benches/peers; elsewhere the system finds its own.
const LOOPBACK_SEND_BYTES: usize = 168 * 1024;

/// A writing half that is shared: every method takes `&self`.
pub trait SharedWrite: Send + Sync {
    /// Writes what the stream takes now; `WouldBlock` if nothing.
    ///
    /// # Errors
    /// The stream's own.
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// Ready when writing makes sense again; registers `task` otherwise.
    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends the writing direction.
    fn shutdown(&self);
}

/// A connected byte stream, in its two halves.
pub struct ByteStream {
    pub(crate) reader: Reader,
    pub(crate) writer: Writer,
    peer: String,
    identity: Option<Arc<Identity>>,
    pub(crate) company: Company,
    pub(crate) siblings: Option<Arc<dyn Siblings>>,
    pub(crate) early: Option<Arc<dyn Early>>,
}

/// The peer ended one stream of a connection, with a code; within an [`io::Error`].
#[derive(Debug, thiserror::Error)]
#[error("the peer ended the stream ({0:?})")]
pub(crate) struct StreamReset(pub(crate) ErrorCode);

/// Whether bytes still travel before the handshake of their connection is done, so that somebody else may have recorded and sent them.
pub trait Early: Send + Sync + 'static {
    /// Whether the handshake is done.
    fn is_over(&self) -> bool;
    /// Client: resolves when it is, or the connection is gone. Cancel safe.
    fn over(&self) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// Where more streams of the same connection come from, each for one call at a time.
pub trait Siblings: Send + Sync + 'static {
    /// Client: whether small calls, too, are better off with a stream of their own; asked for every call.
    fn spreads_calls(&self) -> bool;
    /// Client: one more; `None` if as many are open as may be, or the connection is over.
    fn open(&self) -> Option<ByteStream>;
    /// Server: the next one that the client opened; `None` when the connection is over. Cancel safe.
    fn accept(&self) -> Pin<Box<dyn Future<Output = Option<ByteStream>> + Send + '_>>;
}

pub(crate) enum Reader {
    Tcp(tcp::OwnedReadHalf),
    #[cfg(unix)]
    Unix(unix::OwnedReadHalf),
    Mem(PipeReader),
    #[cfg(feature = "quic")]
    Quic(QuicReader),
    Other(Pin<Box<dyn AsyncRead + Send>>),
}

pub(crate) enum Writer {
    Tcp(tcp::OwnedWriteHalf),
    #[cfg(unix)]
    Unix(unix::OwnedWriteHalf),
    Mem(PipeWriter),
    #[cfg(feature = "quic")]
    Quic(QuicWriter),
    Other(Box<dyn SharedWrite>),
}

impl ByteStream {
    /// A TCP connection, with the socket's options set as RPC wants them.
    #[must_use]
    pub fn tcp(stream: TcpStream, peer: SocketAddr) -> Self {
        tune(&stream, peer);
        let (reader, writer) = stream.into_split();
        Self::made_of(Reader::Tcp(reader), Writer::Tcp(writer), format!("tcp://{peer}"))
    }

    pub(super) fn made_of(reader: Reader, writer: Writer, peer: String) -> Self {
        Self {
            reader,
            writer,
            peer,
            identity: None,
            company: Company::Alone,
            siblings: None,
            early: None,
        }
    }

    /// A connection over a unix socket.
    #[cfg(unix)]
    #[must_use]
    pub fn unix(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self::made_of(Reader::Unix(reader), Writer::Unix(writer), "unix:".to_owned())
    }

    pub(super) fn mem(reader: PipeReader, writer: PipeWriter) -> Self {
        Self::made_of(Reader::Mem(reader), Writer::Mem(writer), "mem:".to_owned())
    }

    /// A byte stream of another kind; `peer` is shown to handlers.
    #[must_use]
    pub fn other(
        reader: impl AsyncRead + Send + 'static,
        writer: impl SharedWrite + 'static,
        peer: impl Into<String>,
    ) -> Self {
        Self::made_of(
            Reader::Other(Box::pin(reader)),
            Writer::Other(Box::new(writer)),
            peer.into(),
        )
    }

    /// The same stream with what its peer proved about itself, for handlers to see.
    #[must_use]
    pub fn with_identity(mut self, identity: Option<Arc<Identity>>) -> Self {
        self.identity = identity;
        self
    }

    /// The same stream as one of a connection that has several.
    #[cfg(feature = "quic")]
    pub(super) fn in_company(mut self, company: Company) -> Self {
        self.company = company;
        self
    }

    /// The same stream, which may carry bytes before the handshake of its connection is done.
    #[cfg(feature = "quic")]
    pub(super) fn with_early(mut self, early: Option<Arc<dyn Early>>) -> Self {
        self.early = early;
        self
    }

    /// The same stream with what opens and accepts others of its connection.
    #[cfg(feature = "quic")]
    pub(super) fn with_siblings(mut self, siblings: Arc<dyn Siblings>) -> Self {
        self.siblings = Some(siblings);
        self
    }

    /// What the peer proved about itself.
    #[must_use]
    pub fn identity(&self) -> Option<&Arc<Identity>> {
        self.identity.as_ref()
    }

    /// Turns the stream away: what was asked on it was not processed.
    pub(crate) fn refuse(self) {
        self.writer.reset(ErrorCode::Refused);
    }

    /// Who is at the other end, in the form of a target.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// The same stream with its halves wrapped by `wrap`; for tests that hurt it.
    #[must_use]
    pub fn wrapped(
        self,
        wrap: impl FnOnce(
            Pin<Box<dyn AsyncRead + Send>>,
            Box<dyn SharedWrite>,
        ) -> (Pin<Box<dyn AsyncRead + Send>>, Box<dyn SharedWrite>),
    ) -> Self {
        let (reader, writer) = wrap(Box::pin(self.reader), Box::new(self.writer));
        Self::made_of(Reader::Other(reader), Writer::Other(writer), self.peer).with_identity(self.identity)
    }
}

/// Sets a socket's options as RPC wants them. None of them is needed to work; a system that refuses one is slower, not wrong.
pub(crate) fn tune(stream: &TcpStream, peer: SocketAddr) {
    let socket = socket2::SockRef::from(stream);
    let _optional = socket.set_tcp_nodelay(true);
    #[cfg(target_os = "linux")]
    let _optional = set_notsent_lowat(&socket);
    if is_loopback(peer.ip()) {
        // There is no delay to fill on loopback: a longer queue only pushes large bodies out of the cache before they are read.
        let _optional = socket.set_send_buffer_size(LOOPBACK_SEND_BYTES);
    }
}

impl Writer {
    /// Resolves when the peer has everything, or is gone; at once where the system sees to that.
    pub(super) fn flushed(&self) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        #[cfg(feature = "quic")]
        if let Self::Quic(writer) = self {
            return Box::pin(writer.flushed());
        }
        Box::pin(std::future::ready(()))
    }

    /// Ends the writing direction with a code and drops what was not sent yet, where the transport can.
    pub(super) fn reset(&self, code: ErrorCode) {
        #[cfg(feature = "quic")]
        if let Self::Quic(writer) = self {
            return writer.reset(code);
        }
        let _no_other_way = code;
        self.shutdown();
    }
}

impl fmt::Debug for ByteStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ByteStream({})", self.peer)
    }
}

#[cfg(target_os = "linux")]
fn set_notsent_lowat(socket: &socket2::SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT_BYTES)
}

impl AsyncRead for Reader {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(reader) => Pin::new(reader).poll_read(task, buf),
            #[cfg(unix)]
            Self::Unix(reader) => Pin::new(reader).poll_read(task, buf),
            Self::Mem(reader) => Pin::new(reader).poll_read(task, buf),
            #[cfg(feature = "quic")]
            Self::Quic(reader) => reader.poll_read(task, buf),
            Self::Other(reader) => reader.as_mut().poll_read(task, buf),
        }
    }
}

impl SharedWrite for Writer {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(writer) => match slices {
                [one] => writer.try_write(one),
                many => writer.try_write_vectored(many),
            },
            #[cfg(unix)]
            Self::Unix(writer) => match slices {
                [one] => writer.try_write(one),
                many => writer.try_write_vectored(many),
            },
            Self::Mem(writer) => writer.try_write_vectored(slices),
            #[cfg(feature = "quic")]
            Self::Quic(writer) => writer.try_write_vectored(slices),
            Self::Other(writer) => writer.try_write_vectored(slices),
        }
    }

    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(writer) => writer.as_ref().poll_write_ready(task),
            #[cfg(unix)]
            Self::Unix(writer) => writer.as_ref().poll_write_ready(task),
            Self::Mem(writer) => writer.poll_write_ready(task),
            #[cfg(feature = "quic")]
            Self::Quic(writer) => writer.poll_write_ready(task),
            Self::Other(writer) => writer.poll_write_ready(task),
        }
    }

    fn shutdown(&self) {
        // A socket that cannot be shut down is gone already.
        match self {
            Self::Tcp(writer) => {
                let _gone = socket2::SockRef::from(writer.as_ref()).shutdown(std::net::Shutdown::Write);
            }
            #[cfg(unix)]
            Self::Unix(writer) => {
                let _gone = socket2::SockRef::from(writer.as_ref()).shutdown(std::net::Shutdown::Write);
            }
            Self::Mem(writer) => writer.shutdown(),
            #[cfg(feature = "quic")]
            Self::Quic(writer) => writer.shutdown(),
            Self::Other(writer) => writer.shutdown(),
        }
    }
}
