//! TCP clients (RFC 7766): pipelined queries, replies as they become ready, and caps on everything a client can hold.
//!
//! Owns a worker's connections. It makes room for a new one by closing its own longest idle one, of the same client if
//! that client's cap is reached; and for what they hold by closing the one whose client has taken nothing for longest.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::slots::{ConnectionSlots, Full, Slot};
use crate::budgets::{CONNECTION_BUFFER_KEPT, CONNECTION_BUFFERS};
use crate::config::TcpConfig;
use crate::message::framing::{Frames, put_frame};
use crate::message::reply::Protocol;
use crate::metrics::repeated::Repeated;
use crate::net::network::{NewStream, Stream};
use crate::runtime::{self, until};
use crate::serving::client::{Client, ListenerIndex, Served};
use crate::serving::metrics::{Cached, Dropped};
use crate::serving::waiting::{Reply, ReplySink, ReplyTo};
use crate::serving::worker::{CurrentWorker, Worker};

/// How long a connection may be without its first query when we are about to stop: clients that open one have it ready.
const FIRST_QUERY: Duration = Duration::from_secs(1);

/// How long a client must have taken nothing before its connection makes room for a new one.
const PATIENCE_WHEN_FULL: Duration = Duration::from_secs(1);

/// How long we wait for a client's FIN after ours. Clients that are still there answer at once.
const LINGER: Duration = Duration::from_secs(1);

/// A connection that was accepted, on its way to the worker that will serve it.
pub struct Accepted {
    /// The connection.
    pub stream: NewStream,
    /// The client.
    pub peer: SocketAddr,
    /// The listen address that it came to.
    pub listener: SocketAddr,
    /// When the address it came to is served no longer.
    pub stop: CancellationToken,
    /// Its place among [`crate::budgets::CONNECTIONS_HANDED_OVER`], until a worker has taken it.
    pub handed_over: Option<OwnedSemaphorePermit>,
}

/// A worker's connections.
pub struct Connections {
    current: Rc<CurrentWorker>,
    slots: Arc<ConnectionSlots>,
    open: Rc<Open>,
    tasks: JoinSet<()>,
    cannot_serve: Repeated,
}

impl Connections {
    /// None yet.
    #[must_use]
    pub fn new(current: &Rc<CurrentWorker>, slots: &Arc<ConnectionSlots>) -> Self {
        Self {
            current: Rc::clone(current),
            slots: Arc::clone(slots),
            open: Rc::new(Open {
                connections: RefCell::default(),
                held: Cell::new(0),
                slots: Arc::clone(slots),
                takes_nothing: Repeated::default(),
            }),
            tasks: JoinSet::new(),
            cannot_serve: Repeated::default(),
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

    /// Serves a connection, if there is a slot for it. One that makes room for it is closed at the next turn of the runtime.
    pub fn admit(&mut self, accepted: Accepted) {
        let Accepted {
            stream,
            peer,
            listener,
            stop,
            handed_over: _until_here,
        } = accepted;
        let stream = match stream.watched() {
            Ok(stream) => stream,
            Err(error) => {
                if let Some(times) = self.cannot_serve.happened(runtime::now()) {
                    tracing::warn!(%error, times, "cannot serve a TCP connection");
                }
                return;
            }
        };
        let worker = self.current.get();
        let config = &worker.setup.config.tcp;
        let slot = Slot::take(&self.slots, config, peer.ip()).or_else(|full| {
            self.open
                .make_room((full == Full::Client).then(|| peer.ip()));
            Slot::take(&self.slots, config, peer.ip())
        });
        // Without a slot the connection is dropped, which closes it.
        let Ok(slot) = slot else { return };
        let connection = Rc::new(Connection {
            current: Rc::clone(&self.current),
            open: Rc::clone(&self.open),
            peer,
            listener: worker.shared.metrics.listener(listener),
            outbox: RefCell::default(),
            ready: RefCell::default(),
            in_flight: Cell::new(0),
            wake: Notify::new(),
            closed: Cell::new(false),
            served: Cell::new(false),
            active: Cell::new(runtime::now()),
            unsent: Cell::new(false),
            taken: Cell::new(runtime::now()),
            ready_octets: Cell::new(0),
            held: Cell::new(0),
            slot: RefCell::new(Some(slot)),
        });
        self.open.add(&connection);
        self.tasks.spawn_local(async move {
            if let Err(error) = connection.run(stream, stop).await {
                tracing::debug!(client = %connection.peer, %error, "a client's connection ended");
            }
            connection.end();
        });
    }
}

/// Those that are open, and what they hold together.
struct Open {
    connections: RefCell<Vec<Weak<Connection>>>,
    /// Octets that those of this worker hold.
    held: Cell<usize>,
    slots: Arc<ConnectionSlots>,
    takes_nothing: Repeated,
}

impl Open {
    fn add(&self, connection: &Rc<Connection>) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Rc::downgrade(connection));
    }

