//! `upstreams`: groups, their servers, and whether one of them is ourselves.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use figment::value::Value;
use hickory_proto::rr::{Name, RecordType};
use serde_json::json;

use super::error::{Missing, Origin, Problem};
use super::leaf::{show_list, show_text, show_value};
use super::named::ServerSource;
use super::path::KeyPath;
use super::read::{Report, Section, list_items};
use super::servers::{self, ServerEntry};
use super::shape::{self, Shape};
use super::spelling::nearest;
use super::{Bogus, FailoverConfig, GroupConfig, Policy, Probe, limits};

/// The name of the group that is used when the configuration has none.
pub(super) const DEFAULT_GROUP: &str = "resolv.conf";

/// The remedy for a resolv.conf that the configuration names.
const FIX_SERVERS: &str = "write the servers' IP addresses instead";
/// The remedy for a server that the configuration names.
const FIX_LISTED: &str = "remove it from servers, or listen elsewhere";
/// The address of systemd-resolved, which is then the only one in /etc/resolv.conf (systemd-resolved.service(8)).
const RESOLVED: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// The remedy for systemd-resolved's address.
const ASK_BEHIND_RESOLVED: &str = "name /run/systemd/resolve/resolv.conf in servers, which holds those that systemd-resolved asks, and listen at other addresses than its own";
/// The remedy for the default /etc/resolv.conf.
const SET_UPSTREAMS: &str =
    "set upstreams to the servers to ask, for example upstreams: {vpc: {servers: [10.0.0.2]}}";

/// A server with what is needed to say something about it.
#[derive(Clone)]
struct ServerList {
    source: ServerSource,
    path: KeyPath,
    origin: Origin,
    remedy: &'static str,
}

/// Reads `upstreams`. `listen` is what no server may be; `resolv_conf` is where the default group comes from.
pub(super) fn read(
    top: &Section<'_>,
    report: &Report<'_>,
    listen: &[SocketAddr],
    resolv_conf: &Path,
) -> Vec<GroupConfig> {
    let entries = top.entries("upstreams", shape::group_name);
    if entries.is_empty() {
        return vec![default_group(top, report, listen, resolv_conf)];
    }
    let mut all = Vec::new();
    let group = |(name, path, value): (&str, KeyPath, &Value)| {
        let section = report.table(&path, value, "a table such as {servers: [10.0.0.2]}");
        report.note(&path, || Shape::table(json!({"required": ["servers"]})));
        check_name(report, &path, value, name);
        // A value that is no table has no servers; the mistake is reported already.
        let is_table = value.as_dict().is_some() || value.to_empty().is_some();
        let (found, resolv_confs) = if is_table {
            read_servers(&section, report, listen)
        } else {
            Default::default()
        };
        let sources = found.iter().map(|found| found.source.clone()).collect();
        all.push(found);
        let group = GroupConfig {
            resolv_confs,
            ..read_options(&section, name, sources)
        };
        section.finish();
        group
    };
    let groups: Vec<_> = entries.into_iter().map(group).collect();
    check_names(report, &groups, &all);
    groups
}

/// Whether each name of a server can be resolved by the group that is to do it. `found` holds each group's servers.
fn check_names(report: &Report<'_>, groups: &[GroupConfig], found: &[Vec<ServerList>]) {
    for (group, found) in groups.iter().zip(found) {
        for one in found {
            let ServerSource::Host(named) = &one.source else {
                continue;
            };
            let value = named.written.to_string();
            let via = &named.host.via;
            if groups.iter().all(|other| other.name != *via) {
                let known: Vec<String> = groups.iter().map(|g| g.name.to_string()).collect();
                let near = nearest(via, &known);
                let value = show_text(via);
                let problem = Problem::UnknownGroup { value, near, known };
                report.error(one.origin.clone(), &one.path, problem);
            } else if let Some(way) = way_between(groups, via, &group.name) {
                let circle = [&[&*group.name], &way[..]].concat().join(" → ");
                let problem = Problem::GroupCircle { value, circle };
                report.error(one.origin.clone(), &one.path, problem);
            }
        }
    }
}

