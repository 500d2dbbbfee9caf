//! A service with so many workers and a line before them, behind a limiter that does not know it: events in virtual time.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;

/// What decides whether a call is taken up.
pub(crate) trait Limiter {
    /// Takes a call up, or does not.
    fn admit(&mut self, method: usize, now: Instant) -> Option<Admitted>;
    /// A call that was taken up is over.
    fn finish(&mut self, admitted: Admitted, now: Instant);
    /// A call was refused for good.
    fn refuse(&mut self, _method: usize, _now: Instant) {}
    /// Calls in flight at most; infinite if there is no limit.
    fn limit(&self) -> f64;
}

/// A call that was taken up.
pub(crate) struct Admitted {
    pub(crate) began: Instant,
    /// Calls in flight, with this one.
    pub(crate) in_flight: u32,
    /// What sinew's limiter gave for it.
    pub(crate) ticket: Option<sinew_core::policy::concurrency::Ticket>,
}

/// How long a call takes where nobody is before it.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Lognormal, 10 ms on average, 28 ms at the 99th percentile.
    Lognormal,
    /// 2 ms, and for one call of five 50 ms.
    Bimodal,
    /// Always as long.
    Sleep(Duration),
}

/// A service, and what comes to it.
pub(crate) struct Scene {
    pub(crate) work: Work,
    pub(crate) workers: usize,
    /// Calls are of that many methods, each as often as the others.
    pub(crate) methods: usize,
    /// But for the last one, which has hardly any.
    pub(crate) rare: bool,
    /// Calls a second.
    pub(crate) rate: f64,
    /// How many times as many at a time, in seconds.
    pub(crate) load: fn(f64) -> f64,
    /// How many times as long calls take that begin at a time.
    pub(crate) slowness: fn(f64) -> f64,
    pub(crate) end: Duration,
    /// Only calls that arrive then are counted.
    pub(crate) counted: (Duration, Duration),
}

/// What came of the calls that are counted.
#[derive(Default)]
pub(crate) struct Outcome {
    pub(crate) offered: u64,
    /// Answered within the client's deadline.
    pub(crate) good: u64,
    /// The same of each method.
    pub(crate) good_by_method: Vec<u64>,
    pub(crate) refused: u64,
    latencies: Vec<Duration>,
    refusals: Vec<Duration>,
    /// The limit, twice a second.
    pub(crate) limits: Vec<f64>,
    /// Health checks that were answered in time, and all of them.
    pub(crate) health: (u64, u64),
}

/// How long a call may wait to be taken up.
const PATIENCE: Duration = Duration::from_millis(8);
/// What the client waits for.
pub(crate) const DEADLINE: Duration = Duration::from_millis(250);
const LIMIT_EVERY: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrival,
    /// A worker is done with a call.
    Done(usize),
    /// A call has waited for as long as it may.
    Impatient(usize),
    LookAtLimit,
}

struct Call {
    method: usize,
    arrived: Duration,
    admitted: Option<Admitted>,
}

struct Simulation<'a> {
    scene: &'a Scene,
    limiter: &'a mut dyn Limiter,
    rng: Rng,
    start: Instant,
    now: Duration,
    /// The number makes events of the same time happen in their order.
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    scheduled: u64,
    calls: Vec<Call>,
    busy: usize,
    line: VecDeque<usize>,
    /// Of each method the calls that wait to be taken up, the newest last.
    waiting: Vec<BTreeSet<usize>>,
    outcome: Outcome,
}

/// Runs `scene` behind `limiter`.
pub(crate) fn run(scene: &Scene, limiter: &mut dyn Limiter, start: Instant, seed: u64) -> Outcome {
    let mut simulation = Simulation {
        scene,
        limiter,
        rng: Rng::with_seed(seed),
        start,
        now: Duration::ZERO,
        events: BinaryHeap::new(),
        scheduled: 0,
        calls: Vec::new(),
        busy: 0,
        line: VecDeque::new(),
        waiting: vec![BTreeSet::new(); scene.methods],
        outcome: Outcome {
            good_by_method: vec![0; scene.methods],
            ..Outcome::default()
        },
    };
    simulation.schedule(Duration::ZERO, Event::Arrival);
    simulation.schedule(LIMIT_EVERY, Event::LookAtLimit);
    while let Some(Reverse((at, _, event))) = simulation.events.pop() {
        if at > scene.end {
            break;
        }
        simulation.now = at;
        simulation.handle(event);
    }
    simulation.outcome
}

