//! Reverse zones of addresses that have a meaning only within one network; servers outside cannot answer for them.
//!
//! Owns the list: RFC 6303 §4 (private, loopback, link-local, documentation and broadcast addresses), RFC 7793
//! (100.64.0.0/10).

use hickory_proto::rr::Name;

/// RFC 6303 §4.2 to §4.6: single zones.
const SINGLE: [&str; 17] = [
    "0.in-addr.arpa.",
    "10.in-addr.arpa.",
    "127.in-addr.arpa.",
    "254.169.in-addr.arpa.",
    "168.192.in-addr.arpa.",
    "2.0.192.in-addr.arpa.",
    "100.51.198.in-addr.arpa.",
    "113.0.203.in-addr.arpa.",
    "255.255.255.255.in-addr.arpa.",
    "d.f.ip6.arpa.",
    "8.e.f.ip6.arpa.",
    "9.e.f.ip6.arpa.",
    "a.e.f.ip6.arpa.",
    "b.e.f.ip6.arpa.",
    "8.b.d.0.1.0.0.2.ip6.arpa.",
    // `::` and `::1`.
    "0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.ip6.arpa.",
];

/// All of them.
///
/// # Panics
/// Never: they are names.
pub fn private_zones() -> impl Iterator<Item = Name> {
    let private = (16..=31).map(|octet| format!("{octet}.172.in-addr.arpa."));
    let shared = (64..=127).map(|octet| format!("{octet}.100.in-addr.arpa."));
    let single = SINGLE.into_iter().map(str::to_owned);
    let all = single.chain(private).chain(shared);
    all.map(|text| Name::from_ascii(text).expect("a name of the list"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn the_zones_hold_private_addresses_and_no_others() {
        let zones: BTreeSet<Name> = private_zones().collect();
        assert_eq!(zones.len(), 17 + 16 + 64);
        let holds = |address: &str| {
            let reverse = Name::from(address.parse::<IpAddr>().expect("an address"));
            zones.iter().any(|zone| zone.zone_of(&reverse))
        };
        for address in [
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.0.1",
            "127.0.0.1",
            "169.254.20.10",
            "255.255.255.255",
            "fd00::1",
            "fe80::1",
            "febf::1",
            "2001:db8::1",
            "::1",
            "::",
        ] {
            assert!(holds(address), "{address}");
        }
        for address in [
            "11.0.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.169.0.1",
            "100.63.0.1",
            "100.128.0.1",
            "8.8.8.8",
            "fc00::1",
            "fec0::1",
            "2001:4860::1",
            "::2",
        ] {
            assert!(!holds(address), "{address}");
        }
    }
}
