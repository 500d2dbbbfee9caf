//! Rows 26, 28 and 33, and the number of connections: what happens before and below calls.

use std::time::Duration;

use super::arena::{Arena, TargetClient, TargetServer, Victim};
use super::bad::{
    Bad, HANDSHAKE_TIMEOUT, KEEPALIVE_TIMEOUT, PATIENCE, PREFACE, arguments, frame, hello, nothing, open,
};
use super::child::{Role, released, role, say};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_peers_that_do_not_greet_are_let_go_and_hold_nobody_up() {
    let arena = Arena::with(|builder| builder.handshake_timeout(Duration::from_millis(100))).await;
    let mut slow = Vec::new();
    for cut in 0..30 {
        let mut bad = Bad::silent(&arena.target()).await;
        let greeting = [PREFACE, &hello()].concat();
        bad.send(&greeting[..cut]).await;
        slow.push(bad);
    }
    for mut bad in slow {
        assert_eq!(bad.sent_away().await.0, HANDSHAKE_TIMEOUT);
    }
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_connections_above_the_limit_are_turned_away() {
    let arena = Arena::with(|builder| builder.max_connections(3)).await;
    // Those that have not greeted count like all others, so they are bounded too.
    let silent = [Bad::silent(&arena.target()).await, Bad::silent(&arena.target()).await];
    arena.until("three connections", |arena| arena.serving.connections() == 3).await;
    Bad::greeted(&arena.target()).await.hung_up().await;
    silent.into_iter().for_each(Bad::vanish);
    arena.until("they have left", |arena| arena.serving.connections() == 1).await;
    let first = Bad::greeted(&arena.target()).await;
    let mut second = Bad::greeted(&arena.target()).await;
    arena.until("three connections", |arena| arena.serving.connections() == 3).await;
    let mut above = Bad::greeted(&arena.target()).await;
    above.hung_up().await;
    first.vanish();
    arena.until("one has left", |arena| arena.serving.connections() == 2).await;
    let mut next = Bad::greeted(&arena.target()).await;
    for bad in [&mut second, &mut next] {
        bad.send(&open(1, "echo", &arguments(&("x",)), true)).await;
        assert_eq!(bad.reply_of(1).await, arguments(&"x"));
    }
    second.vanish();
    next.vanish();
    arena.finish().await;
}

/// The peer has a call open and answers nothing any more, as behind a cut cable.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_33_a_peer_that_answers_no_ping_is_given_up() {
    let arena = Arena::with(|builder| builder.keepalive(Duration::from_millis(300), Duration::from_millis(300))).await;
    let mut bad = Bad::greeted(&arena.target()).await;
    bad.send(&open(1, "wait", &nothing(), true)).await;
    assert_eq!(bad.sent_away().await.0, KEEPALIVE_TIMEOUT);
    arena.until("its handler is gone", |arena| arena.live() == 0).await;
    // One that answers stays as long as it likes.
    let mut bad = Bad::greeted(&arena.target()).await;
    bad.send(&open(1, "wait", &nothing(), true)).await;
    for _ in 0..5 {
        let ping = bad.expect(super::bad::PING).await;
        bad.send(&frame(super::bad::PONG, 0, &ping.payload)).await;
    }
    assert_eq!(arena.live(), 1);
    bad.vanish();
    arena.finish().await;
}

/// Descriptors that the server of row 28 may have.
const DESCRIPTORS: usize = 64;

/// Row 28: the server runs out of descriptors. It goes on with the connections that it has, does not spin, and accepts again when some are free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_28_a_server_without_descriptors_recovers() {
    let own = std::env::current_exe().unwrap();
    let role = Role::start("connections::few_descriptors", own.to_str().unwrap());
    let (role, target) = role.listen().await;
    let target = target.unwrap();
    let client = TargetClient::connect(&target).await.unwrap();
    let mut crowd = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        crowd.push(Bad::greeted(&target).await);
    }
    // Those within the limit are answered, the others wait in the backlog; the good client goes on.
    for number in 0..100 {
        assert_eq!(client.echo(number.to_string()).await.unwrap(), number.to_string());
    }
    let (mut role, ticks) = {
        let mut role = role;
        role.tell("cpu");
        role.listen().await
    };
    let before: u64 = ticks.unwrap().parse().unwrap();
    // A second in which nothing happens but accept errors.
    tokio::time::sleep(Duration::from_secs(1)).await;
    role.tell("cpu");
    let (role, ticks) = role.listen().await;
    let used = ticks.unwrap().parse::<u64>().unwrap() - before;
    assert!(
        used <= 10,
        "{used} ticks of 10 ms within a second: more than a tenth of a processor for nothing"
    );
    drop(crowd);
    // The backlog is worked off, and newcomers get in.
    let late = tokio::time::timeout(PATIENCE, async {
        loop {
            if let Ok(late) = TargetClient::connect(&target).await {
                return late;
            }
        }
    });
    assert_eq!(late.await.unwrap().echo("late".to_owned()).await.unwrap(), "late");
    assert_eq!(client.echo("early".to_owned()).await.unwrap(), "early");
    let mut role = role;
    role.release();
    assert!(role.wait());
}

/// Started by the test above: a server with few descriptors; restarts itself under `ulimit` first.
#[tokio::test]
#[ignore = "a role of row_28"]
async fn few_descriptors() {
    const LIMITED: &str = "SINEW_TEST_LIMITED";
    let Some(own) = role() else { return };
    if std::env::var_os(LIMITED).is_none() {
        let script = format!(
            "ulimit -n {DESCRIPTORS}; exec \"$0\" connections::few_descriptors --exact --ignored --nocapture --test-threads=1"
        );
        let status = tokio::task::spawn_blocking(move || {
            std::process::Command::new("sh").args(["-c", &script, &own]).env(LIMITED, "1").status()
        });
        assert!(status.await.unwrap().unwrap().success());
        return;
    }
    let serving = sinew::Server::builder()
        .service(TargetServer::new(Victim::default()))
        .bind("127.0.0.1:0")
        .start()
        .await
        .unwrap();
    say(&serving.target());
    tokio::task::spawn_blocking(|| {
        let mut line = String::new();
        while std::io::stdin().read_line(&mut line).is_ok_and(|read| read > 0) {
            // User and system time are the fields 14 and 15, counted behind the name in brackets.
            let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
            let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
            say(&ticks.to_string());
            line.clear();
        }
    })
    .await
    .unwrap();
    released().await;
    drop(serving);
}
