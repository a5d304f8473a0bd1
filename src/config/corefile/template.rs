//! The plugin `template`: names that are answered by what is written there.
//!
//! Translated are addresses, an alias, or a response code, for zones or for the names that a [`Pattern`] matches.
//! Answers computed from parts of the name are refused.

use std::net::IpAddr;

use figment::value::Value;

use super::draft::{Draft, LineVerdict};
use super::pattern::{MatchedNames, Pattern};
use super::plugins::{changes_answers, zones_within};
use super::server::DraftBlock;
use super::syntax::Directive;
use super::zones::{is_within, zone};
use LineVerdict::{Differs, NoCounterpart, Taken};

const REMEDY: &str = "write what it answers into routes or records";

/// How a template answers its names.
enum TemplateAnswer {
    Addresses(Vec<IpAddr>),
    Alias(String),
    Code(&'static str),
}

/// What is written in a template's block.
#[derive(Default)]
struct Body<'a> {
    answers: Vec<&'a str>,
    rcode: Option<String>,
    patterns: Vec<Pattern>,
    passes_on: bool,
}

pub(super) fn template<'a>(
    draft: &mut Draft,
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
) {
    let texts = directive.texts();
    let [class, rtype, ..] = texts.as_slice() else {
        let _ = draft.argument(directive, 1, "a class and a type, such as IN A or ANY ANY");
        return;
    };
    let rtype = rtype.to_ascii_uppercase();
    let Some(body) = read(draft, directive) else {
        return;
    };
    let zones = zones_within(server, &directive.arguments[2..]);
    let scopes = scopes(&zones, &body.patterns);
    if scopes.is_empty() {
        let note = "its expression takes no name of its zones";
        return draft.remark(directive, NoCounterpart, note);
    }
    let deep = scopes.iter().any(|(_, names)| *names == MatchedNames::Deep);
    let denies = body.rcode.as_deref() == Some("NXDOMAIN") && body.answers.is_empty();
    if deep && denies && body.passes_on {
        let note = "these names are forwarded, and the servers deny them, which know none so deep";
        return draft.remark(directive, Differs, note);
    }
    let answer = template_answer(&body, &rtype, &scopes);
    let Some(answer) = answer.filter(|_| matches!(*class, "IN" | "ANY") && !deep) else {
        let what = format!("{} with this rcode or answer", directive.shown());
        return changes_answers(draft, directive, what, REMEDY);
    };
    let (verdict, mut note) = add_answers(server, directive, &rtype, answer, &scopes);
    let mut verdict = verdict;
    if !body.patterns.is_empty() && !body.passes_on {
        verdict = Differs;
        note += "; other names of its zones are forwarded, there they fail for want of fallthrough";
    }
    draft.remark(directive, verdict, note);
}

/// The block; none if a line of it is refused.
fn read<'a>(draft: &mut Draft, directive: &'a Directive) -> Option<Body<'a>> {
    let mut body = Body::default();
    for line in &directive.block {
        match line.name.text.as_str() {
            "answer" => body.answers.extend(line.texts().first().copied()),
            "rcode" => body.rcode = line.texts().first().map(|code| code.to_ascii_uppercase()),
            "fallthrough" => body.passes_on = true,
            "authority" | "ederror" => draft.remark(line, NoCounterpart, "a SOA is made up"),
            "match" if matches!(line.texts().as_slice(), ["." | ".*" | "^.*$"]) => {}
            "match" if !line.arguments.is_empty() => {
                for word in &line.arguments {
                    let Some(pattern) = Pattern::read(&word.text) else {
                        let what = format!("template {}", line.shown());
                        changes_answers(draft, line, what, REMEDY);
                        return None;
                    };
                    body.patterns.push(pattern);
                }
            }
            _ => {
                let what = format!("template {}", line.shown());
                changes_answers(draft, line, what, REMEDY);
                return None;
            }
        }
    }
    for line in &directive.block {
        match line.name.text.as_str() {
            "fallthrough" if body.patterns.is_empty() => {
                draft.remark(line, NoCounterpart, "the zone alone decides");
            }
            "fallthrough" => draft.remark(line, Taken, "other names are forwarded"),
            "match" => draft.remark(line, Taken, "the zone whose names it takes"),
            _ => {}
        }
    }
    Some(body)
}

