//! Calls over a pair: what goes in on one side comes out on the other, whole, once, in order.

use std::task::{Context, Poll};
use std::time::Duration;

use super::pair::{Counter, Pair, framed, message, messages, noop};
use crate::metadata::Metadata;
use crate::mux::{EndCause, MuxConfig, OpenError, StreamError};
use crate::status::Status;
use crate::wire::frame::{ErrorCode, StreamId};

#[test]
fn the_first_call_leaves_in_the_first_flight() {
    let mut pair = Pair::new();
    let key = pair.open(5, 100, true, None).unwrap();
    pair.client.write_all();
    pair.deliver_to_server(usize::MAX);
    assert_eq!(
        (pair.calls.len(), pair.calls[0].method, pair.calls[0].arguments.len()),
        (1, 5, 100)
    );
    let server_key = pair.calls[0].key;
    pair.reply(server_key, 50);
    pair.run();
    assert_eq!(pair.take_reply(key).unwrap().message.unwrap().len(), 50);
    assert_eq!((pair.client.mux.open_streams(), pair.server.mux.open_streams()), (0, 0));
    pair.check_credit();
}

#[test]
fn every_size_arrives_whole_both_ways() {
    let mut pair = Pair::ready();
    for size in [0, 1, 4091, 4092, 4093, 65_536, 1_114_112, 4 * 1024 * 1024] {
        let (key, server_key) = {
            let key = pair.open(3, size, true, None).unwrap();
            pair.run();
            let call = pair.calls.pop().unwrap();
            assert!(call.arguments.len() == size && call.arguments.iter().all(|byte| *byte == 3));
            (key, call.key)
        };
        pair.reply(server_key, size);
        pair.run();
        let reply = pair.take_reply(key).unwrap().message.unwrap();
        assert!(reply.len() == size && reply.iter().all(|byte| *byte == 7));
        pair.check_credit();
    }
}

#[test]
fn a_small_call_overtakes_a_large_one() {
    let mut pair = Pair::ready();
    pair.open(1, 4 * 1024 * 1024, true, None).unwrap();
    pair.client.write_turn();
    let ahead = pair.client.sent.len();
    pair.open(2, 10, true, None).unwrap();
    pair.client.write_turn();
    pair.deliver_to_server(ahead + 64 * 1024);
    assert_eq!(
        pair.calls.len(),
        1,
        "it left in the next turn, in front of the rest of the large one"
    );
    assert_eq!(pair.calls[0].method, 2);
}

#[test]
fn large_calls_share_the_connection() {
    let mut pair = Pair::ready();
    for method in 1..=4 {
        pair.open(method, 1024 * 1024, true, None).unwrap();
    }
    let mut progress = [0; 4];
    while pair.calls.is_empty() {
        assert!(pair.client.write_turn());
        pair.deliver_to_server(usize::MAX);
        for (at, bytes) in progress.iter_mut().enumerate() {
            let id = StreamId(u32::try_from(at + 1).unwrap());
            let held = pair.server.mux.streams.by_id(id).map_or(0, |stream| stream.recv.assembly_bytes());
            *bytes = held.max(*bytes);
        }
    }
    pair.run();
    assert_eq!(pair.calls.len(), 4);
    assert!(
        progress.iter().all(|bytes| *bytes > 0),
        "none waited for another to end: {progress:?}"
    );
}

