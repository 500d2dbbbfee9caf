//! Whether a call is worked on at once, waits a little, or is turned away: the adaptive limit of each method, and the line before it.
//!
//! As long as a method has no limit, calls that are answered within their first poll are never seen here, and all others are only counted. With a limit, a call
//! that has to wait stands in line for a moment. The highest priority goes first; of one priority the oldest, until it has waited for half the time that it may,
//! and then the newest: a line that has become that long does not get shorter, and of those in it some can still be answered quickly.
//!
//! Source: CoDel for short lines; Facebook's "Fail at scale" (adaptive LIFO); Google's SRE book, chapter 21, for priorities.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::router::Router;
use crate::context::Peer;
use crate::metadata::Metadata;
use crate::policy::concurrency::{Ending, Limiters, Ticket};
use crate::priority::{PRIORITIES, Priority};
use crate::status::{OVERLOAD_POLICY, Status};
use crate::time;

/// Why a call was turned away, as its status says.
const REASON: &str = "overloaded";

/// How long a call waits for its turn at the most. Answers that say no come within 10 ms then, and what is served has hardly waited.
const PATIENCE: Duration = Duration::from_millis(8);
/// The same for those that matter most: there are few of them, and the next turn is theirs, unless many come at once.
const PATIENCE_CRITICAL: Duration = Duration::from_millis(192);
/// Calls of a method that stand in line, as a multiple of those that are worked on, and at least: about as many as leave within the time that they wait.
const LINE_TIMES: u32 = 2;
const LINE_MIN: u32 = 16;
/// The same when one comes that matters most, which may wait for longer.
const LINE_TIMES_CRITICAL: u32 = 4;
const LINE_MIN_CRITICAL: u32 = 256;
/// More never stand in line before a method.
const LINE_MAX: u32 = 1_024;
/// When a client that was turned away is asked to come back: several times what it takes for a line to go or a limit to rise.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Decides for all calls of a server.
pub(super) struct Admission {
    book: Mutex<Book>,
    /// By method, whether it has a limit.
    limited: Box<[AtomicBool]>,
    /// Calls that were turned away, by their priority.
    rejected: [AtomicU64; PRIORITIES],
}

struct Book {
    limiters: Limiters,
    lines: Vec<Line>,
    /// Methods that somebody waits for.
    waited_for: Vec<usize>,
    next: u64,
}

/// The calls of one method that wait: of each priority, by the order in which they came.
#[derive(Default)]
struct Line {
    by_priority: [BTreeMap<u64, Waiter>; PRIORITIES],
}

struct Waiter {
    since: Instant,
    turn: oneshot::Sender<Admitted>,
}

/// What becomes of a call.
pub(super) enum Entry {
    /// Its method has no limit; it is to be counted if it does not answer at once.
    Free,
    Admitted(Box<Admitted>),
    Waits(Box<Turn>),
    Refused(Status),
}

/// A call that is worked on, and counted until this is gone.
pub(super) struct Admitted {
    admission: Arc<Admission>,
    /// `None` when it is over.
    ticket: Option<Ticket>,
}

/// A call that stands in line; comes to its turn or to a refusal.
pub(super) struct Turn {
    place: Place,
    granted: oneshot::Receiver<Admitted>,
    patience: Pin<Box<Sleep>>,
}

/// A place in a line, left when this is gone.
struct Place {
    admission: Arc<Admission>,
    method: usize,
    priority: Priority,
    number: u64,
}

/// What a method's limit is, and how it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) limit: Option<u32>,
    pub(super) in_flight: u32,
    pub(super) waiting: usize,
}

impl Admission {
    /// For the methods of `router`.
    pub(super) fn new(router: &Router) -> Self {
        let methods = router.routes().len();
        Self {
            book: Mutex::new(Book {
                limiters: Limiters::new(methods, time::now()),
                lines: (0..methods).map(|_| Line::default()).collect(),
                waited_for: Vec::new(),
                next: 0,
            }),
            limited: (0..methods).map(|_| AtomicBool::new(false)).collect(),
            rejected: Default::default(),
        }
    }

    /// Whether the method has no limit, so that a call which is likely to be answered within its first poll need not ask.
    pub(super) fn is_free(&self, method: usize) -> bool {
        !self.limited[method].load(Ordering::Relaxed)
    }

