//! Coalescing writes: whoever queues a frame and finds nobody writing writes for all.
//!
//! There is no writer task: a lone call is written from the poll that made it. With other calls in flight the leader
//! first goes to the back of the run queue, so that callers who are ready too get their frames into the same write.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;

use crate::frame::{self, Head, LARGE_MIN};
use crate::socket::WriteHalf;

/// The write side of a connection, shared by all who send on it.
pub(crate) struct Writer {
    half: WriteHalf,
    queue: Mutex<Queue>,
}

/// Frames in their order, large bodies linked and not copied.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Large bodies, each with the length of `bytes` at which it goes in.
    large: Vec<(usize, Bytes)>,
}

#[derive(Default)]
struct Queue {
    batch: Batch,
    /// The last batch written, for its allocation.
    spare: Batch,
    led: bool,
}

impl Writer {
    pub(crate) fn new(half: WriteHalf) -> Self {
        Self {
            half,
            queue: Mutex::default(),
        }
    }

    /// Queues what `put` appends. If this returns true the caller must [`lead`](Self::lead).
    pub(crate) fn queue<E>(&self, put: impl FnOnce(&mut Batch) -> Result<(), E>) -> Result<bool, E> {
        let mut queue = self.lock();
        put(&mut queue.batch)?;
        Ok(!mem::replace(&mut queue.led, true))
    }

    /// Queues `batch`, which is then empty. If this returns true the caller must [`lead`](Self::lead).
    pub(crate) fn queue_batch(&self, batch: &mut Batch) -> bool {
        let mut queue = self.lock();
        if queue.batch.is_empty() {
            mem::swap(&mut queue.batch, batch);
        } else {
            queue.batch.append(batch);
        }
        !mem::replace(&mut queue.led, true)
    }

    /// Writes until nothing is queued. With `gather`, lets other ready tasks queue first.
    pub(crate) async fn lead(&self, gather: bool) -> io::Result<()> {
        if gather {
            requeue().await;
        }
        let mut batch = Batch::default();
        while self.exchange(&mut batch) {
            self.write(&batch).await?;
            batch.clear();
        }
        Ok(())
    }

    /// Gives a written batch back and takes what was queued meanwhile; if that is nothing, leaves the lead.
    fn exchange(&self, batch: &mut Batch) -> bool {
        let queue = &mut *self.lock();
        if batch.has_room() {
            mem::swap(&mut queue.spare, batch);
        }
        queue.led = !queue.batch.is_empty();
        if queue.led {
            *batch = mem::replace(&mut queue.batch, mem::take(&mut queue.spare));
        }
        queue.led
    }

    async fn write(&self, batch: &Batch) -> io::Result<()> {
        let mut written = 0;
        while written < batch.len() {
            match batch.try_write(&self.half, written) {
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.half.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Batch {
    /// Appends a frame whose body is what `put` appends.
    pub(crate) fn frame<E>(&mut self, head: Head, put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        let start = self.bytes.len();
        frame::put_head(&mut self.bytes, head);
        put(&mut self.bytes)?;
        frame::patch_len(&mut self.bytes, start, 0);
        Ok(())
    }

    /// Appends a frame whose body is what `put` appends and then `tail`.
    pub(crate) fn frame_with<E>(
        &mut self,
        head: Head,
        put: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
        tail: &Bytes,
    ) -> Result<(), E> {
        let start = self.bytes.len();
        frame::put_head(&mut self.bytes, head);
        put(&mut self.bytes)?;
        frame::patch_len(&mut self.bytes, start, tail.len());
        if tail.len() < LARGE_MIN {
            self.bytes.extend_from_slice(tail);
        } else {
            self.large.push((self.bytes.len(), tail.clone()));
        }
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of all frames.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() + self.large.iter().map(|(_, body)| body.len()).sum::<usize>()
    }

    fn has_room(&self) -> bool {
        self.bytes.capacity() > 0
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.large.clear();
    }

    fn append(&mut self, other: &mut Self) {
        let offset = self.bytes.len();
        self.bytes.append(&mut other.bytes);
        self.large.extend(other.large.drain(..).map(|(at, body)| (offset + at, body)));
    }

    /// One system call for what follows the first `skip` bytes.
    fn try_write(&self, half: &WriteHalf, skip: usize) -> io::Result<usize> {
        if self.large.is_empty() {
            return half.try_write(&self.bytes[skip..]);
        }
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let count = self.slices(skip, &mut slices);
        half.try_write_vectored(&slices[..count])
    }

    /// Lists what follows the first `skip` bytes, as much as `slices` holds; returns how many it is.
    fn slices<'a>(&'a self, mut skip: usize, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut count = 0;
        let mut from = 0;
        let tail = (self.bytes.len(), &[][..]);
        let large = self.large.iter().map(|(at, body)| (*at, &body[..])).chain([tail]);
        for (at, body) in large {
            for part in [&self.bytes[from..at], body] {
                let skipped = skip.min(part.len());
                skip -= skipped;
                if skipped < part.len() && count < SLICES_MAX {
                    slices[count] = IoSlice::new(&part[skipped..]);
                    count += 1;
                }
            }
            from = at;
        }
        count
    }
}

/// Goes once to the back of the run queue. Unlike `yield_now`, it does not wait for a turn of the I/O driver.
async fn requeue() {
    let mut queued = false;
    poll_fn(|cx| {
        if mem::replace(&mut queued, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Parts of one vectored write.
const SLICES_MAX: usize = 32;
