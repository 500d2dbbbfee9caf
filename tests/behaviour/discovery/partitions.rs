//! A network that parts, wholly or one way, and forgets connections; and a machine that stands still, so that the clock jumps, while calls run.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sinew::transport::MemListener;
use sinew::{
    Channel, Code, ConnectivityState, Endpoint, HandlerRan, LeastRequest, MemRegistry, RoundRobin, Server, Status,
    service,
};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::gate::{Gate, Shut};
use super::{address, fixed, names};
use crate::support::fixture::unique;
use crate::support::until;

/// What the servers are registered as.
const SERVICE: &str = "partitions.Counted";
/// Servers that there are at most.
const SLOTS: usize = 6;
/// Time that a call has.
const DEADLINE: Duration = Duration::from_secs(1);
/// How late it may end behind that.
const LATE_MAX: Duration = Duration::from_millis(50);
/// After its removal was told to the channel, an endpoint gets no new calls.
const REMOVED: Duration = Duration::from_secs(1);
/// How long some partitions last at least: longer than keepalive takes to find them.
const LONG: Duration = Duration::from_secs(20);
/// Time until all is as it should be, once nothing happens any more.
const SETTLES: Duration = Duration::from_secs(30);
/// The silence after which a peer is asked whether it lives, and its time to answer.
const KEEPALIVE: Duration = Duration::from_secs(15);

/// Counts what it runs.
#[service(name = "partitions.Counted")]
pub(crate) trait Counted {
    /// Takes so long, and tells who answers; must not run twice.
    async fn run(&self, id: u64, millis: u64) -> Result<String, Status>;
}

struct Counting {
    name: String,
    books: Books,
}

impl Counted for Counting {
    async fn run(&self, id: u64, millis: u64) -> Result<String, Status> {
        *self.books.runs.lock().unwrap().entry(id).or_default() += 1;
        if millis > 0 {
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        Ok(self.name.clone())
    }
}

/// What servers, calls and the world know of each other.
#[derive(Clone, Default)]
struct Books {
    /// How often each call was run.
    runs: Arc<Mutex<HashMap<u64, u32>>>,
    /// When each run of a server was taken off the registry.
    removals: Arc<Mutex<HashMap<String, Instant>>>,
    /// By how much the clock has jumped so far.
    jumped: Arc<Mutex<Duration>>,
}

impl Books {
    fn jumped(&self) -> Duration {
        *self.jumped.lock().unwrap()
    }

    /// At the end of the world: no call was run twice, and none that is said not to have run was.
    fn check(&self, ended: &[Ended], seed: u64) {
        let runs = self.runs.lock().unwrap();
        for &Ended { id, ran } in ended {
            let count = runs.get(&id).copied().unwrap_or_default();
            let is_true = match ran {
                None => count == 1,
                Some(HandlerRan::No) => count == 0,
                Some(_) => count <= 1,
            };
            assert!(
                is_true,
                "seed {seed}: call {id} was run {count} times; its status says {ran:?}"
            );
        }
    }
}

/// One run of a server.
struct Site {
    name: String,
    /// Accepts for the server, and owns it.
    accepting: JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// A place for a server, and the way to it, which is the same for all of its runs.
#[derive(Default)]
struct Place {
    gate: Arc<Gate>,
    /// As it is without a blackout.
    shut: Shut,
    /// A partition is not healed before.
    heals_at: Option<Instant>,
    site: Option<Site>,
}

impl Place {
    async fn start(&mut self, name: &str, books: &Books) {
        let mut listener = MemListener::bind(name).unwrap();
        let service = Counting {
            name: name.to_owned(),
            books: books.clone(),
        };
        let serving = Server::builder().service(CountedServer::new(service)).start().await.unwrap();
        let gate = Arc::clone(&self.gate);
        let accepting = tokio::spawn(async move {
            while let Ok(stream) = listener.accept().await {
                serving.accept(gate.guard(stream));
            }
        });
        self.site = Some(Site {
            name: name.to_owned(),
            accepting,
        });
    }

