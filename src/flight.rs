//! Questions in flight and who waits for them; the small steps of [`crate::resolve`].
//!
//! Owns coalescing: the first query of a question starts a flight, identical ones wait with it, and one answer serves
//! all. Whatever happens to a flight, everybody who waits is answered exactly once.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::{Bounds, Entry};
use crate::config::QueryLog;
use crate::listener::ReplyTo;
use crate::metrics::{Cached, Dropped, StaleReason, rcode_label, type_label};
use crate::query::{Edns, Query, Question, Reject};
use crate::reply::{self, Asked, ExtendedError, Extras, Protocol, Ttls};
use crate::response::Response;
use crate::upstream::ask::Failed;
use crate::wire::rcode;
use crate::worker::Worker;

/// RFC 8914 §4.4: the answer is older than its TTL.
const EDE_STALE: u16 = 3;
/// RFC 8914 §4.20: so is this NXDOMAIN.
const EDE_STALE_NXDOMAIN: u16 = 19;
/// RFC 8914 §4.19: the client may not ask.
const EDE_PROHIBITED: u16 = 18;
/// RFC 8914 §4.1: none of the registered reasons.
const EDE_OTHER: u16 = 0;
/// RFC 8914 §4.15: the server is not up, or no longer.
const EDE_NOT_READY: u16 = 14;
/// Prefetches a worker has in flight at most: they must never crowd out what clients wait for.
const MAX_PREFETCHES: usize = 64;

/// What became of a client's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Served {
    /// A reply was appended, from the cache.
    Hit,
    /// A reply was appended, of our own.
    Replied,
    /// There will be none.
    Dropped,
    /// It follows by way of [`ReplyTo`].
    Later,
}

/// Who sent a message, and when.
#[derive(Debug, Clone, Copy)]
pub struct Client {
    /// Its address.
    pub address: SocketAddr,
    /// How it came.
    pub protocol: Protocol,
    /// When it was read.
    pub received: Instant,
}

/// A question in flight.
pub struct Flight {
    waiters: RefCell<Vec<Waiter>>,
    stale: Option<Arc<Entry>>,
    overdue: Cell<bool>,
}

