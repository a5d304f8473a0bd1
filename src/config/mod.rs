//! The configuration as the program uses it: all layers are merged and every value is checked.
//!
//! Owns the schema and its defaults. Must not open sockets or touch the network. What the user typed is read by
//! [`load`] (in `config/`), which reports every mistake at once and remembers where each value came from.

mod admin_location;
mod allow;
mod cache;
mod corefile;
mod dns64;
mod error;
mod files;
mod foreign;
mod groups;
mod host;
mod hosts;
mod json_schema;
mod layers;
mod leaf;
mod limits;
mod listen;
mod load;
mod named;
mod node;
mod path;
mod private_zones;
mod read;
mod routes;
mod schema;
mod servers;
mod shape;
mod spelling;
mod yaml;

#[cfg(test)]
mod tests;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};
use ipnet::{IpNet, Ipv6Net};

pub use admin_location::{AdminLocation, admin_location};
pub use corefile::{LineRefusal, LineVerdict, Remark, SyntaxProblem, is_corefile};
pub use error::{ConfigError, ConfigErrors, CorefileProblem, Missing, Origin, Problem};
pub use files::{Files, is_pipe};
pub use json_schema::json_schema;
pub use load::{Flags, Imported, Loaded, import, load, load_from, load_with};
pub use named::{HostName, NamedServer, ServerSource, is_server_address};
pub use path::KeyPath;
pub use private_zones::private_zones;
pub use read::{Setting, same_values};
pub use yaml::YamlProblem;

/// Everything `nodens serve` needs to know, validated.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses served over UDP and TCP. Port 0 takes a free port, the same one for both.
    pub listen: Vec<SocketAddr>,
    /// Networks whose clients are answered; all others get REFUSED.
    pub allow: Vec<IpNet>,
    /// Address of the whole admin interface over TCP.
    pub admin: Option<SocketAddr>,
    /// Further addresses that serve /metrics, /health and /ready only.
    pub metrics_listen: Vec<SocketAddr>,
    /// Whether /metrics has families under CoreDNS's names, too.
    pub metrics_coredns: bool,
    /// Path of a Unix socket that serves the same as `admin`.
    pub socket: Option<PathBuf>,
    /// Worker threads.
    pub workers: NonZeroUsize,
    /// How the kernel schedules them.
    pub scheduling: Scheduling,
    /// Whether another instance may share our ports, as during an upgrade.
    pub handover: bool,
    /// How long queries in flight may take to finish after SIGTERM.
    pub shutdown_grace: Duration,
    /// Name of this node: the answer to `id.server`, and NSID. Default: the host's name.
    pub node_name: String,
    /// Files that a Corefile imports.
    pub imports: Vec<PathBuf>,
    /// The source of the files that it was read from.
    pub read_from: Files,
    /// Upstream groups; routes refer to them by index.
    pub groups: Vec<GroupConfig>,
    /// Routes, in no particular order: the longest zone wins.
    pub routes: Vec<RouteConfig>,
    /// How reverse names of private addresses are answered that have no route of their own.
    pub private_zones: PrivateZones,
    /// Names answered from the configuration itself.
    pub records: Vec<StaticRecords>,
    /// Whether the target of a CNAME that leads to another route is looked up here.
    pub complete_cnames: bool,
    /// Names answered from hosts files, unless `records` has them.
    pub hosts: HostsConfig,
    /// Options of routes with several groups.
    pub tiers: TiersConfig,
    /// The answer cache.
    pub cache: CacheConfig,
    /// Client connections over TCP.
    pub tcp: TcpConfig,
    /// Client sockets over UDP.
    pub udp: UdpConfig,
    /// Caps that keep one client from starving the others.
    pub limits: LimitsConfig,
    /// Logs.
    pub log: LogConfig,
    /// The information on clients' queries in /status.
    pub status: StatusConfig,
    /// Every value in force and who set it, in the order of the schema, for /status.
    pub settings: Arc<[Setting]>,
    /// What to set up on the node; `None` for nothing.
    pub node: Option<NodeConfig>,
}

