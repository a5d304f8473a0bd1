//! A network without delays. Clients' messages arrive at once. Queries of nodens to servers are kept until the input answers
//! them. Each reply of nodens is checked when it is sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::task::{Context, Poll, Waker};

use nodens::budgets::{UPSTREAM_PORTS, UPSTREAM_PORTS_RETIRED};
use nodens::message::query::Query;
use nodens::message::wire::{HEADER_LEN, flag, id, put_u16};
use nodens::net::network::{Connecting, MadeUpSocket, MadeUpStream, Network, Stream, UdpSocket};
use tokio::sync::oneshot;

use crate::expected::Expected;

pub(crate) const NAMESERVER: SocketAddr = SocketAddr::new(
    std::net::IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 53)),
    53,
);

/// Most queries to servers that are kept. When there are more, the oldest is lost.
const MOST_ASKED: usize = 32;

pub(crate) type StreamId = u64;

/// A query of nodens to a server.
pub(crate) struct Asked {
    pub(crate) way: Way,
    pub(crate) message: Vec<u8>,
}

/// The socket or connection of a query, by which its answer comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Way {
    Datagram(SocketAddr),
    Stream(StreamId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FarEnd {
    Server,
    Client(SocketAddr),
}

pub(crate) struct StreamState {
    pub(crate) far: FarEnd,
    inbox: VecDeque<u8>,
    /// Octets from nodens that are not a complete message yet.
    far_inbox: Vec<u8>,
    /// Octets of a client that are not a complete message yet.
    unfinished: Vec<u8>,
    pub(crate) finished: bool,
    pub(crate) reset: bool,
    pub(crate) closed_here: bool,
    connecting: Option<oneshot::Sender<bool>>,
    waker: Option<Waker>,
}

#[derive(Debug, Default)]
struct SocketState {
    queue: VecDeque<(Vec<u8>, SocketAddr)>,
    unreachable: bool,
    waker: Option<Waker>,
    stopped: bool,
}

type SharedSocket = Arc<Mutex<SocketState>>;

pub(crate) struct World {
    state: Mutex<State>,
}

pub(crate) struct State {
    random: fastrand::Rng,
    /// Sockets to servers by local address, each with its server.
    sockets: BTreeMap<SocketAddr, (SharedSocket, SocketAddr)>,
    listening: Vec<SharedSocket>,
    pub(crate) streams: BTreeMap<StreamId, StreamState>,
    pub(crate) asked: VecDeque<Asked>,
    /// How each query was sent, its ID and its question.
    sent: BTreeSet<(Way, u16, Vec<u8>)>,
    /// Servers that answer each query at once, without the input.
    pub(crate) willing: BTreeSet<SocketAddr>,
    pub(crate) expected: Expected,
    next_port: u16,
    next_stream: StreamId,
}

impl std::fmt::Debug for World {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("World")
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

fn deliver(socket: &SharedSocket, message: Vec<u8>, from: SocketAddr) {
    let mut state = socket.lock().expect("one thread");
    state.queue.push_back((message, from));
    wake(&mut state.waker);
}

/// Removes the complete messages from a stream's octets, and returns them (RFC 1035 §4.2.2).
fn take_messages(octets: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some(&[high, low]) = octets.get(..2) {
        let end = 2 + usize::from(u16::from_be_bytes([high, low]));
        if octets.len() < end {
            break;
        }
        messages.push(octets[2..end].to_vec());
        octets.drain(..end);
    }
    messages
}

/// A message with its length before it.
pub(crate) fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("no message of the input is longer");
    [&length.to_be_bytes(), message].concat()
}

impl World {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                random: fastrand::Rng::with_seed(1),
                sockets: BTreeMap::new(),
                listening: Vec::new(),
                streams: BTreeMap::new(),
                asked: VecDeque::new(),
                sent: BTreeSet::new(),
                willing: BTreeSet::new(),
                expected: Expected::default(),
                next_port: 1_024,
                next_stream: 0,
            }),
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("one thread")
    }

    /// Opens a socket of the nameserver for one worker.
    pub(crate) fn listen(self: &Arc<Self>) -> UdpSocket {
        let state = SharedSocket::default();
        self.lock().listening.push(Arc::clone(&state));
        UdpSocket::MadeUp(Box::new(Socket {
            world: Arc::clone(self),
            state,
            local: NAMESERVER,
            server: None,
        }))
    }

    /// Opens a connection of a client. Returns its number and the end of nodens.
    pub(crate) fn open(self: &Arc<Self>, client: SocketAddr) -> (StreamId, Box<dyn MadeUpStream>) {
        let id = self.lock().new_stream(FarEnd::Client(client));
        let near = NearEnd {
            world: Arc::clone(self),
            id,
        };
        (id, Box::new(near))
    }
}

