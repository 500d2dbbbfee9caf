//! Rows 36 to 42 and 47: what handlers and vanishing peers do to their own call, and to nothing else.

use std::time::Duration;

use sinew::{Code, Cx, Drain, HandlerRan, Server, Status, Streaming, service};

use super::arena::{Arena, TargetClient, Trap};
use super::bad::{
    Bad, CREDIT, DATA, END, FIN, GOAWAY, HELLO, PATIENCE, PING, PREFACE, RESET, arguments, frame, head, hello, nothing,
    open,
};

/// Says more before its stream than some clients take.
#[service(name = "attack.Target")]
trait Herald {
    async fn announce(&self, cx: &Cx, bytes: usize) -> Result<Streaming<u32>, Status>;
}

struct Trumpet;

impl Herald for Trumpet {
    async fn announce(&self, cx: &Cx, bytes: usize) -> Result<Streaming<u32>, Status> {
        cx.set_reply_metadata("a", "x".repeat(bytes)).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Streaming::iter(0..))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_36_a_panic_ends_its_call_without_its_text() {
    let mut arena = Arena::new().await;
    arena.panics_expected = true;
    let client = TargetClient::connect(&arena.target()).await.unwrap();
    let mut panics = 0;
    for round in 0..20 {
        for place in ["at once", "later", "in drop", "in the stream"] {
            let status = match client.panic(place.to_owned()).await {
                Ok(mut stream) => loop {
                    match stream.next().await {
                        Some(Ok(_)) => {}
                        Some(Err(status)) => break status,
                        None => panic!("{place}: an orderly end"),
                    }
                },
                Err(status) => status,
            };
            panics += 1;
            assert_eq!(status.code(), Code::Internal, "{place}: {status:?}");
            assert!(!status.message().contains("secret"), "{}", status.message());
            arena.until("it is counted", |arena| arena.serving.panics() == panics).await;
        }
        let status = client.trap(Trap).await.unwrap_err();
        panics += 1;
        assert_eq!(
            (status.code(), status.message().contains("secret")),
            (Code::Internal, false),
            "{round}"
        );
    }
    assert_eq!(arena.serving.panics(), panics);
    assert_eq!(
        client.echo("the same connection".to_owned()).await.unwrap(),
        "the same connection"
    );
    drop(client);
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_37_a_handler_that_never_returns_ends_at_the_deadline() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    for stream in 1..=100 {
        bad.send(&frame(
            super::bad::OPEN | FIN,
            stream,
            &[head("wait", 20, &[]), nothing()].concat(),
        ))
        .await;
    }
    for _ in 1..=100 {
        assert_eq!(bad.expect(END).await.payload[0], Code::DeadlineExceeded.as_u8());
    }
    arena.until("their handlers are gone", |arena| arena.live() == 0).await;
    // A client whose server never answers ends its call itself.
    let client = TargetClient::connect(&arena.target()).await.unwrap();
    let status = client.wait().timeout("20ms").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    drop(client);
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_38_a_client_that_vanishes_leaves_nothing_behind() {
    let arena = Arena::new().await;
    for _ in 0..20 {
        let mut bad = Bad::greeted(&arena.target()).await;
        bad.send(&open(1, "wait", &nothing(), true)).await;
        bad.send(&open(2, "hold", &nothing(), false)).await;
        bad.send(&open(3, "items", &arguments(&(1_000,)), true)).await;
        bad.send(&open(4, "count", &nothing(), false)).await;
        bad.send(&open(5, "count", &arguments(&("x".repeat(20_000),))[..5_000], false)).await;
        bad.expect(DATA).await;
        let began = arena.live();
        arena.until("its handlers run", |arena| arena.live() >= 4 || began >= 4).await;
        bad.vanish();
        arena.until("its handlers are gone", |arena| arena.live() == 0).await;
    }
    arena.finish().await;
}

/// Twenty streams take all the credit of their connection: most wait for their own, some for the connection's. All are given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_39_cancelling_calls_that_wait_for_credit_frees_them() {
    const CONNECTION: usize = 1024 * 1024;
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    for round in 0..10 {
        let streams = round * 100 + 1..=round * 100 + 20;
        for stream in streams.clone() {
            bad.send(&open(stream, "items", &arguments(&(5_000,)), true)).await;
        }
        let mut received = 0;
        while received < CONNECTION {
            received += bad.expect(DATA).await.payload.len();
        }
        assert_eq!(received, CONNECTION, "all the credit, and not a byte more");
        arena.until("all wait", |arena| arena.live() == 20).await;
        for stream in streams {
            bad.send(&frame(RESET, stream, &[0; 4])).await;
        }
        arena.until("the producers are gone", |arena| arena.live() == 0).await;
        let more = u32::try_from(CONNECTION).unwrap();
        bad.send(&frame(CREDIT, 0, &more.to_be_bytes())).await;
        bad.send(&open(round * 100 + 50, "echo", &arguments(&("again",)), true)).await;
        let reply = bad.reply_of(round * 100 + 50).await;
        assert_eq!(reply, arguments(&"again"));
        bad.send(&frame(CREDIT, 0, &u32::try_from(reply.len()).unwrap().to_be_bytes())).await;
    }
    bad.vanish();
    arena.finish().await;
}

/// A drain tells clients to leave, waits for what runs, and ends the rest at its bound, even if the client answers nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_41_and_42_a_drain_is_announced_and_bounded() {
    let drain = Drain::default().lame_duck("0s").within("200ms");
    let victim = super::arena::Victim::default();
    let counts = std::sync::Arc::clone(&victim.counts);
    let serving = Server::builder()
        .service(super::arena::TargetServer::new(victim))
        .bind("127.0.0.1:0")
        .drain(drain)
        .start()
        .await
        .unwrap();
    let target = serving.target();
    let mut deaf = Bad::greeted(&target).await;
    deaf.send(&open(1, "wait", &nothing(), true)).await;
    let mut polite = Bad::greeted(&target).await;
    polite.send(&open(7, "wait", &nothing(), true)).await;
    let client = TargetClient::connect(&target).await.unwrap();
    let waiting = tokio::spawn(client.wait().timeout(PATIENCE).into_future());
    while counts.live.load(std::sync::atomic::Ordering::SeqCst) < 3 {
        tokio::task::yield_now().await;
    }
    let down = tokio::spawn(serving.shutdown());
    // First: no new streams, please. The polite one answers the ping and is told what was taken up.
    let first = polite.expect(GOAWAY).await;
    assert_eq!(&first.payload[..8], [u32::MAX.to_be_bytes(), [0; 4]].concat());
    let ping = polite.expect(PING).await;
    polite.send(&open(9, "echo", &arguments(&("crossed",)), true)).await;
    assert_eq!(
        polite.reply_of(9).await,
        arguments(&"crossed"),
        "calls that crossed the announcement are taken up"
    );
    polite.send(&frame(super::bad::PONG, 0, &ping.payload)).await;
    let second = polite.expect(GOAWAY).await;
    assert_eq!(&second.payload[..8], [9_u32.to_be_bytes(), [0; 4]].concat());
    polite.send(&open(11, "echo", &arguments(&("late",)), true)).await;
    // At the bound, whoever still waits is told.
    assert_eq!(polite.end_of(7).await, Code::Unavailable.as_u8());
    assert_eq!(deaf.end_of(1).await, Code::Unavailable.as_u8());
    polite.hung_up().await;
    deaf.hung_up().await;
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::Unavailable, HandlerRan::Yes),
        "{status:?}"
    );
    tokio::time::timeout(PATIENCE, down).await.unwrap().unwrap();
    assert_eq!(counts.live.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// Connections that end at every stage of a drain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_42_peers_that_vanish_during_a_drain_do_not_hold_it_up() {
    let drain = Drain::default().lame_duck("0s").within(PATIENCE);
    let serving = Server::builder()
        .service(super::arena::TargetServer::new(super::arena::Victim::default()))
        .bind("127.0.0.1:0")
        .drain(drain)
        .start()
        .await
        .unwrap();
    let mut crowd = Vec::new();
    let whole = [PREFACE, &hello(), &open(1, "wait", &nothing(), true)].concat();
    for number in 0..20 {
        let mut bad = Bad::silent(&serving.target()).await;
        bad.send(&whole[..(8 + number * 4).min(whole.len())]).await;
        crowd.push(bad);
    }
    let down = tokio::spawn(serving.shutdown());
    for (number, mut bad) in crowd.into_iter().enumerate() {
        if number % 2 == 0 {
            bad.expect(GOAWAY).await;
        }
        bad.vanish();
    }
    let ended = tokio::time::timeout(PATIENCE / 2, down).await;
    ended.expect("nobody is left to wait for").unwrap();
}

