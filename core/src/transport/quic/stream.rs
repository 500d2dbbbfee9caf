//! One bidirectional stream of a QUIC connection, in the two halves that the mux wants.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use quinn::{ReadError, RecvStream, SendStream, VarInt, WriteError};
use tokio::io::ReadBuf;

use super::error::lost;
use crate::transport::io::{SharedWrite, StreamReset};
use crate::wire::frame::ErrorCode;

/// Reading half.
pub(crate) struct QuicReader(RecvStream);

/// Writing half.
pub(crate) struct QuicWriter(Mutex<SendStream>);

pub(super) fn halves(send: SendStream, receive: RecvStream) -> (QuicReader, QuicWriter) {
    (QuicReader(receive), QuicWriter(Mutex::new(send)))
}

impl QuicReader {
    pub(crate) fn poll_read(&mut self, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_buf(task, buffer).map_err(|error| match error {
            ReadError::Reset(code) => io::Error::new(io::ErrorKind::ConnectionReset, reset(code)),
            ReadError::ConnectionLost(error) => lost(error),
            ReadError::ZeroRttRejected => rejected(),
            error @ (ReadError::ClosedStream | ReadError::IllegalOrderedRead) => io::Error::other(error),
        })
    }
}

impl Drop for QuicReader {
    fn drop(&mut self) {
        // Whatever is still under way is of no use; the peer need not send it. A stream that has ended needs no telling.
        let _ended = self.0.stop(wire_code(ErrorCode::None));
    }
}

impl QuicWriter {
    fn lock(&self) -> MutexGuard<'_, SendStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when the peer has everything, wants nothing more, or is gone.
    pub(crate) fn flushed(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.lock().stopped();
        async {
            let _either_way = stopped.await;
        }
    }

    /// Drops what was not sent yet, and tells the peer.
    pub(crate) fn reset(&self, code: ErrorCode) {
        // A stream that has ended needs no telling.
        let _ended = self.lock().reset(wire_code(code));
    }
}

impl SharedWrite for QuicWriter {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut stream = self.lock();
        // Whoever was turned away here asks again with its own task in `poll_write_ready`.
        let mut nobody = Context::from_waker(Waker::noop());
        let mut written = 0;
        for slice in slices {
            match Pin::new(&mut *stream).poll_write(&mut nobody, slice) {
                Poll::Ready(Ok(len)) => {
                    written += len;
                    if len < slice.len() {
                        break;
                    }
                }
                // What was written counts; the next attempt meets the error again.
                Poll::Ready(Err(_)) | Poll::Pending if written > 0 => break,
                Poll::Ready(Err(error)) => return Err(write_error(error)),
                Poll::Pending => return Err(io::ErrorKind::WouldBlock.into()),
            }
        }
        Ok(written)
    }

    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Writing nothing waits for room like any write.
        Pin::new(&mut *self.lock()).poll_write(task, &[]).map(|ready| ready.map(drop).map_err(write_error))
    }

    fn shutdown(&self) {
        // A stream that has ended, or whose peer wants no more, is finished already.
        let _ended = self.lock().finish();
    }
}

fn write_error(error: WriteError) -> io::Error {
    match error {
        WriteError::Stopped(code) => io::Error::new(io::ErrorKind::BrokenPipe, reset(code)),
        WriteError::ConnectionLost(error) => lost(error),
        WriteError::ZeroRttRejected => rejected(),
        error @ WriteError::ClosedStream => io::Error::other(error),
    }
}

/// The server took nothing of what was sent early.
fn rejected() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionReset, StreamReset(ErrorCode::Refused))
}

fn reset(code: VarInt) -> StreamReset {
    StreamReset(u32::try_from(code.into_inner()).map_or(ErrorCode::Internal, ErrorCode::from_u32))
}

/// The codes of the wire are those of QUIC's application errors.
pub(super) fn wire_code(code: ErrorCode) -> VarInt {
    VarInt::from_u32(code as u32)
}
