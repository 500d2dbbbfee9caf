//! A circuit breaker: when too many calls fail, none are made for a while, and then a few that find out whether it is worth it again.
//!
//! For what a caller would rather not call at all than call in vain. It sees one target, and one of its methods.
//!
//! Source: resilience4j (window, half-open with a number of calls); times double while it stays bad.

use std::time::{Duration, Instant};

use super::marks::{Marks, evenly};

/// The window is looked at in so many parts.
const PARTS: u32 = 10;
/// The longest time that a breaker stays open, however often it opened.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// Calls that find out have so much time; then others do.
const TRIALS_MAX: Duration = Duration::from_secs(60);
/// The time that it stays open differs by so much, so that clients do not come back together.
const JITTER: f64 = 0.1;
/// The longest window, and the longest time for which a breaker opens at first.
pub const WINDOW_MAX: Duration = Duration::from_mins(10);
/// Calls of which a number can be set, at the most.
pub const CALLS_MAX: u32 = 10_000;

/// When calls of a method are not made because too many of them fail: as [`DEFAULT`](Self::DEFAULT), if there is to be one at all.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::policy::breaker::CircuitBreaker; }
/// use std::time::Duration;
///
/// use sinew::CircuitBreaker;
///
/// let touchy = CircuitBreaker::DEFAULT.failure_share(0.2).open_for(Duration::from_secs(30));
/// # let _ = touchy;
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CircuitBreaker {
    is_on: bool,
    window: Duration,
    calls_min: u32,
    failure_share: f64,
    open_for: Duration,
    half_open_calls: u32,
}

impl CircuitBreaker {
    /// Opens for 5 s when half of at least 20 calls fail within 10 s, and then lets 5 calls through: if half of those fail it opens for twice as long, up to 60 s, else
    /// it closes.
    ///
    /// A call fails that was sent and ends with UNAVAILABLE, INTERNAL, UNKNOWN, DATA_LOSS or DEADLINE_EXCEEDED, or with RESOURCE_EXHAUSTED because the server has too
    /// much to do.
    pub const DEFAULT: Self = Self {
        is_on: true,
        window: Duration::from_secs(10),
        calls_min: 20,
        failure_share: 0.5,
        open_for: Duration::from_secs(5),
        half_open_calls: 5,
    };
    /// There is none.
    pub const NEVER: Self = Self {
        is_on: false,
        ..Self::DEFAULT
    };

    /// Sets how far back is looked (default: 10 s; 100 ms to 10 min, what is beyond counts as that).
    #[must_use]
    pub fn window(mut self, window: Duration) -> Self {
        self.window = window.clamp(Duration::from_millis(100), WINDOW_MAX);
        self
    }

    /// Sets how many calls it takes to tell anything (default: 20; 1 to 10,000, what is beyond counts as that).
    #[must_use]
    pub fn calls_min(mut self, calls: u32) -> Self {
        self.calls_min = calls.clamp(1, CALLS_MAX);
        self
    }

    /// Sets the share of failures that is too much (default: 0.5; 0.01 to 1, what is beyond counts as that).
    #[must_use]
    pub const fn failure_share(mut self, share: f64) -> Self {
        self.failure_share = if share.is_nan() { 0.5 } else { share.clamp(0.01, 1.0) };
        self
    }

    /// Sets for how long it opens at first (default: 5 s; 1 ms to 10 min, what is beyond counts as that).
    #[must_use]
    pub fn open_for(mut self, time: Duration) -> Self {
        self.open_for = time.clamp(Duration::from_millis(1), WINDOW_MAX);
        self
    }

    /// Sets how many calls find out whether it can close (default: 5; 1 to 10,000, what is beyond counts as that).
    #[must_use]
    pub fn half_open_calls(mut self, calls: u32) -> Self {
        self.half_open_calls = calls.clamp(1, CALLS_MAX);
        self
    }

    /// Whether there is one.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }
}

/// Where a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BreakerState {
    /// Calls are made.
    Closed,
    /// None are.
    Open,
    /// A few find out whether it can close.
    HalfOpen,
}

/// How a call ended, for a breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ended {
    /// It was answered.
    Well,
    /// It failed.
    Badly,
    /// It tells nothing: its caller gave up, or it was never sent.
    Aside,
}

/// A call that was let through, for when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Of which time of the breaker's; another one does not care how it ends.
    turn: u32,
    /// It finds out whether the breaker can close.
    is_trial: bool,
}

