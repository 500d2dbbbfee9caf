//! QUIC: one connection, and streams that do not wait for each other; no set-up on loopback.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use bytes::Bytes;
use sinew::{Server, Status, Streaming, service};

/// A film archive.
#[service]
pub trait Archive {
    /// What it holds.
    async fn titles(&self) -> Vec<String>;
    /// Plays one, in pieces.
    async fn play(&self, title: &str) -> Result<Streaming<Bytes>, Status>;
}

struct Films;

const PIECES: usize = 256;

impl Archive for Films {
    async fn titles(&self) -> Vec<String> {
        vec!["M".to_owned(), "Metropolis".to_owned()]
    }

    async fn play(&self, title: &str) -> Result<Streaming<Bytes>, Status> {
        let frame = Bytes::from(title.as_bytes().repeat(16 * 1024));
        Ok(Streaming::iter((0..PIECES).map(move |_| frame.clone())))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Where UDP may be blocked, `quic+tcp://` on both sides listens on both and takes what gets through.
    let server = Server::builder().service(ArchiveServer::new(Films)).bind("quic://127.0.0.1:0").start().await?;
    let archive = ArchiveClient::connect(&server.target()).await?;

    // Each film has a QUIC stream of its own; the small calls share one.
    let mut first = archive.play("M").await?;
    let mut second = archive.play("Metropolis").await?;
    let mut bytes = 0;
    while let Some(piece) = second.next().await {
        bytes += piece?.len();
        // Nobody reads the first film meanwhile, and it holds nobody up.
    }
    println!(
        "{} titles; {bytes} bytes of the second film over {}",
        archive.titles().await?.len(),
        server.target()
    );
    assert_eq!(bytes, PIECES * 16 * 1024 * "Metropolis".len());

    // Leaving a film resets its stream: the server stops at once, and what was under way is dropped.
    assert!(first.next().await.is_some_and(|piece| piece.is_ok()));
    drop(first);
    assert_eq!(server.connections(), 1);
    Ok(())
}
