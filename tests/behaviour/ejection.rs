//! Endpoints that are worse than the others get no calls for a while, are asked again, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use sinew::{
    Channel, ChannelBuilder, Cx, Interceptor, MemRegistry, Next, Outcome, PeakEwma, RetryPolicy, RoundRobin, Server,
    Serving, Status, Streaming, service,
};
use tokio::time::sleep;

use crate::discovery::config::Said;
use crate::support::fixture::unique;
use crate::support::{bounded, until};

#[service(name = "test.Clinic")]
trait Clinic {
    #[rpc(idempotent)]
    async fn get(&self) -> Result<(), Status>;
    async fn put(&self) -> Result<(), Status>;
    async fn list(&self) -> Result<Streaming<u32>, Status>;
    /// Begins, and sends nothing.
    async fn hold(&self) -> Result<Streaming<u32>, Status>;
}

const HEALTHY: u8 = 0;
const FAILS: u8 = 1;
const HANGS: u8 = 2;
const FAILS_FOR_NOW: u8 = 3;
const SAYS_NO: u8 = 4;
const IS_CANCELLED: u8 = 5;
const LIMITS: u8 = 6;

/// One of several servers.
#[derive(Clone, Default)]
struct Patient {
    mood: Arc<AtomicU8>,
    gets: Arc<AtomicU64>,
    puts: Arc<AtomicU64>,
}

impl Patient {
    fn turn(&self, mood: u8) {
        self.mood.store(mood, Ordering::Relaxed);
    }

    fn take_counts(&self) -> (u64, u64) {
        (
            self.gets.swap(0, Ordering::Relaxed),
            self.puts.swap(0, Ordering::Relaxed),
        )
    }

    async fn answer(&self) -> Result<(), Status> {
        match self.mood.load(Ordering::Relaxed) {
            FAILS => Err(Status::internal("ill")),
            HANGS => std::future::pending().await,
            FAILS_FOR_NOW => Err(Status::unavailable("ill")),
            SAYS_NO => Err(Status::invalid_argument("no")),
            IS_CANCELLED => Err(Status::cancelled("stopped")),
            LIMITS => Err(Status::resource_exhausted("too much").with_rejection("quota", "used_up")),
            _ => Ok(()),
        }
    }
}

impl Clinic for Patient {
    async fn get(&self) -> Result<(), Status> {
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.answer().await
    }
    async fn put(&self) -> Result<(), Status> {
        self.puts.fetch_add(1, Ordering::Relaxed);
        self.answer().await
    }
    async fn list(&self) -> Result<Streaming<u32>, Status> {
        self.answer().await?;
        Ok(Streaming::iter([1]))
    }
    async fn hold(&self) -> Result<Streaming<u32>, Status> {
        Ok(Streaming::from(futures_util::stream::pending()))
    }
}

const S: Duration = Duration::from_secs(1);

struct Pool {
    patients: Vec<Patient>,
    addresses: Vec<String>,
    servers: Vec<Serving>,
    registry: MemRegistry,
    client: ClinicClient,
    channel: Channel,
}

/// So many servers that take turns.
async fn pool(count: usize, set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Pool {
    let registry = MemRegistry::new();
    let mut patients = Vec::new();
    let (mut servers, mut addresses) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let patient = Patient::default();
        let server = Server::builder().service(ClinicServer::new(patient.clone()));
        let address = format!("mem:{}", unique("clinic"));
        let server = server.register(registry.clone()).bind(&*address);
        servers.push(server.start().await.unwrap());
        addresses.push(address);
        patients.push(patient);
    }
    let channel = Channel::builder().resolver(registry.resolver("test.Clinic")).balancer(RoundRobin);
    let channel = set(channel.retry(RetryPolicy::NEVER)).connect("mem:///test.Clinic").await.unwrap();
    until("all are connected", || {
        channel.snapshot().endpoints.iter().filter(|one| one.connections > 0).count() == count
    })
    .await;
    Pool {
        patients,
        addresses,
        servers,
        registry,
        client: ClinicClient::from_channel(channel.clone()),
        channel,
    }
}

