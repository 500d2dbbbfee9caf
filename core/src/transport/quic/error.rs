//! What an error of QUIC means: to a stream, to a handshake.

use std::io;

use quinn::ConnectionError;
use rustls::AlertDescription;

use crate::transport::tls::TlsFault;

/// QUIC's transport error CONNECTION_REFUSED. Source: RFC 9000 section 20.1.
const CONNECTION_REFUSED: u64 = 0x2;
/// The first of the codes that stand for TLS alerts. Source: RFC 9001 section 4.8.
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;

/// A connection that is over, as whoever reads or writes on it sees it.
pub(super) fn lost(error: ConnectionError) -> io::Error {
    let kind = match &error {
        ConnectionError::TimedOut => io::ErrorKind::TimedOut,
        ConnectionError::ConnectionClosed(close) if u64::from(close.error_code) == CONNECTION_REFUSED => {
            io::ErrorKind::ConnectionRefused
        }
        ConnectionError::ApplicationClosed(_) | ConnectionError::ConnectionClosed(_) | ConnectionError::Reset => {
            io::ErrorKind::ConnectionReset
        }
        ConnectionError::LocallyClosed => io::ErrorKind::ConnectionAborted,
        ConnectionError::VersionMismatch | ConnectionError::TransportError(_) | ConnectionError::CidsExhausted => {
            io::ErrorKind::Other
        }
    };
    // A client learns what its server thought of its certificate when it takes itself for connected.
    match tls_error(&error) {
        Some(tls @ rustls::Error::AlertReceived(_)) => match TlsFault::of(&io::Error::other(tls)) {
            TlsFault::Other => io::Error::new(kind, error),
            fault => io::Error::new(kind, fault),
        },
        _ => io::Error::new(kind, error),
    }
}

/// The TLS error behind a failed handshake, if it failed for one; the session itself keeps no more than its text.
pub(super) fn tls_error(error: &ConnectionError) -> Option<rustls::Error> {
    let alert = |code: u64| {
        let number = CRYPTO_ERRORS.contains(&code).then_some(code & 0xff)?;
        Some(AlertDescription::from(u8::try_from(number).ok()?))
    };
    match error {
        ConnectionError::ConnectionClosed(close) => alert(close.error_code.into()).map(rustls::Error::AlertReceived),
        ConnectionError::TransportError(own) => alert(own.code.into()).map(|alert| match alert {
            AlertDescription::NoApplicationProtocol => rustls::Error::NoApplicationProtocol,
            AlertDescription::CertificateRequired => rustls::Error::NoCertificatesPresented,
            AlertDescription::UnknownCA => rustls::CertificateError::UnknownIssuer.into(),
            AlertDescription::CertificateExpired => rustls::CertificateError::Expired.into(),
            _ => rustls::Error::General(own.reason.clone()),
        }),
        ConnectionError::VersionMismatch
        | ConnectionError::ApplicationClosed(_)
        | ConnectionError::Reset
        | ConnectionError::TimedOut
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => None,
    }
}
