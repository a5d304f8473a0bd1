//! TCP, TLS and HTTPS exchanges with one server: a few connections, pipelined and reused, with responses matched by ID and
//! question (RFC 7766 §6.2, RFC 7858 §3, RFC 8484 §5).
//!
//! Many servers answer one query at a time on a connection (RFC 7766 §6.2.1.1 only recommends to answer in parallel). Behind
//! a name that takes such a server long to resolve, all others would wait. So a query leaves on a connection without queries in
//! flight, if need be on a new one, until an answer has come after the answer to a later query on the same connection.
//!
//! A server may close a connection at any time: queries in flight on it are sent again on another. If a server closes
//! connections after a few answers, each connection gets only that many queries. If a query stays without an answer, and
//! nothing else is received on the connection either, the connection is given up: the server, or a NAT on the way, may have
//! lost its state. Half of `try_timeout` without an answer is enough for new queries to prefer other connections.

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::VecDeque;
use std::io;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::exchange::{Exchange, TryError};
use super::https::{self, Endpoint, Failure};
use super::in_flight::{Answered, Arrived, InFlight};
use super::metrics::SocketUse;
use super::peer::{Carrier, Peer};
use super::udp::Shared;
use crate::budgets::{
    MOVES_PER_EXCHANGE, UPSTREAM_STREAM_UNSENT, UPSTREAM_STREAMS, UPSTREAM_STREAMS_PARALLEL,
    WAITING_FOR_STREAM,
};
use crate::message::framing::{Frames, put_frame};
use crate::message::wire;
use crate::net::network::Stream;
use crate::runtime;

/// Queries in flight on one connection from which on another is opened, if the server answers them in parallel.
const CROWDED: usize = 32;
/// The same if the server may answer one query at a time.
const CROWDED_IN_TURN: usize = 1;
/// The same over TLS: a handshake takes longer than most queries do that would be waited for.
const CROWDED_IN_TURN_TLS: usize = 2;
/// For how long we remember that a server answers the queries of a connection in parallel. Another server may take its address.
const PARALLEL_FOR: Duration = Duration::from_mins(10);
/// For how long no further connection is opened after one of several got no answer at all.
const ENOUGH_FOR: Duration = Duration::from_secs(10);
/// Idle time after which we close a connection. RFC 7766 §6.2.3 leaves it to the client. Servers close after 10 s or more; if
/// we close first, no query is lost on a connection that the server is closing.
const MAX_IDLE: Duration = Duration::from_secs(8);
/// Time for a connect, and for a TLS handshake. TCP's own retries would go on for minutes.
const CONNECT: Duration = Duration::from_secs(2);
/// Time to read answers after a failed write. The kernel has them already, so there is nothing to wait for.
const READ_AFTER_RESET: Duration = Duration::from_millis(10);
/// For how long we remember that a server closes connections after a few answers.
const SHORT_LIVED_FOR: Duration = Duration::from_mins(1);

/// One worker's connections to one server. Dropping it closes them.
pub struct StreamPool(Rc<Pool>);

struct Pool {
    peer: Rc<Peer>,
    shared: Shared,
    connections: RefCell<Vec<Rc<Connection>>>,
    /// Queries for which no connection has room yet.
    waiting: RefCell<VecDeque<Exchange>>,
    short_lived: Cell<Option<ShortLived>>,
    /// The server answers the queries of a connection in parallel: until when that is remembered.
    parallel_until: Cell<Option<Instant>>,
    /// The server may take no more connections than are open: until when that is remembered.
    enough_until: Cell<Option<Instant>>,
}

/// A server's habit of closing connections after a few answers.
#[derive(Debug, Clone, Copy)]
struct ShortLived {
    /// Number of answers that the server gives on one connection.
    answers: usize,
    until: Instant,
}

