//! How many calls stay in the caller's zone, and how many go to others because it is busier than they are.
//!
//! Each client keeps a share, and moves it once a second by what the endpoints report: down while those of its zone are busier than all of them are on average,
//! up while they are not. The load of a zone follows the shares of all its clients one or two seconds later, so a step makes up for a third of what is
//! missing: that converges in five or six seconds, and swings little.
//!
//! Source: Envoy's zone aware routing for the aim (no zone busier than the rest); it counts instances, which says nothing of where the callers are.

use std::time::Duration;

use super::reported::{LoadReport, load};

/// How often a share is moved.
pub const STEP_EVERY: Duration = Duration::from_secs(1);
/// How busy the zone may be, next to the mean of all.
const BUSIER: f64 = 1.15;
/// And how busy at most, unless all are busier: utilization as processors have it goes no further than 1, so what lies above that does not show.
const BUSY: f64 = 0.9;
/// How much of what is missing a step makes up for, as a power. With a delay of two steps, 0.6 would swing for ever.
const GAIN: f64 = 0.35;
/// The largest step down, and up: from the least share to all of it in 8 s.
const STEPS: (f64, f64) = (0.6, 1.5);
/// The least share: the zone's own endpoints are to be heard of.
const NEAR_MIN: f64 = 0.05;
/// The largest share while the zone is busy enough for it to matter: others are to be heard of.
const NEAR_MAX: f64 = 0.99;
/// The same while nothing is known of the others.
const NEAR_MAX_UNHEARD: f64 = 0.9;
/// With less to do than that part of capacity a zone keeps all its calls.
const FREE: f64 = 0.1;
/// How old a report of the zone may be.
const NEAR_USABLE_FOR: Duration = Duration::from_secs(10);
/// How old one of another zone may be: they are called, and so heard, less.
const FAR_USABLE_FOR: Duration = Duration::from_secs(60);
/// An endpoint that owes answers and has given none for so long counts as full.
const SILENT_AFTER: Duration = Duration::from_secs(10);
/// Or for so many times what its answers take, if that is longer.
const SILENT_LATENCIES: u32 = 3;
/// How many times the middle load one counts for at most, whatever it claims.
const SPREAD_MAX: f64 = 4.0;
/// And at most as a part of capacity.
const UTILIZATION_MAX: f64 = 1.5;

/// An endpoint, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// It is in the caller's zone.
    pub is_near: bool,
    /// What it can take next to others, once it is warm.
    pub weight: u32,
    /// What it said last.
    pub report: Option<LoadReport>,
    /// For how long it has owed the caller answers and given none.
    pub silence: Duration,
    /// How long its answers take.
    pub latency: Duration,
}

impl Site {
    fn is_silent(&self) -> bool {
        self.silence > SILENT_AFTER.max(self.latency.saturating_mul(SILENT_LATENCIES))
    }
}

/// A caller's share of calls that stay in its zone.
#[derive(Clone, Copy, Debug)]
pub struct Spill {
    near: f64,
    is_free: bool,
    hears_far: bool,
}

impl Default for Spill {
    fn default() -> Self {
        Self {
            near: 1.0,
            is_free: true,
            hears_far: true,
        }
    }
}

impl Spill {
    /// The share of calls that stay in the zone, from 0 to 1.
    #[must_use]
    pub fn near_share(&self) -> f64 {
        match (self.is_free, self.hears_far) {
            (true, _) => self.near,
            (false, true) => self.near.min(NEAR_MAX),
            (false, false) => self.near.min(NEAR_MAX_UNHEARD),
        }
    }

    /// Endpoints of the zone are gone, and this part of it, from 0 to 1, is left: it is given no more than its part of what all of it had.
    pub fn shrink(&mut self, left: f64) {
        self.near = (self.near * left.clamp(0.0, 1.0)).max(NEAR_MIN);
    }

    /// Moves the share by what is known now; once per [`STEP_EVERY`].
    pub fn step(&mut self, sites: &[Site]) {
        let Some(loads) = Loads::of(sites) else { return };
        self.is_free = loads.near <= loads.free;
        self.hears_far = loads.far.is_some();
        let missing = match loads.far {
            _ if self.is_free => f64::INFINITY,
            Some(far) => {
                let (of_near, of_far) = (weight_of(sites, true), weight_of(sites, false));
                let all = (loads.near * of_near + far * of_far) / (of_near + of_far);
                (BUSIER * all).min(all.max(loads.busy)) / loads.near
            }
            // Nothing is known to compare with; a tenth of the calls finds out.
            None => 1.0,
        };
        let step = missing.powf(GAIN).clamp(STEPS.0, STEPS.1);
        self.near = (self.near * step).clamp(NEAR_MIN, 1.0);
    }
}

fn weight_of(sites: &[Site], is_near: bool) -> f64 {
    let ours = sites.iter().filter(|site| site.is_near == is_near);
    ours.map(|site| f64::from(site.weight.max(1))).sum()
}

/// How busy they are on average, in one unit for all.
struct Loads {
    near: f64,
    /// `None` if nothing is known.
    far: Option<f64>,
    /// Up to there nothing spills.
    free: f64,
    /// Beyond that something does, unless all are as busy.
    busy: f64,
}

