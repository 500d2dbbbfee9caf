//! Limits that a peer can run into: below and at the limit everything goes on, above it the named thing happens.

use std::task::Poll;

use super::pair::{Pair, message as encoded, noop};
use super::raw::{CREDIT, DATA, END, FIN, GOAWAY, HELLO, Raw, frame, message, open, preface};
use crate::code::Code;
use crate::metadata::Metadata;
use crate::mux::calls::{SEND_QUEUE_BYTES_MAX, UNSENT_OPEN_BYTES_MAX};
use crate::mux::connection::TINY_DATA_BYTES;
use crate::mux::flow::TINY_CREDIT_BYTES;
use crate::mux::frames::GO_AWAY_BYTES_MAX;
use crate::mux::nuisance::NUISANCE_FRAMES_MAX;
use crate::mux::transmit::REASON_BYTES_MAX;
use crate::mux::{MuxConfig, OpenError, OpenRequest, Role};
use crate::wire::frame::{ErrorCode, STREAMS_MIN};
use crate::wire::head::END_BYTES_MAX;
use crate::wire::hello::{AGENT_BYTES_MAX, HELLO_BYTES_MAX};

/// A call of a client with arguments of `size` bytes.
fn call(raw: &mut Raw, size: usize) -> Result<crate::mux::StreamKey, OpenError> {
    let request = OpenRequest {
        method: 7,
        timeout: 0,
        deadline: None,
        metadata: &Metadata::new(),
        arguments: &encoded(size, 1),
        fin: true,
    };
    raw.side.mux.open(raw.now, &request)
}

/// A map with one field that nobody knows, `bytes` long in all.
fn padded_hello(bytes: usize) -> Vec<u8> {
    let padding = bytes - 6;
    let mut map = vec![0x81, 0xa1, b'x', 0xc5];
    map.extend_from_slice(&u16::try_from(padding).unwrap().to_be_bytes());
    map.resize(bytes, 0);
    map
}

#[test]
fn hello() {
    for (bytes, fits) in [
        (HELLO_BYTES_MAX - 1, true),
        (HELLO_BYTES_MAX, true),
        (HELLO_BYTES_MAX + 1, false),
    ] {
        let mut raw = Raw::silent(Role::Server, MuxConfig::default());
        raw.feed(&[preface(), frame(HELLO, 0, &padded_hello(bytes))].concat());
        if fits {
            raw.expect_alive();
            assert!(raw.side.mux.is_ready(), "{bytes}");
        } else {
            raw.expect_end(ErrorCode::Protocol);
        }
    }
}

#[test]
fn the_name_of_an_agent_is_cut() {
    for len in [AGENT_BYTES_MAX - 1, AGENT_BYTES_MAX, AGENT_BYTES_MAX + 1] {
        let mut map = vec![0x81, 0xa5];
        map.extend_from_slice(b"agent");
        map.extend_from_slice(&[0xd9, u8::try_from(len).unwrap()]);
        map.resize(map.len() + len, b'a');
        let mut raw = Raw::silent(Role::Server, MuxConfig::default());
        raw.feed(&[preface(), frame(HELLO, 0, &map)].concat());
        assert_eq!(raw.side.mux.peer().agent, "a".repeat(len.min(AGENT_BYTES_MAX)));
    }
}

#[test]
fn the_end_of_a_call() {
    for (bytes, fits) in [
        (END_BYTES_MAX - 1, true),
        (END_BYTES_MAX, true),
        (END_BYTES_MAX + 1, false),
    ] {
        let mut raw = Raw::client();
        let key = call(&mut raw, 3).unwrap();
        let _open = raw.frames();
        // ABORTED, no advice about retrying, no trailers; then message, details and the rest in the error of the application.
        let mut end = vec![Code::Aborted.as_u8(), 0, 0, 0, 0x93, 0xa0, 0xc4, 0, 0xc5];
        end.extend_from_slice(&u16::try_from(bytes - end.len() - 2).unwrap().to_be_bytes());
        end.resize(bytes, 1);
        raw.feed(&frame(END | FIN, 1, &end));
        if fits {
            let Poll::Ready(Ok(reply)) = raw.side.mux.poll_reply(key, &noop()) else {
                panic!("{bytes} bytes are an END")
            };
            assert_eq!(reply.status.unwrap().code(), Code::Aborted);
            raw.expect_alive();
        } else {
            raw.expect_end(ErrorCode::Protocol);
        }
    }
}

