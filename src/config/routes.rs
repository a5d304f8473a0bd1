//! `routes` and `records`: the two tables whose keys are domain names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use figment::value::Value;
use hickory_proto::rr::Name;

use super::error::{Missing, Origin, Problem};
use super::leaf::{Leaf, parse_name, show_list, show_name, show_text, show_value};
use super::path::KeyPath;
use super::read::{Report, Section, list_items, nearest};
use super::{Denial, GroupConfig, RouteConfig, StaticRecords, limits};

const GROUP_EXPECTED: &str =
    "a group's name, a list of them, or a table such as {group: vpc, max_negative_ttl: 5s}";

/// Reads `routes`; absent, everything goes to the only group.
pub(super) fn read_routes(
    top: &Section<'_>,
    report: &Report<'_>,
    groups: &[GroupConfig],
) -> Vec<RouteConfig> {
    let entries = top.entries("routes");
    if entries.is_empty() {
        return default_routes(top, report, groups);
    }
    let mut seen = BTreeMap::new();
    let mut routes = Vec::new();
    for (zone, path, value) in entries {
        let name = zone_name(
            zone,
            "a route covers every name below its zone; leave out the *",
        );
        let name = known_once(report, &mut seen, &path, value, zone, name);
        let (tiers, max_negative_ttl, stale_on) = match value {
            Value::Dict(..) => read_route_table(report, &path, value, groups),
            _ => (read_tiers(report, &path, value, groups), None, Vec::new()),
        };
        if let Some(zone) = name {
            routes.push(RouteConfig {
                zone,
                tiers,
                max_negative_ttl,
                stale_on,
            });
        }
    }
    warn_unused(report, groups, &routes);
    routes
}

fn default_routes(
    top: &Section<'_>,
    report: &Report<'_>,
    groups: &[GroupConfig],
) -> Vec<RouteConfig> {
    let [only] = groups else {
        let names: Vec<_> = groups.iter().map(|group| &*group.name).collect();
        let problem = Problem::Missing(Missing::Routes(names.join(", ")));
        report.error(top.origin("upstreams"), &top.path("routes"), problem);
        return Vec::new();
    };
    report.setting(
        Origin::Default,
        &top.path("routes").key("."),
        only.name.to_string(),
    );
    vec![RouteConfig {
        zone: Name::root(),
        tiers: vec![0],
        max_negative_ttl: None,
        stale_on: Vec::new(),
    }]
}

fn warn_unused(report: &Report<'_>, groups: &[GroupConfig], routes: &[RouteConfig]) {
    let used: BTreeSet<_> = routes
        .iter()
        .flat_map(|route| &route.tiers)
        .copied()
        .collect();
    for (index, group) in groups.iter().enumerate() {
        if !used.contains(&index) {
            let path = KeyPath::default().key("upstreams").key(&group.name);
            report.warn(format!("{path}: no route uses this group"));
        }
    }
}

fn read_route_table<'a>(
    report: &'a Report<'a>,
    path: &KeyPath,
    value: &'a Value,
    groups: &[GroupConfig],
) -> (Vec<usize>, Option<Duration>, Vec<Denial>) {
    let section = report.table(path, value, GROUP_EXPECTED);
    let (group, tiers) = (section.value("group"), section.value("tiers"));
    let tiers = match (group, tiers) {
        (Some(_), Some(_)) => {
            report.error_at(path, value, Problem::Both("group", "tiers"));
            Vec::new()
        }
        (Some(group), None) => read_tiers(report, &section.path("group"), group, groups),
        (None, Some(tiers)) => read_tiers(report, &section.path("tiers"), tiers, groups),
        (None, None) => {
            report.error_at(path, value, Problem::Missing(Missing::Group));
            Vec::new()
        }
    };
    let key = "max_negative_ttl";
    let max_negative_ttl = section.value(key).map(|_| {
        let whole = limits::MAX_NEGATIVE_TTL.max;
        section.read_in(key, whole, &limits::MAX_NEGATIVE_TTL)
    });
    let stale_on = read_stale_on(report, &section);
    section.finish();
    (tiers, max_negative_ttl, stale_on)
}

