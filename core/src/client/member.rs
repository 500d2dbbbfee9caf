//! One endpoint of a channel: its subchannel, and its load as this channel's calls see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ejection::Watch;
use super::extra_connections::{ExtraConnection, ExtraConnections};
use super::health::Standing;
use super::state::ConnectivityState;
use super::subchannel::{Subchannel, unreachable};
use crate::metadata::Metadata;
use crate::policy::load::{Load, Typical, Verdict};
use crate::policy::reported::LoadReport;
use crate::policy::verdict::verdict;
use crate::status::Status;
use crate::time;
use crate::transport::Connection;
use crate::wire::load::{LOAD_KEY, LoadCounts};

/// One endpoint of a channel.
pub(super) struct Member {
    /// Never used again within the process.
    pub(super) id: u64,
    pub(super) subchannel: Subchannel,
    /// Its further connections, if it may have any.
    pub(super) extras: Option<ExtraConnections>,
    pub(super) load: Load,
    /// Since when it is connected.
    pub(super) ready_since: Mutex<Option<tokio::time::Instant>>,
    pub(super) typical: Arc<Typical>,
    /// What it said of its load.
    pub(super) reported: Mutex<Option<Reported>>,
    /// Whether it is ejected, and looked at.
    pub(super) watch: Watch,
}

/// What an endpoint said of its load, and when.
#[derive(Clone, Copy)]
pub(super) struct Reported {
    counts: LoadCounts,
    at: Instant,
    /// When it said something for the first time, since it was connected.
    since: Instant,
}

/// A connection that was chosen for one attempt.
pub(super) struct Picked {
    pub(super) connection: Connection,
    /// The member it belongs to, where there may be several.
    pub(super) completion: Option<Completion>,
}

/// One attempt at a member, counted there until it is over. Keeps the member's connection alive, also when it is in no list any more.
pub(super) struct Completion {
    member: Arc<Member>,
    /// The connection, if it is not the first.
    extra: Option<Arc<ExtraConnection>>,
    /// `None` if it is not measured.
    began: Option<Instant>,
    verdict: Verdict,
    /// How long it takes tells something.
    is_timed: bool,
    /// It is a stream, and has begun.
    is_streaming: bool,
    /// Set when another attempt of its call was answered first.
    overtaken: Option<Arc<AtomicBool>>,
    /// When the time of the attempt is up.
    due: Option<Instant>,
    /// It asks an endpoint that is ejected, and nobody has told yet how that ended.
    is_probe: bool,
}

impl Member {
    /// Where it stands, by its connection and by what it says.
    pub(super) fn state(&self) -> ConnectivityState {
        match (self.subchannel.state_now(), self.subchannel.standing()) {
            (ConnectivityState::Ready, Standing::Unheard) => ConnectivityState::Connecting,
            (ConnectivityState::Ready, Standing::Refuses(_) | Standing::Silent) => ConnectivityState::TransientFailure,
            (state, _) => state,
        }
    }

    /// Begins an attempt there, if it is still connected.
    pub(super) fn begin(self: &Arc<Self>, now: impl FnOnce() -> Instant) -> Option<Picked> {
        self.begin_elsewhere(None, now)
    }

    /// Begins an attempt there, by another connection than `but` if one has room.
    pub(super) fn begin_elsewhere(
        self: &Arc<Self>,
        but: Option<&Connection>,
        now: impl FnOnce() -> Instant,
    ) -> Option<Picked> {
        let (connection, extra) = match &self.extras {
            None => (self.subchannel.current().as_deref()?.clone(), None),
            Some(extras) => {
                let chosen = extras.choose(&self.subchannel, but)?;
                (chosen.connection, chosen.extra)
            }
        };
        Some(Picked {
            connection,
            completion: Some(Completion::begin(Arc::clone(self), extra, now)),
        })
    }

    /// Takes a connection that accepts no calls out of use.
    pub(super) fn retire(&self, connection: &Connection) {
        self.subchannel.retire(connection);
        if let Some(extras) = &self.extras {
            extras.retire(connection);
        }
    }

    /// Connections that are there.
    pub(super) fn connections(&self) -> usize {
        let further = self.extras.as_ref().map_or(0, ExtraConnections::connected);
        further + usize::from(self.subchannel.current().is_some())
    }

    /// Closes its connections for good.
    pub(super) fn shut_down(&self) {
        self.subchannel.shut_down();
        if let Some(extras) = &self.extras {
            extras.shut_down();
        }
    }

    /// How long it has been connected, by what is asked here.
    pub(super) fn ready_for(&self, now: tokio::time::Instant) -> Duration {
        now.duration_since(*self.ready_since().get_or_insert(now))
    }

    /// It is not connected: who comes back may be another process, and cold.
    pub(super) fn cool_down(&self) {
        *self.ready_since() = None;
        *self.reported() = None;
    }

    /// What it said last of its load.
    pub(super) fn load_report(&self, now: Instant) -> Option<LoadReport> {
        let reported = (*self.reported())?;
        let window = reported.counts.window.as_secs_f64();
        Some(LoadReport {
            utilization: reported.counts.utilization.map(|said| f64::from(said) / 1_000.0),
            rate: reported.counts.calls as f64 / window,
            failure_rate: reported.counts.failures.min(reported.counts.calls) as f64 / window,
            age: now.saturating_duration_since(reported.at),
            reporting_for: reported.at.saturating_duration_since(reported.since),
        })
    }

