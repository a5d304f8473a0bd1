//! A route's `dns64`.

use super::*;

/// Mistakes of `dns64`.
pub(super) const BAD_DNS64: &[BadCase] = &[
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
];

#[test]
fn bad_dns64_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_DNS64);
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
