//! The JSON forms of policies: retries, hedging, throttles, circuit breakers, outlier detection.

use std::time::Duration;

use serde_json::Value;

use super::{Parsed, Place};
use crate::code::Code;
use crate::config::ServiceConfigError;
use crate::discovery::nearest::nearest;
use crate::policy::backoff::Backoff;
use crate::policy::breaker::{CALLS_MAX, CircuitBreaker, WINDOW_MAX};
use crate::policy::hedging::HedgingPolicy;
use crate::policy::outlier::OutlierDetection;
use crate::policy::retry::{ATTEMPTS_MAX, RetryPolicy};
use crate::policy::throttle::AdaptiveThrottle;

const RETRY_KEYS: [&str; 6] = [
    "attempts",
    "initial_backoff",
    "max_backoff",
    "backoff_multiplier",
    "codes",
    "attempt_timeout",
];
const OUTLIER_KEYS: [&str; 6] = [
    "consecutive_failures",
    "success_rate",
    "failure_share",
    "latency_factor",
    "max_ejected",
    "ejection_time",
];
const HEDGING_KEYS: [&str; 3] = ["delay", "percentile", "budget"];
/// As [`HedgingPolicy`] has it.
const HEDGING_DELAY_MAX: Duration = Duration::from_hours(1);
const THROTTLE_KEYS: [&str; 2] = ["multiplier", "calls_min"];
const BREAKER_KEYS: [&str; 5] = ["window", "calls_min", "failure_share", "open_for", "half_open_calls"];
/// As [`CircuitBreaker`] has it.
const BREAKER_WINDOW_MIN: Duration = Duration::from_millis(100);
/// As [`Backoff::try_new`] has it.
const BACKOFF_MULTIPLIER_MAX: f64 = 10.0;
/// As [`OutlierDetection`] has it.
const EJECTION_TIME_MAX: Duration = Duration::from_secs(30);

impl Place {
    pub(super) fn retry(&self, value: &Value) -> Parsed<RetryPolicy> {
        if value == &Value::Bool(false) {
            return Ok(RetryPolicy::NEVER);
        }
        let options = value.as_object().ok_or_else(|| self.wrong("false, or an object", value))?;
        let mut policy = RetryPolicy::DEFAULT;
        let default = policy.waits();
        let (mut initial, mut factor, mut cap) = (default.ceiling(0), default.factor(), None);
        for (key, value) in options {
            let place = self.key(key);
            match key.as_str() {
                "attempts" => policy = policy.attempts(place.count(value, ATTEMPTS_MAX)?),
                "initial_backoff" => initial = place.duration(value)?,
                "max_backoff" => cap = Some(place.duration(value)?),
                "backoff_multiplier" => factor = place.number(value, 1.0, BACKOFF_MULTIPLIER_MAX)?,
                "codes" => policy = policy.codes(place.codes(value)?),
                "attempt_timeout" => policy = policy.attempt_timeout(place.duration(value)?),
                _ => return Err(self.unknown(key, &RETRY_KEYS)),
            }
        }
        let cap = cap.unwrap_or_else(|| default.cap().max(initial));
        let backoff = Backoff::try_new(initial, factor, cap);
        let backoff = backoff.map_err(|_| {
            ServiceConfigError::new(format!(
                "`{0}.max_backoff` is shorter than `{0}.initial_backoff`",
                self.0
            ))
        })?;
        Ok(policy.backoff(backoff))
    }

    fn codes(&self, value: &Value) -> Parsed<Vec<Code>> {
        let what = "a list of codes, as [\"UNAVAILABLE\"]";
        let list = value.as_array().ok_or_else(|| self.wrong(what, value))?;
        list.iter().map(|value| self.code(value, what)).collect()
    }

    /// A code that a call can fail with; `what` is wanted here.
    pub(super) fn code(&self, value: &Value, what: &str) -> Parsed<Code> {
        let name = value.as_str().unwrap_or_default();
        let failures = || Code::ALL.into_iter().filter(|code| *code != Code::Ok);
        let known: Vec<&str> = failures().map(Code::as_str).collect();
        let found = failures().find(|code| code.as_str().eq_ignore_ascii_case(name));
        found.ok_or_else(|| {
            let hint = nearest(name, &known).map(|meant| format!("; did you mean \"{meant}\"?"));
            let error = self.wrong(what, value);
            ServiceConfigError::new(format!("{error}{}", hint.unwrap_or_default()))
        })
    }