/// A set of servers that share one view of names, so that any of them may answer any query of the group.
#[derive(Debug, Clone)]
pub struct GroupConfig {
    /// The group's key under `upstreams`.
    pub name: Arc<str>,
    /// The servers as typed, in order. Never empty, no duplicates.
    pub sources: Vec<ServerSource>,
    /// The resolved servers, in the order of preference of `policy: ordered`, without duplicates. Empty only while host
    /// names of servers have no addresses yet.
    pub servers: Vec<ServerConfig>,
    /// The resolv.conf files that some of them come from.
    pub resolv_confs: Vec<PathBuf>,
    /// In which order servers are tried.
    pub policy: Policy,
    /// When a single try counts as lost.
    pub try_timeout: Duration,
    /// A query's whole budget in this group and the tiers after it.
    pub deadline: Duration,
    /// The question health probes ask.
    pub probe: Probe,
    /// Settings of hedges, probes, and of the states of servers.
    pub failover: FailoverConfig,
    /// How to handle an answer that a validating server finds bogus.
    pub bogus: Bogus,
    /// PEM file of further roots that certificates of `tls://` and `https://` servers may chain to, beside the web's.
    pub tls_ca: Option<PathBuf>,
    /// When a TCP, TLS or HTTPS connection takes no new queries any more, before jitter.
    pub stream_max_age: Duration,
    /// Most queries in flight to this group at once, in the whole process.
    pub max_in_flight: NonZeroUsize,
    /// Queries that each server is sent in a second at most, over all workers; none for no limit.
    pub max_queries_per_second: Option<NonZeroU32>,
}

/// One upstream server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServerConfig {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its transport.
    pub transport: Transport,
}

/// The transport to an upstream server.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Transport {
    /// UDP, and TCP for what was truncated (RFC 7766).
    Udp,
    /// TCP only (RFC 7766).
    Tcp,
    /// DNS over TLS (RFC 7858); the certificate must be valid for this name.
    Tls(Arc<str>),
    /// DNS over HTTPS (RFC 8484).
    Https {
        /// The certificate must be valid for this name, and requests are for it.
        name: Arc<str>,
        /// The path of requests.
        path: Arc<str>,
    },
}

/// In which order the servers of a group are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// The first healthy server of the list; back to it as soon as it is good again.
    Ordered,
    /// The healthy server with the lowest smoothed round-trip time.
    Fastest,
    /// Healthy servers in turn.
    RoundRobin,
}

/// How to handle an answer that a validating server finds bogus, for which it sends SERVFAIL with EDE 6 to 9 (RFC 8914
/// §4.7 to 4.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bogus {
    /// The client hears so, unless it set CD: a server that does not validate would give it the forged answer.
    Final,
    /// The next server is asked, as after any other failure.
    Failover,
}

/// How a healthy server denies a name that it answered before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denial {
    /// There is no such name.
    Nxdomain,
    /// The name has no such record.
    Empty,
}

/// The question a health probe asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// QNAME.
    pub name: Name,
    /// QTYPE.
    pub record_type: RecordType,
}

/// Settings of failover.
#[derive(Debug, Clone, PartialEq)]
pub struct FailoverConfig {
    /// While nothing is known of a group's servers, a query goes to this many of them.
    pub start_fanout: usize,
    /// Shortest wait before the next server is asked too.
    pub hedge_min: Duration,
    /// Longest wait before the next server is asked too.
    pub hedge_max: Duration,
    /// Hedges per hundred queries, so that hedging does not double the load when everything is slow.
    pub hedge_budget_percent: u32,
    /// First pause between probes of a server that is down.
    pub probe_min: Duration,
    /// Longest pause between probes of a server that is down.
    pub probe_max: Duration,
    /// Probe answers that bring a server back.
    pub recover_probes: u32,
    /// A server that lost more than this share of its last tries is poor.
    pub poor_loss_percent: u32,
    /// Number of its last tries that this share is taken of.
    pub poor_loss_window: u32,
    /// Number of last answers: a server is poor if most of them were refusals or failures while another server
    /// answered.
    pub poor_answer_window: u32,
    /// A server is poor if it is slower than another by at least this much ...
    pub poor_slower_by: Duration,
    /// ... and by this factor.
    pub poor_slower_factor: u32,
}

