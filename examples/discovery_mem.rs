//! A service that is found by its name: servers register while they serve, a client follows who is there. `mem:///` is the registry of this process;
//! with the feature `etcd`, `.register(Etcd::new(..)?)` and `etcd://host:port/service` do the same across machines.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::collections::BTreeMap;
use std::error::Error;
use std::time::Duration;

use sinew::{Channel, Drain, Instance, MemRegistry, Server, Serving, Status, service};

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

async fn serve(name: &'static str) -> Result<Serving, sinew::ServerError> {
    Server::builder()
        .service(OrdersServer::new(Shop(name)))
        .bind("127.0.0.1:0")
        .register(MemRegistry::shared())
        .instance(Instance::new().zone("eu-1").label("name", name))
        .drain(Drain::default().lame_duck("50ms"))
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
    let first = serve("first").await?;
    let channel = Channel::connect("mem:///shop.Orders").await?;
    let orders = OrdersClient::from_channel(channel.clone());
    println!("one server:            {:?}", answers(&orders).await?);

    let _second = serve("second").await?;
    while answers(&orders).await?.len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("another one came:      {:?}", answers(&orders).await?);

    // It is marked as draining first, so that calls go elsewhere before it leaves.
    first.shutdown().await;
    let left = answers(&orders).await?;
    println!("the first one has left: {left:?}");
    assert_eq!(left.keys().map(String::as_str).collect::<Vec<_>>(), ["second"]);
    Ok(())
}
