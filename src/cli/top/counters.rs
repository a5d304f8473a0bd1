//! Rates of an instance, from the differences of its counters between readings. Time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::seen::InstanceSeen;

/// The shortest time that rates are computed over, as on the page: workers publish their counts only four times a
/// second.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// An instance's counters at several times, the oldest first.
#[derive(Debug, Default)]
pub(super) struct CounterHistory(VecDeque<Sample>);

/// Its counters when it was read.
#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    uptime_seconds: f64,
    queries: u64,
    failures: u64,
    stale: u64,
    hits: u64,
    lookups: u64,
}

impl Sample {
    fn new(seen: &InstanceSeen, at: Instant) -> Self {
        let (mut queries, mut failures) = (0_u64, 0_u64);
        for replies in seen.routes.iter().chain([&seen.answered_here]) {
            queries = queries.saturating_add(replies.queries);
            for (code, count) in &replies.replies {
                if !matches!(code.as_str(), "NOERROR" | "NXDOMAIN") {
                    failures = failures.saturating_add(*count);
                }
            }
        }
        let lookups = &seen.totals;
        Self {
            at,
            uptime_seconds: seen.uptime_seconds,
            queries,
            failures,
            stale: seen.cache.stale_served,
            hits: lookups.cache_hits,
            lookups: lookups.cache_hits.saturating_add(lookups.cache_misses),
        }
    }

    fn counters(&self) -> [u64; 5] {
        [
            self.queries,
            self.failures,
            self.stale,
            self.hits,
            self.lookups,
        ]
    }

    /// Whether this can be a later reading of the same counters. After a restart, or without a removed route, counters
    /// are lower.
    fn continues(&self, earlier: &Self) -> bool {
        let grew = self.counters().into_iter().zip(earlier.counters());
        self.uptime_seconds >= earlier.uptime_seconds
            && grew.into_iter().all(|(now, then)| now >= then)
    }
}

/// Per second, of the last ten seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Rates {
    pub(super) queries: f64,
    pub(super) failures: f64,
    pub(super) stale: f64,
    /// None if there were no lookups.
    pub(super) hit_percent: Option<f64>,
}

impl CounterHistory {
    /// Adds a reading. If counters are lower than before, earlier readings are dropped.
    pub(super) fn take(&mut self, seen: &InstanceSeen, at: Instant) {
        let sample = Sample::new(seen, at);
        if self.0.back().is_some_and(|last| !sample.continues(last)) {
            self.0.clear();
        }
        self.0.push_back(sample);
        let is_enough = |second: &Sample| at.saturating_duration_since(second.at) >= RATE_WINDOW;
        while self.0.get(1).is_some_and(is_enough) {
            self.0.pop_front();
        }
    }

    /// None until there are two readings.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a rate needs no more than 52 bits"
    )]
    pub(super) fn rates(&self) -> Option<Rates> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let seconds = last.at.saturating_duration_since(first.at).as_secs_f64();
        if seconds <= 0.0 {
            return None;
        }
        let per_second = |now: u64, then: u64| (now - then) as f64 / seconds;
        let lookups = last.lookups - first.lookups;
        Some(Rates {
            queries: per_second(last.queries, first.queries),
            failures: per_second(last.failures, first.failures),
            stale: per_second(last.stale, first.stale),
            hit_percent: (lookups > 0)
                .then(|| (last.hits - first.hits) as f64 * 100.0 / lookups as f64),
        })
    }
}
