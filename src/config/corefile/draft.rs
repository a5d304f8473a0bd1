//! What a Corefile becomes: keys and values of our configuration with the places that set them, and remarks.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use figment::value::{Dict, Tag, Value};

use super::syntax::{Directive, Place, Word};
use crate::config::path::KeyPath;
use crate::config::yaml::Document;

/// How a line was translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LineVerdict {
    /// It has the same effect here as in CoreDNS.
    Taken,
    /// It is translated, with a difference.
    Differs,
    /// It has no counterpart here; answers are the same without it.
    NoCounterpart,
}

impl LineVerdict {
    /// As it is printed.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Differs => "differs",
            Self::NoCounterpart => "no counterpart",
        }
    }
}

/// A remark about the translation of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The Corefile, or what it imports.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// What became of it.
    pub verdict: LineVerdict,
    /// The keys that it became, or the difference and its consequence.
    pub note: String,
}

impl std::fmt::Display for Remark {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            file, line, text, ..
        } = self;
        write!(
            f,
            "{}:{line}: {text}: {}: {}",
            file.display(),
            self.verdict.word(),
            self.note
        )
    }
}

/// What to do about a plugin that CoreDNS does not have by itself.
const EXTERNAL: &str = " in CoreDNS itself; if it is an external one, leave the CoreDNS that has it as it is, and route its zones to it";

/// Why a line cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LineRefusal {
    /// No plugin of CoreDNS that we know.
    #[error("{name}: there is no such plugin{}", meant.as_ref().map_or_else(|| EXTERNAL.to_owned(), |meant| format!("; did you mean {meant}?")))]
    NoPlugin {
        /// As typed.
        name: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// An option of a plugin that we do not know.
    #[error("{plugin} {option}: there is no such option")]
    NoOption {
        /// The plugin.
        plugin: &'static str,
        /// As typed.
        option: String,
    },
    /// A word that is not what is wanted there.
    #[error("{typed:?} where {expected} is expected")]
    Unexpected {
        /// As typed; empty at the end of a line.
        typed: String,
        /// What is wanted.
        expected: &'static str,
    },
    /// Leaving the line out would change what clients get.
    #[error("{what} has no counterpart, and without it clients would get other answers; {remedy}")]
    ChangesAnswers {
        /// What.
        what: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Plugins without a server block, as in a part that is to be imported into one.
    #[error("{name} is a plugin, not a zone; put it into a server block such as .:53 {{ … }}")]
    PluginAsZone {
        /// As typed.
        name: String,
    },
    /// The address of kube-dns is not known.
    #[error(
        "where is kube-dns? Say it by --cluster-dns ADDRESS (`kubectl -n kube-system get service kube-dns` shows it)"
    )]
    NoClusterDns,
    /// Two server blocks for one zone.
    #[error(
        "the zone {zone} is here twice, first on line {first}; there is one set of routes for all addresses here, so run an instance for each"
    )]
    ZoneTwice {
        /// The zone.
        zone: String,
        /// Where it was first.
        first: usize,
    },
}

/// A drafted group of servers.
#[derive(Debug, Clone)]
pub(super) struct DraftGroup {
    pub(super) name: String,
    pub(super) servers: Vec<String>,
    /// Further keys of the group.
    pub(super) options: Vec<(Vec<&'static str>, Value, Place)>,
    pub(super) place: Place,
}

/// How the names of a zone are answered.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    /// Names of a group.
    Group(String),
    /// `NXDOMAIN`, `NODATA`, `REFUSED`, or addresses.
    Answer(Value),
}

/// A drafted route.
#[derive(Debug, Clone)]
pub(super) struct DraftRoute {
    pub(super) target: Target,
    /// Further keys of the route.
    pub(super) options: Vec<(&'static str, Value)>,
    pub(super) place: Place,
}

/// The drafted configuration, with remarks and mistakes.
#[derive(Debug, Default)]
pub(super) struct Draft {
    pub(super) groups: Vec<DraftGroup>,
    pub(super) routes: BTreeMap<String, DraftRoute>,
    /// Keys at the top, such as `cache.prefetch.hits`.
    pub(super) keys: Vec<(Vec<&'static str>, Value, Place)>,
    /// Where /health, /ready and /metrics are served.
    pub(super) observed: BTreeMap<SocketAddr, Place>,
    pub(super) records: BTreeMap<String, (Vec<IpAddr>, Place)>,
    /// Names that are aliases, and of what.
    pub(super) aliases: BTreeMap<String, (String, Place)>,
    pub(super) remarks: Vec<Remark>,
    pub(super) refusals: Vec<(Place, LineRefusal)>,
}

impl Draft {
    /// Adds a remark about a line.
    pub(super) fn remark(
        &mut self,
        directive: &Directive,
        verdict: LineVerdict,
        note: impl Into<String>,
    ) {
        self.remark_at(&directive.name.place, directive.shown(), verdict, note);
    }

    /// Adds a remark about a text that is no directive.
    pub(super) fn remark_at(
        &mut self,
        place: &Place,
        text: String,
        verdict: LineVerdict,
        note: impl Into<String>,
    ) {
        self.remarks.push(Remark {
            file: place.file.to_path_buf(),
            line: place.line,
            text,
            verdict,
            note: note.into(),
        });
    }

    /// A line that cannot be taken.
    pub(super) fn refuse(&mut self, place: &Place, refusal: LineRefusal) {
        self.refusals.push((place.clone(), refusal));
    }

