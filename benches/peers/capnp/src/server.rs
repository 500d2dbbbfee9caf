//! The handlers, and the accept loop.

use std::net::TcpListener;
use std::rc::Rc;

use anyhow::Result;
use capnp::Error;
use capnp_rpc::rpc_twoparty_capnp::Side;
use load::messages::Echo;
use load::{compute_20us, sleep_1ms};
use send_wrapper::SendWrapper;

use crate::network;
use crate::schema::bench_capnp::bench;

/// Serves every connection, all on this thread, until the process is killed.
pub(crate) async fn serve(listener: TcpListener) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let client: bench::Client = capnp_rpc::new_client(Handler);
    loop {
        let (stream, _) = listener.accept().await?;
        let system = network::system(stream, Side::Server, Some(client.clone().client))?;
        tokio::spawn(SendWrapper::new(async {
            // How a client takes leave is not measured.
            let _ = system.await;
        }));
    }
}

struct Handler;

impl bench::Server for Handler {
    async fn echo(self: Rc<Self>, params: bench::EchoParams, mut results: bench::EchoResults) -> Result<(), Error> {
        results.get().set_message(params.get()?.get_message()?)
    }

    async fn user(self: Rc<Self>, params: bench::UserParams, mut results: bench::UserResults) -> Result<(), Error> {
        results.get().set_message(params.get()?.get_message()?)
    }

    async fn blob(self: Rc<Self>, params: bench::BlobParams, mut results: bench::BlobResults) -> Result<(), Error> {
        results.get().set_body(params.get()?.get_body()?);
        Ok(())
    }

    async fn work20us(
        self: Rc<Self>,
        params: bench::Work20usParams,
        mut results: bench::Work20usResults,
    ) -> Result<(), Error> {
        results.get().set_value(compute_20us(params.get()?.get_seed()));
        Ok(())
    }

    async fn sleep1ms(self: Rc<Self>, _: bench::Sleep1msParams, _: bench::Sleep1msResults) -> Result<(), Error> {
        sleep_1ms().await;
        Ok(())
    }

    async fn stream(self: Rc<Self>, params: bench::StreamParams, _: bench::StreamResults) -> Result<(), Error> {
        let params = params.get()?;
        let sink = params.get_sink()?;
        let message = Echo::sample();
        for _ in 0..params.get_items() {
            let mut request = sink.item_request();
            request.get().init_message().set_payload(&message.payload);
            request.send().await?;
        }
        Ok(())
    }
}
