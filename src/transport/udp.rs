//! UDP exchanges with one server: a pool of connected sockets on random ports (RFC 5452 §9.2).
//!
//! A datagram is accepted only if its source (the socket is connected), ID and question match. All others are counted and
//! ignored, and the query goes on waiting. A socket is replaced when it is old, when it has sent many queries, and after a
//! mismatch. After many mismatches a socket is closed at once, and its queries are sent again from other ports.
//!
//! A socket on which a query was overdue is silent until that query is answered. Through kube-proxy, another source port may
//! lead to another endpoint, so further queries are sent from sockets that have received answers since, or else from new ones.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::exchange::Exchange;
use super::in_flight::{Answered, Arrived, InFlight};
use super::metrics::SocketUse;
use super::peer::{Carrier, Peer};
use super::random::Unpredictable;
use crate::budgets::{
    MOVES_PER_EXCHANGE, UNMATCHED_PER_PORT, UPSTREAM_PORTS, UPSTREAM_PORTS_RETIRED,
};
use crate::metrics::repeated::Repeated;
use crate::net::batch::ReceiveBatch;
use crate::net::network::Network;
use crate::net::open::shortage;
use crate::net::watched::{Ready, Watched, receive};
use crate::runtime;
use crate::runtime::Turns;

/// A socket older than this is replaced, so that an attacker who has found out its port cannot use it for long.
const MAX_AGE: Duration = Duration::from_secs(30);
/// A socket that has sent this many queries is replaced.
const MAX_USES: u32 = 10_000;
/// Most queries in a burst: up to this many queries within [`BURST_TIME`] are sent from one socket, so that their answers are
/// read by one call. Each burst draws its socket at random, so that guessing the port is no easier.
const BURST: u32 = 16;
/// How long a burst may last: about as long as it takes to handle one batch of misses.
const BURST_TIME: Duration = Duration::from_micros(200);
/// For this long after this host was out of sockets, none is opened, and the open ones stay in use: the kernel takes long to
/// look for a free port among tens of thousands.
const SHORTAGE: Duration = Duration::from_secs(1);
/// ICMP errors no further apart than this are taken to have one cause: an endpoint of a Service is gone, and until kube-proxy
/// knows, new sockets may lead to it, too.
const ONE_REASON: Duration = Duration::from_secs(10);
/// For this long, a silent socket is set aside if others receive answers, and not replaced: a new socket may lead to the same
/// endpoint of a Service, which is gone. kube-proxy takes a second or two to learn that.
const SET_ASIDE: Duration = Duration::from_secs(3);
/// Datagrams that one call reads from a socket.
const BATCH: usize = 16;
/// Octets that are read of a datagram. Queries allow [`crate::message::wire::MAX_PAYLOAD`]. Some servers send more; a datagram
/// longer than this counts as truncated.
const DATAGRAM_LEN: usize = 4096;
/// UDP sockets in use, retired UDP sockets that wait for late answers, and streams.
const KINDS_OF_SOCKETS: usize = 3;

/// State that all transports of a worker share.
#[derive(Clone)]
pub struct Shared {
    receive: Rc<RefCell<ReceiveBatch>>,
    pub(super) random: Rc<RefCell<Unpredictable>>,
    /// Buffer for the query that is being sent.
    message: Rc<RefCell<Vec<u8>>>,
    /// Most sockets of each of the [`KINDS_OF_SOCKETS`] that may be open to one server.
    sockets_per_server: Rc<Cell<usize>>,
    cannot_open: Rc<Repeated>,
    /// The worker's turns.
    pub turns: Turns,
}

impl Shared {
    /// The state for one worker, with its turns and the network's random numbers.
    #[must_use]
    pub fn new(turns: &Turns, network: &Arc<dyn Network>) -> Self {
        Self {
            receive: Rc::new(RefCell::new(ReceiveBatch::new(BATCH, DATAGRAM_LEN))),
            random: Rc::new(RefCell::new(Unpredictable::new(network))),
            message: Rc::default(),
            sockets_per_server: Rc::new(Cell::new(UPSTREAM_PORTS)),
            cannot_open: Rc::default(),
            turns: turns.clone(),
        }
    }

