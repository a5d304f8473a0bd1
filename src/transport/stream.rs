//! TCP and TLS exchanges with one server: a few connections, pipelined, reused, replies matched by ID and question
//! (RFC 7766 §6.2, RFC 7858 §3).
//!
//! A server may close an idle connection just as a query leaves on it; such a query goes out once more on a new one. So
//! do the queries of a connection that has gone silent: its peer, or a NAT on the way, may have forgotten it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Pending;
use super::udp::Shared;
use crate::message::framing::{Frames, put_frame};
use crate::message::wire;
use crate::metrics::Mismatch;
use crate::upstream::server::{Carrier, Server};

/// Connections a pool opens: one is enough for a server that answers out of order, and some do not.
const CONNECTIONS: usize = 4;
/// Queries on one connection before another is opened.
const CROWDED: usize = 32;
/// Most queries on one connection; a server that answers none of them must not make memory grow.
const MAX_PENDING: usize = 4096;
/// RFC 7766 §6.2.3 leaves it to us; servers close after 10 s or more, and it is better to be first.
const IDLE: Duration = Duration::from_secs(8);
/// TCP's own retries would go on for minutes.
const CONNECT: Duration = Duration::from_secs(2);

/// One worker's connections to one server.
pub struct StreamPool {
    inner: Rc<Inner>,
}

struct Inner {
    server: Arc<Server>,
    shared: Shared,
    connections: RefCell<Vec<Rc<Connection>>>,
}

struct Connection {
    pending: RefCell<HashMap<u16, Waiting, ahash::RandomState>>,
    outbox: RefCell<Vec<u8>>,
    wake: Notify,
    closing: Cell<bool>,
    established: Cell<bool>,
    answered: Cell<bool>,
    last_used: Cell<Instant>,
    last_heard: Cell<Instant>,
    /// Nothing comes over it any more.
    dead: Notify,
}

struct Waiting {
    pending: Pending,
    /// Whether it was on a connection before that broke.
    resent: Cell<bool>,
}

impl StreamPool {
    /// A pool without connections; the first query opens one.
    #[must_use]
    pub fn new(server: Arc<Server>, shared: Shared) -> Self {
        let connections = RefCell::default();
        Self {
            inner: Rc::new(Inner {
                server,
                shared,
                connections,
            }),
        }
    }

    /// Sends a query; what becomes of it is delivered.
    pub fn send(&self, pending: Pending, now: Instant) {
        self.inner.send(
            Waiting {
                pending,
                resent: Cell::new(false),
            },
            now,
        );
    }

    /// Forgets queries whose answer would come too late to matter, and closes idle connections.
    pub fn sweep(&self, now: Instant) {
        for connection in &*self.inner.connections.borrow() {
            let mut pending = connection.pending.borrow_mut();
            let server = &self.inner.server;
            let heard = connection.last_heard.get();
            let mut silent = false;
            pending.retain(|_, waiting| {
                let expired = waiting.pending.expired(server, Carrier::Stream, now);
                silent |= expired && waiting.pending.sent > heard;
                !expired
            });
            if silent && connection.answered.get() {
                connection.closing.set(true);
                connection.dead.notify_one();
            }
            let idle = now.saturating_duration_since(connection.last_used.get()) > IDLE;
            if pending.is_empty() && idle {
                connection.closing.set(true);
                connection.wake.notify_one();
            }
        }
    }
}

impl Drop for StreamPool {
    fn drop(&mut self) {
        for connection in &*self.inner.connections.borrow() {
            connection.closing.set(true);
            connection.dead.notify_one();
        }
    }
}

impl Inner {
    fn send(self: &Rc<Self>, waiting: Waiting, now: Instant) {
        let connection = self.pick(now);
        if connection.pending.borrow().len() >= MAX_PENDING {
            waiting.pending.broken(&self.server, Carrier::Stream);
            return;
        }
        let mut pending = connection.pending.borrow_mut();
        let id = loop {
            let id = self.shared.random();
            if !pending.contains_key(&id) {
                break id;
            }
        };
        put_frame(&mut connection.outbox.borrow_mut(), |out| {
            waiting.pending.write(id, out);
        });
        pending.insert(id, waiting);
        connection.last_used.set(now);
        connection.wake.notify_one();
    }

