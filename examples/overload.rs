//! From half of what a server can do to eight times of it: it answers as much as it can, quickly, and says no to the rest at once.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sinew::{AdaptiveThrottle, Channel, Code, RetryPolicy, Server, service};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

#[service]
trait Render {
    async fn page(&self);
}

/// Eight workers, 10 ms each: 800 pages a second. Nobody tells the server.
struct Workers(Semaphore);

impl Render for Workers {
    async fn page(&self) {
        let _worker = self.0.acquire().await;
        sleep(Duration::from_millis(10)).await;
    }
}

const CAPACITY: f64 = 800.0;

/// Calls at that rate for two seconds: how many are answered in a second within 100 ms, and how many are turned away.
async fn offer(client: &RenderClient, rate: f64) -> (f64, f64) {
    let counts: Arc<[AtomicU32; 2]> = Arc::default();
    let start = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    let mut number = 0.0;
    while number < rate * 2.0 {
        sleep_until(start + Duration::from_secs_f64(number / rate)).await;
        number += 1.0;
        let (client, counts) = (client.clone(), Arc::clone(&counts));
        calls.spawn(async move {
            match client.page().timeout("100ms").await {
                Ok(()) => counts[0].fetch_add(1, Ordering::Relaxed),
                Err(status) if status.code() == Code::ResourceExhausted => counts[1].fetch_add(1, Ordering::Relaxed),
                Err(_) => 0,
            };
        });
    }
    while calls.join_next().await.is_some() {}
    let per_second = |at: usize| f64::from(counts[at].load(Ordering::Relaxed)) / 2.0;
    (per_second(0), per_second(1))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().service(RenderServer::new(Workers(Semaphore::new(8))));
    let server = server.bind("127.0.0.1:0").start().await?;
    // It makes all calls that it is asked to, and each once.
    let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
    let channel = channel.connect(&server.target()).await?;
    let client = RenderClient::from_channel(channel);
    offer(&client, CAPACITY * 2.0).await; // it finds its limit

    println!("offered/s  answered/s                                 turned away/s");
    let mut worst: f64 = 1.0;
    for times in [0.5, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0] {
        let (answered, refused) = offer(&client, CAPACITY * times).await;
        let bar = "#".repeat((0..30).filter(|at| f64::from(*at) < answered / CAPACITY * 30.0).count());
        println!("{:9.0}  {answered:5.0} {bar:<30} {refused:9.0}", CAPACITY * times);
        worst = worst.min(answered / (CAPACITY * times.min(1.0)));
    }
    let found = server.snapshot().admission.and_then(|admission| admission.methods.first()?.limit);
    println!("the limit it found: {found:?}");
    println!("the worst of these: {:.0} % of what was possible", worst * 100.0);
    assert!(worst > 0.4, "a loaded machine is no reason to answer nobody");
    Ok(())
}