#[test]
fn a_stream_is_read_in_batches_and_ends_once() {
    let mut pair = Pair::ready();
    let (key, server_key) = pair.stream();
    pair.server.mux.reply_head(server_key, &Metadata::new());
    for size in [1, 2, 5_000, 3] {
        pair.server.mux.send(server_key, framed(size, 1), false);
    }
    let mut trailers = Metadata::new();
    trailers.append("sum", "4").unwrap();
    pair.server.mux.finish_call(server_key, None, &trailers);
    pair.run();
    assert!(matches!(pair.client.mux.poll_head(key, &noop()), Poll::Ready(Ok(_))));
    let mut sizes = Vec::new();
    while let Poll::Ready(Ok(Some(chunk))) = pair.client.mux.poll_chunk(key, &noop()) {
        sizes.extend(messages(chunk).iter().map(Vec::len));
    }
    assert_eq!(sizes, [1, 2, 5_000, 3]);
    assert!(matches!(
        pair.client.mux.poll_chunk(key, &noop()),
        Poll::Ready(Ok(None))
    ));
    assert_eq!(pair.client.mux.take_status(key), (None, trailers));
    pair.client.mux.release_call(key);
    pair.run();
    assert_eq!((pair.client.mux.open_streams(), pair.server.mux.open_streams()), (0, 0));
    assert!(pair.ended.is_empty(), "an orderly end is no cancellation");
    pair.check_credit();
}

#[test]
fn a_sender_waits_for_room_and_is_woken_once() {
    let mut pair = Pair::ready();
    let (_, server_key) = pair.stream();
    pair.server.mux.reply_head(server_key, &Metadata::new());
    let (counter, waker) = Counter::new();
    let task = Context::from_waker(&waker);
    let mut sent = 0;
    while pair.server.mux.poll_send_ready(server_key, &task).is_ready() {
        pair.server.mux.send(server_key, framed(16 * 1024, 1), false);
        sent += 1;
        assert!(sent < 100, "a sender that nobody reads is stopped");
    }
    pair.run();
    let mut woken = Vec::new();
    pair.server.mux.take_woken(&mut woken);
    woken.into_iter().for_each(std::task::Waker::wake);
    assert_eq!(counter.count(), 1);
    // Nobody reads at the client: what leaves is bounded by the stream's window.
    while pair.server.mux.poll_send_ready(server_key, &task).is_ready() {
        pair.server.mux.send(server_key, framed(16 * 1024, 1), false);
        pair.run();
        sent += 1;
        assert!(sent * 16 * 1024 < 2 * 1024 * 1024, "back-pressure reaches the sender");
    }
    assert!(pair.server.mux.poll_send_ready(server_key, &noop()).is_pending());
}

#[test]
fn cancelling_reaches_the_server_and_frees_both_sides() {
    let mut pair = Pair::ready();
    let (key, server_key) = pair.call(10);
    pair.client.mux.release_call(key);
    pair.run();
    assert_eq!(pair.ended, [(server_key, EndCause::Cancelled)]);
    assert_eq!((pair.client.mux.open_streams(), pair.server.mux.open_streams()), (0, 0));
    // What the handler still says goes nowhere.
    pair.reply(server_key, 100);
    pair.server.mux.finish_call(server_key, Some(&Status::internal("late")), &Metadata::new());
    pair.run();
    assert_eq!(pair.ended.len(), 1);
    pair.check_credit();
}

#[test]
fn a_call_above_the_limit_waits_and_is_woken() {
    let server = MuxConfig {
        max_streams: 2,
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), server);
    pair.run();
    let (key, server_key) = pair.call(1);
    pair.call(1);
    assert_eq!(pair.open(1, 1, true, None).unwrap_err(), OpenError::Full);
    let (counter, waker) = Counter::new();
    pair.client.mux.wait_to_open(&mut None, &Context::from_waker(&waker));
    pair.reply(server_key, 1);
    pair.run();
    pair.take_reply(key).unwrap();
    let mut woken = Vec::new();
    pair.client.mux.take_woken(&mut woken);
    woken.into_iter().for_each(std::task::Waker::wake);
    assert_eq!(counter.count(), 1);
    assert!(pair.open(1, 1, true, None).is_ok());
}

