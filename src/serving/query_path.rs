//! The whole path of a query on one page: [`Worker::serve`] replies if no upstream server is needed, `forward` joins or starts
//! a flight, `fly` asks the upstreams, and `land` caches the result and answers all waiters.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use smallvec::SmallVec;

use super::admission::may_stand_in;
use super::aliases::{self, CompletedAnswer};
use super::client::{Client, Served, WaiterPlace};
use super::flights::{Course, Flight, Purpose, Wanted};
use super::metrics::StaleReason;
use super::resolve::resolve;
use super::waiting::{Content, ReplyTo, Waiter, Waiting};
use super::worker::{Leader, Worker};
use crate::cache::{Blames, Bounds, Entry, Failing, Origin};
use crate::message::ede::{self, ExtendedError};
use crate::message::query::{Query, Question};
use crate::message::reply::Asked;
use crate::message::wire::{rcode, rr};
use crate::runtime;
use crate::upstream::ask::{Answer, Failed};

/// A query that the cache could not answer.
struct Miss<'a> {
    query: &'a Query<'a>,
    asked: Asked<'a>,
    client: Client,
    key: &'a [u8],
    route: u16,
    /// The cache's entry, which has expired.
    stored: Option<Entry>,
}

impl Worker {
    /// Serves one message of a client. A reply that needs no upstream server is appended to `out`; a later one goes to
    /// `reply_to`.
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
        if query.signed {
            return self.decline_signed(&asked, client, out);
        }

        let key = query.key();
        let key = key.as_bytes();
        if let Some(top) = &self.replies.top {
            top.asked(Question::of(key).name, client.address.ip());
        }
        let stored = if query.cacheable() {
            self.shared.cache.get(key)
        } else {
            None
        };
        if let Some(entry) = &stored
            && let Some(age) = entry.age_if_fresh(client.received)
        {
            self.replies.hit(entry, age, &asked, client, out);
            self.prefetch_if_due(key, entry, age, client.received);
            return Served::Hit;
        }

