//! Connections that have an age.

use std::time::Duration;

use sinew::{Channel, Code, Server, ServerError, Status, Streaming, service};

use crate::support::fixture::unique;
use crate::support::{bounded, until};

#[service]
trait Aged {
    async fn ping(&self) -> Result<u32, Status>;
    async fn endless(&self) -> Result<Streaming<u32>, Status>;
}

struct Handler;

impl Aged for Handler {
    async fn ping(&self) -> Result<u32, Status> {
        Ok(1)
    }

    async fn endless(&self) -> Result<Streaming<u32>, Status> {
        Ok(Streaming::from(futures_util::stream::pending()))
    }
}

/// Through a hundred ages and more: every call is answered, by a channel to the address and by one to a service.
#[tokio::test(start_paused = true)]
async fn connections_leave_at_their_age_and_no_call_fails() {
    let name = unique("aged");
    let server = Server::builder().service(AgedServer::new(Handler)).max_connection_age("1s");
    let serving = server.bind(format!("mem:{name}")).start().await.unwrap();
    for target in [format!("mem:{name}"), format!("static:///mem:{name}")] {
        let channel = Channel::connect(&target).await.unwrap();
        let client = AgedClient::from_channel(channel);
        for _ in 0..20_000 {
            assert_eq!(client.ping().await, Ok(1));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(serving.connections() <= 2, "{} connections", serving.connections());
    }
}

/// What runs has the grace to end, and then it is ended; new calls go on elsewhere.
#[tokio::test(start_paused = true)]
async fn what_runs_beyond_the_grace_is_ended() {
    let name = unique("aged");
    let server = Server::builder().service(AgedServer::new(Handler));
    let server = server.max_connection_age("1s").max_connection_age_grace("2s").bind(format!("mem:{name}"));
    let serving = server.start().await.unwrap();
    let client = AgedClient::from_channel(Channel::connect(&format!("mem:{name}")).await.unwrap());
    let begun = tokio::time::Instant::now();
    let mut stream = client.endless().await.unwrap();
    let ended = bounded(stream.next()).await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable);
    let after = begun.elapsed();
    assert!((2_900..3_200).contains(&after.as_millis()), "{after:?}");
    assert_eq!(client.ping().await, Ok(1));
    until("the old one is gone", || serving.connections() == 1).await;
}

#[tokio::test]
async fn ages_that_cannot_be_are_refused() {
    for (age, grace, told) in [
        ("0s", "1s", "max_connection_age"),
        ("366d", "1s", "max_connection_age"),
        ("1s", "0s", "max_connection_age_grace"),
        ("soon", "1s", "max_connection_age"),
    ] {
        let server = Server::builder().service(AgedServer::new(Handler)).bind("mem:never");
        let error = server.max_connection_age(age).max_connection_age_grace(grace).start().await.unwrap_err();
        assert!(
            matches!(error, ServerError::Config(_) | ServerError::Duration { .. }) && error.to_string().contains(told),
            "{error}"
        );
    }
}
