//! Questions in flight, who waits for them, and whether one may start.
//!
//! Owns coalescing: the first query of a question starts a flight, identical ones wait with it, and one answer serves
//! all. Whatever happens to a flight, everybody who waits is answered exactly once.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Bounds, Entry};
use crate::listener::ReplyTo;
use crate::message::ede::{self, ExtendedError};
use crate::message::query::{Edns, Query, Question};
use crate::message::reply::{self, Asked, Extras, Ttls};
use crate::message::response::Response;
use crate::message::wire::rcode;
use crate::metrics::{Cached, StaleReason};
use crate::serving::replies::{Client, Served};
use crate::serving::worker::Worker;
use crate::upstream::ask::Failed;
use crate::upstream::group::Group;

/// Prefetches a worker has in flight at most: they must never crowd out what clients wait for.
const MAX_PREFETCHES: usize = 64;

/// A question in flight.
pub struct Flight {
    waiters: RefCell<Vec<Waiter>>,
    stale: Option<Entry>,
    overdue: Cell<bool>,
}

impl Flight {
    /// Nobody waits yet; `stale` is what they get if nothing better comes.
    #[must_use]
    pub fn new(stale: Option<Entry>) -> Self {
        Self {
            waiters: RefCell::default(),
            stale,
            overdue: Cell::new(false),
        }
    }

    /// Whether the client response timer is over, so that stale answers go out at once.
    #[must_use]
    pub fn overdue(&self) -> bool {
        self.overdue.get()
    }
}

/// A client that waits: what its reply repeats, and where the reply goes.
pub struct Waiter {
    worker: Rc<Worker>,
    id: u16,
    flags: u16,
    /// QNAME as the client spelt it, QTYPE and QCLASS.
    section: Box<[u8]>,
    edns: Option<Edns>,
    client: Client,
    reply_to: ReplyTo,
}

impl Waiter {
    /// The client of `query`.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, query: &Query<'_>, client: Client, reply_to: ReplyTo) -> Self {
        *worker
            .clients
            .borrow_mut()
            .entry(client.address.ip())
            .or_insert(0) += 1;
        Self {
            worker: Rc::clone(worker),
            id: query.id,
            flags: query.flags,
            section: query.section().into(),
            edns: query.edns,
            client,
            reply_to,
        }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            id: self.id,
            flags: self.flags,
            section: &self.section,
            edns: self.edns,
            protocol: self.client.protocol,
        }
    }

    fn took(&self) {
        let took = self.client.received.elapsed();
        self.worker.metrics.took(Cached::Miss, 1, took);
    }

    fn answer(&self, entry: &Entry) {
        self.stamp(entry, "miss");
        self.took();
    }

    fn stamp(&self, entry: &Entry, how: &str) {
        self.reply_to.send(|out| {
            let extras = Extras {
                nsid: self.worker.nsid(),
                ..Extras::default()
            };
            let code = reply::answer(entry, &self.asked(), Ttls::Aged(0), extras, out);
            self.worker
                .replied(code, entry.route(), &self.section, self.client, how);
        });
    }

    fn answer_locally(&self, entry: &Entry) {
        self.stamp(entry, "local");
        let took = self.client.received.elapsed();
        self.worker.metrics.took(Cached::Neither, 1, took);
    }

    fn answer_stale(&self, entry: &Entry, reason: StaleReason) {
        self.reply_to.send(|out| {
            self.worker
                .serve_stale(entry, &self.asked(), self.client, reason, out);
        });
        self.took();
    }

    fn fail(&self, code: u16, error: &ExtendedError, route: Option<u16>) {
        self.reply_to.send(|out| {
            let (asked, worker) = (self.asked(), &self.worker);
            worker.fail(&asked, code, error, route, self.client, out);
        });
        self.took();
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut clients = self.worker.clients.borrow_mut();
        let ip = self.client.address.ip();
        if let Some(count) = clients.get_mut(&ip) {
            *count -= 1;
            if *count == 0 {
                clients.remove(&ip);
            }
        }
    }
}

/// Whoever asks the upstreams for a flight. Dropped before it landed (a bug, or the end of the process), it lets the
/// waiters know.
pub struct Leader {
    worker: Rc<Worker>,
    flight: Rc<Flight>,
    key: Rc<[u8]>,
    route: u16,
    landed: Cell<bool>,
}

