//! Limits of servers that a service's configuration sets and changes while calls run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sinew::{
    Channel, Code, ConcurrencyRule, ConfigPublisher, ConfigSource, HandlerRan, LimitKey, LimitSnapshot, Origin,
    RateRule, RetryPolicy, Server, ServerBuilder, ServerPolicy, ServiceConfig, Serving, Status, Streaming, service,
};
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, advance, sleep};

use super::discovery::config::Said;
use crate::support::fixture::unique;
use crate::support::{bounded, until};

const SECOND: Duration = Duration::from_secs(1);

#[service(name = "live.Desk")]
trait Desk {
    #[rpc(alias = "query")]
    async fn ask(&self) -> u32;
    async fn other(&self) -> u32;
    /// Answers when it is let go.
    async fn hold(&self) -> u32;
    /// Answers in its second poll.
    async fn later(&self) -> u32;
    /// Begins when it is let go.
    async fn items(&self) -> Result<Streaming<u32>, Status>;
    /// Takes 10 ms of one of four places.
    async fn work(&self);
}

struct Clerk {
    let_go: Arc<Notify>,
    places: Semaphore,
}

impl Desk for Clerk {
    async fn ask(&self) -> u32 {
        1
    }
    async fn other(&self) -> u32 {
        2
    }
    async fn hold(&self) -> u32 {
        self.let_go.notified().await;
        3
    }
    async fn later(&self) -> u32 {
        tokio::task::yield_now().await;
        4
    }
    async fn items(&self) -> Result<Streaming<u32>, Status> {
        self.let_go.notified().await;
        Ok(Streaming::from(futures_util::stream::pending::<Result<u32, Status>>()))
    }
    async fn work(&self) {
        let _place = self.places.acquire().await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
}

struct Parts {
    client: DeskClient,
    channel: Channel,
    server: Serving,
    let_go: Arc<Notify>,
}

fn builder(let_go: &Arc<Notify>) -> ServerBuilder {
    let clerk = Clerk {
        let_go: Arc::clone(let_go),
        places: Semaphore::new(4),
    };
    Server::builder().service(DeskServer::new(clerk)).bind(format!("mem:{}", unique("live-limits")))
}

async fn open(with: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Parts {
    let let_go = Arc::new(Notify::new());
    let server = with(builder(&let_go)).start().await.unwrap();
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await.unwrap();
    Parts {
        client: DeskClient::from_channel(channel.clone()),
        channel,
        server,
        let_go,
    }
}

async fn following(said: &Said) -> Parts {
    let said = said.clone();
    open(|builder| builder.config_source(move |_| said.clone())).await
}

fn assert_refused(status: &Status, policy: &str) {
    assert_eq!(
        (status.code(), status.policy()),
        (Code::ResourceExhausted, Some(policy)),
        "{status:?}"
    );
    assert_eq!(
        (status.origin(), status.handler_ran()),
        (Origin::Remote, HandlerRan::No)
    );
    assert!(
        status.reason().is_some() && status.retry_after().is_some(),
        "{status:?}"
    );
}

fn limit<'a>(limits: &'a [LimitSnapshot], method: Option<&str>, policy: &str) -> &'a LimitSnapshot {
    let found = limits.iter().find(|limit| limit.method.as_deref() == method && limit.policy == policy);
    found.unwrap_or_else(|| panic!("{policy} of {method:?} in {limits:?}"))
}

