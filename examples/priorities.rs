//! Three times as many calls as a server can answer: the ones that matter get through.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sinew::{Channel, Cx, Priority, RetryPolicy, Server, service};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

#[service]
trait Shop {
    async fn order(&self, cx: &Cx) -> String;
}

/// Eight workers, 10 ms each: 800 orders a second.
struct Workers(Semaphore);

impl Shop for Workers {
    async fn order(&self, cx: &Cx) -> String {
        let _worker = self.0.acquire().await;
        sleep(Duration::from_millis(10)).await;
        cx.priority().to_string()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // All clients are our own here. Otherwise only those with a certificate may say that a call is critical.
    let server = Server::builder().service(ShopServer::new(Workers(Semaphore::new(8)))).trust_priorities();
    let server = server.bind("127.0.0.1:0").start().await?;
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await?;
    let client = ShopClient::from_channel(channel);

    // Calls on behalf of a call have its priority; so has everything that is done within a context.
    let batch = Cx::new().with_priority(Priority::Background);
    println!(
        "within a batch job: {}",
        batch.carry_in(async { client.order().await }).await?
    );

    // Of each twelve calls three are critical, three normal, three low and three in the background.
    let answered: Arc<[AtomicU32; 4]> = Arc::default();
    let start = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    const CALLS: u32 = 2_400 * 4;
    for number in 0..CALLS {
        sleep_until(start + Duration::from_secs(4).mul_f64(f64::from(number) / f64::from(CALLS))).await;
        let priority = Priority::ALL[usize::try_from(number % 4)?];
        let (client, answered) = (client.clone(), Arc::clone(&answered));
        // The first second is the server's, to find out how much it can do.
        let counts = number >= CALLS / 4;
        calls.spawn(async move {
            let is_answered = client.order().priority(priority).timeout("250ms").await.is_ok();
            if is_answered && counts {
                answered[priority.index()].fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    while calls.join_next().await.is_some() {}
    let shares = Priority::ALL.map(|priority| {
        f64::from(answered[priority.index()].load(Ordering::Relaxed)) / f64::from(CALLS / 4 * 3 / 4) * 100.0
    });
    for priority in Priority::ALL.into_iter().rev() {
        println!("{:>10}: {:3.0} % answered", priority, shares[priority.index()]);
    }
    let [background, _, _, critical] = shares;
    assert!(critical > 60.0 && critical > background + 30.0, "{shares:?}");
    Ok(())
}
