//! HELLO: what a peer accepts.

use super::codec::raw;
use super::error::DecodeError;
use super::frame::{
    CONNECTION_WINDOW_MIN, CREDIT_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, STREAM_WINDOW_MIN, STREAMS_MIN,
};

/// The most bytes of a HELLO.
pub const HELLO_BYTES_MAX: usize = 4 * 1024;
/// The least `max_head` that counts: without room for any metadata, a peer could have the handlers of others run for nothing but errors.
pub const HEAD_BYTES_MIN: usize = 256;
/// The most bytes of a name in `agent` that are kept.
pub(crate) const AGENT_BYTES_MAX: usize = 64;

/// What the sender of a HELLO accepts; the defaults hold until it arrives.
///
/// Defaults and least values are in the table of [`wire`](super).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Payload of a frame, in bytes.
    pub max_frame: usize,
    /// First credit of each stream, in bytes.
    pub stream_window: u32,
    /// First credit of the connection, in bytes.
    pub connection_window: u32,
    /// Streams open at a time.
    pub max_streams: u32,
    /// One message, in bytes.
    pub max_message: usize,
    /// Metadata of one head, in bytes.
    pub max_head: usize,
    /// Pings closer together count against the sender, in milliseconds.
    pub ping_interval_min_ms: u32,
    /// The least time between two load reports, in milliseconds; 0 for none at all.
    pub load_interval_ms: u32,
    /// Name and version, for logs.
    pub agent: String,
}

impl Default for Hello {
    fn default() -> Self {
        Self {
            max_frame: FRAME_BYTES_MIN,
            stream_window: STREAM_WINDOW_MIN,
            connection_window: CONNECTION_WINDOW_MIN,
            max_streams: STREAMS_MIN,
            max_message: 4 * 1024 * 1024,
            max_head: 16 * 1024,
            ping_interval_min_ms: 5_000,
            load_interval_ms: 0,
            agent: String::new(),
        }
    }
}

