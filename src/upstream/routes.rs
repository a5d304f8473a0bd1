//! Finds the route of a name: that of the longest zone that holds the name, on label boundaries and case-insensitively.
//! Immutable once built.
//!
//! A lookup costs one hash probe for each label of a name, however many routes there are. A zone keeps its index for the
//! life of the process, over all reloads, because cached answers and metrics refer to routes by index.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use hickory_proto::rr::Name;

use super::rewrite::Rewrite;
use crate::cache::{Bounds, NO_ROUTE, seconds};
use crate::config::{
    CacheConfig, Config, Denial, Dns64Config, NamedServer, OwnAnswer, PrivateZones,
    RouteCacheConfig, RouteConfig, private_zones,
};
use crate::message::dns64::Dns64;
use crate::message::query::wire_name;
use crate::message::wire::rr;

/// The route of a zone.
#[derive(Debug, Clone)]
pub struct Route {
    /// The zone as text, lower-cased, with its final dot: the label of metrics.
    pub zone: String,
    /// Indices of the groups, which are asked one after the other. Empty if the route answers by itself.
    pub tiers: Vec<usize>,
    /// The answer for every name, if the route asks no server.
    pub answer: Option<OwnAnswer>,
    /// Types for which every name gets an empty answer (NODATA), without a query to a server.
    pub filter: Vec<u16>,
    /// How names are changed in queries to its servers.
    pub rewrite: Option<Rewrite>,
    /// How IPv6 addresses are made for names that have none.
    pub dns64: Option<Dns64>,
    /// How long its answers may be cached.
    pub bounds: Bounds,
    /// When an expired answer may be served.
    pub stale: Stale,
    /// Denials that do not replace the records of a name for a while.
    pub stale_on: Vec<Denial>,
    /// Changes with each reload that changes which answers the route may give.
    revision: u64,
}

/// When expired answers are served, and how (RFC 8767).
#[derive(Debug, Clone)]
pub struct Stale {
    /// How long after it expired an answer may still be served.
    pub max_age: Duration,
    /// How long after it expired a negative answer may still be served.
    pub max_negative_age: Duration,
    /// How long a query waits for a fresh answer before it gets an expired one.
    pub after: Duration,
    /// TTL of an expired answer.
    pub ttl: Duration,
}

/// All routes.
#[derive(Debug, Clone)]
pub struct Routes {
    /// By index. None for a zone that is no longer configured.
    by_index: Vec<Option<Route>>,
    by_zone: HashMap<Box<[u8]>, u16, ahash::RandomState>,
    /// Names that exist because another route, or a record, is below them: RFC 8020 forbids NXDOMAIN for them. Empty if no
    /// route denies names.
    ancestors: HashSet<Box<[u8]>, ahash::RandomState>,
    /// Every zone that was configured since the process started, as text.
    zones: Vec<String>,
    /// The last revision given out.
    revision: u64,
}

/// A route's index in 16 bits. None if there are too many routes.
fn route_number(index: usize) -> Option<u16> {
    let number = u16::try_from(index).ok();
    number.filter(|number| *number != NO_ROUTE)
}

/// More zones were configured since the process started than there are indices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "routes: more than 65,535 different zones since the start; restart to use this configuration"
)]
pub struct TooManyZones;

/// Another process described routes with invalid zones, or too many of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it names zones that cannot be routes")]
pub struct UnknownZones;

/// A description of a route that is valid in another process.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RouteWords {
    zone: String,
    /// The settings, beside the servers, on which its answers depend. Compared as text, and never parsed.
    promise: String,
    tiers: Vec<GroupWords>,
}

/// A description of a group, as part of [`RouteWords`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
struct GroupWords {
    name: String,
    servers: Vec<String>,
}

impl RouteWords {
    fn new(route: &Route, config: &Config) -> Self {
        let groups = route.tiers.iter().map(|&tier| &config.groups[tier]);
        Self {
            zone: route.zone.clone(),
            promise: format!("{:?} {:?}", route.promise(), route.filter),
            tiers: groups
                .map(|group| GroupWords {
                    name: group.name.to_string(),
                    servers: group.servers.iter().map(|one| format!("{one:?}")).collect(),
                })
                .collect(),
        }
    }

