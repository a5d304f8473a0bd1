//! Every metric's name, help text and labels, on a registry of our own.
//!
//! Owns the whole of /metrics. Label sets are closed: protocols, a fixed list of types and response codes, and the
//! routes, groups and servers of the configuration; never a QNAME or a client. Workers count into plain local counters
//! and flush them four times a second, so that the hit path touches no shared memory.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::message::wire::{rcode, rr};
use crate::upstream::health::{Reason, State};

/// Seconds. Hits take microseconds, misses milliseconds; what takes longer than a client's patience is all the same.
const BUCKETS: [f64; 16] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025,
    0.1, 0.25, 0.5, 1.0, 4.0,
];

/// Types with a label of their own; the rest is `other`.
const TYPES: [(u16, &str); 14] = [
    (rr::A, "A"),
    (rr::AAAA, "AAAA"),
    (rr::CNAME, "CNAME"),
    (rr::HTTPS, "HTTPS"),
    (rr::MX, "MX"),
    (rr::NS, "NS"),
    (rr::PTR, "PTR"),
    (rr::SOA, "SOA"),
    (rr::SRV, "SRV"),
    (rr::TXT, "TXT"),
    (rr::ANY, "ANY"),
    (43, "DS"),
    (48, "DNSKEY"),
    (64, "SVCB"),
];

/// Response codes with a label of their own; the rest is `other`.
const RCODES: [(u16, &str); 7] = [
    (rcode::NOERROR, "NOERROR"),
    (rcode::FORMERR, "FORMERR"),
    (rcode::SERVFAIL, "SERVFAIL"),
    (rcode::NXDOMAIN, "NXDOMAIN"),
    (rcode::NOTIMP, "NOTIMP"),
    (rcode::REFUSED, "REFUSED"),
    (rcode::BADVERS, "BADVERS"),
];

/// The label of a response code.
#[must_use]
pub fn rcode_label(code: u16) -> &'static str {
    RCODES
        .iter()
        .find(|(known, _)| *known == code)
        .map_or("other", |(_, label)| label)
}

/// The label of a type.
#[must_use]
pub fn type_label(qtype: u16) -> &'static str {
    TYPES
        .iter()
        .find(|(known, _)| *known == qtype)
        .map_or("other", |(_, label)| label)
}

/// Why a client's datagram or stream got no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Shorter than a header.
    Short,
    /// A response, not a query.
    NotAQuery,
    /// A client outside `allow`, over the rate at which such are told so.
    NotAllowed,
    /// The kernel would not send the reply.
    SendFailed,
    /// The client's connection was gone before its reply was ready.
    ClientGone,
}

impl Dropped {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Short, "short"),
        (Self::NotAQuery, "not_a_query"),
        (Self::NotAllowed, "not_allowed"),
        (Self::SendFailed, "send_failed"),
        (Self::ClientGone, "client_gone"),
    ];
}

/// What the cache had to do with a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cached {
    /// It came from there.
    Hit,
    /// An upstream had to be asked.
    Miss,
    /// It was given here at once: local names, errors, expired answers.
    Neither,
}

impl Cached {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Hit, "hit"),
        (Self::Miss, "miss"),
        (Self::Neither, "none"),
    ];
}

/// How one try with one server ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With a final answer.
    Answered,
    /// With SERVFAIL.
    Servfail,
    /// With REFUSED.
    Refused,
    /// With NOTIMP.
    Notimp,
    /// With FORMERR.
    Formerr,
    /// With another response code.
    OtherCode,
    /// With a referral: it does not resolve for us.
    Referral,
    /// With an answer cut to fit a datagram.
    Truncated,
    /// Not in time, while another try was answered.
    Lost,
    /// Not in time, and nobody else answered the question either.
    Unanswered,
    /// The network said that the server cannot be reached.
    Unreachable,
    /// With a message whose counts, lengths or names lie.
    Malformed,
}

impl Outcome {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Answered, "answered"),
        (Self::Servfail, "servfail"),
        (Self::Refused, "refused"),
        (Self::Notimp, "notimp"),
        (Self::Formerr, "formerr"),
        (Self::OtherCode, "other_rcode"),
        (Self::Referral, "referral"),
        (Self::Truncated, "truncated"),
        (Self::Lost, "lost"),
        (Self::Unanswered, "unanswered"),
        (Self::Unreachable, "unreachable"),
        (Self::Malformed, "malformed"),
    ];
}

