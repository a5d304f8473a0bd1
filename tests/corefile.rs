//! Corefiles as people have them: what `nodens import` makes of them, that every line hears what became of it, and that
//! `nodens serve` runs them as they are.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;

use common::dns::{Ask, Message, Over, Section, exchange, rcode, rr};
use common::{Process, TempDir, free_sockets, nodens, wait_for};

/// Where the Corefiles are, each with the configuration that it becomes.
fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corefile/cases")
}

fn import(directory: &Path, file: &str, cluster_dns: Option<&str>) -> Output {
    let mut command = nodens();
    command.current_dir(directory).args(["import", file]);
    command.args(
        cluster_dns
            .into_iter()
            .flat_map(|address| ["--cluster-dns", address]),
    );
    command.output().expect("nodens runs")
}

/// What it wrote, which is text.
fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Name and address of kube-dns for each case.
fn each_case(mut check: impl FnMut(&str, &Output)) {
    let mut seen = 0;
    for entry in fs::read_dir(cases()).expect("the cases") {
        let file = entry.expect("an entry").file_name();
        let file = file.to_str().expect("UTF-8");
        if let Some(name) = file.strip_suffix(".Corefile") {
            let cluster_dns = if name == "ipv6" {
                "fd00:10:96::a"
            } else {
                "10.96.0.10"
            };
            let output = import(&cases(), file, Some(cluster_dns));
            assert!(output.status.success(), "{name}: {}", text(&output.stderr));
            check(name, &output);
            seen += 1;
        }
    }
    assert!(seen > 6, "{seen} cases");
}

#[test]
fn each_becomes_the_configuration_beside_it() {
    // A host without IPv6 does not listen at [::].
    let without_any = |yaml: &str| {
        let ports = [53, 5353, 8080, 8181, 9153, 9253];
        let any = |port| format!(", \"[::]:{port}\"");
        ports
            .iter()
            .fold(yaml.to_owned(), |yaml, port| yaml.replace(&any(port), ""))
    };
    each_case(|name, output| {
        let expected = cases().join(format!("{name}.yaml"));
        let expected = fs::read_to_string(&expected).expect("the configuration");
        assert_eq!(
            without_any(&text(&output.stdout)),
            without_any(&expected),
            "{name}"
        );
    });
}

/// Lines that are part of what the line above them says.
const PARTS: [&str; 9] = [
    "}", "(", "#", "import", "class", "answer", "rcode", "allow", "block",
];

