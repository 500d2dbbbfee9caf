//! A byte stream that cuts, delays, stalls and breaks, as a seed decides.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use fastrand::Rng;
use sinew::transport::{ByteStream, SharedWrite};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Sleep;

/// The connection of two ends.
#[derive(Debug)]
pub(crate) struct Link(Mutex<State>);

#[derive(Debug)]
struct State {
    rng: Rng,
    fate: Fate,
    /// Bytes of one read or write at most.
    chunk_bytes_max: usize,
    /// A read or write waits for up to this long.
    delay_max: Duration,
    wakers: Vec<Waker>,
}

/// What has become of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Up,
    /// Nothing arrives any more, and nobody is told.
    Stalled,
    /// Both ends see an error.
    Cut,
}

impl Link {
    pub(crate) fn new(mut rng: Rng) -> Arc<Self> {
        let chunk_bytes_max = [7, 100, 1_500, 64 * 1024][rng.usize(..4)];
        let delay_max = Duration::from_millis([0, 1, 5, 40][rng.usize(..4)]);
        Arc::new(Self(Mutex::new(State {
            rng,
            fate: Fate::Up,
            chunk_bytes_max,
            delay_max,
            wakers: Vec::new(),
        })))
    }

    pub(crate) fn meet(&self, fate: Fate) {
        let mut state = self.lock();
        if state.fate == Fate::Cut {
            return;
        }
        state.fate = fate;
        let wakers = std::mem::take(&mut state.wakers);
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// One end of this link.
    pub(crate) fn end(self: &Arc<Self>, stream: ByteStream) -> ByteStream {
        stream.wrapped(|reader, writer| {
            let reader = FaultyReader {
                inner: reader,
                link: Arc::clone(self),
                pause: None,
            };
            let writer = FaultyWriter {
                inner: writer,
                link: Arc::clone(self),
                pause: Mutex::new(None),
            };
            (Box::pin(reader), Box::new(writer))
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    /// How long the next read or write waits; mostly not at all.
    fn delay(&mut self) -> Option<Duration> {
        if self.delay_max.is_zero() || self.rng.u8(..4) > 0 {
            return None;
        }
        Some(self.delay_max.mul_f64(self.rng.f64()))
    }

    fn chunk(&mut self) -> usize {
        self.rng.usize(1..=self.chunk_bytes_max)
    }

    fn wake_later(&mut self, task: &Context<'_>) {
        if !self.wakers.iter().any(|waker| waker.will_wake(task.waker())) {
            self.wakers.push(task.waker().clone());
        }
    }
}

struct FaultyReader {
    inner: Pin<Box<dyn AsyncRead + Send>>,
    link: Arc<Link>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl AsyncRead for FaultyReader {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let link = Arc::clone(&self.link);
        let mut state = link.lock();
        match state.fate {
            Fate::Cut => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Fate::Stalled => {
                state.wake_later(task);
                return Poll::Pending;
            }
            Fate::Up => state.wake_later(task),
        }
        if self.pause.is_none() {
            self.pause = state.delay().map(|delay| Box::pin(tokio::time::sleep(delay)));
        }
        if let Some(pause) = &mut self.pause {
            std::task::ready!(pause.as_mut().poll(task));
            self.pause = None;
        }
        let mut own = vec![0; state.chunk().min(buf.remaining())];
        drop(state);
        let mut part = ReadBuf::new(&mut own);
        std::task::ready!(self.inner.as_mut().poll_read(task, &mut part))?;
        buf.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

struct FaultyWriter {
    inner: Box<dyn SharedWrite>,
    link: Arc<Link>,
    pause: Mutex<Option<Pin<Box<Sleep>>>>,
}

impl SharedWrite for FaultyWriter {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut state = self.link.lock();
        match state.fate {
            Fate::Cut => return Err(io::ErrorKind::BrokenPipe.into()),
            // The system takes the bytes; nobody will ever see them.
            Fate::Stalled => return Ok(slices.iter().map(|slice| slice.len()).sum()),
            Fate::Up => {}
        }
        let mut pause = self.pause.lock().unwrap();
        if pause.is_none() {
            *pause = state.delay().map(|delay| Box::pin(tokio::time::sleep(delay)));
        }
        if pause.is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let chunk = state.chunk();
        drop(state);
        let Some(first) = slices.iter().find(|slice| !slice.is_empty()) else {
            return Ok(0);
        };
        self.inner.try_write_vectored(&[IoSlice::new(&first[..first.len().min(chunk)])])
    }

    fn poll_write_ready(&self, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        {
            let mut state = self.link.lock();
            if state.fate != Fate::Up {
                return Poll::Ready(Ok(()));
            }
            state.wake_later(task);
        }
        let mut pause = self.pause.lock().unwrap();
        if let Some(sleep) = &mut *pause {
            std::task::ready!(sleep.as_mut().poll(task));
            *pause = None;
        }
        drop(pause);
        self.inner.poll_write_ready(task)
    }

    fn shutdown(&self) {
        self.inner.shutdown();
    }
}
