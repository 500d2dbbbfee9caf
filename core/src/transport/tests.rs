//! Tests of the driver: what a handler, a stream that takes nothing, or a budget that is used up must not bring to a stop.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::io::{AsyncRead, DuplexStream, ReadBuf};

use super::acceptor::{Acceptor, NoCalls};
use super::baton::Baton;
use super::connection::{Connection, Lifecycle};
use super::driver;
use super::io::{ByteStream, SharedWrite};
use super::mem::pair;
use crate::metadata::Metadata;
use crate::mux::{Events, Incoming, MuxConfig, OpenRequest, Role, StreamKey};
use crate::time;
use crate::wire::message::EncodedMessage;

/// More than any step of these tests takes, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the acceptor of a test saw.
#[derive(Debug, PartialEq, Eq)]
enum Saw {
    Arguments(u32),
    Began(u32),
    Done(u32),
    DoneElsewhere(u32),
    Ended(u32),
    Abandoned,
}

type Work = Box<dyn FnMut(u32) + Send>;

/// Runs `work` with the stream's id for every call, and reports.
struct Probe {
    ready: Vec<StreamKey>,
    work: Arc<Mutex<Work>>,
    saw: Sender<Saw>,
    baton: Arc<Mutex<Option<Arc<Baton<Self>>>>>,
}

impl Probe {
    fn new(work: impl FnMut(u32) + Send + 'static) -> (Self, Receiver<Saw>) {
        let (saw, seen) = channel();
        let probe = Self {
            ready: Vec::new(),
            work: Arc::new(Mutex::new(Box::new(work))),
            saw,
            baton: Arc::default(),
        };
        (probe, seen)
    }
}

struct Task {
    id: u32,
    work: Arc<Mutex<Work>>,
    saw: Sender<Saw>,
}

impl Acceptor for Probe {
    type Job = Task;
    type Done = ();
    type Context = Mutex<Sender<Saw>>;

    const PIECE_BYTES: usize = usize::MAX;

    fn context(&self) -> Self::Context {
        Mutex::new(self.saw.clone())
    }

    fn take_events(&mut self, _: &Connection, events: &mut Events, _: Instant) {
        for incoming in events.incoming.drain(..) {
            match incoming {
                Incoming::Opened { key, .. } => self.ready.push(key),
                // The test may be over already.
                Incoming::Arguments { key, .. } => drop(self.saw.send(Saw::Arguments(key.id().0))),
            }
        }
        for ended in events.ended.drain(..) {
            // The test may be over already.
            let _gone = self.saw.send(Saw::Ended(ended.key.id().0));
        }
    }

    fn next_job(&mut self, _: &Connection) -> Option<Task> {
        let key = (!self.ready.is_empty()).then(|| self.ready.remove(0))?;
        Some(Task {
            id: key.id().0,
            work: Arc::clone(&self.work),
            saw: self.saw.clone(),
        })
    }

    fn has_more(&self) -> bool {
        !self.ready.is_empty()
    }

    fn run(job: &mut Task) {
        // Taken out, because another handler may run meanwhile; and before anybody hears of it, who would put other work there.
        let mut work = std::mem::replace(&mut *job.work.lock().unwrap(), Box::new(|_| {}));
        job.saw.send(Saw::Began(job.id)).unwrap();
        work(job.id);
    }

    fn done(&mut self, _: &Connection, job: Task, (): ()) {
        self.saw.send(Saw::Done(job.id)).unwrap();
    }

    fn taken_over(&mut self) {}

    fn done_elsewhere(_: &Connection, saw: &Self::Context, job: Task, (): ()) {
        saw.lock().unwrap().send(Saw::DoneElsewhere(job.id)).unwrap();
    }

    fn flush(&mut self, _: &Connection) {}

    fn before_jobs(&mut self, baton: &Arc<Baton<Self>>) {
        *self.baton.lock().unwrap() = Some(Arc::clone(baton));
    }

    fn resume(&mut self, _: &Connection) -> bool {
        false
    }

    fn shrink(&mut self) {}

    fn abandoned(_: &Connection, saw: &Self::Context) {
        // The test may be over already.
        let _gone = saw.lock().unwrap_or_else(PoisonError::into_inner).send(Saw::Abandoned);
    }

    fn closed(&mut self, _: &Connection) {}
}

fn noop() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// A client's connection over `stream`, driven by a task.
fn client(stream: ByteStream) -> Connection {
    let (connection, driver) = driver::start(stream, Role::Client, MuxConfig::default(), NoCalls);
    tokio::spawn(driver);
    connection
}

fn request<'a>(arguments: &'a EncodedMessage, metadata: &'a Metadata, deadline: Option<Instant>) -> OpenRequest<'a> {
    OpenRequest {
        method: 1,
        timeout: deadline.map_or(0, |deadline| time::to_wire_timeout(deadline, time::now())),
        deadline,
        metadata,
        arguments,
        fin: true,
    }
}

