//! One test per rule of the wire's documentation, against hand-made frames.

use std::task::Poll;

use super::pair::{message as encoded, noop};
use super::raw::{
    CREDIT, DATA, END, FIN, GOAWAY, HELLO, OPEN, PING, PONG, REPLY, RESET, Raw, frame, head, hello, message, open,
    preface,
};
use crate::code::Code;
use crate::metadata::Metadata;
use crate::mux::{EndCause, Incoming, MuxConfig, OpenRequest, Role, StreamError, StreamKey};
use crate::wire::frame::ErrorCode;

fn client_call(raw: &mut Raw) -> StreamKey {
    let request = OpenRequest {
        method: 7,
        timeout: 0,
        deadline: None,
        metadata: &Metadata::new(),
        arguments: &encoded(3, 1),
        fin: true,
    };
    let key = raw.side.mux.open(raw.now, &request).unwrap();
    let _open = raw.frames();
    key
}

#[test]
fn both_sides_speak_at_once() {
    for role in [Role::Client, Role::Server] {
        let mut raw = Raw::silent(role, MuxConfig::default());
        raw.side.write_all();
        assert!(raw.side.sent.starts_with(&preface()));
        let frames = raw.frames();
        assert_eq!((frames.len(), frames[0].0, frames[0].1), (1, HELLO, 0));
    }
}

#[test]
fn a_preface_may_arrive_byte_by_byte_and_its_minor_version_is_free() {
    let mut raw = Raw::silent(Role::Server, MuxConfig::default());
    let mut bytes = preface();
    bytes[7] = 99;
    for byte in [bytes, hello()].concat() {
        assert!(!raw.side.mux.is_ready());
        raw.feed(&[byte]);
    }
    assert!(raw.side.mux.is_ready());
}

#[test]
fn strangers_and_other_major_versions_are_told_so() {
    let strangers: [(&[u8], ErrorCode, &str); 6] = [
        (b"GET / HTTP/1.1\r\n", ErrorCode::Protocol, "HTTP"),
        (b"PRI * HTTP/2.0\r\n\r\n", ErrorCode::Protocol, "HTTP/2"),
        (&[0x16, 0x03, 0x01, 0x02], ErrorCode::Protocol, "TLS"),
        (b"X", ErrorCode::Protocol, "sinew"),
        (b"\xF5SINEX", ErrorCode::Protocol, "sinew"),
        (b"\xF5SINEW\x02", ErrorCode::Version, "version 2"),
    ];
    for (bytes, code, hint) in strangers {
        let mut raw = Raw::silent(Role::Server, MuxConfig::default());
        raw.feed(bytes);
        assert!(raw.side.mux.end().unwrap().reason().contains(hint), "{hint}");
        raw.expect_end(code);
    }
}

#[test]
fn hello_comes_first_once_and_is_a_map() {
    let protocol = |bytes: Vec<u8>| {
        let mut raw = Raw::silent(Role::Server, MuxConfig::default());
        raw.feed(&[preface(), bytes].concat());
        raw.expect_end(ErrorCode::Protocol);
    };
    protocol(frame(PING, 0, &[0; 8]));
    protocol(open(1, &message(b"x"), true));
    protocol([hello(), hello()].concat());
    protocol(frame(HELLO, 0, &[0x93, 1, 2, 3]));
    protocol(frame(HELLO, 0, &[]));
    protocol(frame(HELLO, 0, &vec![0x80; 4 * 1024 + 1]));
    let claims_more = [&[0xdf, 0xff, 0xff, 0xff, 0xff][..], &[0xa1, b'a', 0xc0]].concat();
    protocol(frame(HELLO, 0, &claims_more));
}

#[test]
fn a_frame_is_judged_by_its_header() {
    let mut raw = Raw::server();
    let max = MuxConfig::default().max_frame;
    raw.feed(&open(1, &[], false));
    let body = vec![0; max];
    raw.feed(&frame(DATA, 1, &body));
    raw.expect_alive();
    let above = u32::try_from(max + 1).unwrap().to_be_bytes();
    raw.feed(&[above[1], above[2], above[3], DATA, 0, 0, 0, 1]);
    raw.expect_end(ErrorCode::TooLarge);
}

