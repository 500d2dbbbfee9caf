//! What a server knows, as plain data: for a page, a log line, a test.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Shared;
use super::admission::Admission;
use super::limits::{Kind, Place, Use};
use super::registration::Registration;
use super::router::{Route, Router};
use super::shutdown::{Connections, Serving};
use crate::config::LimitKey;
use crate::faults::Faults;
use crate::health::{Health, HealthStatus};
use crate::interceptor::counter::{CONCURRENCY_POLICY, RATE_POLICY};
use crate::policy::rate::Rule;
use crate::priority::Priority;
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
    /// Those of them that failed by the server's fault: UNKNOWN, INTERNAL, DATA_LOSS, DEADLINE_EXCEEDED, UNAVAILABLE after the handler began, or
    /// RESOURCE_EXHAUSTED, but for what a limit of the caller's turned away.
    pub failed: u64,
    /// The part of its capacity that is used, as the application set it.
    pub utilization: Option<f64>,
    /// Handlers that run in tasks of their own; those that answer at once have none.
    pub running_handlers: usize,
    /// Handlers that panicked so far.
    pub panics: usize,
    /// What adaptive concurrency does; `None` if it is switched off for all methods.
    pub admission: Option<AdmissionSnapshot>,
    /// The limits that its services' configuration sets.
    pub limits: Vec<LimitSnapshot>,
    /// What was turned away so far, whatever turned it away: attributes, configuration, adaptive concurrency, faults. At most 256 kinds are told apart.
    pub rejections: Vec<RejectionSnapshot>,
    /// What of that configuration does not hold, and why: it cannot be read, so what it said last holds; nothing is known of it yet; it names a method that is
    /// not there.
    pub config_failures: Vec<String>,
    /// Calls that met a fault on purpose so far, of all channels and servers that share the handle; 0 where none was given.
    pub faults: u64,
    /// How many registries it is to be entered in.
    pub registries: usize,
    /// It is shutting down, from the start of the lame-duck time on.
    pub is_draining: bool,
}

/// A limit of calls that a service's configuration sets, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitSnapshot {
    /// The name of the service.
    pub service: String,
    /// The name of the method; `None` if it holds for all of them together.
    pub method: Option<String>,
    /// What it is called in a status: `rate_limit` or `concurrency_limit`.
    pub policy: &'static str,
    /// How many calls it lets through.
    pub calls: u32,
    /// In which time; `None` if it is at a time.
    pub per: Option<Duration>,
    /// How many may come at once after a rest, where it spaces calls evenly.
    pub burst: Option<u32>,
    /// Whose calls count together.
    pub key: LimitKey,
    /// Keys that have a count of their own; those of a rate that are quiet are forgotten only when there are as many as may be.
    pub keys: usize,
    /// How many calls it turned away since there is one with that key.
    pub rejected: u64,
}

/// Calls of a method that a policy turned away.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RejectionSnapshot {
    /// Service and method; `None` for what a fallback answers, and for further kinds than are told apart.
    pub path: Option<&'static str>,
    /// Which, as [`Status::policy`](crate::status::Status::policy) says: `rate_limit`, `concurrency_limit`, `adaptive_concurrency`, `fault_injection`, or the
    /// application's own.
    pub policy: String,
    /// Why, as [`Status::reason`](crate::status::Status::reason) says.
    pub reason: String,
    /// How many so far.
    pub calls: u64,
}

/// What adaptive concurrency does at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AdmissionSnapshot {
    /// The methods that have a limit or calls, or turned some away, and for which it is not switched off.
    pub methods: Vec<MethodAdmission>,
    /// Calls that were turned away so far, by their priority.
    pub rejected: Vec<(Priority, u64)>,
}

/// Calls of one method that are worked on, those that were answered at once left out.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MethodAdmission {
    /// Service and method.
    pub path: &'static str,
    /// How many are worked on at most, about three times as many as can be at a time; `None` while there is no reason for a limit.
    pub limit: Option<u32>,
    /// How many are.
    pub in_flight: u32,
    /// How many wait for their turn.
    pub waiting: usize,
    /// Calls that have time have waited in vain, or nearly, within the last second: those that come wait for a moment only.
    pub is_overloaded: bool,
    /// How many were turned away so far.
    pub rejected: u64,
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
    /// Switches [`adaptive_concurrency`](super::ServerBuilder::adaptive_concurrency) while calls run, where a service's configuration says nothing of it. Who
    /// waits when it is switched off is let in.
    pub fn set_adaptive_concurrency(&self, limit: bool) {
        self.shared.admission.switch(limit);
    }

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
            admission: shared.admission.is_on_anywhere().then(|| shared.admission.snapshot(&shared.router)),
            limits: shared.limits.uses().into_iter().map(|(place, usage)| limit(place, usage)).collect(),
            rejections: shared.load.rejections.snapshot(&shared.router),
            config_failures: shared.configs.failures(&shared.router),
            faults: shared.faults.as_ref().map_or(0, Faults::met),
            registries: self.registries,
            is_draining: shared.health.is_draining(),
        }
    }
}

fn limit(place: Place, usage: Use) -> LimitSnapshot {
    let (calls, per, burst) = match usage.rule {
        Rule::Window { limit, per } => (limit, Some(per), None),
        Rule::Bucket { limit, per, burst } => (limit, Some(per), Some(burst)),
        Rule::Concurrency { limit } => (limit, None, None),
    };
    LimitSnapshot {
        service: place.service,
        method: place.method,
        policy: match place.kind {
            Kind::Rate => RATE_POLICY,
            Kind::Concurrency => CONCURRENCY_POLICY,
        },
        calls,
        per,
        burst,
        key: usage.key,
        keys: usage.keys,
        rejected: usage.rejected,
    }
}

impl Admission {
    fn snapshot(&self, router: &Router) -> AdmissionSnapshot {
        let of_method = |(at, route): (usize, &Route)| {
            let usage = self.usage(at);
            let is_idle = usage.limit.is_none() && usage.in_flight == 0 && usage.rejected == 0;
            (!is_idle && self.is_on(at)).then_some(MethodAdmission {
                path: route.spec.path(),
                limit: usage.limit,
                in_flight: usage.in_flight,
                waiting: usage.waiting,
                is_overloaded: usage.is_overloaded,
                rejected: usage.rejected,
            })
        };
        AdmissionSnapshot {
            methods: router.routes().iter().enumerate().filter_map(of_method).collect(),
            rejected: Priority::ALL.map(|priority| (priority, self.rejected(priority))).to_vec(),
        }
    }
}

impl fmt::Debug for ServerMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.snapshot().fmt(f)
    }
}
