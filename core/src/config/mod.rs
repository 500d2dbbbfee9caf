//! How a service is to be called and served, as data that can change while calls run: time-outs, the balancer, routes, weights, limits.
//!
//! Layers lie over each other: what the code says at the bottom, then each [`ConfigSource`] in the order in which it was added. A key that a layer leaves out is the
//! business of the layers below, so taking a key away brings back what was there before. What cannot be read changes nothing: the last that could stands,
//! and the error says what is wrong where.
//!
//! Not here: applying it (`client`, `server`).
//! Source: gRFC A2, A21 for the idea of a service config.

#[cfg(feature = "etcd")]
pub mod etcd;
pub mod file;
mod json;
pub(crate) mod layers;
pub(crate) mod server;
pub(crate) mod source;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "etcd")]
pub use etcd::EtcdConfig;
pub use file::FileConfig;
pub use server::{ConcurrencyRule, LimitKey, RateRule, ServerPolicy};
pub use source::{ConfigPublisher, ConfigSource};

use crate::discovery::Endpoint;
use crate::policy::breaker::CircuitBreaker;
use crate::policy::faults::Fault;
use crate::policy::hedging::HedgingPolicy;
use crate::policy::outlier::OutlierDetection;
use crate::policy::retry::RetryPolicy;
use crate::policy::throttle::AdaptiveThrottle;

/// Routes that a configuration may have.
pub const ROUTES_MAX: usize = 16;
/// Faults that a configuration may have.
pub(crate) const FAULTS_MAX: usize = 16;
/// The shortest time that a call can have.
const DURATION_MIN: Duration = Duration::from_nanos(1);
/// The longest time that can be asked for, as everywhere.
const DURATION_MAX: Duration = Duration::from_hours(365 * 24);
/// Bytes that the text of a configuration may have.
pub const CONFIG_BYTES_MAX: usize = 256 * 1024;

/// How a service is to be called and served. What is not set is left to lower layers, and in the end to the defaults.
///
/// # Examples
/// One call of a hundred goes to the new version, and `get` has less time:
/// ```
/// # mod sinew { pub use sinew_core::config::ServiceConfig; }
/// use sinew::ServiceConfig;
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let config = ServiceConfig::from_json(r#"{
///     "balancer": "round_robin",
///     "routes": [
///         { "labels": { "track": "canary" }, "weight": 1 },
///         { "weight": 99 }
///     ],
///     "methods": { "get": { "timeout": "300ms" } }
/// }"#)?;
/// let wrong = ServiceConfig::from_json(r#"{ "balancr": "round_robin" }"#).unwrap_err();
/// assert_eq!(wrong.to_string(), "unknown key `balancr`; did you mean `balancer`?");
/// # let _ = config;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceConfig {
    /// For methods that say nothing else.
    pub(crate) all: MethodConfig,
    pub(crate) methods: BTreeMap<String, MethodConfig>,
    pub(crate) balancer: Option<BalancerChoice>,
    pub(crate) routes: Option<Vec<Route>>,
    /// By the endpoint's name, in place of what it says itself.
    pub(crate) weights: BTreeMap<String, u32>,
    pub(crate) slow_start: Option<Duration>,
    pub(crate) prefer_zone: Option<bool>,
    pub(crate) outliers: Option<OutlierDetection>,
    pub(crate) faults: Option<Vec<Fault>>,
    pub(crate) server: ServerPolicy,
}

/// How one method is to be called.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct MethodConfig {
    pub(crate) timeout: Option<Duration>,
    pub(crate) wait_for_ready: Option<bool>,
    pub(crate) retry: Option<RetryPolicy>,
    pub(crate) hedging: Option<HedgingPolicy>,
    pub(crate) throttle: Option<AdaptiveThrottle>,
    pub(crate) breaker: Option<CircuitBreaker>,
}

impl MethodConfig {
    pub(crate) const NOTHING: Self = Self {
        timeout: None,
        wait_for_ready: None,
        retry: None,
        hedging: None,
        throttle: None,
        breaker: None,
    };

    fn over(self, below: Self) -> Self {
        Self {
            timeout: self.timeout.or(below.timeout),
            wait_for_ready: self.wait_for_ready.or(below.wait_for_ready),
            retry: self.retry.or(below.retry),
            hedging: self.hedging.or(below.hedging),
            throttle: self.throttle.or(below.throttle),
            breaker: self.breaker.or(below.breaker),
        }
    }
}

