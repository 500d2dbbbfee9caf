//! What is known about a method before any call: name, id, kind, and the promises that its attributes make.
//!
//! `#[service]` emits one [`MethodSpec`] per method as a constant; interceptors, retries and the server read it at run time.

use std::fmt;
use std::time::Duration;

/// The id of a method: FNV-1a (64 bit) of its path, for example `"shop.Orders/get"`.
///
/// Signature, module path and crate version are never part of it, so moving code does not break the wire.
///
/// Source: Fowler, Noll and Vo, parameters of the 64-bit variant.
#[must_use]
pub const fn method_id(path: &str) -> u64 {
    let bytes = path.as_bytes();
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut at = 0;
    while at < bytes.len() {
        hash ^= bytes[at] as u64;
        hash = hash.wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    hash
}

/// How many messages flow each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MethodKind {
    /// One request, one response.
    Unary,
    /// One request, a stream of responses.
    ServerStreaming,
    /// A stream of requests, one response.
    ClientStreaming,
    /// A stream each way.
    Bidirectional,
}

impl MethodKind {
    /// The kind of a method with these streams.
    #[must_use]
    pub const fn from_streams(inbound: bool, outbound: bool) -> Self {
        match (inbound, outbound) {
            (false, false) => Self::Unary,
            (false, true) => Self::ServerStreaming,
            (true, false) => Self::ClientStreaming,
            (true, true) => Self::Bidirectional,
        }
    }

    /// Whether the client sends a stream.
    #[must_use]
    pub const fn client_streams(self) -> bool {
        matches!(self, Self::ClientStreaming | Self::Bidirectional)
    }

    /// Whether the server sends a stream.
    #[must_use]
    pub const fn server_streams(self) -> bool {
        matches!(self, Self::ServerStreaming | Self::Bidirectional)
    }
}

/// How structs are written; both forms are always accepted when reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Encoding {
    /// Structs as maps keyed by field name: fields may be reordered, added and removed.
    #[default]
    Named,
    /// Structs as arrays: about half the bytes, and fields may only be appended.
    Compact,
}

/// Where the server runs a handler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Execution {
    /// Polled at once by the connection; moved to a task when it waits or proves slow.
    #[default]
    Inline,
    /// Always in a task of its own.
    Spawn,
    /// On tokio's blocking pool, for handlers that block their thread.
    Blocking,
}

/// Another name under which a method answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    path: &'static str,
    id: u64,
}

impl Alias {
    /// The alias `path` (service and method) with its id.
    #[must_use]
    pub const fn new(path: &'static str, id: u64) -> Self {
        Self { path, id }
    }

    /// Service and method, for example `shop.Orders/fetch`.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// The id that travels.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }
}

/// One argument of a method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArgSpec {
    name: &'static str,
    since: u32,
}

impl ArgSpec {
    /// The argument called `name`.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, since: 0 }
    }

    /// Sets the version of the service in which the argument was added.
    #[must_use]
    pub const fn since(mut self, version: u32) -> Self {
        self.since = version;
        self
    }

    /// The name; a caller may send arguments as a map keyed by it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The version of the service in which the argument was added; 0 if not told.
    #[must_use]
    pub const fn added_in(&self) -> u32 {
        self.since
    }
}

/// Everything that is fixed about one method.
#[derive(Clone, Copy)]
pub struct MethodSpec {
    path: &'static str,
    slash: usize,
    id: u64,
    kind: MethodKind,
    idempotent: bool,
    deprecated: bool,
    timeout: Option<Duration>,
    since: u32,
    encoding: Encoding,
    execution: Execution,
    meta: &'static [(&'static str, &'static str)],
    args: &'static [ArgSpec],
    aliases: &'static [Alias],
    doc: &'static str,
}

impl MethodSpec {
    /// A method with path `service/method`.
    ///
    /// # Panics
    /// If `path` has no `/`; in a constant that is a compile error.
    #[must_use]
    pub const fn new(path: &'static str, id: u64, kind: MethodKind) -> Self {
        let bytes = path.as_bytes();
        let mut slash = 0;
        while bytes[slash] != b'/' {
            slash += 1;
        }
        Self {
            path,
            slash,
            id,
            kind,
            idempotent: false,
            deprecated: false,
            timeout: None,
            since: 0,
            encoding: Encoding::Named,
            execution: Execution::Inline,
            meta: &[],
            args: &[],
            aliases: &[],
            doc: "",
        }
    }

    /// Declares that running it twice has the effect of running it once.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// Marks it as deprecated.
    #[must_use]
    pub const fn deprecated(mut self) -> Self {
        self.deprecated = true;
        self
    }

