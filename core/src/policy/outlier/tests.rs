//! Pools by hand, and in simulations.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::{Ejector, OutlierDetection, ProbeEnd, Reason, SWEEP_EVERY, Standing, Subject};
use crate::policy::load::{Load, Typical, Verdict};
use crate::time;

/// A pool whose calls end as they are told.
struct Pool {
    now: Instant,
    typical: Typical,
    loads: Vec<Load>,
    ejector: Ejector,
    rng: Rng,
    /// Who was ejected, when and why.
    ejected: Vec<(Duration, usize, Reason)>,
    readmitted: Vec<(Duration, usize)>,
    /// What the last call to each came to that asked it.
    probes: Vec<Option<ProbeEnd>>,
    /// The endpoints that are there.
    gone: usize,
    began: Instant,
}

impl Pool {
    fn new(endpoints: usize, policy: OutlierDetection, seed: u64) -> Self {
        let now = time::now();
        Self {
            now,
            began: now,
            typical: Typical::new(now),
            loads: (0..endpoints).map(|_| Load::default()).collect(),
            ejector: Ejector::new(policy),
            rng: Rng::with_seed(seed),
            ejected: Vec::new(),
            readmitted: Vec::new(),
            probes: vec![None; endpoints],
            gone: 0,
        }
    }

    fn call(&mut self, to: usize, verdict: Verdict, takes: Duration) {
        if matches!(self.standing(to), Standing::Ejected { question: Some(_), .. }) {
            self.probes[to] = Some(match verdict {
                Verdict::Answered => ProbeEnd::Well,
                Verdict::Failed | Verdict::Late => ProbeEnd::Badly,
                _ => ProbeEnd::Aside,
            });
        }
        let began = self.loads[to].begin(|| self.now, &self.typical).expect("few are in flight");
        self.loads[to].end(began, began + takes, verdict, &self.typical);
    }

    fn look(&mut self) {
        let subject = |(id, (load, probe)): (u64, (&Load, &mut Option<ProbeEnd>))| Subject {
            id,
            zone: "",
            route: 0,
            probe: probe.take(),
            seen: load.observation(),
        };
        let subjects: Vec<Subject<'_>> =
            (0..).zip(self.loads.iter().zip(&mut self.probes)).skip(self.gone).map(subject).collect();
        let changes = self.ejector.look(self.now, &subjects, || self.rng.f64());
        let at = self.now - self.began;
        let index = |id: u64| usize::try_from(id).expect("few");
        self.ejected.extend(changes.ejected.into_iter().map(|(id, reason)| (at, index(id), reason)));
        self.readmitted.extend(changes.readmitted.into_iter().map(|id| (at, index(id))));
    }

    fn standing(&self, index: usize) -> Standing {
        self.ejector.standing(u64::try_from(index).expect("few"))
    }

    /// Calls at random to those that get any, so many a second to each, for that time; looked at whenever the real one would.
    fn run(&mut self, lasts: Duration, rate: f64, mut ends: impl FnMut(usize, &mut Rng) -> (Verdict, Duration)) {
        let until = self.now + lasts;
        let mut sweep = self.now + SWEEP_EVERY;
        while self.now < until {
            let pause = -(1.0 - self.rng.f64()).ln() / (rate * self.loads.len() as f64);
            self.now += Duration::from_secs_f64(pause);
            let asked = (0..self.loads.len())
                .find(|&index| matches!(self.standing(index), Standing::Ejected { question: Some(_), .. }));
            let is_asking = asked.is_some();
            let mut to = asked.unwrap_or_else(|| self.rng.usize(..self.loads.len()));
            while !is_asking && !matches!(self.standing(to), Standing::InService { .. }) {
                to = self.rng.usize(..self.loads.len());
            }
            let (verdict, takes) = ends(to, &mut self.rng);
            self.call(to, verdict, takes);
            let run = self.loads[to].trouble();
            let due = self.ejector.look_again_at().is_some_and(|at| at <= self.now);
            if self.now >= sweep || run >= self.ejector.worth_a_look() || is_asking || due {
                self.look();
                if self.now >= sweep {
                    sweep = self.now + SWEEP_EVERY;
                }
            }
        }
    }
}

