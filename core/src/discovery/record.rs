//! An endpoint as registries and files store it: JSON, of which readers take what they know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::endpoint::{Endpoint, EndpointState};
use super::nearest::nearest;
use crate::transport::Address;
use crate::transport::error::AddressError;

/// Bytes that a record may have; a longer one is left out of the list. Far more than any has, and a bound on what a bad one costs.
#[cfg(any(feature = "etcd", test))]
pub(super) const RECORD_BYTES_MAX: usize = 64 * 1024;
/// The version of the format; readers take later ones as far as they understand them.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    #[serde(default)]
    v: u32,
    addresses: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    instance: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    zone: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    state: String,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "is_zero")]
    start: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The endpoint as a registry stores it.
#[cfg(any(feature = "etcd", test))]
pub(super) fn to_json(endpoint: &Endpoint) -> Vec<u8> {
    // Maps of strings and numbers: there is nothing in it that could fail.
    serde_json::to_vec(&record_of(endpoint)).unwrap_or_default()
}

/// The endpoints as a list of records.
pub(super) fn list_to_json(endpoints: &[Endpoint]) -> String {
    let records: Vec<Record> = endpoints.iter().map(record_of).collect();
    serde_json::to_string(&records).unwrap_or_default()
}

fn record_of(endpoint: &Endpoint) -> Record {
    Record {
        v: VERSION,
        addresses: endpoint.addresses().iter().map(ToString::to_string).collect(),
        name: endpoint.name().to_owned(),
        instance: endpoint.instance().to_owned(),
        zone: endpoint.zone().to_owned(),
        version: endpoint.version().to_owned(),
        weight: Some(endpoint.weight()),
        labels: endpoint.labels().clone(),
        state: endpoint.state().as_str().to_owned(),
        start: endpoint.started_unix_ms(),
    }
}

/// The endpoint that a registry has stored. Addresses of kinds that this build does not know are left out.
///
/// # Errors
/// What is wrong with it.
#[cfg(any(feature = "etcd", test))]
pub(super) fn from_json(bytes: &[u8]) -> Result<Endpoint, String> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(too_long(bytes));
    }
    endpoint(serde_json::from_slice(bytes).map_err(|error| error.to_string())?)
}

/// A client that a registry has entered: by its name, since it has no address.
///
/// # Errors
/// What is wrong with it.
#[cfg(feature = "etcd")]
pub(super) fn client_from_json(bytes: &[u8]) -> Result<Endpoint, String> {
    if bytes.len() > RECORD_BYTES_MAX {
        return Err(too_long(bytes));
    }
    let record: Record = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(Endpoint::with_addresses([]).with_name(record.name).with_instance(record.instance))
}

#[cfg(any(feature = "etcd", test))]
fn too_long(bytes: &[u8]) -> String {
    format!("{} bytes; a record has at most {RECORD_BYTES_MAX}", bytes.len())
}

/// The endpoints in a list of addresses and records.
///
/// # Errors
/// What is wrong with which.
pub(super) fn list_from_json(text: &str) -> Result<Vec<Endpoint>, String> {
    let entries: Vec<Value> = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let numbered = entries.into_iter().enumerate();
    numbered
        .map(|(at, entry)| entry_of(entry).map_err(|error| format!("entry {}: {error}", at + 1)))
        .collect()
}

/// An entry of a list that people write: they misspell keys, which other versions do not.
fn entry_of(entry: Value) -> Result<Endpoint, String> {
    match &entry {
        Value::String(text) => text.parse().map(Endpoint::new).map_err(|error: AddressError| error.to_string()),
        Value::Object(fields) => {
            if let Some(unknown) = fields.keys().find(|key| !KEYS.contains(&key.as_str())) {
                return Err(match nearest(unknown, &KEYS) {
                    Some(meant) => format!("unknown key `{unknown}`; did you mean `{meant}`?"),
                    None => format!("unknown key `{unknown}`; there are `{}`", KEYS.join("`, `")),
                });
            }
            endpoint(serde_json::from_value(entry).map_err(|error| error.to_string())?)
        }
        _ => Err("expected an address or a record".to_owned()),
    }
}

/// The fields of a record.
const KEYS: [&str; 10] = [
    "v",
    "addresses",
    "name",
    "instance",
    "zone",
    "version",
    "weight",
    "labels",
    "state",
    "start",
];