/// The path from a group to another one through the groups that resolve servers' names; none if there is none.
fn way_between<'a>(groups: &'a [GroupConfig], from: &'a str, to: &str) -> Option<Vec<&'a str>> {
    let mut ways = vec![vec![from]];
    let mut seen = BTreeSet::from([from]);
    while let Some(way) = ways.pop() {
        let last = *way.last()?;
        if last == to {
            return Some(way);
        }
        let group = groups.iter().find(|group| &*group.name == last);
        for named in group.into_iter().flat_map(GroupConfig::named) {
            if seen.insert(&named.host.via) {
                let mut longer = way.clone();
                longer.push(&named.host.via);
                ways.push(longer);
            }
        }
    }
    None
}

/// A group's name is a label of metrics and a word in routes.
fn check_name(report: &Report<'_>, path: &KeyPath, value: &Value, name: &str) {
    if !servers::is_group_name(name) {
        let value_shown = show_text(name);
        let expected = "a group's name: 1 to 63 letters, digits, -, _ or .";
        report.error_at(
            path,
            value,
            Problem::NotA {
                value: value_shown,
                expected,
            },
        );
    }
}

fn default_group(
    top: &Section<'_>,
    report: &Report<'_>,
    listen: &[SocketAddr],
    resolv_conf: &Path,
) -> GroupConfig {
    let section = top.section("upstreams").section(DEFAULT_GROUP);
    let path = section.path("servers");
    let mut found = Vec::new();
    match servers::read_resolv_conf(report.files(), resolv_conf, SET_UPSTREAMS) {
        Ok(conf) => {
            warn_left_out(report, resolv_conf, &conf);
            found.extend(
                conf.servers
                    .into_iter()
                    .take(limits::MAX_SERVERS)
                    .map(|server| ServerList {
                        source: ServerSource::Address(server),
                        path: path.clone(),
                        origin: Origin::Default,
                        remedy: SET_UPSTREAMS,
                    }),
            );
        }
        Err(problem) => report.error(Origin::Default, &path, problem),
    }
    let found = without_ourselves(report, found, listen);
    let sources: Vec<_> = found.into_iter().map(|found| found.source).collect();
    let shown = format!("{} ({})", show_list(&sources), resolv_conf.display());
    report.setting(Origin::Default, &path, shown);
    GroupConfig {
        resolv_confs: vec![resolv_conf.to_owned()],
        ..read_options(&section, DEFAULT_GROUP, sources)
    }
}

fn group_defaults() -> GroupConfig {
    GroupConfig {
        name: Arc::from(""),
        sources: Vec::new(),
        servers: Vec::new(),
        resolv_confs: Vec::new(),
        policy: Policy::Ordered,
        try_timeout: Duration::from_secs(1),
        deadline: Duration::from_secs(4),
        probe: Probe {
            name: Name::root(),
            record_type: RecordType::NS,
        },
        failover: FailoverConfig::default(),
        bogus: Bogus::Final,
        tls_ca: None,
        // So that kube-dns endpoints that come are used within about a minute.
        stream_max_age: Duration::from_mins(1),
        max_in_flight: NonZeroUsize::MIN.saturating_add(9_999),
        max_queries_per_second: None,
    }
}

/// The servers of a group while its list is read.
#[derive(Default)]
struct Servers {
    found: Vec<ServerList>,
    typed: BTreeSet<String>,
    files: Vec<PathBuf>,
}

impl Servers {
    /// A server that is listed already and came from a resolv.conf is no mistake of the configuration.
    fn add(&mut self, one: ServerList) {
        if self.found.iter().all(|known| known.source != one.source) {
            self.found.push(one);
        }
    }

    fn read(&mut self, report: &Report<'_>, path: KeyPath, item: &Value) -> Result<(), Problem> {
        let expected = servers::EXPECTED;
        let value = || show_value(item);
        let text = item.as_str().ok_or_else(|| Problem::NotA {
            value: value(),
            expected,
        })?;
        let origin = report.origin(&path, Some(item));
        let entry = servers::parse(text)?;
        let (shown, remedy) = match &entry {
            ServerEntry::Source(source) => (source.to_string(), FIX_LISTED),
            ServerEntry::File(file) => (file.display().to_string(), FIX_SERVERS),
        };
        if !self.typed.insert(format!("{entry:?}")) {
            let first = String::new();
            return Err(Problem::Twice {
                value: shown,
                first,
            });
        }
        match entry {
            ServerEntry::Source(source) => self.add(ServerList {
                source,
                path,
                origin,
                remedy,
            }),
            ServerEntry::File(file) => {
                let conf = servers::read_resolv_conf(report.files(), &file, FIX_SERVERS)?;
                warn_left_out(report, &file, &conf);
                for server in conf.servers {
                    let (path, origin) = (path.clone(), origin.clone());
                    self.add(ServerList {
                        source: ServerSource::Address(server),
                        path,
                        origin,
                        remedy,
                    });
                }
                self.files.push(file);
            }
        }
        Ok(())
    }
}

