//! Whether a call is worked on at once, waits a little, or is turned away: the adaptive limit of each method, and the line before it.
//!
//! As long as a method has no limit, calls that are answered within their first poll are never seen here, and all others are only counted. With a limit, a call
//! that has to wait stands in [`line`](crate::policy::concurrency::line), in a task of its own. After a moment it tells the limit that it had to wait, and at the end
//! of its patience it is turned away.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Sleep;

use super::router::{Route, Router};
use crate::context::Peer;
use crate::metadata::Metadata;
use crate::policy::concurrency::line::{Joined, Line, Work, least};
use crate::policy::concurrency::{Ending, Limiters, Ticket};
use crate::priority::{PRIORITIES, Priority};
use crate::status::{OVERLOAD_POLICY, Status};
use crate::time;

/// Why a call was turned away, as its status says.
const REASON: &str = "overloaded";

/// Where there is no limit any more, so many times as many as there were worked on are let in at once, and again so many times as many after that time: what made the limit
/// go may be over, and all of a long line at once would be an overload of its own.
const RELEASE_TIMES: u32 = 2;
const RELEASE_EVERY: Duration = Duration::from_millis(8);
/// When a client that was turned away is asked to come back: several times what it takes for a line to go or a limit to rise.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// Decides for all calls of a server.
pub(super) struct Admission {
    /// Where nothing else is said of a method.
    is_on: AtomicBool,
    book: Mutex<Book>,
    methods: Box<[Method]>,
    /// Calls that were turned away, by their priority.
    rejected: [AtomicU64; PRIORITIES],
}

const UNSAID: u8 = 0;
const OFF: u8 = 1;
const ON: u8 = 2;

/// What is known of a method without the book.
#[derive(Default)]
struct Method {
    is_limited: AtomicBool,
    /// Its calls may be turned away at all.
    is_admitted: bool,
    /// What its service's configuration says of it: one of [`UNSAID`], [`OFF`], [`ON`].
    said: AtomicU8,
    rejected: AtomicU64,
}

struct Book {
    limiters: Limiters,
    queues: Vec<Queue>,
    /// Methods that somebody waits for.
    waited_for: Vec<usize>,
    next: u64,
    /// A task lets those in whose method has no limit any more.
    is_releasing: bool,
}

/// The calls of one method that wait.
#[derive(Default)]
struct Queue {
    line: Line<Call>,
    /// The limit that there is, or was.
    limit: u32,
    /// When calls were let in last because there is no limit any more.
    released: Option<Instant>,
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
    /// Who leaves after that has waited for long, for one of its kind.
    is_long_after: Instant,
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
    pub(super) is_overloaded: bool,
    pub(super) rejected: u64,
}

impl Method {
    fn new(route: &Route) -> Self {
        Self {
            is_admitted: route.is_admitted(),
            ..Self::default()
        }
    }
}

impl Admission {
    /// For the methods of `router`.
    pub(super) fn new(router: &Router, is_on: bool) -> Self {
        let methods = router.routes().len();
        Self {
            is_on: AtomicBool::new(is_on),
            book: Mutex::new(Book {
                limiters: Limiters::new(methods, time::now()),
                queues: (0..methods).map(|_| Queue::default()).collect(),
                waited_for: Vec::new(),
                next: 0,
                is_releasing: false,
            }),
            methods: router.routes().iter().map(Method::new).collect(),
            rejected: Default::default(),
        }
    }

    pub(super) fn is_on(&self, method: usize) -> bool {
        match self.methods[method].said.load(Ordering::Relaxed) {
            UNSAID => self.is_on.load(Ordering::Relaxed),
            said => said == ON,
        }
    }

    /// Whether it is on for any method.
    pub(super) fn is_on_anywhere(&self) -> bool {
        (0..self.methods.len()).any(|method| self.methods[method].is_admitted && self.is_on(method))
    }

    /// Switches it for all methods of which nothing else is said; who waits when it is switched off is let in.
    pub(super) fn switch(self: &Arc<Self>, is_on: bool) {
        let book = self.lock();
        self.is_on.store(is_on, Ordering::Relaxed);
        self.let_in_where_off(book);
    }

    /// Switches it for one method, whatever holds for the others; `None`: as for the others.
    pub(super) fn set(self: &Arc<Self>, method: usize, is_on: Option<bool>) {
        let book = self.lock();
        let said = is_on.map_or(UNSAID, |is_on| if is_on { ON } else { OFF });
        self.methods[method].said.store(said, Ordering::Relaxed);
        self.let_in_where_off(book);
    }

