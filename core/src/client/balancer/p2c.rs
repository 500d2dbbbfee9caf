//! The cheaper of two random endpoints, by latency and calls in flight.

use std::sync::Arc;

use super::{Balancer, Candidate, PickArgs, Picker, shares};
use crate::policy::schedule::Schedule;

/// Sends each call to the less loaded of two random endpoints: by peak-sensitive latency, calls in flight, silence, and failures. The default.
#[derive(Clone, Copy, Debug, Default)]
pub struct PeakEwma;

impl Balancer for PeakEwma {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        Arc::new(TwoChoices::new(ready, |one, share, args| one.cost(args.now(), share)))
    }
}

/// The lower half of a random number, of which the upper one makes another.
const HALF: u64 = u32::MAX as u64;

/// Two random candidates, of which the cheaper is taken.
pub(super) struct TwoChoices<C> {
    candidates: Box<[Candidate]>,
    shares: Box<[f64]>,
    /// For candidates of unequal weight: each has as many slots as it has weight.
    draw: Option<Schedule>,
    cost: C,
}

impl<C: Fn(&Candidate, f64, &PickArgs<'_>) -> f64 + Send + Sync + 'static> TwoChoices<C> {
    pub(super) fn new(ready: &[Candidate], cost: C) -> Self {
        let weights: Vec<u32> = ready.iter().map(Candidate::weight).collect();
        let is_even = weights.windows(2).all(|pair| pair[0] == pair[1]);
        Self {
            candidates: ready.into(),
            shares: shares(ready).into(),
            draw: if is_even { None } else { Schedule::new(&weights) },
            cost,
        }
    }

    /// Two of them, which may be the same.
    fn draw(&self) -> (usize, usize) {
        match &self.draw {
            Some(schedule) => (schedule.at(fastrand::u64(..)), schedule.at(fastrand::u64(..))),
            None => {
                let random = fastrand::u64(..);
                let count = self.candidates.len();
                (scaled(random & HALF, count), scaled(random >> 32, count))
            }
        }
    }

    fn cheapest_left(&self, args: &PickArgs<'_>) -> Option<usize> {
        let left = (0..self.candidates.len()).filter(|&index| !args.excludes(&self.candidates[index]));
        left.min_by(|&one, &other| self.cost(one, args).total_cmp(&self.cost(other, args)))
    }

    fn cost(&self, index: usize, args: &PickArgs<'_>) -> f64 {
        (self.cost)(&self.candidates[index], self.shares[index], args)
    }
}

impl<C: Fn(&Candidate, f64, &PickArgs<'_>) -> f64 + Send + Sync + 'static> Picker for TwoChoices<C> {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let count = self.candidates.len();
        if count == 1 {
            return (!args.excludes(&self.candidates[0])).then_some(0);
        }
        if !args.exclude.is_empty() {
            return self.cheapest_left(args);
        }
        let (one, mut other) = self.draw();
        if other == one {
            // Drawn twice: whoever stands next to it.
            other = if one + 1 == count { 0 } else { one + 1 };
        }
        Some(if self.cost(other, args) < self.cost(one, args) {
            other
        } else {
            one
        })
    }
}

/// Below `count`, in proportion to `half`, 32 random bits.
fn scaled(half: u64, count: usize) -> usize {
    ((half * count as u64) >> 32) as usize
}
