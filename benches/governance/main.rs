//! What governance does on bad days, in scenarios of virtual time: our figure, those of others, the goal, and whether it is met.
//!
//! `cargo bench --bench governance` prints all tables, the mean of two seeds and the worst of them; with `-- --full` of twenty, with `-- TEXT` only the scenes
//! that have it in their names, with `-- --processes` the key rows with real processes, for two minutes. `cargo test --release --bench governance` runs
//! sinew's figures only. It fails if a mean misses its goal.

#![expect(clippy::expect_used, clippy::print_stdout, reason = "a bench")]

mod admission;
mod ejection;
mod guards;
mod hedging;
mod limiters;
mod pools;
mod processes;
mod published;
mod retries;
mod rivals;
mod server;
mod simulator;
mod table;

use std::env;
use std::process::ExitCode;

use limiters::Kind;
use table::Row;

const SEEDS: u64 = 2;
const SEEDS_FULL: u64 = 20;

fn main() -> ExitCode {
    if processes::plays_role() {
        return ExitCode::SUCCESS;
    }
    let options: Vec<String> = env::args().collect();
    let has = |option: &str| options.iter().any(|one| one == option);
    let seeds = if has("--full") { SEEDS_FULL } else { SEEDS };
    // Cargo says so when it benches.
    let kinds = if has("--bench") {
        &limiters::ALL[..]
    } else {
        &limiters::ALL[..1]
    };
    let wanted = options.iter().skip(1).find(|option| !option.starts_with('-'));
    let wanted = wanted.map_or("", String::as_str);
    if has("--processes") {
        let rows = processes::rows(wanted);
        println!("## With real processes\n\n{}", table::draw_real(&rows));
        return verdict(rows.iter().filter(|row| !row.is_met()).count());
    }
    let tables = tables(kinds, seeds, wanted, has("--bench"));
    if wanted.is_empty() && has("--bench") {
        let all: Vec<&str> = tables.iter().flat_map(|(_, _, rows)| rows).map(|row| row.name.as_str()).collect();
        assert_eq!(
            published::unused(&all),
            Vec::<&str>::new(),
            "rows that are not there any more"
        );
    }
    let mut missed = 0;
    for (title, names, rows) in tables {
        println!(
            "## {title}, the mean of {seeds} seeds, the worst in brackets\n\n{}",
            table::draw(&names, &rows)
        );
        missed += rows.iter().filter(|row| !row.is_met()).count();
    }
    verdict(missed)
}

/// The title of each table, who is in it, and its rows.
type Table<'a> = (&'a str, Vec<&'a str>, Vec<Row>);

fn tables<'a>(kinds: &[(Kind, &'a str)], seeds: u64, wanted: &str, is_bench: bool) -> Vec<Table<'a>> {
    let names: Vec<&str> = kinds.iter().map(|(_, name)| *name).collect();
    let sinew = || vec!["sinew"];
    let mut tables = vec![
        (
            "Adaptive concurrency: 16 workers",
            names,
            limiters::rows(kinds, seeds, wanted),
        ),
        ("In the real server", sinew(), admission::rows(seeds, wanted, is_bench)),
        (
            "Retries: ten servers, 1,000 calls a second",
            sinew(),
            retries::rows(seeds, wanted),
        ),
        ("Ejection: ten servers", sinew(), ejection::rows(seeds, wanted)),
        (
            "Rate limits: 500 calls a second",
            sinew(),
            guards::limits(seeds, wanted),
        ),
        (
            "Throttle and circuit breaker: one server, 200 calls a second",
            sinew(),
            guards::breakers(seeds, wanted),
        ),
        (
            "Hedging: eleven servers, 1,000 calls a second",
            sinew(),
            hedging::rows(seeds, wanted),
        ),
    ];
    if cfg!(feature = "faults") {
        tables.push(("Faults: 500 calls a second", sinew(), guards::faults(seeds, wanted)));
    }
    tables
}

fn verdict(missed: usize) -> ExitCode {
    if missed > 0 {
        println!("{missed} missed");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
