//! Peers that flood: what they can make this side hold is bounded, and honest ones are never taken for them.

use std::task::Poll;
use std::time::Duration;

use super::pair::{Pair, framed, message, noop};
use super::raw::{CREDIT, DATA, END, FIN, GOAWAY, OPEN, REPLY, RESET, Raw, frame, head, message as item, open};
use crate::metadata::Metadata;
use crate::mux::nuisance::NUISANCE_FRAMES_MAX;
use crate::mux::{MuxConfig, OpenRequest, Role};
use crate::wire::frame::{ErrorCode, STREAM_WINDOW_MIN};

/// Feeds what `make` makes until the connection ends; it must end with CALM_DOWN, and not much later than the budget allows.
#[track_caller]
fn must_be_calmed(mut raw: Raw, mut make: impl FnMut(u32) -> Vec<u8>) {
    for round in 1..=NUISANCE_FRAMES_MAX * 3 {
        raw.feed(&make(round));
        raw.side.events.incoming.clear();
        raw.side.events.ended.clear();
        if raw.side.mux.end().is_some() {
            assert!(round >= NUISANCE_FRAMES_MAX / 2, "{round} is within the budget");
            raw.expect_end(ErrorCode::CalmDown);
            return;
        }
    }
    panic!("{} such frames are too many", NUISANCE_FRAMES_MAX * 3);
}

fn with_stream() -> Raw {
    let mut raw = Raw::server();
    raw.feed(&open(1, &item(b"arguments"), false));
    raw
}

#[test]
fn rapid_resets_are_calmed() {
    must_be_calmed(Raw::server(), |round| {
        [open(round, &item(b"a"), true), frame(RESET, round, &[0; 4])].concat()
    });
}

/// What a handler answers after its call was reset is worth nothing: else each reset would pay for the next.
#[test]
fn answers_to_calls_that_are_over_earn_nothing() {
    let mut raw = Raw::server();
    for round in 1..=NUISANCE_FRAMES_MAX * 2 {
        raw.feed(&open(round, &item(b"a"), true));
        let key = raw.side.events.incoming.pop_back().unwrap().key();
        raw.feed(&frame(RESET, round, &[0; 4]));
        raw.side.events.ended.clear();
        if raw.side.mux.end().is_some() {
            raw.expect_end(ErrorCode::CalmDown);
            return;
        }
        raw.side.mux.finish_call(key, None, &Metadata::new());
    }
    panic!("every reset is paid for by an answer that nobody gets");
}

/// MadeYouReset: the client does not reset, it makes the server do so, after work began.
#[test]
fn provoked_resets_are_calmed() {
    must_be_calmed(Raw::server(), |round| {
        [open(round, &item(b"a"), false), frame(DATA, round, &[0x80, 0, 0, 0])].concat()
    });
    must_be_calmed(Raw::server(), |round| {
        [open(round, &item(b"a"), true), frame(DATA, round, &item(b"b"))].concat()
    });
    must_be_calmed(Raw::server(), |round| frame(OPEN | FIN, round, &head(0)));
    must_be_calmed(Raw::server(), |round| frame(OPEN | FIN, round, &[1, 2, 3]));
}

#[test]
fn frames_that_carry_nothing_are_calmed() {
    must_be_calmed(with_stream(), |_| frame(DATA, 1, &[]));
    must_be_calmed(with_stream(), |_| frame(DATA, 1, &[0]));
    must_be_calmed(with_stream(), |_| frame(20, 0, &[1; 10]));
    must_be_calmed(with_stream(), |_| frame(CREDIT, 1, &[0, 0, 0, 1]));
    must_be_calmed(with_stream(), |_| frame(CREDIT, 0, &[0, 0, 0, 255]));
    must_be_calmed(with_stream(), |_| frame(GOAWAY, 0, &[0, 0, 0, 1, 0, 0, 0, 0]));
    must_be_calmed(with_stream(), |_| frame(super::raw::PONG, 0, &[1; 8]));
    let mut over = with_stream();
    over.feed(&frame(RESET, 1, &[0; 4]));
    must_be_calmed(over, |_| frame(DATA, 1, &[]));
}

/// The handlers of calls that are over still hold places: calls within the announced limit are refused for it, and not held against their client.
#[test]
fn calls_that_only_held_places_refuse_are_forgiven() {
    let config = MuxConfig {
        max_streams: 1,
        ..MuxConfig::default()
    };
    let mut raw = Raw::started(Role::Server, config);
    raw.side.mux.hold();
    for round in 1..=NUISANCE_FRAMES_MAX * 2 {
        raw.feed(&open(round, &item(b"a"), true));
        assert!(raw.side.events.incoming.is_empty(), "{round} is refused");
        assert!(raw.side.mux.end().is_none(), "after {round}");
    }
    raw.side.mux.release();
    raw.feed(&open(NUISANCE_FRAMES_MAX * 2 + 1, &item(b"a"), true));
    assert_eq!(raw.side.events.incoming.len(), 1);
}

