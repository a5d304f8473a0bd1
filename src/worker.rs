//! A worker: one thread, its runtime, its sockets, its share of the queries. No query crosses to another thread.
//!
//! Owns what is per thread: upstream sockets, the questions in flight, local counters. What is per process (routes, the
//! cache, server health) it shares by reference.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use socket2::Socket;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::config::Config;
use crate::flight::Flight;
use crate::listener::{tcp, udp};
use crate::local::LocalZone;
use crate::metrics::{Metrics, WorkerMetrics};
use crate::route::Routes;
use crate::transport::tls::Tls;
use crate::upstream::Upstreams;
use crate::upstream::ask::Links;

/// How often a worker looks after what is over, flushes its counters and shows that it is alive.
const TICK: Duration = Duration::from_millis(250);

/// What is left of the end once the grace is over: enough to hand every waiting client its SERVFAIL.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// What all workers share.
pub struct Shared {
    /// As validated.
    pub config: Config,
    /// Zone → groups.
    pub routes: Routes,
    /// Groups, servers and their health.
    pub upstreams: Upstreams,
    /// What TLS servers need, by server index.
    pub tls: Vec<Option<Tls>>,
    /// The answer cache.
    pub cache: Cache,
    /// Names answered here.
    pub local: LocalZone,
    /// All metrics.
    pub metrics: Metrics,
    /// Client connections over TCP, all workers together.
    pub tcp_clients: tcp::Clients,
    /// Hashes names, to tell them apart in the servers' health: one for all workers, who report to the same health.
    pub hasher: ahash::RandomState,
    /// Names of our own loop probes; see [`crate::upstream::probe`].
    pub loops: crate::upstream::probe::LoopNames,
}

impl Shared {
    /// The zone through which a group is reached: the root if any route of it is, written as the end of a name.
    #[must_use]
    pub fn zone_of(&self, group: &str) -> &str {
        let reaches = |route: &&crate::route::Route| {
            route
                .tiers
                .iter()
                .any(|&tier| &*self.upstreams.groups[tier].name == group)
        };
        let zones = self
            .routes
            .iter()
            .filter(reaches)
            .map(|route| route.zone.as_str());
        zones
            .min_by_key(|zone| zone.len())
            .unwrap_or(".")
            .trim_start_matches('.')
    }
}

/// The sockets one worker serves.
pub struct Sockets {
    /// One for each listen address.
    pub udp: Vec<Socket>,
    /// One for each listen address.
    pub tcp: Vec<Socket>,
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

/// One worker's state; lives on its thread.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// Own transports to every server.
    pub links: Links,
    /// Questions in flight, by key.
    pub flights: RefCell<HashMap<Box<[u8]>, Rc<Flight>, ahash::RandomState>>,
    /// Queries in flight by client address.
    pub clients: RefCell<HashMap<IpAddr, usize, ahash::RandomState>>,
    /// Own counters.
    pub metrics: WorkerMetrics,
    /// For what need not be unpredictable: rotation of addresses.
    pub random: RefCell<fastrand::Rng>,
    /// REFUSED replies to strangers left this second.
    refused_left: Cell<u32>,
    refused_second: Cell<Option<Instant>>,
}

impl Worker {
    fn new(shared: Arc<Shared>) -> Self {
        let zones = shared.routes.iter().map(|route| route.zone.as_str());
        Self {
            links: Links::new(&shared.upstreams, &shared.tls),
            flights: RefCell::default(),
            clients: RefCell::default(),
            metrics: shared.metrics.worker(zones),
            random: RefCell::new(fastrand::Rng::new()),
            refused_left: Cell::new(0),
            refused_second: Cell::new(None),
            shared,
        }
    }

    /// Whether this client is answered at all.
    #[inline]
    #[must_use]
    pub fn allows(&self, client: SocketAddr) -> bool {
        let ip = client.ip();
        self.shared
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
                .set(self.shared.config.udp.refused_per_second);
        }
        let left = self.refused_left.get();
        self.refused_left.set(left.saturating_sub(1));
        left > 0
    }

    fn tick(&self, heartbeat: &Heartbeat) {
        heartbeat.beat();
        self.links.sweep(Instant::now());
        self.metrics.flush();
    }
}

/// Runs a worker until `stop`, then until its queries in flight are answered or `shutdown_grace` is over.
///
/// # Errors
/// If its runtime or sockets cannot be set up.
pub fn run(
    shared: Arc<Shared>,
    sockets: Sockets,
    heartbeat: &Heartbeat,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async move {
        let grace = shared.config.shutdown_grace;
        let worker = Rc::new(Worker::new(shared));
        let mut listeners = tokio::task::JoinSet::new();
        for socket in sockets.udp {
            let listener = udp::Listener::new(&worker, socket)?;
            listeners.spawn_local(listener.run(stop.clone()));
        }
        for socket in sockets.tcp {
            let listener = tcp::Listener::new(&worker, socket)?;
            listeners.spawn_local(listener.run(stop.clone()));
        }
        let mut ticks = tokio::time::interval(TICK);
        let mut deadline = None;
        let mut abandoned = false;
        loop {
            tokio::select! {
                _ = ticks.tick() => worker.tick(heartbeat),
                () = stop.cancelled(), if deadline.is_none() => deadline = Some(Instant::now() + grace),
                ended = listeners.join_next() => match ended {
                    None => break,
                    Some(Err(panic)) if panic.is_panic() => {
                        // Listeners hold no state that a restart of the process would not rebuild better.
                        tracing::error!("a listener of this worker failed; /health will tell");
                        return Err(std::io::Error::other("listener panicked"));
                    }
                    Some(_) => {}
                },
                () = until(deadline) => {
                    if abandoned {
                        break;
                    }
                    abandoned = true;
                    worker.abandon();
                    deadline = Some(Instant::now() + LAST_WORDS);
                }
            }
        }
        worker.tick(heartbeat);
        Ok(())
    })
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
