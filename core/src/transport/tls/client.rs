//! What a client trusts, and what it shows.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::error::{TlsConfigError, TlsFault};
use super::{ALPN, certificates, identity, private_key, provider, read, roots, stream};
use crate::transport::error::ConnectError;
use crate::transport::io::{ByteStream, tune};

/// How a client checks servers, and what it shows them.
///
/// Without settings it trusts the authorities that the system trusts and shows no certificate. The name that a server must prove is the host of the
/// target, unless [`server_name`](Self::server_name) says another. Certificate checks cannot be switched off.
///
/// # Examples
/// ```no_run
/// # mod sinew { pub use sinew_core::client::Channel; pub use sinew_core::transport::tls::ClientTls; }
/// use sinew::{Channel, ClientTls};
///
/// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let tls = ClientTls::new()
///     .roots_pem_file("authority.pem")?
///     .identity_pem_files("billing.pem", "billing.key")?;
/// let channel = Channel::builder().tls(tls).connect("tls://orders.internal:7000").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
pub struct ClientTls {
    roots: Option<Arc<RootCertStore>>,
    identity: Option<Arc<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>>,
    server_name: Option<ServerName<'static>>,
}

impl ClientTls {
    /// Trusts what the system trusts, and shows nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts the authorities in `pem` in place of the system's.
    ///
    /// # Errors
    /// [`TlsConfigError`] tells what is wrong with the text.
    pub fn roots_pem(mut self, pem: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        self.roots = Some(Arc::new(roots("the root certificates", pem.as_ref())?));
        Ok(self)
    }

    /// As [`roots_pem`](Self::roots_pem), out of a file, which is read once.
    ///
    /// # Errors
    /// [`TlsConfigError`] names the file and what is wrong with it.
    pub fn roots_pem_file(mut self, path: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let path = path.as_ref();
        self.roots = Some(Arc::new(roots(&path.display().to_string(), &read(path)?)?));
        Ok(self)
    }

    /// Shows the certificates in `chain`, the client's own first, to servers that ask for one; `key` is the private key of the first.
    ///
    /// # Errors
    /// [`TlsConfigError`] tells what is wrong with the texts; also if the key belongs to another certificate.
    pub fn identity_pem(self, chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, TlsConfigError> {
        self.with_identity(
            "the client certificate",
            chain.as_ref(),
            "the client's key",
            key.as_ref(),
        )
    }

    /// As [`identity_pem`](Self::identity_pem), out of files, which are read once.
    ///
    /// # Errors
    /// [`TlsConfigError`] names the file and what is wrong with it.
    pub fn identity_pem_files(self, chain: impl AsRef<Path>, key: impl AsRef<Path>) -> Result<Self, TlsConfigError> {
        let (chain, key) = (chain.as_ref(), key.as_ref());
        let (chain_pem, key_pem) = (read(chain)?, read(key)?);
        self.with_identity(
            &chain.display().to_string(),
            &chain_pem,
            &key.display().to_string(),
            &key_pem,
        )
    }

    fn with_identity(mut self, what: &str, chain: &[u8], key_what: &str, key: &[u8]) -> Result<Self, TlsConfigError> {
        let chain = certificates(what, chain)?;
        let key = private_key(key_what, key)?;
        rustls::sign::CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider())
            .map_err(|error| TlsConfigError::certificate(what, error))?;
        self.identity = Some(Arc::new((chain, key)));
        Ok(self)
    }

    /// Sets the name that the server's certificate must be for, in place of the target's host: where a target is an address, and the certificate is for a name.
    ///
    /// # Errors
    /// [`TlsConfigError::Name`] if it is neither a DNS name nor an IP address.
    pub fn server_name(mut self, name: &str) -> Result<Self, TlsConfigError> {
        self.server_name = Some(server_name(name)?);
        Ok(self)
    }

    /// The configuration of rustls, and the name to check.
    fn config(&self, host: &str, identity: Option<&str>) -> Result<Prepared, TlsConfigError> {
        let roots = match &self.roots {
            Some(roots) => Arc::clone(roots),
            None => system_roots()?,
        };
        prepare(
            roots,
            self.identity.as_deref(),
            self.server_name.clone(),
            identity.unwrap_or(host),
        )
    }
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The key is nobody's business.
        f.debug_struct("ClientTls")
            .field("own_roots", &self.roots.is_some())
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish()
    }
}

/// What a channel needs to dial: made once, because parsing roots takes its time.
#[derive(Clone)]
pub(crate) struct Prepared {
    pub(super) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
    #[cfg(feature = "quic")]
    pub(super) verifier: Arc<WebPkiServerVerifier>,
    /// The same for QUIC, made when needed.
    #[cfg(feature = "quic")]
    pub(super) quic: Arc<OnceLock<super::quic::QuicClient>>,
}

/// The configurations of a channel: one for every address, or, if nothing was configured, one for loopback and one for elsewhere, made when needed.
pub(crate) struct Dialling {
    host: String,
    tls: Option<ClientTls>,
    /// What servers must prove to be in place of the host.
    identity: Option<String>,
    elsewhere: OnceLock<Prepared>,
    #[cfg(feature = "dev-tls")]
    loopback: OnceLock<Prepared>,
}

impl Dialling {
    pub(crate) fn new(host: &str, tls: Option<ClientTls>) -> Self {
        Self {
            host: host.to_owned(),
            tls,
            identity: None,
            elsewhere: OnceLock::new(),
            #[cfg(feature = "dev-tls")]
            loopback: OnceLock::new(),
        }
    }

