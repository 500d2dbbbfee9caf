//! The JSON forms of policies: retries, outlier detection.

use std::time::Duration;

use serde_json::Value;

use super::{Parsed, Place};
use crate::code::Code;
use crate::config::ServiceConfigError;
use crate::discovery::nearest::nearest;
use crate::policy::backoff::Backoff;
use crate::policy::outlier::OutlierDetection;
use crate::policy::retry::{ATTEMPTS_MAX, RetryPolicy};

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
        let list = value.as_array().ok_or_else(|| self.wrong("a list of codes, as [\"UNAVAILABLE\"]", value))?;
        let code = |value: &Value| {
            let name = value.as_str().unwrap_or_default();
            let failures = || Code::ALL.into_iter().filter(|code| *code != Code::Ok);
            let known: Vec<&str> = failures().map(Code::as_str).collect();
            let found = failures().find(|code| code.as_str().eq_ignore_ascii_case(name));
            found.ok_or_else(|| {
                let hint = nearest(name, &known).map(|meant| format!("; did you mean \"{meant}\"?"));
                let error = self.wrong("a list of codes, as [\"UNAVAILABLE\"]", value);
                ServiceConfigError::new(format!("{error}{}", hint.unwrap_or_default()))
            })
        };
        list.iter().map(code).collect()
    }

    pub(super) fn outliers(&self, value: &Value) -> Parsed<OutlierDetection> {
        if value == &Value::Bool(false) {
            return Ok(OutlierDetection::NEVER);
        }
        let options = value.as_object().ok_or_else(|| self.wrong("false, or an object", value))?;
        let mut policy = OutlierDetection::DEFAULT;
        for (key, value) in options {
            let place = self.key(key);
            policy = match key.as_str() {
                "consecutive_failures" => policy.consecutive_failures(place.count(value, 1_000)?),
                "success_rate" => policy.success_rate(place.boolean(value)?),
                "failure_share" => policy.failure_share(place.number(value, 0.01, 1.0)?),
                "latency_factor" => policy.latency_factor(place.number(value, 1.5, 1_000.0)?),
                "max_ejected" => policy.max_ejected(place.number(value, 0.0, 1.0)?),
                "ejection_time" => policy.ejection_time(place.duration_up_to(value, EJECTION_TIME_MAX)?),
                _ => return Err(self.unknown(key, &OUTLIER_KEYS)),
            };
        }
        Ok(policy)
    }

    fn duration_up_to(&self, value: &Value, most: Duration) -> Parsed<Duration> {
        let duration = self.duration(value)?;
        (duration <= most)
            .then_some(duration)
            .ok_or_else(|| self.wrong(&format!("at most {most:?}"), value))
    }

    fn count(&self, value: &Value, most: u32) -> Parsed<u32> {
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        count
            .filter(|count| (1..=most).contains(count))
            .ok_or_else(|| self.wrong(&format!("a number from 1 to {most}"), value))
    }

    fn number(&self, value: &Value, least: f64, most: f64) -> Parsed<f64> {
        let number = value.as_f64().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| self.wrong(&format!("a number from {least} to {most}"), value))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::json::parse;

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (text, told) in [
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
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
