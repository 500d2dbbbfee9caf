//! What each fuzz target does with its input; shared by the targets and by the test that replays their corpora.
//!
//! A target fails by panicking. Beyond that each checks what must hold for any bytes: the connection either lives or ended with one cause,
//! nothing is due again after it fired, and what can be read can be written and read again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sinew_core::metadata::Metadata;
use sinew_core::method::{ArgSpec, MethodKind, MethodSpec};
use sinew_core::mux::{Events, Incoming, Mux, MuxConfig, OpenRequest, Role, Transmit};
use sinew_core::status::Status;
use sinew_core::wire::args::ArgsReader;
use sinew_core::wire::codec;
use sinew_core::wire::frame::PREFACE;
use sinew_core::wire::head::{self, RequestHead};
use sinew_core::wire::hello::Hello;
use sinew_core::wire::message::{EncodedMessage, Payload};

/// A mux with what its driver would hold.
struct Driven {
    mux: Mux,
    events: Events,
    transmit: Transmit,
    leftover: Vec<u8>,
    now: Instant,
    turn: usize,
}

impl Driven {
    fn new(role: Role) -> Self {
        let now = sinew_core::time::now();
        Self {
            mux: Mux::new(role, MuxConfig::default(), now),
            events: Events::default(),
            transmit: Transmit::default(),
            leftover: Vec::new(),
            now,
            turn: 0,
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        self.leftover.extend_from_slice(bytes);
        let used = self.mux.handle_input(self.now, &self.leftover, &mut self.events);
        assert!(used <= self.leftover.len());
        self.leftover.drain(..used);
        assert!(self.leftover.len() < 40_000, "what is not used yet is at most a head");
        self.answer();
        self.now += Duration::from_millis(1);
        self.mux.handle_timeout(self.now, &mut self.events);
        assert!(
            self.mux.next_timeout().is_none_or(|due| due > self.now),
            "what fired is not due again"
        );
        self.write();
    }

    /// Does to calls that arrived what a server might.
    fn answer(&mut self) {
        let none = Metadata::new();
        for incoming in std::mem::take(&mut self.events.incoming) {
            let (Incoming::Opened { key, .. } | Incoming::Arguments { key, .. }) = incoming else {
                continue;
            };
            self.turn += 1;
            match self.turn % 6 {
                0 => self.mux.reply(key, &none, &message(100), &none),
                1 => self.mux.reply(key, &none, &message(100_000), &none),
                2 => self.mux.finish_call(key, Some(&Status::internal("fuzzed")), &none),
                3 => self.mux.stop_reading(key),
                4 => self.mux.refuse_call(key),
                _ => {
                    self.mux.reply_head(key, &none);
                }
            }
        }
        self.events = Events::default();
    }

    fn write(&mut self) {
        while self.mux.poll_transmit(&mut self.transmit) {
            let mut slices = [std::io::IoSlice::new(&[]); 64];
            while !self.transmit.is_empty() {
                let filled = self.transmit.slices(&mut slices);
                let written = slices[..filled].iter().map(|slice| slice.len()).sum();
                slices = [std::io::IoSlice::new(&[]); 64];
                self.transmit.advance(written);
            }
        }
    }
}

fn message(len: usize) -> EncodedMessage {
    EncodedMessage::from_encoded(Bytes::from(vec![1; len]))
}

/// The first bytes of a connection, to both roles.
pub(crate) fn preface(input: &[u8]) {
    for role in [Role::Client, Role::Server] {
        let mut whole = Driven::new(role);
        whole.feed(input);
        let mut cut = Driven::new(role);
        for byte in input {
            cut.feed(std::slice::from_ref(byte));
        }
        let codes = [&whole, &cut].map(|driven| driven.mux.end().map(|end| (end.code(), end.is_by_peer())));
        assert_eq!(codes[0], codes[1], "cuts change nothing");
    }
}

/// Frames after a good greeting, to both roles; the first byte says how the rest is cut.
pub(crate) fn frames(input: &[u8]) {
    let Some((cut, input)) = input.split_first() else {
        return;
    };
    let mut greeting = PREFACE.to_vec();
    greeting.extend_from_slice(&[0, 0, 1, 0, 0, 0, 0, 0, 0x80]);
    for role in [Role::Client, Role::Server] {
        let mut driven = Driven::new(role);
        driven.feed(&greeting);
        assert!(driven.mux.is_ready());
        if role == Role::Client {
            for fin in [true, false] {
                let request = OpenRequest {
                    method: 7,
                    timeout: 0,
                    deadline: None,
                    metadata: &Metadata::new(),
                    arguments: &message(10),
                    fin,
                };
                let _opened = driven.mux.open(driven.now, &request);
            }
        }
        for part in input.chunks(usize::from(*cut).max(1)) {
            driven.feed(part);
        }
    }
}

/// Heads, HELLOs and ENDs.
pub(crate) fn heads(input: &[u8]) {
    if let Ok((read, used)) = RequestHead::decode(input, 16 * 1024) {
        let mut written = Vec::new();
        read.encode(&mut written);
        assert_eq!(written, input[..used], "a head has one form");
    }
    if let Ok(hello) = Hello::decode(input) {
        let mut written = Vec::new();
        hello.encode(&mut written);
        assert_eq!(Hello::decode(&written), Ok(hello));
    }
    if let Ok((status, trailers)) = head::decode_end(input, 16 * 1024) {
        let mut written = Vec::new();
        head::encode_end(status.as_ref(), &trailers, &mut written);
        if let Ok((again, _)) = head::decode_end(&written, 16 * 1024) {
            assert_eq!(again.map(|status| status.code()), status.map(|status| status.code()));
        }
    }
    let _metadata = head::decode_metadata(input, 16 * 1024, "a fuzzed head");
}

/// A type that has most shapes, and nests.
#[derive(Debug, PartialEq, serde::Serialize, serde::Deserialize)]
enum Shape {
    Unit,
    Number(i64),
    Text(String),
    Pair(u8, Option<f32>),
    Named { flag: bool, list: Vec<Self> },
    Map(BTreeMap<String, Self>),
}

static METHOD: MethodSpec = MethodSpec::new("fuzz.Target/call", 1, MethodKind::Unary).args(&ARGUMENTS);
static ARGUMENTS: [ArgSpec; 4] = [
    ArgSpec::new("shape"),
    ArgSpec::new("text"),
    ArgSpec::new("bytes"),
    ArgSpec::new("extra"),
];

/// Arguments of a call, and single values.
pub(crate) fn arguments(input: &[u8]) {
    let payload = Payload::copied(input);
    let read = || -> Result<(), Status> {
        let mut reader = ArgsReader::new(&payload, &METHOD)?;
        let _shape: Shape = reader.next()?;
        let _text = reader.next_str()?;
        let _bytes = reader.next_opt_bytes()?;
        let _extra: Option<Vec<(u64, char)>> = reader.next_or(|| None)?;
        reader.finish()
    };
    let _status = read();
    let _list = codec::decode::<Vec<Option<[u8; 4]>>>(input);
    let _text = codec::decode::<&str>(input);
    if let Ok(shape) = codec::decode::<Shape>(input) {
        for encoding in [
            sinew_core::method::Encoding::Named,
            sinew_core::method::Encoding::Compact,
        ] {
            let mut written = Vec::new();
            if codec::encode_into(&mut written, &shape, encoding).is_ok() {
                let again = codec::decode::<Shape>(&written);
                // A number that is not a number is not equal to itself.
                assert_eq!(format!("{again:?}"), format!("{:?}", Ok::<_, ()>(&shape)));
            }
        }
    }
}