    /// Kills the server, as SIGKILL does; returns its name.
    async fn kill(&mut self) -> Option<String> {
        let mut site = self.site.take()?;
        // Before it can say a word.
        self.gate.cut();
        site.accepting.abort();
        // The next run may have the same name, which is free when the task is gone.
        let _aborted = (&mut site.accepting).await;
        Some(std::mem::take(&mut site.name))
    }
}

struct World {
    random: fastrand::Rng,
    registry: MemRegistry,
    places: [Place; SLOTS],
    /// Nobody can be reached until then.
    blackout: Option<Instant>,
    books: Books,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            registry: MemRegistry::new(),
            places: Default::default(),
            blackout: None,
            books: Books::default(),
        };
        for slot in 0..SLOTS {
            world.start(slot).await;
        }
        world
    }

    async fn connect(&self, seed: u64) -> Channel {
        let builder = Channel::builder().resolver(self.registry.resolver(SERVICE));
        let builder = match seed % 3 {
            0 => builder,
            1 => builder.balancer(RoundRobin),
            _ => builder.balancer(LeastRequest),
        };
        builder.connect(SERVICE).await.unwrap()
    }

    /// Another run, under another name.
    async fn start(&mut self, slot: usize) {
        self.places[slot].start(&unique("parted"), &self.books).await;
        self.list(slot);
    }

    /// Of one place in the registry, the last run counts.
    fn list(&self, slot: usize) {
        let Some(site) = &self.places[slot].site else { return };
        self.books.removals.lock().unwrap().remove(&site.name);
        let endpoint = Endpoint::new(address(&site.name)).with_name(format!("slot-{slot}")).with_instance(&site.name);
        self.registry.put(SERVICE, endpoint);
    }

    fn unlist(&self, slot: usize) {
        let Some(site) = &self.places[slot].site else { return };
        // An empty list is no list: calls go on with the last one.
        if self.registry.list(SERVICE).len() > 1 {
            self.registry.remove(SERVICE, &format!("slot-{slot}"));
            self.books.removals.lock().unwrap().entry(site.name.clone()).or_insert_with(Instant::now);
        }
    }

    /// Something happens.
    async fn step(&mut self) {
        if self.blackout.is_some_and(|until| until <= Instant::now()) {
            self.blackout = None;
            self.set_gates();
        }
        match self.random.u8(..30) {
            0 => {
                self.blackout = Some(Instant::now() + Duration::from_millis(self.random.u64(100..3_000)));
                self.set_gates();
            }
            1 | 2 => self.jump().await,
            _ => {}
        }
        let slot = self.random.usize(..SLOTS);
        if self.places[slot].site.is_none() {
            return self.start(slot).await;
        }
        match self.random.u8(..12) {
            // The registry learns of it with the next run.
            0 => drop(self.places[slot].kill().await),
            // At the same address, so that the registry has nothing to learn.
            1 => {
                if let Some(name) = self.places[slot].kill().await {
                    self.places[slot].start(&name, &self.books).await;
                }
            }
            2 => self.unlist(slot),
            3 | 4 => self.list(slot),
            5 => self.part(slot),
            _ => self.heal(slot),
        }
    }

    fn set_gates(&self) {
        let is_dark = self.blackout.is_some();
        for place in &self.places {
            let shut = if is_dark { Shut::BOTH } else { place.shut };
            place.gate.set(shut);
        }
    }

    fn part(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        if place.shut == Shut::NONE {
            place.shut = [Shut::BOTH, Shut::BOTH, Shut::THERE, Shut::BACK][self.random.usize(..4)];
            place.heals_at = (self.random.u8(..4) == 0).then(|| Instant::now() + LONG);
            self.set_gates();
        }
    }

