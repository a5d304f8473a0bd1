//! A server block: its zones and addresses, and the routes that its plugins make together.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use figment::value::Value;

use super::Surroundings;
use super::draft::{Draft, DraftGroup, DraftRoute, LineRefusal, LineVerdict, Target};
use super::forward::Forward;
use super::syntax::{Directive, Place, Word};
use super::zones::{self, BlockKey, is_within, zone};
use crate::config::servers::is_group_name;

/// A name that kube-dns knows by itself. It may have no upstream of its own, and then never answers a question about the root.
pub(super) const PROBE_OF_KUBE_DNS: &str = "kubernetes.default.svc.cluster.local A";

/// What a server block says, in the order in which CoreDNS asks its plugins.
#[derive(Debug, Default)]
pub(super) struct DraftBlock<'a> {
    pub(super) zones: Vec<(String, Place)>,
    ports: BTreeSet<u16>,
    /// Whether it has a plugin that asks others.
    pub(super) asks_others: bool,
    pub(super) bind: Vec<IpAddr>,
    pub(super) forwards: Vec<Forward<'a>>,
    /// Zones that `kubernetes` answers, and those it passes on when it does not know a name.
    pub(super) kubernetes: Option<KubernetesPlugin<'a>>,
    pub(super) cache: Option<CachePlugin>,
    /// Zones answered here.
    pub(super) answers: Vec<(String, Value, Place)>,
    /// Types that zones do not have.
    pub(super) filters: Vec<(String, String, Place)>,
    /// Suffixes, and what they are asked for under.
    pub(super) rewrites: Vec<(String, String, Place)>,
    /// Names with addresses, and the line that says so.
    pub(super) names: Vec<(String, IpAddr, &'a Directive)>,
    /// Names that are aliases, of what, and where that is said.
    pub(super) aliases: Vec<(String, String, Place)>,
    pub(super) dns64: Option<String>,
    pub(super) balances: bool,
    pub(super) acl: Option<AclPlugin<'a>>,
}

/// The plugin `acl`.
#[derive(Debug)]
pub(super) struct AclPlugin<'a> {
    pub(super) directive: &'a Directive,
    /// Whether it holds for all zones of the block.
    pub(super) whole: bool,
    pub(super) networks: Vec<Value>,
}

/// The plugin `kubernetes`.
#[derive(Debug)]
pub(super) struct KubernetesPlugin<'a> {
    pub(super) directive: &'a Directive,
    pub(super) zones: Vec<String>,
    pub(super) passes_on: Vec<String>,
}

/// The plugin `cache`.
#[derive(Debug)]
pub(super) struct CachePlugin {
    /// Empty: all of the block.
    pub(super) zones: Vec<String>,
    pub(super) options: Vec<(&'static str, Value)>,
    pub(super) stale: Vec<(&'static str, Value)>,
    /// Of which zones what is not kept; no zones: of all.
    pub(super) disabled: Vec<(CacheKind, Vec<String>)>,
}

/// What `cache` keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CacheKind {
    /// Answers with records.
    Success,
    /// NXDOMAIN and "no such record".
    Denial,
}

impl DraftBlock<'_> {
    /// A zone in front of the block.
    pub(super) fn key(&mut self, draft: &mut Draft, word: &Word) {
        let Some(key) = BlockKey::read(&word.text) else {
            return draft.unexpected(word, "a zone, or zone:port");
        };
        if key.scheme != "dns" {
            let what = format!("a listener for {}://", key.scheme);
            let remedy = "clients of nodens ask over UDP and TCP";
            return draft.refuse(&word.place, LineRefusal::ChangesAnswers { what, remedy });
        }
        self.ports.insert(key.port);
        self.zones
            .extend(key.zones.into_iter().map(|zone| (zone, word.place.clone())));
    }

    /// Has names of a zone answered by addresses, and by those of the other family that another line says.
    pub(super) fn answer_addresses(&mut self, zone: &str, addresses: Vec<Value>, place: &Place) {
        let known = self.answers.iter_mut().find(|(known, ..)| known == zone);
        match known {
            Some((_, Value::Array(_, known), _)) => {
                let more = addresses
                    .into_iter()
                    .filter(|address| !known.contains(address));
                let more: Vec<Value> = more.collect();
                known.extend(more);
            }
            // The first line for a name answers.
            Some(_) => {}
            None => self
                .answers
                .push((zone.to_owned(), addresses.into(), place.clone())),
        }
    }

