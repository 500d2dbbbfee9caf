//! MessagePack without serde: a cursor that reads markers and lengths, and the few writers that heads need.
//!
//! Source: the MessagePack specification, "Formats".

use std::ops::Range;

use super::DEPTH_MAX;
use crate::wire::error::DecodeError;

/// A cursor over MessagePack that never reads past its end and never trusts a length.
#[derive(Debug)]
pub struct Reader<'de> {
    bytes: &'de [u8],
    at: usize,
}

/// What kind of value stands next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'de> {
    Nil,
    Bool(bool),
    Uint(u64),
    Int(i64),
    F32(f32),
    F64(f64),
    Str(&'de [u8]),
    Bin(&'de [u8]),
    Array(usize),
    Map(usize),
    Ext,
}

impl<'de> Reader<'de> {
    /// A cursor at the front of `bytes`.
    #[must_use]
    pub fn new(bytes: &'de [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes that are not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// How many bytes are read.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// [`DecodeError::TrailingBytes`].
    pub fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(DecodeError::TrailingBytes { what, left }),
        }
    }

    /// The next byte, without reading it.
    #[inline]
    pub(crate) fn peek(&self) -> Result<u8, DecodeError> {
        self.bytes.get(self.at).copied().ok_or(DecodeError::Truncated { what: "a value" })
    }

    #[inline]
    pub(crate) fn advance(&mut self, by: usize) {
        self.at = (self.at + by).min(self.bytes.len());
    }

    #[inline]
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (chunk, _) =
            self.bytes[self.at..].split_first_chunk::<N>().ok_or(DecodeError::Truncated { what: "a value" })?;
        self.at += N;
        Ok(*chunk)
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'de [u8], DecodeError> {
        let taken = self.bytes[self.at..].get(..len).ok_or(DecodeError::Truncated {
            what: "a text or byte string",
        })?;
        self.at += len;
        Ok(taken)
    }

    #[inline]
    fn len_u8(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(self.fixed::<1>()?[0]))
    }

    #[inline]
    fn len_u16(&mut self) -> Result<usize, DecodeError> {
        Ok(usize::from(u16::from_be_bytes(self.fixed()?)))
    }

    #[inline]
    fn len_u32(&mut self) -> Result<usize, DecodeError> {
        Ok(u32::from_be_bytes(self.fixed()?) as usize)
    }

    /// Reads a marker with its scalar or length; texts and byte strings whole.
    #[inline]
    pub(crate) fn token(&mut self) -> Result<Token<'de>, DecodeError> {
        let marker = self.fixed::<1>()?[0];
        Ok(match marker {
            0x00..=0x7f => Token::Uint(u64::from(marker)),
            0x80..=0x8f => Token::Map(usize::from(marker & 0x0f)),
            0x90..=0x9f => Token::Array(usize::from(marker & 0x0f)),
            0xa0..=0xbf => Token::Str(self.take(usize::from(marker & 0x1f))?),
            0xc0 => Token::Nil,
            0xc2 => Token::Bool(false),
            0xc3 => Token::Bool(true),
            0xe0..=0xff => Token::Int(i64::from(marker.cast_signed())),
            _ => self.wide_token(marker)?,
        })
    }

    /// The length of an array of less than 16 elements, if one stands next: the common case, without the detour over a token.
    #[inline(always)]
    pub(crate) fn short_array(&mut self) -> Option<usize> {
        match self.bytes.get(self.at) {
            Some(marker @ 0x90..=0x9f) => {
                self.at += 1;
                Some(usize::from(marker & 0x0f))
            }
            _ => None,
        }
    }

    /// A whole text of less than 32 bytes, if one stands next; likewise.
    #[inline(always)]
    pub(crate) fn short_str(&mut self) -> Option<&'de [u8]> {
        let (marker @ 0xa0..=0xbf, rest) = self.bytes.get(self.at..)?.split_first()? else {
            return None;
        };
        let text = rest.get(..usize::from(marker & 0x1f))?;
        self.at += 1 + text.len();
        Some(text)
    }

    /// A whole byte string of less than 256 bytes, if one stands next; likewise.
    #[inline(always)]
    pub(crate) fn short_bin(&mut self) -> Option<&'de [u8]> {
        let [0xc4, len, rest @ ..] = self.bytes.get(self.at..)? else {
            return None;
        };
        let bytes = rest.get(..usize::from(*len))?;
        self.at += 2 + bytes.len();
        Some(bytes)
    }

    fn wide_token(&mut self, marker: u8) -> Result<Token<'de>, DecodeError> {
        Ok(match marker {
            0xc4 => {
                let len = self.len_u8()?;
                Token::Bin(self.take(len)?)
            }
            0xc5 => {
                let len = self.len_u16()?;
                Token::Bin(self.take(len)?)
            }
            0xc6 => {
                let len = self.len_u32()?;
                Token::Bin(self.take(len)?)
            }
            0xc7 => {
                let len = self.len_u8()?;
                self.ext(len)?
            }
            0xc8 => {
                let len = self.len_u16()?;
                self.ext(len)?
            }
            0xc9 => {
                let len = self.len_u32()?;
                self.ext(len)?
            }
            0xca => Token::F32(f32::from_be_bytes(self.fixed()?)),
            0xcb => Token::F64(f64::from_be_bytes(self.fixed()?)),
            0xcc => Token::Uint(u64::from(self.fixed::<1>()?[0])),
            0xcd => Token::Uint(u64::from(u16::from_be_bytes(self.fixed()?))),
            0xce => Token::Uint(u64::from(u32::from_be_bytes(self.fixed()?))),
            0xcf => Token::Uint(u64::from_be_bytes(self.fixed()?)),
            0xd0 => Token::Int(i64::from(i8::from_be_bytes(self.fixed()?))),
            0xd1 => Token::Int(i64::from(i16::from_be_bytes(self.fixed()?))),
            0xd2 => Token::Int(i64::from(i32::from_be_bytes(self.fixed()?))),
            0xd3 => Token::Int(i64::from_be_bytes(self.fixed()?)),
            0xd4..=0xd8 => self.ext(1 << (marker - 0xd4))?,
            0xd9 => {
                let len = self.len_u8()?;
                Token::Str(self.take(len)?)
            }
            0xda => {
                let len = self.len_u16()?;
                Token::Str(self.take(len)?)
            }
            0xdb => {
                let len = self.len_u32()?;
                Token::Str(self.take(len)?)
            }
            0xdc => Token::Array(self.len_u16()?),
            0xdd => Token::Array(self.len_u32()?),
            0xde => Token::Map(self.len_u16()?),
            0xdf => Token::Map(self.len_u32()?),
            _ => return Err(DecodeError::invalid(format!("{marker:#04x} is no MessagePack marker"))),
        })
    }

    fn ext(&mut self, len: usize) -> Result<Token<'de>, DecodeError> {
        self.take(len.saturating_add(1))?;
        Ok(Token::Ext)
    }

    /// Reads over one value, however large, without recursion.
    ///
    /// # Errors
    /// [`DecodeError`] if the bytes end inside it, are no MessagePack, or are nested deeper than [`DEPTH_MAX`].
    pub fn skip(&mut self) -> Result<(), DecodeError> {
        let mut open = [0_usize; DEPTH_MAX];
        let mut depth = 0;
        loop {
            let inner = match self.token()? {
                Token::Array(len) => len,
                Token::Map(len) => len.saturating_mul(2),
                _ => 0,
            };
            if inner > 0 {
                let Some(slot) = open.get_mut(depth) else {
                    return Err(DecodeError::TooDeep { limit: DEPTH_MAX });
                };
                *slot = inner;
                depth += 1;
                continue;
            }
            while depth > 0 {
                open[depth - 1] -= 1;
                if open[depth - 1] > 0 {
                    break;
                }
                depth -= 1;
            }
            if depth == 0 {
                return Ok(());
            }
        }
    }

    /// Reads an array's length.
    ///
    /// # Errors
    /// [`DecodeError`] if no array stands next.
    pub fn array_len(&mut self) -> Result<usize, DecodeError> {
        match self.token()? {
            Token::Array(len) => Ok(len),
            other => Err(unexpected("an array", &other)),
        }
    }

    /// Reads a map's length.
    ///
    /// # Errors
    /// [`DecodeError`] if no map stands next.
    pub fn map_len(&mut self) -> Result<usize, DecodeError> {
        match self.token()? {
            Token::Map(len) => Ok(len),
            other => Err(unexpected("a map", &other)),
        }
    }

    /// Reads a text.
    ///
    /// # Errors
    /// [`DecodeError`] if no text stands next, or it is not UTF-8.
    pub fn str(&mut self) -> Result<&'de str, DecodeError> {
        match self.token()? {
            Token::Str(bytes) | Token::Bin(bytes) => {
                std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8 { what: "a text" })
            }
            other => Err(unexpected("a text", &other)),
        }
    }

    /// Reads a byte string.
    ///
    /// # Errors
    /// [`DecodeError`] if neither a byte string nor a text stands next.
    pub fn bin(&mut self) -> Result<&'de [u8], DecodeError> {
        match self.token()? {
            Token::Bin(bytes) | Token::Str(bytes) => Ok(bytes),
            other => Err(unexpected("a byte string", &other)),
        }
    }

    /// Reads a byte string and tells where its bytes lie.
    pub(crate) fn bin_range(&mut self) -> Result<Range<usize>, DecodeError> {
        let len = self.bin()?.len();
        Ok(self.at - len..self.at)
    }

    /// Reads a non-negative integer.
    ///
    /// # Errors
    /// [`DecodeError`] if none stands next.
    pub fn uint(&mut self) -> Result<u64, DecodeError> {
        match self.token()? {
            Token::Uint(number) => Ok(number),
            other => Err(unexpected("a non-negative integer", &other)),
        }
    }
}

