//! Zone → upstream groups: the longest zone wins, on label boundaries, case-insensitively. Immutable once built.
//!
//! A name has few labels, so a lookup costs one hash probe a label however many routes there are.

use std::collections::HashMap;

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};

use crate::cache::{Bounds, seconds};
use crate::config::Config;

/// Names under one zone.
#[derive(Debug, Clone)]
pub struct Route {
    /// The zone as text, lower-cased, with its final dot: the label of metrics.
    pub zone: String,
    /// Groups (indices), asked one after the other.
    pub tiers: Vec<usize>,
    /// How long its answers may be kept.
    pub bounds: Bounds,
}

/// All routes.
#[derive(Debug, Clone)]
pub struct Routes {
    routes: Vec<Route>,
    by_zone: HashMap<Box<[u8]>, u16, ahash::RandomState>,
}

impl Routes {
    /// The configured routes.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut by_zone = HashMap::default();
        let mut routes = Vec::new();
        for route in &config.routes {
            let index = u16::try_from(routes.len()).expect("the configuration bounds their number");
            by_zone.insert(wire_name(&route.zone).into_boxed_slice(), index);
            let max_negative = route
                .max_negative_ttl
                .unwrap_or(config.cache.max_negative_ttl);
            routes.push(Route {
                zone: route.zone.to_lowercase().to_ascii(),
                tiers: route.tiers.clone(),
                bounds: Bounds {
                    max_ttl: seconds(config.cache.max_ttl),
                    max_negative_ttl: seconds(max_negative.min(config.cache.max_negative_ttl)),
                },
            });
        }
        Self { routes, by_zone }
    }

    /// The route of a lower-cased wire name; none if no zone holds it.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<u16> {
        let mut suffix = name;
        loop {
            if let Some(index) = self.by_zone.get(suffix) {
                return Some(*index);
            }
            let label = usize::from(*suffix.first()?);
            suffix = suffix.get(label + 1..)?;
        }
    }

    /// A route that [`Routes::find`] named.
    ///
    /// # Panics
    /// On an index from elsewhere.
    #[must_use]
    pub fn get(&self, index: u16) -> &Route {
        &self.routes[usize::from(index)]
    }

    /// All, in configured order.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }
}

/// The name's lower-cased wire form.
#[must_use]
pub fn wire_name(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    let mut encoder = BinEncoder::new(&mut bytes);
    name.to_lowercase()
        .emit(&mut encoder)
        .expect("a name of at most 255 octets fits any buffer");
    if bytes.last() != Some(&0) {
        bytes.push(0);
    }
    bytes
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
                .find(&wire(name))
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
        assert_eq!(routes.find(&wire("example.com.")), None);
        assert_eq!(routes.find(&wire(".")), None);
    }

    #[test]
    fn a_route_can_shorten_negative_answers_but_not_lengthen_them() {
        let routes = routes(
            "upstreams: {c: {servers: [127.0.0.1:1]}}
routes: {a: {group: c, max_negative_ttl: 5s}, b: {group: c, max_negative_ttl: 2h}, c: c}",
        );
        let bound = |name| {
            routes
                .get(routes.find(&wire(name)).expect("a route"))
                .bounds
                .max_negative_ttl
        };
        assert_eq!((bound("a."), bound("b."), bound("c.")), (5, 3600, 3600));
    }
}
