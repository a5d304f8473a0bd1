//! Local ports: a node's other programs take them all.

use std::process::{Command, Stdio};

use crate::common::namespace::Instance;
use crate::common::{Process, wait_for};
use crate::network::{NODE, Network, SERVER};

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

/// A node with few local ports.
fn network() -> Network {
    let network = Network::new();
    let few = "net.ipv4.ip_local_port_range=40000 40127";
    network.node.run("sysctl", &["-q", "-w", few]);
    network
}

/// Takes all ports of the node that are left.
fn take_all_ports(network: &Network) -> Process {
    let mut command: Command = network.node.command("python3");
    command.args(["-c", TAKE_ALL_PORTS]).stdin(Stdio::null());
    let process = Process::spawn("python3", &mut command, network.dir.path("ports.log"));
    process.wait_for_log("held");
    process
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
    let network = network();
    let nodens = start(&network, SERVER);
    assert_eq!(
        network.ask(NODE, "before", 3),
        3,
        "{}",
        nodens.process.log()
    );
    let held = take_all_ports(&network);
    let answered = network.ask(NODE, "during", NAMES);
    assert_eq!(answered, NAMES, "{}", nodens.process.log());
    // It tried for further ports, or the test shows nothing.
    nodens.process.wait_for_log("no local port is left");
    let log = nodens.process.log();
    assert!(is_good(&nodens, SERVER, "udp"), "{log}");
    assert!(!log.contains("upstream server is down"), "{log}");
    drop(held);
    assert_eq!(network.ask(NODE, "after", 3), 3, "{}", nodens.process.log());
}

#[test]
#[ignore = "needs root"]
fn a_server_over_tcp_is_not_down_because_no_local_port_is_left() {
    let network = network();
    let server = format!("tcp://{SERVER}");
    let nodens = start(&network, &server);
    wait_for("the server to be good", || {
        is_good(&nodens, &server, "tcp").then_some(())
    });
    let held = take_all_ports(&network);
    // No connection is open yet.
    assert_eq!(
        network.ask(NODE, "during", 3),
        0,
        "{}",
        nodens.process.log()
    );
    nodens.process.wait_for_log("no local port is left");
    assert!(is_good(&nodens, &server, "tcp"), "{}", nodens.process.log());
    drop(held);
    // The failures of those names are remembered; these are others.
    assert_eq!(network.ask(NODE, "after", 3), 3, "{}", nodens.process.log());
}
