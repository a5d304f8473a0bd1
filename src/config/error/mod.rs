//! Mistakes of a configuration, in words that say where each one is and what to write instead.

mod origin;
mod problem;

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::corefile::draft::LineRefusal;
use super::corefile::syntax::SyntaxProblem;
use super::path::KeyPath;
use super::yaml::YamlProblem;

pub use origin::Origin;
pub use problem::{Missing, Problem};

/// Every mistake of a configuration; one line each.
#[derive(Debug)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// Those of the file first, by line; then those of variables, flags and defaults.
    pub(super) fn new(mut errors: Vec<ConfigError>) -> Self {
        errors.sort_by_key(ConfigError::order);
        // A table that is none may be found so by more than one of its readers.
        errors.dedup_by_key(|error| error.to_string());
        Self(errors)
    }

    /// The mistakes one by one.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.0.iter()
    }
}

impl IntoIterator for ConfigErrors {
    type Item = ConfigError;
    type IntoIter = std::vec::IntoIter<ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ConfigErrors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl std::error::Error for ConfigErrors {}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, error) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// One mistake.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// `--config` names a file that is not there.
    #[error("{}: there is no such file; check --config, or leave it out to run with the defaults", file.display())]
    NoFile {
        /// As given.
        file: PathBuf,
    },
    /// The file is there but cannot be read.
    #[error("{}: cannot be read: {source}; {}", file.display(), remedy_for(source))]
    Unreadable {
        /// As given.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds white space and comments only.
    #[error("{}: is empty; write at least `listen:` or `upstreams:`, or leave --config out to run with the defaults", file.display())]
    EmptyFile {
        /// As given.
        file: PathBuf,
    },
    /// The file is another program's.
    #[error("{}: {what}", file.display())]
    Foreign {
        /// As given.
        file: PathBuf,
        /// What it is, and what to do with it.
        what: String,
    },
    /// The file is not the YAML that is wanted.
    #[error("{}:{line}: {problem}", file.display())]
    Yaml {
        /// As given.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        problem: YamlProblem,
    },
    /// A line of a Corefile, or of what it imports.
    #[error("{}:{line}:{column}: {problem}", file.display())]
    Corefile {
        /// The Corefile as given, or what it imports.
        file: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1, in characters.
        column: usize,
        /// What is wrong.
        problem: CorefileProblem,
    },
    /// figment could not put the layers together.
    #[error("the layers of the configuration cannot be merged: {0}")]
    Layers(Box<figment::Error>),
    /// A key or its value is wrong.
    #[error("{origin}: {path}: {problem}")]
    Key {
        /// Who set it.
        origin: Origin,
        /// The key.
        path: KeyPath,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
}

impl ConfigError {
    /// Whether it is about a file that the configuration names, and that may be right where it is to run.
    pub(super) fn is_of_this_host(&self) -> bool {
        let Self::Key { problem, .. } = self else {
            return false;
        };
        matches!(
            problem,
            Problem::HostsUnreadable { .. }
                | Problem::ResolvConfUnreadable { .. }
                | Problem::ResolvConfEmpty { .. }
        )
    }

    fn order(&self) -> (u8, usize) {
        match self {
            Self::NoFile { .. }
            | Self::Unreadable { .. }
            | Self::EmptyFile { .. }
            | Self::Foreign { .. }
            | Self::Layers(_) => (0, 0),
            Self::Yaml { line, .. }
            | Self::Corefile { line, .. }
            | Self::Key {
                origin: Origin::File { line, .. },
                ..
            } => (1, *line),
            Self::Key { origin, .. } => match origin {
                Origin::Env { .. } => (2, 0),
                Origin::Flag => (3, 0),
                Origin::File { .. } | Origin::Default => (4, 0),
            },
        }
    }
}

/// What to do about a configuration file that cannot be read.
fn remedy_for(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::InvalidData => "save it as UTF-8",
        io::ErrorKind::FileTooLarge => "check that it is the right one",
        _ => "check --config and the file's permissions",
    }
}

/// What is wrong with a line of a Corefile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CorefileProblem {
    /// Words, braces, variables, imports.
    #[error(transparent)]
    Syntax(SyntaxProblem),
    /// A plugin or an option that cannot be taken.
    #[error(transparent)]
    Refused(LineRefusal),
}
