//! `node`.

use std::net::IpAddr;

use super::*;
use crate::config::{InterfaceConfig, InterfaceKind, NodeConfig, OnExit};

/// Mistakes of `node`.
pub(super) const BAD_NODES: &[BadCase] = &[
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
];

#[test]
fn a_bad_node_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_NODES);
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
