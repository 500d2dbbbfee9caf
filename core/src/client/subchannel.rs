//! The connection to one target: made when needed, made again when lost.
//!
//! One task connects and watches. A connection is handed to calls as soon as the transport is there, so that the first calls leave in its
//! first flight; READY, and with it the reset of the backoff, waits for the peer's HELLO. After a failure the state stays
//! TRANSIENT_FAILURE until READY, so that calls which do not wait fail instead of hanging in ever new attempts.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use super::health::{self, HealthCheck, Standing};
use super::on_demand::{IsRunning, OnDemand};
use super::state::ConnectivityState;
use crate::discovery::supervised::Task;
use crate::mux::{MuxConfig, Role};
use crate::policy::backoff::Backoff;
use crate::status::{HandlerRan, Origin, Status};
use crate::time;
use crate::transport::acceptor::NoCalls;
use crate::transport::connect::{Dialler, connect_any};
use crate::transport::connection::Lifecycle;
use crate::transport::driver;
use crate::transport::error::WithCauses;
use crate::transport::io::ByteStream;
use crate::transport::{ConnectError, Connection};
use crate::wire::frame::ErrorCode;

/// Makes byte streams to the target; the default dials the address.
pub trait Connector: Send + Sync + 'static {
    /// One attempt; it is dropped when the channel's connect time-out is up.
    ///
    /// # Errors
    /// Why there is no stream; the channel tries again after its backoff.
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send + '_>>;
}

/// A connection that lived as long proves that the server is well.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// How long an attempt for which there is new hope waits, at most; at random.
const HURRY: Duration = Duration::from_secs(1);

/// Dials the addresses of an endpoint, one or several.
#[derive(Debug)]
pub(super) struct Dial {
    pub(super) diallers: Vec<Dialler>,
    pub(super) timeout: Duration,
}

impl Connector for Dial {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send + '_>> {
        Box::pin(connect_any(&self.diallers, self.timeout))
    }
}

pub(super) struct Subchannel {
    shared: Arc<Shared>,
    task: OnDemand,
}

struct Shared {
    target: String,
    connector: Box<dyn Connector>,
    config: MuxConfig,
    backoff: Backoff,
    connect_timeout: Duration,
    current: ArcSwapOption<Connection>,
    state: watch::Sender<ConnectivityState>,
    last_failure: Mutex<Option<Status>>,
    /// The drivers of connections that left use: calls still run on those that leave in order, whatever becomes of the connections after them, and the
    /// others have a last frame to send. Each ends with the last of its calls, or a moment after its connection.
    leaving: Mutex<Vec<Leaving>>,
    on_change: Option<Arc<Notify>>,
    /// Whoever waits before the next attempt need not.
    hurry: Notify,
    /// How often that was said: an attempt that began before may fail after it.
    hints: AtomicU64,
    is_extra: bool,
    health: HealthCheck,
    standing: Mutex<Standing>,
    running: IsRunning,
}

/// A connection that left use.
struct Leaving {
    task: Task,
    /// If calls may run on further streams of it; else nothing of it is kept when its task has ended.
    connection: Option<Connection>,
}

impl Leaving {
    fn new(task: Task, connection: Connection) -> Self {
        Self {
            task,
            connection: connection.is_needed_by_siblings().then_some(connection),
        }
    }

    fn is_over(&self) -> bool {
        self.task.is_finished() && !self.connection.as_ref().is_some_and(Connection::has_busy_siblings)
    }
}

pub(super) struct SubchannelConfig {
    pub(super) target: String,
    pub(super) connector: Box<dyn Connector>,
    pub(super) mux: MuxConfig,
    pub(super) backoff: Backoff,
    pub(super) connect_timeout: Duration,
    pub(super) health: HealthCheck,
    /// Calls can do without it: it is not connected again by itself.
    pub(super) is_extra: bool,
    /// Told of every change of state.
    pub(super) on_change: Option<Arc<Notify>>,
}

impl Subchannel {
    pub(super) fn new(config: SubchannelConfig) -> Self {
        let task = OnDemand::default();
        Self {
            shared: Arc::new(Shared {
                target: config.target,
                connector: config.connector,
                config: config.mux,
                backoff: config.backoff,
                connect_timeout: config.connect_timeout,
                current: ArcSwapOption::empty(),
                state: watch::Sender::new(ConnectivityState::Idle),
                last_failure: Mutex::new(None),
                leaving: Mutex::new(Vec::new()),
                standing: Mutex::new(Standing::at_first(&config.health)),
                health: config.health,
                running: task.is_running(),
                on_change: config.on_change,
                hurry: Notify::new(),
                hints: AtomicU64::new(0),
                is_extra: config.is_extra,
            }),
            task,
        }
    }

