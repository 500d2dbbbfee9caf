//! The `idle` workload: connections that made one call each and are then kept.

use std::io::{Read, stdin};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::generator::Plan;
use crate::messages::Echo;
use crate::peer::Peer;
use crate::process;
use crate::report::{Client, MARK};

/// Opens the connections one after the other, calls once on each, and keeps all until stdin ends.
///
/// The first connection is made before the first mark: what a process allocates once is nobody's connection.
pub(crate) async fn measure<P: Peer>(plan: &Plan) -> Result<Client> {
    let started = Instant::now();
    let message = P::Echo::from(&Echo::sample());
    let mut kept = Vec::with_capacity(plan.cell.connections + 1);
    kept.push(connect_and_call::<P>(plan, &message).await?);
    let before = process::usage(started)?;
    println!("{MARK}");
    // The runner needs a moment to ask the server before the next connection arrives there.
    tokio::time::sleep(plan.warm_up).await;
    for _ in 0..plan.cell.connections {
        kept.push(connect_and_call::<P>(plan, &message).await?);
    }
    let after = process::usage(started)?;
    println!("{MARK}");
    tokio::task::spawn_blocking(|| stdin().read_to_end(&mut Vec::new())).await?.context("stdin")?;

    let grown = after.rss_kib.saturating_sub(before.rss_kib) as f64;
    Ok(Client {
        per_second: grown / plan.cell.connections as f64,
        offered: true,
        ..Client::not_offered()
    })
}

async fn connect_and_call<P: Peer>(plan: &Plan, message: &P::Echo) -> Result<P> {
    let mut peer = P::connect(plan.server, plan.encoding).await.context("cannot connect")?;
    peer.echo(message, true).await.context("the call on a new connection failed")?;
    Ok(peer)
}
