//! The endpoints of a channel as the task of its pool knows them: who is there, who is connected, and what calls are to read.
//!
//! Driven by [`pool`](super::pool): lists and changes of state go in, a [`View`] comes out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::balancer::zoned::prefers_zone;
use super::balancer::{Candidate, ConnectsTo};
use super::ejection::{Ejections, Judged};
use super::health::Standing;
use super::member::Member;
use super::removals::Removals;
use super::snapshot::{Board, Posted};
use super::state::ConnectivityState;
use super::subchannel::unreachable;
use crate::config::ServiceConfig;
use crate::discovery::{Endpoint, EndpointState, Resolution, ResolveError};
use crate::policy::aperture::{Place, aperture};
use crate::policy::outlier::OutlierDetection;
use crate::policy::subset::{ALL_MAX, SUBSET_SIZE, subset};
use crate::policy::warmup::{Age, Warmup};
use crate::status::Status;
use crate::transport::error::WithCauses;

/// How long the first ready endpoint has to wait for the others before calls go to it: all that queued up would go to that one else.
const GATHER: Duration = Duration::from_millis(50);

/// How long endpoints that are not this client's any more are called while those that are connect.
const MAKE_BEFORE_BREAK: Duration = Duration::from_secs(5);

/// What an endpoint of weight 1 counts for where clients have parts of endpoints, so that a part of it is not rounded to all.
const PART_UNIT: u32 = 1_000;

/// The endpoints of a channel.
pub(super) struct Members {
    /// Those that the balancer may connect to.
    members: Vec<Known>,
    target: String,
    removals: Removals,
    /// What subset this client takes.
    seed: u64,
    /// How many endpoints there are, and how many of them take calls.
    counts: (usize, usize),
    /// Endpoints that are not connected to, and why.
    refused: Vec<(String, Status)>,
    /// Why the list is what it is.
    resolve_failure: Option<ResolveError>,
    /// The resolver has said something; what is known may be from an earlier time else.
    heard: bool,
    gathering: Gathering,
    config: Arc<ServiceConfig>,
    connects_to: ConnectsTo,
    /// Where this client runs.
    zone: Option<String>,
    /// Its place among all clients, and to how many endpoints it connects by that.
    place: Option<(Place, usize)>,
    /// When an endpoint has another weight, or is judged again.
    look_again: Option<Instant>,
    /// The one that takes all calls, where one does.
    first: Option<u64>,
    /// The endpoints are others than before.
    is_changed: bool,
    /// Those of the list, or of the place, before.
    outgoing: Option<Outgoing>,
    ejections: Ejections,
    /// What the last view showed as ready, and as ejected.
    shown: Vec<(u64, Endpoint, u32)>,
    shown_ejected: Vec<u64>,
}

/// What calls are to read.
pub(super) enum View {
    /// Nobody is ready.
    Nobody {
        /// Why.
        failure: Option<Status>,
        /// There is no hope for the moment.
        is_hopeless: bool,
    },
    /// Somebody is, and waits for the others.
    Gathering(Instant),
    /// These are ready, and those of them that are ejected may be asked whether they work again.
    Ready(Vec<Candidate>, Vec<Arc<Member>>),
    /// The same as before.
    Unchanged,
}

/// Whether those that are ready have waited for the others.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Gathering {
    /// Nobody is ready.
    None,
    /// Somebody is.
    Until(Instant),
    /// They have.
    Done,
}

struct Known {
    endpoint: Endpoint,
    member: Arc<Member>,
    /// The part of its weight that is this client's to use.
    part: f64,
}

/// Members that are not this client's any more, though they could be called, and are until others can.
struct Outgoing {
    members: Vec<Known>,
    until: Instant,
}

impl Known {
    fn state(&self) -> ConnectivityState {
        self.member.state()
    }

    /// What it can take from this client, next to others.
    fn weight(&self, has_parts: bool) -> u32 {
        if !has_parts {
            return self.endpoint.weight();
        }
        let part = f64::from(self.endpoint.weight()) * f64::from(PART_UNIT) * self.part;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a weight has 16 bits, and a part is at most 1"
        )]
        let whole = part.round() as u32;
        whole.max(1)
    }

    /// It takes calls if nobody else does.
    fn is_leaving(&self) -> bool {
        self.member.subchannel.standing() == Standing::Leaves
    }
}

