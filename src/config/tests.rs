use std::fmt::Write as _;

use hickory_proto::rr::{Name, RecordType};
use proptest::prelude::*;

use super::*;
use crate::config::{
    InterfaceConfig, InterfaceKind, LogFormat, NodeConfig, OnExit, Origin, Policy, QueryLog,
    Transport,
};

/// A directory that is gone when the test ends.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nodens-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a temporary file");
        path
    }

    /// A host with two nameservers, named node-1.
    fn host(&self) -> HostFacts {
        HostFacts {
            resolv_conf: self.file(
                "resolv.conf",
                "search a.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n",
            ),
            hostname: self.file("hostname", "node-1\n"),
            ..HostFacts::default()
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn good(text: &str) -> Config {
    Config::from_yaml(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn loaded(text: &str) -> Loaded {
    load_from(Some((Path::new("nodens.yaml"), text)), [], &[])
        .unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn messages(text: &str) -> Vec<String> {
    match Config::from_yaml(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// With this on line 1 nothing depends on the host.
pub(crate) const VPC: &str = "upstreams: {vpc: {servers: [10.0.0.2]}}\n";

/// An example with the keys that most configurations set.
pub(crate) const EXAMPLE: &str = r#"
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

#[test]
fn without_a_file_the_hosts_resolv_conf_is_forwarded_to() {
    let directory = Directory::new("defaults");
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
fn the_node_is_left_alone_unless_told_otherwise() {
    for text in ["", "node:", "node: null", "node: ~"] {
        assert_eq!(good(&format!("{VPC}{text}\n")).node, None, "{text}");
    }
}

#[test]
fn a_node_needs_its_addresses_only() {
    let loaded = loaded(&format!(
        "{VPC}listen: [\"169.254.20.53:53\", \"[::]:53\"]\nnode: {{addresses: [169.254.20.53, \"fd00::53\"]}}"
    ));
    let node = loaded.config.node.expect("a node");
    let address = |text: &str| text.parse::<IpAddr>().expect("an address");
    assert_eq!(
        node,
        NodeConfig {
            addresses: vec![address("169.254.20.53"), address("fd00::53")],
            interface: InterfaceConfig {
                name: "nodens".to_owned(),
                kind: InterfaceKind::Dummy,
            },
            notrack: true,
            on_exit: OnExit::Keep,
        }
    );
    let shown: Vec<_> = loaded
        .settings
        .iter()
        .filter(|setting| setting.path.starts_with("node."))
        .map(|setting| format!("{} {}", setting.path, setting.value))
        .collect();
    assert_eq!(
        shown,
        [
            "node.addresses [169.254.20.53, fd00::53]",
            "node.interface.kind dummy",
            "node.interface.name nodens",
            "node.notrack true",
            "node.on_exit keep",
        ]
    );
}

#[test]
fn every_form_of_node_is_read() {
    let text = "listen: [\"0.0.0.0:53\"]\nnode: {addresses: 169.254.20.53, interface: {kind: loopback}, notrack: false, on_exit: remove}";
    let node = good(&format!("{VPC}{text}")).node.expect("a node");
    assert_eq!(node.interface.name, "lo");
    assert_eq!(node.interface.kind, InterfaceKind::Loopback);
    assert_eq!((node.notrack, node.on_exit), (false, OnExit::Remove));
    let text =
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [169.254.20.53], interface: {name: dns0}}";
    let node = good(&format!("{VPC}{text}")).node.expect("a node");
    assert_eq!(node.interface.name, "dns0");
}

#[test]
fn defaults_are_within_their_own_limits() {
    // Everything `nodens check` prints can be written down again and is accepted.
    let directory = Directory::new("written-back");
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

/// What users may write beside the example.
pub(crate) const FORMS: &str = r#"
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

/// Name, text below `VPC`, and the whole message but for the file's name.
pub(crate) const BAD_KEYS: &[(&str, &str, &str)] = &[
    (
        "over a limit",
        "cache:\n  max_ttl: 9d",
        "3: cache.max_ttl: 9d is over the limit of 7d",
    ),
    (
        "under a minimum",
        "cache: {failure_min: 0s}",
        "2: cache.failure_min: 0s is under the minimum of 1s",
    ),
    (
        "stale denials for too long",
        "cache: {stale: {max_negative_age: 2d}}",
        "2: cache.stale.max_negative_age: 2d is over the limit of 1d",
    ),
    (
        "stale denials for longer than stale answers",
        "cache: {stale: {max_age: 1m, max_negative_age: 5m}}",
        "2: cache.stale.max_negative_age: 5m is over max_age (1m); raise max_age or lower max_negative_age",
    ),
    (
        "denied answers for longer than stale answers",
        "cache: {stale: {max_age: 1m, max_denied_age: 5m}}",
        "2: cache.stale.max_denied_age: 5m is over max_age (1m); raise max_age or lower max_denied_age",
    ),
    (
        "denials of another kind",
        "routes: {x: {group: vpc, stale_on: [servfail]}}",
        "2: routes.x.stale_on[0]: servfail is not nxdomain or empty",
    ),
    (
        "answers known before of a route that asks nobody",
        "routes: {x: {answer: NXDOMAIN, stale_on: [empty]}}",
        "2: routes.x: `answer` and `stale_on` exclude each other; keep one",
    ),
    (
        "answers known before of a route that keeps none",
        "routes: {x: {group: vpc, cache: off, stale_on: [empty]}}",
        "2: routes.x: `stale_on` and `cache: off` exclude each other; keep one",
    ),
    (
        "no truth about aliases",
        "complete_cnames: 1",
        "2: complete_cnames: 1 is not true or false",
    ),
    (
        "a later tier's denials for too long",
        "tiers: {max_negative_ttl: 2h}",
        "2: tiers.max_negative_ttl: 2h is over the limit of 1h",
    ),
    (
        "tiers of no route",
        "tiers: [vpc]",
        "2: tiers: [vpc] is not a table of keys",
    ),
    (
        "no unit",
        "shutdown_grace: 10",
        "2: shutdown_grace: 10 has no unit; write 10s for seconds or 10ms for milliseconds",
    ),
    (
        "no duration",
        "shutdown_grace: soon",
        "2: shutdown_grace: soon is not a duration such as 500ms, 4s or 1d",
    ),
    (
        "no value",
        "shutdown_grace:",
        "2: shutdown_grace: has no value; write a duration such as 500ms, 4s or 1d, or remove the key to get the default",
    ),
    (
        "no size",
        "cache: {max_size: lots}",
        "2: cache.max_size: lots is not a size such as 64MiB or 0",
    ),
    (
        "size too small",
        "cache: {max_size: 1KiB}",
        "2: cache.max_size: 1KiB is under the minimum of 64KiB; 0 turns the cache off",
    ),
    (
        "size too large",
        "cache: {max_size: 1TiB}",
        "2: cache.max_size: 1TiB is over the limit of 64GiB",
    ),
    (
        "number too large",
        "workers: 99999999999999999999",
        "2: workers: 99999999999999999999 is not a whole number",
    ),
    (
        "no workers",
        "workers: 0",
        "2: workers: 0 is under the minimum of 1",
    ),
    (
        "negative",
        "workers: -1",
        "2: workers: -1 is not a whole number",
    ),
    (
        "fraction",
        "workers: 1.5",
        "2: workers: 1.5 is not a whole number",
    ),
    (
        "u32 overflow",
        "udp: {refused_per_second: 4294967297}",
        "2: udp.refused_per_second: 4294967297 is over the limit of 1000000",
    ),
    (
        "no truth",
        "handover: maybe",
        "2: handover: maybe is not true or false",
    ),
    (
        "not a table",
        "cache: 64MiB",
        "2: cache: 64MiB is not a table of keys",
    ),
    (
        "unknown key, near",
        "cache: {max_szie: 1MiB}",
        "2: cache.max_szie: there is no such key; did you mean max_size?",
    ),
    (
        "unknown key, elsewhere",
        "max_ttl: 1h",
        "2: max_ttl: there is no such key; did you mean cache.max_ttl?",
    ),
    (
        "unknown key, above",
        "cache: {listen: x}",
        "2: cache.listen: there is no such key; did you mean listen at the top level?",
    ),
    (
        "unknown key, far",
        "limits: {zzz: 1}",
        "2: limits.zzz: there is no such key; keys here: client_in_flight",
    ),
    (
        "listen without port",
        "listen: 127.0.0.1",
        "2: listen: 127.0.0.1 is not an address with a port such as 127.0.0.1:5300 or [::1]:5300",
    ),
    (
        "listen to nothing",
        "listen: []",
        "2: listen: has no address; write at least one, for example [127.0.0.1:5300]",
    ),
    (
        "listen to null",
        "listen:",
        "2: listen: has no value; write an address with a port such as 127.0.0.1:5300 or [::1]:5300, or remove the key to get the default",
    ),
    (
        "listen twice",
        "listen: [127.0.0.1:53,\n  127.0.0.1:53]",
        "3: listen[1]: 127.0.0.1:53 is here twice; keep one",
    ),
    (
        "admin taken",
        "listen: 127.0.0.1:9153",
        "admin: 127.0.0.1:9153 is here twice (also in listen); keep one",
    ),
    (
        "metrics taken",
        "metrics: {listen: 127.0.0.1:9153}",
        "2: metrics.listen: 127.0.0.1:9153 is here twice (also in admin); keep one",
    ),
    (
        "allow nobody",
        "allow: []",
        "2: allow: lets nobody ask; write [private], [all] or networks such as [10.0.0.0/8]",
    ),
    (
        "allow a word",
        "allow: [public]",
        "2: allow[0]: public is not a network such as 10.0.0.0/8, an address, or the word private or all",
    ),
    (
        "allow a bad mask",
        "allow: [10.0.0.0/33]",
        "2: allow[0]: 10.0.0.0/33 is not a network such as 10.0.0.0/8, an address, or the word private or all",
    ),
    (
        "socket",
        "socket: 5",
        "2: socket: 5 is not a path such as /run/nodens/nodens.sock",
    ),
    (
        "node that is no table",
        "node: true",
        "2: node: true is not a table of keys",
    ),
    (
        "node without addresses",
        "node: {notrack: true}",
        "2: node.addresses: has no address; write what pods ask, for example [169.254.20.53], or `node: null`",
    ),
    (
        "node address with a prefix",
        "node: {addresses: 169.254.20.53/32}",
        "2: node.addresses: 169.254.20.53/32 is not an address without port and prefix length such as 169.254.20.53 or fd00::53",
    ),
    (
        "node address nobody listens on",
        "node: {addresses: [169.254.20.53]}",
        "2: node.addresses[0]: 169.254.20.53 is not in `listen`, so nobody would answer there; add \"169.254.20.53:53\" to listen",
    ),
    (
        "node address of the other family",
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [\"fd00::53\"]}",
        "3: node.addresses[0]: fd00::53 is not in `listen`, so nobody would answer there; add \"[fd00::53]:53\" to listen",
    ),
    (
        "node address twice",
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [169.254.20.53, 169.254.20.53]}",
        "3: node.addresses[1]: 169.254.20.53 is here twice; keep one",
    ),
    (
        "node address unspecified",
        "node: {addresses: [0.0.0.0]}",
        "2: node.addresses[0]: 0.0.0.0: this stands for all addresses of the node; write the one that pods ask, such as 169.254.20.53",
    ),
    (
        "node address loopback",
        "node: {addresses: [127.0.0.53]}",
        "2: node.addresses[0]: 127.0.0.53: inside a pod this is the pod itself; write an address that leads to the node, such as 169.254.20.53",
    ),
    (
        "node address multicast",
        "node: {addresses: [\"ff02::fb\"]}",
        "2: node.addresses[0]: ff02::fb: this is a multicast address; write one for a single host, such as 169.254.20.53",
    ),
    (
        "node address broadcast",
        "node: {addresses: [255.255.255.255]}",
        "2: node.addresses[0]: 255.255.255.255: this is the broadcast address; write one for a single host, such as 169.254.20.53",
    ),
    (
        "node address mapped",
        "node: {addresses: [\"::ffff:169.254.20.53\"]}",
        "2: node.addresses[0]: ::ffff:169.254.20.53: this is an IPv4 address in IPv6 clothes; write the IPv4 address",
    ),
    (
        "node address link-local",
        "node: {addresses: [\"fe80::53\"]}",
        "2: node.addresses[0]: fe80::53: a link-local IPv6 address means another host on each link; write a unique local one, such as fd00::53",
    ),
    (
        "node interface name",
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [169.254.20.53], interface: {name: nodelocaldns-interface}}",
        "3: node.interface.name: nodelocaldns-interface is not a name for an interface; write 1 to 15 letters, digits, -, _ or ., such as nodens",
    ),
    (
        "node interface lo",
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [169.254.20.53], interface: {name: lo}}",
        "3: node.interface.name: lo: this is the loopback interface; write kind: loopback beside it, or another name",
    ),
    (
        "node interface kind",
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [169.254.20.53], interface: {kind: bridge}}",
        "3: node.interface.kind: bridge is not dummy or loopback",
    ),
    (
        "node on_exit",
        "listen: [\"0.0.0.0:53\"]\nnode: {addresses: [169.254.20.53], on_exit: delete}",
        "3: node.on_exit: delete is not keep or remove",
    ),
    (
        "node unknown key",
        "listen: [\"0.0.0.0:53\"]\nnode: {adresses: [169.254.20.53], addresses: [169.254.20.53]}",
        "3: node.adresses: there is no such key; did you mean addresses?",
    ),
    (
        "empty node name",
        "node_name: \"\"",
        "2: node_name: has no value; write a name such as node-1, or remove the key to get the default",
    ),
    (
        "log format",
        "log: {format: xml}",
        "2: log.format: xml is not text or json",
    ),
    (
        "log queries",
        "log: {queries: true}",
        "2: log.queries: true is not off, errors or all",
    ),
    (
        "log level",
        "log: {level: inof}",
        "2: log.level: inof is not a level; did you mean info?",
    ),
    (
        "log target",
        "log: {level: \"info,hickory\"}",
        "2: log.level: hickory is not a level; levels: error, warn, info, debug, trace, off",
    ),
    (
        "log filter",
        "log: {level: \"a=b=c\"}",
        "2: log.level: a=b=c is not a filter: ",
    ),
    (
        "failure order",
        "cache: {failure_min: 10s}",
        "2: cache.failure_min: 10s is over failure_max (5s); raise failure_max or lower failure_min",
    ),
    (
        "route to nowhere",
        "routes: {\".\": vcp}",
        "2: routes.\".\": there is no group vcp; did you mean vpc?",
    ),
    (
        "route far away",
        "routes: {\".\": public}",
        "2: routes.\".\": there is no group public; groups: vpc",
    ),
    (
        "tiers to nowhere",
        "routes: {x: {tiers: [vpc, zzz]}}",
        "2: routes.x.tiers[1]: there is no group zzz; groups: vpc",
    ),
    (
        "tier twice",
        "routes: {x: [vpc, vpc]}",
        "2: routes.x[1]: vpc is here twice; keep one",
    ),
    (
        "no tiers",
        "routes: {x: []}",
        "2: routes.x: the route has no group; write `group: name`, `tiers: [name, name]` or `answer: NXDOMAIN`",
    ),
    (
        "null route",
        "routes: {x: }",
        "2: routes.x: has no value; write a group's name, ",
    ),
    (
        "route without group",
        "routes: {x: {max_negative_ttl: 5s}}",
        "2: routes.x: the route has no group; write `group: name`, `tiers: [name, name]` or `answer: NXDOMAIN`",
    ),
    (
        "answer of no kind",
        "routes: {x: {answer: nxdomian}}",
        "2: routes.x.answer: nxdomian is not NXDOMAIN, NODATA, REFUSED, or addresses such as [10.0.0.1, \"fd00::1\"]",
    ),
    (
        "answer of a word and an address",
        "routes: {x: {answer: [10.0.0.1, NXDOMAIN]}}",
        "2: routes.x.answer[1]: NXDOMAIN is not an address such as 10.0.0.1 or fd00::1",
    ),
    (
        "answer twice",
        "routes: {x: {answer: [10.0.0.1, 10.0.0.1]}}",
        "2: routes.x.answer[1]: 10.0.0.1 is here twice; keep one",
    ),
    (
        "empty answer",
        "routes: {x: {answer: []}}",
        "2: routes.x.answer: has no value; write one or remove the key",
    ),
    (
        "null answer",
        "routes: {x: {answer: }}",
        "2: routes.x.answer: has no value; write NXDOMAIN, NODATA, REFUSED, or addresses such as ",
    ),
    (
        "answer and group",
        "routes: {x: {group: vpc, answer: NXDOMAIN}}",
        "2: routes.x: `answer` and `group` exclude each other; keep one",
    ),
    (
        "answer and a cap on what others say",
        "routes: {x: {answer: NXDOMAIN, max_negative_ttl: 5s}}",
        "2: routes.x: `answer` and `max_negative_ttl` exclude each other; keep one",
    ),
    (
        "filter and answer",
        "routes: {x: {answer: NXDOMAIN, filter: [A]}}",
        "2: routes.x: `answer` and `filter` exclude each other; keep one",
    ),
    (
        "filter of everything",
        "routes: {x: {group: vpc, filter: [ANY]}}",
        "2: routes.x.filter[0]: ANY: that is every type; for a zone without records write `answer: NODATA` in place of `group` and `filter`",
    ),
    (
        "filter of a type that nobody knows",
        "routes: {x: {group: vpc, filter: [A, QUADA]}}",
        "2: routes.x.filter[1]: QUADA is not a type of records such as AAAA, HTTPS or TYPE65",
    ),
    (
        "filter of what is no type of records",
        "routes: {x: {group: vpc, filter: TYPE251}}",
        "2: routes.x.filter: TYPE251 is not a type of records such as AAAA, HTTPS or TYPE65",
    ),
    (
        "filter twice",
        "routes: {x: {group: vpc, filter: [AAAA, aaaa]}}",
        "2: routes.x.filter[1]: aaaa is here twice; keep one",
    ),
    (
        "filter of nothing",
        "routes: {x: {group: vpc, filter: []}}",
        "2: routes.x.filter: has no value; write one or remove the key",
    ),
    (
        "filter without group",
        "routes: {x: {filter: [AAAA]}}",
        "2: routes.x: the route has no group; write `group: name`, `tiers: [name, name]` or `answer: NXDOMAIN`",
    ),
    (
        "a route's cache of no kind",
        "routes: {x: {group: vpc, cache: none}}",
        "2: routes.x.cache: none is not off, or a table such as {max_ttl: 30s}",
    ),
    (
        "a route's cache for too long",
        "routes: {x: {group: vpc, cache: {max_ttl: 8d}}}",
        "2: routes.x.cache.max_ttl: 8d is over the limit of 7d",
    ),
    (
        "a route's TTLs raised too far",
        "routes: {x: {group: vpc, cache: {min_ttl: 2h}}}",
        "2: routes.x.cache.min_ttl: 2h is over the limit of 1h",
    ),
    (
        "a route's TTLs raised over their cap",
        "routes: {x: {group: vpc, cache: {min_ttl: 2m, max_ttl: 1m}}}",
        "2: routes.x.cache.min_ttl: 2m is over max_ttl (1m); raise max_ttl or lower min_ttl",
    ),
    (
        "a route's stale denials for longer than its stale answers",
        "routes: {x: {group: vpc, cache: {stale: {max_age: 1m, max_negative_age: 2m}}}}",
        "2: routes.x.cache.stale.max_negative_age: 2m is over max_age (1m); raise max_age or lower max_negative_age",
    ),
    (
        "a route's cap in both places",
        "routes: {x: {group: vpc, max_negative_ttl: 5s, cache: {max_negative_ttl: 6s}}}",
        "2: routes.x: `max_negative_ttl` and `cache.max_negative_ttl` exclude each other; keep one",
    ),
    (
        "a route's cache misspelt",
        "routes: {x: {group: vpc, cache: {stale: {max_agee: 1m}}}}",
        "2: routes.x.cache.stale.max_agee: there is no such key; did you mean max_age?",
    ),
    (
        "a cache of what is answered here",
        "routes: {x: {answer: NODATA, cache: off}}",
        "2: routes.x: `answer` and `cache` exclude each other; keep one",
    ),
    (
        "rewrite in a circle",
        "routes: {x.y: {group: vpc, rewrite: {from: x.y, to: z.x.y}}}",
        "2: routes.\"x.y\".rewrite: x.y and z.x.y are within each other, so that names would be rewritten in a circle; write suffixes apart from each other",
    ),
    (
        "rewrite to itself",
        "routes: {x: {group: vpc, rewrite: {from: x, to: x}}}",
        "2: routes.x.rewrite: x and x are within each other, so that names would be rewritten in a circle; write suffixes apart from each other",
    ),
    (
        "rewrite of another zone",
        "routes: {x: {group: vpc, rewrite: {from: y, to: z}}}",
        "2: routes.x.rewrite.from: y is not in the route's zone x, so that nothing would be rewritten; write x or a name below it",
    ),
    (
        "half a rewrite",
        "routes: {x: {group: vpc, rewrite: {from: x}}}",
        "2: routes.x.rewrite: needs `from` and `to`, for example {from: dev.example, to: dev.svc.cluster.local}",
    ),
    (
        "rewrite of a wildcard",
        "routes: {x: {group: vpc, rewrite: {from: \"*.x\", to: z}}}",
        "2: routes.x.rewrite.from: *.x: all names below it are meant; leave out the *",
    ),
    (
        "rewrite of what is answered here",
        "routes: {x: {answer: NODATA, rewrite: {from: x, to: z}}}",
        "2: routes.x: `answer` and `rewrite` exclude each other; keep one",
    ),
    (
        "dns64 with a prefix of another length",
        "routes: {x: {group: vpc, dns64: 64:ff9b::/97}}",
        "2: routes.x.dns64: 64:ff9b::/97: the prefix of a NAT64 has a length of 32, 40, 48, 56, 64 or 96 (RFC 6052 §2.2); write for example 64:ff9b::/96",
    ),
    (
        "dns64 with bits where none may be",
        "routes:\n  x: {group: vpc, dns64: {prefix: \"2001:db8:1:2:300::/96\"}}",
        "3: routes.x.dns64.prefix: 2001:db8:1:2:300::/96: bits 64 to 71 of a NAT64's prefix are zero (RFC 6052 §2.2); write for example 2001:db8:64::/96",
    ),
    (
        "dns64 with an address",
        "routes: {x: {group: vpc, dns64: 64:ff9b::1/96}}",
        "2: routes.x.dns64: 64:ff9b::1/96 has bits set behind its length; write 64:ff9b::/96",
    ),
    (
        "dns64 with a prefix for use within a host",
        "routes: {x: {group: vpc, dns64: \"::ffff:0:0/96\"}}",
        "2: routes.x.dns64: ::ffff:0:0/96: no packet is sent to these addresses; write the prefix that your NAT64 translates, for example 64:ff9b::/96",
    ),
    (
        "dns64 of IPv4",
        "routes: {x: {group: vpc, dns64: 10.0.0.0/8}}",
        "2: routes.x.dns64: 10.0.0.0/8 is not the prefix of a NAT64 such as 64:ff9b::/96, or a table such as {prefix: 64:ff9b::/96}",
    ),
    (
        "dns64 without a length",
        "routes: {x: {group: vpc, dns64: \"64:ff9b::\"}}",
        "2: routes.x.dns64: 64:ff9b:: is not the prefix of a NAT64 such as 64:ff9b::/96, or a table such as {prefix: 64:ff9b::/96}",
    ),
    (
        "dns64 by a word",
        "routes: {x: {group: vpc, dns64: true}}",
        "2: routes.x.dns64: true is not the prefix of a NAT64 such as 64:ff9b::/96, or a table such as {prefix: 64:ff9b::/96}",
    ),
    (
        "dns64 with nothing",
        "routes: {x: {group: vpc, dns64: }}",
        "2: routes.x.dns64: has no value; write the prefix of a NAT64 such as 64:ff9b::/96, or a table such as {prefix: 64:ff9b::/96}, or remove the key to get the default",
    ),
    (
        "dns64 without a prefix",
        "routes: {x: {group: vpc, dns64: {exclude: []}}}",
        "2: routes.x.dns64: needs `prefix`, for example {prefix: 64:ff9b::/96}",
    ),
    (
        "dns64 misspelt",
        "routes: {x: {group: vpc, dns64: {prefix: 64:ff9b::/96, exlude: []}}}",
        "2: routes.x.dns64.exlude: there is no such key; did you mean exclude?",
    ),
    (
        "dns64 that excludes what is no network",
        "routes: {x: {group: vpc, dns64: {prefix: 64:ff9b::/96, exclude: [10.0.0.1]}}}",
        "2: routes.x.dns64.exclude[0]: 10.0.0.1 is not an IPv6 network such as ::ffff:0:0/96",
    ),
    (
        "dns64 that excludes twice",
        "routes: {x: {group: vpc, dns64: {prefix: 64:ff9b::/96, exclude: [fd00::/8, FD00::/8]}}}",
        "2: routes.x.dns64.exclude[1]: FD00::/8 is here twice; keep one",
    ),
    (
        "dns64 of a filtered type",
        "routes: {x: {group: vpc, filter: [AAAA], dns64: 64:ff9b::/96}}",
        "2: routes.x.dns64: `dns64` and `filter: [AAAA]` exclude each other; keep one",
    ),
    (
        "dns64 without anything to make addresses from",
        "routes: {x: {group: vpc, filter: [A], dns64: 64:ff9b::/96}}",
        "2: routes.x.dns64: `dns64` and `filter: [A]` exclude each other; keep one",
    ),
    (
        "dns64 of what is answered here",
        "routes: {x: {answer: NODATA, dns64: 64:ff9b::/96}}",
        "2: routes.x: `answer` and `dns64` exclude each other; keep one",
    ),
    (
        "private zones",
        "private_zones: true",
        "2: private_zones: true is not forward or NXDOMAIN",
    ),
    (
        "group and tiers",
        "routes: {x: {group: vpc, tiers: [vpc]}}",
        "2: routes.x: `group` and `tiers` exclude each other; keep one",
    ),
    (
        "route option",
        "routes: {x: {group: vpc, max_negative_tll: 5s}}",
        "2: routes.x.max_negative_tll: there is no such key; did you mean max_negative_ttl?",
    ),
    (
        "route cap",
        "routes: {\"a.b\": {group: vpc, max_negative_ttl: 2d}}",
        "2: routes.\"a.b\".max_negative_ttl: 2d is over the limit of 1d",
    ),
    (
        "zone twice",
        "routes:\n  Cluster.Local: vpc\n  cluster.local.: vpc",
        "4: routes.\"cluster.local.\": cluster.local. is here twice (also at nodens.yaml:3; names ignore case and the last dot); keep one",
    ),
    (
        "zone wildcard",
        "routes: {\"*.example.com\": vpc}",
        "2: routes.\"*.example.com\": *.example.com: a route covers every name below its zone; leave out the *",
    ),
    (
        "zone empty",
        "routes: {\"\": vpc}",
        "2: routes.\"\": \"\" is not a domain name: it has no labels; the root is written \".\"",
    ),
    (
        "zone malformed",
        "routes: {a..b: vpc}",
        "2: routes.\"a..b\": a..b is not a domain name: ",
    ),
    (
        "record name",
        "records: {\"a b\": {A: 10.0.0.1}}",
        "2: records.\"a b\": a b is not a domain name: ",
    ),
    (
        "record wildcard",
        "records: {\"*\": {A: 10.0.0.1}}",
        "2: records.\"*\": *: nothing would be forwarded; write routes: {\".\": {answer: 10.0.0.1}}",
    ),
    (
        "record wildcard that points to itself",
        "records:\n  \"*.x\": {CNAME: web.x}\n  b.x: {A: 10.0.0.1}",
        "3: records.\"*.x\".CNAME: the CNAME points to web.x, which this wildcard stands for itself; write web.x in `records`, too",
    ),
    (
        "hosts file that is not there",
        "hosts: /nonexistent/hosts",
        "2: hosts: /nonexistent/hosts: cannot be read: No such file or directory (os error 2); check the path and the file's permissions",
    ),
    (
        "hosts file of two lines",
        "hosts: \"\\n\"",
        "2: hosts: \"\\n\": cannot be read: No such file or directory (os error 2); check the path and the file's permissions",
    ),
    (
        "hosts file without an end",
        "hosts: /dev/zero",
        "2: hosts: the size of /dev/zero is over the limit of 4MiB",
    ),
    (
        "hosts file twice",
        "hosts: [/dev/null, /dev/null]",
        "2: hosts[1]: /dev/null is here twice; keep one",
    ),
    (
        "hosts in place of records",
        "hosts: {x: {A: 10.0.0.1}}",
        "2: hosts: {x: {A: 10.0.0.1}} is not a path such as /run/nodens/nodens.sock",
    ),
    (
        "record address",
        "records: {x: {A: fd00::1}}",
        "2: records.x.A: fd00::1 is not an IPv4 address such as 10.0.0.1",
    ),
    (
        "record address 6",
        "records: {x: {AAAA: [10.0.0.1]}}",
        "2: records.x.AAAA[0]: 10.0.0.1 is not an IPv6 address such as fd00::1",
    ),
    (
        "record twice",
        "records: {x: {A: [10.0.0.1, 10.0.0.1]}}",
        "2: records.x.A[1]: 10.0.0.1 is here twice; keep one",
    ),
    (
        "record type",
        "records: {x: {MX: y}}",
        "2: records.x.MX: there is no such key; keys here: A, AAAA, CNAME, TXT",
    ),
    (
        "record type twice",
        "records: {x: {TXT: y, txt: z}}",
        "2: records.x.txt: txt is here twice (types ignore case); keep one",
    ),
    (
        "record empty",
        "records: {x: {}}",
        "2: records.x: the name has no records; write for example {A: [10.0.0.1]}",
    ),
    (
        "record not a table",
        "records: {x: 10.0.0.1}",
        "2: records.x: 10.0.0.1 is not a table such as {A: [10.0.0.1]}",
    ),
    (
        "record list empty",
        "records: {x: {A: []}}",
        "2: records.x.A: has no value; write one or remove the key",
    ),
    (
        "cname and more",
        "records: {x: {CNAME: y, A: 10.0.0.1}}",
        "2: records.x: a CNAME excludes other records of its name (RFC 2181 §10.1); keep one or the other",
    ),
    (
        "cname list",
        "records: {x: {CNAME: [y, z]}}",
        "2: records.x.CNAME: [y, z] is not one name such as registry.example.com",
    ),
    (
        "cname to itself",
        "records: {x.y: {CNAME: X.Y.}}",
        "2: records.\"x.y\".CNAME: the CNAME points to itself",
    ),
    (
        "same name twice",
        "records:\n  x.: {A: 10.0.0.1}\n  X: {A: 10.0.0.2}",
        "records.",
    ),
    (
        "upstream is ourselves",
        "listen: 10.0.0.2:53",
        "1: upstreams.vpc.servers[0]: 10.0.0.2 is our own listen address 10.0.0.2:53, queries would go in a circle; remove it from servers, or listen elsewhere",
    ),
    (
        "control characters",
        "node_name: [\"a\\nb\"]",
        "2: node_name: [\"a\\nb\"] is not text",
    ),
];

#[test]
fn a_bad_key_says_where_it_is_and_what_would_be_right() {
    for (name, text, expected) in BAD_KEYS {
        let found = messages(&format!("{VPC}{text}\n"));
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        let place = if expected.starts_with(|c: char| c.is_ascii_digit()) {
            "nodens.yaml:"
        } else {
            ""
        };
        let expected = format!("{place}{expected}");
        // Long tails of other crates' messages are left out of the table.
        let whole = !(expected.ends_with(' ')
            || expected.ends_with("text")
            || expected.ends_with("records."));
        let matches = if whole {
            found[0].ends_with(&expected)
        } else {
            found[0].contains(&expected)
        };
        assert!(
            matches,
            "{name}:\n  found    {}\n  expected {expected}",
            found[0]
        );
    }
}

/// Name, the body of a group called `vpc`, and the message after `upstreams.vpc`.
pub(crate) const BAD_GROUPS: &[(&str, &str, &str)] = &[
    (
        "no servers",
        "policy: fastest",
        ": the group has no `servers`; write at least one",
    ),
    (
        "empty servers",
        "servers: []",
        ": the group has no `servers`; write at least one",
    ),
    (
        "null servers",
        "servers: ",
        ": the group has no `servers`; write at least one",
    ),
    (
        "host name",
        "servers: [dns.google]",
        ".servers[0]: dns.google is a host name; write its IP address",
    ),
    (
        "number",
        "servers: [10]",
        ".servers[0]: 10 is not a server such as 10.0.0.2",
    ),
    (
        "no tls name",
        "servers: [\"tls://1.1.1.1\"]",
        ".servers[0]: tls://1.1.1.1: TLS needs the name to check the certificate against; write tls://1.1.1.1#name",
    ),
    (
        "twice",
        "servers: [10.0.0.2, \"10.0.0.2:53\"]",
        ".servers[1]: 10.0.0.2 is here twice; keep one",
    ),
    (
        "no file",
        "servers: /nonexistent/resolv.conf",
        ".servers: /nonexistent/resolv.conf: cannot be read: No such file or directory (os error 2); write the servers' IP addresses instead",
    ),
    (
        "policy",
        "servers: [10.0.0.2], policy: random",
        ".policy: random is not ordered, fastest or round_robin",
    ),
    (
        "bogus",
        "servers: [10.0.0.2], bogus: relay",
        ".bogus: relay is not final or failover",
    ),
    (
        "try over deadline",
        "servers: [10.0.0.2], try_timeout: 5s",
        ".try_timeout: 5s is over deadline (4s); raise deadline or lower try_timeout",
    ),
    (
        "deadline under try",
        "servers: [10.0.0.2], deadline: 500ms",
        ".deadline: 500ms is under try_timeout (1s, its default); raise deadline or lower try_timeout",
    ),
    (
        "hedge order",
        "servers: [10.0.0.2], failover: {hedge_min: 300ms}",
        ".failover.hedge_min: 300ms is over hedge_max (200ms); raise hedge_max or lower hedge_min",
    ),
    (
        "probe order",
        "servers: [10.0.0.2], failover: {probe_max: 100ms}",
        ".failover.probe_max: 100ms is under probe_min (500ms, its default); raise probe_max or lower probe_min",
    ),
    (
        "probe name",
        "servers: [10.0.0.2], probe: a..b A",
        ".probe: a..b is not a domain name",
    ),
    (
        "probe type",
        "servers: [10.0.0.2], probe: . AXFR",
        ".probe: . AXFR is not a name and a type such as \". NS\"",
    ),
    (
        "probe without type",
        "servers: [10.0.0.2], probe: example.com",
        ".probe: example.com is not a name and a type",
    ),
    (
        "unknown key",
        "servers: [10.0.0.2], try_timout: 1s",
        ".try_timout: there is no such key; did you mean try_timeout?",
    ),
    (
        "failover key",
        "servers: [10.0.0.2], failover: {x: 1}",
        ".failover.x: there is no such key; keys here: start_fanout, hedge_min",
    ),
    (
        "streams key",
        "servers: [10.0.0.2], streams: {age: 1m}",
        ".streams.age: there is no such key",
    ),
    (
        "streams age under a second",
        "servers: [10.0.0.2], streams: {max_age: 500ms}",
        ".streams.max_age: 500ms is under the minimum of 1s",
    ),
    (
        "streams age over a day",
        "servers: [10.0.0.2], streams: {max_age: 2d}",
        ".streams.max_age: 2d is over the limit of 1d",
    ),
    (
        "streams age without unit",
        "servers: [10.0.0.2], streams: {max_age: 60}",
        ".streams.max_age: 60",
    ),
    (
        "percent",
        "servers: [10.0.0.2], failover: {hedge_budget_percent: 101}",
        ".failover.hedge_budget_percent: 101 is over the limit of 100",
    ),
];

#[test]
fn a_bad_group_says_where_it_is_and_what_would_be_right() {
    for (name, body, expected) in BAD_GROUPS {
        let found = messages(&format!("upstreams:\n  vpc: {{{body}}}\n"));
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        let expected = format!("nodens.yaml:2: upstreams.vpc{expected}");
        assert!(
            found[0].starts_with(&expected),
            "{name}:\n  found    {}\n  expected {expected}",
            found[0]
        );
    }
}

#[test]
fn a_bad_file_says_what_to_do() {
    let directory = Directory::new("files");
    let cases = [
        (
            "missing",
            directory.0.join("none.yaml"),
            ": there is no such file; check --config",
        ),
        ("directory", directory.0.clone(), ": cannot be read: "),
        (
            "empty",
            directory.file("empty.yaml", ""),
            ": is empty; write at least `listen:`",
        ),
        (
            "comments",
            directory.file("comments.yaml", "# a\n\n  # b\n"),
            ": is empty; write at least `listen:`",
        ),
        (
            "list",
            directory.file("list.yaml", "- a\n"),
            ":1: holds a list at the top, where keys such as `listen:`",
        ),
        (
            "syntax",
            directory.file("syntax.yaml", "a: 1\nb: [\n"),
            "is not YAML: ",
        ),
        (
            "tab",
            directory.file("tab.yaml", "cache:\n\tmax_ttl: 1s\n"),
            ":2: a tab indents this line; YAML wants spaces",
        ),
        (
            "documents",
            directory.file("two.yaml", "a: 1\n---\nb: 1\n"),
            ":2: a second document starts here",
        ),
        (
            "not UTF-8",
            directory.0.join("latin.yaml"),
            ": cannot be read: it is not UTF-8",
        ),
    ];
    fs::write(directory.0.join("latin.yaml"), [b'a', 0xe9]).expect("a temporary file");
    for (name, file, expected) in cases {
        let flags = Flags {
            config_file: Some(file.clone()),
            ..Flags::default()
        };
        let found = load(&flags).expect_err(name).to_string();
        assert!(
            found.starts_with(&file.display().to_string()),
            "{name}: {found}"
        );
        assert!(
            found.contains(expected) && found.lines().count() == 1,
            "{name}: {found}"
        );
    }
}

#[test]
fn every_mistake_is_reported_at_once_in_the_order_of_the_file() {
    let found = messages(
        "cache:\n  max_ttl: 9d\n  max_ttl: 1d\nworkers: 0\nupstreams:\n  vpc: {servers: [x.y, 10.0.0.2]}\nroutes: {\".\": vcp}\nlog: {level: loud}\n",
    );
    let lines: Vec<_> = found
        .iter()
        .map(|message| message.split(": ").next().unwrap_or_default())
        .collect();
    assert_eq!(
        lines,
        [
            "nodens.yaml:2",
            "nodens.yaml:3",
            "nodens.yaml:4",
            "nodens.yaml:6",
            "nodens.yaml:7",
            "nodens.yaml:8"
        ]
    );
    assert!(found[1].contains("cache.max_ttl: the key is here twice, first on line 2"));
}

#[test]
fn dns64_is_a_prefix_or_a_table_with_one() {
    let routes = "routes: {a: {group: vpc, dns64: 64:ff9b::/96}, b: {group: vpc, dns64: {prefix: 2001:db8::/32, exclude: [fd00::/8, 64:ff9b::/96]}}, c: {group: vpc, dns64: {prefix: 2001:DB8:1::/48, exclude: []}}}";
    let loaded = loaded(&format!(
        "upstreams: {{vpc: {{servers: [10.0.0.2]}}}}\n{routes}\n"
    ));
    let read = |route: &crate::config::RouteConfig| {
        let dns64 = route.dns64.clone().expect("set");
        let exclude = dns64.exclude.iter().map(ToString::to_string).collect();
        (dns64.prefix.to_string(), exclude)
    };
    let read: Vec<(String, Vec<String>)> = loaded.config.routes.iter().map(read).collect();
    let want = |prefix: &str, exclude: &[&str]| {
        let exclude = exclude.iter().map(ToString::to_string).collect();
        (prefix.to_owned(), exclude)
    };
    assert_eq!(
        read,
        [
            want("64:ff9b::/96", &["::ffff:0.0.0.0/96"]),
            want("2001:db8::/32", &["fd00::/8", "64:ff9b::/96"]),
            want("2001:db8:1::/48", &[]),
        ]
    );
}

#[test]
fn several_groups_need_routes_and_one_does_not() {
    let found = messages("upstreams:\n  a: {servers: 10.0.0.2}\n  b: {servers: 10.0.0.3}\n");
    assert_eq!(
        found,
        [
            "nodens.yaml:1: routes: there are several groups (a, b) and no `routes`; write which names go where, for example routes: {\".\": a}"
        ]
    );
    assert!(good(VPC).routes[0].zone.is_root());
    // Nobody routes ".": names outside get REFUSED, which is allowed.
    assert_eq!(good(&format!("{VPC}routes: {{x: vpc}}")).routes.len(), 1);
}

#[test]
fn limits_of_lists_are_errors() {
    let many = |count: usize, item: fn(usize) -> String| {
        (0..count).map(item).collect::<Vec<_>>().join(", ")
    };
    let servers = many(65, |n| format!("10.0.0.{n}"));
    let found = messages(&format!("upstreams: {{a: {{servers: [{servers}]}}}}"));
    assert_eq!(
        found,
        ["nodens.yaml:1: upstreams.a.servers: has 65 items, over the limit of 64"]
    );
    let listen = many(65, |n| format!("127.0.0.{n}:53"));
    assert!(
        messages(&format!("{VPC}listen: [{listen}]"))[0]
            .ends_with("listen: has 65 items, over the limit of 64")
    );
    let long = "x".repeat(256);
    let found = messages(&format!(
        "{VPC}records: {{x: {{TXT: {long}}}}}\nnode_name: {long}\nsocket: /{long}"
    ));
    assert_eq!(
        found,
        [
            "nodens.yaml:2: records.x.TXT: 256 bytes are over the limit of 255 for a string (RFC 1035 §3.3)",
            "nodens.yaml:3: node_name: 256 bytes are over the limit of 255 for a string (RFC 1035 §3.3)",
            "nodens.yaml:4: socket: a path of 257 bytes is over the limit of 107 bytes (sun_path)",
        ]
    );
    assert!(
        good(&format!(
            "{VPC}records: {{x: {{TXT: {}}}}}",
            "x".repeat(255)
        ))
        .records
        .len()
            == 1
    );
}

#[test]
fn a_resolv_conf_is_expanded_in_order_without_duplicates() {
    let directory = Directory::new("expand");
    let text = "\u{feff}nameserver 10.0.0.9\n# c\nsearch ..bad..\nnameserver 10.0.0.2 # x\nnameserver fd00::2\nnameserver 10.0.0.9\nnameserver fe80::1%no-such\nnameserver fe80::7%lo\nnameserver fe80::8%7\nnameserver dns.example\n";
    let file = directory.file("resolv.conf", text);
    let loaded = loaded(&format!(
        "upstreams: {{a: {{servers: [10.0.0.2, {}]}}}}",
        file.display()
    ));
    let shown: Vec<_> = loaded.config.groups[0]
        .servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        shown,
        ["10.0.0.2", "10.0.0.9", "fd00::2", "fe80::7", "fe80::8"]
    );
    let scopes: Vec<_> = loaded.config.groups[0]
        .servers
        .iter()
        .filter_map(|server| match server.address {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() => Some(v6.scope_id()),
            _ => None,
        })
        .collect();
    assert_eq!(scopes, [1, 7], "lo has index 1 in every network namespace");
    let setting = loaded
        .settings
        .iter()
        .find(|setting| setting.path == "upstreams.a.servers")
        .expect("a setting");
    assert_eq!(
        setting.value,
        format!(
            "[10.0.0.2, 10.0.0.9, fd00::2, fe80::7, fe80::8] ({})",
            file.display()
        )
    );
    for (warning, expected) in loaded.warnings.iter().zip([
        "nameserver fe80::1%no-such is left out: this host has no such interface",
        "nameserver dns.example is left out: it is not an IP address",
    ]) {
        assert!(warning.contains(expected), "{warning}");
    }
    assert_eq!(loaded.warnings.len(), 2, "{:?}", loaded.warnings);

    let empty = directory.file("empty.conf", "search x\n");
    let found = messages(&format!(
        "upstreams: {{a: {{servers: {}}}}}",
        empty.display()
    ));
    let expected = format!(
        "{}: names no nameserver; write the servers' IP addresses instead",
        empty.display()
    );
    assert_eq!(
        found,
        [format!("nodens.yaml:1: upstreams.a.servers: {expected}")]
    );
}

#[test]
fn a_host_without_nameservers_is_told_to_set_upstreams() {
    let directory = Directory::new("host");
    let host = HostFacts {
        resolv_conf: directory.0.join("none"),
        hostname: directory.0.join("none"),
        ..HostFacts::default()
    };
    let found = load_on(&host, None, [], &[])
        .expect_err("no resolv.conf")
        .to_string();
    assert!(
        found.starts_with("default: upstreams.\"resolv.conf\".servers: "),
        "{found}"
    );
    assert!(
        found.contains("cannot be read: ") && found.contains("; set upstreams to"),
        "{found}"
    );

    let host = HostFacts {
        resolv_conf: directory.file("resolv.conf", "nameserver 127.0.0.1\n"),
        hostname: directory.0.join("none"),
        ..HostFacts::default()
    };
    let listen = [("listen".to_owned(), "0.0.0.0:53".to_owned())];
    let found = load_on(&host, None, [], &listen)
        .expect_err("a loop")
        .to_string();
    let expected = "127.0.0.1 is our own listen address 0.0.0.0:53, queries would go in a circle; set upstreams to";
    assert!(found.contains(expected), "{found}");

    let both = HostFacts {
        resolv_conf: directory.file(
            "both-resolv.conf",
            "nameserver 127.0.0.1\nnameserver 10.0.0.2\n",
        ),
        ..HostFacts::default()
    };
    let loaded = load_on(&both, None, [], &listen).expect("another server");
    let servers: Vec<_> = loaded.config.groups[0]
        .servers
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(servers, ["10.0.0.2"]);
    let expected = "127.0.0.1 is left out: it is our own listen address 0.0.0.0:53";
    assert!(
        loaded
            .warnings
            .iter()
            .any(|warning| warning.contains(expected)),
        "{:?}",
        loaded.warnings
    );

    let resolved = HostFacts {
        resolv_conf: directory.file("stub-resolv.conf", "nameserver 127.0.0.53\n"),
        ..HostFacts::default()
    };
    let found = load_on(&resolved, None, [], &listen)
        .expect_err("a loop")
        .to_string();
    let expected = "127.0.0.53 is our own listen address 0.0.0.0:53, queries would go in a circle; name /run/systemd/resolve/resolv.conf in servers";
    assert!(found.contains(expected), "{found}");

    let loaded = load_on(&host, None, [], &[]).expect("another port");
    assert_eq!(loaded.config.node_name, "nodens");
    assert!(
        loaded.warnings[0].contains("set node_name"),
        "{:?}",
        loaded.warnings
    );
}

#[test]
fn the_environment_outranks_the_file_and_flags_outrank_both() {
    let text = "upstreams: {vpc: {servers: [10.0.0.2]}}\ncache:\n  max_size: 1MiB\n  max_ttl: 1h\nworkers: 1\n";
    let file = Some((Path::new("nodens.yaml"), text));
    let variables = environment(&[
        ("NODENS__CACHE__MAX_SIZE", "2MiB"),
        ("NODENS__CACHE__STALE__MAX_AGE", "0"),
        ("NODENS__ADMIN", "null"),
        ("NODENS__LISTEN", "[127.0.0.1:53, \"[::1]:53\"]"),
        ("NODENS__UPSTREAMS__VPC__SERVERS", "10.0.0.9"),
        ("NODENS__HANDOVER", "true"),
        ("NODENS__WORKERS", "2"),
        ("NODENS__RECORDS__X.Y__A", "10.0.0.1"),
        ("NODENS_PORT", "tcp://10.0.0.1:53"),
        ("NODENS_SERVICE_HOST", "10.0.0.1"),
        ("NODENS__", "x"),
        ("PATH", "/bin"),
    ]);
    let overrides = [("workers".to_owned(), "3".to_owned())];
    let loaded = load_from(file, variables, &overrides).expect("a configuration");
    let config = &loaded.config;
    assert_eq!(
        (config.cache.max_size, config.cache.max_ttl.as_secs()),
        (2 << 20, 3_600)
    );
    assert_eq!(
        (config.admin, config.handover, config.listen.len()),
        (None, true, 2)
    );
    assert_eq!(config.groups[0].servers[0].to_string(), "10.0.0.9");
    assert_eq!(config.workers.get(), 3);
    assert_eq!(config.records[0].name.to_ascii(), "x.y.");
    let mut shown = String::new();
    for setting in &loaded.settings {
        if setting.origin != Origin::Default {
            writeln!(
                shown,
                "{} = {} ({})",
                setting.path, setting.value, setting.origin
            )
            .expect("a String");
        }
    }
    assert_eq!(
        shown,
        "listen = [127.0.0.1:53, [::1]:53] ($NODENS__LISTEN)\n\
         admin = null ($NODENS__ADMIN)\n\
         workers = 3 (command line)\n\
         handover = true ($NODENS__HANDOVER)\n\
         upstreams.vpc.servers = [10.0.0.9] ($NODENS__UPSTREAMS__VPC__SERVERS)\n\
         records.\"x.y\".a = [10.0.0.1] ($NODENS__RECORDS__X.Y__A)\n\
         cache.max_size = 2MiB ($NODENS__CACHE__MAX_SIZE)\n\
         cache.max_ttl = 1h (nodens.yaml:4)\n\
         cache.stale.max_age = 0s ($NODENS__CACHE__STALE__MAX_AGE)\n"
    );
}

#[test]
fn mistakes_outside_the_file_name_the_variable_or_the_flag() {
    let variables = environment(&[
        ("NODENS__CACHE", "5"),
        ("NODENS__CACHE__MAX_TTL", "9d"),
        ("NODENS__WROKERS", "1"),
        ("NODENS__LISTEN", "localhost:53"),
    ]);
    let overrides = [("tcp.idle_timeout".to_owned(), "2h".to_owned())];
    let found = load_from(Some((Path::new("x.yaml"), VPC)), variables, &overrides)
        .expect_err("mistakes")
        .to_string();
    let mut lines: Vec<_> = found.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "$NODENS__CACHE: cache: $NODENS__CACHE__MAX_TTL sets a key below this one, which is no table; remove one of the two",
            "$NODENS__CACHE__MAX_TTL: cache.max_ttl: 9d is over the limit of 7d",
            "$NODENS__LISTEN: listen: localhost:53 is not an address with a port such as 127.0.0.1:5300 or [::1]:5300",
            "$NODENS__WROKERS: wrokers: there is no such key; did you mean workers?",
            "command line: tcp.idle_timeout: 2h is over the limit of 1h",
        ]
    );
}

#[test]
fn a_variable_with_one_underscore_too_few_is_a_warning() {
    let variables = environment(&[
        ("NODENS_LISTEN", "127.0.0.1:53"),
        ("NODENS_CACHE__MAX_SIZE", "16MiB"),
        // Of Services called nodens and nodens-cache, and our own.
        ("NODENS_PORT", "tcp://10.96.0.53:53"),
        ("NODENS_SERVICE_HOST", "10.96.0.53"),
        ("NODENS_CACHE_PORT_53_TCP", "tcp://10.96.0.54:53"),
        ("NODENS_STATE_DIR", "/var/lib/nodens"),
        ("NODENS__WORKERS", "1"),
    ]);
    let loaded = load_from(Some((Path::new("x.yaml"), VPC)), variables, &[]).expect("valid");
    let unread: Vec<_> = loaded
        .warnings
        .iter()
        .filter(|warning| warning.starts_with('$'))
        .collect();
    assert_eq!(
        unread,
        [
            "$NODENS_CACHE__MAX_SIZE is not read: two underscores follow the name, NODENS__CACHE__MAX_SIZE",
            "$NODENS_LISTEN is not read: two underscores follow the name, NODENS__LISTEN",
        ]
    );
}

#[test]
fn what_people_write_by_habit_says_how_it_is_written_here() {
    let cases = [
        (
            "upstreams: {a: {servers: '10.0.0.2, 10.0.0.3'}}",
            "upstreams.a.servers: 10.0.0.2, 10.0.0.3 holds several; write a list: [10.0.0.2, 10.0.0.3]",
        ),
        (
            "upstreams: {a: {servers: ['10.0.0.2 tcp://10.0.0.3']}}",
            "servers[0]: 10.0.0.2 tcp://10.0.0.3 holds several; write a list: [10.0.0.2, tcp://10.0.0.3]",
        ),
        (
            "listen: 127.0.0.1:53,127.0.0.2:53",
            "listen: 127.0.0.1:53,127.0.0.2:53 holds several; write a list: [127.0.0.1:53, 127.0.0.2:53]",
        ),
        (
            "allow: private 10.0.0.0/8",
            "allow: private 10.0.0.0/8 holds several; write a list: [private, 10.0.0.0/8]",
        ),
        (
            "upstreams: {a: {servers: ['fe80::1%eth0']}}",
            "fe80::1%eth0: an interface is written by its index here, for example [fe80::1%2]:53; `ip link` shows it",
        ),
        (
            "upstreams: {a: {servers: ['[fe80::1%eth0]:53']}}",
            "[fe80::1%eth0]:53: an interface is written by its index here, for example [fe80::1%2]:53; `ip link` shows it",
        ),
        (
            "listen: '[fe80::1]:53'",
            "listen: [fe80::1]:53: a link-local address needs its interface; write its index, for example [fe80::1%2]:53",
        ),
        (
            "metrics: {listen: 0.0.0.0:9153}",
            "metrics.listen: 0.0.0.0:9153 takes in 127.0.0.1:9153 of admin; choose another port or address for one of them",
        ),
        (
            "listen: [0.0.0.0:53, 127.0.0.1:53]",
            "listen: 0.0.0.0:53 takes in 127.0.0.1:53 of listen; choose another port or address for one of them",
        ),
        (
            "{listen: 0.0.0.0:9153, handover: true}",
            "listen: 0.0.0.0:9153 takes in 127.0.0.1:9153 of admin; choose another port or address for one of them",
        ),
        (
            "upstreams: {a: {servers: 10.0.0.2}}\nroutes: {10.0.0.0/8: a}",
            "routes.\"10.0.0.0/8\": 10.0.0.0/8 is a network; write its reverse zone, 10.in-addr.arpa",
        ),
        (
            "upstreams: {a: {servers: 10.0.0.2}}\nroutes: {10.96.0.0/12: a}",
            "is a network; write its reverse zone, 96.10.in-addr.arpa … 111.10.in-addr.arpa",
        ),
        (
            "records: [{name: a.example, A: 10.0.0.1}]",
            "records: [{A: 10.0.0.1, name: a.example}] is not a table of keys",
        ),
        (
            "upstreams: {a: {servers: https://1.1.1.1}}",
            "write https://1.1.1.1#name, for example https://1.1.1.1#one.one.one.one",
        ),
    ];
    for (text, expected) in cases {
        let found = messages(&format!("{text}\n"));
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].ends_with(expected), "{}\n{expected}", found[0]);
    }
    let shared = "{listen: [0.0.0.0:53, 127.0.0.1:53], handover: true}";
    assert!(Config::from_yaml(shared).is_ok(), "the kernel shares these");
    let overrides = [(
        "routes.cluster.local.max_negative_ttl".to_owned(),
        "1s".to_owned(),
    )];
    let found = load_from(None, [], &overrides)
        .expect_err("a mistake")
        .to_string();
    let expected =
        "routes.cluster.local: there is no such key; did you mean routes.\"cluster.local\"?";
    assert!(found.contains(expected), "{found}");
}

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    let text = "upstreams: {a: {servers: 10.0.0.2}, b: {servers: 10.0.0.3}}\nroutes: {x.y: {group: a, max_negative_ttl: 2h, cache: {min_ttl: 1h, max_ttl: 2h}}}\ncache: {max_ttl: 1m}\n";
    assert_eq!(
        loaded(text).warnings,
        [
            "upstreams.b: no route uses this group",
            "routes.\"x.y\".max_negative_ttl: 2h has no effect, cache.max_negative_ttl is 1h",
            "routes.\"x.y\".cache.max_ttl: 2h has no effect, cache.max_ttl is 1m",
            "routes.\"x.y\".cache.min_ttl: 1h has no effect, cache.max_ttl is 1m",
        ]
    );
}

