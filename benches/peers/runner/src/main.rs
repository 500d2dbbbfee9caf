//! `runner`: measures every peer in interleaved rounds and reports.
//!
//! Started by the script `run`, which builds the peers first. Everything a run finds goes to stdout as markdown; what
//! happens on the way, failures included, goes to stderr.

mod chart;
mod contender;
mod measure;
mod options;
mod results;
mod stats;
mod table;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};

use crate::contender::Contender;
use crate::measure::measure;
use crate::options::Options;
use crate::results::{Results, Sample};

fn main() -> ExitCode {
    match Options::parse(&mut std::env::args().skip(1)).and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    let contenders = Contender::find(options)?;
    ensure!(!contenders.is_empty(), "no peer to measure");
    let mut results = Results::new(options);
    for round in 0..options.rounds {
        eprintln!("round {} of {}", round + 1, options.rounds);
        run_round(options, &contenders, round, &mut results);
    }
    ensure!(!results.samples.is_empty(), "no measurement succeeded");

    fs::create_dir_all(&options.results).with_context(|| format!("cannot make {}", options.results.display()))?;
    let path = |extension: &str| options.results.join(options.file_stem()).with_extension(extension);
    results.write(&path("json"))?;
    fs::write(path("svg"), chart::draw(&results)).with_context(|| format!("cannot write {}", path("svg").display()))?;
    eprintln!("wrote {} and {}", path("json").display(), path("svg").display());
    println!("{}", table::report(&results));
    Ok(())
}

/// Measures every contender once in every cell. The order rotates, so that nobody always follows the same neighbour.
fn run_round(options: &Options, contenders: &[Contender], round: usize, results: &mut Results) {
    for (index, cell) in options.cells.iter().enumerate() {
        let mut order: Vec<&Contender> = contenders.iter().filter(|contender| contender.enters(*cell)).collect();
        let len = order.len().max(1);
        order.rotate_left((round + index) % len);
        for contender in order {
            match measure(options, contender, *cell) {
                Ok(figures) => results.samples.push(Sample::new(round, *cell, contender.name, figures)),
                Err(error) => {
                    let failure = format!("{} on {cell}, round {}: {error:#}", contender.name, round + 1);
                    eprintln!("FAILED {failure}");
                    results.failures.push(failure);
                }
            }
        }
    }
}
