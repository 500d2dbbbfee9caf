//! A TLS session over a socket, in the two halves that a connection wants.
//!
//! Both halves share the session under a lock, because reading may have to write (an alert, a key update). A write that was encrypted but not yet
//! taken by the socket is reported as blocked, and as done once the socket took all of it: the owner of a connection's writes comes back with the same
//! bytes, so nothing is ever encrypted twice, and nobody believes that bytes are gone while they wait here.

use std::future::Future;
use std::io::{self, BufRead, IoSlice, Write};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::Connection as Tls;
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::error::TlsFault;
use crate::transport::io::SharedWrite;

/// What is read from the socket at once: a few records, whose largest has some 16 KiB. The memory is kept only while bytes are in it.
const READ_BYTES: usize = 32 * 1024;
/// Pieces of records (of some 4 KiB) in a row that bring no clear byte: key updates, session tickets, empty records. A peer that sends more does so
/// to keep this side busy.
const BARREN_MAX: u32 = 256;
/// How many of them are taken up before other tasks get their turn.
const BARREN_PER_POLL: u32 = 16;
/// Bytes that are encrypted before the socket has to take them; twice that much is what a connection holds while its peer reads nothing.
const ENCRYPT_BYTES_MAX: usize = 64 * 1024;

struct Session {
    writer: OwnedWriteHalf,
    state: Mutex<State>,
}

struct State {
    tls: Tls,
    /// Encrypted bytes that were read, and how many of them the session has taken.
    input: Vec<u8>,
    taken: usize,
    /// Clear bytes whose encrypted form waits for the socket.
    accepted: usize,
    barren: Barren,
    /// Why nothing more can be decrypted; what was decrypted before is read first.
    failed: Option<io::Error>,
}

/// Counts pieces in a row that brought no clear byte.
#[derive(Default)]
struct Barren(u32);

impl Barren {
    fn add(&mut self) {
        self.0 += 1;
    }

    fn is_turn_over(&self) -> bool {
        self.0 > 0 && self.0.is_multiple_of(BARREN_PER_POLL)
    }

    fn is_too_many(&self) -> bool {
        self.0 > BARREN_MAX
    }
}

impl Session {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reading half.
pub(super) struct TlsReader {
    session: Arc<Session>,
    reader: OwnedReadHalf,
}

/// Writing half.
pub(super) struct TlsWriter(Arc<Session>);

/// The halves of an established session.
pub(super) fn split(socket: TcpStream, mut tls: Tls) -> (TlsReader, TlsWriter) {
    tls.set_buffer_limit(Some(ENCRYPT_BYTES_MAX));
    let (reader, writer) = socket.into_split();
    let session = Arc::new(Session {
        writer,
        state: Mutex::new(State {
            tls,
            input: Vec::new(),
            taken: 0,
            accepted: 0,
            barren: Barren::default(),
            failed: None,
        }),
    });
    let writer = TlsWriter(Arc::clone(&session));
    (TlsReader { session, reader }, writer)
}

/// The socket as rustls wants it.
struct Socket<'a>(&'a OwnedWriteHalf);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl State {
    /// Moves clear bytes that are there into `buffer`; false if there are none.
    fn take_clear(&mut self, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
        let mut reader = self.tls.reader();
        let mut any = false;
        while buffer.remaining() > 0 {
            match reader.fill_buf() {
                // The peer said that it is done.
                Ok([]) => return Ok(true),
                Ok(clear) => {
                    let len = clear.len().min(buffer.remaining());
                    buffer.put_slice(&clear[..len]);
                    reader.consume(len);
                    self.barren = Barren::default();
                    any = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // It hung up without a word. Whether anything is missing, the mux knows better.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(any)
    }

    /// Decrypts more of what was read; false if nothing is left.
    fn decrypt(&mut self, writer: &OwnedWriteHalf) -> io::Result<bool> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let mut left = &self.input[self.taken..];
        if left.is_empty() {
            return Ok(false);
        }
        self.taken += self.tls.read_tls(&mut left)?;
        let processed = self.tls.process_new_packets();
        // An alert, an answer to a key update: if the socket takes none of it now, it leaves with the next write.
        let flushed = self.flush(writer);
        self.barren.add();
        if let Err(error) = processed {
            self.failed = Some(session_error(error));
        } else if self.barren.is_too_many() {
            self.failed = Some(io::Error::other("the peer sends TLS records that carry nothing"));
        } else if let Err(error) = flushed
            && error.kind() != io::ErrorKind::WouldBlock
        {
            self.failed = Some(error);
        }
        Ok(true)
    }

    /// Reads encrypted bytes; the peer's end is told to the session.
    fn poll_fill(&mut self, reader: &mut OwnedReadHalf, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.input.clear();
        self.taken = 0;
        self.input.reserve_exact(READ_BYTES);
        let read = match pin!(reader.read_buf(&mut self.input)).poll(task) {
            Poll::Ready(read) => read?,
            Poll::Pending => {
                self.input = Vec::new();
                return Poll::Pending;
            }
        };
        if read == 0 {
            self.tls.read_tls(&mut io::empty())?;
        }
        Poll::Ready(Ok(()))
    }

    fn flush(&mut self, writer: &OwnedWriteHalf) -> io::Result<()> {
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut Socket(writer)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// What a session's error means. An alert tells what the peer thought of the handshake, of which it did its half last.
fn session_error(error: rustls::Error) -> io::Error {
    let is_alert = matches!(error, rustls::Error::AlertReceived(_));
    let error = io::Error::other(error);
    match TlsFault::of(&error) {
        TlsFault::Other => error,
        fault if is_alert => io::Error::other(fault),
        _ => error,
    }
}

impl AsyncRead for TlsReader {
    fn poll_read(self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { session, reader } = self.get_mut();
        if buffer.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = session.lock();
        loop {
            if state.take_clear(buffer)? {
                return Poll::Ready(Ok(()));
            }
            if !state.decrypt(&session.writer)? {
                ready!(state.poll_fill(reader, task))?;
            } else if state.barren.is_turn_over() {
                task.waker().wake_by_ref();
                return Poll::Pending;
            }
        }
    }
}

impl SharedWrite for TlsWriter {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let session = &*self.0;
        let mut state = session.lock();
        if state.accepted == 0 {
            // What the session itself has to say goes first; then there is room.
            state.flush(&session.writer)?;
            state.accepted = state.tls.writer().write_vectored(slices)?;
        }
        state.flush(&session.writer)?;
        Ok(std::mem::take(&mut state.accepted))
    }

    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.writer.as_ref().poll_write_ready(task)
    }

    fn shutdown(&self) {
        let mut state = self.0.lock();
        state.tls.send_close_notify();
        // A socket that takes nothing any more, or is gone, needs no farewell.
        let _gone = state.flush(&self.0.writer);
        let _gone = socket2::SockRef::from(self.0.writer.as_ref()).shutdown(std::net::Shutdown::Write);
    }
}

#[cfg(test)]
mod tests {
    use super::{BARREN_MAX, BARREN_PER_POLL, Barren};

    #[test]
    fn what_carries_nothing_is_bounded() {
        let mut barren = Barren::default();
        let mut turns = 0;
        for _ in 0..BARREN_MAX {
            assert!(!barren.is_too_many());
            barren.add();
            turns += u32::from(barren.is_turn_over());
        }
        assert!(!barren.is_too_many() && turns == BARREN_MAX / BARREN_PER_POLL);
        barren.add();
        assert!(barren.is_too_many());
    }
}
