//! A service that breaks: a circuit breaker stops calling it, finds out when it works again, and is set while calls run.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use sinew::{Channel, CircuitBreaker, Server, Status, service};
use tokio::time::sleep;

#[service]
trait Payments {
    async fn pay(&self, cents: u32) -> Result<(), Status>;
}

#[derive(Clone, Default)]
struct Bank {
    is_broken: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
}

impl Payments for Bank {
    async fn pay(&self, _cents: u32) -> Result<(), Status> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        match self.is_broken.load(Ordering::Relaxed) {
            true => Err(Status::internal("the vault is jammed")),
            false => Ok(()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let bank = Bank::default();
    let server = Server::builder().service(PaymentsServer::new(bank.clone())).bind("127.0.0.1:0").start().await?;
    // By default there is none. This one opens when half of 10 calls fail, and for 300 ms. The same in a service's configuration, for one method:
    // {"methods": {"pay": {"circuit_breaker": {"calls_min": 10, "open_for": "300ms"}}}}
    let breaker = CircuitBreaker::DEFAULT.calls_min(10).open_for(Duration::from_millis(300));
    let channel = Channel::builder().circuit_breaker(breaker).connect(&server.target()).await?;
    let payments = PaymentsClient::from_channel(channel.clone());

    bank.is_broken.store(true, Ordering::Relaxed);
    let mut refused = None;
    for cents in 0..1_000 {
        refused = payments.pay(cents).await.err();
    }
    println!("of 1,000 calls {} came to the bank", bank.asked.load(Ordering::Relaxed));
    let refused = refused.ok_or("the last call fails")?;
    println!("the others were told: {refused}");
    println!("by {:?}, because it is {:?}", refused.policy(), refused.reason());
    assert!(bank.asked.load(Ordering::Relaxed) <= 20);

    bank.is_broken.store(false, Ordering::Relaxed);
    sleep(Duration::from_millis(400)).await;
    // A few find out, and the others follow.
    for cents in 0..100 {
        payments.pay(cents).await?;
    }
    let methods = channel.snapshot().methods;
    println!(
        "it works again: {:?}",
        methods.iter().map(|method| method.breaker).collect::<Vec<_>>()
    );
    Ok(())
}
