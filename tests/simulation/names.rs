//! The content of made-up names, at each time of a run. Servers answer with it, and clients' replies are compared with it.

use std::fmt::Write as _;

use crate::run::Kind;
use crate::world::{Event, Micros, Net, SECOND};

/// Numbers of groups of servers. Each group has content of its own for a name, and an answer tells its group.
pub(crate) const KUBE: u8 = 0;
pub(crate) const VPC: u8 = 1;
pub(crate) const OTHER: u8 = 2;

pub(crate) const COUNT: usize = 1_500;

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;

/// TTLs of names, in seconds.
const TTLS: [u32; 6] = [0, 1, 5, 10, 30, 60];

/// Average time between changes of any name. A few names that are asked most often change often; each other name changes
/// rarely.
const CHANGE: Micros = SECOND / 40;
const RESTLESS: usize = 12;

/// All names and their content.
pub(crate) struct Names {
    /// For each name, the times of its changes.
    changes: Vec<Vec<Micros>>,
    wires: Vec<Vec<u8>>,
    salt: u64,
    shift: usize,
    /// Whether routes have several tiers. Later tiers have other content for a name.
    tiers: bool,
}

/// The content of a name at one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    NoSuchName,
    NoSuchRecord,
    Addresses(u8),
}

/// The zone of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Zone {
    Cluster,
    /// The zone's route changes during a run.
    Moving,
    Rest,
}

/// One version of a name's content: the group that has it, the name, and the number of changes before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) group: u8,
    pub(crate) name: usize,
    pub(crate) version: usize,
}

impl Word {
    /// The word as a number, which stands in an IPv4 address, the end of an IPv6 address, or a SOA's serial number.
    pub(crate) fn number(self) -> u32 {
        let (name, version) = (
            u32::try_from(self.name),
            u32::try_from(self.version % (1 << 14)),
        );
        u32::from(self.group) << 28 | name.expect("few names") << 14 | version.expect("masked")
    }

    pub(crate) fn read(number: u32) -> Self {
        Self {
            group: u8::try_from(number >> 28).expect("four bits"),
            name: (number >> 14 & 0x3fff) as usize,
            version: (number & 0x3fff) as usize,
        }
    }
}

impl Names {
    pub(crate) fn new(net: &mut Net, kind: Kind) -> Self {
        net.after(CHANGE, Event::NameChange);
        let wires = (0..COUNT).map(|name| wire(&text(name))).collect();
        Self {
            changes: vec![Vec::new(); COUNT],
            wires,
            salt: net.random.u64(..),
            shift: net.random.usize(..TTLS.len()),
            tiers: kind == Kind::Outages,
        }
    }

    pub(crate) fn change(&mut self, net: &mut Net) {
        // Names that are asked often change often, so that a late answer is soon outdated.
        let name = if net.random.bool() {
            net.random.usize(..RESTLESS)
        } else {
            net.random.usize(..COUNT).min(net.random.usize(..COUNT))
        };
        self.changes[name].push(net.now);
        net.trace.line(|| {
            format!(
                "{:.6} {} changes to {:?}",
                crate::world::seconds(net.now),
                text(name),
                self.version(name)
            )
        });
        let pause = net.about(CHANGE);
        net.after(pause, Event::NameChange);
    }

    pub(crate) fn wire(&self, name: usize) -> &[u8] {
        &self.wires[name]
    }

    /// The name of a question section, in any case.
    pub(crate) fn find(&self, wire: &[u8]) -> Option<usize> {
        let label = wire.get(1..)?;
        let digits = label
            .iter()
            .skip(1)
            .take_while(|octet| octet.is_ascii_digit());
        let name = digits.fold(0, |number, digit| number * 10 + usize::from(digit - b'0'));
        let known = self.wires.get(name)?;
        (wire.len() >= known.len() && wire[..known.len()].eq_ignore_ascii_case(known))
            .then_some(name)
    }

    pub(crate) fn version(&self, name: usize) -> usize {
        self.changes[name].len()
    }

    /// Whether a group is a later tier of the name's route.
    pub(crate) fn is_later_tier(&self, group: u8, name: usize) -> bool {
        self.tiers && group == OTHER && zone(name) == Zone::Rest
    }

