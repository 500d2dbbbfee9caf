//! Where bad peers meet: a server, a good client that calls it all the time, and gauges of what is left behind.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sinew::{Server, ServerBuilder, Serving, Status, Streaming, service};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::bad::PATIENCE;

/// A type that nests as deep as its sender likes.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Tree {
    /// What is below.
    pub(crate) below: Vec<Self>,
}

/// A text whose reading panics: user code inside of decoding.
#[derive(Debug)]
pub(crate) struct Trap;

impl Serialize for Trap {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("trap")
    }
}

impl<'de> Deserialize<'de> for Trap {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("secret of decoding")
    }
}

/// What bad peers attack.
#[service(name = "attack.Target")]
pub(crate) trait Target {
    /// Returns what it gets.
    async fn echo(&self, text: String) -> Result<String, Status>;
    /// May run twice.
    #[rpc(idempotent)]
    async fn look(&self);
    /// Never answers.
    async fn wait(&self) -> Result<(), Status>;
    /// Never answers and never reads what follows.
    async fn hold(&self, items: Streaming<Bytes>) -> Result<(), Status>;
    /// Counts the bytes of a stream.
    async fn count(&self, items: Streaming<Bytes>) -> Result<u64, Status>;
    /// Sends items for ever.
    async fn items(&self, bytes: u32) -> Result<Streaming<Bytes>, Status>;
    /// Returns a large answer.
    async fn large(&self, bytes: u32) -> Result<Bytes, Status>;
    /// Counts the nodes of a tree.
    async fn tree(&self, tree: Tree) -> Result<u32, Status>;
    /// Panics where it is told to.
    async fn panic(&self, place: String) -> Result<Streaming<u32>, Status>;
    /// Its argument cannot be read without a panic.
    async fn trap(&self, trap: Trap) -> Result<(), Status>;
}

/// What handlers do, counted.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Handlers and streams that exist now.
    pub(crate) live: AtomicUsize,
    /// Handlers that began.
    pub(crate) began: AtomicUsize,
    /// Calls of the method that may run twice.
    pub(crate) looked: AtomicUsize,
    /// Items that were asked of streams.
    pub(crate) produced: AtomicUsize,
}

/// Counts a handler for as long as its future, or its stream, exists.
struct Live(Arc<Counts>);