    pub(super) fn target(&self) -> &str {
        &self.shared.target
    }

    pub(super) fn state(&self) -> watch::Receiver<ConnectivityState> {
        self.shared.state.subscribe()
    }

    pub(super) fn state_now(&self) -> ConnectivityState {
        *self.shared.state.borrow()
    }

    /// How the endpoint stands by what it said on its connection.
    pub(super) fn standing(&self) -> Standing {
        *self.shared.standing()
    }

    /// There is reason to believe that connecting works now: who waits before the next attempt waits no more.
    pub(super) fn reset_backoff(&self) {
        self.shared.hints.fetch_add(1, Ordering::Relaxed);
        self.shared.hurry.notify_waiters();
    }

    /// Stops connecting, if no call can be on a connection of its.
    pub(super) fn rest(&self) {
        if matches!(
            self.state_now(),
            ConnectivityState::Connecting | ConnectivityState::TransientFailure
        ) && self.shared.current.load().is_none()
        {
            self.task.stop();
        }
    }

    /// The connection for the next call, if there is one.
    pub(super) fn current(&self) -> arc_swap::Guard<Option<Arc<Connection>>> {
        self.shared.current.load()
    }

    /// Why there is no connection, if the last attempt failed.
    pub(super) fn last_failure(&self) -> Option<Status> {
        let failing = *self.shared.state.borrow() == ConnectivityState::TransientFailure;
        failing.then(|| self.shared.failure())
    }

    /// Takes a connection that accepts no calls out of use.
    pub(super) fn retire(&self, connection: &Connection) {
        self.shared.retire(connection);
    }

    /// A connection for a call; waits for one to be made.
    ///
    /// # Errors
    /// UNAVAILABLE with the cause if connecting fails and `wait_for_ready` is off, or the channel is closed.
    ///
    /// # Cancel safety
    /// Cancel safe; connecting goes on for others.
    pub(super) async fn acquire(&self, wait_for_ready: bool) -> Result<Arc<Connection>, Status> {
        let mut state = self.shared.state.subscribe();
        loop {
            let now = *state.borrow_and_update();
            if let Some(connection) = &*self.shared.current.load() {
                return Ok(Arc::clone(connection));
            }
            match now {
                ConnectivityState::Shutdown => return Err(closed()),
                ConnectivityState::TransientFailure if !wait_for_ready => return Err(self.shared.failure()),
                _ => self.start()?,
            }
            if state.changed().await.is_err() {
                return Err(closed());
            }
        }
    }

    /// Connects and waits for READY, for the connect time-out at most.
    ///
    /// # Errors
    /// UNAVAILABLE with the cause of the last failure.
    pub(super) async fn connect(&self) -> Result<(), Status> {
        let mut state = self.shared.state.subscribe();
        self.start()?;
        let ready = async {
            loop {
                match *state.borrow_and_update() {
                    ConnectivityState::Ready => return Ok(()),
                    ConnectivityState::Shutdown => return Err(closed()),
                    // The task ended with its runtime, or because nothing was called: this one starts the next.
                    ConnectivityState::Idle => self.start()?,
                    ConnectivityState::Connecting | ConnectivityState::TransientFailure => {}
                }
                if state.changed().await.is_err() {
                    return Err(closed());
                }
            }
        };
        match tokio::time::timeout(self.shared.connect_timeout, ready).await {
            Ok(result) => result,
            Err(_) => Err(self.shared.not_ready_in_time()),
        }
    }

    /// Starts the connecting task unless it runs.
    pub(super) fn start(&self) -> Result<(), Status> {
        let check = || unless_closed(self.shared.is_shut_down());
        self.task.start(check, || run(Running(Arc::clone(&self.shared))))
    }

    /// Closes the connection for good.
    pub(super) fn shut_down(&self) {
        self.shared.state.send_replace(ConnectivityState::Shutdown);
        if let Some(connection) = self.shared.current.swap(None) {
            connection.close(ErrorCode::None, "the channel was closed");
        }
        self.task.stop();
        self.shared.stop_leaving();
    }
}

impl Drop for Subchannel {
    fn drop(&mut self) {
        self.shut_down();
    }
}

/// Tidies up when the task ends, also when its runtime goes down: the next call starts a new task on its own runtime.
struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.current.store(None);
        self.0.running.store(false, Ordering::Release);
        // Also if it was IDLE still: whoever waits for a connection has to start the next task.
        self.0.state.send_modify(|state| {
            if *state != ConnectivityState::Shutdown {
                *state = ConnectivityState::Idle;
            }
        });
        self.0.tell();
        if self.0.is_shut_down() {
            // It may have put one there after the shutdown looked.
            self.0.stop_leaving();
        }
    }
}

