//! Memory of a server that is attacked, as the system sees it: the server runs in a process of its own.
//!
//! Rows 3, 13 and 46, and the floods of rows 10, 16 to 21 and 25. The peak of the resident set is what counts, so each attack gets a fresh process.

use bytes::Bytes;

use super::arena::{TargetClient, TargetServer, Victim};
use super::bad::{Bad, DATA, HELLO, OPEN, PREFACE, arguments, frame, head, message, nothing, open};
use super::child::{Role, released, role, say};
use super::{floods, wire};

/// What a server may grow by, in KiB: the windows that it announced for one connection, and slack for the allocator and debug builds.
const GROWTH_KIB_MAX: u64 = 48 * 1024;

/// Runs a server in a process of its own, lets `attack` loose, and returns by how many KiB its peak grew.
async fn growth(attack: impl AsyncFnOnce(String)) -> u64 {
    let (role, target) = Role::start("memory::server_of_its_own", "serve").listen().await;
    let target = target.unwrap();
    // Connections and buffers that every server has do not count.
    let mut warm = Bad::greeted(&target).await;
    warm.send(&open(1, "echo", &arguments(&("x".repeat(10_000),)), true)).await;
    warm.reply_of(1).await;
    let (before, mut role) = peak(role).await;
    attack(target).await;
    warm.send(&open(2, "echo", &arguments(&("still here",)), true)).await;
    assert_eq!(warm.reply_of(2).await, arguments(&"still here"));
    let (after, mut done) = {
        role.tell("again");
        peak(role).await
    };
    done.release();
    assert!(done.wait());
    after - before
}

async fn peak(mut role: Role) -> (u64, Role) {
    role.tell("peak");
    let (role, line) = role.listen().await;
    (line.unwrap().parse().unwrap(), role)
}

/// Started by the tests of this module.
#[tokio::test]
#[ignore = "a role of the tests above"]
async fn server_of_its_own() {
    if role().is_none() {
        return;
    }
    let serving = sinew::Server::builder()
        .service(TargetServer::new(Victim::default()))
        .bind("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    say(&serving.target());
    tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
            if line.trim() == "peak" {
                let status = std::fs::read_to_string("/proc/self/status").unwrap();
                let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
                say(peak.trim().trim_end_matches(" kB"));
            }
            line.clear();
        }
    })
    .await
    .unwrap();
    released().await;
    drop(serving);
}

/// 3 KB that claim a thousand nested arrays of 65,535 elements: 1 GB for a reader that believes them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_13_claimed_elements_cost_no_memory() {
    let grown = growth(async |target| {
        let mut bad = Bad::greeted(&target).await;
        let mut stream = 0;
        for (method, link) in [
            (
                "tree",
                &[0x81, 0xa5, b'b', b'e', b'l', b'o', b'w', 0xdc, 0xff, 0xff][..],
            ),
            ("tree", &[0xdc, 0xff, 0xff]),
            ("echo", &[0xdf, 0xff, 0xff, 0xff, 0xff]),
        ] {
            for times in [1, 20, 60, 1_000] {
                stream += 1;
                let bytes: Vec<u8> =
                    [0x91].into_iter().chain(link.iter().copied().cycle().take(link.len() * times)).collect();
                bad.send(&open(stream, method, &message(&bytes), true)).await;
                assert_eq!(bad.end_of(stream).await, sinew::Code::InvalidArgument.as_u8());
            }
        }
    })
    .await;
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB");
}

/// Many calls whose messages claim 4 MiB each and never come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_claimed_lengths_cost_no_memory() {
    let grown = growth(async |target| {
        let mut bad = Bad::greeted(&target).await;
        for stream in 1..=1_000 {
            bad.send(&open(
                stream,
                "large",
                &[&0x0040_0000_u32.to_be_bytes()[..], &[1; 100]].concat(),
                false,
            ))
            .await;
        }
        bad.send(&open(2_000, "echo", &arguments(&("x",)), true)).await;
        bad.reply_of(2_000).await;
    })
    .await;
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB");
}

/// As much as 200 streams take before the connection's window is used up; nothing of it is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_46_what_is_not_read_is_bounded_by_the_window() {
    let grown = growth(async |target| {
        let mut bad = Bad::greeted(&target).await;
        let item = message(&rmp_serde::to_vec(&Bytes::from(vec![7; 30_000])).unwrap());
        // One window of the connection and no more: the next byte would be an error.
        let mut left = 16 * 1024 * 1024 - 100_000;
        for stream in 1..=200 {
            bad.send(&open(stream, "hold", &nothing(), false)).await;
            for _ in 0..30 {
                if left > item.len() {
                    bad.send(&frame(DATA, stream, &item)).await;
                    left -= item.len();
                }
            }
        }
        bad.send(&frame(super::bad::PING, 0, &[1; 8])).await;
        bad.expect(super::bad::PONG).await;
    })
    .await;
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB");
}

