//! What is wrong with a configuration, and why a handshake failed.

use std::io;

use rustls::{AlertDescription, CertificateError, InvalidMessage, PeerIncompatible};

/// A configuration of TLS that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsConfigError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    File {
        /// The file.
        path: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The text is not PEM.
    #[error("{what} is not PEM: {reason}")]
    Pem {
        /// Which text.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The text holds nothing of what is needed.
    #[error("{what} holds nothing usable; expected {expected}")]
    Empty {
        /// Which text.
        what: String,
        /// What has to stand there.
        expected: &'static str,
    },
    /// A certificate or a key cannot be used.
    #[error("{what} cannot be used")]
    Certificate {
        /// Which one.
        what: String,
        /// The cause.
        #[source]
        source: rustls::Error,
    },
    /// The key belongs to another certificate.
    #[error("the private key does not belong to the certificate; give the key that the certificate was requested with")]
    Mismatch,
    /// The name cannot stand in a certificate.
    #[error("{name:?} is not a name that a certificate can be checked against; expected a DNS name or an IP address")]
    Name {
        /// The name.
        name: String,
    },
    /// The system trusts nobody.
    #[error(
        "the system has no root certificates ({reason}); install them (`ca-certificates`), or give your own with `ClientTls::roots_pem`"
    )]
    NoRoots {
        /// What failed when they were looked for; may be empty.
        reason: String,
    },
    /// Certificates of clients are optional, and nobody is trusted to sign them.
    #[error(
        "`client_certificate_optional` does nothing without `client_roots_pem`; say who signs the clients' certificates, or leave it out"
    )]
    OptionalWithoutRoots,
    /// The development certificates cannot be made or read.
    #[error("cannot use the development certificates: {reason}; configure certificates with `.tls(..)`")]
    Development {
        /// The cause.
        reason: String,
    },
    /// Nothing says which certificate to show.
    #[error(
        "{address} needs a certificate; give one with `.tls(ServerTls::from_pem_files(\"cert.pem\", \"key.pem\")?)` \
         (only loopback addresses have development certificates, with feature `dev-tls`)"
    )]
    NoCertificate {
        /// Where to listen.
        address: String,
    },
}

impl TlsConfigError {
    pub(super) fn pem(what: &str, error: &rustls::pki_types::pem::Error) -> Self {
        Self::Pem {
            what: what.to_owned(),
            reason: error.to_string(),
        }
    }

    pub(super) fn certificate(what: &str, source: rustls::Error) -> Self {
        match source {
            rustls::Error::InconsistentKeys(_) => Self::Mismatch,
            source => Self::Certificate {
                what: what.to_owned(),
                source,
            },
        }
    }
}

/// Why a handshake failed, in the words of whoever has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TlsFault {
    /// The peer's certificate has expired, or this clock is wrong.
    #[error("the peer's certificate has expired; renew it, or set this machine's clock")]
    Expired,
    /// The peer's certificate is not valid yet, or this clock is wrong.
    #[error("the peer's certificate is not valid yet; set the clock of this machine, or of the one that issued it")]
    NotYetValid,
    /// The certificate is for other names.
    #[error(
        "the peer's certificate is for other names than the one called; call it by a name in it, or set `ClientTls::server_name`"
    )]
    WrongName,
    /// Nobody trusted signed the certificate.
    #[error(
        "the peer's certificate is signed by nobody that this side trusts; give its authority with `ClientTls::roots_pem` or `ServerTls::client_roots_pem`"
    )]
    UnknownAuthority,
    /// The server wants a certificate of the client, and got none.
    #[error(
        "the server lets in clients with a certificate only, and none was shown; give one with `ClientTls::identity_pem`"
    )]
    CertificateRequired,
    /// The peer did not accept this side's certificate.
    #[error(
        "the peer does not accept this side's certificate: it trusts another authority, expects another name or purpose, or the certificate is not \
         valid now"
    )]
    CertificateRefused,
    /// The certificate is for another purpose.
    #[error(
        "the peer's certificate is not for this purpose; servers need the extended key usage `serverAuth`, clients `clientAuth`"
    )]
    WrongPurpose,
    /// The peer showed an authority's certificate as its own.
    #[error("the peer shows an authority's certificate (CA:TRUE) as its own; sign one for it, without CA:TRUE")]
    AuthorityAsPeer,
    /// The peer speaks TLS, but another protocol inside of it.
    #[error("the peer does not speak sinew inside TLS (no ALPN `sinew/1`)")]
    NoAlpn,
    /// The peer does not speak TLS.
    #[error("the peer does not speak TLS; use tls:// on both sides, or tcp:// on both")]
    NotTls,
    /// The peer speaks TLS, but no version that this side accepts.
    #[error("the peer does not speak TLS 1.3")]
    Version,
    /// The peer hung up during the handshake.
    #[error("the peer hung up during the TLS handshake")]
    HungUp,
    /// Something else; the source tells.
    #[error("the TLS handshake failed")]
    Other,
}

impl TlsFault {
    /// What an error of a handshake, or of a session, means.
    #[must_use]
    pub(crate) fn of(error: &io::Error) -> Self {
        let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) else {
            return match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe => Self::HungUp,
                _ => Self::Other,
            };
        };
        match error {
            rustls::Error::InvalidCertificate(error) => Self::of_certificate(error),
            rustls::Error::NoApplicationProtocol => Self::NoAlpn,
            rustls::Error::NoCertificatesPresented => Self::CertificateRequired,
            rustls::Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
                | PeerIncompatible::SupportedVersionsExtensionRequired,
            ) => Self::Version,
            rustls::Error::InvalidMessage(
                InvalidMessage::InvalidContentType
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::UnknownProtocolVersion,
            ) => Self::NotTls,
            rustls::Error::AlertReceived(alert) => Self::of_alert(*alert),
            _ => Self::Other,
        }
    }

    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYetValid,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::WrongName,
            // The second is an authority that was made anew under its old name.
            CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => Self::WrongPurpose,
            // It has no name of its own in rustls.
            CertificateError::Other(other) if format!("{other:?}").contains("CaUsedAsEndEntity") => {
                Self::AuthorityAsPeer
            }
            _ => Self::Other,
        }
    }

    fn of_alert(alert: AlertDescription) -> Self {
        match alert {
            AlertDescription::CertificateRequired => Self::CertificateRequired,
            AlertDescription::BadCertificate
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::UnknownCA => Self::CertificateRefused,
            AlertDescription::NoApplicationProtocol => Self::NoAlpn,
            AlertDescription::ProtocolVersion => Self::Version,
            _ => Self::Other,
        }
    }
}
