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
    Gradient2,
    Aimd,
    Kratos,
}

pub(crate) const ALL: [(Kind, &str); 7] = [
    (Kind::Sinew, "sinew"),
    (Kind::None, "no limit"),
    (Kind::Fixed, "fixed 32"),
    (Kind::Vegas, "Vegas"),
    (Kind::Gradient2, "Gradient2"),
    (Kind::Aimd, "AIMD"),
    (Kind::Kratos, "kratos BBR"),
];

/// A row: what is measured, by what, and what it should be.
struct Case {
    name: &'static str,
    scene: Scene,
    figure: fn(&Scene, &mut Outcome) -> f64,
    goal: Goal,
}

/// Measures all rows with so many seeds.
pub(crate) fn rows(kinds: &[(Kind, &str)], seeds: u64) -> Vec<Row> {
    let row = |case: &Case| {
        let figure = |kind| (1..=seeds).map(|seed| measure(case, kind, seed)).collect();
        Row {
            name: case.name.to_owned(),
            figures: kinds.iter().map(|(kind, _)| figure(*kind)).collect(),
            goal: case.goal,
        }
    };
    cases().iter().map(row).collect()
}

fn measure(case: &Case, kind: Kind, seed: u64) -> f64 {
    // Any instant is as good as any other.
    let start = sinew_core::time::now();
    let mut limiter = kind.limiter(&case.scene, start, seed);
    let mut outcome = run(&case.scene, &mut *limiter, start, seed);
    (case.figure)(&case.scene, &mut outcome)
}

impl Kind {
    fn limiter(self, scene: &Scene, start: Instant, seed: u64) -> Box<dyn Limiter> {
        match self {
            Self::Sinew => Box::new(Sinew::new(scene.methods, start)),
            Self::None => Box::new(Fixed::new(f64::INFINITY)),
            Self::Fixed => Box::new(Fixed::new(32.0)),
            Self::Vegas => Box::new(Windowed::new(Vegas::new(seed))),
            Self::Gradient2 => Box::new(Windowed::new(Gradient2::new())),
            Self::Aimd => Box::new(Aimd::new()),
            Self::Kratos => Box::new(Kratos::new(scene.workers, start)),
        }
    }
}

fn cases() -> Vec<Case> {
    let mut cases = loads();
    let refused = Goal::AtMost(0.005);
    let none = Goal::AtMost(0.0);
    let p99_after_step = Goal::AtMost(3.0 * ms(P99_UNLOADED));
    let (lognormal, bimodal) = (Work::Lognormal, Work::Bimodal);
    cases.extend([
        Case::new("refused at 0.8", steady(lognormal, 0.8), refused_share, refused),
        Case::new("refused at 0.8, bimodal", steady(bimodal, 0.8), refused_share, refused),
        Case::new("refused, calls twice as long at 0.8", doubled(), refused_share, refused),
        Case::new("goodput at 2, bimodal", steady(bimodal, 2.0), good, Goal::AtLeast(0.95)),
        Case::new("step 0.5 to 3: goodput of 2 s", step(), good, Goal::AtLeast(0.95)),
        Case::new("step 0.5 to 3: p99, ms", step(), p99_ms, p99_after_step),
        Case::new("refused from 1 s after overload on", recovery(), refused_share, refused),
        Case::new("drift of the limit in 10 min at 1.5", long(), drift, Goal::AtMost(0.1)),
        Case::new(
            "three methods, at 2: goodput",
            three_methods(),
            good,
            Goal::AtLeast(0.98),
        ),
        Case::new(
            "three methods, at 2: p99, ms",
            three_methods(),
            p99_ms,
            Goal::AtMost(2.0 * ms(P99_UNLOADED)),
        ),
        Case::new(
            "three methods, at 2: drift in 10 min",
            three_methods(),
            drift,
            Goal::AtMost(0.1),
        ),
        Case::new(
            "three methods, at 2: the least of the most",
            three_methods(),
            evenness,
            Goal::AtLeast(0.8),
        ),
        Case::new("10,000 sleepers of 1 s: refused", sleepers(), refused_count, none),
        Case::new(
            "100 times as long, no line: refused",
            slow_downstream(),
            refused_count,
            none,
        ),
    ]);
    cases
}

/// The same load all the time.
fn loads() -> Vec<Case> {
    let loads = [
        (0.5, "goodput at 0.5 of capacity", "p99 at 0.5, ms"),
        (0.9, "goodput at 0.9", "p99 at 0.9, ms"),
        (1.0, "goodput at 1.0", "p99 at 1.0, ms"),
        (1.2, "goodput at 1.2", "p99 at 1.2, ms"),
        (2.0, "goodput at 2", "p99 at 2, ms"),
        (5.0, "goodput at 5", "p99 at 5, ms"),
        (10.0, "goodput at 10", "p99 at 10, ms"),
    ];
    let cases = loads.map(|(load, goodput, p99)| {
        let scene = || steady(Work::Lognormal, load);
        let least = Goal::AtLeast(if load == 1.0 { 0.96 } else { 0.98 });
        [
            Case::new(goodput, scene(), good, least),
            Case::new(p99, scene(), p99_ms, Goal::AtMost(2.0 * ms(P99_UNLOADED))),
        ]
    });
    cases.into_iter().flatten().collect()
}

impl Case {
    fn new(name: &'static str, scene: Scene, figure: fn(&Scene, &mut Outcome) -> f64, goal: Goal) -> Self {
        Self {
            name,
            scene,
            figure,
            goal,
        }
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

/// How far the mean of the last tenth of the limits is from that of the first.
fn drift(_: &Scene, outcome: &mut Outcome) -> f64 {
    let tenth = outcome.limits.len() / 10;
    let mean = |limits: &[f64]| limits.iter().sum::<f64>() / limits.len() as f64;
    let first = mean(&outcome.limits[..tenth]);
    let last = mean(&outcome.limits[outcome.limits.len() - tenth..]);
    if first.is_finite() {
        (last / first - 1.0).abs()
    } else {
        f64::NAN
    }
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
        rate: |_| 1.0,
        load: load * WORKERS as f64 / work.mean().as_secs_f64(),
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
        rate: |at| if at < 20.0 { 0.5 } else { 3.0 },
        end: secs(23),
        counted: (secs(20), secs(22)),
        ..steady(Work::Lognormal, 1.0)
    }
}

fn recovery() -> Scene {
    Scene {
        rate: |at| if at < 20.0 { 3.0 } else { 0.8 },
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
        rate: |at| if at < 10.0 { 0.5 } else { 2.0 },
        ..Scene {
            end: secs(601),
            counted: (secs(20), secs(600)),
            ..steady(Work::Lognormal, 1.0)
        }
    }
}

/// From cold, with nobody waiting for anybody.
fn sleepers() -> Scene {
    Scene {
        work: Work::Sleep(secs(1)),
        workers: usize::MAX,
        load: 10_000.0,
        end: secs(10),
        counted: (secs(0), secs(10)),
        ..steady(Work::Lognormal, 1.0)
    }
}

fn slow_downstream() -> Scene {
    Scene {
        workers: usize::MAX,
        load: 1_000.0,
        slowness: |at| if at > 10.0 { 100.0 } else { 1.0 },
        end: secs(40),
        counted: (secs(0), secs(40)),
        ..steady(Work::Lognormal, 1.0)
    }
}
