//! Calls of one key to one endpoint, for as long as it is there and has room.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Balancer, Candidate, ConnectsTo, PickArgs, Picker, shares};
use crate::policy::ring::{Ring, hash};

/// By how much more than its share an endpoint may have in flight before keys of its go to the next.
const BOUND_DEFAULT: f64 = 1.25;
/// Calls in flight that an endpoint may have whatever its share: where there are few, a quarter more is less than one.
const FREE_CALLS: u32 = 8;
/// Calls in flight are summed up once per so many picks for each endpoint: a pick costs a few of them then, however many there are.
const SUM_ONE_OF: usize = 8;

/// Sends all calls of one key to the same endpoint, so that what it keeps of a key (a cache, a session) is of use; the same one from every client.
///
/// The key is that of [`Call::route_key`](crate::client::Call::route_key), or the value of a metadata key; a call with neither goes to any endpoint. When an
/// endpoint goes, only its keys move, and when one comes, only those that it takes over. One that has a quarter more calls in flight than its share
/// gives further ones to the next, whatever their key: an answer from a cold cache is better than one that waits. Up to eight calls in flight at an endpoint are
/// always fine. So affinity is what helps a cache; what must not go elsewhere needs a balancer of its own. A channel connects to all endpoints, however many
/// there are. Routes of a configuration divide calls first, whatever their keys.
#[derive(Clone, Debug)]
pub struct ConsistentHash {
    metadata_key: Option<Cow<'static, str>>,
    bound: f64,
}

impl Default for ConsistentHash {
    fn default() -> Self {
        Self::new()
    }
}

impl ConsistentHash {
    /// By the key of the call.
    #[must_use]
    pub fn new() -> Self {
        Self {
            metadata_key: None,
            bound: BOUND_DEFAULT,
        }
    }

    /// By the value of `key` in the call's metadata, where the call has no key of its own.
    #[must_use]
    pub fn metadata_key(mut self, key: impl Into<Cow<'static, str>>) -> Self {
        self.metadata_key = Some(key.into());
        self
    }

    /// Sets how many calls in flight an endpoint may have, as a factor of its share (default 1.25; 1.01 to 100, what is beyond counts as that; what is no number, as the default). A larger one
    /// keeps more calls at their endpoint, and lets a popular key load it more.
    #[must_use]
    pub fn load_bound(mut self, factor: f64) -> Self {
        self.bound = if factor.is_nan() {
            BOUND_DEFAULT
        } else {
            factor.clamp(1.01, 100.0)
        };
        self
    }
}

impl Balancer for ConsistentHash {
    /// The owner of a key may be anybody.
    fn connects_to(&self) -> ConnectsTo {
        ConnectsTo::Everybody
    }

    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        // By the registry's weight: one that is only new must not move keys to and fro.
        let ring = Ring::new(ready.iter().map(|one| (one.endpoint.name(), one.endpoint.weight().max(1))));
        let part = |share: f64| share * self.bound / ready.len() as f64;
        Arc::new(Hashed {
            ring,
            metadata_key: self.metadata_key.clone(),
            parts: shares(ready).into_iter().map(part).collect(),
            in_flight: AtomicU64::new(0),
            picks: AtomicU64::new(0),
            candidates: ready.into(),
        })
    }
}

struct Hashed {
    candidates: Box<[Candidate]>,
    /// `None` if there is nobody.
    ring: Option<Ring>,
    metadata_key: Option<Cow<'static, str>>,
    /// What part of all calls in flight each may have.
    parts: Box<[f64]>,
    /// Calls in flight at all of them, as they were summed up last.
    in_flight: AtomicU64,
    picks: AtomicU64,
}

impl Hashed {
    fn key(&self, args: &PickArgs<'_>) -> u64 {
        let in_metadata = || {
            let key = self.metadata_key.as_deref()?;
            Some(hash(args.metadata?.get_bytes(key)?))
        };
        args.route_key.or_else(in_metadata).unwrap_or_else(|| fastrand::u64(..))
    }

    /// Calls in flight at all of them.
    fn all_in_flight(&self) -> u64 {
        let every = (self.candidates.len() / SUM_ONE_OF).max(1) as u64;
        if !self.picks.fetch_add(1, Ordering::Relaxed).is_multiple_of(every) {
            return self.in_flight.load(Ordering::Relaxed);
        }
        let sum = self.candidates.iter().map(|one| u64::from(one.in_flight())).sum();
        self.in_flight.store(sum, Ordering::Relaxed);
        sum
    }
}

impl Picker for Hashed {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let ring = self.ring.as_ref()?;
        let key = self.key(args);
        let all = (self.all_in_flight() + 1) as f64;
        let has_room = |index: usize| {
            let in_flight = self.candidates[index].in_flight() + 1;
            in_flight <= FREE_CALLS || f64::from(in_flight) <= (all * self.parts[index]).ceil()
        };
        let is_free = |index: usize| !args.excludes(&self.candidates[index]);
        let owner = ring.node(key);
        if has_room(owner) && is_free(owner) {
            return Some(owner);
        }
        let next = ring.walk(key).find(|&index| has_room(index) && is_free(index));
        next.or_else(|| ring.walk(key).find(|&index| is_free(index)))
    }
}
