//! Sends a stream of messages: fills a batch, waits for room, hands it to the connection.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use super::idle::Idle;
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
    idle: Option<Idle>,
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
            idle: None,
        }
    }

    /// Client: gives the call up when nothing is sent for too long.
    #[must_use]
    pub fn with_idle(mut self, idle: Option<Idle>) -> Self {
        self.idle = idle;
        self
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
                        let status = status.into_answer();
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
        let (mut moved, mut by_source) = (false, false);
        let polled = this.advance(task, (&mut moved, &mut by_source));
        if polled.is_pending()
            && let Some(idle) = &mut this.idle
        {
            if moved {
                idle.moved();
            }
            if idle.poll_waiting(task).is_ready() {
                this.connection.abort_call(this.key, idle.sent_nothing(by_source));
                this.interrupted = true;
                return Poll::Ready(());
            }
        }
        polled
    }
}

impl Pump {
    /// Sends what can be sent now; tells by `moved` whether that was anything, and whether it is the source that it waits `for_source`, and not the peer.
    fn advance(&mut self, task: &mut Context<'_>, (moved, for_source): (&mut bool, &mut bool)) -> Poll<()> {
        // A source that is always ready must not keep its thread: after this many batches other tasks get their turn.
        for _ in 0..BATCHES_PER_POLL {
            *for_source = false;
            if std::task::ready!(self.connection.poll_send_ready(self.key, task)).is_err() {
                self.interrupted = true;
                return Poll::Ready(());
            }
            if self.batch.bytes.capacity() == 0 {
                self.batch.bytes = pool::take();
            }
            *for_source = true;
            match std::task::ready!(self.stream.poll_fill(task, &mut self.batch)) {
                Ok(true) => {
                    *moved = true;
                    let bytes = std::mem::take(&mut self.batch.bytes);
                    if !bytes.is_empty() {
                        self.connection.send(self.key, bytes, false);
                    }
                    if let Some(large) = self.batch.large.take() {
                        self.connection.send_message(self.key, large.into_encoded());
                    }
                }
                Ok(false) => {
                    self.finish(Ok(()));
                    return Poll::Ready(());
                }
                Err(status) => {
                    self.finish(Err(status));
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
