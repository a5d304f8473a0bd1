//! UDP clients: queries are read in batches, hits are answered inside the receive loop, and replies are sent in batches.
//!
//! Owns a worker's socket for one listen address. Replies to misses wait in the outbox until the end of a turn, and are sent in
//! one batch.

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
use crate::runtime::{OutgoingQueue, Turns};
use crate::serving::client::{Client, ListenerIndex, Served};
use crate::serving::metrics::{Cached, Dropped};
use crate::serving::waiting::{Reply, ReplySink, ReplyTo};
use crate::serving::worker::{CurrentWorker, Worker};

/// Most batches that are read at a time after the stop: far more than a receive buffer holds. Limits the time that new
/// datagrams can take.
const MAX_DRAIN: usize = 1024;

/// How long we wait for late datagrams after the stop: far longer than the kernel takes from choosing a socket for a datagram
/// to queueing it there.
const SETTLE: Duration = Duration::from_millis(10);

/// Replies that became ready outside the receive loop.
struct Outbox {
    socket: Rc<Watched>,
    replies: RefCell<SendBatch>,
    /// Number of `replies` that are sent.
    sent: Cell<usize>,
    /// Whether the kernel's send buffer was full.
    blocked: Cell<bool>,
    /// Notified when `blocked` becomes true.
    full: Notify,
    turns: Turns,
    current: Rc<CurrentWorker>,
    cannot_send: Repeated,
}

impl ReplySink for Outbox {
    /// Queues a reply, which is sent at the end of the turn with all others.
    fn send(self: Rc<Self>, reply: Reply) {
        let mut replies = self.replies.borrow_mut();
        let first = replies.is_empty();
        let slot = replies.push(reply.client().address, reply.source());
        reply.write(slot);
        drop(replies);
        if first {
            self.turns.clone().flush_at_end(self);
        }
    }
}

impl OutgoingQueue for Outbox {
    fn flush(self: Rc<Self>) {
        if !self.blocked.get() {
            self.send_queued();
        }
    }
}

impl Outbox {
    /// Sends replies, as many as the kernel has room for.
    fn send_queued(&self) {
        let mut replies = self.replies.borrow_mut();
        let progress = self.send_now(&replies, self.sent.get(), &self.current.get());
        if let SendProgress::Blocked(sent) = progress {
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

    /// Sends the rest whenever the kernel had no room and has some again. Ends only if the socket fails.
    async fn run(&self) {
        loop {
            self.full.notified().await;
            while self.blocked.get() {
                if self.socket.writable().await.is_err() {
                    return;
                }
                self.send_queued();
            }
        }
    }

    /// Sends the replies of a batch from index `sent` on, as many as the kernel has room for.
    fn send_now(&self, batch: &SendBatch, mut sent: usize, worker: &Worker) -> SendProgress {
        while sent < batch.len() {
            match self.socket.send_batch(batch, sent) {
                Ok(count) => sent += count.max(1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return SendProgress::Blocked(sent);
                }
                Err(error) => {
                    // An error concerns this client only.
                    worker.metrics.dropped(Dropped::SendFailed);
                    if let Some(times) = self.cannot_send.happened(runtime::now()) {
                        tracing::warn!(%error, times, "a reply over UDP cannot be sent");
                    }
                    sent += 1;
                }
            }
        }
        SendProgress::Done
    }

    /// As `send_now`, and waits for room until all replies are sent.
    async fn send_all(&self, batch: &SendBatch, mut sent: usize, worker: &Worker) {
        while let SendProgress::Blocked(so_far) = self.send_now(batch, sent, worker) {
            sent = so_far;
            if self.socket.writable().await.is_err() {
                return;
            }
        }
    }

    /// Whether all replies are sent.
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
    /// The index of the listen address.
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

    /// Serves until `stop`. Then reads and answers the datagrams that the kernel still holds, and waits for replies to queries
    /// in flight.
    pub async fn run(self, stop: CancellationToken) {
        let outbox = Rc::clone(&self.outbox);
        let sender = tokio::task::spawn_local(async move { outbox.run().await });
        let mut batch = ReceiveBatch::new(MAX_BATCH, CLIENT_DATAGRAM_BYTES);
        let mut replies = new_batch();
        let stopping = StopSignal::after(stop);
        while let Some(mut ready) =
            poll_fn(|context| stopping.or_ready(&self.socket, context)).await
        {
            let Ok(count) = receive(&mut ready, &mut batch) else {
                continue;
            };
            self.serve_batch(&batch, count, &mut replies).await;
        }
        // The kernel gives new datagrams to other sockets that share the port from here on, so that this one runs empty.
        if let Err(error) = self.socket.stop_receiving() {
            tracing::debug!(%error, "cannot turn new queries away; those that wait are answered");
        }
        // The kernel may have chosen this socket for a datagram just before, and queue it only now.
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
        // Each miss in flight holds a reference to the outbox. The other two are this listener's and its sender's.
        while Rc::strong_count(&self.outbox) > 2 || !self.outbox.is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        sender.abort();
    }

    /// Serves the `count` messages of a batch, and sends the replies that need no upstream server.
    async fn serve_batch(&self, batch: &ReceiveBatch, count: usize, replies: &mut SendBatch) {
        let worker = self.current.get();
        let received = runtime::now();
        let turn = worker.turns.begin();
        let (hits, others) = self.reply_to_batch(&worker, batch, count, received, replies);
        let sent = self.outbox.send_now(replies, 0, &worker);
        // Upstream servers are asked at the end of the turn, after the hits are sent.
        drop(turn);
        if let SendProgress::Blocked(sent) = sent {
            self.outbox.send_all(replies, sent, &worker).await;
        }
        replies.clear();
        let duration = runtime::since(received);
        worker.metrics.replied_after(Cached::Hit, hits, duration);
        worker
            .metrics
            .replied_after(Cached::Neither, others, duration);
        if batch.full() {
            // In a flood of queries, the readers of upstream sockets must run, too.
            tokio::task::yield_now().await;
        }
    }

    /// Fills `replies` with the replies that need no upstream server. Returns the number of hits and of other replies.
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
                // A datagram's length fits into 16 bits.
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

/// Tells a listener to stop. A `CancellationToken` polled in the receive loop would take a lock and register a waiter each
/// time.
#[derive(Default)]
struct StopSignal {
    now: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl StopSignal {
    /// Stops when the token is cancelled.
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

    /// Ready when the socket has something to read, and None after the stop.
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
enum SendProgress {
    Done,
    /// This many were sent. The kernel has no room for the next one.
    Blocked(usize),
}
