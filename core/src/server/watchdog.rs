//! Rescues connections from handlers that block their thread.
//!
//! A handler is polled inside its connection's task. Should it compute or sleep for long without yielding, the watchdog takes the connection away
//! from that task and lets another one drive it; the handler goes on where it is, and its answer is sent when it comes.
//!
//! Only connections that ran handlers lately are looked at, every [`TICK`]; while there are none, the watchdog sleeps.
//!
//! It is a thread, not a task: the worker that a handler blocks may be the one that waits for sockets and timers on behalf of all others, and then no
//! task of the runtime is ever woken. Spawning from outside wakes another worker, which takes that duty over. A handler in a task of its own holds up
//! no connection, but it may block that worker just as well; while one does not return, the watchdog wakes another worker all the same.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};

use super::connection::ServerConnection;
use super::shutdown::Tasks;
use crate::transport::baton::Baton;

/// How often busy connections are looked at. A handler blocks its connection for at most two ticks.
const TICK: Duration = Duration::from_millis(10);

type Watched = Arc<Baton<ServerConnection>>;

#[derive(Default)]
pub(super) struct Watchdog {
    state: Mutex<State>,
    wake: Condvar,
    polls: Polls,
}

#[derive(Default)]
struct State {
    arrivals: Vec<(Watched, Arc<Attention>)>,
    /// Handlers are polled in tasks of their own.
    polls: bool,
    stopped: bool,
}

/// The polls of handlers in tasks of their own.
#[derive(Default)]
struct Polls {
    /// Those under way.
    active: AtomicUsize,
    /// All that ever began.
    begun: AtomicU64,
    /// The watchdog looks at them, or has been asked to.
    seen: AtomicBool,
}

/// A poll under way.
pub(super) struct Polling<'a>(&'a Polls);

impl Drop for Polling<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Release);
    }
}

struct Entry {
    baton: Watched,
    attention: Arc<Attention>,
    handlers: u64,
}

/// Whether the watchdog looks at a connection, as it and the connection's task agree on it.
///
/// The watchdog turns away only from a connection at rest, and the task says that it is at work before its first handler begins: whatever the order in
/// which the two come, a handler never runs unseen.
#[derive(Debug, Default)]
pub(super) struct Attention(AtomicU8);

/// Nobody looks.
const UNSEEN: u8 = 0;
/// The watchdog looks, and may turn away.
const AT_REST: u8 = 1;
/// The watchdog looks, and handlers may run.
const AT_WORK: u8 = 2;

impl Attention {
    /// Handlers are about to run; true if the watchdog has to be asked to look.
    #[must_use]
    pub(super) fn begin(&self) -> bool {
        self.0.swap(AT_WORK, Ordering::AcqRel) == UNSEEN
    }

    /// The handlers have returned.
    pub(super) fn rest(&self) {
        if self.0.load(Ordering::Relaxed) == AT_WORK {
            // The watchdog changes nothing while this says AT_WORK, so nothing is lost in between.
            self.0.store(AT_REST, Ordering::Release);
        }
    }