        let question = Question::of(key);
        if self.setup.answers(&question) {
            self.answer_locally(message, key, self.waiter(&query, client, reply_to()));
            return Served::Later;
        }
        if query.qclass != rr::IN
            || matches!(query.qtype, rr::AXFR | rr::IXFR)
            || self.shared.loops.is_ours(question.name)
        {
            return self.refuse(&asked, None, client, out);
        }
        let Some(route) = self.setup.routes.find(question.name, query.qtype) else {
            let error = ExtendedError::new(ede::NOT_AUTHORITATIVE, "no route holds this name");
            return self.refuse(&asked, Some(error), client, out);
        };
        if let Some(answer) = self.setup.routes.get(route).own_answer(query.qtype) {
            return self.answer_by_route(answer, route, &question, &asked, client, out);
        }
        if query.cacheable() {
            self.metrics.miss(client, route);
        }
        let miss = Miss {
            query: &query,
            asked,
            client,
            key,
            route,
            stored,
        };
        self.forward(miss, out, reply_to)
    }

    /// When the newest known answer to a question had been asked for. `stored` is the cache's entry.
    pub(super) fn known_since(
        &self,
        key: &[u8],
        route: u16,
        stored: Option<&Entry>,
    ) -> Option<Instant> {
        let kept = stored.map(Entry::asked);
        let tiers = self.setup.routes.get(route).tiers.len();
        kept.max(self.shared.cache.last_asked(key, route, tiers))
    }

    /// Joins or starts a flight for the query, or replies at once if `pursue` says so.
    fn forward(
        self: &Rc<Self>,
        miss: Miss<'_>,
        out: &mut Vec<u8>,
        reply_to: impl FnOnce() -> ReplyTo,
    ) -> Served {
        let Miss {
            query,
            asked,
            client,
            key,
            route,
            stored,
        } = miss;
        let now = client.received;
        let course = self.pursue(Wanted {
            key,
            route,
            known_since: self.known_since(key, route, stored.as_ref()),
            stale: stored.filter(|entry| self.may_serve_stale(key, route, entry, now)),
            client: Some(client),
            purpose: Purpose::Client,
            now,
        });
        match course {
            Course::Reply(content) => {
                content.write(&self.replies, &asked, client, Some(route), out);
                Served::Replied
            }
            Course::Wait(flight) => {
                flight.join(Waiting::Client(self.waiter(query, client, reply_to())));
                Served::Later
            }
        }
    }

    /// Handles a question that the cache cannot answer. Returns a flight to wait for, which it may have started, or an
    /// immediate reply.
    pub(super) fn pursue(self: &Rc<Self>, wanted: Wanted<'_>) -> Course {
        let Wanted {
            key, route, now, ..
        } = wanted;
        // A flight is not joined if there was a flush since it was started, or if another worker has a newer answer than the
        // flight can get.
        let in_flight = self.flights.find(key).filter(|flight| {
            flight.flushes() == self.shared.cache.flushes()
                && flight.started_after(wanted.known_since)
        });
        if let Some(entry) = &wanted.stale
            && self.no_better_answer_expected(route, entry)
        {
            // The servers are asked all the same, so that the first one to come back is noticed (RFC 8767 §5).
            if in_flight.is_none()
                && self
                    .upstream_obstacle(key, route, Some(entry), now)
                    .is_none()
            {
                self.start(key, route, Some(entry.clone()), wanted.purpose, now);
            }
            return Course::Reply(Content::Stale(entry.clone(), StaleReason::UpstreamsDown));
        }
        let obstacle = wanted
            .client
            .and_then(|client| self.client_obstacle(client));
        let obstacle = obstacle.or_else(|| match &in_flight {
            Some(_) => None,
            None => self.upstream_obstacle(key, route, wanted.stale.as_ref(), now),
        });
        if let Some(obstacle) = obstacle {
            let reason = obstacle.stale_reason;
            return Course::Reply(match wanted.stale {
                Some(entry) if may_stand_in(&entry, reason) => Content::Stale(entry, reason),
                _ => Content::Failure(obstacle.code, Rc::new(obstacle.error)),
            });
        }
        let Some(flight) = in_flight else {
            return Course::Wait(self.start(key, route, wanted.stale, wanted.purpose, now));
        };
        self.metrics.coalesced();
        match wanted.stale {
            Some(entry) if flight.is_overdue() && may_stand_in(&entry, StaleReason::Slow) => {
                Course::Reply(Content::Stale(entry, StaleReason::Slow))
            }
            _ => Course::Wait(flight),
        }
    }

    /// Prefetches a popular answer shortly before it expires, so that no client has to wait for the next one.
    #[inline]
    pub(super) fn prefetch_if_due(
        self: &Rc<Self>,
        key: &[u8],
        entry: &Entry,
        age: u32,
        now: Instant,
    ) {
        if entry.prefetch_due(age, &self.setup.config.cache) {
            self.prefetch(key, entry, now);
        }
    }

    /// Starts a prefetch, unless it is impossible at the moment. Then the next hit tries again.
    #[cold]
    fn prefetch(self: &Rc<Self>, key: &[u8], entry: &Entry, now: Instant) {
        // The route is looked up again, because the entry's index may be of another setup than this worker's.
        let question = Question::of(key);
        let Some(route) = self.setup.routes.find(question.name, question.qtype) else {
            return;
        };
        if self
            .setup
            .routes
            .get(route)
            .own_answer(question.qtype)
            .is_none()
            && self.flights.may_prefetch()
            && self.flights.find(key).is_none()
            && self
                .upstream_obstacle(key, route, Some(entry), now)
                .is_none()
            && entry.start_prefetch()
        {
            self.metrics.prefetches.inc();
            // The entry may expire before the flight lands. So it is passed on as the stale answer.
            self.start(key, route, Some(entry.clone()), Purpose::Prefetch, now);
        }
    }

    fn waiter(&self, query: &Query<'_>, client: Client, reply_to: ReplyTo) -> Box<Waiter> {
        Waiter::new(&self.replies, &self.clients, query, client, reply_to)
    }

    /// Starts a task that answers a question from the configuration or by DNS64's reverse names. If the answer is an alias, the
    /// task looks up its target.
    fn answer_locally(self: &Rc<Self>, message: &[u8], key: &[u8], waiter: Box<Waiter>) {
        let (message, key, worker) = (message.to_vec(), key.to_vec(), Rc::clone(self));
        self.turns.spawn(async move {
            let client = waiter.client();
            let content = aliases::answer_locally(&worker, &key, &message, client).await;
            waiter.reply(content, None);
        });
    }

    /// Starts a flight, which is listed at once and asks the upstreams from the end of the turn on.
    fn start(
        self: &Rc<Self>,
        key: &[u8],
        route: u16,
        stale: Option<Entry>,
        purpose: Purpose,
        now: Instant,
    ) -> Rc<Flight> {
        let flushes = self.shared.cache.flushes();
        let flight = Rc::new(Flight::new(stale, purpose, flushes, now));
        let leader = Leader::new(self, Rc::clone(&flight), key.into(), route);
        self.asking.run(&self.turns, leader, fly);
        flight
    }
}

