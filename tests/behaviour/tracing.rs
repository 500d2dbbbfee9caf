//! Traces: the W3C context is taken from the caller and passed on, and a handler runs in a span.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{Debug, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sinew::{Channel, Cx, Server, Status, Streaming, TraceContext, service};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};

use crate::support::fixture::{Fixture, Served};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a handler knows of its trace: its own position, its parent's span, state and baggage.
type Position = Option<(u128, u64, Option<u64>, Option<String>, Option<String>)>;

#[service(name = "tracing.Hop")]
pub(crate) trait Hop {
    async fn position(&self, cx: &Cx) -> Position;
    /// Its own position, and the one of a call that it makes.
    async fn next(&self, cx: &Cx) -> Result<(Position, Position), Status>;
    async fn next_in_a_task(&self, cx: &Cx) -> Result<(Position, Position), Status>;
    async fn detached(&self) -> Result<Position, Status>;
    async fn speaks(&self, inline: bool) -> u64;
    async fn speaks_in_a_stream(&self) -> Result<Streaming<u64>, Status>;
}

struct Stop(Option<HopClient>);

fn position(cx: &Cx) -> Position {
    let trace = cx.trace()?;
    let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
    Some((
        trace.trace_id(),
        trace.span_id(),
        trace.parent_id(),
        owned(trace.state()),
        owned(trace.baggage()),
    ))
}

impl Stop {
    fn next(&self) -> Result<HopClient, Status> {
        self.0.clone().ok_or_else(|| Status::internal("the last stop"))
    }
}

impl Hop for Stop {
    async fn position(&self, cx: &Cx) -> Position {
        position(cx)
    }
    async fn next(&self, cx: &Cx) -> Result<(Position, Position), Status> {
        Ok((position(cx), self.next()?.position().await?))
    }
    async fn next_in_a_task(&self, cx: &Cx) -> Result<(Position, Position), Status> {
        let next = self.next()?;
        let far = tokio::spawn(Cx::carry(async move { next.position().await }));
        Ok((position(cx), far.await.unwrap()?))
    }
    async fn detached(&self) -> Result<Position, Status> {
        self.next()?.position().detached().await
    }
    async fn speaks(&self, inline: bool) -> u64 {
        if !inline {
            tokio::task::yield_now().await;
        }
        tracing::info!("spoken");
        1
    }
    async fn speaks_in_a_stream(&self) -> Result<Streaming<u64>, Status> {
        Ok(Streaming::iter((0..2).inspect(|_| tracing::info!("spoken"))))
    }
}

struct Line {
    client: HopClient,
    _served: [Served; 2],
}

/// Two servers, one behind the other.
async fn line() -> Line {
    let last = Fixture::Tcp.serve(Server::builder().service(HopServer::new(Stop(None)))).await;
    let next = HopClient::from_channel(last.channel.clone());
    let first = Fixture::Tcp.serve(Server::builder().service(HopServer::new(Stop(Some(next))))).await;
    Line {
        client: HopClient::from_channel(first.channel.clone()),
        _served: [first, last],
    }
}

