//! Medians and spreads.

/// Samples of one quantity.
#[derive(Debug, Clone, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds a sample.
    pub fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    /// The middle sample; of none, zero.
    pub fn median(&self) -> f64 {
        self.quantile(1, 2)
    }

    /// Median absolute deviation from the median: a spread that one outlier does not move.
    pub fn deviation(&self) -> f64 {
        let median = self.median();
        self.0.iter().map(|sample| (sample - median).abs()).collect::<Self>().median()
    }

    /// Where the median of ever more samples would lie, at least 95 times of 100: between two of these, whatever their distribution. None: they are too
    /// few to say so.
    pub fn interval(&self) -> Option<(f64, f64)> {
        let count = self.0.len();
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        // Of as many throws of a coin, how probable are at most `below` heads?
        let mut chance = 0.5_f64.powi(i32::try_from(count).ok()?);
        let (mut sum, mut below) = (chance, 0);
        while sum <= 0.025 && below < count {
            below += 1;
            chance *= ratio(count + 1 - below, below);
            sum += chance;
        }
        let first = below.checked_sub(1)?;
        Some((*sorted.get(first)?, *sorted.get(count - 1 - first)?))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The lowest and the highest sample.
    pub fn range(&self) -> (f64, f64) {
        (self.quantile(0, 1), self.quantile(1, 1))
    }

    /// The sample below which `part / whole` of all lie.
    pub fn quantile(&self, part: usize, whole: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().saturating_sub(1);
        sorted.get(last * part / whole).copied().unwrap_or_default()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<T: IntoIterator<Item = f64>>(samples: T) -> Self {
        Self(samples.into_iter().collect())
    }
}

#[expect(clippy::cast_precision_loss, reason = "numbers of samples")]
fn ratio(part: usize, whole: usize) -> f64 {
    part as f64 / whole as f64
}

#[cfg(test)]
mod tests {
    use super::Samples;

    /// The ranks of a table of the sign test (two-sided, 5 %).
    #[test]
    fn the_interval_of_the_median_is_that_of_the_sign_test() {
        for (count, low, high) in
            [(6, 1, 6), (7, 1, 7), (8, 1, 8), (9, 2, 8), (12, 3, 10), (25, 8, 18), (40, 14, 27)]
        {
            let samples: Samples = (1..=count).rev().map(f64::from).collect();
            assert_eq!(samples.interval(), Some((f64::from(low), f64::from(high))), "{count} samples");
        }
        assert_eq!((1..=5).map(f64::from).collect::<Samples>().interval(), None);
        assert_eq!(Samples::default().interval(), None);
    }

    #[test]
    fn the_median_is_the_middle_of_the_sorted_samples() {
        let samples = Samples(vec![9.0, 1.0, 5.0]);
        assert!((samples.median() - 5.0).abs() < f64::EPSILON);
        assert_eq!(samples.range(), (1.0, 9.0));
    }

    #[test]
    fn one_outlier_does_not_move_the_deviation() {
        let samples = Samples(vec![10.0, 11.0, 9.0, 10.0, 1000.0]);
        assert!((samples.deviation() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn no_samples_have_the_median_zero() {
        assert!(Samples::default().median().abs() < f64::EPSILON);
    }
}
