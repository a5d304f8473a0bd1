//! DNS messages as bytes (RFC 1035 §4). They are written by hand, so that they can be malformed, too. The tests have a parser
//! of their own, because errors of the program's parser would not show in messages that it reads itself.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};

use super::PATIENCE;

/// Record types and classes that the tests name (IANA DNS parameters).
pub(crate) mod rr {
    pub(crate) const A: u16 = 1;
    pub(crate) const NS: u16 = 2;
    pub(crate) const CNAME: u16 = 5;
    pub(crate) const SOA: u16 = 6;
    pub(crate) const PTR: u16 = 12;
    pub(crate) const MX: u16 = 15;
    pub(crate) const TXT: u16 = 16;
    pub(crate) const AAAA: u16 = 28;
    pub(crate) const SRV: u16 = 33;
    pub(crate) const DNAME: u16 = 39;
    pub(crate) const OPT: u16 = 41;
    pub(crate) const DS: u16 = 43;
    pub(crate) const RRSIG: u16 = 46;
    pub(crate) const DNSKEY: u16 = 48;
    pub(crate) const NSEC3: u16 = 50;
    pub(crate) const HTTPS: u16 = 65;
    pub(crate) const TSIG: u16 = 250;
    pub(crate) const IXFR: u16 = 251;
    pub(crate) const AXFR: u16 = 252;
    pub(crate) const ANY: u16 = 255;
    pub(crate) const CAA: u16 = 257;
    /// The first type of the range for private use.
    pub(crate) const PRIVATE: u16 = 65_280;
    pub(crate) const CLASS_IN: u16 = 1;
    pub(crate) const CLASS_CH: u16 = 3;
}

/// Header bits.
pub(crate) mod flag {
    pub(crate) const QR: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const AA: u16 = 0x0400;
    pub(crate) const TC: u16 = 0x0200;
    pub(crate) const RD: u16 = 0x0100;
    pub(crate) const RA: u16 = 0x0080;
    pub(crate) const AD: u16 = 0x0020;
    pub(crate) const CD: u16 = 0x0010;
    pub(crate) const RCODE: u16 = 0x000f;
}

/// Response codes.
pub(crate) mod rcode {
    pub(crate) const NOERROR: u16 = 0;
    pub(crate) const FORMERR: u16 = 1;
    pub(crate) const SERVFAIL: u16 = 2;
    pub(crate) const NXDOMAIN: u16 = 3;
    pub(crate) const NOTIMP: u16 = 4;
    pub(crate) const REFUSED: u16 = 5;
    pub(crate) const BADVERS: u16 = 16;
}

/// The transport of a query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Over {
    Udp,
    Tcp,
}

