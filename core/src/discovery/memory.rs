//! The registry of a process: services found by name without a server for it, `mem:///shop.Orders`.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::aperture::Aperture;
use super::endpoint::Endpoint;
use super::registrar::{Announcements, Registrar};
use super::resolver::{Publisher, ResolveError, Resolver};

/// A registry within this process: for systems that run in one, and for tests. Clones are the same registry.
#[derive(Clone, Debug, Default)]
pub struct MemRegistry {
    services: Arc<Mutex<HashMap<String, watch::Sender<Vec<Endpoint>>>>>,
}

impl MemRegistry {
    /// A registry of its own, known to those who have a clone.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The registry that all of the process share, and that `mem:///service` asks.
    #[must_use]
    pub fn shared() -> Self {
        static SHARED: LazyLock<MemRegistry> = LazyLock::new(MemRegistry::new);
        SHARED.clone()
    }

    /// Lists `endpoint` under `service`, in place of one of the same name.
    pub fn put(&self, service: &str, endpoint: Endpoint) {
        self.change(service, |list| {
            match list.iter_mut().find(|listed| listed.name() == endpoint.name()) {
                Some(listed) => *listed = endpoint,
                None => list.push(endpoint),
            }
        });
    }

    /// Takes the endpoint of that name off the list of `service`.
    pub fn remove(&self, service: &str, name: &str) {
        self.change(service, |list| list.retain(|listed| listed.name() != name));
    }

    /// The endpoints of `service`.
    #[must_use]
    pub fn list(&self, service: &str) -> Vec<Endpoint> {
        self.subscribe(service).borrow().clone()
    }

    /// Enters the clients of `service` in this registry, too, for [`ChannelBuilder::aperture`](crate::client::ChannelBuilder::aperture).
    #[must_use]
    pub fn aperture(&self, service: &str) -> Aperture {
        // No service has a name like that.
        let clients = format!("{service}/clients");
        Aperture::new(clients.clone(), self.clone(), self.resolver(clients))
    }

    /// Finds the endpoints of `service` in this registry.
    #[must_use]
    pub fn resolver(&self, service: impl Into<String>) -> MemResolver {
        MemResolver {
            registry: self.clone(),
            service: service.into(),
        }
    }

    fn change(&self, service: &str, change: impl FnOnce(&mut Vec<Endpoint>)) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.entry(service.to_owned()).or_default().send_modify(change);
        services.retain(|_, list| list.receiver_count() > 0 || !list.borrow().is_empty());
    }

    fn subscribe(&self, service: &str) -> watch::Receiver<Vec<Endpoint>> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.entry(service.to_owned()).or_default().subscribe()
    }

    /// Changes what is listed of an endpoint, unless a successor of the same name stands there.
    fn update(&self, service: &str, endpoint: &Endpoint) {
        self.change(service, |list| {
            let own =
                |listed: &&mut Endpoint| listed.name() == endpoint.name() && listed.instance() == endpoint.instance();
            if let Some(listed) = list.iter_mut().find(own) {
                *listed = endpoint.clone();
            }
        });
    }

    /// Takes an endpoint off, unless a successor of the same name stands there.
    fn remove_instance(&self, service: &str, endpoint: &Endpoint) {
        self.change(service, |list| {
            list.retain(|listed| listed.name() != endpoint.name() || listed.instance() != endpoint.instance());
        });
    }
}

impl Registrar for MemRegistry {
    fn register(&self, mut announcements: Announcements) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut listed = Listed {
                registry: self,
                now: Vec::new(),
            };
            while let Some(announcement) = announcements.latest() {
                for service in announcement.services() {
                    match listed.now.is_empty() {
                        true => self.put(service, announcement.endpoint().clone()),
                        false => self.update(service, announcement.endpoint()),
                    }
                }
                listed.now = announcement
                    .services()
                    .iter()
                    .map(|service| (service.clone(), announcement.endpoint().clone()))
                    .collect();
                announcements.changed().await;
            }
        })
    }
}

/// What a registration has put there; taken off when it ends, however it ends.
struct Listed<'a> {
    registry: &'a MemRegistry,
    now: Vec<(String, Endpoint)>,
}

impl Drop for Listed<'_> {
    fn drop(&mut self) {
        for (service, endpoint) in &self.now {
            self.registry.remove_instance(service, endpoint);
        }
    }
}

/// Finds a service in a [`MemRegistry`].
#[derive(Clone, Debug)]
pub struct MemResolver {
    registry: MemRegistry,
    service: String,
}

impl Resolver for MemResolver {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            let mut list = self.registry.subscribe(&self.service);
            loop {
                let endpoints = list.borrow_and_update().clone();
                match endpoints.is_empty() {
                    true => publisher.fail(ResolveError::new(format!(
                        "nobody in this process is registered as {:?}",
                        self.service
                    ))),
                    false => publisher.publish(endpoints),
                }
                if list.changed().await.is_err() {
                    return;
                }
            }
        })
    }

    /// It has no leases to lose.
    fn removal_window(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::MemRegistry;
    use crate::discovery::registrar::Announcer;
    use crate::discovery::{Announcement, Endpoint, EndpointState, Publisher, Registrar, Resolver};

    fn endpoint(instance: &str) -> Endpoint {
        Endpoint::new("mem:here".parse().unwrap()).with_instance(instance)
    }

    fn announcer(instance: &str) -> Announcer {
        Announcer::new(Announcement::new(["shop.Orders".to_owned()], endpoint(instance)))
    }

    #[tokio::test]
    async fn an_instance_is_listed_while_it_is_announced() {
        let registry = MemRegistry::new();
        let (publisher, mut seen) = Publisher::channel();
        let resolver = registry.resolver("shop.Orders");
        tokio::spawn(async move { resolver.watch(publisher).await });
        assert!(seen.changed().await);
        assert!(seen.latest().failure().unwrap().to_string().contains("\"shop.Orders\""));

        let announcer = announcer("1");
        let (registering, announcements) = (registry.clone(), announcer.subscribe());
        let registration = tokio::spawn(async move { registering.register(announcements).await });
        assert!(seen.changed().await);
        assert_eq!(seen.latest().endpoints(), [endpoint("1")]);
        announcer.drain();
        assert!(seen.changed().await);
        assert_eq!(seen.latest().endpoints()[0].state(), EndpointState::Draining);
        announcer.withdraw();
        registration.await.unwrap();
        assert_eq!(registry.list("shop.Orders"), []);
    }

    #[tokio::test]
    async fn a_successor_is_not_taken_off_by_whom_it_succeeds() {
        let registry = MemRegistry::new();
        let (first, second) = (announcer("1"), announcer("2"));
        let mut registrations = Vec::new();
        for announcer in [&first, &second] {
            let (registry, announcements) = (registry.clone(), announcer.subscribe());
            registrations.push(tokio::spawn(async move { registry.register(announcements).await }));
            tokio::task::yield_now().await;
        }
        first.drain();
        tokio::task::yield_now().await;
        assert_eq!(registry.list("shop.Orders"), [endpoint("2")]);
        drop(first);
        registrations.remove(0).await.unwrap();
        assert_eq!(registry.list("shop.Orders"), [endpoint("2")]);
        // A task that is aborted leaves nothing behind either.
        registrations[0].abort();
        registrations.remove(0).await.unwrap_err();
        assert_eq!(registry.list("shop.Orders"), []);
    }
}
