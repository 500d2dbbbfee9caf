//! What a channel knows, as plain data: for a page, a log line, a test.

use std::sync::Weak;
use std::time::Duration;

use super::member::Member;
use super::state::ConnectivityState;
use crate::config::ServiceConfig;
use crate::discovery::Endpoint;
use crate::health::HealthStatus;
use crate::policy::breaker::BreakerState;
use crate::policy::outlier::Reason;
use crate::policy::reported::LoadReport;
use crate::time;

/// A channel at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ChannelSnapshot {
    /// What it calls.
    pub target: String,
    /// Where it stands.
    pub state: ConnectivityState,
    /// Why nobody can be reached, if so.
    pub failure: Option<String>,
    /// The list of endpoints; `None` where the target is one address or a local service, and before there is one.
    pub list: Option<ListSnapshot>,
    /// Retries by policy that were made so far.
    pub retries: u64,
    /// Those that were not made, because too few calls succeeded to pay for them.
    pub retries_withheld: u64,
    /// Attempts that met a fault on purpose so far, of all channels and servers that share the handle; 0 where none was given.
    pub faults: u64,
    /// Calls that were made a second time so far, because they took long.
    pub hedges: u64,
    /// Those that were not, because too few calls paid for it, or there was no other endpoint.
    pub hedges_withheld: u64,
    /// Methods whose calls were turned away, or failed where there is a circuit breaker, or are made a second time.
    pub methods: Vec<MethodSnapshot>,
    /// Those of them that this channel connects to.
    pub endpoints: Vec<EndpointSnapshot>,
    /// The share of calls that stay in this channel's zone, from 0 to 1, of the route that keeps the least; `None` if it has no zone, or zones do not
    /// count.
    pub zone_share: Option<f64>,
    /// The place of this channel among all clients, from 0, and how many there are; `None` if it has no aperture, or no place yet.
    pub place: Option<(usize, usize)>,
    /// Endpoints that this channel does not connect to, because they do not offer what it demands: their names, and why.
    pub refused: Vec<(String, String)>,
    /// Listed endpoints that get no calls: their names, and why.
    pub unused: Vec<(String, String)>,
    /// How the service is called: all layers together. What it does not say is as the channel was built.
    pub config: ServiceConfig,
    /// Why sources of its configuration could not be read, the lowest layer first.
    pub config_failures: Vec<String>,
}

/// A method whose calls failed, or are hedged.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MethodSnapshot {
    /// Service and method, if they are known.
    pub path: String,
    /// Calls that were not sent because of a policy.
    pub refused: u64,
    /// Some are not, because most would be turned away.
    pub is_throttled: bool,
    /// The part that is not, from 0 to 1, of the priority of which it is the most.
    pub throttled: f64,
    /// Where its circuit breaker stands; CLOSED if there is none.
    pub breaker: BreakerState,
    /// How the last of them that was sent failed; empty if none did.
    pub cause: String,
    /// Retries that calls which succeeded have paid for: up to 20.
    pub retry_budget: f64,
    /// After which time calls are made a second time where there is plenty saved; `None` if they are not, or nothing is known yet.
    pub hedge_delay: Option<Duration>,
}

/// Where the endpoints of a channel come from.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ListSnapshot {
    /// Counts the lists; only one that differs is a new one.
    pub version: u64,
    /// How many endpoints it has.
    pub listed: usize,
    /// How many that are not in it are kept, because the registry lost more than half and they serve.
    pub kept: usize,
    /// How long ago the registry confirmed it.
    pub age: Duration,
    /// It is of an earlier run, and was not confirmed.
    pub is_stale: bool,
    /// Why it could not be renewed, if so.
    pub failure: Option<String>,
}

/// One endpoint of a channel.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EndpointSnapshot {
    /// What the registry says of it, and the weight that the configuration gives it.
    pub endpoint: Endpoint,
    /// Where it stands: READY only if it is connected and says that it serves.
    pub state: ConnectivityState,
    /// What it says of its health on this channel's connection; UNKNOWN before it was heard, SERVING if it is not asked.
    pub health: HealthStatus,
    /// Why it takes no calls, if that is known.
    pub failure: Option<String>,
    /// Why it gets none although it is ready, if it is ejected.
    pub ejected: Option<String>,
    /// Connections to it that are there.
    pub connections: usize,
    /// Attempts that were begun there, since this channel knows this run of it.
    pub picks: u64,
    /// Those that failed, by its fault or its way's.
    pub failed: u64,
    /// Those that are under way.
    pub in_flight: u32,
    /// How long its answers take on average; `None` before the first.
    pub latency: Option<Duration>,
    /// What it reported of its load last, if it did.
    pub load: Option<LoadReport>,
}

/// What the task of a pool leaves for snapshots. It holds no endpoint alive.
#[derive(Default)]
pub(super) struct Board {
    pub(super) members: Vec<Posted>,
    pub(super) listed: usize,
    pub(super) kept: usize,
    pub(super) place: Option<(usize, usize)>,
    pub(super) refused: Vec<(String, String)>,
    pub(super) unused: Vec<(String, String)>,
}

/// An endpoint on the board.
pub(super) struct Posted {
    pub(super) endpoint: Endpoint,
    pub(super) member: Weak<Member>,
    pub(super) ejected: Option<Reason>,
}

impl Board {
    pub(super) fn endpoints(&self) -> Vec<EndpointSnapshot> {
        self.members.iter().filter_map(|posted| Some(of(posted, &*posted.member.upgrade()?))).collect()
    }
}

fn of(posted: &Posted, member: &Member) -> EndpointSnapshot {
    EndpointSnapshot {
        endpoint: posted.endpoint.clone(),
        ejected: posted.ejected.map(|reason| reason.to_string()),
        state: member.state(),
        health: member.subchannel.standing().health(),
        failure: member.failure().map(|failure| failure.message().to_owned()),
        connections: member.connections(),
        picks: member.load.begun(),
        failed: member.load.failed(),
        in_flight: member.load.in_flight(),
        latency: member.load.latency(),
        load: member.load_report(time::now()),
    }
}
