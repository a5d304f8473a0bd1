//! DNS64 (RFC 6147): AAAA records made from A records, and the reverse names of such addresses.
//!
//! Owns how an IPv6 address embeds an IPv4 address (RFC 6052 §2.2), which AAAA records are excluded, and the bytes of
//! answers that are made. Must not know when an answer is made, nor where the A records come from.
//!
//! A made answer has an answer section only, which holds aliases and addresses. AD is clear in it (RFC 6147 §5.5).

use std::net::Ipv6Addr;

use ipnet::Ipv6Net;

use super::alias::{self, Owner};
use super::ede::PassedOn;
use super::response::{Kind, Response, View, sane_ttl};
use super::wire::{
    self, Counts, HEADER_LEN, MAX_MESSAGE_LEN, Malformed, POINTER_REACH, Record, Records, Section,
    flag, rr,
};

/// RFC 6147 §5.1.7: highest TTL, in seconds, of a made address when no SOA says for how long the name has no AAAA
/// record of its own.
pub const SECONDS_WITHOUT_SOA: u32 = 600;

/// Octet 8 of the address (bits 64 to 71) is always zero (RFC 6052 §2.2).
const RESERVED_OCTET: usize = 8;

/// Suffix of the reverse names of IPv6 addresses.
const IP6_ARPA: &[u8] = b"\x03ip6\x04arpa\0";
/// Suffix of the reverse names of IPv4 addresses.
const IN_ADDR_ARPA: &[u8] = b"\x07in-addr\x04arpa\0";
/// Half octets of an IPv6 address, each a label of its reverse name (RFC 3596 §2.5).
const NIBBLES: usize = 32;

/// The prefix before IPv4 addresses, and the networks whose AAAA records count as absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dns64 {
    prefix: Ipv6Net,
    exclude: Vec<Ipv6Net>,
}

/// Which AAAA records an answer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addresses {
    /// None.
    None,
    /// Only excluded ones.
    Excluded,
    /// Some excluded ones and some others.
    Some,
    /// Only ones that are not excluded.
    All,
}

/// What becomes of a record.
enum Fate {
    Kept,
    LeftOut,
    /// An AAAA record replaces it.
    Replaced(Ipv6Addr),
}

impl Dns64 {
    /// `prefix` has a length of 32, 40, 48, 56, 64 or 96, and bits 64 to 71 of it are zero.
    #[must_use]
    pub fn new(prefix: Ipv6Net, exclude: Vec<Ipv6Net>) -> Self {
        Self { prefix, exclude }
    }

    /// The IPv6 address that embeds an IPv4 address.
    fn embedding(&self, ipv4: [u8; 4]) -> Ipv6Addr {
        let mut octets = self.prefix.network().octets();
        for (octet, at) in ipv4.into_iter().zip(self.places()) {
            octets[at] = octet;
        }
        octets.into()
    }

    /// The IPv4 address that an IPv6 address embeds, if its prefix is this one.
    fn embedded(&self, ipv6: Ipv6Addr) -> Option<[u8; 4]> {
        let mut ipv4 = [0; 4];
        for (octet, at) in ipv4.iter_mut().zip(self.places()) {
            *octet = ipv6.octets()[at];
        }
        (self.embedding(ipv4) == ipv6).then_some(ipv4)
    }

    /// Positions of the IPv4 address's octets in the IPv6 address.
    fn places(&self) -> impl Iterator<Item = usize> {
        let first = usize::from(self.prefix.prefix_len() / 8);
        (first..16).filter(|at| *at != RESERVED_OCTET)
    }

    /// The reverse name of the IPv4 address that is embedded in the IPv6 address of a reverse name, lower-cased, in
    /// wire format (RFC 6147 §5.3.1).
    #[must_use]
    pub fn pointer(&self, name: &[u8]) -> Option<Vec<u8>> {
        let ipv4 = self.embedded(address_of(name)?)?;
        let mut target = Vec::with_capacity(4 * 4 + IN_ADDR_ARPA.len());
        for octet in ipv4.into_iter().rev() {
            let label = octet.to_string();
            target.extend(u8::try_from(label.len()));
            target.extend_from_slice(label.as_bytes());
        }
        target.extend_from_slice(IN_ADDR_ARPA);
        Some(target)
    }

    /// Whether a zone, in wire format, is at or below the zone of the prefix's reverse names, provided that both zones
    /// hold one and the same name.
    #[must_use]
    pub fn holds_zone(&self, zone: &[u8]) -> bool {
        let nibbles = usize::from(self.prefix.prefix_len() / 4);
        zone.len() >= nibbles * 2 + IP6_ARPA.len()
    }