struct Connection {
    in_flight: InFlight,
    outbox: RefCell<Vec<u8>>,
    /// Notified when the outbox has new octets, or the connection is to be closed.
    wake: Notify,
    /// Notified when the connection is to be closed at once, with queries in flight and the outbox unsent.
    give_up: Notify,
    state: Cell<ConnectionState>,
    /// Number of queries so far.
    queries: Cell<usize>,
    /// Number of answers so far.
    answers: Cell<usize>,
    /// The latest place among the queries that were answered.
    latest_answered: Cell<u32>,
    /// Whether an answer came after the answer to a later query.
    in_parallel: Cell<bool>,
    /// Tasks that wait for the responses of requests over HTTPS.
    requests: RefCell<JoinSet<()>>,
    /// Whether the server has refused further requests on the connection (GOAWAY of HTTP/2).
    refused: Cell<bool>,
    /// From then on the connection takes no new queries.
    old_at: Instant,
    /// When the last query was queued or the last answer came.
    last_used: Cell<Instant>,
    /// When the last answer came, or the connection was established.
    last_heard: Cell<Instant>,
    /// While queries are in flight: since when no answer has come.
    waiting_since: Cell<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    Connecting,
    Established,
    /// The connection takes no new queries, and is closed after its last answer.
    Draining,
    /// We are closing the connection.
    Closing,
}

/// How little a connection suits a further query: the one with the least is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Load {
    /// See [`Connection::is_doubtful`].
    is_doubtful: bool,
    /// It may be one more than the server takes.
    may_be_too_many: bool,
    /// Number of queries in flight.
    queries: usize,
    is_connecting: bool,
    /// For how long queries have waited for an answer. Among equals, the longest wait is over soonest.
    waited: Reverse<Duration>,
}

/// The side that ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EndedBy {
    Us,
    Peer,
}

impl StreamPool {
    /// A pool without connections; the first query opens one.
    #[must_use]
    pub fn new(peer: Rc<Peer>, shared: Shared) -> Self {
        Self(Rc::new(Pool {
            peer,
            shared,
            connections: RefCell::default(),
            waiting: RefCell::default(),
            short_lived: Cell::new(None),
            parallel_until: Cell::new(None),
            enough_until: Cell::new(None),
        }))
    }

    /// Sends a query. Its result goes to the mailbox.
    pub fn send(&self, exchange: Exchange, now: Instant) {
        self.0.send(exchange, now);
    }

    /// Expires queries whose answer would come too late to matter, and closes connections that are idle, old or silent.
    pub fn sweep(&self, now: Instant) {
        let pool = &self.0;
        pool.waiting.borrow_mut().retain(|exchange| {
            let too_late = pool.peer.is_too_late(exchange.sent(), now);
            if too_late {
                exchange.expired(&pool.peer, Carrier::Stream, now);
            }
            !too_late
        });
        for connection in &*pool.connections.borrow() {
            connection.sweep(&pool.peer, now);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for connection in &*self.connections.borrow() {
            connection.state.set(ConnectionState::Closing);
            connection.give_up.notify_one();
        }
    }
}

impl Pool {
    fn send(self: &Rc<Self>, exchange: Exchange, now: Instant) {
        if let Some(connection) = self.pick(now) {
            connection.queue(exchange, &self.shared, now);
        } else if self.waiting.borrow().len() < WAITING_FOR_STREAM {
            self.waiting.borrow_mut().push_back(exchange);
        } else {
            exchange.broken(&self.peer, Carrier::Stream);
        }
    }

    /// Sends waiting queries, as far as connections have room.
    fn send_waiting(self: &Rc<Self>, now: Instant) {
        while !self.waiting.borrow().is_empty()
            && let Some(connection) = self.pick(now)
        {
            let next = self.waiting.borrow_mut().pop_front();
            if let Some(exchange) = next {
                connection.queue(exchange, &self.shared, now);
            }
        }
    }

    /// The number of answers that the server is known to give on one connection. None if it is not known to close connections
    /// early.
    fn answers_per_connection(&self, now: Instant) -> Option<usize> {
        let known = self.short_lived.get().filter(|known| now < known.until);
        known.map(|known| known.answers)
    }

    /// Whether the server answers the queries of a connection in parallel. Over HTTP/2, all do.
    fn is_parallel(&self, now: Instant) -> bool {
        self.peer.https.is_some() || self.parallel_until.get().is_some_and(|until| now < until)
    }

    /// The number of queries in flight on one connection from which on another is opened.
    fn crowded(&self, now: Instant) -> usize {
        if self.is_parallel(now) {
            CROWDED
        } else if self.peer.tls.is_some() {
            CROWDED_IN_TURN_TLS
        } else {
            CROWDED_IN_TURN
        }
    }