    /// As [`Route::promises_the_same`]; the filtered types must be the same, too.
    fn promises_the_same(&self, other: &Self) -> bool {
        let same_view = |(ours, theirs): (&GroupWords, &GroupWords)| {
            let stays = |server| theirs.servers.contains(server);
            ours.name == theirs.name && ours.servers.iter().any(stays)
        };
        self.promise == other.promise
            && self.tiers.len() == other.tiers.len()
            && self.tiers.iter().zip(&other.tiers).all(same_view)
    }
}

impl Routes {
    /// The configured routes, without earlier ones.
    ///
    /// # Panics
    /// Never: the configuration bounds their number.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        Self::replacing(config, None).expect("the configuration bounds their number")
    }

    /// The configured routes, in place of those of an earlier configuration.
    ///
    /// # Errors
    /// [`TooManyZones`].
    pub fn replacing(
        config: &Config,
        previous: Option<(&Self, &Config)>,
    ) -> Result<Self, TooManyZones> {
        let mut routes = Self {
            by_index: Vec::new(),
            by_zone: HashMap::default(),
            ancestors: ancestors(config),
            zones: previous.map_or_else(Vec::new, |(old, _)| old.zones.clone()),
            revision: previous.map_or(0, |(old, _)| old.revision),
        };
        let mut indices: HashMap<String, usize> = routes.zones.iter().cloned().zip(0..).collect();
        routes.by_index.resize(routes.zones.len(), None);
        let private = private_route(config);
        let configured = config.routes.iter();
        let labelled = configured.map(|route| (route.zone.to_lowercase().to_ascii(), route));
        let private = private.iter().map(|route| (PRIVATE.to_owned(), route));
        let special = special_routes(config);
        let special = special
            .iter()
            .map(|(zone, route)| ((*zone).to_owned(), route));
        for (zone, route) in labelled.chain(private).chain(special) {
            let index = *indices.entry(zone.clone()).or_insert_with(|| {
                routes.zones.push(zone.clone());
                routes.by_index.push(None);
                routes.zones.len() - 1
            });
            let number = route_number(index).ok_or(TooManyZones)?;
            if zone == PRIVATE {
                for zone in private_zones() {
                    let key = wire_name(&zone).into_boxed_slice();
                    routes.by_zone.entry(key).or_insert(number);
                }
            } else {
                let key = wire_name(&route.zone).into_boxed_slice();
                routes.by_zone.insert(key, number);
            }
            let mut new = Route {
                zone,
                tiers: route.tiers.clone(),
                answer: route.answer.clone(),
                rewrite: route.rewrite.as_ref().map(Rewrite::new),
                dns64: route.dns64.as_ref().map(dns64),
                filter: route.filter.iter().copied().map(u16::from).collect(),
                bounds: bounds(config, route),
                stale: stale(config, route),
                stale_on: route.stale_on.clone(),
                revision: 0,
            };
            let old = previous.and_then(|(old, of)| Some((old.by_index.get(index)?.as_ref()?, of)));
            new.revision = match old {
                Some((old, of)) if old.promises_the_same(of, &new, config) => old.revision,
                _ => {
                    routes.revision += 1;
                    routes.revision
                }
            };
            routes.by_index[index] = Some(new);
        }
        Ok(routes)
    }

    /// Descriptions of the routes for another process, by index.
    #[must_use]
    pub fn words(&self, config: &Config) -> Vec<Option<RouteWords>> {
        let words = |route: &Route| RouteWords::new(route, config);
        let all = self.by_index.iter();
        all.map(|route| route.as_ref().map(words)).collect()
    }

    /// The routes that another process described, as if they were those of an earlier configuration, and the index that each
    /// has here. A route that promises the same as one of ours counts as ours.
    ///
    /// # Errors
    /// [`UnknownZones`].
    pub fn of_another(
        &self,
        config: &Config,
        words: &[Option<RouteWords>],
    ) -> Result<(Self, Vec<Option<u16>>), UnknownZones> {
        let mut theirs = Self {
            by_index: vec![None; self.by_index.len()],
            by_zone: HashMap::default(),
            ancestors: HashSet::default(),
            zones: self.zones.clone(),
            revision: 0,
        };
        let own = self.words(config);
        let zones = theirs.zones.iter().cloned();
        let mut known: HashMap<String, usize> = zones.zip(0..).collect();
        let mut indices = Vec::with_capacity(words.len());
        for words in words {
            let Some(words) = words else {
                indices.push(None);
                continue;
            };
            let index = *known.entry(words.zone.clone()).or_insert_with(|| {
                theirs.by_index.push(None);
                theirs.by_index.len() - 1
            });
            let number = route_number(index).ok_or(UnknownZones)?;
            let same = own.get(index).and_then(Option::as_ref);
            let same = same.is_some_and(|own| own.promises_the_same(words));
            let ours = self.existing(number).filter(|_| same);
            let unlike = || Route::unlike_any(&words.zone);
            theirs.by_index[index] = Some(ours.cloned().unwrap_or_else(unlike));
            if words.zone == PRIVATE {
                for zone in private_zones() {
                    let key = wire_name(&zone).into_boxed_slice();
                    theirs.by_zone.entry(key).or_insert(number);
                }
            } else {
                let zone = Name::from_ascii(&words.zone).map_err(|_| UnknownZones)?;
                let key = wire_name(&zone).into_boxed_slice();
                theirs.by_zone.insert(key, number);
            }
            indices.push(Some(number));
        }
        Ok((theirs, indices))
    }

    /// Whether both have the same zones, with routes that promise and filter the same. Then no name has changed its route.
    #[must_use]
    pub fn same_as(&self, other: &Self) -> bool {
        let promises = |route: &Option<Route>| {
            let route = route.as_ref();
            route.map(|route| (route.revision, route.filter.clone()))
        };
        let all = |routes: &Self| -> Vec<_> { routes.by_index.iter().map(promises).collect() };
        all(self) == all(other)
    }

    /// Whether a cached answer for `name` and `qtype`, which `other`'s route `index` gave, is still valid: the name has the
    /// same route, which promises the same.
    #[must_use]
    pub fn keeps(&self, name: &[u8], qtype: u16, index: u16, other: &Self) -> bool {
        let revision = |routes: &Self| routes.existing(index).map(|route| route.revision);
        revision(self).is_some()
            && revision(self) == revision(other)
            && self.find(name, qtype) == Some(index)
            && [self, other]
                .iter()
                .all(|routes| routes.get(index).own_answer(qtype).is_none())
    }

    /// The route of a lower-cased wire name and a type; None if no zone holds the name. DS records are on the parent's side
    /// of a zone cut (RFC 4035 §3.1.4.1), so DS of a zone's apex has the route of the parent name, if there is one. Names of
    /// a route that answers by itself always have that route.
    #[must_use]
    pub fn find(&self, name: &[u8], qtype: u16) -> Option<u16> {
        let (own, _) = self.holder(name)?;
        if qtype != rr::DS || self.get(own).answer.is_some() {
            return Some(own);
        }
        let parent = name.get(usize::from(*name.first()?) + 1..);
        let of_parent = parent.and_then(|parent| self.holder(parent));
        Some(of_parent.map_or(own, |(index, _)| index))
    }

    /// The route of the longest zone that holds a name, and where that zone begins in the name.
    fn holder(&self, name: &[u8]) -> Option<(u16, usize)> {
        let mut suffix = name;
        loop {
            if let Some(index) = self.by_zone.get(suffix) {
                return Some((*index, name.len() - suffix.len()));
            }
            let label = usize::from(*suffix.first()?);
            suffix = suffix.get(label + 1..)?;
        }
    }

    /// For a PTR query about an IPv6 address that DNS64 made, with the prefix of any route: the reverse name of the IPv4
    /// address. None if the name's route is for a part of that prefix.
    #[must_use]
    pub fn ipv4_pointer(&self, name: &[u8], qtype: u16) -> Option<Vec<u8>> {
        if qtype != rr::PTR {
            return None;
        }
        let zone = || &name[self.zone_at(name)..];
        let mut all = self.iter().filter_map(|route| route.dns64.as_ref());
        all.find_map(|dns64| {
            let target = dns64.pointer(name)?;
            (!dns64.holds_zone(zone())).then_some(target)
        })
    }

    /// Offset of the route's zone in a lower-cased wire name.
    #[must_use]
    pub fn zone_at(&self, name: &[u8]) -> usize {
        self.holder(name).map_or(0, |(_, at)| at)
    }

    /// Whether a name exists because another route, or a record, is below it.
    #[must_use]
    pub fn is_above_others(&self, name: &[u8]) -> bool {
        self.ancestors.contains(name)
    }

    /// The route of an index that [`Routes::find`] returned.
    ///
    /// # Panics
    /// If no route has the index.
    #[must_use]
    pub fn get(&self, index: u16) -> &Route {
        self.existing(index)
            .expect("an index that these routes gave")
    }

    /// The route of an index that earlier routes returned, if the zone is still configured.
    #[must_use]
    pub fn existing(&self, index: u16) -> Option<&Route> {
        self.by_index.get(usize::from(index))?.as_ref()
    }

    /// All configured routes.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.by_index.iter().flatten()
    }

    /// The zones of all configured routes, by index. None for a zone that is no longer configured.
    pub fn existing_zones(&self) -> impl Iterator<Item = Option<&str>> {
        let all = self.by_index.iter();
        all.map(|route| route.as_ref().map(|route| route.zone.as_str()))
    }

    /// Every zone that was configured since the process started, by index.
    pub fn zones(&self) -> impl Iterator<Item = &str> {
        self.zones.iter().map(String::as_str)
    }
}

