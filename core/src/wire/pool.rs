//! Byte buffers that are used again: small ones per thread, large ones for the process.
//!
//! A small call encodes into a pooled buffer and decodes out of one; in the steady state neither side asks the allocator. What a thread keeps is
//! bounded in count and in bytes, and so is what the process keeps of large buffers, which connections at rest give back.

use std::cell::RefCell;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Buffers that a thread keeps at most: two per call of a few hundred calls in flight.
const BUFFERS_MAX: usize = 512;
/// The largest buffer that is kept, in bytes; bodies above it are rare and would pin memory. With the count it bounds what a thread keeps to 2 MiB.
const BUFFER_BYTES_MAX: usize = 4 * 1024;
/// Capacity of a fresh buffer: most small calls fit without growing.
const FRESH_BYTES: usize = 256;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer, used before if there is one.
#[must_use]
#[inline]
pub fn take() -> Vec<u8> {
    let kept = POOL.try_with(|pool| pool.borrow_mut().pop());
    match kept {
        Ok(Some(buffer)) => buffer,
        Ok(None) | Err(_) => Vec::with_capacity(FRESH_BYTES),
    }
}

/// Gives a buffer back.
#[inline]
pub fn give(mut buffer: Vec<u8>) {
    if buffer.capacity() == 0 || buffer.capacity() > BUFFER_BYTES_MAX {
        return;
    }
    // At thread exit the pool may be gone; the buffer is freed then.
    let _gone = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < BUFFERS_MAX {
            buffer.clear();
            pool.push(buffer);
        }
    });
}

/// From this size on a body's buffer is kept by the process: the system hands out fresh pages one fault at a time, which costs more than the
/// copy into them.
pub const LARGE_BYTES_MIN: usize = 64 * 1024;
/// What the process keeps of large buffers at most, in bytes.
const LARGE_POOL_BYTES_MAX: usize = 16 * 1024 * 1024;
/// How many large buffers the process keeps at most; they are searched one by one.
const LARGE_BUFFERS_MAX: usize = 64;

static LARGE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn large() -> MutexGuard<'static, Vec<Vec<u8>>> {
    LARGE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An empty buffer with room for `bytes`: a kept one that fits and is not much too large, or a fresh one.
#[must_use]
pub fn take_large(bytes: usize) -> Vec<u8> {
    if bytes >= LARGE_BYTES_MIN {
        let mut kept = large();
        let fits = |buffer: &Vec<u8>| (bytes..=bytes.saturating_mul(2)).contains(&buffer.capacity());
        if let Some(at) = kept.iter().rposition(fits) {
            return kept.swap_remove(at);
        }
    }
    Vec::with_capacity(bytes)
}

/// The bytes of `buffer`, whose memory comes back here when the last of them is dropped.
#[must_use]
pub fn share_large(buffer: Vec<u8>) -> Bytes {
    if buffer.capacity() < LARGE_BYTES_MIN {
        return Bytes::from(buffer);
    }
    Bytes::from_owner(Large(buffer))
}

/// Gives half of the kept large buffers back to the system; called by connections that come to rest.
pub fn shrink_large() {
    let mut kept = large();
    let half = kept.len() / 2;
    kept.truncate(half);
}

/// A large buffer that returns to the pool.
struct Large(Vec<u8>);

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let mut buffer = std::mem::take(&mut self.0);
        buffer.clear();
        let mut kept = large();
        let bytes: usize = kept.iter().map(Vec::capacity).sum();
        if kept.len() < LARGE_BUFFERS_MAX && bytes + buffer.capacity() <= LARGE_POOL_BYTES_MAX {
            kept.push(buffer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BUFFER_BYTES_MAX, BUFFERS_MAX, LARGE_BYTES_MIN, LARGE_POOL_BYTES_MAX, POOL};
    use super::{give, large, share_large, shrink_large, take, take_large};

    #[test]
    fn large_buffers_come_back_and_are_bounded() {
        let mut buffer = take_large(LARGE_BYTES_MIN);
        buffer.push(7);
        let bytes = share_large(buffer);
        let slice = bytes.slice(..1);
        drop(bytes);
        assert_eq!(slice[..], [7]);
        drop(slice);
        let many: Vec<_> = (0..100).map(|_| share_large(Vec::with_capacity(LARGE_BYTES_MIN * 8))).collect();
        drop(many);
        let kept: usize = large().iter().map(Vec::capacity).sum();
        assert!(kept > 0 && kept <= LARGE_POOL_BYTES_MAX);
        for _ in 0..10 {
            shrink_large();
        }
        assert!(large().is_empty());
    }

    #[test]
    fn a_buffer_comes_back_empty() {
        let mut buffer = take();
        buffer.extend_from_slice(b"secret");
        let address = buffer.as_ptr();
        give(buffer);
        let again = take();
        assert!(again.is_empty() && again.as_ptr() == address);
    }

    #[test]
    fn what_a_thread_keeps_is_bounded() {
        give(Vec::with_capacity(BUFFER_BYTES_MAX + 1));
        POOL.with(|pool| assert_eq!(pool.borrow().len(), 0));
        for _ in 0..BUFFERS_MAX * 2 {
            give(Vec::with_capacity(BUFFER_BYTES_MAX));
        }
        POOL.with(|pool| assert_eq!(pool.borrow().len(), BUFFERS_MAX));
    }
}
