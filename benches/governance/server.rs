//! The same through the real channel and server, with what runs short in three places that nobody told the server about.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use fastrand::Rng;
use sinew::{AdaptiveThrottle, Channel, Code, Priority, RetryPolicy, Server, Serving, Status, Streaming};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::time::{Instant, advance, sleep, sleep_until, timeout};

use crate::simulator::{Outcome, Work};

/// What runs short, at 1,600 calls a second.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bottleneck {
    /// 16 places of a pool, taken inside the handler.
    Pool,
    /// Another server with such a pool, which the handler calls.
    Downstream,
    /// The processor: one, which works on one handler at a time. A call takes a sixteenth of what it takes elsewhere.
    Processor,
    /// Nothing: calls take their time, however many there are.
    Nothing,
}

/// How often the server is asked whether it is well, how soon it has to say so, and after how many times its limit is noted.
const HEALTH_EVERY: Duration = Duration::from_millis(100);
const HEALTH_WITHIN: Duration = Duration::from_millis(250);
const LIMIT_EVERY: u32 = 5;
pub(crate) const WORKERS: usize = 16;
/// Calls in a second that each of them is capable of.
pub(crate) const CAPACITY: f64 = 1_600.0;

/// What comes to the server.
#[derive(Clone, Copy)]
pub(crate) struct Traffic {
    pub(crate) bottleneck: Bottleneck,
    /// How many times the capacity at a time, in seconds.
    pub(crate) load: fn(f64) -> f64,
    /// What callers wait for.
    pub(crate) deadline: Duration,
    /// As many callers, besides, make one call after the other.
    pub(crate) in_turn: usize,
    pub(crate) work: Work,
    /// Calls are streams, open for as long; where nothing runs short only.
    pub(crate) streams: bool,
    /// How many times as long calls take that begin at a time, in seconds.
    pub(crate) slowness: fn(f64) -> f64,
    /// When calls do not go on, in seconds.
    pub(crate) stops: (f64, f64),
    /// The part of the calls that is critical, and the only one that is counted if there is one.
    pub(crate) critical: f64,
    /// What it takes to turn a call away, as a part of what it takes to answer one; on the processor only.
    pub(crate) refusal: f64,
    pub(crate) end: Duration,
    /// Only calls that arrive then are counted.
    pub(crate) counted: (Duration, Duration),
}

#[sinew::service(name = "bench.Work")]
trait Works {
    async fn work(&self, micros: u64);
}

#[sinew::service(name = "bench.Watch")]
trait Watches {
    async fn watch(&self, micros: u64) -> Result<Streaming<u64>, Status>;
}

struct Pool {
    places: Semaphore,
    since: Instant,
    stops: (f64, f64),
}

impl Pool {
    fn new(stops: (f64, f64)) -> Self {
        Self {
            places: Semaphore::new(WORKERS),
            since: Instant::now(),
            stops,
        }
    }
}

impl Works for Pool {
    async fn work(&self, micros: u64) {
        if let Ok(_place) = self.places.acquire().await {
            sleep(Duration::from_micros(micros)).await;
            let (from, to) = self.stops;
            if (from..to).contains(&self.since.elapsed().as_secs_f64()) {
                sleep_until(self.since + Duration::from_secs_f64(to)).await;
            }
        }
    }
}

struct Front(WorksClient);

impl Works for Front {
    async fn work(&self, micros: u64) {
        // Its caller counts only what comes back in time.
        let _late = self.0.work(micros).await;
    }
}

struct Processor;

impl Works for Processor {
    async fn work(&self, micros: u64) {
        compute(Duration::from_micros(micros));
    }
}

struct Idle;

impl Works for Idle {
    async fn work(&self, micros: u64) {
        sleep(Duration::from_micros(micros)).await;
    }
}

