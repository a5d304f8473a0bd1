//! Makes tables from the instances' readings, with the worst rows first. Pure: time is an argument.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::counters::{CounterHistory, Rates};
use super::seen::{CountSeen, Escaped, GroupSeen, HealthSeen, HostSeen, InstanceSeen, ServerSeen};

/// The gravity of a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gravity {
    /// Nothing is wrong.
    Well,
    /// Nothing is known yet.
    Open,
    /// It works, with something wrong in it.
    Sick,
    /// It does not work.
    Dead,
}

/// The result of one reading of an instance.
#[derive(Debug)]
pub(super) struct InstanceReading {
    /// Its place among the instances.
    pub(super) instance: usize,
    /// When.
    pub(super) at: Instant,
    /// Its status, or why it could not be read.
    pub(super) result: Result<InstanceSeen, Escaped>,
    /// It is read again after this.
    pub(super) pause: Duration,
}

/// All instances.
#[derive(Debug)]
pub(super) struct Fleet(Vec<Watch>);

/// One instance.
#[derive(Debug)]
struct Watch {
    address: Escaped,
    contact: Contact,
    counters: CounterHistory,
}

#[derive(Debug)]
enum Contact {
    /// It has not been read yet.
    Awaited,
    Made(Box<InstanceSeen>),
    Lost {
        reason: Escaped,
        again_at: Instant,
    },
}

impl Watch {
    fn seen(&self) -> Option<&InstanceSeen> {
        match &self.contact {
            Contact::Made(seen) => Some(seen),
            Contact::Awaited | Contact::Lost { .. } => None,
        }
    }

    fn take(&mut self, reading: InstanceReading) {
        let InstanceReading { at, pause, .. } = reading;
        match reading.result {
            Err(reason) => {
                let again_at = at + pause;
                self.contact = Contact::Lost { reason, again_at };
            }
            Ok(seen) => {
                self.counters.take(&seen, at);
                self.contact = Contact::Made(Box::new(seen));
            }
        }
    }
}

/// The tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) instances: Vec<InstanceRow>,
    pub(super) groups: Vec<GroupRow>,
    pub(super) servers: Vec<ServerRow>,
    pub(super) failures: Vec<FailureRow>,
    /// Whether any instance shows failures at all, as far as is known.
    pub(super) failures_are_shown: bool,
    pub(super) names: Vec<CountRow>,
    pub(super) slowest: Vec<CountRow>,
    pub(super) clients: Vec<CountRow>,
}

#[derive(Debug)]
pub(super) struct InstanceRow {
    /// Its node, or where it is asked if nothing else is known or the node has several.
    pub(super) name: String,
    pub(super) address: Escaped,
    pub(super) gravity: Gravity,
    /// In a word.
    pub(super) state: &'static str,
    pub(super) why: String,
    pub(super) version: String,
    pub(super) uptime_seconds: Option<f64>,
    /// None until it was read twice.
    pub(super) rates: Option<Rates>,
    sick_servers: usize,
}

/// A group; the numbers are of the instance where it is worst.
#[derive(Debug)]
pub(super) struct GroupRow {
    pub(super) name: Escaped,
    pub(super) gravity: Gravity,
    pub(super) state: &'static str,
    /// Servers that can be asked ...
    pub(super) usable: usize,
    /// ... of so many.
    pub(super) servers: usize,
    /// Of all instances.
    pub(super) in_flight: u64,
    /// Host names of servers that could not be resolved.
    pub(super) why: String,
    pub(super) instances: Share,
}

/// Instances in the same state, the worst state first, out of those that have this row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) names: Vec<String>,
    pub(super) of: usize,
}

/// A server, by one transport, on all instances where it is in one state. Numbers are of the first of them.
#[derive(Debug)]
pub(super) struct ServerRow {
    pub(super) server: Escaped,
    pub(super) group: Escaped,
    pub(super) gravity: Gravity,
    pub(super) health: HealthSeen,
    pub(super) rtt_milliseconds: Vec<Option<f64>>,
    pub(super) instances: Share,
}

