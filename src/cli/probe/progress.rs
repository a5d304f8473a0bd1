//! The progress on a terminal: a line on stderr that is removed at the end.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::diagnosis::Progress;

/// Often enough to look alive.
const TICK: Duration = Duration::from_millis(100);

/// Shows progress until the sender is dropped.
pub(super) async fn show(mut steps: UnboundedReceiver<Progress>) {
    let bar = ProgressBar::new_spinner();
    let style = ProgressStyle::with_template("{spinner} {pos}/{len} {msg}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
    bar.enable_steady_tick(TICK);
    while let Some(step) = steps.recv().await {
        match step {
            Progress::Begun(pieces) => {
                bar.set_length(u64::try_from(pieces).unwrap_or(u64::MAX));
                bar.set_message("asking");
            }
            Progress::Done(what) => {
                bar.inc(1);
                bar.set_message(what);
            }
        }
    }
    bar.finish_and_clear();
}
