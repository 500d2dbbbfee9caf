//! Weights laid out as a schedule: whoever takes the next slot, again and again, has each index in proportion to its weight, evenly spread.
//!
//! The slots are filled by earliest eligible virtual deadline first, so that no index is ever more than one turn ahead of its share or behind it. That costs a
//! heap, but only when the weights change: a pick is one step of a counter.
//!
//! Source: "Earliest Eligible Virtual Deadline First" (Stoica and Abdel-Wahab, 1995), without its dynamic part.

use std::cmp::Ordering;

/// Slots of a schedule at most: 16 KiB, and shares exact to a fortieth of a per cent.
pub const SLOTS_MAX: usize = 4_096;

/// One cycle of indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    slots: Box<[u32]>,
}

impl Schedule {
    /// A schedule of the indices of `weights`. Those with weight 0 are not in it; every other one is, once a cycle at least. `None` if nothing has a weight.
    #[must_use]
    pub fn new(weights: &[u32]) -> Option<Self> {
        let turns = turns(weights);
        let total: u64 = turns.iter().sum();
        if total == 0 {
            return None;
        }
        // Virtual time advances by one with each slot. Turn `k` of an index with `n` of `total` turns is eligible from `k * total / n` on, and due by
        // `(k + 1) * total / n`; kept as whole numbers over a common denominator, each compared by cross multiplication.
        let mut taken = vec![0_u64; turns.len()];
        let mut slots = Vec::with_capacity(usize::try_from(total).unwrap_or_default());
        for now in 0..total {
            let due = (0..turns.len())
                .filter(|&index| taken[index] < turns[index] && taken[index] * total <= now * turns[index])
                .min_by(|&one, &other| earlier((taken[one] + 1, turns[one]), (taken[other] + 1, turns[other])));
            if let Some(index) = due {
                taken[index] += 1;
                slots.push(u32::try_from(index).unwrap_or(u32::MAX));
            }
        }
        Some(Self {
            slots: slots.into_boxed_slice(),
        })
    }

    /// The index at position `at` of the endless repetition.
    #[must_use]
    pub fn at(&self, at: u64) -> usize {
        let position = at % self.slots.len() as u64;
        self.slots[usize::try_from(position).unwrap_or_default()] as usize
    }

    /// How many slots a cycle has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether it has none; it never is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// Compares `a.0 / a.1` with `b.0 / b.1`.
fn earlier(one: (u64, u64), other: (u64, u64)) -> Ordering {
    (one.0 * other.1).cmp(&(other.0 * one.1))
}

/// How many slots each index has: the weights in lowest terms where they fit, else scaled down, and at least one.
fn turns(weights: &[u32]) -> Vec<u64> {
    let divisor = weights.iter().copied().filter(|&weight| weight > 0).fold(0, gcd);
    if divisor == 0 {
        return Vec::new();
    }
    let reduced: Vec<u64> = weights.iter().map(|&weight| u64::from(weight / divisor)).collect();
    let total: u64 = reduced.iter().sum();
    let present = reduced.iter().filter(|&&weight| weight > 0).count();
    let room = SLOTS_MAX.max(present) as u64;
    if total <= room {
        return reduced;
    }
    let scaled = |weight: u64| if weight == 0 { 0 } else { (weight * room / total).max(1) };
    reduced.into_iter().map(scaled).collect()
}

fn gcd(one: u32, other: u32) -> u32 {
    if other == 0 { one } else { gcd(other, one % other) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{SLOTS_MAX, Schedule};

    fn counts(schedule: &Schedule, indices: usize) -> Vec<usize> {
        let mut counts = vec![0; indices];
        (0..schedule.len() as u64).for_each(|at| counts[schedule.at(at)] += 1);
        counts
    }

    #[test]
    fn shares_are_exact_and_spread() {
        let schedule = Schedule::new(&[100, 200, 300]).unwrap();
        assert_eq!(counts(&schedule, 3), [1, 2, 3]);
        assert!(
            schedule.slots.windows(2).all(|pair| pair[0] != pair[1]),
            "{:?}",
            schedule.slots
        );
        assert_eq!(schedule.at(6), schedule.at(0));
        assert_eq!(Schedule::new(&[0, 0]), None);
        assert_eq!(Schedule::new(&[]), None);
        assert_eq!(counts(&Schedule::new(&[0, 7]).unwrap(), 2), [0, 1]);
    }

    #[test]
    fn a_small_weight_among_large_ones_has_its_turn() {
        let schedule = Schedule::new(&[65_535, 65_535, 1]).unwrap();
        assert!(schedule.len() <= SLOTS_MAX + 1);
        assert_eq!(counts(&schedule, 3)[2], 1);
        let many = Schedule::new(&vec![65_534; SLOTS_MAX + 1]).unwrap();
        assert_eq!(many.len(), SLOTS_MAX + 1);
    }

    proptest! {
        #[test]
        fn no_index_is_more_than_a_turn_off(weights in prop::collection::vec(0_u32..200, 1..40)) {
            let Some(schedule) = Schedule::new(&weights) else {
                prop_assert!(weights.iter().all(|&weight| weight == 0));
                return Ok(());
            };
            let all = counts(&schedule, weights.len());
            let total = schedule.len() as f64;
            let mut seen = vec![0.0; weights.len()];
            for at in 0..schedule.len() {
                seen[schedule.at(at as u64)] += 1.0;
                for (index, seen) in seen.iter().enumerate() {
                    let share = all[index] as f64 * (at + 1) as f64 / total;
                    prop_assert!((seen - share).abs() <= 1.0 + 1e-9, "{index}: {seen} of {share} after {at} of {weights:?}");
                }
            }
            for (weight, count) in weights.iter().zip(&all) {
                prop_assert_eq!(*weight == 0, *count == 0);
            }
        }
    }
}
