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
use crate::policy::outlier::{Ejector, OutlierDetection, Reason, SWEEP_EVERY, Standing, Subject};

/// How long a call that must not run twice is spared asking an ejected endpoint, if others could: then it asks, or the endpoint would never come back.
const SPARE_OTHERS_FOR: Duration = Duration::from_secs(1);

/// After so long without a failure the windows are not looked at until there is one: as long as the longest of them.
const QUIET_AFTER: Duration = Duration::from_secs(10);

/// Whose call may ask an ejected endpoint whether it works again.
const NOBODY: u8 = 0;
const IDEMPOTENT: u8 = 1;
const ANYBODY: u8 = 2;

/// Whether a call may be the one that asks an ejected endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MayAsk {
    /// It is a stream, whose end may be far away.
    Never,
    /// It must not run twice, and fails if the endpoint does.
    IfNobodyElse,
    /// It can be tried again elsewhere.
    Gladly,
}

impl MayAsk {
    pub(super) const fn of(is_unary: bool, is_idempotent: bool) -> Self {
        match (is_unary, is_idempotent) {
            (false, _) => Self::Never,
            (true, false) => Self::IfNobodyElse,
            (true, true) => Self::Gladly,
        }
    }
}

/// What calls see and tell of a member's standing.
pub(super) struct Watch {
    /// It is ejected: whatever becomes of a call there has to be looked at.
    is_ejected: AtomicBool,
    /// The windows are looked at, again and again.
    is_swept: AtomicBool,
    /// Whose call may ask it.
    asks: AtomicU8,
    /// Failures in a row that have to be looked at.
    worth_a_look: AtomicU32,
    looks: Arc<Notify>,
}

impl Watch {
    /// `looks` wakes the task that judges.
    pub(super) fn new(looks: Arc<Notify>) -> Self {
        Self {
            is_ejected: AtomicBool::new(false),
            is_swept: AtomicBool::new(true),
            asks: AtomicU8::new(NOBODY),
            worth_a_look: AtomicU32::new(u32::MAX),
            looks,
        }
    }

    /// A call ended there.
    #[inline]
    pub(super) fn note(&self, load: &Load, verdict: Verdict) {
        let has_failed = matches!(verdict, Verdict::Failed | Verdict::Late);
        if has_failed || self.is_ejected.load(Ordering::Relaxed) {
            self.note_rare(load);
        }
    }

    #[cold]
    fn note_rare(&self, load: &Load) {
        let (run, worth) = (load.trouble(), self.worth_a_look.load(Ordering::Relaxed));
        // A run that goes on is looked at now and then; the windows are looked at anyway.
        let is_worth = run >= worth && (run - worth).is_multiple_of(worth.max(1));
        let is_first = !self.is_swept.swap(true, Ordering::Relaxed);
        if is_worth || is_first || self.is_ejected.load(Ordering::Relaxed) {
            self.looks.notify_one();
        }
    }

    /// Whether this call is the one that asks.
    pub(super) fn takes_probe(&self, call: MayAsk) -> bool {
        let asks = self.asks.load(Ordering::Relaxed);
        let may_ask = match call {
            MayAsk::Never => false,
            MayAsk::IfNobodyElse => asks == ANYBODY,
            MayAsk::Gladly => asks != NOBODY,
        };
        may_ask && self.asks.compare_exchange(asks, NOBODY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// The call that was to ask could not be made; the next one may.
    pub(super) fn give_back_probe(&self) {
        self.asks.store(ANYBODY, Ordering::Relaxed);
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
    failed_at: tokio::time::Instant,
    is_swept: bool,
    /// Since when somebody may ask each of those that are ejected.
    asked_since: HashMap<u64, Instant>,
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
            failed_at: tokio::time::Instant::now(),
            is_swept: true,
            asked_since: HashMap::new(),
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
    pub(super) fn look(&mut self, now: tokio::time::Instant, ready: &[(&Endpoint, &Arc<Member>)]) {
        let subjects: Vec<Subject<'_>> = ready
            .iter()
            .map(|(endpoint, member)| Subject {
                id: member.id,
                zone: endpoint.zone(),
                seen: member.load.observation(),
            })
            .collect();
        let failed = subjects.iter().map(|subject| subject.seen.failed).sum();
        if failed != self.failed {
            (self.failed, self.failed_at) = (failed, now);
        }
        let is_quiet = now.saturating_duration_since(self.failed_at) >= QUIET_AFTER;
        self.is_swept = self.worth_a_look != u32::MAX && (!is_quiet || self.ejector.needs_sweeps());
        if now >= self.next_sweep {
            self.next_sweep = now + SWEEP_EVERY;
        }
        let now = now.into_std();
        let changes = self.ejector.look(now, &subjects, fastrand::f64);
        let name =
            |id: u64| ready.iter().find(|(_, member)| member.id == id).map_or("", |(endpoint, _)| endpoint.name());
        for (id, reason) in &changes.ejected {
            tracing::warn!(target = %self.target, endpoint = name(*id), %reason, "an endpoint is ejected: it gets no calls for a while");
        }
        for id in &changes.readmitted {
            tracing::info!(target = %self.target, endpoint = name(*id), "an endpoint that was ejected gets calls again");
        }
        self.asked_since.retain(|id, _| ready.iter().any(|(_, member)| member.id == *id));
        self.look_again = self.ejector.look_again_at();
        for (_, member) in ready {
            self.show(now, member);
        }
    }

    /// Shows calls where a member stands.
    fn show(&mut self, now: Instant, member: &Member) {
        let watch = &member.watch;
        watch.worth_a_look.store(self.worth_a_look, Ordering::Relaxed);
        watch.is_swept.store(self.is_swept || self.worth_a_look == u32::MAX, Ordering::Relaxed);
        let Standing::Ejected { is_probed } = self.ejector.standing(member.id) else {
            watch.is_ejected.store(false, Ordering::Relaxed);
            watch.asks.store(NOBODY, Ordering::Relaxed);
            self.asked_since.remove(&member.id);
            return;
        };
        watch.is_ejected.store(true, Ordering::Relaxed);
        if !is_probed {
            self.asked_since.remove(&member.id);
            watch.asks.store(NOBODY, Ordering::Relaxed);
            return;
        }
        let is_over = watch.asks.load(Ordering::Relaxed) == NOBODY && member.load.in_flight() == 0;
        match self.asked_since.get(&member.id).filter(|_| !is_over) {
            // Or who asked gave up, which tells nothing.
            None => {
                self.asked_since.insert(member.id, now);
                watch.asks.store(IDEMPOTENT, Ordering::Relaxed);
                self.look_again_at(now + SPARE_OTHERS_FOR);
            }
            // Unless somebody asks already.
            Some(since) if now.saturating_duration_since(*since) >= SPARE_OTHERS_FOR => {
                let _asks = watch.asks.compare_exchange(IDEMPOTENT, ANYBODY, Ordering::Relaxed, Ordering::Relaxed);
            }
            Some(since) => self.look_again_at(*since + SPARE_OTHERS_FOR),
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
            Standing::Ejected { .. } => None,
        }
    }

    /// Why a member is ejected, if it is.
    pub(super) fn reason(&self, member: &Member) -> Option<Reason> {
        self.ejector.reason(member.id)
    }
}
