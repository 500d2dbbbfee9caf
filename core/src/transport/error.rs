//! Why a connection could not be made or a listener not be opened.

use std::io;
use std::time::Duration;

#[cfg(feature = "tls")]
use super::tls::{TlsConfigError, TlsFault};

/// A target, or an address to listen on, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The scheme is unknown.
    #[error(
        "unknown scheme in {text:?}; expected quic://host:port, tls://host:port, quic+tcp://host:port, tcp://host:port, host:port, unix:path or mem:name"
    )]
    Scheme {
        /// The text.
        text: String,
    },
    /// The scheme needs a feature that was switched off.
    #[error("{text:?} needs feature `{feature}` of sinew, which is on by default; switch it on in Cargo.toml")]
    Feature {
        /// The text.
        text: String,
        /// The feature.
        feature: &'static str,
    },
    /// The text has no port, or one that is no number.
    #[error("{text:?} needs a host and a port, for example 127.0.0.1:7000")]
    Port {
        /// The text.
        text: String,
    },
    /// The path or name is empty.
    #[error("{text:?} needs a path or name after the colon")]
    Empty {
        /// The text.
        text: String,
    },
    /// The option behind `?` is unknown.
    #[error("unknown option {option:?} in {text:?}; expected dangerous_plaintext, with tcp:// only")]
    Option {
        /// The option.
        option: String,
        /// The text.
        text: String,
    },
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot resolve {host:?}")]
    Resolve {
        /// The host.
        host: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The peer refused, or the network failed.
    #[error("cannot connect to {address}")]
    Io {
        /// Where to.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("no connection to {address} within {after:?}")]
    TimedOut {
        /// Where to.
        address: String,
        /// How long it was tried.
        after: Duration,
    },
    /// Clear text would leave this machine.
    #[error(
        "{address} is not a loopback address and the connection is not encrypted; use tls:// or quic:// on both sides, or allow it with \
         `dangerous_plaintext()` or `?dangerous_plaintext` where the network is trusted"
    )]
    Plaintext {
        /// Where to.
        address: String,
    },
    /// The TLS handshake failed.
    #[cfg(feature = "tls")]
    #[error("no encrypted connection to {address}: {fault}")]
    Tls {
        /// Where to.
        address: String,
        /// What it means.
        fault: TlsFault,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The settings of TLS cannot be used.
    #[cfg(feature = "tls")]
    #[error("no encrypted connection to {address}")]
    TlsConfig {
        /// Where to.
        address: String,
        /// What is wrong with them.
        #[source]
        source: TlsConfigError,
    },
    /// Neither QUIC nor TCP gets through.
    #[error("no encrypted connection: neither over QUIC ({quic}) nor over TCP")]
    NeitherWay {
        /// Why not over QUIC.
        quic: String,
        /// Why not over TCP.
        #[source]
        source: Box<Self>,
    },
    /// There is nothing to connect to.
    #[error("the endpoint has no address")]
    NoAddress,
    /// Nobody listens under this name in this process.
    #[error("nobody listens on mem:{name} in this process")]
    NoListener {
        /// The name.
        name: String,
    },
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The address cannot be used.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// The system refused.
    #[error("cannot listen on {address}")]
    Io {
        /// Where.
        address: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Clear text would be accepted from other machines.
    #[error(
        "{address} is not a loopback address and connections would not be encrypted; listen on tls:// or quic:// with `.tls(..)`, or allow it with \
         `dangerous_plaintext()` or `?dangerous_plaintext` where the network is trusted"
    )]
    Plaintext {
        /// Where.
        address: String,
    },
    /// The settings of TLS cannot be used.
    #[cfg(feature = "tls")]
    #[error("cannot listen with TLS")]
    Tls(#[from] TlsConfigError),
    /// There are settings of TLS, and no address uses them.
    #[error(
        "`.tls(..)` is set, and no address is encrypted; listen on `tls://host:port` or `quic://host:port`, or leave it out"
    )]
    TlsUnused,
    /// There are settings of QUIC, and no address uses them.
    #[error("`.quic(..)` is set, and no address is quic:// or quic+tcp://; listen on one, or leave it out")]
    QuicUnused,
    /// Somebody in this process listens under this name.
    #[error("mem:{name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
}

/// Why a connection that was accepted came to nothing.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct HandshakeError {
    reason: String,
    hung_up: bool,
    #[source]
    source: io::Error,
}

impl HandshakeError {
    /// An error with the words of whoever has to mend it.
    #[must_use]
    pub fn new(reason: impl ToString, hung_up: bool, source: io::Error) -> Self {
        Self {
            reason: reason.to_string(),
            hung_up,
            source,
        }
    }

    /// Whether the peer left of its own accord, as a probe of a balancer does.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }
}

/// An error with its causes, for a line of a log or a status.
pub(crate) struct WithCauses<'a>(pub(crate) &'a (dyn std::error::Error + 'a));

impl std::fmt::Display for WithCauses<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}
