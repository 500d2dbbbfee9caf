//! What a peer that reads slowly, or never, may cost: the others of its connection nothing, and this side a bounded amount of memory.

use std::task::{Context, Poll};
use std::time::Duration;

use super::pair::{Counter, Pair, framed, message, noop};
use super::raw::{DATA, FIN, REPLY, RESET, Raw, frame, message as item, open};
use crate::metadata::Metadata;
use crate::mux::recv::Chunk;
use crate::mux::{MuxConfig, OpenRequest};
use crate::wire::frame::{ErrorCode, StreamId};

/// Unread streams hold half of the connection's window; what is read promptly must bring the rest of it back in time.
#[test]
fn unread_streams_leave_room_for_other_calls() {
    let mut pair = Pair::ready();
    let mut unread = Vec::new();
    for _ in 0..8 {
        let (key, server_key) = pair.stream();
        for _ in 0..40 {
            pair.server.mux.send(server_key, framed(32 * 1024, 1), false);
        }
        pair.run();
        unread.push((key, server_key));
    }
    for round in 0..300 {
        let (key, server_key) = pair.call(10);
        pair.reply(server_key, 100_000);
        pair.run();
        let polled = pair.client.mux.poll_reply(key, &noop());
        assert!(matches!(polled, Poll::Ready(Ok(_))), "answer {round} did not arrive");
    }
    for (key, server_key) in unread {
        pair.server.mux.finish_call(server_key, None, &Metadata::new());
        pair.run();
        pair.client.mux.release_call(key);
    }
    pair.run();
    pair.check_credit();
}

/// A task that is polled first with one waker and then with another is woken by the second; and the one behind it gets its turn.
#[test]
fn an_opener_that_moved_to_another_task_is_woken_there() {
    let one = MuxConfig {
        max_streams: 1,
        ..MuxConfig::default()
    };
    let mut pair = Pair::with(MuxConfig::default(), one);
    pair.run();
    let (key, server_key) = pair.call(1);
    let ((first, first_waker), (second, second_waker)) = (Counter::new(), Counter::new());
    let mut place = None;
    pair.client.mux.wait_to_open(&mut place, &Context::from_waker(&first_waker));
    pair.client.mux.wait_to_open(&mut place, &Context::from_waker(&second_waker));
    pair.reply(server_key, 1);
    pair.run();
    let _answer = pair.take_reply(key);
    let mut woken = Vec::new();
    pair.client.mux.take_woken(&mut woken);
    woken.drain(..).for_each(std::task::Waker::wake);
    assert_eq!((first.count(), second.count()), (0, 1));
}

/// Every incomplete message may grow to the limit of one message, but all together never above the limit of all.
#[test]
fn incomplete_messages_stay_within_their_bound_while_they_grow() {
    let mut raw = Raw::server();
    let config = MuxConfig::default();
    let claim = u32::try_from(config.max_message).unwrap().to_be_bytes();
    for stream in 1..=100 {
        raw.feed(&open(stream, &claim, false));
    }
    let piece = vec![0; 60_000];
    for _ in 0..(config.max_message - 1) / piece.len() {
        for stream in 1..=100 {
            if raw.side.mux.streams.by_id(StreamId(stream)).is_some() {
                raw.feed(&frame(DATA, stream, &piece));
            }
            assert!(
                raw.side.mux.assembling <= config.assembly_bytes_max,
                "{}",
                raw.side.mux.assembling
            );
        }
        let _sent = raw.frames();
    }
    raw.expect_alive();
    let mut held = 0;
    raw.side.mux.streams.for_each(|stream| held += stream.recv.assembly_bytes());
    assert_eq!(held, raw.side.mux.assembling, "what is counted is what is held");
    assert!(held > config.assembly_bytes_max / 2, "those that were let in go on");
}

/// Frames that end inside the length of the next message do not make each message cost a place in the queue.
#[test]
fn messages_cut_inside_their_length_share_one_buffer() {
    let mut raw = Raw::server();
    raw.feed(&open(1, &item(&[0x90]), false));
    raw.feed(&frame(DATA, 1, &[0, 0]));
    for _ in 0..10_000 {
        raw.feed(&frame(DATA, 1, &[0, 0, 0, 0]));
    }
    raw.expect_alive();
    let stream = raw.side.mux.streams.by_id(StreamId(1)).unwrap();
    let mut chunks = 0;
    let mut messages = 0;
    while let Some((chunk, _)) = stream.recv.take() {
        chunks += 1;
        messages += match chunk {
            Chunk::One(_) => 1,
            Chunk::Batch(batch) => batch.len() / 4,
        };
    }
    assert_eq!(messages, 10_000);
    assert!(chunks <= 2, "{chunks} places for 10,000 empty messages");
}