    /// Divides a worker's file descriptors for upstream sockets evenly among its servers. Each server may have at least one
    /// socket of each kind.
    pub fn share_out(&self, sockets: usize, servers: usize) {
        let each = sockets / (servers.max(1) * KINDS_OF_SOCKETS);
        self.sockets_per_server.set(each.max(1));
    }

    /// The number of sockets of one kind that may be open to a server: `budget`, or fewer if there are not enough file
    /// descriptors.
    pub(super) fn most(&self, budget: usize) -> usize {
        budget.min(self.sockets_per_server.get())
    }

    /// Whether opening a socket failed because this host is out of something, rather than because of the server. If so, warns
    /// of what is missing.
    pub(super) fn is_short(&self, error: &io::Error, now: Instant) -> bool {
        let Some(why) = shortage(error) else {
            return false;
        };
        if let Some(times) = self.cannot_open.happened(now) {
            tracing::warn!(%error, why, times, "cannot open an upstream socket");
        }
        true
    }
}

/// One worker's sockets to one server. Dropping it closes them.
pub struct UdpPool(Rc<Pool>);

struct Pool {
    peer: Rc<Peer>,
    shared: Shared,
    ports: RefCell<[Option<Rc<Port>>; UPSTREAM_PORTS]>,
    retired: RefCell<Vec<Rc<Port>>>,
    burst: Cell<Burst>,
    /// When this host was last out of sockets.
    last_shortage: Cell<Option<Instant>>,
    icmp_errors: Rc<IcmpErrors>,
}

/// ICMP errors that sockets of a pool received.
#[derive(Default)]
struct IcmpErrors {
    last: Cell<Option<Instant>>,
    /// The first error that has one cause with the last: see [`ONE_REASON`].
    first: Cell<Option<Instant>>,
}

impl IcmpErrors {
    fn note(&self, now: Instant) {
        let last = self.last.replace(Some(now));
        if last.is_none_or(|last| now >= last + ONE_REASON) {
            self.first.set(Some(now));
        }
    }

    /// Whether a socket was opened before the first error, and so may lead to the endpoint that is gone. A socket opened later
    /// either received an ICMP error itself and was retired, or leads to another endpoint.
    fn began_after(&self, opened: Instant) -> bool {
        self.first.get().is_some_and(|first| opened < first)
    }
}

/// The socket that was drawn last, and how long it serves further queries.
#[derive(Clone, Copy)]
struct Burst {
    slot: usize,
    left: u32,
    since: Instant,
}

/// A connected socket and the queries that wait on it.
pub struct Port {
    socket: Watched,
    in_flight: InFlight,
    opened: Instant,
    uses: Cell<u32>,
    /// When the last answer came.
    heard: Cell<Option<Instant>>,
    retired: Cell<bool>,
    /// When the newest overdue query was sent on it. None if that query, or a later one, was answered.
    silent_since: Cell<Option<Instant>>,
    /// Its endpoint failed a query, or it received a mismatch, so that somebody may be guessing IDs.
    doubtful: Cell<bool>,
    /// The pool's ICMP errors. Sockets opened before them are doubtful, because the address may be a Service's.
    icmp_errors: Rc<IcmpErrors>,
    reader: Cell<Option<AbortHandle>>,
}

/// Whether a further socket can be opened in place of one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    Enough,
    /// There are as many retired sockets as the budget allows. Only old sockets are replaced.
    Crowded,
    /// This host is out of sockets. None is replaced.
    None,
}

/// Whether a socket's reader goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    GoesOn,
    /// The socket is to be closed: somebody may be guessing IDs.
    TooManyMismatches,
}

impl Port {
    /// Has no further query sent from the socket. Queries in flight on it may still be answered.
    fn retire(&self) {
        self.retired.set(true);
    }

    /// Notes that a query on the socket, sent at `sent`, is overdue.
    pub fn overdue(&self, sent: Instant) {
        self.silent_since
            .set(self.silent_since.get().max(Some(sent)));
    }

    /// Notes that a query on the socket failed at once: the socket is replaced as soon as there is room.
    pub fn failed_query(&self) {
        self.doubtful.set(true);
    }

    fn is_doubtful(&self) -> bool {
        self.silent_since.get().is_some()
            || self.doubtful.get()
            || self.icmp_errors.began_after(self.opened)
    }

