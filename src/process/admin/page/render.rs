//! The document. Every word of it is a literal here or in page.html, or goes through [`Text`], which lets no markup through.
//!
//! Columns and words are those of page.js, which brings the tables up to date.

use std::cmp::Reverse;
use std::fmt::{self, Display, Write};

use crate::message::labels::RCODES;
use crate::metrics::Label;
use crate::process::admin::access::RequestOrigin;
use crate::process::admin::status::{ConfigurationStatus, StatusReport};
use crate::serving::metrics::RouteTotals;
use crate::upstream::health::State;
use crate::upstream::server::HealthReport;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A text within an element or a quoted attribute.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut fmt::Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                for character in text.chars() {
                    match character {
                        '&' => self.0.write_str("&amp;")?,
                        '<' => self.0.write_str("&lt;")?,
                        '>' => self.0.write_str("&gt;")?,
                        '"' => self.0.write_str("&quot;")?,
                        '\'' => self.0.write_str("&#39;")?,
                        other => self.0.write_char(other)?,
                    }
                }
                Ok(())
            }
        }
        write!(Escape(out), "{}", self.0)
    }
}

/// A column of a table.
#[derive(Clone, Copy)]
enum Column {
    Words(&'static str),
    Numbers(&'static str),
}

use Column::{Numbers, Words};

const SERVERS: &[Column] = &[
    Words("Server"),
    Words("Group"),
    Words("Transport"),
    Words("State"),
    Words("Why"),
    Numbers("Since"),
    Numbers("SRTT"),
    Numbers("Loss"),
    Words("Times"),
];
const HOSTS: &[Column] = &[
    Words("Host name"),
    Words("Group"),
    Words("Addresses"),
    Words("Failure"),
];
const FAILURES: &[Column] = &[
    Words("Name"),
    Words("Type"),
    Words("Route"),
    Words("Reply"),
    Words("Why"),
    Numbers("Heard"),
    Numbers("Last"),
];
const ANSWERS: &[Column] = &[
    Words("Server"),
    Words("Group"),
    Words("State"),
    Words("Transport"),
    Numbers("Time"),
    Words("Response"),
    Words("Records"),
];
const NAMES: &[Column] = &[Words("Name"), Numbers("Queries"), Numbers("Too high by")];
const SLOWEST: &[Column] = &[Words("Name"), Numbers("Waited"), Numbers("Too high by")];
const CLIENTS: &[Column] = &[Words("Client"), Numbers("Queries"), Numbers("Too high by")];
const SETTINGS: &[Column] = &[Words("Key"), Words("Value"), Words("From")];

impl Column {
    fn label(self) -> &'static str {
        let (Words(label) | Numbers(label)) = self;
        label
    }

    fn attribute(self) -> &'static str {
        match self {
            Words(_) => "",
            Numbers(_) => " data-number=\"\"",
        }
    }
}

/// A table's cells.
enum PageCell {
    Plain(String),
    State(State),
}

impl<T: Display> From<T> for PageCell {
    fn from(text: T) -> Self {
        Self::Plain(text.to_string())
    }
}

fn head(columns: &[Column]) -> String {
    let one = |column: &Column| {
        let (label, attribute) = (column.label(), column.attribute());
        format!("<th role=\"columnheader\" scope=\"col\"{attribute}>{label}</th>")
    };
    columns.iter().map(one).collect()
}

fn rows(columns: &[Column], rows: impl IntoIterator<Item = Vec<PageCell>>) -> String {
    let row = |cells: Vec<PageCell>| {
        let cells = cells.iter().zip(columns).enumerate();
        let cells: String = cells
            .map(|(place, (cell, column))| cell.element(place, *column))
            .collect();
        format!("<tr role=\"row\">{cells}</tr>\n")
    };
    rows.into_iter().map(row).collect()
}

impl PageCell {
    /// The first of a row says what the row is about.
    fn element(&self, place: usize, column: Column) -> String {
        let (label, attribute) = (column.label(), column.attribute());
        match self {
            Self::Plain(text) if place == 0 => format!(
                "<th role=\"rowheader\" scope=\"row\"{attribute}>{}</th>",
                Text(text)
            ),
            Self::Plain(text) => format!(
                "<td role=\"cell\" data-label=\"{label}\"{attribute}>{}</td>",
                Text(text)
            ),
            Self::State(state) => {
                let state = state.label();
                format!(
                    "<td role=\"cell\" data-label=\"{label}\" data-state=\"{state}\">{state}</td>"
                )
            }
        }
    }
}