    /// Servers must prove to be `identity` in place of the host, unless the settings say another name.
    pub(crate) fn expecting(mut self, identity: Option<String>) -> Self {
        self.identity = identity;
        self
    }

    /// What is wrong with the settings, as far as that can be told before dialling.
    pub(crate) fn check(&self) -> Result<(), TlsConfigError> {
        match &self.tls {
            Some(_) => self.elsewhere().map(drop),
            None => server_name(self.identity.as_ref().unwrap_or(&self.host)).map(drop),
        }
    }

    fn elsewhere(&self) -> Result<&Prepared, TlsConfigError> {
        once(&self.elsewhere, || match &self.tls {
            Some(tls) => tls.config(&self.host, self.identity.as_deref()),
            None => ClientTls::new().config(&self.host, self.identity.as_deref()),
        })
    }

    /// Without settings the development authority is trusted on loopback, and nowhere else.
    #[cfg(feature = "dev-tls")]
    fn loopback(&self) -> Result<&Prepared, TlsConfigError> {
        if self.tls.is_some() {
            return self.elsewhere();
        }
        once(&self.loopback, || {
            let mut roots = RootCertStore::empty();
            let authority = super::dev::root()?;
            roots
                .add(authority)
                .map_err(|error| TlsConfigError::certificate("the development authority", error))?;
            prepare(Arc::new(roots), None, None, &self.host)
        })
    }

    #[cfg(not(feature = "dev-tls"))]
    fn loopback(&self) -> Result<&Prepared, TlsConfigError> {
        self.elsewhere()
    }

    /// What goes for `to`, which `address` names in errors.
    pub(crate) fn prepared(&self, to: SocketAddr, address: &str) -> Result<&Prepared, ConnectError> {
        let is_loopback = crate::transport::address::is_loopback(to.ip());
        let prepared = if is_loopback { self.loopback() } else { self.elsewhere() };
        prepared.map_err(|source| ConnectError::TlsConfig {
            address: address.to_owned(),
            source,
        })
    }

    /// Makes the socket an encrypted stream.
    ///
    /// # Errors
    /// [`ConnectError`] tells why the handshake failed.
    pub(crate) async fn shake_hands(&self, socket: TcpStream, to: SocketAddr) -> Result<ByteStream, ConnectError> {
        let address = format!("tls://{to}");
        let prepared = self.prepared(to, &address)?;
        tune(&socket, to);
        let connector = TlsConnector::from(Arc::clone(&prepared.config));
        let failed = |source: std::io::Error| ConnectError::Tls {
            address: address.clone(),
            fault: TlsFault::of(&source),
            source,
        };
        let (socket, session) = connector.connect(prepared.name.clone(), socket).await.map_err(failed)?.into_inner();
        if session.alpn_protocol() != Some(ALPN) {
            return Err(failed(std::io::Error::other(rustls::Error::NoApplicationProtocol)));
        }
        let identity = identity(&session);
        let (reader, writer) = stream::split(socket, session.into());
        Ok(ByteStream::other(reader, writer, address).with_identity(identity))
    }
}

impl fmt::Debug for Dialling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialling").field("host", &self.host).field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn once(
    cell: &OnceLock<Prepared>,
    make: impl FnOnce() -> Result<Prepared, TlsConfigError>,
) -> Result<&Prepared, TlsConfigError> {
    match cell.get() {
        Some(prepared) => Ok(prepared),
        None => {
            let made = make()?;
            Ok(cell.get_or_init(|| made))
        }
    }
}

fn prepare(
    roots: Arc<RootCertStore>,
    identity: Option<&(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    name: Option<ServerName<'static>>,
    host: &str,
) -> Result<Prepared, TlsConfigError> {
    let provider = provider();
    let unusable = |what| move |error| TlsConfigError::certificate(what, error);
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
    let verifier = verifier.map_err(|error| {
        TlsConfigError::certificate("the root certificates", rustls::Error::General(error.to_string()))
    })?;
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(unusable("TLS 1.3"))?
        .with_webpki_verifier(Arc::clone(&verifier));
    let mut config = match identity {
        Some((chain, key)) => builder
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(unusable("the client certificate"))?,
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![ALPN.to_vec()];
    // A resumed session would live on what was verified once, after the certificate has expired. Connections are few and long.
    config.resumption = rustls::client::Resumption::disabled();
    #[cfg(feature = "tls-keylog")]
    {
        config.key_log = super::key_log();
    }
    let name = match name {
        Some(name) => name,
        None => server_name(host)?,
    };
    Ok(Prepared {
        config: Arc::new(config),
        name,
        #[cfg(feature = "quic")]
        verifier,
        #[cfg(feature = "quic")]
        quic: Arc::default(),
    })
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsConfigError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsConfigError::Name { name: name.to_owned() })
}

/// What the system trusts; read once, unless there was nothing.
fn system_roots() -> Result<Arc<RootCertStore>, TlsConfigError> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    if let Some(roots) = ROOTS.get() {
        return Ok(Arc::clone(roots));
    }
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    // What the system has may hold certificates that are of no use; the others count.
    let _counts = store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let errors: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        return Err(TlsConfigError::NoRoots {
            reason: errors.join("; "),
        });
    }
    Ok(Arc::clone(ROOTS.get_or_init(|| Arc::new(store))))
}
