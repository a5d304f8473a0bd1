//! Results of /health, and the time that each took.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::metrics::coredns::HEALTH_TIMES;
use crate::metrics::distribution::Distribution;

/// Times of all answers, and how many of them were not ok.
type HealthRecord = (Distribution<5>, u64);

/// All answers so far.
#[derive(Debug, Default)]
pub struct HealthAnswers(Mutex<HealthRecord>);

impl HealthAnswers {
    /// Counts an answer, and the time that it took.
    pub fn count_ok(&self, after: Duration) {
        self.lock().0.observe_time(&HEALTH_TIMES.bounds, after);
    }

    /// Counts an answer that was not "ok".
    pub fn count_failed(&self, after: Duration) {
        self.count_ok(after);
        self.lock().1 += 1;
    }

    /// Times, and failures.
    #[must_use]
    pub fn read(&self) -> HealthRecord {
        *self.lock()
    }

    fn lock(&self) -> MutexGuard<'_, HealthRecord> {
        // Numbers that are only added to.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
