//! `upstreams`, and the resolv.conf files that stand for servers.

use std::net::SocketAddr;

use super::*;
use crate::config::load::load_on;

/// Name, the body of a group called `vpc`, and the message after `upstreams.vpc`.
pub(in crate::config) const BAD_GROUPS: &[(&str, &str, &str)] = &[
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
fn a_resolv_conf_is_expanded_in_order_without_duplicates() {
    let directory = TemporaryDirectory::new("expand");
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
    let directory = TemporaryDirectory::new("host");
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
