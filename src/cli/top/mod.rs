//! `nodens top`: the state of one or many instances, the worst first; live in a terminal, or once as text.
//!
//! [`seen`] is what is read of /status, and [`counters`] makes rates of it, [`model`] sorted rows, [`sections`] words, [`table`]
//! lines. [`view`] puts these on a screen, and [`live`] runs it. [`poll`] asks.

mod counters;
mod live;
mod model;
mod poll;
mod sections;
mod seen;
mod table;
mod view;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::task::JoinSet;

use super::admin::AdminAddress;
use model::{Fleet, Headline, InstanceReading, Tables};
use table::plain;
use view::Palette;

/// Between the two readings of `--once`, whatever the interval: long enough for workers to hand in their counts.
const APART: Duration = Duration::from_secs(1);

/// Watch instances in the terminal: what is sick comes first
#[derive(Debug, Args)]
pub(super) struct TopArgs {
    /// Admin address of an instance, such as 10.0.0.7:9153, with `http://` or without; may be repeated
    #[arg(long, value_name = "URL", value_parser = parse_url)]
    instance: Vec<AdminAddress>,
    /// Unix socket of an instance; may be repeated
    #[arg(long, value_name = "PATH")]
    socket: Vec<PathBuf>,
    /// Configuration file of the running instance, of which `socket` and `admin` alone are read, unless an instance is given
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How often each instance is read, from 100ms to 1h
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_interval)]
    interval: Duration,
    /// Print the tables once, as text, as it does where standard output is no terminal
    #[arg(long)]
    once: bool,
}

pub(super) async fn run(args: TopArgs) -> anyhow::Result<ExitCode> {
    let sockets = args.socket.into_iter().map(AdminAddress::Socket);
    let mut instances: Vec<AdminAddress> = args.instance.into_iter().chain(sockets).collect();
    if instances.is_empty() {
        instances.push(AdminAddress::of_configuration(args.config)?);
    }
    if args.once || !std::io::stdout().is_terminal() {
        return once(instances, args.interval).await;
    }
    // https://no-color.org: set, and not empty.
    let palette = match std::env::var_os("NO_COLOR") {
        Some(value) if !value.is_empty() => Palette::Plain,
        _ => Palette::Colours,
    };
    live::run(instances, args.interval, palette).await
}

/// Reads each instance twice, because rates take two readings, and prints the tables.
async fn once(instances: Vec<AdminAddress>, interval: Duration) -> anyhow::Result<ExitCode> {
    let mut fleet = Fleet::new(instances.iter().map(ToString::to_string));
    let mut readers = JoinSet::new();
    for (place, address) in instances.into_iter().enumerate() {
        readers.spawn(async move { read_twice(place, &address, interval).await });
    }
    while let Some(readings) = readers.join_next().await {
        for reading in readings? {
            fleet.take(reading);
        }
    }
    let tables = fleet.tables(Instant::now());
    let room = if std::io::stdout().is_terminal() {
        ratatui_crossterm::crossterm::terminal::size().ok()
    } else {
        None
    };
    let room = room
        .map(|(columns, _)| usize::from(columns))
        .filter(|columns| *columns > 0);
    std::io::stdout()
        .lock()
        .write_all(text(&tables, room).as_bytes())?;
    Ok(match tables.summary() {
        Headline::Well => ExitCode::SUCCESS,
        Headline::Sick => ExitCode::FAILURE,
        Headline::Unreachable => ExitCode::from(2),
    })
}

async fn read_twice(
    place: usize,
    address: &AdminAddress,
    interval: Duration,
) -> Vec<InstanceReading> {
    let mut lost = 0;
    let mut first = poll::read(place, address, interval, &mut lost).await;
    if first.result.is_err() {
        // It is read only once, so the time of the next try is left out.
        first.pause = Duration::ZERO;
        return vec![first];
    }
    tokio::time::sleep(first.pause.min(APART)).await;
    let mut second = poll::read(place, address, interval, &mut lost).await;
    second.pause = Duration::ZERO;
    vec![first, second]
}

/// All tables as text.
fn text(tables: &Tables, room: Option<usize>) -> String {
    let mut text = tables.verdict().0 + "\n";
    for section in tables.sections() {
        text.push('\n');
        for line in section.lines(room) {
            text.push_str(&plain(&line));
            text.push('\n');
        }
    }
    text
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(interval)
            if (Duration::from_millis(100)..=Duration::from_hours(1)).contains(&interval) =>
        {
            Ok(interval)
        }
        _ => Err("not a time from 100ms to 1h".to_owned()),
    }
}

/// `http://` or nothing, an IP address or a host name, and a port.
fn parse_url(text: &str) -> Result<AdminAddress, String> {
    let wanted = "not of the form http://ADDRESS:PORT";
    let rest = match text.split_once("://") {
        None => text,
        Some(("http", rest)) => rest,
        Some((scheme, _)) => {
            return Err(format!(
                "{wanted}: the admin address speaks HTTP, not {scheme}"
            ));
        }
    };
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    if let Ok(address) = authority.parse() {
        return Ok(AdminAddress::Address(address));
    }
    let is_host = |host: &str| {
        let letter =
            |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'-' | b'.' | b'_');
        !host.is_empty() && host.bytes().all(letter)
    };
    match authority.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => {
            Ok(AdminAddress::Name(authority.to_owned()))
        }
        _ => Err(wanted.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_is_named_by_address_or_host_name_with_a_port() {
        let name = |text: &str| Ok(AdminAddress::Name(text.to_owned()));
        let address = |text: &str| Ok(AdminAddress::Address(text.parse().expect("an address")));
        for (text, want) in [
            ("http://127.0.0.1:9153", address("127.0.0.1:9153")),
            ("http://127.0.0.1:9153/", address("127.0.0.1:9153")),
            ("127.0.0.1:9153", address("127.0.0.1:9153")),
            ("http://[fd00::7]:9153", address("[fd00::7]:9153")),
            ("http://localhost:9153", name("localhost:9153")),
            ("node-7.example:9153", name("node-7.example:9153")),
        ] {
            assert_eq!(parse_url(text), want, "{text}");
        }
        for text in [
            "",
            "http://",
            "127.0.0.1",
            "http://localhost",
            "https://127.0.0.1:9153",
            "http://a:b@c:1",
            "http://a:1/status",
            "localhost:port",
            ":9153",
            "a b:1",
            "http://localhost:70000",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_interval_is_neither_too_short_nor_too_long() {
        for (text, want) in [
            ("100ms", Some(100)),
            ("2s", Some(2_000)),
            ("1h", Some(3_600_000)),
            ("99ms", None),
            ("2h", None),
            ("1", None),
            ("soon", None),
        ] {
            let want = want.map(Duration::from_millis);
            assert_eq!(parse_interval(text).ok(), want, "{text}");
        }
    }
}
