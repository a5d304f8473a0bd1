//! DNS messages as bytes (RFC 1035 §4): pure functions, no I/O, no clock, no allocation.
//!
//! Owns offsets, header bits and the walk over names and records. It looks no deeper than a record's fixed fields:
//! RDATA is not looked at, so that unknown types work.

use std::hash::{DefaultHasher, Hasher};

/// RFC 1035 §4.1.1: six 16-bit fields.
pub const HEADER_LEN: usize = 12;
/// RFC 1035 §2.3.4: the longest name in wire format, lengths and root label included.
pub const MAX_NAME_LEN: usize = 255;
/// RFC 1035 §4.2.2: a message's length over TCP is a 16-bit number.
pub const MAX_MESSAGE_LEN: usize = 65_535;
/// RFC 1035 §2.3.4: what a client without EDNS can take over UDP.
pub const MIN_PAYLOAD: u16 = 512;
/// A name has at most 127 labels (RFC 1035 §2.3.4), and needs no more pointers than labels.
const MAX_JUMPS: usize = 127;
/// DNS flag day 2020: fits the smallest IPv6 path MTU with room for headers, so replies are never fragmented.
pub const MAX_PAYLOAD: u16 = 1232;
/// RFC 6891 §6.1.2: an OPT record without options.
pub const OPT_LEN: usize = 11;

/// Bits of the header's second 16-bit word (RFC 1035 §4.1.1, RFC 4035 §3).
pub mod flag {
    /// Query (0) or response (1).
    pub const QR: u16 = 0x8000;
    /// Kind of query; 0 is QUERY.
    pub const OPCODE: u16 = 0x7800;
    /// Authoritative answer.
    pub const AA: u16 = 0x0400;
    /// Truncated.
    pub const TC: u16 = 0x0200;
    /// Recursion desired.
    pub const RD: u16 = 0x0100;
    /// Recursion available.
    pub const RA: u16 = 0x0080;
    /// Authenticated data (RFC 4035 §3.2.3, RFC 6840 §5.7).
    pub const AD: u16 = 0x0020;
    /// Checking disabled (RFC 4035 §3.2.2).
    pub const CD: u16 = 0x0010;
    /// Low four bits of the response code.
    pub const RCODE: u16 = 0x000f;
}

/// Response codes this program names (IANA DNS RCODEs).
pub mod rcode {
    /// RFC 1035.
    pub const NOERROR: u16 = 0;
    /// RFC 1035.
    pub const FORMERR: u16 = 1;
    /// RFC 1035.
    pub const SERVFAIL: u16 = 2;
    /// RFC 1035.
    pub const NXDOMAIN: u16 = 3;
    /// RFC 1035.
    pub const NOTIMP: u16 = 4;
    /// RFC 1035.
    pub const REFUSED: u16 = 5;
    /// RFC 6891 §6.1.3.
    pub const BADVERS: u16 = 16;
}

