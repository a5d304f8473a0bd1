//! The model's rows as tables of text.

use super::model::{CountRow, Gravity, Headline, Share, Tables};
use super::table::{Table, TableCell, TableColumn, Tone};
use crate::process::admin::duration;

const INSTANCES: &[TableColumn] = &[
    TableColumn::words("INSTANCE", 0, 20),
    TableColumn::short("STATE", 0),
    TableColumn::number("QUERIES/S", 1),
    TableColumn::number("HITS", 3),
    TableColumn::number("FAILURES/S", 2),
    TableColumn::number("STALE/S", 3),
    TableColumn::short("VERSION", 6),
    TableColumn::number("UP", 4),
    TableColumn::words("ADDRESS", 5, 12),
    TableColumn::words("WHY", 0, 12),
];
const GROUPS: &[TableColumn] = &[
    TableColumn::words("GROUP", 0, 10),
    TableColumn::short("STATE", 0),
    TableColumn::number("USABLE", 0),
    TableColumn::number("IN FLIGHT", 2),
    TableColumn::words("INSTANCES", 1, 10),
    TableColumn::words("WHY", 0, 12),
];
const SERVERS: &[TableColumn] = &[
    TableColumn::words("SERVER", 0, 21),
    TableColumn::words("GROUP", 1, 5),
    TableColumn::short("VIA", 4),
    TableColumn::short("STATE", 0),
    TableColumn::words("REASON", 2, 8),
    TableColumn::number("SINCE", 3),
    TableColumn::number("SRTT", 0),
    TableColumn::number("LOSS", 0),
    TableColumn::short("LAST 2 MIN", 5),
    TableColumn::words("INSTANCES", 1, 10),
];
const FAILURES: &[TableColumn] = &[
    TableColumn::words("NAME", 0, 24),
    TableColumn::short("TYPE", 0),
    TableColumn::words("ROUTE", 4, 5),
    TableColumn::short("REPLY", 1),
    TableColumn::number("TIMES", 3),
    TableColumn::number("LAST", 2),
    TableColumn::words("INSTANCES", 5, 10),
    TableColumn::words("WHY", 0, 16),
];
const NAMES: &[TableColumn] = &[
    TableColumn::words("NAME", 0, 16),
    TableColumn::number("QUERIES", 0),
    TableColumn::number("TOO HIGH BY", 1),
];
const SLOWEST: &[TableColumn] = &[
    TableColumn::words("NAME", 0, 16),
    TableColumn::number("WAITED", 0),
    TableColumn::number("TOO HIGH BY", 1),
];
const CLIENTS: &[TableColumn] = &[
    TableColumn::words("CLIENT", 0, 16),
    TableColumn::number("QUERIES", 0),
    TableColumn::number("TOO HIGH BY", 1),
];

/// Columns of a line of round-trip times.
const SPARKLINE: usize = 20;

fn milliseconds(value: f64) -> String {
    match value {
        _ if value < 10.0 => format!("{value:.2} ms"),
        _ if value < 10_000.0 => format!("{value:.0} ms"),
        _ => duration(value / 1e3),
    }
}

fn rate(value: f64) -> String {
    if value == 0.0 || value >= 100.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.1}")
    }
}

/// The largest of each part of the time; a dot where there was none in all of it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "from 0 to 7; a cast of what is no number gives 0"
)]
fn sparkline(times: &[Option<f64>]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = times.iter().flatten().copied().fold(0.001, f64::max);
    let bar = |part: &[Option<f64>]| {
        let known = part.iter().flatten().copied();
        known.reduce(f64::max).map_or('·', |time| {
            BARS[((time / most * 7.0).round() as usize).min(BARS.len() - 1)]
        })
    };
    let part = times.len().div_ceil(SPARKLINE).max(1);
    // From the end, so that a part keeps its width while the times fill up.
    let bars: Vec<char> = times.rchunks(part).map(bar).collect();
    bars.into_iter().rev().collect()
}

fn state(word: &str, gravity: Gravity) -> TableCell {
    TableCell {
        text: word.to_owned(),
        tone: Tone::State(gravity),
    }
}

/// The instances' names; empty if there is only one.
fn share(share: &Share, instances: usize) -> String {
    if instances <= 1 {
        return String::new();
    }
    let (some, of) = (share.names.len(), share.of);
    format!("{some} of {of}: {}", share.names.join(", "))
}

fn counted(rows: &[CountRow], shown: fn(f64) -> String) -> Vec<Vec<TableCell>> {
    let row = |row: &CountRow| {
        let cells = [row.name.to_string(), shown(row.count), shown(row.error)];
        cells.map(TableCell::from).into()
    };
    rows.iter().map(row).collect()
}