    fn heal(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        if place.shut == Shut::NONE || place.heals_at.is_some_and(|at| Instant::now() < at) {
            return;
        }
        place.shut = Shut::NONE;
        if self.random.u8(..3) == 0 {
            // What stood in between has forgotten the connections.
            place.gate.cut();
        }
        self.set_gates();
    }

    /// The machine was suspended, for a second or for minutes.
    async fn jump(&mut self) {
        let ahead = Duration::from_secs_f64(600.0_f64.powf(self.random.f64()));
        *self.books.jumped.lock().unwrap() += ahead;
        tokio::time::advance(ahead).await;
    }

    /// Everybody is there, and can be reached.
    async fn clear(&mut self) {
        self.blackout = None;
        for slot in 0..SLOTS {
            self.places[slot].shut = Shut::NONE;
            match self.places[slot].site {
                Some(_) => self.list(slot),
                None => self.start(slot).await,
            }
        }
        self.set_gates();
    }
}

/// How a call is to be made.
#[derive(Clone, Copy)]
struct Plan {
    id: u64,
    millis: u64,
    waits: bool,
}

/// A call that is over.
struct Ended {
    id: u64,
    /// What its status says; `None` if it was answered.
    ran: Option<HandlerRan>,
}

/// A call, and what is wrong with how it ended, if anything.
async fn call(channel: Channel, books: Books, plan: Plan) -> Result<Ended, String> {
    let Plan { id, millis, waits } = plan;
    let (begun, jumped) = (Instant::now(), books.jumped());
    let call = CountedClient::from_channel(channel).run(id, millis).timeout(DEADLINE);
    let call = if waits { call.wait_for_ready() } else { call };
    let outcome: Result<String, Status> = call.await;
    let (took, jumps) = (begun.elapsed(), books.jumped() - jumped);
    if took > DEADLINE + LATE_MAX + jumps {
        return Err(format!("call {id} took {took:?}, in which the clock jumped {jumps:?}"));
    }
    match outcome {
        Ok(name) => match books.removals.lock().unwrap().get(&name) {
            Some(removed) if begun > *removed + REMOVED => {
                Err(format!("{name} was called {:?} after its removal", begun - *removed))
            }
            _ => Ok(Ended { id, ran: None }),
        },
        Err(status) => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Ok(Ended {
                id,
                ran: Some(status.handler_ran()),
            }),
            _ => Err(format!("call {id} ended with {status}")),
        },
    }
}

/// Waits until all endpoints are READY, and no attempt is under way.
async fn settled(channel: &Channel, seed: u64) {
    let latest = Instant::now() + SETTLES;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = channel.snapshot();
        let is_well = now.endpoints.iter().all(|one| (one.state, one.in_flight) == (ConnectivityState::Ready, 0));
        if is_well && now.endpoints.len() == SLOTS {
            return;
        }
        assert!(Instant::now() < latest, "seed {seed}: {now:?}");
    }
}

/// Returns how the calls ended.
async fn storm(seed: u64) -> Vec<Ended> {
    // What the client's choices and its backoff draw from.
    fastrand::seed(seed);
    let mut world = World::new(seed).await;
    let channel = world.connect(seed).await;
    let mut calls = JoinSet::new();
    let mut ids = 0_u64..;
    for _ in 0..200 {
        world.step().await;
        for id in ids.by_ref().take(world.random.usize(10..60)) {
            let plan = Plan {
                id,
                millis: world.random.u64(..20),
                waits: world.random.u8(..4) == 0,
            };
            calls.spawn(call(channel.clone(), world.books.clone(), plan));
            tokio::time::sleep(Duration::from_millis(world.random.u64(1..10))).await;
        }
    }
    world.clear().await;
    let (spawned, mut ended) = (calls.len(), Vec::new());
    while let Some(joined) = calls.join_next().await {
        let one = joined.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        ended.push(one.unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}")));
    }
    assert_eq!(ended.len(), spawned, "seed {seed}");
    settled(&channel, seed).await;
    // What was slow a moment ago is not held against anybody any more.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut reached = HashSet::new();
    for id in ids.take(600) {
        let answer = CountedClient::from_channel(channel.clone()).run(id, 0).await;
        reached.insert(answer.unwrap_or_else(|status| panic!("seed {seed}: {status}")));
        ended.push(Ended { id, ran: None });
    }
    assert_eq!(reached.len(), SLOTS, "seed {seed}: {reached:?}");
    world.books.check(&ended, seed);
    ended
}

