//! The JSON form of what servers do.

use std::time::Duration;

use serde_json::{Map, Value};

use super::faults::SERVER_KEYS;
use super::{Parsed, Place};
use crate::config::ServiceConfigError;
use crate::config::server::{CallPolicy, ConcurrencyRule, LimitKey, LimitRule, RateRule, ServerPolicy};
use crate::interceptor::limits::{PER_MAX, PER_MIN};

const METHOD_KEYS: [&str; 3] = ["rate_limit", "concurrency_limit", "adaptive_concurrency"];
/// Those of a service, besides.
const SERVICE_KEYS: [&str; 2] = ["faults", "methods"];
const RATE_KEYS: [&str; 5] = ["calls", "per", "burst", "key", "max_keys"];
const CONCURRENCY_KEYS: [&str; 3] = ["calls", "key", "max_keys"];
/// The time of a rate that says nothing else.
const PER_DEFAULT: Duration = Duration::from_secs(1);

impl Place {
    pub(super) fn server(&self, value: &Value) -> Parsed<ServerPolicy> {
        let mut policy = ServerPolicy::new();
        for (key, value) in self.object(value)? {
            let place = self.key(key);
            match key.as_str() {
                "faults" => policy.faults = Some(place.faults(value, SERVER_KEYS)?),
                "methods" => policy.methods = place.entries(value, Self::served_method)?,
                key if METHOD_KEYS.contains(&key) => place.set_served(&mut policy.all, key, value)?,
                _ => return Err(self.unknown(key, &[&METHOD_KEYS[..], &SERVICE_KEYS[..]].concat())),
            }
        }
        Ok(policy)
    }

    fn served_method(&self, value: &Value) -> Parsed<CallPolicy> {
        let mut method = CallPolicy::default();
        for (key, value) in self.object(value)? {
            match key.as_str() {
                key if METHOD_KEYS.contains(&key) => self.key(key).set_served(&mut method, key, value)?,
                _ => return Err(self.unknown(key, &METHOD_KEYS)),
            }
        }
        Ok(method)
    }

    /// Sets what `key` says of one method, or of all.
    fn set_served(&self, policy: &mut CallPolicy, key: &str, value: &Value) -> Parsed<()> {
        match key {
            "rate_limit" => policy.rate = Some(self.rate_limit(value)?),
            "concurrency_limit" => policy.concurrency = Some(self.concurrency_limit(value)?),
            _ => policy.is_adaptive = Some(self.boolean(value)?),
        }
        Ok(())
    }

    fn rate_limit(&self, value: &Value) -> Parsed<RateRule> {
        let Some(options) = self.limit(value, &RATE_KEYS)? else {
            return Ok(RateRule::NEVER);
        };
        let per = match options.get("per") {
            Some(value) => self.key("per").duration_within(value, PER_MIN, PER_MAX)?,
            None => PER_DEFAULT,
        };
        let mut rule = RateRule::new(self.calls(options)?, per);
        for (key, value) in options {
            let place = self.key(key);
            rule = match key.as_str() {
                "burst" => rule.burst(place.count(value, u32::MAX)?),
                "key" => rule.key(place.limit_key(value)?),
                "max_keys" => rule.max_keys(place.keys_max(value)?),
                _ => rule,
            };
        }
        Ok(rule)
    }

    fn concurrency_limit(&self, value: &Value) -> Parsed<ConcurrencyRule> {
        let Some(options) = self.limit(value, &CONCURRENCY_KEYS)? else {
            return Ok(ConcurrencyRule::NEVER);
        };
        let mut rule = ConcurrencyRule::new(self.calls(options)?);
        for (key, value) in options {
            let place = self.key(key);
            rule = match key.as_str() {
                "key" => rule.key(place.limit_key(value)?),
                "max_keys" => rule.max_keys(place.keys_max(value)?),
                _ => rule,
            };
        }
        Ok(rule)
    }

