//! The one place that writes a reply: ID, the client's own spelling of QNAME, TTLs, header bits, OPT, truncation.
//!
//! Owns every byte a client reads. Pure: random numbers and times are arguments. An answer that is too long for its
//! client is compressed ([`super::compress`]), and cut behind as many whole records as there is room for: musl before
//! 1.2.4 never asks again over TCP and uses the records in the datagram. RFC 1035 §4.1, RFC 2181 §9 (TC), RFC 6891 §6
//! (OPT), RFC 8914 (extended errors), RFC 5001 (NSID).

use super::compress::{self, Changes};
use super::ede::{self, ExtendedError};
use super::query::{Edns, OPTION_NSID, Query};
use super::response::{Rotation, View, sane_ttl};
use super::wire::{
    self, Counts, HEADER_LEN, MAX_MESSAGE_LEN, MAX_PAYLOAD, MIN_PAYLOAD, OPT_LEN, flag, rcode, rr,
};
use crate::budgets::EXTENDED_ERROR_BYTES;

/// RFC 8914 §2: INFO-CODE.
const EDE_CODE_LEN: usize = 2;
/// RFC 6891 §6.1.2: OPTION-CODE and OPTION-LENGTH.
const OPTION_HEADER_LEN: usize = 4;

/// The transport of the query, which bounds the reply's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// A datagram: the client's payload size and ours bound the reply.
    Udp,
    /// A stream: 65,535 octets (RFC 1035 §4.2.2).
    Tcp,
}

/// The parts of a client's query that its reply repeats.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The client's ID.
    pub id: u16,
    /// The client's header flags.
    pub flags: u16,
    /// QNAME as the client spelt it, QTYPE and QCLASS; empty if it could not be read.
    pub section: &'a [u8],
    /// The client's OPT record.
    pub edns: Option<Edns>,
    /// How the query came.
    pub protocol: Protocol,
}

impl<'a> Asked<'a> {
    /// What the reply to `query` repeats.
    #[must_use]
    pub fn new(query: &Query<'a>, protocol: Protocol) -> Self {
        Self {
            id: query.id,
            flags: query.flags,
            section: query.section(),
            edns: query.edns,
            protocol,
        }
    }

    /// QNAME as the client spelt it.
    fn name(&self) -> &'a [u8] {
        &self.section[..self.section.len().saturating_sub(4)]
    }

    /// Octets the reply may have.
    fn limit(&self) -> usize {
        match (self.protocol, self.edns) {
            (Protocol::Tcp, _) => MAX_MESSAGE_LEN,
            (Protocol::Udp, None) => usize::from(MIN_PAYLOAD),
            // RFC 6891 §6.2.5: values below 512 count as 512.
            (Protocol::Udp, Some(edns)) => {
                usize::from(edns.payload.clamp(MIN_PAYLOAD, MAX_PAYLOAD))
            }
        }
    }

    /// RFC 6840 §5.8: AD is sent to clients that set AD or DO.
    fn wants_ad(&self) -> bool {
        self.flags & flag::AD != 0 || self.edns.is_some_and(|edns| edns.dnssec_ok)
    }
}

/// The answer that a reply is made from, and its TTLs.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// The answer.
    pub response: View<'a>,
    /// No TTL in the reply is above this, in seconds.
    pub ttl_cap: u32,
}

/// How the reply's TTLs are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ttls {
    /// The answer's own, because it has just arrived.
    Fresh,
    /// The answer's own, less the seconds since it arrived.
    Aged(u32),
    /// This many seconds (RFC 8767 §4, stale answers).
    Fixed(u32),
}

/// What beside the answer goes into a reply.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras<'a> {
    /// Why the reply is what it is.
    pub error: Option<&'a ExtendedError>,
    /// The node's name, sent to clients that ask for NSID.
    pub nsid: &'a [u8],
    /// By how many places the addresses are rotated: random, so that clients spread over them. 0 keeps the order.
    pub rotate: u32,
}

