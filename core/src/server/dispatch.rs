//! Runs one handler: polls it, catches its panics, sends its answer.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use super::admission::Admitted;
use super::books::Books;
use super::limits::Held;
use super::load::{add_report, is_failure};
use super::rejections::Rejections;
use crate::call::{Pump, PumpEnd};
use crate::code::Code;
use crate::context::{self, Cx};
use crate::message::{Body, MessageStream, Outcome};
use crate::metadata::Metadata;
use crate::mux::StreamKey;
use crate::policy::concurrency::Ending;
use crate::service::BoxSlot;
use crate::status::{HandlerRan, Status};
use crate::time;
use crate::transport::Connection;
use crate::transport::background::BackgroundStream;
use crate::wire::message::EncodedMessage;

/// A call that is ready to be polled.
pub(super) struct Job {
    pub(super) key: StreamKey,
    pub(super) slot: BoxSlot,
    /// The call's context; elsewhere only while the handler is polled.
    pub(super) cx: Option<Cx>,
    /// Index of the method's route; `None` for the fallback.
    pub(super) route: Option<usize>,
    /// `None` if nobody listens.
    pub(super) span: Option<Box<tracing::Span>>,
    pub(super) panicked: bool,
    /// Its call is in the books already.
    pub(super) booked: bool,
    /// That it is worked on counts; `None` if it does not.
    pub(super) admitted: Option<Box<Admitted>>,
    /// It counts at limits of concurrency.
    pub(super) held: Held,
}

/// An answer in the form in which the mux takes it.
pub(super) enum Answer {
    Unary {
        metadata: Metadata,
        message: EncodedMessage,
        trailers: Metadata,
    },
    Stream {
        metadata: Metadata,
        stream: Box<dyn MessageStream>,
        trailers: Metadata,
    },
    Failed {
        status: Status,
        trailers: Metadata,
    },
}

impl Answer {
    /// The call failed by the server's fault.
    pub(super) fn is_failure(&self) -> bool {
        matches!(self, Self::Failed { status, .. } if is_failure(status))
    }
}

impl Job {
    /// Polls the handler once, with its context as the ambient one; a panic is its end.
    pub(super) fn poll(&mut self, task: &mut Context<'_>) -> Poll<Outcome> {
        let slot = &mut self.slot;
        let span = &self.span;
        let ambient = &mut self.cx;
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| {
            context::enter(ambient, || match span {
                None => slot.as_mut().poll(task),
                Some(span) => span.in_scope(|| slot.as_mut().poll(task)),
            })
        }));
        match polled {
            Ok(polled) => polled,
            Err(_) => {
                self.panicked = true;
                tracing::error!(method = self.cx.as_ref().map(Cx::path), "a handler panicked");
                // What the panic said stays here: it may hold data of other callers.
                Poll::Ready(Err(Status::internal("the handler panicked")))
            }
        }
    }

    /// Whether nobody waits for its answer any more.
    fn is_expired(&self, now: Instant) -> bool {
        self.cx.as_ref().and_then(Cx::deadline).is_some_and(|deadline| deadline <= now)
    }

    /// Polls once with nobody to wake: a handler that waits is polled again by its own task at once.
    pub(super) fn poll_inline(&mut self) -> Poll<Outcome> {
        self.poll(&mut Context::from_waker(Waker::noop()))
    }

    /// Drops the handler's future; a panic in a destructor goes no further.
    pub(super) fn clear(&mut self) -> bool {
        let slot = &mut self.slot;
        std::panic::catch_unwind(AssertUnwindSafe(|| slot.as_mut().clear())).is_ok()
    }

    /// The answer to an outcome, with what the handler put into its context; one that a policy turned away is counted.
    pub(super) fn answer(&self, outcome: Outcome, bytes_max: usize, rejections: &Rejections) -> Answer {
        // What the handler put into its context stands before what its answer brings.
        let of_context = self.cx.as_ref().and_then(Cx::take_reply);
        let (status, mut trailers) = match outcome {
            Ok(reply) => {
                let (mut metadata, body, mut trailers) = reply.into_parts();
                if let Some((mut first_metadata, mut first_trailers)) = of_context {
                    first_metadata.merge(&metadata);
                    first_trailers.merge(&trailers);
                    (metadata, trailers) = (first_metadata, first_trailers);
                }
                let message = match body {
                    Body::Stream(stream) => {
                        return Answer::Stream {
                            metadata,
                            stream,
                            trailers,
                        };
                    }
                    Body::Encoded(message) => message,
                    Body::Received(payload) => EncodedMessage::from_encoded(payload.to_bytes()),
                    Body::Empty => EncodedMessage::from_encoded(bytes::Bytes::from_static(&[0xc0])),
                };
                if message.message_len() <= bytes_max {
                    return Answer::Unary {
                        metadata,
                        message,
                        trailers,
                    };
                }
                let status = Status::resource_exhausted(format!(
                    "the response has {} bytes; the client accepts {bytes_max}",
                    message.message_len()
                ));
                (status, trailers)
            }
            Err(status) => {
                let status = status.into_answer();
                rejections.note(self.route, &status);
                (status, of_context.unwrap_or_default().1)
            }
        };
        trailers.merge(status.metadata());
        if status.code() == Code::Ok {
            let status = Status::internal("the handler failed with the code OK");
            return Answer::Failed { status, trailers };
        }
        Answer::Failed { status, trailers }
    }
}

