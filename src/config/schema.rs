//! Every key of the configuration, in the order `nodens check` prints them, and the checks that span several keys.
//!
//! Reads files (the configuration, resolv.conf, the host's name) and no socket. Upstreams are in `groups.rs`, routes
//! and records in `routes.rs`, what each number may be in `limits.rs`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use figment::value::Value;
use ipnet::IpNet;
use serde_json::{Value as Json, json};

use super::corefile::{self, Remark, Surroundings, Verdict, is_corefile};
use super::error::{ConfigError, ConfigErrors, Missing, Problem};
use super::files::Files;
use super::layers::Layers;
use super::leaf::{Leaf, Level, Size, several, show_list, show_text, show_value};
use super::named::NO_INTERFACE;
use super::path::KeyPath;
use super::read::{Report, Section, Setting, Shapes, list_items};
use super::shape::{self, Shape};
use super::yaml::Document;
use super::{
    CacheConfig, Config, LimitsConfig, LogConfig, PrivateZones, Scheduling, StatusConfig,
    TcpConfig, TiersConfig, UdpConfig,
};
use super::{foreign, groups, hosts, layers, limits, node, routes, yaml};

/// What the command line says about the configuration.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`; without it the defaults and the environment apply.
    pub config_file: Option<PathBuf>,
    /// Keys set on the command line, such as `cache.max_size` or `routes."cluster.local"`, and their values. They
    /// outrank everything else.
    pub overrides: Vec<(String, String)>,
    /// Where kube-dns is, for a Corefile with the plugin `kubernetes`.
    pub cluster_dns: Option<IpAddr>,
}

/// A configuration and where it came from.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// Every value in force and who set it, in the order of the schema.
    pub settings: Vec<Setting>,
    /// Warnings for the log: values that are valid but probably not intended.
    pub warnings: Vec<String>,
    /// The configuration file.
    pub file: Option<PathBuf>,
}

/// A Corefile as our configuration.
#[derive(Debug)]
pub struct Imported {
    /// What became of each line.
    pub remarks: Vec<Remark>,
    /// The configuration.
    pub yaml: String,
    /// The same as values of the Helm chart.
    pub chart_values: String,
    /// Files that it names and that are not here, as they need not be where it does not run.
    pub missing: Vec<ConfigError>,
}

/// Files and facts of the host that defaults are taken from.
#[derive(Debug)]
struct HostFacts {
    resolv_conf: PathBuf,
    hostname: PathBuf,
    /// The kubelet's configuration, which knows the address of kube-dns.
    kubelet: PathBuf,
    /// A file that exists where the kernel has IPv6.
    ipv6: PathBuf,
    /// Where kube-dns is, if the user says so.
    cluster_dns: Option<IpAddr>,
    /// Where the files that the configuration is made of are read from.
    files: Files,
}

impl Default for HostFacts {
    fn default() -> Self {
        Self {
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            hostname: PathBuf::from("/proc/sys/kernel/hostname"),
            kubelet: PathBuf::from("/var/lib/kubelet/config.yaml"),
            ipv6: PathBuf::from("/proc/net/if_inet6"),
            cluster_dns: None,
            files: Files::default(),
        }
    }
}

/// Loads the configuration from the file that `flags` name, the process's environment and `flags`.
///
/// # Errors
/// Every mistake there is, at once.
pub fn load(flags: &Flags) -> Result<Loaded, ConfigErrors> {
    load_with(flags, Files::default())
}

/// The same from `files`, as [`Files::as_they_were`].
///
/// # Errors
/// Every mistake there is, at once.
pub fn load_with(flags: &Flags, files: Files) -> Result<Loaded, ConfigErrors> {
    let text = match &flags.config_file {
        None => None,
        Some(file) => match files.read_text(file) {
            Ok(text) => Some((file.as_path(), text)),
            Err(source) => {
                let file = file.clone();
                let error = match source.kind() {
                    std::io::ErrorKind::NotFound => ConfigError::NoFile { file },
                    _ => ConfigError::Unreadable { file, source },
                };
                return Err(ConfigErrors::new(vec![error]));
            }
        },
    };
    let file = text.as_ref().map(|(file, text)| (*file, text.as_str()));
    let host = HostFacts {
        cluster_dns: flags.cluster_dns,
        files,
        ..HostFacts::default()
    };
    load_on(&host, file, environment(), &flags.overrides)
}

