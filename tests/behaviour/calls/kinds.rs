//! Arguments and returns of every kind, the same through a connection as through `local`.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sinew::wire::Body;
use sinew::{
    AppError, CallError, Code, Cx, HandlerRan, Next, Origin, Outcome, Server, Status, Streaming, interceptor, service,
};

use crate::support::bounded;
use crate::support::fixture::{Fixture, Served};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Order {
    id: u64,
    lines: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, thiserror::Error, Serialize, Deserialize, AppError)]
pub(crate) enum OrderError {
    #[error("no order {id}")]
    #[rpc(code = NotFound)]
    Missing { id: u64 },
    #[error("locked")]
    #[rpc(code = Unavailable, retry = never)]
    Locked,
    #[error("{0}")]
    #[rpc(status)]
    #[serde(skip)]
    Rpc(#[from] Status),
}

#[service(name = "kinds.Orders")]
pub(crate) trait Orders {
    async fn count(&self) -> u64;
    async fn nothing(&self);
    async fn status(&self, fail: bool) -> Result<u64, Status>;
    async fn own(&self, id: u64) -> Result<Order, OrderError>;
    async fn borrowed(
        &self,
        text: &str,
        raw: &[u8],
        order: &Order,
        maybe: Option<&str>,
        maybe_raw: Option<&[u8]>,
    ) -> String;
    async fn blob(&self, data: Bytes) -> Bytes;
    async fn defaults(
        &self,
        id: u64,
        #[rpc(reserved)] _gone: (),
        #[rpc(default = "eur")] currency: &str,
        #[rpc(default)] width: u32,
        depth: Option<u32>,
    ) -> String;
    async fn stream_own(&self, id: u64) -> Result<Streaming<u64>, OrderError>;
    async fn details(&self) -> Result<(), Status>;
    async fn later(&self) -> Result<u64, OrderError> {
        Err(Status::unimplemented("later").into())
    }
}

struct Shop;

impl Orders for Shop {
    async fn count(&self) -> u64 {
        7
    }
    async fn nothing(&self) {}
    async fn status(&self, fail: bool) -> Result<u64, Status> {
        if fail {
            Err(Status::failed_precondition("closed"))
        } else {
            Ok(1)
        }
    }
    async fn own(&self, id: u64) -> Result<Order, OrderError> {
        match id {
            0 => Err(OrderError::Missing { id }),
            1 => Err(OrderError::Locked),
            2 => Err(Status::aborted("race").into()),
            _ => Ok(Order {
                id,
                lines: vec!["one".to_owned()],
            }),
        }
    }
    async fn borrowed(
        &self,
        text: &str,
        raw: &[u8],
        order: &Order,
        maybe: Option<&str>,
        maybe_raw: Option<&[u8]>,
    ) -> String {
        format!("{text} {raw:?} {} {maybe:?} {maybe_raw:?}", order.id)
    }
    async fn blob(&self, data: Bytes) -> Bytes {
        data
    }
    async fn defaults(&self, id: u64, (): (), currency: &str, width: u32, depth: Option<u32>) -> String {
        format!("{id} {currency} {width} {depth:?}")
    }
    async fn stream_own(&self, id: u64) -> Result<Streaming<u64>, OrderError> {
        if id == 0 {
            return Err(OrderError::Missing { id });
        }
        let (sender, items) = Streaming::channel(4);
        tokio::spawn(async move {
            if sender.send(id).await.is_ok() {
                sender.fail(OrderError::Locked).await;
            }
        });
        Ok(items)
    }
    async fn details(&self) -> Result<(), Status> {
        let mut status = Status::invalid_argument("wrong").with_details(vec![1, 2, 3]).with_retryable(true);
        status.metadata_mut().insert("hint", "look up").unwrap();
        Err(status)
    }
}

/// The same test through a connection of each kind and through `local`.
async fn everywhere(test: impl AsyncFn(OrdersClient)) {
    for fixture in [Fixture::Tcp, Fixture::Unix, Fixture::Mem] {
        let Served { channel, serving } = fixture.serve(Server::builder().service(OrdersServer::new(Shop))).await;
        bounded(test(OrdersClient::from_channel(channel))).await;
        assert_eq!(serving.panics(), 0);
    }
    bounded(test(OrdersClient::local(Shop))).await;
}

#[tokio::test]
async fn plain_values_and_units_come_back() {
    everywhere(async |orders| {
        assert_eq!(orders.count().await.unwrap(), 7);
        orders.nothing().await.unwrap();
    })
    .await;
}

#[tokio::test]
async fn a_status_comes_back_as_it_was() {
    everywhere(async |orders| {
        assert_eq!(orders.status(false).await.unwrap(), 1);
        let failed = orders.status(true).await.unwrap_err();
        assert_eq!(failed, Status::failed_precondition("closed"));
        assert_eq!(failed.handler_ran(), HandlerRan::Yes);
        let failed = orders.details().await.unwrap_err();
        assert_eq!(
            (failed.code(), failed.details()),
            (Code::InvalidArgument, &[1, 2, 3][..])
        );
        assert_eq!(failed.metadata().get("hint"), Some("look up"));
        assert!(failed.is_retryable());
    })
    .await;
}

#[tokio::test]
async fn an_error_from_the_handler_says_that_it_came_from_the_peer() {
    everywhere(async |orders| {
        assert_eq!(orders.status(true).await.unwrap_err().origin(), Origin::Remote);
    })
    .await;
}

#[tokio::test]
async fn an_application_error_comes_back_typed() {
    everywhere(async |orders| {
        assert_eq!(orders.own(3).await.unwrap().id, 3);
        let missing = orders.own(0).await.unwrap_err();
        assert_eq!(missing.app(), Some(&OrderError::Missing { id: 0 }));
        assert_eq!(missing.code(), Code::NotFound);
        assert_eq!(missing.to_string(), "no order 0");
        assert_eq!(orders.own(1).await.unwrap_err(), CallError::App(OrderError::Locked));
        let bare = orders.own(2).await.unwrap_err();
        assert_eq!(bare.status(), Some(&Status::aborted("race")));
    })
    .await;
}

#[tokio::test]
async fn a_default_body_answers_where_the_handler_has_none() {
    everywhere(async |orders| {
        assert_eq!(orders.later().await.unwrap_err().code(), Code::Unimplemented);
    })
    .await;
}

#[tokio::test]
async fn a_stream_that_cannot_be_opened_fails_typed_and_an_opened_one_ends_typed() {
    everywhere(async |orders| {
        let refused = orders.stream_own(0).await.unwrap_err();
        assert_eq!(refused.app(), Some(&OrderError::Missing { id: 0 }));
        let mut items = orders.stream_own(5).await.unwrap();
        assert_eq!(items.next().await.unwrap().unwrap(), 5);
        let end = items.next().await.unwrap().unwrap_err();
        assert_eq!(end.code(), Code::Unavailable);
        assert_eq!(end.app::<OrderError>(), Some(OrderError::Locked));
        assert!(!end.is_retryable(), "the error's own rule");
        assert!(items.next().await.is_none());
    })
    .await;
}

#[tokio::test]
async fn borrowed_arguments_arrive() {
    everywhere(async |orders| {
        let order = Order { id: 9, lines: vec![] };
        let said = {
            let (text, raw) = (String::from("hi"), vec![1, 2]);
            // The call owns what it needs: the borrows end before it is awaited.
            orders.borrowed(&text, &raw, &order, None, Some(&[3]))
        };
        assert_eq!(said.await.unwrap(), "hi [1, 2] 9 None Some([3])");
        let empty = orders.borrowed("", &[], &order, Some(""), None).await.unwrap();
        assert_eq!(empty, " [] 9 Some(\"\") None");
    })
    .await;
}

#[tokio::test]
async fn bytes_of_every_size_come_back() {
    everywhere(async |orders| {
        for size in [
            0, 1, 255, 256, 4_095, 4_096, 4_097, 65_535, 65_536, 1_048_576, 4_000_000,
        ] {
            let data: Bytes = (0..size).map(|at| u8::try_from(at % 251).unwrap()).collect();
            assert_eq!(orders.blob(data.clone()).await.unwrap(), data, "{size} bytes");
        }
    })
    .await;
}

/// A message at the limit passes, one above it fails that call alone; both directions have the limit.
#[tokio::test]
async fn messages_above_the_limit_fail_their_own_call() {
    let server = Server::builder().service(OrdersServer::new(Shop)).max_message_bytes(100_000);
    let served = Fixture::Tcp.serve(server).await;
    let orders = OrdersClient::from_channel(served.channel.clone());
    orders.count().await.unwrap();
    // The argument list and the length of the byte string take six bytes.
    for (size, fits) in [(99_993, true), (99_994, true), (99_995, false)] {
        let result = orders.blob(Bytes::from(vec![1; size])).await;
        match result {
            Ok(data) => assert!(fits && data.len() == size, "{size}"),
            Err(status) => {
                assert!(!fits, "{size}: {status}");
                assert_eq!(status.code(), Code::ResourceExhausted);
                assert_eq!(status.handler_ran(), HandlerRan::No);
            }
        }
    }
    let small = sinew::Channel::builder().max_message_bytes(1_000).lazy(&served.serving.target()).unwrap();
    let orders = OrdersClient::from_channel(small);
    let status = orders.blob(Bytes::from(vec![1; 5_000])).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(orders.count().await.unwrap(), 7);
}

#[interceptor]
async fn remember_payload(cx: &mut Cx, next: impl Next) -> Outcome {
    let reply = next.run(cx).await?;
    let (metadata, body, trailers) = reply.into_parts();
    if let (Body::Received(payload), Some(seen)) = (&body, cx.get::<Seen>()) {
        let start = payload.as_ptr() as usize;
        *seen.0.lock().unwrap() = start..start + payload.len();
    }
    Ok(sinew::Reply::from_parts(metadata, body, trailers))
}

#[derive(Clone, Default)]
struct Seen(std::sync::Arc<std::sync::Mutex<std::ops::Range<usize>>>);

/// The bytes that the caller gets lie in the memory into which they were received.
#[tokio::test]
async fn a_top_level_bytes_is_not_copied_on_receipt() {
    let served = Fixture::Tcp.serve(Server::builder().service(OrdersServer::new(Shop))).await;
    let orders = OrdersClient::from_channel(served.channel.clone());
    let seen = Seen::default();
    let cx = Cx::new();
    cx.insert(seen.clone());
    let data = orders.blob(Bytes::from(vec![5; 200_000])).within(&cx).interceptor(remember_payload).await.unwrap();
    let at = data.as_ptr() as usize;
    let received = seen.0.lock().unwrap().clone();
    assert!(received.contains(&at), "{at:x} is outside of {received:x?}");
    // Through `local` nothing is received at all: the caller's own bytes reach the handler and come back.
    let local = OrdersClient::local(Shop);
    let sent = Bytes::from(vec![6; 200_000]);
    assert_eq!(local.blob(sent.clone()).await.unwrap().len(), sent.len());
}

#[service(name = "kinds.Orders")]
pub(crate) trait OldOrders {
    async fn defaults(&self, id: u64) -> String;
}

#[tokio::test]
async fn missing_arguments_have_their_defaults() {
    let served = Fixture::Mem.serve(Server::builder().service(OrdersServer::new(Shop))).await;
    let new = OrdersClient::from_channel(served.channel.clone());
    assert_eq!(new.defaults(1, "usd", 4, Some(2)).await.unwrap(), "1 usd 4 Some(2)");
    let old = OldOrdersClient::from_channel(served.channel.clone());
    assert_eq!(old.defaults(1).await.unwrap(), "1 eur 0 None");
}
