//! Peers that say nothing, and connections that have nothing to say: keepalive, handshake, idleness. The clock is paused.

use std::sync::Arc;
use std::time::Duration;

use sinew::{CancelCause, Channel, Code, ConnectivityState, HandlerRan, Server, Serving};
use tokio::time::Instant;

use super::{WorkerClient, worker};
use crate::support::fixture::{Fixture, connector};
use crate::support::hand::{FIN, GOAWAY, HELLO, Hand, OPEN, PING, PONG, REPLY, channel_to_hand, frame, message};
use crate::support::probe::Event;

#[tokio::test(start_paused = true)]
async fn keepalive_ends_calls_of_a_server_that_went_silent() {
    let (channel, mut connections) = channel_to_hand(Fixture::Mem);
    let worker = WorkerClient::from_channel(channel);
    let call = tokio::spawn(worker.ping().timeout("1h").into_future());
    let mut hand = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    hand.request().await.unwrap();
    let silent_since = Instant::now();
    let status = call.await.unwrap().unwrap_err();
    let took = silent_since.elapsed();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::Unavailable, HandlerRan::Maybe)
    );
    assert!(status.message().contains("ping"), "names the cause: {status}");
    assert!(
        (14_990..15_100).contains(&took.as_millis()),
        "10 s of silence and 5 s to answer: {took:?}"
    );
    assert_eq!(hand.read_kind(PING).await.unwrap().payload.len(), 8);
    assert_eq!(hand.read_kind(GOAWAY).await.unwrap().payload[4..8], 7_u32.to_be_bytes());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_answers_pings_may_take_its_time() {
    let (service, mut events, gate) = worker();
    let served = Fixture::Mem.serve(Server::builder().service(service)).await;
    let worker = WorkerClient::from_channel(served.channel.clone());
    let call = tokio::spawn(worker.work().timeout("1h").into_future());
    assert_eq!(events.next().await, Event::Began);
    tokio::time::sleep(Duration::from_secs(300)).await;
    gate.send_replace(true);
    assert_eq!(call.await.unwrap().unwrap(), 2);
    assert_eq!(served.serving.connections(), 1);
}

async fn start() -> (
    Arc<Serving>,
    Hand,
    crate::support::probe::Events,
    tokio::sync::watch::Sender<bool>,
) {
    let (service, events, gate) = worker();
    let serving = Arc::new(Server::builder().service(service).start().await.unwrap());
    let (ours, theirs) = Fixture::Mem.ends().await;
    serving.accept(theirs);
    (serving, Hand::greet(ours, &[]).await, events, gate)
}

#[tokio::test(start_paused = true)]
async fn keepalive_ends_handlers_of_a_client_that_went_silent() {
    let (serving, mut hand, mut events, _gate) = start().await;
    let mut open = sinew::wire::method_id("lifecycle.Worker/watch").to_be_bytes().to_vec();
    open.extend_from_slice(&[0; 6]);
    open.extend_from_slice(&message(&[0x91, 0xc2]));
    hand.send(OPEN | FIN, 1, &open).await;
    assert_eq!(events.next().await, Event::Began);
    let silent_since = Instant::now();
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientGone)));
    let took = silent_since.elapsed();
    assert!((14_990..15_100).contains(&took.as_millis()), "{took:?}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((serving.connections(), serving.running_handlers()), (0, 0));
}

/// The process stood still for longer than a ping may take, but the answer had come: it is read before the time-out is judged.
#[tokio::test(start_paused = true)]
async fn a_pong_that_lies_unread_is_a_sign_of_life() {
    let (_serving, mut hand, mut events, gate) = start().await;
    let mut open = sinew::wire::method_id("lifecycle.Worker/work").to_be_bytes().to_vec();
    open.extend_from_slice(&[0; 6]);
    open.extend_from_slice(&message(&[0x90]));
    hand.send(OPEN | FIN, 1, &open).await;
    assert_eq!(events.next().await, Event::Began);
    let ping = hand.read_kind(PING).await.unwrap();
    hand.send(PONG, 0, &ping.payload).await;
    tokio::time::advance(Duration::from_secs(6)).await;
    gate.send_replace(true);
    let answer = hand.read().await.unwrap();
    assert_eq!((answer.kind, answer.stream), (REPLY, 1), "the connection lives");
}

