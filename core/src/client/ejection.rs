//! Endpoints that get no calls for a while because they are so much worse than the others: judged by the task of the pool, asked again by calls.
//!
//! The decisions are `policy/outlier`'s. A member that is ejected is in no picker; a call that may ask it goes there past the picker.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::member::Member;
use crate::discovery::Endpoint;
use crate::policy::load::{Load, Verdict};
use crate::policy::outlier::{Ejector, OutlierDetection, ProbeEnd, Reason, SWEEP_EVERY, Standing, Subject};

/// How long a call that must not run twice is spared asking an ejected endpoint, if others could: then it asks, or the endpoint would never come back. After as long
/// again a stream does.
const SPARE_OTHERS_FOR: Duration = Duration::from_millis(500);

/// A call that asks and does not end within this, as one that polls for long, leaves it to another: longer than calls take that have no other deadline.
const ASKED_FOR_MAX: Duration = Duration::from_secs(11);

/// After so long without a failure the windows are not looked at until there is one: as long as the longest of them.
const QUIET_AFTER: Duration = Duration::from_secs(10);

/// Whose call may ask an ejected endpoint whether it works again.
const NOBODY: u8 = 0;
const IDEMPOTENT: u8 = 1;
const UNARY: u8 = 2;
const ANYBODY: u8 = 3;

/// What is known of the call that asks: nothing, or how it ended.
const UNKNOWN: u8 = 0;
const WELL: u8 = 1;
const BADLY: u8 = 2;
const ASIDE: u8 = 3;

/// Whether a call may be the one that asks an ejected endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayAsk {
    /// It is one that asks another already.
    Never,
    /// It is a stream, or may be one, and is lost if the endpoint fails.
    AtLast,
    /// It must not run twice, and fails if the endpoint does.
    IfNobodyElse,
    /// It can be tried again elsewhere.
    Gladly,
}

impl MayAsk {
    pub(super) const fn of(is_unary: bool, is_idempotent: bool) -> Self {
        match (is_unary, is_idempotent) {
            (false, _) => Self::AtLast,
            (true, false) => Self::IfNobodyElse,
            (true, true) => Self::Gladly,
        }
    }

    /// What it takes for that call to be the one.
    const fn rank(self) -> u8 {
        match self {
            Self::Never => u8::MAX,
            Self::AtLast => ANYBODY,
            Self::IfNobodyElse => UNARY,
            Self::Gladly => IDEMPOTENT,
        }
    }
}

/// What calls see and tell of a member's standing.
pub(super) struct Watch {
    /// The windows are looked at, again and again.
    is_swept: AtomicBool,
    /// Whose call may ask it.
    asks: AtomicU8,
    /// How the call that asked ended, until somebody has looked.
    probe: AtomicU8,
    /// Failures in a row that have to be looked at.
    worth_a_look: AtomicU32,
    looks: Arc<Notify>,
}

impl Watch {
    /// `looks` wakes the task that judges.
    pub(super) fn new(looks: Arc<Notify>) -> Self {
        Self {
            is_swept: AtomicBool::new(true),
            asks: AtomicU8::new(NOBODY),
            probe: AtomicU8::new(UNKNOWN),
            worth_a_look: AtomicU32::new(u32::MAX),
            looks,
        }
    }

    /// A call ended there.
    #[inline]
    pub(super) fn note(&self, load: &Load, verdict: Verdict) {
        if matches!(verdict, Verdict::Failed | Verdict::Late) {
            self.note_failure(load);
        }
    }

    /// The call that asks ended so.
    pub(super) fn end_probe(&self, verdict: Verdict) {
        let end = match verdict {
            Verdict::Answered | Verdict::Streamed => WELL,
            Verdict::Failed | Verdict::Late => BADLY,
            Verdict::GivenUp | Verdict::Neutral => ASIDE,
        };
        self.probe.store(end, Ordering::Relaxed);
        self.looks.notify_one();
    }

