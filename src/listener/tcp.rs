//! TCP clients (RFC 7766): pipelined queries, replies as they become ready, and caps on everything a client can hold.
//!
//! Owns connections. The caps on connections count over all workers; a worker makes room by closing its own longest
//! idle connection, of the same client if that client's cap is reached.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::{SockRef, Socket};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::ReplyTo;
use crate::config::TcpConfig;
use crate::message::framing::{Frames, put_frame};
use crate::message::reply::Protocol;
use crate::metrics::{Cached, Dropped};
use crate::serving::replies::{Client, Served};
use crate::serving::worker::{Seat, Shared, Worker};

/// EMFILE and its like pass when a connection ends; asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may be without its first query when we are about to stop: clients that open one have it ready.
const FIRST_QUERY: Duration = Duration::from_secs(1);

/// How long we wait for a client's FIN after ours. Clients that are still there answer at once.
const LINGER: Duration = Duration::from_secs(1);

/// Connections of all workers, in all and by client address.
#[derive(Debug, Default)]
pub struct Clients(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    total: usize,
    by_client: HashMap<IpAddr, usize, ahash::RandomState>,
}

/// Why a connection has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Full {
    Total,
    Client,
}

/// A connection's place; dropping it frees the place.
struct Place {
    shared: Arc<Shared>,
    client: IpAddr,
}

