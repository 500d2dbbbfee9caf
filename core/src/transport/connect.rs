//! Dialling: address -> byte stream, handshake included, within the connect time-out.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::address::{Address, HostPort, is_loopback};
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

/// How long after one address of a name the next is tried, if neither failed. Source: RFC 8305 section 8.
const STAGGER: Duration = Duration::from_millis(250);
/// How long before the time-out attempts are given up: whoever waits would hear of the time-out alone otherwise, whatever the causes were.
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
#[derive(Clone, Debug, Default)]
pub struct DialConfig {
    /// For encrypted addresses; without it, servers are checked against what the system trusts, and on loopback against the development authority.
    #[cfg(feature = "tls")]
    pub tls: Option<ClientTls>,
    /// For `quic://`; without it the defaults.
    #[cfg(feature = "quic")]
    pub quic: Option<ClientQuic>,
    /// The name that servers must prove where neither the settings of TLS say one nor the host is to be trusted; on loopback without settings, none.
    pub identity: Option<String>,
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
                    let dialling = Dialling::new(host, config.tls).expecting(config.identity);
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
            let DialConfig { limits: _, identity: _ } = config;
            Ok(Self { address })
        }
    }

    /// Connects. The addresses of a name are tried one after the other, each a quarter of a second after the one before it at the latest.
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
                        // Before all attempts are given up.
                        let patience = timeout.saturating_sub(TELL_BEFORE * 2);
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

/// Connects by the first of `diallers` that succeeds; all of one endpoint, the preferred one first.
///
/// # Errors
/// As [`Dialler::connect`]: of several, the last one's.
pub async fn connect_any(diallers: &[Dialler], timeout: Duration) -> Result<ByteStream, ConnectError> {
    let [several @ .., last] = diallers else {
        return Err(ConnectError::NoAddress);
    };
    if several.is_empty() {
        return last.connect(timeout).await;
    }
    let until = Instant::now().checked_add(timeout);
    let connected = first_of(diallers.iter().collect(), until, |_| false, |one| one.connect(timeout)).await;
    connected.unwrap_or_else(|| {
        Err(ConnectError::TimedOut {
            address: last.address.to_string(),
            after: timeout,
        })
    })
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
    if candidates.is_empty() {
        return Err(resolve_error(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        )));
    }
    let connected = first_of(alternating(&candidates), until, is_forbidden, attempt).await;
    connected.unwrap_or_else(|| {
        Err(ConnectError::TimedOut {
            address: format!("{scheme}://{}", HostPort(host, port)),
            after: timeout,
        })
    })
}

/// What is forbidden is not got around by another address of the same name.
fn is_forbidden(error: &ConnectError) -> bool {
    matches!(error, ConnectError::Plaintext { .. })
}

fn is_about_tls(error: &ConnectError) -> bool {
    #[cfg(feature = "tls")]
    return matches!(error, ConnectError::Tls { .. });
    #[cfg(not(feature = "tls"))]
    {
        let _clear = error;
        false
    }
}

/// The first connection to any of the candidates, or the last one's error (a failed handshake's, if there was one); `None` if none of them said anything in
/// time.
///
/// They are tried in turn, the next one as soon as one fails or [`STAGGER`] after the one before it, so that one that
/// does not answer holds up nobody; all of them get their turn before `until`, shortly before which the cause is told. Those that lose are dropped.
///
/// Source: RFC 8305 section 5.
async fn first_of<C, T, F>(
    candidates: Vec<C>,
    until: Option<Instant>,
    is_final: fn(&ConnectError) -> bool,
    attempt: impl Fn(C) -> F,
) -> Option<Result<T, ConnectError>>
where
    F: Future<Output = Result<T, ConnectError>>,
{
    let patience = until.map(|until| {
        until
            .saturating_duration_since(Instant::now())
            .saturating_sub(TELL_BEFORE.min(until.saturating_duration_since(Instant::now()) / 10))
    });
    let count = u32::try_from(candidates.len().max(1)).unwrap_or(u32::MAX);
    let mut waiting = candidates.into_iter();
    let stagger = patience.map_or(STAGGER, |patience| STAGGER.min(patience / count));
    let mut give_up = pin!(sleep_or_never(patience));
    let mut next_turn = pin!(tokio::time::sleep(Duration::ZERO));
    let mut attempts: Vec<Pin<Box<F>>> = Vec::new();
    let mut last = None;
    std::future::poll_fn(|task| {
        loop {
            let mut failed = false;
            let mut index = 0;
            while let Some(running) = attempts.get_mut(index) {
                match running.as_mut().poll(task) {
                    Poll::Pending => index += 1,
                    Poll::Ready(Ok(connected)) => return Poll::Ready(Some(Ok(connected))),
                    Poll::Ready(Err(error)) if is_final(&error) => return Poll::Ready(Some(Err(error))),
                    Poll::Ready(Err(error)) => {
                        drop(attempts.swap_remove(index));
                        failed = true;
                        // A failed handshake tells more than an address behind it at which nobody listens.
                        if !last.as_ref().is_some_and(is_about_tls) {
                            last = Some(error);
                        }
                    }
                }
            }
            if failed || attempts.is_empty() || next_turn.as_mut().poll(task).is_ready() {
                if let Some(candidate) = waiting.next() {
                    next_turn.as_mut().reset(Instant::now() + stagger);
                    attempts.push(Box::pin(attempt(candidate)));
                    continue;
                }
                if attempts.is_empty() {
                    return Poll::Ready(last.take().map(Err));
                }
            }
            if give_up.as_mut().poll(task).is_ready() {
                return Poll::Ready(last.take().map(Err));
            }
            return Poll::Pending;
        }
    })
    .await
}

