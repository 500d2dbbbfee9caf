//! The key rows once more, with real processes in real time: servers that are told to fail, are slow, are killed with SIGKILL and stopped with SIGSTOP.
//!
//! The machine may have other things to do, so each figure has a tolerance besides the goal that holds in virtual time, and a scene of which one is missed is run
//! again, twice at the most. The servers are this program again, in a role.

use std::env;
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sinew::{
    AdaptiveThrottle, Channel, ChannelBuilder, Code, HedgingPolicy, OutlierDetection, Priority, RetryPolicy,
    RoundRobin, Server, Status,
};
use tokio::runtime::Builder;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::table::{Goal, Real};

/// Set in a child.
const ROLE: &str = "SINEW_BENCH_ROLE";
/// A line of a child begins with this.
const MARK: &str = "@@";
const WORKERS: usize = 16;
/// How often a scene is run.
const RUNS: usize = 3;
const RATE: f64 = 1_000.0;
/// The one that something happens to.
const ILL: usize = 3;

#[sinew::service(name = "bench.Process")]
trait Process {
    /// Answers, or fails, as it was told.
    #[rpc(idempotent)]
    async fn get(&self) -> Result<(), Status>;
    /// Takes 10 ms of one of 16 places.
    async fn work(&self);
    /// Takes about a millisecond of a processor.
    async fn burn(&self) -> u64;
}

struct Told {
    micros: AtomicU64,
    /// Of so many calls one fails, if not of none.
    fails_of: AtomicU64,
    came: AtomicU64,
    places: Semaphore,
}

#[derive(Clone)]
struct Handler(Arc<Told>);

impl Process for Handler {
    async fn get(&self) -> Result<(), Status> {
        let number = self.0.came.fetch_add(1, Ordering::Relaxed);
        sleep(Duration::from_micros(self.0.micros.load(Ordering::Relaxed))).await;
        match number.checked_rem(self.0.fails_of.load(Ordering::Relaxed)) {
            Some(0) => Err(Status::unavailable("out of order")),
            Some(_) | None => Ok(()),
        }
    }

    async fn work(&self) {
        if let Ok(_place) = self.0.places.acquire().await {
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn burn(&self) -> u64 {
        const ROUNDS: u64 = 700_000;
        (0..ROUNDS).fold(1, |sum, round| {
            black_box(sum ^ round).wrapping_mul(6_364_136_223_846_793_005)
        })
    }
}

/// Serves with so many threads as its role says, if this process has one, and does what it is told in lines: `answer MICROS`, `fail OF`, `count`. Tells whether it has.
pub(crate) fn plays_role() -> bool {
    let Ok(threads) = env::var(ROLE) else { return false };
    let threads = threads.parse().expect("a number of threads");
    let told = Arc::new(Told {
        micros: AtomicU64::new(5_000),
        fails_of: AtomicU64::new(0),
        came: AtomicU64::new(0),
        places: Semaphore::new(WORKERS),
    });
    let runtime = Builder::new_multi_thread().worker_threads(threads).enable_all().build().expect("a runtime starts");
    let server = ProcessServer::new(Handler(Arc::clone(&told)));
    let serving = runtime.block_on(Server::builder().service(server).trust_priorities().bind("127.0.0.1:0").start());
    let serving = serving.expect("it starts");
    println!("{MARK}{}", serving.target());
    for line in std::io::stdin().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("answer", micros)) => {
                told.micros.store(micros.parse().expect("a number"), Ordering::Relaxed);
                told.fails_of.store(0, Ordering::Relaxed);
            }
            Some(("fail", of)) => told.fails_of.store(of.parse().expect("a number"), Ordering::Relaxed),
            _ => println!("{MARK}{}", told.came.load(Ordering::Relaxed)),
        }
    }
    true
}

/// A server in a process of its own; killed when this is dropped.
struct Remote {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    target: String,
}

impl Remote {
    fn start(threads: usize) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program has a file"))
            .env(ROLE, threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut remote = Self {
            child,
            stdin,
            stdout,
            target: String::new(),
        };
        remote.target = remote.hear();
        remote
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        while !line.starts_with(MARK) {
            line.clear();
            let read = self.stdout.read_line(&mut line).expect("it writes lines");
            assert!(read > 0, "a server ended by itself");
        }
        line[MARK.len()..].trim().to_owned()
    }

