//! Warnings that would repeat with each query or connection: one line, and then one every `LOG_INTERVAL`, with how often
//! it happened since the line before.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// Long enough that a fault which lasts for hours does not fill the log, short enough to see when it ends.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Counts how often an event happened since it was last logged.
#[derive(Debug, Default)]
pub struct Repeated {
    logged: Cell<Option<Instant>>,
    times: Cell<u64>,
}

impl Repeated {
    /// Counts an event; returns the number since the last line if another line is due.
    pub fn happened(&self, now: Instant) -> Option<u64> {
        let times = self.times.get() + 1;
        let due = self
            .logged
            .get()
            .is_none_or(|logged| now.saturating_duration_since(logged) >= LOG_INTERVAL);
        self.times.set(if due { 0 } else { times });
        due.then(|| {
            self.logged.set(Some(now));
            times
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_rest_by_their_number() {
        let (repeated, start) = (Repeated::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(repeated.happened(at(0)), Some(1));
        for second in 1..10 {
            assert_eq!(repeated.happened(at(second)), None);
        }
        assert_eq!(repeated.happened(at(10)), Some(10));
        assert_eq!(repeated.happened(at(11)), None);
        assert_eq!(repeated.happened(at(60)), Some(2));
    }
}