/// A question that failed, on all instances.
#[derive(Debug)]
pub(super) struct FailureRow {
    pub(super) name: Escaped,
    pub(super) qtype: Escaped,
    pub(super) route: Option<Escaped>,
    pub(super) rcode: Escaped,
    /// Of the last time.
    pub(super) text: Escaped,
    pub(super) count: u64,
    pub(super) ago_seconds: f64,
    pub(super) instances: Share,
}

/// A name or a client, counted by all instances.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct CountRow {
    pub(super) name: Escaped,
    /// Queries, or milliseconds.
    pub(super) count: f64,
    /// It is too high by this at most.
    pub(super) error: f64,
}

/// The headline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Headline {
    /// No instance could be read.
    Unreachable,
    /// Something is wrong.
    Sick,
    /// Nothing is.
    Well,
}

impl Tables {
    pub(super) fn summary(&self) -> Headline {
        let unreachable = |row: &InstanceRow| row.uptime_seconds.is_none();
        if self.instances.iter().all(unreachable) {
            Headline::Unreachable
        } else if self
            .instances
            .iter()
            .any(|row| row.gravity >= Gravity::Sick)
        {
            Headline::Sick
        } else {
            Headline::Well
        }
    }
}

/// The words are those of /status; an unknown one is not taken for harmless.
fn gravity_of_state(state: &str) -> Gravity {
    match state {
        "good" => Gravity::Well,
        "unknown" => Gravity::Open,
        "poor" | "silent" => Gravity::Sick,
        _ => Gravity::Dead,
    }
}

/// Among states of one gravity, and across: as the page sorts them.
fn severity(state: &str) -> u8 {
    match state {
        "good" => 0,
        "unknown" => 1,
        "poor" => 2,
        "silent" => 3,
        _ => 4,
    }
}

fn server_gravity(server: &ServerSeen, health: &HealthSeen) -> Gravity {
    if server.looped {
        return Gravity::Dead;
    }
    gravity_of_state(health.state.as_str())
}

fn is_usable(server: &ServerSeen) -> bool {
    // The first is the transport that it is asked over; TCP beside UDP comes second.
    let first = server.health.first();
    first.is_none_or(|health| server_gravity(server, health) < Gravity::Dead)
}

fn is_sick(server: &ServerSeen) -> bool {
    let sick = |health: &HealthSeen| server_gravity(server, health) >= Gravity::Sick;
    server.health.iter().any(sick)
}

fn group_gravity(group: &GroupSeen) -> Gravity {
    if !group.servers.iter().any(is_usable) {
        Gravity::Dead
    } else if group.servers.iter().any(is_sick)
        || group.hosts.iter().any(|host| host.failure.is_some())
    {
        Gravity::Sick
    } else {
        Gravity::Well
    }
}

