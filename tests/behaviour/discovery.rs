//! Services that have several endpoints: found, connected, chosen between, and lost.

mod apertures;
mod cache;
pub(crate) mod config;
#[cfg(feature = "dns")]
mod dns;
pub(crate) mod gate;
mod health;
mod keys;
mod connections;
mod partitions;
mod pools;
mod removals;
mod security;
mod slow_replica;
mod snapshots;
mod storm;
mod zones;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream;
use sinew::{
    Address, Channel, Drain, Endpoint, Instance, MemRegistry, Server, ServerLoad, Serving, Status, Streaming, service,
};
use tokio::sync::Notify;

use crate::support::fixture::unique;

/// Tells who answers.
#[service(name = "discovery.Who")]
pub(crate) trait Who {
    #[rpc(idempotent)]
    async fn name(&self) -> Result<String, Status>;
    /// Answers when it is let go.
    async fn hold(&self) -> Result<String, Status>;
    /// The name, again and again.
    async fn names(&self) -> Result<Streaming<String>, Status>;
}

#[derive(Clone)]
pub(crate) struct Named {
    name: String,
    let_go: Arc<Notify>,
    fails: Arc<AtomicBool>,
}

impl Named {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            let_go: Arc::default(),
            fails: Arc::default(),
        }
    }
}

impl Who for Named {
    async fn name(&self) -> Result<String, Status> {
        match self.fails.load(Ordering::SeqCst) {
            true => Err(Status::internal("it fails")),
            false => Ok(self.name.clone()),
        }
    }

    async fn hold(&self) -> Result<String, Status> {
        self.let_go.notified().await;
        Ok(self.name.clone())
    }

    async fn names(&self) -> Result<Streaming<String>, Status> {
        let name = self.name.clone();
        Ok(Streaming::from(stream::repeat_with(move || {
            Ok::<_, Status>(name.clone())
        })))
    }
}

/// One server at an address within the process.
pub(crate) struct Node {
    pub(crate) serving: Serving,
    pub(crate) let_go: Arc<Notify>,
    /// Whether it fails at once what it is asked.
    pub(crate) fails: Arc<AtomicBool>,
    pub(crate) load: ServerLoad,
}

impl Node {
    pub(crate) async fn start(name: &str) -> Self {
        Self::registered(name, None, Instance::new()).await
    }

    /// A server that is known in a registry while it serves.
    pub(crate) async fn registered(name: &str, registry: Option<&MemRegistry>, instance: Instance) -> Self {
        let load = ServerLoad::new();
        let service = Named::new(name);
        let (let_go, fails) = (Arc::clone(&service.let_go), Arc::clone(&service.fails));
        let mut server = Server::builder()
            .service(WhoServer::new(service))
            .drain(Drain::default().lame_duck("1s").within("20s"))
            .bind(format!("mem:{name}"))
            .load(load.clone())
            .instance(instance);
        if let Some(registry) = registry {
            server = server.register(registry.clone());
        }
        Self {
            serving: server.start().await.unwrap(),
            let_go,
            fails,
            load,
        }
    }
}

/// The service alone.
pub(crate) fn named_service(name: &str) -> impl sinew::Service {
    WhoServer::new(Named::new(name))
}

/// Names for servers that no other test uses.
pub(crate) fn names<const N: usize>() -> [String; N] {
    std::array::from_fn(|_| unique("who"))
}

/// Servers, and their names.
pub(crate) async fn nodes<const N: usize>() -> ([String; N], Vec<Node>) {
    let names = names::<N>();
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(Node::start(name).await);
    }
    (names, nodes)
}

pub(crate) fn endpoint(name: &str) -> Endpoint {
    Endpoint::new(address(name))
}

pub(crate) fn address(name: &str) -> Address {
    format!("mem:{name}").parse().unwrap()
}

pub(crate) fn fixed(names: &[String]) -> String {
    let addresses: Vec<String> = names.iter().map(|name| format!("mem:{name}")).collect();
    format!("static:///{}", addresses.join(","))
}

/// A registry that knows these, each under its name.
pub(crate) fn registry_of(names: &[String]) -> MemRegistry {
    let registry = MemRegistry::new();
    for name in names {
        registry.put("discovery.Who", endpoint(name));
    }
    registry
}

pub(crate) fn who(channel: &Channel) -> WhoClient {
    WhoClient::from_channel(channel.clone())
}

/// How many of `calls` went to whom.
pub(crate) async fn spread(channel: &Channel, calls: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(who(channel).name().await.unwrap()).or_default() += 1;
    }
    counts
}
