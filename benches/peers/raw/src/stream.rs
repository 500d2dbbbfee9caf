//! Flow control of a stream, by bytes: the receiver lets the sender be at most a window ahead.

use std::sync::Mutex;
use std::sync::PoisonError;

use anyhow::{Context, Result};
use tokio::sync::Notify;

/// Bytes that a stream's sender may be ahead of its receiver.
pub(crate) const WINDOW: u32 = 256 * 1024;
/// Bytes of items that go into one write.
pub(crate) const BATCH: usize = 48 * 1024;

/// What the sender may still send.
pub(crate) struct Credit {
    left: Mutex<i64>,
    granted: Notify,
}

impl Credit {
    pub(crate) fn new() -> Self {
        Self {
            left: Mutex::new(WINDOW.into()),
            granted: Notify::new(),
        }
    }

    pub(crate) fn grant(&self, bytes: u32) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) += i64::from(bytes);
        self.granted.notify_one();
    }

    pub(crate) fn spend(&self, bytes: usize) {
        *self.left.lock().unwrap_or_else(PoisonError::into_inner) -= bytes as i64;
    }

    /// Waits until there is any. The last item before a wait may overdraw it.
    pub(crate) async fn available(&self) -> usize {
        loop {
            let left = *self.left.lock().unwrap_or_else(PoisonError::into_inner);
            match usize::try_from(left) {
                Ok(left) if left > 0 => return left,
                _ => self.granted.notified().await,
            }
        }
    }
}

/// What the receiver consumed and has not granted again.
#[derive(Default)]
pub(crate) struct Consumed(u32);

impl Consumed {
    /// Counts bytes; returns what to grant once that is worth a frame.
    pub(crate) fn add(&mut self, bytes: usize) -> Option<u32> {
        self.0 += bytes as u32;
        (self.0 >= WINDOW / 2).then(|| std::mem::take(&mut self.0))
    }
}

/// Reads the body of a credit frame.
pub(crate) fn parse_credit(body: &[u8]) -> Result<u32> {
    let bytes = body.try_into().context("a credit frame has four bytes")?;
    Ok(u32::from_le_bytes(bytes))
}
