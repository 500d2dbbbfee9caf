//! What channels and servers tell of themselves.

use std::time::Duration;

use sinew::{Channel, ConnectivityState, Endpoint, EndpointState, HealthStatus, Instance, MemRegistry, Server};

use super::{Named, Node, WhoServer, endpoint, names, nodes, registry_of, spread, who};
use crate::support::{bounded, until};

#[tokio::test(start_paused = true)]
async fn a_channel_tells_what_it_knows_of_its_endpoints() {
    let [one, two, gone] = names();
    let (first, second) = (Node::start(&one).await, Node::start(&two).await);
    let registry = registry_of(&[one.clone(), two.clone(), gone.clone()]);
    registry.put("discovery.Who", Endpoint::with_addresses([]).with_name("hollow"));
    registry.put("discovery.Who", endpoint(&gone).with_name("light").with_weight(0));
    registry.put(
        "discovery.Who",
        endpoint(&gone).with_name("left").with_state(EndpointState::Draining),
    );
    let channel = Channel::builder().resolver(registry.resolver("discovery.Who")).lazy("discovery.Who").unwrap();
    let before = channel.snapshot();
    assert!(before.list.is_none() && before.endpoints.is_empty());
    assert_eq!(
        (before.state, before.target.as_str()),
        (ConnectivityState::Idle, "discovery.Who")
    );

    channel.wait_ready().await.unwrap();
    second.serving.health().set_overall(HealthStatus::NotServing);
    tokio::time::sleep(Duration::from_millis(100)).await;
    spread(&channel, 10).await;
    let held = tokio::spawn(who(&channel).hold().into_future());
    until("it runs", || first.serving.running_handlers() == 1).await;
    let now = channel.snapshot();
    let list = now.list.unwrap();
    assert_eq!((list.version, list.listed, list.kept, list.is_stale), (1, 6, 0, false));
    assert!(list.age >= Duration::from_millis(100) && list.failure.is_none());
    let [(refused, why)] = &now.refused[..] else {
        panic!("{:?}", now.refused)
    };
    assert!(refused == "hollow" && why.contains("no address"), "{why}");
    let unused = [("light", "its weight is 0"), ("left", "it is about to leave")];
    assert_eq!(now.unused, unused.map(|(name, why)| (name.to_owned(), why.to_owned())));
    let of = |name: &str| {
        let found = now.endpoints.iter().find(|one| one.endpoint == endpoint(name));
        found.unwrap_or_else(|| panic!("{name} is not in {:?}", now.endpoints))
    };
    assert_eq!(of(&one).state, ConnectivityState::Ready);
    assert_eq!((of(&one).in_flight, of(&one).picks, of(&one).failed), (1, 11, 0));
    assert!(of(&one).failure.is_none());
    assert_eq!(
        (of(&two).state, of(&two).picks),
        (ConnectivityState::TransientFailure, 0)
    );
    assert_eq!(
        (of(&one).health, of(&two).health),
        (HealthStatus::Serving, HealthStatus::NotServing)
    );
    assert_eq!(of(&gone).health, HealthStatus::Unknown);
    assert!(of(&two).failure.as_ref().unwrap().contains("not serving"));
    assert!(of(&gone).failure.as_ref().unwrap().contains("cannot reach"));
    first.let_go.notify_waiters();
    bounded(held).await.unwrap().unwrap();
    assert_eq!(
        channel.snapshot().endpoints.iter().map(|one| one.in_flight).sum::<u32>(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn whoever_is_called_is_not_unused() {
    let (names, _nodes) = nodes::<1>().await;
    let registry = MemRegistry::new();
    registry.put("discovery.Who", endpoint(&names[0]).with_state(EndpointState::Draining));
    let channel = Channel::builder().resolver(registry.resolver("discovery.Who"));
    let channel = channel.connect("discovery.Who").await.unwrap();
    assert_eq!(who(&channel).name().await.unwrap(), names[0]);
    assert_eq!(
        (channel.snapshot().unused, channel.snapshot().endpoints.len()),
        (Vec::new(), 1)
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_tells_what_it_does() {
    let [name] = names();
    let service = Named {
        name: name.clone(),
        let_go: std::sync::Arc::default(),
        fails: std::sync::Arc::default(),
    };
    let server = Server::builder().service(WhoServer::new(service)).bind(format!("mem:{name}")).max_connections(1);
    let serving = server.register(MemRegistry::new()).instance(Instance::new()).start().await.unwrap();
    let _one = Channel::connect(&serving.target()).await.unwrap();
    Channel::connect(&serving.target()).await.unwrap_err();
    let now = serving.snapshot();
    assert_eq!(now.services, [("discovery.Who".to_owned(), HealthStatus::Serving)]);
    assert_eq!(
        (now.connections, now.connections_max, now.health),
        (1, 1, HealthStatus::Serving)
    );
    assert!(now.connections_refused >= 1 && now.registries == 1 && !now.is_draining);
    assert_eq!((now.running_handlers, now.panics, now.addresses.len()), (0, 0, 1));
    // The view is there also when the handle is not.
    let monitor = serving.monitor();
    let leaving = tokio::spawn(serving.shutdown());
    until("it says that it leaves", || monitor.snapshot().is_draining).await;
    assert_eq!(monitor.snapshot().health, HealthStatus::Draining);
    assert_eq!(monitor.snapshot().connections, 1);
    bounded(leaving).await.unwrap();
    assert_eq!(monitor.snapshot().connections, 0);
}
