//! Every plugin but `forward`: the keys that replace it, and the remark about each of its lines.

mod addresses;
mod cache;
mod hosts;
mod untranslated;

use figment::value::Value;

use super::draft::{
    Draft, LineRefusal,
    LineVerdict::{Differs, NoCounterpart, Taken},
};
use super::server::{AclPlugin, DraftBlock, KubernetesPlugin};
use super::syntax::{Directive, Word};
use super::zones::{is_within, zones as zones_of};
use super::{Surroundings, rewrite, template};
use crate::config::spelling::nearest;
use addresses::{HEALTH, PROMETHEUS, READY, bind, observed};
use cache::cache;
use hosts::hosts;
use untranslated::{REFUSED, WITHOUT};

/// Plugins that have a translation of their own.
const TRANSLATED: [&str; 15] = [
    "acl",
    "bind",
    "cache",
    "dns64",
    "forward",
    "health",
    "hosts",
    "kubernetes",
    "loadbalance",
    "log",
    "prometheus",
    "proxy",
    "ready",
    "rewrite",
    "template",
];

/// Whether a word is the name of such a plugin, and so hardly a zone.
pub(super) fn is_translated(word: &str) -> bool {
    TRANSLATED.contains(&word)
}

/// Reads a plugin's lines.
pub(super) fn read<'a>(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    server: &mut DraftBlock<'a>,
    directive: &'a Directive,
) {
    let name = directive.name.text.as_str();
    match name {
        "kubernetes" => kubernetes(draft, server, directive),
        "cache" => cache(draft, server, directive),
        "bind" => bind(draft, around, server, directive),
        "hosts" => hosts(draft, around, server, directive),
        "log" => log(draft, directive),
        "prometheus" => observed(draft, around, directive, PROMETHEUS),
        "health" => observed(draft, around, directive, HEALTH),
        "ready" => observed(draft, around, directive, READY),
        "template" => template::template(draft, server, directive),
        "rewrite" => rewrite::rewrite(draft, server, directive),
        "acl" => acl(draft, server, directive),
        "dns64" => dns64(draft, server, directive),
        "loadbalance" => loadbalance(draft, server, directive),
        "local" => {
            draft.set(&["private_zones"], "NXDOMAIN", &directive.name.place);
            without(draft, directive);
        }
        _ if WITHOUT.iter().any(|(known, ..)| *known == name) => without(draft, directive),
        _ if REFUSED.contains(&name) => changes_answers(
            draft,
            directive,
            format!("the plugin {name}"),
            "leave the CoreDNS that has it as it is, and route its zones to it",
        ),
        _ => {
            let known = TRANSLATED
                .into_iter()
                .chain(REFUSED)
                .chain(WITHOUT.map(|(known, ..)| known));
            let known: Vec<String> = known.map(str::to_owned).collect();
            let refusal = LineRefusal::NoPlugin {
                name: name.to_owned(),
                meant: nearest(name, &known),
            };
            draft.refuse(&directive.name.place, refusal);
        }
    }
}

fn without(draft: &mut Draft, directive: &Directive) {
    if let Some((_, verdict, note)) = WITHOUT
        .iter()
        .find(|(known, ..)| *known == directive.name.text)
    {
        for line in std::iter::once(directive).chain(&directive.block) {
            draft.remark(line, *verdict, *note);
        }
    }
}

pub(super) fn changes_answers(
    draft: &mut Draft,
    directive: &Directive,
    what: String,
    remedy: &'static str,
) {
    draft.refuse(
        &directive.name.place,
        LineRefusal::ChangesAnswers { what, remedy },
    );
}

fn no_option(draft: &mut Draft, plugin: &'static str, option: &Directive) {
    let place = &option.name.place;
    let option = option.name.text.clone();
    draft.refuse(place, LineRefusal::NoOption { plugin, option });
}

/// The zones that the arguments name; without arguments, those of the block.
fn zones_or_all(server: &DraftBlock<'_>, arguments: &[Word]) -> Vec<String> {
    if arguments.is_empty() {
        return server.zones.iter().map(|(zone, _)| zone.clone()).collect();
    }
    arguments
        .iter()
        .flat_map(|word| zones_of(&word.text))
        .collect()
}

/// The same zones as far as they are within the block's: CoreDNS asks the block's plugins for no other names.
pub(super) fn zones_within(server: &DraftBlock<'_>, arguments: &[Word]) -> Vec<String> {
    let block = zones_or_all(server, &[]);
    let clipped = |zone: String| {
        if block.iter().any(|above| is_within(&zone, above)) {
            return vec![zone];
        }
        let below = block.iter().filter(|below| is_within(below, &zone));
        below.cloned().collect()
    };
    zones_or_all(server, arguments)
        .into_iter()
        .flat_map(clipped)
        .collect()
}

