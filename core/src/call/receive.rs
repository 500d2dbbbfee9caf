//! The messages of a peer, batch by batch.

use std::fmt;
use std::task::{Context, Poll};

use super::failure::stream_status;
use super::idle::Idle;
use crate::message::{Batch, LargeMessage, MessageStream};
use crate::metadata::Metadata;
use crate::mux::{Chunk, StreamKey};
use crate::status::Status;
use crate::transport::Connection;
use crate::wire::message::LINK_BYTES_MIN;

/// What happens when the receiver is dropped, or the peer's half has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReceiveEnd {
    /// Client: the call is over; the stream is released, and cancelled if it still runs.
    ReleaseCall,
    /// Server: the rest of the client's stream is dropped as it comes.
    StopReading,
}

/// Receives the messages of one half of a stream.
pub struct Receive {
    connection: Connection,
    key: StreamKey,
    end: ReceiveEnd,
    trailers: Metadata,
    ended: bool,
    idle: Option<Idle>,
}

impl Receive {
    /// Receives from `key`.
    #[must_use]
    pub fn new(connection: Connection, key: StreamKey, end: ReceiveEnd) -> Self {
        Self {
            connection,
            key,
            end,
            trailers: Metadata::new(),
            ended: false,
            idle: None,
        }
    }

    /// Client: ends the stream when the user waits too long for an item.
    #[must_use]
    pub fn with_idle(mut self, idle: Option<Idle>) -> Self {
        self.idle = idle;
        self
    }

    fn finish(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            match self.end {
                ReceiveEnd::ReleaseCall => self.connection.release_call(self.key),
                ReceiveEnd::StopReading => self.connection.stop_reading(self.key),
            }
        }
    }
}

impl MessageStream for Receive {
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>> {
        if self.ended {
            return Poll::Ready(Ok(false));
        }
        let polled = self.connection.poll_chunk(self.key, task);
        if let Some(idle) = &mut self.idle {
            if polled.is_ready() {
                idle.moved();
            } else if idle.poll_waiting(task).is_ready() {
                let status = idle.received_nothing();
                self.finish();
                return Poll::Ready(Err(status));
            }
        }
        match std::task::ready!(polled) {
            Ok(Some(chunk)) => {
                add(batch, chunk);
                Poll::Ready(Ok(true))
            }
            Ok(None) => {
                let (status, trailers) = match self.end {
                    ReceiveEnd::ReleaseCall => self.connection.take_status(self.key),
                    ReceiveEnd::StopReading => (None, Metadata::new()),
                };
                self.finish();
                Poll::Ready(match status {
                    Some(status) => Err(status.with_metadata(trailers)),
                    None => {
                        self.trailers = trailers;
                        Ok(false)
                    }
                })
            }
            Err(error) => {
                self.finish();
                Poll::Ready(Err(match &self.idle {
                    Some(idle) => idle.status_of(error),
                    None => stream_status(error),
                }))
            }
        }
    }

    fn take_trailers(&mut self) -> Metadata {
        std::mem::take(&mut self.trailers)
    }
}

fn add(batch: &mut Batch, chunk: Chunk) {
    match chunk {
        Chunk::Batch(bytes) if batch.bytes.is_empty() => {
            let old = std::mem::replace(&mut batch.bytes, bytes);
            crate::wire::pool::give(old);
        }
        Chunk::Batch(bytes) => batch.bytes.extend_from_slice(&bytes),
        Chunk::One(payload) if payload.len() >= LINK_BYTES_MIN => {
            batch.large = Some(LargeMessage::Received(payload));
        }
        Chunk::One(payload) => {
            let len = u32::try_from(payload.len()).unwrap_or(u32::MAX);
            batch.bytes.extend_from_slice(&len.to_be_bytes());
            batch.bytes.extend_from_slice(&payload);
        }
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        self.finish();
    }
}

impl fmt::Debug for Receive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receive").field("key", &self.key).finish_non_exhaustive()
    }
}
