//! Rate limits, throttles and circuit breakers: what comes through, and when it does again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use sinew::{
    AdaptiveThrottle, Channel, ChannelBuilder, CircuitBreaker, LimitKey, RateRule, RetryPolicy, Server, ServerPolicy,
    ServiceConfig, Serving, Status,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::pools::{Figure, Manner, Pool, Scene, in_virtual_time, rows as rows_of};
use crate::table::{Goal, Row};

/// Calls in a second that the limit allows.
const LIMIT: u32 = 500;
const SECOND: Duration = Duration::from_secs(1);
/// For how many seconds calls come.
const LASTS: f64 = 20.0;

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn limits(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 5] = [
        ("2,000 a second", |seed| at_random(seed, window())),
        ("2,000 a second, token bucket of 50", |seed| {
            at_random(seed, window().burst(50))
        }),
        ("500 before and after the turn of a second", |seed| {
            at_the_turn(seed, window())
        }),
        ("ten tenants, one has nine of ten calls", greedy),
        ("200 callers that come back when told", obedient),
    ];
    rows_of(&scenes, seeds, wanted)
}

/// The same of throttles and breakers.
pub(crate) fn breakers(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 2] = [
        ("throttle, a minute of failures", throttle),
        ("breaker, half of a minute of failures", breaker),
    ];
    rows_of(&scenes, seeds, wanted)
}

/// The same of faults on purpose.
pub(crate) fn faults(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 1] = [("a tenth fails, a fifth takes 50 ms longer", injected)];
    rows_of(&scenes, seeds, wanted)
}

#[cfg(not(feature = "faults"))]
fn injected(_: u64) -> Vec<Figure> {
    Vec::new()
}

#[cfg(feature = "faults")]
fn injected(seed: u64) -> Vec<Figure> {
    use sinew::faults::{Fault, Faults};
    in_virtual_time(async move {
        let faults = Faults::with_seed(seed);
        let set = |channel: ChannelBuilder| {
            let channel = channel.retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
            channel.faults(faults.clone())
        };
        let pool = Pool::open(1, |_, _, _| Manner::AnswersAfter(Duration::from_millis(5)), seed, set).await;
        faults.set([
            Fault::delay("50ms").percent(20.0),
            Fault::error(sinew::Code::Internal).percent(10.0),
        ]);
        let made = pool.drive(500.0, 60.0, seed).await;
        let calls = made.len() as f64;
        let failed = made.iter().filter(|made| !made.succeeded).count() as f64;
        let longer = made.iter().filter(|made| made.took >= Duration::from_millis(50)).count() as f64;
        let counts = faults.counts();
        vec![
            (failed / calls, Goal::AtMost(0.105), "failed"),
            (failed / calls, Goal::AtLeast(0.095), "failed, at least"),
            (longer / calls, Goal::AtMost(0.21), "took longer"),
            (longer / calls, Goal::AtLeast(0.19), "took longer, at least"),
            (
                (counts.failed as f64 - failed).abs(),
                Goal::AtMost(0.0),
                "counted, and not seen",
            ),
        ]
    })
}

fn window() -> RateRule {
    RateRule::new(LIMIT, SECOND)
}

#[sinew::service(name = "bench.Guarded")]
trait Guarded {
    async fn get(&self);
}

/// Notes when calls come, and for whom.
#[derive(Clone)]
struct Counted {
    start: Instant,
    came: Arc<Mutex<Vec<f64>>>,
}

impl Guarded for Counted {
    async fn get(&self) {
        self.came.lock().expect("nobody panicked").push(self.start.elapsed().as_secs_f64());
    }
}

/// A server with a limit, and a client that tells what becomes of every call.
struct Limited {
    client: GuardedClient,
    counted: Counted,
    /// Calls that were refused, and those of them that were told when to come back.
    refused: Arc<Mutex<(u64, u64)>>,
    _server: Serving,
}

impl Limited {
    async fn open(seed: u64, rule: RateRule) -> Self {
        fastrand::seed(seed);
        let counted = Counted {
            start: Instant::now(),
            came: Arc::default(),
        };
        let config = ServiceConfig::new().server(ServerPolicy::new().rate_limit(rule));
        let server = Server::builder()
            .service(GuardedServer::new(counted.clone()))
            .service_config("bench.Guarded", config);
        let server = server.bind(format!("mem:guarded-{}", fastrand::u64(..))).start().await.expect("it starts");
        let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
        let channel = channel.connect(&server.target()).await.expect("it is there");
        Self {
            client: GuardedClient::from_channel(channel),
            counted,
            refused: Arc::default(),
            _server: server,
        }
    }

