//! Who answers a call: one of many services, an alias, a fallback, a mock, an object, another client.

use std::sync::Arc;

use sinew::{Channel, Code, Cx, Server, ServerError, ServerRequest, Status, Streaming, service};

use crate::support::bounded;
use crate::support::fixture::Fixture;
use crate::support::hand::{END, FIN, Hand, OPEN, message};

#[service(name = "routing.Adder", transparent, dyn, mock)]
pub(crate) trait Adder {
    #[rpc(alias = "plus", alias = "old.Adder/sum")]
    async fn add(&self, left: u64, right: u64) -> Result<u64, Status>;
    async fn sum(&self, items: Streaming<u64>) -> Result<u64, Status>;
    async fn count(&self, to: u64) -> Result<Streaming<u64>, Status>;
    async fn double(&self, items: Streaming<u64>) -> Result<Streaming<u64>, Status>;
    async fn who(&self, cx: &Cx) -> Result<String, Status>;
}

#[service(name = "routing.Other")]
pub(crate) trait Other {
    async fn add(&self, left: u64, right: u64) -> u64;
}

#[derive(Clone)]
struct Machine(&'static str);

impl Adder for Machine {
    async fn add(&self, left: u64, right: u64) -> Result<u64, Status> {
        left.checked_add(right).ok_or_else(|| Status::out_of_range("too large"))
    }
    async fn sum(&self, mut items: Streaming<u64>) -> Result<u64, Status> {
        let mut sum = 0;
        while let Some(item) = items.next().await {
            sum += item?;
        }
        Ok(sum)
    }
    async fn count(&self, to: u64) -> Result<Streaming<u64>, Status> {
        Ok(Streaming::iter(0..to))
    }
    async fn double(&self, items: Streaming<u64>) -> Result<Streaming<u64>, Status> {
        Ok(Streaming::from(futures_util::StreamExt::map(items, |item| {
            item.map(|item| 2 * item)
        })))
    }
    async fn who(&self, cx: &Cx) -> Result<String, Status> {
        cx.set_trailer("by", self.0).map_err(|error| Status::internal(error.to_string()))?;
        Ok(format!(
            "{} {}",
            self.0,
            cx.metadata().get("asked-by").unwrap_or("nobody")
        ))
    }
}

impl Other for Machine {
    async fn add(&self, left: u64, right: u64) -> u64 {
        left * 1_000 + right
    }
}

/// All kinds of calls, through whatever stands between.
async fn works(client: &AdderClient) {
    assert_eq!(client.add(1, 2).await.unwrap(), 3);
    assert_eq!(
        client.add(u64::MAX, 2).await.unwrap_err(),
        Status::out_of_range("too large")
    );
    assert_eq!(client.sum(Streaming::iter(0..1_000)).await.unwrap(), 499_500);
    assert_eq!(client.count(1_000).await.unwrap().collect().await.unwrap().len(), 1_000);
    let doubled = client.double(Streaming::iter([1, 2, 3])).await.unwrap();
    assert_eq!(doubled.collect().await.unwrap(), [2, 4, 6]);
    assert_eq!(client.who().metadata("asked-by", "me").await.unwrap(), "machine me");
    // One at a time, so that nothing in between may collect items.
    let (sender, items) = Streaming::channel(1);
    let mut doubled = client.double(items).await.unwrap();
    for item in 0..5 {
        sender.send(item).await.unwrap();
        assert_eq!(doubled.next().await.unwrap().unwrap(), 2 * item);
    }
    drop(sender);
    assert!(doubled.next().await.is_none());
}

#[tokio::test]
async fn many_services_share_a_server() {
    let server = Server::builder()
        .service(AdderServer::new(Machine("machine")))
        .service(OtherServer::new(Machine("machine")));
    let served = Fixture::Tcp.serve(server).await;
    let adder = AdderClient::from_channel(served.channel.clone());
    let other = OtherClient::from_channel(served.channel.clone());
    bounded(works(&adder)).await;
    assert_eq!(
        other.add(1, 2).await.unwrap(),
        1_002,
        "equal method names are kept apart"
    );
    assert_eq!(served.serving.connections(), 1, "one channel, one connection");
}

#[tokio::test]
async fn the_same_service_twice_is_refused() {
    let server = Server::builder().service(AdderServer::new(Machine("a"))).service(AdderServer::new(Machine("b")));
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ServerError::Collision(_)));
    assert!(
        error.to_string().contains("routing.Adder/add is served twice"),
        "{error}"
    );
    assert!(matches!(Server::builder().start().await, Err(ServerError::NoService)));
}