#[test]
fn who_answers_everybody_where_strangers_may_come_is_warned() {
    let warned = |listen: &str, allow: &str| {
        let text = format!("{VPC}listen: [\"{listen}\"]\nallow: [\"{allow}\"]\n");
        let warnings = loaded(&text).warnings;
        assert!(warnings.len() < 2, "{warnings:?}");
        warnings
            .first()
            .is_some_and(|warning| warning.starts_with(&format!("listen: {listen}: whoever")))
    };
    for (listen, allow, is_warned) in [
        ("0.0.0.0:53", "all", true),
        ("[::]:53", "::/0", true),
        ("8.8.8.8:53", "0.0.0.0/0", true),
        ("0.0.0.0:53", "private", false),
        ("0.0.0.0:53", "8.0.0.0/7", false),
        ("10.0.0.5:53", "all", false),
        ("169.254.20.53:53", "all", false),
        ("8.8.8.8:53", "::/0", false),
    ] {
        assert_eq!(warned(listen, allow), is_warned, "{listen} {allow}");
    }
}

#[test]
fn private_networks_are_the_default_and_the_public_is_not_among_them() {
    let allow = good(VPC).allow;
    let allowed = |address: &str| {
        let address: IpAddr = address.parse().expect("an address");
        allow.iter().any(|network| network.contains(&address))
    };
    for address in [
        "127.0.0.1",
        "::1",
        "169.254.20.53",
        "fe80::1",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "fd00::1",
    ] {
        assert!(allowed(address), "{address}");
    }
    for address in ["8.8.8.8", "172.32.0.1", "100.128.0.1", "2001:db8::1"] {
        assert!(!allowed(address), "{address}");
    }
}

