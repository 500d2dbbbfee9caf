//! The closed-loop load generator: a task per caller that waits for its reply and then calls again.
//!
//! The window is cut by two snapshots of every caller's count, taken together with the CPU time, while the callers go
//! on; so neither warm-up nor tail is in the figures. A call costs the generator one reading of the clock, one
//! histogram entry and two relaxed atomics.
//!
//! Closed loop: latencies hold no correction for coordinated omission.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;

use crate::messages::{Echo, User};
use crate::peer::{Encoding, Peer};
use crate::process;
use crate::report::{Client, MARK, Usage};
use crate::work::compute_20us;
use crate::workload::{Cell, STREAM_ITEMS, Workload};

/// What to measure, and for how long.
pub(crate) struct Plan {
    pub(crate) server: SocketAddr,
    pub(crate) cell: Cell,
    pub(crate) encoding: Encoding,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
}

/// Runs one cell and reports it.
pub(crate) async fn measure<P: Peer>(plan: &Plan) -> Result<Client> {
    let started = Instant::now();
    let phase = Arc::new(AtomicU8::new(WARM_UP));
    let requests = Arc::new(Requests::<P>::new(plan.cell.workload));
    let mut counts = Vec::new();
    let mut callers = JoinSet::new();
    for peer in connect_callers::<P>(plan).await? {
        let tally = Tally::try_new(Arc::clone(&phase))?;
        counts.push(Arc::clone(&tally.completed));
        callers.spawn(call_until_stopped(
            peer,
            plan.cell.workload,
            Arc::clone(&requests),
            tally,
        ));
    }

    run_for(plan.warm_up, &mut callers).await?;
    let before = Snapshot::take(started, &counts)?;
    phase.store(MEASURE, Ordering::Relaxed);
    run_for(plan.window, &mut callers).await?;
    let after = Snapshot::take(started, &counts)?;
    phase.store(STOP, Ordering::Relaxed);

    let latencies = if plan.cell.workload == Workload::Stream {
        callers.shutdown().await;
        new_histogram()?
    } else {
        merge(&mut callers).await?
    };
    before.report_until(&after, &latencies)
}

/// Opens the connections and deals the callers out over them.
async fn connect_callers<P: Peer>(plan: &Plan) -> Result<Vec<P>> {
    let mut callers = Vec::with_capacity(plan.cell.in_flight);
    for _ in 0..plan.cell.connections {
        callers.push(P::connect(plan.server, plan.encoding).await.context("cannot connect")?);
    }
    for index in plan.cell.connections..plan.cell.in_flight {
        let caller = callers[index % plan.cell.connections].another();
        callers.push(caller);
    }
    Ok(callers)
}

/// Lets the callers run; fails as soon as one of them ends, which none may do by itself.
async fn run_for(span: Duration, callers: &mut JoinSet<Result<Histogram<u32>>>) -> Result<()> {
    tokio::select! {
        // Both branches are cancel safe: a join that loses the race is joined later.
        () = tokio::time::sleep(span) => Ok(()),
        Some(ended) = callers.join_next() => match ended.context("a caller panicked")? {
            Ok(_) => Err(anyhow!("a caller ended before it was told to")),
            Err(error) => Err(error.context("a call failed")),
        },
    }
}

async fn merge(callers: &mut JoinSet<Result<Histogram<u32>>>) -> Result<Histogram<u32>> {
    let mut all = new_histogram()?;
    while let Some(ended) = callers.join_next().await {
        all.add(ended.context("a caller panicked")?.context("a call failed")?)?;
    }
    Ok(all)
}

/// One caller: the first call is verified, the rest are only decoded.
async fn call_until_stopped<P: Peer>(
    mut peer: P,
    workload: Workload,
    requests: Arc<Requests<P>>,
    mut tally: Tally,
) -> Result<Histogram<u32>> {
    match workload {
        Workload::Stream => loop {
            peer.stream(STREAM_ITEMS, || tally.item()).await?;
        },
        Workload::PingPong => peer.ping_pong(&requests.echo, || tally.call()).await?,
        _ => {
            one_call(&mut peer, workload, &requests, true).await?;
            while tally.call() {
                one_call(&mut peer, workload, &requests, false).await?;
            }
        }
    }
    Ok(tally.latencies)
}

