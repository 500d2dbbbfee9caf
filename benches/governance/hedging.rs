//! One replica of eleven takes 2 s in place of 167 ms for half of a minute: what a second call at another saves, and what it costs.

use std::time::Duration;

use sinew::{ChannelBuilder, HedgingPolicy, RoundRobin};

use crate::pools::{Figure, Made, Manner, Pool, Scene, in_virtual_time, rows as rows_of};
use crate::table::{Goal, Row};

const REPLICAS: usize = 11;
const RATE: f64 = 1_000.0;
/// The slow one, and when it is.
const SLOW: usize = 5;
const WHEN: (f64, f64) = (15.0, 45.0);
const LASTS: f64 = 60.0;

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn rows(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 3] = [
        ("slow replica", |seed| slow_replica(seed, |channel| channel, 0.02, 1.0)),
        ("slow replica, in turn, 10 % budget", |seed| {
            slow_replica(seed, |channel| channel.balancer(RoundRobin), 0.1, 5.0)
        }),
        ("nobody is slow, but answers vary", nobody_is_slow),
    ];
    rows_of(&scenes, seeds, wanted)
}

fn manners(server: usize, at: f64, random: f64) -> Manner {
    let is_slow = server == SLOW && (WHEN.0..WHEN.1).contains(&at);
    let millis = if is_slow { 2_000.0 } else { 162.0 + 10.0 * random };
    Manner::AnswersAfter(Duration::from_secs_f64(millis / 1e3))
}

/// The latencies of all calls in order, and how many calls came to servers for each that was made.
async fn run(
    set: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
    seed: u64,
    manners: crate::pools::Manners,
) -> (Vec<f64>, f64) {
    let pool = Pool::open(REPLICAS, manners, seed, set).await;
    let mut times: Vec<f64> =
        pool.drive(RATE, LASTS, seed).await.iter().map(|Made { took, .. }| took.as_secs_f64()).collect();
    times.sort_unstable_by(f64::total_cmp);
    let came = pool.came().len() as f64 / times.len() as f64;
    (times, came)
}

/// What all but one of a thousand take at the most.
fn of_a_thousand(times: &[f64]) -> f64 {
    times[times.len() * 999 / 1_000]
}

fn slow_replica(seed: u64, set: fn(ChannelBuilder) -> ChannelBuilder, budget: f64, cut_least: f64) -> Vec<Figure> {
    in_virtual_time(async move {
        let (without, _) = run(set, seed, manners).await;
        let hedging = HedgingPolicy::DEFAULT.budget(budget);
        let (with, came) = run(|channel| set(channel).hedging(hedging), seed, manners).await;
        let within = |times: &[f64]| times.iter().filter(|time| **time < 1.0).count() as f64 / times.len() as f64;
        let cut = of_a_thousand(&without) / of_a_thousand(&with);
        vec![
            (within(&without), Goal::AtLeast(0.95), "within 1 s without hedging"),
            (within(&with), Goal::AtLeast(0.999_95), "within 1 s"),
            // By load hardly any call is slow in the first place.
            (cut, Goal::AtLeast(cut_least), "times as long 99.9 % take without"),
            (came - 1.0, Goal::AtMost(0.02), "calls more"),
        ]
    })
}

fn nobody_is_slow(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        // Exponential, 5 ms on average.
        let steady = |_, _, random: f64| Manner::AnswersAfter(Duration::from_secs_f64(-(1.0 - random).ln() * 0.005));
        let (_, came) = run(|channel| channel.hedging(HedgingPolicy::DEFAULT), seed, steady).await;
        vec![(came - 1.0, Goal::AtMost(0.02), "calls more")]
    })
}
