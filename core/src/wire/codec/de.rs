//! The decoder: serde over a slice of MessagePack that a peer wrote.

use serde::de::{self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde::forward_to_deserialize_any;

use super::DEPTH_MAX;
use super::raw::{Reader, Token, unexpected};
use crate::wire::error::DecodeError;

type Result<T> = std::result::Result<T, DecodeError>;

/// Reads values off a cursor, within a depth and a budget for size hints.
pub(super) struct Decoder<'a, 'de> {
    reader: &'a mut Reader<'de>,
    depth_left: usize,
    hints_left: usize,
}

impl<'a, 'de> Decoder<'a, 'de> {
    pub(super) fn new(reader: &'a mut Reader<'de>) -> Self {
        let hints_left = reader.remaining();
        Self {
            reader,
            depth_left: DEPTH_MAX,
            hints_left,
        }
    }

    /// Runs `read` one level deeper.
    fn nested<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(DecodeError::TooDeep { limit: DEPTH_MAX })?;
        let value = read(self);
        self.depth_left += 1;
        value
    }

    /// The elements that may be allocated for ahead of reading them: all hints of a message together never exceed its bytes, because
    /// every element takes at least one.
    fn hint(&mut self, len: usize) -> usize {
        let hint = len.min(self.hints_left);
        self.hints_left -= hint;
        hint
    }

    /// An array whose length is up to the peer.
    fn seq<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value> {
        let hint = self.hint(len);
        self.nested(|decoder| {
            let mut elements = Elements {
                decoder,
                left: len,
                hint,
                missing: 0,
            };
            let value = visitor.visit_seq(&mut elements)?;
            elements.drain()?;
            Ok(value)
        })
    }

    /// An array that stands for `fields` values: further ones are skipped, missing optional ones are absent.
    fn fields<V: Visitor<'de>>(&mut self, len: usize, fields: usize, visitor: V) -> Result<V::Value> {
        self.nested(|decoder| {
            let mut elements = Elements {
                decoder,
                left: len,
                hint: fields,
                missing: fields.saturating_sub(len),
            };
            let value = visitor.visit_seq(&mut elements)?;
            elements.drain()?;
            Ok(value)
        })
    }

    fn map<V: Visitor<'de>>(&mut self, len: usize, visitor: V) -> Result<V::Value> {
        let hint = self.hint(len);
        self.nested(|decoder| {
            let mut entries = Entries {
                decoder,
                left: len,
                hint,
            };
            let value = visitor.visit_map(&mut entries)?;
            while entries.left > 0 {
                entries.left -= 1;
                entries.decoder.reader.skip()?;
                entries.decoder.reader.skip()?;
            }
            Ok(value)
        })
    }

    fn visit_token<V: Visitor<'de>>(&mut self, token: Token<'de>, visitor: V) -> Result<V::Value> {
        match token {
            Token::Nil => visitor.visit_unit(),
            Token::Bool(value) => visitor.visit_bool(value),
            Token::Uint(value) => visitor.visit_u64(value),
            Token::Int(value) => visitor.visit_i64(value),
            Token::F32(value) => visitor.visit_f32(value),
            Token::F64(value) => visitor.visit_f64(value),
            Token::Str(bytes) => visitor.visit_borrowed_str(text(bytes)?),
            Token::Bin(bytes) => visitor.visit_borrowed_bytes(bytes),
            Token::Array(len) => self.seq(len, visitor),
            Token::Map(len) => self.map(len, visitor),
            Token::Ext => Err(DecodeError::invalid("extension values are not supported")),
        }
    }
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { what: "a text" })
}

