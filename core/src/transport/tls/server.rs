//! What a server shows, and whom it lets in.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::error::{TlsConfigError, TlsFault};
use super::{ALPN, certificates, identity, private_key, provider, read, roots, stream};
use crate::time;
use crate::transport::error::{HandshakeError, WithCauses};
use crate::transport::io::{ByteStream, tune};

/// How often the files of a certificate are looked at, at most: a handshake after this time brings the next look.
pub(super) const RELOAD_PAUSE: Duration = Duration::from_secs(1);
/// How long a handshake waits for that look; a disk that takes longer holds up nobody.
const RELOAD_PATIENCE: Duration = Duration::from_millis(100);
/// How long a peer whose handshake failed may still send until its connection is closed.
const SEE_OFF_TIME: Duration = Duration::from_secs(1);
/// How many bytes it may still send.
const SEE_OFF_BYTES_MAX: u64 = 64 * 1024;
/// Tickets that a client gets to resume its session with, each good for one connection: a channel makes one at a time.
#[cfg(feature = "quic")]
const TICKETS: usize = 2;
/// Sessions that a server keeps for 0-RTT; the oldest go first, and their clients shake hands in full.
#[cfg(feature = "quic")]
const SESSIONS_MAX: usize = 4_096;

/// The certificate that a server shows, and the clients that it lets in.
///
/// A certificate out of files is watched: when the files change, new handshakes get the new one, and connections that are there live on. A bad file keeps the
/// old one, and is logged once.
///
/// # Examples
/// ```no_run
/// # mod sinew {
/// #     pub use sinew_core::server::Server;
/// #     pub use sinew_core::service::Service;
/// #     pub use sinew_core::transport::tls::ServerTls;
/// # }
/// use sinew::{Server, ServerTls};
///
/// # async fn run(orders: impl sinew::Service) -> Result<(), Box<dyn std::error::Error>> {
/// let tls = ServerTls::from_pem_files("orders.pem", "orders.key")?.client_roots_pem_file("authority.pem")?;
/// Server::builder().service(orders).tls(tls).bind("tls://0.0.0.0:7000").serve().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct ServerTls {
    source: Arc<Source>,
    /// Who signs the certificates that clients are asked for.
    client_roots: Option<Arc<RootCertStore>>,
    client_optional: bool,
}

impl ServerTls {
    /// Shows the certificates in `chain`, the server's own first; `key` is the private key of the first.
    ///
    /// # Errors
    /// [`TlsConfigError`] tells what is wrong with the texts; also if the key belongs to another certificate.
    pub fn from_pem(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        let shown = certified("the certificate", chain.as_ref(), "the private key", key.as_ref())?;
        Ok(Self::of(Source::fixed(shown)))
    }

    /// As [`from_pem`](Self::from_pem), out of files, which are read again when they change.
    ///
    /// # Errors
    /// [`TlsConfigError`] names the file and what is wrong with it.
    pub fn from_pem_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, TlsConfigError> {
        Ok(Self::of(Source::watched(chain.into(), key.into())?))
    }

    /// The development certificate of this user, for loopback.
    #[cfg(feature = "dev-tls")]
    pub(crate) fn development(local: std::net::IpAddr) -> Result<Self, TlsConfigError> {
        let (chain, key) = super::dev::leaf(local)?;
        Self::from_pem(chain, key)
    }

    fn of(source: Source) -> Self {
        Self {
            source: Arc::new(source),
            client_roots: None,
            client_optional: false,
        }
    }

