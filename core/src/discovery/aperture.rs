//! Where the clients of a service are entered, for those that share its endpoints by their places among them.
//!
//! Not here: entering a client, and what follows from its place (`client/peers`).

use std::fmt;
use std::sync::Arc;

use super::{Registrar, Resolver};
use crate::policy::subset::SUBSET_SIZE;

/// A deterministic aperture: of many endpoints a client connects to some, by its place among all clients, so that every endpoint gets the same share. For that,
/// clients are entered in a registry, too; made by [`Etcd::aperture`](crate::discovery::Etcd::aperture) or
/// [`MemRegistry::aperture`](crate::discovery::MemRegistry::aperture), or from a registrar and a resolver of one's own.
///
/// Until this client knows its place it takes endpoints at random, as without an aperture. When a client or an endpoint comes or goes, each client makes one
/// new connection or none, seldom two, where there are at least as many clients as endpoints; with fewer clients some make as many more, up to all of theirs.
#[derive(Clone)]
pub struct Aperture {
    pub(crate) registrar: Arc<dyn Registrar>,
    pub(crate) resolver: Arc<dyn Resolver>,
    pub(crate) name: String,
    pub(crate) size: usize,
}

impl Aperture {
    /// Enters clients by `registrar`, as instances of a service `name` that no server has, and without an address; finds them by `resolver`.
    #[must_use]
    pub fn new(name: impl Into<String>, registrar: impl Registrar, resolver: impl Resolver) -> Self {
        Self {
            registrar: Arc::new(registrar),
            resolver: Arc::new(resolver),
            name: name.into(),
            size: SUBSET_SIZE,
        }
    }

    /// Sets to how many endpoints a client connects (default 20, at least 1), or up to twice as many where there are few clients; where there are no more, to all.
    #[must_use]
    pub fn size(mut self, endpoints: usize) -> Self {
        self.size = endpoints.max(1);
        self
    }
}

impl fmt::Debug for Aperture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Aperture")
            .field("name", &self.name)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}
