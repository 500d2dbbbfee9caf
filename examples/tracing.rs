//! Tracing: one trace over two hops, and the spans that a subscriber sees, without a line about it in the handlers.

use std::fmt::Debug;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sinew::{Server, Status, service};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Passes a question on.
#[service]
pub trait Relay {
    /// Asks the next relay; the last one answers with the number of hops.
    async fn ask(&self) -> Result<u64, Status>;
}

struct Hop(Option<RelayClient>);

impl Relay for Hop {
    async fn ask(&self) -> Result<u64, Status> {
        match &self.0 {
            Some(next) => Ok(next.ask().await? + 1),
            None => Ok(1),
        }
    }
}

/// The smallest subscriber: it keeps the fields of the spans named `rpc`. Real ones come from `tracing-subscriber`.
struct Fields;

static SEEN: Mutex<Vec<String>> = Mutex::new(Vec::new());

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        SEEN.lock().unwrap_or_else(|seen| seen.into_inner()).push(format!("{field}={value:?}"));
    }
}

impl Subscriber for Fields {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.name() == "rpc"
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        span.record(&mut Self);
        Id::from_u64(NEXT.fetch_add(1, Ordering::Relaxed))
    }
    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut Self);
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing::subscriber::set_global_default(Fields)?;
    let last = RelayServer::new(Hop(None));
    let last = Server::builder().service(last).bind("127.0.0.1:0").start().await?;
    let next = Some(RelayClient::connect(&last.target()).await?);
    let first = RelayServer::new(Hop(next));
    let first = Server::builder().service(first).bind("127.0.0.1:0").start().await?;
    let relay = RelayClient::connect(&first.target()).await?;

    // A browser, a gateway or another service sent this.
    let trace_id = "4bf92f3577b34da6a3ce929d0e0e4736";
    let call = relay.ask().metadata("traceparent", format!("00-{trace_id}-00f067aa0ba902b7-01"));
    assert_eq!(call.await?, 2);

    let seen = SEEN.lock().unwrap_or_else(|seen| seen.into_inner());
    let count = |text: &str| seen.iter().filter(|field| *field == text).count();
    assert_eq!(count("rpc.method=\"Relay/ask\""), 2, "{seen:?}");
    assert_eq!(count(&format!("trace_id={trace_id}")), 2, "{seen:?}");
    Ok(())
}
