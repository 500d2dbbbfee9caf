//! Tasks that end with their owner, and are begun anew where they panic.

use tokio::task::{JoinError, JoinHandle};

use crate::policy::backoff::Backoff;

/// A task that is stopped with its owner.
pub(crate) struct Task(JoinHandle<()>);

impl Task {
    pub(crate) fn new(handle: JoinHandle<()>) -> Self {
        Self(handle)
    }

    /// Waits for its end; an error is a panic.
    pub(crate) async fn join(&mut self) -> Result<(), JoinError> {
        (&mut self.0).await
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Runs what `work` makes until it returns; when it panics, `panicked` is told, and after a while it is made anew.
pub(crate) async fn persist<F: Future<Output = ()> + Send + 'static>(
    backoff: Backoff,
    work: impl Fn() -> F,
    panicked: impl Fn(),
) {
    let mut failures = 0;
    loop {
        let mut task = Task::new(tokio::spawn(work()));
        if task.join().await.is_ok() {
            return;
        }
        panicked();
        // Full jitter is for many clients of one server; here it must be a while.
        tokio::time::sleep(backoff.ceiling(failures)).await;
        failures = failures.saturating_add(1);
    }
}
