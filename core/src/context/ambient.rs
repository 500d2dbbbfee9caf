//! The ambient context: a thread-local that is set around each poll.
//!
//! Swapping a thread-local per poll needs no runtime's help and costs no reference count: the context is moved in and moved back.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::Cx;

thread_local! {
    static CURRENT: Cell<Option<Cx>> = const { Cell::new(None) };
}

pub(super) fn current() -> Option<Cx> {
    let find = |current: &Cell<Option<Cx>>| {
        let cx = current.take();
        current.set(cx.clone());
        cx
    };
    CURRENT.try_with(find).ok().flatten()
}

/// Runs `work` with the context in `slot` as the ambient one, and puts it back into `slot` afterwards, even on a panic.
pub fn enter<T>(slot: &mut Option<Cx>, work: impl FnOnce() -> T) -> T {
    struct Restore<'a> {
        slot: &'a mut Option<Cx>,
        outer: Option<Cx>,
    }
    impl Drop for Restore<'_> {
        fn drop(&mut self) {
            *self.slot = exchange(self.outer.take());
        }
    }
    let outer = exchange(slot.take());
    let _restore = Restore { slot, outer };
    work()
}

fn exchange(new: Option<Cx>) -> Option<Cx> {
    CURRENT.try_with(|current| current.replace(new)).ok().flatten()
}

pin_project_lite::pin_project! {
    /// A future that is polled with a context as the ambient one; see [`Cx::carry`].
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct Carry<F> {
        cx: Option<Cx>,
        #[pin]
        future: F,
    }
}

impl<F> Carry<F> {
    pub(super) fn new(cx: Option<Cx>, future: F) -> Self {
        Self { cx, future }
    }
}

impl<F: Future> Future for Carry<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let future = this.future;
        enter(this.cx, || future.poll(task))
    }
}
