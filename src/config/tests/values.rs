//! Values of every kind, names of keys, and mistakes in general.

use super::*;

/// Mistakes of values, and of keys that there are not.
pub(super) const BAD_VALUES: &[BadCase] = &[
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
        "control characters",
        "node_name: [\"a\\nb\"]",
        "2: node_name: [\"a\\nb\"] is not text",
    ),
];

#[test]
fn a_bad_value_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_VALUES);
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
