//! TCP clients (RFC 7766): pipelined queries, replies as they become ready, and limits on all that a client can make us hold.
//!
//! Owns a worker's connections. If there is no slot for a new connection, the worker closes that one of its own which has been
//! idle for longest; if the client's limit is reached, that client's. If connections hold too much memory, the worker closes
//! the one whose client has taken no reply for longest.

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

/// How long we wait for the first query on a connection when we are about to stop. Clients open a connection when they have a
/// query to send.
const FIRST_QUERY: Duration = Duration::from_secs(1);

/// How long a client must have taken no reply before its connection is closed to free a slot.
const PATIENCE_WHEN_FULL: Duration = Duration::from_secs(1);

/// How long we wait for a client's FIN after ours. Clients that still exist answer at once.
const LINGER: Duration = Duration::from_secs(1);

/// An accepted connection, which is handed over to the worker that will serve it.
pub struct Accepted {
    /// The connection.
    pub stream: NewStream,
    /// The client's address.
    pub peer: SocketAddr,
    /// The listen address that the client connected to.
    pub listener: SocketAddr,
    /// Cancelled when the listen address is to be served no longer.
    pub stop: CancellationToken,
    /// A permit of the [`crate::budgets::CONNECTIONS_HANDED_OVER`], held until a worker has taken the connection.
    pub handed_over: Option<OwnedSemaphorePermit>,
}

/// A worker's connections.
pub struct Connections {
    current: Rc<CurrentWorker>,
    slots: Arc<ConnectionSlots>,
    open: Rc<OpenConnections>,
    tasks: JoinSet<()>,
    cannot_serve: Repeated,
}

impl Connections {
    /// Without connections.
    #[must_use]
    pub fn new(current: &Rc<CurrentWorker>, slots: &Arc<ConnectionSlots>) -> Self {
        Self {
            current: Rc::clone(current),
            slots: Arc::clone(slots),
            open: Rc::new(OpenConnections {
                connections: RefCell::default(),
                held: Cell::new(0),
                slots: Arc::clone(slots),
                takes_nothing: Repeated::default(),
            }),
            tasks: JoinSet::new(),
            cannot_serve: Repeated::default(),
        }
    }

