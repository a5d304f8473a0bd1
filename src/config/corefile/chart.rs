//! What a Corefile becomes as values of the Helm chart, without what the chart works out by itself.
//!
//! The chart merges its value `config` over a configuration of its own, table by table (`nodens.merge` in its `_config.tpl`):
//! a group without `servers` has those of the chart.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

use figment::value::{Dict, Empty, Tag, Value};

use super::TranslatedCorefile;
use super::server::PROBE_OF_KUBE_DNS;
use super::written::{scalar, written, yaml};
use crate::config::Transport;
use crate::config::named::ServerSource;
use crate::config::path::KeyPath;
use crate::config::servers::{self, DNS_PORT, ServerEntry};
use crate::config::yaml::Document;

/// Keys that the chart sets by its mode.
const OF_THE_CHART: [&str; 4] = ["listen", "allow", "admin", "metrics"];

/// The chart's group for kube-dns. How kube-dns is reached depends on the chart's mode: its own address may lead to nodens.
const CLUSTER: &str = "cluster";

/// A comment in the values where the Corefile has `force_tcp`.
const OVER_UDP: &str =
    "kube-dns is asked over UDP, not over TCP as by force_tcp: its servers are the chart's";

/// The values. `cluster_dns` is written among them.
pub(super) fn values(corefile: &TranslatedCorefile, cluster_dns: Option<IpAddr>) -> String {
    let mut document = corefile.document.clone();
    // The networks of an `acl` are the user's choice; `allow: all` is only CoreDNS's default.
    let allow = document
        .dict
        .get("allow")
        .filter(|allow| allow.as_array().is_some());
    let allow = allow.map(written);
    document
        .dict
        .retain(|key, _| !OF_THE_CHART.contains(&key.as_str()));
    let comments = use_group_of_the_chart(&mut document, corefile.kube_dns);
    adapt_routes(&mut document);
    let has = |table: &str, key: &str| {
        let table = document.dict.get(table).and_then(Value::as_dict);
        table.is_some_and(|table| table.contains_key(key))
    };
    let vpc_unused = has("routes", ".") && !has("upstreams", "vpc");
    let groups = document.dict.get("upstreams").and_then(Value::as_dict);
    if groups.is_some_and(Dict::is_empty) && !vpc_unused {
        // Without anything below it the key would take all groups away.
        document.dict.remove("upstreams");
    }
    let mut out = String::new();
    if let Some(address) = cluster_dns {
        let _ = writeln!(out, "clusterDNS: {}", scalar(&address.to_string()));
    }
    if let Some(allow) = allow {
        let _ = writeln!(out, "allow: {allow}");
    }
    out.push_str("config:\n");
    for comment in comments {
        let _ = writeln!(out, "  # {comment}");
    }
    for line in yaml(&document).lines() {
        let _ = writeln!(out, "  {line}");
        if line == "upstreams:" && vpc_unused {
            // No route leads to it.
            out.push_str("    vpc: null  # the chart's own\n");
        }
    }
    out
}

/// Has routes to kube-dns lead to the chart's group. Returns comments on what that changes.
fn use_group_of_the_chart(document: &mut Document, kube_dns: Option<IpAddr>) -> Vec<String> {
    let Some(Value::Dict(_, groups)) = document.dict.remove("upstreams") else {
        return Vec::new();
    };
    let is_kube_dns = |(_, group): &(String, Value)| transport_to(group, kube_dns).is_some();
    let (to_kube_dns, mut groups): (Dict, Dict) = groups.into_iter().partition(is_kube_dns);
    let (mut renamed, mut comments) = (Vec::new(), Vec::new());
    if let Some(other) = groups.remove(CLUSTER) {
        let mut number = 2;
        let mut name = format!("{CLUSTER}-{number}");
        while groups.contains_key(&name) || to_kube_dns.contains_key(&name) {
            number += 1;
            name = format!("{CLUSTER}-{number}");
        }
        groups.insert(name.clone(), other);
        renamed.push((CLUSTER.to_owned(), name));
    }
    let mut to_kube_dns: Vec<(String, Value)> = to_kube_dns.into_iter().collect();
    // Keys of the group that has the name already come first.
    to_kube_dns.sort_by_key(|(name, _)| name != CLUSTER);
    let mut cluster = Dict::new();
    for (name, group) in to_kube_dns {
        let options = options_of(&group);
        let path = KeyPath::default().key("upstreams").key(&name);
        if let Some(key) = first_difference(&path, &options, &cluster) {
            comments.push(format!(
                "{key} is not that of {CLUSTER}, so this group asks kube-dns by itself. With mode nodeLocal or Cilium's \
                 frontend kubeDNS delete it, and write {CLUSTER} in its routes"
            ));
            groups.insert(name, group);
            continue;
        }
        let over_tcp = transport_to(&group, kube_dns) == Some(Transport::Tcp);
        if over_tcp && !comments.iter().any(|comment| comment == OVER_UDP) {
            comments.push(OVER_UDP.to_owned());
        }
        merge(&mut cluster, options);
        renamed.push((name, CLUSTER.to_owned()));
    }
    if !cluster.is_empty() {
        groups.insert(CLUSTER.to_owned(), Value::Dict(Tag::Default, cluster));
    }
    let groups = Value::Dict(Tag::Default, groups);
    document.dict.insert("upstreams".to_owned(), groups);
    for (from, to) in renamed {
        rename(document, &from, &to);
    }
    comments
}

