//! A changed configuration, or changed addresses of servers that it names, put in force while we run.
//!
//! Owns the check whether the files changed. They are read, not watched: a `ConfigMap` arrives by a swap of symlinks
//! that no watch on the file itself sees, and a read of a few kilobytes a second costs nothing. A file that is being
//! written is not taken until it stays as it is for a second. SIGHUP takes everything at once, changed or not, and has
//! the names of servers resolved anew.
//!
//! Limits: files that cannot be read count as changed; loading the configuration then reports the error.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io::Read;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval};

use super::app::App;
use super::host_names::HostNames;
use super::last_good::LastGood;
use crate::config::{Config, Flags, HostName, is_pipe, load};

/// How often the files are read.
const READ_INTERVAL: Duration = Duration::from_secs(1);
/// Octets of a file that are read by one call: enough for most files.
const READ_AT_ONCE: usize = 16 << 10;

/// Each file and what it held; none if it could not be read.
type Contents = BTreeMap<PathBuf, Option<Fingerprint>>;

/// A fingerprint of a file's content. The content itself is not kept, because hosts files may have megabytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fingerprint {
    octets: usize,
    hash: u64,
}

impl Fingerprint {
    /// None if it cannot be read. Reading a pipe would wait for its writer.
    fn of(file: &Path) -> Option<Self> {
        fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
        Self::read(File::open(file).ok()?)
    }

    fn read(mut content: impl Read) -> Option<Self> {
        let (mut octets, mut hasher) = (0, DefaultHasher::new());
        let mut buffer = vec![0; READ_AT_ONCE];
        loop {
            match content.read(&mut buffer).ok()? {
                0 => break,
                read => {
                    hasher.write(&buffer[..read]);
                    octets += read;
                }
            }
        }
        let hash = hasher.finish();
        Some(Self { octets, hash })
    }
}

fn read<'a>(file: Option<&'a Path>, config: &'a Config) -> Contents {
    let all = file.into_iter().chain(config.files().map(PathBuf::as_path));
    all.map(|file| (file.to_owned(), Fingerprint::of(file)))
        .collect()
}

/// Whether files changed, and stay as they are.
#[derive(Default)]
struct FileChanges {
    taken: Contents,
    seen: Contents,
}

impl FileChanges {
    /// These contents were loaded.
    fn take(&mut self, contents: Contents) {
        self.seen.clone_from(&contents);
        self.taken = contents;
    }

    /// Files that were not watched before do not count as changed: they were read together with the configuration that
    /// names them.
    fn name(&mut self, contents: &Contents) {
        for (file, content) in contents {
            if !self.taken.contains_key(file) {
                self.taken.insert(file.clone(), *content);
            }
        }
    }

    /// Whether these contents are new and were the same the last time.
    fn settled(&mut self, contents: Contents) -> bool {
        let same = contents == self.seen;
        self.name(&contents);
        self.seen = contents;
        let differs = |(file, content)| self.taken.get(file) != Some(content);
        same && self.seen.iter().any(differs)
    }
}

