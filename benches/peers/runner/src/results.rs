//! What a run found: every sample, the failures, and the machine.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use load::Cell;
use serde::Serialize;

use crate::contender::PAIRS;
use crate::measure::Figures;
use crate::options::{Mode, Options};
use crate::stats::{lower_quartile, median};

/// A run. Serialized as it is, with the ratios, for the JSON file.
#[derive(Serialize)]
pub(crate) struct Results {
    pub(crate) mode: &'static str,
    pub(crate) quick: bool,
    pub(crate) rounds: usize,
    pub(crate) seconds: f64,
    pub(crate) machine: String,
    pub(crate) samples: Vec<Sample>,
    pub(crate) ratios: Vec<Ratio>,
    pub(crate) failures: Vec<String>,
    pub(crate) void: Option<String>,
    #[serde(skip)]
    pub(crate) cells: Vec<Cell>,
}

/// One contender in one cell in one round.
#[derive(Serialize)]
pub(crate) struct Sample {
    pub(crate) round: usize,
    pub(crate) workload: &'static str,
    pub(crate) concurrency: String,
    pub(crate) peer: &'static str,
    /// Absent if the framework has not got the workload.
    pub(crate) figures: Option<Figures>,
}

/// Two contenders compared round by round.
#[derive(Serialize)]
pub(crate) struct Ratio {
    pub(crate) workload: &'static str,
    pub(crate) concurrency: String,
    pub(crate) pair: String,
    pub(crate) median: f64,
    pub(crate) lower_quartile: f64,
    pub(crate) rounds: usize,
}

impl Sample {
    pub(crate) fn new(round: usize, cell: Cell, peer: &'static str, figures: Option<Figures>) -> Self {
        Self {
            round,
            workload: cell.workload.name(),
            concurrency: cell.concurrency(),
            peer,
            figures,
        }
    }

    fn is_of(&self, cell: Cell, peer: &str) -> bool {
        self.workload == cell.workload.name() && self.concurrency == cell.concurrency() && self.peer == peer
    }
}

impl Figures {
    /// What ratios are taken of: the rate, or for `idle` the server's memory per connection.
    pub(crate) fn score(&self) -> f64 {
        if self.per_second > 0.0 {
            self.per_second
        } else {
            self.server_idle_kib
        }
    }
}

impl Results {
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            mode: options.mode.name(),
            quick: options.quick,
            rounds: options.rounds,
            seconds: options.window.as_secs_f64(),
            machine: machine(),
            samples: Vec::new(),
            ratios: Vec::new(),
            failures: Vec::new(),
            void: None,
            cells: options.cells.clone(),
        }
    }

    /// Computes what follows from the samples and writes all as JSON.
    pub(crate) fn write(&mut self, path: &Path) -> Result<()> {
        let cells = self.cells.iter();
        self.ratios = cells.flat_map(|cell| PAIRS.iter().filter_map(|pair| self.ratio(*cell, *pair))).collect();
        self.void = self.reason_to_void();
        let json = serde_json::to_string_pretty(self)?;
        fs::write(path, json).with_context(|| format!("cannot write {}", path.display()))
    }

    /// The contenders that have a sample, in order of appearance.
    pub(crate) fn peers(&self) -> Vec<&'static str> {
        let mut peers = Vec::new();
        for sample in &self.samples {
            if !peers.contains(&sample.peer) {
                peers.push(sample.peer);
            }
        }
        peers
    }

    /// All figures of a contender in a cell, with their rounds.
    pub(crate) fn figures(&self, cell: Cell, peer: &str) -> Vec<(usize, Figures)> {
        let samples = self.samples.iter().filter(|sample| sample.is_of(cell, peer));
        samples.filter_map(|sample| Some((sample.round, sample.figures?))).collect()
    }

    /// The median of one figure, if there is any sample.
    pub(crate) fn median_of(&self, cell: Cell, peer: &str, figure: impl Fn(&Figures) -> f64) -> Option<f64> {
        median(self.figures(cell, peer).iter().map(|(_, figures)| figure(figures)).collect())
    }

    /// Compares two contenders in the rounds that have both.
    pub(crate) fn ratio(&self, cell: Cell, (over, under): (&str, &str)) -> Option<Ratio> {
        let unders = self.figures(cell, under);
        let ratios: Vec<f64> = self
            .figures(cell, over)
            .iter()
            .filter_map(|(round, figures)| {
                let (_, other) = unders.iter().find(|(other, _)| other == round)?;
                (other.score() > 0.0).then(|| figures.score() / other.score())
            })
            .collect();
        Some(Ratio {
            workload: cell.workload.name(),
            concurrency: cell.concurrency(),
            pair: format!("{over}/{under}"),
            rounds: ratios.len(),
            lower_quartile: lower_quartile(ratios.clone())?,
            median: median(ratios)?,
        })
    }

    /// A run whose `raw` is slow proves nothing about those who are compared with it.
    fn reason_to_void(&self) -> Option<String> {
        if self.mode != Mode::Same.name() {
            return None;
        }
        let judge = self.cells.iter().find(|cell| cell.to_string() == "echo32 64")?;
        [("tarpc", 12.0), ("tonic", 28.0)].into_iter().find_map(|(peer, least)| {
            let ratio = self.ratio(*judge, ("raw", peer))?;
            (ratio.median < least).then(|| {
                format!(
                    "raw is only {:.1} x {peer} on {judge} and not at least {least} x",
                    ratio.median
                )
            })
        })
    }
}

/// CPU model, number of CPUs, kernel.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!(
        "{}, {count} CPUs, Linux {}",
        model.map_or("unknown CPU", |(_, model)| model),
        kernel.trim()
    )
}