    /// The number of connections that may be open.
    fn most(&self, per_connection: Option<usize>, now: Instant) -> usize {
        let most = if self.is_parallel(now) && per_connection.is_none() {
            UPSTREAM_STREAMS_PARALLEL
        } else {
            UPSTREAM_STREAMS
        };
        self.shared.most(most)
    }

    /// The connection for the next query: the open one with the fewest queries in flight, or a new one if that is crowded or
    /// may be dead. None if no open connection has room, and no further one may be opened.
    fn pick(self: &Rc<Self>, now: Instant) -> Option<Rc<Connection>> {
        for connection in &*self.connections.borrow() {
            connection.retire_if_old(now);
        }
        let per_connection = self.answers_per_connection(now);
        let most = self.most(per_connection, now);
        let crowded = if self.has_enough(now) {
            usize::MAX
        } else {
            self.crowded(now)
        };
        let least = {
            let connections = self.connections.borrow();
            let open = || {
                connections
                    .iter()
                    .filter(|connection| connection.takes_queries())
            };
            let least = open()
                .filter(|connection| connection.has_room(per_connection))
                .map(|connection| (self.load(connection, now), connection))
                .min_by_key(|(load, _)| *load);
            let may_open = open().count() < most;
            match least {
                Some((load, least)) if !may_open || !load.is_doubtful && load.queries < crowded => {
                    Some(Rc::clone(least))
                }
                _ if may_open => None,
                _ => return None,
            }
        };
        let (connection, used) = match least {
            Some(connection) => (connection, SocketUse::OpenStream),
            None => (self.open(now), SocketUse::NewStream),
        };
        self.peer.metrics.sent(used);
        Some(connection)
    }

    fn load(&self, connection: &Connection, now: Instant) -> Load {
        Load {
            is_doubtful: connection.is_doubtful(&self.peer, now),
            may_be_too_many: self.has_enough(now) && connection.answers.get() == 0,
            queries: connection.in_flight.len(),
            is_connecting: connection.state.get() == ConnectionState::Connecting,
            waited: Reverse(connection.waited(now)),
        }
    }

    /// Whether the server may take no more connections than are open.
    fn has_enough(&self, now: Instant) -> bool {
        self.enough_until.get().is_some_and(|until| now < until)
    }

    /// Whether a connection is established that is not doubtful.
    fn is_connected(&self, now: Instant) -> bool {
        self.connections.borrow().iter().any(|connection| {
            connection.state.get() == ConnectionState::Established
                && !connection.is_doubtful(&self.peer, now)
        })
    }

    fn open(self: &Rc<Self>, now: Instant) -> Rc<Connection> {
        let jitter = f64::from(self.shared.random.borrow_mut().next_u16()) / f64::from(u16::MAX);
        // Up to a quarter more, so that connections which were opened together are not replaced together.
        let old_at = now + self.peer.stream_max_age.mul_f64(1.0 + jitter / 4.0);
        let connection = Rc::new(Connection::new(old_at, now));
        self.connections.borrow_mut().push(Rc::clone(&connection));
        let (pool, peer) = (Rc::downgrade(self), Rc::clone(&self.peer));
        let shared = self.shared.clone();
        let runs = Rc::clone(&connection);
        tokio::task::spawn_local(async move {
            let ended = runs.run(&peer, &pool).await;
            let ended_by = match ended {
                Ok(ended_by) => ended_by,
                Err(error) => {
                    tracing::debug!(server = %peer.label, %error, "upstream connection ended");
                    if shared.is_short(&error, runtime::now()) {
                        EndedBy::Us
                    } else {
                        EndedBy::Peer
                    }
                }
            };
            runs.finish(&peer, &pool, ended_by);
        });
        connection
    }

    /// Sends the queries again that were in flight on a connection that ended.
    fn ended(
        self: &Rc<Self>,
        connection: &Connection,
        in_flight: Vec<Exchange>,
        ended_by: EndedBy,
        now: Instant,
    ) {
        let answers = connection.answers.get();
        let early = !in_flight.is_empty() || connection.refused.get();
        if ended_by == EndedBy::Peer && answers > 0 && early {
            self.short_lived.set(Some(ShortLived {
                answers,
                until: now + SHORT_LIVED_FOR,
            }));
        }
        let moves = if answers == 0 && self.is_connected(now) {
            self.enough_until.set(Some(now + ENOUGH_FOR));
            MOVES_PER_EXCHANGE
        } else {
            connection.moves()
        };
        self.ask_again(in_flight, ended_by, moves, now);
    }

