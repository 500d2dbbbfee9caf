//! How loaded an endpoint is: its latency as a peak-sensitive average, its calls in flight, how long none of them came back, and whether it fails.
//!
//! Latency alone draws calls to an endpoint that fails fast, and forgets to count one that answers nothing at all. So failures raise the cost by a
//! factor that wears off, and silence while calls are in flight counts as latency. An average that nobody renews is replaced by what is typical of
//! the pool, not by zero: an idle endpoint is no better than the others.
//!
//! Recorders are shared by threads without a lock. Two that race may lose one observation, never more.
//!
//! Source: peak EWMA of Finagle; tau and penalties tuned by the simulations below.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How fast better answers make up for worse ones.
const TAU: Duration = Duration::from_secs(10);
/// After so long without an answer and without a call, an average tells nothing any more: the endpoint is tried again, and judged by that alone.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// By how much a failure raises the cost, at first.
const PENALTY: f64 = 128.0;
/// How fast that wears off.
const PENALTY_TAU: Duration = Duration::from_secs(1);
/// After so many of these times it is dropped, since it would be all that tells idle endpoints apart.
const PENALTY_TAUS: f64 = 5.0;
/// Latencies up to so many times what is typical count alike. A caller with one call at a time would send all to the endpoint that happens to be the fastest else.
const ALIKE: f64 = 2.0;
/// And so do all up to this: a scheduler or an interrupt makes such differences, and one that lasts shows in the calls in flight.
const ALIKE_MIN: Duration = Duration::from_millis(2);
/// One of so many answers moves what is typical: it is shared by all threads.
const TYPICAL_ONE_OF: u64 = 8;
/// By how much one answer moves it.
const TYPICAL_STEP: f64 = 0.05;
/// The first answers are all counted, and averaged, so that it is about right soon.
const TYPICAL_FIRST: u32 = 64;
/// Answers of an endpoint that are not held against it, and of which the fastest counts: the first ones pay for cold code and cold caches, and of two endpoints
/// the one that paid would not be called again for seconds.
const COLD_FIRST: u64 = 3;
/// Calls in flight at an endpoint above which not all are measured: a clock costs as much as the choice does. With as many, the time between two that are
/// measured is half of what one takes at most, so that no silence is heard where there is none.
const MEASURE_ALL_MAX: u32 = 8;
/// One of so many is measured then.
const MEASURE_ONE_OF: u64 = 4;
/// What is taken for the latency of a pool of which nothing is known: a call within a machine room.
const LATENCY_UNKNOWN: Duration = Duration::from_millis(1);

/// What is typical of all endpoints of a channel: a running median of latencies.
#[derive(Debug)]
pub struct Typical {
    epoch: Instant,
    /// Nanoseconds, as the bits of an `f64`.
    median: AtomicU64,
    /// Answers counted so far, up to [`TYPICAL_FIRST`].
    counted: AtomicU32,
}

/// The load of one endpoint.
#[derive(Debug)]
pub struct Load {
    in_flight: AtomicU32,
    /// Those of them that are expected to end: no streams.
    timed: AtomicU32,
    /// Streams that have begun and are not over.
    streams: AtomicU32,
    /// Calls that were begun.
    begun: AtomicU64,
    failed: AtomicU64,
    /// When the last call came back, or the first of those in flight was begun.
    progress: AtomicU64,
    /// Nanoseconds, as the bits of an `f64`; 0 before the first answer.
    latency: AtomicU64,
    observed: AtomicU64,
    /// When it failed last; 0 if never.
    failure: AtomicU64,
    /// Calls that were not answered in time.
    late: AtomicU64,
    /// Calls that were given up, or told nothing.
    aside: AtomicU64,
    /// The last calls that failed or were late, in a row.
    trouble: AtomicU32,
    pace: Pace,
}

/// What is known of an endpoint's calls so far; all counts but one only grow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observation {
    /// Calls that were answered, failed or were late.
    pub ended: u64,
    /// Those that failed by its fault, or were late.
    pub failed: u64,
    /// The last ones that did, in a row.
    pub consecutive: u32,
    /// A reading of how long answers take, for [`Pace::mean`].
    pub pace: u64,
}