/// Loads the configuration from a file's text, an environment and overrides that are all given, so that nothing of the
/// process matters but the host's resolv.conf, its name and the CPUs.
///
/// # Errors
/// Every mistake there is, at once.
pub fn load_from(
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, ConfigErrors> {
    load_on(&HostFacts::default(), file, environment, overrides)
}

/// Makes our configuration of a Corefile, or of the ConfigMap that holds one, whatever the file's name is.
///
/// # Errors
/// Every mistake there is, at once.
pub fn import(
    file: &Path,
    text: &str,
    cluster_dns: Option<IpAddr>,
) -> Result<Imported, ConfigErrors> {
    let host = HostFacts {
        cluster_dns,
        ..HostFacts::default()
    };
    let environment: Vec<(String, String)> = environment().collect();
    let corefile = read_corefile(&host, file, text, &environment)?;
    let mut errors = Vec::new();
    let layers = Layers::merge(
        Some((file, corefile.document.clone())),
        [],
        &[],
        &mut errors,
    );
    let report = Report::new(&layers, errors);
    read(&report, &host);
    let mut missing = Vec::new();
    if let Err(errors) = report.finish() {
        let (of_host, others): (Vec<_>, Vec<_>) =
            errors.into_iter().partition(ConfigError::is_of_this_host);
        if !others.is_empty() {
            return Err(ConfigErrors::new(
                others.into_iter().chain(of_host).collect(),
            ));
        }
        missing = of_host;
    }
    Ok(Imported {
        yaml: corefile.yaml(),
        chart_values: corefile.chart_values(cluster_dns),
        remarks: corefile.remarks,
        missing,
    })
}

/// The variables of the process. Octets that are not UTF-8 become U+FFFD, so that the mistake is visible.
fn environment() -> impl Iterator<Item = (String, String)> {
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (lossy(name), lossy(value)))
}

impl Config {
    /// A configuration from YAML alone, as if it stood in a file called `nodens.yaml`; `{}` gives the defaults.
    ///
    /// # Errors
    /// Every mistake there is, at once.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigErrors> {
        let file = Some((Path::new("nodens.yaml"), text));
        load_from(file, [], &[]).map(|loaded| loaded.config)
    }
}

fn load_on(
    host: &HostFacts,
    file: Option<(&Path, &str)>,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[(String, String)],
) -> Result<Loaded, ConfigErrors> {
    let environment: Vec<(String, String)> = environment.into_iter().collect();
    let mut errors = Vec::new();
    let (mut document, mut imported) = (None, None);
    match file {
        Some((path, text)) if is_corefile(path) => {
            let corefile = read_corefile(host, path, text, &environment)?;
            document = Some((path, corefile.document.clone()));
            imported = Some(corefile);
        }
        Some((path, text)) => {
            let parsed = read_yaml(path, text, &mut errors);
            if let Some(what) =
                foreign::what_it_is(&path.display().to_string(), text, parsed.is_some())
            {
                let file = path.to_owned();
                return Err(ConfigErrors::new(vec![ConfigError::Foreign { file, what }]));
            }
            // Without the file every other complaint would be about its absence.
            let Some(parsed) = parsed else {
                return Err(ConfigErrors::new(errors));
            };
            document = Some((path, parsed));
        }
        None => {}
    }
    let near_ours = layers::near_ours(&environment);
    let layers = Layers::merge(document, environment, overrides, &mut errors);
    let report = Report::new(&layers, errors).with_files(host.files.clone());
    let mut config = read(&report, host);
    let (settings, mut warnings) = report.finish()?;
    let is_key = |key: &str| {
        let mut paths = settings.iter().map(|setting| setting.path.split('.'));
        paths.any(|mut path| path.next() == Some(key))
    };
    let unread = near_ours.into_iter().filter(|(_, key)| is_key(key));
    warnings.extend(unread.map(|(name, _)| {
        let meant = name.replacen('_', "__", 1);
        format!("${name} is not read: two underscores follow the name, {meant}")
    }));
    config.settings = settings.as_slice().into();
    config.read_from = host.files.clone();
    if let Some(imported) = imported {
        config.imports = imported.files.into_iter().collect();
        let differ = imported
            .remarks
            .iter()
            .filter(|remark| remark.verdict != Verdict::Taken);
        warnings.extend(differ.map(ToString::to_string));
    }
    Ok(Loaded {
        config,
        settings,
        warnings,
        file: file.map(|(path, _)| path.to_owned()),
    })
}

