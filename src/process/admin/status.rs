//! What /status and /metrics show of the running instance.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use hickory_proto::rr::RecordType;
use serde::Serialize;

use crate::cache::Cache;
use crate::config::{Config, Policy, Setting, TopCounts};
use crate::message::labels::{presentation, rcode_label, type_text};
use crate::metrics::Label;
use crate::process::coredns::{self, HealthAnswers};
use crate::process::metrics::Metrics;
use crate::process::readiness::Readiness;
use crate::process::reload_status::{ReloadStatus, Reloads};
use crate::process::threads::Heartbeat;
use crate::serving::metrics::{RouteTotals, ServingFamilies, Totals};
use crate::serving::recent_failures::RecentFailure;
use crate::serving::setup::Setup;
use crate::serving::top::Top;
use crate::serving::worker::Shared;
use crate::transport::Carrier;
use crate::upstream::Upstreams;
use crate::upstream::group::Group;
use crate::upstream::health::State;
use crate::upstream::routes::Route;
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
    /// Results of changes of the configuration.
    pub reloads: Arc<Reloads>,
    /// Results of /health.
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
        text.push_str(&coredns::text(&coredns::CorednsSources {
            shared: &self.shared,
            metrics,
            reloads: &self.reloads,
            health: &self.health,
            listen: &self.listen.load(),
        }));
        text
    }

    /// What /status shows.
    pub(super) fn status(&self) -> StatusReport {
        let now = Instant::now();
        let setup = self.shared.current.load();
        let (upstreams, config) = (&setup.upstreams, &setup.config);
        let families = &self.shared.metrics;
        StatusReport {
            version: env!("CARGO_PKG_VERSION"),
            node: config.node_name.clone(),
            ready: self.readiness.pending().is_none(),
            uptime_seconds: self.started.elapsed().as_secs(),
            listen: self.listen.load().to_vec(),
            admin: self.admin,
            workers: self.heartbeats.len(),
            configuration: ConfigurationStatus::new(self.reloads.status(), config, now),
            routes: setup
                .routes
                .iter()
                .map(|route| RouteStatus::new(route, upstreams, families))
                .collect(),
            answered_here: families.of_route("none"),
            upstreams: upstreams
                .groups
                .iter()
                .map(|group| GroupStatus::new(group, now))
                .collect(),
            totals: families.totals(),
            cache: CacheStatus::new(&self.shared.cache, config, &families.totals()),
            failures: config.status.failures.then(|| {
                let failures = self.shared.failures.all();
                let shown = |failure| FailureStatus::new(failure, &setup, now);
                failures.into_iter().map(shown).collect()
            }),
            top: match config.status.top {
                TopCounts::Off => None,
                _ => self.shared.top.read().map(|top| TopStatus::new(top, now)),
            },
        }
    }
}

