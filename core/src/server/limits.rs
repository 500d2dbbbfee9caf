//! Limits of calls that can change while they come: of a service, of each method, by whoever called.
//!
//! They are asked before a call waits for its turn, so one that is turned away takes no place in line. What was counted stays when only the number of a limit
//! changes.
//!
//! Not here: where the configuration comes from (`config`), limits as attributes (`interceptor`).

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;

use super::router::{Route, Router};
use crate::config::LimitKey;
use crate::config::server::{CallPolicy, LimitRule, ServerPolicy};
use crate::context::Peer;
use crate::interceptor::counter::Counter;
use crate::interceptor::limits::name_of_peer;
use crate::metadata::Metadata;
use crate::policy::rate::{Counted, Rule};
use crate::status::Status;

/// Limits that a call can meet: of each kind that of its method and that of its service.
const LIMITS_MAX: usize = 4;

/// The limits of all methods of a server.
pub(super) struct CallLimits {
    /// By route; `None` where there is none.
    routes: Box<[ArcSwapOption<Vec<Arc<CallLimit>>>]>,
    /// Those that there are, so that what was counted outlives a change.
    known: Mutex<BTreeMap<Place, Arc<CallLimit>>>,
    hasher: RandomState,
}

/// Which limit one is: there is one of each kind for a service, and for each method.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) service: String,
    /// `None`: of all its methods together.
    pub(super) method: Option<String>,
    pub(super) kind: Kind,
}

/// Of which kind it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Concurrency,
    Rate,
}

/// One limit, and what it has counted.
pub(super) struct CallLimit {
    kind: Kind,
    counter: Counter,
    key: LimitKey,
    rejected: AtomicU64,
}

/// What a call counts at, given back once: when it is answered, or nobody waits for it any more, or its handler is gone, whatever comes first.
#[derive(Clone, Default)]
pub(super) struct Held(Option<Arc<Mutex<Slots>>>);

/// The slots of a call, as long as it counts.
struct Slots {
    held: Vec<Slot>,
    /// Its handler is polled right now: it may compute, or block its thread, whoever waits for it.
    is_polled: bool,
}

/// A call that counts at a limit until this is gone.
struct Slot {
    limit: Arc<CallLimit>,
    counted: Counted,
}

/// What is known of a call before it has a context.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) peer: &'a Peer,
    pub(super) metadata: &'a Metadata,
}

/// A limit at one moment.
pub(super) struct Use {
    pub(super) rule: Rule,
    pub(super) key: LimitKey,
    pub(super) keys: usize,
    pub(super) rejected: u64,
}

impl CallLimits {
    /// None yet, for the methods of `router`.
    pub(super) fn new(router: &Router) -> Self {
        Self {
            routes: router.routes().iter().map(|_| ArcSwapOption::empty()).collect(),
            known: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// Makes what `policy` says of `service` hold for calls that come from now on.
    pub(super) fn apply(&self, router: &Router, service: &str, policy: &ServerPolicy) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted: BTreeMap<Place, Arc<CallLimit>> = BTreeMap::new();
        let mut limit = |method: Option<&str>, kind: Kind, said: Option<&LimitRule>| {
            let said = said?;
            let rule = said.rule?;
            let place = Place {
                service: service.to_owned(),
                method: method.map(str::to_owned),
                kind,
            };
            // The service's own is met with each of its methods.
            let before = wanted.get(&place).or_else(|| known.get(&place)).filter(|limit| limit.key == said.key);
            let limit = before.map_or_else(|| Arc::new(CallLimit::new(kind, rule, said)), Arc::clone);
            limit.counter.change(|now| *now = rule);
            limit.counter.set_keys_max(said.keys_max);
            wanted.insert(place, Arc::clone(&limit));
            Some(limit)
        };
        let nothing = CallPolicy::default();
        for (at, route) in of_service(router, service) {
            let method = route.spec.name();
            let (own, all) = (policy.methods.get(method).unwrap_or(&nothing), &policy.all);
            let limits = [
                limit(
                    Some(method),
                    Kind::Concurrency,
                    own.concurrency.as_ref().map(|rule| &rule.0),
                ),
                limit(None, Kind::Concurrency, all.concurrency.as_ref().map(|rule| &rule.0)),
                limit(Some(method), Kind::Rate, own.rate.as_ref().map(|rule| &rule.0)),
                limit(None, Kind::Rate, all.rate.as_ref().map(|rule| &rule.0)),
            ];
            let limits: Vec<_> = limits.into_iter().flatten().collect();
            self.routes[at].store((!limits.is_empty()).then(|| Arc::new(limits)));
        }
        known.retain(|place, _| place.service != service);
        known.extend(wanted);
    }

    /// Counts a call of the method at `route`; what is returned is to be kept until it is over.
    ///
    /// # Errors
    /// Why it is turned away.
    pub(super) fn take(&self, route: usize, arrival: Arrival<'_>) -> Result<Held, Status> {
        let limits = self.routes[route].load();
        let Some(limits) = &*limits else {
            return Ok(Held::default());
        };
        let mut taken = [None; LIMITS_MAX];
        for (at, limit) in limits.iter().enumerate() {
            match limit.take(arrival.hash(route, &limit.key, &self.hasher)) {
                Ok(counted) => taken[at] = Some(counted),
                Err(status) => {
                    // What one turns away counts at no other, or one caller that asks for too much would take from all.
                    for (limit, counted) in limits.iter().zip(taken) {
                        counted.into_iter().for_each(|counted| limit.counter.take_back(counted));
                    }
                    return Err(status);
                }
            }
        }
        let running = limits.iter().zip(taken).filter(|(limit, _)| limit.kind == Kind::Concurrency);
        let held = running.filter_map(|(limit, counted)| {
            Some(Slot {
                limit: Arc::clone(limit),
                counted: counted?,
            })
        });
        let held: Vec<Slot> = held.collect();
        let is_any = !held.is_empty();
        let slots = Slots { held, is_polled: false };
        Ok(Held(is_any.then(|| Arc::new(Mutex::new(slots)))))
    }

    /// All limits that there are now.
    pub(super) fn uses(&self) -> Vec<(Place, Use)> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().map(|(place, limit)| (place.clone(), limit.usage())).collect()
    }
}