    /// Whether the next query may be sent from the socket, given the room to replace it.
    fn is_usable(&self, now: Instant, room: Room) -> bool {
        let is_old = self.uses.get() >= MAX_USES || now >= self.opened + MAX_AGE;
        !self.retired.get()
            && !self.in_flight.is_full()
            && match room {
                Room::Enough => !self.is_doubtful() && !is_old,
                Room::Crowded => !is_old,
                Room::None => true,
            }
    }

    /// Since when the socket is silent, if it is not replaced for that yet: see [`SET_ASIDE`].
    fn set_aside_since(&self, now: Instant) -> Option<Instant> {
        let since = self.silent_since.get();
        since.filter(|since| now < *since + SET_ASIDE)
    }

    /// Whether the next query may be sent from the socket, and an answer came on it after `then`.
    fn was_answered_since(&self, then: Instant, now: Instant) -> bool {
        self.is_usable(now, Room::Enough) && self.heard.get() > Some(then)
    }

    /// Whether nothing was ever sent from the socket.
    fn is_new(&self) -> bool {
        self.uses.get() == 0 && self.in_flight.is_empty()
    }

    fn stop_reading(&self) {
        if let Some(reader) = self.reader.take() {
            reader.abort();
        }
    }

    /// Handles an ICMP error. It applies to all queries in flight on the socket.
    fn fail_all(&self, peer: &Peer, now: Instant) {
        self.retire();
        self.icmp_errors.note(now);
        let exchanges = self.in_flight.take_all();
        Exchange::all_unreachable(exchanges, peer, Carrier::Datagram, now);
    }

