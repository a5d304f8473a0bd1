//! Every plugin but `forward`: what it becomes, or what is to be said of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use figment::value::Value;

use super::draft::{Draft, Refusal, Verdict, duration, seconds};
use super::forward::duration_ms;
use super::server::{Acl, Cache, CacheKind, Kubernetes, Server};
use super::syntax::Directive;
use super::zones::{is_within, zone, zones as zones_of};
use super::{Surroundings, rewrite, template};
use crate::config::spelling::nearest;
use Verdict::{Differs, NoCounterpart, Taken};

/// Plugins that answers do not depend on here, and what follows from their absence.
const WITHOUT: [(&str, Verdict, &str); 23] = [
    (
        "errors",
        Taken,
        "always on: servers that fail are warned of, and log.queries: errors shows each query",
    ),
    (
        "loop",
        Taken,
        "always on: checked every 30 s, and the server is left out instead of the process ending",
    ),
    (
        "reload",
        Taken,
        "always on: once a second, and nothing is forgotten",
    ),
    ("bufsize", NoCounterpart, "always 1,232 octets upstream"),
    (
        "minimal",
        NoCounterpart,
        "records beside the answer are passed on",
    ),
    ("any", NoCounterpart, "questions for ANY are forwarded"),
    (
        "autopath",
        NoCounterpart,
        "each name of a pod's search list is a query of its own, most of them hits",
    ),
    ("cancel", NoCounterpart, "deadline (4 s) bounds a query"),
    ("chaos", Taken, "version.server and id.server are answered"),
    ("debug", NoCounterpart, "a panic ends its query alone"),
    (
        "trace",
        NoCounterpart,
        "no traces; metrics and the query log show where time goes",
    ),
    (
        "dnstap",
        NoCounterpart,
        "no dnstap; log.queries logs queries",
    ),
    ("pprof", NoCounterpart, "no profiles of a Go process"),
    ("nsid", Taken, "node_name is sent as NSID"),
    (
        "local",
        Differs,
        "private_zones: NXDOMAIN answers those reverse zones; localhost is always answered",
    ),
    ("metadata", NoCounterpart, "other plugins read it"),
    ("geoip", NoCounterpart, "other plugins read it"),
    ("multisocket", Taken, "workers: a socket for each"),
    ("timeouts", NoCounterpart, "tcp.idle_timeout is 10 s"),
    ("root", NoCounterpart, "paths are taken as they are"),
    ("deprecated", NoCounterpart, "it does nothing"),
    ("on", NoCounterpart, "no commands are run"),
    (
        "shed",
        NoCounterpart,
        "limits: what is in flight is bounded, and over it clients hear SERVFAIL",
    ),
];

/// Plugins that answer from data of their own, or change messages.
const REFUSED: [&str; 31] = [
    "auto",
    "azure",
    "clouddns",
    "dnssec",
    "dynupdate",
    "erratic",
    "etcd",
    "file",
    "grpc",
    "grpc_server",
    "header",
    "https",
    "https3",
    "k8s_external",
    "nomad",
    "proxyproto",
    "quic",
    "route53",
    "secondary",
    "sign",
    "siit",
    "tls",
    "transfer",
    "tsig",
    "view",
    "whoami",
    "records",
    "alias",
    "mysql",
    "redis",
    "unbound",
];

/// Where these plugins listen unless they say otherwise.
const PROMETHEUS: &str = "localhost:9153";
const HEALTH: &str = ":8080";
const READY: &str = ":8181";

/// Those that are translated one by one.
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

/// Whether a word is a plugin that is translated, and hardly a zone.
pub(super) fn is_translated(word: &str) -> bool {
    TRANSLATED.contains(&word)
}

