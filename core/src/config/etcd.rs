//! Configuration of services in etcd: one key each, written by an operator or a deployment.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use etcd_client::KeyValue;

use super::source::{ConfigPublisher, ConfigSource};
use super::{ServiceConfig, ServiceConfigError};
use crate::discovery::Etcd;
use crate::discovery::ResolveError;
use crate::discovery::etcd::Config;
use crate::discovery::etcd::mirror::{Keys, Range, Reader, follow};

/// The configuration of a service under `{prefix}/v1/config/{service}`, as JSON. Deleting the key takes it away; while etcd is down the last one stands.
///
/// Targets that begin with `etcd://` follow it by themselves.
#[derive(Clone)]
pub struct EtcdConfig {
    config: Arc<Config>,
    key: String,
}

impl Etcd {
    /// The configuration of `service`.
    #[must_use]
    pub fn config(&self, service: &str) -> EtcdConfig {
        EtcdConfig {
            key: self.config.config_key(service),
            config: Arc::clone(&self.config),
        }
    }
}

impl ConfigSource for EtcdConfig {
    fn watch(&self, publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move { follow(&self.config, Range::key(self.key.clone()), &Text(publisher)).await })
    }
}

/// The key as a configuration.
struct Text(ConfigPublisher);

impl Reader for Text {
    type Value = Result<ServiceConfig, ServiceConfigError>;

    fn read(&self, pair: &KeyValue) -> Option<Self::Value> {
        let text =
            std::str::from_utf8(pair.value()).map_err(|error| ServiceConfigError::new(format!("no text: {error}")));
        Some(text.and_then(ServiceConfig::from_json))
    }

    fn publish(&self, keys: &Keys<Self::Value>) {
        match keys.values().next().and_then(|known| known.value.clone()) {
            None => self.0.clear(),
            Some(Ok(config)) => self.0.publish(config),
            Some(Err(error)) => self.0.fail(error),
        }
    }

    fn confirm(&self) {}

    fn fail(&self, error: ResolveError) {
        // The last one stands, and the resolver of the same etcd tells of it.
        tracing::debug!(%error, "the configuration of a service cannot be followed");
    }
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig").field("key", &self.key).finish_non_exhaustive()
    }
}
