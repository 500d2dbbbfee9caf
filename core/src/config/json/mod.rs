//! The JSON form of a [`ServiceConfig`]: every key and value is checked, and what is wrong is told with its place.

mod faults;
mod policies;
mod server;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{
    BalancerChoice, CONFIG_BYTES_MAX, DURATION_MAX, MethodConfig, ROUTES_MAX, Route, ServiceConfig, ServiceConfigError,
};
use crate::discovery::Endpoint;
use crate::discovery::nearest::nearest;
use crate::metadata::Metadata;
use crate::time::parse_duration;

const METHOD_KEYS: [&str; 6] = [
    "timeout",
    "wait_for_ready",
    "retry",
    "hedging",
    "throttle",
    "circuit_breaker",
];
/// Those of all, besides.
const SERVICE_KEYS: [&str; 9] = [
    "methods",
    "balancer",
    "routes",
    "weights",
    "slow_start",
    "prefer_zone",
    "outlier_detection",
    "faults",
    "server",
];
const ROUTE_KEYS: [&str; 2] = ["labels", "weight"];
const BALANCERS: [&str; 6] = [
    "p2c_peak_ewma",
    "round_robin",
    "weighted_round_robin",
    "least_request",
    "pick_first",
    "consistent_hash",
];

type Parsed<T> = Result<T, ServiceConfigError>;

pub(super) fn parse(text: &str) -> Parsed<ServiceConfig> {
    if text.len() > CONFIG_BYTES_MAX {
        return Err(ServiceConfigError::new(format!(
            "{} bytes; a configuration has at most {CONFIG_BYTES_MAX}",
            text.len()
        )));
    }
    let value: Value =
        serde_json::from_str(text).map_err(|error| ServiceConfigError::new(format!("no JSON: {error}")))?;
    let root = Place::root();
    let mut config = ServiceConfig::default();
    for (key, value) in root.object(&value)? {
        let place = root.key(key);
        match key.as_str() {
            key if METHOD_KEYS.contains(&key) => place.set(&mut config.all, key, value)?,
            "methods" => config.methods = place.entries(value, Place::method)?,
            "balancer" => config.balancer = Some(place.balancer(value)?),
            "routes" => config.routes = Some(place.routes(value)?),
            "weights" => config.weights = place.entries(value, Place::weight)?,
            "slow_start" => config.slow_start = Some(place.duration_or_zero(value)?),
            "prefer_zone" => config.prefer_zone = Some(place.boolean(value)?),
            "outlier_detection" => config.outliers = Some(place.outliers(value)?),
            "faults" => config.faults = Some(place.faults(value, &faults::CLIENT_KEYS)?),
            "server" => config.server = place.server(value)?,
            _ => return Err(root.unknown(key, &[&METHOD_KEYS[..], &SERVICE_KEYS[..]].concat())),
        }
    }
    Ok(config)
}

/// Where in the configuration a value stands.
struct Place(String);

impl Place {
    fn root() -> Self {
        Self(String::new())
    }

    fn key(&self, key: &str) -> Self {
        match self.0.is_empty() {
            true => Self(key.to_owned()),
            false => Self(format!("{}.{key}", self.0)),
        }
    }

    fn wrong(&self, what: &str, value: &Value) -> ServiceConfigError {
        let shown: String = value.to_string().chars().take(64).collect();
        let place = if self.0.is_empty() {
            "the configuration"
        } else {
            self.0.as_str()
        };
        ServiceConfigError::new(format!("`{place}` must be {what}, not {shown}"))
    }

    fn unknown(&self, key: &str, known: &[&str]) -> ServiceConfigError {
        let full = self.key(key).0;
        ServiceConfigError::new(match nearest(key, known) {
            Some(meant) => format!("unknown key `{full}`; did you mean `{meant}`?"),
            None => format!("unknown key `{full}`; there are `{}`", known.join("`, `")),
        })
    }

