//! Tests of the decoder: what rmp-serde writes comes back, and hostile bytes cost no more than they are long.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{DEPTH_MAX, DecodeError, decode, decode_payload, encode_into, encode_message};
use crate::method::Encoding;
use crate::wire::message::Payload;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Shape {
    Unit,
    New(u32),
    Tuple(u8, String),
    Struct { a: Option<i64>, b: Vec<u8> },
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Everything {
    flag: bool,
    small: i8,
    large: u64,
    huge: u128,
    float: f64,
    letter: char,
    text: String,
    bytes: Bytes,
    list: Vec<Shape>,
    map: HashMap<String, Vec<i32>>,
    pair: (u8, Option<String>),
    unit: (),
    nothing: Option<Box<Self>>,
}

fn everything() -> Everything {
    Everything {
        flag: true,
        small: -5,
        large: u64::MAX,
        huge: u128::MAX - 1,
        float: 1.5,
        letter: 'ß',
        text: "text ☺".repeat(20),
        bytes: Bytes::from_static(&[0, 255, 7]),
        list: vec![
            Shape::Unit,
            Shape::New(70_000),
            Shape::Tuple(1, "x".to_owned()),
            Shape::Struct {
                a: Some(-1),
                b: vec![1, 2, 200],
            },
        ],
        map: HashMap::from([("k".to_owned(), vec![1, -1, i32::MIN])]),
        pair: (3, None),
        unit: (),
        nothing: None,
    }
}

fn encoded<T: Serialize>(value: &T, encoding: Encoding) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(&mut out, value, encoding).unwrap();
    out
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) {
    for encoding in [Encoding::Named, Encoding::Compact] {
        assert_eq!(&decode::<T>(&encoded(value, encoding)).unwrap(), value);
    }
}

#[test]
fn what_is_written_comes_back() {
    let mut value = everything();
    value.nothing = Some(Box::new(everything()));
    round_trip(&value);
    round_trip(&(1_u8, "two".to_owned(), 3.0_f32));
    round_trip(&BTreeMap::from([(1_u64, ()), (2, ())]));
    round_trip(&Some(Some(5)));
}