/// One of the balancers that come with the framework, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BalancerChoice {
    /// [`PeakEwma`](crate::client::PeakEwma), as `p2c_peak_ewma`.
    PeakEwma,
    /// [`RoundRobin`](crate::client::RoundRobin), as `round_robin`.
    RoundRobin,
    /// [`WeightedRoundRobin`](crate::client::WeightedRoundRobin), as `weighted_round_robin`.
    WeightedRoundRobin,
    /// [`LeastRequest`](crate::client::LeastRequest), as `least_request`.
    LeastRequest,
    /// [`PickFirst`](crate::client::PickFirst), as `pick_first`.
    PickFirst,
    /// [`ConsistentHash`](crate::client::ConsistentHash), as `consistent_hash`.
    ConsistentHash {
        /// The metadata whose value is the key of calls that have none.
        metadata_key: Option<String>,
    },
}

/// A share of all calls, for some of the endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) weight: u32,
}

impl Route {
    /// A route to all endpoints that no route before it leads to, with that weight relative to the others' (0 to 65,535; more counts as that): with 0 they get no
    /// new calls.
    #[must_use]
    pub fn new(weight: u32) -> Self {
        Self {
            labels: BTreeMap::new(),
            weight: weight.min(Endpoint::WEIGHT_MAX),
        }
    }

    /// Leads only to endpoints with this label, and those set before.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    fn leads_to(&self, endpoint: &Endpoint) -> bool {
        self.labels.iter().all(|(key, value)| endpoint.labels().get(key) == Some(value))
    }
}

impl ServiceConfig {
    /// Nothing is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the JSON form: an object of at most 256 KiB, with any of these keys.
    ///
    /// | key | value | meaning |
    /// |---|---|---|
    /// | `timeout` | a duration, more than zero, at most 365 days | [`timeout`](Self::timeout) |
    /// | `wait_for_ready` | `true` or `false` | [`wait_for_ready`](Self::wait_for_ready) |
    /// | `retry` | `false`, or an object with any of `attempts` (1 to 5), `initial_backoff` and `max_backoff` (durations), `backoff_multiplier` (1 to 10), `codes` (a list of codes, as `"UNAVAILABLE"`), `attempt_timeout` (a duration); what is left out is that of [`RetryPolicy::DEFAULT`] | [`retry`](Self::retry) |
    /// | `hedging` | `false`, or an object with any of `delay` (a duration of at most an hour) or `percentile` (0.5 to 0.999), and `budget` (0.001 to 1); what is left out is that of [`HedgingPolicy::DEFAULT`] | [`hedging`](Self::hedging) |
    /// | `throttle` | `false`, or an object with any of `multiplier` (1.1 to 10), `calls_min` (1 to 10,000); what is left out is that of [`AdaptiveThrottle::DEFAULT`] | [`throttle`](Self::throttle) |
    /// | `circuit_breaker` | `false`, or an object with any of `window` (100 ms to 10 min), `calls_min` (1 to 10,000), `failure_share` (0.01 to 1), `open_for` (1 ms to 10 min), `half_open_calls` (1 to 10,000); what is left out is that of [`CircuitBreaker::DEFAULT`] | [`circuit_breaker`](Self::circuit_breaker) |
    /// | `methods` | an object: the name of each method, and an object with its `timeout`, `wait_for_ready`, `retry`, `hedging`, `throttle` and `circuit_breaker` | [`method_timeout`](Self::method_timeout), [`method_wait_for_ready`](Self::method_wait_for_ready), [`method_retry`](Self::method_retry), [`method_hedging`](Self::method_hedging), [`method_throttle`](Self::method_throttle), [`method_circuit_breaker`](Self::method_circuit_breaker) |
    /// | `balancer` | the name of a [`BalancerChoice`], or `{"consistent_hash": {"metadata_key": "tenant"}}` | [`balancer`](Self::balancer) |
    /// | `routes` | a list of at most 16 objects, each with a `weight` from 0 to 65,535, and `labels`, an object of texts (none: all endpoints) | [`routes`](Self::routes) |
    /// | `weights` | an object: the name of an endpoint, and its weight from 0 to 65,535 | [`weight`](Self::weight) |
    /// | `slow_start` | a duration, at most 365 days | [`slow_start`](Self::slow_start) |
    /// | `prefer_zone` | `true` or `false` | [`prefer_zone`](Self::prefer_zone) |
    /// | `outlier_detection` | `false`, or an object with any of `consecutive_failures` (1 to 1,000), `success_rate` (`true` or `false`), `failure_share` (0.01 to 1), `latency_factor` (1.5 to 1,000), `max_ejected` (0 to 1), `ejection_time` (a duration of at most 30 s); what is left out is that of [`OutlierDetection::DEFAULT`] | [`outlier_detection`](Self::outlier_detection) |
    /// | `faults` | a list of at most 16 objects | delays, errors and lost answers on purpose, with the feature `faults` |
    /// | `server` | an object with any of `rate_limit`, `concurrency_limit` and `adaptive_concurrency` (`true` or `false`), `faults`, and `methods`, an object: the name of each method, and an object of the first three | [`ServerPolicy`] |
    ///
    ///
    /// A `rate_limit` is `false`, or an object with `calls` (a whole number from 0 on), and any of `per` (a duration of 1 ms to a day, 1 s if left out),
    /// `burst` (1 or more: evenly, but for so many), `key` (`"all"`, `"peer"`, `"method"` or `{"metadata": "tenant"}`; `"all"` if left out) and `max_keys` (1
    /// to 1,000,000); a `concurrency_limit` has neither `per` nor `burst`. A limit is one value: who writes it says all of it, whatever lower layers say. With
    /// `false` for a method there is none of its own; that of the service holds still.
    ///
    /// A fault has one of `delay` (a duration of at most 10 min), `error` (a code), `overload` and `drop` (`true`), and any of `message` (of an error),
    /// `unseen` (of an error, `true`: no handler saw it), `percent` (0 to 100), `by_key` (a key of metadata), `only` (an object of one key of metadata and its
    /// value), `method` (its name), `endpoint` (a name; not of servers), `for` (a duration of at most a day: it ends by itself, so long after it was taken up,
    /// in each process). Where the code gave no handle nothing comes of it.
    ///
    /// A duration is a text of numbers and units, as `"250ms"` or `"1m30s"`. Methods and endpoints are not checked: nobody knows all of them.
    ///
    /// # Errors
    /// [`ServiceConfigError`] names the key, and the nearest one where it is unknown.
    pub fn from_json(text: &str) -> Result<Self, ServiceConfigError> {
        json::parse(text)
    }

