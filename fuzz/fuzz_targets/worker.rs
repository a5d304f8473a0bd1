//! Bytes from clients and from servers in turns, through listeners, query path, cache, upstreams and transports, on made-up
//! time. Each message gets one reply, or is dropped for a reason in its octets. A reply repeats its query's ID and question. A
//! message that answers no query of ours never reaches a client. Counters add up. The cache and sockets stay within their
//! budgets. Nothing is left in flight.

#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use nodens::cache::Cache;
use nodens::config::Config;
use nodens::listener::slots::ConnectionSlots;
use nodens::listener::tcp::Accepted;
use nodens::message::query::Query;
use nodens::message::wire::{HEADER_LEN, flag, flags, put_u16};
use nodens::net::network::{Network, NewStream};
use nodens::process::change;
use nodens::process::metrics::Metrics;
use nodens::process::threads::{Command, Commands, Datagrams, Heartbeat, Parts, work};
use nodens::runtime;
use nodens::serving::setup::Setup;
use nodens::serving::top::TopBoard;
use nodens::serving::worker::Shared;
use nodens::upstream::loops::LoopNames;
use nodens::upstream::{Upstreams, probe};
use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinHandle, spawn_local};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::expected::FORGED;
use crate::network::{FarEnd, Host, NAMESERVER, StreamId, Way, World, framed};

#[path = "worker/expected.rs"]
mod expected;
#[path = "worker/network.rs"]
mod network;