/// A caller that gave up while it waited must not swallow the wake-up of the next one.
#[test]
fn a_caller_that_gave_up_waiting_passes_its_turn_on() {
    let server = MuxConfig {
        max_streams: 1,
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), server);
    pair.run();
    let (key, server_key) = pair.call(1);
    let (_gone, gone_waker) = Counter::new();
    let (next, next_waker) = Counter::new();
    let (mut gone_place, mut next_place) = (None, None);
    pair.client.mux.wait_to_open(&mut gone_place, &Context::from_waker(&gone_waker));
    pair.client.mux.wait_to_open(&mut next_place, &Context::from_waker(&next_waker));
    pair.client.mux.stop_waiting_to_open(gone_place.unwrap());
    pair.reply(server_key, 1);
    pair.run();
    pair.take_reply(key).unwrap();
    let mut woken = Vec::new();
    pair.client.mux.take_woken(&mut woken);
    woken.into_iter().for_each(std::task::Waker::wake);
    assert_eq!(next.count(), 1, "the one that gave up swallowed nothing");
    // The same when it gives up after it was woken.
    let (last, last_waker) = Counter::new();
    pair.client.mux.wait_to_open(&mut None, &Context::from_waker(&last_waker));
    pair.client.mux.stop_waiting_to_open(next_place.unwrap());
    let mut woken = Vec::new();
    pair.client.mux.take_woken(&mut woken);
    woken.into_iter().for_each(std::task::Waker::wake);
    assert_eq!(last.count(), 1);
}

#[test]
fn what_the_server_does_not_take_is_not_sent() {
    let server = MuxConfig {
        max_message: 1_000,
        max_head: 256,
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), server);
    pair.run();
    assert!(pair.open(1, 1_000, true, None).is_ok());
    let error = pair.open(1, 1_001, true, None).unwrap_err();
    assert!(matches!(
        error,
        OpenError::TooLarge {
            len: 1_001,
            limit: 1_000,
            ..
        }
    ));
    for (len, fits) in [(256, true), (257, false)] {
        let mut metadata = Metadata::new();
        metadata.append("k", "v".repeat(len - 4)).unwrap();
        let opened = pair.open_with(1, &message(1, 1), &metadata, true, None);
        assert_eq!(opened.is_ok(), fits);
    }
}

/// A head and a small message may share a frame, but never one that is longer than the peer takes.
#[test]
fn a_head_at_its_limit_never_outgrows_a_frame() {
    let limits = MuxConfig {
        max_frame: 32 * 1024,
        max_head: 32 * 1024,
        ..MuxConfig::default()
    };
    for len in [30_000, 32_739, 32_740, 32_754, 32_755, 32_768] {
        let mut pair = Pair::with(limits.clone(), limits.clone());
        pair.run();
        let mut metadata = Metadata::new();
        metadata.append("k", "v".repeat(len - 4)).unwrap();
        if let Ok(key) = pair.open_with(1, &message(4_000, 1), &metadata, true, None) {
            pair.run();
            assert_eq!(pair.server.mux.end(), None, "request of {len}");
            let server_key = pair.calls.pop().unwrap().key;
            pair.server.mux.reply(server_key, &metadata, &message(4_000, 1), &Metadata::new());
            pair.run();
            assert_eq!(pair.client.mux.end(), None, "reply of {len}");
            let _ended = pair.take_reply(key);
        } else {
            assert!(len > 32_754, "a head of {len} fits a frame");
        }
    }
}

/// A handler that returns more metadata than the client takes fails its call, not the connection.
#[test]
fn response_metadata_that_the_client_does_not_take_fails_the_call_alone() {
    let mut pair = Pair::ready();
    let (other, other_server) = pair.call(1);
    for len in [16_384, 16_385, 40_000, 70_000, 200_000] {
        for streaming in [false, true] {
            let mut metadata = Metadata::new();
            let mut left = len;
            while left > 0 {
                let part = left.min(10_000);
                metadata.append("k", "v".repeat(part - 4)).unwrap();
                left -= part;
            }
            let (key, server_key) = if streaming { pair.stream() } else { pair.call(1) };
            if streaming {
                pair.server.mux.reply_head(server_key, &metadata);
                pair.server.mux.finish_call(server_key, None, &Metadata::new());
            } else {
                pair.server.mux.reply(server_key, &metadata, &message(10, 1), &Metadata::new());
            }
            pair.run();
            assert_eq!((pair.client.mux.end(), pair.server.mux.end()), (None, None), "{len}");
            let reply = pair.take_reply(key);
            let ok = reply.as_ref().is_ok_and(|reply| reply.status.is_none());
            assert_eq!(ok, len <= 16_384, "{len} {streaming} {reply:?}");
        }
    }
    pair.reply(other_server, 5);
    pair.run();
    assert!(pair.take_reply(other).unwrap().message.is_some());
    pair.check_credit();
}

