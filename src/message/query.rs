//! A client's query, read in one pass over the datagram without allocating (RFC 1035 §4.1, RFC 6891 §6.1).
//!
//! Owns the decision whether bytes are a query we can answer, and the key under which its answer is shared. Must not
//! look at routes, the cache or the clock.

use hickory_proto::rr::Name;
use hickory_proto::serialize::binary::{BinEncodable, BinEncoder};
use smallvec::SmallVec;

use super::form::QueryForm;
use super::wire::{
    self, Counts, HEADER_LEN, MAX_NAME_LEN, MAX_PAYLOAD, Malformed, flag, rcode, rr,
};

/// EDNS option: name server identifier (RFC 5001).
pub(super) const OPTION_NSID: u16 = 3;

/// The client's OPT record (RFC 6891 §6.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest UDP payload the client takes, as it said.
    pub payload: u16,
    /// DNSSEC OK (RFC 3225).
    pub dnssec_ok: bool,
    /// Whether it wants to know which node answers (RFC 5001).
    pub nsid: bool,
}

/// A query that passed all checks of form; borrows the client's bytes.
#[derive(Debug, Clone, Copy)]
pub struct Query<'a> {
    /// QNAME as the client spelt it, wire format.
    pub name: &'a [u8],
    /// The same with QTYPE and QCLASS behind it.
    section: &'a [u8],
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// The client's ID.
    pub id: u16,
    /// The client's header flags.
    pub flags: u16,
    /// The client's OPT record.
    pub edns: Option<Edns>,
    /// Whether it is signed as a whole, by TSIG (RFC 8945) or SIG(0) (RFC 2931).
    pub signed: bool,
}

/// Why a client's message is no query that can be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reject {
    /// Too short to have a header: nothing to reply to.
    Short,
    /// A response: replying to it could make two servers talk to each other for ever.
    NotAQuery,
    /// To be answered with this response code and no question (RFC 1035 §4.1.1).
    Answer(u16),
    /// EDNS version above 0: BADVERS with our OPT (RFC 6891 §6.1.3).
    BadVersion,
}

impl<'a> Query<'a> {
    /// Reads a client's message.
    ///
    /// # Errors
    /// [`Reject`] says what the client hears, if anything.
    #[inline]
    pub fn read(message: &'a [u8]) -> Result<Self, Reject> {
        let counts = Counts::read(message).map_err(|Malformed| Reject::Short)?;
        let flags = wire::flags(message);
        if flags & flag::QR != 0 {
            return Err(Reject::NotAQuery);
        }
        if flags & flag::OPCODE != 0 {
            return Err(Reject::Answer(rcode::NOTIMP));
        }
        let form = |Malformed| Reject::Answer(rcode::FORMERR);
        if counts.questions != 1 {
            return Err(Reject::Answer(rcode::FORMERR));
        }
        let name_end = wire::skip_question_name(message, HEADER_LEN).map_err(form)?;
        let (Some(qtype), Some(qclass)) = (
            wire::u16_at(message, name_end),
            wire::u16_at(message, name_end + 2),
        ) else {
            return Err(Reject::Answer(rcode::FORMERR));
        };
        let (edns, signed) = read_records(message, name_end + 4, counts)?;
        Ok(Self {
            name: &message[HEADER_LEN..name_end],
            section: &message[HEADER_LEN..name_end + 4],
            qtype,
            qclass,
            id: wire::id(message),
            flags,
            edns,
            signed,
        })
    }

    /// The question as the client spelt it: QNAME, QTYPE, QCLASS.
    #[must_use]
    pub fn section(&self) -> &'a [u8] {
        self.section
    }

    /// Whether the client wants recursion.
    #[must_use]
    pub fn recursion_desired(&self) -> bool {
        self.flags & flag::RD != 0
    }

    /// Whether the client set DO.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// Whether the answer may be taken from the cache and stored there: RD is set (with RD=0 the answer depends on what
    /// the upstream knows by itself, RFC 1035 §4.1.1), the class is IN, and the type is not ANY.
    #[must_use]
    pub fn cacheable(&self) -> bool {
        self.recursion_desired() && self.qclass == rr::IN && self.qtype != rr::ANY
    }

    /// The key under which this question's answer is shared.
    #[expect(
        clippy::inline_always,
        reason = "called, it would make the key's 270 octets twice, and copy them"
    )]
    #[inline(always)]
    #[must_use]
    pub fn key(&self) -> Key {
        let length = self.name.len();
        let mut key = Key {
            bytes: [0; Key::MAX],
            length: length + Key::SUFFIX,
        };
        let bytes = &mut key.bytes;
        bytes[..length].copy_from_slice(self.name);
        // Length octets are at most 63, below 'A', so lower-casing the whole name does not change them.
        bytes[..length].make_ascii_lowercase();
        bytes[length..length + 2].copy_from_slice(&self.qtype.to_be_bytes());
        bytes[length + 2..length + 4].copy_from_slice(&self.qclass.to_be_bytes());
        bytes[length + 4] = (u8::from(self.dnssec_ok()) * Key::DO)
            | (u8::from(self.flags & flag::CD != 0) * Key::CD)
            | (u8::from(!self.recursion_desired()) * Key::NO_RD);
        key
    }
}