/// A dead peer does not hang up; the next call does not wait for it to do so.
#[tokio::test(start_paused = true)]
async fn a_channel_reconnects_as_soon_as_its_peer_is_found_dead() {
    let (channel, mut connections) = channel_to_hand(Fixture::Mem);
    let worker = WorkerClient::from_channel(channel);
    let call = tokio::spawn(worker.ping().timeout("1h").into_future());
    let mut dead = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    dead.request().await.unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    let call = tokio::spawn(worker.ping().timeout("300ms").wait_for_ready().into_future());
    let mut alive = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    let stream = alive.request().await.unwrap();
    alive.reply(REPLY | FIN, stream, &message(&[1])).await;
    assert_eq!(call.await.unwrap().unwrap(), 1);
}

/// A connection without calls is not pinged, and closed only after the idle time-out.
#[tokio::test(start_paused = true)]
async fn a_connection_at_rest_is_left_alone_until_it_is_idle() {
    let (serving, mut hand, _events, _gate) = start().await;
    let began = Instant::now();
    let frame = hand.read().await.unwrap();
    let took = began.elapsed();
    assert_eq!(
        (frame.kind, &frame.payload[4..8]),
        (GOAWAY, &10_u32.to_be_bytes()[..]),
        "no ping before"
    );
    assert!(
        (1_799_000..1_801_000).contains(&took.as_millis()),
        "half an hour: {took:?}"
    );
    drop(hand);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(serving.connections(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_idle_channel_closes_its_connection_and_makes_a_new_one() {
    let (service, _events, _gate) = worker();
    let served = Fixture::Mem
        .serve_with(
            Server::builder().service(service),
            Channel::builder().idle_timeout("20s"),
        )
        .await;
    let worker = WorkerClient::from_channel(served.channel.clone());
    for _ in 0..3 {
        assert_eq!(worker.ping().await.unwrap(), 1);
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(served.channel.state(), ConnectivityState::Ready);
        assert_eq!(worker.ping().await.unwrap(), 1);
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(served.channel.state(), ConnectivityState::Idle);
        assert_eq!(served.serving.connections(), 0);
    }
}

/// The server closes what is idle; its client takes that for what it is, and no call fails.
#[tokio::test(start_paused = true)]
async fn an_idle_connection_that_the_server_closes_costs_no_call() {
    let (service, _events, _gate) = worker();
    let served = Fixture::Mem.serve(Server::builder().service(service).idle_timeout("20s")).await;
    let worker = WorkerClient::from_channel(served.channel.clone());
    for _ in 0..5 {
        assert_eq!(worker.ping().await.unwrap(), 1);
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_ne!(served.channel.state(), ConnectivityState::TransientFailure);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_greets_is_given_up() {
    let connector = connector(Fixture::Mem, |stream| {
        // It accepts, and says nothing.
        tokio::spawn(async move {
            let _open = stream;
            std::future::pending::<()>().await;
        });
    });
    let channel = Channel::builder().with_connector("silent:", connector).unwrap();
    let began = Instant::now();
    let status = channel.wait_ready().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("silent:"), "{status}");
    assert!(
        began.elapsed() <= Duration::from_millis(1_010),
        "within the connect time-out: {:?}",
        began.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_client_that_never_greets_is_hung_up_on() {
    let (service, _events, _gate) = worker();
    let serving = Server::builder().service(service).handshake_timeout("3s").start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    serving.accept(theirs);
    let mut hand = Hand::new(ours);
    assert_eq!(serving.connections(), 1);
    tokio::time::sleep(Duration::from_millis(2_900)).await;
    assert_eq!(serving.connections(), 1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(serving.connections(), 0);
    // The preface and the HELLO, then the reason, then the end.
    hand.skip(8).await;
    assert_eq!(hand.read_kind(GOAWAY).await.unwrap().payload[4..8], 9_u32.to_be_bytes());
    assert!(hand.read().await.is_none());
}

/// A greeting that comes byte by byte is no sign of life: its time-out runs from the start.
#[tokio::test(start_paused = true)]
async fn a_greeting_that_dribbles_is_cut_off_in_time() {
    let (service, _events, _gate) = worker();
    let serving = Server::builder().service(service).handshake_timeout("2s").start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    serving.accept(theirs);
    let mut hand = Hand::new(ours);
    let began = Instant::now();
    let greeting = [&b"\xF5SINEW\x01\x00"[..], &frame(HELLO, 0, &[0x80; 1_000])].concat();
    for byte in greeting {
        if serving.connections() == 0 {
            break;
        }
        assert!(hand.offer(&[byte]).is_empty());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = began.elapsed().as_millis();
    hand.skip(8).await;
    assert_eq!(hand.read_kind(GOAWAY).await.unwrap().payload[4..8], 9_u32.to_be_bytes());
    // The connection lingers for a second, because the peer does not hang up.
    assert!((2_000..3_300).contains(&took), "{took} ms");
}
