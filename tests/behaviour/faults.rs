//! Faults that are injected on purpose: per attempt in a channel, per call in a server, and what the policies make of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sinew::faults::{Fault, Faults};
use sinew::{
    Channel, ChannelBuilder, Code, HandlerRan, HedgingPolicy, MemRegistry, OutlierDetection, RetryPolicy, RoundRobin,
    Server, ServerBuilder, Serving, Status, Streaming, service,
};
use tokio::time::Instant;

use crate::discovery::config::Said;
use crate::support::bounded;
use crate::support::fixture::unique;

#[service(name = "test.Lab")]
trait Lab {
    #[rpc(idempotent)]
    async fn get(&self) -> Result<u32, Status>;
    async fn put(&self) -> Result<u32, Status>;
    async fn list(&self) -> Result<Streaming<u32>, Status>;
}

#[derive(Clone, Default)]
struct Bench(Arc<AtomicU32>);

impl Lab for Bench {
    async fn get(&self) -> Result<u32, Status> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed))
    }
    async fn put(&self) -> Result<u32, Status> {
        Ok(self.0.fetch_add(1, Ordering::Relaxed))
    }
    async fn list(&self) -> Result<Streaming<u32>, Status> {
        Ok(Streaming::iter([self.0.fetch_add(1, Ordering::Relaxed)]))
    }
}

/// One server, and a client whose attempts meet faults.
struct Scene {
    faults: Faults,
    bench: Bench,
    client: LabClient,
    _server: Serving,
}

impl Scene {
    async fn open(
        server: impl FnOnce(ServerBuilder, &Faults) -> ServerBuilder,
        channel: impl FnOnce(ChannelBuilder, &Faults) -> ChannelBuilder,
    ) -> Self {
        let (faults, bench) = (Faults::with_seed(7), Bench::default());
        let builder = Server::builder().service(LabServer::new(bench.clone())).bind(format!("mem:{}", unique("lab")));
        let server = server(builder, &faults).start().await.unwrap();
        let channel = channel(Channel::builder(), &faults).connect(&server.target()).await.unwrap();
        Self {
            client: LabClient::from_channel(channel),
            faults,
            bench,
            _server: server,
        }
    }