/// Appends the reply made of a stored or fresh answer; returns its response code.
pub fn answer(
    source: Source<'_>,
    asked: &Asked<'_>,
    ttls: Ttls,
    extras: Extras<'_>,
    out: &mut Vec<u8>,
) -> u16 {
    let response = source.response;
    let message = response.message();
    let mut options = Options::fitting(asked, extras, response.question_end());
    options.pass_on(response.errors(), asked.limit(), message.len());
    let room = asked.limit() - options.len();
    let new_ttl = |old| match ttls {
        Ttls::Fresh => sane_ttl(old).min(source.ttl_cap),
        Ttls::Aged(age) => sane_ttl(old).min(source.ttl_cap).saturating_sub(age),
        Ttls::Fixed(ttl) => ttl,
    };
    let rotation = response.rotation().filter(|_| extras.rotate != 0);
    let start = out.len();
    let mut truncated = 0;
    if message.len() <= room {
        out.extend_from_slice(message);
        let reply = &mut out[start..];
        for index in 0..response.ttl_count() {
            let at = response.ttl_at(index);
            let ttl = &mut reply[at..at + 4];
            let new = new_ttl(u32::from_be_bytes([ttl[0], ttl[1], ttl[2], ttl[3]]));
            ttl.copy_from_slice(&new.to_be_bytes());
        }
        if let Some(rotation) = rotation {
            rotate(response, rotation, extras.rotate, reply);
        }
    } else {
        let changes = Changes {
            ttl: new_ttl,
            rdata_of: |number| {
                rotation.map_or(number, |rotation| rotation.source(extras.rotate, number))
            },
        };
        let kept = compress::append(response, room, &changes, out);
        if lacks_something(kept, response) {
            truncated = flag::TC;
        }
    }
    let reply = &mut out[start..];
    wire::put_u16(reply, 0, asked.id);
    // A forwarder offers recursion, even if the server that answered does not. The reserved bit is zero (RFC 1035 §4.1.1).
    let said = flag::QR | flag::AA | flag::TC | flag::AD | flag::CD | flag::RCODE;
    let said = wire::flags(reply) & said | asked.flags & flag::RD;
    let mut flags = said | flag::RA | truncated;
    if ttls != Ttls::Fresh {
        // RFC 1035 §4.1.1: an answer from a cache is not authoritative.
        flags &= !flag::AA;
    }
    if !asked.wants_ad() {
        flags &= !flag::AD;
    }
    wire::put_u16(reply, 2, flags);
    reply[HEADER_LEN..HEADER_LEN + asked.name().len()].copy_from_slice(asked.name());
    options.put(response.rcode(), out, start);
    response.rcode()
}

/// Appends a reply without records: an error of ours, or an upstream's failure.
pub fn error(asked: &Asked<'_>, code: u16, extras: Extras<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let repeated = asked.flags & (flag::OPCODE | flag::RD | flag::CD);
    out.extend_from_slice(&asked.id.to_be_bytes());
    let flags = flag::QR | repeated | flag::RA | code & flag::RCODE;
    out.extend_from_slice(&flags.to_be_bytes());
    let questions = u8::from(!asked.section.is_empty());
    out.extend_from_slice(&[0, questions, 0, 0, 0, 0, 0, 0]);
    out.extend_from_slice(asked.section);
    let question_end = out.len() - start;
    let mut options = Options::fitting(asked, extras, question_end);
    if let Some(error) = extras.error {
        options.pass_on(error.servers.as_bytes(), asked.limit(), question_end);
    }
    options.put(code, out, start);
}

/// Appends the reply to bytes of which only the header was understood (RFC 1035 §4.1.1: ID and opcode are kept).
pub fn reject(message: &[u8], code: u16, out: &mut Vec<u8>) {
    let edns = (code == rcode::BADVERS).then_some(Edns {
        payload: 0,
        dnssec_ok: false,
        nsid: false,
    });
    // A question that can be read is repeated, because some clients accept only replies with their question.
    let section = match wire::skip_question_name(message, HEADER_LEN) {
        Ok(end) if Counts::read(message).is_ok_and(|counts| counts.questions == 1) => {
            message.get(HEADER_LEN..end + 4).unwrap_or(&[])
        }
        _ => &[],
    };
    let asked = Asked {
        id: wire::id(message),
        flags: wire::flags(message),
        section,
        edns,
        protocol: Protocol::Udp,
    };
    error(&asked, code, Extras::default(), out);
}

