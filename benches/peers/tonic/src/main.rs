//! The `tonic` peer: gRPC over HTTP/2 with prost, as its defaults are, with `TCP_NODELAY` and without limits that the
//! blobs would meet.

mod messages;
mod server;

use std::hint::black_box;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use anyhow::{Context, Result};
use bytes::Bytes;
use load::{Encoding, Peer, ensure_same};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};

use crate::messages::bench_client::BenchClient;
use crate::messages::bench_server::BenchServer;
use crate::messages::{BlobMessage, EchoMessage, Nothing, Number, UserMessage};

fn main() -> ExitCode {
    load::run::<Caller>()
}

#[derive(Clone)]
struct Caller {
    client: BenchClient<Channel>,
}

impl Peer for Caller {
    type Echo = EchoMessage;
    type User = UserMessage;

    async fn serve(listener: TcpListener, _: Encoding) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        Server::builder()
            .add_service(BenchServer::new(server::Handler))
            .serve_with_incoming(incoming)
            .await?;
        Ok(())
    }

    async fn connect(server: SocketAddr, _: Encoding) -> Result<Self> {
        let channel = Endpoint::new(format!("http://{server}"))?.tcp_nodelay(true).connect().await?;
        Ok(Self {
            client: BenchClient::new(channel),
        })
    }

    fn another(&self) -> Self {
        self.clone()
    }

    async fn echo(&mut self, message: &EchoMessage, verify: bool) -> Result<()> {
        let reply = self.client.echo(message.clone()).await?.into_inner();
        ensure_same(verify, message, &reply)
    }

    async fn user(&mut self, message: &UserMessage, verify: bool) -> Result<()> {
        let reply = self.client.user(message.clone()).await?.into_inner();
        ensure_same(verify, message, &reply)
    }

    async fn blob(&mut self, body: &Bytes, verify: bool) -> Result<()> {
        let reply = self.client.blob(BlobMessage { body: body.clone() }).await?.into_inner();
        ensure_same(verify, body, &reply.body)
    }

    async fn work20us(&mut self, seed: u64) -> Result<u64> {
        Ok(self.client.work20us(Number { value: seed }).await?.into_inner().value)
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        self.client.sleep1ms(Nothing {}).await?;
        Ok(())
    }

    async fn stream(&mut self, items: u32, mut each: impl FnMut() + Send) -> Result<()> {
        let mut replies = self.client.stream(Number { value: items.into() }).await?.into_inner();
        while let Some(item) = replies.next().await {
            black_box(item?);
            each();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, message: &EchoMessage, mut each: impl FnMut() -> bool + Send) -> Result<()> {
        let (sender, requests) = mpsc::channel(1);
        let mut replies = self.client.ping_pong(ReceiverStream::new(requests)).await?.into_inner();
        loop {
            sender.send(message.clone()).await.context("the stream ended early")?;
            black_box(replies.next().await.context("the stream ended early")??);
            if !each() {
                return Ok(());
            }
        }
    }
}
