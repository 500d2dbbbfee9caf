//! More to do than can be done: who is turned away, what they are told, and that nobody is without a reason.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sinew::{
    AdaptiveThrottle, Channel, Code, Cx, HandlerRan, MethodAdmission, Origin, Priority, RetryPolicy, Server,
    ServerBuilder, Serving, Status, service,
};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until};

use crate::support::fixture::unique;
use crate::support::{bounded, until};

#[service(name = "test.Shop")]
trait Shop {
    /// Takes 10 ms of one of four places.
    async fn buy(&self);
    /// Takes no time.
    async fn look(&self) -> u8;
    /// Takes as long as it is told, and no place.
    async fn wait(&self, millis: u64);
    /// The priority that it has here.
    async fn priority(&self, cx: &Cx) -> String;
}

#[derive(Clone)]
struct Till {
    places: Arc<Semaphore>,
    looked: Arc<AtomicU32>,
}

impl Till {
    fn new() -> Self {
        Self {
            places: Arc::new(Semaphore::new(4)),
            looked: Arc::default(),
        }
    }
}

impl Shop for Till {
    async fn buy(&self) {
        let _place = self.places.acquire().await.unwrap();
        sleep(Duration::from_millis(10)).await;
    }
    async fn look(&self) -> u8 {
        self.looked.fetch_add(1, Ordering::Relaxed);
        7
    }
    async fn wait(&self, millis: u64) {
        sleep(Duration::from_millis(millis)).await;
    }
    async fn priority(&self, cx: &Cx) -> String {
        cx.priority().to_string()
    }
}

/// What the till is capable of.
const CAPACITY: u64 = 400;

