//! Servers that say how they are, and clients that act on it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sinew::transport::ByteStream;
use sinew::{
    Channel, Code, ConnectivityState, Cx, HandlerRan, HealthCheck, HealthStatus, Next, Outcome, PickFirst, RoundRobin,
    Server, Serving, interceptor,
};

use super::{Node, WhoServer, fixed, names, nodes, registry_of, spread, who};
use crate::support::bounded;
use crate::support::hand::{END, FIN, Hand, REPLY, message};

async fn in_turn(names: &[String], check: HealthCheck) -> Channel {
    Channel::builder().balancer(RoundRobin).health_check(check).connect(&fixed(names)).await.unwrap()
}

/// Who is called, once what was said has arrived.
async fn called(channel: &Channel) -> Vec<String> {
    tokio::time::sleep(Duration::from_millis(100)).await;
    spread(channel, 12).await.into_keys().collect()
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names
}

#[tokio::test(start_paused = true)]
async fn calls_go_to_those_that_serve() {
    let (names, nodes) = nodes::<3>().await;
    let channel = in_turn(&names, HealthCheck::watch()).await;
    assert_eq!(called(&channel).await, sorted(&names));
    nodes[0].serving.health().set_overall(HealthStatus::NotServing);
    assert_eq!(called(&channel).await, sorted(&names[1..]));
    nodes[0].serving.health().set_overall(HealthStatus::Serving);
    assert_eq!(called(&channel).await, sorted(&names));
}

