//! Families of clients' queries, and of the cache.

use std::collections::BTreeMap;

use super::CorednsSources;
use crate::message::labels::{COREDNS_TYPES, coredns_code};
use crate::message::reply::Protocol;
use crate::metrics::Label;
use crate::metrics::coredns::{SIZE_BOUNDS, SIZES, TIMES};
use crate::metrics::distribution::Distribution;
use crate::metrics::exposition::{Exposition, FamilyKind};
use crate::serving::coredns::{Counts, EntryKind, FAMILIES, Plugin, route_label};

/// What was counted, by `server` and `zone`.
type ByLabels = BTreeMap<(String, String), Counts>;

/// Writes them all.
pub(super) fn write(out: &mut Exposition, sources: &CorednsSources<'_>, counted: &ByLabels) {
    write_queries(out, counted);
    write_sizes(out, counted);
    write_replies(out, counted);
    write_cache_use(out, sources, counted);
    write_cache(out, sources);
}

/// Octets, by protocol.
type Sizes = [Distribution<SIZE_BOUNDS>; Protocol::ALL.len()];

/// Labels that all families of queries have.
fn place((server, zone): &(String, String)) -> [(&str, &str); 3] {
    [("server", server), ("zone", zone), ("view", "")]
}

/// The same in families of the cache, which have a list of zones.
fn cache_place<'a>(server: &'a str, zone: &'a str) -> [(&'a str, &'a str); 3] {
    [("server", server), ("zones", zone), ("view", "")]
}

fn with<'a>(
    labels: [(&'a str, &'a str); 3],
    more: &[(&'a str, &'a str)],
) -> Vec<(&'a str, &'a str)> {
    labels.into_iter().chain(more.iter().copied()).collect()
}

fn write_queries(out: &mut Exposition, counted: &ByLabels) {
    let mut requests = out.family(
        "coredns_dns_requests_total",
        FamilyKind::Counter,
        "Queries that were answered, by zone, protocol, family of the client's address (1 for IPv4, 2 for IPv6) and type.",
    );
    for (at, counts) in counted {
        for (family, protocols) in FAMILIES.iter().zip(&counts.requests) {
            for (protocol, types) in Protocol::ALL.iter().zip(protocols) {
                for (index, count) in types.iter().enumerate().filter(|(_, count)| **count > 0) {
                    let qtype = COREDNS_TYPES.get(index).map_or("other", |(_, label)| label);
                    let more = [
                        ("proto", protocol.label()),
                        ("family", family),
                        ("type", qtype),
                    ];
                    requests.sample(&with(place(at), &more), count);
                }
            }
        }
    }
    let mut dnssec_ok = out.family(
        "coredns_dns_do_requests_total",
        FamilyKind::Counter,
        "Queries with the DO bit that were answered.",
    );
    for (at, counts) in counted {
        dnssec_ok.sample(&place(at), counts.dnssec_ok);
    }
}

fn write_sizes(out: &mut Exposition, counted: &ByLabels) {
    let mut sizes = |name, help, of: fn(&Counts) -> &Sizes| {
        let mut family = out.family(name, FamilyKind::Histogram, help);
        for (at, counts) in counted {
            for (protocol, values) in Protocol::ALL.iter().zip(of(counts)) {
                if values.count() > 0 {
                    let labels = with(place(at), &[("proto", protocol.label())]);
                    family.distribution(&labels, &SIZES, values);
                }
            }
        }
    };
    sizes(
        "coredns_dns_request_size_bytes",
        "Octets of the queries that were answered.",
        |counts| &counts.request_size,
    );
    sizes(
        "coredns_dns_response_size_bytes",
        "Octets of replies.",
        |counts| &counts.response_size,
    );
}

fn write_replies(out: &mut Exposition, counted: &ByLabels) {
    let mut duration = out.family(
        "coredns_dns_request_duration_seconds",
        FamilyKind::Histogram,
        "From reading a query to its reply.",
    );
    for (at, counts) in counted {
        if counts.duration.count() > 0 {
            duration.distribution(&place(at), &TIMES, &counts.duration);
        }
    }
    let mut responses = out.family(
        "coredns_dns_responses_total",
        FamilyKind::Counter,
        "Replies, by response code and by the plugin of CoreDNS that does what made them; errors are made by none.",
    );
    for (at, counts) in counted {
        for (plugin, codes) in Plugin::ALL.iter().zip(&counts.responses) {
            for (code, count) in codes.iter().enumerate().filter(|(_, count)| **count > 0) {
                let more = [("rcode", coredns_code(code)), ("plugin", plugin.label())];
                responses.sample(&with(place(at), &more), count);
            }
        }
    }
}

