//! Clients, and what must hold for every one of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::names::{self, Content, Names, VPC, Word, Zone, question_end, words, zone};
use crate::run::Kind;
use crate::servers::Servers;
use crate::world::{
    Event, FarEnd, Instance, Micros, Net, SECOND, StreamId, seconds, take_messages,
};

/// Queries a second, of all clients together.
const RATE: u64 = 1_000;
/// `deadline`, and what is allowed for a tick of the clock and the way out.
const DEADLINE: Micros = 4 * SECOND + SECOND / 5;
/// glibc and Go ask again after this long, and musl gives up.
const PATIENCE: Micros = 5 * SECOND;
/// musl asks again after this long; and each time twice more at once, if it is told SERVFAIL.
const PATIENCE_OF_MUSL: Micros = PATIENCE / 2;
const SERVFAILS_OF_MUSL: u8 = 2;
/// What an answer may take on its way, and those who wait for it.
const ON_ITS_WAY: Micros = 5 * SECOND;
/// A server that worked for so long before a query came is known to work.
const KNOWN: Micros = 12 * SECOND;

const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;
const A: u16 = 1;
const AAAA: u16 = 28;

/// Of so many queries for a rare name, one is asked: then most of their entries expire before anybody asks again.
const RARELY: u32 = 60;

/// A query that reached the nameserver and was not answered yet.
struct Pending {
    arrived: Micros,
    name: usize,
    qtype: u16,
    over_udp: bool,
    /// The latest version that had been told before it arrived.
    told: Option<Told>,
    /// When each copy of it arrived, answered or not.
    arrivals: Vec<Micros>,
    /// How many of them are not answered.
    copies: usize,
}

/// What an instance told of the first of several tiers.
struct FirstTier {
    instance: Instance,
    told: Micros,
    fresh_until: Micros,
}

/// Whose ways of asking again a client has. All have one nameserver, so that the next one is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resolver {
    /// Twice from one port under one ID, the second time after 5 s.
    PatientGlibc,
    /// The same, and at once after SERVFAIL.
    Glibc,
    /// Twice from one port under one ID within 5 s.
    Musl,
    /// Twice, each time from another port under another ID, after 5 s or SERVFAIL.
    Go,
}

/// Which version an instance told last. What an earlier one learns after it has handed over is not handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    instance: Instance,
    group: u8,
    version: usize,
}

/// A client's UDP query or connection.
struct Asker {
    message: Vec<u8>,
    answered: bool,
    resolver: Resolver,
    tries: u8,
    /// How often it may ask at once after SERVFAIL.
    servfails: u8,
    /// How long it waits for this try.
    until: Micros,
    stream: Option<StreamId>,
    /// It is a TCP client that left.
    gone: bool,
}

impl Asker {
    /// It begins to wait for an answer to a datagram.
    fn wait(&mut self, net: &mut Net, client: SocketAddr) {
        let patience = match self.resolver {
            Resolver::PatientGlibc | Resolver::Glibc | Resolver::Go => PATIENCE,
            Resolver::Musl => PATIENCE_OF_MUSL,
        };
        self.until = net.now + patience;
        net.after(patience, Event::Impatient { client });
    }
}

pub(crate) struct Clients {
    pending: BTreeMap<(SocketAddr, u16), Pending>,
    askers: BTreeMap<SocketAddr, Asker>,
    /// Since when each group has answered for moving names; the last is in force, and the one before it until a change is done.
    pub(crate) moving: Vec<(u8, Micros)>,
    pub(crate) change_done: Micros,
    /// The latest version told, by name and type.
    told: BTreeMap<(usize, u16), Told>,
    /// The last answer of a first tier that was fresh, by name and type.
    first_tier: BTreeMap<(usize, u16), FirstTier>,
    /// The cache is large enough for all names, all the time.
    pub(crate) keeps_all: bool,
    loss_percent: u8,
    kind: Kind,
    /// `cache.stale.max_age` of the configuration.
    pub(crate) max_stale: Micros,
    next: u32,
    pub(crate) opened: Vec<(StreamId, SocketAddr)>,
    pub(crate) open_wanted: Option<std::task::Waker>,
    pub(crate) queries: u64,
    pub(crate) replies: BTreeMap<u8, u64>,
    pub(crate) ask_until: Micros,
    /// Queries that were not answered when an instance was killed.
    pub(crate) lost: BTreeSet<(SocketAddr, u16)>,
}

