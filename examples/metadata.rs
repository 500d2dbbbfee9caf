//! Metadata: values beside the message, in the request, before the response and after it; and what is passed on.

use sinew::{Cx, Server, Status, service};

/// Stores things.
#[service]
pub trait Store {
    /// Puts a thing in, for the tenant in the metadata.
    async fn put(&self, cx: &Cx, thing: &str) -> Result<u64, Status>;
}

/// Writes down who did what.
#[service]
pub trait Journal {
    /// The tenant and the token that arrived with the call.
    async fn note(&self, cx: &Cx, text: &str) -> (Option<String>, Option<String>);
}

struct Book;

impl Journal for Book {
    async fn note(&self, cx: &Cx, _text: &str) -> (Option<String>, Option<String>) {
        let value = |key| cx.metadata().get(key).map(ToOwned::to_owned);
        (value("tenant"), value("token"))
    }
}

struct Shelf {
    journal: JournalClient,
}

impl Store for Shelf {
    async fn put(&self, cx: &Cx, thing: &str) -> Result<u64, Status> {
        // Nothing travels on by itself: a token that was meant for this server stays here.
        cx.propagate("tenant");
        let noted = self.journal.note(thing).await?;
        assert_eq!(noted, (Some("acme".to_owned()), None));

        cx.set_reply_metadata("shelf", "7")?;
        cx.set_trailer("checksum-bin", [0, 159, 146])?;
        Ok(42)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let book = Server::builder().service(JournalServer::new(Book)).bind("127.0.0.1:0").start().await?;
    let journal = JournalClient::connect(&book.target()).await?;
    let shelf = StoreServer::new(Shelf { journal });
    let server = Server::builder().service(shelf).bind("127.0.0.1:0").start().await?;
    let store = StoreClient::connect(&server.target()).await?;

    let call = store.put("a chair").metadata("tenant", "acme").metadata("token", "secret");
    let (id, meta) = call.with_meta().await?;
    assert_eq!(id, 42);
    assert_eq!(meta.metadata().get("shelf"), Some("7"));
    assert_eq!(meta.trailers().get_bytes("checksum-bin"), Some(&[0, 159, 146][..]));

    // Keys are lower case, values printable unless the key ends in `-bin`; the call says so before it leaves.
    let refused = store.put("a table").metadata("Tenant", "acme").await;
    assert!(refused.is_err_and(|status| status.message().contains("Tenant")));
    Ok(())
}
