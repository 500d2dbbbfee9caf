//! Tells everybody who watches a call that it is over for its caller.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
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

/// A flag that is set once, with those who wait for it.
#[derive(Debug, Default)]
pub(super) struct Cancellation {
    cause: AtomicU8,
    waiting: Mutex<Vec<(u64, Waker)>>,
}

impl Cancellation {
    pub(super) fn is_set(&self) -> bool {
        self.cause.load(Ordering::Acquire) != 0
    }

    pub(super) fn cause(&self) -> Option<CancelCause> {
        match self.cause.load(Ordering::Acquire) {
            1 => Some(CancelCause::ClientCancelled),
            2 => Some(CancelCause::ClientGone),
            3 => Some(CancelCause::DeadlineExceeded),
            4 => Some(CancelCause::ServerStopped),
            _ => None,
        }
    }

    pub(super) fn set(&self, cause: CancelCause) {
        let first = self.cause.compare_exchange(0, cause as u8, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if first {
            let waiting = std::mem::take(&mut *self.lock());
            for (_, waker) in waiting {
                waker.wake();
            }
        }
    }

    pub(super) fn reset(&mut self) {
        *self.cause.get_mut() = 0;
        self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
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
        static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
        Self {
            cx,
            key: NEXT.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Future for Cancelled {
    type Output = CancelCause;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<CancelCause> {
        let cancellation = &self.cx.inner.cancellation;
        if let Some(cause) = cancellation.cause() {
            return Poll::Ready(cause);
        }
        let mut waiting = cancellation.lock();
        match waiting.iter_mut().find(|(key, _)| *key == self.key) {
            Some((_, waker)) => waker.clone_from(task.waker()),
            None => waiting.push((self.key, task.waker().clone())),
        }
        drop(waiting);
        // A cause that was set between the first look and the registration found no waker.
        match cancellation.cause() {
            Some(cause) => Poll::Ready(cause),
            None => Poll::Pending,
        }
    }
}

impl Drop for Cancelled {
    fn drop(&mut self) {
        let key = self.key;
        self.cx.inner.cancellation.lock().retain(|(other, _)| *other != key);
    }
}
