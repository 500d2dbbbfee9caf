//! More load than buffers hold, in both directions at once: everything is answered, and nobody waits for the other for ever.

use std::time::Duration;

use bytes::Bytes;
use sinew::{Server, service};

#[service]
trait Mirror {
    /// The same bytes.
    async fn echo(&self, bytes: Bytes) -> Bytes;
}

struct Glass;

#[service]
impl Mirror for Glass {
    async fn echo(&self, bytes: Bytes) -> Bytes {
        bytes
    }
}

/// A thousand calls of 4 kB at once through pipes of 256 KiB: requests pile up at the client and answers at the server.
#[tokio::test]
async fn requests_that_pile_up_do_not_keep_a_client_from_reading() {
    let server = Server::builder().service(MirrorServer::new(Glass)).bind("mem:pressure").start().await.unwrap();
    let client = MirrorClient::connect(&server.target()).await.unwrap();
    let callers: Vec<_> = (0..1_000)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..20 {
                    let bytes = Bytes::from_static(&[7; 4_000]);
                    assert_eq!(client.echo(bytes.clone()).timeout("60s").await.unwrap(), bytes);
                }
            })
        })
        .collect();
    for caller in callers {
        tokio::time::timeout(Duration::from_secs(60), caller)
            .await
            .expect("both sides wait for each other")
            .unwrap();
    }
}
