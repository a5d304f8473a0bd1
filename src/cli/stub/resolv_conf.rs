//! resolv.conf(5): the servers and options of a stub resolver, and the names that its search list makes.

use std::net::SocketAddr;

use hickory_proto::rr::Name;
use hickory_resolver::net::NetError;
use hickory_resolver::system_conf::parse_resolv_conf;

use super::Stub;

/// resolv.conf(5), `MAXNS`: glibc reads no more servers than this; a fourth is never asked.
const MAX_SERVERS: usize = 3;

/// A resolv.conf that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("resolv.conf: {0}")]
pub struct ResolvConfError(#[source] NetError);

impl Stub {
    /// The settings of a resolv.conf (resolv.conf(5)): servers, search list, `ndots`, `timeout`, `attempts` and
    /// `edns0`.
    ///
    /// Without a nameserver line the server is the one on this host, as that page has it.
    ///
    /// # Errors
    ///
    /// If a search domain is no name, or if hickory-resolver rejects another line. Lines that it does not know are
    /// skipped.
    pub fn from_resolv_conf(text: &str) -> Result<Self, ResolvConfError> {
        // hickory takes a file without nameservers for an error.
        let is_server = |line: &str| line.split_whitespace().next() == Some("nameserver");
        let complete = if text.lines().any(is_server) {
            text.to_owned()
        } else {
            format!("{text}\nnameserver 127.0.0.1\n")
        };
        let (config, options) = parse_resolv_conf(complete).map_err(ResolvConfError)?;
        let servers = config.name_servers().iter().take(MAX_SERVERS);
        let mut search = config.search().to_vec();
        if search.is_empty() {
            // The domain of the host's own name, as glibc does.
            search.extend(config.domain().filter(|domain| !domain.is_root()).cloned());
        }
        Ok(Self {
            servers: servers
                .map(|server| SocketAddr::new(server.ip, 53))
                .collect(),
            search,
            ndots: options.ndots,
            timeout: options.timeout,
            attempts: options.attempts,
            edns: options.edns0,
        })
    }

    /// The names that `name` may stand for, in the order they are tried. A name that ends with a dot stands for itself.
    #[must_use]
    pub fn candidates(&self, name: &Name) -> Vec<Name> {
        if name.is_fqdn() {
            return vec![name.clone()];
        }
        let mut as_it_is = name.clone();
        as_it_is.set_fqdn(true);
        // A domain that makes the name too long completes nothing.
        let completed = self
            .search
            .iter()
            .filter_map(|domain| name.clone().append_domain(domain).ok());
        let dots = name.iter().count().saturating_sub(1);
        let mut candidates: Vec<Name> = if dots >= self.ndots {
            std::iter::once(as_it_is).chain(completed).collect()
        } else {
            completed.chain(std::iter::once(as_it_is)).collect()
        };
        candidates.dedup();
        candidates
    }
}
