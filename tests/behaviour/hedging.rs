//! Calls that take long and are made a second time elsewhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sinew::{
    Channel, ChannelBuilder, Code, Cx, HedgingPolicy, MemRegistry, OutlierDetection, RetryPolicy, RoundRobin, Server,
    Serving, Status, Streaming, service,
};
use tokio::time::{Instant, sleep};

use crate::discovery::config::Said;
use crate::support::fixture::unique;
use crate::support::{bounded, until};

#[service(name = "test.Tortoise")]
trait Tortoise {
    /// Answers who it was, and as which attempt.
    #[rpc(idempotent)]
    async fn get(&self, cx: &Cx) -> Result<(usize, u32), Status>;
    async fn put(&self, cx: &Cx) -> Result<(usize, u32), Status>;
    #[rpc(idempotent)]
    async fn list(&self, cx: &Cx) -> Result<Streaming<u32>, Status>;
}

/// How servers take calls: by their number, after how long and with what.
type Manners = Arc<Mutex<HashMap<usize, (Duration, Result<(), Status>)>>>;

#[derive(Clone)]
struct One {
    number: usize,
    manners: Manners,
}

impl One {
    async fn answer(&self, cx: &Cx) -> Result<(usize, u32), Status> {
        let (time, end) = self.manners.lock().unwrap()[&self.number].clone();
        sleep(time).await;
        end.map(|()| (self.number, cx.attempt()))
    }
}

impl Tortoise for One {
    async fn get(&self, cx: &Cx) -> Result<(usize, u32), Status> {
        self.answer(cx).await
    }
    async fn put(&self, cx: &Cx) -> Result<(usize, u32), Status> {
        self.answer(cx).await
    }
    async fn list(&self, cx: &Cx) -> Result<Streaming<u32>, Status> {
        let (_, attempt) = self.answer(cx).await?;
        Ok(Streaming::iter([attempt]))
    }
}

struct Race {
    manners: Manners,
    servers: Vec<Serving>,
    channel: Channel,
    client: TortoiseClient,
}

const QUICK: Duration = Duration::from_millis(10);
const SLOW: Duration = Duration::from_secs(2);

impl Race {
    async fn of(count: usize, set: impl FnOnce(ChannelBuilder) -> ChannelBuilder) -> Self {
        let registry = MemRegistry::new();
        let manners = Manners::default();
        let mut servers = Vec::new();
        for number in 0..count {
            manners.lock().unwrap().insert(number, (QUICK, Ok(())));
            let one = One {
                number,
                manners: Arc::clone(&manners),
            };
            let server = Server::builder().service(TortoiseServer::new(one)).register(registry.clone());
            servers.push(server.bind(format!("mem:{}", unique("race"))).start().await.unwrap());
        }
        let channel = Channel::builder().resolver(registry.resolver("test.Tortoise")).balancer(RoundRobin);
        let channel = channel.retry(RetryPolicy::NEVER).outlier_detection(OutlierDetection::NEVER);
        let channel = set(channel).connect("mem:///test.Tortoise").await.unwrap();
        until("all are connected", || {
            channel.snapshot().endpoints.iter().filter(|one| one.connections > 0).count() == count
        })
        .await;
        Self {
            manners,
            servers,
            client: TortoiseClient::from_channel(channel.clone()),
            channel,
        }
    }

    fn turn(&self, number: usize, takes: Duration, end: Result<(), Status>) {
        self.manners.lock().unwrap().insert(number, (takes, end));
    }

    /// Of so many calls, how long each took.
    async fn times(&self, calls: usize) -> Vec<Duration> {
        let mut times = Vec::new();
        for _ in 0..calls {
            let begun = Instant::now();
            self.client.get().await.unwrap();
            times.push(begun.elapsed());
        }
        times
    }

    fn running(&self) -> usize {
        self.servers.iter().map(|server| server.snapshot().running_handlers).sum()
    }
}

fn after_50_ms() -> HedgingPolicy {
    HedgingPolicy::DEFAULT.after(Duration::from_millis(50)).budget(1.0)
}

