//! Whether a server, and each of its services, serves: the words, and what the application says.
//!
//! Every server answers `sinew.Health/check` and `sinew.Health/watch` with it; clients of a service with several endpoints watch each of them, and send
//! calls to those that serve.
//!
//! Not here: answering (`server/health`), watching (`client/health`).
//! Source: the gRPC health checking protocol, for names and numbers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

use crate::method::{ArgSpec, MethodKind, MethodSpec, method_id};

/// The name of the service that every server has.
pub const HEALTH_SERVICE: &str = "sinew.Health";
/// `check(service: String) -> u8`: how a service is now. An empty name stands for the server as a whole.
pub(crate) static CHECK: MethodSpec = MethodSpec::new(CHECK_PATH, method_id(CHECK_PATH), MethodKind::Unary)
    .idempotent()
    .args(&[ArgSpec::new("service")]);
/// `watch(service: String) -> stream of u8`: how a service is now, and whenever that changes.
pub(crate) static WATCH: MethodSpec = MethodSpec::new(WATCH_PATH, method_id(WATCH_PATH), MethodKind::ServerStreaming)
    .idempotent()
    .args(&[ArgSpec::new("service")]);
const CHECK_PATH: &str = "sinew.Health/check";
const WATCH_PATH: &str = "sinew.Health/watch";

/// How a server or a service is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HealthStatus {
    /// Nothing is known, as of an application that is not up yet: clients make their calls elsewhere.
    #[default]
    Unknown,
    /// It takes calls.
    Serving,
    /// It does not, though it runs: clients make their calls elsewhere.
    NotServing,
    /// The server does not have that service.
    ServiceUnknown,
    /// It is about to leave: clients make their calls elsewhere, if there is anybody.
    Draining,
    /// A status of a later version; to clients of this one it serves.
    Other(u8),
}

impl HealthStatus {
    /// How much it keeps calls away; of a service and its server the worse one counts.
    const fn severity(self) -> u8 {
        match self {
            Self::Serving | Self::Other(_) => 0,
            Self::Draining => 1,
            Self::Unknown | Self::NotServing | Self::ServiceUnknown => 2,
        }
    }

    /// The number that travels.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unknown => 0,
            Self::Serving => 1,
            Self::NotServing => 2,
            Self::ServiceUnknown => 3,
            Self::Draining => 4,
            Self::Other(number) => number,
        }
    }

    /// What a number means.
    #[must_use]
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Serving,
            2 => Self::NotServing,
            3 => Self::ServiceUnknown,
            4 => Self::Draining,
            0 => Self::Unknown,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Other(number) => return write!(f, "status {number}"),
            Self::Unknown => "unknown",
            Self::Serving => "serving",
            Self::NotServing => "not serving",
            Self::ServiceUnknown => "service unknown",
            Self::Draining => "draining",
        })
    }
}

/// What an application says of its health, for all who ask its servers. Clones are the same; one can be given to several servers.
///
/// Everything serves unless it is said otherwise. A service serves while it and the server as a whole do; a server that shuts down says so by itself.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::health::{Health, HealthStatus}; }
/// use sinew::{Health, HealthStatus};
///
/// let health = Health::new();
/// // .. `Server::builder().health(health.clone())`, and when the database is gone:
/// health.set("shop.Orders", HealthStatus::NotServing);
/// assert_eq!(health.of("shop.Orders"), HealthStatus::NotServing);
/// assert_eq!(health.of("shop.Stock"), HealthStatus::Serving);
/// ```
#[derive(Clone)]
pub struct Health {
    said: Arc<watch::Sender<Said>>,
}

/// By service; the empty name is the server as a whole.
#[derive(Debug, Default)]
struct Said(BTreeMap<String, HealthStatus>);

impl Default for Health {
    fn default() -> Self {
        Self {
            said: Arc::new(watch::Sender::new(Said::default())),
        }
    }
}

impl Health {
    /// Everything serves.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says how a service is, by its name on the wire.
    pub fn set(&self, service: &str, status: HealthStatus) {
        self.said.send_if_modified(|said| said.0.insert(service.to_owned(), status) != Some(status));
    }

    /// Says how the server as a whole is, and with it all its services: what none of them can do without, as their database, is told here. If all replicas share
    /// it, all of them say so at once, and their clients fail at once instead of waiting: better for those that have another way, worse for those that would
    /// have been served in part.
    pub fn set_overall(&self, status: HealthStatus) {
        self.set("", status);
    }

    /// How a service is by what was said; of an empty name, the server as a whole.
    #[must_use]
    pub fn of(&self, service: &str) -> HealthStatus {
        self.said.borrow().of(service)
    }

    /// The services of which something was said.
    pub(crate) fn services(&self) -> Vec<String> {
        self.said.borrow().0.keys().filter(|name| !name.is_empty()).cloned().collect()
    }

    /// Something else is said from now on.
    pub(crate) fn changes(&self) -> HealthChanges {
        HealthChanges(self.said.subscribe())
    }
}

impl Said {
    fn of(&self, service: &str) -> HealthStatus {
        let said = |service| self.0.get(service).copied().unwrap_or(HealthStatus::Serving);
        let (own, overall) = (said(service), said(""));
        if own.severity() >= overall.severity() {
            own
        } else {
            overall
        }
    }
}

/// Tells when something else is said.
pub(crate) struct HealthChanges(watch::Receiver<Said>);

impl HealthChanges {
    /// Waits for the next change; false if there will be none.
    ///
    /// # Cancel safety
    /// Cancel safe: no change is lost.
    pub(crate) async fn next(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

impl fmt::Debug for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.said.borrow().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::{CHECK, Health, HealthStatus, WATCH};

    #[test]
    fn a_service_serves_while_it_and_the_server_do() {
        let health = Health::new();
        assert_eq!(
            (health.of(""), health.of("a")),
            (HealthStatus::Serving, HealthStatus::Serving)
        );
        health.set("b", HealthStatus::Draining);
        health.set_overall(HealthStatus::NotServing);
        assert_eq!(health.of(""), HealthStatus::NotServing);
        assert_eq!(
            (health.of("a"), health.of("b")),
            (HealthStatus::NotServing, HealthStatus::NotServing)
        );
        health.set_overall(HealthStatus::Serving);
        assert_eq!(
            (health.of("a"), health.of("b")),
            (HealthStatus::Serving, HealthStatus::Draining)
        );
    }

    #[test]
    fn numbers_are_those_of_the_protocol() {
        for (number, status) in [
            (0, HealthStatus::Unknown),
            (1, HealthStatus::Serving),
            (2, HealthStatus::NotServing),
            (3, HealthStatus::ServiceUnknown),
            (4, HealthStatus::Draining),
        ] {
            assert_eq!((status.number(), HealthStatus::from_number(number)), (number, status));
        }
        assert_eq!(HealthStatus::from_number(99), HealthStatus::Other(99));
        assert_eq!(HealthStatus::Other(99).number(), 99);
        assert_eq!((CHECK.service(), WATCH.name()), (super::HEALTH_SERVICE, "watch"));
    }
}
