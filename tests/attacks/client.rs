//! Rows 33, 40, 41, 43 and 45 from the client's side: servers that lie, leave and hang up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use sinew::transport::{ByteStream, ConnectError, pair};
use sinew::{Channel, Code, Connector, HandlerRan};
use tokio::net::TcpListener;

use super::arena::TargetClient;
use super::bad::{
    Bad, CREDIT, DATA, END, FIN, GOAWAY, IDLE, KEEPALIVE_TIMEOUT, OPEN, PATIENCE, PREFACE, REPLY, RESET, arguments,
    frame, hello,
};

/// A server in the hands of the test.
struct Liar {
    listener: TcpListener,
}

impl Liar {
    async fn start() -> (Self, TargetClient) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap().to_string();
        let client = TargetClient::lazy(&target).unwrap();
        (Self { listener }, client)
    }

    /// The next connection, greeted.
    async fn accept(&self) -> Bad {
        let mut bad = self.accept_silently().await;
        bad.send(&[PREFACE, &hello()].concat()).await;
        bad
    }

    /// The next connection, not greeted yet.
    async fn accept_silently(&self) -> Bad {
        let (stream, _) = tokio::time::timeout(PATIENCE, self.listener.accept()).await.unwrap().unwrap();
        Bad::over(stream)
    }
}

/// An answer of `echo`.
fn answer(stream: u32, text: &str) -> Vec<u8> {
    frame(REPLY | FIN, stream, &[vec![0, 0], arguments(&text)].concat())
}

fn echo(client: &TargetClient) -> tokio::task::JoinHandle<Result<String, sinew::Status>> {
    tokio::spawn(client.echo("question".to_owned()).timeout(PATIENCE).into_future())
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    frame(
        GOAWAY,
        0,
        &[&last.to_be_bytes()[..], &code.to_be_bytes(), b"because"].concat(),
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_40_a_server_that_dies_ends_its_calls_and_the_next_ones_reconnect() {
    let (server, client) = Liar::start().await;
    let calls: Vec<_> = (0..10).map(|_| echo(&client)).collect();
    let mut bad = server.accept().await;
    for _ in 0..10 {
        bad.expect(OPEN).await;
    }
    bad.vanish();
    for call in calls {
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::Unavailable, HandlerRan::Maybe),
            "{status:?}"
        );
    }
    let call = echo(&client);
    let mut bad = server.accept().await;
    let stream = bad.expect(OPEN).await.stream;
    bad.send(&answer(stream, "again")).await;
    assert_eq!(call.await.unwrap().unwrap(), "again");
}

