//! Upstream servers by host name: the group that resolves the name, and the servers at its addresses.
//!
//! A group's servers follow from the typed entries and from the present addresses of host names. So other addresses are
//! put in force like a change of the configuration. Names are not resolved here.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use hickory_proto::rr::Name;

use super::{Config, GroupConfig, ServerConfig, Transport, limits};

/// An entry of `servers`, or one of the nameservers of a resolv.conf that an entry names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSource {
    /// A server by its address.
    Address(ServerConfig),
    /// Servers by a host name.
    Host(NamedServer),
}

/// What a name is and who resolves it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName {
    /// The name, fully qualified.
    pub name: Name,
    /// The group that is asked for its addresses.
    pub via: Arc<str>,
}

/// Servers by a host name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedServer {
    /// The name, and who resolves it.
    pub host: HostName,
    /// The port of all of them.
    pub port: u16,
    /// How they are spoken to.
    pub transport: Transport,
    /// As the user typed it.
    pub written: Arc<str>,
    /// What the name resolved to last, sorted; none before it first did.
    pub addresses: Vec<IpAddr>,
}

impl NamedServer {
    fn servers(&self) -> impl Iterator<Item = ServerConfig> {
        self.addresses.iter().map(|&ip| ServerConfig {
            address: SocketAddr::new(ip, self.port),
            transport: self.transport.clone(),
        })
    }
}

impl std::fmt::Display for ServerSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(server) => server.fmt(f),
            Self::Host(named) => f.write_str(&named.written),
        }
    }
}

impl std::fmt::Display for HostName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name.to_ascii();
        write!(f, "{}@{}", name.trim_end_matches('.'), self.via)
    }
}

impl GroupConfig {
    /// Its servers by host names.
    pub fn named(&self) -> impl Iterator<Item = &NamedServer> {
        self.sources.iter().filter_map(|source| match source {
            ServerSource::Address(_) => None,
            ServerSource::Host(named) => Some(named),
        })
    }

    /// Makes `servers` of its sources, in their order, each server once.
    pub(super) fn list_servers(&mut self) {
        let mut servers: Vec<ServerConfig> = Vec::new();
        for source in &self.sources {
            let of_source: Vec<_> = match source {
                ServerSource::Address(server) => vec![server.clone()],
                ServerSource::Host(named) => named.servers().collect(),
            };
            for server in of_source {
                if !servers.contains(&server) {
                    servers.push(server);
                }
            }
        }
        servers.truncate(limits::MAX_SERVERS);
        self.servers = servers;
    }

    fn set_addresses(&mut self, addresses_of: impl Fn(&HostName) -> Option<Vec<IpAddr>>) {
        for source in &mut self.sources {
            if let ServerSource::Host(named) = source
                && let Some(addresses) = addresses_of(&named.host)
            {
                named.addresses = addresses;
            }
        }
        self.list_servers();
    }
}

impl Config {
    /// What a name resolved to last; none if no server has this name.
    #[must_use]
    pub fn addresses(&self, host: &HostName) -> Option<&[IpAddr]> {
        let mut all = self.groups.iter().flat_map(GroupConfig::named);
        let found = all.find(|named| named.host == *host);
        found.map(|named| &named.addresses[..])
    }

    /// A name resolved to these, sorted.
    pub fn set_addresses(&mut self, host: &HostName, addresses: &[IpAddr]) {
        for group in &mut self.groups {
            group.set_addresses(|other| (other == host).then(|| addresses.to_vec()));
        }
    }

    /// Takes over what `running` knows of names that are here too.
    pub fn take_over_addresses(&mut self, running: &Self) {
        for group in &mut self.groups {
            group.set_addresses(|host| running.addresses(host).map(<[IpAddr]>::to_vec));
        }
    }
}

/// Whether a server can have this address.
#[must_use]
pub fn is_server_address(ip: IpAddr) -> bool {
    usable(&SocketAddr::new(ip, 53)).is_ok()
}

/// What to do about `fe80::1`.
pub(super) const NO_INTERFACE: &str =
    "a link-local address needs its interface; write its index, for example [fe80::1%2]:53";

/// Addresses that parse and yet name no server.
pub(super) fn usable(address: &SocketAddr) -> Result<(), &'static str> {
    if address.port() == 0 {
        return Err("no server listens on port 0; write the port or leave it out for the default");
    }
    match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => {
            Err("this address means \"here, anywhere\"; write the server's own")
        }
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            Err("this address means \"here, anywhere\"; write the server's own")
        }
        other if other.ip().is_multicast() || other.ip() == Ipv4Addr::BROADCAST => {
            Err("this address is a group's, not a server's; write the server's own")
        }
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
            Err(NO_INTERFACE)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(upstreams: &str) -> Result<Config, Vec<String>> {
        let text = format!("upstreams: {{{upstreams}}}\nroutes: {{\".\": a}}");
        Config::from_yaml(&text).map_err(|errors| errors.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn addresses_stand_where_the_name_stands_each_server_once() {
        let upstreams =
            "a: {servers: [10.0.0.1, dns.example@b, 10.0.0.9]}, b: {servers: [10.1.0.1]}";
        let mut running = config(upstreams).expect("valid");
        let servers = |config: &Config| -> Vec<String> {
            let servers = config.groups[0].servers.iter();
            servers.map(ToString::to_string).collect()
        };
        assert_eq!(servers(&running), ["10.0.0.1", "10.0.0.9"]);
        let host = running.groups[0]
            .named()
            .next()
            .map(|named| named.host.clone());
        let host = host.expect("a name");
        let addresses = ["10.0.0.9", "10.0.0.5"].map(|ip| ip.parse().expect("an address"));
        running.set_addresses(&host, &addresses);
        let want = ["10.0.0.1", "10.0.0.9", "10.0.0.5"];
        assert_eq!(servers(&running), want);
        let mut other = config(upstreams).expect("valid");
        other.take_over_addresses(&running);
        assert_eq!(servers(&other), want);
    }

    #[test]
    fn who_resolves_a_name_needs_servers_of_its_own() {
        let cases = [
            (
                "a: {servers: [dns.example@c]}, b: {servers: [10.1.0.1]}",
                "there is no group c; groups: a, b",
            ),
            (
                "a: {servers: [10.0.0.1, dns.example@a]}",
                "dns.example@a: its name is resolved in a circle of groups, a → a;",
            ),
            (
                "a: {servers: [x.example@b]}, b: {servers: [y.example@c]}, c: {servers: [z.example@a]}",
                "x.example@b: its name is resolved in a circle of groups, a → b → c → a;",
            ),
            (
                "a: {servers: [x.example@b, x.example@b]}, b: {servers: [10.1.0.1]}",
                "x.example@b is here twice",
            ),
        ];
        for (upstreams, want) in cases {
            let errors = config(upstreams).expect_err(upstreams);
            let found = errors.iter().any(|error| error.contains(want));
            assert!(found, "{upstreams}: {errors:?}");
        }
        let chain =
            "a: {servers: [x.example@b]}, b: {servers: [y.example@c]}, c: {servers: [10.1.0.1]}";
        config(chain).expect("a chain is no circle");
    }
}
