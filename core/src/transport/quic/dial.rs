//! A client's connections.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use quinn::{Connecting, ConnectionError, TransportConfig};
use rustls::pki_types::ServerName;
use tokio::net::UdpSocket;

use super::config;
use super::connection::QuicConnection;
use super::early::ClientEarly;
use super::handshake::{self, Failed, chain_of};
use super::socket::{ClientSocket, anywhere};
use super::stream::wire_code;
use crate::mux::MuxConfig;
use crate::transport::error::ConnectError;
use crate::transport::io::ByteStream;
use crate::transport::tls::{Dialling, Prepared, QuicClient, TlsFault};
use crate::wire::frame::ErrorCode;

/// How a client speaks QUIC.
#[derive(Clone, Debug, Default)]
pub struct ClientQuic {
    zero_rtt: bool,
}

impl ClientQuic {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends calls of methods marked `idempotent` with the first packet to a server that this channel has spoken to before, without waiting for the handshake
    /// (0-RTT, off by default; at `quic://`, not at `quic+tcp://`). The server has to allow it, too ([`ServerQuic::zero_rtt`](super::ServerQuic::zero_rtt)).
    ///
    /// Whoever records that packet may have those calls run again.
    #[must_use]
    pub fn zero_rtt(mut self) -> Self {
        self.zero_rtt = true;
        self
    }
}

/// Whether a connection may begin with 0-RTT, if the settings say so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EarlyData {
    /// The handshake then has this time.
    Allowed {
        within: Duration,
    },
    Forbidden,
}

/// What a channel needs to dial over QUIC.
pub(crate) struct QuicDialler {
    transport: Arc<TransportConfig>,
    zero_rtt: bool,
    /// The server took nothing of what was sent early the last time.
    early_refused: Arc<AtomicBool>,
}

impl std::fmt::Debug for QuicDialler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicDialler").finish_non_exhaustive()
    }
}

impl QuicDialler {
    pub(crate) fn new(quic: &ClientQuic, limits: &MuxConfig) -> Self {
        Self {
            zero_rtt: quic.zero_rtt,
            early_refused: Arc::default(),
            transport: config::transport(limits, config::Accepts::Nothing),
        }
    }

    /// Shakes hands with a server, and opens the lane.
    ///
    /// # Errors
    /// [`ConnectError`] tells why there is no connection.
    pub(crate) async fn connect(
        &self,
        dialling: &Dialling,
        to: SocketAddr,
        early: EarlyData,
    ) -> Result<ByteStream, ConnectError> {
        let address = format!("quic://{to}");
        let io_error = |source| ConnectError::Io {
            address: address.clone(),
            source,
        };
        let prepared = dialling.prepared(to, &address)?;
        let client = prepared.quic(self.zero_rtt).map_err(|source| ConnectError::TlsConfig {
            address: address.clone(),
            source,
        })?;
        let mut config = quinn::ClientConfig::new(Arc::clone(&client.crypto) as Arc<_>);
        config.transport_config(Arc::clone(&self.transport));
        let (socket, connecting) = ClientSocket::connect(config, to, &prepared.name.to_str()).map_err(io_error)?;
        let failed = |error: Failed| {
            let noted = match &error {
                Failed::Connection(ConnectionError::TransportError(own)) => client.refused(&own.reason),
                Failed::Connection(_) | Failed::OtherProtocol | Failed::Certificate(_) => None,
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
        let connecting = match self.send_early(connecting, &socket, early, prepared).await {
            Ok(lane) => return lane.map_err(|error| failed(Failed::Connection(error))),
            Err(connecting) => connecting,
        };
        let connected = tokio::select! {
            // The handshake goes with its future, and the other one only watches.
            connected = handshake::connect(connecting) => connected,
            refused = refused(to) => return Err(io_error(refused)),
        };
        let connection = connected.map_err(failed)?;
        // A session that was resumed rests on a certificate that was checked long ago.
        trusted(&connection, client, &prepared.name).map_err(failed)?;
        let (send, receive) = connection.open_bi().await.map_err(|error| failed(Failed::Connection(error)))?;
        Ok(QuicConnection::new(connection, Some(socket)).lane(send, receive))
    }

    /// Opens the lane before the handshake is done, if that is wanted and the server is known.
    async fn send_early(
        &self,
        connecting: Connecting,
        socket: &Arc<ClientSocket>,
        early: EarlyData,
        prepared: &Prepared,
    ) -> Result<Result<ByteStream, ConnectionError>, Connecting> {
        let EarlyData::Allowed { within } = early else {
            return Err(connecting);
        };
        if !self.zero_rtt || self.early_refused.swap(false, Ordering::Relaxed) {
            return Err(connecting);
        }
        let (connection, handshake) = connecting.into_0rtt()?;
        let prepared = prepared.clone();
        let check = move |connection: &quinn::Connection| {
            if let Ok(client) = prepared.quic(true) {
                // It is closed if not, which all of its calls see.
                let _trusted = trusted(connection, client, &prepared.name);
            }
        };
        let refused = Arc::clone(&self.early_refused);
        let early = ClientEarly::new(connection.clone(), handshake, refused, within, check);
        let lane = connection.open_bi().await;
        let connection = QuicConnection::new(connection, Some(Arc::clone(socket))).with_early(early);
        Ok(lane.map(|(send, receive)| connection.lane(send, receive)))
    }
}

/// Checks the server's certificate as of now.
fn trusted(connection: &quinn::Connection, client: &QuicClient, name: &ServerName<'_>) -> Result<(), Failed> {
    let chain = chain_of(connection).unwrap_or_default();
    client.check(&chain, name).map_err(|error| {
        connection.close(wire_code(ErrorCode::None), b"the certificate is not valid any more");
        Failed::Certificate(error)
    })
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