    /// The connection among these whose client has let us wait for longest; if none waits for its client, the one that has been
    /// still for longest.
    fn stillest(&self, among: impl Fn(&Connection) -> bool) -> Option<Rc<Connection>> {
        let connections = self.connections.borrow();
        let open = connections.iter().filter_map(Weak::upgrade);
        open.filter(|connection| !connection.closed.get() && among(connection))
            .min_by_key(|connection| (connection.waits_for_us(), connection.still_since()))
    }

    /// Closes a connection, of one client if given, so that its slot is free: the longest idle one, or else one whose client
    /// does not take its replies.
    fn make_room(&self, client: Option<IpAddr>) {
        let is_candidate =
            |connection: &Connection| client.is_none_or(|client| connection.peer.ip() == client);
        let idle = self.stillest(|connection| is_candidate(connection) && connection.is_idle());
        let longest = idle.or_else(|| {
            self.stillest(|connection| {
                is_candidate(connection)
                    && !connection.waits_for_us()
                    && runtime::since(connection.still_since()) >= PATIENCE_WHEN_FULL
            })
        });
        if let Some(longest) = longest {
            self.slots.metrics.evicted.inc();
            longest.end();
        }
    }

    /// Closes connections while all workers' hold too much together, and those of this one more than its share.
    fn close_over(&self, workers: NonZeroUsize) {
        let share = CONNECTION_BUFFERS / workers;
        while self.slots.held() > CONNECTION_BUFFERS && self.held.get() > share {
            let longest = self.stillest(|connection| connection.held.get() > 0);
            let Some(longest) = longest else { return };
            let now = runtime::now();
            if let Some(times) = self.takes_nothing.happened(now) {
                tracing::warn!(
                    client = %longest.peer,
                    seconds = now.saturating_duration_since(longest.still_since()).as_secs(),
                    times,
                    "clients over TCP do not take their replies: the connection that has waited longest is closed, so that \
                     there is memory for others"
                );
            }
            self.slots.metrics.evicted.inc();
            longest.end();
        }
    }
}

/// A client's connection.
pub struct Connection {
    current: Rc<CurrentWorker>,
    open: Rc<Open>,
    peer: SocketAddr,
    listener: ListenerIndex,
    /// Frames not yet sent, up to `tcp.max_unsent` octets and one reply.
    outbox: RefCell<Vec<u8>>,
    /// Replies for which the outbox has no room yet.
    ready: RefCell<VecDeque<Reply>>,
    /// Queries read whose replies are not in the outbox yet.
    in_flight: Cell<usize>,
    /// A reply is ready, or the connection is to end.
    wake: Notify,
    closed: Cell<bool>,
    /// Whether a query was read.
    served: Cell<bool>,
    /// When a whole query was last read, a reply became ready, or its bytes were taken.
    active: Cell<Instant>,
    /// Whether bytes that were to leave have not left.
    unsent: Cell<bool>,
    /// When its client last took something of what waits for it, or something began to wait.
    taken: Cell<Instant>,
    /// Octets of the replies in `ready`.
    ready_octets: Cell<usize>,
    /// Octets that it holds, as counted in [`Open::held`].
    held: Cell<usize>,
    slot: RefCell<Option<Slot>>,
}

