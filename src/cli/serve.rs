//! `nodens serve`: run until SIGTERM or SIGINT.
//!
//! Tells a service manager, by the protocol of `sd_notify(3)`, when clients are served and when stopping begins. A reload is
//! not reported (`RELOADING=1`): on SIGHUP the manager need not wait, since the old configuration serves until the new one
//! does.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use sd_notify::NotifyState;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

use super::log;
use crate::budgets::BLOCKING_THREADS;
use crate::config::{Flags, Loaded, load, same_values};
use crate::net::process::{raise_file_limit, refuse_huge_pages};
use crate::process::app::App;
use crate::process::last_good::LastGood;
use crate::process::reload;

/// Signals that come so soon after the first are the same one: `timeout`, and supervisors that signal a process and its
/// group. Nobody sends a second signal on purpose so soon.
const ONE_SIGNAL: Duration = Duration::from_millis(200);

pub(super) fn run(flags: &Flags, state_dir: Option<OsString>) -> anyhow::Result<ExitCode> {
    let last_good = state_dir
        .filter(|directory| !directory.is_empty())
        .map(|directory| LastGood::new(PathBuf::from(directory)));
    let mut mistakes = Vec::new();
    let loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(errors) => {
            eprintln!("{errors}");
            mistakes.extend(errors.iter().map(ToString::to_string));
            match fall_back(last_good.as_ref(), flags) {
                Some(loaded) => loaded,
                None => return Ok(ExitCode::from(2)),
            }
        }
    };
    let runtime = runtime()?;
    let log = log::start(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    set_process_limits();
    runtime.block_on(async move {
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
        let mut hangup = signal(SignalKind::hangup()).context("SIGHUP")?;
        // CoreDNS reloads on SIGUSR1. Without a handler the signal would end this process.
        let mut user = signal(SignalKind::user_defined1()).context("SIGUSR1")?;
        let started = start(loaded, last_good.as_ref(), flags, &mut mistakes).await;
        let Some(mut app) = started else {
            return Ok(ExitCode::from(2));
        };
        if let (Some(last_good), false) = (&last_good, mistakes.is_empty()) {
            tracing::error!(
                kept = %last_good.file().display(),
                "the configuration cannot be used: the last good one is in force until it is mended"
            );
            app.reloads.refused(mistakes);
        }
        app.metrics.log(log.dropped());
        app.metrics.count_panics();
        let listen: Vec<String> = app.listen().iter().map(ToString::to_string).collect();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            listen = listen.join(" "),
            admin = app.admin.map(|address| address.to_string()),
            workers = app.shared.current.load().config.workers,
            "serving"
        );
        notify_manager(&NotifyState::Ready);
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
            () = reload::run(&mut app, flags, last_good.as_ref(), &asked) => "the end of reloading",
            () = async { while hangup.recv().await.is_some() { asked.notify_one() } } => "the end of signals",
            () = async { while user.recv().await.is_some() { asked.notify_one() } } => "the end of signals",
        };
        tracing::info!(signal = name, "stopping: answering what is in flight");
        notify_manager(&NotifyState::Stopping);
        tokio::select! {
            () = app.stop() => tracing::info!("stopped"),
            name = later(ONE_SIGNAL, signal) => {
                tracing::warn!(signal = name, "stopped at once by a second signal");
                drop(log);
                std::process::exit(1);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Starts the configuration, or the last good one if it cannot be started; `mistakes` then gets the reasons. None if neither
/// can, and then the reasons are printed.
async fn start(
    loaded: Loaded,
    last_good: Option<&LastGood>,
    flags: &Flags,
    mistakes: &mut Vec<String>,
) -> Option<App> {
    let errors = match App::start(loaded.config).await {
        Ok(app) => return Some(app),
        Err(errors) => errors,
    };
    eprintln!("{errors}");
    let is_other = |kept: &Loaded| !same_values(&kept.settings, &loaded.settings);
    let kept = fall_back(last_good, flags).filter(is_other)?;
    mistakes.extend(errors.0.iter().map(ToString::to_string));
    match App::start(kept.config).await {
        Ok(app) => Some(app),
        Err(errors) => {
            eprintln!("the last good configuration: {errors}");
            None
        }
    }
}

/// Has the kernel allow as many open files as it may, and give no huge pages. Neither is needed to serve.
fn set_process_limits() {
    if let Err(error) = refuse_huge_pages() {
        tracing::debug!(%error, "transparent huge pages stay as they are");
    }
    match raise_file_limit() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// The next signal, if it does not come before this time is over.
async fn later(time: Duration, mut signal: impl AsyncFnMut() -> &'static str) -> &'static str {
    let start = Instant::now();
    loop {
        let name = signal().await;
        if start.elapsed() >= time {
            return name;
        }
    }
}

/// The main thread's runtime. One of its threads for work that blocks is started now and stays, and takes such work when the
/// node has no process left for another. Without any, tokio panics.
fn runtime() -> anyhow::Result<Runtime> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_keep_alive(Duration::MAX)
        .build()
        .context("the runtime cannot be started")?;
    let first = thread::Builder::new().spawn(|| ());
    let ended = first.context("a thread cannot be started: raise the limit of processes")?;
    ended.join().expect("it does nothing");
    drop(runtime.spawn_blocking(|| ()));
    Ok(runtime)
}

/// The last good configuration, if one is kept that can be used.
fn fall_back(last_good: Option<&LastGood>, flags: &Flags) -> Option<Loaded> {
    let last_good = last_good?;
    match last_good.load(flags) {
        Ok(loaded) => Some(loaded),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => {
            eprintln!("{}: {error}", last_good.file().display());
            None
        }
    }
}

/// Tells the service manager, if one waits for it (`NOTIFY_SOCKET`). If the manager cannot be told, clients are served
/// all the same; the manager ends the process when its time limit for starting is over.
fn notify_manager(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, %state, "the service manager cannot be told");
    }
}
