//! Faults on purpose, for tests and game days: delays, errors and answers that never come, for a part of the calls; with the feature `faults`.
//!
//! [`Faults`] is a handle whose clones are one: what is set through one holds for all, at once. On a channel (`ChannelBuilder::faults`) it is about attempts, so that
//! retries, hedging, ejection and breakers meet what they are for; as an interceptor of a server, a service or a method, about calls before
//! their handler. A status that it made says so: its `policy()` is `fault_injection`, or its `reason()` `injected`. A service's configuration can set faults, too
//! (`faults` for its clients, `server.faults` for its servers), where the code gave the channel or the server a handle;
//! those hold for that channel, or for servers of that service, and for nobody else who shares the handle.

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
    by: Owner,
}

/// Who set a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Owner {
    Application,
    /// The configuration of a service, at servers.
    Servers(Arc<str>),
    /// The configuration that a channel follows.
    Channel(u64),
}

/// Who asks what becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asker {
    /// A server, or a service or method of one.
    Server,
    /// That channel.
    Channel(u64),
}

/// The faults that a channel meets: those of the application, and those of the configuration that it follows, which are gone with it.
#[derive(Debug)]
pub(crate) struct ChannelFaults {
    faults: Faults,
    id: u64,
}

impl ChannelFaults {
    pub(crate) fn is_on(&self) -> bool {
        self.faults.is_on()
    }

    pub(crate) fn met(&self) -> u64 {
        self.faults.met()
    }

    /// What becomes of an attempt, which is counted.
    pub(crate) fn meet(&self, seen: &Seen<'_>) -> Met {
        self.faults.meet_as(Asker::Channel(self.id), seen)
    }

    /// Sets those of the configuration.
    pub(crate) fn configure(&self, faults: Vec<Fault>) {
        self.faults.configure(&Owner::Channel(self.id), faults);
    }
}

impl Drop for ChannelFaults {
    fn drop(&mut self) {
        self.configure(Vec::new());
    }
}

impl Owner {
    fn is_about(&self, asker: Asker) -> bool {
        match self {
            Self::Application => true,
            Self::Servers(_) => asker == Asker::Server,
            Self::Channel(id) => asker == Asker::Channel(*id),
        }
    }
}

impl Active {
    fn new(fault: Fault, by: Owner) -> Self {
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
        self.replace(&Owner::Application, |_| {
            faults.into_iter().map(|fault| Active::new(fault, Owner::Application)).collect()
        });
    }

    /// From now on there are none but those of a service's configuration.
    pub fn clear(&self) {
        self.set([]);
    }

    /// What a channel meets that is given this handle.
    #[cfg(feature = "faults")]
    pub(crate) fn of_channel(self) -> ChannelFaults {
        static CHANNELS: AtomicU64 = AtomicU64::new(0);
        let id = CHANNELS.fetch_add(1, Ordering::Relaxed);
        ChannelFaults { faults: self, id }
    }

    /// Sets those of a service's configuration for its servers.
    pub(crate) fn configure_servers(&self, service: &str, faults: Vec<Fault>) {
        self.configure(&Owner::Servers(service.into()), faults);
    }

    /// Sets those of a configuration. One that was there before stays as it is, so that what ends by itself does, and what has ended stays so.
    fn configure(&self, by: &Owner, faults: Vec<Fault>) {
        let is_same = {
            let before = self.0.faults.load();
            before.iter().filter(|active| active.by == *by).map(|active| &active.fault).eq(&faults)
        };
        if is_same {
            return;
        }
        self.replace(by, |mut before| {
            let take_up = |fault: Fault| match before.iter().position(|active| active.fault == fault) {
                Some(at) => before.swap_remove(at),
                None => Active::new(fault, by.clone()),
            };
            faults.into_iter().map(take_up).collect()
        });
    }

    /// Puts others in place of those that were set `by` somebody.
    fn replace(&self, by: &Owner, with: impl FnOnce(Vec<Active>) -> Vec<Active>) {
        let _alone = self.0.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let was_on = self.is_on();
        let before = self.0.faults.load();
        let (own, mut all): (Vec<Active>, Vec<Active>) = before.iter().cloned().partition(|active| active.by == *by);
        all.extend(with(own));
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

    /// What becomes of a call to a server, which is counted.
    #[cfg(feature = "faults")]
    fn meet(&self, seen: &Seen<'_>) -> Met {
        self.meet_as(Asker::Server, seen)
    }

    fn meet_as(&self, asker: Asker, seen: &Seen<'_>) -> Met {
        let faults = self.0.faults.load();
        if faults.is_empty() {
            return Met::default();
        }
        let met = {
            let mut random = self.0.random.lock().unwrap_or_else(PoisonError::into_inner);
            let holding = faults.iter().filter(|active| active.by.is_about(asker) && active.holds());
            let holding = holding.map(|active| &active.fault);
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
