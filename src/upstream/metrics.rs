//! Metrics of groups and of servers' health.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::{Gauge, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::health::{Reason, State};
use crate::metrics::{Label, PerLabel, Registry};
use crate::transport::Carrier;
use crate::transport::metrics::{ExchangeFamilies, ExchangeMetrics};

/// The families of all groups and servers.
#[derive(Debug)]
pub struct UpstreamFamilies {
    exchanges: ExchangeFamilies,
    hedges: IntCounterVec,
    probes: IntCounterVec,
    state: IntGaugeVec,
    state_changes: IntCounterVec,
    state_changed: IntGaugeVec,
    state_reason: IntGaugeVec,
    srtt: GaugeVec,
    last_resorts: Arc<AtomicU64>,
}

impl UpstreamFamilies {
    /// Registers the families, all at zero.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            exchanges: ExchangeFamilies::register(registry),
            hedges: registry.counters(
                "nodens_hedges_total",
                "Further tries of a query whose first was overdue: sent, and of those the ones that answered first.",
                &["group", "event"],
            ),
            probes: registry.counters(
                "nodens_probes_total",
                "Health probes, by transport and result.",
                &["group", "server", "transport", "result"],
            ),
            state: registry.gauges(
                "nodens_upstream_state",
                "1 for the state an upstream server is in: good, unknown, poor, silent or down.",
                &["group", "server", "transport", "state"],
            ),
            state_changes: registry.counters(
                "nodens_upstream_state_changes_total",
                "How often an upstream server changed its state, by the new state.",
                &["group", "server", "transport", "state"],
            ),
            state_changed: registry.gauges(
                "nodens_upstream_state_changed_timestamp_seconds",
                "Since when an upstream server is in its state, as Unix time.",
                &["group", "server", "transport"],
            ),
            state_reason: registry.gauges(
                "nodens_upstream_state_reason",
                "Always 1; why an upstream server is in its state is in the label. Other reasons have no series.",
                &["group", "server", "transport", "reason"],
            ),
            srtt: registry.seconds(
                "nodens_upstream_srtt_seconds",
                "Smoothed round-trip time of an upstream server (RFC 6298).",
                &["group", "server", "transport"],
            ),
            last_resorts: Arc::default(),
        }
    }

    /// From then on, new servers count what CoreDNS's families need, too.
    pub fn count_for_coredns(&mut self) {
        self.exchanges.count_for_coredns();
    }

    /// Questions that were asked of servers that are all down.
    #[must_use]
    pub fn last_resorts(&self) -> u64 {
        self.last_resorts.load(Ordering::Relaxed)
    }

    /// A group's counters.
    #[must_use]
    pub fn group(&self, group: &str) -> GroupMetrics {
        GroupMetrics {
            hedges_sent: self.hedges.with_label_values(&[group, "sent"]),
            hedges_won: self.hedges.with_label_values(&[group, "won"]),
            last_resorts: Arc::clone(&self.last_resorts),
        }
    }

    /// The counters of exchanges with a server.
    #[must_use]
    pub fn exchanges(&self, group: &str, server: &str) -> ExchangeMetrics {
        self.exchanges.server(group, server)
    }

    /// The counters of a server's health over one transport.
    #[must_use]
    pub fn health(&self, group: &str, server: &str, carrier: Carrier) -> HealthMetrics {
        let transport = carrier.label();
        let labels = [group, server, transport];
        HealthMetrics {
            state: PerLabel::new(|state| {
                self.state
                    .with_label_values(&[group, server, transport, state])
            }),
            changes: PerLabel::new(|state| {
                self.state_changes
                    .with_label_values(&[group, server, transport, state])
            }),
            since: self.state_changed.with_label_values(&labels),
            reasons: self.state_reason.clone(),
            labels: labels.map(str::to_owned),
            shown: Mutex::new(None),
            srtt: self.srtt.with_label_values(&labels),
            probes_answered: self
                .probes
                .with_label_values(&[group, server, transport, "answered"]),
            probes_lost: self
                .probes
                .with_label_values(&[group, server, transport, "lost"]),
        }
    }

    /// Removes the counters of a group that is no longer configured.
    pub fn forget_group(&self, group: &str) {
        for event in ["sent", "won"] {
            let _ = self.hedges.remove_label_values(&[group, event]);
        }
    }

    /// Removes the series of a server that is no longer configured. Otherwise its gauges would stay, and the number of
    /// series would grow without limit.
    pub fn forget(&self, group: &str, server: &str) {
        self.exchanges.forget(group, server);
        for transport in Carrier::ALL.iter().map(|carrier| carrier.label()) {
            // Series that were never shown do not exist, which is no error here.
            for state in State::ALL.iter().map(|state| state.label()) {
                let _ = self
                    .state
                    .remove_label_values(&[group, server, transport, state]);
                let _ = self
                    .state_changes
                    .remove_label_values(&[group, server, transport, state]);
            }
            for result in ["answered", "lost"] {
                let _ = self
                    .probes
                    .remove_label_values(&[group, server, transport, result]);
            }
            let labels = [group, server, transport];
            let _ = self.srtt.remove_label_values(&labels);
            let _ = self.state_changed.remove_label_values(&labels);
            remove_reasons(&self.state_reason, labels);
        }
    }
}

