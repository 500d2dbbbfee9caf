//! Streams: back-pressure end to end with bounded memory, half close, all sizes, and who waits for whom.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use sinew::{CancelCause, Code, Cx, Server, Status, Streaming, service};

use crate::support::fixture::{Fixture, Served};
use crate::support::probe::{Event, Events, Probe, probe};
use crate::support::{across_fixtures, bounded};

/// Bytes of an item of the streams that are counted.
const ITEM: usize = 32 * 1024;
/// What one stream may hold unread in all: the window of the stream (1 MiB and 64 KiB), what its sender queues (128 KiB), one batch, one item.
const HELD_BYTES_MAX: usize = 1_500 * 1024;

#[service(name = "streaming.Streams")]
pub(crate) trait Streams {
    async fn ping(&self, size: usize) -> Bytes;
    /// Items without end.
    async fn endless(&self) -> Result<Streaming<Bytes>, Status>;
    /// Reads `read` items, then stops reading without hanging up.
    async fn stalls(&self, read: usize, items: Streaming<Bytes>) -> Result<usize, Status>;
    async fn sizes(&self, sizes: Vec<usize>) -> Result<Streaming<Bytes>, Status>;
    async fn total(&self, items: Streaming<Bytes>) -> Result<(usize, usize), Status>;
    /// Answers only when the client has ended its half.
    async fn after_half_close(&self, items: Streaming<u64>) -> Result<Streaming<u64>, Status>;
    async fn echo(&self, items: Streaming<Bytes>) -> Result<Streaming<Bytes>, Status>;
    async fn fails_after(&self, cx: &Cx, items: u64) -> Result<Streaming<u64>, Status>;
}

#[derive(Clone, Default)]
struct Source {
    made: Arc<AtomicUsize>,
}

impl Streams for Source {
    async fn ping(&self, size: usize) -> Bytes {
        Bytes::from(vec![0; size])
    }
    async fn endless(&self) -> Result<Streaming<Bytes>, Status> {
        let made = Arc::clone(&self.made);
        Ok(Streaming::from(counted(made)))
    }
    async fn stalls(&self, read: usize, mut items: Streaming<Bytes>) -> Result<usize, Status> {
        for _ in 0..read {
            items.next().await.expect("endless")?;
        }
        std::future::pending().await
    }
    async fn sizes(&self, sizes: Vec<usize>) -> Result<Streaming<Bytes>, Status> {
        Ok(Streaming::iter(
            sizes.into_iter().map(|size| Bytes::from(vec![3; size])),
        ))
    }
    async fn total(&self, mut items: Streaming<Bytes>) -> Result<(usize, usize), Status> {
        let (mut count, mut bytes) = (0, 0);
        while let Some(item) = items.next().await {
            count += 1;
            bytes += item?.len();
        }
        Ok((count, bytes))
    }
    async fn after_half_close(&self, mut items: Streaming<u64>) -> Result<Streaming<u64>, Status> {
        let (sender, replies) = Streaming::channel(1);
        tokio::spawn(async move {
            let mut sum = 0;
            while let Some(item) = items.next().await {
                sum += item.unwrap();
            }
            for reply in [sum, sum + 1, sum + 2] {
                sender.send(reply).await.unwrap();
            }
        });
        Ok(replies)
    }
    async fn echo(&self, items: Streaming<Bytes>) -> Result<Streaming<Bytes>, Status> {
        Ok(items)
    }
    async fn fails_after(&self, cx: &Cx, items: u64) -> Result<Streaming<u64>, Status> {
        cx.set_trailer("sent", items.to_string()).map_err(|error| Status::internal(error.to_string()))?;
        let failure = stream::once(async { Err(Status::data_loss("it broke")) });
        Ok(Streaming::from(stream::iter((0..items).map(Ok)).chain(failure)))
    }
}

/// Items without end, counted as they are made.
fn counted(made: Arc<AtomicUsize>) -> impl futures_util::Stream<Item = Result<Bytes, Status>> + Send + 'static {
    stream::repeat_with(move || {
        made.fetch_add(1, Ordering::Relaxed);
        Ok(Bytes::from(vec![9; ITEM]))
    })
}

