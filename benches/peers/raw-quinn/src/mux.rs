//! `raw-quinn-mux`: the loop of `raw` over one bidirectional stream of a QUIC connection, which all requests share.
//!
//! The files are those of `raw`, but for the one that makes connections.

#[path = "../../raw/src/client.rs"]
mod client;
#[path = "../../raw/src/codec.rs"]
mod codec;
#[path = "../../raw/src/frame.rs"]
mod frame;
#[path = "../../raw/src/pool.rs"]
mod pool;
mod quic;
#[path = "../../raw/src/server.rs"]
mod server;
#[path = "../../raw/src/slot.rs"]
mod slot;
mod socket;
#[path = "../../raw/src/stream.rs"]
mod stream;
#[path = "../../raw/src/writer.rs"]
mod writer;

use std::process::ExitCode;

fn main() -> ExitCode {
    load::run::<client::Caller>()
}
