//! Made-up time that stands still: what never waits, in nodens or in the world, would have a run go on for ever.
//!
//! Time moves on when all tasks wait. So it is looked at in two ways: how often the world is touched at one moment, which is the
//! same in every run of a seed; and, by a thread of its own, for how long nothing moves, since what never waits may not touch
//! the world at all. Either ends the process with the seed, because nothing else would end such a run.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::world::{Micros, seconds};

/// A moment has some thousand events and touches at most.
const TOUCHES: u64 = 1_000_000;

/// A busy machine takes milliseconds of its CPU for a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// How far a run is.
#[derive(Debug)]
pub(crate) struct Progress {
    seed: u64,
    now: AtomicU64,
    touches: AtomicU64,
}

impl Progress {
    /// The world is touched, or an event happens, at this time.
    pub(crate) fn touched(&self, now: Micros) {
        if self.now.swap(now, Ordering::Relaxed) != now {
            self.touches.store(0, Ordering::Relaxed);
        } else if self.touches.fetch_add(1, Ordering::Relaxed) == TOUCHES {
            self.end(&format!("{TOUCHES} things happened at once"));
        }
    }

    fn end(&self, why: &str) -> ! {
        let at = seconds(self.now.load(Ordering::Relaxed));
        let seed = self.seed;
        // Not by `println`, whose output a test that does not end keeps for itself.
        let text = format!("seed {seed}: made-up time stands still at {at:.6} s: {why}\n");
        let _ = std::io::stdout().write_all(text.as_bytes());
        std::process::exit(101);
    }
}

/// Looks after a run until this is dropped.
pub(crate) struct Watch {
    pub(crate) progress: Arc<Progress>,
    _over: mpsc::Sender<()>,
}

impl Watch {
    /// Ends the process if nothing moves for this long; it may take twice as long until that is seen.
    pub(crate) fn start(seed: u64, patience: Duration) -> Self {
        let progress = Arc::new(Progress {
            seed,
            now: AtomicU64::new(0),
            touches: AtomicU64::new(0),
        });
        let (over, is_over) = mpsc::channel();
        let watched = Arc::clone(&progress);
        thread::spawn(move || {
            let mut known = None;
            while is_over.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                let now = watched.now.load(Ordering::Relaxed);
                if known.replace(now) == Some(now) {
                    watched.end(&format!("nothing moved for {patience:?}"));
                }
            }
        });
        Self {
            progress,
            _over: over,
        }
    }
}
