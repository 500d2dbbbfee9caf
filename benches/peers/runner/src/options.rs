//! The command line of the runner.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use load::{Cell, Workload};

/// Where the two processes run. Figures compare only within one mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Both on CPU 0: throughput is one over the CPU time per call of both sides.
    Same,
    /// Server on CPU 0, client on CPU 1.
    Split,
    /// Neither is pinned: what a side gains by a second CPU. The kernel's placement shows in the figures.
    Free,
}

/// What to run.
pub(crate) struct Options {
    pub(crate) quick: bool,
    pub(crate) mode: Mode,
    pub(crate) cells: Vec<Cell>,
    /// Names of contenders; all if empty.
    pub(crate) peers: Vec<String>,
    pub(crate) rounds: usize,
    pub(crate) warm_up: Duration,
    pub(crate) window: Duration,
    /// Folder of the peers' binaries.
    pub(crate) binaries: PathBuf,
    /// Folder for the JSON and the chart.
    pub(crate) results: PathBuf,
}

impl Mode {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Split => "split",
            Self::Free => "free",
        }
    }

    pub(crate) fn server_cpu(self) -> Option<usize> {
        match self {
            Self::Same | Self::Split => Some(0),
            Self::Free => None,
        }
    }

    pub(crate) fn client_cpu(self) -> Option<usize> {
        match self {
            Self::Same => Some(0),
            Self::Split => Some(1),
            Self::Free => None,
        }
    }
}

impl FromStr for Mode {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> Result<Self> {
        match name {
            "same" => Ok(Self::Same),
            "split" => Ok(Self::Split),
            "free" => Ok(Self::Free),
            _ => bail!("--mode is same, split or free, not {name:?}"),
        }
    }
}

impl Options {
    pub(crate) fn parse(arguments: &mut dyn Iterator<Item = String>) -> Result<Self> {
        let (mut quick, mut mode, mut only, mut peers) = (false, Mode::Same, Vec::new(), Vec::new());
        let (mut rounds, mut seconds) = (None, None);
        let (mut binaries, mut results) = (PathBuf::from("target/release"), PathBuf::from("results"));
        while let Some(name) = arguments.next() {
            if name == "--quick" {
                quick = true;
                continue;
            }
            let value = arguments.next().with_context(|| format!("{name} needs a value; {USAGE}"))?;
            match name.as_str() {
                "--mode" => mode = value.parse()?,
                "--only" => only = value.split(',').map(Workload::from_str).collect::<Result<_>>()?,
                "--peers" => peers = value.split(',').map(str::to_owned).collect(),
                "--rounds" => rounds = Some(value.parse().with_context(|| format!("--rounds {value}"))?),
                "--seconds" => seconds = Some(value.parse().with_context(|| format!("--seconds {value}"))?),
                "--binaries" => binaries = value.into(),
                "--results" => results = value.into(),
                _ => bail!("no option is called {name}; {USAGE}"),
            }
        }
        let rounds = rounds.unwrap_or(if quick { 3 } else { 10 });
        let seconds = seconds.unwrap_or(if quick { 0.4 } else { 2.0 });
        ensure!(rounds > 0, "--rounds must be at least 1");
        ensure!((0.05..=600.0).contains(&seconds), "--seconds must be from 0.05 to 600");
        let cells: &[Cell] = if quick { &Cell::QUICK } else { &Cell::FULL };
        let chosen = |cell: &&Cell| only.is_empty() || only.contains(&cell.workload);
        let cells: Vec<Cell> = cells.iter().filter(chosen).copied().collect();
        ensure!(!cells.is_empty(), "a quick run has none of the workloads of --only");
        Ok(Self {
            quick,
            mode,
            cells,
            peers,
            rounds,
            warm_up: Duration::from_millis(if quick { 120 } else { 300 }),
            window: Duration::from_secs_f64(seconds),
            binaries,
            results,
        })
    }

    /// The name of the result files.
    pub(crate) fn file_stem(&self) -> String {
        let prefix = if self.quick { "quick-" } else { "" };
        format!("{prefix}{}", self.mode.name())
    }
}

const USAGE: &str =
    "options are --quick, --mode same|split|free, --only WORKLOAD,.., --peers PEER,.., --rounds N, --seconds S";
