//! One stream of a QUIC connection in the place of a TCP connection.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use anyhow::{Context as _, Result};
use quinn::{RecvStream, SendStream};

use crate::quic;

pub(crate) type ReadHalf = RecvStream;

/// The sending half, with what else keeps the connection.
pub(crate) struct WriteHalf {
    stream: Mutex<SendStream>,
    _endpoint: Option<quinn::Endpoint>,
}

/// Opens a connection.
pub(crate) async fn connect(server: SocketAddr) -> Result<(ReadHalf, WriteHalf)> {
    let (endpoint, connection) = quic::connect(server).await?;
    let (send, receive) = connection.open_bi().await?;
    Ok((receive, WriteHalf::new(send, Some(endpoint))))
}

/// Where connections come from.
pub(crate) struct Listener(quinn::Endpoint);

impl Listener {
    pub(crate) fn new(listener: std::net::TcpListener) -> Result<Self> {
        Ok(Self(quic::server(&listener)?))
    }

    pub(crate) async fn accept(&self) -> Result<Incoming> {
        Ok(Incoming(self.0.accept().await.context("the endpoint is closed")?))
    }
}

/// A connection that was accepted.
pub(crate) struct Incoming(quinn::Incoming);

impl Incoming {
    pub(crate) async fn halves(self) -> Result<(ReadHalf, WriteHalf)> {
        let (send, receive) = self.0.await?.accept_bi().await?;
        Ok((receive, WriteHalf::new(send, None)))
    }
}

impl WriteHalf {
    fn new(stream: SendStream, endpoint: Option<quinn::Endpoint>) -> Self {
        Self {
            stream: Mutex::new(stream),
            _endpoint: endpoint,
        }
    }

    fn lock(&self) -> MutexGuard<'_, SendStream> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut nobody = Context::from_waker(Waker::noop());
        match Pin::new(&mut *self.lock()).poll_write(&mut nobody, bytes) {
            Poll::Ready(written) => Ok(written?),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    pub(crate) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut written = 0;
        for slice in slices {
            match self.try_write(slice) {
                Ok(more) if more == slice.len() => written += more,
                Ok(more) => return Ok(written + more),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && written > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }

    /// Waits until it takes more.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        std::future::poll_fn(|task| Pin::new(&mut *self.lock()).poll_write(task, &[])).await?;
        Ok(())
    }
}