    /// Sets the deadline of calls that have no other, in place of the channel's; more than zero, and at most 365 days, what is beyond counts as that. Methods whose
    /// attributes set a time-out keep that.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.all.timeout = Some(timeout.clamp(DURATION_MIN, DURATION_MAX));
        self
    }

    /// Sets whether calls wait for a connection instead of failing while none can be made. A call that asks for it does so in any case.
    #[must_use]
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.all.wait_for_ready = Some(wait);
        self
    }

    /// Sets the deadline of calls of one method, by its name on the wire without the service's, in place of what its attributes say; those still hold at its
    /// server, and a call's own time-out if it is shorter.
    #[must_use]
    pub fn method_timeout(mut self, method: impl Into<String>, timeout: Duration) -> Self {
        self.methods.entry(method.into()).or_default().timeout = Some(timeout.clamp(DURATION_MIN, DURATION_MAX));
        self
    }

    /// Sets whether calls of one method wait for a connection.
    #[must_use]
    pub fn method_wait_for_ready(mut self, method: impl Into<String>, wait: bool) -> Self {
        self.methods.entry(method.into()).or_default().wait_for_ready = Some(wait);
        self
    }

    /// Sets how calls that fail are tried again, in place of the channel's policy.
    #[must_use]
    pub fn retry(mut self, policy: RetryPolicy) -> Self {
        self.all.retry = Some(policy);
        self
    }

    /// Sets how calls of one method are tried again.
    #[must_use]
    pub fn method_retry(mut self, method: impl Into<String>, policy: RetryPolicy) -> Self {
        self.methods.entry(method.into()).or_default().retry = Some(policy);
        self
    }

    /// Makes calls that take long a second time at another endpoint, in place of what the channel does.
    #[must_use]
    pub fn hedging(mut self, policy: HedgingPolicy) -> Self {
        self.all.hedging = Some(policy);
        self
    }

    /// Makes calls of one method that take long a second time.
    #[must_use]
    pub fn method_hedging(mut self, method: impl Into<String>, policy: HedgingPolicy) -> Self {
        self.methods.entry(method.into()).or_default().hedging = Some(policy);
        self
    }

    /// Sets when calls are left out that would be turned away, in place of what the channel does.
    #[must_use]
    pub fn throttle(mut self, policy: AdaptiveThrottle) -> Self {
        self.all.throttle = Some(policy);
        self
    }

    /// Sets the same for calls of one method.
    #[must_use]
    pub fn method_throttle(mut self, method: impl Into<String>, policy: AdaptiveThrottle) -> Self {
        self.methods.entry(method.into()).or_default().throttle = Some(policy);
        self
    }

    /// Gives each method a circuit breaker, in place of what the channel has.
    #[must_use]
    pub fn circuit_breaker(mut self, policy: CircuitBreaker) -> Self {
        self.all.breaker = Some(policy);
        self
    }

    /// Gives one method a circuit breaker.
    #[must_use]
    pub fn method_circuit_breaker(mut self, method: impl Into<String>, policy: CircuitBreaker) -> Self {
        self.methods.entry(method.into()).or_default().breaker = Some(policy);
        self
    }

    /// Sets how an endpoint is chosen, in place of the channel's balancer.
    #[must_use]
    pub fn balancer(mut self, balancer: BalancerChoice) -> Self {
        self.balancer = Some(balancer);
        self
    }

    /// Sets which endpoints get which share of all calls; 16 routes at most, further ones are left out. An endpoint belongs to the first route that leads to it, and
    /// gets no calls if none does. Where nobody is left of a route, its share goes to the others: a canary alone gets all
    /// calls. Without routes all get calls.
    #[must_use]
    pub fn routes(mut self, routes: impl IntoIterator<Item = Route>) -> Self {
        self.routes = Some(routes.into_iter().take(ROUTES_MAX).collect());
        self
    }

    /// Sets the weight of the endpoint of that name (0 to 65,535, more counts as that), in place of what it says itself; with 0 it gets no new calls. The name is
    /// what it has in its registry, or its address as in `tcp://10.0.0.1:7000`.
    #[must_use]
    pub fn weight(mut self, endpoint: impl Into<String>, weight: u32) -> Self {
        self.weights.insert(endpoint.into(), weight.min(Endpoint::WEIGHT_MAX));
        self
    }

    /// Sets the time in which an endpoint that is new grows into its share, at most 365 days; zero: it has it at once.
    #[must_use]
    pub fn slow_start(mut self, window: Duration) -> Self {
        self.slow_start = Some(window.min(DURATION_MAX));
        self
    }

    /// Sets when an endpoint that is worse than the others gets no calls for a while, in place of what the channel does.
    #[must_use]
    pub fn outlier_detection(mut self, policy: OutlierDetection) -> Self {
        self.outliers = Some(policy);
        self
    }

    /// Sets whether clients that know their zone keep their calls in it as long as it is no busier than others (default: yes).
    #[must_use]
    pub fn prefer_zone(mut self, prefer: bool) -> Self {
        self.prefer_zone = Some(prefer);
        self
    }

    /// Sets faults that attempts meet on purpose, at channels whose code gave them a handle
    /// ([`ChannelBuilder::faults`](crate::client::ChannelBuilder::faults)); 16 at most, further ones are left out. They come to those that the application has
    /// set, hold for the channel that follows this configuration, and go with it. One that a further text says again goes on, with what is left of its time.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults = Some(faults.into_iter().take(FAULTS_MAX).collect());
        self
    }

    /// Sets what the servers of the service do with its calls; clients make nothing of it.
    #[must_use]
    pub fn server(mut self, policy: ServerPolicy) -> Self {
        self.server = policy;
        self
    }

    /// This one, laid over `below`.
    pub(crate) fn over(mut self, below: &Self) -> Self {
        self.all = self.all.over(below.all);
        for (name, method) in &below.methods {
            let own = self.methods.entry(name.clone()).or_default();
            *own = own.over(*method);
        }
        self.balancer = self.balancer.or_else(|| below.balancer.clone());
        self.routes = self.routes.or_else(|| below.routes.clone());
        for (name, weight) in &below.weights {
            self.weights.entry(name.clone()).or_insert(*weight);
        }
        self.slow_start = self.slow_start.or(below.slow_start);
        self.prefer_zone = self.prefer_zone.or(below.prefer_zone);
        self.outliers = self.outliers.or(below.outliers);
        self.faults = self.faults.or_else(|| below.faults.clone());
        self.server = self.server.over(&below.server);
        self
    }

    /// How calls of one method are to be made, and how all calls are.
    pub(crate) fn of_method(&self, name: &str) -> (&MethodConfig, &MethodConfig) {
        (self.methods.get(name).unwrap_or(&MethodConfig::NOTHING), &self.all)
    }

    /// The same of a configuration that may not be there, for a method of that name.
    #[inline]
    pub(crate) fn for_method<'a>(
        config: Option<&'a Option<Arc<Self>>>,
        name: &str,
    ) -> (&'a MethodConfig, &'a MethodConfig) {
        match config {
            Some(Some(config)) => config.of_method(name),
            Some(None) | None => (&MethodConfig::NOTHING, &MethodConfig::NOTHING),
        }
    }

    /// Whether clients do the same by both.
    pub(crate) fn is_called_as(&self, other: &Self) -> bool {
        let own = Self {
            server: other.server.clone(),
            ..self.clone()
        };
        own == *other
    }

    /// Whether calls are to be made in any other way than by default.
    pub(crate) fn changes_calls(&self) -> bool {
        self.all != MethodConfig::default() || !self.methods.is_empty()
    }

    /// The route that leads to an endpoint; `None` if none does, or its weight is 0. Without routes there is one, to everybody.
    pub(crate) fn route_to(&self, endpoint: &Endpoint) -> Option<usize> {
        let Some(routes) = self.routes.as_ref().filter(|routes| !routes.is_empty()) else {
            return Some(0);
        };
        let at = routes.iter().position(|route| route.leads_to(endpoint))?;
        (routes[at].weight > 0).then_some(at)
    }

    /// The weights of the routes.
    pub(crate) fn route_weights(&self) -> Vec<u32> {
        match &self.routes {
            Some(routes) if !routes.is_empty() => routes.iter().map(|route| route.weight).collect(),
            _ => vec![1],
        }
    }
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ServiceConfigError {
    message: String,
}