/// Scalars that have gone wrong somewhere.
fn scalar() -> impl Strategy<Value = String> {
    let words = [
        "",
        "0",
        "-1",
        "1",
        "5300",
        "99999999999999999999",
        "1.5",
        "true",
        "null",
        "~",
        "4s",
        "500ms",
        "9d",
        "64MiB",
        "1e400GiB",
        "10.0.0.2",
        "10.0.0.2:53",
        "\"[::1]:53\"",
        "fd00::1",
        "tls://1.1.1.1#a",
        "tcp://[fd00::1",
        "tls://#",
        "://",
        ".",
        "a..b",
        "vpc",
        "private",
        "all",
        "\"\\0\"",
        "\"\\n\"",
        ". NS",
        "info,x=",
        "[]",
        "[[]]",
        "{}",
        "{a: b}",
        "[vpc, vpc]",
        "ordered",
        "[10.0.0.2, 10.0.0.2]",
        "99999999999999999999y",
        "./nonexistent",
        "\u{1f980}",
        "xn--",
        "*",
        "'*.x'",
    ];
    prop_oneof![
        3 => proptest::sample::select(words.to_vec()).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|text| format!("{text:?}")),
    ]
}

fn key() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(vec![
        "listen",
        "allow",
        "admin",
        "metrics",
        "socket",
        "workers",
        "handover",
        "shutdown_grace",
        "node_name",
        "upstreams",
        "vpc",
        "servers",
        "policy",
        "try_timeout",
        "deadline",
        "probe",
        "failover",
        "hedge_min",
        "hedge_max",
        "streams",
        "max_age",
        "routes",
        "\".\"",
        "cluster.local",
        "group",
        "tiers",
        "max_negative_ttl",
        "answer",
        "filter",
        "private_zones",
        "hosts",
        "records",
        "complete_cnames",
        "A",
        "AAAA",
        "CNAME",
        "TXT",
        "cache",
        "max_size",
        "max_ttl",
        "stale",
        "after",
        "tcp",
        "udp",
        "limits",
        "log",
        "level",
        "queries",
        "min_ttl",
        "*.x",
        "node",
        "addresses",
        "interface",
        "notrack",
        "on_exit",
        "x",
    ])
}

