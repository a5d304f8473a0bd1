//! Questions in flight and who waits for them.
//!
//! Owns coalescing: the first query of a question starts a flight, identical ones wait with it, and one answer serves
//! all.

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
    /// An alias leads here; so many were followed on the way, this one included.
    Alias(u8),
}

/// A question that the cache cannot answer, whoever asks it.
pub(super) struct Wanted<'a> {
    pub(super) key: &'a [u8],
    /// A route that has groups to ask.
    pub(super) route: u16,
    /// An expired answer to fall back on.
    pub(super) stale: Option<Entry>,
    /// When what was answered last, expired or not, was asked for.
    pub(super) known_since: Option<Instant>,
    /// The client that will wait, if it alone does.
    pub(super) client: Option<Client>,
    pub(super) purpose: Purpose,
    pub(super) now: Instant,
}

/// What becomes of it.
pub(super) enum Course {
    /// This is known, or said, at once.
    Reply(Content),
    /// The upstreams are being asked.
    Wait(Rc<Flight>),
}

/// A question in flight.
pub(super) struct Flight {
    // Most questions have one client.
    waiters: RefCell<SmallVec<[Waiting; 1]>>,
    stale: Option<Entry>,
    purpose: Purpose,
    /// How often the cache had been flushed when the upstreams were asked.
    asked: Flushes,
    started: Instant,
    overdue: Cell<bool>,
    /// The flight of the alias's target, while it is waited for.
    waits_for: RefCell<Option<Rc<Flight>>>,
}

impl Flight {
    /// Nobody waits yet; `stale` is what they get if nothing better comes. It starts at this time, when so much had been
    /// flushed.
    pub(super) fn new(
        stale: Option<Entry>,
        purpose: Purpose,
        asked: Flushes,
        started: Instant,
    ) -> Self {
        Self {
            waiters: RefCell::default(),
            stale,
            purpose,
            asked,
            started,
            overdue: Cell::new(false),
            waits_for: RefCell::default(),
        }
    }

    /// Whether the client response timer is over, so that stale answers go out at once.
    pub(super) fn is_overdue(&self) -> bool {
        self.overdue.get()
    }

    /// An expired answer to fall back on.
    pub(super) fn stale(&self) -> Option<&Entry> {
        self.stale.as_ref()
    }

    /// Why it was started.
    pub(super) fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// How often the cache had been flushed when the upstreams were asked.
    pub(super) fn asked(&self) -> Flushes {
        self.asked
    }

    /// Whether what it brings cannot be older than what was asked for at that time.
    pub(super) fn started_after(&self, known: Option<Instant>) -> bool {
        known.is_none_or(|known| self.started >= known)
    }

    /// It waits for another one, or no longer.
    pub(super) fn set_waits_for(&self, other: Option<Rc<Self>>) {
        self.waits_for.replace(other);
    }

    /// Whether it is the other one, or waits for it, be it by way of others.
    pub(super) fn depends_on(self: &Rc<Self>, other: &Rc<Self>) -> bool {
        // In a loop: aliases that many clients ask for may be waited for in a long row.
        let mut here = Rc::clone(self);
        while !Rc::ptr_eq(&here, other) {
            let Some(next) = here.waits_for.borrow().as_ref().map(Rc::clone) else {
                return false;
            };
            here = next;
        }
        true
    }

    /// Has a client wait, or the flight of an alias.
    pub(super) fn join(&self, waiter: Waiting) {
        self.waiters.borrow_mut().push(waiter);
    }

    /// Takes all that wait.
    pub(super) fn take_waiters(&self) -> SmallVec<[Waiting; 1]> {
        self.waiters.take()
    }

    /// Answers all that wait with the expired answer, and says that those who come later need not wait either.
    pub(super) fn serve_stale(&self, reason: StaleReason, route: u16) {
        self.overdue.set(true);
        if let Some(entry) = &self.stale {
            for waiter in self.take_waiters() {
                waiter.reply(Content::Stale(entry.clone(), reason), Some(route));
            }
        }
    }
}

/// A worker's questions in flight, by key.
#[derive(Default)]
pub(super) struct Flights {
    by_key: RefCell<HashMap<Rc<[u8]>, Rc<Flight>, ahash::RandomState>>,
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
        self.by_key
            .borrow_mut()
            .insert(Rc::clone(key), Rc::clone(flight));
    }

    /// Takes a flight off the list. After a flush another one may stand there in its place, which stays.
    pub(super) fn remove(&self, key: &Rc<[u8]>, flight: &Rc<Flight>) {
        let mut by_key = self.by_key.borrow_mut();
        if let Some(listed) = by_key.remove(key)
            && !Rc::ptr_eq(&listed, flight)
        {
            by_key.insert(Rc::clone(key), listed);
        }
        if flight.purpose == Purpose::Prefetch {
            self.prefetches.set(self.prefetches.get() - 1);
            if let Some(entry) = &flight.stale {
                entry.end_prefetch(runtime::now());
            }
        }
    }

    /// The grace is over: tells all that still wait.
    pub(super) fn abandon(&self) {
        let mut flights: Vec<(Rc<[u8]>, Rc<Flight>)> = {
            let by_key = self.by_key.borrow();
            let all = by_key.iter();
            all.map(|(key, flight)| (Rc::clone(key), Rc::clone(flight)))
                .collect()
        };
        // In an order that does not depend on the hashes of keys.
        flights.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let text = "this nameserver is shutting down";
        let error = Rc::new(ExtendedError::new(ede::NOT_READY, text));
        for waiter in flights.iter().flat_map(|(_, flight)| flight.take_waiters()) {
            waiter.reply(Content::Failure(rcode::SERVFAIL, Rc::clone(&error)), None);
        }
    }
}
