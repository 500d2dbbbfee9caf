//! How many calls are let through in a time, or at once: of all, or of each key, of which there are only so many.
//!
//! A *window* counts calls in tenths of its time, and of the oldest tenth the part that is still within it, so that calls which come evenly pass up to the limit.
//! A *bucket* (the generic cell rate algorithm) spaces calls evenly, after a burst. *Concurrency* counts those that are not over. Where there are as many keys as
//! may be, further ones share one meter: to forget the oldest instead would let whoever makes up keys free all others of their limits. Keys about which
//! there is nothing to remember are forgotten.
//!
//! Who is refused is told when to come back: each at a turn of its own, or all would come at once and be refused again.
//!
//! Source: ITU-T I.371 for the cell rate algorithm; sliding windows with weights as in public rate limiters.

use std::collections::HashMap;
use std::time::Duration;

/// Parts of a window.
const PARTS: usize = 10;

/// Those that are refused are told turns within so much time, or that of the limit: who comes back at once in spite of it must not push the others' far away.
const TURNS_MAX: Duration = Duration::from_secs(1);

/// Keys are not looked through more often than this.
const TIDY_MIN: Duration = Duration::from_secs(1);

/// What is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Rule {
    /// So many calls within any such time: within any nine tenths of it never more.
    Window {
        /// How many.
        limit: u32,
        /// Within which time.
        per: Duration,
    },
    /// So many in that time, evenly, but for a burst.
    Bucket {
        /// How many.
        limit: u32,
        /// In which time.
        per: Duration,
        /// How many at once, after a rest.
        burst: u32,
    },
    /// So many at a time.
    Concurrency {
        /// How many.
        limit: u32,
    },
}

/// What is counted of one key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    /// Calls in each part of a window, the current one at `part` modulo their number; one more than the window has, for the one that is half outside.
    counts: [u32; PARTS + 1],
    part: u64,
    /// Of a bucket: when it will be full again, in nanoseconds.
    full_at: u64,
    /// The first turn that nobody was told to come back at, in nanoseconds.
    turn: u64,
    /// Calls that are not over.
    running: u32,
}

/// The meters of all keys.
#[derive(Debug)]
pub struct Meters {
    rule: Rule,
    keys_max: usize,
    by_key: HashMap<u64, Meter>,
    /// Of all keys that have no meter of their own.
    shared: Meter,
    /// Not before then are keys looked for that can be forgotten.
    tidy_next: Duration,
}

/// Which meter a call was counted at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counted {
    /// That of its key.
    Own(u64),
    /// The one that further keys share.
    Shared,
}

impl Rule {
    /// Counts a call at `now`, which is since an epoch of the caller's; or says after which time it would pass, if those come before it that were told so before.
    fn take(&self, meter: &mut Meter, now: Duration) -> Result<(), Duration> {
        let (taken, limit, per) = match *self {
            Self::Window { limit, per } => (meter.take_of_window(limit, per, now), limit, per),
            Self::Bucket { limit, per, burst } => (meter.take_of_bucket(limit, per, burst, now), limit, per),
            Self::Concurrency { limit } if meter.running < limit => {
                meter.running += 1;
                return Ok(());
            }
            Self::Concurrency { .. } => return Err(Duration::ZERO),
        };
        taken.map_err(|wait| meter.turn_after(wait, limit, per, now))
    }

    /// How long a meter remembers.
    fn memory(&self) -> Duration {
        match *self {
            Self::Window { per, .. } | Self::Bucket { per, .. } => per,
            Self::Concurrency { .. } => Duration::from_secs(1),
        }
    }

    /// Whether nothing is counted there.
    fn is_empty(&self, meter: &Meter, now: Duration) -> bool {
        match self {
            Self::Window { .. } => meter.counts == [0; PARTS + 1],
            Self::Bucket { .. } | Self::Concurrency { .. } => self.is_forgettable(meter, now),
        }
    }

