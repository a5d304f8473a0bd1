//! Servers, their faults, and the messages to and from them.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use nodens::upstream::Upstreams;
use nodens::upstream::health::State;

use crate::loss::{Key, Loss};
use crate::names::{Content, KUBE, Names, OTHER, VPC, Word};
use crate::run::Kind;
use crate::world::{
    Event, Instance, Micros, Net, SECOND, Sent, StreamId, Table, seconds, table, take_messages,
};

/// Servers of each group.
pub(crate) const SERVERS: [(u8, [u8; 4]); 7] = [
    (KUBE, [10, 96, 0, 10]),
    (KUBE, [10, 96, 0, 11]),
    (VPC, [10, 1, 0, 2]),
    (VPC, [10, 1, 0, 251]),
    (VPC, [10, 1, 0, 252]),
    (OTHER, [10, 2, 0, 2]),
    (OTHER, [10, 2, 0, 3]),
];

/// When nodens must know that a server works again. The server answers probes, which are 0.1 s apart after a pause of at most
/// `probe_max`. This is 1.5 times `probe_max`, and the time that a probe and its answer may take.
const BELIEVED: Micros = 15 * SECOND / 2 + 2 * SECOND;

/// If a server has worked for this long when a datagram is sent, nodens knew that it works when the question began.
const KNOWN_TO_A_QUESTION: Micros = 12 * SECOND + 4 * SECOND;

/// Average time between the starts of faults, and their average length.
const BETWEEN_FAULTS: Micros = 4 * SECOND;
const FAULT: Micros = 8 * SECOND;

/// In runs with outages: average time between their starts, and their greatest length.
const BETWEEN_OUTAGES: Micros = 20 * SECOND;
const LONGEST_OUTAGE: Micros = 40 * SECOND;
const SHORTEST_LOSS: Micros = 25 * SECOND;

/// Greatest delay of an erratic server.
const LATEST: Micros = 2 * SECOND;

/// How a server behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    Good,
    /// Answers after this delay.
    Slow(Micros),
    /// Answers each query after a random delay, at most this one.
    Erratic(Micros),
    /// Works for this time, is silent for the same time, works again, and so on.
    Flapping(Micros),
    /// Loses this percentage of datagrams in each direction.
    Lossy(u8),
    Silent,
    /// Each query gets an ICMP error.
    Unreachable,
    /// Answers with this response code.
    Failing(u8),
    /// Answers another question, with another ID, or with random octets.
    Lying,
    /// Answers with TC, and cannot be reached over TCP: connections are refused, or get no answer.
    WithoutTcp,
    /// Closes connections after each answer, and resets some.
    Curt,
}

pub(crate) struct Server {
    pub(crate) group: u8,
    rtt: Micros,
    pub(crate) mode: Mode,
    /// Number of its faults so far.
    fault: u64,
    /// When its group's outage ends.
    outage_ends: Micros,
    /// Since when it works. None during a fault.
    good_since: Option<Micros>,
    /// Since when the configuration names it. None if it does not.
    listed_since: Option<Micros>,
}

/// An answer of a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Said {
    /// Its query.
    pub(crate) asked: Sent,
    /// When the answer reaches the node.
    pub(crate) comes: Micros,
}

pub(crate) struct Servers {
    pub(crate) all: BTreeMap<SocketAddr, Server>,
    /// The servers of the setup in force.
    pub(crate) believed: Option<Arc<Upstreams>>,
    /// Number of datagrams with clients' questions that the node sent.
    pub(crate) asked: u64,
    pub(crate) faults: BTreeMap<&'static str, u64>,
    /// The answers with each word, by type.
    said: Table<(u8, usize, usize, u16), Vec<Said>>,
    later_addresses: BTreeMap<Key, Micros>,
    kind: Kind,
    /// Checks the budget of datagrams while all servers of a group lose some.
    loss: RefCell<Option<Loss>>,
    /// Datagrams and questions while all servers of a group lost datagrams.
    pub(crate) under_loss: (u64, u64),
}

