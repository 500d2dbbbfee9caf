//! Why a connection could not be made or a listener not be opened.

use std::io;
use std::time::Duration;

/// A target, or an address to listen on, that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// The scheme is unknown.
    #[error("unknown scheme in {text:?}; expected tcp://host:port, host:port, unix:path or mem:name")]
    Scheme {
        /// The text.
        text: String,
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
    #[error("unknown option {option:?} in {text:?}; expected dangerous_plaintext")]
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
        "{address} is not a loopback address and the connection is not encrypted; allow it with `dangerous_plaintext()` or \
         `?dangerous_plaintext` where the network is trusted"
    )]
    Plaintext {
        /// Where to.
        address: String,
    },
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
        "{address} is not a loopback address and connections would not be encrypted; allow it with `dangerous_plaintext()` or \
         `?dangerous_plaintext` where the network is trusted"
    )]
    Plaintext {
        /// Where.
        address: String,
    },
    /// Somebody in this process listens under this name.
    #[error("mem:{name} is taken")]
    NameTaken {
        /// The name.
        name: String,
    },
}
