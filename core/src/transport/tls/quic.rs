//! What a client's TLS is under QUIC: sessions are resumed, and why a certificate was refused is kept.
//!
//! The QUIC library passes on an error of TLS as its text. The verifier here keeps the errors that it returned, so that the one behind such a text is found
//! again, and nobody has to read texts that are not made to be read.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, Tls12Resumption, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

use super::client::Prepared;
use super::error::TlsConfigError;

/// Servers whose sessions a channel keeps: one target, a few addresses.
const SESSIONS_MAX: usize = 8;
/// Errors that are kept until their connection fails, which it does at once.
const ERRORS_MAX: usize = 16;

/// A client's configuration for QUIC.
pub(crate) struct QuicClient {
    pub(crate) crypto: Arc<QuicClientConfig>,
    refused: Arc<Refused>,
}

impl QuicClient {
    /// The error of TLS with this text, if a certificate was refused with it a moment ago.
    pub(crate) fn refused(&self, text: &str) -> Option<Error> {
        self.refused.find(text)
    }

    /// Checks a server's certificates as of now.
    pub(crate) fn check(&self, chain: &[CertificateDer<'_>], name: &ServerName<'_>) -> Result<(), Error> {
        let (own, others) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
        self.refused.inner.verify_server_cert(own, others, name, &[], UnixTime::now()).map(drop)
    }

    #[cfg(test)]
    pub(crate) fn verified(&self) -> usize {
        self.refused.verified.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Prepared {
    /// The same for QUIC.
    pub(crate) fn quic(&self, zero_rtt: bool) -> Result<&QuicClient, TlsConfigError> {
        if let Some(made) = self.quic.get() {
            return Ok(made);
        }
        let refused = Arc::new(Refused {
            inner: Arc::clone(&self.verifier),
            errors: Mutex::default(),
            #[cfg(test)]
            verified: std::sync::atomic::AtomicUsize::new(0),
        });
        let mut config = ClientConfig::clone(&self.config);
        config.dangerous().set_certificate_verifier(Arc::clone(&refused) as Arc<dyn ServerCertVerifier>);
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX).tls12_resumption(Tls12Resumption::Disabled);
        config.enable_early_data = zero_rtt;
        let crypto = QuicClientConfig::try_from(Arc::new(config))
            .map_err(|error| TlsConfigError::certificate("QUIC", Error::General(error.to_string())))?;
        Ok(self.quic.get_or_init(|| QuicClient {
            crypto: Arc::new(crypto),
            refused,
        }))
    }
}

/// Verifies as the verifier within does, and keeps its errors.
struct Refused {
    inner: Arc<WebPkiServerVerifier>,
    errors: Mutex<VecDeque<Error>>,
    /// How many certificates were looked at.
    #[cfg(test)]
    verified: std::sync::atomic::AtomicUsize,
}

impl Refused {
    fn keep(&self, error: &Error) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        if errors.len() >= ERRORS_MAX {
            errors.pop_front();
        }
        errors.push_back(error.clone());
    }

    fn find(&self, text: &str) -> Option<Error> {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let at = errors.iter().position(|error| error.to_string() == text)?;
        errors.remove(at)
    }
}

impl fmt::Debug for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Refused {
    fn verify_server_cert(
        &self,
        own: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        #[cfg(test)]
        self.verified.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.inner.verify_server_cert(own, chain, name, ocsp, now).inspect_err(|error| self.keep(error))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
