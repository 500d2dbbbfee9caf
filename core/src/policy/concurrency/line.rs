//! The line before a method that works on as many calls as it should: who is next, how long each waits, and when waiting makes no sense any more.
//!
//! A burst and an overload begin alike. What a burst needs is time: if all of it is served long before anybody's deadline, nobody was harmed, so a call waits for a part
//! of the time that its caller has. What an overload needs is an early no: where calls wait in vain, or nearly, a call that does not get its turn within a
//! moment better goes elsewhere. So those of one priority stand in two rows.
//!
//! - The *patient* have time, and are served in the order in which they would leave. When one of them has waited in vain, or the oldest for half of what it would
//!   while they do not become fewer, there is an overload, until that has not happened for a second; who comes meanwhile stands in the other row.
//! - The *hurried* wait for a moment: the oldest is next, or the newest as soon as the oldest has waited for half of its moment. That they wait in vain tells nothing of
//!   those who have time.
//!
//! Where somebody stands in both rows they take turns, so that neither a few patient ones stand behind many hurried ones, nor the other way round. The highest priority goes first.
//!
//! Source: CoDel for the two lengths of time; Facebook's "Fail at scale" (adaptive LIFO); Google's SRE book, chapter 21, for priorities.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::priority::{PRIORITIES, Priority};

/// How long a call waits for its turn at least. Calls with little time are told no within 10 ms then, and what is served of them has hardly waited.
const PATIENCE: Duration = Duration::from_millis(8);
/// The same for those that matter most: there are few of them, and the next turn is theirs, unless many come at once.
const PATIENCE_CRITICAL: Duration = Duration::from_millis(192);
/// A call that has more time than this waits for a quarter of the rest as well: what is left after that is enough for an answer, or for another server's.
const SHORT_DEADLINE: Duration = Duration::from_millis(250);
const PATIENT_PART: u32 = 4;
/// Nobody waits for longer, and those without a deadline for as long: about what the default deadline of ten seconds leads to.
const PATIENCE_MAX: Duration = Duration::from_millis(2_500);
/// How long nobody has to have waited in vain until an overload is over: many times as long as calls wait in one.
const OVERLOAD_LASTS: Duration = Duration::from_secs(1);
/// As long as there is so much left of the most calls that there have been, in line and worked on, they do not become fewer.
const STANDS: f64 = 0.97;
/// Of each priority, hurried calls in line, as a multiple of those that get their turn within their moment: further ones need not wait to be told no. More of them
/// would all get it where one processor serves the line before it looks at the clock, and be answered too late.
const HURRIED_TURNS: f64 = 2.0;
/// As a multiple of those that are worked on at most, and at least.
const HURRIED_TIMES: u32 = 2;
const HURRIED_MIN: u32 = 16;
/// The same of those that matter most, whose moment is longer.
const HURRIED_TIMES_CRITICAL: u32 = 4;
const HURRIED_MIN_CRITICAL: u32 = 256;
/// Calls that stand in a line at most. They hold what calls hold that are worked on, of which there may be as many where there is no limit.
const LINE_MAX: usize = 16_384;

/// The calls of one method that wait, with what it takes to tell each of its turn.
#[derive(Debug)]
pub(crate) struct Line<T> {
    of: [Class<T>; PRIORITIES],
}

/// Those of one priority.
#[derive(Debug)]
struct Class<T> {
    /// By the order in which they came.
    hurried: BTreeMap<u64, Waiter<T>>,
    patient: BTreeMap<u64, Waiter<T>>,
    /// The patient ones by when they would leave.
    by_expiry: BTreeSet<(Instant, u64)>,
    /// The most there have been, with those that are worked on, since no patient one waited.
    peak: usize,
    /// Until then who comes is hurried.
    overload_until: Option<Instant>,
    /// If there are both.
    is_hurried_next: bool,
}

#[derive(Debug)]
struct Waiter<T> {
    since: Instant,
    patience: Duration,
    /// It has time, if it may not wait for long in an overload either.
    is_patient: bool,
    call: T,
}

