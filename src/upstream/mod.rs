//! Routes, groups and servers, which all workers share, and the lookup of one question.
//!
//! - [`routes`] finds the route of a name, and [`rewrite`] changes names on the way to them and back;
//! - [`ask`] runs a plan over a worker's own transports;
//! - [`health`], [`plan`], [`extra`], [`rate`] and [`tolerance`] have the rules, and are pure;
//! - [`server`] and [`group`] have the shared state to which the rules apply;
//! - [`probe`] and [`loops`] ask servers questions of our own, by [`probe_exchange`];
//! - [`host_lookup`] resolves the host names of servers;
//! - [`ask_each`] asks every server the same question, for a person who compares the answers;
//! - [`history`] keeps round-trip times for the status page; [`metrics`] counts.

pub mod ask;
pub mod ask_each;
pub mod extra;
pub mod group;
pub mod health;
pub mod history;
pub mod host_lookup;
pub mod loops;
pub mod metrics;
pub mod plan;
pub mod probe;
pub mod probe_exchange;
pub mod rate;
pub mod rewrite;
pub mod routes;
pub mod server;
pub mod tolerance;

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Notify;
use tokio_rustls::rustls::pki_types::CertificateDer;

use crate::config::{Config, GroupConfig, KeyPath, ServerConfig, Transport};
use crate::net::network::Network;
use crate::transport::https::Endpoint;
use crate::transport::tls::{self, Tls, read_roots};
use group::Group;
use metrics::UpstreamFamilies;
use server::{Server, ServerParts};

/// Why a group cannot be used. Its settings for TLS and HTTPS are all that can be found wrong before the first query.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The file of a group's root certificates cannot be used.
    #[error("{key}: {}: {source}; it must be a readable file of PEM certificates", path.display())]
    TlsCa {
        /// The key, and where it was set.
        key: String,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The name or the path of a server over TLS or HTTPS cannot be used.
    #[error("server {server}: {source}")]
    Server {
        /// The server.
        server: String,
        /// Why.
        source: std::io::Error,
    },
}

/// All groups and servers of a configuration.
#[derive(Debug)]
pub struct Upstreams {
    /// Groups, in the order of the configuration. Routes refer to them by index.
    pub groups: Vec<Group>,
    /// Servers of all groups.
    pub servers: Vec<Arc<Server>>,
    /// Notified when a server's next probe is due at another time.
    pub probe_wanted: Arc<Notify>,
    /// The network over which servers are reached.
    pub network: Arc<dyn Network>,
    /// The root certificates that each group trusts beside the web's, by the index of the group.
    roots: Vec<Vec<CertificateDer<'static>>>,
}

impl Upstreams {
    /// The configured groups. A server that `previous` has with the same settings is taken over, with all that is known of
    /// it. Nothing is known of other servers.
    ///
    /// # Errors
    /// All reasons why a server could not be used.
    pub fn new(
        config: &Config,
        previous: Option<&Self>,
        metrics: &UpstreamFamilies,
        network: &Arc<dyn Network>,
        now: Instant,
    ) -> Result<Self, Vec<UpstreamError>> {
        let probe_wanted = previous.map_or_else(Arc::default, |old| Arc::clone(&old.probe_wanted));
        let mut errors = Vec::new();
        let mut upstreams = Self {
            groups: Vec::new(),
            servers: Vec::new(),
            probe_wanted,
            network: Arc::clone(network),
            roots: Vec::new(),
        };
        for (index, group) in config.groups.iter().enumerate() {
            let roots = or_none(own_roots(group, config), &mut errors);
            let old = previous.and_then(|old| old.group(&group.name));
            let mut servers: Vec<Arc<Server>> = Vec::new();
            for server in &group.servers {
                let tls = tls_of(server, &roots, old, &mut errors);
                let https = endpoint_of(server, &mut errors);
                let parts = ServerParts {
                    config: server,
                    tls,
                    https,
                    group: &group.name,
                    try_timeout: group.try_timeout,
                    stream_max_age: group.stream_max_age,
                    failover: &group.failover,
                    probe_wanted: &upstreams.probe_wanted,
                    metrics,
                    network,
                    now,
                };
                let same = |known: &&Arc<Server>| known.is_made_of(&parts);
                let known = old.and_then(|(group, _)| group.servers.iter().find(same).cloned());
                servers.push(known.unwrap_or_else(|| Arc::new(Server::new(parts))));
            }
            let first = upstreams.servers.len();
            upstreams.servers.extend(servers.iter().cloned());
            upstreams.groups.push(Group::new(
                group,
                old.map(|(group, _)| group),
                zone_of(config, index),
                first,
                servers,
                metrics,
                now,
            ));
            upstreams.roots.push(roots);
        }
        if errors.is_empty() {
            Ok(upstreams)
        } else {
            Err(errors)
        }
    }