impl Simulation<'_> {
    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival => {
                let rate = self.scene.rate * (self.scene.load)(self.now.as_secs_f64());
                let gap = -(1.0 - self.rng.f64()).ln() / rate;
                self.schedule(Duration::from_secs_f64(gap), Event::Arrival);
                self.arrive();
            }
            Event::Done(call) => {
                self.done(call);
                self.admit_waiting();
            }
            Event::Impatient(call) => {
                let method = self.calls[call].method;
                if self.waiting[method].remove(&call) {
                    self.refuse(call);
                }
            }
            Event::LookAtLimit => {
                if self.is_counted(self.now) {
                    self.outcome.limits.push(self.limiter.limit());
                }
                self.schedule(LIMIT_EVERY, Event::LookAtLimit);
                self.admit_waiting();
            }
        }
    }

    fn arrive(&mut self) {
        let call = self.calls.len();
        let method = self.draw_method();
        self.calls.push(Call {
            method,
            arrived: self.now,
            admitted: None,
        });
        self.outcome.offered += u64::from(self.is_counted(self.now));
        if let Some(admitted) = self.limiter.admit(method, self.at()) {
            self.work_on(call, admitted);
        } else {
            self.waiting[method].insert(call);
            self.schedule(PATIENCE, Event::Impatient(call));
        }
    }

    /// With `rare`, the last method has one call of 17, and the others share the rest.
    fn draw_method(&mut self) -> usize {
        let methods = self.scene.methods;
        if self.scene.rare && self.rng.u8(..17) == 0 {
            return methods - 1;
        }
        self.rng.usize(..methods - usize::from(self.scene.rare))
    }

    /// Of each method the newest go first.
    fn admit_waiting(&mut self) {
        for method in 0..self.scene.methods {
            while let Some(newest) = self.waiting[method].last().copied() {
                let Some(admitted) = self.limiter.admit(method, self.at()) else {
                    break;
                };
                self.waiting[method].pop_last();
                self.work_on(newest, admitted);
            }
        }
    }

    fn work_on(&mut self, call: usize, admitted: Admitted) {
        self.calls[call].admitted = Some(admitted);
        if self.busy < self.scene.workers {
            self.begin(call);
        } else {
            self.line.push_back(call);
        }
    }

    fn begin(&mut self, call: usize) {
        self.busy += 1;
        let slowness = (self.scene.slowness)(self.now.as_secs_f64());
        let takes = self.scene.work.sample(&mut self.rng).mul_f64(slowness);
        self.schedule(takes, Event::Done(call));
    }

    fn done(&mut self, call: usize) {
        let at = self.at();
        let Call {
            method,
            arrived,
            ref mut admitted,
        } = self.calls[call];
        let admitted = admitted.take().expect("who is done was taken up");
        self.limiter.finish(admitted, at);
        if self.is_counted(arrived) {
            let latency = self.now - arrived;
            self.outcome.latencies.push(latency);
            let is_good = u64::from(latency <= DEADLINE);
            self.outcome.good += is_good;
            self.outcome.good_by_method[method] += is_good;
        }
        self.busy -= 1;
        if let Some(next) = self.line.pop_front() {
            self.begin(next);
        }
    }

    fn refuse(&mut self, call: usize) {
        let at = self.at();
        self.limiter.refuse(self.calls[call].method, at);
        self.outcome.refused += u64::from(self.is_counted(self.calls[call].arrived));
    }

    fn is_counted(&self, at: Duration) -> bool {
        let (from, to) = self.scene.counted;
        (from..to).contains(&at)
    }

    fn at(&self) -> Instant {
        self.start + self.now
    }

    fn schedule(&mut self, after: Duration, event: Event) {
        self.scheduled += 1;
        self.events.push(Reverse((self.now + after, self.scheduled, event)));
    }
}

impl Work {
    pub(crate) fn sample(self, rng: &mut Rng) -> Duration {
        /// Of the logarithm.
        const DEVIATION: f64 = 0.5;
        match self {
            Self::Lognormal => {
                let (one, other) = (1.0 - rng.f64(), rng.f64());
                let normal = (-2.0 * one.ln()).sqrt() * (std::f64::consts::TAU * other).cos();
                Duration::from_secs_f64(0.01 * (DEVIATION * normal - DEVIATION * DEVIATION / 2.0).exp())
            }
            Self::Bimodal if rng.f64() < 0.8 => Duration::from_millis(2),
            Self::Bimodal => Duration::from_millis(50),
            Self::Sleep(duration) => duration,
        }
    }

    /// How long a call takes on average.
    pub(crate) fn mean(self) -> Duration {
        match self {
            Self::Lognormal => Duration::from_millis(10),
            Self::Bimodal => Duration::from_micros(11_600),
            Self::Sleep(duration) => duration,
        }
    }
}

impl Outcome {
    /// A call is over whose answer is good for so long: it was answered after some time, or refused after some, or neither.
    pub(crate) fn count(&mut self, deadline: Duration, answered: Option<Duration>, refused: Option<Duration>) {
        self.offered += 1;
        self.refused += u64::from(refused.is_some());
        self.refusals.extend(refused);
        self.latencies.extend(answered);
        self.good += u64::from(answered.is_some_and(|latency| latency <= deadline));
    }

    /// The time that one of a hundred refusals exceeds.
    pub(crate) fn refused_p99(&mut self) -> Duration {
        p99(&mut self.refusals)
    }

    /// The latency that one of a hundred answers exceeds.
    pub(crate) fn p99(&mut self) -> Duration {
        p99(&mut self.latencies)
    }

    /// Of the calls that could have been answered: all, or as many as the service is capable of.
    pub(crate) fn goodput(&self, capacity: f64) -> f64 {
        self.good as f64 / (self.offered as f64).min(capacity)
    }

    /// How far the mean of any tenth of the limits is from that of the first.
    pub(crate) fn drift(&self) -> f64 {
        let tenths = self.limits.chunks_exact((self.limits.len() / 10).max(1));
        let means: Vec<f64> = tenths.map(|limits| limits.iter().sum::<f64>() / limits.len() as f64).collect();
        let far = |mean: &f64| (mean / means[0] - 1.0).abs();
        // Without a limit there is no number.
        means
            .iter()
            .map(far)
            .reduce(|one, other| if one >= other { one } else { other })
            .unwrap_or(f64::NAN)
    }

    pub(crate) fn refused_share(&self) -> f64 {
        self.refused as f64 / self.offered as f64
    }
}

fn p99(of: &mut [Duration]) -> Duration {
    of.sort_unstable();
    of.get(of.len() * 99 / 100).copied().unwrap_or_default()
}