#[test]
fn more_streams_than_announced_are_calmed() {
    let config = MuxConfig {
        max_streams: 1,
        ..MuxConfig::default()
    };
    let mut raw = Raw::started(Role::Server, config);
    raw.feed(&open(1, &item(b"stays"), true));
    must_be_calmed(raw, |round| open(round + 1, &item(b"a"), true));
}

#[test]
fn an_honest_client_that_cancels_every_other_call_stays() {
    let mut raw = Raw::server();
    for round in 0..NUISANCE_FRAMES_MAX * 4 {
        let (kept, cancelled) = (round * 2 + 1, round * 2 + 2);
        raw.feed(
            &[
                open(kept, &item(b"a"), true),
                open(cancelled, &item(b"b"), true),
                frame(RESET, cancelled, &[0; 4]),
            ]
            .concat(),
        );
        let calls = raw.calls();
        raw.side.events.ended.clear();
        raw.side.mux.reply(calls[0].0, &Metadata::new(), &message(1, 1), &Metadata::new());
        let _frames = raw.frames();
    }
    raw.expect_alive();
}

#[test]
fn many_small_messages_are_no_flood() {
    let mut raw = with_stream();
    let (key, _) = raw.calls().pop().unwrap();
    for _ in 0..NUISANCE_FRAMES_MAX * 4 {
        raw.feed(&frame(DATA, 1, &item(b"x")));
        let _read = raw.side.mux.poll_chunk(key, &noop());
    }
    raw.expect_alive();
}

/// What was under way when this side ended a stream is not the peer's fault, however many frames it is.
#[test]
fn frames_that_crossed_the_end_of_their_stream_are_no_flood() {
    const ITEMS: usize = NUISANCE_FRAMES_MAX as usize * 4;
    // The client drops a stream of small items.
    let mut pair = Pair::ready();
    let (key, server_key) = pair.stream();
    pair.server.mux.reply_head(server_key, &Metadata::new());
    for _ in 0..ITEMS {
        pair.server.mux.send(server_key, framed(32, 1), false);
    }
    pair.server.write_all();
    pair.client.mux.release_call(key);
    pair.run();
    assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
    // The server answers before the client's items are all there.
    let (key, server_key) = pair.stream();
    for _ in 0..ITEMS {
        pair.client.mux.send(key, framed(32, 1), false);
    }
    pair.client.write_all();
    pair.server.mux.finish_call(server_key, None, &Metadata::new());
    pair.run();
    assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
    pair.client.mux.release_call(key);
    // Many calls that the client gives up while their answers are under way.
    for _ in 0..10 {
        let keys: Vec<_> = (0..1_000).map(|_| pair.open(1, 1, true, None).unwrap()).collect();
        pair.run();
        for call in std::mem::take(&mut pair.calls) {
            pair.reply(call.key, 10);
        }
        pair.server.write_all();
        for key in keys {
            pair.client.mux.release_call(key);
        }
        // The server sees resets of calls that it answered: these it may count, so time passes.
        pair.advance(Duration::from_secs(8));
        pair.run();
        assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
    }
    pair.check_credit();
}

#[test]
fn claims_of_length_cost_no_memory() {
    let config = MuxConfig {
        max_message: 1024 * 1024 * 1024,
        assembly_bytes_max: 1024 * 1024 * 1024,
        ..MuxConfig::default()
    };
    let mut raw = Raw::started(Role::Server, config);
    raw.feed(&open(1, &0x3fff_ffff_u32.to_be_bytes(), false));
    raw.expect_alive();
    assert!(raw.side.mux.assembling <= 2 * 1024 * 1024);
}

#[test]
fn incomplete_messages_of_all_streams_share_one_bound() {
    let config = MuxConfig {
        assembly_bytes_max: 8 * 1024 * 1024,
        ..MuxConfig::default()
    };
    let bound = config.assembly_bytes_max;
    let mut raw = Raw::started(Role::Server, config);
    let mut refused = 0;
    for stream in 1..=200 {
        raw.feed(&open(
            stream,
            &[&0x0030_0000_u32.to_be_bytes()[..], &[1; 10_000]].concat(),
            false,
        ));
        refused += raw.frames().iter().filter(|(kind, ..)| *kind == END | FIN).count();
        raw.side.events.ended.clear();
        raw.side.events.incoming.clear();
        let mut held = 0;
        raw.side.mux.streams.for_each(|stream| held += stream.recv.assembly_bytes());
        assert_eq!(held, raw.side.mux.assembling);
        assert!(held <= bound + 2 * 1024 * 1024, "{held}");
    }
    raw.expect_alive();
    assert!(refused > 150);
}