#[test]
fn reserved_types_end_the_connection_and_extensions_do_not() {
    for kind in 10..16 {
        let mut raw = Raw::server();
        raw.feed(&frame(kind, 0, &[]));
        raw.expect_end(ErrorCode::Protocol);
    }
    let mut raw = Raw::server();
    for kind in 16..32 {
        raw.feed(&frame(kind, 5, &[1; 100]));
    }
    raw.feed(&frame(PING | 0x60, 0, b"ignored!"));
    assert_eq!(
        raw.frames(),
        [(PONG, 0, b"ignored!".to_vec())],
        "bits 5 and 6 mean nothing"
    );
}

#[test]
fn stream_ids_grow_and_may_have_gaps() {
    for bad in [0, 4, 5, u32::MAX] {
        let mut raw = Raw::server();
        raw.feed(&[open(2, &message(b"a"), true), open(5, &message(b"b"), true)].concat());
        assert_eq!(raw.calls().len(), 2);
        raw.feed(&open(bad, &message(b"c"), true));
        raw.expect_end(ErrorCode::Protocol);
    }
    let mut raw = Raw::server();
    raw.feed(&open(u32::MAX - 1, &message(b"a"), true));
    raw.expect_alive();
}

#[test]
fn frames_of_streams_that_nobody_opened_end_the_connection() {
    for stream in [0, 2] {
        for (kind, payload) in [(DATA, &[][..]), (RESET, &[0; 4])] {
            let mut raw = Raw::server();
            raw.feed(&[open(1, &message(b"a"), true), frame(kind, stream, payload)].concat());
            raw.expect_end(ErrorCode::Protocol);
        }
        for (kind, payload) in [(REPLY, &[0, 0][..]), (END, &[0; 4]), (DATA, &[]), (RESET, &[0; 4])] {
            let mut raw = Raw::client();
            client_call(&mut raw);
            raw.feed(&frame(kind, stream, payload));
            raw.expect_end(ErrorCode::Protocol);
        }
    }
    let mut raw = Raw::server();
    raw.feed(&frame(CREDIT, 1, &[0, 0, 1, 0]));
    raw.expect_end(ErrorCode::Protocol);
}

#[test]
fn frames_of_streams_that_are_over_are_ignored() {
    let mut raw = Raw::server();
    raw.feed(&[open(1, &message(b"a"), false), frame(RESET, 1, &[0; 4])].concat());
    raw.feed(
        &[
            frame(DATA, 1, &[9; 100]),
            frame(CREDIT, 1, &[0, 0, 4, 0]),
            frame(RESET, 1, &[0; 4]),
        ]
        .concat(),
    );
    raw.expect_alive();
    assert_eq!(raw.side.mux.open_streams(), 0);
    let mut raw = Raw::client();
    let key = client_call(&mut raw);
    raw.side.mux.release_call(key);
    raw.feed(
        &[
            frame(REPLY, 1, &[0, 0]),
            frame(DATA, 1, &message(b"a")),
            frame(END | FIN, 1, &[0; 4]),
        ]
        .concat(),
    );
    raw.expect_alive();
}

#[test]
fn each_side_gets_only_its_own_frames() {
    for (kind, payload) in [(REPLY, &[0, 0][..]), (END, &[0; 4])] {
        let mut raw = Raw::server();
        raw.feed(&[open(1, &message(b"a"), true), frame(kind, 1, payload)].concat());
        raw.expect_end(ErrorCode::Protocol);
    }
    let mut raw = Raw::client();
    raw.feed(&open(1, &message(b"a"), true));
    raw.expect_end(ErrorCode::Protocol);
}

#[test]
fn control_frames_have_their_length() {
    for (kind, stream, len) in [
        (PING, 0, 7),
        (PONG, 0, 9),
        (CREDIT, 0, 3),
        (RESET, 1, 5),
        (GOAWAY, 0, 7),
        (GOAWAY, 0, 1025),
    ] {
        let mut raw = Raw::server();
        raw.feed(&[open(1, &message(b"a"), true), frame(kind, stream, &vec![1; len])].concat());
        raw.expect_end(ErrorCode::Protocol);
    }
    let mut raw = Raw::client();
    client_call(&mut raw);
    raw.feed(&frame(END | FIN, 1, &[0; 3]));
    raw.expect_end(ErrorCode::Protocol);
}

