//! A worker: one thread, its runtime, its sockets, its share of the queries. No query crosses to another thread.
//!
//! Owns what is per thread: upstream sockets, the questions in flight, local counters. What is per process (the cache,
//! metrics, the setup and its servers' health) it shares by reference.
//!
//! A [`Worker`] works under one setup for all its life. A reload puts another one on its [`Seat`]; what was in flight
//! ends under the setup it began with.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use socket2::Socket;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::listener::{tcp, udp};
use crate::metrics::{Metrics, WorkerMetrics};
use crate::serving::flights::Flight;
use crate::serving::setup::Setup;
use crate::upstream::ask::Links;
use crate::upstream::probe::LoopNames;

/// How often a worker looks after what is over, flushes its counters and shows that it is alive.
const TICK: Duration = Duration::from_millis(250);

/// What is left of the end once the grace is over: enough to hand every waiting client its SERVFAIL.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What all workers share, whatever the configuration.
pub struct Shared {
    /// The setup in force. Workers have their own reference; what is late asks here whether it still counts.
    pub current: ArcSwap<Setup>,
    /// The answer cache.
    pub cache: Cache,
    /// All metrics.
    pub metrics: Metrics,
    /// Client connections over TCP, all workers together.
    pub tcp_clients: tcp::Clients,
    /// Hashes names, to tell them apart in the servers' health: one for all workers, who report to the same health.
    pub hasher: ahash::RandomState,
    /// Names of our own loop probes; see [`crate::upstream::probe`].
    pub loops: Arc<LoopNames>,
}

/// One worker's UDP socket for one listen address.
pub struct Datagrams {
    /// The socket.
    pub socket: Socket,
    /// When to take no more.
    pub stop: CancellationToken,
}

/// What a worker is told. It serves until nobody can tell it anything more.
pub enum Command {
    /// Serve this address too.
    Listen(Datagrams),
    /// Serve this connection.
    Connection(tcp::Accepted),
    /// Work under this setup from now on, and say when that is so.
    Work(Arc<Setup>, oneshot::Sender<()>),
}

/// Milliseconds since the process started at which a worker's loop last ran; /health reads it.
#[derive(Debug)]
pub struct Heartbeat {
    start: Instant,
    last: AtomicU64,
}

impl Heartbeat {
    /// Beats for the first time now.
    #[must_use]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        let elapsed = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last.store(elapsed, Ordering::Relaxed);
    }

    /// Time since the last beat.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.start
            .elapsed()
            .saturating_sub(Duration::from_millis(self.last.load(Ordering::Relaxed)))
    }
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self::new()
    }
}

/// One worker's state under one setup; lives on its thread.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// What it works by.
    pub setup: Arc<Setup>,
    /// Own transports to every server.
    pub links: Links,
    /// Questions in flight, by key.
    pub flights: RefCell<HashMap<Rc<[u8]>, Rc<Flight>, ahash::RandomState>>,
    /// Queries in flight by client address, under this setup and earlier ones.
    pub clients: Rc<RefCell<HashMap<IpAddr, usize, ahash::RandomState>>>,
    /// Own counters.
    pub metrics: WorkerMetrics,
    /// For what need not be unpredictable: rotation of addresses.
    pub random: RefCell<fastrand::Rng>,
    /// REFUSED replies to strangers left this second.
    refused_left: Cell<u32>,
    refused_second: Cell<Option<Instant>>,
}

impl Worker {
    /// Takes over the sockets of `previous` where the servers are the same.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, setup: &Arc<Setup>, previous: Option<&Self>) -> Self {
        Self {
            links: Links::new(&setup.upstreams, previous.map(|old| &old.links)),
            flights: RefCell::default(),
            clients: previous.map_or_else(Rc::default, |old| Rc::clone(&old.clients)),
            metrics: shared.metrics.worker(setup.routes.zones()),
            random: RefCell::new(fastrand::Rng::new()),
            refused_left: Cell::new(0),
            refused_second: Cell::new(None),
            shared: Arc::clone(shared),
            setup: Arc::clone(setup),
        }
    }

    /// Whether this client is answered at all.
    #[inline]
    #[must_use]
    pub fn allows(&self, client: SocketAddr) -> bool {
        let ip = client.ip();
        self.setup
            .config
            .allow
            .iter()
            .any(|network: &IpNet| network.contains(&ip))
    }

    /// Takes one of this second's REFUSED replies to strangers, if there is one.
    pub fn may_refuse(&self, now: Instant) -> bool {
        let fresh = self
            .refused_second
            .get()
            .is_none_or(|second| now.saturating_duration_since(second) >= Duration::from_secs(1));
        if fresh {
            self.refused_second.set(Some(now));
            self.refused_left
                .set(self.setup.config.udp.refused_per_second);
        }
        let left = self.refused_left.get();
        self.refused_left.set(left.saturating_sub(1));
        left > 0
    }

    fn tick(&self) {
        self.links.sweep(Instant::now());
        self.metrics.flush();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.metrics.flush();
    }
}

