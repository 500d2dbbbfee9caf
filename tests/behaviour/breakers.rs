//! Calls that are not made because most of them would fail: the throttle, and the circuit breaker.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sinew::{
    AdaptiveThrottle, BreakerState, Channel, CircuitBreaker, Code, HandlerRan, MemRegistry, MethodSnapshot, Origin,
    RetryPolicy, Server, Serving, Status, service,
};
use tokio::time::sleep;

use crate::discovery::config::Said;
use crate::support::bounded;
use crate::support::fixture::unique;

#[service(name = "test.Mine")]
trait Mine {
    #[rpc(idempotent)]
    async fn dig(&self) -> Result<(), Status>;
    async fn rest(&self) -> Result<(), Status>;
}

/// Answers `dig` as it is told.
#[derive(Clone, Default)]
struct Foreman {
    says: Arc<Mutex<Option<Status>>>,
    hangs: Arc<AtomicBool>,
    dug: Arc<AtomicU64>,
}

impl Foreman {
    fn say(&self, status: Option<Status>) {
        *self.says.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::Relaxed);
    }

    fn take_dug(&self) -> u64 {
        self.dug.swap(0, Ordering::Relaxed)
    }
}

impl Mine for Foreman {
    async fn dig(&self) -> Result<(), Status> {
        self.dug.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let says = self.says.lock().unwrap_or_else(PoisonError::into_inner).clone();
        says.map_or(Ok(()), Err)
    }
    async fn rest(&self) -> Result<(), Status> {
        Ok(())
    }
}

async fn serve(foreman: &Foreman) -> Serving {
    let server = Server::builder().service(MineServer::new(foreman.clone()));
    server.bind(format!("mem:{}", unique("mine"))).start().await.unwrap()
}

/// So many calls, 10 ms apart; tells how they ended.
async fn dig(client: &MineClient, calls: u32) -> Vec<Result<(), Status>> {
    let mut ends = Vec::new();
    for _ in 0..calls {
        ends.push(client.dig().await);
        sleep(Duration::from_millis(10)).await;
    }
    ends
}

fn of_dig(channel: &Channel) -> Option<MethodSnapshot> {
    channel.snapshot().methods.into_iter().find(|method| method.path == "test.Mine/dig")
}