/// How long answers take, whichever they are: a sum of logarithms, so that one that takes for ever does not count for all others.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

/// How a call at an endpoint ended, as far as that tells about the endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// It answered.
    Answered,
    /// It failed, by itself or on the way.
    Failed,
    /// It did not answer in the time that the call had: as good as an answer that took so long.
    Late,
    /// The caller gave up: it took longer than that.
    GivenUp,
    /// It was a stream that began, and lasts as long as it likes.
    Streamed,
    /// That tells nothing: the endpoint had no part in it.
    Neutral,
}

impl Typical {
    /// Nothing is known; `now` is the beginning of its time.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            median: AtomicU64::new(nanos(LATENCY_UNKNOWN).to_bits()),
            counted: AtomicU32::new(0),
        }
    }

    /// The running median.
    #[must_use]
    pub fn latency(&self) -> Duration {
        duration(self.median())
    }

    fn median(&self) -> f64 {
        f64::from_bits(self.median.load(Ordering::Relaxed))
    }

    /// Takes up an answer, the `number`th of its endpoint.
    fn observe(&self, latency: f64, number: u64) {
        let counted = self.counted.load(Ordering::Relaxed);
        let median = self.median();
        let moved = if counted < TYPICAL_FIRST {
            self.counted.store(counted + 1, Ordering::Relaxed);
            median + (latency - median) / f64::from(counted + 1)
        } else if !number.is_multiple_of(TYPICAL_ONE_OF) {
            return;
        } else if latency > median {
            median * (1.0 + TYPICAL_STEP)
        } else {
            median * (1.0 - TYPICAL_STEP)
        };
        // Never so small that a step is none.
        self.median.store(moved.max(1_000.0).to_bits(), Ordering::Relaxed);
    }

    fn since_epoch(&self, now: Instant) -> u64 {
        // Zero means never.
        u64::try_from(now.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX).max(1)
    }
}

impl Default for Load {
    fn default() -> Self {
        Self {
            in_flight: AtomicU32::new(0),
            timed: AtomicU32::new(0),
            streams: AtomicU32::new(0),
            begun: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            progress: AtomicU64::new(0),
            latency: AtomicU64::new(0.0_f64.to_bits()),
            observed: AtomicU64::new(0),
            failure: AtomicU64::new(0),
            late: AtomicU64::new(0),
            aside: AtomicU64::new(0),
            trouble: AtomicU32::new(0),
            pace: Pace::default(),
        }
    }
}

impl Pace {
    /// Bits for the number of answers; the rest is for the sum.
    const COUNT_BITS: u32 = 24;
    /// Parts of a doubling.
    const PARTS: f64 = 1024.0;

    fn note(&self, nanos: f64) {
        // Exponent and the first ten bits of the mantissa: the logarithm to within a tenth of a doubling.
        let log = nanos.max(1.0).to_bits() >> 42;
        let log = log - (1_023 << 10);
        self.0.fetch_add((log << Self::COUNT_BITS) | 1, Ordering::Relaxed);
    }

    fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// The mean between two readings, with at least so many answers.
    #[must_use]
    pub fn mean(before: u64, after: u64, count_min: u64) -> Option<Duration> {
        // Both parts only grow, and the sum of two readings wraps as they do.
        let grown = after.wrapping_sub(before);
        let count = grown & ((1 << Self::COUNT_BITS) - 1);
        if count == 0 || count < count_min {
            return None;
        }
        let log = (grown >> Self::COUNT_BITS) as f64 / count as f64 / Self::PARTS;
        Some(duration(log.exp2()))
    }
}

impl Load {
    /// Calls that are under way.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Calls that were begun so far.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Calls that failed so far.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// What tells whether it is worse than others.
    #[must_use]
    pub fn observation(&self) -> Observation {
        let in_flight = u64::from(self.in_flight());
        // They were answered when they began.
        let streams = u64::from(self.streams.load(Ordering::Relaxed));
        Observation {
            ended: (self.begun() + streams).saturating_sub(in_flight + self.aside.load(Ordering::Relaxed)),
            failed: self.failed() + self.late.load(Ordering::Relaxed),
            consecutive: self.trouble(),
            pace: self.pace.load(),
        }
    }

