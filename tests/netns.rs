//! Networks that say no: upstreams behind a router that answers for them with ICMP, in network namespaces of our own.
//! Needs root and iproute2; `.ci/run` runs it.

mod common;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::namespace::{Instance, Namespace, both};
use common::{Process, TempDir, binary, get, wait_for};

/// Two namespaces, a node's and a router's, joined by a veth pair; deleted with the value.
struct Network {
    node: String,
    router: String,
}

impl Network {
    fn new() -> Self {
        let id = std::process::id();
        let network = Self {
            node: format!("nodens-node-{id}"),
            router: format!("nodens-router-{id}"),
        };
        let (node, router) = (network.node.as_str(), network.router.as_str());
        for command in [
            format!("netns add {node}"),
            format!("netns add {router}"),
            format!("-n {node} link add uplink type veth peer name downlink netns {router}"),
            format!("-n {node} addr add 10.99.0.2/24 dev uplink"),
            format!("-n {router} addr add 10.99.0.1/24 dev downlink"),
            format!("-n {node} link set lo up"),
            format!("-n {node} link set uplink up"),
            format!("-n {router} link set downlink up"),
            format!("-n {node} route add default via 10.99.0.1"),
            format!("-n {router} route add unreachable 10.99.1.0/24"),
            format!("-n {router} route add prohibit 10.99.2.0/24"),
        ] {
            let output = ip(&command);
            assert!(
                output.status.success(),
                "ip {command}: {}",
                text(&output.stderr)
            );
        }
        let forward = Network::run_in(
            router,
            Path::new("/sbin/sysctl"),
            // Without the rate limit: the kernel answers some packets only, which is another test.
            &["-qw", "net.ipv4.ip_forward=1", "net.ipv4.icmp_ratelimit=0"],
        );
        assert!(
            forward.status.success(),
            "sysctl: {}",
            text(&forward.stderr)
        );
        network
    }

    fn run_in(namespace: &str, program: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", namespace])
            .arg(program)
            .args(arguments);
        command.output().expect("ip is installed")
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for namespace in [&self.node, &self.router] {
            ip(&format!("netns delete {namespace}"));
        }
    }
}

