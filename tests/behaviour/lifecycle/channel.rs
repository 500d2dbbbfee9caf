//! The client's side: states, reconnecting, backoff, the one cause of all calls of a lost connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use sinew::transport::ConnectError;
use sinew::{
    Backoff, Channel, Code, ConnectivityState, HandlerRan, Limits, Origin, Server, Serving, StateChanges, Status,
};

use super::{WorkerClient, worker};
use crate::support::fixture::{Connecting, Fixture, connect_with, connector, unique};
use crate::support::hand::{DATA, FIN, GOAWAY, Hand, REPLY, channel_to_hand, message};
use crate::support::probe::Event;
use crate::support::{bounded, until};

/// Follows the states until `wanted`; returns those in between.
async fn reach(states: &mut StateChanges, wanted: ConnectivityState) -> Vec<ConnectivityState> {
    let mut seen = Vec::new();
    loop {
        let state = bounded(states.next()).await.expect("the channel lives");
        seen.push(state);
        if state == wanted {
            return seen;
        }
    }
}

async fn serve_at(address: &str) -> Serving {
    let (service, ..) = worker();
    Server::builder().service(service).bind(address).start().await.unwrap()
}

#[tokio::test]
async fn a_channel_connects_when_it_is_used_and_its_states_can_be_followed() {
    let name = unique("mem:states");
    let channel = Channel::lazy(&name).unwrap();
    let worker = WorkerClient::from_channel(channel.clone());
    let mut states = channel.states();
    assert_eq!(states.next().await, Some(ConnectivityState::Idle));
    assert_eq!(channel.state(), ConnectivityState::Idle);
    let server = serve_at(&name).await;
    tokio::task::yield_now().await;
    assert_eq!(
        (channel.state(), server.connections()),
        (ConnectivityState::Idle, 0),
        "nobody asked for a connection"
    );
    assert_eq!(worker.ping().await.unwrap(), 1);
    // CONNECTING may have been passed too quickly to be seen.
    let made = reach(&mut states, ConnectivityState::Ready).await;
    assert!(!made.contains(&ConnectivityState::TransientFailure), "{made:?}");
    drop(server);
    let lost = reach(&mut states, ConnectivityState::TransientFailure).await;
    assert!(!lost.contains(&ConnectivityState::Idle), "{lost:?}");
    let _server = serve_at(&name).await;
    reach(&mut states, ConnectivityState::Ready).await;
    assert_eq!(worker.ping().await.unwrap(), 1);
    channel.shut_down();
    assert_eq!(
        reach(&mut states, ConnectivityState::Shutdown).await.last(),
        Some(&ConnectivityState::Shutdown)
    );
    let refused = worker.ping().wait_for_ready().await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    // The states are a stream as well.
    assert_eq!(
        Box::pin(channel.states()).next().await,
        Some(ConnectivityState::Shutdown)
    );
}

#[tokio::test]
async fn connecting_fails_with_the_cause() {
    let status = Channel::connect("127.0.0.1:1").await.unwrap_err();
    assert_eq!((status.code(), status.origin()), (Code::Unavailable, Origin::Transport));
    assert!(
        status.message().contains("127.0.0.1:1") && status.message().contains("refused"),
        "{status}"
    );
    let status = Channel::connect("unix:/nonexistent/socket").await.unwrap_err();
    assert!(status.message().contains("/nonexistent/socket"), "{status}");
    let status = Channel::connect("10.255.255.1:9").await.unwrap_err();
    assert!(
        status.message().contains("dangerous_plaintext"),
        "says what to do: {status}"
    );
}

/// `connect` has the connect time-out: a server that is about to start is waited for, one that never comes is given up with the cause.
#[tokio::test(start_paused = true)]
async fn connecting_waits_for_a_server_that_is_about_to_start() {
    let name = unique("mem:late");
    let began = tokio::time::Instant::now();
    let status = Channel::connect(&name).await.unwrap_err();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    assert!(status.message().contains(&name), "{status}");
    let took = began.elapsed();
    assert!((1_000..1_010).contains(&took.as_millis()), "{took:?}");
    let late = {
        let name = name.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            serve_at(&name).await
        })
    };
    assert_eq!(WorkerClient::connect(&name).await.unwrap().ping().await.unwrap(), 1);
    drop(late.await);
}

