//! Bytes -> frames: cuts the input and hands every frame to its handler in `connection`.
//!
//! Stream bytes are taken up as they come; heads and control frames wait until they are whole, which their limits keep short.

use std::time::Instant;

use super::{Events, Mux, Role};
use crate::wire::frame::{ErrorCode, FrameHeader, FrameType, HEADER_BYTES, PREFACE, StreamId, VERSION_MAJOR};
use crate::wire::head::{END_BYTES_MAX, REQUEST_HEAD_BYTES, RESPONSE_HEAD_BYTES};
use crate::wire::hello::HELLO_BYTES_MAX;

/// The most bytes of a GOAWAY.
pub(super) const GO_AWAY_BYTES_MAX: usize = 1024;
/// The longest run of bytes that must stand together before it can be handled: a frame header with the longest END or head. A driver's read
/// buffer holds at least this much.
pub(crate) const CONTIGUOUS_BYTES_MAX: usize = HEADER_BYTES + END_BYTES_MAX + REQUEST_HEAD_BYTES;

/// Where the input stands inside a frame.
#[derive(Debug, Default, Clone, Copy)]
pub(super) enum Input {
    /// Between two frames.
    #[default]
    Header,
    /// Inside stream bytes.
    Body { stream: StreamId, left: usize, fin: bool },
    /// Inside a payload that nobody wants.
    Discard { left: usize },
}

/// How a frame ended.
pub(super) enum Step {
    /// It used this many bytes.
    Used(usize),
    /// It needs more bytes than there are.
    Incomplete,
}

impl Mux {
    /// Takes up bytes that arrived; returns how many were used. The rest is to be given again, with more behind it.
    ///
    /// After the connection ended, everything is used and nothing happens.
    pub fn handle_input(&mut self, now: Instant, input: &[u8], events: &mut Events) -> usize {
        self.keepalive.heard(now);
        let mut at = 0;
        while self.end.is_none() {
            let rest = &input[at..];
            let step = match self.input {
                Input::Body { stream, left, fin } => {
                    let len = left.min(rest.len());
                    if len == 0 && left > 0 {
                        break;
                    }
                    self.handle_body(now, stream, &rest[..len], left - len, fin, events);
                    Step::Used(len)
                }
                Input::Discard { left } => {
                    let len = left.min(rest.len());
                    if len == 0 {
                        break;
                    }
                    self.input = discard(left - len);
                    Step::Used(len)
                }
                Input::Header => self.handle_frame(now, rest, events),
            };
            match step {
                Step::Used(len) => at += len,
                Step::Incomplete => break,
            }
        }
        self.publish();
        if self.end.is_some() { input.len() } else { at }
    }

    fn handle_frame(&mut self, now: Instant, rest: &[u8], events: &mut Events) -> Step {
        if !self.preface_received {
            return self.handle_preface(rest, events);
        }
        let Some((bytes, payload)) = rest.split_first_chunk::<HEADER_BYTES>() else {
            return Step::Incomplete;
        };
        let header = FrameHeader::decode(*bytes);
        if header.len > self.config.max_frame {
            let reason = format!(
                "a frame has {} bytes; the most is {}",
                header.len, self.config.max_frame
            );
            self.fail(ErrorCode::TooLarge, reason, events);
            return Step::Used(0);
        }
        let Some(frame_type) = FrameType::from_kind(header.kind) else {
            self.fail(
                ErrorCode::Protocol,
                format!("frame type {} is reserved", header.kind & 0x1f),
                events,
            );
            return Step::Used(0);
        };
        if !self.hello_received && frame_type != FrameType::Hello {
            self.fail(ErrorCode::Protocol, "the first frame is not HELLO", events);
            return Step::Used(0);
        }
        match frame_type {
            FrameType::Open => self.handle_open(now, header, payload, events),
            FrameType::Reply => self.handle_reply(now, header, payload, events),
            FrameType::Data => {
                self.begin_data(now, header, events);
                Step::Used(HEADER_BYTES)
            }
            FrameType::Extension => {
                self.count_nuisance(now, events);
                self.input = discard(header.len);
                Step::Used(HEADER_BYTES)
            }
            FrameType::Hello
            | FrameType::End
            | FrameType::Reset
            | FrameType::Credit
            | FrameType::Ping
            | FrameType::Pong
            | FrameType::GoAway => self.handle_control(now, frame_type, header, payload, events),
        }
    }

