//! Rows 1 to 16: bytes that are not what the wire allows.

use sinew::{Code, Limits};

use super::arena::{Arena, Tree};
use super::bad::{
    Bad, CREDIT, DATA, END, FIN, FLOW_CONTROL, GOAWAY, HELLO, OPEN, PING, PONG, PREFACE, PROTOCOL, TOO_LARGE, VERSION,
    arguments, entry, frame, head, hello, message, nothing, open,
};

fn code(code: Code) -> u8 {
    code.as_u8()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_01_malformed_bytes_are_answered_with_their_error() {
    let arena = Arena::new().await;
    let greeted = |bytes: Vec<u8>| [PREFACE, &hello(), &bytes].concat();
    let cases: Vec<(Vec<u8>, u32)> = vec![
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), PROTOCOL),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), PROTOCOL),
        (vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01], PROTOCOL),
        (vec![0; 100], PROTOCOL),
        (b"\xF5SINEW\x02\x00".to_vec(), VERSION),
        ([PREFACE, &frame(PING, 0, &[0; 8])].concat(), PROTOCOL),
        ([PREFACE, &frame(HELLO, 0, &[0xc1])].concat(), PROTOCOL),
        (greeted(hello()), PROTOCOL),
        (greeted(frame(10, 0, &[])), PROTOCOL),
        (greeted(frame(15, 7, &[1; 50])), PROTOCOL),
        (greeted(frame(PING, 0, &[1; 7])), PROTOCOL),
        (greeted(frame(CREDIT, 0, &[1; 5])), PROTOCOL),
        (greeted(frame(GOAWAY, 0, &[])), PROTOCOL),
        (greeted(frame(DATA, 0, &[1])), PROTOCOL),
        (greeted(frame(DATA, 77, &[1])), PROTOCOL),
        (greeted(frame(super::bad::REPLY, 1, &[0, 0])), PROTOCOL),
        (greeted(open(0, "echo", &[], true)), PROTOCOL),
        (greeted(open(u32::MAX, "echo", &[], true)), PROTOCOL),
        (
            greeted([open(5, "wait", &nothing(), true), open(5, "wait", &nothing(), true)].concat()),
            PROTOCOL,
        ),
        (
            greeted([open(5, "wait", &nothing(), true), open(4, "wait", &nothing(), true)].concat()),
            PROTOCOL,
        ),
    ];
    for (bytes, expected) in cases {
        let mut bad = Bad::silent(&arena.target()).await;
        bad.send(&bytes).await;
        let (code, reason) = bad.sent_away().await;
        assert_eq!(code, expected, "{reason}");
    }
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_01_unknown_extensions_are_ignored() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    for kind in 16..32 {
        bad.send(&frame(kind, kind.into(), &[9; 1_000])).await;
    }
    bad.send(&frame(PING | 0x60, 0, b"are you?")).await;
    assert_eq!(bad.expect(PONG).await.payload, b"are you?");
    bad.vanish();
    arena.finish().await;
}

