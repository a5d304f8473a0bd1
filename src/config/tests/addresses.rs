//! `listen`, `allow`, `admin`, `metrics.listen` and `socket`.

use std::net::IpAddr;

use super::*;

/// Mistakes of addresses and networks.
pub(super) const BAD_ADDRESSES: &[BadCase] = &[
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
        "upstream is ourselves",
        "listen: 10.0.0.2:53",
        "1: upstreams.vpc.servers[0]: 10.0.0.2 is our own listen address 10.0.0.2:53, queries would go in a circle; remove it from servers, or listen elsewhere",
    ),
];

#[test]
fn a_bad_address_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_ADDRESSES);
}

#[test]
fn listeners_of_two_families_or_ports_do_not_take_each_other_in() {
    for text in [
        "listen: \"[fd00::5]:9000\"\nadmin: 0.0.0.0:9000\n",
        "listen: 10.0.0.5:9000\nadmin: \"[::]:9000\"\n",
        "metrics: {listen: [0.0.0.0:9000, \"[::]:9000\", 10.0.0.5:9001]}\n",
        "admin: 0.0.0.0:0\nmetrics: {listen: 10.0.0.5:0}\n",
    ] {
        good(&format!("{VPC}{text}"));
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
