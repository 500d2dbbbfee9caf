//! Dialling: address -> byte stream, handshake included, within the connect time-out.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::address::{Address, is_loopback};
use super::error::ConnectError;
#[cfg(feature = "quic")]
use super::fallback::Fallback;
use super::io::ByteStream;
use super::mem;
#[cfg(feature = "quic")]
use super::quic::{ClientQuic, EarlyData, QuicDialler};
#[cfg(feature = "tls")]
use super::tls::{ClientTls, Dialling, TlsConfigError};
use crate::mux::MuxConfig;

/// Time that one attempt to connect has, name resolution included: a LAN answers within milliseconds, and one lost SYN is sent again after 1 s.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// How long before the time-out QUIC is given up next to TCP: whoever waits would hear of the time-out alone otherwise, also where TCP was refused.
#[cfg(feature = "quic")]
const TELL_BEFORE: Duration = Duration::from_millis(20);

/// Dials one address, again and again.
#[derive(Debug)]
pub struct Dialler {
    address: Address,
    #[cfg(feature = "tls")]
    tls: Option<Dialling>,
    #[cfg(feature = "quic")]
    quic: QuicDialler,
    #[cfg(feature = "quic")]
    fallback: Fallback,
}

/// What dialling needs beside the address.
#[derive(Debug, Default)]
pub struct DialConfig {
    /// For encrypted addresses; without it, servers are checked against what the system trusts, and on loopback against the development authority.
    #[cfg(feature = "tls")]
    pub tls: Option<ClientTls>,
    /// For `quic://`; without it the defaults.
    #[cfg(feature = "quic")]
    pub quic: Option<ClientQuic>,
    /// The limits of connections, as far as the transport itself knows them.
    pub limits: MuxConfig,
}

/// Settings that do not go with the address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DialError {
    /// The settings of TLS cannot be used.
    #[cfg(feature = "tls")]
    #[error(transparent)]
    Tls(#[from] TlsConfigError),
    /// There are settings of QUIC, and the address is of another kind.
    #[error("{address} is not QUIC, so `.quic(..)` would do nothing; call quic://host:port, or leave it out")]
    QuicUnused {
        /// The address.
        address: String,
    },
    /// There are settings of TLS, and the address is not encrypted.
    #[error(
        "{address} is not encrypted, so `.tls(..)` would do nothing; call tls://host:port or quic://host:port, or leave it out"
    )]
    Unused {
        /// The address.
        address: String,
    },
}

impl Dialler {
    /// Prepares to dial `address`.
    ///
    /// # Errors
    /// [`DialError`] tells which setting is wrong.
    pub fn new(address: Address, config: DialConfig) -> Result<Self, DialError> {
        #[cfg(feature = "quic")]
        if config.quic.is_some() && !address.is_quic() {
            return Err(DialError::QuicUnused {
                address: address.to_string(),
            });
        }
        #[cfg(feature = "tls")]
        {
            let tls = match &address {
                Address::Tls { host, .. } | Address::Quic { host, .. } | Address::QuicTcp { host, .. } => {
                    let dialling = Dialling::new(host, config.tls);
                    dialling.check()?;
                    Some(dialling)
                }
                address if config.tls.is_some() => {
                    return Err(DialError::Unused {
                        address: address.to_string(),
                    });
                }
                _ => None,
            };
            Ok(Self {
                #[cfg(feature = "quic")]
                quic: QuicDialler::new(&config.quic.unwrap_or_default(), &config.limits),
                #[cfg(feature = "quic")]
                fallback: Fallback::default(),
                address,
                tls,
            })
        }
        #[cfg(not(feature = "tls"))]
        {
            let DialConfig { limits: _ } = config;
            Ok(Self { address })
        }
    }

    /// Connects. The addresses of a name are tried in turn, each with its share of the time that is left, so that one that does not answer leaves time for
    /// the others.
    ///
    /// # Errors
    /// [`ConnectError`] names the address and the cause; of several addresses of a name, the last one's.
    pub async fn connect(&self, timeout: Duration) -> Result<ByteStream, ConnectError> {
        match tokio::time::timeout(timeout, self.dial(timeout)).await {
            Ok(result) => result,
            Err(_) => Err(ConnectError::TimedOut {
                address: self.address.to_string(),
                after: timeout,
            }),
        }
    }