/// Which denials are not believed at once; none unless somebody says so.
fn read_stale_on(report: &Report<'_>, section: &Section<'_>) -> Vec<Denial> {
    let Some(value) = section.value("stale_on") else {
        return Vec::new();
    };
    let path = section.path("stale_on");
    let mut denials = Vec::new();
    for (path, item) in list_items(&path, value) {
        match report.leaf::<Denial>(&path, item) {
            Some(denial) if denials.contains(&denial) => {
                let (value, first) = (show_value(item), String::new());
                report.error_at(&path, item, Problem::Twice { value, first });
            }
            denial => denials.extend(denial),
        }
    }
    let shown = show_list(denials.iter().map(Leaf::show));
    report.setting(report.origin(&path, Some(value)), &path, shown);
    denials
}

/// A group or a list of groups, each once.
fn read_tiers(
    report: &Report<'_>,
    path: &KeyPath,
    value: &Value,
    groups: &[GroupConfig],
) -> Vec<usize> {
    if matches!(value, Value::Empty(..)) {
        let expected = GROUP_EXPECTED;
        report.error_at(path, value, Problem::NoValue { expected });
        return Vec::new();
    }
    let items = list_items(path, value);
    if items.is_empty() {
        report.error_at(path, value, Problem::Missing(Missing::Group));
    }
    let mut tiers = Vec::new();
    for (path, item) in items {
        let Ok(name) = String::parse(item) else {
            let value = show_value(item);
            let expected = GROUP_EXPECTED;
            report.error_at(&path, item, Problem::NotA { value, expected });
            continue;
        };
        match groups.iter().position(|group| *group.name == *name) {
            None => {
                let known: Vec<_> = groups.iter().map(|group| group.name.to_string()).collect();
                let near = nearest(&name, &known);
                let value = show_text(&name);
                report.error_at(&path, item, Problem::UnknownGroup { value, near, known });
            }
            Some(index) if tiers.contains(&index) => {
                let (value, first) = (name, String::new());
                report.error_at(&path, item, Problem::Twice { value, first });
            }
            Some(index) => tiers.push(index),
        }
    }
    report.setting(report.origin(path, Some(value)), path, show_value(value));
    tiers
}

fn zone_name(text: &str, why: &'static str) -> Result<Name, Problem> {
    let name = parse_name(text)?;
    if name.is_wildcard() {
        let value = text.to_owned();
        return Err(Problem::Wildcard { value, why });
    }
    Ok(name)
}

/// Reports a name that is wrong or was there before in another spelling.
fn known_once(
    report: &Report<'_>,
    seen: &mut BTreeMap<Name, Origin>,
    path: &KeyPath,
    value: &Value,
    text: &str,
    name: Result<Name, Problem>,
) -> Option<Name> {
    let origin = report.origin(path, Some(value));
    match name {
        Err(problem) => {
            report.error(origin, path, problem);
            None
        }
        Ok(name) => {
            if let Some(first) = seen.get(&name) {
                let first = format!(" (also at {first}; names ignore case and the last dot)");
                let value = show_text(text);
                report.error(origin, path, Problem::Twice { value, first });
                return None;
            }
            seen.insert(name.clone(), origin);
            Some(name)
        }
    }
}

/// Reads `records`.
pub(super) fn read_records(top: &Section<'_>, report: &Report<'_>) -> Vec<StaticRecords> {
    let mut seen = BTreeMap::new();
    let mut records = Vec::new();
    for (owner, path, value) in top.entries("records") {
        let name = zone_name(
            owner,
            "names of records are taken literally; write each name out",
        );
        let name = known_once(report, &mut seen, &path, value, owner, name);
        let read = read_record(
            report,
            &path,
            value,
            name.clone().unwrap_or_else(Name::root),
        );
        if name.is_some() {
            records.push(read);
        }
    }
    records
}

const IPV4_EXPECTED: &str = "an IPv4 address such as 10.0.0.1";
const IPV6_EXPECTED: &str = "an IPv6 address such as fd00::1";
const RECORDS_EXPECTED: &str = "a table such as {A: [10.0.0.1]}";
/// The types that `records` takes.
const TYPES: [&str; 4] = ["A", "AAAA", "CNAME", "TXT"];

