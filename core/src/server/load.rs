//! What a server tells its clients of its load: counted, sampled, and sent with answers to those who asked for it in their HELLO.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::books::Books;
use super::dispatch::Answer;
use super::rejections::Rejections;
use crate::code::Code;
use crate::metadata::Metadata;
use crate::status::{HandlerRan, OVERLOAD_POLICY, Status};
use crate::time;
use crate::transport::Connection;
use crate::wire::head::{END_BYTES_MAX, METADATA_ENTRIES_MAX};
use crate::wire::load::{LOAD_BYTES_MAX, LOAD_KEY, LoadCounts};

/// What a report is about: long enough for the ticks in which processors are counted, short enough to follow.
const WINDOW: Duration = Duration::from_millis(500);
/// The least time between two reports on one connection in milliseconds, whatever its client asks for.
const INTERVAL_MIN_MS: u32 = 100;
/// How often the time of the processors is counted up: on Linux, on all architectures in use.
const TICKS_PER_SECOND: f64 = 100.0;
/// No utilization is set.
const UNSET: u32 = u32::MAX;
/// The most that one can be set to.
const UTILIZATION_MAX: f64 = 100.0;

/// How much of its capacity a server uses, as its application says: for clients that choose by it. Clones are the same.
///
/// Without it a server reports the part of the processors' time that its process takes, on Linux; elsewhere nothing. Set it where something else runs short
/// first: a pool of connections, memory, a queue.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::server::ServerLoad; }
/// use sinew::ServerLoad;
///
/// let load = ServerLoad::new();
/// // .. `Server::builder().load(load.clone())`, and whenever the pool has changed:
/// load.set_utilization(15.0 / 20.0);
/// assert_eq!(load.utilization(), Some(0.75));
/// ```
#[derive(Clone)]
pub struct ServerLoad {
    /// In thousandths.
    said: Arc<AtomicU32>,
}

impl Default for ServerLoad {
    fn default() -> Self {
        Self {
            said: Arc::new(AtomicU32::new(UNSET)),
        }
    }
}

impl ServerLoad {
    /// Nothing is set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the part of its capacity that the server uses: 0.0 for nothing, 1.0 for all of it, more if it has more to do than it can. At most 100.0, what is
    /// beyond counts as that; below zero, or no number, counts as zero.
    pub fn set_utilization(&self, used: f64) {
        self.said.store(thousandths(used), Ordering::Relaxed);
    }

    /// Takes back what was set.
    pub fn unset_utilization(&self) {
        self.said.store(UNSET, Ordering::Relaxed);
    }

    /// What was set last.
    #[must_use]
    pub fn utilization(&self) -> Option<f64> {
        self.thousandths().map(|said| f64::from(said) / 1_000.0)
    }

    fn thousandths(&self) -> Option<u32> {
        Some(self.said.load(Ordering::Relaxed)).filter(|said| *said != UNSET)
    }
}

impl fmt::Debug for ServerLoad {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerLoad").field("utilization", &self.utilization()).finish()
    }
}

/// Counts what a server answers, and makes reports of it.
pub(super) struct LoadMeter {
    said: ServerLoad,
    /// Whoever asks is told.
    reports: bool,
    /// How many there are.
    processors: f64,
    epoch: Instant,
    answered: AtomicU64,
    failed: AtomicU64,
    pub(super) rejections: Rejections,
    sample: Mutex<Sample>,
}

/// The counts at the end of the last window.
struct Sample {
    at: Instant,
    answered: u64,
    failed: u64,
    processors: Option<Duration>,
    /// What the window before came to; empty before there is one.
    report: Bytes,
}

/// When the next report on a connection is due.
pub(super) struct Reports {
    /// What the client asked for, in milliseconds.
    every: AtomicU32,
    /// Nanoseconds since the meter's epoch.
    due: AtomicU64,
}

/// The client's HELLO was not looked at.
const UNASKED: u32 = u32::MAX;

impl Default for Reports {
    fn default() -> Self {
        Self {
            every: AtomicU32::new(UNASKED),
            due: AtomicU64::new(0),
        }
    }
}

impl LoadMeter {
    pub(super) fn new(said: ServerLoad, reports: bool) -> Self {
        let now = time::now();
        Self {
            said,
            reports,
            processors: processor_count(),
            epoch: now,
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            rejections: Rejections::default(),
            sample: Mutex::new(Sample {
                at: now,
                answered: 0,
                failed: 0,
                processors: processor_time(),
                report: Bytes::new(),
            }),
        }
    }

    /// So many calls were answered, and so many of them failed by the server's fault.
    pub(super) fn count(&self, answered: u64, failed: u64) {
        self.answered.fetch_add(answered, Ordering::Relaxed);
        if failed > 0 {
            self.failed.fetch_add(failed, Ordering::Relaxed);
        }
    }

    /// Calls that were answered so far, and those of them that failed.
    pub(super) fn counts(&self) -> (u64, u64) {
        (
            self.answered.load(Ordering::Relaxed),
            self.failed.load(Ordering::Relaxed),
        )
    }

    /// What the application said.
    pub(super) fn utilization(&self) -> Option<f64> {
        self.said.utilization()
    }

