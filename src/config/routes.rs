//! `routes` and `records`: the two tables whose keys are domain names.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use figment::value::Value;
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::corefile::zones::reverse;
use super::error::{Missing, Origin, Problem};
use super::leaf::{Leaf, Range, parse_name, show_list, show_name, show_text, show_value};
use super::path::KeyPath;
use super::read::{Report, Section, list_items};
use super::shape::{self, Shape};
use super::spelling::nearest;
use super::{
    Denial, GroupConfig, HostsConfig, OwnAnswer, RewriteConfig, RouteCacheConfig, RouteConfig,
    StaticRecords, dns64, limits,
};

const GROUP_EXPECTED: &str =
    "a group's name, a list of them, or a table such as {group: vpc, max_negative_ttl: 5s}";

/// Reads `routes`; absent, everything goes to the only group.
pub(super) fn read_routes(
    top: &Section<'_>,
    report: &Report<'_>,
    groups: &[GroupConfig],
) -> Vec<RouteConfig> {
    let entries = top.entries("routes", shape::zone);
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
        report.note(&path, || tiers_shape().or_table(rules_of_routes()));
        let route = match value {
            Value::Dict(..) => read_route_table(report, &path, value, groups, name.as_ref()),
            _ => to_groups(read_tiers(report, &path, value, groups)),
        };
        if let Some(zone) = name {
            routes.push(RouteConfig { zone, ..route });
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
    vec![to_groups(vec![0])]
}

/// A route of the root to these groups, without any option.
fn to_groups(tiers: Vec<usize>) -> RouteConfig {
    RouteConfig {
        zone: Name::root(),
        tiers,
        answer: None,
        filter: Vec::new(),
        rewrite: None,
        dns64: None,
        max_negative_ttl: None,
        stale_on: Vec::new(),
        cache: RouteCacheConfig::default(),
    }
}

fn warn_unused(report: &Report<'_>, groups: &[GroupConfig], routes: &[RouteConfig]) {
    let used: BTreeSet<_> = routes
        .iter()
        .flat_map(|route| &route.tiers)
        .copied()
        .collect();
    let resolves = |group: &GroupConfig| {
        let mut named = groups.iter().flat_map(GroupConfig::named);
        named.any(|named| *named.host.via == *group.name)
    };
    for (index, group) in groups.iter().enumerate() {
        if !used.contains(&index) && !resolves(group) {
            let path = KeyPath::default().key("upstreams").key(&group.name);
            report.warn(format!("{path}: no route uses this group"));
        }
    }
}

/// A group, or a list of them.
fn tiers_shape() -> Shape {
    Shape::list(shape::group()).at_least_one().unique()
}

/// Keys about groups or the cache, which a route that answers by itself must not have.
const NOT_WITH_ANSWER: [&str; 8] = [
    "group",
    "tiers",
    "filter",
    "rewrite",
    "dns64",
    "stale_on",
    "max_negative_ttl",
    "cache",
];

/// What holds for a route's table.
fn rules_of_routes() -> Json {
    let nothing_else = NOT_WITH_ANSWER.map(|key| (key.to_owned(), json!(false)));
    let nothing_else = Json::Object(nothing_else.into_iter().collect());
    json!({
        "oneOf": [{"required": ["group"]}, {"required": ["tiers"]}, {"required": ["answer"]}],
        "dependentSchemas": {
            "answer": {"properties": nothing_else},
            "stale_on": {"properties": {"cache": {"not": {"enum": ["off", false]}}}},
        },
    })
}

/// Notes what those keys of a route may hold that are no leaves.
fn note_lists(route: &Section<'_>) {
    route.note("group", tiers_shape);
    route.note("tiers", tiers_shape);
    route.note("answer", || {
        let mut shape = Shape::list(shape::address())
            .counting(1, limits::MAX_ANSWER_ADDRESSES)
            .unique();
        let words = shape::words_in_any_case(&["NXDOMAIN", "NODATA", "REFUSED"]);
        shape.values.insert(0, words);
        shape
    });
    route.note("filter", || {
        let mut record_type = shape::pattern("[A-Za-z][A-Za-z0-9-]*");
        record_type["not"] = json!({"enum": ["ANY", "OPT"]});
        Shape::list(record_type)
            .counting(1, limits::MAX_FILTER)
            .unique()
    });
    route.note("stale_on", || Shape::list(Denial::schema(None)).unique());
    route.note("rewrite", || {
        Shape::table(json!({"required": ["from", "to"]}))
    });
    route.note("cache", || {
        let off = json!({"enum": ["off", false]});
        Shape::of([off]).or_table(json!({}))
    });
}

/// A route whose zone is still to be filled in.
fn read_route_table<'a>(
    report: &'a Report<'a>,
    path: &KeyPath,
    value: &'a Value,
    groups: &[GroupConfig],
    zone: Option<&Name>,
) -> RouteConfig {
    let section = report.table(path, value, GROUP_EXPECTED);
    note_lists(&section);
    let answer = section
        .value("answer")
        .map(|answer| read_answer(report, &section.path("answer"), answer));
    let both = |one, other| report.error_at(path, value, Problem::Both(one, other));
    let tiers = match (section.value("group"), section.value("tiers")) {
        _ if answer.is_some() => Vec::new(),
        (Some(_), Some(_)) => {
            both("group", "tiers");
            Vec::new()
        }
        (Some(group), None) => read_tiers(report, &section.path("group"), group, groups),
        (None, Some(tiers)) => read_tiers(report, &section.path("tiers"), tiers, groups),
        (None, None) => {
            report.error_at(path, value, Problem::Missing(Missing::Group));
            Vec::new()
        }
    };
    let max_negative_ttl = if_set(&section, "max_negative_ttl", &limits::MAX_NEGATIVE_TTL);
    let (cache, negative) = read_route_cache(&section);
    if let (Some(one), Some(other)) = (max_negative_ttl, negative)
        && one != other
    {
        both("max_negative_ttl", "cache.max_negative_ttl");
    }
    let filter = section.value("filter").map_or_else(Vec::new, |filter| {
        read_filter(report, &section.path("filter"), filter)
    });
    let dns64 = dns64::read(&section, report, &filter);
    let stale_on = read_stale_on(report, &section);
    let rewrite = section
        .value("rewrite")
        .and_then(|_| read_rewrite(&section, report, zone));
    if answer.is_some() {
        // A route that answers by itself has no groups and stores nothing.
        for other in NOT_WITH_ANSWER {
            if section.value(other).is_some() {
                both("answer", other);
            }
        }
    }
    if cache.off && !stale_on.is_empty() {
        // Nothing is kept that could be served in place of a denial.
        both("stale_on", "cache: off");
    }
    section.finish();
    RouteConfig {
        answer: answer.flatten(),
        filter,
        rewrite,
        dns64,
        max_negative_ttl: max_negative_ttl.or(negative),
        stale_on,
        cache,
        ..to_groups(tiers)
    }
}