/// Whatever a connector does, an attempt ends with the connect time-out, and the next one is made.
#[tokio::test(start_paused = true)]
async fn an_attempt_that_hangs_is_given_up() {
    let attempts = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = Arc::clone(&attempts);
    let connector = connect_with(move || {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::pending())
    });
    let channel = Channel::builder().connect_timeout("200ms").with_connector("hanging:", connector).unwrap();
    let mut states = channel.states();
    assert_eq!(states.next().await, Some(ConnectivityState::Idle));
    let worker = WorkerClient::from_channel(channel);
    let call = tokio::spawn(worker.ping().timeout("10s").into_future());
    assert_eq!(states.next().await, Some(ConnectivityState::Connecting));
    assert_eq!(states.next().await, Some(ConnectivityState::TransientFailure));
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::Unavailable, HandlerRan::No)
    );
    assert!(status.message().contains("hanging:"), "{status}");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(attempts.load(Ordering::SeqCst) > 2, "it goes on trying");
}

#[tokio::test]
async fn a_client_finds_its_server_again() {
    for address in [Fixture::Tcp.address(), Fixture::Unix.address(), Fixture::Mem.address()] {
        let server = serve_at(&address.unwrap()).await;
        let target = server.target();
        let worker = WorkerClient::connect(&target).await.unwrap();
        for _ in 0..3 {
            assert_eq!(worker.ping().await.unwrap(), 1);
        }
        drop(server);
        until("the loss is noticed", || {
            worker.channel().state() != ConnectivityState::Ready
        })
        .await;
        let waiting = tokio::spawn(worker.ping().wait_for_ready().into_future());
        let _server = bounded(async {
            loop {
                // The old listener may take a moment to go.
                let (service, ..) = super::worker();
                if let Ok(server) = Server::builder().service(service).bind(&target).start().await {
                    break server;
                }
                tokio::task::yield_now().await;
            }
        })
        .await;
        assert_eq!(waiting.await.unwrap().unwrap(), 1, "{target}");
        assert_eq!(worker.ping().await.unwrap(), 1);
    }
}

/// Attempts of a connector, by the paused clock.
#[derive(Clone, Default)]
struct Attempts {
    at: Arc<Mutex<Vec<tokio::time::Instant>>>,
    succeed: Arc<AtomicBool>,
}

impl Attempts {
    fn connect(&self, accept: &Arc<Serving>) -> Connecting {
        self.at.lock().unwrap().push(tokio::time::Instant::now());
        let (succeed, accept) = (self.succeed.load(Ordering::Relaxed), Arc::clone(accept));
        Box::pin(async move {
            if !succeed {
                return Err(ConnectError::NoListener {
                    name: "nobody".to_owned(),
                });
            }
            let (ours, theirs) = Fixture::Mem.ends().await;
            accept.accept(theirs);
            Ok(ours)
        })
    }

