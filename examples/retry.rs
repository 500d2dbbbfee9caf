//! A server that fails now and then: calls that may run twice are made again, and when everything fails nothing is made worse.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sinew::{AdaptiveThrottle, Channel, Cx, RetryPolicy, Server, Status, service};

#[service]
trait Stock {
    #[rpc(idempotent)] // reading twice does no harm
    async fn count(&self, cx: &Cx) -> Result<u32, Status>;
    async fn take(&self) -> Result<(), Status>;
}

#[derive(Default)]
struct Store {
    asked: AtomicU32,
}

impl Stock for Store {
    async fn count(&self, cx: &Cx) -> Result<u32, Status> {
        // Every tenth call fails, and all of them from the 200th on.
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if number >= 200 || number % 10 == 9 {
            return Err(Status::unavailable("the disk is busy"));
        }
        Ok(cx.attempt())
    }
    async fn take(&self) -> Result<(), Status> {
        Err(Status::unavailable("the disk is busy"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().service(StockServer::new(Store::default())).bind("127.0.0.1:0").start().await?;
    // What it does without a word: up to three attempts. Here each has half a second, too.
    let policy = RetryPolicy::DEFAULT.attempt_timeout(Duration::from_millis(500));
    // The throttle, which would not even make most of the calls at the end, is another example's.
    let channel = Channel::builder().retry(policy).throttle(AdaptiveThrottle::NEVER);
    let channel = channel.connect(&server.target()).await?;
    let stock = StockClient::from_channel(channel.clone());

    let mut again = 0;
    for _ in 0..150 {
        again += u32::from(stock.count().await? > 1);
    }
    println!("150 calls, none failed; {again} of them at the second attempt");
    assert!(again > 10);

    // What may have had an effect is not done twice.
    let Err(status) = stock.take().await else {
        return Err("it fails".into());
    };
    println!(
        "`take` is not marked idempotent: {status}, and the handler ran: {:?}",
        status.handler_ran()
    );

    // Now everything fails. Retries are paid for by calls that succeed, so hardly any is made.
    let before = channel.snapshot().retries;
    for _ in 0..300 {
        let _failed = stock.count().await;
    }
    let snapshot = channel.snapshot();
    let retries = snapshot.retries - before;
    println!(
        "300 calls that cannot succeed: {retries} retries, {} were not worth it",
        snapshot.retries_withheld
    );
    assert!(retries <= 40 && snapshot.retries_withheld > 200);
    Ok(())
}