/// What a call that has come to that tells of those that are worked on.
fn ending(outcome: &Outcome) -> Ending {
    match outcome {
        // Its time was up before it began.
        Err(status) if status.was_not_begun() && status.code() == Code::DeadlineExceeded => Ending::GivenUp,
        // It was turned away after all.
        Err(status) if status.was_not_begun() => Ending::Neutral,
        Ok(_) | Err(_) => Ending::Answered,
    }
}

/// The end of a call whose time was up before its handler began.
fn expired() -> Status {
    Status::deadline_exceeded("the deadline passed before the handler began").with_handler_ran(HandlerRan::No)
}

/// A handler in a task of its own.
pub(super) struct HandlerTask {
    job: Option<Job>,
    connection: Connection,
    /// The first poll tells whether the method may run inside its connection's task.
    measured: bool,
    /// It runs on a worker of the runtime, which it must not keep from its other duties.
    watched: bool,
    pump: Option<Pump>,
    /// The context, once the handler has returned.
    cx: Option<Cx>,
    span: Option<Box<tracing::Span>>,
    finished: Finished,
}

impl HandlerTask {
    pub(super) fn new(job: Job, connection: Connection, books: &Books, measured: bool, watched: bool) -> Self {
        let is_counted = !job.route.and_then(|at| books.shared.router.route(at)).is_some_and(|route| route.is_built_in);
        if is_counted {
            books.shared.running.fetch_add(1, Ordering::Relaxed);
        }
        let finished = Finished {
            connection: connection.clone(),
            books: books.clone(),
            key: job.key,
            is_counted,
            background: None,
        };
        Self {
            job: Some(job),
            connection,
            measured,
            watched,
            pump: None,
            cx: None,
            span: None,
            finished,
        }
    }

    fn send(&mut self, job: &Job, outcome: Outcome) {
        let key = self.finished.key;
        let mut answer = job.answer(
            outcome,
            self.connection.reply_bytes_max(),
            &self.finished.books.shared.load.rejections,
        );
        if self.finished.is_counted {
            self.finished.books.shared.load.count(1, u64::from(answer.is_failure()));
            add_report(&self.finished.books, &self.connection, &mut answer, time::now);
        }
        match answer {
            Answer::Unary {
                metadata,
                message,
                trailers,
            } => self.connection.reply(key, &metadata, &message, &trailers),
            Answer::Failed { status, trailers } => self.connection.finish_call(key, Some(&status), &trailers),
            Answer::Stream {
                metadata,
                stream,
                trailers,
            } => {
                if self.connection.reply_head(key, &metadata) {
                    let end = PumpEnd::EndCall(trailers);
                    self.pump = Some(Pump::new(self.connection.clone(), key, stream, end));
                    if !self.finished.is_counted {
                        self.finished.background = Some(self.connection.background_stream());
                    }
                }
            }
        }
    }
}