impl Loads {
    /// `None` if nobody of the zone has said anything.
    fn of(sites: &[Site]) -> Option<Self> {
        let reports = || sites.iter().filter_map(|site| site.report);
        let with_utilization = reports().filter(|report| report.utilization.is_some()).count();
        // Those that do not know it are left out, unless they are many.
        let by_utilization = 2 * with_utilization > reports().count();
        let said = |site: &Site| -> Option<f64> {
            let usable_for = if site.is_near { NEAR_USABLE_FOR } else { FAR_USABLE_FOR };
            let report = site.report.filter(|report| report.age <= usable_for)?;
            match by_utilization {
                true => Some(load(&report, report.utilization?)),
                false => Some(load(&report, report.rate / f64::from(site.weight.max(1)))),
            }
        };
        let mut loads: Vec<f64> = sites.iter().filter_map(said).collect();
        loads.sort_by(f64::total_cmp);
        let middle = loads.get(loads.len().saturating_sub(1) / 2).copied();
        let bound = match by_utilization {
            true => middle.map_or(1.0, |middle| (middle * SPREAD_MAX).clamp(1.0, UTILIZATION_MAX)),
            false => middle? * SPREAD_MAX,
        };
        let full = if by_utilization { 1.0 } else { bound };
        let mean = |is_near: bool| {
            let known = sites.iter().filter(|site| site.is_near == is_near).filter_map(|site| {
                let load = if site.is_silent() { full } else { said(site)?.min(bound) };
                let weight = f64::from(site.weight.max(1));
                Some((weight, weight * load))
            });
            let (weights, loads) = known.fold((0.0, 0.0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
            (weights > 0.0).then(|| loads / weights)
        };
        Some(Self {
            near: mean(true)?,
            far: mean(false),
            free: if by_utilization { FREE } else { 0.0 },
            busy: if by_utilization { BUSY } else { f64::INFINITY },
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::time::Duration;

    use super::{NEAR_MAX, NEAR_MAX_UNHEARD, NEAR_MIN, Site, Spill};
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
            silence: Duration::ZERO,
            latency: Duration::ZERO,
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
    fn what_is_not_known_is_found_out() {
        let mut spill = Spill::default();
        let mut none = sites(&[0.9], &[0.9], false);
        none[0].report = None;
        spill.step(&none);
        assert_eq!(spill.near_share(), 1.0);
        // Nothing is known of the others: a part of the calls goes there to find out, and no more.
        let mut one = sites(&[0.9], &[0.9], false);
        one[1].report.as_mut().unwrap().age = Duration::from_secs(61);
        for _ in 0..10 {
            spill.step(&one);
            assert_eq!(spill.near_share(), NEAR_MAX_UNHEARD);
        }
        one[1].report.as_mut().unwrap().age = Duration::from_secs(60);
        spill.step(&one);
        assert_eq!(spill.near_share(), NEAR_MAX);
    }

    /// Neither fast failures nor silence are free capacity.
    #[test]
    fn a_zone_that_fails_or_hangs_loses_its_calls() {
        let mut failing = sites(&[0.02, 0.02], &[0.4; 8], false);
        for site in &mut failing[..2] {
            let report = site.report.as_mut().unwrap();
            report.failure_rate = report.rate;
        }
        let mut silent = sites(&[0.4, 0.4], &[0.4; 8], false);
        silent[..2].iter_mut().for_each(|site| site.silence = Duration::from_secs(11));
        let mut silent_by_rates = sites(&[0.4, 0.4], &[0.4; 8], true);
        silent_by_rates[..2].iter_mut().for_each(|site| site.silence = Duration::from_secs(11));
        for sites in [failing, silent.clone(), silent_by_rates] {
            let mut spill = Spill::default();
            (0..30).for_each(|_| spill.step(&sites));
            assert_eq!(spill.near_share(), NEAR_MIN);
        }
        // Whose answers take as long is not silent.
        silent[..2].iter_mut().for_each(|site| site.latency = Duration::from_secs(4));
        let mut spill = Spill::default();
        (0..30).for_each(|_| spill.step(&silent));
        assert_eq!(spill.near_share(), NEAR_MAX);
        // And others that hang are not free: what went there comes back.
        let mut far = sites(&[0.3, 0.3], &[0.2; 8], false);
        far[2..].iter_mut().for_each(|site| site.silence = Duration::from_secs(11));
        spill.near = 0.1;
        (0..30).for_each(|_| spill.step(&far));
        assert_eq!(spill.near_share(), NEAR_MAX);
    }

    #[test]
    fn a_zone_that_shrinks_is_not_given_what_it_had() {
        let mut spill = Spill::default();
        spill.shrink(1.0);
        assert_eq!(spill.near_share(), 1.0);
        spill.shrink(0.1);
        assert!((spill.near_share() - 0.1).abs() < 1e-9, "{spill:?}");
        // It has its share back by steps, as its load allows.
        spill.step(&sites(&[0.4; 10], &[0.8; 10], false));
        assert!((0.1..0.2).contains(&spill.near_share()), "{spill:?}");
    }

    #[test]
    fn one_that_has_no_more_to_give_is_relieved_and_one_wrong_claim_moves_little() {
        let mut spill = Spill::default();
        (0..10).for_each(|_| spill.step(&sites(&[1.0], &[0.85; 9], false)));
        assert!(spill.near_share() < 0.8, "{spill:?}");
        // Where all are at their end there is nowhere to go.
        let mut full = Spill::default();
        (0..60).for_each(|_| full.step(&sites(&[1.0; 5], &[1.0; 5], false)));
        assert_eq!(full.near_share(), NEAR_MAX);
        // Percent in place of parts, by one of ten.
        let mut claimed = Spill::default();
        let mut near = [0.5; 10];
        near[3] = 75.0;
        claimed.step(&sites(&near, &[0.5; 10], false));
        assert!(claimed.near_share() > 0.9, "{claimed:?}");
    }
}
