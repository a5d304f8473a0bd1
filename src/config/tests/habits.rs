//! What people write by habit, from other programs.

use super::*;

/// Each text has one mistake, whose message ends like this.
fn each_says(cases: &[(&str, &str)]) {
    for (text, expected) in cases {
        let found = messages(&format!("{text}\n"));
        assert_eq!(found.len(), 1, "{text}: {found:#?}");
        assert!(found[0].ends_with(expected), "{}\n{expected}", found[0]);
    }
}

#[test]
fn listeners_that_take_each_other_in_are_named() {
    each_says(&[
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
            "listen: 10.0.0.5:9000\nadmin: 0.0.0.0:9000",
            "admin: 0.0.0.0:9000 takes in 10.0.0.5:9000 of listen; choose another port or address for one of them",
        ),
        (
            "listen: '[fd00::5]:9000'\nadmin: '[::]:9000'",
            "admin: [::]:9000 takes in [fd00::5]:9000 of listen; choose another port or address for one of them",
        ),
        (
            "admin: 0.0.0.0:9000\nmetrics: {listen: 10.0.0.5:9000}",
            "admin: 0.0.0.0:9000 takes in 10.0.0.5:9000 of metrics.listen; choose another port or address for one of them",
        ),
        (
            "metrics: {listen: [0.0.0.0:9000, 10.0.0.5:9000]}",
            "metrics.listen: 0.0.0.0:9000 takes in 10.0.0.5:9000 of metrics.listen; choose another port or address for one of them",
        ),
        (
            "listen: 10.0.0.5:9000\nmetrics: {listen: 0.0.0.0:9000}",
            "metrics.listen: 0.0.0.0:9000 takes in 10.0.0.5:9000 of listen; choose another port or address for one of them",
        ),
    ]);
    let shared = "{listen: [0.0.0.0:53, 127.0.0.1:53], handover: true}";
    assert!(Config::from_yaml(shared).is_ok(), "the kernel shares these");
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
            "upstreams: {a: {servers: 10.0.0.2}}\nroutes: {.corp.example: a}",
            ".corp.example is not a domain name: it begins with a dot; write corp.example",
        ),
        (
            "records: {x..example: {A: 10.0.0.1}}",
            "x..example is not a domain name: it has two dots without a label between them; write x.example",
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
    each_says(&cases);
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