/// What the calls of one method at one target came to.
#[derive(Debug)]
pub struct Breaker {
    state: State,
    marks: Marks<Counts>,
    failed: u64,
    answered: u64,
    /// Counts changes of state.
    turn: u32,
    /// How often it opened without closing in between.
    times: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answered: u64,
    failed: u64,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Closed,
    Open { until: Instant },
    HalfOpen(Trials),
}

/// The calls that find out whether it can close.
#[derive(Clone, Copy, Debug)]
struct Trials {
    since: Instant,
    begun: u32,
    well: u32,
    badly: u32,
}

impl Trials {
    fn new(since: Instant) -> Self {
        Self {
            since,
            begun: 0,
            well: 0,
            badly: 0,
        }
    }
}

impl Breaker {
    /// Of a method that was not called before `since`.
    #[must_use]
    pub fn new(since: Instant, policy: &CircuitBreaker) -> Self {
        Self {
            state: State::Closed,
            marks: Marks::new(since, Counts::default(), policy.window / PARTS, policy.window),
            failed: 0,
            answered: 0,
            turn: 0,
            times: 0,
        }
    }

    /// Where it stands.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        match self.state {
            State::Closed => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen(_) => BreakerState::HalfOpen,
        }
    }

    /// Counts the changes of its state.
    #[must_use]
    pub fn turn(&self) -> u32 {
        self.turn
    }

    /// Whether a call may be made, and else in how long it is worth to ask again.
    ///
    /// # Errors
    /// In how long the breaker lets a call through.
    pub fn admit(&mut self, now: Instant, answered: u64, policy: &CircuitBreaker) -> Result<Pass, Duration> {
        if !policy.is_on {
            self.become_state(State::Closed);
            self.times = 0;
        }
        match self.state {
            State::Open { until } if now < until => return Err(until - now),
            State::Open { .. } => self.become_state(State::HalfOpen(Trials::new(now))),
            // They never end, as calls without a deadline may: others find out.
            State::HalfOpen(trials) if now.saturating_duration_since(trials.since) >= TRIALS_MAX => {
                self.become_state(State::HalfOpen(Trials::new(now)));
            }
            // All have ended of those that it takes now, as it took more before the policy was changed: others find out.
            State::HalfOpen(Trials { well, badly, .. }) if well + badly >= policy.half_open_calls => {
                self.become_state(State::HalfOpen(Trials::new(now)));
            }
            State::HalfOpen(_) | State::Closed => {}
        }
        match &mut self.state {
            State::HalfOpen(trials) if trials.begun < policy.half_open_calls => trials.begun += 1,
            // Those that find out are under way.
            State::HalfOpen(_) => return Err(Duration::ZERO),
            State::Closed | State::Open { .. } => self.see(now, answered, policy),
        }
        Ok(Pass {
            turn: self.turn,
            is_trial: matches!(self.state, State::HalfOpen(_)),
        })
    }

    /// A call that was let through has ended; so many have been answered so far. `random` is uniform in 0..1.
    pub fn end(
        &mut self,
        now: Instant,
        (pass, ended): (Pass, Ended),
        answered: u64,
        policy: &CircuitBreaker,
        random: f64,
    ) {
        if pass.turn != self.turn || !policy.is_on {
            return;
        }
        match &mut self.state {
            State::Open { .. } => {}
            State::Closed => {
                self.see(now, answered, policy);
                if ended == Ended::Badly {
                    self.failed += 1;
                    self.judge(now, policy, random);
                }
            }
            State::HalfOpen(Trials { begun, well, badly, .. }) => {
                match ended {
                    Ended::Well => *well += 1,
                    Ended::Badly => *badly += 1,
                    // The next one finds out in its place.
                    Ended::Aside => *begun = begun.saturating_sub(1),
                }
                let (well, badly, all) = (*well, *badly, policy.half_open_calls);
                let bad_enough = f64::from(badly) >= policy.failure_share * f64::from(all);
                if bad_enough {
                    self.open(now, policy, random);
                } else if well + badly >= all {
                    self.times = 0;
                    self.become_state(State::Closed);
                    self.answered = self.answered.max(answered);
                    self.marks.restart(now, self.counts());
                }
            }
        }
    }

    fn counts(&self) -> Counts {
        Counts {
            answered: self.answered,
            failed: self.failed,
        }
    }

    fn see(&mut self, now: Instant, answered: u64, policy: &CircuitBreaker) {
        self.answered = self.answered.max(answered);
        if self.marks.span() != policy.window {
            // The configuration has changed.
            self.marks = Marks::new(now, self.counts(), policy.window / PARTS, policy.window);
        }
        let counts = self.counts();
        // Calls are only looked at where some fail: what was answered meanwhile came evenly.
        self.marks.note(now, counts, |last, part| Counts {
            answered: evenly(last.answered, counts.answered, part),
            ..counts
        });
    }

    fn judge(&mut self, now: Instant, policy: &CircuitBreaker, random: f64) {
        let Some(before) = self.marks.before(now, policy.window) else {
            return;
        };
        let (failed, answered) = (self.failed - before.failed, self.answered - before.answered);
        let all = failed + answered;
        if all >= u64::from(policy.calls_min) && failed as f64 >= policy.failure_share * all as f64 {
            self.open(now, policy, random);
        }
    }

    fn open(&mut self, now: Instant, policy: &CircuitBreaker, random: f64) {
        let doubled = policy.open_for.saturating_mul(1 << self.times.min(16));
        self.times += 1;
        let time = doubled.min(OPEN_MAX.max(policy.open_for));
        let until = now + time.mul_f64(1.0 + JITTER * (2.0 * random - 1.0));
        self.become_state(State::Open { until });
    }

    fn become_state(&mut self, state: State) {
        self.state = state;
        self.turn = self.turn.wrapping_add(1);
    }
}

