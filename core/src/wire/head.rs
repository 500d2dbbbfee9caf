//! What stands in front of and behind the messages of a call: request head, response head, status.

use bytes::Bytes;

use super::codec::raw;
use super::error::DecodeError;
use crate::code::Code;
use crate::metadata::{self, Metadata};
use crate::status::{HandlerRan, Origin, Status};

/// Bytes of a request head without metadata.
pub const REQUEST_HEAD_BYTES: usize = 14;
/// Bytes of a response head without metadata.
pub const RESPONSE_HEAD_BYTES: usize = 2;
/// The most entries of a head or of trailers: an entry takes four bytes on the wire at least, but some ninety in memory.
pub const METADATA_ENTRIES_MAX: usize = 256;
/// The most bytes of an END.
pub const END_BYTES_MAX: usize = 32 * 1024;
/// The metadata key that carries `service/method` in clear.
pub const PATH_KEY: &str = "sinew-path";

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The id of the method.
    pub method: u64,
    /// What is left of the deadline, in milliseconds; 0 for none.
    pub timeout: u32,
    /// The request's metadata.
    pub metadata: Metadata,
}

impl RequestHead {
    /// Bytes that the head takes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        REQUEST_HEAD_BYTES + self.metadata.encoded_len()
    }

    /// Appends the head.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.method.to_be_bytes());
        out.extend_from_slice(&self.timeout.to_be_bytes());
        encode_metadata(&self.metadata, out);
    }

    /// Reads a head from the front of `bytes`; returns it and its length.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes end inside it, or the metadata breaks its rules or `head_bytes_max`.
    #[inline]
    pub fn decode(bytes: &[u8], head_bytes_max: usize) -> Result<(Self, usize), DecodeError> {
        const WHAT: &str = "the request head";
        let truncated = DecodeError::Truncated { what: WHAT };
        let Some((fixed, rest)) = bytes.split_first_chunk::<12>() else {
            return Err(truncated);
        };
        let [m0, m1, m2, m3, m4, m5, m6, m7, t0, t1, t2, t3] = *fixed;
        let (metadata, used) = decode_metadata(rest, head_bytes_max, WHAT)?;
        let head = Self {
            method: u64::from_be_bytes([m0, m1, m2, m3, m4, m5, m6, m7]),
            timeout: u32::from_be_bytes([t0, t1, t2, t3]),
            metadata,
        };
        Ok((head, 12 + used))
    }
}

/// Appends `metadata length | metadata`.
#[inline]
pub fn encode_metadata(metadata: &Metadata, out: &mut Vec<u8>) {
    if metadata.is_empty() {
        out.extend_from_slice(&[0, 0]);
    } else {
        encode_entries(metadata, out);
    }
}

fn encode_entries(metadata: &Metadata, out: &mut Vec<u8>) {
    let len_at = out.len();
    out.extend_from_slice(&[0, 0]);
    for (key, value) in metadata.iter() {
        // Both lengths were checked when the entry was made.
        out.push(u8::try_from(key.len()).unwrap_or(u8::MAX));
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        out.extend_from_slice(value);
    }
    let len = u16::try_from(out.len() - len_at - 2).unwrap_or(u16::MAX);
    out[len_at..len_at + 2].copy_from_slice(&len.to_be_bytes());
}

/// Reads `metadata length | metadata` from the front of `bytes`; returns it and its length.
///
/// # Errors
/// [`DecodeError`] if the bytes end inside it, an entry breaks the rules, or it is longer than `bytes_max`.
#[inline]
pub fn decode_metadata(bytes: &[u8], bytes_max: usize, what: &'static str) -> Result<(Metadata, usize), DecodeError> {
    match bytes {
        [0, 0, ..] => Ok((Metadata::new(), 2)),
        _ => decode_entries(bytes, bytes_max, what),
    }
}

fn decode_entries(bytes: &[u8], bytes_max: usize, what: &'static str) -> Result<(Metadata, usize), DecodeError> {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return Err(DecodeError::Truncated { what });
    };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > bytes_max {
        return Err(DecodeError::TooLong {
            what: "the metadata",
            len,
            limit: bytes_max,
        });
    }
    let mut block = rest.get(..len).ok_or(DecodeError::Truncated { what })?;
    let mut metadata = Metadata::new();
    while !block.is_empty() {
        if metadata.len() == METADATA_ENTRIES_MAX {
            return Err(DecodeError::TooMany {
                what: "the metadata",
                limit: METADATA_ENTRIES_MAX,
            });
        }
        let (key, value, left) = split_entry(block).ok_or(DecodeError::Truncated { what })?;
        let key = std::str::from_utf8(key).map_err(|_| DecodeError::Utf8 { what: "a metadata key" })?;
        metadata::check(key, value).map_err(|error| DecodeError::invalid(error.to_string()))?;
        metadata.append(key.to_owned(), value).map_err(|error| DecodeError::invalid(error.to_string()))?;
        block = left;
    }
    Ok((metadata, 2 + len))
}

