//! Time as calls see it: the clock, durations as text, and deadlines as they travel.
//!
//! A deadline is an [`Instant`] inside a process and a remaining duration on the wire, so clocks of two machines are never compared.
//! [`now`] asks tokio, so that a test's paused clock holds everywhere; code on the lower floors takes `now` as an argument.

use std::time::{Duration, Instant};

/// The current instant of tokio's clock.
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// The longest duration that a setting may have: far beyond any use, and safe to add to an instant.
pub const SETTING_MAX: Duration = Duration::from_hours(365 * 24);

/// What is left until `deadline`, as the wire carries it: milliseconds, rounded up, at least 1 and at most `u32::MAX`, which is about 49.7 days.
///
/// Rounding up keeps the server from ending a call earlier than its caller would.
#[must_use]
pub fn to_wire_timeout(deadline: Instant, now: Instant) -> u32 {
    duration_to_wire(deadline.saturating_duration_since(now))
}

/// `timeout` as the wire carries it.
#[must_use]
pub fn duration_to_wire(timeout: Duration) -> u32 {
    let sub = timeout.subsec_nanos();
    let up = u64::from(!sub.is_multiple_of(1_000_000));
    let millis = timeout.as_secs().saturating_mul(1_000).saturating_add(u64::from(sub / 1_000_000) + up);
    u32::try_from(millis.max(1)).unwrap_or(u32::MAX)
}

/// The instant at which a call ends whose head carried `millis`; `None` if it carried no deadline (zero).
#[must_use]
pub fn from_wire_timeout(millis: u32, now: Instant) -> Option<Instant> {
    (millis != 0).then(|| now + Duration::from_millis(u64::from(millis)))
}

/// A duration that is given as a [`Duration`] or as text such as `"250ms"`, `"2s"` or `"1m30s"`.
pub trait IntoDuration {
    /// The duration.
    ///
    /// # Errors
    /// [`DurationError`] if the text is not a duration.
    fn into_duration(self) -> Result<Duration, DurationError>;
}

impl IntoDuration for Duration {
    fn into_duration(self) -> Result<Duration, DurationError> {
        Ok(self)
    }
}

impl IntoDuration for &str {
    fn into_duration(self) -> Result<Duration, DurationError> {
        parse_duration(self)
    }
}

/// Text that is no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid duration {text:?}; expected a number and a unit, for example \"250ms\", \"2s\" or \"1m30s\"")]
pub struct DurationError {
    text: String,
}

/// Parses numbers with the units `ns`, `us`, `ms`, `s`, `m`, `h` and `d`, one after the other.
///
/// # Errors
/// [`DurationError`] if a number or unit is missing or unknown, or the sum does not fit.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let error = || DurationError {
        text: text.chars().take(64).collect(),
    };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(error());
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(error)?;
        let number: u64 = rest[..digits].parse().map_err(|_| error())?;
        rest = rest[digits..].trim_start();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let nanos_per_unit: u64 = match &rest[..letters] {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            "d" => 86_400_000_000_000,
            _ => return Err(error()),
        };
        let nanos = number.checked_mul(nanos_per_unit).ok_or_else(error)?;
        total = total.checked_add(Duration::from_nanos(nanos)).ok_or_else(error)?;
        rest = rest[letters..].trim_start();
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{from_wire_timeout, parse_duration, to_wire_timeout};

    #[test]
    fn texts_parse() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("250ms", ms(250)),
            ("2s", ms(2_000)),
            ("1m30s", ms(90_000)),
            ("1m 30s", ms(90_000)),
            ("10 us", Duration::from_micros(10)),
            ("0s", Duration::ZERO),
        ] {
            assert_eq!(parse_duration(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn bad_texts_are_named() {
        for text in [
            "",
            "5",
            "2 apples",
            "s",
            "-1s",
            "1.5s",
            "99999999999999999999s",
            "999999999999d",
        ] {
            let error = parse_duration(text).unwrap_err();
            assert!(error.to_string().contains("250ms"), "{text}");
        }
    }

    #[test]
    fn wire_timeouts_round_up_and_never_reach_zero() {
        let now = super::now();
        let micros = Duration::from_micros;
        assert_eq!(to_wire_timeout(now, now), 1);
        assert_eq!(to_wire_timeout(now + micros(1), now), 1);
        assert_eq!(to_wire_timeout(now + micros(1_001), now), 2);
        assert_eq!(to_wire_timeout(now + Duration::from_secs(1 << 40), now), u32::MAX);
        assert_eq!(from_wire_timeout(0, now), None);
        assert_eq!(from_wire_timeout(5, now), Some(now + Duration::from_millis(5)));
    }
}