fn ip(arguments: &str) -> Output {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    output.expect("ip is installed: apt-get install iproute2")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A nodens in the node's namespace, ready.
fn start(network: &Network, dir: &TempDir, name: &'static str, config: &str) -> Process {
    let socket = dir.path(&format!("{name}.sock"));
    let config = format!("socket: {}\nadmin: null\n{config}", socket.display());
    let file = dir.write(&format!("{name}.yaml"), &config);
    let mut command = Command::new("ip");
    command.args([
        "netns",
        "exec",
        &network.node,
        binary(),
        "serve",
        "--config",
    ]);
    let mut process = Process::spawn(name, command.arg(&file), dir.path(&format!("{name}.log")));
    process.wait_until("200 from /ready", || {
        get(&socket, "/ready")
            .ok()
            .filter(|(status, _)| *status == 200)
    });
    process
}

#[test]
#[ignore = "needs root, iproute2 and procps; .ci/run runs it"]
fn an_upstream_the_network_refuses_costs_no_query() {
    let user = Command::new("id").arg("-u").output().expect("id runs");
    assert_eq!(
        text(&user.stdout).trim(),
        "0",
        "network namespaces need root"
    );
    let network = Network::new();
    for (says, primary) in [
        ("host unreachable", "10.99.1.1"),
        ("admin prohibited", "10.99.2.1"),
    ] {
        let dir = TempDir::new();
        // The healthy second server: another instance that knows the name by itself.
        let second: SocketAddr = "127.0.0.1:5402".parse().expect("an address");
        let records = "records: {registry.example.com: {A: 10.1.20.5}}";
        let nobody = "upstreams: {nobody: {servers: [127.0.0.9]}}\nroutes: {invalid: nobody}";
        let _second = start(
            &network,
            &dir,
            "second",
            &format!("listen: [\"{second}\"]\n{records}\n{nobody}"),
        );
        let upstreams = format!(
            "upstreams: {{vpc: {{servers: [{primary}, \"{second}\"]}}}}\nroutes: {{\".\": vpc}}"
        );
        let first = start(
            &network,
            &dir,
            "first",
            &format!("listen: [\"127.0.0.1:5401\"]\ncache: {{max_size: 0}}\n{upstreams}"),
        );

        for number in 0..20 {
            let started = Instant::now();
            let output = Network::run_in(
                &network.node,
                Path::new(binary()),
                &[
                    "resolve",
                    "registry.example.com.",
                    "A",
                    "--server",
                    "127.0.0.1:5401",
                ],
            );
            let said = text(&output.stdout);
            assert!(
                said.contains("10.1.20.5"),
                "{says}, query {number}: {said}\n{}",
                first.log()
            );
            let took = started.elapsed();
            assert!(
                took < Duration::from_secs(1),
                "{says}, query {number} took {took:?}"
            );
        }
        wait_for(&format!("{says} to bring {primary} down"), || {
            let (_, status) = get(&dir.path("first.sock"), "/status").ok()?;
            let status: serde_json::Value = serde_json::from_str(&status).ok()?;
            let health = &status["upstreams"][0]["servers"][0]["health"][0];
            (health["state"] == "down" && health["reason"] == "unreachable").then_some(())
        });
    }
}

/// As a Service's address of which one of two endpoints has just ended: half of all source ports meet it, and its node refuses.
#[test]
#[ignore = "needs root"]
fn a_sole_server_that_refuses_half_of_all_source_ports_costs_no_query() {
    const NAMES: usize = 200;
    let (server, node) = (Namespace::new("endpoints"), Namespace::new("client"));
    server.connect("client", &node, "endpoints");
    server.ip("addr add 10.9.1.1/24 dev client");
    node.ip("addr add 10.9.1.2/24 dev endpoints");
    let dir = TempDir::new();
    let records = "records: {\"*.example\": {A: 192.0.2.1}}";
    let nobody = "upstreams: {nobody: {servers: [127.0.0.9]}}\nroutes: {invalid: nobody}";
    let yaml = format!("listen: [\"10.9.1.1:53\"]\nworkers: 1\n{records}\n{nobody}");
    let _upstream = Instance::start(&server, &dir, "upstream", &yaml);
    let yaml = "listen: [\"10.9.1.2:53\"]\nworkers: 1\nupstreams: {group: {servers: [10.9.1.1]}}";
    let nodens = Instance::start(&node, &dir, "nodens", yaml);
    // The kernel's limit on ICMP errors would leave most of the queries without an answer.
    server.run("sysctl", &["-q", "-w", "net.ipv4.icmp_ratemask=0"]);
    let refuse = "table inet gone {
        chain input {
            type filter hook input priority 0;
            udp dport 53 udp sport & 1 == 1 reject
        }
    }";
    server.run("nft", &[refuse]);
    let names = (0..NAMES).map(|number| format!("name{number}.example"));
    let output = server
        .command("dig")
        .args([
            "@10.9.1.2",
            "+tries=1",
            "+timeout=5",
            "+noall",
            "+answer",
            "+comments",
        ])
        .args(names)
        .output()
        .expect("dig is installed: apt-get install dnsutils");
    let answered = both(&output).matches("192.0.2.1").count();
    let unreachable = nodens.metric(
        "nodens_upstream_tries_total{group=\"group\",outcome=\"unreachable\",server=\"10.9.1.1\"}",
    );
    println!(
        "{answered} of {NAMES} were answered; {unreachable} tries met the endpoint that is gone"
    );
    assert!(unreachable > 10, "{}", nodens.process.log());
    // Each of 32 places for sockets meets it once on average; whoever leads elsewhere stays.
    assert!(unreachable < 80, "{}", nodens.process.log());
    assert!(
        answered >= NAMES - NAMES / 50,
        "{answered}: {}",
        nodens.process.log()
    );
}

#[test]
#[ignore = "needs root, iproute2 and nftables; .ci/run runs it"]
fn replies_that_the_host_does_not_let_out_are_counted_and_told() {
    let node = Namespace::new("node");
    let dir = TempDir::new();
    let yaml = "listen: [\"127.0.0.1:5300\"]\nworkers: 1\nrecords: {here.example: {A: 192.0.2.1}}\nupstreams: {nobody: {servers: [127.0.0.9]}}\nroutes: {invalid: nobody}\n";
    let nodens = Instance::start(&node, &dir, "nodens", yaml);
    let rule = "table inet host { chain out { type filter hook output priority 0; udp sport 5300 drop; }; }";
    node.run("nft", &[rule]);
    for _ in 0..3 {
        let dig = [
            "@127.0.0.1",
            "-p",
            "5300",
            "here.example",
            "+tries=1",
            "+time=1",
        ];
        node.command("dig").args(dig).output().expect("dig runs");
    }
    let failed = "nodens_dropped_total{reason=\"send_failed\"} ";
    wait_for("the count", || (nodens.metric(failed) == 3).then_some(()));
    nodens
        .process
        .wait_for_log("a reply over UDP cannot be sent");
    let log = nodens.process.log();
    assert_eq!(log.matches("cannot be sent").count(), 1, "{log}");
}