    fn gaps(&self) -> Vec<Duration> {
        let at = self.at.lock().unwrap();
        at.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

/// Nine minutes of a server that is away, in no time: 50 ms x 1.6 with full jitter up to 5 s, and from the start again once it was READY.
#[tokio::test(start_paused = true)]
async fn attempts_are_spaced_by_the_backoff() {
    let (service, ..) = worker();
    let serving = Arc::new(Server::builder().service(service).start().await.unwrap());
    let attempts = Attempts::default();
    let connector = {
        let (attempts, serving) = (attempts.clone(), Arc::clone(&serving));
        connect_with(move || attempts.connect(&serving))
    };
    let channel = Channel::builder().with_connector("backoff:", connector).unwrap();
    let worker = WorkerClient::from_channel(channel.clone());
    worker.ping().await.unwrap_err();
    tokio::time::sleep(Duration::from_secs(540)).await;
    let gaps = attempts.gaps();
    for (attempt, gap) in (0_i32..).zip(&gaps) {
        let ceiling = Duration::from_secs_f64((0.05 * 1.6_f64.powi(attempt.min(50))).min(5.0));
        assert!(
            *gap <= ceiling + Duration::from_millis(2),
            "gap {attempt} is {gap:?}, above {ceiling:?}"
        );
    }
    // With full jitter the mean is half the cap; far off either way, it would be a storm or a stall.
    assert!(
        (100..500).contains(&gaps.len()),
        "{} attempts in nine minutes",
        gaps.len()
    );
    let distinct: std::collections::HashSet<_> = gaps.iter().map(Duration::as_millis).collect();
    assert!(distinct.len() > gaps.len() / 3, "the gaps are random");

    attempts.succeed.store(true, Ordering::Relaxed);
    worker.ping().wait_for_ready().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_backoff_begins_anew_after_ready() {
    let (channel, mut connections) = channel_to_hand(Fixture::Mem);
    let worker = WorkerClient::from_channel(channel.clone());
    let connecting = tokio::spawn(async move { channel.wait_ready().await });
    // Ten connections that break before READY make the pauses long.
    for _ in 0..10 {
        drop(connections.recv().await.unwrap());
    }
    assert_eq!(connecting.await.unwrap().unwrap_err().code(), Code::Unavailable);
    let mut hand = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    let call = tokio::spawn(worker.ping().wait_for_ready().timeout("1h").into_future());
    let stream = hand.request().await.unwrap();
    hand.reply(REPLY | FIN, stream, &message(&[1])).await;
    assert_eq!(call.await.unwrap().unwrap(), 1);
    tokio::time::sleep(Duration::from_secs(10)).await;
    drop(hand);
    let lost = tokio::time::Instant::now();
    let mut again = connections.recv().await.unwrap();
    assert!(
        lost.elapsed() <= Duration::from_millis(51),
        "the first pause is the shortest: {:?}",
        lost.elapsed()
    );
    for attempt in 0..3 {
        let began = tokio::time::Instant::now();
        drop(again);
        again = connections.recv().await.unwrap();
        let ceiling = Duration::from_secs_f64(0.05 * 1.6_f64.powi(attempt + 1));
        assert!(
            began.elapsed() <= ceiling + Duration::from_millis(2),
            "{:?} after {attempt}",
            began.elapsed()
        );
    }
}

#[test]
fn backoffs_are_checked() {
    let (ms, s) = (Duration::from_millis(1), Duration::from_secs(1));
    assert!(Backoff::try_new(ms, 2.0, s).is_ok() && Backoff::try_new(ms, 1.0, ms).is_ok());
    for (initial, factor, cap, field) in [
        (Duration::ZERO, 2.0, s, "initial"),
        (ms, 0.9, s, "factor"),
        (ms, f64::NAN, s, "factor"),
        (s, 2.0, ms, "cap"),
        (ms, 2.0, Duration::MAX, "cap"),
    ] {
        let error = Backoff::try_new(initial, factor, cap).unwrap_err();
        assert!(
            error.field == field && error.to_string().contains(&error.value),
            "{error}"
        );
    }
}

/// A connection dies with calls running and calls queued: all of them end, the running ones with one and the same cause.
#[tokio::test]
async fn all_calls_of_a_lost_connection_end_with_one_cause() {
    for fixture in [Fixture::Tcp, Fixture::Unix, Fixture::Mem] {
        let (sender, mut connections) = tokio::sync::mpsc::unbounded_channel();
        let first = AtomicBool::new(true);
        let connector = connect_with(move || {
            let (sender, first) = (sender.clone(), first.swap(false, Ordering::Relaxed));
            Box::pin(async move {
                if !first {
                    return Err(ConnectError::NoListener {
                        name: "gone".to_owned(),
                    });
                }
                let (ours, theirs) = fixture.ends().await;
                sender.send(theirs).unwrap();
                Ok(ours)
            })
        });
        let channel = Channel::builder().with_connector("once:", connector).unwrap();
        let worker = WorkerClient::from_channel(channel);
        let prepared = tokio::spawn(worker.ping().into_future());
        let mut hand = Hand::greet(connections.recv().await.unwrap(), &[("max_streams", 5)]).await;
        let stream = hand.request().await.unwrap();
        hand.reply(REPLY | FIN, stream, &message(&[1])).await;
        prepared.await.unwrap().unwrap();

        let running: Vec<_> = (0..5).map(|_| tokio::spawn(worker.ping().into_future())).collect();
        for _ in 0..5 {
            hand.request().await.unwrap();
        }
        let queued: Vec<_> = (0..5).map(|_| tokio::spawn(worker.ping().into_future())).collect();
        tokio::task::yield_now().await;
        drop(hand);
        let mut causes = Vec::new();
        for call in running {
            let status = bounded(call).await.unwrap().unwrap_err();
            assert_eq!((status.code(), status.origin()), (Code::Unavailable, Origin::Transport));
            assert_eq!(
                status.handler_ran(),
                HandlerRan::Maybe,
                "the request had left: {status}"
            );
            causes.push(status);
        }
        assert!(
            causes.windows(2).all(|pair| pair[0] == pair[1]),
            "one cause: {causes:?}"
        );
        for call in queued {
            let status = bounded(call).await.unwrap().unwrap_err();
            assert_eq!(
                (status.code(), status.handler_ran()),
                (Code::Unavailable, HandlerRan::No),
                "{status}"
            );
        }
    }
}

/// Calls that wait for a place on a full connection are sent on the next one when theirs dies, and succeed.
#[tokio::test]
async fn queued_calls_move_to_the_next_connection() {
    let (channel, mut connections) = channel_to_hand(Fixture::Tcp);
    let worker = WorkerClient::from_channel(channel);
    let running = tokio::spawn(worker.ping().into_future());
    let mut hand = Hand::greet(connections.recv().await.unwrap(), &[("max_streams", 1)]).await;
    hand.request().await.unwrap();
    until("it is ready", || worker.channel().state() == ConnectivityState::Ready).await;
    let queued = tokio::spawn(worker.ping().into_future());
    tokio::task::yield_now().await;
    drop(hand);
    assert_eq!(running.await.unwrap().unwrap_err().handler_ran(), HandlerRan::Maybe);
    let mut next = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    let stream = next.request().await.unwrap();
    next.reply(REPLY | FIN, stream, &message(&[1])).await;
    assert_eq!(bounded(queued).await.unwrap().unwrap(), 1);
}

/// A running stream ends with the cause of its connection too.
#[tokio::test]
async fn streams_of_a_lost_connection_end_with_its_cause() {
    let (service, mut events, _gate) = worker();
    let server = Server::builder().service(service).bind("127.0.0.1:0").start().await.unwrap();
    let worker = WorkerClient::lazy(&server.target()).unwrap();
    let mut items = worker.watch(false).await.unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert_eq!(events.next().await, Event::Began);
    drop(server);
    let status: Status = bounded(items.next()).await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(items.next().await.is_none());
}

static SERVER: LazyLock<String> = LazyLock::new(|| {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let server = serve_at("127.0.0.1:0").await;
            sender.send(server.target()).unwrap();
            std::future::pending::<()>().await;
        });
    });
    receiver.recv().unwrap()
});
static SHARED: LazyLock<WorkerClient> = LazyLock::new(|| WorkerClient::lazy(&SERVER).unwrap());