impl ReplySink for Connection {
    fn send(self: Rc<Self>, reply: Reply) {
        if self.closed.get() {
            self.in_flight.set(self.in_flight.get() - 1);
            self.current.get().metrics.dropped(Dropped::ClientGone);
            return;
        }
        self.active.set(runtime::now());
        self.ready_octets
            .set(self.ready_octets.get() + reply.octets());
        self.ready.borrow_mut().push_back(reply);
        self.write_ready(&self.current.get().setup.config.tcp);
        // Its task counts what it holds, and sends.
        self.wake.notify_one();
    }
}

impl Connection {
    fn is_idle(&self) -> bool {
        self.in_flight.get() == 0 && !self.has_unsent()
    }

    /// Whether replies wait for the client to take them.
    fn has_unsent(&self) -> bool {
        self.unsent.get() || !self.outbox.borrow().is_empty()
    }

    /// Whether it waits for upstreams, and not for its client.
    fn waits_for_us(&self) -> bool {
        self.in_flight.get() > 0 && !self.has_unsent()
    }

    /// Since when nothing has happened: nothing taken of what waits for the client, or nothing asked.
    fn still_since(&self) -> Instant {
        if self.has_unsent() {
            self.taken.get()
        } else {
            self.active.get()
        }
    }

    /// Ends it: the task that runs it returns, and its slot is free.
    fn end(&self) {
        self.closed.set(true);
        self.slot.take();
        self.hold(0);
        self.ready_octets.set(0);
        let unsent = self.ready.take();
        let worker = self.current.get();
        for _ in unsent {
            worker.metrics.dropped(Dropped::ClientGone);
        }
        self.wake.notify_one();
    }

    fn outbox_has_room(&self, config: &TcpConfig) -> bool {
        (self.outbox.borrow().len() as u64) < config.max_unsent
    }

    /// Whether another query may be read now.
    fn has_room(&self, config: &TcpConfig) -> bool {
        self.in_flight.get() < config.max_queries_per_connection && self.outbox_has_room(config)
    }

    /// Appends a reply to the outbox.
    fn put(&self, now: Instant, write: impl FnOnce(&mut Vec<u8>)) {
        if !self.has_unsent() {
            self.taken.set(now);
        }
        put_frame(&mut self.outbox.borrow_mut(), write);
    }

    /// Writes replies that are ready into the outbox, as many as it has room for.
    fn write_ready(&self, config: &TcpConfig) {
        while self.outbox_has_room(config) {
            let Some(reply) = self.ready.borrow_mut().pop_front() else {
                return;
            };
            self.in_flight.set(self.in_flight.get() - 1);
            self.ready_octets
                .set(self.ready_octets.get() - reply.octets());
            self.put(runtime::now(), |out| reply.write(out));
        }
    }

    /// Counts what it holds now.
    fn hold(&self, octets: usize) {
        let before = self.held.replace(octets);
        self.open.held.set(self.open.held.get() - before + octets);
        self.open.slots.hold(before, octets);
    }