/// What the method works on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Work {
    /// Calls at a time, at most.
    pub(crate) limit: u32,
    pub(crate) in_flight: u32,
    /// Answers in a second, as far as that is known.
    pub(crate) rate: Option<f64>,
}

/// What became of a call that would stand in line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined<T> {
    /// It stands there, until `patience` is over, perhaps in the place of another call, which is refused.
    In { patience: Duration, evicted: Option<T> },
    /// The line is full of calls that matter as much.
    Full,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            of: std::array::from_fn(|_| Class {
                hurried: BTreeMap::new(),
                patient: BTreeMap::new(),
                by_expiry: BTreeSet::new(),
                peak: 0,
                overload_until: None,
                is_hurried_next: true,
            }),
        }
    }
}

impl<T> Line<T> {
    pub(crate) fn len(&self) -> usize {
        self.of.iter().map(Class::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.of.iter().all(Class::is_empty)
    }

    /// Of any priority, whether who comes is told early.
    pub(crate) fn is_overloaded(&self, now: Instant) -> bool {
        self.of.iter().any(|class| class.is_overloaded(now))
    }

    pub(crate) fn contains(&self, number: u64, priority: Priority) -> bool {
        let class = &self.of[priority.index()];
        class.hurried.contains_key(&number) || class.patient.contains_key(&number)
    }

    /// A call whose caller waits for it for so long, if not for ever. Numbers rise.
    pub(crate) fn join(
        &mut self,
        (number, call): (u64, T),
        priority: Priority,
        left: Option<Duration>,
        work: Work,
        now: Instant,
    ) -> Joined<T> {
        let mut evicted = None;
        if self.len() >= LINE_MAX {
            self.of[priority.index()].is_overloaded_from(now);
            let Some(lower) = self.of.iter_mut().take(priority.index()).find(|class| !class.is_empty()) else {
                // Those in line were here before.
                return Joined::Full;
            };
            evicted = lower.evict();
        }
        let class = &mut self.of[priority.index()];
        class.look_at_oldest(work.in_flight, now);
        let (long, least) = (patience(priority, left), least(priority));
        let is_patient = long > least;
        let patience = match is_patient && class.is_overloaded(now) {
            true => least,
            false => long,
        };
        let waiter = Waiter {
            since: now,
            patience,
            is_patient,
            call,
        };
        if patience > least {
            class.by_expiry.insert((waiter.expiry(), number));
            class.patient.insert(number, waiter);
            class.peak = class.peak.max(class.patient.len() + work.in_flight as usize);
        } else {
            if evicted.is_none() && class.hurried.len() as f64 >= hurried_max(work, priority) {
                let oldest = class.hurried.pop_first();
                evicted = oldest.map(|(_, oldest)| class.left_in_vain(oldest, now));
            }
            class.hurried.insert(number, waiter);
        }
        Joined::In { patience, evicted }
    }

    /// Whoever is next, where so many are worked on.
    pub(crate) fn pop(&mut self, in_flight: u32, now: Instant) -> Option<T> {
        self.of.iter_mut().rev().find(|class| !class.is_empty())?.pop(in_flight, now)
    }

    /// A call leaves, `in_vain` if it waited for as long as it would; `None` if it is not in line any more.
    pub(crate) fn leave(&mut self, number: u64, priority: Priority, in_vain: bool, now: Instant) -> Option<T> {
        let class = &mut self.of[priority.index()];
        let waiter = class.remove(number)?;
        Some(match in_vain {
            true => class.left_in_vain(waiter, now),
            false => waiter.call,
        })
    }
}

impl<T> Class<T> {
    fn len(&self) -> usize {
        self.hurried.len() + self.patient.len()
    }

    fn is_empty(&self) -> bool {
        self.hurried.is_empty() && self.patient.is_empty()
    }

