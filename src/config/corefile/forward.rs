//! The plugin `forward`: a group of servers.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use figment::value::Value;

use super::draft::{Draft, DraftGroup, LineRefusal, LineVerdict, duration};
use super::syntax::{Directive, Place, Word};
use super::zones::{is_within, zone, zones};
use super::{CLUSTER_DNS_PLACEHOLDER, UPSTREAM_PLACEHOLDER};

/// One `forward`.
#[derive(Debug)]
pub(super) struct Forward<'a> {
    pub(super) directive: &'a Directive,
    /// Names at and below it.
    pub(super) from: String,
    /// As our configuration writes them.
    pub(super) servers: Vec<String>,
    /// Zones below it that are not forwarded (`except`).
    pub(super) except: Vec<String>,
    pub(super) options: Vec<(Vec<&'static str>, Value, Place)>,
    pub(super) place: Place,
}

impl Forward<'_> {
    /// Whether it asks its servers for the names of a zone.
    pub(super) fn takes(&self, zone: &str) -> bool {
        let is_excepted = |except: &String| is_within(zone, except);
        is_within(zone, &self.from) && !self.except.iter().any(is_excepted)
    }

    /// Its servers and options, as a group.
    pub(super) fn group(&self, name: String) -> DraftGroup {
        DraftGroup {
            name,
            servers: self.servers.clone(),
            options: self.options.clone(),
            place: self.place.clone(),
        }
    }

    /// Sets a key of the group.
    fn set(&mut self, path: &[&'static str], value: impl Into<Value>, place: &Place) {
        self.options
            .push((path.to_vec(), value.into(), place.clone()));
    }
}

/// The remedy for `next` and `failover` codes that pass an answer over.
const NOT_PASSED_OVER: &str = "no answer of a server that knows the zone is passed over here; give the names that others know a route of their own";

/// Where the servers of the system are.
const SYSTEM_RESOLVER: &str = "/etc/resolv.conf";

/// Remark about the placeholder of NodeLocal DNSCache's upstream servers.
const NO_CONFIG_MAP: &str = "servers: [/etc/resolv.conf]; stubDomains and upstreamNameservers of the ConfigMap kube-dns, which NodeLocal DNSCache \
                             reads, are not read here: write a block with its own forward for each stub domain, and upstreamNameservers \
                             in place of the placeholder";

/// Options that decide how servers are written.
#[derive(Debug, Default)]
struct ServerOptions {
    force_tcp: bool,
    tls_name: Option<String>,
    /// The resolver of servers' host names.
    resolvers: Vec<String>,
}

/// The group that resolves the host names of servers.
const RESOLVER: &str = "resolver";

/// Reads a `forward`; mistakes and remarks go to the draft. `behind` maps a server to the servers that the block behind
/// it forwards to.
pub(super) fn read<'a>(
    draft: &mut Draft,
    directive: &'a Directive,
    behind: &BTreeMap<String, Vec<String>>,
) -> Option<Forward<'a>> {
    let from = draft.argument(directive, 0, "the zone to forward, such as .")?;
    let from = zones(&from.text).into_iter().next()?;
    draft.argument(
        directive,
        1,
        "a server such as 10.0.0.2, or /etc/resolv.conf",
    )?;
    let mut transport = ServerOptions::default();
    let mut forward = Forward {
        directive,
        from,
        servers: Vec::new(),
        except: Vec::new(),
        options: Vec::new(),
        place: directive.name.place.clone(),
    };
    for option in &directive.block {
        read_option(draft, &mut forward, &mut transport, option);
    }
    for word in &directive.arguments[1..] {
        if word.text == UPSTREAM_PLACEHOLDER {
            forward.servers.push(SYSTEM_RESOLVER.to_owned());
            draft.remark(directive, LineVerdict::Differs, NO_CONFIG_MAP);
        } else if let Some(servers) = behind.get(&word.text) {
            forward.servers.extend(servers.iter().cloned());
        } else if let Some(server) = named(&transport, &word.text) {
            forward
                .servers
                .push(resolved(draft, &transport, directive, &server));
        } else if let Some(server) = server(draft, &transport, word) {
            forward.servers.push(server);
        }
    }
    let policy = forward.options.iter().any(|(path, ..)| path == &["policy"]);
    if !policy && forward.servers.len() > 1 {
        // `random` is the default there.
        let place = forward.place.clone();
        forward.set(&["policy"], "round_robin", &place);
    }
    Some(forward)
}