impl Clients {
    pub(crate) fn new(net: &mut Net, kind: Kind) -> Self {
        net.after(SECOND, Event::Ask);
        Self {
            pending: BTreeMap::new(),
            askers: BTreeMap::new(),
            moving: vec![(VPC, 0)],
            change_done: 0,
            told: BTreeMap::new(),
            first_tier: BTreeMap::new(),
            keeps_all: false,
            loss_percent: if net.random.bool() {
                0
            } else {
                net.random.u8(..10)
            },
            kind,
            max_stale: 0,
            next: 0,
            opened: Vec::new(),
            open_wanted: None,
            queries: 0,
            replies: BTreeMap::new(),
            ask_until: 0,
            lost: BTreeSet::new(),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Some client asks something.
    pub(crate) fn ask(&mut self, net: &mut Net, names: &Names) {
        if net.now >= self.ask_until {
            return;
        }
        let pause = net.about(SECOND / RATE);
        net.after(pause, Event::Ask);
        // Few names are asked often, and many rarely.
        let rank = net.random.f64();
        let often = if self.kind == Kind::Loss {
            rank
        } else {
            rank * rank * rank
        };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "below the count of names"
        )]
        let mut name = (often * names::COUNT as f64) as usize;
        if self.kind == Kind::Outages && is_rare(name) && net.random.u32(..RARELY) > 0 {
            name -= RARE_APART / 2;
        }
        let qtype = if net.random.u8(..3) == 0 { AAAA } else { A };
        let over_tcp = net.random.u8(..20) == 0;
        let count = if over_tcp { net.random.usize(1..4) } else { 1 };
        let client = self.next_client(net);
        let mut octets = Vec::new();
        let mut first = Vec::new();
        let id = net.random.u16(..);
        for number in 0..count {
            let message = query(
                names,
                id.wrapping_add(u16::try_from(number).expect("few")),
                (name + number * 7) % names::COUNT,
                qtype,
                &mut net.random,
            );
            if over_tcp {
                octets.extend(u16::try_from(message.len()).expect("short").to_be_bytes());
                octets.extend_from_slice(&message);
            }
            first = message;
        }
        let mut asker = Asker {
            message: first,
            answered: false,
            resolver: match self.kind {
                Kind::Mixed => Resolver::PatientGlibc,
                Kind::Outages | Kind::Loss => {
                    [Resolver::Glibc, Resolver::Musl, Resolver::Go][net.random.usize(..3)]
                }
            },
            tries: 1,
            servfails: SERVFAILS_OF_MUSL,
            until: 0,
            stream: None,
            gone: false,
        };
        if over_tcp {
            let stream = net.new_stream(FarEnd::Client(client));
            asker.stream = Some(stream);
            self.opened.push((stream, client));
            if let Some(operator) = self.open_wanted.take() {
                operator.wake();
            }
            let cut = net.random.usize(..=octets.len());
            let second = octets.split_off(cut);
            net.after(2_000, Event::AtNearEnd { stream, octets });
            net.after(
                2_500,
                Event::AtNearEnd {
                    stream,
                    octets: second,
                },
            );
            if net.random.u8(..10) == 0 {
                // It goes away in the middle.
                let later = 2_600 + net.random.u64(..20_000);
                net.after(later, Event::Impatient { client });
            }
        } else {
            asker.wait(net, client);
            self.send(net, client, &asker.message);
        }
        self.askers.insert(client, asker);
    }

    /// An address and a port that no client has used for long.
    fn next_client(&mut self, net: &mut Net) -> SocketAddr {
        self.next += 1;
        let network = u8::try_from(self.next / 60_000 % 200).expect("masked");
        let port = 1_025 + u16::try_from(self.next % 60_000).expect("below the count of ports");
        SocketAddr::from(([10, 244, network, net.random.u8(1..200)], port))
    }

