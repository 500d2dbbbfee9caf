//! A trait, a server, a client: over a real socket, in one file.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use sinew::{Server, Status, service};

/// Greets people.
#[service]
pub trait Greeter {
    /// Greets `name`.
    async fn hello(&self, name: &str) -> Result<String, Status>;
}

struct Polite;

impl Greeter for Polite {
    async fn hello(&self, name: &str) -> Result<String, Status> {
        Ok(format!("Hello, {name}!"))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().service(GreeterServer::new(Polite)).bind("127.0.0.1:0").start().await?;
    let greeter = GreeterClient::connect(&server.target()).await?;
    let greeting = greeter.hello("Ada").await?;
    println!("{greeting}");
    assert_eq!(greeting, "Hello, Ada!");
    Ok(())
}