/// What queries found in the cache. All are there from the start for the first address, or a ratio would be missing.
fn write_cache_use(out: &mut Exposition, sources: &CorednsSources<'_>, counted: &ByLabels) {
    let mut known = BTreeMap::from([((sources.first_server(), ".".to_owned()), Counts::default())]);
    for (at, counts) in counted {
        known.entry(at.clone()).or_default().add(counts);
    }
    known.retain(|(_, zone), counts| {
        zone == "." || counts.misses + counts.stale + counts.hits.iter().sum::<u64>() > 0
    });
    let mut hits = out.family(
        "coredns_cache_hits_total",
        FamilyKind::Counter,
        "Queries answered from the cache by a fresh answer, by what that was.",
    );
    for ((server, zone), counts) in &known {
        for (stored, count) in EntryKind::ALL.iter().zip(counts.hits) {
            let labels = with(cache_place(server, zone), &[("type", stored.label())]);
            hits.sample(&labels, count);
        }
    }
    let mut each = |name, help, of: fn(&Counts) -> u64| {
        let mut family = out.family(name, FamilyKind::Counter, help);
        for ((server, zone), counts) in &known {
            family.sample(&cache_place(server, zone), of(counts));
        }
    };
    each(
        "coredns_cache_misses_total",
        "Queries that the cache could have answered and did not.",
        |counts| counts.misses,
    );
    each(
        "coredns_cache_requests_total",
        "Queries that the cache could have answered.",
        |counts| counts.misses + counts.hits.iter().sum::<u64>(),
    );
    each(
        "coredns_cache_served_stale_total",
        "Expired answers served because no fresh one could be had.",
        |counts| counts.stale,
    );
}

/// What is known of the cache as a whole.
fn write_cache(out: &mut Exposition, sources: &CorednsSources<'_>) {
    let (cache, first) = (&sources.shared.cache, sources.first_server());
    let setup = sources.shared.current.load();
    let mut entries: BTreeMap<(String, usize), u64> = EntryKind::ALL
        .iter()
        .map(|stored| ((".".to_owned(), stored.index()), 0))
        .collect();
    for entry in cache.iter() {
        let route = entry.route().and_then(|at| setup.routes.existing(at));
        let zone = route.map_or_else(|| ".".to_owned(), |route| route_label(&route.zone));
        *entries
            .entry((zone, EntryKind::of(&entry).index()))
            .or_default() += 1;
    }
    let mut family = out.family(
        "coredns_cache_entries",
        FamilyKind::Gauge,
        "Answers in the cache now, expired ones included.",
    );
    for ((zone, stored), count) in &entries {
        let stored = EntryKind::ALL[*stored].label();
        family.sample(&with(cache_place(&first, zone), &[("type", stored)]), count);
    }
    let mut evictions = out.family(
        "coredns_cache_evictions_total",
        FamilyKind::Counter,
        "Answers that made room for others.",
    );
    let negative = cache.negative_evictions();
    let positive = cache.evictions().saturating_sub(negative);
    for (stored, count) in [
        (EntryKind::Success, positive),
        (EntryKind::Denial, negative),
    ] {
        let labels = with(cache_place(&first, "."), &[("type", stored.label())]);
        evictions.sample(&labels, count);
    }
    let prefetches = sources.shared.metrics.totals().prefetches;
    out.family(
        "coredns_cache_prefetch_total",
        FamilyKind::Counter,
        "Popular answers fetched anew shortly before they expired.",
    )
    .sample(&cache_place(&first, "."), prefetches);
    let servers = &setup.upstreams.servers;
    let dropped: u64 = servers
        .iter()
        .map(|server| server.exchanges().wrong_questions())
        .sum();
    out.family(
        "coredns_cache_drops_total",
        FamilyKind::Counter,
        "Messages of upstream servers that answer another question than ours, and are not kept.",
    )
    .sample(&cache_place(&first, "."), dropped);
}
