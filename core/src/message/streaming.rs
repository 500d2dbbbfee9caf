//! A typed stream of messages, in both directions.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_core::Stream;
use serde::Serialize;
use tokio::sync::mpsc;

use super::batch::{Batch, LargeMessage, MessageStream};
use super::channel::StreamSender;
use super::shape::Wire;
use crate::code::Code;
use crate::metadata::Metadata;
use crate::method::Encoding;
use crate::mux::calls::split_batch;
use crate::status::Status;
use crate::wire::codec;
use crate::wire::error::DecodeError;
use crate::wire::message::LINK_BYTES_MIN;

/// A stream of items, each `Result<T, Status>`; an error is the last item.
///
/// The same type is an argument (the client sends) and a return (the server sends). It implements [`Stream`]; [`next`](Self::next) needs no
/// import. Dropping the stream of a response cancels its call, and the server stops sending. A handler that drops the stream of its request goes on;
/// what the client still sends is thrown away.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::message::Streaming; }
/// use sinew::Streaming;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), sinew_core::status::Status> {
/// let mut numbers = Streaming::iter([1, 2, 3]);
/// let mut sum = 0;
/// while let Some(number) = numbers.next().await {
///     sum += number?;
/// }
/// assert_eq!(sum, 6);
/// # Ok(())
/// # }
/// ```
pub struct Streaming<T> {
    source: Source<T>,
}

enum Source<T> {
    Local(Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>),
    Channel(mpsc::Receiver<Result<T, Status>>),
    Remote(Remote),
    Ended(Metadata),
}

struct Remote {
    stream: Box<dyn MessageStream>,
    batch: Batch,
    at: usize,
    /// The code of an item that cannot be read: it says whose fault that is.
    unreadable: Code,
}

impl<T> Streaming<T> {
    /// The items of any stream.
    pub fn from(stream: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Self {
        Self {
            source: Source::Local(Box::pin(stream)),
        }
    }

    /// The items of an iterator.
    pub fn iter<I>(items: I) -> Self
    where
        I: IntoIterator<Item = T>,
        I::IntoIter: Send + 'static,
    {
        Self {
            source: Source::Local(Box::pin(Items(items.into_iter()))),
        }
    }

    /// A stream without items.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            source: Source::Ended(Metadata::new()),
        }
    }

    /// A stream that is fed by hand; the sender waits while `capacity` items (at least 1) are unread.
    #[must_use]
    pub fn channel(capacity: usize) -> (StreamSender<T>, Self) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        let source = Source::Channel(receiver);
        (StreamSender::new(sender), Self { source })
    }

    /// Items that are decoded from messages.
    ///
    /// One that cannot be read ends the stream with `unreadable`: INVALID_ARGUMENT where a client sent it, INTERNAL where a server did.
    pub(crate) fn remote(stream: Box<dyn MessageStream>, unreadable: Code) -> Self {
        Self {
            source: Source::Remote(Remote {
                stream,
                batch: Batch::default(),
                at: 0,
                unreadable,
            }),
        }
    }

    /// The trailers, once the stream has ended; empty before, and for a stream of this process.
    #[must_use]
    pub fn trailers(&self) -> &Metadata {
        static NONE: Metadata = Metadata::new();
        match &self.source {
            Source::Ended(trailers) => trailers,
            Source::Local(_) | Source::Channel(_) | Source::Remote(_) => &NONE,
        }
    }
}

impl<T: Wire> Streaming<T> {
    /// The next item; `None` when the stream has ended.
    ///
    /// # Cancel safety
    /// Cancel safe: no item is lost.
    pub async fn next(&mut self) -> Option<Result<T, Status>> {
        std::future::poll_fn(|task| self.poll_item(task)).await
    }

    /// All items, however many: for streams whose length is known to be small. Dropping the future drops what has arrived.
    ///
    /// # Errors
    /// The status with which the stream ended; the items before it are dropped.
    pub async fn collect(mut self) -> Result<Vec<T>, Status> {
        let mut items = Vec::new();
        while let Some(item) = self.next().await {
            items.push(item?);
        }
        Ok(items)
    }

