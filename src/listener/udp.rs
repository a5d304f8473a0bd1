//! UDP clients: batches in, hits answered inside the receive loop, batches out.
//!
//! Owns a worker's socket for one listen address. Replies that are ready later wait in the outbox and leave together.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::budgets::{CLIENT_DATAGRAM_BYTES, REPLY_BUFFERS_KEPT};
use crate::message::reply::Protocol;
use crate::message::wire::MAX_PAYLOAD;
use crate::metrics::repeated::Repeated;
use crate::net::batch::{MAX_BATCH, ReceiveBatch, SendBatch};
use crate::net::network::UdpSocket;
use crate::net::watched::{Ready, Watched, receive};
use crate::runtime;
use crate::runtime::{Leaving, Turns};
use crate::serving::client::{Client, ListenerIndex, Served};
use crate::serving::metrics::{Cached, Dropped};
use crate::serving::waiting::{Reply, ReplySink, ReplyTo};
use crate::serving::worker::{CurrentWorker, Worker};

/// Batches read after the end: far more than a receive buffer holds, should new datagrams keep coming.
const MAX_DRAIN: usize = 1024;

/// Far longer than the kernel takes from choosing a socket for a datagram to queueing it there.
const SETTLE: Duration = Duration::from_millis(10);

/// Replies that became ready outside the receive loop.
struct Outbox {
    socket: Rc<Watched>,
    replies: RefCell<SendBatch>,
    /// How many of them have left.
    sent: Cell<usize>,
    /// Whether the kernel's buffer was full.
    blocked: Cell<bool>,
    /// Told when it is.
    full: Notify,
    turns: Turns,
    current: Rc<CurrentWorker>,
    cannot_send: Repeated,
}

impl ReplySink for Outbox {
    /// Queues a reply; it leaves with all others that become ready in the same turn.
    fn send(self: Rc<Self>, reply: Reply) {
        let mut replies = self.replies.borrow_mut();
        let first = replies.is_empty();
        let slot = replies.push(reply.client().address, reply.source());
        reply.write(slot);
        drop(replies);
        if first {
            self.turns.clone().at_end(self);
        }
    }
}

impl Leaving for Outbox {
    fn leave(self: Rc<Self>) {
        if !self.blocked.get() {
            self.send_on();
        }
    }
}

impl Outbox {
    /// Sends what the kernel has room for.
    fn send_on(&self) {
        let mut replies = self.replies.borrow_mut();
        let progress = self.send_now(&replies, self.sent.get(), &self.current.get());
        if let Progress::Blocked(sent) = progress {
            self.sent.set(sent);
            if !self.blocked.replace(true) {
                self.full.notify_one();
            }
        } else {
            self.sent.set(0);
            self.blocked.set(false);
            replies.clear();
        }
    }

    /// Sends what the kernel had no room for once it has, for ever.
    async fn run(&self) {
        loop {
            self.full.notified().await;
            while self.blocked.get() {
                if self.socket.writable().await.is_err() {
                    return;
                }
                self.send_on();
            }
        }
    }

    /// Sends a batch from number `sent` on, as far as the kernel has room for it.
    fn send_now(&self, batch: &SendBatch, mut sent: usize, worker: &Worker) -> Progress {
        while sent < batch.len() {
            match self.socket.send_batch(batch, sent) {
                Ok(count) => sent += count.max(1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Progress::Blocked(sent);
                }
                Err(error) => {
                    // This client cannot be reached; the others can.
                    worker.metrics.dropped(Dropped::SendFailed);
                    if let Some(times) = self.cannot_send.happened(runtime::now()) {
                        tracing::warn!(%error, times, "a reply over UDP cannot be sent");
                    }
                    sent += 1;
                }
            }
        }
        Progress::Done
    }

    /// The same, waiting for room.
    async fn send_all(&self, batch: &SendBatch, mut sent: usize, worker: &Worker) {
        while let Progress::Blocked(so_far) = self.send_now(batch, sent, worker) {
            sent = so_far;
            if self.socket.writable().await.is_err() {
                return;
            }
        }
    }

    /// Whether everything has left.
    fn is_empty(&self) -> bool {
        self.replies.borrow().is_empty()
    }
}

fn new_batch() -> SendBatch {
    SendBatch::new(usize::from(MAX_PAYLOAD), REPLY_BUFFERS_KEPT)
}

/// One worker's socket for one listen address.
pub struct Listener {
    current: Rc<CurrentWorker>,
    socket: Rc<Watched>,
    outbox: Rc<Outbox>,
    kernel_drops: Cell<u32>,
    /// Which listen address it is.
    index: ListenerIndex,
}

impl Listener {
    /// Serves a bound socket.
    ///
    /// # Errors
    /// If the runtime cannot watch it.
    pub fn new(current: &Rc<CurrentWorker>, socket: UdpSocket) -> io::Result<Self> {
        let socket = Rc::new(Watched::new(socket)?);
        let families = &current.get().shared.metrics;
        let address = socket.local_address();
        let index = address.map_or_else(ListenerIndex::default, |at| families.listener(at));
        let outbox = Rc::new(Outbox {
            socket: Rc::clone(&socket),
            replies: RefCell::new(new_batch()),
            sent: Cell::new(0),
            blocked: Cell::new(false),
            full: Notify::new(),
            turns: current.get().turns.clone(),
            current: Rc::clone(current),
            cannot_send: Repeated::default(),
        });
        Ok(Self {
            current: Rc::clone(current),
            socket,
            outbox,
            kernel_drops: Cell::new(0),
            index,
        })
    }

