//! The context of one call: deadline, metadata, peer, trace, extensions and cancellation.
//!
//! A [`Cx`] is one reference count wide. What an interceptor puts into it is visible below that interceptor and to the calls that
//! the handler makes, because everything that changes after the start is interior-mutable. The *ambient* context ([`Cx::current`])
//! is a thread-local that is set around each poll of a handler; nested client calls take deadline and trace from it.
//!
//! Not here: encoding (`wire`), enforcing deadlines (`transport`, `server`).

mod ambient;
mod cancel;
mod extensions;
mod peer;
mod trace;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub use ambient::{Carry, enter};
pub use cancel::{CancelCause, Cancelled, Draining};
pub use peer::{Identity, Peer};
pub use trace::{TraceContext, TraceParseError};

use crate::metadata::{Metadata, MetadataError};
use crate::method::MethodSpec;
use crate::priority::Priority;
use crate::time::{self, DurationError, IntoDuration};
use cancel::Notices;
use extensions::Extensions;

/// The metadata key of which attempt of its call a request is, from the second on.
pub const ATTEMPT_KEY: &str = "sinew-attempt";

/// Which side of a call a context belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Side {
    /// The side that makes the call.
    Client,
    /// The side that answers it.
    Server,
}

/// The context of one call; cheap to clone.
#[derive(Clone)]
pub struct Cx {
    inner: Arc<Inner>,
}

struct Inner {
    parts: CxParts,
    /// The context that this one differs from only in its parts; all else is there.
    base: Option<Cx>,
    notices: Notices,
    shared: Mutex<Shared>,
    /// Something was put into `shared`; most calls put nothing there, and then nobody looks.
    touched: AtomicBool,
}

/// What is fixed when a context is made.
#[derive(Default)]
pub struct CxParts {
    /// The method, if it is known here.
    pub method: Option<&'static MethodSpec>,
    /// The path that the caller sent, for methods that are not known here.
    pub path: Option<Arc<str>>,
    /// The id of the method as it travelled.
    pub method_id: u64,
    /// Which side this is; `None` for a context that belongs to no call.
    pub side: Option<Side>,
    /// When the call ends at the latest.
    pub deadline: Option<Instant>,
    /// How much the call matters.
    pub priority: Priority,
    /// The other end of the connection.
    pub peer: Option<Peer>,
    /// The request's metadata.
    pub metadata: Metadata,
    /// The context in which the call was made.
    pub parent: Option<Cx>,
}

#[derive(Default)]
struct Shared {
    extensions: Extensions,
    reply: Metadata,
    trailers: Metadata,
    outgoing: Metadata,
    propagated: Vec<String>,
    trace: Option<TraceContext>,
}

impl Cx {
    /// A context that belongs to no call: for tests, and as a parent of calls that start something new.
    #[must_use]
    pub fn new() -> Self {
        Self::from_parts(CxParts::default())
    }

    /// A context made of `parts`.
    #[must_use]
    pub fn from_parts(parts: CxParts) -> Self {
        Self::derived(parts, None)
    }

    fn derived(parts: CxParts, base: Option<Self>) -> Self {
        Self {
            inner: Arc::new(Inner {
                parts,
                base,
                notices: Notices::default(),
                shared: Mutex::new(Shared::default()),
                touched: AtomicBool::new(false),
            }),
        }
    }