/// Why a datagram from an upstream's address was ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// No query in flight has its ID.
    Id,
    /// Its question is not the one that was asked.
    Question,
    /// It is no response at all.
    NotAResponse,
}

impl Mismatch {
    const ALL: [(Self, &'static str); 3] = [
        (Self::Id, "id"),
        (Self::Question, "question"),
        (Self::NotAResponse, "not_a_response"),
    ];
}

/// All families of the process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    queries: IntCounterVec,
    replies: IntCounterVec,
    duration: HistogramVec,
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    coalesced: IntCounter,
    dropped: IntCounterVec,
    kernel_drops: IntCounter,
    tries: IntCounterVec,
    upstream_duration: HistogramVec,
    mismatched: IntCounterVec,
    hedges: IntCounterVec,
    probes: IntCounterVec,
    stale: IntCounterVec,
    rejected: IntCounterVec,
    state: IntGaugeVec,
    state_changes: IntCounterVec,
    state_changed: IntGaugeVec,
    state_reason: IntGaugeVec,
    srtt: IntGaugeVec,
    prefetches: IntCounter,
    /// Queries waiting for an upstream's answer now.
    pub in_flight: IntGauge,
    /// Client connections over TCP now.
    pub tcp_connections: IntGauge,
    /// Client connections over TCP closed to make room for others.
    pub tcp_evicted: IntCounter,
    /// Entries in the cache now.
    pub cache_entries: IntGauge,
    /// Bytes they weigh.
    pub cache_bytes: IntGauge,
    /// Bytes they may weigh.
    pub cache_max_bytes: IntGauge,
    /// Entries that made room for others.
    pub cache_evictions: IntCounter,
    /// Whether the configuration files are in force as they are.
    pub reload_success: IntGauge,
    /// When a configuration was last put in force, in seconds since 1970.
    pub reload_timestamp: IntGauge,
    /// Keys whose change waits for a restart.
    pub restart_needed: IntGauge,
    node_setup_success: IntGauge,
    node_repairs: IntCounterVec,
}

/// Registers families; a name that is taken twice is a bug of ours.
struct Register(Registry);

impl Register {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        collector: prometheus::Result<C>,
    ) -> C {
        let collector = collector.expect("names and labels are literals that follow the format");
        self.0
            .register(Box::new(collector.clone()))
            .expect("each name is registered once");
        collector
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::new(name, help))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::new(name, help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        let options = HistogramOpts::new(name, help).buckets(BUCKETS.to_vec());
        self.add(HistogramVec::new(options, labels))
    }
}