/// The OPT record, and whether there is a signature.
fn read_records(
    message: &[u8],
    question_end: usize,
    counts: Counts,
) -> Result<(Option<Edns>, bool), Reject> {
    if counts.answers | counts.authorities | counts.additionals == 0 {
        return Ok((None, false));
    }
    let (mut edns, mut signed) = (None, false);
    for record in wire::Records::new(message, question_end, counts) {
        let record = record.map_err(|Malformed| Reject::Answer(rcode::FORMERR))?;
        if record.rtype != rr::OPT {
            // RFC 2931 §3: a SIG that covers no type covers the message.
            let covers_nothing = wire::u16_at(message, record.rdata_at()) == Some(0);
            signed |= record.rtype == rr::TSIG || (record.rtype == rr::SIG && covers_nothing);
            continue;
        }
        // RFC 6891 §6.1.1: one OPT, in the additional section, owned by the root.
        let owned_by_root = message[record.start] == 0;
        if edns.is_some() || !owned_by_root || record.section != wire::Section::Additional {
            return Err(Reject::Answer(rcode::FORMERR));
        }
        let [_, version, flags, _] = message[record.ttl_at..record.ttl_at + 4] else {
            return Err(Reject::Answer(rcode::FORMERR));
        };
        if version != 0 {
            return Err(Reject::BadVersion);
        }
        let nsid = has_nsid(&message[record.rdata_at()..record.end])
            .map_err(|Malformed| Reject::Answer(rcode::FORMERR))?;
        edns = Some(Edns {
            payload: record.class,
            dnssec_ok: flags & 0x80 != 0,
            nsid,
        });
    }
    Ok((edns, signed))
}

/// Walks the options (RFC 6891 §6.1.2).
fn has_nsid(mut options: &[u8]) -> Result<bool, Malformed> {
    let mut found = false;
    while !options.is_empty() {
        let code = wire::u16_at(options, 0).ok_or(Malformed)?;
        let length = usize::from(wire::u16_at(options, 2).ok_or(Malformed)?);
        options = options.get(4 + length..).ok_or(Malformed)?;
        found |= code == OPTION_NSID;
    }
    Ok(found)
}

/// The cache's key: equal questions have equal bytes. It is QNAME, lower-cased and in wire format, QTYPE, QCLASS, and a
/// byte for DO, CD and the absence of RD.
#[derive(Clone, Copy)]
pub struct Key {
    bytes: [u8; Self::MAX],
    length: usize,
}

impl Key {
    const SUFFIX: usize = 5;
    const MAX: usize = MAX_NAME_LEN + Self::SUFFIX;
    const DO: u8 = 1;
    const CD: u8 = 2;
    const NO_RD: u8 = 4;

    /// The key's bytes.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The key of the same question about another name, which is lower-cased and in wire format.
///
/// # Panics
/// On bytes that are no key made by [`Query::key`].
#[must_use]
pub fn key_about(key: &[u8], name: &[u8]) -> Vec<u8> {
    [name, &key[key.len() - Key::SUFFIX..]].concat()
}

/// A key on the stack. Keys of long names are on the heap.
pub type ShortKey = SmallVec<[u8; 64]>;

/// The key of the question for another type of the same name.
///
/// # Panics
/// On bytes that are no key made by [`Query::key`].
#[must_use]
pub fn key_for_type(key: &[u8], qtype: u16) -> ShortKey {
    let mut key = ShortKey::from_slice(key);
    let at = key.len() - Key::SUFFIX;
    wire::put_u16(&mut key, at, qtype);
    key
}

/// The fields of a [`Key`], read back from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Question<'a> {
    /// Lower-cased wire QNAME.
    pub name: &'a [u8],
    /// QNAME, QTYPE and QCLASS as they stand in a message.
    pub section: &'a [u8],
    /// QTYPE.
    pub qtype: u16,
    /// QCLASS.
    pub qclass: u16,
    /// DO is set upstream.
    pub dnssec_ok: bool,
    /// CD is set upstream.
    pub checking_disabled: bool,
    /// RD is set upstream.
    pub recursion_desired: bool,
}

impl<'a> Question<'a> {
    /// Reads a key made by [`Query::key`].
    ///
    /// # Panics
    /// On other bytes.
    #[must_use]
    pub fn of(key: &'a [u8]) -> Self {
        let (section, bits) = key.split_at(key.len() - 1);
        Self::with_bits(section, bits[0])
    }

