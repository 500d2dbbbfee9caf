//! Values keyed by their type.
//!
//! A short vector, because calls carry few values and an empty one must own no memory.

use std::any::{Any, TypeId};

#[derive(Default)]
pub(super) struct Extensions {
    values: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
}

impl Extensions {
    pub(super) fn insert<T: Clone + Send + Sync + 'static>(&mut self, value: T) -> Option<T> {
        let id = TypeId::of::<T>();
        for (known, slot) in &mut self.values {
            if *known == id {
                let old = std::mem::replace(slot, Box::new(value));
                return old.downcast().ok().map(|old| *old);
            }
        }
        self.values.push((id, Box::new(value)));
        None
    }

    pub(super) fn get<T: Clone + Send + Sync + 'static>(&self) -> Option<T> {
        let id = TypeId::of::<T>();
        self.values
            .iter()
            .find(|(known, _)| *known == id)
            .and_then(|(_, value)| value.downcast_ref::<T>())
            .cloned()
    }

    pub(super) fn clear(&mut self) {
        self.values.clear();
    }
}
