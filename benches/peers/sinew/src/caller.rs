//! One caller of sinew and its server, over each transport, in compact or named encoding.
//!
//! Client and server declare the contract each in the form that suits it: the client's arguments borrow, because it sends the same value again and
//! again; the server's are owned, because it gives them back. Both are the same on the wire.

use std::future::Future;
use std::marker::PhantomData;
use std::net::{SocketAddr, TcpListener};

use anyhow::Result;
use bytes::Bytes;
use load::messages::{Echo, User};
use load::{Encoding, Peer, compute_20us, ensure_same, sleep_1ms};
use sinew::{Server, ServerBuilder, Status, Streaming};

/// The service in one encoding.
macro_rules! contract {
    ($module:ident, $encoding:tt) => {
        mod $module {
            use super::*;

            /// What the server implements.
            #[sinew::service(name = "Bench", encoding = $encoding)]
            pub trait Bench {
                async fn echo(&self, message: Echo) -> Echo;
                async fn user(&self, message: User) -> User;
                async fn blob(&self, body: Bytes) -> Bytes;
                async fn work20us(&self, seed: u64) -> u64;
                async fn sleep1ms(&self);
                async fn stream(&self, items: u32) -> Result<Streaming<Echo>, Status>;
                async fn ping_pong(&self, messages: Streaming<Echo>) -> Result<Streaming<Echo>, Status>;
            }

            /// What the client calls: the same, with arguments that borrow.
            #[sinew::service(name = "Bench", encoding = $encoding)]
            pub trait Borrowing {
                async fn echo(&self, message: &Echo) -> Echo;
                async fn user(&self, message: &User) -> User;
                async fn blob(&self, body: Bytes) -> Bytes;
                async fn work20us(&self, seed: u64) -> u64;
                async fn sleep1ms(&self);
                async fn stream(&self, items: u32) -> Result<Streaming<Echo>, Status>;
                async fn ping_pong(&self, messages: Streaming<Echo>) -> Result<Streaming<Echo>, Status>;
            }

            impl Bench for Handler {
                async fn echo(&self, message: Echo) -> Echo {
                    message
                }

                async fn user(&self, message: User) -> User {
                    message
                }

                async fn blob(&self, body: Bytes) -> Bytes {
                    body
                }

                async fn work20us(&self, seed: u64) -> u64 {
                    compute_20us(seed)
                }

                async fn sleep1ms(&self) {
                    sleep_1ms().await;
                }

                async fn stream(&self, items: u32) -> Result<Streaming<Echo>, Status> {
                    let item = Echo::sample();
                    Ok(Streaming::iter((0..items).map(move |_| item.clone())))
                }

                async fn ping_pong(&self, messages: Streaming<Echo>) -> Result<Streaming<Echo>, Status> {
                    Ok(messages)
                }
            }
        }
    };
}

contract!(compact, "compact");
contract!(named, "named");

struct Handler;

/// What calls travel over.
pub(crate) trait Transport: Send + 'static {
    const SCHEME: &'static str;

    /// Listens at the port of `listener`.
    fn listen(builder: ServerBuilder, listener: TcpListener) -> Result<ServerBuilder>;

    /// A channel to that server.
    fn channel(server: SocketAddr) -> impl Future<Output = Result<sinew::Channel>> + Send {
        async move { Ok(sinew::Channel::connect(&format!("{}://{server}", Self::SCHEME)).await?) }
    }
}

/// One caller's handle: a client in each encoding over one channel; `named` says which is used.
pub(crate) struct Caller<T> {
    transport: PhantomData<fn() -> T>,
    compact: compact::BorrowingClient,
    named: named::BorrowingClient,
    use_named: bool,
}

/// Makes a call with the client of the encoding that is measured.
macro_rules! call {
    ($caller:ident.$method:ident($($argument:expr),*)) => {
        if $caller.use_named {
            $caller.named.$method($($argument),*).await?
        } else {
            $caller.compact.$method($($argument),*).await?
        }
    };
}

impl<T: Transport> Peer for Caller<T> {
    type Echo = Echo;
    type User = User;

    async fn serve(listener: TcpListener, encoding: Encoding) -> Result<()> {
        let builder = T::listen(Server::builder(), listener)?;
        let builder = match encoding {
            Encoding::Compact => builder.service(compact::BenchServer::new(Handler)),
            Encoding::Named => builder.service(named::BenchServer::new(Handler)),
        };
        Ok(builder.serve().await?)
    }

    async fn connect(server: SocketAddr, encoding: Encoding) -> Result<Self> {
        let channel = T::channel(server).await?;
        Ok(Self {
            transport: PhantomData,
            compact: compact::BorrowingClient::from_channel(channel.clone()),
            named: named::BorrowingClient::from_channel(channel),
            use_named: encoding == Encoding::Named,
        })
    }

    fn another(&self) -> Self {
        Self {
            transport: PhantomData,
            compact: self.compact.clone(),
            named: self.named.clone(),
            use_named: self.use_named,
        }
    }

    async fn echo(&mut self, message: &Echo, verify: bool) -> Result<()> {
        let reply = call!(self.echo(message));
        ensure_same(verify, message, &reply)
    }

    async fn user(&mut self, message: &User, verify: bool) -> Result<()> {
        let reply = call!(self.user(message));
        ensure_same(verify, message, &reply)
    }

    async fn blob(&mut self, body: &Bytes, verify: bool) -> Result<()> {
        let reply = call!(self.blob(body.clone()));
        ensure_same(verify, body, &reply)
    }

    async fn work20us(&mut self, seed: u64) -> Result<u64> {
        Ok(call!(self.work20us(seed)))
    }

    async fn sleep1ms(&mut self) -> Result<()> {
        call!(self.sleep1ms());
        Ok(())
    }

    async fn stream(&mut self, items: u32, mut each: impl FnMut() + Send) -> Result<()> {
        let mut stream = call!(self.stream(items));
        while let Some(item) = stream.next().await {
            let _item = item?;
            each();
        }
        Ok(())
    }

    async fn ping_pong(&mut self, message: &Echo, mut each: impl FnMut() -> bool + Send) -> Result<()> {
        let (sender, messages) = Streaming::channel(1);
        let mut replies = call!(self.ping_pong(messages));
        loop {
            sender.send(message.clone()).await?;
            match replies.next().await {
                Some(reply) => ensure_same(false, message, &reply?)?,
                None => anyhow::bail!("the stream ended early"),
            }
            if !each() {
                return Ok(());
            }
        }
    }
}