/// Asks the upstreams a flight's question, and answers its waiters.
async fn fly(leader: Leader) {
    let worker = Rc::clone(&leader.worker);
    let (flight, key) = (Rc::clone(&leader.flight), Rc::clone(&leader.key));
    let route = worker.setup.routes.get(leader.route);

    let now = runtime::now();
    // The future is pinned in the expression that makes it, because a moved one would take its size twice in the task's memory.
    let mut answer = pin!(resolve(&worker, leader.route, &flight, &key, now));
    let stale = leader.flight.stale();
    let result = if stale.is_some_and(|entry| may_stand_in(entry, StaleReason::Slow)) {
        // RFC 8767 §5: the client response timer.
        let end = now + route.stale.after;
        if let Ok(result) = worker.turns.timeout_at(end, &mut answer).await {
            result
        } else {
            leader.stop_waiting();
            answer.await
        }
    } else {
        answer.await
    };
    land(leader, result, route.bounds);
}

/// Caches the result of a flight, if it may be cached, and answers the waiters.
fn land(leader: Leader, result: Result<CompletedAnswer, Failed>, bounds: Bounds) {
    match result {
        Ok(found) => land_answer(leader, found, bounds),
        Err(failed) => land_failure(leader, failed),
    }
}

fn land_answer(leader: Leader, found: CompletedAnswer, bounds: Bounds) {
    let (worker, key, route) = (
        Rc::clone(&leader.worker),
        Rc::clone(&leader.key),
        leader.route,
    );
    let cache = &worker.shared.cache;
    let now = runtime::now();
    let bounds = found.bounds(bounds);
    let Answer {
        response,
        tier,
        server,
        asked,
    } = found.answer;
    let took = now.saturating_duration_since(asked);
    let origin = Origin { route, tier, took };
    let entry = Entry::new(&key, &response, now, origin, bounds);
    if let Some(reason) = found.stale {
        // A fresh alias with a stale target is served, and not cached.
        leader.reply_to_all(|_| Content::Stale(entry.clone(), reason));
        return;
    }
    let keep = leader.is_cacheable() && leader.still_counts(Some(&entry));
    // Only a denial, or an answer of a later tier, may give way to an earlier answer. Another worker may have stored
    // one meanwhile, so the cache is read first.
    let is_doubtful = entry.is_negative() || entry.tier() > 0;
    let stored = || cache.get(&key).filter(|_| keep);
    if is_doubtful
        && let Some(earlier) = stored().or_else(|| leader.answer_at_start())
        && let Some(reason) = worker.doubts(&key, route, (&earlier, &entry), now)
    {
        if keep && reason == StaleReason::Denied {
            let error = ExtendedError::new(ede::OTHER, "denied");
            leader.remember_failure(entry.response().rcode(), &error, now);
        }
        leader.reply_to_all(|_| Content::Stale(earlier.clone(), reason));
        return;
    }
    if keep {
        cache.insert_if_current(&key, &entry, leader.flight.flushes());
        worker.forget_denial_beside(&key, &entry);
    }
    leader.reply_to_all(|index| Content::Answer(entry.clone(), WaiterPlace { index, server }));
}

fn land_failure(leader: Leader, failed: Failed) {
    let Failed { code, error } = failed;
    if leader.is_cacheable() && leader.still_counts(None) {
        leader.remember_failure(code, &error, runtime::now());
    }
    let stale = leader.usable_answer();
    let error = Rc::new(error);
    leader.reply_to_all(|_| match &stale {
        Some(entry) => Content::Stale(entry.clone(), StaleReason::Failed),
        None => Content::Failure(code, Rc::clone(&error)),
    });
}

