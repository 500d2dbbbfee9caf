//! What endpoints report of their load, and what follows from it: weights, and calls that stay in their zone while it is no busier than others.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sinew::{
    Balancer, Candidate, Channel, Code, ConnectsTo, FileConfig, HealthStatus, Instance, LeastRequest, MemRegistry,
    OutlierDetection, PickFirst, Picker, RoundRobin, Server, ServiceConfig, WeightedRoundRobin,
};
use tokio::task::JoinHandle;

use super::{Named, Node, WhoServer, fixed, names, nodes, spread, who};
use crate::support::{bounded, until};

/// Calls a second that each server can take.
const CAPACITY: f64 = 100.0;

/// Servers in zones, each of which says how busy it is by what it answered.
struct Town {
    registry: MemRegistry,
    names: Vec<String>,
    nodes: Vec<Node>,
}

impl Town {
    async fn start<const N: usize>(zones: [&str; N]) -> Self {
        let (registry, names) = (MemRegistry::new(), names::<N>());
        let mut nodes = Vec::new();
        for (name, zone) in names.iter().zip(zones) {
            nodes.push(Node::registered(name, Some(&registry), Instance::new().name(name).zone(zone)).await);
        }
        Self {
            registry,
            names: names.to_vec(),
            nodes,
        }
    }

    fn answered(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.serving.snapshot().answered).collect()
    }

    /// Lets time pass while all say how busy they are; tells what each has answered meanwhile.
    async fn pass(&self, seconds: u64) -> Vec<u64> {
        let before = self.answered();
        for _ in 0..2 * seconds {
            let last = self.answered();
            tokio::time::sleep(Duration::from_millis(500)).await;
            for ((node, now), last) in self.nodes.iter().zip(self.answered()).zip(last) {
                node.load.set_utilization((now - last) as f64 / (CAPACITY / 2.0));
            }
        }
        self.answered().iter().zip(before).map(|(now, before)| now - before).collect()
    }

    fn client(&self, zone: &str) -> Channel {
        let builder = Channel::builder().resolver(self.registry.resolver("discovery.Who"));
        builder.zone(zone).lazy("discovery.Who").unwrap()
    }
}

/// Somebody who calls at a steady rate, and counts calls that fail.
struct Caller {
    channel: Channel,
    task: JoinHandle<()>,
}

