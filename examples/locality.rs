//! Calls stay in the zone of their client as long as its servers are no busier than the others, by what all report of their load.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use sinew::{Channel, Instance, MemRegistry, Server, ServerLoad, Serving, Status, service};

#[service]
trait Stock {
    async fn count(&self, item: u64) -> Result<u64, Status>;
}

struct Shelf;

impl Stock for Shelf {
    async fn count(&self, item: u64) -> Result<u64, Status> {
        Ok(item % 7)
    }
}

/// A server in a zone, which says how much of its capacity it uses; most leave that to the default, the time of their processors.
async fn serve(registry: &MemRegistry, zone: &str, load: &ServerLoad) -> Result<Serving, sinew::ServerError> {
    Server::builder()
        .service(StockServer::new(Shelf))
        .bind("127.0.0.1:0")
        .register(registry.clone())
        .instance(Instance::new().zone(zone))
        .load(load.clone())
        .start()
        .await
}

/// Makes calls until so much of them stays in the zone.
async fn until(channel: &Channel, is_so: impl Fn(f64) -> bool) -> Result<f64, Box<dyn Error>> {
    let stock = StockClient::from_channel(channel.clone());
    for item in 0..5_000 {
        stock.count(item).await?;
        match channel.snapshot().zone_share {
            Some(share) if is_so(share) => return Ok(share),
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
    Err("nothing changed".into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let registry = MemRegistry::new();
    let (near, far) = (ServerLoad::new(), ServerLoad::new());
    let ours = serve(&registry, "eu-1a", &near).await?;
    let _others = (
        serve(&registry, "eu-1b", &far).await?,
        serve(&registry, "eu-1c", &far).await?,
    );
    near.set_utilization(0.05);
    far.set_utilization(0.2);

    let channel = Channel::builder().resolver(registry.resolver("Stock")).zone("eu-1a").connect("Stock").await?;
    let stock = StockClient::from_channel(channel.clone());
    for item in 0..100 {
        stock.count(item).await?;
    }
    assert_eq!(ours.snapshot().answered, 100);
    println!("100 of 100 calls stay in the zone");

    // All clients of this zone together have made it busy.
    near.set_utilization(0.9);
    let share = until(&channel, |share| share < 0.7).await?;
    println!("it has more to do than the others: {:.0} % stay", share * 100.0);

    near.set_utilization(0.05);
    let share = until(&channel, |share| share == 1.0).await?;
    println!("it has little to do again: {:.0} % stay", share * 100.0);
    Ok(())
}
