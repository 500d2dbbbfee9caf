//! Endpoints that are worse than the others, through the real channel and servers; retries are off, so that every failure shows.

use std::time::Duration;

use fastrand::Rng;
use sinew::{AdaptiveThrottle, ChannelBuilder, OutlierDetection, RetryPolicy, RoundRobin};
use sinew_core::policy::load::{Load, Typical, Verdict};
use sinew_core::policy::outlier::{Ejector, SWEEP_EVERY, Subject};
use sinew_core::time::now;

use crate::pools::{Came, Figure, Manner, Pool, Scene, in_virtual_time, rows as rows_of};
use crate::table::{Goal, Row};

const ENDPOINTS: usize = 10;
/// The one that is worse.
const ILL: usize = 3;
/// From then on.
const SINCE: f64 = 10.0;

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn rows(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 8] = [
        ("black hole, in turn", |seed| {
            black_hole(seed, |channel| channel.balancer(RoundRobin))
        }),
        ("black hole, by load", |seed| black_hole(seed, |channel| channel)),
        ("half of the calls fail at one of ten, 50 a second to each", partial),
        ("one of ten takes five times as long, in turn", slow),
        ("all fail from one moment on", all_fail),
        ("all fail for 20 s", recovery),
        ("one of ten calls fails everywhere, 10 min", uniform),
        ("24 h of ten healthy ones, 20 a second to each", a_day),
    ];
    rows_of(&scenes, seeds, wanted)
}

fn fails() -> Manner {
    Manner::FailsAfter(Duration::from_millis(1))
}

fn answers() -> Manner {
    Manner::AnswersAfter(Duration::from_millis(5))
}

/// It fails for a minute, in 1 ms, and then works.
fn black_hole(seed: u64, set: fn(ChannelBuilder) -> ChannelBuilder) -> Vec<Figure> {
    in_virtual_time(async move {
        let ill = |server, at, _| {
            if server == ILL && (SINCE..SINCE + 60.0).contains(&at) {
                fails()
            } else {
                answers()
            }
        };
        let pool = Pool::open(ENDPOINTS, ill, seed, |channel| set(channel.retry(RetryPolicy::NEVER))).await;
        let made = pool.drive(1_000.0, SINCE + 70.0, seed).await;
        let came = pool.came();
        let failed: Vec<f64> = came.iter().filter(|came| came.failed).map(|came| came.at).collect();
        // The first that comes half a second after the one before is a probe.
        let run = failed.windows(2).take_while(|pair| pair[1] - pair[0] < 0.5).count() + 1;
        let later = failed.len() - run.min(failed.len());
        let share = |from: f64, to: f64| {
            let within: Vec<&Came> = came.iter().filter(|came| (from..to).contains(&came.at)).collect();
            let own = within.iter().filter(|came| came.to == ILL).count();
            own as f64 * ENDPOINTS as f64 / within.len() as f64
        };
        let calls = made.len() as f64 * 60.0 / 80.0;
        vec![
            (run as f64, Goal::AtMost(5.0), "failures before it is avoided"),
            (later as f64 / calls, Goal::AtMost(0.000_5), "failed after that"),
            (
                share(SINCE + 65.0, SINCE + 70.0),
                Goal::AtLeast(0.8),
                "of its share, 5 s after it works again",
            ),
        ]
    })
}

/// When the ill one gets no calls for half a second for the first time, after it became ill.
fn noticed_after(came: &[Came], until: f64) -> f64 {
    let mut last = SINCE;
    for came in came.iter().filter(|came| came.to == ILL && came.at >= SINCE) {
        if came.at - last > 0.5 {
            break;
        }
        last = came.at;
    }
    if until - last < 0.5 {
        f64::INFINITY
    } else {
        last - SINCE
    }
}

fn partial(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let ill = |server, at, random| {
            if server == ILL && at >= SINCE && random < 0.5 {
                fails()
            } else {
                answers()
            }
        };
        let set = |channel: ChannelBuilder| channel.retry(RetryPolicy::NEVER).balancer(RoundRobin);
        let pool = Pool::open(ENDPOINTS, ill, seed, set).await;
        pool.drive(500.0, SINCE + 10.0, seed).await;
        vec![(
            noticed_after(&pool.came(), SINCE + 10.0),
            Goal::AtMost(2.0),
            "noticed after, s",
        )]
    })
}

fn slow(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let ill = |server, at, random: f64| {
            let takes = Duration::from_secs_f64(0.005 * (0.5 + random));
            Manner::AnswersAfter(if server == ILL && at >= SINCE { takes * 5 } else { takes })
        };
        let set = |channel: ChannelBuilder| {
            let also_slow = OutlierDetection::DEFAULT.latency_factor(3.0);
            channel.retry(RetryPolicy::NEVER).balancer(RoundRobin).outlier_detection(also_slow)
        };
        let pool = Pool::open(ENDPOINTS, ill, seed, set).await;
        pool.drive(500.0, SINCE + 10.0, seed).await;
        vec![(
            noticed_after(&pool.came(), SINCE + 10.0),
            Goal::AtMost(3.0),
            "noticed after, s",
        )]
    })
}

