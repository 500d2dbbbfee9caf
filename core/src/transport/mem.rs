//! Byte pipes and listeners within one process: real framing and flow control, no sockets.

use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::error::{BindError, ConnectError};
use super::io::ByteStream;

/// Bytes that one direction of a pipe holds: as a socket's buffers do.
const PIPE_BYTES_MAX: usize = 256 * 1024;
/// Connections that wait to be accepted.
const BACKLOG_MAX: usize = 128;

#[derive(Debug, Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    closed: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

type Shared = Arc<Mutex<Pipe>>;

fn lock(pipe: &Shared) -> MutexGuard<'_, Pipe> {
    pipe.lock().unwrap_or_else(PoisonError::into_inner)
}

fn close(pipe: &Shared) {
    let wakers = {
        let mut pipe = lock(pipe);
        pipe.closed = true;
        [pipe.reader.take(), pipe.writer.take()]
    };
    wakers.into_iter().flatten().for_each(Waker::wake);
}

/// The reading end of one direction.
#[derive(Debug)]
pub struct PipeReader(Shared);

/// The writing end of one direction.
#[derive(Debug)]
pub struct PipeWriter(Shared);

impl AsyncRead for PipeReader {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.0);
        if pipe.bytes.is_empty() {
            if pipe.closed {
                return Poll::Ready(Ok(()));
            }
            pipe.reader = Some(task.waker().clone());
            return Poll::Pending;
        }
        let (front, back) = pipe.bytes.as_slices();
        let first = front.len().min(buf.remaining());
        buf.put_slice(&front[..first]);
        let second = back.len().min(buf.remaining());
        buf.put_slice(&back[..second]);
        pipe.bytes.drain(..first + second);
        let writer = pipe.writer.take();
        drop(pipe);
        if let Some(writer) = writer {
            writer.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Drop for PipeReader {
    fn drop(&mut self) {
        close(&self.0);
    }
}

impl PipeWriter {
    pub(super) fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut pipe = lock(&self.0);
        if pipe.closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut room = PIPE_BYTES_MAX - pipe.bytes.len();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut written = 0;
        for slice in slices {
            let len = slice.len().min(room);
            pipe.bytes.extend(&slice[..len]);
            room -= len;
            written += len;
        }
        let reader = pipe.reader.take();
        drop(pipe);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(written)
    }

    pub(super) fn poll_write_ready(&self, task: &Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = lock(&self.0);
        if pipe.closed || pipe.bytes.len() < PIPE_BYTES_MAX {
            return Poll::Ready(Ok(()));
        }
        pipe.writer = Some(task.waker().clone());
        Poll::Pending
    }

    pub(super) fn shutdown(&self) {
        close(&self.0);
    }
}

impl Drop for PipeWriter {
    fn drop(&mut self) {
        close(&self.0);
    }
}

/// The two ends of a connection in memory.
#[must_use]
pub fn pair() -> (ByteStream, ByteStream) {
    let (to, from) = (Shared::default(), Shared::default());
    (
        ByteStream::mem(PipeReader(Arc::clone(&from)), PipeWriter(Arc::clone(&to))),
        ByteStream::mem(PipeReader(to), PipeWriter(from)),
    )
}

static LISTENERS: LazyLock<Mutex<HashMap<String, mpsc::Sender<ByteStream>>>> = LazyLock::new(Mutex::default);

fn listeners() -> MutexGuard<'static, HashMap<String, mpsc::Sender<ByteStream>>> {
    LISTENERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Accepts connections to a name within this process.
#[derive(Debug)]
pub struct MemListener {
    name: String,
    incoming: mpsc::Receiver<ByteStream>,
}

impl MemListener {
    /// Takes the name.
    ///
    /// # Errors
    /// [`BindError::NameTaken`] if somebody has it.
    pub fn bind(name: &str) -> Result<Self, BindError> {
        let (sender, incoming) = mpsc::channel(BACKLOG_MAX);
        let mut listeners = listeners();
        if listeners.get(name).is_some_and(|known| !known.is_closed()) {
            return Err(BindError::NameTaken { name: name.to_owned() });
        }
        listeners.insert(name.to_owned(), sender);
        Ok(Self {
            name: name.to_owned(),
            incoming,
        })
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next connection.
    ///
    /// # Errors
    /// Never while the listener lives.
    pub async fn accept(&mut self) -> io::Result<ByteStream> {
        match self.incoming.recv().await {
            Some(stream) => Ok(stream),
            // The registry keeps the sender as long as this listener lives.
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Drop for MemListener {
    fn drop(&mut self) {
        self.incoming.close();
        let mut listeners = listeners();
        if listeners.get(&self.name).is_some_and(mpsc::Sender::is_closed) {
            listeners.remove(&self.name);
        }
    }
}

/// Connects to a name within this process.
///
/// # Errors
/// [`ConnectError::NoListener`] if nobody listens, or as many connections wait as may.
pub fn connect(name: &str) -> Result<ByteStream, ConnectError> {
    let no_listener = || ConnectError::NoListener { name: name.to_owned() };
    let sender = listeners().get(name).cloned().ok_or_else(no_listener)?;
    let (ours, theirs) = pair();
    sender.try_send(theirs).map_err(|_| no_listener())?;
    Ok(ours)
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, IoSlice};

    use tokio::io::AsyncReadExt;

    use super::super::io::SharedWrite;
    use super::{BACKLOG_MAX, ConnectError, MemListener, PIPE_BYTES_MAX, connect, pair};

    #[tokio::test]
    async fn a_pipe_takes_its_bytes_and_no_more() {
        let (near, mut far) = pair();
        let write = |len| near.writer.try_write_vectored(&[IoSlice::new(&vec![7; len])]);
        assert_eq!(write(PIPE_BYTES_MAX - 1).unwrap(), PIPE_BYTES_MAX - 1);
        assert_eq!(write(2).unwrap(), 1, "the last byte that fits");
        assert_eq!(write(1).unwrap_err().kind(), ErrorKind::WouldBlock);
        assert_eq!(far.reader.read_u8().await.unwrap(), 7);
        assert_eq!(write(2).unwrap(), 1);
    }

    #[tokio::test]
    async fn as_many_connections_wait_as_may() {
        let mut listener = MemListener::bind("backlog").unwrap();
        let _waiting: Vec<_> = (0..BACKLOG_MAX).map(|_| connect("backlog").unwrap()).collect();
        assert!(matches!(connect("backlog"), Err(ConnectError::NoListener { .. })));
        let _accepted = listener.accept().await.unwrap();
        connect("backlog").unwrap();
    }
}