/// The keys and values of a YAML file; none if it has none.
fn read_yaml(path: &Path, text: &str, errors: &mut Vec<ConfigError>) -> Option<Document> {
    let (parsed, mistakes) = yaml::parse(text);
    if parsed.is_none() && mistakes.is_empty() {
        errors.push(ConfigError::EmptyFile {
            file: path.to_owned(),
        });
    }
    errors.extend(mistakes.into_iter().map(|mistake| ConfigError::Yaml {
        file: path.to_owned(),
        line: mistake.line,
        problem: mistake.problem,
    }));
    parsed
}

fn read_corefile(
    host: &HostFacts,
    path: &Path,
    text: &str,
    environment: &[(String, String)],
) -> Result<corefile::Imported, ConfigErrors> {
    let variable = |name: &str| {
        let known = environment.iter().find(|(known, _)| known == name);
        known.map(|(_, value)| value.clone())
    };
    let around = Surroundings {
        cluster_dns: host
            .cluster_dns
            .or_else(|| kubelets_cluster_dns(&host.kubelet)),
        ipv6: host.ipv6.exists(),
        variable: &variable,
        files: &host.files,
    };
    corefile::import(path, text, &around).map_err(ConfigErrors::new)
}

/// The first address of `clusterDNS` in the kubelet's configuration, where there is one.
fn kubelets_cluster_dns(file: &Path) -> Option<IpAddr> {
    let (document, _) = yaml::parse(&fs::read_to_string(file).ok()?);
    let addresses = document?.dict.remove("clusterDNS")?;
    addresses.as_array()?.first()?.as_str()?.parse().ok()
}

/// What each key may hold, as reading `document` tells it; keys of tables that it does not have are not met.
pub(super) fn shapes(document: Document) -> Shapes {
    let file = Some((Path::new("nodens.yaml"), document));
    let layers = Layers::merge(file, [], &[], &mut Vec::new());
    let report = Report::noting(&layers);
    read(&report, &HostFacts::default());
    report.into_shapes()
}