/// Items that come one at a time and are not taken hold about their bytes, not a buffer each.
#[test]
fn tiny_items_that_nobody_takes_are_bounded_by_what_they_hold() {
    let mut pair = Pair::ready();
    let (_key, server_key) = pair.stream();
    loop {
        let credit = pair.server.mux.streams.get(server_key).unwrap().send.credit as usize;
        if credit == 0 {
            break;
        }
        pair.server.mux.send(server_key, framed(credit.min(30_000).saturating_sub(4), 1), false);
        pair.run();
    }
    let mut items = 0;
    while pair.server.mux.poll_send_ready(server_key, &noop()).is_ready() {
        let mut batch = Vec::with_capacity(4_096);
        batch.extend_from_slice(&framed(1, 1));
        pair.server.mux.send(server_key, batch, false);
        items += 1;
        assert!(items < 100_000, "the queue has a bound");
    }
    // 128 KiB of pieces that cost 96 bytes each beside their own five.
    assert!((1_000..=2_000).contains(&items), "{items}");
}

/// An answer without a deadline is kept as long as the client takes something of it now and then.
#[test]
fn an_answer_that_stands_still_is_given_up() {
    let mut pair = Pair::ready();
    let (_key, server_key) = pair.call(1);
    pair.reply(server_key, 3_000_000);
    let none: &mut Vec<u8> = &mut Vec::new();
    let mut events = crate::mux::Events::default();
    for _ in 0..3 {
        pair.server.write_all();
        none.append(&mut pair.server.sent);
        pair.server.mux.date(pair.now);
        pair.now += Duration::from_secs(59);
        pair.server.mux.handle_timeout(pair.now, &mut events);
        assert_eq!(pair.server.mux.open_streams(), 1);
        // A little credit, as a slow client gives it.
        let credit = frame(super::raw::CREDIT, server_key.id().0, &100_000_u32.to_be_bytes());
        pair.server.feed(pair.now, &credit);
    }
    pair.server.write_all();
    pair.server.mux.date(pair.now);
    pair.now += Duration::from_secs(60);
    pair.server.mux.handle_timeout(pair.now, &mut events);
    assert_eq!((pair.server.mux.open_streams(), pair.server.mux.queued_answers), (0, 0));
}

/// A server that repeats itself on a stream that broke a rule is reset once and then held to its budget.
#[test]
fn a_server_that_repeats_a_broken_rule_is_reset_once() {
    let mut raw = Raw::client();
    let (message, metadata) = (message(1, 1), Metadata::new());
    let request = OpenRequest {
        method: 1,
        timeout: 0,
        deadline: None,
        metadata: &metadata,
        arguments: &message,
        fin: true,
    };
    raw.side.mux.open(crate::time::now(), &request).unwrap();
    let _open = raw.frames();
    for _ in 0..1_000 {
        raw.feed(&frame(REPLY, 1, &[0, 0]));
    }
    raw.expect_alive();
    let resets = raw.frames().iter().filter(|(kind, ..)| *kind == RESET).count();
    assert_eq!(resets, 1);
    for _ in 0..10_000 {
        raw.feed(&frame(REPLY | FIN, 1, &[0, 0]));
    }
    raw.expect_end(ErrorCode::CalmDown);
}

/// The head of a call may not hold more memory than its bytes justify: many tiny entries are refused.
#[test]
fn metadata_has_a_limit_of_entries() {
    for (entries, fits) in [(255, true), (256, true), (257, false)] {
        let mut raw = Raw::server();
        let mut head = super::raw::head(0);
        let block: Vec<u8> = std::iter::repeat_n([1, b'a', 0, 0], entries).flatten().collect();
        let len = u16::try_from(block.len()).unwrap().to_be_bytes();
        let at = head.len() - 2;
        head[at..].copy_from_slice(&len);
        head.extend_from_slice(&block);
        head.extend_from_slice(&item(&[0x90]));
        raw.feed(&frame(super::raw::OPEN | FIN, 1, &head));
        raw.expect_alive();
        assert_eq!(raw.calls().len(), usize::from(fits), "{entries}");
        let mut metadata = Metadata::new();
        for _ in 0..entries {
            metadata.append("a", "").unwrap();
        }
        let mut pair = Pair::ready();
        assert_eq!(
            pair.open_with(1, &message(1, 1), &metadata, true, None).is_ok(),
            fits,
            "{entries}"
        );
    }
}
