//! Host names of servers: resolved at start, and again as their TTLs say.
//!
//! Owns when a name is due. New addresses are put in force by a reload, like any other change.

use std::collections::BTreeMap;
use std::future::pending;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use crate::config::{GroupConfig, HostName};
use crate::serving::setup::Setup;
use crate::upstream::Upstreams;
use crate::upstream::host_lookup::{Found, HostError, look_up};

/// Shortest time between two lookups of a name, whatever its TTL: each change is a reload.
const SHORTEST: Duration = Duration::from_secs(30);
/// Longest time between two lookups: an address that is removed from the DNS should not be used for much longer.
const LONGEST: Duration = Duration::from_hours(1);
/// The first pause after a failure; each further one is twice as long, up to [`SHORTEST`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// All names that servers have, and when they are due.
#[derive(Debug, Default)]
pub(super) struct HostNames {
    known: BTreeMap<HostName, NameSchedule>,
    lookups: JoinSet<(HostName, Result<Found, HostError>)>,
}

#[derive(Debug, Clone, Copy)]
struct NameSchedule {
    due: Due,
    /// In a row.
    failures: u32,
}

#[derive(Debug, Clone, Copy)]
enum Due {
    At(Instant),
    InFlight,
}

impl HostNames {
    /// Resolves what is due now, and waits for a name that resolves to other addresses than the setup has. Cancelling it
    /// loses nothing; what comes due meanwhile is resolved by the next call.
    pub(super) async fn changed(&mut self, setup: &Setup) -> (HostName, Vec<IpAddr>) {
        self.start_due(setup, Instant::now());
        loop {
            match self.lookups.join_next().await {
                None => pending().await,
                // It panicked, or was aborted by nobody.
                Some(Err(_)) => {}
                Some(Ok((host, result))) => {
                    let found = self.finish(&host, result, &setup.upstreams, Instant::now());
                    if let Some(addresses) = found
                        && setup.config.addresses(&host) != Some(&addresses)
                    {
                        return (host, addresses);
                    }
                }
            }
        }
    }

    /// All are to be resolved now, whatever their TTLs say.
    pub(super) fn all_due(&mut self, now: Instant) {
        for known in self.known.values_mut() {
            if let Due::At(due) = &mut known.due {
                *due = now;
            }
        }
    }

    fn start_due(&mut self, setup: &Setup, now: Instant) {
        let groups = &setup.config.groups;
        let named = || groups.iter().flat_map(GroupConfig::named);
        self.known
            .retain(|host, _| named().any(|named| named.host == *host));
        for named in named() {
            let known = self
                .known
                .entry(named.host.clone())
                .or_insert(NameSchedule {
                    due: Due::At(now),
                    failures: 0,
                });
            let via = groups.iter().position(|group| group.name == named.host.via);
            if let Due::At(due) = known.due
                && due <= now
                && let Some(via) = via
            {
                known.due = Due::InFlight;
                let (host, previous) = (named.host.clone(), named.addresses.clone());
                let upstreams = Arc::clone(&setup.upstreams);
                self.lookups.spawn(async move {
                    let group = &upstreams.groups[via];
                    let result = look_up(group, &host.name, &previous).await;
                    (host, result)
                });
            }
        }
    }

    /// Notes what became of a lookup; returns the addresses, if it found any.
    fn finish(
        &mut self,
        host: &HostName,
        result: Result<Found, HostError>,
        upstreams: &Upstreams,
        now: Instant,
    ) -> Option<Vec<IpAddr>> {
        let known = self.known.get_mut(host)?;
        let failure = result.as_ref().err().copied();
        for group in &upstreams.groups {
            for shown in group.hosts.iter().filter(|shown| shown.name == *host) {
                shown.set_failure(failure.as_ref().map(ToString::to_string));
            }
        }
        match result {
            Ok(found) => {
                known.failures = 0;
                known.due = Due::At(now + found.ttl.clamp(SHORTEST, LONGEST));
                Some(found.addresses)
            }
            Err(error) => {
                if known.failures == 0 {
                    tracing::warn!(%host, %error, "the name of an upstream server cannot be resolved");
                } else {
                    tracing::debug!(%host, %error, "the name of an upstream server cannot be resolved");
                }
                known.due = Due::At(now + pause(known.failures));
                known.failures = known.failures.saturating_add(1);
                None
            }
        }
    }
}

/// The pause after so many failures before this one.
fn pause(failures: u32) -> Duration {
    FIRST_PAUSE
        .saturating_mul(1 << failures.min(16))
        .min(SHORTEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_shortest_time_of_a_name_that_resolves() {
        let pauses = [0, 1, 2, 3, 4, 5, 6, u32::MAX].map(|failures| pause(failures).as_secs());
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    }
}
