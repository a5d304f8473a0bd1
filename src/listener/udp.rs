//! UDP clients: batches in, hits answered inside the receive loop, batches out.
//!
//! Owns a worker's socket for one listen address. Replies that are ready later wait in the outbox and leave together.

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use socket2::Socket;
use tokio::sync::Notify;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::budgets::{CLIENT_DATAGRAM_BYTES, REPLY_BUFFERS_KEPT};
use crate::message::reply::Protocol;
use crate::message::wire::MAX_PAYLOAD;
use crate::net::batch::{MAX_BATCH, ReceiveBatch, SendBatch};
use crate::net::steering::stop_receiving;
use crate::net::watched::{Watched, receive};
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
    filled: Notify,
    /// Whether a batch is on its way to the kernel.
    sending: Cell<bool>,
    current: Rc<CurrentWorker>,
}

impl ReplySink for Outbox {
    /// Queues a reply; it leaves with all others that become ready in the same turn of the runtime.
    fn send(&self, reply: Reply) {
        let mut replies = self.replies.borrow_mut();
        let first = replies.is_empty();
        let slot = replies.push(reply.client().address, reply.source());
        reply.write(slot);
        if first {
            self.filled.notify_one();
        }
    }
}

impl Outbox {
    /// Sends replies as they become ready, for ever.
    async fn run(&self) {
        let mut batch = new_batch();
        loop {
            self.filled.notified().await;
            std::mem::swap(&mut batch, &mut self.replies.borrow_mut());
            self.sending.set(true);
            send(&self.socket, &mut batch, &self.current.get()).await;
            self.sending.set(false);
        }
    }

    /// Whether everything has left.
    fn is_empty(&self) -> bool {
        self.replies.borrow().is_empty() && !self.sending.get()
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
    pub fn new(current: &Rc<CurrentWorker>, socket: Socket) -> io::Result<Self> {
        let address = socket.local_addr()?.as_socket();
        let families = &current.get().shared.metrics;
        let index = address.map_or_else(ListenerIndex::default, |at| families.listener(at));
        let socket = Rc::new(Watched::new(socket)?);
        let outbox = Rc::new(Outbox {
            socket: Rc::clone(&socket),
            replies: RefCell::new(new_batch()),
            filled: Notify::new(),
            sending: Cell::new(false),
            current: Rc::clone(current),
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
        // Made once: a new one in every turn of the loop would be listed with the token and taken off again.
        let mut stopped = pin!(stop.cancelled());
        loop {
            let ready = tokio::select! {
                biased;
                () = &mut stopped => break,
                ready = self.socket.ready() => ready,
            };
            let Ok(mut ready) = ready else { break };
            let Ok(count) = receive(&mut ready, &mut batch) else {
                continue;
            };
            self.serve_batch(&batch, count, &mut replies).await;
        }
        // From now on the kernel gives new datagrams to whoever else shares the port, and what it holds is finite.
        if let Err(error) = stop_receiving(self.socket.socket()) {
            tracing::debug!(%error, "cannot turn new queries away; those that wait are answered");
        }
        // A datagram for which the kernel chose this socket just before may still be on its way into it.
        for pause in [SETTLE, SETTLE, Duration::ZERO] {
            let mut batches = 0;
            while batches < MAX_DRAIN
                && let Ok(count) = batch.receive(self.socket.socket())
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
        let received = Instant::now();
        let (hits, others) = self.reply_to_batch(&worker, batch, count, received, replies);
        if !replies.is_empty() {
            send(&self.socket, replies, &worker).await;
        }
        let duration = received.elapsed();
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

/// Sends a batch, waiting while the kernel's buffer is full.
async fn send(socket: &Watched, batch: &mut SendBatch, worker: &Worker) {
    let mut sent = 0;
    while sent < batch.len() {
        match batch.send(socket.socket(), sent) {
            Ok(count) => sent += count.max(1),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if socket.writable().await.is_err() {
                    break;
                }
            }
            Err(error) => {
                // This client cannot be reached; the others can.
                tracing::debug!(%error, "a reply could not be sent");
                worker.metrics.dropped(Dropped::SendFailed);
                sent += 1;
            }
        }
    }
    batch.clear();
}