    /// How the call that asked ended, once.
    fn take_probe_end(&self) -> Option<ProbeEnd> {
        match self.probe.swap(UNKNOWN, Ordering::Relaxed) {
            WELL => Some(ProbeEnd::Well),
            BADLY => Some(ProbeEnd::Badly),
            ASIDE => Some(ProbeEnd::Aside),
            _ => None,
        }
    }

    #[cold]
    fn note_failure(&self, load: &Load) {
        let (run, worth) = (load.trouble(), self.worth_a_look.load(Ordering::Relaxed));
        // A run that goes on is looked at now and then; the windows are looked at anyway.
        let is_worth = run >= worth && (run - worth).is_multiple_of(worth.max(1));
        let is_first = !self.is_swept.swap(true, Ordering::Relaxed);
        if is_worth || is_first {
            self.looks.notify_one();
        }
    }

    /// Whether this call is the one that asks.
    pub(super) fn takes_probe(&self, call: MayAsk) -> bool {
        let asks = self.asks.load(Ordering::Relaxed);
        let takes = asks >= call.rank()
            && self.asks.compare_exchange(asks, NOBODY, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if takes {
            // How long it takes is looked at.
            self.looks.notify_one();
        }
        takes
    }

    /// The call that was to ask could not be made; the next one may.
    pub(super) fn give_back_probe(&self) {
        self.asks.store(UNARY, Ordering::Relaxed);
    }
}

/// An endpoint that is ready.
pub(super) struct Judged<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) route: usize,
    pub(super) member: &'a Arc<Member>,
}

/// Whether an ejected endpoint works again.
struct Question {
    number: u32,
    /// When it was open to the first calls.
    since: Instant,
    /// When a call was seen to have taken it up.
    asked_at: Option<Instant>,
}

impl Question {
    fn new(number: u32, since: Instant) -> Self {
        Self {
            number,
            since,
            asked_at: None,
        }
    }
}

/// Who is ejected.
pub(super) struct Ejections {
    target: String,
    ejector: Ejector,
    /// Failures in a row that are worth a look; `u32::MAX` where nobody is ejected.
    worth_a_look: u32,
    next_sweep: tokio::time::Instant,
    /// Failures of all of them, and when there were more than before.
    failed: u64,
    failed_at: Option<tokio::time::Instant>,
    is_swept: bool,
    /// What each of those that are ejected is to be asked.
    questions: HashMap<u64, Question>,
    /// When somebody else may.
    look_again: Option<Instant>,
}

impl Ejections {
    pub(super) fn new(target: &str, policy: OutlierDetection) -> Self {
        let mut new = Self {
            target: target.to_owned(),
            ejector: Ejector::new(policy),
            worth_a_look: 0,
            next_sweep: tokio::time::Instant::now(),
            failed: 0,
            failed_at: None,
            is_swept: false,
            questions: HashMap::new(),
            look_again: None,
        };
        new.set_policy(policy);
        new
    }

    pub(super) fn set_policy(&mut self, policy: OutlierDetection) {
        self.ejector.set_policy(policy);
        self.worth_a_look = if policy.is_on() {
            self.ejector.worth_a_look()
        } else {
            u32::MAX
        };
    }

