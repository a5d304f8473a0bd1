//! Zones as Corefiles write them: names, networks that stand for their reverse zones, with a scheme and a port.

use std::net::IpAddr;

use ipnet::IpNet;

/// A zone in front of a server block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BlockKey<'a> {
    /// `dns`, unless it says otherwise.
    pub(super) scheme: &'a str,
    /// Without its final dot, lower-cased; a network may have several.
    pub(super) zones: Vec<String>,
    pub(super) port: u16,
}

impl<'a> BlockKey<'a> {
    /// Reads `dns://10.0.0.0/24:5353`; none if the port is no number.
    pub(super) fn read(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("dns", text));
        let (zone, port) = match rest.rsplit_once(':') {
            // An IPv6 network has colons of its own, and is followed by a port only behind its length.
            Some((zone, port)) if zone.parse::<IpNet>().is_ok() || !zone.contains(':') => {
                (zone, port.parse().ok()?)
            }
            _ => (rest, if scheme == "tls" { 853 } else { 53 }),
        };
        Some(Self {
            scheme,
            zones: zones(zone),
            port,
        })
    }
}

/// The zones that a word names.
pub(super) fn zones(text: &str) -> Vec<String> {
    if let Ok(network) = text.parse::<IpNet>() {
        return reverse(network);
    }
    vec![zone(text)]
}

/// A name without its final dot, lower-cased; `.` for the root.
pub(super) fn zone(text: &str) -> String {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        ".".to_owned()
    } else {
        name
    }
}

/// Whether a zone is at or below another.
pub(super) fn is_within(zone: &str, above: &str) -> bool {
    above == "."
        || zone == above
        || zone
            .strip_suffix(above)
            .is_some_and(|rest| rest.ends_with('.'))
}

/// The reverse zones of a network: several where its length is within a label (RFC 2317 has no part in this).
pub(in crate::config) fn reverse(network: IpNet) -> Vec<String> {
    let bits = if network.addr().is_ipv4() { 8 } else { 4 };
    let length = network.prefix_len().div_ceil(bits) * bits;
    let Ok(subnets) = network.subnets(length.max(network.prefix_len())) else {
        return Vec::new();
    };
    subnets
        .map(|subnet| reverse_of(subnet.addr(), usize::from(length / bits)))
        .collect()
}

/// The reverse zone of the first so many labels of an address.
pub(super) fn reverse_of(address: IpAddr, labels: usize) -> String {
    match address {
        IpAddr::V4(address) => {
            let octets = address.octets();
            let labels = octets[..labels]
                .iter()
                .rev()
                .map(|octet| format!("{octet}."));
            labels.collect::<String>() + "in-addr.arpa"
        }
        IpAddr::V6(address) => {
            let nibbles = address
                .octets()
                .into_iter()
                .flat_map(|octet| [octet >> 4, octet & 15]);
            let nibbles: Vec<u8> = nibbles.take(labels).collect();
            let labels = nibbles.iter().rev().map(|nibble| format!("{nibble:x}."));
            labels.collect::<String>() + "ip6.arpa"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_schemes_zones_and_ports() {
        let key =
            |text| BlockKey::read(text).map(|key| (key.scheme.to_owned(), key.zones, key.port));
        let dns = |zones: &[&str], port| {
            let zones = zones.iter().map(|zone| (*zone).to_owned()).collect();
            Some(("dns".to_owned(), zones, port))
        };
        assert_eq!(key("."), dns(&["."], 53));
        assert_eq!(key(".:5353"), dns(&["."], 5353));
        assert_eq!(key("dns://Cluster.Local.:54"), dns(&["cluster.local"], 54));
        assert_eq!(key("10.0.0.0/16"), dns(&["0.10.in-addr.arpa"], 53));
        assert_eq!(key("10.0.0.0/8:55"), dns(&["10.in-addr.arpa"], 55));
        assert_eq!(
            key("192.168.2.0/23"),
            dns(&["2.168.192.in-addr.arpa", "3.168.192.in-addr.arpa"], 53)
        );
        assert_eq!(key("fd00::/16"), dns(&["0.0.d.f.ip6.arpa"], 53));
        assert_eq!(key("fd00::/16:56"), dns(&["0.0.d.f.ip6.arpa"], 56));
        assert_eq!(key("example.org:x"), None);
    }

    #[test]
    fn a_zone_is_within_those_above_it() {
        assert!(is_within("a.example", "example"));
        assert!(is_within("example", "."));
        assert!(!is_within("anexample", "example"));
        assert!(!is_within("example", "a.example"));
    }
}
