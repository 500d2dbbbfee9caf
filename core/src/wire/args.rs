//! The arguments of a call: one MessagePack array, positional; read also from a map keyed by argument name.

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

use super::codec::{self, Missing, raw};
use super::error::{DecodeError, EncodeError};
use super::message::{EncodedMessage, Payload};
use crate::method::MethodSpec;
use crate::status::{HandlerRan, Status};

/// Writes the arguments of one call into a pooled buffer.
///
/// A value that cannot be encoded is remembered and ends the call with INVALID_ARGUMENT when it is started.
#[derive(Debug)]
pub struct ArgsWriter {
    message: EncodedMessage,
    spec: &'static MethodSpec,
    failed: Option<EncodeError>,
}

impl ArgsWriter {
    /// Starts the array of `count` arguments.
    #[must_use]
    pub fn new(spec: &'static MethodSpec, count: u32) -> Self {
        let mut message = EncodedMessage::new();
        raw::write_array_len(message.buffer(), count);
        Self {
            message,
            spec,
            failed: None,
        }
    }

    /// Appends an owned value; a large [`bytes::Bytes`] is linked, not copied.
    pub fn put<T: Serialize + 'static>(&mut self, value: T) {
        let written = codec::encode_owned(&mut self.message, value, self.spec.wire_encoding());
        self.note(written);
    }

    /// Appends a borrowed value.
    pub fn put_ref<T: Serialize + ?Sized>(&mut self, value: &T) {
        let written = codec::encode_into(self.message.buffer(), value, self.spec.wire_encoding());
        self.note(written);
    }

    /// Appends a text.
    pub fn put_str(&mut self, text: &str) {
        raw::write_str(self.message.buffer(), text);
    }

    /// Appends a text or nil.
    pub fn put_opt_str(&mut self, text: Option<&str>) {
        match text {
            Some(text) => self.put_str(text),
            None => self.put_nil(),
        }
    }

    /// Appends a byte string.
    pub fn put_bytes(&mut self, bytes: &[u8]) {
        raw::write_bin(self.message.buffer(), bytes);
    }

    /// Appends a byte string or nil.
    pub fn put_opt_bytes(&mut self, bytes: Option<&[u8]>) {
        match bytes {
            Some(bytes) => self.put_bytes(bytes),
            None => self.put_nil(),
        }
    }

    /// Appends nil, for an argument that is no longer used.
    pub fn put_nil(&mut self) {
        raw::write_nil(self.message.buffer());
    }

    fn note(&mut self, written: Result<(), EncodeError>) {
        if let Err(error) = written {
            self.failed.get_or_insert(error);
        }
    }

    /// The finished message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if a value could not be encoded.
    pub fn finish(mut self) -> Result<EncodedMessage, Status> {
        if let Some(error) = self.failed {
            return Err(Status::invalid_argument(format!(
                "an argument of {} cannot be encoded: {error}",
                self.spec.path()
            ))
            .with_handler_ran(HandlerRan::No));
        }
        self.message.seal();
        Ok(self.message)
    }
}

/// Reads the arguments of one call.
#[derive(Debug)]
pub struct ArgsReader<'p> {
    payload: &'p Payload,
    spec: &'static MethodSpec,
    source: Source<'p>,
    index: usize,
}

#[derive(Debug)]
enum Source<'p> {
    Array {
        reader: raw::Reader<'p>,
        left: usize,
    },
    /// Where each named argument starts; at most one entry per argument of the method.
    Map {
        starts: Vec<(usize, usize)>,
    },
}

impl<'p> ArgsReader<'p> {
    /// Reads the array's length, or finds the arguments in a map.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the message is neither.
    pub fn new(payload: &'p Payload, spec: &'static MethodSpec) -> Result<Self, Status> {
        let mut reader = raw::Reader::new(payload);
        let source = match reader.short_array() {
            Some(left) => Source::Array { reader, left },
            None => Self::source(reader, spec).map_err(|error| refuse(spec, "the arguments", &error))?,
        };
        Ok(Self {
            payload,
            spec,
            source,
            index: 0,
        })
    }