/// One thread, so that the greeting and the end arrive in one turn: nobody sees the connection while it is ready.
#[tokio::test]
async fn row_40_a_server_that_greets_and_dies_at_once_is_no_unreachable_one() {
    let (server, client) = Liar::start().await;
    let call = echo(&client);
    let mut bad = server.accept_silently().await;
    bad.expect(OPEN).await;
    bad.send(&[PREFACE, &hello()].concat()).await;
    bad.vanish();
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(status.handler_ran(), HandlerRan::Maybe, "{status:?}");
    let call = echo(&client);
    let mut bad = server.accept().await;
    let stream = bad.expect(OPEN).await.stream;
    bad.send(&answer(stream, "again")).await;
    assert_eq!(call.await.unwrap().unwrap(), "again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_41_calls_behind_the_last_stream_go_elsewhere_and_the_others_are_answered() {
    let (server, client) = Liar::start().await;
    let (first, second) = (echo(&client), echo(&client));
    let mut old = server.accept().await;
    let taken = old.expect(OPEN).await.stream;
    let left = old.expect(OPEN).await.stream;
    assert!(taken < left);
    old.send(&go_away(u32::MAX, 0)).await;
    old.send(&go_away(taken, 0)).await;
    let mut new = server.accept().await;
    let moved = new.expect(OPEN).await.stream;
    new.send(&answer(moved, "new")).await;
    old.send(&answer(taken, "old")).await;
    let mut answers = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    answers.sort();
    assert_eq!(answers, ["new", "old"]);
    // Later calls use the new connection; the old one is closed when it is empty.
    let third = echo(&client);
    let stream = new.expect(OPEN).await.stream;
    new.send(&answer(stream, "third")).await;
    assert_eq!(third.await.unwrap().unwrap(), "third");
    old.hung_up().await;
}

/// A server that refuses is asked again only so often, and only because it said that nothing ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_43_what_was_not_processed_is_sent_again_a_few_times() {
    let (server, client) = Liar::start().await;
    let mut first = Some(echo(&client));
    let mut bad = server.accept().await;
    let mut sent = 0;
    // By whichever way the call goes: over a connection that is being made, and over one that is there.
    for three_times in [3, 6] {
        let call = first.take().unwrap_or_else(|| echo(&client));
        let status = loop {
            tokio::select! {
                // Cancel safe: a frame that is not taken here is taken later.
                frame_in = bad.frame() => {
                    if frame_in.is_some_and(|frame| frame.kind & 0x1f == OPEN) {
                        sent += 1;
                        bad.send(&frame(RESET, sent, &[0, 0, 0, 2])).await;
                    }
                }
                () = async { while !call.is_finished() { tokio::task::yield_now().await; } } => break call.await.unwrap().unwrap_err(),
            }
        };
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::Unavailable, HandlerRan::No)
        );
        assert_eq!(sent, three_times);
    }
    // What may have run is not sent again, whatever its error says.
    for code in [0, 1, 4, 5, 6] {
        let call = echo(&client);
        let stream = bad.expect(OPEN).await.stream;
        bad.send(&frame(RESET, stream, &[0, 0, 0, code])).await;
        let status = call.await.unwrap().unwrap_err();
        assert_ne!(status.handler_ran(), HandlerRan::No, "{code}");
    }
    let call = echo(&client);
    let stream = bad.expect(OPEN).await.stream;
    bad.send(&frame(END | FIN, stream, &[14, 1, 0, 0])).await;
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Unavailable);
    let call = echo(&client);
    let next = bad.expect(OPEN).await.stream;
    assert_eq!(next, stream + 1, "nothing was sent in between");
    bad.send(&answer(next, "fine")).await;
    assert_eq!(call.await.unwrap().unwrap(), "fine");
}

/// The server's side of row 1: whatever it answers, the call ends with an error and the client lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_survives_what_a_server_may_answer() {
    let (server, client) = Liar::start().await;
    // On the stream: the call fails, the connection lives.
    let of_the_call: [fn(u32) -> Vec<u8>; 9] = [
        |stream| frame(REPLY | FIN, stream, &[0, 0]),
        |stream| frame(REPLY | FIN, stream, &[0, 9, 1]),
        |stream| frame(REPLY | FIN, stream, &[0, 0, 0x80, 0, 0, 0]),
        |stream| frame(REPLY, stream, &[0, 0, 0x7f, 0, 0, 0]),
        |stream| frame(REPLY | FIN, stream, &[0, 0, 0, 0, 0, 9, 1]),
        |stream| {
            frame(
                REPLY | FIN,
                stream,
                &[vec![0, 0], super::bad::message(&[0xc1])].concat(),
            )
        },
        |stream| {
            frame(
                REPLY | FIN,
                stream,
                &[vec![0, 0], super::bad::message(&[0xdd, 0xff, 0xff, 0xff, 0xff])].concat(),
            )
        },
        |stream| frame(END | FIN, stream, &[0, 0, 0, 0]),
        |stream| frame(END | FIN, stream, &[5, 0, 0, 0, 0xc1]),
    ];
    let call = echo(&client);
    let mut bad = server.accept().await;
    let stream = bad.expect(OPEN).await.stream;
    bad.send(&answer(stream, "first")).await;
    assert_eq!(call.await.unwrap().unwrap(), "first");
    for make in of_the_call {
        let call = echo(&client);
        let stream = bad.expect(OPEN).await.stream;
        bad.send(&make(stream)).await;
        let status = call.await.unwrap().unwrap_err();
        assert_ne!(status.code(), Code::Ok);
        assert_ne!(
            status.handler_ran(),
            HandlerRan::No,
            "it answered, so it may have run: {status:?}"
        );
    }
    let call = echo(&client);
    let stream = bad.expect(OPEN).await.stream;
    bad.send(&answer(stream, "still")).await;
    assert_eq!(call.await.unwrap().unwrap(), "still");
    // On the connection: all its calls end, the next ones get a new one.
    let of_the_connection: [Vec<u8>; 6] = [
        frame(12, 0, &[]),
        frame(OPEN | FIN, 9, &[0; 20]),
        frame(DATA, 4_000_000, &[1]),
        frame(CREDIT, 0, &[0; 4]),
        hello(),
        [0xff, 0xff, 0xff, DATA, 0, 0, 0, 1].to_vec(),
    ];
    for bytes in of_the_connection {
        let call = echo(&client);
        bad.expect(OPEN).await;
        bad.send(&bytes).await;
        let status = call.await.unwrap().unwrap_err();
        assert_eq!(
            (status.code(), status.handler_ran()),
            (Code::Unavailable, HandlerRan::Maybe),
            "{status:?}"
        );
        assert_ne!(bad.sent_away().await.0, 0);
        let call = echo(&client);
        bad = server.accept().await;
        let stream = bad.expect(OPEN).await.stream;
        bad.send(&answer(stream, "new")).await;
        assert_eq!(call.await.unwrap().unwrap(), "new");
    }
}