    fn is_forgettable(&self, meter: &Meter, now: Duration) -> bool {
        match *self {
            Self::Window { per, .. } => part_at(per, now).saturating_sub(meter.part) > PARTS as u64,
            Self::Bucket { .. } => meter.full_at <= nanos(now),
            Self::Concurrency { .. } => meter.running == 0,
        }
    }
}

impl Meter {
    fn take_of_window(&mut self, limit: u32, per: Duration, now: Duration) -> Result<(), Duration> {
        let part = part_at(per, now);
        self.pass_to(part);
        let width = part_nanos(per) as f64;
        let into_part = (nanos(now) % part_nanos(per)) as f64 / width;
        for rolled in 0..=PARTS {
            let from = if rolled == 0 { into_part } else { 0.0 };
            let later = part + rolled as u64;
            let newer: u64 = (0..PARTS).map(|ago| u64::from(self.count_before(later, ago))).sum();
            let Some(room) = u64::from(limit).checked_sub(newer).filter(|room| *room > 0) else {
                continue;
            };
            // As the oldest part leaves the window, evenly, there comes to be enough room.
            let oldest = f64::from(self.count_before(later, PARTS)).max(1.0);
            let free_from = (1.0 - room as f64 / oldest).max(from);
            let wait = (rolled as f64 + free_from - into_part) * width;
            // Less than a nanosecond is nothing.
            if wait < 1.0 {
                self.counts[index_of(part)] += 1;
                return Ok(());
            }
            // A nanosecond more, or rounding might make it too early.
            let wait = Duration::try_from_secs_f64(wait / 1e9).unwrap_or(per);
            return Err(wait.saturating_add(Duration::from_nanos(1)));
        }
        // Nothing is let through at all.
        Err(per)
    }

    fn take_of_bucket(&mut self, limit: u32, per: Duration, burst: u32, now: Duration) -> Result<(), Duration> {
        if limit == 0 || burst == 0 {
            return Err(per);
        }
        let now = nanos(now);
        let every = every(limit, per);
        // Never later than what a full burst makes of it, also if the limit was another when it was counted.
        let latest = now.saturating_add(every.saturating_mul(u64::from(burst)));
        self.full_at = self.full_at.clamp(now, latest);
        let allowance = every.saturating_mul(u64::from(burst) - 1);
        let ahead = self.full_at - now;
        if ahead > allowance {
            return Err(Duration::from_nanos(ahead - allowance));
        }
        self.full_at = self.full_at.saturating_add(every);
        Ok(())
    }

    /// When a call that would pass after `wait` should come back: all that are refused at once would be refused again if they came at once. Further ones than
    /// pass within [`TURNS_MAX`] are told what the first of them were.
    fn turn_after(&mut self, wait: Duration, limit: u32, per: Duration, now: Duration) -> Duration {
        if limit == 0 {
            return wait;
        }
        let (first, span) = (nanos(now.saturating_add(wait)), nanos(per.min(TURNS_MAX)));
        let turn = self.turn.max(first);
        if turn > first.saturating_add(span) {
            // Who refuses to wait must not lead everybody round in circles.
            return wait;
        }
        self.turn = turn.saturating_add(every(limit, per));
        Duration::from_nanos(turn).saturating_sub(now)
    }

    /// Empties the parts between the last one that was counted in and this one.
    fn pass_to(&mut self, part: u64) {
        // Who read the clock first need not come first; the later part stays.
        let passed = part.saturating_sub(self.part);
        if passed > PARTS as u64 {
            self.counts = [0; PARTS + 1];
        } else {
            for empty in self.part + 1..=part {
                self.counts[index_of(empty)] = 0;
            }
        }
        self.part = self.part.max(part);
    }

    /// Calls of a part so long before another, which may be yet to come.
    fn count_before(&self, part: u64, ago: usize) -> u32 {
        let counted = part.checked_sub(ago as u64).filter(|part| *part <= self.part);
        counted.map_or(0, |part| self.counts[index_of(part)])
    }
}