impl Leader {
    /// The leader of `flight`, which it lists under `key`.
    fn new(worker: &Rc<Worker>, flight: Rc<Flight>, key: Rc<[u8]>, route: u16) -> Self {
        worker.flights.add(&key, &flight);
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

    /// Remembers a failure, so that the question is not asked again for a moment.
    fn remember_failure(&self, code: u16, error: &ExtendedError, now: Instant) {
        let config = &self.worker.setup.config.cache;
        let pauses = (config.failure_min, config.failure_max);
        let cache = &self.worker.shared.cache;
        let blames = if self.worker.all_servers_suspected(self.route) {
            Blames::Servers
        } else {
            Blames::Question
        };
        let failing = Failing {
            code,
            error,
            blames,
        };
        cache.remember_failure(&self.key, failing, pauses, now);
    }

    fn is_cacheable(&self) -> bool {
        Question::of(&self.key).cacheable()
    }

    /// The newest answer that is known and may still be served. Another worker may have stored one since the flight began, so
    /// the cache is read first. The age is checked, because the answer with which the flight began may be too old by now.
    fn usable_answer(&self) -> Option<Entry> {
        let stored = || self.worker.shared.cache.get(&self.key);
        let stored = self.is_cacheable().then(stored).flatten();
        let newest = stored.or_else(|| self.answer_at_start())?;
        let (worker, now) = (&self.worker, runtime::now());
        let is_usable = worker.is_usable(&self.key, self.route, &newest, now);
        is_usable.then_some(newest)
    }

    /// The answer with which the flight began, unless there was a newer one since. That is in the cache no longer, if it was a
    /// denial, and the name has addresses of the other family after all.
    fn answer_at_start(&self) -> Option<Entry> {
        let cache = &self.worker.shared.cache;
        let entry = self.flight.stale().cloned();
        entry.filter(|entry| !cache.had_newer(&self.key, entry))
    }

    /// Ends the wait of all clients with an earlier answer, if there is one that may stand in for one that is late.
    fn stop_waiting(&self) {
        let stale = self.usable_answer();
        let stale = stale.filter(|entry| may_stand_in(entry, StaleReason::Slow));
        self.flight.becomes_overdue(stale, self.route);
    }

    /// Ends the flight. Each waiter gets what `content` returns for its place in the order of waiters, which is 0 for the
    /// first.
    fn reply_to_all(self, content: impl Fn(u32) -> Content) {
        for (waiter, index) in self.depart().into_iter().zip(0..) {
            waiter.reply(content(index), Some(self.route));
        }
    }

    /// Whether a result may be cached: nothing was flushed since the flight began, and the setup in force would ask the same
    /// routes. The cache has answers of the setup in force only, and a reload may have changed it meanwhile.
    fn still_counts(&self, answer: Option<&Entry>) -> bool {
        let (current, setup) = (self.worker.shared.current.load(), &self.worker.setup);
        let question = Question::of(&self.key);
        let same_view = || {
            current.keeps(question.name, question.qtype, self.route, setup)
                && answer.is_none_or(|entry| current.keeps_aliases(entry, setup))
        };
        self.flight.flushes() == self.worker.shared.cache.flushes()
            && (Arc::ptr_eq(&current, setup) || same_view())
    }

    /// Takes the flight off the list, and returns its waiters.
    fn depart(&self) -> SmallVec<[Waiting; 1]> {
        self.landed.set(true);
        self.worker.metrics.in_flight.dec();
        self.worker.first_group(self.route).left();
        self.worker.flights.remove(&self.key, &self.flight);
        self.flight.take_waiters()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.landed.get() {
            return;
        }
        let error = Rc::new(ExtendedError::new(ede::OTHER, "the query was given up"));
        for waiter in self.depart() {
            let content = Content::Failure(rcode::SERVFAIL, Rc::clone(&error));
            waiter.reply(content, Some(self.route));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Executors box larger futures, which would take one more allocation for each query that is forwarded.
    #[test]
    fn a_flight_fits_its_task() {
        fn size<F: Future>(_: impl FnOnce(Leader) -> F) -> usize {
            size_of::<F>()
        }
        assert!(size(fly) < 2048, "{} octets", size(fly));
    }
}
