//! Messages as text: what a server says, and what a reply holds, so that a test shows both.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::common::dns::{
    Message, Record, Section, flag, header, opt, question_end, rcode, rr, u16_at, wire_name,
};

/// EDNS option codes (IANA, RFC 8914 §2).
const OPTION_EDE: u16 = 15;

/// A type by its name.
pub(crate) fn type_of(name: &str) -> u16 {
    match name {
        "A" => rr::A,
        "NS" => rr::NS,
        "CNAME" => rr::CNAME,
        "SOA" => rr::SOA,
        "PTR" => rr::PTR,
        "MX" => rr::MX,
        "TXT" => rr::TXT,
        "AAAA" => rr::AAAA,
        "SRV" => rr::SRV,
        "DS" => rr::DS,
        "RRSIG" => rr::RRSIG,
        "HTTPS" => rr::HTTPS,
        "DNAME" => rr::DNAME,
        _ => panic!("the tests do not know the type {name}"),
    }
}

/// A response to one query, written as text and sent as octets.
#[derive(Debug, Clone)]
pub(crate) struct Says {
    query: Vec<u8>,
    flags: u16,
    rcode: u16,
    sections: [Vec<Vec<u8>>; 3],
    /// Options of the OPT record, which is there if the query had one.
    options: Vec<u8>,
    with_opt: bool,
}

impl Says {
    /// `head` is a response code, then bits to set (`aa`, `tc`, `ad`); RA is set unless `-ra` stands there.
    pub(crate) fn new(query: &[u8], head: &str) -> Self {
        let mut words = head.split(' ');
        let rcode = match words.next().expect("split gives at least one") {
            "NOERROR" => rcode::NOERROR,
            "FORMERR" => rcode::FORMERR,
            "SERVFAIL" => rcode::SERVFAIL,
            "NXDOMAIN" => rcode::NXDOMAIN,
            "NOTIMP" => rcode::NOTIMP,
            "REFUSED" => rcode::REFUSED,
            "BADVERS" => rcode::BADVERS,
            other => panic!("{other} is no response code of the tests"),
        };
        let mut flags = flag::QR | flag::RA | u16_at(query, 2).expect("a header") & flag::RD;
        for word in words {
            match word {
                "aa" => flags |= flag::AA,
                "tc" => flags |= flag::TC,
                "ad" => flags |= flag::AD,
                "-ra" => flags &= !flag::RA,
                other => panic!("{other} is no header bit of the tests"),
            }
        }
        let with_opt = u16_at(query, 10) > Some(0);
        let (query, sections, options) = (query.to_vec(), Default::default(), Vec::new());
        Self {
            query,
            flags,
            rcode,
            sections,
            options,
            with_opt,
        }
    }

    /// A record of the answer section, such as `@ 300 A 192.0.2.1`: `@` is a pointer to the question's name, other
    /// names are written out.
    pub(crate) fn answer(self, record: &str) -> Self {
        self.record(0, record)
    }

    pub(crate) fn authority(self, record: &str) -> Self {
        self.record(1, record)
    }

    fn record(mut self, section: usize, record: &str) -> Self {
        self.sections[section].push(record_of(record));
        self
    }

    /// A record of the answer section as octets.
    pub(crate) fn raw(mut self, record: Vec<u8>) -> Self {
        self.sections[0].push(record);
        self
    }

    /// With an extended error (RFC 8914).
    pub(crate) fn ede(self, code: u16) -> Self {
        self.ede_text(code, b"")
    }

    /// The same with a text.
    pub(crate) fn ede_text(mut self, code: u16, text: &[u8]) -> Self {
        let length = u16::try_from(text.len() + 2).expect("short");
        for word in [OPTION_EDE, length, code] {
            self.options.extend_from_slice(&word.to_be_bytes());
        }
        self.options.extend_from_slice(text);
        self
    }

    /// Without OPT, whatever the query had.
    pub(crate) fn without_opt(mut self) -> Self {
        self.with_opt = false;
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let count = |section: usize| u16::try_from(self.sections[section].len()).expect("few");
        let additional = count(2) + u16::from(self.with_opt);
        let counts = [1, count(0), count(1), additional];
        let id = u16_at(&self.query, 0).expect("a header");
        let mut message = header(id, self.flags | self.rcode & flag::RCODE, counts);
        message.extend_from_slice(&self.query[12..question_end(&self.query)]);
        message.extend(self.sections.iter().flatten().flatten());
        if self.with_opt {
            let mut opt = opt(1232, 0, false);
            opt[5] = (self.rcode >> 4).to_be_bytes()[1];
            let length = u16::try_from(self.options.len()).expect("short");
            opt[9..].copy_from_slice(&length.to_be_bytes());
            message.extend_from_slice(&opt);
            message.extend_from_slice(&self.options);
        }
        message
    }
}

