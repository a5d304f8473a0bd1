//! The log of `nodens serve`: lines on stderr.
//!
//! The reader of stderr may stop reading, and a full pipe blocks its writer. So a separate thread writes the lines, and
//! lines for which there is no room are dropped and counted. Lines that wait are lost if a signal that cannot be caught
//! ends the process.

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use crate::budgets::LOG_LINES_WAITING;
use crate::config::{LogConfig, LogFormat};

/// The log. Dropping it writes the waiting lines, unless they are not read within a second, and closes it.
pub(super) struct Log {
    dropped: ErrorCounter,
    _writer: WorkerGuard,
}

impl Log {
    /// Lines dropped so far.
    pub(super) fn dropped(&self) -> impl Fn() -> u64 + Send + Sync + 'static {
        let dropped = self.dropped.clone();
        move || u64::try_from(dropped.dropped_lines()).unwrap_or(u64::MAX)
    }
}

/// Starts it; `RUST_LOG` outranks the configuration. hickory-server logs every request at `info`, which is ours to decide.
///
/// # Errors
/// If `RUST_LOG` is no filter.
pub(super) fn start(config: &LogConfig) -> anyhow::Result<Log> {
    let directives = std::env::var("RUST_LOG").unwrap_or_else(|_| config.level.clone());
    let filter = EnvFilter::try_new(format!("hickory_server=warn,{directives}"))
        .map_err(|_| anyhow::anyhow!("RUST_LOG: {directives:?} is not a level such as info, or a filter such as warn,nodens::query=info"))?;
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(LOG_LINES_WAITING)
        .lossy(true)
        .thread_name("log")
        .finish(std::io::stderr());
    let dropped = writer.error_counter();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer);
    let result = match config.format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("logging cannot be set up: {error}"))?;
    Ok(Log {
        dropped,
        _writer: guard,
    })
}
