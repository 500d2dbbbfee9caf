//! Rows 26, 27, 29, 30 and 32 at a TLS port: handshakes that do not end, or never become one.

use std::time::Duration;

use sinew::{Channel, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::arena::{TargetClient, TargetServer, Victim};
use super::bad::{PATIENCE, PREFACE, hello};
use super::certs::Authority;
use super::child::{Role, role, say};

/// Half-open handshakes of row 26.
const HALF_OPEN: usize = 1_000;

async fn server(set: impl FnOnce(sinew::ServerBuilder) -> sinew::ServerBuilder) -> sinew::Serving {
    let builder = Server::builder()
        .service(TargetServer::new(Victim::default()))
        .tls(Authority::shared().server())
        .bind("tls://127.0.0.1:0");
    set(builder).start().await.unwrap()
}

fn client(serving: &sinew::Serving) -> TargetClient {
    let channel = Channel::builder().tls(Authority::shared().client()).lazy(&serving.target()).unwrap();
    TargetClient::from_channel(channel)
}

async fn socket(serving: &sinew::Serving) -> TcpStream {
    TcpStream::connect(serving.target().strip_prefix("tls://").unwrap()).await.unwrap()
}

/// The beginning of a ClientHello: a record that announces more than comes.
const HALF_A_HELLO: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];

/// Waits until the server has closed the connection.
async fn closed(mut socket: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let _end = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("it is closed");
}

#[tokio::test]
async fn row_26_a_thousand_half_open_handshakes_hold_nobody_up() {
    // In a process of its own, which has descriptors enough for both ends.
    let (mut role, done) = Role::start("tls::half_open", "").listen().await;
    assert_eq!(done.as_deref(), Some("done"));
    assert!(role.wait());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a role of row_26"]
async fn half_open() {
    if role().is_none() {
        return;
    }
    let serving = server(|builder| builder.drain(sinew::Drain::default().lame_duck("0s"))).await;
    let mut held = Vec::new();
    for number in 0..HALF_OPEN {
        let mut socket = socket(&serving).await;
        if number % 2 == 0 {
            socket.write_all(&HALF_A_HELLO).await.unwrap();
        }
        held.push(socket);
        if number % 100 == 0 {
            let fresh = client(&serving);
            assert_eq!(fresh.echo("fresh".to_owned()).timeout(PATIENCE).await.unwrap(), "fresh");
        }
    }
    assert_eq!(
        client(&serving).echo("last".to_owned()).timeout(PATIENCE).await.unwrap(),
        "last"
    );
    drop(held);
    serving.shutdown().await;
    say("done");
}

/// More handshakes than may be, again and again: what is open stays bounded, and an honest client gets in, if not with its first attempt.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_handshakes_above_the_limit_make_room_for_others() {
    let serving = server(|builder| builder.max_handshakes(8)).await;
    let address = serving.target();
    let flood = tokio::spawn(async move {
        let mut held = std::collections::VecDeque::new();
        // Thousands in a second. As many as this machine can would leave an honest handshake to chance for minutes.
        let mut ticks = tokio::time::interval(Duration::from_millis(1));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            for _ in 0..6 {
                held.push_back(TcpStream::connect(address.strip_prefix("tls://").unwrap()).await.unwrap());
                if held.len() > 64 {
                    held.pop_front();
                }
            }
        }
    });
    for _ in 0..5 {
        // One of those that are ended may be this one, after it has sent its call: then it is told, and calls again.
        let honest = client(&serving);
        let answered = tokio::time::timeout(PATIENCE, async {
            while honest.echo("good".to_owned()).wait_for_ready().await.is_err() {}
        });
        answered.await.expect("it gets in");
    }
    flood.abort();

    // Of nine that say nothing, one is let go.
    let serving = server(|builder| builder.max_handshakes(8)).await;
    let mut held = Vec::new();
    for _ in 0..9 {
        held.push(Box::pin(closed(socket(&serving).await)));
    }
    let (_, _, held) = futures_util::future::select_all(held).await;
    assert_eq!(held.len(), 8);
    assert_eq!(client(&serving).echo("good".to_owned()).await.unwrap(), "good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_26_a_handshake_has_its_time() {
    let serving = server(|builder| builder.handshake_timeout("100ms")).await;
    let mut dribbling = socket(&serving).await;
    dribbling.write_all(&HALF_A_HELLO).await.unwrap();
    closed(dribbling).await;
    assert_eq!(client(&serving).echo("good".to_owned()).await.unwrap(), "good");
    serving.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_27_29_32_what_is_no_handshake_ends_its_connection_alone() {
    // An alert that warns before any handshake is passed over, so that one ends by time.
    let serving = server(|builder| builder.handshake_timeout("300ms")).await;
    let good = client(&serving);
    assert_eq!(good.echo("before".to_owned()).await.unwrap(), "before");
    let strangers: [&[u8]; 6] = [
        &[PREFACE, &hello()].concat(),
        b"GET / HTTP/1.1\r\n\r\n",
        &[0x16, 0x03, 0x01, 0xff, 0xff],
        // A ClientHello of nothing; an alert that says goodbye; bytes of no record.
        &[0x16, 0x03, 0x01, 0x00, 0x04, 0x01, 0x00, 0x00, 0x00],
        &[0x15, 0x03, 0x03, 0x00, 0x02, 0x01, 0x00],
        &[0xff; 64],
    ];
    for bytes in strangers {
        let mut stranger = socket(&serving).await;
        stranger.write_all(bytes).await.unwrap();
        closed(stranger).await;
    }
    // One byte at a time, and then nothing.
    for byte in HALF_A_HELLO {
        let mut stranger = socket(&serving).await;
        stranger.write_all(&[byte]).await.unwrap();
        drop(stranger);
    }
    assert_eq!(good.echo("after".to_owned()).await.unwrap(), "after");
    assert_eq!(serving.panics(), 0);
    serving.shutdown().await;
}

/// Those that only hold a place hold up the end of the server no longer than it says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn handshakes_under_way_do_not_hold_up_the_end() {
    let serving = server(|builder| builder.drain(sinew::Drain::default().lame_duck("0s"))).await;
    let held = [socket(&serving).await, socket(&serving).await];
    assert_eq!(client(&serving).echo("good".to_owned()).await.unwrap(), "good");
    let ended = tokio::time::timeout(Duration::from_secs(8), serving.shutdown()).await;
    assert!(ended.is_ok(), "it waits for handshakes");
    for socket in held {
        closed(socket).await;
    }
}
