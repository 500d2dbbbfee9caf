//! Chooses which of the ready endpoints takes a call.
//!
//! A [`Balancer`] is asked for a new [`Picker`] whenever the ready endpoints change, away from all calls; a picker is immutable, and calls share the newest
//! one without a lock. What calls learn of an endpoint (how long they took, how many are under way) is in its [`Candidate`].
//!
//! Not here: connecting (`subchannel`), which endpoints there are (`discovery`), sending again (`attempt`).
//! Source: gRFC A24 for the split; the load is `policy/load.rs`.

mod consistent_hash;
mod least_request;
pub(super) mod named;
mod p2c;
mod pick_first;
mod round_robin;
pub(super) mod routed;
mod weighted;
pub(super) mod zoned;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::member::Member;
use crate::discovery::Endpoint;
use crate::metadata::Metadata;
use crate::policy::reported::LoadReport;
use crate::time;

pub use consistent_hash::ConsistentHash;
pub use least_request::LeastRequest;
pub use p2c::PeakEwma;
pub use pick_first::PickFirst;
pub use round_robin::RoundRobin;
pub use weighted::WeightedRoundRobin;

/// A policy of choosing endpoints.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::client::{Balancer, Candidate, PickArgs, Picker}; }
/// use std::sync::Arc;
///
/// use sinew::{Balancer, Candidate, PickArgs, Picker};
///
/// /// Takes whoever has the fewest calls under way.
/// #[derive(Debug)]
/// struct FewestCalls;
///
/// struct Fewest(Vec<Candidate>);
///
/// impl Balancer for FewestCalls {
///     fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
///         Arc::new(Fewest(ready.to_vec()))
///     }
/// }
///
/// impl Picker for Fewest {
///     fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
///         let free = self.0.iter().enumerate().filter(|(_, one)| !args.excludes(one));
///         free.min_by_key(|(_, one)| one.in_flight()).map(|(index, _)| index)
///     }
/// }
/// ```
pub trait Balancer: Send + Sync + fmt::Debug + 'static {
    /// A picker for these endpoints, all of which are connected and take calls. Never called with none.
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker>;

    /// Which endpoints to connect to (default: all).
    fn connects_to(&self) -> ConnectsTo {
        ConnectsTo::All
    }

    /// How often a new picker is wanted though the endpoints are the same, because what they report of their load has changed (default: never; more often than
    /// 100 ms counts as that). No picker is made while nothing is called.
    fn refresh_interval(&self) -> Option<Duration> {
        None
    }
}

/// Chooses among the endpoints that it was made for.
pub trait Picker: Send + Sync + 'static {
    /// The position of the endpoint for one call, in the list that the balancer had. `None`, or a position outside, if there is none: the call then waits for the
    /// endpoints to change, until its deadline. Those that are excluded may be taken if there is no other.
    /// Called for every attempt, by many threads: no locks, no waiting.
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize>;
}

/// Which endpoints a balancer wants to be connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectsTo {
    /// All of them; of more than 64, this channel's share of 20, or 20 of its zone and 20 of the others; with an aperture what that says.
    All,
    /// All of them, however many there are: where it matters which endpoint a call goes to.
    Everybody,
    /// One: the first that can be connected to, in the order of the list.
    First,
}

/// An endpoint that takes calls.
#[derive(Clone)]
pub struct Candidate {
    pub(super) member: Arc<Member>,
    pub(super) endpoint: Endpoint,
    pub(super) weight: u32,
}

impl Candidate {
    /// What is known about it.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its share of calls relative to the others', as it is now: what its endpoint says, less while it is new ([`slow_start`]), and only the part that is this
    /// channel's where it has an [`aperture`].
    ///
    /// [`aperture`]: crate::client::ChannelBuilder::aperture
    /// [`slow_start`]: crate::client::ChannelBuilder::slow_start
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight
    }

    /// Calls that are under way there, of this channel.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.member.load.in_flight()
    }

    /// How long its answers took on average, as this channel saw them; `None` before the first.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        self.member.load.latency()
    }

    /// What it reported of its load last, with some of its answers; `None` before the first report, and after its connection was lost.
    #[must_use]
    pub fn load_report(&self, now: Instant) -> Option<LoadReport> {
        self.member.load_report(now)
    }

    /// What one more call would cost there, next to what it costs at others: by latency, calls in flight, silence and failures. `share` is its weight over
    /// the mean weight.
    #[must_use]
    pub fn cost(&self, now: Instant, share: f64) -> f64 {
        self.member.load.cost(now, &self.member.typical, share)
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("name", &self.endpoint.name())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// What is known of a call when its endpoint is chosen.
#[derive(Clone, Copy, Debug)]
pub struct PickArgs<'a> {
    /// Read when somebody asks.
    pub(super) now: &'a Cell<Option<Instant>>,
    pub(super) method: u64,
    pub(super) metadata: Option<&'a Metadata>,
    pub(super) route_key: Option<u64>,
    pub(super) exclude: &'a [u64],
}

impl PickArgs<'_> {
    /// The instant of the pick.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now.get().unwrap_or_else(|| {
            let now = time::now();
            self.now.set(Some(now));
            now
        })
    }

    /// The id of the method.
    #[must_use]
    pub fn method(&self) -> u64 {
        self.method
    }

    /// The call's metadata; `None` if it has none.
    #[must_use]
    pub fn metadata(&self) -> Option<&Metadata> {
        self.metadata
    }

    /// The hash of what [`Call::route_key`](crate::client::Call::route_key) got; `None` if the call has no key.
    #[must_use]
    pub fn route_key(&self) -> Option<u64> {
        self.route_key
    }

    /// Whether an earlier attempt of this call went to `candidate`. If nobody else is there, it is asked again.
    #[must_use]
    pub fn excludes(&self, candidate: &Candidate) -> bool {
        !self.exclude.is_empty() && self.exclude.contains(&candidate.member.id)
    }
}

/// Each weight over their mean.
fn shares(candidates: &[Candidate]) -> Vec<f64> {
    let weight = |one: &Candidate| f64::from(one.weight.max(1));
    let mean = candidates.iter().map(weight).sum::<f64>() / candidates.len().max(1) as f64;
    candidates.iter().map(|one| weight(one) / mean).collect()
}
