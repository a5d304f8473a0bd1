//! UDP exchanges with one server: a pool of connected sockets on random ports (RFC 5452 §9.2).
//!
//! A datagram counts only if its source (the socket is connected), ID and question match; all others are counted and
//! ignored, and the wait goes on. A socket is replaced by age, by use, after any mismatch, and after a query was
//! overdue on it: through kube-proxy another source port is another endpoint.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;

use super::{Pending, Unpredictable};
use crate::message::wire;
use crate::metrics::Mismatch;
use crate::net::batch::ReceiveBatch;
use crate::net::open::connect_udp;
use crate::net::watched::{Ready, Watched, receive};
use crate::upstream::server::{Carrier, Server};

/// Sockets a pool holds: 32 random ports at once make a guess 32 times as hard, and each carries enough for a node.
const PORTS: usize = 32;
/// A socket older than this is replaced: a port that was found out is of no use for long.
const MAX_AGE: Duration = Duration::from_secs(30);
/// Sockets of a pool that wait, replaced, for late answers. Once there are as many, a socket that lost a query stays in
/// use until one of them is done: a server that is gone loses every query, and would cost a socket each.
const MAX_RETIRED: usize = 32;
/// A socket that carried this many queries is replaced.
const MAX_USES: u32 = 10_000;
/// Queries that leave in quick succession leave from one socket, so that their answers are read by one call: as many as
/// this, and none after [`BURST_TIME`]. Each burst draws anew, so a guess is no easier.
const BURST: u32 = 16;
/// How long a burst may last: a loop full of misses takes about this long.
const BURST_TIME: Duration = Duration::from_micros(200);
/// Datagrams read at once from one socket.
const BATCH: usize = 16;
/// We offer 1232 octets; a server that sends more is read, and cut off only here.
const DATAGRAM_LEN: usize = 4096;

/// What all pools of a worker share.
#[derive(Clone)]
pub struct Shared {
    receive: Rc<RefCell<ReceiveBatch>>,
    random: Rc<RefCell<Unpredictable>>,
    /// The query that is being sent.
    message: Rc<RefCell<Vec<u8>>>,
}

impl Shared {
    /// Buffers for one worker.
    #[must_use]
    pub fn new() -> Self {
        Self {
            receive: Rc::new(RefCell::new(ReceiveBatch::new(BATCH, DATAGRAM_LEN))),
            random: Rc::new(RefCell::new(Unpredictable::new())),
            message: Rc::default(),
        }
    }

    /// 16 unpredictable bits.
    #[must_use]
    pub fn random(&self) -> u16 {
        self.random.borrow_mut().next_u16()
    }
}

impl Default for Shared {
    fn default() -> Self {
        Self::new()
    }
}

/// One worker's sockets to one server.
pub struct UdpPool {
    server: Arc<Server>,
    shared: Shared,
    ports: RefCell<[Option<Rc<Port>>; PORTS]>,
    retired: RefCell<Vec<Rc<Port>>>,
    burst: Cell<Burst>,
}

/// The socket drawn last.
#[derive(Clone, Copy)]
struct Burst {
    slot: usize,
    left: u32,
    since: Instant,
}

/// A connected socket and the queries that wait on it.
pub struct Port {
    socket: Watched,
    pending: RefCell<HashMap<u16, Pending, ahash::RandomState>>,
    opened: Instant,
    uses: Cell<u32>,
    retired: Cell<bool>,
    lost: Cell<bool>,
    reader: Cell<Option<AbortHandle>>,
}

impl Port {
    /// No further query leaves from it; those that wait on it may still be answered.
    pub fn retire(&self) {
        self.retired.set(true);
    }

    /// A query on it was overdue: it is replaced as soon as there is room.
    pub fn lost_one(&self) {
        self.lost.set(true);
    }

    fn usable(&self, now: Instant, crowded: bool) -> bool {
        !self.retired.get()
            && (crowded || !self.lost.get())
            && self.uses.get() < MAX_USES
            && now.saturating_duration_since(self.opened) < MAX_AGE
    }
}

impl UdpPool {
    /// A pool without sockets; the first query opens one.
    #[must_use]
    pub fn new(server: Arc<Server>, shared: Shared) -> Self {
        Self {
            server,
            shared,
            ports: RefCell::new([const { None }; PORTS]),
            retired: RefCell::default(),
            burst: Cell::new(Burst {
                slot: 0,
                left: 0,
                since: Instant::now(),
            }),
        }
    }

