//! A byte stream that moves one byte at a time, so that every frame is cut everywhere.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use sinew::transport::{ByteStream, SharedWrite};
use tokio::io::{AsyncRead, ReadBuf};

/// The same stream with every read and every write cut to one byte.
pub(crate) fn by_one_byte(stream: ByteStream) -> ByteStream {
    stream.wrapped(|reader, writer| (Box::pin(CutReader(reader)), Box::new(CutWriter(writer))))
}

struct CutReader(Pin<Box<dyn AsyncRead + Send>>);

impl AsyncRead for CutReader {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut byte = [0];
        let mut one = ReadBuf::new(&mut byte);
        std::task::ready!(self.0.as_mut().poll_read(task, &mut one))?;
        buf.put_slice(one.filled());
        Poll::Ready(Ok(()))
    }
}

struct CutWriter(Box<dyn SharedWrite>);

impl SharedWrite for CutWriter {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices.iter().find(|slice| !slice.is_empty()) {
            Some(first) => self.0.try_write_vectored(&[IoSlice::new(&first[..1])]),
            None => Ok(0),
        }
    }

    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_write_ready(task)
    }

    fn shutdown(&self) {
        self.0.shutdown();
    }
}
