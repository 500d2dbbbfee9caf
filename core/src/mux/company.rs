//! What the streams of one QUIC connection know of each other.
//!
//! Over QUIC one stream of the transport, the *lane*, is framed for many calls as a TCP connection is, and further streams carry one call at a time. Each has a
//! [`Mux`](super::Mux) of its own; what has to hold for all of them together (how many calls run, whether the connection is at rest) goes through here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::nuisance::SharedBudget;

/// Unread bytes that every stream may hold, however many the others do: its reader has something to do, and goes on.
const UNREAD_BYTES_MIN: usize = 64 * 1024;

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
    /// How many run on the lane.
    on_lane: AtomicUsize,
    /// Those that come to nothing, wherever.
    pub(super) vain_calls: SharedBudget,
    /// Bytes that arrived on these streams and were not read.
    unread: AtomicUsize,
    /// Bytes of their messages under way.
    assembling: AtomicUsize,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            calls: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            on_lane: AtomicUsize::new(0),
            vain_calls: SharedBudget::default(),
            unread: AtomicUsize::new(0),
            assembling: AtomicUsize::new(0),
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

    /// Tells how many run on the lane now.
    pub(super) fn publish_lane(&self, calls: usize) {
        self.on_lane.store(calls, Ordering::Release);
    }

    fn is_over_limit(&self) -> bool {
        let all = self.calls() + self.on_lane.load(Ordering::Acquire);
        all > self.limit.load(Ordering::Acquire)
    }

    /// A further stream of the same connection.
    #[must_use]
    pub fn exclusive(self: &Arc<Self>) -> Arc<Exclusive> {
        Arc::new(Exclusive {
            taken: AtomicBool::new(false),
            unread: AtomicUsize::new(0),
            assembling: AtomicUsize::new(0),
            group: Arc::clone(self),
        })
    }
}

/// Whether a stream that carries one call at a time carries one now.
#[derive(Debug)]
pub struct Exclusive {
    taken: AtomicBool,
    /// What of the group's bytes are this one's.
    unread: AtomicUsize,
    assembling: AtomicUsize,
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

    /// Tells what this stream holds now. By the owner of its mux, under the lock of that.
    pub(super) fn publish(&self, unread: usize, assembling: usize) {
        publish(&self.unread, &self.group.unread, unread);
        publish(&self.assembling, &self.group.assembling, assembling);
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
        self.publish(0, 0);
    }
}

fn publish(own: &AtomicUsize, all: &AtomicUsize, now: usize) {
    let before = own.swap(now, Ordering::AcqRel);
    if now > before {
        all.fetch_add(now - before, Ordering::AcqRel);
    } else if now < before {
        all.fetch_sub(before - now, Ordering::AcqRel);
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
        let fits = !own.group.is_over_limit();
        if !fits {
            own.give_back();
        }
        fits
    }

    /// Whether a stream with so many bytes `unread` has to wait until they are read, because all together hold more than `max`.
    pub(super) fn is_to_wait(&self, unread: usize, max: usize) -> bool {
        match self {
            Self::Alone | Self::Lane(_) => false,
            Self::Exclusive(own) => unread >= UNREAD_BYTES_MIN && own.group.unread.load(Ordering::Acquire) > max,
        }
    }

    /// Bytes of messages under way on other streams.
    pub(super) fn assembling_elsewhere(&self) -> usize {
        match self {
            Self::Alone => 0,
            Self::Lane(group) => group.assembling.load(Ordering::Acquire),
            Self::Exclusive(own) => {
                let all = own.group.assembling.load(Ordering::Acquire);
                all.saturating_sub(own.assembling.load(Ordering::Acquire))
            }
        }
    }

    /// The group, where there is one.
    pub(super) fn group(&self) -> Option<&Arc<Group>> {
        match self {
            Self::Alone => None,
            Self::Lane(group) => Some(group),
            Self::Exclusive(own) => Some(&own.group),
        }
    }

    /// The call of this stream is over, and its handler runs on.
    pub(super) fn is_held(&self) {
        if let Self::Exclusive(own) = self {
            let _again = own.take();
        }
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

    use super::{Company, Group, UNREAD_BYTES_MIN};

    #[test]
    fn calls_on_streams_of_their_own_have_a_limit_together() {
        let group = Arc::new(Group::default());
        group.set_limit(2);
        let streams: Vec<Company> = (0..3).map(|_| Company::Exclusive(group.exclusive())).collect();
        assert!(streams[0].admits() && streams[1].admits() && !streams[2].admits());
        streams[0].at_rest();
        assert!(streams[2].admits());
        assert_eq!(group.calls(), 2);
        streams[2].at_rest();
        group.publish_lane(1);
        assert!(!streams[2].admits(), "those on the lane count, too");
        group.publish_lane(0);
        assert!(streams[2].admits());
        // Its handler runs on.
        streams[2].at_rest();
        streams[2].is_held();
        assert_eq!(group.calls(), 2);
    }

    #[test]
    fn unread_bytes_of_all_streams_have_a_limit() {
        let group = Arc::new(Group::default());
        let (one, other) = (group.exclusive(), group.exclusive());
        other.publish(1_000_000, 0);
        let waits = |unread, max| {
            one.publish(unread, 0);
            Company::Exclusive(Arc::clone(&one)).is_to_wait(unread, max)
        };
        assert!(!waits(UNREAD_BYTES_MIN, 1_000_000 + UNREAD_BYTES_MIN), "at the limit");
        assert!(waits(UNREAD_BYTES_MIN, 1_000_000 + UNREAD_BYTES_MIN - 1), "above");
        assert!(!waits(UNREAD_BYTES_MIN - 1, 0), "it has nearly nothing to read");
        drop(other);
        assert!(!waits(UNREAD_BYTES_MIN, UNREAD_BYTES_MIN));
    }

    #[test]
    fn messages_under_way_elsewhere_count() {
        let group = Arc::new(Group::default());
        let (one, other) = (group.exclusive(), group.exclusive());
        one.publish(0, 30);
        other.publish(0, 50);
        other.publish(0, 20);
        assert_eq!(Company::Exclusive(Arc::clone(&one)).assembling_elsewhere(), 20);
        assert_eq!(Company::Lane(Arc::clone(&group)).assembling_elsewhere(), 50);
        drop(other);
        assert_eq!(Company::Exclusive(one).assembling_elsewhere(), 0);
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