fn endpoint(record: Record) -> Result<Endpoint, String> {
    let addresses: Vec<Address> = record.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    if addresses.is_empty() {
        return Err(format!("no usable address in {:?}", record.addresses));
    }
    let mut endpoint = Endpoint::with_addresses(addresses)
        .with_instance(record.instance)
        .with_zone(record.zone)
        .with_version(record.version)
        .with_started_unix_ms(record.start)
        // Whatever else a later version says of it, it does not say that it serves.
        .with_state(match record.state.as_str() {
            "" | "serving" => EndpointState::Serving,
            _ => EndpointState::Draining,
        });
    if !record.name.is_empty() {
        endpoint = endpoint.with_name(record.name);
    }
    if let Some(weight) = record.weight {
        endpoint = endpoint.with_weight(weight);
    }
    for (key, value) in record.labels {
        endpoint = endpoint.with_label(key, value);
    }
    Ok(endpoint)
}

#[cfg(test)]
mod tests {
    use super::{Endpoint, EndpointState, RECORD_BYTES_MAX, from_json, list_from_json, to_json};

    fn full() -> Endpoint {
        Endpoint::with_addresses(["mem:a".parse().unwrap(), "tcp://[::1]:7".parse().unwrap()])
            .with_name("orders-7")
            .with_instance("00ff")
            .with_zone("z")
            .with_version("1.2")
            .with_weight(0)
            .with_label("track", "canary")
            .with_state(EndpointState::Draining)
            .with_started_unix_ms(1_700_000_000_000)
    }

    #[test]
    fn lists_that_people_write_are_checked() {
        let list = list_from_json(r#"["mem:a", {"addresses": ["mem:b"], "weight": 7}]"#).unwrap();
        assert_eq!(
            list,
            [
                Endpoint::new("mem:a".parse().unwrap()),
                Endpoint::new("mem:b".parse().unwrap()).with_weight(7)
            ]
        );
        for (text, told) in [
            ("{}", "expected a sequence"),
            (r#"["mem:a", "nowhere"]"#, "entry 2: "),
            (
                r#"[{"adresses": []}]"#,
                "entry 1: unknown key `adresses`; did you mean `addresses`?",
            ),
            (r#"[{"name": "x"}]"#, "entry 1: missing field `addresses`"),
            (r#"[{"addresses": []}]"#, "entry 1: no usable address"),
            ("[7]", "entry 1: expected an address or a record"),
        ] {
            let error = list_from_json(text).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn endpoints_survive_the_registry() {
        for endpoint in [full(), Endpoint::new("mem:a".parse().unwrap())] {
            assert_eq!(from_json(&to_json(&endpoint)).unwrap(), endpoint);
        }
    }

    #[test]
    fn what_is_unknown_is_passed_over_and_what_is_missing_has_a_default() {
        let text = r#"{"v":2,"addresses":["carrier://pigeon","mem:a"],"colour":"red","state":"resting"}"#;
        let endpoint = from_json(text.as_bytes()).unwrap();
        assert_eq!(
            (endpoint.addresses().len(), endpoint.weight(), endpoint.name()),
            (1, 100, "mem:a")
        );
        assert!(!endpoint.takes_calls());
        let plain = from_json(br#"{"v":1,"addresses":["mem:a"]}"#).unwrap();
        assert!(plain.takes_calls());
    }

    #[test]
    fn what_is_no_record_is_told() {
        for (text, told) in [
            ("", "EOF"),
            ("[]", "invalid length"),
            (r#"{"v":1,"addresses":[]}"#, "no usable address"),
            (r#"{"v":1,"addresses":["x"]}"#, "no usable address"),
            (r#"{"v":1,"addresses":["mem:a"],"weight":-1}"#, "invalid value"),
        ] {
            let error = from_json(text.as_bytes()).unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        let long = |filler: usize| {
            let start = r#"{"v":1,"addresses":["mem:a"],"zone":""#;
            let text = format!("{start}{}\"}}", "z".repeat(filler));
            (text.len(), from_json(text.as_bytes()))
        };
        let overhead = long(0).0;
        for (bytes, fits) in [
            (RECORD_BYTES_MAX - 1, true),
            (RECORD_BYTES_MAX, true),
            (RECORD_BYTES_MAX + 1, false),
        ] {
            assert_eq!(long(bytes - overhead).1.is_ok(), fits, "{bytes}");
        }
    }
}
