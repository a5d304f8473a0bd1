//! A worker's state: what it shares with others, and what is its own. No query crosses to another thread.
//!
//! A [`Worker`] works under one setup for all its life. A reload puts another one in its place ([`CurrentWorker`]); what
//! was in flight ends under the setup it began with.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use super::flights::{Flight, Flights};
use super::metrics::{ServingFamilies, WorkerMetrics};
use super::recent_failures::{RecentFailures, WorkerFailures};
use super::replies::Replies;
use super::setup::Setup;
use super::top::{TopBoard, WorkerTop};
use super::waiting::ClientCounts;
use crate::budgets::FLIGHT_TASKS_KEPT;
use crate::cache::Cache;
use crate::runtime;
use crate::runtime::{Tasks, Turns};
use crate::upstream::ask::Links;
use crate::upstream::loops::LoopNames;

/// What all workers share, whatever the configuration.
pub struct Shared {
    /// The setup in force. Each worker has its own reference to the one it works by; results that arrive after a reload
    /// are compared with this one before they are cached.
    pub current: ArcSwap<Setup>,
    /// The answer cache.
    pub cache: Cache,
    /// What is counted of queries.
    pub metrics: ServingFamilies,
    /// The last failures, for /status.
    pub failures: Arc<RecentFailures>,
    /// What workers count of names and clients, for /status.
    pub top: TopBoard,
    /// Hashes names, to tell them apart in the servers' health: one for all workers, who report to the same health.
    pub hasher: ahash::RandomState,
    /// Names of our own loop probes.
    pub loops: Arc<LoopNames>,
    /// How many upstream sockets each worker may have open.
    pub upstream_sockets: usize,
}

/// One worker's state under one setup; lives on its thread.
pub struct Worker {
    /// What all workers share.
    pub shared: Arc<Shared>,
    /// What it works by.
    pub setup: Arc<Setup>,
    /// Own counters.
    pub metrics: Rc<WorkerMetrics>,
    /// What it says to clients.
    pub(super) replies: Rc<Replies>,
    /// The thread's turns.
    pub turns: Turns,
    /// Own transports to every server.
    pub(super) links: Links,
    /// Questions in flight, by key.
    pub(super) flights: Flights,
    /// The thread's tasks that ask the upstreams.
    pub(super) asking: Rc<Tasks<Leader>>,
    /// Under this setup and earlier ones.
    pub(super) clients: Rc<ClientCounts>,
    /// REFUSED replies to clients outside `allow` that are left this second.
    pub(super) refused_left: Cell<u32>,
    pub(super) refused_second: Cell<Option<Instant>>,
}

/// Whoever asks the upstreams for a flight. Everybody who waits is answered exactly once: dropped before it landed (a bug,
/// or the end of the process), it lets the waiters know. What it does is [`super::query_path`]'s.
pub(super) struct Leader {
    pub(super) worker: Rc<Worker>,
    pub(super) flight: Rc<Flight>,
    pub(super) key: Rc<[u8]>,
    pub(super) route: u16,
    pub(super) landed: Cell<bool>,
}

impl Worker {
    /// Takes over the sockets of `previous` where the servers are the same.
    #[must_use]
    pub fn new(shared: &Arc<Shared>, setup: &Arc<Setup>, previous: Option<&Self>) -> Self {
        let metrics = Rc::new(shared.metrics.worker(setup.routes.existing_zones()));
        let status = &setup.config.status;
        let failures = status
            .failures
            .then(|| Rc::new(WorkerFailures::new(&shared.failures)));
        let known = previous.and_then(|old| old.replies.top.clone());
        let top = known.filter(|known| known.what() == status.top);
        let new = || WorkerTop::new(status.top, &shared.top, runtime::now()).map(Rc::new);
        let top = top.or_else(new);
        let turns = previous.map_or_else(Turns::default, |old| old.turns.clone());
        Self {
            replies: Rc::new(Replies::new(setup, &metrics, failures, top)),
            metrics,
            links: Links::new(
                &setup.upstreams,
                previous.map(|old| &old.links),
                shared.upstream_sockets,
                &turns,
            ),
            turns,
            flights: Flights::default(),
            asking: previous.map_or_else(
                || Tasks::keeping(FLIGHT_TASKS_KEPT),
                |old| Rc::clone(&old.asking),
            ),
            clients: previous.map_or_else(Rc::default, |old| Rc::clone(&old.clients)),
            refused_left: Cell::new(0),
            refused_second: Cell::new(None),
            shared: Arc::clone(shared),
            setup: Arc::clone(setup),
        }
    }

    fn tick(&self) {
        let now = runtime::now();
        self.links.sweep(now);
        self.metrics.flush();
        if let Some(failures) = &self.replies.failures {
            failures.flush();
        }
        if let Some(top) = &self.replies.top {
            top.publish(now);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.metrics.flush();
    }
}

/// Where a thread's listeners find the worker of the setup in force.
pub struct CurrentWorker {
    worker: RefCell<Rc<Worker>>,
    /// Earlier ones that still have something in flight.
    earlier: RefCell<Vec<Weak<Worker>>>,
}

impl CurrentWorker {
    /// A worker of the setup in force.
    #[must_use]
    pub fn new(shared: &Arc<Shared>) -> Self {
        let worker = Worker::new(shared, &shared.current.load_full(), None);
        Self {
            worker: RefCell::new(Rc::new(worker)),
            earlier: RefCell::default(),
        }
    }

    /// The worker of the setup in force.
    #[inline]
    #[must_use]
    pub fn get(&self) -> Rc<Worker> {
        Rc::clone(&self.worker.borrow())
    }

    /// Puts a worker of another setup in place of the one there is.
    pub fn replace(&self, setup: &Arc<Setup>) {
        let old = self.get();
        let new = Worker::new(&old.shared, setup, Some(&old));
        self.worker.replace(Rc::new(new));
        self.earlier.borrow_mut().push(Rc::downgrade(&old));
    }

    /// Looks after what is over and flushes counters; to be called a few times a second.
    pub fn tick(&self) {
        for worker in self.all() {
            worker.tick();
        }
    }

    /// The grace is over: all clients that still wait get SERVFAIL.
    pub fn abandon(&self) {
        for worker in self.all() {
            worker.flights.abandon();
        }
    }

    /// All that still have something to do.
    fn all(&self) -> Vec<Rc<Worker>> {
        let mut earlier = self.earlier.borrow_mut();
        earlier.retain(|worker| worker.strong_count() > 0);
        let mut all: Vec<_> = earlier.iter().filter_map(Weak::upgrade).collect();
        all.push(self.get());
        all
    }
}
