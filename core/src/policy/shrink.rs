//! Whether a registry that loses entries has lost its mind.
//!
//! Leases that expire together look like servers that die together, and come spread over a third of their time: no single change of a list tells them apart.
//! So what vanished is counted over a sliding window, against the longest list within it.
//!
//! Not here: what is done about it (`client/removals`).

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Parts of the window that are counted apart.
const PARTS: u32 = 16;

/// What vanished from a list lately.
#[derive(Clone, Debug)]
pub struct Shrinking {
    span: Duration,
    /// Sixteen, and the one that is passing out of the window.
    parts: VecDeque<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    began: Instant,
    lost: usize,
    longest: usize,
}

impl Shrinking {
    /// Counts over `span`.
    #[must_use]
    pub fn new(span: Duration) -> Self {
        Self {
            span,
            parts: VecDeque::new(),
        }
    }

    /// The window.
    #[must_use]
    pub fn span(&self) -> Duration {
        self.span
    }

    /// Of a list that had `length` entries, `lost` vanished at `now`.
    pub fn note(&mut self, now: Instant, length: usize, lost: usize) {
        self.forget(now);
        match self.parts.back_mut().filter(|part| now.saturating_duration_since(part.began) < self.span / PARTS) {
            Some(part) => {
                part.lost += lost;
                part.longest = part.longest.max(length);
            }
            None => self.parts.push_back(Part {
                began: now,
                lost,
                longest: length,
            }),
        }
    }

    /// Whether more than half of the longest list vanished within the window.
    #[must_use]
    pub fn is_suspicious(&mut self, now: Instant) -> bool {
        self.forget(now);
        let lost: usize = self.parts.iter().map(|part| part.lost).sum();
        let longest = self.parts.iter().map(|part| part.longest).max().unwrap_or_default();
        lost * 2 > longest
    }

    fn forget(&mut self, now: Instant) {
        // A part counts for as long as its last entry may.
        let kept = self.span + self.span / PARTS;
        while self.parts.front().is_some_and(|part| now.saturating_duration_since(part.began) > kept) {
            self.parts.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{PARTS, Shrinking};

    #[test]
    fn half_is_believed_and_more_is_not() {
        for (length, lost, suspicious) in [(10, 5, false), (10, 6, true), (1, 1, true), (2, 1, false), (2, 2, true)] {
            let (start, mut shrinking) = (crate::time::now(), Shrinking::new(Duration::from_secs(15)));
            shrinking.note(start, length, lost);
            assert_eq!(shrinking.is_suspicious(start), suspicious, "{lost} of {length}");
        }
    }

    #[test]
    fn leases_that_expire_one_after_the_other_add_up() {
        let (start, mut shrinking) = (crate::time::now(), Shrinking::new(Duration::from_secs(15)));
        // A hundred within a third of ten seconds.
        let suspicious = (0..100_u32).find(|&gone| {
            let now = start + Duration::from_secs(10) / 3 * gone / 100;
            shrinking.note(now, 100 - gone as usize, 1);
            shrinking.is_suspicious(now)
        });
        assert_eq!(suspicious, Some(50));
    }

    #[test]
    fn a_slow_change_is_none_and_the_window_is_bounded() {
        let (start, mut shrinking) = (crate::time::now(), Shrinking::new(Duration::from_secs(15)));
        for gone in 0..90_u32 {
            let now = start + Duration::from_secs(1) * gone;
            shrinking.note(now, 100 - gone as usize, 1);
            // Fifteen of more than thirty within each window.
            assert!(gone > 65 || !shrinking.is_suspicious(now), "{gone}");
            assert!(shrinking.parts.len() <= PARTS as usize + 2);
        }
    }
}
