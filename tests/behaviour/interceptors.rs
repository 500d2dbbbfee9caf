//! Interceptors: their order, what they see and change, and that nothing gets past them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use sinew::wire::{Batch, MessageStream};
use sinew::{
    Channel, Code, Cx, HandlerRan, Interceptor, MethodKind, Next, Outcome, OutcomeCode, Server, ServerRequest, Side,
    Status, Streaming, interceptor, service,
};

use crate::support::fixture::Fixture;
use crate::support::probe::Trail;

/// Marks its way in and out.
struct Mark {
    name: &'static str,
    trail: Trail,
}

impl Interceptor for Mark {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        self.trail.mark(format!("{}(", self.name));
        let outcome = next.run(cx).await;
        self.trail.mark(format!("){}", self.name));
        outcome
    }
}

/// Puts its name into the trail that somebody above put into the context.
#[interceptor]
async fn level(cx: &mut Cx, next: impl Next, name: &'static str) -> Outcome {
    if let Some(trail) = cx.get::<Trail>() {
        trail.mark(name);
    }
    next.run(cx).await
}

/// Ends calls that ask for it here.
#[interceptor]
async fn stop(cx: &mut Cx, next: impl Next, at: &'static str) -> Outcome {
    if cx.metadata().get("stop") == Some(at) {
        return Err(Status::permission_denied(format!("stopped at {at}")));
    }
    next.run(cx).await
}

#[service(name = "interceptors.Levels")]
#[interceptor(level("trait"), stop("trait"))]
pub(crate) trait Levels {
    #[interceptor(level("trait-method"))]
    async fn one(&self, cx: &Cx) -> Result<u64, Status>;
    async fn two(&self, cx: &Cx) -> u64;
    async fn watch(&self, to: u64) -> Result<Streaming<u64>, Status>;
    async fn upload(&self, items: Streaming<u64>) -> Result<u64, Status>;
}

struct Tower {
    own: Mark,
    trail: Trail,
}

impl Tower {
    fn new(trail: &Trail) -> Self {
        Self {
            own: mark("field", trail),
            trail: trail.clone(),
        }
    }
}

#[interceptor(level("impl-above"))]
#[service]
#[interceptor(level("impl-below"), self.own, stop("impl"))]
impl Levels for Tower {
    #[interceptor(level("method"), stop("method"))]
    async fn one(&self, _: &Cx) -> Result<u64, Status> {
        self.trail.mark("one");
        Ok(1)
    }
    async fn two(&self, _: &Cx) -> u64 {
        self.trail.mark("two");
        2
    }
    async fn watch(&self, to: u64) -> Result<Streaming<u64>, Status> {
        self.trail.mark("watch");
        Ok(Streaming::iter(0..to))
    }
    async fn upload(&self, items: Streaming<u64>) -> Result<u64, Status> {
        self.trail.mark("upload");
        Ok(items.collect().await?.into_iter().sum())
    }
}

fn mark(name: &'static str, trail: &Trail) -> Mark {
    Mark {
        name,
        trail: trail.clone(),
    }
}

/// Shares a trail with the interceptors below.
struct Share(Trail);

impl Interceptor for Share {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        cx.insert(self.0.clone());
        next.run(cx).await
    }
}

#[tokio::test]
async fn they_run_from_the_outside_in_and_back() {
    let trail = Trail::default();
    let server = Server::builder()
        .interceptor(Share(trail.clone()))
        .interceptor(mark("server-1", &trail))
        .interceptor(mark("server-2", &trail))
        .service(LevelsServer::new(Tower::new(&trail)));
    let client = Channel::builder().interceptor(mark("channel-1", &trail)).interceptor(mark("channel-2", &trail));
    let served = Fixture::Tcp.serve_with(server, client).await;
    let levels = LevelsClient::from_channel(served.channel.with_interceptor(mark("channel-3", &trail)));
    let call = levels.one().interceptor(mark("call-1", &trail)).interceptor(mark("call-2", &trail));
    assert_eq!(call.await.unwrap(), 1);
    assert_eq!(
        trail.take(),
        "channel-1( channel-2( channel-3( call-1( call-2( \
         server-1( server-2( trait impl-above impl-below field( trait-method method one )field )server-2 )server-1 \
         )call-2 )call-1 )channel-3 )channel-2 )channel-1"
    );
    assert_eq!(levels.two().await.unwrap(), 2);
    assert_eq!(
        trail.take(),
        "channel-1( channel-2( channel-3( server-1( server-2( trait impl-above impl-below field( two )field \
         )server-2 )server-1 )channel-3 )channel-2 )channel-1"
    );
}

