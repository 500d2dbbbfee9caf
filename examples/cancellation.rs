//! Cancellation: a call that is dropped ends on the server too, and work that it spawned hears of it.

use std::future::pending;

use sinew::{CancelCause, Cx, Server, Status, Streaming, service};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// Long work.
#[service]
pub trait Jobs {
    /// Works until it is dropped.
    async fn run(&self, cx: &Cx) -> Result<(), Status>;
    /// Counts for ever.
    async fn count(&self) -> Result<Streaming<u64>, Status>;
}

/// What happened on the server.
#[derive(Debug, PartialEq)]
enum Event {
    Started,
    HandlerDropped,
    SpawnedWorkTold(CancelCause),
    StreamDropped,
}

/// Reports when it is dropped.
struct OnDrop(UnboundedSender<Event>, Option<Event>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.1.take().map(|event| self.0.send(event));
    }
}

struct Worker(UnboundedSender<Event>);

impl Jobs for Worker {
    async fn run(&self, cx: &Cx) -> Result<(), Status> {
        let _on_drop = OnDrop(self.0.clone(), Some(Event::HandlerDropped));
        let (events, cx) = (self.0.clone(), cx.clone());
        // The handler's own future is dropped at its next `.await`; a task that it spawned has to ask.
        let _ends_by_itself = tokio::spawn(async move { events.send(Event::SpawnedWorkTold(cx.cancelled().await)) });
        self.0.send(Event::Started).map_err(|_| Status::internal("nobody listens"))?;
        pending().await
    }

    async fn count(&self) -> Result<Streaming<u64>, Status> {
        let on_drop = OnDrop(self.0.clone(), Some(Event::StreamDropped));
        Ok(Streaming::iter((1..).inspect(move |_| _ = &on_drop)))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (sender, mut events) = unbounded_channel();
    let server = Server::builder().service(JobsServer::new(Worker(sender))).bind("127.0.0.1:0").start().await?;
    let jobs = JobsClient::connect(&server.target()).await?;

    // Any way of dropping a call cancels it: `select!`, a time-out, an aborted task.
    tokio::select! {
        ended = jobs.run() => ended?,
        event = events.recv() => assert_eq!(event, Some(Event::Started)),
    }
    let told = [events.recv().await, events.recv().await];
    assert!(told.contains(&Some(Event::HandlerDropped)), "{told:?}");
    assert!(
        told.contains(&Some(Event::SpawnedWorkTold(CancelCause::ClientCancelled))),
        "{told:?}"
    );

    // A stream is cancelled by dropping it, wherever it stands.
    let mut numbers = jobs.count().await?;
    assert_eq!(numbers.next().await.transpose()?, Some(1));
    drop(numbers);
    assert_eq!(events.recv().await, Some(Event::StreamDropped));
    Ok(())
}
