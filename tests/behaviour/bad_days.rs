//! What policies make of services that hang, of bursts, of lines, of streams that last, and of configurations that change under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sinew::faults::Faults;
use sinew::{
    AdaptiveThrottle, BreakerState, Channel, ChannelBuilder, CircuitBreaker, Cx, HedgingPolicy, Interceptor,
    MemRegistry, Next, Outcome, OutlierDetection, PeakEwma, RetryPolicy, RoundRobin, Server, Serving, Status,
    Streaming, service,
};
use tokio::time::{Instant, sleep};

use crate::discovery::config::Said;
use crate::support::fixture::unique;
use crate::support::{bounded, polled_once, until};

const S: Duration = Duration::from_secs(1);

#[service(name = "test.Busy")]
trait Busy {
    #[rpc(idempotent)]
    async fn get(&self) -> Result<(), Status>;
    async fn put(&self) -> Result<(), Status>;
    async fn list(&self) -> Result<Streaming<u32>, Status>;
    async fn hold(&self) -> Result<Streaming<u32>, Status>;
    async fn import(&self, rows: Streaming<u32>) -> Result<u32, Status>;
    async fn quota(&self, cx: &Cx) -> Result<(), Status>;
}

#[service(name = "test.Asking")]
trait Asking {
    async fn ask(&self) -> Result<(), Status>;
}

#[derive(Clone, Default)]
struct Host {
    dead: Arc<AtomicBool>,
    hangs: Arc<AtomicBool>,
    unavailable: Arc<AtomicBool>,
    takes_ms: Arc<AtomicU64>,
    one_of: Arc<AtomicU32>,
    opens: Arc<AtomicU32>,
    gets: Arc<AtomicU32>,
}

impl Host {
    fn open(&self) -> Result<(), Status> {
        if self.dead.load(Ordering::Relaxed) {
            return Err(Status::internal("dead"));
        }
        let one_of = self.one_of.load(Ordering::Relaxed);
        if one_of > 0 && self.opens.fetch_add(1, Ordering::Relaxed).is_multiple_of(one_of) {
            return Err(Status::internal("now and then"));
        }
        Ok(())
    }
}

impl Busy for Host {
    async fn get(&self) -> Result<(), Status> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        if self.hangs.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        let ms = self.takes_ms.load(Ordering::Relaxed);
        if ms > 0 {
            sleep(Duration::from_millis(ms)).await;
        }
        if self.unavailable.load(Ordering::Relaxed) {
            return Err(Status::unavailable("not now"));
        }
        self.open()
    }
    async fn put(&self) -> Result<(), Status> {
        sleep(Duration::from_millis(300)).await;
        Ok(())
    }
    async fn list(&self) -> Result<Streaming<u32>, Status> {
        self.open()?;
        Ok(Streaming::iter([1]))
    }
    async fn hold(&self) -> Result<Streaming<u32>, Status> {
        self.open()?;
        Ok(Streaming::from(futures_util::stream::pending()))
    }
    async fn quota(&self, cx: &Cx) -> Result<(), Status> {
        match cx.metadata().get("tenant") {
            Some("greedy") => Err(Status::resource_exhausted("ten a day")),
            _ => Ok(()),
        }
    }
    async fn import(&self, mut rows: Streaming<u32>) -> Result<u32, Status> {
        if self.hangs.load(Ordering::Relaxed) {
            // Reads nothing, and keeps what it could read from.
            std::future::pending::<()>().await;
        }
        let mut n = 0;
        while let Some(row) = rows.next().await {
            n += row?;
        }
        Ok(n)
    }
}

impl Asking for Host {
    async fn ask(&self) -> Result<(), Status> {
        Ok(())
    }
}

struct Pool {
    hosts: Vec<Host>,
    _servers: Vec<Serving>,
    client: BusyClient,
    channel: Channel,
}

