//! Registries that lose entries, by fault or because servers are gone.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use sinew::{Channel, Endpoint, EndpointState, MemRegistry, MemResolver, Publisher, Resolver, RoundRobin};

use super::{Node, endpoint, names, registry_of, spread};

/// The window of a registry of leases.
const WINDOW: Duration = Duration::from_secs(15);

/// A registry whose entries stand under leases: it may lose them by fault.
struct Leased(MemResolver);

impl Resolver for Leased {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.0.watch(publisher)
    }
}

/// Servers, and a channel that takes them in turn.
async fn pool<const N: usize>() -> ([String; N], Vec<Node>, MemRegistry, Channel) {
    let names = sorted::<N>();
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(Node::start(name).await);
    }
    let registry = registry_of(&names);
    let channel = Channel::builder().resolver(Leased(registry.resolver("discovery.Who"))).balancer(RoundRobin);
    let channel = channel.connect("discovery.Who").await.unwrap();
    assert_eq!(called(&channel, N).await.len(), N);
    (names, nodes, registry, channel)
}

/// As calls are counted.
fn sorted<const N: usize>() -> [String; N] {
    let mut names = names();
    names.sort_unstable();
    names
}

/// Who is called, in the order of names.
async fn called(channel: &Channel, at_most: usize) -> Vec<String> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    spread(channel, 2 * at_most).await.into_keys().collect()
}

/// In one change of the list, unless the caller waits in between.
fn lose(registry: &MemRegistry, names: &[String]) {
    names.iter().for_each(|name| registry.remove("discovery.Who", endpoint(name).name()));
}

/// Leases that expire one after the other, within a third of their time: half of the servers go, the others are kept, also beyond the window.
#[tokio::test(start_paused = true)]
async fn leases_that_expire_together_take_half_of_the_servers_at_most() {
    let (names, _nodes, registry, channel) = pool::<10>().await;
    for name in &names[..9] {
        lose(&registry, std::slice::from_ref(name));
        tokio::time::sleep(Duration::from_millis(333)).await;
        spread(&channel, 10).await;
    }
    assert_eq!(called(&channel, 10).await, names[5..], "half of them is believed");
    tokio::time::sleep(2 * WINDOW).await;
    assert_eq!(called(&channel, 10).await, names[5..], "they serve");
    // They are back in the list, and one that vanishes then is no mass expiry.
    names.iter().for_each(|name| registry.put("discovery.Who", endpoint(name)));
    assert_eq!(called(&channel, 10).await, names);
    lose(&registry, &names[..1]);
    assert_eq!(called(&channel, 10).await, names[1..]);
}

#[tokio::test(start_paused = true)]
async fn one_server_or_two_are_not_lost_to_a_registry_that_forgets() {
    let (names, _nodes, registry, channel) = pool::<2>().await;
    lose(&registry, &names);
    assert_eq!(called(&channel, 2).await, names, "an empty list is none");
    registry.put("discovery.Who", endpoint(&names[1]));
    assert_eq!(called(&channel, 2).await, names[1..], "half of them is believed");
    let (names, _nodes, registry, channel) = pool::<1>().await;
    lose(&registry, &names);
    tokio::time::sleep(2 * WINDOW).await;
    assert_eq!(called(&channel, 1).await, names);
}

/// The registry is right: the servers are gone, and so are their connections.
#[tokio::test(start_paused = true)]
async fn a_real_loss_is_believed_at_once() {
    let (names, mut nodes, registry, channel) = pool::<10>().await;
    nodes.drain(..6).for_each(drop);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(called(&channel, 10).await, names[6..]);
    lose(&registry, &names[..6]);
    let _one_returns = Node::start(&names[0]).await;
    tokio::time::sleep(2 * WINDOW).await;
    assert_eq!(
        called(&channel, 10).await,
        names[6..],
        "nobody tries to reach those that are gone"
    );
}

/// They are kept while they serve; once they do not, the registry is believed.
#[tokio::test(start_paused = true)]
async fn who_was_kept_goes_when_it_dies() {
    let (names, mut nodes, registry, channel) = pool::<10>().await;
    lose(&registry, &names[..6]);
    assert_eq!(called(&channel, 10).await, names);
    nodes.drain(..6).for_each(drop);
    assert_eq!(called(&channel, 10).await, names[6..]);
    tokio::time::sleep(2 * WINDOW).await;
    // Another one at the address is no business of this channel any more.
    let _other = Node::start(&names[0]).await;
    tokio::time::sleep(2 * WINDOW).await;
    assert_eq!(called(&channel, 10).await, names[6..]);
}

#[tokio::test(start_paused = true)]
async fn a_swap_of_all_servers_is_no_loss() {
    let (blue, nodes, registry, channel) = pool::<4>().await;
    let green = sorted::<4>();
    let mut others = Vec::new();
    for name in &green {
        others.push(Node::start(name).await);
        registry.put("discovery.Who", endpoint(name));
    }
    assert_eq!(called(&channel, 8).await.len(), 8);
    for name in &blue {
        registry.put("discovery.Who", draining(name));
    }
    assert_eq!(called(&channel, 8).await, green, "no new calls for those that leave");
    lose(&registry, &blue);
    assert_eq!(called(&channel, 8).await, green);
    drop(nodes);
    assert_eq!(called(&channel, 8).await, green);
}

fn draining(name: &str) -> Endpoint {
    endpoint(name).with_state(EndpointState::Draining)
}