/// The zones whose names a template answers, and which of their names.
fn scopes(zones: &[String], patterns: &[Pattern]) -> Vec<(String, MatchedNames)> {
    if patterns.is_empty() {
        let whole = zones
            .iter()
            .map(|zone| (zone.clone(), MatchedNames::AtAndBelow));
        return whole.collect();
    }
    let mut scopes = Vec::new();
    for pattern in patterns {
        if zones.iter().any(|zone| is_within(&pattern.zone, zone)) {
            scopes.push((pattern.zone.clone(), pattern.names));
        } else {
            let below = zones.iter().filter(|zone| is_within(zone, &pattern.zone));
            scopes.extend(below.map(|zone| (zone.clone(), MatchedNames::AtAndBelow)));
        }
    }
    scopes
}

fn template_answer(
    body: &Body<'_>,
    rtype: &str,
    scopes: &[(String, MatchedNames)],
) -> Option<TemplateAnswer> {
    let code = body.rcode.as_deref().unwrap_or("NOERROR");
    if body.answers.is_empty() {
        return match (code, rtype) {
            ("NXDOMAIN", _) => Some(TemplateAnswer::Code("NXDOMAIN")),
            ("REFUSED", "ANY") => Some(TemplateAnswer::Code("REFUSED")),
            ("NOERROR", _) => Some(TemplateAnswer::Code("NODATA")),
            _ => None,
        };
    }
    let records: Vec<(&str, String)> = body
        .answers
        .iter()
        .map(|answer| record(answer, rtype, scopes))
        .collect::<Option<_>>()?;
    match (code, records.as_slice()) {
        ("NOERROR", [("CNAME", target)]) => Some(TemplateAnswer::Alias(zone(target))),
        ("NOERROR", _) => {
            let address = |(rtype, text): &(&str, String)| {
                let address: IpAddr = text.parse().ok()?;
                (address.is_ipv4() == (*rtype == "A")).then_some(address)
            };
            let addresses: Option<Vec<IpAddr>> = records.iter().map(address).collect();
            addresses.map(TemplateAnswer::Addresses)
        }
        _ => None,
    }
}

/// Type and data of `{{ .Name }} 60 IN A 10.1.40.9`.
fn record<'t>(
    answer: &str,
    rtype: &'t str,
    scopes: &[(String, MatchedNames)],
) -> Option<(&'t str, String)> {
    // One word each.
    let mut text = answer.to_owned();
    for part in [".Name", ".Class", ".Type"] {
        text = text.replace(&format!("{{{{ {part} }}}}"), &format!("{{{{{part}}}}}"));
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let [owner, .., kind, data] = words.as_slice() else {
        return None;
    };
    let is_zone = |(scope, _): &(String, MatchedNames)| zone(owner) == *scope;
    if *owner != "{{.Name}}" && !scopes.iter().any(is_zone) {
        return None;
    }
    let kind = match *kind {
        "A" => "A",
        "AAAA" => "AAAA",
        "CNAME" => "CNAME",
        "{{.Type}}" => rtype,
        _ => return None,
    };
    (!data.contains(['{', '}'])).then(|| (kind, (*data).to_owned()))
}

/// Remark about a template that becomes the `answer` of a route.
const ANSWER: &str =
    "answer on the route, with TTL 60 s; other types of its names are \"no such record\"";

/// Remark about a template that becomes `records`.
const RECORDS: &str =
    "records, with TTL 60 s, for names at any depth; other types of them are \"no such record\"";

/// Adds a template's answers to the block's routes and records; returns the remark.
fn add_answers<'a>(
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
    rtype: &str,
    answer: TemplateAnswer,
    scopes: &[(String, MatchedNames)],
) -> (LineVerdict, String) {
    let whole = rtype == "ANY";
    let verdict = if whole { Taken } else { Differs };
    match answer {
        TemplateAnswer::Addresses(addresses) => {
            let (added, note) = add_addresses(server, directive, &addresses, scopes);
            let verdict = if added == Differs { added } else { verdict };
            (verdict, note.to_owned())
        }
        TemplateAnswer::Alias(target) => {
            add_aliases(server, directive, &target, scopes);
            let note = "records: an alias, whose target is looked up by its own route";
            (Differs, note.to_owned())
        }
        TemplateAnswer::Code(code) if whole => add_code(server, directive, code, scopes),
        TemplateAnswer::Code(code) => add_filter(server, directive, rtype, code, scopes),
    }
}