    /// Sends the queries `lost` again, whose answers will not come on their connection. A query fails if it was sent again
    /// `moves` times before.
    fn ask_again(self: &Rc<Self>, lost: Vec<Exchange>, ended_by: EndedBy, moves: u8, now: Instant) {
        for exchange in lost.into_iter().rev() {
            if exchange.is_awaited() && exchange.moves() < moves {
                self.waiting.borrow_mut().push_front(exchange.move_on(now));
            } else {
                match ended_by {
                    EndedBy::Us => exchange.broken(&self.peer, Carrier::Stream),
                    EndedBy::Peer => exchange.closed(&self.peer, Carrier::Stream),
                }
            }
        }
        self.send_waiting(now);
    }
}

impl Connection {
    fn new(old_at: Instant, now: Instant) -> Self {
        Self {
            in_flight: InFlight::new(Carrier::Stream),
            outbox: RefCell::default(),
            wake: Notify::new(),
            give_up: Notify::new(),
            state: Cell::new(ConnectionState::Connecting),
            queries: Cell::new(0),
            answers: Cell::new(0),
            latest_answered: Cell::new(0),
            in_parallel: Cell::new(false),
            requests: RefCell::default(),
            refused: Cell::new(false),
            old_at,
            last_used: Cell::new(now),
            last_heard: Cell::new(now),
            waiting_since: Cell::new(now),
        }
    }

    /// Whether the connection may get further queries, at once or after answers have made room.
    fn takes_queries(&self) -> bool {
        matches!(
            self.state.get(),
            ConnectionState::Connecting | ConnectionState::Established
        )
    }

    /// Whether the connection has room for a query.
    fn has_room(&self, per_connection: Option<usize>) -> bool {
        !self.in_flight.is_full()
            && self.outbox.borrow().len() < UPSTREAM_STREAM_UNSENT
            && per_connection.is_none_or(|most| self.queries.get() < most)
    }

    /// Whether queries in flight have waited for so long without any answer that the connection may be dead.
    fn is_doubtful(&self, peer: &Peer, now: Instant) -> bool {
        self.waited(now) >= peer.try_timeout / 2
    }

    /// For how long queries in flight have waited without any answer.
    fn waited(&self, now: Instant) -> Duration {
        if self.in_flight.is_empty() {
            Duration::ZERO
        } else {
            now.saturating_duration_since(self.waiting_since.get())
        }
    }

    /// How often a query in flight on this connection may be sent again in all.
    fn moves(&self) -> u8 {
        // A server may refuse queries by closing connections without any answer. So a query on such a connection is sent again
        // once only.
        if self.answers.get() > 0 {
            MOVES_PER_EXCHANGE
        } else {
            1
        }
    }

    fn queue(&self, mut exchange: Exchange, shared: &Shared, now: Instant) {
        if self.in_flight.is_empty() {
            self.waiting_since.set(now);
        }
        exchange.may_leave(now);
        let id = self.in_flight.free_id(&shared.random);
        put_frame(&mut self.outbox.borrow_mut(), |out| exchange.write(id, out));
        self.in_flight.insert(id, exchange);
        self.queries.set(self.queries.get() + 1);
        self.last_used.set(now);
        self.wake.notify_one();
    }

    fn sweep(&self, peer: &Peer, now: Instant) {
        let late = self.in_flight.expire(peer, now);
        let established = self.state.get() != ConnectionState::Connecting;
        // Whether a query that was sent after the last answer, or after the connection was established, is late.
        let silent = late
            .newest
            .is_some_and(|sent| sent >= self.last_heard.get());
        if established && silent {
            // The server may have lost the connection, or be slow. New queries use another connection.
            if self.takes_queries() {
                self.state.set(ConnectionState::Draining);
            }
            if !self.in_flight.is_awaited() {
                self.state.set(ConnectionState::Closing);
                self.give_up.notify_one();
            }
            return;
        }
        self.retire_if_old(now);
        let idle = now.saturating_duration_since(self.last_used.get()) > MAX_IDLE;
        if self.in_flight.is_empty() && (idle || self.state.get() == ConnectionState::Draining) {
            self.close();
        }
    }

