//! Recent failures of questions (RFC 9520), in a table apart from answers, so that a failure never replaces an answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::budgets::FAILURES;
use crate::message::ede::ExtendedError;
use crate::message::query::Question;
use crate::message::wire::rcode;

/// A recent failure. Until its pause is over, the question is not asked upstream again (RFC 9520).
#[derive(Debug, Clone)]
pub struct Failure {
    /// The response code for clients.
    pub code: u16,
    /// The reason, for clients.
    pub error: Arc<ExtendedError>,
    /// What failed.
    pub blames: Blames,
    /// End of the pause.
    until: Instant,
    pause: Duration,
}

/// What failed, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blames {
    /// The question, or some of the servers that were asked.
    Question,
    /// All servers were silent or down: once one of them is back, the question may be tried again.
    Servers,
}

/// A failure to remember.
#[derive(Debug, Clone, Copy)]
pub struct Failing<'a> {
    /// The response code for clients.
    pub code: u16,
    /// The reason, for clients.
    pub error: &'a ExtendedError,
    /// What failed.
    pub blames: Blames,
}

impl Failure {
    /// Whether it is a denial that is not believed yet, rather than a failure.
    #[must_use]
    pub fn is_denial(&self) -> bool {
        matches!(self.code, rcode::NOERROR | rcode::NXDOMAIN)
    }
}

/// The table of failures.
#[derive(Debug)]
pub(super) struct Failures(quick_cache::sync::Cache<Box<[u8]>, Failure>);

impl Default for Failures {
    fn default() -> Self {
        Self(quick_cache::sync::Cache::new(FAILURES))
    }
}

impl Failures {
    /// The failure of a question whose pause is not over.
    pub(super) fn get(&self, key: &[u8], now: Instant) -> Option<Failure> {
        self.0.get(key).filter(|failure| now < failure.until)
    }

    /// Remembers a failure for a pause of `min`. If the question failed not long ago (less than 2 × `max` after its last pause), the
    /// pause is twice the last one, at most `max`.
    pub(super) fn remember(
        &self,
        key: &[u8],
        failing: Failing<'_>,
        (min, max): (Duration, Duration),
        now: Instant,
    ) {
        let pause = match self.0.get(key) {
            Some(last) if now < last.until + max * 2 => (last.pause * 2).min(max),
            _ => min,
        };
        let failure = Failure {
            code: failing.code,
            error: Arc::new(failing.error.clone()),
            blames: failing.blames,
            until: now + pause,
            pause,
        };
        self.0.insert(key.into(), failure);
    }

    /// Forgets the failure of a question, because the question was answered.
    pub(super) fn forget(&self, key: &[u8]) {
        if !self.0.is_empty() {
            self.0.remove(key);
        }
    }

    /// Forgets the failures of the lower-cased wire names that `concerns` chooses, and returns their number.
    pub(super) fn forget_those(&self, concerns: impl Fn(&[u8]) -> bool) -> u64 {
        let keys = self.0.iter().map(|(key, _)| key);
        let keys = keys.filter(|key| concerns(Question::of(key).name));
        keys.map(|key| u64::from(self.0.remove(&key).is_some()))
            .sum()
    }

    /// Forgets all failures.
    pub(super) fn forget_all(&self) {
        self.0.clear();
    }
}
