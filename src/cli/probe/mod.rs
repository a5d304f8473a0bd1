//! `nodens probe [NAME]...`: which hop is sick?
//!
//! Owns the arguments, the progress line and the exit status; [`crate::diagnosis`] asks and derives the findings,
//! `text` prints them.

mod progress;
mod text;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::{env, fs};

use anyhow::Context as _;
use hickory_proto::rr::Name;

use crate::cli::ConfigArgs;
use crate::cli::stub::Stub;
use crate::config::{Config, ConfigErrors, load, load_from};
use crate::diagnosis::report::Health;
use crate::diagnosis::{HttpsCheck, NameToDiagnose, Order, Scope, diagnose};
use crate::transport::tls::{read_roots, trusted_roots};
use text::Style;

/// What a pod reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Exit status when everything can be answered, and something is sick.
const DEGRADED: u8 = 1;
/// Exit status when a group or a name cannot be used; also for arguments that cannot.
const UNUSABLE: u8 = 2;

/// Ask every server, and names, and say what is wrong and what to do about it
#[derive(Debug, clap::Args)]
pub(crate) struct ProbeArgs {
    /// Names to look up at every server of their route, completed by the search list unless they end with a dot
    #[arg(value_name = "NAME", value_parser = parse_name)]
    names: Vec<Given>,

    #[command(flatten)]
    config: ConfigArgs,

    /// Servers, search list and options as a pod with this file has them, without any configuration
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "set"])]
    resolv_conf: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    json: bool,

    /// Also connect to port 443, or PORT, of the names' addresses, and shake hands
    #[arg(long, value_name = "PORT", num_args = 0..=1, require_equals = true, default_missing_value = "443")]
    https: Option<u16>,

    /// PEM file of a further root that certificates may lead to with --https
    #[arg(long, value_name = "FILE", requires = "https")]
    ca_file: Option<PathBuf>,

    /// A domain of the pod's search list; may be repeated [default: those of resolv.conf]
    #[arg(long, value_name = "DOMAIN", value_parser = parse_domain)]
    search: Vec<Name>,

    /// Dots that a name must have to be tried before the search list [default: that of resolv.conf]
    #[arg(long, value_name = "NUMBER")]
    ndots: Option<usize>,

    /// Queries that measure each server
    #[arg(long, value_name = "NUMBER", default_value = "5", value_parser = parse_tries)]
    tries: usize,

    /// How long a query or a connection may take
    #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = parse_time)]
    timeout: Duration,

    /// How long all of it may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_time)]
    deadline: Duration,
}

/// A name as it was typed.
#[derive(Debug, Clone)]
struct Given {
    text: String,
    name: Name,
}

/// Runs the subcommand. Needs a runtime with I/O and time; one thread will do.
pub(crate) async fn run(args: ProbeArgs) -> anyhow::Result<ExitCode> {
    let config = match configuration(&args) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let stub = stub(&args)?;
    let subject = |given: &Given| NameToDiagnose {
        text: given.text.clone(),
        candidates: stub.candidates(&given.name),
    };
    // A configuration given by --config is that of the nodens on this node.
    let is_ours = args.config.config.is_some();
    let order = Order {
        scope: Scope::Everything,
        names: args.names.iter().map(subject).collect(),
        tries: args.tries,
        timeout: args.timeout,
        deadline: args.deadline,
        https: https_check(&args)?,
        patience: (!is_ours).then_some(stub.timeout),
        node_name: is_ours.then(|| config.node_name.clone()),
        config,
    };
    let diagnosis = if io::stderr().is_terminal() && !args.json {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        let (diagnosis, ()) = tokio::join!(diagnose(order, Some(sender)), progress::show(receiver));
        diagnosis?
    } else {
        diagnose(order, None).await?
    };
    let mut out = io::stdout().lock();
    let text = if args.json {
        serde_json::to_string_pretty(&diagnosis)? + "\n"
    } else {
        text::render(&diagnosis, style(&out))
    };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        // The reader of the pipe may close it early, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        written => written?,
    }
    Ok(ExitCode::from(match diagnosis.verdict {
        Health::Healthy => 0,
        Health::Degraded => DEGRADED,
        Health::Unusable => UNUSABLE,
    }))
}

/// Colour on a terminal, unless `NO_COLOR` is set (no-color.org).
fn style(out: &impl IsTerminal) -> Style {
    let unwanted = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = env::var_os("TERM").is_some_and(|value| value == "dumb");
    if out.is_terminal() && !unwanted && !dumb {
        Style::Coloured
    } else {
        Style::Plain
    }
}

fn configuration(args: &ProbeArgs) -> Result<Config, ConfigErrors> {
    let Some(file) = &args.resolv_conf else {
        return load(&args.config.flags()).map(|loaded| loaded.config);
    };
    let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
    let servers = serde_json::json!([file.display().to_string()]);
    let key = r#"upstreams."resolv.conf".servers"#.to_owned();
    load_from(None, [], &[(key, servers.to_string())]).map(|loaded| loaded.config)
}

/// The stub resolver of a pod: by resolv.conf, with the arguments' changes.
fn stub(args: &ProbeArgs) -> anyhow::Result<Stub> {
    let path = args
        .resolv_conf
        .as_deref()
        .unwrap_or(Path::new(RESOLV_CONF));
    let mut stub = match fs::read_to_string(path) {
        Ok(text) => Stub::from_resolv_conf(&text)
            .with_context(|| format!("cannot use {}", path.display()))?,
        // The configuration has the servers, so resolv.conf may be missing.
        Err(_) => Stub::new(Vec::new(), args.timeout, 1),
    };
    if !args.search.is_empty() {
        stub.search.clone_from(&args.search);
    }
    if let Some(ndots) = args.ndots {
        stub.ndots = ndots;
    }
    Ok(stub)
}

fn https_check(args: &ProbeArgs) -> anyhow::Result<Option<HttpsCheck>> {
    let Some(port) = args.https else {
        return Ok(None);
    };
    let extra = match &args.ca_file {
        None => Vec::new(),
        Some(file) => std::fs::read(file)
            .and_then(|pem| read_roots(&pem))
            .with_context(|| format!("--ca-file {}", file.display()))?,
    };
    let roots = Arc::new(trusted_roots(&extra).context("--ca-file")?);
    Ok(Some(HttpsCheck { port, roots }))
}

fn parse_name(text: &str) -> Result<Given, String> {
    let name = Name::from_str_relaxed(text).map_err(|error| error.to_string())?;
    if name.is_root() {
        return Err("the root has no addresses; try a host's name".to_owned());
    }
    let text = text.to_owned();
    Ok(Given { text, name })
}

fn parse_domain(text: &str) -> Result<Name, String> {
    Name::from_str_relaxed(text).map_err(|error| error.to_string())
}

fn parse_tries(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(tries @ 1..=100) => Ok(tries),
        _ => Err("a number from 1 to 100".to_owned()),
    }
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let (least, most) = (Duration::from_millis(10), Duration::from_mins(10));
    if (least..=most).contains(&time) {
        Ok(time)
    } else {
        Err("a time from 10ms to 10m".to_owned())
    }
}