    /// Where it listens.
    pub(super) fn addresses(&self, around: &Surroundings<'_>) -> Vec<SocketAddr> {
        let mut bind = self.bind.clone();
        if bind.is_empty() {
            bind.push(Ipv4Addr::UNSPECIFIED.into());
            if around.ipv6 {
                bind.push(Ipv6Addr::UNSPECIFIED.into());
            }
        }
        let at = |&port: &u16| {
            bind.iter()
                .map(move |&address| SocketAddr::new(address, port))
        };
        self.ports.iter().flat_map(at).collect()
    }

    /// Whether this block is asked for a name, or for names below it: a block with a longer zone takes its own away.
    fn takes(&self, name: &str, zones: &BTreeSet<String>) -> bool {
        let covers = |zone: &&str| is_within(name, zone);
        let labels = |zone: &&str| zone.split('.').filter(|label| !label.is_empty()).count();
        let longest = zones
            .iter()
            .map(String::as_str)
            .filter(covers)
            .max_by_key(labels);
        longest.is_none_or(|longest| self.zones.iter().any(|(zone, _)| zone == longest))
    }

    /// The records of `hosts`, `template` and `rewrite`.
    pub(super) fn records(&self, draft: &mut Draft, zones: &BTreeSet<String>) {
        for (name, address, directive) in &self.names {
            if self.takes(name, zones) {
                let known = draft.records.entry(name.clone());
                let (addresses, _) =
                    known.or_insert_with(|| (Vec::new(), directive.name.place.clone()));
                if !addresses.contains(address) {
                    addresses.push(*address);
                }
            } else {
                let note = format!(
                    "{name} is a name of another block, there too; its reverse name is forwarded"
                );
                draft.remark(directive, LineVerdict::Differs, note);
            }
        }
        for (name, target, place) in &self.aliases {
            if self.takes(name, zones) {
                let alias = (target.clone(), place.clone());
                draft.aliases.entry(name.clone()).or_insert(alias);
            }
        }
    }

    /// The routes that the block's plugins make together. Plugins that answer by themselves come first, as they do in
    /// CoreDNS, then kubernetes, then forward.
    pub(super) fn routes(
        &self,
        draft: &mut Draft,
        around: &Surroundings<'_>,
        zones: &BTreeSet<String>,
    ) {
        let mut routes: Vec<(String, DraftRoute)> = Vec::new();
        for (zone, answer, place) in &self.answers {
            add(&mut routes, zone, Target::Answer(answer.clone()), place);
        }
        if let Some(kubernetes) = &self.kubernetes {
            kubernetes_routes(draft, around, kubernetes, &mut routes);
        }
        for number in 0..self.forwards.len() {
            self.forward(draft, number, &mut routes);
        }
        self.cached_apart(&mut routes);
        for (zone, place) in &self.zones {
            let covered = routes.iter().any(|(route, _)| is_within(zone, route));
            if !covered {
                // CoreDNS answers SERVFAIL or REFUSED, depending on the last plugin.
                add(&mut routes, zone, Target::Answer("REFUSED".into()), place);
            }
        }
        self.rewrites(draft, &mut routes);
        self.filters(draft, &mut routes);
        // Names below another block's zone are asked of that block, as in CoreDNS.
        routes.retain(|(zone, _)| self.takes(zone, zones));
        for (zone, mut route) in routes {
            if matches!(route.target, Target::Group(_)) {
                route.options.push(self.cache_options(&zone));
                if let Some(prefix) = &self.dns64 {
                    route.options.push(("dns64", prefix.as_str().into()));
                }
            }
            if let Some(known) = draft.routes.get(&zone) {
                let first = known.place.line;
                let place = route.place.clone();
                draft.refuse(&place, LineRefusal::ZoneTwice { zone, first });
            } else {
                draft.routes.insert(zone, route);
            }
        }
    }

    /// Zones of `cache`, and of its `disable`, that are a part of a route become one.
    fn cached_apart(&self, routes: &mut Vec<(String, DraftRoute)>) {
        let Some(cache) = &self.cache else {
            return;
        };
        let disabled = cache.disabled.iter().flat_map(|(_, zones)| zones);
        for zone in cache.zones.iter().chain(disabled) {
            if let Some(route) = longest(routes, zone).cloned()
                && matches!(route.target, Target::Group(_))
            {
                add(routes, zone, route.target, &route.place);
            }
        }
    }