async fn one_call<P: Peer>(peer: &mut P, workload: Workload, requests: &Requests<P>, verify: bool) -> Result<()> {
    match workload {
        Workload::Echo32 => peer.echo(&requests.echo, verify).await,
        Workload::User => peer.user(&requests.user, verify).await,
        Workload::Blob64k | Workload::Blob1m => peer.blob(&requests.blob, verify).await,
        Workload::Work20us => {
            let result = peer.work20us(WORK_SEED).await?;
            ensure!(
                !verify || result == compute_20us(WORK_SEED),
                "the handler computed something else"
            );
            Ok(())
        }
        Workload::Sleep1ms => peer.sleep1ms().await,
        Workload::Stream | Workload::PingPong | Workload::Idle => {
            Err(anyhow!("{} is not a unary call", workload.name()))
        }
    }
}

/// The requests of a workload in the peer's own form, shared by all callers.
struct Requests<P: Peer> {
    echo: P::Echo,
    user: P::User,
    blob: Bytes,
}

impl<P: Peer> Requests<P> {
    fn new(workload: Workload) -> Self {
        // Not all zeros, so that no layer gets it cheaper than data.
        let blob = (0..workload.blob_len()).map(|index| (index % 251) as u8).collect::<Vec<u8>>();
        Self {
            echo: P::Echo::from(&Echo::sample()),
            user: P::User::from(&User::sample()),
            blob: blob.into(),
        }
    }
}

/// What one caller counts.
struct Tally {
    phase: Arc<AtomicU8>,
    completed: Arc<AtomicU64>,
    latencies: Histogram<u32>,
    began: Instant,
}

impl Tally {
    fn try_new(phase: Arc<AtomicU8>) -> Result<Self> {
        Ok(Self {
            phase,
            completed: Arc::default(),
            latencies: new_histogram()?,
            began: Instant::now(),
        })
    }

    fn item(&self) {
        // Only this caller writes the count: no read-modify-write is needed.
        self.completed.store(self.completed.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Counts a call that just ended and starts the clock of the next; returns whether to make it.
    fn call(&mut self) -> bool {
        self.item();
        let now = Instant::now();
        let latency = now - self.began;
        self.began = now;
        let phase = self.phase.load(Ordering::Relaxed);
        if phase == MEASURE {
            self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        }
        phase != STOP
    }
}

/// All callers' counts and this process's usage at one moment.
struct Snapshot {
    completed: u64,
    usage: Usage,
}

impl Snapshot {
    fn take(started: Instant, counts: &[Arc<AtomicU64>]) -> Result<Self> {
        println!("{MARK}");
        let completed = counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
        Ok(Self {
            completed,
            usage: process::usage(started)?,
        })
    }

    fn report_until(&self, after: &Self, latencies: &Histogram<u32>) -> Result<Client> {
        let completed = after.completed - self.completed;
        ensure!(completed > 0, "no call ended within the window");
        let span = (after.usage.at - self.usage.at).as_secs_f64();
        let cpu = (after.usage.cpu - self.usage.cpu).as_secs_f64();
        Ok(Client {
            offered: true,
            per_second: completed as f64 / span,
            p50_us: latencies.value_at_quantile(0.50) as f64 / 1e3,
            p99_us: latencies.value_at_quantile(0.99) as f64 / 1e3,
            cpu_us: cpu * 1e6 / completed as f64,
        })
    }
}

/// From 100 ns to 60 s within 1 %: few enough counters that 256 callers' own histograms stay in the cache.
fn new_histogram() -> Result<Histogram<u32>> {
    Ok(Histogram::new_with_bounds(100, 60_000_000_000, 2)?)
}

const WORK_SEED: u64 = 7;
const WARM_UP: u8 = 0;
const MEASURE: u8 = 1;
const STOP: u8 = 2;
