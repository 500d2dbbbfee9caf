//! A balancer of one's own: calls of a customer go to the shard that has the customer's data.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;

use sinew::{Balancer, Candidate, Channel, PickArgs, Picker, Server, Serving, Status, service};

#[service]
trait Accounts {
    async fn shard(&self) -> Result<usize, Status>;
}

struct Shard(usize);

impl Accounts for Shard {
    async fn shard(&self) -> Result<usize, Status> {
        Ok(self.0)
    }
}

/// The shard is the customer's number, modulo the number of shards.
#[derive(Debug)]
struct ByCustomer {
    shards: Vec<String>,
}

/// Where each shard stands in the list of those that are ready.
struct Shards(Vec<Option<usize>>);

impl Balancer for ByCustomer {
    fn picker(&self, ready: &[Candidate]) -> Arc<dyn Picker> {
        let place = |shard: &String| ready.iter().position(|one| one.endpoint().name() == shard);
        Arc::new(Shards(self.shards.iter().map(place).collect()))
    }
}

impl Picker for Shards {
    fn pick(&self, args: &PickArgs<'_>) -> Option<usize> {
        let customer: usize = args.metadata()?.get("customer")?.parse().ok()?;
        // A shard that is not there is not replaced by another: such calls wait for it.
        *self.0.get(customer % self.0.len())?
    }
}

async fn serve(shard: usize) -> Result<Serving, sinew::ServerError> {
    Server::builder().service(AccountsServer::new(Shard(shard))).bind("127.0.0.1:0").start().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = [serve(0).await?, serve(1).await?, serve(2).await?];
    let shards: Vec<String> = servers.iter().map(Serving::target).collect();
    let target = format!("static:///{}", shards.join(","));
    let channel = Channel::builder().balancer(ByCustomer { shards }).connect(&target).await?;
    let accounts = AccountsClient::from_channel(channel);
    for customer in [7, 8, 9, 700] {
        let shard = accounts.shard().metadata("customer", customer.to_string()).await?;
        println!("customer {customer}: shard {shard}");
        assert_eq!(shard, customer % 3);
    }
    Ok(())
}
