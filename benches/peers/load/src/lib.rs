//! What every peer is measured with: the messages, the workloads, the closed-loop generator and the process protocol.
//!
//! A peer is a crate whose `main` calls [`run`] with its implementation of [`Peer`]; everything that could differ
//! between two peers by accident (placement, warm-up, clocks, counting) lives here and not there.

mod cli;
mod generator;
mod idle;
pub mod messages;
mod peer;
mod process;
mod report;
mod work;
mod workload;

pub use cli::run;
pub use peer::{Encoding, Peer, ensure_same};
pub use process::pin_to;
pub use report::{Client, MARK, READY, Usage};
pub use work::{compute_20us, sleep_1ms};
pub use workload::{BLOB_1M, BLOB_64K, Cell, IDLE_CONNECTIONS, STREAM_ITEMS, Workload};
