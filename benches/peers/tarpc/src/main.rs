//! The `tarpc` peer, with its MessagePack codec over TCP. It has no streams.

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::StreamExt;
use load::messages::{Echo, User};
use load::{Encoding, Peer, Workload, compute_20us, ensure_same, sleep_1ms};
use tarpc::context::{self, Context};
use tarpc::server::{BaseChannel, Channel};
use tarpc::{client, serde_transport};
use tokio_serde::formats::MessagePack;

fn main() -> ExitCode {
    load::run::<Caller>()
}

/// The service, as a user of tarpc declares it.
#[tarpc::service]
trait Bench {
    async fn echo(message: Echo) -> Echo;
    async fn user(message: User) -> User;
    async fn blob(body: Bytes) -> Bytes;
    async fn work20us(seed: u64) -> u64;
    async fn sleep1ms();
}

#[derive(Clone)]
struct Handler;

impl Bench for Handler {
    async fn echo(self, _: Context, message: Echo) -> Echo {
        message
    }

    async fn user(self, _: Context, message: User) -> User {
        message
    }

    async fn blob(self, _: Context, body: Bytes) -> Bytes {
        body
    }

    async fn work20us(self, _: Context, seed: u64) -> u64 {
        compute_20us(seed)
    }

    async fn sleep1ms(self, _: Context) {
        sleep_1ms().await;
    }
}

#[derive(Clone)]
struct Caller {
    client: BenchClient,
}

impl Peer for Caller {
    type Echo = Echo;
    type User = User;

    fn offers(workload: Workload) -> bool {
        !matches!(workload, Workload::Stream | Workload::PingPong)
    }

    async fn serve(listener: TcpListener, _: Encoding) -> Result<()> {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let mut incoming = serde_transport::tcp::listen_on(listener, MessagePack::default).await?;
        while let Some(transport) = incoming.next().await {
            let transport = transport?;
            transport.get_ref().set_nodelay(true)?;
            let channel = BaseChannel::with_defaults(transport);
            tokio::spawn(channel.execute(Handler.serve()).for_each(|call| async {
                tokio::spawn(call);
            }));
        }
        Ok(())
    }

    async fn connect(server: SocketAddr, _: Encoding) -> Result<Self> {
        let transport = serde_transport::tcp::connect(server, MessagePack::default).await?;
        transport.get_ref().set_nodelay(true)?;
        Ok(Self {
            client: BenchClient::new(client::Config::default(), transport).spawn(),
        })
    }

    fn another(&self) -> Self {
        self.clone()
    }

    async fn echo(&mut self, message: &Echo, verify: bool) -> Result<()> {
        let reply = self.client.echo(context::current(), message.clone()).await?;
        ensure_same(verify, message, &reply)
    }

    async fn user(&mut self, message: &User, verify: bool) -> Result<()> {
        let reply = self.client.user(context::current(), message.clone()).await?;
        ensure_same(verify, message, &reply)
    }

    async fn blob(&mut self, body: &Bytes, verify: bool) -> Result<()> {
        let reply = self.client.blob(context::current(), body.clone()).await?;
        ensure_same(verify, body, &reply)
    }

    async fn work20us(&mut self, seed: u64) -> Result<u64> {
        Ok(self.client.work20us(context::current(), seed).await?)
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        Ok(self.client.sleep1ms(context::current()).await?)
    }

    async fn stream(&mut self, _: u32, _: impl FnMut() + Send) -> Result<()> {
        bail!("tarpc has no streams")
    }

    async fn ping_pong(&mut self, _: &Echo, _: impl FnMut() -> bool + Send) -> Result<()> {
        bail!("tarpc has no streams")
    }
}