/// Tables of our keys, three levels deep, with anything as values.
fn table() -> impl Strategy<Value = String> {
    let flow = |entries: Vec<(&str, String)>| {
        let entries: Vec<_> = entries
            .iter()
            .map(|(key, value)| format!("{key}: {value}"))
            .collect();
        format!("{{{}}}", entries.join(", "))
    };
    let leaf = scalar().boxed();
    leaf.prop_recursive(3, 32, 6, move |inner| {
        proptest::collection::vec((key(), inner), 0..6).prop_map(flow)
    })
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in any::<String>()) {
        let _ = Config::from_yaml(&text);
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(text in "[a-c:{}\\[\\]\"'&*!|>%@`#,?~ \t\n-]{0,60}") {
        let _ = Config::from_yaml(&text);
    }

    #[test]
    fn no_table_of_our_keys_makes_it_panic_and_each_mistake_is_one_line(text in table(), variable in scalar()) {
        let variables = environment(&[("NODENS__LISTEN", &variable), ("NODENS__UPSTREAMS__VPC__SERVERS", &variable)]);
        if let Err(errors) = load_from(Some((Path::new("nodens.yaml"), &text)), variables, &[]) {
            prop_assert!(errors.iter().count() > 0);
            for error in &errors {
                prop_assert_eq!(error.to_string().lines().count(), 1, "{}", error);
            }
        }
    }
}

