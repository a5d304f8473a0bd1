//! What /status and /metrics show of the running instance.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use arc_swap::ArcSwap;
use hickory_proto::rr::RecordType;
use serde::Serialize;

use crate::metrics::Label;
use crate::process::coredns::{self, HealthAnswers};
use crate::process::metrics::Metrics;
use crate::process::readiness::Readiness;
use crate::process::reload_status::{ReloadStatus, Reloads};
use crate::process::threads::Heartbeat;
use crate::serving::metrics::Totals;
use crate::serving::setup::Setup;
use crate::serving::worker::Shared;
use crate::transport::Carrier;
use crate::upstream::group::Group;
use crate::upstream::health::State;
use crate::upstream::server::{FormReport, HealthReport, Server};

/// The parts of a running instance that are shown.
pub struct Instance {
    /// What workers share.
    pub shared: Arc<Shared>,
    /// All families.
    pub metrics: Arc<Metrics>,
    /// One for each worker.
    pub heartbeats: Vec<Arc<Heartbeat>>,
    /// Whether it has started.
    pub readiness: Arc<Readiness>,
    /// The addresses served.
    pub listen: Arc<ArcSwap<Vec<SocketAddr>>>,
    /// What became of changes of the configuration.
    pub reloads: Arc<Reloads>,
    /// What /health said.
    pub health: HealthAnswers,
    /// The address of the admin interface.
    pub admin: Option<SocketAddr>,
    /// When it started.
    pub started: Instant,
}

impl Instance {
    /// The text of /metrics, its gauges brought up to date.
    pub(super) fn metrics_text(&self) -> String {
        let (metrics, cache) = (&self.metrics, &self.shared.cache);
        let setup = self.shared.current.load();
        metrics
            .cache_entries
            .set(i64::try_from(cache.entries()).unwrap_or(i64::MAX));
        metrics
            .cache_bytes
            .set(i64::try_from(cache.bytes()).unwrap_or(i64::MAX));
        metrics
            .cache_max_bytes
            .set(i64::try_from(setup.config.cache.max_size).unwrap_or(i64::MAX));
        let evictions = cache
            .evictions()
            .saturating_sub(metrics.cache_evictions.get());
        metrics.cache_evictions.inc_by(evictions);
        let hosts = setup.upstreams.groups.iter().flat_map(|group| &group.hosts);
        let unresolved = hosts.filter(|host| host.addresses.is_empty()).count();
        metrics
            .unresolved_hosts
            .set(i64::try_from(unresolved).unwrap_or(i64::MAX));
        let clocks = (Instant::now(), SystemTime::now());
        for server in &setup.upstreams.servers {
            server.show(clocks);
        }
        let mut text = metrics.render();
        text.push_str(&coredns::text(&coredns::Sources {
            shared: &self.shared,
            metrics,
            reloads: &self.reloads,
            health: &self.health,
            listen: &self.listen.load(),
        }));
        text
    }

    /// What /status shows.
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let (cache, setup) = (&self.shared.cache, self.shared.current.load());
        let Setup {
            upstreams,
            routes,
            config,
            ..
        } = &**setup;
        let type_name = |&qtype: &u16| RecordType::from(qtype).to_string();
        let group_name = |&tier: &usize| upstreams.groups[tier].name.to_string();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            node: config.node_name.clone(),
            ready: self.readiness.pending().is_none(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.load().to_vec(),
            admin: self.admin,
            workers: self.heartbeats.len(),
            configuration: self.reloads.status(),
            routes: routes
                .iter()
                .map(|route| RouteStatus {
                    zone: route.zone.clone(),
                    groups: route.tiers.iter().map(group_name).collect(),
                    filter: route.filter.iter().map(type_name).collect(),
                    answer: route.answer.as_ref().map(ToString::to_string),
                })
                .collect(),
            upstreams: upstreams
                .groups
                .iter()
                .map(|group| GroupStatus::new(group, now))
                .collect(),
            totals: self.shared.metrics.totals(),
            cache: CacheStatus {
                entries: cache.entries(),
                bytes: cache.bytes(),
                max_bytes: config.cache.max_size,
                evictions: cache.evictions(),
            },
        }
    }
}

/// What /status shows.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    node: String,
    ready: bool,
    uptime_seconds: u64,
    listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    workers: usize,
    configuration: ReloadStatus,
    routes: Vec<RouteStatus>,
    upstreams: Vec<GroupStatus>,
    totals: Totals,
    cache: CacheStatus,
}

#[derive(Serialize)]
struct RouteStatus {
    zone: String,
    groups: Vec<String>,
    /// What it says by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<String>,
    /// Types that no name of it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filter: Vec<String>,
}

#[derive(Serialize)]
struct GroupStatus {
    name: String,
    in_flight: usize,
    hedges_sent: u64,
    hedges_won: u64,
    /// Names of servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hosts: Vec<HostStatus>,
    servers: Vec<ServerStatus>,
}

#[derive(Serialize)]
struct HostStatus {
    host: String,
    addresses: Vec<IpAddr>,
    failure: Option<String>,
}

#[derive(Serialize)]
struct ServerStatus {
    server: String,
    looped: bool,
    #[serde(flatten)]
    form: FormReport,
    health: Vec<HealthReport>,
}

impl GroupStatus {
    fn new(group: &Group, now: Instant) -> Self {
        Self {
            name: group.name.to_string(),
            in_flight: group.in_flight(),
            hedges_sent: group.metrics.hedges_sent.get(),
            hedges_won: group.metrics.hedges_won.get(),
            hosts: group
                .hosts
                .iter()
                .map(|host| HostStatus {
                    host: host.name.to_string(),
                    addresses: host.addresses.clone(),
                    failure: host.failure(),
                })
                .collect(),
            servers: group
                .servers
                .iter()
                .map(|server| ServerStatus::new(server, now))
                .collect(),
        }
    }
}

impl ServerStatus {
    fn new(server: &Server, now: Instant) -> Self {
        // TCP beside UDP is shown once it was needed.
        let is_shown = |carrier: &&Carrier| {
            **carrier == server.carrier() || server.state_of(**carrier) != State::Unknown
        };
        Self {
            server: server.label.clone(),
            looped: server.looped(),
            form: server.form_report(now),
            health: Carrier::ALL
                .iter()
                .filter(is_shown)
                .map(|&carrier| server.report(carrier, now))
                .collect(),
        }
    }
}

#[derive(Serialize)]
struct CacheStatus {
    entries: usize,
    bytes: u64,
    max_bytes: u64,
    evictions: u64,
}
