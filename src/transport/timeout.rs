//! Timeouts of waiting for what sockets receive.
//!
//! A process that gets no CPU for a while, on a busy node or in a machine that was stopped, finds its timers due and the
//! answers waiting in its sockets. Timers may come first: the kernel interrupts `epoll_wait` without events when a stopped
//! process goes on, and a thread may lose the CPU between the two. So whoever waits for a server waits by these: when the
//! time is over, what has arrived is read before anybody calls the server silent.

use std::pin::pin;
use std::time::{Duration, Instant};

use tokio::task::yield_now;
use tokio::time::error::Elapsed;

/// Lets the tasks run that read sockets with something to read, and those that wait for what they read.
pub async fn read_what_arrived() {
    // The first turn of the runtime wakes the readers, the second whoever they wake in turn.
    yield_now().await;
    yield_now().await;
}

/// Waits for `future` until `end`, and then as long as it takes to read what has arrived.
///
/// # Errors
/// If it is not ready then.
pub async fn timeout_at<F: Future>(end: Instant, future: F) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    if let Ok(ready) = tokio::time::timeout_at(end.into(), &mut future).await {
        return Ok(ready);
    }
    read_what_arrived().await;
    // It is asked once more before the time.
    tokio::time::timeout(Duration::ZERO, future).await
}

/// The same for so long from now.
///
/// # Errors
/// If it is not ready then.
pub async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(Instant::now() + time, future).await
}