    async fn dial(&self, timeout: Duration) -> Result<ByteStream, ConnectError> {
        match &self.address {
            Address::Tcp {
                host,
                port,
                dangerous_plaintext,
            } => {
                dial_each("tcp", host, *port, timeout, async |candidate| {
                    // The resolved address decides: a name says nothing about where the bytes go.
                    if !dangerous_plaintext && !is_loopback(candidate.ip()) {
                        return Err(ConnectError::Plaintext {
                            address: format!("tcp://{candidate}"),
                        });
                    }
                    Ok(ByteStream::tcp(open_tcp("tcp", candidate).await?, candidate))
                })
                .await
            }
            #[cfg(feature = "tls")]
            Address::Tls { host, port } => {
                dial_each("tls", host, *port, timeout, async |candidate| {
                    self.dial_tls(candidate).await
                })
                .await
            }
            #[cfg(feature = "quic")]
            Address::Quic { host, port } => {
                dial_each("quic", host, *port, timeout, async |candidate| {
                    self.dial_quic(candidate, EarlyData::Allowed { within: timeout }).await
                })
                .await
            }
            #[cfg(feature = "quic")]
            Address::QuicTcp { host, port } => {
                dial_each("quic+tcp", host, *port, timeout, async |candidate| {
                    // Only a handshake shows that QUIC gets through.
                    let quic = self.dial_quic(candidate, EarlyData::Forbidden);
                    let quic = async {
                        let patience = timeout.saturating_sub(TELL_BEFORE);
                        tokio::time::timeout(patience, quic).await.unwrap_or_else(|_| {
                            Err(ConnectError::TimedOut {
                                address: format!("quic://{candidate}"),
                                after: patience,
                            })
                        })
                    };
                    self.fallback.connect(quic, self.dial_tls(candidate)).await
                })
                .await
            }
            #[cfg(not(feature = "tls"))]
            Address::Tls { .. } => Err(unsupported(&self.address)),
            #[cfg(not(feature = "quic"))]
            Address::Quic { .. } | Address::QuicTcp { .. } => Err(unsupported(&self.address)),
            #[cfg(unix)]
            Address::Unix { path } => match tokio::net::UnixStream::connect(path).await {
                Ok(stream) => Ok(ByteStream::unix(stream)),
                Err(source) => Err(ConnectError::Io {
                    address: self.address.to_string(),
                    source,
                }),
            },
            #[cfg(not(unix))]
            Address::Unix { .. } => Err(unsupported(&self.address)),
            Address::Mem { name } => mem::connect(name),
        }
    }

    #[cfg(feature = "tls")]
    async fn dial_tls(&self, candidate: SocketAddr) -> Result<ByteStream, ConnectError> {
        let socket = open_tcp("tls", candidate).await?;
        match &self.tls {
            Some(tls) => tls.shake_hands(socket, candidate).await,
            None => Err(unsupported(&self.address)),
        }
    }

    #[cfg(feature = "quic")]
    async fn dial_quic(&self, candidate: SocketAddr, early: EarlyData) -> Result<ByteStream, ConnectError> {
        match &self.tls {
            Some(tls) => self.quic.connect(tls, candidate, early).await,
            None => Err(unsupported(&self.address)),
        }
    }
}

fn unsupported(address: &Address) -> ConnectError {
    ConnectError::Io {
        address: address.to_string(),
        source: io::ErrorKind::Unsupported.into(),
    }
}

async fn open_tcp(scheme: &str, to: SocketAddr) -> Result<TcpStream, ConnectError> {
    TcpStream::connect(to).await.map_err(|source| ConnectError::Io {
        address: format!("{scheme}://{to}"),
        source,
    })
}

async fn dial_each<F>(
    scheme: &str,
    host: &str,
    port: u16,
    timeout: Duration,
    attempt: impl Fn(SocketAddr) -> F,
) -> Result<ByteStream, ConnectError>
where
    F: Future<Output = Result<ByteStream, ConnectError>>,
{
    let until = Instant::now().checked_add(timeout);
    let resolve_error = |source| ConnectError::Resolve {
        host: host.to_owned(),
        source,
    };
    let candidates: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await.map_err(resolve_error)?.collect();
    match first_of(scheme, &candidates, until, attempt).await {
        Some(connected) => connected,
        None => Err(resolve_error(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ))),
    }
}

