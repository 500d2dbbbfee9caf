//! A handler that panics, wherever it does: INTERNAL without its text for that caller, and nobody else notices.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sinew::{Code, Cx, Next, Outcome, Server, Status, Streaming, interceptor, service};

use crate::support::fixture::{Fixture, Served};
use crate::support::{across_fixtures, until};

across_fixtures!(
    unary,
    unary_after_waiting,
    stream_before_it_opens,
    stream_after_an_item,
    client_stream,
    interceptor_before_and_after,
    decoding_an_argument,
    encoding_a_reply,
    destructor_of_the_handler,
    destructor_of_a_cancelled_handler,
    destructor_of_a_value_in_the_context,
);

/// What a panic says and no caller may see.
const SECRET: &str = "the secret of another caller";

#[service(name = "panics.Fragile")]
pub(crate) trait Fragile {
    async fn fine(&self) -> u64;
    async fn unary(&self) -> u64;
    async fn waits_first(&self) -> u64;
    async fn opening(&self) -> Result<Streaming<u64>, Status>;
    async fn streaming(&self) -> Result<Streaming<u64>, Status>;
    async fn reads(&self, items: Streaming<u64>) -> u64;
    async fn guarded(&self, after: bool) -> u64;
    async fn decodes(&self, bomb: DecodeBomb) -> u64;
    async fn encodes(&self) -> EncodeBomb;
    async fn drops(&self, wait: bool) -> u64;
    async fn leaves_a_bomb(&self, cx: &Cx) -> u64;
}

/// Panics when it is decoded.
#[derive(Debug)]
pub(crate) struct DecodeBomb;

impl Serialize for DecodeBomb {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(1)
    }
}

impl<'de> Deserialize<'de> for DecodeBomb {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("{SECRET}")
    }
}

/// Panics when it is encoded.
#[derive(Debug)]
pub(crate) struct EncodeBomb;

impl Serialize for EncodeBomb {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("{SECRET}")
    }
}

impl<'de> Deserialize<'de> for EncodeBomb {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(|_| Self)
    }
}

/// Panics when it is dropped, unless the thread panics already, which would be the end of the process.
struct DropBomb;

impl Drop for DropBomb {
    fn drop(&mut self) {
        assert!(std::thread::panicking(), "{SECRET}");
    }
}

#[interceptor]
async fn explode(cx: &mut Cx, next: impl Next) -> Outcome {
    assert!(cx.metadata().get("before").is_none(), "{SECRET}");
    let outcome = next.run(cx).await;
    assert!(cx.metadata().get("after").is_none(), "{SECRET}");
    outcome
}

struct Glass;

#[service]
impl Fragile for Glass {
    async fn fine(&self) -> u64 {
        1
    }
    async fn unary(&self) -> u64 {
        panic!("{SECRET}")
    }
    async fn waits_first(&self) -> u64 {
        tokio::task::yield_now().await;
        panic!("{SECRET}")
    }
    async fn opening(&self) -> Result<Streaming<u64>, Status> {
        panic!("{SECRET}")
    }
    async fn streaming(&self) -> Result<Streaming<u64>, Status> {
        Ok(Streaming::iter((0..).inspect(|item| assert!(*item < 3, "{SECRET}"))))
    }
    async fn reads(&self, mut items: Streaming<u64>) -> u64 {
        let _first = items.next().await;
        panic!("{SECRET}")
    }
    #[interceptor(explode)]
    async fn guarded(&self, _: bool) -> u64 {
        2
    }
    async fn decodes(&self, _: DecodeBomb) -> u64 {
        3
    }
    async fn encodes(&self) -> EncodeBomb {
        EncodeBomb
    }
    async fn drops(&self, wait: bool) -> u64 {
        let _bomb = DropBomb;
        if wait {
            std::future::pending::<()>().await;
        }
        4
    }
    async fn leaves_a_bomb(&self, cx: &Cx) -> u64 {
        cx.insert(ContextBomb(std::sync::Arc::new(DropBomb)));
        5
    }
}

/// A value that panics when its context is used for the next call.
#[derive(Clone)]
#[expect(dead_code, reason = "it is there to be dropped")]
struct ContextBomb(std::sync::Arc<DropBomb>);