const OK: (Verdict, Duration) = (Verdict::Answered, Duration::from_millis(5));
const FAILED: (Verdict, Duration) = (Verdict::Failed, Duration::from_millis(1));

fn healthy(_: usize, _: &mut Rng) -> (Verdict, Duration) {
    OK
}

#[test]
fn five_failures_in_a_row_are_enough_and_four_are_not() {
    let mut pool = Pool::new(3, OutlierDetection::DEFAULT, 1);
    pool.look();
    for failures in 1..=5 {
        pool.call(0, Verdict::Failed, Duration::ZERO);
        pool.look();
        assert_eq!(pool.ejected.len(), usize::from(failures == 5), "{failures}");
    }
    assert_eq!(pool.ejected[0].2, Reason::Consecutive(5));
    // An answer in between is one.
    for _ in 0..10 {
        pool.call(1, Verdict::Failed, Duration::ZERO);
        pool.call(1, Verdict::Late, Duration::ZERO);
        pool.call(1, Verdict::Answered, Duration::ZERO);
        pool.look();
    }
    assert_eq!(pool.ejected.len(), 1);
}

#[test]
fn never_more_than_half_and_never_the_last() {
    for (endpoints, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4), (10, 5)] {
        let mut pool = Pool::new(endpoints, OutlierDetection::DEFAULT, 1);
        pool.run(Duration::from_secs(15), 50.0, healthy);
        assert_eq!(pool.ejected, []);
        // All fail from one moment on, in turn.
        for _ in 0..5 {
            (0..endpoints).for_each(|index| pool.call(index, Verdict::Failed, Duration::ZERO));
        }
        pool.look();
        assert!(pool.ejected.len() <= most, "{endpoints}: {:?}", pool.ejected);
        // Soon that is seen to be no outlier's fault, and all are called.
        pool.run(Duration::from_secs(3), 50.0, |_, _| FAILED);
        let away = (0..endpoints).filter(|&index| matches!(pool.standing(index), Standing::Ejected { .. })).count();
        assert_eq!(away, 0, "{endpoints}");
    }
}

#[test]
fn who_works_again_comes_back_within_five_seconds_and_costs_a_probe_in_two() {
    for seed in 0..20 {
        let mut pool = Pool::new(10, OutlierDetection::DEFAULT, seed);
        pool.run(Duration::from_secs(5), 100.0, healthy);
        let mut failed = 0;
        pool.run(Duration::from_secs(60), 100.0, |index, _| match index {
            3 => {
                failed += 1;
                FAILED
            }
            _ => OK,
        });
        // Five before it is avoided, and one of 2,000 calls after that.
        assert!(failed <= 5 + 30, "seed {seed}: {failed}");
        assert_eq!(pool.ejected.len(), 1, "seed {seed}: {:?}", pool.ejected);
        let before = pool.now;
        pool.run(Duration::from_secs(5), 100.0, healthy);
        let (at, index) = pool.readmitted[0];
        assert_eq!(index, 3);
        let took = pool.began + at - before;
        assert!(took <= Duration::from_millis(2_500), "seed {seed}: {took:?}");
    }
}

#[test]
fn half_of_the_calls_failing_is_noticed_within_two_seconds() {
    for seed in 0..20 {
        let mut pool = Pool::new(10, OutlierDetection::DEFAULT, seed);
        pool.run(Duration::from_secs(12), 50.0, healthy);
        let before = pool.now - pool.began;
        pool.run(Duration::from_secs(2), 50.0, |index, rng| {
            if index == 7 && rng.bool() { FAILED } else { OK }
        });
        let (at, index, reason) = pool.ejected[0];
        assert!(
            index == 7 && at - before <= Duration::from_secs(2),
            "seed {seed}: {at:?} {reason}"
        );
    }
}

#[test]
fn one_of_ten_calls_failing_everywhere_ejects_nobody() {
    for seed in 0..5 {
        let mut pool = Pool::new(10, OutlierDetection::DEFAULT.latency_factor(5.0), seed);
        pool.run(
            Duration::from_mins(10),
            50.0,
            |_, rng| if rng.f64() < 0.1 { FAILED } else { OK },
        );
        assert_eq!(pool.ejected, [], "seed {seed}");
    }
}

