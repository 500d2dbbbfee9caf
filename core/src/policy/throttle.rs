//! A client that leaves out calls which would be turned away anyway.
//!
//! A server that has too much to do spends time on saying no. A client whose calls are mostly turned away lets only about twice as many go as get through, so that
//! the server has its time for those; one that gets nothing through asks now and then, and goes back to normal as soon as the answers come back.
//!
//! Source: the SRE book, chapter 21 (adaptive throttling), with a shorter memory and an end to it by a run of answers.

use std::time::{Duration, Instant};

use super::marks::{Marks, evenly};

/// How far back is looked.
const SPAN: Duration = Duration::from_secs(4);
const PART: Duration = Duration::from_millis(400);
/// Calls go to the server however it goes: one in so much time, and one of so many.
const ASK_EVERY: Duration = Duration::from_secs(1);
const SHARE_MAX: f64 = 0.99;
/// After so many answers in a row nothing that was before counts: where half of all calls are turned away, chance comes to that once in a million times.
const RUN: u64 = 20;

/// When a client leaves out calls that would be turned away: as [`DEFAULT`](Self::DEFAULT) if nothing else is said.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::policy::throttle::AdaptiveThrottle; }
/// use sinew::AdaptiveThrottle;
///
/// let patient = AdaptiveThrottle::DEFAULT.multiplier(3.0).calls_min(100);
/// # let _ = patient;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdaptiveThrottle {
    is_on: bool,
    multiplier: f64,
    calls_min: u32,
}

impl AdaptiveThrottle {
    /// Of the calls of the last 4 s, twice as many are sent as were not turned away, and 10 more. What is turned away is what a server answers with UNAVAILABLE, or with
    /// RESOURCE_EXHAUSTED because it has too much to do.
    pub const DEFAULT: Self = Self {
        is_on: true,
        multiplier: 2.0,
        calls_min: 10,
    };
    /// All calls are sent.
    pub const NEVER: Self = Self {
        is_on: false,
        ..Self::DEFAULT
    };

    /// Sets how many times as many calls are sent as get through (default: 2; 1.1 to 10, what is beyond counts as that).
    #[must_use]
    pub const fn multiplier(mut self, multiplier: f64) -> Self {
        self.multiplier = if multiplier.is_nan() {
            2.0
        } else {
            multiplier.clamp(1.1, 10.0)
        };
        self
    }

    /// Sets how many are sent besides (default: 10): fewer calls that are turned away within 4 s never count.
    #[must_use]
    pub const fn calls_min(mut self, calls: u32) -> Self {
        self.calls_min = calls;
        self
    }

    /// Whether any call is ever left out.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }
}

/// Calls so far.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answered: u64,
    rejected: u64,
    left_out: u64,
}

impl Counts {
    fn turned_away(self) -> u64 {
        self.rejected + self.left_out
    }
}

/// What became of the calls of one method at one target.
#[derive(Debug)]
pub struct Throttle {
    marks: Marks<Counts>,
    counts: Counts,
    /// Answers when a call was turned away last, or when that was forgiven.
    answered_before: u64,
    /// Calls that were turned away before, which do not count any more.
    forgiven: u64,
    sent_at: Instant,
}

impl Throttle {
    /// Of a method that was not called before `since`.
    #[must_use]
    pub fn new(since: Instant) -> Self {
        Self {
            marks: Marks::new(since, Counts::default(), PART, SPAN),
            counts: Counts::default(),
            answered_before: 0,
            forgiven: 0,
            sent_at: since,
        }
    }

    /// A call was turned away; so many have been answered so far.
    pub fn note_rejection(&mut self, now: Instant, answered: u64) {
        self.see(now, answered);
        self.counts.rejected += 1;
        self.answered_before = answered;
    }

    /// Whether a call is to be sent. `random` is uniform in 0..1.
    pub fn admit(&mut self, now: Instant, answered: u64, policy: &AdaptiveThrottle, random: f64) -> bool {
        let share = self.share(now, answered, policy);
        let is_due = now.saturating_duration_since(self.sent_at) >= ASK_EVERY;
        if random >= share || is_due {
            self.sent_at = now;
            return true;
        }
        self.counts.left_out += 1;
        false
    }

    /// The share of calls that is left out now, from 0 to 0.99.
    pub fn share(&mut self, now: Instant, answered: u64, policy: &AdaptiveThrottle) -> f64 {
        self.see(now, answered);
        let Some(before) = self.marks.before(now, SPAN).filter(|_| policy.is_on) else {
            return 0.0;
        };
        let accepted = (self.counts.answered - before.answered) as f64;
        let turned_away = (self.counts.turned_away() - before.turned_away().max(self.forgiven)) as f64;
        let asked = accepted + turned_away;
        let too_many = asked - policy.multiplier * accepted - f64::from(policy.calls_min);
        (too_many / (asked + 1.0)).clamp(0.0, SHARE_MAX)
    }