/// Row 33 from the client's side: the server accepted, greeted, and is silent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_33_a_server_that_answers_no_ping_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let channel = Channel::builder()
        .keepalive(Duration::from_millis(50), Duration::from_millis(50))
        .lazy(&target)
        .unwrap();
    let client = TargetClient::from_channel(channel);
    let server = Liar { listener };
    let call = echo(&client);
    let mut bad = server.accept().await;
    bad.expect(OPEN).await;
    let status = call.await.unwrap().unwrap_err();
    assert_eq!(
        (status.code(), status.handler_ran()),
        (Code::Unavailable, HandlerRan::Maybe),
        "{status:?}"
    );
    assert_eq!(bad.sent_away().await.0, KEEPALIVE_TIMEOUT);
}

/// Makes connections that are greeted and then closed, or told to go away.
struct Revolving {
    /// The code of its GOAWAY.
    polite: Option<u32>,
    made: Arc<AtomicUsize>,
}

impl Connector for Revolving {
    fn connect(&self) -> std::pin::Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send + '_>> {
        Box::pin(async {
            self.made.fetch_add(1, Ordering::SeqCst);
            let (ours, theirs) = pair();
            let polite = self.polite;
            tokio::spawn(async move {
                let greeting = [PREFACE, &hello()].concat();
                let last = polite.map_or_else(Vec::new, |code| go_away(0, code));
                let bytes = [greeting, last].concat();
                let _halves = theirs.wrapped(|reader, writer| {
                    let written = writer.try_write_vectored(&[std::io::IoSlice::new(&bytes)]);
                    assert_eq!(written.ok(), Some(bytes.len()));
                    (reader, writer)
                });
                tokio::time::sleep(Duration::from_millis(1)).await;
            });
            Ok(ours)
        })
    }
}

/// Row 45: a server that greets and hangs up is not called again and again. A minute of virtual time.
#[tokio::test(start_paused = true)]
async fn row_45_a_revolving_door_is_not_run_through() {
    for polite in [None, Some(0), Some(IDLE)] {
        let made = Arc::new(AtomicUsize::new(0));
        let connector = Revolving {
            polite,
            made: Arc::clone(&made),
        };
        let channel = Channel::builder().with_connector("revolving door", connector).unwrap();
        let _greeted = channel.wait_ready().await;
        tokio::time::sleep(Duration::from_secs(60)).await;
        let made = made.load(Ordering::SeqCst);
        // 5 s is the cap and the jitter is full: 2.5 s apart in the mean, and some while the delay grows. Without a pause it would be thousands.
        assert!(
            (2..=80).contains(&made),
            "{made} connections within a minute, {polite:?}"
        );
    }
}