/// Adds addresses: as the answer of a route if they are for all names of the zone, else as records.
fn add_addresses<'a>(
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
    addresses: &[IpAddr],
    scopes: &[(String, MatchedNames)],
) -> (LineVerdict, &'static str) {
    let literal = literal_owner(directive);
    let mut verdict = Taken;
    let mut note = if literal { RECORDS } else { ANSWER };
    for (zone, names) in scopes {
        if *names == MatchedNames::AtAndBelow && !literal {
            let shown = addresses
                .iter()
                .map(|address| Value::from(address.to_string()));
            server.answer_addresses(zone, shown.collect(), &directive.name.place);
            continue;
        }
        (verdict, note) = (Differs, RECORDS);
        let name = match names {
            MatchedNames::Below => format!("*.{zone}"),
            _ => zone.clone(),
        };
        let owned = addresses
            .iter()
            .map(|address| (name.clone(), *address, directive));
        server.names.extend(owned);
    }
    (verdict, note)
}

/// Adds an alias for the zone, for the names below it, or for both.
fn add_aliases(
    server: &mut DraftBlock<'_>,
    directive: &Directive,
    target: &str,
    scopes: &[(String, MatchedNames)],
) {
    let literal = literal_owner(directive);
    for (zone, names) in scopes {
        let mut alias = |name| {
            let place = directive.name.place.clone();
            server.aliases.push((name, target.to_owned(), place));
        };
        if *names != MatchedNames::Below {
            alias(zone.clone());
        }
        if matches!(names, MatchedNames::Below | MatchedNames::AtAndBelow) && !literal {
            alias(format!("*.{zone}"));
        }
    }
}

/// Adds a response code for all types as the answer of routes.
fn add_code(
    server: &mut DraftBlock<'_>,
    directive: &Directive,
    code: &'static str,
    scopes: &[(String, MatchedNames)],
) -> (LineVerdict, String) {
    for (zone, _) in scopes {
        let place = directive.name.place.clone();
        server.answers.push((zone.clone(), code.into(), place));
    }
    let note = match code {
        "NXDOMAIN" | "REFUSED" => format!("answer: {code} on the route"),
        _ => ANSWER.to_owned(),
    };
    let mut partial = scopes
        .iter()
        .filter(|(_, names)| *names != MatchedNames::AtAndBelow);
    match partial.next() {
        Some((zone, _)) => (
            Differs,
            format!("{note}; for all names at and below {zone}"),
        ),
        None => (Taken, note),
    }
}

/// Adds a response code for one type as a filter of routes.
fn add_filter(
    server: &mut DraftBlock<'_>,
    directive: &Directive,
    rtype: &str,
    code: &str,
    scopes: &[(String, MatchedNames)],
) -> (LineVerdict, String) {
    for (zone, _) in scopes {
        let place = directive.name.place.clone();
        server.filters.push((zone.clone(), rtype.to_owned(), place));
    }
    let note = "filter on the route: no such record";
    if code == "NXDOMAIN" {
        let note = format!("{note}; there NXDOMAIN, which denies the other types of the name, too");
        (Differs, note)
    } else {
        (Taken, note.to_owned())
    }
}

/// Whether an answer is for its zone alone, because it writes the name out.
fn literal_owner(directive: &Directive) -> bool {
    let mut answers = directive
        .block
        .iter()
        .filter(|line| line.name.text == "answer");
    answers.any(|line| {
        let text = line.texts().first().copied().unwrap_or_default();
        !text.trim_start().starts_with("{{")
    })
}
