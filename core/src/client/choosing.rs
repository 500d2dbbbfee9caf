//! What pickers are made by: the balancer and what it wants, the configuration, and the zone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::balancer::zoned::{Zone, prefers_zone};
use super::balancer::{Balancer, ConnectsTo};
use crate::config::ServiceConfig;
use crate::policy::spill::STEP_EVERY;

/// The least time between two pickers for the same endpoints.
const REFRESH_MIN: Duration = Duration::from_millis(100);

/// A balancer, and what it wants; that is asked once, since it may be a user's.
pub(super) struct Policy {
    pub(super) balancer: Arc<dyn Balancer>,
    pub(super) connects_to: ConnectsTo,
    refresh_interval: Option<Duration>,
}

impl Policy {
    pub(super) fn new(balancer: Arc<dyn Balancer>) -> Self {
        let asked = catch_unwind(AssertUnwindSafe(|| {
            (balancer.connects_to(), balancer.refresh_interval())
        }));
        let (connects_to, refresh_interval) = asked.unwrap_or_else(|_panic| {
            tracing::error!(
                ?balancer,
                "the balancer panicked when it was asked what it wants; it gets all endpoints"
            );
            (ConnectsTo::All, None)
        });
        Self {
            balancer,
            connects_to,
            refresh_interval,
        }
    }
}

/// How pickers are made.
pub(super) struct Choosing<'a> {
    pub(super) config: &'a ServiceConfig,
    pub(super) policy: &'a Policy,
    /// `None` if all zones are alike.
    pub(super) zone: Option<&'a mut Zone>,
}

impl<'a> Choosing<'a> {
    pub(super) fn new(config: &'a ServiceConfig, policy: &'a Policy, zone: &'a mut Option<Zone>) -> Self {
        let prefers_zone = prefers_zone(config, policy.connects_to);
        if let Some(zone) = zone.as_mut().filter(|_| !prefers_zone) {
            zone.rest();
        }
        Self {
            config,
            policy,
            zone: zone.as_mut().filter(|_| prefers_zone),
        }
    }

    /// How often a picker follows what endpoints report.
    pub(super) fn refresh_interval(&self) -> Option<Duration> {
        let of_zone = self.zone.as_ref().map(|_| STEP_EVERY);
        self.policy.refresh_interval.into_iter().chain(of_zone).min().map(|every| every.max(REFRESH_MIN))
    }
}