impl Pool {
    /// Calls one after the other, so many a second; tells how many failed.
    async fn get(&self, lasts: Duration, rate: u32) -> u64 {
        let gap = S / rate;
        let mut failed = 0;
        for _ in 0..lasts.as_nanos() / gap.as_nanos() {
            failed += u64::from(self.client.get().await.is_err());
            sleep(gap).await;
        }
        failed
    }

    fn ejected(&self) -> Vec<String> {
        self.channel.snapshot().endpoints.into_iter().filter_map(|one| one.ejected).collect()
    }

    fn take_gets(&self) -> Vec<u64> {
        self.patients.iter().map(|patient| patient.take_counts().0).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn who_fails_is_left_alone_and_comes_back_when_it_works() {
    bounded(async {
        let pool = pool(4, |channel| channel).await;
        assert_eq!(pool.get(S, 100).await, 0);
        pool.patients[1].turn(FAILS);
        assert_eq!(pool.get(S / 2, 100).await, 5, "five calls in a row");
        assert_eq!(pool.ejected(), ["5 calls in a row failed or were late"]);
        pool.take_gets();
        // Every two seconds one call asks.
        let failed = pool.get(20 * S, 100).await;
        assert!((7..=11).contains(&failed), "{failed}");
        assert_eq!(pool.take_gets()[1], failed);

        pool.patients[1].turn(HEALTHY);
        assert_eq!(pool.get(5 * S, 100).await, 0);
        assert_eq!(pool.ejected(), [""; 0]);
        pool.take_gets();
        pool.get(S, 100).await;
        let shares = pool.take_gets();
        assert!(shares[1] >= 20, "80 % of its share, {shares:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn calls_that_must_not_run_twice_ask_only_if_there_are_no_others() {
    bounded(async {
        // Those that are tried again if need be ask; not for this failure, so that it shows.
        let pool = pool(3, |channel| channel.retry(RetryPolicy::DEFAULT)).await;
        pool.patients[0].turn(FAILS);
        pool.get(S / 2, 100).await;
        assert_eq!(pool.ejected().len(), 1);
        pool.patients[0].take_counts();
        // Of both kinds, as many.
        for _ in 0..1_000 {
            let _ill = pool.client.get().await;
            pool.client.put().await.unwrap();
            sleep(S / 100).await;
        }
        let (gets, puts) = pool.patients[0].take_counts();
        assert!(gets >= 3 && puts == 0, "{gets}, {puts}");
        // Of that kind only: the endpoint is not forgotten.
        let mut failed = 0;
        for _ in 0..1_000 {
            failed += u64::from(pool.client.put().await.is_err());
            sleep(S / 100).await;
        }
        assert!((2..=5).contains(&failed), "{failed}");
        // As long as there are those, streams never do.
        for _ in 0..500 {
            pool.client.list().await.unwrap();
            let _ill = pool.client.get().await;
            sleep(S / 100).await;
        }
        pool.patients[0].turn(HEALTHY);
        for _ in 0..500 {
            pool.client.put().await.unwrap();
            sleep(S / 100).await;
        }
        assert_eq!(pool.ejected().len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_asks_one_at_the_most() {
    bounded(async {
        let pool = pool(8, |channel| channel.retry(RetryPolicy::DEFAULT)).await;
        pool.get(S, 200).await;
        for ill in [0, 3, 6] {
            pool.patients[ill].turn(FAILS_FOR_NOW);
        }
        pool.get(2 * S, 200).await;
        assert_eq!(pool.ejected().len(), 3);
        // Hardly anything is called, so all three may be asked; and no call is lost for it.
        for _ in 0..20 {
            sleep(3 * S).await;
            pool.client.get().await.unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_gives_up_asking_leaves_it_to_the_next() {
    bounded(async {
        let pool = pool(3, |channel| channel).await;
        pool.patients[0].turn(FAILS);
        pool.get(S / 2, 100).await;
        pool.patients[0].turn(HANGS);
        pool.patients[0].take_counts();
        for _ in 0..200 {
            let _given_up = tokio::time::timeout(S / 100, pool.client.get().into_future()).await;
            sleep(S / 20).await;
        }
        let (asked, _) = pool.patients[0].take_counts();
        assert!(asked >= 3, "{asked}");
        pool.patients[0].turn(HEALTHY);
        assert_eq!(pool.get(5 * S, 100).await, 0);
        assert_eq!(pool.ejected().len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_call_that_asks_and_never_ends_leaves_it_to_others() {
    bounded(async {
        let pool = pool(3, |channel| channel).await;
        pool.patients[0].turn(FAILS);
        pool.get(S, 100).await;
        assert_eq!(pool.ejected().len(), 1);
        pool.patients[0].turn(HANGS);
        // Without a deadline: the one that asks waits for ever.
        let mut waiting = tokio::task::JoinSet::new();
        for _ in 0..300 {
            let client = pool.client.clone();
            waiting.spawn(async move { client.get().detached().await });
            sleep(S / 100).await;
        }
        pool.patients[0].turn(HEALTHY);
        pool.get(15 * S, 100).await;
        assert_eq!(pool.ejected().len(), 0);
        while waiting.len() > 1 {
            waiting.join_next().await.unwrap().unwrap().unwrap();
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_never_answers_in_time_is_ejected_as_well() {
    bounded(async {
        let pool = pool(3, |channel| channel.timeout("100ms")).await;
        pool.get(S, 100).await;
        pool.patients[2].turn(HANGS);
        let failed = pool.get(S, 100).await;
        assert_eq!(failed, 5);
        assert_eq!(pool.ejected().len(), 1);
    })
    .await;
}

/// What is the caller's own doing tells nothing of the endpoint.
#[tokio::test(start_paused = true)]
async fn who_says_no_is_not_ill() {
    bounded(async {
        let pool = pool(4, |channel| channel).await;
        pool.get(2 * S, 100).await;
        for mood in [SAYS_NO, IS_CANCELLED, LIMITS] {
            pool.patients[1].turn(mood);
            assert_eq!(pool.get(5 * S, 100).await, 125, "one of four");
            assert_eq!(pool.ejected().len(), 0, "{mood}");
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn where_all_fail_all_are_called() {
    bounded(async {
        let pool = pool(6, |channel| channel).await;
        pool.get(S, 100).await;
        pool.patients.iter().for_each(|patient| patient.turn(FAILS));
        pool.get(S, 100).await;
        assert!(pool.ejected().len() <= 3);
        pool.get(3 * S, 100).await;
        pool.take_gets();
        pool.get(S, 100).await;
        let gets = pool.take_gets();
        assert!(gets.iter().all(|gets| *gets >= 10), "{gets:?}");
        assert_eq!(pool.ejected().len(), 0);
        // Only one is left, and it stays.
        pool.patients.iter().skip(1).for_each(|patient| patient.turn(HEALTHY));
        pool.get(5 * S, 100).await;
        assert_eq!(pool.ejected().len(), 1);
    })
    .await;
}

/// With the default balancer, too, which has two to choose from.
#[tokio::test(start_paused = true)]
async fn who_is_ejected_serves_if_the_others_go() {
    bounded(async {
        for balancer in [true, false] {
            let set = |channel: ChannelBuilder| match balancer {
                true => channel.balancer(PeakEwma),
                false => channel,
            };
            let mut pool = pool(2, set).await;
            pool.get(S, 100).await;
            pool.patients[0].turn(FAILS);
            // By load hardly any call goes there.
            for _ in 0..100 {
                pool.get(S, 100).await;
                if pool.ejected().len() == 1 {
                    break;
                }
            }
            pool.patients[0].turn(HEALTHY);
            drop(pool.servers.remove(1));
            sleep(S / 10).await;
            let end = pool.client.get().await;
            assert!(end.is_ok(), "{end:?}");
            assert_eq!(pool.ejected().len(), 0);
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_open_stream_is_in_nobodys_way() {
    bounded(async {
        let pool = pool(3, |channel| channel).await;
        let mut streams = Vec::new();
        for _ in 0..3 {
            streams.push(pool.client.hold().await.unwrap());
        }
        pool.patients[1].turn(FAILS);
        pool.get(S, 100).await;
        assert_eq!(pool.ejected().len(), 1);
        pool.patients[1].turn(HEALTHY);
        assert_eq!(pool.get(5 * S, 100).await, 0);
        assert_eq!(pool.ejected().len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_begin_are_answers_and_ask_where_there_is_nothing_else() {
    bounded(async {
        let pool = pool(3, |channel| channel).await;
        let list = async |calls: u32| {
            let mut failed = 0;
            for _ in 0..calls {
                failed += u32::from(pool.client.list().await.is_err());
                sleep(S / 100).await;
            }
            failed
        };
        // Nine failures, none of them behind the other.
        for _ in 0..9 {
            pool.patients[2].turn(FAILS);
            assert_eq!(list(3).await, 1);
            pool.patients[2].turn(HEALTHY);
            list(3).await;
        }
        assert_eq!(pool.ejected().len(), 0);
        pool.patients[2].turn(FAILS);
        assert_eq!(list(50).await, 5);
        assert_eq!(pool.ejected().len(), 1);
        pool.patients[2].turn(HEALTHY);
        list(1_500).await;
        assert_eq!(pool.ejected().len(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_server_that_comes_back_is_not_held_to_what_it_did_before() {
    bounded(async {
        let mut pool = pool(3, |channel| channel).await;
        pool.get(S, 100).await;
        // It goes with many calls under way, which all fail.
        pool.patients.iter().for_each(|patient| patient.turn(HANGS));
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..60 {
            let client = pool.client.clone();
            calls.spawn(async move { client.get().await });
        }
        sleep(S / 10).await;
        pool.patients.iter().for_each(|patient| patient.turn(HEALTHY));
        let (address, patient) = (pool.addresses[1].clone(), pool.patients[1].clone());
        drop(pool.servers.remove(1));
        sleep(S / 10).await;
        let again = Server::builder().service(ClinicServer::new(patient)).register(pool.registry.clone());
        pool.servers.push(again.bind(address).start().await.unwrap());
        pool.get(2 * S, 100).await;
        assert_eq!(pool.ejected(), [""; 0]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn deadlines_count_whoever_looks_at_the_clock_first() {
    bounded(async {
        // By the general way.
        let timed = RetryPolicy::NEVER.attempt_timeout(S / 20);
        for set in [RetryPolicy::NEVER, timed] {
            let pool = pool(3, |channel| channel.timeout("100ms").retry(set).interceptor(Nothing)).await;
            pool.get(S, 100).await;
            pool.patients[2].turn(HANGS);
            pool.get(S, 100).await;
            assert_eq!(pool.ejected().len(), 1);
        }
    })
    .await;
}

/// Lets all calls through.
struct Nothing;

impl Interceptor for Nothing {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        next.run(cx).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_configuration_switches_it_off_and_on() {
    bounded(async {
        let said = Said::new(r#"{"outlier_detection": false}"#);
        let pool = pool(4, |channel| channel.config_source(said.clone())).await;
        pool.patients[1].turn(FAILS);
        assert_eq!(pool.get(2 * S, 100).await, 50);
        assert_eq!(pool.ejected().len(), 0);
        said.say(r#"{"outlier_detection": {"consecutive_failures": 2}}"#).await;
        let failed = pool.get(S, 100).await;
        assert!(failed <= 3, "{failed}");
        assert_eq!(pool.ejected().len(), 1);
        said.say(r#"{"outlier_detection": false}"#).await;
        assert_eq!(pool.ejected().len(), 0);
    })
    .await;
}
