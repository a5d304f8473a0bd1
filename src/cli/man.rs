//! `nodens man`: manual pages, from the definitions that `--help` shows.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, CommandFactory};

/// Print the manual page, or write one for each command into a directory
#[derive(Debug, Args)]
pub(super) struct ManArgs {
    /// Directory for all pages (`nodens.1`, `nodens-serve.1`, ...), made if it is missing; default: nodens.1 on standard output
    #[arg(long, short, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: &ManArgs) -> anyhow::Result<ExitCode> {
    let command = super::Cli::command();
    if let Some(directory) = &args.output {
        fs::create_dir_all(directory).with_context(|| format!("{}", directory.display()))?;
        clap_mangen::generate_to(command, directory)
            .with_context(|| format!("{}", directory.display()))?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        std::io::stdout().lock().write_all(&page)?;
    }
    Ok(ExitCode::SUCCESS)
}
