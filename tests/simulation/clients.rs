//! Clients, and the rules that must hold for each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use crate::names::{self, Content, Names, VPC, Word, Zone, question_end, words, zone};
use crate::resolvers::{Asker, Connection, Nameservers, Next, Question, Resolver};
use crate::run::Kind;
use crate::servers::Servers;
use crate::world::{
    Event, FarEnd, Instance, Micros, Net, SECOND, StreamId, Table, seconds, table, take_messages,
};

/// Queries a second of all clients.
const RATE: u64 = 1_000;
/// `deadline`, with some time for a tick of the clock and for sending the reply.
const DEADLINE: Micros = 4 * SECOND + SECOND / 5;
/// After the last new client has begun, clients ask again for this long.
const LAST_ATTEMPT: Micros = 5 * SECOND;
/// Longest time from a server's answer to the last reply that is made from it.
const ON_ITS_WAY: Micros = 5 * SECOND;
/// How long a denial waits for the answer about the other family: `PATIENCE` of `serving::denials`, and some ticks of the clock.
const DENIAL_WAITS: Micros = SECOND + SECOND / 200;
/// nodens knows that a server works if it has worked for this long before a query.
const KNOWN: Micros = 12 * SECOND;

const FORMERR: u8 = 1;
const SERVFAIL: u8 = 2;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;
const A: u16 = 1;
const AAAA: u16 = 28;

/// One of this many queries for a rare name is sent. So most entries of rare names expire before the next query.
const RARELY: u32 = 60;

/// A query that reached the nameserver and has no reply yet.
struct Pending {
    arrived: Micros,
    name: usize,
    qtype: u16,
    over_udp: bool,
    /// The latest version in any reply before the query arrived.
    told: Option<Told>,
    /// When each copy of the query arrived, answered or not.
    arrivals: Vec<Micros>,
    /// Number of copies without a reply.
    copies: usize,
}

/// An answer of the first of several tiers, in a reply of an instance.
struct FirstTier {
    instance: Instance,
    told: Micros,
    fresh_until: Micros,
    /// It said that there is no such name.
    is_denial: bool,
}

/// The latest version in an instance's replies. Instances are told apart, because an earlier instance does not hand over what
/// it learns after the handover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Told {
    instance: Instance,
    group: u8,
    version: usize,
    /// When it was told first.
    at: Micros,
}

pub(crate) struct Clients {
    pending: Table<(SocketAddr, u16), Pending>,
    askers: Table<SocketAddr, Asker>,
    /// The groups that moving names were routed to, each with the time of the change. The last group is in force; the one
    /// before it counts until the change is done.
    pub(crate) moving: Vec<(u8, Micros)>,
    pub(crate) change_done: Micros,
    /// The latest version in any reply, by name and type.
    told: Table<(usize, u16), Told>,
    /// The last fresh answer of a first tier, by name and type.
    first_tier: BTreeMap<(usize, u16), FirstTier>,
    /// When addresses expire that an instance put in replies to queries since the last change of its configuration.
    fresh: BTreeMap<(usize, u16), (Instance, Micros)>,
    /// When the last change of the configuration was done.
    changed: Micros,
    /// The cache is always large enough for all names.
    pub(crate) keeps_all: bool,
    loss_percent: u8,
    kind: Kind,
    /// `cache.stale.max_age` of the configuration.
    pub(crate) max_stale: Micros,
    next: u32,
    /// When the next client asks.
    next_ask: Micros,
    pub(crate) opened: Vec<(StreamId, SocketAddr)>,
    pub(crate) open_wanted: Option<std::task::Waker>,
    pub(crate) queries: u64,
    pub(crate) replies: BTreeMap<u8, u64>,
    /// Lookups of resolvers, by how they ended.
    pub(crate) lookups: BTreeMap<&'static str, u64>,
    pub(crate) ask_until: Micros,
    /// Queries without a reply when an instance was killed.
    pub(crate) lost: BTreeSet<(SocketAddr, u16)>,
}

