//! Tasks of a channel: started when they are needed, on the runtime of whoever needs them, and stopped with their owner.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;

use crate::discovery::supervised::{Task, persist};
use crate::discovery::{Publisher, ResolveError, Resolver};
use crate::policy::backoff::Backoff;
use crate::status::{HandlerRan, Status};

/// Runs the resolver; one that panics is begun anew.
pub(super) async fn resolve(resolver: Arc<dyn Resolver>, publisher: Publisher, backoff: Backoff) {
    let watch = || {
        let (resolver, publisher) = (Arc::clone(&resolver), publisher.clone());
        async move { resolver.watch(publisher).await }
    };
    let panicked = || {
        tracing::error!("the resolver panicked; it is begun anew after a while");
        publisher.fail(ResolveError::new("the resolver panicked"));
    };
    persist(backoff, watch, panicked).await;
    // The last list stands, as long as there is somebody to read it.
    publisher.closed().await;
}

/// Whether a task runs. Its handle knows only later that it ended, when those who wait have been told already; so the task clears this itself.
pub(super) type IsRunning = Arc<AtomicBool>;

/// A task that runs when it is needed.
#[derive(Default)]
pub(super) struct OnDemand {
    task: Mutex<Option<Task>>,
    is_running: IsRunning,
}

impl OnDemand {
    /// For the task, to clear at its end.
    pub(super) fn is_running(&self) -> IsRunning {
        Arc::clone(&self.is_running)
    }

    /// Starts `task` unless it runs. `check` is asked under the lock that [`stop`](Self::stop) takes, which comes after the state says so.
    ///
    /// # Errors
    /// That of `check`; INTERNAL outside a runtime.
    pub(super) fn start<F: Future<Output = ()> + Send + 'static>(
        &self,
        check: impl FnOnce() -> Result<(), Status>,
        task: impl FnOnce() -> F,
    ) -> Result<(), Status> {
        let mut slot = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        check()?;
        if self.is_running.load(Ordering::Acquire) {
            return Ok(());
        }
        let runtime = Handle::try_current().map_err(|_| {
            Status::internal("calls need a tokio runtime; await them inside one").with_handler_ran(HandlerRan::No)
        })?;
        self.is_running.store(true, Ordering::Release);
        *slot = Some(Task::new(runtime.spawn(task())));
        Ok(())
    }

    /// Stops the task; it can be started again.
    pub(super) fn stop(&self) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(task);
    }
}