/// Every conversation may end after every byte.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_02_bytes_that_end_anywhere_harm_nobody() {
    let arena = Arena::new().await;
    let metadata = entry(b"key-bin", &[1, 2, 3]);
    let whole = [
        PREFACE,
        &hello(),
        &frame(OPEN, 1, &[head("count", 1_000, &metadata), nothing()].concat()),
        &frame(DATA, 1, &message(&[0xc4, 3, 1, 2, 3])),
        &frame(CREDIT, 1, &1_000_u32.to_be_bytes()),
        &frame(DATA | FIN, 1, &[]),
        &frame(PING, 0, &[1; 8]),
        &frame(GOAWAY, 0, &[0, 0, 0, 0, 0, 0, 0, 0, b'x']),
    ]
    .concat();
    for cut in 0..whole.len() {
        let mut bad = Bad::silent(&arena.target()).await;
        bad.send(&whole[..cut]).await;
        bad.vanish();
    }
    assert_eq!(arena.serving.panics(), 0);
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_03_lengths_are_judged_before_their_bytes() {
    let arena = Arena::with(|builder| builder.max_message_bytes(10_000)).await;
    let mut bad = Bad::greeted(&arena.target()).await;
    // Below, at and above the limit; a text of n bytes takes n + 4 here, the array around it included.
    for (stream, len, fits) in [(1, 9_995, true), (2, 9_996, true), (3, 9_997, false)] {
        let body = arguments(&("x".repeat(len),));
        assert_eq!(body.len() - 4 <= 10_000, fits);
        bad.send(&open(stream, "echo", &body, true)).await;
        if fits {
            assert!(bad.expect(super::bad::REPLY).await.stream == stream);
        } else {
            assert_eq!(bad.end_of(stream).await, code(Code::ResourceExhausted));
        }
    }
    // A claim alone is enough; nothing of the body needs to come.
    bad.send(&open(4, "echo", &0x7fff_ffff_u32.to_be_bytes(), false)).await;
    assert_eq!(bad.end_of(4).await, code(Code::ResourceExhausted));
    // A frame's claim ends the connection, on its header.
    bad.send(&[0xff, 0xff, 0xff, DATA, 0, 0, 0, 4]).await;
    assert_eq!(bad.sent_away().await.0, TOO_LARGE);
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_04_and_06_a_head_is_one_frame_and_bounded() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    // It claims 65,535 bytes of metadata, and 100; neither comes, in this frame or in the next ones.
    for (stream, claim, expected) in [
        (1, 0xffff_u16, Code::ResourceExhausted),
        (2, 100, Code::InvalidArgument),
    ] {
        let mut bytes = head("echo", 0, &[]);
        bytes.truncate(12);
        bytes.extend_from_slice(&claim.to_be_bytes());
        bad.send(&frame(OPEN, stream, &bytes)).await;
        for _ in 0..20 {
            bad.send(&frame(DATA, stream, &[b'x'; 1_000])).await;
        }
        assert_eq!(bad.end_of(stream).await, code(expected));
    }
    bad.send(&open(3, "echo", &arguments(&("still here",)), true)).await;
    assert_eq!(bad.reply_of(3).await, arguments(&"still here"));
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_05_more_than_the_window_is_an_error_and_no_panic() {
    let limits = Limits {
        stream_window: 64 * 1024,
        ..Limits::default()
    };
    let arena = Arena::with(|builder| builder.limits(limits)).await;
    let mut bad = Bad::greeted(&arena.target()).await;
    let item = message(&[&[0xc5, 0x03, 0xe8][..], &[7; 1_000]].concat());
    bad.send(&open(1, "hold", &nothing(), false)).await;
    for _ in 0..100 {
        bad.send(&frame(DATA, 1, &item)).await;
    }
    assert_eq!(bad.sent_away().await.0, FLOW_CONTROL);
    // The same in the frame that opens the stream: at the window, and above it.
    for (bytes, fits) in [(64 * 1024, true), (64 * 1024 + 1, false)] {
        let mut bad = Bad::greeted(&arena.target()).await;
        // Arguments, and items that nobody takes.
        let mut body = [nothing(), item.repeat(65)].concat();
        body.extend_from_slice(&message(&vec![7; bytes - body.len() - 4]));
        bad.send(&open(1, "hold", &body, false)).await;
        if fits {
            bad.send(&open(2, "echo", &arguments(&("lives",)), true)).await;
            assert_eq!(bad.reply_of(2).await, arguments(&"lives"));
            bad.vanish();
        } else {
            assert_eq!(bad.sent_away().await.0, FLOW_CONTROL);
        }
    }
    assert_eq!(arena.serving.panics(), 0);
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_07_too_much_metadata_fails_its_call() {
    let arena = Arena::with(|builder| builder.max_head_bytes(1_000)).await;
    let mut bad = Bad::greeted(&arena.target()).await;
    for (stream, len, fits) in [(1, 999, true), (2, 1_000, true), (3, 1_001, false), (4, 30_000, false)] {
        let metadata = entry(b"key", &vec![b'v'; len - 6]);
        let bytes = [head("echo", 0, &metadata), arguments(&("x",))].concat();
        bad.send(&frame(OPEN | FIN, stream, &bytes)).await;
        if fits {
            assert_eq!(bad.reply_of(stream).await, arguments(&"x"));
        } else {
            assert_eq!(bad.end_of(stream).await, code(Code::ResourceExhausted));
        }
    }
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_08_and_09_odd_metadata_fails_its_call_alone() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    let odd: Vec<Vec<u8>> = vec![
        entry(b"", b"v"),
        entry(b"UPPER", b"v"),
        entry(b"with space", b"v"),
        entry(b"\xff\xfe", b"v"),
        entry(b":path", b"v"),
        entry(b"nul\0", b"v"),
        entry(b"key", b"\x00"),
        entry(b"key", b"\r\ninjected: yes"),
        entry(b"key", b"\xc3\x28"),
        vec![200, b'k'],
        vec![1, b'k', 0xff, 0xff],
        vec![1],
        entry(b"traceparent", b"00-zz-zz-zz"),
        entry(b"key-bin", &[0, 255, 0]),
    ];
    let good_from = u32::try_from(odd.len()).unwrap() - 2;
    for (number, metadata) in (0..).zip(odd) {
        let stream = number + 1;
        let bytes = [head("echo", 0, &metadata), arguments(&("x",))].concat();
        bad.send(&frame(OPEN | FIN, stream, &bytes)).await;
        if number >= good_from {
            assert_eq!(
                bad.reply_of(stream).await,
                arguments(&"x"),
                "odd for the application only"
            );
        } else {
            assert_eq!(bad.end_of(stream).await, code(Code::InvalidArgument), "{number}");
        }
    }
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_11_text_that_is_not_utf8_fails_its_call_alone() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    bad.send(&open(1, "echo", &message(&[0x91, 0xa2, 0xc3, 0x28]), true)).await;
    assert_eq!(bad.end_of(1).await, code(Code::InvalidArgument));
    // Other values that are no arguments of this method.
    for (stream, bytes) in (2..).zip([
        &[][..],
        &[0xc1],
        &[0xc0],
        &[0x91],
        &[0x91, 0x05],
        &[0x90, 0x90],
        &[0xdd, 0xff, 0xff, 0xff, 0xff],
    ]) {
        bad.send(&open(stream, "echo", &message(bytes), true)).await;
        assert_eq!(bad.end_of(stream).await, code(Code::InvalidArgument), "{bytes:?}");
    }
    // The same for the items of a stream: their sender is at fault, not the server.
    for (stream, bytes) in (20..).zip([&[0xc1][..], &[0xc3], &[0x05], &[]]) {
        bad.send(&open(stream, "count", &nothing(), false)).await;
        bad.send(&frame(DATA, stream, &message(bytes))).await;
        assert_eq!(bad.end_of(stream).await, code(Code::InvalidArgument), "{bytes:?}");
    }
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_12_deep_nesting_is_an_error_and_no_stack_overflow() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    let mut stream = 0;
    for depth in [40, 1_000, 4_000_000] {
        for link in [&[0x91][..], &[0x81, 0xa5, b'b', b'e', b'l', b'o', b'w'], &[0x81, 0xc0]] {
            stream += 1;
            let bytes: Vec<u8> = [0x91]
                .into_iter()
                .chain(link.iter().copied().cycle().take((depth * link.len()).min(4_000_000)))
                .collect();
            let body = message(&bytes);
            let (first, rest) = body.split_at(body.len().min(30_000));
            bad.send(&open(stream, "tree", first, rest.is_empty())).await;
            let mut left = rest.chunks(30_000).peekable();
            while let Some(part) = left.next() {
                let kind = if left.peek().is_none() { DATA | FIN } else { DATA };
                bad.send(&frame(kind, stream, part)).await;
            }
            assert_eq!(bad.end_of(stream).await, code(Code::InvalidArgument));
        }
    }
    // What is not too deep is read.
    let tree = Tree {
        below: vec![
            Tree { below: vec![] },
            Tree {
                below: vec![Tree { below: vec![] }],
            },
        ],
    };
    bad.send(&open(stream + 1, "tree", &arguments(&(tree,)), true)).await;
    assert_eq!(bad.reply_of(stream + 1).await, arguments(&4));
    bad.vanish();
    arena.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_15_a_compressed_message_is_refused() {
    let arena = Arena::new().await;
    let mut bad = Bad::greeted(&arena.target()).await;
    let mut body = arguments(&("x",));
    body[0] |= 0x80;
    bad.send(&open(1, "echo", &body, true)).await;
    let end = bad.expect(END).await;
    assert_eq!((end.stream, end.payload[0]), (1, code(Code::Unimplemented)));
    assert!(String::from_utf8_lossy(&end.payload).contains("supported: none"));
    bad.send(&open(3, "echo", &arguments(&("x",)), true)).await;
    assert_eq!(bad.reply_of(3).await, arguments(&"x"));
    bad.vanish();
    arena.finish().await;
}

/// 2,000 names that nobody has; also a subject of `memory`.
pub(super) async fn unknown_methods(target: &str, rounds: u32) {
    let mut bad = Bad::greeted(target).await;
    for round in 0..rounds {
        let streams = round * 100 + 1..=round * 100 + 100;
        for stream in streams.clone() {
            let path = entry(b"sinew-path", format!("nobody.Here/method{stream}").as_bytes());
            let bytes = [head(&format!("unknown{stream}"), 0, &path), nothing()].concat();
            bad.send(&frame(OPEN | FIN, stream, &bytes)).await;
        }
        for stream in streams {
            assert_eq!(bad.end_of(stream).await, code(Code::Unimplemented));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn row_16_unknown_methods_are_answered_and_not_remembered() {
    let arena = Arena::new().await;
    unknown_methods(&arena.target(), 20).await;
    arena.finish().await;
}