#[tokio::test]
async fn attribute_stacked_ones_run_through_local_too() {
    let trail = Trail::default();
    let levels = LevelsClient::local(Tower::new(&trail));
    assert_eq!(levels.one().await.unwrap(), 1);
    assert_eq!(trail.take(), "field( one )field");
    let status = levels.one().metadata("stop", "method").await.unwrap_err();
    assert_eq!(status.message(), "stopped at method");
}

#[tokio::test]
async fn each_of_them_can_end_the_call() {
    let trail = Trail::default();
    let server = Server::builder().interceptor(stop("server")).service(LevelsServer::new(Tower::new(&trail)));
    let served = Fixture::Mem.serve(server).await;
    let levels = LevelsClient::from_channel(served.channel.with_interceptor(stop("channel")));
    for at in ["channel", "server", "trait", "impl", "method"] {
        let status = levels.one().metadata("stop", at).await.unwrap_err();
        assert_eq!(
            (status.code(), status.message()),
            (Code::PermissionDenied, &*format!("stopped at {at}"))
        );
        assert!(!trail.take().contains("one"), "{at}");
        let sent = at != "channel";
        assert_eq!(status.handler_ran() == HandlerRan::No, !sent, "{at}: {status:?}");
    }
    let status = levels.one().metadata("stop", "call").interceptor(stop("call")).await.unwrap_err();
    assert_eq!(
        (status.message(), status.handler_ran()),
        ("stopped at call", HandlerRan::No)
    );
    assert_eq!(levels.one().await.unwrap(), 1);
}

/// Streams pass the same interceptors as unary calls: authorization cannot be skipped by streaming.
#[tokio::test]
async fn streams_cannot_get_past_them() {
    let trail = Trail::default();
    let served = Fixture::Tcp.serve(Server::builder().service(LevelsServer::new(Tower::new(&trail)))).await;
    let levels = LevelsClient::from_channel(served.channel.clone());
    let status = levels.watch(3).metadata("stop", "trait").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let (sender, items) = Streaming::channel(1);
    let status = levels.upload(items).metadata("stop", "impl").await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    sender.closed().await;
    assert_eq!(trail.take().matches("watch").count(), 0);
    assert_eq!(levels.upload(Streaming::iter([1, 2])).await.unwrap(), 3);
}

/// Calls of unknown methods pass the server's own interceptors before the fallback answers.
#[tokio::test]
async fn the_fallback_is_behind_the_servers_interceptors() {
    let trail = Trail::default();
    let server = Server::builder()
        .interceptor(mark("server", &trail))
        .fallback(|_: Cx, _: ServerRequest| async { Err(Status::unimplemented("none")) });
    let served = Fixture::Mem.serve(server).await;
    let levels = LevelsClient::from_channel(served.channel.clone());
    assert_eq!(levels.two().await.unwrap_err().code(), Code::Unimplemented);
    assert_eq!(trail.take(), "server( )server");
}