/// Reads a plugin's lines.
pub(super) fn read<'a>(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    server: &mut Server<'a>,
    directive: &'a Directive,
) {
    let name = directive.name.text.as_str();
    match name {
        "kubernetes" => kubernetes(draft, server, directive),
        "cache" => cache(draft, server, directive),
        "bind" => bind(draft, around, server, directive),
        "hosts" => hosts(draft, server, directive),
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
            let refusal = Refusal::NoPlugin {
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
        Refusal::ChangesAnswers { what, remedy },
    );
}

fn no_option(draft: &mut Draft, plugin: &'static str, option: &Directive) {
    let place = &option.name.place;
    let option = option.name.text.clone();
    draft.refuse(place, Refusal::NoOption { plugin, option });
}

/// The zones that arguments name, or those of the block.
fn zones_or_all(server: &Server<'_>, arguments: &[super::syntax::Word]) -> Vec<String> {
    if arguments.is_empty() {
        return server.zones.iter().map(|(zone, _)| zone.clone()).collect();
    }
    arguments
        .iter()
        .flat_map(|word| zones_of(&word.text))
        .collect()
}

/// The same, of the block's names alone: a plugin that answers is asked for no others.
pub(super) fn zones_within(server: &Server<'_>, arguments: &[super::syntax::Word]) -> Vec<String> {
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

fn kubernetes<'a>(draft: &mut Draft, server: &mut Server<'a>, directive: &'a Directive) {
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
    server.kubernetes = Some(Kubernetes {
        directive,
        zones,
        passes_on,
    });
}

fn cache(draft: &mut Draft, server: &mut Server<'_>, directive: &Directive) {
    let mut arguments = &directive.arguments[..];
    let mut most = None;
    if let Some((first, rest)) = arguments.split_first()
        && let Ok(ttl) = first.text.parse::<u64>()
    {
        most = Some(ttl);
        arguments = rest;
    }
    let zones = arguments
        .iter()
        .flat_map(|word| zones_of(&word.text))
        .collect();
    let mut read = CacheOptions {
        positive: most.unwrap_or(3_600),
        negative: most.unwrap_or(1_800),
        ..CacheOptions::default()
    };
    for option in &directive.block {
        read.option(draft, option);
    }
    let (positive, negative) = (read.positive, read.negative);
    let mut options = vec![
        ("max_ttl", seconds(positive)),
        ("max_negative_ttl", seconds(negative)),
    ];
    options.extend(read.least.map(|least| ("min_ttl", seconds(least))));
    let mut note =
        format!("cache.max_ttl: {positive}s and max_negative_ttl: {negative}s on the routes");
    if let Some(word) = arguments
        .iter()
        .find(|word| duration_ms(&word.text).is_some())
    {
        note = format!(
            "{note}; {} is taken as a zone, there too: a TTL has no unit",
            word.text
        );
    }
    if read.least.is_none() {
        note += "; TTLs under 5 s are kept as they are, there for 5 s";
    }
    if read.stale.is_empty() {
        note += "; stale answers are served in an outage, for a day: cache.stale.max_age: 0s turns that off";
    }
    draft.remark(directive, Differs, note);
    server.cache = Some(Cache {
        zones,
        options,
        stale: read.stale,
        disabled: read.disabled,
    });
}

#[derive(Default)]
struct CacheOptions {
    positive: u64,
    negative: u64,
    least: Option<u64>,
    stale: Vec<(&'static str, Value)>,
    disabled: Vec<(CacheKind, Vec<String>)>,
}

impl CacheOptions {
    fn option(&mut self, draft: &mut Draft, option: &Directive) {
        let place = &option.name.place;
        let texts = option.texts();
        match option.name.text.as_str() {
            kind @ ("success" | "denial") => {
                let ttl = texts.get(1).and_then(|text| text.parse().ok());
                let least = texts.get(2).and_then(|text| text.parse().ok());
                if kind == "success" {
                    self.positive = ttl.unwrap_or(self.positive);
                    self.least = least.or(self.least);
                } else {
                    self.negative = ttl.unwrap_or(self.negative);
                }
                draft.remark(
                    option,
                    Differs,
                    "the size is bounded in bytes: cache.max_size, 64MiB for all",
                );
            }
            "prefetch" => {
                if let Some(hits) = draft.parsed::<u64>(option, 0, "a number of queries") {
                    draft.set(&["cache", "prefetch", "hits"], hits.min(255), place);
                }
                let percent = texts
                    .iter()
                    .find_map(|text| text.strip_suffix('%')?.parse::<u64>().ok());
                if let Some(percent) = percent {
                    draft.set(&["cache", "prefetch", "percent"], percent, place);
                }
                draft.remark(
                    option,
                    Differs,
                    "cache.prefetch, for all zones; hits count over the life of an entry",
                );
            }
            "serve_stale" => self.stale(draft, option),
            "servfail" => {
                if let Some(time) = texts.first().and_then(|text| duration_ms(text)) {
                    let time = seconds((time / 1_000).clamp(1, 300));
                    draft.set(&["cache", "failure_max"], time.clone(), place);
                    draft.set(&["cache", "failure_min"], time, place);
                }
                draft.remark(
                    option,
                    Differs,
                    "cache.failure_min and failure_max, for all zones, from 1 s to 5 m",
                );
            }
            "disable" => self.disable(draft, option),
            "keepttl" => draft.remark(option, NoCounterpart, "clients see TTLs go down"),
            "serve_stale_policy" => draft.remark(
                option,
                NoCounterpart,
                "stale_on of a route keeps answers that a server denies",
            ),
            _ => no_option(draft, "cache", option),
        }
    }

    fn disable(&mut self, draft: &mut Draft, option: &Directive) {
        let kind = match option.texts().first() {
            Some(&"success") => CacheKind::Success,
            Some(&"denial") => CacheKind::Denial,
            Some(_) => return draft.unexpected(&option.arguments[0], "success or denial"),
            None => {
                let _ = draft.argument(option, 0, "success or denial");
                return;
            }
        };
        let zones = option.arguments[1..].iter();
        let zones = zones.flat_map(|word| zones_of(&word.text)).collect();
        self.disabled.push((kind, zones));
        draft.remark(
            option,
            Taken,
            "max_ttl or max_negative_ttl: 0s; both: cache: off",
        );
    }

    fn stale(&mut self, draft: &mut Draft, option: &Directive) {
        let texts = option.texts();
        let age = texts
            .first()
            .and_then(|text| duration_ms(text))
            .unwrap_or(3_600_000);
        let verify = texts.contains(&"verify");
        self.stale = vec![
            ("max_age", seconds(age / 1_000)),
            ("after", if verify { "500ms".into() } else { "0s".into() }),
        ];
        draft.remark(
            option,
            Differs,
            "cache.stale of the routes; the TTL of stale answers is 30 s, there 0",
        );
    }
}

fn bind(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    server: &mut Server<'_>,
    directive: &Directive,
) {
    let mut taken = Vec::new();
    for word in &directive.arguments {
        if word.text == super::KUBE_DNS_PLACEHOLDER {
            draft.remark(directive, Differs, "the address of kube-dns is not bound: kube-dns is asked there. The chart's mode nodeLocal does it");
        } else if word.text == "lo" {
            server.bind.push(Ipv4Addr::LOCALHOST.into());
            if around.ipv6 {
                server.bind.push(Ipv6Addr::LOCALHOST.into());
            }
            draft.remark(
                directive,
                Differs,
                "listen: the loopback addresses; others that lo has must be written out",
            );
        } else if let Ok(address) = word.text.parse::<IpAddr>() {
            if Some(address) == around.cluster_dns {
                let what = format!("listening at {address}, where kube-dns is asked,");
                changes_answers(
                    draft,
                    directive,
                    what,
                    "say another address of kube-dns by --cluster-dns, such as that of the Service kube-dns-upstream",
                );
                continue;
            }
            server.bind.push(address);
            taken.push(address.to_string());
        } else {
            draft.unexpected(word, "an IP address (of an interface, write its address)");
        }
    }
    if !directive.block.is_empty() {
        changes_answers(
            draft,
            directive,
            "bind except".to_owned(),
            "write the addresses to listen at",
        );
    }
    if !taken.is_empty() {
        draft.remark(
            directive,
            Taken,
            "listen; all zones are answered at all addresses",
        );
    }
}

fn loadbalance(draft: &mut Draft, server: &mut Server<'_>, directive: &Directive) {
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

fn hosts<'a>(draft: &mut Draft, server: &mut Server<'a>, directive: &'a Directive) {
    let (mut inline, mut passes_on) = (false, false);
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
                Ok(address) => {
                    inline = true;
                    for name in &line.arguments {
                        let name = zone(&name.text);
                        if name.contains('*') {
                            // There it is a name like others, which nobody asks for; in `records` it would be a wildcard.
                            let note = format!(
                                "{name} stands for no other name in hosts; records and template have wildcards"
                            );
                            draft.remark(line, NoCounterpart, note);
                        } else {
                            server.names.push((name, address, line));
                        }
                    }
                }
                Err(_) => draft.unexpected(
                    &line.name,
                    "an address and its names, ttl, reload, no_reverse or fallthrough",
                ),
            },
        }
    }
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
    // Without zones of its own it holds those of the block.
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

