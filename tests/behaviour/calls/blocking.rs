//! Where handlers run: inside their connection's task, in one of their own (`#[rpc(spawn)]`), or in a pool of threads (`#[rpc(blocking)]`), where they
//! end when all others do.

use std::sync::mpsc::channel;
use std::time::Duration;

use sinew::{CancelCause, Code, Cx, Server, Status, Streaming, service};
use tokio::runtime::{Builder, Runtime};

use crate::support::fixture::{Fixture, Served, unique};
use crate::support::probe::{Event, Events, Probe, probe};
use crate::support::{across_fixtures, bounded, until};

#[service(name = "blocking.Pool")]
trait Pool {
    /// Items without end.
    #[rpc(blocking)]
    async fn count(&self, cx: &Cx) -> Result<Streaming<u64>, Status>;
    /// Never answers.
    #[rpc(blocking)]
    async fn wait(&self, cx: &Cx) -> u64;
    /// Says on which thread it ran.
    #[rpc(blocking)]
    async fn thread(&self) -> String;
    /// Says in which task it ran.
    async fn task(&self) -> String;
    #[rpc(spawn)]
    async fn own_task(&self) -> String;
    #[rpc(blocking)]
    async fn pool_task(&self) -> String;
}

struct Threads(Probe);

impl Pool for Threads {
    async fn count(&self, cx: &Cx) -> Result<Streaming<u64>, Status> {
        let guard = self.0.began(cx);
        Ok(Streaming::iter((0..).inspect(move |_| {
            let _held = &guard;
        })))
    }
    async fn wait(&self, cx: &Cx) -> u64 {
        let _guard = self.0.began(cx);
        std::future::pending().await
    }
    async fn thread(&self) -> String {
        tokio::task::yield_now().await;
        format!("{:?}", std::thread::current().id())
    }
    async fn task(&self) -> String {
        format!("{:?}", tokio::task::try_id())
    }
    async fn own_task(&self) -> String {
        self.task().await
    }
    async fn pool_task(&self) -> String {
        self.task().await
    }
}

async fn serve(fixture: Fixture) -> (Served, PoolClient, Events) {
    let (probe, events) = probe();
    let served = fixture.serve(Server::builder().service(PoolServer::new(Threads(probe)))).await;
    let pool = PoolClient::from_channel(served.channel.clone());
    (served, pool, events)
}

across_fixtures!(
    a_stream_ends_with_its_client,
    a_handler_ends_with_its_client_and_at_its_deadline
);

async fn a_stream_ends_with_its_client(fixture: Fixture) {
    let (served, pool, mut events) = serve(fixture).await;
    for _ in 0..3 {
        let mut items = pool.count().await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), 0);
        drop(items);
        assert_eq!(events.next().await, Event::Began);
        assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    }
    until("no handler runs", || served.serving.running_handlers() == 0).await;
    assert_ne!(pool.thread().await.unwrap(), "");
}

async fn a_handler_ends_with_its_client_and_at_its_deadline(fixture: Fixture) {
    let (served, pool, mut events) = serve(fixture).await;
    pool.thread().await.unwrap();
    let status = pool.wait().timeout("1s").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(events.next().await, Event::Began);
    // Whether the server's clock or the client's reset comes first is open.
    assert!(matches!(events.next().await, Event::Dropped(Some(_))));
    let call = tokio::spawn(pool.wait().timeout("1h").into_future());
    assert_eq!(events.next().await, Event::Began);
    call.abort();
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    until("no handler runs", || served.serving.running_handlers() == 0).await;
}

/// Quick handlers run in the task of their connection; the options keep them out of it.
#[tokio::test]
async fn the_options_choose_the_task() {
    let (_served, pool, _events) = serve(Fixture::Mem).await;
    let connection = pool.task().await.unwrap();
    let mut seen = vec![connection.clone()];
    for _ in 0..3 {
        assert_eq!(pool.task().await.unwrap(), connection);
        for other in [pool.own_task().await.unwrap(), pool.pool_task().await.unwrap()] {
            assert!(!seen.contains(&other), "{other} is a task of an earlier call");
            seen.push(other);
        }
    }
}

#[tokio::test]
async fn a_server_that_stops_ends_its_blocking_handlers() {
    let (served, pool, mut events) = serve(Fixture::Mem).await;
    let call = tokio::spawn(pool.wait().timeout("1h").into_future());
    assert_eq!(events.next().await, Event::Began);
    drop(served);
    assert_eq!(bounded(call).await.unwrap().unwrap_err().code(), Code::Unavailable);
    assert_eq!(
        bounded(events.next()).await,
        Event::Dropped(Some(CancelCause::ServerStopped))
    );
}

/// A runtime waits for its pool when it is dropped: handlers that wait there must end first. The server outlives it here, so that nothing else ends them.
#[test]
fn a_runtime_does_not_wait_for_blocking_handlers() {
    for mut builder in [Builder::new_current_thread(), Builder::new_multi_thread()] {
        let runtime: Runtime = builder.worker_threads(2).enable_all().build().unwrap();
        let served = runtime.block_on(bounded(async {
            let (probe, mut events) = probe();
            let server = Server::builder().service(PoolServer::new(Threads(probe))).bind(unique("mem:pool"));
            let serving = server.start().await.unwrap();
            let pool = PoolClient::connect(&serving.target()).await.unwrap();
            tokio::spawn(pool.wait().timeout("1h").into_future());
            assert_eq!(events.next().await, Event::Began);
            let mut items = pool.count().await.unwrap();
            assert_eq!(items.next().await.unwrap().unwrap(), 0);
            (serving, items)
        }));
        let (ended, end) = channel();
        std::thread::spawn(move || {
            drop(runtime);
            ended.send(()).unwrap();
        });
        end.recv_timeout(Duration::from_secs(20)).expect("the runtime ends");
        drop(served);
    }
}
