//! `node:`, the addresses and the interface that nodens itself sets up on the node.
//!
//! Checks what the configuration alone can show. `src/node/` finds out what the kernel allows and which addresses are
//! taken.

use std::net::{IpAddr, SocketAddr};

use figment::value::Value;
use serde_json::{Value as Json, json};

use super::error::{Missing, Problem};
use super::leaf::{Leaf, Range, not_a, show_list, show_text, show_value};
use super::limits;
use super::read::{Report, Section, list_items};
use super::shape::{self, Shape};
use super::{InterfaceConfig, InterfaceKind, NodeConfig, OnExit};

impl Leaf for IpAddr {
    const EXPECTED: &'static str =
        "an address without port and prefix length such as 169.254.20.53 or fd00::53";

    fn parse(value: &Value) -> Result<Self, Problem> {
        let address = value.as_str().and_then(|text| text.parse().ok());
        address.ok_or_else(|| not_a::<Self>(value))
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn schema(_: Option<&Range<Self>>) -> Json {
        shape::address()
    }
}

/// `None` where there is no `node:`, or nothing in it.
pub(super) fn read(
    top: &Section<'_>,
    report: &Report<'_>,
    listen: &[SocketAddr],
) -> Option<NodeConfig> {
    top.note("node", || {
        let null = Shape::of([json!({"type": "null"})]).with_default(Json::Null);
        null.or_table(json!({"required": ["addresses"]}))
    });
    let value = top.value("node").filter(|value| value.to_empty().is_none());
    let Some(value) = value else {
        top.setting("node", "null".to_owned());
        return None;
    };
    // Reports a value that is no table; missing keys in it are then not reported.
    let section = top.part("node");
    value.as_dict()?;
    let addresses = read_addresses(&section, report, listen);
    let interface = read_interface(&section);
    let node = NodeConfig {
        addresses,
        interface,
        notrack: section.read("notrack", true),
        on_exit: section.read("on_exit", OnExit::Keep),
    };
    section.finish();
    Some(node)
}

fn read_addresses(
    section: &Section<'_>,
    report: &Report<'_>,
    listen: &[SocketAddr],
) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    section.note("addresses", || {
        Shape::list(IpAddr::schema(None))
            .counting(1, limits::MAX_NODE_ADDRESSES)
            .unique()
    });
    let value = section.value("addresses");
    let items = value.map_or_else(Vec::new, |value| {
        list_items(&section.path("addresses"), value)
    });
    for (path, item) in &items {
        let Some(address) = report.leaf::<IpAddr>(path, item) else {
            continue;
        };
        let value = show_value(item);
        let problem = if let Some(why) = unusable(address) {
            Some(Problem::Unusable { value, why })
        } else if addresses.contains(&address) {
            let first = String::new();
            Some(Problem::Twice { value, first })
        } else if !listen.iter().any(|listen| covers(*listen, address)) {
            Some(Problem::NotListening { address })
        } else {
            addresses.push(address);
            None
        };
        if let Some(problem) = problem {
            report.error_at(path, item, problem);
        }
    }
    let count = items.len();
    if count == 0 {
        // A missing key has no line, so the line of the table is reported.
        let origin = value.map_or_else(|| section.own_origin(), |_| section.origin("addresses"));
        let problem = Problem::Missing(Missing::NodeAddresses);
        report.error(origin, &section.path("addresses"), problem);
    } else if count > limits::MAX_NODE_ADDRESSES {
        let limit = limits::MAX_NODE_ADDRESSES;
        section.error("addresses", Problem::TooMany { count, limit });
    }
    section.setting("addresses", show_list(&addresses));
    addresses
}

/// Whether a socket bound to `listen` gets what is sent to `address`. `[::]` does not take IPv4 here: our sockets are
/// `IPV6_V6ONLY`.
fn covers(listen: SocketAddr, address: IpAddr) -> bool {
    let any = listen.ip().is_unspecified() && listen.is_ipv4() == address.is_ipv4();
    any || listen.ip() == address
}

fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some(
            "this stands for all addresses of the node; write the one that pods ask, such as 169.254.20.53",
        );
    }
    if address.is_multicast() {
        return Some(
            "this is a multicast address; write one for a single host, such as 169.254.20.53",
        );
    }
    if address.is_loopback() {
        return Some(
            "inside a pod this is the pod itself; write an address that leads to the node, such as 169.254.20.53",
        );
    }
    match address {
        IpAddr::V4(ip) if ip.is_broadcast() => Some(
            "this is the broadcast address; write one for a single host, such as 169.254.20.53",
        ),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => {
            Some("this is an IPv4 address in IPv6 clothes; write the IPv4 address")
        }
        IpAddr::V6(ip) if ip.is_unicast_link_local() => Some(
            "a link-local IPv6 address means another host on each link; write a unique local one, such as fd00::53",
        ),
        _ => None,
    }
}

fn read_interface(section: &Section<'_>) -> InterfaceConfig {
    let section = section.section("interface");
    let kind = section.read("kind", InterfaceKind::Dummy);
    let default = match kind {
        InterfaceKind::Dummy => "nodens",
        InterfaceKind::Loopback => "lo",
    };
    section.note("name", || {
        let characters = format!("[A-Za-z0-9_.-]{{1,{}}}", limits::MAX_INTERFACE_NAME);
        let mut name = shape::pattern(&characters);
        name["type"] = shape::text()["type"].take();
        Shape::of([name])
    });
    let name = section.read_noted("name", default.to_owned());
    if !is_interface_name(&name) {
        let value = show_text(&name);
        section.error("name", Problem::InterfaceName { value });
    } else if kind == InterfaceKind::Dummy && name == "lo" {
        let why = "this is the loopback interface; write kind: loopback beside it, or another name";
        section.error(
            "name",
            Problem::Unusable {
                value: name.clone(),
                why,
            },
        );
    }
    section.finish();
    InterfaceConfig { name, kind }
}

/// The kernel takes more, but `%` is a pattern to it, and the rest (spaces, quotes) breaks other people's scripts.
fn is_interface_name(name: &str) -> bool {
    let valid = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    (1..=limits::MAX_INTERFACE_NAME).contains(&name.len())
        && name.chars().all(valid)
        && !matches!(name, "." | "..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_covers_its_own_family_only() {
        let covers = |listen: &str, address: &str| {
            covers(
                listen.parse().expect("an address and port"),
                address.parse().expect("an address"),
            )
        };
        assert!(covers("169.254.20.53:53", "169.254.20.53"));
        assert!(covers("0.0.0.0:53", "169.254.20.53"));
        assert!(covers("[::]:53", "fd00::53"));
        assert!(!covers("[::]:53", "169.254.20.53"));
        assert!(!covers("0.0.0.0:53", "fd00::53"));
        assert!(!covers("169.254.20.54:53", "169.254.20.53"));
    }

    #[test]
    fn names_that_an_interface_can_have() {
        for good in ["nodens", "lo", "dns0", "a-b_c.d", "fifteen-bytes-x"] {
            assert!(is_interface_name(good), "{good}");
        }
        for bad in [
            "",
            ".",
            "..",
            "a/b",
            "a b",
            "dns%d",
            "eth0:1",
            "sixteen-bytes-xy",
            "ü",
        ] {
            assert!(!is_interface_name(bad), "{bad}");
        }
    }
}
