//! Calls to several servers, one of which is slow: by turns it holds up a third of them, by the default balancer hardly any.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use sinew::{Balancer, Channel, PeakEwma, RoundRobin, Server, Serving, Status, service};
use tokio::time::Instant;

const SLOW: Duration = Duration::from_millis(200);

#[service]
trait Work {
    async fn work(&self) -> Result<(), Status>;
}

struct Worker(Duration);

impl Work for Worker {
    async fn work(&self) -> Result<(), Status> {
        tokio::time::sleep(self.0).await;
        Ok(())
    }
}

async fn serve(takes: Duration) -> Result<Serving, sinew::ServerError> {
    Server::builder().service(WorkServer::new(Worker(takes))).bind("127.0.0.1:0").start().await
}

/// How many of 300 calls, one every 2 ms, were slow.
async fn slow_calls(target: &str, balancer: impl Balancer) -> Result<usize, Box<dyn Error>> {
    let channel = Channel::builder().balancer(balancer).connect(target).await?;
    let mut calls = Vec::new();
    for _ in 0..300 {
        let work = WorkClient::from_channel(channel.clone());
        calls.push(tokio::spawn(async move {
            let began = Instant::now();
            work.work().await.map(|()| began.elapsed())
        }));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let mut slow = 0;
    for call in calls {
        slow += usize::from(call.await?? >= SLOW);
    }
    Ok(slow)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let servers = [
        serve(Duration::from_millis(2)).await?,
        serve(SLOW).await?,
        serve(Duration::from_millis(2)).await?,
    ];
    let addresses: Vec<String> = servers.iter().map(Serving::target).collect();
    let target = format!("static:///{}", addresses.join(","));

    let in_turn = slow_calls(&target, RoundRobin).await?;
    let by_load = slow_calls(&target, PeakEwma).await?;
    println!("slow calls of 300: {in_turn} in turn, {by_load} by load");
    assert!(by_load * 2 < in_turn);
    Ok(())
}
