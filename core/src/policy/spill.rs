//! How many calls stay in the caller's zone, and how many go to others because it is busier than they are.
//!
//! Each client keeps a share, and moves it once a second by what the endpoints report: down while those of its zone are busier than all of them are on average,
//! up while they are not. The load of a zone follows the shares of all its clients one or two seconds later, so a step makes up for a third of what is
//! missing: that converges in five or six seconds, and swings little.
//!
//! Source: Envoy's zone aware routing for the aim (no zone busier than the rest); it counts instances, which says nothing of where the callers are.

use std::time::Duration;

use super::reported::LoadReport;

/// How often a share is moved.
pub const STEP_EVERY: Duration = Duration::from_secs(1);
/// How busy the zone may be, next to the mean of all.
const BUSIER: f64 = 1.15;
/// How much of what is missing a step makes up for, as a power. With a delay of two steps, 0.6 would swing for ever.
const GAIN: f64 = 0.35;
/// The largest step down, and up: from the least share to all of it in 8 s.
const STEPS: (f64, f64) = (0.6, 1.5);
/// The least share: the zone's own endpoints are to be heard of.
const NEAR_MIN: f64 = 0.05;
/// The largest share while the zone is busy enough for it to matter: others are to be heard of.
const NEAR_MAX: f64 = 0.99;
/// With less to do than that part of capacity a zone keeps all its calls.
const FREE: f64 = 0.1;
/// How old a report may be.
const USABLE_FOR: Duration = Duration::from_secs(10);

/// An endpoint, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// It is in the caller's zone.
    pub is_near: bool,
    /// What it can take next to others.
    pub weight: u32,
    /// What it said last.
    pub report: Option<LoadReport>,
}

/// A caller's share of calls that stay in its zone.
#[derive(Clone, Copy, Debug)]
pub struct Spill {
    near: f64,
    is_free: bool,
}

impl Default for Spill {
    fn default() -> Self {
        Self {
            near: 1.0,
            is_free: true,
        }
    }
}

impl Spill {
    /// The share of calls that stay in the zone, from 0 to 1.
    #[must_use]
    pub fn near_share(&self) -> f64 {
        if self.is_free {
            self.near
        } else {
            self.near.min(NEAR_MAX)
        }
    }

    /// Moves the share by what is known now; once per [`STEP_EVERY`].
    pub fn step(&mut self, sites: &[Site]) {
        let Some(loads) = Loads::of(sites) else { return };
        self.is_free = loads.near <= loads.free;
        let missing = if self.is_free {
            f64::INFINITY
        } else {
            BUSIER * loads.all / loads.near
        };
        let step = missing.powf(GAIN).clamp(STEPS.0, STEPS.1);
        self.near = (self.near * step).clamp(NEAR_MIN, 1.0);
    }
}

/// How busy they are on average, in one unit for all.
struct Loads {
    near: f64,
    all: f64,
    /// Up to there nothing spills.
    free: f64,
}