impl Metrics {
    /// All families, at zero.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table of names and help texts")]
    pub fn new() -> Self {
        let registry = Registry::new();
        let register = Register(registry.clone());
        #[cfg(target_os = "linux")]
        {
            let process = prometheus::process_collector::ProcessCollector::for_self();
            registry
                .register(Box::new(process))
                .expect("its names are its own");
        }
        let build = register.gauges(
            "nodens_build_info",
            "Always 1; the version is in the label.",
            &["version"],
        );
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let server = ["group", "server"];
        Self {
            queries: register.counters(
                "nodens_queries_total",
                "Queries from clients, by protocol and type.",
                &["protocol", "type"],
            ),
            replies: register.counters(
                "nodens_replies_total",
                "Replies to clients, by response code and the route that answered; route \"none\" is answered here.",
                &["rcode", "route"],
            ),
            duration: register.histograms(
                "nodens_reply_duration_seconds",
                "From reading a query to handing its reply to the kernel: for cache hits, for misses, and for replies given here at once (none).",
                &["cache"],
            ),
            cache_hits: register.counter("nodens_cache_hits_total", "Queries answered from the cache."),
            cache_misses: register.counter(
                "nodens_cache_misses_total",
                "Queries that the cache could have answered and did not.",
            ),
            coalesced: register.counter(
                "nodens_coalesced_total",
                "Queries that joined an identical one already in flight.",
            ),
            dropped: register.counters(
                "nodens_dropped_total",
                "Messages from clients that got no reply, by reason.",
                &["reason"],
            ),
            kernel_drops: register.counter(
                "nodens_kernel_drops_total",
                "Datagrams from clients that the kernel dropped because our receive buffer was full (SO_RXQ_OVFL).",
            ),
            tries: register.counters(
                "nodens_upstream_tries_total",
                "Queries sent to upstream servers, by how they ended.",
                &["group", "server", "outcome"],
            ),
            upstream_duration: register.histograms(
                "nodens_upstream_duration_seconds",
                "From sending a query to an upstream server to its answer.",
                &server,
            ),
            mismatched: register.counters(
                "nodens_upstream_mismatched_total",
                "Messages from an upstream server's address that answer nothing we asked, by what does not match.",
                &["group", "server", "reason"],
            ),
            hedges: register.counters(
                "nodens_hedges_total",
                "Further tries of a query whose first was overdue: sent, and of those the ones that answered first.",
                &["group", "event"],
            ),
            probes: register.counters(
                "nodens_probes_total",
                "Health probes, by transport and result.",
                &["group", "server", "transport", "result"],
            ),
            stale: register.counters(
                "nodens_stale_total",
                "Expired answers served because no fresh one could be had, by reason.",
                &["reason"],
            ),
            rejected: register.counters(
                "nodens_rejected_total",
                "Queries not forwarded because too many were in flight, by whose cap was reached.",
                &["cap"],
            ),
            state: register.gauges(
                "nodens_upstream_state",
                "1 for the state an upstream server is in: good, unknown, poor, silent or down.",
                &["group", "server", "transport", "state"],
            ),
            state_changes: register.counters(
                "nodens_upstream_state_changes_total",
                "How often an upstream server changed its state, by the new state.",
                &["group", "server", "transport", "state"],
            ),
            state_changed: register.gauges(
                "nodens_upstream_state_changed_timestamp_seconds",
                "Since when an upstream server is in its state, as Unix time.",
                &["group", "server", "transport"],
            ),
            state_reason: register.gauges(
                "nodens_upstream_state_reason",
                "Always 1; why an upstream server is in its state is in the label. Other reasons have no series.",
                &["group", "server", "transport", "reason"],
            ),
            srtt: register.gauges(
                "nodens_upstream_srtt_microseconds",
                "Smoothed round-trip time of an upstream server (RFC 6298).",
                &["group", "server", "transport"],
            ),
            prefetches: register.counter(
                "nodens_cache_prefetches_total",
                "Popular answers fetched anew shortly before they expired.",
            ),
            in_flight: register.gauge(
                "nodens_in_flight",
                "Distinct questions waiting for an upstream's answer now.",
            ),
            tcp_connections: register.gauge(
                "nodens_tcp_connections",
                "Client connections over TCP now.",
            ),
            tcp_evicted: register.counter(
                "nodens_tcp_evicted_total",
                "Idle client connections over TCP closed to make room for new ones.",
            ),
            cache_entries: register.gauge("nodens_cache_entries", "Answers in the cache now."),
            cache_bytes: register.gauge(
                "nodens_cache_bytes",
                "Bytes of the cache's entries, keys and overhead now; cache.max_size bounds it.",
            ),
            reload_success: register.gauge(
                "nodens_config_reload_success",
                "1 if the configuration files are in force as they are now, 0 if they hold a mistake and the earlier configuration stays.",
            ),
            reload_timestamp: register.gauge(
                "nodens_config_last_success_timestamp_seconds",
                "When a configuration was last put in force, in seconds since 1970.",
            ),
            restart_needed: register.gauge(
                "nodens_config_restart_needed",
                "Keys that were changed in the configuration and take a restart; /status names them.",
            ),
            cache_max_bytes: register.gauge(
                "nodens_cache_max_bytes",
                "What nodens_cache_bytes may grow to: cache.max_size.",
            ),
            cache_evictions: register.counter(
                "nodens_cache_evictions_total",
                "Answers that made room for others. Many of them beside few hits: the cache is too small.",
            ),
            node_setup_success: {
                let success = register.gauge(
                    "nodens_node_setup_success",
                    "1 while the interface, addresses and rules of `node:` are in place, or none are wanted; 0 while they are not.",
                );
                success.set(1);
                success
            },
            node_repairs: register.counters(
                "nodens_node_repairs_total",
                "What of `node:` somebody else removed and was put back: interface, address or rules.",
                &["object"],
            ),
            registry,
        }
    }

