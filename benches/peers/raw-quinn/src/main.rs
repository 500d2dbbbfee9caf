//! `raw-quinn`: one bidirectional stream of a QUIC connection for each request, with the bytes that `raw` sends.

#[path = "../../raw/src/codec.rs"]
mod codec;
mod frame;
mod quic;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use load::messages::{Echo, User};
use load::{Encoding, Peer, Workload, ensure_same};
use tokio::task::JoinSet;

/// One caller's handle on a connection.
struct Caller {
    connection: quinn::Connection,
    encoding: Encoding,
    endpoint: quinn::Endpoint,
}

fn main() -> ExitCode {
    load::run::<Caller>()
}

/// Kinds of requests, in their first byte.
const ECHO: u8 = 0;
const USER: u8 = 1;
const BLOB: u8 = 2;
/// What is read of a stream at most.
const MESSAGE_MAX: usize = 64 * 1024 * 1024;

impl Caller {
    /// Sends a request on a stream of its own and reads the answer.
    async fn exchange(&self, head: &[u8], body: Option<&Bytes>) -> Result<Vec<u8>> {
        let (mut send, mut receive) = self.connection.open_bi().await?;
        send.write_all(head).await?;
        if let Some(body) = body {
            send.write_chunk(body.clone()).await?;
        }
        send.finish()?;
        Ok(receive.read_to_end(MESSAGE_MAX).await?)
    }

    async fn echoed<T>(&self, kind: u8, message: &T, verify: bool) -> Result<()>
    where
        T: serde::Serialize + serde::de::DeserializeOwned + PartialEq,
    {
        let mut request = vec![kind];
        codec::put(self.encoding, &mut request, &(message,))?;
        let reply = self.exchange(&request, None).await?;
        ensure_same(verify, message, &codec::get(&reply)?)
    }
}

impl Peer for Caller {
    type Echo = Echo;
    type User = User;

    fn offers(workload: Workload) -> bool {
        use Workload::{Blob1m, Blob64k, Echo32, Idle, User};
        matches!(workload, Echo32 | User | Blob64k | Blob1m | Idle)
    }

    async fn serve(listener: TcpListener, encoding: Encoding) -> Result<()> {
        let endpoint = quic::server(&listener)?;
        let mut connections = JoinSet::new();
        while let Some(incoming) = endpoint.accept().await {
            connections.spawn(async move {
                if let Err(error) = serve_connection(incoming, encoding).await {
                    eprintln!("a connection failed: {error:#}");
                }
            });
            while connections.try_join_next().is_some() {}
        }
        bail!("the endpoint is closed")
    }

    async fn connect(server: SocketAddr, encoding: Encoding) -> Result<Self> {
        let (endpoint, connection) = quic::connect(server).await?;
        Ok(Self {
            connection,
            encoding,
            endpoint,
        })
    }

    fn another(&self) -> Self {
        Self {
            connection: self.connection.clone(),
            encoding: self.encoding,
            endpoint: self.endpoint.clone(),
        }
    }

    async fn echo(&mut self, message: &Echo, verify: bool) -> Result<()> {
        self.echoed(ECHO, message, verify).await
    }

    async fn user(&mut self, message: &User, verify: bool) -> Result<()> {
        self.echoed(USER, message, verify).await
    }

    async fn blob(&mut self, body: &Bytes, verify: bool) -> Result<()> {
        let mut head = vec![BLOB];
        codec::put_blob_head(&mut head, true, body.len())?;
        let reply = Bytes::from(self.exchange(&head, Some(body)).await?);
        ensure_same(verify, body, &codec::get_blob(frame::Body::Large(reply), false)?)
    }

    async fn work20us(&mut self, _: u64) -> Result<u64> {
        bail!("not offered")
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        bail!("not offered")
    }

    async fn stream(&mut self, _: u32, _: impl FnMut() + Send) -> Result<()> {
        bail!("not offered")
    }

    async fn ping_pong(&mut self, _: &Echo, _: impl FnMut() -> bool + Send) -> Result<()> {
        bail!("not offered")
    }
}

async fn serve_connection(incoming: quinn::Incoming, encoding: Encoding) -> Result<()> {
    let connection = incoming.await?;
    let mut requests = JoinSet::new();
    loop {
        let (send, receive) = match connection.accept_bi().await {
            Ok(halves) => halves,
            Err(quinn::ConnectionError::ApplicationClosed(_) | quinn::ConnectionError::TimedOut) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        requests.spawn(async move {
            if let Err(error) = answer(send, receive, encoding).await {
                eprintln!("a request failed: {error:#}");
            }
        });
        while requests.try_join_next().is_some() {}
    }
}

async fn answer(mut send: quinn::SendStream, mut receive: quinn::RecvStream, encoding: Encoding) -> Result<()> {
    let request = Bytes::from(receive.read_to_end(MESSAGE_MAX).await?);
    let kind = *request.first().context("an empty request")?;
    let arguments = request.slice(1..);
    let mut reply = Vec::new();
    match kind {
        ECHO => {
            let (message,): (Echo,) = codec::get(&arguments)?;
            codec::put(encoding, &mut reply, &message)?;
            send.write_all(&reply).await?;
        }
        USER => {
            let (message,): (User,) = codec::get(&arguments)?;
            codec::put(encoding, &mut reply, &message)?;
            send.write_all(&reply).await?;
        }
        BLOB => {
            let blob = codec::get_blob(frame::Body::Large(arguments), true)?;
            codec::put_blob_head(&mut reply, false, blob.len())?;
            send.write_all(&reply).await?;
            send.write_chunk(blob).await?;
        }
        kind => bail!("no request is of kind {kind}"),
    }
    send.finish()?;
    Ok(())
}