    /// The group of a name, and its own root certificates.
    fn group(&self, name: &str) -> Option<(&Group, &[CertificateDer<'static>])> {
        let index = self.groups.iter().position(|group| &*group.name == name)?;
        Some((&self.groups[index], &self.roots[index]))
    }
}

/// The shortest zone of the routes to a group, in the form in which it is appended to a name: empty for the root.
fn zone_of(config: &Config, group: usize) -> String {
    let routes = config
        .routes
        .iter()
        .filter(|route| route.tiers.contains(&group));
    let zones = routes.map(|route| route.zone.to_lowercase().to_ascii());
    let shortest = zones.min_by_key(String::len).unwrap_or_default();
    shortest.trim_start_matches('.').to_owned()
}

/// Checks the files and names that servers over TLS and HTTPS need, and keeps nothing.
///
/// # Errors
/// All reasons why a server could not be used.
pub fn check_servers(config: &Config) -> Result<(), Vec<UpstreamError>> {
    let mut errors = Vec::new();
    for group in &config.groups {
        let roots = or_none(own_roots(group, config), &mut errors);
        for server in &group.servers {
            tls_of(server, &roots, None, &mut errors);
            endpoint_of(server, &mut errors);
        }
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

/// The root certificates of a group's `tls_ca`, which it trusts beside the web's.
///
/// # Errors
/// If the file cannot be read, or has no certificates.
pub fn own_roots(
    group: &GroupConfig,
    config: &Config,
) -> Result<Vec<CertificateDer<'static>>, UpstreamError> {
    let Some(path) = &group.tls_ca else {
        return Ok(Vec::new());
    };
    let roots = config.read_from.read(path);
    let roots = roots.and_then(|pem| read_roots(&pem));
    roots.map_err(|source| {
        let key = KeyPath::of_group(&group.name, "tls_ca").to_string();
        let mut settings = config.settings.iter();
        let setting = settings.find(|setting| setting.path == key);
        UpstreamError::TlsCa {
            key: setting.map_or_else(
                || key.clone(),
                |setting| format!("{}: {key}", setting.origin),
            ),
            path: path.clone(),
            source,
        }
    })
}

/// The list that was found. After an error, adds it to `errors`, and returns an empty list.
fn or_none<T>(found: Result<Vec<T>, UpstreamError>, errors: &mut Vec<UpstreamError>) -> Vec<T> {
    found.unwrap_or_else(|error| {
        errors.push(error);
        Vec::new()
    })
}

/// Where a server over HTTPS takes requests. None for other servers, and after an error.
fn endpoint_of(server: &ServerConfig, errors: &mut Vec<UpstreamError>) -> Option<Endpoint> {
    let Transport::Https { name, path } = &server.transport else {
        return None;
    };
    let endpoint = Endpoint::new(name, server.address.port(), path);
    endpoint
        .map_err(|source| {
            let server = server.to_string();
            errors.push(UpstreamError::Server { server, source });
        })
        .ok()
}

/// The TLS settings of a server over TLS or HTTPS. If the server and its group's roots have not changed, returns those of
/// the old server, so that sessions can be resumed.
fn tls_of(
    server: &ServerConfig,
    roots: &[CertificateDer<'static>],
    old: Option<(&Group, &[CertificateDer<'static>])>,
    errors: &mut Vec<UpstreamError>,
) -> Option<Tls> {
    let (name, protocol) = match &server.transport {
        Transport::Udp | Transport::Tcp => return None,
        Transport::Tls(name) => (name, tls::DNS),
        Transport::Https { name, .. } => (name, tls::HTTP2),
    };
    if let Some((group, old_roots)) = old
        && old_roots == roots
        && let Some(known) = group.servers.iter().find(|known| known.config == *server)
    {
        return known.tls.clone();
    }
    match Tls::new(name, protocol, roots) {
        Ok(tls) => Some(tls),
        Err(source) => {
            let server = server.to_string();
            errors.push(UpstreamError::Server { server, source });
            None
        }
    }
}
