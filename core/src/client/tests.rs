//! What a channel does when a connection cannot carry another call.

use std::io::IoSlice;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::Channel;
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
