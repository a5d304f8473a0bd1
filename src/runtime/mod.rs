//! Scheduling of a worker's flights, within tokio's runtime.
//!
//! A task of tokio's that has read a socket begins a *turn* ([`Turns::begin`]). Flights that became ready because of what was
//! read are polled at the end of the turn, inside the reader's task. Afterwards everything that they wrote is sent in one
//! batch. So tokio wakes two tasks for a forwarded query, one for each of the two sockets that are read. No further task is
//! woken to ask the server, to answer the client or to send.

use std::time::{Duration, Instant};

pub mod tasks;
pub mod timeout;
pub mod timers;
pub mod turns;

pub use tasks::Tasks;
pub use turns::{OutgoingQueue, Turns};

/// The current time by tokio's clock, which is the kernel's monotonic clock, or a made-up one in a simulation.
#[inline]
#[must_use]
pub fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Time since `then`.
#[inline]
#[must_use]
pub fn since(then: Instant) -> Duration {
    now().saturating_duration_since(then)
}

/// Waits until `then`, or for ever if it is `None`.
pub async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}