fn plural(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// The larger is the worse. Figures are finite, as JSON has no others.
fn worse_first(one: f64, other: f64) -> Ordering {
    other.total_cmp(&one)
}

impl Fleet {
    /// None of them was read yet.
    pub(super) fn new(addresses: impl IntoIterator<Item = String>) -> Self {
        let watch = |address: String| Watch {
            address: Escaped::new(&address),
            contact: Contact::Awaited,
            counters: CounterHistory::default(),
        };
        Self(addresses.into_iter().map(watch).collect())
    }

    /// Adds one reading.
    pub(super) fn take(&mut self, reading: InstanceReading) {
        if let Some(watch) = self.0.get_mut(reading.instance) {
            watch.take(reading);
        }
    }

    /// The tables as of now.
    pub(super) fn tables(&self, now: Instant) -> Tables {
        let names = self.names();
        let reached: Vec<(&str, &InstanceSeen)> = names
            .iter()
            .zip(&self.0)
            .filter_map(|(name, watch)| Some((name.as_str(), watch.seen()?)))
            .collect();
        let tops = || reached.iter().filter_map(|(_, seen)| seen.top.as_ref());
        Tables {
            instances: self.instances(&names, now),
            groups: groups(&reached),
            servers: servers(&reached),
            failures: failures(&reached),
            failures_are_shown: reached.is_empty()
                || reached.iter().any(|(_, seen)| seen.failures.is_some()),
            names: counts(tops().flat_map(|top| &top.names)),
            slowest: counts(tops().flat_map(|top| &top.slowest)),
            clients: counts(tops().flat_map(|top| &top.clients)),
        }
    }

    /// The node of each, with the address where that does not tell them apart.
    fn names(&self) -> Vec<String> {
        let node = |watch: &Watch| watch.seen().map(|seen| seen.node.as_str().to_owned());
        let nodes: Vec<Option<String>> = self.0.iter().map(node).collect();
        let name = |(watch, node): (&Watch, &Option<String>)| match node {
            Some(name) if !name.is_empty() => {
                let alike = nodes.iter().filter(|other| *other == node).count();
                match alike {
                    1 => name.clone(),
                    _ => format!("{name} ({})", watch.address),
                }
            }
            _ => watch.address.as_str().to_owned(),
        };
        self.0.iter().zip(&nodes).map(name).collect()
    }

    fn instances(&self, names: &[String], now: Instant) -> Vec<InstanceRow> {
        let rows = self.0.iter().zip(names);
        let mut rows: Vec<InstanceRow> = rows.map(|(watch, name)| watch.row(name, now)).collect();
        rows.sort_by(|one, other| {
            let rate =
                |row: &InstanceRow, of: fn(&Rates) -> f64| row.rates.as_ref().map_or(0.0, of);
            other
                .gravity
                .cmp(&one.gravity)
                .then(
                    one.uptime_seconds
                        .is_some()
                        .cmp(&other.uptime_seconds.is_some()),
                )
                .then(worse_first(
                    rate(one, |r| r.failures),
                    rate(other, |r| r.failures),
                ))
                .then(other.sick_servers.cmp(&one.sick_servers))
                .then(worse_first(
                    rate(one, |r| r.stale),
                    rate(other, |r| r.stale),
                ))
                .then_with(|| one.name.cmp(&other.name))
        });
        rows
    }
}

impl Watch {
    fn row(&self, name: &str, now: Instant) -> InstanceRow {
        let row = InstanceRow {
            name: name.to_owned(),
            address: self.address.clone(),
            gravity: Gravity::Open,
            state: "awaited",
            why: String::new(),
            version: String::new(),
            uptime_seconds: None,
            rates: None,
            sick_servers: 0,
        };
        let seen = match &self.contact {
            Contact::Awaited => return row,
            Contact::Lost { reason, again_at } => {
                let left = again_at.saturating_duration_since(now).as_secs_f64().ceil();
                let again = if left > 0.0 {
                    format!("; trying again in {left} s")
                } else {
                    String::new()
                };
                return InstanceRow {
                    gravity: Gravity::Dead,
                    state: "unreachable",
                    why: format!("{reason}{again}"),
                    ..row
                };
            }
            Contact::Made(seen) => seen,
        };
        let (gravity, state, why) = condition(seen);
        InstanceRow {
            gravity,
            state,
            why,
            version: seen.version.as_str().to_owned(),
            uptime_seconds: Some(seen.uptime_seconds),
            rates: self.counters.rates(),
            sick_servers: all_servers(seen).filter(|server| is_sick(server)).count(),
            ..row
        }
    }
}

fn all_servers(seen: &InstanceSeen) -> impl Iterator<Item = &ServerSeen> {
    seen.upstreams.iter().flat_map(|group| &group.servers)
}

/// The state of an instance: its gravity, a word, and the reason.
fn condition(seen: &InstanceSeen) -> (Gravity, &'static str, String) {
    let mut why = Vec::new();
    let is_dead = |group: &&GroupSeen| group_gravity(group) == Gravity::Dead;
    let dead: Vec<&str> = seen
        .upstreams
        .iter()
        .filter(is_dead)
        .map(|group| group.name.as_str())
        .collect();
    if !dead.is_empty() {
        why.push(format!("no server to ask in {}", dead.join(", ")));
    }
    let all = all_servers(seen).count();
    let sick = all_servers(seen).filter(|server| is_sick(server)).count();
    if sick > 0 {
        why.push(format!("{sick} of {} sick", plural(all, "server")));
    }
    let hosts = seen.upstreams.iter().flat_map(|group| &group.hosts);
    let unresolved = hosts.filter(|host| host.failure.is_some()).count();
    if unresolved > 0 {
        why.push(format!("{} not resolved", plural(unresolved, "host name")));
    }
    let mistakes = seen.configuration.mistakes.len();
    if mistakes > 0 {
        why.push(format!("{} in its files", plural(mistakes, "mistake")));
    }
    let (gravity, state) = if seen.ready == Some(false) {
        (Gravity::Dead, "not ready")
    } else if !dead.is_empty() {
        (Gravity::Dead, "failing")
    } else if !why.is_empty() {
        (Gravity::Sick, "sick")
    } else {
        (Gravity::Well, "good")
    };
    (gravity, state, why.join("; "))
}

fn groups(reached: &[(&str, &InstanceSeen)]) -> Vec<GroupRow> {
    let mut by_name: BTreeMap<&Escaped, Vec<(&str, &GroupSeen)>> = BTreeMap::new();
    for (instance, seen) in reached {
        for group in &seen.upstreams {
            by_name
                .entry(&group.name)
                .or_default()
                .push((instance, group));
        }
    }
    let row = |(name, mut all): (&Escaped, Vec<(&str, &GroupSeen)>)| {
        let usable = |group: &GroupSeen| {
            group
                .servers
                .iter()
                .filter(|server| is_usable(server))
                .count()
        };
        // Stable: in the order of instances where nothing tells them apart.
        all.sort_by_key(|(_, group)| (Reverse(group_gravity(group)), usable(group)));
        let worst = all[0].1;
        let gravity = group_gravity(worst);
        let unresolved = |host: &HostSeen| {
            let failure = host.failure.as_ref()?;
            Some(format!("{}: {failure}", host.host))
        };
        let alike = all
            .iter()
            .filter(|(_, group)| group_gravity(group) == gravity);
        GroupRow {
            name: name.clone(),
            gravity,
            state: match gravity {
                Gravity::Dead => "failing",
                Gravity::Sick => "sick",
                Gravity::Well | Gravity::Open => "good",
            },
            usable: usable(worst),
            servers: worst.servers.len(),
            in_flight: all.iter().map(|(_, group)| group.in_flight).sum(),
            why: worst
                .hosts
                .iter()
                .filter_map(unresolved)
                .collect::<Vec<_>>()
                .join("; "),
            instances: Share {
                names: alike.map(|(instance, _)| (*instance).to_owned()).collect(),
                of: all.len(),
            },
        }
    };
    let mut rows: Vec<GroupRow> = by_name.into_iter().map(row).collect();
    rows.sort_by_key(|row| Reverse(row.gravity));
    rows
}

fn servers(reached: &[(&str, &InstanceSeen)]) -> Vec<ServerRow> {
    /// One server on one instance.
    struct One<'a> {
        instance: &'a str,
        server: &'a ServerSeen,
        health: &'a HealthSeen,
        is_first: bool,
    }
    // By group, server and transport; then by state.
    let mut all: BTreeMap<[&Escaped; 3], BTreeMap<&Escaped, Vec<One<'_>>>> = BTreeMap::new();
    for (instance, seen) in reached {
        for group in &seen.upstreams {
            for server in &group.servers {
                for (place, health) in server.health.iter().enumerate() {
                    let states = all
                        .entry([&group.name, &server.server, &health.transport])
                        .or_default();
                    states.entry(&health.state).or_default().push(One {
                        instance,
                        server,
                        health,
                        is_first: place == 0,
                    });
                }
            }
        }
    }
    let mut rows = Vec::new();
    for ([group, server, _], states) in all {
        let of = states.values().map(Vec::len).sum();
        for mut ones in states.into_values() {
            ones.sort_by(|one, other| {
                let srtt = |one: &One<'_>| one.health.srtt_milliseconds.unwrap_or(0.0);
                let (mine, others) = (one.health, other.health);
                worse_first(mine.loss_percent, others.loss_percent)
                    .then(worse_first(srtt(one), srtt(other)))
                    .then(worse_first(mine.since_seconds, others.since_seconds))
            });
            let worst = &ones[0];
            rows.push(ServerRow {
                server: server.clone(),
                group: group.clone(),
                gravity: server_gravity(worst.server, worst.health),
                health: worst.health.clone(),
                rtt_milliseconds: if worst.is_first {
                    worst.server.rtt_milliseconds.clone()
                } else {
                    Vec::new()
                },
                instances: Share {
                    names: ones.iter().map(|one| one.instance.to_owned()).collect(),
                    of,
                },
            });
        }
    }
    rows.sort_by_key(|row| {
        let worst = (row.gravity, severity(row.health.state.as_str()));
        Reverse((worst, row.instances.names.len()))
    });
    rows
}