fn split_entry(block: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (&key_len, rest) = block.split_first()?;
    let (key, rest) = rest.split_at_checked(usize::from(key_len))?;
    let (value_len, rest) = rest.split_first_chunk::<2>()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*value_len)))?;
    Some((key, value, rest))
}

/// In the second byte of an END: no handler ran.
const NOT_RUN: u8 = 0x80;

/// Appends the payload of an END: the status with `trailers`.
///
/// What does not fit into [`END_BYTES_MAX`] is left out, the application error first, then the details, then the end of the message: the
/// code always arrives.
pub fn encode_end(status: Option<&Status>, trailers: &Metadata, out: &mut Vec<u8>) {
    let start = out.len();
    let code = status.map_or(Code::Ok, Status::code);
    let retry = match status.and_then(Status::retryable_override) {
        None => 0,
        Some(true) => 1,
        Some(false) => 2,
    };
    let not_run = status.is_some_and(|status| status.handler_ran() == HandlerRan::No);
    out.extend_from_slice(&[code.as_u8(), retry | if not_run { NOT_RUN } else { 0 }]);
    if trailers.encoded_len() <= END_BYTES_MAX / 2 && trailers.len() <= METADATA_ENTRIES_MAX {
        encode_metadata(trailers, out);
    } else {
        encode_metadata(&Metadata::new(), out);
    }
    let Some(status) = status else { return };
    let room = END_BYTES_MAX - (out.len() - start) - 16;
    let mut message = status.message();
    if message.len() > room / 2 {
        message = &message[..message.floor_char_boundary(room / 2)];
    }
    let room = room - message.len();
    let details = keep_within(status.details(), room);
    let app = keep_within(status.app_bytes(), room - details.len());
    if message.is_empty() && details.is_empty() && app.is_empty() {
        return;
    }
    raw::write_array_len(out, 3);
    raw::write_str(out, message);
    raw::write_bin(out, details);
    raw::write_bin(out, app);
}

fn keep_within(bytes: &[u8], room: usize) -> &[u8] {
    if bytes.len() <= room { bytes } else { &[] }
}

/// Reads the payload of an END: `None` for the status means OK.
///
/// # Errors
/// [`DecodeError`] if the bytes are not an END.
pub fn decode_end(bytes: &[u8], head_bytes_max: usize) -> Result<(Option<Status>, Metadata), DecodeError> {
    const WHAT: &str = "an END";
    let Some((&[code, retry], rest)) = bytes.split_first_chunk::<2>() else {
        return Err(DecodeError::Truncated { what: WHAT });
    };
    let (trailers, used) = decode_metadata(rest, head_bytes_max.max(END_BYTES_MAX), WHAT)?;
    let code = Code::from_u8(code);
    if code == Code::Ok {
        return Ok((None, trailers));
    }
    let (message, details, app) = decode_details(&rest[used..])?;
    let mut status = Status::new(code, message)
        .with_details(details)
        .with_app_bytes(app)
        .with_origin(Origin::Remote)
        .answered_by_server()
        .with_handler_ran(if retry & NOT_RUN == 0 {
            HandlerRan::Yes
        } else {
            HandlerRan::No
        });
    match retry & !NOT_RUN {
        1 => status = status.with_retryable(true),
        2 => status = status.with_retryable(false),
        _ => {}
    }
    Ok((Some(status), trailers))
}