/// Configurations of the node. The input chooses when one replaces the other.
static CONFIGURATIONS: LazyLock<[Config; 2]> = LazyLock::new(|| {
    let first = "\
workers: 2
allow: [192.0.2.0/24]
node_name: node
upstreams:
  kube: {servers: [10.96.0.10, 10.96.0.11], deadline: 3s}
  vpc: {servers: [10.1.0.2, tcp://10.1.0.3], policy: fastest, bogus: failover}
routes:
  cluster.local: {group: kube, max_negative_ttl: 5s, stale_on: [nxdomain, empty]}
  six.example: {group: vpc, dns64: \"64:ff9b::/96\"}
  corp.example: {group: kube, rewrite: {from: dev.corp.example, to: svc.cluster.local}}
  off.example: {group: vpc, cache: off, filter: [AAAA]}
  own.example: {answer: NXDOMAIN}
  \".\": [vpc, kube]
records:
  host.test: {A: [192.0.2.77], TXT: [text]}
  alias.test: {CNAME: a.cluster.local}
  \"*.wild.test\": {A: [192.0.2.78]}
cache: {max_size: 64KiB, stale: {max_age: 60s}}
udp: {refused_per_second: 2}
limits: {client_in_flight: 8}
metrics: {coredns: true}
status: {top: all}
";
    let second = first
        .replace("10.1.0.2, ", "")
        .replace("group: kube, max_negative", "group: vpc, max_negative")
        .replace("max_size: 64KiB", "max_size: 128KiB")
        .replace(
            "stale: {max_age: 60s}",
            "stale: {max_age: 60s, after: 0s}, rotate: false",
        );
    [first, &second].map(|yaml| Config::from_yaml(yaml).expect("it is valid"))
});

/// Servers of both configurations.
const SERVERS: [[u8; 4]; 4] = [
    [10, 96, 0, 10],
    [10, 96, 0, 11],
    [10, 1, 0, 2],
    [10, 1, 0, 3],
];

/// Clients. The last one is outside `allow`.
const CLIENTS: [([u8; 4], u16); 4] = [
    ([192, 0, 2, 1], 4_000),
    ([192, 0, 2, 1], 4_001),
    ([192, 0, 2, 2], 4_000),
    ([198, 51, 100, 9], 4_001),
];

const NAMES: [&str; 16] = [
    "a.cluster.local",
    "b.cluster.local",
    "www.example",
    "mail.example",
    "a.six.example",
    "x.dev.corp.example",
    "x.svc.cluster.local",
    "y.off.example",
    "z.own.example",
    "host.test",
    "alias.test",
    "deep.wild.test",
    "77.2.0.192.in-addr.arpa",
    "2.0.0.0.0.0.0.a.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.b.9.f.f.4.6.0.0.ip6.arpa",
    "version.bind",
    "",
];

/// A, AAAA, CNAME, PTR, TXT, SOA, HTTPS, ANY, AXFR, NS, DS, RRSIG, MX, SRV, and two unknown types.
const TYPES: [u16; 16] = [
    1, 28, 5, 12, 16, 6, 65, 255, 252, 2, 43, 46, 15, 33, 0, 65_280,
];

/// TTLs, in seconds.
const TTLS: [u32; 8] = [0, 1, 5, 30, 60, 3_600, 1 << 31, u32::MAX];

/// Most steps of one input. More steps only take longer.
const MOST_STEPS: usize = 100;

/// Longer than any query may take.
const ALL_ANSWERED: Duration = Duration::from_secs(20);

/// Reads the input octet by octet. After its end there are zeros.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn next(&mut self) -> u8 {
        let [octet] = *self.take(1) else { return 0 };
        octet
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn index(&mut self, count: usize) -> usize {
        usize::from(self.next()) % count.max(1)
    }
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        wire.push(u8::try_from(label.len()).expect("short"));
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}

/// A client's query, which is valid or has a damaged octet.
fn query(input: &mut Input<'_>) -> Vec<u8> {
    let [id, name, kind, bits, edns] = [(); 5].map(|()| input.next());
    let flags = u16::from(bits & 1 == 0) * flag::RD
        | u16::from(bits >> 1 & 1) * flag::CD
        | u16::from(bits >> 2 & 1) * flag::AD;
    let mut message = vec![0, id];
    message.extend_from_slice(&flags.to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, edns & 1]);
    let mut qname = wire_name(NAMES[usize::from(name % 16)]);
    if name & 16 != 0 {
        qname.make_ascii_uppercase();
    }
    message.extend_from_slice(&qname);
    message.extend_from_slice(&TYPES[usize::from(kind % 16)].to_be_bytes());
    let class = if name % 16 == 14 { 3 } else { 1 };
    message.extend_from_slice(&[0, class]);
    if edns & 1 != 0 {
        let payload = u16::from(edns >> 4) << 8;
        let version = u8::from(edns & 8 != 0);
        message.extend_from_slice(&[0, 0, 41]);
        message.extend_from_slice(&payload.to_be_bytes());
        message.extend_from_slice(&[0, version, edns << 6 & 0x80, 0]);
        let nsid: &[u8] = if edns & 4 != 0 {
            &[0, 4, 0, 3, 0, 0]
        } else {
            &[0, 0]
        };
        message.extend_from_slice(nsid);
    }
    if bits & 128 != 0 {
        damage(&mut message, input);
    }
    message
}

/// Changes an octet of a message, or cuts the message.
fn damage(message: &mut Vec<u8>, input: &mut Input<'_>) {
    let (at, value) = (input.index(message.len()), input.next());
    if value == 0 {
        message.truncate(at);
    } else {
        message[at] ^= value;
    }
}

/// Appends a record. Returns its section, 0 to 2.
fn record(message: &mut Vec<u8>, input: &mut Input<'_>) -> usize {
    let [what, owner, value] = [(); 3].map(|()| input.next());
    let section = usize::from(what >> 6).min(2);
    let name = if owner & 1 == 0 {
        vec![0xc0, 12]
    } else {
        wire_name(NAMES[usize::from(owner >> 1) % 16])
    };
    let other = wire_name(NAMES[usize::from(value) % 16]);
    let (rtype, rdata): (u16, Vec<u8>) = match what % 10 {
        0 => (1, vec![10, 0, 0, value]),
        1 => (28, [&[0xfd; 15][..], &[value]].concat()),
        2 | 3 => (5, other),
        4 => (6, [&other[..], &other, &[0; 19], &[value]].concat()),
        5 => (16, [&[value][..], &vec![b't'; value.into()]].concat()),
        6 => (2, other),
        7 => {
            // OPT, in some cases with an extended error.
            message.extend_from_slice(&[0, 0, 41, 4, 208, value & 1, 0, value & 0x80, 0]);
            let option: &[u8] = if value & 2 == 0 {
                &[0, 0]
            } else {
                &[0, 7, 0, 15, 0, 3, 0, value >> 2 & 31, b'e']
            };
            message.extend_from_slice(option);
            return 2;
        }
        8 => (TYPES[usize::from(value % 16)], input.take(16).to_vec()),
        _ => {
            // Octets of the input, unchanged.
            message.extend_from_slice(input.take(value.into()));
            return section;
        }
    };
    message.extend_from_slice(&name);
    message.extend_from_slice(&rtype.to_be_bytes());
    message.extend_from_slice(&[0, 1]);
    message.extend_from_slice(&TTLS[usize::from(owner >> 5)].to_be_bytes());
    let length = u16::try_from(rdata.len()).expect("short");
    message.extend_from_slice(&length.to_be_bytes());
    message.extend_from_slice(&rdata);
    section
}

/// A server's response to `query`. `shape` gives the response code and the number of records, which are made from the input.
fn response(query: &[u8], input: &mut Input<'_>, shape: u8) -> Vec<u8> {
    let end = HEADER_LEN + Query::read(query).expect("it was one").section().len();
    let mut message = query[..end].to_vec();
    let code = match shape >> 4 {
        0..=7 => 0,
        8..=10 => 3,
        code => u16::from(code) - 10,
    };
    put_u16(&mut message, 2, flag::QR | flag::RD | flag::RA | code);
    let mut counts = [0; 3];
    for _ in 0..shape % 8 {
        counts[record(&mut message, input)] += 1;
    }
    for (count, at) in counts.into_iter().zip([6, 8, 10]) {
        put_u16(&mut message, at, count);
    }
    message
}

/// The node, its network, and the clients and servers that act on both.
struct Run<'a> {
    input: Input<'a>,
    world: Arc<World>,
    network: Arc<dyn Network>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    upstreams: watch::Sender<Arc<Upstreams>>,
    workers: Vec<Commands>,
    handles: Vec<JoinHandle<std::io::Result<()>>>,
    stop: CancellationToken,
    probes: AbortHandle,
    connections: Vec<StreamId>,
}

