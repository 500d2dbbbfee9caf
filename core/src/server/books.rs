//! The calls of a connection whose handlers run in tasks, or wait for their turn to: entered, given up, spawned.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::Shared;
use super::admission::Turn;
use super::dispatch::{HandlerTask, Job};
use super::limits::Held;
use super::load::Reports;
use super::shutdown::StopHandle;
use super::slots::ready_slot;
use crate::context::{CancelCause, Cx};
use crate::message::Outcome;
use crate::method::Execution;
use crate::mux::StreamKey;
use crate::transport::Connection;

/// The calls of a connection whose handlers run in tasks.
#[derive(Default)]
pub(super) struct CallTable {
    calls: Mutex<HashMap<StreamKey, Running>>,
    pub(super) reports: Reports,
}

/// The calls of a connection whose handlers run in tasks.
pub(super) type Calls = Arc<CallTable>;

pub(super) struct Running {
    pub(super) cx: Cx,
    /// `None` until the task is spawned.
    pub(super) stop: Option<StopHandle>,
    /// It counts at limits of concurrency.
    pub(super) held: Held,
}

impl CallTable {
    pub(super) fn lock(&self) -> MutexGuard<'_, HashMap<StreamKey, Running>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the tasks of a connection's calls share.
#[derive(Clone)]
pub(super) struct Books {
    pub(super) shared: Arc<Shared>,
    pub(super) calls: Calls,
}

impl Books {
    /// The connection is over, and with it its calls.
    pub(super) fn cancel_all(&self, connection: &Connection) {
        let keys: Vec<StreamKey> = self.calls.lock().keys().copied().collect();
        for key in keys {
            cancel(connection, &self.calls, key, CancelCause::ClientGone);
        }
    }

    /// A call's handler runs on in a task, or beside one.
    pub(super) fn enter(&self, key: StreamKey, cx: Cx, held: Held) {
        self.calls.lock().insert(
            key,
            Running {
                cx: cx.clone(),
                stop: None,
                held,
            },
        );
        // A drain that began since the call did found it neither here nor at its beginning.
        tell_of_drain(&self.shared, &cx);
    }
}

/// Marks the context of a call that begins while the server is shutting down.
pub(super) fn tell_of_drain(shared: &Shared, cx: &Cx) {
    if shared.draining.load(Ordering::Acquire) {
        cx.set_draining();
    }
}

/// Ends a call whose client does not wait for it any more. Its handler is dropped; until that has happened it counts as running.
pub(super) fn cancel(connection: &Connection, calls: &Calls, key: StreamKey, cause: CancelCause) {
    let mut booked = calls.lock();
    let Some(running) = booked.remove(&key) else { return };
    // Before its task can see that it is off the books, because that gives the place free again.
    connection.hold();
    drop(booked);
    running.cx.cancel(cause);
    if let Some(stop) = running.stop {
        running.held.give_up();
        stop.stop();
    }
}

/// Runs a handler in a task of its own.
pub(super) fn spawn(connection: &Connection, books: &Books, job: Job, measured: bool) {
    let key = job.key;
    let shared = &books.shared;
    let route = job.route.and_then(|at| shared.router.route(at));
    let blocking = route.is_some_and(|route| route.spec.runs() == Execution::Blocking);
    if !job.booked {
        let cx = job.cx.clone().unwrap_or_default();
        books.enter(key, cx, job.held.clone());
    }
    let task = HandlerTask::new(job, connection.clone(), books, measured, !blocking);
    let stop = if blocking {
        shared.tasks.spawn_blocking(task)
    } else {
        StopHandle::Task(shared.tasks.spawn(task))
    };
    match books.calls.lock().get_mut(&key) {
        Some(running) => running.stop = Some(stop),
        // It has ended, or its client gave it up before there was anything to stop.
        None => stop.stop(),
    }
}

/// Lets a call wait for its turn, in a task that its handler's follows.
pub(super) fn spawn_waiting(connection: &Connection, books: &Books, mut job: Job, turn: Turn) {
    let key = job.key;
    books.enter(key, job.cx.clone().unwrap_or_default(), job.held.clone());
    job.booked = true;
    let stop = StopHandle::Task(books.shared.tasks.spawn(WaitingCall {
        turn,
        job: Some(job),
        connection: connection.clone(),
        books: books.clone(),
    }));
    match books.calls.lock().get_mut(&key) {
        // Its handler may run already: then that is what there is to stop.
        Some(running) => drop(running.stop.get_or_insert(stop)),
        None => stop.stop(),
    }
}

/// A call that waits for its turn; its handler has not begun.
struct WaitingCall {
    turn: Turn,
    /// `None` when its turn has come.
    job: Option<Job>,
    connection: Connection,
    books: Books,
}

impl Future for WaitingCall {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let turn = std::task::ready!(Pin::new(&mut this.turn).poll(task));
        match (turn, &this.job) {
            (Ok(admitted), _) => {
                if let Some(mut job) = this.job.take() {
                    job.admitted = Some(Box::new(admitted));
                    spawn(&this.connection, &this.books, job, false);
                }
            }
            (Err(status), Some(job)) => {
                job.held.give_back();
                this.books.shared.load.count(1, 1);
                this.books.shared.load.rejections.note(job.route, &status);
                this.connection.finish_call(job.key, Some(&status), status.metadata());
            }
            (Err(_), None) => {}
        }
        Poll::Ready(())
    }
}

impl Drop for WaitingCall {
    fn drop(&mut self) {
        let Some(mut job) = self.job.take() else { return };
        job.clear();
        if self.books.calls.lock().remove(&job.key).is_none() {
            // The call was over before: it was counted as one that runs on.
            self.connection.release();
        }
    }
}

/// Answers from a task, with an outcome that is there already.
pub(super) fn ready_job(connection: &Connection, books: &Books, mut job: Job, outcome: Outcome) {
    job.clear();
    job.slot = ready_slot(job.cx.clone().unwrap_or_default(), outcome);
    spawn(connection, books, job, true);
}
