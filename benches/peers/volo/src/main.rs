//! The `volo` peer: Thrift (TTHeader, framed, binary protocol) over volo's pooled connections. It has no streams.
//!
//! Volo's default client takes a connection out of a pool for each call, so that calls in flight have a socket each:
//! "one connection" means one client here. That is its faster way with one call in flight and with large bodies.

mod messages;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use anyhow::{Result, anyhow, bail};
use bytes::Bytes;
use load::{Encoding, Peer, Workload, compute_20us, ensure_same, sleep_1ms};
use volo::net::incoming::DefaultIncoming;
use volo_thrift::ServerError;

use crate::messages::{Bench, BenchClient, BenchClientBuilder, BenchServer, EchoMessage, UserMessage};

fn main() -> ExitCode {
    load::run::<Caller>()
}

struct Handler;

impl Bench for Handler {
    async fn echo(&self, message: EchoMessage) -> Result<EchoMessage, ServerError> {
        Ok(message)
    }

    async fn user(&self, message: UserMessage) -> Result<UserMessage, ServerError> {
        Ok(message)
    }

    async fn blob(&self, body: Bytes) -> Result<Bytes, ServerError> {
        Ok(body)
    }

    async fn work20us(&self, seed: i64) -> Result<i64, ServerError> {
        Ok(compute_20us(seed.cast_unsigned()).cast_signed())
    }

    async fn sleep1ms(&self) -> Result<(), ServerError> {
        sleep_1ms().await;
        Ok(())
    }
}

#[derive(Clone)]
struct Caller {
    client: BenchClient,
}

impl Peer for Caller {
    type Echo = EchoMessage;
    type User = UserMessage;

    fn offers(workload: Workload) -> bool {
        !matches!(workload, Workload::Stream | Workload::PingPong)
    }

    async fn serve(listener: TcpListener, _: Encoding) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        BenchServer::new(Handler)
            .run(DefaultIncoming::from(listener))
            .await
            .map_err(|error| anyhow!("volo's server failed: {error}"))
    }

    async fn connect(server: SocketAddr, _: Encoding) -> Result<Self> {
        // Volo connects with the first call.
        Ok(Self {
            client: BenchClientBuilder::new("bench").address(server).build(),
        })
    }

    fn another(&self) -> Self {
        self.clone()
    }

    async fn echo(&mut self, message: &EchoMessage, verify: bool) -> Result<()> {
        let reply = self.client.echo(message.clone()).await?;
        ensure_same(verify, message, &reply)
    }

    async fn user(&mut self, message: &UserMessage, verify: bool) -> Result<()> {
        let reply = self.client.user(message.clone()).await?;
        ensure_same(verify, message, &reply)
    }

    async fn blob(&mut self, body: &Bytes, verify: bool) -> Result<()> {
        let reply = self.client.blob(body.clone()).await?;
        ensure_same(verify, body, &reply)
    }

    async fn work20us(&mut self, seed: u64) -> Result<u64> {
        Ok(self.client.work20us(seed.cast_signed()).await?.cast_unsigned())
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        Ok(self.client.sleep1ms().await?)
    }

    async fn stream(&mut self, _: u32, _: impl FnMut() + Send) -> Result<()> {
        bail!("volo-thrift has no streams")
    }

    async fn ping_pong(&mut self, _: &EchoMessage, _: impl FnMut() -> bool + Send) -> Result<()> {
        bail!("volo-thrift has no streams")
    }
}
