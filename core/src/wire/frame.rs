//! Frame headers: eight bytes that say how long, what and for which stream.

use std::fmt;

/// Bytes of the preface.
pub const PREFACE: [u8; 8] = [0xF5, b'S', b'I', b'N', b'E', b'W', VERSION_MAJOR, VERSION_MINOR];
/// Peers with another major version do not understand each other.
pub const VERSION_MAJOR: u8 = 1;
/// Minor versions only add what older peers ignore.
pub const VERSION_MINOR: u8 = 0;
/// Bytes of a frame header.
pub const HEADER_BYTES: usize = 8;
/// Bytes of the length in front of each message.
pub const MESSAGE_PREFIX_BYTES: usize = 4;
/// Set in `kind` when the sender's half of the stream ends with the frame.
pub const FIN: u8 = 0x80;
/// Set in a message's length when it is compressed; reserved.
pub const COMPRESSED: u32 = 0x8000_0000;
/// Longest payload that a peer must accept before its HELLO: room for the largest head and then some.
pub const FRAME_BYTES_MIN: usize = 32 * 1024;
/// Longest payload that the length field can tell.
pub const FRAME_BYTES_MAX: usize = (1 << 24) - 1;
/// Credit of a stream before the peer's HELLO.
pub const STREAM_WINDOW_MIN: u32 = 64 * 1024;
/// Credit of a connection before the peer's HELLO.
pub const CONNECTION_WINDOW_MIN: u32 = 1024 * 1024;
/// Streams that may be open before the peer's HELLO.
pub const STREAMS_MIN: u32 = 100;
/// The most credit that a stream or connection may ever have.
pub const CREDIT_MAX: u32 = (1 << 31) - 1;

/// Which stream a frame belongs to; 0 is the connection itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The connection itself.
    pub const CONNECTION: Self = Self(0);
    /// "All streams": the last stream of a first GOAWAY.
    pub const MAX: Self = Self(u32::MAX);
}

impl fmt::Debug for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// The defined frame types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameType {
    /// What the sender accepts.
    Hello,
    /// A new call.
    Open,
    /// Stream bytes.
    Data,
    /// The response head.
    Reply,
    /// The status of a call.
    End,
    /// The end of both halves of a stream.
    Reset,
    /// More credit.
    Credit,
    /// A question whether the peer lives.
    Ping,
    /// The answer.
    Pong,
    /// No further streams.
    GoAway,
    /// A type of a newer version that may be ignored.
    Extension,
}

impl FrameType {
    /// The type in the low bits of `kind`; `None` if it is reserved.
    #[must_use]
    pub const fn from_kind(kind: u8) -> Option<Self> {
        Some(match kind & 0x1f {
            0 => Self::Hello,
            1 => Self::Open,
            2 => Self::Data,
            3 => Self::Reply,
            4 => Self::End,
            5 => Self::Reset,
            6 => Self::Credit,
            7 => Self::Ping,
            8 => Self::Pong,
            9 => Self::GoAway,
            16..=31 => Self::Extension,
            _ => return None,
        })
    }

    /// The bits that stand for it in `kind`.
    #[must_use]
    pub const fn as_kind(self) -> u8 {
        match self {
            Self::Hello => 0,
            Self::Open => 1,
            Self::Data => 2,
            Self::Reply => 3,
            Self::End => 4,
            Self::Reset => 5,
            Self::Credit => 6,
            Self::Ping => 7,
            Self::Pong => 8,
            Self::GoAway => 9,
            Self::Extension => 16,
        }
    }
}

/// A frame header, as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// Bytes of the payload.
    pub len: usize,
    /// Type and flags.
    pub kind: u8,
    /// The stream.
    pub stream: StreamId,
}

impl FrameHeader {
    /// Reads a header.
    #[must_use]
    pub fn decode(bytes: [u8; HEADER_BYTES]) -> Self {
        let word = u64::from_be_bytes(bytes);
        Self {
            len: usize::try_from(word >> 40).unwrap_or(usize::MAX),
            kind: u8::try_from((word >> 32) & 0xff).unwrap_or(u8::MAX),
            stream: StreamId(u32::try_from(word & 0xffff_ffff).unwrap_or(u32::MAX)),
        }
    }

    /// Whether the sender's half of the stream ends here.
    #[must_use]
    pub const fn is_fin(&self) -> bool {
        self.kind & FIN != 0
    }
}

/// The eight bytes of a header.
///
/// `len` is cut to 24 bits; callers keep it below [`FRAME_BYTES_MAX`].
#[must_use]
pub fn header(frame_type: FrameType, fin: bool, stream: StreamId, len: usize) -> [u8; HEADER_BYTES] {
    debug_assert!(len <= FRAME_BYTES_MAX, "a frame never outgrows its length field");
    let kind = u64::from(frame_type.as_kind() | if fin { FIN } else { 0 });
    let word = ((len as u64) << 40) | (kind << 32) | u64::from(stream.0);
    word.to_be_bytes()
}

/// Why a stream or connection was ended, as it travels in RESET and GOAWAY.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum ErrorCode {
    /// A normal end; in RESET: the caller cancelled.
    None = 0,
    /// A frame that the protocol does not allow.
    Protocol = 1,
    /// The stream was not processed.
    Refused = 2,
    /// More bytes than credit, or more credit than can be.
    FlowControl = 3,
    /// A frame, head or message over its limit.
    TooLarge = 4,
    /// Flooding.
    CalmDown = 5,
    /// A bug.
    Internal = 6,
    /// The peer did not answer a ping.
    KeepaliveTimeout = 7,
    /// The peer speaks another major version.
    Version = 8,
    /// The peer sent no HELLO in time.
    HandshakeTimeout = 9,
    /// Nothing was called for long.
    Idle = 10,
}

impl ErrorCode {
    /// The code with this number; unknown ones are [`ErrorCode::Internal`].
    #[must_use]
    pub const fn from_u32(number: u32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Protocol,
            2 => Self::Refused,
            3 => Self::FlowControl,
            4 => Self::TooLarge,
            5 => Self::CalmDown,
            7 => Self::KeepaliveTimeout,
            8 => Self::Version,
            9 => Self::HandshakeTimeout,
            10 => Self::Idle,
            _ => Self::Internal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{ErrorCode, FRAME_BYTES_MAX, FrameHeader, FrameType, StreamId, header};

    #[test]
    fn headers_round_trip() {
        for (len, stream) in [(0, 0), (1, 1), (FRAME_BYTES_MAX, u32::MAX), (300, 77)] {
            for fin in [false, true] {
                let read = FrameHeader::decode(header(FrameType::Data, fin, StreamId(stream), len));
                assert_eq!((read.len, read.stream.0, read.is_fin()), (len, stream, fin));
                assert_eq!(FrameType::from_kind(read.kind), Some(FrameType::Data));
            }
        }
    }

    #[test]
    fn types_and_codes_round_trip() {
        for kind in 0..=31_u8 {
            match FrameType::from_kind(kind) {
                Some(FrameType::Extension) => assert!(kind >= 16),
                Some(known) => assert_eq!(known.as_kind(), kind),
                None => assert!((10..16).contains(&kind)),
            }
        }
        for number in 0..=10 {
            assert_eq!(ErrorCode::from_u32(number) as u32, number);
        }
    }
}
