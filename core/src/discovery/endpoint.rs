//! One instance of a service, as a registry knows it.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::transport::Address;

/// One instance of a service: where it is, and what is known about it. Immutable and cheap to clone; each `with_..` gives a changed copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    facts: Arc<Facts>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    name: String,
    instance: String,
    addresses: Vec<Address>,
    weight: u32,
    zone: String,
    version: String,
    labels: BTreeMap<String, String>,
    state: EndpointState,
    started_unix_ms: u64,
}

/// What an instance says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndpointState {
    /// It takes calls.
    #[default]
    Serving,
    /// It is about to leave: calls that run are answered, new ones go elsewhere.
    Draining,
}

impl EndpointState {
    /// As it stands in registries.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Draining => "draining",
        }
    }
}

impl Endpoint {
    /// The weight of an endpoint that says nothing else; a hundred, so that a share of one per cent can be told.
    pub const WEIGHT_DEFAULT: u32 = 100;
    /// The largest weight.
    pub const WEIGHT_MAX: u32 = 65_535;

    /// An endpoint that is reached at `address`.
    #[must_use]
    pub fn new(address: Address) -> Self {
        Self::with_addresses([address])
    }

    /// An endpoint that is reached at any of `addresses`, the preferred one first. Its name is the first of them.
    #[must_use]
    pub fn with_addresses(addresses: impl IntoIterator<Item = Address>) -> Self {
        let addresses: Vec<Address> = addresses.into_iter().collect();
        Self {
            facts: Arc::new(Facts {
                name: addresses.first().map(ToString::to_string).unwrap_or_default(),
                instance: String::new(),
                addresses,
                weight: Self::WEIGHT_DEFAULT,
                zone: String::new(),
                version: String::new(),
                labels: BTreeMap::new(),
                state: EndpointState::Serving,
                started_unix_ms: 0,
            }),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(Arc::make_mut(&mut self.facts));
        self
    }

    /// The same endpoint at other addresses.
    #[cfg(feature = "etcd")]
    pub(super) fn with_other_addresses(self, addresses: Vec<Address>) -> Self {
        self.with(|facts| facts.addresses = addresses)
    }

    /// Sets the stable name, which outlives restarts: what is hashed, and what tells endpoints of a list apart. Default: the first address.
    #[must_use]
    pub fn with_name(self, name: impl Into<String>) -> Self {
        self.with(|facts| facts.name = name.into())
    }

    /// Sets the id of this run of the instance: a restarted one at the same address has another.
    #[must_use]
    pub fn with_instance(self, instance: impl Into<String>) -> Self {
        self.with(|facts| facts.instance = instance.into())
    }

    /// Sets its share of calls relative to the others' (default 100, 0 to 65,535; more counts as that); with 0 it takes no new calls.
    #[must_use]
    pub fn with_weight(self, weight: u32) -> Self {
        self.with(|facts| facts.weight = weight.min(Self::WEIGHT_MAX))
    }

    /// Sets the zone that it runs in.
    #[must_use]
    pub fn with_zone(self, zone: impl Into<String>) -> Self {
        self.with(|facts| facts.zone = zone.into())
    }

    /// Sets the version of its program.
    #[must_use]
    pub fn with_version(self, version: impl Into<String>) -> Self {
        self.with(|facts| facts.version = version.into())
    }

    /// Adds a label, or replaces it.
    #[must_use]
    pub fn with_label(self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(|facts| {
            facts.labels.insert(key.into(), value.into());
        })
    }

    /// Sets what it says of itself.
    #[must_use]
    pub fn with_state(self, state: EndpointState) -> Self {
        self.with(|facts| facts.state = state)
    }

    /// Sets when it started, in milliseconds since 1970.
    #[must_use]
    pub fn with_started_unix_ms(self, millis: u64) -> Self {
        self.with(|facts| facts.started_unix_ms = millis)
    }

    /// The stable name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// The id of this run; empty if it is not known.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.facts.instance
    }

    /// Where it is reached, the preferred address first.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.facts.addresses
    }

    /// Its share of calls relative to the others'.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.facts.weight
    }

    /// The zone; empty if it is not known.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.facts.zone
    }

    /// The version; empty if it is not known.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.facts.version
    }

    /// The labels.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.facts.labels
    }

    /// What it says of itself.
    #[must_use]
    pub fn state(&self) -> EndpointState {
        self.facts.state
    }

    /// When it started, in milliseconds since 1970; 0 if that is not known.
    #[must_use]
    pub fn started_unix_ms(&self) -> u64 {
        self.facts.started_unix_ms
    }

    /// Whether it takes new calls.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        self.facts.weight > 0 && self.facts.state == EndpointState::Serving
    }

    /// Whether a connection to `other` is one to this, too: the same run of the same instance at the same addresses.
    #[must_use]
    pub fn is_same_instance(&self, other: &Self) -> bool {
        self.facts.name == other.facts.name
            && self.facts.instance == other.facts.instance
            && self.facts.addresses == other.facts.addresses
    }
}