#[derive(Clone, Debug, PartialEq)]
struct User(&'static str);

/// Says who calls.
#[interceptor]
async fn authenticate(cx: &mut Cx, next: impl Next) -> Outcome {
    cx.insert(User("ada"));
    next.run(cx).await
}

#[interceptor]
async fn needs_user(cx: &mut Cx, next: impl Next) -> Outcome {
    if cx.get::<User>().is_none() {
        return Err(Status::unauthenticated("who are you?"));
    }
    next.run(cx).await
}

/// What an interceptor may look at.
#[derive(Clone, Default)]
struct Seen(Arc<std::sync::Mutex<Vec<String>>>);

impl Interceptor for Seen {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        let method = cx.method().unwrap();
        let side = if cx.side() == Some(Side::Server) {
            "server"
        } else {
            "client"
        };
        let kind = method.kind() == MethodKind::Unary;
        let (path, idempotent) = (cx.path().to_owned(), method.is_idempotent());
        let peer = cx.peer().is_some();
        let outcome = next.run(cx).await;
        let code = outcome.code();
        let line = format!("{side} {path} unary={kind} idempotent={idempotent} peer={peer} {code}");
        self.0.lock().unwrap().push(line);
        outcome
    }
}

#[service(name = "interceptors.Profile")]
pub(crate) trait Profile {
    #[rpc(idempotent)]
    async fn name(&self, cx: &Cx) -> Result<String, Status>;
    async fn echo_header(&self, cx: &Cx) -> Option<String>;
}

struct Page;

impl Profile for Page {
    async fn name(&self, cx: &Cx) -> Result<String, Status> {
        let user = cx.get::<User>().ok_or_else(|| Status::not_found("nobody"))?;
        Ok(user.0.to_owned())
    }
    async fn echo_header(&self, cx: &Cx) -> Option<String> {
        cx.metadata().get("token").map(ToOwned::to_owned)
    }
}

#[tokio::test]
async fn what_one_puts_in_is_visible_below_it() {
    let seen = Seen::default();
    let server = Server::builder()
        .interceptor(authenticate)
        .interceptor(needs_user)
        .interceptor(seen.clone())
        .service(ProfileServer::new(Page));
    let served = Fixture::Tcp.serve(server).await;
    let profile = ProfileClient::from_channel(served.channel.with_interceptor(seen.clone()));
    assert_eq!(profile.name().await.unwrap(), "ada");
    assert_eq!(
        *seen.0.lock().unwrap(),
        [
            "server interceptors.Profile/name unary=true idempotent=true peer=true OK",
            "client interceptors.Profile/name unary=true idempotent=true peer=false OK",
        ]
    );
    let wrong_order = Server::builder()
        .interceptor(needs_user)
        .interceptor(authenticate)
        .service(ProfileServer::new(Page));
    let served = Fixture::Tcp.serve(wrong_order).await;
    let profile = ProfileClient::from_channel(served.channel.clone());
    assert_eq!(profile.name().await.unwrap_err().code(), Code::Unauthenticated);
    // What one call puts in is gone for the next one, though its memory is used again.
    let plain = Fixture::Tcp.serve(Server::builder().service(ProfileServer::new(Page))).await;
    let profile = ProfileClient::from_channel(plain.channel.clone());
    for _ in 0..3 {
        assert_eq!(profile.name().await.unwrap_err().code(), Code::NotFound);
    }
}

#[interceptor]
async fn add_token(cx: &mut Cx, next: impl Next) -> Outcome {
    cx.add_metadata("token", "t-1").map_err(|error| Status::internal(error.to_string()))?;
    next.run(cx).await
}

#[tokio::test]
async fn a_clients_interceptor_adds_metadata() {
    let served = Fixture::Tcp.serve(Server::builder().service(ProfileServer::new(Page))).await;
    for channel in [served.channel.clone(), Channel::local(ProfileServer::new(Page))] {
        let profile = ProfileClient::from_channel(channel.with_interceptor(add_token));
        assert_eq!(profile.echo_header().await.unwrap().as_deref(), Some("t-1"));
    }
}

/// Counts the batches of a stream that pass, and their bytes.
struct Counted {
    inner: Box<dyn MessageStream>,
    bytes: Arc<AtomicUsize>,
}

