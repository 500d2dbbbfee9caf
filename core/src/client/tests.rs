//! What a channel does when a connection cannot carry another call.

use std::io::IoSlice;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::Channel;
use super::subchannel::Connector;
use crate::transport::error::ConnectError;
use crate::transport::io::{ByteStream, SharedWrite};
use crate::transport::mem::MemListener;
use crate::wire::frame::{FrameHeader, FrameType, HEADER_BYTES, PREFACE, StreamId, header};
use crate::wire::message::EncodedMessage;

/// Answers every call with nil, and notes its stream.
async fn answer(mut stream: ByteStream, seen: Arc<Mutex<Vec<u32>>>) {
    let say = |bytes: &[u8]| stream.writer.try_write_vectored(&[IoSlice::new(bytes)]).is_ok();
    assert!(say(&[
        &PREFACE[..],
        &header(FrameType::Hello, false, StreamId::CONNECTION, 1),
        &[0x80]
    ]
    .concat()));
    let mut preface = [0; PREFACE.len()];
    stream.reader.read_exact(&mut preface).await.unwrap();
    let mut bytes = [0; HEADER_BYTES];
    while stream.reader.read_exact(&mut bytes).await.is_ok() {
        let frame = FrameHeader::decode(bytes);
        let mut payload = vec![0; frame.len];
        stream.reader.read_exact(&mut payload).await.unwrap();
        if FrameType::from_kind(frame.kind) == Some(FrameType::Open) {
            seen.lock().unwrap().push(frame.stream.0);
            let reply = [0, 0, 0, 0, 0, 1, 0xc0];
            assert!(say(&[
                &header(FrameType::Reply, true, frame.stream, reply.len())[..],
                &reply
            ]
            .concat()));
        }
    }
}

/// A connection that has made its four billion calls is followed by another, and no call notices.
#[tokio::test]
async fn used_up_stream_ids_are_a_new_connection_and_no_failure() {
    let mut listener = MemListener::bind("client-ids").unwrap();
    let seen: [Arc<Mutex<Vec<u32>>>; 2] = Default::default();
    let of_servers = seen.clone();
    tokio::spawn(async move {
        for seen in of_servers {
            tokio::spawn(answer(listener.accept().await.unwrap(), seen));
        }
    });
    let channel = Channel::connect("mem:client-ids").await.unwrap();
    let call = || {
        let arguments = EncodedMessage::from_encoded(Bytes::from_static(&[0x90]));
        channel.call_raw("test/any", arguments, None, Some(Duration::from_secs(60)))
    };
    call().await.unwrap();
    {
        let connection = channel.current().unwrap();
        connection.batch(|mux| mux.skip_ids_to(StreamId(u32::MAX - 3)));
    }
    for _ in 0..5 {
        call().await.unwrap();
    }
    let [first, second] = seen.map(|seen| seen.lock().unwrap().clone());
    assert_eq!(first, [1, u32::MAX - 2, u32::MAX - 1]);
    assert_eq!(second, [1, 2, 3]);
}

/// The next connection, which is told that the server is there and nothing else.
async fn greeted(listener: &mut MemListener) -> ByteStream {
    let stream = listener.accept().await.unwrap();
    let hello = header(FrameType::Hello, false, StreamId::CONNECTION, 1);
    let greeting = [&PREFACE[..], &hello, &[0x80]].concat();
    assert!(stream.writer.try_write_vectored(&[IoSlice::new(&greeting)]).is_ok());
    stream
}

/// Reads all that a client says, and returns what it says last.
async fn last_frame(mut stream: ByteStream) -> Option<FrameType> {
    let mut preface = [0; PREFACE.len()];
    stream.reader.read_exact(&mut preface).await.unwrap();
    let (mut bytes, mut last) = ([0; HEADER_BYTES], None);
    while stream.reader.read_exact(&mut bytes).await.is_ok() {
        let frame = FrameHeader::decode(bytes);
        let mut payload = vec![0; frame.len];
        stream.reader.read_exact(&mut payload).await.ok()?;
        last = FrameType::from_kind(frame.kind);
    }
    last
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_the_rules_is_told_so_though_it_reads_late() {
    let mut listener = MemListener::bind("client-tells-why").unwrap();
    let channel = Channel::lazy("mem:client-tells-why").unwrap();
    // More than the pipe holds.
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let arguments = EncodedMessage::from_encoded(Bytes::from(vec![0xc0; 32 * 1024]));
            let channel = channel.clone();
            tokio::spawn(async move {
                let _outcome = channel.call_raw("test/any", arguments, None, Some(Duration::from_secs(60))).await;
            })
        })
        .collect();
    let server = greeted(&mut listener).await;
    channel.wait_ready().await.unwrap();
    let again = header(FrameType::Hello, false, StreamId::CONNECTION, 0);
    assert!(server.writer.try_write_vectored(&[IoSlice::new(&again)]).is_ok());
    for call in calls {
        call.await.unwrap();
    }
    assert_eq!(last_frame(server).await, Some(FrameType::GoAway));
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_closed_says_so_to_a_server_that_reads() {
    let mut listener = MemListener::bind("client-says-goodbye").unwrap();
    let channel = Channel::lazy("mem:client-says-goodbye").unwrap();
    let (connected, server) = tokio::join!(channel.wait_ready(), greeted(&mut listener));
    connected.unwrap();
    channel.shut_down();
    assert_eq!(last_frame(server).await, Some(FrameType::GoAway));
}

/// Its channel is closed while it connects, which fails at once.
struct ClosesItsChannel {
    channel: Arc<Mutex<Option<Channel>>>,
    attempts: Arc<AtomicU32>,
}

impl Connector for ClosesItsChannel {
    fn connect(&self) -> Pin<Box<dyn Future<Output = Result<ByteStream, ConnectError>> + Send + '_>> {
        Box::pin(async move {
            // One that goes on would keep the only thread for ever.
            assert!(self.attempts.fetch_add(1, Ordering::Relaxed) < 100, "it goes on");
            if let Some(channel) = self.channel.lock().unwrap().take() {
                channel.shut_down();
            }
            Err(ConnectError::Io {
                address: "test:closed".to_owned(),
                source: std::io::ErrorKind::ConnectionRefused.into(),
            })
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_is_closed_while_it_connects_lets_go_of_its_thread() {
    let (channel, attempts) = (Arc::default(), Arc::default());
    let connector = ClosesItsChannel {
        channel: Arc::clone(&channel),
        attempts: Arc::clone(&attempts),
    };
    let made = Channel::builder().with_connector("test:closed", connector).unwrap();
    *channel.lock().unwrap() = Some(made.clone());
    let _failed = made.wait_ready().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
}
