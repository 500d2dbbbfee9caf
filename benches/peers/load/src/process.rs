//! What a process does about itself: pins itself to a CPU and reads its own CPU time and memory.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::unistd::Pid;

use crate::report::Usage;

/// Restricts this process to one CPU. Call it before any thread is started: threads inherit it.
pub fn pin_to(cpu: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu).with_context(|| format!("no CPU set holds CPU {cpu}"))?;
    sched_setaffinity(Pid::from_raw(0), &set).with_context(|| format!("cannot pin to CPU {cpu}"))
}

/// Reads what this process used since `start`.
pub(crate) fn usage(start: Instant) -> Result<Usage> {
    let times = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    let cpu = times.user_time().num_microseconds() + times.system_time().num_microseconds();
    Ok(Usage {
        at: start.elapsed(),
        cpu: Duration::from_micros(u64::try_from(cpu)?),
        rss_kib: rss_kib()?,
        peak_rss_kib: peak_rss_kib()?,
    })
}

/// Reads the resident memory from `smaps_rollup`, which is exact; `statm` lags behind by up to 64 pages per CPU.
fn rss_kib() -> Result<u64> {
    read_kib("/proc/self/smaps_rollup", "Rss:")
}

/// Reads the peak since this program began; `getrusage` also counts what came before `exec`.
fn peak_rss_kib() -> Result<u64> {
    read_kib("/proc/self/status", "VmHWM:")
}

fn read_kib(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.trim().parse().ok())
        .with_context(|| format!("{path} has no line {name}"))
}