fn decode_details(bytes: &[u8]) -> Result<(String, Bytes, Bytes), DecodeError> {
    let mut found = (String::new(), Bytes::new(), Bytes::new());
    if bytes.is_empty() {
        return Ok(found);
    }
    let mut reader = raw::Reader::new(bytes);
    let len = reader.array_len()?;
    if len > 0 {
        reader.str()?.clone_into(&mut found.0);
    }
    if len > 1 {
        found.1 = Bytes::copy_from_slice(reader.bin()?);
    }
    if len > 2 {
        found.2 = Bytes::copy_from_slice(reader.bin()?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{END_BYTES_MAX, RequestHead, decode_end, encode_end};
    use crate::code::Code;
    use crate::metadata::Metadata;
    use crate::status::{HandlerRan, Status};

    fn metadata() -> Metadata {
        let mut metadata = Metadata::new();
        metadata.append("tenant", "t1").unwrap();
        metadata.append("raw-bin", [0, 255, 7]).unwrap();
        metadata
    }

    #[test]
    fn request_heads_round_trip() {
        let head = RequestHead {
            method: 0x0123_4567_89ab_cdef,
            timeout: 1500,
            metadata: metadata(),
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        assert_eq!(bytes.len(), head.encoded_len());
        bytes.extend_from_slice(b"message");
        assert_eq!(RequestHead::decode(&bytes, 16_384), Ok((head, bytes.len() - 7)));
        for cut in 0..bytes.len() - 7 {
            assert!(RequestHead::decode(&bytes[..cut], 16_384).is_err());
        }
    }

    #[test]
    fn metadata_at_the_limit_passes_and_above_it_fails() {
        let head = RequestHead {
            method: 1,
            timeout: 0,
            metadata: metadata(),
        };
        let mut bytes = Vec::new();
        head.encode(&mut bytes);
        let len = head.metadata.encoded_len();
        assert!(RequestHead::decode(&bytes, len).is_ok());
        assert!(RequestHead::decode(&bytes, len - 1).is_err());
    }

    #[test]
    fn statuses_round_trip() {
        let status = Status::not_found("no order 7 ☺")
            .with_details(vec![1, 2])
            .with_app_bytes(vec![3])
            .with_retryable(false);
        let mut bytes = Vec::new();
        encode_end(Some(&status), &metadata(), &mut bytes);
        let (read, trailers) = decode_end(&bytes, 16_384).unwrap();
        assert_eq!(read, Some(status));
        assert_eq!(read.unwrap().handler_ran(), HandlerRan::Yes);
        assert_eq!(trailers, metadata());

        for retryable in [None, Some(false), Some(true)] {
            let mut status = Status::resource_exhausted("busy").with_handler_ran(HandlerRan::No);
            if let Some(retryable) = retryable {
                status = status.with_retryable(retryable);
            }
            let mut bytes = Vec::new();
            encode_end(Some(&status), &Metadata::new(), &mut bytes);
            let read = decode_end(&bytes, 16_384).unwrap().0.unwrap();
            assert_eq!(
                (read.handler_ran(), read.retryable_override()),
                (HandlerRan::No, retryable)
            );
        }

        let mut ok = Vec::new();
        encode_end(None, &Metadata::new(), &mut ok);
        assert_eq!(ok, [0, 0, 0, 0]);
        assert_eq!(decode_end(&ok, 16_384).unwrap(), (None, Metadata::new()));
    }

    #[test]
    fn a_status_that_does_not_fit_keeps_its_code() {
        let status = Status::internal("ä".repeat(40_000)).with_details(vec![1; 40_000]).with_app_bytes(vec![2; 100]);
        let mut bytes = Vec::new();
        encode_end(Some(&status), &Metadata::new(), &mut bytes);
        assert!(bytes.len() <= END_BYTES_MAX);
        let (read, _) = decode_end(&bytes, 16_384).unwrap();
        let read = read.unwrap();
        assert_eq!(read.code(), status.code());
        assert!(status.message().starts_with(read.message()));
        assert!(read.details().is_empty());
        assert_eq!(&read.app_bytes()[..], &[2; 100]);
    }

    /// Metadata that keeps the rules, with keys that may repeat; a few KiB at most.
    fn any_metadata() -> impl Strategy<Value = Metadata> {
        let text = ("[a-z][a-z0-9_.-]{0,20}[a-z0-9]", "[!-~]([ -~]{0,60}[!-~])?")
            .prop_filter("not binary", |(key, _)| !key.ends_with("-bin"))
            .prop_map(|(key, value)| (key, value.into_bytes()));
        let binary = (
            "[a-z][a-z0-9_.-]{0,20}-bin",
            proptest::collection::vec(any::<u8>(), 0..200),
        );
        proptest::collection::vec(prop_oneof![text, binary], 0..10).prop_map(|entries| {
            let mut metadata = Metadata::new();
            for (key, value) in entries {
                metadata.append(key, value).unwrap();
            }
            metadata
        })
    }

    fn any_status() -> impl Strategy<Value = Status> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..1_000);
        (1..=16_u8, ".{0,300}", bytes(), bytes(), any::<Option<bool>>()).prop_map(
            |(code, message, details, app, retryable)| {
                let status = Status::new(Code::from_u8(code), message).with_details(details).with_app_bytes(app);
                retryable.map_or_else(|| status.clone(), |retryable| status.clone().with_retryable(retryable))
            },
        )
    }

    proptest! {
        #[test]
        fn any_request_head_comes_back(
            method in any::<u64>(),
            timeout in any::<u32>(),
            metadata in any_metadata(),
            behind in proptest::collection::vec(any::<u8>(), 0..50),
        ) {
            let head = RequestHead { method, timeout, metadata };
            let mut bytes = Vec::new();
            head.encode(&mut bytes);
            let len = bytes.len();
            prop_assert_eq!(len, head.encoded_len());
            prop_assert!(RequestHead::decode(&bytes[..len - 1], 16_384).is_err());
            bytes.extend_from_slice(&behind);
            prop_assert_eq!(RequestHead::decode(&bytes, 16_384), Ok((head, len)));
        }

        #[test]
        fn any_end_comes_back(status in proptest::option::of(any_status()), trailers in any_metadata()) {
            let mut bytes = Vec::new();
            encode_end(status.as_ref(), &trailers, &mut bytes);
            let (read, found) = decode_end(&bytes, 16_384).unwrap();
            prop_assert_eq!(read, status);
            prop_assert_eq!(found, trailers);
        }

        #[test]
        fn heads_of_any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = RequestHead::decode(&bytes, 16_384);
            let _ = decode_end(&bytes, 16_384);
        }
    }
}
