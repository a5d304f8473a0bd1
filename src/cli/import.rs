//! `nodens import`: translates a Corefile into our configuration, with a remark about every line.

use std::fs;
use std::io::{Read, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;

use crate::config;

/// Write the configuration that a Corefile stands for
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// The Corefile, or the ConfigMap that holds it as `kubectl get -o yaml` prints it; `-` is standard input
    #[arg(value_name = "COREFILE")]
    file: PathBuf,

    /// Where to write the configuration; default: standard output
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Write it as values of the Helm chart, without what the chart sets by itself: listen, allow, admin and metrics
    #[arg(long)]
    helm_values: bool,

    /// Where kube-dns is, for the plugin kubernetes; default: what the kubelet's configuration says
    #[arg(long, value_name = "ADDRESS")]
    cluster_dns: Option<IpAddr>,
}

/// The configuration goes to standard output or a file, the remarks to standard error.
pub(super) fn run(args: &ImportArgs) -> anyhow::Result<ExitCode> {
    let (file, text) = read(&args.file)?;
    let imported = match config::import(&file, &text, args.cluster_dns) {
        Ok(imported) => imported,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(2));
        }
    };
    for remark in &imported.remarks {
        eprintln!("{remark}");
    }
    let (written, remedy) = if args.helm_values {
        let remedy = ": mount it by extraVolumes and extraVolumeMounts";
        (imported.chart_values, remedy)
    } else {
        (imported.yaml, "")
    };
    for missing in &imported.missing {
        eprintln!("{missing}; it must be there where nodens runs{remedy}");
    }
    match &args.output {
        Some(file) => fs::write(file, written).with_context(|| format!("{}", file.display()))?,
        None => std::io::stdout().lock().write_all(written.as_bytes())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The text, and the file name for remarks about its lines.
fn read(file: &Path) -> anyhow::Result<(PathBuf, String)> {
    let (name, bytes) = if file == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin()
            .read_to_end(&mut bytes)
            .context("standard input")?;
        (PathBuf::from("stdin"), bytes)
    } else {
        let bytes = fs::read(file).with_context(|| format!("{}", file.display()))?;
        (file.to_owned(), bytes)
    };
    let text = String::from_utf8(bytes);
    let text = text.with_context(|| format!("{}: it is not UTF-8", name.display()))?;
    Ok((name, text))
}