impl Watches for Idle {
    async fn watch(&self, micros: u64) -> Result<Streaming<u64>, Status> {
        let (sender, items) = Streaming::channel(1);
        tokio::spawn(async move {
            // Whoever does not listen any more has its reasons.
            if sender.send(micros).await.is_ok() {
                sleep(Duration::from_micros(micros)).await;
            }
        });
        Ok(items)
    }
}

/// Time goes by, and nobody else gets to run.
fn compute(duration: Duration) {
    let went_by = pin!(advance(duration));
    // The clock moves in the first poll; what follows would let others run.
    let _moved = went_by.poll(&mut Context::from_waker(Waker::noop()));
}

/// Who makes the calls.
struct Caller {
    client: WorksClient,
    watching: WatchesClient,
    traffic: Traffic,
    start: Instant,
    outcome: Mutex<Outcome>,
}

/// Runs it, in virtual time.
pub(crate) fn run(traffic: Traffic, seed: u64) -> Outcome {
    // What the channel draws from.
    fastrand::seed(seed);
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime starts");
    runtime.block_on(drive(traffic, seed))
}

async fn drive(traffic: Traffic, seed: u64) -> Outcome {
    let (channel, servers) = connect(traffic.bottleneck, traffic.stops).await;
    let caller = Arc::new(Caller {
        client: WorksClient::from_channel(channel.clone()),
        watching: WatchesClient::from_channel(channel),
        traffic,
        start: Instant::now(),
        outcome: Mutex::default(),
    });
    tokio::spawn(Arc::clone(&caller).look_around(servers));
    for number in 0..traffic.in_turn {
        let (caller, mut rng) = (Arc::clone(&caller), Rng::with_seed(seed << 32 | number as u64));
        tokio::spawn(async move {
            while caller.start.elapsed() < traffic.end {
                let refused = caller
                    .call(
                        caller.start.elapsed(),
                        false,
                        takes(&traffic, caller.start.elapsed(), &mut rng),
                    )
                    .await;
                // Who is told no comes back when it is asked to.
                if let Some(after) = refused.and_then(|status| status.retry_after()) {
                    sleep(after).await;
                }
            }
        });
    }
    let mut rng = Rng::with_seed(seed);
    let mut at = Duration::ZERO;
    loop {
        let rate = CAPACITY * (traffic.load)(at.as_secs_f64()).max(1e-9);
        at += Duration::from_secs_f64(-(1.0 - rng.f64()).ln() / rate);
        if at >= traffic.end {
            break;
        }
        sleep_until(caller.start + at).await;
        let is_critical = rng.f64() < traffic.critical;
        let takes = takes(&traffic, at, &mut rng);
        let caller = Arc::clone(&caller);
        tokio::spawn(async move { caller.call(at, is_critical, takes).await });
    }
    // Who is still waited for has as much time as anybody.
    sleep_until(caller.start + traffic.end + 2 * traffic.deadline).await;
    std::mem::take(&mut *caller.outcome.lock().expect("nobody panicked"))
}

impl Caller {
    /// Notes the limit, and asks whether the server is well, all the time that counts.
    async fn look_around(self: Arc<Self>, servers: Vec<Serving>) {
        let (from, to) = self.traffic.counted;
        sleep_until(self.start + from).await;
        let mut counted = 0;
        while self.start.elapsed() < to {
            let (check, since) = (self.client.channel().health_of(""), Instant::now());
            let is_well = timeout(HEALTH_WITHIN, check).await.is_ok_and(|health| health.is_ok());
            let limits = servers[0].snapshot().admission.map(|admission| admission.methods).unwrap_or_default();
            let limit = limits.iter().find_map(|method| method.limit);
            {
                let mut outcome = self.outcome.lock().expect("nobody panicked");
                outcome.health.0 += u64::from(is_well);
                outcome.health.1 += 1;
                if counted % LIMIT_EVERY == 0 {
                    outcome.limits.push(limit.map_or(f64::NAN, f64::from));
                }
            }
            counted += 1;
            sleep_until(since + HEALTH_EVERY).await;
        }
        // They serve for as long as anybody waits.
        sleep_until(self.start + self.traffic.end + 2 * self.traffic.deadline).await;
    }