    /// The watchdog turns away; false if it must not.
    fn turn_away(&self) -> bool {
        self.0.compare_exchange(AT_REST, UNSEEN, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

impl Watchdog {
    /// Looks at a connection until it has been at rest for a tick.
    pub(super) fn watch(&self, baton: &Watched, attention: &Arc<Attention>) {
        let mut state = self.lock();
        if state.stopped {
            return;
        }
        state.arrivals.push((Arc::clone(baton), Arc::clone(attention)));
        drop(state);
        self.wake.notify_one();
    }

    /// A handler is polled in a task of its own, until the returned value is dropped.
    pub(super) fn polling(&self) -> Polling<'_> {
        // Before the look at `seen`, as the watchdog clears that before it looks here: one of the two sees the other.
        self.polls.active.fetch_add(1, Ordering::SeqCst);
        self.polls.begun.fetch_add(1, Ordering::Relaxed);
        if !self.polls.seen.load(Ordering::SeqCst) && !self.polls.seen.swap(true, Ordering::SeqCst) {
            self.lock().polls = true;
            self.wake.notify_one();
        }
        Polling(&self.polls)
    }

    /// Starts the watchdog's thread. A runtime with one thread has nobody else to go on with a connection, so it needs none.
    pub(super) fn start(self: &Arc<Self>, tasks: &Arc<Tasks>) {
        let runtime = Handle::current();
        if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
            self.stop();
            return;
        }
        let (watchdog, tasks) = (Arc::clone(self), Arc::clone(tasks));
        let started = std::thread::Builder::new()
            .name("sinew-watchdog".to_owned())
            .spawn(move || watchdog.run(&runtime, &tasks));
        if let Err(error) = started {
            tracing::warn!(%error, "no thread for the watchdog; a handler that blocks its thread blocks its connection");
            self.stop();
        }
    }

    /// Ends the thread.
    pub(super) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.arrivals.clear();
        drop(state);
        self.wake.notify_one();
    }

    fn run(&self, runtime: &Handle, tasks: &Arc<Tasks>) {
        let mut entries: Vec<Entry> = Vec::new();
        let mut begun = None;
        loop {
            let mut state = self.lock();
            while state.arrivals.is_empty() && entries.is_empty() && begun.is_none() && !state.polls && !state.stopped {
                state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.stopped {
                return;
            }
            if std::mem::take(&mut state.polls) {
                begun = Some(self.polls.begun.load(Ordering::Relaxed));
            }
            entries.extend(state.arrivals.drain(..).map(|(baton, attention)| Entry {
                handlers: baton.handlers(),
                baton,
                attention,
            }));
            let ticked = self.wake.wait_timeout_while(state, TICK, |state| !state.stopped);
            drop(ticked);
            let _within = runtime.enter();
            entries.retain_mut(|entry| entry.look(tasks));
            begun = begun.and_then(|begun| self.look_at_polls(begun, runtime));
        }
    }

    /// Wakes a worker if no poll began since the last look, and one is under way; returns how many have begun, `None` to look no more.
    fn look_at_polls(&self, before: u64, runtime: &Handle) -> Option<u64> {
        let begun = self.polls.begun.load(Ordering::Relaxed);
        if begun != before {
            return Some(begun);
        }
        if self.polls.active.load(Ordering::Acquire) == 0 {
            self.polls.seen.store(false, Ordering::SeqCst);
            if self.polls.active.load(Ordering::SeqCst) == 0 || self.polls.seen.swap(true, Ordering::SeqCst) {
                // Whoever begins, or has just begun, asks again.
                return None;
            }
        }
        // It does nothing; that a worker looks for it is all.
        drop(runtime.spawn(async {}));
        Some(begun)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Rescues the connection if the same handler still runs; tells whether to keep looking.
    fn look(&mut self, tasks: &Arc<Tasks>) -> bool {
        let handlers = self.baton.handlers();
        if handlers != self.handlers {
            self.handlers = handlers;
            return true;
        }
        if let Some(driver) = self.baton.steal() {
            tracing::warn!(connection = ?self.baton, "a handler blocks its thread; the connection goes on without it");
            tasks.spawn(driver);
            return true;
        }
        !self.attention.turn_away()
    }
}

#[cfg(test)]
mod tests {
    use super::Attention;

    #[test]
    fn the_watchdog_turns_away_only_from_rest() {
        let attention = Attention::default();
        attention.rest();
        assert!(attention.begin(), "nobody looked");
        assert!(!attention.turn_away(), "a handler may run");
        attention.rest();
        assert!(!attention.begin(), "the watchdog looks still");
        assert!(
            !attention.turn_away(),
            "the next handler began just before it turned away"
        );
        attention.rest();
        assert!(attention.turn_away());
        assert!(!attention.turn_away());
        assert!(attention.begin(), "it has turned away");
    }
}