    /// The same from the question section of a lower-cased message and the last byte of a key.
    ///
    /// # Panics
    /// On fewer than four octets.
    #[must_use]
    pub fn with_bits(section: &'a [u8], bits: u8) -> Self {
        let name_length = section.len() - (Key::SUFFIX - 1);
        Self {
            name: &section[..name_length],
            section,
            qtype: u16::from_be_bytes([section[name_length], section[name_length + 1]]),
            qclass: u16::from_be_bytes([section[name_length + 2], section[name_length + 3]]),
            dnssec_ok: bits & Key::DO != 0,
            checking_disabled: bits & Key::CD != 0,
            recursion_desired: bits & Key::NO_RD == 0,
        }
    }

    /// The last byte of its key.
    #[must_use]
    pub fn bits(&self) -> u8 {
        (u8::from(self.dnssec_ok) * Key::DO)
            | (u8::from(self.checking_disabled) * Key::CD)
            | (u8::from(!self.recursion_desired) * Key::NO_RD)
    }

    /// Whether the answer may go to the cache; see [`Query::cacheable`].
    #[must_use]
    pub fn cacheable(&self) -> bool {
        self.recursion_desired && self.qtype != rr::ANY
    }

    /// Whether the client validates by itself (DO and CD are set), and so must get the servers' answer unchanged (RFC
    /// 6147 §5.5).
    #[must_use]
    pub fn validates(&self) -> bool {
        self.dnssec_ok && self.checking_disabled
    }

    /// Appends the query as it goes upstream: our own header and OPT (EDNS is hop by hop, RFC 6891 §6.1.1; AD asks for
    /// the AD bit, RFC 6840 §5.7).
    pub fn write(&self, id: u16, form: QueryForm, out: &mut Vec<u8>) {
        self.write_taking(MAX_PAYLOAD, id, form, out);
    }

    /// Appends the query for a server whose answers over UDP may have `payload` octets.
    pub fn write_taking(&self, payload: u16, id: u16, form: QueryForm, out: &mut Vec<u8>) {
        let mut flags = if form.has_ad() { flag::AD } else { 0 };
        if self.recursion_desired {
            flags |= flag::RD;
        }
        if self.checking_disabled {
            flags |= flag::CD;
        }
        out.extend_from_slice(&id.to_be_bytes());
        out.extend_from_slice(&flags.to_be_bytes());
        let additionals = u8::from(form.has_opt());
        out.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, additionals]);
        out.extend_from_slice(self.section);
        if form.has_opt() {
            let [high, low] = payload.to_be_bytes();
            let dnssec_ok = if self.dnssec_ok { 0x80 } else { 0 };
            out.extend_from_slice(&[
                0,
                0,
                rr::OPT.to_be_bytes()[1],
                high,
                low,
                0,
                0,
                dnssec_ok,
                0,
                0,
                0,
            ]);
        }
    }
}

