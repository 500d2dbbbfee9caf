//! The side that answers calls.
//!
//! `accept` takes connections, `streams` their further streams, `connection` takes calls off each of them, `age` bounds how long they live, `router` finds the
//! method, `config` follows what services are told while they run, `limits` turns calls away that are too many by that, `admission` those for which there is
//! too much to do, `rejections` counts all that are, `dispatch` runs the handler, `books` knows those that run in tasks, `health` answers for the server itself, [`load`] tells clients how busy
//! it is, `clock` measures how long that takes, [`shutdown`] brings all of it to an end in order, and `watchdog` sees to it that a handler which blocks its
//! thread blocks nobody else.

mod accept;
mod admission;
mod age;
mod books;
pub mod builder;
mod clock;
mod config;
mod connection;
mod dispatch;
pub mod error;
mod health;
mod limits;
pub mod load;
mod registration;
mod rejections;
mod router;
pub mod shutdown;
mod slots;
pub mod snapshot;
mod streams;
mod watchdog;

pub use builder::{Server, ServerBuilder};
pub use error::ServerError;
pub use load::ServerLoad;
pub use router::{Collision, Fallback};
pub use shutdown::{Drain, Serving};
pub use snapshot::{
    AdmissionSnapshot, LimitSnapshot, MethodAdmission, RejectionSnapshot, ServerMonitor, ServerSnapshot,
};

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use crate::faults::Faults;
use crate::interceptor::Chain;
use crate::mux::MuxConfig;
use admission::Admission;
use age::Age;
use config::Configs;
use health::ServerHealth;
use limits::CallLimits;
use load::LoadMeter;
use router::Router;
use shutdown::Tasks;
use watchdog::Watchdog;

/// Connections that a server holds at most by default: what a few hundred MiB of idle connections come to.
const CONNECTIONS_MAX: usize = 16_384;

/// TLS handshakes that a server has under way at most by default: up to 64 KiB each, and a good client is through within a few round trips.
const HANDSHAKES_MAX: usize = 1_024;

/// What all connections of a server share.
struct Shared {
    router: Router,
    admission: Arc<Admission>,
    /// Those of the services' configuration.
    limits: CallLimits,
    configs: Configs,
    /// Those that they may set.
    faults: Option<Faults>,
    /// Clients are taken at their word for the priority of their calls.
    trusts_priorities: bool,
    health: ServerHealth,
    load: LoadMeter,
    chain: Chain,
    mux: MuxConfig,
    connections_max: usize,
    /// `None` if connections live as long as they like.
    age: Option<Age>,
    /// For the lines about connections above that number.
    turned_away: accept::LogGate,
    handshakes: accept::Handshakes,
    tasks: Arc<Tasks>,
    watchdog: Arc<Watchdog>,
    /// The server is shutting down: calls that begin now are told so from the start.
    draining: AtomicBool,
    /// Handlers that run now.
    running: AtomicUsize,
    /// Handlers that panicked since the start.
    panics: AtomicUsize,
}
