//! Upstream servers as users write them, and those a resolv.conf names.

use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hickory_proto::rr::Name;
use hickory_resolver::system_conf::parse_resolv_conf;
use tokio_rustls::rustls::pki_types::ServerName;

use super::error::Problem;
use super::files::Files;
use super::leaf::{several, show_text};
use super::named::{HostName, NamedServer, ServerSource, usable};
use super::{ServerConfig, Transport};

/// RFC 1035 §4.2.
pub(super) const DNS_PORT: u16 = 53;
/// RFC 7858 §3.1.
const TLS_PORT: u16 = 853;
/// RFC 9110 §4.2.2.
const HTTPS_PORT: u16 = 443;
/// What nearly all servers use, and the path in the examples of RFC 8484.
const HTTPS_PATH: &str = "/dns-query";

/// What to do about `fe80::1%eth0`.
pub(super) const BY_INDEX: &str =
    "an interface is written by its index here, for example [fe80::1%2]:53; `ip link` shows it";

/// What a `servers` entry must look like.
pub(super) const EXPECTED: &str = "a server such as 10.0.0.2, 10.0.0.2:5353, [fd00::2]:53, tcp://10.0.0.2, tls://1.1.1.1#one.one.one.one, https://1.1.1.1/dns-query#one.one.one.one, dns.corp.example@vpc or /etc/resolv.conf";

/// An entry of `servers`.
#[derive(Debug)]
pub(super) enum ServerEntry {
    /// One or more servers.
    Source(ServerSource),
    /// A file that names servers.
    File(PathBuf),
}

/// What stands in an entry, as text.
struct EntryParts<'a> {
    text: &'a str,
    scheme: &'a str,
    host: &'a str,
    path: &'a str,
    /// What stands after `#`.
    name: Option<&'a str>,
}

/// Reads an entry of `servers`.
pub(super) fn parse(text: &str) -> Result<ServerEntry, Problem> {
    if text.starts_with(['/', '.']) && text.contains('/') {
        return Ok(ServerEntry::File(PathBuf::from(text)));
    }
    if let Some(problem) = several(text, |part| parse(part).is_ok()) {
        return Err(problem);
    }
    let (server, via) = match text.rsplit_once('@') {
        Some((server, via)) if is_group_name(via) => (server, Some(via)),
        _ => (text, None),
    };
    let (scheme, rest) = server.split_once("://").unwrap_or(("udp", server));
    let (host, name) = match rest.split_once('#') {
        Some((host, name)) => (host, Some(name)),
        None => (rest, None),
    };
    let (host, path) = match host.find('/') {
        Some(at) if scheme == "https" => (&host[..at], &host[at..]),
        _ => (host, HTTPS_PATH),
    };
    let parts = EntryParts {
        text,
        scheme,
        host,
        path,
        name,
    };
    let source = match via {
        None => ServerSource::Address(parts.server()?),
        Some(via) => ServerSource::Host(parts.named(via)?),
    };
    Ok(ServerEntry::Source(source))
}

/// Whether a group can have this name.
pub(super) fn is_group_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 63 && name.chars().all(fine)
}