#[tokio::test(start_paused = true)]
async fn nobody_serves_and_callers_are_told_why() {
    let (names, nodes) = nodes::<2>().await;
    let channel = in_turn(&names, HealthCheck::default()).await;
    for node in &nodes {
        node.serving.health().set_overall(HealthStatus::NotServing);
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(channel.state(), ConnectivityState::TransientFailure);
    let refused = who(&channel).name().await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    assert!(
        refused.message().contains("says of its health: not serving"),
        "{refused}"
    );
    // One that waits is answered once somebody serves again.
    let waiting = tokio::spawn(who(&channel).name().wait_for_ready().into_future());
    tokio::time::sleep(Duration::from_secs(1)).await;
    nodes[1].serving.health().set_overall(HealthStatus::Serving);
    assert_eq!(bounded(waiting).await.unwrap().unwrap(), names[1]);
}

#[tokio::test(start_paused = true)]
async fn one_service_of_a_server_may_be_down() {
    let (names, nodes) = nodes::<2>().await;
    let registry = registry_of(&names);
    let resolver = || Channel::builder().resolver(registry.resolver("discovery.Who")).balancer(RoundRobin);
    let channel = resolver().health_check(HealthCheck::watch().service("discovery.Who"));
    let channel = channel.connect("discovery.Who").await.unwrap();
    nodes[0].serving.health().set("discovery.Other", HealthStatus::NotServing);
    assert_eq!(called(&channel).await, sorted(&names));
    nodes[0].serving.health().set("discovery.Who", HealthStatus::NotServing);
    assert_eq!(called(&channel).await, names[1..]);
    // A service that nobody has is nobody's.
    let wrong = resolver()
        .health_check(HealthCheck::watch().service("discovery.Whom"))
        .lazy("discovery.Who")
        .unwrap();
    let refused = who(&wrong).name().await.unwrap_err();
    assert!(refused.message().contains("service unknown"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn whoever_does_not_ask_does_not_know() {
    let (names, nodes) = nodes::<2>().await;
    let channel = in_turn(&names, HealthCheck::off()).await;
    nodes[0].serving.health().set_overall(HealthStatus::NotServing);
    assert_eq!(called(&channel).await, sorted(&names));
}

#[tokio::test(start_paused = true)]
async fn probes_find_out_within_their_interval() {
    let (names, nodes) = nodes::<2>().await;
    let channel = in_turn(&names, HealthCheck::probe("2s").service("discovery.Who")).await;
    nodes[0].serving.health().set_overall(HealthStatus::NotServing);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(called(&channel).await, names[1..]);
    nodes[0].serving.health().set_overall(HealthStatus::Serving);
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(called(&channel).await, sorted(&names));
}

/// Nothing but the connection tells a static list that a server leaves: calls go elsewhere from the start of the lame-duck time on.
#[tokio::test(start_paused = true)]
async fn a_server_that_shuts_down_is_left_before_it_leaves() {
    for pick_first in [false, true] {
        let (names, mut nodes) = nodes::<2>().await;
        let builder = Channel::builder();
        let builder = if pick_first {
            builder.balancer(PickFirst)
        } else {
            builder.balancer(RoundRobin)
        };
        let channel = builder.connect(&fixed(&names)).await.unwrap();
        spread(&channel, 4).await;
        let leaving = tokio::spawn(nodes.remove(0).serving.shutdown());
        assert_eq!(called(&channel).await, names[1..]);
        bounded(leaving).await.unwrap();
        assert_eq!(called(&channel).await, names[1..]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_last_one_is_called_until_it_leaves() {
    let (names, mut nodes) = nodes::<1>().await;
    let channel = in_turn(&names, HealthCheck::watch()).await;
    let begun = tokio::time::Instant::now();
    let leaving = tokio::spawn(nodes.remove(0).serving.shutdown());
    assert_eq!(called(&channel).await, names);
    bounded(leaving).await.unwrap();
    // The watch is a stream, but none that a drain waits for.
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

static SEEN: AtomicUsize = AtomicUsize::new(0);

#[interceptor]
async fn seeing(cx: &mut Cx, next: impl Next) -> Outcome {
    SEEN.fetch_add(1, Ordering::SeqCst);
    next.run(cx).await
}

async fn server_with_interceptor() -> Serving {
    let service = super::Named {
        name: "x".to_owned(),
        let_go: Arc::default(),
        fails: Arc::default(),
    };
    let [name] = names();
    let server = Server::builder().service(WhoServer::new(service)).interceptor(seeing);
    server.bind(format!("mem:{name}")).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_server_can_be_asked_whatever_stands_before_its_services() {
    let serving = server_with_interceptor().await;
    let channel = Channel::connect(&serving.target()).await.unwrap();
    for (service, status) in [
        ("", HealthStatus::Serving),
        ("discovery.Who", HealthStatus::Serving),
        ("discovery.Whom", HealthStatus::ServiceUnknown),
    ] {
        assert_eq!(channel.health_of(service).await.unwrap(), status, "{service:?}");
    }
    let mut watched = channel.watch_health("discovery.Who").await.unwrap();
    assert_eq!(watched.next().await.unwrap().unwrap(), HealthStatus::Serving);
    serving.health().set("discovery.Who", HealthStatus::NotServing);
    assert_eq!(watched.next().await.unwrap().unwrap(), HealthStatus::NotServing);
    assert_eq!((serving.running_handlers(), SEEN.load(Ordering::SeqCst)), (0, 0));
    who(&channel).name().await.unwrap();
    assert_eq!(SEEN.load(Ordering::SeqCst), 1, "it sees calls");
    serving.health().set("discovery.Who", HealthStatus::Serving);
    assert_eq!(watched.next().await.unwrap().unwrap(), HealthStatus::Serving);
    let leaving = tokio::spawn(serving.shutdown());
    assert_eq!(watched.next().await.unwrap().unwrap(), HealthStatus::Draining);
    assert!(watched.next().await.is_none());
    bounded(leaving).await.unwrap();
}

/// Whoever has a fallback may have any service.
#[tokio::test(start_paused = true)]
async fn a_proxy_serves_what_it_does_not_know() {
    let [name, upstream] = names();
    let _upstream = Node::start(&upstream).await;
    let to = Channel::lazy(&format!("mem:{upstream}")).unwrap();
    let proxy = move |cx: Cx, request: sinew::ServerRequest| {
        let to = to.clone();
        async move { to.forward(&cx, request).await }
    };
    let _proxy = Server::builder().fallback(proxy).bind(format!("mem:{name}")).start().await.unwrap();
    let check = HealthCheck::watch().service("discovery.Who");
    let channel = Channel::builder().health_check(check).connect(&fixed(&[name])).await.unwrap();
    assert_eq!(who(&channel).name().await.unwrap(), upstream);
}

/// What it said stands, whatever becomes of the question.
#[tokio::test]
async fn a_question_that_fails_changes_nothing() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("static:///{}", listener.local_addr().unwrap());
    let (asked_again, asked) = tokio::sync::oneshot::channel();
    let (go_on, may_fail) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        let mut hand = Hand::greet(ByteStream::tcp(stream, peer), &[]).await;
        let watch = hand.request().await.unwrap();
        // NOT_SERVING, and then INTERNAL, now and the next time.
        hand.reply(REPLY, watch, &message(&[2])).await;
        may_fail.await.unwrap();
        hand.send(END | FIN, watch, &[13, 0, 0, 0]).await;
        let watch = hand.request().await.unwrap();
        hand.send(END | FIN, watch, &[13, 0, 0, 0]).await;
        asked_again.send(()).unwrap();
        while hand.request().await.is_some() {}
    });
    let channel = Channel::lazy(&target).unwrap();
    let refused = bounded(who(&channel).name().into_future()).await.unwrap_err();
    assert!(refused.message().contains("not serving"), "{refused}");
    go_on.send(()).unwrap();
    bounded(asked).await.unwrap();
    let refused = bounded(who(&channel).name().into_future()).await.unwrap_err();
    assert!(refused.message().contains("not serving"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn names_that_are_asked_for_are_bounded() {
    let (names, _nodes) = nodes::<1>().await;
    let channel = Channel::connect(&format!("mem:{}", names[0])).await.unwrap();
    for (length, code) in [(254, None), (255, None), (256, Some(Code::InvalidArgument))] {
        let asked = channel.health_of(&"x".repeat(length)).await;
        assert_eq!(asked.as_ref().err().map(sinew::Status::code), code, "{length}");
        let watched = channel.watch_health(&"x".repeat(length)).await;
        assert_eq!(watched.as_ref().err().map(sinew::Status::code), code, "{length}");
    }
}

#[tokio::test]
async fn settings_that_would_do_nothing_are_refused() {
    let one = Channel::builder().health_check(HealthCheck::watch()).lazy("127.0.0.1:1").unwrap_err();
    assert!(one.message().contains("Channel::health_of"), "{one}");
    for every in ["0s", "soon", "400d"] {
        let wrong = Channel::builder()
            .health_check(HealthCheck::probe(every))
            .lazy("static:///127.0.0.1:1")
            .unwrap_err();
        assert!(wrong.message().contains("health_check"), "{wrong}");
    }
}

/// A server that knows nothing of health, or says nothing of it: answers the first call it gets as `told`, and the others.
async fn old_server(told: Option<&'static [u8]>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        let mut hand = Hand::greet(ByteStream::tcp(stream, peer), &[]).await;
        let asked = hand.request().await.unwrap();
        if let Some(told) = told {
            hand.send(END | FIN, asked, told).await;
        }
        while let Some(stream) = hand.request().await {
            hand.reply(REPLY | FIN, stream, &message(b"\xa3old")).await;
        }
    });
    format!("static:///{address}")
}

#[tokio::test]
async fn a_server_that_does_not_know_the_question_serves() {
    // UNIMPLEMENTED, the handler did not run, no message, no trailers.
    let channel = Channel::connect(&old_server(Some(&[12, 0, 0, 0])).await).await.unwrap();
    assert_eq!(bounded(who(&channel).name().into_future()).await.unwrap(), "old");
}

#[tokio::test]
async fn a_server_that_says_nothing_does_not() {
    let channel = Channel::lazy(&old_server(None).await).unwrap();
    let refused = bounded(who(&channel).name().into_future()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(
        refused.message().contains("does not answer when asked for its health"),
        "{refused}"
    );
}

/// The watch is no company for a call, so nobody else looks after its deadline.
#[tokio::test]
async fn a_deadline_holds_beside_the_watch() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = format!("static:///{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let (stream, peer) = listener.accept().await.unwrap();
        let mut hand = Hand::greet(ByteStream::tcp(stream, peer), &[]).await;
        let asked = hand.request().await.unwrap();
        hand.reply(REPLY, asked, &message(&[1])).await;
        // And not a word to any call.
        while hand.request().await.is_some() {}
    });
    let channel = Channel::connect(&target).await.unwrap();
    // Far below what keepalive takes to find out.
    let call = tokio::time::timeout(
        Duration::from_secs(5),
        who(&channel).name().timeout("200ms").into_future(),
    );
    let late = call.await.expect("the deadline passes").unwrap_err();
    assert_eq!(late.code(), Code::DeadlineExceeded);
}

/// One call at a time is all that such a server takes: the watch must not be that one.
#[tokio::test(start_paused = true)]
async fn a_server_that_takes_one_call_at_a_time_is_asked_once() {
    let [name] = names();
    let service = super::Named {
        name: name.clone(),
        let_go: Arc::default(),
        fails: Arc::default(),
    };
    let server = Server::builder().service(WhoServer::new(service)).max_calls_per_connection(1);
    let serving = server.bind(format!("mem:{name}")).start().await.unwrap();
    let channel = Channel::connect(&fixed(std::slice::from_ref(&name))).await.unwrap();
    assert_eq!(who(&channel).name().await.unwrap(), name);
    drop(serving);
}
