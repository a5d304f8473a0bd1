//! `cache`.

use super::*;

/// Mistakes of `cache`.
pub(super) const BAD_CACHES: &[BadCase] = &[
    (
        "over a limit",
        "cache:\n  max_ttl: 9d",
        "3: cache.max_ttl: 9d is over the limit of 7d",
    ),
    (
        "under a minimum",
        "cache: {failure_min: 0s}",
        "2: cache.failure_min: 0s is under the minimum of 1s",
    ),
    (
        "stale denials for too long",
        "cache: {stale: {max_negative_age: 2d}}",
        "2: cache.stale.max_negative_age: 2d is over the limit of 1d",
    ),
    (
        "stale denials for longer than stale answers",
        "cache: {stale: {max_age: 1m, max_negative_age: 5m}}",
        "2: cache.stale.max_negative_age: 5m is over max_age (1m); raise max_age or lower max_negative_age",
    ),
    (
        "denied answers for longer than stale answers",
        "cache: {stale: {max_age: 1m, max_denied_age: 5m}}",
        "2: cache.stale.max_denied_age: 5m is over max_age (1m); raise max_age or lower max_denied_age",
    ),
    (
        "no size",
        "cache: {max_size: lots}",
        "2: cache.max_size: lots is not a size such as 64MiB or 0",
    ),
    (
        "size too small",
        "cache: {max_size: 1KiB}",
        "2: cache.max_size: 1KiB is under the minimum of 64KiB; 0 turns the cache off",
    ),
    (
        "size too large",
        "cache: {max_size: 1TiB}",
        "2: cache.max_size: 1TiB is over the limit of 64GiB",
    ),
    (
        "failure order",
        "cache: {failure_min: 10s}",
        "2: cache.failure_min: 10s is over failure_max (5s); raise failure_max or lower failure_min",
    ),
];

#[test]
fn a_bad_cache_says_where_it_is_and_what_would_be_right() {
    expect_messages(BAD_CACHES);
}