    fn handle_preface(&mut self, rest: &[u8], events: &mut Events) -> Step {
        let len = rest.len().min(PREFACE.len());
        let magic = len.min(PREFACE.len() - 2);
        if rest[..magic] != PREFACE[..magic] {
            let what = what_speaks(rest);
            self.fail(
                ErrorCode::Protocol,
                format!("the peer does not speak sinew{what}"),
                events,
            );
            return Step::Used(0);
        }
        let Some(&major) = rest.get(PREFACE.len() - 2) else {
            return Step::Incomplete;
        };
        if major != VERSION_MAJOR {
            let reason = format!("the peer speaks version {major} of the protocol, this side version {VERSION_MAJOR}");
            self.fail(ErrorCode::Version, reason, events);
            return Step::Used(0);
        }
        if rest.len() < PREFACE.len() {
            return Step::Incomplete;
        }
        self.preface_received = true;
        Step::Used(PREFACE.len())
    }

    /// Frames that are handled whole.
    fn handle_control(
        &mut self,
        now: Instant,
        frame_type: FrameType,
        header: FrameHeader,
        payload: &[u8],
        events: &mut Events,
    ) -> Step {
        let (len_max, len_min) = match frame_type {
            FrameType::Hello => (HELLO_BYTES_MAX, 1),
            FrameType::End => (END_BYTES_MAX, 2 + RESPONSE_HEAD_BYTES),
            FrameType::GoAway => (GO_AWAY_BYTES_MAX, 8),
            FrameType::Ping | FrameType::Pong => (8, 8),
            _ => (4, 4),
        };
        if header.len > len_max || header.len < len_min {
            let reason = format!(
                "{frame_type:?} has {} bytes; it must have {len_min} to {len_max}",
                header.len
            );
            self.fail(ErrorCode::Protocol, reason, events);
            return Step::Used(0);
        }
        let Some(payload) = payload.get(..header.len) else {
            return Step::Incomplete;
        };
        match frame_type {
            FrameType::Hello => self.handle_hello(payload, events),
            FrameType::End => self.handle_end_frame(now, header.stream, payload, events),
            FrameType::Reset => self.handle_reset(now, header.stream, number(payload), events),
            FrameType::Credit => self.handle_credit(now, header.stream, number(payload), events),
            FrameType::GoAway => self.handle_go_away(now, payload, events),
            FrameType::Ping => self.handle_ping(now, payload, events),
            _ => self.handle_pong(now, payload, events),
        }
        Step::Used(HEADER_BYTES + header.len)
    }

    /// Counts a call that came to nothing by the client's doing.
    pub(super) fn count_vain_call(&mut self, now: Instant, events: &mut Events) {
        let within = match self.company.group() {
            None => self.nuisance.spend_call(now),
            Some(group) => group.vain_calls.spend(now),
        };
        if !within {
            self.fail(
                ErrorCode::CalmDown,
                "too many calls that came to nothing (resets, broken rules, more than allowed)",
                events,
            );
        }
    }

    /// Counts a frame for a stream that is over, unless it may have crossed its end.
    pub(super) fn count_late(&mut self, now: Instant, bytes: usize, events: &mut Events) {
        if !self.nuisance.spend_late(now, bytes) {
            self.fail(ErrorCode::CalmDown, "too many frames for calls that are over", events);
        }
    }

    /// Counts a frame that cost work for nothing.
    pub(super) fn count_nuisance(&mut self, now: Instant, events: &mut Events) {
        if !self.nuisance.spend(now) {
            self.fail(
                ErrorCode::CalmDown,
                "too many frames that carry nothing (empty data, tiny credits)",
                events,
            );
        }
    }

    /// Ends the connection if this side may not receive such frames.
    pub(super) fn only_for(&mut self, role: Role, what: &str, events: &mut Events) -> bool {
        if self.role == role {
            return true;
        }
        self.fail(
            ErrorCode::Protocol,
            format!("{what} must not be sent to this side"),
            events,
        );
        false
    }
}

pub(super) fn discard(left: usize) -> Input {
    if left == 0 {
        Input::Header
    } else {
        Input::Discard { left }
    }
}

fn number(payload: &[u8]) -> u32 {
    payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// A guess at what a stranger speaks, for the operator who mixed up two ports.
fn what_speaks(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(&[0x16, 0x03]) {
        "; it began a TLS handshake: use tls:// on both sides, or tcp:// on both"
    } else if bytes.starts_with(&[0x15, 0x03]) {
        "; it speaks TLS: call it by tls://"
    } else if bytes.starts_with(b"PRI * HTTP/2") {
        "; it speaks HTTP/2"
    } else if bytes.starts_with(b"GET ") || bytes.starts_with(b"POST") || bytes.starts_with(b"HTTP") {
        "; it speaks HTTP"
    } else {
        ""
    }
}
