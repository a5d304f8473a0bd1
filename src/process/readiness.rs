//! Whether we have started, and whether we are about to stop.

use std::sync::atomic::{AtomicU8, Ordering};

/// A part of the start that /ready waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartPart {
    /// The first probes leave.
    Probes = 1,
    /// The node's addresses are taken from others that serve them.
    Addresses = 2,
}

/// The state behind /ready. It concerns this process only: upstreams that are down do not change it.
#[derive(Debug)]
pub struct Readiness(AtomicU8);

impl Readiness {
    const STOPPING: u8 = 4;

    /// Not ready before the first probes.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicU8::new(StartPart::Probes as u8))
    }

    /// Not ready before this part is done, too.
    pub fn awaits(&self, part: StartPart) {
        self.0.fetch_or(part as u8, Ordering::Relaxed);
    }

    /// This part of the start is done.
    pub fn done(&self, part: StartPart) {
        self.0.fetch_and(!(part as u8), Ordering::Relaxed);
    }

    /// Not ready from now on, because the process stops.
    pub fn shut_down(&self) {
        self.0.fetch_or(Self::STOPPING, Ordering::Relaxed);
    }

    /// The parts of the start that are not done yet.
    #[must_use]
    pub fn pending(&self) -> Option<&'static str> {
        let missing = self.0.load(Ordering::Relaxed);
        if missing & Self::STOPPING != 0 {
            Some("shutting down")
        } else if missing & StartPart::Probes as u8 != 0 {
            Some("the first probes have not left yet")
        } else if missing & StartPart::Addresses as u8 != 0 {
            Some("the node's addresses are left to others until our servers have answered")
        } else {
            None
        }
    }
}

impl Default for Readiness {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_once_every_part_is_done_and_never_again_after_the_shutdown() {
        let readiness = Readiness::new();
        readiness.awaits(StartPart::Addresses);
        readiness.done(StartPart::Addresses);
        assert!(
            readiness
                .pending()
                .is_some_and(|why| why.contains("probes"))
        );
        readiness.done(StartPart::Probes);
        assert_eq!(readiness.pending(), None);
        readiness.shut_down();
        readiness.done(StartPart::Probes);
        assert_eq!(readiness.pending(), Some("shutting down"));
    }
}
