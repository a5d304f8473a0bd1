//! `nodens check`: validate, and print what is in force and where each value came from.

use std::io::{self, Write};
use std::process::ExitCode;

use crate::config::{Flags, load};
use crate::upstream::check_servers;

pub(super) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(2));
        }
    };
    if let Err(errors) = check_servers(&loaded.config) {
        for error in errors {
            eprintln!("{error}");
        }
        return Ok(ExitCode::from(2));
    }
    let width = |of: fn(&crate::config::Setting) -> usize| {
        loaded.settings.iter().map(of).max().unwrap_or(0).min(60)
    };
    let (path, value) = (width(|s| s.path.len()), width(|s| s.value.len()));
    let mut out = std::io::stdout().lock();
    for setting in &loaded.settings {
        let line = writeln!(
            out,
            "{:path$}  {:value$}  {}",
            setting.path, setting.value, setting.origin
        );
        match line {
            // The reader of the pipe may close it early, as `head` does.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => break,
            written => written?,
        }
    }
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    Ok(ExitCode::SUCCESS)
}