/// The servers of a group, and the resolv.conf files that some come from.
fn read_servers(
    section: &Section<'_>,
    report: &Report<'_>,
    listen: &[SocketAddr],
) -> (Vec<ServerList>, Vec<PathBuf>) {
    let mut servers = Servers::default();
    section.note("servers", || {
        Shape::list(shape::server())
            .counting(1, limits::MAX_SERVERS)
            .unique()
    });
    let value = section
        .value("servers")
        .filter(|value| value.to_empty().is_none());
    let items = value.map_or_else(Vec::new, |value| {
        list_items(&section.path("servers"), value)
    });
    if items.is_empty() {
        let problem = Problem::Missing(Missing::Servers);
        report.error(section.own_origin(), section.own_path(), problem);
    }
    for (path, item) in items {
        if let Err(problem) = servers.read(report, path.clone(), item) {
            report.error_at(&path, item, problem);
        }
    }
    let Servers { found, files, .. } = servers;
    let found = without_ourselves(report, found, listen);
    if found.len() > limits::MAX_SERVERS {
        let (count, limit) = (found.len(), limits::MAX_SERVERS);
        section.error("servers", Problem::TooMany { count, limit });
    }
    let mut shown = show_list(found.iter().map(|found| &found.source));
    if !files.is_empty() {
        let names: Vec<_> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        shown = format!("{shown} ({})", names.join(", "));
    }
    section.setting("servers", shown);
    (found, files)
}

fn warn_left_out(report: &Report<'_>, file: &Path, conf: &servers::ResolvConf) {
    for (written, why) in &conf.left_out {
        report.warn(format!(
            "{}: nameserver {written} is left out: {why}",
            file.display()
        ));
    }
}

fn read_options(section: &Section<'_>, name: &str, sources: Vec<ServerSource>) -> GroupConfig {
    let defaults = group_defaults();
    let policy = section.read("policy", defaults.policy);
    let try_timeout = section.read_in("try_timeout", defaults.try_timeout, &limits::TRY_TIMEOUT);
    let deadline = section.read_in("deadline", defaults.deadline, &limits::DEADLINE);
    section.ordered(("try_timeout", &try_timeout), ("deadline", &deadline));
    let probe = section.read("probe", defaults.probe);
    let bogus = section.read("bogus", defaults.bogus);
    let tls_ca = section.read_or_null("tls_ca", defaults.tls_ca);
    let in_flight = section.read_in(
        "max_in_flight",
        defaults.max_in_flight.get(),
        &limits::GROUP_IN_FLIGHT,
    );
    let per_second = section.read_in("max_queries_per_second", 0, &limits::QUERIES_PER_SECOND);
    let mut group = GroupConfig {
        name: Arc::from(name),
        sources,
        servers: Vec::new(),
        resolv_confs: Vec::new(),
        policy,
        try_timeout,
        deadline,
        probe,
        failover: read_failover(section),
        bogus,
        tls_ca,
        stream_max_age: read_stream_max_age(section, defaults.stream_max_age),
        max_in_flight: NonZeroUsize::new(in_flight).unwrap_or(NonZeroUsize::MIN),
        max_queries_per_second: NonZeroU32::new(per_second),
    };
    group.list_servers();
    group
}

fn read_stream_max_age(group: &Section<'_>, default: Duration) -> Duration {
    let section = group.section("streams");
    let max_age = section.read_in("max_age", default, &limits::STREAM_MAX_AGE);
    section.finish();
    max_age
}