    /// A call that arrived.
    pub(super) fn enter(self: &Arc<Self>, method: usize, priority: Priority, now: Instant) -> Entry {
        let mut book = self.lock();
        // Those in line were here before, and may matter more.
        let ticket = match book.lines[method].is_empty() {
            true => book.limiters.admit(method, now),
            false => None,
        };
        self.note_limit(&book, method);
        if let Some(ticket) = ticket {
            return Entry::Admitted(Box::new(self.admitted(ticket)));
        }
        let Some((number, granted, evicted)) = book.stand_in_line(method, priority, now) else {
            let limit = book.limiters.limit(method);
            drop(book);
            self.count_rejected(priority);
            return Entry::Refused(overloaded(limit));
        };
        let served = book.serve(now);
        drop(book);
        // Its task counts itself.
        drop(evicted);
        self.grant(served);
        Entry::Waits(Box::new(Turn {
            place: Place {
                admission: Arc::clone(self),
                method,
                priority,
                number,
            },
            granted,
            patience: Box::pin(tokio::time::sleep(patience(priority))),
        }))
    }

    /// A call that was begun without asking does not answer at once.
    pub(super) fn take_up(self: &Arc<Self>, method: usize, now: Instant) -> Box<Admitted> {
        let ticket = self.lock().limiters.take_up(method, now);
        Box::new(self.admitted(ticket))
    }

    pub(super) fn rejected(&self, priority: Priority) -> u64 {
        self.rejected[priority.index()].load(Ordering::Relaxed)
    }

    pub(super) fn usage(&self, method: usize) -> Usage {
        let mut book = self.lock();
        book.limiters.forget_unreached(method, time::now());
        self.note_limit(&book, method);
        Usage {
            limit: book.limiters.limit(method),
            in_flight: book.limiters.in_flight(method),
            waiting: book.lines[method].len(),
        }
    }

    fn admitted(self: &Arc<Self>, ticket: Ticket) -> Admitted {
        Admitted {
            admission: Arc::clone(self),
            ticket: Some(ticket),
        }
    }

    fn finish(self: &Arc<Self>, ticket: Ticket, ending: Ending) {
        let now = time::now();
        let method = ticket.method();
        let mut book = self.lock();
        book.limiters.finish(ticket, now, ending);
        self.note_limit(&book, method);
        let served = book.serve(now);
        drop(book);
        self.grant(served);
    }

    /// Lets those know whose turn it is. Without the lock: who has left meanwhile gives its ticket back.
    fn grant(self: &Arc<Self>, served: Vec<(Waiter, Ticket)>) {
        for (waiter, ticket) in served {
            if let Err(mut left) = waiter.turn.send(self.admitted(ticket)) {
                left.end(Ending::Neutral);
            }
        }
    }

    fn count_rejected(&self, priority: Priority) {
        self.rejected[priority.index()].fetch_add(1, Ordering::Relaxed);
    }