/// One static client, used from runtimes that come and go: each takes the connection over when its predecessor is gone.
#[test]
fn a_static_client_serves_several_runtimes() {
    let in_a_runtime = |calls: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(bounded(async move {
            for _ in 0..calls {
                // The driver of the connection may have ended with its runtime just now; the call says that it was not sent.
                assert_eq!(SHARED.ping().await.unwrap(), 1);
            }
        }));
    };
    for calls in [1, 3, 0, 2] {
        in_a_runtime(calls);
    }
    let together: Vec<_> = (0..3).map(|_| std::thread::spawn(move || in_a_runtime_for(20))).collect();
    for thread in together {
        thread.join().unwrap();
    }
    in_a_runtime(2);
}

/// While several runtimes share a connection, the one that drives it may end: calls of the others then fail as lost, and may be made again.
fn in_a_runtime_for(calls: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(bounded(async move {
        let mut done = 0;
        while done < calls {
            match SHARED.ping().wait_for_ready().await {
                Ok(value) => {
                    assert_eq!(value, 1);
                    done += 1;
                }
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
            }
        }
    }));
}

/// The last client that goes takes its connection along, but not before its calls and streams are done.
#[tokio::test]
async fn the_connection_closes_with_the_last_of_its_users() {
    let (service, mut events, _gate) = worker();
    let server = Server::builder().service(service).bind("127.0.0.1:0").start().await.unwrap();
    let worker = WorkerClient::connect(&server.target()).await.unwrap();
    let clone = worker.clone();
    drop(worker);
    let mut items = clone.watch(false).await.unwrap();
    drop(clone);
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    assert_eq!(server.connections(), 1, "the stream keeps it");
    drop(items);
    until("the connection is gone", || server.connections() == 0).await;
    assert_eq!(events.next().await, Event::Began);
}

#[tokio::test]
async fn a_channel_outside_a_runtime_says_so() {
    let worker = WorkerClient::lazy("mem:nowhere").unwrap();
    let call = std::thread::spawn(move || {
        let mut call = Box::pin(worker.ping().into_future());
        let mut task = std::task::Context::from_waker(std::task::Waker::noop());
        match Future::poll(call.as_mut(), &mut task) {
            std::task::Poll::Ready(result) => result.unwrap_err(),
            std::task::Poll::Pending => panic!("it waits for nothing"),
        }
    });
    let status = call.join().unwrap();
    assert!(status.message().contains("runtime"), "{status}");
}