/// A record from its text: owner, TTL, type, RDATA. SOA is written as its MINIMUM alone, RRSIG as the type it covers.
fn record_of(text: &str) -> Vec<u8> {
    let words: Vec<&str> = text.split(' ').collect();
    let [owner, ttl, rtype, rdata @ ..] = &words[..] else {
        panic!("{text}: owner, TTL, type, RDATA");
    };
    let mut record = if *owner == "@" {
        vec![0xc0, 12]
    } else {
        wire_name(owner)
    };
    let rtype = type_of(rtype);
    record.extend_from_slice(&rtype.to_be_bytes());
    record.extend_from_slice(&rr::CLASS_IN.to_be_bytes());
    let ttl: u32 = ttl.parse().expect("a TTL in seconds");
    record.extend_from_slice(&ttl.to_be_bytes());
    let rdata = rdata_of(rtype, rdata);
    let length = u16::try_from(rdata.len()).expect("fits RDLENGTH");
    record.extend_from_slice(&length.to_be_bytes());
    record.extend_from_slice(&rdata);
    record
}

fn rdata_of(rtype: u16, words: &[&str]) -> Vec<u8> {
    let number = |text: &str| text.parse::<u16>().expect("a number").to_be_bytes();
    match (rtype, words) {
        (rr::A, [address]) => {
            let address: Ipv4Addr = address.parse().expect("an IPv4 address");
            address.octets().to_vec()
        }
        (rr::AAAA, [address]) => {
            let address: Ipv6Addr = address.parse().expect("an IPv6 address");
            address.octets().to_vec()
        }
        (rr::NS | rr::CNAME | rr::PTR | rr::DNAME, [name]) => wire_name(name),
        (rr::MX, [preference, name]) => [&number(preference)[..], &wire_name(name)].concat(),
        (rr::SRV, [priority, weight, port, name]) => {
            let numbers = [priority, weight, port].map(|word| number(word));
            [numbers.concat(), wire_name(name)].concat()
        }
        (rr::SOA, [minimum]) => {
            let minimum: u32 = minimum.parse().expect("seconds");
            let names = [wire_name("ns.example."), wire_name("host.example.")].concat();
            let numbers = [1, 7200, 900, 86_400, minimum].map(u32::to_be_bytes);
            [names, numbers.concat()].concat()
        }
        (rr::TXT, [text]) => {
            let length = u8::try_from(text.len()).expect("one string");
            [&[length], text.as_bytes()].concat()
        }
        (rr::DS, [tag]) => [&number(tag)[..], &[13, 2], &[0xd5; 32]].concat(),
        (rr::RRSIG, [covered]) => {
            let fixed = [&type_of(covered).to_be_bytes()[..], &[13, 2], &[0; 14]].concat();
            [fixed, wire_name("example."), vec![0x51; 64]].concat()
        }
        _ => panic!("TYPE{rtype} {words:?}: not written in the tests so far"),
    }
}

/// A reply in a line: response code, then the RDATA of the answer section's records in order of their octets:
/// addresses as such, of other types only the name of the type.
pub(crate) fn gist(reply: &Message) -> String {
    let mut answers: Vec<&Record> = reply.section(Section::Answer).collect();
    answers.sort_by_key(|record| (record.rtype, &record.rdata));
    let mut text = rcode_name(reply.rcode());
    for record in answers {
        write!(text, " {}", rdata_text(record)).expect("grows");
    }
    text
}

fn rcode_name(code: u16) -> String {
    match code {
        rcode::NOERROR => "NOERROR".to_owned(),
        rcode::FORMERR => "FORMERR".to_owned(),
        rcode::SERVFAIL => "SERVFAIL".to_owned(),
        rcode::NXDOMAIN => "NXDOMAIN".to_owned(),
        rcode::NOTIMP => "NOTIMP".to_owned(),
        rcode::REFUSED => "REFUSED".to_owned(),
        rcode::BADVERS => "BADVERS".to_owned(),
        other => format!("RCODE{other}"),
    }
}

/// An address, or the type.
pub(crate) fn rdata_text(record: &Record) -> String {
    let v4: Result<[u8; 4], _> = record.rdata[..].try_into();
    let v6: Result<[u8; 16], _> = record.rdata[..].try_into();
    match (record.rtype, v4, v6) {
        (rr::A, Ok(octets), _) => Ipv4Addr::from(octets).to_string(),
        (rr::AAAA, _, Ok(octets)) => Ipv6Addr::from(octets).to_string(),
        (rr::CNAME, ..) => "CNAME".to_owned(),
        (rr::DNAME, ..) => "DNAME".to_owned(),
        (rr::DS, ..) => "DS".to_owned(),
        (rr::PTR, ..) => "PTR".to_owned(),
        (rr::TXT, ..) => "TXT".to_owned(),
        (rr::MX, ..) => "MX".to_owned(),
        (rr::SRV, ..) => "SRV".to_owned(),
        (rr::RRSIG, ..) => "RRSIG".to_owned(),
        (other, ..) => format!("TYPE{other}"),
    }
}

/// The extended errors of a reply: codes with their texts.
pub(crate) fn extended_errors(reply: &Message) -> Vec<(u16, String)> {
    let mut options = reply.opt.as_ref().map_or(&[][..], |opt| &opt.options);
    let mut errors = Vec::new();
    while let (Some(code), Some(length)) = (u16_at(options, 0), u16_at(options, 2)) {
        let end = 4 + usize::from(length);
        if code == OPTION_EDE {
            let info = u16_at(options, 4).expect("an info code");
            errors.push((info, String::from_utf8_lossy(&options[6..end]).into_owned()));
        }
        options = &options[end..];
    }
    errors
}
