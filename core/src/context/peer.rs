//! The other end of a connection, as handlers and interceptors see it.

use std::fmt;
use std::sync::Arc;

/// Who is at the other end of the connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    address: Arc<str>,
}

impl Peer {
    /// A peer at `address`, in the form of a target: `tcp://10.0.0.7:40112`, `unix:`, `mem:`.
    #[must_use]
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        Self {
            address: address.into(),
        }
    }

    /// The peer's address, in the form of a target.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Peer({})", self.address)
    }
}
