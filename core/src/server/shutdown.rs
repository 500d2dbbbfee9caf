//! A running server, and how it comes to an end: lame duck, GOAWAY, drain, hard stop; every step is bounded.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle};

use super::Shared;
use super::accept;
use super::connection::Accepted;
use super::error::ServerError;
use super::registration::{Registration, RegistrationConfig};
use crate::discovery::supervised::Task;
use crate::health::Health;
use crate::mux::config::{ConfigError, check_duration};
use crate::time::{self, DurationError, IntoDuration};
use crate::transport::Address;
use crate::transport::io::ByteStream;

/// How a server comes to an end, by [`Serving::shutdown`] or a signal: a lame-duck time of 5 s, and 30 s until what still runs is ended, which takes up to
/// 2 s more. A wrong setting is reported when the server starts. A server whose handle is dropped just stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    lame_duck: Duration,
    bound: Duration,
    wrong: Option<(&'static str, DurationError)>,
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            lame_duck: Duration::from_secs(5),
            bound: Duration::from_secs(30),
            wrong: None,
        }
    }
}

impl Drain {
    /// Sets the time in which the server still takes everything (default 5 s, at most the time of [`within`](Self::within)): for clients to make their
    /// calls elsewhere. Those of several endpoints hear of it at its start, by the health that they watch or their registry; all others are told to leave after it. Zero is
    /// right where nobody balances load, and in tests.
    #[must_use]
    pub fn lame_duck(mut self, time: impl IntoDuration) -> Self {
        match time.into_duration() {
            Ok(time) => self.lame_duck = time,
            Err(error) => self.wrong = self.wrong.or(Some(("drain.lame_duck", error))),
        }
        self
    }

    /// Sets the time after which what still runs is ended with UNAVAILABLE, lame duck included (default 30 s, more than 0, at most 365 days).
    #[must_use]
    pub fn within(mut self, time: impl IntoDuration) -> Self {
        match time.into_duration() {
            Ok(time) => self.bound = time,
            Err(error) => self.wrong = self.wrong.or(Some(("drain.within", error))),
        }
        self
    }

    pub(super) fn check(&self) -> Result<(), ServerError> {
        if let Some((field, source)) = self.wrong.clone() {
            return Err(ServerError::Duration { field, source });
        }
        check_duration("drain.within", self.bound)?;
        if self.lame_duck > self.bound {
            let value = format_args!("{:?}", self.lame_duck);
            return Err(ConfigError::new("drain.lame_duck", value, "at most the time of drain.within").into());
        }
        Ok(())
    }
}

/// The tasks of a server: spawned here, counted here, ended here.
#[derive(Default)]
pub(super) struct Tasks {
    running: AtomicUsize,
    none_left: Notify,
}

/// Counts a task for as long as it lives.
struct Counted(Arc<Tasks>);

impl Drop for Counted {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Tasks {
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let counted = self.count();
        tokio::spawn(async move {
            let _counted = counted;
            task.await;
        })
        .abort_handle()
    }

    /// Runs the task on a thread of the pool for blocking work.
    pub(super) fn spawn_blocking(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) -> StopHandle {
        let counted = self.count();
        let runtime = tokio::runtime::Handle::current();
        let (stop, stopped) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _counted = counted;
            runtime.block_on(async move {
                tokio::select! {
                    // The task is dropped when the other side comes first, and a signal is for it alone, so nothing is lost.
                    biased;
                    _ = stopped => {}
                    () = task => {}
                }
            });
        });
        StopHandle::Thread(stop)
    }

    fn count(self: &Arc<Self>) -> Counted {
        self.running.fetch_add(1, Ordering::AcqRel);
        Counted(Arc::clone(self))
    }

    /// Resolves when no task is left.
    pub(super) async fn wait(&self) {
        loop {
            let notified = self.none_left.notified();
            if self.running.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }
}

/// Ends the task of a handler before its time.
pub(super) enum StopHandle {
    /// A task of the runtime.
    Task(AbortHandle),
    /// A thread that waits for the task. The runtime cannot abort what it has begun there, so the task itself waits for this as well. Only when
    /// the handler yields: one that computes or sleeps goes on until it does.
    Thread(oneshot::Sender<()>),
}

