//! Tests of streams and application errors.

use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{AppError, Batch, Body, CallError, FromStatus, ReplyShape, Streaming, app_status};
use crate::code::Code;
use crate::method::{Encoding, MethodKind, MethodSpec};
use crate::status::Status;

static SPEC: MethodSpec = MethodSpec::new("a/b", 1, MethodKind::ServerStreaming);

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Failure {
    OutOfStock { sku: String },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("out of stock")
    }
}

impl AppError for Failure {
    type OnClient = CallError<Self>;

    fn code(&self) -> Code {
        Code::FailedPrecondition
    }

    fn into_status(self) -> Status {
        app_status(self.code(), Some(false), &self)
    }
}

fn stream_of<T: super::Wire>(items: Streaming<T>) -> Streaming<T> {
    let (_, body, _) = items.into_reply(&SPEC).unwrap().into_parts();
    assert!(matches!(body, Body::Stream(_)));
    Streaming::from_body(body, &SPEC).unwrap()
}

#[tokio::test]
async fn items_survive_the_encoded_form() {
    let items = stream_of(Streaming::iter(0..100_000_u32));
    let read = items.collect().await.unwrap();
    assert_eq!(read, (0..100_000).collect::<Vec<u32>>());
}

#[tokio::test]
async fn large_bytes_travel_alone_and_in_order() {
    let large = Bytes::from(vec![1; 100_000]);
    let small = Bytes::from_static(b"small");
    let sent = vec![
        small.clone(),
        large.clone(),
        small.clone(),
        large.clone(),
        large.clone(),
    ];
    let read = stream_of(Streaming::iter(sent.clone())).collect().await.unwrap();
    assert_eq!(read, sent);
}

#[tokio::test]
async fn an_error_is_the_last_item_and_comes_after_the_items_before_it() {
    let (sender, items) = Streaming::channel(8);
    sender.send(1_u8).await.unwrap();
    sender.send(2).await.unwrap();
    sender.fail(Failure::OutOfStock { sku: "x".to_owned() }.into_status()).await;
    let mut items = stream_of(items);
    assert_eq!(items.next().await, Some(Ok(1)));
    assert_eq!(items.next().await, Some(Ok(2)));
    let status = items.next().await.unwrap().unwrap_err();
    assert_eq!(
        status.app::<Failure>(),
        Some(Failure::OutOfStock { sku: "x".to_owned() })
    );
    assert!(items.next().await.is_none());
}

#[test]
fn a_batch_leaves_when_nothing_more_is_ready() {
    let (sender, items) = Streaming::channel(8);
    let mut messages = items.into_messages(Encoding::Named);
    let mut task = Context::from_waker(Waker::noop());
    let mut batch = Batch::default();
    assert!(messages.poll_fill(&mut task, &mut batch).is_pending());
    let mut sending = std::pin::pin!(sender.send(7_u8));
    assert!(Future::poll(sending.as_mut(), &mut task).is_ready());
    assert!(matches!(
        messages.poll_fill(&mut task, &mut batch),
        Poll::Ready(Ok(true))
    ));
    assert_eq!(batch.bytes, [0, 0, 0, 1, 7]);
}

#[test]
fn an_unknown_application_error_degrades_to_its_status() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Older {
        Known,
    }
    let status = Failure::OutOfStock { sku: "x".to_owned() }.into_status();
    assert!(!status.is_retryable());
    assert_eq!(
        CallError::<Failure>::from_status(status.clone()),
        CallError::App(Failure::OutOfStock { sku: "x".to_owned() })
    );
    match CallError::<Older>::from_status(status) {
        CallError::Status(status) => {
            assert_eq!(status.code(), Code::FailedPrecondition);
            assert_eq!(status.message(), "out of stock");
        }
        CallError::App(error) => panic!("{error:?}"),
    }
}