#[tokio::test]
async fn the_callers_trace_is_continued() {
    let line = line().await;
    let call = line.client.position().metadata("traceparent", PARENT);
    let call = call.metadata("tracestate", "vendor=1").metadata("baggage", "user=7");
    let (trace, span, parent, state, baggage) = call.await.unwrap().unwrap();
    assert_eq!(trace, 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
    assert_eq!(parent, Some(0x00f0_67aa_0ba9_02b7));
    assert!(span != 0 && Some(span) != parent, "a span of its own");
    assert_eq!(
        (state.as_deref(), baggage.as_deref()),
        (Some("vendor=1"), Some("user=7"))
    );
    assert_eq!(
        line.client.position().await.unwrap(),
        None,
        "no trace is invented while nobody records"
    );
    for malformed in [
        "",
        "x",
        "00-0-0-0",
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ] {
        assert_eq!(
            line.client.position().metadata("traceparent", malformed).await.unwrap(),
            None,
            "{malformed:?}"
        );
    }
}

#[tokio::test]
async fn nested_calls_are_children_of_their_handler() {
    let line = line().await;
    let with_trace = |call: sinew::Call<(Position, Position), Status>| {
        let call = call.metadata("traceparent", PARENT);
        call.metadata("tracestate", "vendor=1").metadata("baggage", "user=7")
    };
    for call in [line.client.next(), line.client.next_in_a_task()] {
        let (near, far) = with_trace(call).await.unwrap();
        let (near, far) = (near.unwrap(), far.unwrap());
        assert_eq!(near.0, far.0, "one trace");
        assert_eq!(far.2, Some(near.1), "the far span is a child of the near one");
        assert_eq!((far.3.as_deref(), far.4.as_deref()), (Some("vendor=1"), Some("user=7")));
    }
    let detached = line.client.detached().metadata("traceparent", PARENT).await.unwrap();
    assert_eq!(detached, None);
}

#[tokio::test]
async fn a_trace_can_begin_in_a_client() {
    let line = line().await;
    let cx = Cx::new();
    let root = TraceContext::root().with_baggage("cart=3");
    cx.set_trace(root.clone());
    for channel in [
        line.client.channel().clone(),
        Channel::local(HopServer::new(Stop(None))),
    ] {
        let client = HopClient::from_channel(channel);
        let (trace, _, parent, _, baggage) = client.position().within(&cx).await.unwrap().unwrap();
        assert_eq!((trace, parent), (root.trace_id(), Some(root.span_id())));
        assert_eq!(baggage.as_deref(), Some("cart=3"));
        let ambient = cx.carry_in(async { client.position().await }).await.unwrap().unwrap();
        assert_eq!(ambient.0, root.trace_id());
    }
}

/// A subscriber that notes events with the spans around them.
#[derive(Clone, Default)]
struct Notes {
    next: Arc<AtomicU64>,
    spans: Arc<Mutex<HashMap<u64, String>>>,
    events: Arc<Mutex<Vec<String>>>,
}

thread_local! {
    static ENTERED: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
}

#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {}={value:?}", field.name()).unwrap();
    }
}

impl Subscriber for Notes {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        // Other tests run at the same time without a subscriber: each thread is to be asked.
        Interest::sometimes()
    }
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        let mut text = Text(span.metadata().name().to_owned());
        span.record(&mut text);
        self.spans.lock().unwrap().insert(id, text.0);
        Id::from_u64(id)
    }
    fn record(&self, span: &Id, values: &Record<'_>) {
        let mut text = Text::default();
        values.record(&mut text);
        if let Some(known) = self.spans.lock().unwrap().get_mut(&span.into_u64()) {
            known.push_str(&text.0);
        }
    }
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        if !text.0.contains("spoken") {
            return;
        }
        let spans = self.spans.lock().unwrap();
        let around = ENTERED.with_borrow(|entered| entered.last().map(|id| spans[id].clone()));
        self.events.lock().unwrap().push(around.unwrap_or_default());
    }
    fn enter(&self, span: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(span.into_u64()));
    }
    fn exit(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.pop());
    }
}

/// The handler's span names the method and the trace, inline, after waiting, and while a stream is made.
#[tokio::test]
async fn a_handler_runs_in_a_span() {
    let notes = Notes::default();
    // While there is exactly one subscriber, tracing lets the thread that first comes by a span decide for all threads whether it is of interest, and
    // that thread may run another test. A second subscriber makes it ask every time.
    let _second = tracing::Dispatch::new(Notes::default());
    let _guard = tracing::subscriber::set_default(notes.clone());
    let served = Fixture::Tcp.serve(Server::builder().service(HopServer::new(Stop(None)))).await;
    let client = HopClient::from_channel(served.channel.clone());
    let take = || std::mem::take(&mut *notes.events.lock().unwrap());
    for inline in [true, false] {
        client.speaks(inline).metadata("traceparent", PARENT).await.unwrap();
        let events = take();
        assert_eq!(events.len(), 1);
        assert!(events[0].starts_with("rpc "), "{events:?}");
        assert!(events[0].contains("tracing.Hop/speaks"), "{events:?}");
        assert!(events[0].contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{events:?}");
    }
    client.speaks(true).await.unwrap();
    assert!(
        take()[0].contains("trace_id="),
        "a trace is begun when somebody records"
    );
    let items = client.speaks_in_a_stream().metadata("traceparent", PARENT).await.unwrap();
    assert_eq!(items.collect().await.unwrap().len(), 2);
    for event in take() {
        assert!(event.contains("tracing.Hop/speaks_in_a_stream"), "{event:?}");
    }
    let local = HopClient::local(Stop(None));
    local.speaks(true).metadata("traceparent", PARENT).await.unwrap();
    let events = take();
    assert!(
        events[0].contains("tracing.Hop/speaks"),
        "through `local` too: {events:?}"
    );
    assert!(ENTERED.with_borrow(Vec::is_empty), "every span was left");
}
