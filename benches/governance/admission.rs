//! Adaptive concurrency and priorities in the real server.

use std::time::Duration;

use crate::server::{Bottleneck, CAPACITY, Traffic, run};
use crate::simulator::{DEADLINE, Outcome, Work};
use crate::table::{Goal, Row};

const PLACES: [(Bottleneck, &str); 3] = [
    (Bottleneck::Pool, "a pool"),
    (Bottleneck::Downstream, "downstream"),
    (Bottleneck::Processor, "the processor"),
];

/// Where a refusal does not wait for the processor.
const ELSEWHERE: &[(Bottleneck, &str)] = PLACES.split_at(2).0;
const PROCESSOR: &[(Bottleneck, &str)] = PLACES.split_at(2).1;
const NOWHERE: &[(Bottleneck, &str)] = &[(Bottleneck::Nothing, "nothing runs short")];

/// What is measured of what comes.
struct Case {
    name: &'static str,
    /// Of calls that come, what runs short is filled in.
    traffic: Traffic,
    places: &'static [(Bottleneck, &'static str)],
    figures: Vec<Figure>,
    /// It does not take too long.
    is_for_tests: bool,
}

struct Figure {
    name: &'static str,
    of: fn(&Traffic, &mut Outcome) -> f64,
    goal: Goal,
}

/// Measures what has `wanted` in its name with so many seeds; `all` of it, or all but what takes long.
pub(crate) fn rows(seeds: u64, wanted: &str, all: bool) -> Vec<Row> {
    let cases = cases();
    let mut rows = Vec::new();
    for case in cases.iter().filter(|case| all || case.is_for_tests) {
        for (bottleneck, place) in case.places {
            let named = format!("{}, {place}", case.name);
            if named.contains(wanted) {
                rows.extend(case.rows(&named, *bottleneck, seeds));
            }
        }
    }
    rows
}

/// How much longer than others those take of which one of five takes 50 ms, and the others 2.
const LONGER: f64 = 1.16;

/// What callers wait for by default.
const DEADLINE_LONG: Duration = Duration::from_secs(10);

fn cases() -> Vec<Case> {
    let mut cases = hurried();
    cases.extend(varied());
    cases.extend(over_time());
    cases.extend(patient());
    cases.extend(idle());
    cases
}

/// Ten seconds of as many calls, after fifteen to get there.
fn steady(load: fn(f64) -> f64) -> Traffic {
    Traffic {
        bottleneck: Bottleneck::Pool,
        load,
        deadline: DEADLINE,
        in_turn: 0,
        work: Work::Lognormal,
        streams: false,
        slowness: |_| 1.0,
        stops: (0.0, 0.0),
        critical: 0.0,
        refusal: 0.0,
        end: Duration::from_secs(25),
        counted: (Duration::from_secs(15), Duration::from_secs(25)),
    }
}

/// Callers with 250 ms.
fn hurried() -> Vec<Case> {
    let goodput = |least| Figure::new("goodput", good, Goal::AtLeast(least));
    let p99 = |most| Figure::new("p99, ms", p99_ms, Goal::AtMost(most));
    let refused = || Figure::new("refused", refused_share, Goal::AtMost(0.005));
    let served = Figure::new("of the critical", good_share, Goal::AtLeast(0.999));
    let seconds = Duration::from_secs;
    let step = Traffic {
        end: seconds(17),
        counted: (seconds(15), seconds(17)),
        ..steady(|at| if at < 15.0 { 0.5 } else { 3.0 })
    };
    let recovery = Traffic {
        counted: (seconds(16), seconds(25)),
        ..steady(|at| if at < 15.0 { 3.0 } else { 0.8 })
    };
    let critical = Traffic {
        critical: 0.3,
        ..steady(|_| 3.0)
    };
    let costly = Traffic {
        refusal: 0.02,
        ..steady(|_| 10.0)
    };
    let told_no = |places, figures| Case {
        places,
        ..case("3", steady(|_| 3.0), figures)
    };
    vec![
        case("0.5 of capacity", steady(|_| 0.5), vec![goodput(0.98), p99(56.0)]),
        case("0.9", steady(|_| 0.9), vec![goodput(0.98), p99(56.0)]),
        case("1.0", steady(|_| 1.0), vec![goodput(0.96)]),
        case("1.2", steady(|_| 1.2), vec![goodput(0.98), p99(56.0)]),
        case("2", steady(|_| 2.0), vec![goodput(0.98), p99(56.0)]),
        case("5", steady(|_| 5.0), vec![goodput(0.98), p99(56.0)]),
        Case {
            is_for_tests: false,
            ..case("10", steady(|_| 10.0), vec![goodput(0.98), p99(56.0)])
        },
        told_no(&PLACES, vec![health()]),
        told_no(ELSEWHERE, vec![no_within(10.0)]),
        // A refusal waits for the handlers before it, as an answer does: it is missed.
        Case {
            is_for_tests: false,
            ..told_no(PROCESSOR, vec![no_within(10.0)])
        },
        case("0.8", steady(|_| 0.8), vec![refused()]),
        case("2 s after a step of 0.5 to 3", step, vec![goodput(0.95), p99(84.0)]),
        case("0.8, from 1 s after 3", recovery, vec![refused()]),
        case("3, three of ten critical", critical, vec![served, p99(84.0)]),
        Case {
            places: PROCESSOR,
            ..case("10, a refusal takes 2 % of a call", costly, vec![goodput(0.8)])
        },
    ]
}

