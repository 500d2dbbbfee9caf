//! Rows 10, 17 to 22 and 25: frames that are allowed one by one, and too many of them. Rows 46 and 47: peers that take or give too slowly.
//!
//! What a bad peer does is a function of the server's address, so that `memory` can do the same to a server in a process of its own.

use std::sync::atomic::Ordering;

use sinew::{Code, Limits};

use super::arena::{Arena, TargetClient};
use super::bad::{
    Bad, CALM_DOWN, CREDIT, DATA, FIN, FLOW_CONTROL, GOAWAY, OPEN, PING, PONG, RESET, arguments, frame, head, message,
    nothing, open,
};

/// More rounds than any budget allows.
const MANY: u32 = 20_000;

pub(super) async fn frames_that_carry_nothing(target: &str) {
    let floods: [fn(u32) -> Vec<u8>; 6] = [
        |_| frame(DATA, 1, &[]),
        |_| frame(DATA, 1, &[0]),
        |_| frame(20, 0, &[1; 30]),
        |_| frame(PONG, 0, &[1; 8]),
        |_| frame(GOAWAY, 0, &[0; 8]),
        |_| frame(CREDIT, 1, &[0, 0, 0, 1]),
    ];
    for flood in floods {
        let mut bad = Bad::greeted(target).await;
        bad.send(&open(1, "hold", &nothing(), false)).await;
        assert_eq!(bad.flood(MANY, flood).await.1, CALM_DOWN);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_10_frames_that_carry_nothing_are_calmed() {
    let arena = Arena::new().await;
    frames_that_carry_nothing(&arena.target()).await;
    arena.finish().await;
}

pub(super) async fn rapid_resets(target: &str) {
    for spread in [false, true] {
        let mut bad = Bad::greeted(target).await;
        let (_, code) = bad
            .flood(MANY, |round| {
                let reset = frame(RESET, round, &[0; 4]);
                let late = frame(RESET, round.saturating_sub(30).max(1), &[0; 4]);
                let opened = open(round, "wait", &nothing(), true);
                if spread {
                    [opened, late].concat()
                } else {
                    [opened, reset].concat()
                }
            })
            .await;
        assert_eq!(code, CALM_DOWN);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_17_rapid_resets_are_calmed() {
    let arena = Arena::new().await;
    rapid_resets(&arena.target()).await;
    arena.until("no handler is left", |arena| arena.live() == 0).await;
    assert!(arena.began() <= 2 * 4_096, "{} handlers began", arena.began());
    arena.finish().await;
}

/// CVE-2025-8671: the client breaks rules of streams so that the server resets them, after handlers began.
pub(super) async fn provoked_resets(target: &str) {
    let provocations: [fn(u32) -> Vec<u8>; 4] = [
        |round| {
            [
                open(round, "hold", &nothing(), false),
                frame(DATA, round, &[0x80, 0, 0, 0]),
            ]
            .concat()
        },
        |round| {
            [
                open(round, "wait", &nothing(), true),
                frame(DATA, round, &message(b"x")),
            ]
            .concat()
        },
        |round| frame(OPEN | FIN, round, &head("wait", 0, &[])),
        |round| frame(OPEN, round, &[1, 2, 3]),
    ];
    for provocation in provocations {
        let mut bad = Bad::greeted(target).await;
        assert_eq!(bad.flood(MANY, provocation).await.1, CALM_DOWN);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_18_provoked_resets_are_calmed() {
    let arena = Arena::new().await;
    provoked_resets(&arena.target()).await;
    arena.finish().await;
}

/// Calls that are given up while others are answered: an honest client of any age.
pub(super) async fn calls_that_are_given_up(target: &str, rounds: u32) -> Bad {
    let mut bad = Bad::greeted(target).await;
    for round in 0..rounds {
        let (given_up, answered) = (round * 2 + 1, round * 2 + 2);
        let bytes = [
            open(given_up, "wait", &nothing(), true),
            open(answered, "echo", &arguments(&("x",)), true),
            frame(RESET, given_up, &[0; 4]),
        ]
        .concat();
        assert!(bad.send(&bytes).await);
        if round % 100 == 0 {
            bad.reply_of(answered).await;
        }
    }
    bad
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_calls_that_are_given_up_are_forgotten() {
    let arena = Arena::new().await;
    let bad = calls_that_are_given_up(&arena.target(), 8_000).await;
    arena.until("no handler is left", |arena| arena.live() == 0).await;
    bad.vanish();
    arena.finish().await;
}

pub(super) async fn pings(target: &str) {
    let mut bad = Bad::greeted(target).await;
    for _ in 0..1_000 {
        bad.send(&frame(PING, 0, &[1; 8])).await;
    }
    let mut pongs = 0;
    loop {
        let next = bad.frame().await.unwrap();
        match next.kind {
            PONG => pongs += 1,
            GOAWAY => {
                assert_eq!(
                    &next.payload[4..],
                    [&CALM_DOWN.to_be_bytes()[..], b"too_many_pings"].concat()
                );
                break;
            }
            _ => {}
        }
    }
    assert!(pongs <= 3, "{pongs}");
    bad.hung_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_20_a_ping_flood_is_calmed_and_hardly_answered() {
    let arena = Arena::new().await;
    pings(&arena.target()).await;
    arena.finish().await;
}

pub(super) async fn credit_that_cannot_be(target: &str) {
    for stream in [0, 1] {
        for more in [0, i32::MAX.unsigned_abs(), u32::MAX] {
            let mut bad = Bad::greeted(target).await;
            bad.send(&open(1, "hold", &nothing(), false)).await;
            bad.send(&frame(CREDIT, stream, &more.to_be_bytes())).await;
            assert_eq!(bad.sent_away().await.0, FLOW_CONTROL);
        }
    }
    // A byte at a time: 1,048,576 such frames would be needed for one large answer.
    let mut bad = Bad::greeted(target).await;
    bad.send(&open(1, "large", &arguments(&(3_000_000,)), true)).await;
    assert_eq!(bad.flood(MANY, |_| frame(CREDIT, 1, &[0, 0, 0, 1])).await.1, CALM_DOWN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_21_credit_that_cannot_be_is_an_error() {
    let arena = Arena::new().await;
    credit_that_cannot_be(&arena.target()).await;
    arena.finish().await;
}

/// 300 streams are given up with unread bytes; together they hold many times the connection's window.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_22_credit_of_given_up_streams_comes_back() {
    let limits = Limits {
        connection_window: 1024 * 1024,
        ..Limits::default()
    };
    let arena = Arena::with(|builder| builder.limits(limits)).await;
    let mut bad = Bad::greeted(&arena.target()).await;
    let item = message(&[&[0xc5, 0x75, 0x30][..], &[7; 30_000]].concat());
    let (mut credit, mut stream) = (1024_i64 * 1024, 0);
    for round in 0..300 {
        stream += 1;
        bad.send(&open(stream, "hold", &nothing(), false)).await;
        credit -= i64::try_from(nothing().len()).unwrap();
        for _ in 0..6 {
            let len = i64::try_from(item.len()).unwrap();
            while credit < len {
                let frame = bad.expect(CREDIT).await;
                if frame.stream == 0 {
                    credit += i64::from(u32::from_be_bytes(frame.payload[..4].try_into().unwrap()));
                }
            }
            bad.send(&frame(DATA, stream, &item)).await;
            credit -= len;
        }
        match round % 3 {
            0 => bad.send(&frame(RESET, stream, &[0; 4])).await,
            // Inside a message, and against the rules.
            1 => bad.send(&frame(DATA | FIN, stream, &[0, 0])).await,
            _ => bad.send(&frame(DATA, stream, &[0x80, 0, 0, 0])).await,
        };
        credit -= [0, 2, 4][round % 3];
    }
    bad.vanish();
    arena.finish().await;
}

/// More calls at a time than the `limit` of the server.
pub(super) async fn calls_above_the_limit(target: &str, limit: u32) {
    let mut bad = Bad::greeted(target).await;
    for stream in 1..=limit + 1 {
        bad.send(&open(stream, "wait", &nothing(), true)).await;
    }
    let refused = bad.expect(RESET).await;
    assert_eq!(
        (refused.stream, &refused.payload[..]),
        (limit + 1, &[0, 0, 0, 2][..]),
        "it says that it was not processed"
    );
    // A client that goes on above the limit is sent away.
    assert_eq!(
        bad.flood(MANY, |round| open(round + limit + 1, "wait", &nothing(), true)).await.1,
        CALM_DOWN
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_25_calls_above_the_limit_wait_at_the_client_and_are_refused_at_the_server() {
    let arena = Arena::with(|builder| builder.max_calls_per_connection(2)).await;
    calls_above_the_limit(&arena.target(), 2).await;
    let client = TargetClient::connect(&arena.target()).await.unwrap();
    let calls = (0..50).map(|number| client.echo(number.to_string()).into_future());
    for answer in futures_util::future::join_all(calls).await {
        answer.unwrap();
    }
    drop(client);
    arena.finish().await;
}

/// Row 46 in one process: nobody reads, so nothing more is produced.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_46_a_reader_that_gives_no_credit_stops_the_producer() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    bad.send(&open(1, "items", &arguments(&(1_000,)), true)).await;
    // The first window arrives; then the stream stands still.
    let mut received = 0;
    while received < 64 * 1024 {
        received += bad.expect(DATA).await.payload.len();
    }
    bad.send(&open(3, "echo", &arguments(&("other calls go on",)), true)).await;
    assert_eq!(bad.reply_of(3).await, arguments(&"other calls go on"));
    let produced = arena.counts.produced.load(Ordering::SeqCst);
    assert!(produced < 500, "{produced} items of 1,000 bytes for a window of 65,536");
    bad.send(&frame(RESET, 1, &[0; 4])).await;
    arena.until("the producer is gone", |arena| arena.live() == 0).await;
    assert_eq!(arena.counts.produced.load(Ordering::SeqCst), produced);
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_47_a_body_that_never_ends_ends_at_its_deadline() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    // Arguments that never become whole, and a stream that never ends.
    let mut body = head("echo", 50, &[]);
    body.extend_from_slice(&arguments(&("x".repeat(1_000),))[..500]);
    bad.send(&frame(OPEN, 1, &body)).await;
    let body = [head("count", 50, &[]), nothing()].concat();
    bad.send(&frame(OPEN, 2, &body)).await;
    for stream in [1, 2] {
        let end = bad.expect(super::bad::END).await;
        assert_eq!(end.payload[0], Code::DeadlineExceeded.as_u8(), "{stream}");
    }
    bad.vanish();
    arena.finish().await;
}
