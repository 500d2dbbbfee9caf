//! Whether a call is worked on at once, waits a little, or is turned away: the adaptive limit of each method, and the line before it.
//!
//! As long as a method has no limit, calls that are answered within their first poll are never seen here, and all others are only counted. With a limit, a call
//! that has to wait stands in [`line`](crate::policy::concurrency::line), in a task of its own. After a moment it tells the limit that it had to wait, and at the end
//! of its patience it is turned away.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::router::Router;
use crate::context::Peer;
use crate::metadata::Metadata;
use crate::policy::concurrency::line::{Joined, Line, least};
use crate::policy::concurrency::{Ending, Limiters, Ticket};
use crate::priority::{PRIORITIES, Priority};
use crate::status::{OVERLOAD_POLICY, Status};
use crate::time;

/// Why a call was turned away, as its status says.
const REASON: &str = "overloaded";

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
    lines: Vec<Line<Call>>,
    /// Methods that somebody waits for.
    waited_for: Vec<usize>,
    next: u64,
}

/// What tells a call that stands in line of its turn.
type Call = oneshot::Sender<Admitted>;

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
    timer: Pin<Box<Sleep>>,
    /// For how much longer it waits after that; taken when it does.
    rest: Duration,
    has_pressed: bool,
}

/// A place in a line, left when this is gone.
struct Place {
    admission: Arc<Admission>,
    method: usize,
    priority: Priority,
    number: u64,
}

/// Why a call leaves the line.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Leaving {
    /// Nobody waits for its answer any more.
    GivenUp,
    /// It has waited for as long as it would; `press` if nobody has said yet that it had to wait.
    InVain { press: bool },
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

    /// A call that arrived, whose caller waits until `deadline`.
    pub(super) fn enter(
        self: &Arc<Self>,
        method: usize,
        priority: Priority,
        deadline: Option<Instant>,
        now: Instant,
    ) -> Entry {
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
        let (call, granted) = oneshot::channel();
        let number = book.next;
        book.next += 1;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let joined = book.lines[method].join(number, priority, left, now, call);
        if !matches!(joined, Joined::In { evicted: None, .. }) {
            // Either way there is one less to work on than wants it.
            book.limiters.press(method, now);
            book.limiters.refuse(method);
        }
        let Joined::In { patience, evicted } = joined else {
            let limit = book.limiters.limit(method);
            drop(book);
            self.count_rejected(priority);
            return Entry::Refused(overloaded(limit));
        };
        if !book.waited_for.contains(&method) {
            book.waited_for.push(method);
        }
        let served = book.serve(now);
        drop(book);
        // Its task counts itself.
        drop(evicted);
        self.grant(served);
        let least = least(priority);
        Entry::Waits(Box::new(Turn {
            place: Place {
                admission: Arc::clone(self),
                method,
                priority,
                number,
            },
            granted,
            timer: Box::pin(tokio::time::sleep(least)),
            rest: patience.saturating_sub(least),
            has_pressed: false,
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
    fn grant(self: &Arc<Self>, served: Vec<(Call, Ticket)>) {
        for (call, ticket) in served {
            if let Err(mut left) = call.send(self.admitted(ticket)) {
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
    /// Takes those up whose turn it is.
    fn serve(&mut self, now: Instant) -> Vec<(Call, Ticket)> {
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
                served.extend(line.pop(now).map(|call| (call, ticket)));
            }
            !line.is_empty()
        });
        served
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
        loop {
            if let Poll::Ready(granted) = Pin::new(&mut this.granted).poll(task) {
                return Poll::Ready(granted.map_err(|_| this.place.refusal()));
            }
            ready!(this.timer.as_mut().poll(task));
            let rest = std::mem::take(&mut this.rest);
            if !rest.is_zero() {
                this.has_pressed = true;
                this.place.press();
                let end = this.timer.deadline() + rest;
                this.timer.as_mut().reset(end);
            } else if this.place.leave(Leaving::InVain {
                press: !this.has_pressed,
            }) {
                return Poll::Ready(Err(this.place.refusal()));
            }
            // Otherwise its turn came, or it was turned away, just now.
        }
    }
}

impl Place {
    fn refusal(&self) -> Status {
        self.admission.count_rejected(self.priority);
        overloaded(self.admission.usage(self.method).limit)
    }

    /// It has waited for a moment, and goes on waiting.
    fn press(&self) {
        let mut book = self.admission.lock();
        let now = time::now();
        book.limiters.press(self.method, now);
        self.go_on(book, now);
    }

    /// Leaves the line; `false` if it was not in it any more.
    fn leave(&self, why: Leaving) -> bool {
        let mut book = self.admission.lock();
        let now = time::now();
        let in_vain = why != Leaving::GivenUp;
        let left = book.lines[self.method].leave(self.number, self.priority, in_vain, now);
        if left.is_none() {
            return false;
        }
        if why == (Leaving::InVain { press: true }) {
            book.limiters.press(self.method, now);
        }
        if in_vain {
            book.limiters.refuse(self.method);
        }
        self.go_on(book, now);
        true
    }

    /// A probe may be over that nobody else looks at, or a limit given up.
    fn go_on(&self, mut book: MutexGuard<'_, Book>, now: Instant) {
        let served = book.serve(now);
        self.admission.note_limit(&book, self.method);
        drop(book);
        self.admission.grant(served);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave(Leaving::GivenUp);
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