/// Record types and classes this program treats in a way of their own (IANA DNS parameters).
pub mod rr {
    /// IPv4 address.
    pub const A: u16 = 1;
    /// Name server.
    pub const NS: u16 = 2;
    /// Mail destination (RFC 1035 §3.3.4, obsolete).
    pub const MD: u16 = 3;
    /// Mail forwarder (RFC 1035 §3.3.5, obsolete).
    pub const MF: u16 = 4;
    /// Alias.
    pub const CNAME: u16 = 5;
    /// Start of authority.
    pub const SOA: u16 = 6;
    /// Mailbox (RFC 1035 §3.3.3).
    pub const MB: u16 = 7;
    /// Mail group (RFC 1035 §3.3.6).
    pub const MG: u16 = 8;
    /// Renamed mailbox (RFC 1035 §3.3.8).
    pub const MR: u16 = 9;
    /// Reverse name.
    pub const PTR: u16 = 12;
    /// Who is responsible for a mailbox (RFC 1035 §3.3.7).
    pub const MINFO: u16 = 14;
    /// Mail exchanger.
    pub const MX: u16 = 15;
    /// Text.
    pub const TXT: u16 = 16;
    /// Responsible person (RFC 1183 §2.2).
    pub const RP: u16 = 17;
    /// AFS database (RFC 1183 §1).
    pub const AFSDB: u16 = 18;
    /// Route through (RFC 1183 §3.3).
    pub const RT: u16 = 21;
    /// Signature; one that covers no type signs the message (RFC 2931).
    pub const SIG: u16 = 24;
    /// X.400 mapping (RFC 2163 §4).
    pub const PX: u16 = 26;
    /// IPv6 address.
    pub const AAAA: u16 = 28;
    /// Service location.
    pub const SRV: u16 = 33;
    /// Naming authority pointer (RFC 3403 §4).
    pub const NAPTR: u16 = 35;
    /// Subtree alias.
    pub const DNAME: u16 = 39;
    /// Delegation signer (RFC 4034 §5); belongs to the parent zone.
    pub const DS: u16 = 43;
    /// Signature of one `RRset` (RFC 4034 §3).
    pub const RRSIG: u16 = 46;
    /// Denial of existence (RFC 4034 §4).
    pub const NSEC: u16 = 47;
    /// Denial of existence by hashed names (RFC 5155 §3).
    pub const NSEC3: u16 = 50;
    /// Zone key (RFC 4034 §2).
    pub const DNSKEY: u16 = 48;
    /// Service binding (RFC 9460).
    pub const SVCB: u16 = 64;
    /// EDNS pseudo-record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Service binding for HTTPS (RFC 9460).
    pub const HTTPS: u16 = 65;
    /// Transaction signature (RFC 8945); hop by hop.
    pub const TSIG: u16 = 250;
    /// Incremental zone transfer.
    pub const IXFR: u16 = 251;
    /// Zone transfer.
    pub const AXFR: u16 = 252;
    /// Any type.
    pub const ANY: u16 = 255;
    /// Class Internet.
    pub const IN: u16 = 1;
    /// Class CHAOS: questions about the server itself.
    pub const CH: u16 = 3;
}

/// A message that breaks RFC 1035's format: cut off, a looping or overlong name, counts that lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("malformed DNS message")]
pub struct Malformed;