    /// The routes of one of the block's `forward`, and of what it leaves out (`except`).
    fn forward(&self, draft: &mut Draft, number: usize, routes: &mut Vec<(String, DraftRoute)>) {
        let forward = &self.forwards[number];
        if !self.leaves_names_to(number, routes) {
            let note = "a line above it has all its names, so these servers are never asked";
            return draft.remark(forward.directive, LineVerdict::NoCounterpart, note);
        }
        let note = "a group of servers: hedged, probed, and failed over within 20 to 200 ms";
        draft.remark(forward.directive, LineVerdict::Taken, note);
        let name = if forward.from == "." {
            self.zones.first().map_or(".", |(zone, _)| zone.as_str())
        } else {
            &forward.from
        };
        let group = draft.group(forward.group(group_name(name)));
        for (zone, _) in &self.zones {
            let Some(zone) = in_both(zone, &forward.from) else {
                continue;
            };
            add(routes, zone, Target::Group(group.clone()), &forward.place);
            for except in forward.except.iter().filter(|one| is_within(one, zone)) {
                self.exception(draft, number, except, routes);
            }
        }
    }

    /// Whether a `forward` is asked for anything: what comes earlier in the block may have all its names.
    fn leaves_names_to(&self, number: usize, routes: &[(String, DraftRoute)]) -> bool {
        let (earlier, from) = (&self.forwards[..number], &self.forwards[number].from);
        let is_free = |(zone, _): &(String, Place)| {
            in_both(zone, from).is_some_and(|both| !routes.iter().any(|(known, _)| known == both))
        };
        earlier.iter().any(|one| !one.except.is_empty()) || self.zones.iter().any(is_free)
    }

    /// The route of a zone that a `forward` leaves out: a later `forward` or kubernetes takes it, or nobody answers it.
    fn exception(
        &self,
        draft: &mut Draft,
        number: usize,
        except: &String,
        routes: &mut Vec<(String, DraftRoute)>,
    ) {
        let mut later = self.forwards[number + 1..].iter();
        if let Some(next) = later.find(|forward| forward.takes(except)) {
            let group = draft.group(next.group(group_name(except)));
            add(routes, except, Target::Group(group), &next.place);
            return;
        }
        let kubernetes = self.kubernetes.as_ref();
        if !kubernetes.is_some_and(|kubernetes| kubernetes.zones.contains(except)) {
            let place = &self.forwards[number].place;
            add(routes, except, Target::Answer("REFUSED".into()), place);
        }
    }

    /// The group that the block's `forward` asks for names of a zone, be it one of the block's zones or not: names that were
    /// rewritten stay in the block.
    fn forwards_to(&self, draft: &mut Draft, zone: &str) -> Option<String> {
        let forward = self.forwards.iter().find(|forward| forward.takes(zone))?;
        let first = self.zones.first().map_or(".", |(zone, _)| zone.as_str());
        Some(draft.group(forward.group(group_name(first))))
    }

    fn rewrites(&self, draft: &mut Draft, routes: &mut Vec<(String, DraftRoute)>) {
        for (from, to, place) in &self.rewrites {
            let Some(group) = group_of(routes, to).or_else(|| self.forwards_to(draft, to)) else {
                let what = format!(
                    "rewrite to {to}, which no forward and no kubernetes of this block holds,"
                );
                let remedy = "put the target's zone into the same server block";
                draft.refuse(place, LineRefusal::ChangesAnswers { what, remedy });
                continue;
            };
            let rewrite = super::draft::table([
                ("from", Value::from(from.as_str())),
                ("to", Value::from(to.as_str())),
            ]);
            routes.retain(|(zone, _)| zone != from);
            routes.push((
                from.clone(),
                DraftRoute {
                    target: Target::Group(group),
                    options: vec![("rewrite", rewrite)],
                    place: place.clone(),
                },
            ));
        }
    }

    fn filters(&self, draft: &mut Draft, routes: &mut Vec<(String, DraftRoute)>) {
        for (zone, rtype, place) in &self.filters {
            if !routes.iter().any(|(route, _)| route == zone) {
                let Some(group) = group_of(routes, zone) else {
                    let what = format!("template for {rtype} of {zone}, which is not forwarded,");
                    let remedy = "write an answer for the zone in routes";
                    draft.refuse(place, LineRefusal::ChangesAnswers { what, remedy });
                    continue;
                };
                add(routes, zone, Target::Group(group), place);
            }
            let forwarded = |(route, what): &&mut (String, DraftRoute)| {
                is_within(route, zone) && matches!(what.target, Target::Group(_))
            };
            for (_, route) in routes.iter_mut().filter(forwarded) {
                match route.options.iter_mut().find(|(key, _)| *key == "filter") {
                    Some((_, Value::Array(_, types))) => types.push(rtype.as_str().into()),
                    _ => route.options.push(("filter", vec![rtype.as_str()].into())),
                }
            }
        }
    }

