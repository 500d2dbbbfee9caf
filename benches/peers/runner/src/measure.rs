//! One measurement: starts a server and a client, asks the server for its usage at the client's marks, ends both.
//!
//! Both are new processes each time: nothing that one measurement left behind helps or harms the next, and a peer that
//! crashes costs one figure.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use load::{Cell, Client, MARK, READY, Usage, Workload};
use serde::{Deserialize, Serialize};

use crate::contender::Contender;
use crate::options::Options;

/// What one measurement found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Calls, items or round trips per second; zero for `idle`.
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) server_cpu_us: f64,
    pub(crate) client_cpu_us: f64,
    pub(crate) server_peak_rss_kib: u64,
    /// KiB per connection, for `idle`.
    pub(crate) server_idle_kib: f64,
    pub(crate) client_idle_kib: f64,
}

/// Measures one contender in one cell; `None` if it has not got the workload.
pub(crate) fn measure(options: &Options, contender: &Contender, cell: Cell) -> Result<Option<Figures>> {
    let deadline = Instant::now() + options.warm_up + options.window + GRACE;
    let mut server = Process::start(server_command(options, contender), deadline).context("server")?;
    let port = match server.line() {
        Ok(line) => line.strip_prefix(READY).with_context(|| format!("the server says {line:?}"))?.trim().to_owned(),
        Err(error) => bail!("the server does not listen: {error}; {}", server.last_words("server")),
    };
    let mut client = Process::start(client_command(options, contender, cell, &port), deadline).context("client")?;
    match watch(&mut server, &mut client) {
        Ok((usages, report)) => evaluate(cell, &usages, &report),
        Err(error) => bail!(
            "{error:#}; {}; {}",
            server.last_words("server"),
            client.last_words("client")
        ),
    }
}

fn server_command(options: &Options, contender: &Contender) -> Command {
    let mut command = Command::new(&contender.binary);
    command.args(["server", "--encoding", contender.encoding]);
    pin(&mut command, options.mode.server_cpu());
    command
}

fn pin(command: &mut Command, cpu: Option<usize>) {
    if let Some(cpu) = cpu {
        command.args(["--cpu", &cpu.to_string()]);
    }
}

fn client_command(options: &Options, contender: &Contender, cell: Cell, port: &str) -> Command {
    let mut command = Command::new(&contender.binary);
    command.args([
        "client",
        "--port",
        port,
        "--workload",
        cell.workload.name(),
        "--encoding",
        contender.encoding,
    ]);
    for (name, value) in [
        ("--in-flight", cell.in_flight as u128),
        ("--connections", cell.connections as u128),
        ("--warm-up-ms", options.warm_up.as_millis()),
        ("--window-ms", options.window.as_millis()),
    ] {
        command.args([name, &value.to_string()]);
    }
    pin(&mut command, options.mode.client_cpu());
    command
}

/// Follows a client to its report, and asks the server at each mark.
fn watch(server: &mut Process, client: &mut Process) -> Result<(Vec<Usage>, Client)> {
    let mut usages = Vec::new();
    loop {
        let line = client.line().context("the client gave no report")?;
        if line != MARK {
            return Ok((usages, serde_json::from_str(&line).context("the client's report")?));
        }
        server.ask()?;
        let usage = server.line().context("the server does not answer")?;
        usages.push(serde_json::from_str(&usage).context("the server's usage")?);
        if usages.len() == 2 {
            // A client that keeps connections waits for this.
            client.input = None;
        }
    }
}

fn evaluate(cell: Cell, usages: &[Usage], report: &Client) -> Result<Option<Figures>> {
    if !report.offered {
        return Ok(None);
    }
    let [before, after] = usages else {
        bail!("the client made {} marks and not two", usages.len())
    };
    let none = Figures {
        per_second: 0.0,
        p50_us: report.p50_us,
        p99_us: report.p99_us,
        server_cpu_us: 0.0,
        client_cpu_us: report.cpu_us,
        server_peak_rss_kib: after.peak_rss_kib,
        server_idle_kib: 0.0,
        client_idle_kib: 0.0,
    };
    Ok(Some(match cell.workload {
        Workload::Idle => Figures {
            server_idle_kib: after.rss_kib.saturating_sub(before.rss_kib) as f64 / cell.connections as f64,
            client_idle_kib: report.per_second,
            ..none
        },
        _ => Figures {
            per_second: report.per_second,
            server_cpu_us: after.cpus_since(before) * 1e6 / report.per_second,
            ..none
        },
    }))
}

/// A child process that is killed when this is dropped.
struct Process {
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Option<JoinHandle<String>>,
    deadline: Instant,
}

impl Process {
    fn start(mut command: Command, deadline: Instant) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let (sender, lines) = mpsc::channel();
        let output = child.stdout.take().context("no stdout")?;
        // Both threads end with the child's pipes.
        thread::spawn(move || {
            BufReader::new(output).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut output = child.stderr.take().context("no stderr")?;
        let errors = Some(thread::spawn(move || {
            let mut text = Vec::new();
            // What could be read is all there is to report.
            let _ = output.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        }));
        let input = child.stdin.take();
        Ok(Self {
            child,
            input,
            lines,
            errors,
            deadline,
        })
    }

    /// The next line of its stdout.
    fn line(&self) -> Result<String> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => bail!("time is up"),
            Err(RecvTimeoutError::Disconnected) => bail!("it ended"),
        }
    }

    /// Asks a server for its usage.
    fn ask(&mut self) -> Result<()> {
        let input = self.input.as_mut().context("no stdin")?;
        input.write_all(b"\n").context("cannot ask the server")
    }

    /// Ends it and tells how it ended and what it wrote to stderr.
    fn last_words(&mut self, name: &str) -> String {
        let mut ended = "still ran".to_owned();
        for _ in 0..10 {
            if let Ok(Some(status)) = self.child.try_wait() {
                ended = format!("ended with {status}");
                break;
            }
            // Its pipes close a moment before it is gone.
            thread::sleep(Duration::from_millis(10));
        }
        self.kill();
        let errors = self.errors.take().and_then(|errors| errors.join().ok()).unwrap_or_default();
        let from = errors.char_indices().rev().nth(STDERR_MAX).map_or(0, |(index, _)| index);
        format!("the {name} {ended}, stderr: {:?}", errors[from..].trim())
    }

    fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// What a measurement may take beyond its warm-up and window: connecting, and the slowest calls.
const GRACE: Duration = Duration::from_secs(30);
/// Characters of a failed process's stderr that are reported.
const STDERR_MAX: usize = 2_000;