/// A duration that has no default here.
fn if_set(section: &Section<'_>, key: &'static str, range: &Range<Duration>) -> Option<Duration> {
    section.read_in_if_set(key, range.max, range)
}

/// A route's `cache`, and the `max_negative_ttl` in it.
fn read_route_cache(route: &Section<'_>) -> (RouteCacheConfig, Option<Duration>) {
    let mut cache = RouteCacheConfig::default();
    match route.value("cache") {
        None => return (cache, None),
        // YAML 1.1 took `off` for false, and so do people.
        Some(value) if value.as_str() == Some("off") || value.to_bool() == Some(false) => {
            route.setting("cache", "off".to_owned());
            cache.off = true;
            return (cache, None);
        }
        Some(value) if !matches!(value, Value::Dict(..)) => {
            let (value, expected) = (show_value(value), "off, or a table such as {max_ttl: 30s}");
            route.error("cache", Problem::NotA { value, expected });
            return (cache, None);
        }
        Some(_) => {}
    }
    let section = route.part("cache");
    cache.max_ttl = if_set(&section, "max_ttl", &limits::ROUTE_MAX_TTL);
    let min_ttl = if_set(&section, "min_ttl", &limits::ROUTE_MIN_TTL);
    cache.min_ttl = min_ttl.unwrap_or_default();
    if let (Some(low), Some(high)) = (&min_ttl, &cache.max_ttl) {
        section.ordered(("min_ttl", low), ("max_ttl", high));
    }
    let negative = if_set(&section, "max_negative_ttl", &limits::MAX_NEGATIVE_TTL);
    let stale = section.section("stale");
    cache.stale_max_age = if_set(&stale, "max_age", &limits::STALE_MAX_AGE);
    let negative_age = "max_negative_age";
    cache.stale_max_negative_age = if_set(&stale, negative_age, &limits::STALE_MAX_NEGATIVE_AGE);
    if let (Some(low), Some(high)) = (&cache.stale_max_negative_age, &cache.stale_max_age) {
        stale.ordered((negative_age, low), ("max_age", high));
    }
    cache.stale_after = if_set(&stale, "after", &limits::STALE_AFTER);
    cache.stale_ttl = if_set(&stale, "ttl", &limits::STALE_TTL);
    stale.finish();
    section.finish();
    (cache, negative)
}

const ANSWER_EXPECTED: &str =
    "NXDOMAIN, NODATA, REFUSED, or addresses such as [10.0.0.1, \"fd00::1\"]";

