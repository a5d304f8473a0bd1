//! `nodens schema`: the JSON Schema of the configuration, for editors and checks elsewhere.

use std::io::Write;
use std::process::ExitCode;

use crate::config::json_schema;

pub(super) fn run() -> anyhow::Result<ExitCode> {
    let schema = serde_json::to_string_pretty(&json_schema())?;
    writeln!(std::io::stdout().lock(), "{schema}")?;
    Ok(ExitCode::SUCCESS)
}
