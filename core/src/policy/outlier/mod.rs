//! Which endpoints are so much worse than the others that they get no calls for a while.
//!
//! An endpoint is judged by its own calls next to those of all others, never by itself: where everybody fails, nobody is an outlier, and taking endpoints away would
//! only make it worse. Failures in a row are noticed at once; shares of failures, and latencies, when the windows are looked at. Who was ejected is asked again
//! with single calls of users, and comes back when it has answered some of them, to a share that grows.
//!
//! Source: gRFC A50 and Envoy (consecutive failures, success rate, failure percentage, the cap); thresholds by how likely a healthy endpoint is to meet them.

mod detection;
mod window;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use self::detection::AWAY_MAX;
pub use self::detection::OutlierDetection;
use self::window::Window;
use super::load::Observation;

/// How often the windows are looked at while anything fails.
pub const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// Calls that a share of failures needs to tell something, and of all others that it is compared with.
const CALLS_MIN: u64 = 20;
/// By how much an endpoint fails more often than the others.
const WORSE_BY: f64 = 0.2;
/// In how many standard deviations, and calls beyond: at 2 looks a second, and 100 endpoints, chance does not come to that within years.
const DEVIATIONS: f64 = 6.0;
const CALLS_BEYOND: f64 = 4.0;
/// Calls that a percentage of failures needs.
const PERCENTAGE_CALLS_MIN: u64 = 50;
/// Calls that a latency needs, of every endpoint that is compared.
const LATENCY_CALLS_MIN: u64 = 8;
/// An endpoint is not slow by less than this: schedulers and collectors make such differences.
const SLOWER_BY_MIN: Duration = Duration::from_millis(2);
/// Where more than this share of the calls of those that are left fails, ejecting helps nobody: all are called again.
const PANIC: f64 = 0.5;
/// So long lasts what is more than chance.
const PANIC_LONG: Duration = Duration::from_secs(5);
/// So many calls in a row that failed are an endpoint's own.
const ALL_FAIL_MIN: u64 = 5;
/// The time between two calls of users that ask an ejected endpoint whether it works again; the rest of it is chance, so that clients do not ask together.
const PROBE_EVERY: Duration = Duration::from_secs(2);
const PROBE_JITTER: f64 = 0.2;
/// Calls in a row that it has to answer.
const PROBES: u32 = 3;
/// An endpoint that is ejected again within this time stays away for longer.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30);

/// An endpoint that is ready, as it is judged.
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// Which one it is; never used again for another.
    pub id: u64,
    /// Whose latencies are comparable.
    pub zone: &'a str,
    /// Those that stand in for each other.
    pub route: usize,
    /// What became of the call that asked it, if that has ended since the last look.
    pub probe: Option<ProbeEnd>,
    /// What its calls came to.
    pub seen: Observation,
}

/// What became of a call that asked an ejected endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeEnd {
    /// It was answered.
    Well,
    /// It failed.
    Badly,
    /// That tells nothing: its caller gave up.
    Aside,
}

/// Why an endpoint is ejected.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// So many calls in a row failed.
    Consecutive(u32),
    /// That share of its calls failed, and that of the others'.
    Rate(f64, f64),
    /// That share of its calls failed.
    Percentage(f64),
    /// An answer takes so many times as long as is usual.
    Latency(f64),
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Consecutive(failures) => write!(f, "{failures} calls in a row failed or were late"),
            Self::Rate(own, others) => {
                write!(
                    f,
                    "{:.0} % of its calls failed, {:.0} % of the others'",
                    own * 100.0,
                    others * 100.0
                )
            }
            Self::Percentage(own) => write!(f, "{:.0} % of its calls failed", own * 100.0),
            Self::Latency(factor) => write!(f, "its answers took {factor:.1} times as long as is usual"),
        }
    }
}

/// What a look at the endpoints came to.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Those that get no calls from now on, and why.
    pub ejected: Vec<(u64, Reason)>,
    /// Those that do again.
    pub readmitted: Vec<u64>,
}

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Standing {
    /// It gets its share of calls, that grows since it came back, if it was ejected a short time ago.
    InService {
        /// When it came back.
        since: Option<Instant>,
    },
    /// It gets none, or a single one that asks whether it works again.
    Ejected {
        /// A call may ask it: which question that is, counted from 1.
        question: Option<u32>,
        /// It has answered the last one.
        is_hopeful: bool,
    },
}

/// Judges the endpoints of a pool.
#[derive(Debug)]
pub struct Ejector {
    policy: OutlierDetection,
    hosts: HashMap<u64, Host>,
    swept: Option<Instant>,
    /// Most calls fail everywhere.
    panics_since: Option<Instant>,
}