    /// A context for the next call in the memory of `old`, if nobody else holds that one: `fill` sets every field that differs between calls;
    /// those of the connection (side, peer) are there already. Otherwise `fill` gets an empty one.
    #[must_use]
    #[doc(hidden)]
    pub fn renew(old: Option<Self>, fill: impl FnOnce(&mut CxParts)) -> Self {
        if let Some(mut cx) = old
            && let Some(inner) = Arc::get_mut(&mut cx.inner)
        {
            let shared = inner.shared.get_mut().unwrap_or_else(PoisonError::into_inner);
            // Values of users are dropped here, and may panic: then this one is not used again.
            let clean = !std::mem::take(inner.touched.get_mut())
                || std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| shared.reset())).is_ok();
            if clean {
                fill(&mut inner.parts);
                inner.notices.reset();
                return cx;
            }
        }
        let mut parts = CxParts::default();
        fill(&mut parts);
        Self::from_parts(parts)
    }

    /// The context of the handler, interceptor or carried task that is being polled on this thread.
    #[must_use]
    pub fn current() -> Option<Self> {
        ambient::current()
    }

    /// Runs `future` with this context as the ambient one.
    pub fn carry_in<F>(&self, future: F) -> Carry<F> {
        Carry::new(Some(self.clone()), future)
    }

    /// Carries the ambient context into `future`, so that calls made in a spawned task inherit deadline and trace.
    ///
    /// # Examples
    /// ```no_run
    /// # use sinew_core::context::Cx;
    /// # async fn make_calls() {}
    /// tokio::spawn(Cx::carry(async { make_calls().await }));
    /// ```
    pub fn carry<F>(future: F) -> Carry<F> {
        Carry::new(ambient::current(), future)
    }

    /// The method that is called; `None` outside a call and for methods that are unknown here.
    #[must_use]
    pub fn method(&self) -> Option<&'static MethodSpec> {
        self.inner.parts.method
    }

    /// Service and method: of the known method, or as the caller sent it; empty if neither is there.
    #[must_use]
    pub fn path(&self) -> &str {
        match (&self.inner.parts.method, &self.inner.parts.path) {
            (Some(method), _) => method.path(),
            (None, Some(path)) => path,
            (None, None) => "",
        }
    }

    /// The id of the method as it travelled.
    #[must_use]
    pub fn method_id(&self) -> u64 {
        self.inner.parts.method_id
    }

    /// Which side of the call this is; `None` outside a call.
    #[must_use]
    pub fn side(&self) -> Option<Side> {
        self.inner.parts.side
    }

    /// When the call ends at the latest.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.inner.parts.deadline
    }

    /// What is left until the deadline; zero when it has passed, `None` if there is none.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(time::now()))
    }

    /// How much the call matters: on a server as it was taken there, which need not be what the request's metadata say. Calls under this context have the same.
    #[must_use]
    pub fn priority(&self) -> Priority {
        self.inner.parts.priority
    }

    /// Which attempt of its caller's this is: 1, or more if it is made anew because one before failed, or on behalf of a call that is. Calls under such a one are not
    /// retried by policy: whoever made the first attempt sees to that.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        let said = self.metadata().get(ATTEMPT_KEY).and_then(|number| number.parse().ok());
        said.map_or(1, |number: u32| number.max(1))
    }

    /// The other end of the connection; `None` outside a call.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.inner.parts.peer.as_ref()
    }

    /// The request's metadata, as it arrived or as the caller gave it.
    #[must_use]
    pub fn metadata(&self) -> &Metadata {
        &self.inner.parts.metadata
    }

    /// Adds metadata to the request on its way out; for client interceptors. On a server's context it reaches nobody: pass metadata on with
    /// [`propagate`](Self::propagate) or `Call::metadata`, and answer with [`set_reply_metadata`](Self::set_reply_metadata).
    ///
    /// # Errors
    /// [`MetadataError`] if the key or the value breaks the rules of metadata.
    pub fn add_metadata(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        self.shared().outgoing.append(key.to_owned(), value)
    }

    /// What interceptors added to the request.
    #[must_use]
    pub fn added_metadata(&self) -> Metadata {
        self.shared().outgoing.clone()
    }

    /// Passes the request's values of `key` on to every call that is made under this context.
    pub fn propagate(&self, key: &str) {
        let mut shared = self.shared();
        if !shared.propagated.iter().any(|known| known == key) {
            shared.propagated.push(key.to_owned());
        }
    }

    /// The metadata that calls under this context inherit: what [`Cx::propagate`] marked here and in its parents.
    #[must_use]
    pub fn inherited_metadata(&self) -> Metadata {
        let mut inherited = Metadata::new();
        let mut at = Some(self);
        while let Some(cx) = at {
            for key in &cx.shared().propagated {
                for value in cx.metadata().get_all(key) {
                    // The value was checked when it entered this process.
                    let _checked = inherited.append(key.clone(), value);
                }
            }
            at = cx.inner.parts.parent.as_ref();
        }
        inherited
    }

    /// Sets one value of the response's metadata, which travels before the first message.
    ///
    /// # Errors
    /// [`MetadataError`] if the key or the value breaks the rules of metadata.
    pub fn set_reply_metadata(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        self.shared().reply.insert(key.to_owned(), value)
    }

    /// Sets one value of the trailers, which travel after the last message.
    ///
    /// # Errors
    /// [`MetadataError`] if the key or the value breaks the rules of metadata.
    pub fn set_trailer(&self, key: &str, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        self.shared().trailers.insert(key.to_owned(), value)
    }

    /// Takes the response's metadata and trailers out; `None` if there are none. For the runtime.
    #[must_use]
    pub fn take_reply(&self) -> Option<(Metadata, Metadata)> {
        if !self.inner.touched.load(Ordering::Acquire) {
            return None;
        }
        let mut shared = self.shared();
        if shared.reply.is_empty() && shared.trailers.is_empty() {
            return None;
        }
        Some((std::mem::take(&mut shared.reply), std::mem::take(&mut shared.trailers)))
    }

    /// Puts a value in, one per type; returns what was there.
    pub fn insert<T: Clone + Send + Sync + 'static>(&self, value: T) -> Option<T> {
        self.shared().extensions.insert(value)
    }

    /// The value of type `T` that was put in here or, failing that, into the context in which this call was made.
    #[must_use]
    pub fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        if let Some(value) = self.shared().extensions.get::<T>() {
            return Some(value);
        }
        self.inner.parts.parent.as_ref()?.get::<T>()
    }

    /// The trace that this call belongs to.
    ///
    /// On a server: made from the caller's `traceparent`, with a span id of this call's own. A caller that sends `baggage` alone begins a new trace, which
    /// carries it on.
    #[must_use]
    pub fn trace(&self) -> Option<TraceContext> {
        if let Some(trace) = self.shared().trace.clone() {
            return Some(trace);
        }
        let of_caller = match self.side() {
            Some(Side::Server) => TraceContext::of_handler(self.metadata()),
            Some(Side::Client) | None => TraceContext::from_metadata(self.metadata()).map(|caller| caller.child()),
        };
        if let Some(trace) = of_caller {
            self.shared().trace = Some(trace.clone());
            return Some(trace);
        }
        self.inner.parts.parent.as_ref()?.trace()
    }

    /// Sets the trace that this call and the calls under it belong to.
    pub fn set_trace(&self, trace: TraceContext) {
        self.shared().trace = Some(trace);
    }

    /// Whether the call is over for its caller: cancelled, past its deadline, or its connection is gone.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.notices().cause().is_some()
    }

    /// Why the call is over for its caller; `None` while it is not.
    #[must_use]
    pub fn cancel_cause(&self) -> Option<CancelCause> {
        self.notices().cause()
    }

    /// Resolves when the call is over for its caller.
    ///
    /// A handler need not watch this: it is dropped then. It serves work that the handler spawned.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn cancelled(&self) -> Cancelled {
        Cancelled::new(self.clone())
    }

    /// Tells everybody who holds this context that the call is over; for the runtime.
    pub fn cancel(&self, cause: CancelCause) {
        self.notices().cancel(cause);
    }

    /// Whether the server that runs this call is shutting down; long calls should come to an end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.notices().is_draining()
    }

    /// Resolves when the server that runs this call is shutting down; for long calls that wait.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub fn draining(&self) -> Draining {
        Draining::new(self.clone())
    }

    /// Marks the server of this call as shutting down; for the runtime.
    #[doc(hidden)]
    pub fn set_draining(&self) {
        self.notices().set_draining();
    }

    /// The same context with an earlier deadline, `timeout` from now at the latest: for a step of a handler that must not take longer, and for tests. A
    /// deadline that is earlier already stays. All else, cancellation and what is set for the response included, is shared.
    ///
    /// # Errors
    /// [`DurationError`] if the text is not a duration.
    pub fn with_timeout(&self, timeout: impl IntoDuration) -> Result<Self, DurationError> {
        let deadline = time::now().checked_add(timeout.into_duration()?);
        let mut parts = self.inner.parts.same();
        parts.deadline = parts.deadline.into_iter().chain(deadline).min();
        Ok(Self::derived(parts, Some(self.clone())))
    }

    /// The same context with another priority, for the calls that are made under it: all those of a batch job, as in
    /// `Cx::new().with_priority(Priority::Background).carry_in(job)`.
    #[must_use]
    pub fn with_priority(&self, priority: Priority) -> Self {
        let mut parts = self.inner.parts.same();
        parts.priority = priority;
        Self::derived(parts, Some(self.clone()))
    }

    /// The same context with one more value in the request's metadata: for tests of handlers and interceptors that read it.
    ///
    /// # Errors
    /// [`MetadataError`] if metadata cannot carry key or value.
    pub fn with_metadata(&self, key: &str, value: impl AsRef<[u8]>) -> Result<Self, MetadataError> {
        let mut parts = self.inner.parts.same();
        parts.metadata.append(key.to_owned(), value)?;
        Ok(Self::derived(parts, Some(self.clone())))
    }

    fn notices(&self) -> &Notices {
        match &self.inner.base {
            None => &self.inner.notices,
            Some(base) => base.notices(),
        }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        if let Some(base) = &self.inner.base {
            return base.shared();
        }
        self.inner.touched.store(true, Ordering::Release);
        // Nothing panics while the lock is held, except the clone of a user's extension; the data stays whole then too.
        self.inner.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CxParts {
    fn same(&self) -> Self {
        Self {
            method: self.method,
            path: self.path.clone(),
            method_id: self.method_id,
            side: self.side,
            deadline: self.deadline,
            priority: self.priority,
            peer: self.peer.clone(),
            metadata: self.metadata.clone(),
            parent: self.parent.clone(),
        }
    }
}

impl Default for Cx {
    fn default() -> Self {
        Self::new()
    }
}

impl Shared {
    fn reset(&mut self) {
        self.extensions.clear();
        self.reply.clear();
        self.trailers.clear();
        self.outgoing.clear();
        self.propagated.clear();
        self.trace = None;
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("path", &self.path())
            .field("side", &self.side())
            .field("deadline", &self.deadline())
            .field("metadata", self.metadata())
            .field("cancelled", &self.cancel_cause())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CxParts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CxParts")
            .field("method", &self.method)
            .field("side", &self.side)
            .field("deadline", &self.deadline)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