fn read_record(report: &Report<'_>, path: &KeyPath, value: &Value, name: Name) -> StaticRecords {
    let mut records = StaticRecords {
        name,
        a: Vec::new(),
        aaaa: Vec::new(),
        cname: None,
        txt: Vec::new(),
    };
    let Value::Dict(_, dict) = value else {
        let (shown, expected) = (show_value(value), RECORDS_EXPECTED);
        report.error_at(
            path,
            value,
            Problem::NotA {
                value: shown,
                expected,
            },
        );
        return records;
    };
    if dict.is_empty() {
        report.error_at(path, value, Problem::Missing(Missing::Records));
    }
    let mut types = BTreeSet::new();
    for (key, value) in dict {
        let path = path.key(key);
        let record_type = key.to_ascii_uppercase();
        if !types.insert(record_type.clone()) {
            let (value_shown, first) = (key.clone(), " (types ignore case)".to_owned());
            report.error_at(
                &path,
                value,
                Problem::Twice {
                    value: value_shown,
                    first,
                },
            );
        }
        match &*record_type {
            "A" => records.a = read_data(report, &path, value, IPV4_EXPECTED, parsed),
            "AAAA" => records.aaaa = read_data(report, &path, value, IPV6_EXPECTED, parsed),
            "TXT" => records.txt = read_data(report, &path, value, "text in quotes", text),
            "CNAME" => records.cname = read_cname(report, &path, value, &records.name),
            _ => {
                let near = None;
                let known = TYPES.map(str::to_owned).to_vec();
                report.error_at(&path, value, Problem::UnknownKey { near, known });
            }
        }
    }
    if types.contains("CNAME") && types.len() > 1 {
        report.error_at(path, value, Problem::CnameNotAlone);
    }
    records
}

type Read<T> = fn(&Value, &'static str) -> Result<T, Problem>;

/// One value or a list of them, none twice.
fn read_data<T: Display + PartialEq>(
    report: &Report<'_>,
    path: &KeyPath,
    value: &Value,
    expected: &'static str,
    read: Read<T>,
) -> Vec<T> {
    let mut data: Vec<T> = Vec::new();
    let items = list_items(path, value);
    if items.is_empty() {
        report.error_at(path, value, Problem::Missing(Missing::Value));
    }
    for (path, item) in items {
        match read(item, expected) {
            Err(problem) => report.error_at(&path, item, problem),
            Ok(one) if data.contains(&one) => {
                let (value, first) = (show_value(item), String::new());
                report.error_at(&path, item, Problem::Twice { value, first });
            }
            Ok(one) => data.push(one),
        }
    }
    report.setting(report.origin(path, Some(value)), path, show_list(&data));
    data
}

fn parsed<T: std::str::FromStr>(value: &Value, expected: &'static str) -> Result<T, Problem> {
    let parsed = value.as_str().and_then(|text| text.parse().ok());
    parsed.ok_or_else(|| Problem::NotA {
        value: show_value(value),
        expected,
    })
}

fn text(value: &Value, expected: &'static str) -> Result<String, Problem> {
    let text: String = String::parse(value).map_err(|_| Problem::NotA {
        value: show_value(value),
        expected,
    })?;
    if text.len() > limits::MAX_TEXT {
        return Err(Problem::TextTooLong { length: text.len() });
    }
    Ok(text)
}

fn read_cname(report: &Report<'_>, path: &KeyPath, value: &Value, owner: &Name) -> Option<Name> {
    let target = match value {
        Value::String(_, text) => zone_name(text, "a CNAME points to a name, not to a wildcard"),
        other => Err(Problem::NotA {
            value: show_value(other),
            expected: "one name such as registry.example.com",
        }),
    };
    let target = target.and_then(|target| {
        if target == *owner {
            Err(Problem::CnameToItself)
        } else {
            Ok(target)
        }
    });
    match target {
        Ok(target) => {
            report.setting(report.origin(path, Some(value)), path, show_name(&target));
            Some(target)
        }
        Err(problem) => {
            report.error_at(path, value, problem);
            None
        }
    }
}