    fn note_limit(&self, book: &Book, method: usize) {
        let is_limited = book.limiters.limit(method).is_some();
        if self.is_free(method) == is_limited {
            self.limited[method].store(is_limited, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// A place in the line, and whose place it was if the line is full; `None` if all who wait matter more.
    fn stand_in_line(&mut self, method: usize, priority: Priority, now: Instant) -> Option<NewPlace> {
        let limit = self.limiters.limit(method).unwrap_or_default();
        let line = &mut self.lines[method];
        let mut evicted = None;
        if line.len() >= line_max(limit, priority) {
            let lowest = line.by_priority.iter_mut().take(priority.index() + 1).find(|waiting| !waiting.is_empty());
            evicted = lowest.and_then(BTreeMap::pop_first).map(|(_, waiter)| waiter);
            // Either way there is one less to work on than wants it.
            self.limiters.refuse(method, now);
            evicted.as_ref()?;
        }
        let (turn, granted) = oneshot::channel();
        let number = self.next;
        self.next += 1;
        line.by_priority[priority.index()].insert(number, Waiter { since: now, turn });
        if !self.waited_for.contains(&method) {
            self.waited_for.push(method);
        }
        Some((number, granted, evicted))
    }

    /// Takes those up whose turn it is.
    fn serve(&mut self, now: Instant) -> Vec<(Waiter, Ticket)> {
        let mut served = Vec::new();
        let Self {
            limiters,
            lines,
            waited_for,
            ..
        } = self;
        waited_for.retain(|&method| {
            let line = &mut lines[method];
            while !line.is_empty() {
                let Some(ticket) = limiters.admit(method, now) else {
                    break;
                };
                served.extend(line.pop(now).map(|waiter| (waiter, ticket)));
            }
            !line.is_empty()
        });
        served
    }
}

/// The number, what tells of the turn, and whose place it was.
type NewPlace = (u64, oneshot::Receiver<Admitted>, Option<Waiter>);

/// How long a call of that priority waits for its turn.
fn patience(priority: Priority) -> Duration {
    match priority {
        Priority::Critical => PATIENCE_CRITICAL,
        Priority::Normal | Priority::Low | Priority::Background => PATIENCE,
    }
}

/// Calls that stand in line, before a method with that limit, when one more of that priority comes.
fn line_max(limit: u32, priority: Priority) -> usize {
    let (times, least) = match priority {
        Priority::Critical => (LINE_TIMES_CRITICAL, LINE_MIN_CRITICAL),
        Priority::Normal | Priority::Low | Priority::Background => (LINE_TIMES, LINE_MIN),
    };
    limit.saturating_mul(times).clamp(least, LINE_MAX) as usize
}

impl Line {
    fn len(&self) -> usize {
        self.by_priority.iter().map(BTreeMap::len).sum()
    }

    fn is_empty(&self) -> bool {
        self.by_priority.iter().all(BTreeMap::is_empty)
    }

    /// Whoever is next.
    fn pop(&mut self, now: Instant) -> Option<Waiter> {
        let priorities = Priority::ALL.into_iter().zip(&mut self.by_priority);
        let (priority, waiting) = priorities.rev().find(|(_, waiting)| !waiting.is_empty())?;
        let oldest = waiting.first_key_value()?.1.since;
        let is_short = now.saturating_duration_since(oldest) < patience(priority) / 2;
        let next = if is_short {
            waiting.pop_first()
        } else {
            waiting.pop_last()
        };
        next.map(|(_, waiter)| waiter)
    }
}

impl Admitted {
    /// The call is over.
    pub(super) fn end(&mut self, ending: Ending) {
        if let Some(ticket) = self.ticket.take() {
            self.admission.finish(ticket, ending);
        }
    }
}

impl Drop for Admitted {
    /// Nobody waits for its answer any more.
    fn drop(&mut self) {
        self.end(Ending::GivenUp);
    }
}

impl Drop for Turn {
    /// A turn that came and was not taken.
    fn drop(&mut self) {
        self.granted.close();
        if let Ok(mut unused) = self.granted.try_recv() {
            unused.end(Ending::Neutral);
        }
    }
}

impl Future for Turn {
    type Output = Result<Admitted, Status>;

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut granted = Pin::new(&mut this.granted).poll(task);
        if granted.is_pending() && this.patience.as_mut().poll(task).is_ready() {
            if this.place.leave(true) {
                return Poll::Ready(Err(this.place.refusal()));
            }
            // Its turn came, or it was turned away, just now.
            granted = Pin::new(&mut this.granted).poll(task);
        }
        granted.map(|granted| granted.map_err(|_| this.place.refusal()))
    }
}

impl Place {
    fn refusal(&self) -> Status {
        self.admission.count_rejected(self.priority);
        overloaded(self.admission.usage(self.method).limit)
    }

    /// Leaves the line; `false` if it was not in it any more.
    fn leave(&self, refused: bool) -> bool {
        let mut book = self.admission.lock();
        let waiting = book.lines[self.method].by_priority[self.priority.index()].remove(&self.number);
        if waiting.is_none() {
            return false;
        }
        let now = time::now();
        if refused {
            book.limiters.refuse(self.method, now);
        }
        // A probe may be over that nobody else looks at.
        let served = book.serve(now);
        self.admission.note_limit(&book, self.method);
        drop(book);
        self.admission.grant(served);
        true
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(false);
    }
}

/// The priority of a call with that metadata as it is taken here; `trusts_all` takes clients at their word, whoever they are.
pub(super) fn taken_priority(metadata: &Metadata, peer: &Peer, trusts_all: bool) -> Priority {
    if metadata.is_empty() {
        return Priority::default();
    }
    let said = Priority::of(metadata);
    if trusts_all || peer.identity().is_some() {
        said
    } else {
        said.min(Priority::default())
    }
}

fn overloaded(limit: Option<u32>) -> Status {
    let message = match limit {
        Some(limit) => format!(
            "the server is overloaded: it works on {limit} calls of this method, and no turn came in time; try again after {} ms",
            RETRY_AFTER.as_millis()
        ),
        None => "the server was overloaded, and no turn came in time".to_owned(),
    };
    Status::resource_exhausted(message)
        .with_rejection(OVERLOAD_POLICY, REASON)
        .with_retry_after(RETRY_AFTER)
}
