//! What public dashboards and alerts for `CoreDNS` ask Prometheus, in our own words: the same families, labels and functions.
//!
//! Read for it:
//! - grafana.com/grafana/dashboards/15762, which is
//!   github.com/dotdc/grafana-dashboards-kubernetes/blob/master/dashboards/k8s-system-coredns.json;
//! - grafana.com/grafana/dashboards/12539, made of 5926, which is
//!   github.com/prometheus-community/helm-charts: charts/kube-prometheus-stack/templates/grafana/dashboards-1.14/k8s-coredns.yaml;
//! - github.com/povilasv/coredns-mixin: dashboards/coredns.libsonnet, alerts/coredns.libsonnet, alerts/forward.libsonnet, which are there for
//!   `NodeLocal DNSCache`, too;
//! - coredns.io/plugins/{cache,forward,health,hosts,metrics,reload}, for what each family means.
//!
//! `JOB` stands for the scraped job's name, `WINDOW` for a range that Grafana or the alert chooses.

/// Who has the families of an expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Had {
    /// `CoreDNS` now, and nodens.
    Now,
    /// `CoreDNS` before 1.11, and nodens.
    Before,
}

/// A panel's expression.
pub(crate) type Panel = (&'static str, Had, &'static str);

pub(crate) const PANELS: [Panel; 38] = {
    use Had::{Before, Now};
    [
        ("up", Now, r#"up{job="JOB"}"#),
        (
            "CPU",
            Now,
            r#"rate(process_cpu_seconds_total{job="JOB"}[WINDOW])"#,
        ),
        ("memory", Now, r#"process_resident_memory_bytes{job="JOB"}"#),
        (
            "instances",
            Now,
            r#"count by (version) (coredns_build_info{job="JOB"})"#,
        ),
        (
            "requests by protocol",
            Now,
            r#"sum by (proto) (rate(coredns_dns_requests_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "requests over UDP",
            Now,
            r#"sum(rate(coredns_dns_requests_total{job="JOB",proto="udp"}[WINDOW]))"#,
        ),
        (
            "requests over TCP",
            Now,
            r#"sum(rate(coredns_dns_requests_total{job="JOB",proto="tcp"}[WINDOW]))"#,
        ),
        (
            "requests by type",
            Now,
            r#"sum by (type) (rate(coredns_dns_requests_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "requests by zone",
            Now,
            r#"sum by (zone) (rate(coredns_dns_requests_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "requests with DO",
            Now,
            r#"sum(rate(coredns_dns_do_requests_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "request size, mean",
            Now,
            r#"sum by (proto) (rate(coredns_dns_request_size_bytes_sum{job="JOB"}[WINDOW])) / sum by (proto) (rate(coredns_dns_request_size_bytes_count{job="JOB"}[WINDOW]))"#,
        ),
        (
            "request size over UDP, p99",
            Now,
            r#"histogram_quantile(0.99, sum by (le, proto) (rate(coredns_dns_request_size_bytes_bucket{job="JOB",proto="udp"}[WINDOW])))"#,
        ),
        (
            "request size over TCP, p90",
            Now,
            r#"histogram_quantile(0.9, sum by (le, proto) (rate(coredns_dns_request_size_bytes_bucket{job="JOB",proto="tcp"}[WINDOW])))"#,
        ),
        (
            "request size by place, p50",
            Now,
            r#"histogram_quantile(0.5, sum by (server, zone, proto, le) (rate(coredns_dns_request_size_bytes_bucket{job="JOB"}[WINDOW])))"#,
        ),
        (
            "request size, heat map",
            Now,
            r#"sum by (le) (increase(coredns_dns_request_size_bytes_bucket{job="JOB",le!="0"}[WINDOW]))"#,
        ),
        (
            "response size over UDP, p99",
            Now,
            r#"histogram_quantile(0.99, sum by (le, proto) (rate(coredns_dns_response_size_bytes_bucket{job="JOB",proto="udp"}[WINDOW])))"#,
        ),
        (
            "response size by place, p50",
            Now,
            r#"histogram_quantile(0.5, sum by (server, zone, proto, le) (rate(coredns_dns_response_size_bytes_bucket{job="JOB"}[WINDOW])))"#,
        ),
        (
            "response size, heat map",
            Now,
            r#"sum by (le) (increase(coredns_dns_response_size_bytes_bucket{job="JOB",le!="0"}[WINDOW]))"#,
        ),
        (
            "responses by code",
            Now,
            r#"sum by (rcode) (rate(coredns_dns_responses_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "duration, p99",
            Now,
            r#"histogram_quantile(0.99, sum by (le, job) (rate(coredns_dns_request_duration_seconds_bucket{job="JOB"}[WINDOW])))"#,
        ),
        (
            "duration by place, p99",
            Now,
            r#"histogram_quantile(0.99, sum by (server, zone, le) (rate(coredns_dns_request_duration_seconds_bucket{job="JOB"}[WINDOW])))"#,
        ),
        (
            "duration, heat map",
            Now,
            r#"sum by (le) (increase(coredns_dns_request_duration_seconds_bucket{job="JOB"}[WINDOW]))"#,
        ),
        (
            "cache entries by type",
            Now,
            r#"sum by (type) (coredns_cache_entries{job="JOB"})"#,
        ),
        (
            "cache hits by type",
            Now,
            r#"sum by (type) (rate(coredns_cache_hits_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "cache misses",
            Now,
            r#"sum(rate(coredns_cache_misses_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "cache hit ratio",
            Now,
            r#"sum(coredns_cache_hits_total{job="JOB"}) / (sum(coredns_cache_misses_total{job="JOB"}) + sum(coredns_cache_hits_total{job="JOB"}))"#,
        ),
        (
            "cache hit ratio by requests",
            Now,
            r#"sum(rate(coredns_cache_hits_total{job="JOB"}[WINDOW])) / sum(rate(coredns_cache_requests_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "forwarded",
            Now,
            r#"sum(rate(coredns_proxy_request_duration_seconds_count{job="JOB",proxy_name="forward"}[WINDOW]))"#,
        ),
        (
            "forwarded, failed by code",
            Now,
            r#"sum by (rcode) (rate(coredns_proxy_request_duration_seconds_count{job="JOB",proxy_name="forward",rcode=~"SERVFAIL|REFUSED"}[WINDOW]))"#,
        ),
        (
            "forwarding by server, p99",
            Now,
            r#"histogram_quantile(0.99, sum by (to, le) (rate(coredns_proxy_request_duration_seconds_bucket{job="JOB"}[WINDOW])))"#,
        ),
        (
            "connections opened",
            Now,
            r#"sum by (to, proto) (coredns_proxy_conn_cache_misses_total{job="JOB"})"#,
        ),
        (
            "rejected by max_concurrent",
            Now,
            r#"rate(coredns_forward_max_concurrent_rejects_total{job="JOB"}[WINDOW])"#,
        ),
        ("panics", Now, r#"sum(coredns_panics_total{job="JOB"})"#),
        (
            "plugins",
            Now,
            r#"count(sum by (name) (coredns_plugin_enabled{job="JOB"}))"#,
        ),
        ("hosts", Now, r#"sum(coredns_hosts_entries{job="JOB"})"#),
        (
            "/health, p99",
            Now,
            r#"histogram_quantile(0.99, sum by (le) (rate(coredns_health_request_duration_seconds_bucket{job="JOB"}[WINDOW])))"#,
        ),
        (
            "forwarded by server, old",
            Before,
            r#"sum by (to) (rate(coredns_forward_requests_total{job="JOB"}[WINDOW]))"#,
        ),
        (
            "forwarded by code, old",
            Before,
            r#"sum by (rcode) (rate(coredns_forward_responses_total{job="JOB"}[WINDOW]))"#,
        ),
    ]
};

/// When an alert fires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fires {
    /// While a server is silent, one answers SERVFAIL, and the Corefile holds a mistake.
    InTheScene,
    /// Not there.
    Never,
    /// It depends on how long we wait for a silent server, and on how long `CoreDNS` does.
    Perhaps,
}

/// An alert's expression.
pub(crate) type Alert = (&'static str, Had, Fires, &'static str);

pub(crate) const ALERTS: [Alert; 14] = {
    use Fires::{InTheScene, Never, Perhaps};
    use Had::{Before, Now};
    [
        ("down", Now, Never, r#"absent(up{job="JOB"} == 1)"#),
        (
            "slow",
            Now,
            Perhaps,
            r#"histogram_quantile(0.99, sum by (server, zone, le) (rate(coredns_dns_request_duration_seconds_bucket{job="JOB"}[WINDOW]))) > 4"#,
        ),
        (
            "failures",
            Now,
            InTheScene,
            r#"sum without (instance, server, zone, view, plugin, rcode) (rate(coredns_dns_responses_total{job="JOB",rcode="SERVFAIL"}[WINDOW])) / sum without (instance, server, zone, view, plugin, rcode) (rate(coredns_dns_responses_total{job="JOB"}[WINDOW])) > 0.03"#,
        ),
        (
            "servers fail",
            Now,
            InTheScene,
            r#"sum by (to) (rate(coredns_proxy_request_duration_seconds_count{job="JOB",rcode="SERVFAIL"}[WINDOW])) / sum by (to) (rate(coredns_proxy_request_duration_seconds_count{job="JOB"}[WINDOW])) > 0.03"#,
        ),
        (
            "servers are slow",
            Now,
            Never,
            r#"histogram_quantile(0.99, sum by (to, le) (rate(coredns_proxy_request_duration_seconds_bucket{job="JOB"}[WINDOW]))) > 4"#,
        ),
        (
            "health checks fail",
            Now,
            InTheScene,
            r#"sum by (to) (rate(coredns_proxy_healthcheck_failures_total{job="JOB"}[WINDOW])) > 0"#,
        ),
        (
            "no server is healthy",
            Now,
            InTheScene,
            r#"sum without (instance) (rate(coredns_forward_healthcheck_broken_total{job="JOB"}[WINDOW])) > 0"#,
        ),
        (
            "panics",
            Now,
            Never,
            r#"sum(increase(coredns_panics_total{job="JOB"}[WINDOW])) > 0"#,
        ),
        (
            "a reload failed",
            Now,
            InTheScene,
            r#"increase(coredns_reload_failed_total{job="JOB"}[1m]) > 0"#,
        ),
        (
            "/health fails",
            Now,
            Never,
            r#"rate(coredns_health_request_failures_total{job="JOB"}[WINDOW]) > 0"#,
        ),
        (
            "/health is slow",
            Now,
            Never,
            r#"histogram_quantile(0.99, sum by (le) (rate(coredns_health_request_duration_seconds_bucket{job="JOB"}[WINDOW]))) > 1"#,
        ),
        (
            "servers fail, old",
            Before,
            InTheScene,
            r#"sum without (instance, rcode) (rate(coredns_forward_responses_total{job="JOB",rcode="SERVFAIL"}[WINDOW])) / sum without (instance, rcode) (rate(coredns_forward_responses_total{job="JOB"}[WINDOW])) > 0.03"#,
        ),
        (
            "servers are slow, old",
            Before,
            Never,
            r#"histogram_quantile(0.99, sum without (instance, rcode) (rate(coredns_forward_request_duration_seconds_bucket{job="JOB"}[WINDOW]))) > 4"#,
        ),
        (
            "health checks fail, old",
            Before,
            InTheScene,
            r#"sum without (instance) (rate(coredns_forward_healthcheck_failures_total{job="JOB"}[WINDOW])) > 0"#,
        ),
    ]
};