    /// Whether no connection is open.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tasks.is_empty()
    }

    /// Waits for a connection to end; for ever if there is none.
    pub async fn ended(&mut self) {
        if self.tasks.join_next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Serves a connection, if there is a slot for it or one can be freed. The connection whose slot is freed is closed when
    /// the runtime polls its task next.
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
        let connection = Rc::new(ClientConnection {
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
        let served = ServedConnection(connection);
        self.tasks.spawn_local(async move {
            let connection = &served.0;
            if let Err(error) = connection.run(stream, stop).await {
                tracing::debug!(client = %connection.peer, %error, "a client's connection ended");
            }
        });
    }
}

/// A connection that a task serves. It ends when this is dropped, also because the task panicked or was dropped.
struct ServedConnection(Rc<ClientConnection>);

impl Drop for ServedConnection {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A worker's open connections, and the memory that they hold.
struct OpenConnections {
    connections: RefCell<Vec<Weak<ClientConnection>>>,
    /// Octets of memory that the connections of this worker hold.
    held: Cell<usize>,
    slots: Arc<ConnectionSlots>,
    takes_nothing: Repeated,
}

impl OpenConnections {
    fn add(&self, connection: &Rc<ClientConnection>) {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| connection.strong_count() > 0);
        connections.push(Rc::downgrade(connection));
    }

    /// The connection among these that has waited for its client for longest. If none waits for its client, the one on which
    /// nothing has happened for longest.
    fn longest_waiting(
        &self,
        among: impl Fn(&ClientConnection) -> bool,
    ) -> Option<Rc<ClientConnection>> {
        let connections = self.connections.borrow();
        let open = connections.iter().filter_map(Weak::upgrade);
        open.filter(|connection| !connection.closed.get() && among(connection))
            .min_by_key(|connection| (connection.waits_for_us(), connection.still_since()))
    }

    /// Closes a connection, of one client if given, to free its slot: the one that has been idle for longest, or else one whose
    /// client does not take its replies.
    fn make_room(&self, client: Option<IpAddr>) {
        let is_candidate = |connection: &ClientConnection| {
            client.is_none_or(|client| connection.peer.ip() == client)
        };
        let idle =
            self.longest_waiting(|connection| is_candidate(connection) && connection.is_idle());
        let longest = idle.or_else(|| {
            self.longest_waiting(|connection| {
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

    /// Closes connections while the connections of all workers hold more than [`CONNECTION_BUFFERS`], and those of this worker
    /// more than its share.
    fn close_over(&self, workers: NonZeroUsize) {
        let share = CONNECTION_BUFFERS / workers;
        while self.slots.held() > CONNECTION_BUFFERS && self.held.get() > share {
            let longest = self.longest_waiting(|connection| connection.held.get() > 0);
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
pub struct ClientConnection {
    current: Rc<CurrentWorker>,
    open: Rc<OpenConnections>,
    peer: SocketAddr,
    listener: ListenerIndex,
    /// Frames not yet sent, up to `tcp.max_unsent` octets and one reply.
    outbox: RefCell<Vec<u8>>,
    /// Replies for which the outbox has no room yet.
    ready: RefCell<VecDeque<Reply>>,
    /// Number of queries whose replies are not in the outbox yet.
    in_flight: Cell<usize>,
    /// Notified when a reply is ready, or the connection is to end.
    wake: Notify,
    closed: Cell<bool>,
    /// Whether a query was read.
    served: Cell<bool>,
    /// When a whole query was last read, a reply last became ready, or the kernel last took octets of a reply.
    active: Cell<Instant>,
    /// Whether the kernel has not taken all octets of the replies that are being sent.
    unsent: Cell<bool>,
    /// When the kernel last took octets of a reply, or a reply began to wait while none was unsent.
    taken: Cell<Instant>,
    /// Octets of the replies in `ready`.
    ready_octets: Cell<usize>,
    /// Octets of memory that the connection holds, as counted in [`OpenConnections::held`].
    held: Cell<usize>,
    slot: RefCell<Option<Slot>>,
}

impl ReplySink for ClientConnection {
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
        // The connection's task counts the memory, and sends.
        self.wake.notify_one();
    }
}

impl ClientConnection {
    fn is_idle(&self) -> bool {
        self.in_flight.get() == 0 && !self.has_unsent()
    }

    /// Whether replies wait for the client to take them.
    fn has_unsent(&self) -> bool {
        self.unsent.get() || !self.outbox.borrow().is_empty()
    }

    /// Whether the client waits for us: its queries are in flight upstream, and no reply waits for the client.
    fn waits_for_us(&self) -> bool {
        self.in_flight.get() > 0 && !self.has_unsent()
    }

    /// Since when nothing has happened. While replies are unsent: since the client last took some. Else: since `active`.
    fn still_since(&self) -> Instant {
        if self.has_unsent() {
            self.taken.get()
        } else {
            self.active.get()
        }
    }

    /// Ends the connection: its task returns, and its slot is free.
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

    /// Whether the limits allow to read another query.
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

    /// Notes that the connection holds this many octets of memory.
    fn hold(&self, octets: usize) {
        let before = self.held.replace(octets);
        self.open.held.set(self.open.held.get() - before + octets);
        self.open.slots.hold(before, octets);
    }

    async fn run(self: &Rc<Self>, stream: Stream, stop: CancellationToken) -> io::Result<()> {
        stream.set_nodelay()?;
        let mut frames = Frames::new();
        let mut sending = Sending::default();
        let mut reading = true;
        let mut stopping = None;
        while !self.closed.get() {
            let worker = self.current.get();
            let config = &worker.setup.config.tcp;
            let turn = worker.turns.begin();
            self.serve_frames(&worker, &mut frames);
            drop(turn);
            if sending.is_done() {
                sending.refill(&self.outbox);
                self.write_ready(config);
            }
            let unsent = !sending.is_done();
            self.unsent.set(unsent);
            let buffers = sending.octets.capacity() + self.outbox.borrow().capacity();
            self.hold(frames.capacity() + buffers + self.ready_octets.get());
            self.open.close_over(worker.setup.config.workers);
            if self.closed.get() {
                break;
            }
            let may_end =
                !reading || self.may_end(stopping) && !frames.partial() && !stream.has_unread();
            if self.is_idle() && may_end {
                return close_after_client(&stream).await;
            }
            // A client that waits for us is not idle. A client with a query half sent or a reply not taken is.
            let patience = match stopping {
                Some(_) => FIRST_QUERY.min(config.idle_timeout),
                None => config.idle_timeout,
            };
            let still_until = (!self.waits_for_us()).then(|| self.still_since() + patience);
            tokio::select! {
                biased;
                ready = stream.writable(), if unsent => {
                    ready?;
                    if sending.write(&stream)? {
                        self.active.set(runtime::now());
                        self.taken.set(runtime::now());
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
                    // If the client does not take its replies, the connection is closed without waiting for its FIN.
                    return if unsent { Ok(()) } else { close_after_client(&stream).await };
                }
            }
        }
        Ok(())
    }

    /// Whether a stop may end the connection. One without a query so far has [`FIRST_QUERY`] to send it.
    fn may_end(&self, stopping: Option<Instant>) -> bool {
        stopping.is_some_and(|since| self.served.get() || runtime::since(since) >= FIRST_QUERY)
    }

    /// Serves complete queries that were read, while there is room for their replies.
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
                // A frame's length fits into 16 bits.
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

/// Replies that are being sent.
#[derive(Default)]
struct Sending {
    octets: Vec<u8>,
    /// Number of `octets` that the kernel has taken.
    sent: usize,
}

impl Sending {
    /// Whether the kernel has taken all octets.
    fn is_done(&self) -> bool {
        self.sent == self.octets.len()
    }

    /// Takes the outbox's octets, after the kernel has taken all earlier ones.
    fn refill(&mut self, outbox: &RefCell<Vec<u8>>) {
        self.octets.clear();
        // Gives back memory that a burst of large replies took.
        self.octets.shrink_to(CONNECTION_BUFFER_KEPT);
        self.sent = 0;
        std::mem::swap(&mut self.octets, &mut outbox.borrow_mut());
    }

    /// Gives octets to the kernel, as many as it has room for. Returns false if it has no room.
    fn write(&mut self, stream: &Stream) -> io::Result<bool> {
        match stream.try_write(&self.octets[self.sent..]) {
            Ok(count) => {
                self.sent += count;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Sends our FIN and reads until the client's, for [`LINGER`] at most. Closing a socket with unread octets sends a reset, by
/// which the client could lose replies that it has not read yet. A query that the client sent before it received our FIN is not
/// served; the client has to repeat it (RFC 7766 §6.2.4).
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll};

    use arc_swap::ArcSwap;
    use tokio::runtime::{Builder, LocalOptions};
    use tokio::task::yield_now;

    use super::*;
    use crate::cache::Cache;
    use crate::config::Config;
    use crate::net::network::{MadeUpStream, kernel};
    use crate::process::metrics::Metrics;
    use crate::serving::setup::Setup;
    use crate::serving::top::TopBoard;
    use crate::serving::worker::Shared;
    use crate::upstream::loops::LoopNames;

    /// What happens when a connection is read again.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum SecondRead {
        Waits,
        Panics,
    }

    /// A client that sends one octet.
    #[derive(Debug)]
    struct OneOctet {
        taken: AtomicBool,
        then: SecondRead,
    }

    impl MadeUpStream for OneOctet {
        fn poll_readable(&self, _: &mut Context<'_>) -> Poll<()> {
            if self.taken.load(Ordering::Relaxed) && self.then == SecondRead::Waits {
                return Poll::Pending;
            }
            Poll::Ready(())
        }

        fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
            assert!(!self.taken.swap(true, Ordering::Relaxed), "read twice");
            buffer[0] = 0;
            Ok(1)
        }

        fn write(&self, _: &[u8]) -> io::Result<()> {
            Ok(())
        }

        fn shut_down(&self) {}

        fn has_unread(&self) -> bool {
            false
        }
    }

    /// A worker's connections, without any.
    fn connections(slots: &Arc<ConnectionSlots>, metrics: &Metrics) -> Connections {
        let config = Config::from_yaml("upstreams: {vpc: {servers: [10.0.0.2]}}").expect("valid");
        let setup = Setup::new(config, None, &metrics.upstream, &kernel(), runtime::now());
        let setup = Arc::new(setup.expect("it can be set up"));
        let shared = Arc::new(Shared {
            cache: Cache::new(&setup.config.cache),
            current: ArcSwap::new(setup),
            metrics: metrics.serving.clone(),
            failures: Arc::default(),
            top: TopBoard::default(),
            hasher: ahash::RandomState::new(),
            loops: Arc::new(LoopNames::default()),
            upstream_sockets: 8,
        });
        Connections::new(&Rc::new(CurrentWorker::new(&shared)), slots)
    }

    /// Memory that stays counted for connections that are gone would have others closed.
    #[test]
    fn a_connection_whose_task_does_not_return_holds_no_memory_afterwards() {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default());
        let runtime = runtime.expect("a runtime");
        for then in [SecondRead::Waits, SecondRead::Panics] {
            let metrics = Metrics::new();
            let slots = Arc::new(ConnectionSlots::new(metrics.connections.clone(), 8));
            let address = SocketAddr::from(([127, 0, 0, 1], 5300));
            runtime.block_on(async {
                let mut connections = connections(&slots, &metrics);
                let open = Rc::clone(&connections.open);
                connections.admit(Accepted {
                    stream: NewStream::MadeUp(Box::new(OneOctet {
                        taken: AtomicBool::new(false),
                        then,
                    })),
                    peer: address,
                    listener: address,
                    stop: CancellationToken::new(),
                    handed_over: None,
                });
                let connection = open.connections.borrow()[0].clone();
                if then == SecondRead::Waits {
                    while slots.held() == 0 {
                        yield_now().await;
                    }
                    drop(connections);
                } else {
                    let ended = connections.tasks.join_next().await.expect("a connection");
                    assert!(ended.expect_err("no return").is_panic());
                }
                while connection.strong_count() > 0 {
                    yield_now().await;
                }
                assert_eq!((slots.held(), open.held.get()), (0, 0), "{then:?}");
            });
        }
    }
}
