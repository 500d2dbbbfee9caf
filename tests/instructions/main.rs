//! Instruction counts of the hot paths, held by `baseline.txt`: what a clock cannot tell apart on a shared machine, a count can.
//!
//! Without options each piece of work runs a few times, which is what plain `cargo test` does. `--gate` runs each under
//! `valgrind --tool=callgrind`, n and 2n times, so that the difference is free of start-up, and fails when one grew by more than 3 %.
//! `--renew` writes the counts down as the new baseline. Counts are those of a release build; they depend on the compiler, so a
//! baseline of another one is shown and not judged.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, reason = "a test")]

#[path = "../../benches/peers/load/src/messages.rs"]
#[expect(unreachable_pub, reason = "the peers have it as a public module of a crate")]
mod messages;
#[path = "../../benches/chain/services.rs"]
mod services;

use std::collections::{BTreeMap, HashMap};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use messages::{Echo, User};
use serde::Serialize;
use serde::de::DeserializeOwned;
use services::{Bare, Calls, Five, LeastClient, LeastServer, One};
use sinew::{Address, Channel, ConnectivityState, Endpoint, FixedList, Server, Service};
use sinew_core::method::Encoding;
use sinew_core::wire::codec;

/// How far a count may grow before the gate fails.
const TOLERANCE: f64 = 0.03;
/// Repetitions whose difference is counted; half of them are the warm-up of the other half.
const REPETITIONS: u32 = 1_000;
/// Calls to each endpoint before counting begins.
const WARM_CALLS: usize = 150;

/// Does a piece of work as often as it is told.
type Work = fn(u32);

/// The pieces of work, by name.
const WORK: &[(&str, Work)] = &[
    ("encode echo32 compact", |n| {
        encode(&Echo::sample(), Encoding::Compact, n);
    }),
    ("encode user compact", |n| encode(&user(), Encoding::Compact, n)),
    ("encode user named", |n| encode(&user(), Encoding::Named, n)),
    ("decode echo32 compact", |n| {
        decode(&Echo::sample(), Encoding::Compact, n);
    }),
    ("decode user compact", |n| decode(&user(), Encoding::Compact, n)),
    ("decode user named", |n| decode(&user(), Encoding::Named, n)),
    ("chain of 0 links", |n| chain(&LeastServer::new(Bare), n)),
    ("chain of 1 link", |n| chain(&LeastServer::new(One), n)),
    ("chain of 5 links", |n| chain(&LeastServer::new(Five), n)),
    ("call in memory, 1 in flight", |n| calls(1, n)),
    ("call in memory, 16 in flight", |n| calls(16, n)),
    ("call to the only endpoint of a service", |n| balanced_calls(1, n)),
    ("call to one of 60 endpoints", |n| balanced_calls(60, n)),
    ("call through a local client", local_calls),
];

fn main() -> ExitCode {
    let options: Vec<String> = env::args().skip(1).collect();
    match options.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--gate"] => gate(&measure_all()),
        ["--renew"] => {
            fs::write(baseline_path(), to_text(&measure_all())).expect("the baseline cannot be written");
            ExitCode::SUCCESS
        }
        ["--run", name, repetitions] => {
            let (_, work) = WORK.iter().find(|(known, _)| *known == name).expect("no such work");
            work(repetitions.parse().expect("the repetitions are a number"));
            ExitCode::SUCCESS
        }
        // Whatever `cargo test` passes on to filter tests.
        _ => {
            WORK.iter().for_each(|(_, work)| work(3));
            ExitCode::SUCCESS
        }
    }
}

/// The nested struct without its map: those are seeded at random, so that no two counts of one would be the same.
fn user() -> User {
    User {
        preferences: HashMap::new(),
        ..User::sample()
    }
}

fn encode<T: Serialize>(value: &T, encoding: Encoding, repetitions: u32) {
    let mut out = Vec::with_capacity(1024);
    for _ in 0..repetitions {
        out.clear();
        codec::encode_into(&mut out, black_box(value), encoding).unwrap();
    }
}

fn decode<T: Serialize + DeserializeOwned>(value: &T, encoding: Encoding, repetitions: u32) {
    let mut bytes = Vec::new();
    codec::encode_into(&mut bytes, value, encoding).unwrap();
    for _ in 0..repetitions {
        black_box(codec::decode::<T>(black_box(&bytes)).unwrap());
    }
}

fn chain(service: &impl Service, repetitions: u32) {
    let mut calls = Calls::of(service);
    for _ in 0..repetitions {
        calls.run();
    }
}

/// Runs `work` on one thread and a clock that stands still, so that no timer fires differently from run to run.
fn block_on<T>(work: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(work)
}