    fn note_report(&self, trailers: &mut Metadata) {
        // One that cannot be read is none.
        let Some(counts) = trailers.get_bytes(LOAD_KEY).map(LoadCounts::decode) else {
            return;
        };
        trailers.remove(LOAD_KEY);
        if let Ok(counts) = counts {
            let at = time::now();
            let mut reported = self.reported();
            let since = reported.map_or(at, |before| before.since);
            *reported = Some(Reported { counts, at, since });
        }
    }

    fn reported(&self) -> MutexGuard<'_, Option<Reported>> {
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready_since(&self) -> MutexGuard<'_, Option<tokio::time::Instant>> {
        self.ready_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why it takes no calls, if that is known.
    pub(super) fn failure(&self) -> Option<Status> {
        if self.subchannel.state_now() != ConnectivityState::Ready {
            return self.subchannel.last_failure();
        }
        let complaint = self.subchannel.standing().complaint()?;
        Some(unreachable(format!("{} {complaint}", self.subchannel.target())))
    }
}

impl Picked {
    /// Nothing is sent there after all.
    pub(super) fn give_up(mut self) {
        if let Some(completion) = &mut self.completion {
            completion.set_neutral();
        }
        self.connection.not_opened();
    }

    /// The only connection there is.
    pub(super) fn only(connection: Connection) -> Self {
        Self {
            connection,
            completion: None,
        }
    }
}

impl Completion {
    fn begin(member: Arc<Member>, extra: Option<Arc<ExtraConnection>>, now: impl FnOnce() -> Instant) -> Self {
        let began = member.load.begin(now, &member.typical);
        Self {
            member,
            extra,
            began,
            verdict: Verdict::GivenUp,
            is_timed: true,
            is_streaming: false,
            overtaken: None,
            due: None,
            is_probe: false,
        }
    }

    /// The attempt is about a stream, or is none after all.
    pub(super) fn set_neutral(&mut self) {
        self.verdict = Verdict::Neutral;
        if std::mem::take(&mut self.is_timed) {
            self.member.load.set_untimed();
        }
    }

    /// Takes the load report, if there is one, out of the trailers of an answer.
    #[inline]
    pub(super) fn take_report(&self, trailers: &mut Metadata) {
        if !trailers.is_empty() {
            self.member.note_report(trailers);
        }
    }

    pub(super) fn member(&self) -> &Arc<Member> {
        &self.member
    }

    /// It asks an endpoint that is ejected.
    pub(super) fn set_probe(&mut self) {
        self.is_probe = true;
    }

    /// When the time of the attempt is up: then it is late, whoever looks at the clock first.
    pub(super) fn set_due(&mut self, due: Option<Instant>) {
        self.due = due;
    }

    /// The stream that it is about has begun.
    pub(super) fn begin_stream(&mut self) {
        self.verdict = Verdict::Streamed;
        self.is_streaming = true;
        self.member.load.begin_stream();
        if std::mem::take(&mut self.is_probe) {
            self.member.watch.end_probe(Verdict::Streamed);
        }
    }

    /// To be set when another attempt of the same call is answered: then this one took too long, whoever gave it up.
    pub(super) fn overtaken(&mut self) -> Arc<AtomicBool> {
        Arc::clone(self.overtaken.get_or_insert_default())
    }

    /// The attempt is over: `failed` with that status, or with an answer.
    pub(super) fn end(mut self, failed: Option<&Status>) {
        self.verdict = failed.map_or(Verdict::Answered, verdict);
        if !self.is_timed && self.verdict == Verdict::Answered {
            self.verdict = Verdict::Streamed;
            self.member.load.note_answer();
        }
    }
}

impl Drop for Completion {
    fn drop(&mut self) {
        let Self {
            member,
            extra,
            began,
            verdict,
            is_timed,
            is_streaming,
            overtaken,
            due,
            is_probe,
        } = self;
        // A stream that has not begun is neutral until then.
        if matches!(*verdict, Verdict::GivenUp | Verdict::Neutral) {
            let is_overtaken = overtaken.as_ref().is_some_and(|overtaken| overtaken.load(Ordering::Relaxed));
            if is_overtaken || due.is_some_and(|due| due <= time::now()) {
                *verdict = Verdict::Late;
            }
        }
        let typical = &member.typical;
        match (*began, *is_timed) {
            _ if *is_streaming => member.load.end_stream(),
            (Some(began), true) => member.load.end(began, time::now(), *verdict, typical),
            (Some(began), false) => member.load.end_untimed(began, time::now(), *verdict, typical),
            (None, is_timed) => member.load.end_unmeasured(is_timed, time::now, *verdict, typical),
        }
        member.watch.note(&member.load, *verdict);
        if *is_probe {
            member.watch.end_probe(*verdict);
        }
        if let Some(extras) = &member.extras {
            extras.leave(extra.as_deref());
        }
    }
}
