//! What counts that only grow were some time ago: a sliding window without a bucket for every moment.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Readings at the beginning of each part of a span of time.
#[derive(Debug)]
pub(super) struct Marks<T> {
    marks: VecDeque<(Instant, T)>,
    every: Duration,
    span: Duration,
}

impl<T: Copy> Marks<T> {
    /// Begins with that reading; one is kept `every` so often, for as long as `span`.
    pub(super) fn new(now: Instant, reading: T, every: Duration, span: Duration) -> Self {
        Self {
            marks: VecDeque::from([(now, reading)]),
            every,
            span,
        }
    }

    /// For how long readings are kept.
    pub(super) fn span(&self) -> Duration {
        self.span
    }

    /// Takes up a reading. If the last one is so old that the time between would count as one part, nothing before it counts.
    pub(super) fn note(&mut self, now: Instant, reading: T) {
        let age = self.marks.back().map(|(at, _)| now.saturating_duration_since(*at));
        if age.is_none_or(|age| age > self.every * 2) {
            return self.restart(now, reading);
        }
        if age.is_some_and(|age| age >= self.every) {
            self.marks.push_back((now, reading));
        }
        // One is kept from before, to count from.
        while self.marks.get(1).is_some_and(|(at, _)| now.saturating_duration_since(*at) >= self.span) {
            self.marks.pop_front();
        }
    }

    /// Nothing before this counts.
    pub(super) fn restart(&mut self, now: Instant, reading: T) {
        self.marks.clear();
        self.marks.push_back((now, reading));
    }

    /// What was read so long ago, or when all began.
    pub(super) fn before(&self, now: Instant, span: Duration) -> Option<T> {
        let is_before = |(at, _): &&(Instant, T)| now.saturating_duration_since(*at) >= span;
        let mark = self.marks.iter().rev().find(is_before).or_else(|| self.marks.front());
        mark.map(|(_, reading)| *reading)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Marks;
    use crate::time;

    #[test]
    fn readings_of_the_last_while_are_kept() {
        let (start, part) = (time::now(), Duration::from_millis(100));
        let mut marks = Marks::new(start, 0, part, part * 10);
        for step in 1..=1_000_u32 {
            let now = start + part * step / 4;
            marks.note(now, step);
            assert!(marks.marks.len() <= 12, "{}", marks.marks.len());
        }
        let now = start + part * 250;
        assert_eq!(marks.before(now, part * 10), Some(960));
        assert_eq!(marks.before(now, part * 2), Some(992));
        // What is older than all counts from the oldest.
        assert!(marks.before(now, part * 50).is_some_and(|reading| (956..=960).contains(&reading)));
        // After a pause it begins anew.
        marks.note(now + part * 3, 5_000);
        assert_eq!(marks.before(now + part * 3, part * 10), Some(5_000));
    }
}