fn read_failover(group: &Section<'_>) -> FailoverConfig {
    let section = group.section("failover");
    let defaults = FailoverConfig::default();
    let failover = FailoverConfig {
        start_fanout: section.read_in("start_fanout", defaults.start_fanout, &limits::START_FANOUT),
        hedge_min: section.read_in("hedge_min", defaults.hedge_min, &limits::HEDGE),
        hedge_max: section.read_in("hedge_max", defaults.hedge_max, &limits::HEDGE),
        hedge_budget_percent: section.read_in(
            "hedge_budget_percent",
            defaults.hedge_budget_percent,
            &limits::HEDGE_BUDGET,
        ),
        probe_min: section.read_in("probe_min", defaults.probe_min, &limits::PROBE_PAUSE),
        probe_max: section.read_in("probe_max", defaults.probe_max, &limits::PROBE_PAUSE),
        recover_probes: section.read_in(
            "recover_probes",
            defaults.recover_probes,
            &limits::RECOVER_PROBES,
        ),
        poor_loss_percent: section.read_in(
            "poor_loss_percent",
            defaults.poor_loss_percent,
            &limits::POOR_LOSS,
        ),
        poor_loss_window: section.read_in(
            "poor_loss_window",
            defaults.poor_loss_window,
            &limits::POOR_LOSS_WINDOW,
        ),
        poor_answer_window: section.read_in(
            "poor_answer_window",
            defaults.poor_answer_window,
            &limits::POOR_ANSWER_WINDOW,
        ),
        poor_slower_by: section.read_in(
            "poor_slower_by",
            defaults.poor_slower_by,
            &limits::POOR_SLOWER_BY,
        ),
        poor_slower_factor: section.read_in(
            "poor_slower_factor",
            defaults.poor_slower_factor,
            &limits::POOR_SLOWER_FACTOR,
        ),
    };
    section.ordered(
        ("hedge_min", &failover.hedge_min),
        ("hedge_max", &failover.hedge_max),
    );
    section.ordered(
        ("probe_min", &failover.probe_min),
        ("probe_max", &failover.probe_max),
    );
    section.finish();
    failover
}

/// A listener that is its own upstream asks itself until every limit is reached. A node whose resolv.conf names nodens and
/// others has these others left; what is named in the configuration itself is a mistake.
fn without_ourselves(
    report: &Report<'_>,
    mut found: Vec<ServerList>,
    listen: &[SocketAddr],
) -> Vec<ServerList> {
    let ours = |one: &ServerList| match &one.source {
        ServerSource::Address(server) => {
            let mut all = listen.iter();
            all.find(|listen| reaches(**listen, server.address))
                .copied()
        }
        // The addresses of host names are not known yet; loops through them are found at run time, like other loops.
        ServerSource::Host(_) => None,
    };
    if found.iter().any(|one| ours(one).is_none()) {
        found.retain(|one| {
            let Some(listen) = ours(one).filter(|_| one.remedy != FIX_LISTED) else {
                return true;
            };
            let ServerList { path, source, .. } = one;
            report.warn(format!(
                "{path}: {source} is left out: it is our own listen address {listen}, queries would go in a circle"
            ));
            false
        });
    }
    for one in &found {
        if let (Some(listen), ServerSource::Address(server)) = (ours(one), &one.source) {
            let stub = server.address.ip() == RESOLVED && one.remedy != FIX_LISTED;
            let problem = Problem::Loop {
                server: server.to_string(),
                listen: listen.to_string(),
                remedy: if stub {
                    ASK_BEHIND_RESOLVED
                } else {
                    one.remedy
                },
            };
            report.error(one.origin.clone(), &one.path, problem);
        }
    }
    found
}

/// Whether a packet to `server` arrives at `listen`. Which other addresses the host has is not known here.
fn reaches(listen: SocketAddr, server: SocketAddr) -> bool {
    let (ours, theirs) = (listen.ip().to_canonical(), server.ip().to_canonical());
    let everywhere = match ours {
        IpAddr::V4(ip) => ip.is_unspecified() && theirs.is_ipv4(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    };
    listen.port() == server.port() && (ours == theirs || (everywhere && theirs.is_loopback()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_to_its_own_address_reach_a_listener_and_those_to_loopback_a_wildcard() {
        let cases = [
            ("10.0.0.1:53", "10.0.0.1:53", true),
            ("10.0.0.1:53", "10.0.0.1:54", false),
            ("10.0.0.1:53", "10.0.0.2:53", false),
            ("0.0.0.0:53", "127.0.0.53:53", true),
            ("0.0.0.0:53", "10.0.0.2:53", false),
            ("[::]:53", "127.0.0.1:53", true),
            ("[::]:53", "[::1]:53", true),
            ("0.0.0.0:53", "[::1]:53", false),
            ("10.0.0.1:53", "[::ffff:10.0.0.1]:53", true),
        ];
        for (listen, server, expected) in cases {
            let found = reaches(
                listen.parse().expect("an address"),
                server.parse().expect("an address"),
            );
            assert_eq!(found, expected, "{listen} {server}");
        }
    }
}
