//! The two handlers that do something: one computes, one sleeps.

use std::hint::black_box;
use std::time::Duration;

/// Computes for about 20 us and returns a value that depends on all of it.
///
/// A fixed number of steps and not a span of time: on a shared CPU a handler that watches the clock would count the
/// time in which it did not run, and a calibration would differ from one process to the next.
pub fn compute_20us(seed: u64) -> u64 {
    (0..black_box(WORK_STEPS)).fold(seed, |value, step| {
        value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step) ^ (value >> 29)
    })
}

/// Sleeps for 1 ms, by the runtime's timer.
pub async fn sleep_1ms() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Multiplications that depend on each other, 5 cycles per step with the rest: about 20 us at 4 GHz.
const WORK_STEPS: u64 = 16_000;