#[test]
fn credit_is_neither_zero_nor_over_its_limit() {
    for stream in [0, 1] {
        for more in [0, i32::MAX.unsigned_abs(), u32::MAX] {
            let mut raw = Raw::server();
            raw.feed(
                &[
                    open(1, &message(b"a"), false),
                    frame(CREDIT, stream, &more.to_be_bytes()),
                ]
                .concat(),
            );
            raw.expect_end(ErrorCode::FlowControl);
        }
        let mut raw = Raw::server();
        raw.feed(
            &[
                open(1, &message(b"a"), false),
                frame(CREDIT, stream, &0x7000_0000_u32.to_be_bytes()),
            ]
            .concat(),
        );
        raw.expect_alive();
    }
}

#[test]
fn bytes_beyond_credit_end_the_connection() {
    let config = MuxConfig {
        stream_window: 64 * 1024,
        connection_window: 1024 * 1024,
        ..MuxConfig::default()
    };
    // One message that is never complete: its credit comes back as it arrives, so only unread ones count here.
    let whole = message(&[1; 1000]);
    let mut raw = Raw::started(Role::Server, config.clone());
    raw.feed(&open(1, &message(b"arguments"), false));
    for _ in 0..(64 * 1024 - 13) / whole.len() {
        raw.feed(&frame(DATA, 1, &whole));
    }
    raw.expect_alive();
    raw.feed(&frame(DATA, 1, &whole));
    raw.expect_end(ErrorCode::FlowControl);

    let mut raw = Raw::started(Role::Server, config);
    let most = (64 * 1024 - 8) / whole.len() * whole.len();
    for stream in 1..=16 {
        raw.feed(&open(stream, &message(b""), false));
        for _ in 0..most / whole.len() {
            raw.feed(&frame(DATA, stream, &whole));
        }
        raw.expect_alive();
    }
    raw.feed(&open(17, &message(b""), false));
    for _ in 0..14 {
        raw.feed(&frame(DATA, 17, &whole));
    }
    raw.expect_end(ErrorCode::FlowControl);
}

