//! The other end of a connection, as handlers and interceptors see it.

use std::fmt;
use std::sync::Arc;

/// Who is at the other end of the connection.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Peer {
    address: Arc<str>,
    identity: Option<Arc<Identity>>,
}

impl Peer {
    /// A peer at `address`, in the form of a target: `tcp://10.0.0.7:40112`, `unix:`, `mem:`.
    #[must_use]
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        Self {
            address: address.into(),
            identity: None,
        }
    }

    /// The same peer with what it proved about itself.
    #[must_use]
    pub fn with_identity(mut self, identity: Option<Arc<Identity>>) -> Self {
        self.identity = identity;
        self
    }

    /// The peer's address, in the form of a target.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What the peer proved about itself with a certificate that was verified; `None` if it showed none, or the connection is not encrypted.
    #[must_use]
    pub fn identity(&self) -> Option<&Identity> {
        self.identity.as_deref()
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

/// What a peer proved about itself: the certificate that it showed, which was verified against the roots that this side trusts.
///
/// Names are those of the certificate's subject alternative names; a common name is not read, because nothing checks what stands there.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    chain: Vec<Vec<u8>>,
    dns_names: Vec<String>,
    uris: Vec<String>,
}

impl Identity {
    /// An identity made of a chain of certificates in DER, the peer's own first, and of the names in that one. Meant for transports and tests:
    /// nothing is verified here.
    #[must_use]
    pub fn new(chain: Vec<Vec<u8>>, dns_names: Vec<String>, uris: Vec<String>) -> Self {
        Self { chain, dns_names, uris }
    }

    /// The peer's certificate, in DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        self.chain.first().map_or(&[], Vec::as_slice)
    }

    /// The certificates that the peer showed, its own first, in DER.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The DNS names that the certificate is valid for; wildcards stand as they are.
    #[must_use]
    pub fn dns_names(&self) -> &[String] {
        &self.dns_names
    }

    /// The URIs that the certificate is valid for: a SPIFFE ID, for one.
    #[must_use]
    pub fn uris(&self) -> &[String] {
        &self.uris
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("dns_names", &self.dns_names)
            .field("uris", &self.uris)
            .finish_non_exhaustive()
    }
}
