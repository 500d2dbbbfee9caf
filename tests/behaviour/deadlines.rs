//! Deadlines: they travel, hold on both sides whatever the other one does, and reach nested calls.

use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::stream;
use sinew::wire::method_id;
use sinew::{CancelCause, Channel, Code, Cx, HandlerRan, Server, Status, Streaming, service};

use crate::support::fixture::{Fixture, Served};
use crate::support::hand::{END, FIN, Hand, OPEN, channel_to_hand, message};
use crate::support::probe::{Event, Events, Probe, probe};
use crate::support::{across_fixtures, bounded, until};

#[service(name = "deadlines.Sleepy")]
pub(crate) trait Sleepy {
    async fn ping(&self) -> u64;
    /// Waits for ever.
    async fn sleep(&self, cx: &Cx);
    #[rpc(timeout = "700ms")]
    async fn sleep_a_little(&self, cx: &Cx);
    async fn sleep_in_a_stream(&self, cx: &Cx) -> Result<Streaming<u64>, Status>;
    async fn sleep_over_items(&self, cx: &Cx, items: Streaming<u64>) -> Result<u64, Status>;
    /// Blocks its thread until the test lets it go.
    async fn block(&self, cx: &Cx);
    #[rpc(spawn)]
    async fn block_in_a_task(&self, cx: &Cx);
    #[rpc(blocking)]
    async fn block_in_the_pool(&self, cx: &Cx);
    /// Blocks its thread until its caller is gone.
    async fn block_until_cancelled(&self, cx: &Cx);
}

pub(crate) struct Bed {
    probe: Probe,
    gate: Mutex<mpsc::Receiver<()>>,
}

impl Bed {
    fn block_here(&self, cx: &Cx) {
        let _guard = self.probe.began(cx);
        // The test is over if it hung up; there is nothing to wait for then.
        let _over = self.gate.lock().unwrap().recv();
    }
}

impl Sleepy for Bed {
    async fn ping(&self) -> u64 {
        1
    }
    async fn sleep(&self, cx: &Cx) {
        let _guard = self.probe.began(cx);
        std::future::pending::<()>().await;
    }
    async fn sleep_a_little(&self, cx: &Cx) {
        self.sleep(cx).await;
    }
    async fn sleep_in_a_stream(&self, cx: &Cx) -> Result<Streaming<u64>, Status> {
        let guard = self.probe.began(cx);
        let items = stream::poll_fn(move |_| {
            let _held_as_long_as_the_stream = &guard;
            std::task::Poll::Pending
        });
        Ok(Streaming::from(items))
    }
    async fn sleep_over_items(&self, cx: &Cx, mut items: Streaming<u64>) -> Result<u64, Status> {
        let _guard = self.probe.began(cx);
        let mut read = 0;
        while let Some(item) = items.next().await {
            read += item?;
        }
        Ok(read)
    }
    async fn block(&self, cx: &Cx) {
        self.block_here(cx);
    }
    async fn block_in_a_task(&self, cx: &Cx) {
        self.block_here(cx);
    }
    async fn block_in_the_pool(&self, cx: &Cx) {
        self.block_here(cx);
    }
    async fn block_until_cancelled(&self, cx: &Cx) {
        let _guard = self.probe.began(cx);
        while !cx.is_cancelled() {
            std::thread::yield_now();
        }
    }
}

/// A server of the bed; the sender lets one blocked handler go.
pub(crate) fn bed() -> (SleepyServer<Bed>, Events, mpsc::Sender<()>) {
    let (probe, events) = probe();
    let (gate, receiver) = mpsc::channel();
    let bed = Bed {
        probe,
        gate: Mutex::new(receiver),
    };
    (SleepyServer::new(bed), events, gate)
}

/// Long enough for a call over a connection that is there to reach its handler, however busy the machine.
const SHORT: &str = "1s";

async fn start(fixture: Fixture) -> (SleepyClient, Served, Events, mpsc::Sender<()>) {
    let (service, events, gate) = bed();
    let served = fixture.serve(Server::builder().service(service)).await;
    (SleepyClient::from_channel(served.channel.clone()), served, events, gate)
}

across_fixtures!(
    a_late_call_ends_on_both_sides,
    a_late_stream_ends_on_both_sides,
    a_late_upload_ends_on_both_sides
);

async fn ended_at_the_server(served: &Served, events: &mut Events) {
    assert_eq!(events.next().await, Event::Began);
    let Event::Dropped(Some(cause)) = events.next().await else {
        panic!("the handler is told why")
    };
    // The client's own deadline is a tick earlier, and its RESET may win.
    assert!(
        matches!(cause, CancelCause::DeadlineExceeded | CancelCause::ClientCancelled),
        "{cause:?}"
    );
    until("no handler is left", || served.serving.running_handlers() == 0).await;
}