fn read(report: &Report<'_>, host: &HostFacts) -> Config {
    let top = report.top();
    let listen = read_listen(&top, report);
    let allow = read_allow(&top, report);
    warn_open_resolver(report, &listen, &allow);
    let admin = top.read_or_null("admin", Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 9153))));
    if let Some(address) = admin.filter(|address| address.ip().is_multicast()) {
        let (value, why) = (address.to_string(), NO_HOST);
        top.error("admin", Problem::Unusable { value, why });
    }
    let metrics = top.section("metrics");
    let metrics_listen = read_metrics_listen(&metrics, report);
    let metrics_coredns = metrics.read("coredns", false);
    let socket = read_socket(&top);
    let workers = top.read_in("workers", default_workers(), &limits::WORKERS);
    top.note_default_varies("workers");
    let scheduling = top.read("scheduling", Scheduling::Normal);
    let handover = top.read("handover", false);
    check_ports(&top, &metrics, &listen, admin, &metrics_listen, handover);
    metrics.finish();
    let shutdown_grace = top.read_in(
        "shutdown_grace",
        Duration::from_secs(10),
        &limits::SHUTDOWN_GRACE,
    );
    let node_name = read_node_name(&top, report, host);
    let groups = groups::read(&top, report, &listen, &host.resolv_conf);
    let routes = routes::read_routes(&top, report, &groups);
    let private_zones = top.read("private_zones", PrivateZones::Forward);
    let hosts = hosts::read(&top, report);
    let records = routes::read_records(&top, report, &hosts);
    let complete_cnames = top.read("complete_cnames", true);
    let tiers = read_tiers(&top);
    let cache = read_cache(&top);
    warn_useless_caps(report, &routes, &cache);
    let config = Config {
        allow,
        admin,
        metrics_listen,
        metrics_coredns,
        socket,
        workers: NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN),
        scheduling,
        handover,
        shutdown_grace,
        node_name,
        groups,
        routes,
        private_zones,
        records,
        hosts,
        imports: Vec::new(),
        read_from: Files::default(),
        complete_cnames,
        tiers,
        cache,
        tcp: read_tcp(&top),
        udp: read_udp(&top),
        limits: read_limits(&top),
        log: read_log(&top),
        status: read_status(&top),
        settings: std::sync::Arc::new([]),
        node: node::read(&top, report, &listen),
        listen,
    };
    top.finish();
    config
}

fn read_listen(top: &Section<'_>, report: &Report<'_>) -> Vec<SocketAddr> {
    let mut listen = Vec::new();
    top.note("listen", || {
        let shape = Shape::list(SocketAddr::schema(None)).counting(1, limits::MAX_LISTEN);
        shape.with_default(["127.0.0.1:5300"].as_slice())
    });
    match top.value("listen") {
        None => listen.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 5300))),
        Some(value) => {
            let items = list_items(&top.path("listen"), value);
            listen = read_addresses(report, &items);
            if items.is_empty() {
                top.error("listen", Problem::Missing(Missing::Listen));
            }
            check_count(top, "listen", items.len(), limits::MAX_LISTEN);
        }
    }
    top.setting("listen", show_list(&listen));
    listen
}

/// Why no client can ask at such an address.
const NO_HOST: &str = "this address is a group's; write one of this host, such as 127.0.0.1:53, or 0.0.0.0:53 for all";

/// Addresses to listen at, none of them twice but those of which the kernel chooses the port.
fn read_addresses(report: &Report<'_>, items: &[(KeyPath, &Value)]) -> Vec<SocketAddr> {
    let mut addresses = Vec::new();
    for (path, item) in items {
        let text = item.as_str().unwrap_or_default();
        if let Some(problem) = several(text, |part| part.parse::<SocketAddr>().is_ok()) {
            report.error_at(path, item, problem);
            continue;
        }
        let Some(address) = report.leaf::<SocketAddr>(path, item) else {
            continue;
        };
        if let SocketAddr::V6(v6) = address
            && v6.ip().is_unicast_link_local()
            && v6.scope_id() == 0
        {
            let (value, why) = (show_value(item), NO_INTERFACE);
            report.error_at(path, item, Problem::Unusable { value, why });
            continue;
        }
        if address.ip().is_multicast() || address.ip() == Ipv4Addr::BROADCAST {
            let (value, why) = (show_value(item), NO_HOST);
            report.error_at(path, item, Problem::Unusable { value, why });
            continue;
        }
        if address.port() != 0 && addresses.contains(&address) {
            let (value, first) = (show_value(item), String::new());
            report.error_at(path, item, Problem::Twice { value, first });
        } else {
            addresses.push(address);
        }
    }
    addresses
}

fn check_count(section: &Section<'_>, key: &'static str, count: usize, limit: usize) {
    if count > limit {
        section.error(key, Problem::TooMany { count, limit });
    }
}

