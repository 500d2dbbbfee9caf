//! TLS 1.3 over TCP: configurations, handshakes, and the encrypted byte stream under the mux.
//!
//! [`ServerTls`] and [`ClientTls`] hold what users configure. A handshake makes of a socket a `ByteStream` like any other; `stream` holds its
//! session. Every handshake names the protocol (ALPN): a peer that speaks something else is told apart before its first byte.
//!
//! Not here: which addresses need TLS (`connect`, `listen`), how many handshakes may be under way (`server`).

mod client;
#[cfg(feature = "dev-tls")]
mod dev;
mod error;
#[cfg(feature = "quic")]
mod quic;
mod server;
mod stream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{CommonState, RootCertStore};

pub use client::ClientTls;
pub(crate) use client::Dialling;
#[cfg(feature = "quic")]
pub(crate) use client::Prepared;
pub use error::{TlsConfigError, TlsFault};
#[cfg(feature = "quic")]
pub(crate) use quic::QuicClient;
pub(crate) use server::Acceptor;
pub use server::ServerTls;

use crate::context::Identity;

/// The name of the protocol in every handshake.
pub const ALPN: &[u8] = b"sinew/1";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Writes secrets where `SSLKEYLOGFILE` says; whoever has them reads the traffic.
#[cfg(feature = "tls-keylog")]
fn key_log() -> Arc<dyn rustls::KeyLog> {
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        tracing::warn!("SSLKEYLOGFILE is set: the secrets of TLS sessions are written down");
    }
    Arc::new(rustls::KeyLogFile::new())
}

/// The certificates in `pem`; `what` names them in errors.
fn certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsConfigError> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| TlsConfigError::pem(what, &error))?;
    if certificates.is_empty() {
        return Err(TlsConfigError::Empty {
            what: what.to_owned(),
            expected: "a block `BEGIN CERTIFICATE`",
        });
    }
    Ok(certificates)
}

/// The first private key in `pem`.
fn private_key(what: &str, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsConfigError> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(rustls::pki_types::pem::Error::NoItemsFound) => Err(TlsConfigError::Empty {
            what: what.to_owned(),
            expected: "a block `BEGIN PRIVATE KEY` (PKCS#8, SEC1 or PKCS#1), not encrypted",
        }),
        Err(error) => Err(TlsConfigError::pem(what, &error)),
    }
}

/// A store of the root certificates in `pem`.
fn roots(what: &str, pem: &[u8]) -> Result<RootCertStore, TlsConfigError> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(what, pem)? {
        store.add(certificate).map_err(|source| TlsConfigError::Certificate {
            what: what.to_owned(),
            source,
        })?;
    }
    Ok(store)
}

/// Reads a file of a configuration.
fn read(path: &std::path::Path) -> Result<Vec<u8>, TlsConfigError> {
    std::fs::read(path).map_err(|source| TlsConfigError::File {
        path: path.display().to_string(),
        source,
    })
}

/// What the peer proved in the handshake.
fn identity(session: &CommonState) -> Option<Arc<Identity>> {
    session.peer_certificates().map(identity_of)
}

/// What a chain of certificates says about its owner.
pub(crate) fn identity_of(chain: &[CertificateDer<'_>]) -> Arc<Identity> {
    let (mut dns_names, mut uris) = (Vec::new(), Vec::new());
    if let Some(own) = chain.first()
        && let Ok(parsed) = webpki::EndEntityCert::try_from(own)
    {
        dns_names.extend(parsed.valid_dns_names().map(str::to_owned));
        uris.extend(parsed.valid_uri_names().map(str::to_owned));
    }
    let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
    Arc::new(Identity::new(chain, dns_names, uris))
}

#[cfg(test)]
mod tests;