    /// Judges those that are connected.
    pub(super) fn look(&mut self, now: tokio::time::Instant, ready: &[Judged<'_>]) {
        let subjects: Vec<Subject<'_>> = ready
            .iter()
            .map(|one| Subject {
                id: one.member.id,
                zone: one.endpoint.zone(),
                route: one.route,
                probe: one.member.watch.take_probe_end(),
                seen: one.member.load.observation(),
            })
            .collect();
        let failed = subjects.iter().map(|subject| subject.seen.failed).sum();
        if failed != self.failed {
            (self.failed, self.failed_at) = (failed, Some(now));
        }
        let is_quiet = self.failed_at.is_none_or(|at| now.saturating_duration_since(at) >= QUIET_AFTER);
        self.is_swept = self.worth_a_look != u32::MAX && (!is_quiet || self.ejector.needs_sweeps());
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
        }
        let now = now.into_std();
        let changes = self.ejector.look(now, &subjects, fastrand::f64);
        let name = |id: u64| {
            let found = ready.iter().find(|one| one.member.id == id);
            found.map_or("", |one| one.endpoint.name())
        };
        for (id, reason) in &changes.ejected {
            tracing::warn!(target = %self.target, endpoint = name(*id), %reason, "an endpoint is ejected: it gets no calls for a while");
        }
        for id in &changes.readmitted {
            tracing::info!(target = %self.target, endpoint = name(*id), "an endpoint that was ejected gets calls again");
        }
        self.questions.retain(|id, _| ready.iter().any(|one| one.member.id == *id));
        self.look_again = self.ejector.look_again_at();
        for one in ready {
            self.show(now, one.member);
        }
    }

    /// Shows calls where a member stands.
    fn show(&mut self, now: Instant, member: &Member) {
        let watch = &member.watch;
        watch.worth_a_look.store(self.worth_a_look, Ordering::Relaxed);
        watch.is_swept.store(self.is_swept || self.worth_a_look == u32::MAX, Ordering::Relaxed);
        let Standing::Ejected {
            question: Some(question),
            is_hopeful,
        } = self.ejector.standing(member.id)
        else {
            self.questions.remove(&member.id);
            watch.asks.store(NOBODY, Ordering::Relaxed);
            return;
        };
        let known = self.questions.get_mut(&member.id).filter(|known| known.number == question);
        let Some(known) = known else {
            self.questions.insert(member.id, Question::new(question, now));
            // One that has answered is no great risk any more.
            watch.asks.store(if is_hopeful { UNARY } else { IDEMPOTENT }, Ordering::Relaxed);
            return self.look_again_at(now + SPARE_OTHERS_FOR);
        };
        let asks = watch.asks.load(Ordering::Relaxed);
        if asks == NOBODY {
            let asked_at = *known.asked_at.get_or_insert(now);
            if now.saturating_duration_since(asked_at) < ASKED_FOR_MAX {
                return self.look_again_at(asked_at + ASKED_FOR_MAX);
            }
            // That call does not end: another one asks.
            *known = Question::new(question, now);
            watch.asks.store(IDEMPOTENT, Ordering::Relaxed);
            return self.look_again_at(now + SPARE_OTHERS_FOR);
        }
        let since = known.since;
        let (more, look_again) = match now.saturating_duration_since(since) {
            waited if waited >= SPARE_OTHERS_FOR * 2 => (ANYBODY, None),
            waited if waited >= SPARE_OTHERS_FOR => (UNARY, Some(since + SPARE_OTHERS_FOR * 2)),
            _ => (asks, Some(since + SPARE_OTHERS_FOR)),
        };
        // Unless somebody has just begun to ask.
        let _asks = watch.asks.compare_exchange(asks, more.max(asks), Ordering::Relaxed, Ordering::Relaxed);
        if let Some(at) = look_again {
            self.look_again_at(at);
        }
    }

    fn look_again_at(&mut self, at: Instant) {
        self.look_again = self.look_again.into_iter().chain([at]).min();
    }

    /// When to look again.
    pub(super) fn look_again(&self) -> Option<tokio::time::Instant> {
        let asks = self.look_again.map(tokio::time::Instant::from_std);
        let sweep = self.is_swept.then_some(self.next_sweep);
        asks.into_iter().chain(sweep).min()
    }

    /// How long a member that was ejected has been back.
    pub(super) fn back_for(&self, member: &Member, now: tokio::time::Instant) -> Option<Duration> {
        match self.ejector.standing(member.id) {
            Standing::InService { since } => since.map(|since| now.into_std().saturating_duration_since(since)),
            _ => None,
        }
    }

    /// Why a member is ejected, if it is.
    pub(super) fn reason(&self, member: &Member) -> Option<Reason> {
        self.ejector.reason(member.id)
    }
}