async fn pool(count: usize, set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Pool {
    let registry = MemRegistry::new();
    let (mut hosts, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let host = Host::default();
        let server = Server::builder().service(BusyServer::new(host.clone())).max_calls_per_connection(10_000);
        let server = server.register(registry.clone()).bind(format!("mem:{}", unique("h2")));
        servers.push(server.start().await.unwrap());
        hosts.push(host);
    }
    let channel = Channel::builder().resolver(registry.resolver("test.Busy")).balancer(RoundRobin);
    let channel = set(channel.retry(RetryPolicy::NEVER)).connect("mem:///test.Busy").await.unwrap();
    until("all are connected", || {
        channel.snapshot().endpoints.iter().filter(|one| one.connections > 0).count() == count
    })
    .await;
    Pool {
        hosts,
        _servers: servers,
        client: BusyClient::from_channel(channel.clone()),
        channel,
    }
}

impl Pool {
    fn ejected(&self) -> Vec<String> {
        self.channel.snapshot().endpoints.into_iter().filter_map(|one| one.ejected).collect()
    }
}

async fn one(set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> (Host, BusyClient, Channel, Serving) {
    let host = Host::default();
    let server = Server::builder().service(BusyServer::new(host.clone())).bind(format!("mem:{}", unique("h2one")));
    let server = server.start().await.unwrap();
    let channel = set(Channel::builder()).connect(&server.target()).await.unwrap();
    (host, BusyClient::from_channel(channel.clone()), channel, server)
}

#[tokio::test(start_paused = true)]
async fn faults_of_one_service_stay_there() {
    bounded(async {
        let registry = MemRegistry::new();
        let host = Host::default();
        let a = Server::builder().service(BusyServer::new(host.clone())).register(registry.clone());
        let _a = a.bind(format!("mem:{}", unique("fa"))).start().await.unwrap();
        let b = Server::builder().service(AskingServer::new(host.clone())).register(registry.clone());
        let _b = b.bind(format!("mem:{}", unique("fb"))).start().await.unwrap();
        let faults = Faults::new();
        let said = Said::new(r#"{"faults": [{"error": "INTERNAL"}]}"#);
        let to_a = Channel::builder().resolver(registry.resolver("test.Busy")).config_source(said.clone());
        let to_a = to_a.faults(faults.clone()).connect("mem:///test.Busy").await.unwrap();
        let to_b = Channel::builder().resolver(registry.resolver("test.Asking")).faults(faults.clone());
        let to_b = to_b.connect("mem:///test.Asking").await.unwrap();
        assert!(BusyClient::from_channel(to_a.clone()).get().await.is_err());
        let b = AskingClient::from_channel(to_b);
        let while_there = b.ask().await;
        drop(to_a);
        sleep(2 * S).await;
        let after = b.ask().await;
        assert!(
            while_there.is_ok() && after.is_ok(),
            "the other service: {while_there:?}; after the channel is gone: {after:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn time_in_line_is_not_an_attempts_time() {
    bounded(async {
        let host = Host::default();
        let server = Server::builder().service(BusyServer::new(host.clone())).max_calls_per_connection(1);
        let server = server.bind(format!("mem:{}", unique("line"))).start().await.unwrap();
        let policy = RetryPolicy::DEFAULT.attempt_timeout(Duration::from_millis(100));
        let channel = Channel::builder().retry(policy).connect(&server.target()).await.unwrap();
        let client = BusyClient::from_channel(channel.clone());
        for _ in 0..100 {
            client.get().await.unwrap();
        }
        let other = client.clone();
        let put = tokio::spawn(async move { other.put().await });
        sleep(Duration::from_millis(1)).await;
        host.gets.store(0, Ordering::Relaxed);
        let began = Instant::now();
        let end = client.get().await;
        let handled = host.gets.load(Ordering::Relaxed);
        let snapshot = channel.snapshot();
        put.await.unwrap().unwrap();
        assert!(
            end.is_ok() && snapshot.retries == 0,
            "{end:?} after {:?}; handled {handled}, retries {}",
            began.elapsed(),
            snapshot.retries
        );
    })
    .await;
}

struct Nothing;
impl Interceptor for Nothing {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        next.run(cx).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_breaker_knows_its_method() {
    bounded(async {
        for general in [false, true] {
            let (host, client, channel, _s) = one(|channel| {
                let channel =
                    channel.circuit_breaker(CircuitBreaker::DEFAULT).timeout("100ms").retry(RetryPolicy::NEVER);
                if general { channel.interceptor(Nothing) } else { channel }
            })
            .await;
            host.hangs.store(true, Ordering::Relaxed);
            for _ in 0..25 {
                client.get().await.unwrap_err();
            }
            let refused = client.get().await.unwrap_err();
            let methods = channel.snapshot().methods;
            assert_eq!(
                methods[0].path, "test.Busy/get",
                "general {general}: {methods:?} {refused:?}"
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_began_count_as_answers() {
    bounded(async {
        let pool = pool(4, |channel| channel).await;
        // One of ten openings fails there.
        pool.hosts[1].one_of.store(10, Ordering::Relaxed);
        let mut held = Vec::new();
        let mut failed = 0;
        for _ in 0..4_000 {
            match pool.client.hold().await {
                Ok(stream) => held.push(stream),
                Err(_) => failed += 1,
            }
            sleep(S / 400).await;
            let ejected = pool.ejected();
            assert!(ejected.is_empty(), "{ejected:?}: {failed} failed, {} began", held.len());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_do_not_hide_who_is_dead() {
    bounded(async {
        for holds in [false, true] {
            let pool = pool(4, |channel| channel).await;
            for host in &pool.hosts {
                host.one_of.store(5, Ordering::Relaxed);
            }
            let mut held = Vec::new();
            let mut dead = 0;
            for call in 0..2_000 {
                if call == 500 {
                    pool.hosts[2].dead.store(true, Ordering::Relaxed);
                }
                let stream = if holds {
                    pool.client.hold().await
                } else {
                    pool.client.list().await
                };
                match stream {
                    Ok(stream) if holds => held.push(stream),
                    Ok(_) => {}
                    Err(status) => dead += u32::from(status.message() == "dead"),
                }
                sleep(S / 200).await;
            }
            assert!(
                dead < 60,
                "holds {holds}: {dead} calls went to the dead one, ejected {:?}",
                pool.ejected()
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_throttle_that_is_off_throttles_nothing() {
    bounded(async {
        let (host, client, channel, _s) = one(|channel| {
            channel
                .circuit_breaker(CircuitBreaker::DEFAULT)
                .throttle(AdaptiveThrottle::NEVER)
                .retry(RetryPolicy::NEVER)
        })
        .await;
        host.unavailable.store(true, Ordering::Relaxed);
        for _ in 0..30 {
            client.get().await.unwrap_err();
        }
        let methods = channel.snapshot().methods;
        assert_eq!(methods[0].breaker, BreakerState::Open);
        assert!(!methods[0].is_throttled, "{methods:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_stalled_source_is_no_failure_of_the_service() {
    bounded(async {
        let (_host, client, channel, _s) =
            one(|channel| channel.circuit_breaker(CircuitBreaker::DEFAULT).retry(RetryPolicy::NEVER)).await;
        for _ in 0..25 {
            let rows = Streaming::from(futures_util::stream::pending());
            let _end = client.import(rows).idle_timeout("50ms").await;
        }
        let end = client.import(Streaming::iter([1, 2])).await;
        assert!(end.is_ok(), "{end:?} {:?}", channel.snapshot().methods);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn how_long_an_upload_lasts_is_no_latency() {
    bounded(async {
        let pool = pool(2, |channel| channel.balancer(PeakEwma)).await;
        for host in &pool.hosts {
            host.takes_ms.store(5, Ordering::Relaxed);
        }
        for _ in 0..200 {
            pool.client.get().await.unwrap();
        }
        let rows = Streaming::from(futures_util::stream::pending());
        let mut upload = Box::pin(IntoFuture::into_future(pool.client.import(rows).timeout("20s")));
        let began = Instant::now();
        loop {
            tokio::select! {
                end = &mut upload => { assert!(end.is_err()); break; }
                _ = pool.client.get().into_future() => {}
            }
        }
        assert!(began.elapsed() >= 20 * S);
        for host in &pool.hosts {
            host.gets.store(0, Ordering::Relaxed);
        }
        let latencies: Vec<_> = pool.channel.snapshot().endpoints.iter().map(|one| one.latency).collect();
        let t = Instant::now();
        while t.elapsed() < 5 * S {
            pool.client.get().await.unwrap();
        }
        let gets: Vec<_> = pool.hosts.iter().map(|host| host.gets.load(Ordering::Relaxed)).collect();
        assert!(
            latencies.iter().flatten().all(|one| *one < S / 10),
            "{latencies:?} {gets:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn fewer_trials_by_configuration_do_not_block() {
    bounded(async {
        let said = Said::new(r#"{"throttle": false, "circuit_breaker": {"half_open_calls": 5}}"#);
        let pool = pool(1, |channel| channel.config_source(said.clone())).await;
        pool.hosts[0].dead.store(true, Ordering::Relaxed);
        for _ in 0..25 {
            let _end = pool.client.get().await;
        }
        pool.hosts[0].dead.store(false, Ordering::Relaxed);
        sleep(6 * S).await;
        pool.client.get().await.unwrap();
        pool.client.get().await.unwrap();
        said.say(r#"{"throttle": false, "circuit_breaker": {"half_open_calls": 2}}"#).await;
        let mut refused = 0;
        for _ in 0..500 {
            refused += u32::from(pool.client.get().await.is_err());
            sleep(S / 10).await;
        }
        assert_eq!(refused, 0, "of 500 calls in 50 s");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_is_made_no_more_often_than_its_policy_says() {
    bounded(async {
        let hedging = HedgingPolicy::DEFAULT.after(Duration::from_millis(10)).budget(1.0);
        let pool = pool(6, |channel| {
            channel
                .hedging(hedging)
                .retry(RetryPolicy::DEFAULT.attempts(3))
                .outlier_detection(OutlierDetection::NEVER)
        })
        .await;
        for _ in 0..100 {
            pool.client.get().await.unwrap();
        }
        let mut most = 0;
        for host in &pool.hosts {
            host.takes_ms.store(50, Ordering::Relaxed);
            host.unavailable.store(true, Ordering::Relaxed);
        }
        for _ in 0..5 {
            pool.hosts.iter().for_each(|host| host.gets.store(0, Ordering::Relaxed));
            pool.client.get().await.unwrap_err();
            most = most.max(pool.hosts.iter().map(|host| host.gets.load(Ordering::Relaxed)).sum::<u32>());
        }
        assert!(most <= 3, "{most}");
    })
    .await;
}

/// Half a minute of calls in bursts, all of which fail: some are not sent any more.
async fn assert_bursts_are_seen((burst, gap): (u32, u64), client: &BusyClient, channel: &Channel) {
    let began = Instant::now();
    while began.elapsed() < 30 * S {
        for _ in 0..burst {
            client.get().await.unwrap_err();
        }
        sleep(Duration::from_millis(gap)).await;
    }
    let method = channel.snapshot().methods.remove(0);
    assert!(method.refused > 0, "{burst} every {gap} ms: {method:?}");
}

#[tokio::test(start_paused = true)]
async fn a_breaker_sees_bursts() {
    bounded(async {
        for bursts in [(2, 800), (6, 2_500), (8, 2_500)] {
            let (host, client, channel, _s) = one(|channel| {
                let channel = channel.circuit_breaker(CircuitBreaker::DEFAULT).retry(RetryPolicy::NEVER);
                channel.throttle(AdaptiveThrottle::NEVER)
            })
            .await;
            host.dead.store(true, Ordering::Relaxed);
            assert_bursts_are_seen(bursts, &client, &channel).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_throttle_sees_bursts() {
    bounded(async {
        for bursts in [(10, 700), (10, 900)] {
            let (host, client, channel, _s) = one(|channel| channel.retry(RetryPolicy::NEVER)).await;
            host.unavailable.store(true, Ordering::Relaxed);
            assert_bursts_are_seen(bursts, &client, &channel).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_line_longer_than_an_attempt_fails_nobody() {
    bounded(async {
        for timed in [false, true] {
            let host = Host::default();
            let server = Server::builder().service(BusyServer::new(host.clone())).max_calls_per_connection(4);
            let server = server.bind(format!("mem:{}", unique("line"))).start().await.unwrap();
            let mut policy = RetryPolicy::DEFAULT;
            if timed {
                policy = policy.attempt_timeout(Duration::from_millis(200));
            }
            let channel = Channel::builder().retry(policy).connect(&server.target()).await.unwrap();
            let client = BusyClient::from_channel(channel.clone());
            client.get().await.unwrap();
            host.takes_ms.store(50, Ordering::Relaxed);
            host.gets.store(0, Ordering::Relaxed);
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..80 {
                let client = client.clone();
                calls.spawn(async move { client.get().await });
            }
            let mut ends = Vec::new();
            while let Some(end) = calls.join_next().await {
                ends.push(end.unwrap());
            }
            let failed: Vec<_> = ends.iter().filter_map(|end| end.as_ref().err()).collect();
            assert!(
                failed.is_empty(),
                "timed {timed}: {} of 80 failed, {} handled; the first: {}",
                failed.len(),
                host.gets.load(Ordering::Relaxed),
                failed[0]
            );
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_proxy_keeps_to_a_methods_configuration() {
    bounded(async {
        let said = Said::new(r#"{"throttle": false, "methods": {"get": {"circuit_breaker": {}}}}"#);
        let pool = pool(1, |channel| {
            channel.config_source(said.clone()).outlier_detection(OutlierDetection::NEVER)
        })
        .await;
        let upstream = pool.channel.clone();
        let proxy = Server::builder()
            .fallback(move |cx: Cx, request: sinew::ServerRequest| {
                let upstream = upstream.clone();
                async move { upstream.forward(&cx, request).await }
            })
            .bind(format!("mem:{}", unique("proxy")))
            .start()
            .await
            .unwrap();
        // By its path; of others a proxy knows the number only.
        let client = Channel::builder().retry(RetryPolicy::NEVER).connect(&proxy.target()).await.unwrap();
        let nothing = || sinew::wire::EncodedMessage::from_encoded(bytes::Bytes::from_static(&[0x90]));
        pool.hosts[0].dead.store(true, Ordering::Relaxed);
        for _ in 0..100 {
            client.call_raw("test.Busy/get", nothing(), None, Some(S)).await.unwrap_err();
        }
        let handled = pool.hosts[0].gets.load(Ordering::Relaxed);
        assert!(handled <= 25, "{handled} of 100 calls were sent");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_fault_that_has_ended_stays_so() {
    bounded(async {
        let faults = Faults::new();
        let said = Said::new(r#"{"faults": [{"error": "INTERNAL", "method": "get", "for": "10s"}]}"#);
        let pool = pool(1, |channel| channel.config_source(said.clone()).faults(faults.clone())).await;
        pool.client.get().await.unwrap_err();
        sleep(20 * S).await;
        pool.client.get().await.unwrap();
        said.say(
            r#"{"faults": [{"error": "INTERNAL", "method": "get", "for": "10s"}, {"delay": "1ms", "method": "list"}]}"#,
        )
        .await;
        let end = pool.client.get().await;
        assert!(end.is_ok(), "{end:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_tenant_over_its_quota_ejects_nobody() {
    bounded(async {
        let pool = pool(8, |channel| channel.balancer(sinew::ConsistentHash::default())).await;
        let mut most = 0;
        let mut denied_others = 0;
        for call in 0..4_000 {
            let tenant = format!("t{}", call % 97);
            denied_others +=
                u32::from(pool.client.quota().metadata("tenant", &tenant).route_key(&tenant).await.is_err());
            let _no = pool.client.quota().metadata("tenant", "greedy").route_key("greedy").await;
            sleep(S / 200).await;
            most = most.max(pool.ejected().len());
        }
        assert!(
            most == 0,
            "up to {most} of 8 ejected, now {:?}; {denied_others} of others",
            pool.ejected()
        );
    })
    .await;
}

struct Front(BusyClient);
impl Asking for Front {
    async fn ask(&self) -> Result<(), Status> {
        self.0.get().await
    }
}

#[tokio::test(start_paused = true)]
async fn who_hangs_is_ejected_also_for_handlers() {
    let mut ends = Vec::new();
    for general in [true, false] {
        let pool = pool(3, |channel| {
            let channel = channel.circuit_breaker(CircuitBreaker::DEFAULT);
            if general { channel.interceptor(Nothing) } else { channel }
        })
        .await;
        let front = Server::builder().service(AskingServer::new(Front(pool.client.clone())));
        let front = front.bind(format!("mem:{}", unique("front"))).start().await.unwrap();
        let client = AskingClient::connect(&front.target()).await.unwrap();
        for _ in 0..100 {
            client.ask().timeout("100ms").await.unwrap();
        }
        pool.hosts[1].hangs.store(true, Ordering::Relaxed);
        let mut failed = 0;
        for _ in 0..300 {
            failed += u32::from(client.ask().timeout("100ms").await.is_err());
            sleep(S / 100).await;
        }
        ends.push((general, failed, pool.ejected()));
    }
    assert!(ends.iter().all(|end| end.1 < 30), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_line_does_not_open_a_breaker_or_eject() {
    bounded(async {
        let policy = RetryPolicy::NEVER.attempt_timeout(Duration::from_millis(200));
        let host = Host::default();
        let server = Server::builder().service(BusyServer::new(host.clone())).max_calls_per_connection(4);
        let server = server.bind(format!("mem:{}", unique("line"))).start().await.unwrap();
        let channel = Channel::builder().retry(policy).circuit_breaker(CircuitBreaker::DEFAULT);
        let channel = channel.connect(&server.target()).await.unwrap();
        let client = BusyClient::from_channel(channel.clone());
        client.get().await.unwrap();
        host.takes_ms.store(50, Ordering::Relaxed);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..80 {
            let client = client.clone();
            calls.spawn(async move { client.get().await });
        }
        calls.join_all().await;
        let end = client.get().await;
        assert!(end.is_ok(), "{end:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_breaker_sees_who_hangs_also_for_handlers() {
    let mut ends = Vec::new();
    for general in [true, false] {
        let (host, client, channel, _s) = one(|channel| {
            let channel = channel.circuit_breaker(CircuitBreaker::DEFAULT).retry(RetryPolicy::NEVER);
            if general { channel.interceptor(Nothing) } else { channel }
        })
        .await;
        let front = Server::builder().service(AskingServer::new(Front(client)));
        let front = front.bind(format!("mem:{}", unique("front"))).start().await.unwrap();
        let asks = AskingClient::connect(&front.target()).await.unwrap();
        host.hangs.store(true, Ordering::Relaxed);
        for _ in 0..100 {
            asks.ask().timeout("100ms").await.unwrap_err();
        }
        ends.push((
            general,
            host.gets.load(Ordering::Relaxed),
            channel.snapshot().methods.first().map(|m| m.breaker),
        ));
    }
    assert!(ends.iter().all(|end| end.1 < 90), "{ends:?}");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_a_server_does_not_take_is_its_failure() {
    bounded(async {
        let set = |channel: ChannelBuilder| channel.circuit_breaker(CircuitBreaker::DEFAULT).retry(RetryPolicy::NEVER);
        let (host, client, channel, _server) = one(set).await;
        host.hangs.store(true, Ordering::Relaxed);
        for _ in 0..25 {
            // There is always something to send.
            let rows = Streaming::iter(0_u32..100_000_000);
            client.import(rows).idle_timeout("50ms").await.unwrap_err();
        }
        let methods = channel.snapshot().methods;
        assert_eq!(methods[0].breaker, BreakerState::Open, "{methods:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_delay_of_hedging_is_shown_as_long_as_there_is_hedging() {
    bounded(async {
        let said = Said::new(r#"{"hedging": {"delay": "50ms"}}"#);
        let pool = pool(2, |channel| channel.config_source(said.clone())).await;
        for _ in 0..50 {
            pool.client.get().await.unwrap();
        }
        let delay = || pool.channel.snapshot().methods[0].hedge_delay;
        assert_eq!(delay(), Some(Duration::from_millis(50)));
        said.say(r#"{"hedging": {"percentile": 0.99}}"#).await;
        pool.client.get().await.unwrap();
        assert!(delay().is_some_and(|delay| delay < Duration::from_millis(50)));
        said.say(r#"{"hedging": false}"#).await;
        pool.client.get().await.unwrap();
        assert_eq!(delay(), None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_floods_a_server_is_told_what_turned_it_away() {
    bounded(async {
        let (host, client, _channel, _server) = one(|channel| channel.retry(RetryPolicy::NEVER)).await;
        host.hangs.store(true, Ordering::Relaxed);
        let other = client.clone();
        let long = tokio::spawn(async move { other.get().await });
        sleep(Duration::from_millis(10)).await;
        for _ in 0..20_000 {
            let mut call = Box::pin(client.get().into_future());
            let _pending = polled_once(&mut call).await;
            drop(call);
            tokio::task::yield_now().await;
            if long.is_finished() {
                break;
            }
        }
        let status = long.await.unwrap().unwrap_err();
        assert_eq!(
            (status.policy(), status.reason(), status.retry_after()),
            (Some("flood_protection"), Some("calm_down"), Some(S)),
            "{status:?}"
        );
    })
    .await;
}
