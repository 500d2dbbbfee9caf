//! The contenders: the peers, and for some of them a second encoding, or encryption.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use load::{Cell, Workload};

use crate::options::Options;

/// One column of the comparison.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// The name in reports and on the command line.
    pub(crate) name: &'static str,
    pub(crate) binary: PathBuf,
    pub(crate) encoding: &'static str,
}

/// What the framework under test is called, in its two encodings, and what each is compared with.
pub(crate) const PAIRS: [(&str, &str); 17] = [
    ("sinew", "raw"),
    ("sinew", "tarpc"),
    ("sinew", "tonic"),
    ("sinew", "volo-thrift"),
    ("sinew", "capnp"),
    ("sinew-named", "raw-named"),
    ("sinew-named", "sinew"),
    ("sinew-tls", "sinew"),
    ("sinew-quic", "raw-quinn-mux"),
    ("sinew-quic", "raw-quinn"),
    // Whether a choice among many costs more than what a hundred connections cost anyway.
    ("sinew-100", "raw-100"),
    ("sinew-100", "sinew-1"),
    ("sinew-1", "sinew"),
    // Whether what keeps calls from harm costs something where there is none.
    ("sinew", "sinew-bare"),
    // Whether raw is what it has to be.
    ("raw", "tarpc"),
    ("raw", "tonic"),
    ("raw", "volo-thrift"),
];

/// Name, binary, encoding. All must be there, unless the options name fewer.
const ALL: [(&str, &str, &str); 16] = [
    ("raw", "peer-raw", "compact"),
    ("raw-named", "peer-raw", "named"),
    ("sinew", "peer-sinew", "compact"),
    ("sinew-named", "peer-sinew", "named"),
    ("raw-100", "peer-raw-100", "compact"),
    ("sinew-1", "peer-sinew-1", "compact"),
    ("sinew-bare", "peer-sinew-bare", "compact"),
    ("sinew-100", "peer-sinew-100", "compact"),
    ("sinew-tls", "peer-sinew-tls", "compact"),
    ("raw-quinn", "peer-raw-quinn", "compact"),
    ("raw-quinn-mux", "peer-raw-quinn-mux", "compact"),
    ("sinew-quic", "peer-sinew-quic", "compact"),
    ("tarpc", "peer-tarpc", "compact"),
    ("tonic", "peer-tonic", "compact"),
    ("volo-thrift", "peer-volo", "compact"),
    ("capnp", "peer-capnp", "compact"),
];

impl Contender {
    /// Finds the contenders that the options name, or all.
    pub(crate) fn find(options: &Options) -> Result<Vec<Self>> {
        for peer in &options.peers {
            let names = ALL.map(|(name, ..)| name).join(", ");
            ensure!(
                ALL.iter().any(|(name, ..)| name == peer),
                "no peer is called {peer:?}; there are: {names}"
            );
        }
        let mut found = Vec::new();
        for (name, binary, encoding) in ALL {
            if !options.peers.is_empty() && !options.peers.iter().any(|peer| peer == name) {
                continue;
            }
            let contender = Self {
                name,
                binary: options.binaries.join(binary),
                encoding,
            };
            ensure!(
                contender.binary.exists(),
                "{name} is missing: there is no {}; name the peers that are to run with --peers",
                contender.binary.display()
            );
            found.push(contender);
        }
        Ok(found)
    }

    /// Whether this contender is measured in `cell`: names of fields only matter where structs travel.
    pub(crate) fn enters(&self, cell: Cell) -> bool {
        let structs = matches!(
            cell.workload,
            Workload::Echo32 | Workload::User | Workload::Stream | Workload::PingPong
        );
        structs || self.encoding == "compact"
    }
}
