//! One mux against frames that are written by hand, as the wire's documentation has them.

use std::time::Instant;

use super::pair::Side;
use crate::mux::{Incoming, MuxConfig, Role, StreamKey};
use crate::wire::frame::ErrorCode;

pub(super) const HELLO: u8 = 0;
pub(super) const OPEN: u8 = 1;
pub(super) const DATA: u8 = 2;
pub(super) const REPLY: u8 = 3;
pub(super) const END: u8 = 4;
pub(super) const RESET: u8 = 5;
pub(super) const CREDIT: u8 = 6;
pub(super) const PING: u8 = 7;
pub(super) const PONG: u8 = 8;
pub(super) const GOAWAY: u8 = 9;
pub(super) const FIN: u8 = 0x80;

/// A frame, written without the code under test.
pub(super) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind];
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

pub(super) fn preface() -> Vec<u8> {
    b"\xF5SINEW\x01\x00".to_vec()
}

/// A HELLO that announces nothing: an empty map.
pub(super) fn hello() -> Vec<u8> {
    frame(HELLO, 0, &[0x80])
}

/// A request head without metadata.
pub(super) fn head(timeout: u32) -> Vec<u8> {
    let mut bytes = 7_u64.to_be_bytes().to_vec();
    bytes.extend_from_slice(&timeout.to_be_bytes());
    bytes.extend_from_slice(&[0, 0]);
    bytes
}

/// A message with its length.
pub(super) fn message(bytes: &[u8]) -> Vec<u8> {
    let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
    framed.extend_from_slice(bytes);
    framed
}

pub(super) fn open(stream: u32, body: &[u8], fin: bool) -> Vec<u8> {
    let kind = if fin { OPEN | FIN } else { OPEN };
    frame(kind, stream, &[head(0), body.to_vec()].concat())
}

/// One mux, and what it sent.
pub(super) struct Raw {
    pub(super) side: Side,
    pub(super) now: Instant,
}

impl Raw {
    /// A mux that has heard nothing yet.
    pub(super) fn silent(role: Role, config: MuxConfig) -> Self {
        config.check().unwrap();
        let now = crate::time::now();
        Self {
            side: Side::new(role, config, now),
            now,
        }
    }

    /// A server that has a preface and an empty HELLO; its own are dropped.
    pub(super) fn server() -> Self {
        Self::started(Role::Server, MuxConfig::default())
    }

    /// A client, likewise.
    pub(super) fn client() -> Self {
        Self::started(Role::Client, MuxConfig::default())
    }

    pub(super) fn started(role: Role, config: MuxConfig) -> Self {
        let mut raw = Self::silent(role, config);
        raw.feed(&[preface(), hello()].concat());
        let _own = raw.frames();
        raw
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.side.feed(self.now, bytes);
    }

    /// The frames that were sent since the last time: kind, stream, payload. A preface in front is dropped.
    pub(super) fn frames(&mut self) -> Vec<(u8, u32, Vec<u8>)> {
        self.side.write_all();
        let bytes = std::mem::take(&mut self.side.sent);
        let mut rest = bytes.strip_prefix(&preface()[..]).unwrap_or(&bytes);
        let mut frames = Vec::new();
        while let Some((header, after)) = rest.split_first_chunk::<8>() {
            let len = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let stream = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            frames.push((header[3], stream, after[..len].to_vec()));
            rest = &after[len..];
        }
        assert!(rest.is_empty(), "frames are whole");
        frames
    }

    /// The code and the last stream of the GOAWAY that must have been sent.
    pub(super) fn go_away(&mut self) -> (ErrorCode, u32) {
        let frames = self.frames();
        let (_, _, payload) = frames
            .iter()
            .find(|(kind, ..)| *kind == GOAWAY)
            .unwrap_or_else(|| panic!("no GOAWAY among {frames:?}"));
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        assert!(
            std::str::from_utf8(&payload[8..]).is_ok_and(|reason| !reason.is_empty()),
            "it gives a reason"
        );
        (ErrorCode::from_u32(number(4)), number(0))
    }

    /// The connection must have ended with this code; its peer was told.
    #[track_caller]
    pub(super) fn expect_end(&mut self, code: ErrorCode) {
        let end = self.side.mux.end().unwrap_or_else(|| panic!("the connection lives, {code:?} expected"));
        assert_eq!(end.code(), code, "{end}");
        assert_eq!(self.go_away().0, code);
        assert_eq!(self.side.mux.next_timeout(), None, "nothing is left to wait for");
    }

    /// The connection lives.
    #[track_caller]
    pub(super) fn expect_alive(&self) {
        assert_eq!(self.side.mux.end(), None);
    }

    /// The gRPC code of the END of `stream` that must have been sent.
    #[track_caller]
    pub(super) fn end_code(&mut self, stream: u32) -> u8 {
        let frames = self.frames();
        let end = frames.iter().find(|(kind, id, _)| *kind == END | FIN && *id == stream);
        end.unwrap_or_else(|| panic!("no END of {stream} among {frames:?}")).2[0]
    }

    /// The calls that arrived since the last time, and whether their arguments did.
    pub(super) fn calls(&mut self) -> Vec<(StreamKey, Option<Vec<u8>>)> {
        self.side
            .events
            .incoming
            .drain(..)
            .map(|incoming| match incoming {
                Incoming::Opened { key, arguments, .. } => (key, arguments.map(|payload| payload.to_vec())),
                Incoming::Arguments { key, arguments, .. } => (key, Some(arguments.to_vec())),
            })
            .collect()
    }
}
