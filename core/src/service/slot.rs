//! A pinned place for the future of one call, used for one call after the other.
//!
//! The type of a service's future has no name and may be large. A slot allocates for it once; a call that is answered within its first poll leaves
//! the slot ready for the next, and a call that waits takes its slot along into a task.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::ServerRequest;
use crate::context::Cx;
use crate::message::Outcome;
use crate::method::MethodSpec;
use crate::status::Status;

/// Runs calls, one at a time.
pub trait CallSlot: Send {
    /// Begins a call; what was there is dropped.
    fn start(self: Pin<&mut Self>, spec: &'static MethodSpec, cx: Cx, request: ServerRequest);
    /// Polls the call that was begun.
    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Outcome>;
    /// Drops the call.
    fn clear(self: Pin<&mut Self>);
}

/// A slot of any service.
pub type BoxSlot = Pin<Box<dyn CallSlot>>;

pin_project_lite::pin_project! {
    struct Slot<S, D, F> {
        shared: S,
        // A clone of `shared` that the last call gave back.
        spare: Option<S>,
        dispatch: D,
        #[pin]
        future: Option<F>,
    }
}

/// A slot whose calls are the futures that `dispatch` makes.
pub fn slot<D, F>(dispatch: D) -> BoxSlot
where
    D: Fn(&'static MethodSpec, Cx, ServerRequest) -> F + Send + 'static,
    F: Future<Output = Outcome> + Send + 'static,
{
    sharing_slot((), move |(), spec, cx, request| {
        let call = dispatch(spec, cx, request);
        async move { ((), call.await) }
    })
}

/// As [`slot`], for calls that share something: each gets it, and gives it back for the next, which costs no reference count.
pub fn sharing_slot<S, D, F>(shared: S, dispatch: D) -> BoxSlot
where
    S: Clone + Send + 'static,
    D: Fn(S, &'static MethodSpec, Cx, ServerRequest) -> F + Send + 'static,
    F: Future<Output = (S, Outcome)> + Send + 'static,
{
    Box::pin(Slot {
        shared,
        spare: None,
        dispatch,
        future: None,
    })
}

impl<S, D, F> CallSlot for Slot<S, D, F>
where
    S: Clone + Send,
    D: Fn(S, &'static MethodSpec, Cx, ServerRequest) -> F + Send,
    F: Future<Output = (S, Outcome)> + Send,
{
    fn start(self: Pin<&mut Self>, spec: &'static MethodSpec, cx: Cx, request: ServerRequest) {
        let mut this = self.project();
        let shared = this.spare.take().unwrap_or_else(|| this.shared.clone());
        let future = (this.dispatch)(shared, spec, cx, request);
        this.future.set(Some(future));
    }

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Outcome> {
        let this = self.project();
        let Some(future) = this.future.as_pin_mut() else {
            return Poll::Ready(Err(Status::internal("no call was begun")));
        };
        let (shared, outcome) = std::task::ready!(future.poll(task));
        *this.spare = Some(shared);
        Poll::Ready(outcome)
    }

    fn clear(self: Pin<&mut Self>) {
        self.project().future.set(None);
    }
}

impl fmt::Debug for dyn CallSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CallSlot")
    }
}
