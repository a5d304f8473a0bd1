//! Families under CoreDNS's names on /metrics (`metrics.coredns`), so that dashboards and alerts made for CoreDNS go on
//! working.
//!
//! Owns no count but those of /health: everything is read at the time of a request from our own families, the setup in
//! force and the cache, and from `serving::coredns` and `transport::metrics::ServerCounts`. Names, labels and buckets
//! are those of CoreDNS 1.11 to 1.15, and of `forward` before 1.11; what differs is in docs/coredns.md.

mod health;
mod plugins;
mod served;
mod upstreams;

use std::net::SocketAddr;
use std::sync::atomic::Ordering;

pub use health::HealthAnswers;

use super::metrics::Metrics;
use super::reload_status::Reloads;
use crate::config::Config;
use crate::metrics::coredns::HEALTH_TIMES;
use crate::metrics::exposition::{Exposition, FamilyKind};
use crate::node::metrics::NodePart;
use crate::serving::coredns::server_label;
use crate::serving::worker::Shared;

/// The sources of the values.
pub struct CorednsSources<'a> {
    /// What workers share.
    pub shared: &'a Shared,
    /// Our own families.
    pub metrics: &'a Metrics,
    /// What became of changes of the configuration.
    pub reloads: &'a Reloads,
    /// What /health said.
    pub health: &'a HealthAnswers,
    /// The addresses served.
    pub listen: &'a [SocketAddr],
}

impl CorednsSources<'_> {
    /// The label `server` of what is known of the whole process alone.
    fn first_server(&self) -> String {
        self.listen
            .first()
            .map_or_else(String::new, |address| server_label(*address))
    }
}

/// The text of all families; none without `metrics.coredns`. Looks at every entry of the cache.
#[must_use]
pub fn text(sources: &CorednsSources<'_>) -> String {
    let mut out = Exposition::default();
    let setup = sources.shared.current.load();
    if let Some(totals) = sources.shared.metrics.coredns() {
        let zones: Vec<&str> = setup.routes.zones().collect();
        served::write(&mut out, sources, &totals.by_labels(&zones));
        upstreams::write(&mut out, sources, &setup.upstreams.servers);
        plugins::write(&mut out, &setup.config, sources.listen);
        write_process(&mut out, sources, &setup.config);
    }
    out.into_text()
}

fn write_process(out: &mut Exposition, sources: &CorednsSources<'_>, config: &Config) {
    let version = format!("nodens-{}", env!("CARGO_PKG_VERSION"));
    let labels = [("version", &*version), ("revision", ""), ("goversion", "")];
    out.family(
        "coredns_build_info",
        FamilyKind::Gauge,
        "Always 1; the version is in the label.",
    )
    .sample(&labels, 1);
    out.family("coredns_panics_total", FamilyKind::Counter, "Panics.")
        .sample(&[], sources.metrics.panics.load(Ordering::Relaxed));
    out.family(
        "coredns_reload_failed_total",
        FamilyKind::Counter,
        "Changes of the configuration that hold a mistake and are not in force.",
    )
    .sample(&[], sources.reloads.refusals());

    let (times, failures) = sources.health.read();
    out.family(
        "coredns_health_request_duration_seconds",
        FamilyKind::Histogram,
        "How long /health took to answer.",
    )
    .distribution(&[], &HEALTH_TIMES, &times);
    out.family(
        "coredns_health_request_failures_total",
        FamilyKind::Counter,
        "Times that /health did not say ok.",
    )
    .sample(&[], failures);

    write_hosts(out, sources, config);
    if config.node.is_some() {
        let node = &sources.metrics.node;
        let mut errors = out.family(
            "coredns_nodecache_setup_errors_total",
            FamilyKind::Counter,
            "Checks of the node's interface, addresses and rules that could not put them in place.",
        );
        for (kind, count) in [
            ("interface_add", 0),
            ("interface_check", node.failed_checks(NodePart::Interface)),
            ("iptables", node.failed_checks(NodePart::Rules)),
            ("iptables_lock", 0),
            ("configmap", sources.reloads.refusals()),
        ] {
            errors.sample(&[("errortype", kind)], count);
        }
    }
}

fn write_hosts(out: &mut Exposition, sources: &CorednsSources<'_>, config: &Config) {
    let mut entries = out.family(
        "coredns_hosts_entries",
        FamilyKind::Gauge,
        "Addresses of names and names of addresses in the hosts files, and addresses in records.",
    );
    let addresses = |names: &[crate::config::StaticRecords]| -> usize {
        names
            .iter()
            .map(|name| name.a.len() + name.aaaa.len())
            .sum()
    };
    let hosts = &config.hosts;
    if !hosts.files.is_empty() {
        let files: Vec<_> = hosts
            .files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let count = addresses(&hosts.names) + hosts.reverse.len();
        entries.sample(&[("hostsfile", &files.join(" "))], count);
    }
    entries.sample(&[("hostsfile", "")], addresses(&config.records));
    out.family(
        "coredns_hosts_reload_timestamp_seconds",
        FamilyKind::Gauge,
        "When the configuration, its hosts files included, was last put in force, as Unix time.",
    )
    .sample(&[], sources.metrics.reload_timestamp.get());
}