/// Loopback, link-local, RFC 1918, RFC 6598 and RFC 4193: where pods, nodes and sidecars are.
const PRIVATE: [&str; 9] = [
    "127.0.0.0/8",
    "::1/128",
    "169.254.0.0/16",
    "fe80::/10",
    "10.0.0.0/8",
    "172.16.0.0/12",
    "192.168.0.0/16",
    "100.64.0.0/10",
    "fc00::/7",
];

/// Both families, whole.
const ALL: [&str; 2] = ["0.0.0.0/0", "::/0"];

fn networks(words: &[&str]) -> Vec<IpNet> {
    words
        .iter()
        .filter_map(|network| network.parse().ok())
        .collect()
}

fn read_allow(top: &Section<'_>, report: &Report<'_>) -> Vec<IpNet> {
    let mut allow = Vec::new();
    let mut shown = vec!["private".to_owned()];
    top.note("allow", || {
        let networks = json!({"anyOf": [shape::words(&["private", "all"]), shape::network()]});
        Shape::list(networks)
            .counting(1, limits::MAX_NETWORKS)
            .with_default(["private"].as_slice())
    });
    match top.value("allow") {
        None => allow = networks(&PRIVATE),
        Some(value) => {
            let items = list_items(&top.path("allow"), value);
            for (path, item) in &items {
                match client_networks(item) {
                    Ok(networks) => allow.extend(networks),
                    Err(problem) => report.error_at(path, item, problem),
                }
            }
            if items.is_empty() {
                top.error("allow", Problem::Missing(Missing::Allow));
            }
            check_count(top, "allow", items.len(), limits::MAX_NETWORKS);
            shown = items.iter().map(|(_, item)| show_value(item)).collect();
        }
    }
    top.setting("allow", show_list(shown));
    let mut seen = std::collections::BTreeSet::new();
    allow.retain(|network| seen.insert(*network));
    allow
}

/// An address that strangers may reach, where everybody is answered.
fn warn_open_resolver(report: &Report<'_>, listen: &[SocketAddr], allow: &[IpNet]) {
    let private = networks(&PRIVATE);
    let is_open = |address: &&SocketAddr| {
        let ip = address.ip();
        let everybody = |network: &IpNet| network.prefix_len() == 0 && network.contains(&ip);
        !private.iter().any(|network| network.contains(&ip)) && allow.iter().any(everybody)
    };
    if let Some(address) = listen.iter().find(is_open) {
        report.warn(format!(
            "listen: {address}: whoever reaches this address is answered (allow: all). If strangers do, they can flood others \
             with replies; write the clients' networks in allow, such as private"
        ));
    }
}

fn client_networks(value: &Value) -> Result<Vec<IpNet>, Problem> {
    let not_a_network = || Problem::NotA {
        value: show_value(value),
        expected: "a network such as 10.0.0.0/8, an address, or the word private or all",
    };
    match value.as_str() {
        Some("private") => Ok(networks(&PRIVATE)),
        Some("all") => Ok(networks(&ALL)),
        Some(text) => {
            if let Some(problem) = several(text, |part| client_networks(&part.into()).is_ok()) {
                return Err(problem);
            }
            let address = || text.parse::<IpAddr>().map(IpNet::from);
            let network = text.parse::<IpNet>().or_else(|_| address());
            network
                .map(|network| vec![network.trunc()])
                .map_err(|_| not_a_network())
        }
        None => Err(not_a_network()),
    }
}