impl Hello {
    /// Appends the payload of the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        raw::write_map_len(out, 9);
        let numbers = [
            ("max_frame", self.max_frame as u64),
            ("stream_window", u64::from(self.stream_window)),
            ("connection_window", u64::from(self.connection_window)),
            ("max_streams", u64::from(self.max_streams)),
            ("max_message", self.max_message as u64),
            ("max_head", self.max_head as u64),
            ("ping_interval_min_ms", u64::from(self.ping_interval_min_ms)),
            ("load_interval_ms", u64::from(self.load_interval_ms)),
        ];
        for (name, number) in numbers {
            raw::write_str(out, name);
            raw::write_uint(out, number);
        }
        raw::write_str(out, "agent");
        raw::write_str(out, &self.agent);
    }

    /// Reads the payload of the frame; windows, frame sizes and heads below the protocol's constants count as the constants.
    ///
    /// # Errors
    /// [`DecodeError`] if it is no map with string keys, or a known field has the wrong type.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut hello = Self::default();
        let mut reader = raw::Reader::new(bytes);
        let fields = reader.map_len()?;
        for _ in 0..fields {
            match reader.str()? {
                "max_frame" => {
                    hello.max_frame = size(reader.uint()?).clamp(FRAME_BYTES_MIN, FRAME_BYTES_MAX);
                }
                "stream_window" => {
                    hello.stream_window = number(reader.uint()?).clamp(STREAM_WINDOW_MIN, CREDIT_MAX);
                }
                "connection_window" => {
                    hello.connection_window = number(reader.uint()?).clamp(CONNECTION_WINDOW_MIN, CREDIT_MAX);
                }
                "max_streams" => hello.max_streams = number(reader.uint()?).max(1),
                "max_message" => hello.max_message = size(reader.uint()?),
                "max_head" => hello.max_head = size(reader.uint()?).max(HEAD_BYTES_MIN),
                "ping_interval_min_ms" => hello.ping_interval_min_ms = number(reader.uint()?),
                "load_interval_ms" => hello.load_interval_ms = number(reader.uint()?),
                "agent" => {
                    let agent = reader.str()?;
                    hello.agent = agent[..agent.floor_char_boundary(AGENT_BYTES_MAX)].to_owned();
                }
                _ => reader.skip()?,
            }
        }
        reader.end("HELLO")?;
        Ok(hello)
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn number(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{HEAD_BYTES_MIN, Hello};
    use crate::wire::codec::raw;
    use crate::wire::frame::{CONNECTION_WINDOW_MIN, CREDIT_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MIN, STREAM_WINDOW_MIN};

    #[test]
    fn hello_round_trips() {
        let hello = Hello {
            max_frame: 65_536,
            max_streams: 1024,
            agent: "sinew/0.1.0".to_owned(),
            ..Hello::default()
        };
        let mut bytes = Vec::new();
        hello.encode(&mut bytes);
        assert_eq!(Hello::decode(&bytes), Ok(hello));
        for cut in 0..bytes.len() {
            assert!(Hello::decode(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn unknown_fields_are_skipped_and_low_values_raised() {
        let mut bytes = Vec::new();
        raw::write_map_len(&mut bytes, 3);
        raw::write_str(&mut bytes, "from_the_future");
        raw::write_array_len(&mut bytes, 2);
        raw::write_uint(&mut bytes, 1);
        raw::write_str(&mut bytes, "x");
        raw::write_str(&mut bytes, "max_frame");
        raw::write_uint(&mut bytes, 1);
        raw::write_str(&mut bytes, "max_streams");
        raw::write_uint(&mut bytes, 1);
        let hello = Hello::decode(&bytes).unwrap();
        assert_eq!(hello.max_frame, FRAME_BYTES_MIN);
        assert_eq!(
            hello.max_streams, 1,
            "fewer streams may be announced: those above are refused, not lost"
        );
    }

    #[test]
    fn a_frame_size_is_cut_to_what_the_length_can_tell() {
        let mut bytes = Vec::new();
        raw::write_map_len(&mut bytes, 1);
        raw::write_str(&mut bytes, "max_frame");
        raw::write_uint(&mut bytes, u64::MAX);
        assert_eq!(Hello::decode(&bytes).unwrap().max_frame, FRAME_BYTES_MAX);
    }

    #[test]
    fn every_peer_takes_some_metadata() {
        for (announced, counts) in [(0, 256), (255, 256), (256, 256), (257, 257), (16_384, 16_384)] {
            let mut bytes = Vec::new();
            raw::write_map_len(&mut bytes, 1);
            raw::write_str(&mut bytes, "max_head");
            raw::write_uint(&mut bytes, announced);
            assert_eq!(Hello::decode(&bytes).unwrap().max_head, counts);
        }
        assert_eq!(HEAD_BYTES_MIN, 256);
    }

    proptest! {
        /// What one may announce comes back; fields of later versions around it change nothing.
        #[test]
        fn any_hello_comes_back(
            max_frame in FRAME_BYTES_MIN..=FRAME_BYTES_MAX,
            stream_window in STREAM_WINDOW_MIN..=CREDIT_MAX,
            connection_window in CONNECTION_WINDOW_MIN..=CREDIT_MAX,
            max_streams in 1..=u32::MAX,
            max_message in 0..=u32::MAX as usize,
            max_head in HEAD_BYTES_MIN..=32 * 1024,
            ping_interval_min_ms in any::<u32>(),
            load_interval_ms in any::<u32>(),
            agent in "[ -~]{0,64}",
            later in any::<i64>(),
        ) {
            let hello = Hello {
                max_frame,
                stream_window,
                connection_window,
                max_streams,
                max_message,
                max_head,
                ping_interval_min_ms,
                load_interval_ms,
                agent,
            };
            let mut bytes = Vec::new();
            hello.encode(&mut bytes);
            prop_assert_eq!(Hello::decode(&bytes), Ok(hello.clone()));
            prop_assert!(Hello::decode(&bytes[..bytes.len() - 1]).is_err());
            // One field more than the nine that the map began with.
            prop_assert_eq!(bytes[0], 0x89);
            bytes[0] = 0x8a;
            raw::write_str(&mut bytes, "from_the_future");
            bytes.push(0xd3);
            bytes.extend_from_slice(&later.to_be_bytes());
            prop_assert_eq!(Hello::decode(&bytes), Ok(hello));
        }

        #[test]
        fn a_hello_of_any_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Hello::decode(&bytes);
        }
    }
}