    /// The options that `cache` gives to a route.
    fn cache_options(&self, route: &str) -> (&'static str, Value) {
        let within =
            |zones: &[String]| zones.is_empty() || zones.iter().any(|zone| is_within(route, zone));
        let off = ("cache", "off".into());
        let Some(cache) = self.cache.as_ref().filter(|cache| within(&cache.zones)) else {
            return off;
        };
        let disabled = |kind| {
            let mut lines = cache.disabled.iter();
            lines.any(|(other, zones)| *other == kind && within(zones))
        };
        let (no_success, no_denial) = (disabled(CacheKind::Success), disabled(CacheKind::Denial));
        if no_success && no_denial {
            return off;
        }
        let mut options = cache.options.clone();
        for (key, value) in &mut options {
            if (*key == "max_ttl" && no_success) || (*key == "max_negative_ttl" && no_denial) {
                *value = super::draft::seconds(0);
            }
        }
        if no_success {
            options.retain(|(key, _)| *key != "min_ttl");
        }
        if !cache.stale.is_empty() {
            options.push(("stale", super::draft::table(cache.stale.clone())));
        }
        ("cache", super::draft::table(options))
    }
}

/// Routes to kube-dns for the zones of `kubernetes`.
fn kubernetes_routes(
    draft: &mut Draft,
    around: &Surroundings<'_>,
    kubernetes: &KubernetesPlugin<'_>,
    routes: &mut Vec<(String, DraftRoute)>,
) {
    let place = &kubernetes.directive.name.place;
    let Some(address) = around.cluster_dns else {
        return draft.refuse(place, LineRefusal::NoClusterDns);
    };
    let group = draft.group(DraftGroup {
        name: "cluster".to_owned(),
        servers: vec![address.to_string()],
        options: vec![(vec!["probe"], PROBE_OF_KUBE_DNS.into(), place.clone())],
        place: place.clone(),
    });
    let mut near = Vec::new();
    for zone in &kubernetes.zones {
        let reverse = is_within(zone, "in-addr.arpa") || is_within(zone, "ip6.arpa");
        let passed_on = kubernetes
            .passes_on
            .iter()
            .any(|other| is_within(zone, other));
        if !(reverse && passed_on) {
            add(routes, zone, Target::Group(group.clone()), place);
            continue;
        }
        // Of the reverse zones it knows only the names of Services and of the pods behind them.
        let services = match address {
            IpAddr::V4(_) => zones::reverse_of(address, 2),
            IpAddr::V6(_) => zones::reverse_of(address, 28),
        };
        if is_within(&services, zone) {
            add(routes, &services, Target::Group(group.clone()), place);
            near.push(services);
        }
    }
    let note = if near.is_empty() {
        format!("routes to kube-dns at {address}, which knows the names")
    } else {
        let near = near.join(", ");
        format!(
            "routes to kube-dns at {address}, which knows the names; of the reverse zones, {near} alone: give other \
             networks of Services and pods a route too"
        )
    };
    let verdict = if near.is_empty() {
        LineVerdict::Taken
    } else {
        LineVerdict::Differs
    };
    draft.remark(kubernetes.directive, verdict, note);
}

/// A group's name from a zone, or from its end where that is too long, as reverse zones are.
fn group_name(zone: &str) -> String {
    // Room for a number behind it.
    const LONGEST: usize = 60;
    if zone == "." {
        return "default".to_owned();
    }
    let fine = |c: char| is_group_name(c.encode_utf8(&mut [0; 4]));
    let name: String = zone
        .chars()
        .map(|c| if fine(c) { c } else { '-' })
        .collect();
    let end = &name[name.len().saturating_sub(LONGEST)..];
    end.trim_start_matches('.').to_owned()
}

/// The zone of those names that are in both zones; none if there are none.
fn in_both<'z>(one: &'z str, other: &'z str) -> Option<&'z str> {
    if is_within(one, other) {
        Some(one)
    } else {
        is_within(other, one).then_some(other)
    }
}

/// The route that names of a zone take.
fn longest<'r>(routes: &'r [(String, DraftRoute)], zone: &str) -> Option<&'r DraftRoute> {
    let longest = routes
        .iter()
        .filter(|(route, _)| is_within(zone, route))
        .max_by_key(|(route, _)| if route == "." { 0 } else { route.len() });
    longest.map(|(_, route)| route)
}

/// The group that names of a zone are asked of.
fn group_of(routes: &[(String, DraftRoute)], zone: &str) -> Option<String> {
    match &longest(routes, zone)?.target {
        Target::Group(group) => Some(group.clone()),
        Target::Answer(_) => None,
    }
}

/// Adds a route, unless a plugin that comes earlier has one.
fn add(routes: &mut Vec<(String, DraftRoute)>, name: &str, target: Target, place: &Place) {
    let name = zone(name);
    if !routes.iter().any(|(known, _)| *known == name) {
        let route = DraftRoute {
            target,
            options: Vec::new(),
            place: place.clone(),
        };
        routes.push((name, route));
    }
}
