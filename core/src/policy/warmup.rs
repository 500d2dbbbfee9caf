//! Endpoints that are new grow into their share: caches have to be filled, code to be paged in, connections to be made.
//!
//! In steps, because every change of a weight is a new picker.
//! Source: slow start of Envoy, with a linear curve.

use std::time::Duration;

/// Steps from nothing to a whole share.
const STEPS: u32 = 20;
/// The step to begin with: a tenth, because an endpoint that is not called never gets warm.
const FIRST_STEP: u32 = 2;

/// In how long one that was ejected grows into its share again: it is warm, and has answered already.
const BACK_WITHIN: Duration = Duration::from_secs(2);

/// How long an endpoint has been there.
#[derive(Clone, Copy, Debug)]
pub struct Age {
    /// Since it was connected.
    pub ready: Duration,
    /// Since it came back, if it was ejected.
    pub back: Option<Duration>,
}

impl From<Duration> for Age {
    fn from(ready: Duration) -> Self {
        Self { ready, back: None }
    }
}

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

    /// The weights as they are now, of endpoints of these `ages`.
    pub fn weights(&self, full: impl Iterator<Item = u32>, ages: &[Age]) -> Vec<u32> {
        let steps: Vec<u32> = ages.iter().map(|age| self.step(*age)).collect();
        // Where all grow side by side, or have grown, their full weights are the same shares.
        let is_level = steps.windows(2).all(|pair| pair[0] == pair[1]);
        full.zip(steps)
            .map(|(weight, step)| if is_level { weight } else { weight.saturating_mul(step) })
            .collect()
    }

    /// In how long a weight changes.
    #[must_use]
    pub fn next_change(&self, ages: &[Age]) -> Option<Duration> {
        let of_age = |age: &Age| {
            let new = self.window.and_then(|window| left(window, age.ready));
            let back = age.back.and_then(|back| left(BACK_WITHIN, back));
            new.into_iter().chain(back).min()
        };
        // A step is over just behind its end.
        ages.iter().filter_map(of_age).min().map(|left| left + Duration::from_millis(1))
    }

    fn step(&self, age: Age) -> u32 {
        let new = self.window.map_or(STEPS, |window| step(window, age.ready));
        let back = age.back.map_or(STEPS, |back| step(BACK_WITHIN, back));
        new.min(back)
    }
}

fn step(window: Duration, age: Duration) -> u32 {
    if age >= window {
        return STEPS;
    }
    let passed = age.as_secs_f64() / window.as_secs_f64() * f64::from(STEPS);
    (FIRST_STEP..STEPS).find(|step| passed <= f64::from(*step)).unwrap_or(STEPS)
}

/// In how long the step of that age is over, unless it is the last.
fn left(window: Duration, age: Duration) -> Option<Duration> {
    let step = step(window, age);
    (step < STEPS).then(|| (window * step / STEPS).saturating_sub(age))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Age, Warmup};

    #[test]
    fn a_new_one_grows_along_a_line() {
        let warmup = Warmup::new(Some(Duration::from_secs(10)));
        let old = Duration::from_secs(60);
        for percent in 0..=120_u32 {
            let age = Duration::from_millis(100) * percent;
            let weights = warmup.weights([100, 100].into_iter(), &[old.into(), age.into()]);
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
        assert_eq!(warmup.weights([3, 4].into_iter(), &[age.into(), age.into()]), [3, 4]);
        assert_eq!(
            Warmup::new(None).weights([3, 4].into_iter(), &[age.into(), Duration::ZERO.into()]),
            [3, 4]
        );
        assert_eq!(Warmup::new(Some(Duration::ZERO)).next_change(&[age.into()]), None);
    }

    #[test]
    fn who_was_ejected_grows_faster_though_it_is_old() {
        let warmup = Warmup::new(None);
        let old = Age::from(Duration::from_secs(60));
        for (back, percent) in [(0, 10), (1_000, 50), (1_600, 80), (2_000, 100)] {
            let age = Age {
                back: Some(Duration::from_millis(back)),
                ..old
            };
            let weights = warmup.weights([10, 10].into_iter(), &[old, age]);
            assert_eq!(weights[1] * 100 / weights[0], percent, "{back}");
            assert_eq!(warmup.next_change(&[old, age]).is_some(), percent < 100, "{back}");
        }
    }

    #[test]
    fn steps_are_taken_one_after_the_other() {
        let warmup = Warmup::new(Some(Duration::from_secs(10)));
        let (mut age, mut changes) = (Duration::ZERO, 0);
        while let Some(left) = warmup.next_change(&[age.into()]) {
            let before = warmup.step(age.into());
            age += left;
            assert!(warmup.step(age.into()) > before, "{age:?}");
            changes += 1;
        }
        assert!(
            changes <= 20 && age >= Duration::from_millis(9_400),
            "{changes} changes, {age:?}"
        );
    }
}