    fn see(&mut self, now: Instant, answered: u64) {
        // Readings by several threads may come in another order.
        self.counts.answered = self.counts.answered.max(answered);
        if self.counts.answered - self.answered_before >= RUN {
            self.answered_before = self.counts.answered;
            self.forgiven = self.counts.turned_away();
        }
        let counts = self.counts;
        // Calls are only counted here where some are turned away: what was answered meanwhile came evenly.
        self.marks.note(now, counts, |last, part| Counts {
            answered: evenly(last.answered, counts.answered, part),
            ..counts
        });
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fastrand::Rng;

    use super::{AdaptiveThrottle, Throttle};
    use crate::time;

    /// What came of the calls of a while.
    #[derive(Debug, Default)]
    struct Ends {
        sent: u32,
        answered: u32,
    }

    /// So many calls a second for that time; one that is sent is answered as `answers` says.
    fn drive(
        throttle: &mut Throttle,
        (now, answered): (&mut std::time::Instant, &mut u64),
        rng: &mut Rng,
        (rate, seconds): (u32, u32),
        mut answers: impl FnMut(&mut Rng) -> bool,
    ) -> Ends {
        let mut ends = Ends::default();
        for _ in 0..rate * seconds {
            *now += Duration::from_secs(1) / rate;
            if !throttle.admit(*now, *answered, &AdaptiveThrottle::DEFAULT, rng.f64()) {
                continue;
            }
            ends.sent += 1;
            if answers(rng) {
                ends.answered += 1;
                *answered += 1;
            } else {
                throttle.note_rejection(*now, *answered);
            }
        }
        ends
    }

    #[test]
    fn up_to_half_may_be_turned_away() {
        let (mut now, mut answered, mut rng) = (time::now(), 0, Rng::with_seed(7));
        let mut throttle = Throttle::new(now);
        for failing in [0.0, 0.1, 0.4] {
            let ends = drive(&mut throttle, (&mut now, &mut answered), &mut rng, (500, 20), |rng| {
                rng.f64() >= failing
            });
            assert!(ends.sent >= 9_990, "{failing}: {ends:?}");
        }
    }

    #[test]
    fn of_an_overload_twice_as_many_are_sent_as_get_through() {
        let (mut now, mut answered, mut rng) = (time::now(), 0, Rng::with_seed(7));
        let mut throttle = Throttle::new(now);
        // Of 1,000 in a second 100 get through, whichever come first.
        let mut place = 0.0_f64;
        drive(&mut throttle, (&mut now, &mut answered), &mut rng, (1_000, 10), |rng| {
            rng.f64() < 0.1
        });
        let mut last = now;
        let mut sent_at_once = 0;
        for _ in 0..20_000 {
            now += Duration::from_millis(1);
            place = (place + 0.1).min(5.0);
            if throttle.admit(now, answered, &AdaptiveThrottle::DEFAULT, rng.f64()) {
                sent_at_once += 1;
                if place >= 1.0 {
                    place -= 1.0;
                    answered += 1;
                } else {
                    throttle.note_rejection(now, answered);
                }
            }
            last = now;
        }
        assert!(
            last > time::now() && (3_000..=5_500).contains(&sent_at_once),
            "{sent_at_once} of 20,000"
        );
    }

    #[test]
    fn of_an_outage_hardly_any_are_sent_and_all_soon_after_it() {
        for (rate, sent_most, back_within) in [(1_000, 4_500, 3), (10, 200, 12), (100, 600, 4)] {
            let (mut now, mut answered, mut rng) = (time::now(), 0, Rng::with_seed(7));
            let mut throttle = Throttle::new(now);
            drive(&mut throttle, (&mut now, &mut answered), &mut rng, (rate, 10), |_| true);
            let outage = drive(&mut throttle, (&mut now, &mut answered), &mut rng, (rate, 60), |_| {
                false
            });
            assert!(outage.sent <= sent_most && outage.sent >= 60, "{rate}: {outage:?}");
            drive(
                &mut throttle,
                (&mut now, &mut answered),
                &mut rng,
                (rate, back_within),
                |_| true,
            );
            let after = drive(&mut throttle, (&mut now, &mut answered), &mut rng, (rate, 10), |_| true);
            assert_eq!(after.sent, rate * 10, "{rate}");
        }
    }

    #[test]
    fn a_burst_is_seen_next_to_all_that_went_well_before() {
        let now = time::now();
        let mut throttle = Throttle::new(now);
        // 200 calls a second are answered for a minute, of which nobody tells; then 40 are turned away at once.
        let at = now + Duration::from_secs(60);
        (0..40).for_each(|_| throttle.note_rejection(at, 12_000));
        assert_eq!(throttle.share(at, 12_000, &AdaptiveThrottle::DEFAULT), 0.0);
        // Of 800 calls in four seconds more than 400 have to be.
        (0..800).for_each(|_| throttle.note_rejection(at, 12_000));
        let share = throttle.share(at, 12_000, &AdaptiveThrottle::DEFAULT);
        assert!(share > 0.0 && share < 0.1, "{share}");
    }

    #[test]
    fn a_few_failures_are_no_reason() {
        let (now, mut rng) = (time::now(), Rng::with_seed(7));
        let mut throttle = Throttle::new(now);
        for calls in 1..=11 {
            let at = now + Duration::from_millis(calls);
            let is_sent = throttle.admit(at, 0, &AdaptiveThrottle::DEFAULT, rng.f64() * 1e-9);
            assert_eq!(is_sent, calls <= 11, "{calls}");
            throttle.note_rejection(at, 0);
        }
        assert!(throttle.share(now + Duration::from_millis(12), 0, &AdaptiveThrottle::DEFAULT) > 0.0);
        assert_eq!(
            throttle.share(now + Duration::from_millis(12), 0, &AdaptiveThrottle::NEVER),
            0.0
        );
        let patient = AdaptiveThrottle::DEFAULT.calls_min(100);
        assert_eq!(throttle.share(now + Duration::from_millis(12), 0, &patient), 0.0);
    }
}