impl Future for HandlerTask {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if let Some(mut job) = this.job.take() {
            if !job.held.set_polled(true) {
                // It was given up just before: what it counted at is somebody else's.
                job.clear();
                return Poll::Ready(());
            }
            let began = (!std::mem::replace(&mut this.measured, true)).then(time::now);
            let polling = this.watched.then(|| this.finished.books.shared.watchdog.polling());
            let polled = match began.filter(|began| job.is_expired(*began)) {
                None => job.poll(task),
                Some(_) => Poll::Ready(Err(expired())),
            };
            job.held.set_polled(false);
            if job.panicked {
                this.finished.books.shared.panics.fetch_add(1, Ordering::Relaxed);
            }
            let route = job.route.and_then(|at| this.finished.books.shared.router.route(at));
            let is_worked_on = match &polled {
                Poll::Ready(outcome) => ending(outcome) == Ending::Answered,
                Poll::Pending => true,
            };
            if let (Some(began), Some(route), true) = (began, route, is_worked_on) {
                route.gate.note(time::now().saturating_duration_since(began), polled.is_ready());
            }
            let Poll::Ready(outcome) = polled else {
                this.job = Some(job);
                return Poll::Pending;
            };
            job.clear();
            drop(polling);
            if let Some(mut admitted) = job.admitted.take() {
                admitted.end(ending(&outcome));
            }
            // Before its caller hears of it, or its next call could be one too many.
            job.held.give_back();
            this.send(&job, outcome);
            this.cx = job.cx.take();
            this.span = job.span;
        }
        let Some(pump) = &mut this.pump else {
            return Poll::Ready(());
        };
        // The stream's items are made by user code: its context stays the ambient one, and its span is entered.
        let (finished, span) = (&this.finished, &this.span);
        let _polling = this.watched.then(|| finished.books.shared.watchdog.polling());
        let polled = context::enter(&mut this.cx, || match span {
            None => finished.poll_pump(pump, task),
            Some(span) => span.in_scope(|| finished.poll_pump(pump, task)),
        });
        if pump.is_interrupted() {
            // The call is over for its client. The connection is about to stop this task, and only it can tell the context why.
            return Poll::Pending;
        }
        polled
    }
}

impl Drop for HandlerTask {
    fn drop(&mut self) {
        // What a handler holds may take its time to go, too.
        let _polling = self.watched.then(|| self.finished.books.shared.watchdog.polling());
        self.job = None;
        self.pump = None;
    }
}

/// Takes the call off the books when its task ends, however it ends.
struct Finished {
    connection: Connection,
    books: Books,
    key: StreamKey,
    /// Its handler counts as running.
    is_counted: bool,
    /// A stream of the server's own is no company for calls.
    background: Option<BackgroundStream>,
}

impl Finished {
    fn poll_pump(&self, pump: &mut Pump, task: &mut Context<'_>) -> Poll<()> {
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(pump).poll(task)));
        polled.unwrap_or_else(|_| {
            self.books.shared.panics.fetch_add(1, Ordering::Relaxed);
            tracing::error!("a stream panicked");
            let status = Status::internal("the handler panicked");
            self.connection.finish_call(self.key, Some(&status), &Metadata::new());
            Poll::Ready(())
        })
    }
}

impl Drop for Finished {
    fn drop(&mut self) {
        if self.is_counted {
            self.books.shared.running.fetch_sub(1, Ordering::Relaxed);
        }
        let ours = self.books.calls.lock().remove(&self.key);
        if ours.is_none() {
            // The call was over before its handler: it was counted as one that runs on.
            self.connection.release();
        }
    }
}