    /// The messages of this stream, encoded as they are taken.
    pub(crate) fn into_messages(self, encoding: Encoding) -> Box<dyn MessageStream> {
        match self.source {
            // What came in goes out as it is: a proxy of streams neither decodes nor encodes.
            Source::Remote(remote) if remote.at == 0 && remote.batch.is_empty() => remote.stream,
            source => Box::new(Encoder {
                items: Self { source },
                encoding,
                held: None,
            }),
        }
    }

    fn poll_item(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        let item = match &mut self.source {
            Source::Local(stream) => std::task::ready!(stream.as_mut().poll_next(task)),
            Source::Channel(receiver) => std::task::ready!(receiver.poll_recv(task)),
            Source::Remote(remote) => std::task::ready!(remote.poll_item(task)),
            Source::Ended(_) => None,
        };
        if !matches!(item, Some(Ok(_))) {
            // An error is the last item; dropping the source tells the other side.
            let trailers = match &mut self.source {
                Source::Remote(remote) => remote.stream.take_trailers(),
                Source::Local(_) | Source::Channel(_) | Source::Ended(_) => Metadata::new(),
            };
            self.source = Source::Ended(trailers);
        }
        Poll::Ready(item)
    }
}

impl Remote {
    fn poll_item<T: Wire>(&mut self, task: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        loop {
            if let Some((message, end)) = split_batch(&self.batch.bytes, self.at) {
                let item = codec::decode(message).map_err(|error| wrong_item(self.unreadable, &error));
                self.at = end;
                return Poll::Ready(Some(item));
            }
            if let Some(large) = self.batch.large.take() {
                let payload = large.into_payload();
                let item = codec::decode_payload(&payload).map_err(|error| wrong_item(self.unreadable, &error));
                return Poll::Ready(Some(item));
            }
            self.batch.bytes.clear();
            self.at = 0;
            match std::task::ready!(self.stream.poll_fill(task, &mut self.batch)) {
                Ok(true) => {}
                Ok(false) => return Poll::Ready(None),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
        }
    }
}

fn wrong_item(code: Code, error: &DecodeError) -> Status {
    Status::new(code, format!("an item of the stream has another type: {error}"))
}

impl<T: Wire> Stream for Streaming<T> {
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<Result<T, Status>>> {
        self.get_mut().poll_item(task)
    }
}

// The source is only ever pinned inside its own box.
impl<T> Unpin for Streaming<T> {}

impl<T> fmt::Debug for Streaming<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Local(_) => "local",
            Source::Channel(_) => "channel",
            Source::Remote(_) => "remote",
            Source::Ended(_) => "ended",
        };
        write!(f, "Streaming({source})")
    }
}

struct Items<I>(I);

impl<I> Unpin for Items<I> {}

impl<I: Iterator> Stream for Items<I> {
    type Item = Result<I::Item, Status>;

    fn poll_next(self: Pin<&mut Self>, _task: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.get_mut().0.next().map(Ok))
    }
}

/// Encodes items into batches.
struct Encoder<T> {
    items: Streaming<T>,
    encoding: Encoding,
    /// The end of the stream, met while a batch had messages already.
    held: Option<Result<bool, Status>>,
}

impl<T: Wire> MessageStream for Encoder<T> {
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>> {
        if let Some(end) = self.held.take() {
            return Poll::Ready(end);
        }
        while !batch.is_full() {
            let end = match self.items.poll_item(task) {
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(item))) => match push(batch, item, self.encoding) {
                    Ok(()) => continue,
                    Err(status) => Err(status),
                },
                Poll::Ready(Some(Err(status))) => Err(status),
                Poll::Ready(None) => Ok(false),
            };
            if batch.is_empty() {
                return Poll::Ready(end);
            }
            self.held = Some(end);
            break;
        }
        Poll::Ready(Ok(true))
    }
}

fn push<T: Serialize + 'static>(batch: &mut Batch, item: T, encoding: Encoding) -> Result<(), Status> {
    let failed = |error| Status::internal(format!("an item of the stream cannot be encoded: {error}"));
    let is_large = (&item as &dyn std::any::Any)
        .downcast_ref::<bytes::Bytes>()
        .is_some_and(|bytes| bytes.len() >= LINK_BYTES_MIN);
    if is_large {
        let message = codec::encode_message(item, encoding).map_err(failed)?;
        batch.large = Some(LargeMessage::Encoded(message));
        return Ok(());
    }
    batch.push_with(|out| codec::encode_into(out, &item, encoding)).map_err(failed)
}