#[test]
fn ids_that_are_used_up_ask_for_another_connection() {
    let mut pair = Pair::ready();
    pair.client.mux.newest = StreamId(u32::MAX - 2);
    pair.server.mux.newest = StreamId(u32::MAX - 2);
    let (key, server_key) = pair.call(1);
    assert_eq!(key.id(), StreamId(u32::MAX - 1));
    assert_eq!(pair.open(1, 1, true, None).unwrap_err(), OpenError::GoingAway);
    pair.reply(server_key, 1);
    pair.run();
    assert!(pair.take_reply(key).unwrap().message.is_some());
}

#[test]
fn a_deadline_is_never_early_and_ends_both_sides() {
    let mut pair = Pair::ready();
    let key = pair.open(1, 1, true, Some(Duration::from_millis(20))).unwrap();
    pair.run();
    pair.advance(Duration::from_millis(19));
    assert!(pair.ended.is_empty());
    assert!(pair.client.mux.poll_reply(key, &noop()).is_pending());
    pair.advance(Duration::from_millis(1));
    assert_eq!(pair.ended.len(), 1);
    assert_eq!(pair.ended[0].1, EndCause::DeadlineExceeded);
    assert_eq!(pair.take_reply(key).unwrap_err(), StreamError::DeadlineExceeded);
    assert_eq!((pair.client.mux.open_streams(), pair.server.mux.open_streams()), (0, 0));
    pair.check_credit();
}

/// A client that does not read gets no longer than its deadline: the reply's memory is freed then.
#[test]
fn a_reply_that_nobody_reads_is_dropped_at_the_deadline() {
    let mut pair = Pair::ready();
    let _key = pair.open(1, 1, true, Some(Duration::from_millis(50))).unwrap();
    pair.run();
    let server_key = pair.calls.pop().unwrap().key;
    pair.reply(server_key, 3 * 1024 * 1024);
    pair.server.write_all();
    // The bytes lie in the network; credit never comes.
    assert_eq!(pair.server.mux.open_streams(), 1);
    pair.now += Duration::from_millis(50);
    pair.server.mux.handle_timeout(pair.now, &mut pair.server.events);
    assert_eq!(pair.server.mux.open_streams(), 0);
}

#[test]
fn an_aborted_call_tells_both_sides_why() {
    let mut pair = Pair::ready();
    let (key, server_key) = pair.stream();
    let mut events = crate::mux::Events::default();
    pair.client.mux.abort_call(key, "no more rows".to_owned(), &mut events);
    pair.run();
    assert_eq!(pair.ended, [(server_key, EndCause::Cancelled)]);
    assert_eq!(
        pair.take_reply(key).unwrap_err(),
        StreamError::Aborted("no more rows".to_owned())
    );
}

#[test]
fn a_reset_by_the_server_reaches_the_caller() {
    let mut pair = Pair::ready();
    let (key, server_key) = pair.call(1);
    pair.server.mux.refuse_call(server_key);
    pair.run();
    assert_eq!(pair.take_reply(key).unwrap_err(), StreamError::NotProcessed);
    assert_eq!(pair.server.mux.open_streams(), 0);
    let (key, _) = pair.call(1);
    let mut events = crate::mux::Events::default();
    pair.server.mux.close(ErrorCode::None, "stopped", &mut events);
    pair.run();
    let _announced = pair.client.mux.poll_reply(key, &noop());
    pair.client.mux.handle_end("gone", &mut events);
    assert!(matches!(
        pair.take_reply(key),
        Err(StreamError::Connection { sent: true, .. })
    ));
}