/// A client that gives no credit and lets its deadlines pass: nothing of its calls may stay behind.
#[test]
fn calls_that_starve_for_credit_leave_nothing_behind() {
    let mut raw = Raw::server();
    let mut stream = 0;
    // Use the connection's credit up: from now on every large reply waits.
    for _ in 0..17 {
        stream += 1;
        raw.feed(&open(stream, &item(b"a"), true));
        let key = raw.calls().pop().unwrap().0;
        raw.side.mux.reply(
            key,
            &Metadata::new(),
            &message(STREAM_WINDOW_MIN as usize - 4, 1),
            &Metadata::new(),
        );
        let _frames = raw.frames();
    }
    let open_before = raw.side.mux.open_streams();
    for _ in 0..10_000 {
        stream += 1;
        let mut body = head(1);
        body.extend_from_slice(&item(b"a"));
        raw.feed(&frame(OPEN | FIN, stream, &body));
        let key = raw.calls().pop().unwrap().0;
        raw.side.mux.reply(key, &Metadata::new(), &message(10_000, 1), &Metadata::new());
        let _frames = raw.frames();
        raw.now += Duration::from_millis(1);
        raw.side.mux.handle_timeout(raw.now, &mut raw.side.events);
        raw.side.events.ended.clear();
        let _frames = raw.frames();
    }
    raw.expect_alive();
    assert!(raw.side.mux.open_streams() <= open_before);
    assert!(
        raw.side.mux.starved.len() <= 100,
        "{} streams wait, all but one are gone",
        raw.side.mux.starved.len()
    );
    assert!(raw.side.mux.ready.len() <= 100);
}

#[test]
fn unread_items_of_many_streams_are_bounded_by_the_connection() {
    let mut raw = Raw::server();
    let window = MuxConfig::default().connection_window as usize;
    let mut sent = 0;
    for stream in 1..=30 {
        raw.feed(&open(stream, &item(b""), false));
        for _ in 0..1_100 {
            raw.feed(&frame(DATA, stream, &item(&[1; 1_000])));
            if raw.side.mux.end().is_some() {
                assert!(sent <= window + 10_000);
                raw.expect_end(ErrorCode::FlowControl);
                return;
            }
            sent += 1_004;
        }
    }
    panic!("more than the connection's window was taken");
}

#[test]
fn frames_that_arrive_together_with_the_end_of_the_connection_do_nothing() {
    let mut raw = Raw::server();
    let bytes = [frame(11, 0, &[]), open(1, &item(b"a"), true), frame(DATA, 9, &[1; 70])].concat();
    raw.feed(&bytes);
    raw.expect_end(ErrorCode::Protocol);
    assert!(raw.side.events.incoming.is_empty());
    raw.feed(&bytes);
    assert!(raw.frames().is_empty(), "one GOAWAY and no more");
}

#[test]
fn a_client_survives_a_server_that_answers_too_much() {
    let mut raw = Raw::client();
    let mut keys = Vec::new();
    for _ in 0..3 {
        let request = OpenRequest {
            method: 7,
            timeout: 0,
            deadline: None,
            metadata: &Metadata::new(),
            arguments: &message(3, 1),
            fin: true,
        };
        keys.push(raw.side.mux.open(raw.now, &request).unwrap());
    }
    let body = [vec![0, 0], item(b"yes"), item(b"again")].concat();
    raw.feed(
        &[
            frame(REPLY | FIN, 1, &body),
            frame(REPLY, 1, &body),
            frame(END | FIN, 1, &[2, 0, 0, 0]),
        ]
        .concat(),
    );
    let Poll::Ready(Ok(reply)) = raw.side.mux.poll_reply(keys[0], &noop()) else {
        panic!("the first answer counts")
    };
    assert_eq!((&reply.message.unwrap()[..], reply.status), (&b"yes"[..], None));
    raw.feed(&[frame(END | FIN, 2, &[5, 0, 0, 0]), frame(REPLY | FIN, 2, &body)].concat());
    let Poll::Ready(Ok(reply)) = raw.side.mux.poll_reply(keys[1], &noop()) else {
        panic!("the first answer counts")
    };
    assert!(reply.status.is_some() && reply.message.is_none());
    raw.expect_alive();
}