    fn pop(&mut self, in_flight: u32, now: Instant) -> Option<T> {
        self.look_at_oldest(in_flight, now);
        let is_hurried = !self.hurried.is_empty() && (self.is_hurried_next || self.patient.is_empty());
        self.is_hurried_next = !is_hurried;
        if !is_hurried {
            let next = self.by_expiry.first().map(|(_, number)| *number);
            return self.remove(next?).map(|waiter| waiter.call);
        }
        let (_, oldest) = self.hurried.first_key_value()?;
        let is_long = oldest.has_waited(now) >= oldest.patience / 2;
        let next = if is_long {
            self.hurried.pop_last()
        } else {
            self.hurried.pop_first()
        };
        next.map(|(_, waiter)| waiter.call)
    }

    fn remove(&mut self, number: u64) -> Option<Waiter<T>> {
        if let Some(waiter) = self.hurried.remove(&number) {
            return Some(waiter);
        }
        let waiter = self.patient.remove(&number)?;
        self.by_expiry.remove(&(waiter.expiry(), number));
        if self.patient.is_empty() {
            self.peak = 0;
        }
        Some(waiter)
    }

    /// Whoever would wait for the longest gives its place to one that matters more.
    fn evict(&mut self) -> Option<T> {
        let last = self.by_expiry.last().map(|(_, number)| *number);
        let last = last.or_else(|| self.hurried.last_key_value().map(|(number, _)| *number));
        self.remove(last?).map(|waiter| waiter.call)
    }

    fn left_in_vain(&mut self, waiter: Waiter<T>, now: Instant) -> T {
        if waiter.is_patient {
            self.is_overloaded_from(now);
        }
        waiter.call
    }

    fn is_overloaded(&self, now: Instant) -> bool {
        self.overload_until.is_some_and(|until| now < until)
    }

    fn is_overloaded_from(&mut self, now: Instant) {
        self.overload_until = Some(now + OVERLOAD_LASTS);
    }

    /// Patient calls that do not become fewer, though the oldest has waited for half of what it would.
    fn look_at_oldest(&mut self, in_flight: u32, now: Instant) {
        let oldest = self.patient.first_key_value();
        let count = self.patient.len() + in_flight as usize;
        let stands = count as f64 >= self.peak as f64 * STANDS;
        if stands && oldest.is_some_and(|(_, oldest)| oldest.has_waited(now) >= oldest.patience / 2) {
            self.is_overloaded_from(now);
        }
    }
}

impl<T> Waiter<T> {
    fn expiry(&self) -> Instant {
        self.since + self.patience
    }

    fn has_waited(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }
}

/// How long a call of that priority waits in an overload.
pub(crate) fn least(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => PATIENCE_CRITICAL,
        Priority::Normal | Priority::Low | Priority::Background => PATIENCE,
    }
}

/// Hurried calls at most, where so many are worked on.
fn hurried_max(work: Work, priority: Priority) -> f64 {
    let (times, min) = match priority {
        Priority::Critical => (HURRIED_TIMES_CRITICAL, HURRIED_MIN_CRITICAL),
        Priority::Normal | Priority::Low | Priority::Background => (HURRIED_TIMES, HURRIED_MIN),
    };
    let in_time = work.rate.map_or(f64::INFINITY, |rate| {
        rate * least(priority).as_secs_f64() * HURRIED_TURNS
    });
    in_time.min(f64::from(work.limit) * f64::from(times)).max(f64::from(min))
}