#[test]
fn what_status_tells_of_queries_can_be_chosen() {
    use super::super::TopCounts;
    assert_eq!(good("{}").status.top, TopCounts::Off);
    assert!(good("{}").status.failures);
    // YAML 1.1, as Helm writes it.
    let config = good("status: {top: false, failures: false}");
    assert_eq!(config.status.top, TopCounts::Off);
    assert!(!config.status.failures);
    assert_eq!(good("status: {top: all}").status.top, TopCounts::All);
}

#[test]
fn settings_that_stay_until_a_restart_are_shown_as_they_are() {
    let running = good("workers: 3\nudp: {send_buffer: 64KiB}");
    let mut new = good("workers: 2\nallow: [all]\nudp: {send_buffer: 128KiB}");
    let order: Vec<_> = new.settings.iter().map(|s| s.path.clone()).collect();
    assert_eq!(new.keep_fixed(&running), ["workers", "udp.send_buffer"]);
    let shown = |path: &str| {
        let setting = new.settings.iter().find(|s| s.path == path);
        setting.expect("it is shown").value.clone()
    };
    assert_eq!(shown("workers"), "3");
    assert_eq!(shown("udp.send_buffer"), "64KiB");
    assert_eq!(shown("allow"), "[all]");
    let kept: Vec<_> = new.settings.iter().map(|s| s.path.clone()).collect();
    assert_eq!(kept, order);
}