/// Names under `zone` go to `tiers`.
#[derive(Debug, Clone)]
pub struct RouteConfig {
    /// The zone; `.` for everything else.
    pub zone: Name,
    /// Groups (indices into [`Config::groups`]), asked one after the other. Empty if, and only if, there is an `answer`.
    pub tiers: Vec<usize>,
    /// The answer that it gives by itself, so that its names never leave the node.
    pub answer: Option<OwnAnswer>,
    /// Types that are answered with NODATA for all names, without asking a server.
    pub filter: Vec<RecordType>,
    /// How its names are rewritten.
    pub rewrite: Option<RewriteConfig>,
    /// How IPv6 addresses are made for names that have none (RFC 6147).
    pub dns64: Option<Dns64Config>,
    /// Cap on how long an NXDOMAIN or NODATA of this route is kept.
    pub max_negative_ttl: Option<Duration>,
    /// Kinds of denials that do not replace an earlier answer for a while.
    pub stale_on: Vec<Denial>,
    /// Its other cache options.
    pub cache: RouteCacheConfig,
}

/// Names at and below `from` are asked for at and below `to`. Neither is below the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RewriteConfig {
    /// As clients know it; in the route's zone.
    pub from: Name,
    /// As servers know it.
    pub to: Name,
}

/// IPv4 addresses of names without IPv6 addresses are put behind `prefix`, which a NAT64 translates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns64Config {
    /// Of a length that RFC 6052 allows.
    pub prefix: Ipv6Net,
    /// AAAA records in these networks count as none.
    pub exclude: Vec<Ipv6Net>,
}

/// Cache options of a route; those that are not set are as in [`CacheConfig`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteCacheConfig {
    /// Whether none of its answers are kept. Clients get the TTLs that the servers give.
    pub off: bool,
    /// Cap on how long an answer is kept, beside that of the whole cache.
    pub max_ttl: Option<Duration>,
    /// TTLs of positive answers below this are raised to it.
    pub min_ttl: Duration,
    /// See [`CacheConfig::stale_max_age`].
    pub stale_max_age: Option<Duration>,
    /// See [`CacheConfig::stale_max_negative_age`].
    pub stale_max_negative_age: Option<Duration>,
    /// See [`CacheConfig::stale_after`].
    pub stale_after: Option<Duration>,
    /// See [`CacheConfig::stale_ttl`].
    pub stale_ttl: Option<Duration>,
}

/// The answer that a route gives for all its names without asking a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnAnswer {
    /// There is no such name.
    NxDomain,
    /// The name has no such record.
    NoData,
    /// Queries are refused.
    Refused,
    /// The name has these addresses, and no records of other types. Never empty.
    Addresses(Vec<IpAddr>),
}

/// How the kernel is to schedule workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheduling {
    /// By the weight of their cgroup, like all other threads.
    Normal,
    /// Before all threads under normal scheduling, within a budget.
    Realtime,
}

/// How names of the zones of RFC 6303 and RFC 7793 are answered that are no routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrivateZones {
    /// By the route that holds them.
    Forward,
    /// Their names do not exist, and never leave the node.
    NxDomain,
}