    /// Lets in only clients whose certificate one of the authorities in `pem` has signed; `Cx::peer` tells handlers which one it was.
    ///
    /// # Errors
    /// [`TlsConfigError`] tells what is wrong with the text.
    pub fn client_roots_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        self.client_roots = Some(Arc::new(roots("the clients' root certificates", pem.as_ref())?));
        Ok(self)
    }

    /// As [`client_roots_pem`](Self::client_roots_pem), out of a file, which is read once.
    ///
    /// # Errors
    /// [`TlsConfigError`] names the file and what is wrong with it.
    pub fn client_roots_pem_file(mut self, path: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let path = path.as_ref();
        self.client_roots = Some(Arc::new(roots(&path.display().to_string(), &read(path)?)?));
        Ok(self)
    }

    /// Lets in clients without a certificate, too; one that is shown must still be signed by the authorities that were given.
    #[must_use]
    pub fn client_certificate_optional(mut self) -> Self {
        self.client_optional = true;
        self
    }

    /// Reads the files of the certificate again now; true if they hold another one, which new handshakes get. Does nothing for a certificate that came as
    /// text.
    ///
    /// # Errors
    /// [`TlsConfigError`] tells what is wrong with the files; the certificate that is in use stays.
    pub fn reload(&self) -> Result<bool, TlsConfigError> {
        self.source.reload()
    }

    /// What a listener needs.
    pub(crate) fn acceptor(&self) -> Result<Acceptor, TlsConfigError> {
        let provider = provider();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsConfigError::certificate("TLS 1.3", error))?;
        let verifier = match &self.client_roots {
            None if self.client_optional => return Err(TlsConfigError::OptionalWithoutRoots),
            None => None,
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
                Some(match self.client_optional {
                    true => verifier.allow_unauthenticated().build(),
                    false => verifier.build(),
                })
            }
        };
        let builder = match verifier {
            None => builder.with_no_client_auth(),
            Some(Ok(verifier)) => builder.with_client_cert_verifier(verifier),
            Some(Err(error)) => {
                let error = rustls::Error::General(error.to_string());
                return Err(TlsConfigError::certificate("the clients' root certificates", error));
            }
        };
        let mut config = builder.with_cert_resolver(Arc::clone(&self.source) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        // A resumed session would live on what was verified once, after the certificate has expired. Connections are few and long.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        #[cfg(feature = "tls-keylog")]
        {
            config.key_log = super::key_log();
        }
        Ok(Acceptor {
            config: Arc::new(config),
            source: Arc::clone(&self.source),
            #[cfg(feature = "quic")]
            asks_clients: self.client_roots.is_some(),
        })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_struct("ServerTls").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Shakes hands with clients.
#[derive(Clone)]
pub(crate) struct Acceptor {
    pub(super) config: Arc<ServerConfig>,
    source: Arc<Source>,
    /// Clients are asked for certificates.
    #[cfg(feature = "quic")]
    asks_clients: bool,
}

impl Acceptor {
    /// Looks at the certificate's files, if the last look is long enough ago.
    #[cfg(feature = "quic")]
    pub(crate) async fn look(&self) {
        Source::look(&self.source).await;
    }

    /// The certificate in use.
    #[cfg(feature = "quic")]
    pub(crate) fn certificate(&self) -> Arc<CertifiedKey> {
        self.source.shown.load_full()
    }

    /// A configuration whose sessions clients may resume, for as long as the certificate is in use. Not where clients show certificates: a resumed session
    /// would let one in after its own has expired.
    ///
    /// For `zero_rtt` the server keeps the sessions itself and each is good for one: a first flight cannot be replayed to the server that took it.
    #[cfg(feature = "quic")]
    pub(crate) fn with_tickets(&self, zero_rtt: bool) -> ServerConfig {
        let mut config = ServerConfig::clone(&self.config);
        if self.asks_clients {
            return config;
        }
        if zero_rtt {
            config.session_storage = rustls::server::ServerSessionMemoryCache::new(SESSIONS_MAX);
            // The only other value that QUIC allows.
            config.max_early_data_size = u32::MAX;
            config.send_tls13_tickets = TICKETS;
        } else if let Ok(ticketer) = rustls::crypto::ring::Ticketer::new() {
            config.ticketer = ticketer;
            config.send_tls13_tickets = TICKETS;
        }
        config
    }

    /// Whether clients are asked for certificates.
    #[cfg(feature = "quic")]
    pub(crate) fn asks_clients(&self) -> bool {
        self.asks_clients
    }

    /// Makes the socket an encrypted stream.
    ///
    /// # Errors
    /// [`HandshakeError`] tells why the handshake failed.
    pub(crate) async fn shake_hands(self, socket: TcpStream, peer: SocketAddr) -> Result<ByteStream, HandshakeError> {
        Source::look(&self.source).await;
        tune(&socket, peer);
        let failed = |source: std::io::Error| {
            let fault = TlsFault::of(&source);
            HandshakeError::new(fault, fault == TlsFault::HungUp, source)
        };
        let accepted = match TlsAcceptor::from(self.config).accept(socket).into_fallible().await {
            Ok(accepted) => accepted,
            Err((error, socket)) => {
                see_off(socket).await;
                return Err(failed(error));
            }
        };
        let (socket, session) = accepted.into_inner();
        if session.alpn_protocol() != Some(ALPN) {
            return Err(failed(std::io::Error::other(rustls::Error::NoApplicationProtocol)));
        }
        let identity = identity(&session);
        let (reader, writer) = stream::split(socket, session.into());
        Ok(ByteStream::other(reader, writer, format!("tls://{peer}")).with_identity(identity))
    }
}

/// Lets the alert arrive that says why: a socket that is closed with bytes unread is reset, and what was sent on it may be lost.
async fn see_off(mut socket: TcpStream) {
    let _gone = socket.shutdown().await;
    let mut unread = (&mut socket).take(SEE_OFF_BYTES_MAX);
    let mut nowhere = tokio::io::sink();
    let reading = tokio::io::copy(&mut unread, &mut nowhere);
    // However it ends, this was the last that was done for the peer.
    let _ended = tokio::time::timeout(SEE_OFF_TIME, reading).await;
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").field("source", &self.source).finish_non_exhaustive()
    }
}

