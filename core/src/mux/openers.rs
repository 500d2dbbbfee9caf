//! Who waits until a stream may be opened, in the order in which they came.
//!
//! A place is a number, not a waker: a call may be polled by one task and then by another, and two calls may share a task.

use std::collections::BTreeMap;
use std::task::{Context, Waker};

/// A place in the line; it is kept while its owner waits, also when it was woken in vain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(u64);

/// The line. It holds one entry per waiting call of this process.
#[derive(Debug, Default)]
pub(super) struct Openers {
    waiting: BTreeMap<Place, Waker>,
    next: u64,
}

impl Openers {
    /// Waits at `place`, or at the end of the line.
    pub(super) fn wait(&mut self, place: &mut Option<Place>, task: &Context<'_>) {
        let place = *place.get_or_insert_with(|| {
            self.next += 1;
            Place(self.next)
        });
        self.waiting
            .entry(place)
            .and_modify(|waker| waker.clone_from(task.waker()))
            .or_insert_with(|| task.waker().clone());
    }

    /// Leaves the line; false if the one at `place` was woken already.
    pub(super) fn leave(&mut self, place: Place) -> bool {
        self.waiting.remove(&place).is_some()
    }

    /// The first in line, to be woken.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Waker> {
        if self.waiting.is_empty() {
            return None;
        }
        self.waiting.pop_first().map(|(_, waker)| waker)
    }

    /// All of them, to be woken.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Waker> {
        std::mem::take(&mut self.waiting).into_values()
    }
}
