//! Metrics of clients' queries.
//!
//! Workers count into plain counters of their own, and flush them four times a second, so that the hit path writes no shared
//! memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts};

use super::client::{Client, ListenerIndex};
use super::coredns::{ReplySource, ServedTotals, WorkerCounts};
use crate::message::labels::{RCODES, TYPES};
use crate::message::reply::{Asked, Protocol};
use crate::metrics::{Label, PerLabel, Registry, impl_label};

/// Why a client's message got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Shorter than a header.
    Short,
    /// A response, not a query.
    NotAQuery,
    /// The client is outside `allow`, and the limit on REFUSED replies to such clients was reached.
    NotAllowed,
    /// The kernel refused to send the reply.
    SendFailed,
    /// The client's connection was closed before the reply was ready.
    ClientGone,
}

impl_label!(Dropped {
    Short => "short",
    NotAQuery => "not_a_query",
    NotAllowed => "not_allowed",
    SendFailed => "send_failed",
    ClientGone => "client_gone",
});

/// The cache's part in a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// A fresh answer of the cache.
    Hit,
    /// The upstreams were asked, and the client waited.
    Miss,
    /// Neither: local names, and immediate errors and expired answers.
    Neither,
}

impl_label!(Cached {
    Hit => "hit",
    Miss => "miss",
    Neither => "none",
});

/// Why an expired answer was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// All servers of the route are silent or down.
    UpstreamsDown,
    /// No answer came within the client response timer (RFC 8767 §5).
    Slow,
    /// The servers failed.
    Failed,
    /// Too many queries were in flight.
    Overload,
    /// A server denies a name or record that was answered before (`stale_on`).
    Denied,
}

impl_label!(StaleReason {
    UpstreamsDown => "upstreams_down",
    Slow => "slow",
    Failed => "failed",
    Overload => "overload",
    Denied => "denied",
});

/// An answer that DNS64 synthesised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Synthesised {
    /// AAAA records from A records.
    Address,
    /// An alias for a reverse name, whose target is an IPv4 reverse name.
    Pointer,
}

impl_label!(Synthesised {
    Address => "address",
    Pointer => "pointer",
});

/// A limit that was reached, so that a query was not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// Questions in flight of the group.
    Group,
    /// Queries in flight of the client address.
    Client,
    /// Queries a second of a server.
    Rate,
}

impl_label!(Cap {
    Group => "group",
    Client => "client",
    Rate => "rate",
});

impl_label!(Protocol {
    Udp => "udp",
    Tcp => "tcp",
});

/// The label for replies without a route.
const NO_ROUTE: &str = "none";

/// The metric families of all workers. Clones share them.
#[derive(Debug, Clone)]
pub struct ServingFamilies {
    queries: IntCounterVec,
    replies: IntCounterVec,
    duration: HistogramVec,
    cache_hits: IntCounter,
    /// By route, for /status.
    route_hits: IntCounterVec,
    cache_misses: IntCounter,
    coalesced: IntCounter,
    dropped: IntCounterVec,
    kernel_drops: IntCounter,
    stale: IntCounterVec,
    rejected: IntCounterVec,
    prefetches: IntCounter,
    denials_doubted: IntCounter,
    synthesised: IntCounterVec,
    in_flight: IntGauge,
    /// Counts for CoreDNS's families; only with `metrics.coredns`.
    coredns: Option<Arc<ServedTotals>>,
}

