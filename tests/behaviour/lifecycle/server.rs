//! The server's side: binding, draining with and without an end, stopping.

use std::sync::Arc;
use std::time::Duration;

use sinew::{
    Address, Channel, Code, ConnectivityState, Drain, HandlerRan, Server, ServerBuilder, ServerError, Serving, Status,
};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::{WorkerClient, worker};
use crate::support::fixture::{Fixture, socket_path, unique};
use crate::support::hand::{END, FIN, GOAWAY, Hand, OPEN, PING, PONG};
use crate::support::probe::Event;
use crate::support::{bounded, until};

fn drain(lame_duck: &str, within: &str) -> Drain {
    Drain::default().lame_duck(lame_duck).within(within)
}

fn idle_server() -> ServerBuilder {
    let (service, ..) = worker();
    Server::builder().service(service)
}

#[tokio::test]
async fn what_is_bound_is_reported() {
    let path = socket_path();
    let mem = unique("mem:bound");
    let server = idle_server()
        .bind("127.0.0.1:0")
        .bind(format!("unix:{}", path.display()))
        .bind(&mem)
        .bind("[::1]:0");
    let server = server.start().await.unwrap();
    let addresses = server.addresses();
    assert!(matches!(&addresses[0], Address::Tcp { host, port, .. } if host == "127.0.0.1" && *port != 0));
    assert!(matches!(&addresses[1], Address::Unix { path: bound } if *bound == path));
    assert!(matches!(&addresses[3], Address::Tcp { host, port, .. } if host == "::1" && *port != 0));
    for address in addresses {
        let worker = WorkerClient::connect(&address.to_string()).await.unwrap();
        assert_eq!(worker.ping().await.unwrap(), 1, "{address}");
    }
    drop(server);
    until("the socket's file is gone with its server", || !path.exists()).await;
}

#[tokio::test]
async fn what_cannot_be_bound_is_refused_by_name() {
    let refused = async |server: ServerBuilder| {
        let error = server.start().await.unwrap_err();
        let source = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        (error.to_string() + &source, error)
    };
    let (text, _) = refused(idle_server().bind("0.0.0.0:0")).await;
    assert!(text.contains("dangerous_plaintext"), "says what to do: {text}");
    drop(idle_server().bind("0.0.0.0:0").dangerous_plaintext().start().await.unwrap());
    drop(idle_server().bind("0.0.0.0:0?dangerous_plaintext").start().await.unwrap());
    let (text, _) = refused(idle_server().bind("nonsense")).await;
    assert!(text.contains("nonsense"), "{text}");
    let taken = idle_server().bind("127.0.0.1:0").start().await.unwrap();
    let (text, _) = refused(idle_server().bind(taken.target())).await;
    assert!(text.contains(taken.target().trim_start_matches("tcp://")), "{text}");
    for (server, field) in [
        (idle_server().max_connections(0), "max_connections"),
        (idle_server().max_calls_per_connection(0), "max_streams"),
        (idle_server().max_head_bytes(10), "max_head"),
        (idle_server().max_message_bytes(0), "max_message"),
        (idle_server().idle_timeout("never"), "idle_timeout"),
        (idle_server().keepalive("0s", "1s"), "keepalive_interval"),
        (idle_server().keepalive("1s", "soon"), "keepalive_timeout"),
        (
            idle_server().keepalive(Duration::MAX, Duration::MAX),
            "keepalive_timeout",
        ),
        (idle_server().idle_timeout(Duration::MAX), "idle_timeout"),
        (idle_server().drain(drain("soon", "1s")), "drain.lame_duck"),
        (idle_server().drain(drain("0s", "late")), "drain.within"),
        (idle_server().drain(drain("2s", "1s")), "drain.lame_duck"),
        (
            idle_server().drain(Drain::default().within(Duration::MAX)),
            "drain.within",
        ),
        (idle_server().handshake_timeout("soon"), "handshake_timeout"),
    ] {
        let (text, error) = refused(server).await;
        assert!(text.contains(field), "{field}: {text}");
        assert!(matches!(error, ServerError::Config(_) | ServerError::Duration { .. }));
    }
}

