//! What a server knows, as plain data: for a page, a log line, a test.

use std::sync::atomic::Ordering;

use super::Serving;
use crate::health::HealthStatus;
use crate::transport::Address;

/// A server at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerSnapshot {
    /// Where it listens.
    pub addresses: Vec<Address>,
    /// How the server as a whole is.
    pub health: HealthStatus,
    /// Its services by name, and how each is.
    pub services: Vec<(String, HealthStatus)>,
    /// Connections that are open.
    pub connections: usize,
    /// How many may be.
    pub connections_max: usize,
    /// Connections that were closed at once because there were as many as may be.
    pub connections_refused: u64,
    /// Handlers that run in tasks.
    pub running_handlers: usize,
    /// Handlers that panicked so far.
    pub panics: usize,
    /// It is entered in a registry, or about to be.
    pub is_registered: bool,
    /// It is shutting down: clients were told to leave.
    pub is_draining: bool,
}

impl Serving {
    /// What is known of the server now.
    #[must_use]
    pub fn snapshot(&self) -> ServerSnapshot {
        let shared = &self.shared;
        ServerSnapshot {
            addresses: self.addresses.clone(),
            health: shared.health.of(""),
            services: shared.health.services().map(|name| (name.clone(), shared.health.of(name))).collect(),
            connections: self.connections(),
            connections_max: shared.connections_max,
            connections_refused: shared.turned_away.asked(),
            running_handlers: self.running_handlers(),
            panics: self.panics(),
            is_registered: self.registration.is_some(),
            is_draining: shared.draining.load(Ordering::Relaxed),
        }
    }
}
