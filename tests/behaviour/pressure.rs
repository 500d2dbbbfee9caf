//! More load than buffers hold, in both directions at once: everything is answered, and nobody waits for the other for ever.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use sinew::transport::{ByteStream, SharedWrite};
use sinew::{Drain, Server, service};
use tokio::io::{AsyncRead, ReadBuf};

use crate::support::bounded;
use crate::support::fixture::Fixture;
use crate::support::hand::{CREDIT, FIN, HELLO, Hand, OPEN, frame, message};

#[service]
trait Mirror {
    /// The same bytes.
    async fn echo(&self, bytes: Bytes) -> Bytes;
    /// A million bytes that lie ready.
    async fn million(&self) -> Bytes;
}

static MILLION: [u8; 1_000_000] = [7; 1_000_000];
static BEGUN: AtomicUsize = AtomicUsize::new(0);

struct Glass;

#[service]
impl Mirror for Glass {
    async fn echo(&self, bytes: Bytes) -> Bytes {
        bytes
    }
    async fn million(&self) -> Bytes {
        BEGUN.fetch_add(1, Ordering::Relaxed);
        Bytes::from_static(&MILLION)
    }
}

/// A thousand calls of 4 kB at once through pipes of 256 KiB: requests pile up at the client and answers at the server.
#[tokio::test]
async fn requests_that_pile_up_do_not_keep_a_client_from_reading() {
    let server = Server::builder().service(MirrorServer::new(Glass)).bind("mem:pressure").start().await.unwrap();
    let client = MirrorClient::connect(&server.target()).await.unwrap();
    let callers: Vec<_> = (0..1_000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let bytes = Bytes::from_static(&[7; 4_000]);
                    assert_eq!(client.echo(bytes.clone()).timeout("60s").await.unwrap(), bytes);
                }
            })
        })
        .collect();
    for caller in callers {
        tokio::time::timeout(Duration::from_secs(60), caller)
            .await
            .expect("both sides wait for each other")
            .unwrap();
    }
}

/// A client that does not take its answers does not get any more made; when it takes them, it does.
#[tokio::test]
async fn no_handler_begins_while_too_many_answers_wait() {
    let server = Server::builder().service(MirrorServer::new(Glass)).start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    server.accept(theirs);
    let mut hand = Hand::greet(ours, &[]).await;
    let method = sinew::wire::method_id("Mirror/million").to_be_bytes();
    let call = [&method[..], &[0; 6], &message(&[0x90])].concat();
    for stream in 1..=300 {
        hand.send(OPEN | FIN, stream, &call).await;
    }
    // Whatever can happen without credit has happened when this does not change any more.
    let mut begun = 0;
    bounded(async {
        loop {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let now = BEGUN.load(Ordering::Relaxed);
            if now > 0 && std::mem::replace(&mut begun, now) == now {
                break;
            }
        }
    })
    .await;
    // Sixteen MiB of answers, and those that were begun before the first was there.
    assert!((17..150).contains(&begun), "{begun}");
    let mut ended = 0;
    while ended < 300 {
        let frame = bounded(hand.read()).await.expect("the connection lives");
        ended += u32::from(frame.fin);
        if !frame.payload.is_empty() && frame.stream > 0 {
            let bytes = u32::try_from(frame.payload.len()).unwrap().to_be_bytes();
            hand.send_all(&[(CREDIT, frame.stream, &bytes), (CREDIT, 0, &bytes)]).await;
        }
    }
    assert_eq!(BEGUN.load(Ordering::Relaxed), 300);
}

/// Calls until the server takes nothing more; nothing is read. Returns the last stream, and what of its OPEN was not taken.
async fn deafen(hand: &Hand, call: &[u8]) -> (u32, Vec<u8>) {
    let (mut stream, mut rest, mut idle) = (0, Vec::new(), 0);
    while idle < 1_000 {
        if rest.is_empty() {
            stream += 1;
            rest = frame(OPEN | FIN, stream, call);
        }
        let left = hand.offer(&rest).len();
        idle = if left < rest.len() { 0 } else { idle + 1 };
        rest.drain(..rest.len() - left);
        if idle > 0 {
            tokio::task::yield_now().await;
        }
        assert!(stream < 200_000, "the server reads on, though nobody takes its answers");
    }
    (stream, rest)
}

/// A call of `method` with these arguments, as the payload of an OPEN.
fn call(method: &str, arguments: &[u8]) -> Vec<u8> {
    [&sinew::wire::method_id(method).to_be_bytes()[..], &[0; 6], arguments].concat()
}

/// More than any answers need.
const CREDIT_ENOUGH: (&str, u32) = ("connection_window", 1 << 30);

