//! The plugin `hosts`: a file of names, names written in the Corefile, and the zones that it denies others in.

use std::net::IpAddr;

use super::{changes_answers, zones_or_all, zones_within};
use crate::config::corefile::draft::{
    Draft,
    LineVerdict::{Differs, NoCounterpart, Taken},
};
use crate::config::corefile::server::DraftBlock;
use crate::config::corefile::syntax::Directive;
use crate::config::corefile::zones::{is_within, zone};

pub(super) fn hosts<'a>(draft: &mut Draft, server: &mut DraftBlock<'a>, directive: &'a Directive) {
    let Lines { inline, passes_on } = read_lines(draft, server, directive);
    let file = directive.arguments.first().map(|word| word.text.as_str());
    let file = file.or((!inline).then_some("/etc/hosts"));
    if let Some(file) = file {
        draft.set(&["hosts"], file, &directive.name.place);
    }
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
    } else if zones.is_empty() {
        let what =
            "hosts without fallthrough, which denies every other name of its zones,".to_owned();
        changes_answers(
            draft,
            directive,
            what,
            "add fallthrough, or name the zones that it holds alone",
        );
    } else {
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
}

/// What the lines of the block say.
#[derive(Default)]
struct Lines {
    /// There are names with addresses.
    inline: bool,
    /// `fallthrough`: other names are asked of the next plugin.
    passes_on: bool,
}

/// Reads the lines of the block; names with addresses go to `server`.
fn read_lines<'a>(
    draft: &mut Draft,
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
) -> Lines {
    let mut lines = Lines::default();
    for line in &directive.block {
        match line.name.text.as_str() {
            "fallthrough" => {
                lines.passes_on = true;
                draft.remark(line, Taken, "other names are forwarded");
            }
            "ttl" | "reload" => draft.remark(
                line,
                NoCounterpart,
                "TTL 60 s; files are read again within 2 s of a change",
            ),
            "no_reverse" => draft.remark(line, NoCounterpart, "reverse names are answered"),
            first => match first.parse::<IpAddr>() {
                Ok(address) => {
                    lines.inline = true;
                    read_names(draft, server, line, address);
                }
                Err(_) => draft.unexpected(
                    &line.name,
                    "an address and its names, ttl, reload, no_reverse or fallthrough",
                ),
            },
        }
    }
    lines
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
