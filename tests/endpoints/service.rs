//! A node, and a Service's address behind which kube-proxy, as its nftables mode, draws an endpoint for each new flow.

use std::process::Output;

use crate::common::TempDir;
use crate::common::namespace::{Instance, Namespace};

/// The Service's address: kube-dns's.
pub(crate) const SERVICE: &str = "10.96.0.10";
/// A server without kube-proxy in between.
pub(crate) const OTHER: &str = "10.9.1.90";
/// Addresses that pods may have; all are there from the start.
const PODS: std::ops::RangeInclusive<u8> = 11..=19;

/// What the network says of a pod that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Its processes have ended, and its network namespace is still there: ICMP port unreachable, as often as Linux sends it to
    /// one address: 6, and then 1 a second.
    Refuses,
    /// The same without a limit.
    RefusesAlways,
    /// A router says at once that there is no such host.
    HostUnreachable,
    /// Its address is gone, and the node asks for its hardware address for 3 s before it says that the host is unreachable.
    NoNeighbour,
    /// Nobody says anything.
    Silent,
}

/// One server for all pods: what ends are addresses.
pub(crate) struct Service {
    pub(crate) node: Namespace,
    pub(crate) dir: TempDir,
    // In this order: the server ends before its namespace goes.
    _server: Instance,
    pods: Namespace,
}

impl Service {
    /// With these pods as endpoints.
    pub(crate) fn new(endpoints: &[u8]) -> Self {
        let (pods, node) = (Namespace::new("pods"), Namespace::new("node"));
        pods.connect("node", &node, "pods");
        node.ip("addr add 10.9.1.1/24 dev pods");
        node.ip("route add default via 10.9.1.2");
        pods.ip("route add 10.9.1.1 dev node");
        let addresses = PODS
            .map(pod)
            .chain([OTHER.to_owned(), "10.9.1.2".to_owned()]);
        let addresses: Vec<String> = addresses.collect();
        for address in &addresses {
            // Else they would go with the first of their network.
            pods.ip(&format!("addr add {address}/32 dev node"));
        }
        let fates = "table inet fates {
            set refused { type ipv4_addr; }
            set unreachable { type ipv4_addr; }
            set silent { type ipv4_addr; }
            chain input {
                type filter hook input priority 0;
                ip daddr @refused reject with icmp port-unreachable
                ip daddr @unreachable reject with icmp host-unreachable
                ip daddr @silent drop
            }
        }";
        pods.run("nft", &[fates]);
        let proxy = format!(
            "table ip proxy {{
                chain service {{ }}
                chain no_endpoints {{ }}
                chain output {{
                    type nat hook output priority -100;
                    ip daddr {SERVICE} meta l4proto {{ tcp, udp }} th dport 53 jump service
                }}
                chain filter {{
                    type filter hook output priority 0;
                    ct state new ip daddr {SERVICE} jump no_endpoints
                }}
            }}"
        );
        node.run("nft", &[&proxy]);
        let dir = TempDir::new();
        let listen = addresses.iter().map(|address| format!("\"{address}:53\""));
        let listen: Vec<String> = listen.collect();
        let yaml = format!(
            "listen: [{}]\nworkers: 1\nrecords: {{\"*.jobs.example\": {{A: 192.0.2.1}}}}\n\
             upstreams: {{nobody: {{servers: [127.0.0.9]}}}}\nroutes: {{invalid: nobody}}",
            listen.join(", ")
        );
        let server = Instance::start(&pods, &dir, "pods", &yaml);
        let service = Self {
            node,
            dir,
            _server: server,
            pods,
        };
        service.set_endpoints(endpoints);
        service
    }

    /// kube-proxy learns that these are the endpoints. It forgets flows to others, as it does since 1.32, and without endpoints it
    /// refuses new ones.
    pub(crate) fn set_endpoints(&self, endpoints: &[u8]) {
        let map: Vec<String> = endpoints
            .iter()
            .enumerate()
            .map(|(number, &endpoint)| format!("{number}: {}", pod(endpoint)))
            .collect();
        let rule = if map.is_empty() {
            "add rule ip proxy no_endpoints reject".to_owned()
        } else {
            format!(
                "add rule ip proxy service dnat to numgen random mod {} map {{ {} }}",
                map.len(),
                map.join(", ")
            )
        };
        let change =
            format!("flush chain ip proxy service; flush chain ip proxy no_endpoints; {rule}");
        self.node.run("nft", &[&change]);
        let others = PODS.filter(|other| !endpoints.contains(other));
        let forget =
            others.map(|other| format!("conntrack -D -p udp --reply-src {}; ", pod(other)));
        // It fails where there are none.
        let mut sh = self.node.command("sh");
        let forget = sh.args(["-c", &forget.collect::<String>()]).output();
        let _: Output = forget.expect("ip is installed");
    }

    /// A pod has ended; kube-proxy does not know.
    pub(crate) fn end(&self, endpoint: u8, fate: Fate) {
        let address = pod(endpoint);
        let set = match fate {
            Fate::Refuses | Fate::RefusesAlways => "refused",
            Fate::HostUnreachable => "unreachable",
            Fate::Silent => "silent",
            Fate::NoNeighbour => {
                self.pods.ip(&format!("addr del {address}/32 dev node"));
                // What is known of it is good for some seconds otherwise.
                self.node.ip("neigh flush dev pods");
                return;
            }
        };
        let limited = fate == Fate::Refuses;
        let mask = format!("net.ipv4.icmp_ratemask={}", if limited { 6168 } else { 0 });
        self.pods.run("sysctl", &["-q", "-w", &mask]);
        let add = format!("add element inet fates {set} {{ {address} }}");
        self.pods.run("nft", &[&add]);
    }

    /// nodens on the node, before these servers.
    pub(crate) fn nodens(&self, servers: &[&str]) -> Instance {
        let yaml = format!(
            "listen: [\"127.0.0.1:53\"]\nworkers: 2\nupstreams: {{cluster: {{servers: [{}]}}}}\n",
            servers.join(", ")
        );
        Instance::start(&self.node, &self.dir, "nodens", &yaml)
    }
}

fn pod(number: u8) -> String {
    format!("10.9.1.{number}")
}
