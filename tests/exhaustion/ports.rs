//! Local ports: a node's other programs take them all.

use std::process::{Command, Stdio};

use crate::common::namespace::{Instance, Namespace, assert_root, both};
use crate::common::{Process, TempDir, wait_for};

/// The node's address, and its server's.
const NODE: &str = "10.9.0.2";
const SERVER: &str = "10.9.0.1";

/// Takes all local ports that are left, over UDP and TCP, says so, and keeps them.
const TAKE_ALL_PORTS: &str = "
import socket, time
low, high = map(int, open('/proc/sys/net/ipv4/ip_local_port_range').read().split())
held = []
for port in range(low, high + 1):
    for kind in socket.SOCK_DGRAM, socket.SOCK_STREAM:
        one = socket.socket(socket.AF_INET, kind)
        try:
            one.bind(('0.0.0.0', port))
            held.append(one)
        except OSError:
            pass
print('held', len(held), flush=True)
time.sleep(600)
";

/// A node with few local ports, and its server, which also holds the clients.
struct Network {
    server: Namespace,
    node: Namespace,
    dir: TempDir,
    _server: Instance,
}

impl Network {
    fn new() -> Self {
        assert_root();
        let (server, node) = (Namespace::new("server"), Namespace::new("node"));
        server.connect("node", &node, "server");
        server.ip(&format!("addr add {SERVER}/24 dev node"));
        node.ip(&format!("addr add {NODE}/24 dev server"));
        node.run(
            "sysctl",
            &["-q", "-w", "net.ipv4.ip_local_port_range=40000 40127"],
        );
        let dir = TempDir::new();
        let records = "records: {\"*.example\": {A: 192.0.2.1}}";
        let nobody = "upstreams: {nobody: {servers: [127.0.0.9]}}\nroutes: {invalid: nobody}";
        let yaml = format!("listen: [\"{SERVER}:53\"]\nworkers: 1\n{records}\n{nobody}");
        let upstream = Instance::start(&server, &dir, "server", &yaml);
        Self {
            server,
            node,
            dir,
            _server: upstream,
        }
    }

    /// Asks for this many names that nobody asked for before; how many have an address.
    fn ask(&self, word: &str, count: usize) -> usize {
        let names = (0..count).map(|number| format!("{word}{number}.example"));
        let output = self
            .server
            .command("dig")
            .args([
                &format!("@{NODE}"),
                "+tries=1",
                "+timeout=5",
                "+noall",
                "+answer",
            ])
            .args(names)
            .output()
            .expect("dig is installed: apt-get install dnsutils");
        both(&output).matches("192.0.2.1").count()
    }

    /// Takes all ports of the node that are left.
    fn take_all_ports(&self) -> Process {
        let mut command: Command = self.node.command("python3");
        command.args(["-c", TAKE_ALL_PORTS]).stdin(Stdio::null());
        let process = Process::spawn("python3", &mut command, self.dir.path("ports.log"));
        process.wait_for_log("held");
        process
    }
}

/// The node's instance, before this server.
fn start(network: &Network, server: &str) -> Instance {
    let yaml = format!(
        "listen: [\"{NODE}:53\"]\nworkers: 1\nupstreams: {{group: {{servers: [\"{server}\"]}}}}\n"
    );
    Instance::start(&network.node, &network.dir, "nodens", &yaml)
}

/// Whether its server is good, over UDP or TCP.
fn is_good(nodens: &Instance, server: &str, transport: &str) -> bool {
    let labels = format!("server=\"{server}\",state=\"good\",transport=\"{transport}\"");
    nodens.metric(&format!(
        "nodens_upstream_state{{group=\"group\",{labels}}}"
    )) == 1
}

#[test]
#[ignore = "needs root"]
fn new_names_are_answered_over_the_sockets_that_are_open_while_no_local_port_is_left() {
    const NAMES: usize = 100;
    let network = Network::new();
    let nodens = start(&network, SERVER);
    assert_eq!(network.ask("before", 3), 3, "{}", nodens.process.log());
    let held = network.take_all_ports();
    let answered = network.ask("during", NAMES);
    assert_eq!(answered, NAMES, "{}", nodens.process.log());
    // It tried for further ports, or the test shows nothing.
    nodens.process.wait_for_log("no local port is left");
    let log = nodens.process.log();
    assert!(is_good(&nodens, SERVER, "udp"), "{log}");
    assert!(!log.contains("upstream server is down"), "{log}");
    drop(held);
    assert_eq!(network.ask("after", 3), 3, "{}", nodens.process.log());
}

#[test]
#[ignore = "needs root"]
fn a_server_over_tcp_is_not_down_because_no_local_port_is_left() {
    let network = Network::new();
    let server = format!("tcp://{SERVER}");
    let nodens = start(&network, &server);
    wait_for("the server to be good", || {
        is_good(&nodens, &server, "tcp").then_some(())
    });
    let held = network.take_all_ports();
    // No connection is open yet.
    assert_eq!(network.ask("during", 3), 0, "{}", nodens.process.log());
    nodens.process.wait_for_log("no local port is left");
    assert!(is_good(&nodens, &server, "tcp"), "{}", nodens.process.log());
    drop(held);
    // The failures of those names are remembered; these are others.
    assert_eq!(network.ask("after", 3), 3, "{}", nodens.process.log());
}
