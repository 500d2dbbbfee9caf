//! Migration: the client's address changes while a call runs, as it does behind a router or on the way from one network to another; the call goes on.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sinew::{Cx, Server, service};
use tokio::net::UdpSocket;
use tokio::sync::Notify;

/// Takes its time.
#[service]
pub trait Kitchen {
    /// Cooks.
    async fn cook(&self, dish: &str) -> String;
    /// Where the first packet of this connection came from.
    async fn guest(&self, cx: &Cx) -> String;
}

struct Chef;

impl Kitchen for Chef {
    async fn cook(&self, dish: &str) -> String {
        tokio::time::sleep(Duration::from_millis(300)).await;
        format!("{dish} is served")
    }

    async fn guest(&self, cx: &Cx) -> String {
        cx.peer().map(|peer| peer.address().to_owned()).unwrap_or_default()
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = Server::builder().service(KitchenServer::new(Chef)).bind("quic://127.0.0.1:0").start().await?;
    let router = UdpSocket::bind("127.0.0.1:0").await?;
    let target = format!("quic://{}", router.local_addr()?);
    let change = Arc::new(Notify::new());
    tokio::spawn(route(
        router,
        server.target().replace("quic://", "").parse()?,
        Arc::clone(&change),
    ));

    let kitchen = KitchenClient::connect(&target).await?;
    println!("the guest came from {}", kitchen.guest().await?);
    let dinner = tokio::spawn(kitchen.cook("soup").into_future());
    change.notify_one();
    println!("{}", dinner.await??);
    assert_eq!(server.connections(), 1, "the same connection, from another port");
    Ok(())
}

/// Passes packets on, and from a new port when told so.
async fn route(inside: UdpSocket, server: SocketAddr, change: Arc<Notify>) -> std::io::Result<()> {
    let (mut outside, mut client) = (UdpSocket::bind("127.0.0.1:0").await?, None);
    let (mut there, mut back) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            () = change.notified() => {
                outside = UdpSocket::bind("127.0.0.1:0").await?;
                println!("the guest comes from {} now", outside.local_addr()?);
            }
            Ok((len, from)) = inside.recv_from(&mut there) => {
                // A probe of one byte asks whether anybody listens; it is not the connection.
                client = if len > 1 { Some(from) } else { client };
                outside.send_to(&there[..len], server).await?;
            }
            Ok((len, _)) = outside.recv_from(&mut back) => if let Some(client) = client {
                inside.send_to(&back[..len], client).await?;
            }
        }
    }
}