async fn run(running: Running) {
    let shared = &running.0;
    let mut failures = 0_u32;
    // Connections in a row that ended soon after they were made.
    let mut short_lived = 0_u32;
    loop {
        if *shared.state.borrow() != ConnectivityState::TransientFailure {
            shared.set_state(ConnectivityState::Connecting);
        }
        shared.let_go();
        let hints = shared.hints.load(Ordering::Relaxed);
        let attempt = tokio::time::timeout(shared.connect_timeout, shared.connector.connect());
        match attempt.await.unwrap_or_else(|_| Err(shared.timed_out())) {
            Ok(stream) => {
                let (connection, driver) = driver::start(stream, Role::Client, shared.config.clone(), NoCalls);
                let task = Task::new(tokio::spawn(driver));
                let began = time::now();
                let watched = shared.watch(&connection, &mut failures).await;
                let lived = time::now().saturating_duration_since(began);
                shared.keep_leaving(Leaving::new(task, connection));
                match watched {
                    // A server that calls a connection idle that it has just greeted is going round in circles.
                    Watched::Idle if lived >= STABLE_AFTER => {
                        shared.set_state(ConnectivityState::Idle);
                        return;
                    }
                    Watched::Idle => shared.set_state(ConnectivityState::Connecting),
                    Watched::Gone => {}
                }
                short_lived = if lived < STABLE_AFTER {
                    short_lived.saturating_add(1)
                } else {
                    0
                };
            }
            Err(error) => shared.note_failure(&error),
        }
        if shared.is_shut_down() {
            // Whoever closed it meant to stop this task, which cannot be while it has nothing to wait for.
            return;
        }
        if shared.is_extra {
            // Whoever misses it begins anew, and not at once.
            tokio::time::sleep(STABLE_AFTER).await;
            return;
        }
        if failures > 0 || *shared.state.borrow() == ConnectivityState::TransientFailure {
            let delay = shared.backoff.delay(failures, fastrand::f64());
            failures = failures.saturating_add(1);
            if shared.is_hurried_within(delay, hints).await {
                failures = 0;
            }
        } else if short_lived > 1 {
            // READY alone is no proof of health: a server that greets everybody and hangs up must not be called again and again. Once may be
            // an accident.
            shared.is_hurried_within(shared.backoff.delay(short_lived - 2, fastrand::f64()), hints).await;
        }
    }
}

/// How a connection left use.
enum Watched {
    /// It broke, or the server asked for it.
    Gone,
    /// It was closed because nothing was called.
    Idle,
}

impl Shared {
    /// Waits before the next attempt; whether that was cut short, also by what was said since there were so many hints.
    async fn is_hurried_within(&self, delay: Duration, hints: u64) -> bool {
        let until = tokio::time::Instant::now() + delay;
        let mut hurried = pin!(self.hurry.notified());
        // From here on it is heard.
        hurried.as_mut().enable();
        let is_hurried = async {
            if self.hints.load(Ordering::Relaxed) == hints {
                hurried.await;
            }
        };
        // Both are cancel safe.
        tokio::select! {
            () = tokio::time::sleep_until(until) => false,
            () = is_hurried => {
                // Others were told at the same moment.
                tokio::time::sleep_until(until.min(tokio::time::Instant::now() + HURRY.mul_f64(fastrand::f64()))).await;
                true
            }
        }
    }

