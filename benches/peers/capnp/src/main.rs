//! The `capnp` peer: Cap'n Proto RPC, two-party over TCP.
//!
//! Its objects are not `Send`: both sides run on one thread each, as the library wants it. Streams go from the server
//! to a capability of the client; there is no bidirectional stream.

mod network;
mod schema;
mod server;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::process::ExitCode;
use std::rc::Rc;

use anyhow::{Result, bail};
use bytes::Bytes;
use capnp_rpc::rpc_twoparty_capnp::Side;
use load::messages::{Echo, User};
use load::{Encoding, Peer, Workload, ensure_same};
use send_wrapper::SendWrapper;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::schema::bench_capnp::{bench, sink};

fn main() -> ExitCode {
    load::run::<Caller>()
}

/// One caller's handle. The wrappers let the one thread's futures pass for `Send`, and panic on another thread.
#[derive(Clone)]
struct Caller {
    client: SendWrapper<bench::Client>,
}

impl Peer for Caller {
    type Echo = Echo;
    type User = User;

    fn runtime() -> io::Result<Runtime> {
        Builder::new_current_thread().enable_all().build()
    }

    fn offers(workload: Workload) -> bool {
        workload != Workload::PingPong
    }

    fn serve(listener: TcpListener, _: Encoding) -> impl Future<Output = Result<()>> + Send {
        SendWrapper::new(server::serve(listener))
    }

    fn connect(server: SocketAddr, _: Encoding) -> impl Future<Output = Result<Self>> + Send {
        SendWrapper::new(async move {
            let mut system = network::system(TcpStream::connect(server).await?, Side::Client, None)?;
            let client = SendWrapper::new(system.bootstrap(Side::Server));
            tokio::spawn(SendWrapper::new(async {
                // The calls in flight report what ended the connection.
                let _ = system.await;
            }));
            Ok(Self { client })
        })
    }

    fn another(&self) -> Self {
        self.clone()
    }

    fn echo(&mut self, message: &Echo, verify: bool) -> impl Future<Output = Result<()>> + Send {
        SendWrapper::new(async move {
            let mut request = self.client.echo_request();
            request.get().init_message().set_payload(&message.payload);
            let reply = request.send().promise.await?;
            ensure_same(verify, &message.payload[..], reply.get()?.get_message()?.get_payload()?)
        })
    }

    fn user(&mut self, message: &User, verify: bool) -> impl Future<Output = Result<()>> + Send {
        SendWrapper::new(async move {
            let mut request = self.client.user_request();
            schema::write_user(message, request.get().init_message());
            let reply = request.send().promise.await?;
            schema::read_user(message, verify, reply.get()?.get_message()?)
        })
    }

    fn blob(&mut self, body: &Bytes, verify: bool) -> impl Future<Output = Result<()>> + Send {
        SendWrapper::new(async move {
            let mut request = self.client.blob_request();
            request.get().set_body(body);
            let reply = request.send().promise.await?;
            ensure_same(verify, &body[..], reply.get()?.get_body()?)
        })
    }

    fn work20us(&mut self, seed: u64) -> impl Future<Output = Result<u64>> + Send {
        SendWrapper::new(async move {
            let mut request = self.client.work20us_request();
            request.get().set_seed(seed);
            Ok(request.send().promise.await?.get()?.get_value())
        })
    }

    fn sleep1ms(&mut self) -> impl Future<Output = Result<()>> + Send {
        SendWrapper::new(async move {
            self.client.sleep1ms_request().send().promise.await?;
            Ok(())
        })
    }

    fn stream(&mut self, items: u32, mut each: impl FnMut() + Send) -> impl Future<Output = Result<()>> + Send {
        SendWrapper::new(async move {
            let (arrived, mut arrivals) = mpsc::unbounded_channel();
            let mut request = self.client.stream_request();
            request.get().set_items(items);
            request.get().set_sink(capnp_rpc::new_client(Arrivals(arrived)));
            let reply = request.send().promise;
            for _ in 0..items {
                if arrivals.recv().await.is_none() {
                    bail!("the stream ended early");
                }
                each();
            }
            reply.await?;
            Ok(())
        })
    }

    async fn ping_pong(&mut self, _: &Echo, _: impl FnMut() -> bool + Send) -> Result<()> {
        bail!("capnp-rpc has no bidirectional streams")
    }
}

/// Where the server's items arrive.
struct Arrivals(mpsc::UnboundedSender<()>);

impl sink::Server for Arrivals {
    async fn item(self: Rc<Self>, params: sink::ItemParams) -> Result<(), capnp::Error> {
        std::hint::black_box(params.get()?.get_message()?.get_payload()?);
        // Whoever stopped listening needs no more.
        let _ = self.0.send(());
        Ok(())
    }
}
