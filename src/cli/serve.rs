//! `nodens serve`: run until SIGTERM or SIGINT.

use std::process::ExitCode;

use anyhow::Context;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::log;
use crate::config::{Flags, load};
use crate::net::process::{raise_file_limit, refuse_huge_pages};
use crate::process::app::App;
use crate::process::reload;

pub(super) fn run(flags: &Flags) -> anyhow::Result<ExitCode> {
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            return Ok(ExitCode::from(2));
        }
    };
    let log = log::start(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if let Err(error) = refuse_huge_pages() {
        tracing::debug!(%error, "transparent huge pages stay as they are");
    }
    match raise_file_limit() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
    super::runtime()?.block_on(async move {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
        let mut app = match App::start(loaded.config).await {
            Ok(app) => app,
            Err(errors) => {
                eprintln!("{errors}");
                return Ok(ExitCode::from(2));
            }
        };
        app.metrics.log(log.dropped());
        let listen: Vec<String> = app.listen().iter().map(ToString::to_string).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = listen.join(" "),
            admin = app.admin.map(|address| address.to_string()),
            workers = app.shared.current.load().config.workers,
            "serving"
        );
        let signal = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let mut signal = signal;
        let asked = Notify::new();
        let name = tokio::select! {
            name = signal() => name,
            () = reload::run(&mut app, flags, &asked) => "the end of reloading",
            () = async { while hangup.recv().await.is_some() { asked.notify_one() } } => "the end of signals",
        };
        tracing::info!(signal = name, "stopping: answering what is in flight");
        tokio::select! {
            () = app.stop() => tracing::info!("stopped"),
            name = signal() => {
                tracing::warn!(signal = name, "stopped at once by a second signal");
                drop(log);
                std::process::exit(1);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}