impl Members {
    /// For a registry that may lose entries for as long as `removal_window`.
    pub(super) fn new(
        target: &str,
        seed: u64,
        removal_window: Option<Duration>,
        config: Arc<ServiceConfig>,
        connects_to: ConnectsTo,
        zone: Option<String>,
        outliers: OutlierDetection,
    ) -> Self {
        Self {
            members: Vec::new(),
            target: target.to_owned(),
            removals: Removals::new(removal_window),
            seed,
            counts: (0, 0),
            refused: Vec::new(),
            resolve_failure: None,
            heard: false,
            gathering: Gathering::None,
            config,
            connects_to,
            zone,
            place: None,
            outgoing: None,
            ejections: Ejections::new(target, outliers),
            look_again: None,
            first: None,
            is_changed: true,
            shown: Vec::new(),
            shown_ejected: Vec::new(),
        }
    }

    /// Calls that were begun at all of them, and that are under way.
    pub(super) fn calls(&self) -> (u64, u64) {
        let outgoing = self.outgoing.iter().flat_map(|outgoing| &outgoing.members);
        let loads = self.members.iter().chain(outgoing).map(|known| &known.member.load);
        loads.fold((0, 0), |(begun, running), load| {
            (begun + load.begun(), running + u64::from(load.in_flight()))
        })
    }

    /// What is known, for snapshots.
    pub(super) fn board(&self) -> Board {
        let unused = self.removals.endpoints().filter_map(|endpoint| {
            let endpoint = self.weighed(endpoint);
            let why = match (endpoint.weight(), endpoint.state(), self.config.route_to(&endpoint)) {
                (0, ..) => "its weight is 0",
                (_, EndpointState::Draining, _) => "it is about to leave",
                (_, _, None) => "no route leads to it",
                _ => return None,
            };
            // One that is about to leave is used where nobody else is there.
            let is_used = self.members.iter().any(|known| known.endpoint.name() == endpoint.name());
            (!is_used).then(|| (endpoint.name().to_owned(), why.to_owned()))
        });
        let refused = self.refused.iter().map(|(name, why)| (name.clone(), why.message().to_owned()));
        Board {
            members: self.members.iter().map(|known| self.posted(known)).collect(),
            listed: self.counts.0 - self.removals.held(),
            kept: self.removals.held(),
            place: self.place.map(|(place, _)| (place.index, place.clients)),
            refused: refused.collect(),
            unused: unused.collect(),
        }
    }

    fn posted(&self, known: &Known) -> Posted {
        Posted {
            endpoint: known.endpoint.clone(),
            member: Arc::downgrade(&known.member),
            ejected: self.ejections.reason(&known.member),
        }
    }

