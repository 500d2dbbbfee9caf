//! A client's UDP sockets, and the connections made over them.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use quinn::{ConnectionError, Endpoint, TokioRuntime, TransportConfig};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

use super::config;
use super::connection::QuicConnection;
use super::listen::{self, Failed};
use crate::mux::MuxConfig;
use crate::transport::error::ConnectError;
use crate::transport::io::ByteStream;
use crate::transport::tls::{Dialling, TlsFault};

/// What a channel needs to dial over QUIC. Its connections share one socket per family of addresses.
pub(crate) struct QuicDialler {
    transport: Arc<TransportConfig>,
    sockets: Mutex<Sockets>,
}

#[derive(Default)]
struct Sockets {
    v4: Option<Endpoint>,
    v6: Option<Endpoint>,
}

impl std::fmt::Debug for QuicDialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicDialler").finish_non_exhaustive()
    }
}

impl QuicDialler {
    pub(crate) fn new(limits: &MuxConfig) -> Self {
        Self {
            transport: config::transport(limits, config::Accepts::Nothing),
            sockets: Mutex::default(),
        }
    }

    /// Shakes hands with a server, and opens the lane.
    ///
    /// # Errors
    /// [`ConnectError`] tells why there is no connection.
    pub(crate) async fn connect(&self, dialling: &Dialling, to: SocketAddr) -> Result<ByteStream, ConnectError> {
        let address = format!("quic://{to}");
        let io_error = |source| ConnectError::Io {
            address: address.clone(),
            source,
        };
        let prepared = dialling.prepared(to, &address)?;
        let client = prepared.quic().map_err(|source| ConnectError::TlsConfig {
            address: address.clone(),
            source,
        })?;
        let mut config = quinn::ClientConfig::new(Arc::clone(&client.crypto) as Arc<_>);
        config.transport_config(Arc::clone(&self.transport));
        let (endpoint, connecting) = self.start(config, to, &prepared.name.to_str()).map_err(io_error)?;
        let connected = tokio::select! {
            // The handshake goes with its future, and the other one only watches.
            connected = listen::connect(connecting) => connected,
            refused = refused(to) => return Err(io_error(refused)),
        };
        let failed = |error: Failed| {
            let noted = match &error {
                Failed::Connection(ConnectionError::TransportError(own)) => client.refused(&own.reason),
                Failed::Connection(_) | Failed::OtherProtocol => None,
            };
            match noted.or_else(|| error.tls_error()) {
                Some(tls) => {
                    let source = io::Error::other(tls);
                    ConnectError::Tls {
                        address: address.clone(),
                        fault: TlsFault::of(&source),
                        source,
                    }
                }
                None => io_error(error.into_io()),
            }
        };
        let connection = connected.map_err(failed)?;
        let (send, receive) = connection.open_bi().await.map_err(|error| failed(Failed::Connection(error)))?;
        Ok(QuicConnection::new(connection, Some(endpoint)).lane(send, receive))
    }

    /// Begins a handshake on the socket for `to`; on a new one if the last went with its runtime.
    fn start(
        &self,
        config: quinn::ClientConfig,
        to: SocketAddr,
        name: &str,
    ) -> io::Result<(Endpoint, quinn::Connecting)> {
        let mut sockets = self.sockets.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = match to {
            SocketAddr::V4(_) => &mut sockets.v4,
            SocketAddr::V6(_) => &mut sockets.v6,
        };
        if let Some(endpoint) = slot {
            match endpoint.connect_with(config.clone(), to, name) {
                Ok(connecting) => return Ok((endpoint.clone(), connecting)),
                Err(quinn::ConnectError::EndpointStopping) => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let endpoint = open(to)?;
        let connecting = endpoint.connect_with(config, to, name).map_err(io::Error::other)?;
        *slot = Some(endpoint.clone());
        Ok((endpoint, connecting))
    }
}

fn open(to: SocketAddr) -> io::Result<Endpoint> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Socket::new(Domain::for_address(any), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind(&any.into())?;
    listen::roomy(&socket);
    Endpoint::new(config::endpoint(), None, socket.into(), Arc::new(TokioRuntime))
}

/// Resolves if the system says that nobody listens at `to`, which a socket hears only if it sends to nobody else. One byte is no QUIC packet, so a server
/// drops it unseen.
async fn refused(to: SocketAddr) -> io::Error {
    let probe = async {
        let any: SocketAddr = match to {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(any).await?;
        socket.connect(to).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0; 1]).await
    };
    match probe.await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => error,
        // Whatever else it met, the handshake will meet it too, and knows more about it.
        Ok(_) | Err(_) => std::future::pending().await,
    }
}
