//! Questions in flight, and their waiters.
//!
//! Owns coalescing: the first query for a question starts a flight, queries for the same question join it, and one answer
//! serves them all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use smallvec::SmallVec;

use super::client::Client;
use super::metrics::StaleReason;
use super::waiting::{Content, Waiting};
use crate::budgets::PREFETCHES_IN_FLIGHT;
use crate::cache::{Entry, Flushes};
use crate::message::ede::{self, ExtendedError};
use crate::message::wire::rcode;
use crate::runtime;

/// Why a flight was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A client asked.
    Client,
    /// A popular answer is about to expire.
    Prefetch,
    /// The answer to another question needs this one: for the target of an alias, or the A records for DNS64. The number is how
    /// many aliases were followed so far.
    Alias(u8),
}

/// A question that the cache cannot answer, asked by a client, for an alias or for DNS64.
pub(super) struct Wanted<'a> {
    pub(super) key: &'a [u8],
    /// A route that has groups to ask.
    pub(super) route: u16,
    /// An answer to fall back on, expired or about to expire.
    pub(super) stale: Option<Entry>,
    /// When the newest known answer, expired or not, had been asked for.
    pub(super) known_since: Option<Instant>,
    /// The client, if the answer is for one client alone.
    pub(super) client: Option<Client>,
    pub(super) purpose: Purpose,
    pub(super) now: Instant,
}

/// How a [`Wanted`] question is handled.
pub(super) enum Course {
    /// By an immediate reply.
    Reply(Content),
    /// By this flight, which is to be joined.
    Wait(Rc<Flight>),
}

/// A question in flight.
pub(super) struct Flight {
    // Most questions have one client.
    waiters: RefCell<SmallVec<[Waiting; 1]>>,
    /// See [`Flight::stale`].
    stale: Option<Entry>,
    purpose: Purpose,
    /// The number of flushes when the flight was started.
    flushes: Flushes,
    started: Instant,
    /// Whether the client response timer is over.
    overdue: Cell<bool>,
    /// Whether a waiter cannot use a truncated answer: a client over TCP.
    wants_whole: Cell<bool>,
    /// The flight that this one waits for: that of an alias's target, of the A records for DNS64, or of the other family of
    /// addresses.
    waits_for: RefCell<Option<Rc<Flight>>>,
}

impl Flight {
    /// A flight without waiters, started at `started`. `stale` is an answer to fall back on, and `flushes` the number of flushes
    /// until then.
    pub(super) fn new(
        stale: Option<Entry>,
        purpose: Purpose,
        flushes: Flushes,
        started: Instant,
    ) -> Self {
        Self {
            waiters: RefCell::default(),
            stale,
            purpose,
            flushes,
            started,
            overdue: Cell::new(false),
            wants_whole: Cell::new(false),
            waits_for: RefCell::default(),
        }
    }

    /// Whether the client response timer is over, so that new clients get the stale answer at once.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// Whether a waiter cannot use a truncated answer.
    pub(super) fn wants_whole(&self) -> &Cell<bool> {
        &self.wants_whole
    }

    /// The answer to fall back on: an expired one, or for a prefetch the one that is about to expire.
    pub(super) fn stale(&self) -> Option<&Entry> {
        self.stale.as_ref()
    }

    /// Why the flight was started.
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// The number of flushes when the flight was started.
    pub(super) fn flushes(&self) -> Flushes {
        self.flushes
    }

    /// Whether the flight was started at `known` or later, so that its answer is no older than the one asked for then.
    pub(super) fn started_after(&self, known: Option<Instant>) -> bool {
        known.is_none_or(|known| self.started >= known)
    }

    /// Sets the flight that this one waits for.
    pub(super) fn set_waits_for(&self, other: Option<Rc<Self>>) {
        self.waits_for.replace(other);
    }

    /// Whether the flight is `other`, or waits for `other` directly or through further flights.
    pub(super) fn depends_on(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        // A loop and no recursion, because flights may wait for each other in a long chain.
        let mut here = Rc::clone(self);
        while !Rc::ptr_eq(&here, other) {
            let Some(next) = here.waits_for.borrow().as_ref().map(Rc::clone) else {
                return false;
            };
            here = next;
        }
        true
    }

