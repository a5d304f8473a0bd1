//! Our configuration as YAML text, in the order of the reference.

use std::fmt::Write;

use figment::value::{Dict, Value};

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

/// The whole configuration.
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

/// A value on one line.
pub(super) fn written(value: &Value) -> String {
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
pub(super) fn scalar(text: &str) -> String {
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
