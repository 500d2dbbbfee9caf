//! 500 calls a second for each address, ten searches for each user, one export at a time for all: what is more is told when to come back.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::time::Duration;

use sinew::limits::{RateLimit, concurrency_limit, metadata, peer, rate_limit};
use sinew::{Channel, Code, RetryPolicy, Server, service};
use tokio::time::sleep;

#[service]
trait Search {
    async fn find(&self, text: &str) -> String;
    async fn export(&self) -> u32;
}

/// Has its limit at hand, so that it can be changed while calls come.
struct Index(RateLimit);

#[service]
#[interceptor(rate_limit(500, per = "1s", key = peer))]
impl Search for Index {
    #[interceptor(self.0)]
    async fn find(&self, text: &str) -> String {
        text.to_uppercase()
    }

    #[interceptor(concurrency_limit(1))]
    async fn export(&self) -> u32 {
        sleep(Duration::from_millis(50)).await;
        1_000
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // By what the caller says, which `peer`, the certificate or IP address, is not.
    let of_each = rate_limit(10).per("1s").key(metadata("user"));
    let index = SearchServer::new(Index(of_each.clone()));
    let server = Server::builder().service(index).bind("127.0.0.1:0").start().await?;
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await?;
    let search = SearchClient::from_channel(channel.clone());

    let mut found = 0;
    let refused = loop {
        match search.find("sinew").metadata("user", "ada").await {
            Ok(_) => found += 1,
            Err(status) => break status,
        }
    };
    println!("ada found {found}, then: {refused}");
    assert_eq!(
        (refused.policy(), refused.reason()),
        (Some("rate_limit"), Some("too_many_requests"))
    );
    assert_eq!(search.find("sinew").metadata("user", "bob").await?, "SINEW");

    // A client whose policy allows it waits for as long as it is told to, and asks again: nothing was done yet, so that is safe for any method.
    let patient = SearchClient::connect(&server.target()).await?;
    assert_eq!(patient.find("again").metadata("user", "ada").await?, "AGAIN");
    println!(
        "ada's patient client waited up to {:?}, and was answered",
        refused.retry_after()
    );

    of_each.set_limit(1_000);
    assert!(search.find("more").metadata("user", "ada").await.is_ok());

    let (one, other) = tokio::join!(search.export().into_future(), search.export().into_future());
    let Err(failed) = one.and(other) else {
        return Err("one of them is too many".into());
    };
    println!("two exports at once: {failed}");
    assert_eq!(
        (failed.code(), failed.policy()),
        (Code::ResourceExhausted, Some("concurrency_limit"))
    );
    Ok(())
}
