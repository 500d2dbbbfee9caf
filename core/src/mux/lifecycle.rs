//! The connection as a whole: keepalive, idleness, shutdown, its end.

use std::time::{Duration, Instant};

use super::error::{ConnectionEnd, StreamError};
use super::{EndCause, Ended, Events, Mux, Role, StreamKey};
use crate::metadata::Metadata;
use crate::status::Status;
use crate::wire::frame::{ErrorCode, FrameType, StreamId};

/// Pings beyond the agreed rate that are forgiven before the connection ends.
const PING_STRIKES_MAX: u32 = 2;
/// The content of the ping between the two GOAWAYs of a drain.
const DRAIN_PING: [u8; 8] = *b"drain\0\0\0";
/// The longest interval between pings that a peer can ask for; a longer one would let it switch keepalive off.
pub(super) const PING_INTERVAL_HONOURED_MAX: Duration = Duration::from_mins(5);
/// How long the first GOAWAY waits for the answer to its ping.
const DRAIN_PING_TIMEOUT: Duration = Duration::from_secs(1);

/// Watches whether the peer lives.
#[derive(Debug)]
pub(super) struct Keepalive {
    started: Instant,
    /// When bytes last arrived.
    heard: Instant,
    /// When a call first asked for something since bytes last arrived.
    asked: Option<Instant>,
    /// When a ping of ours was sent that is not answered yet.
    pinged: Option<Instant>,
    /// When the connection last had no streams; `None` while it has some.
    at_rest: Option<Instant>,
    last_ping_of_peer: Option<Instant>,
    strikes: u32,
}

impl Keepalive {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            started: now,
            heard: now,
            asked: None,
            pinged: None,
            at_rest: Some(now),
            last_ping_of_peer: None,
            strikes: 0,
        }
    }

    /// Bytes arrived.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
        self.pinged = None;
    }

    /// When bytes last arrived.
    pub(super) fn last_heard(&self) -> Instant {
        self.heard
    }

    /// From when on silence counts: the calls before were answered, or nobody asked.
    fn silent_since(&self) -> Instant {
        self.asked.map_or(self.heard, |asked| asked.max(self.heard))
    }

    /// The last stream is gone. A ping that was not answered stays: short calls, one after the other, must not hide that the peer is dead.
    pub(super) fn at_rest(&mut self) {
        self.at_rest = Some(self.silent_since());
    }

    /// Calls run elsewhere on the same connection: its rest begins anew.
    fn still_busy(&mut self, now: Instant) {
        self.at_rest = Some(now);
    }

    /// A stream was opened; returns whether the peer is to be asked at once, because the connection was silent for `interval` before.
    pub(super) fn busy(&mut self, now: Instant, interval: Option<Duration>) -> bool {
        if self.at_rest.take().is_none() {
            return false;
        }
        self.asked.get_or_insert(now);
        let silent = now.saturating_duration_since(self.heard);
        self.pinged.is_none() && interval.is_some_and(|interval| silent >= interval)
    }
}

/// Where the connection stands on its way to the end.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shutdown {
    #[default]
    No,
    /// The first GOAWAY is out; new streams are still taken up until the peer answers the ping, or `until`.
    Announced { until: Instant },
    /// The second GOAWAY is out; later streams are not taken up.
    Draining { last: StreamId },
    /// The peer announced its end.
    PeerLeaves { last: StreamId },
}

impl Shutdown {
    pub(super) fn last_stream(self) -> Option<StreamId> {
        match self {
            Self::Draining { last } => Some(last),
            Self::No | Self::Announced { .. } | Self::PeerLeaves { .. } => None,
        }
    }

    pub(super) fn is_past_last(self, id: StreamId) -> bool {
        self.last_stream().is_some_and(|last| id > last)
    }
}

