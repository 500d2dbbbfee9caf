//! Retries through the real channel and servers: what they save, and what they cost when nothing can be saved.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sinew::{
    AdaptiveThrottle, Channel, ChannelBuilder, MemRegistry, OutlierDetection, RoundRobin, Server, Serving, Status,
};
use tokio::time::{Instant, sleep, sleep_until};

use crate::pools::{Figure, Scene, in_virtual_time, rows as rows_of};
use crate::table::{Goal, Row};

/// Calls a second.
const RATE: u64 = 1_000;
/// What a call takes at a server that works.
const TAKES: Duration = Duration::from_millis(5);

#[sinew::service(name = "bench.Shop")]
trait Shop {
    #[rpc(idempotent)]
    async fn get(&self) -> Result<(), Status>;
}

/// What comes to the servers.
struct Counted {
    start: Instant,
    /// Calls in each second.
    seconds: Vec<AtomicU64>,
}

impl Counted {
    fn new(lasts: Duration) -> Self {
        Self {
            start: Instant::now(),
            seconds: (0..=lasts.as_secs() + 15).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn count(&self) {
        let second = usize::try_from(self.start.elapsed().as_secs()).expect("it is not long");
        self.seconds[second].fetch_add(1, Ordering::Relaxed);
    }

    fn of_seconds(&self, from: u64, to: u64) -> Vec<u64> {
        (from..to)
            .map(|second| self.seconds[usize::try_from(second).expect("few")].load(Ordering::Relaxed))
            .collect()
    }
}

/// A server that fails while it is told to.
#[derive(Clone)]
struct Last {
    counted: Arc<Counted>,
    /// From when to when, in seconds.
    fails: (f64, f64),
}

impl Shop for Last {
    async fn get(&self) -> Result<(), Status> {
        self.counted.count();
        let at = self.counted.start.elapsed().as_secs_f64();
        if (self.fails.0..self.fails.1).contains(&at) {
            return Err(Status::unavailable("out of order"));
        }
        sleep(TAKES).await;
        Ok(())
    }
}

/// A server that asks another.
struct Middle(ShopClient);

impl Shop for Middle {
    async fn get(&self) -> Result<(), Status> {
        self.0.get().await
    }
}

/// What a channel has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum With {
    /// Nothing else that would keep calls from servers that fail.
    RetriesOnly,
    /// All that it comes with.
    Defaults,
}

impl With {
    fn set(self, channel: ChannelBuilder) -> ChannelBuilder {
        match self {
            Self::RetriesOnly => channel.throttle(AdaptiveThrottle::NEVER),
            Self::Defaults => channel,
        }
    }

