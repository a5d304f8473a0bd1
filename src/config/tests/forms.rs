//! Every form in which a configuration may be written.

use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

use super::*;
use crate::config::{LogFormat, Policy, QueryLog, Transport};

/// An example with the keys that most configurations set.
pub(in crate::config) const EXAMPLE: &str = r#"
listen: ["169.254.20.53:53"]
allow: [private]
admin: 127.0.0.1:9153
metrics: {listen: null}
socket: null
workers: 2
handover: false
shutdown_grace: 10s
upstreams:
  cluster:
    servers: [10.96.0.10]
  vpc:
    servers: [10.0.0.2, 10.1.0.251, 10.1.0.252]
    policy: ordered
    try_timeout: 1s
    deadline: 4s
    probe: ". NS"
  public:
    servers: [8.8.8.8, "tls://1.1.1.1#one.one.one.one"]
routes:
  cluster.local: {group: cluster, max_negative_ttl: 5s}
  96.10.in-addr.arpa: cluster
  ".": [vpc, public]
records: {}
cache:
  max_size: 64MiB
log: {format: text, level: info, queries: off}
node: null
"#;

#[test]
fn the_documented_example_is_understood() {
    let config = good(EXAMPLE);
    assert_eq!(
        config.listen,
        ["169.254.20.53:53".parse().expect("an address")]
    );
    assert_eq!(
        config
            .groups
            .iter()
            .map(|group| &*group.name)
            .collect::<Vec<_>>(),
        ["cluster", "public", "vpc"]
    );
    let [_, public, vpc] = &config.groups[..] else {
        panic!("three groups")
    };
    assert_eq!(
        vpc.servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        ["10.0.0.2", "10.1.0.251", "10.1.0.252"]
    );
    assert_eq!(
        public.servers[1].transport,
        Transport::Tls("one.one.one.one".into())
    );
    let route = |zone: &str| {
        let name = Name::from_ascii(zone).expect("a name");
        let found = config.routes.iter().find(|route| route.zone == name);
        found.unwrap_or_else(|| panic!("no route {zone}"))
    };
    assert_eq!(route("cluster.local.").tiers, [0]);
    assert_eq!(
        route("cluster.local.").max_negative_ttl,
        Some(Duration::from_secs(5))
    );
    assert_eq!(route("96.10.in-addr.arpa.").tiers, [0]);
    assert_eq!(route(".").tiers, [2, 1]);
    assert_eq!(config.workers.get(), 2);
    assert_eq!(config.log.queries, QueryLog::Off);
}

/// What users may write beside the example.
pub(in crate::config) const FORMS: &str = r#"
listen: ["127.0.0.1:0", "[::1]:5300"]
allow: [10.0.0.0/8, 192.0.2.7, "2001:db8::1", all]
admin: null
metrics: {listen: 0.0.0.0:9154}
socket: /run/nodens/nodens.sock
workers: "3"
handover: true
shutdown_grace: 0
node_name: 1234
upstreams:
  a:
    servers: 10.0.0.2
    policy: round_robin
    probe: kubernetes.default.svc.cluster.local a
    max_in_flight: 5
    failover: {start_fanout: 1, hedge_min: 5ms, hedge_max: 5ms, hedge_budget_percent: 0, probe_min: 100ms,
      probe_max: 1s, recover_probes: 1, poor_loss_percent: 100, poor_slower_by: 1s, poor_slower_factor: 1}
  b.c: {servers: [tcp://10.0.0.3, "[fd00::1]:54"], policy: fastest}
routes:
  Corp.Example.: {tiers: [a, b.c]}
  consul: [b.c, a]
records:
  Gateway.Corp: {a: 10.0.0.1, AAAA: ["fd00::1", fd00::2]}
  www.corp.: {CNAME: Gateway.corp}
  txt.corp: {txt: ["v=spf1 -all", 1.10]}
cache:
  max_size: 0
  max_ttl: 7d
  max_negative_ttl: 0s
  stale: {max_age: 0, after: 0, ttl: 1s}
  prefetch: {hits: 0, percent: 50}
  rotate: false
tcp:
udp: {}
limits: {client_in_flight: 1}
log: {format: json, level: "info,nodens=debug", queries: false}
"#;

#[test]
fn every_good_form_is_read() {
    let config = good(FORMS);
    assert_eq!(config.listen.len(), 2);
    assert_eq!(
        config
            .allow
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>(),
        [
            "10.0.0.0/8",
            "192.0.2.7/32",
            "2001:db8::1/128",
            "0.0.0.0/0",
            "::/0"
        ]
    );
    assert_eq!(config.admin, None);
    assert_eq!(
        config.metrics_listen,
        ["0.0.0.0:9154".parse().expect("an address")]
    );
    assert_eq!(
        config.socket.as_deref(),
        Some(Path::new("/run/nodens/nodens.sock"))
    );
    assert_eq!((config.workers.get(), config.handover), (3, true));
    assert_eq!(config.shutdown_grace, Duration::ZERO);
    assert_eq!(config.node_name, "1234");
    let [a, b] = &config.groups[..] else {
        panic!("two groups")
    };
    assert_eq!((a.policy, b.policy), (Policy::RoundRobin, Policy::Fastest));
    assert_eq!(
        (a.probe.record_type, a.max_in_flight.get()),
        (RecordType::A, 5)
    );
    assert_eq!(a.failover.hedge_max, Duration::from_millis(5));
    assert_eq!(b.servers[0].transport, Transport::Tcp);
    assert_eq!(
        config
            .routes
            .iter()
            .map(|route| route.zone.to_ascii())
            .collect::<Vec<_>>(),
        ["corp.example.", "consul."]
    );
    assert_eq!(
        (&config.routes[0].tiers[..], &config.routes[1].tiers[..]),
        (&[0, 1][..], &[1, 0][..])
    );
    let [gateway, txt, www] = &config.records[..] else {
        panic!("three names")
    };
    assert_eq!((gateway.a.len(), gateway.aaaa.len()), (1, 2));
    assert_eq!(
        www.cname.as_ref().expect("a CNAME").to_ascii(),
        "gateway.corp."
    );
    assert_eq!(txt.txt, ["v=spf1 -all", "1.10"]);
    assert_eq!(
        (config.cache.max_size, config.cache.max_ttl),
        (0, Duration::from_hours(168))
    );
    assert_eq!(
        (config.cache.stale_after, config.cache.prefetch_hits),
        (Duration::ZERO, 0)
    );
    assert_eq!(config.cache.stale_max_negative_age, None, "nobody set it");
    assert_eq!(
        (config.log.format, config.log.queries),
        (LogFormat::Json, QueryLog::Off)
    );
    assert_eq!(config.log.level, "info,nodens=debug");
}

#[test]
fn what_status_tells_of_queries_can_be_chosen() {
    use crate::config::TopCounts;
    assert_eq!(good("{}").status.top, TopCounts::Off);
    assert!(good("{}").status.failures);
    // YAML 1.1, as Helm writes it.
    let config = good("status: {top: false, failures: false}");
    assert_eq!(config.status.top, TopCounts::Off);
    assert!(!config.status.failures);
    assert_eq!(good("status: {top: all}").status.top, TopCounts::All);
}