/// A name in wire format, spelt as given.
pub(crate) fn wire_name(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("a label"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// A query to be asked.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    pub(crate) name: String,
    pub(crate) qtype: u16,
    pub(crate) qclass: u16,
    /// Payload size and whether DO is set.
    pub(crate) edns: Option<(u16, bool)>,
}

impl Ask {
    /// As a stub resolver asks: recursion desired, no EDNS.
    pub(crate) fn new(name: &str, qtype: u16) -> Self {
        Self {
            id: fastrand::u16(..),
            flags: flag::RD,
            name: name.to_owned(),
            qtype,
            qclass: rr::CLASS_IN,
            edns: None,
        }
    }

    /// With EDNS and this payload size.
    pub(crate) fn payload(mut self, octets: u16) -> Self {
        self.edns = Some((octets, self.edns.is_some_and(|(_, dnssec_ok)| dnssec_ok)));
        self
    }

    /// With DO set.
    pub(crate) fn dnssec_ok(mut self) -> Self {
        self.edns = Some((self.edns.map_or(1232, |(octets, _)| octets), true));
        self
    }

    /// With exactly these header bits.
    pub(crate) fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub(crate) fn class(mut self, class: u16) -> Self {
        self.qclass = class;
        self
    }

    /// The same question under another ID.
    pub(crate) fn again(&self) -> Self {
        Self {
            id: self.id.wrapping_add(1),
            ..self.clone()
        }
    }

    /// QNAME, QTYPE and QCLASS.
    pub(crate) fn question(&self) -> Vec<u8> {
        let mut question = wire_name(&self.name);
        question.extend_from_slice(&self.qtype.to_be_bytes());
        question.extend_from_slice(&self.qclass.to_be_bytes());
        question
    }

    pub(crate) fn message(&self) -> Vec<u8> {
        let mut message = header(
            self.id,
            self.flags,
            [1, 0, 0, u16::from(self.edns.is_some())],
        );
        message.extend_from_slice(&self.question());
        if let Some((payload, dnssec_ok)) = self.edns {
            message.extend_from_slice(&opt(payload, 0, dnssec_ok));
        }
        message
    }

    /// Sends the query and reads the reply. Fails unless the reply has the query's ID and its question, spelt as in the query.
    pub(crate) fn send(&self, server: SocketAddr, over: Over) -> Message {
        let what = || format!("{self:?} to {server} over {over:?}");
        let reply = exchange(server, over, &self.message());
        let reply = reply.unwrap_or_else(|error| panic!("{}: {error}", what()));
        let message = Message::read(&reply).unwrap_or_else(|error| panic!("{}: {error}", what()));
        assert_eq!(message.id, self.id, "ID of the reply to {}", what());
        assert_ne!(message.flags & flag::QR, 0, "QR of the reply to {}", what());
        assert_eq!(
            message.question,
            self.question(),
            "question in the reply to {}",
            what()
        );
        message
    }
}

/// The first twelve octets of a message.
pub(crate) fn header(id: u16, flags: u16, counts: [u16; 4]) -> Vec<u8> {
    let words = [id, flags].into_iter().chain(counts);
    words.flat_map(u16::to_be_bytes).collect()
}

/// An OPT record without options (RFC 6891 §6.1).
pub(crate) fn opt(payload: u16, version: u8, dnssec_ok: bool) -> Vec<u8> {
    let [high, low] = payload.to_be_bytes();
    vec![
        0,
        0,
        41,
        high,
        low,
        0,
        version,
        u8::from(dnssec_ok) << 7,
        0,
        0,
        0,
    ]
}

/// A record whose owner is the name at offset 12, which is the question's.
pub(crate) fn record(rtype: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let mut record = vec![0xc0, 12];
    record.extend_from_slice(&rtype.to_be_bytes());
    record.extend_from_slice(&rr::CLASS_IN.to_be_bytes());
    record.extend_from_slice(&ttl.to_be_bytes());
    record.extend_from_slice(
        &u16::try_from(rdata.len())
            .expect("fits RDLENGTH")
            .to_be_bytes(),
    );
    record.extend_from_slice(rdata);
    record
}

/// Offset after the question of a query that has one.
pub(crate) fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += usize::from(message[at]) + 1;
    }
    at + 5
}

/// A response to `query` with these records in its answer section; NOERROR, authoritative.
pub(crate) fn response(query: &[u8], answers: &[Vec<u8>]) -> Vec<u8> {
    let count = u16::try_from(answers.len()).expect("few answers");
    let flags = flag::QR | flag::AA | u16_at(query, 2).expect("a header") & flag::RD;
    let mut message = header(u16_at(query, 0).expect("a header"), flags, [1, count, 0, 0]);
    message.extend_from_slice(&query[12..question_end(query)]);
    message.extend(answers.iter().flatten());
    message
}

/// A response to `query` without records.
pub(crate) fn failure(query: &[u8], rcode: u16) -> Vec<u8> {
    let mut message = response(query, &[]);
    message[3] |= rcode.to_be_bytes()[1];
    message
}

/// Sends one message and reads one message.
pub(crate) fn exchange(server: SocketAddr, over: Over, message: &[u8]) -> io::Result<Vec<u8>> {
    match over {
        Over::Udp => {
            let socket = udp_to(server)?;
            socket.send(message)?;
            receive(&socket)
        }
        Over::Tcp => {
            let mut stream = tcp_to(server)?;
            send_frame(&mut stream, message)?;
            read_frame(&mut stream)
        }
    }
}

