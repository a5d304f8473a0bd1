//! Reads /status of one instance periodically, independently of other instances.

use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use hyper::{Request, StatusCode};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::model::InstanceReading;
use super::seen::{Escaped, InstanceSeen};
use crate::cli::admin::AdminAddress;

/// An instance that takes longer than this to answer is not reached.
const PATIENCE: Duration = Duration::from_secs(3);

/// Most time between two tries of an instance that is not reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Reads it for as long as somebody takes the readings.
pub(super) async fn watch(
    instance: usize,
    address: AdminAddress,
    interval: Duration,
    readings: mpsc::Sender<InstanceReading>,
) {
    let mut lost = 0;
    loop {
        let reading = read(instance, &address, interval, &mut lost).await;
        let pause = reading.pause;
        if readings.send(reading).await.is_err() {
            return;
        }
        sleep(pause).await;
    }
}

/// Reads it once. `lost` is how often it was not reached in a row.
pub(super) async fn read(
    instance: usize,
    address: &AdminAddress,
    interval: Duration,
    lost: &mut u32,
) -> InstanceReading {
    let asked = Instant::now();
    let result = match timeout(PATIENCE, ask(address)).await {
        Err(_) => Err(format!("no answer within {} s", PATIENCE.as_secs())),
        // The row shows the address already.
        Ok(answer) => answer.map_err(|error| error.root_cause().to_string()),
    };
    let at = Instant::now();
    let pause = if result.is_ok() {
        *lost = 0;
        interval.saturating_sub(at - asked)
    } else {
        *lost = lost.saturating_add(1);
        pause_after(*lost, interval)
    };
    InstanceReading {
        instance,
        at,
        result: result.map_err(|reason| Escaped::new(&reason)),
        pause,
    }
}

/// The interval, twice as long with each try that reached nobody.
fn pause_after(lost: u32, interval: Duration) -> Duration {
    let factor = 1_u32
        .checked_shl(lost.saturating_sub(1))
        .unwrap_or(u32::MAX);
    interval.saturating_mul(factor).min(LONGEST_PAUSE)
}

async fn ask(address: &AdminAddress) -> anyhow::Result<InstanceSeen> {
    let (status, body) = address
        .exchange(Request::get("/status"), Vec::new())
        .await?;
    if status == StatusCode::NOT_FOUND {
        bail!("{status}: no /status here; `admin` and `socket` have it, `metrics.listen` has not");
    }
    ensure!(status.is_success(), "{status}");
    match InstanceSeen::read(&body) {
        Some(seen) => Ok(seen),
        None => bail!("what is there is no nodens"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_up_to_five_seconds() {
        let pauses = |interval| {
            (1..6).map(move |lost| pause_after(lost, Duration::from_millis(interval)).as_millis())
        };
        assert!(pauses(1_000).eq([1_000, 2_000, 4_000, 5_000, 5_000]));
        assert!(pauses(100).eq([100, 200, 400, 800, 1_600]));
        assert!(pauses(60_000).eq([5_000; 5]));
        assert_eq!(pause_after(u32::MAX, Duration::from_secs(1)), LONGEST_PAUSE);
    }
}