#[tokio::test(start_paused = true)]
async fn calls_that_would_be_turned_away_are_left_out_and_come_back_soon() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::connect(&server.target()).await.unwrap();
        let client = MineClient::from_channel(channel.clone());
        dig(&client, 200).await;
        assert!(of_dig(&channel).is_none());
        foreman.say(Some(Status::unavailable("no light")));
        foreman.take_dug();
        dig(&client, 500).await;
        foreman.take_dug();
        let ends = dig(&client, 1_000).await;
        // In ten seconds: one in a second, one of a hundred, and ten in four seconds besides.
        let dug = foreman.take_dug();
        assert!((10..=60).contains(&dug), "{dug}");
        let refused = ends.iter().filter_map(|end| end.as_ref().err()).find(|status| status.policy().is_some()).unwrap();
        assert_eq!(
            refused.to_string(),
            "UNAVAILABLE: most calls of test.Mine/dig were turned away lately, so this one was not sent; the last: UNAVAILABLE: no light"
        );
        assert_eq!(
            (refused.policy(), refused.reason(), refused.handler_ran(), refused.origin()),
            (Some("throttle"), Some("turned_away"), HandlerRan::No, Origin::Local)
        );
        let snapshot = of_dig(&channel).unwrap();
        assert!(snapshot.is_throttled && snapshot.refused >= 900, "{snapshot:?}");
        assert!((0.9..1.0).contains(&snapshot.throttled), "{snapshot:?}");
        // Other methods have nothing to do with it.
        for _ in 0..100 {
            client.rest().await.unwrap();
        }
        foreman.say(None);
        dig(&client, 1_500).await;
        let ends = dig(&client, 300).await;
        assert!(ends.iter().all(Result::is_ok), "all, a while later");
        let snapshot = of_dig(&channel).unwrap();
        assert!(!snapshot.is_throttled && snapshot.throttled == 0.0, "{snapshot:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_of_other_kinds_are_no_reason_to_leave_calls_out() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let client = MineClient::connect(&server.target()).await.unwrap();
        for status in [
            Status::internal("x"),
            Status::not_found("x"),
            Status::deadline_exceeded("x"),
            Status::resource_exhausted("ten a day"),
        ] {
            foreman.say(Some(status));
            foreman.take_dug();
            dig(&client, 300).await;
            assert_eq!(foreman.take_dug(), 300);
        }
        // Nor are those that never came to a server.
        drop(server);
        sleep(Duration::from_secs(10)).await;
        let ends = dig(&client, 300).await;
        assert!(ends.iter().all(|end| end.as_ref().is_err_and(|status| status.policy().is_none())));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_few_that_are_turned_away_among_many_that_fail_otherwise_are_no_reason() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let client = MineClient::connect(&server.target()).await.unwrap();
        for round in 0..600 {
            foreman.say(Some(match round % 10 {
                0 => Status::unavailable("no light"),
                _ => Status::aborted("another was first"),
            }));
            dig(&client, 1).await;
        }
        assert!(foreman.take_dug() >= 600);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_opens_finds_out_and_closes() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::builder().retry(RetryPolicy::NEVER).circuit_breaker(CircuitBreaker::DEFAULT);
        let channel = channel.connect(&server.target()).await.unwrap();
        let client = MineClient::from_channel(channel.clone());
        foreman.say(Some(Status::internal("flooded")));
        dig(&client, 40).await;
        assert_eq!(foreman.take_dug(), 20);
        assert_eq!(of_dig(&channel).unwrap().breaker, BreakerState::Open);
        let refused = client.dig().await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.policy(), refused.reason()),
            (Code::Unavailable, Some("circuit_breaker"), Some("open"))
        );
        let wait = refused.retry_after().unwrap();
        assert!(
            wait > Duration::from_secs(3) && wait < Duration::from_secs(6),
            "{wait:?}"
        );
        client.rest().await.unwrap();
        // The first that find out are enough to see that it is not over.
        sleep(Duration::from_secs(6)).await;
        dig(&client, 40).await;
        assert_eq!(foreman.take_dug(), 3);
        foreman.say(None);
        sleep(Duration::from_secs(11)).await;
        let ends = dig(&client, 40).await;
        assert!(ends.iter().all(Result::is_ok));
        assert_eq!(of_dig(&channel).unwrap().breaker, BreakerState::Closed);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_out_and_gives_up_leaves_it_to_the_next() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::builder().circuit_breaker(CircuitBreaker::DEFAULT.half_open_calls(1));
        let client = MineClient::from_channel(channel.connect(&server.target()).await.unwrap());
        foreman.say(Some(Status::internal("flooded")));
        dig(&client, 20).await;
        foreman.say(None);
        sleep(Duration::from_secs(6)).await;
        // It is dropped before it is answered.
        let mut given_up = Box::pin(client.dig().into_future());
        let _pending = crate::support::polled_once(&mut given_up).await;
        assert_eq!(client.dig().await.unwrap_err().policy(), Some("circuit_breaker"));
        drop(given_up);
        client.dig().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_finds_out_in_vain_opens_it_again() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::builder().circuit_breaker(CircuitBreaker::DEFAULT.half_open_calls(2)).timeout("100ms");
        let channel = channel.connect(&server.target()).await.unwrap();
        let client = MineClient::from_channel(channel.clone());
        foreman.say(Some(Status::internal("flooded")));
        dig(&client, 20).await;
        // It hangs now.
        foreman.hang(true);
        sleep(Duration::from_secs(6)).await;
        assert_eq!(client.dig().await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(of_dig(&channel).unwrap().breaker, BreakerState::Open);
        assert_eq!(client.dig().await.unwrap_err().policy(), Some("circuit_breaker"));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_failures_is_seen_next_to_what_went_well() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::builder().circuit_breaker(CircuitBreaker::DEFAULT);
        let client = MineClient::from_channel(channel.connect(&server.target()).await.unwrap());
        dig(&client, 1_000).await;
        foreman.say(Some(Status::unavailable("a moment")));
        dig(&client, 100).await;
        foreman.say(None);
        let ends = dig(&client, 100).await;
        assert!(ends.iter().all(Result::is_ok), "100 of 1,000 within ten seconds");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_configuration_sets_both_while_calls_run() {
    bounded(async {
        let registry = MemRegistry::new();
        let foreman = Foreman::default();
        let server = Server::builder().service(MineServer::new(foreman.clone())).register(registry.clone());
        let _server = server.bind(format!("mem:{}", unique("mine"))).start().await.unwrap();
        let said = Said::new(r#"{"throttle": false}"#);
        let channel = Channel::builder().resolver(registry.resolver("test.Mine")).config_source(said.clone());
        let channel = channel.retry(RetryPolicy::NEVER).connect("mem:///test.Mine").await.unwrap();
        let client = MineClient::from_channel(channel.clone());
        foreman.say(Some(Status::unavailable("no light")));
        dig(&client, 300).await;
        assert_eq!(foreman.take_dug(), 300);
        said.say(r#"{"throttle": false, "methods": {"dig": {"circuit_breaker": {"calls_min": 5}}}}"#).await;
        dig(&client, 300).await;
        assert_eq!(foreman.take_dug(), 5);
        said.say(r#"{"throttle": false}"#).await;
        dig(&client, 300).await;
        assert_eq!(foreman.take_dug(), 300);
        said.say("{}").await;
        dig(&client, 300).await;
        let dug = foreman.take_dug();
        assert!(dug < 150, "{dug}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_was_tried_ends_as_it_was_tried() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::builder().throttle(AdaptiveThrottle::NEVER).circuit_breaker(CircuitBreaker::DEFAULT);
        let client = MineClient::from_channel(channel.connect(&server.target()).await.unwrap());
        dig(&client, 19).await;
        foreman.say(Some(Status::unavailable("no light")));
        // Its retries find the breaker open at last.
        for end in dig(&client, 19).await {
            let status = end.unwrap_err();
            if status.policy().is_some() {
                return;
            }
            assert_eq!(status.message(), "no light");
        }
        panic!("it never opened");
    })
    .await;
}

/// What a service says no to for good reasons is answered, too.
#[tokio::test(start_paused = true)]
async fn calls_that_are_aborted_or_beyond_a_quota_count_as_going_well() {
    bounded(async {
        let foreman = Foreman::default();
        let server = serve(&foreman).await;
        let channel = Channel::builder().circuit_breaker(CircuitBreaker::DEFAULT).throttle(AdaptiveThrottle::NEVER);
        let channel = channel.retry(RetryPolicy::NEVER).connect(&server.target()).await.unwrap();
        let client = MineClient::from_channel(channel.clone());
        for no in [
            Status::aborted("somebody else dug there"),
            Status::resource_exhausted("no more today"),
        ] {
            for _ in 0..10 {
                foreman.say(Some(no.clone()));
                dig(&client, 90).await;
                foreman.say(Some(Status::internal("a cave-in")));
                dig(&client, 10).await;
            }
        }
        assert_eq!(
            of_dig(&channel).map(|method| method.refused),
            Some(0),
            "one of ten fails"
        );
    })
    .await;
}
