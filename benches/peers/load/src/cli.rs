//! The command line of a peer's binary: `server` and `client`, both started by the runner.

use std::env;
use std::io::{BufRead, stdin};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::generator::{self, Plan};
use crate::idle;
use crate::peer::{Encoding, Peer};
use crate::process;
use crate::report::{Client, READY};
use crate::workload::{Cell, Workload};

/// The `main` of a peer's binary.
pub fn run<P: Peer>() -> ExitCode {
    match run_side::<P>(&mut env::args().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_side<P: Peer>(arguments: &mut dyn Iterator<Item = String>) -> Result<()> {
    let side = arguments.next().context(USAGE)?;
    let options = Options::parse(arguments)?;
    if let Some(cpu) = options.cpu {
        process::pin_to(cpu)?;
    }
    match side.as_str() {
        "server" => serve::<P>(options.encoding),
        "client" => call::<P>(&options.into_plan()?),
        _ => bail!(USAGE),
    }
}

fn serve<P: Peer>(encoding: Encoding) -> Result<()> {
    let started = Instant::now();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen on loopback")?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || answer_usage(started));
    let runtime = P::runtime().context("cannot build the runtime")?;
    println!("{READY} {port}");
    runtime.block_on(P::serve(listener, encoding))
}

/// Answers every line on stdin with the usage; ends the process when stdin ends, as nobody is left to serve.
fn answer_usage(started: Instant) {
    for _line in stdin().lock().lines().map_while(Result::ok) {
        match process::usage(started).and_then(|usage| Ok(serde_json::to_string(&usage)?)) {
            Ok(line) => println!("{line}"),
            Err(error) => eprintln!("{error:#}"),
        }
    }
    std::process::exit(0);
}

fn call<P: Peer>(plan: &Plan) -> Result<()> {
    let report = if !P::offers(plan.cell.workload) {
        Client::not_offered()
    } else {
        let runtime = P::runtime().context("cannot build the runtime")?;
        runtime.block_on(async {
            match plan.cell.workload {
                Workload::Idle => idle::measure::<P>(plan).await,
                _ => generator::measure::<P>(plan).await,
            }
        })?
    };
    println!("{}", serde_json::to_string(&report)?);
    // Without dropping what is left: how a framework takes leave is not measured.
    std::process::exit(0);
}

/// The options of both sides.
#[derive(Default)]
struct Options {
    cpu: Option<usize>,
    encoding: Encoding,
    port: Option<u16>,
    workload: Option<Workload>,
    in_flight: Option<usize>,
    connections: Option<usize>,
    warm_up: Option<u64>,
    window: Option<u64>,
}

impl Options {
    fn parse(arguments: &mut dyn Iterator<Item = String>) -> Result<Self> {
        let mut options = Self::default();
        while let Some(name) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--cpu" => options.cpu = Some(parse(&name, &value)?),
                "--encoding" => options.encoding = parse_encoding(&value)?,
                "--port" => options.port = Some(parse(&name, &value)?),
                "--workload" => options.workload = Some(value.parse()?),
                "--in-flight" => options.in_flight = Some(parse(&name, &value)?),
                "--connections" => options.connections = Some(parse(&name, &value)?),
                "--warm-up-ms" => options.warm_up = Some(parse(&name, &value)?),
                "--window-ms" => options.window = Some(parse(&name, &value)?),
                _ => bail!("no option is called {name}; {USAGE}"),
            }
        }
        Ok(options)
    }

    fn into_plan(self) -> Result<Plan> {
        let port = self.port.context("a client needs --port")?;
        let workload = self.workload.context("a client needs --workload")?;
        Ok(Plan {
            server: (Ipv4Addr::LOCALHOST, port).into(),
            cell: Cell::try_new(workload, self.in_flight.unwrap_or(1), self.connections.unwrap_or(1))?,
            encoding: self.encoding,
            warm_up: Duration::from_millis(self.warm_up.unwrap_or(300)),
            window: Duration::from_millis(self.window.unwrap_or(2_000)),
        })
    }
}

fn parse<T: FromStr<Err = std::num::ParseIntError>>(name: &str, value: &str) -> Result<T> {
    value.parse().with_context(|| format!("{name} needs a number, not {value:?}"))
}

fn parse_encoding(value: &str) -> Result<Encoding> {
    match value {
        "compact" => Ok(Encoding::Compact),
        "named" => Ok(Encoding::Named),
        _ => bail!("--encoding is compact or named, not {value:?}"),
    }
}

const USAGE: &str = "a peer is started as: server [--cpu N] [--encoding compact|named], or \
    client --port N --workload NAME [--in-flight N] [--connections N] [--warm-up-ms N] [--window-ms N] [--cpu N] \
    [--encoding compact|named]";
