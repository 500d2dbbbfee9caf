//! Interceptors that are added at run time: a list of trait objects.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use super::{Interceptor, Next};
use crate::context::Cx;
use crate::message::Outcome;

type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An [`Interceptor`] as a trait object; implemented for all of them.
pub trait DynInterceptor: Send + Sync {
    /// Handles one call.
    fn call_dyn<'a>(&'a self, cx: &'a mut Cx, next: DynNext<'a>) -> BoxFuture<'a, Outcome>;
}

impl<I: Interceptor> DynInterceptor for I {
    fn call_dyn<'a>(&'a self, cx: &'a mut Cx, next: DynNext<'a>) -> BoxFuture<'a, Outcome> {
        Box::pin(self.call(cx, next))
    }
}

/// The rest of a chain behind a trait object.
pub struct DynNext<'a> {
    rest: &'a [Arc<dyn DynInterceptor>],
    last: Box<dyn ErasedNext + 'a>,
}

impl Next for DynNext<'_> {
    async fn run(self, cx: &mut Cx) -> Outcome {
        match self.rest.split_first() {
            Some((first, rest)) => first.call_dyn(cx, DynNext { rest, last: self.last }).await,
            None => self.last.run_erased(cx).await,
        }
    }
}

/// A [`Next`] as a trait object.
trait ErasedNext: Send {
    fn run_erased<'b>(self: Box<Self>, cx: &'b mut Cx) -> BoxFuture<'b, Outcome>
    where
        Self: 'b;
}

impl<N: Next> ErasedNext for N {
    fn run_erased<'b>(self: Box<Self>, cx: &'b mut Cx) -> BoxFuture<'b, Outcome>
    where
        Self: 'b,
    {
        Box::pin((*self).run(cx))
    }
}

impl fmt::Debug for DynNext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DynNext({} more)", self.rest.len())
    }
}

/// A list of interceptors, outermost first; shared, so that cloning is cheap.
#[derive(Clone, Default)]
pub struct Chain {
    links: Option<Arc<[Arc<dyn DynInterceptor>]>>,
}

impl Chain {
    /// The list with `interceptor` innermost.
    #[must_use]
    pub fn with(&self, interceptor: impl Interceptor + 'static) -> Self {
        let mut links: Vec<Arc<dyn DynInterceptor>> = self.links.as_deref().unwrap_or_default().to_vec();
        links.push(Arc::new(interceptor));
        Self {
            links: Some(links.into()),
        }
    }

    /// Whether there are none; then nothing is boxed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.links.is_none()
    }

    /// Runs the list around `last`.
    ///
    /// # Errors
    /// The status of whoever ended the call.
    pub async fn run<N: Next>(&self, cx: &mut Cx, last: N) -> Outcome {
        let Some(links) = &self.links else {
            return last.run(cx).await;
        };
        let next = DynNext {
            rest: links,
            last: Box::new(last),
        };
        next.run(cx).await
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chain({})", self.links.as_ref().map_or(0, |links| links.len()))
    }
}
