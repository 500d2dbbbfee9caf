//! Credit that this side gave: how much the peer may still send, and how much is to be given back.

use super::frames::{Input, discard};
use super::{Mux, StreamKey};
use crate::wire::frame::{CREDIT_MAX, StreamId};

/// The receiving half of flow control, of a stream or of the connection.
///
/// Invariant: `left + unread + owed == size`, where `unread` lies in queues.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    size: u32,
    left: u32,
    owed: u32,
}

impl Window {
    pub(super) const fn new(size: u32) -> Self {
        Self {
            size,
            left: size,
            owed: 0,
        }
    }

    /// Takes `bytes` that arrived off the credit; false if the peer sent more than it had.
    #[must_use]
    pub(super) fn receive(&mut self, bytes: usize) -> bool {
        let Some(left) = u32::try_from(bytes).ok().and_then(|bytes| self.left.checked_sub(bytes)) else {
            return false;
        };
        self.left = left;
        self.check();
        true
    }

    /// Notes that `bytes` were taken out of the queues; returns the credit to send when it is worth a frame.
    ///
    /// Half a window is the batch: the peer never waits as long as the round trip is shorter than the other half lasts.
    #[must_use]
    pub(super) fn consume(&mut self, bytes: usize) -> Option<u32> {
        self.owe(bytes);
        (self.owed >= self.size / 2).then(|| self.give_back())
    }

    /// As [`consume`](Self::consume) for a window that several streams share: what one of them leaves unread must not hold back what the others
    /// gave up. So the credit is also worth its frame as soon as the peer has no more than that left.
    #[must_use]
    pub(super) fn consume_shared(&mut self, bytes: usize) -> Option<u32> {
        self.owe(bytes);
        (self.owed >= self.size / 2 || (self.owed >= self.left && self.owed >= TINY_CREDIT_BYTES))
            .then(|| self.give_back())
    }

    fn owe(&mut self, bytes: usize) {
        self.owed = self.owed.saturating_add(u32::try_from(bytes).unwrap_or(u32::MAX));
        self.check();
    }

    /// What the peer may still send.
    pub(super) const fn left(&self) -> u32 {
        self.left
    }

    fn give_back(&mut self) -> u32 {
        let credit = std::mem::take(&mut self.owed);
        self.left += credit;
        self.check();
        credit
    }

    /// Size, what is left, and what is owed.
    #[cfg(test)]
    pub(super) fn parts(&self) -> (u32, u32, u32) {
        (self.size, self.left, self.owed)
    }

    fn check(&self) {
        debug_assert!(
            u64::from(self.left) + u64::from(self.owed) <= u64::from(self.size),
            "credit is never given twice: {self:?}"
        );
    }
}

impl Mux {
    /// Gives credit back for bytes of a stream that were read.
    pub(super) fn give_credit(&mut self, key: StreamKey, bytes: usize) {
        if bytes == 0 {
            return;
        }
        if let Some(stream) = self.streams.get(key)
            && !stream.recv.fin
            && let Some(credit) = stream.recv.window.consume(bytes)
        {
            self.outbox.push_credit(key.id, credit);
        }
        self.credit_connection(bytes);
    }

    pub(super) fn credit_connection(&mut self, bytes: usize) {
        if let Some(credit) = self.recv_window.consume_shared(bytes) {
            self.outbox.push_credit(StreamId::CONNECTION, credit);
        }
    }

    /// Bytes for a stream that is gone: they count as read at once, so that the connection's credit stays whole.
    pub(super) fn return_unwanted(&mut self, bytes: usize) {
        if self.recv_window.receive(bytes) {
            self.credit_connection(bytes);
        }
    }

    pub(super) fn discard_body(&mut self, bytes: usize) -> Input {
        self.return_unwanted(bytes);
        discard(bytes)
    }

    /// A stream ended here while the peer may have sent as much as `credit` that has not arrived.
    pub(super) fn expect_late(&mut self, credit: u32) {
        self.nuisance.expect_late(credit as usize, self.config.connection_window as usize);
    }
}

/// Credit smaller than this is hardly worth its frame: a peer that sends many of those is sent away.
pub(super) const TINY_CREDIT_BYTES: u32 = 256;

/// Adds credit that the peer gave; `None` if there can be no such credit.
#[must_use]
pub(super) fn add_credit(credit: u32, more: u32) -> Option<u32> {
    let sum = credit.checked_add(more)?;
    (more > 0 && sum <= CREDIT_MAX).then_some(sum)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Window, add_credit};
    use crate::wire::frame::CREDIT_MAX;

    #[test]
    fn more_than_the_credit_is_refused() {
        let mut window = Window::new(100);
        assert!(window.receive(100));
        assert!(!window.receive(1));
        assert_eq!(window.consume(49), None);
        assert_eq!(window.consume(1), Some(50));
        assert!(window.receive(50));
        assert!(!window.receive(usize::MAX));
    }

    #[test]
    fn credit_neither_overflows_nor_is_empty() {
        assert_eq!(add_credit(1, 2), Some(3));
        assert_eq!(add_credit(1, 0), None);
        assert_eq!(add_credit(CREDIT_MAX - 1, 1), Some(CREDIT_MAX));
        assert_eq!(add_credit(CREDIT_MAX, 1), None);
        assert_eq!(add_credit(CREDIT_MAX, u32::MAX), None);
    }

    proptest! {
        #[test]
        fn credit_is_conserved(size in 2_u32..10_000, steps in proptest::collection::vec((any::<bool>(), 0_usize..10_000), 0..200)) {
            let mut window = Window::new(size);
            let (mut peer_credit, mut unread) = (size as usize, 0_usize);
            for (arrive, amount) in steps {
                if arrive {
                    let bytes = amount.min(peer_credit);
                    prop_assert!(window.receive(bytes));
                    peer_credit -= bytes;
                    unread += bytes;
                } else {
                    let bytes = amount.min(unread);
                    unread -= bytes;
                    peer_credit += window.consume(bytes).unwrap_or(0) as usize;
                }
                prop_assert!(peer_credit + unread <= size as usize);
            }
            peer_credit += window.consume(unread).unwrap_or(0) as usize;
            prop_assert!(peer_credit > size as usize / 2, "a peer whose bytes are read is never starved");
        }
    }
}