/// A name answered from the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticRecords {
    /// Owner name; `*.dev.example` stands for every name below `dev.example` that does not exist (RFC 4592).
    pub name: Name,
    /// A records.
    pub a: Vec<Ipv4Addr>,
    /// AAAA records.
    pub aaaa: Vec<Ipv6Addr>,
    /// CNAME target; excludes every other record of the name (RFC 2181 §10.1).
    pub cname: Option<Name>,
    /// TXT records, each one string.
    pub txt: Vec<String>,
}

/// The content of hosts files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostsConfig {
    /// The files.
    pub files: Vec<PathBuf>,
    /// Each name once, with its addresses.
    pub names: Vec<StaticRecords>,
    /// Each address once, with the name that its reverse name points to.
    pub reverse: Vec<(IpAddr, Name)>,
}

/// What holds for routes with several groups.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TiersConfig {
    /// How long an NXDOMAIN or NODATA of a group other than the first is kept: the first group may know the name when
    /// it is back.
    pub max_negative_ttl: Duration,
}

/// The answer cache.
#[derive(Debug, Clone, PartialEq)]
pub struct CacheConfig {
    /// Bytes of entries, keys and overhead together. 0 turns the cache off.
    pub max_size: u64,
    /// RFC 2181 §8 allows up to 2^31-1 s; longer than a day outlives most mistakes' fixes.
    pub max_ttl: Duration,
    /// RFC 2308 §5: one to three hours work well.
    pub max_negative_ttl: Duration,
    /// RFC 9520 §3.2: a failure is remembered at least this long.
    pub failure_min: Duration,
    /// RFC 9520 §3.2: and at most this long, doubling in between.
    pub failure_max: Duration,
    /// How long an expired answer is kept for the case that nobody answers (RFC 8767 §4). 0 turns stale answers off.
    pub stale_max_age: Duration,
    /// The same time for NXDOMAIN and NODATA; none for [`CacheConfig::STALE_MAX_NEGATIVE_AGE`], and 0 on routes that
    /// cap their negative answers.
    pub stale_max_negative_age: Option<Duration>,
    /// How long after it expired an answer is served although a server denies it, on routes with `stale_on`.
    pub stale_max_denied_age: Duration,
    /// RFC 8767 §5: the client response timer, after which a stale answer is served.
    pub stale_after: Duration,
    /// RFC 8767 §4: TTL of a stale answer.
    pub stale_ttl: Duration,
    /// Hits after which an entry about to expire is fetched anew. 0 turns prefetch off.
    pub prefetch_hits: u8,
    /// Share of its TTL left when that happens.
    pub prefetch_percent: u32,
    /// Whether A and AAAA records change their order from hit to hit.
    pub rotate: bool,
}

/// Client connections over TCP.
#[derive(Debug, Clone, PartialEq)]
pub struct TcpConfig {
    /// Connections in the whole process; at the cap the longest idle one makes room.
    pub max_connections: usize,
    /// Connections of one client address.
    pub max_connections_per_client: usize,
    /// Queries in flight on one connection; more wait unread.
    pub max_queries_per_connection: usize,
    /// Unsent reply bytes of one connection; at the cap no further query is read.
    pub max_unsent: u64,
    /// A connection without a whole query for this long is closed (RFC 7766 §6.2.3).
    pub idle_timeout: Duration,
}

/// Client sockets over UDP.
#[derive(Debug, Clone, PartialEq)]
pub struct UdpConfig {
    /// Asked for with `SO_RCVBUF`; the kernel may grant less, which is logged.
    pub receive_buffer: u64,
    /// Asked for with `SO_SNDBUF`.
    pub send_buffer: u64,
    /// REFUSED replies a second and worker to clients outside `allow`; the rest is dropped.
    pub refused_per_second: u32,
}

/// Caps that keep one client from starving the others.
#[derive(Debug, Clone, PartialEq)]
pub struct LimitsConfig {
    /// Queries of one client address in flight at once, per worker.
    pub client_in_flight: usize,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// How lines look.
    pub format: LogFormat,
    /// `error`, `warn`, `info`, `debug`, `trace`, or a tracing filter; `RUST_LOG` outranks it.
    pub level: String,
    /// Which queries are logged.
    pub queries: QueryLog,
}

