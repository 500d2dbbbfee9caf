//! Retries through the real channel and servers: what they save, and what they cost when nothing can be saved.

use std::time::Duration;

use sinew::{AdaptiveThrottle, Channel, ChannelBuilder, OutlierDetection, RoundRobin};

use crate::pools::{Came, Figure, Manner, Manners, Pool, Scene, before, in_virtual_time, rows as rows_of};
use crate::table::{Goal, Row};

/// Calls a second.
const RATE: f64 = 1_000.0;

/// What a channel has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    /// Nothing else that would keep calls from servers that fail.
    RetriesOnly,
    /// All that it comes with.
    Defaults,
}

impl With {
    fn set(self, channel: ChannelBuilder) -> ChannelBuilder {
        match self {
            Self::RetriesOnly => channel.throttle(AdaptiveThrottle::NEVER),
            Self::Defaults => channel,
        }
    }

    /// The same where there are several servers.
    fn set_pool(self, channel: ChannelBuilder) -> ChannelBuilder {
        match self {
            Self::RetriesOnly => self.set(channel).balancer(RoundRobin).outlier_detection(OutlierDetection::NEVER),
            Self::Defaults => channel,
        }
    }
}

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn rows(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 7] = [
        ("a minute without any server that works", |seed| {
            outage(seed, With::RetriesOnly)
        }),
        ("the same behind two servers", |seed| {
            three_tiers(seed, With::RetriesOnly)
        }),
        ("one of ten servers fails", |seed| one_of_ten(seed, With::RetriesOnly)),
        (
            "ten thousand clients with a call in ten seconds, no server works",
            many_clients,
        ),
        ("a minute without any server that works, with the defaults", |seed| {
            outage(seed, With::Defaults)
        }),
        ("the same behind two servers, with the defaults", |seed| {
            three_tiers(seed, With::Defaults)
        }),
        ("one of ten servers fails, with the defaults", |seed| {
            one_of_ten(seed, With::Defaults)
        }),
    ];
    rows_of(&scenes, seeds, wanted)
}

/// From the 10th second to the 70th nothing works.
const OUTAGE: (f64, f64) = (10.0, 70.0);

/// How long calls are made.
const LASTS: f64 = 75.0;

fn answers() -> Manner {
    Manner::AnswersAfter(Duration::from_millis(5))
}

fn fails() -> Manner {
    Manner::FailsAfter(Duration::ZERO)
}

fn out_of_order(_: usize, at: f64, _: f64) -> Manner {
    if (OUTAGE.0..OUTAGE.1).contains(&at) {
        fails()
    } else {
        answers()
    }
}

async fn ten_servers(manners: Manners, seed: u64, with: With) -> Pool {
    Pool::open(10, manners, seed, |channel| with.set_pool(channel)).await
}

fn outage(seed: u64, with: With) -> Vec<Figure> {
    in_virtual_time(async move {
        let pool = ten_servers(out_of_order, seed, with).await;
        pool.drive(RATE, LASTS, seed).await;
        let came = pool.came();
        let count = |from: f64| came.iter().filter(|came| (from..from + 0.1).contains(&came.at)).count() as f64;
        let worst = (0..600).map(|tenth| count(OUTAGE.0 + f64::from(tenth) / 10.0)).fold(0.0, f64::max);
        let mut figures = amplification(&came);
        figures.push((worst / (RATE / 10.0), Goal::AtMost(1.5), "the same in the worst 0.1 s"));
        figures
    })
}

fn three_tiers(seed: u64, with: With) -> Vec<Figure> {
    in_virtual_time(async move {
        let pool = ten_servers(out_of_order, seed, with).await;
        let (_middle, channel) = before(pool.channel.clone(), |channel| with.set(channel)).await;
        let (_front, channel) = before(channel, |channel| with.set(channel)).await;
        pool.drive_through(&[channel], RATE, LASTS, seed).await;
        amplification(&pool.came())
    })
}

/// Of the outage.
fn amplification(came: &[Came]) -> Vec<Figure> {
    let (from, to) = OUTAGE;
    let count = |from: f64, to: f64| came.iter().filter(|came| (from..to).contains(&came.at)).count() as f64;
    let seconds = (0..60).map(|second| from + f64::from(second));
    // The generator itself is a call or two off at the ends of a second.
    let worst = seconds.map(|second| count(second, second + 1.0)).fold(0.0, f64::max);
    vec![
        (
            count(from, to) / ((to - from) * RATE),
            Goal::AtMost(1.05),
            "calls made of one",
        ),
        (worst / RATE, Goal::AtMost(1.10), "the same in the worst second"),
    ]
}

fn one_of_ten(seed: u64, with: With) -> Vec<Figure> {
    in_virtual_time(async move {
        let ill = |server, _, _| if server == 3 { fails() } else { answers() };
        let pool = ten_servers(ill, seed, with).await;
        let made = pool.drive(RATE, 60.0, seed).await;
        let calls = made.len() as f64;
        let answered = made.iter().filter(|made| made.succeeded).count() as f64;
        vec![
            (answered / calls, Goal::AtLeast(0.9995), "answered"),
            (
                pool.came().len() as f64 / calls,
                Goal::AtMost(1.13),
                "calls made of one",
            ),
        ]
    })
}

fn many_clients(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let pool = Pool::open(
            1,
            |_, _, _| fails(),
            seed,
            |channel| With::RetriesOnly.set_pool(channel),
        )
        .await;
        let target = pool.target(0);
        let channels: Vec<Channel> = (0..10_000).map(|_| Channel::lazy(&target).expect("it is an address")).collect();
        let made = pool.drive_through(&channels, RATE, 60.0, seed).await;
        let came = pool.came().len() as f64;
        vec![(came / made.len() as f64, Goal::AtMost(1.2), "calls made of one")]
    })
}
