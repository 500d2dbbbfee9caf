//! Limits of calls as interceptors: so many in a time, evenly or not, or at once, of all callers together or of each.
//!
//! They stack as attributes, on a whole server (`ServerBuilder::interceptor`), or on a client's channel. On a service or a server they turn calls away
//! before their arguments are decoded.

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use super::counter::Counter;
use super::{Interceptor, Next};
use crate::context::{Cx, Identity, Peer};
use crate::message::Outcome;
use crate::method::MethodSpec;
use crate::policy::rate::{Counted, Rule};
use crate::status::{HandlerRan, Status};
use crate::time::IntoDuration;

/// Keys that have a limit of their own, by default: a few hundred KiB of them.
pub(crate) const KEYS_MAX: usize = 10_000;
/// Of a bucket: the part of its calls that may come at once, by default.
const BURST_PART: u32 = 10;
/// The times that a limit can be for.
pub(crate) const PER_MIN: Duration = Duration::from_millis(1);
pub(crate) const PER_MAX: Duration = Duration::from_hours(24);

/// So many calls in a second, or in [`per`](RateLimit::per), whenever they come: a *sliding window*.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::interceptor::limits; }
/// use sinew::limits::{peer, rate_limit};
///
/// // As an attribute: `#[interceptor(rate_limit(500, per = "1s", key = peer))]`.
/// let of_each_peer = rate_limit(500).per("1s").key(peer);
/// // Clones share their limit, so one that is kept changes it while calls come.
/// of_each_peer.clone().set_limit(100);
/// ```
#[must_use]
pub fn rate_limit(limit: u32) -> RateLimit {
    RateLimit::new(Rule::Window {
        limit,
        per: Duration::from_secs(1),
    })
}

/// So many calls in a second, or in [`per`](RateLimit::per), evenly: a *token bucket*, of which a tenth, or [`burst`](RateLimit::burst), may come at once.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::interceptor::limits; }
/// use sinew::limits::{metadata, token_bucket};
///
/// // As an attribute: `#[interceptor(token_bucket(50, burst = 10, key = metadata("tenant")))]`.
/// let of_each_tenant = token_bucket(50).burst(10).key(metadata("tenant"));
/// # let _ = of_each_tenant;
/// ```
#[must_use]
pub fn token_bucket(limit: u32) -> RateLimit {
    RateLimit::new(Rule::Bucket {
        limit,
        per: Duration::from_secs(1),
        burst: (limit / BURST_PART).max(1),
    })
}

/// So many calls at a time; those above it are turned away, and do not wait.
///
/// A stream counts until its response begins, as all interceptors have it.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::interceptor::limits; }
/// use sinew::limits::concurrency_limit;
///
/// // As an attribute: `#[interceptor(concurrency_limit(4))]`.
/// let four = concurrency_limit(4);
/// # let _ = four;
/// ```
#[must_use]
pub fn concurrency_limit(limit: u32) -> ConcurrencyLimit {
    ConcurrencyLimit(Limit::new(Rule::Concurrency { limit }))
}

/// Who called: the first name of its certificate if it showed one, else its IP address (of IPv6 the first 64 bits, which one caller has all of), never its port.
#[must_use]
pub fn peer(cx: &Cx) -> Vec<u8> {
    cx.peer().map(name_of_peer).unwrap_or_default()
}

