//! The command itself: text and JSON, exit status, arguments, and that it ends in time.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::common::namespace::{Namespace, assert_root};
use super::common::stand_in::StandIn;
use super::common::{TempDir, binary, free_address, nodens};
use super::servers::good;
use super::{Said, Scene};

#[test]
fn text_without_a_terminal_has_no_escape_codes_and_says_what_to_do() {
    let server = StandIn::scripting_probes(good);
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let silent = silent.local_addr().expect("bound");
    let scene = Scene::of(&[server.address, silent]);
    let output = scene.run(&["www.example.", "--timeout", "300ms"]);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let errors = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{text}{errors}");
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert_eq!(errors, "", "no progress without a terminal");
    let (good, sick) = (server.address.to_string(), silent.to_string());
    for expected in [
        "g: .; asked for . NS",
        "www.example.: asked as www.example., route . → g",
        "192.0.2.1",
        &format!("degraded  {sick} (g): no answer over UDP from here; TCP: Connection refused"),
        "nodens must run with hostNetwork",
        "degraded: 1 finding; asked for",
        &good,
    ] {
        assert!(text.contains(expected), "no {expected:?} in:\n{text}");
    }
}

#[test]
fn a_healthy_set_ends_with_0() {
    let server = StandIn::scripting_probes(good);
    let output = Scene::of(&[server.address]).run(&[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(text.contains("\nhealthy; asked for "), "{text}");
}

#[test]
fn arguments_that_cannot_be_used_end_it_with_2() {
    let dir = TempDir::new();
    let bad = dir.write("bad.yaml", "upstreams: {g: {servers: [nonsense!]}}\n");
    let bad = bad.display().to_string();
    let missing = dir.path("missing.conf").display().to_string();
    let ca = dir.write("ca.pem", "no certificate").display().to_string();
    for (arguments, expected) in [
        (&["--config", &bad][..], "nonsense!"),
        (&["--resolv-conf", &missing], "missing.conf"),
        (
            &["--config", &bad, "--resolv-conf", &missing],
            "cannot be used with",
        ),
        (&["--tries", "0"], "a number from 1 to 100"),
        (&["--timeout", "1ms"], "a time from 10ms to 10m"),
        (&["--ca-file", &ca], "--https"),
        (
            &[
                "--set",
                "upstreams={\"g\":{\"servers\":[\"127.0.0.1\"]}}",
                "--https",
                "--ca-file",
                &ca,
            ],
            "--ca-file",
        ),
        (&["bad..name"], "bad..name"),
        (&["."], "the root has no addresses"),
        (&["--no-such-flag"], "--no-such-flag"),
    ] {
        let output = nodens()
            .arg("probe")
            .args(arguments)
            .output()
            .expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(expected), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_corefile_is_taken_as_configuration() {
    let server = StandIn::scripting_probes(good);
    let dir = TempDir::new();
    let corefile = dir.write(
        "Corefile",
        &format!(".:5353 {{\n  forward . {}\n}}\n", server.address),
    );
    let output = nodens()
        .args(["probe", "www.example.", "--json", "--config"])
        .arg(&corefile)
        .output();
    let said = Said::read(&output.expect("it runs"));
    said.expect(&[], 0);
    assert_eq!(said.server(0)["server"], server.address.to_string());
}

#[test]
fn resolv_conf_gives_servers_search_list_and_ndots() {
    let dir = TempDir::new();
    // Nobody listens there, which is told at once.
    let text = "nameserver 127.88.1.1\nsearch ci.test\noptions ndots:3\n";
    let file = dir.write("pod.conf", text);
    let output = nodens()
        .args(["probe", "db", "--json", "--resolv-conf"])
        .arg(&file)
        .output();
    let said = Said::read(&output.expect("it runs"));
    said.expect(&["refused", "group_down", "name_not_resolved"], 2);
    assert_eq!(said.json["groups"][0]["group"], "resolv.conf");
    assert_eq!(said.server(0)["server"], "127.88.1.1");
    assert_eq!(
        said.json["names"][0]["search"]["steps"][0]["name"],
        "db.ci.test."
    );
}

#[test]
#[ignore = "needs root, to bind port 53; .ci/run runs it"]
fn a_pod_without_nodens_waits_for_each_silent_server() {
    let silent = UdpSocket::bind("127.88.1.2:53").expect("port 53 needs root");
    let dir = TempDir::new();
    let text = "nameserver 127.88.1.2\nsearch a.test\noptions ndots:2 timeout:3\n";
    let file = dir.write("pod.conf", text);
    let arguments = [
        "probe",
        "db.x.",
        "--json",
        "--timeout",
        "200ms",
        "--resolv-conf",
    ];
    let output = nodens().args(arguments).arg(&file).output();
    let said = Said::read(&output.expect("it runs"));
    let search = &said.json["names"][0]["search"];
    assert_eq!(search["ms"], 3000.0, "{search}");
    drop(silent);
}

#[test]
fn it_ends_within_its_deadline_whatever_answers() {
    let sockets: Vec<_> = (0..8)
        .map(|_| UdpSocket::bind("127.0.0.1:0").expect("a free port"))
        .collect();
    let addresses: Vec<SocketAddr> = sockets
        .iter()
        .map(|socket| socket.local_addr().expect("bound"))
        .collect();
    let scene = Scene::of(&addresses);
    let started = Instant::now();
    let said = scene.probe(&[
        "a.example",
        "--search",
        "x.test",
        "--ndots",
        "9",
        "--timeout",
        "30s",
        "--deadline",
        "700ms",
    ]);
    let took = started.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    assert_eq!(said.json["complete"], false);
    assert_eq!(said.status, 2, "{}", said.json);
    assert!(said.kinds().contains("out_of_time"), "{:?}", said.kinds());
    let servers = said.json["groups"][0]["servers"]
        .as_array()
        .expect("a list");
    assert_eq!(servers.len(), 8, "a row for each server");
}

#[test]
#[ignore = "needs root and iproute2; .ci/run runs it"]
fn without_a_network_it_says_so_at_once_with_a_row_for_each_server() {
    assert_root();
    let namespace = Namespace::new("probe");
    namespace.ip("link set lo down");
    let scene = Scene::written(
        "upstreams: {g: {servers: [10.0.0.2, 10.0.0.3, \"tls://10.0.0.4#dot.example\"]}}\n",
    );
    let config = scene.config.display().to_string();
    let mut command = namespace.command(binary());
    command.args(["probe", "www.example.", "--json", "--config", &config]);
    let started = Instant::now();
    let said = Said::read(&command.output().expect("ip runs it"));
    let took = started.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    said.expect(&["no_network"], 2);
    let servers = said.json["groups"][0]["servers"]
        .as_array()
        .expect("a list");
    assert_eq!(servers.len(), 3);
    for server in servers {
        assert_eq!(server["transports"][0]["failure"], "no_route", "{server}");
    }
}

#[test]
#[ignore = "needs root and iproute2; .ci/run runs it"]
fn a_way_that_is_closed_is_told_from_silence() {
    assert_root();
    let namespace = Namespace::new("probe");
    namespace.ip("route add unreachable 10.0.0.2");
    namespace.ip("route add prohibit 10.0.0.3");
    let scene = Scene::written("upstreams: {g: {servers: [10.0.0.2, 10.0.0.3]}}\n");
    let config = scene.config.display().to_string();
    let mut command = namespace.command(binary());
    command.args(["probe", "--json", "--config", &config]);
    let said = Said::read(&command.output().expect("ip runs it"));
    said.expect(&["unreachable", "group_down"], 2);
    for (server, failure) in [(0, "unreachable"), (1, "not_permitted")] {
        let first = &said.server(server)["transports"][0];
        assert_eq!(first["failure"], failure, "{first}");
    }
}

/// The kinds of findings as the JSON has them, read from the type's own source.
fn kinds() -> BTreeSet<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/diagnosis/report.rs");
    let source = fs::read_to_string(path).expect("it is there");
    let (_, list) = source.split_once("pub enum Fault {\n").expect("the type");
    let list = list.lines().take_while(|line| *line != "}");
    let variants = list.filter_map(|line| line.trim().strip_suffix(','));
    let variants = variants.filter(|name| name.chars().all(char::is_alphanumeric));
    let snake_case = |name: &str| -> String {
        let mut text = String::new();
        for letter in name.chars() {
            if letter.is_uppercase() && !text.is_empty() {
                text.push('_');
            }
            text.push(letter.to_ascii_lowercase());
        }
        text
    };
    variants.map(snake_case).collect()
}

#[test]
fn every_kind_of_finding_is_documented_and_provoked_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/probe.md")).expect("it is there");
    let (_, findings) = page.split_once("## Findings").expect("a section");
    let (findings, _) = findings.split_once("\n## ").expect("another section");
    let rows = findings.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: BTreeSet<_> = rows.filter_map(|row| row.split_once('`')).collect();
    let documented: BTreeSet<_> = documented
        .into_iter()
        .map(|(kind, _)| kind.to_owned())
        .collect();
    assert_eq!(documented, kinds());
    let files = fs::read_dir(root.join("tests/probe")).expect("this folder");
    let files =
        files.map(|file| fs::read_to_string(file.expect("an entry").path()).expect("UTF-8"));
    let tests: String = files.collect();
    for kind in kinds() {
        assert!(
            tests.contains(&format!("\"{kind}\"")),
            "no test provokes {kind}"
        );
    }
}

/// Every key of objects in a value, however deep.
fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                found.insert(key.clone());
                keys(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| keys(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_of_the_json_is_documented() {
    let server = StandIn::scripting_probes(good);
    let gone = free_address();
    let https = format!("--https={}", gone.port());
    let arguments = ["www.example.", &https, "--timeout", "300ms"];
    let said = Scene::of(&[server.address, gone]).probe(&arguments);
    let mut found = BTreeSet::new();
    keys(&said.json, &mut found);
    assert!(found.len() > 60, "{found:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/probe.md");
    let page = fs::read_to_string(path).expect("it is there");
    let (_, fields) = page.split_once("## JSON").expect("a section");
    // The bits of a header have the names that everybody knows, and an offer's parts explain themselves.
    let own = [
        "referral",
        "recursion",
        "authoritative",
        "authenticated",
        "truncated",
        "octets_over_tcp",
        "offered",
        "octets",
    ];
    for key in found.iter().filter(|key| !own.contains(&key.as_str())) {
        let documented = [
            format!("`{key}`"),
            format!(".{key}`"),
            format!("`{key}[]"),
            format!(".{key}[]"),
        ];
        assert!(
            documented.iter().any(|form| fields.contains(form)),
            "no {key}"
        );
    }
}
