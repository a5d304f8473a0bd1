//! Warnings: what is valid, and probably not meant.

use super::*;

#[test]
fn what_is_allowed_but_hardly_meant_is_a_warning() {
    let text = "upstreams: {a: {servers: 10.0.0.2}, b: {servers: 10.0.0.3}}\nroutes: {x.y: {group: a, max_negative_ttl: 2h, cache: {min_ttl: 1h, max_ttl: 2h}}}\ncache: {max_ttl: 1m}\n";
    assert_eq!(
        loaded(text).warnings,
        [
            "upstreams.b: no route uses this group",
            "routes.\"x.y\".max_negative_ttl: 2h has no effect, cache.max_negative_ttl is 1h",
            "routes.\"x.y\".cache.max_ttl: 2h has no effect, cache.max_ttl is 1m",
            "routes.\"x.y\".cache.min_ttl: 1h has no effect, cache.max_ttl is 1m",
        ]
    );
}