impl ServingFamilies {
    /// Registers the families.
    #[must_use]
    pub fn register(registry: &Registry) -> Self {
        Self {
            queries: registry.counters(
                "nodens_queries_total",
                "Queries from clients, by protocol and type.",
                &["protocol", "type"],
            ),
            replies: registry.counters(
                "nodens_replies_total",
                "Replies to clients, by response code and the route that answered; route \"none\" is answered here.",
                &["rcode", "route"],
            ),
            duration: registry.histograms(
                "nodens_reply_duration_seconds",
                "From reading a query to handing its reply to the kernel: for cache hits, for misses, and for replies given here at once (none).",
                &["cache"],
            ),
            cache_hits: registry.counter("nodens_cache_hits_total", "Queries answered from the cache."),
            // Not registered: /metrics has the sum only.
            route_hits: IntCounterVec::new(
                Opts::new("route_hits", "Queries answered from the cache, by route."),
                &["route"],
            )
            .expect("names and labels are literals that follow the format"),
            cache_misses: registry.counter(
                "nodens_cache_misses_total",
                "Queries that the cache could have answered and did not.",
            ),
            coalesced: registry.counter(
                "nodens_coalesced_total",
                "Queries that joined an identical one already in flight.",
            ),
            dropped: registry.counters(
                "nodens_dropped_total",
                "Messages from clients that got no reply, by reason.",
                &["reason"],
            ),
            kernel_drops: registry.counter(
                "nodens_kernel_drops_total",
                "Datagrams from clients that the kernel dropped because our receive buffer was full (SO_RXQ_OVFL).",
            ),
            stale: registry.counters(
                "nodens_stale_total",
                "Expired answers served because no fresh one could be had, by reason.",
                &["reason"],
            ),
            rejected: registry.counters(
                "nodens_rejected_total",
                "Queries not forwarded because too many were in flight, by whose cap was reached.",
                &["cap"],
            ),
            prefetches: registry.counter(
                "nodens_cache_prefetches_total",
                "Popular answers fetched anew shortly before they expired.",
            ),
            denials_doubted: registry.counter(
                "nodens_denials_doubted_total",
                "Answers NXDOMAIN for A or AAAA that were taken for empty ones, because the name has addresses of the other family.",
            ),
            synthesised: registry.counters(
                "nodens_dns64_answers_total",
                "Answers that DNS64 made: addresses of A records, and aliases for the reverse names of such addresses.",
                &["made"],
            ),
            in_flight: registry.gauge(
                "nodens_in_flight",
                "Distinct questions waiting for an upstream's answer now.",
            ),
            coredns: None,
        }
    }

    /// Has workers count what CoreDNS's families need, too. Applies only to workers made afterwards.
    pub fn count_for_coredns(&mut self) {
        self.coredns = Some(Arc::default());
    }

    /// The counts for CoreDNS's families. None without `metrics.coredns`.
    #[must_use]
    pub fn coredns(&self) -> Option<&ServedTotals> {
        self.coredns.as_deref()
    }

    /// The number of a listen address.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> ListenerIndex {
        let totals = self.coredns.as_ref();
        totals.map_or_else(ListenerIndex::default, |totals| totals.listener(address))
    }

    /// The totals that `/status` shows of all clients, as of the workers' last flushes.
    #[must_use]
    pub fn totals(&self) -> Totals {
        fn by<L: Label>(family: &IntCounterVec) -> BTreeMap<&'static str, u64> {
            L::ALL
                .iter()
                .map(|label| label.label())
                .map(|label| (label, family.with_label_values(&[label]).get()))
                .collect()
        }
        Totals {
            cache_hits: self.cache_hits.get(),
            cache_misses: self.cache_misses.get(),
            coalesced: self.coalesced.get(),
            prefetches: self.prefetches.get(),
            stale: by::<StaleReason>(&self.stale),
            rejected: by::<Cap>(&self.rejected),
        }
    }

    /// The totals that `/status` shows of one route's queries. The label `none` stands for queries without a route.
    #[must_use]
    pub fn of_route(&self, route: &str) -> RouteTotals {
        let labels = RCODES.iter().map(|(_, label)| *label).chain(["other"]);
        let replies: BTreeMap<_, _> = labels
            .map(|label| (label, self.replies.with_label_values(&[label, route]).get()))
            .filter(|(_, count)| *count > 0)
            .collect();
        RouteTotals {
            queries: replies.values().sum(),
            hits: self.route_hits.with_label_values(&[route]).get(),
            replies,
        }
    }

    /// Removes the counters of a route that is gone. Otherwise their number would grow without end.
    pub fn forget_route(&self, route: &str) {
        // Removing fails for labels that were never used, and that is no error.
        for label in RCODES.iter().map(|(_, label)| *label).chain(["other"]) {
            let _ = self.replies.remove_label_values(&[label, route]);
        }
        let _ = self.route_hits.remove_label_values(&[route]);
    }

    /// The counters of one worker. `routes` are the routes' labels by index; None where a route is gone.
    #[must_use]
    pub fn worker<'a>(&self, routes: impl Iterator<Item = Option<&'a str>>) -> WorkerMetrics {
        let routes: Vec<_> = routes.map(|route| route.unwrap_or(NO_ROUTE)).collect();
        let queries = |protocol: &str| -> Vec<_> {
            TYPES
                .iter()
                .map(|(_, label)| *label)
                .chain(["other"])
                .map(|label| self.queries.with_label_values(&[protocol, label]).local())
                .collect()
        };
        let replies = |route: &str| -> Vec<_> {
            RCODES
                .iter()
                .map(|(_, label)| *label)
                .chain(["other"])
                .map(|label| self.replies.with_label_values(&[label, route]).local())
                .collect()
        };
        WorkerMetrics {
            queries: PerLabel::new(queries),
            local_replies: replies(NO_ROUTE),
            route_replies: routes.iter().copied().map(replies).collect(),
            route_hits: routes
                .iter()
                .map(|route| self.route_hits.with_label_values(&[route]).local())
                .collect(),
            duration: PerLabel::new(|label| self.duration.with_label_values(&[label]).local()),
            cache_hits: self.cache_hits.clone(),
            cache_misses: self.cache_misses.local(),
            coalesced: self.coalesced.local(),
            dropped: PerLabel::new(|label| self.dropped.with_label_values(&[label]).local()),
            kernel_drops: RefCell::new(self.kernel_drops.local()),
            in_flight: self.in_flight.clone(),
            stale: PerLabel::new(|label| self.stale.with_label_values(&[label])),
            rejected: PerLabel::new(|label| self.rejected.with_label_values(&[label])),
            prefetches: self.prefetches.clone(),
            denials_doubted: self.denials_doubted.clone(),
            synthesised: PerLabel::new(|label| self.synthesised.with_label_values(&[label])),
            coredns: self.coredns.as_ref().map(ServedTotals::worker),
        }
    }
}

