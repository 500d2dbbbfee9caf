//! The border between streams and calls: every way in which a stream fails, as the status that the caller sees.

use std::time::Duration;

use crate::mux::{OpenError, StreamError};
use crate::status::{HandlerRan, Origin, Status};
use crate::wire::frame::ErrorCode;

/// How a server begins to say that it has no method with this id; the client, which knows the name, says more.
pub const UNKNOWN_METHOD: &str = "no method with id";

/// What turns those away who make calls only to end them, as a status names it, and when they may come back.
const FLOOD_POLICY: &str = "flood_protection";
const FLOOD_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The status of a call whose stream failed at the client.
#[must_use]
pub fn stream_status(error: StreamError) -> Status {
    match error {
        StreamError::Connection { end, sent } => {
            let ran = if sent { HandlerRan::Maybe } else { HandlerRan::No };
            let message = format!("the connection is gone: {end}");
            let status = match end.code() {
                // The peer ended it because it was flooded.
                ErrorCode::CalmDown if end.is_by_peer() => Status::unavailable(message)
                    .with_rejection(FLOOD_POLICY, "calm_down")
                    .with_retry_after(FLOOD_RETRY_AFTER),
                _ => Status::unavailable(message),
            };
            status.with_origin(Origin::Transport).with_handler_ran(ran).with_source(end)
        }
        StreamError::NotProcessed => Status::unavailable("the server did not take the call up")
            .with_origin(Origin::Remote)
            .with_handler_ran(HandlerRan::No),
        StreamError::DeadlineExceeded => Status::deadline_exceeded("the deadline passed before the answer came")
            .with_origin(Origin::Local)
            .with_handler_ran(HandlerRan::Maybe),
        StreamError::TooLarge { .. } => Status::resource_exhausted(error.to_string())
            .with_origin(Origin::Local)
            .with_handler_ran(HandlerRan::Maybe),
        StreamError::Compressed => Status::unimplemented(error.to_string())
            .with_origin(Origin::Transport)
            .with_handler_ran(HandlerRan::Maybe),
        StreamError::Aborted(reason) => Status::cancelled(reason).with_handler_ran(HandlerRan::Maybe),
        StreamError::Protocol(reason) => {
            Status::internal(reason).with_origin(Origin::Transport).with_handler_ran(HandlerRan::Maybe)
        }
        StreamError::Reset { code } => reset_status(code),
    }
}

fn reset_status(code: ErrorCode) -> Status {
    let (status, ran) = match code {
        ErrorCode::None => (Status::cancelled("the call was cancelled"), HandlerRan::Maybe),
        ErrorCode::Refused => (
            Status::unavailable("the server did not take the call up"),
            HandlerRan::No,
        ),
        ErrorCode::TooLarge | ErrorCode::CalmDown => (
            Status::resource_exhausted(format!("the server reset the call ({code:?})")),
            HandlerRan::Maybe,
        ),
        ErrorCode::Protocol
        | ErrorCode::FlowControl
        | ErrorCode::Internal
        | ErrorCode::KeepaliveTimeout
        | ErrorCode::Version
        | ErrorCode::HandshakeTimeout
        | ErrorCode::Idle => (
            Status::internal(format!("the server reset the call ({code:?})")),
            HandlerRan::Maybe,
        ),
    };
    status.with_origin(Origin::Remote).with_handler_ran(ran)
}

/// The status of a call that could not be opened.
#[must_use]
pub fn open_status(error: OpenError) -> Status {
    let status = match error {
        OpenError::Full => Status::resource_exhausted(error.to_string()),
        OpenError::GoingAway => Status::unavailable(error.to_string()),
        OpenError::Closed(end) => Status::unavailable(format!("the connection is gone: {end}")).with_source(end),
        OpenError::TooLarge { .. } | OpenError::TooManyEntries { .. } => Status::resource_exhausted(error.to_string()),
    };
    status.with_origin(Origin::Local).with_handler_ran(HandlerRan::No)
}
