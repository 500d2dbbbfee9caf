//! Finds the endpoints of a service among the keys of etcd.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use etcd_client::KeyValue;

use super::mirror::{Keys, Range, Reader, follow};
use super::{Config, Directory};
use crate::discovery::Endpoint;
use crate::discovery::record;
use crate::discovery::resolver::{ENDPOINTS_MAX, Publisher, ResolveError, Resolver};

/// Keys that are remembered at most: a list of so many is cut off anyway.
const KEYS_MAX: usize = 2 * ENDPOINTS_MAX;
/// The time that instances have to register anew when their leases are gone.
const REGISTER_ANEW: Duration = Duration::from_secs(5);

/// Finds the endpoints of a service in etcd.
#[derive(Clone)]
pub struct EtcdResolver {
    config: Arc<Config>,
    service: String,
}

impl EtcdResolver {
    pub(super) fn new(config: Arc<Config>, service: String) -> Self {
        Self { config, service }
    }
}

impl Resolver for EtcdResolver {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let records = Records {
                publisher,
                directory: self.config.directory,
                unreadable: AtomicU64::new(0),
            };
            let range = Range::prefix(self.config.service_prefix(&self.service), KEYS_MAX);
            follow(&self.config, range, &records).await;
        })
    }

    fn removal_window(&self) -> Option<Duration> {
        Some(self.config.lease_ttl + REGISTER_ANEW)
    }
}

/// Keys as records of endpoints.
struct Records {
    publisher: Publisher,
    directory: Directory,
    /// Those that could not be read so far.
    unreadable: AtomicU64,
}

impl Reader for Records {
    type Value = Endpoint;

    fn read(&self, pair: &KeyValue) -> Option<Endpoint> {
        let endpoint = match self.directory {
            Directory::Services => record::from_json(pair.value()),
            Directory::Clients => record::client_from_json(pair.value()),
        };
        if let Err(error) = &endpoint {
            let unreadable = self.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
            let key = String::from_utf8_lossy(pair.key());
            tracing::warn!(%key, %error, unreadable, "a record of a service cannot be read; it is left out");
        }
        endpoint.ok()
    }

    /// Of several runs of one instance only the latest counts.
    fn publish(&self, keys: &Keys<Endpoint>) {
        let readable = keys.values().filter_map(|known| Some((known.created, known.value.as_ref()?)));
        let mut readable: Vec<(i64, &Endpoint)> = readable.collect();
        // Of one name the last of a list counts.
        readable.sort_by_key(|(created, _)| *created);
        self.publisher.publish(readable.into_iter().map(|(_, endpoint)| endpoint.clone()).collect());
    }

    fn confirm(&self) {
        self.publisher.confirm();
    }

    fn fail(&self, error: ResolveError) {
        self.publisher.fail(error);
    }
}

impl std::fmt::Debug for EtcdResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdResolver")
            .field("members", &self.config.members)
            .field("prefix", &self.config.service_prefix(&self.service))
            .finish()
    }
}
