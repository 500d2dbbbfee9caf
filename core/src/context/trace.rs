//! The W3C trace context: which trace a call belongs to.
//!
//! `traceparent` is parsed strictly; `tracestate` and `baggage` are passed on as they came, because only a tracing back end
//! understands them.
//!
//! Source: W3C Trace Context (level 1) section 3.2, W3C Baggage.

use std::fmt;
use std::str::FromStr;

use crate::metadata::Metadata;

/// Metadata key of the trace's identity.
const TRACEPARENT: &str = "traceparent";
/// Metadata key of the vendors' own state.
const TRACESTATE: &str = "tracestate";
/// Metadata key of the application's own pairs.
const BAGGAGE: &str = "baggage";

/// A position in a trace.
#[derive(Clone, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    parent_id: Option<u64>,
    flags: u8,
    state: Option<String>,
    baggage: Option<String>,
}

impl TraceContext {
    /// A new trace with random ids, sampled.
    #[must_use]
    pub fn root() -> Self {
        Self {
            trace_id: fastrand::u128(1..),
            span_id: fastrand::u64(1..),
            parent_id: None,
            flags: 1,
            state: None,
            baggage: None,
        }
    }

    /// The caller's position, read from its metadata; `None` if there is none or it is malformed.
    #[must_use]
    pub fn from_metadata(metadata: &Metadata) -> Option<Self> {
        let mut trace: Self = metadata.get(TRACEPARENT)?.parse().ok()?;
        trace.state = joined(metadata, TRACESTATE);
        trace.baggage = joined(metadata, BAGGAGE);
        Some(trace)
    }

    /// The position of a handler whose caller sent `metadata`: under the caller's span, or, for a caller that sends baggage alone, at the beginning of a
    /// trace that carries it on.
    pub(super) fn of_handler(metadata: &Metadata) -> Option<Self> {
        if let Some(caller) = Self::from_metadata(metadata) {
            return Some(caller.child());
        }
        let baggage = joined(metadata, BAGGAGE)?;
        // Nobody asked for this trace to be recorded.
        let root = Self {
            flags: 0,
            ..Self::root()
        };
        Some(root.with_baggage(baggage))
    }

    /// Writes the position into the metadata of a call that may have baggage of its own, which stays.
    pub(crate) fn add_to(mut self, metadata: &mut Metadata) {
        if metadata.get_bytes(BAGGAGE).is_some() {
            self.baggage = None;
        }
        self.to_metadata(metadata);
    }

    /// Writes the position into the metadata of a call, replacing what is there.
    pub fn to_metadata(&self, metadata: &mut Metadata) {
        // Hexadecimal text is always valid; the other two came from metadata.
        let _valid = metadata.insert(TRACEPARENT, self.to_string());
        if let Some(state) = &self.state {
            let _valid = metadata.insert(TRACESTATE, state);
        }
        if let Some(baggage) = &self.baggage {
            let _valid = metadata.insert(BAGGAGE, baggage);
        }
    }

    /// A span under this one: the same trace, a new span id.
    #[must_use]
    pub fn child(&self) -> Self {
        Self {
            span_id: fastrand::u64(1..),
            parent_id: Some(self.span_id),
            ..self.clone()
        }
    }

    /// The id of the whole trace; never zero.
    #[must_use]
    pub fn trace_id(&self) -> u128 {
        self.trace_id
    }

    /// The id of this span; never zero.
    #[must_use]
    pub fn span_id(&self) -> u64 {
        self.span_id
    }

    /// The id of the span above, if it is known here.
    #[must_use]
    pub fn parent_id(&self) -> Option<u64> {
        self.parent_id
    }

    /// Whether the caller records this trace.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.flags & 1 == 1
    }

    /// The vendors' own state, as it came.
    #[must_use]
    pub fn state(&self) -> Option<&str> {
        self.state.as_deref()
    }

    /// The application's own pairs, as they came.
    #[must_use]
    pub fn baggage(&self) -> Option<&str> {
        self.baggage.as_deref()
    }

    /// Sets the application's own pairs; they reach every call below. Text that metadata cannot carry is not sent.
    #[must_use]
    pub fn with_baggage(mut self, baggage: impl Into<String>) -> Self {
        self.baggage = Some(baggage.into());
        self
    }
}