fn kubernetes<'a>(draft: &mut Draft, server: &mut DraftBlock<'a>, directive: &'a Directive) {
    let zones = zones_or_all(server, &directive.arguments);
    let mut passes_on = Vec::new();
    for option in &directive.block {
        match option.name.text.as_str() {
            "fallthrough" => {
                let all = option.arguments.is_empty();
                passes_on = if all {
                    zones.clone()
                } else {
                    zones_or_all(server, &option.arguments)
                };
                draft.remark(option, Taken, "names that kube-dns does not know are its own to pass on; of reverse zones see above");
            }
            "pods"
            | "ttl"
            | "endpoint"
            | "tls"
            | "kubeconfig"
            | "namespaces"
            | "namespace_labels"
            | "labels"
            | "endpoint_pod_names"
            | "noendpoints"
            | "ignore"
            | "multicluster"
            | "startup_timeout"
            | "upstream"
            | "transfer"
            | "resyncperiod"
            | "apiserver_qps"
            | "apiserver_burst"
            | "apiserver_max_inflight"
            | "zonal" => {
                draft.remark(
                    option,
                    Taken,
                    "as kube-dns itself is set; it is asked, not replaced",
                );
            }
            _ => no_option(draft, "kubernetes", option),
        }
    }
    server.kubernetes = Some(KubernetesPlugin {
        directive,
        zones,
        passes_on,
    });
}

fn loadbalance(draft: &mut Draft, server: &mut DraftBlock<'_>, directive: &Directive) {
    server.balances = true;
    let note = "cache.rotate: A and AAAA records turn";
    if directive.texts().first() == Some(&"weighted") {
        draft.remark(
            directive,
            Differs,
            format!("{note}, each as often; weights are not counted"),
        );
    } else {
        draft.remark(directive, Taken, note);
    }
    for option in &directive.block {
        draft.remark(
            option,
            NoCounterpart,
            "the order of records does not depend on what they hold",
        );
    }
}

fn log(draft: &mut Draft, directive: &Directive) {
    let classes = directive
        .block
        .iter()
        .filter(|line| line.name.text == "class");
    let classes: Vec<&str> = classes.flat_map(Directive::texts).collect();
    let only_errors = !classes.is_empty() && classes.iter().all(|class| *class == "error");
    let level = if only_errors { "errors" } else { "all" };
    draft.set(&["log", "queries"], level, &directive.name.place);
    let note = format!("log.queries: {level}, for all zones, in a format of its own");
    draft.remark(directive, Differs, note);
}

fn acl<'a>(draft: &mut Draft, server: &mut DraftBlock<'a>, directive: &'a Directive) {
    const REMEDY: &str = "allow holds the networks whose clients are answered; others get REFUSED";
    // For whole zones, for all clients.
    if let ([_, ..], [line]) = (&*directive.arguments, &*directive.block)
        && line.arguments.is_empty()
        && let Some(answer) = match line.name.text.as_str() {
            "block" => Some("REFUSED"),
            "filter" => Some("NODATA"),
            _ => None,
        }
    {
        let place = &directive.name.place;
        for zone in zones_within(server, &directive.arguments) {
            server.answers.push((zone, answer.into(), place.clone()));
        }
        let note = format!("answer: {answer} on routes of these zones");
        return draft.remark(directive, Taken, note);
    }
    let mut networks: Vec<Value> = Vec::new();
    for line in &directive.block {
        let texts = line.texts();
        match (line.name.text.as_str(), texts.as_slice()) {
            ("allow", ["net", nets @ ..]) if !nets.is_empty() => networks.extend(
                nets.iter()
                    .map(|net| Value::from(if *net == "*" { "all" } else { net })),
            ),
            ("block", [] | ["net", "*" | "0.0.0.0/0" | "::/0"]) => {}
            _ => return changes_answers(draft, line, format!("acl {}", line.shown()), REMEDY),
        }
    }
    if networks.is_empty() {
        return changes_answers(draft, directive, "acl without allow".to_owned(), REMEDY);
    }
    let zones = zones_or_all(server, &directive.arguments);
    let all = |(zone, _): &(String, _)| zones.iter().any(|above| is_within(zone, above));
    let whole = server.zones.iter().all(all);
    draft.set(&["allow"], networks.clone(), &directive.name.place);
    server.acl = Some(AclPlugin {
        directive,
        whole,
        networks,
    });
}

fn dns64(draft: &mut Draft, server: &mut DraftBlock<'_>, directive: &Directive) {
    let mut prefix = directive.texts().first().map(|text| (*text).to_owned());
    for option in &directive.block {
        match option.name.text.as_str() {
            "prefix" => prefix = option.texts().first().map(|text| (*text).to_owned()),
            "allow_ipv4" => draft.remark(option, Taken, "clients over IPv4 get these answers too"),
            "translate_all" => {
                let what = "dns64 translate_all".to_owned();
                changes_answers(draft, option, what, "addresses that exist are passed on");
            }
            _ => no_option(draft, "dns64", option),
        }
    }
    server.dns64 = Some(prefix.unwrap_or_else(|| "64:ff9b::/96".to_owned()));
    draft.remark(
        directive,
        Differs,
        "dns64 on the routes, for clients over IPv4 too",
    );
}