impl Meters {
    /// With that rule for each key, and at most so many keys (at least one).
    #[must_use]
    pub fn new(rule: Rule, keys_max: usize) -> Self {
        Self {
            rule,
            keys_max: keys_max.max(1),
            by_key: HashMap::new(),
            shared: Meter::default(),
            tidy_next: Duration::ZERO,
        }
    }

    /// What is let through now.
    #[must_use]
    pub fn rule(&self) -> Rule {
        self.rule
    }

    /// Changes what is let through, from now on. What was counted stays, unless the time of a window changes: then it begins anew.
    pub fn set_rule(&mut self, rule: Rule) {
        if self.rule.memory() != rule.memory() {
            self.by_key.clear();
            self.shared = Meter::default();
        }
        self.rule = rule;
    }

    /// Changes how many keys there may be; those that are there stay.
    pub fn set_keys_max(&mut self, keys_max: usize) {
        self.keys_max = keys_max.max(1);
    }

    /// Keys that have a meter of their own.
    #[must_use]
    pub fn keys(&self) -> usize {
        self.by_key.len()
    }

    /// Counts a call of that key.
    ///
    /// # Errors
    /// After which time one would pass, if this one does not.
    pub fn take(&mut self, key: u64, now: Duration) -> Result<Counted, Duration> {
        if let Some(meter) = self.by_key.get_mut(&key) {
            return self.rule.take(meter, now).map(|()| Counted::Own(key));
        }
        if self.by_key.len() >= self.keys_max && now >= self.tidy_next {
            self.tidy_next = now + self.rule.memory().max(TIDY_MIN);
            self.by_key.retain(|_, meter| !self.rule.is_forgettable(meter, now));
            if self.by_key.len() < self.by_key.capacity() / 4 {
                self.by_key.shrink_to(self.by_key.len() * 2);
            }
        }
        if self.by_key.len() >= self.keys_max {
            return self.rule.take(&mut self.shared, now).map(|()| Counted::Shared);
        }
        let mut meter = Meter::default();
        self.rule.take(&mut meter, now)?;
        self.by_key.insert(key, meter);
        Ok(Counted::Own(key))
    }

    /// A call that was counted there a moment ago, at `now`, is not let through after all. A key with nothing to remember leaves no trace.
    pub fn take_back(&mut self, counted: Counted, now: Duration) {
        let meter = match counted {
            Counted::Shared => Some(&mut self.shared),
            Counted::Own(key) => self.by_key.get_mut(&key),
        };
        match (self.rule, meter) {
            (Rule::Window { .. }, Some(meter)) => {
                let count = &mut meter.counts[index_of(meter.part)];
                *count = count.saturating_sub(1);
            }
            (Rule::Bucket { limit, per, .. }, Some(meter)) => {
                meter.full_at = meter.full_at.saturating_sub(every(limit, per));
            }
            (Rule::Concurrency { .. }, Some(_)) => self.give_back(counted),
            (_, None) => {}
        }
        if let Counted::Own(key) = counted
            && self.by_key.get(&key).is_some_and(|meter| self.rule.is_empty(meter, now))
        {
            self.by_key.remove(&key);
        }
    }

    /// A call is over that was counted there; for concurrency.
    pub fn give_back(&mut self, counted: Counted) {
        match counted {
            Counted::Shared => self.shared.running = self.shared.running.saturating_sub(1),
            Counted::Own(key) => {
                let Some(meter) = self.by_key.get_mut(&key) else { return };
                meter.running = meter.running.saturating_sub(1);
                if meter.running == 0 && matches!(self.rule, Rule::Concurrency { .. }) {
                    self.by_key.remove(&key);
                }
            }
        }
    }
}

/// The time between two calls of a bucket, in nanoseconds.
fn every(limit: u32, per: Duration) -> u64 {
    (nanos(per) / u64::from(limit.max(1))).max(1)
}

/// Which part of windows that long it is.
fn part_at(per: Duration, now: Duration) -> u64 {
    nanos(now) / part_nanos(per)
}

fn part_nanos(per: Duration) -> u64 {
    (nanos(per) / PARTS as u64).max(1)
}

