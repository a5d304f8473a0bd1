//! What a case showed: figures out of records, the limits they are held against, and tables of them.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::load::Record;
use crate::message::Outcome;

/// The beginning of a fault, which is judged apart.
pub(crate) const FIRST: Duration = Duration::from_secs(2);

/// Figures of a part of a load.
#[derive(Debug, Clone, Default)]
pub(crate) struct Figures {
    pub(crate) asked: usize,
    pub(crate) right: usize,
    /// SERVFAIL with an extended error.
    pub(crate) explained: usize,
    /// NXDOMAIN.
    pub(crate) no_such_name: usize,
    /// Replies that claim success with anything but the right records.
    pub(crate) wrong: usize,
    pub(crate) lost: usize,
    /// Stale answers: EDE 3 (RFC 8914 §4.4).
    pub(crate) stale: usize,
    /// Latencies of all replies, in order.
    latencies: Vec<Duration>,
}

impl Figures {
    /// Of the queries sent from `from` to before `to`.
    pub(crate) fn between(records: &[Record], from: Instant, to: Instant) -> Self {
        let mut figures = Self::default();
        for record in records {
            if record.sent < from || record.sent >= to {
                continue;
            }
            figures.asked += 1;
            let Some((latency, reply)) = record.reply else {
                figures.lost += 1;
                continue;
            };
            figures.latencies.push(latency);
            match reply.outcome {
                Outcome::Right => figures.right += 1,
                Outcome::Wrong => figures.wrong += 1,
                Outcome::Code(crate::message::SERVFAIL) if reply.error.is_some() => {
                    figures.explained += 1;
                }
                Outcome::Code(crate::message::NXDOMAIN) => figures.no_such_name += 1,
                Outcome::Code(_) => {}
            }
            figures.stale += usize::from(reply.error == Some(3));
        }
        figures.latencies.sort_unstable();
        figures
    }

    /// A quantile of the latencies; a lost query has none and is counted in [`Figures::lost`]. None if nothing was
    /// answered.
    pub(crate) fn quantile(&self, quantile: f64) -> Option<Duration> {
        let last = self.latencies.len().checked_sub(1)?;
        #[expect(
            clippy::cast_sign_loss,
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "an index within the list"
        )]
        let index = ((self.latencies.len() as f64 * quantile).ceil() as usize).saturating_sub(1);
        Some(self.latencies[index.min(last)])
    }

    fn share(&self, part: usize) -> f64 {
        part as f64 * 100.0 / self.asked.max(1) as f64
    }

    pub(crate) fn answered(&self) -> f64 {
        self.share(self.right)
    }
}

/// What counts as an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expect {
    /// The right records.
    Right,
    /// The right records, expired, said to be so.
    Stale,
    /// SERVFAIL with its reason.
    Explained,
    /// NXDOMAIN.
    NoSuchName,
}

/// What a case must keep to; everything is to be answered in every case.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) expect: Expect,
    pub(crate) first_p99: Option<Duration>,
    pub(crate) settled_p99: Option<Duration>,
    /// Datagrams upstream per query, settled.
    pub(crate) datagrams: Option<f64>,
}

/// One case under one load with one resolver.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) case: String,
    pub(crate) resolver: String,
    pub(crate) qps: u32,
    pub(crate) first: Figures,
    pub(crate) settled: Figures,
    /// Datagrams upstream per query, over the whole fault and settled.
    pub(crate) datagrams: (f64, f64),
    /// How late the load generator was at worst.
    pub(crate) lateness: Duration,
    pub(crate) limits: Option<Limits>,
    /// What else the case found out, and what it complains of.
    pub(crate) note: String,
    pub(crate) complaints: Vec<String>,
}