impl Place {
    fn take(shared: &Arc<Shared>, config: &TcpConfig, client: IpAddr) -> Result<Self, Full> {
        let mut counts = shared
            .tcp_clients
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if counts
            .by_client
            .get(&client)
            .is_some_and(|own| *own >= config.max_connections_per_client)
        {
            return Err(Full::Client);
        }
        if counts.total >= config.max_connections {
            return Err(Full::Total);
        }
        counts.total += 1;
        *counts.by_client.entry(client).or_insert(0) += 1;
        shared.metrics.tcp_connections.inc();
        Ok(Self {
            shared: Arc::clone(shared),
            client,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let clients = &self.shared.tcp_clients;
        let mut counts = clients.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(own) = counts.by_client.get_mut(&self.client) {
            *own -= 1;
            if *own == 0 {
                counts.by_client.remove(&self.client);
            }
        }
        self.shared.metrics.tcp_connections.dec();
    }
}

/// A connection that was accepted, on its way to the worker that will serve it.
pub struct Accepted {
    /// The connection.
    pub stream: std::net::TcpStream,
    /// The client.
    pub peer: SocketAddr,
    /// When the address it came to is served no longer.
    pub stop: CancellationToken,
}

/// Accepts connections and gives them to `hand_out` until told to close; then accepts what waits in the kernel's queue,
/// which would be reset, and closes. `stop` is what connections end by.
///
/// One listener for an address, whatever the number of workers: the kernel spreads connections over listeners without
/// knowing who is busy, and listeners that close pass nothing on.
///
/// # Errors
/// If the runtime cannot watch the socket.
pub async fn accept(
    listener: Socket,
    stop: CancellationToken,
    close: CancellationToken,
    hand_out: impl Fn(Accepted),
) -> io::Result<()> {
    let listener = TcpListener::from_std(listener.into())?;
    loop {
        tokio::select! {
            biased;
            () = close.cancelled() => break,
            ready = listener.accept() => match ready.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
                Ok((stream, peer)) => hand_out(Accepted { stream, peer, stop: stop.clone() }),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a TCP connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    // Past the runtime, which may not have heard of the last ones yet.
    while let Ok((socket, peer)) = SockRef::from(&listener).accept() {
        let ready = socket.set_nonblocking(true).is_ok();
        if let (true, Some(peer)) = (ready, peer.as_socket()) {
            let (stream, stop) = (socket.into(), stop.clone());
            hand_out(Accepted { stream, peer, stop });
        }
    }
    Ok(())
}

/// A worker's connections.
pub struct Connections {
    seat: Rc<Seat>,
    open: Vec<Weak<Connection>>,
    tasks: JoinSet<()>,
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(seat: &Rc<Seat>) -> Self {
        Self {
            seat: Rc::clone(seat),
            open: Vec::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Whether none is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for one to end; for ever if there is none.
    pub async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Serves a connection, if there is a place for it.
    pub fn admit(&mut self, accepted: Accepted) {
        let Accepted { stream, peer, stop } = accepted;
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot serve a TCP connection");
                return;
            }
        };
        let worker = self.seat.worker();
        let (shared, config) = (&worker.shared, &worker.setup.config.tcp);
        let place = Place::take(shared, config, peer.ip()).or_else(|full| {
            self.evict((full == Full::Client).then(|| peer.ip()));
            Place::take(shared, config, peer.ip())
        });
        // Without a place the connection is dropped, which closes it.
        let Ok(place) = place else { return };
        let connection = Rc::new(Connection {
            seat: Rc::clone(&self.seat),
            peer,
            outbox: RefCell::default(),
            in_flight: Cell::new(0),
            wake: Notify::new(),
            closed: Cell::new(false),
            served: Cell::new(false),
            active: Cell::new(Instant::now()),
            place: RefCell::new(Some(place)),
        });
        self.open.retain(|connection| connection.strong_count() > 0);
        self.open.push(Rc::downgrade(&connection));
        self.tasks.spawn_local(async move {
            if let Err(error) = connection.run(stream, stop).await {
                tracing::debug!(client = %connection.peer, %error, "a client's connection ended");
            }
            connection.end();
        });
    }

    /// Closes the longest idle connection, of one client if given, so that its place is free.
    fn evict(&self, client: Option<IpAddr>) {
        let idle = self
            .open
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|connection| {
                connection.idle() && client.is_none_or(|client| connection.peer.ip() == client)
            });
        if let Some(longest) = idle.min_by_key(|connection| connection.active.get()) {
            self.seat.worker().metrics.tcp_evicted.inc();
            longest.end();
        }
    }
}

/// A client's connection.
pub struct Connection {
    seat: Rc<Seat>,
    peer: SocketAddr,
    /// Frames not yet sent.
    outbox: RefCell<Vec<u8>>,
    /// Queries read and not yet answered.
    in_flight: Cell<usize>,
    /// A reply is ready, or the connection is to end.
    wake: Notify,
    closed: Cell<bool>,
    /// Whether a query was read.
    served: Cell<bool>,
    /// When a whole query was last read, or reply bytes last sent.
    active: Cell<Instant>,
    place: RefCell<Option<Place>>,
}

impl Connection {
    /// Queues a reply to a query that was [`Served::Later`].
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if self.closed.get() {
            let worker = self.seat.worker();
            worker.metrics.dropped(Dropped::ClientGone);
            return;
        }
        put_frame(&mut self.outbox.borrow_mut(), write);
        self.wake.notify_one();
    }

    fn idle(&self) -> bool {
        !self.closed.get() && self.in_flight.get() == 0 && self.outbox.borrow().is_empty()
    }

    /// Ends it: the task that runs it returns, and its place is free.
    fn end(&self) {
        self.closed.set(true);
        self.place.take();
        self.wake.notify_one();
    }

    /// Whether another query may be read now.
    fn has_room(&self, config: &TcpConfig) -> bool {
        self.in_flight.get() < config.max_queries_per_connection
            && (self.outbox.borrow().len() as u64) < config.max_unsent
    }

    async fn run(self: &Rc<Self>, stream: TcpStream, stop: CancellationToken) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut frames = Frames::new();
        let mut sending = Vec::new();
        let mut sent = 0;
        let mut reading = true;
        let mut stopping = None;
        while !self.closed.get() {
            let worker = self.seat.worker();
            let config = &worker.setup.config.tcp;
            self.serve_frames(&worker, &mut frames);
            if sent == sending.len() {
                sending.clear();
                sent = 0;
                std::mem::swap(&mut sending, &mut self.outbox.borrow_mut());
            }
            let unsent = sent < sending.len();
            let done = !unsent && self.in_flight.get() == 0;
            if done && (!reading || self.may_part(stopping) && !frames.partial() && empty(&stream))
            {
                return part(&stream).await;
            }
            // Waiting for an upstream is not the client's idleness; a query half sent or a reply not taken is.
            let patience = match stopping {
                Some(_) => FIRST_QUERY.min(config.idle_timeout),
                None => config.idle_timeout,
            };
            let waits_for_us = self.in_flight.get() > 0 && !unsent;
            tokio::select! {
                ready = stream.readable(), if reading && self.has_room(config) => {
                    ready?;
                    match frames.fill_with(|buffer| stream.try_read_buf(buffer)) {
                        Ok(0) => reading = false,
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                }
                ready = stream.writable(), if unsent => {
                    ready?;
                    match stream.try_write(&sending[sent..]) {
                        Ok(count) => {
                            sent += count;
                            self.active.set(Instant::now());
                        }
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        Err(_) => {}
                    }
                }
                () = self.wake.notified() => {}
                () = stop.cancelled(), if stopping.is_none() => stopping = Some(Instant::now()),
                () = sleep_until((self.active.get() + patience).into()), if !waits_for_us => {
                    // Who does not take its replies does not get more of our time.
                    return if unsent { Ok(()) } else { part(&stream).await };
                }
            }
        }
        Ok(())
    }

    /// Whether we may end it: one that was opened only just now has a query on its way.
    fn may_part(&self, stopping: Option<Instant>) -> bool {
        stopping.is_some_and(|since| self.served.get() || since.elapsed() >= FIRST_QUERY)
    }

    fn took(&self, cached: Cached, received: Instant) {
        let worker = self.seat.worker();
        worker.metrics.took(cached, 1, received.elapsed());
    }

    /// Serves the whole queries read so far, while there is room for their replies.
    fn serve_frames(self: &Rc<Self>, worker: &Rc<Worker>, frames: &mut Frames) {
        while self.has_room(&worker.setup.config.tcp) {
            let Some(message) = frames.next_message() else {
                return;
            };
            let received = Instant::now();
            self.active.set(received);
            self.served.set(true);
            let client = Client {
                address: self.peer,
                protocol: Protocol::Tcp,
                received,
            };
            let mut served = Served::Dropped;
            put_frame(&mut self.outbox.borrow_mut(), |out| {
                served = worker.serve(message, client, out, || ReplyTo::Tcp(Rc::clone(self)));
            });
            match served {
                Served::Later => self.in_flight.set(self.in_flight.get() + 1),
                Served::Hit => self.took(Cached::Hit, received),
                Served::Replied => self.took(Cached::Neither, received),
                Served::Dropped => {}
            }
        }
    }
}

/// Whether nothing has arrived that was not read. The runtime may not have heard of it yet.
fn empty(stream: &TcpStream) -> bool {
    let peeked = SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]);
    !matches!(peeked, Ok(count) if count > 0)
}

/// Sends our FIN and waits for the client's, for a while. Closing with anything unread would be a reset, which could
/// cost the client replies that it has not read yet; a query that crosses our FIN is its to repeat (RFC 7766 §6.2.4).
async fn part(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).shutdown(Shutdown::Write)?;
    let mut unwanted = [0; 512];
    let until_end = async {
        loop {
            stream.readable().await?;
            match stream.try_read(&mut unwanted) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    timeout(LINGER, until_end).await.unwrap_or(Ok(()))
}