impl<'de> Deserializer<'de> for &mut Decoder<'_, 'de> {
    type Error = DecodeError;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        let token = self.reader.token()?;
        self.visit_token(token, visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(bytes) = self.reader.short_str() {
            return visitor.visit_borrowed_str(text(bytes)?);
        }
        match self.reader.token()? {
            Token::Str(bytes) => visitor.visit_borrowed_str(text(bytes)?),
            other => self.visit_token(other, visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(bytes) = self.reader.short_bin() {
            return visitor.visit_borrowed_bytes(bytes);
        }
        match self.reader.token()? {
            Token::Str(bytes) => visitor.visit_borrowed_bytes(bytes),
            other => self.visit_token(other, visitor),
        }
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if self.reader.peek()? == 0xc0 {
            self.reader.advance(1);
            return visitor.visit_none();
        }
        visitor.visit_some(self)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        match self.reader.token()? {
            Token::Nil => visitor.visit_unit(),
            Token::Array(0) | Token::Map(0) => visitor.visit_unit(),
            other => Err(unexpected("nil or an empty array", &other)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value> {
        // A newtype adds no level on the wire, so recursion through one alone ends with the bytes.
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        if let Some(len) = self.reader.short_array() {
            return self.seq(len, visitor);
        }
        match self.reader.token()? {
            Token::Array(len) => self.seq(len, visitor),
            // A `Vec<u8>` reads what other languages send as a byte string.
            Token::Bin(bytes) => visitor.visit_seq(de::value::SeqDeserializer::new(bytes.iter().copied())),
            other => self.visit_token(other, visitor),
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        if let Some(found) = self.reader.short_array() {
            return self.fields(found, len, visitor);
        }
        match self.reader.token()? {
            Token::Array(found) => self.fields(found, len, visitor),
            Token::Bin(bytes) => visitor.visit_seq(de::value::SeqDeserializer::new(bytes.iter().copied())),
            other => Err(unexpected("an array", &other)),
        }
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        if let Some(len) = self.reader.short_array() {
            return self.fields(len, fields.len(), visitor);
        }
        match self.reader.token()? {
            Token::Array(len) => self.fields(len, fields.len(), visitor),
            Token::Map(len) => self.map(len, visitor),
            other => Err(unexpected("a struct as an array or a map", &other)),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value> {
        match self.reader.peek()? {
            0x80..=0x8f | 0xde | 0xdf => match self.reader.map_len()? {
                1 => self.nested(|decoder| visitor.visit_enum(Variant { decoder, unit: false })),
                len => Err(DecodeError::invalid(format!(
                    "an enum is a name or a map of one entry, found a map of {len}"
                ))),
            },
            _ => visitor.visit_enum(Variant {
                decoder: self,
                unit: true,
            }),
        }
    }

    fn deserialize_u128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.reader.token()? {
            Token::Bin(bytes) => {
                let bytes = bytes.try_into().map_err(|_| DecodeError::invalid("a 128-bit integer has 16 bytes"))?;
                visitor.visit_u128(u128::from_be_bytes(bytes))
            }
            other => self.visit_token(other, visitor),
        }
    }

    fn deserialize_i128<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        match self.reader.token()? {
            Token::Bin(bytes) => {
                let bytes = bytes.try_into().map_err(|_| DecodeError::invalid("a 128-bit integer has 16 bytes"))?;
                visitor.visit_i128(i128::from_be_bytes(bytes))
            }
            other => self.visit_token(other, visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.reader.skip()?;
        visitor.visit_unit()
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        self.deserialize_str(visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char unit map
    }
}

struct Elements<'b, 'a, 'de> {
    decoder: &'b mut Decoder<'a, 'de>,
    left: usize,
    hint: usize,
    missing: usize,
}

impl Elements<'_, '_, '_> {
    #[inline(always)]
    fn drain(self) -> Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.skip_rest()
    }

    fn skip_rest(self) -> Result<()> {
        for _ in 0..self.left {
            self.decoder.reader.skip()?;
        }
        Ok(())
    }
}

impl<'de> SeqAccess<'de> for &mut Elements<'_, '_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>> {
        if self.left > 0 {
            self.left -= 1;
            return seed.deserialize(&mut *self.decoder).map(Some);
        }
        if self.missing > 0 {
            self.missing -= 1;
            // An optional value is filled here; for any other one "no element" lets `#[serde(default)]` step in or names the field.
            return Ok(seed.deserialize(Missing).ok());
        }
        Ok(None)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint.min(self.left))
    }
}

struct Entries<'b, 'a, 'de> {
    decoder: &'b mut Decoder<'a, 'de>,
    left: usize,
    hint: usize,
}

impl<'de> MapAccess<'de> for &mut Entries<'_, '_, 'de> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        seed.deserialize(&mut *self.decoder).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value> {
        seed.deserialize(&mut *self.decoder)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.hint.min(self.left))
    }
}

struct Variant<'b, 'a, 'de> {
    decoder: &'b mut Decoder<'a, 'de>,
    unit: bool,
}

impl<'de> EnumAccess<'de> for Variant<'_, '_, 'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self)> {
        let name = seed.deserialize(&mut *self.decoder)?;
        Ok((name, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, '_, 'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<()> {
        if !self.unit {
            // A variant that had data in a newer or older version: the name decides.
            self.decoder.reader.skip()?;
        }
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value> {
        if self.unit {
            return seed.deserialize(Missing);
        }
        seed.deserialize(self.decoder)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value> {
        if self.unit {
            return Err(DecodeError::invalid("the variant has data, found only its name"));
        }
        self.decoder.deserialize_tuple(len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value> {
        if self.unit {
            return Err(DecodeError::invalid("the variant has fields, found only its name"));
        }
        self.decoder.deserialize_struct("", fields, visitor)
    }
}

/// Stands for a value that the peer did not send: `None` for an option, an error for all else.
pub(crate) struct Missing;

impl<'de> Deserializer<'de> for Missing {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value> {
        Err(DecodeError::invalid("the value is missing"))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
        visitor.visit_none()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}
