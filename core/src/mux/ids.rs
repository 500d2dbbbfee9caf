//! Stream id -> slot: open addressing.
//!
//! Ids grow one by one, so the low bits of an id are its place: the calls that are open together lie side by side and hardly ever collide. Only
//! while some id stands elsewhere than at home, because a long-lived stream holds its place, does removing look at its neighbours. A peer that
//! skips ids in order to make them collide gains a scan over its own open streams, whose number is bounded.

use crate::wire::frame::StreamId;

/// Places of the smallest table.
const PLACES_MIN: usize = 16;

#[derive(Debug, Default)]
pub(super) struct IdTable {
    /// Id and slot; id 0, which is the connection's, marks a free place. The number of places is a power of two and at least twice `len`.
    places: Vec<(u32, u32)>,
    len: usize,
    /// How many ids stand elsewhere than at home.
    displaced: usize,
}

impl IdTable {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn clear(&mut self) {
        self.places.fill((0, 0));
        self.len = 0;
        self.displaced = 0;
    }

    #[inline]
    pub(super) fn get(&self, id: StreamId) -> Option<u32> {
        let at = self.find(id.0)?;
        Some(self.places[at].1)
    }

    /// Adds an id that is not there.
    #[inline]
    pub(super) fn insert(&mut self, id: StreamId, slot: u32) {
        if (self.len + 1) * 2 > self.places.len() {
            self.grow();
        }
        self.place(id.0, slot);
        self.len += 1;
    }

    #[inline]
    pub(super) fn remove(&mut self, id: StreamId) {
        let Some(hole) = self.find(id.0) else { return };
        self.len -= 1;
        if self.displaced == 0 {
            self.places[hole] = (0, 0);
        } else {
            self.close_up(hole);
        }
    }

    /// Empties a place; those behind move up, so that a search never meets a hole before what it looks for.
    fn close_up(&mut self, mut hole: usize) {
        let mask = self.places.len() - 1;
        self.displaced -= usize::from(home(self.places[hole].0, mask) != hole);
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let (id, slot) = self.places[at];
            if id == 0 {
                break;
            }
            let home = home(id, mask);
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.places[hole] = (id, slot);
                self.displaced -= usize::from(home == hole);
                hole = at;
            }
        }
        self.places[hole] = (0, 0);
    }

    #[inline]
    fn find(&self, id: u32) -> Option<usize> {
        let mask = self.places.len().wrapping_sub(1);
        let mut at = home(id, mask);
        loop {
            match self.places.get(at)?.0 {
                0 => return None,
                found if found == id => return Some(at),
                _ => at = (at + 1) & mask,
            }
        }
    }

    #[inline]
    fn place(&mut self, id: u32, slot: u32) {
        let mask = self.places.len() - 1;
        let mut at = home(id, mask);
        if self.places[at].0 != 0 {
            self.displaced += 1;
            while self.places[at].0 != 0 {
                at = (at + 1) & mask;
            }
        }
        self.places[at] = (id, slot);
    }

    fn grow(&mut self) {
        let places = (self.places.len() * 2).max(PLACES_MIN);
        let old = std::mem::replace(&mut self.places, vec![(0, 0); places]);
        self.displaced = 0;
        for (id, slot) in old {
            if id != 0 {
                self.place(id, slot);
            }
        }
    }
}

/// Where an id belongs in a table of `mask + 1` places.
#[inline]
fn home(id: u32, mask: usize) -> usize {
    id as usize & mask
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::IdTable;
    use crate::wire::frame::StreamId;

    proptest! {
        /// Against a map, with ids that collide often.
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 1_u32..200, 0_u32..4), 0..400)) {
            let (mut table, mut map) = (IdTable::default(), HashMap::new());
            for (insert, id, high) in steps {
                let id = id + high * 1024;
                if insert && !map.contains_key(&id) {
                    table.insert(StreamId(id), id * 3);
                    map.insert(id, id * 3);
                } else {
                    table.remove(StreamId(id));
                    map.remove(&id);
                }
                prop_assert_eq!(table.len(), map.len());
                let mask = table.places.len().wrapping_sub(1);
                let away = table.places.iter().enumerate().filter(|(at, (id, _))| *id != 0 && super::home(*id, mask) != *at);
                prop_assert_eq!(table.displaced, away.count());
                for (id, slot) in &map {
                    prop_assert_eq!(table.get(StreamId(*id)), Some(*slot));
                }
                prop_assert_eq!(table.get(StreamId(100_000)), None);
            }
        }
    }
}
