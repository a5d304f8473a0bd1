//! A worker's state: the part that all workers share, and the part of its own. A query never crosses to another thread.
//!
//! A [`Worker`] uses one setup for all its life. A reload replaces the worker ([`CurrentWorker`]). Queries in flight end under
//! the setup that they began with.

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

/// State that all workers share, and that outlives reloads.
pub struct Shared {
    /// The setup in force. Each worker has a reference to the setup that it uses. Results that arrive after a reload are checked
    /// against this one before they are cached.
    pub current: ArcSwap<Setup>,
    /// The answer cache.
    pub cache: Cache,
    /// Metrics of queries.
    pub metrics: ServingFamilies,
    /// The last failures, for /status.
    pub failures: Arc<RecentFailures>,
    /// Counts of names and clients, for /status.
    pub top: TopBoard,
    /// Hashes names for the servers' health, which tells names apart by their hashes. All workers report to the same health, so
    /// they share the hasher.
    pub hasher: ahash::RandomState,
    /// Names of our own loop probes.
    pub loops: Arc<LoopNames>,
    /// Number of upstream sockets that each worker may have open.
    pub upstream_sockets: usize,
}

/// One worker's state under one setup; lives on its thread.
pub struct Worker {
    /// State that all workers share.
    pub shared: Arc<Shared>,
    /// The setup that the worker uses.
    pub setup: Arc<Setup>,
    /// The worker's counters.
    pub metrics: Rc<WorkerMetrics>,
    /// Writes replies to clients.
    pub(super) replies: Rc<Replies>,
    /// The thread's turns.
    pub turns: Turns,
    /// The worker's transports to each server.
    pub(super) links: Links,
    /// Questions in flight, by key.
    pub(super) flights: Flights,
    /// The thread's tasks that run flights.
    pub(super) asking: Rc<Tasks<Leader>>,
    /// Waiting queries of clients, under this setup and earlier ones.
    pub(super) clients: Rc<ClientCounts>,
    /// Number of REFUSED replies that clients outside `allow` may still get in this second.
    pub(super) refused_left: Cell<u32>,
    /// When this second began.
    pub(super) refused_second: Cell<Option<Instant>>,
}

/// Runs a flight, and sees to it that each waiter is answered exactly once: if it is dropped before the flight landed (by a
/// bug, or at the end of the process), the waiters get SERVFAIL. Its methods are in [`super::query_path`].
pub(super) struct Leader {
    pub(super) worker: Rc<Worker>,
    pub(super) flight: Rc<Flight>,
    pub(super) key: Rc<[u8]>,
    pub(super) route: u16,
    pub(super) landed: Cell<bool>,
}

impl Worker {
    /// A worker that uses `setup`. It takes over from `previous` the sockets to servers that are the same, tasks and counts.
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

/// A thread's worker of the setup in force, for the thread's listeners.
pub struct CurrentWorker {
    worker: RefCell<Rc<Worker>>,
    /// Earlier workers that still have queries in flight.
    earlier: RefCell<Vec<Weak<Worker>>>,
}

impl CurrentWorker {
    /// With a worker of the setup in force.
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

    /// Replaces the worker by one that uses `setup`.
    pub fn replace(&self, setup: &Arc<Setup>) {
        let old = self.get();
        let new = Worker::new(&old.shared, setup, Some(&old));
        self.worker.replace(Rc::new(new));
        self.earlier.borrow_mut().push(Rc::downgrade(&old));
    }

    /// Sweeps upstream sockets, and flushes counters. To be called a few times a second.
    pub fn tick(&self) {
        for worker in self.all() {
            worker.tick();
        }
    }

    /// Answers all waiting clients with SERVFAIL, because the grace of a stop is over.
    pub fn abandon(&self) {
        for worker in self.all() {
            worker.flights.abandon();
        }
    }

    /// The current worker, and earlier ones that still have queries in flight.
    fn all(&self) -> Vec<Rc<Worker>> {
        let mut earlier = self.earlier.borrow_mut();
        earlier.retain(|worker| worker.strong_count() > 0);
        let mut all: Vec<_> = earlier.iter().filter_map(Weak::upgrade).collect();
        all.push(self.get());
        all
    }
}
