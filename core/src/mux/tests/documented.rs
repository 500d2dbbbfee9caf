//! The examples in the documentation of the wire are read from it and compared with what the code does, so that neither can drift.

use super::pair::{Side, noop};
use crate::metadata::Metadata;
use crate::method::{Encoding, method_id};
use crate::mux::{Incoming, MuxConfig, OpenRequest, Role};
use crate::status::Status;
use crate::wire::codec::{encode_into, encode_message};
use crate::wire::frame::{FrameType, HEADER_BYTES};
use crate::wire::head::RequestHead;
use crate::wire::hello::Hello;
use crate::wire::message::EncodedMessage;

const WIRE: &str = include_str!("../../wire/mod.rs");

/// The bytes of the example's lines that begin with `side`.
fn example(side: &str) -> Vec<u8> {
    let prefix = format!("//! {side}: ");
    let lines = WIRE.lines().filter_map(|line| line.strip_prefix(&prefix));
    let bytes = lines.flat_map(|line| line.split(" | ").next().unwrap().split(' '));
    let bytes: Vec<u8> = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    assert!(!bytes.is_empty(), "{side}");
    bytes
}

/// The columns of a table's row.
fn columns(line: &str) -> Option<Vec<&str>> {
    let row = line.strip_prefix("//! | ")?.strip_suffix(" |")?;
    Some(row.split(" | ").collect())
}

fn metadata() -> Metadata {
    let mut metadata = Metadata::new();
    metadata.append("tenant", "acme").unwrap();
    metadata
}

fn arguments() -> EncodedMessage {
    encode_message((7_u64, None::<u64>), Encoding::Named).unwrap()
}

#[derive(serde::Serialize)]
struct Order {
    id: u64,
    cents: u64,
}

#[derive(serde::Serialize)]
enum OrderError {
    NotFound(u64),
}

/// What a side writes, without its own preface and HELLO.
fn written(side: &mut Side) -> Vec<u8> {
    side.write_all();
    std::mem::take(&mut side.sent)
}

#[test]
fn method_ids() {
    for path in ["a", "shop.Orders/get"] {
        let id = format!("{:#018x}", method_id(path));
        assert!(
            WIRE.contains(&format!("`{path}`")) && WIRE.contains(&id),
            "{path} is {id}"
        );
    }
}

#[test]
fn a_client_sends_the_example() {
    let now = crate::time::now();
    let mut client = Side::new(Role::Client, MuxConfig::default(), now);
    written(&mut client);
    let (metadata, arguments) = (metadata(), arguments());
    let request = OpenRequest {
        method: method_id("shop.Orders/get"),
        timeout: 1_500,
        deadline: None,
        metadata: &metadata,
        arguments: &arguments,
        fin: true,
    };
    client.mux.open(now, &request).unwrap();
    let open = written(&mut client);
    assert_eq!(open.len(), HEADER_BYTES + 34);
    assert!(example("client").ends_with(&open), "{open:02X?}");
}

#[test]
fn a_server_answers_the_example() {
    let mut app = Vec::new();
    encode_into(&mut app, &OrderError::NotFound(7), Encoding::Named).unwrap();
    let failure = Status::not_found("no order 7").with_app_bytes(app);
    let order = encode_message(Order { id: 7, cents: 1_250 }, Encoding::Named).unwrap();
    for (name, failure) in [("answer", None), ("failure", Some(failure))] {
        let now = crate::time::now();
        let mut server = Side::new(Role::Server, MuxConfig::default(), now);
        written(&mut server);
        server.feed(now, &example("client"));
        let Some(Incoming::Opened {
            key, head, arguments, ..
        }) = server.events.incoming.pop_back()
        else {
            panic!("the example opens a call");
        };
        let expected = RequestHead {
            method: method_id("shop.Orders/get"),
            timeout: 1_500,
            metadata: metadata(),
        };
        assert_eq!(head, expected);
        assert_eq!(arguments.unwrap()[..], [0x92, 0x07, 0xC0]);
        assert_eq!(server.mux.peer().max_frame, 65_536);
        assert_eq!(server.mux.peer().agent, "demo/1");
        match &failure {
            None => server.mux.reply(key, &Metadata::new(), &order, &Metadata::new()),
            Some(status) => server.mux.finish_call(key, Some(status), &Metadata::new()),
        }
        let sent = written(&mut server);
        assert_eq!(sent, example(name), "{sent:02X?}");
    }
}