impl Row {
    /// Holds the figures against the limits.
    pub(crate) fn judge(&mut self) {
        let Some(limits) = self.limits else { return };
        let mut complaints = Vec::new();
        for (part, figures, p99) in [
            ("first 2 s", &self.first, limits.first_p99),
            ("settled", &self.settled, limits.settled_p99),
        ] {
            if figures.asked == 0 {
                complaints.push(format!("{part}: nothing was asked"));
                continue;
            }
            let good = match limits.expect {
                Expect::Right => figures.right,
                Expect::Stale => figures.stale.min(figures.right),
                Expect::Explained => figures.explained,
                Expect::NoSuchName => figures.no_such_name,
            };
            if good != figures.asked {
                complaints.push(format!(
                    "{part}: {good} of {} as {:?}: {} right, {} SERVFAIL with EDE, {} NXDOMAIN, {} wrong, {} lost",
                    figures.asked,
                    limits.expect,
                    figures.right,
                    figures.explained,
                    figures.no_such_name,
                    figures.wrong,
                    figures.lost
                ));
            }
            if let (Some(limit), Some(is)) = (p99, figures.quantile(0.99))
                && is > limit
            {
                let (is, limit) = (milliseconds(Some(is)), milliseconds(Some(limit)));
                complaints.push(format!("{part}: p99 {is} ms > {limit} ms"));
            }
        }
        if let Some(limit) = limits.datagrams
            && self.datagrams.1 > limit
        {
            let is = self.datagrams.1;
            complaints.push(format!("settled: {is:.2} datagrams a query > {limit}"));
        }
        self.complaints.append(&mut complaints);
    }

    /// One line of the table on the terminal.
    pub(crate) fn line(&self) -> String {
        let verdict = match (self.limits, self.complaints.is_empty()) {
            (None, _) => "",
            (Some(_), true) => "ok",
            (Some(_), false) => "FAIL",
        };
        let mut line = format!(
            "{:<34} {:<8} {:>5} |{}|{}| {:>5.2} {:>5.2} | {:>6} {verdict}",
            self.case,
            self.resolver,
            self.qps,
            part(&self.first),
            part(&self.settled),
            self.datagrams.0,
            self.datagrams.1,
            milliseconds(Some(self.lateness)),
        );
        if !self.note.is_empty() {
            let _ = write!(line, " ({})", self.note);
        }
        for complaint in &self.complaints {
            let _ = write!(line, "\n      ! {complaint}");
        }
        line
    }
}

/// The heading over [`Row::line`].
pub(crate) fn heading() -> String {
    let part = format!(
        " {:>6} {:>5} {:>8} {:>8} {:>8} ",
        "right%", "lost", "p50", "p99", "max"
    );
    format!(
        "{:<34} {:<8} {:>5} |{:^40}|{:^40}| {:^11} | load\n{:<34} {:<8} {:>5} |{part}|{part}| {:>5} {:>5} | late",
        "",
        "",
        "",
        "first 2 s, ms",
        "settled, ms",
        "upstream/q",
        "case",
        "resolver",
        "qps",
        "all",
        "sett."
    )
}

fn part(figures: &Figures) -> String {
    format!(
        " {:>6} {:>5} {:>8} {:>8} {:>8} ",
        percent(figures.answered()),
        figures.lost,
        milliseconds(figures.quantile(0.5)),
        milliseconds(figures.quantile(0.99)),
        milliseconds(figures.quantile(1.0)),
    )
}

/// Never rounds up to 100.
fn percent(share: f64) -> String {
    if share >= 100.0 {
        "100".to_owned()
    } else {
        format!("{:.2}", (share * 100.0).floor() / 100.0)
    }
}

fn milliseconds(duration: Option<Duration>) -> String {
    duration.map_or_else(
        || "–".to_owned(),
        |duration| match duration.as_secs_f64() * 1e3 {
            large if large >= 10.0 => format!("{large:.0}"),
            small => format!("{small:.2}"),
        },
    )
}

/// The rows as a Markdown table for people who choose a resolver.
pub(crate) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| Case | Resolver | Queries/s | Answered, first 2 s | p50 / p99 / max, ms | Answered, settled | p50 / p99 / max, ms | Datagrams upstream a query |\n\
         |---|---|--:|--:|--:|--:|--:|--:|\n",
    );
    for row in rows {
        let figures = |figures: &Figures| {
            format!(
                "{} % | {} / {} / {}",
                percent(figures.answered()),
                milliseconds(figures.quantile(0.5)),
                milliseconds(figures.quantile(0.99)),
                milliseconds(figures.quantile(1.0))
            )
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} | {:.2} |",
            row.case,
            row.resolver,
            row.qps,
            figures(&row.first),
            figures(&row.settled),
            row.datagrams.0
        );
    }
    text
}
