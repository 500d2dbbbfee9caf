//! Listeners: where connections come from.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;

use tokio::net::TcpListener;
#[cfg(unix)]
use tokio::net::UnixListener;

use super::address::{Address, is_loopback};
use super::error::{BindError, HandshakeError};
use super::io::ByteStream;
use super::mem::MemListener;
#[cfg(feature = "quic")]
use super::quic::{QuicListener, ServerQuic};
#[cfg(feature = "tls")]
use super::tls::{ServerTls, TlsConfigError};
use crate::mux::MuxConfig;

/// Connections that the kernel holds until they are accepted.
pub const BACKLOG: u32 = 1024;

/// How often the system is asked for a port that is free over UDP and TCP alike.
const SAME_PORT_ATTEMPTS: usize = 8;

/// Accepts connections at one address.
#[derive(Debug)]
pub struct Listener {
    kind: Kind,
    bound: Address,
}

/// A connection as a listener has it.
#[non_exhaustive]
pub enum Accepted {
    /// Bytes may flow.
    Stream(ByteStream),
    /// A handshake comes first, which takes as long as the peer likes.
    Handshake {
        /// Who is at the other end.
        peer: SocketAddr,
        /// Resolves when it is done.
        handshake: Handshake,
    },
}

/// A handshake under way.
pub type Handshake = Pin<Box<dyn Future<Output = Result<ByteStream, HandshakeError>> + Send>>;

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stream(stream) => write!(f, "Stream({stream:?})"),
            Self::Handshake { peer, .. } => write!(f, "Handshake({peer})"),
        }
    }
}

/// What listeners need beside their addresses.
#[derive(Debug, Default)]
pub struct ListenConfig {
    /// For `tls://`; on loopback a development certificate takes its place.
    #[cfg(feature = "tls")]
    pub tls: Option<ServerTls>,
    /// For `quic://`; without it the defaults.
    #[cfg(feature = "quic")]
    pub quic: Option<ServerQuic>,
    /// The limits of connections, as far as the transport itself knows them.
    pub limits: MuxConfig,
}

#[cfg(feature = "tls")]
impl ListenConfig {
    fn acceptor(&self, scheme: &str, local: SocketAddr) -> Result<super::tls::Acceptor, TlsConfigError> {
        match &self.tls {
            Some(tls) => tls.acceptor(),
            #[cfg(feature = "dev-tls")]
            None if is_loopback(local.ip()) => {
                tracing::info!(%local, "showing a development certificate, which only programs of this user trust");
                ServerTls::development(local.ip())?.acceptor()
            }
            None => Err(TlsConfigError::NoCertificate {
                address: format!("{scheme}://{local}"),
            }),
        }
    }
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpListener),
    #[cfg(feature = "tls")]
    Tls(TcpListener, super::tls::Acceptor),
    #[cfg(feature = "quic")]
    Quic(QuicListener),
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        /// Kept for its destructor.
        _file: SocketFile,
    },
    Mem(MemListener),
}

