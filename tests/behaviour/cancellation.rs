//! Giving a call up: the handler hears of it, and nobody else is disturbed.

use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use sinew::{CancelCause, Channel, Code, Cx, HandlerRan, Server, Status, Streaming, service};
use tokio::sync::oneshot;

use crate::deadlines::{SleepyClient, bed};
use crate::support::fixture::{Fixture, Served};
use crate::support::hand::{END, FIN, Hand, OPEN, PING, PONG, REPLY};
use crate::support::probe::{Event, Events, Probe, probe};
use crate::support::{across_fixtures, bounded, polled_once, until};

#[service(name = "cancellation.Patient")]
pub(crate) trait Patient {
    async fn ping(&self, payload: Bytes) -> usize;
    async fn wait(&self, cx: &Cx);
    async fn watch(&self, cx: &Cx) -> Result<Streaming<u64>, Status>;
    async fn upload(&self, cx: &Cx, items: Streaming<u64>) -> Result<u64, Status>;
    /// Leaves work behind that reports why the call was over.
    async fn leaves_work(&self, cx: &Cx) -> Result<(), Status>;
}

struct Ward {
    probe: Probe,
    cause: Mutex<Option<oneshot::Sender<CancelCause>>>,
}

impl Patient for Ward {
    async fn ping(&self, payload: Bytes) -> usize {
        payload.len()
    }
    async fn wait(&self, cx: &Cx) {
        let _guard = self.probe.began(cx);
        std::future::pending::<()>().await;
    }
    async fn watch(&self, cx: &Cx) -> Result<Streaming<u64>, Status> {
        let guard = self.probe.began(cx);
        let mut next = 0;
        let items = stream::poll_fn(move |_| {
            let _held_as_long_as_the_stream = &guard;
            next += 1;
            if next <= 3 {
                Poll::Ready(Some(Ok(next)))
            } else {
                Poll::Pending
            }
        });
        Ok(Streaming::from(items))
    }
    async fn upload(&self, cx: &Cx, mut items: Streaming<u64>) -> Result<u64, Status> {
        let _guard = self.probe.began(cx);
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += item?;
        }
        Ok(sum)
    }
    async fn leaves_work(&self, cx: &Cx) -> Result<(), Status> {
        let (cancelled, report) = (cx.cancelled(), self.cause.lock().unwrap().take());
        tokio::spawn(async move {
            let cause = cancelled.await;
            // The test may be over.
            let _over = report.map(|report| report.send(cause));
        });
        let _guard = self.probe.began(cx);
        std::future::pending().await
    }
}

struct Started {
    client: PatientClient,
    served: Served,
    events: Events,
    cause: oneshot::Receiver<CancelCause>,
}

fn ward() -> (PatientServer<Ward>, Events, oneshot::Receiver<CancelCause>) {
    let (probe, events) = probe();
    let (sender, cause) = oneshot::channel();
    let ward = Ward {
        probe,
        cause: Mutex::new(Some(sender)),
    };
    (PatientServer::new(ward), events, cause)
}

async fn start(fixture: Fixture) -> Started {
    let (service, events, cause) = ward();
    let served = fixture.serve(Server::builder().service(service)).await;
    Started {
        client: PatientClient::from_channel(served.channel.clone()),
        served,
        events,
        cause,
    }
}

impl Started {
    /// The handler is gone with `cause`, nothing is left of it, and the connection lives.
    async fn ended(&mut self, cause: CancelCause) {
        assert_eq!(self.events.next().await, Event::Dropped(Some(cause)));
        until("no handler is left", || self.served.serving.running_handlers() == 0).await;
        assert_eq!(self.client.ping(Bytes::new()).await.unwrap(), 0);
        assert_eq!(self.served.serving.connections(), 1);
    }
}

across_fixtures!(
    a_dropped_call_cancels_its_handler,
    a_dropped_stream_cancels_its_producer,
    a_dropped_upload_cancels_its_reader,
    a_failing_upload_cancels_the_call,
    work_that_a_handler_spawned_hears_of_it,
    a_parked_call_delays_nobody,
    a_parked_large_call_delays_nobody,
);

async fn a_dropped_call_cancels_its_handler(fixture: Fixture) {
    let mut started = start(fixture).await;
    for _ in 0..3 {
        let call = tokio::spawn(started.client.wait().into_future());
        assert_eq!(started.events.next().await, Event::Began);
        call.abort();
        started.ended(CancelCause::ClientCancelled).await;
    }
}

async fn a_dropped_stream_cancels_its_producer(fixture: Fixture) {
    let mut started = start(fixture).await;
    let mut items = started.client.watch().await.unwrap();
    for expected in 1..=3 {
        assert_eq!(items.next().await.unwrap().unwrap(), expected);
    }
    assert_eq!(started.events.next().await, Event::Began);
    drop(items);
    started.ended(CancelCause::ClientCancelled).await;
}

