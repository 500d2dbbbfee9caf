//! Configuration that changes while calls run.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use sinew::{
    BalancerChoice, Channel, Code, ConfigPublisher, ConfigSource, FileConfig, Instance, MemRegistry, RoundRobin, Route,
    ServiceConfig, Status,
};
use tokio::sync::watch;

use super::{Node, endpoint, fixed, names, nodes, registry_of, spread, who};
use crate::support::bounded;

/// A source that a test speaks through.
#[derive(Clone)]
pub(crate) struct Said(Arc<watch::Sender<String>>);

impl Said {
    pub(crate) fn new(text: &str) -> Self {
        Self(Arc::new(watch::Sender::new(text.to_owned())))
    }

    /// How many follow it.
    pub(crate) fn followers(&self) -> usize {
        self.0.receiver_count()
    }

    pub(crate) async fn say(&self, text: &str) {
        self.0.send_replace(text.to_owned());
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

impl ConfigSource for Said {
    fn watch(&self, publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let mut said = self.0.subscribe();
        Box::pin(async move {
            loop {
                let text = said.borrow_and_update().clone();
                publisher.publish_json(&text);
                if said.changed().await.is_err() {
                    return;
                }
            }
        })
    }
}

/// The deadline passes while the handler holds.
async fn times_out_after(channel: &Channel) -> Duration {
    let begun = tokio::time::Instant::now();
    let status = who(channel).hold().await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    begun.elapsed()
}

fn about(duration: Duration, millis: u64) -> bool {
    (millis..millis + 10).contains(&u64::try_from(duration.as_millis()).unwrap())
}

#[tokio::test(start_paused = true)]
async fn time_outs_change_with_the_next_call() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let said = Said::new(r#"{"timeout": "3s"}"#);
    let channel = Channel::builder().config_source(said.clone()).connect(&fixed(&[name])).await.unwrap();
    assert!(about(times_out_after(&channel).await, 3_000));
    said.say(r#"{"timeout": "3s", "methods": {"hold": {"timeout": "200ms"}}}"#).await;
    assert!(about(times_out_after(&channel).await, 200));
    // A call's own is the shorter one.
    let begun = tokio::time::Instant::now();
    who(&channel).hold().timeout("50ms").await.unwrap_err();
    assert!(about(begun.elapsed(), 50));
    // What cannot be read changes nothing, and what is taken away is as it was before.
    said.say(r#"{"timeout": "3s", "methods": {"hold": {"timeuot": "7s"}}}"#).await;
    assert!(about(times_out_after(&channel).await, 200));
    said.say("{}").await;
    assert!(about(times_out_after(&channel).await, 10_000));
}

#[tokio::test(start_paused = true)]
async fn layers_lie_over_each_other() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let (lower, upper) = (Said::new("{}"), Said::new("{}"));
    let channel = Channel::builder()
        .service_config(ServiceConfig::new().timeout(Duration::from_secs(1)))
        .config_source(lower.clone())
        .config_source(upper.clone());
    let channel = channel.connect(&fixed(&[name])).await.unwrap();
    for (said, text, millis) in [
        (&lower, "{}", 1_000),
        (&lower, r#"{"timeout": "2s"}"#, 2_000),
        (&upper, r#"{"timeout": "3s"}"#, 3_000),
        (&lower, r#"{"timeout": "4s"}"#, 3_000),
        (&upper, "{}", 4_000),
        (&lower, "{}", 1_000),
    ] {
        said.say(text).await;
        assert!(about(times_out_after(&channel).await, millis), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_connection_where_they_are_told_to() {
    let [name] = names();
    let said = Said::new("{}");
    let channel = Channel::builder().config_source(said.clone()).lazy(&fixed(std::slice::from_ref(&name))).unwrap();
    assert_eq!(who(&channel).name().await.unwrap_err().code(), Code::Unavailable);
    said.say(r#"{"methods": {"name": {"wait_for_ready": true}}}"#).await;
    let waiting = tokio::spawn(who(&channel).name().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let _node = Node::start(&name).await;
    assert_eq!(bounded(waiting).await.unwrap().unwrap(), name);
}

/// The balancer is another one, the calls that run are answered, and none fails.
#[tokio::test(start_paused = true)]
async fn the_balancer_changes_while_calls_run() {
    let (names, nodes) = nodes::<3>().await;
    let said = Said::new("{}");
    let builder = Channel::builder().balancer(RoundRobin).config_source(said.clone());
    let channel = builder.connect(&fixed(&names)).await.unwrap();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(tokio::spawn(who(&channel).hold().into_future()));
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(nodes.iter().all(|node| node.serving.running_handlers() == 1));
    said.say(r#"{"balancer": "pick_first"}"#).await;
    assert_eq!(spread(&channel, 30).await.len(), 1);
    said.say(r#"{"balancer": {"consistent_hash": {"metadata_key": "tenant"}}}"#).await;
    let mut owners = BTreeMap::<u32, BTreeSet<String>>::new();
    for call in 0..90 {
        let owner = who(&channel).name().metadata("tenant", (call % 30).to_string()).await.unwrap();
        owners.entry(call % 30).or_default().insert(owner);
    }
    assert!(
        owners.values().all(|owners| owners.len() == 1),
        "each tenant has one server: {owners:?}"
    );
    let servers: BTreeSet<_> = owners.values().flatten().collect();
    assert_eq!(servers.len(), 3, "{owners:?}");
    said.say("{}").await;
    assert_eq!(spread(&channel, 30).await.len(), 3);
    nodes.iter().for_each(|node| node.let_go.notify_waiters());
    for held in held {
        bounded(held).await.unwrap().unwrap();
    }
}

fn canaries(registry: &MemRegistry, names: &[String]) {
    registry.put("discovery.Who", endpoint(&names[0]).with_label("track", "canary"));
}

/// One in a hundred to one of three; rolled back by one write.
#[tokio::test(start_paused = true)]
async fn routes_share_calls_out_by_label() {
    let (names, mut nodes) = nodes::<3>().await;
    let registry = registry_of(&names);
    canaries(&registry, &names);
    let said = Said::new(r#"{"routes": [{"labels": {"track": "canary"}, "weight": 1}, {"weight": 99}]}"#);
    let builder = Channel::builder().resolver(registry.resolver("discovery.Who")).config_source(said.clone());
    let channel = builder.connect("discovery.Who").await.unwrap();
    let calls = 100_000;
    let seen = spread(&channel, calls).await;
    let share = seen[&names[0]] as f64 / calls as f64;
    assert!((0.007..=0.013).contains(&share), "{share}");
    assert!(seen[&names[1]] > calls / 3 && seen[&names[2]] > calls / 3, "{seen:?}");
    // The canary takes no new calls, and the one that runs is answered.
    said.say(r#"{"routes": [{"labels": {"track": "canary"}, "weight": 1}, {"weight": 0}]}"#).await;
    let held = tokio::spawn(who(&channel).hold().into_future());
    tokio::time::sleep(Duration::from_millis(10)).await;
    said.say(r#"{"routes": [{"labels": {"track": "canary"}, "weight": 0}, {"weight": 100}]}"#).await;
    assert!(!spread(&channel, 1_000).await.contains_key(&names[0]));
    nodes[0].let_go.notify_waiters();
    assert_eq!(bounded(held).await.unwrap().unwrap(), names[0]);
    // Its share goes to the others when nobody is left of a route.
    said.say(r#"{"routes": [{"labels": {"track": "canary"}, "weight": 1}, {"weight": 99}]}"#).await;
    drop(nodes.remove(0));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(spread(&channel, 1_000).await.len(), 2);
    // A route to nobody is told.
    said.say(r#"{"routes": [{"labels": {"track": "blue"}, "weight": 1}]}"#).await;
    let refused = who(&channel).name().await.unwrap_err();
    assert!(refused.message().contains("no route leads to them"), "{refused}");
}

/// Where one endpoint has all calls, it is one of the route with the most.
#[tokio::test(start_paused = true)]
async fn one_endpoint_for_all_calls_is_no_canary() {
    let (names, _nodes) = nodes::<3>().await;
    let registry = registry_of(&names);
    canaries(&registry, &names);
    let routes = [Route::new(1).label("track", "canary"), Route::new(99)];
    let config = ServiceConfig::new().balancer(BalancerChoice::PickFirst).routes(routes);
    let builder = Channel::builder().resolver(registry.resolver("discovery.Who")).service_config(config);
    let channel = builder.connect("discovery.Who").await.unwrap();
    let seen = spread(&channel, 100).await;
    assert!(seen.len() == 1 && !seen.contains_key(&names[0]), "{seen:?}");
}

/// Settings that go with each other, in any order.
#[tokio::test(start_paused = true)]
async fn settings_in_code_add_up() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let config = || ServiceConfig::new().timeout(Duration::from_secs(3)).slow_start(Duration::MAX);
    for builder in [
        Channel::builder().slow_start("7s").service_config(config()),
        Channel::builder().service_config(config()).slow_start("7s"),
    ] {
        let channel = builder.connect(&fixed(std::slice::from_ref(&name))).await.unwrap();
        let expected = config().slow_start(Duration::from_secs(7));
        assert_eq!(channel.snapshot().config, expected);
        assert!(about(times_out_after(&channel).await, 3_000));
    }
    // The longest that can be asked for is no trouble either.
    let channel = Channel::builder().service_config(config()).connect(&fixed(&[name])).await.unwrap();
    spread(&channel, 3).await;
}

#[tokio::test(start_paused = true)]
async fn weights_are_the_configurations_business_too() {
    let names: [String; 2] = names();
    let (_one, _two) = (Node::start(&names[0]).await, Node::start(&names[1]).await);
    let config = ServiceConfig::new().weight(format!("mem:{}", names[0]), 300);
    let builder = Channel::builder().balancer(RoundRobin).service_config(config);
    let channel = builder.connect(&fixed(&names)).await.unwrap();
    assert_eq!(spread(&channel, 400).await[&names[0]], 300);
    let config = ServiceConfig::new().routes([Route::new(1)]).weight(format!("mem:{}", names[0]), 0);
    let channel = Channel::builder().service_config(config).connect(&fixed(&names)).await.unwrap();
    assert_eq!(spread(&channel, 40).await[&names[1]], 40);
}

/// A new one grows into its share; those of the start grow side by side.
#[tokio::test(start_paused = true)]
async fn a_new_endpoint_starts_slowly() {
    let registry = MemRegistry::new();
    let [old, new] = names();
    let _old = Node::registered(&old, Some(&registry), Instance::new()).await;
    let builder = Channel::builder()
        .resolver(registry.resolver("discovery.Who"))
        .balancer(RoundRobin)
        .slow_start("10s");
    let channel = builder.connect("discovery.Who").await.unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    let _new = Node::registered(&new, Some(&registry), Instance::new()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    for (after, least, most) in [(0, 0.08, 0.13), (5, 0.4, 0.6), (6, 0.99, 1.01)] {
        tokio::time::sleep(Duration::from_secs(after)).await;
        let seen = spread(&channel, 1_100).await;
        let share = seen[&new] as f64 / seen[&old] as f64;
        assert!((least..=most).contains(&share), "after {after} s: {share}");
    }
}

fn temporary(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sinew-{}-{name}", std::process::id()));
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(start_paused = true)]
async fn a_file_is_followed() {
    let names: [String; 2] = names();
    let (_one, _two) = (Node::start(&names[0]).await, Node::start(&names[1]).await);
    let list = temporary("endpoints.json", &format!(r#"["mem:{}"]"#, names[0]));
    let config = temporary("config.json", r#"{"timeout": "2s"}"#);
    let channel = Channel::builder().balancer(RoundRobin).config_source(FileConfig::new(&config));
    let channel = channel.connect(&format!("file://{}", list.display())).await.unwrap();
    assert_eq!(spread(&channel, 10).await.len(), 1);
    assert!(about(times_out_after(&channel).await, 2_000));
    std::fs::write(
        &list,
        format!(r#"["mem:{}", {{"addresses": ["mem:{}"]}}]"#, names[0], names[1]),
    )
    .unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(spread(&channel, 40).await.len(), 2);
    // What cannot be read changes nothing.
    for wrong in ["", "[", "[]", r#"["nowhere"]"#, r#"[{"adresses": []}]"#] {
        std::fs::write(&list, wrong).unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        assert_eq!(spread(&channel, 40).await.len(), 2, "{wrong:?}");
    }
    std::fs::write(&list, format!(r#"["mem:{}"]"#, names[1])).unwrap();
    std::fs::remove_file(&config).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(
        about(times_out_after(&channel).await, 2_000),
        "a file that is gone takes nothing back"
    );
    let failures = channel.snapshot().config_failures;
    assert!(failures[0].contains("config.json cannot be read"), "{failures:?}");
    std::fs::write(&config, "{}").unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(spread(&channel, 10).await.len(), 1);
    assert!(
        about(times_out_after(&channel).await, 10_000),
        "all of it is taken back"
    );
    std::fs::remove_file(&list).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(spread(&channel, 10).await.len(), 1, "the last list stands");
    let gone: Status = Channel::connect(&format!("file://{}", list.display())).await.unwrap_err();
    assert!(gone.message().contains("does not exist"), "{gone}");
}

/// A source that says nothing, or panics, holds calls up for half a second, and no longer.
#[tokio::test(start_paused = true)]
async fn a_silent_source_stops_nobody() {
    struct Silent;
    impl ConfigSource for Silent {
        fn watch(&self, publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async move { publisher.closed().await })
        }
    }
    /// One that panics is begun anew.
    struct Clumsy;
    impl ConfigSource for Clumsy {
        fn watch(&self, _publisher: ConfigPublisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
            Box::pin(async { panic!("clumsy") })
        }
    }
    let [name] = names();
    let _node = Node::start(&name).await;
    let begun = tokio::time::Instant::now();
    let builder = Channel::builder().config_source(Silent).config_source(Clumsy);
    let channel = builder.connect(&fixed(std::slice::from_ref(&name))).await.unwrap();
    assert_eq!(who(&channel).name().await.unwrap(), name);
    assert!(about(begun.elapsed(), 500), "{:?}", begun.elapsed());
    let failures = channel.snapshot().config_failures;
    assert!(failures[0].contains("panicked"), "{failures:?}");
}

#[tokio::test]
async fn a_single_address_has_no_configuration() {
    for builder in [
        Channel::builder().service_config(ServiceConfig::new()),
        Channel::builder().config_source(Said::new("{}")),
        Channel::builder().slow_start("1s"),
    ] {
        let wrong = builder.lazy("127.0.0.1:1").unwrap_err();
        assert!(wrong.message().contains("static:///tcp://127.0.0.1:1"), "{wrong}");
    }
}