    fn send(&self, net: &mut Net, client: SocketAddr, message: &[u8]) {
        if net.random.u8(..100) < self.loss_percent {
            return;
        }
        let way = net.random.u64(20..300);
        net.after(
            way,
            Event::AtNameserver {
                client,
                message: message.to_vec(),
            },
        );
        if net.random.u8(..200) == 0 {
            net.after(
                way + 700,
                Event::AtNameserver {
                    client,
                    message: message.to_vec(),
                },
            );
        }
    }

    /// A client has waited.
    pub(crate) fn impatient(&mut self, net: &mut Net, client: SocketAddr) {
        let Some(asker) = self.askers.get_mut(&client) else {
            return;
        };
        if let Some(stream) = asker.stream {
            asker.gone = true;
            net.after(0, Event::Reset { stream });
            self.connection_ended(net, client);
            return;
        }
        if asker.until > net.now {
            // It has asked again meanwhile.
            return;
        }
        if asker.answered || asker.tries == 2 {
            self.askers.remove(&client);
            return;
        }
        self.ask_again(net, client);
    }

    fn ask_again(&mut self, net: &mut Net, client: SocketAddr) {
        let Some(mut asker) = self.askers.remove(&client) else {
            return;
        };
        asker.tries += 1;
        asker.servfails = SERVFAILS_OF_MUSL;
        let mut from = client;
        if asker.resolver == Resolver::Go {
            from = self.next_client(net);
            let id = net.random.u16(..);
            asker.message[..2].copy_from_slice(&id.to_be_bytes());
        }
        asker.wait(net, from);
        self.send(net, from, &asker.message);
        self.askers.insert(from, asker);
    }

    /// A datagram reached a socket of the nameserver's.
    pub(crate) fn query_arrived(
        &mut self,
        net: &mut Net,
        names: &Names,
        client: SocketAddr,
        message: &[u8],
    ) {
        self.arrived(net, names, client, message, true);
    }

    fn arrived(
        &mut self,
        net: &mut Net,
        names: &Names,
        client: SocketAddr,
        message: &[u8],
        over_udp: bool,
    ) {
        let id = u16::from_be_bytes([message[0], message[1]]);
        let end = question_end(message);
        let name = names.find(&message[12..end]).expect("a client's own name");
        let qtype = u16::from_be_bytes([message[end - 4], message[end - 3]]);
        self.queries += 1;
        let told = self.told.get(&(name, qtype)).copied();
        net.trace.line(|| {
            format!(
                "{:.6} {client} asks for {} {qtype}, id {id}",
                seconds(net.now),
                names::text(name)
            )
        });
        let pending = self.pending.entry((client, id)).or_insert(Pending {
            arrived: net.now,
            name,
            qtype,
            over_udp,
            told,
            arrivals: Vec::new(),
            copies: 0,
        });
        pending.copies += 1;
        pending.arrivals.push(net.now);
        net.after(
            DEADLINE,
            Event::Due {
                client,
                id,
                arrived: net.now,
            },
        );
    }

    pub(crate) fn due(&self, net: &mut Net, client: SocketAddr, id: u16, arrived: Micros) {
        if let Some(pending) = self.pending.get(&(client, id)) {
            // Which copy was answered cannot be told: suppose that it was the first.
            let later = pending.arrivals.iter().filter(|&&other| other > arrived);
            let copies = pending.copies;
            if copies <= later.count() {
                return;
            }
            let name = names::text(pending.name);
            net.violated(|| {
                format!(
                    "{client} asked for {name} at {:.6} s and got nothing ({copies} queries)",
                    seconds(arrived)
                )
            });
        }
    }

    /// Octets reached the node on a client's connection.
    pub(crate) fn octets_arrived(
        &mut self,
        net: &mut Net,
        names: &Names,
        client: SocketAddr,
        octets: &[u8],
    ) {
        let Some(asker) = self.askers.get_mut(&client) else {
            return;
        };
        if asker.gone {
            return;
        }
        // `message` keeps what makes no whole query yet, once the queries have left.
        if asker.tries == 1 {
            asker.tries = 2;
            asker.message.clear();
        }
        asker.message.extend_from_slice(octets);
        for message in take_messages(&mut asker.message) {
            self.arrived(net, names, client, &message, false);
        }
    }