/// A server by its host name, without the group that resolves it.
fn named(transport: &ServerOptions, text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    let (authority, path) = match rest.find('/') {
        Some(slash) if scheme == "https" => rest.split_at(slash),
        _ => (rest, ""),
    };
    let host = match authority.rsplit_once(':') {
        Some((host, port)) => port.parse::<u16>().ok().map(|_| host)?,
        None => authority,
    };
    if !is_host_name(host) {
        return None;
    }
    let certificate = transport.tls_name.as_ref();
    let certificate = certificate.map_or(String::new(), |name| format!("#{name}"));
    match scheme {
        "dns" if transport.force_tcp => Some(format!("tcp://{authority}")),
        "dns" => Some(authority.to_owned()),
        "tls" | "https" => Some(format!("{scheme}://{authority}{path}{certificate}")),
        _ => None,
    }
}

/// Whether it is a host name, and neither a file nor an address, even a mistyped one.
fn is_host_name(text: &str) -> bool {
    let labels = text.strip_suffix('.').unwrap_or(text).split('.');
    let last = labels.clone().next_back().unwrap_or_default();
    let fine = |label: &str| {
        let is_fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        !label.is_empty() && label.chars().all(is_fine)
    };
    labels.clone().count() > 1
        && labels.clone().all(fine)
        && last.contains(|c: char| c.is_ascii_alphabetic())
}

/// The server with the group that resolves its name.
fn resolved(
    draft: &mut Draft,
    transport: &ServerOptions,
    directive: &Directive,
    server: &str,
) -> String {
    let servers = match transport.resolvers.as_slice() {
        // The system's resolver, as in CoreDNS.
        [] => vec![SYSTEM_RESOLVER.to_owned()],
        resolvers => resolvers.to_vec(),
    };
    let group = draft.group(DraftGroup {
        name: RESOLVER.to_owned(),
        servers,
        options: Vec::new(),
        place: directive.name.place.clone(),
    });
    let note = format!(
        "{server}: its name is resolved by the group {group}, again as the TTL says; there at start alone"
    );
    draft.remark(directive, LineVerdict::Differs, note);
    format!("{server}@{group}")
}

/// A server as our configuration writes it.
fn server(draft: &mut Draft, transport: &ServerOptions, word: &Word) -> Option<String> {
    const EXPECTED: &str =
        "a server such as 10.0.0.2, 10.0.0.2:5353, tls://9.9.9.9 or /etc/resolv.conf";
    let text = word.text.as_str();
    let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
    match scheme {
        "dns" if is_address(rest) => Some(if transport.force_tcp {
            format!("tcp://{}", bracketed(rest))
        } else {
            rest.to_owned()
        }),
        "dns" if rest.starts_with(['/', '.']) => Some(rest.to_owned()),
        "tls" => {
            let (address, name) = match rest.split_once('%') {
                Some((address, name)) => match name.rsplit_once(':') {
                    Some((name, port)) => (format!("{address}:{port}"), Some(name.to_owned())),
                    None => (address.to_owned(), Some(name.to_owned())),
                },
                None => (rest.to_owned(), transport.tls_name.clone()),
            };
            let Some(name) = name else {
                let what = format!("{text} without tls_servername");
                let remedy = "say the name of its certificate, such as tls_servername dns.quad9.net; without one anybody on the way could answer";
                draft.refuse(&word.place, LineRefusal::ChangesAnswers { what, remedy });
                return None;
            };
            Some(format!("tls://{address}#{name}"))
        }
        "https" => Some(match &transport.tls_name {
            Some(name) if !text.contains('#') => format!("{text}#{name}"),
            _ => text.to_owned(),
        }),
        _ if rest.contains(CLUSTER_DNS_PLACEHOLDER) => {
            draft.refuse(&word.place, LineRefusal::NoClusterDns);
            None
        }
        _ => {
            draft.unexpected(word, EXPECTED);
            None
        }
    }
}

/// Whether it is an IP address, with or without a port. The interface of a link-local one is checked with our own
/// configuration.
fn is_address(text: &str) -> bool {
    let with_interface = text.trim_start_matches('[').split_once('%');
    text.parse::<IpAddr>().is_ok()
        || text.parse::<SocketAddr>().is_ok()
        || with_interface.is_some_and(|(address, _)| address.parse::<Ipv6Addr>().is_ok())
}