#[test]
fn every_line_hears_what_became_of_it() {
    each_case(|name, output| {
        let file = format!("{name}.Corefile");
        let said = text(&output.stderr);
        let told: BTreeSet<usize> = said
            .lines()
            .filter_map(|line| {
                line.strip_prefix(&file)?
                    .strip_prefix(':')?
                    .split(':')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        let corefile = fs::read_to_string(cases().join(&file)).expect("the Corefile");
        for (number, line) in corefile.lines().enumerate() {
            let indented = line.starts_with([' ', '\t']);
            let line = line.trim();
            let first = line.split_whitespace().next().unwrap_or("}");
            let part = PARTS.iter().any(|part| first.starts_with(part))
                || first.parse::<std::net::IpAddr>().is_ok();
            if indented && !part {
                assert!(
                    told.contains(&(number + 1)),
                    "{file}:{}: {line}: nothing is said of it\n{said}",
                    number + 1
                );
            }
        }
    });
}

/// Of each the start, in the order of the lines, and no more than these.
fn complaints(corefile: &str, cluster_dns: Option<&str>) -> Vec<String> {
    let directory = TempDir::new();
    directory.write("Corefile", corefile);
    let output = import(&directory.path(""), "Corefile", cluster_dns);
    assert_eq!(output.status.code(), Some(2), "{}", text(&output.stdout));
    assert!(output.stdout.is_empty(), "nothing is written");
    text(&output.stderr).lines().map(str::to_owned).collect()
}

#[test]
fn all_mistakes_are_told_at_once_with_line_and_column() {
    let said = complaints(
        ".:53 {\n    foward . 8.8.8.8\n    forward . 10.0.0.300 {\n        polcy random\n        next NXDOMAIN\n    }\n    \
         file db.example\n    log {$UNSET}\n    \"open\n",
        None,
    );
    let expected = [
        "Corefile:1:6: the block that starts here is never closed; expected }",
        "Corefile:2:5: foward: there is no such plugin; did you mean forward?",
        "Corefile:3:15: \"10.0.0.300\" where a server such as 10.0.0.2",
        "Corefile:4:9: forward polcy: there is no such option",
        "Corefile:5:14: next NXDOMAIN has no counterpart, and without it clients would get other answers; ",
        "Corefile:7:5: the plugin file has no counterpart, and without it clients would get other answers; ",
        "Corefile:8:9: {$UNSET}: there is no such environment variable; ",
        "Corefile:9:5: the quote that starts here is never closed; expected \"",
    ];
    for expected in expected {
        assert!(
            said.iter().any(|line| line.starts_with(expected)),
            "no {expected}\n{said:#?}"
        );
    }
}

#[test]
fn what_would_change_answers_is_refused() {
    let cases = [
        (
            "tls://.:853 {\n forward . 10.0.0.2\n}\n",
            "Corefile:1:1: a listener for tls:// has no counterpart",
        ),
        (
            ". {\n forward . tls://9.9.9.9\n}\n",
            "Corefile:2:12: tls://9.9.9.9 without tls_servername has no counterpart",
        ),
        (
            ". {\n rewrite name regex (.*)x y\n forward . 10.0.0.2\n}\n",
            "Corefile:2:2: rewrite name regex (.*)x y has no counterpart",
        ),
        (
            ". {\n hosts {\n 10.0.0.7 a.example\n }\n forward . 10.0.0.2\n}\n",
            "Corefile:2:2: hosts without fallthrough",
        ),
        (
            ". {\n template IN A x {\n match ^a\n answer \"{{ .Name }} 1 IN A 10.0.0.1\"\n }\n forward . 10.0.0.2\n}\n",
            "Corefile:3:2: template match ^a has no counterpart",
        ),
        (
            ".:53 {\n forward . 10.0.0.2\n}\n.:5353 {\n forward . 10.0.0.3\n}\n",
            "Corefile:5:2: the zone . is here twice, first on line 2",
        ),
        (
            "hosts {\n 10.0.0.1 a.example\n fallthrough\n}\n",
            "Corefile:1:1: hosts is a plugin, not a zone; put it into a server block such as .:53 { … }",
        ),
        (
            ". {\n fanout . 10.0.0.2\n}\n",
            "Corefile:2:2: fanout: there is no such plugin in CoreDNS itself; if it is an external one, leave the CoreDNS",
        ),
        (
            ".:53{\n forward . 10.0.0.2{\n policy random\n }\n}\n",
            "Corefile:2:12: 10.0.0.2{: write a space in front of the brace",
        ),
        (
            ". {\n kubernetes cluster.local\n}\n",
            "Corefile:2:2: where is kube-dns? Say it by --cluster-dns ADDRESS",
        ),
        (
            ". {\n import nothing\n}\n",
            "Corefile:2:9: nothing: there is no such snippet, and no such file: ",
        ),
        (
            "(a) {\n import b\n}\n(b) {\n import a\n}\n. {\n import a\n}\n",
            "Corefile:5:2: import a: imports each other more than 16 deep",
        ),
        (
            ". {\n forward . __PILLAR__CLUSTER__DNS__\n}\n",
            "Corefile:2:12: where is kube-dns? Say it by --cluster-dns ADDRESS",
        ),
        ("", "Corefile: is empty"),
    ];
    for (corefile, expected) in cases {
        let said = complaints(corefile, None);
        assert!(
            said.iter().any(|line| line.starts_with(expected)),
            "no {expected}\n{said:#?}"
        );
    }
}

#[test]
fn a_line_that_the_configuration_refuses_is_named() {
    let cases = [
        (
            ". {\n forward . 10.0.0.2 {\n max_concurrent 9000000\n }\n}\n",
            "Corefile:3: upstreams.default.max_in_flight: 9000000 is over the limit",
        ),
        (
            ". {\n forward . fe80::1%eth0\n}\n",
            "Corefile:2: upstreams.default.servers[0]: fe80::1%eth0: an interface is written by its index here",
        ),
        (
            ". {\n forward . [fe80::1%eth0]:53\n}\n",
            "Corefile:2: upstreams.default.servers[0]: [fe80::1%eth0]:53: an interface is written by its index here",
        ),
    ];
    for (corefile, expected) in cases {
        let said = complaints(corefile, None);
        assert!(
            said.iter().any(|line| line.starts_with(expected)),
            "no {expected}\n{said:#?}"
        );
    }
}

/// What an import writes and says of a Corefile that is understood.
fn imported(corefile: &str) -> (String, String) {
    let directory = TempDir::new();
    directory.write("Corefile", corefile);
    directory.write("NodeHosts", "10.0.0.1 node-1\n");
    let output = import(&directory.path(""), "Corefile", Some("10.96.0.10"));
    let said = text(&output.stderr);
    assert!(output.status.success(), "{corefile}\n{said}");
    (text(&output.stdout), said)
}

/// What it is about, a Corefile, what is written, what is said, and what is not written.
const MEANINGS: [(&str, &str, &str, &str, &str); 44] = [
    (
        "a byte order mark is no part of the first zone",
        "\u{feff}.:53 {\n forward . 10.0.0.2\n}\n",
        "\".\": {cache: off, group: default}",
        "",
        "\u{feff}",
    ),
    (
        "a group is named within what a group's name may be",
        "fd00:10:96::/112 {\n forward . 10.96.0.11\n}\n",
        "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.1.0.0.0.0.d.f.ip6.arpa: {cache: off, group: ",
        "",
        "answer",
    ),
    (
        "an asterisk in hosts stands for nothing",
        ". {\n hosts {\n 10.0.0.1 *.dev.example a.example\n fallthrough\n }\n forward . 10.0.0.2\n}\n",
        "  a.example: {A: [10.0.0.1]}",
        "Corefile:3: 10.0.0.1 *.dev.example a.example: no counterpart: *.dev.example",
        "*",
    ),
    (
        "a template for a type comes before all that forwards",
        ". {\n template IN AAAA . {\n rcode NOERROR\n }\n kubernetes cluster.local\n forward corp.example 10.0.0.9\n \
             forward . 10.0.0.2\n}\n",
        "  cluster.local: {cache: off, filter: [AAAA], group: cluster}",
        "Corefile:2: template IN AAAA .: taken",
        "corp.example: {cache: off, group",
    ),
    (
        "a second forward for the same names is not asked",
        ". {\n forward . 10.0.0.2\n forward . 10.0.0.3\n}\n",
        "  default: {servers: [10.0.0.2]}",
        "Corefile:3: forward . 10.0.0.3: no counterpart: ",
        "10.0.0.3",
    ),
    (
        "cache for some zones alone",
        ". {\n cache 30 example.org\n forward . 10.0.0.2\n}\n",
        "  example.org: {cache: {max_negative_ttl: 30s, max_ttl: 30s}, group: default}",
        "Corefile:2: cache 30 example.org: differs",
        "\".\": {cache: {",
    ),
    (
        "cache off for a part of a zone",
        ". {\n cache 30 {\n disable success ci.example\n disable denial ci.example\n }\n forward . 10.0.0.2\n}\n",
        "  ci.example: {cache: off, group: default}",
        "",
        "\".\": {cache: off",
    ),
    (
        "weights are not counted",
        ". {\n loadbalance weighted weights.txt {\n reload 10s\n }\n forward . 10.0.0.2\n}\n",
        "rotate: true",
        "Corefile:2: loadbalance weighted weights.txt: differs: ",
        "weights",
    ),
    (
        "a rewrite in braces",
        ". {\n rewrite stop {\n name suffix .dev.example .dev.svc.cluster.local\n answer auto\n }\n \
             kubernetes cluster.local\n forward . 10.0.0.2\n}\n",
        "rewrite: {from: dev.example, to: dev.svc.cluster.local}",
        "Corefile:3: rewrite name suffix .dev.example .dev.svc.cluster.local: differs",
        "refused",
    ),
    (
        "HTTPS, with the name of the certificate",
        ". {\n forward . https://9.9.9.9 {\n tls_servername dns.quad9.net\n doh_method GET\n max_age 5m\n \
             read_timeout 3s\n source_address 10.0.0.7\n }\n}\n",
        "streams: {max_age: 300s}",
        "Corefile:4: doh_method GET: differs",
        "tls:",
    ),
    (
        "the parts of a line are told too",
        ". {\n errors {\n consolidate 5m \".* i/o timeout$\" warning\n }\n forward . 10.0.0.2\n}\n",
        "default",
        "Corefile:3: consolidate 5m .* i/o timeout$ warning: ",
        "consolidate",
    ),
    (
        "AKS: a template that denies what search lists make",
        ". {\n template ANY ANY internal.cloudapp.net {\n match \"^(?:[^.]+\\.){4,}internal\\.cloudapp\\.net\\.$\"\n rcode \
             NXDOMAIN\n fallthrough\n }\n forward . 10.0.0.2\n}\n",
        "\".\": {cache: off, group: default}",
        "Corefile:2: template ANY ANY internal.cloudapp.net: differs: these names are forwarded, and the servers deny them",
        "internal",
    ),
    (
        "a template for all names below one",
        ". {\n template IN A ocp.example {\n match .*\\.apps\\.ocp\\.example\n answer \"{{ .Name }} 60 {{ .Class }} {{ \
             .Type }} 10.1.40.20\"\n fallthrough\n }\n forward . 10.0.0.2\n}\n",
        "  \"*.apps.ocp.example\": {A: [10.1.40.20]}",
        "Corefile:2: template IN A ocp.example: differs: ",
        "answer",
    ),
    (
        "a template for a name and all below it",
        ". {\n template IN ANY . {\n match \"^(.*[.])?dev[.]example[.]$\"\n rcode NXDOMAIN\n fallthrough\n }\n forward . \
             10.0.0.2\n}\n",
        "  dev.example: {answer: NXDOMAIN}",
        "Corefile:2: template IN ANY .: taken: ",
        "*",
    ),
    (
        "a type denied by NXDOMAIN denies no other type",
        ". {\n template IN AAAA . {\n rcode NXDOMAIN\n }\n forward . 10.0.0.2\n}\n",
        "filter: [AAAA]",
        "Corefile:2: template IN AAAA .: differs: filter on the route: no such record; there NXDOMAIN",
        "NXDOMAIN",
    ),
    (
        "a template's alias",
        ". {\n template IN A svc.example {\n answer \"{{ .Name }} 60 IN CNAME gate.example.net.\"\n }\n forward . \
             10.0.0.2\n}\n",
        "  \"*.svc.example\": {CNAME: gate.example.net}",
        "Corefile:2: template IN A svc.example: differs: ",
        "answer",
    ),
    (
        "a template that writes its zone out",
        ". {\n template ANY A gate.example {\n answer \"gate.example. 60 IN A 10.0.0.9\"\n }\n forward . 10.0.0.2\n}\n",
        "  gate.example: {A: [10.0.0.9]}",
        "Corefile:2: template ANY A gate.example: differs: ",
        "*",
    ),
    (
        "AKS: a pattern that changes a suffix",
        "aks.example:53 {\n rewrite stop {\n name regex (.*)\\.aks\\.example {1}.default.svc.cluster.local\n answer name \
             (.*)\\.default\\.svc\\.cluster\\.local {1}.aks.example\n }\n forward . 10.0.0.2\n}\n",
        "rewrite: {from: aks.example, to: default.svc.cluster.local}",
        "Corefile:3: rewrite name regex (.*)\\.aks\\.example {1}.default.svc.cluster.local: differs: ",
        "answer",
    ),
    (
        "a pattern that sends all names below one to a Service",
        ". {\n rewrite name regex (.*)\\.local\\.example gate.istio-system.svc.cluster.local\n kubernetes cluster.local\n \
             forward . 10.0.0.2\n}\n",
        "  \"*.local.example\": {CNAME: gate.istio-system.svc.cluster.local}",
        "Corefile:2: rewrite name regex (.*)\\.local\\.example gate.istio-system.svc.cluster.local: differs: ",
        "rewrite",
    ),
    (
        "a suffix that the block's forward is asked for, though it is of no zone of the block",
        "svc.example {\n rewrite name suffix .svc.example. .default.svc.cluster.local. answer auto\n forward . \
             10.96.0.10\n}\n. {\n forward . 10.0.0.2\n}\n",
        "  svc.example: {cache: off, group: svc.example, rewrite: {from: svc.example, to: default.svc.cluster.local}}",
        "Corefile:2: rewrite name suffix",
        "answer",
    ),
    (
        "hosts that hold their block's zones alone",
        "registry.localhost:53 {\n hosts {\n 10.0.0.9 registry.localhost\n }\n}\n. {\n forward . 10.0.0.2\n}\n",
        "  registry.localhost: {answer: NXDOMAIN}",
        "Corefile:2: hosts: taken: records and hosts; other names of these zones do not exist",
        "REFUSED",
    ),
    (
        "a file of hosts for some zones",
        ". {\n hosts NodeHosts example.local {\n fallthrough\n }\n forward . 10.0.0.2\n}\n",
        "hosts: NodeHosts",
        "Corefile:2: hosts NodeHosts example.local: differs: records and hosts; other names are forwarded; names of the file \
             are answered in all zones",
        "answer",
    ),
    (
        "a block with a port of its own",
        "example.org:1053 {\n forward . 10.0.0.3\n}\n.:53 {\n forward . 10.0.0.2\n}\n",
        ":1053",
        "Corefile:1: example.org:1053: differs: its zones are answered at all addresses of listen, there at its own alone",
        "answer",
    ),
    (
        "a host name as a server",
        ". {\n forward . dns.corp.example tls://dns.example:8853 10.0.0.2 {\n resolver 10.0.0.7 10.0.0.8:5353\n }\n}\n",
        "  default: {policy: round_robin, servers: [\"dns.corp.example@resolver\", \"tls://dns.example:8853@resolver\", 10.0.0.2]}",
        "Corefile:3: resolver 10.0.0.7 10.0.0.8:5353: differs: ",
        "answer",
    ),
    (
        "a host name as a server, and who resolves it is left to the system",
        ". {\n forward . dns.corp.example:5353 {\n force_tcp\n }\n}\n",
        "  resolver: {servers: [/etc/resolv.conf]}",
        "Corefile:2: forward . dns.corp.example:5353: ",
        "answer",
    ),
    (
        "files that are not there yet",
        ". {\n import custom/*.override\n forward . 10.0.0.2\n}\nimport custom/*.server\n",
        "group: default",
        "Corefile:2: import custom/*.override: differs: there is no such file here, so nothing is imported",
        "answer",
    ),
    (
        "files that are not there yet, at the top",
        ". {\n forward . 10.0.0.2\n}\nimport custom/*.server\n",
        "group: default",
        "Corefile:4: import custom/*.server: differs: there is no such file here, so nothing is imported",
        "answer",
    ),
    (
        "a file that is where it will run, and not here",
        ". {\n hosts /etc/coredns/NodeHosts {\n fallthrough\n }\n forward . /run/nowhere/resolv.conf\n}\n",
        "hosts: /etc/coredns/NodeHosts",
        "Corefile:2: hosts: /etc/coredns/NodeHosts: cannot be read",
        "answer",
    ),
    (
        "a template for all names is for those of its block",
        "cluster.local {\n template ANY HINFO . {\n rcode NXDOMAIN\n }\n forward . 10.96.0.11\n}\n. {\n forward . 10.0.0.2\n}\n",
        "  cluster.local: {cache: off, filter: [HINFO], group: cluster.local}",
        "Corefile:2: template ANY HINFO .: differs: ",
        "default, filter",
    ),
    (
        "a template for all names of a block without forward",
        "old.example {\n template ANY ANY . {\n rcode NXDOMAIN\n }\n}\n. {\n forward . 10.0.0.2\n}\n",
        "  old.example: {answer: NXDOMAIN}",
        "Corefile:2: template ANY ANY .: taken: ",
        "\".\": {answer",
    ),
    (
        "a template for each family",
        ". {\n template IN A lvh.example {\n answer \"{{ .Name }} 60 IN A 127.0.0.1\"\n }\n template IN AAAA lvh.example {\n answer \
             \"{{ .Name }} 60 IN AAAA ::1\"\n }\n forward . 10.0.0.2\n}\n",
        "  lvh.example: {answer: [127.0.0.1, \"::1\"]}",
        "Corefile:5: template IN AAAA lvh.example: differs: ",
        "filter",
    ),
    (
        "a TTL with a unit is a zone",
        ". {\n cache 30s\n forward . 10.0.0.2\n}\n",
        "\".\": {cache: off, group: default}",
        "; 30s is taken as a zone, there too: a TTL has no unit",
        "answer",
    ),
    (
        "zones that nobody may ask for",
        ". {\n acl ads.example {\n block\n }\n forward . 10.0.0.2\n}\n",
        "  ads.example: {answer: REFUSED}",
        "Corefile:2: acl ads.example: taken: ",
        "allow: [",
    ),
    (
        "zones that are empty for everybody",
        ". {\n acl ads.example b.example {\n filter\n }\n forward . 10.0.0.2\n}\n",
        "  b.example: {answer: NODATA}",
        "Corefile:2: acl ads.example b.example: taken: ",
        "allow: [",
    ),
    (
        "a file of hosts for all zones of its block",
        ". {\n hosts NodeHosts . {\n fallthrough .\n }\n forward . 10.0.0.2\n}\n",
        "hosts: NodeHosts",
        "Corefile:2: hosts NodeHosts .: taken: ",
        "answer",
    ),
    (
        "blocks at loopback for certificates of several names",
        ". {\n forward . 127.0.0.1:5301 127.0.0.1:5302 10.0.0.2\n}\n.:5301 {\n forward . tls://8.8.8.8 {\n tls_servername dns.google\n \
             }\n}\n.:5302 {\n forward . tls://1.1.1.1 {\n tls_servername one.one.one.one\n }\n}\n",
        "servers: [\"tls://8.8.8.8#dns.google\", \"tls://1.1.1.1#one.one.one.one\", 10.0.0.2]",
        "Corefile:5: forward . tls://8.8.8.8: differs: its servers are asked by the block that forwards to it",
        "5301",
    ),
    (
        "hosts alone",
        ". {\n hosts NodeHosts\n}\n",
        "  \".\": {answer: NXDOMAIN}",
        "Corefile:2: hosts NodeHosts: taken: ",
        "REFUSED",
    ),
    (
        "loopback by its interface",
        ". {\n bind lo\n forward . 10.0.0.2\n}\n",
        "listen: [127.0.0.1:53",
        "Corefile:2: bind lo: differs: ",
        "0.0.0.0",
    ),
    (
        "no_rec is told apart",
        ". {\n forward . 10.0.0.2 {\n health_check 1s no_rec\n }\n}\n",
        "probe_min: 1s",
        "Corefile:3: health_check 1s no_rec: differs: failover.probe_min; only servers in doubt are probed, and pauses grow; \
             probes have RD set",
        "answer",
    ),
    (
        "link-local servers with their interface",
        ". {\n forward . fe80::1%2 [fe80::1%3]:5353\n}\n",
        "servers: [\"fe80::1%2\", \"[fe80::1%3]:5353\"]",
        "Corefile:2: forward . fe80::1%2 [fe80::1%3]:5353: taken",
        "answer",
    ),
    (
        "a link-local server over TCP",
        ". {\n forward . fe80::1%2 {\n force_tcp\n }\n}\n",
        "servers: [\"tcp://fe80::1%2\"]",
        "Corefile:3: force_tcp: taken",
        "answer",
    ),
    (
        "NodeLocal DNSCache's upstream servers, which another ConfigMap has",
        ". {\n forward . __PILLAR__UPSTREAM__SERVERS__\n}\n",
        "default: {servers: [/etc/resolv.conf]}",
        "Corefile:2: forward . __PILLAR__UPSTREAM__SERVERS__: differs: servers: [/etc/resolv.conf]; stubDomains and \
             upstreamNameservers of the ConfigMap kube-dns",
        "PILLAR",
    ),
    (
        "an address for /health that all addresses take in",
        ". {\n health 10.0.0.7:8080\n ready :8080\n forward . 10.0.0.2\n}\n",
        "metrics: {listen: [0.0.0.0:8080",
        "Corefile:2: health 10.0.0.7:8080: taken",
        "10.0.0.7",
    ),
    (
        "AKS: names under a file that there is not",
        ". {\n hosts example.hosts corp.example {\n 10.0.0.7 a.corp.example\n fallthrough\n }\n forward . 10.0.0.2\n}\n",
        "  a.corp.example: {A: [10.0.0.7]}",
        "Corefile:2: hosts example.hosts corp.example: differs: there is no such file; only the names written here",
        "hosts:",
    ),
];

#[test]
fn a_line_means_here_what_it_means_there() {
    for (name, corefile, written, told, not_written) in MEANINGS {
        let (yaml, said) = imported(corefile);
        assert!(yaml.contains(written), "{name}: {written}\n{yaml}");
        assert!(said.contains(told), "{name}: {told}\n{said}");
        assert!(!yaml.contains(not_written), "{name}: {not_written}\n{yaml}");
    }
    let (yaml, _) =
        imported(". {\n forward . https://9.9.9.9 {\n tls_servername dns.quad9.net\n }\n}\n");
    assert!(yaml.contains("https://9.9.9.9#dns.quad9.net"), "{yaml}");
    let (yaml, _) = imported(". {\n health\n ready :8282\n forward . 10.0.0.2\n}\n");
    let both = if Path::new("/proc/net/if_inet6").exists() {
        ", \"[::]:8080\", \"[::]:8282\""
    } else {
        ""
    };
    let expected = format!("listen: [0.0.0.0:8080, 0.0.0.0:8282{both}]");
    assert!(yaml.contains(&expected), "{expected}\n{yaml}");
}

#[test]
fn an_acl_says_whether_it_holds_for_more_zones_than_there() {
    const MORE: &str = ":2: acl: differs: allow, for all zones: other clients are refused";
    let acl = "acl {\n allow net 10.0.0.0/8\n block\n }\n";
    let more = [
        format!(
            ". {{\n acl corp.example{} forward . 10.0.0.2\n}}\n",
            &acl[3..]
        ),
        format!(". {{\n {acl} forward . 10.0.0.2\n}}\ncorp.example {{\n forward . 10.0.0.3\n}}\n"),
    ];
    for corefile in more {
        let (yaml, said) = imported(&corefile);
        assert!(yaml.contains("allow: [10.0.0.0/8]"), "{yaml}");
        let said = said.replace("acl corp.example:", "acl:");
        assert!(said.contains(MORE), "{corefile}\n{said}");
    }
    let (_, said) = imported(&format!(
        ". {{\n {acl} forward . 10.0.0.2\n}}\ncorp.example {{\n {acl} forward . 10.0.0.3\n}}\n"
    ));
    assert!(!said.contains(MORE), "{said}");
}

/// A running nodens with a Corefile, and its addresses.
struct Running {
    process: Process,
    directory: TempDir,
    address: SocketAddr,
    health: SocketAddr,
}

impl Running {
    /// Starts it with `body` in the block of the root, beside a `health` of its own.
    fn start(body: &str) -> Self {
        let directory = TempDir::new();
        let (sockets, (health_socket, health_listener)) = (free_sockets(), free_sockets());
        let address = sockets.1.local_addr().expect("an address");
        let health = health_listener.local_addr().expect("an address");
        drop((sockets, health_socket, health_listener));
        let mut running = Self {
            process: Process::spawn(
                "nodens",
                nodens()
                    .args(["serve", "--set", "admin=null", "--config"])
                    .arg(Self::write(&directory, address, health, body)),
                directory.path("log"),
            ),
            directory,
            address,
            health,
        };
        let health = running.health;
        running.process.wait_until("200 from /health", || {
            let mut stream = TcpStream::connect(health).ok()?;
            stream.write_all(b"GET /health HTTP/1.0\r\n\r\n").ok()?;
            let mut reply = String::new();
            stream.read_to_string(&mut reply).ok()?;
            reply.contains(" 200 ").then_some(())
        });
        running
    }

    fn write(directory: &TempDir, address: SocketAddr, health: SocketAddr, body: &str) -> PathBuf {
        let (ip, port) = (address.ip(), address.port());
        let corefile = format!(".:{port} {{\n    bind {ip}\n    health {health}\n{body}}}\n");
        directory.write("Corefile", &corefile)
    }

    fn change(&self, body: &str) {
        Self::write(&self.directory, self.address, self.health, body);
        self.process.signal("HUP");
    }

    /// Code and addresses of a name's A records.
    fn says(&self, name: &str) -> (u16, Vec<Vec<u8>>) {
        let reply =
            exchange(self.address, Over::Udp, &Ask::new(name, rr::A).message()).expect("a reply");
        let reply = Message::read(&reply).expect("a message");
        let records = reply.section(Section::Answer);
        (
            reply.rcode(),
            records.map(|record| record.rdata.clone()).collect(),
        )
    }
}

#[test]
fn serve_runs_a_corefile_and_takes_its_changes_and_those_of_what_it_imports() {
    let running = Running::start("");
    let part = |address: &str| {
        let hosts = format!("hosts {{\n    {address} a.example\n    fallthrough\n}}\n");
        running.directory.write("hosts.part", &hosts);
    };
    assert_eq!(
        running.says("a.example").0,
        rcode::REFUSED,
        "there is nothing yet"
    );
    part("192.0.2.1");
    running.change(
        "    import hosts.part\n    template ANY ANY internal {\n        rcode NXDOMAIN\n    }\n",
    );
    wait_for("the change", || {
        (running.says("a.example") == (rcode::NOERROR, vec![vec![192, 0, 2, 1]])).then_some(())
    });
    // Each worker changes in its turn.
    wait_for("the change of all workers", || {
        (running.says("x.internal").0 == rcode::NXDOMAIN).then_some(())
    });
    // The part alone changes, and nobody says so.
    part("192.0.2.2");
    wait_for("the change of the part", || {
        (running.says("a.example") == (rcode::NOERROR, vec![vec![192, 0, 2, 2]])).then_some(())
    });
    // What is wrong leaves all as it was.
    Running::write(
        &running.directory,
        running.address,
        running.health,
        "    foward . 10.0.0.2\n",
    );
    // As to CoreDNS.
    running.process.signal("USR1");
    running.process_says("foward: there is no such plugin; did you mean forward?");
    assert_eq!(running.says("x.internal").0, rcode::NXDOMAIN);
}

impl Running {
    fn process_says(&self, text: &str) {
        self.process.wait_for_log(text);
    }
}