fn failures(reached: &[(&str, &InstanceSeen)]) -> Vec<FailureRow> {
    let mut rows: BTreeMap<[&Escaped; 3], FailureRow> = BTreeMap::new();
    for (instance, seen) in reached {
        for failure in seen.failures.iter().flatten() {
            let row = rows
                .entry([&failure.name, &failure.qtype, &failure.rcode])
                .or_insert_with(|| FailureRow {
                    name: failure.name.clone(),
                    qtype: failure.qtype.clone(),
                    route: failure.route.clone(),
                    rcode: failure.rcode.clone(),
                    text: failure.text.clone(),
                    count: 0,
                    ago_seconds: failure.ago_seconds,
                    instances: Share::default(),
                });
            row.count = row.count.saturating_add(failure.count);
            if failure.ago_seconds < row.ago_seconds {
                row.ago_seconds = failure.ago_seconds;
                row.text = failure.text.clone();
                row.route.clone_from(&failure.route);
            }
            row.instances.of = reached.len();
            if !row.instances.names.iter().any(|name| name == instance) {
                row.instances.names.push((*instance).to_owned());
            }
        }
    }
    let mut rows: Vec<FailureRow> = rows.into_values().collect();
    rows.sort_by(|one, other| one.ago_seconds.total_cmp(&other.ago_seconds));
    rows
}