#[derive(Debug)]
struct Host {
    window: Window,
    place: Place,
    /// How often it was ejected lately.
    times: u32,
    /// Failures when it was seen first, or when it came back: those before are of another time.
    failed_before: u64,
    route: usize,
}

#[derive(Clone, Copy, Debug)]
enum Place {
    InService {
        since: Option<Instant>,
    },
    Away {
        /// When it may be asked next.
        ask_at: Instant,
        /// It is to be asked, or is.
        is_asked: bool,
        /// Questions so far.
        questions: u32,
        /// Calls in a row that it has answered since.
        answered: u32,
        reason: Reason,
    },
}

impl Ejector {
    /// Knows nobody yet.
    #[must_use]
    pub fn new(policy: OutlierDetection) -> Self {
        Self {
            policy,
            hosts: HashMap::new(),
            swept: None,
            panics_since: None,
        }
    }

    /// Takes up another policy; if that ejects nobody, all come back with the next look.
    pub fn set_policy(&mut self, policy: OutlierDetection) {
        self.policy = policy;
    }

    /// Failures in a row with which an endpoint has to be looked at.
    #[must_use]
    pub fn worth_a_look(&self) -> u32 {
        self.policy.consecutive
    }

    /// Whether the windows have to be looked at, though nothing fails.
    #[must_use]
    pub fn needs_sweeps(&self) -> bool {
        self.policy.is_on && self.policy.latency_factor.is_some()
    }

    /// Where an endpoint stands.
    #[must_use]
    pub fn standing(&self, id: u64) -> Standing {
        match self.hosts.get(&id).map(|host| host.place) {
            None => Standing::InService { since: None },
            Some(Place::InService { since }) => Standing::InService { since },
            Some(Place::Away {
                is_asked,
                questions,
                answered,
                ..
            }) => Standing::Ejected {
                question: is_asked.then_some(questions),
                is_hopeful: answered > 0,
            },
        }
    }

    /// Why an endpoint is ejected, if it is.
    #[must_use]
    pub fn reason(&self, id: u64) -> Option<Reason> {
        match self.hosts.get(&id)?.place {
            Place::Away { reason, .. } => Some(reason),
            Place::InService { .. } => None,
        }
    }

    /// Judges all endpoints that are ready. `random` gives numbers that are uniform in 0..1.
    pub fn look(&mut self, now: Instant, subjects: &[Subject<'_>], mut random: impl FnMut() -> f64) -> Changes {
        let mut changes = Changes::default();
        let ready: HashSet<u64> = subjects.iter().map(|subject| subject.id).collect();
        self.hosts.retain(|id, _| ready.contains(id));
        for subject in subjects {
            let host = self.hosts.entry(subject.id).or_insert_with(|| Host::new(now, subject.seen));
            host.route = subject.route;
            host.window.see(now, subject.seen);
        }
        if !self.policy.is_on {
            self.readmit_all(now, &mut changes);
            return changes;
        }
        self.hear_probes(now, subjects, &mut random, &mut changes);
        self.keep_cap(now, &mut changes);
        let is_due = self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_EVERY);
        let mut all = self.together();
        if is_due {
            self.swept = Some(now);
            self.sweep_panic(&all, now, &mut changes);
            all = self.together();
        }
        if self.panics_since.is_some() {
            return changes;
        }
        let usual = self.policy.latency_factor.filter(|_| is_due).map(|_| self.usual_latencies(subjects));
        let judged = subjects.iter().filter_map(|subject| {
            let reason = self.judge(subject, &all, is_due).or_else(|| self.judge_latency(subject, usual.as_ref()?))?;
            Some((subject.id, reason))
        });
        for (id, reason) in judged.collect::<Vec<_>>() {
            if self.may_eject(id) {
                self.eject(id, reason, now, random());
                changes.ejected.push((id, reason));
            }
        }
        changes
    }

    /// When to look again, though nothing fails; `None` if there is nothing to look at before the next call.
    #[must_use]
    pub fn look_again_at(&self) -> Option<Instant> {
        self.hosts
            .values()
            .filter_map(|host| match host.place {
                Place::Away {
                    ask_at,
                    is_asked: false,
                    ..
                } => Some(ask_at),
                Place::Away { .. } | Place::InService { .. } => None,
            })
            .min()
    }