impl EntryParts<'_> {
    fn server(&self) -> Result<ServerConfig, Problem> {
        if matches!((self.scheme, self.name), ("tls" | "https", None | Some(""))) {
            address(self.text, self.host, TLS_PORT)?;
            let value = self.text.trim_end_matches('#').to_owned();
            return Err(Problem::NoTlsName { value });
        }
        let (transport, port) = self.transport(self.name)?;
        let address = address(self.text, self.host, port)?;
        Ok(ServerConfig { address, transport })
    }

    /// Servers by a host name. That of their certificates is the same, unless another one stands after `#`.
    fn named(&self, via: &str) -> Result<NamedServer, Problem> {
        let value = show_text(self.text);
        let (host, port) = match self.host.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (self.host, None),
        };
        if address("", self.host, DNS_PORT).is_ok() || host.contains([':', '[']) {
            return Err(Problem::AddressWithGroup { value });
        }
        let wrong = || Problem::NotA {
            value: show_text(self.text),
            expected: EXPECTED,
        };
        let port = port.map(str::parse::<NonZeroU16>).transpose();
        let port = port.map_err(|_| wrong())?;
        let mut name = Name::from_ascii(host).map_err(|_| wrong())?;
        if name.is_root() || !host.chars().any(char::is_alphabetic) {
            return Err(wrong());
        }
        name.set_fqdn(true);
        let certificate = match self.scheme {
            "tls" | "https" => Some(self.name.unwrap_or(host.trim_end_matches('.'))),
            _ => self.name,
        };
        let (transport, default_port) = self.transport(certificate)?;
        Ok(NamedServer {
            host: HostName {
                name: name.to_lowercase(),
                via: Arc::from(via),
            },
            port: port.map_or(default_port, NonZeroU16::get),
            transport,
            written: Arc::from(self.text),
            addresses: Vec::new(),
        })
    }

    fn transport(&self, name: Option<&str>) -> Result<(Transport, u16), Problem> {
        let value = || show_text(self.text);
        Ok(match (self.scheme, name) {
            ("udp", None) => (Transport::Udp, DNS_PORT),
            ("tcp", None) => (Transport::Tcp, DNS_PORT),
            ("udp" | "tcp", Some(_)) => return Err(Problem::NameWithoutTls { value: value() }),
            ("tls" | "https", Some(name)) if ServerName::try_from(name).is_err() => {
                let name = show_text(name);
                return Err(Problem::BadTlsName {
                    value: value(),
                    name,
                });
            }
            ("tls", Some(name)) => (Transport::Tls(Arc::from(name)), TLS_PORT),
            ("https", Some(_)) if !is_path(self.path) => {
                return Err(Problem::HttpsPath {
                    value: value(),
                    path: show_text(self.path),
                });
            }
            ("https", Some(name)) => {
                let (name, path) = (Arc::from(name), Arc::from(self.path));
                (Transport::Https { name, path }, HTTPS_PORT)
            }
            (scheme, _) => {
                let scheme = show_text(scheme);
                return Err(Problem::Scheme {
                    value: value(),
                    scheme,
                });
            }
        })
    }
}

/// Whether this is a path as in RFC 3986 §3.3. What RFC 8484 calls a template has a variable for GET, and we send POST.
fn is_path(path: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@%/".contains(c);
    path.chars().all(fine)
}

fn address(text: &str, host: &str, default_port: u16) -> Result<SocketAddr, Problem> {
    let value = || show_text(text);
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let parsed = host
        .parse()
        .or_else(|_| {
            bare.parse()
                .map(|ip: IpAddr| SocketAddr::new(ip, default_port))
        })
        .or_else(|_| format!("[{bare}]:{default_port}").parse::<SocketAddr>());
    if let Some((ip, _)) = host.trim_start_matches('[').split_once('%')
        && parsed.is_err()
        && ip.parse::<Ipv6Addr>().is_ok()
    {
        return Err(Problem::Unusable {
            value: value(),
            why: BY_INDEX,
        });
    }
    let Ok(address) = parsed else {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let like_a_name =
            name.chars().any(char::is_alphabetic) && !name.contains([':', '/', '@', ' ']);
        return Err(if like_a_name {
            Problem::HostName { value: value() }
        } else {
            let expected = EXPECTED;
            Problem::NotA {
                value: value(),
                expected,
            }
        });
    };
    let usable = usable(&address);
    usable.map(|()| address).map_err(|why| Problem::Unusable {
        value: value(),
        why,
    })
}