impl Route {
    /// The answer to a question of this type, if the route's groups are not asked.
    #[must_use]
    pub fn own_answer(&self, qtype: u16) -> Option<&OwnAnswer> {
        match &self.answer {
            None if self.filter.contains(&qtype) => Some(&OwnAnswer::NoData),
            answer => answer.as_ref(),
        }
    }

    /// Whether its servers are asked for a lower-cased wire name under another suffix.
    #[must_use]
    pub fn rewrites(&self, name: &[u8]) -> bool {
        let rewrite = self.rewrite.as_ref();
        rewrite.is_some_and(|rewrite| rewrite.concerns(name))
    }

    /// The settings, beside the servers, on which its answers depend. A new setting of routes that changes answers must be
    /// added here.
    fn promise(&self) -> (Bounds, &Option<OwnAnswer>, &Option<Rewrite>, &Option<Dns64>) {
        (self.bounds, &self.answer, &self.rewrite, &self.dns64)
    }

    /// A route that promises the same as no other one: its revision is 0, and all others begin at 1.
    fn unlike_any(zone: &str) -> Self {
        Self {
            zone: zone.to_owned(),
            tiers: Vec::new(),
            answer: None,
            filter: Vec::new(),
            rewrite: None,
            dns64: None,
            bounds: Bounds {
                max_ttl: 0,
                max_negative_ttl: 0,
                later_max_negative_ttl: 0,
                min_ttl: 0,
                max_lifetime: 0,
            },
            stale: Stale {
                max_age: Duration::ZERO,
                max_negative_age: Duration::ZERO,
                after: Duration::ZERO,
                ttl: Duration::ZERO,
            },
            stale_on: Vec::new(),
            revision: 0,
        }
    }

