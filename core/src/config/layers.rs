//! The configuration of a service: layers from several sources, put together whenever one of them changes.
//!
//! Driven by a task of whoever follows it: a channel, or a server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::watch;
use tokio::time::Instant;

use super::source::Said;
use super::{ConfigPublisher, ConfigSource, ServiceConfig, ServiceConfigError};
use crate::discovery::supervised::{Task, persist};
use crate::policy::backoff::Backoff;

/// How long the first calls of a channel, and the start of a server, wait for the configuration: a source that cannot be reached must not stop what can be
/// called without. Well below the connect time-out, or connecting would fail for it.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The layers of one service.
pub(crate) struct Layers {
    /// What the code says.
    code: ServiceConfig,
    sources: Vec<Arc<dyn ConfigSource>>,
    /// What each source said last, also before this task.
    said: Mutex<Vec<Said>>,
    merged: ArcSwap<ServiceConfig>,
    /// The same, if calls have to look at it.
    for_calls: ArcSwapOption<ServiceConfig>,
}

impl Layers {
    pub(crate) fn new(code: ServiceConfig, sources: Vec<Arc<dyn ConfigSource>>) -> Self {
        let layers = Self {
            said: Mutex::new(vec![Said::default(); sources.len()]),
            sources,
            merged: ArcSwap::from_pointee(ServiceConfig::new()),
            for_calls: ArcSwapOption::empty(),
            code,
        };
        layers.merge();
        layers
    }

    /// What holds now.
    pub(crate) fn merged(&self) -> Arc<ServiceConfig> {
        self.merged.load_full()
    }

    /// What holds for calls; `None` if that is nothing.
    pub(crate) fn for_calls(&self) -> arc_swap::Guard<Option<Arc<ServiceConfig>>> {
        self.for_calls.load()
    }

    /// Why layers could not be renewed, the lowest first.
    pub(crate) fn failures(&self) -> Vec<ServiceConfigError> {
        self.said().iter().filter_map(|said| said.failure.clone()).collect()
    }

    /// Whether a source has said nothing yet.
    pub(crate) fn has_silent_source(&self) -> bool {
        self.said().iter().any(|said| !said.is_known)
    }

    /// Begins to follow the sources, from what they said before on.
    pub(crate) fn follow(&self, backoff: Backoff) -> Following<'_> {
        let (publishers, said) = ConfigPublisher::channel(self.said().clone());
        let run = |(source, publisher): (&Arc<dyn ConfigSource>, ConfigPublisher)| {
            Task::new(tokio::spawn(run(Arc::clone(source), publisher, backoff)))
        };
        Following {
            layers: self,
            _sources: self.sources.iter().zip(publishers).map(run).collect(),
            said,
            wait_until: Instant::now() + FIRST_WAIT,
        }
    }

    fn said(&self) -> MutexGuard<'_, Vec<Said>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn merge(&self) {
        let merged = self.said().iter().fold(self.code.clone(), |below, said| (*said.config).clone().over(&below));
        let merged = Arc::new(merged);
        self.for_calls.store(merged.changes_calls().then(|| Arc::clone(&merged)));
        self.merged.store(merged);
    }
}

/// The sources while they are followed.
pub(crate) struct Following<'a> {
    layers: &'a Layers,
    _sources: Vec<Task>,
    said: watch::Receiver<Vec<Said>>,
    wait_until: Instant,
}

impl Following<'_> {
    /// Waits for a change, and takes it up.
    ///
    /// # Cancel safety
    /// Cancel safe: a change that was not taken up is taken up the next time.
    pub(crate) async fn changed(&mut self) {
        if self.said.changed().await.is_err() {
            // All sources have returned: what they said stands.
            return std::future::pending().await;
        }
        let said = self.said.borrow_and_update().clone();
        *self.layers.said() = said;
        self.layers.merge();
    }

    /// Until when to wait for what the sources have to say; `None` if they have said something, or took too long.
    pub(crate) fn waits_until(&self, now: Instant) -> Option<Instant> {
        let is_known = self.layers.said().iter().all(|said| said.is_known);
        (!is_known && now < self.wait_until).then_some(self.wait_until)
    }
}

/// Runs a source; one that panics is begun anew.
async fn run(source: Arc<dyn ConfigSource>, publisher: ConfigPublisher, backoff: Backoff) {
    let watch = || {
        let (source, publisher) = (Arc::clone(&source), publisher.clone());
        async move { source.watch(publisher).await }
    };
    let panicked = || {
        tracing::error!("a source of configuration panicked; it is begun anew after a while");
        publisher.fail(ServiceConfigError::new("the source of the configuration panicked"));
    };
    persist(backoff, watch, panicked).await;
}