async fn start(fixture: Fixture) -> (StreamsClient, Source, Served) {
    let source = Source::default();
    let served = fixture.serve(Server::builder().service(StreamsServer::new(source.clone()))).await;
    (StreamsClient::from_channel(served.channel.clone()), source, served)
}

across_fixtures!(
    items_of_every_size_in_both_directions,
    streams_of_no_and_of_one_item,
    many_small_items,
    half_close,
    an_error_comes_behind_the_items,
    items_one_at_a_time,
);

async fn items_of_every_size_in_both_directions(fixture: Fixture) {
    let (client, _source, _served) = start(fixture).await;
    let mut sizes = vec![0, 1, 4_095, 4_096, 4_097, 40_000, 65_536, 7];
    if fixture != Fixture::TcpByOneByte {
        sizes.extend([1_200_000, 3, 4_000_000, 0]);
    }
    let items = client.sizes(sizes.clone()).await.unwrap().collect().await.unwrap();
    assert_eq!(items.iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
    let upload: Vec<Bytes> = items.clone();
    let total = sizes.iter().sum();
    assert_eq!(
        client.total(Streaming::iter(upload.clone())).await.unwrap(),
        (sizes.len(), total)
    );
    assert_eq!(
        client.echo(Streaming::iter(upload)).await.unwrap().collect().await.unwrap(),
        items
    );
}

async fn streams_of_no_and_of_one_item(fixture: Fixture) {
    let (client, _source, _served) = start(fixture).await;
    assert!(client.sizes(vec![]).await.unwrap().collect().await.unwrap().is_empty());
    assert_eq!(client.sizes(vec![5]).await.unwrap().collect().await.unwrap().len(), 1);
    assert_eq!(client.total(Streaming::empty()).await.unwrap(), (0, 0));
    assert_eq!(
        client.total(Streaming::iter([Bytes::from_static(b"one")])).await.unwrap(),
        (1, 3)
    );
    assert!(client.echo(Streaming::iter([])).await.unwrap().next().await.is_none());
}

async fn many_small_items(fixture: Fixture) {
    let (client, _source, _served) = start(fixture).await;
    let count = fixture.rounds(100_000);
    let items = (0..count).map(|at| Bytes::from(at.to_be_bytes().to_vec()));
    let mut echoed = client.echo(Streaming::iter(items)).await.unwrap();
    let mut at = 0_usize;
    while let Some(item) = echoed.next().await {
        assert_eq!(item.unwrap()[..], at.to_be_bytes());
        at += 1;
    }
    assert_eq!(at, count);
}

async fn half_close(fixture: Fixture) {
    let (client, _source, _served) = start(fixture).await;
    let (sender, items) = Streaming::channel(1);
    let mut replies = client.after_half_close(items).await.unwrap();
    sender.send(20).await.unwrap();
    sender.send(22).await.unwrap();
    drop(sender);
    for expected in 42..45 {
        assert_eq!(replies.next().await.unwrap().unwrap(), expected);
    }
    assert!(replies.next().await.is_none());
}

async fn an_error_comes_behind_the_items(fixture: Fixture) {
    let (client, _source, _served) = start(fixture).await;
    for count in [0, 1, 2_000] {
        let mut items = client.fails_after(count).await.unwrap();
        for expected in 0..count {
            assert_eq!(items.next().await.unwrap().unwrap(), expected);
        }
        let status = items.next().await.unwrap().unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::DataLoss, "it broke"));
        assert_eq!(
            status.metadata().get("sent"),
            Some(&*count.to_string()),
            "trailers come with the error"
        );
        assert!(items.next().await.is_none());
    }
}

async fn items_one_at_a_time(fixture: Fixture) {
    let (client, _source, _served) = start(fixture).await;
    let (sender, items) = Streaming::channel(1);
    let mut echoed = client.echo(items).await.unwrap();
    for size in [0, 10, 5_000, 100_000] {
        sender.send(Bytes::from(vec![1; size])).await.unwrap();
        assert_eq!(echoed.next().await.unwrap().unwrap().len(), size);
    }
}