impl Leader {
    /// Leads `flight`, which is listed under `key`.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, flight: Rc<Flight>, key: Rc<[u8]>, route: u16) -> Self {
        worker.metrics.in_flight.inc();
        worker.first_group(route).entered();
        Self {
            worker: Rc::clone(worker),
            flight,
            key,
            route,
            landed: Cell::new(false),
        }
    }

    /// The worker it runs on.
    #[must_use]
    pub fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }

    /// The question's key.
    #[must_use]
    pub fn key(&self) -> &Rc<[u8]> {
        &self.key
    }

    /// The route it takes.
    #[must_use]
    pub fn route(&self) -> u16 {
        self.route
    }

    /// Whether there is an expired answer to fall back on.
    #[must_use]
    pub fn has_stale(&self) -> bool {
        self.flight.stale.is_some()
    }

    /// Answers all that wait with the expired answer; the flight goes on to refresh it.
    pub fn serve_stale(&self, reason: StaleReason) {
        self.flight.overdue.set(true);
        if let Some(entry) = &self.flight.stale {
            for waiter in self.flight.waiters.take() {
                waiter.answer_stale(entry, reason);
            }
        }
    }

    /// The upstreams answered, or did not: keeps the outcome and answers all that wait.
    pub fn land(self, result: Result<Response, Failed>, bounds: Bounds) {
        let cache = &self.worker.shared.cache;
        let now = Instant::now();
        let waiters = self.depart();
        let keep = Question::of(&self.key).cacheable() && self.still_counts();
        match result {
            Ok(response) => {
                let entry = Entry::new(&self.key, &response, now, self.route, bounds);
                if keep {
                    cache.insert(&self.key, &entry);
                }
                for waiter in waiters {
                    waiter.answer(&entry);
                }
            }
            Err(Failed { code, error }) => {
                if keep {
                    let config = &self.worker.setup.config.cache;
                    let pauses = (config.failure_min, config.failure_max);
                    cache.remember_failure(&self.key, code, &error, pauses, now);
                }
                for waiter in waiters {
                    match &self.flight.stale {
                        Some(entry) => waiter.answer_stale(entry, StaleReason::Failed),
                        None => waiter.fail(code, &error, Some(self.route)),
                    }
                }
            }
        }
    }

    /// Whether what came may be cached: the setup in force would find it by the same route. The cache holds answers of
    /// the setup in force only, and a reload may have passed this flight by.
    fn still_counts(&self) -> bool {
        let (current, setup) = (self.worker.shared.current.load(), &self.worker.setup);
        let name = Question::of(&self.key).name;
        Arc::ptr_eq(&current, setup) || current.keeps(name, self.route, setup)
    }

    fn depart(&self) -> Vec<Waiter> {
        self.landed.set(true);
        self.worker.metrics.in_flight.dec();
        self.worker.first_group(self.route).left();
        self.worker.flights.borrow_mut().remove(&self.key);
        self.flight.waiters.take()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.landed.get() {
            return;
        }
        let error = ExtendedError::new(ede::OTHER, "the query was given up");
        for waiter in self.depart() {
            waiter.fail(rcode::SERVFAIL, &error, Some(self.route));
        }
    }
}

impl Worker {
    /// Whether an expired answer is young enough to fall back on.
    pub(crate) fn may_serve_stale(&self, entry: &Entry, now: Instant) -> bool {
        entry.expired_for(now) < self.setup.config.cache.stale_max_age
    }

    /// Whether every server of a route is gone or suspected to be.
    pub(crate) fn suspects(&self, route: u16) -> bool {
        let groups = &self.setup.upstreams.groups;
        self.setup
            .routes
            .get(route)
            .tiers
            .iter()
            .all(|&tier| groups[tier].suspected())
    }

    /// The group a route asks first, whose cap its questions count against.
    fn first_group(&self, route: u16) -> &Group {
        &self.setup.upstreams.groups[self.setup.routes.get(route).tiers[0]]
    }

    /// Whether the route's group takes another question.
    pub(crate) fn has_room(&self, route: u16) -> bool {
        self.first_group(route).has_room()
    }

    /// Whether the client may have another query in flight.
    pub(crate) fn client_has_room(&self, client: Client) -> bool {
        let ip: IpAddr = client.address.ip();
        let most = self.setup.config.limits.client_in_flight;
        self.clients
            .borrow()
            .get(&ip)
            .is_none_or(|count| *count < most)
    }

    /// Why a route takes no more.
    pub(crate) fn overload_text(&self, route: u16) -> String {
        let group = self.first_group(route);
        format!("{}: too many queries are in flight", group.name)
    }

    /// The grace is over: tells all that still wait.
    pub(crate) fn abandon(&self) {
        let flights: Vec<Rc<Flight>> = self.flights.borrow().values().cloned().collect();
        let error = ExtendedError::new(ede::NOT_READY, "this nameserver is shutting down");
        for waiter in flights.iter().flat_map(|flight| flight.waiters.take()) {
            waiter.fail(rcode::SERVFAIL, &error, None);
        }
    }

    /// Has a client wait for a flight.
    pub(crate) fn wait(
        self: &Rc<Self>,
        flight: &Flight,
        query: &Query<'_>,
        client: Client,
        reply_to: impl FnOnce() -> ReplyTo,
    ) -> Served {
        flight
            .waiters
            .borrow_mut()
            .push(Waiter::new(self, query, client, reply_to()));
        Served::Later
    }

    /// Has `records:` or CHAOS answered by hickory-server.
    pub(crate) fn answer_locally(self: &Rc<Self>, message: &[u8], waiter: Waiter) {
        let message = message.to_vec();
        let worker = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let response = Response::read(&worker.setup.local.answer(&message).await);
            match response {
                Ok(response) => {
                    let bounds = Bounds {
                        max_ttl: u32::MAX,
                        max_negative_ttl: u32::MAX,
                    };
                    let entry = Entry::local(&response, waiter.client.received, bounds);
                    waiter.answer_locally(&entry);
                }
                Err(error) => {
                    let error = ExtendedError::new(ede::OTHER, &error.to_string());
                    waiter.fail(rcode::SERVFAIL, &error, None);
                }
            }
        });
    }

    /// Fetches a popular answer anew shortly before it expires, so that no client waits for it.
    #[inline]
    pub(crate) fn prefetch_if_due(self: &Rc<Self>, key: &[u8], entry: &Entry, age: u32) {
        if !entry.prefetch_due(age, &self.setup.config.cache) {
            return;
        }
        // Not the entry's own: that may be of a setup this worker has not heard of.
        let Some(route) = self.setup.routes.find(Question::of(key).name) else {
            return;
        };
        let quiet = self.flights.borrow().len() < MAX_PREFETCHES;
        if quiet && !self.flights.borrow().contains_key(key) {
            self.metrics.prefetches.inc();
            // Should it expire before the new one is there, it is what those who then wait fall back on.
            self.start(key, route, Some(entry.clone()));
        }
    }
}
