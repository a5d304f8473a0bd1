//! `node:` in real network namespaces: a node, two pods, a container behind a pod's NAT, and servers that only the node
//! can reach. Needs root, iproute2, nftables, conntrack, dig, procps and setpriv; `.ci/run` runs it.

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Output, Stdio};

use common::namespace::{Instance, Namespace, assert_root, both};
use common::{TempDir, binary, wait_for};

const V4: &str = "169.254.20.53";
const V6: &str = "fd00::53";
/// The Service by which an instance at kube-dns's own address reaches kube-dns.
const UPSTREAM_SERVICE: &str = "10.96.0.11";
/// Two addresses, one port, UDP and TCP: to us as it arrives, to us from the host, and from us.
const RULES: usize = 2 * 2 * 3;

/// Names, and who knows them: kube-dns, and the VPC's DNS.
const NAMES: [(&str, &str); 2] = [
    ("kubernetes.default.svc.cluster.local", "10.96.0.1"),
    ("registry.example.com", "10.1.20.5"),
];

/// A node with pods and servers, and nothing of ours on it yet.
struct Network {
    node: Namespace,
    pods: [Namespace; 2],
    /// What Docker-in-Docker makes inside the first pod: a network of its own behind that pod's address.
    container: Namespace,
    dir: TempDir,
    /// Last, so that its namespace goes after the servers in it.
    _servers: [Instance; 2],
    vpc: Namespace,
}

impl Network {
    fn new() -> Self {
        assert_root();
        let node = Namespace::new("node");
        let pods = [connect_pod(&node, 1), connect_pod(&node, 2)];
        let container = connect_container(&pods[0]);
        let vpc = connect_vpc(&node);
        // Connection tracking runs only where some rule asks for it, as kube-proxy's do on every node.
        let tracking = "table inet tracking {
            chain input { type filter hook input priority 0; ct state established accept; }
            chain output { type filter hook output priority 0; ct state established accept; }
        }";
        node.run("nft", &[tracking]);
        let dir = TempDir::new();
        let server = |name, addresses: &str, (known, data): (&str, &str)| {
            let nobody = "upstreams: {nobody: {servers: [127.0.0.9]}}\nroutes: {invalid: nobody}";
            let records = format!("records: {{{known}: {{A: {data}}}}}");
            let yaml = format!("listen: [{addresses}]\nworkers: 1\n{records}\n{nobody}");
            Instance::start(&vpc, &dir, name, &yaml)
        };
        let servers = [
            server("kube-dns", "\"10.96.0.10:53\"", NAMES[0]),
            server("vpc-dns", "\"10.1.0.251:53\", \"10.1.0.253:53\"", NAMES[1]),
        ];
        Self {
            node,
            pods,
            container,
            dir,
            _servers: servers,
            vpc,
        }
    }

    /// The instance under test.
    fn start(&self, name: &'static str, more: &str) -> Instance {
        Instance::start(&self.node, &self.dir, name, &config(more))
    }

    /// Runs `nodens serve`, which is to end by itself.
    fn serve(&self, more: &str) -> Output {
        let config = format!("admin: null\n{}", config(more));
        let file = self.dir.write("failing.yaml", &config);
        let mut command = self.node.command("timeout");
        command.args(["20", binary(), "serve", "--config"]);
        command.arg(file).output().expect("ip is installed")
    }

    /// Runs `nodens node remove` with the configuration of the instance of this name.
    fn remove(&self, name: &str) -> String {
        let file = self.dir.path(&format!("{name}.yaml"));
        let file = file.to_str().expect("UTF-8");
        let nodens = binary();
        self.node.run(nodens, &["node", "remove", "--config", file])
    }

    /// Rules of ours on the node.
    fn rules(&self) -> usize {
        let listed = self.node.run("nft", &["list", "ruleset"]);
        listed.matches("notrack").count()
    }

    /// Waits until all rules and addresses are there. An instance that takes addresses from others makes the rules for TCP
    /// some seconds later.
    fn wait_for_set_up(&self) {
        wait_for("all rules and addresses", || {
            ((self.rules(), self.addresses()) == (RULES, (1, 1))).then_some(())
        });
    }

    /// How often our addresses are on the node: IPv4 and IPv6.
    fn addresses(&self) -> (usize, usize) {
        let listed = self.node.ip("-oneline address show");
        let count = |address: String| listed.matches(&address).count();
        (count(format!(" {V4}/32 ")), count(format!(" {V6}/128 ")))
    }

    /// Tracked connections from or to this address.
    fn tracked(&self, address: &str) -> Vec<String> {
        let family = if address.contains(':') {
            "ipv6"
        } else {
            "ipv4"
        };
        let listed = self.node.run("conntrack", &["-L", "-f", family]);
        let of = |line: &&str| line.contains(&format!("dst={address} "));
        listed.lines().filter(of).map(str::to_owned).collect()
    }

    /// Asks for every name from everywhere, over UDP and TCP, and over IPv6 where there is any.
    fn assert_everybody_resolves(&self) {
        let [first, second] = &self.pods;
        let clients = [
            ("the first pod", first, &[V4, V6][..]),
            ("the second pod", second, &[V4, V6]),
            ("a container behind the first pod", &self.container, &[V4]),
            ("the node itself", &self.node, &[V4, V6]),
        ];
        for (who, client, addresses) in clients {
            for address in addresses {
                for (name, data) in NAMES {
                    for over in ["+notcp", "+tcp"] {
                        let output = dig(client, address, name, over);
                        let said = both(&output);
                        assert_eq!(said.trim(), data, "{name} {over} at {address} from {who}");
                    }
                }
            }
        }
    }
}