/// The information on clients' queries in /status and on the page at the admin address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusConfig {
    /// Whether names are shown whose queries failed lately.
    pub failures: bool,
    /// Which of the most asked and slowest names, and of the most active clients, are counted and shown.
    pub top: TopCounts,
}

/// Which names and clients are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopCounts {
    /// Nothing; costs nothing.
    Off,
    /// Names.
    Names,
    /// Addresses of clients.
    Clients,
    /// Both.
    All,
}

/// Addresses of our own on the node, and the interface that carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeConfig {
    /// The addresses that pods ask. Never empty, no duplicates, each covered by [`Config::listen`].
    pub addresses: Vec<IpAddr>,
    /// The interface that carries the addresses.
    pub interface: InterfaceConfig,
    /// Whether DNS to and from the addresses stays out of connection tracking.
    pub notrack: bool,
    /// What happens to all of it when nodens ends.
    pub on_exit: OnExit,
}

/// An interface on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InterfaceConfig {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: InterfaceKind,
}

/// The kind of interface that carries the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InterfaceKind {
    /// An interface that nodens makes and deletes.
    Dummy,
    /// The host's loopback interface, for kernels without dummy interfaces; only the addresses are ours.
    Loopback,
}

/// What happens to interface, addresses and rules when nodens ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExit {
    /// They stay, so that clients are refused at once while nobody listens.
    Keep,
    /// They are removed, so that another server of the address gets its traffic back.
    Remove,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which queries are logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryLog {
    /// None; costs nothing.
    Off,
    /// Those answered with an error other than NXDOMAIN.
    Errors,
    /// All.
    All,
}

impl Config {
    /// Files it was read from, beside the configuration file itself.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.groups
            .iter()
            .flat_map(|group| group.resolv_confs.iter().chain(&group.tls_ca))
            .chain(&self.hosts.files)
            .chain(&self.imports)
    }

    /// Takes over from `running` the values that cannot change at run time; returns their keys where they would differ.
    pub fn keep_fixed(&mut self, running: &Self) -> Vec<&'static str> {
        let mut changed = Vec::new();
        let mut keep = |key, same: bool| {
            if !same {
                changed.push(key);
            }
        };
        keep("admin", self.admin == running.admin);
        keep(
            "metrics.listen",
            self.metrics_listen == running.metrics_listen,
        );
        keep(
            "metrics.coredns",
            self.metrics_coredns == running.metrics_coredns,
        );
        keep("socket", self.socket == running.socket);
        keep("workers", self.workers == running.workers);
        keep("scheduling", self.scheduling == running.scheduling);
        keep("handover", self.handover == running.handover);
        keep("node", self.node == running.node);
        keep("log.format", self.log.format == running.log.format);
        keep("log.level", self.log.level == running.log.level);
        let (udp, running_udp) = (&self.udp, &running.udp);
        keep(
            "udp.receive_buffer",
            udp.receive_buffer == running_udp.receive_buffer,
        );
        keep(
            "udp.send_buffer",
            udp.send_buffer == running_udp.send_buffer,
        );
        self.admin = running.admin;
        self.metrics_listen.clone_from(&running.metrics_listen);
        self.metrics_coredns = running.metrics_coredns;
        self.socket.clone_from(&running.socket);
        self.workers = running.workers;
        self.scheduling = running.scheduling;
        self.handover = running.handover;
        self.node.clone_from(&running.node);
        self.log.format = running.log.format;
        self.log.level.clone_from(&running.log.level);
        self.udp.receive_buffer = running.udp.receive_buffer;
        self.udp.send_buffer = running.udp.send_buffer;
        self.keep_settings(&running.settings, &changed);
        changed
    }

    /// Shows the values that stay as in `running`.
    fn keep_settings(&mut self, running: &[Setting], kept: &[&'static str]) {
        let mut settings = self.settings.to_vec();
        for key in kept {
            let concerned = |setting: &Setting| {
                let rest = setting.path.strip_prefix(key);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            };
            let place = settings.iter().position(concerned);
            let place = place.unwrap_or(settings.len());
            settings.retain(|setting| !concerned(setting));
            let running = running.iter().filter(|setting| concerned(setting));
            settings.splice(place..place, running.cloned());
        }
        self.settings = settings.into();
    }
}

