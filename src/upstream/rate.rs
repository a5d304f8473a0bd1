//! Limits how many queries a second one server is sent (`max_queries_per_second`), by a virtual schedule: each query takes
//! the next place, and places are evenly spaced. Pure: `now` is an argument.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A server's schedule. All workers share it.
#[derive(Debug)]
pub struct RateLimit {
    started: Instant,
    /// Nanoseconds between two places; 0 without a limit.
    spacing: AtomicU64,
    /// The next free place, in nanoseconds since the start.
    next: AtomicU64,
}

impl RateLimit {
    /// No limit.
    #[must_use]
    pub fn none(now: Instant) -> Self {
        Self {
            started: now,
            spacing: AtomicU64::new(0),
            next: AtomicU64::new(0),
        }
    }

    /// Sets the limit, in queries a second.
    pub fn set(&self, per_second: Option<NonZeroU32>) {
        let spacing = per_second.map_or(0, |most| 1_000_000_000 / u64::from(most.get()));
        self.spacing.store(spacing, Ordering::Relaxed);
    }

    /// How long a query has to wait for a place.
    #[must_use]
    pub fn wait(&self, now: Instant) -> Duration {
        let spacing = self.spacing.load(Ordering::Relaxed);
        if spacing == 0 {
            return Duration::ZERO;
        }
        let free_from = self
            .next
            .load(Ordering::Relaxed)
            .saturating_sub(burst(spacing));
        Duration::from_nanos(free_from.saturating_sub(self.nanos(now)))
    }

    /// Takes the next place, and returns the time until then. A query that cannot wait takes a place, too; then later
    /// queries wait for longer.
    pub fn take(&self, now: Instant) -> Duration {
        let spacing = self.spacing.load(Ordering::Relaxed);
        if spacing == 0 {
            return Duration::ZERO;
        }
        let wait = self.wait(now);
        let now = self.nanos(now);
        let place = |next: u64| Some(next.max(now) + spacing);
        // Never fails, because the closure always returns a value.
        let _ = self
            .next
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, place);
        wait
    }

    fn nanos(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.started).as_nanos();
        u64::try_from(since).unwrap_or(u64::MAX)
    }
}

/// How far ahead of its place a query may leave, in nanoseconds: a tenth of a second's queries may leave at once. With a
/// whole second's, twice the limit could leave in one second, and a limit on packets a second on the way would drop the
/// rest.
fn burst(spacing: u64) -> u64 {
    let queries = 1_000_000_000 / spacing / 10;
    spacing * queries.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(per_second: u32) -> (RateLimit, Instant) {
        let start = Instant::now();
        let limit = RateLimit::none(start);
        limit.set(NonZeroU32::new(per_second));
        (limit, start)
    }

    #[test]
    fn in_any_second_a_tenth_more_than_the_limit_may_leave() {
        let (limit, start) = limited(100);
        // Idle for two seconds, then as many as possible in each millisecond.
        let mut left = Vec::new();
        for millis in 2000..5000_u64 {
            let now = start + Duration::from_millis(millis);
            while limit.wait(now).is_zero() {
                let _ = limit.take(now);
                left.push(millis);
            }
        }
        for from in 2000..4000 {
            let in_second = left.iter().filter(|&&at| (from..from + 1000).contains(&at));
            let count = in_second.count();
            assert!((99..=110).contains(&count), "{count} from {from} ms");
        }
    }

    #[test]
    fn places_are_given_in_turn() {
        let (limit, start) = limited(10);
        let waits: Vec<_> = (0..4).map(|_| limit.take(start).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 300]);
        let later = start + Duration::from_millis(250);
        assert_eq!(limit.wait(later).as_millis(), 150);
    }

    #[test]
    fn without_a_limit_nobody_waits() {
        let limit = RateLimit::none(Instant::now());
        assert!((0..1000).all(|_| limit.take(Instant::now()).is_zero()));
    }
}
