//! A server's UDP sockets, and the handshakes that arrive on them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicServerConfig};
use quinn::{Connecting, ConnectionError, Endpoint, Incoming, TokioRuntime, TransportConfig};

use super::connection::QuicConnection;
use super::early::ServerEarly;
use super::handshake::{Failed, connect, speaks_sinew};
use super::{config, socket};
use crate::mux::MuxConfig;
use crate::mux::config::ConfigError;
use crate::transport::error::HandshakeError;
use crate::transport::io::ByteStream;
use crate::transport::tls::{Acceptor, TlsFault};

/// Handshakes of one listener under way above which clients have to prove their address first, by default: a busy server of many clients has fewer at
/// a time, and below it nobody pays the round trip.
pub const RETRY_ABOVE: usize = 128;
/// Retries that are sent before other tasks get their turn.
const RETRIES_PER_TURN: u32 = 64;
/// Sockets of one listener at most.
pub const SOCKETS_MAX: usize = 64;

/// How a server speaks QUIC.
///
/// # Examples
/// ```no_run
/// # mod sinew {
/// #     pub use sinew_core::server::Server;
/// #     pub use sinew_core::service::Service;
/// #     pub use sinew_core::transport::quic::ServerQuic;
/// # }
/// use sinew::{Server, ServerQuic};
///
/// # async fn run(orders: impl sinew::Service) -> Result<(), sinew_core::server::ServerError> {
/// let quic = ServerQuic::new().sockets(2);
/// Server::builder().service(orders).quic(quic).bind("quic://127.0.0.1:7000").serve().await
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct ServerQuic {
    sockets: usize,
    retry_above: usize,
    zero_rtt: bool,
}

impl Default for ServerQuic {
    fn default() -> Self {
        Self {
            sockets: 1,
            retry_above: RETRY_ABOVE,
            zero_rtt: false,
        }
    }
}

impl ServerQuic {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many sockets share the port (default 1, at most 64; more than 1 on unix only), by `SO_REUSEPORT`: each is served by a task of its own, for
    /// servers whose packets one processor cannot handle.
    ///
    /// The system gives a client's packets to one of them by the client's address. With more than one, a client whose address changes loses its connection.
    #[must_use]
    pub fn sockets(mut self, sockets: usize) -> Self {
        self.sockets = sockets;
        self
    }

    /// Sets the number of handshakes under way above which clients have to prove that they are where their packets say they are (default 128): a round trip
    /// more for them, and nothing to hold for those that lied. 0 has all of them do so.
    #[must_use]
    pub fn retry_above(mut self, handshakes: usize) -> Self {
        self.retry_above = handshakes;
        self
    }

    /// Takes calls of methods marked `idempotent` out of a client's first packet, before the handshake is done (0-RTT, off by default); other calls that come
    /// so early are refused, and sent again after it. Does nothing where clients show certificates, which are not checked by then.
    ///
    /// A session is good for one such packet, and is known to this server alone; but whoever records one that did not get through can have its calls run later.
    #[must_use]
    pub fn zero_rtt(mut self) -> Self {
        self.zero_rtt = true;
        self
    }

    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        if !(1..=SOCKETS_MAX).contains(&self.sockets) {
            return Err(ConfigError::new("quic.sockets", self.sockets, "1 to 64"));
        }
        Ok(())
    }
}

/// Accepts QUIC connections at one port.
pub(crate) struct QuicListener {
    endpoints: Vec<Endpoint>,
    shown: Arc<Shown>,
    retry_above: usize,
    shaking: Arc<AtomicUsize>,
}

/// What clients are shown.
struct Shown {
    acceptor: Acceptor,
    transport: Arc<TransportConfig>,
    zero_rtt: bool,
    /// Made anew with the certificate, so that no session is resumed that was made with an earlier one.
    current: Mutex<Option<Current>>,
}

/// The configuration that goes with a certificate.
struct Current {
    config: Arc<quinn::ServerConfig>,
    certificate: Arc<rustls::sign::CertifiedKey>,
}

impl std::fmt::Debug for QuicListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QuicListener").field("endpoints", &self.endpoints.len()).finish_non_exhaustive()
    }
}

