//! The bytes between two peers, complete enough to write a second implementation from; `tests/foreign/client.py` is one.
//!
//! All integers outside of MessagePack are unsigned and big-endian. A connection is a reliable, ordered byte stream each way. Both sides
//! send, at once and without waiting for the other: the **preface**, a **HELLO** frame, then any frames; a client may call before it has
//! read anything. Over TCP both sides set `TCP_NODELAY`, because small frames would else wait for the acknowledgement of others.
//!
//! # Preface (8 bytes)
//! `F5 53 49 4E 45 57` (`0xF5`, then `SINEW`), the major version (`01`), the minor version (`00`). Bytes that are no preface end the
//! connection with code 1, another major version with code 8; the side that notices has sent its own preface and HELLO before the GOAWAY.
//! Minor versions only add what older peers ignore. A peer whose preface or HELLO does not come within 10 s is left with code 9.
//!
//! # Frames
//! ```text
//! length: u24 | kind: u8 | stream: u32 | payload: `length` bytes
//! ```
//! The low 5 bits of `kind` are the type; bit 7 (`0x80`) is FIN: the sender's half of the stream ends with this frame. FIN has a meaning on
//! OPEN, DATA and REPLY, END implies it, and elsewhere it is ignored. Bits 5 and 6 are sent as 0 and ignored. A payload is at most 32,768
//! bytes until the peer's HELLO announced more; a longer one ends the connection with code 4. Types 0 to 15 are defined here or reserved
//! (an unknown one ends the connection with code 1); types 16 to 31 are extensions and are ignored by those who do not know them.
//!
//! | type | name | stream | sent by | payload |
//! |---|---|---|---|---|
//! | 0 | HELLO | 0 | both, once, first | a MessagePack map, below; 1 to 4,096 bytes |
//! | 1 | OPEN | new | client | request head, then stream bytes |
//! | 2 | DATA | open | both | stream bytes; none at all is allowed with FIN |
//! | 3 | REPLY | open | server, at most once | response head, then stream bytes |
//! | 4 | END | open | server, at most once | status; ends the server's half |
//! | 5 | RESET | open | both | `code: u32`; ends both halves at once |
//! | 6 | CREDIT | open, or 0 for the connection | both | `bytes: u32`, 1 or more |
//! | 7 | PING | 0 | both | 8 bytes of any content |
//! | 8 | PONG | 0 | both | the 8 bytes of the PING that it answers |
//! | 9 | GOAWAY | 0 | both | `last stream: u32`, `code: u32`, UTF-8 reason; at most 1,024 bytes |
//!
//! A payload of another length, a frame that its sender may not send, a first frame that is not HELLO, and a second HELLO end the connection
//! with code 1.
//!
//! Stream ids are chosen by the client, start at 1 or higher, and grow with every OPEN (gaps are allowed; 2^32-1 is never used). An id
//! that is not higher than the last one ends the connection with code 1, and so does a frame for a stream that was never opened. A frame
//! for a stream that is over is ignored (it may have crossed the end), but for what flow control says below.
//!
//! # HELLO
//! A map with string keys; absent fields have the value of the last column and unknown fields are skipped. Until the peer's HELLO is read,
//! the last column holds for it. A frame size or window below the last column counts as the last column, because frames may be under way
//! already that rely on it; streams above a lower `max_streams` are refused and may be opened again.
//!
//! | field | meaning: what the sender of the HELLO accepts | if absent |
//! |---|---|---|
//! | `max_frame` | payload of a frame, in bytes; at most 2^24-1 | 32768 |
//! | `stream_window` | first credit of each stream, in bytes; at most 2^31-1 | 65536 |
//! | `connection_window` | first credit of the connection, in bytes; at most 2^31-1 | 1048576 |
//! | `max_streams` | streams open at a time; a client's is not used | 100 |
//! | `max_message` | one message, in bytes | 4194304 |
//! | `max_head` | metadata of one head, in bytes; less than 256 counts as 256 | 16384 |
//! | `ping_interval_min_ms` | pings closer together count against the sender | 5000 |
//! | `load_interval_ms` | a load report (see below) at most so often; 0: none | 0 |
//! | `agent` | name and version, for logs | "" |
//!
//! All are unsigned integers but `agent`, a string. When a HELLO raises a window, the difference to the last column is added to the credit
//! of every open stream and of the connection.
//!
//! # Calls
//! A call is one stream. The client sends OPEN, then DATA; the server sends REPLY, then DATA, then END. The **request head** is
//! `method: u64 | timeout: u32 | metadata length: u16 | metadata`. The **response head** is `metadata length: u16 | metadata`. A head never
//! spans two frames, and stream bytes may follow it in its frame.
//!
//! **Method.** `method` is the FNV-1a hash (64 bit) of `service/method` in UTF-8: begin with `0xcbf29ce484222325`; for each byte, xor it in,
//! then multiply by `0x100000001b3` modulo 2^64. The service's name is the trait's, unless `#[service(name = "shop.Orders")]` gives another;
//! the method's is the function's, unless `#[rpc(name = "..")]` does. The id of `a` is `0xaf63dc4c8601ec8c`, that of `shop.Orders/get` is
//! `0xd78ad536c57c1dbb`. An unknown method is answered by an END with UNIMPLEMENTED. The metadata key `sinew-path` carries
//! `service/method` in clear where a proxy needs it; servers do not need it, and a path whose hash is not `method` is refused by those that do.
//!
//! **Timeout.** What is left of the deadline in milliseconds, rounded up; 0: no deadline. The server counts from when it reads the OPEN, and
//! sends an END with DEADLINE_EXCEEDED when the call, its streams included, has not ended by then. A client keeps its own time as well and
//! need not send anything when it is up.
//!
//! **Metadata** is a list of `key length: u8 | key | value length: u16 | value`; a key is 1 to 255 of `a-z 0-9 - _ .`, a value is
//! printable ASCII (`20` to `7E`) unless the key ends in `-bin`. Keys may repeat, and the order is kept. `traceparent`, `tracestate` and
//! `baggage` have the meaning that the W3C gave them. `max_head` bounds the metadata, without its length; it has at most 256 entries.
//!
//! **Messages.** The bytes after the head, over all frames of one half of a stream, are a list of messages: `length: u32 | message`. The
//! highest bit of the length is reserved for compression and must be 0. Frames may cut messages anywhere, also inside the length, and one
//! frame may have many. The first message of a client is always the arguments; a server starts on them at once and does not wait for FIN.
//! In a client-streaming call the items follow as messages of their own, and FIN ends them. Without such a stream FIN stands on the frame
//! in which the arguments end. The response of a non-streaming method is exactly one message, also where the method returns nothing; that
//! of a streaming one is a message per item.
//!
//! **The end.** The server ends a call with END, or with FIN on its last REPLY or DATA, which is as good as an END that says OK without
//! trailers. An END with OK stands between two messages. One with another code may come at any time: in place of the REPLY, or in the
//! middle of a message, which is dropped then. When the server's half has ended, the call is over: a client that has not sent its FIN
//! neither sends it nor a RESET, but just stops.
//!
//! **END** is `code: u8 | retry: u8 | metadata length: u16 | trailers | details`, at most 32,768 bytes; `code` is gRPC's number (0 OK, 1
//! CANCELLED, 2 UNKNOWN, 3 INVALID_ARGUMENT, 4 DEADLINE_EXCEEDED, 5 NOT_FOUND, 6 ALREADY_EXISTS, 7 PERMISSION_DENIED, 8 RESOURCE_EXHAUSTED,
//! 9 FAILED_PRECONDITION, 10 ABORTED, 11 OUT_OF_RANGE, 12 UNIMPLEMENTED, 13 INTERNAL, 14 UNAVAILABLE, 15 DATA_LOSS, 16 UNAUTHENTICATED; a
//! higher one is read as UNKNOWN); `retry` is 0 (the code decides), 1 (may be retried) or 2 (must not be), and 0x80 more if no handler saw the call,
//! so that sending it again cannot run it twice; `trailers` is metadata; `details`,
//! when not empty, is a MessagePack array `[message: str, details: bin, application error: bin]` whose trailing elements may be absent. The
//! details are bytes of the handler's choice. The application error, when not empty, is the method's typed error as a named value (below):
//! usually an enum, thus the name of a variant or a map from it. Whoever does not know it goes by code and message.
//!
//! **Turned away.** The trailers of an END may say that a policy turned the call away before a handler saw it: `sinew-policy` is which (as
//! `adaptive_concurrency`), `sinew-reason` why (as `overloaded`), each a word of `a-z 0-9 _`; `retry-after-ms` is when the call may be made again at
//! the earliest, in milliseconds as decimal digits.
//!
//! **Retries.** A client that makes a call again because it failed says so in the request's metadata: `sinew-attempt` is which attempt it is, as decimal digits,
//! from 2 on. Whoever makes calls on behalf of such a one passes the number on, and does not retry them: one tier does. What a server did not take
//! up, and so is sent again at once, is not marked by itself.
//!
//! **Priority.** The request's metadata may have `sinew-priority`: `critical`, `normal`, `low` or `background`. Absent, or anything else, is `normal`. A server
//! that has too much to do turns the lowest away first; it takes `critical` for `normal` from clients whose identity it does not know, unless it is told
//! otherwise. Calls made on behalf of a call have its priority, as the server took it.
//!
//! **Load reports.** A server may put one into the trailers of an END, under the key `sinew-load-bin`, if the client's `load_interval_ms` is not 0
//! and as much time has passed since the last one on that stream of the transport: a MessagePack map with string keys and unsigned integers as
//! values. `window_ms`: the time that it is about, at least 1; `calls`: how many the server answered in it, of all clients; `failures`: how many of
//! these failed by its fault; `utilization`: the used part of its capacity, in thousandths, absent if that is not known. Unknown keys are
//! skipped. It is for the client's balancer, and not shown to the application.
//!
//! # Values
//! Arguments are one MessagePack array with an element per argument, in order, without `&Cx` and streams; no arguments are an empty array.
//! A map keyed by argument name is accepted in its place. Missing arguments that are optional or have a default are filled (in an array
//! trailing ones only), further ones are ignored. A response and an item of a stream are one value each. Bytes behind a value are an error,
//! and so is nesting deeper than 64. Arguments that cannot be read end the call with INVALID_ARGUMENT.
//!
//! A service writes its structs in one of two **encodings**: *named* (the default) or *compact*. A reader accepts both, everywhere, so a
//! client may write either and must be ready to read the service's. Values are those of serde, with its attributes (`rename`, `tag`, ..)
//! applied and "human readable" off:
//!
//! | Rust | MessagePack |
//! |---|---|
//! | `bool`, integers, `f32`, `f64` | bool, integer of any width, float 32, float 64 |
//! | `u128`, `i128` | bin of 16 bytes, big-endian |
//! | `String`, `&str`, `char` | str |
//! | `Bytes`, an argument of type `&[u8]` | bin |
//! | `Vec<u8>` and other sequences, arrays, tuples, tuple structs | array; where its elements are bytes, a bin is accepted |
//! | maps | map |
//! | `Option` | nil, or the value itself |
//! | `()` | nil |
//! | unit struct | empty array; nil is accepted |
//! | newtype struct | the value in it |
//! | struct, named | map from field name (str) to value, in any order; unknown fields are skipped |
//! | struct, compact | array of the fields in their order; trailing ones may be absent or unknown |
//! | enum variant without data | its name (str) |
//! | enum variant with data | map of one entry: its name to the value; to an array if there are several; to a struct, as above |
//!
//! Extension types are not used. A missing field is an error unless it is an `Option` or has `#[serde(default)]`.
//!
//! # Flow control
//! Stream bytes (with the lengths of messages; not heads, not END) consume the credit of their stream and of the connection, each way for
//! itself; nobody sends more than the smaller of the two. What has no stream bytes (an OPEN with a head only, an empty DATA with FIN, an END)
//! needs no credit. Credit begins with the receiver's windows.
//!
//! The receiver gives credit back with CREDIT, for the stream and for the connection alike, as the application takes messages; for a message
//! that is incomplete it does so as its bytes arrive, once nothing before it is unread, since it may be longer than any window. It may
//! collect what it owes, but sends it when that is half a window at the latest. For a stream that is over nothing is owed but the
//! **connection's** credit: for bytes that were never taken, and for those that still arrive after a RESET was sent, it goes back at once.
//!
//! More bytes than credit, a CREDIT of 0, and more credit than 2^31-1 end the connection with code 3.
//!
//! # Broken calls
//! These end a call and not its connection. A server answers with an END: RESOURCE_EXHAUSTED for metadata or a message above its limit,
//! INVALID_ARGUMENT for a head that cannot be read, bytes after FIN, and a half that ends inside a message or before the arguments,
//! UNIMPLEMENTED for a compressed message. Either side may also refuse a message (RESOURCE_EXHAUSTED, RESET with code 4) while the incomplete
//! ones of the connection hold more memory than it allows (64 MiB unless configured, and at least one `max_message`), so a sender has no
//! more than 16 large messages under way at a time. A client answers with a RESET: code 4 for what is above its limit, else 1. An OPEN above `max_streams` is answered by
//! RESET with code 2; a handler that still runs after its call was cancelled counts as a stream.
//!
//! A server may give up an answer that stands still: sinew ends a call without a timeout with DEADLINE_EXCEEDED when its client has taken nothing of
//! the finished answer for a minute.
//!
//! A client **cancels** with RESET and code 0, and is done with the stream. A RESET from the server ends the call with CANCELLED (code 0),
//! UNAVAILABLE (2: the call was not processed), RESOURCE_EXHAUSTED (4 and 5) or INTERNAL (all others). The loss of the connection ends its
//! calls with UNAVAILABLE; those whose OPEN was sent may have run.
//!
//! # Pings
//! A PING is answered by a PONG at once. Whoever has calls open and hears nothing for a while (10 s by default, but no less than the
//! `ping_interval_min_ms` of the other side, which counts up to 5 min) sends one. Any byte that arrives is a sign of life; when none does
//! for 5 s, the connection ends with code 7. The third PING that comes sooner than `ping_interval_min_ms` after the one before it ends the
//! connection with code 5, unless a server answered a call in between. A connection without calls is not pinged, and ends with code 10 when
//! that has lasted for 30 min.
//!
//! # Codes of RESET and GOAWAY
//! 0 no error, cancelled; 1 protocol error; 2 refused: the stream was not processed; 3 flow control; 4 too large; 5 calm down (flooding);
//! 6 internal; 7 keepalive time-out; 8 unknown version; 9 handshake time-out; 10 idle. An unknown code counts as 6.
//!
//! # Shutdown
//! A server that drains sends GOAWAY with last stream 2^32-1 and code 0, which asks the client to open no further streams, and a PING. After
//! the PONG, or after a second, it sends GOAWAY with the last stream that it took up; higher ones were not processed and may be sent
//! elsewhere. Calls up to it go on, their answers, credit and pings included, until they end or the server's patience does. When the last
//! call is over, each side closes the connection, without a further GOAWAY. A client that leaves sends GOAWAY with code 0, too.
//!
//! A connection error is a GOAWAY with its code and the last stream taken up (0 from a client), followed by the end of the connection:
//! its sender closes its own direction, and all of it when the other side has hung up, or after a second.
//!
//! # Over TLS and QUIC
//! Both use TLS 1.3 with the ALPN name `sinew/1`. Over TLS everything above holds for the bytes inside of it.
//!
//! Over QUIC (RFC 9000) a connection has several byte streams, each a bidirectional stream that the client opens; unidirectional ones and those of the server
//! are not used. On each, everything above holds as on a connection of its own: preface, HELLO, frames, credit, GOAWAY. They differ in this:
//!
//! - The first is the **lane**. It carries any number of calls, lives as long as the connection, and its HELLO and GOAWAY stand for the whole. When it is over,
//!   the connection accepts no further streams: after a drain it ends with the last of them, and else they end with it.
//! - Every further stream carries **one call at a time**; its server announces `max_streams` 1. The calls on them count together with those on the lane against
//!   the lane's `max_streams`. When a call is over the stream may be used for the next, and a client closes one that it does not need with code 10. Which
//!   calls get such a stream is the client's choice; a call that streams or has a large request should.
//! - A client that cancels the call of a further stream resets that stream and stops reading it (RESET_STREAM and STOP_SENDING), both with the code that
//!   RESET would have. To a server this is a RESET of the call, and it counts as one in the budget of the connection. A server that resets a stream
//!   resets its call.
//! - What a HELLO on one stream granted, but for `stream_window`, holds from the beginning on those opened after it arrived, and a HELLO there may not take it
//!   back. `stream_window` may differ from stream to stream; a receiver gives less where many are open.
//! - There is no PING: QUIC's own idle time-out and keepalive see to it.
//! - Codes are QUIC's application error codes. In 0-RTT data only calls of idempotent methods are sent, and others are refused with code 2.
//!
//! # Floods
//! Some frames are honest only in moderation, and too many end the connection with code 5. There are two budgets of 2,048 each; when one is
//! used up, time fills it again, by 256 a second. One is spent on frames that carry nothing: a CREDIT below 256 bytes, DATA below 64 bytes that neither
//! completes a message nor has FIN, PONG, a repeated GOAWAY, extension types, and frames for streams that are over, but for as many as may
//! have crossed the end; a completed message earns one. A server spends the other on calls that come to nothing: RESETs, broken calls and
//! those above `max_streams`; an answered call earns one.
//!
//! # Example
//! `shop.Orders/get` with the arguments `7` and none, a timeout of 1.5 s and the metadata `tenant: acme`; the answer is a struct with `id`
//! and `cents`. The same call once more could also fail with NOT_FOUND and the application error `NotFound(7)`.
//! ```text
//! client: F5 53 49 4E 45 57 01 00 | preface, version 1.0
//! client: 00 00 1D 00 00 00 00 00 | HELLO, 29 bytes, stream 0
//! client: 82 A9 6D 61 78 5F 66 72 61 6D 65 CE 00 01 00 00 | {"max_frame": 65536,
//! client: A5 61 67 65 6E 74 A6 64 65 6D 6F 2F 31 | "agent": "demo/1"}
//! client: 00 00 22 81 00 00 00 01 | OPEN with FIN, 34 bytes, stream 1
//! client: D7 8A D5 36 C5 7C 1D BB 00 00 05 DC | method, timeout
//! client: 00 0D 06 74 65 6E 61 6E 74 00 04 61 63 6D 65 | 13 bytes of metadata: "tenant", "acme"
//! client: 00 00 00 03 92 07 C0 | a message of 3 bytes: [7, nil]
//! answer: 00 00 14 83 00 00 00 01 | REPLY with FIN, 20 bytes, stream 1
//! answer: 00 00 | no metadata
//! answer: 00 00 00 0E 82 A2 69 64 07 A5 63 65 6E 74 73 CD 04 E2 | a message of 14 bytes: {"id": 7, "cents": 1250}
//! failure: 00 00 1F 84 00 00 00 01 | or END (with FIN), 31 bytes, stream 1
//! failure: 05 00 00 00 93 | NOT_FOUND, the code decides on retries, no trailers, an array of three:
//! failure: AA 6E 6F 20 6F 72 64 65 72 20 37 C4 00 | "no order 7", no details,
//! failure: C4 0B 81 A8 4E 6F 74 46 6F 75 6E 64 07 | {"NotFound": 7}
//! ```

pub mod args;
pub mod codec;
pub mod error;
pub mod frame;
pub mod head;
pub mod hello;
pub mod load;
pub mod message;
pub mod pool;