#[tokio::test]
async fn a_server_that_listens_nowhere_is_refused_unless_connections_are_handed_over() {
    let error = idle_server().serve().await.unwrap_err();
    assert!(matches!(error, ServerError::NoAddress), "{error}");
    let server = idle_server().start().await.unwrap();
    assert_eq!(server.target(), "");
}

/// The longest settings that are allowed work: nothing adds them to an instant without looking.
#[tokio::test]
async fn settings_of_a_year_are_as_good_as_never() {
    let year = Duration::from_hours(365 * 24);
    let server = idle_server().idle_timeout(year).handshake_timeout(year).keepalive(year, year);
    let server = server
        .drain(Drain::default().lame_duck("0s").within(year))
        .bind("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    let channel = Channel::builder().timeout(year).connect_timeout(year).idle_timeout(year).keepalive(year, year);
    let worker = WorkerClient::from_channel(channel.connect(&server.target()).await.unwrap());
    assert_eq!(worker.ping().await.unwrap(), 1);
    assert_eq!(worker.ping().timeout(Duration::MAX).await.unwrap(), 1);
    drop(worker);
    bounded(server.shutdown()).await;
}

#[tokio::test]
async fn a_dead_servers_socket_is_taken_over_and_a_live_ones_is_not() {
    let path = socket_path();
    let address = format!("unix:{}", path.display());
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "a file without a listener");
    let server = idle_server().bind(&address).start().await.unwrap();
    assert!(idle_server().bind(&address).start().await.is_err());
    assert_eq!(WorkerClient::connect(&address).await.unwrap().ping().await.unwrap(), 1);
    drop(server);
}

#[tokio::test]
async fn connections_above_the_limit_are_turned_away() {
    let server = idle_server().max_connections(2).bind("127.0.0.1:0").start().await.unwrap();
    let target = server.target();
    let first = WorkerClient::connect(&target).await.unwrap();
    let second = WorkerClient::connect(&target).await.unwrap();
    let refused = WorkerClient::connect(&target).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    // It is not greeted, or a client would take the server for one that is well.
    let mut raw = TcpStream::connect(target.trim_start_matches("tcp://")).await.unwrap();
    let mut said = Vec::new();
    let _reset_or_closed = bounded(raw.read_to_end(&mut said)).await;
    assert!(said.is_empty(), "{said:?}");
    assert_eq!(first.ping().await.unwrap(), 1);
    drop(second);
    until("there is room", || server.connections() == 1).await;
    let third = WorkerClient::connect(&target).await.unwrap();
    assert_eq!(third.ping().await.unwrap(), 1);
}

/// A drain loses nothing: what runs is answered, what comes too late was provably not processed.
#[tokio::test]
async fn a_drain_fails_no_call() {
    for fixture in [Fixture::Tcp, Fixture::Unix, Fixture::Mem] {
        let (service, mut events, gate) = worker();
        let server = Server::builder().service(service).drain(drain("0s", "30s")).bind(fixture.address().unwrap());
        let server = server.start().await.unwrap();
        let channel = Channel::lazy(&server.target()).unwrap();
        let worker = WorkerClient::from_channel(channel.clone());
        let running: Vec<_> = (0..50).map(|_| tokio::spawn(worker.work().into_future())).collect();
        for _ in 0..50 {
            assert_eq!(events.next().await, Event::Began);
        }
        let shutdown = tokio::spawn(server.shutdown());
        until("the client was told", || channel.state() != ConnectivityState::Ready).await;
        let late = worker.ping().await.unwrap_err();
        assert_eq!(
            (late.code(), late.handler_ran()),
            (Code::Unavailable, HandlerRan::No),
            "{late}"
        );
        assert!(!shutdown.is_finished(), "it waits for its calls");
        gate.send_replace(true);
        for call in running {
            assert_eq!(bounded(call).await.unwrap().unwrap(), 2, "0 failed");
        }
        bounded(shutdown).await.unwrap();
    }
}