    /// Whether answers of this route, which belongs to the configuration `of`, are valid as answers of `new`. The promises
    /// must be the same, and the groups must have the same names, each with at least one server that it had before. All
    /// servers of a group share one view of names, so one server that stays shows that the view has not changed.
    fn promises_the_same(&self, of: &Config, new: &Self, config: &Config) -> bool {
        let same_view = |(&old, &new): (&usize, &usize)| {
            let (old, new) = (&of.groups[old], &config.groups[new]);
            let stays = |server| new.servers.contains(server);
            // A host name may get other addresses. The servers there are the same ones as far as the user has written.
            let named = |host: &NamedServer| new.named().any(|other| other.host == host.host);
            old.name == new.name && (old.servers.iter().any(stays) || old.named().any(named))
        };
        self.promise() == new.promise()
            && self.tiers.len() == new.tiers.len()
            && self.tiers.iter().zip(&new.tiers).all(same_view)
    }
}

/// The label of all private zones together, in place of a zone: there are many, and each would be a label of metrics.
const PRIVATE: &str = "private_zones";

/// The route of those private zones that have no route in the configuration.
fn private_route(config: &Config) -> Option<RouteConfig> {
    let answers = config.private_zones == PrivateZones::NxDomain;
    answers.then(|| answering(Name::root(), OwnAnswer::NxDomain))
}

