//! TCP, TLS and HTTPS exchanges with one server: a few connections, pipelined, reused, replies matched by ID and question
//! (RFC 7766 §6.2, RFC 7858 §3, RFC 8484 §5).
//!
//! A server may close a connection whenever it likes: what was in flight is asked again on another, and a server that
//! closes after a few answers gets no more than those on each connection. A connection on which a query stayed without
//! an answer while nothing else came is given up: its peer, or a NAT on the way, may have forgotten it. Before it is, other
//! queries go elsewhere.

use std::cell::{Cell, RefCell};
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
use super::in_flight::{Arrived, InFlight};
use super::metrics::SocketUse;
use super::peer::{Carrier, Peer};
use super::udp::Shared;
use crate::budgets::{
    MOVES_PER_EXCHANGE, UPSTREAM_STREAM_UNSENT, UPSTREAM_STREAMS, UPSTREAM_STREAMS_SHORT_LIVED,
    WAITING_FOR_STREAM,
};
use crate::message::framing::{Frames, put_frame};
use crate::message::wire;
use crate::net::network::Stream;
use crate::runtime;

/// Queries on one connection before another is opened.
const CROWDED: usize = 32;
/// RFC 7766 §6.2.3 leaves it to us; servers close after 10 s or more, and it is better to be first.
const MAX_IDLE: Duration = Duration::from_secs(8);
/// TCP's own retries would go on for minutes.
const CONNECT: Duration = Duration::from_secs(2);
/// After a failed write the kernel has what the server sent before; there is nothing to wait for.
const READ_AFTER_RESET: Duration = Duration::from_millis(10);
/// How long it is remembered that a server closes connections after a few answers.
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
}

/// What is known of a server that closes connections early.
#[derive(Debug, Clone, Copy)]
struct ShortLived {
    /// Answers it gives on one connection.
    answers: usize,
    until: Instant,
}