/// Clients that call without pause while their server is replaced, behind one name: not one call fails.
#[tokio::test]
async fn a_rolling_restart_fails_no_call() {
    let name = unique("mem:rolling");
    let start = async || {
        let server = idle_server().drain(drain("0s", "30s")).bind(&name);
        server.start().await.unwrap()
    };
    let first: Serving = start().await;
    let worker = WorkerClient::connect(&name).await.unwrap();
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let (worker, stop) = (worker.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut calls = 0;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    worker.ping().wait_for_ready().await?;
                    calls += 1;
                }
                Ok::<usize, Status>(calls)
            })
        })
        .collect();
    let mut server = first;
    for _ in 0..5 {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        bounded(server.shutdown()).await;
        server = start().await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for caller in callers {
        assert!(bounded(caller).await.unwrap().unwrap() > 0);
    }
}

/// On the wire: GOAWAY for all streams and a ping, then GOAWAY with the last stream that was taken up, then the end.
#[tokio::test]
async fn a_drain_says_goodbye_in_two_steps() {
    let server = idle_server().drain(drain("0s", "30s")).start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    server.accept(theirs);
    let mut hand = Hand::greet(ours, &[]).await;
    let shutdown = tokio::spawn(server.shutdown());
    let first = hand.read_kind(GOAWAY).await.unwrap();
    assert_eq!(
        (&first.payload[..4], &first.payload[4..8]),
        (&[0xff; 4][..], &[0; 4][..])
    );
    let ping = hand.read_kind(PING).await.unwrap();
    hand.send(PONG, 0, &ping.payload).await;
    let second = hand.read_kind(GOAWAY).await.unwrap();
    assert_eq!(
        (&second.payload[..4], &second.payload[4..8]),
        (&[0; 4][..], &[0; 4][..])
    );
    assert!(hand.read().await.is_none());
    bounded(shutdown).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_is_bounded() {
    let (service, mut events, _gate) = worker();
    let server = Server::builder().service(service).drain(drain("2s", "7s"));
    let name = unique("mem:bounded");
    let server = server.bind(&name).start().await.unwrap();
    let worker = WorkerClient::connect(&name).await.unwrap();
    let call = tokio::spawn(worker.work().timeout("1h").into_future());
    let mut items = worker.watch(false).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    for _ in 0..2 {
        assert_eq!(events.next().await, Event::Began);
    }
    let began = Instant::now();
    let shutdown = tokio::spawn(server.shutdown());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(worker.ping().await.unwrap(), 1, "a lame duck still serves");
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("shutting down") || status.message().contains("stopped"),
        "{status}"
    );
    assert_eq!(items.next().await.unwrap().unwrap_err().code(), Code::Unavailable);
    shutdown.await.unwrap();
    let took = began.elapsed();
    assert!((6_990..8_000).contains(&took.as_millis()), "at its bound: {took:?}");
}

/// A stream that watches for it ends in order while its server drains.
#[tokio::test]
async fn a_stream_may_leave_when_its_server_drains() {
    let (service, _events, _gate) = worker();
    let server = Server::builder().service(service).drain(drain("0s", "30s")).bind("127.0.0.1:0");
    let server = server.start().await.unwrap();
    let worker = WorkerClient::connect(&server.target()).await.unwrap();
    let mut items = worker.watch(true).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    let shutdown = tokio::spawn(server.shutdown());
    assert!(bounded(items.next()).await.is_none(), "in order, not by force");
    bounded(shutdown).await.unwrap();
}

/// Calls that were under way when the drain began are taken up, and their handlers know of it from the start.
#[tokio::test]
async fn a_call_that_begins_during_a_drain_knows_of_it() {
    let (service, mut events, _gate) = worker();
    let server = Server::builder().service(service).drain(drain("0s", "30s")).start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    server.accept(theirs);
    let mut hand = Hand::greet(ours, &[]).await;
    let shutdown = tokio::spawn(server.shutdown());
    hand.read_kind(GOAWAY).await.unwrap();
    let method = sinew::wire::method_id("lifecycle.Worker/watch").to_be_bytes();
    let arguments = crate::support::hand::message(&[0x91, 0xc3]);
    let call = [&method[..], &[0; 6], &arguments].concat();
    hand.send(OPEN | FIN, 1, &call).await;
    assert_eq!(bounded(events.next()).await, Event::Began);
    let ping = async {
        loop {
            let frame = hand.read().await.expect("the call is still under way");
            match frame.kind {
                PING => hand.send(PONG, 0, &frame.payload).await,
                END => return frame.payload[0],
                _ => {}
            }
        }
    };
    assert_eq!(
        bounded(ping).await,
        0,
        "the stream ended in order, because its handler knew"
    );
    drop(hand);
    bounded(shutdown).await.unwrap();
}