async fn start(fixture: Fixture) -> (FragileClient, Served) {
    let served = fixture.serve(Server::builder().service(FragileServer::new(Glass))).await;
    (FragileClient::from_channel(served.channel.clone()), served)
}

/// What a caller may see, and that the connection lives on.
async fn contained(client: &FragileClient, served: &Served, status: Status) {
    assert_eq!(status.code(), Code::Internal, "{status}");
    assert!(!format!("{status:?}").contains("secret"), "{status:?}");
    for _ in 0..3 {
        assert_eq!(client.fine().await.unwrap(), 1);
    }
    assert_eq!(served.serving.connections(), 1);
    assert!(served.serving.panics() > 0, "it is counted");
    until("no handler is left", || served.serving.running_handlers() == 0).await;
}

async fn unary(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    for _ in 0..20 {
        contained(&client, &served, client.unary().await.unwrap_err()).await;
    }
    assert_eq!(served.serving.panics(), 20);
}

async fn unary_after_waiting(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    contained(&client, &served, client.waits_first().await.unwrap_err()).await;
}

async fn stream_before_it_opens(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    contained(&client, &served, client.opening().await.unwrap_err()).await;
}

async fn stream_after_an_item(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    let mut items = client.streaming().await.unwrap();
    let status = loop {
        match items.next().await.expect("it does not end in order") {
            Ok(item) => assert!(item < 3),
            Err(status) => break status,
        }
    };
    contained(&client, &served, status).await;
}

async fn client_stream(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    let (sender, items) = Streaming::channel(1);
    let call = tokio::spawn(client.reads(items).into_future());
    sender.send(1).await.unwrap();
    contained(&client, &served, call.await.unwrap().unwrap_err()).await;
    sender.closed().await;
}

async fn interceptor_before_and_after(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    assert_eq!(client.guarded(false).await.unwrap(), 2);
    let before = client.guarded(true).metadata("before", "x").await.unwrap_err();
    contained(&client, &served, before).await;
    let after = client.guarded(true).metadata("after", "x").await.unwrap_err();
    contained(&client, &served, after).await;
}

async fn decoding_an_argument(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    contained(&client, &served, client.decodes(DecodeBomb).await.unwrap_err()).await;
}

async fn encoding_a_reply(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    let Err(status) = client.encodes().await else {
        panic!("it cannot be encoded")
    };
    contained(&client, &served, status).await;
}

async fn destructor_of_the_handler(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    contained(&client, &served, client.drops(false).await.unwrap_err()).await;
}

/// The handler is dropped because its caller gave up; its destructor's panic reaches nobody.
async fn destructor_of_a_cancelled_handler(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    let status = client.drops(true).timeout("30ms").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(client.fine().await.unwrap(), 1);
    until("no handler is left", || served.serving.running_handlers() == 0).await;
    assert_eq!(served.serving.connections(), 1);
}

async fn destructor_of_a_value_in_the_context(fixture: Fixture) {
    let (client, served) = start(fixture).await;
    for _ in 0..10 {
        assert_eq!(client.leaves_a_bomb().await.unwrap(), 5);
        assert_eq!(client.fine().await.unwrap(), 1);
    }
    assert_eq!(served.serving.connections(), 1);
}

/// `local` contains a panic as a connection does.
#[tokio::test]
async fn through_local_too() {
    let client = FragileClient::local(Glass);
    for status in [
        client.unary().await.unwrap_err(),
        client.waits_first().await.unwrap_err(),
        client.opening().await.err().unwrap(),
        client.guarded(true).metadata("before", "x").await.unwrap_err(),
        client.decodes(DecodeBomb).await.unwrap_err(),
        client.encodes().await.err().unwrap(),
        client.drops(false).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::Internal);
        assert!(!format!("{status:?}").contains("secret"), "{status:?}");
    }
    let mut items = client.streaming().await.unwrap();
    let mut last = None;
    while let Some(item) = items.next().await {
        last = Some(item);
    }
    assert_eq!(last.unwrap().unwrap_err().code(), Code::Internal);
    let (sender, items) = Streaming::channel(1);
    let call = tokio::spawn(client.reads(items).into_future());
    // The handler may panic before it has taken the item.
    let _read = sender.send(1).await;
    assert_eq!(call.await.unwrap().unwrap_err().code(), Code::Internal);
}
