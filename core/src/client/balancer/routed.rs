//! Shares of all calls for groups of endpoints, each with a picker of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::zoned::Zone;
use super::{Balancer, Candidate, PickArgs, Picker};
use crate::config::ServiceConfig;
use crate::policy::schedule::Schedule;

/// A picker of `balancer` for each route, and one that chooses the route. Within each, calls of a channel that has a zone stay there if they can.
pub(in crate::client) fn picker(
    ready: &[Candidate],
    config: &ServiceConfig,
    balancer: &dyn Balancer,
    mut zone: Option<&mut Zone>,
    now: Instant,
) -> Arc<dyn Picker> {
    let mut make = |route: usize, candidates: &[Candidate]| match &mut zone {
        Some(zone) => zone.picker(route, candidates, balancer, now),
        None => balancer.picker(candidates),
    };
    let mut weights = config.route_weights();
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); weights.len()];
    for (index, candidate) in ready.iter().enumerate() {
        if let Some(route) = config.route_to(&candidate.endpoint) {
            members[route].push(index);
        }
    }
    let mut used = (0..members.len()).filter(|&route| !members[route].is_empty());
    if let (first, None) = (used.next(), used.next()) {
        // All calls go there.
        return make(first.unwrap_or(0), ready);
    }
    for (weight, members) in weights.iter_mut().zip(&members) {
        if members.is_empty() {
            *weight = 0;
        }
    }
    let mut group = |(route, members): (usize, Vec<usize>)| {
        let candidates = of(&members, ready);
        let picker = (!members.is_empty()).then(|| make(route, &candidates));
        Group { members, picker }
    };
    Arc::new(Routed {
        schedule: Schedule::new(&weights),
        groups: members.into_iter().enumerate().map(&mut group).collect(),
        // At random, or a route with a small share would have none if lists change often.
        next: AtomicU64::new(fastrand::u64(..) >> 1),
    })
}

fn of(members: &[usize], all: &[Candidate]) -> Vec<Candidate> {
    members.iter().map(|&index| all[index].clone()).collect()
}

struct Routed {
    groups: Vec<Group>,
    schedule: Option<Schedule>,
    next: AtomicU64,
}

/// Some of all candidates.
pub(super) struct Group {
    /// Where its members stand among all.
    members: Vec<usize>,
    /// `None` if it has none.
    picker: Option<Arc<dyn Picker>>,
}

impl Group {
    /// Those of `all` that are `members`, at least one.
    pub(super) fn new(members: Vec<usize>, all: &[Candidate], balancer: &dyn Balancer) -> Self {
        let picker = balancer.picker(&of(&members, all));
        Self {
            members,
            picker: Some(picker),
        }
    }

    pub(super) fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let picked = self.picker.as_ref()?.pick(args)?;
        self.members.get(picked).copied()
    }
}

impl Picker for Routed {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let route = self.schedule.as_ref()?.at(at);
        let picked = self.groups[route].pick(args);
        if picked.is_some() || args.exclude.is_empty() {
            return picked;
        }
        // Whom it has was tried already.
        self.groups.iter().find_map(|group| group.pick(args))
    }
}