    /// Reads and handles datagrams until the socket is empty.
    fn read(&self, peer: &Peer, shared: &Shared, ready: &mut Ready<'_>) -> Reading {
        let mut batch = shared.receive.borrow_mut();
        loop {
            let received = receive(ready, &mut batch);
            let now = runtime::now();
            match received {
                Ok(count) => {
                    for index in 0..count {
                        self.accept(peer, &batch, index, now);
                    }
                    if self.in_flight.unmatched() >= UNMATCHED_PER_PORT {
                        return Reading::TooManyMismatches;
                    }
                    if !batch.full() {
                        return Reading::GoesOn;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Reading::GoesOn,
                Err(_) => self.fail_all(peer, now),
            }
        }
    }

    fn accept(&self, peer: &Peer, batch: &ReceiveBatch, index: usize, now: Instant) {
        let arrived = if batch.is_cut(index) {
            Arrived::InPart
        } else {
            Arrived::Whole
        };
        let accepted = self
            .in_flight
            .accept(peer, batch.datagram(index), arrived, now);
        if let Ok(Answered { sent, .. }) = accepted {
            self.heard.set(Some(now));
            let silent = self.silent_since.get().filter(|since| sent < *since);
            self.silent_since.set(silent);
        } else {
            // Somebody may be guessing IDs. Replacing the socket makes its port useless to them. If there is no room for
            // another socket, this one is closed after `UNMATCHED_PER_PORT` mismatches.
            self.doubtful.set(true);
        }
    }
}

impl UdpPool {
    /// A pool without sockets; the first query opens one.
    #[must_use]
    pub fn new(peer: Rc<Peer>, shared: Shared) -> Self {
        Self(Rc::new(Pool {
            peer,
            shared,
            ports: RefCell::new([const { None }; UPSTREAM_PORTS]),
            retired: RefCell::default(),
            burst: Cell::new(Burst {
                slot: 0,
                left: 0,
                since: runtime::now(),
            }),
            last_shortage: Cell::new(None),
            icmp_errors: Rc::default(),
        }))
    }

    /// Sends a query; its result goes to the mailbox. Returns the socket, which is to be told if the query is overdue, or fails.
    ///
    /// `before` is when the same question was last sent to this server; None if it was not. If a socket has received an answer
    /// since then, the query is sent from that socket: behind a Service's address, any other one may lead to the endpoint that
    /// did not answer.
    #[must_use]
    pub fn send(
        &self,
        exchange: Exchange,
        before: Option<Instant>,
        now: Instant,
    ) -> Option<Weak<Port>> {
        self.0.send(exchange, before, now)
    }

    /// Expires queries whose answer would come too late to matter, retires sockets that are due, and closes retired ones on
    /// which no query waits.
    pub fn sweep(&self, now: Instant) {
        let pool = &self.0;
        let room = pool.room(now);
        let mut ports = pool.ports.borrow_mut();
        for slot in ports.iter_mut() {
            let is_due = |port: &mut Rc<Port>| {
                !port.is_usable(now, room) && port.set_aside_since(now).is_none()
            };
            if let Some(port) = slot.take_if(is_due) {
                pool.retire(port);
            }
        }
        let mut retired = pool.retired.borrow_mut();
        for port in ports.iter().flatten().chain(&*retired) {
            port.in_flight.expire(&pool.peer, now);
        }
        // The reader holds the socket's last reference.
        retired.retain(|port| {
            let waiting = !port.in_flight.is_empty();
            if !waiting {
                port.stop_reading();
            }
            waiting
        });
    }
}

impl Pool {
    fn send(
        self: &Rc<Self>,
        exchange: Exchange,
        before: Option<Instant>,
        now: Instant,
    ) -> Option<Weak<Port>> {
        // `send` may report an ICMP error that an earlier query on the socket caused. So a second socket is tried.
        for _ in 0..2 {
            let answered = before.and_then(|before| self.port_answered_since(before, now));
            let port = match answered.map_or_else(|| self.port(now), Ok) {
                Ok(port) => port,
                Err(error) => {
                    tracing::debug!(server = %self.peer.label, %error, "cannot open an upstream socket");
                    if shortage(&error).is_some() {
                        exchange.broken(&self.peer, Carrier::Datagram);
                        return None;
                    }
                    break;
                }
            };
            let id = port.in_flight.free_id(&self.shared.random);
            let sent = {
                let mut message = self.shared.message.borrow_mut();
                message.clear();
                exchange.write(id, &mut message);
                port.socket.send(&message)
            };
            match sent {
                Ok(()) => {
                    port.uses.set(port.uses.get() + 1);
                    port.in_flight.insert(id, exchange);
                    return Some(Rc::downgrade(&port));
                }
                // The send buffer is full. The datagram counts as lost on the network, and the query is hedged.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    port.in_flight.insert(id, exchange);
                    return Some(Rc::downgrade(&port));
                }
                // This host drops the datagram, as with a full connection tracking table. Sockets that are tracked already may
                // still send, and new ones may not.
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied && port.is_new() => {
                    self.last_shortage.set(Some(now));
                    self.discard(&port);
                }
                Err(_) => port.fail_all(&self.peer, now),
            }
        }
        Exchange::all_unreachable([exchange], &self.peer, Carrier::Datagram, now);
        None
    }

    fn room(&self, now: Instant) -> Room {
        let last_shortage = self.last_shortage.get();
        if last_shortage.is_some_and(|at| now.saturating_duration_since(at) < SHORTAGE) {
            Room::None
        } else if self.retired.borrow().len() >= self.shared.most(UPSTREAM_PORTS_RETIRED) {
            Room::Crowded
        } else {
            Room::Enough
        }
    }

    /// The index of the next query's socket: that of the current burst, or a random one.
    fn draw(&self, now: Instant) -> usize {
        let mut burst = self.burst.get();
        if burst.left == 0 || now > burst.since + BURST_TIME {
            let drawn = self.shared.random.borrow_mut().next_u16();
            burst = Burst {
                slot: usize::from(drawn) % self.shared.most(UPSTREAM_PORTS),
                left: BURST,
                since: now,
            };
        }
        burst.left -= 1;
        self.burst.set(burst);
        burst.slot
    }

    /// The socket that received the latest answer, if that was after `before`.
    fn port_answered_since(&self, before: Instant, now: Instant) -> Option<Rc<Port>> {
        let ports = self.ports.borrow();
        let answered = ports.iter().flatten();
        let answered = answered.filter(|port| port.was_answered_since(before, now));
        let port = answered.max_by_key(|port| port.heard.get()).cloned()?;
        self.peer.metrics.sent(SocketUse::OpenDatagram);
        Some(port)
    }

    /// The next query's socket, at a random index, opened if need be. If this host is out of sockets, any open socket is taken,
    /// however old: a port that is easier to guess is better than no answer.
    fn port(self: &Rc<Self>, now: Instant) -> io::Result<Rc<Port>> {
        let mut ports = self.ports.borrow_mut();
        let drawn = self.draw(now);
        let room = self.room(now);
        let is_usable = |port: &&Rc<Port>| port.is_usable(now, room);
        let from_drawn = || ports[drawn..].iter().chain(&ports[..drawn]).flatten();
        let mut open = ports[drawn].as_ref().filter(is_usable);
        if open.is_none() && room == Room::None {
            open = ports.iter().flatten().find(is_usable);
        }
        let drawn_port = ports[drawn].as_ref();
        if let Some(since) = drawn_port.and_then(|port| port.set_aside_since(now)) {
            let answered = from_drawn().find(|port| port.was_answered_since(since, now));
            open = answered.or(open);
        }
        if room == Room::Crowded && open.is_some_and(|port| port.is_doubtful()) {
            // The drawn socket is doubtful, and there is no room to replace it. Another open socket may lead to another
            // endpoint.
            let mut others = from_drawn().filter(is_usable);
            open = others.find(|port| !port.is_doubtful()).or(open);
        }
        if let Some(port) = open {
            self.peer.metrics.sent(SocketUse::OpenDatagram);
            return Ok(Rc::clone(port));
        }
        match self.open(now) {
            Ok(port) => {
                self.peer.metrics.sent(SocketUse::NewDatagram);
                if let Some(old) = ports[drawn].replace(Rc::clone(&port)) {
                    self.retire(old);
                }
                Ok(port)
            }
            Err(error) if self.shared.is_short(&error, now) => {
                self.last_shortage.set(Some(now));
                let mut open = ports.iter().flatten();
                let usable = open.find(|port| port.is_usable(now, Room::None));
                usable.cloned().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Retires a socket. It stays open as long as queries wait on it.
    fn retire(&self, port: Rc<Port>) {
        port.retire();
        if port.in_flight.is_empty() {
            port.stop_reading();
        } else {
            self.retired.borrow_mut().push(port);
        }
    }

    fn open(self: &Rc<Self>, now: Instant) -> io::Result<Rc<Port>> {
        let socket = Watched::new(self.peer.network.connect_udp(self.peer.address)?)?;
        let port = Rc::new(Port {
            socket,
            in_flight: InFlight::new(Carrier::Datagram),
            opened: now,
            uses: Cell::new(0),
            heard: Cell::new(None),
            silent_since: Cell::new(None),
            retired: Cell::new(false),
            doubtful: Cell::new(false),
            icmp_errors: Rc::clone(&self.icmp_errors),
            reader: Cell::new(None),
        });
        let (peer, shared, pool) = (
            Rc::clone(&self.peer),
            self.shared.clone(),
            Rc::downgrade(self),
        );
        let reads = Rc::clone(&port);
        let reader = tokio::task::spawn_local(async move {
            while let Ok(mut ready) = reads.socket.ready().await {
                let _turn = shared.turns.begin();
                if reads.read(&peer, &shared, &mut ready) == Reading::TooManyMismatches {
                    if let Some(pool) = pool.upgrade() {
                        pool.close(reads);
                    }
                    return;
                }
            }
        });
        port.reader.set(Some(reader.abort_handle()));
        Ok(port)
    }

    /// Closes a socket on which no query waits.
    fn discard(&self, port: &Rc<Port>) {
        self.vacate(port);
        port.stop_reading();
    }

    /// Empties the socket's slot in `ports`, if it has one.
    fn vacate(&self, port: &Rc<Port>) {
        for slot in self.ports.borrow_mut().iter_mut() {
            slot.take_if(|open| Rc::ptr_eq(open, port));
        }
    }

    /// Closes a socket at once, and sends the queries in flight on it again from other sockets.
    fn close(self: &Rc<Self>, port: Rc<Port>) {
        self.vacate(&port);
        self.retired
            .borrow_mut()
            .retain(|retired| !Rc::ptr_eq(retired, &port));
        let now = runtime::now();
        let exchanges = port.in_flight.take_all();
        drop(port);
        for exchange in exchanges {
            if exchange.is_awaited() && exchange.moves() < MOVES_PER_EXCHANGE {
                self.send(exchange.move_on(now), None, now);
            } else {
                exchange.forged(&self.peer, Carrier::Datagram);
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Each reader's task holds a reference to its socket, and would wait on it for ever.
        let ports = self.ports.get_mut().iter().flatten();
        for port in ports.chain(&*self.retired.get_mut()) {
            port.stop_reading();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::net::SocketAddr;

    use tokio::net::UdpSocket;
    use tokio::task::LocalSet;

    use super::*;
    use crate::message::form::QueryForm;
    use crate::transport::exchange::SharedQuestion;
    use crate::transport::peer::tests::peer;

    /// A pool, and its server.
    struct Scene {
        pool: UdpPool,
        server: UdpSocket,
    }

    /// A query that reached the server.
    struct Query<'a> {
        server: &'a UdpSocket,
        message: Vec<u8>,
        from: SocketAddr,
        question: Rc<SharedQuestion>,
        sent: Instant,
        port: Rc<Port>,
    }

    impl Scene {
        /// At most so many sockets are open to the server, apart from retired ones.
        async fn new(most: usize) -> Self {
            let server = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
            let peer = peer(server.local_addr().expect("it is bound"));
            let shared = Shared::new(&Turns::default(), &peer.network);
            shared.share_out(most * KINDS_OF_SOCKETS, 1);
            let pool = UdpPool::new(Rc::new(peer), shared);
            Self { pool, server }
        }

        /// Sends a query, which begins a burst of its own.
        async fn ask(&self) -> Query<'_> {
            tokio::time::advance(BURST_TIME * 2).await;
            let key: Rc<[u8]> = b"\x01a\x00\x00\x01\x00\x01\x00"[..].into();
            let question = Rc::new(SharedQuestion::new(&key, &ahash::RandomState::new()));
            let sent = runtime::now();
            let exchange = Exchange::new(&question, 0, QueryForm::Full, sent);
            let port = self.pool.send(exchange, None, sent);
            let mut message = vec![0; 512];
            let received = self.server.recv_from(&mut message).await;
            let (length, from) = received.expect("loopback");
            message.truncate(length);
            Query {
                server: &self.server,
                message,
                from,
                question,
                sent,
                port: port.and_then(|port| port.upgrade()).expect("it is open"),
            }
        }
    }

    impl Query<'_> {
        /// The server answers, and the pool has read it.
        async fn is_answered(&self) {
            let mut answer = self.message.clone();
            answer[2] |= 0x80;
            let sent = self.server.send_to(&answer, self.from).await;
            sent.expect("loopback");
            self.question.mailbox().filled().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_leaves_from_a_new_port_only_if_no_other_port_is_answered() {
        let answers = async {
            let scene = Scene::new(UPSTREAM_PORTS).await;
            let mut known = HashSet::new();
            while known.len() < UPSTREAM_PORTS {
                let query = scene.ask().await;
                query.is_answered().await;
                known.insert(query.from);
            }
            // All others lead to an endpoint that is gone, as do new ones.
            let answered: HashSet<SocketAddr> = known.iter().take(4).copied().collect();
            let mut overdue = 0;
            let mut last_was_answered = true;
            for _ in 0..500 {
                let query = scene.ask().await;
                if answered.contains(&query.from) {
                    query.is_answered().await;
                    last_was_answered = true;
                } else {
                    let is_known = known.remove(&query.from);
                    assert!(is_known || !last_was_answered, "{overdue} were overdue");
                    query.port.overdue(query.sent);
                    overdue += 1;
                    last_was_answered = false;
                }
            }
            assert!(overdue > 0);
        };
        LocalSet::new().run_until(answers).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_without_an_answer_is_used_again_once_the_answer_comes() {
        let answers = async {
            let scene = Scene::new(1).await;
            let first = scene.ask().await;
            first.port.overdue(first.sent);
            first.is_answered().await;
            let second = scene.ask().await;
            assert_eq!(first.from, second.from);
            second.port.overdue(second.sent);
            assert_ne!(second.from, scene.ask().await.from);
        };
        LocalSet::new().run_until(answers).await;
    }
}