fn open(connection: &Connection, timeout: Option<Duration>) -> StreamKey {
    let arguments = EncodedMessage::from_encoded(Bytes::from_static(&[0x90]));
    let deadline = timeout.map(|timeout| time::now() + timeout);
    connection.open(time::now(), &request(&arguments, &Metadata::new(), deadline), &noop()).unwrap()
}

/// The task of a handler that was given up comes back while another handler of the same connection runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_blocked_handler_that_returns_takes_nothing_from_its_successor() {
    let (near, far) = pair();
    let (gate_a, wait_a) = channel::<()>();
    let (gate_b, wait_b) = channel::<()>();
    let (probe, seen) = Probe::new(move |_| wait_a.recv().unwrap());
    let (work, baton) = (Arc::clone(&probe.work), Arc::clone(&probe.baton));
    let (_server, d1) = driver::start(far, Role::Server, MuxConfig::default(), probe);
    tokio::spawn(d1);
    let client = client(near);
    open(&client, None);
    tokio::task::block_in_place(|| {
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Saw::Began(1));
        *work.lock().unwrap() = Box::new(move |_| wait_b.recv().unwrap());
        let d2 = baton.lock().unwrap().as_ref().unwrap().steal().expect("a handler runs");
        tokio::spawn(d2);
        open(&client, None);
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Saw::Began(2));
        gate_a.send(()).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Saw::DoneElsewhere(1));
        gate_b.send(()).unwrap();
        assert_eq!(seen.recv_timeout(PATIENCE).unwrap(), Saw::Done(2));
    });
}

