//! Limiters of others, from their published formulas and defaults, to be run through the same scenarios.
//!
//! Vegas, Gradient2 and AIMD are those of Netflix' concurrency-limits, the first two over windows of a second, Vegas also by the call, which is its default;
//! BBR is that of kratos, whose signal is the use of the processor: here the share of workers that are busy.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sinew_core::policy::concurrency;

use crate::simulator::{Admitted, Limiter};

/// sinew's.
pub(crate) struct Sinew {
    limiters: concurrency::Limiters,
    methods: usize,
}

/// No more than a number that somebody knew; or any number.
pub(crate) struct Fixed {
    in_flight: u32,
    limit: f64,
}

/// One of concurrency-limits: a formula, and the window before it.
pub(crate) struct Windowed<F> {
    in_flight: u32,
    limit: f64,
    window: Window,
    /// As long as a window is at least.
    span: Duration,
    answers_min: u32,
    formula: F,
}

#[derive(Default)]
struct Window {
    began: Option<Instant>,
    answers: u32,
    latency: f64,
    in_flight_max: u32,
}

/// What a window has seen.
pub(crate) struct Seen {
    latency: f64,
    in_flight: f64,
}

/// The next limit, from the last one.
pub(crate) trait Formula {
    fn next(&mut self, limit: f64, seen: &Seen) -> f64;
}

pub(crate) struct Vegas {
    latency_min: Option<f64>,
    windows: f64,
    jitter: f64,
    rng: Rng,
}

pub(crate) struct Gradient2 {
    latency_long: f64,
    windows: u32,
}

/// Grows by one with each answer while at least half is used, and shrinks when one takes more than five seconds.
pub(crate) struct Aimd {
    in_flight: u32,
    limit: f64,
}

pub(crate) struct Kratos {
    in_flight: u32,
    workers: u32,
    start: Instant,
    /// Of 100 ms each, the last hundred that are over and the one that is not: its number, answers, latencies in milliseconds added up.
    buckets: VecDeque<(u128, u32, f64)>,
    dropped: Option<Instant>,
    use_average: f64,
    use_read: Duration,
}

const WINDOW: Duration = Duration::from_secs(1);
const WINDOW_ANSWERS_MIN: u32 = 10;
const LIMIT_FIRST: f64 = 20.0;

impl Sinew {
    pub(crate) fn new(methods: usize, now: Instant) -> Self {
        Self {
            limiters: concurrency::Limiters::new(methods, now),
            methods,
        }
    }
}

impl Limiter for Sinew {
    fn admit(&mut self, method: usize, now: Instant) -> Option<Admitted> {
        let ticket = self.limiters.admit(method, now)?;
        Some(Admitted {
            ticket: Some(ticket),
            ..admitted(now, self.limiters.in_flight(method))
        })
    }

    fn finish(&mut self, admitted: Admitted, now: Instant) {
        let ticket = admitted.ticket.expect("it gives one to each");
        self.limiters.finish(ticket, now, concurrency::Ending::Answered);
    }

    fn refuse(&mut self, method: usize, now: Instant) {
        self.limiters.press(method, now);
        self.limiters.refuse(method);
    }

    fn limit(&self) -> f64 {
        let limit = |method| self.limiters.limit(method).map_or(f64::INFINITY, f64::from);
        (0..self.methods).map(limit).sum()
    }
}

impl Fixed {
    pub(crate) fn new(limit: f64) -> Self {
        Self { in_flight: 0, limit }
    }
}

impl Limiter for Fixed {
    fn admit(&mut self, _: usize, now: Instant) -> Option<Admitted> {
        admit(&mut self.in_flight, self.limit, now)
    }

