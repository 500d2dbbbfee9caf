//! Calls stay in the caller's zone as long as it is no busier than the others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::routed::Group;
use super::{Balancer, Candidate, ConnectsTo, PickArgs, Picker};
use crate::config::ServiceConfig;
use crate::policy::spill::{STEP_EVERY, Site, Spill};

/// The zone of a channel, and how many of its calls stay there.
pub(in crate::client) struct Zone {
    name: String,
    /// By route.
    spills: Vec<Spilling>,
    /// The share of the route that keeps the least, for snapshots: the bits of an `f64`, which is no number while zones do not count.
    shown: Arc<AtomicU64>,
}

struct Spilling {
    spill: Spill,
    stepped: Option<Instant>,
    /// Who was near last: each one's id and weight.
    near: Vec<(u64, u32)>,
    /// The share of calls that stay in the zone.
    shown: f64,
}

impl Default for Spilling {
    fn default() -> Self {
        Self {
            spill: Spill::default(),
            stepped: None,
            near: Vec::new(),
            shown: 1.0,
        }
    }
}

impl Spilling {
    /// Follows who is in the zone. Weights that change, and those that come, are for the next steps.
    fn follow<'a>(&mut self, near: impl Iterator<Item = &'a Candidate>) {
        let now: Vec<(u64, u32)> = near.map(|one| (one.member.id, one.endpoint.weight().max(1))).collect();
        let weight = |of: &mut dyn Iterator<Item = &(u64, u32)>| of.map(|(_, weight)| f64::from(*weight)).sum::<f64>();
        let all = weight(&mut self.near.iter());
        let left = weight(&mut self.near.iter().filter(|(id, _)| now.iter().any(|(other, _)| other == id)));
        if left < all {
            self.spill.shrink(left / all);
        }
        self.near = now;
    }
}

impl Zone {
    pub(in crate::client) fn new(name: String, shown: Arc<AtomicU64>) -> Self {
        Self {
            name,
            spills: Vec::new(),
            shown,
        }
    }

    /// Zones do not count for the moment.
    pub(in crate::client) fn rest(&mut self) {
        self.spills.clear();
        self.shown.store(f64::NAN.to_bits(), Ordering::Relaxed);
    }

    /// A picker of `balancer` for those that are near, and one for the others, if there are both.
    pub(super) fn picker(
        &mut self,
        route: usize,
        ready: &[Candidate],
        balancer: &dyn Balancer,
        now: Instant,
    ) -> Arc<dyn Picker> {
        let is_near = |one: &Candidate| one.endpoint.zone() == self.name;
        let (near, far): (Vec<usize>, Vec<usize>) = (0..ready.len()).partition(|&index| is_near(&ready[index]));
        if near.is_empty() || far.is_empty() {
            self.show(route, if near.is_empty() { 0.0 } else { 1.0 });
            return balancer.picker(ready);
        }
        let site = |one: &Candidate| Site {
            is_near: is_near(one),
            weight: one.endpoint.weight(),
            report: one.load_report(now),
            silence: one.member.load.silence(now, &one.member.typical),
            latency: one.latency().unwrap_or_default(),
        };
        let sites: Vec<Site> = ready.iter().map(site).collect();
        let spilling = self.spilling(route);
        spilling.follow(near.iter().map(|&index| &ready[index]));
        // Sooner than that, what the last step did does not show in what is reported.
        if spilling.stepped.is_none_or(|at| now.saturating_duration_since(at) >= STEP_EVERY) {
            spilling.spill.step(&sites);
            spilling.stepped = Some(now);
        }
        let near_share = spilling.spill.near_share();
        self.show(route, near_share);
        Arc::new(Zoned {
            near_share,
            near: Group::new(near, ready, balancer),
            far: Group::new(far, ready, balancer),
        })
    }

    fn spilling(&mut self, route: usize) -> &mut Spilling {
        if self.spills.len() <= route {
            self.spills.resize_with(route + 1, Spilling::default);
        }
        &mut self.spills[route]
    }

    fn show(&mut self, route: usize, share: f64) {
        self.spilling(route).shown = share;
        let least = self.spills.iter().map(|one| one.shown).fold(1.0, f64::min);
        self.shown.store(least.to_bits(), Ordering::Relaxed);
    }
}

/// Whether zones count. Where it matters which endpoint a call goes to, and where one has all of them, a balancer is not to be told whom to choose from.
pub(in crate::client) fn prefers_zone(config: &ServiceConfig, connects_to: ConnectsTo) -> bool {
    connects_to == ConnectsTo::All && config.prefer_zone != Some(false)
}

struct Zoned {
    near_share: f64,
    near: Group,
    far: Group,
}

impl Picker for Zoned {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let (first, second) = if self.near_share >= 1.0 || fastrand::f64() < self.near_share {
            (&self.near, &self.far)
        } else {
            (&self.far, &self.near)
        };
        let picked = first.pick(args);
        if picked.is_some() || args.exclude.is_empty() {
            return picked;
        }
        // Whom it has was tried already.
        second.pick(args)
    }
}
