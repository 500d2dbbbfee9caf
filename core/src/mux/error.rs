//! How streams and connections end.

use std::fmt;
use std::sync::Arc;

use crate::wire::frame::ErrorCode;

/// Why a connection is over: one cause, shared by all of its streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    code: ErrorCode,
    by_peer: bool,
    reason: Arc<str>,
}

impl ConnectionEnd {
    /// An end that this side decided on.
    #[must_use]
    pub fn ours(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            by_peer: false,
            reason: reason.into().into(),
        }
    }

    /// An end that the peer, or the network, brought about.
    #[must_use]
    pub fn theirs(code: ErrorCode, reason: impl Into<String>) -> Self {
        Self {
            code,
            by_peer: true,
            reason: reason.into().into(),
        }
    }

    /// The class of the end.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Whether the peer, or the network, brought it about.
    #[must_use]
    pub fn is_by_peer(&self) -> bool {
        self.by_peer
    }

    /// The reason, for people.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for ConnectionEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for ConnectionEnd {}

/// Why a stream ended without a status.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StreamError {
    /// The connection is over.
    #[error("the connection is gone: {end}")]
    Connection {
        /// Why.
        end: ConnectionEnd,
        /// Whether any byte of the request may have left.
        sent: bool,
    },
    /// The peer reset the stream.
    #[error("the peer reset the call ({code:?})")]
    Reset {
        /// Its code.
        code: ErrorCode,
    },
    /// The peer said that it did not process the stream.
    #[error("the server is going away and did not take the call up")]
    NotProcessed,
    /// The deadline passed.
    #[error("the deadline passed")]
    DeadlineExceeded,
    /// The peer's message is larger than this side accepts.
    #[error("{what} has {len} bytes; the most is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The peer's message is compressed, which was not agreed on.
    #[error("the message is compressed; compressions that are supported: none")]
    Compressed,
    /// This side gave the call up.
    #[error("{0}")]
    Aborted(String),
    /// The peer's message makes no sense on this stream.
    #[error("{0}")]
    Protocol(String),
}

impl StreamError {
    /// What it is to a client that the server reset a stream.
    pub(super) fn of_reset(code: ErrorCode) -> Self {
        match code {
            ErrorCode::Refused => Self::NotProcessed,
            _ => Self::Reset { code },
        }
    }
}

/// Why a stream could not be opened now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// As many streams are open as the peer accepts; wait for one to end.
    #[error("as many calls are running as the server accepts on one connection")]
    Full,
    /// The peer accepts no further streams, or the ids are used up; use another connection.
    #[error("the connection accepts no further calls")]
    GoingAway,
    /// The connection is over.
    #[error("the connection is gone: {0}")]
    Closed(ConnectionEnd),
    /// The metadata has more entries than the protocol allows.
    #[error("the metadata has {len} entries; the most is {limit}")]
    TooManyEntries {
        /// How many it has.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// The request is larger than the peer accepts.
    #[error("{what} has {len} bytes; the server accepts {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
}
