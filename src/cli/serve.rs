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
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

use super::log;
use crate::budgets::BLOCKING_THREADS;
use crate::config::{Flags, Loaded, load, same_values};
use crate::net::process::{raise_file_limit, refuse_huge_pages, return_unused_memory};
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
    let Some(loaded) = load_or_fall_back(flags, last_good.as_ref(), &mut mistakes) else {
        return Ok(ExitCode::from(2));
    };
    let runtime = runtime()?;
    let log = log::start(&loaded.config.log)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    set_process_limits();
    runtime.block_on(async move {
        let mut stop_signals = StopSignals::new()?;
        let mut reload_signals = ReloadSignals::new()?;
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
        log_addresses(&app);
        notify_manager(&NotifyState::Ready);
        let asked = Notify::new();
        let name = tokio::select! {
            name = stop_signals.next() => name,
            () = reload::run(&mut app, flags, last_good.as_ref(), &asked) => "the end of reloading",
            () = reload_signals.pass_on(&asked) => "the end of signals",
        };
        tracing::info!(signal = name, "stopping: answering what is in flight");
        notify_manager(&NotifyState::Stopping);
        tokio::select! {
            () = app.stop() => tracing::info!("stopped"),
            name = stop_signals.next_after(ONE_SIGNAL) => {
                tracing::warn!(signal = name, "stopped at once by a second signal");
                drop(log);
                std::process::exit(1);
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Loads the configuration, or the last good one if it has mistakes; `mistakes` then gets them, and they are printed.
fn load_or_fall_back(
    flags: &Flags,
    last_good: Option<&LastGood>,
    mistakes: &mut Vec<String>,
) -> Option<Loaded> {
    match load(flags) {
        Ok(loaded) => Some(loaded),
        Err(errors) => {
            eprintln!("{errors}");
            mistakes.extend(errors.iter().map(ToString::to_string));
            fall_back(last_good, flags)
        }
    }
}

/// Signals that end the process.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate()).context("SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context("SIGINT")?,
        })
    }

    /// Waits for the next one; returns its name.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }

    /// Waits for the next one that does not come before this time is over.
    async fn next_after(&mut self, time: Duration) -> &'static str {
        let start = Instant::now();
        loop {
            let name = self.next().await;
            if start.elapsed() >= time {
                return name;
            }
        }
    }
}

/// Signals that have the configuration read again.
struct ReloadSignals {
    hangup: Signal,
    /// CoreDNS reloads on SIGUSR1. Without a handler the signal would end this process.
    user: Signal,
}

impl ReloadSignals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup()).context("SIGHUP")?,
            user: signal(SignalKind::user_defined1()).context("SIGUSR1")?,
        })
    }

    /// Has a reload asked for at each signal; returns when there can be no more.
    async fn pass_on(&mut self, asked: &Notify) {
        loop {
            let received = tokio::select! {
                received = self.hangup.recv() => received,
                received = self.user.recv() => received,
            };
            if received.is_none() {
                return;
            }
            asked.notify_one();
        }
    }
}

fn log_addresses(app: &App) {
    let listen: Vec<String> = app.listen().iter().map(ToString::to_string).collect();
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        listen = listen.join(" "),
        admin = app.admin.map(|address| address.to_string()),
        workers = app.shared.current.load().config.workers,
        "serving"
    );
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

/// Has the kernel allow as many open files as it may, and give no huge pages, and has the allocator return unused memory. None
/// of these is needed to serve.
fn set_process_limits() {
    return_unused_memory();
    if let Err(error) = refuse_huge_pages() {
        tracing::debug!(%error, "transparent huge pages stay as they are");
    }
    match raise_file_limit() {
        Ok(limit) => tracing::debug!(limit, "open files"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
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
