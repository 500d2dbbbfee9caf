//! UDP sockets: a server's at its port, and a client's, which all of its connections share.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use quinn::{Connecting, Endpoint, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::runtime::{Handle, Id};

use super::config;

/// What the system may hold of packets that arrived until they are read, if it allows so much: a burst of many peers.
const SOCKET_BYTES: usize = 4 * 1024 * 1024;

/// A client's socket. It is closed with the last connection that uses it.
pub(super) struct ClientSocket(Endpoint);

/// The sockets of this process: one per runtime, whose task reads it, and family of addresses. A socket per channel would cost each of them a quarter of
/// what a connection does.
static SOCKETS: Mutex<Vec<Shared>> = Mutex::new(Vec::new());

struct Shared {
    runtime: Id,
    is_v4: bool,
    socket: Weak<ClientSocket>,
}

impl ClientSocket {
    /// Begins a handshake with the server at `to`, whose certificate has to be for `name`. Within a runtime.
    ///
    /// # Errors
    /// The system's, if there is no socket.
    pub(super) fn connect(
        config: quinn::ClientConfig,
        to: SocketAddr,
        name: &str,
    ) -> io::Result<(Arc<Self>, Connecting)> {
        let (runtime, is_v4) = (Handle::current().id(), to.is_ipv4());
        let mut sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
        // Those of runtimes that ended, too, as nothing of theirs is left.
        sockets.retain(|shared| shared.socket.strong_count() > 0);
        let at = sockets.iter().position(|shared| shared.runtime == runtime && shared.is_v4 == is_v4);
        if let Some(socket) = at.and_then(|at| sockets[at].socket.upgrade()) {
            match socket.0.connect_with(config.clone(), to, name) {
                Ok(connecting) => return Ok((socket, connecting)),
                // Its task died of an error of the system's.
                Err(quinn::ConnectError::EndpointStopping) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let socket = Arc::new(Self(open(is_v4)?));
        let connecting = socket.0.connect_with(config, to, name).map_err(io::Error::other)?;
        let shared = Shared {
            runtime,
            is_v4,
            socket: Arc::downgrade(&socket),
        };
        match at.and_then(|at| sockets.get_mut(at)) {
            Some(old) => *old = shared,
            None => sockets.push(shared),
        }
        Ok((socket, connecting))
    }
}

fn open(is_v4: bool) -> io::Result<Endpoint> {
    let any = anywhere(is_v4);
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&any.into())?;
    make_roomy(&socket);
    Endpoint::new(config::endpoint(), None, socket.into(), Arc::new(TokioRuntime))
}

/// Any address and port of this machine.
pub(super) fn anywhere(is_v4: bool) -> SocketAddr {
    if is_v4 {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    }
}

/// A server's socket; `shared` ones have their port together.
pub(super) fn listen(address: SocketAddr, shared: bool) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if shared {
        share_port(&socket)?;
    }
    socket.bind(&address.into())?;
    make_roomy(&socket);
    Ok(socket.into())
}

#[cfg(unix)]
fn share_port(socket: &Socket) -> io::Result<()> {
    socket.set_reuse_port(true)
}

#[cfg(not(unix))]
fn share_port(_: &Socket) -> io::Result<()> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "several sockets cannot share a port on this system; leave out `ServerQuic::sockets`",
    ))
}

/// As far as the system lets it.
fn make_roomy(socket: &Socket) {
    let _optional = socket.set_recv_buffer_size(SOCKET_BYTES);
    let _optional = socket.set_send_buffer_size(SOCKET_BYTES);
}

/// How many sockets the connections of a runtime have.
#[cfg(test)]
pub(super) fn open_sockets(runtime: Id) -> usize {
    let sockets = SOCKETS.lock().unwrap_or_else(PoisonError::into_inner);
    sockets
        .iter()
        .filter(|shared| shared.runtime == runtime && shared.socket.strong_count() > 0)
        .count()
}