    /// Makes a call that arrives `at` a time since the start; returns why it was refused if it was.
    async fn call(&self, at: Duration, is_critical: bool, takes: Duration) -> Option<Status> {
        let traffic = &self.traffic;
        // Where a refusal takes time, it takes that of the processor which makes the calls as well: they are late before they are made.
        let made_at = if traffic.refusal > 0.0 {
            self.start.elapsed()
        } else {
            at
        };
        let priority = if is_critical {
            Priority::Critical
        } else {
            Priority::Normal
        };
        let micros = u64::try_from(takes.as_micros()).expect("it is short");
        let answer = if traffic.streams {
            self.watch(micros).await
        } else {
            self.client.work(micros).timeout(traffic.deadline).priority(priority).await
        };
        let is_good = answer.is_ok();
        let refused = answer.err().filter(|status| status.code() == Code::ResourceExhausted);
        if refused.is_some() && traffic.refusal > 0.0 {
            compute(takes.mul_f64(traffic.refusal));
        }
        let (from, to) = traffic.counted;
        if (from..to).contains(&at) && is_critical == (traffic.critical > 0.0) {
            let latency = self.start.elapsed().saturating_sub(made_at);
            let mut outcome = self.outcome.lock().expect("nobody panicked");
            outcome.count(
                traffic.deadline,
                is_good.then_some(latency),
                refused.as_ref().map(|_| latency),
            );
        }
        refused
    }

    async fn watch(&self, micros: u64) -> Result<(), Status> {
        let mut items = self.watching.watch(micros).await?;
        while items.next().await.transpose()?.is_some() {}
        Ok(())
    }
}

async fn connect(bottleneck: Bottleneck, stops: (f64, f64)) -> (Channel, Vec<Serving>) {
    let pool = || WorksServer::new(Pool::new(stops));
    match bottleneck {
        Bottleneck::Pool => {
            let (channel, server) = serve(Server::builder().service(pool())).await;
            (channel, vec![server])
        }
        Bottleneck::Processor => {
            let (channel, server) = serve(Server::builder().service(WorksServer::new(Processor))).await;
            (channel, vec![server])
        }
        Bottleneck::Nothing => {
            let services = Server::builder().service(WorksServer::new(Idle)).service(WatchesServer::new(Idle));
            let (channel, server) = serve(services).await;
            (channel, vec![server])
        }
        Bottleneck::Downstream => {
            // Of both only the one in front can do something about it.
            let (inner, behind) = serve(Server::builder().service(pool()).adaptive_concurrency(false)).await;
            let front = Front(WorksClient::from_channel(inner));
            let (channel, front) = serve(Server::builder().service(WorksServer::new(front))).await;
            (channel, vec![front, behind])
        }
    }
}

async fn serve(builder: sinew::ServerBuilder) -> (Channel, Serving) {
    let name = format!("mem:governance-{}", fastrand::u64(..));
    let server = builder.trust_priorities().max_calls_per_connection(65_536).bind(&name).start().await;
    let server = server.expect("it starts");
    // A call that is turned away is one, and not another that comes later.
    let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
    let channel = channel.connect(&name).await.expect("it is there");
    (channel, server)
}

/// How long a call takes. Timers count whole milliseconds, so that is what it is, at random the one below or the one above.
fn takes(traffic: &Traffic, at: Duration, rng: &mut Rng) -> Duration {
    let exact = traffic.work.sample(rng).mul_f64((traffic.slowness)(at.as_secs_f64()));
    if traffic.bottleneck == Bottleneck::Processor {
        return exact / 16;
    }
    let millis = exact.as_secs_f64() * 1e3 + rng.f64();
    Duration::from_secs_f64(millis.floor().max(1.0) / 1e3)
}
