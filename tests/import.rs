//! What `nodens import` takes beside a file called Corefile: any name, standard input, and the ConfigMap as `kubectl get -o
//! yaml` or `-o json` prints it; and what the other commands say of such a file.

mod common;

use std::io::Write;
use std::process::{Output, Stdio};

use common::{TempDir, nodens};

const COREFILE: &str = ".:53 {\n    errors\n    forward . 10.0.0.2\n    cache 30\n}\n";

/// As `kubectl get configmap -o yaml` prints it.
const CONFIG_MAP: &str = "apiVersion: v1\ndata:\n  Corefile: |\n    .:53 {\n        errors\n        forward . 10.0.0.2\n        \
     cache 30\n    }\nkind: ConfigMap\nmetadata:\n  name: coredns\n  namespace: kube-system\n";

/// The same where a line of the Corefile ends with a space, which no block of YAML holds.
const QUOTED: &str = "apiVersion: v1\ndata:\n  Corefile: \".:53 {\\n    errors \\n    forward . 10.0.0.2\\n    cache\n    \\ \
     30\\n}\"\nkind: ConfigMap\nmetadata:\n  name: coredns\n";

/// Two objects, as `kubectl get configmap coredns coredns-custom -o yaml` prints them.
const LIST: &str = "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: ConfigMap\n  data:\n    Corefile: |\n      .:53 {\n\
     \x20       forward . 10.0.0.2\n        import custom/*.override\n      }\n      import /etc/coredns/custom/*.server\n\
     - apiVersion: v1\n  kind: ConfigMap\n  data:\n    log.override: |\n      cache 30\n    corp.server: |\n      corp.example:53 {\n\
     \x20         forward . 10.0.0.9\n      }\n";

/// Translates standard input to values of the chart.
const TO_VALUES: [&str; 5] = [
    "import",
    "-",
    "--cluster-dns",
    "10.96.0.10",
    "--helm-values",
];

