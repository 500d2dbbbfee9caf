//! Faults on purpose: what retries make of lost and failed attempts, switched on and off while calls run.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use sinew::faults::{Fault, Faults};
use sinew::{Channel, Code, RetryPolicy, Server, service};

#[service]
trait Stock {
    #[rpc(idempotent)] // asking twice does no harm
    async fn count(&self, item: u32) -> u32;
}

struct Shelf;

impl Stock for Shelf {
    async fn count(&self, item: u32) -> u32 {
        item % 7
    }
}

/// How many of so many calls failed.
async fn failed(stock: &StockClient, calls: u32) -> u32 {
    let mut failed = 0;
    for item in 0..calls {
        failed += u32::from(stock.count(item).await.is_err());
    }
    failed
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = Server::builder().service(StockServer::new(Shelf)).bind("127.0.0.1:0").start().await?;
    // Does nothing until it is told to, here or by the configuration of the service. For a server: `Server::builder().faults(faults.clone())`.
    let faults = Faults::new();
    let retry = RetryPolicy::DEFAULT.attempt_timeout(Duration::from_millis(50));
    let channel = Channel::builder().retry(retry).faults(faults.clone()).connect(&server.target()).await?;
    let stock = StockClient::from_channel(channel.clone());
    println!("before:         {} of 500 calls failed", failed(&stock, 500).await);

    faults.set([
        Fault::error(Code::Unavailable).percent(5.0),
        Fault::drop().percent(1.0).method("Stock/count"),
        Fault::delay("5ms").percent(10.0),
    ]);
    println!("the game is on: {} of 500 calls failed", failed(&stock, 500).await);
    println!(
        "                {:?}, {} retries",
        faults.counts(),
        channel.snapshot().retries
    );

    // A call that is known by its metadata can be hit alone, on a server in production too.
    faults.set([Fault::error(Code::Internal).only("x-game", "on")]);
    let hit = stock.count(3).metadata("x-game", "on").await;
    println!("chosen:         {}", hit.err().ok_or("it is hit")?);
    assert_eq!(failed(&stock, 100).await, 0);
    faults.clear();
    Ok(())
}
