//! What holds where nobody sets it.

use hickory_proto::rr::RecordType;

use super::*;
use crate::config::load::load_on;
use crate::config::{CacheConfig, LimitsConfig, LogConfig, TcpConfig, UdpConfig};

#[test]
fn without_a_file_the_hosts_resolv_conf_is_forwarded_to() {
    let directory = TemporaryDirectory::new("defaults");
    let loaded = load_on(&directory.host(), None, [], &[]).expect("defaults");
    let config = &loaded.config;
    assert_eq!(
        config.listen,
        ["127.0.0.1:5300".parse().expect("an address")]
    );
    assert_eq!(
        config.admin,
        Some("127.0.0.1:9153".parse().expect("an address"))
    );
    assert_eq!(
        (&*config.metrics_listen, &config.socket, config.handover),
        (&[][..], &None, false)
    );
    assert_eq!(config.node_name, "node-1");
    assert!((1..=4).contains(&config.workers.get()));
    assert_eq!(&*config.groups[0].name, "resolv.conf");
    assert_eq!(config.groups[0].servers.len(), 2);
    assert_eq!(config.groups[0].max_in_flight.get(), 10_000);
    assert_eq!(config.groups[0].probe.record_type, RecordType::NS);
    assert!(config.groups[0].probe.name.is_root());
    assert!(config.routes[0].zone.is_root());
    assert_eq!(config.routes[0].tiers, [0]);
    assert_eq!(config.cache, CacheConfig::default());
    assert_eq!(config.tcp, TcpConfig::default());
    assert_eq!(config.udp, UdpConfig::default());
    assert_eq!(config.limits, LimitsConfig::default());
    assert_eq!(config.log, LogConfig::default());
    assert!(
        loaded
            .settings
            .iter()
            .all(|setting| setting.origin.to_string() == "default")
    );
    assert!(loaded.warnings.is_empty() && loaded.file.is_none());
}

#[test]
fn defaults_are_within_their_own_limits() {
    // Everything `nodens check` prints can be written down again and is accepted.
    let directory = TemporaryDirectory::new("written-back");
    let printed = load_on(&directory.host(), None, [], &[])
        .expect("defaults")
        .settings;
    let overrides: Vec<_> = printed
        .into_iter()
        .filter(|setting| !setting.path.starts_with("upstreams"))
        .map(|setting| (setting.path, setting.value))
        .collect();
    assert!(overrides.len() > 30, "{overrides:?}");
    let again = load_on(&directory.host(), None, [], &overrides).expect("the same values");
    assert_eq!(again.config.cache, CacheConfig::default());
    let unset: Vec<_> = again
        .settings
        .iter()
        .filter(|setting| setting.origin.to_string() == "default")
        .collect();
    assert!(
        unset
            .iter()
            .all(|setting| setting.path.starts_with("upstreams")),
        "{unset:?}"
    );
}