#[tokio::test(start_paused = true)]
async fn the_first_answer_counts_and_the_other_call_is_cancelled() {
    bounded(async {
        let race = Race::of(3, |channel| channel.hedging(after_50_ms())).await;
        assert!(race.times(60).await.iter().all(|time| *time < Duration::from_millis(15)));
        assert_eq!(race.channel.snapshot().hedges, 0);
        race.turn(1, SLOW, Ok(()));
        let times = race.times(60).await;
        let late = times.iter().filter(|time| **time > Duration::from_millis(15)).count();
        assert!(times.iter().all(|time| *time < Duration::from_millis(75)), "{times:?}");
        // Each second call takes a turn as well.
        assert!(
            (20..=30).contains(&late) && race.channel.snapshot().hedges == late as u64,
            "{late}"
        );
        let methods = race.channel.snapshot().methods;
        assert_eq!(
            (&*methods[0].path, methods[0].hedge_delay),
            ("test.Tortoise/get", Some(Duration::from_millis(50)))
        );
        // Nobody goes on for those that were answered elsewhere.
        sleep(Duration::from_millis(5)).await;
        assert_eq!(race.running(), 0);
        // The second attempt says what it is.
        let mut attempts = Vec::new();
        for _ in 0..6 {
            attempts.push(race.client.get().await.unwrap().1);
        }
        attempts.sort_unstable();
        assert!(
            attempts.starts_with(&[1, 1]) && attempts.ends_with(&[2, 2]),
            "{attempts:?}"
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_must_not_run_twice_and_streams_are_made_once() {
    bounded(async {
        let race = Race::of(2, |channel| channel.hedging(after_50_ms())).await;
        race.turn(0, SLOW, Ok(()));
        race.turn(1, SLOW, Ok(()));
        for _ in 0..4 {
            assert_eq!(race.client.put().await.unwrap().1, 1);
            assert_eq!(race.client.list().await.unwrap().next().await.unwrap().unwrap(), 1);
        }
        assert_eq!(race.channel.snapshot().hedges, 0);
        // Nor does anything follow where there is nobody else.
        let alone = Race::of(1, |channel| channel.hedging(after_50_ms())).await;
        alone.turn(0, SLOW, Ok(()));
        let times = alone.times(3).await;
        assert!(times.iter().all(|time| *time >= SLOW));
        let snapshot = alone.channel.snapshot();
        assert_eq!((snapshot.hedges, snapshot.hedges_withheld), (0, 3));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn all_calls_pay_for_the_few_that_are_made_twice() {
    bounded(async {
        let policy = HedgingPolicy::DEFAULT.after(Duration::from_millis(50)).budget(0.05);
        let race = Race::of(2, |channel| channel.hedging(policy)).await;
        // All are slow: a second call saves nothing, and must not double the load.
        race.turn(0, Duration::from_millis(200), Ok(()));
        race.turn(1, Duration::from_millis(200), Ok(()));
        race.times(400).await;
        let snapshot = race.channel.snapshot();
        assert!(snapshot.hedges <= 21 && snapshot.hedges >= 19, "{}", snapshot.hedges);
        assert_eq!(snapshot.hedges + snapshot.hedges_withheld, 400);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_delay_is_learned_from_the_endpoint_in_the_middle() {
    bounded(async {
        let race = Race::of(5, |channel| channel.hedging(HedgingPolicy::DEFAULT)).await;
        let slow = Duration::from_millis(400);
        race.turn(4, slow, Ok(()));
        // Nothing is known at first.
        race.times(300).await;
        let times = race.times(100).await;
        let late = times.iter().filter(|time| **time > Duration::from_millis(40)).count();
        // Of 20 slow ones two are paid for by the budget, which many have saved for before.
        assert!(late <= 19, "{late}: {times:?}");
        assert!(times.iter().all(|time| *time < Duration::from_millis(40) || *time >= slow));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_the_application_is_one_and_a_failure_waits_for_the_other() {
    bounded(async {
        let race = Race::of(2, |channel| channel.hedging(after_50_ms())).await;
        race.times(20).await;
        let ms = Duration::from_millis;
        // The first says no while the second works.
        race.turn(0, ms(60), Err(Status::not_found("x")));
        race.turn(1, ms(60), Err(Status::not_found("x")));
        let begun = Instant::now();
        assert_eq!(race.client.get().await.unwrap_err().code(), Code::NotFound);
        assert!(begun.elapsed() < ms(70));
        // Whichever fails, the other may answer.
        for slow in 0..2 {
            race.turn(slow, ms(80), Err(Status::unavailable("x")));
            race.turn(1 - slow, ms(100), Ok(()));
            for _ in 0..2 {
                let (who, _) = race.client.get().await.unwrap();
                assert_eq!(who, 1 - slow);
            }
        }
        // Both fail.
        race.turn(0, ms(60), Err(Status::unavailable("x")));
        race.turn(1, ms(60), Err(Status::unavailable("x")));
        let begun = Instant::now();
        assert_eq!(race.client.get().await.unwrap_err().code(), Code::Unavailable);
        assert!(begun.elapsed() >= ms(110));
        assert_eq!(race.running(), 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_is_always_overtaken_is_ejected() {
    bounded(async {
        let set = |channel: ChannelBuilder| channel.hedging(after_50_ms()).outlier_detection(OutlierDetection::DEFAULT);
        let race = Race::of(3, set).await;
        race.times(30).await;
        race.turn(1, SLOW, Ok(()));
        race.times(60).await;
        let snapshot = race.channel.snapshot();
        let ejected: Vec<_> = snapshot.endpoints.iter().filter_map(|one| one.ejected.as_deref()).collect();
        assert_eq!(
            (ejected, snapshot.hedges),
            (vec!["5 calls in a row failed or were late"], 5)
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_configuration_switches_it_on_for_a_method() {
    bounded(async {
        let said = Said::new("{}");
        let race = Race::of(2, |channel| channel.config_source(said.clone())).await;
        race.turn(0, SLOW, Ok(()));
        let slow = |times: Vec<Duration>| times.into_iter().filter(|time| *time >= SLOW).count();
        assert_eq!(slow(race.times(10).await), 5);
        said.say(r#"{"methods": {"get": {"hedging": {"delay": "50ms", "budget": 1}}}}"#).await;
        assert_eq!(slow(race.times(10).await), 0);
        said.say(r#"{"methods": {"get": {"hedging": false}}}"#).await;
        assert_eq!(slow(race.times(10).await), 5);
    })
    .await;
}
