//! A stream that is fed by hand: `Streaming::channel`.

use tokio::sync::mpsc;

use crate::status::Status;

/// Feeds a [`Streaming`](super::Streaming); dropping it ends the stream in order.
#[derive(Debug)]
pub struct StreamSender<T> {
    sender: mpsc::Sender<Result<T, Status>>,
}

impl<T> Clone for StreamSender<T> {
    fn clone(&self) -> Self {
        Self {
            sender: self.sender.clone(),
        }
    }
}

/// The stream is no longer read; the item comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stream is no longer read")]
pub struct SendError<T>(pub T);

impl<T> StreamSender<T> {
    pub(super) fn new(sender: mpsc::Sender<Result<T, Status>>) -> Self {
        Self { sender }
    }

    /// Sends one item; waits while the stream is full, so a slow reader slows the sender. That it returns means that the stream has the item, not that the
    /// other side does.
    ///
    /// # Errors
    /// [`SendError`] gives the item back when the other side is gone.
    ///
    /// # Cancel safety
    /// Dropping the future before completion sends nothing.
    pub async fn send(&self, item: T) -> Result<(), SendError<T>> {
        match self.sender.reserve().await {
            Ok(permit) => {
                permit.send(Ok(item));
                Ok(())
            }
            Err(_) => Err(SendError(item)),
        }
    }

    /// Ends the stream with an error, behind the items that were sent.
    ///
    /// # Cancel safety
    /// Not cancel safe: dropped before completion, the stream ends in order, without the error.
    pub async fn fail(self, error: impl Into<Status>) {
        // Nobody reads it any more: then nobody needs the error.
        let _unread = self.sender.send(Err(error.into())).await;
    }

    /// Whether the other side is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Resolves when the other side is gone.
    pub async fn closed(&self) {
        self.sender.closed().await;
    }
}
