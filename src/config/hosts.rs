//! `hosts`: files of addresses and names as in hosts(5), read with the configuration and whenever they change.
//!
//! A wrong line is left out with a warning and never invalidates the file, which is often written by other programs.
//!
//! Limits: a name has at most [`limits::MAX_HOST_ADDRESSES`] addresses; a file, [`limits::MAX_HOSTS_FILE`] bytes.

use std::collections::{BTreeMap, BTreeSet};

use std::net::IpAddr;
use std::path::PathBuf;

use hickory_proto::rr::Name;

use super::error::Problem;
use super::files::Files;
use super::leaf::{Leaf, Size, parse_name, show_list, show_text};
use super::read::{Report, Section, list_items};
use super::shape::Shape;
use super::{HostsConfig, StaticRecords, limits};

/// More warnings about one file would hide the others.
const WARNINGS_SHOWN: usize = 10;

/// Words of a file are shown up to this length.
const WORD_SHOWN: usize = 60;

/// What the files say so far.
#[derive(Default)]
struct Hosts {
    names: BTreeMap<Name, StaticRecords>,
    seen: BTreeSet<(Name, IpAddr)>,
    reverse: BTreeMap<IpAddr, Name>,
}

/// Reads `hosts` and the files it names.
pub(super) fn read(top: &Section<'_>, report: &Report<'_>) -> HostsConfig {
    let (mut files, mut hosts) = (Vec::new(), Hosts::default());
    top.note("hosts", || {
        let shape = Shape::list(PathBuf::schema(None))
            .counting(0, limits::MAX_HOSTS_FILES)
            .unique();
        shape.with_default(Vec::<String>::new())
    });
    if let Some(value) = top.value("hosts") {
        let items = list_items(&top.path("hosts"), value);
        for (path, item) in &items {
            let Some(file) = report.leaf::<PathBuf>(path, item) else {
                continue;
            };
            if files.contains(&file) {
                let (value, first) = (file.show(), String::new());
                report.error_at(path, item, Problem::Twice { value, first });
                continue;
            }
            match read_file(report.files(), &file) {
                Ok(text) => hosts.add(&file, &text, report),
                Err(problem) => report.error_at(path, item, problem),
            }
            files.push(file);
        }
        let (count, limit) = (items.len(), limits::MAX_HOSTS_FILES);
        if count > limit {
            top.error("hosts", Problem::TooMany { count, limit });
        }
    }
    top.setting("hosts", show_list(files.iter().map(Leaf::show)));
    HostsConfig {
        files,
        names: hosts.names.into_values().collect(),
        reverse: hosts.reverse.into_iter().collect(),
    }
}

