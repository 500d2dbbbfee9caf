//! The behaviour that a user of `sinew` may rely on, one module per subject, over real byte streams.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "in a test, a failure is to stop it where it happens"
)]

#[path = "../support/mod.rs"]
mod support;

mod bad_days;
mod breakers;
mod calls;
mod cancellation;
mod deadlines;
mod discovery;
mod ejection;
mod evolution;
#[cfg(feature = "faults")]
mod faults;
mod foreign;
mod hedging;
mod interceptors;
mod interop;
mod lifecycle;
mod limits;
mod live_limits;
mod loss_free;
mod overload;
mod pressure;
mod processes;
mod quic;
mod retries;
mod streaming;
mod tls;
mod tracing;