impl<'a> Run<'a> {
    fn start(bytes: &'a [u8]) -> Self {
        let world = World::new();
        let network: Arc<dyn Network> = Arc::new(Host(Arc::downgrade(&world)));
        let mut metrics = Metrics::new();
        metrics.count_for_coredns();
        let metrics = Arc::new(metrics);
        let (config, now) = (CONFIGURATIONS[0].clone(), runtime::now());
        let setup = Setup::new(config, None, &metrics.upstream, &network, now);
        let setup = Arc::new(setup.unwrap_or_else(|errors| panic!("{errors:?}")));
        let seeds = ahash::RandomState::with_seeds;
        let shared = Arc::new(Shared {
            current: arc_swap::ArcSwap::new(Arc::clone(&setup)),
            cache: Cache::with_hasher(&setup.config.cache, seeds(1, 2, 3, 4)),
            metrics: metrics.serving.clone(),
            failures: Arc::default(),
            top: TopBoard::default(),
            hasher: seeds(5, 6, 7, 8),
            loops: Arc::new(LoopNames::default()),
            upstream_sockets: 1_024,
        });
        let slots = Arc::new(ConnectionSlots::new(metrics.connections.clone(), 100));
        let stop = CancellationToken::new();
        let (mut workers, mut handles) = (Vec::new(), Vec::new());
        for _ in 0..setup.config.workers.get() {
            let (commands, receiver) = mpsc::unbounded_channel();
            let parts = Parts {
                shared: Arc::clone(&shared),
                slots: Arc::clone(&slots),
                heartbeat: Arc::new(Heartbeat::new()),
                stop: stop.clone(),
                realtime: None,
            };
            handles.push(spawn_local(work(parts, receiver)));
            let socket = Datagrams {
                socket: world.listen(),
                stop: stop.clone(),
            };
            let _ = commands.send(Command::Listen(socket));
            workers.push(commands);
        }
        let (upstreams, receiver) = watch::channel(Arc::clone(&setup.upstreams));
        let probes = probe::run(receiver, Arc::clone(&shared.loops), || ());
        Self {
            input: Input(bytes),
            probes: spawn_local(probes).abort_handle(),
            world,
            network,
            shared,
            metrics,
            upstreams,
            workers,
            handles,
            stop,
            connections: Vec::new(),
        }
    }

    fn client(&mut self) -> SocketAddr {
        CLIENTS[self.input.index(CLIENTS.len())].into()
    }

    fn connection(&mut self) -> Option<StreamId> {
        let index = self.input.index(self.connections.len());
        self.connections.get(index).copied()
    }

