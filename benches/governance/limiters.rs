//! Adaptive concurrency: what a server answers in time, and whom it refuses, behind sinew's limiter and those of others.

use std::time::{Duration, Instant};

use crate::rivals::{Aimd, Fixed, Gradient2, Kratos, Sinew, Vegas, Windowed};
use crate::simulator::{Limiter, Outcome, Scene, Work, run};
use crate::table::{Goal, Row};

/// Workers of the service.
const WORKERS: usize = 16;
/// What a call takes at the 99th percentile where nobody is before it (lognormal).
const P99_UNLOADED: Duration = Duration::from_millis(28);

/// Who is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sinew,
    None,
    Fixed,
    Vegas,
    VegasByCall,
    Gradient2,
    Aimd,
    Kratos,
}

pub(crate) const ALL: [(Kind, &str); 8] = [
    (Kind::Sinew, "sinew"),
    (Kind::None, "no limit"),
    (Kind::Fixed, "fixed 32"),
    (Kind::Vegas, "Vegas"),
    (Kind::VegasByCall, "Vegas by call"),
    (Kind::Gradient2, "Gradient2"),
    (Kind::Aimd, "AIMD"),
    (Kind::Kratos, "kratos BBR"),
];

/// A scene, and what is measured in it.
struct Case {
    name: &'static str,
    scene: Scene,
    figures: Vec<Figure>,
}

/// What is measured, how, and what it should be.
struct Figure {
    name: &'static str,
    of: fn(&Scene, &mut Outcome) -> f64,
    goal: Goal,
}

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn rows(kinds: &[(Kind, &str)], seeds: u64, wanted: &str) -> Vec<Row> {
    let cases = cases();
    let cases = cases.iter().filter(|case| case.name.contains(wanted));
    cases.flat_map(|case| case.rows(kinds, seeds)).collect()
}

impl Kind {
    fn limiter(self, scene: &Scene, start: Instant, seed: u64) -> Box<dyn Limiter> {
        match self {
            Self::Sinew => Box::new(Sinew::new(scene.methods, start)),
            Self::None => Box::new(Fixed::new(f64::INFINITY)),
            Self::Fixed => Box::new(Fixed::new(32.0)),
            Self::Vegas => Box::new(Windowed::new(Vegas::new(seed))),
            Self::VegasByCall => Box::new(Windowed::by_call(Vegas::new(seed))),
            Self::Gradient2 => Box::new(Windowed::new(Gradient2::new())),
            Self::Aimd => Box::new(Aimd::new()),
            Self::Kratos => Box::new(Kratos::new(scene.workers, start)),
        }
    }
}

fn cases() -> Vec<Case> {
    let goodput = |least| Figure::new("goodput", good, Goal::AtLeast(least));
    let p99 = |times| Figure::new("p99, ms", p99_ms, Goal::AtMost(times * ms(P99_UNLOADED)));
    let refused = || vec![Figure::new("refused", refused_share, Goal::AtMost(0.005))];
    let refused_none = || vec![Figure::new("refused calls", refused_count, Goal::AtMost(0.0))];
    let even = Figure::new("the least of the most", evenness, Goal::AtLeast(0.8));
    let drift = || Figure::new("drift of the limit", drift, Goal::AtMost(0.1));
    let (lognormal, bimodal) = (Work::Lognormal, Work::Bimodal);
    let at = |name, load, least| Case::new(name, steady(lognormal, load), vec![goodput(least), p99(2.0)]);
    vec![
        at("0.5 of capacity", 0.5, 0.98),
        at("0.9", 0.9, 0.98),
        at("1.0", 1.0, 0.96),
        at("1.2", 1.2, 0.98),
        at("2", 2.0, 0.98),
        at("5", 5.0, 0.98),
        at("10", 10.0, 0.98),
        Case::new("0.8", steady(lognormal, 0.8), refused()),
        Case::new("0.8, bimodal", steady(bimodal, 0.8), refused()),
        Case::new("0.8 since calls take twice as long", doubled(), refused()),
        Case::new("2, bimodal", steady(bimodal, 2.0), vec![goodput(0.95)]),
        Case::new("2 s after a step of 0.5 to 3", step(), vec![goodput(0.95), p99(3.0)]),
        Case::new("0.8, from 1 s after 3", recovery(), refused()),
        Case::new("10 min at 1.5", long(), vec![drift()]),
        Case::new(
            "10 min of three methods at 2",
            three_methods(),
            vec![goodput(0.98), p99(2.0), drift(), even],
        ),
        Case::new(
            "10 min of two methods at 2, one rare",
            rare(),
            vec![goodput(0.97), p99(2.0), drift()],
        ),
        Case::new("2 s at 3, after a minute at 0.01", idle(), vec![goodput(0.95)]),
        Case::new("10,000 sleepers of 1 s", sleepers(), refused_none()),
        Case::new("100 times as long, but no line", slow_downstream(), refused_none()),
    ]
}

impl Case {
    fn new(name: &'static str, scene: Scene, figures: Vec<Figure>) -> Self {
        Self { name, scene, figures }
    }