impl Clients {
    pub(crate) fn new(net: &mut Net, kind: Kind) -> Self {
        net.after(SECOND, Event::Ask);
        Self {
            pending: table(),
            askers: table(),
            moving: vec![(VPC, 0)],
            change_done: 0,
            told: table(),
            first_tier: BTreeMap::new(),
            fresh: BTreeMap::new(),
            changed: 0,
            keeps_all: false,
            loss_percent: if net.random.bool() {
                0
            } else {
                net.random.u8(..10)
            },
            kind,
            max_stale: 0,
            next: 0,
            next_ask: SECOND,
            opened: Vec::new(),
            open_wanted: None,
            queries: 0,
            replies: BTreeMap::new(),
            lookups: BTreeMap::new(),
            ask_until: 0,
            lost: BTreeSet::new(),
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Has a client ask a question.
    pub(crate) fn ask(&mut self, net: &mut Net, names: &Names) {
        if net.now >= self.ask_until {
            return;
        }
        let name = self.any_name(net);
        let over_tcp = net.random.u8(..20) == 0;
        let count = if over_tcp {
            self.ask_over_tcp(net, names, name)
        } else {
            self.look_up(net, names, name)
        };
        // The runtime's timers tick every millisecond. An event between two ticks happens at the second one.
        self.next_ask += net.about(count * SECOND / RATE);
        net.after(self.next_ask.saturating_sub(net.now), Event::Ask);
    }

    /// A random name. Few names are drawn often, and many rarely.
    fn any_name(&self, net: &mut Net) -> usize {
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
        name
    }

    /// A client without a resolver sends several queries at once over TCP. Returns their number.
    fn ask_over_tcp(&mut self, net: &mut Net, names: &Names, name: usize) -> u64 {
        let qtype = any_type(net);
        let id = net.random.u16(..);
        let messages = (0..net.random.u16(1..4)).map(|number| {
            let name = (name + usize::from(number) * 7) % names::COUNT;
            let id = id.wrapping_add(number);
            query(names, id, name, qtype, &mut net.random)
        });
        let messages: Vec<_> = messages.collect();
        let count = messages.len() as u64;
        let client = self.connect(net, Asker::new(Resolver::Go, Nameservers::This, messages));
        if net.random.u8(..10) == 0 {
            // It closes the connection before it is answered.
            let later = 2_600 + net.random.u64(..20_000);
            net.after(later, Event::Impatient { client });
        }
        count
    }

    /// A client's resolver asks for one type, or, as most do, for A and AAAA. Returns the number of queries.
    fn look_up(&mut self, net: &mut Net, names: &Names, name: usize) -> u64 {
        let resolver = Resolver::ALL[net.random.usize(..Resolver::ALL.len())];
        let nameservers = match net.random.u8(..8) {
            0 => Nameservers::DeadAndThis,
            1 => Nameservers::ThisAndDead,
            _ => Nameservers::This,
        };
        let id = net.random.u16(..);
        let mut messages = if net.random.bool() {
            let first = query(names, id, name, A, &mut net.random);
            let mut second = first.clone();
            second[..2].copy_from_slice(&id.wrapping_add(1).to_be_bytes());
            let end = question_end(&second);
            second[end - 4..end - 2].copy_from_slice(&AAAA.to_be_bytes());
            vec![first, second]
        } else {
            let qtype = any_type(net);
            vec![query(names, id, name, qtype, &mut net.random)]
        };
        let count = messages.len() as u64;
        if resolver == Resolver::Go {
            for message in messages.drain(..) {
                self.begin(net, Asker::new(resolver, nameservers, vec![message]));
            }
        } else {
            self.begin(net, Asker::new(resolver, nameservers, messages));
        }
        count
    }

    /// A client begins to ask over UDP, from a new port.
    fn begin(&mut self, net: &mut Net, asker: Asker) {
        let client = self.next_client(net);
        self.attempt(net, client, asker);
    }

    /// Begins an attempt of a resolver, from this port.
    fn attempt(&mut self, net: &mut Net, client: SocketAddr, mut asker: Asker) {
        let patience = asker.patience();
        asker.until = net.now + patience;
        net.after_always(patience, Event::Impatient { client });
        if asker.asks_this() {
            for message in asker.sends() {
                self.send(net, client, message);
            }
        }
        self.askers.insert(client, asker);
    }

    /// A client opens a connection and sends all its queries, in segments that may end anywhere.
    fn connect(&mut self, net: &mut Net, mut asker: Asker) -> SocketAddr {
        let client = self.next_client(net);
        let stream = net.new_stream(FarEnd::Client(client));
        self.opened.push((stream, client));
        if let Some(operator) = self.open_wanted.take() {
            operator.wake();
        }
        let mut octets = Vec::new();
        for Question { message, .. } in &asker.questions {
            octets.extend(u16::try_from(message.len()).expect("short").to_be_bytes());
            octets.extend_from_slice(message);
        }
        let second = octets.split_off(net.random.usize(..=octets.len()));
        for (later, octets) in [(2_000, octets), (2_500, second)] {
            net.after(later, Event::AtNearEnd { stream, octets });
        }
        asker.connection = Some(Connection {
            stream,
            inbox: Vec::new(),
        });
        self.askers.insert(client, asker);
        client
    }

    /// An address and a port that no client has used for a long time.
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

    /// Handles a client's timeout.
    pub(crate) fn impatient(&mut self, net: &mut Net, client: SocketAddr) {
        let Some(asker) = self.askers.get_mut(&client) else {
            return;
        };
        if let Some(Connection { stream, .. }) = asker.connection {
            asker.gone = true;
            net.after(0, Event::Reset { stream });
            self.connection_ended(net, client);
            return;
        }
        if asker.until > net.now {
            // The client has asked again meanwhile.
            return;
        }
        if asker.is_answered() {
            self.end(client, "answered");
            return;
        }
        self.ask_again(net, client);
    }

    /// Begins the next attempt of a resolver, if there is one.
    fn ask_again(&mut self, net: &mut Net, client: SocketAddr) {
        let Some(mut asker) = self.askers.remove(&client) else {
            return;
        };
        // All queries must be answered before the run ends.
        if !asker.begin_next_attempt() || net.now > self.ask_until + LAST_ATTEMPT {
            self.count("given up");
            return;
        }
        let mut from = client;
        if asker.resolver == Resolver::Go {
            from = self.next_client(net);
            let id = net.random.u16(..);
            for Question { message, .. } in &mut asker.questions {
                message[..2].copy_from_slice(&id.to_be_bytes());
            }
        }
        self.attempt(net, from, asker);
    }

    /// Ends the client at this port.
    fn end(&mut self, client: SocketAddr, how: &'static str) {
        self.askers.remove(&client);
        self.count(how);
    }

    fn count(&mut self, how: &'static str) {
        *self.lookups.entry(how).or_default() += 1;
    }

    /// Handles a datagram that reached a socket of the nameserver.
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
        net.after_always(
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
            // A reply does not tell which copy it answers. It counts for the first one.
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

    /// Handles octets that reached the node on a client's connection.
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
        let Some(connection) = &mut asker.connection else {
            return;
        };
        connection.inbox.extend_from_slice(octets);
        for message in take_messages(&mut connection.inbox) {
            self.arrived(net, names, client, &message, false);
        }
    }

    /// Handles the end of a connection by the node or by the client. Queries without a reply violate a rule only if the node
    /// ended it.
    pub(crate) fn connection_ended(&mut self, net: &mut Net, client: SocketAddr) {
        let gone = self.askers.get(&client).is_none_or(|asker| asker.gone);
        let asker = self.askers.remove(&client);
        let questions = asker.iter().flat_map(|asker| &asker.questions);
        for Question { message, .. } in questions {
            let id = u16::from_be_bytes([message[0], message[1]]);
            if let Some(pending) = self.pending.remove(&(client, id))
                && !gone
            {
                let name = names::text(pending.name);
                net.violated(|| {
                    format!("the connection of {client} was closed while it waited for {name}")
                });
            }
        }
    }

    /// Handles octets that the node wrote to a client's connection.
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
            if let Some(asker) = self.askers.get_mut(&client) {
                asker.take_over_tcp(&message);
            }
        }
        let answered = self.askers.get(&client).is_some_and(Asker::is_answered);
        if answered && net.random.bool() {
            // The client closes the connection.
            net.after(400, Event::Finished { stream });
        }
    }

