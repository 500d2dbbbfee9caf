//! The cases with a bad server, which is played by hand.

use futures_util::future::join_all;
use sinew::transport::ByteStream;
use sinew::{Channel, Code, HandlerRan, Status, Streaming};
use tokio::sync::mpsc::UnboundedReceiver;

use super::service::TestServiceClient;
use crate::support::across_fixtures;
use crate::support::fixture::Fixture;
use crate::support::hand::{DATA, FIN, Frame, Hand, PING, PONG, REPLY, RESET, channel_to_hand, message};

across_fixtures!(
    by hand:
    goaway,
    rst_after_header,
    rst_during_data,
    rst_after_data,
    ping,
    max_streams,
    refused_stream_is_sent_again,
);

/// `nil`, which is what an empty call answers with.
const NIL: [u8; 1] = [0xc0];
const REFUSED: u32 = 2;
const INTERNAL: u32 = 6;

struct Bad {
    client: TestServiceClient,
    connections: UnboundedReceiver<ByteStream>,
}

impl Bad {
    fn new(fixture: Fixture) -> Self {
        let (channel, connections): (Channel, _) = channel_to_hand(fixture);
        Self {
            client: TestServiceClient::from_channel(channel),
            connections,
        }
    }

    async fn next(&mut self) -> Hand {
        Hand::greet(self.connections.recv().await.unwrap(), &[]).await
    }
}

/// Answers an empty call.
async fn answer(hand: &mut Hand) -> u32 {
    let stream = hand.request().await.expect("a request");
    hand.reply(REPLY | FIN, stream, &message(&NIL)).await;
    stream
}

/// GOAWAY after the first call; the second goes to a new connection and its caller notices nothing.
async fn goaway(fixture: Fixture) {
    let mut bad = Bad::new(fixture);
    let client = bad.client.clone();
    let calls = tokio::spawn(async move {
        client.empty_call().await.unwrap();
        client.empty_call().await.unwrap();
        client.empty_call().await.unwrap();
    });
    let mut first = bad.next().await;
    let last = answer(&mut first).await;
    first.go_away(last, 0).await;
    // The second call may leave before the client has read the GOAWAY; then it is beyond the last stream and goes to the new connection.
    let mut second = bad.next().await;
    answer(&mut second).await;
    answer(&mut second).await;
    calls.await.unwrap();
}

/// Lets `wreck` answer the first call; returns how that call failed, once a second call on the same connection has succeeded.
async fn survives(fixture: Fixture, wreck: impl AsyncFn(&mut Hand, u32)) -> Status {
    let mut bad = Bad::new(fixture);
    let client = bad.client.clone();
    let calls = tokio::spawn(async move {
        let failed = client.empty_call().await.unwrap_err();
        client.empty_call().await.unwrap();
        failed
    });
    let mut hand = bad.next().await;
    let stream = hand.request().await.unwrap();
    wreck(&mut hand, stream).await;
    answer(&mut hand).await;
    calls.await.unwrap()
}

async fn rst_after_header(fixture: Fixture) {
    let failed = survives(fixture, async |hand, stream| {
        hand.reply(REPLY, stream, &[]).await;
        hand.send(RESET, stream, &INTERNAL.to_be_bytes()).await;
    });
    let failed = failed.await;
    assert_eq!(
        (failed.code(), failed.handler_ran()),
        (Code::Internal, HandlerRan::Maybe)
    );
}

async fn rst_during_data(fixture: Fixture) {
    let failed = survives(fixture, async |hand, stream| {
        let half = &message(&[0xc4; 100])[..50];
        hand.reply(REPLY, stream, half).await;
        hand.send(RESET, stream, &INTERNAL.to_be_bytes()).await;
    });
    assert_eq!(failed.await.code(), Code::Internal);
}

async fn rst_after_data(fixture: Fixture) {
    let failed = survives(fixture, async |hand, stream| {
        hand.reply(REPLY, stream, &message(&NIL)).await;
        hand.send(RESET, stream, &INTERNAL.to_be_bytes()).await;
    });
    assert_eq!(failed.await.code(), Code::Internal);
}

/// Pings around head and data are all answered, with their own content.
async fn ping(fixture: Fixture) {
    let mut bad = Bad::new(fixture);
    let client = bad.client.clone();
    let call = tokio::spawn(client.empty_call().into_future());
    let mut hand = bad.next().await;
    let stream = hand.request().await.unwrap();
    for content in [*b"before  ", *b"between ", *b"after   "] {
        hand.send(PING, 0, &content).await;
        let pong: Frame = hand.read_kind(PONG).await.unwrap();
        assert_eq!(pong.payload, content);
        match &content {
            b"before  " => hand.reply(REPLY, stream, &[]).await,
            b"between " => hand.send(DATA | FIN, stream, &message(&NIL)).await,
            _ => {}
        }
    }
    call.await.unwrap().unwrap();
}

/// The server takes one stream at a time; ten calls at once all succeed.
async fn max_streams(fixture: Fixture) {
    let mut bad = Bad::new(fixture);
    let client = bad.client.clone();
    let first = tokio::spawn(client.empty_call().into_future());
    let stream = bad.connections.recv().await.unwrap();
    let mut hand = Hand::greet(stream, &[("max_streams", 1)]).await;
    answer(&mut hand).await;
    first.await.unwrap().unwrap();
    let client = bad.client.clone();
    let calls = tokio::spawn(async move { join_all((0..10).map(|_| client.empty_call().into_future())).await });
    for round in 0..10 {
        let stream = hand.request().await.unwrap();
        // Nothing else arrives while this one is open. Asked twice only, because too many pings end the connection.
        if round < 2 {
            hand.send(PING, 0, b"quiet?  ").await;
            assert_eq!(hand.read().await.unwrap().kind, PONG, "one stream at a time");
        }
        hand.reply(REPLY | FIN, stream, &message(&NIL)).await;
    }
    for result in calls.await.unwrap() {
        result.unwrap();
    }
}

/// A stream that the server provably did not take up is sent again, also for methods that are not idempotent.
async fn refused_stream_is_sent_again(fixture: Fixture) {
    let mut bad = Bad::new(fixture);
    let client = bad.client.clone();
    let call = tokio::spawn(client.empty_call().into_future());
    let mut hand = bad.next().await;
    let stream = hand.request().await.unwrap();
    hand.send(RESET, stream, &REFUSED.to_be_bytes()).await;
    answer(&mut hand).await;
    call.await.unwrap().unwrap();

    // A request whose stream was begun cannot be sent again.
    let client = bad.client.clone();
    let call = tokio::spawn(client.early_call(Streaming::iter([bytes::Bytes::new()])).into_future());
    let stream = hand.request().await.unwrap();
    hand.send(RESET, stream, &REFUSED.to_be_bytes()).await;
    let failed = call.await.unwrap().unwrap_err();
    assert_eq!(
        (failed.code(), failed.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
}
