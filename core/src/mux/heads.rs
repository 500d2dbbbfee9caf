//! Heads of requests and responses: whole within their frame, or the call is refused and the connection lives on.

use std::time::Instant;

use super::error::StreamError;
use super::frames::discard;
use super::{Events, Mux};
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::error::DecodeError;
use crate::wire::frame::FrameHeader;

/// A head, as far as it can be read.
pub(super) enum Head<T> {
    /// The head, and how many bytes of the frame it takes.
    Read(T, usize),
    /// More of its frame must arrive.
    Incomplete,
    /// What is wrong, and how many bytes of the frame are head.
    Bad(DecodeError, usize),
}

impl Mux {
    /// Reads a head that must lie within its frame.
    pub(super) fn read_head<T>(
        &self,
        frame: &[u8],
        frame_len: usize,
        fixed: usize,
        decode: impl FnOnce(&[u8], usize) -> Result<(T, usize), DecodeError>,
    ) -> Head<T> {
        let Some(len) = frame.get(fixed - 2..fixed) else {
            return if frame_len < fixed {
                Head::Bad(DecodeError::Truncated { what: "the head" }, frame_len)
            } else {
                Head::Incomplete
            };
        };
        let metadata_len = usize::from(u16::from_be_bytes([len[0], len[1]]));
        // Behind it the frame has stream bytes, which count against credit even if the head is bad.
        let head_len = (fixed + metadata_len).min(frame_len);
        if metadata_len > self.config.max_head {
            let error = DecodeError::TooLong {
                what: "the metadata",
                len: metadata_len,
                limit: self.config.max_head,
            };
            return Head::Bad(error, head_len);
        }
        if frame.len() < fixed + metadata_len && frame.len() < frame_len {
            return Head::Incomplete;
        }
        match decode(frame, self.config.max_head) {
            Ok((head, used)) => Head::Read(head, used),
            Err(error) => Head::Bad(error, head_len),
        }
    }

    /// Answers a call whose head cannot be read; the connection lives on.
    pub(super) fn refuse_head(
        &mut self,
        now: Instant,
        header: FrameHeader,
        error: &DecodeError,
        used: usize,
        events: &mut Events,
    ) {
        let status = match error {
            DecodeError::TooLong { .. } | DecodeError::TooMany { .. } => Status::resource_exhausted(error.to_string()),
            _ => Status::invalid_argument(error.to_string()),
        };
        self.outbox.push_end(header.stream, Some(&status), &Metadata::new());
        self.expect_late(self.config.stream_window);
        self.count_vain_call(now, events);
        self.return_unwanted(header.len - used);
        self.input = discard(header.len);
    }
}

/// A head that cannot be read, as the error of its stream.
pub(super) fn stream_error(error: DecodeError) -> StreamError {
    match error {
        DecodeError::TooLong { what, len, limit } => StreamError::TooLarge { what, len, limit },
        DecodeError::Truncated { .. }
        | DecodeError::TrailingBytes { .. }
        | DecodeError::TooDeep { .. }
        | DecodeError::TooMany { .. }
        | DecodeError::Utf8 { .. }
        | DecodeError::Invalid(_) => StreamError::Protocol(error.to_string()),
    }
}