    /// Checks all rules for a reply that the node sends.
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
            // Another instance may have had the query as well.
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
            // These are right only if no server answers, or none over TCP.
            0 | NXDOMAIN | FORMERR | SERVFAIL | NOTIMP | REFUSED => {
                let worked =
                    worked_all_the_time(names, servers, (name, &groups), (arrived, truncated));
                if let Some(worked) = worked {
                    net.violated(|| format!("{}: code {code}, truncated: {truncated}, though {worked:?} worked all the time", text()));
                }
                self.check_failure(net, (name, qtype), (code, instance), &text);
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
        self.note_fresh((arrived, now), names, word, (qtype, instance), message);
        self.check_version(
            net,
            (names, servers),
            (word, &groups),
            (code, qtype, told, instance),
            &text,
        );
    }

    /// Notes that a change of the configuration is done: nodens may have forgotten answers from before.
    pub(crate) fn configuration_changed(&mut self, now: Micros) {
        self.fresh.clear();
        self.changed = now;
    }

    /// Checks that a client gets no failure while addresses are in the cache.
    fn check_failure(
        &self,
        net: &mut Net,
        key: (usize, u16),
        (code, instance): (u8, Instance),
        text: &dyn Fn() -> String,
    ) {
        let Some((by, until)) = self.fresh.get(&key) else {
            return;
        };
        // A truncated answer is no failure.
        let is_failure = !matches!(code, 0 | NXDOMAIN);
        if is_failure && *by == instance && net.now < *until {
            let until = seconds(*until);
            net.violated(|| {
                format!(
                    "{}: a failure, though addresses that were told are fresh until {until:.6} s",
                    text()
                )
            });
        }
    }

