//! `first-call`: how long the first call of a fresh channel takes over `quic+tcp://`, and by which way it went. Started by `lossy`, where UDP goes nowhere.

use std::time::Instant;

use anyhow::Result;
use sinew::{Cx, Server, service};

#[service]
trait Whoami {
    async fn whoami(&self, cx: &Cx) -> String;
}

struct Mirror;

impl Whoami for Mirror {
    async fn whoami(&self, cx: &Cx) -> String {
        cx.peer().map(|peer| peer.address().to_owned()).unwrap_or_default()
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let server = Server::builder()
        .service(WhoamiServer::new(Mirror))
        .bind("quic+tcp://127.0.0.1:0")
        .start()
        .await?;
    let target = server.target().replace("quic://", "quic+tcp://");
    for number in 1..=3 {
        // The first makes what the process makes once, like the development authority.
        let began = Instant::now();
        let client = WhoamiClient::connect(&target).await?;
        let peer = client.whoami().await?;
        println!(
            "first call of channel {number} over quic+tcp: {:.0} ms, from {peer}",
            began.elapsed().as_secs_f64() * 1_000.0
        );
    }
    Ok(())
}
