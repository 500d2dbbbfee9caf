//! What endpoints report of their load, and the weights that follow from it.
//!
//! An endpoint that answers more calls for the same part of its capacity can take more of them; one whose calls fail counts as busier than it says.
//!
//! Source: gRFC A58, for the formula and its times.

use std::time::Duration;

/// How long an endpoint has to report before its weight follows from that: what it does first is not what it does later.
const BLACKOUT: Duration = Duration::from_secs(10);
/// How old a report may be: an endpoint that is given no calls reports nothing.
const USABLE_FOR: Duration = Duration::from_mins(3);
/// By how much a part of calls that fail counts as a part of capacity.
const FAILURE_PENALTY: f64 = 1.0;
/// The least utilization that counts: below it is noise, and a division by next to nothing.
const UTILIZATION_MIN: f64 = 0.01;
/// How many times the middle weight one may be, or a part of it: a report is a claim, and must not draw all calls.
const SPREAD_MAX: f64 = 10.0;
/// How much of a difference in capacity becomes one of weight, as a power: a little less than all, or what an endpoint was given would be the proof of what it can
/// take wherever utilization does not follow, and chance would add up.
const PULL: f64 = 0.9;
/// What the mean weight is scaled to.
const MEAN: f64 = 1_000.0;

/// What an endpoint said of its load, in the trailers of an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct LoadReport {
    /// The part of its capacity that is used, 1.0 for all of it: what its application set, else the part of its processors' time. `None` if it does not know.
    pub utilization: Option<f64>,
    /// Calls a second that it answered, of all clients.
    pub rate: f64,
    /// Those of them that failed by its fault.
    pub failure_rate: f64,
    /// How long ago it said so.
    pub age: Duration,
    /// How long it has been reporting, since it was connected.
    pub reporting_for: Duration,
}

/// The weights of endpoints by their reports; who has said nothing of use has the mean. `None` if fewer than two have: nothing tells them apart then.
#[must_use]
pub fn weights(reports: &[Option<LoadReport>]) -> Option<Vec<u32>> {
    let capacities: Vec<Option<f64>> = reports.iter().map(|report| report.as_ref().and_then(capacity)).collect();
    let mut known: Vec<f64> = capacities.iter().copied().flatten().collect();
    if known.len() < 2 {
        return None;
    }
    known.sort_by(f64::total_cmp);
    let middle = known[known.len() / 2];
    let bounded = |capacity: f64| (capacity / middle).powf(PULL).clamp(1.0 / SPREAD_MAX, SPREAD_MAX);
    let mean = known.iter().copied().map(bounded).sum::<f64>() / known.len() as f64;
    let weight = |capacity: &Option<f64>| {
        let weight = capacity.map_or(MEAN, |capacity| bounded(capacity) / mean * MEAN);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a hundred times the mean at most"
        )]
        let whole = weight.round() as u32;
        whole.max(1)
    };
    Some(capacities.iter().map(weight).collect())
}

/// The load of an endpoint, where failures count like work.
pub(super) fn load(report: &LoadReport, utilization: f64) -> f64 {
    let failing = if report.rate > 0.0 {
        (report.failure_rate / report.rate).min(1.0)
    } else {
        0.0
    };
    utilization.max(UTILIZATION_MIN) + failing * FAILURE_PENALTY
}

/// Calls a second that it could answer if nothing else were to do.
fn capacity(report: &LoadReport) -> Option<f64> {
    let is_usable = report.age <= USABLE_FOR && report.reporting_for >= BLACKOUT && report.rate > 0.0;
    let utilization = report.utilization.filter(|_| is_usable)?;
    Some(report.rate / load(report, utilization))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BLACKOUT, LoadReport, USABLE_FOR, weights};

    fn report(rate: f64, utilization: f64) -> LoadReport {
        LoadReport {
            utilization: Some(utilization),
            rate,
            failure_rate: 0.0,
            age: Duration::ZERO,
            reporting_for: Duration::from_mins(1),
        }
    }

    #[test]
    fn who_does_the_same_with_half_of_its_capacity_has_twice_the_weight() {
        let [slow, fast] = [report(100.0, 0.8), report(100.0, 0.4)];
        // Or nearly so.
        assert_eq!(weights(&[Some(slow), Some(fast)]), Some(vec![698, 1302]));
        // Of the third nothing is known.
        assert_eq!(weights(&[Some(slow), None, Some(fast)]), Some(vec![698, 1000, 1302]));
    }

    #[test]
    fn without_two_reports_of_use_there_are_no_weights() {
        let good = report(100.0, 0.5);
        let mut early = good;
        early.reporting_for = BLACKOUT - Duration::from_nanos(1);
        let mut old = good;
        old.age = USABLE_FOR + Duration::from_nanos(1);
        let mut unknown = good;
        unknown.utilization = None;
        for useless in [None, Some(early), Some(old), Some(unknown), Some(report(0.0, 0.5))] {
            assert_eq!(weights(&[Some(good), useless]), None, "{useless:?}");
        }
        early.reporting_for = BLACKOUT;
        old.age = USABLE_FOR;
        assert_eq!(weights(&[Some(early), Some(old)]), Some(vec![1000, 1000]));
        assert_eq!(weights(&[]), None);
    }

    #[test]
    fn failures_count_as_load_and_no_claim_draws_all_calls() {
        let good = report(100.0, 0.5);
        let mut failing = good;
        failing.failure_rate = 50.0;
        assert_eq!(weights(&[Some(good), Some(failing)]), Some(vec![1302, 698]));
        let liar = report(f64::MAX, 0.0);
        let all = weights(&[Some(good), Some(good), Some(liar)]).unwrap();
        assert_eq!(all, [250, 250, 2500]);
        let idle = report(0.001, 100.0);
        let all = weights(&[Some(good), Some(good), Some(idle)]).unwrap();
        assert_eq!(all, [1429, 1429, 143]);
    }
}
