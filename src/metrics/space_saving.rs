//! The heaviest keys of an endless stream in bounded memory, each with the largest error of its count: the algorithm
//! "Space-Saving" of Metwally, Agrawal and El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
//! Streams" (ICDT 2005).
//!
//! With room for `m` keys and a total weight of `N`: a listed key's count is never below its true weight and never
//! above it by more than its error, no error is over `N / m`, and a key heavier than that is listed. The same holds for
//! several summaries merged into one, with the sums of their bounds (Agarwal et al., "Mergeable Summaries", PODS 2012).

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;

/// A key with the bounds of its weight.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted<K> {
    /// The key.
    pub key: K,
    /// Upper bound of its weight.
    pub count: u64,
    /// How far the true weight can be below `weight`.
    pub error: u64,
}

/// The heaviest keys, in no order.
#[derive(Debug, Clone)]
pub struct Summary<K> {
    /// The listed keys.
    pub counted: Vec<Counted<K>>,
    /// Upper bound of the weight of any other key.
    pub floor: u64,
}

/// Counts keys as they arrive.
#[derive(Debug)]
pub struct SpaceSaving<K> {
    capacity: usize,
    counted: Vec<Counted<K>>,
    /// Positions in `counted`, by key.
    by_key: HashMap<K, usize, ahash::RandomState>,
    /// Positions in `counted` as a binary heap: the lightest is first.
    heap: Vec<usize>,
    /// Where each of `counted` is in `heap`.
    in_heap: Vec<usize>,
}

impl<K: Clone + Eq + Hash> SpaceSaving<K> {
    /// Room for so many keys, one at least.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity: capacity.max(1),
            counted: Vec::new(),
            by_key: HashMap::default(),
            heap: Vec::new(),
            in_heap: Vec::new(),
        }
    }

    /// Adds to the weight of `key`, which `own` makes if it has to be listed.
    pub fn add<Q>(&mut self, key: &Q, weight: u64, own: impl FnOnce() -> K)
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let place = match self.by_key.get(key) {
            Some(&place) => place,
            None if self.counted.len() < self.capacity => self.list(own()),
            None => self.replace_lightest(own()),
        };
        let counted = &mut self.counted[place];
        counted.count = counted.count.saturating_add(weight);
        self.sink(self.in_heap[place]);
    }

    /// A summary of the counts so far.
    #[must_use]
    pub fn summary(&self) -> Summary<K> {
        let full = self.counted.len() == self.capacity;
        let lightest = self.heap.first().map(|&place| self.counted[place].count);
        Summary {
            counted: self.counted.clone(),
            floor: lightest.filter(|_| full).unwrap_or(0),
        }
    }

    fn list(&mut self, key: K) -> usize {
        let place = self.counted.len();
        self.by_key.insert(key.clone(), place);
        self.counted.push(Counted {
            key,
            count: 0,
            error: 0,
        });
        self.in_heap.push(self.heap.len());
        self.heap.push(place);
        self.rise(self.heap.len() - 1);
        place
    }

    /// The new key may have been removed earlier, with at most the weight of the lightest one.
    fn replace_lightest(&mut self, key: K) -> usize {
        let place = self.heap[0];
        let counted = &mut self.counted[place];
        self.by_key.remove(&counted.key);
        counted.error = counted.count;
        counted.key = key.clone();
        self.by_key.insert(key, place);
        place
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.is_lighter(at, (at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let children = [2 * at + 1, 2 * at + 2].into_iter();
            let lighter = children
                .filter(|&child| child < self.heap.len())
                .min_by_key(|&child| self.counted[self.heap[child]].count);
            match lighter {
                Some(child) if self.is_lighter(child, at) => {
                    self.swap(child, at);
                    at = child;
                }
                _ => return,
            }
        }
    }

    fn is_lighter(&self, one: usize, other: usize) -> bool {
        self.counted[self.heap[one]].count < self.counted[self.heap[other]].count
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.heap.swap(one, other);
        self.in_heap[self.heap[one]] = one;
        self.in_heap[self.heap[other]] = other;
    }
}

impl<K> Default for Summary<K> {
    /// Of nothing.
    fn default() -> Self {
        Self {
            counted: Vec::new(),
            floor: 0,
        }
    }
}

