//! Calls that belong together go to one endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sinew::{Channel, ConsistentHash};

use super::{Node, endpoint, names, nodes, registry_of, who};
use crate::support::{bounded, until};

/// Who has which of the first keys.
async fn owners(channel: &Channel) -> BTreeMap<u32, String> {
    let mut owners = BTreeMap::new();
    for key in 0..200_u32 {
        let owner = who(channel).name().route_key(key.to_be_bytes()).await.unwrap();
        assert_eq!(who(channel).name().route_key(key.to_be_bytes()).await.unwrap(), owner);
        owners.insert(key, owner);
    }
    owners
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_where_it_is_unless_its_owner_goes() {
    let (names, nodes) = nodes::<5>().await;
    let registry = registry_of(&names);
    let connect = || {
        let builder = Channel::builder().resolver(registry.resolver("discovery.Who")).balancer(ConsistentHash::new());
        builder.connect("discovery.Who")
    };
    let channel = connect().await.unwrap();
    let before = owners(&channel).await;
    assert!(names.iter().all(|name| before.values().any(|owner| owner == name)));
    // Another client, another order: the same owners.
    assert_eq!(owners(&connect().await.unwrap()).await, before);
    registry.remove("discovery.Who", endpoint(&names[2]).name());
    tokio::time::sleep(Duration::from_millis(10)).await;
    let after = owners(&channel).await;
    for (key, owner) in &before {
        assert!(
            *owner == names[2] || after[key] == *owner,
            "key {key} has moved from {owner}"
        );
    }
    registry.put("discovery.Who", endpoint(&names[2]));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(owners(&channel).await, before);
    // Also if some of them are under way.
    let owner = &before[&7];
    let mut held = Vec::new();
    for _ in 0..8 {
        held.push(tokio::spawn(
            who(&channel).hold().route_key(7_u32.to_be_bytes()).into_future(),
        ));
    }
    until("they run", || {
        nodes.iter().any(|node| node.serving.running_handlers() == 8)
    })
    .await;
    nodes.iter().for_each(|node| node.let_go.notify_waiters());
    for held in held {
        assert_eq!(bounded(held).await.unwrap().unwrap(), *owner);
    }
    // Calls without a key go anywhere.
    assert!(super::spread(&channel, 100).await.len() > 1);
}

/// Of more than 64 endpoints, too, every client calls the same one for a key.
#[tokio::test(start_paused = true)]
async fn clients_of_many_endpoints_agree() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let list: Vec<_> = (0..70).map(|number| endpoint(&name).with_name(format!("orders-{number}"))).collect();
    let mut picks = Vec::new();
    for _ in 0..2 {
        let builder = Channel::builder().resolver(sinew::FixedList::new(list.clone())).balancer(ConsistentHash::new());
        let channel = builder.connect("discovery.Who").await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        for key in 0..30_u32 {
            who(&channel).name().route_key(key.to_be_bytes()).await.unwrap();
        }
        let endpoints = channel.snapshot().endpoints;
        assert_eq!(endpoints.len(), 70);
        picks.push(endpoints.iter().map(|one| (one.endpoint.name().to_owned(), one.picks)).collect::<BTreeMap<_, _>>());
    }
    assert_eq!(picks[0], picks[1]);
}

/// Some keys are asked for far more often than others (Zipf, 1.1): no endpoint has more than a quarter more than the mean in flight.
#[tokio::test(start_paused = true)]
async fn popular_keys_are_shared_out() {
    let (names, nodes) = nodes::<10>().await;
    let builder = Channel::builder().balancer(ConsistentHash::new());
    let channel = builder.connect(&super::fixed(&names)).await.unwrap();
    let popularity: Vec<f64> = (1..=1_000).map(|rank| f64::from(rank).powf(-1.1)).collect();
    let all: f64 = popularity.iter().sum();
    let mut random = fastrand::Rng::with_seed(11);
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..600 {
        let mut left = random.f64() * all;
        let key = popularity.iter().position(|part| {
            left -= part;
            left <= 0.0
        });
        let key = key.unwrap_or_default().to_be_bytes();
        held.spawn(who(&channel).hold().route_key(key).detached().into_future());
    }
    let running = || -> Vec<usize> { nodes.iter().map(|node| node.serving.running_handlers()).collect() };
    until("all run", || running().iter().sum::<usize>() == 600).await;
    // The mean is 60.
    assert!(running().into_iter().all(|calls| calls <= 75), "{:?}", running());
    nodes.iter().for_each(|node| node.let_go.notify_waiters());
    assert!(held.join_all().await.iter().all(Result::is_ok));
}

/// All calls have one key: beyond a quarter more than its share, its owner is given no more.
#[tokio::test(start_paused = true)]
async fn a_popular_key_does_not_bury_its_owner() {
    let (names, nodes) = nodes::<4>().await;
    let builder = Channel::builder().balancer(ConsistentHash::new());
    let channel = builder.connect(&super::fixed(&names)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..80 {
        held.push(tokio::spawn(who(&channel).hold().route_key("popular").into_future()));
    }
    let running = || -> Vec<usize> { nodes.iter().map(|node| node.serving.running_handlers()).collect() };
    until("all run", || running().iter().sum::<usize>() == 80).await;
    assert!(running().into_iter().all(|calls| calls <= 26), "{:?}", running());
    let let_go: Vec<_> = nodes.iter().map(|node| Arc::clone(&node.let_go)).collect();
    let_go.iter().for_each(|node| node.notify_waiters());
    for held in held {
        bounded(held).await.unwrap().unwrap();
    }
}