fn is_about_tls<T>(outcome: &Result<T, ConnectError>) -> bool {
    #[cfg(feature = "tls")]
    return matches!(outcome, Err(ConnectError::Tls { .. }));
    #[cfg(not(feature = "tls"))]
    {
        let _clear = outcome;
        false
    }
}

/// The first candidate that can be connected to, or the last one's error (a failed handshake's, if there was one); `None` if there are no
/// candidates. Each but the last has an equal share of the time until `until` that is left when its turn comes; the last is bounded by the caller alone.
async fn first_of<T, F>(
    scheme: &str,
    candidates: &[SocketAddr],
    until: Option<Instant>,
    attempt: impl Fn(SocketAddr) -> F,
) -> Option<Result<T, ConnectError>>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let mut last = None;
    for (tried, &candidate) in candidates.iter().enumerate() {
        let left = u32::try_from(candidates.len() - tried).unwrap_or(u32::MAX);
        let share = until.filter(|_| left > 1).map(|until| until.saturating_duration_since(Instant::now()) / left);
        let outcome = match share {
            None => attempt(candidate).await,
            Some(share) => match tokio::time::timeout(share, attempt(candidate)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(ConnectError::TimedOut {
                    address: format!("{scheme}://{candidate}"),
                    after: share,
                }),
            },
        };
        match outcome {
            // What is forbidden is not got around by another address of the same name.
            Ok(_) | Err(ConnectError::Plaintext { .. }) => return Some(outcome),
            // A failed handshake tells more than an address behind it at which nobody listens.
            Err(_) if last.as_ref().is_some_and(is_about_tls) => {}
            Err(error) => last = Some(Err(error)),
        }
    }
    last
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::first_of;
    use crate::transport::ConnectError;

    fn candidates(ports: std::ops::Range<u16>) -> Vec<SocketAddr> {
        ports.map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    /// Connects to the candidates with these ports at once, is refused by odd ones, and hears nothing from all others.
    async fn attempt(candidate: SocketAddr, alive: &[u16]) -> Result<u16, ConnectError> {
        if alive.contains(&candidate.port()) {
            return Ok(candidate.port());
        }
        if candidate.port() % 2 == 1 {
            return Err(ConnectError::Io {
                address: candidate.to_string(),
                source: std::io::ErrorKind::ConnectionRefused.into(),
            });
        }
        std::future::pending().await
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_address_leaves_time_for_the_others() {
        let began = Instant::now();
        let until = began + Duration::from_secs(1);
        let connected = first_of("tcp", &candidates(2..4), Some(until), |one| attempt(one, &[3])).await;
        assert_eq!(connected.unwrap().unwrap(), 3);
        assert!(
            (500..510).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
        // One that is refused at once leaves its time to those behind it.
        let began = Instant::now();
        let until = began + Duration::from_secs(1);
        let connected = first_of("tcp", &candidates(1..5), Some(until), |one| attempt(one, &[4])).await;
        assert_eq!(connected.unwrap().unwrap(), 4);
        assert!(
            (330..345).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_candidates_together_keep_the_time() {
        let tried = Mutex::new(Vec::new());
        let began = Instant::now();
        let candidates = candidates(2..8);
        let failed = first_of("tcp", &candidates, Some(began + Duration::from_secs(1)), |one| {
            tried.lock().unwrap().push((one.port(), began.elapsed().as_millis() / 100));
            attempt(one, &[])
        });
        let error = failed.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, ConnectError::Io { address, .. } if address.ends_with(":7")),
            "{error}"
        );
        // 3 and 5 are refused at once.
        assert_eq!(*tried.lock().unwrap(), [(2, 0), (3, 1), (4, 1), (5, 3), (6, 3), (7, 6)]);
        assert!(first_of("tcp", &[], None, |one| attempt(one, &[])).await.is_none());
    }

    #[cfg(feature = "tls")]
    #[tokio::test(start_paused = true)]
    async fn a_failed_handshake_is_what_is_told() {
        let both = candidates(2..4);
        let failed = first_of("tls", &both, None, async |one| {
            if one.port() == 3 {
                return attempt(one, &[]).await;
            }
            Err(ConnectError::Tls {
                address: one.to_string(),
                fault: crate::transport::tls::TlsFault::Expired,
                source: std::io::Error::other("expired"),
            })
        });
        let error = failed.await.unwrap().unwrap_err();
        assert!(error.to_string().contains("has expired"), "{error}");
    }
}
