//! When a call that takes long is made a second time, at another endpoint, and how many of them may be.
//!
//! The delay is long enough that few calls need it, and short enough to save those that do: a high percentile of what an endpoint of the middle takes, so that
//! one slow endpoint does not move it. What it costs is paid for by all calls, and half of the savings are kept for calls that take far longer than that.
//!
//! Source: Dean and Barroso, "The Tail at Scale"; gRFC A6 for the name and the rules.

use std::collections::HashMap;
use std::time::Duration;

/// The highest percentile that can be asked for, and the lowest.
const PERCENTILES: (f64, f64) = (0.5, 0.999);
/// The budgets that can be asked for.
const BUDGETS: (f64, f64) = (0.001, 1.0);
/// The longest delay that can be asked for; a call's deadline is before that.
const DELAY_MAX: Duration = Duration::from_hours(1);
/// Calls that all calls together can have saved for.
const SAVED_MAX: f64 = 40.0;
/// What a client begins with.
const SAVED_FIRST: f64 = 1.0;
/// Who waits so many times as long as the delay may use all that is saved.
const LATE: u32 = 2;
/// Answers of an endpoint before its times tell anything.
const ANSWERS_MIN: u32 = 20;
/// Answers after which the older ones count half.
const ANSWERS_MAX: u32 = 2_000;
/// One of so many answers has the delay found anew.
const RENEW_EVERY: u32 = 64;
/// Answers of all endpoints, for each of them, after which one that gave none is forgotten.
const ANSWERS_KEPT: usize = 100;
/// Endpoints whose times are known, at most: in the middle of so many one more changes nothing.
pub const ENDPOINTS_MAX: usize = 1_024;

/// How calls that take long are made a second time: as [`DEFAULT`](Self::DEFAULT), if they are at all.
///
/// Only those that may run twice, with one message in each direction, and only where there is another endpoint. The first answer counts, and the other call is
/// cancelled at its server.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::policy::hedging::HedgingPolicy; }
/// use std::time::Duration;
///
/// use sinew::HedgingPolicy;
///
/// let after_30_ms = HedgingPolicy::DEFAULT.after(Duration::from_millis(30)).budget(0.05);
/// let at_p95 = HedgingPolicy::DEFAULT.percentile(0.95).budget(0.05);
/// # let _ = (after_30_ms, at_p95);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HedgingPolicy {
    is_on: bool,
    delay: Delay,
    budget: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Delay {
    After(Duration),
    Percentile(f64),
}

impl HedgingPolicy {
    /// After as long as 98 of 100 answers take, and for at most 2 of 100 calls.
    pub const DEFAULT: Self = Self {
        is_on: true,
        delay: Delay::Percentile(0.98),
        budget: 0.02,
    };
    /// Each call is made once.
    pub const NEVER: Self = Self {
        is_on: false,
        ..Self::DEFAULT
    };

    /// Makes the second call after that time, at most an hour.
    #[must_use]
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = Delay::After(delay.min(DELAY_MAX));
        self
    }

    /// Makes the second call after as long as that part of all answers takes (default: 0.98; 0.5 to 0.999, what is beyond counts as that), as it was seen lately, at the
    /// endpoint that is in the middle of all.
    #[must_use]
    pub const fn percentile(mut self, part: f64) -> Self {
        let part = if part.is_nan() {
            0.98
        } else {
            part.clamp(PERCENTILES.0, PERCENTILES.1)
        };
        self.delay = Delay::Percentile(part);
        self
    }

    /// Sets the part of calls that may be made a second time (default: 0.02; 0.001 to 1, what is beyond counts as that).
    #[must_use]
    pub const fn budget(mut self, part: f64) -> Self {
        self.budget = if part.is_nan() {
            0.02
        } else {
            part.clamp(BUDGETS.0, BUDGETS.1)
        };
        self
    }

    /// Whether any call is made a second time.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }
}

/// What is known of the calls of one method.
#[derive(Debug)]
pub struct Hedges {
    endpoints: HashMap<u64, Times>,
    saved: f64,
    answers: u32,
    /// As it was found last, and for which percentile.
    delay: Option<(f64, Option<Duration>)>,
    /// What came of that for the last call.
    last: Option<Duration>,
}

impl Default for Hedges {
    fn default() -> Self {
        Self {
            endpoints: HashMap::new(),
            saved: SAVED_FIRST,
            answers: 0,
            delay: None,
            last: None,
        }
    }
}

