//! Timeouts of waiting for what sockets receive.
//!
//! A process that gets no CPU for a while, on a busy node or in a machine that was stopped, finds its timers due and the
//! answers waiting in its sockets. Timers may come first: the kernel interrupts `epoll_wait` without events when a stopped
//! process goes on, and a thread may lose the CPU between the two. So whoever waits for a server waits by these: when the
//! time is over, what has arrived is read before anybody calls the server silent.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::turns::Turns;

/// The time is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Elapsed;

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
    before(pin!(tokio::time::sleep_until(end.into())), pin!(future)).await
}

/// The same for so long from now.
///
/// # Errors
/// If it is not ready then.
pub async fn timeout<F: Future>(time: Duration, future: F) -> Result<F::Output, Elapsed> {
    timeout_at(super::now() + time, future).await
}

impl Turns {
    /// The same as [`timeout_at`], without a timer of tokio's.
    ///
    /// # Errors
    /// If it is not ready then.
    pub async fn timeout_at<F: Future>(
        &self,
        end: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        before(pin!(self.until(end)), pin!(future)).await
    }
}

/// Takes both where they are: what it is given is kept twice, by whoever gives it, too.
async fn before<F: Future>(
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
    // It is asked once more.
    poll_fn(|context| match future.as_mut().poll(context) {
        Poll::Ready(output) => Poll::Ready(Ok(output)),
        Poll::Pending => Poll::Ready(Err(Elapsed)),
    })
    .await
}