/// An IPv6 address without a port needs brackets behind a scheme.
fn bracketed(text: &str) -> String {
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(address)) => format!("[{address}]"),
        _ => text.to_owned(),
    }
}

/// Options of which nothing is to be taken over, with the remark about each.
const REMARKED: [(&str, LineVerdict, &str); 9] = [
    ("prefer_udp", LineVerdict::Taken, "always so"),
    (
        "read_timeout",
        LineVerdict::Differs,
        "the next server is asked after 20 to 200 ms; deadline (4 s) bounds a query",
    ),
    ("doh_method", LineVerdict::Differs, "always POST"),
    (
        "source_address",
        LineVerdict::NoCounterpart,
        "the address that the node's routes choose",
    ),
    (
        "max_fails",
        LineVerdict::Differs,
        "nothing to count: a server is down when a probe is lost, and up when two are answered",
    ),
    ("expire", LineVerdict::NoCounterpart, SOCKETS_END),
    ("max_idle_conns", LineVerdict::NoCounterpart, SOCKETS_END),
    (
        "max_connect_attempts",
        LineVerdict::NoCounterpart,
        "deadline (4 s) bounds a query",
    ),
    (
        "failfast_all_unhealthy_upstreams",
        LineVerdict::Differs,
        "all down: a stale answer at once; without one each server gets one try, for 0.2 s at most",
    ),
];

const SOCKETS_END: &str = "sockets are replaced after 30 s, idle connections closed after 8 s";

fn read_option(
    draft: &mut Draft,
    forward: &mut Forward<'_>,
    transport: &mut ServerOptions,
    option: &Directive,
) {
    let place = &option.name.place;
    let name = option.name.text.as_str();
    if let Some((_, verdict, note)) = REMARKED.iter().find(|(known, ..)| *known == name) {
        return draft.remark(option, *verdict, *note);
    }
    match name {
        "force_tcp" | "tls_servername" | "resolver" => server_option(draft, transport, option),
        "except" => {
            let zones = option.arguments.iter().flat_map(|word| zones(&word.text));
            forward.except.extend(zones);
            draft.remark(option, LineVerdict::Taken, "routes of their own");
        }
        "tls" => tls(draft, forward, option),
        "policy" => policy(draft, forward, option),
        "health_check" => health_check(draft, forward, option),
        "max_concurrent" => {
            if let Some(most) = draft.parsed::<u64>(option, 0, "a number") {
                if most > 0 {
                    forward.set(&["max_in_flight"], most, place);
                }
                let note = "max_in_flight: over it a stale answer or SERVFAIL, there REFUSED";
                draft.remark(option, LineVerdict::Differs, note);
            }
        }
        "failover" | "next" => failover(draft, option),
        "next_on_nodata" => {
            let (what, remedy) = (name.to_owned(), NOT_PASSED_OVER);
            draft.refuse(place, LineRefusal::ChangesAnswers { what, remedy });
        }
        "max_age" => {
            let texts = option.texts();
            let age = texts.first().and_then(|text| duration_ms(text));
            if let Some(age) = age.filter(|age| *age > 0) {
                forward.set(&["streams", "max_age"], duration(age), place);
            }
            draft.remark(option, LineVerdict::Taken, "streams.max_age");
        }
        _ => {
            let (plugin, option) = ("forward", name.to_owned());
            draft.refuse(place, LineRefusal::NoOption { plugin, option });
        }
    }
}

/// Options that decide how servers are written.
fn server_option(draft: &mut Draft, transport: &mut ServerOptions, option: &Directive) {
    match option.name.text.as_str() {
        "force_tcp" => {
            transport.force_tcp = true;
            draft.remark(option, LineVerdict::Taken, "tcp:// in front of the servers");
        }
        "tls_servername" => {
            if let Some(name) = draft.argument(option, 0, "the name of the certificate") {
                transport.tls_name = Some(zone(&name.text));
                draft.remark(
                    option,
                    LineVerdict::Taken,
                    "the name behind # of the servers",
                );
            }
        }
        _ => {
            let resolvers = option.texts().into_iter().map(str::to_owned);
            transport.resolvers.extend(resolvers);
            let note = "a group that resolves host names of servers, again as their TTL says; there at start alone";
            draft.remark(option, LineVerdict::Differs, note);
        }
    }
}