async fn a_late_call_ends_on_both_sides(fixture: Fixture) {
    let (client, served, mut events, _gate) = start(fixture).await;
    client.ping().await.unwrap();
    let status = client.sleep().timeout(SHORT).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_ne!(status.handler_ran(), HandlerRan::No);
    ended_at_the_server(&served, &mut events).await;
    assert_eq!(client.ping().await.unwrap(), 1);
}

async fn a_late_stream_ends_on_both_sides(fixture: Fixture) {
    let (client, served, mut events, _gate) = start(fixture).await;
    client.ping().await.unwrap();
    let mut items = client.sleep_in_a_stream().timeout(SHORT).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert!(items.next().await.is_none());
    ended_at_the_server(&served, &mut events).await;
    assert_eq!(client.ping().await.unwrap(), 1);
}

async fn a_late_upload_ends_on_both_sides(fixture: Fixture) {
    let (client, served, mut events, _gate) = start(fixture).await;
    client.ping().await.unwrap();
    let (sender, items) = Streaming::channel(1);
    let call = tokio::spawn(client.sleep_over_items(items).timeout(SHORT).into_future());
    sender.send(1).await.unwrap();
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    sender.closed().await;
    ended_at_the_server(&served, &mut events).await;
}

/// The same three through `local`.
#[tokio::test(start_paused = true)]
async fn local_calls_end_at_their_deadline() {
    let (service, mut events, _gate) = bed();
    let client = SleepyClient::from_channel(Channel::local(service));
    assert_eq!(
        client.sleep().timeout("1s").await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    assert_eq!(events.next().await, Event::Began);
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::DeadlineExceeded)));
    let mut items = client.sleep_in_a_stream().timeout("1s").await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap_err().code(), Code::DeadlineExceeded);
    assert_eq!(events.next().await, Event::Began);
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::DeadlineExceeded)));
    let (_sender, items) = Streaming::channel(1);
    let status = client.sleep_over_items(items).timeout("1s").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
}

/// A client that neither cancels nor hangs up: the server ends the call by itself, at the deadline in the head or at the method's own.
#[tokio::test(start_paused = true)]
async fn the_server_enforces_the_deadline_alone() {
    for (method, in_head, enforced) in [
        ("deadlines.Sleepy/sleep", 700_u32, 700_u128),
        ("deadlines.Sleepy/sleep_a_little", 0, 700),
        ("deadlines.Sleepy/sleep_a_little", 60_000, 700),
        ("deadlines.Sleepy/sleep_a_little", 300, 300),
    ] {
        let (service, mut events, _gate) = bed();
        let serving = Server::builder().service(service).start().await.unwrap();
        let (ours, theirs) = Fixture::Mem.ends().await;
        serving.accept(theirs);
        let mut hand = Hand::greet(ours, &[]).await;
        let began = tokio::time::Instant::now();
        let mut open = method_id(method).to_be_bytes().to_vec();
        open.extend_from_slice(&in_head.to_be_bytes());
        open.extend_from_slice(&[0, 0]);
        open.extend_from_slice(&message(&[0x90]));
        hand.send(OPEN | FIN, 1, &open).await;
        let end = hand.read_kind(END).await.unwrap();
        assert_eq!((end.stream, end.payload[0]), (1, Code::DeadlineExceeded.as_u8()));
        let took = began.elapsed().as_millis();
        assert!(
            (enforced..enforced + 5).contains(&took),
            "{method} with {in_head} ms in its head took {took} ms"
        );
        assert_eq!(events.next().await, Event::Began);
        assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::DeadlineExceeded)));
    }
}

/// A server that never answers: the client ends the call by itself.
#[tokio::test(start_paused = true)]
async fn the_client_enforces_the_deadline_alone() {
    let (channel, mut connections) = channel_to_hand(Fixture::Mem);
    let client = SleepyClient::from_channel(channel);
    let began = tokio::time::Instant::now();
    let call = tokio::spawn(client.ping().timeout("3s").into_future());
    let mut hand = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    hand.request().await.unwrap();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::DeadlineExceeded, HandlerRan::Maybe)
    );
    let took = began.elapsed();
    assert!(
        (3_000..3_005).contains(&took.as_millis()),
        "neither early nor late: {took:?}"
    );
}

#[tokio::test]
async fn a_deadline_that_has_passed_sends_nothing() {
    let (client, served, mut events, _gate) = start(Fixture::Mem).await;
    let past = Cx::new().with_timeout(Duration::ZERO).unwrap();
    for status in [
        client.sleep().timeout("0s").await.unwrap_err(),
        client.sleep().within(&past).await.unwrap_err(),
        client.sleep_in_a_stream().within(&past).await.unwrap_err(),
    ] {
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::DeadlineExceeded, HandlerRan::No)
        );
    }
    assert!(events.is_empty());
    assert_eq!(served.serving.connections(), 0, "it did not even connect");
}

