//! Detects that made-up time stands still: a task that never waits, in nodens or in the world, would make a run endless.
//!
//! Made-up time moves on only when all tasks wait. There are two checks. The first counts how often the world is used at one
//! moment; its result is the same in each run of a seed. The second is a thread that measures for how long time does not move,
//! because a task that never waits may not use the world at all. Both print the seed and end the process, because nothing else
//! would end such a run.

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use crate::world::{Micros, seconds};

/// Most uses of the world at one moment. A normal moment has some thousand.
const TOUCHES: u64 = 1_000_000;

/// Longest real time for one moment. On a busy machine a moment takes milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The progress of a run.
#[derive(Debug)]
pub(crate) struct Progress {
    seed: u64,
    now: AtomicU64,
    touches: AtomicU64,
}

impl Progress {
    /// Counts a use of the world, or an event, at this time.
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
        // Not by `println`: the output of a test that does not end is captured and never shown.
        let text = format!("seed {seed}: made-up time stands still at {at:.6} s: {why}\n");
        let _ = std::io::stdout().write_all(text.as_bytes());
        std::process::exit(101);
    }
}

/// Watches a run until it is dropped.
pub(crate) struct Watch {
    pub(crate) progress: Arc<Progress>,
    _over: mpsc::Sender<()>,
}

impl Watch {
    /// Ends the process if made-up time does not move for `patience`. It may take twice as long until that is detected.
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