impl Pass {
    /// Of a call that was made while the breaker was closed, in that turn.
    #[must_use]
    pub fn free(turn: u32) -> Self {
        Self { turn, is_trial: false }
    }

    /// Whether it finds out whether the breaker can close.
    #[must_use]
    pub fn is_trial(&self) -> bool {
        self.is_trial
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::{Breaker, BreakerState, CircuitBreaker, Ended, Pass};
    use crate::time;

    const POLICY: CircuitBreaker = CircuitBreaker::DEFAULT;

    struct Bench {
        breaker: Breaker,
        now: Instant,
        answered: u64,
    }

    impl Bench {
        fn new() -> Self {
            let now = time::now();
            Self {
                breaker: Breaker::new(now, &POLICY),
                now,
                answered: 0,
            }
        }

        fn admit(&mut self) -> Result<Pass, Duration> {
            self.breaker.admit(self.now, self.answered, &POLICY)
        }

        fn end(&mut self, pass: Pass, ended: Ended) {
            self.answered += u64::from(ended == Ended::Well);
            self.breaker.end(self.now, (pass, ended), self.answered, &POLICY, 0.5);
        }

        fn call(&mut self, ended: Ended) -> bool {
            self.now += Duration::from_millis(10);
            let pass = self.admit();
            pass.is_ok_and(|pass| {
                self.end(pass, ended);
                true
            })
        }

        fn opened() -> Self {
            let mut bench = Self::new();
            (0..20).for_each(|_| assert!(bench.call(Ended::Badly)));
            assert_eq!(bench.breaker.state(), BreakerState::Open);
            bench
        }
    }

    #[test]
    fn it_opens_when_half_of_enough_calls_fail() {
        let mut bench = Bench::new();
        for calls in 1..=20 {
            assert_eq!(bench.breaker.state(), BreakerState::Closed, "{calls}");
            bench.call(if calls % 2 == 0 { Ended::Badly } else { Ended::Well });
        }
        assert_eq!(bench.breaker.state(), BreakerState::Open);
        let mut bench = Bench::new();
        for calls in 0..1_000 {
            bench.call(if calls % 5 < 2 { Ended::Badly } else { Ended::Well });
            bench.call(Ended::Aside);
        }
        assert_eq!(bench.breaker.state(), BreakerState::Closed, "two of five are not half");
    }

    #[test]
    fn what_went_well_before_leaves_the_window_little_by_little() {
        let mut bench = Bench::new();
        bench.now += Duration::from_secs(60);
        bench.answered = 60 * 200;
        let begin = bench.now;
        while bench.breaker.state() == BreakerState::Closed {
            bench.call(Ended::Badly);
        }
        // Of what 200 calls a second were within 10 s, and of 100 that fail, half have failed then.
        let opened = (bench.now - begin).as_secs_f64();
        assert!((6.0..=7.7).contains(&opened), "after {opened} s");
    }

    #[test]
    fn failures_that_come_in_bursts_add_up() {
        for (burst, gap, opens) in [
            (6, 2_500, true),
            (3, 2_500, false),
            (2, 800, true),
            (12, 8_000, true),
            (9, 8_000, false),
        ] {
            let mut bench = Bench::new();
            for _ in 0..100 {
                for _ in 0..burst {
                    bench.call(Ended::Badly);
                }
                bench.now += Duration::from_millis(gap);
            }
            let has_opened = bench.breaker.turn() > 0;
            assert_eq!(has_opened, opens, "{burst} every {gap} ms");
        }
    }

    #[test]
    fn a_burst_is_seen_next_to_all_that_went_well_before() {
        let mut bench = Bench::new();
        bench.now += Duration::from_secs(60);
        bench.answered = 60_000;
        for _ in 0..100 {
            let pass = Pass::free(0);
            bench.end(pass, Ended::Badly);
        }
        assert_eq!(bench.breaker.state(), BreakerState::Closed, "100 of 10,000");
        (0..10_000).for_each(|_| bench.end(Pass::free(0), Ended::Badly));
        assert_eq!(bench.breaker.state(), BreakerState::Open);
    }

    #[test]
    fn failures_of_an_earlier_time_do_not_count() {
        let mut bench = Bench::new();
        for _ in 0..19 {
            bench.call(Ended::Badly);
        }
        bench.now += Duration::from_secs(11);
        assert!(bench.call(Ended::Badly));
        assert_eq!(bench.breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn it_closes_when_trials_go_well_and_stays_open_longer_when_they_do_not() {
        let mut bench = Bench::opened();
        assert!(!bench.call(Ended::Well));
        let mut open_for = Vec::new();
        for _ in 0..6 {
            let opened = bench.now;
            while bench.admit().is_err() {
                bench.now += Duration::from_millis(100);
            }
            open_for.push((bench.now - opened).as_secs());
            // That one was a trial, which tells nothing more.
            bench.end(
                Pass {
                    turn: bench.breaker.turn,
                    is_trial: true,
                },
                Ended::Badly,
            );
            bench.call(Ended::Badly);
            bench.call(Ended::Badly);
            assert_eq!(bench.breaker.state(), BreakerState::Open);
        }
        assert_eq!(open_for, [5, 10, 20, 40, 60, 60]);
        bench.now += Duration::from_secs(61);
        (0..5).for_each(|_| assert!(bench.call(Ended::Well)));
        assert_eq!(bench.breaker.state(), BreakerState::Closed);
        // And the next time it is open as long as the first time.
        (0..20).for_each(|_| assert!(bench.call(Ended::Badly)));
        let wait = bench.admit().unwrap_err();
        assert!(wait <= Duration::from_secs(5), "{wait:?}");
    }

    #[test]
    fn only_so_many_find_out_and_only_they_count() {
        let mut bench = Bench::opened();
        let early = Pass {
            turn: 0,
            is_trial: false,
        };
        bench.now += Duration::from_secs(6);
        let passes: Vec<Pass> = (0..5).map(|_| bench.admit().unwrap()).collect();
        assert!(passes.iter().all(Pass::is_trial) && bench.admit() == Err(Duration::ZERO));
        // Of an earlier time.
        bench.end(early, Ended::Badly);
        assert_eq!(bench.breaker.state(), BreakerState::HalfOpen);
        // One that gives up makes room for another.
        bench.end(passes[0], Ended::Aside);
        let sixth = bench.admit().unwrap();
        bench.end(sixth, Ended::Badly);
        bench.end(passes[1], Ended::Badly);
        for pass in &passes[2..] {
            bench.end(*pass, Ended::Well);
        }
        assert_eq!(bench.breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn trials_that_never_end_leave_it_to_others() {
        let mut bench = Bench::opened();
        bench.now += Duration::from_secs(6);
        let lost: Vec<Pass> = (0..5).map(|_| bench.admit().unwrap()).collect();
        bench.now += Duration::from_secs(59);
        assert!(bench.admit().is_err());
        bench.now += Duration::from_secs(1);
        (0..5).for_each(|_| assert!(bench.call(Ended::Well)));
        assert_eq!(bench.breaker.state(), BreakerState::Closed);
        // Too late to tell anything.
        bench.end(lost[0], Ended::Badly);
        assert_eq!(bench.breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn switched_off_it_is_closed() {
        let mut bench = Bench::opened();
        let pass = bench.breaker.admit(bench.now, bench.answered, &CircuitBreaker::NEVER);
        assert!(pass.is_ok() && bench.breaker.state() == BreakerState::Closed);
    }
}