/// `health`, `ready` and `prometheus`: each has an address, where /health, /ready and /metrics are all served.
fn observed(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    directive: &Directive,
    default: &'static str,
) {
    for option in &directive.block {
        match (default, option.name.text.as_str()) {
            (HEALTH, "lameduck") => {
                let time = option.texts().first().and_then(|text| duration_ms(text));
                if let Some(time) = time {
                    let place = &option.name.place;
                    draft.set(&["shutdown_grace"], duration(time), place);
                }
                let note = "shutdown_grace: what is in flight is answered, and then it ends";
                draft.remark(option, Differs, note);
            }
            (PROMETHEUS, "runtime_metrics") => {
                draft.remark(option, NoCounterpart, "no metrics of a Go process");
            }
            (READY, "monitor") => {
                draft.remark(option, Taken, "/ready never goes back, but when it stops");
            }
            _ => no_option(draft, "health, ready and prometheus", option),
        }
    }
    let typed = directive
        .texts()
        .first()
        .copied()
        .unwrap_or(default)
        .to_owned();
    let Some(addresses) = addresses_of(&typed, around) else {
        return draft.unexpected(&directive.arguments[0], "an address such as :9153");
    };
    for address in &addresses {
        let place = || directive.name.place.clone();
        draft.observed.entry(*address).or_insert_with(place);
    }
    let names = if default == PROMETHEUS {
        let place = &directive.name.place;
        draft.set(&["metrics", "coredns"], true, place);
        "; metrics.coredns: CoreDNS's families beside our own"
    } else {
        ""
    };
    let shown: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    draft.remark(
        directive,
        Taken,
        format!("metrics.listen: {}{names}", shown.join(" and ")),
    );
}

/// `localhost:9153`, `0.0.0.0:9153`, and `:9153`, which is every address of both families.
fn addresses_of(text: &str, around: &Surroundings<'_>) -> Option<Vec<SocketAddr>> {
    let text = text.replace("localhost:", "127.0.0.1:");
    let Some(port) = text.strip_prefix(':') else {
        return text.parse().ok().map(|address| vec![address]);
    };
    let port: u16 = port.parse().ok()?;
    let mut all = vec![SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))];
    if around.ipv6 {
        all.push(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)));
    }
    Some(all)
}

fn acl<'a>(draft: &mut Draft, server: &mut Server<'a>, directive: &'a Directive) {
    const REMEDY: &str = "allow holds the networks whose clients are answered; others get REFUSED";
    // Of whole zones, whoever asks.
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
    server.acl = Some(Acl {
        directive,
        whole,
        networks,
    });
}

fn dns64(draft: &mut Draft, server: &mut Server<'_>, directive: &Directive) {
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
