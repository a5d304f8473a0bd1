//! `nodens schema`: the JSON Schema of a configuration, and the sentence that says what each key means.
//!
//! Owns the sentences. What a key may hold comes from the code that reads it: an example with one of each table is read,
//! and each key that is asked for notes its [`super::shape::Shape`].

use serde_json::{Map, Value as Json, json};

use super::read::Shapes;
use super::{schema, yaml};

/// Has each table of which there is none by itself. GROUP, ZONE and NAME stand for names that the user chooses.
const ONE_OF_EACH: &str = "
upstreams: {GROUP: {servers: 192.0.2.1}}
routes: {ZONE: {rewrite: {}, dns64: {}, cache: {}}}
records: {NAME: {}}
node: {}
";

const CHOSEN: [&str; 3] = ["GROUP", "ZONE", "NAME"];

/// What each key means, in the order of docs/configuration.md.
const MEANINGS: &[(&str, &str)] = &[
    (
        "listen",
        "Addresses served over UDP and TCP; port 0 takes a free port.",
    ),
    (
        "allow",
        "Networks whose clients are answered; all others get REFUSED.",
    ),
    (
        "admin",
        "Address of the admin interface over HTTP: /health, /ready, /metrics, /status.",
    ),
    ("metrics", "Where metrics are served beside `admin`."),
    (
        "metrics.coredns",
        "/metrics also carries the families of CoreDNS, from the same counters, for its dashboards and alerts.",
    ),
    (
        "metrics.listen",
        "Further addresses for /metrics, /health and /ready only.",
    ),
    (
        "socket",
        "Path of a Unix socket that serves the same as `admin`, and `nodens cache`.",
    ),
    (
        "workers",
        "Worker threads; without it as many as there are CPUs, at most 4.",
    ),
    (
        "scheduling",
        "`realtime` puts workers under real-time scheduling, so that they answer at once where other processes take all CPUs.",
    ),
    (
        "handover",
        "Whether another instance of the same user may listen on the same addresses, and takes over the cache.",
    ),
    (
        "shutdown_grace",
        "How long queries in flight may take after SIGTERM.",
    ),
    (
        "node_name",
        "The answer to `id.server`, and NSID; without it the host's name.",
    ),
    ("node", "What nodens sets up on the node for itself."),
    (
        "node.addresses",
        "Addresses that pods ask, without ports; each must be in `listen`.",
    ),
    (
        "node.interface",
        "The interface that carries the addresses.",
    ),
    (
        "node.interface.kind",
        "`dummy` is an interface of our own, `loopback` the node's `lo`.",
    ),
    (
        "node.interface.name",
        "The interface's name; without it `nodens`, or `lo` for `loopback`.",
    ),
    (
        "node.notrack",
        "Whether DNS to and from these addresses stays out of connection tracking.",
    ),
    (
        "node.on_exit",
        "Whether addresses and rules stay (`keep`) or go (`remove`) when nodens ends.",
    ),
    (
        "upstreams",
        "Groups of servers that know the same names, by the group's name.",
    ),
    (
        "upstreams.GROUP",
        "Servers that know the same names; an answer of any of them is final.",
    ),
    (
        "upstreams.GROUP.servers",
        "Servers in the order of preference, such as 10.0.0.2, tls://9.9.9.9#dns.quad9.net or /etc/resolv.conf.",
    ),
    (
        "upstreams.GROUP.policy",
        "Whom to ask first among equally healthy servers: as listed, by round-trip time, or in turn.",
    ),
    (
        "upstreams.GROUP.try_timeout",
        "When a single try counts as lost; at most `deadline`.",
    ),
    (
        "upstreams.GROUP.deadline",
        "The whole budget of a query, tiers after this group included.",
    ),
    (
        "upstreams.GROUP.probe",
        "The question that health probes ask, a name and a type.",
    ),
    (
        "upstreams.GROUP.bogus",
        "When a server finds an answer bogus: whether clients hear so (`final`) or the next server is asked (`failover`).",
    ),
    (
        "upstreams.GROUP.tls_ca",
        "PEM file of roots to trust for tls:// and https:// servers, beside the web's.",
    ),
    (
        "upstreams.GROUP.streams",
        "Connections over TCP, TLS and HTTPS.",
    ),
    (
        "upstreams.GROUP.streams.max_age",
        "When a connection takes no new queries any more.",
    ),
    (
        "upstreams.GROUP.max_in_flight",
        "Questions in flight to this group in the whole process.",
    ),
    (
        "upstreams.GROUP.max_queries_per_second",
        "Queries that each server is sent in a second at most, over all workers; 0 is no limit.",
    ),
    (
        "upstreams.GROUP.failover",
        "When the next server is asked, and when a server counts as poor or down.",
    ),
    (
        "upstreams.GROUP.failover.start_fanout",
        "Servers asked together while nothing is known of them.",
    ),
    (
        "upstreams.GROUP.failover.hedge_min",
        "Shortest wait before the next server is asked too; at most `hedge_max`.",
    ),
    (
        "upstreams.GROUP.failover.hedge_max",
        "Longest wait before the next server is asked too.",
    ),
    (
        "upstreams.GROUP.failover.hedge_budget_percent",
        "Hedges per hundred queries; 0 is none.",
    ),
    (
        "upstreams.GROUP.failover.probe_min",
        "First pause between probes of a server that is down; at most `probe_max`.",
    ),
    (
        "upstreams.GROUP.failover.probe_max",
        "Longest pause between probes of a server that is down.",
    ),
    (
        "upstreams.GROUP.failover.recover_probes",
        "Probe answers in a row that bring a server back.",
    ),
    (
        "upstreams.GROUP.failover.poor_loss_percent",
        "A server that lost more than this share of its last tries is poor; 100 is never.",
    ),
    (
        "upstreams.GROUP.failover.poor_loss_window",
        "How many of its last tries that share is of.",
    ),
    (
        "upstreams.GROUP.failover.poor_answer_window",
        "A server is poor when most of its last so many answers failed while another server's were fine.",
    ),
    (
        "upstreams.GROUP.failover.poor_slower_by",
        "A server is poor when it is slower than the fastest other by this and by `poor_slower_factor`.",
    ),
    (
        "upstreams.GROUP.failover.poor_slower_factor",
        "A server is poor when it is slower than the fastest other by this factor and by `poor_slower_by`.",
    ),
    (
        "routes",
        "Which names go to which groups; the longest zone wins, and \".\" is for all other names.",
    ),
    (
        "routes.ZONE",
        "A group, a list of groups (tiers), or a table with options, for names at and below the zone.",
    ),
    (
        "routes.ZONE.group",
        "The group that is asked; the same as `tiers`.",
    ),
    (
        "routes.ZONE.tiers",
        "Groups in the order in which they are asked.",
    ),
    (
        "routes.ZONE.answer",
        "What is answered of every name of the zone, in place of `group`; nobody is asked.",
    ),
    (
        "routes.ZONE.filter",
        "Types of records that no name of the route has, such as AAAA; nobody is asked for them.",
    ),
    (
        "routes.ZONE.rewrite",
        "Names that are asked for under another suffix.",
    ),
    (
        "routes.ZONE.rewrite.from",
        "The suffix as clients know it, in the zone.",
    ),
    ("routes.ZONE.rewrite.to", "The suffix as servers know it."),
    (
        "routes.ZONE.dns64",
        "The prefix of a NAT64, or a table with options, to make IPv6 addresses of IPv4 ones.",
    ),
    (
        "routes.ZONE.dns64.prefix",
        "The prefix that the network's NAT64 translates.",
    ),
    (
        "routes.ZONE.dns64.exclude",
        "AAAA records in these networks count as none.",
    ),
    (
        "routes.ZONE.max_negative_ttl",
        "How long \"no such name\" from this route is kept; it can only shorten `cache.max_negative_ttl`.",
    ),
    (
        "routes.ZONE.stale_on",
        "Denials that are not believed at once of a name that was answered before.",
    ),
    (
        "routes.ZONE.cache",
        "`off`, or how long answers of this route are kept.",
    ),
    (
        "routes.ZONE.cache.max_ttl",
        "How long an answer from this route is kept at most; 0s is not at all.",
    ),
    (
        "routes.ZONE.cache.min_ttl",
        "Lower TTLs of positive answers are raised to this; at most `max_ttl`.",
    ),
    (
        "routes.ZONE.cache.max_negative_ttl",
        "The same as `max_negative_ttl` of the route.",
    ),
    (
        "routes.ZONE.cache.stale",
        "Answers of this route after they expired.",
    ),
    (
        "routes.ZONE.cache.stale.max_age",
        "As `cache.stale.max_age`, for this route.",
    ),
    (
        "routes.ZONE.cache.stale.max_negative_age",
        "As `cache.stale.max_negative_age`, for this route; at most `max_age`.",
    ),
    (
        "routes.ZONE.cache.stale.after",
        "As `cache.stale.after`, for this route.",
    ),
    (
        "routes.ZONE.cache.stale.ttl",
        "As `cache.stale.ttl`, for this route.",
    ),
    (
        "private_zones",
        "Whether reverse names of private addresses without a route are forwarded or do not exist.",
    ),
    ("tiers", "What holds for routes with several groups."),
    (
        "tiers.max_negative_ttl",
        "How long \"no such name\" is kept if a group other than the route's first said so.",
    ),
    ("records", "Names answered here, for every type."),
    (
        "records.NAME",
        "The records of a name; a wildcard such as *.dev.example stands for all names below its parent.",
    ),
    ("records.NAME.A", "IPv4 addresses."),
    ("records.NAME.AAAA", "IPv6 addresses."),
    ("records.NAME.TXT", "Texts of up to 255 bytes."),
    ("records.NAME.CNAME", "Another name; excludes other types."),
    (
        "complete_cnames",
        "Whether the target of a CNAME that leads into another route is looked up here.",
    ),
    ("hosts", "Files of addresses and names as in hosts(5)."),
    ("cache", "The answer cache."),
    (
        "cache.max_size",
        "Entries, keys and overhead together; 0 keeps no answers, else at least 64KiB.",
    ),
    (
        "cache.max_ttl",
        "No answer is kept longer, nor are clients told to keep it longer.",
    ),
    (
        "cache.max_negative_ttl",
        "The same for \"no such name\" and \"no such record\".",
    ),
    (
        "cache.failure_min",
        "How long a failed question is remembered at first; at most `failure_max`.",
    ),
    (
        "cache.failure_max",
        "How long a failed question is remembered at most.",
    ),
    (
        "cache.stale",
        "Answers after they expired, for the time when nobody answers.",
    ),
    (
        "cache.stale.max_age",
        "How long after it expired an answer may still be served; 0s is never.",
    ),
    (
        "cache.stale.max_negative_age",
        "The same for \"no such name\" and \"no such record\"; at most `max_age`.",
    ),
    (
        "cache.stale.max_denied_age",
        "How long after it expired an answer is served although a server denies it, on routes with `stale_on`.",
    ),
    (
        "cache.stale.after",
        "How long to wait for a fresh answer while there is a stale one; 0s is stale first.",
    ),
    ("cache.stale.ttl", "TTL of a stale answer."),
    (
        "cache.prefetch",
        "Popular answers that are fetched anew before they expire.",
    ),
    (
        "cache.prefetch.hits",
        "Hits that make an answer popular; 0 is no prefetch.",
    ),
    (
        "cache.prefetch.percent",
        "Share of its TTL that is left when a popular answer is fetched anew.",
    ),
    (
        "cache.rotate",
        "Whether A and AAAA records change their order from reply to reply.",
    ),
    ("tcp", "Client connections over TCP."),
    (
        "tcp.max_connections",
        "Connections in the whole process; at the cap the longest idle one makes room.",
    ),
    (
        "tcp.max_connections_per_client",
        "Connections of one client address.",
    ),
    (
        "tcp.max_queries_per_connection",
        "Queries in flight on one connection; more wait unread.",
    ),
    (
        "tcp.max_unsent",
        "Unsent reply bytes of a connection; at the cap nothing more is read from it.",
    ),
    (
        "tcp.idle_timeout",
        "A connection without a whole query for this long is closed.",
    ),
    ("udp", "Client sockets over UDP."),
    (
        "udp.receive_buffer",
        "Receive buffer asked of the kernel for each socket.",
    ),
    (
        "udp.send_buffer",
        "Send buffer asked of the kernel for each socket.",
    ),
    (
        "udp.refused_per_second",
        "Replies a second and worker to clients outside `allow`; the rest is dropped.",
    ),
    (
        "limits",
        "Caps that keep one client from starving the others.",
    ),
    (
        "limits.client_in_flight",
        "Queries of one client address in flight per worker.",
    ),
    ("log", "Lines on standard error."),
    (
        "log.format",
        "How lines look: for people, or one JSON object a line.",
    ),
    (
        "log.level",
        "A level, or filters such as `warn,nodens::query=info`; the variable RUST_LOG outranks it.",
    ),
    (
        "log.queries",
        "A line for each reply; `errors` is not for NOERROR and NXDOMAIN.",
    ),
    (
        "status",
        "What /status and the page at the admin address tell.",
    ),
    (
        "status.failures",
        "Whether they tell which names were last answered with a failure.",
    ),
    (
        "status.top",
        "Whether they tell the most asked and slowest names, and the most active clients.",
    ),
];