/// The 16-bit number at `at`, if the message reaches that far.
#[inline]
#[must_use]
pub fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// The 32-bit number at `at`, if the message reaches that far.
#[inline]
#[must_use]
pub fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    let bytes = message.get(at..at + 4)?;
    Some(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// Overwrites the 16-bit number at `at`.
///
/// # Panics
/// If the message does not reach that far; callers have measured it.
#[inline]
pub fn put_u16(message: &mut [u8], at: usize, value: u16) {
    message[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// Overwrites the 32-bit number at `at`.
///
/// # Panics
/// If the message does not reach that far; callers have measured it.
#[inline]
pub fn put_u32(message: &mut [u8], at: usize, value: u32) {
    message[at..at + 4].copy_from_slice(&value.to_be_bytes());
}

/// The message's ID; 0 if there is not even that.
#[inline]
#[must_use]
pub fn id(message: &[u8]) -> u16 {
    u16_at(message, 0).unwrap_or(0)
}

/// The header's flag word; 0 if there is not even that.
#[inline]
#[must_use]
pub fn flags(message: &[u8]) -> u16 {
    u16_at(message, 2).unwrap_or(0)
}

/// Number of records in each section.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// QDCOUNT.
    pub questions: u16,
    /// ANCOUNT.
    pub answers: u16,
    /// NSCOUNT.
    pub authorities: u16,
    /// ARCOUNT.
    pub additionals: u16,
}

impl Counts {
    /// The four counts of a message's header.
    ///
    /// # Errors
    /// [`Malformed`] if the message is shorter than a header.
    #[inline]
    pub fn read(message: &[u8]) -> Result<Self, Malformed> {
        if message.len() < HEADER_LEN {
            return Err(Malformed);
        }
        let at = |at| u16::from_be_bytes([message[at], message[at + 1]]);
        Ok(Self {
            questions: at(4),
            answers: at(6),
            authorities: at(8),
            additionals: at(10),
        })
    }

    /// Overwrites the counts of a message's header.
    ///
    /// # Panics
    /// If the message is shorter than a header.
    pub fn write(self, message: &mut [u8]) {
        put_u16(message, 4, self.questions);
        put_u16(message, 6, self.answers);
        put_u16(message, 8, self.authorities);
        put_u16(message, 10, self.additionals);
    }
}

/// Offset after a question's uncompressed name (RFC 1035 §4.1.2; there is no earlier name to point to).
///
/// # Errors
/// [`Malformed`] if the name is cut off, over 255 octets, or holds a pointer or a reserved label type.
#[inline]
pub fn skip_question_name(message: &[u8], start: usize) -> Result<usize, Malformed> {
    let mut at = start;
    loop {
        let length = usize::from(*message.get(at).ok_or(Malformed)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 {
            return Err(Malformed);
        }
        at += length;
        if at - start >= MAX_NAME_LEN {
            return Err(Malformed);
        }
    }
    Ok(at)
}

/// Offset after a possibly compressed name (RFC 1035 §4.1.4). The whole name is checked: pointers must lead backwards,
/// and the name must have at most 255 octets.
///
/// # Errors
/// [`Malformed`] if it is cut off, overlong, loops, or holds a reserved label type.
pub fn skip_name(message: &[u8], start: usize) -> Result<usize, Malformed> {
    let mut at = start;
    let mut end = None;
    // A pointer leads to a prior occurrence of a name, which ends before the pointer. So each jump goes further back
    // than the one before, and the loop ends.
    let mut limit = message.len();
    let (mut length, mut jumps) = (0, 0);
    loop {
        if at >= limit {
            return Err(Malformed);
        }
        let byte = usize::from(message[at]);
        match byte {
            0 => break,
            1..=63 => {
                length += byte + 1;
                at += byte + 1;
            }
            0xc0..=0xff => {
                let target = usize::from(u16_at(message, at).ok_or(Malformed)? & 0x3fff);
                if at + 2 > limit || target >= at.min(start) || target < HEADER_LEN {
                    return Err(Malformed);
                }
                end.get_or_insert(at + 2);
                limit = at;
                at = target;
                // A pointer adds no octet to the name, and a pointer to a pointer adds no label, so jumps are limited
                // separately.
                jumps += 1;
                if jumps > MAX_JUMPS {
                    return Err(Malformed);
                }
            }
            _ => return Err(Malformed),
        }
        if length >= MAX_NAME_LEN {
            return Err(Malformed);
        }
    }
    Ok(end.unwrap_or(at + 1))
}

/// Whether a name that has passed [`skip_name`] ends in a pointer.
#[must_use]
pub fn is_compressed(message: &[u8], mut at: usize) -> bool {
    while let Some(&length @ 1..=63) = message.get(at) {
        at += usize::from(length) + 1;
    }
    message.get(at).is_some_and(|&octet| octet != 0)
}

/// Whether the two possibly compressed names are the same, upper and lower case being equal (RFC 4343).
/// Both must have passed [`skip_name`].
#[must_use]
pub fn same_name(message: &[u8], a: usize, b: usize) -> bool {
    let (mut a, mut b) = (follow(message, a), follow(message, b));
    loop {
        if a == b {
            return true;
        }
        let (Some(&x), Some(&y)) = (message.get(a), message.get(b)) else {
            return false;
        };
        if x != y {
            return false;
        }
        if x == 0 {
            return true;
        }
        let length = usize::from(x);
        let label = |at: usize| message.get(at + 1..at + 1 + length);
        match (label(a), label(b)) {
            (Some(x), Some(y)) if x.eq_ignore_ascii_case(y) => {}
            _ => return false,
        }
        a = follow(message, a + 1 + length);
        b = follow(message, b + 1 + length);
    }
}

/// A hash that ignores case (RFC 4343). It is not keyed: anybody can choose two names that collide. The name must have
/// passed [`skip_name`].
#[must_use]
pub fn name_hash(message: &[u8], start: usize) -> u64 {
    let mut hasher = DefaultHasher::new();
    let mut at = follow(message, start);
    while let Some(&length @ 1..=63) = message.get(at) {
        let end = at + 1 + usize::from(length);
        let Some(label) = message.get(at..end) else {
            break;
        };
        // Length octets are below 'A', so that lower-casing leaves them alone.
        for octet in label {
            hasher.write_u8(octet.to_ascii_lowercase());
        }
        at = follow(message, end);
    }
    hasher.finish()
}

/// Follows pointers until a label; pointers of checked names lead strictly backwards.
fn follow(message: &[u8], mut at: usize) -> usize {
    while let Some(word) = u16_at(message, at) {
        if word < 0xc000 || usize::from(word & 0x3fff) >= at {
            break;
        }
        at = usize::from(word & 0x3fff);
    }
    at
}

/// The two high bits that tell a pointer from a label (RFC 1035 §4.1.4).
pub(super) const POINTER: u16 = 0xc000;
/// Pointers have 14 bits, so they cannot reach offsets from here on (RFC 1035 §4.1.4).
pub(super) const POINTER_REACH: usize = 1 << 14;

/// The labels of a possibly compressed name, with their length octets, without the root. It must have passed
/// [`skip_name`].
pub(super) fn labels(message: &[u8], start: usize) -> impl Iterator<Item = &[u8]> {
    let mut at = start;
    std::iter::from_fn(move || {
        let label = label(message, follow(message, at));
        at = follow(message, at) + label.len();
        (label.len() > 1).then_some(label)
    })
}

/// The label at `at`, with its length octet; empty if the message ends within it.
pub(super) fn label(message: &[u8], at: usize) -> &[u8] {
    let length = message.get(at).map_or(0, |&length| usize::from(length));
    message.get(at..=at + length).unwrap_or(&[])
}

/// The section a record stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// Answer.
    Answer,
    /// Authority.
    Authority,
    /// Additional.
    Additional,
}

/// Where one resource record's parts are (RFC 1035 §4.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Section it was found in.
    pub section: Section,
    /// Offset of its owner name.
    pub start: usize,
    /// TYPE.
    pub rtype: u16,
    /// CLASS.
    pub class: u16,
    /// Offset of its TTL; RDLENGTH follows at + 4, RDATA at + 6.
    pub ttl_at: usize,
    /// Offset after its RDATA.
    pub end: usize,
}

impl Record {
    /// Offset of RDATA.
    #[must_use]
    pub fn rdata_at(&self) -> usize {
        self.ttl_at + 6
    }

    fn read(message: &[u8], start: usize, section: Section) -> Result<Self, Malformed> {
        let fixed = skip_name(message, start)?;
        let length = usize::from(u16_at(message, fixed + 8).ok_or(Malformed)?);
        let end = fixed + 10 + length;
        if end > message.len() {
            return Err(Malformed);
        }
        Ok(Self {
            section,
            start,
            rtype: u16_at(message, fixed).ok_or(Malformed)?,
            class: u16_at(message, fixed + 2).ok_or(Malformed)?,
            ttl_at: fixed + 4,
            end,
        })
    }
}

/// All records after the question, in order. Ends after the first [`Malformed`].
#[derive(Debug)]
pub struct Records<'a> {
    message: &'a [u8],
    at: usize,
    left: [u16; 3],
}

