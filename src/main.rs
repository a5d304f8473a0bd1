//! argv → command → exit code.

use std::process::ExitCode;

use clap::Parser;
use nodens::cli::{Cli, arguments, run};

/// Returns freed memory and is fast under cache churn, which musl's and glibc's allocators are not.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    run(Cli::parse_from(arguments(std::env::args_os())))
}
