//! TCP clients (RFC 7766): pipelined queries, replies as they become ready, and caps on everything a client can hold.
//!
//! Owns connections. The caps on connections count over all workers; a worker makes room by closing its own longest
//! idle connection, of the same client if that client's cap is reached.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::ReplyTo;
use crate::answering::{Client, Served};
use crate::metrics::{Cached, Dropped};
use crate::reply::Protocol;
use crate::transport::framing::{Frames, put_frame};
use crate::worker::{Shared, Worker};

/// EMFILE and its like pass when a connection ends; asking again at once would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

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
    fn take(shared: &Arc<Shared>, client: IpAddr) -> Result<Self, Full> {
        let config = &shared.config.tcp;
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

/// One worker's listening socket for one address.
pub struct Listener {
    worker: Rc<Worker>,
    socket: TcpListener,
    open: RefCell<Vec<Weak<Connection>>>,
}

impl Listener {
    /// Serves a listening socket.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(worker: &Rc<Worker>, socket: Socket) -> io::Result<Self> {
        let socket = TcpListener::from_std(socket.into())?;
        Ok(Self {
            worker: Rc::clone(worker),
            socket,
            open: RefCell::default(),
        })
    }

    /// Serves until `stop`; then lets connections answer what they have read.
    pub async fn run(self, stop: CancellationToken) {
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(_) = tasks.join_next(), if !tasks.is_empty() => {}
                accepted = self.socket.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, &stop, &mut tasks),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept a TCP connection");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        drop(self.socket);
        while tasks.join_next().await.is_some() {}
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        stop: &CancellationToken,
        tasks: &mut JoinSet<()>,
    ) {
        let shared = &self.worker.shared;
        let place = Place::take(shared, peer.ip()).or_else(|full| {
            self.evict((full == Full::Client).then(|| peer.ip()));
            Place::take(shared, peer.ip())
        });
        // Without a place the connection is dropped, which closes it.
        let Ok(place) = place else { return };
        let connection = Rc::new(Connection {
            worker: Rc::clone(&self.worker),
            peer,
            outbox: RefCell::default(),
            in_flight: Cell::new(0),
            wake: Notify::new(),
            closed: Cell::new(false),
            active: Cell::new(Instant::now()),
            place: RefCell::new(Some(place)),
        });
        let mut connections = self.open.borrow_mut();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Rc::downgrade(&connection));
        let stop = stop.clone();
        tasks.spawn_local(async move {
            if let Err(error) = connection.run(stream, stop).await {
                tracing::debug!(client = %connection.peer, %error, "a client's connection ended");
            }
            connection.end();
        });
    }

    /// Closes the longest idle connection, of one client if given, so that its place is free.
    fn evict(&self, client: Option<IpAddr>) {
        let connections = self.open.borrow();
        let idle = connections
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|connection| {
                connection.idle() && client.is_none_or(|client| connection.peer.ip() == client)
            });
        if let Some(longest) = idle.min_by_key(|connection| connection.active.get()) {
            self.worker.metrics.tcp_evicted.inc();
            longest.end();
        }
    }
}

/// A client's connection.
pub struct Connection {
    worker: Rc<Worker>,
    peer: SocketAddr,
    /// Frames not yet sent.
    outbox: RefCell<Vec<u8>>,
    /// Queries read and not yet answered.
    in_flight: Cell<usize>,
    /// A reply is ready, or the connection is to end.
    wake: Notify,
    closed: Cell<bool>,
    /// When a whole query was last read, or reply bytes last sent.
    active: Cell<Instant>,
    place: RefCell<Option<Place>>,
}

impl Connection {
    /// Queues a reply to a query that was [`Served::Later`].
    pub fn push(&self, write: impl FnOnce(&mut Vec<u8>)) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        if self.closed.get() {
            self.worker.metrics.dropped(Dropped::ClientGone);
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
    fn has_room(&self) -> bool {
        let config = &self.worker.shared.config.tcp;
        self.in_flight.get() < config.max_queries_per_connection
            && (self.outbox.borrow().len() as u64) < config.max_unsent
    }

    async fn run(self: &Rc<Self>, stream: TcpStream, stop: CancellationToken) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let timeout = self.worker.shared.config.tcp.idle_timeout;
        let mut frames = Frames::new();
        let mut sending = Vec::new();
        let mut sent = 0;
        let mut reading = true;
        while !self.closed.get() {
            reading &= !stop.is_cancelled();
            self.serve_frames(&mut frames);
            if sent == sending.len() {
                sending.clear();
                sent = 0;
                std::mem::swap(&mut sending, &mut self.outbox.borrow_mut());
            }
            let unsent = sent < sending.len();
            if !reading && !unsent && self.in_flight.get() == 0 {
                return Ok(());
            }
            // Waiting for an upstream is not the client's idleness; a query half sent or a reply not taken is.
            let waits_for_us = self.in_flight.get() > 0 && !unsent;
            tokio::select! {
                ready = stream.readable(), if reading && self.has_room() => {
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
                () = stop.cancelled(), if reading => {}
                () = sleep_until((self.active.get() + timeout).into()), if !waits_for_us => return Ok(()),
            }
        }
        Ok(())
    }

    fn took(&self, cached: Cached, received: Instant) {
        self.worker.metrics.took(cached, 1, received.elapsed());
    }

    /// Serves the whole queries read so far, while there is room for their replies.
    fn serve_frames(self: &Rc<Self>, frames: &mut Frames) {
        while self.has_room() {
            let Some(message) = frames.next_message() else {
                return;
            };
            let received = Instant::now();
            self.active.set(received);
            let client = Client {
                address: self.peer,
                protocol: Protocol::Tcp,
                received,
            };
            let mut served = Served::Dropped;
            put_frame(&mut self.outbox.borrow_mut(), |out| {
                served = self
                    .worker
                    .serve(message, client, out, || ReplyTo::Tcp(Rc::clone(self)));
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
