//! Latencies of some calls: how many, their mean, and how far it can be trusted.

/// Latencies, in seconds, of some calls.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    count: u32,
    sum: f64,
    squares: f64,
}

impl Sample {
    pub(super) fn add(&mut self, latency: f64) {
        self.add_many(1, latency);
    }

    /// Adds `count` calls that took as long.
    pub(super) fn add_many(&mut self, count: u32, latency: f64) {
        self.count += count;
        self.sum += f64::from(count) * latency;
        self.squares += f64::from(count) * latency * latency;
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    pub(super) fn mean(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }

    /// The square of the coefficient of variation: 0 for calls that are all alike, 1 for exponential ones.
    pub(super) fn variation(&self) -> f64 {
        let mean = self.mean();
        if self.count < 2 || mean <= 0.0 {
            return 0.0;
        }
        (self.squares / f64::from(self.count) / (mean * mean) - 1.0).max(0.0)
    }

    /// How far the mean may be off: its standard error over itself.
    pub(super) fn error(&self) -> f64 {
        (self.variation() / f64::from(self.count.max(1))).sqrt()
    }
}

/// Calls that have to be seen, of such a variation, until their mean is known to `error`.
pub(super) fn calls_for(variation: f64, error: f64) -> f64 {
    variation / (error * error)
}
