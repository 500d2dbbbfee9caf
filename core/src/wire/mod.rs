//! The bytes between two peers, complete enough to write a second implementation from.
//!
//! All integers are unsigned and big-endian. A connection is a reliable, ordered byte stream each way. Both sides send, at once and
//! without waiting for the other: the **preface**, a **HELLO** frame, then any frames.
//!
//! # Preface (8 bytes)
//! `F5 53 49 4E 45 57` (`0xF5`, then `SINEW`), the major version (`01`), the minor version (`00`). A peer with another major version
//! is answered by GOAWAY with code 8 and the connection ends. Minor versions only add what older peers ignore.
//!
//! # Frames
//! ```text
//! length: u24 | kind: u8 | stream: u32 | payload: `length` bytes
//! ```
//! The low 5 bits of `kind` are the type; bit 7 (`0x80`) is FIN: the sender's half of the stream ends with this frame. Bits 5 and 6
//! are sent as 0 and ignored. A payload is at most 32,768 bytes until the peer's HELLO announced more. Types 0 to 15 are defined here or
//! reserved (an unknown one ends the connection with code 1); types 16 to 31 are extensions and are ignored by those who do not know them.
//!
//! | type | name | stream | sent by | payload |
//! |---|---|---|---|---|
//! | 0 | HELLO | 0 | both, once, first | a MessagePack map, below |
//! | 1 | OPEN | new | client | request head, then stream bytes |
//! | 2 | DATA | open | both | stream bytes |
//! | 3 | REPLY | open | server, once | response head, then stream bytes |
//! | 4 | END | open | server, once | status; ends the server's half |
//! | 5 | RESET | open | both | `code: u32`; ends both halves at once |
//! | 6 | CREDIT | open, or 0 for the connection | both | `bytes: u32`, 1 or more |
//! | 7 | PING | 0 | both | 8 bytes of any content |
//! | 8 | PONG | 0 | both | the 8 bytes of the newest PING |
//! | 9 | GOAWAY | 0 | both | `last stream: u32`, `code: u32`, UTF-8 reason |
//!
//! Stream ids are chosen by the client, start at 1 or higher, and grow with every OPEN (gaps are allowed; 2^32-1 is never used). An id
//! that is not higher than the last one ends the connection. A frame for a stream that is over is ignored; a frame for a stream that
//! was never opened ends the connection.
//!
//! # HELLO
//! A map with string keys; absent fields have the value of the last column and unknown fields are skipped. A frame size or window below the last column counts as the last
//! column, because frames may be under way already that rely on it; streams above a lower `max_streams` are refused and may be opened again.
//!
//! | field | meaning: what the sender of the HELLO accepts | if absent |
//! |---|---|---|
//! | `max_frame` | payload of a frame, in bytes | 32768 |
//! | `stream_window` | first credit of each stream, in bytes | 65536 |
//! | `connection_window` | first credit of the connection, in bytes | 1048576 |
//! | `max_streams` | streams open at a time | 100 |
//! | `max_message` | one message, in bytes | 4194304 |
//! | `max_head` | metadata of one head, in bytes | 16384 |
//! | `ping_interval_min_ms` | pings closer together count against the sender | 5000 |
//! | `agent` | name and version, for logs | "" |
//!
//! When a HELLO raises a window, the difference is added to the credit of every open stream and of the connection.
//!
//! # Calls
//! A call is one stream. The client sends OPEN, then DATA; the server sends REPLY, then DATA, then END. The **request head** is
//! `method: u64 | timeout: u32 | metadata length: u16 | metadata`; `method` is the FNV-1a hash (64 bit) of `service/method`, `timeout` is
//! what is left of the deadline in milliseconds (0: none). The **response head** is `metadata length: u16 | metadata`. A head never
//! spans two frames. **Metadata** is a list of `key length: u8 | key | value length: u16 | value`; keys are `a-z 0-9 - _ .`, values are
//! printable ASCII unless the key ends in `-bin`. The key `sinew-path` carries `service/method` in clear where a proxy needs it.
//!
//! The bytes after the head, over all frames of one half of a stream, are a list of **messages**: `length: u32 | message`. The highest bit
//! of the length is reserved for compression and must be 0. Frames may cut messages anywhere. The first message of a client is always
//! the arguments: a MessagePack array with one element per argument, streams left out (or a map keyed by argument name). Missing trailing
//! arguments that are optional are filled, further ones are ignored. In a client-streaming call the items follow as messages of their own. The response of a
//! non-streaming method is one message, and FIN may stand on its last frame instead of an END that says OK without trailers.
//!
//! **END** is `code: u8 | retry: u8 | metadata length: u16 | trailers | details`; `code` is gRPC's number; `retry` is 0 (the code decides), 1
//! (may be retried) or 2 (must not be); `details`, when not empty, is a MessagePack array `[message: str, details: bin, application error:
//! bin]` whose trailing elements may be absent. An END is at most 32,768 bytes.
//!
//! # Flow control
//! Stream bytes (not heads, not END) consume the credit of their stream and of the connection; nobody sends more than the credit. The receiver gives
//! credit back with CREDIT as the application takes messages, and for a message that is incomplete as its bytes arrive. More credit than
//! 2^31-1, or more bytes than credit, ends the connection with code 3.
//!
//! # Codes of RESET and GOAWAY
//! 0 no error, cancelled; 1 protocol error; 2 refused: the stream was not processed; 3 flow control; 4 too large; 5 calm down (flooding);
//! 6 internal; 7 keepalive time-out; 8 unknown version; 9 handshake time-out; 10 idle.
//!
//! # Shutdown
//! A server that drains sends GOAWAY with last stream 2^32-1, which asks the client to open no further streams, and a PING. After the PONG it sends
//! GOAWAY with the last stream that it took up; higher ones were not processed and may be sent elsewhere. A connection error is a
//! GOAWAY with its code and the last stream taken up, followed by the end of the connection.

pub mod args;
pub mod codec;
pub mod error;
pub mod frame;
pub mod head;
pub mod hello;
pub mod message;
pub mod pool;