    /// Where most calls fail, nobody is left out; when they do no more, what was before is forgotten.
    fn sweep_panic(&mut self, all: &Together, now: Instant, changes: &mut Changes) {
        // It takes many calls to tell that most fail, and a few that they still do: a throttle may leave no more.
        let tells = if self.panics_since.is_some() { 1 } else { CALLS_MIN };
        let panics = match all.short.ended >= tells {
            true => all.short.share() > PANIC,
            false => self.panics_since.is_some(),
        };
        if panics {
            self.panics_since.get_or_insert(now);
            self.readmit_all(now, changes);
            return;
        }
        let Some(since) = self.panics_since.take() else { return };
        // Where little is called, and about half fails, chance begins and ends it: then nothing is forgotten, or what is ill would never be found.
        if now.saturating_duration_since(since) >= PANIC_LONG {
            // It was no single one's fault, and must not leave out half of those that are well again; but whose calls all still fail is none of them.
            let recovers = |host: &&mut Host| {
                let short = host.window.short();
                short.ended < ALL_FAIL_MIN || short.failed < short.ended
            };
            self.hosts.values_mut().filter(recovers).for_each(|host| host.forget(now));
        }
    }

    fn readmit_all(&mut self, now: Instant, changes: &mut Changes) {
        for (id, host) in &mut self.hosts {
            if let Place::Away { .. } = host.place {
                host.readmit(now);
                changes.readmitted.push(*id);
            }
        }
    }

    /// Where too many of those that stand in for each other are away, because others have gone, the one that has answered most comes back.
    fn keep_cap(&mut self, now: Instant, changes: &mut Changes) {
        let routes: HashSet<usize> = self.hosts.values().map(|host| host.route).collect();
        for route in routes {
            while self.away_and_most(route).is_some_and(|(away, most)| away > most) {
                let away = self.hosts.iter_mut().filter(|(_, host)| host.route == route);
                let best = away.max_by_key(|(_, host)| match host.place {
                    Place::Away { answered, ask_at, .. } => Some((answered, std::cmp::Reverse(ask_at))),
                    Place::InService { .. } => None,
                });
                let Some((id, host)) = best else { break };
                host.readmit(now);
                changes.readmitted.push(*id);
            }
        }
    }

    /// How many of a route are away, and how many may be.
    fn away_and_most(&self, route: usize) -> Option<(usize, usize)> {
        let ready = self.hosts.values().filter(|host| host.route == route).count();
        let away = self.hosts.values().filter(|host| host.route == route && host.is_away()).count();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a share of a count"
        )]
        let share = (ready as f64 * self.policy.max_ejected) as usize;
        Some((away, share.max(1).min(ready.checked_sub(1)?)))
    }

    /// Those that were asked may have answered.
    fn hear_probes(
        &mut self,
        now: Instant,
        subjects: &[Subject<'_>],
        random: &mut impl FnMut() -> f64,
        changes: &mut Changes,
    ) {
        for subject in subjects {
            let Some(host) = self.hosts.get_mut(&subject.id) else {
                continue;
            };
            let Place::Away {
                ask_at,
                is_asked,
                questions,
                answered,
                ..
            } = &mut host.place
            else {
                continue;
            };
            if let Some(end) = subject.probe.filter(|_| *is_asked) {
                *is_asked = false;
                *ask_at = match end {
                    ProbeEnd::Well => now,
                    ProbeEnd::Badly | ProbeEnd::Aside => now + probe_pause(random()),
                };
                match end {
                    ProbeEnd::Well => *answered += 1,
                    ProbeEnd::Badly => *answered = 0,
                    ProbeEnd::Aside => {}
                }
            }
            if *answered >= PROBES {
                host.readmit(now);
                changes.readmitted.push(subject.id);
            } else if !*is_asked && now >= *ask_at {
                *is_asked = true;
                *questions += 1;
            }
        }
    }

    /// Whether one that is in service fails too much to be.
    fn judge(&self, subject: &Subject<'_>, all: &Together, is_due: bool) -> Option<Reason> {
        let host = self.in_service(subject.id)?;
        // Those of before it was connected, or was away, do not count.
        let lately = subject.seen.failed.saturating_sub(host.failed_before);
        let run = subject.seen.consecutive.min(u32::try_from(lately).unwrap_or(u32::MAX));
        let others = all.without(&host.window);
        if run >= self.policy.consecutive {
            let shares = [others.newest, others.short, others.long].map(Tally::share);
            if run >= self.policy.consecutive_next_to(shares.into_iter().fold(0.0, f64::max)) {
                return Some(Reason::Consecutive(run));
            }
        }
        if !is_due {
            return None;
        }
        let long = host.window.long();
        if long.ended >= PERCENTAGE_CALLS_MIN && long.share() >= self.policy.failure_share {
            return Some(Reason::Percentage(long.share()));
        }
        let windows = [(host.window.short(), others.short), (long, others.long)];
        windows
            .into_iter()
            .filter(|_| self.policy.success_rate)
            .find_map(|(own, others)| judge_rate(own, others))
    }

    fn judge_latency(&self, subject: &Subject<'_>, usual: &HashMap<&str, Duration>) -> Option<Reason> {
        let own = self.in_service(subject.id)?.window.latency(LATENCY_CALLS_MIN)?;
        let usual = *usual.get(subject.zone)?;
        let is_slow = own > usual.mul_f64(self.policy.latency_factor?) && own > usual + SLOWER_BY_MIN;
        is_slow.then(|| Reason::Latency(own.as_secs_f64() / usual.as_secs_f64()))
    }

    /// What is usual in each zone; of two endpoints that of the quicker one.
    fn usual_latencies<'s>(&self, subjects: &[Subject<'s>]) -> HashMap<&'s str, Duration> {
        let mut by_zone: HashMap<&str, Vec<Duration>> = HashMap::new();
        for subject in subjects {
            let latency = self.in_service(subject.id).and_then(|host| host.window.latency(LATENCY_CALLS_MIN));
            by_zone.entry(subject.zone).or_default().extend(latency);
        }
        let median = |(zone, mut latencies): (&'s str, Vec<Duration>)| {
            latencies.sort_unstable();
            Some((zone, *latencies.get(latencies.len().saturating_sub(1) / 2)?))
        };
        by_zone.into_iter().filter_map(median).collect()
    }

    fn in_service(&self, id: u64) -> Option<&Host> {
        self.hosts.get(&id).filter(|host| !host.is_away())
    }

    /// What came of the calls to all that are in service.
    fn together(&self) -> Together {
        let left = self.hosts.values().filter(|host| !host.is_away());
        left.fold(Together::default(), |all, host| all.with(&host.window))
    }

    /// Whether one more may go.
    fn may_eject(&self, id: u64) -> bool {
        let route = self.hosts.get(&id).map_or(0, |host| host.route);
        self.away_and_most(route).is_some_and(|(away, most)| away < most)
    }

    fn eject(&mut self, id: u64, reason: Reason, now: Instant, random: f64) {
        let Some(host) = self.hosts.get_mut(&id) else { return };
        let Place::InService { since } = host.place else { return };
        let is_again = since.is_some_and(|since| now.saturating_duration_since(since) < FORGIVEN_AFTER);
        host.times = if is_again { host.times + 1 } else { 1 };
        let away = self.policy.ejection_time.saturating_mul(host.times).min(AWAY_MAX);
        host.place = Place::Away {
            ask_at: now + away.mul_f64(1.0 + PROBE_JITTER * random),
            is_asked: false,
            questions: 0,
            answered: 0,
            reason,
        };
    }
}

