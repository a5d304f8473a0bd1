//! What a worker's thread does between two looks of tokio's runtime at its sockets.
//!
//! Whoever has read a socket opens a *turn* ([`Turns::begin`]). Flights that can go on because of what was read do so at the
//! turn's end, in the reader's own task, and what they wrote leaves then, all together. So a query wakes two tasks, one for
//! each socket that is read for it, and none to be asked, to be answered or to be sent.

use std::time::{Duration, Instant};

pub mod tasks;
pub mod timeout;
pub mod timers;
pub mod turns;

pub use tasks::Tasks;
pub use turns::{Leaving, Turns};

/// The time, by the clock of the runtime: the kernel's monotonic one, or one that is made up, as a simulation does.
#[inline]
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// How long ago that was.
#[inline]
#[must_use]
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Waits until then; for ever if that is never.
pub async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}
