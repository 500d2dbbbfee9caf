//! What a connection does with calls that arrive, as its driver sees it.

use std::sync::Arc;
use std::time::Instant;

use super::baton::Baton;
use super::connection::Connection;
use crate::mux::Events;

/// What a connection does with calls that arrive; a client's does nothing.
pub trait Acceptor: Send + 'static {
    /// A handler that is ready to be polled.
    type Job: Send;
    /// What running it came to.
    type Done: Send;
    /// What is needed to take up a result when the rest went on without this task.
    type Context: Send + Sync + 'static;

    /// Bytes that are taken up before the handlers of the calls in them run.
    const PIECE_BYTES: usize;

    /// Made once per connection.
    fn context(&self) -> Self::Context;

    /// Takes up what arrived.
    fn take_events(&mut self, connection: &Connection, events: &mut Events, now: Instant);
    /// The next handler to poll; `None` when there is none or the turn's budget is used up.
    fn next_job(&mut self, connection: &Connection) -> Option<Self::Job>;
    /// Whether jobs are left for the next turn.
    fn has_more(&self) -> bool;
    /// After writing: whether jobs that had to wait for it may run now.
    fn resume(&mut self, connection: &Connection) -> bool;
    /// Polls a handler: user code, which may take long or panic.
    fn run(job: &mut Self::Job) -> Self::Done;
    /// Takes up the result; answers may be collected until [`flush`](Self::flush).
    fn done(&mut self, connection: &Connection, job: Self::Job, done: Self::Done);
    /// The connection goes on without the task that runs a handler now.
    fn taken_over(&mut self);
    /// The same as [`done`](Self::done) when the connection went on without this task.
    fn done_elsewhere(connection: &Connection, context: &Self::Context, job: Self::Job, done: Self::Done);
    /// Hands all collected answers to the connection.
    fn flush(&mut self, connection: &Connection);
    /// The driver is about to run handlers; a watchdog may want to know.
    fn before_jobs(&mut self, baton: &Arc<Baton<Self>>)
    where
        Self: Sized;
    /// Gives memory back; the connection is at rest.
    fn shrink(&mut self);
    /// The connection is over because its driver panicked, and this value is gone or of no use any more.
    fn abandoned(connection: &Connection, context: &Self::Context);
    /// The connection is over.
    fn closed(&mut self, connection: &Connection);
}

/// A client's connection accepts no calls.
#[derive(Debug)]
pub struct NoCalls;

impl Acceptor for NoCalls {
    type Job = std::convert::Infallible;
    type Done = std::convert::Infallible;
    type Context = ();

    const PIECE_BYTES: usize = usize::MAX;

    fn context(&self) {}

    fn take_events(&mut self, _: &Connection, _: &mut Events, _: Instant) {}

    fn next_job(&mut self, _: &Connection) -> Option<Self::Job> {
        None
    }

    fn has_more(&self) -> bool {
        false
    }

    fn resume(&mut self, _: &Connection) -> bool {
        false
    }

    fn run(job: &mut Self::Job) -> Self::Done {
        match *job {}
    }

    fn done(&mut self, _: &Connection, job: Self::Job, _: Self::Done) {
        match job {}
    }

    fn taken_over(&mut self) {}

    fn done_elsewhere(_: &Connection, (): &(), job: Self::Job, _: Self::Done) {
        match job {}
    }

    fn flush(&mut self, _: &Connection) {}

    fn before_jobs(&mut self, _: &Arc<Baton<Self>>) {}

    fn shrink(&mut self) {}

    fn abandoned(_: &Connection, (): &()) {}

    fn closed(&mut self, _: &Connection) {}
}