/// Removes a unix socket's file when its listener goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Somebody removed it before; there is nothing left to do.
        let _gone = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Opens what goes with an address: one listener, or for `quic+tcp://` two at the same port.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn bind_all(address: &Address, config: &ListenConfig) -> Result<Vec<Self>, BindError> {
        let Address::QuicTcp { host, port } = address else {
            return Ok(vec![Self::bind(address, config).await?]);
        };
        let mut attempts = if *port == 0 { SAME_PORT_ATTEMPTS } else { 1 };
        loop {
            attempts -= 1;
            let (host, port) = (host.clone(), *port);
            let quic = Self::bind(&Address::Quic { host, port }, config).await?;
            let Address::Quic { host, port } = quic.bound.clone() else {
                return Ok(vec![quic]);
            };
            match Self::bind(&Address::Tls { host, port }, config).await {
                Ok(tls) => return Ok(vec![quic, tls]),
                // The system chose a port that somebody has over TCP.
                Err(BindError::Io { .. }) if attempts > 0 => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Opens a listener.
    ///
    /// # Errors
    /// [`BindError`]: the system refused, the name is taken, clear text would be accepted from other machines, or there is no certificate.
    pub async fn bind(address: &Address, config: &ListenConfig) -> Result<Self, BindError> {
        let io_error = |source| BindError::Io {
            address: address.to_string(),
            source,
        };
        match address {
            Address::Tcp {
                host,
                port,
                dangerous_plaintext,
            } => {
                let listener = bind_tcp(host, *port, *dangerous_plaintext, address).await?;
                Self::tcp(listener, *dangerous_plaintext).map_err(io_error)
            }
            #[cfg(feature = "tls")]
            Address::Tls { host, port } => {
                let listener = bind_tcp(host, *port, true, address).await?;
                let local = listener.local_addr().map_err(io_error)?;
                Ok(Self::tls(listener, config.acceptor("tls", local)?, local))
            }
            #[cfg(not(feature = "tls"))]
            Address::Tls { .. } => {
                let _unused = config;
                Err(io_error(io::ErrorKind::Unsupported.into()))
            }
            #[cfg(feature = "quic")]
            Address::Quic { host, port } => {
                let listener = bind_quic(host, *port, config, address).await?;
                let local = listener.local_addr().map_err(io_error)?;
                Ok(Self {
                    kind: Kind::Quic(listener),
                    bound: Address::Quic {
                        host: local.ip().to_string(),
                        port: local.port(),
                    },
                })
            }
            #[cfg(not(feature = "quic"))]
            Address::Quic { .. } => Err(io_error(io::ErrorKind::Unsupported.into())),
            // Two listeners: `bind_all` opens them.
            Address::QuicTcp { .. } => Err(io_error(io::ErrorKind::Unsupported.into())),
            #[cfg(unix)]
            Address::Unix { path } => {
                remove_stale(path).await.map_err(io_error)?;
                let listener = UnixListener::bind(path).map_err(io_error)?;
                Ok(Self {
                    kind: Kind::Unix {
                        listener,
                        _file: SocketFile(path.clone()),
                    },
                    bound: address.clone(),
                })
            }
            #[cfg(not(unix))]
            Address::Unix { .. } => Err(io_error(io::ErrorKind::Unsupported.into())),
            Address::Mem { name } => Ok(Self {
                kind: Kind::Mem(MemListener::bind(name)?),
                bound: address.clone(),
            }),
        }
    }

    /// A listener over a socket that is bound and listens already: from a service manager, or a parent process.
    ///
    /// # Errors
    /// [`BindError`] if the system refuses, or clear text would be accepted from other machines.
    pub fn from_tcp(listener: std::net::TcpListener, dangerous_plaintext: bool) -> Result<Self, BindError> {
        let local = listener.local_addr().map_err(handed_over_error)?;
        if !dangerous_plaintext && !is_loopback(local.ip()) {
            return Err(BindError::Plaintext {
                address: format!("tcp://{local}"),
            });
        }
        Self::tcp(handed_over(listener)?, dangerous_plaintext).map_err(handed_over_error)
    }

    fn tcp(listener: TcpListener, dangerous_plaintext: bool) -> io::Result<Self> {
        let local = listener.local_addr()?;
        Ok(Self {
            kind: Kind::Tcp(listener),
            bound: Address::Tcp {
                host: local.ip().to_string(),
                port: local.port(),
                dangerous_plaintext,
            },
        })
    }

    #[cfg(feature = "tls")]
    fn tls(listener: TcpListener, acceptor: super::tls::Acceptor, local: SocketAddr) -> Self {
        Self {
            kind: Kind::Tls(listener, acceptor),
            bound: Address::Tls {
                host: local.ip().to_string(),
                port: local.port(),
            },
        }
    }

    /// As [`from_tcp`](Self::from_tcp), for encrypted connections.
    ///
    /// # Errors
    /// [`BindError`] if the system refuses, or there is no certificate.
    #[cfg(feature = "tls")]
    pub fn from_tcp_with_tls(listener: std::net::TcpListener, config: &ListenConfig) -> Result<Self, BindError> {
        let local = listener.local_addr().map_err(handed_over_error)?;
        let acceptor = config.acceptor("tls", local)?;
        Ok(Self::tls(handed_over(listener)?, acceptor, local))
    }

    /// Closes the listener. What is to be done until its port is free is left as a future; there is nothing for most.
    pub fn close(self) -> Option<Pin<Box<dyn Future<Output = ()> + Send>>> {
        match self.kind {
            #[cfg(feature = "quic")]
            Kind::Quic(listener) => Some(Box::pin(listener.refuse_further())),
            _ => None,
        }
    }

    /// The address as bound: with the port that the system chose.
    #[must_use]
    pub fn bound(&self) -> &Address {
        &self.bound
    }

    /// The next connection.
    ///
    /// # Errors
    /// The system's; the listener stays usable.
    ///
    /// # Cancel safety
    /// Cancel safe: no connection is lost.
    pub async fn accept(&mut self) -> io::Result<Accepted> {
        Ok(match &mut self.kind {
            Kind::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Accepted::Stream(ByteStream::tcp(stream, peer))
            }
            #[cfg(feature = "tls")]
            Kind::Tls(listener, acceptor) => {
                let (stream, peer) = listener.accept().await?;
                Accepted::Handshake {
                    peer,
                    handshake: Box::pin(acceptor.clone().shake_hands(stream, peer)),
                }
            }
            #[cfg(feature = "quic")]
            Kind::Quic(listener) => {
                let (peer, handshake) = listener.accept().await?;
                Accepted::Handshake {
                    peer,
                    handshake: Box::pin(handshake.finish()),
                }
            }
            #[cfg(unix)]
            Kind::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                Accepted::Stream(ByteStream::unix(stream))
            }
            Kind::Mem(listener) => Accepted::Stream(listener.accept().await?),
        })
    }
}