/// Puts changed configurations in force, for ever; `asked` triggers it at once. `last_good` keeps the configuration in
/// force.
pub async fn run(app: &mut App, flags: &Flags, last_good: Option<&LastGood>, asked: &Notify) {
    let file = flags.config_file.as_deref();
    keep(app, flags, last_good).await;
    let mut changes = FileChanges::default();
    changes.take(read(file, &app.shared.current.load().config));
    let mut ticks = interval(READ_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut host_names = HostNames::default();
    loop {
        let setup = app.shared.current.load_full();
        let at_once = tokio::select! {
            _ = ticks.tick() => false,
            () = asked.notified() => true,
            (host, addresses) = host_names.changed(&setup) => {
                move_servers(app, &host, &addresses).await;
                continue;
            }
        };
        let contents = read(file, &app.shared.current.load().config);
        if at_once || changes.settled(contents.clone()) {
            // Read before the configuration, so that a change between the two is seen by the next check.
            changes.take(contents);
            if at_once {
                host_names.all_due(Instant::now());
            }
            reload(app, flags, &mut changes).await;
            keep(app, flags, last_good).await;
        }
    }
}

/// Keeps the files if they are in force as they are.
async fn keep(app: &App, flags: &Flags, last_good: Option<&LastGood>) {
    let status = app.reloads.status();
    if let Some(last_good) = last_good
        && status.mistakes.is_empty()
        && status.restart_needed.is_empty()
    {
        let setup = app.shared.current.load_full();
        last_good.keep(flags, &setup.config).await;
    }
}

/// A name of servers resolves to other addresses: the same configuration is put in force with those.
async fn move_servers(app: &mut App, host: &HostName, addresses: &[IpAddr]) {
    let mut config = app.shared.current.load().config.clone();
    config.set_addresses(host, addresses);
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    let addresses = shown.join(" ");
    match app.reload(config).await {
        Ok(_) => tracing::info!(%host, addresses, "the name of an upstream server resolves"),
        // Such as a `tls_ca` that cannot be read now. The next lookup tries again.
        Err(error) => {
            tracing::error!(%host, addresses, %error, "servers stay at the addresses they had");
        }
    }
}

/// Puts the configuration as it is now in force, or says why not.
async fn reload(app: &mut App, flags: &Flags, changes: &mut FileChanges) {
    if let Some(file) = flags.config_file.as_deref()
        && is_pipe(file)
    {
        let why = "a pipe can be read once only, and was read at the start; keep the configuration in a file";
        return app
            .reloads
            .refused(vec![format!("{}: {why}", file.display())]);
    }
    let mut loaded = match load(flags) {
        Ok(loaded) => loaded,
        Err(errors) => {
            let mistakes = errors.iter().map(ToString::to_string).collect();
            return app.reloads.refused(mistakes);
        }
    };
    // At once, because whoever sees the new configuration in force may change its files again.
    changes.name(&read(flags.config_file.as_deref(), &loaded.config));
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let running = app.shared.current.load_full();
    loaded.config.take_over_addresses(&running.config);
    match app.reload(loaded.config).await {
        Ok(fixed) => {
            for key in &fixed {
                tracing::warn!(
                    key,
                    "this key changed, and takes a restart; it stays as it is"
                );
            }
            let (config, listen) = (&app.shared.current.load().config, app.listen());
            let listen: Vec<String> = listen.iter().map(ToString::to_string).collect();
            tracing::info!(
                listen = listen.join(" "),
                routes = config.routes.len(),
                groups = config.groups.len(),
                "the changed configuration is in force"
            );
            app.reloads.taken(fixed);
        }
        Err(errors) => {
            let mistakes = errors.0.iter().map(ToString::to_string).collect();
            app.reloads.refused(mistakes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(files: &[(&str, &str)]) -> Contents {
        let one =
            |(file, text): &(&str, &str)| (PathBuf::from(file), Fingerprint::read(text.as_bytes()));
        files.iter().map(one).collect()
    }

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let mut changes = FileChanges::default();
        changes.take(contents(&[("a", "1")]));
        assert!(!changes.settled(contents(&[("a", "1")])), "as it was");
        assert!(!changes.settled(contents(&[("a", "2")])), "being written");
        assert!(!changes.settled(contents(&[("a", "23")])), "still written");
        assert!(changes.settled(contents(&[("a", "23")])), "whole");
        changes.take(contents(&[("a", "23")]));
        assert!(!changes.settled(contents(&[("a", "23")])), "dealt with");
    }

    #[test]
    fn a_change_that_is_taken_back_is_none() {
        let mut changes = FileChanges::default();
        changes.take(contents(&[("a", "1")]));
        assert!(!changes.settled(contents(&[("a", "2")])));
        assert!(!changes.settled(contents(&[("a", "1")])));
        assert!(!changes.settled(contents(&[("a", "1")])));
    }

    #[test]
    fn a_file_that_is_named_anew_is_no_change_but_what_comes_into_it_is() {
        let mut changes = FileChanges::default();
        changes.take(contents(&[("a", "1")]));
        let both = contents(&[("a", "1"), ("resolv.conf", "x")]);
        assert!(!changes.settled(both.clone()));
        assert!(!changes.settled(both));
        let later = contents(&[("a", "1"), ("resolv.conf", "y")]);
        assert!(!changes.settled(later.clone()));
        assert!(changes.settled(later));
    }

    #[test]
    fn a_file_that_vanishes_is_a_change() {
        let mut changes = FileChanges::default();
        changes.take(contents(&[("a", "1")]));
        let gone: Contents = [(PathBuf::from("a"), None)].into();
        assert!(!changes.settled(gone.clone()));
        assert!(changes.settled(gone));
    }
}