    async fn run(self: &Rc<Self>, stream: Stream, stop: CancellationToken) -> io::Result<()> {
        stream.set_nodelay()?;
        let mut frames = Frames::new();
        let mut sending = Vec::new();
        let mut sent = 0;
        let mut reading = true;
        let mut stopping = None;
        while !self.closed.get() {
            let worker = self.current.get();
            let config = &worker.setup.config.tcp;
            let turn = worker.turns.begin();
            self.serve_frames(&worker, &mut frames);
            drop(turn);
            if sent == sending.len() {
                sending.clear();
                // What a burst of large replies took is given back.
                sending.shrink_to(CONNECTION_BUFFER_KEPT);
                sent = 0;
                std::mem::swap(&mut sending, &mut self.outbox.borrow_mut());
                self.write_ready(config);
            }
            let unsent = sent < sending.len();
            self.unsent.set(unsent);
            let outbox = self.outbox.borrow().capacity();
            self.hold(frames.capacity() + sending.capacity() + outbox + self.ready_octets.get());
            self.open.close_over(worker.setup.config.workers);
            if self.closed.get() {
                break;
            }
            let may_end =
                !reading || self.may_end(stopping) && !frames.partial() && !stream.has_unread();
            if self.is_idle() && may_end {
                return close_after_client(&stream).await;
            }
            // Waiting for an upstream is not the client's idleness; a query half sent or a reply not taken is.
            let patience = match stopping {
                Some(_) => FIRST_QUERY.min(config.idle_timeout),
                None => config.idle_timeout,
            };
            let still_until = (!self.waits_for_us()).then(|| self.still_since() + patience);
            tokio::select! {
                biased;
                ready = stream.writable(), if unsent => {
                    ready?;
                    match stream.try_write(&sending[sent..]) {
                        Ok(count) => {
                            sent += count;
                            self.active.set(runtime::now());
                            self.taken.set(runtime::now());
                        }
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        Err(_) => {}
                    }
                }
                () = self.wake.notified() => {}
                () = stop.cancelled(), if stopping.is_none() => stopping = Some(runtime::now()),
                ready = stream.readable(), if reading && self.has_room(config) => {
                    ready?;
                    match frames.fill_with(|buffer| stream.try_read_buf(buffer)) {
                        Ok(0) => reading = false,
                        Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                        _ => {}
                    }
                }
                () = until(still_until) => {
                    // A client that does not take its replies gets no more of our time.
                    return if unsent { Ok(()) } else { close_after_client(&stream).await };
                }
            }
        }
        Ok(())
    }

    /// Whether we may end it: one that was opened only just now has a query on its way.
    fn may_end(&self, stopping: Option<Instant>) -> bool {
        stopping.is_some_and(|since| self.served.get() || runtime::since(since) >= FIRST_QUERY)
    }

    /// Serves the whole queries read so far, while there is room for their replies.
    fn serve_frames(self: &Rc<Self>, worker: &Rc<Worker>, frames: &mut Frames) {
        while self.has_room(&worker.setup.config.tcp) {
            let Some(message) = frames.next_message() else {
                return;
            };
            let received = runtime::now();
            self.active.set(received);
            self.served.set(true);
            let client = Client {
                address: self.peer,
                protocol: Protocol::Tcp,
                received,
                // No frame is longer.
                octets: u16::try_from(message.len()).unwrap_or(u16::MAX),
                listener: self.listener,
            };
            let reply_to = || ReplyTo {
                sink: Rc::clone(self) as Rc<dyn ReplySink>,
                source: None,
            };
            let mut served = Served::Dropped;
            self.put(received, |out| {
                served = worker.serve(message, client, out, reply_to);
            });
            let duration = || runtime::since(received);
            match served {
                Served::Later => self.in_flight.set(self.in_flight.get() + 1),
                Served::Hit => worker.metrics.replied_after(Cached::Hit, 1, duration()),
                Served::Replied => worker.metrics.replied_after(Cached::Neither, 1, duration()),
                Served::Dropped => {}
            }
        }
    }
}

/// Sends our FIN and waits for the client's, for a while. Closing with anything unread would be a reset, which could
/// cost the client replies that it has not read yet; a query that crosses our FIN is its to repeat (RFC 7766 §6.2.4).
async fn close_after_client(stream: &Stream) -> io::Result<()> {
    stream.shut_down()?;
    let mut unwanted = Vec::with_capacity(512);
    let until_end = async {
        loop {
            stream.readable().await?;
            unwanted.clear();
            match stream.try_read_buf(&mut unwanted) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    };
    timeout(LINGER, until_end).await.unwrap_or(Ok(()))
}