/// The routes of special zones about which no server is asked, unless the configuration has routes for them.
fn special_routes(config: &Config) -> Vec<(&'static str, RouteConfig)> {
    let loopback = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let zones = [
        // RFC 6761 §6.3: the host itself.
        ("localhost", OwnAnswer::Addresses(loopback)),
        // RFC 7686 §2: these names belong to Tor. Queries for them would tell others who uses it.
        ("onion", OwnAnswer::NxDomain),
        // RFC 9462 §6.1, §6.4: an upstream's answer would describe its own encrypted service, not ours.
        ("resolver.arpa", OwnAnswer::NoData),
    ];
    let mut routes = Vec::new();
    for (text, answer) in zones {
        let Ok(zone) = Name::from_ascii(format!("{text}.")) else {
            continue;
        };
        if !config.routes.iter().any(|route| route.zone == zone) {
            routes.push((text, answering(zone, answer)));
        }
    }
    routes
}

/// A route that answers by itself.
fn answering(zone: Name, answer: OwnAnswer) -> RouteConfig {
    RouteConfig {
        zone,
        tiers: Vec::new(),
        answer: Some(answer),
        filter: Vec::new(),
        rewrite: None,
        dns64: None,
        max_negative_ttl: None,
        stale_on: Vec::new(),
        cache: RouteCacheConfig::default(),
    }
}

/// See [`Routes::ancestors`].
fn ancestors(config: &Config) -> HashSet<Box<[u8]>, ahash::RandomState> {
    let denies = |route: &&RouteConfig| route.answer == Some(OwnAnswer::NxDomain);
    let mut found = HashSet::default();
    if config.private_zones == PrivateZones::Forward && !config.routes.iter().any(|r| denies(&r)) {
        return found;
    }
    let zones = config.routes.iter().filter(|route| !denies(route));
    let zones = zones.map(|route| &route.zone);
    let records = config.records.iter().chain(&config.hosts.names);
    let addresses = records.clone().flat_map(|records| {
        let v4 = records.a.iter().copied().map(IpAddr::from);
        v4.chain(records.aaaa.iter().copied().map(IpAddr::from))
    });
    let names = zones.chain(records.map(|records| &records.name)).cloned();
    for mut ancestor in names.chain(addresses.map(Name::from)) {
        while !ancestor.is_root() {
            ancestor = ancestor.base_name();
            found.insert(wire_name(&ancestor).into_boxed_slice());
        }
    }
    found
}

fn dns64(config: &Dns64Config) -> Dns64 {
    Dns64::new(config.prefix, config.exclude.clone())
}

fn bounds(config: &Config, route: &RouteConfig) -> Bounds {
    let max_negative = route
        .max_negative_ttl
        .unwrap_or(config.cache.max_negative_ttl);
    let max_negative = max_negative.min(config.cache.max_negative_ttl);
    let later_max_negative = match route.tiers.len() {
        // The route has no later tier, so `tiers.max_negative_ttl` must not change its promise.
        0 | 1 => max_negative,
        _ => max_negative.min(config.tiers.max_negative_ttl),
    };
    let max_ttl = route.cache.max_ttl.unwrap_or(config.cache.max_ttl);
    Bounds {
        max_ttl: seconds(max_ttl.min(config.cache.max_ttl)),
        min_ttl: seconds(route.cache.min_ttl),
        max_lifetime: if route.cache.off { 0 } else { u32::MAX },
        max_negative_ttl: seconds(max_negative),
        later_max_negative_ttl: seconds(later_max_negative),
    }
}

