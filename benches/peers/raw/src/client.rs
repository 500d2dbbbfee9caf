//! The client: callers that share a connection, and the task that reads their replies.

use std::future::poll_fn;
use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use load::messages::{Echo, User};
use load::{Encoding, Peer, ensure_same};
use tokio::task::AbortHandle;

use crate::codec;
use crate::frame::{self, FrameReader, Head};
use crate::server;
use crate::slot::{Answer, Slot};
use crate::socket;
use crate::stream::Consumed;
use crate::writer::{Batch, Writer};

/// One caller's handle on a connection, with a slot of its own for replies.
pub(crate) struct Caller {
    connection: Arc<Connection>,
    id: u32,
    slot: Arc<Slot>,
    answer: Answer,
}

/// What the callers of a connection share. Dropping the last handle stops its reader.
struct Connection {
    link: Arc<Link>,
    encoding: Encoding,
    reader: AbortHandle,
}

/// What the callers share with the reader.
struct Link {
    writer: Writer,
    slots: Mutex<Vec<Arc<Slot>>>,
    in_flight: AtomicUsize,
}

impl Caller {
    fn new(connection: Arc<Connection>) -> Self {
        let slot = Arc::new(Slot::default());
        let mut slots = connection.link.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let id = slots.len() as u32;
        slots.push(Arc::clone(&slot));
        drop(slots);
        Self {
            connection,
            id,
            slot,
            answer: Answer::default(),
        }
    }

    /// Sends a request and waits for its answer.
    async fn call(&mut self, kind: u8, put: impl FnOnce(&mut Batch, Head) -> Result<()>) -> Result<()> {
        // A caller counts until it runs again, not until its reply is there: of many that are woken together, the
        // first must not take itself for the only one.
        let others = self.connection.link.in_flight.fetch_add(1, Ordering::Relaxed) > 0;
        self.send(kind, others, put).await?;
        self.answered().await?;
        self.connection.link.in_flight.fetch_sub(1, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a frame: at once from here if nobody else is about to, or else together with theirs.
    async fn send(&self, kind: u8, gather: bool, put: impl FnOnce(&mut Batch, Head) -> Result<()>) -> Result<()> {
        let writer = &self.connection.link.writer;
        let head = Head { id: self.id, kind };
        if writer.queue(|batch| put(batch, head))? {
            writer.lead(gather).await.context("cannot write")?;
        }
        Ok(())
    }

    async fn answered(&mut self) -> Result<()> {
        poll_fn(|cx| self.slot.poll(cx, &mut self.answer)).await
    }

    /// Sends `message` and waits for a message of the same type, in the connection's encoding.
    async fn exchange<T>(&mut self, kind: u8, message: &T, verify: bool) -> Result<()>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let encoding = self.connection.encoding;
        self.call(kind, |batch, head| {
            batch.frame(head, |out| codec::put(encoding, out, &(message,)))
        })
        .await?;
        ensure_same(verify, message, &codec::get(self.answer.bytes())?)
    }
}

impl Peer for Caller {
    type Echo = Echo;
    type User = User;

    async fn serve(listener: TcpListener, encoding: Encoding) -> Result<()> {
        server::serve(listener, encoding).await
    }

    async fn connect(server: SocketAddr, encoding: Encoding) -> Result<Self> {
        let (read, write) = socket::connect(server).await?;
        let link = Arc::new(Link {
            writer: Writer::new(write),
            slots: Mutex::default(),
            in_flight: AtomicUsize::new(0),
        });
        let reader = tokio::spawn(receive(FrameReader::new(read), Arc::clone(&link))).abort_handle();
        Ok(Self::new(Arc::new(Connection { link, encoding, reader })))
    }

    fn another(&self) -> Self {
        Self::new(Arc::clone(&self.connection))
    }

    async fn echo(&mut self, message: &Echo, verify: bool) -> Result<()> {
        self.exchange(frame::ECHO, message, verify).await
    }

    async fn user(&mut self, message: &User, verify: bool) -> Result<()> {
        self.exchange(frame::USER, message, verify).await
    }

