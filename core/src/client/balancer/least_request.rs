//! The less busy of two random endpoints.

use std::sync::Arc;

use super::p2c::TwoChoices;
use super::{Balancer, Candidate, Picker};

/// Sends each call to the one of two random endpoints that has fewer calls under way for its weight: where answers differ so much in size that their latency
/// tells nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct LeastRequest;

impl Balancer for LeastRequest {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        Arc::new(TwoChoices::new(ready, |one, share, _| {
            f64::from(one.in_flight()) / share
        }))
    }
}