    /// The least busy connection, or a new one.
    fn pick(self: &Rc<Self>, now: Instant) -> Rc<Connection> {
        let mut connections = self.connections.borrow_mut();
        connections.retain(|connection| !connection.closing.get());
        let load = |connection: &Rc<Connection>| connection.pending.borrow().len();
        if let Some(least) = connections.iter().min_by_key(|connection| load(connection))
            && (load(least) < CROWDED || connections.len() >= CONNECTIONS)
        {
            return Rc::clone(least);
        }
        let connection = Rc::new(Connection {
            pending: RefCell::default(),
            outbox: RefCell::default(),
            wake: Notify::new(),
            closing: Cell::new(false),
            established: Cell::new(false),
            answered: Cell::new(false),
            last_used: Cell::new(now),
            last_heard: Cell::new(now),
            dead: Notify::new(),
        });
        connections.push(Rc::clone(&connection));
        let (pool, runs) = (Rc::downgrade(self), Rc::clone(&connection));
        let server = Arc::clone(&self.server);
        tokio::task::spawn_local(async move {
            if let Err(error) = runs.run(&server).await {
                tracing::debug!(server = %server.label, %error, "upstream connection ended");
            }
            runs.finish(&server, &pool);
        });
        connection
    }
}

impl Connection {
    async fn run(&self, server: &Server) -> io::Result<()> {
        let connect = async {
            let stream = TcpStream::connect(server.config.address).await?;
            stream.set_nodelay(true)?;
            io::Result::Ok(stream)
        };
        let stream = timeout(CONNECT, connect).await??;
        match server.tls.clone() {
            None => self.exchange(server, stream).await,
            Some(tls) => {
                let handshake = tls.connector.connect(tls.name, stream);
                let stream = timeout(CONNECT, handshake).await??;
                self.exchange(server, stream).await
            }
        }
    }

    /// Reads and writes side by side: a server that stops reading until it has written must not stop us.
    async fn exchange(
        &self,
        server: &Server,
        stream: impl AsyncRead + AsyncWrite,
    ) -> io::Result<()> {
        self.established.set(true);
        let (mut reader, mut writer) = tokio::io::split(stream);
        let read = async {
            let mut frames = Frames::new();
            while frames.fill(&mut reader).await? > 0 {
                let now = Instant::now();
                while let Some(message) = frames.next_message() {
                    self.accept(server, message, now);
                }
            }
            io::Result::Ok(())
        };
        let write = async {
            loop {
                let bytes = std::mem::take(&mut *self.outbox.borrow_mut());
                if !bytes.is_empty() {
                    writer.write_all(&bytes).await?;
                    writer.flush().await?;
                } else if self.closing.get() {
                    return writer.shutdown().await;
                } else {
                    self.wake.notified().await;
                }
            }
        };
        tokio::select! {
            ended = read => ended,
            ended = write => ended,
            () = self.dead.notified() => Ok(()),
        }
    }

    fn accept(&self, server: &Server, message: &[u8], now: Instant) {
        let id = wire::id(message);
        let mut pending = self.pending.borrow_mut();
        let verdict = match pending.get(&id) {
            Some(waiting) => waiting.pending.matches(message),
            None => Err(Mismatch::Id),
        };
        match verdict {
            Ok(()) => {
                if let Some(waiting) = pending.remove(&id) {
                    drop(pending);
                    self.answered.set(true);
                    self.last_used.set(now);
                    self.last_heard.set(now);
                    waiting
                        .pending
                        .answered(server, Carrier::Stream, message, now);
                }
            }
            Err(reason) => server.metrics.mismatched(reason),
        }
    }

    /// The connection is over: what waited on one that had worked goes out once more.
    fn finish(&self, server: &Server, pool: &Weak<Inner>) {
        self.closing.set(true);
        let now = Instant::now();
        let waiting = std::mem::take(&mut *self.pending.borrow_mut());
        for waiting in waiting.into_values() {
            let again = self.answered.get() && !waiting.resent.replace(true);
            match pool.upgrade() {
                Some(pool) if again => pool.send(waiting, now),
                _ if self.established.get() => waiting.pending.broken(server, Carrier::Stream),
                _ => waiting.pending.unreachable(server, Carrier::Stream, now),
            }
        }
    }
}
