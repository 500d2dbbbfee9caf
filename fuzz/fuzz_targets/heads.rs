//! Fuzzes `heads`; see `harness.rs`.

#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code, reason = "each target uses one function of it")]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::heads(input));