    async fn step(&mut self) {
        let what = self.input.next();
        match what % 16 {
            0 | 1 => {
                let (client, message) = (self.client(), query(&mut self.input));
                self.world.lock().datagram(client, message);
            }
            2 => {
                let (client, length) = (self.client(), self.input.next());
                let message = self.input.take(length.into()).to_vec();
                self.world.lock().datagram(client, message);
            }
            3 => self.open(),
            4..=6 => self.write(what % 16).await,
            7 => {
                if let Some(id) = self.connection() {
                    let end = self.input.next();
                    let mut world = self.world.lock();
                    if end & 3 == 0 {
                        world.reset(id);
                    } else {
                        world.finish(id);
                    }
                }
            }
            8..=10 => self.answer(),
            11 => self.connection_to_a_server(),
            12 => {
                let value = self.input.next();
                sleep(Duration::from_millis(u64::from(value))).await;
            }
            13 => {
                let value = self.input.next();
                sleep(Duration::from_millis(u64::from(value % 64) * 250)).await;
            }
            14 => {
                let value = self.input.next();
                let mut world = self.world.lock();
                if value & 128 != 0 {
                    world.unreachable(value.into());
                } else {
                    world.willing.clear();
                    let willing = SERVERS.iter().enumerate();
                    let willing = willing.filter(|(bit, _)| value >> bit & 1 != 0);
                    let willing = willing.map(|(_, &server)| SocketAddr::from((server, 53)));
                    world.willing.extend(willing);
                }
            }
            _ => self.change().await,
        }
        if what & 128 == 0 {
            // Made-up time passes only when all tasks wait.
            sleep(Duration::from_millis(1)).await;
        }
        let most = self.shared.current.load().config.cache.max_size;
        assert!(self.shared.cache.bytes() <= most, "more than it may hold");
    }

    /// A client opens a connection.
    fn open(&mut self) {
        let peer = self.client();
        let (id, near_end) = self.world.open(peer);
        if self.connections.len() < 8 {
            self.connections.push(id);
        }
        let accepted = Accepted {
            stream: NewStream::MadeUp(near_end),
            peer,
            listener: NAMESERVER,
            stop: self.stop.clone(),
            handed_over: None,
        };
        let worker = self.input.index(self.workers.len());
        let _ = self.workers[worker].send(Command::Connection(accepted));
    }

    /// A client writes a query, two queries at once, or any octets, which may be cut.
    async fn write(&mut self, what: u8) {
        let Some(id) = self.connection() else { return };
        let cut = usize::from(self.input.next());
        let octets = match what {
            4 => framed(&query(&mut self.input)),
            5 => {
                let (one, other) = (query(&mut self.input), query(&mut self.input));
                [framed(&one), framed(&other)].concat()
            }
            _ => {
                let length = self.input.next();
                self.input.take(length.into()).to_vec()
            }
        };
        let (one, other) = octets.split_at(cut.min(octets.len()));
        self.world.lock().octets(id, one);
        if !one.is_empty() && !other.is_empty() {
            sleep(Duration::from_millis(1)).await;
        }
        self.world.lock().octets(id, other);
    }

    /// A server sends a message, which may or may not answer a query.
    fn answer(&mut self) {
        let mut world = self.world.lock();
        // Counted from the newest, which is more often a client's query than a probe.
        let index = self.input.index(world.asked.len());
        let index = (world.asked.len().max(1) - 1) - index;
        let [form, shape] = [(); 2].map(|()| self.input.next());
        let asked = if form & 128 == 0 {
            world.asked.remove(index)
        } else {
            // The same query may be answered once more later.
            world.asked.back().map(|asked| network::Asked {
                way: asked.way,
                message: asked.message.clone(),
            })
        };
        let Some(asked) = asked else { return };
        let mut message = match form % 16 {
            0..=7 => response(&asked.message, &mut self.input, shape),
            8 => {
                let mut message = response(&asked.message, &mut self.input, shape);
                let truncated = flags(&message) | flag::TC;
                put_u16(&mut message, 2, truncated);
                message
            }
            9 | 10 => {
                let forged = forged(&asked.message, form % 16 == 9, shape);
                if !world.answers(asked.way, &forged) {
                    world.say(asked.way, forged);
                }
                world.asked.push_back(asked);
                return;
            }
            11 => [&asked.message[..2], self.input.take(shape.into())].concat(),
            12 => self.input.take(shape.into()).to_vec(),
            13 => {
                let mut message = response(&asked.message, &mut self.input, shape);
                damage(&mut message, &mut self.input);
                message
            }
            // The query never gets an answer.
            _ => return,
        };
        world.expected.forged_address_said |= message.windows(4).any(|octets| octets == FORGED);
        if let Way::Stream(id) = asked.way
            && form & 64 != 0
        {
            // The first half of the frame. Octets of the input may follow.
            message = framed(&message);
            message.truncate(message.len() / 2);
            world.octets(id, &message);
            return;
        }
        world.say(asked.way, message);
    }