/// Rotates the addresses so that number `by` comes first. Owner names and TTLs are equal and stay in place.
fn rotate(response: View<'_>, rotation: Rotation, by: u32, reply: &mut [u8]) {
    let (first, count) = (
        usize::from(rotation.first),
        usize::from(rotation.count.get()),
    );
    let mut turn = by as usize % count;
    for index in 0..count {
        let from = response.ttl_at(first + turn) + 6;
        let to = response.ttl_at(first + index) + 6;
        // With a constant length the copy is one or two instructions instead of a call.
        match rotation.width {
            4 => copy::<4>(response.message(), from, reply, to),
            _ => copy::<16>(response.message(), from, reply, to),
        }
        turn += 1;
        if turn == count {
            turn = 0;
        }
    }
}

fn copy<const LENGTH: usize>(source: &[u8], from: usize, target: &mut [u8], to: usize) {
    target[to..to + LENGTH].copy_from_slice(&source[from..from + LENGTH]);
}

/// Our own OPT record, for clients that sent one (RFC 6891 §7): as much of it as fits beside the question.
#[derive(Debug, Clone, Copy)]
struct Options<'a> {
    edns: Option<Edns>,
    nsid: Option<&'a [u8]>,
    error: Option<(u16, &'a [u8])>,
    /// Servers' extended errors, as encoded options.
    passed_on: &'a [u8],
}

impl<'a> Options<'a> {
    /// NSID comes first, because the client asked for it; then the error, whose text is cut to the room left.
    fn fitting(asked: &Asked<'_>, extras: Extras<'a>, question_end: usize) -> Self {
        let mut options = Self {
            edns: asked.edns,
            nsid: None,
            error: None,
            passed_on: &[],
        };
        let Some(edns) = asked.edns else {
            return options;
        };
        let mut room = asked.limit().saturating_sub(question_end + OPT_LEN);
        if edns.nsid && room >= OPTION_HEADER_LEN + extras.nsid.len() {
            options.nsid = Some(extras.nsid);
            room -= OPTION_HEADER_LEN + extras.nsid.len();
        }
        if let Some(error) = extras.error
            && room >= OPTION_HEADER_LEN + EDE_CODE_LEN
        {
            // RFC 8914 §2: UTF-8, so it is cut between characters.
            let most = EXTENDED_ERROR_BYTES.min(room - OPTION_HEADER_LEN - EDE_CODE_LEN);
            let text = &error.text.as_bytes()[..error.text.floor_char_boundary(most)];
            options.error = Some((error.code, text));
        }
        options
    }

    /// Adds as many of the servers' extended errors as fit beside the message's `message_len` octets; no record is left
    /// out for them (RFC 8914 §3).
    #[inline]
    fn pass_on(&mut self, errors: &'a [u8], limit: usize, message_len: usize) {
        if !errors.is_empty() && self.edns.is_some() {
            self.passed_on = ede::fitting(errors, limit.saturating_sub(message_len + self.len()));
        }
    }

    /// Octets of the whole record; 0 if there is none.
    fn len(&self) -> usize {
        self.edns.map_or(0, |_| OPT_LEN + self.rdata_len())
    }

    fn rdata_len(&self) -> usize {
        let nsid = self.nsid.map_or(0, |nsid| OPTION_HEADER_LEN + nsid.len());
        let error = self
            .error
            .map_or(0, |(_, text)| OPTION_HEADER_LEN + EDE_CODE_LEN + text.len());
        nsid + error + self.passed_on.len()
    }

    /// Appends it to the reply that begins at `start`.
    fn put(&self, code: u16, out: &mut Vec<u8>, start: usize) {
        let Some(edns) = self.edns else { return };
        let [payload_high, payload_low] = MAX_PAYLOAD.to_be_bytes();
        let [length_high, length_low] = length_octets(self.rdata_len());
        let [_, code_high] = (code >> 4).to_be_bytes();
        let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
        out.extend_from_slice(&[0, 0, rr::OPT.to_be_bytes()[1], payload_high, payload_low]);
        out.extend_from_slice(&[code_high, 0, dnssec_ok, 0, length_high, length_low]);
        if let Some(nsid) = self.nsid {
            out.extend_from_slice(&OPTION_NSID.to_be_bytes());
            out.extend_from_slice(&length_octets(nsid.len()));
            out.extend_from_slice(nsid);
        }
        if let Some((code, text)) = self.error {
            ede::put(code, text, out);
        }
        out.extend_from_slice(self.passed_on);
        let additionals = wire::u16_at(out, start + 10).unwrap_or(0) + 1;
        wire::put_u16(out, start + 10, additionals);
    }
}

