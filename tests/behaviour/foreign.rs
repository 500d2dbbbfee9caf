//! A client in another language, written from the documentation of the wire alone: `tests/foreign/client.py`.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use serde::{Deserialize, Serialize};
use sinew::{AppError, CancelCause, Cx, Drain, Server, Status, Streaming, service};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::support::probe::{Event, Probe, probe};
use crate::support::{bounded, until};

/// Time that the whole scenario may take; it takes about a second.
const SCENARIO_TIME_MAX: Duration = Duration::from_secs(60);

/// What somebody wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    item: String,
    pieces: u32,
}

/// What it costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Quote {
    item: String,
    cents: u64,
    note: Option<String>,
    stock: Stock,
}

/// What is left of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Stock {
    Plenty,
    Few(u32),
}

/// Why nothing was reserved.
#[derive(Clone, Debug, thiserror::Error, Serialize, Deserialize, AppError)]
pub(crate) enum DepotError {
    #[error("only {left} left")]
    #[rpc(code = FailedPrecondition, retry = never)]
    SoldOut { left: u32 },
}

#[service(name = "foreign.Depot")]
pub(crate) trait Depot {
    async fn quote(&self, cx: &Cx, line: Line, discount: Option<u64>) -> Result<Quote, Status>;
    async fn reserve(&self, pieces: u32) -> Result<u32, DepotError>;
    async fn refuse(&self, why: &str) -> Result<(), Status>;
    async fn blob(&self, bytes: usize) -> Bytes;
    async fn items(&self, count: usize, bytes: usize) -> Result<Streaming<Bytes>, Status>;
    /// Items without end.
    async fn endless(&self, cx: &Cx) -> Result<Streaming<Bytes>, Status>;
    async fn total(&self, chunks: Streaming<Bytes>) -> Result<usize, Status>;
    /// Answers after a while.
    async fn hold(&self, cx: &Cx, millis: u64) -> u64;
    /// Has the server shut down, and answers when that has begun.
    async fn leave(&self, cx: &Cx) -> u64;
}

#[service(name = "foreign.Compact", encoding = "compact")]
pub(crate) trait Compact {
    async fn quote(&self, line: Line, discount: Option<u64>) -> Result<Quote, Status>;
}

#[derive(Clone)]
struct Shop {
    probe: Probe,
    leave: Arc<Notify>,
}

impl Depot for Shop {
    async fn quote(&self, cx: &Cx, line: Line, discount: Option<u64>) -> Result<Quote, Status> {
        let internal = |error| Status::internal("metadata").with_source(error);
        let metadata = cx.metadata();
        cx.set_reply_metadata("tenant", metadata.get("tenant").unwrap_or("nobody")).map_err(internal)?;
        cx.set_trailer("trace-bin", metadata.get_bytes("trace-bin").unwrap_or_default()).map_err(internal)?;
        let left = cx.time_left().ok_or_else(|| Status::invalid_argument("no deadline came"))?;
        let in_time = (Duration::from_secs(2)..=Duration::from_secs(5)).contains(&left);
        Ok(Quote {
            item: line.item,
            cents: u64::from(line.pieces) * 300 - discount.unwrap_or(0),
            note: in_time.then(|| "in time".to_owned()),
            stock: Stock::Few(7),
        })
    }
    async fn reserve(&self, _pieces: u32) -> Result<u32, DepotError> {
        Err(DepotError::SoldOut { left: 7 })
    }
    async fn refuse(&self, why: &str) -> Result<(), Status> {
        Err(Status::permission_denied(why.to_owned()))
    }
    async fn blob(&self, bytes: usize) -> Bytes {
        Bytes::from(vec![7; bytes])
    }
    async fn items(&self, count: usize, bytes: usize) -> Result<Streaming<Bytes>, Status> {
        Ok(Streaming::iter(vec![Bytes::from(vec![7; bytes]); count]))
    }
    async fn endless(&self, cx: &Cx) -> Result<Streaming<Bytes>, Status> {
        let guard = self.probe.began(cx);
        Ok(Streaming::from(stream::repeat_with(move || {
            let _held_as_long_as_the_stream = &guard;
            Ok(Bytes::from(vec![7; 10_000]))
        })))
    }
    async fn total(&self, mut chunks: Streaming<Bytes>) -> Result<usize, Status> {
        let mut total = 0;
        while let Some(chunk) = chunks.next().await {
            total += chunk?.len();
        }
        Ok(total)
    }
    async fn hold(&self, cx: &Cx, millis: u64) -> u64 {
        let _guard = self.probe.began(cx);
        tokio::time::sleep(Duration::from_millis(millis)).await;
        millis
    }
    async fn leave(&self, cx: &Cx) -> u64 {
        self.leave.notify_one();
        while !cx.is_draining() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        42
    }
}