/// Limits may be set as a whole, and what is out of range is named.
#[tokio::test]
async fn limits_hold_for_their_channel() {
    let limits = Limits {
        max_streams: 0,
        ..Limits::default()
    };
    let status = Channel::builder().limits(limits).lazy("mem:x").unwrap_err();
    assert!(status.message().contains("(max_streams) is 0"), "{status}");
}

#[tokio::test]
async fn a_channel_that_was_shut_down_makes_no_connection() {
    let (service, ..) = worker();
    let served = Fixture::Mem.serve(Server::builder().service(service)).await;
    let worker = WorkerClient::from_channel(served.channel.clone());
    served.channel.shut_down();
    for _ in 0..3 {
        let refused = served.channel.wait_ready().await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.handler_ran()),
            (Code::Unavailable, HandlerRan::No)
        );
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert_eq!(worker.ping().await.unwrap_err().code(), Code::Unavailable);
        let waiting = worker.ping().wait_for_ready().await;
        assert_eq!(waiting.unwrap_err().code(), Code::Unavailable);
    }
    assert_eq!(served.serving.connections(), 0);
    assert_eq!(served.channel.state(), ConnectivityState::Shutdown);
}

/// A stream runs on a connection that its server wants to be rid of; the next connection is not used and goes idle, which is no business of the first.
#[tokio::test(start_paused = true)]
async fn a_leaving_connection_outlives_its_idle_successor() {
    let (sender, mut connections) = tokio::sync::mpsc::unbounded_channel();
    let connector = connector(Fixture::Mem, move |stream| sender.send(stream).unwrap());
    let channel = Channel::builder().idle_timeout("1s").with_connector("hand:", connector).unwrap();
    let worker = WorkerClient::from_channel(channel);
    let opening = tokio::spawn(worker.watch(false).into_future());
    let mut first = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    let stream = first.request().await.unwrap();
    first.reply(REPLY, stream, &message(&[1])).await;
    let mut items = opening.await.unwrap().unwrap();
    assert_eq!(items.next().await.unwrap().unwrap(), 1);
    first.go_away(stream, 0).await;
    for round in 2..5 {
        let mut next = Hand::greet(bounded(connections.recv()).await.unwrap(), &[]).await;
        assert!(next.read_kind(GOAWAY).await.is_some(), "it goes idle");
        until("the channel is idle", || {
            worker.channel().state() == ConnectivityState::Idle
        })
        .await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        first.send(DATA, stream, &message(&[round])).await;
        assert_eq!(items.next().await.unwrap().unwrap(), u64::from(round));
        // The next connection.
        let channel = worker.channel().clone();
        tokio::spawn(async move { channel.wait_ready().await });
    }
    worker.channel().shut_down();
    let status = items.next().await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the channel's end is theirs too");
    assert!(first.read_kind(DATA).await.is_none(), "and the connection is closed");
}

/// A thousand clients come back after an outage: spread over the backoff, never in a crowd, and all of them within its cap and the time to connect.
#[tokio::test(start_paused = true)]
async fn a_thousand_clients_come_back_one_after_the_other() {
    const CLIENTS: usize = 1_000;
    let target = format!("mem:{}", unique("herd"));
    let start = || async {
        let (service, _events, _gate) = worker();
        Server::builder().service(service).bind(&target).start().await.unwrap()
    };
    let serving = start().await;
    let mut channels = Vec::new();
    for _ in 0..CLIENTS {
        channels.push(Channel::connect(&target).await.unwrap());
    }
    drop(serving);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let _again = start().await;
    let begun = tokio::time::Instant::now();
    let mut back = tokio::task::JoinSet::new();
    for channel in channels {
        back.spawn(async move {
            reach(&mut channel.states(), ConnectivityState::Ready).await;
            (begun.elapsed(), channel)
        });
    }
    let mut windows = std::collections::BTreeMap::<u128, usize>::new();
    for (after, _channel) in back.join_all().await {
        assert!(after <= Duration::from_secs(6), "{after:?}");
        *windows.entry(after.as_millis() / 100).or_default() += 1;
    }
    let most = windows.values().max().unwrap();
    assert!(*most <= CLIENTS * 6 / 100, "{most} within 100 ms: {windows:?}");
}
