//! A made-up network on made-up time: a queue of events, a random number generator, sockets and connections.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use nodens::budgets::{UPSTREAM_PORTS, UPSTREAM_PORTS_RETIRED, UPSTREAM_STREAMS};
use nodens::net::network::{Connecting, MadeUpSocket, MadeUpStream, Network, Stream, UdpSocket};
use nodens::runtime;
use tokio::sync::oneshot;

use crate::clients::Clients;
use crate::names::Names;
use crate::run::WORKERS;
use crate::servers::Servers;
use crate::standstill::Progress;

/// Microseconds since the start.
pub(crate) type Micros = u64;

pub(crate) const SECOND: Micros = 1_000_000;

/// Factor on the budgets of a worker's sockets to a server. There are further sockets: those of probes, those whose readers are
/// about to end, and after a reload those of queries from before it.
const AT_ONCE: usize = 2;

/// The address that clients send queries to.
pub(crate) const NAMESERVER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 53)),
    53,
);

/// An event at one moment.
#[derive(Debug)]
pub(crate) enum Event {
    /// A datagram reaches a server.
    AtServer {
        server: SocketAddr,
        from: SocketAddr,
        sent: Sent,
        message: Vec<u8>,
    },
    /// A datagram reaches one of the node's upstream sockets.
    AtSocket {
        socket: SocketAddr,
        from: SocketAddr,
        message: Vec<u8>,
    },
    /// An ICMP error reaches a socket: from the server's host, that no socket listens, or from a router, that the host cannot
    /// be reached.
    Unreachable { socket: SocketAddr, host: bool },
    /// A datagram reaches the nameserver.
    AtNameserver {
        client: SocketAddr,
        message: Vec<u8>,
    },
    /// A datagram reaches a client.
    AtClient {
        client: SocketAddr,
        message: Vec<u8>,
    },
    /// A connection that the node opens is established or refused.
    Connected { stream: StreamId, accepted: bool },
    /// Octets reach the other end of a connection.
    AtFarEnd { stream: StreamId, octets: Vec<u8> },
    /// Octets reach the node's end.
    AtNearEnd { stream: StreamId, octets: Vec<u8> },
    /// A FIN reaches the node's end.
    Finished { stream: StreamId },
    /// The other end is reset.
    Reset { stream: StreamId },
    /// A client asks a question.
    Ask,
    /// A client's timeout: it checks whether it was answered.
    Impatient { client: SocketAddr },
    /// The deadline of a query: it must have been answered.
    Due {
        client: SocketAddr,
        id: u16,
        arrived: Micros,
    },
    /// The authority changes a name.
    NameChange,
    /// A server begins to misbehave.
    Fault,
    /// A whole group of servers begins a long outage.
    Outage,
    /// A server that misbehaved works again.
    Recovery { server: SocketAddr, fault: u64 },
    /// The node must know by now that a server works again.
    Believed { server: SocketAddr, fault: u64 },
}

pub(crate) type StreamId = u64;

/// Numbers of instances of nodens, in the order of their starts.
pub(crate) type Instance = u32;

/// Which instance sent a query to a server, and when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sent {
    pub(crate) by: Instance,
    pub(crate) at: Micros,
}

struct Timed {
    at: Micros,
    number: u64,
    event: Event,
}