async fn a_dropped_upload_cancels_its_reader(fixture: Fixture) {
    let mut started = start(fixture).await;
    let (sender, items) = Streaming::channel(1);
    let call = tokio::spawn(started.client.upload(items).into_future());
    sender.send(1).await.unwrap();
    assert_eq!(started.events.next().await, Event::Began);
    call.abort();
    sender.closed().await;
    started.ended(CancelCause::ClientCancelled).await;
}

/// The client's own stream breaks: the call is cancelled, and its caller gets to see why.
async fn a_failing_upload_cancels_the_call(fixture: Fixture) {
    let mut started = start(fixture).await;
    let (sender, items) = Streaming::channel(1);
    let call = tokio::spawn(started.client.upload(items).into_future());
    sender.send(1).await.unwrap();
    assert_eq!(started.events.next().await, Event::Began);
    sender.fail(Status::data_loss("the disk broke")).await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Cancelled);
    assert!(status.message().contains("the disk broke"), "{status}");
    started.ended(CancelCause::ClientCancelled).await;
}

async fn work_that_a_handler_spawned_hears_of_it(fixture: Fixture) {
    let mut started = start(fixture).await;
    let call = tokio::spawn(started.client.leaves_work().into_future());
    assert_eq!(started.events.next().await, Event::Began);
    call.abort();
    assert_eq!((&mut started.cause).await.unwrap(), CancelCause::ClientCancelled);
    started.ended(CancelCause::ClientCancelled).await;
}

/// A call that is polled once, then neither polled nor dropped: its request left, and others go on.
async fn a_parked_call_delays_nobody(fixture: Fixture) {
    let mut started = start(fixture).await;
    started.client.ping(Bytes::new()).await.unwrap();
    let mut parked: Vec<_> = (0..5).map(|_| Box::pin(started.client.wait().into_future())).collect();
    for call in &mut parked {
        assert!(polled_once(call).await.is_pending());
    }
    for _ in 0..5 {
        assert_eq!(started.events.next().await, Event::Began);
    }
    for _ in 0..20 {
        assert_eq!(started.client.ping(Bytes::new()).await.unwrap(), 0);
    }
    drop(parked);
    for _ in 0..5 {
        assert_eq!(
            started.events.next().await,
            Event::Dropped(Some(CancelCause::ClientCancelled))
        );
    }
}

/// The same on a clock that moves only while nobody has anything to do: a call that waits for nobody takes no time.
#[tokio::test(start_paused = true)]
async fn beside_parked_calls_no_time_passes() {
    let started = start(Fixture::Mem).await;
    started.client.ping(Bytes::new()).await.unwrap();
    let mut parked: Vec<_> = (0..5).map(|_| Box::pin(started.client.wait().into_future())).collect();
    for call in &mut parked {
        assert!(polled_once(call).await.is_pending());
    }
    let began = tokio::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(started.client.ping(Bytes::new()).await.unwrap(), 0);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    drop(parked);
}

/// The same with requests that do not fit one write, and with replies that nobody takes.
async fn a_parked_large_call_delays_nobody(fixture: Fixture) {
    let started = start(fixture).await;
    started.client.ping(Bytes::new()).await.unwrap();
    let large = Bytes::from(vec![
        7;
        if fixture == Fixture::TcpByOneByte {
            20_000
        } else {
            1024 * 1024
        }
    ]);
    let mut parked: Vec<_> =
        (0..fixture.rounds(8)).map(|_| Box::pin(started.client.ping(large.clone()).into_future())).collect();
    for call in &mut parked {
        assert!(polled_once(call).await.is_pending());
    }
    for _ in 0..20 {
        assert_eq!(started.client.ping(Bytes::new()).await.unwrap(), 0);
    }
    for call in parked {
        assert_eq!(call.await.unwrap(), large.len());
    }
}

#[tokio::test]
async fn a_handler_learns_that_its_client_is_gone() {
    let mut started = start(Fixture::Tcp).await;
    let call = tokio::spawn(started.client.wait().into_future());
    assert_eq!(started.events.next().await, Event::Began);
    started.served.channel.shut_down();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::Unavailable, HandlerRan::Maybe)
    );
    assert_eq!(
        started.events.next().await,
        Event::Dropped(Some(CancelCause::ClientGone))
    );
    until("nothing is left", || {
        started.served.serving.running_handlers() == 0 && started.served.serving.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_handler_learns_that_its_server_stops() {
    let (service, mut events, _cause) = ward();
    let serving = Server::builder().service(service).bind("127.0.0.1:0").start().await.unwrap();
    let client = PatientClient::lazy(&serving.target()).unwrap();
    let call = tokio::spawn(client.wait().into_future());
    assert_eq!(events.next().await, Event::Began);
    drop(serving);
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ServerStopped)));
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
}