    fn connection_to_a_server(&mut self) {
        let [what, which, length] = [(); 3].map(|()| self.input.next());
        let mut world = self.world.lock();
        let servers = world.streams.iter();
        let servers = servers.filter(|(_, stream)| stream.far == FarEnd::Server);
        let ids: Vec<StreamId> = servers.map(|(&id, _)| id).collect();
        let id = ids.get(usize::from(which) % ids.len().max(1));
        match (what % 6, id) {
            (0..=2, _) => world.connected(what % 6 != 0),
            (3, Some(&id)) => world.finish(id),
            (4, Some(&id)) => world.reset(id),
            (5, Some(&id)) => {
                let octets = self.input.take(length.into());
                world.expected.forged_address_said |=
                    octets.windows(4).any(|octets| octets == FORGED);
                world.octets(id, octets);
            }
            _ => {}
        }
    }

    /// Puts a configuration in force, or flushes names.
    async fn change(&mut self) {
        let value = self.input.next();
        if value & 4 != 0 {
            self.shared
                .cache
                .flush(|name| name.len() > usize::from(value));
            return;
        }
        let mut config = CONFIGURATIONS[usize::from(value & 1)].clone();
        let old = self.shared.current.load_full();
        config.keep_fixed(&old.config);
        let (upstream, network) = (&self.metrics.upstream, &self.network);
        let setup = Setup::new(config, Some(&old), upstream, network, runtime::now());
        let setup = Arc::new(setup.unwrap_or_else(|errors| panic!("{errors:?}")));
        change::put_in_force(&setup, &self.shared, &self.upstreams, &self.workers).await;
        change::forget_answers(&self.shared, &setup, &old);
        change::forget_servers(&self.metrics.upstream, &setup, &old);
        change::forget_routes(&self.metrics.serving, &setup, &old);
    }

    /// Ends the run: clients send nothing more, and all must come to rest.
    async fn end(mut self) {
        let mut waited = Duration::ZERO;
        let pause = Duration::from_millis(100);
        while self.world.lock().expected.missing() > 0 {
            assert!(
                waited < ALL_ANSWERED,
                "without a reply:\n{}",
                self.world.lock().expected.show()
            );
            waited += pause;
            sleep(pause).await;
        }
        self.probes.abort();
        self.stop.cancel();
        self.workers.clear();
        for handle in self.handles.drain(..) {
            let ended = timeout(ALL_ANSWERED, handle).await;
            let ended = ended.expect("a worker ends when it is told to");
            ended.expect("no panic").expect("no error");
        }
        let text = self.metrics.render();
        let sum = |name: &str| -> u64 {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name));
            let samples = lines.filter(|rest| rest.starts_with(['{', ' ']));
            let values = samples.filter_map(|rest| rest.rsplit(' ').next()?.parse::<u64>().ok());
            values.sum()
        };
        assert_eq!(sum("nodens_in_flight"), 0, "in flight at the end");
        let expected = &self.world.lock().expected;
        let (replies, dropped) = (sum("nodens_replies_total"), sum("nodens_dropped_total"));
        let arrived = expected.arrived;
        // If a client reset its connection, its queries may not have been read, or may be counted as replied.
        let lost = expected.lost();
        assert!(replies + dropped <= arrived && replies + dropped + lost >= arrived);
        assert!(expected.replies <= replies && replies <= expected.replies + lost);
        assert!((expected.silent..=expected.silent + lost).contains(&dropped));
        let most = self.shared.current.load().config.cache.max_size;
        assert!(self.shared.cache.bytes() <= most);
    }
}

/// A forged response: its ID or its question is not the query's.
fn forged(query: &[u8], other_id: bool, change: u8) -> Vec<u8> {
    let read = Query::read(query).expect("it was one");
    let mut message = query[..HEADER_LEN].to_vec();
    if other_id {
        put_u16(&mut message, 0, read.id ^ (u16::from(change) + 1));
        message.extend_from_slice(read.section());
    } else {
        message.extend_from_slice(&[1, change, 0, 0, 1, 0, 1]);
    }
    put_u16(&mut message, 2, flag::QR | flag::RD | flag::RA);
    for (at, count) in [(6, 1), (8, 0), (10, 0)] {
        put_u16(&mut message, at, count);
    }
    message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4]);
    message.extend_from_slice(&FORGED);
    message
}

fuzz_target!(|bytes: &[u8]| {
    fastrand::seed(1);
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .expect("a runtime");
    runtime.block_on(async {
        let mut run = Run::start(bytes);
        for _ in 0..MOST_STEPS {
            if run.input.0.is_empty() {
                break;
            }
            run.step().await;
        }
        run.end().await;
    });
});