/// A length as EDNS writes it.
fn length_octets(length: usize) -> [u8; 2] {
    u16::try_from(length)
        .expect("a node's name and an error's text have a few hundred octets at most")
        .to_be_bytes()
}

/// Whether a message that holds the records `kept` of a response lacks any that the client needs. RFC 2181 §9: extra
/// information may be left out silently. A referral's glue is more than that (RFC 9471 §3).
fn lacks_something(kept: Counts, response: View<'_>) -> bool {
    let whole = Counts::read(response.message()).unwrap_or_default();
    kept.answers < whole.answers
        || kept.authorities < whole.authorities
        || (whole.answers == 0 && kept.additionals < whole.additionals)
}

#[cfg(test)]
mod tests {
    use super::super::response::Response;
    use super::super::response::testing::response;
    use super::*;
    use hickory_proto::op::{Message, ResponseCode};
    use hickory_proto::rr::RData;

    const NAME: &[u8] = b"\x04HOST\x07example\0";
    const QUESTION: &[u8] = b"\x04HOST\x07example\0\0\x01\0\x01";
    const EDNS: Edns = Edns {
        payload: 1232,
        dnssec_ok: false,
        nsid: false,
    };

    fn asked(edns: Option<Edns>, protocol: Protocol) -> Asked<'static> {
        Asked {
            id: 0x1234,
            flags: flag::RD,
            section: QUESTION,
            edns,
            protocol,
        }
    }

    fn entry(addresses: &[u8]) -> Response {
        response("host.example.", 300, addresses)
    }

    fn stamp(
        entry: &Response,
        asked: &Asked<'_>,
        ttls: Ttls,
        extras: Extras<'_>,
    ) -> (Vec<u8>, Message) {
        let mut out = b"earlier bytes".to_vec();
        let source = Source {
            response: entry.view(),
            ttl_cap: 86_400,
        };
        answer(source, asked, ttls, extras, &mut out);
        let reply = out.split_off(13);
        let message = Message::from_vec(&reply).expect("hickory reads it");
        (reply, message)
    }

    #[test]
    fn id_name_ttl_and_opt_are_the_clients() {
        let (reply, message) = stamp(
            &entry(&[1, 2]),
            &asked(Some(EDNS), Protocol::Udp),
            Ttls::Aged(20),
            Extras::default(),
        );
        assert_eq!(&reply[HEADER_LEN..HEADER_LEN + NAME.len()], NAME);
        assert_eq!(message.metadata.id, 0x1234);
        assert!(message.metadata.recursion_desired);
        assert!(message.answers.iter().all(|record| record.ttl == 280));
        assert_eq!(message.edns.map(|edns| edns.max_payload()), Some(1232));
    }

    #[test]
    fn recursion_is_available_and_only_a_fresh_answer_is_authoritative() {
        let address = entry(&[1]);
        let mut message = address.view().message().to_vec();
        let flags = (wire::flags(&message) | flag::AA) & !flag::RA;
        wire::put_u16(&mut message, 2, flags);
        let said = Response::read(&message).expect("well-formed");
        for (ttls, authoritative) in [
            (Ttls::Fresh, true),
            (Ttls::Aged(0), false),
            (Ttls::Fixed(30), false),
        ] {
            let asked = asked(None, Protocol::Udp);
            let (_, message) = stamp(&said, &asked, ttls, Extras::default());
            assert!(message.metadata.recursion_available, "{ttls:?}");
            assert_eq!(message.metadata.authoritative, authoritative, "{ttls:?}");
        }
    }

    #[test]
    fn clients_without_edns_get_none() {
        let (_, message) = stamp(
            &entry(&[1]),
            &asked(None, Protocol::Udp),
            Ttls::Aged(0),
            Extras::default(),
        );
        assert!(message.edns.is_none());
    }

    #[test]
    fn ttls_never_wrap_and_stale_ones_are_fixed() {
        let asked = asked(None, Protocol::Udp);
        let ttl = |ttls| {
            stamp(&entry(&[1]), &asked, ttls, Extras::default())
                .1
                .answers[0]
                .ttl
        };
        assert_eq!(ttl(Ttls::Aged(301)), 0);
        assert_eq!(ttl(Ttls::Fixed(30)), 30);
    }

    #[test]
    fn rotation_keeps_every_address() {
        let addresses = |rotate| {
            let extras = Extras {
                rotate,
                ..Extras::default()
            };
            let (_, message) = stamp(
                &entry(&[1, 2, 3]),
                &asked(None, Protocol::Udp),
                Ttls::Aged(0),
                extras,
            );
            let last = |data: &RData| match data {
                RData::A(a) => a.0.octets()[3],
                other => panic!("{other:?}"),
            };
            message
                .answers
                .iter()
                .map(|record| last(&record.data))
                .collect::<Vec<_>>()
        };
        let asked = asked(None, Protocol::Udp);
        let extras = Extras {
            rotate: 58,
            ..Extras::default()
        };
        let many: Vec<u8> = (0..60).collect();
        let (cut, _) = stamp(&entry(&many), &asked, Ttls::Aged(0), extras);
        let last_octets = cut[HEADER_LEN + QUESTION.len()..].chunks(16);
        let last_octets: Vec<_> = last_octets.map(|record| record[15]).collect();
        assert_eq!(last_octets[..4], [58, 59, 0, 1], "of a reply that is cut");
        assert_eq!(addresses(0), [1, 2, 3]);
        assert_eq!(addresses(1), [2, 3, 1]);
        assert_eq!(addresses(5), [3, 1, 2]);
    }

    #[test]
    fn what_does_not_fit_is_cut_between_records() {
        let many: Vec<u8> = (0..60).collect();
        for (case, edns, protocol, limit, truncated) in [
            ("no EDNS", None, Protocol::Udp, 512, true),
            (
                "small payload",
                Some(Edns {
                    payload: 100,
                    ..EDNS
                }),
                Protocol::Udp,
                512,
                true,
            ),
            (
                "1000",
                Some(Edns {
                    payload: 1000,
                    ..EDNS
                }),
                Protocol::Udp,
                1000,
                true,
            ),
            ("TCP", None, Protocol::Tcp, 65_535, false),
        ] {
            let asked = asked(edns, protocol);
            let (reply, message) = stamp(&entry(&many), &asked, Ttls::Aged(0), Extras::default());
            assert!(reply.len() <= limit, "{case}: {} octets", reply.len());
            assert_eq!(message.metadata.truncation, truncated, "{case}");
            // 16 octets a record: nothing that would have fitted is missing.
            assert!(
                !truncated || reply.len() + 16 > limit,
                "{case}: {} octets",
                reply.len()
            );
            assert_eq!(message.edns.is_some(), edns.is_some(), "{case}");
        }
    }

    #[test]
    fn errors_carry_their_reason() {
        let error_text = ExtendedError::new(22, "vpc: 10.0.0.2 timed out");
        let mut out = Vec::new();
        let extras = Extras {
            error: Some(&error_text),
            nsid: b"node-1",
            rotate: 0,
        };
        let edns = Edns { nsid: true, ..EDNS };
        error(
            &asked(Some(edns), Protocol::Udp),
            rcode::SERVFAIL,
            extras,
            &mut out,
        );
        let message = Message::from_vec(&out).expect("hickory reads it");
        assert_eq!(message.metadata.response_code, ResponseCode::ServFail);
        let options = message.edns.expect("an OPT").options().clone();
        let bytes = |code: u16| {
            options
                .get(code.into())
                .map(|option| Vec::<u8>::try_from(option).expect("encodes"))
        };
        assert_eq!(
            bytes(ede::OPTION),
            Some(b"\0\x16vpc: 10.0.0.2 timed out".to_vec())
        );
        assert_eq!(bytes(OPTION_NSID), Some(b"node-1".to_vec()));
    }

    #[test]
    fn rejects_keep_id_and_opcode() {
        let mut notify = vec![0x12, 0x34, 0x20, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        notify.extend_from_slice(b"\x01a\0\0\x01\0\x01");
        let mut out = Vec::new();
        reject(&notify, rcode::NOTIMP, &mut out);
        assert_eq!(&out[..4], &[0x12, 0x34, 0xa0, 0x84]);
        assert_eq!(out[HEADER_LEN..], notify[HEADER_LEN..]);
        out.clear();
        reject(&notify[..14], rcode::BADVERS, &mut out);
        let message = Message::from_vec(&out).expect("hickory reads it");
        assert_eq!(
            message
                .edns
                .as_ref()
                .map(hickory_proto::op::Edns::rcode_high),
            Some(1)
        );
    }
}