/// The handler steals its own connection, as the watchdog would while it blocks.
#[tokio::test(start_paused = true)]
async fn a_deadline_from_before_a_take_over_is_kept() {
    let (near, far) = pair();
    let (probe, seen) = Probe::new(|_| {});
    let (work, baton) = (Arc::clone(&probe.work), Arc::clone(&probe.baton));
    let (_server, driver) = driver::start(far, Role::Server, MuxConfig::default(), probe);
    tokio::spawn(driver);
    let client = client(near);
    open(&client, Some(Duration::from_millis(300)));
    tokio::time::sleep(Duration::from_millis(1)).await;
    *work.lock().unwrap() = Box::new(move |_| {
        let stolen = baton.lock().unwrap().as_ref().unwrap().steal().expect("a handler runs");
        tokio::spawn(stolen);
    });
    open(&client, None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let so_far: Vec<Saw> = seen.try_iter().collect();
    assert_eq!(
        so_far,
        [Saw::Began(1), Saw::Done(1), Saw::Began(2), Saw::DoneElsewhere(2)]
    );
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [Saw::Ended(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_timer_is_set_although_the_budget_of_its_task_is_used_up() {
    let (_silent, far) = pair();
    let (connection, driver) = driver::start(far, Role::Server, MuxConfig::default(), NoCalls);
    let mut driver = Box::pin(driver);
    let spent = std::future::poll_fn(|task| {
        let mut spend = std::pin::pin!(async {
            while tokio::task::coop::has_budget_remaining() {
                tokio::task::coop::consume_budget().await;
            }
        });
        let _spent = spend.as_mut().poll(task);
        assert!(!tokio::task::coop::has_budget_remaining());
        Poll::Ready(driver.as_mut().poll(task))
    });
    assert!(spent.await.is_pending());
    tokio::time::timeout(Duration::from_secs(20), driver).await.expect("the handshake has a limit");
    assert!(matches!(connection.current(), Lifecycle::Closed(_)));
}

/// The process stood still while the answer to its ping lay in the socket.
#[tokio::test(start_paused = true)]
async fn what_lies_unread_counts_before_a_time_out_does() {
    let (near, far) = pair();
    let (connection, driver) = driver::start(near, Role::Client, MuxConfig::default(), NoCalls);
    let mut driver = Box::pin(driver);
    let say = |bytes: &[u8]| assert!(far.writer.try_write_vectored(&[IoSlice::new(bytes)]).is_ok());
    let turn = async |driver: &mut Pin<Box<driver::Driver<NoCalls>>>| {
        std::future::poll_fn(|task| Poll::Ready(driver.as_mut().poll(task).is_ready())).await
    };
    say(b"\xF5SINEW\x01\x00\x00\x00\x01\x00\x00\x00\x00\x00\x80");
    assert!(!turn(&mut driver).await);
    open(&connection, None);
    assert!(!turn(&mut driver).await);
    // The ping leaves after ten seconds of silence.
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!turn(&mut driver).await);
    tokio::time::advance(Duration::from_secs(6)).await;
    say(b"\x00\x00\x08\x08\x00\x00\x00\x00alive?\x00\x00");
    assert!(!turn(&mut driver).await);
    assert_eq!(connection.current(), Lifecycle::Ready);
    // Without an answer it would have been over.
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(!turn(&mut driver).await);
    tokio::time::advance(Duration::from_secs(6)).await;
    turn(&mut driver).await;
    assert!(matches!(connection.current(), Lifecycle::Closed(_)));
}

/// A reading half that notes how much each read asked for, and how much it got.
struct Noted {
    inner: Pin<Box<dyn AsyncRead + Send>>,
    reads: Arc<Mutex<Vec<(usize, usize)>>>,
}

impl AsyncRead for Noted {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (asked, before) = (buffer.remaining(), buffer.filled().len());
        let polled = self.inner.as_mut().poll_read(task, buffer);
        self.reads.lock().unwrap().push((asked, buffer.filled().len() - before));
        polled
    }
}

/// What goes through the buffer of the thread is copied once more; of bulk data only the first bytes may.
#[tokio::test]
async fn large_bodies_are_read_into_their_own_memory() {
    // In frames shorter than the buffer of the thread, so that the two kinds of reads can be told apart.
    let config = MuxConfig {
        max_frame: 60_000,
        ..MuxConfig::default()
    };
    for body_bytes in [64 * 1024, 1024 * 1024] {
        let (near, far) = pair();
        let reads: Arc<Mutex<Vec<(usize, usize)>>> = Arc::default();
        let noted = far.wrapped(|inner, writer| {
            let reads = Arc::clone(&reads);
            (Box::pin(Noted { inner, reads }), writer)
        });
        let (probe, seen) = Probe::new(|_| {});
        let work = Arc::clone(&probe.work);
        let (server, driver) = driver::start(noted, Role::Server, config.clone(), probe);
        tokio::spawn(driver);
        let client = client(near);
        let mut lifecycle = client.lifecycle();
        lifecycle.wait_for(|now| *now == Lifecycle::Ready).await.unwrap();
        let arguments = EncodedMessage::from_encoded(Bytes::from(vec![0xC0; body_bytes]));
        for _ in 0..20 {
            *work.lock().unwrap() = Box::new(|_| {});
            let key = client.open(time::now(), &request(&arguments, &Metadata::new(), None), &noop()).unwrap();
            while server.open_streams() == 0 || !seen.try_iter().any(|saw| matches!(saw, Saw::Arguments(_))) {
                tokio::task::yield_now().await;
            }
            client.release_call(key);
        }
        let reads = reads.lock().unwrap();
        let total: usize = reads.iter().map(|(_, got)| got).sum();
        let buffered: usize = reads.iter().filter(|(asked, _)| *asked > 60_000).map(|(_, got)| got).sum();
        assert!(total > 20 * body_bytes, "{total} bytes came");
        assert!(
            buffered <= 2 * 64 * 1024,
            "of bodies of {body_bytes} bytes, {buffered} went through the buffer"
        );
    }
}

/// A writing half that takes nothing, and never will.
struct Blocked;

impl SharedWrite for Blocked {
    fn try_write_vectored(&self, _: &[IoSlice<'_>]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }

    fn shutdown(&self) {}
}

fn silent() -> (DuplexStream, ByteStream) {
    let (kept, reader) = tokio::io::duplex(16);
    (kept, ByteStream::other(reader, Blocked, "test:"))
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_in_time_on_a_stream_that_takes_nothing() {
    let (_kept, stream) = silent();
    let client = client(stream);
    open(&client, None);
    tokio::time::sleep(Duration::from_millis(1)).await;
    let arguments = EncodedMessage::from_encoded(Bytes::from_static(&[0x90]));
    let metadata = Metadata::new();
    let mut request = request(&arguments, &metadata, None);
    let timeout = Duration::from_millis(100);
    let began = time::now();
    let key = std::future::poll_fn(|task| Poll::Ready(client.open_within(timeout, &mut request, task)))
        .await
        .unwrap();
    let answer = std::future::poll_fn(|task| client.poll_reply(key, task));
    tokio::time::timeout(Duration::from_secs(5), answer).await.expect("it has a deadline").unwrap_err();
    let took = time::now() - began;
    assert!(took <= Duration::from_millis(102), "{took:?}");
}

/// Code of users that is not a handler may panic too: a destructor, a subscriber.
#[tokio::test]
async fn a_driver_that_panics_ends_its_connection() {
    let (near, far) = pair();
    let (probe, seen) = Probe::new(|_| panic!("outside of a handler's own guard"));
    let (server, driver) = driver::start(far, Role::Server, MuxConfig::default(), probe);
    let driving = tokio::spawn(driver);
    let client = client(near);
    let key = open(&client, None);
    let answer = std::future::poll_fn(|task| client.poll_reply(key, task));
    tokio::time::timeout(PATIENCE, answer).await.expect("the connection ends").unwrap_err();
    assert!(driving.await.unwrap_err().is_panic());
    assert!(matches!(server.current(), Lifecycle::Closed(_)));
    assert_eq!(seen.try_iter().collect::<Vec<_>>(), [Saw::Began(1), Saw::Abandoned]);
}