fn all_fail(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let ill = |_, at, _| if at >= SINCE { fails() } else { answers() };
        // It would leave out most calls, and then not all are called because there are so few.
        let set = |channel: ChannelBuilder| {
            channel.retry(RetryPolicy::NEVER).balancer(RoundRobin).throttle(AdaptiveThrottle::NEVER)
        };
        let pool = Pool::open(ENDPOINTS, ill, seed, set).await;
        pool.drive(500.0, SINCE + 10.0, seed).await;
        let called = |from: f64, to: f64| {
            let came = pool.came();
            let called = |one: &usize| came.iter().any(|came| came.to == *one && (from..to).contains(&came.at));
            (0..ENDPOINTS).filter(called).count() as f64
        };
        vec![
            (
                called(SINCE + 0.2, SINCE + 0.7),
                Goal::AtLeast(5.0),
                "endpoints that are called",
            ),
            (
                called(SINCE + 4.0, SINCE + 6.0),
                Goal::AtLeast(10.0),
                "the same after 4 s",
            ),
        ]
    })
}

/// They work again: nobody is left out for what was before, and with a throttle, which leaves out most calls meanwhile, all are called again soon.
fn recovery(seed: u64) -> Vec<Figure> {
    const AGAIN: f64 = SINCE + 20.0;
    let came = |throttle: AdaptiveThrottle| {
        in_virtual_time(async move {
            let ill = |_, at, _| {
                if (SINCE..AGAIN).contains(&at) {
                    fails()
                } else {
                    answers()
                }
            };
            let set = move |channel: ChannelBuilder| {
                channel.retry(RetryPolicy::NEVER).balancer(RoundRobin).throttle(throttle)
            };
            let pool = Pool::open(ENDPOINTS, ill, seed, set).await;
            pool.drive(500.0, AGAIN + 10.0, seed).await;
            pool.came().into_iter().filter(|came| came.at >= AGAIN).collect::<Vec<Came>>()
        })
    };
    let without = came(AdaptiveThrottle::NEVER);
    let times = |one: usize| without.iter().filter(move |came| came.to == one).map(|came| came.at - AGAIN);
    let gap = |one: usize| times(one).fold((0.0, 0.0), |(last, gap), at| (at, f64::max(gap, at - last))).1;
    let with = came(AdaptiveThrottle::DEFAULT);
    let first = |one: usize| with.iter().find(|came| came.to == one).map_or(f64::INFINITY, |came| came.at - AGAIN);
    vec![
        (
            (0..ENDPOINTS).filter(|&one| gap(one) > 0.5).count() as f64,
            Goal::AtMost(0.0),
            "left out after that, without a throttle",
        ),
        (
            (0..ENDPOINTS).map(first).fold(0.0, f64::max),
            Goal::AtMost(3.0),
            "all are called again after, with one, s",
        ),
    ]
}

fn uniform(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let ill = |_, _, random| if random < 0.1 { fails() } else { answers() };
        let set = |channel: ChannelBuilder| channel.retry(RetryPolicy::NEVER).balancer(RoundRobin);
        let pool = Pool::open(ENDPOINTS, ill, seed, set).await;
        pool.drive(500.0, 600.0, seed).await;
        let came = pool.came();
        let gap = |one: usize| {
            let times: Vec<f64> = came.iter().filter(|came| came.to == one).map(|came| came.at).collect();
            times.windows(2).map(|pair| pair[1] - pair[0]).fold(0.0, f64::max)
        };
        let ejected = (0..ENDPOINTS).filter(|&one| gap(one) > 0.5).count();
        vec![(ejected as f64, Goal::AtMost(0.0), "ejected")]
    })
}

/// Of the policy alone. One of a thousand calls fails, and one of five hundred takes 2 s.
fn a_day(seed: u64) -> Vec<Figure> {
    let mut rng = Rng::with_seed(seed);
    let start = now();
    let typical = Typical::new(start);
    let loads: Vec<Load> = (0..ENDPOINTS).map(|_| Load::default()).collect();
    let mut ejector = Ejector::new(OutlierDetection::DEFAULT.latency_factor(5.0));
    let (mut at, mut sweep, mut ejected) = (start, start, 0);
    while at < start + Duration::from_hours(24) {
        at += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / 200.0);
        let load = &loads[rng.usize(..ENDPOINTS)];
        let tail = (rng.f64() + rng.f64() + rng.f64() + rng.f64() - 2.0) * 1.4;
        let millis = if rng.f64() < 0.002 { 2_000.0 } else { 10.0 * tail.exp() };
        let verdict = if rng.f64() < 0.001 {
            Verdict::Failed
        } else {
            Verdict::Answered
        };
        let began = load.begin(|| at, &typical).unwrap_or(at);
        load.end(began, began + Duration::from_secs_f64(millis / 1e3), verdict, &typical);
        if at >= sweep || load.trouble() >= ejector.worth_a_look() {
            sweep = at + SWEEP_EVERY;
            let subject = |(id, load): (u64, &Load)| Subject {
                id,
                zone: "",
                route: 0,
                probe: None,
                seen: load.observation(),
            };
            let subjects: Vec<Subject<'_>> = (0..).zip(&loads).map(subject).collect();
            ejected += ejector.look(at, &subjects, || rng.f64()).ejected.len();
        }
    }
    vec![(ejected as f64, Goal::AtMost(0.0), "ejected")]
}