pub(crate) fn name_of_peer(peer: &Peer) -> Vec<u8> {
    if let Some(identity) = peer.identity() {
        return name_of(identity);
    }
    let address = peer.address();
    let host = address.rsplit_once(':').map_or(address, |(host, _port)| host);
    let host = host.rsplit_once("://").map_or(host, |(_scheme, host)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    // A link, of an address that is only one there.
    match host.split('%').next().unwrap_or(host).parse() {
        Ok(IpAddr::V4(address)) => address.octets().to_vec(),
        Ok(IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(address) => address.octets().to_vec(),
            None => network_of(address).to_vec(),
        },
        // A unix socket, or within the process.
        Err(_) => host.as_bytes().to_vec(),
    }
}

/// The method that is called, by whichever of its names.
#[must_use]
pub fn method(cx: &Cx) -> [u8; 8] {
    cx.method().map_or_else(|| cx.method_id(), MethodSpec::id).to_be_bytes()
}

/// The request's first value of a key of metadata; calls without it have one key together. What the caller says, so not for limits that it must not get around.
pub fn metadata(key: &'static str) -> impl Fn(&Cx) -> Vec<u8> + Send + Sync + 'static {
    move |cx| cx.metadata().get_bytes(key).map(<[u8]>::to_vec).unwrap_or_default()
}

fn name_of(identity: &Identity) -> Vec<u8> {
    let name = identity.uris().first().or_else(|| identity.dns_names().first());
    name.map_or_else(|| identity.certificate().to_vec(), |name| name.as_bytes().to_vec())
}

/// The first 64 bits.
fn network_of(address: Ipv6Addr) -> [u8; 8] {
    let octets = address.octets();
    std::array::from_fn(|at| octets[at])
}

/// A limit of calls in a time, as an interceptor; made by [`rate_limit`] or [`token_bucket`]. Clones share the limit and what was counted; set the key
/// before it is cloned.
#[derive(Clone, Debug)]
pub struct RateLimit(Limit);

/// A limit of calls at a time, as an interceptor; made by [`concurrency_limit`]. Clones share the limit and what was counted; set the key before it is
/// cloned.
#[derive(Clone, Debug)]
pub struct ConcurrencyLimit(Limit);

/// What both have.
#[derive(Clone)]
struct Limit {
    counter: Arc<Counter>,
    key: Option<Arc<HashKey>>,
    /// What is wrong with how it was set.
    wrong: Option<Arc<str>>,
}

/// The hash of a call's key.
type HashKey = dyn Fn(&Cx) -> u64 + Send + Sync;

impl RateLimit {
    fn new(rule: Rule) -> Self {
        Self(Limit::new(rule))
    }

    /// Sets the time that the limit is for (default 1 s; 1 ms to a day). Calls end with INTERNAL if it is no such time.
    #[must_use]
    pub fn per(mut self, time: impl IntoDuration) -> Self {
        match time.into_duration() {
            Ok(time) if (PER_MIN..=PER_MAX).contains(&time) => self.0.counter.change(|rule| match rule {
                Rule::Window { per, .. } | Rule::Bucket { per, .. } => *per = time,
                Rule::Concurrency { .. } => {}
            }),
            Ok(time) => self.0.is_wrong(&format_args!("`per` is {time:?}; it must be 1 ms to a day")),
            Err(error) => self.0.is_wrong(&format_args!("`per`: {error}")),
        }
        self
    }

    /// Sets how many calls may come at once, of a [`token_bucket`] (default: a tenth of its limit, at least one). Calls through a [`rate_limit`] end with INTERNAL if
    /// it is set there.
    #[must_use]
    pub fn burst(mut self, calls: u32) -> Self {
        match self.0.counter.rule() {
            Rule::Bucket { .. } => self.0.counter.change(|rule| {
                if let Rule::Bucket { burst, .. } = rule {
                    *burst = calls;
                }
            }),
            Rule::Window { .. } | Rule::Concurrency { .. } => {
                self.0.is_wrong(&"a window has no `burst`; use `token_bucket(..)`");
            }
        }
        self
    }

    /// Gives each key a limit of its own: [`peer`], [`method`], [`metadata`]`("tenant")`, or what a function makes of the context.
    #[must_use]
    pub fn key<K: AsRef<[u8]>>(mut self, key: impl Fn(&Cx) -> K + Send + Sync + 'static) -> Self {
        self.0.set_key(key);
        self
    }

    /// Sets how many keys may have a limit of their own (default 10,000, at least 1). Further ones share one, until those before have been quiet for about twice the
    /// limit's time: who can make up keys can fill the table, and then takes from all that are not in it, but from nobody that is.
    #[must_use]
    pub fn max_keys(self, keys: usize) -> Self {
        self.0.counter.set_keys_max(keys);
        self
    }

    /// Changes the limit while calls come; of a bucket, how many may come at once stays.
    pub fn set_limit(&self, calls: u32) {
        self.0.counter.change(|rule| match rule {
            Rule::Window { limit, .. } | Rule::Bucket { limit, .. } | Rule::Concurrency { limit } => *limit = calls,
        });
    }

    /// Keys that have a limit of their own now.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.counter.keys()
    }
}

impl ConcurrencyLimit {
    /// As [`RateLimit::key`].
    #[must_use]
    pub fn key<K: AsRef<[u8]>>(mut self, key: impl Fn(&Cx) -> K + Send + Sync + 'static) -> Self {
        self.0.set_key(key);
        self
    }

    /// Sets how many keys may have a limit of their own at a time (default 10,000, at least 1); further ones share one.
    #[must_use]
    pub fn max_keys(self, keys: usize) -> Self {
        self.0.counter.set_keys_max(keys);
        self
    }

    /// Changes the limit while calls come.
    pub fn set_limit(&self, calls: u32) {
        self.0.counter.change(|rule| *rule = Rule::Concurrency { limit: calls });
    }

    /// Keys that have calls now.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.0.counter.keys()
    }
}

