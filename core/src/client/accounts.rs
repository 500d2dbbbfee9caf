//! What a channel knows of each method that it calls: what pays for retries, and whether calls are worth making at all.
//!
//! As long as nothing fails, a call adds one to a count and takes no lock. The decisions are `policy/throttle`'s and `policy/breaker`'s, and what a
//! status tells them `policy/verdict`'s.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::snapshot::MethodSnapshot;
use crate::policy::breaker::{Breaker, BreakerState, CircuitBreaker, Ended, Pass};
use crate::policy::hedging::Hedges;
use crate::policy::retry::RetryBudget;
use crate::policy::throttle::{AdaptiveThrottle, Throttle};
use crate::policy::verdict::{ended, was_turned_away};
use crate::priority::{PRIORITIES, Priority};
use crate::status::{Origin, Status};
use crate::time;

/// Methods that have an account of their own; those of a service that has more share.
pub(super) const ACCOUNTS: usize = 64;
/// Places at which a method's account is looked for.
const PLACES: usize = 16;
/// What is told of the last failure, in bytes.
const CAUSE_BYTES_MAX: usize = 200;

/// The policies that refuse calls, as statuses name them.
const THROTTLE_POLICY: &str = "throttle";
const BREAKER_POLICY: &str = "circuit_breaker";

/// When to come back to a breaker that waits for its trials to end.
const TRIALS_RETRY_AFTER: Duration = Duration::from_millis(10);
/// The same of a throttle: by then it has let another through at least.
const THROTTLE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The accounts of a target, each with the id of its method; 0 for none yet.
pub(super) struct Accounts {
    own: [(AtomicU64, Account); ACCOUNTS],
    /// Of all other methods: what pays for retries, and nothing else, since they have nothing to do with each other.
    shared: Account,
    since: Instant,
}

/// One method's.
#[derive(Default)]
pub(super) struct Account {
    budget: RetryBudget,
    /// Calls that were answered, or failed by no fault of the service, by their priority.
    answered: [AtomicU64; PRIORITIES],
    /// Calls that failed for reasons of their own, though one cannot tell that by the code alone, as ABORTED: nothing is paid in for them, but the service works.
    denied: AtomicU64,
    /// Somebody has to look at the books before a call is made.
    is_guarded: AtomicBool,
    /// Counts the changes of the breaker.
    turn: AtomicU32,
    /// By methods that have nothing to do with each other.
    is_shared: bool,
    refused: AtomicU64,
    books: Mutex<Option<Box<Books>>>,
    /// With the method's name.
    hedges: OnceLock<Box<(String, Mutex<Hedges>)>>,
}

/// What is only needed where calls fail.
struct Books {
    /// By priority: a server that turns some away may have time for those that matter more.
    throttles: [Throttle; PRIORITIES],
    breaker: Breaker,
    /// Calls that failed at a server which did not turn them away, since there are books, by their priority.
    faulty: [u64; PRIORITIES],
    path: String,
    /// As it held for the last of them.
    throttle: AdaptiveThrottle,
    /// How the last call that was turned away ended, or that failed.
    cause: String,
}

/// A call that failed.
pub(super) struct Failure<'a> {
    pub(super) path: &'a str,
    pub(super) priority: Priority,
    pub(super) status: &'a Status,
    /// By no fault of the service.
    pub(super) is_answer: bool,
}

/// What holds for a call.
#[derive(Clone, Copy)]
pub(super) struct Guards {
    pub(super) throttle: AdaptiveThrottle,
    pub(super) breaker: CircuitBreaker,
}

impl Accounts {
    pub(super) fn new() -> Self {
        Self {
            own: std::array::from_fn(|_| (AtomicU64::new(0), Account::default())),
            shared: Account {
                is_shared: true,
                ..Account::default()
            },
            since: time::now(),
        }
    }

    /// The account of a method.
    #[inline]
    pub(super) fn of(&self, method: u64) -> &Account {
        let first = usize::try_from(method % ACCOUNTS as u64).unwrap_or_default();
        for place in 0..PLACES {
            let (id, account) = &self.own[(first + place) % ACCOUNTS];
            let is_its_own = match id.load(Ordering::Relaxed) {
                // Whoever comes first has it.
                0 => {
                    let taken = id.compare_exchange(0, method, Ordering::Relaxed, Ordering::Relaxed);
                    taken.is_ok() || taken == Err(method)
                }
                other => other == method,
            };
            if is_its_own {
                return account;
            }
        }
        &self.shared
    }

    /// Those of which there is something to tell.
    pub(super) fn snapshot(&self) -> Vec<MethodSnapshot> {
        self.own.iter().filter_map(|(_, account)| account.snapshot()).collect()
    }

