//! Keepalive, idleness, shutdown in two phases, and the races between them.

use std::task::Poll;
use std::time::Duration;

use super::pair::{Pair, message, noop};
use super::raw::{FIN, GOAWAY, OPEN, PING, PONG, Raw, frame, message as item, open};
use crate::metadata::Metadata;
use crate::mux::{EndCause, Events, MuxConfig, OpenError, OpenRequest, Role, StreamError};
use crate::wire::frame::ErrorCode;

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn a_peer_that_never_says_hello_is_let_go() {
    let config = MuxConfig::default();
    let mut raw = Raw::silent(Role::Server, config.clone());
    raw.feed(&super::raw::preface());
    raw.now += config.handshake_timeout - Duration::from_millis(1);
    raw.side.mux.handle_timeout(raw.now, &mut raw.side.events);
    raw.expect_alive();
    raw.now += Duration::from_millis(1);
    assert_eq!(raw.side.mux.next_timeout(), Some(raw.now));
    raw.side.mux.handle_timeout(raw.now, &mut raw.side.events);
    raw.expect_end(ErrorCode::HandshakeTimeout);
}

#[test]
fn a_silent_peer_is_pinged_and_then_given_up() {
    let mut pair = Pair::ready();
    let (key, _) = pair.call(1);
    // The peer answers pings: the call may take as long as it likes.
    pair.advance(Duration::from_mins(10));
    assert!(pair.client.mux.poll_reply(key, &noop()).is_pending());
    assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
    // From now on nothing arrives any more.
    let config = MuxConfig::default();
    pair.now += config.keepalive_interval.unwrap();
    pair.client.mux.handle_timeout(pair.now, &mut pair.client.events);
    pair.client.write_all();
    assert_eq!(pair.client.mux.end(), None);
    pair.now += config.keepalive_timeout;
    pair.client.mux.handle_timeout(pair.now, &mut pair.client.events);
    assert_eq!(pair.client.mux.end().unwrap().code(), ErrorCode::KeepaliveTimeout);
    assert!(matches!(
        pair.take_reply(key),
        Err(StreamError::Connection { sent: true, .. })
    ));
}

#[test]
fn a_connection_without_calls_is_not_pinged() {
    let mut pair = Pair::ready();
    pair.now += Duration::from_mins(29);
    pair.client.mux.handle_timeout(pair.now, &mut pair.client.events);
    assert!(!pair.client.mux.wants_transmit());
}

/// A client that is set to a shorter interval than the server allows must not talk itself out of the connection.
#[test]
fn keepalive_honours_what_the_peer_announced() {
    let eager = MuxConfig {
        keepalive_interval: Some(SECOND),
        keepalive_timeout: SECOND,
        ..MuxConfig::default()
    };
    for (client, server) in [(eager.clone(), MuxConfig::default()), (MuxConfig::default(), eager)] {
        let mut pair = Pair::with(client, server);
        pair.run();
        let (key, _) = pair.call(1);
        pair.advance(Duration::from_mins(5));
        assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None));
        assert!(pair.client.mux.poll_reply(key, &noop()).is_pending());
    }
}

/// A peer cannot switch keepalive off by announcing that it wants no pings.
#[test]
fn keepalive_cannot_be_talked_out_of() {
    let lazy = MuxConfig {
        ping_interval_min: Duration::from_secs(u64::from(u32::MAX)),
        ..MuxConfig::default()
    };
    let mut pair = Pair::unchecked(lazy, MuxConfig::default());
    pair.run();
    pair.call(1);
    let due = pair.server.mux.next_timeout().unwrap();
    assert!(
        due <= pair.now + Duration::from_mins(5),
        "a dead peer is found in minutes, whatever it announced"
    );
}

#[test]
fn pings_closer_together_than_announced_end_the_connection() {
    let ping = frame(PING, 0, &[1; 8]);
    let mut raw = Raw::server();
    for _ in 0..3 {
        raw.feed(&ping);
        raw.expect_alive();
    }
    assert_eq!(raw.frames().iter().filter(|(kind, ..)| *kind == PONG).count(), 3);
    raw.feed(&ping);
    assert_eq!(raw.side.mux.end().unwrap().reason(), "too_many_pings");
    raw.expect_end(ErrorCode::CalmDown);
    // At the announced pace they are welcome for ever.
    let mut raw = Raw::server();
    for _ in 0..100 {
        raw.feed(&ping);
        raw.now += MuxConfig::default().ping_interval_min;
    }
    raw.expect_alive();
}