async fn open(name: &str, with: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (ShopClient, Serving) {
    let builder = Server::builder().service(ShopServer::new(Till::new())).bind(format!("mem:{name}"));
    let server = with(builder).start().await.unwrap();
    // Who is turned away says so, and does not try again.
    let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
    let channel = channel.connect(&server.target()).await.unwrap();
    (ShopClient::from_channel(channel), server)
}

/// How calls ended.
#[derive(Default)]
struct Ends {
    answered: AtomicU32,
    failed: std::sync::Mutex<Vec<(Status, Duration)>>,
}

/// Makes so many calls a second for so long, each with the priority that its number gives it.
async fn buy_at(
    client: &ShopClient,
    rate: u64,
    lasts: Duration,
    priority: fn(u64) -> Priority,
) -> [(u32, Vec<(Status, Duration)>); 4] {
    let ends: Arc<[Ends; 4]> = Arc::default();
    let start = Instant::now();
    let gap = Duration::from_secs(1) / u32::try_from(rate).unwrap();
    let count = lasts.as_nanos() / gap.as_nanos();
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..u64::try_from(count).unwrap() {
        sleep_until(start + gap * u32::try_from(number).unwrap()).await;
        let (client, ends, priority) = (client.clone(), Arc::clone(&ends), priority(number));
        calls.spawn(async move {
            let began = Instant::now();
            let ends = &ends[priority.index()];
            match client.buy().timeout("250ms").priority(priority).await {
                Ok(()) => drop(ends.answered.fetch_add(1, Ordering::Relaxed)),
                Err(status) => ends.failed.lock().unwrap().push((status, began.elapsed())),
            }
        });
    }
    while calls.join_next().await.is_some() {}
    std::array::from_fn(|at| {
        let failed = std::mem::take(&mut *ends[at].failed.lock().unwrap());
        (ends[at].answered.load(Ordering::Relaxed), failed)
    })
}

fn usage(server: &Serving) -> Option<MethodAdmission> {
    server
        .snapshot()
        .admission
        .unwrap()
        .methods
        .into_iter()
        .find(|method| method.path == "test.Shop/buy")
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_is_turned_away_at_once_with_its_reason() {
    bounded(async {
        let (client, server) = open("overload", |builder| builder).await;
        // Until it has found its limit.
        buy_at(&client, 3 * CAPACITY, Duration::from_secs(10), |_| Priority::Normal).await;
        let limit = usage(&server).unwrap().limit.unwrap();
        assert!((4..=20).contains(&limit), "{limit} for four places");
        let [_, _, (answered, failed), _] =
            buy_at(&client, 3 * CAPACITY, Duration::from_secs(10), |_| Priority::Normal).await;
        // Timers are a millisecond late.
        assert!(answered >= 3_500, "{answered} of 4,000 that are possible");
        assert!(failed.len() > 7_000);
        for (status, after) in &failed {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert_eq!(
                (status.policy(), status.reason()),
                (Some("adaptive_concurrency"), Some("overloaded"))
            );
            assert_eq!(status.retry_after(), Some(Duration::from_millis(100)));
            assert_eq!(
                (status.handler_ran(), status.origin()),
                (HandlerRan::No, Origin::Remote)
            );
            assert!(
                status.is_retryable() && status.message().contains("overloaded"),
                "{status}"
            );
            assert!(*after <= Duration::from_millis(10), "no after {after:?}");
        }
        let rejected = server.snapshot().admission.unwrap().rejected;
        let of_normal = rejected.iter().find(|(priority, _)| *priority == Priority::Normal).unwrap().1;
        assert!(of_normal >= failed.len() as u64);

        // The others are as free as ever, also those that wait, and so is everything soon after.
        assert_eq!(client.look().await.unwrap(), 7);
        client.wait(10).await.unwrap();
        until("all calls are over", || {
            server.snapshot().admission.unwrap().methods.iter().all(|it| it.in_flight == 0)
        })
        .await;
        sleep(Duration::from_secs(1)).await;
        let [_, _, (answered, failed), _] = buy_at(&client, CAPACITY * 8 / 10, Duration::from_secs(12), |_| {
            Priority::Normal
        })
        .await;
        assert_eq!(
            failed.len(),
            0,
            "{answered} of {} answered: {:?}",
            answered as usize + failed.len(),
            failed.first()
        );
        let usage = usage(&server).unwrap();
        assert_eq!(usage.limit, None, "nobody has reached the limit for 10 s");
        assert_eq!(usage.rejected, of_normal);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_lowest_are_turned_away_first() {
    bounded(async {
        let (client, _server) = open("priorities", ServerBuilder::trust_priorities).await;
        // Of ten calls two matter most, four are like any other, two matter less and two hardly.
        let mixed = |number| match number % 10 {
            0 | 5 => Priority::Critical,
            2 | 7 => Priority::Low,
            4 | 9 => Priority::Background,
            _ => Priority::Normal,
        };
        buy_at(&client, 2 * CAPACITY, Duration::from_secs(10), mixed).await;
        let ends = buy_at(&client, 2 * CAPACITY, Duration::from_secs(10), mixed).await;
        let shares = ends.map(|(answered, failed)| f64::from(answered) / (f64::from(answered) + failed.len() as f64));
        let [background, low, normal, critical] = shares;
        // What the critical leave is 240 a second for 320 of normal priority.
        assert!(critical >= 0.999 && normal > 0.55, "{shares:?}");
        assert!(low < 0.25 && background < 0.05, "{shares:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn nobody_is_turned_away_for_being_many() {
    bounded(async {
        let (client, server) = open("many", |builder| builder.max_calls_per_connection(20_000)).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..10_000 {
            let client = client.clone();
            calls.spawn(async move { client.wait(1_000).await });
        }
        while let Some(answer) = calls.join_next().await {
            answer.unwrap().unwrap();
        }
        let admission = server.snapshot().admission.unwrap();
        assert!(admission.rejected.iter().all(|(_, count)| *count == 0), "{admission:?}");
        assert!(admission.methods.is_empty(), "{admission:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_can_be_switched_off() {
    bounded(async {
        let (client, server) = open("off", |builder| builder.adaptive_concurrency(false)).await;
        assert!(server.snapshot().admission.is_none());
        let [_, _, (_, failed), _] = buy_at(&client, 3 * CAPACITY, Duration::from_secs(5), |_| Priority::Normal).await;
        assert!(
            failed.iter().all(|(status, _)| status.code() == Code::DeadlineExceeded),
            "nobody says no"
        );
        assert!(failed.len() > 2_000);
    })
    .await;
}

/// Who gives up while it stands in line, or while it is worked on, leaves nothing behind.
#[tokio::test(start_paused = true)]
async fn calls_that_are_given_up_free_their_places() {
    bounded(async {
        let (client, server) = open("given_up", |builder| builder).await;
        buy_at(&client, 3 * CAPACITY, Duration::from_secs(5), |_| Priority::Normal).await;
        assert!(usage(&server).is_some_and(|usage| usage.limit.is_some()));
        println!("seed 7");
        let mut rng = fastrand::Rng::with_seed(7);
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..2_000 {
            let (client, patience) = (client.clone(), Duration::from_millis(rng.u64(0..20)));
            calls.spawn(async move { tokio::time::timeout(patience, client.buy().into_future()).await.is_ok() });
            if rng.u8(..4) == 0 {
                sleep(Duration::from_millis(2)).await;
            }
        }
        while calls.join_next().await.is_some() {}
        until("no call is left", || {
            usage(&server).is_none_or(|usage| (usage.in_flight, usage.waiting) == (0, 0))
        })
        .await;
        assert_eq!(server.snapshot().running_handlers, 0);
        client.buy().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn priorities_are_inherited_and_clamped() {
    bounded(async {
        let (client, _server) = open("clamped", |builder| builder).await;
        let (trusting, _other) = open("trusting", ServerBuilder::trust_priorities).await;
        for (asked, taken) in [
            (Priority::Critical, "normal"),
            (Priority::Normal, "normal"),
            (Priority::Low, "low"),
            (Priority::Background, "background"),
        ] {
            assert_eq!(client.priority().priority(asked).await.unwrap(), taken);
            assert_eq!(trusting.priority().priority(asked).await.unwrap(), asked.as_str());
            // A call on behalf of another has its priority, unless it says otherwise.
            let cx = Cx::new().with_priority(asked);
            assert_eq!(trusting.priority().within(&cx).await.unwrap(), asked.as_str());
            let inherits = cx.carry_in(async { trusting.priority().await }).await;
            assert_eq!(inherits.unwrap(), asked.as_str());
            let own = trusting.priority().within(&cx).priority(Priority::Low).await;
            assert_eq!(own.unwrap(), "low");
            assert_eq!(trusting.priority().within(&cx).detached().await.unwrap(), "normal");
        }
        assert_eq!(
            trusting.priority().metadata("sinew-priority", "CRITICAL!").await.unwrap(),
            "normal"
        );
        let local = ShopClient::local(Till::new());
        assert_eq!(local.priority().priority(Priority::Critical).await.unwrap(), "critical");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_burst_waits_and_nobody_with_little_time_waits_behind_it() {
    bounded(async {
        let (client, server) = open("burst", |builder| builder).await;
        buy_at(&client, CAPACITY / 2, Duration::from_secs(3), |_| Priority::Normal).await;
        // What makes it find a limit, and then a second of work; both of callers that wait for ten seconds.
        let mut burst = tokio::task::JoinSet::new();
        for count in [100, CAPACITY] {
            for _ in 0..count {
                let client = client.clone();
                burst.spawn(async move { client.buy().await });
            }
            until("there is a limit", || {
                usage(&server).is_some_and(|usage| usage.limit.is_some())
            })
            .await;
        }
        until("the burst stands in line", || {
            usage(&server).is_some_and(|usage| usage.waiting > 300)
        })
        .await;
        // Meanwhile others come that have 250 ms.
        let [_, _, (answered, failed), _] =
            buy_at(&client, CAPACITY / 4, Duration::from_millis(500), |_| Priority::Normal).await;
        // Four places come free at once, every 10 ms: some of those that wait for 8 ms see none.
        assert!(answered >= 35, "{answered} of 50");
        assert!(failed.iter().all(|(status, _)| status.code() == Code::ResourceExhausted));
        assert!(usage(&server).unwrap().waiting > 100, "those that have time still wait");
        while let Some(answer) = burst.join_next().await {
            answer.unwrap().unwrap();
        }
        let rejected = server.snapshot().admission.unwrap().rejected;
        assert_eq!(
            rejected.iter().map(|(_, count)| *count).sum::<u64>(),
            failed.len() as u64
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn more_patient_callers_than_can_be_served_are_told_no_early() {
    bounded(async {
        let (client, server) = open("patient", |builder| builder.max_calls_per_connection(10_000)).await;
        buy_at(&client, CAPACITY / 2, Duration::from_secs(3), |_| Priority::Normal).await;
        let mut late = Vec::new();
        let mut calls = tokio::task::JoinSet::new();
        let start = Instant::now();
        // Three times what is possible, for ten seconds.
        for number in 0..30 * CAPACITY {
            sleep_until(start + Duration::from_micros(1_000_000 * number / (3 * CAPACITY))).await;
            let client = client.clone();
            calls.spawn(async move {
                let began = Instant::now();
                let answer = client.buy().await;
                (began.duration_since(start), answer.is_ok(), began.elapsed())
            });
        }
        let (mut answered, mut refused) = (0, 0);
        while let Some(call) = calls.join_next().await {
            let (at, is_ok, took) = call.unwrap();
            answered += u32::from(is_ok);
            refused += u32::from(!is_ok);
            // Once it is known for an overload.
            if at > Duration::from_secs(4) && took > Duration::from_millis(if is_ok { 100 } else { 10 }) {
                late.push((at, is_ok, took));
            }
        }
        assert!(answered >= 3_800, "{answered} of 4,000 that are possible");
        assert!(refused > 7_000, "{refused}");
        // Those that were in line before it was known may be served in a lull.
        assert!(late.len() < 30, "{}: {:?}", late.len(), &late[..10.min(late.len())]);
        drop(server);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn it_is_switched_off_and_on_while_calls_run() {
    bounded(async {
        let (client, server) = open("switched", |builder| builder).await;
        let monitor = server.monitor();
        buy_at(&client, 3 * CAPACITY, Duration::from_secs(3), |_| Priority::Normal).await;
        let mut patient = tokio::task::JoinSet::new();
        for _ in 0..CAPACITY {
            let client = client.clone();
            patient.spawn(async move { client.buy().await });
            sleep(Duration::from_millis(1)).await;
        }
        let waiting = usage(&server).unwrap().waiting;
        assert!(waiting > 50, "{waiting}");
        monitor.set_adaptive_concurrency(false);
        assert_eq!(server.snapshot().admission, None);
        let rejected = |server: &Serving| {
            let admission = server.snapshot().admission.unwrap();
            admission.methods.iter().map(|method| method.rejected).sum::<u64>()
        };
        let mut answered = 0;
        while let Some(answer) = patient.join_next().await {
            answered += usize::from(answer.unwrap().is_ok());
        }
        assert!(answered >= waiting, "{answered}, with {waiting} that were let in");
        monitor.set_adaptive_concurrency(true);
        let before = rejected(&server);
        assert_eq!(usage(&server).unwrap().waiting, 0);
        buy_at(&client, 3 * CAPACITY, Duration::from_secs(5), |_| Priority::Normal).await;
        assert!(rejected(&server) > before);
    })
    .await;
}

/// The service stands still, and comes back with 64 times what it had: the limit is given up, and so is the line.
#[tokio::test(start_paused = true)]
async fn a_limit_that_was_given_up_does_not_live_on_in_its_line() {
    bounded(async {
        let till = Till::new();
        till.places.forget_permits(3);
        let server = Server::builder().service(ShopServer::new(till.clone())).max_calls_per_connection(20_000);
        let server = server.bind(format!("mem:{}", unique("given-up"))).start().await.unwrap();
        let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
        let client = ShopClient::from_channel(channel.connect(&server.target()).await.unwrap());
        // How many of those are turned away that come after so many seconds.
        let offer = async |rate: u32, lasts: u32, from: u32| {
            let start = Instant::now();
            let mut calls = tokio::task::JoinSet::new();
            for number in 0..rate * lasts {
                sleep_until(start + Duration::from_secs(1) / rate * number).await;
                let client = client.clone();
                calls.spawn(async move { (number, client.buy().timeout("250ms").await) });
            }
            let is_refused = |end: &Result<(), Status>| end.as_ref().is_err_and(|status| status.policy().is_some());
            let ends = calls.join_all().await;
            ends.iter().filter(|(number, end)| *number >= from * rate && is_refused(end)).count()
        };
        offer(50, 3, 0).await;
        assert!(offer(400, 6, 0).await > 1_000, "it is overloaded");
        let all = Arc::clone(&till.places).acquire_owned().await.unwrap();
        let places = Arc::clone(&till.places);
        tokio::spawn(async move {
            sleep(Duration::from_millis(400)).await;
            drop(all);
            places.add_permits(63);
        });
        assert_eq!(offer(3_000, 7, 2).await, 0, "of 15,000, after two seconds");
    })
    .await;
}

#[service(name = "test.News")]
trait News {
    /// Waits for the next item.
    async fn next(&self) -> u32;
}

struct Feed(tokio::sync::watch::Sender<u32>);

impl News for Feed {
    async fn next(&self) -> u32 {
        let mut news = self.0.subscribe();
        news.changed().await.unwrap();
        *news.borrow()
    }
}

/// Calls that end by their deadlines because there is nothing to tell stand in no line, also where there was much to tell before.
#[tokio::test(start_paused = true)]
async fn who_waits_for_news_is_not_turned_away_when_there_are_none() {
    let feed = tokio::sync::watch::Sender::new(0);
    let server = Server::builder().service(NewsServer::new(Feed(feed.clone()))).max_calls_per_connection(20_000);
    let server = server.bind(format!("mem:{}", unique("news"))).start().await.unwrap();
    let channel = Channel::builder().retry(RetryPolicy::NEVER).throttle(AdaptiveThrottle::NEVER);
    let client = NewsClient::from_channel(channel.connect(&server.target()).await.unwrap());
    let refused = Arc::new(AtomicU32::new(0));
    let add = |count: u64| {
        for number in 0..count {
            let (client, refused) = (client.clone(), Arc::clone(&refused));
            tokio::spawn(async move {
                sleep(Duration::from_millis(number * 37 % 10_000)).await;
                loop {
                    if let Err(status) = client.next().await
                        && let Some(after) = status.retry_after()
                    {
                        refused.fetch_add(1, Ordering::Relaxed);
                        sleep(after).await;
                    }
                }
            });
        }
    };
    add(50);
    for _ in 0..300 {
        sleep(Duration::from_millis(100)).await;
        feed.send_modify(|item| *item += 1);
    }
    add(150);
    for _ in 0..5 {
        sleep(Duration::from_secs(120)).await;
        feed.send_modify(|item| *item += 1);
    }
    assert_eq!(refused.load(Ordering::Relaxed), 0);
}
