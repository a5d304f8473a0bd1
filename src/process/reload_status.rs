//! Results of changes of the configuration, for /status and /metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::metrics::Metrics;

/// Result of the last change.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ReloadStatus {
    /// Configurations put in force since the start, the first included.
    pub taken: u64,
    /// Every mistake in the files as they are now; none if they are in force.
    pub mistakes: Vec<String>,
    /// Keys that were changed and take a restart.
    pub restart_needed: Vec<&'static str>,
    /// When a configuration was last put in force.
    #[serde(skip)]
    pub last: Option<Instant>,
}

/// Results of the changes so far.
#[derive(Debug)]
pub struct Reloads {
    status: Mutex<ReloadStatus>,
    refusals: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Reloads {
    /// None yet.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            status: Mutex::default(),
            refusals: AtomicU64::new(0),
            metrics: Arc::clone(metrics),
        }
    }

    /// As of now.
    #[must_use]
    pub fn status(&self) -> ReloadStatus {
        self.lock().clone()
    }

    /// How often the files held mistakes when they had changed.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, ReloadStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A configuration was put in force, except for these keys.
    pub fn taken(&self, restart_needed: Vec<&'static str>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.map_or(0, |now| now.as_secs());
        let (timestamp, waiting) = (i64::try_from(seconds), i64::try_from(restart_needed.len()));
        let metrics = &self.metrics;
        metrics.reload_timestamp.set(timestamp.unwrap_or(i64::MAX));
        metrics.restart_needed.set(waiting.unwrap_or(i64::MAX));
        metrics.reload_success.set(1);
        let mut status = self.lock();
        status.taken += 1;
        status.last = Some(Instant::now());
        status.mistakes.clear();
        status.restart_needed = restart_needed;
    }

    /// The files hold mistakes; what was in force stays.
    pub fn refused(&self, mistakes: Vec<String>) {
        for mistake in &mistakes {
            tracing::error!("the changed configuration is not used: {mistake}");
        }
        self.metrics.reload_success.set(0);
        self.refusals.fetch_add(1, Ordering::Relaxed);
        self.lock().mistakes = mistakes;
    }
}
