//! Exponential backoff with full jitter: how long to wait before the next attempt to connect.
//!
//! Full jitter spreads the clients of a server that restarts over the whole delay instead of a band around it.
//!
//! Source: "Exponential Backoff And Jitter" (AWS Architecture Blog); gRPC "connection backoff" for the growth by 1.6.

use std::time::Duration;

use crate::time::SETTING_MAX;

/// The parameters of a backoff.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    initial: Duration,
    factor: f64,
    cap: Duration,
}

/// A parameter that makes no backoff.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("backoff: {field} is {value}; it must be {range}")]
pub struct BackoffError {
    /// The name of the parameter.
    pub field: &'static str,
    /// Its value.
    pub value: String,
    /// What it may be.
    pub range: &'static str,
}

impl Backoff {
    /// 50 ms, growing by 1.6 up to 5 s: a LAN's numbers. A server that restarts is back within its first few attempts.
    pub const DEFAULT: Self = Self {
        initial: Duration::from_millis(50),
        factor: 1.6,
        cap: Duration::from_secs(5),
    };

    /// One whose parameters are within their ranges.
    pub(super) const fn of(initial: Duration, factor: f64, cap: Duration) -> Self {
        Self { initial, factor, cap }
    }

    /// A backoff: `initial` (more than 0), each time `factor` (1 to 10) times as long, up to `cap` (at least `initial`, at most 365 days); each wait is a
    /// random part of that.
    ///
    /// # Errors
    /// [`BackoffError`] if a parameter is out of range.
    pub fn try_new(initial: Duration, factor: f64, cap: Duration) -> Result<Self, BackoffError> {
        let wrong = |field, value, range| Err(BackoffError { field, value, range });
        if initial.is_zero() {
            return wrong("initial", format!("{initial:?}"), "longer than 0");
        }
        if !(1.0..=10.0).contains(&factor) {
            return wrong("factor", factor.to_string(), "1 to 10");
        }
        if cap < initial || cap > SETTING_MAX {
            return wrong("cap", format!("{cap:?}"), "at least `initial` and at most 365 days");
        }
        Ok(Self { initial, factor, cap })
    }

    /// How much longer each delay may be than the one before.
    #[must_use]
    pub const fn factor(&self) -> f64 {
        self.factor
    }

    /// The longest delay.
    #[must_use]
    pub const fn cap(&self) -> Duration {
        self.cap
    }

    /// The longest delay before attempt `attempt` (the first retry is 0).
    #[must_use]
    pub fn ceiling(&self, attempt: u32) -> Duration {
        let grown = self.initial.as_secs_f64() * self.factor.powi(i32::try_from(attempt.min(1_000)).unwrap_or(1_000));
        Duration::try_from_secs_f64(grown).map_or(self.cap, |grown| grown.min(self.cap))
    }

    /// The delay before attempt `attempt`; `random` is uniform in 0..1.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        self.ceiling(attempt).mul_f64(random.clamp(0.0, 1.0))
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::DEFAULT
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Backoff;

    #[test]
    fn the_ceiling_grows_to_the_cap_and_stays() {
        let backoff = Backoff::DEFAULT;
        let millis = |attempt| backoff.ceiling(attempt).as_millis();
        assert_eq!([millis(0), millis(1), millis(2), millis(3)], [50, 80, 128, 204]);
        assert_eq!(millis(10), 5_000);
        assert_eq!(millis(u32::MAX), 5_000);
    }

    #[test]
    fn full_jitter_reaches_from_zero_to_the_ceiling() {
        let backoff = Backoff::DEFAULT;
        assert_eq!(backoff.delay(0, 0.0), Duration::ZERO);
        assert_eq!(backoff.delay(0, 1.0), Duration::from_millis(50));
        assert_eq!(backoff.delay(0, 7.0), Duration::from_millis(50));
    }

    #[test]
    fn bad_parameters_are_refused() {
        let second = Duration::from_secs(1);
        assert!(Backoff::try_new(Duration::ZERO, 2.0, second).is_err());
        assert!(Backoff::try_new(second * 2, 2.0, second).is_err());
        assert!(Backoff::try_new(second, 0.5, second).is_err());
        assert!(Backoff::try_new(second, f64::NAN, second).is_err());
        assert!(Backoff::try_new(second, 1.0, second).is_ok());
    }
}