/// Totals of all clients since the start, for `/status`.
#[derive(Debug, serde::Serialize)]
pub struct Totals {
    /// Queries answered from the cache.
    pub cache_hits: u64,
    /// Queries that the cache could not answer.
    pub cache_misses: u64,
    /// Queries that joined the flight of the same question.
    pub coalesced: u64,
    /// Prefetches of popular answers.
    pub prefetches: u64,
    /// Expired answers served, by reason.
    pub stale: BTreeMap<&'static str, u64>,
    /// Queries that were not forwarded, by the limit that was reached.
    pub rejected: BTreeMap<&'static str, u64>,
}

/// Totals of one route's queries since the start, for `/status`.
#[derive(Debug, serde::Serialize)]
pub struct RouteTotals {
    /// Queries that got a reply.
    pub queries: u64,
    /// Queries that the cache answered.
    pub hits: u64,
    /// Replies by response code. Codes without replies are left out.
    pub replies: BTreeMap<&'static str, u64>,
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerMetrics {
    queries: PerLabel<Protocol, Vec<LocalIntCounter>>,
    local_replies: Vec<LocalIntCounter>,
    route_replies: Vec<Vec<LocalIntCounter>>,
    /// Hits by route. Their sum is `cache_hits`.
    route_hits: Vec<LocalIntCounter>,
    duration: PerLabel<Cached, LocalHistogram>,
    cache_hits: IntCounter,
    cache_misses: LocalIntCounter,
    coalesced: LocalIntCounter,
    dropped: PerLabel<Dropped, LocalIntCounter>,
    kernel_drops: RefCell<LocalIntCounter>,
    /// Questions in flight. A shared gauge, because it changes with misses only.
    pub in_flight: IntGauge,
    stale: PerLabel<StaleReason, IntCounter>,
    rejected: PerLabel<Cap, IntCounter>,
    /// Shared counters, because these events are rare.
    pub prefetches: IntCounter,
    /// The same.
    pub denials_doubted: IntCounter,
    synthesised: PerLabel<Synthesised, IntCounter>,
    coredns: Option<WorkerCounts>,
}

impl WorkerMetrics {
    /// Counts a query.
    #[inline]
    pub fn query(&self, protocol: Protocol, qtype: u16) {
        let index = TYPES
            .iter()
            .position(|(known, _)| *known == qtype)
            .unwrap_or(TYPES.len());
        self.queries.of(protocol)[index].inc();
    }

    /// Counts a reply.
    #[inline]
    pub fn reply(&self, code: u16, route: Option<u16>) {
        let index = RCODES
            .iter()
            .position(|(known, _)| *known == code)
            .unwrap_or(RCODES.len());
        let counters = route.and_then(|route| self.route_replies.get(usize::from(route)));
        counters.unwrap_or(&self.local_replies)[index].inc();
    }

