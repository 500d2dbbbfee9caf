//! How a connection gets away from a handler that blocks its thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use super::acceptor::Acceptor;
use super::connection::Connection;
use super::driver::{Core, Driver};

/// Where the core of a connection lies while a handler runs.
pub struct Baton<A: Acceptor> {
    pub(super) context: A::Context,
    /// With the number of the handler for whose time it lies there: the task of an earlier one may come back after another took its place.
    core: Mutex<Option<(u64, Box<Core<A>>)>>,
    pub(super) connection: Connection,
    /// Counts handlers, so that a watchdog can tell whether the same one still runs.
    handlers: AtomicU64,
}

impl<A: Acceptor> Baton<A> {
    pub(super) fn new(context: A::Context, connection: Connection) -> Self {
        Self {
            context,
            core: Mutex::new(None),
            connection,
            handlers: AtomicU64::new(0),
        }
    }

    /// How many handlers began so far.
    #[must_use]
    pub fn handlers(&self) -> u64 {
        self.handlers.load(Ordering::Relaxed)
    }

    /// Takes the connection away from a task whose handler does not return; to be spawned. `None` if no handler runs now.
    #[must_use]
    pub fn steal(self: &Arc<Self>) -> Option<Driver<A>> {
        // While the task holds the lock it is between two handlers; whoever looks for blocked ones must not wait for it.
        let mut lying = match self.core.try_lock() {
            Ok(lying) => lying,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let (_, mut core) = lying.take()?;
        // Under the lock: the handler may return at any moment, and must find its call in the books.
        core.acceptor.taken_over();
        // The timer would wake the task that is stuck.
        core.timer = None;
        self.connection.lock().timer_at = None;
        drop(lying);
        Some(Driver {
            core: Some(core),
            baton: Arc::clone(self),
        })
    }

    /// The number of the handler that begins. One task at a time drives the connection, so nothing is lost between the two.
    pub(super) fn count_handler(&self) -> u64 {
        let number = self.handlers.load(Ordering::Relaxed).wrapping_add(1);
        self.handlers.store(number, Ordering::Relaxed);
        number
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Option<(u64, Box<Core<A>>)>> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<A: Acceptor> std::fmt::Debug for Baton<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Baton").field("connection", &self.connection).finish_non_exhaustive()
    }
}