    fn source(mut reader: raw::Reader<'p>, spec: &'static MethodSpec) -> Result<Source<'p>, DecodeError> {
        match reader.token()? {
            raw::Token::Array(left) => Ok(Source::Array { reader, left }),
            raw::Token::Map(len) => find_in_map(reader, len, spec),
            other => Err(raw::unexpected("an array or a map of arguments", &other)),
        }
    }

    /// The next argument; a missing optional one is `None`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the argument, if it is missing or has another type.
    #[expect(clippy::should_implement_trait, reason = "each call reads another type")]
    pub fn next<T: DeserializeOwned + 'static>(&mut self) -> Result<T, Status> {
        let payload = self.payload;
        let value = self.read(
            || T::deserialize(Missing),
            |reader| {
                let base = payload.len() - reader.remaining() - reader.position();
                let shared = codec::as_bytes(|| {
                    let range = reader.bin_range()?;
                    Ok(payload.slice(base + range.start..base + range.end))
                });
                match shared {
                    Some(value) => value,
                    None => codec::decode_next(reader),
                }
            },
        );
        self.named(value)
    }

    /// The next argument, or `default()` if it is missing.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the argument, if it has another type.
    pub fn next_or<T: DeserializeOwned + 'static>(&mut self, default: impl FnOnce() -> T) -> Result<T, Status> {
        if self.is_missing() {
            self.index += 1;
            return Ok(default());
        }
        self.next()
    }

    /// The next argument as a text that borrows from the message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the argument, if it is missing or no text.
    pub fn next_str(&mut self) -> Result<&'p str, Status> {
        self.borrowed()
    }

    /// The next argument as an optional text that borrows from the message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the argument, if it is no text.
    pub fn next_opt_str(&mut self) -> Result<Option<&'p str>, Status> {
        self.borrowed()
    }

    /// The next argument as bytes that borrow from the message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the argument, if it is missing or no byte string.
    pub fn next_bytes(&mut self) -> Result<&'p [u8], Status> {
        self.borrowed()
    }

    /// The next argument as optional bytes that borrow from the message.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, naming the argument, if it is no byte string.
    pub fn next_opt_bytes(&mut self) -> Result<Option<&'p [u8]>, Status> {
        self.borrowed()
    }

    /// Reads over an argument that is no longer used.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the message is malformed.
    pub fn skip(&mut self) -> Result<(), Status> {
        let skipped = self.read(|| Ok(()), raw::Reader::skip);
        self.named(skipped)
    }

    /// Reads over further arguments, which a newer client may send, and checks that the message ends.
    ///
    /// # Errors
    /// INVALID_ARGUMENT if the message is malformed or goes on.
    pub fn finish(mut self) -> Result<(), Status> {
        let finish = |reader: &mut raw::Reader<'p>, left: usize| {
            for _ in 0..left {
                reader.skip()?;
            }
            reader.end("the arguments")
        };
        match &mut self.source {
            Source::Array { reader, left } if *left == 0 && reader.remaining() == 0 => Ok(()),
            Source::Array { reader, left } => {
                finish(reader, *left).map_err(|error| refuse(self.spec, "the arguments", &error))
            }
            // The map was read to its end when it was searched.
            Source::Map { .. } => Ok(()),
        }
    }

    fn borrowed<T: Deserialize<'p>>(&mut self) -> Result<T, Status> {
        let value = self.read(|| T::deserialize(Missing), codec::decode_next);
        self.named(value)
    }

    /// Whether the peer did not send the next argument.
    fn is_missing(&self) -> bool {
        match &self.source {
            Source::Array { left, .. } => *left == 0,
            Source::Map { starts } => !starts.iter().any(|(index, _)| *index == self.index),
        }
    }

    /// Reads the next argument with a cursor that stands at it; `missing` if the peer did not send it.
    #[inline]
    fn read<R>(&mut self, missing: impl FnOnce() -> R, read: impl FnOnce(&mut raw::Reader<'p>) -> R) -> R {
        match &mut self.source {
            Source::Array { left: 0, .. } => missing(),
            Source::Array { reader, left } => {
                *left -= 1;
                read(reader)
            }
            Source::Map { starts } => match starts.iter().find(|(index, _)| *index == self.index) {
                Some((_, start)) => read(&mut raw::Reader::new(&self.payload[*start..])),
                None => missing(),
            },
        }
    }

    #[inline]
    fn named<T>(&mut self, value: Result<T, DecodeError>) -> Result<T, Status> {
        let index = self.index;
        self.index += 1;
        value.map_err(|error| {
            let name = self.spec.arguments().get(index).map_or("?", |arg| arg.name());
            refuse(self.spec, &format!("argument `{name}`"), &error)
        })
    }
}

fn find_in_map<'p>(
    mut reader: raw::Reader<'p>,
    len: usize,
    spec: &'static MethodSpec,
) -> Result<Source<'p>, DecodeError> {
    let mut starts = Vec::with_capacity(spec.arguments().len());
    for _ in 0..len {
        let name = reader.str()?;
        let start = reader.position();
        reader.skip()?;
        let known = spec.arguments().iter().position(|arg| arg.name() == name);
        if let Some(index) = known
            && !starts.iter().any(|(seen, _)| *seen == index)
        {
            starts.push((index, start));
        }
    }
    reader.end("the arguments")?;
    Ok(Source::Map { starts })
}