/// Opens the sockets at the first address of the name that can be used.
#[cfg(feature = "quic")]
async fn bind_quic(host: &str, port: u16, config: &ListenConfig, address: &Address) -> Result<QuicListener, BindError> {
    let io_error = |source| BindError::Io {
        address: address.to_string(),
        source,
    };
    let quic = config.quic.clone().unwrap_or_default();
    let candidates: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(io_error)?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        let acceptor = config.acceptor("quic", candidate)?;
        match QuicListener::bind(candidate, acceptor, &quic, &config.limits) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(io_error(last))
}

fn handed_over(listener: std::net::TcpListener) -> Result<TcpListener, BindError> {
    listener.set_nonblocking(true).map_err(handed_over_error)?;
    TcpListener::from_std(listener).map_err(handed_over_error)
}

fn handed_over_error(source: io::Error) -> BindError {
    BindError::Io {
        address: "a socket that was handed over".to_owned(),
        source,
    }
}

async fn bind_tcp(host: &str, port: u16, plaintext: bool, address: &Address) -> Result<TcpListener, BindError> {
    let io_error = |source| BindError::Io {
        address: address.to_string(),
        source,
    };
    let candidates: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(io_error)?.collect();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in candidates {
        if !plaintext && !is_loopback(candidate.ip()) {
            return Err(BindError::Plaintext {
                address: address.to_string(),
            });
        }
        match listen_at(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(io_error(last))
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()?
    } else {
        tokio::net::TcpSocket::new_v6()?
    };
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Removes the file of a server that died without tidying up; a live server's stays, and binding fails.
#[cfg(unix)]
async fn remove_stale(path: &std::path::Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if found.file_type().is_socket() && tokio::net::UnixStream::connect(path).await.is_err() {
        std::fs::remove_file(path)?;
    }
    Ok(())
}