    /// The same where there are several servers.
    fn set_pool(self, channel: ChannelBuilder) -> ChannelBuilder {
        match self {
            Self::RetriesOnly => self.set(channel).balancer(RoundRobin).outlier_detection(OutlierDetection::NEVER),
            Self::Defaults => channel,
        }
    }
}

/// What came of the calls of a while.
#[derive(Default)]
struct Ends {
    calls: u64,
    succeeded: u64,
}

/// Measures what has `wanted` in its name with so many seeds.
pub(crate) fn rows(seeds: u64, wanted: &str) -> Vec<Row> {
    let scenes: [Scene; 7] = [
        ("a minute without any server that works", |seed| {
            outage(seed, With::RetriesOnly)
        }),
        ("the same behind two servers", |seed| {
            three_tiers(seed, With::RetriesOnly)
        }),
        ("one of ten servers fails", |seed| one_of_ten(seed, With::RetriesOnly)),
        (
            "ten thousand clients with a call in ten seconds, no server works",
            many_clients,
        ),
        ("a minute without any server that works, with the defaults", |seed| {
            outage(seed, With::Defaults)
        }),
        ("the same behind two servers, with the defaults", |seed| {
            three_tiers(seed, With::Defaults)
        }),
        ("one of ten servers fails, with the defaults", |seed| {
            one_of_ten(seed, With::Defaults)
        }),
    ];
    rows_of(&scenes, seeds, wanted)
}

/// From the 10th second to the 70th nothing works.
const OUTAGE: (f64, f64) = (10.0, 70.0);

fn outage(seed: u64, with: With) -> Vec<Figure> {
    in_virtual_time(async move {
        let counted = Arc::new(Counted::new(Duration::from_secs(75)));
        let (_servers, channel) = pool(&counted, 10, with, |_| OUTAGE).await;
        drive(&[channel], RATE, seed, Duration::from_secs(75)).await;
        amplification(&counted)
    })
}

fn three_tiers(seed: u64, with: With) -> Vec<Figure> {
    in_virtual_time(async move {
        let counted = Arc::new(Counted::new(Duration::from_secs(75)));
        let (_servers, mut channel) = pool(&counted, 10, with, |_| OUTAGE).await;
        let mut between = Vec::new();
        for _ in 0..2 {
            let middle = ShopServer::new(Middle(ShopClient::from_channel(channel)));
            let server = Server::builder().service(middle).bind(format!("mem:tier-{}", fastrand::u64(..)));
            let server = server.start().await.expect("it starts");
            channel = with.set(Channel::builder()).connect(&server.target()).await.expect("it is there");
            between.push(server);
        }
        drive(&[channel], RATE, seed, Duration::from_secs(75)).await;
        amplification(&counted)
    })
}

/// Of the outage.
fn amplification(counted: &Counted) -> Vec<Figure> {
    let seconds = counted.of_seconds(10, 70);
    let mean = seconds.iter().sum::<u64>() as f64 / (60 * RATE) as f64;
    // The generator itself is a call or two off at the ends of a second.
    let worst = seconds.iter().copied().max().unwrap_or_default() as f64 / RATE as f64;
    vec![
        (mean, Goal::AtMost(1.05), "calls made of one"),
        (worst, Goal::AtMost(1.10), "the same in the worst second"),
    ]
}

fn one_of_ten(seed: u64, with: With) -> Vec<Figure> {
    in_virtual_time(async move {
        let counted = Arc::new(Counted::new(Duration::from_secs(60)));
        let (_servers, channel) = pool(
            &counted,
            10,
            with,
            |number| if number == 3 { (0.0, 1e9) } else { (0.0, 0.0) },
        )
        .await;
        let ends = drive(&[channel], RATE, seed, Duration::from_secs(60)).await;
        let made: u64 = counted.of_seconds(0, 61).iter().sum();
        vec![
            (
                ends.succeeded as f64 / ends.calls as f64,
                Goal::AtLeast(0.9995),
                "answered",
            ),
            (made as f64 / ends.calls as f64, Goal::AtMost(1.13), "calls made of one"),
        ]
    })
}

fn many_clients(seed: u64) -> Vec<Figure> {
    in_virtual_time(async move {
        let counted = Arc::new(Counted::new(Duration::from_secs(60)));
        let (servers, _channel) = pool(&counted, 1, With::RetriesOnly, |_| (0.0, 1e9)).await;
        let target = servers[0].target();
        let mut channels = Vec::new();
        for _ in 0..10_000 {
            channels.push(Channel::lazy(&target).expect("it is an address"));
        }
        let ends = drive(&channels, RATE, seed, Duration::from_secs(60)).await;
        let made: u64 = counted.of_seconds(0, 61).iter().sum();
        vec![(made as f64 / ends.calls as f64, Goal::AtMost(1.2), "calls made of one")]
    })
}

/// Servers, and a channel to all of them with retries as they come.
async fn pool(
    counted: &Arc<Counted>,
    count: usize,
    with: With,
    fails: impl Fn(usize) -> (f64, f64),
) -> (Vec<Serving>, Channel) {
    let registry = MemRegistry::new();
    let mut servers = Vec::new();
    for number in 0..count {
        let last = Last {
            counted: Arc::clone(counted),
            fails: fails(number),
        };
        let server = Server::builder().service(ShopServer::new(last));
        let server = server.register(registry.clone()).bind(format!("mem:shop-{}", fastrand::u64(..)));
        servers.push(server.start().await.expect("it starts"));
    }
    let channel = with.set_pool(Channel::builder().resolver(registry.resolver("bench.Shop")));
    let channel = channel.connect("mem:///bench.Shop").await.expect("it is there");
    while channel.snapshot().endpoints.len() < count {
        sleep(Duration::from_millis(10)).await;
    }
    (servers, channel)
}

/// Makes calls at random times, each through one of the channels, whatever became of those before.
async fn drive(channels: &[Channel], rate: u64, seed: u64, lasts: Duration) -> Ends {
    let ends = Arc::new(Mutex::new(Ends::default()));
    let mut rng = fastrand::Rng::with_seed(seed);
    let start = Instant::now();
    let gap = Duration::from_secs(1) / u32::try_from(rate).expect("it is small");
    let mut at = Duration::ZERO;
    while at < lasts {
        sleep_until(start + at + gap.mul_f64(rng.f64())).await;
        at += gap;
        let client = ShopClient::from_channel(channels[rng.usize(..channels.len())].clone());
        let ends = Arc::clone(&ends);
        tokio::spawn(async move {
            let answer = client.get().timeout("2s").await;
            let mut ends = ends.lock().expect("nobody panicked");
            ends.calls += 1;
            ends.succeeded += u64::from(answer.is_ok());
        });
    }
    sleep(Duration::from_secs(10)).await;
    std::mem::take(&mut *ends.lock().expect("nobody panicked"))
}
