//! The last configuration that was in force, kept on the disk: a start that finds mistakes in the files goes on with it, because
//! a node must not be without DNS until somebody has mended them.
//!
//! Owns one file. It holds copies of all files that the configuration was read from, because the mistake may be in a
//! resolv.conf. Environment and flags are not kept; those of the new start apply.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf, absolute};

use serde::{Deserialize, Serialize};

use crate::config::{Config, Files, Flags, Loaded, is_pipe, load_with, same_values};

/// The file's name in its directory.
const FILE: &str = "last-good.json";

/// Where the last good configuration is kept.
#[derive(Debug, Clone)]
pub struct LastGood {
    directory: PathBuf,
}

/// What is kept.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// The configuration file, if there is one.
    config_file: Option<PathBuf>,
    /// All files that it was made of, by their absolute paths.
    files: BTreeMap<PathBuf, String>,
}

impl Kept {
    /// The files as they are now.
    fn read(flags: &Flags, config: &Config) -> io::Result<Self> {
        let config_file = flags.config_file.as_deref().map(absolute).transpose()?;
        let mut files = BTreeMap::new();
        for file in config_file.iter().chain(config.files()) {
            if is_pipe(file) {
                let text = format!("{} is a pipe", file.display());
                return Err(io::Error::other(text));
            }
            let content = String::from_utf8_lossy(&fs::read(file)?).into_owned();
            files.insert(absolute(file)?, content);
        }
        Ok(Self { config_file, files })
    }

    /// The configuration that these files are.
    fn load(&self, flags: &Flags) -> io::Result<Loaded> {
        let files = self.files.iter();
        let files = files.map(|(file, text)| (file.clone(), text.clone().into_bytes()));
        let flags = Flags {
            config_file: self.config_file.clone(),
            ..flags.clone()
        };
        load_with(&flags, Files::as_they_were(files.collect())).map_err(io::Error::other)
    }
}

impl LastGood {
    /// Kept in this directory, which is made when there is something to keep.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// The file that holds it.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    fn kept(&self) -> io::Result<Kept> {
        let bytes = fs::read(self.file())?;
        serde_json::from_slice(&bytes).map_err(io::Error::other)
    }

    /// The last good configuration, with these flags.
    ///
    /// # Errors
    /// If there is none (`NotFound`), or it cannot be read, or is not valid with these flags and this environment.
    pub fn load(&self, flags: &Flags) -> io::Result<Loaded> {
        self.kept()?.load(flags)
    }

    /// Keeps the files that the configuration in force was read from. Runs on a thread of its own, because it waits for
    /// the disk.
    pub async fn keep(&self, flags: &Flags, config: &Config) {
        let (this, flags, config) = (self.clone(), flags.clone(), config.clone());
        let kept = tokio::task::spawn_blocking(move || this.keep_now(&flags, &config)).await;
        let kept = kept.unwrap_or_else(|panic| Err(io::Error::other(panic)));
        if let Err(error) = kept {
            let directory = self.directory.display();
            tracing::warn!(%directory, %error, "the last good configuration cannot be kept");
        }
    }

    fn keep_now(&self, flags: &Flags, config: &Config) -> io::Result<()> {
        let kept = Kept::read(flags, config)?;
        if !same_values(&kept.load(flags)?.settings, &config.settings) {
            // The files have changed since; the next check reads them.
            return Ok(());
        }
        if self.kept().is_ok_and(|before| before == kept) {
            return Ok(());
        }
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        replace(&self.file(), &serde_json::to_vec_pretty(&kept)?)
    }
}

/// Replaces a file as a whole; only its owner may read it.
fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    // A random name, because two instances may share the directory and both be process 1 of a container.
    let new = file.with_extension(format!("{:016x}.new", fastrand::u64(..)));
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut opened| {
            opened.write_all(content)?;
            opened.sync_all()
        })
        .and_then(|()| fs::rename(&new, file));
    if written.is_err() {
        // An incomplete file on a full disk is of no use.
        let _ = fs::remove_file(&new);
    }
    written
}
