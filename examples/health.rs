//! A server that says how it is: when its database is gone, its clients make their calls elsewhere, and come back when it is there again.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use sinew::{Channel, Health, HealthStatus, RoundRobin, Server, Serving, Status, service};

#[service(name = "shop.Orders")]
trait Orders {
    async fn answered_by(&self) -> Result<String, Status>;
}

struct Shop(&'static str);

impl Orders for Shop {
    async fn answered_by(&self) -> Result<String, Status> {
        Ok(self.0.to_owned())
    }
}

async fn serve(name: &'static str, health: &Health) -> Result<Serving, sinew::ServerError> {
    Server::builder()
        .service(OrdersServer::new(Shop(name)))
        .health(health.clone())
        .bind("127.0.0.1:0")
        .start()
        .await
}

/// Who answers how many of 100 calls; none of them fails.
async fn answers(orders: &OrdersClient) -> Result<BTreeMap<String, usize>, Status> {
    let mut counts = BTreeMap::new();
    for _ in 0..100 {
        *counts.entry(orders.answered_by().await?).or_default() += 1;
    }
    Ok(counts)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let database = Health::new();
    let (first, second) = (serve("first", &database).await?, serve("second", &Health::new()).await?);
    let target = format!("static:///{},{}", first.target(), second.target());
    let channel = Channel::builder().balancer(RoundRobin).connect(&target).await?;
    let orders = OrdersClient::from_channel(channel);
    while answers(&orders).await?.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("both serve:               {:?}", answers(&orders).await?);

    // Whoever looks after the database says so; nobody else has to know.
    database.set_overall(HealthStatus::NotServing);
    while answers(&orders).await?.contains_key("first") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let left = answers(&orders).await?;
    println!("the first has no database: {left:?}");
    assert_eq!(left.len(), 1);

    // What a probe of the platform asks, of one server.
    let probe = Channel::connect(&first.target()).await?;
    println!("the first says of itself: {}", probe.health_of("shop.Orders").await?);
    assert_eq!(probe.health_of("shop.Orders").await?, HealthStatus::NotServing);

    database.set_overall(HealthStatus::Serving);
    while answers(&orders).await?.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("it has one again:         {:?}", answers(&orders).await?);
    Ok(())
}