/// The other rows end calls one by one; here all kinds end together, in an order that the scheduler picks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_all_kinds_that_end_together_leave_nothing_behind() {
    let mut arena = Arena::new().await;
    arena.panics_expected = true;
    let mut crowd = Vec::new();
    for number in 0..40_u32 {
        let target = arena.target();
        crowd.push(tokio::spawn(async move {
            let mut bad = Bad::greeted(&target).await;
            for stream in 1..60_u32 {
                let bytes = match (stream + number) % 5 {
                    0 => open(stream, "wait", &nothing(), true),
                    1 => open(stream, "items", &arguments(&(100,)), true),
                    2 => open(stream, "hold", &nothing(), false),
                    3 => frame(
                        super::bad::OPEN | FIN,
                        stream,
                        &[head("wait", 5, &[]), nothing()].concat(),
                    ),
                    _ => open(stream, "panic", &arguments(&("later",)), true),
                };
                bad.send(&bytes).await;
                if (stream * number) % 7 == 3 {
                    bad.send(&frame(RESET, stream / 2 + 1, &[0; 4])).await;
                }
            }
            if number % 3 == 0 {
                bad.send(&frame(GOAWAY, 0, &[0; 8])).await;
            }
            bad.vanish();
        }));
    }
    for bad in crowd {
        tokio::time::timeout(PATIENCE, bad).await.unwrap().unwrap();
    }
    tokio::time::timeout(Duration::from_secs(120), arena.finish()).await.unwrap();
}

