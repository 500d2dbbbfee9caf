//! Shares of all calls for groups of endpoints, each with a picker of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Balancer, Candidate, PickArgs, Picker};
use crate::config::ServiceConfig;
use crate::policy::schedule::Schedule;

/// A picker of `balancer` for each route, and one that chooses the route.
pub(in crate::client) fn picker(
    ready: &[Candidate],
    config: &ServiceConfig,
    balancer: &dyn Balancer,
) -> Arc<dyn Picker> {
    let mut weights = config.route_weights();
    let mut groups: Vec<Vec<usize>> = vec![Vec::new(); weights.len()];
    for (index, candidate) in ready.iter().enumerate() {
        if let Some(route) = config.route_to(&candidate.endpoint) {
            groups[route].push(index);
        }
    }
    if groups.iter().filter(|group| !group.is_empty()).count() <= 1 {
        // All calls go there.
        return balancer.picker(ready);
    }
    for (weight, group) in weights.iter_mut().zip(&groups) {
        if group.is_empty() {
            *weight = 0;
        }
    }
    let picker = |members: Vec<usize>| {
        let candidates: Vec<Candidate> = members.iter().map(|&index| ready[index].clone()).collect();
        let picker = (!candidates.is_empty()).then(|| balancer.picker(&candidates));
        Group { members, picker }
    };
    Arc::new(Routed {
        schedule: Schedule::new(&weights),
        groups: groups.into_iter().map(picker).collect(),
        // At random, or a route with a small share would have none if lists change often.
        next: AtomicU64::new(fastrand::u64(..) >> 1),
    })
}

struct Routed {
    groups: Vec<Group>,
    schedule: Option<Schedule>,
    next: AtomicU64,
}

struct Group {
    /// Where its members stand among all.
    members: Vec<usize>,
    /// `None` if it has none.
    picker: Option<Arc<dyn Picker>>,
}

impl Group {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
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
