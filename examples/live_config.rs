//! A file says how a service is to be called, and is followed while calls run; what is wrong in it changes nothing.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use sinew::{Channel, Code, FileConfig, Server, Status, service};
use tokio::time::Instant;

#[service(name = "shop.Orders")]
trait Orders {
    async fn slow(&self) -> Result<(), Status>;
}

struct Shop;

impl Orders for Shop {
    async fn slow(&self) -> Result<(), Status> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        Ok(())
    }
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    // Beside it first: nobody reads half a file.
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    std::fs::rename(new, path)
}

/// How long a call waits before it gives up.
async fn patience(orders: &OrdersClient) -> Duration {
    let begun = Instant::now();
    let given_up = orders.slow().await;
    assert!(given_up.is_err_and(|status| status.code() == Code::DeadlineExceeded));
    begun.elapsed()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let serving = Server::builder().service(OrdersServer::new(Shop)).bind("127.0.0.1:0").start().await?;
    let path = std::env::temp_dir().join(format!("shop-orders-live-{}.json", std::process::id()));
    write(&path, r#"{"methods": {"slow": {"timeout": "500ms"}}}"#)?;
    let builder = Channel::builder().config_source(FileConfig::new(&path));
    let channel = builder.connect(&format!("static:///{}", serving.target())).await?;
    let orders = OrdersClient::from_channel(channel.clone());
    let before = patience(&orders).await;
    println!("a call gives up after {before:.1?}");
    assert!(before >= Duration::from_millis(500));

    write(&path, r#"{"methods": {"slow": {"timeout": "100ms"}}}"#)?;
    while patience(&orders).await >= Duration::from_millis(500) {}
    println!("now after             {:.1?}", patience(&orders).await);

    write(&path, r#"{"methods": {"slow": {"timeuot": "9s"}}}"#)?;
    while channel.snapshot().config_failures.is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("and still after       {:.1?}, because", patience(&orders).await);
    let failures = channel.snapshot().config_failures;
    println!("{}", failures.join("\n"));
    assert!(failures[0].contains("did you mean `timeout`?"));
    std::fs::remove_file(path)?;
    Ok(())
}