#[service(name = "routing.Adder")]
pub(crate) trait AdderByAlias {
    async fn plus(&self, left: u64, right: u64) -> u64;
}

#[service(name = "old.Adder")]
pub(crate) trait AdderOfOld {
    #[rpc(name = "sum")]
    async fn renamed(&self, left: u64, right: u64) -> u64;
}

#[tokio::test]
async fn a_method_answers_under_its_aliases() {
    let served = Fixture::Mem.serve(Server::builder().service(AdderServer::new(Machine("machine")))).await;
    for channel in [
        served.channel.clone(),
        Channel::local(AdderServer::new(Machine("machine"))),
    ] {
        assert_eq!(
            AdderByAliasClient::from_channel(channel.clone()).plus(1, 2).await.unwrap(),
            3
        );
        assert_eq!(AdderOfOldClient::from_channel(channel).renamed(1, 2).await.unwrap(), 3);
    }
}

#[tokio::test]
async fn a_fallback_sees_what_no_service_has() {
    let server = Server::builder().service(AdderServer::new(Machine("machine"))).fallback(
        |cx: Cx, request: ServerRequest| async move {
            let seen = format!("{:#x} with {} bytes", cx.method_id(), request.arguments().len());
            Err(Status::unimplemented(seen))
        },
    );
    let served = Fixture::Tcp.serve(server).await;
    assert_eq!(
        AdderClient::from_channel(served.channel.clone()).add(1, 2).await.unwrap(),
        3
    );
    let status = OtherClient::from_channel(served.channel.clone()).add(1, 2).await.unwrap_err();
    let id = sinew::wire::method_id("routing.Other/add");
    assert_eq!(status.message(), format!("{id:#x} with 3 bytes"));
}

/// What a caller says the path is may decide who is let in: it has to be the method's.
#[tokio::test]
async fn a_path_that_is_not_the_methods_is_refused() {
    let asked = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&asked);
    let server = Server::builder().fallback(move |cx: Cx, _: ServerRequest| {
        seen.lock().unwrap().push(cx.path().to_owned());
        async { Err(Status::not_found("asked")) }
    });
    let server = server.start().await.unwrap();
    let (ours, theirs) = Fixture::Mem.ends().await;
    server.accept(theirs);
    let mut hand = Hand::greet(ours, &[]).await;
    let (secret, public) = ("admin/delete", "public/list");
    for (stream, method, path, code) in [
        (1, secret, public, Code::InvalidArgument),
        (2, secret, secret, Code::NotFound),
        (3, public, public, Code::NotFound),
    ] {
        let mut head = sinew::wire::method_id(method).to_be_bytes().to_vec();
        head.extend_from_slice(&[0; 4]);
        let entry = [
            &[10][..],
            b"sinew-path",
            &[0, u8::try_from(path.len()).unwrap()],
            path.as_bytes(),
        ]
        .concat();
        head.extend_from_slice(&u16::try_from(entry.len()).unwrap().to_be_bytes());
        head.extend_from_slice(&entry);
        head.extend_from_slice(&message(&[0x90]));
        hand.send(OPEN | FIN, stream, &head).await;
        let end = hand.read_kind(END).await.unwrap();
        assert_eq!((end.stream, end.payload[0]), (stream, code.as_u8()));
    }
    assert_eq!(*asked.lock().unwrap(), [secret, public]);
}

/// A proxy is a fallback that forwards: it knows no types, and everything passes in both directions.
#[tokio::test]
async fn a_proxy_forwards_calls_and_streams() {
    let upstream = Fixture::Unix.serve(Server::builder().service(AdderServer::new(Machine("machine")))).await;
    let to = upstream.channel.clone();
    let proxy = Server::builder().fallback(move |cx: Cx, request: ServerRequest| {
        let to = to.clone();
        async move { to.forward(&cx, request).await }
    });
    let front = Fixture::Tcp.serve(proxy).await;
    let client = AdderClient::from_channel(front.channel.clone());
    bounded(works(&client)).await;
    let (_, meta) = client.who().with_meta().await.unwrap();
    assert_eq!(meta.trailers().get("by"), Some("machine"));
    let status = OtherClient::from_channel(front.channel.clone()).add(1, 2).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    // A deadline reaches the far server and comes back as one status.
    let (_sender, silent) = Streaming::channel(1);
    let status = client.sum(silent).timeout("50ms").await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    crate::support::until("no handler is left", || upstream.serving.running_handlers() == 0).await;
}