/// What the documentation's server says is understood by a client, too.
#[test]
fn a_client_reads_the_example() {
    for name in ["answer", "failure"] {
        let now = crate::time::now();
        let mut client = Side::new(Role::Client, MuxConfig::default(), now);
        let (metadata, arguments) = (metadata(), arguments());
        let request = OpenRequest {
            method: 1,
            timeout: 0,
            deadline: None,
            metadata: &metadata,
            arguments: &arguments,
            fin: true,
        };
        let key = client.mux.open(now, &request).unwrap();
        // Preface and HELLO are the same in both directions.
        let hello = &example("client")[..8 + HEADER_BYTES + 29];
        client.feed(now, &[hello, &example(name)].concat());
        let std::task::Poll::Ready(reply) = client.mux.poll_reply(key, &noop()) else {
            panic!("{name} ends the call");
        };
        let reply = reply.unwrap();
        assert_eq!(reply.message.is_some(), name == "answer");
        assert_eq!(
            reply.status.map(|status| status.message().to_owned()).as_deref(),
            (name == "failure").then_some("no order 7")
        );
    }
}

#[test]
fn the_defaults_of_hello() {
    let defaults = Hello::default();
    let fields = [
        ("max_frame", defaults.max_frame),
        ("stream_window", defaults.stream_window as usize),
        ("connection_window", defaults.connection_window as usize),
        ("max_streams", defaults.max_streams as usize),
        ("max_message", defaults.max_message),
        ("max_head", defaults.max_head),
        ("ping_interval_min_ms", defaults.ping_interval_min_ms as usize),
    ];
    for (name, default) in fields {
        let row = WIRE.lines().filter_map(columns).find(|row| row[0] == format!("`{name}`"));
        assert_eq!(row.unwrap()[2], default.to_string(), "{name}");
    }
}

#[test]
fn the_types_of_frames() {
    let mut known = 0;
    for row in WIRE.lines().filter_map(columns) {
        let Ok(number) = row[0].parse::<u8>() else { continue };
        let name = format!("{:?}", FrameType::from_kind(number).unwrap()).to_uppercase();
        assert_eq!(row[1], name);
        known += 1;
    }
    assert_eq!(known, 10);
    assert!((10..16).all(|number| FrameType::from_kind(number).is_none()));
}

/// The table of values, row by row, where the encodings have to be told apart or another language could guess wrong.
#[test]
fn the_forms_of_values() {
    #[derive(serde::Serialize)]
    struct Unit;
    #[derive(serde::Serialize)]
    struct Newtype(u8);
    #[derive(serde::Serialize)]
    struct Pair(u8, u8);
    #[derive(serde::Serialize)]
    struct Fields {
        a: u8,
        b: Option<u8>,
    }
    #[derive(serde::Serialize)]
    enum Variants {
        U,
        N(u8),
        T(u8, u8),
        F { a: u8 },
    }
    fn check(value: &impl serde::Serialize, named: &[u8], compact: &[u8]) {
        for (encoding, expected) in [(Encoding::Named, named), (Encoding::Compact, compact)] {
            let mut bytes = Vec::new();
            encode_into(&mut bytes, value, encoding).unwrap();
            assert_eq!(bytes, expected, "{encoding:?}");
        }
    }
    fn same(value: &impl serde::Serialize, expected: &[u8]) {
        check(value, expected, expected);
    }
    same(&1_u128, &[&[0xC4, 16][..], &[0; 15], &[1]].concat());
    same(&(1.5_f32, 'x'), &[0x92, 0xCA, 0x3F, 0xC0, 0, 0, 0xA1, b'x']);
    same(
        &(bytes::Bytes::from_static(&[9]), vec![9_u8]),
        &[0x92, 0xC4, 1, 9, 0x91, 9],
    );
    same(&((), Unit, Newtype(1), Pair(1, 2)), &[0x94, 0xC0, 0x90, 1, 0x92, 1, 2]);
    let fields = Fields { a: 1, b: None };
    check(&fields, &[0x82, 0xA1, b'a', 1, 0xA1, b'b', 0xC0], &[0x92, 1, 0xC0]);
    same(&Variants::U, &[0xA1, b'U']);
    same(&Variants::N(1), &[0x81, 0xA1, b'N', 1]);
    same(&Variants::T(1, 2), &[0x81, 0xA1, b'T', 0x92, 1, 2]);
    check(
        &Variants::F { a: 1 },
        &[0x81, 0xA1, b'F', 0x81, 0xA1, b'a', 1],
        &[0x81, 0xA1, b'F', 0x91, 1],
    );
}
