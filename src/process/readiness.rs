//! Whether we have started, and whether we are about to stop.

use std::sync::atomic::{AtomicU8, Ordering};

/// What /ready tells. It is about us, not about the world: it never goes back because upstreams are down.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Readiness {
    const STARTING: u8 = 0;
    const READY: u8 = 1;
    const STOPPING: u8 = 2;

    /// Not ready yet.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU8::new(Self::STARTING))
    }

    /// Listening, and the first probes sent.
    pub fn set_ready(&self) {
        let _ = self.0.compare_exchange(
            Self::STARTING,
            Self::READY,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }

    /// No further traffic, please.
    pub fn shut_down(&self) {
        self.0.store(Self::STOPPING, Ordering::Relaxed);
    }

    /// What is missing until we are ready.
    #[must_use]
    pub fn pending(&self) -> Option<&'static str> {
        match self.0.load(Ordering::Relaxed) {
            Self::READY => None,
            Self::STARTING => Some("the first probes have not left yet"),
            _ => Some("shutting down"),
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}