/// `admin` and `metrics.listen` are TCP listeners too.
fn check_ports(
    top: &Section<'_>,
    metrics: &Section<'_>,
    listen: &[SocketAddr],
    admin: Option<SocketAddr>,
    metrics_listen: &[SocketAddr],
    handover: bool,
) {
    let twice = |address: SocketAddr, other: &str| Problem::Twice {
        value: address.to_string(),
        first: format!(" (also in {other})"),
    };
    let taken = |address: &SocketAddr| address.port() != 0 && listen.contains(address);
    if let Some(address) = admin.filter(taken) {
        top.error("admin", twice(address, "listen"));
    }
    // The kernel gives a port of all addresses and of one of them to one of two listeners only, unless both may be shared.
    let takes_in = |value: SocketAddr, others: &[SocketAddr], key: &'static str| {
        let taken_in = |other: &&SocketAddr| {
            value.port() == other.port()
                && value.port() != 0
                && value.is_ipv4() == other.is_ipv4()
                && value.ip().is_unspecified()
                && !other.ip().is_unspecified()
        };
        let value = value.to_string();
        let other = *others.iter().find(taken_in)?;
        Some(Problem::TakesIn { value, other, key })
    };
    let admin_alone = admin.as_slice();
    for &address in listen {
        let problem = takes_in(address, if handover { &[] } else { listen }, "listen")
            .or_else(|| takes_in(address, admin_alone, "admin"))
            .or_else(|| takes_in(address, metrics_listen, "metrics.listen"));
        if let Some(problem) = problem {
            top.error("listen", problem);
        }
    }
    for &address in metrics_listen {
        if taken(&address) {
            metrics.error("listen", twice(address, "listen"));
        } else if address.port() != 0 && admin == Some(address) {
            metrics.error("listen", twice(address, "admin"));
        } else if let Some(problem) = takes_in(address, admin_alone, "admin") {
            // Not shared even with `handover`: the instance would wait for itself.
            metrics.error("listen", problem);
        }
    }
}

fn read_metrics_listen(metrics: &Section<'_>, report: &Report<'_>) -> Vec<SocketAddr> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    metrics.note("listen", || {
        let shape = Shape::list(SocketAddr::schema(None));
        let mut shape = shape.counting(0, limits::MAX_METRICS_LISTEN);
        shape.values.push(json!({"type": "null"}));
        shape.with_default(Json::Null)
    });
    if let Some(value) = metrics
        .value("listen")
        .filter(|value| !matches!(value, Value::Empty(..)))
    {
        let items = list_items(&metrics.path("listen"), value);
        addresses = read_addresses(report, &items);
        check_count(metrics, "listen", items.len(), limits::MAX_METRICS_LISTEN);
    }
    let shown = match &*addresses {
        [] => "null".to_owned(),
        [address] => address.to_string(),
        _ => show_list(&addresses),
    };
    metrics.setting("listen", shown);
    addresses
}

fn read_socket(top: &Section<'_>) -> Option<PathBuf> {
    let socket: Option<PathBuf> = top.read_or_null("socket", None);
    if let Some(path) = &socket {
        let length = path.as_os_str().len();
        if length > limits::MAX_SOCKET_PATH {
            let value = format!("a path of {length} bytes");
            let limit = format!("{} bytes (sun_path)", limits::MAX_SOCKET_PATH);
            top.error("socket", Problem::OverLimit { value, limit });
        }
    }
    socket
}

/// The standard library counts the cgroup's quota and the affinity mask.
fn default_workers() -> usize {
    thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(4)
}

fn read_node_name(top: &Section<'_>, report: &Report<'_>, host: &HostFacts) -> String {
    top.note("node_name", || {
        let mut name = shape::text();
        name["minLength"] = 1.into();
        name["maxLength"] = limits::MAX_TEXT.into();
        Shape::of([name])
    });
    if top.value("node_name").is_some() {
        let name: String = top.read_noted("node_name", String::new());
        let empty = name.is_empty();
        if name.len() > limits::MAX_TEXT {
            let length = name.len();
            top.error("node_name", Problem::TextTooLong { length });
        } else if empty && matches!(top.value("node_name"), Some(Value::String(..))) {
            let expected = "a name such as node-1";
            top.error("node_name", Problem::NoValue { expected });
        }
        return name;
    }
    let name = fs::read_to_string(&host.hostname).unwrap_or_default();
    let mut name = name.trim().to_owned();
    if name.is_empty() {
        "nodens".clone_into(&mut name);
        let file = host.hostname.display();
        report.warn(format!(
            "node_name: {file} holds no name, so id.server answers nodens; set node_name"
        ));
    }
    top.setting("node_name", show_text(&name));
    name
}