    /// Has an old connection take no new queries. Behind a Service's address a connection stays with one endpoint, and a new
    /// connection may get a less busy one.
    fn retire_if_old(&self, now: Instant) {
        if self.state.get() == ConnectionState::Established && now >= self.old_at {
            self.state.set(ConnectionState::Draining);
        }
    }

    /// Closes the connection after the outbox is sent.
    fn close(&self) {
        self.state.set(ConnectionState::Closing);
        self.wake.notify_one();
    }

    async fn run(self: &Rc<Self>, peer: &Rc<Peer>, pool: &Weak<Pool>) -> io::Result<EndedBy> {
        let connecting = peer.network.connect_tcp(peer.address);
        let stream = timeout(CONNECT, connecting).await??;
        match peer.tls.clone() {
            None => self.exchange(peer, pool, stream).await,
            Some(tls) => {
                let handshake = tls.connect(&peer.label, stream);
                let stream = timeout(CONNECT, handshake).await??;
                match &peer.https {
                    None => self.exchange(peer, pool, stream).await,
                    Some(endpoint) => self.request(peer, pool, endpoint, stream).await,
                }
            }
        }
    }

    fn established(&self) {
        if self.state.get() == ConnectionState::Connecting {
            self.state.set(ConnectionState::Established);
        }
        let now = runtime::now();
        self.in_flight.may_leave(now);
        self.heard(now);
    }

    fn heard(&self, now: Instant) {
        self.last_heard.set(now);
        self.waiting_since.set(now);
    }

    /// Sends and receives frames over TCP or TLS until the connection ends. Reads and writes concurrently: some servers stop
    /// reading while they cannot write, and only our reading lets them go on.
    async fn exchange(
        &self,
        peer: &Peer,
        pool: &Weak<Pool>,
        stream: impl AsyncRead + AsyncWrite,
    ) -> io::Result<EndedBy> {
        self.established();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let read = async {
            let mut frames = Frames::new();
            while frames.fill(&mut reader).await? > 0 {
                let now = runtime::now();
                while let Some(message) = frames.next_message() {
                    self.accept(peer, message, now);
                }
                self.after_answers(pool, now);
            }
            io::Result::Ok(EndedBy::Peer)
        };
        let write = async {
            loop {
                let bytes = std::mem::take(&mut *self.outbox.borrow_mut());
                if !bytes.is_empty() {
                    writer.write_all(&bytes).await?;
                    writer.flush().await?;
                } else if self.state.get() == ConnectionState::Closing {
                    return writer.shutdown().await.map(|()| EndedBy::Us);
                } else {
                    self.wake.notified().await;
                }
            }
        };
        tokio::pin!(read);
        let written = tokio::select! {
            biased;
            ended = &mut read => return ended,
            () = self.give_up.notified() => return Ok(EndedBy::Us),
            written = write => written,
        };
        match written {
            Ok(ended_by) => Ok(ended_by),
            // A server may answer and then reset the connection. Answers that have arrived can be read after the reset.
            Err(error) => timeout(READ_AFTER_RESET, read).await.unwrap_or(Err(error)),
        }
    }

    /// As `exchange`, over HTTP/2: each message in the outbox becomes a request. All responses are awaited concurrently.
    async fn request(
        self: &Rc<Self>,
        peer: &Rc<Peer>,
        pool: &Weak<Pool>,
        endpoint: &Endpoint,
        stream: TlsStream<Stream>,
    ) -> io::Result<EndedBy> {
        let (mut requests, connection) = https::open(stream).await?;
        self.established();
        let mut connection = pin!(connection);
        let write = async move {
            let mut frames = Frames::new();
            loop {
                let outbox = &self.outbox;
                let moved = frames.fill_with(|buffer| {
                    let bytes = std::mem::take(&mut *outbox.borrow_mut());
                    buffer.extend_from_slice(&bytes);
                    Ok(bytes.len())
                });
                while let Some(message) = frames.next_message() {
                    self.post(peer, pool, (endpoint, &mut requests), message)
                        .await;
                }
                if matches!(moved, Ok(0)) {
                    if self.state.get() == ConnectionState::Closing {
                        return;
                    }
                    self.wake.notified().await;
                }
            }
        };
        tokio::select! {
            biased;
            ended = &mut connection => {
                self.state.set(ConnectionState::Closing);
                // The last responses may have been read together with the end. All other requests have ended, too. Their
                // queries are sent again in `finish`, when the number of answers is known.
                let mut requests = self.requests.take();
                while requests.join_next().await.is_some() {}
                return ended.map(|()| EndedBy::Peer).map_err(https::into_io);
            }
            () = self.give_up.notified() => return Ok(EndedBy::Us),
            () = write => {}
        }
        // The handle for requests is gone, so the connection ends by a GOAWAY.
        let _ = timeout(CONNECT, connection).await;
        Ok(EndedBy::Us)
    }

