//! What a server says of itself when it is registered.

use std::time::{SystemTime, UNIX_EPOCH};

use super::endpoint::Endpoint;
use crate::transport::Address;
use crate::transport::error::AddressError;

/// What a server says of itself in registries. Every part has a default that is right for most.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::discovery::Instance; }
/// use sinew::Instance;
///
/// let canary = Instance::new().zone("eu-1a").version("2.1.0").weight(1).label("track", "canary");
/// # drop(canary);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Instance {
    name: Option<String>,
    zone: String,
    version: String,
    weight: Option<u32>,
    labels: Vec<(String, String)>,
    advertised: Vec<String>,
}

impl Instance {
    /// An instance of which nothing special is to be said.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the stable name (default: its first address). A restarted instance of the same name takes the place of the one before it.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Sets the zone that it runs in.
    #[must_use]
    pub fn zone(mut self, zone: impl Into<String>) -> Self {
        self.zone = zone.into();
        self
    }

    /// Sets the version of its program.
    #[must_use]
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.version = version.into();
        self
    }

    /// Sets its share of calls relative to other instances' (default 100, 0 to 65,535); with 0 it takes none.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = Some(weight);
        self
    }

    /// Adds a label, to choose instances by.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Adds an address to register in place of those that the server listens on: where clients reach it by another one, through a port mapping for instance.
    /// Several are tried by clients in this order.
    #[must_use]
    pub fn advertise(mut self, address: impl Into<String>) -> Self {
        self.advertised.push(address.into());
        self
    }

    /// The endpoint of a run that listens on `bound`.
    pub(crate) fn endpoint(&self, bound: &[Address]) -> Result<Endpoint, AddressError> {
        let advertised: Result<Vec<Address>, _> = self.advertised.iter().map(|text| text.parse()).collect();
        let mut addresses = advertised?;
        if addresses.is_empty() {
            addresses = bound.to_vec();
        }
        let mut endpoint = Endpoint::with_addresses(addresses)
            .with_instance(format!("{:016x}", fastrand::u64(..)))
            .with_zone(&self.zone)
            .with_version(&self.version)
            .with_started_unix_ms(unix_ms());
        if let Some(name) = &self.name {
            endpoint = endpoint.with_name(name);
        }
        if let Some(weight) = self.weight {
            endpoint = endpoint.with_weight(weight);
        }
        for (key, value) in &self.labels {
            endpoint = endpoint.with_label(key, value);
        }
        Ok(endpoint)
    }
}

#[expect(clippy::disallowed_methods, reason = "for people to read; nothing is decided by it")]
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