    /// The node, or the client, ended a connection: what it waited for is a loss only if the node ended it.
    pub(crate) fn connection_ended(&mut self, net: &mut Net, client: SocketAddr) {
        let gone = self.askers.get(&client).is_none_or(|asker| asker.gone);
        let waiting: Vec<_> = self
            .pending
            .range((client, 0)..=(client, u16::MAX))
            .map(|(key, _)| *key)
            .collect();
        for key in waiting {
            let pending = self.pending.remove(&key).expect("just found");
            if !gone {
                let name = names::text(pending.name);
                net.violated(|| {
                    format!("the connection of {client} was closed while it waited for {name}")
                });
            }
        }
        self.askers.remove(&client);
    }

    /// The node wrote to a client's connection.
    pub(crate) fn octets_left(
        &mut self,
        net: &mut Net,
        (names, servers): (&Names, &Servers),
        (client, stream): (SocketAddr, StreamId),
        instance: Instance,
        octets: &[u8],
    ) {
        let messages = net.streams.get_mut(&stream).map(|state| {
            state.far_inbox.extend_from_slice(octets);
            take_messages(&mut state.far_inbox)
        });
        for message in messages.into_iter().flatten() {
            self.reply_left(net, (names, servers), client, instance, &message);
        }
        let waits = self
            .pending
            .range((client, 0)..=(client, u16::MAX))
            .next()
            .is_some();
        if !waits && net.random.bool() {
            // Answered, it closes.
            net.after(400, Event::Finished { stream });
        }
    }

    /// A reply leaves the node: everything that must hold of it.
    pub(crate) fn reply_left(
        &mut self,
        net: &mut Net,
        (names, servers): (&Names, &Servers),
        client: SocketAddr,
        instance: Instance,
        message: &[u8],
    ) {
        let id = u16::from_be_bytes([message[0], message[1]]);
        let now = net.now;
        let Some(pending) = self.pending.get_mut(&(client, id)) else {
            let asks = self.askers.get(&client).is_some_and(|asker| !asker.gone);
            // Another instance, or the next, may have had it too.
            if asks && !self.lost.contains(&(client, id)) {
                net.violated(|| format!("{client} is answered and waits for nothing (id {id})"));
            }
            return;
        };
        pending.copies -= 1;
        let (name, qtype, arrived, told, over_udp) = (
            pending.name,
            pending.qtype,
            pending.arrived,
            pending.told,
            pending.over_udp,
        );
        if pending.copies == 0 {
            self.pending.remove(&(client, id));
        }
        let text = || {
            format!(
                "{} {qtype} of {client}, asked at {:.6} s",
                names::text(name),
                seconds(arrived)
            )
        };
        let end = question_end(message);
        let code = message[3] & 15;
        *self.replies.entry(code).or_default() += 1;
        let found = words(message);
        net.trace.line(|| {
            format!(
                "{:.6} {client} is answered for {} {qtype}: code {code}, {:?}",
                seconds(now),
                names::text(name),
                found.first()
            )
        });
        if message.get(12..end).is_none_or(|question| {
            names.find(question) != Some(name)
                || question[question.len() - 4..] != [0, qtype.to_be_bytes()[1], 0, 1]
        }) {
            return net.violated(|| format!("{}: the reply has another question", text()));
        }
        if over_udp {
            let way = net.random.u64(20..300);
            if net.random.u8(..100) >= self.loss_percent {
                net.after(
                    way,
                    Event::AtClient {
                        client,
                        message: message.to_vec(),
                    },
                );
            }
        }
        servers.told((name, qtype), !matches!(code, 0 | NXDOMAIN));
        let groups = self.groups_of(names, name, arrived);
        let truncated = message[2] & 2 != 0;
        match code {
            0 | NXDOMAIN if !truncated || over_udp => {}
            // All that is left to say when no server answers, or none over TCP.
            0 | NXDOMAIN | FORMERR | SERVFAIL | NOTIMP | REFUSED => {
                let worked =
                    worked_all_the_time(names, servers, (name, &groups), (arrived, truncated));
                if let Some(worked) = worked {
                    net.violated(|| format!("{}: code {code}, truncated: {truncated}, though {worked:?} worked all the time", text()));
                }
                return;
            }
            _ => return net.violated(|| format!("{}: code {code}", text())),
        }
        if truncated {
            return;
        }
        let word = match the_word(&found, name) {
            Ok(word) => word,
            Err(wrong) => return net.violated(|| format!("{}: {wrong}", text())),
        };
        if !groups.contains(&word.group) {
            return net
                .violated(|| format!("{}: {word:?}, and its route leads to {groups:?}", text()));
        }
        self.check_tiers(
            net,
            (names, servers),
            (word, qtype),
            (arrived, instance),
            message,
            &text,
        );
        self.check_version(
            net,
            (names, servers),
            word,
            (code, qtype, told, instance),
            &text,
        );
    }