impl Tables {
    /// The headline.
    pub(super) fn verdict(&self) -> (String, Gravity) {
        let all = self.instances.len();
        let unreachable = self
            .instances
            .iter()
            .filter(|row| row.uptime_seconds.is_none());
        let reached = all - unreachable.count();
        let servers: usize = self
            .servers
            .iter()
            .map(|row| row.instances.names.len())
            .sum();
        let sick = self
            .servers
            .iter()
            .filter(|row| row.gravity >= Gravity::Sick);
        let sick: usize = sick.map(|row| row.instances.names.len()).sum();
        let gravity = match self.summary() {
            Headline::Unreachable => Gravity::Dead,
            Headline::Sick => Gravity::Sick,
            Headline::Well => Gravity::Well,
        };
        let instances = if all == 1 { "instance" } else { "instances" };
        let text =
            format!("{reached} of {all} {instances} reached, {sick} of {servers} servers sick");
        (text, gravity)
    }

    /// All tables, in order.
    pub(super) fn sections(&self) -> Vec<Table> {
        let mut sections = vec![
            self.instance_table(),
            self.group_table(),
            self.server_table(),
        ];
        sections.push(self.failure_table());
        let number = |value: f64| format!("{value:.0}");
        for (title, columns, rows) in [
            ("Most asked names", NAMES, counted(&self.names, number)),
            (
                "Names waited for longest",
                SLOWEST,
                counted(&self.slowest, milliseconds),
            ),
            (
                "Clients that ask most",
                CLIENTS,
                counted(&self.clients, number),
            ),
        ] {
            // Without anything counted, as is the default, there is nothing to say.
            if !rows.is_empty() {
                sections.push(Table {
                    title,
                    columns,
                    rows,
                    empty: "",
                });
            }
        }
        sections
    }

    fn instance_table(&self) -> Table {
        let rows = self.instances.iter().map(|row| {
            let per_second = |of: f64| rate(of);
            let rates = row.rates;
            let shown = |text: Option<String>| TableCell::from(text.unwrap_or_default());
            let address = if row.name == row.address.as_str() {
                String::new()
            } else {
                row.address.to_string()
            };
            vec![
                row.name.as_str().into(),
                state(row.state, row.gravity),
                shown(rates.map(|rates| per_second(rates.queries))),
                shown(rates.and_then(|rates| Some(format!("{:.0} %", rates.hit_percent?)))),
                shown(rates.map(|rates| per_second(rates.failures))),
                shown(rates.map(|rates| per_second(rates.stale))),
                row.version.as_str().into(),
                shown(row.uptime_seconds.map(duration)),
                address.into(),
                row.why.as_str().into(),
            ]
        });
        Table {
            title: "Instances",
            columns: INSTANCES,
            rows: rows.collect(),
            empty: "None.",
        }
    }

    fn group_table(&self) -> Table {
        let instances = self.instances.len();
        let rows = self.groups.iter().map(|row| {
            vec![
                row.name.to_string().into(),
                state(row.state, row.gravity),
                format!("{} of {}", row.usable, row.servers).into(),
                row.in_flight.into(),
                share(&row.instances, instances).into(),
                row.why.as_str().into(),
            ]
        });
        Table {
            title: "Groups",
            columns: GROUPS,
            rows: rows.collect(),
            empty: "None.",
        }
    }

    fn server_table(&self) -> Table {
        let instances = self.instances.len();
        let rows = self.servers.iter().map(|row| {
            let health = &row.health;
            let srtt = health.srtt_milliseconds.map(milliseconds);
            vec![
                row.server.to_string().into(),
                row.group.to_string().into(),
                health.transport.to_string().into(),
                state(health.state.as_str(), row.gravity),
                health.reason.as_str().replace('_', " ").into(),
                duration(health.since_seconds).into(),
                srtt.unwrap_or_default().into(),
                format!("{} %", health.loss_percent).into(),
                sparkline(&row.rtt_milliseconds).into(),
                share(&row.instances, instances).into(),
            ]
        });
        Table {
            title: "Servers",
            columns: SERVERS,
            rows: rows.collect(),
            empty: "None.",
        }
    }

    fn failure_table(&self) -> Table {
        let instances = self.instances.len();
        let rows = self.failures.iter().map(|row| {
            let route = row.route.as_ref().map_or("none", |route| route.as_str());
            vec![
                row.name.to_string().into(),
                row.qtype.to_string().into(),
                route.into(),
                row.rcode.to_string().into(),
                row.count.into(),
                duration(row.ago_seconds).into(),
                share(&row.instances, instances).into(),
                row.text.to_string().into(),
            ]
        });
        Table {
            title: "Recent failures",
            columns: FAILURES,
            rows: rows.collect(),
            empty: if self.failures_are_shown {
                "None."
            } else {
                "Not shown by any instance that was reached."
            },
        }
    }
}