/// Where the certificate comes from, and the one in use.
struct Source {
    shown: ArcSwap<CertifiedKey>,
    files: Option<Files>,
}

struct Files {
    chain: PathBuf,
    key: PathBuf,
    /// When a handshake last began to look.
    looked: Mutex<Instant>,
    /// Held while they are read, so that what was read last is what is shown.
    seen: Mutex<Seen>,
}

/// What the files held when they were last read, good or bad.
struct Seen {
    chain: Vec<u8>,
    key: Vec<u8>,
    /// What they hold cannot be used, or they cannot be read; it was logged.
    bad: bool,
}

impl Source {
    fn fixed(shown: CertifiedKey) -> Self {
        Self {
            shown: ArcSwap::from_pointee(shown),
            files: None,
        }
    }

    fn watched(chain: PathBuf, key: PathBuf) -> Result<Self, TlsConfigError> {
        let (chain_pem, key_pem) = (read(&chain)?, read(&key)?);
        let shown = certified(
            &chain.display().to_string(),
            &chain_pem,
            &key.display().to_string(),
            &key_pem,
        )?;
        Ok(Self {
            shown: ArcSwap::from_pointee(shown),
            files: Some(Files {
                chain,
                key,
                looked: Mutex::new(time::now()),
                seen: Mutex::new(Seen {
                    chain: chain_pem,
                    key: key_pem,
                    bad: false,
                }),
            }),
        })
    }

    /// Looks at the files, if the last look is long enough ago.
    async fn look(source: &Arc<Self>) {
        let Some(files) = &source.files else { return };
        {
            let mut looked = files.looked.lock().unwrap_or_else(PoisonError::into_inner);
            let now = time::now();
            if now.saturating_duration_since(*looked) < RELOAD_PAUSE {
                return;
            }
            *looked = now;
        }
        let owned = Arc::clone(source);
        let reading = tokio::task::spawn_blocking(move || owned.reload());
        // Too late for this handshake, it is in time for the next; errors were logged.
        let _looked = tokio::time::timeout(RELOAD_PATIENCE, reading).await;
    }

    fn reload(&self) -> Result<bool, TlsConfigError> {
        let Some(files) = &self.files else { return Ok(false) };
        let mut seen = files.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let was_bad = seen.bad;
        let loaded = read(&files.chain).and_then(|chain| {
            let key = read(&files.key)?;
            let is_new = seen.chain != chain || seen.key != key;
            (seen.chain, seen.key) = (chain, key);
            if !is_new && !was_bad {
                return Ok(None);
            }
            let (chain, key) = (files.chain.display().to_string(), files.key.display().to_string());
            certified(&chain, &seen.chain, &key, &seen.key).map(|shown| Some((shown, is_new)))
        });
        match loaded {
            Ok(None) => Ok(false),
            Ok(Some((shown, is_new))) => {
                seen.bad = false;
                self.shown.store(Arc::new(shown));
                if is_new {
                    tracing::info!(chain = %files.chain.display(), "new handshakes get the new certificate");
                }
                Ok(is_new)
            }
            Err(error) => {
                seen.bad = true;
                if !was_bad {
                    tracing::warn!(error = %WithCauses(&error), "the certificate cannot be taken up; the old one stays");
                }
                Err(error)
            }
        }
    }
}

impl ResolvesServerCert for Source {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.shown.load_full())
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.files {
            Some(files) => write!(f, "Source({}, {})", files.chain.display(), files.key.display()),
            None => f.write_str("Source(text)"),
        }
    }
}

/// The certificate with its key, which belong together.
pub(super) fn certified(what: &str, chain: &[u8], key_what: &str, key: &[u8]) -> Result<CertifiedKey, TlsConfigError> {
    let chain = certificates(what, chain)?;
    let key = private_key(key_what, key)?;
    CertifiedKey::from_der(chain, key, &provider()).map_err(|error| TlsConfigError::certificate(what, error))
}