/// The same, where calls take other times.
fn varied() -> Vec<Case> {
    let refused = || Figure::new("refused", refused_share, Goal::AtMost(0.005));
    let seconds = Duration::from_secs;
    let bimodal = |load| Traffic {
        work: Work::Bimodal,
        ..steady(load)
    };
    let of_longer = Figure::new("goodput", good_of_longer, Goal::AtLeast(0.95));
    let doubled = Traffic {
        slowness: |at| if at < 10.0 { 1.0 } else { 2.0 },
        counted: (seconds(10), seconds(25)),
        ..steady(|_| 0.4)
    };
    vec![
        case("0.8, bimodal", bimodal(|_| 0.8 / LONGER), vec![refused()]),
        case("2, bimodal", bimodal(|_| 2.0 / LONGER), vec![of_longer]),
        case("0.8 since calls take twice as long", doubled, vec![refused()]),
    ]
}

/// A long time at a stretch, after a long time of nothing, and the first moment.
fn over_time() -> Vec<Case> {
    let seconds = Duration::from_secs;
    let goodput = |least| Figure::new("goodput", good, Goal::AtLeast(least));
    let drift = Figure::new("drift of the limit", drift, Goal::AtMost(0.1));
    let long = Traffic {
        end: seconds(601),
        counted: (seconds(20), seconds(600)),
        ..steady(|_| 1.5)
    };
    let rested = Traffic {
        end: seconds(62),
        counted: (seconds(60), seconds(62)),
        ..steady(|at| if at < 60.0 { 0.01 } else { 3.0 })
    };
    let cold = Traffic {
        end: seconds(2),
        counted: (seconds(1), seconds(2)),
        ..steady(|_| 0.9)
    };
    let refused = Figure::new("refused", refused_share, Goal::AtMost(0.005));
    vec![
        Case {
            is_for_tests: false,
            ..case("10 min at 1.5", long, vec![goodput(0.98), drift])
        },
        case("2 s at 3, after a minute at 0.01", rested, vec![goodput(0.95)]),
        case("0.9 from cold, in its 2nd second", cold, vec![goodput(0.98), refused]),
    ]
}

/// Calls that take long, and wait for nobody.
fn idle() -> Vec<Case> {
    let seconds = Duration::from_secs;
    let from_cold = |takes, end, load: fn(f64) -> f64| Traffic {
        work: Work::Sleep(takes),
        deadline: seconds(40),
        end,
        counted: (Duration::ZERO, end),
        ..steady(load)
    };
    let sleepers = from_cold(seconds(1), seconds(5), |_| 10_000.0 / CAPACITY);
    let streams = Traffic {
        streams: true,
        ..sleepers
    };
    let polls = from_cold(seconds(30), seconds(60), |_| 200.0 / CAPACITY);
    let slow = Traffic {
        work: Work::Lognormal,
        slowness: |at| if at > 10.0 { 100.0 } else { 1.0 },
        ..from_cold(seconds(1), seconds(40), |_| 1_000.0 / CAPACITY)
    };
    let case = |name, traffic| Case {
        places: NOWHERE,
        ..case(name, traffic, vec![none_refused(), goodput_whole()])
    };
    vec![
        case("10,000 calls a second of 1 s", sleepers),
        case("10,000 streams a second of 1 s", streams),
        case("200 long polls a second of 30 s", polls),
        case("1,000 a second, which begin to take 100 times as long", slow),
    ]
}