impl State {
    fn new_stream(&mut self, far: FarEnd) -> StreamId {
        self.next_stream += 1;
        let state = StreamState {
            far,
            inbox: VecDeque::new(),
            far_inbox: Vec::new(),
            unfinished: Vec::new(),
            finished: false,
            reset: false,
            closed_here: false,
            connecting: None,
            waker: None,
        };
        self.streams.insert(self.next_stream, state);
        self.next_stream
    }

    /// A client sends a datagram.
    pub(crate) fn datagram(&mut self, client: SocketAddr, message: Vec<u8>) {
        self.expected.arrived(client, None, &message);
        let index = usize::from(client.port()) % self.listening.len();
        deliver(&self.listening[index], message, client);
    }

    /// The far end of a connection sends octets.
    pub(crate) fn octets(&mut self, id: StreamId, octets: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.finished || stream.reset {
            return;
        }
        if let FarEnd::Client(client) = stream.far {
            stream.unfinished.extend_from_slice(octets);
            for message in take_messages(&mut stream.unfinished) {
                // A query that the client sent before it received our FIN is not served; the client has to repeat it (RFC 7766
                // §6.2.4).
                if !stream.closed_here {
                    self.expected.arrived(client, Some(id), &message);
                }
            }
        }
        stream.inbox.extend(octets);
        wake(&mut stream.waker);
    }

    /// The far end sends a FIN.
    pub(crate) fn finish(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.finished = true;
            wake(&mut stream.waker);
        }
    }

    /// The far end resets the connection.
    pub(crate) fn reset(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reset = true;
            wake(&mut stream.waker);
            self.expected.gone(id);
        }
    }

    /// Accepts or refuses all connections that nodens is opening.
    pub(crate) fn connected(&mut self, accepted: bool) {
        for stream in self.streams.values_mut() {
            if let Some(connecting) = stream.connecting.take() {
                let _ = connecting.send(accepted);
            }
        }
    }

    /// Sends an ICMP error to each socket to a server.
    pub(crate) fn unreachable(&mut self, number: usize) {
        let count = self.sockets.len().max(1);
        if let Some((_, server)) = self.sockets.values().nth(number % count) {
            let server = *server;
            for (socket, to) in self.sockets.values() {
                if *to == server {
                    let mut state = socket.lock().expect("one thread");
                    state.unreachable = true;
                    wake(&mut state.waker);
                }
            }
        }
    }

    /// Whether a message may be the response to a query that was sent this way.
    pub(crate) fn answers(&self, way: Way, message: &[u8]) -> bool {
        let question = message[HEADER_LEN..].to_ascii_lowercase();
        let alike = (way, id(message), Vec::new());
        let sent = self.sent.range(alike..);
        let sent = sent.take_while(|(of, number, _)| (*of, *number) == (way, id(message)));
        sent.into_iter()
            .any(|(_, _, asked)| question.starts_with(asked))
    }

    /// A server sends a message.
    pub(crate) fn say(&mut self, way: Way, message: Vec<u8>) {
        match way {
            Way::Datagram(local) => {
                if let Some((socket, server)) = self.sockets.get(&local) {
                    deliver(socket, message, *server);
                }
            }
            Way::Stream(id) => self.octets(id, &framed(&message)),
        }
    }

    /// Notes and checks a query of nodens to a server.
    fn asks(&mut self, way: Way, server: Option<SocketAddr>, message: &[u8]) {
        let query = Query::read(message).expect("what is sent to a server is a query");
        let question = query.section().to_ascii_lowercase();
        self.sent.insert((way, query.id, question));
        if server.is_some_and(|server| self.willing.contains(&server)) {
            self.say(way, willing_answer(message));
            return;
        }
        if self.asked.len() == MOST_ASKED {
            self.asked.pop_front();
        }
        self.asked.push_back(Asked {
            way,
            message: message.to_vec(),
        });
    }
}

/// A response with an address for each name.
fn willing_answer(query: &[u8]) -> Vec<u8> {
    let read = Query::read(query).expect("it was one");
    let mut message = query[..HEADER_LEN + read.section().len()].to_vec();
    put_u16(&mut message, 2, flag::QR | flag::RD | flag::RA);
    for at in [6, 8, 10] {
        put_u16(&mut message, at, 0);
    }
    if read.qtype == 1 {
        put_u16(&mut message, 6, 1);
        message.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 0, 0, 7]);
    }
    message
}

#[derive(Debug)]
pub(crate) struct Host(pub(crate) Weak<World>);

impl Host {
    fn world(&self) -> Arc<World> {
        self.0.upgrade().expect("a run ends after its nodes")
    }
}