    /// Sets the method's own time-out, in milliseconds.
    #[must_use]
    pub const fn timeout_ms(mut self, millis: u64) -> Self {
        self.timeout = Some(Duration::from_millis(millis));
        self
    }

    /// Sets the version of the service in which the method was added.
    #[must_use]
    pub const fn since(mut self, version: u32) -> Self {
        self.since = version;
        self
    }

    /// Sets the user's own key-value pairs, for interceptors to read.
    #[must_use]
    pub const fn meta(mut self, meta: &'static [(&'static str, &'static str)]) -> Self {
        self.meta = meta;
        self
    }

    /// Sets the arguments.
    #[must_use]
    pub const fn args(mut self, args: &'static [ArgSpec]) -> Self {
        self.args = args;
        self
    }

    /// Sets the other names under which it answers.
    #[must_use]
    pub const fn aliases(mut self, aliases: &'static [Alias]) -> Self {
        self.aliases = aliases;
        self
    }

    /// Sets how structs are written.
    #[must_use]
    pub const fn encoding(mut self, encoding: Encoding) -> Self {
        self.encoding = encoding;
        self
    }

    /// Sets where the server runs the handler.
    #[must_use]
    pub const fn execution(mut self, execution: Execution) -> Self {
        self.execution = execution;
        self
    }

    /// Sets the first line of its documentation.
    #[must_use]
    pub const fn doc(mut self, doc: &'static str) -> Self {
        self.doc = doc;
        self
    }

    /// Service and method, for example `shop.Orders/get`.
    #[must_use]
    pub const fn path(&self) -> &'static str {
        self.path
    }

    /// The service's wire name, for example `shop.Orders`.
    #[must_use]
    pub fn service(&self) -> &'static str {
        &self.path[..self.slash]
    }

    /// The method's wire name, for example `get`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        &self.path[self.slash + 1..]
    }

    /// The id that travels.
    #[must_use]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// How many messages flow each way.
    #[must_use]
    pub const fn kind(&self) -> MethodKind {
        self.kind
    }

    /// Whether running it twice has the effect of running it once.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// Whether it is deprecated.
    #[must_use]
    pub const fn is_deprecated(&self) -> bool {
        self.deprecated
    }

    /// The method's own time-out.
    #[must_use]
    pub const fn timeout(&self) -> Option<Duration> {
        self.timeout
    }

    /// The version of the service in which it was added; 0 if not told.
    #[must_use]
    pub const fn added_in(&self) -> u32 {
        self.since
    }

    /// How structs are written.
    #[must_use]
    pub const fn wire_encoding(&self) -> Encoding {
        self.encoding
    }

    /// Where the server runs the handler.
    #[must_use]
    pub const fn runs(&self) -> Execution {
        self.execution
    }

    /// The value of the user's own pair `key`, from `#[rpc(meta(key = "value"))]`.
    #[must_use]
    pub fn meta_value(&self, key: &str) -> Option<&'static str> {
        self.meta.iter().find(|(name, _)| *name == key).map(|(_, value)| *value)
    }

    /// All of the user's own pairs.
    #[must_use]
    pub const fn meta_pairs(&self) -> &'static [(&'static str, &'static str)] {
        self.meta
    }

    /// The arguments that travel, in order.
    #[must_use]
    pub const fn arguments(&self) -> &'static [ArgSpec] {
        self.args
    }

    /// The other names under which it answers.
    #[must_use]
    pub const fn other_names(&self) -> &'static [Alias] {
        self.aliases
    }

    /// The first line of its documentation.
    #[must_use]
    pub const fn summary(&self) -> &'static str {
        self.doc
    }
}

impl fmt::Debug for MethodSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MethodSpec")
            .field("path", &self.path)
            .field("id", &format_args!("{:#018x}", self.id))
            .field("kind", &self.kind)
            .field("idempotent", &self.idempotent)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{MethodKind, MethodSpec, method_id};

    #[test]
    fn ids_are_fnv_1a() {
        assert_eq!(method_id(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(method_id("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(method_id("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn known_services_collide() {
        assert_eq!(
            method_id("8yn0iYCKYHlIj4-BwPqk/get"),
            method_id("GReLUrM4wMqfg9yzV3KQ/get")
        );
    }

    #[test]
    fn a_path_splits_at_its_slash() {
        const SPEC: MethodSpec = MethodSpec::new("shop.Orders/get", method_id("shop.Orders/get"), MethodKind::Unary);
        assert_eq!((SPEC.service(), SPEC.name()), ("shop.Orders", "get"));
    }
}