/// Callers with 10 s, whose calls may wait for a while.
fn patient() -> Vec<Case> {
    let seconds = Duration::from_secs;
    let traffic = |load| Traffic {
        deadline: DEADLINE_LONG,
        ..steady(load)
    };
    let refused = || Figure::new("refused", refused_share, Goal::AtMost(0.005));
    let refused_none = || Figure::new("refused", refused_share, Goal::AtMost(0.0));
    let goodput = || Figure::new("goodput", good, Goal::AtLeast(0.98));
    let p99 = |most| Figure::new("p99, ms", p99_ms, Goal::AtMost(most));
    // 1.5 s of work.
    let burst = Traffic {
        counted: (seconds(15), seconds(20)),
        ..traffic(|at| if (15.0..15.01).contains(&at) { 150.0 } else { 0.8 })
    };
    let in_turn = Traffic {
        in_turn: 800,
        ..traffic(|_| 0.0)
    };
    let stop = Traffic {
        stops: (15.0, 15.3),
        ..traffic(|_| 0.8)
    };
    let stop_full = Traffic {
        stops: (13.0, 13.15),
        ..traffic(|_| 3.0)
    };
    vec![
        case("10 s, 0.8 and 2,400 within 10 ms", burst, vec![refused(), p99(2_500.0)]),
        case(
            "10 s, 800 callers with a call each",
            in_turn,
            vec![refused_none(), goodput()],
        ),
        case("10 s, 0.8", traffic(|_| 0.8), vec![refused(), p99(56.0)]),
        Case {
            // Who has no processor for that long cannot tell.
            places: ELSEWHERE,
            ..case("10 s, 0.8, nothing for 0.3 s", stop, vec![refused()])
        },
        Case {
            places: ELSEWHERE,
            ..case("10 s, 3, nothing for 0.15 s", stop_full, vec![goodput(), p99(84.0)])
        },
        case("10 s, 1.2", traffic(|_| 1.2), vec![goodput()]),
        Case {
            places: ELSEWHERE,
            ..case("10 s, 3", traffic(|_| 3.0), vec![goodput(), p99(84.0), no_within(10.0)])
        },
        Case {
            places: PROCESSOR,
            ..case("10 s, 3", traffic(|_| 3.0), vec![goodput(), p99(84.0)])
        },
    ]
}

fn no_within(most: f64) -> Figure {
    Figure::new("99 % of refusals within, ms", no_ms, Goal::AtMost(most))
}

fn health() -> Figure {
    Figure::new("of health checks", health_share, Goal::AtLeast(1.0))
}

fn none_refused() -> Figure {
    Figure::new("refused", refused_share, Goal::AtMost(0.0))
}

fn goodput_whole() -> Figure {
    Figure::new("answered", good_share, Goal::AtLeast(1.0))
}

/// Of all three forms.
fn case(name: &'static str, traffic: Traffic, figures: Vec<Figure>) -> Case {
    Case {
        name,
        traffic,
        places: &PLACES,
        figures,
        is_for_tests: true,
    }
}

impl Case {
    fn rows(&self, named: &str, bottleneck: Bottleneck, seeds: u64) -> Vec<Row> {
        let row = |figure: &Figure| Row {
            name: format!("{named}: {}", figure.name),
            figures: vec![Vec::new()],
            goal: figure.goal,
        };
        let mut rows: Vec<Row> = self.figures.iter().map(row).collect();
        let traffic = Traffic {
            bottleneck,
            ..self.traffic
        };
        for seed in 1..=seeds {
            let mut outcome = run(traffic, seed);
            for (row, figure) in rows.iter_mut().zip(&self.figures) {
                row.figures[0].push((figure.of)(&traffic, &mut outcome));
            }
        }
        rows
    }
}

impl Figure {
    fn new(name: &'static str, of: fn(&Traffic, &mut Outcome) -> f64, goal: Goal) -> Self {
        Self { name, of, goal }
    }
}

fn good(traffic: &Traffic, outcome: &mut Outcome) -> f64 {
    let (from, to) = traffic.counted;
    outcome.goodput(CAPACITY * (to - from).as_secs_f64())
}

/// Calls that take longer: there is less capacity for them.
fn good_of_longer(traffic: &Traffic, outcome: &mut Outcome) -> f64 {
    let (from, to) = traffic.counted;
    outcome.goodput(CAPACITY / LONGER * (to - from).as_secs_f64())
}

fn p99_ms(_: &Traffic, outcome: &mut Outcome) -> f64 {
    outcome.p99().as_secs_f64() * 1e3
}

fn no_ms(_: &Traffic, outcome: &mut Outcome) -> f64 {
    outcome.refused_p99().as_secs_f64() * 1e3
}

fn refused_share(_: &Traffic, outcome: &mut Outcome) -> f64 {
    outcome.refused_share()
}

fn drift(_: &Traffic, outcome: &mut Outcome) -> f64 {
    outcome.drift()
}

fn health_share(_: &Traffic, outcome: &mut Outcome) -> f64 {
    outcome.health.0 as f64 / outcome.health.1 as f64
}

fn good_share(_: &Traffic, outcome: &mut Outcome) -> f64 {
    outcome.good as f64 / outcome.offered as f64
}
