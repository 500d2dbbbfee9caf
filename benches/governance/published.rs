//! What others come to in the same scene: what they publish, or what a simulation of their published rules gives.

/// By what the name of a row contains, and what it ends with.
const FIGURES: &[(&str, &str, &str)] = &[
    ("0.9 from cold", "goodput", "brpc: 2 s to its full rate"),
    ("10 min at 1.5", "drift of the limit", "Gradient2 1.60, Vegas 0.14"),
    ("0.8, bimodal", "refused", "brpc 0.283, Vegas 0.575"),
    ("0.8 since calls take twice", "refused", "Envoy 0.70, brpc 0.21"),
    ("2 s after a step", "goodput", "Envoy 0.94, brpc 0.87"),
    (
        "10,000 calls a second of 1 s",
        "refused",
        "fixed 32 to AIMD: 0.94 to 1.00",
    ),
    (
        "a minute without any server that works: ",
        "made of one",
        "none 3.00, SRE throttle 2.44, Finagle 1.21, gRPC 1.000",
    ),
    (
        "a minute without any server that works: ",
        "worst second",
        "none, SRE throttle, Finagle 3.00, gRPC 1.003",
    ),
    (
        "the same behind two servers: ",
        "made of one",
        "none 27, 20 % budgets 1.73",
    ),
    (
        "one of ten servers fails: ",
        "answered",
        "gRPC 0.917, bucket 0.9987, no budget 0.9989",
    ),
    ("one of ten servers fails: ", "made of one", "bucket 1.109"),
    ("black hole", "before it is avoided", "Envoy 5, linkerd 7"),
    (
        "black hole, in turn",
        "failed after that",
        "no ejection 0.10, 5 in a row 0.0001",
    ),
    (
        "black hole, by load",
        "failed after that",
        "peak EWMA 0.201, least requests 0.197, go-zero 0.0078, kratos 0.0002",
    ),
    ("black hole", "after it works again", "Envoy, gRPC: 0 for 30 s"),
    (
        "half of the calls fail at one of ten",
        "noticed after, s",
        "gRPC, Envoy: up to 10",
    ),
    ("one of ten takes five times", "noticed after, s", "never"),
    ("all fail from one moment on", "are called", "Envoy: panic below half"),
    (
        "500 before and after the turn",
        "of all seconds",
        "a counter for each second 2.0",
    ),
    (
        "breaker, half of a minute",
        "all are sent again after, s",
        "resilience4j: up to 60",
    ),
    (
        "throttle, a minute",
        "calls that are sent",
        "SRE: what came through within 2 min, twice",
    ),
    (
        "slow replica: ",
        "within 1 s without hedging",
        "peak EWMA 0.999, least requests 0.99",
    ),
    (
        "slow replica, in turn",
        "within 1 s without hedging",
        "round robin 0.95",
    ),
    (
        "slow replica, in turn",
        "99.9 % take without",
        "The Tail at Scale: 24, for 2 % more",
    ),
];

/// What is known of the row of that name.
pub(crate) fn of(row: &str) -> &'static str {
    let is_of = |(scene, figure, _): &&(&str, &str, &str)| row.contains(scene) && row.ends_with(figure);
    FIGURES.iter().find(is_of).map_or("", |(_, _, text)| text)
}

/// Those that belong to none of these rows.
pub(crate) fn unused(rows: &[&str]) -> Vec<&'static str> {
    let is_used =
        |(scene, figure, _): &(&str, &str, &str)| rows.iter().any(|row| row.contains(scene) && row.ends_with(figure));
    FIGURES.iter().filter(|one| !is_used(one)).map(|(scene, _, _)| *scene).collect()
}