    /// Which AAAA records an answer has.
    #[must_use]
    pub fn addresses(&self, answer: View<'_>) -> Addresses {
        let (mut counted, mut excluded) = (false, false);
        for address in addresses(answer) {
            *if self.excludes(address) {
                &mut excluded
            } else {
                &mut counted
            } = true;
        }
        match (counted, excluded) {
            (false, false) => Addresses::None,
            (false, true) => Addresses::Excluded,
            (true, true) => Addresses::Some,
            (true, false) => Addresses::All,
        }
    }

    /// Whether an answer has AAAA records that were not made with this prefix.
    #[must_use]
    pub fn has_real_addresses(&self, answer: View<'_>) -> bool {
        addresses(answer).any(|address| !self.excludes(address) && self.embedded(address).is_none())
    }

    fn excludes(&self, address: Ipv6Addr) -> bool {
        self.exclude.iter().any(|net| net.contains(&address))
    }

    /// An answer to an AAAA question without the excluded addresses and without its other sections.
    ///
    /// # Errors
    /// [`Malformed`] if it does not fit a message.
    pub fn without_excluded(&self, answer: View<'_>) -> Result<Response, Malformed> {
        let message = answer.message();
        let response = rebuilt(answer, |record| match record.rtype {
            rr::AAAA => match address(message, record) {
                Some(address) if !self.excludes(address) => Fate::Kept,
                _ => Fate::LeftOut,
            },
            rr::RRSIG if covered(message, record) == Some(rr::AAAA) => Fate::LeftOut,
            _ => Fate::Kept,
        })?;
        Ok(match self.addresses(response.view()) {
            Addresses::None => response.of_kind(Kind::Negative),
            _ => response,
        })
    }

    /// The answer to an AAAA question, made from the answer to the A question; none if that has no address which a
    /// NAT64 can reach.
    ///
    /// # Errors
    /// [`Malformed`] if it does not fit a message.
    pub fn synthesised(&self, answer: View<'_>) -> Result<Option<Response>, Malformed> {
        let message = answer.message();
        let response = rebuilt(answer, |record| match record.rtype {
            rr::A => match ipv4(message, record) {
                Some(ipv4) if is_of_others(ipv4) => Fate::Replaced(self.embedding(ipv4)),
                _ => Fate::LeftOut,
            },
            rr::CNAME | rr::DNAME => Fate::Kept,
            // Signatures of aliases still hold.
            rr::RRSIG if matches!(covered(message, record), Some(rr::CNAME | rr::DNAME)) => {
                Fate::Kept
            }
            _ => Fate::LeftOut,
        })?;
        let made = self.addresses(response.view()) != Addresses::None;
        Ok(made.then_some(response))
    }
}

/// Highest TTL, in seconds, of addresses made in place of the AAAA records that an answer denies (RFC 6147 §5.1.7).
#[must_use]
pub fn seconds_of(empty: View<'_>) -> u32 {
    let counts = Counts::read(empty.message()).unwrap_or_default();
    Records::new(empty.message(), empty.question_end(), counts)
        .flatten()
        .filter(|record| record.section == Section::Authority && record.rtype == rr::SOA)
        .filter_map(|soa| wire::u32_at(empty.message(), soa.ttl_at))
        .map(sane_ttl)
        .min()
        .unwrap_or(SECONDS_WITHOUT_SOA)
}

/// The address of a lower-cased reverse name in wire format; none unless it is the reverse name of a whole IPv6
/// address.
fn address_of(name: &[u8]) -> Option<Ipv6Addr> {
    let nibbles = name.strip_suffix(IP6_ARPA)?;
    if nibbles.len() != NIBBLES * 2 {
        return None;
    }
    let mut bits = 0_u128;
    for label in nibbles.chunks_exact(2).rev() {
        let [1, digit] = label else { return None };
        let digit = char::from(*digit).to_digit(16)?;
        bits = bits << 4 | u128::from(digit);
    }
    Some(bits.into())
}

/// RFC 1122 §3.2.1.3: 0/8 and 127/8 are the host itself, and never on the wire. Filters answer with them for names that
/// they block. Embedded in an IPv6 address, they would lead the client to another host.
fn is_of_others(ipv4: [u8; 4]) -> bool {
    !matches!(ipv4[0], 0 | 127)
}

/// The addresses in the answer section.
fn addresses(answer: View<'_>) -> impl Iterator<Item = Ipv6Addr> {
    let message = answer.message();
    alias::answers(answer)
        .filter(|record| record.rtype == rr::AAAA)
        .filter_map(move |record| address(message, &record))
}

