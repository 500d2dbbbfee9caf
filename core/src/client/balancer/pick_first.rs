//! All calls to one endpoint: the first that can be connected to.

use std::sync::Arc;

use super::{Balancer, Candidate, ConnectsTo, PickArgs, Picker};

/// Sends all calls to one endpoint, the first of the list that can be connected to. When its connection is lost, the list is gone through from the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct PickFirst;

impl Balancer for PickFirst {
    fn picker(&self, _ready: &[Candidate]) -> Arc<dyn Picker> {
        Arc::new(First)
    }

    fn connects_to(&self) -> ConnectsTo {
        ConnectsTo::First
    }
}

struct First;

impl Picker for First {
    fn pick(&self, _args: &PickArgs<'_>) -> Option<usize> {
        Some(0)
    }
}
