//! One endpoint after the other, by what each reports that it can take.

use std::sync::Arc;
use std::time::Duration;

use super::round_robin::Turns;
use super::{Balancer, Candidate, Picker};
use crate::policy::reported::{LoadReport, weights};
use crate::time;

/// How often the weights follow the reports.
const REFRESH: Duration = Duration::from_secs(1);

/// Sends each call to the next endpoint; who answers more calls with the same part of its capacity has more turns, and who fails has fewer.
///
/// The weights of endpoints come from what their servers report ([`ServerLoad`](crate::server::ServerLoad)) once they have done so for 10 s, and are at most ten
/// times the middle one, or a tenth of it. Those that registries and configurations give them do not count, but 0 does. While fewer than two endpoints report,
/// all have the same weight.
#[derive(Clone, Copy, Debug, Default)]
pub struct WeightedRoundRobin;

impl Balancer for WeightedRoundRobin {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        let now = time::now();
        let reports: Vec<Option<LoadReport>> = ready.iter().map(|one| one.load_report(now)).collect();
        let reported = weights(&reports).unwrap_or_else(|| vec![EVEN; ready.len()]);
        // One that is new has only a part of its weight yet.
        let grown = |(one, weight): (&Candidate, u32)| {
            let whole = u64::from(one.endpoint.weight().max(1));
            let part = u64::from(weight) * u64::from(one.weight) / whole;
            u32::try_from(part.max(1)).unwrap_or(u32::MAX)
        };
        let weights: Vec<u32> = ready.iter().zip(reported).map(grown).collect();
        Arc::new(Turns::new(ready, &weights))
    }

    fn refresh_interval(&self) -> Option<Duration> {
        Some(REFRESH)
    }
}

/// The weight of all while nothing is known.
const EVEN: u32 = 1_000;