impl Compact for Shop {
    async fn quote(&self, line: Line, discount: Option<u64>) -> Result<Quote, Status> {
        Ok(Quote {
            item: line.item,
            cents: u64::from(line.pieces) * 300 - discount.unwrap_or(0),
            note: None,
            stock: Stock::Plenty,
        })
    }
}

/// The client's process; killed when dropped.
struct Client(Child);

impl Client {
    fn start(address: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/foreign/client.py");
        let mut command = Command::new("python3");
        command.args([script, address]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        Self(command.spawn().unwrap())
    }

    /// What it prints until it ends; what else it has to say goes to standard error.
    async fn output(&mut self) -> String {
        let mut stdout = self.0.stdout.take().unwrap();
        let reading = tokio::task::spawn_blocking(move || {
            let mut output = String::new();
            stdout.read_to_string(&mut output).unwrap();
            output
        });
        tokio::time::timeout(SCENARIO_TIME_MAX, reading).await.expect("the client ends in time").unwrap()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

const OK: &str = r#""metadata": {}, "code": 0, "error": null"#;

/// A line of the client's about a call with these answers.
fn line(case: &str, answers: &str, rest: &str) -> String {
    format!(r#"{{"case": "{case}", "answers": [{answers}], {rest}}}"#)
}

/// A line about a call that failed.
fn failure(case: &str, code: u8, message: &str, error: &str) -> String {
    let status = format!(r#""code": {code}, "trailers": {{}}, "message": "{message}", "details": """#);
    line(case, "", &format!(r#""metadata": {{}}, {status}, "error": {error}"#))
}

/// What the client is to print.
fn expected() -> Vec<String> {
    let quote = r#"{"item": "tea", "cents": 900, "note": "in time", "stock": {"Few": 7}}"#;
    let tags = r#""metadata": {"tenant": "acme"}, "code": 0, "trailers": {"trace-bin": "\u0000\u00ff"}, "error": null"#;
    // The last stream is that of the twelfth call.
    let goaways = r#""goaways": [[4294967295, 0], [12, 0]], "kept_alive": true, "pongs": 1, "error": null"#;
    vec![
        line("quote", quote, tags),
        line("compact", r#"["tea", 900, null, "Plenty"]"#, OK),
        failure("late", 4, "the deadline passed at the server", "null"),
        failure("refuse", 7, "closed", "null"),
        failure("reserve", 9, "only 7 left", r#"{"SoldOut": {"left": 7}}"#),
        failure("nothing", 12, "no method with id 0x0bbaefc2fc3918a5 here", "null"),
        // More than a frame, and more than the windows, each way.
        line("blob", "307200", OK),
        // A stream ends with END, which has trailers.
        line(
            "items",
            &vec!["10000"; 300].join(", "),
            r#""metadata": {}, "code": 0, "trailers": {}, "error": null"#,
        ),
        line("total", "3000000", OK),
        line("hold", "300", OK),
        line("leave", "42", &format!(r#""metadata": {{}}, "code": 0, {goaways}"#)),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs python3 with msgpack; tests/run runs it"]
async fn a_client_written_from_the_documentation() {
    let (probe, mut events) = probe();
    let leave = Arc::new(Notify::new());
    let shop = Shop {
        probe,
        leave: Arc::clone(&leave),
    };
    let server = Server::builder().service(DepotServer::new(shop.clone())).service(CompactServer::new(shop));
    let drain = Drain::default().lame_duck("0s").within("30s");
    let server = server.keepalive("50ms", "20s").drain(drain).bind("127.0.0.1:0").start().await.unwrap();
    let mut client = Client::start(server.target().trim_start_matches("tcp://"));

    let draining = tokio::spawn(async move {
        leave.notified().await;
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(events.next().await);
        }
        // One call ran into its deadline, one was cancelled, and one was answered.
        for cause in [
            Some(CancelCause::DeadlineExceeded),
            Some(CancelCause::ClientCancelled),
            None,
        ] {
            assert!(seen.contains(&Event::Dropped(cause)), "{cause:?} in {seen:?}");
        }
        until("only the last handler is left", || server.running_handlers() == 1).await;
        assert_eq!((server.connections(), server.panics()), (1, 0));
        let began = Instant::now();
        server.shutdown().await;
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "the drain ended because nothing was left, not because its time was up"
        );
    });
    let output = client.output().await;
    assert!(client.0.wait().unwrap().success(), "it printed:\n{output}");
    let expected = expected();
    for (line, expected) in output.lines().zip(&expected) {
        assert_eq!(line, expected);
    }
    assert_eq!(output.lines().count(), expected.len());
    bounded(draining).await.unwrap();
}
