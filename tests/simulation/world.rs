//! A service, servers that come and go, and the network between them and their clients.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use fastrand::Rng;
use futures_util::StreamExt;
use sinew::transport::{ByteStream, ConnectError, pair};
use sinew::{Connector, Drain, Limits, Server, Serving, Status, Streaming, service};

use super::faulty::{Fate, Link};

/// What the simulation calls.
#[service(name = "simulation.World")]
pub trait World {
    /// Works for a while; must not run twice.
    async fn once(&self, nonce: u64, millis: u64, bytes: usize) -> Result<Bytes, Status>;
    /// Counts up, with pauses.
    async fn list(&self, nonce: u64, count: u32, millis: u64) -> Result<Streaming<u32>, Status>;
    /// Adds up.
    async fn sum(&self, nonce: u64, numbers: Streaming<u32>) -> Result<u64, Status>;
    /// Answers each number with its successor.
    async fn next(&self, nonce: u64, numbers: Streaming<u32>) -> Result<Streaming<u32>, Status>;
}

/// What happened, across all servers of a seed.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// How often the handler of each call began.
    runs: Mutex<HashMap<u64, u32>>,
    /// Calls whose status said that their handlers did not run.
    denied: Mutex<Vec<u64>>,
    /// Handlers and streams that exist now.
    live: AtomicUsize,
    /// How the calls came out.
    tally: Mutex<Tally>,
}

/// How often calls came out in which way.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u32,
    pub(crate) late: u32,
    pub(crate) unavailable_not_run: u32,
    pub(crate) unavailable_maybe_run: u32,
    pub(crate) given_up: u32,
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.late += other.late;
        self.unavailable_not_run += other.unavailable_not_run;
        self.unavailable_maybe_run += other.unavailable_maybe_run;
        self.given_up += other.given_up;
    }
}

impl Ledger {
    pub(crate) fn runs(&self, nonce: u64) -> u32 {
        self.runs.lock().unwrap().get(&nonce).copied().unwrap_or_default()
    }

    /// Notes how a call came out.
    pub(crate) fn count(&self, note: impl FnOnce(&mut Tally)) {
        note(&mut self.tally.lock().unwrap());
    }

    /// Notes that a status said that the handler of `nonce` did not run.
    pub(crate) fn deny(&self, nonce: u64) {
        self.denied.lock().unwrap().push(nonce);
    }

    /// At the end of the world: no handler began twice, and none that was denied began after all. Returns how the calls came out.
    pub(crate) fn close(&self) -> Tally {
        let runs = self.runs.lock().unwrap();
        for (nonce, runs) in runs.iter() {
            assert!(*runs <= 1, "call {nonce} ran {runs} times");
        }
        for nonce in self.denied.lock().unwrap().iter() {
            assert!(
                !runs.contains_key(nonce),
                "call {nonce} ran after its status had denied it"
            );
        }
        std::mem::take(&mut self.tally.lock().unwrap())
    }

    pub(crate) fn live(&self) -> usize {
        self.live.load(Ordering::SeqCst)
    }

    fn begin(self: &Arc<Self>, nonce: u64) -> Live {
        *self.runs.lock().unwrap().entry(nonce).or_default() += 1;
        self.live.fetch_add(1, Ordering::SeqCst);
        Live(Arc::clone(self))
    }
}