impl Limit {
    fn new(rule: Rule) -> Self {
        Self {
            counter: Arc::new(Counter::new(rule, KEYS_MAX)),
            key: None,
            wrong: None,
        }
    }

    fn set_key<K: AsRef<[u8]>>(&mut self, key: impl Fn(&Cx) -> K + Send + Sync + 'static) {
        // Nobody can make up keys that have the same hash, because nobody knows its seed.
        let hasher = RandomState::new();
        self.key = Some(Arc::new(move |cx| hasher.hash_one(key(cx).as_ref())));
    }

    fn is_wrong(&mut self, what: &dyn fmt::Display) {
        let what = format!("a limit of calls is set wrong: {what}");
        tracing::error!("{what}");
        self.wrong.get_or_insert_with(|| what.into());
    }

    /// Counts a call, or tells why it is turned away.
    fn take(&self, cx: &Cx) -> Result<Counted, Status> {
        if let Some(wrong) = &self.wrong {
            return Err(Status::internal(wrong.to_string()).with_handler_ran(HandlerRan::No));
        }
        let key = self.key.as_ref().map_or(0, |key| key(cx));
        self.counter.take(key, self.key.is_some())
    }
}

impl Interceptor for RateLimit {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        self.0.take(cx)?;
        next.run(cx).await
    }
}

impl Interceptor for ConcurrencyLimit {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        let _running = Running {
            counter: &self.0.counter,
            counted: self.0.take(cx)?,
        };
        next.run(cx).await
    }
}

/// A call that counts until it is over, however it ends.
struct Running<'a> {
    counter: &'a Counter,
    counted: Counted,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.counter.give_back(self.counted);
    }
}

impl fmt::Debug for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limit")
            .field("rule", &self.counter.rule())
            .field("by_key", &self.key.is_some())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::peer;
    use crate::context::{Cx, CxParts, Identity, Peer};

    fn key_of(address: &str, identity: Option<Identity>) -> Vec<u8> {
        let peer_there = Peer::new(address).with_identity(identity.map(Arc::new));
        peer(&Cx::from_parts(CxParts {
            peer: Some(peer_there),
            ..CxParts::default()
        }))
    }

    #[test]
    fn a_peer_is_known_by_its_name_or_its_network_never_by_its_port() {
        let key = |address| key_of(address, None);
        assert_eq!(key("tcp://10.0.0.7:40112"), key("quic://10.0.0.7:9"));
        assert_eq!(key("tcp://10.0.0.7:1"), key("tcp://[::ffff:10.0.0.7]:1"));
        assert_ne!(key("tcp://10.0.0.7:1"), key("tcp://10.0.0.8:1"));
        assert_eq!(key("tcp://[2001:db8:1:2:3::4]:1"), key("tcp://[2001:db8:1:2::9]:7"));
        assert_ne!(key("tcp://[2001:db8:1:2::4]:1"), key("tcp://[2001:db8:1:3::4]:1"));
        assert_eq!(
            key("tcp://[fe80::1%2]:1"),
            key("tcp://[fe80::9%2]:7"),
            "whatever the link is called"
        );
        assert_eq!(key("unix:"), key("unix:"));
        let named = |uri: &str| Identity::new(vec![vec![1]], vec!["a.example".to_owned()], vec![uri.to_owned()]);
        assert_eq!(
            key_of("tcp://10.0.0.7:1", Some(named("spiffe://x/a"))),
            key_of("tcp://10.9.9.9:1", Some(named("spiffe://x/a")))
        );
        assert_ne!(
            key_of("tcp://10.0.0.7:1", Some(named("spiffe://x/a"))),
            key_of("tcp://10.0.0.7:1", Some(named("spiffe://x/b")))
        );
        assert_eq!(peer(&Cx::new()), Vec::<u8>::new());
    }
}
