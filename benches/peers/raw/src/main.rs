//! `raw`: what a call costs when nothing but the bytes is needed. The other peers are measured against it.
//!
//! A tokio loop written by hand: length-prefixed frames, MessagePack, one connection shared by a task per caller. No
//! deadlines, no cancellation, no limits, no tracing: a caller that is dropped within a call breaks its connection.
//!
//! Frozen before sinew was tuned, so that the two could not drift towards each other.

mod client;
mod codec;
mod frame;
mod pool;
mod server;
mod slot;
mod socket;
mod stream;
mod writer;

use std::process::ExitCode;

fn main() -> ExitCode {
    load::run::<client::Caller>()
}

#[cfg(test)]
mod tests;
