//! The line before a method that works on as many calls as it should: who is next, how long each waits, and when waiting makes no sense any more.
//!
//! A burst and an overload begin alike. What a burst needs is time: if all of it is served long before anybody's deadline, nobody was harmed, so a call waits for a part
//! of the time that its caller has. What an overload needs is an early no: where calls wait in vain, or nearly, only the newest have a chance, and those that do not get
//! their turn within a moment better go elsewhere. So a priority has two modes.
//!
//! - *Burst*: whoever would leave first is served first; among calls with as much time that is the oldest.
//! - *Overload*, from the moment at which somebody has waited in vain or the oldest has waited for half of what it would, until that has not happened for a
//!   second: calls that come wait for a moment only, and as long as the oldest has waited for more than half of one, the newest is served first.
//!
//! The highest priority goes first, whatever the mode of others.
//!
//! Source: CoDel for the two lengths of time; Facebook's "Fail at scale" (adaptive LIFO); Google's SRE book, chapter 21, for priorities.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::priority::{PRIORITIES, Priority};

/// How long a call waits for its turn at least. Calls with little time are told no within 10 ms then, and what is served of them has hardly waited.
pub(crate) const PATIENCE: Duration = Duration::from_millis(8);
/// The same for those that matter most: there are few of them, and the next turn is theirs, unless many come at once.
const PATIENCE_CRITICAL: Duration = Duration::from_millis(192);
/// A call that has more time than this waits for a quarter of the rest as well: what is left after that is enough for an answer, or for another server's.
const SHORT_DEADLINE: Duration = Duration::from_millis(250);
const PATIENT_PART: u32 = 4;
/// Nobody waits for longer, and those without a deadline for as long: about what the default deadline of ten seconds leads to.
const PATIENCE_MAX: Duration = Duration::from_millis(2_500);
/// How long nobody has to have waited in vain until an overload is over: many times as long as calls wait in one.
const OVERLOAD_LASTS: Duration = Duration::from_secs(1);
/// Calls that stand in a line at most. They hold what calls hold that are worked on, of which there may be as many where there is no limit.
pub(crate) const LINE_MAX: usize = 16_384;

/// The calls of one method that wait, with what it takes to tell each of its turn.
#[derive(Debug)]
pub(crate) struct Line<T> {
    of: [Class<T>; PRIORITIES],
}

/// Those of one priority.
#[derive(Debug)]
struct Class<T> {
    /// By the order in which they came.
    waiting: BTreeMap<u64, Waiter<T>>,
    by_expiry: BTreeSet<(Instant, u64)>,
    overload_until: Option<Instant>,
}

#[derive(Debug)]
struct Waiter<T> {
    since: Instant,
    patience: Duration,
    call: T,
}

/// What became of a call that would stand in line.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined<T> {
    /// It stands there, until `patience` is over, perhaps in the place of another call, which is refused.
    In { patience: Duration, evicted: Option<T> },
    /// The line is full of calls that matter more.
    Full,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            of: std::array::from_fn(|_| Class {
                waiting: BTreeMap::new(),
                by_expiry: BTreeSet::new(),
                overload_until: None,
            }),
        }
    }
}

impl<T> Line<T> {
    pub(crate) fn len(&self) -> usize {
        self.of.iter().map(|class| class.waiting.len()).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.of.iter().all(|class| class.waiting.is_empty())
    }

    /// A call whose caller waits for it for so long, if not for ever. Numbers rise.
    pub(crate) fn join(
        &mut self,
        number: u64,
        priority: Priority,
        left: Option<Duration>,
        now: Instant,
        call: T,
    ) -> Joined<T> {
        let mut evicted = None;
        if self.len() >= LINE_MAX {
            let lowest = self.of.iter_mut().take(priority.index() + 1).find(|class| !class.waiting.is_empty());
            let Some(lowest) = lowest else {
                self.of[priority.index()].is_overloaded_from(now);
                return Joined::Full;
            };
            lowest.is_overloaded_from(now);
            evicted = lowest.oldest().and_then(|oldest| lowest.remove(oldest)).map(|waiter| waiter.call);
        }
        let class = &mut self.of[priority.index()];
        class.look_at_oldest(now);
        let patience = match class.is_overloaded(now) {
            true => least(priority),
            false => patience(priority, left),
        };
        let waiter = Waiter {
            since: now,
            patience,
            call,
        };
        class.by_expiry.insert((waiter.expiry(), number));
        class.waiting.insert(number, waiter);
        Joined::In { patience, evicted }
    }

    /// Whoever is next.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<T> {
        let (priority, class) =
            Priority::ALL.into_iter().zip(&mut self.of).rev().find(|(_, class)| !class.waiting.is_empty())?;
        class.look_at_oldest(now);
        let next = match class.has_long_line(least(priority), now) {
            true => class.waiting.last_key_value().map(|(number, _)| *number),
            false => class.by_expiry.first().map(|(_, number)| *number),
        };
        class.remove(next?).map(|waiter| waiter.call)
    }

    /// A call leaves, `in_vain` if it waited for as long as it would; `None` if it is not in line any more.
    pub(crate) fn leave(&mut self, number: u64, priority: Priority, in_vain: bool, now: Instant) -> Option<T> {
        let class = &mut self.of[priority.index()];
        let left = class.remove(number)?;
        if in_vain {
            class.is_overloaded_from(now);
        }
        Some(left.call)
    }
}

impl<T> Class<T> {
    fn oldest(&self) -> Option<u64> {
        self.waiting.first_key_value().map(|(number, _)| *number)
    }