impl<'a> Records<'a> {
    /// Starts at `question_end`.
    #[must_use]
    pub fn new(message: &'a [u8], question_end: usize, counts: Counts) -> Self {
        Self {
            message,
            at: question_end,
            left: [counts.answers, counts.authorities, counts.additionals],
        }
    }

    /// Offset after the records read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.at
    }
}

impl Iterator for Records<'_> {
    type Item = Result<Record, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        const SECTIONS: [Section; 3] = [Section::Answer, Section::Authority, Section::Additional];
        let index = self.left.iter().position(|&left| left > 0)?;
        let record = Record::read(self.message, self.at, SECTIONS[index]);
        match record {
            Ok(record) => {
                self.left[index] -= 1;
                self.at = record.end;
            }
            Err(Malformed) => self.left = [0; 3],
        }
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Header, then the given bytes.
    fn message(body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER_LEN];
        message.extend_from_slice(body);
        message
    }

    #[test]
    fn question_names_are_plain_and_short() {
        let long: Vec<u8> = [[63_u8; 64]; 4].concat();
        let fits = [&long[..192], &[61], &[b'a'; 61], &[0]].concat();
        let over = [&long[..192], &[62], &[b'a'; 62], &[0]].concat();
        for (name, body, want) in [
            ("root", vec![0], Some(1)),
            ("two labels", b"\x01a\x02bc\0".to_vec(), Some(6)),
            ("255 octets", fits, Some(255)),
            ("256 octets", over, None),
            ("pointer", vec![0xc0, 12], None),
            ("reserved label type", vec![0x40, 0], None),
            ("cut off in a label", b"\x05ab".to_vec(), None),
            ("no root", b"\x01a".to_vec(), None),
            ("nothing", vec![], None),
        ] {
            let got = skip_question_name(&message(&body), HEADER_LEN).ok();
            assert_eq!(got, want.map(|n: usize| n + HEADER_LEN), "{name}");
        }
    }

    #[test]
    fn compressed_names_lead_backwards_only() {
        for (name, body, start, want) in [
            ("plain", b"\x01a\0".to_vec(), 12, Some(15)),
            (
                "label then pointer",
                b"\x01a\0\x01b\xc0\x0c".to_vec(),
                15,
                Some(19),
            ),
            ("to itself", vec![0xc0, 12], 12, None),
            ("forward", vec![0xc0, 14, 0], 12, None),
            ("into the header", vec![0xc0, 0], 12, None),
            (
                "two that point at each other",
                vec![0xc0, 14, 0xc0, 12],
                14,
                None,
            ),
            ("label loop", b"\x01a\xc0\x0c".to_vec(), 12, None),
            ("cut-off pointer", vec![0, 0xc0], 13, None),
            (
                "to a name that runs past the pointer",
                b"\x05a\xc0\x0cbc\0".to_vec(),
                14,
                None,
            ),
        ] {
            assert_eq!(skip_name(&message(&body), start).ok(), want, "{name}");
        }
    }

    #[test]
    fn names_compare_through_pointers_and_case() {
        // 12: a.example  23: A.<example>  27: b.<example>
        let body = b"\x01a\x07example\0\x01A\xc0\x0e\x01b\xc0\x0e";
        let message = message(body);
        assert!(same_name(&message, 12, 23));
        assert!(!same_name(&message, 12, 27));
        assert!(!same_name(&message, 12, 14));
    }

    #[test]
    fn counts_that_lie_are_malformed() {
        let record = b"\0\x00\x01\x00\x01\0\0\0\x3c\x00\x04\x01\x02\x03\x04";
        let message = message(record);
        let counts = |answers| Counts {
            questions: 0,
            answers,
            authorities: 0,
            additionals: 0,
        };
        let one: Vec<_> = Records::new(&message, HEADER_LEN, counts(1)).collect();
        assert!(matches!(
            one[..],
            [Ok(Record {
                rtype: rr::A,
                end: 27,
                ..
            })]
        ));
        let two: Vec<_> = Records::new(&message, HEADER_LEN, counts(2)).collect();
        assert!(matches!(two[..], [Ok(_), Err(Malformed)]));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, start in 0_usize..64) {
            let _ = skip_question_name(&bytes, start);
            let _ = skip_name(&bytes, start);
            let _ = same_name(&bytes, start, start / 2);
            if let Ok(counts) = Counts::read(&bytes) {
                for record in Records::new(&bytes, HEADER_LEN, counts).flatten() {
                    assert!(record.end <= bytes.len());
                }
            }
        }
    }
}
