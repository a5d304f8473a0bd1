//! The round-trip times of a server in the last two minutes, for the status page. A task beside the workers samples them
//! once a second, so that answers cost nothing more.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::Upstreams;
use crate::budgets::RTT_HISTORY;

/// The pause between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(1);

/// Samples of one server, the oldest first. A sample is None if the server was down or not timed yet.
#[derive(Debug, Default)]
pub struct RttHistory(Mutex<VecDeque<Option<Duration>>>);

impl RttHistory {
    /// Adds a sample.
    pub fn push(&self, rtt: Option<Duration>) {
        // A panic elsewhere cannot leave a part of a sample.
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if samples.len() == RTT_HISTORY {
            samples.pop_front();
        }
        samples.push_back(rtt);
    }

    /// All samples.
    #[must_use]
    pub fn samples(&self) -> Vec<Option<Duration>> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.iter().copied().collect()
    }
}

/// Samples all servers once a second; never returns.
pub async fn run(upstreams: watch::Receiver<Arc<Upstreams>>) {
    let mut ticks = interval(SAMPLE_INTERVAL);
    // A late sample is not made up for by several at once, because each stands for a second.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let upstreams = Arc::clone(&upstreams.borrow());
        for server in &upstreams.servers {
            server.sample_rtt();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_two_minutes_are_kept() {
        let history = RttHistory::default();
        for second in 0..300 {
            history.push((second != 299).then(|| Duration::from_millis(second)));
        }
        let samples = history.samples();
        assert_eq!(samples.len(), 120);
        assert_eq!(samples[0], Some(Duration::from_millis(180)));
        assert_eq!(samples[119], None);
    }
}
