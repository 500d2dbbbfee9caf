//! Buffers for large bodies, used again and again.
//!
//! A body's buffer returns here when its last `Bytes` is dropped, and the next body is read into it, so that it costs
//! no page faults whatever the allocator's thresholds are. With one body in flight glibc does as well by itself; with
//! many 64 KiB ones the pool gains 1.3 times.

use std::mem;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

/// An empty buffer that holds at least `len` bytes without growing.
pub(crate) fn take(len: usize) -> Vec<u8> {
    let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
    // The most recently used one that fits without waste is the warmest.
    match free.iter().rposition(|buffer| (len..=len.saturating_mul(WASTE)).contains(&buffer.capacity())) {
        Some(index) => free.swap_remove(index),
        None => Vec::with_capacity(len),
    }
}

/// Makes a filled buffer immutable and shared; its last owner gives it back.
pub(crate) fn freeze(buffer: Vec<u8>) -> Bytes {
    Bytes::from_owner(Pooled(buffer))
}

struct Pooled(Vec<u8>);

impl AsRef<[u8]> for Pooled {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let mut buffer = mem::take(&mut self.0);
        buffer.clear();
        let mut free = FREE.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < BUFFERS_MAX {
            free.push(buffer);
        }
    }
}

static FREE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Enough for every body in flight in the largest blob workload, on both ways.
const BUFFERS_MAX: usize = 32;
/// A buffer serves bodies down to this fraction of its size.
const WASTE: usize = 4;
