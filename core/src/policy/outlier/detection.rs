//! What counts as an outlier.

use std::time::Duration;

/// Failures in a row that are too many where others do not fail.
const CONSECUTIVE: u32 = 5;
/// How likely a run of failures may be at an endpoint that is as the others are: one in a billion.
const CHANCE: f64 = 1e-9;
/// A run that is longer than this tells something whatever the others do.
const CONSECUTIVE_MAX: u32 = 1_000;
/// How long one that was ejected often stays away.
pub(super) const AWAY_MAX: Duration = Duration::from_secs(30);

/// When an endpoint counts as an outlier, and how many may: as [`DEFAULT`](Self::DEFAULT) if nothing else is said.
///
/// # Examples
/// ```
/// # mod sinew { pub use sinew_core::policy::outlier::OutlierDetection; }
/// use sinew::OutlierDetection;
///
/// let careful = OutlierDetection::DEFAULT.consecutive_failures(10).max_ejected(0.2);
/// let also_slow_ones = OutlierDetection::DEFAULT.latency_factor(5.0);
/// # let _ = (careful, also_slow_ones);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutlierDetection {
    pub(super) is_on: bool,
    pub(super) consecutive: u32,
    pub(super) success_rate: bool,
    pub(super) failure_share: f64,
    pub(super) latency_factor: Option<f64>,
    pub(super) max_ejected: f64,
    pub(super) ejection_time: Duration,
}

impl OutlierDetection {
    /// An endpoint is ejected for 1 s at first, and up to 30 s when it comes to that again and again, when
    ///
    /// - 5 calls in a row fail there, or more where the others fail too: so many that it is no chance;
    /// - it fails much more often than the others within the last 2 s or 10 s: by 20 percent points at least, and by more than chance explains;
    /// - of 50 calls or more within 10 s 85 % fail.
    ///
    /// At most half of the endpoints are ejected, and never the last one. Where most calls fail at those that are left, all are called again.
    pub const DEFAULT: Self = Self {
        is_on: true,
        consecutive: CONSECUTIVE,
        success_rate: true,
        failure_share: 0.85,
        latency_factor: None,
        max_ejected: 0.5,
        ejection_time: Duration::from_secs(1),
    };
    /// No endpoint is ejected.
    pub const NEVER: Self = Self {
        is_on: false,
        ..Self::DEFAULT
    };

    /// Sets the failures in a row that are too many, where others do not fail (default: 5; at least 1).
    #[must_use]
    pub const fn consecutive_failures(mut self, failures: u32) -> Self {
        self.consecutive = if failures == 0 { 1 } else { failures };
        self
    }

    /// Sets whether an endpoint is compared with how often the others fail (default: yes).
    #[must_use]
    pub const fn success_rate(mut self, is_compared: bool) -> Self {
        self.success_rate = is_compared;
        self
    }

    /// Sets the share of failures that is too much whatever the others do (default: 0.85; 0.01 to 1, what is beyond counts as that).
    #[must_use]
    pub const fn failure_share(mut self, share: f64) -> Self {
        self.failure_share = clamped(share, 0.01, 1.0, 0.85);
        self
    }

    /// Ejects endpoints that take so many times as long as is usual among those of their zone (default: none; 1.5 to 1,000, what is beyond counts as that): the default balancer gives a slow
    /// one few calls anyway. Not where endpoints do different work, as behind a consistent hash.
    #[must_use]
    pub const fn latency_factor(mut self, factor: f64) -> Self {
        self.latency_factor = Some(clamped(factor, 1.5, 1_000.0, 5.0));
        self
    }

    /// Sets the share of endpoints that may be ejected at a time (default: 0.5; 0 to 1, what is beyond counts as that): of two or more at least one, and never all. Where
    /// there are routes, of each.
    #[must_use]
    pub const fn max_ejected(mut self, share: f64) -> Self {
        self.max_ejected = clamped(share, 0.0, 1.0, 0.5);
        self
    }

    /// Sets how long an endpoint is ejected at first (default: 1 s; at most 30 s, more counts as that).
    #[must_use]
    pub fn ejection_time(mut self, time: Duration) -> Self {
        self.ejection_time = time.min(AWAY_MAX);
        self
    }

    /// Whether any endpoint is ever ejected.
    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.is_on
    }

    /// Failures in a row that are too many next to others of which that share fails.
    pub(super) fn consecutive_next_to(&self, share: f64) -> u32 {
        if share <= 0.0 {
            return self.consecutive;
        }
        let by_chance = (CHANCE.ln() / share.min(0.999).ln()).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is clamped")]
        let by_chance = by_chance.clamp(1.0, f64::from(CONSECUTIVE_MAX)) as u32;
        by_chance.max(self.consecutive)
    }
}

const fn clamped(value: f64, least: f64, most: f64, default: f64) -> f64 {
    if value.is_nan() {
        return default;
    }
    value.clamp(least, most)
}
