//! Flow control: credit is conserved, and whole again after everything that can go wrong.

use std::task::Poll;

use super::pair::{Pair, framed, message, messages, noop};
use super::raw::{CREDIT, DATA, FIN, OPEN, REPLY, Raw, frame, message as item, open};
use crate::metadata::Metadata;
use crate::mux::{MuxConfig, OpenRequest, Role};
use crate::wire::frame::{CONNECTION_WINDOW_MIN, STREAM_WINDOW_MIN};

/// As the driver asks for.
const DIRECT_BYTES: usize = 8 * 1024;

/// All bytes of CREDIT for `stream` that were sent since the last time.
fn credit_for(raw: &mut Raw, stream: u32) -> u64 {
    raw.frames()
        .iter()
        .filter(|(kind, id, _)| *kind == CREDIT && *id == stream)
        .map(|(_, _, payload)| u64::from(u32::from_be_bytes(payload[..4].try_into().unwrap())))
        .sum()
}

/// The connection's window of a raw mux is whole: nothing is open and every byte came back or is owed.
fn assert_whole(raw: &Raw) {
    let (size, left, owed) = raw.side.mux.recv_window.parts();
    assert_eq!((left + owed, raw.side.mux.assembling), (size, 0));
}

#[test]
fn before_hello_the_constants_hold_and_then_the_difference_is_added() {
    let large = MuxConfig {
        stream_window: 3_000_000,
        connection_window: 5_000_000,
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), large);
    let key = pair.open(1, 4_000_000, true, None).unwrap();
    pair.client.write_all();
    let sent = pair.client.sent.len();
    assert!(
        (STREAM_WINDOW_MIN as usize..STREAM_WINDOW_MIN as usize + 500).contains(&sent),
        "{sent}"
    );
    pair.server.write_all();
    pair.deliver_to_client(usize::MAX);
    pair.client.write_all();
    assert!(
        pair.client.sent.len() > 2_900_000,
        "the rest of the window is there at once"
    );
    pair.run();
    assert_eq!(pair.calls[0].arguments.len(), 4_000_000);
    pair.client.mux.release_call(key);
    pair.run();
    pair.check_credit();
}