    /// Calls that came to it so far.
    fn came(&mut self) -> f64 {
        self.tell("count");
        self.hear().parse().expect("a number")
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(sent.is_ok_and(|sent| sent.success()), "kill -{name}");
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Several servers, and a channel to all of them.
struct Pool {
    servers: Vec<Remote>,
    client: ProcessClient,
}

impl Pool {
    async fn open(count: usize, set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Self {
        let servers: Vec<Remote> = (0..count).map(|_| Remote::start(1)).collect();
        let targets: Vec<&str> = servers.iter().map(|server| server.target.as_str()).collect();
        let channel = set(Channel::builder()).connect(&format!("static:///{}", targets.join(","))).await;
        let channel = channel.expect("they are there");
        while channel.snapshot().endpoints.iter().filter(|one| one.connections > 0).count() < count {
            sleep(Duration::from_millis(1)).await;
        }
        Self {
            servers,
            client: ProcessClient::from_channel(channel),
        }
    }

    fn came(&mut self) -> f64 {
        self.servers.iter_mut().map(Remote::came).sum()
    }
}

/// A call as its caller saw it; when it was due, in seconds, and how long after that its end came.
struct Made {
    at: f64,
    took: f64,
    outcome: Result<(), Status>,
}

/// Makes so many calls a second for so long, whatever became of those before.
async fn drive<F>(rate: f64, lasts: f64, call: impl Fn(usize) -> F) -> Vec<Made>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (begun, mut calls, mut number) = (Instant::now(), JoinSet::new(), 0);
    while begun.elapsed().as_secs_f64() < lasts {
        while number as f64 / rate <= begun.elapsed().as_secs_f64() {
            let due = begun + Duration::from_secs_f64(number as f64 / rate);
            let call = call(number);
            calls.spawn(async move {
                let outcome = call.await;
                let (at, took) = (due - begun, due.elapsed());
                Made {
                    at: at.as_secs_f64(),
                    took: took.as_secs_f64(),
                    outcome,
                }
            });
            number += 1;
        }
        sleep(Duration::from_millis(1)).await;
    }
    calls.join_all().await
}

/// The part of `made` of which that is true.
fn part(made: &[Made], of: impl Fn(&Made) -> bool) -> f64 {
    made.iter().filter(|made| of(made)).count() as f64 / made.len() as f64
}

fn percentile(made: &[Made], share: f64) -> f64 {
    let mut times: Vec<f64> = made.iter().filter(|made| made.outcome.is_ok()).map(|made| made.took).collect();
    times.sort_unstable_by(f64::total_cmp);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place in a list"
    )]
    let at = (times.len() as f64 * share) as usize;
    times.get(at).copied().unwrap_or(f64::INFINITY)
}

