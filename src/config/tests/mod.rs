//! Tests of the configuration, a file for each subject. A table of mistakes has a name for each, and the message that tells it.

mod addresses;
mod any_text;
mod cache;
mod defaults;
mod dns64;
mod forms;
mod groups;
mod habits;
mod node;
mod records;
mod reload;
mod routes;
mod sources;
mod values;
mod warnings;

use std::fs;
use std::path::{Path, PathBuf};

use super::Config;
use super::host::HostFacts;
use super::load::{Loaded, load_from};

pub(super) use forms::{EXAMPLE, FORMS};
pub(super) use groups::BAD_GROUPS;

/// A directory that is gone when the test ends.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("nodens-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a temporary file");
        path
    }

    /// A host with two nameservers, named node-1.
    fn host(&self) -> HostFacts {
        HostFacts {
            resolv_conf: self.file(
                "resolv.conf",
                "search a.example\nnameserver 10.0.0.2\nnameserver 10.0.0.3\n",
            ),
            hostname: self.file("hostname", "node-1\n"),
            ..HostFacts::default()
        }
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).ok();
    }
}

fn environment(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn good(text: &str) -> Config {
    Config::from_yaml(text).unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn loaded(text: &str) -> Loaded {
    load_from(Some((Path::new("nodens.yaml"), text)), [], &[])
        .unwrap_or_else(|errors| panic!("{text}\n{errors}"))
}

fn messages(text: &str) -> Vec<String> {
    match Config::from_yaml(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

/// With this on line 1 nothing depends on the host.
pub(super) const VPC: &str = "upstreams: {vpc: {servers: [10.0.0.2]}}\n";

/// A name, text below [`VPC`], and the whole message but for the file's name.
type BadCase = (&'static str, &'static str, &'static str);

/// The mistakes of all tables but [`BAD_GROUPS`].
pub(super) fn bad_keys() -> impl Iterator<Item = &'static BadCase> {
    let tables = [
        values::BAD_VALUES,
        addresses::BAD_ADDRESSES,
        node::BAD_NODES,
        routes::BAD_ROUTES,
        dns64::BAD_DNS64,
        records::BAD_RECORDS,
        cache::BAD_CACHES,
    ];
    tables.into_iter().flatten()
}

/// Each of these is one mistake, with this message.
fn expect_messages(cases: &[BadCase]) {
    for (name, text, expected) in cases {
        let found = messages(&format!("{VPC}{text}\n"));
        assert_eq!(found.len(), 1, "{name}: {found:#?}");
        let place = if expected.starts_with(|c: char| c.is_ascii_digit()) {
            "nodens.yaml:"
        } else {
            ""
        };
        let expected = format!("{place}{expected}");
        // Long tails of other crates' messages are left out of the table.
        let whole = !(expected.ends_with(' ')
            || expected.ends_with("text")
            || expected.ends_with("records."));
        let matches = if whole {
            found[0].ends_with(&expected)
        } else {
            found[0].contains(&expected)
        };
        assert!(
            matches,
            "{name}:\n  found    {}\n  expected {expected}",
            found[0]
        );
    }
}