impl ServiceConfigError {
    /// An error that says what is wrong.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Endpoint, Route, ServiceConfig};

    #[test]
    fn what_a_layer_leaves_out_is_that_of_the_layer_below() {
        let ms = Duration::from_millis;
        let below = ServiceConfig::new().timeout(ms(1)).method_timeout("get", ms(2)).weight("a", 1).slow_start(ms(9));
        let above = ServiceConfig::new().method_timeout("put", ms(3)).method_wait_for_ready("get", true).weight("a", 2);
        let both = above.over(&below);
        let of = |method| both.of_method(method).0;
        assert_eq!((of("get").timeout, of("get").wait_for_ready), (Some(ms(2)), Some(true)));
        assert_eq!((of("put").timeout, of("other").timeout), (Some(ms(3)), None));
        assert_eq!(both.of_method("other").1.timeout, Some(ms(1)));
        assert_eq!((both.weights["a"], both.slow_start), (2, Some(ms(9))));
    }

    #[test]
    fn the_first_route_that_leads_there_counts() {
        let plain = Endpoint::new("mem:a".parse().unwrap());
        let canary = plain.clone().with_label("track", "canary");
        assert_eq!(ServiceConfig::new().route_to(&plain), Some(0));
        let routes = |canary, rest: Option<u32>| {
            let first = Route::new(canary).label("track", "canary");
            ServiceConfig::new().routes([first].into_iter().chain(rest.map(Route::new)))
        };
        let both = routes(1, Some(99));
        assert_eq!((both.route_to(&canary), both.route_to(&plain)), (Some(0), Some(1)));
        let rolled_back = routes(0, Some(100));
        assert_eq!(
            (rolled_back.route_to(&canary), rolled_back.route_to(&plain)),
            (None, Some(1))
        );
        assert_eq!(routes(1, None).route_to(&plain), None);
    }
}