    /// Sends one message as a request, and spawns a task that waits for its response.
    async fn post(
        self: &Rc<Self>,
        peer: &Rc<Peer>,
        pool: &Weak<Pool>,
        (endpoint, requests): (&Endpoint, &mut SendRequest<Bytes>),
        message: &[u8],
    ) {
        let id = wire::id(message);
        if !self.in_flight.contains(id) {
            return;
        }
        match https::post(requests, endpoint, message).await {
            Err(error) => self.request_failed(peer, pool, id, Failure::Ended(error)),
            Ok(response) => {
                let (connection, peer) = (Rc::clone(self), Rc::clone(peer));
                let pool = Weak::clone(pool);
                let mut requests = self.requests.borrow_mut();
                while requests.try_join_next().is_some() {}
                requests.spawn_local(async move {
                    // At the timeout the response is dropped, which resets the request's stream.
                    let received = timeout(peer.patience(), https::receive(response, id)).await;
                    match received {
                        Ok(Ok(message)) => connection.accept_response(&peer, &pool, id, &message),
                        Ok(Err(failure)) => connection.request_failed(&peer, &pool, id, failure),
                        Err(_) => {}
                    }
                });
            }
        }
    }

    fn accept_response(self: &Rc<Self>, peer: &Peer, pool: &Weak<Pool>, id: u16, message: &[u8]) {
        let now = runtime::now();
        if !self.accept(peer, message, now) {
            // The request has no other response that could match.
            self.answered_without_message(peer, id, TryError::Malformed, now);
        }
        self.after_answers(pool, now);
    }

    fn request_failed(self: &Rc<Self>, peer: &Peer, pool: &Weak<Pool>, id: u16, failure: Failure) {
        let now = runtime::now();
        tracing::debug!(server = %peer.label, ?failure, "request over HTTPS failed");
        match failure {
            Failure::Status(status) => {
                self.answered_without_message(peer, id, TryError::HttpStatus(status.as_u16()), now);
            }
            Failure::Malformed => self.answered_without_message(peer, id, TryError::Malformed, now),
            Failure::Ended(_) if self.state.get() == ConnectionState::Closing => return,
            Failure::Ended(error) => {
                // A reset concerns this request only: the connection may take others. Any other error refuses further requests.
                if !error.is_reset() && self.takes_queries() {
                    self.refused.set(true);
                    self.state.set(ConnectionState::Draining);
                }
                if let Some(exchange) = self.in_flight.take(id) {
                    match pool.upgrade() {
                        Some(pool) => {
                            let moves = if https::is_untouched(&error) {
                                MOVES_PER_EXCHANGE
                            } else {
                                self.moves()
                            };
                            pool.ask_again(vec![exchange], EndedBy::Peer, moves, now);
                        }
                        None => exchange.broken(peer, Carrier::Stream),
                    }
                }
            }
        }
        self.after_answers(pool, now);
    }

    /// The server answered a request, but not with a message that answers the question.
    fn answered_without_message(&self, peer: &Peer, id: u16, error: TryError, now: Instant) {
        self.heard(now);
        if let Some(exchange) = self.in_flight.take(id) {
            self.answers.set(self.answers.get() + 1);
            self.last_used.set(now);
            exchange.answered_without_message(peer, Carrier::Stream, error, now);
        }
    }

    /// Handles a message. Returns whether it answers a query in flight.
    fn accept(&self, peer: &Peer, message: &[u8], now: Instant) -> bool {
        let accepted = self.in_flight.accept(peer, message, Arrived::Whole, now);
        if let Ok(Answered { place, .. }) = accepted {
            let latest = self.latest_answered.get();
            self.in_parallel
                .set(self.in_parallel.get() || place < latest);
            self.latest_answered.set(latest.max(place));
            self.answers.set(self.answers.get() + 1);
            self.last_used.set(now);
            self.heard(now);
        }
        accepted.is_ok()
    }

