//! `allow`: the networks whose clients are answered.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use figment::value::Value;
use ipnet::IpNet;
use serde_json::json;

use super::error::{Missing, Problem};
use super::leaf::{several, show_list, show_value};
use super::limits;
use super::read::{Report, Section, list_items};
use super::shape::{self, Shape};

/// Loopback, link-local, RFC 1918, RFC 6598 and RFC 4193: where pods, nodes and sidecars are.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "::1/128",
    "169.254.0.0/16",
    "fe80::/10",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
];

/// Both families, whole.
const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];

fn networks(words: &[&str]) -> Vec<IpNet> {
    words
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect()
}

pub(super) fn read_allow(top: &Section<'_>, report: &Report<'_>) -> Vec<IpNet> {
    let mut allow = Vec::new();
    let mut shown = vec!["private".to_owned()];
    top.note("allow", || {
        let networks = json!({"anyOf": [shape::words(&["private", "all"]), shape::network()]});
        Shape::list(networks)
            .counting(1, limits::MAX_NETWORKS)
            .with_default(["private"].as_slice())
    });
    match top.value("allow") {
        None => allow = networks(&PRIVATE),
        Some(value) => {
            let items = list_items(&top.path("allow"), value);
            for (path, item) in &items {
                match client_networks(item) {
                    Ok(networks) => allow.extend(networks),
                    Err(problem) => report.error_at(path, item, problem),
                }
            }
            if items.is_empty() {
                top.error("allow", Problem::Missing(Missing::Allow));
            }
            top.check_count("allow", items.len(), limits::MAX_NETWORKS);
            shown = items.iter().map(|(_, item)| show_value(item)).collect();
        }
    }
    top.setting("allow", show_list(shown));
    let mut seen = BTreeSet::new();
    allow.retain(|network| seen.insert(*network));
    allow
}

fn client_networks(value: &Value) -> Result<Vec<IpNet>, Problem> {
    let not_a_network = || Problem::NotA {
        value: show_value(value),
        expected: "a network such as 10.0.0.0/8, an address, or the word private or all",
    };
    match value.as_str() {
        Some("private") => Ok(networks(&PRIVATE)),
        Some("all") => Ok(networks(&ALL)),
        Some(text) => {
            if let Some(problem) = several(text, |part| client_networks(&part.into()).is_ok()) {
                return Err(problem);
            }
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            let network = text.parse::<IpNet>().or_else(|_| address());
            network
                .map(|network| vec![network.trunc()])
                .map_err(|_| not_a_network())
        }
        None => Err(not_a_network()),
    }
}

/// An address that strangers may reach, where everybody is answered.
pub(super) fn warn_open_resolver(report: &Report<'_>, listen: &[SocketAddr], allow: &[IpNet]) {
    let private = networks(&PRIVATE);
    let is_open = |address: &&SocketAddr| {
        let ip = address.ip();
        let everybody = |network: &IpNet| network.prefix_len() == 0 && network.contains(&ip);
        !private.iter().any(|network| network.contains(&ip)) && allow.iter().any(everybody)
    };
    if let Some(address) = listen.iter().find(is_open) {
        report.warn(format!(
            "listen: {address}: whoever reaches this address is answered (allow: all). If strangers do, they can flood others \
             with replies; write the clients' networks in allow, such as private"
        ));
    }
}
