//! The test service of gRPC's interop suite, as a trait.

use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use sinew::{Channel, Cx, Limits, Metadata, Server, Status, Streaming, service};

use crate::support::fixture::{Fixture, Served};
use crate::support::probe::{Events, Probe, probe};

/// Asks for response metadata with its own value.
pub(crate) const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
/// Asks for a trailer with its own value.
pub(crate) const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// A status that the server is to answer with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EchoStatus {
    pub(crate) code: u8,
    pub(crate) message: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SimpleRequest {
    pub(crate) response_size: usize,
    pub(crate) payload: Bytes,
    pub(crate) response_status: Option<EchoStatus>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct OutputRequest {
    pub(crate) response_sizes: Vec<usize>,
    pub(crate) payload: Bytes,
    pub(crate) response_status: Option<EchoStatus>,
}

#[service(name = "grpc.testing.TestService")]
pub(crate) trait TestService {
    async fn empty_call(&self);
    async fn unary_call(&self, cx: &Cx, request: SimpleRequest) -> Result<Bytes, Status>;
    async fn streaming_input_call(&self, cx: &Cx, requests: Streaming<Bytes>) -> Result<usize, Status>;
    async fn streaming_output_call(&self, request: OutputRequest) -> Result<Streaming<Bytes>, Status>;
    async fn full_duplex_call(&self, cx: &Cx, requests: Streaming<OutputRequest>) -> Result<Streaming<Bytes>, Status>;
    /// Answers before it reads anything.
    async fn early_call(&self, requests: Streaming<Bytes>) -> Result<usize, Status>;
    /// Never answers.
    async fn sleep_call(&self, cx: &Cx) -> Result<(), Status>;
}

/// What a newer client knows of the same service.
#[service(name = "grpc.testing.TestService")]
pub(crate) trait NewerTestService {
    async fn unimplemented_call(&self);
}

#[service(name = "grpc.testing.UnimplementedService")]
pub(crate) trait UnimplementedService {
    async fn unimplemented_call(&self);
}

pub(crate) struct TestServer {
    probe: Probe,
    pub(crate) calls: AtomicUsize,
}

/// A server of the test service, a client of it, and what its streaming handlers report.
pub(crate) async fn start(fixture: Fixture) -> (TestServiceClient, Served, Events) {
    start_with(fixture, Limits::default()).await
}

/// The same with these limits on both sides.
pub(crate) async fn start_with(fixture: Fixture, limits: Limits) -> (TestServiceClient, Served, Events) {
    let (probe, events) = probe();
    let server = TestServer {
        probe,
        calls: AtomicUsize::new(0),
    };
    let server = Server::builder().service(TestServiceServer::new(server)).limits(limits.clone());
    let served = fixture.serve_with(server, Channel::builder().limits(limits)).await;
    (TestServiceClient::from_channel(served.channel.clone()), served, events)
}

impl TestService for TestServer {
    async fn empty_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    async fn unary_call(&self, cx: &Cx, request: SimpleRequest) -> Result<Bytes, Status> {
        echo(cx)?;
        match request.response_status {
            Some(status) => Err(status_of(status)),
            None => Ok(zeros(request.response_size)),
        }
    }

    async fn streaming_input_call(&self, cx: &Cx, mut requests: Streaming<Bytes>) -> Result<usize, Status> {
        let _guard = self.probe.began(cx);
        let mut sum = 0;
        while let Some(request) = requests.next().await {
            sum += request?.len();
        }
        Ok(sum)
    }

    async fn streaming_output_call(&self, request: OutputRequest) -> Result<Streaming<Bytes>, Status> {
        Ok(Streaming::from(stream::iter(responses(request))))
    }

    async fn full_duplex_call(&self, cx: &Cx, requests: Streaming<OutputRequest>) -> Result<Streaming<Bytes>, Status> {
        let guard = self.probe.began(cx);
        echo(cx)?;
        let replies = requests.flat_map(move |request| {
            let _held_as_long_as_the_stream = &guard;
            stream::iter(match request {
                Ok(request) => responses(request),
                Err(status) => vec![Err(status)],
            })
        });
        Ok(Streaming::from(replies))
    }

    async fn early_call(&self, requests: Streaming<Bytes>) -> Result<usize, Status> {
        drop(requests);
        Ok(1)
    }

    async fn sleep_call(&self, cx: &Cx) -> Result<(), Status> {
        let _guard = self.probe.began(cx);
        std::future::pending().await
    }
}

fn responses(request: OutputRequest) -> Vec<Result<Bytes, Status>> {
    match request.response_status {
        Some(status) => vec![Err(status_of(status))],
        None => request.response_sizes.into_iter().map(|size| Ok(zeros(size))).collect(),
    }
}

fn status_of(status: EchoStatus) -> Status {
    Status::new(sinew::Code::from_u8(status.code), status.message)
}

pub(crate) fn zeros(size: usize) -> Bytes {
    Bytes::from(vec![0; size])
}

/// Sends the echo keys back, as the interop suite asks.
fn echo(cx: &Cx) -> Result<(), Status> {
    let wrong = |error: sinew::MetadataError| Status::internal(error.to_string());
    let asked: &Metadata = cx.metadata();
    if let Some(value) = asked.get_bytes(ECHO_INITIAL) {
        cx.set_reply_metadata(ECHO_INITIAL, value).map_err(wrong)?;
    }
    if let Some(value) = asked.get_bytes(ECHO_TRAILING) {
        cx.set_trailer(ECHO_TRAILING, value).map_err(wrong)?;
    }
    Ok(())
}
