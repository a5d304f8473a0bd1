//! A point in time in eight octets, half of what an [`Instant`] takes: each answer in the cache has one.
//!
//! Owns the time that moments are counted from. The first moment of the process sets it, far enough in the past for answers
//! that a predecessor handed over. Exact to the nanosecond, as an [`Instant`] is.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// How long before the first moment others may be, and about how long after it: 2^31 seconds.
const ERA: Duration = Duration::from_secs(1 << 31);

/// The time that moments are counted from.
static ORIGIN: OnceLock<Instant> = OnceLock::new();

#[inline]
fn origin() -> Instant {
    *ORIGIN.get().expect("the first moment has set it")
}

/// A point in time, counted from [`ORIGIN`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    seconds: u32,
    nanoseconds: u32,
}

impl Moment {
    /// The moment of an instant. One more than 68 years before or after the first is taken for the earliest or the latest.
    pub(super) fn of(at: Instant) -> Self {
        let origin = ORIGIN.get_or_init(|| at.checked_sub(ERA).unwrap_or(at));
        let passed = at.saturating_duration_since(*origin);
        Self {
            seconds: u32::try_from(passed.as_secs()).unwrap_or(u32::MAX),
            nanoseconds: passed.subsec_nanos(),
        }
    }

    /// The instant.
    pub(super) fn instant(self) -> Instant {
        origin() + self.since_origin()
    }

    /// Whole seconds from the moment to `now`; 0 if the moment is later. Each hit needs them, and subtracting a [`Duration`]
    /// takes longer.
    #[inline]
    pub(super) fn seconds_until(self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(origin());
        let begun = passed.as_secs().saturating_sub(u64::from(self.seconds));
        begun.saturating_sub(u64::from(passed.subsec_nanos() < self.nanoseconds))
    }

    /// Time from the moment to `now`; zero if the moment is later.
    pub(super) fn until(self, now: Instant) -> Duration {
        let passed = now.saturating_duration_since(origin());
        passed.saturating_sub(self.since_origin())
    }

    fn since_origin(self) -> Duration {
        Duration::new(u64::from(self.seconds), self.nanoseconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_as_exact_as_its_instant() {
        let first = Instant::now();
        let nanosecond = Duration::from_nanos(1);
        for age in [
            Duration::ZERO,
            nanosecond,
            Duration::from_secs(1),
            Duration::from_hours(100_000) + nanosecond,
        ] {
            let later = first + age;
            let moment = Moment::of(first);
            assert_eq!(moment.until(later), age);
            assert_eq!(moment.seconds_until(later), age.as_secs());
            let nearly = later.checked_sub(nanosecond).expect("as below");
            assert_eq!(moment.seconds_until(nearly), (nearly - first).as_secs());
            assert_eq!(Moment::of(later).until(first), Duration::ZERO);
            assert_eq!(Moment::of(later).seconds_until(first), 0);
            assert_eq!(Moment::of(later).instant(), later);
            let earlier = first.checked_sub(age).expect("Linux has earlier times");
            assert_eq!(Moment::of(earlier).until(first), age);
        }
    }
}
