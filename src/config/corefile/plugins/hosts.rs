//! The plugin `hosts`: a file of names, names written in the Corefile, and the zones that it denies others in.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use super::{changes_answers, zones_or_all, zones_within};
use crate::config::corefile::Surroundings;
use crate::config::corefile::draft::{
    Draft,
    LineVerdict::{Differs, NoCounterpart, Taken},
};
use crate::config::corefile::server::DraftBlock;
use crate::config::corefile::syntax::Directive;
use crate::config::corefile::zones::{is_within, zone};
use crate::config::leaf::parse_name;

/// Remark about a file that CoreDNS only warns of.
const NO_FILE: &str = "there is no such file; only the names written here";

pub(super) fn hosts<'a>(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
) {
    let passes_on = read_lines(draft, server, directive);
    let file = named_file(draft, around, server, directive);
    let zones = match directive.arguments.get(1..) {
        Some(zones) if !zones.is_empty() => zones_within(server, zones),
        _ => Vec::new(),
    };
    let holds_all = |(zone, _): &(String, _)| zones.iter().any(|above| is_within(zone, above));
    let of_some = !zones.is_empty() && !server.zones.iter().all(holds_all);
    if passes_on && file.is_some() && of_some {
        draft.remark(
            directive,
            Differs,
            "records and hosts; other names are forwarded; names of the file are answered in all zones",
        );
        return;
    }
    // Without zones of its own the plugin covers those of the block.
    let partial = server.zones.iter().all(|(zone, _)| zone != ".");
    let zones = if zones.is_empty() && (partial || !server.asks_others) {
        zones_or_all(server, &[])
    } else {
        zones
    };
    if passes_on {
        draft.remark(
            directive,
            Taken,
            "records and hosts; other names are forwarded",
        );
    } else {
        deny_others(draft, server, directive, zones);
    }
}

/// The file that our configuration names. If it is not here, its names may come from elsewhere.
fn named_file<'a>(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
) -> Option<&'a str> {
    let file = directive.arguments.first().map(|word| word.text.as_str());
    let file = file.or((!has_names(directive)).then_some("/etc/hosts"))?;
    match HostsFile::of(around, directive, file) {
        HostsFile::Named => {
            draft.set(&["hosts"], file, &directive.name.place);
            return Some(file);
        }
        HostsFile::Held(text) => {
            read_held(server, directive, text);
            let note = format!(
                "records: the names that the ConfigMap has now; where they change, as those of k3s's nodes do, mount it and \
                 write hosts: {file}"
            );
            draft.remark(directive, Differs, note);
        }
        HostsFile::Absent => draft.remark(directive, Differs, NO_FILE),
    }
    None
}

/// Whether there are names with addresses in the block.
fn has_names(directive: &Directive) -> bool {
    let mut lines = directive.block.iter();
    lines.any(|line| line.name.text.parse::<IpAddr>().is_ok())
}

/// Without `fallthrough` other names of these zones do not exist.
fn deny_others(
    draft: &mut Draft,
    server: &mut DraftBlock<'_>,
    directive: &Directive,
    zones: Vec<String>,
) {
    if zones.is_empty() {
        let what =
            "hosts without fallthrough, which denies every other name of its zones,".to_owned();
        let remedy = "add fallthrough, or name the zones that it holds alone";
        return changes_answers(draft, directive, what, remedy);
    }
    for zone in zones {
        server
            .answers
            .push((zone, "NXDOMAIN".into(), directive.name.place.clone()));
    }
    draft.remark(
        directive,
        Taken,
        "records and hosts; other names of these zones do not exist",
    );
}

/// What becomes of the file of a `hosts`.
enum HostsFile<'t> {
    /// Our configuration names it.
    Named,
    /// It is not here, and a ConfigMap beside the Corefile holds this in its place.
    Held(&'t str),
    /// It is not here. CoreDNS would look for it in its own directory, and go on with the names of the block.
    Absent,
}

impl<'t> HostsFile<'t> {
    fn of(around: &Surroundings<'t>, directive: &Directive, file: &str) -> Self {
        let file = Path::new(file);
        match around.files.read_up_to(file, 0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            _ => return Self::Named,
        }
        let name = file.file_name().and_then(|name| name.to_str());
        if let Some(text) = name.and_then(|name| around.beside.get(name)) {
            return Self::Held(text);
        }
        if has_names(directive) && file.is_relative() {
            return Self::Absent;
        }
        Self::Named
    }
}

/// Takes the names of a file's text, as far as they are names.
fn read_held<'a>(server: &mut DraftBlock<'a>, directive: &'a Directive, text: &str) {
    for line in text.lines() {
        let mut words = line
            .split('#')
            .next()
            .unwrap_or_default()
            .split_whitespace();
        let address = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        let Some(address) = address else {
            continue;
        };
        let is_host =
            |word: &&str| parse_name(word).is_ok_and(|name| !name.is_wildcard() && !name.is_root());
        let names = words.filter(is_host).map(zone);
        server
            .names
            .extend(names.map(|name| (name, address, directive)));
    }
}

/// Reads the lines of the block; names with addresses go to `server`. Returns whether other names are asked of the next
/// plugin (`fallthrough`).
fn read_lines<'a>(
    draft: &mut Draft,
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
) -> bool {
    let mut passes_on = false;
    for line in &directive.block {
        match line.name.text.as_str() {
            "fallthrough" => {
                passes_on = true;
                draft.remark(line, Taken, "other names are forwarded");
            }
            "ttl" | "reload" => draft.remark(
                line,
                NoCounterpart,
                "TTL 60 s; files are read again within 2 s of a change",
            ),
            "no_reverse" => draft.remark(line, NoCounterpart, "reverse names are answered"),
            first => match first.parse::<IpAddr>() {
                Ok(address) => read_names(draft, server, line, address),
                Err(_) => draft.unexpected(
                    &line.name,
                    "an address and its names, ttl, reload, no_reverse or fallthrough",
                ),
            },
        }
    }
    passes_on
}

/// Reads the names of an address.
fn read_names<'a>(
    draft: &mut Draft,
    server: &mut DraftBlock<'a>,
    line: &'a Directive,
    address: IpAddr,
) {
    for name in &line.arguments {
        let name = zone(&name.text);
        if name.contains('*') {
            // In CoreDNS it is an ordinary name, which nobody asks for; in `records` it would be a wildcard.
            let note = format!(
                "{name} stands for no other name in hosts; records and template have wildcards"
            );
            draft.remark(line, NoCounterpart, note);
        } else {
            server.names.push((name, address, line));
        }
    }
}
