//! Calls that fail and are made again: which, when, how often, and what that costs.

use std::collections::VecDeque;
use std::future::IntoFuture;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sinew::{
    AdaptiveThrottle, Channel, Code, Cx, HandlerRan, MemRegistry, OutlierDetection, RetryPolicy, RoundRobin, Server,
    ServiceConfig, Serving, Status, Streaming, service,
};
use tokio::time::{Instant, sleep};

use crate::support::bounded;
use crate::support::fixture::unique;

#[service(name = "test.Wobbly")]
trait Wobbly {
    /// Answers as the script says, with the attempt that it was.
    #[rpc(idempotent)]
    async fn get(&self, cx: &Cx) -> Result<u32, Status>;
    #[rpc(idempotent)]
    async fn list(&self, cx: &Cx) -> Result<Streaming<u32>, Status>;
    /// The same, but not twice.
    async fn put(&self, cx: &Cx) -> Result<u32, Status>;
}

/// How a call is to be answered.
enum Step {
    Fail(Status),
    Hang,
}

/// Follows a script, then answers.
#[derive(Clone, Default)]
struct Script {
    steps: Arc<Mutex<VecDeque<Step>>>,
    /// When calls came, and as which attempt.
    seen: Arc<Mutex<Vec<(Instant, u32)>>>,
}

impl Script {
    fn then(&self, steps: impl IntoIterator<Item = Step>) {
        self.seen.lock().unwrap().clear();
        *self.steps.lock().unwrap() = steps.into_iter().collect();
    }

    fn attempts(&self) -> Vec<u32> {
        self.seen.lock().unwrap().iter().map(|(_, attempt)| *attempt).collect()
    }

    async fn answer(&self, cx: &Cx) -> Result<u32, Status> {
        self.seen.lock().unwrap().push((Instant::now(), cx.attempt()));
        let step = self.steps.lock().unwrap().pop_front();
        match step {
            None => Ok(cx.attempt()),
            Some(Step::Fail(status)) => Err(status),
            Some(Step::Hang) => std::future::pending().await,
        }
    }
}

impl Wobbly for Script {
    async fn get(&self, cx: &Cx) -> Result<u32, Status> {
        self.answer(cx).await
    }
    async fn list(&self, cx: &Cx) -> Result<Streaming<u32>, Status> {
        let attempt = self.answer(cx).await?;
        Ok(Streaming::iter([attempt]))
    }
    async fn put(&self, cx: &Cx) -> Result<u32, Status> {
        self.answer(cx).await
    }
}

fn fail(status: Status) -> Step {
    Step::Fail(status)
}

fn busy() -> Step {
    fail(Status::unavailable("not now"))
}

/// A server of that script, and a client that has paid in for a few retries of each method.
async fn open(name: &str, script: &Script) -> (WobblyClient, Serving) {
    let server = Server::builder().service(WobblyServer::new(script.clone())).bind(format!("mem:{name}"));
    let server = server.start().await.unwrap();
    let client = WobblyClient::connect(&server.target()).await.unwrap();
    pay_in(&client).await;
    (client, server)
}

