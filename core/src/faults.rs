//! Faults on purpose, for tests and game days: delays, errors and answers that never come, for a part of the calls; with the feature `faults`.
//!
//! [`Faults`] is a handle whose clones are one: what is set through one holds for all, at once. On a channel (`ChannelBuilder::faults`) it is about attempts, so that
//! retries, hedging, ejection and breakers meet what they are for; as an interceptor of a server, a service or a method, about calls before
//! their handler. A status that it made says so: its `policy()` is `fault_injection`, or its `reason()` `injected`. A service's configuration can set faults, too
//! (`faults` for its clients, `server.faults` for its servers), where the code gave the channel or the server a handle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::policy::faults::{End, Met, Seen, meet};
use crate::status::{HandlerRan, OVERLOAD_POLICY, Status};
use crate::time;

pub use crate::policy::faults::Fault;

/// When to come back where there is no overload in truth, as if there were one.
const RETRY_AFTER: Duration = Duration::from_millis(100);
/// The policy that statuses name.
const POLICY: &str = "fault_injection";
/// Why, as they say.
const REASON: &str = "injected";

/// The faults that hold, to be changed while calls run.
#[derive(Clone, Debug)]
pub struct Faults(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    faults: ArcSwap<Vec<Active>>,
    /// One changes them at a time.
    changing: Mutex<()>,
    random: Mutex<fastrand::Rng>,
    delayed: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    met: AtomicU64,
}

/// A fault that was set.
#[derive(Clone, Debug)]
struct Active {
    fault: Fault,
    until: Option<Instant>,
    /// Whose configuration set it; `None`: the application.
    by: Option<Arc<str>>,
}

impl Active {
    fn new(fault: Fault, by: Option<Arc<str>>) -> Self {
        let until = fault.how_long().and_then(|lasts| time::now().checked_add(lasts));
        Self { fault, until, by }
    }

    fn holds(&self) -> bool {
        self.until.is_none_or(|until| time::now() < until)
    }
}

/// Calls, or attempts of them, that met a fault.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FaultCounts {
    /// Those that were delayed.
    pub delayed: u64,
    /// Those that ended with an error.
    pub failed: u64,
    /// Those that were not answered.
    pub dropped: u64,
}

impl Faults {
    /// None, until some are [set](Self::set); chance has a seed of its own.
    #[must_use]
    pub fn new() -> Self {
        Self::with_seed(fastrand::u64(..))
    }

    /// The same with a seed, so that what happens can be repeated.
    #[must_use]
    pub fn with_seed(seed: u64) -> Self {
        Self(Arc::new(Shared {
            faults: ArcSwap::from_pointee(Vec::new()),
            changing: Mutex::new(()),
            random: Mutex::new(fastrand::Rng::with_seed(seed)),
            delayed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            met: AtomicU64::new(0),
        }))
    }

    /// Sets the faults that hold from now on, in place of those that were set here before; those of a service's configuration stay. A call meets all of their
    /// delays that it should, and the first error or drop.
    pub fn set(&self, faults: impl IntoIterator<Item = Fault>) {
        self.replace(None, faults.into_iter().collect());
    }

    /// From now on there are none but those of a service's configuration.
    pub fn clear(&self) {
        self.set([]);
    }

    /// Sets those of a service's configuration. If they are the same as before nothing changes, so that what ends by itself does.
    pub(crate) fn configure(&self, service: &str, faults: Vec<Fault>) {
        let before = self.0.faults.load();
        let before = before.iter().filter(|active| active.by.as_deref() == Some(service)).map(|active| &active.fault);
        if !before.eq(&faults) {
            self.replace(Some(service.into()), faults);
        }
    }

    fn replace(&self, by: Option<Arc<str>>, faults: Vec<Fault>) {
        let _alone = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_on = self.is_on();
        let before = self.0.faults.load();
        let kept = before.iter().filter(|active| active.by != by).cloned();
        let all: Vec<Active> = kept.chain(faults.into_iter().map(|fault| Active::new(fault, by.clone()))).collect();
        if !all.is_empty() {
            tracing::warn!(faults = all.len(), "faults are injected");
        } else if was_on {
            tracing::warn!("no more faults are injected");
        }
        self.0.faults.store(Arc::new(all));
    }

    /// Whether there are any that hold.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.faults.load().iter().any(Active::holds)
    }

    /// Calls or attempts that met a fault.
    pub(crate) fn met(&self) -> u64 {
        self.0.met.load(Ordering::Relaxed)
    }

    /// What was met since it was made.
    #[must_use]
    pub fn counts(&self) -> FaultCounts {
        FaultCounts {
            delayed: self.0.delayed.load(Ordering::Relaxed),
            failed: self.0.failed.load(Ordering::Relaxed),
            dropped: self.0.dropped.load(Ordering::Relaxed),
        }
    }

    /// What becomes of a call, which is counted.
    pub(crate) fn meet(&self, seen: &Seen<'_>) -> Met {
        let faults = self.0.faults.load();
        if faults.is_empty() {
            return Met::default();
        }
        let met = {
            let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
            let holding = faults.iter().filter(|active| active.holds()).map(|active| &active.fault);
            meet(holding, seen, || random.f64())
        };
        self.0.met.fetch_add(u64::from(met.is_any()), Ordering::Relaxed);
        let ended = match &met.end {
            None => None,
            Some(End::Error { .. } | End::Overload) => Some(&self.0.failed),
            Some(End::Drop) => Some(&self.0.dropped),
        };
        let delayed = (!met.delay.is_zero()).then_some(&self.0.delayed);
        for counter in ended.into_iter().chain(delayed) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        met
    }
}

impl Default for Faults {
    fn default() -> Self {
        Self::new()
    }
}

impl Met {
    /// Waits for as long as it should, and for ever if there is no answer; then there may be an error.
    pub(crate) async fn pass(self) -> Result<(), Status> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        match self.end {
            None => Ok(()),
            Some(End::Error {
                code,
                message,
                is_unseen,
            }) => {
                let ran = if is_unseen { HandlerRan::No } else { HandlerRan::Maybe };
                let status = Status::new(code, message).with_rejection(POLICY, REASON);
                Err(status.with_handler_ran(ran))
            }
            Some(End::Overload) => {
                let status = Status::resource_exhausted("an overload was injected");
                let status = status.with_rejection(OVERLOAD_POLICY, REASON).with_retry_after(RETRY_AFTER);
                Err(status.with_handler_ran(HandlerRan::No))
            }
            Some(End::Drop) => std::future::pending().await,
        }
    }
}

/// Only where it is asked for by name: elsewhere nobody can take it for an interceptor.
#[cfg(feature = "faults")]
mod intercept {
    use super::{Faults, Seen};
    use crate::context::{Cx, Side};
    use crate::interceptor::{Interceptor, Next};
    use crate::message::Outcome;
    use crate::status::{HandlerRan, Status};

    impl Interceptor for Faults {
        async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
            if cx.side() == Some(Side::Client) {
                let status = Status::failed_precondition(
                    "faults of a channel are given to `ChannelBuilder::faults`, so that attempts meet them",
                );
                return Err(status.with_handler_ran(HandlerRan::No));
            }
            let met = self.meet(&Seen {
                path: cx.path(),
                metadata: cx.metadata(),
                endpoint: "",
            });
            if met.is_any() {
                // Rare, and its state would make every call's larger.
                Box::pin(met.pass()).await?;
            }
            next.run(cx).await
        }
    }
}
