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

    /// Takes up a reading. Where none was taken up for long, `earlier` tells from the last one what it was `part` of the way back to it; what was read before stays.
    pub(super) fn note(&mut self, now: Instant, reading: T, earlier: impl Fn(T, f64) -> T) {
        let last = self.marks.back().copied();
        let age = last.map_or(self.span, |(at, _)| now.saturating_duration_since(at));
        if let Some((_, last)) = last.filter(|_| age > self.every * 2) {
            let mut back = self.span.min(age.saturating_sub(self.every));
            while !back.is_zero() {
                let before = earlier(last, back.as_secs_f64() / age.as_secs_f64());
                self.marks.push_back((now.checked_sub(back).unwrap_or(now), before));
                back = back.saturating_sub(self.every);
            }
        }
        if age >= self.every {
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

/// What a count was, `part` of the way back from `now` to `before`.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a count"
)]
pub(super) fn evenly(before: u64, now: u64, part: f64) -> u64 {
    now - (now.saturating_sub(before) as f64 * part) as u64
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Marks, evenly};
    use crate::time;

    #[test]
    fn readings_of_the_last_while_are_kept() {
        let (start, part) = (time::now(), Duration::from_millis(100));
        let mut marks = Marks::new(start, 0, part, part * 10);
        for step in 1..=1_000_u32 {
            let now = start + part * step / 4;
            marks.note(now, u64::from(step), |_, _| unreachable!("there is no gap"));
            assert!(marks.marks.len() <= 12, "{}", marks.marks.len());
        }
        let now = start + part * 250;
        assert_eq!(marks.before(now, part * 10), Some(960));
        assert_eq!(marks.before(now, part * 2), Some(992));
        // What is older than all counts from the oldest.
        assert!(marks.before(now, part * 50).is_some_and(|reading| (956..=960).contains(&reading)));
        // In a pause all came evenly.
        marks.note(now + part * 40, 5_000, |last, back| {
            assert_eq!(last, 1_000);
            evenly(last, 5_000, back)
        });
        for back in 0..=10 {
            assert_eq!(
                marks.before(now + part * 40, part * back),
                Some(5_000 - 100 * u64::from(back))
            );
        }
    }
}
