//! Three servers in processes of their own are restarted twenty times in all, one after the other, under load. No call fails.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sinew::{Channel, Drain, Server, Status, service};

#[service]
trait Clock {
    async fn tick(&self) -> Result<u32, Status>;
}

struct Process;

impl Clock for Process {
    async fn tick(&self) -> Result<u32, Status> {
        Ok(std::process::id())
    }
}

/// What each of the processes runs. On SIGTERM it says that it drains, and leaves when its clients have heard it.
async fn serve(address: String) -> Result<(), Box<dyn Error>> {
    let server = Server::builder().service(ClockServer::new(Process)).bind(address);
    server.drain(Drain::default().lame_duck("100ms")).shutdown_on_signals().serve().await?;
    Ok(())
}

fn start(address: &str) -> std::io::Result<Child> {
    Command::new(std::env::current_exe()?).arg(address).spawn()
}

async fn call(clock: ClockClient, done: Arc<AtomicBool>) -> Result<u64, Status> {
    let mut calls = 0;
    while !done.load(Ordering::Relaxed) {
        clock.tick().await?;
        calls += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(calls)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    if let Some(address) = std::env::args().nth(1) {
        return serve(address).await;
    }
    // All three at once, or they were one.
    let free = [0; 3].map(|port| TcpListener::bind(("127.0.0.1", port)));
    let address = |listener: std::io::Result<TcpListener>| Ok(listener?.local_addr()?.to_string());
    let addresses = free.into_iter().map(address).collect::<std::io::Result<Vec<_>>>()?;
    let mut servers = addresses.iter().map(|address| start(address)).collect::<Result<Vec<_>, _>>()?;
    let target = format!("static:///{}", addresses.join(","));
    let channel = Channel::builder().connect_timeout("10s").connect(&target).await?;
    let done = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..8)
        .map(|_| tokio::spawn(call(ClockClient::from_channel(channel.clone()), Arc::clone(&done))))
        .collect();
    for restart in 0..20 {
        let (server, address) = (&mut servers[restart % 3], &addresses[restart % 3]);
        Command::new("kill").arg(server.id().to_string()).status()?;
        tokio::task::block_in_place(|| server.wait())?;
        *server = start(address)?;
        Channel::builder().connect_timeout("10s").connect(address).await?;
    }
    done.store(true, Ordering::Relaxed);
    let mut calls = 0;
    for caller in load {
        calls += caller.await??;
    }
    println!("20 restarts, {calls} calls, none failed");
    servers.iter_mut().try_for_each(Child::kill)?;
    Ok(())
}
