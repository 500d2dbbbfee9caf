//! MessagePack: arguments as an array, replies bare, blobs as a header that their bytes follow.

use anyhow::{Context, Result};
use bytes::Bytes;
use load::Encoding;
use rmp::{decode, encode};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::Body;

/// Appends `value` to `out`.
pub(crate) fn put<T: Serialize>(encoding: Encoding, out: &mut Vec<u8>, value: &T) -> Result<()> {
    match encoding {
        Encoding::Compact => rmp_serde::encode::write(out, value),
        Encoding::Named => rmp_serde::encode::write_named(out, value),
    }
    .context("cannot encode")
}

/// Reads a value in either encoding.
pub(crate) fn get<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    rmp_serde::from_slice(bytes).context("cannot decode")
}

/// Appends the header of a blob of `len` bytes, as the only argument or as a bare reply.
pub(crate) fn put_blob_head(out: &mut Vec<u8>, argument: bool, len: usize) -> Result<()> {
    if argument {
        encode::write_array_len(out, 1)?;
    }
    encode::write_bin_len(out, u32::try_from(len).context("blob too long")?)?;
    Ok(())
}

/// Reads a blob. One that arrived in a buffer of its own stays there.
pub(crate) fn get_blob(body: Body<'_>, argument: bool) -> Result<Bytes> {
    let mut rest: &[u8] = match &body {
        Body::Small(bytes) | Body::Items(bytes) => bytes,
        Body::Large(bytes) => bytes,
    };
    let whole = rest.len();
    if argument {
        decode::read_array_len(&mut rest).context("a blob's argument is no array")?;
    }
    let len = decode::read_bin_len(&mut rest).context("a blob is no bin")? as usize;
    anyhow::ensure!(len == rest.len(), "a blob of {len} bytes came with {}", rest.len());
    Ok(match &body {
        Body::Small(_) | Body::Items(_) => Bytes::copy_from_slice(rest),
        Body::Large(bytes) => bytes.slice(whole - len..),
    })
}
