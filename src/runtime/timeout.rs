//! Timeouts for answers that sockets receive.
//!
//! When a process got no CPU for a while, on a busy node or in a stopped machine, its timers are due and the answers wait in
//! its sockets, both at once. The timers may be handled first: when a stopped process goes on, the kernel interrupts
//! `epoll_wait` without events, and a thread may lose the CPU between polling sockets and looking at timers. Therefore all code
//! that waits for a server uses the timeouts of this module: when the time is over, they let sockets be read once more before
//! they report it.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::turns::Turns;

/// The time is over, and the future is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

/// Lets tasks run that have something to read from their sockets, and then the tasks that these wake.
pub async fn read_what_arrived() {
    // The first yield runs the readers, the second runs the tasks that the readers woke.
    yield_now().await;
    yield_now().await;
}

/// Waits for `future` until `end`. Then sockets are read once more, and the future is polled a last time.
///
/// # Errors
/// If the future is not ready then.
pub async fn timeout_at<F: Future>(end: Instant, future: F) -> Result<F::Output, Elapsed> {
    poll_until(pin!(tokio::time::sleep_until(end.into())), pin!(future)).await
}

/// As [`timeout_at`], where the end is `time` from now.
///
/// # Errors
/// If the future is not ready then.
pub async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(super::now() + time, future).await
}

impl Turns {
    /// As [`timeout_at`], with a timer of [`Turns`] in place of one of tokio's.
    ///
    /// # Errors
    /// If the future is not ready then.
    pub async fn timeout_at<F: Future>(
        &self,
        end: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        poll_until(pin!(self.until(end)), pin!(future)).await
    }
}

/// Waits for `future` until `end` is ready. Takes pinned references, because a future passed by value would be stored twice, in
/// the caller's state and in this function's.
async fn poll_until<F: Future>(
    mut end: Pin<&mut impl Future<Output = ()>>,
    mut future: Pin<&mut F>,
) -> Result<F::Output, Elapsed> {
    let first = poll_fn(|context| {
        if let Poll::Ready(output) = future.as_mut().poll(context) {
            return Poll::Ready(Ok(output));
        }
        end.as_mut().poll(context).map(|()| Err(Elapsed))
    });
    if let Ok(output) = first.await {
        return Ok(output);
    }
    read_what_arrived().await;
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Poll::Ready(Err(Elapsed)),
    })
    .await
}