/// A client that asks without reading: once a MiB of answers is unsent, the server reads nothing more. When the client reads, it gets them all.
#[tokio::test]
async fn a_client_that_does_not_read_is_not_heard() {
    let echo = message(&[&[0x91, 0xc4, 100][..], &[7; 100]].concat());
    for (call, answer_bytes) in [
        // Answers that credit would stop before they are many; this client gives enough.
        (call("Mirror/echo", &echo), 8 + 2 + 4 + 102),
        // Refusals, which need no credit.
        (call("Mirror/nothing", &message(&[0x90])), 8 + 4 + 40),
    ] {
        let server = Server::builder().service(MirrorServer::new(Glass)).start().await.unwrap();
        let (ours, theirs) = Fixture::Mem.ends().await;
        server.accept(theirs);
        let mut hand = Hand::greet(ours, &[CREDIT_ENOUGH]).await;
        let (stream, mut rest) = deafen(&hand, &call).await;
        // What is unsent, what the pipe holds in either direction, and what one read brought.
        let requests = (256 * 1024 + 64 * 1024) / (8 + call.len());
        let most = (1024 * 1024 + 256 * 1024) / answer_bytes + 2 * requests;
        assert!(stream as usize > 1024 * 1024 / 200, "only {stream} calls were taken");
        assert!(
            stream as usize <= most,
            "{stream} calls were taken, {most} is what may be"
        );
        let mut answered = 0;
        while answered < stream - 1 {
            let answer = bounded(hand.read()).await.expect("the connection lives");
            answered += u32::from(answer.fin);
            let left = hand.offer(&rest).len();
            rest.drain(..rest.len() - left);
        }
    }
}

/// A server whose last words nobody takes ends in time all the same.
#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_a_client_that_does_not_read() {
    let drain = Drain::default().lame_duck("0s").within("1s");
    let server = Server::builder().service(MirrorServer::new(Glass)).drain(drain).start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    server.accept(theirs);
    let hand = Hand::greet(ours, &[CREDIT_ENOUGH]).await;
    deafen(&hand, &call("Mirror/nothing", &message(&[0x90]))).await;
    let began = tokio::time::Instant::now();
    bounded(server.shutdown()).await;
    assert!(began.elapsed() <= Duration::from_secs(4), "{:?}", began.elapsed());
}

/// A peer that always has more to say, in small calls, and takes every answer at once.
struct Endless {
    bytes: Vec<u8>,
    at: usize,
    stream: u32,
    delivered: Arc<AtomicUsize>,
}

/// What it says before it hangs up.
const ENDLESS_BYTES: usize = 8 * 1024 * 1024;

impl AsyncRead for Endless {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.delivered.load(Ordering::Relaxed) > ENDLESS_BYTES {
            return Poll::Ready(Ok(()));
        }
        while buffer.remaining() > 0 {
            if self.at == self.bytes.len() {
                self.stream += 1;
                let call = call("Mirror/echo", &message(&[0x91, 0xc4, 1, 7]));
                self.bytes = frame(OPEN | FIN, self.stream, &call);
                self.at = 0;
            }
            let len = buffer.remaining().min(self.bytes.len() - self.at);
            buffer.put_slice(&self.bytes[self.at..self.at + len]);
            self.at += len;
            self.delivered.fetch_add(len, Ordering::Relaxed);
        }
        Poll::Ready(Ok(()))
    }
}

struct Swallow;

impl SharedWrite for Swallow {
    fn try_write_vectored(&self, slices: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }
    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn shutdown(&self) {}
}

/// A connection that never runs dry gives others their turn after so many bytes, though all of them are small calls whose handlers run at once.
#[tokio::test]
async fn an_endless_client_does_not_keep_the_thread() {
    let server = Arc::new(Server::builder().service(MirrorServer::new(Glass)).start().await.unwrap());
    let delivered = Arc::new(AtomicUsize::new(0));
    let endless = Endless {
        bytes: [&b"\xF5SINEW\x01\x00"[..], &frame(HELLO, 0, &[0x80])].concat(),
        at: 0,
        stream: 0,
        delivered: Arc::clone(&delivered),
    };
    server.accept(ByteStream::other(endless, Swallow, "endless:"));
    // A task among others: it goes to the back of the run queue, which `yield_now` does not. The connection may end early on a busy machine, where handlers
    // that seem slow get tasks of their own, and then there are more calls than may be.
    let open = Arc::clone(&server);
    let other = tokio::spawn(async move {
        let (mut seen, mut most) = (None, 0);
        while seen.is_none_or(|seen| seen <= ENDLESS_BYTES) && open.connections() > 0 {
            let mut queued = false;
            std::future::poll_fn(|task| {
                if std::mem::replace(&mut queued, true) {
                    return Poll::Ready(());
                }
                task.waker().wake_by_ref();
                Poll::Pending
            })
            .await;
            let now = delivered.load(Ordering::Relaxed);
            // The connection may have had several turns before this task had its first.
            most = most.max(now - seen.replace(now).unwrap_or(now));
        }
        most
    });
    let most = bounded(other).await.unwrap();
    // 1.25 MiB, and what the read that reached it brought.
    assert!(most <= (1280 + 64) * 1024, "{most} bytes in one turn");
}
