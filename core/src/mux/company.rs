//! What the streams of one QUIC connection know of each other.
//!
//! Over QUIC one stream of the transport, the *lane*, is framed for many calls as a TCP connection is, and further streams carry one call at a time. Each has a
//! [`Mux`](super::Mux) of its own; what has to hold for all of them together (how many calls run, whether the connection is at rest) goes through here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// The place of a byte stream among those of its connection.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Company {
    /// The connection is this stream.
    #[default]
    Alone,
    /// The lane that small calls share; the connection lives as long as it does.
    Lane(Arc<Group>),
    /// A stream that carries one call at a time.
    Exclusive(Arc<Exclusive>),
}

/// The calls of a connection that run on streams of their own.
#[derive(Debug)]
pub struct Group {
    calls: AtomicUsize,
    /// How many this side lets run.
    limit: AtomicUsize,
    /// How many were answered since the lane last looked.
    answered: AtomicUsize,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            answered: AtomicUsize::new(0),
        }
    }
}

impl Group {
    /// How many run now.
    #[must_use]
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire)
    }

    /// Sets how many this side lets run.
    pub(super) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Release);
    }

    /// Counts an answer.
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    /// How many were answered since the last time.
    pub(super) fn take_answered(&self) -> usize {
        self.answered.swap(0, Ordering::Relaxed)
    }

    /// A further stream of the same connection.
    #[must_use]
    pub fn exclusive(self: &Arc<Self>) -> Arc<Exclusive> {
        Arc::new(Exclusive {
            taken: AtomicBool::new(false),
            group: Arc::clone(self),
        })
    }
}

/// Whether a stream that carries one call at a time carries one now.
#[derive(Debug)]
pub struct Exclusive {
    taken: AtomicBool,
    group: Arc<Group>,
}

impl Exclusive {
    /// Takes the stream for a call; false if it carries one.
    #[must_use]
    pub fn take(&self) -> bool {
        let free = !self.taken.swap(true, Ordering::AcqRel);
        if free {
            self.group.calls.fetch_add(1, Ordering::AcqRel);
        }
        free
    }

    /// The call is over, or was not made.
    pub fn give_back(&self) {
        if self.taken.swap(false, Ordering::AcqRel) {
            self.group.calls.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether it carries a call.
    #[must_use]
    pub fn is_taken(&self) -> bool {
        self.taken.load(Ordering::Acquire)
    }

    /// The calls of the connection that run on streams of their own.
    #[must_use]
    pub fn group(&self) -> &Arc<Group> {
        &self.group
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Company {
    /// Calls of the connection that run elsewhere, as far as they count here.
    pub(super) fn others(&self) -> usize {
        match self {
            Self::Alone | Self::Exclusive(_) => 0,
            Self::Lane(group) => group.calls(),
        }
    }

    /// Server: a call begins on this stream; false if as many run as may.
    pub(super) fn admits(&self) -> bool {
        let Self::Exclusive(own) = self else { return true };
        let _carries_one = own.take();
        let fits = own.group.calls() <= own.group.limit.load(Ordering::Acquire);
        if !fits {
            own.give_back();
        }
        fits
    }

    /// The last call of this stream is over.
    pub(super) fn at_rest(&self) {
        if let Self::Exclusive(own) = self {
            own.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Company, Group};

    #[test]
    fn calls_on_streams_of_their_own_have_a_limit_together() {
        let group = Arc::new(Group::default());
        group.set_limit(2);
        let streams: Vec<Company> = (0..3).map(|_| Company::Exclusive(group.exclusive())).collect();
        assert!(streams[0].admits() && streams[1].admits() && !streams[2].admits());
        streams[0].at_rest();
        assert!(streams[2].admits());
        assert_eq!(group.calls(), 2);
    }

    #[test]
    fn calls_are_counted_once_and_until_their_stream_is_gone() {
        let group = Arc::new(Group::default());
        let (one, other) = (group.exclusive(), group.exclusive());
        assert!(one.take() && !one.take() && other.take());
        assert_eq!((group.calls(), Company::Lane(Arc::clone(&group)).others()), (2, 2));
        one.give_back();
        one.give_back();
        assert_eq!(group.calls(), 1);
        drop(other);
        assert!(group.calls() == 0 && !one.is_taken());
    }
}
