//! `nodens health [--ready]`: ask the running instance, over its Unix socket if it has one, else its admin address.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use hyper::Request;
use tokio::time::timeout;

use super::admin::AdminAddress;

/// An instance that takes longer than this to answer is not healthy.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug, clap::Args)]
pub(super) struct HealthArgs {
    /// Ask whether it is ready to serve, rather than whether it is alive
    #[arg(long)]
    ready: bool,
    /// Configuration file of the running instance, of which `socket` and `admin` alone are read
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Its Unix socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

pub(super) async fn run(args: HealthArgs) -> anyhow::Result<ExitCode> {
    let path = if args.ready { "/ready" } else { "/health" };
    let asked = timeout(PATIENCE, ask(args.socket, args.config, path)).await;
    let answer = match asked {
        Err(_) => Err(anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())),
        Ok(answer) => answer,
    };
    match answer {
        Ok((true, text)) => {
            print!("{text}");
            Ok(ExitCode::SUCCESS)
        }
        Ok((false, text)) => {
            eprint!("nodens: {path}: {text}");
            Ok(ExitCode::FAILURE)
        }
        Err(error) => {
            eprintln!("nodens: {path}: {error:#}");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn ask(
    socket: Option<PathBuf>,
    config_file: Option<PathBuf>,
    path: &'static str,
) -> anyhow::Result<(bool, String)> {
    let instance = match socket {
        Some(socket) => AdminAddress::Socket(socket),
        None => AdminAddress::of_configuration(config_file)?,
    };
    let (status, body) = instance.exchange(Request::get(path), Vec::new()).await?;
    let text = String::from_utf8_lossy(&body);
    let text = if text.trim().is_empty() {
        format!("{status}\n")
    } else {
        text.into_owned()
    };
    Ok((status.is_success(), text))
}