    /// What is said of a limit; `None` if there is to be none.
    fn limit<'v>(&self, value: &'v Value, keys: &[&str]) -> Parsed<Option<&'v Map<String, Value>>> {
        match value {
            Value::Bool(false) => Ok(None),
            Value::Object(options) => match options.keys().find(|key| !keys.contains(&key.as_str())) {
                None => Ok(Some(options)),
                Some(key) => Err(self.unknown(key, keys)),
            },
            _ => Err(self.wrong("false, or an object", value)),
        }
    }

    fn calls(&self, options: &Map<String, Value>) -> Parsed<u32> {
        let value = options.get("calls");
        let value = value.ok_or_else(|| ServiceConfigError::new(format!("`{}` has no `calls`", self.0)))?;
        let calls = value.as_u64().and_then(|calls| u32::try_from(calls).ok());
        calls.ok_or_else(|| self.key("calls").wrong(&format!("a number from 0 to {}", u32::MAX), value))
    }

    fn keys_max(&self, value: &Value) -> Parsed<usize> {
        let keys = value.as_u64().and_then(|keys| usize::try_from(keys).ok());
        keys.filter(|keys| (1..=LimitRule::KEYS_LIMIT).contains(keys))
            .ok_or_else(|| self.wrong(&format!("a number from 1 to {}", LimitRule::KEYS_LIMIT), value))
    }

    fn limit_key(&self, value: &Value) -> Parsed<LimitKey> {
        if let Some(options) = value.as_object().filter(|options| options.len() == 1)
            && let Some(key) = options.get("metadata")
        {
            return Ok(LimitKey::Metadata(self.key("metadata").metadata_key(key)?));
        }
        match value.as_str() {
            Some("all") => Ok(LimitKey::All),
            Some("peer") => Ok(LimitKey::Peer),
            Some("method") => Ok(LimitKey::Method),
            _ => Err(self.wrong(
                "\"all\", \"peer\", \"method\", or {\"metadata\": \"..\"} with a key of metadata",
                value,
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::config::json::parse;
    use crate::config::{ConcurrencyRule, LimitKey, RateRule, ServerPolicy, ServiceConfig};

    #[test]
    fn all_keys_are_read() {
        let text = r#"{"server": {
            "rate_limit": {"calls": 500, "per": "2s", "burst": 20, "key": "peer", "max_keys": 7},
            "concurrency_limit": false, "adaptive_concurrency": false,
            "methods": {
                "get": {"rate_limit": {"calls": 0, "key": {"metadata": "tenant"}}, "adaptive_concurrency": true},
                "put": {"rate_limit": false, "concurrency_limit": {"calls": 4, "key": "method", "max_keys": 1000000}}
            }
        }}"#;
        let wanted = ServerPolicy::new()
            .rate_limit(RateRule::new(500, Duration::from_secs(2)).burst(20).key(LimitKey::Peer).max_keys(7))
            .concurrency_limit(ConcurrencyRule::NEVER)
            .adaptive_concurrency(false)
            .method_rate_limit(
                "get",
                RateRule::new(0, Duration::from_secs(1)).key(LimitKey::Metadata("tenant".to_owned())),
            )
            .method_adaptive_concurrency("get", true)
            .method_rate_limit("put", RateRule::NEVER)
            .method_concurrency_limit("put", ConcurrencyRule::new(4).key(LimitKey::Method).max_keys(1_000_000));
        assert_eq!(parse(text), Ok(ServiceConfig::new().server(wanted)));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (limits, told) in [
            (
                r#"{"rate_limt": false}"#,
                "unknown key `server.rate_limt`; did you mean `rate_limit`?",
            ),
            (
                r#"{"rate_limit": true}"#,
                "`server.rate_limit` must be false, or an object",
            ),
            (
                r#"{"rate_limit": {"cals": 1}}"#,
                "unknown key `server.rate_limit.cals`; did you mean `calls`?",
            ),
            (r#"{"rate_limit": {"per": "1s"}}"#, "`server.rate_limit` has no `calls`"),
            (
                r#"{"rate_limit": {"calls": -1}}"#,
                "`server.rate_limit.calls` must be a number from 0 to",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "per": "1us"}}"#,
                "`server.rate_limit.per` must be at least 1ms",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "per": "25h"}}"#,
                "`server.rate_limit.per` must be at most 86400s",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "burst": 0}}"#,
                "`server.rate_limit.burst` must be a number from 1",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "key": "tenant"}}"#,
                "{\"metadata\": \"..\"}",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "key": {"metadata": "Tenant"}}}"#,
                "`server.rate_limit.key.metadata` must be a key of metadata",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "max_keys": 0}}"#,
                "`server.rate_limit.max_keys` must be a number from 1",
            ),
            (
                r#"{"rate_limit": {"calls": 1, "max_keys": 1000001}}"#,
                "from 1 to 1000000",
            ),
            (
                r#"{"concurrency_limit": {"calls": 1, "burst": 1}}"#,
                "unknown key `server.concurrency_limit.burst`; there are `calls`, `key`, `max_keys`",
            ),
            (
                r#"{"methods": {"get": {"methods": {}}}}"#,
                "unknown key `server.methods.get.methods`; there are `rate_limit`",
            ),
            (
                r#"{"adaptive_concurrency": 1}"#,
                "`server.adaptive_concurrency` must be true or false",
            ),
        ] {
            let error = parse(&format!(r#"{{"server": {limits}}}"#)).unwrap_err().to_string();
            assert!(error.contains(told), "{limits}: {error}");
        }
    }
}