#[test]
fn a_connection_at_rest_closes_and_tells_the_peer() {
    let config = MuxConfig {
        idle_timeout: Some(SECOND * 60),
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), config);
    pair.run();
    pair.advance(SECOND * 59);
    let (key, server_key) = pair.call(1);
    pair.advance(SECOND * 300);
    assert_eq!(pair.server.mux.end(), None, "a call is open");
    pair.reply(server_key, 1);
    pair.run();
    pair.take_reply(key).unwrap();
    pair.advance(SECOND * 59);
    assert_eq!(pair.server.mux.end(), None);
    pair.advance(SECOND * 2);
    assert_eq!(pair.server.mux.end().unwrap().code(), ErrorCode::Idle);
    assert_eq!(pair.client.mux.end().unwrap().code(), ErrorCode::Idle);
    assert!(pair.client.mux.end().unwrap().is_by_peer());
}

/// The handler outlives its call, and the idle time-out passes meanwhile: no timer may spin.
#[test]
fn a_handler_that_runs_on_keeps_the_connection_and_its_timer_still() {
    let config = MuxConfig {
        idle_timeout: Some(SECOND * 3),
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), config);
    pair.run();
    let _key = pair.open(1, 1, true, Some(SECOND)).unwrap();
    pair.run();
    pair.advance(SECOND);
    assert_eq!(pair.ended[0].1, EndCause::DeadlineExceeded);
    pair.server.mux.hold();
    pair.advance(SECOND * 10);
    assert_eq!(pair.server.mux.end(), None);
    assert!(pair.server.mux.next_timeout().is_none_or(|due| due > pair.now));
    pair.server.mux.release();
    assert!(
        pair.server.mux.next_timeout().is_some_and(|due| due <= pair.now),
        "now it may close"
    );
}

#[test]
fn a_drain_takes_what_is_under_way_and_then_no_more() {
    let mut pair = Pair::ready();
    let (running, running_server) = pair.call(1);
    let crossing = pair.open(2, 1, true, None).unwrap();
    pair.client.write_all();
    pair.server.mux.start_drain(pair.now);
    pair.server.write_all();
    pair.deliver_to_client(usize::MAX);
    assert!(pair.client.events.going_away);
    assert_eq!(pair.open(3, 1, true, None).unwrap_err(), OpenError::GoingAway);
    pair.deliver_to_server(usize::MAX);
    assert_eq!(
        pair.calls.len(),
        1,
        "the call that crossed the first GOAWAY is taken up"
    );
    pair.run();
    assert!(!pair.server.mux.is_drained());
    let crossed_server = pair.calls[0].key;
    pair.reply(running_server, 1);
    pair.reply(crossed_server, 2);
    pair.run();
    assert!(pair.take_reply(running).unwrap().message.is_some());
    assert!(pair.take_reply(crossing).unwrap().message.is_some());
    assert!(pair.server.mux.is_drained() && pair.client.mux.is_drained());
    pair.client.mux.handle_end("closed", &mut pair.client.events);
    assert_eq!(pair.client.mux.end().unwrap().code(), ErrorCode::None, "an orderly end");
}

/// A client that opens streams behind the last one is told which were not taken up, and may send them elsewhere.
#[test]
fn streams_behind_the_last_one_were_not_processed() {
    let mut pair = Pair::ready();
    let (first, _) = pair.call(1);
    pair.server.mux.start_drain(pair.now);
    // The ping of the drain is not answered in time: the server stops taking calls all the same.
    pair.now += SECOND;
    pair.server.mux.handle_timeout(pair.now, &mut pair.server.events);
    let late = pair.open(2, 100_000, true, None).unwrap();
    pair.run();
    assert!(pair.calls.is_empty());
    assert_eq!(pair.take_reply(late).unwrap_err(), StreamError::NotProcessed);
    assert!(
        pair.client.mux.poll_reply(first, &noop()).is_pending(),
        "the earlier one goes on"
    );
    pair.check_credit();
}

#[test]
fn goaways_may_come_twice_and_lower_their_last_stream() {
    let go_away = |last: u32, code: u32| {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend_from_slice(&code.to_be_bytes());
        payload.extend_from_slice(b"why");
        frame(GOAWAY, 0, &payload)
    };
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
    let _sent = raw.frames();
    let state = |raw: &mut Raw| -> Vec<Option<bool>> {
        keys.iter()
            .map(|key| match raw.side.mux.poll_reply(*key, &noop()) {
                Poll::Pending => None,
                Poll::Ready(reply) => Some(reply.is_err_and(|error| error == StreamError::NotProcessed)),
            })
            .collect()
    };
    raw.feed(&go_away(u32::MAX, 0));
    assert_eq!(state(&mut raw), [None, None, None]);
    raw.feed(&go_away(2, 0));
    assert_eq!(state(&mut raw)[..2], [None, None]);
    raw.feed(&go_away(1, 0));
    raw.feed(&go_away(2, 0));
    assert_eq!(state(&mut raw)[0], None);
    // An error ends those that were taken up too, with its cause.
    raw.feed(&go_away(1, 6));
    assert_eq!(raw.side.mux.end().unwrap().reason(), "why");
    assert!(matches!(
        raw.side.mux.poll_reply(keys[0], &noop()),
        Poll::Ready(Err(StreamError::Connection { sent: true, .. }))
    ));
    raw.feed(&go_away(0, 6));
}