/// Every call ends once, in time, and with a cause that is true; what is said not to have run has not, and nothing runs twice; nobody is called who was
/// removed; afterwards all is as it should be.
#[tokio::test(start_paused = true)]
async fn every_call_ends_whoever_is_cut_off() {
    // Another seed with each run would find more, and fail when nobody looks; `SINEW_SEEDS` runs as many as are wanted.
    let seeds = std::env::var("SINEW_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2);
    for seed in 0..seeds {
        let ended = storm(seed).await;
        let count = |ran: Option<HandlerRan>| ended.iter().filter(|one| one.ran == ran).count();
        let (answered, denied, unknown) = (count(None), count(Some(HandlerRan::No)), count(Some(HandlerRan::Maybe)));
        println!("seed {seed}: {answered} calls were answered, {denied} did not run, of {unknown} nobody can tell");
        // A world in which nothing goes wrong, or nothing goes well, would prove nothing.
        assert!(
            answered * 4 > ended.len() && unknown > 0,
            "seed {seed}: {answered} of {}",
            ended.len()
        );
    }
}

fn is_ready(channel: &Channel, name: &str) -> bool {
    let endpoints = channel.snapshot().endpoints;
    let mut of_name = endpoints.iter().filter(|one| one.endpoint.name().ends_with(name));
    of_name.any(|one| one.state == ConnectivityState::Ready)
}

/// A call, and when it began.
async fn timed(channel: Channel, id: u64) -> (Instant, Result<String, Status>) {
    let begun = Instant::now();
    let outcome = CountedClient::from_channel(channel).run(id, 5).timeout(DEADLINE).await;
    (begun, outcome)
}

/// Nothing is said, nothing is closed: calls avoid it by its silence, and keepalive ends it. Afterwards it is taken back.
#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_found_by_keepalive() {
    let (books, names) = (Books::default(), names::<3>());
    let mut places: [Place; 3] = Default::default();
    for (place, name) in places.iter_mut().zip(&names) {
        place.start(name, &books).await;
    }
    let channel = Channel::connect(&fixed(&names)).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(10));
    let mut calls = JoinSet::new();
    let (mut parted, mut found) = (Instant::now(), None);
    for id in 0..3_500 {
        ticks.tick().await;
        if id == 500 {
            assert!(is_ready(&channel, &names[0]));
            places[0].gate.set(Shut::BOTH);
            parted = Instant::now();
        }
        if id > 500 && found.is_none() && !is_ready(&channel, &names[0]) {
            found = Some(Instant::now());
        }
        calls.spawn(timed(channel.clone(), id));
    }
    let found = found.expect("keepalive finds it");
    let within = found - parted;
    assert!(within <= KEEPALIVE + Duration::from_millis(100), "{within:?}");
    assert!(!is_ready(&channel, &names[0]), "it has not said a word");
    let (all, mut failed) = (calls.len(), 0);
    while let Some(ended) = calls.join_next().await {
        let (begun, outcome) = ended.unwrap();
        if let Err(status) = outcome {
            failed += 1;
            assert!(begun < found, "{:?} after it was found: {status}", begun - found);
        }
    }
    println!("it was found after {within:?}; {failed} of {all} calls failed");
    assert!(failed * 50 <= all, "{failed} of {all}");
    places[0].gate.set(Shut::NONE);
    until("it is back", || is_ready(&channel, &names[0])).await;
}
