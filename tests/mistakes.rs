//! What `nodens check` says of mistakes that people make in files: each with its place, and what would be right.

mod common;

use std::process::Output;

use common::{TempDir, nodens};

fn check(directory: &TempDir, yaml: &str) -> Output {
    directory.write("n.yaml", yaml);
    let mut command = nodens();
    command.current_dir(directory.path(""));
    command.args(["check", "--config", "n.yaml"]);
    command.output().expect("nodens runs")
}

/// What it is about, the file, and what is said of it. Nothing else is said.
const MISTAKES: [(&str, &str, &str); 15] = [
    (
        "a multicast address to listen at",
        "listen: 224.0.0.1:53\n",
        "n.yaml:1: listen: 224.0.0.1:53: this address is a group's; write one of this host, such as 127.0.0.1:53, or 0.0.0.0:53 for all",
    ),
    (
        "all of a network to listen at",
        "listen: [\"[::1]:53\", \"255.255.255.255:53\"]\n",
        "n.yaml:1: listen[1]: 255.255.255.255:53: this address is a group's; ",
    ),
    (
        "a multicast address for metrics",
        "metrics: {listen: \"[ff02::1]:9153\"}\n",
        "n.yaml:1: metrics.listen: [ff02::1]:9153: this address is a group's; ",
    ),
    (
        "a multicast address for people",
        "admin: 224.0.0.1:9153\n",
        "n.yaml:1: admin: 224.0.0.1:9153: this address is a group's; ",
    ),
    (
        "roots that are not there",
        "upstreams:\n  v.x:\n    servers: [\"tls://1.1.1.1#one.one.one.one\"]\n    tls_ca: /nowhere/ca.pem\n",
        "n.yaml:4: upstreams.\"v.x\".tls_ca: /nowhere/ca.pem: No such file or directory (os error 2); it must be a readable file of PEM certificates",
    ),
    (
        "a resolv.conf that names nothing usable",
        "upstreams:\n  v: {servers: [./resolv.conf]}\n",
        "n.yaml:2: upstreams.v.servers[0]: ./resolv.conf: names no nameserver (nameserver 10.0.0.2:5353: it is not an IP address) \
         (nameserver dns.corp: it is not an IP address); write the servers' IP addresses instead",
    ),
    (
        "no space after the colon of a table",
        "upstreams:\n  v:\n    servers:[10.0.0.2]\n",
        "n.yaml:2: upstreams.v: servers:[10.0.0.2] is not a table such as {servers: [10.0.0.2]}; write a space after the colon",
    ),
    (
        "no space after the colon of a value",
        "cache:\n  max_ttl:1d\n",
        "n.yaml:1: cache: max_ttl:1d is not a table of keys; write a space after the colon",
    ),
    (
        "a path of keys where a key is wanted",
        "cache.max_size: 16MiB\n",
        "n.yaml:1: \"cache.max_size\": there is no such key; did you mean cache: {max_size: …}?",
    ),
    (
        "a longer path",
        "cache.stale.max_age: 1h\n",
        "n.yaml:1: \"cache.stale.max_age\": there is no such key; did you mean cache: {stale: {max_age: …}}?",
    ),
    (
        "a merge key",
        "upstreams:\n  v: &v {servers: [10.0.0.2]}\n  w: {<<: *v, servers: [10.0.0.3]}\nroutes: {\".\": v}\n",
        "n.yaml:3: upstreams.w.\"<<\": there is no such key; did you mean the keys of the other table, written out?",
    ),
    (
        "a wildcard without quotes",
        "records:\n  *.dev.example: {A: 10.0.0.1}\n",
        "n.yaml:2: is not YAML: while parsing node, found unknown anchor; quote what begins with *, for example \"*.dev.example\"",
    ),
    (
        "a brace that is never closed",
        "upstreams: {v: {servers: [10.0.0.2]}\nlisten: 127.0.0.1:53\n",
        "n.yaml:2: is not YAML: invalid indentation in flow construct; a [ or { above is not closed, or a comma is missing",
    ),
    (
        "a line indented by itself",
        "upstreams:\n  v:\n    servers: [10.0.0.2]\n   deadline: 4s\n",
        "n.yaml:4: is not YAML: while parsing a block mapping, did not find expected key; this line is not indented as those it belongs to",
    ),
    (
        "a server with a port by name",
        "upstreams:\n  v: {servers: [10.0.0.1:domain]}\n",
        "n.yaml:2: upstreams.v.servers[0]: 10.0.0.1:domain is not a server such as 10.0.0.2, ",
    ),
];

#[test]
fn a_mistake_has_its_place_and_what_would_be_right() {
    let directory = TempDir::new();
    directory.write(
        "resolv.conf",
        "nameserver 10.0.0.2:5353\nnameserver dns.corp\n",
    );
    for (name, yaml, expected) in MISTAKES {
        let output = check(&directory, yaml);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}: {said}");
        assert!(said.starts_with(expected), "{name}: {expected}\n{said}");
        assert_eq!(said.lines().count(), 1, "{name}: {said}");
    }
}

/// What it is about, the file, and what is warned of.
const DOUBTS: [(&str, &str, &str); 2] = [
    (
        "aliases in a circle",
        "records:\n  a.example: {CNAME: B.example}\n  b.example.: {CNAME: c.example}\n  c.example: {CNAME: a.example}\n  d.example: {CNAME: a.example}\n",
        "warning: n.yaml:2: records.\"a.example\".CNAME: a.example → b.example → c.example → a.example: CNAMEs in a circle, so these names have no address\n",
    ),
    (
        "two addresses on a line of resolv.conf",
        "upstreams:\n  v: {servers: [./two.conf]}\n",
        "warning: ./two.conf: nameserver 10.0.0.3 is left out: a line has one address; write a line for each\n",
    ),
];

#[test]
fn what_is_hardly_meant_is_warned_of() {
    let directory = TempDir::new();
    directory.write(
        "two.conf",
        "nameserver 10.0.0.2 10.0.0.3\nnameserver 10.0.0.4 # not 10.0.0.5\n",
    );
    for (name, yaml, expected) in DOUBTS {
        let output = check(&directory, yaml);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name}: {said}");
        assert_eq!(said, expected, "{name}");
    }
}

#[test]
fn help_of_a_command_is_what_its_flag_prints() {
    let of = |arguments: &[&str]| {
        let output = nodens().args(arguments).output().expect("nodens runs");
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(of(&["help"]), of(&["--help"]));
    assert_eq!(of(&["help", "check"]), of(&["check", "--help"]));
    assert_eq!(
        of(&["help", "cache", "list"]),
        of(&["cache", "list", "--help"])
    );
    let output = nodens()
        .args(["help", "chekc"])
        .output()
        .expect("nodens runs");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn a_variable_with_one_underscore_within_is_told_how_it_is_written() {
    let mut command = nodens();
    command.arg("check").env("NODENS__CACHE_MAX_SIZE", "16MiB");
    let output = command.output().expect("nodens runs");
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = "$NODENS__CACHE_MAX_SIZE: cache_max_size: there is no such key; did you mean $NODENS__CACHE__MAX_SIZE?\n";
    assert_eq!(said, expected);
}

#[test]
fn a_group_that_resolves_names_of_servers_is_used() {
    let directory = TempDir::new();
    let output = check(
        &directory,
        "upstreams:\n  vpc: {servers: [10.0.0.2]}\n  corp: {servers: [dns.corp.example@vpc]}\nroutes: {\".\": corp}\n",
    );
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