impl Mode {
    fn label(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Slow(_) => "slow",
            Self::Erratic(_) => "erratic",
            Self::Flapping(_) => "flapping",
            Self::Lossy(_) => "lossy",
            Self::Silent => "silent",
            Self::Unreachable => "unreachable",
            Self::Failing(_) => "failing",
            Self::Lying => "lying",
            Self::WithoutTcp => "without TCP",
            Self::Curt => "curt",
        }
    }

    fn any(random: &mut fastrand::Rng) -> Self {
        match random.u8(..12) {
            0 => Self::Slow(random.u64(100_000..3 * SECOND)),
            1 => Self::Slow(random.u64(1_000..200_000)),
            2 => Self::Lossy(random.u8(3..60)),
            3 | 4 => Self::Silent,
            5 => Self::Unreachable,
            6 => Self::Failing([2, 5, 4, 1][random.usize(..4)]),
            7 => Self::Lying,
            8 => Self::WithoutTcp,
            9 => Self::Erratic(random.u64(100_000..LATEST)),
            10 => Self::Flapping(random.u64(50_000..2 * SECOND)),
            _ => Self::Curt,
        }
    }
}

impl Server {
    /// How it behaves at this time.
    fn acts(&self, now: Micros) -> Mode {
        match self.mode {
            Mode::Flapping(half) if (now / half).is_multiple_of(2) => Mode::Good,
            Mode::Flapping(_) => Mode::Silent,
            mode => mode,
        }
    }

    /// Begins a fault.
    fn misbehave(&mut self, net: &mut Net, address: SocketAddr, mode: Mode, lasts: Micros) {
        self.mode = mode;
        self.good_since = None;
        self.fault += 1;
        net.trace.line(|| {
            format!(
                "{:.6} {address} is {mode:?} for {:.3} s",
                seconds(net.now),
                seconds(lasts)
            )
        });
        net.after(
            lasts,
            Event::Recovery {
                server: address,
                fault: self.fault,
            },
        );
    }
}

impl Servers {
    pub(crate) fn new(net: &mut Net, kind: Kind) -> Self {
        let all = SERVERS.iter().map(|&(group, ip)| {
            let server = Server {
                group,
                rtt: net.random.u64(300..40_000),
                mode: Mode::Good,
                fault: 0,
                outage_ends: 0,
                good_since: Some(0),
                listed_since: Some(0),
            };
            (SocketAddr::from((ip, 53)), server)
        });
        let all = all.collect();
        net.after(2 * SECOND, Event::Fault);
        net.after(10 * SECOND, Event::Outage);
        Self {
            all,
            believed: None,
            asked: 0,
            faults: BTreeMap::new(),
            said: table(),
            loss: RefCell::default(),
            later_addresses: BTreeMap::new(),
            kind,
            under_loss: (0, 0),
        }
    }