    fn rows(&self, kinds: &[(Kind, &str)], seeds: u64) -> Vec<Row> {
        let row = |figure: &Figure| Row {
            name: format!("{}: {}", self.name, figure.name),
            figures: vec![Vec::new(); kinds.len()],
            goal: figure.goal,
        };
        let mut rows: Vec<Row> = self.figures.iter().map(row).collect();
        for (at, (kind, _)) in kinds.iter().enumerate() {
            for seed in 1..=seeds {
                // Any instant is as good as any other.
                let start = sinew_core::time::now();
                let mut limiter = kind.limiter(&self.scene, start, seed);
                let mut outcome = run(&self.scene, &mut *limiter, start, seed);
                for (row, figure) in rows.iter_mut().zip(&self.figures) {
                    row.figures[at].push((figure.of)(&self.scene, &mut outcome));
                }
            }
        }
        rows
    }
}

impl Figure {
    fn new(name: &'static str, of: fn(&Scene, &mut Outcome) -> f64, goal: Goal) -> Self {
        Self { name, of, goal }
    }
}

fn good(scene: &Scene, outcome: &mut Outcome) -> f64 {
    let (from, to) = scene.counted;
    outcome.goodput(scene.capacity() * (to - from).as_secs_f64())
}

fn p99_ms(_: &Scene, outcome: &mut Outcome) -> f64 {
    ms(outcome.p99())
}

fn refused_share(_: &Scene, outcome: &mut Outcome) -> f64 {
    outcome.refused_share()
}

fn refused_count(_: &Scene, outcome: &mut Outcome) -> f64 {
    outcome.refused as f64
}

/// What the method that got the fewest answers got of what the one with the most did.
fn evenness(_: &Scene, outcome: &mut Outcome) -> f64 {
    outcome.good_by_method.sort_unstable();
    let answers = || outcome.good_by_method.iter().copied();
    answers().next().unwrap_or_default() as f64 / answers().last().unwrap_or_default() as f64
}

fn drift(_: &Scene, outcome: &mut Outcome) -> f64 {
    outcome.drift()
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Scene {
    /// Calls a second that the service can answer, as it is in the end.
    fn capacity(&self) -> f64 {
        let slowness = (self.slowness)(self.end.as_secs_f64());
        self.workers as f64 / self.work.mean().as_secs_f64() / slowness
    }
}

/// The same load all the time, as times the capacity.
fn steady(work: Work, load: f64) -> Scene {
    Scene {
        work,
        workers: WORKERS,
        methods: 1,
        rare: false,
        rate: load * WORKERS as f64 / work.mean().as_secs_f64(),
        load: |_| 1.0,
        slowness: |_| 1.0,
        end: secs(36),
        counted: (secs(15), secs(35)),
    }
}

fn doubled() -> Scene {
    Scene {
        slowness: |at| if at > 20.0 { 2.0 } else { 1.0 },
        end: secs(51),
        counted: (secs(20), secs(50)),
        ..steady(Work::Lognormal, 0.4)
    }
}

fn step() -> Scene {
    Scene {
        load: |at| if at < 20.0 { 0.5 } else { 3.0 },
        end: secs(23),
        counted: (secs(20), secs(22)),
        ..steady(Work::Lognormal, 1.0)
    }
}

fn recovery() -> Scene {
    Scene {
        load: |at| if at < 20.0 { 3.0 } else { 0.8 },
        end: secs(41),
        counted: (secs(21), secs(40)),
        ..steady(Work::Lognormal, 1.0)
    }
}

fn long() -> Scene {
    Scene {
        end: secs(601),
        counted: (secs(20), secs(600)),
        ..steady(Work::Lognormal, 1.5)
    }
}

/// They wait for the same workers.
fn three_methods() -> Scene {
    Scene {
        methods: 3,
        load: |at| if at < 10.0 { 0.5 } else { 2.0 },
        ..Scene {
            end: secs(601),
            counted: (secs(20), secs(600)),
            ..steady(Work::Lognormal, 1.0)
        }
    }
}

fn rare() -> Scene {
    Scene {
        methods: 2,
        rare: true,
        ..three_methods()
    }
}

/// The first two seconds.
fn idle() -> Scene {
    Scene {
        load: |at| if at < 60.0 { 0.01 } else { 3.0 },
        end: secs(63),
        counted: (secs(60), secs(62)),
        ..steady(Work::Lognormal, 1.0)
    }
}

/// From cold, with nobody waiting for anybody.
fn sleepers() -> Scene {
    Scene {
        work: Work::Sleep(secs(1)),
        workers: usize::MAX,
        rate: 10_000.0,
        end: secs(10),
        counted: (secs(0), secs(10)),
        ..steady(Work::Lognormal, 1.0)
    }
}

fn slow_downstream() -> Scene {
    Scene {
        workers: usize::MAX,
        rate: 1_000.0,
        slowness: |at| if at > 10.0 { 100.0 } else { 1.0 },
        end: secs(40),
        counted: (secs(0), secs(40)),
        ..steady(Work::Lognormal, 1.0)
    }
}