fn remove_reasons(family: &IntGaugeVec, [group, server, transport]: [&str; 3]) {
    for reason in Reason::ALL.iter().map(|reason| reason.label()) {
        // Most reasons have no series, which is no error here.
        let _ = family.remove_label_values(&[group, server, transport, reason]);
    }
}

/// A group's counters.
#[derive(Debug)]
pub struct GroupMetrics {
    /// Tries sent while an earlier one still waited: hedges and replacements.
    pub hedges_sent: IntCounter,
    /// Those of them that answered first.
    pub hedges_won: IntCounter,
    /// The counter of all groups together.
    last_resorts: Arc<AtomicU64>,
}

impl GroupMetrics {
    /// Counts a question whose servers are all down.
    pub fn last_resort(&self) {
        self.last_resorts.fetch_add(1, Ordering::Relaxed);
    }
}

/// The counters of a server's health over one transport.
#[derive(Debug)]
pub struct HealthMetrics {
    state: PerLabel<State, IntGauge>,
    changes: PerLabel<State, IntCounter>,
    since: IntGauge,
    /// The family of all servers. The series of an old reason is removed from it.
    reasons: IntGaugeVec,
    /// Group, server and transport.
    labels: [String; 3],
    /// The reason and the time of the change that were shown last.
    shown: Mutex<Option<(Reason, Instant)>>,
    srtt: Gauge,
    /// Probes answered.
    pub probes_answered: IntCounter,
    /// Probes lost.
    pub probes_lost: IntCounter,
}

impl HealthMetrics {
    /// Sets the gauges of the server's state, its reason and its time. `now` and `wall` are the same moment on two clocks.
    pub fn show(
        &self,
        state: State,
        (reason, changed): (Reason, Instant),
        srtt: Option<Duration>,
        (now, wall): (Instant, SystemTime),
    ) {
        for (known, gauge) in State::ALL.iter().zip(self.state.iter()) {
            gauge.set(i64::from(*known == state));
        }
        if let Some(srtt) = srtt {
            self.srtt.set(srtt.as_secs_f64());
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // Computed once for each change: the clocks are not read at exactly the same moment, so the result would vary by a
        // second.
        if *shown == Some((reason, changed)) {
            return;
        }
        let [group, server, transport] = self.labels.each_ref().map(String::as_str);
        let labels = |reason: Reason| [group, server, transport, reason.label()];
        match shown.replace((reason, changed)) {
            Some((old, _)) => {
                let _ = self.reasons.remove_label_values(&labels(old));
            }
            // The server may replace one with the same labels and other settings, whose reason still has a series.
            None => remove_reasons(&self.reasons, [group, server, transport]),
        }
        self.reasons.with_label_values(&labels(reason)).set(1);
        let since = wall
            .checked_sub(now.saturating_duration_since(changed))
            .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_secs());
        self.since.set(i64::try_from(since).unwrap_or(i64::MAX));
    }

    /// Counts a change of state.
    pub fn changed(&self, state: State) {
        self.changes.of(state).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_shows_since_when_and_only_why_it_is_in_its_state_now() {
        let registry = Registry::new();
        let families = UpstreamFamilies::register(&registry);
        let health = families.health("vpc", "10.0.0.2", Carrier::Datagram);
        let start = Instant::now();
        let at = |seconds| {
            let past = Duration::from_secs(seconds);
            (start + past, UNIX_EPOCH + Duration::from_secs(5000) + past)
        };
        let lines = || -> Vec<String> {
            let text = registry.render();
            let of_change = |line: &&str| {
                line.starts_with("nodens_upstream_state_changed")
                    || line.starts_with("nodens_upstream_state_reason")
            };
            text.lines().filter(of_change).map(str::to_owned).collect()
        };
        let name = r#"group="vpc",FIELDserver="10.0.0.2",transport="udp""#;
        let want = |since: u64, reason: &str| {
            let plain = name.replace("FIELD", "");
            let with_reason = name.replace("FIELD", &format!("reason=\"{reason}\","));
            vec![
                format!("nodens_upstream_state_changed_timestamp_seconds{{{plain}}} {since}"),
                format!("nodens_upstream_state_reason{{{with_reason}}} 1"),
            ]
        };

        health.show(State::Unknown, (Reason::Started, at(0).0), None, at(7));
        assert_eq!(lines(), want(5000, "started"));
        health.show(State::Down, (Reason::ProbeLost, at(9).0), None, at(10));
        assert_eq!(lines(), want(5009, "probe_lost"));
        // The wall clock was set back meanwhile.
        let later = (at(60).0, UNIX_EPOCH);
        health.show(State::Down, (Reason::ProbeLost, at(9).0), None, later);
        assert_eq!(lines(), want(5009, "probe_lost"));
        // The server came back, and is down again for the same reason.
        health.show(State::Down, (Reason::ProbeLost, at(70).0), None, at(80));
        assert_eq!(lines(), want(5070, "probe_lost"));
        // A reload gave the server other settings: it starts anew under the same labels.
        let successor = families.health("vpc", "10.0.0.2", Carrier::Datagram);
        successor.show(State::Unknown, (Reason::Started, at(90).0), None, at(91));
        assert_eq!(lines(), want(5090, "started"));
    }
}
