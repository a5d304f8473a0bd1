//! What `CoreDNS` has on /metrics: names, types, labels and buckets, as its 1.15.0 shows them under the Corefile of the scene; as
//! `NodeLocal DNSCache` adds to them; as `forward` had them before 1.11. `NODENS_COREDNS=/path/to/coredns` compares this with the real one.

/// Whose family it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// `CoreDNS` 1.11 to 1.15, in the scene.
    Scene,
    /// The same, from an event on that the scene does not have.
    Event,
    /// `NodeLocal DNSCache`, whose work takes rights.
    NodeCache,
    /// `CoreDNS` before 1.11.
    Before,
}

/// A family.
pub(crate) struct Recorded {
    pub(crate) of: Of,
    pub(crate) name: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) labels: &'static [&'static str],
    pub(crate) bounds: &'static [f64],
}

const fn counter(of: Of, name: &'static str, labels: &'static [&'static str]) -> Recorded {
    Recorded {
        of,
        name,
        kind: "counter",
        labels,
        bounds: &[],
    }
}

const fn gauge(of: Of, name: &'static str, labels: &'static [&'static str]) -> Recorded {
    let kind = "gauge";
    Recorded {
        kind,
        ..counter(of, name, labels)
    }
}

const fn histogram(
    of: Of,
    name: &'static str,
    labels: &'static [&'static str],
    bounds: &'static [f64],
) -> Recorded {
    Recorded {
        kind: "histogram",
        bounds,
        ..counter(of, name, labels)
    }
}

const TIMES: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024,
    2.048, 4.096, 8.192,
];
const SIZES: &[f64] = &[
    0.0, 100.0, 200.0, 300.0, 400.0, 511.0, 1023.0, 2047.0, 4095.0, 8291.0, 16_000.0, 32_000.0,
    48_000.0, 64_000.0,
];
const HEALTH_TIMES: &[f64] = &[0.000_25, 0.002_5, 0.025, 0.25, 2.5];

const PLACE: &[&str] = &["server", "view", "zone"];
const SIZED: &[&str] = &["proto", "server", "view", "zone"];
const CACHE: &[&str] = &["server", "view", "zones"];
const CACHE_TYPE: &[&str] = &["server", "type", "view", "zones"];
const PROXY: &[&str] = &["proxy_name", "to"];
const PROXY_CODE: &[&str] = &["proxy_name", "rcode", "to"];
const PROXY_PROTO: &[&str] = &["proto", "proxy_name", "to"];

pub(crate) const FAMILIES: [Recorded; 35] = {
    use Of::{Before, Event, NodeCache, Scene};
    [
        gauge(
            Scene,
            "coredns_build_info",
            &["goversion", "revision", "version"],
        ),
        counter(Scene, "coredns_panics_total", &[]),
        gauge(
            Scene,
            "coredns_plugin_enabled",
            &["name", "server", "view", "zone"],
        ),
        counter(
            Scene,
            "coredns_dns_requests_total",
            &["family", "proto", "server", "type", "view", "zone"],
        ),
        counter(
            Scene,
            "coredns_dns_responses_total",
            &["plugin", "rcode", "server", "view", "zone"],
        ),
        histogram(Scene, "coredns_dns_request_duration_seconds", PLACE, TIMES),
        histogram(Scene, "coredns_dns_request_size_bytes", SIZED, SIZES),
        histogram(Scene, "coredns_dns_response_size_bytes", SIZED, SIZES),
        counter(Scene, "coredns_dns_do_requests_total", PLACE),
        gauge(Scene, "coredns_cache_entries", CACHE_TYPE),
        counter(Scene, "coredns_cache_hits_total", CACHE_TYPE),
        counter(Scene, "coredns_cache_misses_total", CACHE),
        counter(Scene, "coredns_cache_requests_total", CACHE),
        counter(Event, "coredns_cache_served_stale_total", CACHE),
        counter(Event, "coredns_cache_evictions_total", CACHE_TYPE),
        counter(Event, "coredns_cache_prefetch_total", CACHE),
        counter(Event, "coredns_cache_drops_total", CACHE),
        histogram(
            Scene,
            "coredns_proxy_request_duration_seconds",
            PROXY_CODE,
            TIMES,
        ),
        counter(Event, "coredns_proxy_healthcheck_failures_total", PROXY),
        counter(Scene, "coredns_proxy_conn_cache_hits_total", PROXY_PROTO),
        counter(Scene, "coredns_proxy_conn_cache_misses_total", PROXY_PROTO),
        counter(Scene, "coredns_forward_healthcheck_broken_total", &[]),
        counter(Scene, "coredns_forward_max_concurrent_rejects_total", &[]),
        counter(Before, "coredns_forward_requests_total", &["to"]),
        counter(Before, "coredns_forward_responses_total", &["rcode", "to"]),
        histogram(
            Before,
            "coredns_forward_request_duration_seconds",
            &["rcode", "to"],
            TIMES,
        ),
        counter(
            Before,
            "coredns_forward_healthcheck_failures_total",
            &["to"],
        ),
        counter(
            Before,
            "coredns_forward_conn_cache_hits_total",
            &["proto", "to"],
        ),
        counter(
            Before,
            "coredns_forward_conn_cache_misses_total",
            &["proto", "to"],
        ),
        counter(Scene, "coredns_reload_failed_total", &[]),
        histogram(
            Scene,
            "coredns_health_request_duration_seconds",
            &[],
            HEALTH_TIMES,
        ),
        counter(Scene, "coredns_health_request_failures_total", &[]),
        gauge(Scene, "coredns_hosts_entries", &["hostsfile"]),
        gauge(Scene, "coredns_hosts_reload_timestamp_seconds", &[]),
        counter(
            NodeCache,
            "coredns_nodecache_setup_errors_total",
            &["errortype"],
        ),
    ]
};

/// Families of the real one under the scene's Corefile that are not here, by intent.
pub(crate) const NOT_HERE: [&str; 2] = [
    "coredns_local_localhost_requests_total",
    "coredns_template_matches_total",
];