/// The nameservers of a resolv.conf, and those that were left out.
#[derive(Debug, Default)]
pub(super) struct ResolvConf {
    /// In order, each once, over UDP.
    pub(super) servers: Vec<ServerConfig>,
    /// Nameservers that cannot be used, as they are written, with the reason.
    pub(super) left_out: Vec<(String, &'static str)>,
}

/// The address on a `nameserver` line. resolv.conf(5): a link-local one is followed by `%` and its interface, by name or index.
fn nameserver(files: &Files, line: &str, written: &str) -> Result<SocketAddr, &'static str> {
    if let Some((ip, interface)) = written.split_once('%')
        && let Ok(ip) = ip.parse::<Ipv6Addr>()
    {
        let index = || {
            let is_name = !interface.contains('/') && !interface.starts_with('.');
            let file = Path::new("/sys/class/net").join(interface).join("ifindex");
            let text = files.read_text(&file).ok().filter(|_| is_name)?;
            text.trim().parse().ok()
        };
        let index: Option<u32> = interface.parse().ok().or_else(index);
        let index = index.ok_or("this host has no such interface")?;
        return Ok(SocketAddrV6::new(ip, DNS_PORT, 0, index).into());
    }
    // hickory's only error for such a line is an empty list.
    let (config, _) = parse_resolv_conf(line).map_err(|_| "it is not an IP address")?;
    let nameserver = config.name_servers.first();
    let nameserver = nameserver.ok_or("it is not an IP address")?;
    Ok(SocketAddr::new(nameserver.ip, DNS_PORT))
}