impl Network for Host {
    fn connect_udp(&self, server: SocketAddr) -> io::Result<UdpSocket> {
        let world = self.world();
        let state = SharedSocket::default();
        let mut inner = world.lock();
        inner.next_port += 1;
        let local = SocketAddr::from(([10, 0, 0, 1], inner.next_port));
        inner.sockets.insert(local, (Arc::clone(&state), server));
        let same = inner.sockets.values().filter(|(_, to)| *to == server);
        // The budgets of two workers, and some more sockets for probes.
        let most = 2 * (UPSTREAM_PORTS + UPSTREAM_PORTS_RETIRED) + 4;
        assert!(same.count() <= most, "more sockets than the budget");
        drop(inner);
        Ok(UdpSocket::MadeUp(Box::new(Socket {
            world,
            state,
            local,
            server: Some(server),
        })))
    }

    fn connect_tcp(&self, server: SocketAddr) -> Connecting {
        let world = self.world();
        Box::pin(async move {
            let (done, is_done) = oneshot::channel();
            let id = {
                let mut inner = world.lock();
                let id = inner.new_stream(FarEnd::Server);
                if inner.willing.contains(&server) {
                    let _ = done.send(true);
                } else if let Some(stream) = inner.streams.get_mut(&id) {
                    stream.connecting = Some(done);
                }
                id
            };
            let near = NearEnd { world, id };
            match is_done.await {
                Ok(true) => Ok(Stream::MadeUp(Box::new(near))),
                _ => Err(io::ErrorKind::ConnectionRefused.into()),
            }
        })
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        self.world().lock().random.fill(bytes);
    }
}

#[derive(Debug)]
struct Socket {
    world: Arc<World>,
    state: SharedSocket,
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
        if self.server.is_some() {
            self.world.lock().sockets.remove(&self.local);
        }
    }
}

impl MadeUpSocket for Socket {
    fn local_address(&self) -> SocketAddr {
        self.local
    }

    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.queue.is_empty() && !state.unreachable {
            state.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn take_error(&self) -> Option<io::Error> {
        let unreachable = std::mem::take(&mut self.state().unreachable);
        unreachable.then(|| io::ErrorKind::HostUnreachable.into())
    }

    fn receive(&self) -> Option<(Vec<u8>, SocketAddr)> {
        self.state().queue.pop_front()
    }

    fn send(&self, message: &[u8], to: Option<SocketAddr>) -> io::Result<()> {
        if let Some(error) = self.take_error() {
            return Err(error);
        }
        let mut inner = self.world.lock();
        match (self.server, to) {
            (Some(server), _) => inner.asks(Way::Datagram(self.local), Some(server), message),
            (None, Some(client)) => inner.expected.replied(client, None, message),
            (None, None) => panic!("a reply to nobody"),
        }
        Ok(())
    }

    fn stop_receiving(&self) {
        self.state().stopped = true;
    }
}

#[derive(Debug)]
struct NearEnd {
    world: Arc<World>,
    id: StreamId,
}

impl NearEnd {
    fn with<T>(&self, look: impl FnOnce(&mut StreamState) -> T) -> T {
        let mut inner = self.world.lock();
        let stream = inner.streams.get_mut(&self.id);
        look(stream.expect("a stream is there until nodens lets go of it"))
    }
}

impl Drop for NearEnd {
    fn drop(&mut self) {
        self.world.lock().streams.remove(&self.id);
    }
}

impl MadeUpStream for NearEnd {
    fn poll_readable(&self, context: &mut Context<'_>) -> Poll<()> {
        self.with(|stream| {
            if stream.inbox.is_empty() && !stream.finished && !stream.reset {
                stream.waker = Some(context.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(())
        })
    }

    fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|stream| {
            if stream.reset {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            if stream.inbox.is_empty() {
                return if stream.finished {
                    Ok(0)
                } else {
                    Err(io::ErrorKind::WouldBlock.into())
                };
            }
            let count = stream.inbox.len().min(buffer.len());
            for (place, octet) in buffer.iter_mut().zip(stream.inbox.drain(..count)) {
                *place = octet;
            }
            Ok(count)
        })
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let (far, messages) = self.with(|stream| {
            if stream.reset {
                return Err(io::Error::from(io::ErrorKind::BrokenPipe));
            }
            assert!(!stream.closed_here, "octets behind a FIN");
            stream.far_inbox.extend_from_slice(bytes);
            Ok((stream.far, take_messages(&mut stream.far_inbox)))
        })?;
        let mut inner = self.world.lock();
        for message in messages {
            match far {
                FarEnd::Server => inner.asks(Way::Stream(self.id), None, &message),
                FarEnd::Client(client) => inner.expected.replied(client, Some(self.id), &message),
            }
        }
        Ok(())
    }

    fn shut_down(&self) {
        self.with(|stream| {
            assert!(stream.far_inbox.is_empty(), "a FIN within a message");
            stream.closed_here = true;
        });
    }

    fn has_unread(&self) -> bool {
        self.with(|stream| !stream.inbox.is_empty())
    }
}