fn index_of(part: u64) -> usize {
    usize::try_from(part % (PARTS as u64 + 1)).unwrap_or_default()
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Counted, Meters, Rule};

    const SECOND: Duration = Duration::from_secs(1);

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn window(limit: u32) -> Rule {
        Rule::Window { limit, per: SECOND }
    }

    #[test]
    fn calls_that_come_evenly_pass_up_to_the_limit() {
        let mut meters = Meters::new(window(100), 1);
        for number in 0..1_000 {
            assert!(meters.take(0, ms(number * 10)).is_ok(), "{number}");
        }
        // A few too many are refused, and only those.
        let mut meters = Meters::new(window(100), 1);
        let passed = (0..1_250).filter(|number| meters.take(0, ms(number * 8)).is_ok()).count();
        assert!((990..=1_010).contains(&passed), "{passed} in ten seconds");
    }

    #[test]
    fn a_window_lets_no_more_through_whatever_comes() {
        for seed in 1..=20 {
            println!("seed {seed}");
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut meters = Meters::new(window(50), 1);
            let (mut at, mut passed) = (Duration::from_secs(7), Vec::new());
            for _ in 0..20_000 {
                // Mostly bursts.
                at += if rng.u8(..50) == 0 {
                    ms(rng.u64(..400))
                } else {
                    Duration::from_micros(rng.u64(..200))
                };
                if meters.take(0, at).is_ok() {
                    passed.push(at);
                }
            }
            for (first, last) in passed.iter().zip(passed.iter().skip(50)) {
                assert!(*last - *first >= ms(899), "51 within {:?}", *last - *first);
            }
        }
    }

    #[test]
    fn who_comes_when_it_was_told_passes() {
        for seed in 1..=20 {
            println!("seed {seed}");
            let mut rng = fastrand::Rng::with_seed(seed);
            let burst = rng.u32(1..20);
            for rule in [
                window(30),
                Rule::Bucket {
                    limit: 30,
                    per: SECOND,
                    burst,
                },
            ] {
                let mut meters = Meters::new(rule, 1);
                let mut at = Duration::ZERO;
                for _ in 0..2_000 {
                    at += Duration::from_micros(rng.u64(..30_000));
                    if let Err(after) = meters.take(0, at) {
                        assert!(after <= SECOND && !after.is_zero(), "{after:?}");
                        assert!(meters.take(0, at + after).is_ok(), "{rule:?} at {at:?} after {after:?}");
                        at += after;
                    }
                }
            }
        }
    }

    #[test]
    fn many_that_are_refused_are_not_all_told_to_come_back_at_once() {
        for (rule, at_once) in [
            (window(50), 50),
            (
                Rule::Bucket {
                    limit: 50,
                    per: SECOND,
                    burst: 10,
                },
                10,
            ),
        ] {
            let mut meters = Meters::new(rule, 1);
            let told: Vec<Duration> = (0..at_once + 50).filter_map(|_| meters.take(0, SECOND).err()).collect();
            let turns: Vec<Duration> = (0..50).map(|before| told[0] + ms(20) * before).collect();
            assert_eq!(told, turns, "{rule:?}: as soon as those before it have passed");
            let again: Vec<_> = (0..51).map(|_| meters.take(0, SECOND)).collect();
            assert_eq!(again[0], Err(told[0] + SECOND), "{rule:?}: after all others");
            assert_eq!(
                again[1],
                Err(told[0]),
                "{rule:?}: not all will come, and nobody waits longer than that"
            );
            // Whoever comes when told passes, but for what the tenths of a window are too coarse for.
            let passed = told.iter().filter(|hint| meters.take(0, SECOND + **hint).is_ok()).count();
            assert!(passed >= 45, "{rule:?}: {passed} of 50");
            // After a while there is nobody to wait for.
            let now = SECOND * 5;
            let next = (0..=at_once).find_map(|_| meters.take(0, now).err());
            assert!(next.is_some_and(|hint| hint <= told[0] + ms(1)), "{rule:?}: {next:?}");
        }
    }

    #[test]
    fn a_bucket_spaces_calls_after_a_burst() {
        let mut meters = Meters::new(
            Rule::Bucket {
                limit: 10,
                per: SECOND,
                burst: 3,
            },
            1,
        );
        assert!((0..3).all(|_| meters.take(0, ms(5_000)).is_ok()));
        assert_eq!(meters.take(0, ms(5_000)), Err(ms(100)));
        assert_eq!(meters.take(0, ms(5_099)), Err(ms(101)), "the turn after that");
        assert!(meters.take(0, ms(5_100)).is_ok() && meters.take(0, ms(5_100)).is_err());
        assert!(meters.take(0, ms(5_400)).is_ok() && meters.take(0, ms(5_400)).is_ok());

        // What was counted by a lower limit does not count for longer than by the one that holds.
        let bucket = |limit| Rule::Bucket {
            limit,
            per: SECOND,
            burst: 50,
        };
        let mut meters = Meters::new(bucket(1), 1);
        assert_eq!((0..60).filter(|_| meters.take(0, SECOND).is_ok()).count(), 50);
        meters.set_rule(bucket(500));
        assert_eq!(meters.take(0, SECOND), Err(ms(2)));
        assert!(meters.take(0, SECOND + ms(2)).is_ok());
    }

    #[test]
    fn nothing_passes_a_limit_of_nothing() {
        for rule in [
            window(0),
            Rule::Bucket {
                limit: 0,
                per: SECOND,
                burst: 1,
            },
            Rule::Bucket {
                limit: 1,
                per: SECOND,
                burst: 0,
            },
            Rule::Concurrency { limit: 0 },
        ] {
            assert!(Meters::new(rule, 1).take(0, SECOND).is_err(), "{rule:?}");
        }
    }

    #[test]
    fn keys_have_their_own_until_there_are_too_many() {
        for (keys, shared) in [(9, 0), (10, 0), (11, 1), (15, 5)] {
            let mut meters = Meters::new(window(1), 10);
            let counted: Vec<_> = (0..keys).map(|key| meters.take(key, SECOND)).collect();
            let own = counted.iter().filter(|counted| matches!(counted, Ok(Counted::Own(_)))).count();
            let of_shared = counted.iter().filter(|counted| matches!(counted, Ok(Counted::Shared))).count();
            assert_eq!(own, usize::try_from(keys - shared).unwrap());
            assert_eq!(of_shared, usize::from(shared > 0), "they share one meter");
            assert_eq!(meters.keys(), own);
            // Nobody loses its meter for the others.
            assert!(meters.take(0, SECOND).is_err());
            // Those that have nothing to be remembered make room.
            assert_eq!(meters.take(99, SECOND * 4), Ok(Counted::Own(99)));
        }
    }

    #[test]
    fn calls_at_a_time_are_given_back() {
        let mut meters = Meters::new(Rule::Concurrency { limit: 2 }, 1);
        let (one, other) = (meters.take(1, SECOND).unwrap(), meters.take(1, SECOND).unwrap());
        assert_eq!(meters.take(1, SECOND), Err(Duration::ZERO));
        let further = meters.take(2, SECOND).unwrap();
        assert_eq!(further, Counted::Shared);
        meters.give_back(one);
        assert!(meters.take(1, SECOND).is_ok());
        meters.give_back(other);
        meters.give_back(one);
        meters.give_back(further);
        assert_eq!(meters.keys(), 0);
    }

    #[test]
    fn a_limit_can_be_changed_while_calls_come() {
        let mut meters = Meters::new(window(2), 10);
        assert!(meters.take(1, ms(100)).is_ok() && meters.take(1, ms(100)).is_ok() && meters.take(1, ms(100)).is_err());
        meters.set_rule(window(3));
        assert!(meters.take(1, ms(100)).is_ok() && meters.take(1, ms(100)).is_err());
        meters.set_rule(window(1));
        assert!(meters.take(1, ms(600)).is_err());
        meters.set_rule(Rule::Window { limit: 1, per: ms(100) });
        assert!(meters.take(1, ms(600)).is_ok(), "another window begins anew");
    }
}