/// The addresses in their order, but each of another family than the one before it, as long as there are such.
fn alternating(candidates: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v6 = candidates.first().is_some_and(SocketAddr::is_ipv6);
    let (mut one, mut other): (VecDeque<SocketAddr>, VecDeque<SocketAddr>) =
        candidates.iter().partition(|candidate| candidate.is_ipv6() == first_is_v6);
    let mut ordered = Vec::with_capacity(candidates.len());
    while let Some(candidate) = one.pop_front() {
        ordered.push(candidate);
        ordered.extend(other.pop_front());
    }
    ordered.extend(other);
    ordered
}

async fn sleep_or_never(patience: Option<Duration>) {
    match patience {
        Some(patience) => tokio::time::sleep(patience).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
    use std::sync::Mutex;
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{alternating, first_of, is_forbidden};
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
        let connected = first_of(candidates(2..4), Some(until), is_forbidden, |one| attempt(one, &[3])).await;
        assert_eq!(connected.unwrap().unwrap(), 3);
        assert!(
            (250..260).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
        // One that is refused at once leaves its time to those behind it.
        let began = Instant::now();
        let until = began + Duration::from_secs(1);
        let connected = first_of(candidates(1..5), Some(until), is_forbidden, |one| attempt(one, &[4])).await;
        assert_eq!(connected.unwrap().unwrap(), 4);
        assert!(
            (245..255).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn all_candidates_together_keep_the_time() {
        let tried = Mutex::new(Vec::new());
        let began = Instant::now();
        let candidates = candidates(2..8);
        let failed = first_of(candidates, Some(began + Duration::from_secs(1)), is_forbidden, |one| {
            tried.lock().unwrap().push((one.port(), began.elapsed().as_millis() / 100));
            attempt(one, &[])
        });
        let error = failed.await.unwrap().unwrap_err();
        assert!(
            matches!(&error, ConnectError::Io { address, .. } if address.ends_with(":7")),
            "{error}"
        );
        assert!(
            (975..990).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
        // 3 and 5 are refused at once.
        assert_eq!(*tried.lock().unwrap(), [(2, 0), (3, 1), (4, 1), (5, 3), (6, 3), (7, 4)]);
        assert!(first_of(Vec::new(), None, is_forbidden, |one| attempt(one, &[])).await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn families_take_turns_and_a_dead_one_costs_a_quarter_of_a_second() {
        let six = |port| SocketAddr::from((Ipv6Addr::LOCALHOST, port));
        let four = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let listed = [six(2), six(4), six(6), four(8), four(10)];
        assert_eq!(alternating(&listed), [six(2), four(8), six(4), four(10), six(6)]);
        assert_eq!(alternating(&[]), []);
        let began = Instant::now();
        let until = Some(began + Duration::from_secs(5));
        let connected = first_of(alternating(&listed), until, is_forbidden, |one| attempt(one, &[8, 10])).await;
        assert_eq!(connected.unwrap().unwrap(), 8);
        assert!(
            (250..255).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
    }

    #[cfg(feature = "tls")]
    #[tokio::test(start_paused = true)]
    async fn a_failed_handshake_is_what_is_told() {
        let both = candidates(2..4);
        let failed = first_of(both, None, is_forbidden, async |one| {
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