impl Default for FailoverConfig {
    fn default() -> Self {
        Self {
            start_fanout: 3,
            hedge_min: Duration::from_millis(20),
            hedge_max: Duration::from_millis(200),
            hedge_budget_percent: 10,
            probe_min: Duration::from_millis(500),
            probe_max: Duration::from_secs(5),
            recover_probes: 2,
            poor_loss_percent: 5,
            poor_loss_window: 100,
            poor_answer_window: 20,
            poor_slower_by: Duration::from_millis(150),
            poor_slower_factor: 5,
        }
    }
}

impl CacheConfig {
    /// How long an expired NXDOMAIN or NODATA is kept for the case that nobody answers: about as long as a short
    /// outage. A longer time would deny more names that were added meanwhile.
    pub const STALE_MAX_NEGATIVE_AGE: Duration = Duration::from_mins(5);
}

impl Default for TiersConfig {
    fn default() -> Self {
        Self {
            max_negative_ttl: Duration::from_secs(30),
        }
    }
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            max_size: 64 << 20,
            max_ttl: Duration::from_hours(24),
            max_negative_ttl: Duration::from_hours(1),
            failure_min: Duration::from_secs(1),
            failure_max: Duration::from_secs(5),
            stale_max_age: Duration::from_hours(24),
            stale_max_negative_age: None,
            stale_max_denied_age: Duration::from_hours(1),
            stale_after: Duration::from_millis(500),
            stale_ttl: Duration::from_secs(30),
            prefetch_hits: 2,
            prefetch_percent: 10,
            rotate: true,
        }
    }
}

impl Default for TcpConfig {
    fn default() -> Self {
        Self {
            max_connections: 8_192,
            max_connections_per_client: 1_024,
            max_queries_per_connection: 256,
            max_unsent: 1 << 20,
            idle_timeout: Duration::from_secs(10),
        }
    }
}

impl Default for UdpConfig {
    fn default() -> Self {
        Self {
            receive_buffer: 4 << 20,
            send_buffer: 1 << 20,
            refused_per_second: 100,
        }
    }
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            client_in_flight: 2_000,
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            level: "info".to_owned(),
            queries: QueryLog::Off,
        }
    }
}

impl Default for StatusConfig {
    fn default() -> Self {
        Self {
            failures: true,
            top: TopCounts::Off,
        }
    }
}

impl std::fmt::Display for OwnAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NxDomain => f.write_str("NXDOMAIN"),
            Self::NoData => f.write_str("NODATA"),
            Self::Refused => f.write_str("REFUSED"),
            Self::Addresses(addresses) => {
                let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
                f.write_str(&addresses.join(", "))
            }
        }
    }
}

impl std::fmt::Display for ServerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (scheme, default_port, suffix) = match &self.transport {
            Transport::Udp => ("", 53, String::new()),
            Transport::Tcp => ("tcp://", 53, String::new()),
            Transport::Tls(name) => ("tls://", 853, format!("#{name}")),
            Transport::Https { name, path } => ("https://", 443, format!("{path}#{name}")),
        };
        f.write_str(scheme)?;
        match (self.address.port() == default_port, self.address.ip()) {
            (true, IpAddr::V6(ip)) if !scheme.is_empty() => write!(f, "[{ip}]")?,
            (true, ip) => write!(f, "{ip}")?,
            (false, _) => write!(f, "{}", self.address)?,
        }
        f.write_str(&suffix)
    }
}
