//! The DNS messages of the suite, built and read by hand (RFC 1035 §4, RFC 6891, RFC 8914): a third opinion beside the
//! product's own code and hickory's. Every name has one right address, derived from the name itself, so that an answer
//! to another question, or one made up by a faulty server, is known for what it is.

use std::net::Ipv4Addr;

pub(crate) const A: u16 = 1;
pub(crate) const NS: u16 = 2;
pub(crate) const AAAA: u16 = 28;
pub(crate) const FORMERR: u8 = 1;
pub(crate) const SERVFAIL: u8 = 2;
pub(crate) const NXDOMAIN: u8 = 3;
pub(crate) const REFUSED: u8 = 5;

const SOA: u16 = 6;
const OPT: u16 = 41;
const IN: u16 = 1;
/// RFC 8914 §2: the option code of extended errors.
const EDE: u16 = 15;
const HEADER_LEN: usize = 12;

/// The one right address of a name (FNV-1a over its lower-cased wire form), within 10.0.0.0/8.
pub(crate) fn address_of(name: &[u8]) -> Ipv4Addr {
    let hash = name.iter().fold(0x811c_9dc5_u32, |hash, octet| {
        (hash ^ u32::from(octet.to_ascii_lowercase())).wrapping_mul(0x0100_0193)
    });
    let [_, b, c, d] = hash.to_be_bytes();
    Ipv4Addr::new(10, b, c, d)
}

/// A name of dot-separated labels in wire form.
pub(crate) fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("labels of the suite are short"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

fn put(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn u16_at(message: &[u8], at: usize) -> Option<u16> {
    let bytes = message.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

fn u32_at(message: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16_at(message, at)?) << 16 | u32::from(u16_at(message, at + 2)?))
}

/// A client's query for records of `name` (wire form), with RD and an OPT of 1232 octets.
pub(crate) fn query(id: u16, name: &[u8], qtype: u16, out: &mut Vec<u8>) {
    out.clear();
    for value in [id, 0x0100, 1, 0, 0, 1] {
        put(out, value);
    }
    out.extend_from_slice(name);
    put(out, qtype);
    put(out, IN);
    // RFC 6891 §6.1.2: root, OPT, payload, extended flags, no options.
    out.push(0);
    put(out, OPT);
    put(out, 1232);
    out.extend_from_slice(&[0; 6]);
}

/// A query as an upstream server reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) id: u16,
    pub(crate) name: &'a [u8],
    pub(crate) qtype: u16,
    pub(crate) edns: bool,
    /// QNAME, QTYPE and QCLASS.
    section: &'a [u8],
}

impl<'a> Asked<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Option<Self> {
        let flags = u16_at(message, 2)?;
        if flags & 0x8000 != 0 || u16_at(message, 4)? != 1 {
            return None;
        }
        let end = skip_name(message, HEADER_LEN)?;
        Some(Self {
            id: u16_at(message, 0)?,
            name: &message[HEADER_LEN..end],
            qtype: u16_at(message, end)?,
            edns: u16_at(message, 10)? > 0,
            section: message.get(HEADER_LEN..end + 4)?,
        })
    }

    fn header(&self, flags: u16, counts: [u16; 4], out: &mut Vec<u8>) {
        out.clear();
        put(out, self.id);
        put(out, flags);
        for count in counts {
            put(out, count);
        }
        out.extend_from_slice(self.section);
    }

    /// The right answer: the name's address; ". NS" gets a name server, any other type NODATA.
    pub(crate) fn answer(&self, ttl: u32, out: &mut Vec<u8>) {
        match self.qtype {
            A => {
                self.header(0x8180, [1, 1, 0, 0], out);
                put_record(out, A, ttl, &address_of(self.name).octets());
            }
            NS if self.name == [0] => {
                self.header(0x8180, [1, 1, 0, 0], out);
                put_record(out, NS, ttl, b"\x02ns\x04root\0");
            }
            _ => self.negative(0, ttl, out),
        }
    }

    /// NODATA (code 0) or NXDOMAIN with an SOA (RFC 2308 §2).
    pub(crate) fn negative(&self, code: u8, ttl: u32, out: &mut Vec<u8>) {
        self.header(0x8180 | u16::from(code), [1, 0, 1, 0], out);
        let mut data = b"\x02ns\0\x04host\0".to_vec();
        for value in [1, 3600, 600, 86400, ttl] {
            data.extend_from_slice(&value.to_be_bytes());
        }
        put_record(out, SOA, ttl, &data);
    }

    /// An empty response with this code.
    pub(crate) fn code(&self, code: u8, out: &mut Vec<u8>) {
        self.header(0x8180 | u16::from(code), [1, 0, 0, 0], out);
    }

    /// TC and nothing else.
    pub(crate) fn truncated(&self, out: &mut Vec<u8>) {
        self.header(0x8380, [1, 0, 0, 0], out);
    }

    /// The right answer to another name, whose question it repeats.
    pub(crate) fn wrong_question(&self, ttl: u32, out: &mut Vec<u8>) {
        let other = wire_name("wrong.question.example");
        let mut section = other.clone();
        section.extend_from_slice(&self.section[self.name.len()..]);
        let wrong = Asked {
            name: &other,
            section: &section,
            ..*self
        };
        wrong.answer(ttl, out);
    }

    /// The right answer under counts that promise a thousand records.
    pub(crate) fn lying_counts(&self, ttl: u32, out: &mut Vec<u8>) {
        self.answer(ttl, out);
        out[6..8].copy_from_slice(&1000_u16.to_be_bytes());
        out[10..12].copy_from_slice(&u16::MAX.to_be_bytes());
    }

    /// An answer whose owner name is a pointer to itself (RFC 1035 §4.1.4 allows only prior names).
    pub(crate) fn compression_loop(&self, ttl: u32, out: &mut Vec<u8>) {
        self.header(0x8180, [1, 1, 0, 0], out);
        let here = u16::try_from(out.len()).expect("a query's length");
        put(out, 0xc000 | here);
        put(out, A);
        put(out, IN);
        out.extend_from_slice(&ttl.to_be_bytes());
        put(out, 4);
        out.extend_from_slice(&address_of(self.name).octets());
    }
}

