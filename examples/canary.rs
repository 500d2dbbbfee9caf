//! One call of a hundred goes to the new version; when that does badly, one write takes it out.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use sinew::{Channel, FileConfig, Instance, MemRegistry, Server, Serving, Status, service};

#[service(name = "shop.Orders")]
trait Orders {
    async fn version(&self) -> Result<u32, Status>;
}

struct Shop(u32);

impl Orders for Shop {
    async fn version(&self) -> Result<u32, Status> {
        Ok(self.0)
    }
}

async fn serve(version: u32, track: &str) -> Result<Serving, sinew::ServerError> {
    let server = Server::builder().service(OrdersServer::new(Shop(version))).bind("127.0.0.1:0");
    server.register(MemRegistry::shared()).instance(Instance::new().label("track", track)).start().await
}

/// With etcd this is `etcdctl put /sinew/v1/config/shop.Orders ..`, for all clients at once.
fn configure(path: &Path, canary: u32) -> std::io::Result<()> {
    let routes = format!(
        r#"[{{"labels": {{"track": "canary"}}, "weight": {canary}}}, {{"weight": {}}}]"#,
        100 - canary
    );
    // Beside it first: nobody reads half a file.
    let new = path.with_extension("new");
    std::fs::write(&new, format!(r#"{{"routes": {routes}}}"#))?;
    std::fs::rename(new, path)
}

async fn canaries(orders: &OrdersClient, calls: u32) -> Result<u32, Status> {
    let mut seen = 0;
    for _ in 0..calls {
        seen += u32::from(orders.version().await? == 2);
    }
    Ok(seen)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let _servers = [
        serve(1, "stable").await?,
        serve(1, "stable").await?,
        serve(2, "canary").await?,
    ];
    let path = std::env::temp_dir().join(format!("shop-orders-{}.json", std::process::id()));
    configure(&path, 1)?;
    let channel = Channel::builder().config_source(FileConfig::new(&path)).connect("mem:///shop.Orders").await?;
    while channel.snapshot().endpoints.iter().any(|one| one.state != sinew::ConnectivityState::Ready) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let orders = OrdersClient::from_channel(channel);
    let seen = canaries(&orders, 10_000).await?;
    println!("of 10,000 calls the canary had {seen}");
    assert!((70..=130).contains(&seen), "{seen}");

    configure(&path, 0)?;
    while canaries(&orders, 1_000).await? > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let seen = canaries(&orders, 10_000).await?;
    println!("after it was taken out: {seen}");
    assert_eq!(seen, 0);
    std::fs::remove_file(path)?;
    Ok(())
}