    pub(super) fn hedging(&self, value: &Value) -> Parsed<HedgingPolicy> {
        let has = |key: &str| value.get(key).is_some();
        if has("delay") && has("percentile") {
            return Err(self.wrong("one of `delay` and `percentile`, and not both", value));
        }
        let (never, default) = (HedgingPolicy::NEVER, HedgingPolicy::DEFAULT);
        self.policy(value, never, default, &HEDGING_KEYS, |policy, key, place, value| {
            Ok(match key {
                "delay" => policy.after(place.duration_up_to(value, HEDGING_DELAY_MAX)?),
                "percentile" => policy.percentile(place.number(value, 0.5, 0.999)?),
                _ => policy.budget(place.number(value, 0.001, 1.0)?),
            })
        })
    }

    pub(super) fn throttle(&self, value: &Value) -> Parsed<AdaptiveThrottle> {
        let (never, default) = (AdaptiveThrottle::NEVER, AdaptiveThrottle::DEFAULT);
        self.policy(value, never, default, &THROTTLE_KEYS, |policy, key, place, value| {
            Ok(match key {
                "multiplier" => policy.multiplier(place.number(value, 1.1, 10.0)?),
                _ => policy.calls_min(place.count(value, CALLS_MAX)?),
            })
        })
    }

    pub(super) fn breaker(&self, value: &Value) -> Parsed<CircuitBreaker> {
        let (never, default) = (CircuitBreaker::NEVER, CircuitBreaker::DEFAULT);
        self.policy(value, never, default, &BREAKER_KEYS, |policy, key, place, value| {
            Ok(match key {
                "window" => policy.window(place.duration_within(value, BREAKER_WINDOW_MIN, WINDOW_MAX)?),
                "calls_min" => policy.calls_min(place.count(value, CALLS_MAX)?),
                "failure_share" => policy.failure_share(place.number(value, 0.01, 1.0)?),
                "open_for" => policy.open_for(place.duration_within(value, Duration::from_millis(1), WINDOW_MAX)?),
                _ => policy.half_open_calls(place.count(value, CALLS_MAX)?),
            })
        })
    }

    pub(super) fn outliers(&self, value: &Value) -> Parsed<OutlierDetection> {
        let (never, default) = (OutlierDetection::NEVER, OutlierDetection::DEFAULT);
        self.policy(value, never, default, &OUTLIER_KEYS, |policy, key, place, value| {
            Ok(match key {
                "consecutive_failures" => policy.consecutive_failures(place.count(value, 1_000)?),
                "success_rate" => policy.success_rate(place.boolean(value)?),
                "failure_share" => policy.failure_share(place.number(value, 0.01, 1.0)?),
                "latency_factor" => policy.latency_factor(place.number(value, 1.5, 1_000.0)?),
                "max_ejected" => policy.max_ejected(place.number(value, 0.0, 1.0)?),
                _ => policy.ejection_time(place.duration_up_to(value, EJECTION_TIME_MAX)?),
            })
        })
    }

    /// `false`, or an object with any of `keys`, each of which `set` changes in what is the default else.
    fn policy<P>(
        &self,
        value: &Value,
        never: P,
        default: P,
        keys: &[&str],
        set: impl Fn(P, &str, &Self, &Value) -> Parsed<P>,
    ) -> Parsed<P> {
        if value == &Value::Bool(false) {
            return Ok(never);
        }
        let options = value.as_object().ok_or_else(|| self.wrong("false, or an object", value))?;
        options.iter().try_fold(default, |policy, (key, value)| match keys.contains(&key.as_str()) {
            true => set(policy, key, &self.key(key), value),
            false => Err(self.unknown(key, keys)),
        })
    }

    pub(super) fn duration_within(&self, value: &Value, least: Duration, most: Duration) -> Parsed<Duration> {
        let duration = self.duration_up_to(value, most)?;
        (duration >= least)
            .then_some(duration)
            .ok_or_else(|| self.wrong(&format!("at least {least:?}"), value))
    }