/// A UDP socket connected to `server`.
pub(crate) fn udp_to(server: SocketAddr) -> io::Result<UdpSocket> {
    let any = if server.is_ipv4() {
        "127.0.0.1:0"
    } else {
        "[::1]:0"
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(server)?;
    Ok(socket)
}

/// Reads one datagram.
pub(crate) fn receive(socket: &UdpSocket) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 65_535];
    loop {
        match socket.recv(&mut buffer) {
            // A signal: with a timeout, the kernel does not resume the call (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            received => {
                buffer.truncate(received?);
                return Ok(buffer);
            }
        }
    }
}

/// A TCP connection to `server`.
pub(crate) fn tcp_to(server: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Writes a message with its length in front (RFC 1035 §4.2.2).
pub(crate) fn send_frame(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).expect("fits a frame");
    stream.write_all(&[&length.to_be_bytes(), message].concat())?;
    stream.flush()
}

/// Reads a message with its length in front.
pub(crate) fn read_frame(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// A message, taken apart.
#[derive(Clone)]
pub(crate) struct Message {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// QNAME, QTYPE and QCLASS as they came; empty if there was no question.
    pub(crate) question: Vec<u8>,
    /// All records but OPT, in order.
    pub(crate) records: Vec<Record>,
    pub(crate) opt: Option<Opt>,
    /// Octets of the whole message.
    pub(crate) length: usize,
    /// Octets after the last record.
    pub(crate) trailing: usize,
}

/// An OPT record (RFC 6891 §6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Opt {
    pub(crate) payload: u16,
    pub(crate) version: u8,
    pub(crate) dnssec_ok: bool,
    pub(crate) options: Vec<u8>,
    extended_rcode: u8,
}

/// A record with each compressed name written out and in lower case, so that equal records with different spellings compare as
/// equal.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) section: Section,
    pub(crate) owner: Vec<u8>,
    pub(crate) rtype: u16,
    pub(crate) class: u16,
    pub(crate) ttl: u32,
    pub(crate) rdata: Vec<u8>,
    /// Octets it took in the message.
    pub(crate) length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Section {
    Answer,
    Authority,
    Additional,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            section,
            rtype,
            class,
            ttl,
            ..
        } = self;
        let owner = self.owner.escape_ascii();
        write!(
            f,
            "{section:?}: {owner} {ttl} CLASS{class} TYPE{rtype} {}",
            self.rdata.escape_ascii()
        )
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            flags,
            length,
            trailing,
            ..
        } = self;
        write!(
            f,
            "{length} octets, {trailing} of them after the last record; "
        )?;
        writeln!(f, "ID {id}, flags {flags:#06x}, RCODE {}", self.rcode())?;
        writeln!(f, "Question: {}", self.question.escape_ascii())?;
        for record in &self.records {
            writeln!(f, "{record:?}")?;
        }
        writeln!(f, "{:?}", self.opt)
    }
}

impl Message {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        let cut_off = || format!("cut off: {}", bytes.escape_ascii());
        let word = |at| u16_at(bytes, at).ok_or_else(cut_off);
        let counts = [word(6)?, word(8)?, word(10)?];
        let mut at = 12;
        for _ in 0..word(4)? {
            at = read_name(bytes, at)?.1 + 4;
        }
        let question = bytes.get(12..at).ok_or_else(cut_off)?.to_vec();
        let sections = [Section::Answer, Section::Authority, Section::Additional];
        let (mut records, mut opt) = (Vec::new(), None);
        for (section, count) in sections.into_iter().zip(counts) {
            for _ in 0..count {
                let record = Record::read(bytes, at, section)?;
                at += record.length;
                if record.rtype == rr::OPT {
                    opt = Some(Opt::of(record));
                } else {
                    records.push(record);
                }
            }
        }
        Ok(Self {
            id: word(0)?,
            flags: word(2)?,
            question,
            records,
            opt,
            length: bytes.len(),
            trailing: bytes.len() - at,
        })
    }

    /// The response code with the bits that OPT adds.
    pub(crate) fn rcode(&self) -> u16 {
        let high = self
            .opt
            .as_ref()
            .map_or(0, |opt| u16::from(opt.extended_rcode) << 4);
        self.flags & flag::RCODE | high
    }

    pub(crate) fn opcode(&self) -> u16 {
        (self.flags & flag::OPCODE) >> 11
    }

    pub(crate) fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// Records of one section.
    pub(crate) fn section(&self, section: Section) -> impl Iterator<Item = &Record> {
        self.records
            .iter()
            .filter(move |record| record.section == section)
    }

    pub(crate) fn count(&self, section: Section) -> usize {
        self.section(section).count()
    }

    pub(crate) fn has_type(&self, rtype: u16) -> bool {
        self.records.iter().any(|record| record.rtype == rtype)
    }

    /// The records, with those that are addresses sorted among themselves.
    pub(crate) fn sorted_addresses(&self) -> Vec<Record> {
        let is_address = |record: &&Record| matches!(record.rtype, rr::A | rr::AAAA);
        let mut addresses: Vec<_> = self.records.iter().filter(is_address).cloned().collect();
        addresses.sort();
        let mut addresses = addresses.into_iter();
        let place = |record: &Record| {
            if is_address(&record) {
                addresses.next().expect("as many as there were")
            } else {
                record.clone()
            }
        };
        self.records.iter().map(place).collect()
    }
}

