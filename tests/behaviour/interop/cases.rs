//! The cases with a good server.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use sinew::{CancelCause, Code, Limits, Streaming};

use super::service::{
    ECHO_INITIAL, ECHO_TRAILING, EchoStatus, NewerTestServiceClient, OutputRequest, SimpleRequest, TestServiceClient,
    UnimplementedServiceClient, start, start_with, zeros,
};
use crate::support::fixture::Fixture;
use crate::support::probe::Event;
use crate::support::{across_fixtures, until};

across_fixtures!(
    empty_unary,
    large_unary,
    client_streaming,
    server_streaming,
    ping_pong,
    empty_stream,
    custom_metadata,
    status_code_and_message,
    special_status_message,
    unimplemented_method,
    unimplemented_service,
    cancel_after_begin,
    cancel_after_first_response,
    timeout_on_sleeping_server,
    rpc_soak,
    channel_soak,
    concurrent_large_unary,
    long_lived_channel,
    cancel_before_start,
    cancel_after_first_message,
    timeout_just_not_expired,
    thousands_of_simultaneous_timeouts,
    over_max_streams_waits,
    head_of_63_kib,
    server_responds_before_any_request,
    pushback_on_both_sides,
);

const REQUEST_SIZES: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSE_SIZES: [usize; 4] = [31_415, 9, 2_653, 58_979];

async fn empty_unary(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    client.empty_call().await.unwrap();
}

fn large_request() -> SimpleRequest {
    SimpleRequest {
        response_size: 314_159,
        payload: zeros(271_828),
        response_status: None,
    }
}

async fn call_large(client: &TestServiceClient) -> Result<(), String> {
    let call = client.unary_call(large_request()).timeout("60s");
    match call.await {
        Ok(body) if body.len() == 314_159 && body.iter().all(|byte| *byte == 0) => Ok(()),
        Ok(body) => Err(format!("{} bytes came back", body.len())),
        Err(status) => Err(status.to_string()),
    }
}

async fn large_unary(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    call_large(&client).await.unwrap();
}

async fn client_streaming(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let sum = client.streaming_input_call(Streaming::iter(REQUEST_SIZES.map(zeros))).await;
    assert_eq!(sum.unwrap(), 74_922);
}

async fn server_streaming(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let request = OutputRequest {
        response_sizes: RESPONSE_SIZES.to_vec(),
        ..OutputRequest::default()
    };
    let responses = client.streaming_output_call(request).await.unwrap().collect().await.unwrap();
    let sizes: Vec<usize> = responses.iter().map(Bytes::len).collect();
    assert_eq!(sizes, RESPONSE_SIZES);
}

fn request_for(request_size: usize, response_size: usize) -> OutputRequest {
    OutputRequest {
        response_sizes: vec![response_size],
        payload: zeros(request_size),
        response_status: None,
    }
}

async fn ping_pong(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let (sender, requests) = Streaming::channel(1);
    let mut responses = client.full_duplex_call(requests).await.unwrap();
    for (request, response) in REQUEST_SIZES.into_iter().zip(RESPONSE_SIZES) {
        sender.send(request_for(request, response)).await.unwrap();
        assert_eq!(responses.next().await.unwrap().unwrap().len(), response);
    }
    drop(sender);
    assert!(responses.next().await.is_none());
}

async fn empty_stream(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let mut responses = client.full_duplex_call(Streaming::empty()).await.unwrap();
    assert!(responses.next().await.is_none());
}

async fn custom_metadata(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let (initial, trailing) = ("test_initial_metadata_value", [0xab, 0xab, 0xab]);
    let call = client.unary_call(large_request()).timeout("60s");
    let call = call.metadata(ECHO_INITIAL, initial).metadata(ECHO_TRAILING, trailing);
    let (_, meta) = call.with_meta().await.unwrap();
    assert_eq!(meta.metadata().get(ECHO_INITIAL), Some(initial));
    assert_eq!(meta.trailers().get_bytes(ECHO_TRAILING), Some(&trailing[..]));

    let requests = Streaming::iter([request_for(271_828, 314_159)]);
    let call = client.full_duplex_call(requests).metadata(ECHO_INITIAL, initial).metadata(ECHO_TRAILING, trailing);
    let (mut responses, meta) = call.with_meta().await.unwrap();
    assert_eq!(meta.metadata().get(ECHO_INITIAL), Some(initial));
    assert_eq!(responses.next().await.unwrap().unwrap().len(), 314_159);
    assert!(responses.trailers().is_empty(), "not before the end");
    assert!(responses.next().await.is_none());
    assert_eq!(responses.trailers().get_bytes(ECHO_TRAILING), Some(&trailing[..]));
}