impl PartialEq for Timed {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Events that happen `delay` after they were added.
struct Wait {
    delay: Micros,
    events: VecDeque<Timed>,
}

/// The queue of events, and the node's sockets and connections.
pub(crate) struct Net {
    pub(crate) now: Micros,
    progress: Arc<Progress>,
    pub(crate) random: fastrand::Rng,
    events: BinaryHeap<Reverse<Timed>>,
    /// Events that happen long after they were added, always after one of a few delays, so that each list is sorted. They are
    /// many, and would slow down `events`.
    waits: Vec<Wait>,
    number: u64,
    driver: Option<Waker>,
    sockets: Table<SocketAddr, Arc<Mutex<SocketState>>>,
    /// Number of sockets of each instance to each server.
    sockets_towards: Table<(Instance, Option<SocketAddr>), usize>,
    /// The nameserver's sockets, one for each worker. Those of the latest instance come last.
    listening: Vec<Arc<Mutex<SocketState>>>,
    pub(crate) streams: BTreeMap<StreamId, StreamState>,
    next_port: u16,
    next_stream: StreamId,
    pub(crate) most_sockets: usize,
    instances: Instance,
    /// Instances that were killed. Messages that their remaining tasks send are dropped.
    killed: BTreeSet<Instance>,
    pub(crate) violation: Option<String>,
    pub(crate) trace: Trace,
}

/// A hash of all events, and on request the last lines of a log.
#[derive(Default)]
pub(crate) struct Trace {
    hash: u64,
    pub(crate) lines: Option<VecDeque<String>>,
}

const LINES: usize = 200_000;

impl Trace {
    fn mix(&mut self, value: u64) {
        self.hash = (self.hash.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn octets(&mut self, octets: &[u8]) {
        let (eights, rest) = octets.as_chunks();
        for eight in eights {
            self.mix(u64::from_le_bytes(*eight));
        }
        let fold = |number, octet: &u8| number << 8 | u64::from(*octet);
        self.mix(rest.iter().fold(octets.len() as u64, fold));
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    pub(crate) fn line(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            if lines.len() == LINES {
                lines.pop_front();
            }
            lines.push_back(line());
        }
    }
}

impl Net {
    pub(crate) fn after(&mut self, delay: Micros, event: Event) {
        self.number += 1;
        let at = self.now + delay;
        let earliest = self
            .events
            .peek()
            .is_none_or(|Reverse(first)| at < first.at);
        self.events.push(Reverse(Timed {
            at,
            number: self.number,
            event,
        }));
        if earliest && let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// As `after`, for events with one of a few fixed delays.
    pub(crate) fn after_always(&mut self, delay: Micros, event: Event) {
        self.number += 1;
        let timed = Timed {
            at: self.now + delay,
            number: self.number,
            event,
        };
        // Called while an event is handled. The driver looks up the next event after that, so it need not be woken.
        if let Some(wait) = self.waits.iter_mut().find(|wait| wait.delay == delay) {
            wait.events.push_back(timed);
        } else {
            let events = VecDeque::from([timed]);
            self.waits.push(Wait { delay, events });
        }
    }

    /// The time of the first event, and the index of the list in `waits` that has it; None if it is in `events`.
    fn first(&self) -> Option<(Micros, Option<usize>)> {
        let other = self.events.peek();
        let mut first = other.map(|Reverse(other)| (other.at, other.number, None));
        for (index, wait) in self.waits.iter().enumerate() {
            if let Some(next) = wait.events.front()
                && first.is_none_or(|(at, number, _)| (next.at, next.number) < (at, number))
            {
                first = Some((next.at, next.number, Some(index)));
            }
        }
        first.map(|(at, _, wait)| (at, wait))
    }

    /// A random pause, exponentially distributed with this mean.
    pub(crate) fn about(&mut self, mean: Micros) -> Micros {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "microseconds of minutes at most"
        )]
        {
            (-logarithm(1.0 - self.random.f64()) * mean as f64) as Micros
        }
    }

    pub(crate) fn violated(&mut self, what: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some(format!("at {:.6} s: {}", seconds(self.now), what()));
            if let Some(driver) = self.driver.take() {
                driver.wake();
            }
        }
    }

    fn next_due(&mut self) -> Option<Event> {
        let (at, wait) = self.first()?;
        if at > self.now {
            return None;
        }
        let Timed { event, .. } = match wait {
            Some(index) => self.waits[index].events.pop_front()?,
            None => self.events.pop()?.0,
        };
        self.trace.mix(at);
        self.progress.touched(self.now);
        Some(event)
    }

