//! Several servers that behave as they are told, a channel to all of them, and what came to whom.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastrand::Rng;
use sinew::{Channel, ChannelBuilder, MemRegistry, Server, Serving, Status};
use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};

use crate::table::{Goal, Row};

/// How a server takes a call that comes after so many seconds.
pub(crate) type Manners = fn(server: usize, at: f64, random: f64) -> Manner;

/// What becomes of one call.
#[derive(Clone, Copy)]
pub(crate) enum Manner {
    AnswersAfter(Duration),
    FailsAfter(Duration),
}

/// A call as a server saw it.
#[derive(Clone, Copy)]
pub(crate) struct Came {
    pub(crate) at: f64,
    pub(crate) to: usize,
    pub(crate) failed: bool,
}

/// A call as its caller saw it.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) took: Duration,
    pub(crate) succeeded: bool,
}

#[sinew::service(name = "bench.Replica")]
trait Replica {
    #[rpc(idempotent)]
    async fn get(&self) -> Result<(), Status>;
}

#[derive(Clone)]
struct One {
    number: usize,
    start: Instant,
    manners: Manners,
    rng: Arc<Mutex<Rng>>,
    came: Arc<Mutex<Vec<Came>>>,
}

impl Replica for One {
    async fn get(&self) -> Result<(), Status> {
        let at = self.start.elapsed().as_secs_f64();
        let random = self.rng.lock().expect("nobody panicked").f64();
        let manner = (self.manners)(self.number, at, random);
        self.came.lock().expect("nobody panicked").push(Came {
            at,
            to: self.number,
            failed: matches!(manner, Manner::FailsAfter(_)),
        });
        match manner {
            Manner::AnswersAfter(time) => sleep(time).await,
            Manner::FailsAfter(time) => {
                sleep(time).await;
                return Err(Status::unavailable("out of order"));
            }
        }
        Ok(())
    }
}

/// A server that asks others.
struct Middle(ReplicaClient);

impl Replica for Middle {
    async fn get(&self) -> Result<(), Status> {
        self.0.get().await
    }
}

/// A server that asks those of `channel`, and a channel to it.
pub(crate) async fn before(channel: Channel, set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> (Serving, Channel) {
    let middle = ReplicaServer::new(Middle(ReplicaClient::from_channel(channel)));
    let server = Server::builder().service(middle).bind(address()).start().await.expect("it starts");
    let channel = set(Channel::builder()).connect(&server.target()).await.expect("it is there");
    (server, channel)
}

/// A name that nobody else has.
fn address() -> String {
    static SERVERS: AtomicUsize = AtomicUsize::new(0);
    format!("mem:replica-{}", SERVERS.fetch_add(1, Ordering::Relaxed))
}

/// A pool of servers, and a client.
pub(crate) struct Pool {
    pub(crate) channel: Channel,
    start: Instant,
    came: Arc<Mutex<Vec<Came>>>,
    servers: Vec<Serving>,
}

impl Pool {
    pub(crate) async fn open(
        count: usize,
        manners: Manners,
        seed: u64,
        set: impl FnOnce(ChannelBuilder) -> ChannelBuilder,
    ) -> Self {
        fastrand::seed(seed);
        let registry = MemRegistry::new();
        let (start, came) = (Instant::now(), Arc::default());
        let rng = Arc::new(Mutex::new(Rng::with_seed(seed)));
        let mut servers = Vec::new();
        for number in 0..count {
            let one = One {
                number,
                start,
                manners,
                rng: Arc::clone(&rng),
                came: Arc::clone(&came),
            };
            let server = Server::builder().service(ReplicaServer::new(one)).register(registry.clone());
            servers.push(server.bind(address()).start().await.expect("it starts"));
        }
        let channel = set(Channel::builder().resolver(registry.resolver("bench.Replica")));
        let channel = channel.connect("mem:///bench.Replica").await.expect("it is there");
        while channel.snapshot().endpoints.iter().filter(|one| one.connections > 0).count() < count {
            sleep(Duration::from_millis(1)).await;
        }
        Self {
            channel,
            start,
            came,
            servers,
        }
    }

    /// Makes so many calls a second until then, each at a random time of its own, whatever became of those before; tells what became of them.
    pub(crate) async fn drive(&self, rate: f64, until: f64, seed: u64) -> Vec<Made> {
        self.drive_through(std::slice::from_ref(&self.channel), rate, until, seed).await
    }

    /// The same, each through one of these channels.
    pub(crate) async fn drive_through(&self, channels: &[Channel], rate: f64, until: f64, seed: u64) -> Vec<Made> {
        let made = Arc::new(Mutex::new(Vec::new()));
        let mut rng = Rng::with_seed(seed);
        let mut at = self.start.elapsed().as_secs_f64();
        while at < until {
            sleep_until(self.start + Duration::from_secs_f64(at + rng.f64() / rate)).await;
            at += 1.0 / rate;
            let client = ReplicaClient::from_channel(channels[rng.usize(..channels.len())].clone());
            let made = Arc::clone(&made);
            tokio::spawn(async move {
                let begun = Instant::now();
                let succeeded = client.get().timeout("5s").await.is_ok();
                made.lock().expect("nobody panicked").push(Made {
                    took: begun.elapsed(),
                    succeeded,
                });
            });
        }
        sleep(Duration::from_secs(6)).await;
        std::mem::take(&mut *made.lock().expect("nobody panicked"))
    }

    /// The address of one of the servers.
    pub(crate) fn target(&self, number: usize) -> String {
        self.servers[number].target()
    }

    /// What came to the servers.
    pub(crate) fn came(&self) -> Vec<Came> {
        self.came.lock().expect("nobody panicked").clone()
    }
}

/// A figure, what it should be, and its name.
pub(crate) type Figure = (f64, Goal, &'static str);

/// What happens, and what is measured of it with a seed.
pub(crate) type Scene = (&'static str, fn(u64) -> Vec<Figure>);

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn rows(scenes: &[Scene], seeds: u64, wanted: &str) -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    for (scene, run) in scenes.iter().filter(|(scene, _)| scene.contains(wanted)) {
        let first = rows.len();
        for seed in 1..=seeds {
            for (at, (figure, goal, name)) in run(seed).into_iter().enumerate() {
                if seed == 1 {
                    rows.push(Row {
                        name: format!("{scene}: {name}"),
                        figures: vec![Vec::new()],
                        goal,
                    });
                }
                rows[first + at].figures[0].push(figure);
            }
        }
    }
    rows
}

pub(crate) fn in_virtual_time<T>(scene: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().expect("a runtime starts");
    runtime.block_on(scene)
}