impl Loads {
    /// `None` if nobody of the zone has said anything.
    fn of(sites: &[Site]) -> Option<Self> {
        let reports = || sites.iter().filter_map(|site| Some((site, site.report.filter(|it| it.age <= USABLE_FOR)?)));
        let by_utilization = reports().all(|(_, report)| report.utilization.is_some());
        let load = |site: &Site, report: &LoadReport| match report.utilization.filter(|_| by_utilization) {
            Some(utilization) => utilization,
            None => report.rate / f64::from(site.weight.max(1)),
        };
        let mean = |is_near: bool| {
            let known = reports().filter(|(site, _)| site.is_near == is_near);
            let weighed = known.map(|(site, report)| {
                let weight = f64::from(site.weight.max(1));
                (weight, weight * load(site, &report))
            });
            let (weights, loads) = weighed.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            (weights > 0.0).then(|| loads / weights)
        };
        let near = mean(true)?;
        // Who is given no calls reports nothing: it is free, until it is called and says that it is not.
        let far = mean(false).unwrap_or(0.0);
        let weight = |is_near: bool| -> f64 {
            let ours = sites.iter().filter(|site| site.is_near == is_near);
            ours.map(|site| f64::from(site.weight.max(1))).sum()
        };
        let (near_weight, far_weight) = (weight(true), weight(false));
        Some(Self {
            near,
            all: (near * near_weight + far * far_weight) / (near_weight + far_weight),
            free: if by_utilization { FREE } else { 0.0 },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::{NEAR_MAX, NEAR_MIN, Site, Spill};
    use crate::policy::reported::LoadReport;

    fn said(utilization: Option<f64>, rate: f64) -> LoadReport {
        LoadReport {
            utilization,
            rate,
            failure_rate: 0.0,
            age: Duration::ZERO,
            reporting_for: Duration::ZERO,
        }
    }

    fn sites(near: &[f64], far: &[f64], rates: bool) -> Vec<Site> {
        let site = |is_near: bool, load: &f64| Site {
            is_near,
            weight: 100,
            report: Some(said((!rates).then_some(*load), load * 200.0)),
        };
        let near = near.iter().map(|load| site(true, load));
        near.chain(far.iter().map(|load| site(false, load))).collect()
    }

    /// Two of ten endpoints are in a zone with a part of all clients, and all can take the load `total` by ten; reports come `delay` seconds late. The load of a
    /// near endpoint over the mean, second by second.
    fn run(
        spills: &mut [Spill],
        loads: impl Fn(usize) -> (f64, f64),
        delay: usize,
        rates: bool,
        seconds: usize,
    ) -> Vec<f64> {
        let mut late = VecDeque::new();
        let mut random = fastrand::Rng::with_seed(7);
        (0..seconds)
            .map(|second| {
                let (of_zone, elsewhere) = loads(second);
                let stays: f64 = spills.iter().map(Spill::near_share).sum::<f64>() / spills.len() as f64;
                let near = of_zone * stays / 2.0;
                let far = (of_zone * (1.0 - stays) + elsewhere) / 8.0;
                late.push_back((near, far));
                if late.len() > delay {
                    let (near, far) = late.pop_front().unwrap();
                    for spill in spills.iter_mut() {
                        let mut noisy = |load: f64| load * (0.95 + 0.1 * random.f64());
                        let near: Vec<f64> = (0..2).map(|_| noisy(near)).collect();
                        let far: Vec<f64> = (0..8).map(|_| noisy(far)).collect();
                        spill.step(&sites(&near, &far, rates));
                    }
                }
                near / ((of_zone + elsewhere) / 10.0)
            })
            .collect()
    }

    #[test]
    fn no_zone_is_far_above_the_mean_and_calls_come_back() {
        for (delay, rates) in [(0, false), (1, false), (2, false), (1, true)] {
            let mut spills = [Spill::default(); 5];
            // Half of all clients; after 60 s most of them are gone.
            let loads = |second: usize| if second < 60 { (2.5, 2.5) } else { (0.5, 2.5) };
            let over = run(&mut spills, loads, delay, rates, 80);
            let settled = &over[8 + 4 * delay..60];
            assert!(settled.iter().all(|over| *over < 1.3), "{delay} {rates}: {settled:?}");
            assert!(settled.iter().all(|over| *over > 0.95), "{delay} {rates}: {settled:?}");
            let share = spills[0].near_share();
            assert!(
                (share - NEAR_MAX).abs() < 0.01,
                "{delay} {rates}: {share} after {over:?}"
            );
        }
    }

    #[test]
    fn a_zone_with_little_to_do_keeps_its_calls() {
        let mut spill = Spill::default();
        for _ in 0..20 {
            spill.step(&sites(&[0.09], &[0.01, 0.01], false));
        }
        assert_eq!(spill.near_share(), 1.0);
        for _ in 0..20 {
            spill.step(&sites(&[0.9], &[0.01, 0.01], false));
        }
        assert_eq!(spill.near_share(), NEAR_MIN);
        for _ in 0..8 {
            spill.step(&sites(&[0.05], &[0.9, 0.9], false));
        }
        assert_eq!(spill.near_share(), 1.0);
    }

    #[test]
    fn what_is_not_known_does_not_count() {
        let mut spill = Spill::default();
        let mut none = sites(&[0.9], &[0.9], false);
        none[0].report = None;
        spill.step(&none);
        assert_eq!(spill.near_share(), 1.0);
        // Nothing is known of the others: they are taken for free, and asked that way.
        let mut one = sites(&[0.9], &[0.9], false);
        one[1].report.as_mut().unwrap().age = Duration::from_secs(11);
        spill.step(&one);
        assert!(spill.near_share() < 0.9, "{spill:?}");
    }
}