async fn pay_in(client: &WobblyClient) {
    for _ in 0..50 {
        client.get().await.unwrap();
        client.put().await.unwrap();
        client.list().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_run_twice_is_tried_again() {
    bounded(async {
        let script = Script::default();
        let (client, _server) = open("tried_again", &script).await;
        script.then([busy(), busy()]);
        assert_eq!(client.get().await.unwrap(), 3);
        assert_eq!(script.attempts(), [1, 2, 3]);
        script.then([busy()]);
        let mut list = client.list().await.unwrap();
        assert_eq!(list.next().await.unwrap().unwrap(), 2);

        // Three attempts are enough.
        script.then([busy(), busy(), busy()]);
        let status = client.get().await.unwrap_err();
        assert_eq!(
            (status.code(), status.message(), script.attempts().len()),
            (Code::Unavailable, "not now", 3)
        );
        // What may have had an effect is its caller's business, and so is what will fail again.
        script.then([busy()]);
        assert_eq!(client.put().await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(script.attempts(), [1]);
        for hopeless in [
            Status::invalid_argument("x"),
            Status::internal("x"),
            Status::aborted("x"),
            Status::resource_exhausted("ten a day"),
            Status::unavailable("x").with_retryable(false),
        ] {
            script.then([fail(hopeless.clone())]);
            assert_eq!(client.get().await.unwrap_err(), hopeless);
            assert_eq!(script.attempts(), [1], "{hopeless}");
        }
        // Unless its server knows better.
        script.then([fail(Status::internal("x").with_retryable(true))]);
        assert_eq!(client.get().await.unwrap(), 2);
        // A policy that stood before the handler is another matter.
        script.then([fail(Status::unavailable("x").with_rejection("gate", "closed"))]);
        assert_eq!(client.put().await.unwrap(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn retries_wait_for_as_long_as_they_are_asked_to() {
    bounded(async {
        let script = Script::default();
        let (client, _server) = open("asked_to", &script).await;
        let after = |time| fail(Status::resource_exhausted("full").with_retry_after(Duration::from_millis(time)));
        script.then([after(500)]);
        assert_eq!(client.get().await.unwrap(), 2);
        let seen = script.seen.lock().unwrap().clone();
        let waited = seen[1].0 - seen[0].0;
        assert!(
            (Duration::from_millis(500)..Duration::from_millis(610)).contains(&waited),
            "{waited:?}"
        );

        // What would come too late is not waited for.
        script.then([after(500)]);
        let began = Instant::now();
        let status = client.get().timeout("400ms").await.unwrap_err();
        assert_eq!(
            (status.code(), began.elapsed()),
            (Code::ResourceExhausted, Duration::ZERO)
        );
        assert_eq!(status.retry_after(), Some(Duration::from_millis(500)));
        // The deadline of the call holds for all attempts.
        script.then([busy(), Step::Hang]);
        let status = client.get().timeout("400ms").await.unwrap_err();
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::DeadlineExceeded, HandlerRan::Maybe)
        );
        assert_eq!(began.elapsed().as_millis(), 400);
    })
    .await;
}

/// Also where it is the deadline itself that is listed.
#[tokio::test(start_paused = true)]
async fn all_attempts_are_within_the_deadline_of_their_call() {
    bounded(async {
        let script = Script::default();
        let server = Server::builder().service(WobblyServer::new(script.clone())).bind("mem:all_within");
        let server = server.start().await.unwrap();
        let policy = RetryPolicy::DEFAULT.attempts(5).codes([Code::DeadlineExceeded, Code::Unavailable]);
        let channel = Channel::builder().retry(policy).connect(&server.target()).await.unwrap();
        let client = WobblyClient::from_channel(channel);
        pay_in(&client).await;
        for steps in [[Step::Hang, Step::Hang], [busy(), Step::Hang]] {
            script.then(steps);
            let began = Instant::now();
            let status = client.get().timeout("1s").await.unwrap_err();
            assert_eq!(
                (status.code(), began.elapsed().as_millis()),
                (Code::DeadlineExceeded, 1_000)
            );
            assert_ne!(status.handler_ran(), HandlerRan::No);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_takes_too_long_is_given_up() {
    bounded(async {
        let script = Script::default();
        let server = Server::builder().service(WobblyServer::new(script.clone())).bind("mem:too_long");
        let server = server.start().await.unwrap();
        let policy = RetryPolicy::DEFAULT.attempt_timeout(Duration::from_millis(50));
        let channel = Channel::builder().retry(policy).connect(&server.target()).await.unwrap();
        let client = WobblyClient::from_channel(channel.clone());
        pay_in(&client).await;
        script.then([Step::Hang, Step::Hang]);
        assert_eq!(client.get().await.unwrap(), 3);
        script.then([Step::Hang]);
        assert_eq!(client.list().await.unwrap().next().await.unwrap().unwrap(), 2);
        // Its deadline comes first.
        script.then([Step::Hang]);
        let began = Instant::now();
        assert_eq!(
            client.get().timeout("30ms").await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
        assert_eq!((began.elapsed().as_millis(), script.attempts().len()), (30, 1));
        // What no other attempt can follow has as long as its call.
        script.then([Step::Hang]);
        let began = Instant::now();
        assert_eq!(
            client.put().timeout("200ms").await.unwrap_err().code(),
            Code::DeadlineExceeded
        );
        assert_eq!((began.elapsed().as_millis(), script.attempts()), (200, vec![1]));
        // The last of three.
        script.then([Step::Hang, Step::Hang, Step::Hang]);
        let status = client.get().await.unwrap_err();
        assert!(
            status.message().contains("an attempt was not answered within 50ms"),
            "{status}"
        );
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::DeadlineExceeded, HandlerRan::Maybe)
        );
        assert_eq!(script.attempts(), [1, 2, 3]);
        // Nothing goes on behind the back of those that gave up.
        sleep(Duration::from_millis(10)).await;
        assert_eq!(server.snapshot().running_handlers, 0);
        assert_eq!(channel.snapshot().retries, 5);
    })
    .await;
}

/// One of ten calls that succeed pays for a retry, so when all fail there are hardly any.
#[tokio::test(start_paused = true)]
async fn retries_are_paid_for_by_calls_that_succeed() {
    bounded(async {
        let script = Script::default();
        let server = Server::builder().service(WobblyServer::new(script.clone())).bind("mem:paid");
        let server = server.start().await.unwrap();
        let channel = Channel::builder().throttle(AdaptiveThrottle::NEVER).connect(&server.target()).await.unwrap();
        let client = WobblyClient::from_channel(channel.clone());
        let failing = || std::iter::repeat_with(busy).take(10_000);
        script.then(failing());
        for _ in 0..100 {
            client.get().await.unwrap_err();
        }
        assert_eq!(
            script.attempts().len(),
            101,
            "a client that has just begun may retry once"
        );
        let snapshot = channel.snapshot();
        assert_eq!((snapshot.retries, snapshot.retries_withheld), (1, 100));
        assert_eq!(snapshot.methods[0].retry_budget, 0.0);

        // What a client says itself is wrong with its call is no failure of the service.
        script.then(std::iter::repeat_with(|| fail(Status::not_found("x"))).take(1_000));
        for _ in 0..1_000 {
            client.get().await.unwrap_err();
        }
        script.then(failing());
        for _ in 0..100 {
            client.get().await.unwrap_err();
        }
        assert_eq!(
            script.attempts().len(),
            120,
            "twenty are paid for, however long it went well"
        );
        // Other methods have their own.
        script.then([busy()]);
        assert_eq!(client.list().await.unwrap().next().await.unwrap().unwrap(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_is_not_waited_for_is_not_paid_for() {
    bounded(async {
        let script = Script::default();
        let server = Server::builder().service(WobblyServer::new(script.clone())).bind("mem:not-waited-for");
        let server = server.start().await.unwrap();
        let channel = Channel::connect(&server.target()).await.unwrap();
        let client = WobblyClient::from_channel(channel.clone());
        pay_in(&client).await;
        let later = || fail(Status::resource_exhausted("full").with_retry_after(Duration::from_secs(5)));
        for _ in 0..100 {
            script.then([later()]);
            let call = client.get().timeout("1m").into_future();
            assert!(tokio::time::timeout(Duration::from_secs(1), call).await.is_err());
        }
        assert_eq!(channel.snapshot().retries, 0);
        script.then([later()]);
        client.get().timeout("1m").await.unwrap();
        assert_eq!(channel.snapshot().retries, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn retries_go_where_they_were_not_yet() {
    bounded(async {
        let registry = MemRegistry::new();
        let (good, bad) = (Script::default(), Script::default());
        let mut servers = Vec::new();
        for number in 0..10 {
            let script = if number == 4 { &bad } else { &good };
            let server = Server::builder().service(WobblyServer::new(script.clone())).register(registry.clone());
            servers.push(server.bind(format!("mem:there-{number}")).start().await.unwrap());
        }
        let channel = Channel::builder().resolver(registry.resolver("test.Wobbly")).balancer(RoundRobin);
        let channel = channel.outlier_detection(OutlierDetection::NEVER).lazy("mem:///test.Wobbly").unwrap();
        channel.wait_ready().await.unwrap();
        let client = WobblyClient::from_channel(channel.clone());
        pay_in(&client).await;
        bad.then(std::iter::repeat_with(busy).take(10_000));
        for _ in 0..1_000 {
            let attempt = client.get().await.unwrap();
            assert!(attempt <= 2, "the second is never at the same server");
        }
        let failed = bad.attempts().len();
        assert!((90..=125).contains(&failed), "{failed} of 1,000");
        let snapshot = channel.snapshot();
        assert_eq!((snapshot.retries, snapshot.retries_withheld), (failed as u64, 0));
    })
    .await;
}

#[service(name = "test.Front")]
trait Front {
    #[rpc(idempotent)]
    async fn ask(&self) -> Result<u32, Status>;
}

struct Asks(WobblyClient);

impl Front for Asks {
    async fn ask(&self) -> Result<u32, Status> {
        self.0.get().await
    }
}

/// Whoever is asked again does not ask again on its part, or three tiers would make nine calls of one.
#[tokio::test(start_paused = true)]
async fn only_one_tier_retries() {
    bounded(async {
        let script = Script::default();
        let (inner, _behind) = open("tier-behind", &script).await;
        let front = Server::builder().service(FrontServer::new(Asks(inner))).bind("mem:tier-front");
        let front = front.start().await.unwrap();
        let client = FrontClient::connect(&front.target()).await.unwrap();
        for _ in 0..50 {
            client.ask().await.unwrap();
        }
        script.then(std::iter::repeat_with(busy).take(100));
        let status = client.ask().await.unwrap_err();
        // Three of the first attempt, and one on behalf of each of its retries.
        assert_eq!(script.attempts(), [1, 2, 3, 2, 3]);
        // The handler in front ran, whatever became of its call.
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::Unavailable, HandlerRan::Yes)
        );
    })
    .await;
}

struct AsksFront(FrontClient);

impl Front for AsksFront {
    async fn ask(&self) -> Result<u32, Status> {
        self.0.ask().await
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_further_on_retries_either() {
    bounded(async {
        let script = Script::default();
        let (inner, _behind) = open("far-behind", &script).await;
        let middle = Server::builder().service(FrontServer::new(Asks(inner))).bind("mem:far-middle");
        let middle = middle.start().await.unwrap();
        let asks = AsksFront(FrontClient::connect(&middle.target()).await.unwrap());
        let front = Server::builder().service(FrontServer::new(asks)).bind("mem:far-front").start().await.unwrap();
        let client = FrontClient::connect(&front.target()).await.unwrap();
        for _ in 0..50 {
            client.ask().await.unwrap();
        }
        script.then(std::iter::repeat_with(busy).take(100));
        client.ask().await.unwrap_err();
        // The first attempt of the first: three, and one of each retry in the middle. Then one of each retry in front.
        assert_eq!(script.attempts(), [1, 2, 3, 2, 3, 2, 3]);
    })
    .await;
}

#[service(name = "test.Charge")]
trait Charge {
    async fn charge(&self) -> Result<(), Status>;
}

/// Does something, and then is turned away by somebody else.
struct Charges {
    charged: Arc<Mutex<u32>>,
    mail: WobblyClient,
    passes_on: bool,
}

impl Charge for Charges {
    async fn charge(&self) -> Result<(), Status> {
        *self.charged.lock().unwrap() += 1;
        let sent = self.mail.put().await.map(drop);
        sent.map_err(|status| if self.passes_on { status.pass_on() } else { status })
    }
}

/// What a handler's own call is told is not about the handler, which ran.
#[tokio::test(start_paused = true)]
async fn nothing_is_done_twice_because_of_what_others_say() {
    bounded(async {
        let refused = || fail(Status::unavailable("x").with_rejection("gate", "closed").with_retryable(true));
        for (passes_on, limits_itself) in [(false, false), (true, false), (false, true), (true, true)] {
            let script = Script::default();
            let server =
                Server::builder().service(WobblyServer::new(script.clone())).bind(format!("mem:{}", unique("mail")));
            let mail = server.start().await.unwrap();
            let mut channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&mail.target()).await.unwrap();
            if limits_itself {
                channel = channel.with_interceptor(sinew::limits::rate_limit(0).per("1s"));
            }
            script.then(std::iter::repeat_with(refused).take(100));
            let charged = Arc::<Mutex<u32>>::default();
            let charges = Charges {
                charged: Arc::clone(&charged),
                mail: WobblyClient::from_channel(channel),
                passes_on,
            };
            let server =
                Server::builder().service(ChargeServer::new(charges)).bind(format!("mem:{}", unique("charge")));
            let server = server.start().await.unwrap();
            let client = ChargeClient::connect(&server.target()).await.unwrap();
            let status = client.charge().await.unwrap_err();
            assert_eq!(
                (*charged.lock().unwrap(), status.handler_ran()),
                (1, HandlerRan::Yes),
                "{status:?}"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_configuration_says_how() {
    bounded(async {
        let registry = MemRegistry::new();
        let script = Script::default();
        let server = Server::builder().service(WobblyServer::new(script.clone())).register(registry.clone());
        let _server = server.bind("mem:configured-retries").start().await.unwrap();
        let config =
            ServiceConfig::from_json(r#"{"retry": {"codes": ["ABORTED"]}, "methods": {"list": {"retry": false}}}"#);
        let channel = Channel::builder().resolver(registry.resolver("test.Wobbly")).service_config(config.unwrap());
        let channel = channel.lazy("mem:///test.Wobbly").unwrap();
        let client = WobblyClient::from_channel(channel);
        pay_in(&client).await;
        script.then([fail(Status::aborted("x"))]);
        assert_eq!(client.get().await.unwrap(), 2);
        script.then([busy()]);
        assert_eq!(client.get().await.unwrap_err().code(), Code::Unavailable);
        script.then([fail(Status::aborted("x"))]);
        assert_eq!(client.list().await.unwrap_err().code(), Code::Aborted);
    })
    .await;
}