/// A record whose owner is the question's name.
fn put_record(out: &mut Vec<u8>, record_type: u16, ttl: u32, data: &[u8]) {
    put(out, 0xc00c);
    put(out, record_type);
    put(out, IN);
    out.extend_from_slice(&ttl.to_be_bytes());
    put(out, u16::try_from(data.len()).expect("short data"));
    out.extend_from_slice(data);
}

/// What a client makes of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// NOERROR with exactly the name's address.
    Right,
    /// NOERROR, but not that: somebody else's records, or none.
    Wrong,
    /// Another response code.
    Code(u8),
}

/// A reply as a client reads it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reply {
    pub(crate) outcome: Outcome,
    /// The first extended error's INFO-CODE.
    pub(crate) error: Option<u16>,
}

/// Reads a reply to the query for `name`; none if it is no well-formed reply to that question.
pub(crate) fn read_reply(message: &[u8], name: &[u8], qtype: u16) -> Option<Reply> {
    let flags = u16_at(message, 2)?;
    if flags & 0x8000 == 0 || u16_at(message, 4)? != 1 {
        return None;
    }
    let mut at = skip_name(message, HEADER_LEN)?;
    if !message[HEADER_LEN..at].eq_ignore_ascii_case(name) || u16_at(message, at)? != qtype {
        return None;
    }
    at += 4;
    let answers = u16_at(message, 6)?;
    let all = u32::from(answers) + u32::from(u16_at(message, 8)?) + u32::from(u16_at(message, 10)?);
    let mut addresses = Vec::new();
    let (mut error, mut high) = (None, 0);
    for number in 0..all {
        at = skip_name(message, at)?;
        let (record_type, ttl) = (u16_at(message, at)?, u32_at(message, at + 4)?);
        let length = usize::from(u16_at(message, at + 8)?);
        let data = message.get(at + 10..at + 10 + length)?;
        at += 10 + length;
        match record_type {
            A if number < u32::from(answers) => addresses.push(data),
            OPT => {
                high = ttl >> 24;
                error = extended_error(data);
            }
            _ => {}
        }
    }
    let code = u8::try_from(high << 4).unwrap_or(u8::MAX) | (flags & 15) as u8;
    let right = address_of(name).octets();
    let outcome = match code {
        0 if addresses == [&right[..]] => Outcome::Right,
        0 => Outcome::Wrong,
        code => Outcome::Code(code),
    };
    Some(Reply { outcome, error })
}

fn extended_error(options: &[u8]) -> Option<u16> {
    let mut at = 0;
    while let (Some(code), Some(length)) = (u16_at(options, at), u16_at(options, at + 2)) {
        if code == EDE {
            return u16_at(options, at + 4);
        }
        at += 4 + usize::from(length);
    }
    None
}

/// The offset after a name, compressed or not.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0..=0xff => return (at + 2 <= message.len()).then_some(at + 2),
            _ => return None,
        }
    }
}