/// Large answers that nobody takes, with deadlines: what stands in line is dropped when they pass.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_46_answers_that_nobody_takes_are_dropped_at_their_deadline() {
    let grown = growth(async |target| {
        let mut bad = Bad::greeted(&target).await;
        for round in 0..100 {
            for number in 1..=8 {
                let bytes = [head("large", 5, &[]), arguments(&(1_000_000,))].concat();
                bad.send(&frame(OPEN | super::bad::FIN, round * 8 + number, &bytes)).await;
            }
            for _ in 0..8 {
                assert_eq!(
                    bad.expect(super::bad::END).await.payload[0],
                    sinew::Code::DeadlineExceeded.as_u8()
                );
            }
        }
    })
    .await;
    assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB");
}

/// What the server may grow by when ten times as much of something allowed is done to it, in KiB: what the allocator's moods come to.
const TENFOLD_KIB_MAX: u64 = 4 * 1024;

/// What nobody is sent away for can go on for ever, so it must leave nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_ten_times_as_many_unknown_methods_cost_the_same() {
    let once = growth(async |target| wire::unknown_methods(&target, 10).await).await;
    let tenfold = growth(async |target| wire::unknown_methods(&target, 100).await).await;
    assert!(tenfold <= once + TENFOLD_KIB_MAX, "{once} KiB, and {tenfold} KiB");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_19_ten_times_as_many_calls_that_are_given_up_cost_the_same() {
    let flood = async |target: String, rounds| floods::calls_that_are_given_up(&target, rounds).await.vanish();
    let once = growth(async |target| flood(target, 1_000).await).await;
    let tenfold = growth(async |target| flood(target, 10_000).await).await;
    assert!(tenfold <= once + TENFOLD_KIB_MAX, "{once} KiB, and {tenfold} KiB");
}

/// A HELLO that gives as much credit as anybody may want.
fn generous_hello() -> Vec<u8> {
    let mut map = vec![0x82];
    for name in ["stream_window", "connection_window"] {
        map.push(0xa0 | u8::try_from(name.len()).unwrap());
        map.extend_from_slice(name.as_bytes());
        map.push(0xce);
        map.extend_from_slice(&(1_u32 << 30).to_be_bytes());
    }
    frame(HELLO, 0, &map)
}

/// Calls `method` until the server reads no more, and never reads an answer.
async fn deaf(target: &str, method: &str, body: &[u8]) {
    let good = TargetClient::connect(target).await.unwrap();
    let stream = tokio::net::TcpStream::connect(target.trim_start_matches("tcp://")).await.unwrap();
    let mut rest = [PREFACE, &generous_hello()].concat();
    let (mut number, mut sent, mut refused) = (0, 0, 0);
    // That nothing is taken while a good client is answered a thousand times is what "no more" means here.
    while refused < 50 {
        if rest.is_empty() {
            rest = (1..=100).flat_map(|next| open(number + next, method, body, true)).collect();
            number += 100;
        }
        match stream.try_write(&rest) {
            Ok(written) => {
                rest.drain(..written);
                sent += written;
                refused = 0;
            }
            // On a machine that is busy enough the server has given it up by now, because it answers no ping.
            Err(error) if error.kind() != std::io::ErrorKind::WouldBlock => break,
            Err(_) => {
                refused += 1;
                for _ in 0..20 {
                    good.echo("still here".to_owned()).await.unwrap();
                }
            }
        }
        assert!(
            sent < 256 * 1024 * 1024,
            "the server reads on, though nobody takes its answers"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_46_a_peer_that_never_reads_is_not_heard() {
    for (method, body) in [
        ("echo", arguments(&("x".repeat(100),))),
        ("nothing", nothing()),
        // As many as may run at a time, each with its answer.
        ("large", arguments(&(10_000,))),
    ] {
        let grown = growth(async |target| deaf(&target, method, &body).await).await;
        assert!(grown <= GROWTH_KIB_MAX, "{method}: {grown} KiB");
    }
}

/// What the other modules do to a server next to a good client, done to one whose memory is read.
macro_rules! floods_cost_no_memory {
    ($($row:ident: $flood:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $row() {
            let grown = growth(async |target| {
                $flood(&target).await;
            })
            .await;
            assert!(grown <= GROWTH_KIB_MAX, "{grown} KiB");
        }
    )*};
}

floods_cost_no_memory! {
    row_10_frames_that_carry_nothing_cost_no_memory: floods::frames_that_carry_nothing;
    row_17_rapid_resets_cost_no_memory: floods::rapid_resets;
    row_18_provoked_resets_cost_no_memory: floods::provoked_resets;
    row_20_pings_cost_no_memory: floods::pings;
    row_21_credit_that_cannot_be_costs_no_memory: floods::credit_that_cannot_be;
    row_25_calls_above_the_limit_cost_no_memory: async |target: &str| floods::calls_above_the_limit(target, 1_024).await;
}