fn read_file(files: &Files, file: &PathBuf) -> Result<String, Problem> {
    let unreadable = |source| Problem::HostsUnreadable {
        file: file.show(),
        source,
    };
    let most = limits::MAX_HOSTS_FILE;
    // One byte more tells whether there are more.
    let bytes = files.read_up_to(file, most + 1).map_err(unreadable)?;
    if bytes.len() as u64 > most {
        let value = format!("the size of {}", file.show());
        let limit = Size(most).show();
        return Err(Problem::OverLimit { value, limit });
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

impl Hosts {
    fn add(&mut self, file: &PathBuf, text: &str, report: &Report<'_>) {
        let mut warnings = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let place = format!("hosts: {}:{number}", file.show());
            self.add_line(line, |what| warnings.push(format!("{place}: {what}")));
        }
        let more = warnings.len().saturating_sub(WARNINGS_SHOWN);
        for warning in warnings.drain(..).take(WARNINGS_SHOWN) {
            report.warn(warning);
        }
        if more > 0 {
            let file = file.show();
            report.warn(format!("hosts: {file}: {more} further warnings"));
        }
    }

    fn add_line(&mut self, line: &str, mut warn: impl FnMut(String)) {
        // Some editors begin a file with a byte order mark.
        let line = line.trim_start_matches('\u{feff}');
        let content = line.split('#').next().unwrap_or_default();
        let mut words = content.split_whitespace();
        let Some(word) = words.next() else {
            return;
        };
        let Ok(address) = word.parse::<IpAddr>() else {
            let word = shown(word);
            return warn(format!(
                "{word} is not an address such as 10.0.0.1 or fd00::1; the line is left out"
            ));
        };
        let mut names = words.peekable();
        if names.peek().is_none() {
            return warn("there is no name after the address; the line is left out".to_owned());
        }
        for word in names {
            match parse_name(word) {
                Ok(name) if name.is_wildcard() => {
                    let word = shown(word);
                    warn(format!(
                        "{word}: a wildcard goes into `records`; it is left out"
                    ));
                }
                Ok(name) if name.is_root() => {
                    warn("the root is no host; it is left out".to_owned());
                }
                Ok(name) => {
                    // As gethostbyaddr has it: the first name of the first line.
                    self.reverse.entry(address).or_insert_with(|| name.clone());
                    self.add_address(name, address, &mut warn);
                }
                Err(_) => {
                    let word = shown(word);
                    warn(format!("{word} is not a domain name; it is left out"));
                }
            }
        }
    }

    fn add_address(&mut self, name: Name, address: IpAddr, warn: &mut impl FnMut(String)) {
        if !self.seen.insert((name.clone(), address)) {
            return;
        }
        let entry = self
            .names
            .entry(name)
            .or_insert_with_key(|name| StaticRecords {
                name: name.clone(),
                a: Vec::new(),
                aaaa: Vec::new(),
                cname: None,
                txt: Vec::new(),
            });
        let limit = limits::MAX_HOST_ADDRESSES;
        if entry.a.len() + entry.aaaa.len() == limit {
            return warn(format!(
                "{} has more than {limit} addresses; this one is left out",
                entry.name
            ));
        }
        match address {
            IpAddr::V4(address) => entry.a.push(address),
            IpAddr::V6(address) => entry.aaaa.push(address),
        }
    }
}

/// A word of a file, on one line and not too long.
fn shown(word: &str) -> String {
    show_text(&word.chars().take(WORD_SHOWN).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lines say of names, and what is wrong with them.
    fn read(lines: &[&str]) -> (Hosts, Vec<String>) {
        let (mut hosts, mut warnings) = (Hosts::default(), Vec::new());
        for line in lines {
            hosts.add_line(line, |what| warnings.push(what));
        }
        (hosts, warnings)
    }

    #[test]
    fn lines_are_as_in_hosts_5() {
        let (hosts, warnings) = read(&[
            "\u{feff}# a comment",
            "",
            "\t10.0.0.7  Cache.Example  cache  # the cache",
            "fd00::7 cache",
            "10.0.0.8 cache.example.",
            "10.0.0.7 cache.example second",
            "0.0.0.0 ads.example",
        ]);
        assert!(warnings.is_empty(), "{warnings:?}");
        let of = |name: &str| {
            let records = &hosts.names[&Name::from_ascii(name).expect("a name")];
            (records.a.len(), records.aaaa.len())
        };
        assert_eq!(of("cache.example."), (2, 0));
        assert_eq!(of("cache."), (1, 1));
        assert_eq!(of("second."), (1, 0));
        let first = &hosts.reverse[&"10.0.0.7".parse::<IpAddr>().expect("an address")];
        assert_eq!(first.to_ascii(), "cache.example.");
    }

    #[test]
    fn what_is_wrong_costs_itself_only() {
        let (hosts, warnings) = read(&[
            "cache.example 10.0.0.7",
            "10.0.0.300 a",
            "fe80::1%lo0 b",
            "10.0.0.1",
            "10.0.0.2 good a..b *.c . better",
            "\u{7} d",
        ]);
        let good: Vec<_> = hosts.names.keys().map(Name::to_ascii).collect();
        assert_eq!(good, ["better.", "good."]);
        assert_eq!(
            warnings,
            [
                "cache.example is not an address such as 10.0.0.1 or fd00::1; the line is left out",
                "10.0.0.300 is not an address such as 10.0.0.1 or fd00::1; the line is left out",
                "fe80::1%lo0 is not an address such as 10.0.0.1 or fd00::1; the line is left out",
                "there is no name after the address; the line is left out",
                "a..b is not a domain name; it is left out",
                "*.c: a wildcard goes into `records`; it is left out",
                "the root is no host; it is left out",
                "\"\\u{7}\" is not an address such as 10.0.0.1 or fd00::1; the line is left out",
            ]
        );
    }

    #[test]
    fn a_name_has_no_more_addresses_than_fit_a_reply() {
        let lines: Vec<String> = (0..=limits::MAX_HOST_ADDRESSES)
            .map(|n| format!("10.0.{}.{} many", n / 256, n % 256))
            .collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (_, warnings) = read(&lines);
        assert_eq!(
            warnings,
            ["many. has more than 1000 addresses; this one is left out"]
        );
    }
}