    fn object<'v>(&self, value: &'v Value) -> Parsed<&'v Map<String, Value>> {
        value.as_object().ok_or_else(|| self.wrong("an object", value))
    }

    fn entries<T>(&self, value: &Value, read: impl Fn(&Self, &Value) -> Parsed<T>) -> Parsed<BTreeMap<String, T>> {
        let entries = self.object(value)?.iter();
        entries.map(|(key, value)| Ok((key.clone(), read(&self.key(key), value)?))).collect()
    }

    fn boolean(&self, value: &Value) -> Parsed<bool> {
        value.as_bool().ok_or_else(|| self.wrong("true or false", value))
    }

    fn text<'v>(&self, value: &'v Value) -> Parsed<&'v str> {
        value.as_str().ok_or_else(|| self.wrong("a text", value))
    }

    fn metadata_key(&self, value: &Value) -> Parsed<String> {
        let key = self.text(value)?;
        // By the rules that calls keep, or it would never be found.
        match Metadata::new().append(key.to_owned(), "") {
            Ok(()) => Ok(key.to_owned()),
            Err(_) => Err(self.wrong("a key of metadata: 1 to 255 of a-z, 0-9, -, _ and .", value)),
        }
    }

    fn duration_or_zero(&self, value: &Value) -> Parsed<Duration> {
        let wrong = || self.wrong("a duration of at most 365 days, as in \"250ms\" or \"1m30s\"", value);
        let duration = parse_duration(value.as_str().ok_or_else(wrong)?).map_err(|_| wrong())?;
        if duration > DURATION_MAX {
            Err(wrong())
        } else {
            Ok(duration)
        }
    }

    fn duration(&self, value: &Value) -> Parsed<Duration> {
        match self.duration_or_zero(value)? {
            Duration::ZERO => Err(self.wrong("more than zero", value)),
            duration => Ok(duration),
        }
    }

    fn weight(&self, value: &Value) -> Parsed<u32> {
        let weight = value.as_u64().and_then(|weight| u32::try_from(weight).ok());
        weight
            .filter(|weight| *weight <= Endpoint::WEIGHT_MAX)
            .ok_or_else(|| self.wrong("a number from 0 to 65,535", value))
    }

    /// Sets what `key` says of one method, or of all.
    fn set(&self, config: &mut MethodConfig, key: &str, value: &Value) -> Parsed<()> {
        match key {
            "timeout" => config.timeout = Some(self.duration(value)?),
            "wait_for_ready" => config.wait_for_ready = Some(self.boolean(value)?),
            "hedging" => config.hedging = Some(self.hedging(value)?),
            "throttle" => config.throttle = Some(self.throttle(value)?),
            "circuit_breaker" => config.breaker = Some(self.breaker(value)?),
            _ => config.retry = Some(self.retry(value)?),
        }
        Ok(())
    }

    fn method(&self, value: &Value) -> Parsed<MethodConfig> {
        let mut method = MethodConfig::default();
        for (key, value) in self.object(value)? {
            let place = self.key(key);
            match key.as_str() {
                key if METHOD_KEYS.contains(&key) => place.set(&mut method, key, value)?,
                _ => return Err(self.unknown(key, &METHOD_KEYS)),
            }
        }
        Ok(method)
    }

    fn balancer(&self, value: &Value) -> Parsed<BalancerChoice> {
        if let Some(options) = value.as_object().filter(|options| options.len() == 1)
            && let Some(options) = options.get("consistent_hash")
        {
            let place = self.key("consistent_hash");
            let mut metadata_key = None;
            for (key, value) in place.object(options)? {
                match key.as_str() {
                    "metadata_key" => metadata_key = Some(place.key(key).metadata_key(value)?),
                    _ => return Err(place.unknown(key, &["metadata_key"])),
                }
            }
            return Ok(BalancerChoice::ConsistentHash { metadata_key });
        }
        let name = value.as_str().unwrap_or_default();
        Ok(match name {
            "p2c_peak_ewma" => BalancerChoice::PeakEwma,
            "round_robin" => BalancerChoice::RoundRobin,
            "weighted_round_robin" => BalancerChoice::WeightedRoundRobin,
            "least_request" => BalancerChoice::LeastRequest,
            "pick_first" => BalancerChoice::PickFirst,
            "consistent_hash" => BalancerChoice::ConsistentHash { metadata_key: None },
            _ => {
                let hint = nearest(name, &BALANCERS).map(|meant| format!("; did you mean \"{meant}\"?"));
                let known = format!("one of {}", BALANCERS.map(|name| format!("\"{name}\"")).join(", "));
                let error = self.wrong(&known, value);
                return Err(ServiceConfigError::new(format!("{error}{}", hint.unwrap_or_default())));
            }
        })
    }

    fn routes(&self, value: &Value) -> Parsed<Vec<Route>> {
        let what = format!("a list of at most {ROUTES_MAX} routes");
        let list = value.as_array().filter(|list| list.len() <= ROUTES_MAX).ok_or_else(|| self.wrong(&what, value))?;
        list.iter().enumerate().map(|(at, route)| Self(format!("{}[{at}]", self.0)).route(route)).collect()
    }

    fn route(&self, value: &Value) -> Parsed<Route> {
        let mut labels = BTreeMap::new();
        let mut weight = None;
        for (key, value) in self.object(value)? {
            let place = self.key(key);
            match key.as_str() {
                "labels" => labels = place.entries(value, |place, value| place.text(value).map(str::to_owned))?,
                "weight" => weight = Some(place.weight(value)?),
                _ => return Err(self.unknown(key, &ROUTE_KEYS)),
            }
        }
        let weight = weight.ok_or_else(|| ServiceConfigError::new(format!("`{}` has no `weight`", self.0)))?;
        Ok(Route { labels, weight })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{BalancerChoice, CONFIG_BYTES_MAX, ROUTES_MAX, parse};
    use crate::code::Code;
    use crate::config::{Route, ServiceConfig};
    use crate::policy::backoff::Backoff;
    use crate::policy::breaker::CircuitBreaker;
    use crate::policy::hedging::HedgingPolicy;
    use crate::policy::outlier::OutlierDetection;
    use crate::policy::retry::RetryPolicy;
    use crate::policy::throttle::AdaptiveThrottle;

    #[test]
    fn all_keys_are_read() {
        let text = r#"{
            "timeout": "2s", "wait_for_ready": true, "slow_start": "0s",
            "balancer": {"consistent_hash": {"metadata_key": "tenant"}},
            "routes": [{"labels": {"track": "canary"}, "weight": 1}, {"weight": 99}],
            "weights": {"orders-7": 50},
            "hedging": {"delay": "30ms", "budget": 0.1},
            "throttle": {"multiplier": 3, "calls_min": 100},
            "circuit_breaker": {"window": "1s", "calls_min": 5, "failure_share": 0.2, "open_for": "30s", "half_open_calls": 2},
            "outlier_detection": {"consecutive_failures": 7, "latency_factor": 4, "max_ejected": 0.2, "ejection_time": "3s",
                "success_rate": false, "failure_share": 0.5},
            "retry": {"attempts": 5, "codes": ["UNAVAILABLE", "aborted"], "attempt_timeout": "80ms"},
            "methods": {
                "get": {"timeout": "300ms", "wait_for_ready": false, "retry": false, "throttle": false, "circuit_breaker": false},
                "put": {"hedging": {"percentile": 0.95}, "retry": {"initial_backoff": "5s", "backoff_multiplier": 1}}
            }
        }"#;
        let five_seconds = Backoff::try_new(Duration::from_secs(5), 1.0, Duration::from_secs(5)).unwrap();
        let retry = RetryPolicy::DEFAULT.attempts(5).codes([Code::Unavailable, Code::Aborted]);
        let mut wanted = ServiceConfig::new()
            .timeout(Duration::from_secs(2))
            .wait_for_ready(true)
            .slow_start(Duration::ZERO)
            .routes([Route::new(1).label("track", "canary"), Route::new(99)])
            .weight("orders-7", 50)
            .method_timeout("get", Duration::from_millis(300))
            .method_wait_for_ready("get", false)
            .retry(retry.attempt_timeout(Duration::from_millis(80)))
            .method_retry("get", RetryPolicy::NEVER)
            .method_retry("put", RetryPolicy::DEFAULT.backoff(five_seconds))
            .hedging(HedgingPolicy::DEFAULT.after(Duration::from_millis(30)).budget(0.1))
            .method_hedging("put", HedgingPolicy::DEFAULT.percentile(0.95))
            .throttle(AdaptiveThrottle::DEFAULT.multiplier(3.0).calls_min(100))
            .method_throttle("get", AdaptiveThrottle::NEVER)
            .method_circuit_breaker("get", CircuitBreaker::NEVER)
            .circuit_breaker(
                CircuitBreaker::DEFAULT
                    .window(Duration::from_secs(1))
                    .calls_min(5)
                    .failure_share(0.2)
                    .open_for(Duration::from_secs(30))
                    .half_open_calls(2),
            )
            .outlier_detection(
                OutlierDetection::DEFAULT
                    .consecutive_failures(7)
                    .latency_factor(4.0)
                    .max_ejected(0.2)
                    .ejection_time(Duration::from_secs(3))
                    .success_rate(false)
                    .failure_share(0.5),
            );
        wanted.balancer = Some(BalancerChoice::ConsistentHash {
            metadata_key: Some("tenant".to_owned()),
        });
        assert_eq!(parse(text), Ok(wanted));
        assert_eq!(parse("{}"), Ok(ServiceConfig::new()));
        for name in super::BALANCERS {
            assert!(parse(&format!(r#"{{"balancer": "{name}"}}"#)).unwrap().balancer.is_some());
        }
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told) in [
            ("", "no JSON: EOF"),
            ("[]", "`the configuration` must be an object, not []"),
            (r#"{"timout": "2s"}"#, "unknown key `timout`; did you mean `timeout`?"),
            (r#"{"x": 1}"#, "unknown key `x`; there are `timeout`, `wait_for_ready`"),
            (r#"{"timeout": 2}"#, "`timeout` must be a duration"),
            (r#"{"timeout": "0s"}"#, "`timeout` must be more than zero, not \"0s\""),
            (r#"{"timeout": "366d"}"#, "at most 365 days"),
            (
                r#"{"wait_for_ready": "yes"}"#,
                "`wait_for_ready` must be true or false, not \"yes\"",
            ),
            (
                r#"{"methods": {"get": {"waitForReady": true}}}"#,
                "unknown key `methods.get.waitForReady`; did you mean `wait_for_ready`?",
            ),
            (
                r#"{"balancer": {"consistent_hash": {"metadata_key": "Tenant"}}}"#,
                "must be a key of metadata",
            ),
            (r#"{"balancer": "roundrobin"}"#, "did you mean \"round_robin\"?"),
            (
                r#"{"balancer": {"consistent_hash": {"key": "x"}}}"#,
                "unknown key `balancer.consistent_hash.key`",
            ),
            (
                r#"{"routes": [{"weight": 1}, {"labels": {}}]}"#,
                "`routes[1]` has no `weight`",
            ),
            (
                r#"{"routes": [{"weight": -1}]}"#,
                "`routes[0].weight` must be a number from 0 to 65,535, not -1",
            ),
            (r#"{"routes": [{"weight": 1, "label": {}}]}"#, "did you mean `labels`?"),
            (r#"{"weights": {"a": 65536}}"#, "`weights.a` must be a number"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn routes_and_bytes_are_bounded() {
        for (count, fits) in [(ROUTES_MAX - 1, true), (ROUTES_MAX, true), (ROUTES_MAX + 1, false)] {
            let routes = vec![r#"{"weight": 1}"#; count].join(",");
            assert_eq!(parse(&format!(r#"{{"routes": [{routes}]}}"#)).is_ok(), fits, "{count}");
        }
        for (bytes, fits) in [
            (CONFIG_BYTES_MAX - 1, true),
            (CONFIG_BYTES_MAX, true),
            (CONFIG_BYTES_MAX + 1, false),
        ] {
            assert_eq!(
                parse(&format!("{{}}{}", " ".repeat(bytes - 2))).is_ok(),
                fits,
                "{bytes}"
            );
        }
    }
}
