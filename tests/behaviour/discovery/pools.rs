//! Endpoints that come and go, and what calls make of it.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use sinew::{
    Announcements, Backoff, Balancer, Candidate, Channel, Code, ConnectivityState, Cx, Endpoint, EndpointState,
    HandlerRan, Instance, LeastRequest, MemRegistry, PickArgs, PickFirst, Picker, Publisher, Registrar, Resolver,
    RoundRobin, Server, ServerRequest,
};

use super::{Named, Node, WhoServer, endpoint, fixed, names, nodes, registry_of, spread, who};
use crate::support::{bounded, polled_once, until};

/// A channel that takes all in turn, to what the registry knows.
fn in_turn(registry: &MemRegistry) -> Channel {
    let channel = Channel::builder().resolver(registry.resolver("discovery.Who")).balancer(RoundRobin);
    channel.lazy("discovery.Who").unwrap()
}

/// Waits until calls go to exactly these.
async fn until_called(channel: &Channel, wanted: &[&str]) {
    for _ in 0..1_000 {
        let seen = spread(channel, 4 * wanted.len()).await;
        if seen.keys().map(String::as_str).eq(wanted.iter().copied()) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("calls do not go to {wanted:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_go_round_and_go_on_when_a_server_dies() {
    let (names, mut nodes) = nodes::<3>().await;
    let channel = Channel::builder().balancer(RoundRobin).connect(&fixed(&names)).await.unwrap();
    let all = spread(&channel, 30).await;
    assert!(all.len() == 3 && all.values().all(|&calls| calls == 10), "{all:?}");
    // Calls that are sent after its connection is gone go elsewhere, without an error.
    drop(nodes.remove(0));
    until("the channel knows", || nodes[0].serving.connections() == 1).await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let left = spread(&channel, 30).await;
    assert!(left.len() == 2 && !left.contains_key(&names[0]), "{left:?}");
    // It comes back within the backoff, and has its share again.
    let _again = Node::start(&names[0]).await;
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(spread(&channel, 30).await.len(), 3);
}

/// Who waits a minute before it connects again does so within a second when its entry changes, or when the application asks for it.
#[tokio::test(start_paused = true)]
async fn a_change_in_the_registry_and_the_application_end_a_backoff() {
    let slowly = Backoff::try_new(Duration::from_hours(24), 1.0, Duration::from_hours(24)).unwrap();
    let [name] = names();
    let registry = registry_of(std::slice::from_ref(&name));
    let builder = || Channel::builder().backoff(slowly);
    let channel = builder().resolver(registry.resolver("discovery.Who")).lazy("discovery.Who").unwrap();
    let alone = builder().lazy(&format!("mem:{name}")).unwrap();
    let fail = async || {
        for channel in [&channel, &alone] {
            assert_eq!(who(channel).name().await.unwrap_err().code(), Code::Unavailable);
        }
        tokio::time::sleep(Duration::from_mins(1)).await;
    };
    let is_ready = |channel: &Channel| channel.state() == ConnectivityState::Ready;
    fail().await;
    let node = Node::start(&name).await;
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert!(!is_ready(&channel) && !is_ready(&alone));
    registry.put("discovery.Who", endpoint(&name).with_weight(7));
    alone.reset_backoff();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(is_ready(&channel) && is_ready(&alone));
    drop(node);
    until("it is gone", || !is_ready(&channel) && !is_ready(&alone)).await;
    fail().await;
    let _node = Node::start(&name).await;
    channel.reset_backoff();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert!(is_ready(&channel) && !is_ready(&alone));
}

#[tokio::test(start_paused = true)]
async fn the_default_balancer_spreads_calls() {
    let (names, _nodes) = nodes::<4>().await;
    for builder in [Channel::builder(), Channel::builder().balancer(LeastRequest)] {
        let channel = builder.connect(&fixed(&names)).await.unwrap();
        let all = spread(&channel, 400).await;
        assert!(all.len() == 4 && all.values().all(|&calls| calls > 40), "{all:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn servers_register_while_they_serve() {
    let registry = MemRegistry::new();
    let [first, second] = names();
    let channel = in_turn(&registry);
    let refused = who(&channel).name().await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    assert!(
        refused.message().contains("nobody in this process is registered as \"discovery.Who\""),
        "{refused}"
    );
    // One that waits is answered as soon as there is somebody.
    let waiting = tokio::spawn(who(&channel).name().wait_for_ready().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let labelled = Instance::new().zone("z").version("1.2").label("track", "canary").weight(7).name("one");
    let one = Node::registered(&first, Some(&registry), labelled).await;
    assert_eq!(bounded(waiting).await.unwrap().unwrap(), first);
    let [listed] = &registry.list("discovery.Who")[..] else {
        panic!("one is listed")
    };
    assert_eq!(
        (listed.name(), listed.zone(), listed.version(), listed.weight()),
        ("one", "z", "1.2", 7)
    );
    assert_eq!(listed.labels()["track"], "canary");
    assert!(listed.started_unix_ms() > 0 && listed.instance().len() == 16);

    let two = Node::registered(&second, Some(&registry), Instance::new().weight(7)).await;
    let mut both = [first.as_str(), second.as_str()];
    both.sort_unstable();
    until_called(&channel, &both).await;
    // Calls that run are answered, new ones go to the other, and none fails.
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(tokio::spawn(who(&channel).hold().into_future()));
    }
    until("both run", || {
        one.serving.running_handlers() + two.serving.running_handlers() == 2
    })
    .await;
    let let_go = Arc::clone(&one.let_go);
    let ending = tokio::spawn(one.serving.shutdown());
    tokio::task::yield_now().await;
    assert_eq!(registry.list("discovery.Who")[0].state(), EndpointState::Draining);
    until_called(&channel, &[&second]).await;
    assert_eq!(spread(&channel, 20).await[&second], 20);
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    assert_eq!(
        registry.list("discovery.Who").len(),
        1,
        "deleted after the lame-duck time"
    );
    let_go.notify_waiters();
    two.let_go.notify_waiters();
    for held in held {
        bounded(held).await.unwrap().unwrap();
    }
    bounded(ending).await.unwrap();
}

/// Panics at first.
struct Stumbling(MemRegistry, AtomicBool);

impl Registrar for Stumbling {
    fn register(&self, announcements: Announcements) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            assert!(self.1.swap(true, Ordering::SeqCst), "the first time it fails");
            self.0.register(announcements).await;
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_registrar_that_panics_is_begun_anew() {
    let registry = MemRegistry::new();
    let [name] = names();
    let server = Server::builder().service(WhoServer::new(Named::new(&name))).bind(format!("mem:{name}"));
    let serving = server.register(Stumbling(registry.clone(), AtomicBool::new(false))).start().await.unwrap();
    until("it is registered", || registry.list("discovery.Who").len() == 1).await;
    assert_eq!(spread(&in_turn(&registry), 1).await[&name], 1);
    serving.shutdown().await;
    assert!(registry.list("discovery.Who").is_empty());
}

#[tokio::test]
async fn a_server_without_a_name_is_not_registered() {
    let upstream = Channel::lazy("mem:nowhere").unwrap();
    let proxy = move |cx: Cx, request: ServerRequest| {
        let upstream = upstream.clone();
        async move { upstream.forward(&cx, request).await }
    };
    let error = Server::builder().fallback(proxy).register(MemRegistry::new()).start().await.unwrap_err();
    assert!(error.to_string().contains("no name to register it under"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn pick_first_takes_the_first_that_is_there_and_keeps_it() {
    let names: [String; 3] = names();
    let second = Node::start(&names[1]).await;
    let third = Node::start(&names[2]).await;
    let channel = Channel::builder().balancer(PickFirst).connect(&fixed(&names)).await.unwrap();
    assert_eq!(spread(&channel, 5).await, BTreeMap::from([(names[1].clone(), 5)]));
    assert_eq!(third.serving.connections(), 0, "it was not needed");
    let first = Node::start(&names[0]).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(spread(&channel, 5).await, BTreeMap::from([(names[1].clone(), 5)]));
    assert_eq!(first.serving.connections(), 0, "nobody looks for a better one");
    drop(second);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(spread(&channel, 5).await, BTreeMap::from([(names[0].clone(), 5)]));
}

#[tokio::test(start_paused = true)]
async fn weights_hold_and_change() {
    let names: [String; 2] = names();
    let nodes = [Node::start(&names[0]).await, Node::start(&names[1]).await];
    let registry = registry_of(&names);
    let channel = in_turn(&registry);
    channel.wait_ready().await.unwrap();
    let weigh = |weight| registry.put("discovery.Who", endpoint(&names[0]).with_weight(weight));
    weigh(300);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(spread(&channel, 100).await[&names[0]], 75);
    weigh(0);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(spread(&channel, 100).await, BTreeMap::from([(names[1].clone(), 100)]));
    weigh(100);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(spread(&channel, 100).await[&names[0]], 50);
    assert!(nodes.iter().all(|node| node.serving.connections() == 1));
    for name in &names {
        registry.put("discovery.Who", endpoint(name).with_weight(0));
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    let nobody = who(&channel).name().await.unwrap_err();
    assert!(nobody.message().contains("2 of them, have weight 0"), "{nobody}");
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_is_removed_answers_what_runs() {
    let names: [String; 2] = names();
    let nodes = [Node::start(&names[0]).await, Node::start(&names[1]).await];
    let registry = registry_of(&names[..1]);
    let channel = in_turn(&registry);
    let mut streamed = who(&channel).names().await.unwrap();
    assert_eq!(streamed.next().await.unwrap().unwrap(), names[0]);
    let held = tokio::spawn(who(&channel).hold().into_future());
    until("it runs", || nodes[0].serving.running_handlers() >= 1).await;
    registry.put("discovery.Who", endpoint(&names[1]));
    registry.remove("discovery.Who", &format!("mem:{}", names[0]));
    until_called(&channel, &[&names[1]]).await;
    assert_eq!(spread(&channel, 50).await[&names[1]], 50);
    for _ in 0..1_000 {
        assert_eq!(streamed.next().await.unwrap().unwrap(), names[0]);
    }
    nodes[0].let_go.notify_waiters();
    assert_eq!(bounded(held).await.unwrap().unwrap(), names[0]);
    assert_eq!(nodes[0].serving.connections(), 1, "the stream goes on");
    drop(streamed);
    until("its connection is closed with its last call", || {
        nodes[0].serving.connections() == 0
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_channel_is_the_end_of_all_its_calls() {
    let names: [String; 2] = names();
    let nodes = [Node::start(&names[0]).await, Node::start(&names[1]).await];
    let registry = registry_of(&names[..1]);
    let channel = in_turn(&registry);
    let removed = tokio::spawn(who(&channel).hold().into_future());
    until("it runs", || nodes[0].serving.running_handlers() == 1).await;
    registry.put("discovery.Who", endpoint(&names[1]));
    registry.remove("discovery.Who", &format!("mem:{}", names[0]));
    until_called(&channel, &[&names[1]]).await;
    let listed = tokio::spawn(who(&channel).hold().into_future());
    until("it runs", || nodes[1].serving.running_handlers() == 1).await;
    channel.shut_down();
    for held in [removed, listed] {
        let status = bounded(held).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert!(status.message().ends_with("the channel was closed"), "{status}");
    }
    assert_eq!(channel.state(), ConnectivityState::Shutdown);
    assert_eq!(
        who(&channel).name().await.unwrap_err().message(),
        "the channel was closed"
    );
    until("all connections are gone", || {
        nodes.iter().all(|node| node.serving.connections() == 0)
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn when_nobody_is_there_the_last_cause_is_told() {
    let names: [String; 2] = names();
    let target = fixed(&names);
    let failed = Channel::connect(&target).await.unwrap_err();
    assert_eq!(
        (failed.code(), failed.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    let told = failed.message();
    assert!(
        told.starts_with(&format!(
            "none of the 2 endpoints of {target} can be reached: cannot reach mem:"
        )),
        "{told}"
    );
    assert!(told.ends_with("in this process"), "{told}");
    let channel = Channel::lazy(&target).unwrap();
    let failed = who(&channel).name().await.unwrap_err();
    assert!(failed.message().starts_with("none of the 2"), "{failed}");
    let late = who(&channel).name().wait_for_ready().timeout("30s").await.unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
    assert!(
        late.message().contains("waiting for a connection: none of the 2"),
        "{late}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_not_used_rests() {
    let names: [String; 2] = names();
    let nodes = [Node::start(&names[0]).await, Node::start(&names[1]).await];
    let channel = Channel::builder().idle_timeout("10s").connect(&fixed(&names)).await.unwrap();
    until("both are connected", || {
        nodes.iter().all(|node| node.serving.connections() == 1)
    })
    .await;
    let held = tokio::spawn(who(&channel).hold().timeout("10m").into_future());
    until("it runs", || {
        nodes.iter().any(|node| node.serving.running_handlers() == 1)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(channel.state(), ConnectivityState::Ready, "a call runs");
    nodes.iter().for_each(|node| node.let_go.notify_waiters());
    bounded(held).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(channel.state(), ConnectivityState::Idle);
    until("nobody is connected", || {
        nodes.iter().all(|node| node.serving.connections() == 0)
    })
    .await;
    spread(&channel, 1).await;
    assert_eq!(channel.state(), ConnectivityState::Ready);
}

/// Publishes one endpoint, and panics the first time.
struct Clumsy {
    endpoint: Endpoint,
    begun: Arc<AtomicUsize>,
}

impl Resolver for Clumsy {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        let first = self.begun.fetch_add(1, Ordering::SeqCst) == 0;
        Box::pin(async move {
            assert!(!first, "clumsy");
            publisher.publish(vec![self.endpoint.clone()]);
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_is_begun_anew() {
    let [name] = names();
    let _node = Node::start(&name).await;
    let begun = Arc::<AtomicUsize>::default();
    let clumsy = Clumsy {
        endpoint: endpoint(&name),
        begun: Arc::clone(&begun),
    };
    let channel = Channel::builder().resolver(clumsy).lazy("discovery.Who").unwrap();
    let failed = who(&channel).name().await.unwrap_err();
    assert!(failed.message().contains("the resolver panicked"), "{failed}");
    assert_eq!(who(&channel).name().wait_for_ready().await.unwrap(), name);
    assert_eq!(begun.load(Ordering::SeqCst), 2);
}

#[test]
fn a_channel_outlives_the_runtime_that_made_it() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let channel = Channel::builder().resolver(MemRegistry::shared().resolver("runtimes")).lazy("runtimes").unwrap();
    for _ in 0..2 {
        let [name] = names();
        let runtime = runtime();
        runtime.block_on(async {
            let _node = Node::start(&name).await;
            MemRegistry::shared().put("runtimes", endpoint(&name).with_name("the-one"));
            // The list of the runtime that is gone may be tried first.
            let answer = who(&channel).name().wait_for_ready();
            assert_eq!(bounded(answer.into_future()).await.unwrap(), name);
        });
    }
}

/// Takes the last of the list, for calls of one method.
#[derive(Debug)]
struct LastForFail;

struct Last(Vec<Candidate>);

impl Balancer for LastForFail {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        Arc::new(Last(ready.to_vec()))
    }
}

impl Picker for Last {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let by_key = args.metadata().and_then(|metadata| metadata.get("to"));
        match by_key {
            Some(to) => self.0.iter().position(|one| one.endpoint().name().ends_with(to)),
            None => Some(self.0.len() - 1),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn users_choose_by_their_own_rules() {
    let (names, _nodes) = nodes::<3>().await;
    let channel = Channel::builder().balancer(LastForFail).connect(&fixed(&names)).await.unwrap();
    assert_eq!(spread(&channel, 5).await, BTreeMap::from([(names[2].clone(), 5)]));
    for name in &names {
        assert_eq!(&who(&channel).name().metadata("to", name).await.unwrap(), name);
    }
    // Whom it cannot find is nobody, which is no panic; the call waits for a change.
    let mut lost = who(&channel).name().metadata("to", "nobody").timeout("1s").into_future();
    assert!(polled_once(&mut lost).await.is_pending());
    assert_eq!(lost.await.unwrap_err().code(), Code::DeadlineExceeded);
}

/// One that fails everything at once is idle and fast, and must not draw the calls of the others for that.
#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_does_not_draw_calls() {
    let (names, nodes) = nodes::<4>().await;
    let channel = Channel::builder().connect(&fixed(&names)).await.unwrap();
    spread(&channel, 100).await;
    nodes[1].fails.store(true, Ordering::SeqCst);
    let mut failed = 0;
    for _ in 0..400 {
        failed += usize::from(who(&channel).name().await.is_err());
    }
    assert!((1..=5).contains(&failed), "{failed}");
    nodes[1].fails.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(6)).await;
    let all = spread(&channel, 400).await;
    assert!(all.len() == 4 && all[&names[1]] > 40, "{all:?}");
}

/// Whoever is about to leave still serves, and is better than nobody.
#[tokio::test(start_paused = true)]
async fn the_last_one_is_called_until_it_has_left() {
    let names: [String; 1] = names();
    let _node = Node::start(&names[0]).await;
    let registry = registry_of(&names);
    let channel = in_turn(&registry);
    channel.wait_ready().await.unwrap();
    registry.put("discovery.Who", endpoint(&names[0]).with_state(EndpointState::Draining));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(spread(&channel, 10).await[&names[0]], 10);
}

/// What was known before a long rest is tried, and found wanting, without a failed call.
#[tokio::test(start_paused = true)]
async fn an_old_list_fails_no_call() {
    let names: [String; 2] = names();
    let registry = registry_of(&names[..1]);
    let first = Node::start(&names[0]).await;
    let resolver = registry.resolver("discovery.Who");
    let slow = Slow(resolver);
    let channel = Channel::builder().idle_timeout("10s").resolver(slow).lazy("discovery.Who").unwrap();
    assert_eq!(spread(&channel, 1).await[&names[0]], 1);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(channel.state(), ConnectivityState::Idle);
    drop(first);
    let _second = Node::start(&names[1]).await;
    registry.put("discovery.Who", endpoint(&names[1]));
    registry.remove("discovery.Who", &format!("mem:{}", names[0]));
    assert_eq!(spread(&channel, 1).await[&names[1]], 1);
}

/// A resolver that takes a while to answer.
struct Slow<R>(R);

impl<R: Resolver> Resolver for Slow<R> {
    fn watch(&self, publisher: Publisher) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(500)).await;
            self.0.watch(publisher).await;
        })
    }
}
