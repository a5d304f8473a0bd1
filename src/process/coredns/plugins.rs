//! The family of enabled plugins: for each zone, CoreDNS's plugins that correspond to our configuration.

use std::net::SocketAddr;

use crate::config::{Config, OwnAnswer, QueryLog, RouteConfig};
use crate::metrics::exposition::{Exposition, FamilyKind};
use crate::serving::coredns::server_label;

/// Whether a route, or the whole configuration, does what the plugin does.
type Does = fn(&Config, &RouteConfig) -> bool;

const PLUGINS: [(&str, Does); 12] = [
    // Two networks make `all`: every address of IPv4, and of IPv6.
    ("acl", |config, _| {
        config
            .allow
            .iter()
            .filter(|net| net.prefix_len() == 0)
            .count()
            < 2
    }),
    ("cache", |config, route| {
        config.cache.max_size > 0 && !route.cache.off && !route.tiers.is_empty()
    }),
    ("dns64", |_, route| route.dns64.is_some()),
    ("errors", |_, _| true),
    ("forward", |_, route| !route.tiers.is_empty()),
    ("hosts", |config, _| {
        !config.hosts.files.is_empty() || !config.records.is_empty()
    }),
    ("loadbalance", |config, _| config.cache.rotate),
    ("log", |config, _| config.log.queries != QueryLog::Off),
    ("loop", |_, _| true),
    ("prometheus", |_, _| true),
    ("rewrite", |_, route| route.rewrite.is_some()),
    ("template", |_, route| {
        !route.filter.is_empty()
            || route
                .answer
                .as_ref()
                .is_some_and(|answer| *answer != OwnAnswer::Refused)
    }),
];

/// Writes the family.
pub(super) fn write(out: &mut Exposition, config: &Config, listen: &[SocketAddr]) {
    let mut enabled = out.family(
        "coredns_plugin_enabled",
        FamilyKind::Gauge,
        "1 for each of CoreDNS's plugins whose work is done here, by listen address and zone.",
    );
    let mut servers: Vec<String> = listen.iter().map(|at| server_label(*at)).collect();
    servers.sort_unstable();
    servers.dedup();
    for server in &servers {
        for route in &config.routes {
            let zone = route.zone.to_ascii().to_ascii_lowercase();
            for (name, does) in PLUGINS {
                if does(config, route) {
                    let labels = [
                        ("server", &**server),
                        ("zone", &zone),
                        ("view", ""),
                        ("name", name),
                    ];
                    enabled.sample(&labels, 1);
                }
            }
        }
    }
}