/// Through `local` a dropped call cancels as it does over a wire.
#[tokio::test]
async fn local_calls_are_cancelled_alike() {
    let (service, mut events, cause) = ward();
    let client = PatientClient::from_channel(Channel::local(service));
    let call = tokio::spawn(client.wait().into_future());
    assert_eq!(events.next().await, Event::Began);
    call.abort();
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    let mut items = client.watch().await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert_eq!(events.next().await, Event::Began);
    drop(items);
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    let call = tokio::spawn(client.leaves_work().into_future());
    assert_eq!(events.next().await, Event::Began);
    call.abort();
    assert_eq!(cause.await.unwrap(), CancelCause::ClientCancelled);
}

/// Cancelled in every state in which a call can be: nothing leaks, and the connection serves on. The seed is fixed and printed on failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_cancelled_at_any_moment_leak_nothing() {
    let started = start(Fixture::Tcp).await;
    let seed = 0x5eed;
    println!("seed {seed:#x}");
    let mut random = numbers_from(seed);
    let test = async {
        for round in 0..300 {
            let client = started.client.clone();
            let call = tokio::spawn(async move {
                match round % 3 {
                    0 => drop(client.wait().await),
                    1 => drop(client.ping(Bytes::from(vec![1; 300_000])).await),
                    _ => {
                        if let Ok(mut items) = client.watch().await {
                            while items.next().await.is_some() {}
                        }
                    }
                }
            });
            for _ in 0..random() % 40 {
                tokio::task::yield_now().await;
            }
            call.abort();
        }
        until("no handler is left", || started.served.serving.running_handlers() == 0).await;
        for _ in 0..10 {
            assert_eq!(
                started.client.ping(Bytes::from(vec![1; 300_000])).await.unwrap(),
                300_000
            );
        }
    };
    bounded(test).await;
}

/// A tiny generator, so that a failure can be repeated.
fn numbers_from(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

/// A handler blocks its thread: no other call, ping or deadline of its connection waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_blocks_its_thread_stalls_nobody() {
    let (service, mut events, gate) = bed();
    let serving = Arc::new(Server::builder().service(service).start().await.unwrap());
    let (ours, theirs) = Fixture::Tcp.ends().await;
    serving.accept(theirs);
    let test = async {
        // By hand, so that call, ping and deadline are surely on one connection.
        let mut hand = Hand::greet(ours, &[]).await;
        let open = |method: &str, timeout: u32| {
            let mut open = sinew::wire::method_id(method).to_be_bytes().to_vec();
            open.extend_from_slice(&timeout.to_be_bytes());
            open.extend_from_slice(&[0, 0, 0, 0, 0, 1, 0x90]);
            open
        };
        // A quick call in the same packet in front of it: its answer must not wait for the handler that blocks.
        let quick = open("deadlines.Sleepy/ping", 0);
        let blocking = open("deadlines.Sleepy/block", 0);
        hand.send_all(&[(OPEN | FIN, 1, &quick), (OPEN | FIN, 2, &blocking)]).await;
        assert_eq!(events.next().await, Event::Began);
        assert_eq!(hand.read_kind(REPLY).await.unwrap().stream, 1, "the call in front");
        // The handler blocks now, until the gate opens at the end of the test.
        hand.send(PING, 0, b"alive?  ").await;
        assert_eq!(hand.read_kind(PONG).await.unwrap().payload, b"alive?  ");
        hand.send(OPEN | FIN, 3, &open("deadlines.Sleepy/ping", 0)).await;
        assert_eq!(hand.read_kind(REPLY).await.unwrap().stream, 3, "another call");
        hand.send(OPEN | FIN, 4, &open("deadlines.Sleepy/sleep", 20)).await;
        let end = hand.read_kind(END).await.unwrap();
        assert_eq!(
            (end.stream, end.payload[0]),
            (4, Code::DeadlineExceeded.as_u8()),
            "a deadline"
        );
        gate.send(()).unwrap();
        assert_eq!(
            hand.read_kind(REPLY).await.unwrap().stream,
            2,
            "the answer comes when it comes"
        );
    };
    bounded(test).await;
    until("no handler is left", || serving.running_handlers() == 0).await;
}

/// Several handlers block at once, over a client; every other call goes on, and the blocked ones are answered in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn blocked_handlers_are_answered_in_the_end() {
    let (service, mut events, gate) = bed();
    let served = Fixture::Tcp.serve(Server::builder().service(service)).await;
    let client = SleepyClient::from_channel(served.channel.clone());
    let test = async {
        let blocked: Vec<_> = (0..2).map(|_| tokio::spawn(client.block().into_future())).collect();
        for _ in 0..2 {
            assert_eq!(events.next().await, Event::Began);
        }
        for _ in 0..20 {
            assert_eq!(client.ping().await.unwrap(), 1);
        }
        for _ in 0..2 {
            gate.send(()).unwrap();
        }
        for call in blocked {
            call.await.unwrap().unwrap();
        }
    };
    bounded(test).await;
}