/// How a group asks kube-dns; none if it asks another server.
fn transport_to(group: &Value, kube_dns: Option<IpAddr>) -> Option<Transport> {
    let [server] = group.as_dict()?.get("servers")?.as_array()? else {
        return None;
    };
    let Ok(ServerEntry::Source(ServerSource::Address(server))) = servers::parse(server.as_str()?)
    else {
        return None;
    };
    let is_dns = matches!(server.transport, Transport::Udp | Transport::Tcp);
    let is_kube_dns = server.address == SocketAddr::new(kube_dns?, DNS_PORT);
    (is_dns && is_kube_dns).then_some(server.transport)
}

/// What a group for kube-dns has beside its servers, and the chart does not write by itself.
fn options_of(group: &Value) -> Dict {
    let mut options = group.as_dict().cloned().unwrap_or_default();
    options.remove("servers");
    // The chart's is the same with its own `clusterDomain`.
    options.retain(|key, value| key != "probe" || value.as_str() != Some(PROBE_OF_KUBE_DNS));
    options
}

/// The first key that both tables have with different values.
fn first_difference(path: &KeyPath, one: &Dict, other: &Dict) -> Option<KeyPath> {
    one.iter().find_map(|(key, value)| {
        let path = path.key(key);
        match (value, other.get(key)?) {
            (Value::Dict(_, one), Value::Dict(_, other)) => first_difference(&path, one, other),
            (value, other) => (value != other).then_some(path),
        }
    })
}

/// Adds the keys of another table, and those of its tables.
fn merge(into: &mut Dict, from: Dict) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Dict(_, into)), Value::Dict(_, from)) => merge(into, from),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// Has routes to a group, and servers whose names it resolves, say another group's name.
fn rename(document: &mut Document, from: &str, to: &str) {
    let path = |name: &str| KeyPath::default().key("upstreams").key(name);
    if let Some(line) = document.lines.remove(&path(from)) {
        document.lines.entry(path(to)).or_insert(line);
    }
    if let Some(file) = document.files.remove(&path(from)) {
        document.files.entry(path(to)).or_insert(file);
    }
    let routes = table(document, "routes").into_iter().flatten();
    for (_, route) in routes {
        let group = match route {
            Value::Dict(_, route) => route.get_mut("group"),
            name => Some(name),
        };
        if let Some(group) = group.filter(|group| group.as_str() == Some(from)) {
            *group = Value::from(to);
        }
    }
    let via = format!("@{from}");
    let groups = table(document, "upstreams").into_iter().flatten();
    for (_, group) in groups {
        let Some(Value::Array(_, servers)) =
            as_table(group).and_then(|group| group.get_mut("servers"))
        else {
            continue;
        };
        for server in servers {
            let host = server.as_str().and_then(|server| server.strip_suffix(&via));
            if let Some(renamed) = host.map(|host| format!("{host}@{to}")) {
                *server = Value::from(renamed);
            }
        }
    }
}

/// Writes routes so that they may stand over those of the chart.
fn adapt_routes(document: &mut Document) {
    let routes = table(document, "routes").into_iter().flatten();
    for (zone, route) in routes {
        let Some(route) = as_table(route) else {
            continue;
        };
        // The chart writes it there, and the two exclude each other.
        let cache = route.get_mut("cache").and_then(as_table);
        if let Some(ttl) = cache.and_then(|cache| cache.remove("max_negative_ttl")) {
            route.insert("max_negative_ttl".to_owned(), ttl);
        }
        // The chart may have a route to kube-dns there, which an answer excludes.
        let charts = ["local", "arpa"].iter().any(|end| zone.ends_with(end));
        if charts && route.contains_key("answer") {
            for key in ["group", "max_negative_ttl"] {
                route.insert(key.to_owned(), Value::Empty(Tag::Default, Empty::None));
            }
        }
    }
}

fn table<'d>(document: &'d mut Document, key: &str) -> Option<&'d mut Dict> {
    document.dict.get_mut(key).and_then(as_table)
}

fn as_table(value: &mut Value) -> Option<&mut Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}