    fn finish(&mut self, _: Admitted, _: Instant) {
        self.in_flight -= 1;
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

impl<F: Formula> Windowed<F> {
    pub(crate) fn new(formula: F) -> Self {
        Self {
            in_flight: 0,
            limit: LIMIT_FIRST,
            window: Window::default(),
            span: WINDOW,
            answers_min: WINDOW_ANSWERS_MIN,
            formula,
        }
    }

    /// With a window for each call.
    pub(crate) fn by_call(formula: F) -> Self {
        Self {
            span: Duration::ZERO,
            answers_min: 1,
            ..Self::new(formula)
        }
    }
}

impl<F: Formula> Limiter for Windowed<F> {
    fn admit(&mut self, _: usize, now: Instant) -> Option<Admitted> {
        admit(&mut self.in_flight, self.limit, now)
    }

    fn finish(&mut self, admitted: Admitted, now: Instant) {
        self.in_flight -= 1;
        if let Some(seen) = self.window.note(&admitted, now, self.span, self.answers_min) {
            self.limit = self.formula.next(self.limit, &seen);
        }
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

impl Window {
    fn note(&mut self, admitted: &Admitted, now: Instant, span: Duration, answers_min: u32) -> Option<Seen> {
        let began = *self.began.get_or_insert(now);
        self.answers += 1;
        self.latency += (now - admitted.began).as_secs_f64();
        self.in_flight_max = self.in_flight_max.max(admitted.in_flight);
        if now - began < span || self.answers < answers_min {
            return None;
        }
        let window = std::mem::take(self);
        Some(Seen {
            latency: window.latency / f64::from(window.answers),
            in_flight: f64::from(window.in_flight_max),
        })
    }
}

impl Vegas {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            latency_min: None,
            windows: 0.0,
            jitter: 0.75,
            rng: Rng::with_seed(seed),
        }
    }
}

impl Formula for Vegas {
    fn next(&mut self, limit: f64, seen: &Seen) -> f64 {
        self.windows += 1.0;
        if self.windows >= self.jitter * 30.0 * limit {
            (self.windows, self.jitter) = (0.0, 0.5 + self.rng.f64() / 2.0);
            self.latency_min = Some(seen.latency);
            return limit;
        }
        let Some(least) = self.latency_min.filter(|least| *least <= seen.latency) else {
            self.latency_min = Some(seen.latency);
            return limit;
        };
        if seen.in_flight * 2.0 < limit {
            return limit;
        }
        let log = limit.log10().floor().max(1.0);
        let queue = (limit * (1.0 - least / seen.latency)).ceil();
        let next = match queue {
            queue if queue <= log => limit + 6.0 * log,
            queue if queue < 3.0 * log => limit + log,
            queue if queue > 6.0 * log => limit - log,
            _ => limit,
        };
        next.clamp(1.0, 1_000.0)
    }
}

impl Gradient2 {
    pub(crate) fn new() -> Self {
        Self {
            latency_long: 0.0,
            windows: 0,
        }
    }
}

impl Formula for Gradient2 {
    fn next(&mut self, limit: f64, seen: &Seen) -> f64 {
        const WARM_UP: u32 = 10;
        const LONG: f64 = 600.0;
        let step = if self.windows < WARM_UP {
            self.windows += 1;
            1.0 / f64::from(self.windows)
        } else {
            2.0 / (LONG + 1.0)
        };
        self.latency_long += (seen.latency - self.latency_long) * step;
        if self.latency_long > 2.0 * seen.latency {
            self.latency_long *= 0.95;
        }
        if seen.in_flight < limit / 2.0 {
            return limit;
        }
        let gradient = (1.5 * self.latency_long / seen.latency).clamp(0.5, 1.0);
        let next = limit * gradient + 4.0;
        (limit * 0.8 + next * 0.2).clamp(20.0, 200.0)
    }
}

impl Aimd {
    pub(crate) fn new() -> Self {
        Self {
            in_flight: 0,
            limit: LIMIT_FIRST,
        }
    }
}

impl Limiter for Aimd {
    fn admit(&mut self, _: usize, now: Instant) -> Option<Admitted> {
        admit(&mut self.in_flight, self.limit, now)
    }

    fn finish(&mut self, admitted: Admitted, now: Instant) {
        self.in_flight -= 1;
        if now - admitted.began > Duration::from_secs(5) {
            self.limit *= 0.9;
        } else if f64::from(admitted.in_flight) * 2.0 >= self.limit {
            self.limit += 1.0;
        }
        self.limit = self.limit.clamp(20.0, 200.0);
    }

    fn limit(&self) -> f64 {
        self.limit
    }
}

impl Kratos {
    pub(crate) fn new(workers: usize, start: Instant) -> Self {
        Self {
            in_flight: 0,
            workers: u32::try_from(workers).unwrap_or(u32::MAX),
            start,
            buckets: VecDeque::new(),
            dropped: None,
            use_average: 0.0,
            use_read: Duration::ZERO,
        }
    }

    fn read_use(&mut self, now: Instant) {
        while self.use_read + Duration::from_millis(500) <= now - self.start {
            self.use_read += Duration::from_millis(500);
            let busy = f64::from(self.in_flight.min(self.workers)) / f64::from(self.workers);
            self.use_average = self.use_average * 0.95 + busy * 0.05;
        }
    }

    fn bucket(&self, now: Instant) -> u128 {
        (now - self.start).as_millis() / 100
    }

    fn in_flight_max(&self, now: Instant) -> f64 {
        let current = self.bucket(now);
        let over = || self.buckets.iter().filter(|bucket| bucket.0 < current);
        let passed = over().map(|bucket| bucket.1).max().unwrap_or(1);
        let latency = over().map(|bucket| (bucket.2 / f64::from(bucket.1)).ceil()).fold(f64::INFINITY, f64::min);
        (f64::from(passed) * latency * 10.0 / 1_000.0).floor()
    }
}

impl Limiter for Kratos {
    fn admit(&mut self, _: usize, now: Instant) -> Option<Admitted> {
        self.read_use(now);
        let lately = |dropped: Instant| now - dropped <= Duration::from_secs(1);
        let is_hot = self.use_average >= 0.8;
        if !is_hot && !self.dropped.is_some_and(lately) {
            self.dropped = None;
        } else if self.in_flight > 1 && f64::from(self.in_flight) > self.in_flight_max(now) {
            // When it began to drop, not when it did last.
            self.dropped = self.dropped.or_else(|| is_hot.then_some(now));
            return None;
        }
        admit(&mut self.in_flight, f64::INFINITY, now)
    }

    fn finish(&mut self, admitted: Admitted, now: Instant) {
        self.in_flight -= 1;
        let current = self.bucket(now);
        self.buckets.retain(|bucket| bucket.0 + 100 > current);
        if self.buckets.back().is_none_or(|last| last.0 != current) {
            self.buckets.push_back((current, 0, 0.0));
        }
        if let Some(bucket) = self.buckets.back_mut() {
            bucket.1 += 1;
            bucket.2 += (now - admitted.began).as_secs_f64() * 1e3;
        }
    }

    fn limit(&self) -> f64 {
        f64::INFINITY
    }
}

fn admit(in_flight: &mut u32, limit: f64, now: Instant) -> Option<Admitted> {
    if f64::from(*in_flight) >= limit.floor() {
        return None;
    }
    *in_flight += 1;
    Some(admitted(now, *in_flight))
}

fn admitted(now: Instant, in_flight: u32) -> Admitted {
    Admitted {
        began: now,
        in_flight,
        ticket: None,
    }
}
