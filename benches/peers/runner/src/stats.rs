//! Medians and quartiles of a few samples.

/// The median; none without samples.
pub(crate) fn median(samples: Vec<f64>) -> Option<f64> {
    quantile(samples, 0.5)
}

/// The quartile that a bar must be met by.
pub(crate) fn lower_quartile(samples: Vec<f64>) -> Option<f64> {
    quantile(samples, 0.25)
}

/// Interpolates linearly between the two nearest samples.
fn quantile(mut samples: Vec<f64>, at: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    let position = at * samples.len().checked_sub(1)? as f64;
    let (below, above) = (samples[position.floor() as usize], samples[position.ceil() as usize]);
    Some(below + (above - below) * position.fract())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate() {
        assert_eq!(median(vec![3.0, 1.0, 2.0, 4.0]), Some(2.5));
        assert_eq!(lower_quartile(vec![5.0, 4.0, 3.0, 2.0, 1.0]), Some(2.0));
        assert_eq!(median(vec![7.0]), Some(7.0));
        assert_eq!(median(Vec::new()), None);
    }
}
