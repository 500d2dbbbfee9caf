//! What the codec of `raw` knows of a body.

use bytes::Bytes;

/// The bytes of a message.
#[allow(
    dead_code,
    reason = "the codec tells bodies apart by where they lie, and here they all lie alone"
)]
pub(crate) enum Body<'a> {
    Small(&'a [u8]),
    Large(Bytes),
    Items(&'a [u8]),
}
