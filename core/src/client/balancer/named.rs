//! The balancers that a configuration can name.

use std::sync::Arc;

use super::{Balancer, ConsistentHash, LeastRequest, PeakEwma, PickFirst, RoundRobin, WeightedRoundRobin};
use crate::config::BalancerChoice;

pub(in crate::client) fn balancer(choice: &BalancerChoice) -> Arc<dyn Balancer> {
    match choice {
        BalancerChoice::PeakEwma => Arc::new(PeakEwma),
        BalancerChoice::RoundRobin => Arc::new(RoundRobin),
        BalancerChoice::WeightedRoundRobin => Arc::new(WeightedRoundRobin),
        BalancerChoice::LeastRequest => Arc::new(LeastRequest),
        BalancerChoice::PickFirst => Arc::new(PickFirst),
        BalancerChoice::ConsistentHash { metadata_key } => {
            let by_key = ConsistentHash::new();
            Arc::new(match metadata_key {
                Some(key) => by_key.metadata_key(key.clone()),
                None => by_key,
            })
        }
    }
}