/// The last answer of a draining connection may take as long as the drain may, not only the time to say goodbye.
#[tokio::test(start_paused = true)]
async fn a_drain_waits_until_the_last_answer_has_left() {
    let (service, mut events, gate) = worker();
    let server = Server::builder().service(service).drain(drain("0s", "30s")).start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    server.accept(theirs);
    let mut hand = Hand::greet(ours, &[("stream_window", 4_000_000), ("connection_window", 8_000_000)]).await;
    let method = sinew::wire::method_id("lifecycle.Worker/large").to_be_bytes();
    let arguments = crate::support::hand::message(&[0x91, 0xce, 0x00, 0x0a, 0xae, 0x60]);
    hand.send(OPEN | FIN, 1, &[&method[..], &[0; 6], &arguments].concat()).await;
    assert_eq!(events.next().await, Event::Began);
    let shutdown = tokio::spawn(server.shutdown());
    hand.read_kind(PING).await.unwrap();
    hand.send(PONG, 0, b"drain?\0\0").await;
    gate.send_replace(true);
    // The network stands still for a while.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut bytes = 0;
    while let Some(frame) = hand.read().await {
        if frame.stream == 1 {
            bytes += frame.payload.len();
        }
    }
    assert!(bytes > 700_000, "{bytes} bytes came");
    bounded(shutdown).await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_is_gone_at_once() {
    for fixture in [Fixture::Tcp, Fixture::Unix, Fixture::Mem] {
        let (service, mut events, _gate) = worker();
        let server = Server::builder().service(service).bind(fixture.address().unwrap()).start().await.unwrap();
        let target = server.target();
        let worker = WorkerClient::connect(&target).await.unwrap();
        let call = tokio::spawn(worker.work().into_future());
        assert_eq!(events.next().await, Event::Began);
        drop(server);
        let status = bounded(call).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        bounded(async {
            // The listener's task is told, and closes its socket when it is next polled.
            while Channel::connect(&target).await.is_ok() {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

/// A connection that waits in the backlog when the time of the drain is up: it must not be taken up by a server that has stopped.
#[tokio::test(start_paused = true)]
async fn nothing_is_taken_up_by_a_server_that_has_stopped() {
    use std::io::Write;

    let (service, mut events, _gate) = worker();
    let server = Server::builder().service(service).bind("127.0.0.1:0").drain(drain("1s", "1s"));
    let server = server.start().await.unwrap();
    let address = server.target().trim_start_matches("tcp://").to_owned();
    let mut down = Box::pin(server.shutdown());
    assert!(crate::support::polled_once(&mut down).await.is_pending());
    tokio::time::advance(Duration::from_secs(1)).await;
    // From here on the runtime gets no turn until the server has given its listener up.
    let mut late = std::net::TcpStream::connect(address).unwrap();
    let method = sinew::wire::method_id("lifecycle.Worker/work").to_be_bytes();
    let head = [&method[..], &[0; 6]].concat();
    let call = [&head[..], &crate::support::hand::message(&[0x90])].concat();
    let len = u8::try_from(call.len()).unwrap();
    let greeting = b"\xF5SINEW\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x80";
    late.write_all(&[&greeting[..], &[0, 0, len, 0x81, 0, 0, 0, 1], &call].concat()).unwrap();
    bounded(down).await;
    late.set_nonblocking(true).unwrap();
    let mut late = TcpStream::from_std(late).unwrap();
    let mut rest = Vec::new();
    // Refused or closed, in order or not.
    let _hung_up = bounded(late.read_to_end(&mut rest)).await;
    assert!(events.is_empty(), "a handler began after the server had stopped");
}
