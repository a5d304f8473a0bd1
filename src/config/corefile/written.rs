//! Our configuration as YAML text, in the order of the reference.

use std::fmt::Write;
use std::net::IpAddr;

use figment::value::{Dict, Empty, Tag, Value};

use crate::config::path::KeyPath;
use crate::config::yaml::Document;

/// Keys at the top, in the order in which a reader wants them.
const ORDER: [&str; 12] = [
    "listen",
    "allow",
    "admin",
    "metrics",
    "shutdown_grace",
    "upstreams",
    "routes",
    "private_zones",
    "records",
    "hosts",
    "cache",
    "log",
];

/// Tables that have a line for each of their keys; those below stand in braces.
const OPEN: [&str; 3] = ["upstreams", "routes", "records"];

/// Keys that the chart sets by its mode.
const OF_THE_CHART: [&str; 4] = ["listen", "allow", "admin", "metrics"];

/// The same as values of the chart, which sets by itself where to listen and who may ask.
pub(super) fn values(document: &Document, cluster_dns: Option<IpAddr>) -> String {
    let mut document = document.clone();
    // The networks of an `acl` are the user's choice; `allow: all` is only CoreDNS's default.
    let allow = document
        .dict
        .get("allow")
        .filter(|allow| allow.as_array().is_some());
    let allow = allow.map(written);
    document
        .dict
        .retain(|key, _| !OF_THE_CHART.contains(&key.as_str()));
    if let Some(routes) = document.dict.get_mut("routes").and_then(as_table) {
        for route in routes.values_mut().filter_map(as_table) {
            // The chart writes it there, and the two exclude each other.
            let cache = route.get_mut("cache").and_then(as_table);
            if let Some(ttl) = cache.and_then(|cache| cache.remove("max_negative_ttl")) {
                route.insert("max_negative_ttl".to_owned(), ttl);
            }
        }
        for (zone, route) in routes.iter_mut() {
            // The chart may have a route to kube-dns there, which an answer excludes.
            let charts = ["local", "arpa"].iter().any(|end| zone.ends_with(end));
            if let Some(route) =
                as_table(route).filter(|route| charts && route.contains_key("answer"))
            {
                for key in ["group", "max_negative_ttl"] {
                    route.insert(key.to_owned(), Value::Empty(Tag::Default, Empty::None));
                }
            }
        }
    }
    let all_names = document.dict.get("routes").and_then(Value::as_dict);
    let all_names = all_names.is_some_and(|routes| routes.contains_key("."));
    let mut out = String::new();
    if let Some(address) = cluster_dns {
        let _ = writeln!(out, "clusterDNS: {}", scalar(&address.to_string()));
    }
    if let Some(allow) = allow {
        let _ = writeln!(out, "allow: {allow}");
    }
    out.push_str("config:\n");
    for line in yaml(&document).lines() {
        let _ = writeln!(out, "  {line}");
        if line == "upstreams:" && all_names && !has_group(&document, "vpc") {
            // No route leads to it.
            out.push_str("    vpc: null  # the chart's own\n");
        }
    }
    out
}

fn as_table(value: &mut Value) -> Option<&mut Dict> {
    match value {
        Value::Dict(_, dict) => Some(dict),
        _ => None,
    }
}

fn has_group(document: &Document, name: &str) -> bool {
    let upstreams = document.dict.get("upstreams").and_then(Value::as_dict);
    upstreams.is_some_and(|groups| groups.contains_key(name))
}

pub(super) fn yaml(document: &Document) -> String {
    let rank = |key: &str| {
        ORDER
            .iter()
            .position(|known| *known == key)
            .unwrap_or(ORDER.len())
    };
    let mut keys: Vec<&String> = document.dict.keys().collect();
    keys.sort_by_key(|key| rank(key));
    let mut out = String::new();
    for key in keys {
        let path = KeyPath::default().key(key);
        let value = &document.dict[key];
        match value {
            Value::Dict(_, below) if OPEN.contains(&key.as_str()) => {
                let _ = writeln!(out, "{key}:");
                table(&mut out, document, &path, below);
            }
            _ => line(&mut out, document, &path, "", key, value),
        }
    }
    out
}

fn table(out: &mut String, document: &Document, path: &KeyPath, dict: &Dict) {
    for (key, value) in dict {
        line(out, document, &path.key(key), "  ", key, value);
    }
}

fn line(
    out: &mut String,
    document: &Document,
    path: &KeyPath,
    indent: &str,
    key: &str,
    value: &Value,
) {
    let mut text = format!("{indent}{}: {}", scalar(key), written(value));
    if let (Some(line), Some(file)) = (document.lines.get(path), document.files.get(path)) {
        let name = file
            .file_name()
            .unwrap_or(file.as_os_str())
            .to_string_lossy();
        let _ = write!(text, "  # {name}:{line}");
    }
    let _ = writeln!(out, "{text}");
}

fn written(value: &Value) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Value::Dict(_, dict) => {
            let entries = dict
                .iter()
                .map(|(key, value)| format!("{}: {}", scalar(key), written(value)));
            format!("{{{}}}", list(entries.collect()))
        }
        Value::Array(_, items) => format!("[{}]", list(items.iter().map(written).collect())),
        Value::String(_, text) => scalar(text),
        Value::Bool(_, truth) => truth.to_string(),
        Value::Num(..) => value.to_u128().unwrap_or_default().to_string(),
        Value::Char(_, character) => scalar(&character.to_string()),
        Value::Empty(..) => "null".to_owned(),
    }
}

/// Text that YAML reads as the same text.
fn scalar(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "._/:-".contains(character);
    let safe = text.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/')
        && text.chars().all(plain)
        && !text.ends_with(':')
        // Numbers, and words that mean something else.
        && text.contains(|character: char| character.is_ascii_alphabetic() || character == '/' || character == ':' || text.matches('.').count() > 1)
        && !["null", "true", "false"].contains(&text.to_ascii_lowercase().as_str());
    if safe {
        text.to_owned()
    } else {
        format!("{text:?}")
    }
}

#[cfg(test)]
mod tests {
    use figment::value::{Tag, Value};

    use super::scalar;
    use crate::config::yaml;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            ".",
            "cluster.local",
            "10.0.0.2",
            "[::]:53",
            "fd00::1",
            "0.0.0.0:53",
            "tls://9.9.9.9#dns.quad9.net",
            "*.dev.example",
            "5",
            "007",
            "1.5",
            "true",
            "null",
            "off",
            "30s",
            "64:ff9b::/96",
            "a b",
            "/etc/resolv.conf",
            "example.org NS",
            "1e3",
            "x:",
        ] {
            let (document, errors) = yaml::parse(&format!("key: [{}]\n", scalar(text)));
            assert!(errors.is_empty(), "{text}");
            let document = document.expect("a table");
            let items = document.dict["key"].as_array().expect("a list");
            assert_eq!(
                items,
                [Value::String(Tag::Default, text.to_owned())],
                "{}",
                scalar(text)
            );
        }
    }
}