impl Host {
    fn new(now: Instant, seen: Observation) -> Self {
        Self {
            window: Window::new(now, seen),
            place: Place::InService { since: None },
            times: 0,
            failed_before: seen.failed,
            route: 0,
        }
    }

    fn is_away(&self) -> bool {
        matches!(self.place, Place::Away { .. })
    }

    /// It is called again, and what was before does not count.
    fn readmit(&mut self, now: Instant) {
        self.place = Place::InService { since: Some(now) };
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        self.failed_before = self.window.seen().failed;
        self.window.restart(now, self.window.seen());
    }
}

/// Calls within a window.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    ended: u64,
    failed: u64,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            ended: self.ended + other.ended,
            failed: self.failed + other.failed,
        }
    }

    fn but(self, other: Self) -> Self {
        Self {
            ended: self.ended.saturating_sub(other.ended),
            failed: self.failed.saturating_sub(other.failed),
        }
    }

    /// The share of failures.
    fn share(self) -> f64 {
        if self.ended == 0 {
            return 0.0;
        }
        self.failed.min(self.ended) as f64 / self.ended as f64
    }
}

/// Calls of all endpoints within each window.
#[derive(Clone, Copy, Debug, Default)]
struct Together {
    newest: Tally,
    short: Tally,
    long: Tally,
}

impl Together {
    fn with(self, window: &Window) -> Self {
        Self {
            newest: self.newest.and(window.newest()),
            short: self.short.and(window.short()),
            long: self.long.and(window.long()),
        }
    }

    fn without(&self, window: &Window) -> Self {
        Self {
            newest: self.newest.but(window.newest()),
            short: self.short.but(window.short()),
            long: self.long.but(window.long()),
        }
    }
}

/// Whether one fails more often than the others, and by more than chance explains.
fn judge_rate(own: Tally, others: Tally) -> Option<Reason> {
    if own.ended < CALLS_MIN || others.ended < CALLS_MIN {
        return None;
    }
    let (calls, share) = (own.ended as f64, others.share());
    let chance = calls * share + DEVIATIONS * (calls * share * (1.0 - share)).sqrt() + CALLS_BEYOND;
    let is_worse = own.failed as f64 > chance && own.share() > share + WORSE_BY;
    is_worse.then(|| Reason::Rate(own.share(), share))
}

fn probe_pause(random: f64) -> Duration {
    PROBE_EVERY.mul_f64(1.0 + PROBE_JITTER * random)
}

#[cfg(test)]
mod tests;
