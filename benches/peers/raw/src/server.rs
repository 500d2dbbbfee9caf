//! The server: reads all there is, runs every handler at once, writes all replies in one go.
//!
//! Handlers that wait, and streams, run in tasks of their connection.

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use load::messages::{Echo, User};
use load::{Encoding, compute_20us, sleep_1ms};
use tokio::task::JoinSet;

use crate::codec;
use crate::frame::{self, Body, Frame, FrameReader, Head};
use crate::socket::{Incoming, Listener};
use crate::stream::{self, Credit};
use crate::writer::{Batch, Writer};

/// Serves every connection until the process is killed.
pub(crate) async fn serve(listener: TcpListener, encoding: Encoding) -> Result<()> {
    let listener = Listener::new(listener)?;
    let mut connections = JoinSet::new();
    loop {
        let incoming = listener.accept().await.context("cannot accept")?;
        connections.spawn(async move {
            if let Err(error) = serve_connection(incoming, encoding).await {
                eprintln!("a connection failed: {error:#}");
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(incoming: Incoming, encoding: Encoding) -> Result<()> {
    let (read, write) = incoming.halves().await?;
    let mut reader = FrameReader::new(read);
    let mut connection = Connection {
        writer: Arc::new(Writer::new(write)),
        encoding,
        replies: Batch::default(),
        streams: HashMap::new(),
        ping_pongs: HashSet::new(),
        tasks: JoinSet::new(),
    };
    while reader.fill().await? {
        while let Some(frame) = reader.take_frame()? {
            connection.handle(frame)?;
        }
        if !connection.replies.is_empty() && connection.writer.queue_batch(&mut connection.replies) {
            connection.writer.lead(false).await?;
        }
        while connection.tasks.try_join_next().is_some() {}
    }
    Ok(())
}

struct Connection {
    writer: Arc<Writer>,
    encoding: Encoding,
    replies: Batch,
    streams: HashMap<u32, Arc<Credit>>,
    ping_pongs: HashSet<u32>,
    /// Handlers that wait; they end with the connection.
    tasks: JoinSet<()>,
}

impl Connection {
    fn handle(&mut self, Frame { head, body }: Frame<'_>) -> Result<()> {
        let reply = Head {
            id: head.id,
            kind: frame::REPLY,
        };
        let bytes = match body {
            Body::Small(bytes) | Body::Items(bytes) => bytes,
            Body::Large(_) if head.kind == frame::BLOB => return self.blob(reply, body),
            Body::Large(_) => bail!("a large frame of kind {}", head.kind),
        };
        match head.kind {
            frame::ECHO => {
                let (message,): (Echo,) = codec::get(bytes)?;
                self.reply(reply, &message)
            }
            frame::USER => {
                let (message,): (User,) = codec::get(bytes)?;
                self.reply(reply, &message)
            }
            frame::BLOB => self.blob(reply, Body::Small(bytes)),
            frame::WORK => {
                let (seed,): (u64,) = codec::get(bytes)?;
                self.reply(reply, &compute_20us(seed))
            }
            frame::SLEEP => {
                self.tasks.spawn(sleep_and_reply(Arc::clone(&self.writer), self.encoding, reply));
                Ok(())
            }
            frame::STREAM => {
                let (items,): (u32,) = codec::get(bytes)?;
                self.open_stream(head.id, items);
                Ok(())
            }
            frame::CREDIT => {
                // A stream that is complete needs no more.
                if let Some(credit) = self.streams.get(&head.id) {
                    credit.grant(stream::parse_credit(bytes)?);
                }
                Ok(())
            }
            frame::PING_PONG => {
                self.ping_pongs.insert(head.id);
                Ok(())
            }
            frame::ITEM => self.pong(head, bytes),
            frame::END => {
                self.ping_pongs.remove(&head.id);
                self.replies.frame(
                    Head {
                        id: head.id,
                        kind: frame::END,
                    },
                    |_| Ok(()),
                )
            }
            kind => bail!("no frame is of kind {kind}"),
        }
    }

    fn reply<T: serde::Serialize>(&mut self, head: Head, value: &T) -> Result<()> {
        let encoding = self.encoding;
        self.replies.frame(head, |out| codec::put(encoding, out, value))
    }

    fn blob(&mut self, head: Head, body: Body<'_>) -> Result<()> {
        let blob = codec::get_blob(body, true)?;
        self.replies.frame_with(head, |out| codec::put_blob_head(out, false, blob.len()), &blob)
    }

    fn pong(&mut self, head: Head, run: &[u8]) -> Result<()> {
        anyhow::ensure!(self.ping_pongs.contains(&head.id), "an item of no stream");
        for item in frame::items(run) {
            let message: Echo = codec::get(item)?;
            self.reply(head, &message)?;
        }
        Ok(())
    }

    fn open_stream(&mut self, id: u32, items: u32) {
        let credit = Arc::new(Credit::new());
        self.streams.insert(id, Arc::clone(&credit));
        let (writer, encoding) = (Arc::clone(&self.writer), self.encoding);
        self.tasks.spawn(async move {
            if let Err(error) = send_items(&writer, encoding, &credit, id, items).await {
                eprintln!("a stream failed: {error:#}");
            }
        });
    }
}

async fn sleep_and_reply(writer: Arc<Writer>, encoding: Encoding, head: Head) {
    sleep_1ms().await;
    let queued = writer.queue(|batch| batch.frame(head, |out| codec::put(encoding, out, &())));
    // The timers of one tick fire together: their replies share a write.
    match queued {
        Ok(true) => {
            if let Err(error) = writer.lead(true).await {
                eprintln!("cannot write: {error}");
            }
        }
        Ok(false) => {}
        Err(error) => eprintln!("{error:#}"),
    }
}

/// Sends the items of a stream, as many per write as credit and batch size allow.
async fn send_items(writer: &Writer, encoding: Encoding, credit: &Credit, id: u32, items: u32) -> Result<()> {
    let message = Echo::sample();
    let mut batch = Batch::default();
    let mut left = items;
    loop {
        let size = credit.available().await.min(stream::BATCH);
        while left > 0 && batch.len() < size {
            batch.frame(Head { id, kind: frame::ITEM }, |out| {
                codec::put(encoding, out, &message)
            })?;
            left -= 1;
        }
        credit.spend(batch.len());
        if left == 0 {
            batch.frame(Head { id, kind: frame::END }, |_| anyhow::Ok(()))?;
        }
        if writer.queue_batch(&mut batch) {
            writer.lead(false).await?;
        }
        if left == 0 {
            return Ok(());
        }
    }
}
