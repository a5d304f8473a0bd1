//! Every key of the configuration, in the order `nodens check` prints them.
//!
//! Where a table or a list needs more than a few lines, they are in a file of its name: `listen.rs`, `allow.rs`, `groups.rs`,
//! `routes.rs` (with `records`), `hosts.rs`, `cache.rs`, `node.rs`. What each number may be: `limits.rs`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use figment::value::Value;

use super::error::Problem;
use super::files::Files;
use super::host::HostFacts;
use super::layers::Layers;
use super::leaf::{Level, Size, show_text};
use super::listen::Listeners;
use super::read::{Report, Section, Shapes};
use super::shape::{self, Shape};
use super::yaml::Document;
use super::{
    Config, LimitsConfig, LogConfig, PrivateZones, Scheduling, StatusConfig, TcpConfig,
    TiersConfig, UdpConfig,
};
use super::{allow, cache, groups, hosts, limits, listen, node, routes};

/// What each key may hold, as reading `document` tells it; keys of tables that it does not have are not met.
pub(super) fn shapes(document: Document) -> Shapes {
    let file = Some((Path::new("nodens.yaml"), document));
    let layers = Layers::merge(file, [], &[], &mut Vec::new());
    let report = Report::noting(&layers);
    read(&report, &HostFacts::default());
    report.into_shapes()
}

/// Reads every key; what is wrong or missing is reported, and has its default in the result.
pub(super) fn read(report: &Report<'_>, host: &HostFacts) -> Config {
    let top = report.top();
    let listen = listen::read_listen(&top, report);
    let allow = allow::read_allow(&top, report);
    allow::warn_open_resolver(report, &listen, &allow);
    let admin = listen::read_admin(&top);
    let metrics = top.section("metrics");
    let metrics_listen = listen::read_metrics_listen(&metrics, report);
    let metrics_coredns = metrics.read("coredns", false);
    let socket = read_socket(&top);
    let workers = top.read_in("workers", default_workers(), &limits::WORKERS);
    top.note_default_varies("workers");
    let scheduling = top.read("scheduling", Scheduling::Normal);
    let handover = top.read("handover", false);
    let listeners = Listeners {
        listen: &listen,
        admin,
        metrics: &metrics_listen,
        handover,
    };
    listen::check_ports(&top, &metrics, &listeners);
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
    let cache = cache::read(&top);
    cache::warn_useless_caps(report, &routes, &cache);
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

pub(super) fn read_socket(top: &Section<'_>) -> Option<PathBuf> {
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