/// The name's lower-cased wire form.
///
/// # Panics
/// Never: a name of at most 255 octets fits any buffer.
#[must_use]
pub fn wire_name(name: &Name) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 1);
    let mut encoder = BinEncoder::new(&mut bytes);
    name.to_lowercase()
        .emit(&mut encoder)
        .expect("a name of at most 255 octets fits any buffer");
    if bytes.last() != Some(&0) {
        bytes.push(0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(flags: u16, counts: [u16; 4], body: &[u8]) -> Vec<u8> {
        let mut message = vec![0x12, 0x34];
        message.extend_from_slice(&flags.to_be_bytes());
        for count in counts {
            message.extend_from_slice(&count.to_be_bytes());
        }
        message.extend_from_slice(body);
        message
    }

    const QUESTION: &[u8] = b"\x07Example\x03com\0\0\x01\0\x01";

    #[test]
    fn odd_input_gets_what_the_readme_says() {
        let opt = |version: u8| [0, 0, 41, 4, 208, 0, version, 0, 0, 0, 0];
        let with = |opt: &[u8]| [QUESTION, opt].concat();
        let formerr = Reject::Answer(rcode::FORMERR);
        for (name, message, want) in [
            ("shorter than a header", vec![0; 11], Reject::Short),
            (
                "a response",
                query(0x8100, [1, 0, 0, 0], QUESTION),
                Reject::NotAQuery,
            ),
            (
                "NOTIFY",
                query(0x2000, [1, 0, 0, 0], QUESTION),
                Reject::Answer(rcode::NOTIMP),
            ),
            ("no question", query(0x0100, [0; 4], b""), formerr),
            (
                "two questions",
                query(0, [2, 0, 0, 0], &[QUESTION, QUESTION].concat()),
                formerr,
            ),
            (
                "pointer in QNAME",
                query(0, [1, 0, 0, 0], b"\xc0\x0c\0\x01\0\x01"),
                formerr,
            ),
            (
                "cut off in QCLASS",
                query(0, [1, 0, 0, 0], &QUESTION[..15]),
                formerr,
            ),
            ("ARCOUNT lies", query(0, [1, 0, 0, 1], QUESTION), formerr),
            (
                "EDNS version 1",
                query(0, [1, 0, 0, 1], &with(&opt(1))),
                Reject::BadVersion,
            ),
            (
                "two OPT",
                query(0, [1, 0, 0, 2], &with(&[opt(0), opt(0)].concat())),
                formerr,
            ),
            (
                "OPT option over its end",
                query(
                    0,
                    [1, 0, 0, 1],
                    &with(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x03\0\x09"),
                ),
                formerr,
            ),
        ] {
            assert_eq!(Query::read(&message).err(), Some(want), "{name}");
        }
    }

    #[test]
    fn edns_is_read() {
        let opt = b"\0\0\x29\x10\0\0\0\x80\0\0\x04\0\x03\0\0";
        let message = query(0x0100, [1, 0, 0, 1], &[QUESTION, opt].concat());
        let query = Query::read(&message).expect("a good query");
        assert_eq!(
            query.edns,
            Some(Edns {
                payload: 4096,
                dnssec_ok: true,
                nsid: true
            })
        );
    }

    #[test]
    fn keys_ignore_case_and_keep_do_cd_rd_apart() {
        let key = |flags, body: &[u8]| {
            let message = query(flags, [1, 0, 0, 0], body);
            Query::read(&message)
                .expect("a good query")
                .key()
                .as_bytes()
                .to_vec()
        };
        let lower = QUESTION.to_ascii_lowercase();
        assert_eq!(key(0x0100, QUESTION), key(0x0100, &lower));
        assert_ne!(key(0x0100, QUESTION), key(0x0000, QUESTION));
        assert_ne!(key(0x0100, QUESTION), key(0x0110, QUESTION));
        let upstream = key(0x0110, QUESTION);
        let question = Question::of(&upstream);
        assert_eq!(question.section, lower);
        assert!(question.checking_disabled && question.recursion_desired && !question.dnssec_ok);
    }

    #[test]
    fn the_query_upstream_reads_as_what_was_meant() {
        let message = query(0x0110, [1, 0, 0, 0], QUESTION);
        let key = Query::read(&message).expect("a good query").key();
        let mut sent = Vec::new();
        Question::of(key.as_bytes()).write(0, QueryForm::Full, &mut sent);
        let parsed = hickory_proto::op::Message::from_vec(&sent).expect("hickory reads it");
        assert_eq!(parsed.queries[0].name().to_ascii(), "example.com.");
        assert!(parsed.metadata.recursion_desired && parsed.metadata.checking_disabled);
        assert!(parsed.metadata.authentic_data);
        assert_eq!(parsed.edns.map(|edns| edns.max_payload()), Some(1232));
    }

    #[test]
    fn a_query_upstream_leaves_out_what_its_form_says() {
        let message = query(0x0100, [1, 0, 0, 0], QUESTION);
        let key = Query::read(&message).expect("a good query").key();
        for (form, opt, ad) in [
            (QueryForm::WithoutOpt, false, true),
            (QueryForm::WithoutAd, true, false),
            (QueryForm::Plain, false, false),
        ] {
            let mut sent = Vec::new();
            Question::of(key.as_bytes()).write(0, form, &mut sent);
            let read = Query::read(&sent).expect("well-formed");
            let has = (read.edns.is_some(), read.flags & flag::AD != 0);
            assert_eq!(has, (opt, ad), "{form:?}");
        }
    }

    #[test]
    fn signatures_are_seen_and_other_records_are_not_taken_for_them() {
        let name = b"\x03key\0";
        let record = |rtype: u16, covered: [u8; 2]| {
            let fixed = [0, 255, 0, 0, 0, 0, 0, 2];
            [&name[..], &rtype.to_be_bytes(), &fixed, &covered].concat()
        };
        for (case, record, signed) in [
            ("TSIG", record(rr::TSIG, [0, 0]), true),
            ("SIG(0)", record(rr::SIG, [0, 0]), true),
            ("SIG of A", record(rr::SIG, [0, 1]), false),
            ("TXT", record(rr::TXT, [0, 0]), false),
        ] {
            let message = query(0x0100, [1, 0, 0, 1], &[QUESTION, &record].concat());
            let read = Query::read(&message).expect("a good query");
            assert_eq!(read.signed, signed, "{case}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            if let Ok(query) = Query::read(&bytes) {
                let _ = Question::of(query.key().as_bytes());
            }
        }
    }
}