/// Reads the nameservers of a resolv.conf. `remedy` says what to do if there are none.
pub(super) fn read_resolv_conf(
    files: &Files,
    file: &Path,
    remedy: &'static str,
) -> Result<ResolvConf, Problem> {
    let unreadable = |source| Problem::ResolvConfUnreadable {
        file: file.to_owned(),
        source,
        remedy,
    };
    let bytes = files.read(file).map_err(unreadable)?;
    let text = String::from_utf8_lossy(&bytes);
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    // Only these lines matter: a search domain that hickory dislikes must not cost a node its DNS.
    let mut found = ResolvConf::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let written = words.next().unwrap_or("without an address");
        let more = words.next().filter(|word| word.parse::<IpAddr>().is_ok());
        if let Some(more) = more {
            found.left_out.push((
                show_text(more),
                "a line has one address; write a line for each",
            ));
        }
        let address =
            nameserver(files, line, written).and_then(|address| usable(&address).map(|()| address));
        match address {
            Ok(address) => {
                let server = ServerConfig {
                    address,
                    transport: Transport::Udp,
                };
                if !found.servers.contains(&server) {
                    found.servers.push(server);
                }
            }
            Err(why) => found.left_out.push((show_text(written), why)),
        }
    }
    if found.servers.is_empty() {
        let left_out: Vec<String> = found
            .left_out
            .iter()
            .map(|(written, why)| format!(" (nameserver {written}: {why})"))
            .collect();
        return Err(Problem::ResolvConfEmpty {
            file: file.to_owned(),
            left_out: left_out.concat(),
            remedy,
        });
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_server() {
        let cases = [
            ("10.0.0.2", "10.0.0.2"),
            ("10.0.0.2:53", "10.0.0.2"),
            ("10.0.0.2:5353", "10.0.0.2:5353"),
            ("udp://10.0.0.2", "10.0.0.2"),
            ("fd00::2", "fd00::2"),
            ("[fd00::2]", "fd00::2"),
            ("[fd00::2]:5353", "[fd00::2]:5353"),
            ("[fe80::1%2]:53", "fe80::1"),
            ("tcp://10.0.0.2", "tcp://10.0.0.2"),
            ("tcp://[fd00::2]", "tcp://[fd00::2]"),
            ("tcp://fd00::2", "tcp://[fd00::2]"),
            ("tcp://10.0.0.2:5353", "tcp://10.0.0.2:5353"),
            (
                "tls://1.1.1.1#one.one.one.one",
                "tls://1.1.1.1#one.one.one.one",
            ),
            (
                "tls://1.1.1.1:8853#one.one.one.one",
                "tls://1.1.1.1:8853#one.one.one.one",
            ),
            (
                "tls://[2606:4700::1111]#1.1.1.1",
                "tls://[2606:4700::1111]#1.1.1.1",
            ),
            (
                "https://1.1.1.1/dns-query#one.one.one.one",
                "https://1.1.1.1/dns-query#one.one.one.one",
            ),
            ("dns.corp.example@vpc", "dns.corp.example@vpc"),
            ("tls://dns.google@vpc", "tls://dns.google@vpc"),
            (
                "https://dns.google:8443/dns-query#x.google@vpc",
                "https://dns.google:8443/dns-query#x.google@vpc",
            ),
            (
                "https://1.1.1.1#one.one.one.one",
                "https://1.1.1.1/dns-query#one.one.one.one",
            ),
            (
                "https://[2606:4700::1111]:8443/a/b#1.1.1.1",
                "https://[2606:4700::1111]:8443/a/b#1.1.1.1",
            ),
        ];
        for (text, expected) in cases {
            match parse(text) {
                Ok(ServerEntry::Source(server)) => {
                    assert_eq!(server.to_string(), expected, "{text}");
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        for path in ["/etc/resolv.conf", "./resolv.conf", "../x/resolv.conf"] {
            assert!(
                matches!(parse(path), Ok(ServerEntry::File(file)) if file == Path::new(path)),
                "{path}"
            );
        }
    }

    #[test]
    fn what_is_no_server_says_what_to_write() {
        let cases = [
            ("dns.example.com", "is a host name; write its IP address"),
            ("10.0.0.2@vpc", "is an address"),
            ("tls://[fd00::2]:853#a@vpc", "is an address"),
            ("10.0.0@vpc", "is not a server such as"),
            ("a..b@vpc", "is not a server such as"),
            ("dns.example.com:0@vpc", "is not a server such as"),
            ("dns.example.com@", "is not a server such as"),
            (
                "tcp://dns.example.com#x@vpc",
                "goes with tls:// and https:// only",
            ),
            ("dns.example.com:53", "is a host name"),
            ("tcp://localhost", "is a host name"),
            ("tls://dns.google#dns.google", "is a host name"),
            ("10.0.0", "is not a server such as"),
            ("10.0.0.256", "is not a server such as"),
            ("10.0.0.2:99999", "is not a server such as"),
            ("", "\"\" is not a server such as"),
            ("tls://1.1.1.1", "write tls://1.1.1.1#name"),
            ("tls://1.1.1.1#", "write tls://1.1.1.1#name"),
            (
                "tls://1.1.1.1#a b",
                "a b is not a name that a certificate can carry",
            ),
            ("10.0.0.2#name", "goes with tls:// and https:// only"),
            (
                "https://1.1.1.1/dns-query",
                "write https://1.1.1.1/dns-query#name",
            ),
            ("https://dns.google/dns-query#dns.google", "is a host name"),
            (
                "https://1.1.1.1/dns-query{?dns}#one.one.one.one",
                "/dns-query{?dns} is not a path",
            ),
            ("tcp://1.1.1.1/dns-query", "is not a server such as"),
            ("quic://1.1.1.1", "there is no transport quic"),
            ("10.0.0.2:0", "no server listens on port 0"),
            ("0.0.0.0", "write the server's own"),
            ("[::]:53", "write the server's own"),
            ("224.0.0.251", "this address is a group's"),
            ("fe80::1", "needs its interface"),
        ];
        for (text, expected) in cases {
            let problem = parse(text).expect_err(text).to_string();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }
}

#[cfg(test)]
mod named_tests {
    use super::*;

    #[test]
    fn a_named_server_has_its_transports_port_and_its_own_name_in_its_certificate() {
        let named = |text: &str| match parse(text) {
            Ok(ServerEntry::Source(ServerSource::Host(named))) => named,
            other => panic!("{text}: {other:?}"),
        };
        let cases = [
            ("DNS.corp.example@vpc", 53, Transport::Udp),
            ("tcp://dns.corp.example:5353@vpc", 5353, Transport::Tcp),
            (
                "tls://dns.corp.example.@vpc",
                853,
                Transport::Tls("dns.corp.example".into()),
            ),
            (
                "tls://dns.corp.example#other.example@vpc",
                853,
                Transport::Tls("other.example".into()),
            ),
            (
                "https://dns.corp.example/q@vpc",
                443,
                Transport::Https {
                    name: "dns.corp.example".into(),
                    path: "/q".into(),
                },
            ),
        ];
        for (text, port, transport) in cases {
            let named = named(text);
            assert_eq!(named.host.to_string(), "dns.corp.example@vpc", "{text}");
            assert_eq!((named.port, named.transport), (port, transport), "{text}");
        }
    }
}