    pub(super) fn duration_up_to(&self, value: &Value, most: Duration) -> Parsed<Duration> {
        let duration = self.duration(value)?;
        (duration <= most)
            .then_some(duration)
            .ok_or_else(|| self.wrong(&format!("at most {most:?}"), value))
    }

    pub(super) fn count(&self, value: &Value, most: u32) -> Parsed<u32> {
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        count
            .filter(|count| (1..=most).contains(count))
            .ok_or_else(|| self.wrong(&format!("a number from 1 to {most}"), value))
    }

    pub(super) fn number(&self, value: &Value, least: f64, most: f64) -> Parsed<f64> {
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(&format!("a number from {least} to {most}"), value))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::json::parse;

    fn check(cases: &[(&str, &str)]) {
        for (text, told) in cases {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_wrong_with_retries_is_told_with_its_place() {
        check(&[
            (r#"{"retry": true}"#, "`retry` must be false, or an object, not true"),
            (
                r#"{"retry": {"attempts": 6}}"#,
                "`retry.attempts` must be a number from 1 to 5, not 6",
            ),
            (
                r#"{"retry": {"attempts": 0}}"#,
                "`retry.attempts` must be a number from 1 to 5, not 0",
            ),
            (r#"{"retry": {"max_attempts": 3}}"#, "unknown key `retry.max_attempts`"),
            (
                r#"{"retry": {"codes": ["unavailabel"]}}"#,
                "did you mean \"UNAVAILABLE\"?",
            ),
            (
                r#"{"retry": {"codes": ["OK"]}}"#,
                "`retry.codes` must be a list of codes",
            ),
            (
                r#"{"retry": {"initial_backoff": "2s", "max_backoff": "1s"}}"#,
                "`retry.max_backoff` is shorter than `retry.initial_backoff`",
            ),
            (
                r#"{"methods": {"get": {"retry": {"backoff_multiplier": 0.5}}}}"#,
                "`methods.get.retry.backoff_multiplier` must be a number from 1 to 10, not 0.5",
            ),
        ]);
    }

    #[test]
    fn what_is_wrong_with_what_keeps_calls_back_is_told_with_its_place() {
        check(&[
            (
                r#"{"outlier_detection": true}"#,
                "`outlier_detection` must be false, or an object, not true",
            ),
            (
                r#"{"outlier_detection": {"consecutive_failure": 3}}"#,
                "did you mean `consecutive_failures`?",
            ),
            (
                r#"{"outlier_detection": {"consecutive_failures": 0}}"#,
                "must be a number from 1 to 1000, not 0",
            ),
            (
                r#"{"outlier_detection": {"latency_factor": 1}}"#,
                "`outlier_detection.latency_factor` must be a number from 1.5 to 1000, not 1",
            ),
            (
                r#"{"outlier_detection": {"ejection_time": "31s"}}"#,
                "`outlier_detection.ejection_time` must be at most 30s, not \"31s\"",
            ),
            (
                r#"{"hedging": {"delay": "1ms", "percentile": 0.9}}"#,
                "`hedging` must be one of `delay` and `percentile`, and not both",
            ),
            (
                r#"{"hedging": {"percentile": 95}}"#,
                "`hedging.percentile` must be a number from 0.5 to 0.999, not 95",
            ),
            (
                r#"{"hedging": {"delay": "2h"}}"#,
                "`hedging.delay` must be at most 3600s",
            ),
            (
                r#"{"throttle": {"multiplier": 1}}"#,
                "`throttle.multiplier` must be a number from 1.1 to 10, not 1",
            ),
            (
                r#"{"circuit_breaker": {"window": "1ms"}}"#,
                "`circuit_breaker.window` must be at least 100ms, not \"1ms\"",
            ),
            (
                r#"{"methods": {"get": {"circuit_breaker": {"open_for": "11m"}}}}"#,
                "`methods.get.circuit_breaker.open_for` must be at most 600s",
            ),
            (
                r#"{"circuit_breaker": {"half_open_calls": 10001}}"#,
                "must be a number from 1 to 10000, not 10001",
            ),
            (
                r#"{"circuit_breaker": {"failures": 3}}"#,
                "unknown key `circuit_breaker.failures`",
            ),
        ]);
    }
}