/// A route's `answer`: a word, or addresses.
fn read_answer(report: &Report<'_>, path: &KeyPath, value: &Value) -> Option<OwnAnswer> {
    let word = value.as_str().map(str::to_ascii_uppercase);
    let answer = match word.as_deref() {
        Some("NXDOMAIN") => OwnAnswer::NxDomain,
        Some("NODATA") => OwnAnswer::NoData,
        Some("REFUSED") => OwnAnswer::Refused,
        _ if matches!(value, Value::Empty(..)) => {
            let expected = ANSWER_EXPECTED;
            report.error_at(path, value, Problem::NoValue { expected });
            return None;
        }
        _ => {
            let expected = match value {
                Value::Array(..) => "an address such as 10.0.0.1 or fd00::1",
                _ => ANSWER_EXPECTED,
            };
            let addresses = read_data(report, path, value, expected, parsed);
            let (count, limit) = (addresses.len(), limits::MAX_ANSWER_ADDRESSES);
            if count > limit {
                report.error_at(path, value, Problem::TooMany { count, limit });
            }
            return (!addresses.is_empty()).then_some(OwnAnswer::Addresses(addresses));
        }
    };
    let shown = word.unwrap_or_default();
    report.setting(report.origin(path, Some(value)), path, shown);
    Some(answer)
}

/// Two suffixes, neither of which is within the other.
fn read_rewrite(
    route: &Section<'_>,
    report: &Report<'_>,
    zone: Option<&Name>,
) -> Option<RewriteConfig> {
    let section = route.part("rewrite");
    let suffix = |key| {
        section.note(key, || Shape::of([shape::zone()]));
        let (value, path) = (section.value(key)?, section.path(key));
        let expected = "a domain name such as dev.example";
        let name = match value {
            Value::String(_, text) => {
                zone_name(text, "all names below it are meant; leave out the *")
            }
            Value::Empty(..) => Err(Problem::NoValue { expected }),
            other => Err(Problem::NotA {
                value: show_value(other),
                expected,
            }),
        };
        match name {
            Ok(name) => {
                section.setting(key, show_name(&name));
                Some(name)
            }
            Err(problem) => {
                report.error_at(&path, value, problem);
                None
            }
        }
    };
    let (from, to) = (suffix("from"), suffix("to"));
    if section.value("from").is_none() || section.value("to").is_none() {
        route.error("rewrite", Problem::Missing(Missing::Suffixes));
    }
    let rewrite = RewriteConfig {
        from: from?,
        to: to?,
    };
    let (from, to) = (show_name(&rewrite.from), show_name(&rewrite.to));
    if rewrite.from.zone_of(&rewrite.to) || rewrite.to.zone_of(&rewrite.from) {
        route.error("rewrite", Problem::RewriteLoop { from, to });
    } else if let Some(zone) = zone.filter(|zone| !zone.zone_of(&rewrite.from)) {
        let zone = show_name(zone);
        section.error("from", Problem::RewriteElsewhere { from, zone });
    }
    section.finish();
    Some(rewrite)
}

/// Types that no name of a route has.
fn read_filter(report: &Report<'_>, path: &KeyPath, value: &Value) -> Vec<RecordType> {
    let expected = "a type of records such as AAAA, HTTPS or TYPE65";
    if matches!(value, Value::Empty(..)) {
        report.error_at(path, value, Problem::NoValue { expected });
        return Vec::new();
    }
    let types = read_data(report, path, value, expected, record_type);
    let (count, limit) = (types.len(), limits::MAX_FILTER);
    if count > limit {
        report.error_at(path, value, Problem::TooMany { count, limit });
    }
    types
}

fn record_type(value: &Value, expected: &'static str) -> Result<RecordType, Problem> {
    let text = value.as_str().unwrap_or_default().to_ascii_uppercase();
    // RFC 3597 §5: the name of a type that has none.
    let numbered = text.strip_prefix("TYPE").map(str::parse::<u16>);
    let found = match numbered {
        Some(number) => number.ok().map(RecordType::from),
        None => text.parse().ok(),
    };
    match found {
        Some(RecordType::ANY) => Err(Problem::Unusable {
            value: show_value(value),
            why: "that is every type; for a zone without records write `answer: NODATA` in place of `group` and `filter`",
        }),
        Some(found) if is_of_records(found) => Ok(found),
        _ => Err(Problem::NotA {
            value: show_value(value),
            expected,
        }),
    }
}

/// RFC 6895 §3.1: 128 to 255 can be asked for, and are no types of records; nor is OPT.
fn is_of_records(record_type: RecordType) -> bool {
    record_type != RecordType::OPT && !matches!(u16::from(record_type), 0 | 128..=255)
}

/// `stale_on`: the denials that are not believed at once; none by default.
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
    if let Ok(network) = text.parse::<IpNet>() {
        let zones = reverse(network);
        let all = if zones.len() > 4 {
            format!("{} … {}", zones[0], zones[zones.len() - 1])
        } else {
            zones.join(", ")
        };
        return Err(Problem::Network {
            value: text.to_owned(),
            zones: all,
        });
    }
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