    fn let_in_where_off(self: &Arc<Self>, mut book: MutexGuard<'_, Book>) {
        let mut served = Vec::new();
        let now = time::now();
        let Book {
            limiters,
            queues,
            waited_for,
            ..
        } = &mut *book;
        waited_for.retain(|&method| {
            if self.is_on(method) {
                return true;
            }
            while let Some(call) = queues[method].line.pop(limiters.in_flight(method), now) {
                served.push((call, limiters.take_up(method, now)));
            }
            false
        });
        drop(book);
        self.grant(served);
    }

    /// Whether the method has no limit, so that a call which is likely to be answered within its first poll need not ask.
    pub(super) fn is_free(&self, method: usize) -> bool {
        !self.methods[method].is_limited.load(Ordering::Relaxed) || !self.is_on(method)
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
        if !self.is_on(method) {
            return Entry::Free;
        }
        // Those in line were here before, and may matter more.
        let ticket = match book.queues[method].line.is_empty() {
            true => book.limiters.admit(method, now),
            false => None,
        };
        self.note_limit(&book, method);
        if let Some(ticket) = ticket {
            // Whether it was let in by the end of a probe that others wait for.
            self.go_on(book, now);
            return Entry::Admitted(Box::new(self.admitted(ticket)));
        }
        let (call, granted) = oneshot::channel();
        let number = book.next;
        book.next += 1;
        let left = deadline.map(|deadline| deadline.saturating_duration_since(now));
        let limit = book.limiters.limit(method).unwrap_or_default();
        let work = Work {
            limit,
            in_flight: book.limiters.in_flight(method),
            rate: book.limiters.rate(method),
        };
        let joined = book.queues[method].line.join((number, call), priority, left, work, now);
        let patience = match joined {
            Joined::In {
                patience,
                evicted: None,
            } => Some(patience),
            // Either way there is one less to work on than wants it.
            Joined::In { patience, evicted } => {
                book.limiters.press(method, now);
                book.limiters.refuse(method);
                // Its task counts itself.
                drop(evicted);
                Some(patience)
            }
            Joined::Full => {
                book.limiters.press(method, now);
                book.limiters.refuse(method);
                None
            }
        };
        if !book.waited_for.contains(&method) {
            book.waited_for.push(method);
        }
        self.go_on(book, now);
        let Some(patience) = patience else {
            self.count_rejected(method, priority);
            return Entry::Refused(overloaded(Some(limit)));
        };
        let first = patience.min(least(priority));
        Entry::Waits(Box::new(Turn {
            place: Place {
                admission: Arc::clone(self),
                method,
                priority,
                number,
                is_long_after: now + first / 2,
            },
            granted,
            timer: Box::pin(tokio::time::sleep(first)),
            rest: patience.saturating_sub(first),
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
        let now = time::now();
        book.limiters.forget_unreached(method, now);
        self.note_limit(&book, method);
        Usage {
            limit: book.limiters.limit(method),
            in_flight: book.limiters.in_flight(method),
            waiting: book.queues[method].line.len(),
            is_overloaded: book.queues[method].line.is_overloaded(now),
            rejected: self.methods[method].rejected.load(Ordering::Relaxed),
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
        self.go_on(book, now);
    }

    /// Serves those whose turn it is: a call is over, a probe may be that nobody else looks at, or a limit was given up.
    fn go_on(self: &Arc<Self>, mut book: MutexGuard<'_, Book>, now: Instant) {
        if book.waited_for.is_empty() {
            return;
        }
        let (served, is_more) = book.serve(now);
        for (_, ticket) in &served {
            self.note_limit(&book, ticket.method());
        }
        // Without a runtime nobody waits for anything.
        let runtime = Handle::try_current().ok().filter(|_| is_more && !book.is_releasing);
        book.is_releasing |= runtime.is_some();
        drop(book);
        self.grant(served);
        if let Some(runtime) = runtime {
            runtime.spawn(release(Releasing(Arc::downgrade(self))));
        }
    }

    /// Serves those who are let in little by little; whether there are more.
    fn release(self: &Arc<Self>) -> bool {
        let mut book = self.lock();
        let (served, is_more) = book.serve(time::now());
        book.is_releasing = is_more;
        drop(book);
        self.grant(served);
        is_more
    }

    /// Lets those know whose turn it is. Without the lock: who has left meanwhile gives its ticket back.
    fn grant(self: &Arc<Self>, served: Vec<(Call, Ticket)>) {
        for (call, ticket) in served {
            if let Err(mut left) = call.send(self.admitted(ticket)) {
                left.end(Ending::Neutral);
            }
        }
    }

    fn count_rejected(&self, method: usize, priority: Priority) {
        self.methods[method].rejected.fetch_add(1, Ordering::Relaxed);
        self.rejected[priority.index()].fetch_add(1, Ordering::Relaxed);
    }

    fn note_limit(&self, book: &Book, method: usize) {
        let is_limited = book.limiters.limit(method).is_some();
        let known = &self.methods[method].is_limited;
        if known.load(Ordering::Relaxed) != is_limited {
            known.store(is_limited, Ordering::Relaxed);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Book {
    /// Takes those up whose turn it is; whether more would be, but for not letting in all at once.
    fn serve(&mut self, now: Instant) -> (Vec<(Call, Ticket)>, bool) {
        let (mut served, mut is_more) = (Vec::new(), false);
        let Self {
            limiters,
            queues,
            waited_for,
            ..
        } = self;
        waited_for.retain(|&method| {
            let queue = &mut queues[method];
            let mut room = match limiters.limit(method) {
                Some(limit) => {
                    queue.limit = limit;
                    u32::MAX
                }
                None if queue.released.is_some_and(|at| now < at + RELEASE_EVERY) => 0,
                None => {
                    queue.released = Some(now);
                    // More and more, or those that come meanwhile would keep the line as it is for ever.
                    queue.limit = queue.limit.max(1).saturating_mul(RELEASE_TIMES);
                    queue.limit
                }
            };
            while !queue.line.is_empty() && room > 0 {
                let Some(ticket) = limiters.admit(method, now) else {
                    break;
                };
                room -= 1;
                let next = queue.line.pop(limiters.in_flight(method), now);
                served.extend(next.map(|call| (call, ticket)));
            }
            is_more |= room == 0 && !queue.line.is_empty();
            !queue.line.is_empty()
        });
        (served, is_more)
    }
}

/// Lets those in who wait for a method that has no limit any more.
async fn release(mut releasing: Releasing) {
    loop {
        tokio::time::sleep(RELEASE_EVERY).await;
        if !releasing.0.upgrade().is_some_and(|admission| admission.release()) {
            // It has said so itself.
            releasing.0 = Weak::new();
            return;
        }
    }
}

/// That a task releases a line; its runtime may end before it does, and then another one has to.
struct Releasing(Weak<Admission>);

impl Drop for Releasing {
    fn drop(&mut self) {
        if let Some(admission) = self.0.upgrade() {
            admission.lock().is_releasing = false;
        }
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
            if rest.is_zero() {
                if this.place.leave(Leaving::InVain {
                    press: !this.has_pressed,
                }) {
                    return Poll::Ready(Err(this.place.refusal()));
                }
                // Its turn came, or it was turned away, just now; of that it hears.
                let granted = Pin::new(&mut this.granted).poll(task);
                return granted.map(|granted| granted.map_err(|_| this.place.refusal()));
            }
            this.has_pressed = true;
            this.place.press();
            let end = this.timer.deadline() + rest;
            this.timer.as_mut().reset(end);
        }
    }
}

impl Place {
    fn refusal(&self) -> Status {
        self.admission.count_rejected(self.method, self.priority);
        overloaded(self.admission.usage(self.method).limit)
    }

    /// It has waited for a moment, and goes on waiting.
    fn press(&self) {
        let mut book = self.admission.lock();
        let now = time::now();
        if book.queues[self.method].line.contains(self.number, self.priority) {
            book.limiters.press(self.method, now);
        }
        self.admission.note_limit(&book, self.method);
        self.admission.go_on(book, now);
    }

    /// Leaves the line; `false` if it was not in it any more.
    fn leave(&self, why: Leaving) -> bool {
        let mut book = self.admission.lock();
        let now = time::now();
        let in_vain = why != Leaving::GivenUp;
        let left = book.queues[self.method].line.leave(self.number, self.priority, in_vain, now);
        if left.is_none() {
            return false;
        }
        // Its caller had no more time than that.
        let is_long = why == Leaving::GivenUp && now >= self.is_long_after;
        if is_long || why == (Leaving::InVain { press: true }) {
            book.limiters.press(self.method, now);
        }
        if is_long || in_vain {
            book.limiters.refuse(self.method);
        }
        self.admission.note_limit(&book, self.method);
        self.admission.go_on(book, now);
        true
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
