//! DNS values as people read them: in /metrics, in logs, on a terminal.

use hickory_proto::rr::RecordType;

use super::wire::{rcode, rr};

/// Types with a label of their own; the rest is `other`.
pub const TYPES: [(u16, &str); 14] = [
    (rr::A, "A"),
    (rr::AAAA, "AAAA"),
    (rr::CNAME, "CNAME"),
    (rr::HTTPS, "HTTPS"),
    (rr::MX, "MX"),
    (rr::NS, "NS"),
    (rr::PTR, "PTR"),
    (rr::SOA, "SOA"),
    (rr::SRV, "SRV"),
    (rr::TXT, "TXT"),
    (rr::ANY, "ANY"),
    (rr::DS, "DS"),
    (rr::DNSKEY, "DNSKEY"),
    (rr::SVCB, "SVCB"),
];

/// Response codes with a label of their own; the rest is `other`.
pub const RCODES: [(u16, &str); 7] = [
    (rcode::NOERROR, "NOERROR"),
    (rcode::FORMERR, "FORMERR"),
    (rcode::SERVFAIL, "SERVFAIL"),
    (rcode::NXDOMAIN, "NXDOMAIN"),
    (rcode::NOTIMP, "NOTIMP"),
    (rcode::REFUSED, "REFUSED"),
    (rcode::BADVERS, "BADVERS"),
];

/// Types with a label of their own in CoreDNS's families; the rest is `other` there, too.
pub const COREDNS_TYPES: [(u16, &str); 19] = [
    (rr::A, "A"),
    (rr::AAAA, "AAAA"),
    (rr::PTR, "PTR"),
    (rr::HTTPS, "HTTPS"),
    (rr::SRV, "SRV"),
    (rr::TXT, "TXT"),
    (rr::CNAME, "CNAME"),
    (rr::MX, "MX"),
    (rr::NS, "NS"),
    (rr::SOA, "SOA"),
    (rr::SVCB, "SVCB"),
    (rr::ANY, "ANY"),
    (rr::DS, "DS"),
    (rr::DNSKEY, "DNSKEY"),
    (rr::RRSIG, "RRSIG"),
    (rr::NSEC, "NSEC"),
    (rr::NSEC3, "NSEC3"),
    (rr::AXFR, "AXFR"),
    (rr::IXFR, "IXFR"),
];

/// How many response codes are told apart in CoreDNS's families; the last stands for all others.
pub const COREDNS_CODES: usize = 25;

/// The response code's index among those.
#[inline]
#[must_use]
pub fn coredns_code_index(code: u16) -> usize {
    usize::from(code).min(COREDNS_CODES - 1)
}

/// A response code in CoreDNS's families, by its index. 16 has two names, of which CoreDNS uses the one of TSIG.
#[must_use]
pub fn coredns_code(index: usize) -> &'static str {
    const NAMES: [&str; COREDNS_CODES - 1] = [
        "NOERROR",
        "FORMERR",
        "SERVFAIL",
        "NXDOMAIN",
        "NOTIMP",
        "REFUSED",
        "YXDOMAIN",
        "YXRRSET",
        "NXRRSET",
        "NOTAUTH",
        "NOTZONE",
        "DSOTYPENI",
        "RCODE12",
        "RCODE13",
        "RCODE14",
        "RCODE15",
        "BADSIG",
        "BADKEY",
        "BADTIME",
        "BADMODE",
        "BADNAME",
        "BADALG",
        "BADTRUNC",
        "BADCOOKIE",
    ];
    NAMES.get(index).copied().unwrap_or("other")
}

/// The label of a response code.
#[must_use]
pub fn rcode_label(code: u16) -> &'static str {
    RCODES
        .iter()
        .find(|(known, _)| *known == code)
        .map_or("other", |(_, label)| label)
}

/// The label of a type.
#[must_use]
pub fn type_label(qtype: u16) -> &'static str {
    TYPES
        .iter()
        .find(|(known, _)| *known == qtype)
        .map_or("other", |(_, label)| label)
}

/// The name of a type; RFC 3597 §5 for types without one.
#[must_use]
pub fn type_text(qtype: u16) -> String {
    match RecordType::from(qtype) {
        RecordType::Unknown(number) => format!("TYPE{number}"),
        known => known.to_string(),
    }
}

/// A wire name in presentation format; octets that are no letters, digits, `-` or `_` as `\DDD` (RFC 1035 §5.1), so that
/// no client can forge log lines.
///
/// # Panics
/// Never: a string takes every write.
#[must_use]
pub fn presentation(mut name: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    while let [length, rest @ ..] = name
        && *length > 0
    {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        for &octet in label {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(octet.into()),
                _ => write!(text, "\\{octet:03}").expect("a string takes every write"),
            }
        }
        text.push('.');
        name = rest;
    }
    if text.is_empty() {
        ".".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::presentation;

    #[test]
    fn names_in_logs_cannot_forge_lines() {
        assert_eq!(presentation(b"\x03a\nb\x02c.\0"), "a\\010b.c\\046.");
        assert_eq!(presentation(b"\0"), ".");
    }
}
