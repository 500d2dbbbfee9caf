//! What the streams of one QUIC connection know of each other.
//!
//! Over QUIC one stream of the transport, the *lane*, is framed for many calls as a TCP connection is, and further streams carry one call at a time. Each has a
//! [`Mux`](super::Mux) of its own; what has to hold for all of them together (how many calls run and come to nothing, whether the connection is at rest, what
//! unread bytes and incomplete messages hold) goes through here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::nuisance::SharedBudget;
use crate::wire::frame::STREAM_WINDOW_MIN;

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

/// What all streams of a connection share: the calls on streams of their own, their windows, their messages under way, and the budget for calls in vain.
#[derive(Debug)]
pub struct Group {
    calls: AtomicUsize,
    /// How many this side lets run.
    limit: AtomicUsize,
    /// How many run on the lane.
    on_lane: AtomicUsize,
    /// Those that come to nothing, wherever.
    pub(super) vain_calls: SharedBudget,
    /// The windows of these streams together: what they may hold unread.
    granted: AtomicU64,
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
            granted: AtomicU64::new(0),
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
            granted: AtomicU32::new(0),
            assembling: AtomicUsize::new(0),
            group: Arc::clone(self),
        })
    }
}

/// A stream that carries one call at a time: whether it carries one now, and what it has of what the group shares.
#[derive(Debug)]
pub struct Exclusive {
    taken: AtomicBool,
    /// What of the group's bytes are this one's.
    granted: AtomicU32,
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

    /// The window that this stream gets of `wanted` bytes, where all together have `all`: half of what is left at most, so that there is something for
    /// those that come later, and never less than the protocol's least. Asked once.
    pub(super) fn grant(&self, wanted: u32, all: u32) -> u32 {
        let left = u64::from(all).saturating_sub(self.group.granted.load(Ordering::Acquire));
        let share = u32::try_from(left / 2).unwrap_or(u32::MAX).max(STREAM_WINDOW_MIN);
        let window = wanted.min(share);
        self.granted.store(window, Ordering::Release);
        self.group.granted.fetch_add(window.into(), Ordering::AcqRel);
        window
    }

    /// Tells what this stream's message under way holds now. By the owner of its mux, under the lock of that.
    pub(super) fn publish(&self, assembling: usize) {
        let before = self.assembling.swap(assembling, Ordering::AcqRel);
        let all = &self.group.assembling;
        if assembling > before {
            all.fetch_add(assembling - before, Ordering::AcqRel);
        } else if assembling < before {
            all.fetch_sub(before - assembling, Ordering::AcqRel);
        }
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        self.give_back();
        self.publish(0);
        self.group.granted.fetch_sub(self.granted.load(Ordering::Acquire).into(), Ordering::AcqRel);
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
    pub(super) fn try_admit(&self) -> bool {
        let Self::Exclusive(own) = self else { return true };
        let _carries_one = own.take();
        let fits = !own.group.is_over_limit();
        if !fits {
            own.give_back();
        }
        fits
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
    pub(super) fn note_held(&self) {
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

    use super::{Company, Group, STREAM_WINDOW_MIN};

    #[test]
    fn calls_on_streams_of_their_own_have_a_limit_together() {
        let group = Arc::new(Group::default());
        group.set_limit(2);
        let streams: Vec<Company> = (0..3).map(|_| Company::Exclusive(group.exclusive())).collect();
        assert!(streams[0].try_admit() && streams[1].try_admit() && !streams[2].try_admit());
        streams[0].at_rest();
        assert!(streams[2].try_admit());
        assert_eq!(group.calls(), 2);
        streams[2].at_rest();
        group.publish_lane(1);
        assert!(!streams[2].try_admit(), "those on the lane count, too");
        group.publish_lane(0);
        assert!(streams[2].try_admit());
        // Its handler runs on.
        streams[2].at_rest();
        streams[2].note_held();
        assert_eq!(group.calls(), 2);
    }

    #[test]
    fn windows_of_all_streams_have_a_limit() {
        let group = Arc::new(Group::default());
        let streams: Vec<_> = (0..100).map(|_| group.exclusive()).collect();
        let windows: Vec<u32> = streams.iter().map(|own| own.grant(1_000_000, 4_000_000)).collect();
        assert_eq!(windows[..3], [1_000_000, 1_000_000, 1_000_000]);
        assert!(windows.is_sorted_by(|earlier, later| earlier >= later));
        assert_eq!(windows[99], STREAM_WINDOW_MIN);
        let all: u64 = windows.iter().map(|window| u64::from(*window)).sum();
        assert!(all <= 4_000_000 + 100 * u64::from(STREAM_WINDOW_MIN), "{all}");
        drop(streams);
        assert_eq!(group.exclusive().grant(1_000_000, 4_000_000), 1_000_000);
    }

    #[test]
    fn messages_under_way_elsewhere_count() {
        let group = Arc::new(Group::default());
        let (one, other) = (group.exclusive(), group.exclusive());
        one.publish(30);
        other.publish(50);
        other.publish(20);
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