    fn remove(&mut self, number: u64) -> Option<Waiter<T>> {
        let waiter = self.waiting.remove(&number)?;
        self.by_expiry.remove(&(waiter.expiry(), number));
        Some(waiter)
    }

    fn is_overloaded(&self, now: Instant) -> bool {
        self.overload_until.is_some_and(|until| now < until)
    }

    fn is_overloaded_from(&mut self, now: Instant) {
        self.overload_until = Some(now + OVERLOAD_LASTS);
    }

    /// A line in which the oldest has waited for half of what it would does not get shorter by itself.
    fn look_at_oldest(&mut self, now: Instant) {
        let oldest = self.waiting.first_key_value();
        if oldest.is_some_and(|(_, oldest)| oldest.has_waited(now) >= oldest.patience / 2) {
            self.is_overloaded_from(now);
        }
    }

    /// In an overload, whether some have waited for more than half of what calls wait then.
    fn has_long_line(&self, patience: Duration, now: Instant) -> bool {
        let oldest = self.waiting.first_key_value();
        self.is_overloaded(now) && oldest.is_some_and(|(_, oldest)| oldest.has_waited(now) >= patience / 2)
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

/// How long a call waits in a burst, if its caller waits for so long.
fn patience(priority: Priority, left: Option<Duration>) -> Duration {
    let beyond = left.map_or(PATIENCE_MAX, |left| left.saturating_sub(SHORT_DEADLINE) / PATIENT_PART);
    (least(priority) + beyond).min(PATIENCE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);
    const LONG: Option<Duration> = Some(Duration::from_secs(10));
    const SHORT: Option<Duration> = Some(Duration::from_millis(250));

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
            match self.line.join(number, priority, left, self.now, number) {
                Joined::In { patience, evicted } => {
                    assert_eq!(evicted, None);
                    patience
                }
                Joined::Full => panic!("the line is full"),
            }
        }

        fn pop(&mut self) -> Option<u64> {
            self.line.pop(self.now)
        }
    }

    #[test]
    fn patience_follows_from_the_time_that_is_left() {
        for (left, normal, critical) in [
            (Some(0), 8, 192),
            (Some(250), 8, 192),
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
            // Not quite half of what they wait.
            scene.now += patience / 201;
        }
        assert_eq!((scene.pop(), scene.line.is_empty()), (None, true));
        assert_eq!(scene.join(Priority::Normal, LONG), patience, "that was no overload");
    }

    #[test]
    fn those_with_little_time_are_not_behind_those_with_much() {
        let mut scene = Scene::new();
        for left in [LONG, LONG, SHORT, None, SHORT] {
            scene.join(Priority::Normal, left);
        }
        let order: Vec<u64> = std::iter::from_fn(|| scene.pop()).collect();
        assert_eq!(order, [2, 4, 0, 1, 3]);
    }

    #[test]
    fn in_an_overload_the_newest_is_next_and_nobody_waits_long() {
        let mut scene = Scene::new();
        let patience = scene.join(Priority::Normal, LONG);
        scene.join(Priority::Normal, LONG);
        scene.now += patience / 2;
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        assert_eq!(scene.join(Priority::Low, LONG), patience, "its own line has only begun");
        assert_eq!(scene.pop(), Some(2), "the newest of the highest");
        assert_eq!(scene.pop(), Some(1));
        assert_eq!(scene.pop(), Some(0));
        // Nobody waits, but a moment ago there was an overload.
        scene.now += OVERLOAD_LASTS - MILLI;
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        assert_eq!(scene.pop(), Some(4), "they have only come: the oldest");
        scene.now += MILLI;
        assert_eq!(scene.join(Priority::Normal, LONG), patience, "it is over");
    }

    #[test]
    fn who_waits_in_vain_tells_of_an_overload_and_who_gives_up_does_not() {
        let mut scene = Scene::new();
        scene.join(Priority::Normal, SHORT);
        let patience = scene.join(Priority::Normal, LONG);
        assert_eq!(scene.line.leave(1, Priority::Normal, false, scene.now), Some(1));
        assert_eq!(scene.line.leave(1, Priority::Normal, false, scene.now), None);
        assert_eq!(scene.join(Priority::Normal, LONG), patience);
        assert_eq!(scene.line.leave(0, Priority::Normal, true, scene.now), Some(0));
        assert_eq!(scene.join(Priority::Normal, LONG), PATIENCE);
        assert_eq!(scene.join(Priority::Critical, SHORT), PATIENCE_CRITICAL);
    }

    #[test]
    fn a_full_line_makes_room_for_who_matters_as_much() {
        let mut scene = Scene::new();
        scene.join(Priority::Low, LONG);
        for _ in 1..LINE_MAX {
            scene.join(Priority::Normal, LONG);
        }
        let now = scene.now;
        let mut join = |number, priority| scene.line.join(number, priority, LONG, now, number);
        let number = LINE_MAX as u64;
        assert_eq!(join(number, Priority::Background), Joined::Full);
        let Joined::In { evicted, .. } = join(number + 1, Priority::Low) else {
            panic!("the line is full")
        };
        assert_eq!(evicted, Some(0), "the oldest of the lowest");
        let Joined::In { evicted, patience } = join(number + 2, Priority::Critical) else {
            panic!("the line is full")
        };
        assert_eq!((evicted, patience), (Some(number + 1), PATIENCE_MAX));
        let Joined::In { evicted, patience } = join(number + 3, Priority::Normal) else {
            panic!("the line is full")
        };
        assert_eq!((evicted, patience), (Some(1), PATIENCE));
        assert_eq!(scene.line.len(), LINE_MAX);
    }
}