#[test]
fn a_go_away() {
    for (bytes, fits) in [
        (GO_AWAY_BYTES_MAX - 1, true),
        (GO_AWAY_BYTES_MAX, true),
        (GO_AWAY_BYTES_MAX + 1, false),
    ] {
        let mut raw = Raw::client();
        let mut payload = vec![0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        payload.resize(bytes, b'r');
        raw.feed(&frame(GOAWAY, 0, &payload));
        if fits {
            raw.expect_alive();
            assert!(raw.side.events.going_away);
        } else {
            raw.expect_end(ErrorCode::Protocol);
        }
    }
}

#[test]
fn a_reason_of_ours_is_cut_between_characters() {
    for (reason, sent) in [
        ("r".repeat(REASON_BYTES_MAX - 1), REASON_BYTES_MAX - 1),
        ("r".repeat(REASON_BYTES_MAX), REASON_BYTES_MAX),
        ("r".repeat(REASON_BYTES_MAX + 1), REASON_BYTES_MAX),
        ("r".repeat(REASON_BYTES_MAX - 1) + "\u{e9}", REASON_BYTES_MAX - 1),
    ] {
        let mut raw = Raw::server();
        let mut events = std::mem::take(&mut raw.side.events);
        raw.side.mux.close(ErrorCode::None, &reason, &mut events);
        let frames = raw.frames();
        let (_, _, payload) = frames.iter().find(|(kind, ..)| *kind == GOAWAY).unwrap();
        assert_eq!(payload.len() - 8, sent);
        assert!(std::str::from_utf8(&payload[8..]).is_ok());
    }
}

#[test]
fn calls_before_the_servers_hello() {
    let mut raw = Raw::silent(Role::Client, MuxConfig::default());
    for _ in 0..STREAMS_MIN {
        call(&mut raw, 3).unwrap();
    }
    assert_eq!(call(&mut raw, 3).unwrap_err(), OpenError::Full);
    // A server that takes one more says so.
    let mut map = vec![0x81, 0xab];
    map.extend_from_slice(b"max_streams");
    map.push(u8::try_from(STREAMS_MIN + 1).unwrap());
    raw.feed(&[preface(), frame(HELLO, 0, &map)].concat());
    call(&mut raw, 3).unwrap();
    assert_eq!(call(&mut raw, 3).unwrap_err(), OpenError::Full);
}

/// Calls that were given up leave their OPENs behind while nothing can be written.
#[test]
fn calls_that_have_not_left() {
    let mut pair = Pair::ready();
    let mut opened = 0;
    let full = loop {
        match pair.open(1, 3_000, true, None) {
            Ok(key) => {
                opened += 1;
                pair.client.mux.release_call(key);
            }
            Err(error) => break error,
        }
        assert!(opened < 1_000, "each of them is above 3,000 bytes");
    };
    assert_eq!(full, OpenError::Full);
    let unsent = pair.client.mux.unsent_bytes();
    assert!(
        (UNSENT_OPEN_BYTES_MAX..UNSENT_OPEN_BYTES_MAX + 4_000).contains(&unsent),
        "{unsent}"
    );
    pair.run();
    pair.open(1, 3_000, true, None).unwrap();
}

/// A stream whose peer gives no credit takes this much, and then its sender waits.
#[test]
fn what_waits_to_be_sent() {
    let mut pair = Pair::with(
        MuxConfig {
            stream_window: 64 * 1024,
            ..MuxConfig::default()
        },
        MuxConfig::default(),
    );
    pair.run();
    let (client_key, server_key) = pair.stream();
    let server = &mut pair.server.mux;
    assert!(server.reply_head(server_key, &Metadata::new()));
    let item = message(&[1; 5_000]);
    let mut queued = 0;
    while let Poll::Ready(ready) = server.poll_send_ready(server_key, &noop()) {
        ready.unwrap();
        server.send(server_key, item.clone(), false);
        queued += item.len();
        assert!(queued < 4 * SEND_QUEUE_BYTES_MAX);
    }
    assert!(
        (SEND_QUEUE_BYTES_MAX / 2..SEND_QUEUE_BYTES_MAX + 2 * item.len()).contains(&queued),
        "{queued}"
    );
    // What the window allows leaves, and makes room for as much.
    pair.run();
    assert!(pair.server.mux.poll_send_ready(server_key, &noop()).is_ready());
    pair.client.mux.release_call(client_key);
}

#[test]
fn frames_that_carry_nothing() {
    let tiny_data = u32::try_from(TINY_DATA_BYTES).unwrap();
    // What each frame carries, from which size on it carries enough.
    for (kind, enough) in [(DATA, tiny_data), (CREDIT, TINY_CREDIT_BYTES)] {
        for size in [enough - 1, enough, enough + 1] {
            let mut raw = Raw::server();
            // A message that does not become whole.
            raw.feed(&open(
                1,
                &[&message(b"x")[..], &0x0020_0000_u32.to_be_bytes()].concat(),
                false,
            ));
            let payload = match kind {
                DATA => vec![1; size as usize],
                _ => size.to_be_bytes().to_vec(),
            };
            for _ in 0..NUISANCE_FRAMES_MAX {
                raw.feed(&frame(kind, 1, &payload));
                raw.expect_alive();
            }
            raw.feed(&frame(kind, 1, &payload));
            if size < enough {
                raw.expect_end(ErrorCode::CalmDown);
            } else {
                raw.expect_alive();
            }
        }
    }
}