/// Reads `records`. Names of `hosts` stand beside them.
pub(super) fn read_records(
    top: &Section<'_>,
    report: &Report<'_>,
    hosts: &HostsConfig,
) -> Vec<StaticRecords> {
    let mut seen = BTreeMap::new();
    let mut records = Vec::new();
    for (owner, path, value) in top.entries("records", shape::domain_name) {
        let name = parse_name(owner).and_then(|name| {
            if name.is_wildcard() && name.base_name().is_root() {
                return Err(Problem::Wildcard {
                    value: owner.to_owned(),
                    why: "nothing would be forwarded; write routes: {\".\": {answer: 10.0.0.1}}",
                });
            }
            Ok(name)
        });
        let name = known_once(report, &mut seen, &path, value, owner, name);
        note_record(report, &path);
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
    for (owner, path, value) in top.entries("records", shape::domain_name) {
        if let Some(target) = target_of_its_own(owner, &records, hosts) {
            let target = show_name(target);
            report.error_at(
                &path.key("CNAME"),
                value,
                Problem::WildcardTarget { target },
            );
        }
    }
    warn_of_circles(top, report, &records);
    records
}

/// Warns of aliases that lead back to themselves, so that their names have no address.
fn warn_of_circles(top: &Section<'_>, report: &Report<'_>, records: &[StaticRecords]) {
    let aliases: BTreeMap<&Name, &Name> = records
        .iter()
        .filter_map(|record| Some((&record.name, record.cname.as_ref()?)))
        .collect();
    let mut told = BTreeSet::new();
    for (owner, path, value) in top.entries("records", shape::domain_name) {
        let Ok(name) = parse_name(owner) else {
            continue;
        };
        let mut way = vec![&name];
        while let Some(next) = way.last().and_then(|last| aliases.get(*last)) {
            if *next == way[0] {
                let shown: Vec<String> = way
                    .iter()
                    .chain([next])
                    .map(|name| show_name(name))
                    .collect();
                let (origin, path) = (report.origin(&path, Some(value)), path.key("CNAME"));
                if way.iter().all(|name| told.insert((*name).clone())) {
                    report.warn(format!(
                        "{origin}: {path}: {}: CNAMEs in a circle, so these names have no address",
                        shown.join(" → ")
                    ));
                }
                break;
            }
            if way.contains(next) {
                break;
            }
            way.push(next);
        }
    }
}

/// The target of a wildcard's CNAME, if no other name of ours is in the way of the wildcard standing for it too.
fn target_of_its_own<'a>(
    owner: &str,
    records: &'a [StaticRecords],
    hosts: &HostsConfig,
) -> Option<&'a Name> {
    let name = parse_name(owner).ok().filter(Name::is_wildcard)?;
    let wildcard = records.iter().find(|entry| entry.name == name)?;
    let target = wildcard.cname.as_ref()?;
    let stands_for = |wildcard: &Name| {
        let parent = wildcard.base_name();
        parent != *target && parent.zone_of(target)
    };
    let is_closer = |other: &StaticRecords| {
        let other = &other.name;
        *other == *target || (other.is_wildcard() && *other != name && stands_for(other))
    };
    let mut others = records.iter().chain(&hosts.names);
    (stands_for(&name) && !others.any(is_closer)).then_some(target)
}

const IPV4_EXPECTED: &str = "an IPv4 address such as 10.0.0.1";
const IPV6_EXPECTED: &str = "an IPv6 address such as fd00::1";
const RECORDS_EXPECTED: &str = "a table such as {A: [10.0.0.1]}";
/// Notes what a name of `records` may hold. Types ignore case.
fn note_record(report: &Report<'_>, path: &KeyPath) {
    report.note(path, || {
        let in_any_case = TYPES.map(|record_type| {
            let pattern = format!("^{}$", shape::any_case(record_type));
            (pattern, json!({"anyOf": data(record_type).values}))
        });
        Shape::table(json!({
            "minProperties": 1,
            "patternProperties": Json::Object(in_any_case.into_iter().collect()),
            "dependentSchemas": {"CNAME": {"maxProperties": 1}},
        }))
    });
    for record_type in TYPES {
        report.note(&path.key(record_type), || data(record_type));
    }
}

/// What records of a type may hold.
fn data(record_type: &str) -> Shape {
    let several = |item| Shape::list(item).at_least_one().unique();
    match record_type {
        "A" => several(shape::ipv4()),
        "AAAA" => several(shape::ipv6()),
        "TXT" => {
            let mut text = shape::text();
            text["maxLength"] = limits::MAX_TEXT.into();
            several(text)
        }
        _ => Shape::of([shape::zone()]),
    }
}

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
