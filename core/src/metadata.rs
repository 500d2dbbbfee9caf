//! Key-value pairs that travel beside a message: request metadata, response metadata and trailers.
//!
//! An ordered multimap. Keys are lower-case ASCII; values are printable ASCII, or any bytes when the key ends in `-bin`.
//! An empty map owns no memory and is one pointer wide, because most calls carry none and every call moves several.
//!
//! Source: gRPC over HTTP/2, "Custom-Metadata"; the character rules are the same so that gateways need no escaping.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

/// Longest key, in bytes: its length travels as one byte.
pub const KEY_BYTES_MAX: usize = 255;
/// Longest value, in bytes: its length travels as two bytes.
pub const VALUE_BYTES_MAX: usize = 65_535;

/// An ordered multimap of metadata.
#[derive(Clone, Default)]
pub struct Metadata {
    /// `None` until the first entry.
    entries: Option<Box<Entries>>,
}

#[derive(Clone, Default)]
struct Entries(Vec<Entry>);

#[derive(Clone, PartialEq, Eq)]
struct Entry {
    key: Cow<'static, str>,
    value: Bytes,
}

impl Metadata {
    /// An empty map; allocates nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: None }
    }

    /// Whether there is no entry.
    #[must_use]
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries().len()
    }

    /// Bytes that the entries take on the wire: three per entry, plus keys and values.
    #[must_use]
    #[inline]
    pub fn encoded_len(&self) -> usize {
        self.entries().iter().map(|entry| 3 + entry.key.len() + entry.value.len()).sum()
    }

    /// Sets `key` to exactly one value, replacing what was there.
    ///
    /// # Errors
    /// [`MetadataError`] if the key or the value breaks the character or length rules.
    pub fn insert(&mut self, key: impl Into<Cow<'static, str>>, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        let key = key.into();
        check(&key, value.as_ref())?;
        self.remove(&key);
        self.push(Entry {
            key,
            value: Bytes::copy_from_slice(value.as_ref()),
        });
        Ok(())
    }

    /// Adds a value and keeps those that `key` has already.
    ///
    /// # Errors
    /// [`MetadataError`] if the key or the value breaks the character or length rules.
    pub fn append(&mut self, key: impl Into<Cow<'static, str>>, value: impl AsRef<[u8]>) -> Result<(), MetadataError> {
        let key = key.into();
        check(&key, value.as_ref())?;
        self.push(Entry {
            key,
            value: Bytes::copy_from_slice(value.as_ref()),
        });
        Ok(())
    }

    /// Removes all values of `key`; tells whether there was one.
    pub fn remove(&mut self, key: &str) -> bool {
        let Some(entries) = &mut self.entries else { return false };
        let before = entries.0.len();
        entries.0.retain(|entry| entry.key != key);
        before != entries.0.len()
    }

    /// The first value of `key`, if it is text.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.get_bytes(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The first value of `key`, as bytes.
    #[must_use]
    pub fn get_bytes(&self, key: &str) -> Option<&[u8]> {
        self.entries().iter().find(|entry| entry.key == key).map(|entry| &entry.value[..])
    }

    /// All values of `key`, in order.
    pub fn get_all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.entries().iter().filter(move |entry| entry.key == key).map(|entry| &entry.value[..])
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.entries().iter().map(|entry| (&*entry.key, &entry.value[..]))
    }

    /// Appends all entries of `other`.
    #[inline]
    pub fn merge(&mut self, other: &Self) {
        if !other.is_empty() {
            self.entries.get_or_insert_default().0.extend(other.entries().iter().cloned());
        }
    }

    /// Removes all entries and keeps the memory.
    #[inline]
    pub fn clear(&mut self) {
        if let Some(entries) = &mut self.entries {
            entries.0.clear();
        }
    }

    #[inline]
    fn entries(&self) -> &[Entry] {
        self.entries.as_ref().map_or(&[], |entries| &entries.0)
    }

    fn push(&mut self, entry: Entry) {
        self.entries.get_or_insert_default().0.push(entry);
    }
}