fn refuse(spec: &MethodSpec, what: &str, error: &DecodeError) -> Status {
    Status::invalid_argument(format!("{what} of {}: {error}", spec.path())).with_handler_ran(HandlerRan::No)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{ArgsReader, ArgsWriter};
    use crate::code::Code;
    use crate::method::{ArgSpec, MethodKind, MethodSpec};
    use crate::wire::codec::raw;
    use crate::wire::message::Payload;

    static SPEC: MethodSpec = MethodSpec::new("a/b", 1, MethodKind::Unary).args(&[
        ArgSpec::new("id"),
        ArgSpec::new("name"),
        ArgSpec::new("expand"),
        ArgSpec::new("limit"),
    ]);

    fn read(payload: &Payload) -> Result<(u32, String, Option<bool>, u8), crate::status::Status> {
        let mut args = ArgsReader::new(payload, &SPEC)?;
        let id = args.next()?;
        let name = args.next_str()?.to_owned();
        let expand = args.next()?;
        let limit = args.next_or(|| 50)?;
        args.finish()?;
        Ok((id, name, expand, limit))
    }

    fn write(count: u32, put: impl FnOnce(&mut ArgsWriter)) -> Payload {
        let mut args = ArgsWriter::new(&SPEC, count);
        put(&mut args);
        args.finish().unwrap().to_payload()
    }

    #[test]
    fn all_arguments_arrive() {
        let payload = write(4, |args| {
            args.put(7_u32);
            args.put_str("ada");
            args.put(Some(true));
            args.put(9_u8);
        });
        assert_eq!(read(&payload).unwrap(), (7, "ada".to_owned(), Some(true), 9));
    }

    #[test]
    fn missing_optional_ones_are_filled_and_extra_ones_skipped() {
        let short = write(2, |args| {
            args.put(7_u32);
            args.put_str("ada");
        });
        assert_eq!(read(&short).unwrap(), (7, "ada".to_owned(), None, 50));
        let long = write(6, |args| {
            args.put(7_u32);
            args.put_str("ada");
            args.put_nil();
            args.put(9_u8);
            args.put(vec![vec![1]]);
            args.put("from the future".to_owned());
        });
        assert_eq!(read(&long).unwrap(), (7, "ada".to_owned(), None, 9));
    }

    #[test]
    fn a_missing_or_wrong_one_is_named() {
        let error = read(&write(1, |args| args.put(7_u32))).unwrap_err();
        assert_eq!(error.code(), Code::InvalidArgument);
        assert!(error.message().contains("argument `name` of a/b"), "{error}");
        let error = read(&write(1, |args| args.put("text".to_owned()))).unwrap_err();
        assert!(error.message().contains("argument `id`"), "{error}");
    }

    #[test]
    fn a_map_by_name_reads_the_same() {
        let mut bytes = Vec::new();
        raw::write_map_len(&mut bytes, 4);
        raw::write_str(&mut bytes, "limit");
        raw::write_uint(&mut bytes, 9);
        raw::write_str(&mut bytes, "unknown");
        raw::write_array_len(&mut bytes, 1);
        raw::write_uint(&mut bytes, 1);
        raw::write_str(&mut bytes, "id");
        raw::write_uint(&mut bytes, 7);
        raw::write_str(&mut bytes, "name");
        raw::write_str(&mut bytes, "ada");
        let payload = Payload::from(Bytes::from(bytes.clone()));
        assert_eq!(read(&payload).unwrap(), (7, "ada".to_owned(), None, 9));
        bytes.push(0);
        assert!(read(&Payload::from(Bytes::from(bytes))).is_err());
    }

    #[test]
    fn a_bytes_argument_shares_the_message_wherever_it_stands() {
        let body = Bytes::from(vec![5; 10_000]);
        for first in [true, false] {
            let payload = write(2, |args| {
                if first {
                    args.put(body.clone());
                    args.put(1_u32);
                } else {
                    args.put(1_u32);
                    args.put(body.clone());
                }
            });
            let mut args = ArgsReader::new(&payload, &SPEC).unwrap();
            if !first {
                assert_eq!(args.next::<u32>().unwrap(), 1);
            }
            let read: Bytes = args.next().unwrap();
            assert_eq!(read, body);
            let range = payload.as_ptr_range();
            assert!(range.contains(&read.as_ptr()), "not copied");
        }
    }

    #[test]
    fn what_is_no_list_of_arguments_is_refused() {
        for bytes in [
            &[0xc0][..],
            &[],
            &[0x05],
            &[0xdd, 0xff, 0xff, 0xff, 0xff],
            &[0x81, 0x01, 0x01],
        ] {
            let payload = Payload::copied(bytes);
            assert_eq!(read(&payload).unwrap_err().code(), Code::InvalidArgument);
        }
    }
}
