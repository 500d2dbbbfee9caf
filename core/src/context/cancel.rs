//! Tells everybody who watches a call that it is over for its caller, or that its server is shutting down.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use super::Cx;

/// Why a call is over for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u8)]
pub enum CancelCause {
    /// The caller gave the call up.
    ClientCancelled = 1,
    /// The caller's connection is gone.
    ClientGone = 2,
    /// The deadline passed.
    DeadlineExceeded = 3,
    /// The server stopped before the call ended.
    ServerStopped = 4,
}

impl CancelCause {
    fn from_u8(cause: u8) -> Option<Self> {
        match cause {
            1 => Some(Self::ClientCancelled),
            2 => Some(Self::ClientGone),
            3 => Some(Self::DeadlineExceeded),
            4 => Some(Self::ServerStopped),
            _ => None,
        }
    }
}

/// The notices of one call.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// A [`CancelCause`].
    cancelled: Notice,
    /// 1 when the server is shutting down.
    draining: Notice,
}

impl Notices {
    pub(super) fn cause(&self) -> Option<CancelCause> {
        CancelCause::from_u8(self.cancelled.get())
    }

    pub(super) fn cancel(&self, cause: CancelCause) {
        self.cancelled.set(cause as u8);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.get() != 0
    }

    pub(super) fn set_draining(&self) {
        self.draining.set(1);
    }

    pub(super) fn reset(&mut self) {
        self.cancelled.reset();
        self.draining.reset();
    }
}

/// A value other than 0 that is set once, with those who wait for it.
#[derive(Debug, Default)]
struct Notice {
    value: AtomicU8,
    waiting: Mutex<Vec<(u64, Waker)>>,
}

impl Notice {
    fn get(&self) -> u8 {
        self.value.load(Ordering::Acquire)
    }

    fn set(&self, value: u8) {
        let first = self.value.compare_exchange(0, value, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first {
            let waiting = std::mem::take(&mut *self.lock());
            for (_, waker) in waiting {
                waker.wake();
            }
        }
    }

    fn reset(&mut self) {
        *self.value.get_mut() = 0;
        self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The value, once it is set; registers the task under `key` until then.
    fn poll(&self, key: u64, task: &Context<'_>) -> Poll<u8> {
        if self.get() == 0 {
            let mut waiting = self.lock();
            match waiting.iter_mut().find(|(other, _)| *other == key) {
                Some((_, waker)) => waker.clone_from(task.waker()),
                None => waiting.push((key, task.waker().clone())),
            }
        }
        // A value that was set between the first look and the registration found no waker.
        match self.get() {
            0 => Poll::Pending,
            value => Poll::Ready(value),
        }
    }

    fn forget(&self, key: u64) {
        self.lock().retain(|(other, _)| *other != key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(u64, Waker)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Resolves to the cause once the call is over; see [`Cx::cancelled`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Cancelled {
    cx: Cx,
    key: u64,
}

impl Cancelled {
    pub(super) fn new(cx: Cx) -> Self {
        Self { cx, key: next_key() }
    }
}

impl Future for Cancelled {
    type Output = CancelCause;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<CancelCause> {
        match self.cx.notices().cancelled.poll(self.key, task) {
            // No other value is ever set.
            Poll::Ready(cause) => CancelCause::from_u8(cause).map_or(Poll::Pending, Poll::Ready),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.cx.notices().cancelled.forget(self.key);
    }
}

/// Resolves once the server of the call is shutting down; see [`Cx::draining`].
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub struct Draining {
    cx: Cx,
    key: u64,
}

impl Draining {
    pub(super) fn new(cx: Cx) -> Self {
        Self { cx, key: next_key() }
    }
}

impl Future for Draining {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        self.cx.notices().draining.poll(self.key, task).map(|_set| ())
    }
}

impl Drop for Draining {
    fn drop(&mut self) {
        self.cx.notices().draining.forget(self.key);
    }
}

fn next_key() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