/// How long a call waits in a burst, if its caller waits for so long: at most for half of that, or there would be no time for an answer.
fn patience(priority: Priority, left: Option<Duration>) -> Duration {
    let beyond = left.map_or(PATIENCE_MAX, |left| left.saturating_sub(SHORT_DEADLINE) / PATIENT_PART);
    let patience = (least(priority) + beyond).min(PATIENCE_MAX);
    left.map_or(patience, |left| patience.min(left / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const LONG: Option<Duration> = Some(Duration::from_secs(10));
    const SHORT: Option<Duration> = Some(Duration::from_millis(250));

    const WORK: Work = Work {
        limit: 8,
        in_flight: 8,
        rate: None,
    };

    struct Scene {
        line: Line<u64>,
        now: Instant,
        next: u64,
    }

    impl Scene {
        fn new() -> Self {
            Self {
                line: Line::default(),
                now: crate::time::now(),
                next: 0,
            }
        }

        /// One more stands in line; returns how long it waits.
        fn join(&mut self, priority: Priority, left: Option<Duration>) -> Duration {
            let number = self.next;
            self.next += 1;
            match self.line.join((number, number), priority, left, WORK, self.now) {
                Joined::In { patience, evicted } => {
                    assert_eq!(evicted, None);
                    patience
                }
                Joined::Full => panic!("the line is full"),
            }
        }

        fn pop(&mut self) -> Option<u64> {
            self.line.pop(WORK.in_flight, self.now)
        }
    }

    #[test]
    fn patience_follows_from_the_time_that_is_left() {
        for (left, normal, critical) in [
            (Some(0), 0, 0),
            (Some(4), 2, 2),
            (Some(100), 8, 50),
            (Some(250), 8, 125),
            (Some(1_250), 258, 442),
            (Some(9_250), 2_258, 2_442),
            (Some(3_600_000), 2_500, 2_500),
            (None, 2_500, 2_500),
        ] {
            let left = left.map(Duration::from_millis);
            let found = |priority| patience(priority, left).as_millis();
            assert_eq!(
                (found(Priority::Normal), found(Priority::Critical)),
                (normal, critical),
                "{left:?}"
            );
            assert_eq!(found(Priority::Background), normal);
        }
    }

    #[test]
    fn a_burst_is_served_in_the_order_in_which_it_came() {
        let mut scene = Scene::new();
        let patience = (0..100).map(|_| scene.join(Priority::Normal, LONG)).max().unwrap();
        for expected in 0..100 {
            assert_eq!(scene.pop(), Some(expected));
            // The last ones wait for nearly as long as they would, but there are fewer and fewer of them.
            scene.now += patience / 101;
        }
        assert_eq!((scene.pop(), scene.line.is_empty()), (None, true));
        assert_eq!(scene.join(Priority::Normal, LONG), patience, "that was no overload");
    }

    #[test]
    fn those_with_time_and_those_without_take_turns() {
        let mut scene = Scene::new();
        for left in [LONG, LONG, LONG, SHORT, None, SHORT] {
            scene.join(Priority::Normal, left);
        }
        let order: Vec<u64> = std::iter::from_fn(|| scene.pop()).collect();
        assert_eq!(order, [3, 0, 5, 1, 2, 4]);
    }

    #[test]
    fn of_the_hurried_the_newest_is_next_once_the_oldest_has_waited() {
        let mut scene = Scene::new();
        for _ in 0..3 {
            scene.join(Priority::Normal, SHORT);
        }
        assert_eq!(scene.pop(), Some(0));
        scene.now += PATIENCE / 2;
        scene.join(Priority::Normal, SHORT);
        let order: Vec<u64> = std::iter::from_fn(|| scene.pop()).collect();
        assert_eq!(order, [3, 2, 1]);
    }

    #[test]
    fn in_an_overload_nobody_who_comes_waits_long() {
        let mut scene = Scene::new();
        let patience = scene.join(Priority::Normal, LONG);
        scene.join(Priority::Normal, LONG);
        scene.now += patience / 2;
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        assert_eq!(scene.join(Priority::Low, LONG), patience, "its own line has only begun");
        assert!(scene.line.is_overloaded(scene.now));
        let order: Vec<u64> = std::iter::from_fn(|| scene.pop()).collect();
        assert_eq!(order, [2, 0, 1, 3]);
        // Nobody waits, but a moment ago there was an overload.
        scene.now += OVERLOAD_LASTS - MILLI;
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        scene.now += MILLI;
        assert_eq!(scene.join(Priority::Normal, LONG), patience, "it is over");
    }

    #[test]
    fn a_line_that_gets_shorter_is_none() {
        let mut scene = Scene::new();
        let patience = (0..100).map(|_| scene.join(Priority::Normal, LONG)).max().unwrap();
        for _ in 0..20 {
            scene.pop();
        }
        scene.now += patience * 3 / 4;
        assert_eq!(scene.join(Priority::Normal, LONG), patience);
    }

    #[test]
    fn who_has_time_and_waits_in_vain_tells_of_an_overload_and_others_do_not() {
        let mut scene = Scene::new();
        scene.join(Priority::Normal, SHORT);
        let patience = scene.join(Priority::Normal, LONG);
        scene.join(Priority::Normal, LONG);
        let leave = |scene: &mut Scene, number, in_vain| scene.line.leave(number, Priority::Normal, in_vain, scene.now);
        assert!(scene.line.contains(1, Priority::Normal) && !scene.line.contains(1, Priority::Low));
        assert_eq!(leave(&mut scene, 1, false), Some(1));
        assert_eq!(leave(&mut scene, 1, false), None);
        assert_eq!(leave(&mut scene, 0, true), Some(0));
        assert_eq!(scene.join(Priority::Normal, LONG), patience, "that one had no time");
        assert_eq!(leave(&mut scene, 2, true), Some(2));
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        assert_eq!(scene.join(Priority::Critical, LONG), PATIENCE_MAX);
        // Whoever would have had time goes on telling.
        scene.now += OVERLOAD_LASTS / 2;
        assert_eq!(leave(&mut scene, 4, true), Some(4));
        scene.now += OVERLOAD_LASTS / 2;
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
    }

    #[test]
    fn few_of_the_hurried_stand_in_line() {
        let mut scene = Scene::new();
        for _ in 0..16 {
            assert_eq!(scene.join(Priority::Normal, SHORT), PATIENCE);
        }
        let now = scene.now;
        let mut join = |number, limit, rate| {
            let work = Work { limit, rate, ..WORK };
            scene.line.join((number, number), Priority::Normal, SHORT, work, now)
        };
        let in_place_of = |evicted| Joined::In {
            patience: PATIENCE,
            evicted,
        };
        assert_eq!(join(16, 8, None), in_place_of(Some(0)), "the oldest");
        assert_eq!(join(17, 8, None), in_place_of(Some(1)));
        assert_eq!(join(18, 100, None), in_place_of(None), "more, where more are worked on");
        let soon = Some(17.0 / HURRIED_TURNS / PATIENCE.as_secs_f64());
        assert_eq!(join(19, 100, soon), in_place_of(Some(2)), "that get their turn in time");
        let rare = Some(1.0);
        assert_eq!(join(20, 100, rare), in_place_of(Some(3)));
        assert_eq!(join(21, 100, soon.map(|rate| rate + 200.0)), in_place_of(None));
        assert_eq!(scene.line.len(), 18);
    }

    #[test]
    fn a_full_line_has_room_for_who_matters_more() {
        let mut scene = Scene::new();
        scene.join(Priority::Low, LONG);
        for _ in 1..LINE_MAX {
            scene.join(Priority::Normal, LONG);
        }
        let now = scene.now;
        let mut join = |number, priority| scene.line.join((number, number), priority, LONG, WORK, now);
        let number = LINE_MAX as u64;
        assert_eq!(join(number, Priority::Low), Joined::Full);
        let Joined::In { evicted, patience } = join(number + 1, Priority::Normal) else {
            panic!("the line is full")
        };
        assert_eq!((evicted, patience), (Some(0), PATIENCE), "the lowest");
        assert_eq!(join(number + 2, Priority::Normal), Joined::Full);
        let Joined::In { evicted, .. } = join(number + 3, Priority::Critical) else {
            panic!("the line is full")
        };
        assert_eq!(evicted, Some(number - 1), "whoever would wait for the longest");
        assert_eq!(scene.line.len(), LINE_MAX);
    }
}