fn counts<'a>(all: impl Iterator<Item = &'a CountSeen>) -> Vec<CountRow> {
    let mut sums: BTreeMap<&Escaped, (f64, f64)> = BTreeMap::new();
    for one in all {
        let sum = sums.entry(&one.name).or_default();
        sum.0 += one.queries;
        sum.1 += one.error;
    }
    let row = |(name, (count, error)): (&Escaped, (f64, f64))| CountRow {
        name: name.clone(),
        count,
        error,
    };
    let mut rows: Vec<CountRow> = sums.into_iter().map(row).collect();
    rows.sort_by(|one, other| worse_first(one.count, other.count));
    rows
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const PAUSE: Duration = Duration::from_secs(4);

    /// An instance with one group of servers in these states.
    fn status(node: &str, states: &[&str]) -> Value {
        let server = |(place, state): (usize, &&str)| {
            json!({"server": format!("10.0.0.{}", place + 1), "looped": false, "rtt_milliseconds": [1.0, null],
                "health": [{"transport": "udp", "state": state, "reason": "answered", "since_seconds": 5.0,
                    "srtt_milliseconds": 1.5, "loss_percent": 0}]})
        };
        let servers: Vec<Value> = states.iter().enumerate().map(server).collect();
        json!({"version": "0.1.0", "node": node, "ready": true, "uptime_seconds": 60,
            "upstreams": [{"name": "vpc", "in_flight": 2, "servers": servers}]})
    }

    fn with_counters(uptime: u64, queries: u64, servfail: u64, hits: u64) -> Value {
        let mut status = status("a", &["good"]);
        status["uptime_seconds"] = uptime.into();
        status["routes"] = json!([{"queries": queries, "replies": {"NOERROR": queries - servfail, "SERVFAIL": servfail}}]);
        status["answered_here"] = json!({"queries": 0, "replies": {"NXDOMAIN": 3}});
        status["totals"] = json!({"cache_hits": hits, "cache_misses": queries - hits});
        status["cache"] = json!({"stale_served": 0});
        status
    }

    fn reading(instance: usize, at: Instant, status: &Value) -> InstanceReading {
        let body = status.to_string();
        let seen = InstanceSeen::read(body.as_bytes()).expect("a status");
        let (result, pause) = (Ok(seen), PAUSE);
        InstanceReading {
            instance,
            at,
            result,
            pause,
        }
    }

    fn fleet(statuses: &[Value]) -> Fleet {
        let addresses = (0..statuses.len()).map(|place| format!("10.9.0.{place}:9153"));
        let mut fleet = Fleet::new(addresses);
        let now = Instant::now();
        for (place, status) in statuses.iter().enumerate() {
            fleet.take(reading(place, now, status));
        }
        fleet
    }

    fn names(tables: &Tables) -> Vec<&str> {
        tables
            .instances
            .iter()
            .map(|row| row.name.as_str())
            .collect()
    }

    #[test]
    fn rates_are_of_the_time_between_readings() {
        let (mut fleet, start) = (Fleet::new(["a".to_owned()]), Instant::now());
        let mut rates_after = |seconds: u64, status: &Value| {
            let at = start + Duration::from_secs(seconds);
            fleet.take(reading(0, at, status));
            fleet.tables(at).instances[0].rates
        };
        assert_eq!(rates_after(0, &with_counters(60, 100, 0, 50)), None);
        let rates = rates_after(2, &with_counters(62, 140, 10, 80)).expect("two readings");
        assert_eq!(
            (rates.queries, rates.failures, rates.stale),
            (20.0, 5.0, 0.0)
        );
        assert_eq!(rates.hit_percent, Some(75.0));
        let rates = rates_after(4, &with_counters(64, 140, 10, 80)).expect("two readings");
        assert_eq!((rates.queries, rates.hit_percent), (10.0, Some(75.0)));
        // Ten seconds later the first two readings count no more.
        let rates = rates_after(14, &with_counters(74, 240, 10, 80)).expect("two readings");
        assert_eq!((rates.queries, rates.failures), (10.0, 0.0));
    }

    #[test]
    fn counters_that_went_back_begin_anew() {
        let start = Instant::now();
        for (case, uptime, queries) in [("a restart", 1, 4_000), ("a route that is gone", 61, 10)] {
            let mut fleet = Fleet::new(["a".to_owned()]);
            fleet.take(reading(0, start, &with_counters(60, 1_000, 0, 0)));
            let then = start + Duration::from_secs(1);
            fleet.take(reading(0, then, &with_counters(uptime, queries, 0, 0)));
            assert_eq!(fleet.tables(then).instances[0].rates, None, "{case}");
            let later = then + Duration::from_secs(1);
            fleet.take(reading(
                0,
                later,
                &with_counters(uptime + 1, queries + 7, 0, 0),
            ));
            let rates = fleet.tables(later).instances[0]
                .rates
                .expect("two readings");
            assert!((rates.queries - 7.0).abs() < 1e-9, "{case}: {rates:?}");
        }
    }

    #[test]
    fn what_is_worst_comes_first() {
        let mut not_ready = status("starting", &["good"]);
        not_ready["ready"] = false.into();
        let mut mistaken = status("mistaken", &["good"]);
        mistaken["configuration"] = json!({"mistakes": ["listen: what?"]});
        let mut fleet = fleet(&[
            status("good", &["good", "good"]),
            status("open", &["unknown"]),
            status("poor", &["good", "poor"]),
            status("worse", &["silent", "poor", "good"]),
            status("failing", &["down", "down"]),
            status("gone", &["good"]),
            not_ready,
            mistaken,
        ]);
        let now = Instant::now();
        fleet.take(InstanceReading {
            instance: 5,
            at: now,
            result: Err(Escaped::new("Connection refused\u{1b}")),
            pause: PAUSE,
        });
        let tables = fleet.tables(now + Duration::from_secs(1));
        assert_eq!(
            names(&tables),
            [
                "10.9.0.5:9153",
                "failing",
                "starting",
                "worse",
                "poor",
                "mistaken",
                "good",
                "open"
            ]
        );
        let lost = &tables.instances[0];
        assert_eq!(
            (lost.state, lost.why.as_str()),
            (
                "unreachable",
                "Connection refused\\u{1b}; trying again in 3 s"
            )
        );
        let said: Vec<_> = tables.instances[1..6]
            .iter()
            .map(|row| (row.state, row.why.as_str()))
            .collect();
        assert_eq!(
            said,
            [
                ("failing", "no server to ask in vpc; 2 of 2 servers sick"),
                ("not ready", ""),
                ("sick", "2 of 3 servers sick"),
                ("sick", "1 of 2 servers sick"),
                ("sick", "1 mistake in its files"),
            ]
        );
        assert_eq!(tables.summary(), Headline::Sick);
        let states: Vec<_> = tables
            .servers
            .iter()
            .map(|row| row.health.state.as_str())
            .collect();
        assert_eq!(
            states,
            [
                "down", "down", "silent", "poor", "unknown", "good", "good", "good"
            ]
        );
        let group = &tables.groups[0];
        assert_eq!(
            (group.state, group.usable, group.servers, group.in_flight),
            ("failing", 0, 2, 14)
        );
    }

    #[test]
    fn instances_with_a_server_in_the_same_state_share_a_row() {
        let mut lossy = status("lossy", &["poor"]);
        lossy["upstreams"][0]["servers"][0]["health"][0]["loss_percent"] = 12.into();
        let fleet = fleet(&[
            status("a", &["good"]),
            status("b", &["poor"]),
            lossy,
            status("c", &["good"]),
            status("d", &["good"]),
        ]);
        let tables = fleet.tables(Instant::now());
        let shares: Vec<_> = tables
            .servers
            .iter()
            .map(|row| (&row.instances.names[..], row.instances.of))
            .collect();
        assert_eq!(
            shares,
            [
                (&["lossy".to_owned(), "b".to_owned()][..], 5),
                (&["a", "c", "d"].map(str::to_owned)[..], 5)
            ]
        );
        assert!((tables.servers[0].health.loss_percent - 12.0).abs() < 1e-9);
    }

    #[test]
    fn a_state_of_a_later_version_is_not_taken_for_harmless() {
        let tables = fleet(&[status("a", &["good", "drowsy"])]).tables(Instant::now());
        assert_eq!(tables.servers[0].health.state.as_str(), "drowsy");
        assert_eq!(tables.summary(), Headline::Sick);
    }

    #[test]
    fn instances_of_one_node_are_told_apart() {
        let fleet = fleet(&[
            status("vm", &["good"]),
            status("vm", &["good"]),
            status("", &["good"]),
        ]);
        let tables = fleet.tables(Instant::now());
        assert_eq!(
            names(&tables),
            ["10.9.0.2:9153", "vm (10.9.0.0:9153)", "vm (10.9.0.1:9153)"]
        );
    }

    #[test]
    fn failures_and_counts_of_all_instances_are_put_together() {
        let with = |node: &str, ago: f64, queries: u64| {
            let mut status = status(node, &["good"]);
            let failure = |name: &str, ago: f64| json!({"name": name, "type": "A", "route": ".", "rcode": "SERVFAIL", "text": node, "count": 2, "ago_seconds": ago});
            status["failures"] = json!([failure("both.", ago), failure(node, 50.0)]);
            status["top"] = json!({"names": [{"name": "both.", "queries": queries, "error": 1}, {"name": node, "queries": 10}]});
            status
        };
        let fleet = fleet(&[with("a", 9.0, 7), with("b", 3.0, 6), status("c", &["good"])]);
        let tables = fleet.tables(Instant::now());
        assert!(tables.failures_are_shown);
        let first = &tables.failures[0];
        assert_eq!(
            (first.name.as_str(), first.count, first.text.as_str()),
            ("both.", 4, "b")
        );
        assert_eq!((first.instances.names.len(), first.instances.of), (2, 3));
        assert_eq!(tables.failures.len(), 3);
        let count = |name: &str, count: f64, error: f64| CountRow {
            name: Escaped::new(name),
            count,
            error,
        };
        assert_eq!(
            tables.names,
            [
                count("both.", 13.0, 2.0),
                count("a", 10.0, 0.0),
                count("b", 10.0, 0.0)
            ]
        );
    }

    #[test]
    fn nobody_reached_is_worse_than_somebody_sick() {
        let mut fleet = Fleet::new(["a".to_owned(), "b".to_owned()]);
        let now = Instant::now();
        assert_eq!(fleet.tables(now).summary(), Headline::Unreachable);
        let lost = |instance| InstanceReading {
            instance,
            at: now,
            result: Err(Escaped::new("gone")),
            pause: PAUSE,
        };
        fleet.take(lost(0));
        fleet.take(lost(1));
        assert_eq!(fleet.tables(now).summary(), Headline::Unreachable);
        fleet.take(reading(0, now, &status("a", &["good"])));
        assert_eq!(fleet.tables(now).summary(), Headline::Sick);
        fleet.take(reading(1, now, &status("b", &["good"])));
        assert_eq!(fleet.tables(now).summary(), Headline::Well);
    }
}