/// Seconds for people, in two units at most.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "whole seconds since something happened; a cast of what is no number gives 0"
)]
pub fn duration(seconds: f64) -> String {
    let whole = seconds as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3_600 => format!("{} min {} s", whole / 60, whole % 60),
        3_600..86_400 => format!("{} h {} min", whole / 3_600, whole % 3_600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3_600),
    }
}

fn milliseconds(value: Option<f64>) -> String {
    match value {
        None => String::new(),
        Some(value) if value < 10.0 => format!("{value:.2} ms"),
        Some(value) => format!("{value:.0} ms"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn size(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{:.1} KiB", bytes as f64 / 1024.0)
    } else {
        format!("{:.1} MiB", bytes as f64 / 1024.0 / 1024.0)
    }
}

fn hidden_if(hidden: bool) -> &'static str {
    if hidden { " hidden" } else { "" }
}

fn server_rows(status: &StatusReport) -> String {
    let mut all = Vec::new();
    for group in &status.upstreams {
        for server in &group.servers {
            for (place, health) in server.health.iter().enumerate() {
                all.push((group, server, health, place == 0));
            }
        }
    }
    // Stable: the configured order within a state.
    all.sort_by_key(|(_, _, health, _)| Reverse(severity(health.state)));
    rows(
        SERVERS,
        all.into_iter().map(|(group, server, health, first)| {
            let known = || server.rtt_milliseconds.iter().flatten().copied();
            let (least, most) = (known().reduce(f64::min), known().reduce(f64::max));
            let range = match (least, most) {
                (Some(least), Some(most)) if first => format!("{least:.2} to {most:.2} ms"),
                _ => String::new(),
            };
            vec![
                server.server.as_str().into(),
                group.name.as_str().into(),
                health.transport.label().into(),
                PageCell::State(health.state),
                health.reason.label().replace('_', " ").into(),
                duration(health.since_seconds).into(),
                milliseconds(health.srtt_milliseconds).into(),
                format!("{} %", health.loss_percent).into(),
                range.into(),
            ]
        }),
    )
}

/// How likely a state is the cause of a failure.
fn severity(state: State) -> u8 {
    match state {
        State::Good => 0,
        State::Unknown => 1,
        State::Poor => 2,
        State::Silent => 3,
        State::Down => 4,
    }
}

/// The headline of the page, and its gravity.
fn verdict(status: &StatusReport) -> (String, &'static str) {
    let first = |health: &[HealthReport]| health.first().map(|report| report.state);
    let all: Vec<State> = status
        .upstreams
        .iter()
        .flat_map(|group| &group.servers)
        .filter_map(|server| first(&server.health))
        .collect();
    let count = |wanted: State| all.iter().filter(|state| **state == wanted).count();
    let sick: Vec<String> = [State::Down, State::Silent, State::Poor]
        .into_iter()
        .filter(|state| count(*state) > 0)
        .map(|state| format!("{} {}", count(state), state.label()))
        .collect();
    let ready = if status.ready { "" } else { "Not ready. " };
    let all = all.len();
    match (sick.is_empty(), count(State::Down)) {
        (true, _) => (format!("{ready}No server is sick, of {all}."), "good"),
        (false, down) => {
            let health = if down > 0 { "down" } else { "poor" };
            let sick = sick.join(", ");
            (format!("{ready}Of {all} servers: {sick}."), health)
        }
    }
}

fn updated(status: &StatusReport) -> String {
    let workers = match status.workers {
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    };
    let listen: Vec<_> = status.listen.iter().map(ToString::to_string).collect();
    #[expect(clippy::cast_precision_loss, reason = "an uptime")]
    let uptime = duration(status.uptime_seconds as f64);
    format!(
        "Version {}, up for {uptime}, {workers}, listening on {}.",
        status.version,
        listen.join(", ")
    )
}

fn host_rows(status: &StatusReport) -> String {
    let hosts = status.upstreams.iter().flat_map(|group| {
        group.hosts.iter().map(|host| {
            let addresses: Vec<_> = host.addresses.iter().map(ToString::to_string).collect();
            vec![
                host.host.as_str().into(),
                group.name.as_str().into(),
                addresses.join(", ").into(),
                host.failure.as_deref().unwrap_or_default().into(),
            ]
        })
    });
    rows(HOSTS, hosts)
}

fn failure_rows(status: &StatusReport) -> String {
    let failures = status.failures.iter().flatten().map(|failure| {
        vec![
            failure.name.as_str().into(),
            failure.qtype.as_str().into(),
            failure.route.as_deref().unwrap_or("none").into(),
            failure.rcode.into(),
            failure.text.as_str().into(),
            failure.count.into(),
            format!("{} ago", duration(failure.ago_seconds)).into(),
        ]
    });
    rows(FAILURES, failures)
}

/// Head and body: response codes that never came have no column.
fn route_table(status: &StatusReport) -> (String, String) {
    let totals = || {
        let routes = status.routes.iter().map(|route| &route.totals);
        routes.chain([&status.answered_here])
    };
    let usual = ["NOERROR", "NXDOMAIN", "SERVFAIL"];
    let others = RCODES.iter().map(|(_, label)| *label).chain(["other"]);
    let came = |label: &&str| totals().any(|totals| totals.replies.contains_key(label));
    let others = others.filter(|label| !usual.contains(label)).filter(came);
    let codes: Vec<&'static str> = usual.into_iter().chain(others).collect();
    let mut columns = vec![
        Words("Route"),
        Words("Goes to"),
        Numbers("Replies"),
        Numbers("From cache"),
    ];
    columns.extend(codes.iter().map(|code| Numbers(code)));
    let row = |name: &str, target: String, totals: &RouteTotals| {
        let mut cells = vec![
            name.into(),
            target.into(),
            totals.queries.into(),
            totals.hits.into(),
        ];
        let count = |code| totals.replies.get(code).copied().unwrap_or(0).into();
        cells.extend(codes.iter().map(|code| count(*code)));
        cells
    };
    let routes = status.routes.iter().map(|route| {
        let groups = || route.groups.join(", then ");
        let target = route.answer.clone().unwrap_or_else(groups);
        row(&route.zone, target, &route.totals)
    });
    let here = row("none", "answered here".to_owned(), &status.answered_here);
    (head(&columns), rows(&columns, routes.chain([here])))
}

fn numbers(status: &StatusReport) -> String {
    let replies: u64 = status.routes.iter().map(|route| route.totals.queries).sum();
    let replies = replies + status.answered_here.queries;
    let cache = &status.cache;
    let percent = |value: f64| format!("{value:.1} %");
    let numbers = [
        ("n-replies", "Replies", replies.to_string()),
        ("n-rate", "Replies a second", String::new()),
        (
            "n-hit",
            "From cache, since the start",
            cache.hit_percent.map(percent).unwrap_or_default(),
        ),
        ("n-hit-now", "From cache, now", String::new()),
        (
            "n-stale",
            "Stale answers served",
            cache.stale_served.to_string(),
        ),
        (
            "n-entries",
            "Answers in the cache",
            cache.entries.to_string(),
        ),
        (
            "n-bytes",
            "Size of the cache",
            format!("{} of {}", size(cache.bytes), size(cache.max_bytes)),
        ),
    ];
    let numbers = numbers.into_iter().map(|(id, label, value)| {
        let value = Text(value);
        format!("<div><dt>{label}</dt><dd id=\"{id}\">{value}</dd></div>\n")
    });
    numbers.collect()
}

fn in_force(configuration: &ConfigurationStatus) -> String {
    let since = duration(configuration.since_seconds);
    let mistakes = if configuration.reloads.mistakes.is_empty() {
        ""
    } else {
        " The files hold mistakes now, and are not used:"
    };
    let restart = match configuration.reloads.restart_needed.join(", ") {
        keys if keys.is_empty() => keys,
        keys => format!(" Changed, and waiting for a restart: {keys}."),
    };
    format!("In force for {since}.{mistakes}{restart}")
}

fn setting_rows(configuration: &ConfigurationStatus) -> String {
    let settings = configuration.settings.iter().map(|setting| {
        vec![
            setting.key.as_str().into(),
            setting.value.as_str().into(),
            setting.origin.as_str().into(),
        ]
    });
    rows(SETTINGS, settings)
}

/// What is counted of names and clients.
struct TopTables {
    since: String,
    names: String,
    slowest: String,
    clients: String,
}

impl TopTables {
    fn new(status: &StatusReport) -> Self {
        let Some(top) = &status.top else {
            return Self {
                since: "Not counted: status.top is off.".to_owned(),
                names: String::new(),
                slowest: String::new(),
                clients: String::new(),
            };
        };
        let names = top.names.iter();
        let slowest = top.slowest.iter();
        let clients = top.clients.iter();
        Self {
            since: format!(
                "Of the last {}. Counts may be too high by what stands beside them.",
                duration(top.since_seconds)
            ),
            names: rows(
                NAMES,
                names.map(|one| {
                    vec![
                        one.name.as_str().into(),
                        one.queries.into(),
                        one.error.into(),
                    ]
                }),
            ),
            slowest: rows(
                SLOWEST,
                slowest.map(|one| {
                    vec![
                        one.name.as_str().into(),
                        milliseconds(Some(one.waited_milliseconds)).into(),
                        milliseconds(Some(one.error_milliseconds)).into(),
                    ]
                }),
            ),
            clients: rows(
                CLIENTS,
                clients.map(|one| vec![one.client.into(), one.queries.into(), one.error.into()]),
            ),
        }
    }
}

/// The whole document; whether it has the button that asks servers depends on where the request comes from.
pub(super) fn document(status: &StatusReport, peer: RequestOrigin, nonce: &str) -> String {
    let (verdict, health) = verdict(status);
    let (routes_head, routes) = route_table(status);
    let failures = failure_rows(status);
    let no_failures = match &status.failures {
        None => "Not shown: status.failures is false.",
        Some(_) => "None.",
    };
    let (hosts, top) = (host_rows(status), TopTables::new(status));
    let mistakes = status.configuration.reloads.mistakes.iter();
    let mistakes: Vec<_> = mistakes
        .map(|mistake| format!("<li>{}</li>", Text(mistake)))
        .collect();
    let text = |text: &dyn Display| Text(text).to_string();
    let may_ask = match peer {
        RequestOrigin::Network => "",
        RequestOrigin::Socket | RequestOrigin::Loopback => " data-may-ask",
    };
    let places = [
        ("node", text(&status.node)),
        ("nonce", nonce.to_owned()),
        ("css", STYLE.to_owned()),
        ("js", SCRIPT.to_owned()),
        ("health", health.to_owned()),
        ("verdict", text(&verdict)),
        ("updated", text(&updated(status))),
        ("servers_head", head(SERVERS)),
        ("servers", server_rows(status)),
        ("hosts_head", head(HOSTS)),
        ("hosts_hidden", hidden_if(hosts.is_empty()).to_owned()),
        ("hosts", hosts),
        ("failed", hidden_if(!failures.is_empty()).to_owned()),
        ("not_failed", hidden_if(failures.is_empty()).to_owned()),
        ("no_failures", no_failures.to_owned()),
        ("failures_head", head(FAILURES)),
        ("failures", failures),
        ("numbers", numbers(status)),
        ("routes_head", routes_head),
        ("routes", routes),
        ("answers_head", head(ANSWERS)),
        ("top_since", text(&top.since)),
        ("names_head", head(NAMES)),
        ("names_hidden", hidden_if(top.names.is_empty()).to_owned()),
        ("names", top.names),
        ("slowest_head", head(SLOWEST)),
        (
            "slowest_hidden",
            hidden_if(top.slowest.is_empty()).to_owned(),
        ),
        ("slowest", top.slowest),
        ("clients_head", head(CLIENTS)),
        (
            "clients_hidden",
            hidden_if(top.clients.is_empty()).to_owned(),
        ),
        ("clients", top.clients),
        ("configuration", text(&in_force(&status.configuration))),
        ("mistakes", mistakes.concat()),
        ("settings_head", head(SETTINGS)),
        ("settings", setting_rows(&status.configuration)),
        ("may_ask", may_ask.to_owned()),
    ];
    filled(PAGE, &places)
}

/// Replaces `{name}` in a template by values. Values are not expanded again.
fn filled(template: &str, places: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(64 << 10);
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (name, after) = after.split_once('}').expect("a place in page.html ends");
        let place = places.iter().find(|(known, _)| *known == name);
        let (_, value) = place.expect("each place in page.html has a value");
        out.push_str(before);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let text = Text("</script><img src=x onerror='alert(1)'>\"&").to_string();
        assert_eq!(
            text,
            "&lt;/script&gt;&lt;img src=x onerror=&#39;alert(1)&#39;&gt;&quot;&amp;"
        );
        let cells = vec!["<b>".into(), "\" onclick=\"".into()];
        let row = rows(NAMES, [cells]);
        assert!(!row.contains("<b>") && !row.contains("\" onclick"), "{row}");
    }

    #[test]
    fn what_is_put_into_a_place_is_no_place() {
        let places = [("a", "{b}".to_owned()), ("b", "x".to_owned())];
        assert_eq!(filled("{a}-{b}", &places), "{b}-x");
    }

    #[test]
    fn neither_script_nor_style_can_end_early() {
        assert!(!SCRIPT.contains("</") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.contains("</"));
    }
}
