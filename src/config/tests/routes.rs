//! `routes`, and what holds for all of them: `private_zones`, `complete_cnames`, `tiers`.

use super::*;

/// Mistakes of routes.
pub(super) const BAD_ROUTES: &[BadCase] = &[
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
];

#[test]
fn a_bad_route_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_ROUTES);
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