#[test]
fn a_bad_head_fails_the_call_alone() {
    let mut long = 7_u64.to_be_bytes().to_vec();
    long.extend_from_slice(&[0, 0, 0, 0]);
    let metadata = |entries: &[u8]| {
        let mut bytes = long.clone();
        bytes.extend_from_slice(&u16::try_from(entries.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(entries);
        bytes
    };
    let bad: [(Vec<u8>, Code); 6] = [
        (
            metadata(&[b"\x01k\x40\x00".to_vec(), vec![b'v'; 16 * 1024]].concat()),
            Code::ResourceExhausted,
        ),
        (metadata(b"\x01K\x00\x01v"), Code::InvalidArgument),
        (metadata(b"\x01k\x00\x01\x07"), Code::InvalidArgument),
        (metadata(b"\x02k"), Code::InvalidArgument),
        (metadata(b"\x00\x00\x00"), Code::InvalidArgument),
        (long[..11].to_vec(), Code::InvalidArgument),
    ];
    let mut raw = Raw::server();
    for (stream, (bytes, code)) in (1..).zip(bad) {
        raw.feed(&frame(OPEN, stream, &bytes));
        assert_eq!(raw.end_code(stream), code.as_u8(), "{stream}");
    }
    // A head may not go on in a second frame.
    let mut spanning = long.clone();
    spanning.extend_from_slice(&[0, 100]);
    raw.feed(&frame(OPEN, 20, &spanning));
    assert_eq!(raw.end_code(20), Code::InvalidArgument.as_u8());
    raw.feed(&open(21, &message(b"good"), true));
    assert_eq!(raw.calls().len(), 1);
    assert_eq!(raw.side.mux.open_streams(), 1);
}

#[test]
fn messages_may_be_cut_anywhere() {
    let mut raw = Raw::server();
    let body = message(b"arguments");
    raw.feed(&open(1, &body[..2], false));
    raw.feed(&frame(DATA, 1, &body[2..5]));
    raw.feed(&frame(DATA, 1, &[]));
    let rest = [&body[5..], &message(b"item")].concat();
    raw.feed(&frame(DATA | FIN, 1, &rest));
    let calls = raw.calls();
    assert_eq!(
        (calls.len(), calls[0].1.as_deref(), calls[1].1.as_deref()),
        (2, None, Some(&b"arguments"[..]))
    );
    let Poll::Ready(Ok(Some(chunk))) = raw.side.mux.poll_chunk(calls[0].0, &noop()) else {
        panic!("the item is there")
    };
    assert_eq!(super::pair::messages(chunk), [b"item".to_vec()]);
}

/// Arguments and items may come in one frame with the end: the items still follow the arguments.
#[test]
fn items_that_come_with_the_arguments_are_not_lost() {
    let (arguments, item) = (message(b"arguments"), message(b"item"));
    let together = [&arguments[..], &item].concat();
    for (bodies, follows) in [
        (vec![open(1, &together, true)], true),
        (vec![open(1, &[], false), frame(DATA | FIN, 1, &together)], true),
        (vec![open(1, &arguments, false), frame(DATA | FIN, 1, &item)], true),
        (vec![open(1, &arguments, true)], false),
        (vec![open(1, &[], false), frame(DATA | FIN, 1, &arguments)], false),
    ] {
        let mut raw = Raw::server();
        bodies.iter().for_each(|bytes| raw.feed(bytes));
        let fin = raw.side.events.incoming.iter().find_map(|incoming| match incoming {
            Incoming::Opened { arguments: None, .. } => None,
            Incoming::Opened { fin, .. } | Incoming::Arguments { fin, .. } => Some(*fin),
        });
        assert_eq!(fin, Some(!follows), "{bodies:?}");
    }
}

#[test]
fn a_message_that_breaks_a_rule_fails_its_call_alone() {
    let max = u32::try_from(MuxConfig::default().max_message).unwrap();
    let bad: [(Vec<u8>, bool, Code); 5] = [
        ((0x8000_0001_u32).to_be_bytes().to_vec(), false, Code::Unimplemented),
        ((max + 1).to_be_bytes().to_vec(), false, Code::ResourceExhausted),
        (u32::MAX.to_be_bytes().to_vec(), false, Code::Unimplemented),
        (vec![0, 0], true, Code::InvalidArgument),
        (vec![0, 0, 0, 5, 1], true, Code::InvalidArgument),
    ];
    let mut raw = Raw::server();
    let mut stream = 0;
    for (bytes, fin, code) in bad {
        // Inside the arguments, and behind them.
        for in_front in [Vec::new(), message(b"arguments")] {
            stream += 1;
            raw.feed(&open(stream, &in_front, false));
            raw.feed(&frame(if fin { DATA | FIN } else { DATA }, stream, &bytes));
            assert_eq!(raw.end_code(stream), code.as_u8());
            let ended = std::mem::take(&mut raw.side.events.ended);
            assert_eq!((ended.len(), ended[0].cause), (1, EndCause::Refused));
        }
    }
    raw.expect_alive();
    raw.feed(&open(stream + 1, &max.to_be_bytes(), false));
    raw.expect_alive();
    assert_eq!(raw.side.mux.open_streams(), 1, "a message at the limit may begin");
}

#[test]
fn bytes_behind_the_end_of_a_half_fail_the_call() {
    let mut raw = Raw::server();
    raw.feed(&[open(1, &message(b"a"), true), frame(DATA, 1, &message(b"more"))].concat());
    assert_eq!(raw.end_code(1), Code::InvalidArgument.as_u8());
    raw.feed(&frame(OPEN | FIN, 2, &head(0)));
    assert_eq!(raw.end_code(2), Code::InvalidArgument.as_u8(), "no arguments at all");
    raw.expect_alive();
}

#[test]
fn streams_above_the_limit_are_refused_and_may_come_again() {
    let config = MuxConfig {
        max_streams: 2,
        ..MuxConfig::default()
    };
    let mut raw = Raw::started(Role::Server, config);
    for stream in 1..=3 {
        raw.feed(&open(stream, &message(b"a"), true));
    }
    let refused = u32::from(ErrorCode::Refused as u8).to_be_bytes().to_vec();
    assert_eq!(raw.frames(), [(RESET, 3, refused.clone())]);
    let calls = raw.calls();
    assert_eq!(calls.len(), 2);
    let none = Metadata::new();
    raw.side.mux.reply(calls[0].0, &none, &encoded(1, 1), &none);
    raw.feed(&open(4, &message(b"a"), true));
    assert_eq!(raw.calls().len(), 1);
    // A handler that runs on after its call counts too.
    raw.side.mux.hold();
    raw.side.mux.refuse_call(calls[1].0);
    let _frames = raw.frames();
    raw.feed(&open(5, &message(b"a"), true));
    assert_eq!(raw.frames(), [(RESET, 5, refused)]);
    raw.side.mux.release();
    raw.feed(&open(6, &message(b"a"), true));
    assert_eq!(raw.calls().len(), 1);
}

#[test]
fn the_ways_in_which_a_reply_ends() {
    let reply = |frames: &[Vec<u8>]| {
        let mut raw = Raw::client();
        let key = client_call(&mut raw);
        raw.feed(&frames.concat());
        raw.expect_alive();
        match raw.side.mux.poll_reply(key, &noop()) {
            Poll::Ready(reply) => reply,
            Poll::Pending => panic!("no reply"),
        }
    };
    let body = [vec![0, 0], message(b"yes")].concat();
    let whole = reply(&[frame(REPLY | FIN, 1, &body)]).unwrap();
    assert_eq!(&whole.message.unwrap()[..], b"yes");
    let ended = reply(&[frame(REPLY, 1, &body), frame(END | FIN, 1, &[0; 4])]).unwrap();
    assert_eq!((&ended.message.unwrap()[..], ended.status), (&b"yes"[..], None));
    let cut = reply(&[frame(REPLY, 1, &body[..4]), frame(DATA | FIN, 1, &body[4..])]).unwrap();
    assert_eq!(&cut.message.unwrap()[..], b"yes");
    let failed = reply(&[frame(END | FIN, 1, &[5, 0, 0, 0])]).unwrap();
    assert_eq!(failed.status.unwrap().code(), Code::NotFound);
    let failed_late = reply(&[frame(REPLY, 1, &body[..4]), frame(END | FIN, 1, &[13, 2, 0, 0])]).unwrap();
    assert_eq!(failed_late.status.unwrap().code(), Code::Internal);
    let inside = reply(&[frame(REPLY, 1, &body[..4]), frame(END | FIN, 1, &[0; 4])]);
    assert!(matches!(inside, Err(StreamError::Protocol(_))), "OK inside a message");
    let truncated = reply(&[frame(REPLY | FIN, 1, &body[..4])]);
    assert!(matches!(truncated, Err(StreamError::Protocol(_))));
    let refused = reply(&[frame(RESET, 1, &[0, 0, 0, 2])]);
    assert_eq!(refused.unwrap_err(), StreamError::NotProcessed);
    let reset = reply(&[frame(RESET, 1, &[0, 0, 0, 4])]);
    assert_eq!(
        reset.unwrap_err(),
        StreamError::Reset {
            code: ErrorCode::TooLarge
        }
    );
    let bad_end = reply(&[frame(END | FIN, 1, &[5, 0, 0, 9])]);
    assert!(matches!(bad_end, Err(StreamError::Protocol(_))));
    let bad_head = reply(&[frame(REPLY, 1, &[0, 5, 1, b'K', 0, 1, b'v'])]);
    assert!(matches!(bad_head, Err(StreamError::Protocol(_))));
}

#[test]
fn a_second_reply_is_an_error_of_its_call() {
    let mut raw = Raw::client();
    let key = client_call(&mut raw);
    raw.feed(&frame(REPLY, 1, &[0, 0]));
    let _head = raw.side.mux.poll_head(key, &noop());
    raw.feed(&frame(REPLY, 1, &[0, 0]));
    assert!(matches!(
        raw.side.mux.poll_reply(key, &noop()),
        Poll::Ready(Err(StreamError::Protocol(_)))
    ));
    raw.expect_alive();
}

#[test]
fn a_ping_is_answered_with_its_content() {
    let mut raw = Raw::client();
    raw.feed(&frame(PING, 0, b"12345678"));
    assert_eq!(raw.frames(), [(PONG, 0, b"12345678".to_vec())]);
}

#[test]
fn unknown_fields_and_codes_of_newer_peers_are_taken() {
    let mut raw = Raw::silent(Role::Client, MuxConfig::default());
    let field = [&[0x81, 0xa3][..], b"new", &[0x93, 1, 0xc0, 0xa1, b'x']].concat();
    raw.feed(&[preface(), frame(HELLO, 0, &field)].concat());
    raw.expect_alive();
    let key = client_call(&mut raw);
    raw.feed(&frame(RESET, 1, &[0, 0, 1, 0]));
    let Poll::Ready(Err(error)) = raw.side.mux.poll_reply(key, &noop()) else {
        panic!("the call is over")
    };
    assert_eq!(
        error,
        StreamError::Reset {
            code: ErrorCode::Internal
        }
    );
}
