//! Responses that nodens makes itself: addresses, a denial, or an alias. Each is then turned into replies as an
//! upstream's response is.
//!
//! Owns the SOA by which clients may cache a negative answer (RFC 2308 §3). There is no zone to transfer, so MNAME and
//! RNAME name no host and the timers are never used.

use std::net::IpAddr;

use super::wire::{HEADER_LEN, POINTER, flag, rcode, rr};

/// RNAME of the SOA: `nobody.invalid.` (RFC 6761 §6.4).
const NOBODY: &[u8] = b"\x06nobody\x07invalid\0";

/// SERIAL, REFRESH, RETRY, EXPIRE.
const UNUSED_TIMERS: [u32; 4] = [1, 3_600, 1_200, 604_800];

/// The question that is answered.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// QNAME, QTYPE and QCLASS.
    pub section: &'a [u8],
    /// QTYPE.
    pub qtype: u16,
    /// Seconds the answer may be kept.
    pub ttl: u32,
}

/// A denial: the name (NXDOMAIN) or its record (NOERROR) does not exist. Its zone is the name's suffix at offset
/// `zone_at`. `flags` are set beside QR: AA for names for which nodens alone is authoritative.
#[must_use]
pub fn denial(asked: Asked<'_>, code: u16, flags: u16, zone_at: usize) -> Vec<u8> {
    let mut message = start(asked, code, flags, [0, 1]);
    let zone = pointer(zone_at);
    let length = u16::try_from(zone.len() + NOBODY.len() + 20).unwrap_or(u16::MAX);
    record(&mut message, zone_at, rr::SOA, asked.ttl, length);
    message.extend_from_slice(&zone);
    message.extend_from_slice(NOBODY);
    for number in UNUSED_TIMERS.into_iter().chain([asked.ttl]) {
        message.extend_from_slice(&number.to_be_bytes());
    }
    message
}

/// An answer with those of the addresses that have the type asked for; all for ANY. None if no address has it.
#[must_use]
pub fn addresses(asked: Asked<'_>, all: &[IpAddr]) -> Option<Vec<u8>> {
    let wanted = |address: &&IpAddr| match asked.qtype {
        rr::A => address.is_ipv4(),
        rr::AAAA => address.is_ipv6(),
        other => other == rr::ANY,
    };
    let count = u16::try_from(all.iter().filter(wanted).count()).unwrap_or(u16::MAX);
    if count == 0 {
        return None;
    }
    let mut message = start(asked, rcode::NOERROR, flag::AA, [count, 0]);
    for address in all.iter().filter(wanted) {
        match address {
            IpAddr::V4(address) => {
                record(&mut message, 0, rr::A, asked.ttl, 4);
                message.extend_from_slice(&address.octets());
            }
            IpAddr::V6(address) => {
                record(&mut message, 0, rr::AAAA, asked.ttl, 16);
                message.extend_from_slice(&address.octets());
            }
        }
    }
    Some(message)
}

/// An answer that makes the name an alias of `target`, which is in wire format.
#[must_use]
pub fn alias(asked: Asked<'_>, target: &[u8]) -> Vec<u8> {
    let mut message = start(asked, rcode::NOERROR, 0, [1, 0]);
    let length = u16::try_from(target.len()).unwrap_or(u16::MAX);
    record(&mut message, 0, rr::CNAME, asked.ttl, length);
    message.extend_from_slice(target);
    message
}

/// Header and question; `counts` are of answer and authority records.
fn start(asked: Asked<'_>, code: u16, flags: u16, counts: [u16; 2]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER_LEN + asked.section.len() + 64);
    let flags = flag::QR | flag::RA | flags | code & flag::RCODE;
    for word in [0, flags, 1, counts[0], counts[1], 0] {
        message.extend_from_slice(&u16::to_be_bytes(word));
    }
    message.extend_from_slice(asked.section);
    message
}

/// A compression pointer to the suffix of the question's name at `at`, which is at most 254.
fn pointer(at: usize) -> [u8; 2] {
    let offset = u16::try_from(HEADER_LEN + at).unwrap_or(0);
    (POINTER | offset).to_be_bytes()
}

/// Appends a record up to its RDATA.
fn record(message: &mut Vec<u8>, owner_at: usize, rtype: u16, ttl: u32, rdata_len: u16) {
    message.extend_from_slice(&pointer(owner_at));
    message.extend_from_slice(&rtype.to_be_bytes());
    message.extend_from_slice(&rr::IN.to_be_bytes());
    message.extend_from_slice(&ttl.to_be_bytes());
    message.extend_from_slice(&rdata_len.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::RData;

    use super::*;

    const SECTION: &[u8] = b"\x01x\x08internal\0\0\x1c\0\x01";

    fn asked() -> Asked<'static> {
        let (qtype, ttl) = (rr::AAAA, 60);
        Asked {
            section: SECTION,
            qtype,
            ttl,
        }
    }

    #[test]
    fn a_denial_names_its_zone_and_how_long_it_holds() {
        for (zone_at, zone) in [(0, "x.internal."), (2, "internal."), (11, ".")] {
            let bytes = denial(asked(), rcode::NXDOMAIN, flag::AA, zone_at);
            let message = Message::from_vec(&bytes).expect("hickory reads it");
            assert_eq!(message.metadata.response_code, ResponseCode::NXDomain);
            assert!(message.metadata.authoritative && message.answers.is_empty());
            let [soa] = &message.authorities[..] else {
                panic!("{message}")
            };
            assert_eq!((soa.name.to_ascii().as_str(), soa.ttl), (zone, 60));
            let RData::SOA(data) = &soa.data else {
                panic!("{soa}")
            };
            assert_eq!((data.mname.to_ascii().as_str(), data.minimum), (zone, 60));
            assert_eq!(data.rname.to_ascii(), "nobody.invalid.");
        }
    }

    #[test]
    fn addresses_are_those_of_the_type() {
        let all = ["10.0.0.1", "fd00::1", "fd00::2"].map(|text| text.parse().expect("an address"));
        let rdata = |qtype| -> Option<Vec<String>> {
            let bytes = addresses(Asked { qtype, ..asked() }, &all)?;
            let message = Message::from_vec(&bytes).expect("hickory reads it");
            let answers = message.answers.iter();
            Some(answers.map(|record| record.data.to_string()).collect())
        };
        assert_eq!(rdata(rr::A).expect("one"), ["10.0.0.1"]);
        assert_eq!(rdata(rr::AAAA).expect("two"), ["fd00::1", "fd00::2"]);
        assert_eq!(rdata(rr::ANY).expect("all").len(), 3);
        assert_eq!(rdata(rr::TXT), None);
    }
}
