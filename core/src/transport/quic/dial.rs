//! A client's connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::{ConnectionError, TransportConfig};
use tokio::net::UdpSocket;

use super::config;
use super::connection::QuicConnection;
use super::listen::{self, Failed};
use super::socket::{ClientSocket, anywhere};
use crate::mux::MuxConfig;
use crate::transport::error::ConnectError;
use crate::transport::io::ByteStream;
use crate::transport::tls::{Dialling, TlsFault};

/// What a channel needs to dial over QUIC.
pub(crate) struct QuicDialler {
    transport: Arc<TransportConfig>,
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
        let (socket, connecting) = ClientSocket::connect(config, to, &prepared.name.to_str()).map_err(io_error)?;
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
        Ok(QuicConnection::new(connection, Some(socket)).lane(send, receive))
    }
}

/// Resolves if the system says that nobody listens at `to`, which a socket hears only if it sends to nobody else. One byte is no QUIC packet, so a server
/// drops it unseen.
async fn refused(to: SocketAddr) -> io::Error {
    let probe = async {
        let socket = UdpSocket::bind(anywhere(to.is_ipv4())).await?;
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
