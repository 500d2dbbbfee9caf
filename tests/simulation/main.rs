//! A seeded simulation: clients, servers and a network that cuts, delays, stalls and kills, in virtual time.
//!
//! Every seed is a little world of its own on one thread with a paused clock. What must hold in each of them:
//! - every call ends exactly once, never before its deadline says so and never later than a tick after it;
//! - the handler of a call that is not idempotent begins at most once, exactly once if the call succeeded, and not at all, not even later, if the
//!   status says that it did not run;
//! - streams arrive whole and in order, or end with an error;
//! - when all calls are over, no handler, stream or connection is left.
//!
//! `SINEW_SEED=17` replays one seed, `SINEW_SEEDS=20000` runs as many; the seed is printed when it fails.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, a broken expectation is a panic"
)]

mod calls;
mod faulty;
mod world;

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use sinew::{Channel, Limits};

use calls::Caller;
use faulty::Fate;
use world::{Dialler, Ledger, Net, Tally, WorldClient};

/// Seeds of a plain run.
const SEEDS: u64 = 200;
/// Virtual time after which a world that still has calls is stuck.
const WORLD_TIME_MAX: Duration = Duration::from_secs(600);

#[test]
fn calls_end_once_whatever_the_network_does() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a seed is a number"));
    let seeds = match number("SINEW_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("SINEW_SEEDS").unwrap_or(SEEDS),
    };
    let many = seeds.end - seeds.start >= SEEDS;
    let mut tally = Tally::default();
    for seed in seeds {
        match std::panic::catch_unwind(|| run(seed)) {
            Ok(of_seed) => tally.add(&of_seed),
            Err(panic) => {
                println!("seed {seed} failed; replay it with SINEW_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    println!("{tally:?}");
    // Worlds in which nothing goes wrong, or nothing goes well, would prove nothing.
    let Tally {
        answered,
        late,
        unavailable_not_run,
        unavailable_maybe_run,
        given_up,
    } = tally;
    for count in [answered, late, unavailable_not_run, unavailable_maybe_run, given_up] {
        assert!(!many || count > 100, "too few of one kind: {tally:?}");
    }
}

fn run(seed: u64) -> Tally {
    // What the client's backoff draws from.
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let world = async {
        tokio::time::timeout(WORLD_TIME_MAX, live(Rng::with_seed(seed)))
            .await
            .expect("some call never ended")
    };
    runtime.block_on(world)
}

/// Limits that make credit, streams and frames scarce in some worlds.
fn limits(rng: &mut Rng) -> Limits {
    let mut limits = Limits {
        keepalive_interval: Some(Duration::from_millis(500)),
        keepalive_timeout: Duration::from_millis(500),
        ping_interval_min: Duration::from_millis(10),
        // A stalled link without calls is found by nothing else.
        idle_timeout: Some(Duration::from_secs(20)),
        ..Limits::default()
    };
    if rng.bool() {
        limits.stream_window = 64 * 1024;
        limits.connection_window = 1024 * 1024;
    }
    if rng.bool() {
        limits.max_streams = rng.u32(1..10);
    }
    limits
}

/// One world, from its first call to the silence after its last.
async fn live(mut rng: Rng) -> Tally {
    let ledger = Arc::new(Ledger::default());
    let net = Net::new(&ledger, limits(&mut rng), rng.fork());
    net.start_server().await;
    let fates = tokio::spawn(fate(Arc::clone(&net), rng.fork()));
    let mut clients = Vec::new();
    let mut callers = Vec::new();
    for client in 0..rng.u64(1..4) {
        let builder = Channel::builder().limits(limits(&mut rng));
        let channel = builder.with_connector("simulated", Dialler(Arc::clone(&net))).unwrap();
        for caller in 0..rng.u64(1..6) {
            let caller = Caller {
                client: WorldClient::from_channel(channel.clone()),
                ledger: Arc::clone(&ledger),
                rng: rng.fork(),
                nonces: (client * 100 + caller) * 1_000..,
                dawdled: Duration::ZERO,
            };
            callers.push(tokio::spawn(caller.call_for_a_while()));
        }
        clients.push(channel);
    }
    for caller in callers {
        caller.await.unwrap();
    }
    fates.await.unwrap();
    // The clients are still there, the calls are not: whatever their deadlines and cancellations left at a server ends by itself.
    until(|| ledger.live() == 0, || format!("{} handlers are left", ledger.live())).await;
    drop(clients);
    until(
        || net.gauges() == (0, 0),
        || format!("connections and handlers are left: {:?}", net.gauges()),
    )
    .await;
    ledger.close()
}

/// What befalls the servers and links of a world.
async fn fate(net: Arc<Net>, mut rng: Rng) {
    let mut leaving = Vec::new();
    for _ in 0..rng.u32(0..12) {
        tokio::time::sleep(Duration::from_millis(rng.u64(1..600))).await;
        match rng.u8(..10) {
            0..4 => net.hurt(rng.usize(..), Fate::Cut),
            4..6 => net.hurt(rng.usize(..), Fate::Stalled),
            which @ (6 | 7) => {
                // A server that is killed, or stops at once, and its successor.
                if which == 6 {
                    net.kill_server();
                } else {
                    drop(net.take_server());
                }
                tokio::time::sleep(Duration::from_millis(rng.u64(0..300))).await;
                drop(net.start_server().await);
            }
            _ => {
                // A server that leaves in order while its successor is there already.
                if let Some(old) = net.start_server().await {
                    leaving.push(tokio::spawn(old.shutdown()));
                }
            }
        }
    }
    for leaving in leaving {
        leaving.await.unwrap();
    }
}

/// Waits, in virtual time, until something is so.
async fn until(is_so: impl Fn() -> bool, what: impl Fn() -> String) {
    for _ in 0..60_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("{}", what());
}