    /// No later tier's word in place of one of the first tier's that was told before and may still be served.
    fn check_tiers(
        &mut self,
        net: &mut Net,
        (names, servers): (&Names, &Servers),
        (word, qtype): (Word, u16),
        (arrived, instance): (Micros, Instance),
        message: &[u8],
        text: &dyn Fn() -> String,
    ) {
        let key = (word.name, qtype);
        if !self.keeps_all || names.tiers(word.name).len() < 2 {
            return;
        }
        if names.is_later_tier(word.group, word.name) {
            let Some(first) = self.first_tier.get(&key) else {
                return;
            };
            let is_denial = !matches!(names.content(word), Content::Addresses(_));
            let replaced = servers
                .later_addresses(key)
                .is_some_and(|then| then >= first.told);
            let until = match (is_denial, replaced) {
                (true, false) => first.fresh_until + self.max_stale,
                (true, true) | (false, _) => first.fresh_until,
            };
            if first.instance == instance && first.told < arrived && net.now < until {
                let (told, until) = (seconds(first.told), seconds(until));
                net.violated(|| {
                    format!(
                        "{}: a later tier's {word:?}, though the first tier's answer was told at {told:.6} s and holds until {until:.6} s",
                        text()
                    )
                });
            }
            return;
        }
        // What has expired is told with a TTL of 30 s.
        let ttl = names::first_ttl(message).filter(|&ttl| ttl != 30 && ttl <= names.ttl(word.name));
        if let Some(ttl) = ttl.filter(|ttl| *ttl > 1) {
            let fresh_until = net.now + Micros::from(ttl - 1) * SECOND;
            let told = net.now;
            self.first_tier.insert(
                key,
                FirstTier {
                    instance,
                    told,
                    fresh_until,
                },
            );
        }
    }

    fn check_version(
        &mut self,
        net: &mut Net,
        (names, servers): (&Names, &Servers),
        word: Word,
        (code, qtype, told, instance): (u8, u16, Option<Told>, Instance),
        text: &dyn Fn() -> String,
    ) {
        let Word {
            group,
            name,
            version,
        } = word;
        let said = servers.said(word, qtype);
        if said.is_none_or(|said| {
            let lasts = Micros::from(names.ttl(name)) * SECOND + self.max_stale;
            net.now > said + lasts + ON_ITS_WAY
        }) {
            let said = said.map(seconds);
            return net.violated(|| format!("{}: {word:?} was said last at {said:?} s", text()));
        }
        if version > names.version(name) {
            return net.violated(|| format!("{}: version {version} is not there yet", text()));
        }
        let content = names.content(word);
        if (content == Content::NoSuchName) != (code == NXDOMAIN) {
            return net.violated(|| format!("{}: code {code} for {content:?}", text()));
        }
        let tells = Told {
            instance,
            group,
            version,
        };
        // What may not be kept is shared by those who ask while it is on its way, however late it was sent.
        if names.ttl(name) > 0
            && let Some(told) = told
            && (told.instance, told.group) == (instance, group)
            && version < told.version
        {
            let before = told.version;
            return net.violated(|| {
                format!(
                    "{}: version {version}, and {before} had been told before",
                    text()
                )
            });
        }
        let latest = self.told.entry((name, qtype)).or_insert(tells);
        if latest.instance < instance
            || latest.instance == instance && (latest.group != group || latest.version < version)
        {
            *latest = tells;
        }
    }