    /// Closes a connection that has given as many answers as its server gives on one, and sends waiting queries.
    fn after_answers(&self, pool: &Weak<Pool>, now: Instant) {
        let Some(pool) = pool.upgrade() else { return };
        if self.in_parallel.take() {
            pool.parallel_until.set(Some(now + PARALLEL_FOR));
        }
        let spent = pool
            .answers_per_connection(now)
            .is_some_and(|most| self.queries.get() >= most);
        if self.takes_queries() && self.in_flight.is_empty() && spent {
            self.close();
        }
        if !pool.waiting.borrow().is_empty() {
            pool.send_waiting(now);
        }
    }

    /// Handles the end of a connection. Queries in flight on it are sent again; but if it was never established, and no other
    /// is, they fail, and those that wait for a connection, too.
    fn finish(self: &Rc<Self>, peer: &Peer, pool: &Weak<Pool>, ended_by: EndedBy) {
        let connected = self.state.get() != ConnectionState::Connecting;
        self.state.set(ConnectionState::Closing);
        let now = runtime::now();
        let in_flight = self.in_flight.take_all();
        let Some(pool) = pool.upgrade() else {
            for exchange in in_flight {
                exchange.broken(peer, Carrier::Stream);
            }
            return;
        };
        pool.connections
            .borrow_mut()
            .retain(|open| !Rc::ptr_eq(open, self));
        if connected || pool.is_connected(now) {
            pool.ended(self, in_flight, ended_by, now);
            return;
        }
        let waiting = std::mem::take(&mut *pool.waiting.borrow_mut());
        let exchanges = in_flight.into_iter().chain(waiting);
        match ended_by {
            // This host is out of file descriptors, or of something else: that says nothing about the server.
            EndedBy::Us => exchanges.for_each(|exchange| exchange.broken(peer, Carrier::Stream)),
            EndedBy::Peer => Exchange::all_unreachable(exchanges, peer, Carrier::Stream, now),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::*;
    use crate::message::form::QueryForm;
    use crate::runtime::Turns;
    use crate::transport::exchange::SharedQuestion;
    use crate::transport::peer::tests::peer;

    fn question(name: &[u8]) -> Rc<SharedQuestion> {
        let key: Rc<[u8]> = [name, &[0, 1, 0, 1, 0]].concat().into();
        Rc::new(SharedQuestion::new(&key, &ahash::RandomState::new()))
    }

    /// The server answers and resets the connection before we read, while a further query waits to be written. It is left to
    /// chance whether the read or the failing write comes first. Hence twenty rounds.
    #[tokio::test]
    async fn an_answer_that_came_before_a_reset_counts() -> io::Result<()> {
        for _ in 0..20 {
            let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
            let peer = peer(listener.local_addr()?);
            let mut ours = std::net::TcpStream::connect(peer.address)?;
            let (mut theirs, _) = listener.accept()?;
            let now = Instant::now();
            let shared = Shared::new(&Turns::default(), &peer.network);
            let connection = Connection::new(now + Duration::from_mins(1), now);
            let (first, second) = (question(b"\x01a\x00"), question(b"\x01b\x00"));
            let exchange = |question| Exchange::new(question, 0, QueryForm::Full, now);
            connection.queue(exchange(&first), &shared, now);
            let query = std::mem::take(&mut *connection.outbox.borrow_mut());
            ours.write_all(&query)?;
            let mut answer = vec![0; query.len()];
            theirs.read_exact(&mut answer)?;
            answer[4] |= 0x80;
            theirs.write_all(&answer)?;
            SockRef::from(&theirs).set_linger(Some(Duration::ZERO))?;
            drop(theirs);
            connection.queue(exchange(&second), &shared, now);

            ours.set_nonblocking(true)?;
            let stream = TcpStream::from_std(ours)?;
            let _ = connection.exchange(&peer, &Weak::new(), stream).await;
            assert!(
                first.mailbox().take().is_some(),
                "the answer was thrown away"
            );
            assert!(second.mailbox().take().is_none());
            assert_eq!(connection.in_flight.len(), 1, "the second is asked again");
        }
        Ok(())
    }
}
