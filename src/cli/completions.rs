//! `nodens completions SHELL`: a script that completes commands and flags, from the definitions that parse them.

use std::io::Write;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

/// Print a script that has a shell complete commands and flags
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// The shell that will read the script
    shell: Shell,
}

pub(super) fn run(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // The generator panics if it cannot write. A closed pipe is no error, so the text is made first.
    let mut script = Vec::new();
    clap_complete::generate(
        args.shell,
        &mut super::Cli::command(),
        "nodens",
        &mut script,
    );
    std::io::stdout().lock().write_all(&script)?;
    Ok(ExitCode::SUCCESS)
}
