//! `raw` over a hundred connections, each call by one of them at random: what a client of a hundred endpoints costs at least.

mod client;
mod codec;
mod frame;
mod pool;
mod server;
mod slot;
mod socket;
mod stream;
mod writer;

use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;

use anyhow::{Result, bail};
use bytes::Bytes;
use load::messages::{Echo, User};
use load::{Encoding, Peer, Workload};

const CONNECTIONS: usize = 100;

/// One caller's handles, one on each connection.
struct Caller {
    handles: Vec<client::Caller>,
    random: u64,
}

impl Caller {
    /// Any of them (xorshift).
    fn any(&mut self) -> &mut client::Caller {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let index = (self.random >> 33) as usize % self.handles.len();
        &mut self.handles[index]
    }
}

impl Peer for Caller {
    type Echo = Echo;
    type User = User;

    fn offers(workload: Workload) -> bool {
        matches!(workload, Workload::Echo32 | Workload::User)
    }

    async fn serve(listener: TcpListener, encoding: Encoding) -> Result<()> {
        client::Caller::serve(listener, encoding).await
    }

    async fn connect(server: SocketAddr, encoding: Encoding) -> Result<Self> {
        let mut handles = Vec::new();
        for _ in 0..CONNECTIONS {
            handles.push(client::Caller::connect(server, encoding).await?);
        }
        Ok(Self {
            handles,
            random: 0x9e37_79b9_7f4a_7c15,
        })
    }

    fn another(&self) -> Self {
        let handles: Vec<client::Caller> = self.handles.iter().map(client::Caller::another).collect();
        // Each caller draws in an order of its own: its handles lie elsewhere.
        let random = (handles.as_ptr() as usize as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Self { handles, random }
    }

    async fn echo(&mut self, message: &Echo, verify: bool) -> Result<()> {
        self.any().echo(message, verify).await
    }

    async fn user(&mut self, message: &User, verify: bool) -> Result<()> {
        self.any().user(message, verify).await
    }

    async fn blob(&mut self, _body: &Bytes, _verify: bool) -> Result<()> {
        bail!(NOT_OFFERED)
    }

    async fn work20us(&mut self, _seed: u64) -> Result<u64> {
        bail!(NOT_OFFERED)
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        bail!(NOT_OFFERED)
    }

    async fn stream(&mut self, _items: u32, _each: impl FnMut() + Send) -> Result<()> {
        bail!(NOT_OFFERED)
    }

    async fn ping_pong(&mut self, _message: &Echo, _each: impl FnMut() -> bool + Send) -> Result<()> {
        bail!(NOT_OFFERED)
    }
}

const NOT_OFFERED: &str = "only echo32 and user are measured over a hundred connections";

fn main() -> ExitCode {
    load::run::<Caller>()
}
