//! The lines that a client, a server and the runner exchange over stdin and stdout.
//!
//! A server prints `LISTENING <port>` and then answers every line on its stdin with one line, a [`Usage`] as JSON; it
//! ends when its stdin does. A client prints `MARK` at both ends of its window, so that the runner asks the server at
//! those moments, and last a [`Client`] as JSON. In `idle` it keeps its connections until its stdin ends.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// First word of the line that a server prints once it listens; its port follows.
pub const READY: &str = "LISTENING";
/// Line that a client prints when its window begins, and again when it ends.
pub const MARK: &str = "MARK";

/// What a process had used at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Time since the process began to watch itself; makes a late answer harmless, as rates are taken between two.
    pub at: Duration,
    /// CPU time, user and system, of all threads.
    pub cpu: Duration,
    /// Resident memory.
    pub rss_kib: u64,
    /// Largest resident memory so far.
    pub peak_rss_kib: u64,
}

/// What a client measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// False if the framework cannot do this workload; the rest is then zero.
    pub offered: bool,
    /// Calls, items or round trips per second; for `idle` the client's memory per connection in KiB.
    pub per_second: f64,
    /// Median latency in us; zero for `stream` and `idle`.
    pub p50_us: f64,
    /// 99th percentile of the latency in us; zero for `stream` and `idle`.
    pub p99_us: f64,
    /// CPU of the client per call in us.
    pub cpu_us: f64,
}

impl Usage {
    /// CPUs in use since `earlier`: 1.0 is one CPU all the time.
    pub fn cpus_since(&self, earlier: &Self) -> f64 {
        let span = self.at.saturating_sub(earlier.at).as_secs_f64();
        let cpu = self.cpu.saturating_sub(earlier.cpu).as_secs_f64();
        if span > 0.0 { cpu / span } else { 0.0 }
    }
}

impl Client {
    /// The report of a client whose framework has not got the workload.
    pub fn not_offered() -> Self {
        Self {
            offered: false,
            per_second: 0.0,
            p50_us: 0.0,
            p99_us: 0.0,
            cpu_us: 0.0,
        }
    }
}
