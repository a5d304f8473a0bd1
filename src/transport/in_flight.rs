//! Exchanges in flight on one socket, be it UDP or a stream: free IDs, matching, expiry, budget.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;
use std::time::Instant;

use super::exchange::Exchange;
use super::metrics::Mismatch;
use super::peer::{Carrier, Peer};
use super::random::Unpredictable;
use crate::budgets::IN_FLIGHT_PER_SOCKET;
use crate::message::wire;

/// The exchanges that wait for answers on one socket, by the ID of their queries.
#[derive(Debug)]
pub struct InFlight {
    carrier: Carrier,
    exchanges: RefCell<HashMap<u16, Exchange, ahash::RandomState>>,
    /// Number of exchanges so far.
    inserted: Cell<u32>,
    /// Number of messages that matched no exchange.
    unmatched: Cell<u32>,
}

/// The query that a message answered.
#[derive(Debug, Clone, Copy)]
pub struct Answered {
    /// When it was sent.
    pub sent: Instant,
    /// How many queries were sent on the socket before it.
    pub place: u32,
}

/// How much of a message arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// The whole message.
    Whole,
    /// The start of the message, which filled our buffer.
    InPart,
}

/// Exchanges that are late at a sweep.
#[derive(Debug, Clone, Copy, Default)]
pub struct Late {
    /// When the newest late query was sent. None if none is late.
    pub newest: Option<Instant>,
}

impl InFlight {
    /// An empty table.
    #[must_use]
    pub fn new(carrier: Carrier) -> Self {
        Self {
            carrier,
            exchanges: RefCell::default(),
            inserted: Cell::new(0),
            unmatched: Cell::new(0),
        }
    }

    /// Number of exchanges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exchanges.borrow().len()
    }

    /// Whether there is no exchange.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exchanges.borrow().is_empty()
    }

    /// Whether the budget allows no further exchange.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= IN_FLIGHT_PER_SOCKET
    }

    /// Number of messages so far that matched no exchange.
    #[must_use]
    pub fn unmatched(&self) -> u32 {
        self.unmatched.get()
    }

    /// A random ID that no exchange uses. There always is one, because the budget is far below 65,536.
    #[must_use]
    pub fn free_id(&self, random: &Rc<RefCell<Unpredictable>>) -> u16 {
        let exchanges = self.exchanges.borrow();
        let mut random = random.borrow_mut();
        loop {
            let id = random.next_u16();
            if !exchanges.contains_key(&id) {
                return id;
            }
        }
    }

    /// Whether an exchange uses this ID.
    #[must_use]
    pub fn contains(&self, id: u16) -> bool {
        self.exchanges.borrow().contains_key(&id)
    }

    /// Removes the exchange with this ID, because its answer will not come on this socket.
    #[must_use]
    pub fn take(&self, id: u16) -> Option<Exchange> {
        self.exchanges.borrow_mut().remove(&id)
    }

    /// Adds an exchange whose query has this ID.
    pub fn insert(&self, id: u16, mut exchange: Exchange) {
        let place = self.inserted.get();
        self.inserted.set(place.wrapping_add(1));
        exchange.takes_place(place);
        self.exchanges.borrow_mut().insert(id, exchange);
    }

    /// Notes that the queries of all exchanges can leave this host now, and could not before.
    pub fn may_leave(&self, now: Instant) {
        for exchange in self.exchanges.borrow_mut().values_mut() {
            exchange.may_leave(now);
        }
    }

    /// Hands a message to the exchange that it answers. A message that answers none is counted and ignored.
    ///
    /// # Errors
    /// What does not match.
    pub fn accept(
        &self,
        peer: &Peer,
        message: &[u8],
        arrived: Arrived,
        now: Instant,
    ) -> Result<Answered, Mismatch> {
        let id = wire::id(message);
        let exchange = match self.exchanges.borrow_mut().entry(id) {
            Entry::Occupied(entry) => entry.get().matches(message).map(|()| entry.remove()),
            Entry::Vacant(_) => Err(Mismatch::Id),
        };
        let exchange = exchange.inspect_err(|&reason| {
            self.unmatched.set(self.unmatched.get().saturating_add(1));
            peer.metrics.mismatched(reason);
        })?;
        let (sent, place) = (exchange.sent(), exchange.place());
        match arrived {
            Arrived::Whole => exchange.answered(peer, self.carrier, message, now),
            Arrived::InPart => exchange.answered_in_part(peer, self.carrier, message, now),
        }
        Ok(Answered { sent, place })
    }

    /// Removes exchanges whose answer would come too late to matter. An exchange that a lookup waits for is kept and only
    /// counted as late: its server may be slow, and still the only one that answers.
    pub fn expire(&self, peer: &Peer, now: Instant) -> Late {
        let mut late = Late::default();
        self.exchanges.borrow_mut().retain(|_, exchange| {
            if !peer.is_too_late(exchange.sent(), now) {
                return true;
            }
            late.newest = late.newest.max(Some(exchange.sent()));
            if exchange.is_awaited() {
                exchange.late(peer, self.carrier, now);
                return true;
            }
            exchange.expired(peer, self.carrier, now);
            false
        });
        late
    }

    /// Whether a lookup waits for any of the exchanges.
    pub fn is_awaited(&self) -> bool {
        self.exchanges.borrow().values().any(Exchange::is_awaited)
    }

    /// Removes and returns all exchanges, oldest first, because the socket is closed.
    #[must_use]
    pub fn take_all(&self) -> Vec<Exchange> {
        let exchanges = std::mem::take(&mut *self.exchanges.borrow_mut());
        let mut exchanges: Vec<_> = exchanges.into_iter().collect();
        exchanges.sort_unstable_by_key(|(id, exchange)| (exchange.sent(), *id));
        exchanges
            .into_iter()
            .map(|(_, exchange)| exchange)
            .collect()
    }
}