    /// Counts a reply with `octets` octets, which was made from `made`.
    #[inline]
    pub fn reply_made(
        &self,
        asked: &Asked<'_>,
        client: Client,
        (code, route): (u16, Option<u16>),
        made: ReplySource,
        octets: usize,
    ) {
        self.reply(code, route);
        if let Some(coredns) = &self.coredns {
            coredns.reply(asked, client, (code, route), made, octets);
        }
    }

    /// Counts a query that the cache answered with an answer of this route.
    #[inline]
    pub fn hit(&self, route: Option<u16>) {
        let counter = route.and_then(|route| self.route_hits.get(usize::from(route)));
        match counter {
            Some(counter) => counter.inc(),
            None => self.cache_hits.inc(),
        }
    }

    /// Counts a query that the cache could not answer.
    pub fn miss(&self, client: Client, route: u16) {
        self.cache_misses.inc();
        if let Some(coredns) = &self.coredns {
            coredns.miss(client.listener, route);
        }
    }

    /// Counts a query that joined the flight of the same question.
    pub fn coalesced(&self) {
        self.coalesced.inc();
    }

    /// Counts `count` replies that were ready `duration` after their queries were read.
    #[inline]
    pub fn replied_after(&self, cached: Cached, count: usize, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for _ in 0..count {
            self.duration.of(cached).observe(seconds);
        }
    }

    /// Counts a message that gets no reply.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped.of(reason).inc();
    }

    /// Counts datagrams that the kernel dropped.
    pub fn kernel_drops(&self, count: u32) {
        self.kernel_drops.borrow_mut().inc_by(u64::from(count));
    }

    /// Counts an expired answer that is served.
    pub fn stale(&self, reason: StaleReason) {
        self.stale.of(reason).inc();
    }

    /// Counts an answer that DNS64 synthesised.
    pub fn synthesised(&self, made: Synthesised) {
        self.synthesised.of(made).inc();
    }

    /// Counts a query that is not forwarded, because a limit was reached.
    pub fn rejected(&self, cap: Cap) {
        self.rejected.of(cap).inc();
    }

    /// Adds the counts since the last flush to the process's totals.
    pub fn flush(&self) {
        let counters = self.queries.iter().flatten().chain(&self.local_replies);
        for counter in counters
            .chain(self.route_replies.iter().flatten())
            .chain(self.dropped.iter())
        {
            counter.flush();
        }
        let hits = self.route_hits.iter().map(LocalIntCounter::get).sum();
        self.cache_hits.inc_by(hits);
        for counter in &self.route_hits {
            counter.flush();
        }
        for counter in [&self.cache_misses, &self.coalesced] {
            counter.flush();
        }
        self.kernel_drops.borrow().flush();
        for histogram in self.duration.iter() {
            histogram.flush();
        }
        if let Some(coredns) = &self.coredns {
            coredns.flush();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::wire::{rcode, rr};

    #[test]
    fn local_counts_show_after_a_flush() {
        let registry = Registry::new();
        let families = ServingFamilies::register(&registry);
        let worker = families.worker([Some("cluster.local.")].into_iter());
        worker.query(Protocol::Tcp, rr::AAAA);
        worker.query(Protocol::Udp, 65280);
        worker.reply(rcode::NXDOMAIN, Some(0));
        worker.reply(rcode::REFUSED, None);
        worker.replied_after(Cached::Hit, 2, Duration::from_micros(20));
        worker.kernel_drops(3);
        worker.hit(Some(0));
        worker.hit(None);
        worker.flush();
        worker.flush();
        let route = families.of_route("cluster.local.");
        assert_eq!((route.queries, route.hits), (1, 1));
        let text = registry.render();
        for line in [
            r#"nodens_queries_total{protocol="tcp",type="AAAA"} 1"#,
            r#"nodens_queries_total{protocol="udp",type="other"} 1"#,
            r#"nodens_replies_total{rcode="NXDOMAIN",route="cluster.local."} 1"#,
            r#"nodens_replies_total{rcode="REFUSED",route="none"} 1"#,
            r#"nodens_reply_duration_seconds_count{cache="hit"} 2"#,
            "nodens_kernel_drops_total 3",
            "nodens_cache_hits_total 2",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is not in\n{text}"
            );
        }
    }
}