/// `rounds` rounds of `in_flight` calls over the in-memory transport: client, wire, mux, server, and back.
fn calls(in_flight: usize, rounds: u32) {
    block_on(async {
        let address = format!("mem:instructions-{in_flight}");
        let server = Server::builder().service(LeastServer::new(Bare)).bind(address).start().await.unwrap();
        let client = LeastClient::connect(&server.target()).await.unwrap();
        for _ in 0..rounds {
            let calls = futures_util::future::join_all((0..in_flight).map(|_| client.call().into_future()));
            assert!(calls.await.iter().all(|reply| *reply == Ok(7)));
        }
    });
}

/// Calls one after the other to a service with so many endpoints, which are all one server: what choosing costs, and what it does to nobody's cache.
fn balanced_calls(endpoints: usize, repetitions: u32) {
    block_on(async {
        fastrand::seed(7);
        let address = format!("mem:instructions-of-{endpoints}");
        let _server = Server::builder().service(LeastServer::new(Bare)).bind(&address).start().await.unwrap();
        let address: Address = address.parse().unwrap();
        let list = (0..endpoints).map(|number| Endpoint::new(address.clone()).with_name(number.to_string()));
        let channel = Channel::builder().resolver(FixedList::new(list)).connect("many").await.unwrap();
        while channel.snapshot().endpoints.iter().any(|one| one.state != ConnectivityState::Ready) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let client = LeastClient::from_channel(channel);
        // A server times the first handlers of a connection one by one.
        for _ in 0..WARM_CALLS * endpoints {
            assert_eq!(client.call().await, Ok(7));
        }
        for _ in 0..repetitions {
            assert_eq!(client.call().await, Ok(7));
        }
    });
}

fn local_calls(repetitions: u32) {
    block_on(async {
        let client = LeastClient::local(Bare);
        for _ in 0..repetitions {
            assert_eq!(client.call().await, Ok(7));
        }
    });
}

/// Instructions of one repetition, by name of the work.
type Counts = BTreeMap<String, u64>;

fn measure_all() -> Counts {
    if cfg!(debug_assertions) {
        panic!("counts are those of a release build: add --release");
    }
    let measure = |name: &str| {
        let once = collected(name, REPETITIONS);
        let twice = collected(name, 2 * REPETITIONS);
        (twice - once) / u64::from(REPETITIONS)
    };
    WORK.iter().map(|(name, _)| ((*name).to_owned(), measure(name))).collect()
}

/// All instructions of a process that repeats one piece of work.
fn collected(name: &str, repetitions: u32) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(env::current_exe().expect("this program has a path"))
        .args(["--run", name, &repetitions.to_string()])
        .output()
        .expect("valgrind cannot be started");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{name}: {text}");
    // The summary's line is `==pid== Collected : 123456`.
    let count = text.lines().find_map(|line| line.split_once("Collected : ")).expect("valgrind tells no count").1;
    count.trim().parse().expect("a count is a number")
}

fn gate(counts: &Counts) -> ExitCode {
    let text = fs::read_to_string(baseline_path()).unwrap_or_default();
    let (baseline, judged) = (from_text(&text), text.starts_with(&compiler()));
    let mut failed = false;
    println!("instructions of one repetition:");
    for (name, &count) in counts {
        let known = baseline.get(name).copied();
        let verdict = match known.map(|known| count as f64 / known as f64 - 1.0) {
            None => "not in the baseline: renew it".to_owned(),
            Some(change) if change > TOLERANCE => format!("{:+.1} %, more than allowed", change * 100.0),
            Some(change) if change < -TOLERANCE => format!("{:+.1} %, renew the baseline", change * 100.0),
            Some(change) => format!("{:+.1} %", change * 100.0),
        };
        failed |= known.is_none_or(|known| count as f64 > known as f64 * (1.0 + TOLERANCE));
        println!("{count:>9}  {name:<30} {verdict}");
    }
    if !judged {
        println!(
            "not judged: the baseline is that of another compiler ({})",
            text.lines().next().unwrap_or("none")
        );
        return ExitCode::SUCCESS;
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn baseline_path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/instructions/baseline.txt")
}

/// The compiler's version and the machine's kind: the first line of the baseline.
fn compiler() -> String {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().expect("rustc cannot be started");
    format!(
        "# {}, {}",
        String::from_utf8_lossy(&output.stdout).trim(),
        env::consts::ARCH
    )
}

fn to_text(counts: &Counts) -> String {
    let mut text = compiler() + "\n";
    for (name, count) in counts {
        writeln!(text, "{count:>9}  {name}").expect("a `String` takes all text");
    }
    text
}

fn from_text(text: &str) -> Counts {
    let line = |line: &str| {
        let (count, name) = line.trim().split_once("  ")?;
        Some((name.to_owned(), count.parse().ok()?))
    };
    text.lines().filter_map(line).collect()
}
