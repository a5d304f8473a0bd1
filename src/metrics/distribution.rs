//! A histogram of whole numbers: nanoseconds, octets. Plain memory without synchronisation. The bounds are an argument,
//! so that they are not stored with each of many histograms.

use std::time::Duration;

/// The number of values at or below each bound, and their sum.
#[derive(Debug, Clone, Copy)]
pub struct Distribution<const BOUNDS: usize> {
    /// Values above the bound before, up to this one.
    counts: [u64; BOUNDS],
    /// Values above the last bound.
    over: u64,
    sum: u64,
}

impl<const BOUNDS: usize> Default for Distribution<BOUNDS> {
    fn default() -> Self {
        Self {
            counts: [0; BOUNDS],
            over: 0,
            sum: 0,
        }
    }
}

impl<const BOUNDS: usize> Distribution<BOUNDS> {
    /// Counts a value.
    #[inline]
    pub fn observe(&mut self, bounds: &[u64; BOUNDS], value: u64) {
        match bounds.iter().position(|bound| value <= *bound) {
            Some(index) => self.counts[index] += 1,
            None => self.over += 1,
        }
        self.sum = self.sum.saturating_add(value);
    }

    /// Counts a time by a whole number of nanoseconds.
    #[inline]
    pub fn observe_time(&mut self, bounds: &[u64; BOUNDS], time: Duration) {
        self.observe(bounds, u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
    }

    /// Adds another distribution's counts.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.over += other.over;
        self.sum = self.sum.saturating_add(other.sum);
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.over
    }

    /// The sum of the values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values are at or below each bound.
    pub fn cumulative(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().scan(0, |total, count| {
            *total += count;
            Some(*total)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_at_a_bound_is_below_it() {
        let bounds = [10, 20];
        let mut seen = Distribution::default();
        for value in [0, 10, 11, 20, 21] {
            seen.observe(&bounds, value);
        }
        assert_eq!(seen.cumulative().collect::<Vec<_>>(), [2, 4]);
        assert_eq!((seen.count(), seen.sum()), (5, 62));
        let mut twice = seen;
        twice.add(&seen);
        assert_eq!(twice.cumulative().collect::<Vec<_>>(), [4, 8]);
        assert_eq!((twice.count(), twice.sum()), (10, 124));
    }
}