/// The configuration under test; `more` is the rest of `node:` and what follows it.
fn config(more: &str) -> String {
    format!(
        "listen: [\"{V4}:53\", \"[{V6}]:53\"]
upstreams:
  cluster: {{servers: [10.96.0.10]}}
  # The first is a black hole.
  vpc: {{servers: [10.1.0.252, 10.1.0.251]}}
routes: {{cluster.local: cluster, \".\": vpc}}
node:
  addresses: [{V4}, \"{V6}\"]
{more}"
    )
}

const LOOPBACK: &str = "  interface: {kind: loopback}\n";

fn connect_pod(node: &Namespace, number: u32) -> Namespace {
    let pod = Namespace::new(&format!("pod{number}"));
    let host_end = format!("pod{number}");
    node.connect(&host_end, &pod, "eth0");
    for (prefix, length) in [
        (format!("10.244.{number}."), 24),
        (format!("fd01:{number}::"), 64),
    ] {
        let flags = if length == 64 { " nodad" } else { "" };
        node.ip(&format!(
            "address add {prefix}1/{length} dev {host_end}{flags}"
        ));
        pod.ip(&format!("address add {prefix}2/{length} dev eth0{flags}"));
        pod.ip(&format!("route add default via {prefix}1"));
    }
    pod
}

fn connect_container(pod: &Namespace) -> Namespace {
    let container = Namespace::new("container");
    pod.connect("docker0", &container, "eth0");
    pod.ip("address add 172.17.0.1/16 dev docker0");
    container.ip("address add 172.17.0.2/16 dev eth0");
    container.ip("route add default via 172.17.0.1");
    pod.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
    let masquerade = "table ip nat {
        chain postrouting { type nat hook postrouting priority 100; oifname eth0 masquerade; }
    }";
    pod.run("nft", &[masquerade]);
    container
}

/// Where the servers are. The node does not forward, so pods have no way to it.
fn connect_vpc(node: &Namespace) -> Namespace {
    let vpc = Namespace::new("vpc");
    node.connect("uplink", &vpc, "eth0");
    node.ip("address add 10.1.0.10/24 dev uplink");
    node.ip("route add 10.96.0.0/16 via 10.1.0.251");
    vpc.ip("address add 10.1.0.251/24 dev eth0");
    vpc.ip("address add 10.1.0.252/24 dev eth0");
    vpc.ip("address add 10.1.0.253/24 dev eth0");
    vpc.ip("address add 10.96.0.10/32 dev lo");
    let black_hole = "table ip black_hole {
        chain input { type filter hook input priority 0; ip daddr 10.1.0.252 drop; }
    }";
    vpc.run("nft", &[black_hole]);
    vpc
}

fn dig(client: &Namespace, address: &str, name: &str, over: &str) -> Output {
    let at = format!("@{address}");
    let mut command = client.command("dig");
    command.args([&at, name, "A", "+short", "+tries=1", "+time=3", over]);
    command.output().expect("ip is installed")
}

/// Has a client ask and wait for as long as it takes.
fn dig_that_waits(client: &Namespace, name: &str, over: &str) -> Child {
    let mut command = client.command("dig");
    command.args([&format!("@{V4}"), name, "+tries=1", "+time=20", over]);
    let waiting = command.stdout(Stdio::piped()).spawn();
    waiting.expect("ip is installed")
}

/// An open TCP connection to our IPv4 address.
struct Connection {
    client: Child,
    /// None at the end, by which the client ends.
    orders: Option<ChildStdin>,
    said: BufReader<ChildStdout>,
}

impl Connection {
    /// Returns once the connection is established.
    fn open(client: &Namespace) -> Self {
        // Sends what each line has, and says the octets of what comes back; "closed" at the end of the connection.
        // Nothing here takes 20 s.
        let script = format!(
            "exec 3<>/dev/tcp/{V4}/53 && echo open
             {{ timeout 20 stdbuf -o0 od -An -v -w1 -tu1 <&3; echo closed; }} &
             trap '' PIPE
             while read -r query; do printf \"$query\" >&3; done; kill $! 2>/dev/null"
        );
        let mut command = client.command("bash");
        command.args(["-c", &script]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().expect("bash is installed");
        let orders = client.stdin.take();
        let said = BufReader::new(client.stdout.take().expect("a pipe"));
        let mut connection = Self {
            client,
            orders,
            said,
        };
        assert_eq!(connection.line(), "open");
        connection
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("UTF-8");
        line.trim().to_owned()
    }

    fn send(&mut self, name: &str) {
        let labels = name.split('.').flat_map(|label| {
            let length = u8::try_from(label.len()).expect("63 at most");
            std::iter::once(length).chain(label.bytes())
        });
        let mut query = vec![0, 42, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend(labels.chain([0, 0, 1, 0, 1]));
        let length = u16::try_from(query.len()).expect("few octets");
        let framed = length.to_be_bytes().into_iter().chain(query);
        let octets: Vec<String> = framed.map(|octet| format!("\\x{octet:02x}")).collect();
        let octets = octets.concat();
        let orders = self.orders.as_mut().expect("not at the end");
        writeln!(orders, "{octets}").expect("bash runs");
    }

    /// The next reply: the address at its end, or that it is SERVFAIL.
    fn answer(&mut self) -> String {
        let mut octet = || self.line().parse::<u8>().ok();
        let Some(high) = octet() else {
            return "closed".to_owned();
        };
        let low = octet().expect("the whole length");
        let length = usize::from(u16::from_be_bytes([high, low]));
        let message: Vec<u8> = (0..length).map_while(|_| octet()).collect();
        match (message.get(3).map(|flags| flags & 15), &message[..]) {
            (Some(0), [.., a, b, c, d]) => format!("{a}.{b}.{c}.{d}"),
            (Some(2), _) => "SERVFAIL".to_owned(),
            (_, other) => format!("{other:?}"),
        }
    }

    fn ask(&mut self, name: &str) -> String {
        self.send(name);
        self.answer()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.client.wait();
    }
}

/// Whoever waited for a server that is silent was told.
fn assert_told(waiting: Child) {
    let said = both(&waiting.wait_with_output().expect("dig runs"));
    assert!(said.contains("status: SERVFAIL"), "{said}");
}

#[test]
#[ignore = "needs root, iproute2, nftables, conntrack and dig; .ci/run runs it"]
fn everybody_on_the_node_resolves_and_conntrack_does_not_notice() {
    let network = Network::new();
    // The host end of a pod's veth pair often has no address. What the node sends there must not come from ours.
    let peer = Namespace::new("peer");
    network.node.connect("bare", &peer, "eth0");
    let destinations = ["10.9.9.9", "fd00::99"];
    for to in destinations {
        network.node.ip(&format!("route add {to} dev bare"));
    }
    let sources = || destinations.map(|to| network.node.ip(&format!("route get {to}")));
    let before = sources();
    assert!(
        before.iter().all(|route| route.contains(" src ")),
        "{before:?}"
    );

    let nodens = network.start("nodens", LOOPBACK);
    network.assert_everybody_resolves();
    // What makes the proxy necessary.
    let direct = dig(&network.pods[0], "10.1.0.251", NAMES[1].0, "+notcp");
    assert!(
        !direct.status.success(),
        "pods must not reach the VPC: {}",
        both(&direct)
    );

    for address in [V4, V6] {
        assert_eq!(network.tracked(address), Vec::<String>::new(), "{address}");
    }
    assert!(
        !network.tracked("10.1.0.251").is_empty(),
        "conntrack does not run, so it proves nothing"
    );
    assert_eq!((network.rules(), network.addresses()), (RULES, (1, 1)));
    assert_eq!(nodens.metric("nodens_node_setup_success "), 1);
    assert_eq!(sources(), before);
}

#[test]
#[ignore = "needs root, iproute2, nftables, conntrack and dig; .ci/run runs it"]
fn without_notrack_conntrack_fills() {
    let network = Network::new();
    let with = network.start("with", LOOPBACK);
    drop(with);
    // The rules of the predecessor go, too.
    let _nodens = network.start("without", &format!("{LOOPBACK}  notrack: false\n"));
    assert_eq!((network.rules(), network.addresses()), (0, (1, 1)));
    network.assert_everybody_resolves();
    for address in [V4, V6] {
        assert!(!network.tracked(address).is_empty(), "{address}");
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn what_a_killed_instance_left_is_taken_over() {
    let network = Network::new();
    let first = network.start("first", LOOPBACK);
    let before = network.node.run("nft", &["list", "ruleset"]);
    // SIGKILL.
    drop(first);
    assert_eq!(network.node.run("nft", &["list", "ruleset"]), before);
    assert_eq!(network.addresses(), (1, 1));
    // With the address there and nobody listening, clients hear at once that nobody does.
    let refused = both(&dig(&network.pods[0], V4, NAMES[1].0, "+notcp"));
    assert!(refused.contains("connection refused"), "{refused}");

    let _second = network.start("second", LOOPBACK);
    assert_eq!(network.node.run("nft", &["list", "ruleset"]), before);
    assert_eq!((network.rules(), network.addresses()), (RULES, (1, 1)));
    network.assert_everybody_resolves();
}

#[test]
#[ignore = "needs root, iproute2 and nftables; .ci/run runs it"]
fn on_exit_keeps_or_removes() {
    let network = Network::new();
    for (name, on_exit, left) in [
        ("keep", "  on_exit: keep\n", (RULES, (1, 1))),
        ("remove", "  on_exit: remove\n", (0, (0, 0))),
    ] {
        let mut nodens = network.start(name, &format!("{LOOPBACK}{on_exit}"));
        network.wait_for_set_up();
        let status = nodens.process.terminate();
        assert!(status.success(), "{name}: {status}");
        let log = nodens.process.log();
        assert_eq!(
            (network.rules(), network.addresses()),
            left,
            "{name}: {log}"
        );
        // The kernel takes the rules for open TCP connections, of IPv6 too.
        assert!(!log.contains("cannot keep open TCP"), "{name}: {log}");
    }
    // Nobody else's rules went with ours.
    let listed = network.node.run("nft", &["list", "ruleset"]);
    assert!(listed.contains("table inet tracking") && !listed.contains("table inet nodens"));
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn on_exit_removes_nothing_from_under_a_successor() {
    let network = Network::new();
    let more = format!("{LOOPBACK}  on_exit: remove\nhandover: true\n");
    let mut first = network.start("first", &more);
    let mut second = network.start("second", &more);
    assert!(first.process.terminate().success());
    network.wait_for_set_up();
    network.assert_everybody_resolves();
    assert!(second.process.terminate().success());
    assert_eq!(
        (network.rules(), network.addresses()),
        (0, (0, 0)),
        "{}",
        second.process.log()
    );
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn the_last_instance_leaves_new_queries_to_kube_proxy_while_it_answers_those_that_came() {
    let network = Network::new();
    network.connect_kube_proxy();
    let yaml = format!(
        "listen: [\"{V4}:53\"]
upstreams:
  cluster: {{servers: [10.96.0.10]}}
  silent: {{servers: [10.1.0.253]}}
routes: {{cluster.local: cluster, \".\": silent}}
handover: true
node:
  addresses: [{V4}]
{LOOPBACK}  on_exit: remove
"
    );
    let mut nodens = Instance::start(&network.node, &network.dir, "nodens", &yaml);
    network.silence();
    let pod = &network.pods[0];
    let waiting = ["+notcp", "+tcp"].map(|over| {
        let name = format!("waits{}.example.com", over.len());
        dig_that_waits(pod, &name, over)
    });
    wait_for("two questions to wait for the silent server", || {
        (nodens.metric("nodens_in_flight ") == 2).then_some(())
    });

    nodens.process.signal("TERM");
    let mut answered_meanwhile = 0;
    while !nodens.process.log().contains("on_exit: remove removed=") {
        for over in ["+notcp", "+tcp"] {
            let said = both(&dig(pod, V4, NAMES[0].0, over));
            let log = nodens.process.log();
            assert_eq!(
                said.trim(),
                NAMES[0].1,
                "{over}, {answered_meanwhile} before: {log}"
            );
            answered_meanwhile += 1;
        }
    }
    assert!(answered_meanwhile > 10, "it ended before the others waited");
    waiting.into_iter().for_each(assert_told);
    assert!(nodens.process.terminate().success());
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
}

/// A node's address that others serve: our way to what they serve is a Service that kube-proxy does not know yet.
fn config_beside_kube_proxy(more: &str) -> String {
    format!(
        "listen: [\"{V4}:53\"]
upstreams:
  cluster: {{servers: [{UPSTREAM_SERVICE}]}}
  vpc: {{servers: [10.1.0.251]}}
routes: {{cluster.local: cluster, \".\": vpc}}
node:
  addresses: [{V4}]
{LOOPBACK}  on_exit: remove
{more}"
    )
}

/// An instance that has left its address to others and waits for its own servers.
fn spawn_waiting(network: &Network, yaml: &str) -> Instance {
    let nodens = Instance::spawn(&network.node, &network.dir, "nodens", yaml);
    wait_for("it to wait", || {
        let (status, text) = nodens.page("/ready")?;
        assert_eq!(status, 503, "{text}");
        text.contains("left to others").then_some(())
    });
    nodens
}

/// Rules for what arrives, for one address: UDP and TCP, from pods and from the host.
fn rules_for_arrivals(network: &Network) -> usize {
    let listed = network.node.run("nft", &["list", "ruleset"]);
    let of_ours = |line: &&str| line.contains("daddr") && line.contains("notrack");
    listed.lines().filter(of_ours).count()
}

/// Waits until what arrives over TCP is ours too: others may keep their connections for some seconds.
fn assert_all_is_diverted(network: &Network) {
    wait_for("the take-over to be complete", || {
        (rules_for_arrivals(network) == 4).then_some(())
    });
}

#[test]
#[ignore = "needs root, iproute2 and nftables; .ci/run runs it"]
fn open_tcp_connections_stay_with_whoever_has_them_while_the_address_passes_on() {
    let network = Network::new();
    network.connect_kube_proxy();
    network.reject_upstream_service();
    let yaml = config_beside_kube_proxy("").replace("10.1.0.251", "10.1.0.253");
    let mut nodens = spawn_waiting(&network, &yaml);
    let clients = [&network.pods[0], &network.node];
    let open = || clients.map(Connection::open);
    let assert_answered = |connections: &mut [Connection], when: &str| {
        for connection in connections {
            assert_eq!(connection.ask(NAMES[0].0), NAMES[0].1, "{when}");
        }
    };

    let (mut unused, mut used) = (open(), open());
    assert_answered(&mut used, "before");
    network.learn_upstream_service();
    wait_for("new queries to be ours", || {
        (nodens.page("/ready")?.0 == 200).then_some(())
    });
    assert_answered(&mut unused, "others', unused, after we took over");
    assert_answered(&mut used, "others', used, after we took over");
    assert_eq!(nodens.metric("nodens_cache_hits_total "), 0);

    let (mut unused, mut used) = (open(), open());
    assert_answered(&mut used, "new");
    assert_all_is_diverted(&network);
    assert_answered(&mut unused, "ours, unused, after all is diverted");
    assert_answered(&mut used, "ours, used, after all is diverted");

    // One that waits stays open after we are told to end.
    network.silence();
    let mut waiting = open();
    for connection in &mut waiting {
        connection.send("waits.example.com");
    }
    wait_for("two queries to wait", || {
        (nodens.metric("nodens_in_flight ") >= 1).then_some(())
    });
    nodens.process.signal("TERM");
    nodens
        .process
        .wait_for_log("new queries are left to others");
    assert_answered(&mut waiting, "ours, after we left the address");
    for connection in &mut waiting {
        assert_eq!(connection.answer(), "SERVFAIL");
    }
    // A second signal before would end it at once.
    nodens.process.wait_for_log("on_exit: remove removed=");
    assert!(nodens.process.terminate().success());
    // The node itself has no way to the address any more.
    assert_answered(&mut [Connection::open(&network.pods[0])], "new, at the end");
}

#[test]
#[ignore = "needs root, iproute2, nftables, conntrack and dig; .ci/run runs it"]
fn an_address_that_others_serve_is_taken_once_our_own_servers_answer() {
    let network = Network::new();
    network.connect_kube_proxy();
    network.reject_upstream_service();
    let yaml = config_beside_kube_proxy("");
    let mut nodens = spawn_waiting(&network, &yaml);
    let ask = |when: &str| {
        for over in ["+notcp", "+tcp"] {
            let said = both(&dig(&network.pods[0], V4, NAMES[0].0, over));
            let log = nodens.process.log();
            assert_eq!(said.trim(), NAMES[0].1, "{when}, {over}: {log}");
        }
    };
    ask("while others serve");
    assert_eq!(rules_for_arrivals(&network), 0);

    network.learn_upstream_service();
    wait_for("it to be ready", || {
        ask("while it takes over");
        (nodens.page("/ready")?.0 == 200).then_some(())
    });
    assert_all_is_diverted(&network);
    ask("afterwards");
    // Workers publish what they count four times a second.
    wait_for("queries to come here, and not to others", || {
        (nodens.metric("nodens_cache_hits_total ") > 0).then_some(())
    });
    assert!(
        !nodens.process.log().contains("WARN"),
        "{}",
        nodens.process.log()
    );
    assert!(nodens.process.terminate().success());
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
}

#[test]
#[ignore = "needs root, iproute2, nftables, conntrack and dig; .ci/run runs it"]
fn an_address_that_nobody_else_serves_is_answered_at_and_taken_whatever_servers_do() {
    let network = Network::new();
    network.reject_upstream_service();
    let yaml = config_beside_kube_proxy("");
    let mut nodens = spawn_waiting(&network, &yaml);
    // What arrives comes here, although through connection tracking.
    for over in ["+notcp", "+tcp"] {
        let said = both(&dig(&network.pods[0], V4, NAMES[1].0, over));
        assert_eq!(said.trim(), NAMES[1].1, "{over}: {}", nodens.process.log());
    }
    assert_eq!(rules_for_arrivals(&network), 0);
    nodens.wait_until_ready();
    let log = nodens.process.log();
    assert!(
        log.contains("WARN") && log.contains("groups=\"cluster\""),
        "{log}"
    );
    assert_all_is_diverted(&network);

    // After a kill nobody but us serves the address: there is nothing to wait for.
    drop(nodens);
    let mut second = Instance::start(&network.node, &network.dir, "second", &yaml);
    let log = second.process.log();
    assert!(!log.contains("taken from others"), "{log}");
    assert!(second.process.terminate().success());
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn an_instance_that_ends_while_it_waits_for_its_servers_takes_nothing() {
    let network = Network::new();
    network.connect_kube_proxy();
    network.reject_upstream_service();
    let yaml = config_beside_kube_proxy("");
    let mut nodens = spawn_waiting(&network, &yaml);
    // A reload takes nothing either.
    nodens.process.signal("HUP");
    nodens
        .process
        .wait_for_log("the changed configuration is in force");
    assert_eq!(rules_for_arrivals(&network), 0);
    assert!(nodens.process.terminate().success());
    let log = nodens.process.log();
    assert!(!log.contains("the node's addresses are taken"), "{log}");
    assert!(!log.contains("new queries are left to others"), "{log}");
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn on_exit_removes_nothing_of_an_instance_with_other_addresses() {
    let network = Network::new();
    let first = config_beside_kube_proxy("").replace(UPSTREAM_SERVICE, "10.96.0.10");
    let mut first = Instance::start(&network.node, &network.dir, "first", &first);
    // A change of the address that pods ask, as by another mode of the chart.
    let other = "169.254.20.54";
    let second = config(&format!("{LOOPBACK}  on_exit: keep\n")).replace(V4, other);
    let _second = Instance::start(&network.node, &network.dir, "second", &second);
    assert!(first.process.terminate().success());
    let log = first.process.log();
    assert_eq!(network.addresses(), (0, 1), "{log}");
    assert_eq!(network.rules(), RULES, "{log}");
    for client in &network.pods {
        let said = both(&dig(client, other, NAMES[0].0, "+notcp"));
        assert_eq!(said.trim(), NAMES[0].1);
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn a_successor_that_comes_while_the_last_instance_ends_has_its_rules() {
    let network = Network::new();
    let more = format!("{LOOPBACK}  on_exit: remove\nhandover: true\n");
    let silent = more.replace(
        "handover",
        "routes: {\".\": silent}\nupstreams: {silent: {servers: [10.1.0.253]}}\nhandover",
    );
    let yaml = format!(
        "listen: [\"{V4}:53\", \"[{V6}]:53\"]\nnode:\n  addresses: [{V4}, \"{V6}\"]\n{silent}"
    );
    let mut first = Instance::start(&network.node, &network.dir, "first", &yaml);
    network.silence();
    let waiting = dig_that_waits(&network.pods[0], "waits.example.com", "+notcp");
    wait_for("a question to wait", || {
        (first.metric("nodens_in_flight ") == 1).then_some(())
    });
    first.process.signal("TERM");
    first.process.wait_for_log("new queries are left to others");
    let mut second = network.start("second", &more);
    assert_told(waiting);
    // A second signal before would end it at once.
    first
        .process
        .wait_for_log("for the instance that took over");
    assert!(first.process.terminate().success());
    network.wait_for_set_up();
    network.assert_everybody_resolves();
    assert!(second.process.terminate().success());
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn a_second_instance_without_handover_is_refused_and_harms_nobody() {
    let network = Network::new();
    let more = format!("{LOOPBACK}  on_exit: remove\n");
    let _first = network.start("first", &more);
    let second = network.serve(&more);
    let said = both(&second);
    assert_eq!(second.status.code(), Some(2), "{said}");
    assert!(
        said.contains(&format!("listen {V4}:53: Address already in use")),
        "{said}"
    );
    network.wait_for_set_up();
    network.assert_everybody_resolves();
}

#[test]
#[ignore = "needs root, iproute2 and nftables; .ci/run runs it"]
fn a_failed_start_takes_away_what_it_made_if_on_exit_says_remove() {
    let network = Network::new();
    // Not an address of this node, so listening fails after the interface was set up.
    let elsewhere = "metrics: {listen: \"192.0.2.1:9154\"}\n";
    for (on_exit, left) in [("keep", (1, 1)), ("remove", (0, 0))] {
        network.remove_addresses();
        let failed = network.serve(&format!("{LOOPBACK}  on_exit: {on_exit}\n{elsewhere}"));
        let said = both(&failed);
        assert_eq!(failed.status.code(), Some(2), "{on_exit}: {said}");
        assert!(
            said.contains("metrics.listen 192.0.2.1:9154"),
            "{on_exit}: {said}"
        );
        assert_eq!(network.addresses(), left, "{on_exit}: {said}");
    }
    // The first of two addresses can be had.
    let sysctl = "net.ipv6.conf.lo.disable_ipv6";
    network.node.run("sysctl", &["-qw", &format!("{sysctl}=1")]);
    let failed = network.serve(&format!("{LOOPBACK}  on_exit: remove\n"));
    assert!(both(&failed).contains(sysctl), "{}", both(&failed));
    assert_eq!(
        (failed.status.code(), network.addresses()),
        (Some(2), (0, 0))
    );
    network.node.run("sysctl", &["-qw", &format!("{sysctl}=0")]);
    // What was there before belongs to somebody else.
    network.node.ip(&format!("address add {V4}/32 dev lo"));
    let failed = network.serve(&format!("{LOOPBACK}  on_exit: remove\n{elsewhere}"));
    assert_eq!(
        (failed.status.code(), network.addresses()),
        (Some(2), (1, 0))
    );
}

impl Network {
    /// Translates our IPv4 address as kube-proxy does a Service's, for whatever connection tracking sees.
    fn connect_kube_proxy(&self) {
        self.node.run("sysctl", &["-qw", "net.ipv4.ip_forward=1"]);
        let proxy = format!(
            "table ip proxy {{
                chain prerouting {{
                    type nat hook prerouting priority dstnat;
                    ip daddr {V4} udp dport 53 dnat to 10.96.0.10
                    ip daddr {V4} tcp dport 53 dnat to 10.96.0.10
                }}
                chain output {{
                    type nat hook output priority -100;
                    ip daddr {V4} udp dport 53 dnat to 10.96.0.10
                    ip daddr {V4} tcp dport 53 dnat to 10.96.0.10
                }}
                chain postrouting {{ type nat hook postrouting priority srcnat; ip daddr 10.96.0.10 masquerade; }}
            }}"
        );
        self.node.run("nft", &[&proxy]);
    }

    /// 10.1.0.253 answers no longer.
    fn silence(&self) {
        let table = "table ip silence {
            chain input { type filter hook input priority 0; ip daddr 10.1.0.253 drop; }
        }";
        self.vpc.run("nft", &[table]);
    }

    /// What kube-proxy does with the address of a Service that it does not know.
    fn reject_upstream_service(&self) {
        let table = format!(
            "table ip services {{
                chain nat {{ type nat hook output priority -100; }}
                chain check {{ type filter hook output priority 0; ip daddr {UPSTREAM_SERVICE} reject; }}
            }}"
        );
        self.node.run("nft", &[&table]);
    }

    /// kube-proxy knows the Service now.
    fn learn_upstream_service(&self) {
        let rule =
            format!("add rule ip services nat ip daddr {UPSTREAM_SERVICE} dnat to 10.96.0.10");
        self.node.run("nft", &[&rule]);
    }

    fn remove_addresses(&self) {
        for address in [format!("{V4}/32"), format!("{V6}/128")] {
            let delete = ["-n", "lo", "address", "delete", &address, "dev", "lo"];
            // Fails where there is none.
            let _ = self.node.command("ip").args(&delete[2..]).output();
        }
    }
}

#[test]
#[ignore = "needs root, iproute2 and nftables; .ci/run runs it"]
fn an_address_of_another_interface_is_refused_with_the_remedy() {
    let network = Network::new();
    network.node.ip(&format!("address add {V4}/24 dev uplink"));
    let failed = network.serve(LOOPBACK);
    let said = both(&failed);
    assert_eq!(failed.status.code(), Some(2), "{said}");
    let expected = format!(
        "node.addresses {V4}: uplink has it already, as {V4}/24: remove it there (`ip address del {V4}/24 dev uplink`), or choose another address\n"
    );
    assert!(said.contains(&expected), "{said}");
    assert_eq!(
        (network.rules(), network.addresses()),
        (0, (0, 0)),
        "{said}"
    );
    // The remedy works.
    network.node.ip(&format!("address del {V4}/24 dev uplink"));
    let _nodens = network.start("nodens", LOOPBACK);
}

#[test]
#[ignore = "needs root, iproute2 and setpriv; .ci/run runs it"]
fn without_the_capability_the_error_names_it() {
    let network = Network::new();
    for notrack in ["true", "false"] {
        let more = format!("{LOOPBACK}  notrack: {notrack}\n");
        let file = network
            .dir
            .write("failing.yaml", &format!("admin: null\n{}", config(&more)));
        let mut command = network.node.command("setpriv");
        command.args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]);
        command.args(["timeout", "20", binary(), "serve", "--config"]);
        let failed = command.arg(file).output().expect("ip is installed");
        let said = both(&failed);
        assert_eq!(failed.status.code(), Some(2), "notrack: {notrack}: {said}");
        for part in [
            "this needs CAP_NET_ADMIN",
            "add: [NET_ADMIN]",
            "AmbientCapabilities=CAP_NET_ADMIN",
        ] {
            assert!(
                said.contains(part),
                "notrack: {notrack}: no {part} in: {said}"
            );
        }
        assert_eq!(
            (network.rules(), network.addresses()),
            (0, (0, 0)),
            "{said}"
        );
    }
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn a_dummy_interface_works_or_the_error_names_the_remedy() {
    let network = Network::new();
    let probe = Namespace::new("probe");
    let mut command = probe.command("ip");
    let possible = command.args(["link", "add", "probe", "type", "dummy"]);
    let possible = possible.output().expect("ip is installed").status.success();
    if !possible {
        println!("NOT TESTED here: a dummy interface that works; this kernel has none");
        let failed = network.serve("");
        let said = both(&failed);
        assert_eq!(failed.status.code(), Some(2), "{said}");
        let expected = "node.interface nodens: this kernel has no dummy interfaces: load the module (`modprobe dummy`), or write node.interface: {kind: loopback}";
        assert!(said.contains(expected), "{said}");
        assert_eq!(
            (network.rules(), network.addresses()),
            (0, (0, 0)),
            "{said}"
        );
        return;
    }
    let more = "  on_exit: remove\n";
    let killed = network.start("killed", more);
    drop(killed);
    let mut nodens = network.start("nodens", more);
    let link = network.node.ip("-details link show nodens");
    assert!(link.contains("dummy") && link.contains("UP"), "{link}");
    assert_eq!((network.rules(), network.addresses()), (RULES, (1, 1)));
    network.assert_everybody_resolves();

    network.node.ip("link delete nodens");
    wait_for("the interface to be put back", || {
        (nodens.metric("nodens_node_repairs_total{object=\"interface\"} ") > 0).then_some(())
    });
    network.assert_everybody_resolves();
    assert!(nodens.process.terminate().success());
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
    let links = network.node.ip("-oneline link show");
    assert!(!links.contains("nodens"), "{links}");
}

#[test]
#[ignore = "needs root, iproute2, nftables and dig; .ci/run runs it"]
fn what_somebody_removes_is_put_back_and_what_cannot_be_is_told() {
    let network = Network::new();
    let nodens = network.start("nodens", LOOPBACK);
    let before = network
        .node
        .run("nft", &["list", "table", "inet", "nodens"]);
    // One rule, which is less obvious than a whole table.
    let listed = network
        .node
        .run("nft", &["-a", "list", "chain", "inet", "nodens", "output"]);
    let handle = listed
        .lines()
        .find_map(|line| line.split_once("notrack # handle "));
    let (_, handle) = handle.expect("a rule with its handle");
    let delete = [
        "delete", "rule", "inet", "nodens", "output", "handle", handle,
    ];
    network.node.run("nft", &delete);
    network.node.ip(&format!("address del {V4}/32 dev lo"));
    wait_for("rules and address to be put back", || {
        ((network.rules(), network.addresses()) == (RULES, (1, 1))).then_some(())
    });
    assert_eq!(
        network
            .node
            .run("nft", &["list", "table", "inet", "nodens"]),
        before
    );
    wait_for("both to be counted", || {
        let repairs = |object: &str| {
            nodens.metric(&format!(
                "nodens_node_repairs_total{{object=\"{object}\"}} "
            ))
        };
        (repairs("address") > 0 && repairs("rules") > 0).then_some(())
    });
    network.assert_everybody_resolves();

    network.node.ip(&format!("address add {V4}/24 dev uplink"));
    wait_for("the trouble to be told", || {
        (nodens.metric("nodens_node_setup_success ") == 0).then_some(())
    });
    nodens.process.wait_for_log("uplink has it already");
    network.node.ip(&format!("address del {V4}/24 dev uplink"));
    wait_for("the trouble to be over", || {
        (nodens.metric("nodens_node_setup_success ") == 1).then_some(())
    });
}

#[test]
#[ignore = "needs root, iproute2 and nftables; .ci/run runs it"]
fn node_remove_takes_away_what_is_ours_and_says_what() {
    let network = Network::new();
    let nodens = network.start("nodens", LOOPBACK);
    drop(nodens);
    let said = network.remove("nodens");
    let expected = format!(
        "removed address {V4} on lo\nremoved address {V6} on lo\nremoved nftables table inet nodens\n"
    );
    assert_eq!(said, expected);
    assert_eq!((network.rules(), network.addresses()), (0, (0, 0)));
    assert_eq!(network.remove("nodens"), "nothing to remove\n");
    let lo = network.node.ip("-oneline address show dev lo");
    assert!(lo.contains("127.0.0.1/8") && lo.contains("::1/128"), "{lo}");
    let listed = network.node.run("nft", &["list", "ruleset"]);
    assert!(listed.contains("table inet tracking"), "{listed}");
}
