//! Tests without a network: a mock made of closures, and a real handler behind the real codec.

use sinew::{Code, Status, service};

/// Knows prices. `mock` makes `PricesMock`; `transparent` makes the client an implementation of the trait too.
#[service(mock, transparent)]
pub trait Prices {
    /// The price of a thing, in cents.
    async fn price(&self, thing: &str) -> Result<u64, Status>;
    /// Changes it.
    async fn change(&self, thing: &str, cents: u64) -> Result<(), Status>;
}

/// The code under test: it takes a handler, a client or a mock.
async fn total(prices: &impl Prices, things: &[&str]) -> Result<u64, Status> {
    let mut total = 0;
    for thing in things {
        total += prices.price(thing).await?;
    }
    Ok(total)
}

struct PriceList;

impl Prices for PriceList {
    async fn price(&self, thing: &str) -> Result<u64, Status> {
        match thing {
            "tea" => Ok(350),
            "cake" => Ok(475),
            _ => Err(Status::not_found(format!("no price for {thing}"))),
        }
    }

    async fn change(&self, _thing: &str, _cents: u64) -> Result<(), Status> {
        Err(Status::permission_denied("prices are printed"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // A mock: set what the test needs; the rest says which setter was forgotten.
    let mock = PricesMock::new().price(|_| async { Ok(100) });
    assert_eq!(total(&mock, &["a", "b", "c"]).await?, 300);
    let unset = Prices::change(&mock, "a", 1).await;
    assert!(unset.is_err_and(|status| status.code() == Code::Unimplemented && status.message().contains("change")));

    // The handler itself: a plain method call.
    assert_eq!(total(&PriceList, &["tea", "cake"]).await?, 825);

    // A client without a socket: arguments and replies are encoded, interceptors run, deadlines hold.
    let local = PricesClient::local(PriceList);
    assert_eq!(total(&local, &["tea", "cake"]).await?, 825);
    let missing = total(&local, &["gold"]).await;
    assert!(missing.is_err_and(|status| status.code() == Code::NotFound));

    // The same for a mock, to see what a caller makes of a failing server.
    let failing = PricesClient::local(PricesMock::new().price(|_| async { Err(Status::unavailable("gone")) }));
    assert!(total(&failing, &["tea"]).await.is_err_and(|status| status.is_retryable()));
    Ok(())
}
