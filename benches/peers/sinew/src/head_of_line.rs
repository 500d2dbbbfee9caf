//! `head-of-line`: what a large download costs the small calls next to it on the same connection, and they it.
//!
//! A download of 64 MiB after the other, and a caller with 1 KiB there and back; each alone and both together, over every transport, in interleaved rounds. The
//! server has one CPU and the client the other. The report goes to stdout.
//!
//!     head-of-line [--rounds N] [--seconds S] [--only tcp|tls|quic]

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hdrhistogram::Histogram;
use sinew::{Server, Status, Streaming, service};

/// Bytes of a download.
const DOWNLOAD_BYTES: usize = 64 * 1024 * 1024;
/// Bytes of its items.
const ITEM_BYTES: usize = 64 * 1024;
/// Bytes of a small call, each way.
const SMALL_BYTES: usize = 1024;

const TRANSPORTS: [&str; 3] = ["tcp", "tls", "quic"];

#[service(encoding = "compact")]
trait Depot {
    async fn echo(&self, body: Bytes) -> Bytes;
    async fn download(&self) -> Result<Streaming<Bytes>, Status>;
}

struct Store;

impl Depot for Store {
    async fn echo(&self, body: Bytes) -> Bytes {
        body
    }

    async fn download(&self) -> Result<Streaming<Bytes>, Status> {
        let item = Bytes::from(vec![7; ITEM_BYTES]);
        Ok(Streaming::iter(
            (0..DOWNLOAD_BYTES / ITEM_BYTES).map(move |_| item.clone()),
        ))
    }
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "server") {
        return serve();
    }
    let (mut rounds, mut seconds, mut only) = (5, 2.0, None);
    for pair in arguments.chunks(2) {
        match pair {
            [name, value] if name == "--rounds" => rounds = value.parse().context("--rounds wants a number")?,
            [name, value] if name == "--seconds" => seconds = value.parse().context("--seconds wants a number")?,
            [name, value] if name == "--only" => only = Some(value.clone()),
            _ => bail!("head-of-line [--rounds N] [--seconds S] [--only tcp|tls|quic]"),
        }
    }
    let window = Duration::try_from_secs_f64(seconds).context("--seconds wants a time")?;
    let server = ServerProcess::start()?;
    load::pin_to(1)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rows: Vec<Vec<Round>> = TRANSPORTS.map(|_| Vec::new()).into();
    for round in 0..rounds {
        for (row, target) in rows.iter_mut().zip(&server.targets) {
            if only.as_ref().is_some_and(|only| !target.starts_with(&format!("{only}://"))) {
                continue;
            }
            row.push(runtime.block_on(measure(target, window, round))?);
        }
    }
    report(&rows);
    Ok(())
}

fn serve() -> Result<()> {
    load::pin_to(0)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let mut builder = Server::builder().service(DepotServer::new(Store));
        for transport in TRANSPORTS {
            builder = builder.bind(format!("{transport}://127.0.0.1:0"));
        }
        let serving = builder.start().await?;
        let targets: Vec<String> = serving.addresses().iter().map(ToString::to_string).collect();
        println!("{}", targets.join(" "));
        std::io::stdout().flush()?;
        // Until whoever started it closes its stdin.
        tokio::task::spawn_blocking(|| std::io::stdin().lock().lines().for_each(drop)).await?;
        Ok(())
    })
}

struct ServerProcess {
    child: Child,
    targets: Vec<String>,
}

impl ServerProcess {
    fn start() -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg("server")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("no stdout")?).read_line(&mut line)?;
        let targets = line.split_whitespace().map(str::to_owned).collect();
        Ok(Self { child, targets })
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // It ends by itself if this fails.
        let _killed = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// One round over one transport: microseconds, and bytes per second.
struct Round {
    alone: (f64, f64),
    together: (f64, f64),
    download_alone: f64,
    download_together: f64,
}

async fn measure(target: &str, window: Duration, round: usize) -> Result<Round> {
    let client = DepotClient::connect(target).await?;
    let mut parts = [None, None, None];
    // Each part comes first in one round of three.
    for part in [0, 1, 2].map(|part| (part + round) % 3) {
        parts[part] = Some(run_part(&client, window, part != 1, part != 0).await?);
    }
    let [Some(small), Some(download), Some(both)] = parts else {
        bail!("a part was left out")
    };
    Ok(Round {
        alone: small.0,
        together: both.0,
        download_alone: download.1,
        download_together: both.1,
    })
}

async fn run_part(client: &DepotClient, window: Duration, small: bool, download: bool) -> Result<((f64, f64), f64)> {
    let bytes = Arc::new(AtomicU64::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let downloads = download.then(|| {
        let (client, bytes, stop) = (client.clone(), Arc::clone(&bytes), Arc::clone(&stop));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let mut items = client.download().await?;
                while let Some(item) = items.next().await {
                    bytes.fetch_add(item?.len() as u64, Ordering::Relaxed);
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            Ok::<(), Status>(())
        })
    });
    // The download has to be under way.
    tokio::time::sleep(window / 10).await;
    bytes.store(0, Ordering::Relaxed);
    let began = Instant::now();
    let mut latencies = Histogram::<u64>::new(3)?;
    if small {
        let body = Bytes::from(vec![1; SMALL_BYTES]);
        while began.elapsed() < window {
            let sent = Instant::now();
            client.echo(body.clone()).await?;
            latencies.record(u64::try_from(sent.elapsed().as_nanos())?)?;
        }
    } else {
        tokio::time::sleep(window).await;
    }
    let rate = bytes.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    if let Some(downloads) = downloads {
        downloads.await??;
    }
    let micros = |quantile| latencies.value_at_quantile(quantile) as f64 / 1_000.0;
    Ok(((micros(0.5), micros(0.99)), rate))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn report(rows: &[Vec<Round>]) {
    println!(
        "Calls of 1 KiB next to a download of 64 MiB on the same connection; medians of {} rounds, ratios paired.\n",
        rows.iter().map(Vec::len).max().unwrap_or(0)
    );
    println!(
        "| transport | alone p50 / p99 us | together p50 / p99 us | p99 ratio | download alone MiB/s | together MiB/s | ratio |"
    );
    println!("|---|--:|--:|--:|--:|--:|--:|");
    for (transport, rounds) in TRANSPORTS.iter().zip(rows).filter(|(_, rounds)| !rounds.is_empty()) {
        let of = |get: fn(&Round) -> f64| median(rounds.iter().map(get).collect());
        let mib = 1024.0 * 1024.0;
        println!(
            "| {transport} | {:.0} / {:.0} | {:.0} / {:.0} | {:.2} | {:.0} | {:.0} | {:.2} |",
            of(|round| round.alone.0),
            of(|round| round.alone.1),
            of(|round| round.together.0),
            of(|round| round.together.1),
            of(|round| round.together.1 / round.alone.1),
            of(|round| round.download_alone) / mib,
            of(|round| round.download_together) / mib,
            of(|round| round.download_together / round.download_alone),
        );
    }
}
