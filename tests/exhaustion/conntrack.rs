//! A node's table of tracked connections, full of connections that the kernel does not give up for new ones.

use std::fmt::Write as _;
use std::fs;

use crate::common::namespace::Instance;
use crate::network::{NODE, Network, SERVER};

/// The address that nodens puts on the node, with rules that exempt its packets from tracking.
const ADDRESS: &str = "169.254.20.53";
const NAMES: usize = 100;

/// The kernel tracks connections where some rule asks for it, as kube-proxy's do on every node.
const TRACKING: &str = "table inet tracking {
    chain input { type filter hook input priority 0; ct state established accept; }
    chain output { type filter hook output priority 0; ct state established accept; }
}";

/// How many connections the kernel tracks at most, in each namespace. Only the machine's own namespace could change it.
fn most_tracked() -> usize {
    let file = "/proc/sys/net/netfilter/nf_conntrack_max";
    let text = fs::read_to_string(file).expect("the kernel has nf_conntrack");
    let most = text.trim().parse().expect("a number");
    assert!((1..=1 << 20).contains(&most), "{file}: {most}");
    most
}

/// Fills the node's table with connections that were answered.
fn fill(network: &Network) {
    let mut entries = String::new();
    for number in 0..most_tracked() {
        let (host, port) = (number / 50_000, number % 50_000 + 1);
        writeln!(
            entries,
            "-I -p udp -s 10.8.0.{host} -d 10.8.1.1 --sport {port} --dport 9 -t 600 -u ASSURED,SEEN_REPLY"
        )
        .expect("text takes it");
    }
    let file = network.dir.write("entries", &entries);
    let mut command = network.node.command("conntrack");
    // It fails at the first entry for which there is no room: the node has some of its own.
    let output = command.arg("-R").arg(file).output().expect("ip is there");
    assert!(!output.status.success(), "there was room for all");
    let tracked = network.node.run("conntrack", &["-C"]);
    println!("conntrack: {} connections tracked", tracked.trim());
}

#[test]
#[ignore = "needs root, nftables and conntrack"]
fn a_full_connection_tracking_table_costs_cached_names_nothing_and_new_ones_until_there_is_room() {
    let network = Network::new();
    network.node.run("nft", &[TRACKING]);
    let yaml = format!(
        "listen: [\"{ADDRESS}:53\"]\nworkers: 1\nupstreams: {{group: {{servers: [\"{SERVER}\"]}}}}\n\
         node: {{addresses: [{ADDRESS}], interface: {{kind: loopback}}}}\n"
    );
    let start = || Instance::start(&network.node, &network.dir, "nodens", &yaml);
    let mut nodens = start();
    let server = &network.server;
    server.ip(&format!("route add {ADDRESS} via {NODE}"));
    let ask = |option: &str, word: &str| network.ask_with(option, ADDRESS, word, NAMES);
    assert_eq!(ask("+notcp", "before"), NAMES, "{}", nodens.process.log());

    fill(&network);
    // Or the test shows nothing.
    let mut direct = network.node.command("dig");
    direct.args([
        &format!("@{SERVER}"),
        "direct.example",
        "+tries=1",
        "+timeout=1",
    ]);
    let direct = direct.output().expect("ip is there");
    assert!(!direct.status.success(), "{direct:?}");

    for option in ["+notcp", "+tcp"] {
        let answered = ask(option, "before");
        println!("conntrack: {answered} of {NAMES} cached names answered with {option}");
        assert_eq!(answered, NAMES, "{}", nodens.process.log());
    }
    let answered = ask("+notcp", "during");
    println!("conntrack: {answered} of {NAMES} new names answered over the sockets that are open");
    assert_eq!(answered, NAMES, "{}", nodens.process.log());
    let log = nodens.process.log();
    assert!(!log.contains("upstream server is down"), "{log}");

    // A successor has no socket that the kernel tracks; chance may give it one in the place of one of the first's.
    assert!(nodens.process.terminate().success());
    let nodens = start();
    let answered = ask("+notcp", "successor");
    println!("conntrack: {answered} of {NAMES} new names answered after a restart");
    network.node.run("conntrack", &["-F"]);
    assert_eq!(ask("+notcp", "after"), NAMES, "{}", nodens.process.log());
}