#[test]
fn a_goaway_with_an_error_says_what_was_not_processed() {
    let mut raw = Raw::server();
    raw.feed(&[open(1, &item(b"a"), true), open(4, &item(b"b"), true)].concat());
    raw.feed(&frame(OPEN | FIN, 4, b""));
    assert_eq!(raw.go_away(), (ErrorCode::Protocol, 4));
    let ended: Vec<_> = raw.side.events.ended.iter().map(|ended| ended.key.id().0).collect();
    assert_eq!(ended, [1, 4], "both calls end, once each");
    raw.feed(&open(9, &item(b"c"), true));
    assert_eq!(raw.side.events.incoming.len(), 2, "nothing is taken up after the end");
}

#[test]
fn a_call_that_never_left_says_so() {
    let mut pair = Pair::ready();
    let sent = pair.open(1, 1, true, None).unwrap();
    pair.client.write_all();
    let unsent = pair.open(2, 1, true, None).unwrap();
    pair.client.mux.handle_end("cut", &mut pair.client.events);
    assert!(matches!(
        pair.take_reply(sent),
        Err(StreamError::Connection { sent: true, .. })
    ));
    assert!(matches!(
        pair.take_reply(unsent),
        Err(StreamError::Connection { sent: false, .. })
    ));
}

#[test]
fn everybody_who_waits_is_woken_by_the_end() {
    let mut pair = Pair::ready();
    let (counter, waker) = super::pair::Counter::new();
    let task = std::task::Context::from_waker(&waker);
    let (unary, _) = pair.call(1);
    let (streaming, server_key) = pair.stream();
    let (sending, _) = pair.stream();
    pair.client.mux.send(sending, super::pair::framed(3_000_000, 1), false);
    assert!(pair.client.mux.poll_reply(unary, &task).is_pending());
    assert!(pair.client.mux.poll_head(streaming, &task).is_pending());
    assert!(pair.client.mux.poll_send_ready(sending, &task).is_pending());
    assert!(pair.server.mux.poll_chunk(server_key, &task).is_pending());
    pair.client.mux.wait_to_open(&mut None, &task);
    let mut events = Events::default();
    pair.client.mux.handle_end("cut", &mut events);
    assert_eq!(events.wakers.len(), 4);
    pair.server.mux.handle_end("cut", &mut events);
    assert_eq!(events.wakers.len(), 5);
    assert_eq!(events.ended.len(), 3);
    events.wakers.into_iter().for_each(std::task::Waker::wake);
    assert_eq!(counter.count(), 5);
    // The end comes once.
    let mut events = Events::default();
    pair.client.mux.handle_end("again", &mut events);
    pair.client.mux.close(ErrorCode::None, "again", &mut events);
    assert!(events.is_empty());
    assert_eq!(pair.client.mux.end().unwrap().reason(), "cut");
}

/// A client that makes short calls, one after the other, to a peer that is gone: each gives up before a ping would be due.
#[test]
fn short_calls_do_not_hide_that_the_peer_is_dead() {
    let mut pair = Pair::ready();
    let began = pair.now;
    for _ in 0..30 {
        if pair.client.mux.end().is_some() {
            break;
        }
        let key = pair.open(1, 8, true, Some(Duration::from_secs(1))).unwrap();
        // What the client sends is lost.
        pair.client.write_all();
        pair.client.sent.clear();
        for _ in 0..10 {
            pair.now += Duration::from_millis(100);
            pair.client.mux.handle_timeout(pair.now, &mut pair.client.events);
        }
        pair.client.mux.release_call(key);
    }
    let end = pair.client.mux.end().expect("the silence was noticed");
    assert_eq!(end.code(), ErrorCode::KeepaliveTimeout);
    assert!(pair.now - began <= Duration::from_secs(17), "{:?}", pair.now - began);
}

/// A call that provably did not leave is made again elsewhere, so it must not leave afterwards, when the last frames of its connection do.
#[test]
fn what_had_not_left_when_the_connection_ended_never_leaves() {
    for early in [true, false] {
        let mut pair = if early { Pair::new() } else { Pair::ready() };
        let key = pair.open(1, 8, true, None).unwrap();
        let mut events = Events::default();
        pair.client.mux.close(ErrorCode::KeepaliveTimeout, "enough", &mut events);
        pair.run();
        assert!(pair.calls.is_empty(), "the call was made after its end");
        assert_eq!(pair.server.mux.end().expect("GOAWAY arrived").reason(), "enough");
        let Err(StreamError::Connection { sent, .. }) = pair.take_reply(key) else {
            panic!("the connection is over");
        };
        assert!(!sent);
    }
}