    /// Makes a call at a time, for a tenant.
    async fn call(&self, at: f64, tenant: u64, answered: &Arc<Mutex<Vec<u64>>>) {
        sleep_until(self.counted.start + Duration::from_secs_f64(at)).await;
        let (client, refused, answered) = (self.client.clone(), Arc::clone(&self.refused), Arc::clone(answered));
        tokio::spawn(async move {
            match client.get().metadata("tenant", tenant.to_string()).await {
                Ok(()) => answered.lock().expect("nobody panicked").push(tenant),
                Err(status) => {
                    let mut refused = refused.lock().expect("nobody panicked");
                    refused.0 += 1;
                    refused.1 += u64::from(is_told_when(&status));
                }
            }
        });
    }

    fn came(&self) -> Vec<f64> {
        let mut came = self.counted.came.lock().expect("nobody panicked").clone();
        came.sort_unstable_by(f64::total_cmp);
        came
    }

    /// Calls that came through in any second, of the limit.
    fn worst_second(&self) -> f64 {
        let came = self.came();
        let within = |from: &f64| came.partition_point(|at| *at < from + 1.0) - came.partition_point(|at| at < from);
        came.iter().map(within).max().unwrap_or_default() as f64 / f64::from(LIMIT)
    }

    fn told_when(&self) -> f64 {
        let (refused, told) = *self.refused.lock().expect("nobody panicked");
        told as f64 / refused as f64
    }
}

fn is_told_when(status: &Status) -> bool {
    status.policy() == Some("rate_limit")
        && status.retry_after().is_some_and(|after| (Duration::from_millis(1)..=2 * SECOND).contains(&after))
}

fn at_random(seed: u64, rule: RateRule) -> Vec<Figure> {
    in_virtual_time(async move {
        let limited = Limited::open(seed, rule).await;
        let (mut rng, answered) = (Rng::with_seed(seed), Arc::default());
        let mut at = 0.0;
        while at < LASTS {
            limited.call(at, 0, &answered).await;
            at += -(1.0 - rng.f64()).ln() / 2_000.0;
        }
        sleep(SECOND).await;
        let through = limited.came().len() as f64 / (f64::from(LIMIT) * LASTS);
        vec![
            (through, Goal::AtLeast(0.98), "answered, of the limit"),
            (
                limited.worst_second(),
                Goal::AtMost(1.1),
                "the same in the worst of all seconds",
            ),
            (limited.told_when(), Goal::AtLeast(1.0), "told when to come back"),
        ]
    })
}

/// As many as the limit within a tenth of a second, and again right after the turn; then nothing for two.
fn at_the_turn(seed: u64, rule: RateRule) -> Vec<Figure> {
    in_virtual_time(async move {
        let limited = Limited::open(seed, rule).await;
        let (mut rng, answered) = (Rng::with_seed(seed), Arc::default());
        for turn in 1..8 {
            let turn = f64::from(3 * turn);
            let mut times: Vec<f64> = (0..2 * LIMIT).map(|_| turn - 0.1 + 0.2 * rng.f64()).collect();
            times.sort_unstable_by(f64::total_cmp);
            for at in times {
                limited.call(at, 0, &answered).await;
            }
        }
        sleep(SECOND).await;
        let worst = limited.worst_second();
        vec![(worst, Goal::AtMost(1.1), "in the worst of all seconds")]
    })
}

fn greedy(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let rule = RateRule::new(LIMIT / 10, SECOND).key(LimitKey::Metadata("tenant".to_owned()));
        let limited = Limited::open(seed, rule).await;
        let (mut rng, answered) = (Rng::with_seed(seed), Arc::new(Mutex::new(Vec::new())));
        let (mut at, mut modest) = (0.0, 0);
        while at < LASTS {
            let tenant = if rng.f64() < 0.9 { 0 } else { rng.u64(1..10) };
            modest += u64::from(tenant > 0);
            limited.call(at, tenant, &answered).await;
            at += -(1.0 - rng.f64()).ln() / 2_000.0;
        }
        sleep(SECOND).await;
        let answered = answered.lock().expect("nobody panicked");
        let of_greedy = answered.iter().filter(|tenant| **tenant == 0).count() as f64;
        vec![
            (
                (answered.len() as f64 - of_greedy) / modest as f64,
                Goal::AtLeast(1.0),
                "answered, of the others' calls",
            ),
            (
                of_greedy / (f64::from(LIMIT) / 10.0 * LASTS),
                Goal::AtMost(1.1),
                "answered of the one, of its limit",
            ),
        ]
    })
}

