//! One endpoint after the other, by weight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Balancer, Candidate, PickArgs, Picker};
use crate::policy::schedule::Schedule;

/// Sends each call to the next endpoint; one with twice the weight has twice the turns, evenly spread.
#[derive(Clone, Copy, Debug, Default)]
pub struct RoundRobin;

impl Balancer for RoundRobin {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        let weights: Vec<u32> = ready.iter().map(Candidate::weight).collect();
        Arc::new(Turns::new(ready, &weights))
    }
}

/// Candidates that have their turns by weight.
pub(super) struct Turns {
    candidates: Box<[Candidate]>,
    schedule: Option<Schedule>,
    next: AtomicU64,
}

impl Turns {
    pub(super) fn new(ready: &[Candidate], weights: &[u32]) -> Self {
        Self {
            candidates: ready.into(),
            schedule: Schedule::new(weights),
            // At random, or the first of the list would have a call more with every change of it, and those at its end none if it changes often.
            next: AtomicU64::new(fastrand::u64(..) >> 1),
        }
    }
}

impl Picker for Turns {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let schedule = self.schedule.as_ref()?;
        let at = self.next.fetch_add(1, Ordering::Relaxed);
        let index = schedule.at(at);
        if !args.excludes(&self.candidates[index]) {
            return Some(index);
        }
        (1..schedule.len() as u64)
            .map(|ahead| schedule.at(at + ahead))
            .find(|&other| !args.excludes(&self.candidates[other]))
    }
}