/// Waits until nothing moves any more: the paused clock only advances when every task waits.
async fn settled() {
    tokio::time::sleep(Duration::from_millis(100)).await;
}

/// A reader that does not read stops the producer; when it reads on, so does the producer.
#[tokio::test(start_paused = true)]
async fn a_slow_reader_stops_the_producer() {
    let (client, source, _served) = start(Fixture::Mem).await;
    let mut items = client.endless().await.unwrap();
    items.next().await.unwrap().unwrap();
    settled().await;
    let held = source.made.load(Ordering::Relaxed);
    assert!(held * ITEM <= HELD_BYTES_MAX, "{held} items were made and one was read");
    settled().await;
    assert_eq!(source.made.load(Ordering::Relaxed), held, "it rests");
    for _ in 0..500 {
        items.next().await.unwrap().unwrap();
    }
    settled().await;
    let made = source.made.load(Ordering::Relaxed);
    assert!(
        made >= 501 && (made - 501) * ITEM <= HELD_BYTES_MAX,
        "{made} items were made and 501 were read"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_handler_stops_the_uploading_client() {
    let (client, _source, _served) = start(Fixture::Mem).await;
    for read in [0, 200] {
        let made = Arc::new(AtomicUsize::new(0));
        let upload = client.stalls(read, Streaming::from(counted(Arc::clone(&made)))).detached();
        let call = tokio::spawn(upload.into_future());
        settled().await;
        let count = made.load(Ordering::Relaxed);
        assert!(
            count >= read && (count - read) * ITEM <= HELD_BYTES_MAX,
            "{count} items were made and {read} read"
        );
        call.abort();
    }
}

/// What lies between does not add up without bound: a relay that reads one stream and writes another passes the pressure on.
#[tokio::test(start_paused = true)]
async fn pressure_passes_through_an_echo() {
    let (client, _source, _served) = start(Fixture::Mem).await;
    let made = Arc::new(AtomicUsize::new(0));
    let mut echoed = client.echo(Streaming::from(counted(Arc::clone(&made)))).await.unwrap();
    echoed.next().await.unwrap().unwrap();
    settled().await;
    let count = made.load(Ordering::Relaxed);
    assert!(
        count * ITEM <= 2 * HELD_BYTES_MAX,
        "{count} items were made and one was read"
    );
}

/// The window of the connection bounds what all unread streams hold together.
#[tokio::test(start_paused = true)]
async fn many_slow_readers_are_bounded_together() {
    let (client, source, _served) = start(Fixture::Mem).await;
    let mut streams = Vec::new();
    for _ in 0..100 {
        streams.push(client.endless().await.unwrap());
    }
    settled().await;
    let held = source.made.load(Ordering::Relaxed) * ITEM;
    let queued = 100 * (128 + 64 + 32) * 1024;
    assert!(
        held <= 16 * 1024 * 1024 + queued,
        "{held} bytes were made and none read"
    );
}

/// An unread stream holds up nobody else on its connection.
#[tokio::test]
async fn a_slow_reader_does_not_block_other_calls() {
    for fixture in [Fixture::Tcp, Fixture::Unix, Fixture::Mem] {
        let (client, _source, served) = start(fixture).await;
        let test = async {
            let mut unread = Vec::new();
            for _ in 0..5 {
                unread.push(client.endless().await.unwrap());
            }
            let (_sender, silent) = Streaming::channel(1);
            let uploading = tokio::spawn(client.stalls(0, silent).into_future());
            for size in [0, 100, 100_000, 2_000_000] {
                assert_eq!(client.ping(size).await.unwrap().len(), size);
            }
            assert_eq!(served.serving.connections(), 1);
            uploading.abort();
        };
        bounded(test).await;
    }
}

/// Streams that were given up give back all the credit that they held.
#[tokio::test]
async fn cancelled_streams_give_their_credit_back() {
    let (client, _source, served) = start(Fixture::Tcp).await;
    let test = async {
        // Together they hold far more than the connection's window.
        for _ in 0..60 {
            let mut items = client.endless().await.unwrap();
            items.next().await.unwrap().unwrap();
            drop(items);
        }
        for _ in 0..20 {
            assert_eq!(client.ping(2_000_000).await.unwrap().len(), 2_000_000);
        }
        crate::support::until("no handler is left", || served.serving.running_handlers() == 0).await;
    };
    bounded(test).await;
}

/// An item above the limit ends its own stream.
#[tokio::test]
async fn an_item_above_the_limit_ends_its_own_stream() {
    let source = Source::default();
    let server = Server::builder().service(StreamsServer::new(source)).max_message_bytes(10_000);
    let served = Fixture::Tcp.serve(server).await;
    let client = StreamsClient::from_channel(served.channel.clone());
    client.ping(1).await.unwrap();
    let items = [1_000, 20_000, 1_000].map(|size| Bytes::from(vec![1; size]));
    let status = client.total(Streaming::iter(items)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert_eq!(client.ping(5).await.unwrap().len(), 5);
    assert_eq!(served.serving.connections(), 1);
}

#[service(name = "streaming.Leaver")]
trait Leaver {
    /// Answers at once, while a task goes on reading.
    async fn leave(&self, items: Streaming<u64>) -> u64;
    /// The same, and the answer is a stream.
    async fn stream(&self, items: Streaming<u64>) -> Result<Streaming<u64>, Status>;
}

struct Reads(tokio::sync::mpsc::UnboundedSender<Option<Status>>);

impl Reads {
    async fn spawn(&self, mut items: Streaming<u64>) {
        assert_eq!(items.next().await.unwrap().unwrap(), 1);
        let ends = self.0.clone();
        let (waits, waiting) = tokio::sync::oneshot::channel();
        tokio::spawn(async move {
            let mut next = Box::pin(items.next());
            assert!(crate::support::polled_once(&mut next).await.is_pending());
            waits.send(()).unwrap();
            let end = next.await.and_then(Result::err);
            ends.send(end).unwrap();
        });
        waiting.await.unwrap();
    }
}

impl Leaver for Reads {
    async fn leave(&self, items: Streaming<u64>) -> u64 {
        self.spawn(items).await;
        1
    }
    async fn stream(&self, items: Streaming<u64>) -> Result<Streaming<u64>, Status> {
        self.spawn(items).await;
        Ok(Streaming::iter([1]))
    }
}

/// A task that reads a request's stream when the call ends in order is told: the stream is cut off for it.
#[tokio::test]
async fn a_reader_does_not_outlive_its_call() {
    let (ends, mut ended) = tokio::sync::mpsc::unbounded_channel();
    let served = Fixture::Tcp.serve(Server::builder().service(LeaverServer::new(Reads(ends)))).await;
    let leaver = LeaverClient::from_channel(served.channel.clone());
    let (sender, items) = Streaming::channel(2);
    sender.send(1).await.unwrap();
    assert_eq!(leaver.leave(items).await.unwrap(), 1);
    let end = bounded(ended.recv()).await.unwrap();
    assert_eq!(end.expect("cut off").code(), Code::Cancelled);
    let (sender, items) = Streaming::channel(2);
    sender.send(1).await.unwrap();
    let mut replies = leaver.stream(items).await.unwrap();
    assert_eq!(replies.next().await.unwrap().unwrap(), 1);
    assert!(replies.next().await.is_none());
    let end = bounded(ended.recv()).await.unwrap();
    assert_eq!(end.expect("cut off").code(), Code::Cancelled);
}

#[service(name = "streaming.Idle")]
trait Idle {
    /// Three items, 400 ms apart, then nothing.
    async fn three(&self, cx: &Cx) -> Result<Streaming<u64>, Status>;
    /// Reads all items and answers `pause` ms after the last.
    async fn total(&self, pause: u64, items: Streaming<u64>) -> Result<u64, Status>;
    /// Never reads and never answers.
    async fn hold(&self, cx: &Cx, items: Streaming<Bytes>) -> Result<Streaming<u64>, Status>;
}

struct Slow(Probe);

fn slow(then: impl futures_util::Stream<Item = Result<u64, Status>> + Send + 'static) -> Streaming<u64> {
    let three = stream::iter(1..=3_u64).then(|item| async move {
        tokio::time::sleep(Duration::from_millis(400)).await;
        Ok(item)
    });
    Streaming::from(three.chain(then))
}

impl Idle for Slow {
    async fn three(&self, cx: &Cx) -> Result<Streaming<u64>, Status> {
        let guard = self.0.began(cx);
        Ok(slow(stream::pending().inspect(move |_| {
            let _held = &guard;
        })))
    }
    async fn total(&self, pause: u64, mut items: Streaming<u64>) -> Result<u64, Status> {
        let mut total = 0;
        while let Some(item) = items.next().await {
            total += item?;
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(total)
    }
    async fn hold(&self, cx: &Cx, items: Streaming<Bytes>) -> Result<Streaming<u64>, Status> {
        let guard = self.0.began(cx);
        Ok(Streaming::from(stream::pending().inspect(
            move |_: &Result<u64, Status>| {
                let _held = (&guard, &items);
            },
        )))
    }
}

async fn idle() -> (Served, IdleClient, Events) {
    let (probe, events) = probe();
    let served = Fixture::Mem.serve(Server::builder().service(IdleServer::new(Slow(probe)))).await;
    let client = IdleClient::from_channel(served.channel.clone());
    client.channel().wait_ready().await.unwrap();
    (served, client, events)
}

#[tokio::test(start_paused = true)]
async fn a_response_that_waits_longer_than_the_idle_time_out_ends() {
    let (_served, client, mut events) = idle().await;
    let mut items = client.three().idle_timeout("1s").await.unwrap();
    assert_eq!(events.next().await, Event::Began);
    for item in 1..=3 {
        assert_eq!(items.next().await.unwrap().unwrap(), item);
        // A user who is slow to ask is not held against the stream.
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    let asked = tokio::time::Instant::now();
    let status = items.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("no item came for 1s"), "{status}");
    assert!(
        (1_000..1_010).contains(&asked.elapsed().as_millis()),
        "{:?}",
        asked.elapsed()
    );
    assert!(items.next().await.is_none());
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    // Without one a stream may take its time.
    let mut items = client.three().await.unwrap();
    for item in 1..=3 {
        assert_eq!(items.next().await.unwrap().unwrap(), item);
    }
    assert!(tokio::time::timeout(Duration::from_secs(3600), items.next()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_longer_than_the_idle_time_out_ends() {
    let (_served, client, mut events) = idle().await;
    // Its source gives nothing.
    let began = tokio::time::Instant::now();
    let call = client.total(0, slow(stream::pending())).timeout("1h").idle_timeout("1s");
    let status = call.await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("no item was sent for 1s"), "{status}");
    assert!(
        (2_200..2_220).contains(&began.elapsed().as_millis()),
        "{:?}",
        began.elapsed()
    );
    // The server takes nothing; the answer is a stream.
    let endless = Streaming::iter(std::iter::repeat_with(|| Bytes::from(vec![0; ITEM])));
    let mut items = client.hold(endless).idle_timeout("1s").await.unwrap();
    assert_eq!(events.next().await, Event::Began);
    tokio::time::sleep(Duration::from_secs(2)).await;
    let status = items.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert!(status.message().contains("no item was sent for 1s"), "{status}");
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    // A request that is complete is not idle, however long the answer takes.
    let call = client.total(5_000, slow(stream::empty())).timeout("1h").idle_timeout("1s");
    assert_eq!(call.await.unwrap(), 6);
}

#[tokio::test]
async fn an_idle_time_out_is_a_time() {
    let (_served, client, _) = idle().await;
    for wrong in ["0s", "soon"] {
        let status = client.three().idle_timeout(wrong).await.map(|_| ()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // One that no clock reaches is none.
    let mut items = client.three().idle_timeout(Duration::MAX).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
}
