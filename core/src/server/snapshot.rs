//! What a server knows, as plain data: for a page, a log line, a test.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Shared;
use super::registration::Registration;
use super::shutdown::{Connections, Serving};
use crate::health::{Health, HealthStatus};
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
    /// Calls that were answered so far.
    pub answered: u64,
    /// Those of them that failed by the server's fault: UNKNOWN, INTERNAL, DATA_LOSS, RESOURCE_EXHAUSTED, DEADLINE_EXCEEDED, or UNAVAILABLE after the handler
    /// began.
    pub failed: u64,
    /// The part of its capacity that is used, as the application set it.
    pub utilization: Option<f64>,
    /// Handlers that run in tasks of their own; those that answer at once have none.
    pub running_handlers: usize,
    /// Handlers that panicked so far.
    pub panics: usize,
    /// How many registries it is to be entered in.
    pub registries: usize,
    /// It is shutting down, from the start of the lame-duck time on.
    pub is_draining: bool,
}

/// A view of a server that outlives the handle which [`Serving::wait`] and [`Serving::shutdown`] take: for an admin page, or a loop that writes metrics. It does
/// not keep the server running.
#[derive(Clone)]
pub struct ServerMonitor {
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    addresses: Arc<[Address]>,
    registries: usize,
}

impl Serving {
    /// What is known of the server now.
    #[must_use]
    pub fn snapshot(&self) -> ServerSnapshot {
        self.monitor().snapshot()
    }

    /// A view of the server that can be kept while it is waited for.
    #[must_use]
    pub fn monitor(&self) -> ServerMonitor {
        ServerMonitor {
            shared: Arc::clone(&self.shared),
            connections: Arc::clone(&self.connections),
            addresses: self.addresses.clone().into(),
            registries: self.registration.as_ref().map_or(0, Registration::registries),
        }
    }
}

impl ServerMonitor {
    /// What the server says of its health.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.shared.health.said
    }

    /// What is known of the server now.
    #[must_use]
    pub fn snapshot(&self) -> ServerSnapshot {
        let shared = &self.shared;
        let (answered, failed) = shared.load.counts();
        ServerSnapshot {
            addresses: self.addresses.to_vec(),
            health: shared.health.of(""),
            services: shared.health.services().map(|name| (name.clone(), shared.health.of(name))).collect(),
            connections: self.connections.len(),
            connections_max: shared.connections_max,
            connections_refused: shared.turned_away.asked(),
            answered,
            failed,
            utilization: shared.load.utilization(),
            running_handlers: shared.running.load(Ordering::Relaxed),
            panics: shared.panics.load(Ordering::Relaxed),
            registries: self.registries,
            is_draining: shared.health.is_draining(),
        }
    }
}

impl fmt::Debug for ServerMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
