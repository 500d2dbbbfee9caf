//! Clients that know each other, and share the endpoints of a service evenly.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use sinew::{Channel, Code, ConnectivityState, MemRegistry};

use super::{Node, names, registry_of, who};
use crate::support::until;

/// A client that shares with all others of the registry.
async fn client(registry: &MemRegistry) -> Channel {
    let aperture = registry.aperture("discovery.Who").size(8);
    let builder = Channel::builder().resolver(registry.resolver("discovery.Who")).aperture(aperture);
    builder.connect("discovery.Who").await.unwrap()
}

/// Whom a channel is connected to, or about to be.
fn connected(channel: &Channel) -> HashSet<String> {
    let endpoints = channel.snapshot().endpoints;
    assert!(
        endpoints.iter().all(|one| one.state == ConnectivityState::Ready),
        "{endpoints:?}"
    );
    endpoints.iter().map(|one| one.endpoint.name().to_owned()).collect()
}

fn connections(nodes: &[Node]) -> Vec<usize> {
    nodes.iter().map(|node| node.serving.connections()).collect()
}

/// Thirty clients of forty servers, each connected to about eight: all servers have the same number of connections, give or take one, and the same share of calls. A
/// client or a server that goes moves few of them.
#[tokio::test(start_paused = true)]
async fn every_endpoint_has_its_share_of_clients_and_calls() {
    let names = names::<40>();
    let registry = registry_of(&names);
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(Node::start(name).await);
    }
    let mut clients = Vec::new();
    for _ in 0..30 {
        clients.push(client(&registry).await);
    }
    // Each takes up another place after five seconds at the earliest.
    tokio::time::sleep(Duration::from_secs(12)).await;
    let spread = connections(&nodes);
    let (fewest, most) = (spread.iter().min().unwrap(), spread.iter().max().unwrap());
    assert!(most - fewest <= 1 && (6..=8).contains(fewest), "{spread:?}");
    assert_eq!(registry.list("discovery.Who/clients").len(), 30);

    let mut answered = BTreeMap::<String, usize>::new();
    for client in &clients {
        for _ in 0..400 {
            *answered.entry(who(client).name().await.unwrap()).or_default() += 1;
        }
    }
    assert_eq!(answered.len(), 40);
    assert!(
        answered.values().all(|calls| (200..400).contains(calls)),
        "{answered:?}"
    );

    let before: Vec<HashSet<String>> = clients.iter().map(connected).collect();
    let gone = clients.remove(11);
    drop(gone);
    until("it is off the list", || {
        registry.list("discovery.Who/clients").len() == 29
    })
    .await;
    registry.remove("discovery.Who", &format!("mem:{}", names[5]));
    tokio::time::sleep(Duration::from_secs(12)).await;
    let left = before.iter().enumerate().filter(|(index, _)| *index != 11);
    let moved: Vec<usize> = left
        .zip(&clients)
        .map(|((_, before), client)| connected(client).difference(before).count())
        .collect();
    assert!(moved.iter().all(|moved| *moved <= 4), "{moved:?}");
    nodes.remove(5);
    let spread = connections(&nodes);
    assert!(
        spread.iter().max().unwrap() - spread.iter().min().unwrap() <= 1,
        "{spread:?}"
    );
}

/// A client that does not find its way into the registry takes its endpoints at random, and is as good.
#[tokio::test(start_paused = true)]
async fn without_a_place_endpoints_are_taken_at_random() {
    let names = names::<3>();
    let (registry, nowhere) = (registry_of(&names), MemRegistry::new());
    let mut nodes = Vec::new();
    for name in &names {
        nodes.push(Node::start(name).await);
    }
    let aperture = sinew::Aperture::new("nobody", nowhere.clone(), nowhere.resolver("somebody"));
    let builder = Channel::builder().resolver(registry.resolver("discovery.Who")).aperture(aperture.size(1));
    let channel = builder.connect("discovery.Who").await.unwrap();
    assert_eq!(connected(&channel).len(), 3);
    assert_eq!(nowhere.list("nobody").len(), 1);
    channel.shut_down();
    until("it is off the list", || nowhere.list("nobody").is_empty()).await;
}

#[test]
fn an_aperture_of_one_address_or_of_a_zone_is_an_error() {
    let aperture = MemRegistry::new().aperture("discovery.Who");
    for (builder, target, hint) in [
        (Channel::builder(), "mem:a", "would do nothing"),
        (Channel::builder().zone("z"), "static:///mem:a", "leave out one of them"),
    ] {
        let wrong = builder.aperture(aperture.clone()).lazy(target).unwrap_err();
        assert!(
            wrong.code() == Code::InvalidArgument && wrong.message().contains(hint),
            "{wrong}"
        );
    }
}
