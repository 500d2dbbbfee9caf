//! A connection's RPC system over TCP.

use anyhow::Result;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::{RpcSystem, twoparty};
use futures::io::{BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

/// Makes the system of `stream`, which is to be spawned; `bootstrap` is what it offers to the other side.
pub(crate) fn system(
    stream: TcpStream,
    side: Side,
    bootstrap: Option<capnp::capability::Client>,
) -> Result<RpcSystem<Side>> {
    stream.set_nodelay(true)?;
    let (read, write) = stream.into_split();
    let reader = BufReader::new(read.compat());
    let writer = BufWriter::new(write.compat_write());
    let network = twoparty::VatNetwork::new(reader, writer, side, capnp::message::ReaderOptions::new());
    Ok(RpcSystem::new(Box::new(network), bootstrap))
}