async fn fails_alike(client: &TestServiceClient, code: Code, message: &str) {
    let status = EchoStatus {
        code: code.as_u8(),
        message: message.to_owned(),
    };
    let request = SimpleRequest {
        response_status: Some(status.clone()),
        ..SimpleRequest::default()
    };
    let failed = client.unary_call(request).await.unwrap_err();
    assert_eq!((failed.code(), failed.message()), (code, message));

    let request = OutputRequest {
        response_status: Some(status),
        ..OutputRequest::default()
    };
    let mut responses = client.full_duplex_call(Streaming::iter([request])).await.unwrap();
    let failed = responses.next().await.unwrap().unwrap_err();
    assert_eq!((failed.code(), failed.message()), (code, message));
    assert!(responses.next().await.is_none(), "an error is the last item");
}

async fn status_code_and_message(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    fails_alike(&client, Code::Unknown, "test status message").await;
}

async fn special_status_message(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let message = "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";
    fails_alike(&client, Code::Unknown, message).await;
}

async fn unimplemented_method(fixture: Fixture) {
    let (client, served, _) = start(fixture).await;
    let newer = NewerTestServiceClient::from_channel(served.channel.clone());
    assert_eq!(
        newer.unimplemented_call().await.unwrap_err().code(),
        Code::Unimplemented
    );
    client.empty_call().await.unwrap();
}

async fn unimplemented_service(fixture: Fixture) {
    let (client, served, _) = start(fixture).await;
    let other = UnimplementedServiceClient::from_channel(served.channel.clone());
    assert_eq!(
        other.unimplemented_call().await.unwrap_err().code(),
        Code::Unimplemented
    );
    client.empty_call().await.unwrap();
}

async fn cancel_after_begin(fixture: Fixture) {
    let (client, served, mut events) = start(fixture).await;
    let (_sender, requests) = Streaming::channel(1);
    let call = tokio::spawn(client.streaming_input_call(requests).into_future());
    assert_eq!(events.next().await, Event::Began);
    call.abort();
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    until("no handler is left", || served.serving.running_handlers() == 0).await;
    client.empty_call().await.unwrap();
}

async fn cancel_after_first_response(fixture: Fixture) {
    let (client, served, mut events) = start(fixture).await;
    let (sender, requests) = Streaming::channel(1);
    let mut responses = client.full_duplex_call(requests).await.unwrap();
    sender.send(request_for(27_182, 31_415)).await.unwrap();
    assert_eq!(responses.next().await.unwrap().unwrap().len(), 31_415);
    assert_eq!(events.next().await, Event::Began);
    drop(responses);
    sender.closed().await;
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    until("no handler is left", || served.serving.running_handlers() == 0).await;
    client.empty_call().await.unwrap();
}

async fn timeout_on_sleeping_server(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let (sender, requests) = Streaming::channel(1);
    let _unread = sender.send(request_for(27_182, 0)).await;
    let (_sleeps, silent) = (sender, requests);
    let status = match client.full_duplex_call(silent).timeout("1ms").await {
        Err(status) => status,
        Ok(mut responses) => loop {
            // The echo of the empty response may make it in time; nothing ends the stream but the deadline.
            if let Err(status) = responses.next().await.expect("only the deadline ends it") {
                break status;
            }
        },
    };
    assert_eq!(status.code(), Code::DeadlineExceeded);
    client.empty_call().await.unwrap();
}

/// Runs to the end and judges afterwards, so that one failure shows all.
async fn rpc_soak(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let mut failures = Vec::new();
    for _ in 0..fixture.rounds(100) {
        failures.extend(call_large(&client).await.err());
    }
    assert_eq!(failures, Vec::<String>::new());
}

async fn channel_soak(fixture: Fixture) {
    for _ in 0..fixture.rounds(20) {
        let (client, _served, _) = start(fixture).await;
        call_large(&client).await.unwrap();
    }
}

async fn concurrent_large_unary(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    // Byte by byte, more would take longer than keepalive has patience with a peer that is busy.
    let count = if fixture == Fixture::TcpByOneByte { 4 } else { 1_000 };
    let calls = (0..count).map(|_| call_large(&client));
    let failures: Vec<String> = join_all(calls).await.into_iter().filter_map(Result::err).collect();
    assert_eq!(failures, Vec::<String>::new());
}

async fn long_lived_channel(fixture: Fixture) {
    let (client, served, _) = start(fixture).await;
    for _ in 0..3 {
        client.empty_call().await.unwrap();
        tokio::task::yield_now().await;
        assert_eq!(served.serving.connections(), 1, "the same connection serves all calls");
    }
}