    /// Groups that may have answered for a name to whoever asked at that time.
    fn groups_of(&self, names: &Names, name: usize, arrived: Micros) -> Vec<u8> {
        match zone(name) {
            Zone::Cluster | Zone::Rest => names.tiers(name).to_vec(),
            Zone::Moving => {
                let (last, _) = self.moving[self.moving.len() - 1];
                let mut groups = vec![last];
                // The one before holds for queries that came before the change was done.
                for pair in self.moving.windows(2).rev() {
                    let done = if pair[1].1 == self.moving[self.moving.len() - 1].1 {
                        self.change_done
                    } else {
                        pair[1].1 + 5 * SECOND
                    };
                    if arrived <= done && !groups.contains(&pair[0].0) {
                        groups.push(pair[0].0);
                    }
                }
                groups
            }
        }
    }

    /// A reply reached a client.
    pub(crate) fn answered(&mut self, net: &mut Net, client: SocketAddr, message: &[u8]) {
        let Some(asker) = self.askers.get_mut(&client) else {
            return;
        };
        let is_servfail = message[3] & 15 == SERVFAIL;
        match asker.resolver {
            Resolver::Glibc | Resolver::Go if is_servfail && asker.tries == 1 => {
                self.ask_again(net, client);
            }
            Resolver::Musl if is_servfail => {
                if asker.servfails > 0 {
                    asker.servfails -= 1;
                    let message = asker.message.clone();
                    self.send(net, client, &message);
                }
            }
            _ => asker.answered = true,
        }
    }

    /// A client's connection was reset.
    pub(crate) fn reset(&mut self, client: SocketAddr) {
        self.askers.remove(&client);
    }

    /// The instance was killed: what it had is lost, and its clients' to ask again.
    pub(crate) fn forget_pending(&mut self) {
        self.lost
            .extend(std::mem::take(&mut self.pending).into_keys());
    }
}

/// Servers that nobody can doubt when a query comes at that time, so that it is answered: one of each group that may have been
/// asked; where there are tiers, one of any of them, or of the first if it is about what was cut, for which no other is asked.
fn worked_all_the_time(
    names: &Names,
    servers: &Servers,
    (name, groups): (usize, &[u8]),
    (arrived, truncated): (Micros, bool),
) -> Option<Vec<SocketAddr>> {
    let known = arrived.saturating_sub(KNOWN);
    let worked = |&group: &u8| servers.worked_since(group, known);
    match names.tiers(name) {
        [first, _] if truncated => Some(vec![worked(first)?]),
        tiers @ [_, _] => Some(vec![tiers.iter().find_map(worked)?]),
        _ => groups.iter().map(worked).collect(),
    }
}

/// What a reply says, if that is one word about this name.
fn the_word(found: &[Word], name: usize) -> Result<Word, String> {
    let &word = found
        .first()
        .ok_or("the reply has neither records nor SOA")?;
    if found.iter().any(|other| *other != word) {
        return Err(format!("the reply mixes {found:?}"));
    }
    if word.name != name {
        return Err(format!("the reply is of {}", names::text(word.name)));
    }
    Ok(word)
}

/// Every so many names one is rare.
const RARE_APART: usize = 4;

/// Some names of each zone are.
fn is_rare(name: usize) -> bool {
    name % RARE_APART == RARE_APART - 1
}

fn query(names: &Names, id: u16, name: usize, qtype: u16, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    let edns = random.bool();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    let mut wire = names.wire(name).to_vec();
    if random.u8(..4) == 0 {
        // 0x20.
        for octet in wire.iter_mut().filter(|octet| octet.is_ascii_alphabetic()) {
            *octet ^= 0x20 * u8::from(random.bool());
        }
    }
    message.extend(wire);
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    if edns {
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    message
}