struct Connection {
    in_flight: InFlight,
    outbox: RefCell<Vec<u8>>,
    /// There is something in the outbox, or the connection is to end.
    wake: Notify,
    /// It is to be given up without waiting for anything.
    give_up: Notify,
    state: Cell<ConnectionState>,
    /// Queries that left on it.
    queries: Cell<usize>,
    answers: Cell<usize>,
    /// Requests over HTTPS that wait for their responses.
    requests: RefCell<JoinSet<()>>,
    /// Whether the server has said that it answers no further queries on it (GOAWAY of HTTP/2).
    refused: Cell<bool>,
    /// When it takes no new queries any more.
    old_at: Instant,
    last_used: Cell<Instant>,
    last_heard: Cell<Instant>,
    /// Since when it has been waiting for any answer, while something is in flight.
    waiting_since: Cell<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionState {
    Connecting,
    Established,
    /// It takes no new queries, and ends when its last answer has come.
    Draining,
    /// We are closing it.
    Closing,
}

/// Who ended a connection.
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
        }))
    }

    /// Sends a query; what becomes of it is delivered.
    pub fn send(&self, exchange: Exchange, now: Instant) {
        self.0.send(exchange, now);
    }

    /// Forgets queries whose answer would come too late to matter, and closes connections that are idle, old or silent.
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

    /// Sends what waits, as far as connections have room.
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

    /// What the server is known to answer on one connection, if it closes connections early.
    fn answers_per_connection(&self, now: Instant) -> Option<usize> {
        let known = self.short_lived.get().filter(|known| now < known.until);
        known.map(|known| known.answers)
    }

    /// The least busy connection that answers, or a new one; none if all that may be open have no room.
    fn pick(self: &Rc<Self>, now: Instant) -> Option<Rc<Connection>> {
        for connection in &*self.connections.borrow() {
            connection.retire_if_old(now);
        }
        let per_connection = self.answers_per_connection(now);
        let most = match per_connection {
            Some(_) => UPSTREAM_STREAMS_SHORT_LIVED,
            None => UPSTREAM_STREAMS,
        };
        let most = self.shared.most(most);
        let least = {
            let connections = self.connections.borrow();
            let open = || {
                connections
                    .iter()
                    .filter(|connection| connection.takes_queries())
            };
            let least = open()
                .filter(|connection| connection.has_room(per_connection))
                .map(|connection| (connection.is_doubtful(&self.peer, now), connection))
                .min_by_key(|(is_doubtful, connection)| (*is_doubtful, connection.in_flight.len()));
            let may_open = open().count() < most;
            match least {
                Some((is_doubtful, least))
                    if !may_open || !is_doubtful && least.in_flight.len() < CROWDED =>
                {
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

    fn open(self: &Rc<Self>, now: Instant) -> Rc<Connection> {
        let jitter = f64::from(self.shared.random.borrow_mut().next_u16()) / f64::from(u16::MAX);
        // Up to a quarter more, so that connections opened together are not all replaced together.
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

    /// A connection ended, and these were in flight on it.
    fn ended(
        self: &Rc<Self>,
        connection: &Rc<Connection>,
        in_flight: Vec<Exchange>,
        ended_by: EndedBy,
        now: Instant,
    ) {
        self.connections
            .borrow_mut()
            .retain(|open| !Rc::ptr_eq(open, connection));
        let answers = connection.answers.get();
        let early = !in_flight.is_empty() || connection.refused.get();
        if ended_by == EndedBy::Peer && answers > 0 && early {
            self.short_lived.set(Some(ShortLived {
                answers,
                until: now + SHORT_LIVED_FOR,
            }));
        }
        self.ask_again(in_flight, ended_by, connection.moves(), now);
    }

    /// These were in flight on a connection that will not bring their answers. One that has moved so often is given up.
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
            requests: RefCell::default(),
            refused: Cell::new(false),
            old_at,
            last_used: Cell::new(now),
            last_heard: Cell::new(now),
            waiting_since: Cell::new(now),
        }
    }

    /// Whether it may get further queries, now or when others are answered.
    fn takes_queries(&self) -> bool {
        matches!(
            self.state.get(),
            ConnectionState::Connecting | ConnectionState::Established
        )
    }

    /// Whether it may get a query now.
    fn has_room(&self, per_connection: Option<usize>) -> bool {
        !self.in_flight.is_full()
            && self.outbox.borrow().len() < UPSTREAM_STREAM_UNSENT
            && per_connection.is_none_or(|most| self.queries.get() < most)
    }

    /// Whether nothing at all has come for so long that it may be dead.
    fn is_doubtful(&self, peer: &Peer, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.waiting_since.get());
        !self.in_flight.is_empty() && waited >= peer.try_timeout / 2
    }

    /// How often what was in flight on it may have moved to be asked again.
    fn moves(&self) -> u8 {
        // A connection that was never answered on may be the server's way to say no: that is tried once more.
        if self.answers.get() > 0 {
            MOVES_PER_EXCHANGE
        } else {
            1
        }
    }

    fn queue(&self, exchange: Exchange, shared: &Shared, now: Instant) {
        if self.in_flight.is_empty() {
            self.waiting_since.set(now);
        }
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
        // What was asked since the last answer, or since the connection was made, stayed without one.
        let silent = late
            .newest
            .is_some_and(|sent| sent >= self.last_heard.get());
        if established && silent {
            // Its peer may have forgotten it, or be slow: others open a new one.
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

    /// Behind a Service's address, each connection stays with one endpoint, and one opened anew may find a less busy
    /// one.
    fn retire_if_old(&self, now: Instant) {
        if self.state.get() == ConnectionState::Established && now >= self.old_at {
            self.state.set(ConnectionState::Draining);
        }
    }

    /// Ends it once everything in the outbox has left.
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
        self.heard(runtime::now());
    }

    fn heard(&self, now: Instant) {
        self.last_heard.set(now);
        self.waiting_since.set(now);
    }

    /// Reads and writes side by side: a server that stops reading until it has written must not stop us.
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
            // A server that resets the connection may have answered before: what has arrived can be read after the reset.
            Err(error) => timeout(READ_AFTER_RESET, read).await.unwrap_or(Err(error)),
        }
    }

    /// The same over HTTP/2: each message in the outbox becomes a request, whose response is waited for beside the others.
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
                // Responses may have come with the end. All other requests have ended with it, and are asked again once it
                // is known how many were answered.
                let mut requests = self.requests.take();
                while requests.join_next().await.is_some() {}
                return ended.map(|()| EndedBy::Peer).map_err(https::into_io);
            }
            () = self.give_up.notified() => return Ok(EndedBy::Us),
            () = write => {}
        }
        // Nobody can make a request any more: this takes leave of the server.
        let _ = timeout(CONNECT, connection).await;
        Ok(EndedBy::Us)
    }

    /// Sends one message as a request, and has its response waited for.
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
                    // Dropping the response tells the server that nobody waits for it.
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
            // Nothing else will come for this request.
            self.answered_otherwise(peer, id, TryError::Malformed, now);
        }
        self.after_answers(pool, now);
    }

    fn request_failed(self: &Rc<Self>, peer: &Peer, pool: &Weak<Pool>, id: u16, failure: Failure) {
        let now = runtime::now();
        tracing::debug!(server = %peer.label, ?failure, "request over HTTPS failed");
        match failure {
            Failure::Status(status) => {
                self.answered_otherwise(peer, id, TryError::HttpStatus(status.as_u16()), now);
            }
            Failure::Malformed => self.answered_otherwise(peer, id, TryError::Malformed, now),
            Failure::Ended(_) if self.state.get() == ConnectionState::Closing => return,
            Failure::Ended(error) => {
                // After a reset of this request alone others may follow on the connection.
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

    /// The server answered a request, though not with a message that answers its question.
    fn answered_otherwise(&self, peer: &Peer, id: u16, error: TryError, now: Instant) {
        self.heard(now);
        if let Some(exchange) = self.in_flight.take(id) {
            self.answers.set(self.answers.get() + 1);
            self.last_used.set(now);
            exchange.answered_otherwise(peer, Carrier::Stream, error, now);
        }
    }

    /// Whether it answers a query in flight.
    fn accept(&self, peer: &Peer, message: &[u8], now: Instant) -> bool {
        let accepted = self.in_flight.accept(peer, message, Arrived::Whole, now);
        if accepted.is_ok() {
            self.answers.set(self.answers.get() + 1);
            self.last_used.set(now);
            self.heard(now);
        }
        accepted.is_ok()
    }

    /// Makes room for what waits: a connection that has given all the answers its server gives is closed.
    fn after_answers(&self, pool: &Weak<Pool>, now: Instant) {
        let Some(pool) = pool.upgrade() else { return };
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

    /// The connection is over: what waited on it goes out again, or its server is out of reach.
    fn finish(self: &Rc<Self>, peer: &Peer, pool: &Weak<Pool>, ended_by: EndedBy) {
        let connected = self.state.get() != ConnectionState::Connecting;
        self.state.set(ConnectionState::Closing);
        let now = runtime::now();
        let in_flight = self.in_flight.take_all();
        match pool.upgrade() {
            Some(pool) if connected => pool.ended(self, in_flight, ended_by, now),
            Some(pool) => {
                pool.connections
                    .borrow_mut()
                    .retain(|open| !Rc::ptr_eq(open, self));
                let waiting = std::mem::take(&mut *pool.waiting.borrow_mut());
                for exchange in in_flight.into_iter().chain(waiting) {
                    match ended_by {
                        // It was never opened, for want of a file descriptor: that says nothing about the server.
                        EndedBy::Us => exchange.broken(peer, Carrier::Stream),
                        EndedBy::Peer => exchange.unreachable(peer, Carrier::Stream, now),
                    }
                }
            }
            None => {
                for exchange in in_flight {
                    exchange.broken(peer, Carrier::Stream);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::sync::Arc;

    use socket2::SockRef;
    use tokio::net::TcpStream;

    use super::*;
    use crate::message::form::QueryForm;
    use crate::metrics::Registry;
    use crate::net::network::kernel;
    use crate::runtime::Turns;
    use crate::transport::exchange::SharedQuestion;
    use crate::transport::metrics::ExchangeFamilies;
    use crate::transport::peer::{AnswerQuality, Observer};

    #[derive(Debug)]
    struct Nobody;

    impl Observer for Nobody {
        fn answered(&self, _: Carrier, _: Instant, _: Duration, _: AnswerQuality) {}
        fn unreachable(&self, _: Carrier, _: Instant) {}
        fn expired(&self, _: Carrier, _: Instant) {}
        fn lost(&self, _: Carrier, _: Instant, _: Instant) {}
    }

    fn peer(address: std::net::SocketAddr) -> Peer {
        Peer {
            address,
            tls: None,
            https: None,
            label: address.to_string(),
            try_timeout: Duration::from_secs(1),
            stream_max_age: Duration::from_mins(1),
            network: kernel(),
            metrics: ExchangeFamilies::register(&Registry::new()).server("group", "server"),
            observer: Arc::new(Nobody),
        }
    }

    fn question(name: &[u8]) -> Rc<SharedQuestion> {
        let key: Rc<[u8]> = [name, &[0, 1, 0, 1, 0]].concat().into();
        Rc::new(SharedQuestion::new(&key, &ahash::RandomState::new()))
    }

    /// The server has answered and reset before we look, and there is a further query to write, which fails. Which of
    /// the two is noticed first is left to chance, hence twenty times.
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
