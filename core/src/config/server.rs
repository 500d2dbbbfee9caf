//! What the servers of a service do with calls, as data: limits of rate and concurrency, and whether there is an adaptive one.
//!
//! Not here: counting calls (`policy::rate`), turning them away (`server`).

use std::collections::BTreeMap;
use std::time::Duration;

#[cfg(feature = "faults")]
use super::FAULTS_MAX;
use crate::interceptor::limits::{KEYS_MAX, PER_MAX, PER_MIN};
use crate::policy::faults::Fault;
use crate::policy::rate::Rule;

/// What the servers of a service do with its calls. What is not set is left to lower layers, and in the end to the server's own settings.
///
/// A limit of the service holds for all its calls together, one of a method for that method's in addition. Both are asked before a call waits for its turn and
/// before its arguments are decoded; what they turn away ends with RESOURCE_EXHAUSTED, as with the attributes
/// [`rate_limit`](crate::interceptor::limits::rate_limit) and [`concurrency_limit`](crate::interceptor::limits::concurrency_limit), which hold besides. What
/// one limit turns away counts at no other; what is turned away later, because the server has too much to do, has counted. Each server counts for itself: of
/// three servers, each lets through what is set here.
///
/// A limit is one value of a layer: who sets it anew sets its key, too. When only its number or time changes, what was counted stays (but for a window of
/// another time); with another key, or when there was none, it begins with nothing, and calls that run already do not count.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::config::{ConcurrencyRule, LimitKey, RateRule, ServerPolicy, ServiceConfig}; }
/// use std::time::Duration;
///
/// use sinew::{ConcurrencyRule, LimitKey, RateRule, ServerPolicy, ServiceConfig};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let in_code = ServiceConfig::new().server(
///     ServerPolicy::new()
///         .rate_limit(RateRule::new(500, Duration::from_secs(1)).key(LimitKey::Peer))
///         .method_concurrency_limit("report", ConcurrencyRule::new(2)),
/// );
/// let live = ServiceConfig::from_json(r#"{ "server": {
///     "rate_limit": { "calls": 500, "per": "1s", "key": "peer" },
///     "methods": { "report": { "concurrency_limit": { "calls": 2 } } }
/// } }"#)?;
/// assert_eq!(in_code, live);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerPolicy {
    /// For all calls of the service.
    pub(crate) all: CallPolicy,
    pub(crate) methods: BTreeMap<String, CallPolicy>,
    pub(crate) faults: Option<Vec<Fault>>,
}

/// What is done with the calls of a service, or of one of its methods.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CallPolicy {
    pub(crate) rate: Option<RateRule>,
    pub(crate) concurrency: Option<ConcurrencyRule>,
    pub(crate) is_adaptive: Option<bool>,
}

/// Whose calls count together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitKey {
    /// All.
    #[default]
    All,
    /// Those of one caller, as [`limits::peer`](crate::interceptor::limits::peer) knows it: `"peer"`.
    Peer,
    /// Those of one method: `"method"`.
    Method,
    /// Those with the same first value of that key of metadata: `{"metadata": "tenant"}`. What the caller says, so not for limits that it must not get around.
    Metadata(String),
}

/// So many calls in a time, or no such limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateRule(pub(crate) LimitRule);

/// So many calls at a time, or no such limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConcurrencyRule(pub(crate) LimitRule);

/// What both are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LimitRule {
    /// `None` if nothing is limited.
    pub(crate) rule: Option<Rule>,
    pub(crate) key: LimitKey,
    pub(crate) keys_max: usize,
}

impl LimitRule {
    /// The most keys that can have a limit of their own: about 150 MB of them, and half as much again while their table grows.
    pub(crate) const KEYS_LIMIT: usize = 1_000_000;

    const NEVER: Self = Self {
        rule: None,
        key: LimitKey::All,
        keys_max: KEYS_MAX,
    };

    fn new(rule: Rule) -> Self {
        Self {
            rule: Some(rule),
            ..Self::NEVER
        }
    }

    fn set_keys_max(&mut self, keys: usize) {
        self.keys_max = keys.clamp(1, Self::KEYS_LIMIT);
    }
}

impl RateRule {
    /// No limit, whatever lower layers say: `false`.
    pub const NEVER: Self = Self(LimitRule::NEVER);

    /// So many calls within any such time, which is 1 ms to a day; what is outside counts as that. With 0 calls all are turned away.
    #[must_use]
    pub fn new(calls: u32, per: Duration) -> Self {
        Self(LimitRule::new(Rule::Window {
            limit: calls,
            per: per.clamp(PER_MIN, PER_MAX),
        }))
    }

    /// Spaces the calls evenly but for that many, at least one, which may come at once after a rest: a token bucket.
    #[must_use]
    pub fn burst(mut self, calls: u32) -> Self {
        if let Some(Rule::Window { limit, per } | Rule::Bucket { limit, per, .. }) = self.0.rule {
            self.0.rule = Some(Rule::Bucket {
                limit,
                per,
                burst: calls.max(1),
            });
        }
        self
    }

    /// Sets whose calls count together (default: all).
    #[must_use]
    pub fn key(mut self, key: LimitKey) -> Self {
        self.0.key = key;
        self
    }

    /// Sets how many keys may have a limit of their own, 1 to 1,000,000 (default 10,000); further ones share one, as with
    /// [`RateLimit::max_keys`](crate::interceptor::limits::RateLimit::max_keys). Each takes about 150 bytes.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.0.set_keys_max(keys);
        self
    }
}

impl ConcurrencyRule {
    /// No limit, whatever lower layers say: `false`.
    pub const NEVER: Self = Self(LimitRule::NEVER);

