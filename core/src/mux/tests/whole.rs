//! Calls that arrive whole are answered past the table of streams; whatever else happens to them finds them in it.

use std::time::Duration;

use super::pair::noop;
use super::raw::{CREDIT, DATA, END, FIN, REPLY, RESET, Raw, frame, head, message, open};
use crate::metadata::Metadata;
use crate::mux::{EndCause, MuxConfig, Role, StreamKey};
use crate::wire::frame::ErrorCode;
use crate::wire::message::EncodedMessage;

/// A server with as many whole calls, of streams 1, 2, ...
fn server_with(calls: u32) -> (Raw, Vec<StreamKey>) {
    let mut raw = Raw::server();
    let frames: Vec<u8> = (1..=calls).flat_map(|id| open(id, &message(b"x"), true)).collect();
    raw.feed(&frames);
    let keys = raw.calls().into_iter().map(|(key, _)| key).collect::<Vec<_>>();
    assert_eq!(
        (keys.len(), raw.side.mux.open_streams()),
        (calls as usize, calls as usize)
    );
    (raw, keys)
}

fn reply(raw: &mut Raw, key: StreamKey, bytes: usize) {
    let message = EncodedMessage::from_encoded(bytes::Bytes::from(vec![7; bytes]));
    raw.side.mux.reply(key, &Metadata::new(), &message, &Metadata::new());
}

/// The streams of the frames that were sent, by kind.
fn sent(raw: &mut Raw, kind: u8) -> Vec<u32> {
    let frames = raw.frames().into_iter();
    frames.filter(|(found, ..)| *found == kind).map(|(_, id, _)| id).collect()
}

#[test]
fn answers_in_any_order_end_their_calls() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2], [0, 3, 1, 2]] {
        let (mut raw, keys) = server_with(4);
        for at in order {
            reply(&mut raw, keys[at], 5);
            // A second answer finds nothing to answer.
            reply(&mut raw, keys[at], 5);
        }
        assert_eq!(
            sent(&mut raw, REPLY | FIN),
            order.map(|at| u32::try_from(at + 1).unwrap())
        );
        assert_eq!(raw.side.mux.open_streams(), 0);
        raw.expect_alive();
    }
}

#[test]
fn large_and_failed_answers_find_their_streams() {
    let (mut raw, keys) = server_with(3);
    reply(&mut raw, keys[0], 50_000);
    raw.side.mux.finish_call(keys[1], None, &Metadata::new());
    raw.side.mux.refuse_call(keys[2]);
    let kinds: Vec<_> = raw.frames().into_iter().map(|(kind, id, _)| (kind, id)).collect();
    assert_eq!(
        kinds,
        [(REPLY, 1), (END | FIN, 2), (RESET, 3), (DATA, 1), (DATA | FIN, 1)]
    );
    assert_eq!(raw.side.mux.open_streams(), 0);
}

#[test]
fn a_reset_ends_one_of_them() {
    let (mut raw, keys) = server_with(3);
    raw.feed(&frame(RESET, 2, &0_u32.to_be_bytes()));
    let ended: Vec<_> = raw.side.events.ended.drain(..).map(|ended| (ended.key, ended.cause)).collect();
    assert_eq!(ended, [(keys[1], EndCause::Cancelled)]);
    for key in keys {
        reply(&mut raw, key, 5);
    }
    assert_eq!(sent(&mut raw, REPLY | FIN), [1, 3]);
}

#[test]
fn their_deadlines_pass() {
    let mut raw = Raw::server();
    let opened = |id: u32, timeout| frame(1 | FIN, id, &[head(timeout), message(b"x")].concat());
    raw.feed(&[opened(1, 0), opened(2, 100), opened(3, 5_000)].concat());
    let keys: Vec<_> = raw.calls().into_iter().map(|(key, _)| key).collect();
    assert!(raw.side.mux.next_timeout().is_some_and(|at| at <= raw.now + Duration::from_millis(100)));
    // The server's own limit is earlier than what the client allows.
    raw.side.mux.limit_deadline(keys[2], raw.now + Duration::from_millis(50));
    assert!(raw.side.mux.next_timeout().is_some_and(|at| at <= raw.now + Duration::from_millis(50)));
    raw.now += Duration::from_millis(100);
    raw.side.mux.handle_timeout(raw.now, &mut raw.side.events);
    let ended: Vec<_> = raw.side.events.ended.drain(..).map(|ended| (ended.key, ended.cause)).collect();
    let cause = EndCause::DeadlineExceeded;
    assert_eq!(ended, [(keys[1], cause), (keys[2], cause)]);
    assert_eq!(raw.side.mux.open_streams(), 1);
}

#[test]
fn credit_and_late_bytes_reach_them() {
    let (mut raw, keys) = server_with(2);
    // A body of what the client gave, and one that needs the credit of a frame that came meanwhile.
    raw.feed(&frame(CREDIT, 2, &100_000_u32.to_be_bytes()));
    raw.feed(&frame(CREDIT, 0, &1_000_000_u32.to_be_bytes()));
    reply(&mut raw, keys[0], 65_536);
    reply(&mut raw, keys[1], 65_536);
    assert_eq!(raw.side.mux.open_streams(), 2);
    assert_eq!(
        sent(&mut raw, DATA | FIN),
        [2],
        "the first one waits for the last bytes of its credit"
    );
    assert_eq!(raw.side.mux.open_streams(), 1);

    let (mut raw, _keys) = server_with(1);
    raw.feed(&frame(DATA, 1, b"more"));
    assert_eq!(raw.end_code(1), 3, "bytes behind the end break a rule");
    raw.expect_alive();
}

#[test]
fn they_count_as_streams_and_end_with_the_connection() {
    let config = MuxConfig {
        max_streams: 16,
        ..MuxConfig::default()
    };
    let mut raw = Raw::started(Role::Server, config);
    for id in 1..=17 {
        raw.feed(&open(id, &message(b"x"), true));
    }
    assert_eq!((sent(&mut raw, RESET), raw.side.mux.open_streams()), (vec![17], 16));
    raw.side.mux.handle_end("the socket closed", &mut raw.side.events);
    assert_eq!((raw.side.events.ended.len(), raw.side.mux.open_streams()), (16, 0));
    let (key, _) = raw.calls()[0];
    reply(&mut raw, key, 5);
    assert_eq!(raw.frames(), []);
    assert!(raw.side.mux.poll_send_ready(key, &noop()).is_ready());
    assert_eq!(raw.side.mux.end().map(|end| end.code()), Some(ErrorCode::Internal));
}