/// The JSON Schema (draft 2020-12) of a configuration in YAML.
///
/// # Panics
/// Never: what is read is a constant.
#[must_use]
pub fn json_schema() -> Json {
    let (document, _) = yaml::parse(ONE_OF_EACH);
    let shapes = schema::shapes(document.expect("it has keys"));
    let Json::Object(mut schema) = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of nodens",
        "type": "object",
    }) else {
        unreachable!("an object is written above")
    };
    add_keys(&mut schema, &shapes, "");
    Json::Object(schema)
}

/// Adds the keys of the table at `path`, and says that there are no others.
fn add_keys(table: &mut Map<String, Json>, shapes: &Shapes, path: &str) {
    let (mut properties, mut chosen) = (Map::new(), json!(false));
    for child in shapes.keys() {
        let (parent, key) = child.rsplit_once('.').unwrap_or(("", child));
        if parent != path {
        } else if CHOSEN.contains(&key) {
            chosen = of_key(shapes, child);
        } else {
            properties.insert(key.to_owned(), of_key(shapes, child));
        }
    }
    if !properties.is_empty() {
        table.insert("properties".to_owned(), Json::Object(properties));
    }
    table.insert("additionalProperties".to_owned(), chosen);
}

/// The schema of one key and of all below it.
fn of_key(shapes: &Shapes, path: &str) -> Json {
    let shape = &shapes[path];
    let mut alternatives = shape.values.clone();
    if let Some(rules) = &shape.table {
        let mut table = rules.clone();
        table.insert("type".to_owned(), json!("object"));
        add_keys(&mut table, shapes, path);
        alternatives.push(Json::Object(table));
    }
    let mut schema = match <[Json; 1]>::try_from(alternatives) {
        Ok([only]) => only,
        Err(several) => json!({"anyOf": several}),
    };
    let meaning = MEANINGS.iter().find(|(key, _)| *key == path);
    let meaning = meaning.map_or("", |(_, meaning)| meaning);
    schema["description"] = match &shape.bounds {
        None => meaning.into(),
        Some((min, max)) => {
            schema["examples"] = json!([min, max]);
            format!("{meaning} From {min} to {max}.").into()
        }
    };
    if let Some(default) = &shape.default {
        schema["default"] = default.clone();
    }
    schema
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::fs;
    use std::io::Write as _;
    use std::path::Path;
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::error::{ConfigError, Problem};
    use crate::config::leaf::{Leaf, Size};
    use crate::config::load::load_from;
    use crate::config::shape::Shape;
    use crate::config::tests::{BAD_GROUPS, EXAMPLE, FORMS, VPC, bad_keys};

    fn shapes() -> Shapes {
        schema::shapes(yaml::parse(ONE_OF_EACH).0.expect("it has keys"))
    }

    #[test]
    fn every_key_has_a_meaning_and_every_meaning_a_key() {
        let keys: BTreeSet<_> = shapes().into_keys().collect();
        let meanings: BTreeSet<_> = MEANINGS.iter().map(|(key, _)| (*key).to_owned()).collect();
        assert_eq!(keys, meanings);
        assert_eq!(meanings.len(), MEANINGS.len(), "one of them is here twice");
        for (key, meaning) in MEANINGS {
            let sentences = meaning.matches(". ").count() + 1;
            assert!(meaning.ends_with('.') && sentences == 1, "{key}: {meaning}");
        }
    }

    #[test]
    fn every_key_that_is_read_says_what_it_may_hold() {
        for (key, shape) in shapes() {
            assert!(!shape.values.is_empty() || shape.table.is_some(), "{key}");
        }
    }

    /// Has the tables that keys of the schema are in, and is right.
    const BASE: &str = "
listen: [\"0.0.0.0:53\"]
node: {addresses: [169.254.20.53]}
upstreams: {GROUP: {servers: 192.0.2.1}}
routes: {ZONE: {group: GROUP, rewrite: {from: ZONE, to: to}, dns64: {prefix: \"64:ff9b::/96\"}, cache: {}}}
records: {NAME: {TXT: text}}
";

    fn is_scalar(shape: &Shape) -> bool {
        shape.table.is_none() && shape.values.iter().all(|schema| schema["type"] != "array")
    }

    /// Values of a scalar key that its schema allows: both ends of its range and one between, or its words.
    fn allowed(shape: &Shape, between: f64) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        if let Some((min, max)) = &shape.bounds {
            found.extend([min.clone(), max.clone(), one_between(min, max, between)]);
        }
        let mut schemas = shape.values.clone();
        while let Some(schema) = schemas.pop() {
            schemas.extend(schema["anyOf"].as_array().into_iter().flatten().cloned());
            let words = schema["enum"].as_array().into_iter().flatten();
            found.extend(
                words
                    .chain(&schema["const"].as_str().map(Json::from))
                    .map(unquoted),
            );
            match schema["type"].as_str() {
                Some("boolean") => found.extend(["true".to_owned(), "false".to_owned()]),
                Some("null") => found.push("null".to_owned()),
                Some("integer") if shape.bounds.is_none() => found.push("1".to_owned()),
                _ => {}
            }
        }
        found.extend(shape.default.as_ref().map(unquoted));
        found
    }

    fn unquoted(value: &Json) -> String {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    }

    fn one_between(min: &str, max: &str, share: f64) -> String {
        fn of<T: Leaf>(text: &str) -> Option<T> {
            T::parse(&yaml::parse_value(text)).ok()
        }
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let number = |min: u64, max: u64| min + ((max - min) as f64 * share) as u64;
        if let (Some(min), Some(max)) = (of::<u32>(min), of::<u32>(max)) {
            number(min.into(), max.into()).to_string()
        } else if let (Some(min), Some(max)) = (of::<Duration>(min), of::<Duration>(max)) {
            let millis = |duration: Duration| u64::try_from(duration.as_millis()).expect("days");
            Duration::from_millis(number(millis(min), millis(max))).show()
        } else {
            let size = |text| of::<Size>(text).expect("a number, a duration or a size").0;
            Size(number(size(min), size(max))).show()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4, failure_persistence: None, ..ProptestConfig::default() })]
        /// Of one key at a time: that one key must not be over another is more than a schema can say.
        #[test]
        fn values_that_the_schema_allows_are_taken(between in 0.0..1.0) {
            let mut checked = 0;
            for (key, shape) in shapes().into_iter().filter(|(_, shape)| is_scalar(shape)) {
                for value in allowed(&shape, between) {
                    let file = Some((Path::new("nodens.yaml"), BASE));
                    let loaded = load_from(file, [], &[(key.clone(), value.clone())]);
                    let refused = loaded.err().into_iter().flat_map(|errors| {
                        let own = |error: &&ConfigError| !matches!(error, ConfigError::Key {
                            problem: Problem::Over { .. } | Problem::Under { .. } | Problem::CacheTooSmall { .. },
                            ..
                        });
                        errors.iter().filter(own).map(ToString::to_string).collect::<Vec<_>>()
                    });
                    prop_assert_eq!(refused.collect::<Vec<_>>(), Vec::<String>::new(), "{}={}", key, value);
                    checked += 1;
                }
            }
            prop_assert!(checked > 150, "{}", checked);
        }
    }

    /// Reads YAML 1.2 as it is written here, and says what the schema has against it.
    const VALIDATE: &str = r#"
import json, re, sys
import jsonschema, yaml

class Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

for tag, pattern, first in [
    ("bool", r"true|false", "tf"),
    ("null", r"null|~|", ["n", "~", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    ("float", r"[-+]?[0-9]+\.[0-9]*", "-+0123456789"),
]:
    Loader.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(f"^(?:{pattern})$"), list(first))

given = json.load(sys.stdin)
jsonschema.Draft202012Validator.check_schema(given["schema"])
validator = jsonschema.Draft202012Validator(given["schema"])
problems = {
    name: [error.message for error in validator.iter_errors(yaml.load(text, Loader))]
    for name, text in given["documents"].items()
}
json.dump(problems, sys.stdout)
"#;

    /// What the schema has against each document, by its name.
    fn validate(documents: &BTreeMap<String, String>) -> BTreeMap<String, Vec<String>> {
        let python = std::env::var("NODENS_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mut child = Command::new(&python)
            .args(["-c", VALIDATE])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{python}: {error}"));
        let given = json!({"schema": json_schema(), "documents": documents}).to_string();
        let mut stdin = child.stdin.take().expect("it is piped");
        let writer = std::thread::spawn(move || stdin.write_all(given.as_bytes()));
        let output = child.wait_with_output().expect("it runs");
        assert!(
            output.status.success(),
            "NODENS_TEST_PYTHON is to name a Python with the packages jsonschema and PyYAML"
        );
        writer
            .join()
            .expect("no panic")
            .expect("it read everything");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Mistakes of [`bad_keys`] and [`BAD_GROUPS`] that a schema cannot say: limits of what is written with a unit, what two
    /// keys say of each other, one value in two spellings, and what is in files.
    const BEYOND_A_SCHEMA: &[&str] = &[
        "a later tier's denials for too long",
        "a route's TTLs raised over their cap",
        "a route's TTLs raised too far",
        "a route's cache for too long",
        "a route's cap in both places",
        "a route's stale denials for longer than its stale answers",
        "admin taken",
        "cname to itself",
        "denied answers for longer than stale answers",
        "dns64 of a filtered type",
        "dns64 that excludes twice",
        "dns64 with a prefix for use within a host",
        "dns64 with an address",
        "dns64 with bits where none may be",
        "dns64 without anything to make addresses from",
        "failure order",
        "filter of a type that nobody knows",
        "filter of what is no type of records",
        "filter twice",
        "group: deadline under try",
        "group: hedge order",
        "group: no file",
        "group: probe name",
        "group: probe order",
        "group: probe type",
        "group: streams age over a day",
        "group: streams age under a second",
        "group: try over deadline",
        "group: twice",
        "hosts file of two lines",
        "hosts file that is not there",
        "hosts file without an end",
        "listen twice",
        "log filter",
        "log target",
        "metrics taken",
        "node address broadcast",
        "node address link-local",
        "node address loopback",
        "node address mapped",
        "node address multicast",
        "node address nobody listens on",
        "node address of the other family",
        "node address unspecified",
        "node interface lo",
        "over a limit",
        "record type twice",
        "record wildcard",
        "record wildcard that points to itself",
        "rewrite in a circle",
        "rewrite of another zone",
        "rewrite to itself",
        "route cap",
        "route far away",
        "route to nowhere",
        "same name twice",
        "size too large",
        "size too small",
        "stale denials for longer than stale answers",
        "stale denials for too long",
        "tiers to nowhere",
        "under a minimum",
        "upstream is ourselves",
        "zone twice",
    ];

    #[test]
    #[ignore = "needs a Python with jsonschema and PyYAML, which NODENS_TEST_PYTHON names"]
    fn the_schema_refuses_all_mistakes_that_a_schema_can_say() {
        let keys = bad_keys().map(|(name, text, _)| ((*name).to_owned(), format!("{VPC}{text}\n")));
        let groups = BAD_GROUPS.iter().map(|(name, body, _)| {
            (
                format!("group: {name}"),
                format!("upstreams:\n  vpc: {{{body}}}\n"),
            )
        });
        let found = validate(&keys.chain(groups).collect());
        let passed = found.iter().filter(|(_, problems)| problems.is_empty());
        let passed: BTreeSet<_> = passed.map(|(name, _)| name.as_str()).collect();
        assert_eq!(passed, BEYOND_A_SCHEMA.iter().copied().collect());
    }

    #[test]
    #[ignore = "needs a Python with jsonschema and PyYAML, which NODENS_TEST_PYTHON names"]
    fn the_schema_takes_what_is_right() {
        let mut documents = BTreeMap::new();
        let mut add = |name: &str, text: String| documents.insert(name.to_owned(), text);
        for (name, text) in [("example", EXAMPLE), ("forms", FORMS), ("base", BASE)] {
            add(name, text.to_owned());
        }
        for duration in [
            "0",
            "500ms",
            "1m 30s",
            "1m30s",
            "1.5s",
            " 2 minutes",
            "1hr",
            "600000000us",
            "1s",
        ] {
            add(
                &format!("grace {duration}"),
                format!("shutdown_grace: \"{duration}\""),
            );
        }
        for size in [
            "0", "64MiB", "64Mi", "64 mb", "67108864", "1.5GiB", "100k", "100000B",
        ] {
            add(
                &format!("size {size}"),
                format!("cache: {{max_size: \"{size}\"}}"),
            );
        }
        let servers = [
            "10.0.0.2",
            "10.0.0.2:5353",
            "udp://10.0.0.2",
            "fd00::2",
            "[fd00::2]",
            "[fd00::2]:5353",
            "[fe80::1%2]:53",
            "tcp://fd00::2",
            "tcp://10.0.0.2:5353",
            "tls://1.1.1.1:8853#one.one.one.one",
            "tls://[2606:4700::1111]#1.1.1.1",
            "https://1.1.1.1/dns-query#one.one.one.one",
            "https://1.1.1.1#one.one.one.one",
            "dns.corp.example@vpc",
            "https://dns.google:8443/dns-query#x.google@vpc",
            "tls://dns.corp.example.@vpc",
            "/etc/resolv.conf",
            "./resolv.conf",
            "../x/resolv.conf",
        ];
        for server in servers {
            add(
                &format!("server {server}"),
                format!("upstreams: {{vpc: {{servers: [\"{server}\"]}}}}"),
            );
        }
        for level in ["INFO", "off", "warn,nodens::query=info", "nodens[x]=debug"] {
            add(
                &format!("level {level}"),
                format!("log: {{level: \"{level}\"}}"),
            );
        }
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/config")).expect("examples")
        {
            let path = file.expect("an entry").path();
            add(
                &path.display().to_string(),
                fs::read_to_string(&path).expect("text"),
            );
        }
        let refused = validate(&documents)
            .into_iter()
            .filter(|(_, problems)| !problems.is_empty());
        let refused: BTreeMap<_, _> = refused.collect();
        assert!(refused.is_empty(), "{refused:#?}");
    }
}