    /// The answers with this word.
    pub(crate) fn said(&self, word: Word, qtype: u16) -> &[Said] {
        let key = (word.group, word.name, word.version, qtype);
        self.said.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Whether an instance may take `word` for no older than `other`, both told by it, although it is: an answer with `word`
    /// had been asked for no earlier than one with `other`. A query that is sent later may arrive earlier, at a server that is
    /// nearer. `now` is when `word` is told, and `then` when `other` was.
    pub(crate) fn may_seem_newer(
        &self,
        instance: Instance,
        (word, now): (Word, Micros),
        (other, then): (Word, Micros),
        qtype: u16,
    ) -> bool {
        let sent = |word, told| {
            let said = self.said(word, qtype).iter();
            said.filter(move |said| said.asked.by == instance && said.comes <= told)
                .map(|said| said.asked.at)
        };
        let (last, first) = (sent(word, now).max(), sent(other, then).min());
        last.zip(first).is_some_and(|(last, first)| last >= first)
    }

    /// Notes that a server of this group answers with its word for a name. The answer reaches the node at `then`.
    fn says(
        &mut self,
        names: &Names,
        (group, name, qtype): (u8, usize, u16),
        asked: Sent,
        then: Micros,
    ) {
        let version = names.version(name);
        let word = Word {
            group,
            name,
            version,
        };
        if names.is_later_tier(group, name) && matches!(names.content(word), Content::Addresses(_))
        {
            self.later_addresses.insert((name, qtype), then);
        }
        let said = self.said.entry((group, name, version, qtype));
        said.or_default().push(Said { asked, comes: then });
    }

    /// A server of this group that has worked since `then`.
    pub(crate) fn worked_since(&self, group: u8, then: Micros) -> Option<SocketAddr> {
        let good = |server: &Server| {
            server.group == group
                && server.good_since.is_some_and(|since| since <= then)
                && server.listed_since.is_some_and(|since| since <= then)
        };
        self.all
            .iter()
            .find(|(_, server)| good(server))
            .map(|(address, _)| *address)
    }

    /// Notes that the configuration names these servers and no others.
    pub(crate) fn list(&mut self, listed: &[SocketAddr], now: Micros) {
        for (address, server) in &mut self.all {
            let since = server.listed_since.unwrap_or(now);
            server.listed_since = listed.contains(address).then_some(since);
        }
    }

    pub(crate) fn fault(&mut self, net: &mut Net) {
        let pause = net.about(BETWEEN_FAULTS);
        net.after(pause, Event::Fault);
        // Sometimes all servers of a group have a fault at once.
        let all_of = (net.random.u8(..8) == 0).then(|| net.random.u8(..3));
        let mode = Mode::any(&mut net.random);
        let one = net.random.usize(..self.all.len());
        for (index, (&address, server)) in self.all.iter_mut().enumerate() {
            if all_of.map_or(index != one, |group| server.group != group)
                || server.outage_ends > net.now
            {
                continue;
            }
            *self.faults.entry(mode.label()).or_default() += 1;
            let lasts = net.about(FAULT).min(60 * SECOND);
            server.misbehave(net, address, mode, lasts);
        }
    }

    /// Until when the configuration must not change, because the budget of datagrams is being checked.
    pub(crate) fn quiet_until(&self) -> Micros {
        let loss = self.loss.borrow();
        loss.as_ref().map_or(0, |loss| loss.ends)
    }

    pub(crate) fn end_loss(&mut self) {
        if let Some(loss) = self.loss.take() {
            let (datagrams, questions) = loss.total();
            self.under_loss.0 += datagrams;
            self.under_loss.1 += questions;
        }
    }

    /// When a later tier last answered with addresses of a name.
    pub(crate) fn later_addresses(&self, key: Key) -> Option<Micros> {
        self.later_addresses.get(&key).copied()
    }

    /// Notes a client's reply to a question that may be in flight.
    pub(crate) fn told(&self, key: Key, failed: bool) {
        if let Some(loss) = &mut *self.loss.borrow_mut() {
            loss.told(key, failed);
        }
    }

    /// Notes a message that reached the node.
    pub(crate) fn heard(&self, names: &Names, from: SocketAddr, message: &[u8]) {
        if let Some(loss) = &mut *self.loss.borrow_mut()
            && self
                .all
                .get(&from)
                .is_some_and(|server| server.group == loss.group)
        {
            let end = crate::names::question_end(message);
            let question = message.get(12..end).filter(|question| question.len() > 4);
            if let Some(question) = question
                && let Some(name) = names.find(question)
            {
                loss.answered((name, qtype(question)));
            }
        }
    }

    /// Begins an outage of a group, which lasts longer than faults. Either all its servers fail, each in its own way; or all
    /// lose datagrams; or all are erratic, so that a query to another server does not get an answer sooner.
    pub(crate) fn outage(&mut self, net: &mut Net) {
        let pause = net.about(BETWEEN_OUTAGES);
        net.after(pause, Event::Outage);
        let is_loss = self.kind == Kind::Loss;
        if self.quiet_until() > net.now {
            return;
        }
        // Most questions go to the VPC's group.
        let group = if is_loss && net.random.u8(..4) > 0 {
            VPC
        } else {
            net.random.u8(..3)
        };
        let shortest = if is_loss {
            SHORTEST_LOSS
        } else {
            LONGEST_OUTAGE / 4
        };
        let lasts = net.random.u64(shortest..LONGEST_OUTAGE);
        let percent = net.random.u8(15..70);
        let of_group = |server: &&Server| server.group == group;
        let over = |server: &Server| server.outage_ends <= net.now;
        if !self.all.values().filter(of_group).all(over) {
            return;
        }
        if is_loss {
            self.end_loss();
            let loss = Loss::new(group, net.now, net.now + lasts);
            self.loss.replace(Some(loss));
        }
        for (&address, server) in &mut self.all {
            if server.group != group {
                continue;
            }
            let (mode, label) = match self.kind {
                Kind::Mixed => (Mode::Erratic(LATEST), "all erratic"),
                Kind::Outages if net.random.bool() => (Mode::Silent, "outage"),
                Kind::Outages => (Mode::Failing(2), "outage"),
                Kind::Loss => (Mode::Lossy(percent), "general loss"),
            };
            *self.faults.entry(label).or_default() += 1;
            server.outage_ends = net.now + lasts;
            server.misbehave(net, address, mode, lasts);
        }
    }

    pub(crate) fn recover(&mut self, net: &mut Net, address: SocketAddr, fault: u64) {
        let Some(server) = self
            .all
            .get_mut(&address)
            .filter(|server| server.fault == fault)
        else {
            return;
        };
        server.mode = Mode::Good;
        server.good_since = Some(net.now);
        net.trace
            .line(|| format!("{:.6} {address} works", seconds(net.now)));
        net.after(
            BELIEVED,
            Event::Believed {
                server: address,
                fault,
            },
        );
    }

    pub(crate) fn must_be_believed(&self, net: &mut Net, address: SocketAddr, fault: u64) {
        let still = self
            .all
            .get(&address)
            .is_some_and(|server| server.fault == fault);
        let Some(believed) = self.believed.as_ref().filter(|_| still) else {
            return;
        };
        for server in believed
            .servers
            .iter()
            .filter(|server| server.config.address == address)
        {
            if matches!(server.state(), State::Down | State::Silent) {
                let state = server.state();
                net.violated(|| {
                    format!(
                        "{address} has worked for {} s and is thought {state:?}",
                        seconds(BELIEVED)
                    )
                });
            }
        }
    }

    /// Handles a datagram that the node sent.
    pub(crate) fn sent(
        &mut self,
        net: &mut Net,
        names: &Names,
        (from, to): (SocketAddr, SocketAddr),
        sent: Sent,
        message: &[u8],
    ) {
        let Some(server) = self.all.get(&to) else {
            return;
        };
        if let Some(loss) = &mut *self.loss.borrow_mut()
            && loss.group == server.group
            && net.now < loss.ends
        {
            let question = &message[12..crate::names::question_end(message)];
            let name = names.find(question);
            if let Some(over) = name.and_then(|name| loss.sent((name, qtype(question)), net.now)) {
                net.violated(|| over);
            }
        }
        let group = server.group;
        let question = &message[12..crate::names::question_end(message)];
        let name = names.find(question);
        if let Some(name) = name.filter(|&name| names.is_later_tier(group, name)) {
            let known = net.now.saturating_sub(KNOWN_TO_A_QUESTION);
            if let Some(worked) = self.worked_since(VPC, known) {
                net.violated(|| {
                    let name = crate::names::text(name);
                    format!("{name}: a later tier is asked, though {worked} has worked for long")
                });
            }
        }
        let mode = server.acts(net.now);
        if let Some(name) = name {
            net.trace.line(|| {
                let (now, name) = (seconds(net.now), crate::names::text(name));
                let qtype = qtype(question);
                format!("{now:.6} {from} asks {to} ({mode:?}) for {name} {qtype}")
            });
        }
        let way = server.rtt / 2 + net.random.u64(..server.rtt / 4 + 50);
        let lost = match mode {
            Mode::Unreachable => {
                // The ICMP error comes from the server's host or from a router.
                let host = net.random.bool();
                net.after(way, Event::Unreachable { socket: from, host });
                true
            }
            Mode::Silent => true,
            Mode::Lossy(percent) => net.random.u8(..100) < percent,
            _ => false,
        };
        if !lost {
            net.after(
                way,
                Event::AtServer {
                    server: to,
                    from,
                    sent,
                    message: message.to_vec(),
                },
            );
        }
    }

    /// Handles a datagram that reached a server.
    pub(crate) fn datagram(
        &mut self,
        net: &mut Net,
        names: &Names,
        (address, from, sent): (SocketAddr, SocketAddr, Sent),
        message: &[u8],
    ) {
        let end = crate::names::question_end(message);
        let name = names.find(&message[12..end]);
        self.asked += u64::from(name.is_some());
        let Server { group, rtt, .. } = self.all[&address];
        let mode = self.all[&address].acts(net.now);
        let mut way = rtt / 2 + net.random.u64(..rtt / 4 + 50);
        if let Some(name) = name {
            net.trace.line(|| {
                format!(
                    "{:.6} {address} ({mode:?}) is asked for {} {} by {from}, version {}",
                    seconds(net.now),
                    crate::names::text(name),
                    qtype(&message[12..end]),
                    names.version(name)
                )
            });
        }
        let answer = match mode {
            // `acts` never returns `Flapping`.
            Mode::Silent | Mode::Unreachable | Mode::Flapping(_) => return,
            Mode::Lossy(percent) if net.random.u8(..100) < percent => return,
            Mode::Slow(later) => {
                way += later;
                names.answer(group, message, true)
            }
            Mode::Erratic(most) => {
                way += net.random.u64(..most);
                names.answer(group, message, true)
            }
            Mode::Failing(code) => failure(message, code),
            Mode::Lying => {
                let mut answer = names.answer(group, message, true);
                match net.random.u8(..4) {
                    0 => answer[0] ^= 0x55,
                    1 | 2 => {
                        let asked = (address, from, sent);
                        return self.tell_of_another(net, names, asked, message, way);
                    }
                    _ => answer.truncate(net.random.usize(..answer.len())),
                }
                answer
            }
            Mode::WithoutTcp => {
                let mut answer = names.answer(group, message, true);
                if name.is_some() && net.random.bool() {
                    answer.truncate(end);
                    answer[2] |= 2;
                    answer[6..12].fill(0);
                }
                answer
            }
            Mode::Good | Mode::Lossy(_) | Mode::Curt => names.answer(group, message, true),
        };
        let truncated = answer.get(2).is_some_and(|flags| flags & 2 != 0);
        let says_it = !truncated && !matches!(mode, Mode::Failing(_));
        if let Some(name) = name.filter(|_| says_it) {
            let asked = (group, name, qtype(&message[..end]));
            self.says(names, asked, sent, net.now + way);
        }
        if net.random.u8(..100) == 0 {
            let again = way + net.random.u64(..SECOND);
            net.after(
                again,
                Event::AtSocket {
                    socket: from,
                    from: address,
                    message: answer.clone(),
                },
            );
        }
        net.after(
            way,
            Event::AtSocket {
                socket: from,
                from: address,
                message: answer,
            },
        );
    }

    /// Answers another question, with this ID.
    fn tell_of_another(
        &mut self,
        net: &mut Net,
        names: &Names,
        (address, from, sent): (SocketAddr, SocketAddr, Sent),
        message: &[u8],
        way: Micros,
    ) {
        let end = crate::names::question_end(message);
        let another = net.random.usize(..crate::names::COUNT);
        let query = [&message[..12], names.wire(another), &message[end - 4..end]].concat();
        let group = self.all[&address].group;
        // By chance, it may be the question that was asked.
        let said = (group, another, qtype(&message[..end]));
        self.says(names, said, sent, net.now + way);
        let answer = names.answer(group, &query, true);
        net.after(
            way,
            Event::AtSocket {
                socket: from,
                from: address,
                message: answer,
            },
        );
    }

    /// Handles a connection that the node opens.
    pub(crate) fn connect(&mut self, net: &mut Net, address: SocketAddr, stream: StreamId) {
        let Some(server) = self.all.get(&address) else {
            return;
        };
        let accepted = match server.acts(net.now) {
            Mode::Silent => return,
            Mode::WithoutTcp if net.random.bool() => return,
            Mode::WithoutTcp | Mode::Unreachable => false,
            _ => true,
        };
        net.after(server.rtt, Event::Connected { stream, accepted });
    }

    /// Handles octets that the node wrote to a connection.
    pub(crate) fn wrote(
        &mut self,
        net: &mut Net,
        address: SocketAddr,
        stream: StreamId,
        octets: &[u8],
    ) {
        let Some(server) = self.all.get(&address) else {
            return;
        };
        let way = way_over_tcp(server.rtt);
        net.after(
            way,
            Event::AtFarEnd {
                stream,
                octets: octets.to_vec(),
            },
        );
    }

    /// Handles octets that reached a server.
    pub(crate) fn octets(
        &mut self,
        net: &mut Net,
        names: &Names,
        address: SocketAddr,
        stream: StreamId,
        octets: &[u8],
    ) {
        let Server { group, rtt, .. } = self.all[&address];
        let mode = self.all[&address].acts(net.now);
        let Some(state) = net.streams.get_mut(&stream) else {
            return;
        };
        let Some(by) = state.instance else {
            return;
        };
        // `wrote` sends octets on this way.
        let sent = Sent {
            by,
            at: net.now.saturating_sub(way_over_tcp(rtt)),
        };
        state.far_inbox.extend_from_slice(octets);
        for message in take_messages(&mut state.far_inbox) {
            let way = rtt / 2 + net.random.u64(..500);
            let later = match mode {
                Mode::Slow(later) => later,
                Mode::Erratic(most) => net.random.u64(..most),
                _ => 0,
            };
            let end = crate::names::question_end(&message);
            let answer = match mode {
                Mode::Silent | Mode::Unreachable | Mode::WithoutTcp => continue,
                Mode::Failing(code) => failure(&message, code),
                _ => {
                    if let Some(name) = names.find(&message[12..end]) {
                        let qtype = qtype(&message[..end]);
                        net.trace.line(|| {
                            format!(
                                "{:.6} {address} ({mode:?}) is asked for {} {qtype} over TCP, version {}",
                                seconds(net.now),
                                crate::names::text(name),
                                names.version(name)
                            )
                        });
                        self.says(names, (group, name, qtype), sent, net.now + way + later);
                    }
                    names.answer(group, &message, false)
                }
            };
            let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
            let octets = [&length[..], &answer].concat();
            // TCP keeps the order of octets, and its segments may end anywhere.
            let cut = net.random.usize(..=octets.len());
            let (first, second) = octets.split_at(cut);
            net.after(
                way + later,
                Event::AtNearEnd {
                    stream,
                    octets: first.to_vec(),
                },
            );
            net.after(
                way + later,
                Event::AtNearEnd {
                    stream,
                    octets: second.to_vec(),
                },
            );
            if mode == Mode::Curt {
                if net.random.u8(..4) == 0 {
                    net.after(way, Event::Reset { stream });
                } else {
                    net.after(way, Event::Finished { stream });
                }
                return;
            }
        }
    }
}

/// The time that octets over TCP take from the node to a server.
fn way_over_tcp(rtt: Micros) -> Micros {
    rtt / 2
}

/// The QTYPE of a question.
fn qtype(question: &[u8]) -> u16 {
    let end = question.len();
    u16::from_be_bytes([question[end - 4], question[end - 3]])
}

/// An answer with a response code and the question.
fn failure(query: &[u8], code: u8) -> Vec<u8> {
    let mut answer = query[..crate::names::question_end(query)].to_vec();
    answer[2..4].copy_from_slice(&[0x81, 0x80 | code]);
    answer[6..12].fill(0);
    answer
}