fn tls(draft: &mut Draft, forward: &mut Forward<'_>, option: &Directive) {
    let place = &option.name.place;
    match &*option.arguments {
        [] => {
            let note = "trusts the web's roots that are built in, not the system's";
            draft.remark(option, LineVerdict::Differs, note);
        }
        [ca] => {
            forward.set(&["tls_ca"], ca.text.as_str(), place);
            let note = "tls_ca: trusted beside the web's roots that are built in";
            draft.remark(option, LineVerdict::Differs, note);
        }
        _ => {
            let what = "a client certificate".to_owned();
            let remedy = "use servers that do not ask for one";
            draft.refuse(place, LineRefusal::ChangesAnswers { what, remedy });
        }
    }
}

fn policy(draft: &mut Draft, forward: &mut Forward<'_>, option: &Directive) {
    let (policy, verdict, note) = match option.texts().as_slice() {
        ["random"] => (
            "round_robin",
            LineVerdict::Differs,
            "in turn instead of at random",
        ),
        ["round_robin"] => ("round_robin", LineVerdict::Taken, "policy: round_robin"),
        ["sequential"] => ("ordered", LineVerdict::Taken, "policy: ordered"),
        _ => return unexpected(draft, option, "random, round_robin or sequential"),
    };
    forward.set(&["policy"], policy, &option.name.place);
    draft.remark(option, verdict, note);
}

fn health_check(draft: &mut Draft, forward: &mut Forward<'_>, option: &Directive) {
    let place = &option.name.place;
    let Some(pause) = draft
        .argument(option, 0, "a duration such as 0.5s")
        .and_then(|word| {
            let pause = duration_ms(&word.text);
            if pause.is_none() {
                draft.unexpected(word, "a duration such as 0.5s");
            }
            pause
        })
    else {
        return;
    };
    let pause = pause.clamp(50, 60_000);
    forward.set(&["failover", "probe_min"], duration(pause), place);
    if pause > 5_000 {
        forward.set(&["failover", "probe_max"], duration(pause), place);
    }
    let texts = option.texts();
    if let Some(at) = texts.iter().position(|text| *text == "domain")
        && let Some(name) = texts.get(at + 1)
    {
        forward.set(&["probe"], format!("{} NS", zone(name)), place);
    }
    let mut note =
        "failover.probe_min; only servers in doubt are probed, and pauses grow".to_owned();
    if texts.contains(&"no_rec") {
        note += "; probes have RD set, as all queries";
    }
    draft.remark(option, LineVerdict::Differs, note);
}

/// `failover` asks the next server, `next` the next plugin, after these codes.
fn failover(draft: &mut Draft, option: &Directive) {
    const ALWAYS: [&str; 4] = ["SERVFAIL", "REFUSED", "NOTIMP", "FORMERR"];
    for word in &option.arguments {
        let code = word.text.to_ascii_uppercase();
        if !ALWAYS.contains(&code.as_str()) {
            let what = format!("{} {code}", option.name.text);
            let remedy = NOT_PASSED_OVER;
            draft.refuse(&word.place, LineRefusal::ChangesAnswers { what, remedy });
        }
    }
    draft.remark(option, LineVerdict::Taken, "always so");
}

fn unexpected(draft: &mut Draft, option: &Directive, expected: &'static str) {
    match option.arguments.first() {
        Some(word) => draft.unexpected(word, expected),
        None => {
            let _ = draft.argument(option, 0, expected);
        }
    }
}

/// A duration as Go writes it (`1.5s`, `500ms`, `1m30s`), in milliseconds.
pub(super) fn duration_ms(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits =
            rest.find(|character: char| !character.is_ascii_digit() && character != '.')?;
        let (number, behind) = rest.split_at(digits);
        let unit = behind
            .find(|character: char| character.is_ascii_digit())
            .unwrap_or(behind.len());
        let (unit, after) = behind.split_at(unit);
        let number: f64 = number.parse().ok()?;
        total += number
            * match unit {
                "h" => 3_600_000.0,
                "m" => 60_000.0,
                "s" => 1_000.0,
                "ms" => 1.0,
                "us" | "µs" => 0.001,
                _ => return None,
            };
        rest = after;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a sum of positive numbers, and `as` saturates"
    )]
    let total = total as u64;
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::duration_ms;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        assert_eq!(duration_ms("0.5s"), Some(500));
        assert_eq!(duration_ms("1m30s"), Some(90_000));
        assert_eq!(duration_ms("1h"), Some(3_600_000));
        assert_eq!(duration_ms("5"), None);
        assert_eq!(duration_ms(""), None);
        assert_eq!(duration_ms("5x"), None);
    }
}