impl Opt {
    fn of(record: Record) -> Self {
        let [extended_rcode, version, flags, _] = record.ttl.to_be_bytes();
        Self {
            payload: record.class,
            version,
            dnssec_ok: flags & 0x80 != 0,
            options: record.rdata,
            extended_rcode,
        }
    }
}

impl Record {
    fn read(message: &[u8], start: usize, section: Section) -> Result<Self, String> {
        let (owner, at) = read_name(message, start)?;
        let cut_off = || format!("cut off after {start}: {}", message.escape_ascii());
        let word = |at| u16_at(message, at).ok_or_else(cut_off);
        let (rtype, rdata_at) = (word(at)?, at + 10);
        let end = rdata_at + usize::from(word(at + 8)?);
        let raw = message.get(rdata_at..end).ok_or_else(cut_off)?;
        Ok(Self {
            section,
            owner,
            rtype,
            class: word(at + 2)?,
            ttl: u32::from(word(at + 4)?) << 16 | u32::from(word(at + 6)?),
            rdata: expanded(message, rtype, rdata_at, raw)?,
            length: end - start,
        })
    }
}

/// RDATA with its names written out. Only types of RFC 1035 may have compressed names (RFC 3597 §4). DNAME and SRV are read in
/// the same way, because some servers compress them.
fn expanded(message: &[u8], rtype: u16, at: usize, raw: &[u8]) -> Result<Vec<u8>, String> {
    let (before, names) = match rtype {
        rr::NS | rr::CNAME | rr::PTR | rr::DNAME => (0, 1),
        rr::MX => (2, 1),
        rr::SRV => (6, 1),
        rr::SOA => (0, 2),
        _ => return Ok(raw.to_vec()),
    };
    let end = at + raw.len();
    let mut out = raw.get(..before).ok_or("RDATA too short")?.to_vec();
    let mut at = at + before;
    for _ in 0..names {
        let (name, next) = read_name(message, at)?;
        out.extend_from_slice(&name);
        at = next;
    }
    out.extend_from_slice(message.get(at..end).ok_or("a name that leaves its RDATA")?);
    Ok(out)
}

/// The name at `at`, written out and lower-cased, and the offset after it.
fn read_name(message: &[u8], mut at: usize) -> Result<(Vec<u8>, usize), String> {
    let (mut name, mut end) = (Vec::new(), None);
    while name.len() < 255 {
        let length = *message.get(at).ok_or("a name that is cut off")?;
        match length {
            0 => {
                name.push(0);
                return Ok((name, end.unwrap_or(at + 1)));
            }
            1..=63 => {
                let label = at..at + 1 + usize::from(length);
                at = label.end;
                let label = message.get(label).ok_or("a label that is cut off")?;
                name.extend(label.iter().map(u8::to_ascii_lowercase));
            }
            _ => {
                end = end.or(Some(at + 2));
                let target = u16_at(message, at).ok_or("a pointer that is cut off")? & 0x3fff;
                if usize::from(target) >= at {
                    return Err("a pointer that does not lead backwards".to_owned());
                }
                at = usize::from(target);
            }
        }
    }
    Err("a name over 255 octets".to_owned())
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..at + 2)?;
    Some(u16::from_be_bytes([pair[0], pair[1]]))
}