async fn cancel_before_start(fixture: Fixture) {
    let (client, served, mut events) = start(fixture).await;
    drop(client.sleep_call());
    drop(client.sleep_call().into_future());
    client.empty_call().await.unwrap();
    assert!(events.is_empty(), "a call that was never polled was never sent");
    assert_eq!(served.serving.running_handlers(), 0);
}

async fn cancel_after_first_message(fixture: Fixture) {
    let (client, served, mut events) = start(fixture).await;
    let (sender, requests) = Streaming::channel(1);
    let call = tokio::spawn(client.streaming_input_call(requests).into_future());
    sender.send(zeros(27_182)).await.unwrap();
    assert_eq!(events.next().await, Event::Began);
    call.abort();
    sender.closed().await;
    assert_eq!(events.next().await, Event::Dropped(Some(CancelCause::ClientCancelled)));
    until("no handler is left", || served.serving.running_handlers() == 0).await;
}

async fn timeout_just_not_expired(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    client.empty_call().timeout("30s").await.unwrap();
    client.empty_call().timeout(Duration::from_secs(u64::MAX)).await.unwrap();
}

async fn thousands_of_simultaneous_timeouts(fixture: Fixture) {
    let (client, served, _) = start(fixture).await;
    let calls = (0..fixture.rounds(3_000)).map(|_| client.sleep_call().timeout("50ms").into_future());
    for result in join_all(calls).await {
        assert_eq!(result.unwrap_err().code(), Code::DeadlineExceeded);
    }
    until("no handler is left", || served.serving.running_handlers() == 0).await;
    client.empty_call().await.unwrap();
}

/// The server takes eight calls at a time; more wait for their turn.
async fn over_max_streams_waits(fixture: Fixture) {
    let limits = Limits {
        max_streams: 8,
        ..Limits::default()
    };
    let (client, served, mut events) = start_with(fixture, limits).await;
    client.empty_call().await.unwrap();
    let sleeping: Vec<_> = (0..20).map(|_| tokio::spawn(client.sleep_call().timeout("60s").into_future())).collect();
    for _ in 0..8 {
        assert_eq!(events.next().await, Event::Began);
    }
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    assert!(events.is_empty() && served.serving.running_handlers() == 8, "no ninth");
    let waiting: Vec<_> = (0..fixture.rounds(3_000))
        .map(|_| tokio::spawn(client.unary_call(SimpleRequest::default()).into_future()))
        .collect();
    for call in sleeping {
        call.abort();
    }
    for call in waiting {
        call.await.unwrap().unwrap();
    }
    until("no handler is left", || served.serving.running_handlers() == 0).await;
}

/// The limit of a head is 16 KiB by default: more fails that call alone, and nothing was sent.
async fn head_of_63_kib(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    client.empty_call().metadata("large", "x".repeat(15 * 1024)).await.unwrap();
    let refused = client.empty_call().metadata("large", "x".repeat(63 * 1024)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(refused.handler_ran(), sinew::HandlerRan::No);
    client.empty_call().await.unwrap();
}

async fn server_responds_before_any_request(fixture: Fixture) {
    let (client, _served, _) = start(fixture).await;
    let (sender, requests) = Streaming::channel(1);
    assert_eq!(client.early_call(requests).await.unwrap(), 1);
    sender.closed().await;
    client.empty_call().await.unwrap();
}

/// Both sides send more than all windows and queues hold; neither may stop the other for good.
async fn pushback_on_both_sides(fixture: Fixture) {
    let limits = Limits {
        stream_window: 64 * 1024,
        ..Limits::default()
    };
    let (client, _served, _) = start_with(fixture, limits).await;
    let (requests, size) = (fixture.rounds(200), 64 * 1024);
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let items = Streaming::iter((0..requests).map(move |_| {
        counter.fetch_add(1, Ordering::Relaxed);
        request_for(size, size)
    }));
    let mut responses = client.full_duplex_call(items).await.unwrap();
    // Both run into their limits before anything is read: the source is not asked any more.
    let mut before = 0;
    loop {
        for _ in 0..200 {
            tokio::task::yield_now().await;
        }
        let now = taken.load(Ordering::Relaxed);
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    assert!(
        before < requests || requests <= 20,
        "{before} of {requests} were taken though nothing was read"
    );
    let mut received = 0;
    while let Some(response) = responses.next().await {
        assert_eq!(response.unwrap().len(), size);
        received += 1;
    }
    assert_eq!(received, requests);
}