#[test]
fn a_healthy_pool_keeps_everybody() {
    let mut pool = Pool::new(10, OutlierDetection::DEFAULT.latency_factor(5.0), 7);
    // One of a thousand fails, and latencies have a long tail.
    pool.run(Duration::from_mins(20), 20.0, |_, rng| {
        let verdict = if rng.f64() < 0.001 {
            Verdict::Failed
        } else {
            Verdict::Answered
        };
        let millis = 10.0 * (0.8 * (rng.f64() + rng.f64() + rng.f64() + rng.f64() - 2.0) * 1.7).exp();
        let millis = if rng.f64() < 0.002 { 2_000.0 } else { millis };
        (verdict, Duration::from_secs_f64(millis / 1e3))
    });
    assert_eq!(pool.ejected, []);
}

#[test]
fn five_times_as_slow_is_noticed_within_three_seconds_if_asked_for() {
    for (policy, is_ejected) in [
        (OutlierDetection::DEFAULT, false),
        (OutlierDetection::DEFAULT.latency_factor(4.0), true),
    ] {
        for seed in 0..20 {
            let mut pool = Pool::new(10, policy, seed);
            pool.run(Duration::from_secs(12), 20.0, healthy);
            let before = pool.now - pool.began;
            pool.run(Duration::from_secs(3), 20.0, |index, rng| {
                let takes = Duration::from_secs_f64(0.005 * (0.5 + rng.f64()));
                (Verdict::Answered, if index == 2 { takes * 5 } else { takes })
            });
            assert_eq!(
                pool.ejected.len(),
                usize::from(is_ejected),
                "seed {seed}: {:?}",
                pool.ejected
            );
            assert!(pool.ejected.iter().all(|(at, index, _)| *index == 2 && *at - before <= Duration::from_secs(3)));
        }
    }
}

#[test]
fn who_is_ejected_again_and_again_stays_away_for_longer() {
    let mut pool = Pool::new(4, OutlierDetection::DEFAULT, 3);
    pool.look();
    // It answers what it is asked, and fails as soon as it is back.
    let mut away = Vec::new();
    for _ in 0..6 {
        for _ in 0..5 {
            pool.call(0, Verdict::Failed, Duration::ZERO);
        }
        pool.look();
        let since = pool.now;
        while matches!(pool.standing(0), Standing::Ejected { .. }) {
            pool.now += Duration::from_millis(100);
            pool.look();
            if matches!(pool.standing(0), Standing::Ejected { question: Some(_), .. }) {
                pool.call(0, Verdict::Answered, Duration::ZERO);
                pool.look();
            }
        }
        away.push(pool.now - since);
    }
    let growing = away.windows(2).all(|pair| pair[0] < pair[1]);
    assert!(growing && away[5] >= Duration::from_secs(6), "{away:?}");
}

#[test]
fn where_others_go_those_that_are_away_come_back() {
    let mut pool = Pool::new(4, OutlierDetection::DEFAULT, 3);
    pool.look();
    for index in [2, 3] {
        (0..5).for_each(|_| pool.call(index, Verdict::Failed, Duration::ZERO));
        pool.look();
    }
    assert_eq!(pool.ejected.len(), 2);
    // Of three one may be away, of one none.
    for (gone, away) in [(1, 1), (2, 1), (3, 0)] {
        pool.gone = gone;
        pool.look();
        let still = (gone..4).filter(|&index| matches!(pool.standing(index), Standing::Ejected { .. })).count();
        assert_eq!(still, away, "{gone}");
    }
}

#[test]
fn failures_of_before_it_was_connected_do_not_count() {
    let mut pool = Pool::new(3, OutlierDetection::DEFAULT, 3);
    pool.look();
    // It fails and is gone before anybody looks; and back.
    (0..8).for_each(|_| pool.call(0, Verdict::Failed, Duration::ZERO));
    pool.gone = 1;
    pool.look();
    pool.gone = 0;
    pool.look();
    assert_eq!(pool.ejected, []);
    (0..4).for_each(|_| pool.call(0, Verdict::Failed, Duration::ZERO));
    pool.look();
    assert_eq!(pool.ejected, []);
    pool.call(0, Verdict::Failed, Duration::ZERO);
    pool.look();
    assert_eq!(pool.ejected.len(), 1);
}

