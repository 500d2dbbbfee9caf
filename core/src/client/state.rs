//! Where a channel stands, to be looked at and to be followed.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use tokio::sync::watch;

/// Where a channel stands; the names are gRPC's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ConnectivityState {
    /// Not connected, because nothing was called yet or the connection was given up in order.
    Idle,
    /// The first attempt is under way.
    Connecting,
    /// Connected.
    Ready,
    /// The last attempt failed; the next follows after the backoff. Calls that do not wait for READY fail at once.
    TransientFailure,
    /// Closed by this process.
    Shutdown,
}

/// The states of a channel as they change; states that are passed quickly may be skipped, the newest never is.
pub struct StateChanges {
    waiting: Pin<Box<dyn Future<Output = Option<Step>> + Send>>,
}

type Step = (ConnectivityState, watch::Receiver<ConnectivityState>);

impl StateChanges {
    pub(super) fn new(mut receiver: watch::Receiver<ConnectivityState>) -> Self {
        Self {
            waiting: Box::pin(async move {
                let state = *receiver.borrow_and_update();
                Some((state, receiver))
            }),
        }
    }

    /// The current state at first, then each new one; `None` when the channel is gone.
    ///
    /// # Cancel safety
    /// Cancel safe: no state is lost.
    pub async fn next(&mut self) -> Option<ConnectivityState> {
        std::future::poll_fn(|task| self.poll_state(task)).await
    }

    fn poll_state(&mut self, task: &mut Context<'_>) -> Poll<Option<ConnectivityState>> {
        let Some((state, mut receiver)) = std::task::ready!(self.waiting.as_mut().poll(task)) else {
            self.waiting = Box::pin(std::future::ready(None));
            return Poll::Ready(None);
        };
        self.waiting = Box::pin(async move {
            loop {
                receiver.changed().await.ok()?;
                let new = *receiver.borrow_and_update();
                // The watch also tells of things that leave the state as it is.
                if new != state {
                    return Some((new, receiver));
                }
            }
        });
        Poll::Ready(Some(state))
    }
}

impl Stream for StateChanges {
    type Item = ConnectivityState;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<ConnectivityState>> {
        self.get_mut().poll_state(task)
    }
}

impl std::fmt::Debug for StateChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StateChanges")
    }
}