impl Caller {
    fn start(channel: Channel, every: Duration, failed: &Arc<AtomicUsize>) -> Self {
        let (who, failed) = (who(&channel), Arc::clone(failed));
        let task = tokio::spawn(async move {
            let mut tick = tokio::time::interval(every);
            loop {
                tick.tick().await;
                let (call, failed) = (who.name().into_future(), Arc::clone(&failed));
                tokio::spawn(async move {
                    if call.await.is_err() {
                        failed.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self { channel, task }
    }

    fn zone_share(&self) -> f64 {
        self.channel.snapshot().zone_share.unwrap()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The most that one of `counts` is over their mean.
fn over(counts: &[u64]) -> f64 {
    let mean = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    *counts.iter().max().unwrap() as f64 / mean
}

/// Two of ten servers, and half of the clients, are in one zone: no server has more than 1.3 times the mean, one that falls ill included. When it is well again, and
/// when the zone has less to do, it has its calls back within 10 s.
#[tokio::test(start_paused = true)]
async fn no_zone_is_overrun_and_calls_come_back_to_it() {
    let mut zones = ["b"; 10];
    zones[3] = "a";
    zones[7] = "a";
    let town = Town::start(zones).await;
    let failed = Arc::<AtomicUsize>::default();
    let mut callers: Vec<Caller> = (0..10)
        .map(|index| {
            let zone = if index < 5 { "a" } else { "b" };
            Caller::start(town.client(zone), Duration::from_millis(20), &failed)
        })
        .collect();
    town.pass(10).await;
    let even = town.pass(10).await;
    assert!(even.iter().sum::<u64>() >= 4_900, "{even:?}");
    assert!(over(&even) < 1.3, "{even:?}");
    // Those of the zone have more than the others: some of its calls stay.
    assert!((even[3] + even[7]) * 4 > (5_000 - even[3] - even[7]), "{even:?}");
    let shares: Vec<f64> = callers.iter().map(Caller::zone_share).collect();
    assert!(shares[..5].iter().all(|share| (0.3..0.8).contains(share)), "{shares:?}");
    assert!(shares[5..].iter().all(|share| *share == 0.99), "{shares:?}");

    town.nodes[3].serving.health().set_overall(HealthStatus::NotServing);
    town.pass(8).await;
    let without = town.pass(10).await;
    assert_eq!(without[3], 0, "{without:?}");
    let others: Vec<u64> = without.iter().copied().filter(|count| *count > 0).collect();
    assert!(others.len() == 9 && over(&others) < 1.3, "{without:?}");

    town.nodes[3].serving.health().set_overall(HealthStatus::Serving);
    town.pass(10).await;
    let again = town.pass(10).await;
    assert!(over(&again) < 1.3 && again[3] * 10 > 8 * again[7], "{again:?}");

    // One client of the zone is left: it has all of its calls there.
    callers.drain(1..5);
    town.pass(10).await;
    assert_eq!(callers[0].zone_share(), 0.99);
    drop(callers);
    assert_eq!(failed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_zone_with_little_to_do_keeps_all_calls() {
    let town = Town::start(["a", "b", "b", "b"]).await;
    let failed = Arc::<AtomicUsize>::default();
    let caller = Caller::start(town.client("a"), Duration::from_millis(200), &failed);
    let counts = town.pass(20).await;
    assert!(
        counts[0] >= 99 && counts[1..].iter().all(|count| *count == 0),
        "{counts:?}"
    );
    assert_eq!((caller.zone_share(), failed.load(Ordering::Relaxed)), (1.0, 0));
}

/// An endpoint that grows into its share does not shrink the zones of others, nor its own.
#[tokio::test(start_paused = true)]
async fn slow_start_takes_no_calls_out_of_a_zone() {
    let mut town = Town::start(["a", "a", "b", "b"]).await;
    let builder = Channel::builder().resolver(town.registry.resolver("discovery.Who")).zone("a").slow_start("10s");
    let failed = Arc::<AtomicUsize>::default();
    let caller = Caller::start(
        builder.lazy("discovery.Who").unwrap(),
        Duration::from_millis(200),
        &failed,
    );
    town.pass(15).await;
    assert_eq!(caller.zone_share(), 1.0);
    // One of the others is started anew.
    let name = town.names[3].clone();
    drop(town.nodes.remove(3));
    town.pass(1).await;
    town.nodes
        .push(Node::registered(&name, Some(&town.registry), Instance::new().name(&name).zone("b")).await);
    for _ in 0..15 {
        town.pass(1).await;
        assert_eq!(caller.zone_share(), 1.0);
    }
    assert_eq!(failed.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn where_nobody_of_the_zone_is_there_calls_go_to_others() {
    let mut town = Town::start(["a", "b", "b"]).await;
    let channel = town.client("a");
    let named = |index: usize| town.names[index].clone();
    assert_eq!(spread(&channel, 20).await, BTreeMap::from([(named(0), 20)]));
    let [near, far, farther] = [named(0), named(1), named(2)];
    drop(town.nodes.remove(0));
    until("it is gone", || town.registry.list("discovery.Who").len() == 2).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let counts = spread(&channel, 40).await;
    assert!(counts.contains_key(&far) && counts.contains_key(&farther), "{counts:?}");
    assert_eq!(channel.snapshot().zone_share, Some(0.0));
    let again = Instance::new().name(&near).zone("a");
    let again = Node::registered(&near, Some(&town.registry), again).await;
    // What they measure of this process, next to a clock that stands still, is anything.
    for node in town.nodes.iter().chain([&again]) {
        node.load.set_utilization(0.1);
    }
    // Not all at once: it may be the only one of many that is back.
    for _ in 0..400 {
        spread(&channel, 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(spread(&channel, 20).await, BTreeMap::from([(near, 20)]));
}

#[tokio::test(start_paused = true)]
async fn a_configuration_switches_zones_off_and_on() {
    let town = Town::start(["a", "b"]).await;
    let file = std::env::temp_dir().join(format!("sinew-{}-zones.json", std::process::id()));
    let builder = Channel::builder().resolver(town.registry.resolver("discovery.Who")).balancer(RoundRobin);
    let config = FileConfig::new(&file);
    std::fs::write(&file, r#"{ "prefer_zone": false }"#).unwrap();
    let channel = builder.zone("a").config_source(config).lazy("discovery.Who").unwrap();
    assert_eq!(
        spread(&channel, 20).await.values().copied().collect::<Vec<_>>(),
        [10, 10]
    );
    assert_eq!(channel.snapshot().zone_share, None);
    std::fs::write(&file, "{}").unwrap();
    until("it counts", || channel.snapshot().zone_share == Some(1.0)).await;
    assert_eq!(
        spread(&channel, 20).await,
        BTreeMap::from([(town.names[0].clone(), 20)])
    );
    std::fs::remove_file(&file).unwrap();
    // Who has all calls is found regardless of zones.
    let first = Channel::builder().resolver(town.registry.resolver("discovery.Who")).balancer(PickFirst);
    let first = first.zone("b").connect("discovery.Who").await.unwrap();
    assert_eq!(first.snapshot().zone_share, None);
}

#[tokio::test(start_paused = true)]
async fn weights_follow_what_endpoints_report() {
    bounded(async {
        let (names, nodes) = nodes::<3>().await;
        let channel = Channel::builder()
            .balancer(WeightedRoundRobin)
            .outlier_detection(OutlierDetection::NEVER)
            .connect(&fixed(&names))
            .await
            .unwrap();
        assert_eq!(spread(&channel, 300).await.into_values().collect::<Vec<_>>(), [100; 3]);
        // Three do the same work with 0.9, 0.45 and 0.3 of their capacity: they can take 2, 4 and 6.
        for (node, used) in nodes.iter().zip([0.9, 0.45, 0.3]) {
            node.load.set_utilization(used);
        }
        // What they report is what they have done, so the weights stay as calls follow them only if utilization follows, too.
        let mut last = vec![0_u64; 3];
        for _ in 0..120 {
            // As many as it takes for one more or less to make no difference to what a node is used.
            spread(&channel, 120).await;
            tokio::time::sleep(Duration::from_millis(250)).await;
            for ((node, capacity), last) in nodes.iter().zip([800.0, 1_600.0, 2_400.0]).zip(&mut last) {
                let answered = node.serving.snapshot().answered;
                node.load.set_utilization((answered - *last) as f64 * 4.0 / capacity);
                *last = answered;
            }
        }
        let counts = spread(&channel, 600).await;
        for (name, wanted) in names.iter().zip([100_i64, 200, 300]) {
            let got = i64::try_from(counts[name]).unwrap();
            assert!((got - wanted).abs() <= 25, "{name}: {got}, not {wanted}");
        }
        // One that fails counts as busier than it says.
        nodes[2].fails.store(true, Ordering::SeqCst);
        let mut failures = Vec::new();
        for _ in 0..20 {
            let mut failed = 0;
            for _ in 0..30 {
                failed += usize::from(who(&channel).name().await.is_err());
            }
            failures.push(failed);
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        assert!(failures[0] >= 12 && failures[19] <= 6, "{failures:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn reports_come_with_answers_and_are_not_shown_to_the_application() {
    let (names, nodes) = nodes::<2>().await;
    nodes[0].load.set_utilization(0.75);
    let channel = Channel::builder()
        .balancer(RoundRobin)
        .outlier_detection(OutlierDetection::NEVER)
        .connect(&fixed(&names))
        .await
        .unwrap();
    for _ in 0..100 {
        let (_, meta) = who(&channel).name().with_meta().await.unwrap();
        assert!(meta.trailers().is_empty(), "{meta:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    nodes[1].fails.store(true, Ordering::SeqCst);
    for _ in 0..100 {
        if let Err(failed) = who(&channel).name().await {
            assert!(
                failed.code() == Code::Internal && failed.metadata().is_empty(),
                "{failed:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let snapshot = channel.snapshot();
    let report = |name: &str| {
        let of = |one: &&sinew::EndpointSnapshot| one.endpoint.name().ends_with(name);
        snapshot.endpoints.iter().find(of).unwrap().load.unwrap()
    };
    let (first, second) = (report(&names[0]), report(&names[1]));
    assert_eq!((first.utilization, first.failure_rate), (Some(0.75), 0.0));
    // 25 calls a second, counted in windows of 0.5 s.
    for one in [first, second] {
        assert!(
            (one.rate - 25.0).abs() <= 4.0 && one.age < Duration::from_millis(400),
            "{one:?}"
        );
    }
    assert_eq!(second.failure_rate, second.rate);
    let server = nodes[1].serving.snapshot();
    assert_eq!((server.answered, server.failed, server.utilization), (100, 50, None));
    // A client of one address asks for none, and is sent none.
    let alone = Channel::builder().connect(&format!("mem:{}", names[0])).await.unwrap();
    for _ in 0..20 {
        assert!(who(&alone).name().with_meta().await.unwrap().1.trailers().is_empty());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // What cannot be called again reports nothing.
    drop(nodes);
    until("they are gone", || {
        channel.snapshot().endpoints.iter().all(|one| one.load.is_none())
    })
    .await;
}

/// What a user's balancer says of itself may be anything.
#[derive(Debug)]
struct Odd {
    panics: bool,
}

impl Balancer for Odd {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        RoundRobin.picker(ready)
    }

    fn connects_to(&self) -> ConnectsTo {
        assert!(!self.panics, "clumsy");
        ConnectsTo::All
    }

    fn refresh_interval(&self) -> Option<Duration> {
        Some(Duration::MAX)
    }
}

#[tokio::test(start_paused = true)]
async fn an_odd_balancer_stops_nobody() {
    let (names, _nodes) = nodes::<3>().await;
    for panics in [false, true] {
        let channel = Channel::builder().balancer(Odd { panics }).zone("z").connect(&fixed(&names)).await.unwrap();
        assert_eq!(spread(&channel, 30).await.into_values().collect::<Vec<_>>(), [10; 3]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_need_not_tell_how_much_it_has_to_do() {
    let [name] = names();
    let named = Named {
        name: name.clone(),
        let_go: Arc::default(),
        fails: Arc::default(),
    };
    let server = Server::builder().service(WhoServer::new(named)).report_load(false).bind(format!("mem:{name}"));
    let _serving = server.start().await.unwrap();
    let channel = Channel::connect(&fixed(&[name])).await.unwrap();
    for _ in 0..50 {
        spread(&channel, 1).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(channel.snapshot().endpoints[0].load, None);
}

#[test]
fn a_zone_or_a_balancer_of_one_address_is_an_error() {
    let wrong = Channel::builder().zone("a").lazy("mem:somewhere").unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    assert!(wrong.message().contains("`.zone(\"a\")` would do nothing"), "{wrong}");
    // By name, too.
    let config = ServiceConfig::from_json(r#"{ "balancer": "weighted_round_robin" }"#).unwrap();
    assert!(Channel::builder().service_config(config).balancer(LeastRequest).lazy("static:///mem:a").is_ok());
    let wrong = ServiceConfig::from_json(r#"{ "prefer_zone": "yes" }"#).unwrap_err();
    assert_eq!(wrong.to_string(), "`prefer_zone` must be true or false, not \"yes\"");
}
