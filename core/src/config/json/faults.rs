//! The JSON form of faults on purpose.

use std::time::Duration;

use serde_json::{Map, Value};

use super::{Parsed, Place};
use crate::config::{FAULTS_MAX, ServiceConfigError};
use crate::policy::faults::{DELAY_MAX, Fault};

/// What a fault does: each has one of these.
const EFFECTS: [&str; 4] = ["delay", "error", "overload", "drop"];
pub(super) const CLIENT_KEYS: [&str; 12] = [
    "delay", "error", "overload", "drop", "message", "unseen", "percent", "by_key", "only", "method", "for", "endpoint",
];
/// All but the last.
pub(super) const SERVER_KEYS: &[&str] = CLIENT_KEYS.split_at(11).0;
const LASTS_MAX: Duration = Duration::from_hours(24);

impl Place {
    pub(super) fn faults(&self, value: &Value, keys: &[&str]) -> Parsed<Vec<Fault>> {
        let what = format!("a list of at most {FAULTS_MAX} faults");
        let list = value.as_array().filter(|list| list.len() <= FAULTS_MAX).ok_or_else(|| self.wrong(&what, value))?;
        list.iter()
            .enumerate()
            .map(|(at, fault)| Self(format!("{}[{at}]", self.0)).fault(fault, keys))
            .collect()
    }

    fn fault(&self, value: &Value, keys: &[&str]) -> Parsed<Fault> {
        let options = self.object(value)?;
        if let Some(unknown) = options.keys().find(|key| !keys.contains(&key.as_str())) {
            return Err(self.unknown(unknown, keys));
        }
        let mut fault = self.effect(options)?;
        for (key, value) in options {
            let place = self.key(key);
            fault = match key.as_str() {
                "percent" => fault.percent(place.number(value, 0.0, 100.0)?),
                "by_key" => fault.by_key(place.metadata_key(value)?),
                "method" => fault.method_name(place.text(value)?.to_owned()),
                "endpoint" => fault.endpoint(place.text(value)?),
                "for" => fault.lasts(place.duration_up_to(value, LASTS_MAX)?),
                "only" => {
                    let (key, value) = place.one_entry(value)?;
                    fault.only(key, value)
                }
                _ => fault,
            };
        }
        Ok(fault)
    }

    fn effect(&self, options: &Map<String, Value>) -> Parsed<Fault> {
        let mut effects = EFFECTS.iter().filter_map(|effect| Some((*effect, options.get(*effect)?)));
        let (Some((key, value)), None) = (effects.next(), effects.next()) else {
            let effects = EFFECTS.join("`, `");
            return Err(ServiceConfigError::new(format!(
                "`{}` must have one of `{effects}`",
                self.0
            )));
        };
        let place = self.key(key);
        if let Some(of_errors) =
            ["message", "unseen"].into_iter().find(|of| options.contains_key(*of) && key != "error")
        {
            return Err(ServiceConfigError::new(format!(
                "`{}.{of_errors}` is for an `error`, not for `{key}`",
                self.0
            )));
        }
        Ok(match key {
            "delay" => Fault::delay(place.duration_up_to(value, DELAY_MAX)?),
            "error" => {
                let mut fault = Fault::error(place.code(value, "a code, as \"UNAVAILABLE\"")?);
                if let Some(message) = options.get("message") {
                    fault = fault.message(self.key("message").text(message)?.to_owned());
                }
                match options.get("unseen") {
                    Some(unseen) if self.key("unseen").boolean(unseen)? => fault.unseen(),
                    _ => fault,
                }
            }
            _ if value != &Value::Bool(true) => return Err(place.wrong("true", value)),
            "overload" => Fault::overload(),
            _ => Fault::drop(),
        })
    }

    fn one_entry(&self, value: &Value) -> Parsed<(String, String)> {
        let wrong = || self.wrong("an object of one key of metadata and its value", value);
        let mut entries = self.object(value)?.iter();
        let (Some((key, text)), None) = (entries.next(), entries.next()) else {
            return Err(wrong());
        };
        let key = self.metadata_key(&Value::String(key.clone()))?;
        Ok((key, text.as_str().ok_or_else(wrong)?.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::code::Code;
    use crate::config::FAULTS_MAX;
    use crate::config::json::parse;
    use crate::policy::faults::Fault;

    #[test]
    fn all_keys_are_read() {
        let text = r#"{
            "faults": [
                {"delay": "200ms", "percent": 10, "method": "place", "only": {"tenant": "acme"}, "endpoint": "orders-1"},
                {"error": "unavailable", "message": "game day", "unseen": true, "by_key": "tenant", "percent": 1},
                {"overload": true, "for": "10m"}
            ],
            "server": {"faults": [{"drop": true}]}
        }"#;
        let config = parse(text).unwrap();
        let wanted = [
            Fault::delay("200ms")
                .percent(10.0)
                .method_name("place".to_owned())
                .only("tenant", "acme")
                .endpoint("orders-1"),
            Fault::error(Code::Unavailable).message("game day").unseen().by_key("tenant").percent(1.0),
            Fault::overload().lasts(Duration::from_mins(10)),
        ];
        assert_eq!(config.faults.as_deref(), Some(&wanted[..]));
        assert_eq!(config.server.faults.as_deref(), Some(&[Fault::drop()][..]));
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place() {
        for (fault, told) in [
            (
                "{}",
                "`faults[0]` must have one of `delay`, `error`, `overload`, `drop`",
            ),
            (r#"{"delay": "1s", "drop": true}"#, "`faults[0]` must have one of"),
            (
                r#"{"dely": "1s"}"#,
                "unknown key `faults[0].dely`; did you mean `delay`?",
            ),
            (r#"{"delay": "11m"}"#, "`faults[0].delay` must be at most 600s"),
            (r#"{"error": "UNAVAILABEL"}"#, "did you mean \"UNAVAILABLE\"?"),
            (r#"{"drop": false}"#, "`faults[0].drop` must be true, not false"),
            (
                r#"{"drop": true, "message": "x"}"#,
                "`faults[0].message` is for an `error`, not for `drop`",
            ),
            (
                r#"{"drop": true, "percent": 101}"#,
                "`faults[0].percent` must be a number from 0 to 100",
            ),
            (
                r#"{"drop": true, "for": "25h"}"#,
                "`faults[0].for` must be at most 86400s",
            ),
            (
                r#"{"drop": true, "only": {"a": "b", "c": "d"}}"#,
                "`faults[0].only` must be an object of one key",
            ),
            (r#"{"drop": true, "only": {"A": "b"}}"#, "must be a key of metadata"),
        ] {
            let error = parse(&format!(r#"{{"faults": [{fault}]}}"#)).unwrap_err().to_string();
            assert!(error.contains(told), "{fault}: {error}");
        }
        let error = parse(r#"{"server": {"faults": [{"drop": true, "endpoint": "x"}]}}"#).unwrap_err().to_string();
        assert!(error.starts_with("unknown key `server.faults[0].endpoint`"), "{error}");
        for (count, fits) in [(FAULTS_MAX - 1, true), (FAULTS_MAX, true), (FAULTS_MAX + 1, false)] {
            let faults = vec![r#"{"drop": true}"#; count].join(",");
            assert_eq!(parse(&format!(r#"{{"faults": [{faults}]}}"#)).is_ok(), fits, "{count}");
        }
    }
}
