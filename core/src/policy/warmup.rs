//! Endpoints that are new grow into their share: caches have to be filled, code to be paged in, connections to be made.
//!
//! In steps, because every change of a weight is a new picker.
//! Source: slow start of Envoy, with a linear curve.

use std::time::Duration;

/// Steps from nothing to a whole share.
const STEPS: u32 = 20;
/// The step to begin with: a tenth, because an endpoint that is not called never gets warm.
const FIRST_STEP: u32 = 2;

/// How new endpoints grow.
#[derive(Clone, Copy, Debug)]
pub struct Warmup {
    /// `None`: at once.
    window: Option<Duration>,
}

impl Warmup {
    /// Within `window`; without one, or with zero, at once.
    #[must_use]
    pub fn new(window: Option<Duration>) -> Self {
        Self {
            window: window.filter(|window| !window.is_zero()),
        }
    }

    /// The weights as they are now, of endpoints that have been ready for these `ages`.
    pub fn weights(&self, full: impl Iterator<Item = u32>, ages: &[Duration]) -> Vec<u32> {
        let steps: Vec<u32> = ages.iter().map(|age| self.step(*age)).collect();
        // Where all grow side by side, or have grown, their full weights are the same shares.
        let is_level = steps.windows(2).all(|pair| pair[0] == pair[1]);
        full.zip(steps)
            .map(|(weight, step)| if is_level { weight } else { weight.saturating_mul(step) })
            .collect()
    }

    /// In how long a weight changes.
    #[must_use]
    pub fn next_change(&self, ages: &[Duration]) -> Option<Duration> {
        let window = self.window?;
        let left = |age: &Duration| {
            let step = self.step(*age);
            (step < STEPS).then(|| (window * step / STEPS).saturating_sub(*age))
        };
        // A step is over just behind its end.
        ages.iter().filter_map(left).min().map(|left| left + Duration::from_millis(1))
    }

    fn step(&self, age: Duration) -> u32 {
        let Some(window) = self.window.filter(|window| age < *window) else {
            return STEPS;
        };
        let passed = age.as_secs_f64() / window.as_secs_f64() * f64::from(STEPS);
        (FIRST_STEP..STEPS).find(|step| passed <= f64::from(*step)).unwrap_or(STEPS)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Warmup;

    #[test]
    fn a_new_one_grows_along_a_line() {
        let warmup = Warmup::new(Some(Duration::from_secs(10)));
        let old = Duration::from_secs(60);
        for percent in 0..=120_u32 {
            let age = Duration::from_millis(100) * percent;
            let weights = warmup.weights([100, 100].into_iter(), &[old, age]);
            let share = f64::from(weights[1]) / f64::from(weights[0]);
            let wanted = (f64::from(percent) / 100.0).clamp(0.1, 1.0);
            // Of the curve, plus or minus a tenth of the whole; within half a step it is.
            assert!((share - wanted).abs() <= 0.051, "{percent} %: {share}");
        }
    }

    #[test]
    fn those_that_start_together_have_their_full_weights() {
        let warmup = Warmup::new(Some(Duration::from_secs(10)));
        let age = Duration::from_secs(1);
        assert_eq!(warmup.weights([3, 4].into_iter(), &[age, age]), [3, 4]);
        assert_eq!(
            Warmup::new(None).weights([3, 4].into_iter(), &[age, Duration::ZERO]),
            [3, 4]
        );
        assert_eq!(Warmup::new(Some(Duration::ZERO)).next_change(&[age]), None);
    }

    #[test]
    fn steps_are_taken_one_after_the_other() {
        let warmup = Warmup::new(Some(Duration::from_secs(10)));
        let (mut age, mut changes) = (Duration::ZERO, 0);
        while let Some(left) = warmup.next_change(&[age]) {
            let before = warmup.step(age);
            age += left;
            assert!(warmup.step(age) > before, "{age:?}");
            changes += 1;
        }
        assert!(
            changes <= 20 && age >= Duration::from_millis(9_400),
            "{changes} changes, {age:?}"
        );
    }
}