pub(crate) fn unexpected(wanted: &str, found: &Token<'_>) -> DecodeError {
    let found = match found {
        Token::Nil => "nil",
        Token::Bool(_) => "a boolean",
        Token::Uint(_) | Token::Int(_) => "an integer",
        Token::F32(_) | Token::F64(_) => "a float",
        Token::Str(_) => "a text",
        Token::Bin(_) => "a byte string",
        Token::Array(_) => "an array",
        Token::Map(_) => "a map",
        Token::Ext => "an extension value",
    };
    DecodeError::invalid(format!("expected {wanted}, found {found}"))
}

/// Appends an array's length.
pub fn write_array_len(out: &mut Vec<u8>, len: u32) {
    // Writing to a vector cannot fail.
    let _infallible = rmp::encode::write_array_len(out, len);
}

/// Appends a map's length.
pub fn write_map_len(out: &mut Vec<u8>, len: u32) {
    let _infallible = rmp::encode::write_map_len(out, len);
}

/// Appends a text.
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    let _infallible = rmp::encode::write_str(out, text);
}

/// Appends a non-negative integer.
pub fn write_uint(out: &mut Vec<u8>, number: u64) {
    let _infallible = rmp::encode::write_uint(out, number);
}

/// Appends nil.
pub fn write_nil(out: &mut Vec<u8>) {
    out.push(0xc0);
}

/// Appends a byte string.
pub fn write_bin(out: &mut Vec<u8>, bytes: &[u8]) {
    write_bin_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// Appends the marker and length of a byte string whose bytes follow.
pub fn write_bin_len(out: &mut Vec<u8>, len: usize) {
    let _infallible = rmp::encode::write_bin_len(out, u32::try_from(len).unwrap_or(u32::MAX));
}