fn run(directory: &TempDir, arguments: &[&str], input: Option<&str>) -> Output {
    let mut command = nodens();
    command.current_dir(directory.path("")).args(arguments);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("nodens runs");
    let mut stdin = child.stdin.take().expect("standard input");
    // Whoever refuses its arguments reads nothing.
    let _ = stdin.write_all(input.unwrap_or_default().as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

/// Standard output and standard error of what succeeds.
fn imported(directory: &TempDir, arguments: &[&str], input: Option<&str>) -> (String, String) {
    let output = run(directory, arguments, input);
    let said = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{arguments:?}: {said}");
    (String::from_utf8(output.stdout).expect("UTF-8"), said)
}

/// Without the places, which differ.
fn values(yaml: &str) -> Vec<&str> {
    yaml.lines()
        .map(|line| line.split("  # ").next().unwrap_or(line))
        .collect()
}

#[test]
fn a_corefile_may_have_any_name_and_come_by_standard_input() {
    let directory = TempDir::new();
    directory.write("Corefile", COREFILE);
    directory.write("coredns.conf", COREFILE);
    let (expected, _) = imported(&directory, &["import", "Corefile"], None);
    let (named, _) = imported(&directory, &["import", "coredns.conf"], None);
    assert_eq!(values(&named), values(&expected));
    let (piped, said) = imported(&directory, &["import", "-"], Some(COREFILE));
    assert_eq!(values(&piped), values(&expected));
    assert!(said.contains("stdin:4: cache 30: differs"), "{said}");
    let none = run(&directory, &["import", "-"], Some(""));
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(said.starts_with("stdin: is empty"), "{said}");
}

#[test]
fn a_config_map_is_read_as_the_corefile_that_it_holds() {
    let directory = TempDir::new();
    directory.write("Corefile", COREFILE);
    let (expected, _) = imported(&directory, &["import", "Corefile"], None);
    for (name, text, place) in [
        ("coredns.yaml", CONFIG_MAP, "coredns.yaml:7: cache 30"),
        ("Corefile.yaml", CONFIG_MAP, "Corefile.yaml:7: cache 30"),
        ("quoted.yaml", QUOTED, "quoted.yaml(Corefile):4: cache 30"),
    ] {
        directory.write(name, text);
        let (yaml, said) = imported(&directory, &["import", name], None);
        assert_eq!(values(&yaml), values(&expected), "{name}");
        assert!(said.contains(place), "{name}: {place}\n{said}");
    }
    let json = serde_json::json!({"kind": "ConfigMap", "data": {"Corefile": COREFILE}});
    let (yaml, _) = imported(&directory, &["import", "-"], Some(&json.to_string()));
    assert_eq!(values(&yaml), values(&expected));
    // A file called Corefile is served and checked as well.
    let checked = run(&directory, &["check", "--config", "Corefile.yaml"], None);
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn a_mistake_in_a_config_map_has_its_place_there() {
    let directory = TempDir::new();
    directory.write("cm.yaml", &CONFIG_MAP.replace("cache", "cash"));
    let output = run(&directory, &["import", "cm.yaml"], None);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.starts_with("cm.yaml:7:9: cash: there is no such plugin; did you mean cache?"),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn what_another_config_map_holds_is_imported() {
    let directory = TempDir::new();
    let (yaml, said) = imported(&directory, &["import", "-"], Some(LIST));
    assert!(
        yaml.contains("corp.example: {cache: off, group: corp.example}"),
        "{yaml}"
    );
    assert!(
        yaml.contains("\".\": {cache: {max_negative_ttl: 30s"),
        "{yaml}"
    );
    assert!(
        said.contains("stdin(log.override):1: cache 30: differs"),
        "{said}"
    );
}

/// As k3s has it.
#[test]
fn a_file_of_hosts_is_read_from_its_config_map() {
    let directory = TempDir::new();
    let corefile =
        ".:53 {\n hosts /etc/nodens-test/NodeHosts {\n fallthrough\n }\n forward . 10.0.0.2\n}\n";
    let map = |data: serde_json::Value| {
        serde_json::json!({"kind": "ConfigMap", "data": data}).to_string()
    };
    let hosts = "# nodes\n10.0.0.5 node-1 node-1.example # the first\nfd00::5 node-1\nnonsense node-2\n10.0.0.6 *.example\n";
    let held = map(serde_json::json!({"Corefile": corefile, "NodeHosts": hosts}));
    let (yaml, said) = imported(&directory, &["import", "-"], Some(&held));
    let records =
        "records:\n  node-1: {A: [10.0.0.5], AAAA: [fd00::5]}\n  node-1.example: {A: [10.0.0.5]}\n";
    let plain = values(&yaml).join("\n");
    assert!(plain.contains(records), "{yaml}");
    assert!(!plain.contains("hosts:"), "{yaml}");
    let expected =
        "hosts /etc/nodens-test/NodeHosts: differs: records: the names that the ConfigMap has now";
    assert!(said.contains(expected), "{said}");
    let alone = map(serde_json::json!({"Corefile": corefile}));
    let (yaml, said) = imported(&directory, &["import", "-", "--helm-values"], Some(&alone));
    assert!(yaml.contains("hosts: /etc/nodens-test/NodeHosts"), "{yaml}");
    let expected =
        "it must be there where nodens runs: mount it by extraVolumes and extraVolumeMounts";
    assert!(said.contains(expected), "{said}");
}

#[test]
fn a_config_map_without_a_corefile_says_what_it_holds() {
    let directory = TempDir::new();
    let other = "kind: ConfigMap\ndata:\n  nodens.yaml: |\n    listen: 127.0.0.1:53\n";
    directory.write("cm.yaml", other);
    for command in [
        &["import", "cm.yaml"][..],
        &["check", "--config", "cm.yaml"],
    ] {
        let output = run(&directory, command, None);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains("nodens.yaml"), "{said}");
    }
}

#[test]
fn check_says_what_a_file_is_that_is_no_configuration() {
    let cases = [
        (
            "cm.yaml",
            CONFIG_MAP,
            "is a Kubernetes ConfigMap that holds a Corefile; `nodens import cm.yaml` reads it",
        ),
        (
            "coredns.conf",
            COREFILE,
            "looks like a Corefile; its name must hold the word Corefile, or `nodens import coredns.conf` reads it",
        ),
        (
            "resolv.conf",
            "# by hand\nnameserver 10.0.0.2\n",
            "looks like a resolv.conf; name it in `upstreams: {NAME: {servers: [/etc/resolv.conf]}}`",
        ),
        (
            "hosts",
            "127.0.0.1 localhost\n::1 ip6-localhost\n",
            "looks like a hosts file; name it in `hosts:`",
        ),
        (
            "dnsmasq.conf",
            "no-resolv\nserver=10.0.0.2\nserver=/corp/10.0.0.3\n",
            "looks like a configuration of dnsmasq",
        ),
        (
            "unbound.conf",
            "server:\n  interface: 0.0.0.0\nforward-zone:\n  name: \".\"\n  forward-addr: 10.0.0.2\n",
            "looks like a configuration of Unbound",
        ),
        (
            "named.conf",
            "options {\n  forwarders { 10.0.0.2; };\n};\n",
            "looks like a configuration of BIND",
        ),
    ];
    let directory = TempDir::new();
    for (name, text, expected) in cases {
        directory.write(name, text);
        let output = run(&directory, &["check", "--config", name], None);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{name}");
        assert!(
            said.starts_with(&format!("{name}: {expected}")),
            "{name}: {expected}\n{said}"
        );
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn what_cannot_be_written_is_an_error() {
    let directory = TempDir::new();
    directory.write("Corefile", COREFILE);
    for arguments in [&["check"][..], &["import", "Corefile"], &["schema"]] {
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .expect("/dev/full");
        let output = nodens()
            .current_dir(directory.path(""))
            .args(arguments)
            .stdout(full)
            .output()
            .expect("nodens runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(
            said.contains("No space left on device"),
            "{arguments:?}: {said}"
        );
    }
}

#[test]
fn values_of_the_chart_leave_out_what_the_chart_sets() {
    let directory = TempDir::new();
    let corefile = ".:53 {\n    health\n    prometheus :9153\n    kubernetes cluster.local\n    forward . 10.0.0.2\n    cache 30\n}\n";
    let (values, _) = imported(&directory, &TO_VALUES, Some(corefile));
    let expected = "\
clusterDNS: 10.96.0.10
config:
  upstreams:
    vpc: null
    default: {servers: [10.0.0.2]}
  routes:
    \".\": {cache: {max_ttl: 30s}, group: default, max_negative_ttl: 30s}
    cluster.local: {cache: {max_ttl: 30s}, group: cluster, max_negative_ttl: 30s}
  cache: {rotate: false}";
    assert_eq!(self::values(&values).join("\n"), expected);
    // The rest of the names is the chart's, and it has a route of its own for the cluster's.
    let part = "cluster.local corp.example {\n    template ANY ANY cluster.local {\n        rcode NXDOMAIN\n    }\n    forward . 10.0.0.2\n}\n";
    let (values, _) = imported(&directory, &TO_VALUES, Some(part));
    assert!(!values.contains("vpc"), "{values}");
    let expected = "cluster.local: {answer: NXDOMAIN, group: null, max_negative_ttl: null}";
    assert!(values.contains(expected), "{values}");
    // Who may ask is the chart's, unless the Corefile says so.
    let acl = corefile.replace(
        "    cache 30\n",
        "    acl {\n allow net 10.0.0.0/8\n block\n }\n",
    );
    let (values, _) = imported(&directory, &TO_VALUES, Some(&acl));
    let expected = "clusterDNS: 10.96.0.10\nallow: [10.0.0.0/8]\nconfig:\n";
    assert!(values.starts_with(expected), "{values}");
}

/// A Corefile, what its values hold, and what they do not.
const TO_KUBE_DNS: [(&str, &[&str], &[&str]); 8] = [
    (
        include_str!("corefile/cases/node-local.Corefile"),
        &[
            "  upstreams:\n    vpc: null\n    default: {servers: [/etc/resolv.conf]}\n  routes:\n",
            "    in-addr.arpa: {cache: {max_ttl: 30s}, group: cluster, max_negative_ttl: 30s}\n",
            "config:\n  # kube-dns is asked over UDP, not over TCP as by force_tcp: its servers are the chart's\n",
        ],
        &["tcp://", "[10.96.0.10", "group: cluster.local"],
    ),
    (
        "corp.example {\n forward . 10.96.0.10:53 {\n max_concurrent 500\n }\n}\n",
        &[
            "    cluster: {max_in_flight: 500}\n",
            "    corp.example: {cache: off, group: cluster}\n",
        ],
        &["servers"],
    ),
    (
        ". {\n kubernetes cluster.local\n forward corp.example dns://10.96.0.10 {\n policy sequential\n health_check 1s domain \
         corp.example\n }\n forward . 10.0.0.2\n}\n",
        &[
            "    cluster: {failover: {probe_min: 1s}, policy: ordered, probe: \"corp.example NS\"}\n",
            "    corp.example: {cache: off, group: cluster}\n",
            "    cluster.local: {cache: off, group: cluster}\n",
        ],
        &["[10.96.0.10"],
    ),
    (
        "a.example {\n forward . 10.96.0.10 {\n max_concurrent 500\n }\n}\nb.example {\n forward . 10.96.0.10 {\n max_concurrent \
         600\n }\n}\n",
        &[
            "  # upstreams.\"b.example\".max_in_flight is not that of cluster, so this group asks kube-dns by itself.",
            "    b.example: {max_in_flight: 600, servers: [10.96.0.10]}\n    cluster: {max_in_flight: 500}\n",
            "    a.example: {cache: off, group: cluster}\n",
            "    b.example: {cache: off, group: b.example}\n",
        ],
        &["vpc"],
    ),
    (
        "cluster {\n forward . 10.0.0.9\n}\n. {\n kubernetes cluster.local\n forward . 10.0.0.2\n}\n",
        &[
            "    cluster-3: {servers: [10.0.0.9]}\n",
            "    cluster: {cache: off, group: cluster-3}\n",
            "    cluster.local: {cache: off, group: cluster}\n",
        ],
        &["[10.96.0.10", "cluster-2"],
    ),
    (
        ". {\n forward . 10.96.0.10\n}\n",
        &["  upstreams:\n    vpc: null\n  routes:\n    \".\": {cache: off, group: cluster}\n"],
        &["servers"],
    ),
    (
        "corp.example {\n forward . 10.96.0.10\n}\n",
        &["config:\n  routes:\n    corp.example: {cache: off, group: cluster}\n"],
        &["upstreams"],
    ),
    (
        ". {\n forward . dns.corp.example {\n resolver 10.96.0.10\n }\n}\n",
        &["    default: {servers: [\"dns.corp.example@cluster\"]}\n"],
        &["resolver"],
    ),
];

/// The chart asks kube-dns by another address in mode nodeLocal, where kube-dns's own is nodens's.
#[test]
fn values_of_the_chart_leave_the_address_of_kube_dns_to_the_chart() {
    let directory = TempDir::new();
    for (corefile, written, not_written) in TO_KUBE_DNS {
        let (yaml, _) = imported(&directory, &TO_VALUES, Some(corefile));
        // Comments of their own line stay.
        let lines = yaml.lines().map(|line| match line.find("  # stdin:") {
            Some(end) => &line[..end],
            None => line.trim_end_matches("  # the chart's own"),
        });
        let yaml: String = lines.flat_map(|line| [line, "\n"]).collect();
        for written in written {
            assert!(yaml.contains(written), "{written}\n{yaml}");
        }
        for not_written in not_written {
            assert!(!yaml.contains(not_written), "{not_written}\n{yaml}");
        }
    }
}

/// As NodeLocal DNSCache's installation leaves it, with kube-proxy in iptables mode.
#[test]
fn the_address_of_kube_dns_is_asked_and_not_listened_at() {
    let directory = TempDir::new();
    let corefile = "cluster.local:53 {\n    bind 169.254.20.10 10.96.0.10\n    forward . __PILLAR__CLUSTER__DNS__\n}\n";
    let arguments = ["import", "-", "--cluster-dns", "10.96.0.10"];
    let (yaml, said) = imported(&directory, &arguments, Some(corefile));
    assert!(yaml.contains("listen: [169.254.20.10:53]"), "{yaml}");
    assert!(yaml.contains("servers: [10.96.0.10]"), "{yaml}");
    assert!(
        said.contains("the address of kube-dns is not bound"),
        "{said}"
    );
}
