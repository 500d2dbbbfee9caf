//! A gate on the way to a server and back, which holds bytes back: a network that is divided.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use sinew::transport::{ByteStream, SharedWrite};
use tokio::io::{AsyncRead, ReadBuf};

/// Which ways are shut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Shut {
    pub(crate) to_server: bool,
    pub(crate) from_server: bool,
}

impl Shut {
    pub(crate) const NONE: Self = Self {
        to_server: false,
        from_server: false,
    };
    pub(crate) const THERE: Self = Self {
        to_server: true,
        ..Self::NONE
    };
    pub(crate) const BACK: Self = Self {
        from_server: true,
        ..Self::NONE
    };
    pub(crate) const BOTH: Self = Self {
        to_server: true,
        from_server: true,
    };
}

/// The way to a server and back. While it is shut nothing passes, not even that somebody is gone.
#[derive(Default)]
pub(crate) struct Gate(Mutex<Way>);

#[derive(Default)]
struct Way {
    shut: Shut,
    /// Streams that were made so far; each has its number.
    made: u64,
    /// The streams up to this one are cut.
    cut_up_to: u64,
    /// Those who wait for a change.
    wakers: Vec<Waker>,
    /// What a server's end let go of, of which the other end hears once there is a way back.
    held: Vec<Box<dyn Send>>,
}

/// How it is with one direction of a stream.
enum Passage {
    Open,
    Shut,
    Cut,
}

impl Gate {
    fn lock(&self) -> MutexGuard<'_, Way> {
        self.0.lock().unwrap()
    }

    pub(crate) fn set(&self, shut: Shut) {
        let mut way = self.lock();
        way.shut = shut;
        let wakers = std::mem::take(&mut way.wakers);
        let held = match shut.from_server {
            true => Vec::new(),
            false => std::mem::take(&mut way.held),
        };
        drop(way);
        drop(held);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Cuts the streams that there are. Their clients hear of it as soon as there is a way back.
    pub(crate) fn cut(&self) {
        let mut way = self.lock();
        way.cut_up_to = way.made;
        let wakers = std::mem::take(&mut way.wakers);
        drop(way);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// A server's end of a stream, behind this gate.
    pub(crate) fn guard(self: &Arc<Self>, stream: ByteStream) -> ByteStream {
        let number = {
            let mut way = self.lock();
            way.made += 1;
            way.made
        };
        stream.wrapped(|reader, writer| {
            let reader = GatedReader {
                inner: reader,
                gate: Arc::clone(self),
                number,
            };
            let writer = GatedWriter {
                inner: Arc::from(writer),
                gate: Arc::clone(self),
                number,
            };
            (Box::pin(reader), Box::new(writer))
        })
    }

    /// How it is with the stream of that number; `task` is woken by the next change.
    fn passage(&self, number: u64, is_shut: impl Fn(Shut) -> bool, task: Option<&Context<'_>>) -> Passage {
        let mut way = self.lock();
        if let Some(task) = task
            && !way.wakers.iter().any(|waker| waker.will_wake(task.waker()))
        {
            way.wakers.push(task.waker().clone());
        }
        if number <= way.cut_up_to {
            Passage::Cut
        } else if is_shut(way.shut) {
            Passage::Shut
        } else {
            Passage::Open
        }
    }

    /// The server is done with `half`.
    fn let_go(&self, half: impl Send + 'static) {
        let mut way = self.lock();
        if way.shut.from_server {
            way.held.push(Box::new(half));
        } else {
            drop(way);
            drop(half);
        }
    }
}

struct GatedReader {
    inner: Pin<Box<dyn AsyncRead + Send>>,
    gate: Arc<Gate>,
    number: u64,
}

impl AsyncRead for GatedReader {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.gate.passage(self.number, |shut| shut.to_server, Some(&*task)) {
            Passage::Cut => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Passage::Shut => Poll::Pending,
            Passage::Open => self.inner.as_mut().poll_read(task, buf),
        }
    }
}

impl Drop for GatedReader {
    fn drop(&mut self) {
        let inner = std::mem::replace(&mut self.inner, Box::pin(tokio::io::empty()));
        self.gate.let_go(inner);
    }
}

struct GatedWriter {
    inner: Arc<dyn SharedWrite>,
    gate: Arc<Gate>,
    number: u64,
}

impl GatedWriter {
    fn passage(&self, task: Option<&Context<'_>>) -> Passage {
        self.gate.passage(self.number, |shut| shut.from_server, task)
    }
}

impl SharedWrite for GatedWriter {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self.passage(None) {
            Passage::Cut => Err(io::ErrorKind::BrokenPipe.into()),
            Passage::Shut => Err(io::ErrorKind::WouldBlock.into()),
            Passage::Open => self.inner.try_write_vectored(slices),
        }
    }

    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.passage(Some(&*task)) {
            // The write tells.
            Passage::Cut => Poll::Ready(Ok(())),
            Passage::Shut => Poll::Pending,
            Passage::Open => self.inner.poll_write_ready(task),
        }
    }

    fn shutdown(&self) {
        self.gate.let_go(Last(Arc::clone(&self.inner)));
    }
}

impl Drop for GatedWriter {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// Ends the writing direction when it is dropped.
struct Last(Arc<dyn SharedWrite>);

impl Drop for Last {
    fn drop(&mut self) {
        self.0.shutdown();
    }
}
