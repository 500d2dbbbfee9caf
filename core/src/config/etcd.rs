//! Configuration of services in etcd: one key each, written by an operator or a deployment.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use etcd_client::KeyValue;

use super::source::{ConfigPublisher, ConfigSource};
use super::{ServiceConfig, ServiceConfigError};
use crate::discovery::Etcd;
use crate::discovery::ResolveError;
use crate::discovery::etcd::Config;
use crate::discovery::etcd::mirror::{Keys, Range, Reader, follow};
use crate::transport::error::WithCauses;

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
        Box::pin(async move {
            let text = Text {
                publisher,
                key: &self.key,
                is_failing: AtomicBool::new(false),
            };
            follow(&self.config, Range::key(self.key.clone()), &text).await;
        })
    }
}

/// The key as a configuration.
struct Text<'a> {
    publisher: ConfigPublisher,
    key: &'a str,
    /// etcd cannot be asked, and that was told.
    is_failing: AtomicBool,
}

impl Reader for Text<'_> {
    type Value = Result<ServiceConfig, ServiceConfigError>;

    fn read(&self, pair: &KeyValue) -> Option<Self::Value> {
        let text =
            std::str::from_utf8(pair.value()).map_err(|error| ServiceConfigError::new(format!("no text: {error}")));
        Some(text.and_then(ServiceConfig::from_json))
    }

    fn publish(&self, keys: &Keys<Self::Value>) {
        self.is_failing.store(false, Ordering::Relaxed);
        match keys.values().next().and_then(|known| known.value.clone()) {
            None => self.publisher.clear(),
            Some(Ok(config)) => self.publisher.publish(config),
            Some(Err(error)) => self.publisher.fail(ServiceConfigError::new(format!("{}: {error}", self.key))),
        }
    }

    fn confirm(&self) {}

    fn fail(&self, error: ResolveError) {
        // Once, and not in the words of each member in turn.
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            let error = WithCauses(&error);
            self.publisher.fail(ServiceConfigError::new(format!("{} cannot be read: {error}", self.key)));
        }
    }
}

impl std::fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdConfig").field("key", &self.key).finish_non_exhaustive()
    }
}
