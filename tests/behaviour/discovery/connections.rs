//! Several connections to one endpoint.

use std::time::Duration;

use sinew::{Channel, Code, Server, Serving};
use tokio::task::JoinSet;

use super::{Named, Node, WhoServer, fixed, names, nodes, spread, who};
use crate::support::until;

/// A channel that may have so many connections to each of these.
async fn channel(names: &[String], max: usize) -> Channel {
    Channel::builder().connections_per_endpoint(max).connect(&fixed(names)).await.unwrap()
}

/// So many calls that wait until they are let go.
fn hold(channel: &Channel, calls: usize) -> JoinSet<Result<String, sinew::Status>> {
    (0..calls).map(|_| who(channel).hold().detached().into_future()).collect()
}

fn connections(channel: &Channel) -> usize {
    channel.snapshot().endpoints[0].connections
}

async fn let_go(node: &Node, held: JoinSet<Result<String, sinew::Status>>) {
    until("all run", || node.serving.running_handlers() == held.len()).await;
    node.let_go.notify_waiters();
    assert!(held.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_crowded_connection_is_joined_by_others_until_they_are_idle() {
    let (names, nodes) = nodes::<1>().await;
    let channel = channel(&names, 3).await;
    let mut held = JoinSet::new();
    // The call that fills a connection has another one made; further ones than three are not.
    for (calls, wanted) in [(99, 1), (1, 2), (99, 2), (1, 3), (300, 3)] {
        for _ in 0..calls {
            held.spawn(who(&channel).hold().detached().into_future());
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        let running = nodes[0].serving.running_handlers();
        assert_eq!(
            (connections(&channel), running),
            (wanted, held.len()),
            "after {} calls",
            held.len()
        );
    }
    assert_eq!(nodes[0].serving.connections(), 3);
    let_go(&nodes[0], held).await;
    assert_eq!(channel.snapshot().endpoints[0].in_flight, 0);
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!((nodes[0].serving.connections(), connections(&channel)), (1, 1));
    // They come again when they are needed.
    let held = hold(&channel, 101);
    until("another one is there", || connections(&channel) == 2).await;
    let_go(&nodes[0], held).await;
    channel.shut_down();
    until("all are closed", || nodes[0].serving.connections() == 0).await;
}

/// Calls above a server's limit do not stand in line where another connection has room.
#[tokio::test(start_paused = true)]
async fn what_a_server_takes_on_a_connection_crowds_it() {
    let [name] = names();
    let named = Named {
        name: name.clone(),
        let_go: std::sync::Arc::default(),
        fails: std::sync::Arc::default(),
    };
    let let_go = std::sync::Arc::clone(&named.let_go);
    let server = Server::builder()
        .service(WhoServer::new(named))
        .max_calls_per_connection(3)
        .bind(format!("mem:{name}"));
    let serving: Serving = server.start().await.unwrap();
    let channel = channel(std::slice::from_ref(&name), 4).await;
    // All at once: those that have to stand in line go over to the connections that come.
    let held = hold(&channel, 8);
    until("all run", || serving.running_handlers() == 8).await;
    assert!((3..=4).contains(&serving.connections()), "{}", serving.connections());
    let_go.notify_waiters();
    assert!(held.join_all().await.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_goes_takes_all_of_its_connections_along() {
    let (names, mut nodes) = nodes::<2>().await;
    let channel = channel(&names, 2).await;
    let mut held = hold(&channel, 500);
    until("there are more", || {
        nodes.iter().all(|node| node.serving.connections() == 2)
    })
    .await;
    let gone = nodes.remove(0);
    drop(gone);
    // Those that ran there have failed; the others go on, and new calls are answered.
    let mut failed = 0;
    while failed < 200 {
        let ended = held.join_next().await.unwrap().unwrap();
        assert_eq!(ended.unwrap_err().code(), Code::Unavailable);
        failed += 1;
    }
    assert_eq!(spread(&channel, 50).await.len(), 1);
    nodes[0].let_go.notify_waiters();
    let rest = held.join_all().await;
    assert!(
        rest.iter().filter(|ended| ended.is_ok()).count() >= 200,
        "{}",
        rest.len()
    );
    assert_eq!(
        channel.snapshot().endpoints.iter().map(|one| one.in_flight).sum::<u32>(),
        0
    );
}

#[test]
fn a_number_of_connections_that_makes_no_sense_is_an_error() {
    for (max, target, hint) in [
        (
            0,
            "static:///mem:a",
            "connections_per_endpoint is 0; it must be 1 to 16",
        ),
        (
            17,
            "static:///mem:a",
            "connections_per_endpoint is 17; it must be 1 to 16",
        ),
        (2, "mem:a", "call it as static:///mem:a"),
    ] {
        let wrong = Channel::builder().connections_per_endpoint(max).lazy(target).unwrap_err();
        assert!(
            wrong.code() == Code::InvalidArgument && wrong.message().contains(hint),
            "{wrong}"
        );
    }
    assert!(Channel::builder().connections_per_endpoint(16).lazy("static:///mem:a").is_ok());
}