impl StopHandle {
    pub(super) fn stop(self) {
        match self {
            Self::Task(task) => task.abort(),
            // An error means that it has ended by itself.
            Self::Thread(stop) => {
                let _ended = stop.send(());
            }
        }
    }
}

/// The connections of a server.
#[derive(Default)]
pub(super) struct Connections {
    table: Mutex<Table>,
    next: AtomicU64,
    gone: Notify,
}

#[derive(Default)]
struct Table {
    accepted: HashMap<u64, Accepted>,
    /// Further streams of theirs.
    streams: HashMap<u64, Accepted>,
    phase: Phase,
}

/// What becomes of a connection that comes now. Under the table's lock, so that none slips in between a step of the shutdown and its visit to all.
#[derive(Clone, Copy, Default)]
enum Phase {
    /// It is served.
    #[default]
    Open,
    /// It is told to leave at once, and served until then.
    Draining,
    /// It is dropped.
    Stopped,
}

/// Why a connection was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotTaken {
    /// As many are there as may be.
    Full,
    /// The server has stopped.
    Stopped,
}

impl Table {
    fn all(&self) -> impl Iterator<Item = &Accepted> {
        self.accepted.values().chain(self.streams.values())
    }

    /// What the server's end means for one that comes now.
    fn begin(&self, accepted: &Accepted) -> Result<(), NotTaken> {
        match self.phase {
            Phase::Open => {}
            Phase::Draining => accepted.start_drain(),
            Phase::Stopped => return Err(NotTaken::Stopped),
        }
        Ok(())
    }
}

impl Connections {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().accepted.len()
    }

    /// Takes a connection in, if the server has not stopped and has not `max` of them already.
    pub(super) fn insert(&self, accepted: Accepted, max: usize) -> Result<u64, NotTaken> {
        let mut table = self.lock();
        // Several listeners accept at once, so this is where the limit holds.
        if table.accepted.len() >= max {
            return Err(NotTaken::Full);
        }
        table.begin(&accepted)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        table.accepted.insert(id, accepted);
        Ok(id)
    }

    /// Takes a further stream of a connection in, if the server has not stopped.
    pub(super) fn insert_stream(&self, accepted: Accepted) -> Result<u64, NotTaken> {
        let mut table = self.lock();
        table.begin(&accepted)?;
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        table.streams.insert(id, accepted);
        Ok(id)
    }

    pub(super) fn remove(&self, id: u64) {
        let mut table = self.lock();
        let gone = (table.accepted.remove(&id), table.streams.remove(&id));
        drop(table);
        drop(gone);
        self.gone.notify_waiters();
    }

    /// Tells one client to leave.
    pub(super) fn start_drain_of(&self, id: u64) {
        self.lock().accepted.get(&id).into_iter().for_each(Accepted::start_drain);
    }

    /// Ends one connection now.
    pub(super) fn stop_one(&self, id: u64) {
        self.lock().accepted.get(&id).into_iter().for_each(Accepted::stop);
    }

    fn start_drain(&self) {
        let mut table = self.lock();
        table.phase = Phase::Draining;
        table.all().for_each(Accepted::start_drain);
    }

    fn stop(&self) {
        let mut table = self.lock();
        table.phase = Phase::Stopped;
        table.all().for_each(Accepted::stop);
    }

    async fn wait_for_none(&self) {
        loop {
            let gone = self.gone.notified();
            if self.lock().all().next().is_none() {
                return;
            }
            gone.await;
        }
    }
}

/// A server that runs. Dropping it stops the server at once.
#[must_use = "dropping it stops the server: keep it, or await `.wait()` or `.shutdown()`"]
pub struct Serving {
    pub(super) shared: Arc<Shared>,
    pub(super) connections: Arc<Connections>,
    pub(super) addresses: Vec<Address>,
    pub(super) drain: Drain,
    /// Set to true when the listeners are to close.
    pub(super) closing: watch::Sender<bool>,
    pub(super) listeners: Vec<JoinHandle<()>>,
    pub(super) signals: bool,
    pub(super) registration: Option<Registration>,
    /// What follows the configuration of its services.
    pub(super) _followed: Vec<Task>,
}

impl Serving {
    /// Where the server listens: with the ports that the system chose, in the order of `bind`.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// The first address as a target for a client; empty if the server listens nowhere.
    #[must_use]
    pub fn target(&self) -> String {
        self.addresses.first().map(ToString::to_string).unwrap_or_default()
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// How many handlers run in tasks.
    #[must_use]
    pub fn running_handlers(&self) -> usize {
        self.shared.running.load(Ordering::Relaxed)
    }

    /// What the server says of its health.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.shared.health.said
    }