impl<K: Clone + Eq + Hash> Summary<K> {
    /// Merges the summaries of several streams.
    pub fn merged<'a>(summaries: impl IntoIterator<Item = &'a Self>) -> Self
    where
        K: 'a,
    {
        let mut together: HashMap<&K, (u64, u64, u64), ahash::RandomState> = HashMap::default();
        let mut floor = 0_u64;
        for summary in summaries {
            floor = floor.saturating_add(summary.floor);
            for Counted { key, count, error } in &summary.counted {
                let sums = together.entry(key).or_default();
                sums.0 = sums.0.saturating_add(*count);
                sums.1 = sums.1.saturating_add(*error);
                sums.2 = sums.2.saturating_add(summary.floor);
            }
        }
        let counted = together.into_iter().map(|(key, (count, error, known))| {
            // In a summary that does not list the key, it may have had this weight.
            let elsewhere = floor - known;
            Counted {
                key: key.clone(),
                count: count.saturating_add(elsewhere),
                error: error.saturating_add(elsewhere),
            }
        });
        Self {
            counted: counted.collect(),
            floor,
        }
    }

    /// The heaviest, the heaviest first.
    #[must_use]
    pub fn heaviest(mut self, most: usize) -> Vec<Counted<K>> {
        self.counted.sort_by_key(|counted| {
            std::cmp::Reverse((counted.count, counted.count - counted.error))
        });
        self.counted.truncate(most);
        self.counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(stream: &[(u8, u64)], capacity: usize) -> Summary<u8> {
        let mut counts = SpaceSaving::new(capacity);
        for &(key, weight) in stream {
            counts.add(&key, weight, || key);
        }
        counts.summary()
    }

    fn assert_bounds(summary: &Summary<u8>, stream: &[(u8, u64)]) {
        let weight = |wanted: u8| -> u64 {
            let of_key = stream.iter().filter(|(key, _)| *key == wanted);
            of_key.map(|(_, weight)| weight).sum()
        };
        for Counted { key, count, error } in &summary.counted {
            let truth = weight(*key);
            assert!(truth <= *count, "{key}: {count} is below {truth}");
            assert!(
                truth >= count - error,
                "{key}: {count} - {error} is over {truth}"
            );
        }
        for key in 0..=u8::MAX {
            if !summary.counted.iter().any(|counted| counted.key == key) {
                let truth = weight(key);
                assert!(truth <= summary.floor, "{key} of {truth} is not listed");
            }
        }
    }

    #[test]
    fn what_fits_is_exact() {
        let summary = counted(&[(1, 5), (2, 1), (1, 2), (3, 4)], 3);
        let heaviest: Vec<_> = summary
            .heaviest(2)
            .into_iter()
            .map(|counted| (counted.key, counted.count, counted.error))
            .collect();
        assert_eq!(heaviest, [(1, 7, 0), (3, 4, 0)]);
    }

    #[test]
    fn a_heavy_key_outlasts_any_number_of_light_ones() {
        let mut counts = SpaceSaving::new(8);
        for light in 0..10_000_u32 {
            counts.add(&light, 1, || light);
            if light % 4 == 0 {
                counts.add(&u32::MAX, 1, || u32::MAX);
            }
        }
        let first = &counts.summary().heaviest(1)[0];
        assert_eq!(first.key, u32::MAX);
        assert!(first.count >= 2_500 && first.count - first.error <= 2_500);
    }

    proptest::proptest! {
        #[test]
        fn no_count_is_off_by_more_than_its_error(
            streams in proptest::collection::vec(
                proptest::collection::vec((0..40_u8, 0..50_u64), 0..300), 1..4),
            capacity in 1..20_usize,
        ) {
            let mut summaries = Vec::new();
            for stream in &streams {
                let summary = counted(stream, capacity);
                assert_bounds(&summary, stream);
                let total: u64 = stream.iter().map(|(_, weight)| weight).sum();
                let room = u64::try_from(capacity).expect("small");
                assert!(summary.floor * room <= total, "{} of {total}", summary.floor);
                for counted in &summary.counted {
                    assert!(counted.error <= summary.floor);
                }
                summaries.push(summary);
            }
            assert_bounds(&Summary::merged(&summaries), &streams.concat());
        }
    }
}