impl PartialEq for Metadata {
    fn eq(&self, other: &Self) -> bool {
        self.entries() == other.entries()
    }
}

impl Eq for Metadata {}

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may hold credentials: a log line shows keys and sizes only.
        f.debug_map()
            .entries(
                self.entries()
                    .iter()
                    .map(|entry| (&entry.key, format_args!("{} bytes", entry.value.len()).to_string())),
            )
            .finish()
    }
}

/// A key or value that metadata cannot carry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MetadataError {
    /// The key is empty, too long, or has a character other than `a-z`, `0-9`, `-`, `_` and `.`.
    #[error("metadata key {key:?} must be 1 to 255 characters of a-z, 0-9, '-', '_' and '.'")]
    Key {
        /// The key, cut to 64 characters.
        key: String,
    },
    /// The value has a character that text values may not have.
    #[error("metadata value of {key:?} must be printable ASCII; for other bytes end the key in \"-bin\"")]
    Value {
        /// The key of the value.
        key: String,
    },
    /// The value is longer than its length field can tell.
    #[error("metadata value of {key:?} has {len} bytes; the most is 65535")]
    ValueTooLong {
        /// The key of the value.
        key: String,
        /// The length of the value, in bytes.
        len: usize,
    },
}

/// Whether `key` and `value` may stand in metadata.
///
/// # Errors
/// [`MetadataError`] names the rule that is broken.
pub fn check(key: &str, value: &[u8]) -> Result<(), MetadataError> {
    let key_byte = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.');
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !key.bytes().all(key_byte) {
        return Err(MetadataError::Key {
            key: key.chars().take(64).collect(),
        });
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(MetadataError::ValueTooLong {
            key: key.to_owned(),
            len: value.len(),
        });
    }
    let text_byte = |b: &u8| matches!(b, 0x20..=0x7e);
    if !key.ends_with("-bin") && !value.iter().all(text_byte) {
        return Err(MetadataError::Value { key: key.to_owned() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{KEY_BYTES_MAX, Metadata, MetadataError, VALUE_BYTES_MAX};

    #[test]
    fn insert_replaces_and_append_keeps() -> Result<(), MetadataError> {
        let mut metadata = Metadata::new();
        metadata.append("tenant", "a")?;
        metadata.append("tenant", "b")?;
        metadata.append("other", "c")?;
        assert_eq!(metadata.get_all("tenant").count(), 2);
        metadata.insert("tenant", "d")?;
        assert_eq!(metadata.get("tenant"), Some("d"));
        assert_eq!(metadata.len(), 2);
        assert!(metadata.remove("tenant"));
        assert!(!metadata.remove("tenant"));
        Ok(())
    }

    #[test]
    fn characters_and_lengths_are_checked() {
        let mut metadata = Metadata::new();
        for key in ["", "Upper", "sp ace", "ümlaut", &"k".repeat(KEY_BYTES_MAX + 1)] {
            let error = metadata.insert(key.to_owned(), "v").unwrap_err();
            assert!(matches!(error, MetadataError::Key { .. }), "{key}: {error}");
        }
        assert!(metadata.insert("k".repeat(KEY_BYTES_MAX), "v").is_ok());
        assert!(metadata.insert("text", "line\nbreak").is_err());
        assert!(metadata.insert("raw-bin", [0_u8, 255]).is_ok());
        let long = vec![b'x'; VALUE_BYTES_MAX];
        assert!(metadata.insert("long", &long).is_ok());
        let longer = vec![b'x'; VALUE_BYTES_MAX + 1];
        assert!(matches!(
            metadata.insert("long", &longer),
            Err(MetadataError::ValueTooLong { len: 65_536, .. })
        ));
    }

    #[test]
    fn debug_hides_values() -> Result<(), MetadataError> {
        let mut metadata = Metadata::new();
        metadata.insert("authorization", "secret")?;
        assert!(!format!("{metadata:?}").contains("secret"));
        Ok(())
    }
}
