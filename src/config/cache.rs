//! `cache`: what is kept, and for how long.

use std::time::Duration;

use super::error::Problem;
use super::leaf::{Leaf, Size, show_name};
use super::path::KeyPath;
use super::read::{Report, Section};
use super::{CacheConfig, RouteConfig, limits};

pub(super) fn read(top: &Section<'_>) -> CacheConfig {
    let section = top.section("cache");
    let defaults = CacheConfig::default();
    let max_size = read_size(&section, Size(defaults.max_size));
    let max_ttl = section.read_in("max_ttl", defaults.max_ttl, &limits::MAX_TTL);
    let max_negative_ttl = section.read_in(
        "max_negative_ttl",
        defaults.max_negative_ttl,
        &limits::MAX_NEGATIVE_TTL,
    );
    let failure_min = section.read_in("failure_min", defaults.failure_min, &limits::FAILURE);
    let failure_max = section.read_in("failure_max", defaults.failure_max, &limits::FAILURE);
    section.ordered(("failure_min", &failure_min), ("failure_max", &failure_max));
    let stale = section.section("stale");
    let stale_max_age = stale.read_in("max_age", defaults.stale_max_age, &limits::STALE_MAX_AGE);
    let stale_max_negative_age = read_stale_max_negative_age(&stale, stale_max_age);
    let stale_max_denied_age = read_stale_max_denied_age(&stale, stale_max_age);
    let stale_after = stale.read_in("after", defaults.stale_after, &limits::STALE_AFTER);
    let stale_ttl = stale.read_in("ttl", defaults.stale_ttl, &limits::STALE_TTL);
    stale.finish();
    let prefetch = section.section("prefetch");
    let prefetch_hits = u32::from(defaults.prefetch_hits);
    let prefetch_hits = prefetch.read_in("hits", prefetch_hits, &limits::PREFETCH_HITS);
    let prefetch_hits = u8::try_from(prefetch_hits).expect("the range ends at 255");
    let prefetch_percent = prefetch.read_in(
        "percent",
        defaults.prefetch_percent,
        &limits::PREFETCH_PERCENT,
    );
    prefetch.finish();
    let rotate = section.read("rotate", defaults.rotate);
    section.finish();
    CacheConfig {
        max_size,
        max_ttl,
        max_negative_ttl,
        failure_min,
        failure_max,
        stale_max_age,
        stale_max_negative_age,
        stale_max_denied_age,
        stale_after,
        stale_ttl,
        prefetch_hits,
        prefetch_percent,
        rotate,
    }
}

/// None if nobody set it: the default is another one on routes that cap their negative answers.
fn read_stale_max_negative_age(stale: &Section<'_>, max_age: Duration) -> Option<Duration> {
    let key = "max_negative_age";
    // If the value is wrong, its replacement must not be reported as another mistake.
    let default = CacheConfig::STALE_MAX_NEGATIVE_AGE.min(max_age);
    let age = stale.read_in_if_set(key, default, &limits::STALE_MAX_NEGATIVE_AGE)?;
    stale.ordered((key, &age), ("max_age", &max_age));
    Some(age)
}

fn read_stale_max_denied_age(stale: &Section<'_>, max_age: Duration) -> Duration {
    let key = "max_denied_age";
    let default = CacheConfig::default().stale_max_denied_age.min(max_age);
    let age = stale.read_in(key, default, &limits::STALE_MAX_DENIED_AGE);
    if stale.value(key).is_some() {
        stale.ordered((key, &age), ("max_age", &max_age));
    }
    age
}

/// 0, or between the limits.
fn read_size(section: &Section<'_>, default: Size) -> u64 {
    let range = limits::sizes(0, limits::MAX_CACHE.0);
    let size = section.read_in("max_size", default, &range);
    if size.0 > 0 && size < limits::MIN_CACHE {
        let (value, limit) = (size.show(), limits::MIN_CACHE.show());
        section.error("max_size", Problem::CacheTooSmall { value, limit });
    }
    size.0
}

/// The cache keeps nothing longer than its own limits, whatever a route says.
pub(super) fn warn_useless_caps(report: &Report<'_>, routes: &[RouteConfig], cache: &CacheConfig) {
    let (most, most_negative) = (cache.max_ttl, cache.max_negative_ttl);
    for route in routes {
        let path = KeyPath::default()
            .key("routes")
            .key(&show_name(&route.zone));
        let min_ttl = Some(route.cache.min_ttl);
        for (value, key, limit, of) in [
            (
                route.max_negative_ttl,
                "max_negative_ttl",
                most_negative,
                "max_negative_ttl",
            ),
            (route.cache.max_ttl, "cache.max_ttl", most, "max_ttl"),
            (min_ttl, "cache.min_ttl", most, "max_ttl"),
        ] {
            if let Some(value) = value.filter(|value| *value > limit) {
                let (value, limit) = (value.show(), limit.show());
                report.warn(format!(
                    "{path}.{key}: {value} has no effect, cache.{of} is {limit}"
                ));
            }
        }
    }
}