async fn no_handler_runs(serving: &sinew::Serving) {
    let waiting = async {
        while serving.running_handlers() > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let left = tokio::time::timeout(PATIENCE, waiting).await;
    assert!(left.is_ok(), "{} handlers never end", serving.running_handlers());
}

/// A client that takes hardly any metadata, and calls what begins its stream with some: every call ends, and its handler with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_whose_head_is_too_large_for_their_client_end() {
    let server = Server::builder().service(HeraldServer::new(Trumpet)).bind("127.0.0.1:0");
    let serving = server.start().await.unwrap();
    let mut bad = Bad::silent(&serving.target()).await;
    let mut map = vec![0x81, 0xa8];
    map.extend_from_slice(b"max_head");
    map.push(0);
    bad.send(&[PREFACE, &frame(HELLO, 0, &map)].concat()).await;
    for stream in 1..=100 {
        bad.send(&open(stream, "announce", &arguments(&(1_000,)), true)).await;
        assert_eq!(bad.end_of(stream).await, Code::ResourceExhausted.as_u8());
    }
    no_handler_runs(&serving).await;
    // What every peer has to take is sent: the key, the value and their lengths.
    bad.send(&open(101, "announce", &arguments(&(256 - 4,)), true)).await;
    assert_eq!(bad.expect(super::bad::REPLY).await.stream, 101);
    bad.send(&open(102, "announce", &arguments(&(256 - 3,)), true)).await;
    assert_eq!(bad.end_of(102).await, Code::ResourceExhausted.as_u8());
    bad.vanish();
    no_handler_runs(&serving).await;
}