    /// Sends a query; what becomes of it is delivered. Returns the socket it left from, to be retired when overdue.
    pub fn send(&self, pending: Pending, now: Instant) -> Option<Rc<Port>> {
        // A socket may hold an ICMP error of an earlier query, which this send would report: one more chance.
        for _ in 0..2 {
            let port = match self.port(now) {
                Ok(port) => port,
                Err(error) => {
                    tracing::debug!(server = %self.server.label, %error, "cannot open an upstream socket");
                    if is_ours(&error) {
                        pending.broken(&self.server, Carrier::Datagram);
                        return None;
                    }
                    break;
                }
            };
            let id = self.free_id(&port);
            let sent = {
                let mut message = self.shared.message.borrow_mut();
                message.clear();
                pending.write(id, &mut message);
                port.socket.socket().send(&message)
            };
            match sent {
                Ok(_) => {
                    port.uses.set(port.uses.get() + 1);
                    port.pending.borrow_mut().insert(id, pending);
                    return Some(port);
                }
                // A full send buffer loses the datagram as a full network would: the query is hedged.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    port.pending.borrow_mut().insert(id, pending);
                    return Some(port);
                }
                Err(_) => {
                    port.retire();
                    fail_all(&port, &self.server, now);
                }
            }
        }
        pending.unreachable(&self.server, Carrier::Datagram, now);
        None
    }

    fn crowded(&self) -> bool {
        self.retired.borrow().len() >= MAX_RETIRED
    }

    /// Where the next query leaves: a place drawn at random, or that of the burst.
    fn draw(&self, now: Instant) -> usize {
        let mut burst = self.burst.get();
        if burst.left == 0 || now.saturating_duration_since(burst.since) > BURST_TIME {
            burst = Burst {
                slot: usize::from(self.shared.random()) % PORTS,
                left: BURST,
                since: now,
            };
        }
        burst.left -= 1;
        self.burst.set(burst);
        burst.slot
    }

    /// An open socket, drawn at random.
    fn port(&self, now: Instant) -> io::Result<Rc<Port>> {
        let mut ports = self.ports.borrow_mut();
        let slot = &mut ports[self.draw(now)];
        if let Some(port) = slot
            && port.usable(now, self.crowded())
        {
            return Ok(Rc::clone(port));
        }
        if let Some(old) = slot.take() {
            old.retire();
            self.retired.borrow_mut().push(old);
        }
        let port = self.open(now)?;
        *slot = Some(Rc::clone(&port));
        Ok(port)
    }

    fn open(&self, now: Instant) -> io::Result<Rc<Port>> {
        let socket = Watched::new(connect_udp(self.server.config.address)?)?;
        let port = Rc::new(Port {
            socket,
            pending: RefCell::default(),
            opened: now,
            uses: Cell::new(0),
            retired: Cell::new(false),
            lost: Cell::new(false),
            reader: Cell::new(None),
        });
        let (server, shared) = (Arc::clone(&self.server), self.shared.clone());
        let reads = Rc::clone(&port);
        let reader = tokio::task::spawn_local(async move {
            while let Ok(mut ready) = reads.socket.ready().await {
                read(&reads, &server, &shared, &mut ready);
            }
        });
        port.reader.set(Some(reader.abort_handle()));
        Ok(port)
    }

    fn free_id(&self, port: &Port) -> u16 {
        let pending = port.pending.borrow();
        loop {
            let id = self.shared.random();
            if !pending.contains_key(&id) {
                return id;
            }
        }
    }

    /// Forgets queries whose answer would come too late to matter, and closes sockets that are done.
    pub fn sweep(&self, now: Instant) {
        let crowded = self.crowded();
        let mut ports = self.ports.borrow_mut();
        let mut retired = self.retired.borrow_mut();
        for slot in ports.iter_mut() {
            if slot.as_ref().is_some_and(|port| !port.usable(now, crowded)) {
                retired.extend(slot.take());
            }
        }
        for port in ports.iter().flatten().chain(&*retired) {
            port.pending
                .borrow_mut()
                .retain(|_, pending| !pending.expired(&self.server, Carrier::Datagram, now));
        }
        // The reader holds the socket's last reference.
        retired.retain(|port| {
            let waiting = !port.pending.borrow().is_empty();
            if !waiting && let Some(reader) = port.reader.take() {
                reader.abort();
            }
            waiting
        });
    }
}

impl Drop for UdpPool {
    fn drop(&mut self) {
        // Readers hold their sockets, and would wait on them for ever.
        for port in self
            .ports
            .get_mut()
            .iter()
            .flatten()
            .chain(&*self.retired.get_mut())
        {
            if let Some(reader) = port.reader.take() {
                reader.abort();
            }
        }
    }
}

/// Whether it is this host that is out of something, and not the server that is gone.
fn is_ours(error: &io::Error) -> bool {
    let ours = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
    error
        .raw_os_error()
        .is_some_and(|code| ours.contains(&code))
}

/// Takes what has arrived on a socket.
fn read(port: &Port, server: &Server, shared: &Shared, ready: &mut Ready<'_>) {
    let mut batch = shared.receive.borrow_mut();
    loop {
        let received = receive(ready, &mut batch);
        let now = Instant::now();
        match received {
            Ok(count) => {
                for index in 0..count {
                    accept(port, server, batch.datagram(index), now);
                }
                if !batch.full() {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
            Err(_) => {
                port.retire();
                fail_all(port, server, now);
            }
        }
    }
}

fn accept(port: &Port, server: &Server, message: &[u8], now: Instant) {
    let mut pending = port.pending.borrow_mut();
    let id = wire::id(message);
    let verdict = match pending.get(&id) {
        Some(waiting) => waiting.matches(message),
        None => Err(Mismatch::Id),
    };
    match verdict {
        Ok(()) => {
            if let Some(waiting) = pending.remove(&id) {
                drop(pending);
                waiting.answered(server, Carrier::Datagram, message, now);
            }
        }
        Err(reason) => {
            server.metrics.mismatched(reason);
            // Somebody may be guessing: the port is worth nothing to them from now on.
            port.retire();
        }
    }
}

/// An ICMP error came: it is true for all that wait on this socket.
fn fail_all(port: &Port, server: &Server, now: Instant) {
    let waiting = std::mem::take(&mut *port.pending.borrow_mut());
    for pending in waiting.into_values() {
        pending.unreachable(server, Carrier::Datagram, now);
    }
}