    /// The last calls that failed or were late, in a row.
    #[must_use]
    pub fn trouble(&self) -> u32 {
        self.trouble.load(Ordering::Relaxed)
    }

    /// A stream of answers began: it was answered, and is in flight for as long as it likes. Once for a call that is untimed, and then ends as
    /// [streamed](Self::end_stream).
    pub fn begin_stream(&self) {
        self.streams.fetch_add(1, Ordering::Relaxed);
        self.note_answer();
    }

    /// A stream that began is over.
    pub fn end_stream(&self) {
        self.streams.fetch_sub(1, Ordering::Relaxed);
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// An answer came, or a stream of them began: what failed before was no run without an end.
    pub fn note_answer(&self) {
        if self.trouble() != 0 {
            self.trouble.store(0, Ordering::Relaxed);
        }
    }

    fn note_trouble(&self) {
        // Far below where it would wrap, and above all that is asked.
        if self.trouble() < u32::MAX / 2 {
            self.trouble.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The average latency as it was observed last; `None` before the first answer.
    #[must_use]
    pub fn latency(&self) -> Option<Duration> {
        let latency = f64::from_bits(self.latency.load(Ordering::Relaxed));
        (latency > 0.0).then(|| duration(latency))
    }

    /// A call begins. Returns when, if it is to be measured: at an endpoint with many calls in flight one of several is, and `now` is asked for no more.
    pub fn begin(&self, now: impl FnOnce() -> Instant, typical: &Typical) -> Option<Instant> {
        let number = self.begun.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        // Streams do not come back, and so tell nothing of how often others do.
        let others = self.timed.fetch_add(1, Ordering::Relaxed);
        let is_first = others == 0;
        if others >= MEASURE_ALL_MAX && !number.is_multiple_of(MEASURE_ONE_OF) {
            return None;
        }
        let now = now();
        if is_first {
            self.progress.store(typical.since_epoch(now), Ordering::Relaxed);
        }
        Some(now)
    }

    /// A call that was begun is about a stream, which lasts as long as it likes: it counts as one in flight, and its silence as nothing. Once for a call, which
    /// then ends as streamed, neutral or failed.
    pub fn set_untimed(&self) {
        self.timed.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call that was begun at `began` is over. Every begin has one end.
    pub fn end(&self, began: Instant, now: Instant, verdict: Verdict, typical: &Typical) {
        self.timed.fetch_sub(1, Ordering::Relaxed);
        self.finish(true, (began, now), verdict, typical);
    }

    /// As [`end`](Self::end), of a call that is not measured, and `is_timed` unless it is about a stream. That it failed counts all the same.
    pub fn end_unmeasured(&self, is_timed: bool, now: impl FnOnce() -> Instant, verdict: Verdict, typical: &Typical) {
        self.timed.fetch_sub(u32::from(is_timed), Ordering::Relaxed);
        match verdict {
            Verdict::Failed => {
                let now = now();
                self.finish(is_timed, (now, now), verdict, typical);
            }
            Verdict::Late => {
                self.late.fetch_add(1, Ordering::Relaxed);
                self.note_trouble();
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
            Verdict::Answered => {
                self.note_answer();
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
            Verdict::Streamed => {
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
            Verdict::GivenUp | Verdict::Neutral => {
                self.aside.fetch_add(1, Ordering::Relaxed);
                self.in_flight.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// As [`end`](Self::end), of a call that is untimed.
    pub fn end_untimed(&self, began: Instant, now: Instant, verdict: Verdict, typical: &Typical) {
        self.finish(false, (began, now), verdict, typical);
    }

    fn finish(&self, is_timed: bool, (began, now): (Instant, Instant), verdict: Verdict, typical: &Typical) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        let at = typical.since_epoch(now);
        let latency = nanos(now.saturating_duration_since(began));
        match verdict {
            Verdict::Answered | Verdict::Late => {
                // How long a stream takes is not how long answers take.
                if is_timed {
                    self.latency.store(self.averaged(latency, at).to_bits(), Ordering::Relaxed);
                    self.observed.store(at, Ordering::Relaxed);
                    typical.observe(latency, self.begun());
                    self.pace.note(latency);
                }
                if verdict == Verdict::Late {
                    self.late.fetch_add(1, Ordering::Relaxed);
                    self.note_trouble();
                } else {
                    self.note_answer();
                }
            }
            Verdict::Failed => {
                self.note_trouble();
                // How fast it fails says nothing about how fast it works.
                self.failed.fetch_add(1, Ordering::Relaxed);
                self.failure.store(at, Ordering::Relaxed);
            }
            Verdict::GivenUp => {
                self.aside.fetch_add(1, Ordering::Relaxed);
                if is_timed && latency > f64::from_bits(self.latency.load(Ordering::Relaxed)).max(typical.median()) {
                    self.latency.store(latency.to_bits(), Ordering::Relaxed);
                    self.observed.store(at, Ordering::Relaxed);
                }
                return;
            }
            // It was an answer when it began.
            Verdict::Streamed => return,
            Verdict::Neutral => {
                self.aside.fetch_add(1, Ordering::Relaxed);
                return;
            }
        }
        self.progress.store(at, Ordering::Relaxed);
    }

    /// For how long it has owed answers and given none; streams owe none.
    #[must_use]
    pub fn silence(&self, now: Instant, typical: &Typical) -> Duration {
        if self.timed.load(Ordering::Relaxed) == 0 {
            return Duration::ZERO;
        }
        Duration::from_nanos(typical.since_epoch(now).saturating_sub(self.progress.load(Ordering::Relaxed)))
    }

    /// What one more call costs there, next to what it costs at others. `share` is the endpoint's weight over the mean weight.
    ///
    /// The square of the latency: a slow endpoint that is idle must not be as good as a fast one with calls in flight, or it is given one at a time.
    #[must_use]
    pub fn cost(&self, now: Instant, typical: &Typical, share: f64) -> f64 {
        let at = typical.since_epoch(now);
        let in_flight = self.in_flight();
        let mut latency = f64::from_bits(self.latency.load(Ordering::Relaxed));
        let alike = (typical.median() * ALIKE).max(nanos(ALIKE_MIN));
        if latency == 0.0 || self.begun() <= COLD_FIRST || (in_flight == 0 && self.is_stale(at)) {
            latency = alike;
        }
        if self.timed.load(Ordering::Relaxed) > 0 {
            let silent = at.saturating_sub(self.progress.load(Ordering::Relaxed)) as f64;
            latency = latency.max(silent);
        }
        latency = latency.max(alike);
        let mut cost = latency * latency * (1.0 + f64::from(in_flight) / share);
        let failure = self.failure.load(Ordering::Relaxed);
        if failure > 0 {
            let since = at.saturating_sub(failure);
            if (since as f64) < nanos(PENALTY_TAU) * PENALTY_TAUS {
                cost *= 1.0 + PENALTY * worn(since, PENALTY_TAU);
            }
        }
        cost
    }

    /// Nothing is known, or nothing that still counts.
    fn is_stale(&self, at: u64) -> bool {
        at.saturating_sub(self.observed.load(Ordering::Relaxed)) as f64 > nanos(STALE_AFTER)
    }

    /// A peak counts at once; what is better only slowly.
    fn averaged(&self, latency: f64, at: u64) -> f64 {
        let average = f64::from_bits(self.latency.load(Ordering::Relaxed));
        if self.begun() <= COLD_FIRST && average > 0.0 {
            return latency.min(average);
        }
        if latency >= average || self.is_stale(at) {
            return latency;
        }
        let kept = worn(at.saturating_sub(self.observed.load(Ordering::Relaxed)), TAU);
        average * kept + latency * (1.0 - kept)
    }
}

/// What is left after `elapsed` nanoseconds.
fn worn(elapsed: u64, tau: Duration) -> f64 {
    (-(elapsed as f64) / nanos(tau)).exp()
}

fn nanos(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e9
}

fn duration(nanos: f64) -> Duration {
    Duration::try_from_secs_f64(nanos / 1e9).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests;