/// A unary call stays one on its way through a proxy: what the upstream server provably did not take up is sent again.
#[tokio::test]
async fn a_proxy_sends_again_what_was_not_taken_up() {
    let (upstream, mut connections) = crate::support::hand::channel_to_hand(Fixture::Mem);
    let proxy = Server::builder().fallback(move |cx: Cx, request: ServerRequest| {
        let to = upstream.clone();
        async move { to.forward(&cx, request).await }
    });
    let front = Fixture::Mem.serve(proxy).await;
    let client = OtherClient::from_channel(front.channel.clone());
    let call = tokio::spawn(client.add(1, 2).into_future());
    let mut hand = Hand::greet(connections.recv().await.unwrap(), &[]).await;
    let first = hand.read_kind(OPEN).await.unwrap();
    assert!(first.fin, "nothing follows the arguments");
    // Refused: it was not processed.
    hand.send(crate::support::hand::RESET, first.stream, &[0, 0, 0, 2]).await;
    let again = hand.read_kind(OPEN).await.unwrap();
    hand.reply(crate::support::hand::REPLY | FIN, again.stream, &message(&[7])).await;
    assert_eq!(bounded(call).await.unwrap().unwrap(), 7);
}

async fn twice(adder: &impl Adder, left: u64, right: u64) -> Result<u64, Status> {
    Ok(adder.add(left, right).await? * 2)
}

#[tokio::test]
async fn a_client_a_handler_a_mock_and_an_object_are_all_the_service() {
    let served = Fixture::Tcp.serve(Server::builder().service(AdderServer::new(Machine("machine")))).await;
    let client = AdderClient::from_channel(served.channel.clone());
    let mock = AdderMock::new().add(|left, right| async move { Ok(left + right) });
    let object: Arc<dyn DynAdder> = Arc::new(Machine("machine"));
    assert_eq!(twice(&Machine("machine"), 1, 2).await.unwrap(), 6);
    assert_eq!(twice(&client, 1, 2).await.unwrap(), 6);
    assert_eq!(twice(&mock, 1, 2).await.unwrap(), 6);
    assert_eq!(twice(&object, 1, 2).await.unwrap(), 6);
    assert_eq!(
        twice(&client, u64::MAX, 2).await.unwrap_err(),
        Status::out_of_range("too large")
    );
    // An object serves like any handler, and a client serves as a typed proxy.
    bounded(works(&AdderClient::local(object))).await;
    bounded(works_without_metadata(&AdderClient::local(client))).await;
    let unset = AdderClient::local(mock).count(1).await.unwrap_err();
    assert_eq!(unset.code(), Code::Unimplemented);
    assert!(unset.message().contains("count"), "{unset}");
}

/// A typed proxy passes arguments on, and metadata only when that is asked for.
async fn works_without_metadata(client: &AdderClient) {
    assert_eq!(client.add(1, 2).await.unwrap(), 3);
    assert_eq!(client.sum(Streaming::iter(0..1_000)).await.unwrap(), 499_500);
    assert_eq!(client.count(1_000).await.unwrap().collect().await.unwrap().len(), 1_000);
    let doubled = client.double(Streaming::iter([1, 2, 3])).await.unwrap();
    assert_eq!(doubled.collect().await.unwrap(), [2, 4, 6]);
    assert_eq!(client.who().metadata("asked-by", "me").await.unwrap(), "machine nobody");
}

/// The answer to the wrong type is an error of that call, not of the connection.
#[service(name = "routing.Other")]
pub(crate) trait WrongOther {
    async fn add(&self, left: String, right: u64) -> u64;
}

#[service(name = "routing.Other")]
pub(crate) trait WronglyReadOther {
    async fn add(&self, left: u64, right: u64) -> String;
}

#[tokio::test]
async fn wrong_types_fail_their_own_call() {
    let served = Fixture::Tcp.serve(Server::builder().service(OtherServer::new(Machine("machine")))).await;
    for channel in [
        served.channel.clone(),
        Channel::local(OtherServer::new(Machine("machine"))),
    ] {
        let wrong = WrongOtherClient::from_channel(channel.clone()).add("one".to_owned(), 2).await.unwrap_err();
        assert_eq!(wrong.code(), Code::InvalidArgument);
        assert!(wrong.message().contains("left"), "names the argument: {wrong}");
        let wrong = WronglyReadOtherClient::from_channel(channel.clone()).add(1, 2).await.unwrap_err();
        assert_eq!(wrong.code(), Code::Internal);
        assert_eq!(OtherClient::from_channel(channel).add(1, 2).await.unwrap(), 1_002);
    }
    assert_eq!(served.serving.connections(), 1);
}
