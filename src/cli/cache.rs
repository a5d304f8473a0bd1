//! `nodens cache list|get|flush`: look into the running instance's cache, or have it forget, over its Unix socket.

use std::fmt::{Display, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::{ArgGroup, Args, Subcommand};
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use hyper::Request;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::admin::AdminAddress;
use super::examples;
use super::resolve::{parse_type, presentation};
use crate::budgets::CACHE_ENTRIES_LISTED;
use crate::cache::Flushed;
use crate::process::admin::cache::{
    AskedName, EntryLine, EntryList, EntryMessage, FlushRequest, GetRequest, ListRequest,
};

/// A full cache is walked in less than a second; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Look into the running instance's cache, or have it forget
#[derive(Debug, Args)]
pub(super) struct CacheArgs {
    #[command(subcommand)]
    command: CacheCommand,
}

#[derive(Debug, Subcommand)]
enum CacheCommand {
    /// List entries: name, type, TTL, size, outcome
    #[command(after_long_help = examples::CACHE_LIST)]
    List(ListArgs),
    /// Show the records that are cached for a name (exit 0), or that there are none (exit 1)
    #[command(after_long_help = examples::CACHE_GET)]
    Get(GetArgs),
    /// Forget answers and remembered failures
    #[command(after_long_help = examples::CACHE_FLUSH)]
    Flush(FlushArgs),
}

/// Which instance.
#[derive(Debug, Args)]
struct InstanceArgs {
    /// Configuration file of the running instance, of which `socket` and `admin` alone are read
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its Unix socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Only this name and those below it
    #[arg(long, value_name = "ZONE")]
    zone: Option<AskedName>,
    /// List so many at most, in the order of their names
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = parse_limit)]
    limit: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
struct GetArgs {
    /// Name, complete: there is no search list
    name: AskedName,
    /// Record type [default: every one that is cached]
    #[arg(value_name = "TYPE", value_parser = parse_type)]
    record_type: Option<RecordType>,
    #[command(flatten)]
    instance: InstanceArgs,
}

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("what").required(true).args(["name", "zone", "all"]))]
struct FlushArgs {
    /// Forget this name, whatever the type
    name: Option<AskedName>,
    /// Forget this name and all below it
    #[arg(long, value_name = "ZONE")]
    zone: Option<AskedName>,
    /// Forget everything; while servers are down, that includes what clients live on
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    instance: InstanceArgs,
}

pub(super) async fn run(args: CacheArgs) -> anyhow::Result<ExitCode> {
    let command = async {
        match args.command {
            CacheCommand::List(args) => list(args).await,
            CacheCommand::Get(args) => get(args).await,
            CacheCommand::Flush(args) => flush(args).await,
        }
    };
    match timeout(PATIENCE, command).await {
        Ok(result) => result,
        Err(_) => bail!("no answer within {} s", PATIENCE.as_secs()),
    }
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let request = ListRequest {
        zone: args.zone,
        limit: args.limit,
    };
    let list: EntryList = ask(args.instance, "/cache/list", &request).await?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut text = String::new();
    for entry in &list.entries {
        writeln!(text, "{}", describe(entry))?;
    }
    let (shown, all) = (list.entries.len(), list.matching);
    match shown {
        _ if shown == all => {
            let entries = counted(all, "entry", "entries");
            writeln!(text, ";; {entries}, {} bytes", list.bytes)?;
        }
        _ => writeln!(
            text,
            ";; the first {shown} of {all} entries, {} bytes",
            list.bytes
        )?,
    }
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

async fn get(args: GetArgs) -> anyhow::Result<ExitCode> {
    let request = GetRequest {
        name: args.name.clone(),
        qtype: args.record_type.map(u16::from),
    };
    let found: Vec<EntryMessage> = ask(args.instance, "/cache/get", &request).await?;
    if found.is_empty() {
        let record_type = args.record_type.map(|one| format!(" {one}"));
        let record_type = record_type.unwrap_or_default();
        eprintln!("nodens: nothing is cached for {}{record_type}", args.name);
        return Ok(ExitCode::FAILURE);
    }
    let mut text = String::new();
    for EntryMessage { entry, message } in found {
        writeln!(text, ";; {}", describe(&entry))?;
        let message = Message::from_vec(&message).context("an answer that cannot be shown")?;
        for record in &message.answers {
            writeln!(text, "{}", presentation(record))?;
        }
        for record in message.authorities.iter().chain(&message.additionals) {
            writeln!(text, "; {}", presentation(record))?;
        }
    }
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

async fn flush(args: FlushArgs) -> anyhow::Result<ExitCode> {
    let request = match (args.name, args.zone) {
        (Some(name), _) => FlushRequest::Name(name),
        (None, Some(zone)) => FlushRequest::Zone(zone),
        (None, None) => FlushRequest::All,
    };
    let flushed: Flushed = ask(args.instance, "/cache/flush", &request).await?;
    let Flushed { answers, failures } = flushed;
    let answers = counted(answers, "answer", "answers");
    let failures = counted(failures, "failure", "failures");
    println!("forgotten: {answers}, {failures}");
    Ok(ExitCode::SUCCESS)
}

/// A count with its unit.
fn counted<N: Copy + Display + PartialEq + From<u8>>(count: N, one: &str, many: &str) -> String {
    let unit = if count == N::from(1) { one } else { many };
    format!("{count} {unit}")
}

/// All fields of an entry, as a line.
fn describe(entry: &EntryLine) -> String {
    let EntryLine {
        name, qtype, rcode, ..
    } = entry;
    let mut line = format!("{name} {qtype} {rcode}");
    let _ = write!(line, " {}", counted(entry.answers, "record", "records"));
    let _ = match entry.ttl_seconds {
        0 => write!(line, ", stale for {} s", entry.stale_seconds),
        ttl => write!(line, ", fresh for {ttl} s"),
    };
    let _ = write!(line, ", {} bytes", entry.bytes);
    if let Some(route) = &entry.route {
        let _ = write!(line, ", route {route}");
    }
    for (set, flag) in [(entry.dnssec_ok, "DO"), (entry.checking_disabled, "CD")] {
        if set {
            let _ = write!(line, ", {flag}");
        }
    }
    line
}

async fn ask<Reply: DeserializeOwned>(
    instance: InstanceArgs,
    path: &'static str,
    request: &impl Serialize,
) -> anyhow::Result<Reply> {
    let instance = match instance.socket {
        Some(socket) => AdminAddress::Socket(socket),
        None => AdminAddress::of_configuration(instance.config)?,
    };
    if !matches!(instance, AdminAddress::Socket(_)) {
        bail!("the cache is asked over the Unix socket alone; `socket` is not set");
    }
    let body = serde_json::to_vec(request)?;
    let (status, body) = instance.exchange(Request::post(path), body).await?;
    if !status.is_success() {
        bail!(
            "{path}: {status}: {}",
            String::from_utf8_lossy(&body).trim()
        );
    }
    serde_json::from_slice(&body).context("an answer of another version of nodens")
}

fn parse_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(limit) if (1..=CACHE_ENTRIES_LISTED).contains(&limit) => Ok(limit),
        _ => Err(format!("not a number from 1 to {CACHE_ENTRIES_LISTED}")),
    }
}
