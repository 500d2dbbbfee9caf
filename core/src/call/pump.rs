//! Sends a stream of messages: fills a batch, waits for room, hands it to the connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::message::{Batch, MessageStream};
use crate::metadata::Metadata;
use crate::mux::StreamKey;
use crate::status::Status;
use crate::transport::Connection;
use crate::wire::pool;

/// What follows the last message.
#[derive(Debug)]
#[non_exhaustive]
pub enum PumpEnd {
    /// Client: half close; a failing stream cancels the call.
    HalfClose,
    /// Server: END with these trailers and those of the stream.
    EndCall(Metadata),
}

/// Sends everything a stream yields; resolves when all is handed over, or the call is over.
pub struct Pump {
    connection: Connection,
    key: StreamKey,
    stream: Box<dyn MessageStream>,
    batch: Batch,
    end: Option<PumpEnd>,
    interrupted: bool,
}

impl Pump {
    /// Sends `stream` on `key`.
    #[must_use]
    pub fn new(connection: Connection, key: StreamKey, stream: Box<dyn MessageStream>, end: PumpEnd) -> Self {
        Self {
            connection,
            key,
            stream,
            batch: Batch::default(),
            end: Some(end),
            interrupted: false,
        }
    }

    /// Whether it resolved because the call was over, before the stream's own end.
    #[must_use]
    pub fn is_interrupted(&self) -> bool {
        self.interrupted
    }

    /// The stream has ended, in order or with a status.
    fn finish(&mut self, result: Result<(), Status>) {
        match self.end.take() {
            Some(PumpEnd::HalfClose) => match result {
                Ok(()) => self.connection.send(self.key, Vec::new(), true),
                Err(status) => self.connection.abort_call(self.key, format!("the request's stream failed: {status}")),
            },
            Some(PumpEnd::EndCall(mut trailers)) => {
                trailers.merge(&self.stream.take_trailers());
                match result {
                    Ok(()) => self.connection.finish_call(self.key, None, &trailers),
                    Err(status) => {
                        trailers.merge(status.metadata());
                        self.connection.finish_call(self.key, Some(&status), &trailers);
                    }
                }
            }
            None => {}
        }
    }
}

impl Future for Pump {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        // A source that is always ready must not keep its thread: after this many batches other tasks get their turn.
        for _ in 0..BATCHES_PER_POLL {
            if std::task::ready!(this.connection.poll_send_ready(this.key, task)).is_err() {
                this.interrupted = true;
                return Poll::Ready(());
            }
            if this.batch.bytes.capacity() == 0 {
                this.batch.bytes = pool::take();
            }
            match std::task::ready!(this.stream.poll_fill(task, &mut this.batch)) {
                Ok(true) => {
                    let bytes = std::mem::take(&mut this.batch.bytes);
                    if !bytes.is_empty() {
                        this.connection.send(this.key, bytes, false);
                    }
                    if let Some(large) = this.batch.large.take() {
                        this.connection.send_message(this.key, large.into_encoded());
                    }
                }
                Ok(false) => {
                    this.finish(Ok(()));
                    return Poll::Ready(());
                }
                Err(status) => {
                    this.finish(Err(status));
                    return Poll::Ready(());
                }
            }
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// About 800 KiB, or a few tens of thousands of small messages.
const BATCHES_PER_POLL: usize = 16;

impl fmt::Debug for Pump {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pump").field("key", &self.key).finish_non_exhaustive()
    }
}
