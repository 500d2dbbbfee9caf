//! Servers and clients that find each other in etcd, which dies and comes back while calls run. Needs the feature `etcd`, and an etcd to start.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use sinew::{Channel, Drain, Etcd, Server, Serving, Status, service};

#[service(name = "shop.Orders")]
trait Orders {
    async fn answered_by(&self) -> Result<String, Status>;
}

struct Shop(&'static str);

impl Orders for Shop {
    async fn answered_by(&self) -> Result<String, Status> {
        Ok(self.0.to_owned())
    }
}

fn free_port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn start_etcd(data: &Path, [client, peer]: [u16; 2]) -> std::io::Result<Child> {
    let [client, peer] = [client, peer].map(|port| format!("http://127.0.0.1:{port}"));
    let mut etcd = Command::new("etcd");
    etcd.arg("--data-dir").arg(data).args(["--initial-cluster", &format!("default={peer}")]);
    etcd.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    etcd.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
    etcd.stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

async fn serve(name: &'static str, etcd: &Etcd) -> Result<Serving, sinew::ServerError> {
    let server = Server::builder().service(OrdersServer::new(Shop(name))).bind("127.0.0.1:0");
    server.register(etcd.clone()).drain(Drain::default().lame_duck("100ms")).start().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let data = std::env::temp_dir().join(format!("etcd-{}", std::process::id()));
    let ports = [free_port()?, free_port()?];
    let Ok(mut process) = start_etcd(&data, ports) else {
        println!("there is no etcd to start; it is in the package etcd-server");
        return Ok(());
    };
    let member = format!("127.0.0.1:{}", ports[0]);
    let etcd = Etcd::new([&member])?;
    let (first, _second) = (serve("first", &etcd).await?, serve("second", &etcd).await?);
    let builder = Channel::builder().wait_for_ready().connect_timeout("20s");
    let orders = OrdersClient::from_channel(builder.connect(&format!("etcd://{member}/shop.Orders")).await?);
    println!("found: {}", orders.answered_by().await?);
    while orders.answered_by().await? != "second" {}

    process.kill()?;
    process.wait()?;
    for _ in 0..100 {
        orders.answered_by().await?;
    }
    println!("etcd is dead, and 100 calls were answered");
    let mut process = start_etcd(&data, ports)?;

    // It tells the registry that it leaves, once that is back; nobody calls it then.
    first.shutdown().await;
    for _ in 0..100 {
        assert_eq!(orders.answered_by().await?, "second");
    }
    println!("etcd is back, the first server has left, and 100 calls were answered");
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.kill()?;
    process.wait()?;
    std::fs::remove_dir_all(data)?;
    Ok(())
}
