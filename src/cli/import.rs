//! `nodens import`: a Corefile becomes our configuration, and every line hears what became of it.

use std::fs;
use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::config::{Flags, is_corefile, load};

/// Write the configuration that a Corefile stands for
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The Corefile; its name holds the word Corefile
    #[arg(value_name = "COREFILE")]
    file: PathBuf,

    /// Where to write the configuration; default: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Where kube-dns is, for the plugin kubernetes; default: what the kubelet's configuration says
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Option<IpAddr>,
}

/// The configuration goes to standard output or a file, what became of each line to standard error.
pub(super) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    if !is_corefile(&args.file) {
        anyhow::bail!(
            "{}: its name does not hold the word Corefile, by which it would be known; rename it",
            args.file.display()
        );
    }
    let flags = Flags {
        config_file: Some(args.file.clone()),
        cluster_dns: args.cluster_dns,
        ..Flags::default()
    };
    let loaded = match load(&flags) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(2));
        }
    };
    for remark in &loaded.remarks {
        eprintln!("{remark}");
    }
    let yaml = loaded.yaml.unwrap_or_default();
    match &args.output {
        Some(file) => fs::write(file, yaml).with_context(|| format!("{}", file.display()))?,
        None => std::io::stdout().lock().write_all(yaml.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}