impl Live {
    fn new(counts: &Arc<Counts>) -> Self {
        counts.live.fetch_add(1, Ordering::SeqCst);
        counts.began.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(counts))
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Panics when it is dropped.
struct PanicsInDrop;

impl Drop for PanicsInDrop {
    fn drop(&mut self) {
        panic!("secret of a destructor");
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Victim {
    pub(crate) counts: Arc<Counts>,
}

impl Target for Victim {
    async fn echo(&self, text: String) -> Result<String, Status> {
        Ok(text)
    }

    async fn look(&self) {
        self.counts.looked.fetch_add(1, Ordering::SeqCst);
    }

    async fn wait(&self) -> Result<(), Status> {
        let _live = Live::new(&self.counts);
        std::future::pending().await
    }

    async fn hold(&self, items: Streaming<Bytes>) -> Result<(), Status> {
        let _live = Live::new(&self.counts);
        let _kept = items;
        std::future::pending().await
    }

    async fn count(&self, mut items: Streaming<Bytes>) -> Result<u64, Status> {
        let _live = Live::new(&self.counts);
        let mut bytes = 0;
        while let Some(item) = items.next().await {
            bytes += item?.len() as u64;
        }
        Ok(bytes)
    }

    async fn items(&self, bytes: u32) -> Result<Streaming<Bytes>, Status> {
        let live = Live::new(&self.counts);
        let item = Bytes::from(vec![7; bytes as usize]);
        Ok(Streaming::iter(std::iter::from_fn(move || {
            live.0.produced.fetch_add(1, Ordering::SeqCst);
            Some(item.clone())
        })))
    }

    async fn large(&self, bytes: u32) -> Result<Bytes, Status> {
        let _live = Live::new(&self.counts);
        Ok(Bytes::from(vec![7; bytes as usize]))
    }

    async fn tree(&self, tree: Tree) -> Result<u32, Status> {
        fn nodes(tree: &Tree) -> u32 {
            1 + tree.below.iter().map(nodes).sum::<u32>()
        }
        Ok(nodes(&tree))
    }

    async fn panic(&self, place: String) -> Result<Streaming<u32>, Status> {
        let _live = Live::new(&self.counts);
        match place.as_str() {
            "at once" => panic!("secret of a handler"),
            "later" => {
                tokio::task::yield_now().await;
                panic!("secret of a handler");
            }
            "in drop" => {
                let _panics = PanicsInDrop;
                Err(Status::aborted("the answer"))
            }
            _ => Ok(Streaming::iter((0..).inspect(|&number| {
                assert!(number < 3, "secret of a stream");
            }))),
        }
    }

    async fn trap(&self, _trap: Trap) -> Result<(), Status> {
        Ok(())
    }
}

/// A server under attack, with a good client.
pub(crate) struct Arena {
    pub(crate) serving: Serving,
    pub(crate) counts: Arc<Counts>,
    /// Handlers are told to panic; otherwise nothing of a peer's doing may.
    pub(crate) panics_expected: bool,
    good: Good,
}

/// Calls without a pause and notes the first failure, and the longest that a call took.
struct Good {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<Result<Duration, Status>>,
}

/// What the slowest call of a good client may take: far more than it does, because the machine may be busy with other things.
const GOOD_LATENCY_MAX: Duration = Duration::from_secs(5);

impl Arena {
    pub(crate) async fn new() -> Self {
        Self::with(|builder| builder).await
    }

    pub(crate) async fn with(set: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let victim = Victim::default();
        let counts = Arc::clone(&victim.counts);
        let builder = Server::builder().service(TargetServer::new(victim)).bind("127.0.0.1:0");
        let serving = set(builder).start().await.unwrap();
        let good = Good::start(&serving.target()).await;
        Self {
            serving,
            counts,
            panics_expected: false,
            good,
        }
    }

    pub(crate) fn target(&self) -> String {
        self.serving.target()
    }

    /// Waits for something that the server does on its own.
    pub(crate) async fn until(&self, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let waiting = async {
            while !is_so(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, waiting).await.is_err() {
            panic!(
                "never: {what}; {} connections, {} panics, {:?}",
                self.serving.connections(),
                self.serving.panics(),
                self.counts
            );
        }
    }

    /// Handlers that exist now.
    pub(crate) fn live(&self) -> usize {
        self.counts.live.load(Ordering::SeqCst)
    }

    /// Handlers that ever began.
    pub(crate) fn began(&self) -> usize {
        self.counts.began.load(Ordering::SeqCst)
    }

    /// The bad peers are gone: the good client noticed nothing, and every gauge returns to what is its alone.
    pub(crate) async fn finish(self) {
        self.until("only the good client is left", |arena| arena.serving.connections() == 1).await;
        self.until("no handler is left", |arena| arena.live() == 0).await;
        assert!(
            self.panics_expected || self.serving.panics() == 0,
            "a peer made something panic"
        );
        let Self {
            serving,
            counts,
            panics_expected,
            good,
        } = self;
        good.finish().await;
        let arena = Self {
            serving,
            counts,
            panics_expected,
            good: Good::none(),
        };
        arena.until("no connection is left", |arena| arena.serving.connections() == 0).await;
        arena.until("no handler is counted", |arena| arena.serving.running_handlers() == 0).await;
    }
}

impl Good {
    async fn start(target: &str) -> Self {
        let client = TargetClient::connect(target).await.unwrap();
        let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let task = tokio::spawn({
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            async move {
                let mut worst = Duration::ZERO;
                while !stop.load(Ordering::SeqCst) {
                    let number = calls.fetch_add(1, Ordering::SeqCst).to_string();
                    let began = Instant::now();
                    let answer = client.echo(number.clone()).timeout(PATIENCE).await?;
                    worst = worst.max(began.elapsed());
                    assert_eq!(answer, number);
                    tokio::task::yield_now().await;
                }
                Ok(worst)
            }
        });
        Self { stop, calls, task }
    }

    fn none() -> Self {
        Self {
            stop: Arc::default(),
            calls: Arc::default(),
            task: tokio::spawn(async { Ok(Duration::ZERO) }),
        }
    }

    async fn finish(self) {
        // One more call after everything that happened.
        let before = self.calls.load(Ordering::SeqCst);
        while self.calls.load(Ordering::SeqCst) <= before && !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
        self.stop.store(true, Ordering::SeqCst);
        let worst = self.task.await.unwrap().expect("the good client notices nothing");
        assert!(worst <= GOOD_LATENCY_MAX, "a call of the good client took {worst:?}");
    }
}