/// A handler that does not listen to its deadline: its caller is released in time, and it is counted until it really ends.
async fn is_counted_until_it_ends(call: impl Fn(&SleepyClient) -> sinew::Call<(), Status>) {
    let (service, mut events, gate) = bed();
    let server = Server::builder().service(service).max_calls_per_connection(2);
    let served = Fixture::Tcp.serve(server).await;
    let client = SleepyClient::from_channel(served.channel.clone());
    client.ping().await.unwrap();
    assert_eq!(
        call(&client).timeout(SHORT).await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    assert_eq!(events.next().await, Event::Began);
    until("the handler is counted", || served.serving.running_handlers() == 1).await;
    // One of two places is still taken; the other one serves.
    for _ in 0..10 {
        assert_eq!(client.ping().await.unwrap(), 1);
    }
    let second = call(&client).timeout(SHORT).await.unwrap_err();
    assert_eq!(second.code(), Code::DeadlineExceeded);
    until("both handlers are counted", || served.serving.running_handlers() == 2).await;
    // Both places are taken by handlers whose callers are long gone: the server refuses, and says that it did not run the call.
    // The first of these may share a read with the RESET that it follows, and still find the place free.
    let refused = loop {
        if let Err(status) = client.ping().await {
            break status;
        }
    };
    assert_eq!(
        (refused.code(), refused.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    gate.send(()).unwrap();
    gate.send(()).unwrap();
    until("no handler is left", || served.serving.running_handlers() == 0).await;
    for _ in 0..10 {
        assert_eq!(client.ping().await.unwrap(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_blocking_handler_in_the_pool_is_counted_until_it_ends() {
    bounded(is_counted_until_it_ends(SleepyClient::block_in_the_pool)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_task_is_counted_until_it_ends() {
    bounded(is_counted_until_it_ends(SleepyClient::block_in_a_task)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_connections_task_is_counted_until_it_ends() {
    bounded(is_counted_until_it_ends(SleepyClient::block)).await;
}

/// The worker that such a handler blocks may be the one that waits for the sockets of its runtime, and then nobody does.
#[test]
fn a_handler_that_blocks_its_own_task_stalls_no_socket() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (of_server, of_client) = (runtime(), runtime());
    let (service, mut events, gate) = bed();
    let server = Server::builder().service(service).bind("127.0.0.1:0");
    let serving = of_server.block_on(of_server.spawn(server.start())).unwrap().unwrap();
    of_client.block_on(bounded(async {
        let client = SleepyClient::connect(&serving.target()).await.unwrap();
        for _ in 0..5 {
            let blocked = tokio::spawn(client.block_in_a_task().timeout("1h").into_future());
            assert_eq!(events.next().await, Event::Began);
            assert_eq!(client.ping().timeout("20s").await.unwrap(), 1);
            gate.send(()).unwrap();
            blocked.await.unwrap().unwrap();
            assert_eq!(events.next().await, Event::Dropped(None));
        }
    }));
}

/// A handler that computes may ask whether anybody still waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_that_computes_learns_of_its_deadline() {
    let (client, served, mut events, _gate) = start(Fixture::Tcp).await;
    let test = async {
        client.ping().await.unwrap();
        let status = client.block_until_cancelled().timeout(SHORT).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        ended_at_the_server(&served, &mut events).await;
    };
    bounded(test).await;
}

/// Calls the leaf in every way in which a handler may.
#[service(name = "deadlines.Nested")]
pub(crate) trait Nested {
    async fn direct(&self) -> Result<Option<u64>, Status>;
    async fn carried(&self) -> Result<Option<u64>, Status>;
    async fn spawned(&self) -> Result<Option<u64>, Status>;
    async fn detached(&self) -> Result<Option<u64>, Status>;
    async fn in_a_stream(&self) -> Result<Streaming<Option<u64>>, Status>;
    async fn in_a_slow_stream(&self) -> Result<Streaming<Option<u64>>, Status>;
}

#[service(name = "deadlines.Leaf")]
pub(crate) trait Leaf {
    async fn time_left(&self, cx: &Cx) -> Option<u64>;
}

#[derive(Clone)]
struct Tree {
    leaf: LeafClient,
}

impl Leaf for () {
    async fn time_left(&self, cx: &Cx) -> Option<u64> {
        cx.time_left().map(|left| u64::try_from(left.as_millis()).unwrap())
    }
}

impl Nested for Tree {
    async fn direct(&self) -> Result<Option<u64>, Status> {
        self.leaf.time_left().await
    }
    async fn carried(&self) -> Result<Option<u64>, Status> {
        let leaf = self.leaf.clone();
        tokio::spawn(Cx::carry(async move { leaf.time_left().await })).await.unwrap()
    }
    async fn spawned(&self) -> Result<Option<u64>, Status> {
        let leaf = self.leaf.clone();
        tokio::spawn(async move { leaf.time_left().await }).await.unwrap()
    }
    async fn detached(&self) -> Result<Option<u64>, Status> {
        self.leaf.time_left().detached().await
    }
    async fn in_a_stream(&self) -> Result<Streaming<Option<u64>>, Status> {
        Ok(nested_items(self.leaf.clone(), false))
    }
    async fn in_a_slow_stream(&self) -> Result<Streaming<Option<u64>>, Status> {
        Ok(nested_items(self.leaf.clone(), true))
    }
}

/// Two items, each made by a nested call while the stream is sent.
fn nested_items(leaf: LeafClient, slow: bool) -> Streaming<Option<u64>> {
    Streaming::from(stream::unfold(0, move |made| {
        let leaf = leaf.clone();
        async move {
            if slow {
                tokio::task::yield_now().await;
            }
            (made < 2).then_some(())?;
            Some((leaf.time_left().await, made + 1))
        }
    }))
}

#[tokio::test(start_paused = true)]
async fn nested_calls_inherit_the_deadline() {
    let leaves = Fixture::Mem.serve(Server::builder().service(LeafServer::new(()))).await;
    let tree = Tree {
        leaf: LeafClient::from_channel(leaves.channel.clone()),
    };
    let served = Fixture::Mem.serve(Server::builder().service(NestedServer::new(tree.clone()))).await;
    for client in [
        NestedClient::from_channel(served.channel.clone()),
        NestedClient::local(tree),
    ] {
        assert_eq!(client.direct().timeout("4s").await.unwrap(), Some(4_000));
        assert_eq!(
            client.carried().timeout("4s").await.unwrap(),
            Some(4_000),
            "by `Cx::carry`"
        );
        assert_eq!(
            client.spawned().timeout("4s").await.unwrap(),
            Some(10_000),
            "not without it"
        );
        assert_eq!(client.detached().timeout("4s").await.unwrap(), None);
        for items in [
            client.in_a_stream().timeout("4s").await.unwrap(),
            client.in_a_slow_stream().timeout("4s").await.unwrap(),
        ] {
            assert_eq!(
                items.collect().await.unwrap(),
                [Some(4_000); 2],
                "while a stream is sent"
            );
        }
    }
}

/// Nothing of a call's context is left on the thread for the next one.
#[tokio::test]
async fn the_ambient_context_ends_with_the_handler() {
    let seen: Arc<Mutex<Vec<bool>>> = Arc::default();
    let (client, _served, _events, _gate) = start(Fixture::Tcp).await;
    client.ping().timeout("5s").await.unwrap();
    seen.lock().unwrap().push(Cx::current().is_some());
    tokio::spawn({
        let seen = Arc::clone(&seen);
        async move { seen.lock().unwrap().push(Cx::current().is_some()) }
    })
    .await
    .unwrap();
    assert_eq!(*seen.lock().unwrap(), [false, false]);
}

#[service(name = "deadlines.Burner")]
trait Burner {
    /// Takes a second of the one thread that there is.
    #[rpc(spawn)]
    async fn burn(&self);
}

#[derive(Clone, Default)]
struct Furnace(Arc<AtomicU32>);

impl Burner for Furnace {
    async fn burn(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
        // The clock moves in the first poll, and nobody else runs.
        let went_by = pin!(tokio::time::advance(Duration::from_secs(1)));
        let _moved = went_by.poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// What nobody waits for any more is not begun: in an overload that would be all that is done.
#[tokio::test(start_paused = true)]
async fn a_call_whose_time_is_up_before_its_turn_is_not_begun() {
    bounded(async {
        let furnace = Furnace::default();
        let name = crate::support::fixture::unique("burner");
        let server = Server::builder().service(BurnerServer::new(furnace.clone())).bind(format!("mem:{name}"));
        let server = server.start().await.unwrap();
        let client = BurnerClient::connect(&server.target()).await.unwrap();
        let calls: Vec<_> = (0..10)
            .map(|_| tokio::spawn(client.burn().timeout(Duration::from_millis(2_500)).into_future()))
            .collect();
        for call in calls {
            let outcome = call.await.unwrap();
            assert!(outcome.is_ok() || outcome.is_err_and(|status| status.code() == Code::DeadlineExceeded));
        }
        // Those that arrive while the first one runs have a second more.
        let begun = furnace.0.load(Ordering::SeqCst);
        assert!((2..=4).contains(&begun), "{begun} of ten");
        until("none runs", || server.running_handlers() == 0).await;
    })
    .await;
}
