//! The handlers.

use std::pin::Pin;
use std::task::{Context, Poll};

use load::messages::Echo;
use load::{compute_20us, sleep_1ms};
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::messages::bench_server::Bench;
use crate::messages::{BlobMessage, EchoMessage, Nothing, Number, UserMessage};

/// The service. It has no state.
pub(crate) struct Handler;

type Reply<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl Bench for Handler {
    type StreamStream = Items;
    type PingPongStream = Pongs;

    async fn echo(&self, request: Request<EchoMessage>) -> Reply<EchoMessage> {
        Ok(Response::new(request.into_inner()))
    }

    async fn user(&self, request: Request<UserMessage>) -> Reply<UserMessage> {
        Ok(Response::new(request.into_inner()))
    }

    async fn blob(&self, request: Request<BlobMessage>) -> Reply<BlobMessage> {
        Ok(Response::new(request.into_inner()))
    }

    async fn work20us(&self, request: Request<Number>) -> Reply<Number> {
        Ok(Response::new(Number {
            value: compute_20us(request.into_inner().value),
        }))
    }

    async fn sleep1ms(&self, _: Request<Nothing>) -> Reply<Nothing> {
        sleep_1ms().await;
        Ok(Response::new(Nothing {}))
    }

    async fn stream(&self, request: Request<Number>) -> Reply<Items> {
        let message = EchoMessage::from(&Echo::sample());
        Ok(Response::new(Items {
            left: request.into_inner().value,
            message,
        }))
    }

    async fn ping_pong(&self, request: Request<Streaming<EchoMessage>>) -> Reply<Pongs> {
        Ok(Response::new(Pongs(request.into_inner())))
    }
}

/// The items of a server stream; always ready, so that tonic puts as many into a frame as it will.
pub(crate) struct Items {
    left: u64,
    message: EchoMessage,
}

impl Stream for Items {
    type Item = Result<EchoMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        Poll::Ready(Some(Ok(self.message.clone())))
    }
}

/// Sends back what comes in.
pub(crate) struct Pongs(Streaming<EchoMessage>);

impl Stream for Pongs {
    type Item = Result<EchoMessage, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut self.0).poll_next(cx)
    }
}
