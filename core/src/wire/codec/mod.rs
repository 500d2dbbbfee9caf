//! Values <-> MessagePack; what each type looks like is in the table of [`wire`](super).
//!
//! Writing is rmp-serde's. Reading is our own decoder over a slice, because one pass has to do what a wrapper around rmp-serde would need five
//! wrapped layers for: a depth limit, size hints that a peer cannot inflate, arrays that may be longer or shorter than the type, and a
//! check that nothing is left over.
//!
//! **Memory of a hostile message.** The size hints that a message can provoke add up to at most its length in elements, whatever it
//! claims, and every decoded element takes at least one of its bytes. Peak allocation with the collections of `std` is therefore at most eight
//! times the message's bytes times the size of the largest element type. A list of many elements takes three (its old and its new memory
//! while it grows); many small collections take more, because a `Vec` begins with room for four and a `BTreeSet` with room for eleven.
//! `tests/alloc` measures both. The message limit is the bound that an operator sets.

mod de;
pub mod raw;

use std::any::Any;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::{DecodeError, EncodeError};
use super::message::{EncodedMessage, Payload};
use crate::method::Encoding;

pub(crate) use de::Missing;

/// Values may be nested this deep: far deeper than real messages, and safe on a 2 MiB stack in a debug build.
pub const DEPTH_MAX: usize = 64;

/// Reads one value that takes up all of `bytes`; it may borrow from them.
///
/// # Errors
/// [`DecodeError`] if the bytes are not the value's MessagePack, are nested deeper than [`DEPTH_MAX`], or go on after it.
pub fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, DecodeError> {
    let mut reader = raw::Reader::new(bytes);
    let value = decode_next(&mut reader)?;
    reader.end("the value")?;
    Ok(value)
}

/// Reads the next value of `reader`.
pub(crate) fn decode_next<'de, T: Deserialize<'de>>(reader: &mut raw::Reader<'de>) -> Result<T, DecodeError> {
    T::deserialize(&mut de::Decoder::new(reader))
}

/// Reads the value that a message consists of; a top-level [`Bytes`] shares the message's memory.
///
/// # Errors
/// As [`decode`].
pub fn decode_payload<T: DeserializeOwned + 'static>(payload: &Payload) -> Result<T, DecodeError> {
    if let Some(value) = as_bytes(|| whole_bytes(payload)) {
        return value;
    }
    decode(payload)
}

fn whole_bytes(payload: &Payload) -> Result<Bytes, DecodeError> {
    let mut reader = raw::Reader::new(payload);
    let range = reader.bin_range()?;
    reader.end("the value")?;
    Ok(payload.slice(range))
}

/// `make()` as a `T` if `T` is [`Bytes`]; decided at compile time.
pub(crate) fn as_bytes<T: 'static>(
    make: impl FnOnce() -> Result<Bytes, DecodeError>,
) -> Option<Result<T, DecodeError>> {
    let mut found: Option<T> = None;
    let slot = (&mut found as &mut dyn Any).downcast_mut::<Option<Bytes>>()?;
    match make() {
        Ok(bytes) => *slot = Some(bytes),
        Err(error) => return Some(Err(error)),
    }
    found.map(Ok)
}

/// Appends a value to a message; a top-level large [`Bytes`] is linked, not copied.
pub(crate) fn encode_owned<T: Serialize + 'static>(
    message: &mut EncodedMessage,
    value: T,
    encoding: Encoding,
) -> Result<(), EncodeError> {
    if let Some(bytes) = (&value as &dyn Any).downcast_ref::<Bytes>() {
        raw::write_bin_len(message.buffer(), bytes.len());
        message.push_bytes(bytes.clone());
        return Ok(());
    }
    encode_into(message.buffer(), &value, encoding)
}

/// Appends a value to `out`.
///
/// # Errors
/// [`EncodeError`] if the value's `Serialize` fails.
pub fn encode_into<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T, encoding: Encoding) -> Result<(), EncodeError> {
    let written = match encoding {
        Encoding::Compact => value.serialize(&mut rmp_serde::Serializer::new(&mut *out)),
        Encoding::Named => value.serialize(&mut rmp_serde::Serializer::new(&mut *out).with_struct_map()),
    };
    written.map_err(|error| EncodeError {
        message: error.to_string(),
    })
}

/// The message that carries one value.
///
/// # Errors
/// [`EncodeError`] if the value's `Serialize` fails.
pub fn encode_message<T: Serialize + 'static>(value: T, encoding: Encoding) -> Result<EncodedMessage, EncodeError> {
    let mut message = EncodedMessage::new();
    encode_owned(&mut message, value, encoding)?;
    message.seal();
    Ok(message)
}

#[cfg(test)]
mod tests;