/// When to make a call a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When, if there is plenty saved.
    pub early: Duration,
    /// When, if there is anything saved.
    pub late: Duration,
}

impl Hedges {
    /// A call begins, and pays in.
    pub fn begin(&mut self, policy: &HedgingPolicy) -> Option<Schedule> {
        self.saved = (self.saved + policy.budget).min(SAVED_MAX);
        let early = match policy.delay {
            Delay::After(delay) => Some(delay),
            Delay::Percentile(part) => self.percentile(part),
        };
        self.last = early;
        let early = early?;
        Some(Schedule {
            early,
            late: early.saturating_mul(LATE),
        })
    }

    /// After which time the last call was to be made a second time, if there was plenty saved.
    #[must_use]
    pub fn delay(&self) -> Option<Duration> {
        self.last
    }

    /// Takes a second call out of what is saved; `is_late` if it has waited for long.
    pub fn pay(&mut self, is_late: bool) -> bool {
        let kept = if is_late { 0.0 } else { SAVED_MAX / 2.0 };
        if self.saved < kept + 1.0 {
            // With hardly any calls nothing is ever plenty, nor is it needed.
            return false;
        }
        self.saved -= 1.0;
        true
    }

    /// A second call was not made after all.
    pub fn give_back(&mut self) {
        self.saved = (self.saved + 1.0).min(SAVED_MAX);
    }

    /// An endpoint answered in that time, or did not within it.
    pub fn note(&mut self, endpoint: u64, took: Duration) {
        self.answers = self.answers.wrapping_add(1);
        if self.answers.is_multiple_of(RENEW_EVERY) {
            // Those that have left are not asked any more.
            let (answers, longest) = (self.answers, ANSWERS_KEPT.saturating_mul(self.endpoints.len().max(1)));
            let is_used = |times: &Times| answers.wrapping_sub(times.noted) as usize <= longest;
            self.endpoints.retain(|_, times| is_used(times));
        }
        if self.endpoints.len() >= ENDPOINTS_MAX && !self.endpoints.contains_key(&endpoint) {
            return;
        }
        let times = self.endpoints.entry(endpoint).or_default();
        times.note(took);
        times.noted = self.answers;
        if self.answers.is_multiple_of(RENEW_EVERY) {
            self.delay = None;
        }
    }

    /// That of the endpoint in the middle.
    fn percentile(&mut self, part: f64) -> Option<Duration> {
        if let Some((_, delay)) = self.delay.filter(|(of, _)| *of == part) {
            return delay;
        }
        let known = self.endpoints.values().filter(|times| times.count >= ANSWERS_MIN);
        let mut all: Vec<Duration> = known.map(|times| times.percentile(part)).collect();
        all.sort_unstable();
        let delay = all.get(all.len().saturating_sub(1) / 2).copied();
        self.delay = Some((part, delay));
        delay
    }
}

/// Of each doubling so many parts.
const PARTS: usize = 8;
/// From a microsecond on; what is below counts as that.
const FIRST_DOUBLING: u32 = 10;
const DOUBLINGS: usize = 32;

/// How long an endpoint's answers took.
#[derive(Debug)]
struct Times {
    counts: Box<[u32; PARTS * DOUBLINGS]>,
    count: u32,
    /// The number of its last answer.
    noted: u32,
}

impl Default for Times {
    fn default() -> Self {
        Self {
            counts: Box::new([0; PARTS * DOUBLINGS]),
            count: 0,
            noted: 0,
        }
    }
}

impl Times {
    fn note(&mut self, took: Duration) {
        if self.count >= ANSWERS_MAX {
            self.count = 0;
            for count in self.counts.iter_mut() {
                *count /= 2;
                self.count += *count;
            }
        }
        self.counts[place(took)] += 1;
        self.count += 1;
    }

    fn percentile(&self, part: f64) -> Duration {
        let wanted = part * f64::from(self.count);
        let mut below = 0.0;
        for (place, count) in self.counts.iter().enumerate() {
            below += f64::from(*count);
            if below >= wanted {
                return end_of(place);
            }
        }
        end_of(PARTS * DOUBLINGS - 1)
    }
}

fn place(took: Duration) -> usize {
    let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1 << FIRST_DOUBLING);
    let doubling = nanos.ilog2();
    let part = (nanos >> (doubling - 3)) & 7;
    let place = (doubling - FIRST_DOUBLING) as usize * PARTS + part as usize;
    place.min(PARTS * DOUBLINGS - 1)
}

