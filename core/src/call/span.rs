//! The span that a handler runs in.

use crate::context::{Cx, TraceContext};

/// The span around a handler; `None` when nobody listens, and then free.
#[must_use]
pub fn handler_span(cx: &Cx) -> Option<tracing::Span> {
    let span = tracing::info_span!(
        "rpc",
        rpc.system.name = "sinew",
        rpc.method = cx.path(),
        trace_id = tracing::field::Empty,
        span_id = tracing::field::Empty,
    );
    if span.is_disabled() {
        return None;
    }
    let trace = cx.trace().unwrap_or_else(|| {
        let root = TraceContext::root();
        cx.set_trace(root.clone());
        root
    });
    span.record(
        "trace_id",
        tracing::field::display(format_args!("{:032x}", trace.trace_id())),
    );
    span.record(
        "span_id",
        tracing::field::display(format_args!("{:016x}", trace.span_id())),
    );
    Some(span)
}