/// All values of a key as one list; `None` if there is none.
fn joined(metadata: &Metadata, key: &str) -> Option<String> {
    let values = metadata.get_all(key).filter_map(|value| std::str::from_utf8(value).ok());
    values.map(ToOwned::to_owned).reduce(|all, value| all + "," + &value)
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // State and baggage are the application's, and may hold what no log should.
        f.debug_struct("TraceContext")
            .field("trace_id", &format_args!("{:032x}", self.trace_id))
            .field("span_id", &format_args!("{:016x}", self.span_id))
            .field("state_bytes", &self.state.as_ref().map(String::len))
            .field("baggage_bytes", &self.baggage.as_ref().map(String::len))
            .finish_non_exhaustive()
    }
}

impl fmt::Display for TraceContext {
    /// The form of `traceparent`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// A `traceparent` that breaks the standard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "traceparent must be \"00-<32 hex digits>-<16 hex digits>-<2 hex digits>\" in lower case with ids other than zero"
)]
pub struct TraceParseError;

impl FromStr for TraceContext {
    type Err = TraceParseError;

    fn from_str(text: &str) -> Result<Self, TraceParseError> {
        let mut fields = text.splitn(5, '-');
        let version = hex(fields.next(), 2)?;
        let trace_id = hex(fields.next(), 32)?;
        let span_id = hex(fields.next(), 16)?;
        let flags = hex(fields.next(), 2)?;
        // A later version may append fields; version 00 has none, and ff is forbidden.
        let extra = fields.next().is_some();
        if version == 0xff || (version == 0 && extra) || trace_id == 0 || span_id == 0 {
            return Err(TraceParseError);
        }
        Ok(Self {
            trace_id,
            span_id: u64::try_from(span_id).map_err(|_| TraceParseError)?,
            parent_id: None,
            flags: u8::try_from(flags).map_err(|_| TraceParseError)?,
            state: None,
            baggage: None,
        })
    }
}

fn hex(field: Option<&str>, digits: usize) -> Result<u128, TraceParseError> {
    let field = field.ok_or(TraceParseError)?;
    let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
    if field.len() != digits || !field.bytes().all(lower_hex) {
        return Err(TraceParseError);
    }
    u128::from_str_radix(field, 16).map_err(|_| TraceParseError)
}

#[cfg(test)]
mod tests {
    use super::TraceContext;
    use crate::metadata::Metadata;

    #[test]
    fn traceparent_round_trips() {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let trace: TraceContext = text.parse().unwrap();
        assert_eq!(trace.to_string(), text);
        let child = trace.child();
        assert_eq!(child.trace_id(), trace.trace_id());
        assert_eq!(child.parent_id(), Some(trace.span_id()));
    }

    #[test]
    fn baggage_travels_without_a_trace_too() {
        let mut metadata = Metadata::new();
        assert_eq!(TraceContext::of_handler(&metadata), None);
        metadata.append("baggage", "user=1").unwrap();
        metadata.append("baggage", "tier=gold").unwrap();
        for traceparent in [None, Some("00-malformed")] {
            if let Some(text) = traceparent {
                metadata.insert("traceparent", text).unwrap();
            }
            let trace = TraceContext::of_handler(&metadata).unwrap();
            assert_eq!((trace.baggage(), trace.parent_id()), (Some("user=1,tier=gold"), None));
            assert!(!trace.is_sampled());
        }
    }

    #[test]
    fn baggage_of_a_calls_own_stays() {
        let trace = TraceContext::root().with_baggage("caller=1");
        let mut metadata = Metadata::new();
        trace.clone().add_to(&mut metadata);
        assert_eq!(metadata.get("baggage"), Some("caller=1"));
        let mut own = Metadata::new();
        own.append("baggage", "mine=1").unwrap();
        trace.clone().add_to(&mut own);
        assert_eq!(own.get("baggage"), Some("mine=1"));
        assert_eq!(own.get("traceparent"), Some(trace.to_string().as_str()));
    }

    #[test]
    fn malformed_ones_are_refused() {
        for text in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "00-4bf92f3577b34da6a3ce929d0e0e47-00f067aa0ba902b7-01",
        ] {
            assert!(text.parse::<TraceContext>().is_err(), "{text}");
        }
        assert!("01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x".parse::<TraceContext>().is_ok());
    }
}