impl QuicListener {
    /// Opens the sockets.
    ///
    /// # Errors
    /// The system's; of several candidates, the last one's.
    pub(crate) fn bind(
        candidate: SocketAddr,
        acceptor: Acceptor,
        quic: &ServerQuic,
        limits: &MuxConfig,
    ) -> io::Result<Self> {
        let transport = config::transport(limits, config::Accepts::Streams);
        let first = socket::listen(candidate, quic.sockets > 1)?;
        let local = first.local_addr()?;
        let mut sockets = vec![first];
        for _ in 1..quic.sockets {
            sockets.push(socket::listen(local, true)?);
        }
        let shown = Arc::new(Shown {
            acceptor,
            transport,
            zero_rtt: quic.zero_rtt,
            current: Mutex::new(None),
        });
        let server = shown.config().map_err(io::Error::other)?;
        let endpoints: io::Result<Vec<Endpoint>> = sockets
            .into_iter()
            .map(|socket| {
                let server = Some(quinn::ServerConfig::clone(&server));
                Endpoint::new(config::endpoint(), server, socket, Arc::new(TokioRuntime))
            })
            .collect();
        Ok(Self {
            endpoints: endpoints?,
            shown,
            retry_above: quic.retry_above,
            shaking: Arc::default(),
        })
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        match self.endpoints.first() {
            Some(endpoint) => endpoint.local_addr(),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The next client that wants to shake hands, and has proved its address if that is asked of it.
    ///
    /// # Cancel safety
    /// Cancel safe.
    pub(crate) async fn accept(&self) -> io::Result<(SocketAddr, QuicHandshake)> {
        let mut retries = 0_u32;
        loop {
            let incoming = self.next().await?;
            let peer = incoming.remote_address();
            let busy = self.shaking.load(Ordering::Relaxed) >= self.retry_above;
            if busy && !incoming.remote_address_validated() && incoming.may_retry() {
                // Cannot fail: it may.
                let _sent = incoming.retry();
                retries = retries.wrapping_add(1);
                if retries.is_multiple_of(RETRIES_PER_TURN) {
                    // A flood of them must not keep this task from seeing that the server closes.
                    tokio::task::yield_now().await;
                }
                continue;
            }
            let handshake = QuicHandshake {
                incoming,
                shown: Arc::clone(&self.shown),
                _counted: Counted::new(&self.shaking),
            };
            return Ok((peer, handshake));
        }
    }

    async fn next(&self) -> io::Result<Incoming> {
        let mut accepts: Vec<_> = self.endpoints.iter().map(|endpoint| Box::pin(endpoint.accept())).collect();
        let incoming = std::future::poll_fn(|task| {
            for accept in &mut accepts {
                if let Poll::Ready(incoming) = accept.as_mut().poll(task) {
                    return Poll::Ready(incoming);
                }
            }
            Poll::Pending
        });
        incoming.await.ok_or_else(|| io::Error::other("the socket is closed"))
    }

    /// Turns away whoever comes now, until the connections that are there have ended: they hold the port, and a client that is refused goes elsewhere at
    /// once.
    pub(crate) async fn refuse_further(self) {
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.wait_idle().await;
            }
        };
        let refusing = async {
            while let Ok(incoming) = self.next().await {
                incoming.refuse();
            }
        };
        tokio::select! {
            // Nothing is lost with either: both only wait.
            () = idle => {}
            () = refusing => {}
        }
    }
}

impl Shown {
    fn takes_early(&self) -> bool {
        self.zero_rtt && !self.acceptor.asks_clients()
    }

    /// What goes with the certificate in use.
    fn config(&self) -> Result<Arc<quinn::ServerConfig>, NoInitialCipherSuite> {
        let certificate = self.acceptor.certificate();
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(current) = &*current
            && Arc::ptr_eq(&current.certificate, &certificate)
        {
            return Ok(Arc::clone(&current.config));
        }
        let crypto = QuicServerConfig::try_from(Arc::new(self.acceptor.with_tickets(self.zero_rtt)))?;
        let config = Arc::new(config::server(crypto, Arc::clone(&self.transport)));
        *current = Some(Current {
            config: Arc::clone(&config),
            certificate,
        });
        Ok(config)
    }
}

/// Counts a handshake for as long as it lasts.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A handshake under way; dropped, it refuses the client.
pub(crate) struct QuicHandshake {
    incoming: Incoming,
    shown: Arc<Shown>,
    _counted: Counted,
}

impl QuicHandshake {
    /// Shakes hands, and waits for the client's lane.
    ///
    /// # Errors
    /// [`HandshakeError`] tells why there is none.
    pub(crate) async fn finish(self) -> Result<ByteStream, HandshakeError> {
        self.shown.acceptor.look().await;
        let config = self.shown.config().map_err(|error| failed_for(io::Error::other(error)))?;
        let connecting = self.incoming.accept_with(config).map_err(lost)?;
        if self.shown.takes_early() {
            return early(connecting).await;
        }
        let connection = connect(connecting).await.map_err(failed)?;
        let (send, receive) = connection.accept_bi().await.map_err(lost)?;
        Ok(QuicConnection::new(connection, None).lane(send, receive))
    }
}

/// Waits for the client's lane, which may come before the handshake is done.
async fn early(connecting: Connecting) -> Result<ByteStream, HandshakeError> {
    let Ok((connection, handshake)) = connecting.into_0rtt() else {
        // Servers can always.
        return Err(failed_for(io::Error::other("0-RTT is not to be had")));
    };
    let (send, receive) = connection.accept_bi().await.map_err(lost)?;
    if !speaks_sinew(&connection) {
        return Err(failed(Failed::OtherProtocol));
    }
    let is_early = receive.is_0rtt();
    let connection = QuicConnection::new(connection, None);
    Ok(if is_early {
        connection.with_early(ServerEarly::new(handshake)).lane(send, receive)
    } else {
        connection.lane(send, receive)
    })
}

fn failed(error: Failed) -> HandshakeError {
    let hung_up = matches!(
        error,
        Failed::Connection(ConnectionError::ApplicationClosed(_) | ConnectionError::Reset)
    );
    match error.tls_error() {
        Some(tls) => {
            let source = io::Error::other(tls);
            HandshakeError::new(TlsFault::of(&source), hung_up, source)
        }
        None => HandshakeError::new("the QUIC handshake failed", hung_up, error.into_io()),
    }
}

fn lost(error: ConnectionError) -> HandshakeError {
    failed(Failed::Connection(error))
}

fn failed_for(source: io::Error) -> HandshakeError {
    HandshakeError::new("the QUIC handshake failed", false, source)
}
