//! The report as markdown: tables, then quartiles, and as last lines the ratios.

use std::fmt::Write;

use load::{Cell, Workload};

use crate::measure::Figures;
use crate::results::Results;

/// Writes the whole report.
pub(crate) fn report(results: &Results) -> String {
    let mut out = heading(results);
    out += &table_of_calls(results);
    out += &table_of_idle(results);
    if let Some(reason) = &results.void {
        out += &format!("\nVOID: {reason}. This run judges nothing.\n");
    }
    for failure in &results.failures {
        out += &format!("\nFAILED {failure}\n");
    }
    out += &quartiles(results);
    out += &ratios(results);
    out
}

fn heading(results: &Results) -> String {
    let (rounds, seconds) = (results.rounds, results.seconds);
    format!(
        "Mode `{}`, medians of {rounds} interleaved rounds of {seconds} s; {}.\n\n",
        results.mode, results.machine
    )
}

fn table_of_calls(results: &Results) -> String {
    let cells: Vec<Cell> = results.cells.iter().filter(|cell| cell.workload != Workload::Idle).copied().collect();
    if cells.is_empty() {
        return String::new();
    }
    let mut out = "| workload | in flight | peer | calls/s | p50 us | p99 us | server CPU us | client CPU us | \
                   server peak RSS MiB |\n|---|--:|---|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for cell in cells {
        for peer in results.peers() {
            if results.samples.iter().any(|sample| sample.peer == peer && is_in(sample, cell)) {
                out += &row(results, cell, peer);
            }
        }
    }
    out
}

fn is_in(sample: &crate::results::Sample, cell: Cell) -> bool {
    sample.workload == cell.workload.name() && sample.concurrency == cell.concurrency()
}

fn row(results: &Results, cell: Cell, peer: &str) -> String {
    let median = |figure: fn(&Figures) -> f64| results.median_of(cell, peer, figure);
    let columns = [
        median(|figures| figures.per_second).map(thousands),
        median(|figures| figures.p50_us).filter(|us| *us > 0.0).map(short),
        median(|figures| figures.p99_us).filter(|us| *us > 0.0).map(short),
        median(|figures| figures.server_cpu_us).map(short),
        median(|figures| figures.client_cpu_us).map(short),
        median(|figures| figures.server_peak_rss_kib as f64 / 1024.0).map(short),
    ];
    let columns = columns.map(|column| column.unwrap_or_else(|| "-".to_owned())).join(" | ");
    format!(
        "| {} | {} | {peer} | {columns} |\n",
        cell.workload.name(),
        cell.concurrency()
    )
}

fn table_of_idle(results: &Results) -> String {
    let Some(cell) = results.cells.iter().find(|cell| cell.workload == Workload::Idle) else {
        return String::new();
    };
    let mut out = format!(
        "\nMemory per idle connection, {} connections that each made one call.\n\n\
         | peer | server KiB | client KiB |\n|---|--:|--:|\n",
        cell.connections
    );
    for peer in results.peers() {
        let server = results.median_of(*cell, peer, |figures| figures.server_idle_kib);
        let client = results.median_of(*cell, peer, |figures| figures.client_idle_kib);
        if let (Some(server), Some(client)) = (server, client) {
            out += &format!("| {peer} | {server:.1} | {client:.1} |\n");
        }
    }
    out
}

fn quartiles(results: &Results) -> String {
    if results.ratios.is_empty() {
        return "\nNo ratios: sinew was not measured.\n".to_owned();
    }
    let mut out = "\nRatios of the rounds, paired; for `idle` of the server's memory, where less is better.\n\n\
                   | workload | in flight | pair | lower quartile | median | rounds |\n|---|--:|---|--:|--:|--:|\n"
        .to_owned();
    for ratio in &results.ratios {
        // Writing to a string cannot fail.
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.2} | {:.2} | {} |",
            ratio.workload, ratio.concurrency, ratio.pair, ratio.lower_quartile, ratio.median, ratio.rounds
        );
    }
    out + "\n"
}

fn ratios(results: &Results) -> String {
    let line = |ratio: &crate::results::Ratio| {
        format!(
            "ratio {} {} {} {:.3}",
            ratio.workload, ratio.concurrency, ratio.pair, ratio.median
        )
    };
    results.ratios.iter().map(line).collect::<Vec<_>>().join("\n")
}

/// A rate in full, grouped by thousands.
pub(crate) fn thousands(number: f64) -> String {
    let digits = format!("{number:.0}");
    let first = digits.len() % 3;
    let (head, tail) = digits.split_at(first);
    let groups = tail.as_bytes().chunks(3).map(|group| String::from_utf8_lossy(group).into_owned());
    let head = (!head.is_empty()).then(|| head.to_owned());
    head.into_iter().chain(groups).collect::<Vec<_>>().join(",")
}

/// A time with about three digits.
fn short(number: f64) -> String {
    match number {
        number if number < 10.0 => format!("{number:.2}"),
        number if number < 100.0 => format!("{number:.1}"),
        number => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_grouped() {
        assert_eq!(thousands(7.0), "7");
        assert_eq!(thousands(983_000.4), "983,000");
        assert_eq!(thousands(26_536_483.0), "26,536,483");
    }
}
