//! The list of workloads and the cells (workload, calls in flight, connections) they are measured in.

use std::fmt;
use std::str::FromStr;

use anyhow::{Context, bail};

/// Bytes of a `blob64k` body.
pub const BLOB_64K: usize = 64 * 1024;
/// Bytes of a `blob1m` body.
pub const BLOB_1M: usize = 1024 * 1024;
/// Items that one call of `stream` delivers; the call is made again until the window ends.
pub const STREAM_ITEMS: u32 = 100_000;
/// Connections that `idle` opens.
pub const IDLE_CONNECTIONS: usize = 1_000;

/// What one call does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Workload {
    /// A 32-byte message there and back.
    Echo32,
    /// A nested struct of about 300 bytes there and back.
    User,
    /// 64 KiB there and back.
    Blob64k,
    /// 1 MiB there and back.
    Blob1m,
    /// A handler that computes for about 20 us.
    Work20us,
    /// A handler that sleeps for 1 ms.
    Sleep1ms,
    /// 32-byte items from the server; counts items.
    Stream,
    /// 32-byte items to and fro over one stream; counts round trips.
    PingPong,
    /// Memory per connection that made one call and is kept.
    Idle,
}

/// One measured combination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cell {
    /// What is called.
    pub workload: Workload,
    /// Callers, each with one call in flight.
    pub in_flight: usize,
    /// Connections the callers are spread over.
    pub connections: usize,
}

impl Workload {
    /// Every workload, in the order of the report.
    pub const ALL: [Self; 9] = [
        Self::Echo32,
        Self::User,
        Self::Blob64k,
        Self::Blob1m,
        Self::Work20us,
        Self::Sleep1ms,
        Self::Stream,
        Self::PingPong,
        Self::Idle,
    ];

    /// The name in reports and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Echo32 => "echo32",
            Self::User => "user",
            Self::Blob64k => "blob64k",
            Self::Blob1m => "blob1m",
            Self::Work20us => "work20us",
            Self::Sleep1ms => "sleep1ms",
            Self::Stream => "stream",
            Self::PingPong => "pingpong",
            Self::Idle => "idle",
        }
    }

    /// Bytes of the body, for the workloads that send a blob.
    pub fn blob_len(self) -> usize {
        match self {
            Self::Blob64k => BLOB_64K,
            Self::Blob1m => BLOB_1M,
            _ => 0,
        }
    }
}

impl FromStr for Workload {
    type Err = anyhow::Error;

    fn from_str(name: &str) -> anyhow::Result<Self> {
        let names = Self::ALL.map(Self::name).join(", ");
        Self::ALL
            .into_iter()
            .find(|workload| workload.name() == name)
            .with_context(|| format!("no workload is called {name:?}; there are: {names}"))
    }
}

impl Cell {
    const fn new(workload: Workload, in_flight: usize, connections: usize) -> Self {
        Self {
            workload,
            in_flight,
            connections,
        }
    }

    /// The cells of a full run.
    pub const FULL: [Self; 18] = [
        Self::new(Workload::Echo32, 1, 1),
        Self::new(Workload::Echo32, 16, 1),
        Self::new(Workload::Echo32, 64, 1),
        Self::new(Workload::Echo32, 256, 1),
        Self::new(Workload::Echo32, 64, 4),
        Self::new(Workload::User, 1, 1),
        Self::new(Workload::User, 16, 1),
        Self::new(Workload::User, 64, 1),
        Self::new(Workload::User, 256, 1),
        Self::new(Workload::Blob64k, 1, 1),
        Self::new(Workload::Blob64k, 16, 1),
        Self::new(Workload::Blob1m, 1, 1),
        Self::new(Workload::Blob1m, 16, 1),
        Self::new(Workload::Work20us, 64, 1),
        Self::new(Workload::Sleep1ms, 64, 1),
        Self::new(Workload::Stream, 1, 1),
        Self::new(Workload::PingPong, 1, 1),
        Self::new(Workload::Idle, IDLE_CONNECTIONS, IDLE_CONNECTIONS),
    ];

    /// The cells of a quick run.
    pub const QUICK: [Self; 9] = [
        Self::new(Workload::Echo32, 1, 1),
        Self::new(Workload::Echo32, 64, 1),
        Self::new(Workload::User, 1, 1),
        Self::new(Workload::User, 64, 1),
        Self::new(Workload::Blob64k, 1, 1),
        Self::new(Workload::Blob1m, 1, 1),
        Self::new(Workload::Stream, 1, 1),
        Self::new(Workload::PingPong, 1, 1),
        Self::new(Workload::Idle, IDLE_CONNECTIONS, IDLE_CONNECTIONS),
    ];

    /// The number of calls in flight, with the number of connections when that is not one: `64`, `64x4`.
    pub fn concurrency(self) -> String {
        if self.connections == 1 || self.workload == Workload::Idle {
            self.in_flight.to_string()
        } else {
            format!("{}x{}", self.in_flight, self.connections)
        }
    }

    /// Checks what a command line asked for.
    pub fn try_new(workload: Workload, in_flight: usize, connections: usize) -> anyhow::Result<Self> {
        if connections == 0 || in_flight < connections {
            bail!("{connections} connections need as many calls in flight, not {in_flight}");
        }
        Ok(Self {
            workload,
            in_flight,
            connections,
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.workload.name(), self.concurrency())
    }
}
