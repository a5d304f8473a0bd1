//! All families of the process, and those of the process itself: the cache's size, the configuration in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{GaugeVec, IntCounter, IntGauge, IntGaugeVec};

use super::scheduling::SchedulingMetrics;
use crate::listener::slots::ConnectionMetrics;
use crate::metrics::Registry;
use crate::node::metrics::NodeMetrics;
use crate::serving::metrics::ServingFamilies;
use crate::upstream::metrics::UpstreamFamilies;

/// Everything on /metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    /// Clients' queries.
    pub serving: ServingFamilies,
    /// Groups and servers.
    pub upstream: UpstreamFamilies,
    /// Client connections over TCP.
    pub connections: ConnectionMetrics,
    /// The node's interface and rules.
    pub node: NodeMetrics,
    /// Entries in the cache now.
    pub cache_entries: IntGauge,
    /// Bytes they weigh.
    pub cache_bytes: IntGauge,
    /// Bytes they may weigh.
    pub cache_max_bytes: IntGauge,
    /// Entries that made room for others.
    pub cache_evictions: IntCounter,
    /// Answers that the predecessor offered at the start, by result.
    pub handover_answers: IntGaugeVec,
    /// How long that took.
    pub handover_seconds: GaugeVec,
    /// Workers under real-time scheduling.
    pub scheduling: SchedulingMetrics,
    /// Names of upstream servers that have no address yet.
    pub unresolved_hosts: IntGauge,
    /// Whether the configuration files are in force as they are.
    pub reload_success: IntGauge,
    /// When a configuration was last put in force, in seconds since 1970.
    pub reload_timestamp: IntGauge,
    /// Keys whose change waits for a restart.
    pub restart_needed: IntGauge,
    /// Panics since [`Metrics::count_panics`].
    pub panics: Arc<AtomicU64>,
}

impl Metrics {
    /// All families, at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        registry.collect(prometheus::process_collector::ProcessCollector::for_self());
        let build = registry.gauges(
            "nodens_build_info",
            "Always 1; the version is in the label.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let handover_answers = registry.gauges(
            "nodens_handover_answers",
            "Answers that an earlier instance handed over when this one started. Refused: they take another way here, or cannot be read.",
            &["result"],
        );
        for result in ["taken", "refused"] {
            handover_answers.with_label_values(&[result]).set(0);
        }
        let handover_seconds = registry.seconds(
            "nodens_handover_seconds",
            "How long this instance took over answers from an earlier one when it started; 0 if there was none.",
            &[],
        );
        let no_labels: &[&str] = &[];
        handover_seconds.with_label_values(no_labels).set(0.0);
        Self {
            serving: ServingFamilies::register(&registry),
            upstream: UpstreamFamilies::register(&registry),
            connections: ConnectionMetrics::register(&registry),
            node: NodeMetrics::register(&registry),
            cache_entries: registry.gauge("nodens_cache_entries", "Answers in the cache now."),
            cache_bytes: registry.gauge(
                "nodens_cache_bytes",
                "Bytes of the cache's entries, keys and overhead now; cache.max_size bounds it.",
            ),
            cache_max_bytes: registry.gauge(
                "nodens_cache_max_bytes",
                "What nodens_cache_bytes may grow to: cache.max_size.",
            ),
            cache_evictions: registry.counter(
                "nodens_cache_evictions_total",
                "Answers that made room for others. Many of them beside few hits: the cache is too small.",
            ),
            handover_answers,
            handover_seconds,
            scheduling: SchedulingMetrics::register(&registry),
            unresolved_hosts: registry.gauge(
                "nodens_upstream_unresolved_hosts",
                "Host names of upstream servers that have no address yet. Which ones, and why: /status.",
            ),
            reload_success: registry.gauge(
                "nodens_config_reload_success",
                "1 if the configuration files are in force as they are now, 0 if they hold a mistake and the earlier configuration stays.",
            ),
            reload_timestamp: registry.gauge(
                "nodens_config_last_success_timestamp_seconds",
                "When a configuration was last put in force, in seconds since 1970.",
            ),
            restart_needed: registry.gauge(
                "nodens_config_restart_needed",
                "Keys that were changed in the configuration and take a restart; /status names them.",
            ),
            panics: Arc::default(),
            registry,
        }
    }

    /// Parts created from now on also count what CoreDNS's families need.
    pub fn count_for_coredns(&mut self) {
        self.serving.count_for_coredns();
        self.upstream.count_for_coredns();
    }

    /// Counts the process's panics from now on, in addition to the present panic hook.
    pub fn count_panics(&self) {
        let panics = Arc::clone(&self.panics);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            panics.fetch_add(1, Ordering::Relaxed);
            before(info);
        }));
    }

    /// Counts the lines that the log dropped, as `dropped` tells them.
    pub fn log(&self, dropped: impl Fn() -> u64 + Send + Sync + 'static) {
        self.registry.counted_elsewhere(
            "nodens_log_lines_dropped_total",
            "Lines of the log that were dropped because nobody reads it fast enough.",
            dropped,
        );
    }

    /// The text exposition.
    #[must_use]
    pub fn render(&self) -> String {
        self.registry.render()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