impl MessageStream for Counted {
    fn poll_fill(&mut self, task: &mut Context<'_>, batch: &mut Batch) -> Poll<Result<bool, Status>> {
        let filled = self.inner.poll_fill(task, batch);
        if matches!(filled, Poll::Ready(Ok(true))) {
            self.bytes.fetch_add(batch.bytes.len(), Ordering::Relaxed);
        }
        filled
    }

    fn take_trailers(&mut self) -> sinew::Metadata {
        self.inner.take_trailers()
    }
}

#[derive(Clone, Default)]
struct Count(Arc<AtomicUsize>);

impl Interceptor for Count {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        let bytes = Arc::clone(&self.0);
        let reply = next.run(cx).await?;
        assert_eq!(
            reply.is_stream(),
            cx.method().is_some_and(|method| method.kind().server_streams())
        );
        Ok(reply.map_stream(|inner| Box::new(Counted { inner, bytes })))
    }
}

#[tokio::test]
async fn a_stream_can_be_wrapped_on_both_sides() {
    let (at_server, at_client) = (Count::default(), Count::default());
    let server = Server::builder()
        .interceptor(at_server.clone())
        .service(LevelsServer::new(Tower::new(&Trail::default())));
    let served = Fixture::Tcp.serve(server).await;
    let levels = LevelsClient::from_channel(served.channel.with_interceptor(at_client.clone()));
    assert_eq!(levels.watch(100).await.unwrap().collect().await.unwrap().len(), 100);
    // Each item is one byte behind a length of four.
    assert_eq!(at_server.0.load(Ordering::Relaxed), 500);
    assert_eq!(at_client.0.load(Ordering::Relaxed), 500);
    assert_eq!(levels.two().await.unwrap(), 2, "a single message is left alone");
    assert_eq!(at_server.0.load(Ordering::Relaxed), 500);
}

static MADE: AtomicUsize = AtomicUsize::new(0);

/// Counts its calls per instance.
struct PerInstance {
    calls: AtomicUsize,
    most: usize,
}

fn at_most(most: usize) -> PerInstance {
    MADE.fetch_add(1, Ordering::Relaxed);
    PerInstance {
        calls: AtomicUsize::new(0),
        most,
    }
}

impl PerInstance {
    fn plus(mut self, more: usize) -> Self {
        self.most += more;
        self
    }
}

impl Interceptor for PerInstance {
    async fn call<N: Next>(&self, cx: &mut Cx, next: N) -> Outcome {
        if self.calls.fetch_add(1, Ordering::Relaxed) >= self.most {
            return Err(Status::resource_exhausted("enough"));
        }
        next.run(cx).await
    }
}

#[service(name = "interceptors.Limited")]
pub(crate) trait Limited {
    async fn get(&self) -> Result<u64, Status>;
}

struct Store;

#[service]
impl Limited for Store {
    #[interceptor(at_most(2, plus = 1))]
    async fn get(&self) -> Result<u64, Status> {
        Ok(5)
    }
}

#[tokio::test]
async fn a_constructor_runs_once_per_server_instance() {
    assert_eq!(MADE.load(Ordering::Relaxed), 0);
    let first = LimitedServer::new(Store);
    assert_eq!(MADE.load(Ordering::Relaxed), 1, "when the server part is made");
    let second = LimitedServer::new(Store);
    for (service, made) in [(first.clone(), 2), (second, 2)] {
        let served = Fixture::Tcp.serve(Server::builder().service(service)).await;
        // Several connections share the one interceptor of their service.
        let other = Channel::connect(&served.serving.target()).await.unwrap();
        let clients = [served.channel.clone(), other].map(LimitedClient::from_channel);
        for client in clients.iter().cycle().take(3) {
            assert_eq!(client.get().await.unwrap(), 5);
        }
        assert_eq!(clients[0].get().await.unwrap_err().code(), Code::ResourceExhausted);
        assert_eq!(MADE.load(Ordering::Relaxed), made);
    }
    // A clone is the same instance, and its budget is spent.
    let clone = LimitedClient::from_channel(Channel::local(first));
    assert_eq!(clone.get().await.unwrap_err().code(), Code::ResourceExhausted);
}