#[test]
fn all_come_back_when_it_is_switched_off() {
    let mut pool = Pool::new(4, OutlierDetection::DEFAULT, 3);
    pool.look();
    for _ in 0..5 {
        pool.call(0, Verdict::Failed, Duration::ZERO);
    }
    pool.look();
    assert!(matches!(pool.standing(0), Standing::Ejected { question: None, .. }));
    assert!(pool.ejector.reason(0).is_some());
    pool.ejector.set_policy(OutlierDetection::NEVER);
    pool.look();
    assert!(matches!(pool.standing(0), Standing::InService { .. }) && pool.ejector.reason(0).is_none());
}

#[test]
fn after_an_outage_of_all_nobody_is_ejected_for_what_was_during_it() {
    for lasts in [8, 12, 30] {
        for seed in 0..5 {
            let mut pool = Pool::new(10, OutlierDetection::DEFAULT, seed);
            pool.run(Duration::from_secs(15), 50.0, healthy);
            pool.run(Duration::from_secs(lasts), 50.0, |_, _| FAILED);
            let before = pool.ejected.len();
            pool.run(Duration::from_secs(15), 50.0, healthy);
            assert_eq!(pool.ejected[before..], [], "{lasts} s, seed {seed}");
        }
    }
}

#[test]
fn while_few_calls_are_made_and_all_fail_all_are_called() {
    for seed in 0..5 {
        let mut pool = Pool::new(10, OutlierDetection::DEFAULT, seed);
        pool.run(Duration::from_secs(15), 50.0, healthy);
        pool.run(Duration::from_secs(4), 50.0, |_, _| FAILED);
        let before = pool.ejected.len();
        // As a throttle lets through.
        pool.run(Duration::from_secs(30), 0.5, |_, _| FAILED);
        assert_eq!(pool.ejected[before..], [], "seed {seed}");
    }
}

#[test]
fn who_does_not_recover_with_the_others_is_ejected_soon_and_nobody_else() {
    for (seed, left) in (0..5).flat_map(|seed| [(seed, 1), (seed, 3)]) {
        let mut pool = Pool::new(10, OutlierDetection::DEFAULT, seed);
        pool.run(Duration::from_secs(15), 50.0, healthy);
        pool.run(Duration::from_secs(20), 50.0, |_, _| FAILED);
        let (since, before) = (pool.now - pool.began, pool.ejected.len());
        pool.run(
            Duration::from_secs(5),
            50.0,
            |index, _| if index < left { FAILED } else { OK },
        );
        let ejected = &pool.ejected[before..];
        let after = ejected.iter().map(|(at, _, _)| *at - since).max();
        let mut who: Vec<_> = ejected.iter().map(|(_, index, _)| *index).collect();
        who.sort_unstable();
        assert_eq!(who, (0..left).collect::<Vec<_>>(), "seed {seed}: {ejected:?}");
        assert!(after <= Some(Duration::from_millis(2_500)), "seed {seed}: {ejected:?}");
    }
}

/// Where the share of failures is near a half by chance, panic begins and ends again and again.
#[test]
fn half_of_a_pool_that_is_called_little_is_ejected_for_good() {
    for (dead, rate, failed_most) in [(5, 2.0, 0.2), (5, 5.0, 0.09), (3, 5.0, 0.06)] {
        let mut failed_share = 0.0;
        for seed in 0..20 {
            let mut pool = Pool::new(10, OutlierDetection::DEFAULT, seed);
            pool.run(Duration::from_secs(15), rate, healthy);
            let (mut failed, mut all) = (0_u32, 0_u32);
            pool.run(Duration::from_secs(120), rate, |index, _| {
                all += 1;
                failed += u32::from(index < dead);
                if index < dead { FAILED } else { OK }
            });
            assert!(!pool.ejected.is_empty(), "{dead} dead, {rate} a second, seed {seed}");
            failed_share += f64::from(failed) / f64::from(all) / 20.0;
        }
        assert!(
            failed_share < failed_most,
            "{dead} dead, {rate} a second: {failed_share:.3}"
        );
    }
}