#[tokio::test(start_paused = true)]
async fn a_rate_is_set_changed_and_taken_back_while_calls_run() {
    bounded(async {
        let said = Said::new(r#"{"server": {"rate_limit": {"calls": 2, "per": "10s"}}}"#);
        let Parts {
            client,
            channel,
            server,
            ..
        } = following(&said).await;
        // It holds from the first call on, for all methods together.
        assert_eq!(client.ask().await.unwrap(), 1);
        assert_eq!(client.other().await.unwrap(), 2);
        let status = client.ask().await.unwrap_err();
        assert_refused(&status, "rate_limit");
        assert!(
            status.message().starts_with("more than 2 calls in 10s; try again after"),
            "{status}"
        );
        // Nobody reads what it does not take.
        let garbage = sinew::wire::EncodedMessage::from_encoded(bytes::Bytes::from_static(&[0xc1, 0xff]));
        let status = channel.call_raw("live.Desk/ask", garbage, None, None).await.unwrap_err();
        assert_refused(&status, "rate_limit");

        // More are let through, and those that came before still count.
        said.say(r#"{"server": {"rate_limit": {"calls": 3, "per": "10s"}}}"#).await;
        assert_eq!(client.ask().await.unwrap(), 1);
        assert_refused(&client.ask().await.unwrap_err(), "rate_limit");
        let limits = server.snapshot().limits;
        let all = limit(&limits, None, "rate_limit");
        assert_eq!(
            (all.service.as_str(), all.calls, all.per),
            ("live.Desk", 3, Some(10 * SECOND))
        );
        assert_eq!((all.keys, all.rejected, limits.len()), (1, 3, 1));

        // Who comes when it was told passes.
        let after = client.ask().await.unwrap_err().retry_after().unwrap();
        advance(after).await;
        client.ask().await.unwrap();

        // What cannot be read changes nothing, and says why.
        said.say(r#"{"server": {"rate_limit": {"cals": 9}}}"#).await;
        assert_refused(&client.ask().await.unwrap_err(), "rate_limit");
        let failures = server.snapshot().config_failures;
        assert_eq!(
            failures,
            ["live.Desk: unknown key `server.rate_limit.cals`; did you mean `calls`?"]
        );
        said.say(r#"{"server": {"methods": {"aks": {"rate_limit": {"calls": 0}}}}}"#).await;
        client.ask().await.unwrap();
        let failures = server.snapshot().config_failures;
        assert_eq!(
            failures,
            ["live.Desk: `server.methods.aks` is no method here; did you mean `ask`?"]
        );
        said.say("{}").await;
        for _ in 0..100 {
            client.ask().await.unwrap();
        }
        assert!(server.snapshot().limits.is_empty() && server.snapshot().config_failures.is_empty());
        // A caller that asks for too much is no failure of the server's.
        assert_eq!(server.snapshot().failed, 0);
        // With zero, none.
        said.say(r#"{"server": {"methods": {"ask": {"rate_limit": {"calls": 0}}}}}"#).await;
        assert_refused(&client.ask().await.unwrap_err(), "rate_limit");
        client.other().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_a_method_holds_besides_that_of_the_service() {
    bounded(async {
        let config = ServiceConfig::new().server(
            ServerPolicy::new()
                .rate_limit(RateRule::new(3, 10 * SECOND))
                .method_rate_limit("ask", RateRule::new(1, 10 * SECOND).burst(1)),
        );
        let Parts { client, server, .. } = open(|builder| builder.service_config("live.Desk", config)).await;
        client.ask().await.unwrap();
        // What its method's turns away, the service's does not count.
        for _ in 0..10 {
            assert_refused(&client.ask().await.unwrap_err(), "rate_limit");
        }
        client.other().await.unwrap();
        client.other().await.unwrap();
        assert_refused(&client.other().await.unwrap_err(), "rate_limit");
        let limits = server.snapshot().limits;
        assert_eq!(limit(&limits, Some("ask"), "rate_limit").rejected, 10);
        assert_eq!(limit(&limits, None, "rate_limit").rejected, 1);
    })
    .await;
}

/// One caller that asks for too much takes nothing from the others.
#[tokio::test(start_paused = true)]
async fn what_one_limit_turns_away_counts_at_no_other() {
    bounded(async {
        for of_method in [RateRule::new(10, 10 * SECOND), RateRule::new(10, 10 * SECOND).burst(10)] {
            let config = ServiceConfig::new().server(
                ServerPolicy::new()
                    .rate_limit(RateRule::new(2, 10 * SECOND).key(LimitKey::Metadata("user".to_owned())))
                    .method_rate_limit("ask", of_method),
            );
            let Parts {
                client,
                server: _server,
                ..
            } = open(|builder| builder.service_config("live.Desk", config)).await;
            let ask = |user: &'static str| client.ask().metadata("user", user);
            for number in 0..100 {
                assert_eq!(ask("greedy").await.is_ok(), number < 2, "{number}");
            }
            for user in ["a", "b", "c", "d"] {
                ask(user).await.unwrap();
                ask(user).await.unwrap();
            }
            // Now it is the method's.
            assert_refused(&ask("e").await.unwrap_err(), "rate_limit");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_count_by_their_key() {
    bounded(async {
        let rule = RateRule::new(1, 10 * SECOND);
        let by = |key: LimitKey, keys: usize| {
            let policy = ServerPolicy::new().rate_limit(rule.clone().key(key).max_keys(keys));
            open(|builder| builder.service_config("live.Desk", ServiceConfig::new().server(policy)))
        };
        let Parts { client, server, .. } = by(LimitKey::Metadata("tenant".to_owned()), 3).await;
        let of = |tenant: &'static str| client.ask().metadata("tenant", tenant);
        for tenant in ["a", "b", "c"] {
            of(tenant).await.unwrap();
            let status = of(tenant).await.unwrap_err();
            assert_refused(&status, "rate_limit");
            assert!(status.message().contains("with the same key"), "{status}");
        }
        assert_eq!(server.snapshot().limits[0].keys, 3);
        // Who makes up keys shares one with all others that have none of their own, and takes from nobody else.
        of("d").await.unwrap();
        assert_refused(&of("e").await.unwrap_err(), "rate_limit");
        assert_eq!(server.snapshot().limits[0].keys, 3);

        let Parts {
            client,
            channel,
            server: _server,
            ..
        } = by(LimitKey::Method, 10).await;
        client.ask().await.unwrap();
        // By whichever of its names.
        let nothing = sinew::wire::EncodedMessage::from_encoded(bytes::Bytes::from_static(&[0x90]));
        assert_refused(
            &channel.call_raw("live.Desk/query", nothing, None, None).await.unwrap_err(),
            "rate_limit",
        );
        client.other().await.unwrap();
        assert_refused(&client.other().await.unwrap_err(), "rate_limit");

        let Parts { client, server, .. } = by(LimitKey::Peer, 10).await;
        let again = DeskClient::from_channel(Channel::connect(&server.target()).await.unwrap());
        client.ask().await.unwrap();
        assert_refused(&again.ask().await.unwrap_err(), "rate_limit");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_at_a_time_count_until_they_are_over_however_they_end() {
    bounded(async {
        let said = Said::new(r#"{"server": {"methods": {"hold": {"concurrency_limit": {"calls": 2}}}}}"#);
        let Parts {
            client, server, let_go, ..
        } = following(&said).await;
        let first = tokio::spawn(client.hold().into_future());
        let second = tokio::spawn(client.hold().into_future());
        until("both run", || server.running_handlers() == 2).await;
        let status = client.hold().await.unwrap_err();
        assert_refused(&status, "concurrency_limit");
        assert_eq!(status.message(), "more than 2 calls at a time");
        client.ask().await.unwrap();

        // One leaves, by its caller's will; one more may come. The limit falls below those that run, and none is ended for it.
        second.abort();
        until("one runs", || server.running_handlers() == 1).await;
        let third = tokio::spawn(client.hold().into_future());
        until("both run", || server.running_handlers() == 2).await;
        said.say(r#"{"server": {"methods": {"hold": {"concurrency_limit": {"calls": 1}}}}}"#).await;
        assert_refused(&client.hold().await.unwrap_err(), "concurrency_limit");
        let_go.notify_waiters();
        assert_eq!((first.await.unwrap().unwrap(), third.await.unwrap().unwrap()), (3, 3));
        let limits = server.snapshot().limits;
        let hold = limit(&limits, Some("hold"), "concurrency_limit");
        assert_eq!((hold.calls, hold.per, hold.keys), (1, None, 0), "nobody is left");
        // Those that wait run into their deadline, and count no more.
        assert_eq!(
            client.hold().timeout(SECOND).await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
        until("none runs", || server.running_handlers() == 0).await;
        let last = tokio::spawn(client.hold().into_future());
        until("one runs", || server.running_handlers() == 1).await;
        let_go.notify_waiters();
        last.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_counts_until_it_begins_and_what_is_refused_counts_nowhere() {
    bounded(async {
        let policy = ServerPolicy::new()
            .concurrency_limit(ConcurrencyRule::new(1))
            .method_rate_limit("ask", RateRule::new(0, SECOND));
        let config = ServiceConfig::new().server(policy);
        let Parts {
            client, server, let_go, ..
        } = open(|builder| builder.service_config("live.Desk", config)).await;
        // The place that it took is given back when its method's rate turns it away.
        for _ in 0..3 {
            assert_refused(&client.ask().await.unwrap_err(), "rate_limit");
        }
        let stream = tokio::spawn(client.items().into_future());
        until("it runs", || server.running_handlers() == 1).await;
        assert_refused(&client.items().await.unwrap_err(), "concurrency_limit");
        let_go.notify_waiters();
        let _open = stream.await.unwrap().unwrap();
        client.other().await.unwrap();
    })
    .await;
}

/// Many more than the four places can take, for two seconds; how many were turned away.
async fn overload(client: &DeskClient) -> usize {
    let (begun, mut calls) = (Instant::now(), Vec::new());
    for number in 0..2_400_u32 {
        tokio::time::sleep_until(begun + number * SECOND / 1_200).await;
        calls.push(tokio::spawn(
            client.work().timeout(Duration::from_millis(400)).into_future(),
        ));
    }
    let mut refused = 0;
    for call in calls {
        if let Err(status) = call.await.unwrap() {
            refused += usize::from(status.policy() == Some("adaptive_concurrency"));
        }
    }
    refused
}

#[tokio::test(start_paused = true)]
async fn adaptive_concurrency_is_switched_by_service_and_by_method() {
    bounded(async {
        let said = Said::new("{}");
        let Parts { client, server, .. } = following(&said).await;
        assert!(overload(&client).await > 500);
        sleep(5 * SECOND).await;
        for off in [
            r#"{"server": {"adaptive_concurrency": false}}"#,
            r#"{"server": {"methods": {"work": {"adaptive_concurrency": false}}}}"#,
        ] {
            said.say(off).await;
            assert_eq!(overload(&client).await, 0, "{off}");
        }
        // A method's own word counts before its service's, and the service's before the server's.
        said.say(r#"{"server": {"adaptive_concurrency": false, "methods": {"work": {"adaptive_concurrency": true}}}}"#)
            .await;
        assert!(overload(&client).await > 500);
        server.monitor().set_adaptive_concurrency(false);
        assert!(overload(&client).await > 500);
        said.say("{}").await;
        assert_eq!(overload(&client).await, 0);
        assert!(server.snapshot().admission.is_none());
    })
    .await;
}

/// Says nothing.
struct Silent;

impl ConfigSource for Silent {
    fn watch(&self, publisher: ConfigPublisher) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(async move { publisher.closed().await })
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_waits_for_its_configuration_but_not_for_ever() {
    bounded(async {
        let begun = Instant::now();
        let in_code = ServiceConfig::new().server(ServerPolicy::new().rate_limit(RateRule::new(0, SECOND)));
        let Parts { client, server, .. } =
            open(|builder| builder.service_config("live.Desk", in_code).config_source(|_| Silent)).await;
        assert_eq!(begun.elapsed(), Duration::from_millis(500));
        let failures = server.snapshot().config_failures;
        assert_eq!(failures, ["live.Desk: nothing is known of one of its sources yet"]);
        // What is known holds.
        assert_refused(&client.ask().await.unwrap_err(), "rate_limit");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_not_served_is_named() {
    let builder = builder(&Arc::default()).service_config("live.Dsk", ServiceConfig::new());
    let error = builder.start().await.unwrap_err().to_string();
    assert_eq!(
        error,
        "\"live.Dsk\" is configured, and is no service of this server; did you mean \"live.Desk\"?"
    );
}

/// Each service is asked for by its name, and one's configuration is none of the other's business; nor is that of a server that has ended anybody's.
#[tokio::test(start_paused = true)]
async fn each_service_has_its_own_configuration_as_long_as_the_server_runs() {
    bounded(async {
        let (said, other) = (
            Said::new(r#"{"server": {"rate_limit": {"calls": 0}}}"#),
            Said::new("{}"),
        );
        let of = (said.clone(), other.clone());
        let let_go = Arc::new(Notify::new());
        let server = builder(&let_go)
            .service(super::discovery::named_service("live"))
            .config_source(move |service| match service {
                "live.Desk" => of.0.clone(),
                "discovery.Who" => of.1.clone(),
                _ => panic!("nobody has {service}"),
            })
            .start()
            .await
            .unwrap();
        let channel = Channel::connect(&server.target()).await.unwrap();
        let (desk, who) = (
            DeskClient::from_channel(channel.clone()),
            super::discovery::who(&channel),
        );
        assert_refused(&desk.ask().metadata("x", "y").await.unwrap_err(), "rate_limit");
        who.name().await.unwrap();
        // Health is nobody's service.
        let status = channel.health_of("live.Desk").await.unwrap();
        assert_eq!(status, sinew::HealthStatus::Serving);
        assert_eq!(said.followers(), 1);
        server.shutdown().await;
        until("nobody follows", || said.followers() + other.followers() == 0).await;
    })
    .await;
}

fn one_at_a_time() -> ServiceConfig {
    ServiceConfig::new().server(ServerPolicy::new().concurrency_limit(ConcurrencyRule::new(1)))
}

/// The place of a call is free before its caller hears of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_calls_one_after_the_other_is_never_one_too_many() {
    let clerk = Clerk {
        let_go: Arc::default(),
        places: Semaphore::new(4),
    };
    let server = Server::builder().service(DeskServer::new(clerk)).service_config("live.Desk", one_at_a_time());
    let server = server.bind("127.0.0.1:0").start().await.unwrap();
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await.unwrap();
    let client = DeskClient::from_channel(channel);
    for call in 0..5_000 {
        let answer = client.later().await;
        assert!(answer.is_ok(), "call {call}: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_gives_a_call_up_can_make_the_next_at_once() {
    bounded(async {
        let parts = open(|builder| builder.service_config("live.Desk", one_at_a_time())).await;
        for _ in 0..100 {
            let mut held = Box::pin(parts.client.hold().into_future());
            assert!(tokio::time::timeout(Duration::from_millis(5), &mut held).await.is_err());
            drop(held);
            assert_eq!(parts.client.ask().await.unwrap(), 1);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_one_limit_turns_away_takes_no_key_of_another() {
    bounded(async {
        let config = ServiceConfig::from_json(
            r#"{"server": {"rate_limit": {"calls": 5, "per": "1h", "key": "peer"}, "methods": {
                "ask": {"rate_limit": {"calls": 100, "per": "1h", "key": {"metadata": "tenant"}, "max_keys": 1000}},
                "other": {"rate_limit": {"calls": 100, "per": "1h", "burst": 9, "key": {"metadata": "tenant"}, "max_keys": 1000}}}}}"#,
        )
        .unwrap();
        let parts = open(|builder| builder.service_config("live.Desk", config)).await;
        for tenant in 0..500 {
            let _refused_or_not = parts.client.ask().metadata("tenant", tenant.to_string()).await;
            let _refused_or_not = parts.client.other().metadata("tenant", tenant.to_string()).await;
        }
        let limits = parts.server.snapshot().limits;
        let keys: usize = limits.iter().filter(|limit| limit.method.is_some()).map(|limit| limit.keys).sum();
        assert_eq!(keys, 5, "those that were let through: {limits:?}");
    })
    .await;
}

#[service(name = "live.Mill")]
trait Mill {
    /// Keeps its thread for a while.
    async fn crunch(&self);
}

#[derive(Clone, Default)]
struct Stones {
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

#[expect(clippy::disallowed_methods, reason = "it is to keep its thread")]
impl Mill for Stones {
    async fn crunch(&self) {
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(100));
        self.running.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What computes cannot be stopped, so it counts until it is done, whoever waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_gives_up_a_call_that_computes_does_not_begin_another_beside_it() {
    let stones = Stones::default();
    let server = Server::builder()
        .service(MillServer::new(stones.clone()))
        .service_config("live.Mill", one_at_a_time());
    let server = server.bind("127.0.0.1:0").start().await.unwrap();
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await.unwrap();
    let client = MillClient::from_channel(channel);
    // From its first answer on it has tasks of its own.
    client.crunch().await.unwrap();
    for _ in 0..30 {
        let _late_or_refused = client.crunch().timeout("10ms").await;
    }
    assert_eq!(stones.most.load(Ordering::SeqCst), 1);
}