    /// How many handlers panicked so far.
    #[must_use]
    pub fn panics(&self) -> usize {
        self.shared.panics.load(Ordering::Relaxed)
    }

    /// Registers the server, at the ports that the system chose.
    pub(super) fn register(&mut self, config: RegistrationConfig) -> Result<(), ServerError> {
        self.registration = config.start(self.shared.router.names(), &self.addresses)?;
        Ok(())
    }

    /// Serves a byte stream that was accepted elsewhere.
    pub fn accept(&self, stream: ByteStream) {
        accept::serve(&self.shared, &self.connections, stream);
    }

    /// Runs until a signal, if [`shutdown_on_signals`](super::ServerBuilder::shutdown_on_signals) was set, else for ever. A second signal ends
    /// everything at once.
    ///
    /// # Errors
    /// [`ServerError::Signals`] if the signals cannot be listened to.
    pub async fn wait(self) -> Result<(), ServerError> {
        if self.signals {
            signal().await.map_err(ServerError::Signals)?;
            tokio::select! {
                // Dropping the shutdown stops the server, and dropping the wait for a signal loses none that matters.
                () = self.shutdown() => {}
                _second = signal() => tracing::warn!("a second signal: the server ends at once"),
            }
        } else {
            std::future::pending::<()>().await;
        }
        Ok(())
    }

    /// Ends the server in order: it goes on for the lame-duck time, then closes its listeners, tells clients to leave, waits for running calls, and at the
    /// bound ends what is left with UNAVAILABLE. That is the time of [`Drain::within`], and up to 2 s more.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropping the future stops the server at once.
    pub async fn shutdown(mut self) {
        let bound = time::now() + self.drain.bound;
        tracing::info!(connections = self.connections(), "shutting down");
        if let Some(registration) = &self.registration {
            registration.drain();
        }
        self.shared.health.set_draining();
        tokio::time::sleep(self.drain.lame_duck).await;
        if let Some(registration) = self.registration.take() {
            registration.withdraw().await;
        }
        self.closing.send_replace(true);
        for mut listener in self.listeners.drain(..) {
            // Closed before clients are told to leave: those that come back at once must be refused, not be left in a backlog. However it ended, its
            // address is free then for the next server.
            if tokio::time::timeout_at(bound.into(), &mut listener).await.is_err() {
                listener.abort();
                // It yields after every connection that it takes, so it is about to end.
                let _aborted = tokio::time::timeout(STOP_TIMEOUT, listener).await;
            }
        }
        // Clients that are through their half of it may have sent calls already; those that only hold a place hold up nobody for long.
        let grace = bound.min(time::now() + HANDSHAKE_GRACE);
        let _bounded = tokio::time::timeout_at(grace.into(), self.shared.handshakes.wait()).await;
        // Before the calls that run are told: those that come later look here.
        self.shared.draining.store(true, Ordering::Release);
        self.connections.start_drain();
        let drained = tokio::time::timeout_at(bound.into(), self.connections.wait_for_none()).await;
        if drained.is_err() {
            tracing::warn!(
                connections = self.connections(),
                "the drain's time is up; the rest is ended"
            );
        }
        self.stop();
        // Handlers that do not yield cannot be waited for; everything else ends at once.
        let all = async {
            self.shared.handshakes.wait().await;
            self.shared.tasks.wait().await;
        };
        let _bounded = tokio::time::timeout(STOP_TIMEOUT, all).await;
    }

    fn stop(&self) {
        self.closing.send_replace(true);
        self.connections.stop();
        for listener in &self.listeners {
            listener.abort();
        }
        self.shared.handshakes.stop();
        self.shared.watchdog.stop();
    }
}

/// Time that handshakes under way have to end when the server does.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);
/// Time that aborted tasks have to end.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving")
            .field("addresses", &self.addresses)
            .field("connections", &self.connections())
            .finish_non_exhaustive()
    }
}

#[cfg(unix)]
async fn signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        // Both are cancel safe: a signal that is not received here is received by the other listeners of the process.
        interrupted = tokio::signal::ctrl_c() => interrupted,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
