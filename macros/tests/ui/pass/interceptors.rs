//! Definitions: plain, with settings, that never go on, private, documented.

#![deny(warnings, missing_docs, missing_debug_implementations)]

use std::sync::Arc;
use std::time::Duration;

use sinew::{Cx, Interceptor, Next, Outcome, Status, interceptor};

/// Passes on.
#[interceptor]
pub async fn audit(cx: &mut Cx, next: impl Next) -> Outcome {
    let outcome = next.run(cx).await?;
    Ok(outcome)
}

/// Passes on, with settings.
#[interceptor]
#[allow(clippy::unused_async, reason = "an attribute for the body")]
pub async fn limit(
    cx: &mut Cx,
    mut_next: impl Next,
    per_second: u32,
    every: Duration,
    name: &'static str,
    label: String,
    shared: Arc<Vec<u8>>,
) -> Outcome {
    let copied: (u32, Duration, &'static str) = (per_second, every, name);
    let borrowed: (&String, &Arc<Vec<u8>>) = (label, shared);
    assert_eq!((copied.0, copied.1, copied.2), (1, Duration::ZERO, "a"));
    assert!(borrowed.0.is_empty() && borrowed.1.is_empty());
    mut_next.run(cx).await
}

#[interceptor]
async fn deny(_: &mut Cx, _next: impl Next) -> Outcome {
    Err(Status::unimplemented("nobody gets in"))
}

#[interceptor]
#[cfg(any())]
pub async fn gone(cx: &mut Cx, next: impl Next) -> Outcome {
    next.run(cx).await
}

const fn check<I: Interceptor + Send + Sync + std::fmt::Debug>(_: &I) {}

fn main() {
    check(&audit);
    check(&deny);
    let limit: limit = limit(1, Duration::ZERO, "a", String::new(), Arc::default());
    check(&limit);
    let copy = audit;
    check(&copy);
}