    /// Hands the connection to calls and waits until it leaves use.
    async fn watch(&self, connection: &Connection, failures: &mut u32) -> Watched {
        self.current.store(Some(Arc::new(connection.clone())));
        // Calls wait for a connection, not for READY.
        self.state.send_modify(|_| {});
        let mut lifecycle = connection.lifecycle();
        self.stands(Standing::at_first(&self.health));
        let mut health = pin!(health::follow(
            connection.clone(),
            &self.health,
            self.connect_timeout,
            |standing| {
                self.stands(standing);
            }
        ));
        loop {
            let now = lifecycle.borrow_and_update().clone();
            match now {
                Lifecycle::Connecting => {}
                Lifecycle::Ready => {
                    *failures = 0;
                    self.let_go();
                    self.set_state(ConnectivityState::Ready);
                }
                Lifecycle::GoingAway => {
                    self.retire(connection);
                    self.set_state(ConnectivityState::Connecting);
                    return Watched::Gone;
                }
                Lifecycle::Closed(end) => {
                    self.retire(connection);
                    if end.code() == ErrorCode::Idle {
                        return Watched::Idle;
                    }
                    if connection.has_busy_siblings() {
                        // They live without it.
                        self.set_state(ConnectivityState::Connecting);
                        return Watched::Gone;
                    }
                    if end.code() == ErrorCode::Refused && end.is_by_peer() {
                        // What was sent before the handshake was not taken up. The server is well, and the next connection waits for its handshake.
                        self.set_state(ConnectivityState::Connecting);
                        return Watched::Gone;
                    }
                    // The connection knows, not the state: READY and the end may have come at once, and only the last was seen here.
                    if connection.was_ready() {
                        *failures = 0;
                        tracing::debug!(target = %self.target, cause = %end, "connection lost");
                        self.set_state(ConnectivityState::Connecting);
                    } else {
                        self.note_failure(&end);
                    }
                    return Watched::Gone;
                }
            }
            // Both are cancel safe: one is kept, and a state can be looked at again.
            let changed = tokio::select! {
                biased;
                changed = lifecycle.changed() => changed,
                () = &mut health => continue,
            };
            if changed.is_err() {
                self.retire(connection);
                return Watched::Gone;
            }
        }
    }

    fn standing(&self) -> MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stands(&self, new: Standing) {
        let before = std::mem::replace(&mut *self.standing(), new);
        if before != new {
            match (new.complaint(), before.complaint()) {
                (Some(why), _) => tracing::warn!(endpoint = %self.target, why, "an endpoint takes no calls"),
                (None, Some(_)) if new == Standing::Serves => {
                    tracing::info!(endpoint = %self.target, "an endpoint takes calls again");
                }
                (None, _) => {
                    tracing::debug!(endpoint = %self.target, health = %new.health(), "an endpoint told its health");
                }
            }
            self.tell();
        }
    }

    fn keep_leaving(&self, one: Leaving) {
        self.leaving().push(one);
    }

    /// Forgets connections that are over.
    fn let_go(&self) {
        self.leaving().retain(|one| !one.is_over());
    }

    fn stop_leaving(&self) {
        let leaving = std::mem::take(&mut *self.leaving());
        drop(leaving);
    }

    fn leaving(&self) -> MutexGuard<'_, Vec<Leaving>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_shut_down(&self) -> bool {
        *self.state.borrow() == ConnectivityState::Shutdown
    }

    fn retire(&self, connection: &Connection) {
        let current = self.current.load();
        if let Some(now) = &*current
            && now.is_same(connection)
        {
            self.current.compare_and_swap(&current, None);
        }
    }

    fn note_failure(&self, error: &(dyn std::error::Error + 'static)) {
        let message = format!("cannot reach {}: {}", self.target, WithCauses(error));
        tracing::debug!(target = %self.target, message, "connecting failed");
        *self.failure_slot() = Some(unreachable(message));
        self.set_state(ConnectivityState::TransientFailure);
    }

    fn timed_out(&self) -> ConnectError {
        ConnectError::TimedOut {
            address: self.target.clone(),
            after: self.connect_timeout,
        }
    }

    /// Why there is no READY within the connect time-out.
    fn not_ready_in_time(&self) -> Status {
        if self.current.load().is_some() {
            let within = self.connect_timeout;
            return unreachable(format!(
                "{} accepted the connection but did not answer within {within:?}",
                self.target
            ));
        }
        let failed = self.failure_slot().clone();
        failed.unwrap_or_else(|| unreachable(self.timed_out().to_string()))
    }

    fn failure(&self) -> Status {
        self.failure_slot().clone().unwrap_or_else(|| unreachable(format!("cannot reach {}", self.target)))
    }

    fn failure_slot(&self) -> MutexGuard<'_, Option<Status>> {
        self.last_failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, new: ConnectivityState) {
        let is_new = self.state.send_if_modified(|state| {
            if *state == new || *state == ConnectivityState::Shutdown {
                return false;
            }
            *state = new;
            true
        });
        if is_new {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some(on_change) = &self.on_change {
            on_change.notify_one();
        }
    }
}

pub(super) fn unreachable(message: String) -> Status {
    Status::unavailable(message).with_origin(Origin::Transport).with_handler_ran(HandlerRan::No)
}

/// # Errors
/// That the channel was closed, if so.
pub(super) fn unless_closed(is_shut_down: bool) -> Result<(), Status> {
    if is_shut_down { Err(closed()) } else { Ok(()) }
}

pub(super) fn closed() -> Status {
    Status::unavailable("the channel was closed").with_handler_ran(HandlerRan::No)
}