#[test]
fn the_connection_bounds_all_streams_together() {
    let small = MuxConfig {
        connection_window: CONNECTION_WINDOW_MIN,
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(small, MuxConfig::default());
    pair.run();
    let keys: Vec<_> = (0..4).map(|_| pair.stream()).collect();
    for (_, server_key) in &keys {
        pair.server.mux.reply_head(*server_key, &Metadata::new());
        for _ in 0..8 {
            pair.server.mux.send(*server_key, framed(64 * 1024, 1), false);
        }
    }
    pair.server.write_all();
    let sent = pair.server.sent.len();
    assert!((1_048_576..1_060_000).contains(&sent), "{sent}");
    // Reading one stream lets the others go on.
    pair.run();
    pair.check_credit();
    let mut read = vec![0; keys.len()];
    for _ in 0..100 {
        for (at, (key, _)) in keys.iter().enumerate() {
            if let Poll::Ready(Ok(Some(chunk))) = pair.client.mux.poll_chunk(*key, &noop()) {
                read[at] += messages(chunk).len();
            }
        }
        pair.run();
        pair.check_credit();
    }
    assert_eq!(read, [8; 4]);
}

#[test]
fn a_cancelled_call_leaves_no_hole_in_the_connection() {
    let mut pair = Pair::ready();
    for round in 0..200 {
        let (key, server_key) = pair.stream();
        pair.server.mux.reply_head(server_key, &Metadata::new());
        for size in [10, 3_000, 70_000, 200_000] {
            pair.server.mux.send(server_key, framed(size, 1), false);
            pair.client.mux.send(key, framed(size, 1), false);
        }
        match round % 5 {
            // Everything is there, nothing was read.
            0 => pair.run(),
            // The bytes cross the cancellation.
            1 => {
                pair.server.write_all();
                pair.client.write_all();
            }
            // In the middle of a frame, and of a message.
            2 => {
                pair.server.write_all();
                pair.deliver_to_client(1_000 + 997 * round);
            }
            3 => {
                pair.client.write_all();
                pair.deliver_to_server(2_000 + 997 * round);
            }
            _ => {
                pair.run();
                let _part = pair.client.mux.poll_chunk(key, &noop());
                let _part = pair.server.mux.poll_chunk(server_key, &noop());
            }
        }
        if round % 2 == 0 {
            pair.client.mux.release_call(key);
        } else {
            pair.server.mux.finish_call(server_key, None, &Metadata::new());
            pair.server.mux.refuse_call(server_key);
            pair.run();
            pair.client.mux.release_call(key);
        }
        pair.run();
        pair.check_credit();
        assert_eq!((pair.client.mux.open_streams(), pair.server.mux.open_streams()), (0, 0));
        assert_eq!((pair.client.mux.assembling, pair.server.mux.assembling), (0, 0));
    }
    assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
}

#[test]
fn a_stream_that_is_not_read_any_more_blocks_nobody() {
    let mut pair = Pair::ready();
    let mut keys = Vec::new();
    // Together these streams could fill the connection's window several times over.
    for _ in 0..40 {
        let (key, server_key) = pair.stream();
        pair.client.mux.send(key, framed(500_000, 1), false);
        pair.run();
        pair.server.mux.stop_reading(server_key);
        for _ in 0..20 {
            pair.client.mux.send(key, framed(100_000, 1), false);
        }
        pair.run();
        pair.check_credit();
        keys.push((key, server_key));
    }
    let held: usize = keys
        .iter()
        .map(|(_, key)| pair.server.mux.streams.get(*key).map_or(0, |stream| stream.recv.unread()))
        .sum();
    assert_eq!(
        (held, pair.server.mux.assembling),
        (0, 0),
        "what nobody reads is not kept"
    );
    let key = pair.open(1, 3_000_000, true, None).unwrap();
    pair.run();
    assert_eq!(pair.calls.len(), 1, "another call of this connection is not held up");
    pair.client.mux.release_call(key);
    for (key, server_key) in keys {
        pair.server.mux.finish_call(server_key, None, &Metadata::new());
        pair.run();
        pair.client.mux.release_call(key);
    }
    pair.run();
    pair.check_credit();
    assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
}

#[test]
fn a_stream_that_breaks_a_rule_leaves_no_hole() {
    let mut raw = Raw::server();
    let bad = 0x8000_0000_u32.to_be_bytes();
    let large = vec![1; 9_000];
    let mut stream = 0;
    let mut sent = 0_u64;
    let mut credited = 0;
    for _ in 0..300 {
        for body in [
            // A bad length alone, behind a whole message, behind one that took several frames, and the end inside a message.
            vec![bad.to_vec()],
            vec![[item(b"arguments"), bad.to_vec(), vec![5; 50]].concat()],
            vec![
                item(b"arguments"),
                item(b"unread"),
                item(&large)[..5_000].to_vec(),
                [&item(&large)[5_000..], &bad].concat(),
            ],
            vec![
                item(&large)[..5_000].to_vec(),
                [&item(&large)[5_000..], &bad[..]].concat(),
            ],
            vec![item(b"arguments"), bad[..3].to_vec(), bad[3..].to_vec()],
        ] {
            stream += 1;
            raw.feed(&open(stream, &[], false));
            for part in body {
                raw.feed(&frame(DATA, stream, &part));
                sent += part.len() as u64;
            }
            // A call that is answered earns the goodwill that the bad one costs.
            stream += 1;
            raw.feed(&open(stream, &item(b"good"), true));
            sent += 8;
            let key = raw.calls().pop().unwrap().0;
            raw.side.mux.reply(key, &Metadata::new(), &message(1, 1), &Metadata::new());
            raw.side.events.ended.clear();
        }
        raw.expect_alive();
        credited += credit_for(&mut raw, 0);
        assert_whole(&raw);
        let (size, left, _) = raw.side.mux.recv_window.parts();
        assert_eq!(
            u64::from(size) + credited - sent,
            u64::from(left),
            "the peer's credit is what this side believes"
        );
    }
}

#[test]
fn a_half_that_ends_inside_a_message_leaves_no_hole() {
    let mut raw = Raw::server();
    for stream in 1..=200 {
        raw.feed(&open(stream, &[], false));
        raw.feed(&frame(DATA, stream, &item(&[1; 9_000])[..4_000]));
        raw.feed(&frame(DATA | FIN, stream, &[1; 1_000]));
        raw.expect_alive();
        assert_whole(&raw);
    }
}

#[test]
fn the_body_behind_a_bad_head_is_credited_and_its_head_is_not() {
    let mut bad = 7_u64.to_be_bytes().to_vec();
    bad.extend_from_slice(&[0, 0, 0, 0, 0, 5, 1, b'K', 0, 1, b'v']);
    bad.extend_from_slice(&item(&[1; 10_000]));
    let mut raw = Raw::server();
    let mut credited = 0;
    for stream in 1..=1_000 {
        raw.feed(&frame(OPEN | FIN, stream, &bad));
        credited += credit_for(&mut raw, 0);
    }
    let (size, left, owed) = raw.side.mux.recv_window.parts();
    assert_eq!(left + owed, size);
    assert_eq!(credited + u64::from(owed), 1_000 * 10_004);
    raw.expect_alive();

    let mut reply = vec![0, 5, 1, b'K', 0, 1, b'v'];
    reply.extend_from_slice(&item(&[1; 10_000]));
    let mut raw = Raw::client();
    let mut credited = 0;
    for stream in 1..=1_000 {
        let request = OpenRequest {
            method: 7,
            timeout: 0,
            deadline: None,
            metadata: &Metadata::new(),
            arguments: &message(3, 1),
            fin: true,
        };
        let key = raw.side.mux.open(raw.now, &request).unwrap();
        raw.feed(&frame(REPLY | FIN, stream, &reply));
        assert!(matches!(raw.side.mux.poll_reply(key, &noop()), Poll::Ready(Err(_))));
        credited += credit_for(&mut raw, 0);
    }
    let (size, left, owed) = raw.side.mux.recv_window.parts();
    assert_eq!(left + owed, size);
    assert_eq!(
        credited + u64::from(owed),
        1_000 * 10_004,
        "heads consume no credit, so none is given for them"
    );
}

#[test]
fn refused_and_late_streams_leave_no_hole() {
    let config = MuxConfig {
        max_streams: 1,
        ..MuxConfig::default()
    };
    let mut raw = Raw::started(Role::Server, config);
    raw.feed(&open(1, &item(b"stays"), true));
    for stream in 2..500 {
        raw.feed(&open(stream, &item(&[1; 5_000]), true));
    }
    raw.expect_alive();
    assert_whole(&raw);
    let mut raw = Raw::server();
    raw.side.mux.start_drain(raw.now);
    raw.feed(&frame(super::raw::PONG, 0, b"drain\0\0\0"));
    for stream in 1..500 {
        raw.feed(&open(stream, &item(&[1; 5_000]), true));
    }
    raw.expect_alive();
    assert_whole(&raw);
    assert!(raw.calls().is_empty(), "no call is taken up behind the last stream");
}

/// A body that the driver reads straight into its memory, and whose call is cancelled meanwhile.
#[test]
fn a_call_that_is_cancelled_while_its_memory_is_lent_leaves_nothing_behind() {
    for cancelled in [true, false] {
        let mut pair = Pair::ready();
        for _ in 0..40 {
            let (key, server_key) = pair.call(1);
            pair.reply(server_key, 3_000_000);
            pair.server.write_turn();
            // Up to the middle of the first frame of the body.
            pair.deliver_to_client(20_000);
            let (id, mut bytes, want) = pair.client.mux.lend_body(DIRECT_BYTES).unwrap();
            assert!(want >= 8 * 1024);
            let arrived: Vec<u8> = pair.server.sent.drain(..want).collect();
            bytes.extend_from_slice(&arrived);
            if cancelled {
                pair.client.mux.release_call(key);
            }
            pair.client.mux.return_body(pair.now, id, bytes, want, &mut pair.client.events);
            pair.run();
            if !cancelled {
                assert_eq!(pair.take_reply(key).unwrap().message.unwrap().len(), 3_000_000);
            }
            assert_eq!(pair.client.mux.assembling, 0);
            pair.check_credit();
        }
    }
}

/// A driver that lends itself memory and then finds nothing to read: no sign of life, and nobody is woken for it.
#[test]
fn memory_that_comes_back_empty_changes_nothing() {
    let mut pair = Pair::ready();
    let (key, server_key) = pair.call(1);
    pair.reply(server_key, 3_000_000);
    pair.server.write_turn();
    pair.deliver_to_client(20_000);
    let (counter, waker) = super::pair::Counter::new();
    let task = std::task::Context::from_waker(&waker);
    assert!(pair.client.mux.poll_reply(key, &task).is_pending());
    // From here on nothing arrives, but the driver looks again and again.
    let config = MuxConfig::default();
    let silent = config.keepalive_interval.unwrap() + config.keepalive_timeout;
    for _ in 0..=silent.as_secs() {
        pair.now += std::time::Duration::from_secs(1);
        pair.client.mux.handle_timeout(pair.now, &mut pair.client.events);
        if let Some((id, bytes, _)) = pair.client.mux.lend_body(DIRECT_BYTES) {
            pair.client.mux.return_body(pair.now, id, bytes, 0, &mut pair.client.events);
        }
        if pair.client.mux.end().is_none() {
            assert!(pair.client.events.wakers.is_empty());
        }
    }
    let end = pair.client.mux.end().expect("a peer that fell silent inside a body is found out");
    assert_eq!(end.code(), crate::wire::frame::ErrorCode::KeepaliveTimeout);
    assert_eq!((pair.client.events.wakers.len(), counter.count()), (1, 0));
}

/// What direct reads let a message's memory grow by counts against the bound of all incomplete messages.
#[test]
fn memory_that_grows_by_direct_reads_is_counted() {
    let mut pair = Pair::ready();
    let (key, server_key) = pair.call(1);
    pair.reply(server_key, 4 * 1024 * 1024);
    let mut largest = 0;
    loop {
        pair.client.write_all();
        pair.deliver_to_server(usize::MAX);
        pair.server.write_turn();
        if pair.server.sent.is_empty() {
            break;
        }
        while !pair.server.sent.is_empty() {
            if let Some((id, mut bytes, want)) = pair.client.mux.lend_body(DIRECT_BYTES) {
                let want = want.min(pair.server.sent.len());
                let arrived: Vec<u8> = pair.server.sent.drain(..want).collect();
                bytes.extend_from_slice(&arrived);
                pair.client.mux.return_body(pair.now, id, bytes, want, &mut pair.client.events);
            } else {
                pair.deliver_to_client(1_000);
            }
            let held = pair.client.mux.streams.get(key).map_or(0, |stream| stream.recv.assembly_bytes());
            assert_eq!(pair.client.mux.assembling, held, "what is held is what is counted");
            largest = largest.max(held);
        }
    }
    assert!(largest >= 4 * 1024 * 1024);
    assert_eq!(pair.take_reply(key).unwrap().message.unwrap().len(), 4 * 1024 * 1024);
    assert_eq!(pair.client.mux.assembling, 0);
}
