//! Why a server does not start.

use std::io;

use super::router::Collision;
use crate::discovery::RegistrarError;
use crate::mux::config::ConfigError;
use crate::time::DurationError;
use crate::transport::error::BindError;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// Two methods cannot be told apart.
    #[error(transparent)]
    Collision(#[from] Collision),
    /// A listener cannot be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A setting is out of its range.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A setting is not a duration.
    #[error("{field} is not a duration")]
    Duration {
        /// The name of the setting.
        field: &'static str,
        /// What is wrong.
        source: DurationError,
    },
    /// There is nothing to serve.
    #[error("the server has neither a service nor a fallback; add one with `.service(..)`")]
    NoService,
    /// There is nowhere to serve.
    #[error("the server listens nowhere; add an address with `.bind(..)`, or `start` it and hand connections over")]
    NoAddress,
    /// The server cannot be registered as it is.
    #[error(transparent)]
    Registrar(#[from] RegistrarError),
    /// A service that is not served is configured.
    #[error("{service:?} is configured, and is no service of this server{}", meant.as_deref().map(|meant| format!("; did you mean {meant:?}?")).unwrap_or_default())]
    NotServed {
        /// The name that was given.
        service: String,
        /// The one that may be meant.
        meant: Option<String>,
    },
    /// Signals cannot be listened to.
    #[error("cannot listen to signals")]
    Signals(#[source] io::Error),
}