#[test]
fn every_cut_is_an_error_and_every_extra_byte_too() {
    let mut bytes = encoded(&everything(), Encoding::Named);
    for cut in 0..bytes.len() {
        assert!(decode::<Everything>(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    bytes.push(0xc0);
    assert_eq!(
        decode::<Everything>(&bytes),
        Err(DecodeError::TrailingBytes {
            what: "the value",
            left: 1
        })
    );
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Old {
    id: u32,
    name: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct New {
    id: u32,
    name: String,
    note: Option<String>,
    #[serde(default)]
    count: u32,
}

#[test]
fn arrays_may_be_longer_or_shorter_than_the_struct() {
    let old = Old {
        id: 1,
        name: "a".to_owned(),
    };
    let new = New {
        id: 1,
        name: "a".to_owned(),
        note: Some("n".to_owned()),
        count: 3,
    };
    for encoding in [Encoding::Named, Encoding::Compact] {
        assert_eq!(decode::<Old>(&encoded(&new, encoding)).unwrap(), old);
        let filled = decode::<New>(&encoded(&old, encoding)).unwrap();
        assert_eq!((filled.note, filled.count), (None, 0));
    }
    // Nested, so that draining one struct must leave the cursor at the next.
    let bytes = encoded(&vec![(&new, 7_u8), (&new, 8)], Encoding::Compact);
    let read = decode::<Vec<(Old, u8)>>(&bytes).unwrap();
    assert_eq!(read[1].1, 8);
}

#[test]
fn a_missing_required_field_is_named() {
    let error = decode::<Old>(&encoded(&(1_u32,), Encoding::Compact)).unwrap_err();
    assert!(error.to_string().contains("invalid length 1"), "{error}");
}

#[derive(Debug, Serialize, Deserialize)]
struct Node {
    child: Option<Box<Self>>,
}

#[test]
fn nesting_is_bounded_at_the_limit() {
    let nested = |levels: usize| {
        let mut bytes = vec![0x91; levels];
        bytes.push(0xc0);
        bytes
    };
    assert!(decode::<Node>(&nested(DEPTH_MAX - 1)).is_ok());
    assert!(decode::<Node>(&nested(DEPTH_MAX)).is_ok());
    assert_eq!(
        decode::<Node>(&nested(DEPTH_MAX + 1)).unwrap_err(),
        DecodeError::TooDeep { limit: DEPTH_MAX }
    );
    assert!(decode::<Node>(&nested(1_000_000)).is_err());
    assert!(decode::<serde::de::IgnoredAny>(&nested(DEPTH_MAX)).is_ok());
    assert!(decode::<serde::de::IgnoredAny>(&nested(DEPTH_MAX + 1)).is_err());
}

#[test]
fn claims_without_bytes_fail() {
    for claim in [
        &[0xdd, 0xff, 0xff, 0xff, 0xff][..],
        &[0xdf, 0xff, 0xff, 0xff, 0xff],
        &[0xc6, 0xff, 0xff, 0xff, 0xff],
        &[0xdb, 0xff, 0xff, 0xff, 0xff],
        &[0xc9, 0xff, 0xff, 0xff, 0xff, 1],
        &[0xc1],
        &[],
    ] {
        assert!(decode::<Vec<u64>>(claim).is_err());
        assert!(decode::<HashMap<u64, u64>>(claim).is_err());
        assert!(decode::<Bytes>(claim).is_err());
        assert!(decode::<String>(claim).is_err());
        assert!(decode::<serde::de::IgnoredAny>(claim).is_err());
    }
}

#[test]
fn byte_strings_and_arrays_of_integers_read_as_each_other() {
    let bin = [0xc4, 2, 1, 2];
    assert_eq!(decode::<Vec<u8>>(&bin).unwrap(), [1, 2]);
    let array = [0x92, 1, 2];
    assert_eq!(decode::<Bytes>(&array).unwrap(), &[1, 2][..]);
    assert_eq!(decode::<[u8; 2]>(&bin).unwrap(), [1, 2]);
}

#[test]
fn invalid_text_is_an_error_and_borrowed_text_borrows() {
    assert!(matches!(decode::<String>(&[0xa1, 0xff]), Err(DecodeError::Utf8 { .. })));
    let bytes = [0xa2, b'o', b'k'];
    let text: &str = decode(&bytes).unwrap();
    assert_eq!(text.as_ptr(), bytes[1..].as_ptr());
}

#[test]
fn a_top_level_bytes_shares_the_message() {
    let body = Bytes::from(vec![1; 100_000]);
    let message = encode_message(body.clone(), Encoding::Named).unwrap();
    let mut whole = Vec::new();
    message.to_pieces(|piece| whole.extend_from_slice(&piece));
    let received = Bytes::from(whole).slice(4..);
    let payload = Payload::from(received.clone());
    let read: Bytes = decode_payload(&payload).unwrap();
    assert_eq!(read, body);
    assert_eq!(read.as_ptr(), received[5..].as_ptr(), "not copied");
}

#[test]
fn an_enum_is_a_name_or_a_map_of_one() {
    assert_eq!(decode::<Shape>(&[0xa4, b'U', b'n', b'i', b't']).unwrap(), Shape::Unit);
    assert!(decode::<Shape>(&[0xa3, b'N', b'e', b'w']).is_err(), "data is missing");
    assert!(decode::<Shape>(&[0x82, 0xa1, b'a', 1, 0xa1, b'b', 2]).is_err());
    assert!(decode::<Shape>(&[0x80]).is_err());
    assert!(decode::<Shape>(&[0xa3, b'O', b'd', b'd']).is_err());
}

/// A shape that nests in every way: lists, maps, options, boxes, and enum variants of all kinds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Nested {
    Unit,
    Number(i64),
    Wide(u128),
    Float(f64),
    Letter(char),
    Text(String),
    Raw(Bytes),
    Pair(u8, Option<String>),
    List(Vec<Self>),
    Fields {
        flag: bool,
        next: Option<Box<Self>>,
        named: BTreeMap<String, Self>,
    },
    Newtype(Wrapped),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Wrapped(Vec<(i16, Nested)>);

fn nested_shape() -> impl Strategy<Value = Nested> {
    let leaf = prop_oneof![
        Just(Nested::Unit),
        any::<i64>().prop_map(Nested::Number),
        any::<u128>().prop_map(Nested::Wide),
        // NaN is not equal to itself.
        any::<f64>().prop_map(|float| Nested::Float(if float.is_nan() { 0.5 } else { float })),
        any::<char>().prop_map(Nested::Letter),
        ".{0,300}".prop_map(Nested::Text),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|raw| Nested::Raw(Bytes::from(raw))),
        (any::<u8>(), proptest::option::of(".{0,40}")).prop_map(|(number, text)| Nested::Pair(number, text)),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        let fields = (
            any::<bool>(),
            proptest::option::of(inner.clone()),
            proptest::collection::btree_map(".{0,20}", inner.clone(), 0..8),
        );
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..20).prop_map(Nested::List),
            fields.prop_map(|(flag, next, named)| Nested::Fields {
                flag,
                next: next.map(Box::new),
                named,
            }),
            proptest::collection::vec((any::<i16>(), inner), 0..4).prop_map(|list| Nested::Newtype(Wrapped(list))),
        ]
    })
}

proptest! {
    #[test]
    fn any_shape_comes_back_in_both_encodings(value in nested_shape()) {
        for encoding in [Encoding::Named, Encoding::Compact] {
            let bytes = encoded(&value, encoding);
            prop_assert_eq!(&decode::<Nested>(&bytes).unwrap(), &value);
            // Nothing less is a value, and nothing may follow it.
            prop_assert!(decode::<Nested>(&bytes[..bytes.len() - 1]).is_err());
            prop_assert!(decode::<Nested>(&[&bytes[..], &[0xc0]].concat()).is_err());
        }
    }

    #[test]
    fn any_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        let _ = decode::<Everything>(&bytes);
        let _ = decode::<Vec<Shape>>(&bytes);
        let _ = decode::<HashMap<String, Node>>(&bytes);
        let _ = decode::<serde::de::IgnoredAny>(&bytes);
    }

    #[test]
    fn skipping_ends_where_decoding_ends(numbers in proptest::collection::vec(any::<i64>(), 0..50), text in ".{0,40}") {
        let bytes = encoded(&(numbers, text, Some(1.5_f64)), Encoding::Named);
        prop_assert!(decode::<serde::de::IgnoredAny>(&bytes).is_ok());
    }
}