fn read_tiers(top: &Section<'_>) -> TiersConfig {
    let section = top.section("tiers");
    let max_negative_ttl = section.read_in(
        "max_negative_ttl",
        TiersConfig::default().max_negative_ttl,
        &limits::LATER_TIER_NEGATIVE_TTL,
    );
    section.finish();
    TiersConfig { max_negative_ttl }
}

fn read_cache(top: &Section<'_>) -> CacheConfig {
    let section = top.section("cache");
    let defaults = CacheConfig::default();
    let max_size = read_cache_size(&section, Size(defaults.max_size));
    let max_ttl = section.read_in("max_ttl", defaults.max_ttl, &limits::MAX_TTL);
    let max_negative_ttl = section.read_in(
        "max_negative_ttl",
        defaults.max_negative_ttl,
        &limits::MAX_NEGATIVE_TTL,
    );
    let failure_min = section.read_in("failure_min", defaults.failure_min, &limits::FAILURE);
    let failure_max = section.read_in("failure_max", defaults.failure_max, &limits::FAILURE);
    section.ordered(("failure_min", &failure_min), ("failure_max", &failure_max));
    let stale = section.section("stale");
    let stale_max_age = stale.read_in("max_age", defaults.stale_max_age, &limits::STALE_MAX_AGE);
    let stale_max_negative_age = read_stale_max_negative_age(&stale, stale_max_age);
    let stale_max_denied_age = read_stale_max_denied_age(&stale, stale_max_age);
    let stale_after = stale.read_in("after", defaults.stale_after, &limits::STALE_AFTER);
    let stale_ttl = stale.read_in("ttl", defaults.stale_ttl, &limits::STALE_TTL);
    stale.finish();
    let prefetch = section.section("prefetch");
    let prefetch_hits = u32::from(defaults.prefetch_hits);
    let prefetch_hits = prefetch.read_in("hits", prefetch_hits, &limits::PREFETCH_HITS);
    let prefetch_hits = u8::try_from(prefetch_hits).expect("the range ends at 255");
    let prefetch_percent = prefetch.read_in(
        "percent",
        defaults.prefetch_percent,
        &limits::PREFETCH_PERCENT,
    );
    prefetch.finish();
    let rotate = section.read("rotate", defaults.rotate);
    section.finish();
    CacheConfig {
        max_size,
        max_ttl,
        max_negative_ttl,
        failure_min,
        failure_max,
        stale_max_age,
        stale_max_negative_age,
        stale_max_denied_age,
        stale_after,
        stale_ttl,
        prefetch_hits,
        prefetch_percent,
        rotate,
    }
}

/// None if nobody set it: the default is another one on routes that cap their negative answers.
fn read_stale_max_negative_age(stale: &Section<'_>, max_age: Duration) -> Option<Duration> {
    let key = "max_negative_age";
    // If the value is wrong, its replacement must not be reported as another mistake.
    let default = CacheConfig::STALE_MAX_NEGATIVE_AGE.min(max_age);
    let age = stale.read_in_if_set(key, default, &limits::STALE_MAX_NEGATIVE_AGE)?;
    stale.ordered((key, &age), ("max_age", &max_age));
    Some(age)
}

fn read_stale_max_denied_age(stale: &Section<'_>, max_age: Duration) -> Duration {
    let key = "max_denied_age";
    let default = CacheConfig::default().stale_max_denied_age.min(max_age);
    let age = stale.read_in(key, default, &limits::STALE_MAX_DENIED_AGE);
    if stale.value(key).is_some() {
        stale.ordered((key, &age), ("max_age", &max_age));
    }
    age
}

/// 0, or between the limits.
fn read_cache_size(section: &Section<'_>, default: Size) -> u64 {
    let range = limits::sizes(0, limits::MAX_CACHE.0);
    let size = section.read_in("max_size", default, &range);
    if size.0 > 0 && size < limits::MIN_CACHE {
        let (value, limit) = (size.show(), limits::MIN_CACHE.show());
        section.error("max_size", Problem::CacheTooSmall { value, limit });
    }
    size.0
}

