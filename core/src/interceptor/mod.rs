//! Interceptors: links of a chain around a call, the same on both sides and for all kinds of methods.
//!
//! Attribute-stacked ones nest statically ([`Link`]): no allocation and no virtual call per link. Those added at run time are
//! [`DynInterceptor`]s in a list, which costs one box each. Left and top are outermost.

mod chain;
pub(crate) mod counter;
pub mod limits;
mod links;

use std::future::Future;

pub use chain::{Chain, DynInterceptor, DynNext};
pub use links::Links;

use crate::context::Cx;
use crate::message::Outcome;

/// A link of the chain: runs code around a call.
///
/// Not calling [`Next::run`] ends the call here. What is put into the context is visible below.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not an interceptor",
    label = "not an interceptor",
    note = "annotate the function with `#[sinew::interceptor]`, or implement `Interceptor`"
)]
pub trait Interceptor: Send + Sync {
    /// Handles one call.
    fn call<N: Next>(&self, cx: &mut Cx, next: N) -> impl Future<Output = Outcome> + Send;
}

/// The rest of the chain, down to the handler or the wire.
pub trait Next: Send + Sized {
    /// Runs it. Where the response is a stream, it returns when that begins.
    ///
    /// The future is dropped when the call is cancelled or its deadline passes: what must happen after the call in any case belongs into a destructor.
    fn run(self, cx: &mut Cx) -> impl Future<Output = Outcome> + Send;
}

impl<I: Interceptor + ?Sized> Interceptor for &I {
    fn call<N: Next>(&self, cx: &mut Cx, next: N) -> impl Future<Output = Outcome> + Send {
        (**self).call(cx, next)
    }
}

impl<I: Interceptor + ?Sized> Interceptor for std::sync::Arc<I> {
    fn call<N: Next>(&self, cx: &mut Cx, next: N) -> impl Future<Output = Outcome> + Send {
        (**self).call(cx, next)
    }
}

/// One link in front of the rest.
#[derive(Debug)]
pub struct Link<'a, I, N> {
    /// The interceptor.
    pub interceptor: &'a I,
    /// What comes after it.
    pub next: N,
}

impl<'a, I, N> Link<'a, I, N> {
    /// Puts `interceptor` in front of `next`.
    pub fn new(interceptor: &'a I, next: N) -> Self {
        Self { interceptor, next }
    }
}

impl<I: Interceptor, N: Next> Next for Link<'_, I, N> {
    fn run(self, cx: &mut Cx) -> impl Future<Output = Outcome> + Send {
        self.interceptor.call(cx, self.next)
    }
}
