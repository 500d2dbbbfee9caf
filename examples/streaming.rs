//! The four kinds of methods: one value or a stream of them, in each direction.

use std::future::ready;

use futures_util::StreamExt;
use sinew::{Server, Status, Streaming, service};

/// Adds numbers up.
#[service]
pub trait Sums {
    /// One value in, one value out.
    async fn add(&self, a: u64, b: u64) -> u64;
    /// One value in, a stream out: a stream can always fail, hence the `Result`.
    async fn count(&self, to: u64) -> Result<Streaming<u64>, Status>;
    /// A stream in, one value out.
    async fn total(&self, numbers: Streaming<u64>) -> Result<u64, Status>;
    /// A stream in, a stream out.
    async fn running(&self, numbers: Streaming<u64>) -> Result<Streaming<u64>, Status>;
}

struct Abacus;

impl Sums for Abacus {
    async fn add(&self, a: u64, b: u64) -> u64 {
        a + b
    }

    async fn count(&self, to: u64) -> Result<Streaming<u64>, Status> {
        if to == 0 {
            return Err(Status::invalid_argument("nothing to count"));
        }
        Ok(Streaming::iter(1..=to))
    }

    async fn total(&self, mut numbers: Streaming<u64>) -> Result<u64, Status> {
        let mut total = 0;
        while let Some(number) = numbers.next().await {
            total += number?;
        }
        Ok(total)
    }

    async fn running(&self, numbers: Streaming<u64>) -> Result<Streaming<u64>, Status> {
        let sums = numbers.scan(0, |sum, number| {
            ready(Some(number.map(|number| {
                *sum += number;
                *sum
            })))
        });
        Ok(Streaming::from(sums))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().service(SumsServer::new(Abacus)).bind("127.0.0.1:0").start().await?;
    let sums = SumsClient::connect(&server.target()).await?;

    assert_eq!(sums.add(1, 2).await?, 3);
    assert_eq!(sums.count(4).await?.collect().await?, [1, 2, 3, 4]);
    assert_eq!(sums.total(Streaming::iter(1..=100)).await?, 5050);

    // Fed by hand: each answer arrives before the next number leaves.
    let (sender, numbers) = Streaming::channel(1);
    let mut running = sums.running(numbers).await?;
    for (number, sum) in [(1, 1), (10, 11), (100, 111)] {
        sender.send(number).await?;
        assert_eq!(running.next().await.transpose()?, Some(sum));
    }
    // Dropping the sender ends the client's half; the server's half ends after it.
    drop(sender);
    assert_eq!(running.next().await, None);
    Ok(())
}