    async fn blob(&mut self, body: &Bytes, verify: bool) -> Result<()> {
        let head = |out: &mut Vec<u8>| codec::put_blob_head(out, true, body.len());
        self.call(frame::BLOB, |batch, id| batch.frame_with(id, head, body)).await?;
        let reply = codec::get_blob(self.answer.body(), false)?;
        self.answer.release();
        ensure_same(verify, body, &reply)
    }

    async fn work20us(&mut self, seed: u64) -> Result<u64> {
        let encoding = self.connection.encoding;
        self.call(frame::WORK, |batch, head| {
            batch.frame(head, |out| codec::put(encoding, out, &(seed,)))
        })
        .await?;
        codec::get(self.answer.bytes())
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        let encoding = self.connection.encoding;
        let no_arguments: [u8; 0] = [];
        self.call(frame::SLEEP, |batch, head| {
            batch.frame(head, |out| codec::put(encoding, out, &no_arguments))
        })
        .await?;
        codec::get(self.answer.bytes())
    }

    async fn stream(&mut self, items: u32, mut each: impl FnMut() + Send) -> Result<()> {
        let encoding = self.connection.encoding;
        self.send(frame::STREAM, false, |batch, head| {
            batch.frame(head, |out| codec::put(encoding, out, &(items,)))
        })
        .await?;
        let mut consumed = Consumed::default();
        loop {
            self.answered().await?;
            for item in frame::items(self.answer.bytes()) {
                black_box(codec::get::<Echo>(item)?);
                each();
            }
            if self.answer.ended {
                return Ok(());
            }
            if let Some(credit) = consumed.add(self.answer.bytes().len()) {
                let put = |out: &mut Vec<u8>| {
                    out.extend_from_slice(&credit.to_le_bytes());
                    anyhow::Ok(())
                };
                self.send(frame::CREDIT, false, |batch, head| batch.frame(head, put)).await?;
            }
        }
    }

    async fn ping_pong(&mut self, message: &Echo, mut each: impl FnMut() -> bool + Send) -> Result<()> {
        let encoding = self.connection.encoding;
        let open = |out: &mut Vec<u8>| {
            let no_arguments: [u8; 0] = [];
            codec::put(encoding, out, &no_arguments)
        };
        self.send(frame::PING_PONG, false, |batch, head| batch.frame(head, open)).await?;
        loop {
            let put = |out: &mut Vec<u8>| codec::put(encoding, out, message);
            self.send(frame::ITEM, false, |batch, head| batch.frame(head, put)).await?;
            self.answered().await?;
            let Some(item) = frame::items(self.answer.bytes()).next() else {
                bail!("the stream ended early")
            };
            black_box(codec::get::<Echo>(item)?);
            if !each() {
                break;
            }
        }
        self.send(frame::END, false, |batch, head| batch.frame(head, |_| anyhow::Ok(()))).await?;
        self.answered().await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads until the connection ends, and then ends every call with the cause.
async fn receive(mut reader: FrameReader, link: Arc<Link>) {
    let cause = match deliver_all(&mut reader, &link).await {
        Ok(()) => "the server closed the connection".to_owned(),
        Err(error) => format!("cannot read: {error:#}"),
    };
    for slot in link.slots.lock().unwrap_or_else(PoisonError::into_inner).iter() {
        slot.fail(&cause);
    }
}

async fn deliver_all(reader: &mut FrameReader, link: &Link) -> Result<()> {
    let mut slots: Vec<Arc<Slot>> = Vec::new();
    let mut wakers = Vec::new();
    while reader.fill().await? {
        while let Some(frame) = reader.take_frame()? {
            let id = frame.head.id;
            if slots.get(id as usize).is_none() {
                slots.clone_from(&link.slots.lock().unwrap_or_else(PoisonError::into_inner));
            }
            let slot = slots.get(id as usize).context("an answer to nobody")?;
            wakers.extend(slot.deliver(frame.head, frame.body));
        }
        wakers.drain(..).for_each(|waker: std::task::Waker| waker.wake());
    }
    Ok(())
}