    /// So many calls at a time, those that wait for their turn included; a stream counts until its response begins. With 0 all are turned away.
    #[must_use]
    pub fn new(calls: u32) -> Self {
        Self(LimitRule::new(Rule::Concurrency { limit: calls }))
    }

    /// Sets whose calls count together (default: all).
    #[must_use]
    pub fn key(mut self, key: LimitKey) -> Self {
        self.0.key = key;
        self
    }

    /// Sets how many keys may have a limit of their own at a time, 1 to 1,000,000 (default 10,000); further ones share one.
    #[must_use]
    pub fn max_keys(mut self, keys: usize) -> Self {
        self.0.set_keys_max(keys);
        self
    }
}

impl ServerPolicy {
    /// Nothing is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits how many calls of the service come in a time.
    #[must_use]
    pub fn rate_limit(mut self, rule: RateRule) -> Self {
        self.all.rate = Some(rule);
        self
    }

    /// Limits the same for one method, by its name on the wire without the service's.
    #[must_use]
    pub fn method_rate_limit(mut self, method: impl Into<String>, rule: RateRule) -> Self {
        self.methods.entry(method.into()).or_default().rate = Some(rule);
        self
    }

    /// Limits how many calls of the service are worked on at a time.
    #[must_use]
    pub fn concurrency_limit(mut self, rule: ConcurrencyRule) -> Self {
        self.all.concurrency = Some(rule);
        self
    }

    /// Limits the same for one method.
    #[must_use]
    pub fn method_concurrency_limit(mut self, method: impl Into<String>, rule: ConcurrencyRule) -> Self {
        self.methods.entry(method.into()).or_default().concurrency = Some(rule);
        self
    }

    /// Sets whether calls wait, and are turned away, when there is more to do than the server can, in place of
    /// [`ServerBuilder::adaptive_concurrency`](crate::server::ServerBuilder::adaptive_concurrency).
    #[must_use]
    pub fn adaptive_concurrency(mut self, limit: bool) -> Self {
        self.all.is_adaptive = Some(limit);
        self
    }

    /// Sets the same for one method.
    #[must_use]
    pub fn method_adaptive_concurrency(mut self, method: impl Into<String>, limit: bool) -> Self {
        self.methods.entry(method.into()).or_default().is_adaptive = Some(limit);
        self
    }

    /// Sets faults that calls meet on purpose before their handler, at servers whose code gave them a handle
    /// ([`ServerBuilder::faults`](crate::server::ServerBuilder::faults)); 16 at most, further ones are left out. They come to those that the application has set.
    #[cfg(feature = "faults")]
    #[must_use]
    pub fn faults(mut self, faults: impl IntoIterator<Item = Fault>) -> Self {
        self.faults = Some(faults.into_iter().take(FAULTS_MAX).collect());
        self
    }

    /// Whether calls of one method meet an adaptive limit, if anything is said of it.
    pub(crate) fn is_adaptive(&self, method: &str) -> Option<bool> {
        let own = self.methods.get(method).and_then(|method| method.is_adaptive);
        own.or(self.all.is_adaptive)
    }

    /// This one, laid over `below`.
    pub(super) fn over(mut self, below: &Self) -> Self {
        self.all = self.all.over(&below.all);
        self.faults = self.faults.or_else(|| below.faults.clone());
        for (name, method) in &below.methods {
            let own = self.methods.entry(name.clone()).or_default();
            *own = std::mem::take(own).over(method);
        }
        self
    }
}

impl CallPolicy {
    fn over(self, below: &Self) -> Self {
        Self {
            rate: self.rate.or_else(|| below.rate.clone()),
            concurrency: self.concurrency.or_else(|| below.concurrency.clone()),
            is_adaptive: self.is_adaptive.or(below.is_adaptive),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ConcurrencyRule, LimitRule, RateRule, ServerPolicy};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_a_layer_leaves_out_is_that_of_the_layer_below() {
        let below = ServerPolicy::new()
            .rate_limit(RateRule::new(1, SECOND))
            .method_concurrency_limit("get", ConcurrencyRule::new(2))
            .method_adaptive_concurrency("get", false);
        let above = ServerPolicy::new()
            .rate_limit(RateRule::NEVER)
            .adaptive_concurrency(true)
            .method_rate_limit("get", RateRule::new(3, SECOND));
        let both = above.over(&below);
        assert_eq!(both.all.rate, Some(RateRule::NEVER));
        assert_eq!(both.methods["get"].rate, Some(RateRule::new(3, SECOND)));
        assert_eq!(both.methods["get"].concurrency, Some(ConcurrencyRule::new(2)));
        assert_eq!(
            (both.is_adaptive("get"), both.is_adaptive("put")),
            (Some(false), Some(true))
        );
        assert_eq!(ServerPolicy::new().is_adaptive("get"), None);
    }

    #[test]
    fn what_is_out_of_range_counts_as_its_end() {
        assert_eq!(
            RateRule::new(1, Duration::ZERO),
            RateRule::new(1, Duration::from_millis(1))
        );
        let week = Duration::from_hours(7 * 24);
        assert_eq!(RateRule::new(1, week), RateRule::new(1, Duration::from_hours(24)));
        assert_eq!(RateRule::new(1, SECOND).burst(0), RateRule::new(1, SECOND).burst(1));
        assert_eq!(RateRule::NEVER.burst(1), RateRule::NEVER);
        for (keys, kept) in [
            (0, 1),
            (LimitRule::KEYS_LIMIT, LimitRule::KEYS_LIMIT),
            (LimitRule::KEYS_LIMIT + 1, LimitRule::KEYS_LIMIT),
        ] {
            assert_eq!(ConcurrencyRule::new(1).max_keys(keys).0.keys_max, kept);
        }
    }
}
