//! A file says how much a server takes on; an operator changes it while calls run.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use sinew::{Channel, FileConfig, RetryPolicy, Server, ServerMonitor, service};
use tokio::time::sleep;

#[service(name = "shop.Reports")]
trait Reports {
    async fn total(&self) -> u64;
}

struct Books;

impl Reports for Books {
    async fn total(&self) -> u64 {
        42
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    // Beside it first: nobody reads half a file.
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

/// Writes it, and waits until the server has taken it up.
async fn limit_to(path: &Path, calls: u32, monitor: &ServerMonitor) -> std::io::Result<()> {
    write(
        path,
        &format!(r#"{{"server": {{"rate_limit": {{"calls": {calls}, "per": "1m", "key": "peer"}}}}}}"#),
    )?;
    while !monitor.snapshot().limits.iter().any(|limit| limit.calls == calls) {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::temp_dir().join(format!("sinew-live-limits-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let path = dir.join("shop.Reports.json");
    write(&path, "{}")?;
    let (place, books) = (dir.clone(), ReportsServer::new(Books));
    let server = Server::builder().service(books).bind("127.0.0.1:0");
    let server = server.config_source(move |service| FileConfig::new(place.join(format!("{service}.json"))));
    let server = server.start().await?;
    // One that does not come back by itself, so that refusals show.
    let channel = Channel::builder().retry(RetryPolicy::NEVER).connect(&server.target()).await?;
    let reports = ReportsClient::from_channel(channel);
    assert_eq!(reports.total().await?, 42);

    limit_to(&path, 3, &server.monitor()).await?;
    let mut answered = 0;
    let refused = loop {
        match reports.total().await {
            Ok(_) => answered += 1,
            Err(status) => break status,
        }
    };
    println!("{answered} answered, then: {refused}");
    assert_eq!((answered, refused.policy()), (3, Some("rate_limit")));

    limit_to(&path, 1_000, &server.monitor()).await?;
    println!("more are let through: {}", reports.total().await?);
    for limit in server.snapshot().limits {
        println!(
            "{} of {}: {} calls in {:?}, {} turned away",
            limit.policy, limit.service, limit.calls, limit.per, limit.rejected
        );
    }
    std::fs::remove_dir_all(dir)?;
    Ok(())
}