    /// Adds a waiter.
    pub(super) fn join(&self, waiter: Waiting) {
        if waiter.wants_whole() {
            self.wants_whole.set(true);
        }
        self.waiters.borrow_mut().push(waiter);
    }

    /// Takes all waiters.
    pub(super) fn take_waiters(&self) -> SmallVec<[Waiting; 1]> {
        self.waiters.take()
    }

    /// Notes that the client response timer is over. All waiters get the `earlier` answer, if there is one.
    pub(super) fn becomes_overdue(&self, earlier: Option<Entry>, route: u16) {
        self.overdue.set(true);
        if let Some(entry) = earlier {
            for waiter in self.take_waiters() {
                let content = Content::Stale(entry.clone(), StaleReason::Slow);
                waiter.reply(content, Some(route));
            }
        }
    }
}

type ByKey<T> = HashMap<Rc<[u8]>, T, ahash::RandomState>;

/// A worker's questions in flight, by key.
#[derive(Default)]
pub(super) struct Flights {
    by_key: RefCell<ByKey<Rc<Flight>>>,
    /// Flights whose place under their key another one took, as after a flush, the earliest first. Nobody joins them, but their
    /// clients wait.
    replaced: RefCell<ByKey<Vec<Rc<Flight>>>>,
    prefetches: Cell<usize>,
}

impl Flights {
    /// The flight of a question.
    pub(super) fn find(&self, key: &[u8]) -> Option<Rc<Flight>> {
        self.by_key.borrow().get(key).cloned()
    }

    /// Whether another prefetch may start.
    pub(super) fn may_prefetch(&self) -> bool {
        self.prefetches.get() < PREFETCHES_IN_FLIGHT
    }

    /// Lists a flight.
    pub(super) fn add(&self, key: &Rc<[u8]>, flight: &Rc<Flight>) {
        if flight.purpose == Purpose::Prefetch {
            self.prefetches.set(self.prefetches.get() + 1);
        }
        let mut by_key = self.by_key.borrow_mut();
        if let Some(earlier) = by_key.insert(Rc::clone(key), Rc::clone(flight)) {
            let mut replaced = self.replaced.borrow_mut();
            replaced.entry(Rc::clone(key)).or_default().push(earlier);
        }
    }

    /// Takes a flight off the list. If another flight is listed under the key, as after a flush, it stays.
    pub(super) fn remove(&self, key: &Rc<[u8]>, flight: &Rc<Flight>) {
        let listed = self.by_key.borrow_mut().remove(key);
        match listed {
            Some(listed) if Rc::ptr_eq(&listed, flight) => {}
            other => {
                if let Some(other) = other {
                    self.by_key.borrow_mut().insert(Rc::clone(key), other);
                }
                self.remove_replaced(key, flight);
            }
        }
        if flight.purpose == Purpose::Prefetch {
            self.prefetches.set(self.prefetches.get() - 1);
            if let Some(entry) = &flight.stale {
                entry.end_prefetch(runtime::now());
            }
        }
    }

    fn remove_replaced(&self, key: &Rc<[u8]>, flight: &Rc<Flight>) {
        let mut replaced = self.replaced.borrow_mut();
        if let Some(same_key) = replaced.get_mut(key) {
            same_key.retain(|other| !Rc::ptr_eq(other, flight));
            if same_key.is_empty() {
                replaced.remove(key);
            }
        }
    }

    /// Answers all waiters with SERVFAIL, because the grace of a stop is over.
    pub(super) fn abandon(&self) {
        let mut flights: Vec<(Rc<[u8]>, Rc<Flight>)> = Vec::new();
        for (key, same_key) in self.replaced.borrow().iter() {
            let same_key = same_key.iter().cloned();
            flights.extend(same_key.map(|flight| (Rc::clone(key), flight)));
        }
        for (key, flight) in self.by_key.borrow().iter() {
            flights.push((Rc::clone(key), Rc::clone(flight)));
        }
        // Sorted, so that the order does not depend on the keys' hashes, and a simulation repeats itself.
        flights.sort_by(|(one, _), (other, _)| one.cmp(other));
        let text = "this nameserver is shutting down";
        let error = Rc::new(ExtendedError::new(ede::NOT_READY, text));
        for waiter in flights.iter().flat_map(|(_, flight)| flight.take_waiters()) {
            waiter.reply(Content::Failure(rcode::SERVFAIL, Rc::clone(&error)), None);
        }
    }
}
