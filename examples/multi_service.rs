//! Many services on one server, on several addresses; many clients on one connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sinew::{Channel, Server, service};

/// Counts up.
#[service(name = "demo.Counter")]
pub trait Counter {
    /// Adds one; returns the sum.
    async fn add(&self) -> u64;
}

/// Reads and resets.
#[service(name = "demo.Admin")]
pub trait Admin {
    /// The sum.
    async fn sum(&self) -> u64;
    /// Sets it to zero.
    async fn reset(&self);
}

/// One handler may serve any number of services.
#[derive(Default)]
struct Number(AtomicU64);

impl Counter for Number {
    async fn add(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

impl Admin for Number {
    async fn sum(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = Arc::new(Number::default());
    let socket = std::env::temp_dir().join(format!("sinew-example-{}.sock", std::process::id()));
    let server = Server::builder()
        .service(CounterServer::from_arc(Arc::clone(&number)))
        .service(AdminServer::from_arc(number))
        .bind("127.0.0.1:0")
        .bind(format!("unix:{}", socket.display()))
        .start()
        .await?;

    // Both clients share one connection.
    let channel = Channel::connect(&server.target()).await?;
    let counter = CounterClient::from_channel(channel.clone());
    let admin = AdminClient::from_channel(channel);
    assert_eq!((counter.add().await?, counter.add().await?), (1, 2));
    assert_eq!(admin.sum().await?, 2);
    assert_eq!(server.connections(), 1);

    // The same services, over the other address.
    let beside = AdminClient::connect(&server.addresses()[1].to_string()).await?;
    beside.reset().await?;
    assert_eq!(admin.sum().await?, 0);
    Ok(())
}
