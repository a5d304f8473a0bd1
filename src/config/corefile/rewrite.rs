//! The plugin `rewrite`: names that are asked for under others.

use super::draft::{Draft, LineVerdict};
use super::pattern::{MatchedNames, Pattern};
use super::plugins::changes_answers;
use super::server::DraftBlock;
use super::syntax::Directive;
use super::zones::{is_within, zone};
use LineVerdict::{Differs, Taken};

const REMEDY: &str = "names, suffixes and patterns such as (.*)\\.dev\\.example are rewritten here: see rewrite in the routes";

pub(super) fn rewrite(draft: &mut Draft, server: &mut DraftBlock<'_>, directive: &Directive) {
    let texts = directive.texts();
    let mut words = texts.as_slice();
    if let ["stop" | "continue", rest @ ..] = words {
        words = rest;
    }
    // In braces: one rule for the question, the others for the answer.
    if let ([], [rule, rest @ ..]) = (words, directive.block.as_slice())
        && rest.iter().all(|line| line.name.text == "answer")
    {
        for line in rest {
            draft.remark(line, Taken, "names of the answer are always put back");
        }
        return rewrite(draft, server, &rule.under("rewrite"));
    }
    let (from, to, exact) = match words {
        ["name", "regex", from, to, ..] => return by_pattern(draft, server, directive, (from, to)),
        ["name", "suffix", from, to, ..] => (from, to, false),
        ["name", "exact", from, to, ..] | ["name", from, to] => (from, to, true),
        _ => return changes_answers(draft, directive, directive.shown(), REMEDY),
    };
    let (from, to) = (trimmed(from), trimmed(to));
    let note = if exact {
        "a route with rewrite; names below it too"
    } else {
        "a route with rewrite; names of the answer are always put back"
    };
    route(draft, server, directive, (from, to), note);
}

/// A suffix may be written with the dot in front of it.
fn trimmed(text: &str) -> String {
    zone(text.strip_prefix('.').unwrap_or(text))
}

fn route(
    draft: &mut Draft,
    server: &mut DraftBlock<'_>,
    directive: &Directive,
    (from, to): (String, String),
    note: &str,
) {
    if is_within(&from, &to) || is_within(&to, &from) {
        return changes_answers(draft, directive, directive.shown(), REMEDY);
    }
    server
        .rewrites
        .push((from, to, directive.name.place.clone()));
    draft.remark(directive, Differs, note);
}

/// A suffix, written as an expression, or all names below one that become a single other name.
fn by_pattern(
    draft: &mut Draft,
    server: &mut DraftBlock<'_>,
    directive: &Directive,
    (from, to): (&str, &str),
) {
    let refuse = |draft: &mut Draft| changes_answers(draft, directive, directive.shown(), REMEDY);
    let Some(pattern) = Pattern::read(from) else {
        return refuse(draft);
    };
    let suffix = to.strip_prefix("{1}.").filter(|_| pattern.captured);
    if suffix.unwrap_or(to).contains(['{', '}']) {
        return refuse(draft);
    }
    let place = &directive.name.place;
    match (pattern.names, suffix) {
        (MatchedNames::Below, Some(suffix)) => {
            let note = "a route with rewrite, for the name itself and all below it; names of the answer are always put back";
            route(draft, server, directive, (pattern.zone, zone(suffix)), note);
        }
        (MatchedNames::At, None) => {
            let note = "a route with rewrite; names below it too";
            route(draft, server, directive, (pattern.zone, zone(to)), note);
        }
        (MatchedNames::Below | MatchedNames::AtAndBelow, None) => {
            let mut alias = |name| server.aliases.push((name, zone(to), place.clone()));
            if pattern.names == MatchedNames::AtAndBelow {
                alias(pattern.zone.clone());
            }
            alias(format!("*.{}", pattern.zone));
            let note = "records: an alias, whose target is looked up by its own route; the answer shows both names";
            draft.remark(directive, Differs, note);
        }
        _ => refuse(draft),
    }
}