/// The cache keeps nothing longer than its own limits, whatever a route says.
fn warn_useless_caps(report: &Report<'_>, routes: &[super::RouteConfig], cache: &CacheConfig) {
    let (most, most_negative) = (cache.max_ttl, cache.max_negative_ttl);
    for route in routes {
        let path = KeyPath::default()
            .key("routes")
            .key(&super::leaf::show_name(&route.zone));
        let min_ttl = Some(route.cache.min_ttl);
        for (value, key, limit, of) in [
            (
                route.max_negative_ttl,
                "max_negative_ttl",
                most_negative,
                "max_negative_ttl",
            ),
            (route.cache.max_ttl, "cache.max_ttl", most, "max_ttl"),
            (min_ttl, "cache.min_ttl", most, "max_ttl"),
        ] {
            if let Some(value) = value.filter(|value| *value > limit) {
                let (value, limit) = (value.show(), limit.show());
                report.warn(format!(
                    "{path}.{key}: {value} has no effect, cache.{of} is {limit}"
                ));
            }
        }
    }
}

fn read_tcp(top: &Section<'_>) -> TcpConfig {
    let section = top.section("tcp");
    let defaults = TcpConfig::default();
    let per_client = "max_connections_per_client";
    let pipeline = "max_queries_per_connection";
    let tcp = TcpConfig {
        max_connections: section.read_in(
            "max_connections",
            defaults.max_connections,
            &limits::CONNECTIONS,
        ),
        max_connections_per_client: section.read_in(
            per_client,
            defaults.max_connections_per_client,
            &limits::CONNECTIONS,
        ),
        max_queries_per_connection: section.read_in(
            pipeline,
            defaults.max_queries_per_connection,
            &limits::PIPELINE,
        ),
        max_unsent: section
            .read_in("max_unsent", Size(defaults.max_unsent), &limits::UNSENT)
            .0,
        idle_timeout: section.read_in("idle_timeout", defaults.idle_timeout, &limits::IDLE_TIMEOUT),
    };
    section.finish();
    tcp
}

fn read_udp(top: &Section<'_>) -> UdpConfig {
    let section = top.section("udp");
    let defaults = UdpConfig::default();
    let udp = UdpConfig {
        receive_buffer: section
            .read_in(
                "receive_buffer",
                Size(defaults.receive_buffer),
                &limits::SOCKET_BUFFER,
            )
            .0,
        send_buffer: section
            .read_in(
                "send_buffer",
                Size(defaults.send_buffer),
                &limits::SOCKET_BUFFER,
            )
            .0,
        refused_per_second: section.read_in(
            "refused_per_second",
            defaults.refused_per_second,
            &limits::REFUSED_RATE,
        ),
    };
    section.finish();
    udp
}

fn read_limits(top: &Section<'_>) -> LimitsConfig {
    let section = top.section("limits");
    let default = LimitsConfig::default().client_in_flight;
    let limits = LimitsConfig {
        client_in_flight: section.read_in("client_in_flight", default, &limits::CLIENT_IN_FLIGHT),
    };
    section.finish();
    limits
}

fn read_log(top: &Section<'_>) -> LogConfig {
    let section = top.section("log");
    let defaults = LogConfig::default();
    let log = LogConfig {
        format: section.read("format", defaults.format),
        level: section.read("level", Level(defaults.level)).0,
        queries: section.read("queries", defaults.queries),
    };
    section.finish();
    log
}

fn read_status(top: &Section<'_>) -> StatusConfig {
    let section = top.section("status");
    let defaults = StatusConfig::default();
    let status = StatusConfig {
        failures: section.read("failures", defaults.failures),
        top: section.read("top", defaults.top),
    };
    section.finish();
    status
}

#[cfg(test)]
#[path = "tests.rs"]
pub(super) mod tests;
