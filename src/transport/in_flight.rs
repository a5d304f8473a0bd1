//! Exchanges in flight on one socket, be it UDP or a stream: free ID, match, expiry, budget.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

use super::exchange::Exchange;
use super::metrics::Mismatch;
use super::peer::{Carrier, Peer};
use super::random::Unpredictable;
use crate::budgets::IN_FLIGHT_PER_SOCKET;
use crate::message::wire;

/// What waits on one socket, by the ID it was sent under.
#[derive(Debug)]
pub struct InFlight {
    carrier: Carrier,
    exchanges: RefCell<HashMap<u16, Exchange, ahash::RandomState>>,
    /// Messages that matched nothing.
    unmatched: Cell<u32>,
}

/// How much of a message arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrived {
    /// All of it.
    Whole,
    /// What fitted our buffer.
    InPart,
}

/// What is late at a sweep.
#[derive(Debug, Clone, Copy, Default)]
pub struct Late {
    /// When the newest of them was sent.
    pub newest: Option<Instant>,
}

impl InFlight {
    /// Nothing waits.
    #[must_use]
    pub fn new(carrier: Carrier) -> Self {
        Self {
            carrier,
            exchanges: RefCell::default(),
            unmatched: Cell::new(0),
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.exchanges.borrow().len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.exchanges.borrow().is_empty()
    }

    /// Whether no more may wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len() >= IN_FLIGHT_PER_SOCKET
    }

    /// Messages that matched nothing so far.
    #[must_use]
    pub fn unmatched(&self) -> u32 {
        self.unmatched.get()
    }

    /// An ID under which nothing waits. There is one, because far fewer than 65,536 exchanges may wait.
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

    /// Whether one waits under this ID.
    #[must_use]
    pub fn contains(&self, id: u16) -> bool {
        self.exchanges.borrow().contains_key(&id)
    }

    /// Takes what waits under this ID: its answer will not come by this socket.
    #[must_use]
    pub fn take(&self, id: u16) -> Option<Exchange> {
        self.exchanges.borrow_mut().remove(&id)
    }

    /// An exchange left under this ID.
    pub fn insert(&self, id: u16, exchange: Exchange) {
        self.exchanges.borrow_mut().insert(id, exchange);
    }

    /// Delivers a message to the exchange it answers; counts and ignores one that answers none.
    ///
    /// # Errors
    /// What of it does not match.
    pub fn accept(
        &self,
        peer: &Peer,
        message: &[u8],
        arrived: Arrived,
        now: Instant,
    ) -> Result<(), Mismatch> {
        let id = wire::id(message);
        let mut exchanges = self.exchanges.borrow_mut();
        let verdict = match exchanges.get(&id) {
            Some(exchange) => exchange.matches(message),
            None => Err(Mismatch::Id),
        };
        if let Err(reason) = verdict {
            self.unmatched.set(self.unmatched.get().saturating_add(1));
            peer.metrics.mismatched(reason);
            return Err(reason);
        }
        let exchange = exchanges.remove(&id);
        drop(exchanges);
        match (exchange, arrived) {
            (Some(exchange), Arrived::Whole) => exchange.answered(peer, self.carrier, message, now),
            (Some(exchange), Arrived::InPart) => {
                exchange.answered_in_part(peer, self.carrier, message, now);
            }
            (None, _) => {}
        }
        Ok(())
    }

    /// Forgets exchanges whose answer would come too late to matter. While somebody waits for it, none does: the server may
    /// be the only one that answers, and this slow.
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

    /// Whether anybody waits for what is in flight.
    pub fn is_awaited(&self) -> bool {
        self.exchanges.borrow().values().any(Exchange::is_awaited)
    }

    /// Takes everything that waits, because the socket is to be closed; what was sent first comes first.
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