    /// The first argument, or the complaint that there is none.
    pub(super) fn argument<'d>(
        &mut self,
        directive: &'d Directive,
        number: usize,
        expected: &'static str,
    ) -> Option<&'d Word> {
        let word = directive.arguments.get(number);
        if word.is_none() {
            let typed = String::new();
            self.refuse(
                &directive.name.place,
                LineRefusal::Unexpected { typed, expected },
            );
        }
        word
    }

    /// Reads an argument, or complains.
    pub(super) fn parsed<T: std::str::FromStr>(
        &mut self,
        directive: &Directive,
        number: usize,
        expected: &'static str,
    ) -> Option<T> {
        let word = self.argument(directive, number, expected)?;
        let parsed = word.text.parse().ok();
        if parsed.is_none() {
            self.unexpected(word, expected);
        }
        parsed
    }

    /// A word that is not what is wanted there.
    pub(super) fn unexpected(&mut self, word: &Word, expected: &'static str) {
        let typed = word.text.clone();
        self.refuse(&word.place, LineRefusal::Unexpected { typed, expected });
    }

    /// Sets a top-level key, unless an earlier line has set it.
    pub(super) fn set(&mut self, path: &[&'static str], value: impl Into<Value>, place: &Place) {
        if !self.keys.iter().any(|(known, ..)| known == path) {
            self.keys.push((path.to_vec(), value.into(), place.clone()));
        }
    }

    /// The name of a group with these servers and options; an existing one is used.
    pub(super) fn group(&mut self, group: DraftGroup) -> String {
        let alike = |known: &&DraftGroup| {
            let keys = |group: &DraftGroup| -> Vec<(Vec<&'static str>, Value)> {
                group
                    .options
                    .iter()
                    .map(|(path, value, _)| (path.clone(), value.clone()))
                    .collect()
            };
            known.servers == group.servers && keys(known) == keys(&group)
        };
        if let Some(known) = self.groups.iter().find(alike) {
            return known.name.clone();
        }
        let mut name = group.name.clone();
        let mut number = 2;
        while self.groups.iter().any(|known| known.name == name) {
            name = format!("{}-{number}", group.name);
            number += 1;
        }
        self.groups.push(DraftGroup {
            name: name.clone(),
            ..group
        });
        name
    }

    /// The keys and values, with the line and file of each.
    pub(super) fn document(&self) -> Document {
        let mut document = Document::default();
        for (path, value, place) in &self.keys {
            put(&mut document, path, value.clone(), place);
        }
        for group in &self.groups {
            put_group(&mut document, group);
        }
        for (zone, route) in &self.routes {
            put_route(&mut document, zone, route);
        }
        for (name, (addresses, place)) in &self.records {
            put_addresses(&mut document, name, addresses, place);
        }
        for (name, (target, place)) in &self.aliases {
            let path = ["records", name, "CNAME"];
            put(&mut document, &path, target.as_str().into(), place);
        }
        document
    }
}

/// Sets a key. The tables on the way to it come from the place that names them first.
fn put(document: &mut Document, path: &[&str], value: Value, place: &Place) {
    insert(&mut document.dict, path, value);
    let mut key = KeyPath::default();
    for segment in path {
        key = key.key(segment);
        document.lines.entry(key.clone()).or_insert(place.line);
        document
            .files
            .entry(key.clone())
            .or_insert_with(|| place.file.to_path_buf());
    }
}

fn put_group(document: &mut Document, group: &DraftGroup) {
    let path = ["upstreams", &group.name];
    let servers = group.servers.iter();
    let servers: Vec<Value> = servers.map(|server| server.as_str().into()).collect();
    let key = [&path[..], &["servers"]].concat();
    put(document, &key, servers.into(), &group.place);
    for (option, value, place) in &group.options {
        let key = [&path[..], option].concat();
        put(document, &key, value.clone(), place);
    }
}

/// A route with a group and nothing else is written as the group's name.
fn put_route(document: &mut Document, zone: &str, route: &DraftRoute) {
    let place = &route.place;
    let (key, value) = match &route.target {
        Target::Group(group) => ("group", Value::from(group.as_str())),
        Target::Answer(answer) => ("answer", answer.clone()),
    };
    if route.options.is_empty() && key == "group" {
        return put(document, &["routes", zone], value, place);
    }
    put(document, &["routes", zone, key], value, place);
    for (key, value) in &route.options {
        put(document, &["routes", zone, key], value.clone(), place);
    }
}

fn put_addresses(document: &mut Document, name: &str, addresses: &[IpAddr], place: &Place) {
    let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4());
    for (record_type, addresses) in [("A", v4), ("AAAA", v6)] {
        if !addresses.is_empty() {
            let addresses = addresses.into_iter();
            let addresses: Vec<Value> = addresses.map(|one| one.to_string().into()).collect();
            let path = ["records", name, record_type];
            put(document, &path, addresses.into(), place);
        }
    }
}

fn insert(dict: &mut Dict, path: &[&str], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        dict.insert((*first).to_owned(), value);
        return;
    }
    let below = dict
        .entry((*first).to_owned())
        .or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
    if let Value::Dict(_, below) = below {
        insert(below, rest, value);
    }
}

/// A duration in whole seconds, as our configuration writes it.
pub(super) fn seconds(number: u64) -> Value {
    Value::from(format!("{number}s"))
}

/// A duration, as our configuration writes it.
pub(super) fn duration(milliseconds: u64) -> Value {
    if milliseconds.is_multiple_of(1_000) {
        seconds(milliseconds / 1_000)
    } else {
        Value::from(format!("{milliseconds}ms"))
    }
}

/// A table.
pub(super) fn table(entries: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    let entries = entries
        .into_iter()
        .map(|(key, value)| (key.to_owned(), value));
    Value::Dict(Tag::Default, entries.collect())
}
