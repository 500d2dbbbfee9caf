//! One call on one stream, as both sides see it: errors as statuses, messages in and out.

mod failure;
mod idle;
mod pump;
mod receive;
mod span;

pub use failure::{UNKNOWN_METHOD, open_status, stream_status};
pub use idle::Idle;
pub use pump::{Pump, PumpEnd};
pub use receive::{Receive, ReceiveEnd};
pub use span::handler_span;

use std::time::Duration;

/// The deadline of a unary call that has no other: ten times what a slow call takes, and short enough that a stuck one is noticed.
pub const DEADLINE_DEFAULT: Duration = Duration::from_secs(10);