    fn unreachable(&self, socket: SocketAddr, why: io::ErrorKind) {
        if let Some(there) = self.sockets.get(&socket) {
            let mut state = there.lock().expect("one thread");
            state.unreachable = Some(why);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    /// Chooses a socket for a client as the kernel does among sockets that share a port: by the client's address.
    fn listener_for(&self, client: SocketAddr) -> Option<Arc<Mutex<SocketState>>> {
        let takes = |socket: &&Arc<Mutex<SocketState>>| !socket.lock().expect("one thread").stopped;
        let open = || self.listening.iter().filter(takes);
        let index = usize::from(client.port()) % open().count().max(1);
        open().nth(index).map(Arc::clone)
    }

    fn deliver(socket: &Mutex<SocketState>, message: Vec<u8>, from: SocketAddr) {
        let mut state = socket.lock().expect("one thread");
        state.queue.push_back((message, from));
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// A free local address for a socket.
    fn bind(&mut self, state: &Arc<Mutex<SocketState>>) -> SocketAddr {
        let (instance, server) = {
            let state = state.lock().expect("one thread");
            (state.instance, state.server)
        };
        let count = self.sockets_towards.entry((instance, server)).or_default();
        *count += 1;
        let count = *count;
        let most = AT_ONCE * WORKERS * (UPSTREAM_PORTS + UPSTREAM_PORTS_RETIRED);
        if count > most {
            self.violated(|| {
                format!("{count} sockets towards {server:?} are open, and {most} may be")
            });
        }
        let mut local = SocketAddr::from(([10, 0, 0, 1], self.next_port));
        while self.sockets.contains_key(&local) {
            self.next_port = self.next_port.checked_add(1).unwrap_or(1_024);
            local.set_port(self.next_port);
        }
        self.sockets.insert(local, Arc::clone(state));
        self.most_sockets = self.most_sockets.max(self.sockets.len());
        local
    }

    /// Changes the node's end of a connection, and wakes its reader.
    fn near(&mut self, stream: StreamId, change: impl FnOnce(&mut StreamState)) {
        if let Some(state) = self.streams.get_mut(&stream) {
            change(state);
            if let Some(waker) = state.waker.take() {
                waker.wake();
            }
        }
    }

    pub(crate) fn new_stream(&mut self, far: FarEnd) -> StreamId {
        self.next_stream += 1;
        self.streams.insert(self.next_stream, StreamState::new(far));
        self.next_stream
    }

    /// Opens a connection of an instance to a server.
    fn new_stream_to(&mut self, server: SocketAddr, instance: Instance) -> StreamId {
        let id = self.new_stream(FarEnd::Server(server));
        let of_it = |state: &&StreamState| {
            state.far == FarEnd::Server(server) && state.instance == Some(instance)
        };
        let count = self.streams.values().filter(of_it).count() + 1;
        let most = AT_ONCE * WORKERS * UPSTREAM_STREAMS;
        if count > most {
            self.violated(|| format!("{count} streams to {server} are open, and {most} may be"));
        }
        self.near(id, |state| state.instance = Some(instance));
        id
    }
}

/// A table with fixed seeds, so that its order is the same in each run. Nothing may depend on that order, because it is
/// ahash's.
pub(crate) type Table<K, V> = HashMap<K, V, ahash::RandomState>;

pub(crate) fn table<K, V>() -> Table<K, V> {
    Table::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4))
}

/// The natural logarithm of a number over 0 and up to 1. The functions of different C libraries may differ in the last bit.
fn logarithm(number: f64) -> f64 {
    const LN_2: f64 = std::f64::consts::LN_2;
    let (mut rest, mut halves) = (number, 0.0);
    while rest < 0.75 {
        rest *= 2.0;
        halves += 1.0;
    }
    // ln x = 2 artanh((x - 1) / (x + 1)), whose argument is within 1/5 of 0.
    let (part, mut sum) = ((rest - 1.0) / (rest + 1.0), 0.0);
    for odd in [11.0, 9.0, 7.0, 5.0, 3.0, 1.0] {
        sum = sum * part * part + 1.0 / odd;
    }
    2.0 * part * sum - halves * LN_2
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
pub(crate) fn seconds(micros: Micros) -> f64 {
    micros as f64 / 1e6
}

/// Removes the complete messages from a stream's octets, and returns them (RFC 1035 §4.2.2).
pub(crate) fn take_messages(octets: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(&[high, low]) = octets.get(..2) {
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        if octets.len() < end {
            break;
        }
        let frame: Vec<u8> = octets.drain(..end).collect();
        messages.push(frame[2..].to_vec());
    }
    messages
}

/// The peer of the node's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FarEnd {
    Server(SocketAddr),
    Client(SocketAddr),
}

/// A connection.
pub(crate) struct StreamState {
    pub(crate) far: FarEnd,
    inbox: VecDeque<u8>,
    /// Octets at the other end that are not a complete message yet.
    pub(crate) far_inbox: Vec<u8>,
    /// A FIN reached the node.
    finished: bool,
    reset: bool,
    /// The node sent a FIN, or dropped the connection.
    pub(crate) closed_here: bool,
    waker: Option<Waker>,
    connecting: Option<oneshot::Sender<bool>>,
    /// The instance at the near end.
    pub(crate) instance: Option<Instance>,
}

impl StreamState {
    fn new(far: FarEnd) -> Self {
        Self {
            far,
            inbox: VecDeque::new(),
            far_inbox: Vec::new(),
            finished: false,
            reset: false,
            closed_here: false,
            waker: None,
            connecting: None,
            instance: None,
        }
    }
}

/// All of it.
pub(crate) struct Inner {
    pub(crate) net: Net,
    pub(crate) names: Names,
    pub(crate) servers: Servers,
    pub(crate) clients: Clients,
}

pub(crate) struct World {
    inner: Mutex<Inner>,
    start: Instant,
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("World")
    }
}

impl World {
    pub(crate) fn new(
        seed: u64,
        lines: bool,
        progress: Arc<Progress>,
        make: impl FnOnce(&mut Net) -> (Names, Servers, Clients),
    ) -> Arc<Self> {
        let mut net = Net {
            now: 0,
            progress,
            random: fastrand::Rng::with_seed(seed),
            events: BinaryHeap::new(),
            waits: Vec::new(),
            number: 0,
            driver: None,
            sockets: table(),
            sockets_towards: table(),
            listening: Vec::new(),
            streams: BTreeMap::new(),
            next_port: 1_024,
            next_stream: 0,
            most_sockets: 0,
            instances: 0,
            killed: BTreeSet::new(),
            violation: None,
            trace: Trace {
                hash: seed,
                lines: lines.then(VecDeque::new),
            },
        };
        let (names, servers, clients) = make(&mut net);
        Arc::new(Self {
            inner: Mutex::new(Inner {
                net,
                names,
                servers,
                clients,
            }),
            start: runtime::now(),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().expect("one thread");
        let now = runtime::since(self.start).as_micros();
        inner.net.now = inner
            .net
            .now
            .max(u64::try_from(now).expect("less than ages"));
        inner.net.progress.touched(inner.net.now);
        inner
    }

    /// The number for a new instance.
    pub(crate) fn new_instance(&self) -> Instance {
        let net = &mut self.lock().net;
        net.instances += 1;
        net.instances
    }

    /// Opens a socket of the nameserver for one worker.
    pub(crate) fn listen(self: &Arc<Self>, instance: Instance) -> UdpSocket {
        let state = SocketState::new(instance, None);
        self.lock().net.listening.push(Arc::clone(&state));
        UdpSocket::MadeUp(Box::new(Socket {
            world: Arc::clone(self),
            state,
            local: NAMESERVER,
            server: None,
        }))
    }

    /// The node's end of a connection that a client opened.
    pub(crate) fn near_end(
        self: &Arc<Self>,
        stream: StreamId,
        instance: Instance,
    ) -> Box<dyn MadeUpStream> {
        if let Some(state) = self.lock().net.streams.get_mut(&stream) {
            state.instance = Some(instance);
        }
        Box::new(NearEnd {
            world: Arc::clone(self),
            id: stream,
            instance,
        })
    }

    /// Kills an instance: its sockets and connections are gone.
    pub(crate) fn kill(&self, instance: Instance) {
        let inner = &mut *self.lock();
        inner.clients.forget_pending();
        let net = &mut inner.net;
        net.killed.insert(instance);
        let lives = |socket: &Arc<Mutex<SocketState>>| {
            socket.lock().expect("one thread").instance != instance
        };
        net.listening.retain(|socket| lives(socket));
        net.sockets.retain(|_, socket| lives(socket));
        // The clients' connections are reset, and the queries on them are lost.
        let clients = &mut inner.clients;
        net.streams.retain(|_, state| {
            let lives = state.instance != Some(instance);
            if let (false, FarEnd::Client(client)) = (lives, state.far) {
                clients.reset(client);
            }
            lives
        });
    }

    /// Handles events in their order until `end`, or until a rule is violated.
    pub(crate) async fn run(&self, end: Micros) {
        let mut sleep = pin!(tokio::time::sleep_until(self.start.into()));
        poll_fn(|context| {
            loop {
                let next = {
                    let mut inner = self.lock();
                    inner.all_due();
                    if inner.net.violation.is_some() {
                        return Poll::Ready(());
                    }
                    inner.net.driver = Some(context.waker().clone());
                    let next = inner.net.first().map_or(end, |(at, _)| at);
                    if inner.net.now >= end {
                        return Poll::Ready(());
                    }
                    next.min(end)
                };
                let at = self.start + Duration::from_micros(next);
                sleep.as_mut().reset(at.into());
                if sleep.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }
}

impl Inner {
    fn all_due(&mut self) {
        while self.net.violation.is_none()
            && let Some(event) = self.net.next_due()
        {
            self.happen(event);
        }
    }

    fn happen(&mut self, event: Event) {
        let Self {
            net,
            names,
            servers,
            clients,
        } = self;
        match event {
            Event::AtServer {
                server,
                from,
                sent,
                message,
            } => {
                servers.datagram(net, names, (server, from, sent), &message);
            }
            Event::AtSocket {
                socket,
                from,
                message,
            } => {
                net.trace.octets(&message);
                if let Some(there) = net.sockets.get(&socket) {
                    servers.heard(names, from, &message);
                    Net::deliver(there, message, from);
                }
            }
            Event::Unreachable { socket, host } => net.unreachable(
                socket,
                if host {
                    io::ErrorKind::ConnectionRefused
                } else {
                    io::ErrorKind::HostUnreachable
                },
            ),
            Event::AtNameserver { client, message } => {
                if let Some(socket) = net.listener_for(client) {
                    clients.query_arrived(net, names, client, &message);
                    Net::deliver(&socket, message, client);
                }
            }
            Event::AtClient { client, message } => {
                net.trace.octets(&message);
                clients.answered(net, client, &message);
            }
            Event::Connected { stream, accepted } => {
                let state = net.streams.get_mut(&stream);
                if let Some(connecting) = state.and_then(|state| state.connecting.take()) {
                    let _ = connecting.send(accepted);
                }
            }
            Event::AtFarEnd { stream, octets } => {
                let far = net.streams.get(&stream).map(|state| state.far);
                if let Some(FarEnd::Server(server)) = far {
                    servers.octets(net, names, server, stream, &octets);
                }
            }
            Event::AtNearEnd { stream, octets } => {
                net.trace.octets(&octets);
                let far = net.streams.get(&stream).map(|state| state.far);
                if let Some(FarEnd::Client(client)) = far {
                    clients.octets_arrived(net, names, client, &octets);
                }
                net.near(stream, |state| state.inbox.extend(octets));
            }
            Event::Finished { stream } => net.near(stream, |state| state.finished = true),
            Event::Reset { stream } => net.near(stream, |state| state.reset = true),
            Event::Ask => clients.ask(net, names),
            Event::Impatient { client } => clients.impatient(net, client),
            Event::Due {
                client,
                id,
                arrived,
            } => clients.due(net, client, id, arrived),
            Event::NameChange => names.change(net),
            Event::Fault => servers.fault(net),
            Event::Outage => servers.outage(net),
            Event::Recovery { server, fault } => servers.recover(net, server, fault),
            Event::Believed { server, fault } => servers.must_be_believed(net, server, fault),
        }
    }
}

/// The network as an instance sees it.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) world: Weak<World>,
    pub(crate) instance: Instance,
}

impl Host {
    fn world(&self) -> Arc<World> {
        self.world.upgrade().expect("a run ends after its nodes")
    }
}

impl Network for Host {
    fn connect_udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let world = self.world();
        let state = SocketState::new(self.instance, Some(server));
        let local = world.lock().net.bind(&state);
        Ok(UdpSocket::MadeUp(Box::new(Socket {
            world,
            state,
            local,
            server: Some(server),
        })))
    }

    fn connect_tcp(&self, server: SocketAddr) -> Connecting {
        let (world, instance) = (self.world(), self.instance);
        Box::pin(async move {
            let (done, is_done) = oneshot::channel();
            let id = {
                let inner = &mut *world.lock();
                let id = inner.net.new_stream_to(server, instance);
                let state = inner.net.streams.get_mut(&id);
                state.expect("it is new").connecting = Some(done);
                inner.servers.connect(&mut inner.net, server, id);
                id
            };
            let near = NearEnd {
                world,
                id,
                instance,
            };
            match is_done.await {
                Ok(true) => Ok(Stream::MadeUp(Box::new(near))),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.world().lock().net.random.fill(bytes);
    }
}

/// A UDP socket.
#[derive(Debug)]
struct SocketState {
    instance: Instance,
    /// None for a socket of the nameserver.
    server: Option<SocketAddr>,
    queue: VecDeque<(Vec<u8>, SocketAddr)>,
    unreachable: Option<io::ErrorKind>,
    waker: Option<Waker>,
    stopped: bool,
}

impl SocketState {
    fn new(instance: Instance, server: Option<SocketAddr>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Self {
            instance,
            server,
            queue: VecDeque::new(),
            unreachable: None,
            waker: None,
            stopped: false,
        }))
    }
}

#[derive(Debug)]
struct Socket {
    world: Arc<World>,
    state: Arc<Mutex<SocketState>>,
    local: SocketAddr,
    /// None for a socket of the nameserver.
    server: Option<SocketAddr>,
}

impl Socket {
    fn state(&self) -> MutexGuard<'_, SocketState> {
        self.state.lock().expect("one thread")
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut inner = self.world.inner.lock().expect("one thread");
        if self.server.is_some() {
            let whose = (self.state().instance, self.server);
            if let Some(count) = inner.net.sockets_towards.get_mut(&whose) {
                *count -= 1;
            }
            // If the instance was killed, another instance may use the port already.
            let sockets = &mut inner.net.sockets;
            if sockets
                .get(&self.local)
                .is_some_and(|socket| Arc::ptr_eq(socket, &self.state))
            {
                sockets.remove(&self.local);
            }
        } else {
            inner
                .net
                .listening
                .retain(|socket| !Arc::ptr_eq(socket, &self.state));
        }
    }
}

impl MadeUpSocket for Socket {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.queue.is_empty() && state.unreachable.is_none() {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn take_error(&self) -> Option<io::Error> {
        self.state().unreachable.take().map(io::Error::from)
    }

    fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        self.state().queue.pop_front()
    }

    fn send(&self, message: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let instance = self.state().instance;
        let inner = &mut *self.world.lock();
        if inner.net.killed.contains(&instance) {
            return Ok(());
        }
        match (self.server, to) {
            (Some(server), _) => {
                let sent = Sent {
                    by: instance,
                    at: inner.net.now,
                };
                let way = (self.local, server);
                inner
                    .servers
                    .sent(&mut inner.net, &inner.names, way, sent, message);
            }
            (None, Some(client)) => {
                inner.clients.reply_left(
                    &mut inner.net,
                    (&inner.names, &inner.servers),
                    client,
                    instance,
                    message,
                );
            }
            (None, None) => return Err(io::ErrorKind::NotConnected.into()),
        }
        Ok(())
    }

    fn stop_receiving(&self) {
        self.state().stopped = true;
    }
}

/// The node's end of a connection.
#[derive(Debug)]
struct NearEnd {
    world: Arc<World>,
    id: StreamId,
    instance: Instance,
}

impl NearEnd {
    fn with<T>(&self, look: impl FnOnce(&mut StreamState) -> T) -> T {
        let inner = &mut *self.world.lock();
        let state = inner.net.streams.get_mut(&self.id);
        // The connection is gone if its instance was killed.
        let mut gone = StreamState::new(FarEnd::Server(NAMESERVER));
        gone.reset = true;
        look(state.unwrap_or(&mut gone))
    }
}

impl Drop for NearEnd {
    fn drop(&mut self) {
        let mut inner = self.world.inner.lock().expect("one thread");
        let Inner { net, clients, .. } = &mut *inner;
        if let Some(state) = net.streams.remove(&self.id)
            && let FarEnd::Client(client) = state.far
            && !state.closed_here
        {
            clients.connection_ended(net, client);
        }
    }
}

impl MadeUpStream for NearEnd {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.with(|state| {
            if state.inbox.is_empty() && !state.finished && !state.reset {
                state.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            if state.reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if state.inbox.is_empty() {
                return if state.finished {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                };
            }
            let count = state.inbox.len().min(buffer.len());
            for (place, octet) in buffer.iter_mut().zip(state.inbox.drain(..count)) {
                *place = octet;
            }
            Ok(count)
        })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        if self.with(|state| state.reset) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let inner = &mut *self.world.lock();
        let Some(state) = inner.net.streams.get(&self.id) else {
            return Ok(());
        };
        if inner.net.killed.contains(&self.instance) {
            return Ok(());
        }
        match state.far {
            FarEnd::Server(server) => inner.servers.wrote(&mut inner.net, server, self.id, bytes),
            FarEnd::Client(client) => {
                inner.clients.octets_left(
                    &mut inner.net,
                    (&inner.names, &inner.servers),
                    (client, self.id),
                    self.instance,
                    bytes,
                );
            }
        }
        Ok(())
    }

    fn shut_down(&self) {
        let inner = &mut *self.world.lock();
        let Inner { net, clients, .. } = inner;
        let Some(state) = net.streams.get_mut(&self.id) else {
            return;
        };
        state.closed_here = true;
        let far = state.far;
        if let FarEnd::Client(client) = far {
            clients.connection_ended(net, client);
            // A client that still exists answers a FIN at once.
            net.after(300, Event::Finished { stream: self.id });
        }
    }

    fn has_unread(&self) -> bool {
        self.with(|state| !state.inbox.is_empty())
    }
}