fn address(message: &[u8], record: &Record) -> Option<Ipv6Addr> {
    let rdata: [u8; 16] = message
        .get(record.rdata_at()..record.end)?
        .try_into()
        .ok()?;
    Some(rdata.into())
}

fn ipv4(message: &[u8], record: &Record) -> Option<[u8; 4]> {
    message.get(record.rdata_at()..record.end)?.try_into().ok()
}

/// The type that a signature covers (RFC 4034 §3.1.1).
fn covered(message: &[u8], signature: &Record) -> Option<u16> {
    wire::u16_at(message, signature.rdata_at())
}

/// An answer to the AAAA question of the same name, made from another answer's answer section.
fn rebuilt(source: View<'_>, fate: impl Fn(&Record) -> Fate) -> Result<Response, Malformed> {
    let from = source.message();
    let mut message = from[..source.question_end()].to_vec();
    wire::put_u16(&mut message, source.question_end() - 4, rr::AAAA);
    // Owner names of the records: the question's name and the targets of its aliases.
    let mut names = vec![(
        HEADER_LEN,
        message[HEADER_LEN..source.question_end() - 4].to_vec(),
    )];
    let mut answers = 0;
    for record in alias::answers(source) {
        let (name, fixed) = alias::name_at(from, record.start).ok_or(Malformed)?;
        let known = names
            .iter()
            .find(|(_, known)| known.eq_ignore_ascii_case(&name));
        let owner = Owner {
            name: &name,
            pointer: known.and_then(|(at, _)| u16::try_from(*at).ok()),
        };
        match fate(&record) {
            Fate::LeftOut => continue,
            Fate::Kept => alias::append(&mut message, from, &record, owner)?,
            Fate::Replaced(address) => {
                owner.put(&mut message, &name);
                message.extend_from_slice(&rr::AAAA.to_be_bytes());
                message.extend_from_slice(&from[fixed + 2..fixed + 8]);
                message.extend_from_slice(&16_u16.to_be_bytes());
                message.extend_from_slice(&address.octets());
            }
        }
        answers += 1;
        if record.rtype == rr::CNAME
            && let Some((target, end)) = alias::name_at(from, record.rdata_at())
            && end == record.end
        {
            let at = message.len() - target.len();
            if at < POINTER_REACH {
                names.push((at, target));
            }
        }
    }
    if message.len() > MAX_MESSAGE_LEN {
        return Err(Malformed);
    }
    Counts {
        questions: 1,
        answers,
        authorities: 0,
        additionals: 0,
    }
    .write(&mut message);
    // The answer is not signed, and no server is authoritative for it.
    let flags = wire::flags(&message) & !(flag::AD | flag::AA);
    wire::put_u16(&mut message, 2, flags);
    let errors = PassedOn::of(source.errors());
    Ok(Response::read(&message)?.with_errors(&errors))
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA};
    use hickory_proto::rr::{Name, RData, Record as Rr, RecordType};

    use super::*;
    use crate::message::query::wire_name;

    const MAPPED: &str = "::ffff:0:0/96";

    fn with(prefix: &str, exclude: &[&str]) -> Dns64 {
        let net = |text: &&str| text.parse().expect("a network");
        Dns64::new(net(&prefix), exclude.iter().map(net).collect())
    }

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn wire(text: &str) -> Vec<u8> {
        wire_name(&name(text))
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Rr {
        Rr::from_rdata(name(owner), ttl, data)
    }

    fn a(owner: &str, ttl: u32, address: &str) -> Rr {
        record(owner, ttl, RData::A(A(address.parse().expect("IPv4"))))
    }

    fn aaaa(owner: &str, address: &str) -> Rr {
        record(owner, 60, RData::AAAA(AAAA(address.parse().expect("IPv6"))))
    }

    fn cname(owner: &str, target: &str) -> Rr {
        record(owner, 300, RData::CNAME(CNAME(name(target))))
    }

    fn message(qtype: RecordType, answers: Vec<Rr>) -> Message {
        let mut message = Message::new(7, MessageType::Response, OpCode::Query);
        message.add_query(Query::query(name("www.example."), qtype));
        message.metadata.authentic_data = true;
        message.metadata.authoritative = true;
        for record in answers {
            message.add_answer(record);
        }
        message
    }

    fn read(message: &Message) -> Response {
        Response::read(&message.to_vec().expect("encodes")).expect("well-formed")
    }

    fn reread(response: &Response) -> Message {
        Message::from_vec(response.view().message()).expect("hickory reads it")
    }

    /// RFC 6052 §2.4.
    #[test]
    fn addresses_are_embedded_as_in_the_table_of_rfc_6052() {
        for (prefix, want) in [
            ("2001:db8::/32", "2001:db8:c000:221::"),
            ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
            ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
            ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
            ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
            ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
        ] {
            let rule = with(prefix, &[]);
            let want: Ipv6Addr = want.parse().expect("IPv6");
            assert_eq!(rule.embedding([192, 0, 2, 33]), want, "{prefix}");
            assert_eq!(rule.embedded(want), Some([192, 0, 2, 33]), "{prefix}");
        }
    }

    #[test]
    fn an_address_that_was_not_made_stands_for_none() {
        for (prefix, address) in [
            ("64:ff9b::/96", "64:ff9b:1::192.0.2.33"),
            ("2001:db8::/32", "2001:db9:c000:221::"),
            ("2001:db8::/32", "2001:db8:c000:221::1"),
            ("2001:db8:122:344::/64", "2001:db8:122:344:1c0:2:2100:0"),
        ] {
            let address: Ipv6Addr = address.parse().expect("IPv6");
            assert_eq!(with(prefix, &[]).embedded(address), None, "{address}");
        }
    }

    #[test]
    fn reverse_names_of_made_addresses_lead_to_those_of_ipv4() {
        let rule = with("64:ff9b::/96", &[]);
        let reverse = |address: &str| {
            let address: std::net::IpAddr = address.parse().expect("an address");
            wire_name(&Name::from(address))
        };
        let made = reverse("64:ff9b::10.0.20.133");
        assert_eq!(rule.pointer(&made), Some(wire("133.20.0.10.in-addr.arpa.")));
        assert_eq!(rule.pointer(&reverse("64:ff9c::10.0.20.133")), None);
        assert_eq!(rule.pointer(&made[2..]), None, "a name above");
        assert_eq!(rule.pointer(&[b"\x01x", &made[..]].concat()), None);
        assert_eq!(rule.pointer(&wire("133.20.0.10.in-addr.arpa.")), None);
        assert_eq!(rule.pointer(b"\0"), None);
        let mut odd = made.clone();
        odd[1] = b'g';
        assert_eq!(rule.pointer(&odd), None, "no digit");
        // Its zone is 24 labels long.
        assert!(rule.holds_zone(&made[8 * 2..]));
        assert!(!rule.holds_zone(&made[9 * 2..]));
    }

    #[test]
    fn which_addresses_count() {
        let rule = with("64:ff9b::/96", &[MAPPED, "2001:db8:bad::/48"]);
        let (good, bad, mapped) = ("2001:db8::1", "2001:db8:bad::1", "::ffff:192.0.2.1");
        let www = |address: &&str| aaaa("www.example.", address);
        for (addresses, want) in [
            (&[][..], Addresses::None),
            (&[good], Addresses::All),
            (&[bad, mapped], Addresses::Excluded),
            (&[bad, good], Addresses::Some),
        ] {
            let answers = addresses.iter().map(www).collect();
            let response = read(&message(RecordType::AAAA, answers));
            assert_eq!(rule.addresses(response.view()), want, "{addresses:?}");
            let left = rule.without_excluded(response.view()).expect("fits");
            let left: Vec<_> = reread(&left).answers;
            let counted = addresses.iter().filter(|address| **address == good);
            assert_eq!(left, counted.map(www).collect::<Vec<_>>(), "{addresses:?}");
        }
        let real = |address| {
            let response = read(&message(RecordType::AAAA, vec![www(&address)]));
            rule.has_real_addresses(response.view())
        };
        assert!(real(good) && !real(bad) && !real("64:ff9b::1.2.3.4"));
    }

    #[test]
    fn an_answer_of_which_all_is_excluded_is_negative() {
        let rule = with("64:ff9b::/96", &[MAPPED]);
        let mapped = aaaa("edge.example.", "::ffff:192.0.2.1");
        let answers = vec![cname("www.example.", "edge.example."), mapped];
        let response = read(&message(RecordType::AAAA, answers));
        let left = rule.without_excluded(response.view()).expect("fits");
        assert_eq!(left.kind(), Kind::Negative);
        assert_eq!(
            reread(&left).answers,
            [cname("www.example.", "edge.example.")]
        );
    }

    #[test]
    fn a_chain_of_aliases_is_kept_and_each_a_record_becomes_aaaa() {
        let rule = with("64:ff9b::/96", &[MAPPED]);
        let mut source = message(
            RecordType::A,
            vec![
                cname("www.example.", "edge.cdn.example."),
                cname("edge.cdn.example.", "e1.cdn.example."),
                a("e1.cdn.example.", 20, "192.0.2.1"),
                a("e1.cdn.example.", 20, "192.0.2.2"),
            ],
        );
        source.add_authority(record(
            "cdn.example.",
            60,
            RData::NS(NS(name("ns.cdn.example."))),
        ));
        source.add_additional(a("ns.cdn.example.", 60, "192.0.2.53"));
        let made = rule.synthesised(read(&source).view()).expect("fits");
        let made = made.expect("there are addresses");
        assert_eq!((made.kind(), made.ttl()), (Kind::Positive, Some(20)));
        assert_eq!(
            made.view().rotation().map(|found| found.count.get()),
            Some(2)
        );
        let got = reread(&made);
        assert_eq!(got.queries[0].query_type(), RecordType::AAAA);
        assert!(!got.metadata.authentic_data && !got.metadata.authoritative);
        let mut want = source.answers[..2].to_vec();
        for address in ["64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2"] {
            let mut record = aaaa("e1.cdn.example.", address);
            record.ttl = 20;
            want.push(record);
        }
        assert_eq!(got.answers, want);
        assert!(got.authorities.is_empty() && got.additionals.is_empty());
        // Question, two aliases with their targets written out, and addresses whose owner is a pointer.
        let aliases = (2 + 10 + 18) + (2 + 10 + 16);
        let length = HEADER_LEN + 13 + 4 + aliases + 2 * (2 + 10 + 16);
        assert_eq!(made.view().message().len(), length);
    }

    #[test]
    fn addresses_of_the_host_itself_make_none() {
        let rule = with("64:ff9b::/96", &[MAPPED]);
        let made = |addresses: &[&str]| {
            let records = addresses
                .iter()
                .map(|address| a("www.example.", 60, address));
            let response = read(&message(RecordType::A, records.collect()));
            rule.synthesised(response.view()).expect("fits")
        };
        assert_eq!(made(&["0.0.0.0", "127.0.0.1"]), None);
        assert_eq!(made(&[]), None);
        let one = made(&["127.0.0.1", "10.0.0.1"]).expect("one");
        assert_eq!(
            reread(&one).answers,
            [aaaa("www.example.", "64:ff9b::10.0.0.1")]
        );
    }

    #[test]
    fn addresses_hold_as_long_as_the_soa_says_that_there_are_none() {
        let soa = SOA::new(name("ns.example."), name("root.example."), 1, 2, 3, 4, 40);
        let mut empty = message(RecordType::AAAA, vec![]);
        assert_eq!(seconds_of(read(&empty).view()), 600);
        empty.add_authority(record("example.", 900, RData::SOA(soa)));
        assert_eq!(seconds_of(read(&empty).view()), 40, "SOA.MINIMUM is lower");
    }

    #[test]
    #[cfg_attr(miri, ignore = "4,000 records take it many minutes")]
    fn what_fits_no_message_is_an_error() {
        let records: Vec<_> = (0..4_000_u32)
            .map(|number| {
                let address = std::net::Ipv4Addr::from(0x0a00_0000 + number);
                record("www.example.", 60, RData::A(A(address)))
            })
            .collect();
        let response = read(&message(RecordType::A, records));
        let made = with("64:ff9b::/96", &[]).synthesised(response.view());
        assert_eq!(made, Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(answers: Vec<u8>, counts in 0_u8..4, qtype in proptest::sample::select(vec![1_u8, 28])) {
            let mut bytes = b"\0\0\x81\x80\0\x01\0\0\0\0\0\0\x01a\0\0\0\0\x01".to_vec();
            (bytes[7], bytes[16]) = (counts, qtype);
            bytes.extend_from_slice(&answers);
            if let Ok(response) = Response::read(&bytes) {
                let rule = with("64:ff9b::/96", &[MAPPED]);
                let _ = rule.synthesised(response.view());
                let _ = rule.without_excluded(response.view());
                let _ = seconds_of(response.view());
            }
            let _ = with("64:ff9b::/96", &[]).pointer(&answers);
        }

        #[test]
        fn what_is_embedded_comes_out_again(ipv4: [u8; 4], length in proptest::sample::select(vec![32_u8, 40, 48, 56, 64, 96])) {
            let prefix = Ipv6Net::new(Ipv6Addr::new(0x2001, 0xdb8, 0x1122, 0x3344, 0, 0, 0, 0), length);
            let rule = Dns64::new(prefix.expect("a length").trunc(), vec![]);
            let made = rule.embedding(ipv4);
            proptest::prop_assert_eq!(made.octets()[8], 0);
            proptest::prop_assert_eq!(rule.embedded(made), Some(ipv4));
        }
    }
}
