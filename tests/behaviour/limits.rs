//! Limits of calls as interceptors: where they stand, what they let through, and what they say to those that they do not.

use std::sync::Arc;
use std::time::Duration;

use sinew::limits::{ConcurrencyLimit, RateLimit, concurrency_limit, metadata, method, rate_limit, token_bucket};
use sinew::wire::EncodedMessage;
use sinew::{Channel, Code, HandlerRan, Origin, RetryPolicy, Server, Serving, Status, service};
use tokio::sync::Notify;
use tokio::time::{Instant, advance, sleep};

use crate::support::bounded;

#[service(name = "test.Limited")]
trait Limited {
    async fn two(&self, number: u32) -> u32;
    async fn of_tenant(&self) -> u32;
    async fn smooth(&self) -> u32;
    async fn hold(&self) -> u32;
    async fn wrong(&self) -> u32;
    async fn kept(&self) -> u32;
}

struct Handler {
    let_go: Arc<Notify>,
    kept: RateLimit,
    hold: ConcurrencyLimit,
}

#[service]
impl Limited for Handler {
    #[interceptor(rate_limit(2, per = "10s"))]
    async fn two(&self, number: u32) -> u32 {
        number
    }
    #[interceptor(rate_limit(1, per = "10s", key = metadata("tenant"), max_keys = 3))]
    async fn of_tenant(&self) -> u32 {
        1
    }
    #[interceptor(token_bucket(10, burst = 3))]
    async fn smooth(&self) -> u32 {
        1
    }
    #[interceptor(self.hold)]
    async fn hold(&self) -> u32 {
        self.let_go.notified().await;
        1
    }
    #[interceptor(rate_limit(1, per = "soon"))]
    async fn wrong(&self) -> u32 {
        1
    }
    #[interceptor(self.kept)]
    async fn kept(&self) -> u32 {
        1
    }
}

struct Parts {
    client: LimitedClient,
    channel: Channel,
    server: Serving,
    let_go: Arc<Notify>,
    kept: RateLimit,
    hold: ConcurrencyLimit,
}

async fn open(name: &str) -> Parts {
    let let_go = Arc::new(Notify::new());
    let (kept, hold) = (rate_limit(1).per("10s"), concurrency_limit(2));
    let handler = Handler {
        let_go: Arc::clone(&let_go),
        kept: kept.clone(),
        hold: hold.clone(),
    };
    let server = Server::builder().service(LimitedServer::new(handler)).bind(format!("mem:{name}"));
    let server = server.start().await.unwrap();
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await.unwrap();
    Parts {
        client: LimitedClient::from_channel(channel.clone()),
        channel,
        server,
        let_go,
        kept,
        hold,
    }
}

