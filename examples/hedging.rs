//! One of three replicas is slow: calls that take long are made a second time elsewhere, and the slow one is soon left alone.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use sinew::{Channel, HedgingPolicy, Instance, MemRegistry, OutlierDetection, RoundRobin, Server, service};
use tokio::time::{Instant, sleep};

#[service]
trait Prices {
    #[rpc(idempotent)] // asking twice does no harm
    async fn of(&self, item: u32) -> u32;
}

struct Replica {
    takes: Duration,
}

impl Prices for Replica {
    async fn of(&self, item: u32) -> u32 {
        sleep(self.takes).await;
        item * 100
    }
}

/// The slowest of so many calls.
async fn slowest(prices: &PricesClient, calls: u32) -> Result<Duration, Box<dyn Error>> {
    let mut slowest = Duration::ZERO;
    for item in 0..calls {
        let begun = Instant::now();
        prices.of(item).await?;
        slowest = slowest.max(begun.elapsed());
    }
    Ok(slowest)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = MemRegistry::new();
    let mut servers = Vec::new();
    for (name, millis) in [("first", 2), ("second", 2), ("slow", 500)] {
        let replica = Replica {
            takes: Duration::from_millis(millis),
        };
        let server = Server::builder().service(PricesServer::new(replica)).bind("127.0.0.1:0");
        servers.push(server.register(registry.clone()).instance(Instance::new().name(name)).start().await?);
    }
    // In turn, and whatever happens, so that the difference shows.
    let in_turn = || Channel::builder().resolver(registry.resolver("Prices")).balancer(RoundRobin);
    let once = in_turn().outlier_detection(OutlierDetection::NEVER).connect("mem:///Prices").await?;
    println!(
        "once:          the slowest of 9 took {:?}",
        slowest(&PricesClient::from_channel(once), 9).await?
    );

    // After 50 ms, for at most every other call. Without `after`: after as long as 98 of 100 answers take.
    let policy = HedgingPolicy::DEFAULT.after(Duration::from_millis(50)).budget(0.5);
    let hedged = in_turn().hedging(policy).connect("mem:///Prices").await?;
    let prices = PricesClient::from_channel(hedged.clone());
    // What is saved for second calls comes from those before.
    slowest(&prices, 9).await?;
    println!(
        "and if needed again: the slowest of 200 took {:?}",
        slowest(&prices, 200).await?
    );

    let snapshot = hedged.snapshot();
    assert!(snapshot.hedges > 0);
    let ejected = snapshot.endpoints.iter().find_map(|one| Some((one.endpoint.name(), one.ejected.as_deref()?)));
    println!(
        "{} calls were made a second time; ejected: {ejected:?}",
        snapshot.hedges
    );
    Ok(())
}