    /// Adds a report to the trailers of an answer on that connection, if one is due.
    fn report(
        &self,
        reports: &Reports,
        connection: &Connection,
        trailers: &mut Metadata,
        now: impl FnOnce() -> Instant,
    ) {
        let mut every = reports.every.load(Ordering::Relaxed);
        if every == UNASKED {
            every = match connection.load_interval_ms() {
                _ if !self.reports => 0,
                0 => 0,
                asked => asked.clamp(INTERVAL_MIN_MS, UNASKED - 1),
            };
            reports.every.store(every, Ordering::Relaxed);
        }
        if every == 0 {
            return;
        }
        let now = now();
        let since_epoch = now.saturating_duration_since(self.epoch).as_nanos();
        let since_epoch = u64::try_from(since_epoch).unwrap_or(u64::MAX);
        let due = reports.due.load(Ordering::Relaxed);
        let next = since_epoch.saturating_add(u64::from(every) * 1_000_000);
        let is_ours =
            since_epoch >= due && reports.due.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        // Above their limits trailers are left out as a whole.
        let has_room =
            trailers.encoded_len() + 2 * LOAD_BYTES_MAX <= END_BYTES_MAX / 2 && trailers.len() < METADATA_ENTRIES_MAX;
        if is_ours && has_room {
            let report = self.sample(now);
            if !report.is_empty() {
                // The key and the length keep the rules.
                let _added = trailers.insert(LOAD_KEY, report);
            }
        }
    }

    /// The report of the last full window; empty before there is one.
    fn sample(&self, now: Instant) -> Bytes {
        let Ok(mut sample) = self.sample.try_lock() else {
            // Somebody else is making the next one.
            return Bytes::new();
        };
        let window = now.saturating_duration_since(sample.at);
        if window < WINDOW {
            return sample.report.clone();
        }
        let (answered, failed) = self.counts();
        let processors = processor_time();
        let of_processors = processors.zip(sample.processors).map(|(now, before)| {
            let used = now.saturating_sub(before).as_secs_f64() / window.as_secs_f64();
            thousandths(used / self.processors)
        });
        let counts = LoadCounts {
            window,
            calls: answered - sample.answered,
            failures: failed - sample.failed,
            utilization: self.said.thousandths().or(of_processors),
        };
        let mut report = Vec::with_capacity(LOAD_BYTES_MAX);
        counts.encode(&mut report);
        *sample = Sample {
            at: now,
            answered,
            failed,
            processors,
            report: report.into(),
        };
        sample.report.clone()
    }
}

/// Adds a load report to an answer on that connection, if one is due.
pub(super) fn add_report(books: &Books, connection: &Connection, answer: &mut Answer, now: impl FnOnce() -> Instant) {
    match answer {
        Answer::Unary { trailers, .. } | Answer::Failed { trailers, .. } => {
            books.shared.load.report(&books.calls.reports, connection, trailers, now);
        }
        // Its trailers go out when it ends, and a report would be old then.
        Answer::Stream { .. } => {}
    }
}

/// Whether a call failed by the server's fault, and not by its caller's.
pub(super) fn is_failure(status: &Status) -> bool {
    match status.code() {
        Code::Unknown | Code::Internal | Code::DataLoss | Code::DeadlineExceeded => true,
        // What a caller is not allowed is no fault here.
        Code::ResourceExhausted => status.policy().is_none_or(|policy| policy == OVERLOAD_POLICY),
        Code::Unavailable => status.handler_ran() != HandlerRan::No,
        _ => false,
    }
}

/// A utilization within its range, in thousandths.
fn thousandths(utilization: f64) -> u32 {
    let bounded = utilization.clamp(0.0, UTILIZATION_MAX) * 1_000.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it fits, and what is no number is zero"
    )]
    let whole = bounded as u32;
    whole
}

fn processor_count() -> f64 {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64
}

/// The processors' time that this process has taken, where that can be told.
fn processor_time() -> Option<Duration> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name in parentheses, which may have spaces in it, the 12th and 13th field.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    let all = ticks()? + ticks()?;
    Duration::try_from_secs_f64(all / TICKS_PER_SECOND).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{LoadMeter, ServerLoad, processor_time};
    use crate::wire::load::LoadCounts;

    #[test]
    fn a_report_is_about_the_last_full_window() {
        let load = ServerLoad::new();
        let meter = LoadMeter::new(load.clone(), true);
        let at = |millis| meter.epoch + Duration::from_millis(millis);
        assert!(meter.sample(at(499)).is_empty());
        load.set_utilization(0.25);
        meter.count(100, 3);
        let first = meter.sample(at(500));
        let window = Duration::from_millis(500);
        let counts = |calls, failures, utilization| LoadCounts {
            window,
            calls,
            failures,
            utilization,
        };
        assert_eq!(LoadCounts::decode(&first), Ok(counts(100, 3, Some(250))));
        load.set_utilization(0.5);
        meter.count(7, 0);
        assert_eq!(meter.sample(at(999)), first);
        let second = meter.sample(at(1_000));
        assert_eq!(LoadCounts::decode(&second), Ok(counts(7, 0, Some(500))));
    }

    #[test]
    fn a_utilization_is_kept_within_its_range() {
        let load = ServerLoad::new();
        assert_eq!(load.utilization(), None);
        for (set, kept) in [
            (f64::NAN, 0.0),
            (-1.0, 0.0),
            (0.0, 0.0),
            (1.5, 1.5),
            (100.0, 100.0),
            (f64::INFINITY, 100.0),
        ] {
            load.set_utilization(set);
            assert_eq!(load.utilization(), Some(kept), "{set}");
        }
        load.unset_utilization();
        assert_eq!(load.utilization(), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_time_of_the_processors_goes_on() {
        let before = processor_time().unwrap();
        let mut sum = 0_u64;
        while processor_time().unwrap() <= before {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
