//! The read buffer of a thread: connections borrow it for as long as they read, so an idle one holds none.

use crate::mux::CONTIGUOUS_BYTES_MAX;

/// The read buffer of a thread: a batch of about a thousand small calls, and more than any run of bytes that must stand together.
const READ_BYTES: usize = 64 * 1024;
const _: () = assert!(READ_BYTES > CONTIGUOUS_BYTES_MAX, "a head always fits the read buffer");

thread_local! {
    static BUFFER: std::cell::RefCell<Option<Box<[u8]>>> = const { std::cell::RefCell::new(None) };
}

/// Lends the thread's read buffer to `work`.
#[inline]
pub(super) fn with_buffer<T>(work: impl FnOnce(&mut [u8]) -> T) -> T {
    let mut buffer = BUFFER
        .try_with(|buffer| buffer.borrow_mut().take())
        .ok()
        .flatten()
        .unwrap_or_else(|| vec![0; READ_BYTES].into_boxed_slice());
    let result = work(&mut buffer);
    // At thread exit there is no place to keep it.
    let _gone = BUFFER.try_with(|kept| *kept.borrow_mut() = Some(buffer));
    result
}