    /// Notes that the addresses of a reply are in the cache.
    fn note_fresh(
        &mut self,
        (arrived, now): (Micros, Micros),
        names: &Names,
        word: Word,
        (qtype, instance): (u16, Instance),
        message: &[u8],
    ) {
        if self.keeps_all
            && arrived > self.changed
            && matches!(names.content(word), Content::Addresses(_))
            && let Some(ttl) = names::told_ttl(message, names.ttl(word.name))
        {
            let until = now + Micros::from(ttl - 1) * SECOND;
            self.fresh.insert((word.name, qtype), (instance, until));
        }
    }

    /// Checks that no later tier's answer is served in place of an answer of the first tier which was served before and may
    /// still be served.
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
            let first_group = &names.tiers(word.name)[..1];
            let doubted = first.is_denial
                && Self::other_addresses((names, servers), key, first_group)
                    .max()
                    .is_some_and(|said| said + ON_ITS_WAY > first.told);
            if first.instance == instance && first.told < arrived && net.now < until && !doubted {
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
        if let Some(ttl) = names::told_ttl(message, names.ttl(word.name)) {
            let fresh_until = net.now + Micros::from(ttl - 1) * SECOND;
            let told = net.now;
            self.first_tier.insert(
                key,
                FirstTier {
                    instance,
                    told,
                    fresh_until,
                    is_denial: names.content(word) == Content::NoSuchName,
                },
            );
        }
    }

