//! The command line: one file a subcommand.

mod admin;
mod cache;
mod check;
mod completions;
mod demo;
mod examples;
mod health;
mod import;
mod log;
mod man;
mod node;
mod probe;
mod resolve;
mod schema;
mod serve;
pub mod stub;
mod top;

use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};

use crate::config::Flags;

/// One nameserver on every Kubernetes node that always answers
#[derive(Debug, Parser)]
#[command(version, about, disable_help_subcommand = true, after_long_help = examples::NODENS)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the nameserver
    #[command(after_long_help = examples::SERVE)]
    Serve(ServeArgs),
    /// Validate the configuration; print what is in force and where each value comes from
    #[command(after_long_help = examples::CHECK)]
    Check(ConfigArgs),
    /// Ask the running instance whether it is healthy (exit 0) or not (exit 1); for exec probes
    #[command(after_long_help = examples::HEALTH)]
    Health(health::HealthArgs),
    /// Write the configuration that a Corefile stands for, and what became of each of its lines
    #[command(after_long_help = examples::IMPORT)]
    Import(import::ImportArgs),
    /// Print the JSON Schema of the configuration, by which editors complete and check its keys
    #[command(after_long_help = examples::SCHEMA)]
    Schema,
    #[command(after_long_help = examples::TOP)]
    Top(top::TopArgs),
    Cache(cache::CacheArgs),
    #[command(after_long_help = examples::RESOLVE)]
    Resolve(resolve::ResolveArgs),
    #[command(after_long_help = examples::PROBE)]
    Probe(probe::ProbeArgs),
    Node(node::NodeArgs),
    /// Run stand-ins and the proxy on loopback and tour what it does; then keep serving them
    #[command(after_long_help = examples::DEMO)]
    Demo(demo::DemoArgs),
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions(completions::CompletionsArgs),
    #[command(after_long_help = examples::MAN)]
    Man(man::ManArgs),
}

/// What `nodens serve` takes.
#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// Directory in which the last good configuration is kept; a start whose configuration has mistakes goes on with it
    #[arg(long, value_name = "DIRECTORY", env = "NODENS_STATE_DIR")]
    // Not a path: clap refuses an empty one, and a variable that is empty says that nothing is kept.
    state_dir: Option<OsString>,
}

/// Where the configuration comes from.
#[derive(Debug, Args)]
struct ConfigArgs {
    /// Configuration file, YAML or a Corefile; without one, names go to /etc/resolv.conf's servers
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Override one key (`cache.max_size=128MiB`); outranks file and environment; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_override)]
    set: Vec<(String, String)>,

    /// Where kube-dns is, for a Corefile with the plugin kubernetes; default: what the kubelet's configuration says
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Option<IpAddr>,
}

impl ConfigArgs {
    fn flags(&self) -> Flags {
        Flags {
            config_file: self.config.clone(),
            overrides: self.set.clone(),
            cluster_dns: self.cluster_dns,
        }
    }
}

fn parse_override(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("it is not of the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The command line with `help COMMAND` written as `COMMAND --help`, which is what people mean.
pub fn arguments(typed: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = typed.collect();
    if arguments.get(1).is_some_and(|word| word == "help") {
        arguments.remove(1);
        arguments.push("--help".into());
    }
    arguments
}

/// Runs the command; the exit code is 0 for success, 1 for a "no", 2 for what the user must mend first.
#[must_use]
pub fn run(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args.config.flags(), args.state_dir),
        Command::Check(args) => check::run(&args.flags()),
        Command::Health(args) => block_on(health::run(args)),
        Command::Import(args) => import::run(&args),
        Command::Schema => schema::run(),
        Command::Top(args) => block_on(top::run(args)),
        Command::Cache(args) => block_on(cache::run(args)),
        Command::Resolve(args) => block_on(resolve::run(args)),
        Command::Probe(args) => block_on(probe::run(args)),
        Command::Node(args) => node::run(&args),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    };
    result.unwrap_or_else(|error| {
        let cause = error.downcast_ref::<io::Error>().map(io::Error::kind);
        // The reader of the pipe may close it early, as `head` does.
        if cause != Some(io::ErrorKind::BrokenPipe) {
            eprintln!("nodens: {error:#}");
        }
        ExitCode::from(2)
    })
}

fn block_on(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    runtime()?.block_on(command)
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime cannot be started")
}