    /// The groups of a name's route, the first tier's first. Empty if the route changes.
    pub(crate) fn tiers(&self, name: usize) -> &'static [u8] {
        match zone(name) {
            Zone::Cluster => &[KUBE],
            Zone::Rest if self.tiers => &[VPC, OTHER],
            Zone::Rest => &[VPC],
            Zone::Moving => &[],
        }
    }

    /// The content of a word.
    pub(crate) fn content(&self, word: Word) -> Content {
        let Word {
            group,
            name,
            version,
        } = word;
        let mut random = fastrand::Rng::with_seed(self.salt ^ (name << 20 | version) as u64);
        if self.is_later_tier(group, name) {
            // A later tier denies more names.
            return match random.u8(..4) {
                0 => Content::NoSuchName,
                1 => Content::NoSuchRecord,
                other => Content::Addresses(1 + other % 4),
            };
        }
        match random.u8(..12) {
            0 => Content::NoSuchName,
            1 => Content::NoSuchRecord,
            other => Content::Addresses(1 + other % 4),
        }
    }

    pub(crate) fn ttl(&self, name: usize) -> u32 {
        TTLS[name.wrapping_add(self.shift) % TTLS.len()]
    }

    /// Whether a name's answer does not fit into a datagram.
    pub(crate) fn is_large(name: usize) -> bool {
        name % 17 == 3
    }

    /// The answer of a group's server to a query.
    pub(crate) fn answer(&self, group: u8, query: &[u8], over_udp: bool) -> Vec<u8> {
        let end = question_end(query);
        let mut reply = Vec::with_capacity(512);
        reply.extend_from_slice(&query[..end]);
        reply[2..4].copy_from_slice(&[0x81, 0x80]);
        reply[6..12].fill(0);
        let Some(name) = self.find(&query[12..end]) else {
            return reply;
        };
        let word = Word {
            group,
            name,
            version: self.version(name),
        };
        let qtype = u16::from_be_bytes([query[end - 4], query[end - 3]]);
        let ttl = self.ttl(name).to_be_bytes();
        let number = word.number().to_be_bytes();
        let addresses = match self.content(word) {
            Content::Addresses(_) if Self::is_large(name) && over_udp => {
                reply[2] |= 2;
                return reply;
            }
            Content::Addresses(_) if Self::is_large(name) => 40,
            Content::Addresses(count) => count,
            Content::NoSuchName | Content::NoSuchRecord => 0,
        };
        let six = [0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for last in 0..addresses {
            let rdata = match qtype {
                A => number.to_vec(),
                AAAA => [&six[..], &[last], &number].concat(),
                _ => break,
            };
            reply.extend([0xc0, 12]);
            reply.extend(qtype.to_be_bytes());
            reply.extend([0, 1]);
            reply.extend(ttl);
            reply.extend(u16::try_from(rdata.len()).expect("short").to_be_bytes());
            reply.extend(rdata);
            reply[7] += 1;
        }
        if reply[7] == 0 {
            if self.content(word) == Content::NoSuchName {
                reply[3] |= 3;
            }
            reply.extend([0xc0, 12]);
            reply.extend(SOA.to_be_bytes());
            reply.extend([0, 1]);
            reply.extend(ttl);
            reply.extend([0, 22, 0, 0]);
            reply.extend(number);
            for seconds in [60_u32, 60, 60, self.ttl(name)] {
                reply.extend(seconds.to_be_bytes());
            }
            reply[9] = 1;
        }
        reply
    }
}

/// The offset after the question of a message.
pub(crate) fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while let Some(length) = message.get(at)
        && *length != 0
    {
        at += 1 + usize::from(*length);
    }
    (at + 5).min(message.len())
}

/// The words in a reply's records.
pub(crate) fn words(reply: &[u8]) -> Vec<Word> {
    let mut at = question_end(reply);
    let count = u16::from_be_bytes([reply[6], reply[7]]) + u16::from_be_bytes([reply[8], reply[9]]);
    let mut found = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        while let Some(&length) = reply.get(at)
            && length != 0
            && length < 0xc0
        {
            at += 1 + usize::from(length);
        }
        at += if reply.get(at) == Some(&0) { 1 } else { 2 };
        let Some(head) = reply.get(at..at + 10) else {
            break;
        };
        let rtype = u16::from_be_bytes([head[0], head[1]]);
        let length = usize::from(u16::from_be_bytes([head[8], head[9]]));
        let Some(rdata) = reply.get(at + 10..at + 10 + length) else {
            break;
        };
        let number = match rtype {
            A => rdata,
            AAAA => &rdata[12..],
            SOA => &rdata[length - 20..length - 16],
            _ => &[],
        };
        if let Ok(number) = number.try_into() {
            found.push(Word::read(u32::from_be_bytes(number)));
        }
        at += 10 + length;
    }
    found
}

/// The TTL of the reply's first record; servers answer with the TTL `whole`. None if the answer is expired, and so has a TTL of
/// 30 s, or if it is about to expire.
pub(crate) fn told_ttl(reply: &[u8], whole: u32) -> Option<u32> {
    first_ttl(reply).filter(|&ttl| ttl != 30 && ttl > 1 && ttl <= whole)
}

/// The TTL of a reply's first record, in seconds.
fn first_ttl(reply: &[u8]) -> Option<u32> {
    let mut at = question_end(reply);
    while let Some(&length) = reply.get(at)
        && length != 0
        && length < 0xc0
    {
        at += 1 + usize::from(length);
    }
    at += if reply.get(at) == Some(&0) { 1 } else { 2 };
    let ttl = reply.get(at + 4..at + 8)?.try_into().ok()?;
    Some(u32::from_be_bytes(ttl))
}

pub(crate) fn zone(name: usize) -> Zone {
    match name % 10 {
        0 | 1 => Zone::Cluster,
        2 | 3 => Zone::Moving,
        _ => Zone::Rest,
    }
}

pub(crate) fn text(name: usize) -> String {
    let mut text = format!("n{name}.");
    text.write_str(match zone(name) {
        Zone::Cluster => "svc.cluster.local",
        Zone::Moving => "moving.example",
        Zone::Rest => "example.net",
    })
    .expect("a String grows");
    text
}

fn wire(text: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in text.split('.') {
        wire.push(u8::try_from(label.len()).expect("short"));
        wire.extend(label.as_bytes());
    }
    wire.push(0);
    wire
}