fn stale(config: &Config, route: &RouteConfig) -> Stale {
    let (own, all) = (&route.cache, &config.cache);
    let negative = own.stale_max_negative_age.or(all.stale_max_negative_age);
    Stale {
        max_age: own.stale_max_age.unwrap_or(all.stale_max_age),
        max_negative_age: match (negative, route.max_negative_ttl) {
            (Some(age), _) => age,
            // A cap on a route's negative answers means that its names are expected to come into being soon.
            (None, Some(_)) => Duration::ZERO,
            (None, None) => CacheConfig::STALE_MAX_NEGATIVE_AGE,
        },
        after: own.stale_after.unwrap_or(all.stale_after),
        ttl: own.stale_ttl.unwrap_or(all.stale_ttl),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(yaml: &str) -> Routes {
        Routes::new(&Config::from_yaml(yaml).expect("valid"))
    }

    fn wire(name: &str) -> Vec<u8> {
        wire_name(&Name::from_ascii(name).expect("a name"))
    }

    #[test]
    fn the_longest_zone_wins_on_label_boundaries() {
        let routes = routes(
            r#"
upstreams:
  cluster: {servers: [127.0.0.1:1]}
  vpc: {servers: [127.0.0.1:2]}
routes:
  Cluster.Local: cluster
  svc.cluster.local: cluster
  10.in-addr.arpa.: vpc
  ".": [vpc, cluster]
"#,
        );
        let zone = |name| {
            routes
                .find(&wire(name), rr::A)
                .map(|index| routes.get(index).zone.clone())
        };
        for (name, want) in [
            ("cluster.local.", "cluster.local."),
            ("api.default.cluster.local.", "cluster.local."),
            ("API.svc.CLUSTER.local.", "svc.cluster.local."),
            ("notcluster.local.", "."),
            ("local.", "."),
            (".", "."),
            ("1.0.10.in-addr.arpa.", "10.in-addr.arpa."),
            ("1.0.110.in-addr.arpa.", "."),
        ] {
            assert_eq!(zone(name).as_deref(), Some(want), "{name}");
        }
    }

    #[test]
    fn without_a_root_route_other_names_have_none() {
        let routes = routes("upstreams: {c: {servers: [127.0.0.1:1]}}\nroutes: {cluster.local: c}");
        assert_eq!(routes.find(&wire("example.com."), rr::A), None);
        assert_eq!(routes.find(&wire("."), rr::A), None);
    }

    #[test]
    fn a_reload_keeps_the_answers_of_routes_that_promise_the_same() {
        let config = |text: &str| Config::from_yaml(text).expect("valid");
        let before = config(
            r#"
upstreams:
  a: {servers: [127.0.0.1:1, 127.0.0.1:2]}
  b: {servers: [127.0.0.1:3]}
routes: {same.: a, more.: a, moved.: a, bounds.: b, gone.: b, ".": a}
"#,
        );
        let after = config(
            r#"
upstreams:
  b: {servers: [127.0.0.1:3]}
  a: {servers: [127.0.0.1:2, 127.0.0.1:4]}
  c: {servers: [127.0.0.1:1]}
routes: {new.: a, same.: a, part.more.: a, more.: a, moved.: c, bounds.: {group: b, max_negative_ttl: 5s}, ".": a}
"#,
        );
        let old = Routes::new(&before);
        let new = Routes::replacing(&after, Some((&old, &before))).expect("few zones");
        let kept = |name: &str| {
            let name = wire(name);
            new.keeps(&name, rr::A, old.find(&name, rr::A).expect("a route"), &old)
        };
        let successor = Routes::new(&after);
        let words = old.words(&before);
        let (theirs, indices) = successor.of_another(&after, &words).expect("zones");
        let inherited = |name: &str| {
            let name = wire(name);
            let index = old.find(&name, rr::A).expect("a route");
            let index = indices[usize::from(index)].expect("it is there");
            successor.keeps(&name, rr::A, index, &theirs)
        };
        for (name, want) in [
            ("x.same.", true),
            ("x.more.", true),
            ("x.part.more.", false),
            ("x.moved.", false),
            ("x.bounds.", false),
            ("x.gone.", false),
            ("x.new.", false),
            ("x.elsewhere.", true),
        ] {
            assert_eq!(kept(name), want, "{name}");
            assert_eq!(inherited(name), want, "{name}, by a successor");
        }
        assert!(!new.same_as(&old));
        let again = Routes::replacing(&after, Some((&new, &after))).expect("few zones");
        assert!(again.same_as(&new));
        // Back to the first configuration: answers that were cached in between come from another view.
        let back = Routes::replacing(&before, Some((&again, &after))).expect("few zones");
        let moved = wire("x.moved.");
        assert!(!back.keeps(
            &moved,
            rr::A,
            new.find(&moved, rr::A).expect("a route"),
            &new
        ));
        assert!(!back.keeps(
            &moved,
            rr::A,
            old.find(&moved, rr::A).expect("a route"),
            &old
        ));
    }

    #[test]
    fn a_route_can_shorten_negative_answers_but_not_lengthen_them() {
        let routes = routes(
            "upstreams: {c: {servers: [127.0.0.1:1]}}
routes: {a: {group: c, max_negative_ttl: 5s}, b: {group: c, max_negative_ttl: 2h}, c: c}",
        );
        let bound = |name| {
            routes
                .get(routes.find(&wire(name), rr::A).expect("a route"))
                .bounds
                .max_negative_ttl
        };
        assert_eq!((bound("a."), bound("b."), bound("c.")), (5, 3600, 3600));
    }
    #[test]
    fn ds_of_an_apex_goes_to_the_parents_route() {
        let config = |zones: &str| {
            let text = format!("upstreams: {{c: {{servers: [127.0.0.1:1]}}}}\nroutes: {{{zones}}}");
            Config::from_yaml(&text).expect("valid")
        };
        let before = config(r#"".": c, corp.: c, sub.corp.: c"#);
        let old = Routes::new(&before);
        let zone = |routes: &Routes, name| {
            let found = routes.find(&wire(name), rr::DS);
            found.map(|index| routes.get(index).zone.clone())
        };
        for (name, want) in [
            ("corp.", "."),
            ("sub.corp.", "corp."),
            ("host.corp.", "corp."),
            ("host.sub.corp.", "sub.corp."),
            (".", "."),
        ] {
            assert_eq!(zone(&old, name).as_deref(), Some(want), "{name}");
        }
        let alone = Routes::new(&config("corp.: c"));
        assert_eq!(
            zone(&alone, "corp.").as_deref(),
            Some("corp."),
            "no route holds its parent"
        );
        assert_eq!(zone(&alone, "."), None);

        // A zone that gets a route of its own takes its names with it, but not its DS.
        let after = config(r#"".": c, corp.: c, sub.corp.: c, new.corp.: c"#);
        let new = Routes::replacing(&after, Some((&old, &before))).expect("few zones");
        let name = wire("new.corp.");
        let index = old.find(&name, rr::A).expect("a route");
        assert!(new.keeps(&name, rr::DS, index, &old));
        assert!(!new.keeps(&name, rr::A, index, &old));
    }

    #[test]
    fn a_later_tiers_denials_are_kept_shorter() {
        let bounds = |text: &str| {
            let routes = routes(text);
            let route = routes.get(routes.find(&wire("a."), rr::A).expect("a route"));
            (
                route.bounds.later_max_negative_ttl,
                route.stale.max_negative_age.as_secs(),
            )
        };
        let groups = "upstreams: {c: {servers: [127.0.0.1:1]}, d: {servers: [127.0.0.1:2]}}\n";
        for (text, want) in [
            ("routes: {.: [c, d]}", (30, 300)),
            (
                "routes: {.: [c, d]}\ntiers: {max_negative_ttl: 2s}",
                (2, 300),
            ),
            ("routes: {.: {tiers: [c, d], max_negative_ttl: 5s}}", (5, 0)),
            (
                "routes: {.: {tiers: [c, d], max_negative_ttl: 5s}}\ncache: {stale: {max_negative_age: 10s}}",
                (5, 10),
            ),
            (
                "routes: {.: [c, d]}\ncache: {stale: {max_negative_age: 0}}",
                (30, 0),
            ),
            ("routes: {.: c}\ntiers: {max_negative_ttl: 2s}", (3600, 300)),
        ] {
            assert_eq!(bounds(&format!("{groups}{text}")), want, "{text}");
        }
    }
}