    /// Serves until `stop`; then answers what the kernel still holds and what is in flight.
    pub async fn run(self, stop: CancellationToken) {
        let outbox = Rc::clone(&self.outbox);
        let sender = tokio::task::spawn_local(async move { outbox.run().await });
        let mut batch = ReceiveBatch::new(MAX_BATCH, CLIENT_DATAGRAM_BYTES);
        let mut replies = new_batch();
        let stopping = Stopping::after(stop);
        while let Some(mut ready) =
            poll_fn(|context| stopping.or_ready(&self.socket, context)).await
        {
            let Ok(count) = receive(&mut ready, &mut batch) else {
                continue;
            };
            self.serve_batch(&batch, count, &mut replies).await;
        }
        // From now on the kernel gives new datagrams to whoever else shares the port, and what it holds is finite.
        if let Err(error) = self.socket.stop_receiving() {
            tracing::debug!(%error, "cannot turn new queries away; those that wait are answered");
        }
        // A datagram for which the kernel chose this socket just before may still be on its way into it.
        for pause in [SETTLE, SETTLE, Duration::ZERO] {
            let mut batches = 0;
            while batches < MAX_DRAIN
                && let Ok(count) = self.socket.receive(&mut batch)
            {
                batches += 1;
                self.serve_batch(&batch, count, &mut replies).await;
            }
            sleep(pause).await;
        }
        // Misses still in flight hold the outbox; the last of them lets go of it.
        while Rc::strong_count(&self.outbox) > 2 || !self.outbox.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        sender.abort();
    }

    /// Serves the `count` messages of a batch, and sends what can be replied at once.
    async fn serve_batch(&self, batch: &ReceiveBatch, count: usize, replies: &mut SendBatch) {
        let worker = self.current.get();
        let received = runtime::now();
        let turn = worker.turns.begin();
        let (hits, others) = self.reply_to_batch(&worker, batch, count, received, replies);
        let sent = self.outbox.send_now(replies, 0, &worker);
        // Those that wait have the upstreams asked only when those that need not wait have their replies.
        drop(turn);
        if let Progress::Blocked(sent) = sent {
            self.outbox.send_all(replies, sent, &worker).await;
        }
        replies.clear();
        let duration = runtime::since(received);
        worker.metrics.replied_after(Cached::Hit, hits, duration);
        worker
            .metrics
            .replied_after(Cached::Neither, others, duration);
        if batch.full() {
            // Under a flood the upstreams' answers must get their turn.
            tokio::task::yield_now().await;
        }
    }

    /// Fills `replies` with what can be replied at once: so many hits, and so many others.
    ///
    /// Never inlined, so that `tests/instructions.rs` finds it in the binary.
    #[inline(never)]
    fn reply_to_batch(
        &self,
        worker: &Rc<Worker>,
        batch: &ReceiveBatch,
        count: usize,
        received: Instant,
        replies: &mut SendBatch,
    ) -> (usize, usize) {
        let (mut hits, mut others) = (0, 0);
        for index in 0..count {
            let Some(peer) = batch.peer(index) else {
                continue;
            };
            let ancillary = batch.ancillary(index);
            if let Some(dropped) = ancillary.dropped {
                let before = self.kernel_drops.replace(dropped);
                worker.metrics.kernel_drops(dropped.wrapping_sub(before));
            }
            let source = ancillary.destination;
            let message = batch.datagram(index);
            let client = Client {
                address: peer,
                protocol: Protocol::Udp,
                received,
                // No datagram is longer.
                octets: u16::try_from(message.len()).unwrap_or(u16::MAX),
                listener: self.index,
            };
            let reply_to = || ReplyTo {
                sink: Rc::clone(&self.outbox) as Rc<dyn ReplySink>,
                source,
            };
            let out = replies.push(peer, source);
            match worker.serve(message, client, out, reply_to) {
                Served::Hit => hits += 1,
                Served::Replied => others += 1,
                Served::Dropped | Served::Later => replies.pop(),
            }
        }
        (hits, others)
    }
}

/// Whether a listener is to take no more. A token would be asked in every turn, and listed as waited for.
#[derive(Default)]
struct Stopping {
    now: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Stopping {
    /// So once the token is cancelled.
    fn after(token: CancellationToken) -> Rc<Self> {
        let stopping = Rc::<Self>::default();
        let told = Rc::clone(&stopping);
        tokio::task::spawn_local(async move {
            token.cancelled().await;
            told.now.set(true);
            if let Some(listener) = told.waker.take() {
                listener.wake();
            }
        });
        stopping
    }

    /// When the socket is ready; none when it is to be read no more.
    fn or_ready<'a>(
        &self,
        socket: &'a Watched,
        context: &mut Context<'_>,
    ) -> Poll<Option<Ready<'a>>> {
        if self.now.get() {
            return Poll::Ready(None);
        }
        let ready = socket.poll_ready(context);
        if ready.is_pending() {
            let mut waker = self.waker.borrow_mut();
            match &mut *waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => *waker = Some(context.waker().clone()),
            }
        }
        ready.map(Result::ok)
    }
}

/// How far a batch was sent.
enum Progress {
    Done,
    /// So many left; the kernel has no room for the next.
    Blocked(usize),
}