    /// Whether the endpoints are others than when this was asked last.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.is_changed)
    }

    /// Forgets what was shown, so that it is shown again.
    pub(super) fn show_again(&mut self) {
        self.shown.clear();
        self.shown_ejected.clear();
    }

    /// Takes up another configuration.
    pub(super) fn configure(
        &mut self,
        config: Arc<ServiceConfig>,
        connects_to: ConnectsTo,
        outliers: OutlierDetection,
        make: impl Fn(&Endpoint) -> Result<Arc<Member>, Status>,
    ) {
        self.config = config;
        self.ejections.set_policy(outliers);
        self.connects_to = connects_to;
        // The balancer or the routes may be others.
        self.show_again();
        self.take_up(make);
    }

    /// This client has another place among all clients, and is to connect to so many endpoints by that.
    pub(super) fn place(&mut self, place: Place, size: usize, make: impl Fn(&Endpoint) -> Result<Arc<Member>, Status>) {
        self.place = Some((place, size));
        self.take_up(make);
    }

    /// When to look again though nothing happens.
    pub(super) fn look_again(&self) -> Option<Instant> {
        self.look_again
    }

    /// Takes up a list of an earlier time, until the resolver says something.
    pub(super) fn recall(&mut self, list: &Resolution, make: impl Fn(&Endpoint) -> Result<Arc<Member>, Status>) {
        self.update(list, make);
        self.heard = false;
    }

    /// Takes up what the resolver says; who is new is made by `make`.
    pub(super) fn update(&mut self, list: &Resolution, make: impl Fn(&Endpoint) -> Result<Arc<Member>, Status>) {
        self.resolve_failure = list.failure().cloned();
        self.heard = true;
        if list.version() == 0 {
            return;
        }
        let serving = self.serving();
        let serves = |endpoint: &Endpoint| serving.contains(endpoint.name());
        let kept_now = self.removals.update(list.endpoints(), serves, Instant::now());
        if kept_now > 0 {
            tracing::warn!(
                target = %self.target,
                listed = list.endpoints().len(),
                kept = self.removals.held(),
                "the registry lost more than half of the endpoints; those that serve are kept, unless the configuration gives them weight 0"
            );
        }
        self.take_up(make);
    }

    /// Looks at the endpoints that are kept although the registry does not list them; returns when to look again.
    pub(super) fn review(&mut self, make: impl Fn(&Endpoint) -> Result<Arc<Member>, Status>) -> Option<Instant> {
        if self.removals.held() == 0 {
            return None;
        }
        let serving = self.serving();
        let serves = |endpoint: &Endpoint| serving.contains(endpoint.name());
        let (next, let_go) = self.removals.review(serves, self.resolve_failure.is_none(), Instant::now());
        if let_go {
            self.take_up(make);
        }
        next
    }

    /// The names of those that are connected.
    fn serving(&self) -> HashSet<String> {
        let serves = |known: &&Known| known.state() == ConnectivityState::Ready && !known.is_leaving();
        let ready = self.members.iter().filter(serves);
        ready.map(|known| known.endpoint.name().to_owned()).collect()
    }

    /// Keeps who is still there, lets go of who is not, and takes in who is new, made by `make`.
    fn take_up(&mut self, make: impl Fn(&Endpoint) -> Result<Arc<Member>, Status>) {
        let listed: Vec<Endpoint> = self.removals.endpoints().map(|endpoint| self.weighed(endpoint)).collect();
        let reached = |endpoint: &&Endpoint| endpoint.weight() > 0 && self.config.route_to(endpoint).is_some();
        let mut usable: Vec<&Endpoint> = listed.iter().filter(reached).filter(|one| one.takes_calls()).collect();
        if usable.is_empty() {
            // Those that are about to leave still serve: better than nobody.
            usable = listed.iter().filter(reached).collect();
        }
        self.is_changed = true;
        self.counts = (listed.len(), usable.len());
        let taken = self.parts(&usable);
        let outgoing = self.outgoing.take().map(|outgoing| outgoing.members).unwrap_or_default();
        let mut before: HashMap<String, Known> = std::mem::take(&mut self.members)
            .into_iter()
            .chain(outgoing)
            .map(|known| (known.endpoint.name().to_owned(), known))
            .collect();
        self.refused.clear();
        for (endpoint, part) in taken {
            let known = before.remove(endpoint.name());
            let kept = known.filter(|known| known.endpoint.is_same_instance(endpoint)).map(|known| {
                if known.endpoint != *endpoint {
                    // Somebody keeps its entry up to date.
                    known.member.subchannel.reset_backoff();
                }
                known.member
            });
            match kept.map_or_else(|| make(endpoint), Ok) {
                Ok(member) => self.members.push(Known {
                    endpoint: endpoint.clone(),
                    member,
                    part,
                }),
                Err(refused) => self.refused.push((endpoint.name().to_owned(), refused)),
            }
        }
        // Those that could be called still are, until others can. The rest is let go: their calls keep them until they are done.
        let is_usable = |known: &Known| usable.iter().any(|endpoint| known.endpoint.is_same_instance(endpoint));
        let left = before.into_values().filter(|known| known.state() == ConnectivityState::Ready && is_usable(known));
        let members: Vec<Known> = left.collect();
        self.outgoing = (!members.is_empty()).then(|| Outgoing {
            members,
            until: Instant::now() + MAKE_BEFORE_BREAK,
        });
    }

    /// An endpoint with the weight that the configuration gives it.
    fn weighed(&self, endpoint: &Endpoint) -> Endpoint {
        match self.config.weights.get(endpoint.name()) {
            Some(weight) => endpoint.clone().with_weight(*weight),
            None => endpoint.clone(),
        }
    }

    /// Those that this client connects to, of each route some where there are many, and the part of each that is its own.
    fn parts<'e>(&self, usable: &[&'e Endpoint]) -> Vec<(&'e Endpoint, f64)> {
        let weights = self.config.route_weights();
        let mut routes: Vec<usize> = (0..weights.len()).collect();
        // Where one endpoint has all calls, it is one of the route with the most.
        routes.sort_by_key(|&route| std::cmp::Reverse(weights[route]));
        let all_max = if self.connects_to == ConnectsTo::Everybody {
            usize::MAX
        } else {
            ALL_MAX
        };
        let mut taken = Vec::new();
        for route in routes {
            let led_to = usable.iter().filter(|endpoint| self.config.route_to(endpoint) == Some(route));
            let group: Vec<&Endpoint> = led_to.copied().collect();
            let names = |group: &[&'e Endpoint]| {
                group.iter().map(|endpoint| endpoint.name()).collect::<Vec<&str>>().into_iter()
            };
            if let Some((place, size)) = self.place.filter(|_| self.connects_to == ConnectsTo::All) {
                let parts = aperture(names(&group), place, size);
                taken.extend(parts.into_iter().map(|(index, part)| (group[index], part)));
                continue;
            }
            for (group, all_max) in self.by_zone(group, all_max) {
                let indices = subset(names(&group), self.seed, all_max, SUBSET_SIZE);
                taken.extend(indices.into_iter().map(|index| (group[index], 1.0)));
            }
        }
        taken
    }

    /// Endpoints of this client's zone and others, each with how many of them are all connected to. Of too many, a share of both.
    fn by_zone<'e>(&self, group: Vec<&'e Endpoint>, all_max: usize) -> [(Vec<&'e Endpoint>, usize); 2] {
        match &self.zone {
            Some(zone) if group.len() > all_max && prefers_zone(&self.config, self.connects_to) => {
                let (near, far) = group.into_iter().partition(|endpoint| endpoint.zone() == zone);
                [(near, SUBSET_SIZE), (far, SUBSET_SIZE)]
            }
            _ => [(group, all_max), (Vec::new(), all_max)],
        }
    }

    /// Connects whom the balancer wants connected, and tells who is ready.
    pub(super) fn view(&mut self, now: Instant) -> View {
        let wanted = self.connect();
        let is_ready = |&&index: &&usize| self.members[index].state() == ConnectivityState::Ready;
        for known in self.members.iter().filter(|known| known.member.subchannel.state_now() != ConnectivityState::Ready)
        {
            known.member.cool_down();
        }
        let is_settled = |&index: &usize| {
            matches!(
                self.members[index].state(),
                ConnectivityState::Ready | ConnectivityState::TransientFailure
            )
        };
        let is_over = |outgoing: &Outgoing| now >= outgoing.until || wanted.iter().all(is_settled);
        if wanted.iter().any(|index| is_ready(&index)) && self.outgoing.as_ref().is_some_and(is_over) {
            self.outgoing = None;
        }
        let mut ready: Vec<&Known> = wanted.iter().filter(is_ready).map(|&index| &self.members[index]).collect();
        let outgoing = self.outgoing.iter().flat_map(|outgoing| &outgoing.members);
        ready.extend(outgoing.filter(|known| known.state() == ConnectivityState::Ready));
        if !ready.iter().all(|known| known.is_leaving()) {
            ready.retain(|known| !known.is_leaving());
        }
        if ready.is_empty() {
            self.gathering = Gathering::None;
            self.look_again = None;
            // Who comes back is judged by what it does then.
            self.ejections.look(now, &[]);
            self.show_again();
            return View::Nobody {
                failure: self.failure(),
                is_hopeless: self.is_hopeless(&wanted),
            };
        }
        let until = match self.gathering {
            Gathering::None => now + GATHER,
            Gathering::Until(until) => until,
            Gathering::Done => now,
        };
        if now < until && !wanted.iter().all(is_settled) {
            self.gathering = Gathering::Until(until);
            return View::Gathering(until);
        }
        let ejected = eject(&mut self.ejections, self.connects_to, &mut ready, &self.config, now);
        let warmup = Warmup::new(self.config.slow_start);
        let age = |known: &&Known| Age {
            ready: known.member.ready_for(now),
            back: self.ejections.back_for(&known.member, now),
        };
        let ages: Vec<Age> = ready.iter().map(age).collect();
        let candidate = |(known, weight): (&&Known, u32)| Candidate {
            member: Arc::clone(&known.member),
            endpoint: known.endpoint.clone(),
            weight,
        };
        let weights = warmup.weights(ready.iter().map(|known| known.weight(self.place.is_some())), &ages);
        let candidates: Vec<Candidate> = ready.iter().zip(weights).map(candidate).collect();
        let grows_at = warmup.next_change(&ages).map(|ahead| now + ahead);
        let leave_at = self.outgoing.as_ref().map(|outgoing| outgoing.until).filter(|until| *until > now);
        self.look_again = grows_at.into_iter().chain(leave_at).chain(self.ejections.look_again()).min();
        self.gathering = Gathering::Done;
        let shown = candidates.iter().map(|one| (one.member.id, one.endpoint.clone(), one.weight)).collect();
        let asked = ejected.iter().map(|member| member.id).collect();
        if (&self.shown, &self.shown_ejected) == (&shown, &asked) {
            return View::Unchanged;
        }
        (self.shown, self.shown_ejected) = (shown, asked);
        View::Ready(candidates, ejected)
    }

    /// Sees to it that the right ones connect; returns those that may be called.
    fn connect(&mut self) -> Vec<usize> {
        let start = |index: usize| {
            // Outside a runtime, or after its end, this task is none either.
            let _started = self.members[index].member.subchannel.start();
        };
        let everybody = 0..self.members.len();
        if self.connects_to != ConnectsTo::First {
            everybody.clone().for_each(start);
            return everybody.collect();
        }
        let state = |index: usize| self.members[index].state();
        let is_leaving = |index: usize| self.members[index].is_leaving();
        let is_first = |&index: &usize| Some(self.members[index].member.id) == self.first;
        // Whoever has it keeps it, also if a better one comes back: nothing is gained by moving.
        let mut found = everybody
            .clone()
            .filter(|&index| state(index) == ConnectivityState::Ready && !is_leaving(index))
            .find(is_first);
        let mut tried = Vec::new();
        for index in everybody {
            if found.is_some() {
                break;
            }
            tried.push(index);
            start(index);
            match state(index) {
                ConnectivityState::Ready if !is_leaving(index) => found = Some(index),
                // The next one's turn; this one goes on trying, or serves until then.
                ConnectivityState::Ready | ConnectivityState::TransientFailure => {}
                _ => break,
            }
        }
        let Some(found) = found else { return tried };
        self.first = Some(self.members[found].member.id);
        let others = self.members.iter().enumerate().filter(|&(index, _)| index != found);
        others.for_each(|(_, other)| other.member.subchannel.rest());
        vec![found]
    }

    /// Whether calls that do not wait have to fail.
    fn is_hopeless(&self, wanted: &[usize]) -> bool {
        if !self.heard {
            return false;
        }
        if wanted.is_empty() {
            return !self.refused.is_empty() || self.resolve_failure.is_some() || self.counts.0 > 0;
        }
        wanted.iter().all(|&index| self.members[index].state() == ConnectivityState::TransientFailure)
    }

    fn failure(&self) -> Option<Status> {
        let target = &self.target;
        let mut causes = self.members.iter().rev().filter_map(|known| known.member.failure());
        if let Some(last) = causes.next() {
            let none = match self.members.len() {
                1 => "the only endpoint".to_owned(),
                count => format!("none of the {count} endpoints"),
            };
            let cause = last.message();
            return Some(unreachable(format!("{none} of {target} can be reached: {cause}")).with_source(last));
        }
        if let Some((_, refused)) = self.refused.last().filter(|_| self.members.is_empty()) {
            return Some(refused.clone());
        }
        if let (count @ 1.., 0) = self.counts {
            return Some(unreachable(format!(
                "all endpoints of {target}, {count} of them, have weight 0, or no route leads to them"
            )));
        }
        let failure = self.resolve_failure.as_ref().filter(|_| self.members.is_empty())?;
        Some(unreachable(format!(
            "no endpoint of {target} is known: {}",
            WithCauses(failure)
        )))
    }
}

/// Takes those out that are so much worse than the others that they get no calls.
fn eject(
    ejections: &mut Ejections,
    connects_to: ConnectsTo,
    ready: &mut Vec<&Known>,
    config: &ServiceConfig,
    now: Instant,
) -> Vec<Arc<Member>> {
    // Where one has all calls there is nobody to compare it with.
    let compared = ready.iter().filter(|_| connects_to != ConnectsTo::First);
    let judged = compared.map(|known| Judged {
        endpoint: &known.endpoint,
        route: config.route_to(&known.endpoint).unwrap_or_default(),
        member: &known.member,
    });
    ejections.look(now, &judged.collect::<Vec<_>>());
    let mut ejected: Vec<&Known> = ready.extract_if(.., |known| ejections.reason(&known.member).is_some()).collect();
    if ready.is_empty() {
        ready.append(&mut ejected);
    }
    ejected.into_iter().map(|known| Arc::clone(&known.member)).collect()
}
