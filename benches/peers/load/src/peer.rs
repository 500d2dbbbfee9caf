//! What a framework has to offer to be measured: the server, a connection, and one caller's calls on it.

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};

use anyhow::{Result, ensure};
use bytes::Bytes;
use tokio::runtime::{Builder, Runtime};

use crate::messages::{Echo, User};
use crate::workload::Workload;

/// How structs travel, for the peers that offer a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    /// Without field names; also what peers with one encoding of their own ignore.
    #[default]
    Compact,
    /// With field names.
    Named,
}

/// A framework under measurement; a value is one caller's handle on one connection.
///
/// A handle has at most one call in flight: hence `&mut self`. The futures are used as they are, without a box.
///
/// `verify` is set on a caller's first call: the reply is then compared with the request. On later calls a peer only
/// decodes the reply as its user would get it.
pub trait Peer: Sized + Send + 'static {
    /// The peer's own form of [`Echo`], made once before the measurement.
    type Echo: for<'a> From<&'a Echo> + Clone + Send + Sync + 'static;
    /// The peer's own form of [`User`], made once before the measurement.
    type User: for<'a> From<&'a User> + Clone + Send + Sync + 'static;

    /// The runtime that both sides run on: two workers, unless the framework needs one thread.
    fn runtime() -> io::Result<Runtime> {
        Builder::new_multi_thread().worker_threads(2).enable_all().build()
    }

    /// Whether the framework has what `workload` needs.
    fn offers(_workload: Workload) -> bool {
        true
    }

    /// Serves until the process is killed. `listener` is bound, listening and non-blocking.
    fn serve(listener: TcpListener, encoding: Encoding) -> impl Future<Output = Result<()>> + Send;

    /// Opens one connection and returns its first handle.
    fn connect(server: SocketAddr, encoding: Encoding) -> impl Future<Output = Result<Self>> + Send;

    /// Returns a handle for another caller on the same connection.
    fn another(&self) -> Self;

    /// Sends `message` and receives it back.
    fn echo(&mut self, message: &Self::Echo, verify: bool) -> impl Future<Output = Result<()>> + Send;

    /// Sends `message` and receives it back.
    fn user(&mut self, message: &Self::User, verify: bool) -> impl Future<Output = Result<()>> + Send;

    /// Sends `body` and receives it back.
    fn blob(&mut self, body: &Bytes, verify: bool) -> impl Future<Output = Result<()>> + Send;

    /// Calls a handler that returns [`compute_20us`](crate::compute_20us) of `seed`.
    fn work20us(&mut self, seed: u64) -> impl Future<Output = Result<u64>> + Send;

    /// Calls a handler that awaits [`sleep_1ms`](crate::sleep_1ms).
    fn sleep1ms(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Opens a stream of `items` times [`Echo::sample`] from the server and calls `each` for every one received.
    fn stream(&mut self, items: u32, each: impl FnMut() + Send) -> impl Future<Output = Result<()>> + Send;

    /// Opens one bidirectional stream and sends `message` to and fro on it until `each`, called for every round trip,
    /// returns false.
    fn ping_pong(
        &mut self,
        message: &Self::Echo,
        each: impl FnMut() -> bool + Send,
    ) -> impl Future<Output = Result<()>> + Send;
}

/// Fails unless what came back is what was sent. Compares only if `verify`.
pub fn ensure_same<T: PartialEq + ?Sized>(verify: bool, sent: &T, received: &T) -> Result<()> {
    ensure!(!verify || sent == received, "the reply differs from the request");
    Ok(())
}