    async fn of_attempts(set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Self {
        Self::open(
            |server, _| server,
            |channel, faults| set(channel.faults(faults.clone())),
        )
        .await
    }

    fn handled(&self) -> u32 {
        self.bench.0.load(Ordering::Relaxed)
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_is_an_attempts_and_says_that_it_was_made() {
    bounded(async {
        let scene = Scene::of_attempts(|channel| channel.retry(RetryPolicy::NEVER)).await;
        scene.client.put().await.unwrap();
        scene.faults.set([Fault::error(Code::Internal).message("game day")]);
        let status = scene.client.put().await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::Internal, "game day"));
        assert_eq!(
            (status.policy(), status.reason()),
            (Some("fault_injection"), Some("injected"))
        );
        assert_eq!(status.handler_ran(), HandlerRan::Maybe, "as a handler's failure");
        scene.faults.set([Fault::error(Code::Unavailable).unseen()]);
        assert_eq!(scene.client.put().await.unwrap_err().handler_ran(), HandlerRan::No);
        assert_eq!(scene.client.list().await.unwrap_err().code(), Code::Unavailable);
        assert_eq!(scene.handled(), 1, "nothing was sent");
        scene.faults.clear();
        scene.client.put().await.unwrap();
        // What nobody saw is sent again at once, three times in all.
        assert_eq!(scene.faults.counts().failed, 1 + 3 + 3);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn retries_go_on_behind_a_fault() {
    bounded(async {
        let scene = Scene::of_attempts(|channel| channel).await;
        // Successes pay for the retries.
        for _ in 0..100 {
            scene.client.get().await.unwrap();
        }
        scene.faults.set([Fault::error(Code::Unavailable).percent(10.0)]);
        let mut failed = 0;
        for _ in 0..300 {
            failed += u32::from(scene.client.get().await.is_err());
        }
        let counts = scene.faults.counts();
        assert!((20..60).contains(&counts.failed), "{counts:?}");
        assert!(failed <= 2, "{failed} failed of those that were tried again");
        assert!(scene.handled() >= 398);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_counts_against_the_attempts_time() {
    bounded(async {
        let policy = RetryPolicy::DEFAULT.attempt_timeout(Duration::from_millis(100));
        let scene = Scene::of_attempts(|channel| channel.retry(policy)).await;
        scene.faults.set([Fault::delay("80ms")]);
        let began = Instant::now();
        scene.client.get().await.unwrap();
        assert!((80..90).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        scene.faults.set([Fault::delay("150ms")]);
        let status = scene.client.get().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert_eq!(
            status.handler_ran(),
            HandlerRan::Maybe,
            "the answer was late, not the request"
        );
        // Slow errors take an attempt's time as well.
        scene.faults.set([Fault::delay("150ms"), Fault::error(Code::Aborted)]);
        let status = scene.client.get().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        let began = Instant::now();
        scene.faults.set([Fault::delay("50ms"), Fault::error(Code::Aborted)]);
        assert_eq!(scene.client.put().await.unwrap_err().code(), Code::Aborted);
        assert!(began.elapsed() >= Duration::from_millis(50));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_ends_with_the_deadline() {
    bounded(async {
        let scene = Scene::of_attempts(|channel| channel.timeout("1s")).await;
        scene.faults.set([Fault::drop()]);
        let began = Instant::now();
        let status = scene.client.put().await.unwrap_err();
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::DeadlineExceeded, HandlerRan::Maybe)
        );
        assert!(
            (1_000..1_010).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
        assert_eq!(scene.handled(), 1, "it was taken up");
        let status = scene.client.list().await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded);
        scene.faults.clear();
        assert_eq!(scene.client.list().await.unwrap().next().await.unwrap().unwrap(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_are_chosen_by_method_and_key() {
    bounded(async {
        let scene = Scene::of_attempts(|channel| channel.retry(RetryPolicy::NEVER)).await;
        scene.faults.set([
            Fault::error(Code::Internal).method("test.Lab/put"),
            Fault::error(Code::Aborted).only("tenant", "acme"),
        ]);
        assert!(scene.client.get().await.is_ok());
        assert_eq!(scene.client.put().await.unwrap_err().code(), Code::Internal);
        let of_tenant = scene.client.get().metadata("tenant", "acme").await;
        assert_eq!(of_tenant.unwrap_err().code(), Code::Aborted);
        scene.faults.set([Fault::error(Code::Aborted).by_key("tenant").percent(30.0)]);
        let mut failing = 0;
        for tenant in 0..50 {
            let tenant = tenant.to_string();
            let mut ends = Vec::new();
            for _ in 0..3 {
                ends.push(scene.client.get().metadata("tenant", &tenant).await.is_err());
            }
            assert!(
                ends.iter().all(|end| *end == ends[0]),
                "{tenant} is always or never chosen"
            );
            failing += u32::from(ends[0]);
        }
        assert!((8..25).contains(&failing), "{failing} of 50 tenants");
    })
    .await;
}

/// What the policies are for: one endpoint that fails is ejected, one whose answers are lost is overtaken.
#[tokio::test(start_paused = true)]
async fn ejection_and_hedging_meet_the_faults_of_one_endpoint() {
    bounded(async {
        let registry = MemRegistry::new();
        let (faults, bench) = (Faults::with_seed(7), Bench::default());
        let mut servers = Vec::new();
        for _ in 0..5 {
            let server = Server::builder().service(LabServer::new(bench.clone())).register(registry.clone());
            servers.push(server.bind(format!("mem:{}", unique("lab"))).start().await.unwrap());
        }
        let pool = || {
            let resolver = registry.resolver("test.Lab");
            Channel::builder().resolver(resolver).balancer(RoundRobin).faults(faults.clone())
        };
        let channel = pool().retry(RetryPolicy::NEVER).connect("mem:///test.Lab").await.unwrap();
        let client = LabClient::from_channel(channel.clone());
        let ill = channel.snapshot().endpoints[2].endpoint.name().to_owned();
        faults.set([Fault::error(Code::Internal).endpoint(&ill)]);
        let mut failed = 0;
        for _ in 0..200 {
            failed += u32::from(client.put().await.is_err());
        }
        assert_eq!(failed, 5, "then it is ejected");
        let snapshot = channel.snapshot();
        let ejected: Vec<_> = snapshot.endpoints.iter().filter(|one| one.ejected.is_some()).collect();
        assert_eq!(ejected.len(), 1);
        assert_eq!(ejected[0].endpoint.name().to_owned(), ill);

        let policy = HedgingPolicy::DEFAULT.after(Duration::from_millis(20)).budget(0.5);
        let hedged = pool().hedging(policy).outlier_detection(OutlierDetection::NEVER);
        let hedged = hedged.connect("mem:///test.Lab").await.unwrap();
        let client = LabClient::from_channel(hedged.clone());
        faults.clear();
        for _ in 0..20 {
            client.get().await.unwrap();
        }
        faults.set([Fault::drop().endpoint(&ill)]);
        for _ in 0..50 {
            client.get().await.unwrap();
        }
        let hedges = hedged.snapshot().hedges;
        assert!((10..=13).contains(&hedges), "{hedges}: every fifth attempt is lost");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_injects_before_its_handlers() {
    bounded(async {
        let scene = Scene::open(
            |server, faults| server.interceptor(faults.clone()),
            |channel, _| channel.retry(RetryPolicy::NEVER).timeout("1s"),
        )
        .await;
        let began = Instant::now();
        scene.faults.set([Fault::delay("200ms")]);
        assert_eq!(scene.client.get().await.unwrap(), 0);
        assert!(
            (200..210).contains(&began.elapsed().as_millis()),
            "{:?}",
            began.elapsed()
        );
        scene.faults.set([Fault::error(Code::Unavailable).method("test.Lab/get")]);
        let status = scene.client.get().await.unwrap_err();
        assert_eq!(
            (status.code(), status.policy()),
            (Code::Unavailable, Some("fault_injection"))
        );
        assert_eq!(scene.client.put().await.unwrap(), 1);
        scene.faults.set([Fault::drop()]);
        assert_eq!(scene.client.put().await.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(scene.handled(), 2, "no handler ran");
        let counts = scene.faults.counts();
        assert_eq!((counts.delayed, counts.failed, counts.dropped), (1, 1, 1));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_ends_by_itself() {
    bounded(async {
        let scene = Scene::of_attempts(|channel| channel.retry(RetryPolicy::NEVER)).await;
        let error = || Fault::error(Code::Internal);
        scene.faults.set([
            error().lasts("10s").method("test.Lab/put"),
            error().lasts("1m").method("test.Lab/get"),
        ]);
        assert!(scene.client.put().await.is_err() && scene.client.get().await.is_err());
        tokio::time::sleep(Duration::from_secs(10)).await;
        scene.client.put().await.unwrap();
        assert!(scene.client.get().await.is_err() && scene.faults.is_on());
        tokio::time::sleep(Duration::from_secs(50)).await;
        scene.client.get().await.unwrap();
        assert!(!scene.faults.is_on());
        scene.faults.set([Fault::delay("1ms").lasts("for ever")]);
        let status = scene.client.put().await.unwrap_err();
        assert!(
            status.message().starts_with("a fault is set wrong: how long it lasts"),
            "{status}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_overload_is_taken_for_one() {
    bounded(async {
        let scene = Scene::of_attempts(|channel| channel.retry(RetryPolicy::NEVER)).await;
        scene.faults.set([Fault::overload()]);
        let status = scene.client.put().await.unwrap_err();
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::ResourceExhausted, HandlerRan::No)
        );
        assert_eq!(
            (status.policy(), status.reason(), status.retry_after()),
            (
                Some("adaptive_concurrency"),
                Some("injected"),
                Some(Duration::from_millis(100))
            )
        );
        // The throttle leaves calls out as it would.
        let mut left_out = 0;
        for _ in 0..100 {
            let status = scene.client.put().await.unwrap_err();
            left_out += usize::from(status.policy() == Some("throttle"));
        }
        assert!(left_out > 50, "{left_out}");
        assert_eq!(scene.handled(), 0);
    })
    .await;
}

/// In a channel to several endpoints, and in their servers, where the code gave handles.
#[tokio::test(start_paused = true)]
async fn a_services_configuration_sets_faults_where_there_is_a_handle() {
    bounded(async {
        let registry = MemRegistry::new();
        let (said, bench) = (Said::new("{}"), Bench::default());
        let (of_server, of_client) = (Faults::with_seed(1), Faults::with_seed(2));
        let source = said.clone();
        let server = Server::builder()
            .service(LabServer::new(bench.clone()))
            .service(crate::discovery::named_service("faulty"))
            .bind(format!("mem:{}", unique("lab")))
            .register(registry.clone())
            .config_source(move |service| {
                if service == "test.Lab" {
                    source.clone()
                } else {
                    Said::new("{}")
                }
            })
            .faults(of_server.clone())
            .start()
            .await
            .unwrap();
        let open = async |faults: Option<&Faults>| {
            let mut channel = Channel::builder().resolver(registry.resolver("test.Lab")).config_source(said.clone());
            if let Some(faults) = faults {
                channel = channel.faults(faults.clone());
            }
            channel.retry(RetryPolicy::NEVER).connect("test.Lab").await.unwrap()
        };
        let (with, without) = (open(Some(&of_client)).await, open(None).await);
        let lab = |channel: &Channel| LabClient::from_channel(channel.clone());
        lab(&with).put().await.unwrap();

        let one = r#"{"faults": [{"error": "INTERNAL", "message": "game day", "method": "put", "for": "1m"}]}"#;
        said.say(one).await;
        assert_eq!(lab(&with).put().await.unwrap_err().message(), "game day");
        lab(&with).get().await.unwrap();
        lab(&without).put().await.unwrap();
        assert_eq!((with.snapshot().faults, without.snapshot().faults), (1, 0));
        // What the application sets comes to it, and goes without it.
        of_client.set([Fault::error(Code::Aborted).method("test.Lab/get")]);
        assert!(lab(&with).put().await.is_err() && lab(&with).get().await.is_err());
        of_client.clear();
        lab(&with).get().await.unwrap();
        // Another word in the configuration does not begin the minute anew.
        tokio::time::sleep(Duration::from_secs(40)).await;
        said.say(&one.replacen('{', r#"{"timeout": "3s", "#, 1)).await;
        assert!(lab(&with).put().await.is_err());
        tokio::time::sleep(Duration::from_secs(20)).await;
        lab(&with).put().await.unwrap();

        said.say(r#"{"server": {"faults": [{"error": "DATA_LOSS", "percent": 100}]}}"#).await;
        let status = lab(&without).put().await.unwrap_err();
        assert_eq!(
            (status.code(), status.policy()),
            (Code::DataLoss, Some("fault_injection"))
        );
        assert_eq!(server.snapshot().faults, 1);
        // Only of that service.
        let who = crate::discovery::who(&Channel::connect(&server.target()).await.unwrap()).name().await;
        assert_eq!(who.unwrap(), "faulty");
        said.say("{}").await;
        lab(&without).put().await.unwrap();
        assert!(!of_server.is_on() && !of_client.is_on());
    })
    .await;
}
