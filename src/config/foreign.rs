//! Files that are no configuration of ours: a Corefile in a ConfigMap, which is read, and others, which are named.

use std::collections::BTreeMap;
use std::net::IpAddr;

use figment::value::{Dict, Value};

use super::yaml;

/// Kubernetes objects, as `kubectl get -o yaml` or `-o json` prints them.
#[derive(Debug, Default)]
pub(super) struct ConfigMaps {
    /// What `data.Corefile` holds.
    pub(super) corefile: Option<HeldCorefile>,
    /// The other keys of `data`, and what they hold.
    pub(super) others: BTreeMap<String, String>,
}

/// A Corefile within a ConfigMap.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HeldCorefile {
    /// The text around it is replaced by white space, so that lines and columns are those of the file.
    InPlace(String),
    /// By itself, because it is written in quotes.
    Apart(String),
}

/// The ConfigMaps that a text holds; none if it is no Kubernetes object.
pub(super) fn config_maps(text: &str) -> Option<ConfigMaps> {
    // Most files are none, and need not be read twice.
    if !text.contains("kind") || !text.contains("data") {
        return None;
    }
    let (document, _) = yaml::parse(text);
    let top = document?.dict;
    let kind = |dict: &Dict, kind: &str| dict.get("kind").and_then(Value::as_str) == Some(kind);
    let mut found = ConfigMaps::default();
    let mut objects = Vec::new();
    if kind(&top, "ConfigMap") {
        objects.push(&top);
    } else if kind(&top, "List") || kind(&top, "ConfigMapList") {
        let items = top
            .get("items")
            .and_then(Value::as_array)
            .unwrap_or_default();
        objects.extend(items.iter().filter_map(Value::as_dict));
    } else {
        return None;
    }
    for object in objects {
        let data = object.get("data").and_then(Value::as_dict);
        for (key, value) in data.into_iter().flatten() {
            let content = value.as_str().unwrap_or_default().to_owned();
            if key == "Corefile" && found.corefile.is_none() {
                found.corefile = Some(held(text, content));
            } else {
                found.others.insert(key.clone(), content);
            }
        }
    }
    Some(found)
}

fn held(text: &str, content: String) -> HeldCorefile {
    let words =
        |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    in_place(text)
        .filter(|found| words(found) == words(&content))
        .map_or(HeldCorefile::Apart(content), HeldCorefile::InPlace)
}

/// The block behind `Corefile: |`, where it stands.
fn in_place(text: &str) -> Option<String> {
    let lines: Vec<&str> = text.lines().collect();
    let indentation = |line: &str| line.len() - line.trim_start().len();
    let starts =
        |line: &&str| ["Corefile: |", "Corefile: |-", "Corefile: |+"].contains(&line.trim());
    let start = lines.iter().position(starts)?;
    let outside = indentation(lines[start]);
    let mut found = "\n".repeat(start + 1);
    for line in &lines[start + 1..] {
        if !line.trim().is_empty() && indentation(line) <= outside {
            break;
        }
        found.push_str(line);
        found.push('\n');
    }
    Some(found)
}

/// The lines of a text that are neither empty nor comments, without their indentation.
fn lines_of(text: &str) -> impl Iterator<Item = &str> {
    let trimmed = text.lines().map(str::trim);
    trimmed.filter(|line| !line.is_empty() && !line.starts_with(['#', ';']))
}

/// What foreign file this is, with the remedy, if it may be YAML; none if it may be a configuration of ours.
pub(super) fn in_yaml(file: &str, text: &str) -> Option<String> {
    if let Some(maps) = config_maps(text) {
        let keys: Vec<&String> = maps.others.keys().collect();
        return Some(if maps.corefile.is_some() {
            format!(
                "is a Kubernetes ConfigMap that holds a Corefile; `nodens import {file}` reads it"
            )
        } else {
            no_corefile(&keys)
        });
    }
    let mut lines = text.lines();
    if lines.clone().any(|line| line.starts_with("apiVersion:")) {
        return Some(
            "is a Kubernetes object; write the configuration into a file of its own".to_owned(),
        );
    }
    let of_unbound = ["server:", "forward-zone:", "stub-zone:"];
    lines.any(|line| of_unbound.contains(&line.trim_end())).then(|| {
        "looks like a configuration of Unbound; here a forward-addr is a server of `upstreams:`, a forward-zone a key of `routes:`"
            .to_owned()
    })
}

/// What foreign file this is, with the remedy, if it holds no table of YAML.
pub(super) fn in_lines(file: &str, text: &str) -> Option<String> {
    const OF_RESOLV_CONF: [&str; 4] = ["nameserver", "search", "options", "domain"];
    const OF_DNSMASQ: [&str; 7] = [
        "server=",
        "address=",
        "no-resolv",
        "resolv-file=",
        "listen-address=",
        "cache-size=",
        "domain-needed",
    ];
    const OF_BIND: [&str; 4] = ["options {", "options{", "zone \"", "forwarders {"];
    let any = |starts: &[&str]| {
        lines_of(text).any(|line| starts.iter().any(|start| line.starts_with(start)))
    };
    let mut words = lines_of(text).next()?.split_whitespace();
    let (first, second) = (words.next()?, words.next());
    let what = if OF_RESOLV_CONF.contains(&first) && any(&["nameserver"]) {
        "looks like a resolv.conf; name it in `upstreams: {NAME: {servers: [/etc/resolv.conf]}}`"
    } else if first.parse::<IpAddr>().is_ok() && second.is_some() {
        "looks like a hosts file; name it in `hosts:`"
    } else if any(&OF_DNSMASQ) {
        "looks like a configuration of dnsmasq; here server=IP is a server of `upstreams:`, server=/ZONE/IP a group with a route in \
         `routes:`, address=/NAME/IP a name in `records:`"
    } else if any(&OF_BIND) {
        "looks like a configuration of BIND; here forwarders are servers of `upstreams:`, and a zone of type forward is a key of `routes:`"
    } else if lines_of(text).any(|line| line.ends_with('{') && !line.starts_with('{')) {
        return Some(format!(
            "looks like a Corefile; its name must hold the word Corefile, or `nodens import {file}` reads it"
        ));
    } else {
        return None;
    };
    Some(what.to_owned())
}

/// What a ConfigMap holds in place of a Corefile.
pub(super) fn no_corefile(keys: &[&String]) -> String {
    let keys: Vec<&str> = keys.iter().map(|key| key.as_str()).collect();
    format!(
        "is a Kubernetes ConfigMap without a Corefile; write what one of its keys holds into a file of its own; keys: {}",
        keys.join(", ")
    )
}
