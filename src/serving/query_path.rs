//! The whole path of a query on one page: [`Worker::serve`] does what can be done at once, `fly` asks the upstreams
//! for the rest. What both need in small is in [`crate::serving::replies`] and [`crate::serving::flights`].

use std::pin::pin;
use std::rc::Rc;

use crate::cache::Entry;
use crate::listener::ReplyTo;
use crate::message::ede::{self, ExtendedError};
use crate::message::query::{Query, Question};
use crate::message::reply::Asked;
use crate::message::wire::{rcode, rr};
use crate::metrics::{Cap, StaleReason};
use crate::serving::flights::{Flight, Leader, Waiter};
use crate::serving::replies::{Client, Served};
use crate::serving::worker::Worker;
use crate::transport::Asking;
use crate::upstream::ask::ask;

/// Why the upstreams are not asked: the reason for serving an expired answer, or else a response code and its reason.
type Obstacle = (StaleReason, u16, ExtendedError);

impl Worker {
    /// Serves one message of a client, appending the reply to `out` if it can be given at once.
    pub fn serve(
        self: &Rc<Self>,
        message: &[u8],
        client: Client,
        out: &mut Vec<u8>,
        reply_to: impl FnOnce() -> ReplyTo,
    ) -> Served {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(reject) => return self.reject(message, reject, client, out),
        };
        self.metrics.query(client.protocol, query.qtype);
        let asked = Asked::new(&query, client.protocol);
        if !self.allows(client.address) {
            return self.turn_away(&asked, client, out);
        }

        let key = query.key();
        let key = key.as_bytes();
        let stored = if query.cacheable() {
            self.shared.cache.get(key)
        } else {
            None
        };
        if let Some(entry) = &stored
            && let Some(age) = entry.age_if_fresh(client.received)
        {
            self.hit(entry, age, &asked, client, out);
            self.prefetch_if_due(key, entry, age);
            return Served::Hit;
        }

        let question = Question::of(key);
        if self
            .setup
            .local
            .owns(question.name, query.qtype, query.qclass)
        {
            self.answer_locally(message, Waiter::new(self, &query, client, reply_to()));
            return Served::Later;
        }
        if query.qclass != rr::IN || matches!(query.qtype, rr::AXFR | rr::IXFR) {
            return self.refuse(&query, None, client, out);
        }
        if self.shared.loops.seen(question.name) {
            return self.refuse(&query, None, client, out);
        }
        let Some(route) = self.setup.routes.find(question.name) else {
            let error = ExtendedError::new(ede::NOT_AUTHORITATIVE, "no route holds this name");
            return self.refuse(&query, Some(error), client, out);
        };
        if query.cacheable() {
            self.metrics.miss();
        }
        let stale = stored.filter(|entry| self.may_serve_stale(entry, client.received));
        self.forward(key, route, stale, &query, client, out, reply_to)
    }

    /// Has the upstreams asked, unless it is known that this cannot help now.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that is known of one query, passed on once"
    )]
    fn forward(
        self: &Rc<Self>,
        key: &[u8],
        route: u16,
        stale: Option<Entry>,
        query: &Query<'_>,
        client: Client,
        out: &mut Vec<u8>,
        reply_to: impl FnOnce() -> ReplyTo,
    ) -> Served {
        let asked = Asked::new(query, client.protocol);
        let in_flight = self.flights.borrow().get(key).cloned();
        if let Some(entry) = &stale
            && self.suspects(route)
        {
            // The refresh goes on, so that the first server to come back is noticed (RFC 8767 §5).
            if in_flight.is_none() && self.has_room(route) {
                self.start(key, route, stale.clone());
            }
            return self.serve_stale(entry, &asked, client, StaleReason::UpstreamsDown, out);
        }
        if !self.client_has_room(client) {
            self.metrics.rejected(Cap::Client);
            let text = "too many queries of this client are in flight";
            let error = ExtendedError::new(ede::OTHER, text);
            let obstacle = (StaleReason::Overload, rcode::SERVFAIL, error);
            return self.say_why(obstacle, stale.as_ref(), &asked, route, client, out);
        }
        if let Some(flight) = in_flight {
            self.metrics.coalesced();
            return match stale {
                Some(entry) if flight.overdue() => {
                    self.serve_stale(&entry, &asked, client, StaleReason::Slow, out)
                }
                _ => self.wait(&flight, query, client, reply_to),
            };
        }
        if let Some(obstacle) = self.obstacle(key, route, client) {
            return self.say_why(obstacle, stale.as_ref(), &asked, route, client, out);
        }
        let flight = self.start(key, route, stale);
        self.wait(&flight, query, client, reply_to)
    }

    /// Why the upstreams are not to be asked now, if so, and the code a client gets for it.
    fn obstacle(&self, key: &[u8], route: u16, client: Client) -> Option<Obstacle> {
        if Question::of(key).cacheable()
            && let Some(failure) = self.shared.cache.failure(key, client.received)
        {
            let error = ExtendedError::new(ede::CACHED_ERROR, &failure.error.text);
            return Some((StaleReason::Failed, failure.code, error));
        }
        if !self.has_room(route) {
            self.metrics.rejected(Cap::Group);
            let error = ExtendedError::new(ede::OTHER, &self.overload_text(route));
            return Some((StaleReason::Overload, rcode::SERVFAIL, error));
        }
        None
    }

    /// The upstreams are not asked: an expired answer, or the reason.
    fn say_why(
        &self,
        (reason, code, error): Obstacle,
        stale: Option<&Entry>,
        asked: &Asked<'_>,
        route: u16,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        if let Some(entry) = stale {
            return self.serve_stale(entry, asked, client, reason, out);
        }
        self.fail(asked, code, &error, Some(route), client, out);
        Served::Replied
    }

    /// Starts asking the upstreams; whoever waits is answered by [`fly`].
    pub(crate) fn start(
        self: &Rc<Self>,
        key: &[u8],
        route: u16,
        stale: Option<Entry>,
    ) -> Rc<Flight> {
        let flight = Rc::new(Flight::new(stale));
        let key: Rc<[u8]> = key.into();
        self.flights
            .borrow_mut()
            .insert(Rc::clone(&key), Rc::clone(&flight));
        let leader = Leader::new(self, Rc::clone(&flight), key, route);
        // In a box: the runtime moves a task's future seven times from here to its end, and this one has 2 KiB.
        tokio::task::spawn_local(Box::pin(fly(leader)));
        flight
    }
}

/// Asks the upstreams one question and answers all that wait for it.
async fn fly(leader: Leader) {
    let worker = Rc::clone(leader.worker());
    let setup = &worker.setup;
    let route = setup.routes.get(leader.route());
    let asking = Rc::new(Asking::new(leader.key(), &worker.shared.hasher));

    // Pinned in place: moved into a pin, it would take its size twice in the task's memory.
    let mut answer = pin!(ask(&worker.links, &setup.upstreams, &route.tiers, &asking));
    let result = if leader.has_stale() {
        // RFC 8767 §5: the client response timer.
        tokio::select! {
            result = &mut answer => result,
            () = tokio::time::sleep(setup.config.cache.stale_after) => {
                leader.serve_stale(StaleReason::Slow);
                answer.await
            }
        }
    } else {
        answer.await
    };
    leader.land(result, route.bounds);
}
