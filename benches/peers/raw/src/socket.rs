//! TCP, and how its sockets are set. `raw-quinn-mux` has another file in this one's place, and all others in common.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use socket2::SockRef;
use tokio::net::{TcpStream, tcp};

pub(crate) type ReadHalf = tcp::OwnedReadHalf;
pub(crate) type WriteHalf = tcp::OwnedWriteHalf;

/// Opens a connection.
pub(crate) async fn connect(server: SocketAddr) -> Result<(ReadHalf, WriteHalf)> {
    halves(TcpStream::connect(server).await?)
}

/// Where connections come from.
pub(crate) struct Listener(tokio::net::TcpListener);

impl Listener {
    pub(crate) fn new(listener: std::net::TcpListener) -> Result<Self> {
        Ok(Self(tokio::net::TcpListener::from_std(listener)?))
    }

    pub(crate) async fn accept(&self) -> Result<Incoming> {
        Ok(Incoming(self.0.accept().await?.0))
    }
}

/// A connection that was accepted.
pub(crate) struct Incoming(TcpStream);

impl Incoming {
    pub(crate) async fn halves(self) -> Result<(ReadHalf, WriteHalf)> {
        halves(self.0)
    }
}

/// Sets what both sides set.
fn halves(stream: TcpStream) -> Result<(ReadHalf, WriteHalf)> {
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER).context("cannot set the send buffer")?;
    Ok(stream.into_split())
}

/// What may wait in the kernel; Linux takes it twice.
///
/// By default a whole megabyte queues up before the other side copies it out. With this much `blob1m` gains 1.5 times
/// with one body in flight and 1.2 to 1.7 times with 16, on one CPU and on two; presumably because what is queued is
/// still in the cache, as page faults and context switches do not tell the fast runs from the slow ones. Half of it
/// gains less with one body, as the sides then take turns more often. On a network with a long delay it would be too
/// little.
const SEND_BUFFER: usize = 168 * 1024;