impl Flight {
    /// Nobody waits yet; `stale` is what they get if nothing better comes.
    #[must_use]
    pub fn new(stale: Option<Arc<Entry>>) -> Self {
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
            name: &self.section[..self.section.len() - 4],
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
            worker.fail(&asked, &self.section, code, error, route, self.client, out);
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
    key: Box<[u8]>,
    route: u16,
    landed: Cell<bool>,
}

impl Leader {
    /// Leads `flight`, which is listed under `key`.
    #[must_use]
    pub fn new(worker: &Rc<Worker>, flight: Rc<Flight>, key: &[u8], route: u16) -> Self {
        worker.metrics.in_flight.inc();
        Self {
            worker: Rc::clone(worker),
            flight,
            key: key.into(),
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
    pub fn key(&self) -> &[u8] {
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
        match result {
            Ok(response) => {
                let entry = Arc::new(Entry::new(&self.key, response, now, self.route, bounds));
                if Question::of(&self.key).cacheable() {
                    cache.insert(&self.key, &entry);
                }
                for waiter in waiters {
                    waiter.answer(&entry);
                }
            }
            Err(Failed { code, error }) => {
                if Question::of(&self.key).cacheable() {
                    cache.remember_failure(&self.key, code, &error, now);
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

    fn depart(&self) -> Vec<Waiter> {
        self.landed.set(true);
        self.worker.metrics.in_flight.dec();
        self.worker.flights.borrow_mut().remove(&self.key);
        self.flight.waiters.take()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if self.landed.get() {
            return;
        }
        let error = ExtendedError::new(EDE_OTHER, "the query was given up");
        for waiter in self.depart() {
            waiter.fail(rcode::SERVFAIL, &error, Some(self.route));
        }
    }
}

impl Worker {
    pub(crate) fn nsid(&self) -> &[u8] {
        self.shared.config.node_name.as_bytes()
    }

    /// Stamps a fresh answer from the cache.
    #[inline]
    pub(crate) fn hit(&self, entry: &Entry, asked: &Asked<'_>, client: Client, out: &mut Vec<u8>) {
        self.metrics.hit();
        let rotate = match entry.response().rotation() {
            Some(_) if self.shared.config.cache.rotate => self.random.borrow_mut().u32(..),
            _ => 0,
        };
        let extras = Extras {
            error: None,
            nsid: self.nsid(),
            rotate,
        };
        let age = Ttls::Aged(entry.age(client.received));
        let code = reply::answer(entry, asked, age, extras, out);
        self.replied(code, entry.route(), asked.name, client, "hit");
    }

    /// Counts a reply, and logs it if replies are logged.
    #[inline]
    fn replied(
        &self,
        code: u16,
        route: impl Into<Option<u16>>,
        name: &[u8],
        client: Client,
        how: &str,
    ) {
        self.metrics.reply(code, route.into());
        match self.shared.config.log.queries {
            QueryLog::Off => {}
            QueryLog::Errors if matches!(code, rcode::NOERROR | rcode::NXDOMAIN) => {}
            QueryLog::Errors | QueryLog::All => log_query(code, name, client, how),
        }
    }

    /// Replies to bytes that are no query we can answer.
    pub(crate) fn reject(
        &self,
        message: &[u8],
        reject: Reject,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let code = match reject {
            Reject::Short => {
                self.metrics.dropped(Dropped::Short);
                return Served::Dropped;
            }
            Reject::NotAQuery => {
                self.metrics.dropped(Dropped::NotAQuery);
                return Served::Dropped;
            }
            Reject::Answer(code) => code,
            Reject::BadVersion => rcode::BADVERS,
        };
        if !self.allows(client.address) && !self.may_refuse(client.received) {
            self.metrics.dropped(Dropped::NotAllowed);
            return Served::Dropped;
        }
        reply::reject(message, code, out);
        self.replied(code, None, &[], client, "rejected");
        Served::Replied
    }

    /// A client outside `allow`: REFUSED, but not so often that we could be used to flood it.
    pub(crate) fn turn_away(
        &self,
        query: &Query<'_>,
        asked: &Asked<'_>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        if !self.may_refuse(client.received) {
            self.metrics.dropped(Dropped::NotAllowed);
            return Served::Dropped;
        }
        let error = ExtendedError::new(EDE_PROHIBITED, "this client is outside allow");
        self.fail(
            asked,
            query.section(),
            rcode::REFUSED,
            &error,
            None,
            client,
            out,
        );
        Served::Replied
    }

    /// REFUSED for what is never forwarded.
    pub(crate) fn refuse(
        &self,
        query: &Query<'_>,
        error: Option<ExtendedError>,
        client: Client,
        out: &mut Vec<u8>,
    ) -> Served {
        let asked = Asked::new(query, client.protocol);
        let error = error.unwrap_or_else(|| ExtendedError::new(EDE_OTHER, "not forwarded"));
        self.fail(
            &asked,
            query.section(),
            rcode::REFUSED,
            &error,
            None,
            client,
            out,
        );
        Served::Replied
    }

    /// Stamps an error and its reason.
    #[expect(
        clippy::too_many_arguments,
        reason = "all that is known of one reply, passed on once"
    )]
    pub(crate) fn fail(
        &self,
        asked: &Asked<'_>,
        section: &[u8],
        code: u16,
        error: &ExtendedError,
        route: Option<u16>,
        client: Client,
        out: &mut Vec<u8>,
    ) {
        let extras = Extras {
            error: Some(error),
            nsid: self.nsid(),
            rotate: 0,
        };
        reply::error(asked, section, code, extras, out);
        self.replied(code, route, section, client, "failed");
    }

    /// Stamps an expired answer (RFC 8767).
    pub(crate) fn serve_stale(
        &self,
        entry: &Entry,
        asked: &Asked<'_>,
        client: Client,
        reason: StaleReason,
        out: &mut Vec<u8>,
    ) -> Served {
        self.metrics.stale(reason);
        let code = match entry.response().rcode() {
            rcode::NXDOMAIN => EDE_STALE_NXDOMAIN,
            _ => EDE_STALE,
        };
        let text = match reason {
            StaleReason::UpstreamsDown => "the route's upstreams are down",
            StaleReason::Slow => "the upstreams are slow",
            StaleReason::Failed => "the upstreams failed",
            StaleReason::Overload => "too many queries are in flight",
        };
        let error = ExtendedError::new(code, text);
        let extras = Extras {
            error: Some(&error),
            nsid: self.nsid(),
            rotate: 0,
        };
        let ttl = crate::cache::seconds(self.shared.config.cache.stale_ttl);
        let code = reply::answer(entry, asked, Ttls::Fixed(ttl), extras, out);
        self.replied(code, entry.route(), asked.name, client, "stale");
        Served::Replied
    }

    /// Whether an expired answer is young enough to fall back on.
    pub(crate) fn may_serve_stale(&self, entry: &Entry, now: Instant) -> bool {
        entry.expired_for(now) < self.shared.config.cache.stale_max_age
    }

    /// Whether every server of a route is gone or suspected to be.
    pub(crate) fn suspects(&self, route: u16) -> bool {
        let groups = &self.shared.upstreams.groups;
        self.shared
            .routes
            .get(route)
            .tiers
            .iter()
            .all(|&tier| groups[tier].suspected())
    }

    /// Whether the route's group takes another question.
    pub(crate) fn has_room(&self, route: u16) -> bool {
        self.shared.upstreams.groups[self.shared.routes.get(route).tiers[0]].has_room()
    }

    /// Whether the client may have another query in flight.
    pub(crate) fn client_has_room(&self, client: Client) -> bool {
        let ip: IpAddr = client.address.ip();
        let most = self.shared.config.limits.client_in_flight;
        self.clients
            .borrow()
            .get(&ip)
            .is_none_or(|count| *count < most)
    }

    /// Why a route takes no more.
    pub(crate) fn overload_text(&self, route: u16) -> String {
        let group = &self.shared.upstreams.groups[self.shared.routes.get(route).tiers[0]];
        format!("{}: too many queries are in flight", group.name)
    }

    /// The grace is over: tells all that still wait.
    pub(crate) fn abandon(&self) {
        let flights: Vec<Rc<Flight>> = self.flights.borrow().values().cloned().collect();
        let error = ExtendedError::new(EDE_NOT_READY, "this nameserver is shutting down");
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
            let response = Response::read(&worker.shared.local.answer(&message).await);
            match response {
                Ok(response) => {
                    let bounds = Bounds {
                        max_ttl: u32::MAX,
                        max_negative_ttl: u32::MAX,
                    };
                    let entry = Entry::local(response, waiter.client.received, bounds);
                    waiter.answer_locally(&entry);
                }
                Err(error) => {
                    let error = ExtendedError::new(EDE_OTHER, &error.to_string());
                    waiter.fail(rcode::SERVFAIL, &error, None);
                }
            }
        });
    }

    /// Fetches a popular answer anew shortly before it expires, so that no client waits for it.
    #[inline]
    pub(crate) fn prefetch_if_due(self: &Rc<Self>, key: &[u8], entry: &Arc<Entry>, now: Instant) {
        if !entry.prefetch_due(now, &self.shared.config.cache) {
            return;
        }
        let Some(route) = entry.route() else { return };
        let quiet = self.flights.borrow().len() < MAX_PREFETCHES;
        if quiet && !self.flights.borrow().contains_key(key) {
            self.metrics.prefetches.inc();
            // Should it expire before the new one is there, it is what those who then wait fall back on.
            self.start(key, route, Some(Arc::clone(entry)));
        }
    }
}

/// One line a reply, at the target `nodens::query`.
#[cold]
fn log_query(code: u16, section: &[u8], client: Client, how: &str) {
    let name_end = crate::wire::skip_question_name(section, 0).unwrap_or(0);
    let name = presentation(&section[..name_end]);
    let qtype = crate::wire::u16_at(section, name_end).map_or("", type_label);
    let protocol = match client.protocol {
        Protocol::Udp => "udp",
        Protocol::Tcp => "tcp",
    };
    let microseconds = u64::try_from(client.received.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::info!(
        target: "nodens::query",
        client = %client.address,
        protocol,
        name,
        r#type = qtype,
        rcode = rcode_label(code),
        how,
        microseconds,
    );
}

/// A wire name as people write it; octets that are no letters, digits, `-` or `_` as `\DDD` (RFC 1035 §5.1), so that no
/// client can forge log lines.
#[must_use]
pub fn presentation(mut name: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(name.len());
    while let [length, rest @ ..] = name
        && *length > 0
    {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        for &octet in label {
            match octet {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => text.push(octet.into()),
                _ => write!(text, "\\{octet:03}").expect("a string takes every write"),
            }
        }
        text.push('.');
        name = rest;
    }
    if text.is_empty() {
        ".".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::presentation;

    #[test]
    fn names_in_logs_cannot_forge_lines() {
        assert_eq!(presentation(b"\x03a\nb\x02c.\0"), "a\\010b.c\\046.");
        assert_eq!(presentation(b"\0"), ".");
    }
}