fn obedient(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let limited = Limited::open(seed, window()).await;
        let start = limited.counted.start;
        for _ in 0..200 {
            let (client, refused) = (limited.client.clone(), Arc::clone(&limited.refused));
            tokio::spawn(async move {
                while start.elapsed().as_secs_f64() < LASTS {
                    // What a call takes.
                    sleep(Duration::from_millis(10)).await;
                    if let Err(status) = client.get().await {
                        refused.lock().expect("nobody panicked").0 += 1;
                        sleep(status.retry_after().unwrap_or_default()).await;
                    }
                }
            });
        }
        sleep(Duration::from_secs_f64(LASTS + 2.0)).await;
        let came = limited.came().len() as f64;
        let refused = limited.refused.lock().expect("nobody panicked").0;
        vec![
            (
                came / (f64::from(LIMIT) * LASTS),
                Goal::AtLeast(0.95),
                "answered, of the limit",
            ),
            (refused as f64 / came, Goal::AtMost(1.0), "refusals for one answer"),
        ]
    })
}

fn out_of_order(from: f64, to: f64, at: f64) -> Manner {
    if (from..to).contains(&at) {
        Manner::FailsAfter(Duration::from_millis(1))
    } else {
        Manner::AnswersAfter(Duration::from_millis(5))
    }
}

/// When the server is called as before again: the first second from `since` on in which so many calls come.
fn called_again(came: &[f64], since: f64, a_second: f64) -> f64 {
    let within = |from: f64| came.iter().filter(|at| (from..from + 1.0).contains(*at)).count() as f64;
    let tenths = (0..600).map(|tenth| since + f64::from(tenth) / 10.0);
    tenths
        .into_iter()
        .find(|from| within(*from) >= 0.95 * a_second)
        .map_or(f64::INFINITY, |from| from - since)
}

async fn times(pool: &Pool, rate: f64, until: f64, seed: u64) -> Vec<f64> {
    pool.drive(rate, until, seed).await;
    pool.came().iter().map(|came| came.at).collect()
}

fn count(came: &[f64], from: f64, to: f64) -> f64 {
    came.iter().filter(|at| (from..to).contains(*at)).count() as f64
}

fn throttle(seed: u64) -> Vec<Figure> {
    const RATE: f64 = 200.0;
    in_virtual_time(async move {
        let manners = |_, at, _| out_of_order(10.0, 70.0, at);
        let pool = Pool::open(1, manners, seed, |channel| channel.retry(RetryPolicy::NEVER)).await;
        let came = times(&pool, RATE, 80.0, seed).await;
        let of = |from, to| count(&came, from, to) / (RATE * (to - from));
        vec![
            (of(10.0, 70.0), Goal::AtMost(0.1), "calls that are sent"),
            (of(14.0, 70.0), Goal::AtMost(0.05), "the same from 4 s on"),
            (of(0.0, 10.0), Goal::AtLeast(0.999), "the same before"),
            (
                called_again(&came, 70.0, RATE),
                Goal::AtMost(5.0),
                "all are sent again after, s",
            ),
        ]
    })
}

fn breaker(seed: u64) -> Vec<Figure> {
    const RATE: f64 = 200.0;
    in_virtual_time(async move {
        let manners = |_, at, _| out_of_order(20.0, 50.0, at);
        let set = |channel: ChannelBuilder| {
            let channel = channel.retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
            channel.circuit_breaker(CircuitBreaker::DEFAULT)
        };
        let pool = Pool::open(1, manners, seed, set).await;
        let came = times(&pool, RATE, 90.0, seed).await;
        let opened =
            came.windows(2).find(|pair| pair[0] >= 20.0 && pair[1] - pair[0] > 0.5).map_or(50.0, |pair| pair[0]);
        vec![
            (opened - 20.0, Goal::AtMost(6.0), "opens after, s"),
            (
                count(&came, opened + 0.01, 50.0) / (RATE * (50.0 - opened)),
                Goal::AtMost(0.005),
                "calls that are sent while it is open",
            ),
            (
                called_again(&came, 50.0, RATE),
                Goal::AtMost(22.0),
                "all are sent again after, s",
            ),
        ]
    })
}