impl Mux {
    /// The next instant at which [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        if self.end.is_some() {
            return None;
        }
        let keepalive = match (self.keepalive.pinged, self.keepalive_interval()) {
            (Some(pinged), _) => Some(pinged + self.config.keepalive_timeout),
            (None, Some(interval)) if !self.streams.is_empty() => Some(self.keepalive.silent_since() + interval),
            (None, _) => None,
        };
        let handshake = (!self.hello_received).then(|| self.keepalive.started + self.config.handshake_timeout);
        let idle = match (self.keepalive.at_rest, self.config.idle_timeout) {
            // While handlers run on, `release` brings the next look.
            (Some(since), Some(timeout)) if self.streams.is_empty() && self.held == 0 => Some(since + timeout),
            _ => None,
        };
        let drain = match self.shutdown {
            Shutdown::Announced { until } => Some(until),
            Shutdown::No | Shutdown::Draining { .. } | Shutdown::PeerLeaves { .. } => None,
        };
        [self.streams.earliest_deadline(), keepalive, handshake, idle, drain].into_iter().flatten().min()
    }

    /// Does what is due at `now`: deadlines, keepalive, handshake and idle time-outs.
    pub fn handle_timeout(&mut self, now: Instant, events: &mut Events) {
        if self.end.is_some() {
            return;
        }
        if !self.hello_received && now >= self.keepalive.started + self.config.handshake_timeout {
            let reason = format!("no HELLO within {:?}", self.config.handshake_timeout);
            self.fail(ErrorCode::HandshakeTimeout, reason, events);
            return;
        }
        self.expire_deadlines(now, events);
        match (self.keepalive.pinged, self.keepalive_interval()) {
            (Some(pinged), _) if now >= pinged + self.config.keepalive_timeout => {
                let reason = format!("no answer to a ping within {:?}", self.config.keepalive_timeout);
                self.fail(ErrorCode::KeepaliveTimeout, reason, events);
                return;
            }
            (None, Some(interval)) if !self.streams.is_empty() && now >= self.keepalive.silent_since() + interval => {
                self.send_ping(now);
            }
            _ => {}
        }
        if let (Some(since), Some(timeout)) = (self.keepalive.at_rest, self.config.idle_timeout)
            && self.streams.is_empty()
            && self.held == 0
            && now >= since + timeout
        {
            if self.company.others() > 0 {
                // Not at rest, only this stream of it is.
                self.keepalive.still_busy(now);
                return;
            }
            self.fail(ErrorCode::Idle, format!("no call for {timeout:?}"), events);
            return;
        }
        if let Shutdown::Announced { until } = self.shutdown
            && now >= until
        {
            self.refuse_further();
        }
    }

    /// Server: whether as many calls run as may.
    pub(super) fn is_full(&self) -> bool {
        self.streams.len() + self.held + self.company.others() >= self.config.max_streams as usize
    }

    /// The last stream is gone.
    pub(super) fn came_to_rest(&mut self) {
        self.keepalive.at_rest();
        if self.held == 0 {
            self.company.at_rest();
        }
    }

    /// Counts a handler that runs on though its stream is over.
    pub fn hold(&mut self) {
        self.held += 1;
        self.company.note_held();
    }

    /// The handler of [`hold`](Self::hold) has ended.
    pub fn release(&mut self) {
        self.held = self.held.saturating_sub(1);
        if self.held == 0 && self.streams.is_empty() {
            self.company.at_rest();
        }
        self.publish();
    }

    /// Client: as [`release_call`](Self::release_call), where the call has its byte stream to itself: unless the call is over for both sides, the stream
    /// ends with it. Returns whether it did.
    pub fn release_with_stream(&mut self, key: StreamKey, events: &mut Events) -> bool {
        let ends = self.streams.get(key).is_some_and(|stream| !stream.recv.fin);
        if ends {
            // Before the stream is free for the next call.
            self.handle_end("the call on this stream was given up", events);
        }
        self.remove(key);
        ends
    }

    /// Server: frees a stream whose answer is sent.
    pub(super) fn close_if_done(&mut self, key: StreamKey) {
        if self.role == Role::Server && self.streams.get(key).is_some_and(|stream| stream.send.closed) {
            self.remove(key);
        }
    }

    /// Ends every call whose deadline has come. A server tells the client; a client tells nobody, because the server knows the same deadline.
    fn expire_deadlines(&mut self, now: Instant, events: &mut Events) {
        for key in self.streams.expired(now) {
            let Some(stream) = self.streams.get(key) else { continue };
            stream.fail(StreamError::DeadlineExceeded, events);
            stream.deadline = None;
            if self.role == Role::Server {
                self.remove(key);
                let status = Status::deadline_exceeded("the deadline passed at the server");
                self.outbox.push_end(key.id, Some(&status), &Metadata::new());
                events.ended.push(Ended {
                    key,
                    cause: EndCause::DeadlineExceeded,
                });
            }
        }
    }

    /// The peer showed that it lives, though it sent nothing that was read.
    pub fn heard(&mut self, now: Instant) {
        self.keepalive.heard(now);
    }

    /// The silence after which a ping is sent: our own, but no shorter than the peer allows.
    pub(super) fn keepalive_interval(&self) -> Option<Duration> {
        let allowed = Duration::from_millis(self.peer.ping_interval_min_ms.into()).min(PING_INTERVAL_HONOURED_MAX);
        self.config.keepalive_interval.map(|interval| interval.max(allowed))
    }

    pub(super) fn send_ping(&mut self, now: Instant) {
        self.outbox.push_ping(FrameType::Ping, *b"alive?\0\0");
        self.keepalive.pinged = Some(now);
    }

    pub(super) fn handle_ping(&mut self, now: Instant, payload: &[u8], events: &mut Events) {
        let too_soon = self
            .keepalive
            .last_ping_of_peer
            .is_some_and(|last| now.saturating_duration_since(last) < self.config.ping_interval_min);
        self.keepalive.last_ping_of_peer = Some(now);
        if too_soon {
            self.keepalive.strikes += 1;
            if self.keepalive.strikes > PING_STRIKES_MAX {
                self.fail(ErrorCode::CalmDown, "too_many_pings", events);
                return;
            }
        }
        if let Some(content) = payload.first_chunk() {
            self.outbox.push_ping(FrameType::Pong, *content);
        }
    }

    pub(super) fn handle_pong(&mut self, now: Instant, payload: &[u8], events: &mut Events) {
        self.count_nuisance(now, events);
        self.keepalive.heard(now);
        if payload == DRAIN_PING && matches!(self.shutdown, Shutdown::Announced { .. }) {
            self.refuse_further();
        }
    }

    /// What was asked in between was worth an answer: pings are not counted against the peer any more.
    pub(super) fn forgive_pings(&mut self) {
        self.keepalive.strikes = 0;
    }

    /// Server: asks the client to open no further streams; calls that run, and those under way, are still answered.
    pub fn start_drain(&mut self, now: Instant) {
        if self.end.is_none() && self.shutdown == Shutdown::No {
            self.outbox.push_go_away(StreamId::MAX, ErrorCode::None, "the server is shutting down");
            self.outbox.push_ping(FrameType::Ping, DRAIN_PING);
            self.shutdown = Shutdown::Announced {
                until: now + DRAIN_PING_TIMEOUT,
            };
        }
    }

    fn refuse_further(&mut self) {
        let last = self.newest;
        self.shutdown = Shutdown::Draining { last };
        self.outbox.push_go_away(last, ErrorCode::None, "the server is shutting down");
    }

    /// Whether a drain has come to its end: no stream is open and none will be.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let leaving = matches!(self.shutdown, Shutdown::Draining { .. } | Shutdown::PeerLeaves { .. });
        leaving && self.streams.is_empty() && self.held == 0
    }

    pub(super) fn handle_go_away(&mut self, now: Instant, payload: &[u8], events: &mut Events) {
        if matches!(self.shutdown, Shutdown::PeerLeaves { .. }) {
            self.count_nuisance(now, events);
        }
        let (last, code) = match payload.first_chunk::<8>() {
            Some(&[a, b, c, d, e, f, g, h]) => (
                StreamId(u32::from_be_bytes([a, b, c, d])),
                ErrorCode::from_u32(u32::from_be_bytes([e, f, g, h])),
            ),
            None => return,
        };
        let reason = String::from_utf8_lossy(&payload[8..]).into_owned();
        events.going_away = true;
        self.shutdown = Shutdown::PeerLeaves { last };
        events.wakers.extend(self.openers.drain());
        if self.role == Role::Client {
            self.streams.for_each(|stream| {
                if stream.id > last {
                    stream.fail(StreamError::NotProcessed, events);
                }
            });
        }
        if code != ErrorCode::None {
            self.finish(ConnectionEnd::theirs(code, reason), events);
        }
    }

    /// The byte stream ended or broke.
    pub fn handle_end(&mut self, reason: &str, events: &mut Events) {
        let end = if self.is_drained() {
            ConnectionEnd::theirs(ErrorCode::None, "the connection was closed after a drain")
        } else {
            ConnectionEnd::theirs(ErrorCode::Internal, reason)
        };
        self.finish(end, events);
    }

    /// The peer reset the byte stream, which ends the call that had it to itself.
    pub fn handle_reset_stream(&mut self, code: ErrorCode, reason: &str, events: &mut Events) {
        if self.role == Role::Client {
            self.streams.for_each(|stream| stream.fail(StreamError::of_reset(code), events));
        }
        self.finish_as(ConnectionEnd::theirs(code, reason), EndCause::Cancelled, events);
    }

    /// Server: another stream of this connection ended before its time.
    pub fn count_vain_stream(&mut self, now: Instant, events: &mut Events) {
        if self.end.is_none() {
            self.count_vain_call(now, events);
        }
    }

    /// Server: a call was answered.
    pub(super) fn call_answered(&mut self) {
        match self.company.group() {
            None => self.nuisance.earn_call(),
            Some(group) => group.vain_calls.earn(),
        }
    }

    /// Closes the connection from this side: GOAWAY is queued and every stream ends with `code` and `reason`.
    pub fn close(&mut self, code: ErrorCode, reason: &str, events: &mut Events) {
        if self.end.is_none() {
            self.fail(code, reason, events);
        }
    }
}