impl CallLimit {
    fn new(kind: Kind, rule: Rule, said: &LimitRule) -> Self {
        Self {
            kind,
            counter: Counter::new(rule, said.keys_max),
            key: said.key.clone(),
            rejected: AtomicU64::new(0),
        }
    }

    fn take(&self, key: u64) -> Result<Counted, Status> {
        self.counter.take(key, self.key != LimitKey::All).inspect_err(|_| {
            self.rejected.fetch_add(1, Ordering::Relaxed);
        })
    }

    fn usage(&self) -> Use {
        Use {
            rule: self.counter.rule(),
            key: self.key.clone(),
            keys: self.counter.keys(),
            rejected: self.rejected.load(Ordering::Relaxed),
        }
    }
}

impl Held {
    /// The call does not count any more.
    pub(super) fn give_back(&self) {
        if let Some(mut slots) = self.slots() {
            slots.held.clear();
        }
    }

    /// Nobody waits for the call any more: it does not count, unless its handler is polled right now. Then it counts until that is over.
    pub(super) fn give_up(&self) {
        if let Some(mut slots) = self.slots().filter(|slots| !slots.is_polled) {
            slots.held.clear();
        }
    }

    /// The handler is about to be polled, or has been; `false` if the call does not count any more, so that it must not be.
    pub(super) fn set_polled(&self, is_polled: bool) -> bool {
        let Some(mut slots) = self.slots() else { return true };
        slots.is_polled = is_polled;
        !slots.held.is_empty()
    }

    fn slots(&self) -> Option<MutexGuard<'_, Slots>> {
        self.0.as_ref().map(|slots| slots.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.limit.counter.give_back(self.counted);
    }
}

impl Arrival<'_> {
    /// Nobody can make up keys that have the same hash, because nobody knows its seed.
    fn hash(&self, route: usize, key: &LimitKey, hasher: &RandomState) -> u64 {
        match key {
            LimitKey::All => 0,
            LimitKey::Peer => hasher.hash_one(name_of_peer(self.peer)),
            // By whichever of its names it was called.
            LimitKey::Method => hasher.hash_one(route),
            LimitKey::Metadata(key) => hasher.hash_one(self.metadata.get_bytes(key).unwrap_or_default()),
        }
    }
}

/// The methods of a service, and where they are; the server's own are in none.
pub(super) fn of_service<'a>(router: &'a Router, service: &str) -> impl Iterator<Item = (usize, &'a Route)> {
    let is_of = move |route: &Route| !route.is_built_in && route.spec.service() == service;
    router.routes().iter().enumerate().filter(move |(_, route)| is_of(route))
}