struct Live(Arc<Ledger>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.live.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Handlers(Arc<Ledger>);

impl World for Handlers {
    async fn once(&self, nonce: u64, millis: u64, bytes: usize) -> Result<Bytes, Status> {
        let _live = self.0.begin(nonce);
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        Ok(Bytes::from(vec![1; bytes]))
    }

    async fn list(&self, nonce: u64, count: u32, millis: u64) -> Result<Streaming<u32>, Status> {
        let live = self.0.begin(nonce);
        let numbers = futures_util::stream::iter(0..count).then(move |number| {
            let _kept = &live;
            async move {
                if millis > 0 {
                    tokio::time::sleep(Duration::from_millis(millis)).await;
                }
                Ok(number)
            }
        });
        Ok(Streaming::from(numbers))
    }

    async fn sum(&self, nonce: u64, mut numbers: Streaming<u32>) -> Result<u64, Status> {
        let _live = self.0.begin(nonce);
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += u64::from(number?);
        }
        Ok(sum)
    }

    async fn next(&self, nonce: u64, numbers: Streaming<u32>) -> Result<Streaming<u32>, Status> {
        let live = self.0.begin(nonce);
        Ok(Streaming::from(numbers.map(move |number| {
            let _kept = &live;
            number.map(|number| number + 1)
        })))
    }
}

/// The servers of a seed, one at a time, and the links to them.
pub(crate) struct Net {
    ledger: Arc<Ledger>,
    limits: Limits,
    serving: Mutex<Option<Serving>>,
    /// Each with the number of its server.
    links: Mutex<Vec<(usize, Arc<Link>)>>,
    /// Servers that were started.
    started: AtomicUsize,
    rng: Mutex<Rng>,
}

impl Net {
    pub(crate) fn new(ledger: &Arc<Ledger>, limits: Limits, rng: Rng) -> Arc<Self> {
        Arc::new(Self {
            ledger: Arc::clone(ledger),
            limits,
            serving: Mutex::new(None),
            links: Mutex::new(Vec::new()),
            started: AtomicUsize::new(0),
            rng: Mutex::new(rng),
        })
    }

    /// Starts a server; the one before, if there is one, is returned and gets no further connections.
    pub(crate) async fn start_server(&self) -> Option<Serving> {
        let drain = Drain::default().lame_duck("0s").within("300ms");
        let serving = Server::builder()
            .service(WorldServer::new(Handlers(Arc::clone(&self.ledger))))
            .limits(self.limits.clone())
            .drain(drain)
            .start()
            .await
            .unwrap();
        self.started.fetch_add(1, Ordering::SeqCst);
        self.serving.lock().unwrap().replace(serving)
    }

    /// Takes the server away: the next connections find nobody.
    pub(crate) fn take_server(&self) -> Option<Serving> {
        self.serving.lock().unwrap().take()
    }

    /// Kills the server, as SIGKILL does: its links break before it can say a word.
    pub(crate) fn kill_server(&self) {
        let number = self.started.load(Ordering::SeqCst);
        for (of, link) in self.links.lock().unwrap().iter() {
            if *of == number {
                link.meet(Fate::Cut);
            }
        }
        drop(self.take_server());
    }

    /// Connections and handlers of the current server.
    pub(crate) fn gauges(&self) -> (usize, usize) {
        let serving = self.serving.lock().unwrap();
        serving.as_ref().map_or((0, 0), |serving| (serving.connections(), serving.running_handlers()))
    }

    /// Does something to a link that `which` picks.
    pub(crate) fn hurt(&self, which: usize, fate: Fate) {
        let links = self.links.lock().unwrap();
        if !links.is_empty() {
            links[which % links.len()].1.meet(fate);
        }
    }

    fn connect(&self) -> Result<ByteStream, ConnectError> {
        let serving = self.serving.lock().unwrap();
        let Some(serving) = &*serving else {
            return Err(ConnectError::NoListener {
                name: "simulated".to_owned(),
            });
        };
        let link = Link::new(self.rng.lock().unwrap().fork());
        let (client, server) = pair();
        serving.accept(link.end(server));
        self.links.lock().unwrap().push((self.started.load(Ordering::SeqCst), Arc::clone(&link)));
        Ok(link.end(client))
    }
}

/// Makes the connections of one client.
pub(crate) struct Dialler(pub(crate) Arc<Net>);

impl Connector for Dialler {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send + '_>> {
        Box::pin(async {
            let delay = Duration::from_millis(self.0.rng.lock().unwrap().u64(0..5));
            tokio::time::sleep(delay).await;
            self.0.connect()
        })
    }
}