fn seconds_since(then: Instant, now: Instant) -> f64 {
    now.saturating_duration_since(then).as_secs_f64()
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// What /status shows.
#[derive(Serialize)]
pub(super) struct StatusReport {
    pub(super) version: &'static str,
    pub(super) node: String,
    pub(super) ready: bool,
    pub(super) uptime_seconds: u64,
    pub(super) listen: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    pub(super) workers: usize,
    pub(super) configuration: ConfigurationStatus,
    pub(super) routes: Vec<RouteStatus>,
    /// Queries for which no route was asked.
    pub(super) answered_here: RouteTotals,
    pub(super) upstreams: Vec<GroupStatus>,
    pub(super) totals: Totals,
    pub(super) cache: CacheStatus,
    /// The last first; none if they are not to be shown.
    pub(super) failures: Option<Vec<FailureStatus>>,
    /// None if nothing is counted.
    pub(super) top: Option<TopStatus>,
}

#[derive(Serialize)]
pub(super) struct ConfigurationStatus {
    #[serde(flatten)]
    pub(super) reloads: ReloadStatus,
    /// Seconds since a configuration was last put in force.
    pub(super) since_seconds: f64,
    pub(super) settings: Vec<SettingStatus>,
}

/// A line of `nodens check`.
#[derive(Serialize)]
pub(super) struct SettingStatus {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: String,
}

impl ConfigurationStatus {
    fn new(reloads: ReloadStatus, config: &Config, now: Instant) -> Self {
        let shown = |setting: &Setting| SettingStatus {
            key: setting.path.clone(),
            value: setting.value.clone(),
            origin: setting.origin.to_string(),
        };
        Self {
            since_seconds: reloads.last.map_or(0.0, |last| seconds_since(last, now)),
            reloads,
            settings: config.settings.iter().map(shown).collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct RouteStatus {
    pub(super) zone: String,
    pub(super) groups: Vec<String>,
    /// The answer that it gives by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<String>,
    /// Types that no name of it has.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filter: Vec<String>,
    #[serde(flatten)]
    pub(super) totals: RouteTotals,
}

impl RouteStatus {
    fn new(route: &Route, upstreams: &Upstreams, families: &ServingFamilies) -> Self {
        let group_name = |&tier: &usize| upstreams.groups[tier].name.to_string();
        let type_name = |&qtype: &u16| RecordType::from(qtype).to_string();
        Self {
            zone: route.zone.clone(),
            groups: route.tiers.iter().map(group_name).collect(),
            filter: route.filter.iter().map(type_name).collect(),
            answer: route.answer.as_ref().map(ToString::to_string),
            totals: families.of_route(&route.zone),
        }
    }
}

#[derive(Serialize)]
pub(super) struct GroupStatus {
    pub(super) name: String,
    pub(super) policy: Policy,
    pub(super) in_flight: usize,
    pub(super) hedges_sent: u64,
    pub(super) hedges_won: u64,
    /// Names of servers.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) hosts: Vec<HostStatus>,
    pub(super) servers: Vec<ServerStatus>,
}

#[derive(Serialize)]
pub(super) struct HostStatus {
    pub(super) host: String,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) failure: Option<String>,
}

#[derive(Serialize)]
pub(super) struct ServerStatus {
    pub(super) server: String,
    pub(super) looped: bool,
    #[serde(flatten)]
    form: FormReport,
    pub(super) health: Vec<HealthReport>,
    /// One a second, the oldest first; null while it was down or not timed yet.
    pub(super) rtt_milliseconds: Vec<Option<f64>>,
}

impl GroupStatus {
    fn new(group: &Group, now: Instant) -> Self {
        Self {
            name: group.name.to_string(),
            policy: group.policy,
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
        // TCP of a server over UDP is shown once it was used.
        let is_shown = |carrier: &&Carrier| {
            **carrier == server.carrier() || server.state_of(**carrier) != State::Unknown
        };
        let rounded = |rtt: Duration| (milliseconds(rtt) * 1e3).round() / 1e3;
        Self {
            server: server.label.clone(),
            looped: server.looped(),
            form: server.form_report(now),
            health: Carrier::ALL
                .iter()
                .filter(is_shown)
                .map(|&carrier| server.report(carrier, now))
                .collect(),
            rtt_milliseconds: server
                .rtt_history()
                .into_iter()
                .map(|rtt| rtt.map(rounded))
                .collect(),
        }
    }
}

#[derive(Serialize)]
pub(super) struct CacheStatus {
    pub(super) entries: usize,
    pub(super) bytes: u64,
    pub(super) max_bytes: u64,
    pub(super) evictions: u64,
    /// Share of the queries that the cache could have answered; none before the first.
    pub(super) hit_percent: Option<f64>,
    /// Expired answers served.
    pub(super) stale_served: u64,
}

impl CacheStatus {
    fn new(cache: &Cache, config: &Config, totals: &Totals) -> Self {
        #[expect(
            clippy::cast_precision_loss,
            reason = "a share needs no more than 52 bits"
        )]
        let percent = |part: u64, whole: u64| part as f64 * 100.0 / whole as f64;
        let lookups = totals.cache_hits + totals.cache_misses;
        Self {
            entries: cache.entries(),
            bytes: cache.bytes(),
            max_bytes: config.cache.max_size,
            evictions: cache.evictions(),
            hit_percent: (lookups > 0).then(|| percent(totals.cache_hits, lookups)),
            stale_served: totals.stale.values().sum(),
        }
    }
}

/// Queries that clients heard to have failed.
#[derive(Serialize)]
pub(super) struct FailureStatus {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) qtype: String,
    pub(super) route: Option<String>,
    pub(super) rcode: &'static str,
    /// Code of the extended error.
    error: u16,
    /// Its text.
    pub(super) text: String,
    /// How often.
    pub(super) count: u64,
    /// Seconds since the last time.
    pub(super) ago_seconds: f64,
}

impl FailureStatus {
    fn new(failure: RecentFailure, setup: &Setup, now: Instant) -> Self {
        let route = failure.route.map(usize::from);
        Self {
            name: presentation(&failure.name),
            qtype: type_text(failure.qtype),
            route: route.and_then(|route| setup.routes.zones().nth(route).map(str::to_owned)),
            rcode: rcode_label(failure.code),
            error: failure.error,
            text: failure.text.into(),
            count: failure.count,
            ago_seconds: seconds_since(failure.last, now),
        }
    }
}

/// Names and clients, the heaviest first.
#[derive(Serialize)]
pub(super) struct TopStatus {
    /// Seconds since counting began.
    pub(super) since_seconds: f64,
    /// By queries.
    pub(super) names: Vec<TopName>,
    /// By the time that clients waited for them.
    pub(super) slowest: Vec<SlowName>,
    /// By queries.
    pub(super) clients: Vec<TopClient>,
}

#[derive(Serialize)]
pub(super) struct TopName {
    pub(super) name: String,
    /// Never too low ...
    pub(super) queries: u64,
    /// ... and too high by this at most.
    pub(super) error: u64,
}

#[derive(Serialize)]
pub(super) struct SlowName {
    pub(super) name: String,
    /// All that clients waited, together. Never too low ...
    pub(super) waited_milliseconds: f64,
    /// ... and too high by this at most.
    pub(super) error_milliseconds: f64,
}

#[derive(Serialize)]
pub(super) struct TopClient {
    pub(super) client: IpAddr,
    /// Never too low ...
    pub(super) queries: u64,
    /// ... and too high by this at most.
    pub(super) error: u64,
}

impl TopStatus {
    fn new(top: Top, now: Instant) -> Self {
        let waited = |micros| milliseconds(Duration::from_micros(micros));
        Self {
            since_seconds: seconds_since(top.since, now),
            names: top
                .asked
                .into_iter()
                .map(|counted| TopName {
                    name: presentation(&counted.key),
                    queries: counted.count,
                    error: counted.error,
                })
                .collect(),
            slowest: top
                .waited
                .into_iter()
                .map(|counted| SlowName {
                    name: presentation(&counted.key),
                    waited_milliseconds: waited(counted.count),
                    error_milliseconds: waited(counted.error),
                })
                .collect(),
            clients: top
                .clients
                .into_iter()
                .map(|counted| TopClient {
                    client: counted.key,
                    queries: counted.count,
                    error: counted.error,
                })
                .collect(),
        }
    }
}
