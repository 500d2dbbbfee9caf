//! What both sides check of a handshake, and why one comes to nothing.

use std::io;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connecting, ConnectionError};
use rustls::pki_types::CertificateDer;

use super::error;
use super::stream::wire_code;
use crate::transport::tls::ALPN;
use crate::wire::frame::ErrorCode;

/// Completes the handshake and checks what was agreed on.
pub(super) async fn connect(connecting: Connecting) -> Result<quinn::Connection, Failed> {
    let connection = connecting.await.map_err(Failed::Connection)?;
    if speaks_sinew(&connection) {
        Ok(connection)
    } else {
        Err(Failed::OtherProtocol)
    }
}

/// Whether that was agreed on; the connection is closed if not.
pub(super) fn speaks_sinew(connection: &quinn::Connection) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    let agreed = data.and_then(|data| data.protocol).as_deref() == Some(ALPN);
    if !agreed {
        connection.close(wire_code(ErrorCode::Version), b"the protocol is not sinew/1");
    }
    agreed
}

/// Why a handshake came to nothing.
pub(super) enum Failed {
    Connection(ConnectionError),
    /// It was not agreed to speak sinew.
    OtherProtocol,
    /// The session was resumed, and its certificate is not valid any more.
    Certificate(rustls::Error),
}

impl Failed {
    /// The error of TLS behind it, if it is one.
    pub(super) fn tls_error(&self) -> Option<rustls::Error> {
        match self {
            Self::Connection(error) => error::tls_error(error),
            Self::OtherProtocol => Some(rustls::Error::NoApplicationProtocol),
            Self::Certificate(error) => Some(error.clone()),
        }
    }

    pub(super) fn into_io(self) -> io::Error {
        match self {
            Self::Connection(error) => error::lost(error),
            Self::OtherProtocol => io::Error::other(rustls::Error::NoApplicationProtocol),
            Self::Certificate(error) => io::Error::other(error),
        }
    }
}

/// The certificates that the peer showed, its own first.
pub(super) fn chain_of(connection: &quinn::Connection) -> Option<Vec<CertificateDer<'static>>> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    Some(*chain)
}