/// Where a thread's listeners find the worker of the setup in force.
pub struct Seat {
    worker: RefCell<Rc<Worker>>,
    /// Earlier ones that still have something in flight.
    earlier: RefCell<Vec<Weak<Worker>>>,
}

impl Seat {
    fn new(worker: Worker) -> Self {
        Self {
            worker: RefCell::new(Rc::new(worker)),
            earlier: RefCell::default(),
        }
    }

    /// The worker of the setup in force.
    #[inline]
    #[must_use]
    pub fn worker(&self) -> Rc<Worker> {
        Rc::clone(&self.worker.borrow())
    }

    fn replace(&self, setup: &Arc<Setup>) {
        let old = self.worker();
        let new = Worker::new(&old.shared, setup, Some(&old));
        self.worker.replace(Rc::new(new));
        self.earlier.borrow_mut().push(Rc::downgrade(&old));
    }

    /// All that still have something to do.
    fn all(&self) -> Vec<Rc<Worker>> {
        let mut earlier = self.earlier.borrow_mut();
        earlier.retain(|worker| worker.strong_count() > 0);
        let mut all: Vec<_> = earlier.iter().filter_map(Weak::upgrade).collect();
        all.push(self.worker());
        all
    }

    fn tick(&self, heartbeat: &Heartbeat) {
        heartbeat.beat();
        for worker in self.all() {
            worker.tick();
        }
    }
}

/// Runs a worker until it is stopped by `stop` and nobody can give it commands any more, and then until its queries in
/// flight are answered. From `stop` on that may take `shutdown_grace`.
///
/// # Errors
/// If its runtime cannot be set up, or a socket cannot be watched.
pub fn run(
    shared: Arc<Shared>,
    commands: mpsc::UnboundedReceiver<Command>,
    heartbeat: Arc<Heartbeat>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        // A LocalSet would be one task that runs ours, and wakes the runtime by a system call for each of them.
        .build_local(LocalOptions::default())?;
    runtime.block_on(async move {
        // As a task, polled when it is woken: what stands here itself is polled in every turn of the runtime.
        let work = tokio::task::spawn_local(work(shared, commands, heartbeat, stop));
        work.await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    })
}

async fn work(
    shared: Arc<Shared>,
    mut commands: mpsc::UnboundedReceiver<Command>,
    heartbeat: Arc<Heartbeat>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let seat = Rc::new(Seat::new(Worker::new(
        &shared,
        &shared.current.load_full(),
        None,
    )));
    let mut listeners = JoinSet::new();
    let mut connections = tcp::Connections::new(&seat);
    let mut ticks = tokio::time::interval(TICK);
    let mut told_all = false;
    let mut deadline = None;
    let mut abandoned = false;
    while !(told_all && listeners.is_empty() && connections.is_empty()) {
        tokio::select! {
            _ = ticks.tick() => seat.tick(&heartbeat),
            command = commands.recv(), if !told_all => match command {
                Some(Command::Connection(accepted)) => connections.admit(accepted),
                Some(Command::Listen(Datagrams { socket, stop })) => {
                    listeners.spawn_local(udp::Listener::new(&seat, socket)?.run(stop));
                }
                Some(Command::Work(setup, done)) => {
                    seat.replace(&setup);
                    // Whoever waits for it may have been given up meanwhile.
                    let _ = done.send(());
                }
                None => told_all = true,
            },
            () = stop.cancelled(), if deadline.is_none() => {
                deadline = Some(Instant::now() + seat.worker().setup.config.shutdown_grace);
            }
            () = connections.ended() => {}
            Some(ended) = listeners.join_next() => {
                if let Err(panic) = ended && panic.is_panic() {
                    // Listeners hold no state that a restart of the process would not rebuild better.
                    tracing::error!("a listener of this worker failed; /health will tell");
                    return Err(std::io::Error::other("listener panicked"));
                }
            }
            () = until(deadline) => {
                if abandoned {
                    break;
                }
                abandoned = true;
                for worker in seat.all() {
                    worker.abandon();
                }
                deadline = Some(Instant::now() + LAST_WORDS);
            }
        }
    }
    seat.tick(&heartbeat);
    Ok(())
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
