//! `nodens check`: validate, and print what is in force and where each value came from.

use std::io::Write;
use std::process::ExitCode;

use crate::config::{Flags, load};
use crate::upstream::check_servers;

pub(super) fn run(flags: &Flags) -> ExitCode {
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(2);
        }
    };
    if let Err(errors) = check_servers(&loaded.config) {
        for error in errors {
            eprintln!("{error}");
        }
        return ExitCode::from(2);
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
        // Whoever reads us has read enough, as `head` does.
        if line.is_err() {
            break;
        }
    }
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    ExitCode::SUCCESS
}