    /// The state of the node, and what was put back on it.
    #[must_use]
    pub fn node(&self) -> NodeMetrics {
        let repairs = |object| self.node_repairs.with_label_values(&[object]);
        NodeMetrics {
            setup_success: self.node_setup_success.clone(),
            interface_repairs: repairs("interface"),
            address_repairs: repairs("address"),
            rules_repairs: repairs("rules"),
        }
    }

    /// The text exposition.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut text)
            .expect("a vector takes every write");
        String::from_utf8(text).expect("labels are UTF-8")
    }

    /// What `/status` shows of all clients together; workers' counts arrive with their next flush.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let by = |family: &IntCounterVec, labels: &[&'static str]| {
            labels
                .iter()
                .map(|label| (*label, family.with_label_values(&[label]).get()))
                .collect()
        };
        Totals {
            cache_hits: self.cache_hits.get(),
            cache_misses: self.cache_misses.get(),
            coalesced: self.coalesced.get(),
            prefetches: self.prefetches.get(),
            stale: by(&self.stale, &StaleReason::ALL.map(|(_, label)| label)),
            rejected: by(&self.rejected, &Cap::ALL.map(|(_, label)| label)),
        }
    }

    /// A worker's own counters; `routes` are the labels by index.
    #[must_use]
    pub fn worker<'a>(&self, routes: impl Iterator<Item = &'a str>) -> WorkerMetrics {
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
            queries: [queries("udp"), queries("tcp")],
            local_replies: replies("none"),
            route_replies: routes.map(replies).collect(),
            duration: Cached::ALL
                .map(|(_, label)| self.duration.with_label_values(&[label]).local()),
            cache_hits: self.cache_hits.local(),
            cache_misses: self.cache_misses.local(),
            coalesced: self.coalesced.local(),
            dropped: Dropped::ALL
                .map(|(_, label)| self.dropped.with_label_values(&[label]).local()),
            kernel_drops: RefCell::new(self.kernel_drops.local()),
            in_flight: self.in_flight.clone(),
            tcp_connections: self.tcp_connections.clone(),
            tcp_evicted: self.tcp_evicted.clone(),
            stale: StaleReason::ALL.map(|(_, label)| self.stale.with_label_values(&[label])),
            rejected: Cap::ALL.map(|(_, label)| self.rejected.with_label_values(&[label])),
            prefetches: self.prefetches.clone(),
        }
    }

    /// A group's counters.
    #[must_use]
    pub fn group(&self, group: &str) -> GroupMetrics {
        GroupMetrics {
            hedges_sent: self.hedges.with_label_values(&[group, "sent"]),
            hedges_won: self.hedges.with_label_values(&[group, "won"]),
        }
    }

    /// A server's counters.
    #[must_use]
    pub fn server(&self, group: &str, server: &str) -> ServerMetrics {
        ServerMetrics {
            tries: Outcome::ALL
                .map(|(_, label)| self.tries.with_label_values(&[group, server, label])),
            duration: self.upstream_duration.with_label_values(&[group, server]),
            mismatched: Mismatch::ALL
                .map(|(_, label)| self.mismatched.with_label_values(&[group, server, label])),
        }
    }

    /// A server is gone: its gauges would tell of it for ever. Its counters stay, as counters do.
    pub fn forget(&self, group: &str, server: &str) {
        use crate::upstream::server::Carrier;
        for transport in Carrier::ALL.map(Carrier::name) {
            // What was never shown is not there to be removed.
            for state in State::ALL.map(State::name) {
                let _ = self
                    .state
                    .remove_label_values(&[group, server, transport, state]);
            }
            let labels = [group, server, transport];
            let _ = self.srtt.remove_label_values(&labels);
            let _ = self.state_changed.remove_label_values(&labels);
            for reason in Reason::ALL.map(Reason::name) {
                let labels = [group, server, transport, reason];
                let _ = self.state_reason.remove_label_values(&labels);
            }
        }
    }

    /// The counters of a server's health over one transport.
    #[must_use]
    pub fn health(&self, group: &str, server: &str, transport: &str) -> HealthMetrics {
        let labels = |state: State| [group, server, transport, state.name()];
        HealthMetrics {
            state: State::ALL.map(|state| self.state.with_label_values(&labels(state))),
            changes: State::ALL.map(|state| self.state_changes.with_label_values(&labels(state))),
            since: self
                .state_changed
                .with_label_values(&[group, server, transport]),
            reasons: self.state_reason.clone(),
            labels: [group, server, transport].map(str::to_owned),
            shown: Mutex::new(None),
            srtt: self.srtt.with_label_values(&[group, server, transport]),
            probes_answered: self
                .probes
                .with_label_values(&[group, server, transport, "answered"]),
            probes_lost: self
                .probes
                .with_label_values(&[group, server, transport, "lost"]),
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The state of the node, as `node:` wants it.
#[derive(Debug)]
pub struct NodeMetrics {
    /// 1 while interface, addresses and rules are in place.
    pub setup_success: IntGauge,
    /// How often the interface was put back, or up.
    pub interface_repairs: IntCounter,
    /// How often an address was put back.
    pub address_repairs: IntCounter,
    /// How often the rules were put back.
    pub rules_repairs: IntCounter,
}

/// What `/status` shows of all clients together, since the start.
#[derive(Debug, serde::Serialize)]
pub struct Totals {
    /// Queries answered from the cache.
    pub cache_hits: u64,
    /// Queries that had to be forwarded.
    pub cache_misses: u64,
    /// Queries that joined an identical one.
    pub coalesced: u64,
    /// Popular answers fetched anew.
    pub prefetches: u64,
    /// Expired answers served, by reason.
    pub stale: BTreeMap<&'static str, u64>,
    /// Queries not forwarded, by whose cap was reached.
    pub rejected: BTreeMap<&'static str, u64>,
}

/// Why an expired answer was served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StaleReason {
    /// Every server of the route is known to be gone.
    UpstreamsDown,
    /// No answer came within the client response timer (RFC 8767 §5).
    Slow,
    /// The servers failed.
    Failed,
    /// Too many queries were in flight.
    Overload,
}

impl StaleReason {
    const ALL: [(Self, &'static str); 4] = [
        (Self::UpstreamsDown, "upstreams_down"),
        (Self::Slow, "slow"),
        (Self::Failed, "failed"),
        (Self::Overload, "overload"),
    ];
}

/// Whose cap on queries in flight was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cap {
    /// The group's.
    Group,
    /// The client address's.
    Client,
}

impl Cap {
    const ALL: [(Self, &'static str); 2] = [(Self::Group, "group"), (Self::Client, "client")];
}

/// One worker's counters.
#[derive(Debug)]
pub struct WorkerMetrics {
    queries: [Vec<LocalIntCounter>; 2],
    local_replies: Vec<LocalIntCounter>,
    route_replies: Vec<Vec<LocalIntCounter>>,
    duration: [LocalHistogram; 3],
    cache_hits: LocalIntCounter,
    cache_misses: LocalIntCounter,
    coalesced: LocalIntCounter,
    dropped: [LocalIntCounter; 5],
    kernel_drops: RefCell<LocalIntCounter>,
    /// Shared: changes with misses only.
    pub in_flight: IntGauge,
    /// Shared: changes with connections only.
    pub tcp_connections: IntGauge,
    /// Shared: changes with connections only.
    pub tcp_evicted: IntCounter,
    stale: [IntCounter; 4],
    rejected: [IntCounter; 2],
    /// Shared: rare.
    pub prefetches: IntCounter,
}

impl WorkerMetrics {
    /// A query arrived.
    #[inline]
    pub fn query(&self, protocol: crate::message::reply::Protocol, qtype: u16) {
        let index = TYPES
            .iter()
            .position(|(known, _)| *known == qtype)
            .unwrap_or(TYPES.len());
        self.queries[protocol as usize][index].inc();
    }

    /// A reply leaves.
    #[inline]
    pub fn reply(&self, code: u16, route: Option<u16>) {
        let index = RCODES
            .iter()
            .position(|(known, _)| *known == code)
            .unwrap_or(RCODES.len());
        let counters = route.and_then(|route| self.route_replies.get(usize::from(route)));
        counters.unwrap_or(&self.local_replies)[index].inc();
    }

    /// A query was answered from the cache.
    #[inline]
    pub fn hit(&self) {
        self.cache_hits.inc();
    }

    /// A query could not be answered from the cache.
    pub fn miss(&self) {
        self.cache_misses.inc();
    }

    /// A query joined another.
    pub fn coalesced(&self) {
        self.coalesced.inc();
    }

    /// `count` replies left `took` after their queries were read.
    #[inline]
    pub fn took(&self, cached: Cached, count: usize, took: Duration) {
        let seconds = took.as_secs_f64();
        for _ in 0..count {
            self.duration[cached as usize].observe(seconds);
        }
    }

    /// A message got no reply.
    pub fn dropped(&self, reason: Dropped) {
        self.dropped[reason as usize].inc();
    }

    /// The kernel dropped datagrams.
    pub fn kernel_drops(&self, count: u32) {
        self.kernel_drops.borrow_mut().inc_by(u64::from(count));
    }

    /// An expired answer was served.
    pub fn stale(&self, reason: StaleReason) {
        self.stale[reason as usize].inc();
    }

    /// A query was not forwarded.
    pub fn rejected(&self, cap: Cap) {
        self.rejected[cap as usize].inc();
    }

    /// Adds what was counted since the last time to the process's totals.
    pub fn flush(&self) {
        let counters = self.queries.iter().flatten().chain(&self.local_replies);
        for counter in counters
            .chain(self.route_replies.iter().flatten())
            .chain(&self.dropped)
        {
            counter.flush();
        }
        for counter in [&self.cache_hits, &self.cache_misses, &self.coalesced] {
            counter.flush();
        }
        self.kernel_drops.borrow().flush();
        for histogram in &self.duration {
            histogram.flush();
        }
    }
}

/// A group's counters.
#[derive(Debug)]
pub struct GroupMetrics {
    /// Hedges sent.
    pub hedges_sent: IntCounter,
    /// Hedges that answered first.
    pub hedges_won: IntCounter,
}

/// A server's counters.
#[derive(Debug)]
pub struct ServerMetrics {
    tries: [IntCounter; 12],
    /// From query to answer.
    pub duration: Histogram,
    mismatched: [IntCounter; 3],
}

impl ServerMetrics {
    /// A try ended.
    pub fn outcome(&self, outcome: Outcome) {
        self.tries[outcome as usize].inc();
    }

    /// How many tries ended so.
    #[must_use]
    pub fn outcomes(&self, outcome: Outcome) -> u64 {
        self.tries[outcome as usize].get()
    }

    /// A message was ignored.
    pub fn mismatched(&self, reason: Mismatch) {
        self.mismatched[reason as usize].inc();
    }
}

/// The counters of a server's health over one transport.
#[derive(Debug)]
pub struct HealthMetrics {
    state: [IntGauge; 5],
    changes: [IntCounter; 5],
    since: IntGauge,
    /// Of all servers: a reason that holds no more has its series removed.
    reasons: IntGaugeVec,
    /// Group, server and transport.
    labels: [String; 3],
    /// The reason and the time of the change that were shown last.
    shown: Mutex<Option<(Reason, Instant)>>,
    srtt: IntGauge,
    /// Probes answered.
    pub probes_answered: IntCounter,
    /// Probes lost.
    pub probes_lost: IntCounter,
}

impl HealthMetrics {
    /// Shows the state the server is in, why, and since when. `now` and `wall` are the same moment on two clocks.
    pub fn show(
        &self,
        state: State,
        (reason, changed): (Reason, Instant),
        srtt: Option<Duration>,
        (now, wall): (Instant, SystemTime),
    ) {
        for (index, gauge) in self.state.iter().enumerate() {
            gauge.set(i64::from(index == state as usize));
        }
        if let Some(srtt) = srtt {
            self.srtt
                .set(i64::try_from(srtt.as_micros()).unwrap_or(i64::MAX));
        }
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        // Once for each change: two clocks read again and again would let the time wander by a second.
        if *shown == Some((reason, changed)) {
            return;
        }
        let [group, server, transport] = self.labels.each_ref().map(String::as_str);
        let labels = |reason: Reason| [group, server, transport, reason.name()];
        if let Some((old, _)) = shown.replace((reason, changed)) {
            // It is gone only if somebody else removed it, which is what we want too.
            let _ = self.reasons.remove_label_values(&labels(old));
        }
        self.reasons.with_label_values(&labels(reason)).set(1);
        let since = wall
            .checked_sub(now.saturating_duration_since(changed))
            .and_then(|since| since.duration_since(UNIX_EPOCH).ok())
            .map_or(0, |since| since.as_secs());
        self.since.set(i64::try_from(since).unwrap_or(i64::MAX));
    }

    /// Counts a change of state.
    pub fn changed(&self, state: State) {
        self.changes[state as usize].inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::reply::Protocol;

    #[test]
    fn local_counts_show_after_a_flush() {
        let metrics = Metrics::new();
        let worker = metrics.worker(["cluster.local."].into_iter());
        worker.query(Protocol::Tcp, rr::AAAA);
        worker.query(Protocol::Udp, 65280);
        worker.reply(rcode::NXDOMAIN, Some(0));
        worker.reply(rcode::REFUSED, None);
        worker.took(Cached::Hit, 2, Duration::from_micros(20));
        worker.kernel_drops(3);
        worker.flush();
        let text = metrics.render();
        for line in [
            r#"nodens_queries_total{protocol="tcp",type="AAAA"} 1"#,
            r#"nodens_queries_total{protocol="udp",type="other"} 1"#,
            r#"nodens_replies_total{rcode="NXDOMAIN",route="cluster.local."} 1"#,
            r#"nodens_replies_total{rcode="REFUSED",route="none"} 1"#,
            r#"nodens_reply_duration_seconds_count{cache="hit"} 2"#,
            "nodens_kernel_drops_total 3",
        ] {
            assert!(
                text.lines().any(|have| have == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_server_shows_since_when_and_only_why_it_is_in_its_state_now() {
        let metrics = Metrics::new();
        let health = metrics.health("vpc", "10.0.0.2", "udp");
        let start = Instant::now();
        let at = |seconds| {
            let past = Duration::from_secs(seconds);
            (start + past, UNIX_EPOCH + Duration::from_secs(5000) + past)
        };
        let lines = || -> Vec<String> {
            let text = metrics.render();
            let of_change = |line: &&str| {
                line.starts_with("nodens_upstream_state_changed")
                    || line.starts_with("nodens_upstream_state_reason")
            };
            text.lines().filter(of_change).map(str::to_owned).collect()
        };
        let name = r#"group="vpc",FIELDserver="10.0.0.2",transport="udp""#;
        let want = |since: u64, reason: &str| {
            let plain = name.replace("FIELD", "");
            let with_reason = name.replace("FIELD", &format!("reason=\"{reason}\","));
            vec![
                format!("nodens_upstream_state_changed_timestamp_seconds{{{plain}}} {since}"),
                format!("nodens_upstream_state_reason{{{with_reason}}} 1"),
            ]
        };

        health.show(State::Unknown, (Reason::Started, at(0).0), None, at(7));
        assert_eq!(lines(), want(5000, "started"));
        health.show(State::Down, (Reason::ProbeLost, at(9).0), None, at(10));
        assert_eq!(lines(), want(5009, "probe_lost"));
        // The clock on the wall was set back meanwhile.
        let later = (at(60).0, UNIX_EPOCH);
        health.show(State::Down, (Reason::ProbeLost, at(9).0), None, later);
        assert_eq!(lines(), want(5009, "probe_lost"));
        // It came back and fell again for the same reason.
        health.show(State::Down, (Reason::ProbeLost, at(70).0), None, at(80));
        assert_eq!(lines(), want(5070, "probe_lost"));
    }

    #[test]
    fn labels_stand_at_their_own_index() {
        for (index, (reason, _)) in Dropped::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, (cached, _)) in Cached::ALL.iter().enumerate() {
            assert_eq!(*cached as usize, index);
        }
        for (index, (outcome, _)) in Outcome::ALL.iter().enumerate() {
            assert_eq!(*outcome as usize, index);
        }
        for (index, (mismatch, _)) in Mismatch::ALL.iter().enumerate() {
            assert_eq!(*mismatch as usize, index);
        }
        for (index, (reason, _)) in StaleReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        for (index, state) in State::ALL.iter().enumerate() {
            assert_eq!(*state as usize, index);
        }
        assert_eq!((Protocol::Udp as usize, Protocol::Tcp as usize), (0, 1));
        assert_eq!((Cap::Group as usize, Cap::Client as usize), (0, 1));
    }
}