    fn check_version(
        &mut self,
        net: &mut Net,
        (names, servers): (&Names, &Servers),
        (word, groups): (Word, &[u8]),
        (code, qtype, told, instance): (u8, u16, Option<Told>, Instance),
        text: &dyn Fn() -> String,
    ) {
        let Word {
            group,
            name,
            version,
        } = word;
        let said = servers.said(word, qtype).iter();
        let said = said.map(|said| said.comes).max();
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
        let doubted = content == Content::NoSuchName && code == 0 && {
            let lasts = Micros::from(names.ttl(name)) * SECOND + self.max_stale + ON_ITS_WAY;
            let mut denials = servers.said(word, qtype).iter().map(|said| said.comes);
            denials.any(|denied| {
                let weighed = denied + DENIAL_WAITS;
                let mut known = Self::other_addresses((names, servers), (name, qtype), groups);
                net.now <= weighed + lasts
                    && known.any(|known| known <= weighed && denied <= known + lasts)
            })
        };
        if (content == Content::NoSuchName) != (code == NXDOMAIN) && !doubted {
            return net.violated(|| format!("{}: code {code} for {content:?}", text()));
        }
        let tells = Told {
            instance,
            group,
            version,
            at: net.now,
        };
        // An answer that may not be cached is shared by all clients that ask while it is under way, however late it was sent.
        if names.ttl(name) > 0
            && let Some(told) = told
            && (told.instance, told.group) == (instance, group)
            && version < told.version
            && !Self::may_seem_newer(servers, word, told, (qtype, net.now))
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

    /// Whether the instance that told a newer version before may take this word for no older.
    fn may_seem_newer(
        servers: &Servers,
        word: Word,
        told: Told,
        (qtype, now): (u16, Micros),
    ) -> bool {
        let newer = Word {
            version: told.version,
            ..word
        };
        servers.may_seem_newer(told.instance, (word, now), (newer, told.at), qtype)
    }

    /// When addresses of the other family reached the node, in no order. A denial that comes while they may be served is told as
    /// an empty answer, and a denial that is in the cache then may be forgotten.
    fn other_addresses(
        (names, servers): (&Names, &Servers),
        (name, qtype): (usize, u16),
        groups: &[u8],
    ) -> impl Iterator<Item = Micros> {
        let other = if qtype == A { AAAA } else { A };
        let versions = 0..=names.version(name);
        let words = versions.flat_map(move |version| {
            groups.iter().map(move |&group| Word {
                group,
                name,
                version,
            })
        });
        words
            .filter(move |word| matches!(names.content(*word), Content::Addresses(_)))
            .flat_map(move |word| servers.said(word, other))
            .map(|said| said.comes)
    }

    /// Groups that may have answered for a name, when the query arrived at that time.
    fn groups_of(&self, names: &Names, name: usize, arrived: Micros) -> Vec<u8> {
        match zone(name) {
            Zone::Cluster | Zone::Rest => names.tiers(name).to_vec(),
            Zone::Moving => {
                let (last, _) = self.moving[self.moving.len() - 1];
                let mut groups = vec![last];
                // The group before the last counts for queries that arrived before the change was done.
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

    /// Handles a reply that reached a client.
    pub(crate) fn answered(&mut self, net: &mut Net, client: SocketAddr, message: &[u8]) {
        let Some(asker) = self.askers.get_mut(&client) else {
            return;
        };
        match asker.take(message) {
            Next::Nothing => {}
            Next::Again(question) => {
                let message = asker.questions[question].message.clone();
                self.send(net, client, &message);
            }
            Next::Elsewhere => self.ask_again(net, client),
            Next::OverTcp(messages) => {
                let (resolver, nameservers) = (asker.resolver, asker.nameservers);
                if resolver != Resolver::Musl {
                    self.askers.remove(&client);
                }
                self.count("over TCP");
                self.connect(net, Asker::new(resolver, nameservers, messages));
            }
            Next::GiveUp => self.end(client, "one of two"),
        }
    }

    /// Handles the reset of a client's connection.
    pub(crate) fn reset(&mut self, client: SocketAddr) {
        self.askers.remove(&client);
    }

    /// Moves all pending queries to `lost`, because their instance was killed. Their clients ask again.
    pub(crate) fn forget_pending(&mut self) {
        self.lost.extend(self.pending.drain().map(|(key, _)| key));
    }
}

/// Servers that worked for so long before a query that the query must be answered: one of each group that may have been asked.
/// If the route has tiers: one of any tier; or one of the first tier if the reply is truncated, because no other tier is asked
/// then.
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

/// The word in a reply. An error unless all records have the same word, about this name.
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

fn any_type(net: &mut Net) -> u16 {
    if net.random.u8(..3) == 0 { AAAA } else { A }
}

/// One of this many names is rare.
const RARE_APART: usize = 4;

/// Whether a name is rare. Each zone has rare names.
fn is_rare(name: usize) -> bool {
    name % RARE_APART == RARE_APART - 1
}

fn query(names: &Names, id: u16, name: usize, qtype: u16, random: &mut fastrand::Rng) -> Vec<u8> {
    let mut message = Vec::with_capacity(64);
    message.extend(id.to_be_bytes());
    let edns = random.bool();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(edns)]);
    message.extend_from_slice(names.wire(name));
    if random.u8(..4) == 0 {
        // Random case of letters (0x20).
        let wire = message[12..].iter_mut();
        for octet in wire.filter(|octet| octet.is_ascii_alphabetic()) {
            *octet ^= 0x20 * u8::from(random.bool());
        }
    }
    message.extend(qtype.to_be_bytes());
    message.extend([0, 1]);
    if edns {
        message.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    }
    message
}