    /// When nothing had been called yet.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

impl Account {
    /// A call was answered, or failed by no fault of the service.
    #[inline]
    pub(super) fn note_answer(&self, priority: Priority) {
        self.answered[priority.index()].fetch_add(1, Ordering::Relaxed);
        self.budget.deposit();
    }

    /// What is known of how long calls take, where they are made a second time.
    pub(super) fn hedges(&self, path: &str) -> MutexGuard<'_, Hedges> {
        let (_, hedges) = &**self.hedges.get_or_init(|| Box::new((path.to_owned(), Mutex::default())));
        hedges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives it back.
    pub(super) fn pay_back(&self) {
        self.budget.give_back();
    }

    /// Takes a retry out of the budget.
    pub(super) fn pay(&self) -> bool {
        self.budget.withdraw()
    }

    /// Whether calls are made without a look at the books.
    #[inline]
    pub(super) fn is_calm(&self) -> bool {
        !self.is_guarded.load(Ordering::Relaxed)
    }

    /// What calls that are made without a look at the books are let through with.
    #[inline]
    pub(super) fn turn(&self) -> u32 {
        self.turn.load(Ordering::Relaxed)
    }

    /// Whether a call of the method `path` is to be made.
    ///
    /// # Errors
    /// UNAVAILABLE if a policy says no; nothing was sent.
    pub(super) fn admit(&self, guards: &Guards, path: &str, priority: Priority) -> Result<Pass, Status> {
        if self.is_calm() {
            return Ok(Pass::free(self.turn()));
        }
        let now = time::now();
        let mut books = self.books();
        let Some(books) = books.as_mut() else {
            return Ok(Pass::free(self.turn()));
        };
        let before = books.breaker.state();
        let pass = books.breaker.admit(now, self.all_answered(), &guards.breaker);
        tell(before, books);
        let pass = match pass {
            Ok(pass) => pass,
            Err(wait) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                let status = refusal(path, "failed", &books.cause);
                let status = status.with_rejection(BREAKER_POLICY, "open");
                return Err(status.with_retry_after(wait.max(TRIALS_RETRY_AFTER)));
            }
        };
        let taken = self.taken(books, priority.index());
        let throttle = &mut books.throttles[priority.index()];
        if !throttle.admit(now, taken, &guards.throttle, fastrand::f64()) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            // Its turn is somebody else's.
            books.breaker.end(now, (pass, Ended::Aside), self.all_answered(), &guards.breaker, 0.5);
            let status = refusal(path, "were turned away", &books.cause);
            let status = status.with_rejection(THROTTLE_POLICY, "turned_away");
            return Err(status.with_retry_after(THROTTLE_RETRY_AFTER));
        }
        self.calm_down(now, guards, books);
        Ok(pass)
    }

    /// A call that was let through was answered.
    #[inline]
    pub(super) fn end_well(&self, pass: Pass, guards: &Guards, priority: Priority) {
        self.note_answer(priority);
        if pass.is_trial() {
            self.end(pass, Ended::Well, guards);
        }
    }

    /// A call that was let through ended in a way that tells nothing.
    pub(super) fn end_aside(&self, pass: Pass, guards: &Guards) {
        if pass.is_trial() {
            self.end(pass, Ended::Aside, guards);
        }
    }

    /// The time of a call was up that had been let through and sent.
    pub(super) fn end_late(&self, pass: Pass, guards: &Guards, path: &str, priority: Priority, since: Instant) {
        let failure = Failure {
            path,
            priority,
            status: &Status::deadline_exceeded("the deadline passed before the answer came"),
            is_answer: false,
        };
        self.end_failed(pass, guards, &failure, since);
    }

    fn end(&self, pass: Pass, ended: Ended, guards: &Guards) {
        let answered = self.all_answered();
        if let Some(books) = self.books().as_mut() {
            let before = books.breaker.state();
            books.breaker.end(time::now(), (pass, ended), answered, &guards.breaker, fastrand::f64());
            tell(before, books);
            self.turn.store(books.breaker.turn(), Ordering::Relaxed);
        }
    }

    /// A call that was let through failed; nothing was called before `since`.
    #[cold]
    pub(super) fn end_failed(&self, pass: Pass, guards: &Guards, failure: &Failure<'_>, since: Instant) {
        let Failure {
            path, priority, status, ..
        } = *failure;
        let was_turned_away = was_turned_away(status);
        if failure.is_answer {
            self.note_answer(priority);
        } else if status.is_from_server()
            && !was_turned_away
            && let Some(books) = self.books().as_mut()
        {
            books.faulty[priority.index()] += 1;
        }
        match ended(status) {
            Ended::Badly if !self.is_shared && (guards.breaker.is_on() || was_turned_away) => {}
            Ended::Well => {
                if !failure.is_answer {
                    self.denied.fetch_add(1, Ordering::Relaxed);
                }
                return match pass.is_trial() {
                    true => self.end(pass, Ended::Well, guards),
                    false => self.end_aside(pass, guards),
                };
            }
            _ => return self.end_aside(pass, guards),
        }
        let now = time::now();
        let mut books = self.books();
        let books = books.get_or_insert_with(|| Box::new(Books::new(since, guards)));
        if books.path.is_empty() {
            path.clone_into(&mut books.path);
        }
        books.note_cause(status);
        if was_turned_away {
            let taken = self.taken(books, priority.index());
            books.throttles[priority.index()].note_rejection(now, taken);
        }
        let before = books.breaker.state();
        books.breaker.end(
            now,
            (pass, Ended::Badly),
            self.all_answered(),
            &guards.breaker,
            fastrand::f64(),
        );
        tell(before, books);
        self.calm_down(now, guards, books);
    }

    /// Calls that were not turned away.
    fn taken(&self, books: &Books, priority: usize) -> u64 {
        self.answered[priority].load(Ordering::Relaxed) + books.faulty[priority]
    }

    fn all_answered(&self) -> u64 {
        let answered: u64 = self.answered.iter().map(|answered| answered.load(Ordering::Relaxed)).sum();
        answered + self.denied.load(Ordering::Relaxed)
    }

    /// Whether calls have to look at the books.
    fn calm_down(&self, now: Instant, guards: &Guards, books: &mut Books) {
        books.throttle = guards.throttle;
        let is_throttled = self.throttled(now, &guards.throttle, books) > 0.0;
        let is_guarded = is_throttled || books.breaker.state() != BreakerState::Closed;
        self.turn.store(books.breaker.turn(), Ordering::Relaxed);
        self.is_guarded.store(is_guarded, Ordering::Relaxed);
    }

    /// The part of calls that is left out, of the priority of which it is the most.
    fn throttled(&self, now: Instant, policy: &AdaptiveThrottle, books: &mut Books) -> f64 {
        let shares = (0..PRIORITIES).map(|priority| {
            let taken = self.taken(books, priority);
            books.throttles[priority].share(now, taken, policy)
        });
        shares.fold(0.0, f64::max)
    }

    fn snapshot(&self) -> Option<MethodSnapshot> {
        let hedges = self.hedges.get();
        let mut books = self.books();
        let mut books = books.as_mut();
        let path = books.as_ref().map(|books| &books.path).or_else(|| hedges.map(|hedges| &hedges.0))?.clone();
        let throttled = match books.as_mut().filter(|_| !self.is_calm()) {
            Some(books) => {
                let throttle = books.throttle;
                self.throttled(time::now(), &throttle, books)
            }
            None => 0.0,
        };
        Some(MethodSnapshot {
            path,
            refused: self.refused.load(Ordering::Relaxed),
            is_throttled: throttled > 0.0,
            throttled,
            breaker: books.as_ref().map_or(BreakerState::Closed, |books| books.breaker.state()),
            cause: books.as_ref().map(|books| books.cause.clone()).unwrap_or_default(),
            retry_budget: self.budget.tokens(),
            hedge_delay: hedges.and_then(|hedges| hedges.1.lock().unwrap_or_else(PoisonError::into_inner).delay()),
        })
    }

    fn books(&self) -> MutexGuard<'_, Option<Box<Books>>> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn new(since: Instant, guards: &Guards) -> Self {
        Self {
            throttles: std::array::from_fn(|_| Throttle::new(since)),
            breaker: Breaker::new(since, &guards.breaker),
            faulty: [0; PRIORITIES],
            path: String::new(),
            throttle: guards.throttle,
            cause: String::new(),
        }
    }

    fn note_cause(&mut self, status: &Status) {
        let cause = status.to_string();
        let end = (0..=CAUSE_BYTES_MAX.min(cause.len())).rev().find(|at| cause.is_char_boundary(*at));
        self.cause.clear();
        self.cause.push_str(&cause[..end.unwrap_or_default()]);
    }
}

/// What a call is told that was not made.
fn refusal(path: &str, why: &str, cause: &str) -> Status {
    let method = if path.is_empty() { "this method" } else { path };
    let status = Status::unavailable(format!(
        "most calls of {method} {why} lately, so this one was not sent; the last: {cause}"
    ));
    // What follows would not be sent either.
    status.with_origin(Origin::Local).with_retryable(false)
}

/// Tells of a breaker that has changed.
fn tell(before: BreakerState, books: &Books) {
    let (now, path) = (books.breaker.state(), &*books.path);
    if now == before {
        return;
    }
    match now {
        BreakerState::Open => {
            tracing::warn!(
                method = path,
                cause = books.cause,
                "a circuit breaker is open: calls are not sent"
            );
        }
        _ => tracing::info!(method = path, state = ?now, "a circuit breaker lets calls through"),
    }
}