fn assert_refused(status: &Status, policy: &str, reason: &str) {
    assert_eq!(
        (status.code(), status.origin()),
        (Code::ResourceExhausted, Origin::Remote),
        "{status:?}"
    );
    assert_eq!((status.policy(), status.reason()), (Some(policy), Some(reason)));
    assert_eq!(status.handler_ran(), HandlerRan::No);
    assert!(status.retry_after().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_is_turned_away_before_it_is_decoded() {
    bounded(async {
        let parts = open("rate").await;
        let Parts {
            client,
            channel,
            server,
            ..
        } = &parts;
        assert_eq!(client.two(1).await.unwrap(), 1);
        assert_eq!(client.two(2).await.unwrap(), 2);
        let status = client.two(3).await.unwrap_err();
        assert_refused(&status, "rate_limit", "too_many_requests");
        let after = status.retry_after().unwrap();
        assert!(
            status.message().starts_with("more than 2 calls in 10s; try again after"),
            "{status}"
        );
        // Nobody reads what it does not take.
        let garbage = || EncodedMessage::from_encoded(bytes::Bytes::from_static(&[0xc1, 0xff]));
        let status = channel.call_raw("test.Limited/two", garbage(), None, None).await.unwrap_err();
        assert_refused(&status, "rate_limit", "too_many_requests");

        advance(after).await;
        assert_eq!(client.two(4).await.unwrap(), 4);
        assert_eq!(client.two(5).await.unwrap_err().code(), Code::ResourceExhausted);
        sleep(Duration::from_secs(30)).await;
        let status = channel.call_raw("test.Limited/two", garbage(), None, None).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
        // A caller that asks for too much is not a failure of the server's.
        assert_eq!(server.snapshot().failed, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_until_there_are_too_many() {
    bounded(async {
        let parts = open("keys").await;
        let Parts { client, .. } = &parts;
        let call =
            async |tenant: &str| client.of_tenant().metadata("tenant", tenant).await.map_err(|status| status.code());
        for tenant in ["a", "b", "c"] {
            assert_eq!(call(tenant).await, Ok(1));
            assert_eq!(call(tenant).await, Err(Code::ResourceExhausted));
        }
        // Further ones share.
        assert_eq!(
            (call("d").await, call("e").await),
            (Ok(1), Err(Code::ResourceExhausted))
        );
        assert_eq!(
            call("a").await,
            Err(Code::ResourceExhausted),
            "nobody is freed by strangers"
        );
        sleep(Duration::from_secs(30)).await;
        for tenant in ["d", "e", "f"] {
            assert_eq!(call(tenant).await, Ok(1));
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_turned_away_is_counted_by_method_and_policy() {
    bounded(async {
        let parts = open("counted").await;
        let Parts { client, server, .. } = &parts;
        assert!(server.snapshot().rejections.is_empty());
        for _ in 0..5 {
            let _refused_or_not = client.two(1).await;
        }
        let running: Vec<_> = (0..2).map(|_| tokio::spawn(client.hold().into_future())).collect();
        sleep(Duration::from_millis(10)).await;
        for _ in 0..4 {
            client.hold().await.unwrap_err();
        }
        parts.let_go.notify_waiters();
        for one in running {
            one.await.unwrap().unwrap();
        }
        let rejections = server.snapshot().rejections;
        let found: Vec<_> =
            rejections.iter().map(|one| (one.path.unwrap(), &*one.policy, &*one.reason, one.calls)).collect();
        assert_eq!(
            found,
            [
                ("test.Limited/two", "rate_limit", "too_many_requests", 3),
                ("test.Limited/hold", "concurrency_limit", "too_many_at_once", 4),
            ]
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_bucket_lets_a_burst_through_and_then_one_by_one() {
    bounded(async {
        let parts = open("bucket").await;
        let Parts { client, .. } = &parts;
        let mut passed = 0;
        let mut told = Vec::new();
        for _ in 0..6 {
            match client.smooth().await {
                Ok(_) => passed += 1,
                Err(status) => told.extend(status.retry_after()),
            }
        }
        assert_eq!(passed, 3);
        assert_eq!(told, [100, 200, 300].map(Duration::from_millis), "one after the other");
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            passed += u32::from(client.smooth().await.is_ok());
            sleep(Duration::from_millis(7)).await;
        }
        assert!((50..=54).contains(&passed), "{passed} of 50 in five seconds, and 3");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_at_a_time_are_free_again_however_they_end() {
    bounded(async {
        let parts = open("at_a_time").await;
        let Parts {
            client, let_go, hold, ..
        } = &parts;
        let held: Vec<_> = (0..2).map(|_| tokio::spawn(client.hold().into_future())).collect();
        sleep(Duration::from_millis(1)).await;
        let status = client.hold().await.unwrap_err();
        assert_refused(&status, "concurrency_limit", "too_many_at_once");
        // One is answered, the other given up.
        let_go.notify_one();
        held[1].abort();
        sleep(Duration::from_millis(10)).await;
        assert_eq!(hold.keys(), 0);
        let third = tokio::spawn(client.hold().into_future());
        sleep(Duration::from_millis(1)).await;
        hold.set_limit(1);
        assert_eq!(client.hold().await.unwrap_err().code(), Code::ResourceExhausted);
        let_go.notify_one();
        assert_eq!(third.await.unwrap().unwrap(), 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_is_kept_can_be_changed() {
    bounded(async {
        let parts = open("kept").await;
        let Parts { client, kept, .. } = &parts;
        assert!(client.kept().await.is_ok());
        assert!(client.kept().await.is_err());
        kept.set_limit(3);
        assert!(client.kept().await.is_ok() && client.kept().await.is_ok());
        assert!(client.kept().await.is_err());
        kept.set_limit(0);
        sleep(Duration::from_secs(60)).await;
        assert!(client.kept().await.is_err(), "nothing at all");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_wrong_setting_is_told_at_each_call() {
    bounded(async {
        let parts = open("wrong_limit").await;
        let Parts { client, .. } = &parts;
        let status = client.wrong().await.unwrap_err();
        assert_eq!((status.code(), status.policy()), (Code::Internal, None));
        assert!(
            status.message().starts_with("a limit of calls is set wrong: `per`: invalid duration \"soon\""),
            "{status}"
        );
        for (limit, told) in [
            (rate_limit(1).per("0s"), "`per` is 0ns; it must be 1 ms to a day"),
            (rate_limit(1).per("25h"), "it must be 1 ms to a day"),
            (
                rate_limit(1).burst(3),
                "a window has no `burst`; use `token_bucket(..)`",
            ),
        ] {
            let (limited, _server) = client_with(&limit).await;
            let status = limited.kept().await.unwrap_err();
            assert!(status.message().contains(told), "{status}");
        }
    })
    .await;
}

/// A client that limits itself, and its server.
async fn client_with(limit: &RateLimit) -> (LimitedClient, Serving) {
    let Parts { channel, server, .. } = open(&crate::support::fixture::unique("limits")).await;
    (
        LimitedClient::from_channel(channel.with_interceptor(limit.clone())),
        server,
    )
}

#[tokio::test(start_paused = true)]
async fn a_client_can_limit_itself() {
    bounded(async {
        let (client, _server) = client_with(&rate_limit(1).key(method)).await;
        assert!(client.two(1).await.is_ok() && client.smooth().await.is_ok());
        let status = client.two(1).await.unwrap_err();
        assert_eq!((status.policy(), status.origin()), (Some("rate_limit"), Origin::Local));
        assert_eq!(status.handler_ran(), HandlerRan::No);
    })
    .await;
}
