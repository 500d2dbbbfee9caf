//! Why bytes of a peer could not be read.

/// Bytes that are not what the wire format asks for.
///
/// Every reader of this floor returns it instead of panicking; the message names the field and the limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// The bytes ended inside a value.
    #[error("the bytes end inside {what}")]
    Truncated {
        /// What was being read.
        what: &'static str,
    },
    /// Bytes were left over after the value.
    #[error("{left} bytes are left over after {what}")]
    TrailingBytes {
        /// What was read.
        what: &'static str,
        /// How many bytes are left.
        left: usize,
    },
    /// A value is nested deeper than the limit.
    #[error("values are nested deeper than {limit} levels")]
    TooDeep {
        /// The limit.
        limit: usize,
    },
    /// A length is over its limit.
    #[error("{what} has {len} bytes; the most is {limit}")]
    TooLong {
        /// What is too long.
        what: &'static str,
        /// Its length.
        len: usize,
        /// The limit.
        limit: usize,
    },
    /// There are more of something than its limit.
    #[error("{what} has more than {limit} entries")]
    TooMany {
        /// What has too many.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A text is not UTF-8.
    #[error("{what} is not UTF-8")]
    Utf8 {
        /// What was being read.
        what: &'static str,
    },
    /// A value has the wrong form.
    #[error("{0}")]
    Invalid(String),
}

impl DecodeError {
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::Invalid(message.into())
    }
}

impl serde::de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Invalid(message.to_string())
    }
}

/// A value that cannot be written as MessagePack.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value cannot be encoded: {message}")]
pub struct EncodeError {
    pub(crate) message: String,
}