/// What is measured in a scene: the figure, the goal of virtual time, what is allowed here, and its name.
type Figure = (f64, Goal, Goal, &'static str);

fn at_least(goal: f64, allowed: f64) -> (Goal, Goal) {
    (Goal::AtLeast(goal), Goal::AtLeast(allowed))
}

fn at_most(goal: f64, allowed: f64) -> (Goal, Goal) {
    (Goal::AtMost(goal), Goal::AtMost(allowed))
}

fn figure(figure: f64, (goal, allowed): (Goal, Goal), name: &'static str) -> Figure {
    (figure, goal, allowed, name)
}

const DEADLINE: Duration = Duration::from_millis(250);

/// What a server is overloaded with.
#[derive(Clone, Copy)]
enum Work {
    /// 16 places of 10 ms; how many times as much comes.
    Places(f64),
    /// Two threads that do nothing else.
    Processor,
}

impl Work {
    async fn call(self, client: ProcessClient, priority: Priority) -> Result<(), Status> {
        match self {
            Self::Places(_) => client.work().timeout(DEADLINE).priority(priority).await,
            Self::Processor => client.burn().timeout(DEADLINE).priority(priority).await.map(|_| ()),
        }
    }

    /// What a server is capable of is measured first: timers and the machine take their part.
    async fn capacity(self, client: &ProcessClient) -> f64 {
        let until = Instant::now() + Duration::from_secs(2);
        let mut callers = JoinSet::new();
        for _ in 0..2 * WORKERS {
            let client = client.clone();
            callers.spawn(async move {
                let mut answered = 0_u32;
                while Instant::now() < until {
                    answered += u32::from(self.call(client.clone(), Priority::Normal).await.is_ok());
                }
                answered
            });
        }
        f64::from(callers.join_all().await.iter().sum::<u32>()) / 2.0
    }
}

/// A server with that work, and what it is capable of.
async fn busy_server(work: Work, threads: usize) -> (Remote, ProcessClient, f64) {
    let server = Remote::start(threads);
    let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
    let client = ProcessClient::from_channel(channel.connect(&server.target).await.expect("it is there"));
    let capacity = work.capacity(&client).await;
    (server, client, capacity)
}

fn is_refused(made: &Made) -> bool {
    made.outcome.as_ref().is_err_and(|status| status.code() == Code::ResourceExhausted)
}

/// Calls that were answered between these times, of what the server is capable of.
fn goodput(made: &[Made], (from, to): (f64, f64), capacity: f64) -> f64 {
    let is_good = |made: &&Made| (from..to).contains(&made.at) && made.outcome.is_ok();
    made.iter().filter(is_good).count() as f64 / (to - from) / capacity
}

/// Three times as much, three of ten critical.
async fn overload() -> Vec<Figure> {
    let work = Work::Places(3.0);
    let (_server, client, capacity) = busy_server(work, 1).await;
    let normal = |_| work.call(client.clone(), Priority::Normal);
    let calm = drive(0.8 * capacity, 4.0, normal).await;
    let is_critical = |number: usize| number % 10 < 3;
    let some_critical = |number: usize| {
        let priority = if is_critical(number) {
            Priority::Critical
        } else {
            Priority::Normal
        };
        work.call(client.clone(), priority)
    };
    let mut made = drive(3.0 * capacity, 7.0, some_critical).await;
    made.sort_by(|one, other| one.at.total_cmp(&other.at));
    let critical: Vec<&Made> = (0..)
        .zip(&made)
        .filter(|(number, made)| is_critical(*number) && made.at >= 2.0)
        .map(|(_, made)| made)
        .collect();
    let answered = critical.iter().filter(|made| made.outcome.is_ok()).count() as f64 / critical.len() as f64;
    let (step, steady) = (
        goodput(&made, (0.0, 2.0), capacity),
        goodput(&made, (2.0, 6.5), capacity),
    );
    let counted: Vec<Made> = made.into_iter().filter(|made| (2.0..6.5).contains(&made.at)).collect();
    let after = drive(0.8 * capacity, 4.0, normal).await;
    let late: Vec<Made> = after.into_iter().filter(|made| made.at >= 1.0).collect();
    vec![
        figure(part(&calm, is_refused), at_most(0.005, 0.02), "refused at 0.8"),
        figure(step, at_least(0.95, 0.85), "goodput in the first 2 s at 3"),
        figure(steady, at_least(0.98, 0.9), "goodput at 3"),
        figure(1e3 * percentile(&counted, 0.99), at_most(84.0, 125.0), "p99 at 3, ms"),
        figure(answered, at_least(0.999, 0.98), "of the critical, three of ten, at 3"),
        figure(
            part(&late, is_refused),
            at_most(0.005, 0.02),
            "refused at 0.8, from 1 s after",
        ),
    ]
}

/// So many times as much as the server is capable of, after four seconds of less.
async fn overload_by(work: Work, threads: usize) -> Vec<Figure> {
    let (_server, client, capacity) = busy_server(work, threads).await;
    let normal = |_| work.call(client.clone(), Priority::Normal);
    let (calm, load) = match work {
        Work::Places(load) => (0.8, load),
        // Who makes the calls has the same processors.
        Work::Processor => (0.6, 3.0),
    };
    let before = drive(calm * capacity, 4.0, normal).await;
    let mut made = drive(load * capacity, 6.5, normal).await;
    made.retain(|made| (2.0..6.0).contains(&made.at));
    let steady = goodput(&made, (2.0, 6.0), capacity);
    vec![
        figure(part(&before, is_refused), at_most(0.005, 0.02), "refused before"),
        figure(steady, at_least(0.98, 0.8), "goodput"),
        figure(1e3 * percentile(&made, 0.99), at_most(84.0, 150.0), "p99, ms"),
    ]
}

async fn black_hole() -> Vec<Figure> {
    let mut pool = Pool::open(10, |channel| channel.retry(RetryPolicy::NEVER).balancer(RoundRobin)).await;
    let client = pool.client.clone();
    let begun = Instant::now();
    let at = |seconds: f64| sleep_until(begun + Duration::from_secs_f64(seconds));
    let happens = async {
        at(3.0).await;
        pool.servers[ILL].tell("fail 1");
        at(13.0).await;
        pool.servers[ILL].tell("answer 5000");
        at(18.0).await;
        let before = (pool.servers[ILL].came(), pool.came());
        at(20.0).await;
        let after = (pool.servers[ILL].came(), pool.came());
        10.0 * (after.0 - before.0) / (after.1 - before.1)
    };
    let (mut made, share) = tokio::join!(drive(RATE, 20.0, |_| client.get().timeout("5s").into_future()), happens);
    made.sort_by(|one, other| one.at.total_cmp(&other.at));
    let failed: Vec<f64> = made.iter().filter(|made| made.outcome.is_err()).map(|made| made.at).collect();
    let run = failed.windows(2).take_while(|pair| pair[1] - pair[0] < 0.5).count() + 1;
    let later = failed.len() - run.min(failed.len());
    vec![
        figure(run as f64, at_most(5.0, 10.0), "failures before it is avoided"),
        figure(
            later as f64 / (10.0 * RATE),
            at_most(0.000_5, 0.002),
            "failed after that",
        ),
        figure(share, at_least(0.8, 0.6), "of its share, 5 s after it works again"),
    ]
}

/// How long it takes until the one of which half of the calls fail is avoided.
async fn half_fails() -> Vec<Figure> {
    let mut pool = Pool::open(10, |channel| channel.retry(RetryPolicy::NEVER).balancer(RoundRobin)).await;
    let client = pool.client.clone();
    let happens = async {
        sleep(Duration::from_secs(3)).await;
        pool.servers[ILL].tell("fail 2");
    };
    let (made, ()) = tokio::join!(drive(500.0, 9.0, |_| client.get().timeout("5s").into_future()), happens);
    let mut failed: Vec<f64> = made.iter().filter(|made| made.outcome.is_err()).map(|made| made.at).collect();
    failed.sort_unstable_by(f64::total_cmp);
    let gap = failed.windows(2).find(|pair| pair[1] - pair[0] > 0.4).map(|pair| pair[0]);
    let noticed = gap.or_else(|| failed.last().copied()).map_or(0.0, |at| at - 3.0);
    vec![figure(noticed, at_most(2.0, 3.0), "avoided after, s")]
}

fn retries_only(channel: ChannelBuilder) -> ChannelBuilder {
    channel
        .throttle(AdaptiveThrottle::NEVER)
        .balancer(RoundRobin)
        .outlier_detection(OutlierDetection::NEVER)
}

async fn outage(set: impl FnOnce(ChannelBuilder) -> ChannelBuilder, (goal, allowed): (f64, f64)) -> Vec<Figure> {
    let mut pool = Pool::open(10, set).await;
    let client = pool.client.clone();
    let get = |_| client.get().timeout("5s").into_future();
    drive(RATE, 3.0, get).await;
    pool.servers.iter_mut().for_each(|server| server.tell("fail 1"));
    let before = pool.came();
    let made = drive(RATE, 8.0, get).await;
    let came = pool.came() - before;
    vec![figure(
        came / made.len() as f64,
        at_most(goal, allowed),
        "calls made of one",
    )]
}

async fn one_of_ten() -> Vec<Figure> {
    let mut pool = Pool::open(10, retries_only).await;
    pool.servers[ILL].tell("fail 1");
    let client = pool.client.clone();
    let before = pool.came();
    let made = drive(RATE, 8.0, |_| client.get().timeout("5s").into_future()).await;
    let came = pool.came() - before;
    vec![
        figure(
            part(&made, |made| made.outcome.is_ok()),
            at_least(0.9995, 0.999),
            "answered",
        ),
        figure(came / made.len() as f64, at_most(1.13, 1.15), "calls made of one"),
    ]
}

async fn killed() -> Vec<Figure> {
    let mut pool = Pool::open(10, |channel| channel).await;
    let client = pool.client.clone();
    let happens = async {
        sleep(Duration::from_secs(3)).await;
        pool.servers[ILL].signal("KILL");
    };
    let (made, ()) = tokio::join!(drive(RATE, 8.0, |_| client.get().timeout("5s").into_future()), happens);
    let answered = part(&made, |made| made.outcome.is_ok());
    pool.servers.clear();
    vec![figure(answered, at_least(0.9995, 0.999), "answered")]
}

async fn stopped() -> Vec<Figure> {
    let mut pool = Pool::open(10, |channel| channel).await;
    let client = pool.client.clone();
    let happens = async {
        sleep(Duration::from_secs(3)).await;
        pool.servers[ILL].signal("STOP");
        sleep(Duration::from_secs(6)).await;
        pool.servers[ILL].signal("CONT");
    };
    let (made, ()) = tokio::join!(drive(RATE, 12.0, |_| client.get().timeout("1s").into_future()), happens);
    let failed = made.iter().filter(|made| made.outcome.is_err()).count() as f64;
    pool.servers.clear();
    // As many of a minute's calls, since it costs as many however long the run is.
    vec![figure(
        1.0 - failed / (60.0 * RATE),
        at_least(0.999, 0.998),
        "of a minute's within 1 s",
    )]
}

const REPLICAS: usize = 11;

/// A third of the time one replica is slow.
async fn slow_replica(set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> (Vec<Made>, f64) {
    let mut pool = Pool::open(REPLICAS, set).await;
    pool.servers.iter_mut().for_each(|server| server.tell("answer 167000"));
    let client = pool.client.clone();
    let before = pool.came();
    let happens = async {
        sleep(Duration::from_secs(5)).await;
        pool.servers[ILL].tell("answer 2000000");
        sleep(Duration::from_secs(5)).await;
        pool.servers[ILL].tell("answer 167000");
    };
    let (made, ()) = tokio::join!(
        drive(RATE, 12.0, |_| client.get().timeout("10s").into_future()),
        happens
    );
    let came = pool.came() - before;
    let more = came / made.len() as f64 - 1.0;
    (made, more)
}

async fn hedging() -> Vec<Figure> {
    let (made, more) = slow_replica(|channel| channel.hedging(HedgingPolicy::DEFAULT)).await;
    let slow = made.iter().filter(|made| made.took > 1.0 || made.outcome.is_err()).count() as f64;
    let (without, _) = slow_replica(|channel| channel.balancer(RoundRobin)).await;
    let policy = HedgingPolicy::DEFAULT.budget(0.1);
    let (with, _) = slow_replica(|channel| channel.balancer(RoundRobin).hedging(policy)).await;
    let cut = percentile(&without, 0.999) / percentile(&with, 0.999);
    vec![
        figure(
            1.0 - slow / (60.0 * RATE),
            at_least(0.999_95, 0.9995),
            "of a minute's within 1 s",
        ),
        figure(more, at_most(0.02, 0.03), "calls more"),
        figure(
            cut,
            at_least(5.0, 3.0),
            "in turn, 10 % budget: times as long 99.9 % take without",
        ),
    ]
}

/// Runs what has `wanted` in its name.
pub(crate) fn rows(wanted: &str) -> Vec<Real> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    let mut rows = Vec::new();
    let mut add = |scene: &str, run: &dyn Fn() -> Vec<Figure>| {
        if !scene.contains(wanted) {
            return;
        }
        let mut figures = run();
        let mut runs = 1;
        while runs < RUNS && figures.iter().any(|(figure, _, allowed, _)| !allowed.is_met(*figure)) {
            figures = run();
            runs += 1;
        }
        rows.extend(figures.into_iter().map(|(figure, goal, allowed, name)| Real {
            name: format!("{scene}: {name}"),
            figure,
            goal,
            allowed,
            runs,
        }));
    };
    add("overload", &|| runtime.block_on(overload()));
    add("overload by ten", &|| {
        runtime.block_on(overload_by(Work::Places(10.0), 1))
    });
    add("overload of two processors by three", &|| {
        runtime.block_on(overload_by(Work::Processor, 2))
    });
    add("black hole, in turn", &|| runtime.block_on(black_hole()));
    add("half of the calls fail at one of ten", &|| {
        runtime.block_on(half_fails())
    });
    add("no server works, retries alone", &|| {
        runtime.block_on(outage(retries_only, (1.05, 1.1)))
    });
    add("no server works, with the defaults", &|| {
        runtime.block_on(outage(|channel| channel, (1.05, 1.05)))
    });
    add("one of ten fails, retries alone", &|| runtime.block_on(one_of_ten()));
    add("one of ten is killed", &|| runtime.block_on(killed()));
    add("one of ten is stopped for 6 s", &|| runtime.block_on(stopped()));
    add("slow replica, hedging", &|| runtime.block_on(hedging()));
    rows
}
