//! Which endpoints that vanished from the list are gone.
//!
//! A registry that lost its leases looks the same as servers that died. What tells them apart is the connection: an endpoint that is not connected is let go
//! at once; one that is connected and serves is kept when the list lost more than half within a window, and looked at again when the window is over.
//! One that said before that it leaves is believed in any case.
//!
//! Driven by [`members`](super::members).

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::discovery::{Endpoint, EndpointState};
use crate::policy::shrink::Shrinking;

/// The list of a registry, as far as it is believed.
pub(super) struct Removals {
    /// `None` if the registry is believed whatever it says.
    shrinking: Option<Shrinking>,
    listed: Vec<Endpoint>,
    held: Vec<Held>,
}

/// An endpoint that vanished, and is kept.
struct Held {
    endpoint: Endpoint,
    until: Instant,
}

impl Removals {
    pub(super) fn new(window: Option<Duration>) -> Self {
        Self {
            shrinking: window.map(Shrinking::new),
            listed: Vec::new(),
            held: Vec::new(),
        }
    }

    /// What is there: the endpoints of the last list, and those that are kept.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.listed.iter().chain(self.held.iter().map(|held| &held.endpoint))
    }

    /// How many are kept although the registry does not list them.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Takes up a list. `serves` tells whether an endpoint is connected and takes calls. Returns how many are kept that were in the list before.
    pub(super) fn update(&mut self, list: &[Endpoint], serves: impl Fn(&Endpoint) -> bool, now: Instant) -> usize {
        let before = std::mem::replace(&mut self.listed, list.to_vec());
        let Some(shrinking) = &mut self.shrinking else {
            return 0;
        };
        let names: HashSet<&str> = list.iter().map(Endpoint::name).collect();
        self.held.retain(|held| !names.contains(held.endpoint.name()));
        let length = before.len() + self.held.len();
        let vanished = before.into_iter().filter(|endpoint| !names.contains(endpoint.name()));
        // Who said goodbye is no loss.
        let lost: Vec<Endpoint> = vanished.filter(|endpoint| endpoint.state() != EndpointState::Draining).collect();
        shrinking.note(now.into_std(), length, lost.len());
        if lost.is_empty() || !shrinking.is_suspicious(now.into_std()) {
            return 0;
        }
        let until = now + shrinking.span();
        let kept = lost.into_iter().filter(serves).map(|endpoint| Held { endpoint, until });
        let before = self.held.len();
        self.held.extend(kept);
        self.held.len() - before
    }

    /// Lets go of those whose time is over and that do not serve any more, if the registry is there to be believed. Returns when to look again, and
    /// whether anybody was let go.
    pub(super) fn review(
        &mut self,
        serves: impl Fn(&Endpoint) -> bool,
        registry_answers: bool,
        now: Instant,
    ) -> (Option<Instant>, bool) {
        let before = self.held.len();
        self.held.retain(|held| now < held.until || !registry_answers || serves(&held.endpoint));
        // Those whose time is over are looked at with every change of state.
        let next = self.held.iter().map(|held| held.until).filter(|&until| until > now).min();
        (next, self.held.len() < before)
    }
}