/// The longest time that has that place.
fn end_of(place: usize) -> Duration {
    #[expect(clippy::cast_possible_truncation, reason = "there are few places")]
    let doubling = FIRST_DOUBLING + (place / PARTS) as u32;
    let part = (place % PARTS) as u64 + 1;
    Duration::from_nanos((1_u64 << doubling) + (part << (doubling - 3)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{ENDPOINTS_MAX, Hedges, HedgingPolicy, Times};

    const POLICY: HedgingPolicy = HedgingPolicy::DEFAULT;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn percentiles_are_right_to_within_an_eighth() {
        let mut times = Times::default();
        for micros in (0..100_000).step_by(100) {
            times.note(Duration::from_micros(micros));
        }
        for (part, wanted) in [(0.5, 50.0), (0.9, 90.0), (0.98, 98.0)] {
            let got = times.percentile(part).as_secs_f64() * 1e3;
            assert!((wanted..=wanted * 1.13).contains(&got), "{part}: {got}");
        }
        times.note(Duration::ZERO);
        times.note(Duration::MAX);
    }

    #[test]
    fn newer_answers_count_for_more() {
        let mut times = Times::default();
        (0..10_000).for_each(|_| times.note(ms(10)));
        (0..3_000).for_each(|_| times.note(ms(100)));
        assert!(times.percentile(0.5) >= ms(100));
    }

    #[test]
    fn one_slow_endpoint_does_not_move_the_delay() {
        let mut hedges = Hedges::default();
        assert_eq!(hedges.begin(&POLICY), None, "nothing is known");
        for number in 0..1_100 {
            let endpoint = number % 11;
            hedges.note(
                endpoint,
                if endpoint == 3 {
                    ms(2_000)
                } else {
                    ms(160 + number % 10)
                },
            );
        }
        let schedule = hedges.begin(&POLICY).unwrap();
        assert!((ms(165)..=ms(190)).contains(&schedule.early), "{schedule:?}");
        assert_eq!(schedule.late, schedule.early * 2);
        let fixed = hedges.begin(&POLICY.after(ms(30))).unwrap();
        assert_eq!((fixed.early, fixed.late), (ms(30), ms(60)));
    }

    #[test]
    fn second_calls_are_paid_for_and_half_is_kept_for_those_that_need_it_most() {
        let mut hedges = Hedges::default();
        assert!(!hedges.pay(false) && hedges.pay(true) && !hedges.pay(true));
        for calls in 0..100_000_u32 {
            hedges.begin(&POLICY);
            let _paid = hedges.pay(false);
            assert!(hedges.saved <= 21.1, "{calls}");
        }
        assert_eq!((0..100).filter(|_| hedges.pay(true)).count(), 20);
        let mut made = 0;
        for _ in 0..10_000 {
            hedges.begin(&POLICY);
            made += u32::from(hedges.pay(true));
        }
        assert!((199..=201).contains(&made), "{made}");
        assert!(!hedges.pay(true) || hedges.saved >= 0.0);
        hedges.give_back();
        assert!(hedges.pay(true));
    }

    #[test]
    fn only_so_many_endpoints_are_known() {
        for (count, kept) in [
            (ENDPOINTS_MAX - 1, ENDPOINTS_MAX - 1),
            (ENDPOINTS_MAX, ENDPOINTS_MAX),
            (ENDPOINTS_MAX + 1, ENDPOINTS_MAX),
        ] {
            let mut hedges = Hedges::default();
            for endpoint in 0..count as u64 {
                hedges.note(endpoint, ms(1));
            }
            assert_eq!(hedges.endpoints.len(), kept);
            assert_eq!(
                hedges.endpoints.contains_key(&(count as u64 - 1)),
                count <= ENDPOINTS_MAX
            );
        }
    }

    #[test]
    fn those_that_have_left_are_forgotten() {
        let mut hedges = Hedges::default();
        // Ten endpoints, thirty times replaced by others, the last of which are slower.
        for generation in 0..30 {
            for number in 0..10_000 {
                hedges.note(
                    generation * 10 + number % 10,
                    ms(if generation == 29 { 30 } else { 10 }),
                );
            }
        }
        assert!(hedges.endpoints.len() <= 20, "{}", hedges.endpoints.len());
        let delay = hedges.begin(&POLICY).unwrap().early;
        assert!(delay >= ms(30), "{delay:?}");
    }
}
