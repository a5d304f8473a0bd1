//! Counts of clients' queries that only CoreDNS's metric families need, kept only with `metrics.coredns`: counts by listen
//! address and zone, sizes, DO, address families.
//!
//! A worker counts into arrays of its own, and flushes them with its other counters. The first reply for a zone at a listen
//! address allocates an array of about 3 KiB; no other reply allocates. Messages that are not DNS queries are not counted, as
//! CoreDNS does not count them either.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::client::{Client, ListenerIndex};
use crate::message::labels::{COREDNS_CODES, COREDNS_TYPES, coredns_code_index};
use crate::message::reply::{Asked, Protocol};
use crate::message::wire;
use crate::metrics::coredns::{SIZE_BOUNDS, SIZES, TIME_BOUNDS, TIMES};
use crate::metrics::distribution::Distribution;
use crate::metrics::{Label, impl_label};
use crate::runtime;

/// What a reply was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplySource {
    /// A fresh answer of the cache.
    Hit(EntryKind),
    /// An answer that has just come from the upstreams.
    Fresh,
    /// An answer from the configuration.
    Local,
    /// An answer that a route gives by itself.
    Own,
    /// An expired answer of the cache.
    Stale,
    /// Nothing: an error.
    Failure,
}

/// The kind of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// An answer with records.
    Success,
    /// NXDOMAIN, or no such record.
    Denial,
}

impl_label!(EntryKind {
    Success => "success",
    Denial => "denial",
});

impl EntryKind {
    /// The kind of `entry`.
    #[inline]
    #[must_use]
    pub fn of(entry: &crate::cache::Entry) -> Self {
        if entry.is_negative() {
            Self::Denial
        } else {
            Self::Success
        }
    }
}

/// The plugin of CoreDNS that would have made the reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// No plugin: the reply is an error.
    None,
    /// The cache.
    Cache,
    /// An upstream.
    Forward,
    /// Names of the configuration.
    Hosts,
    /// A route that answers by itself.
    Template,
}

impl_label!(Plugin {
    None => "",
    Cache => "cache",
    Forward => "forward",
    Hosts => "hosts",
    Template => "template",
});

impl From<ReplySource> for Plugin {
    fn from(made: ReplySource) -> Self {
        match made {
            ReplySource::Hit(_) | ReplySource::Stale => Self::Cache,
            ReplySource::Fresh => Self::Forward,
            ReplySource::Local => Self::Hosts,
            ReplySource::Own => Self::Template,
            ReplySource::Failure => Self::None,
        }
    }
}

/// Addresses of IPv4 and of IPv6, as CoreDNS numbers them from 1.
pub const FAMILIES: [&str; 2] = ["1", "2"];

/// Types with a label of their own, and all others.
const TYPES: usize = COREDNS_TYPES.len() + 1;

/// Index of the first route's zone in [`Cells`]. Index 0 is for names answered here, and 1 for queries without a route.
const NOT_ROUTES: usize = 2;

/// The counts of one zone at one listen address.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Queries that were answered, by family, protocol and type.
    pub requests: [[[u64; TYPES]; Protocol::ALL.len()]; FAMILIES.len()],
    /// Replies, by plugin and response code.
    pub responses: [[u64; COREDNS_CODES]; Plugin::ALL.len()],
    /// Times from reading a query to its reply.
    pub duration: Distribution<TIME_BOUNDS>,
    /// Octets of queries, by protocol.
    pub request_size: [Distribution<SIZE_BOUNDS>; Protocol::ALL.len()],
    /// Octets of replies, by protocol.
    pub response_size: [Distribution<SIZE_BOUNDS>; Protocol::ALL.len()],
    /// Queries with DO.
    pub dnssec_ok: u64,
    /// Fresh answers of the cache, by kind.
    pub hits: [u64; EntryKind::ALL.len()],
    /// Queries for which the cache was searched in vain.
    pub misses: u64,
    /// Expired answers of the cache.
    pub stale: u64,
    /// Whether anything was counted since the last flush.
    touched: bool,
}

impl Counts {
    /// Adds the counts of `other`.
    pub fn add(&mut self, other: &Self) {
        let own = self.requests.as_flattened_mut().as_flattened_mut();
        add_each(own, other.requests.as_flattened().as_flattened());
        add_each(
            self.responses.as_flattened_mut(),
            other.responses.as_flattened(),
        );
        add_each(&mut self.hits, &other.hits);
        self.duration.add(&other.duration);
        for index in 0..Protocol::ALL.len() {
            self.request_size[index].add(&other.request_size[index]);
            self.response_size[index].add(&other.response_size[index]);
        }
        self.dnssec_ok += other.dnssec_ok;
        self.misses += other.misses;
        self.stale += other.stale;
    }

    fn reply(
        &mut self,
        asked: &Asked<'_>,
        client: Client,
        code: u16,
        made: ReplySource,
        octets: usize,
    ) {
        let protocol = client.protocol.index();
        let family = usize::from(client.address.is_ipv6());
        let qtype = wire::u16_at(asked.section, asked.section.len().saturating_sub(4));
        let known = COREDNS_TYPES
            .iter()
            .position(|(known, _)| Some(*known) == qtype);
        self.requests[family][protocol][known.unwrap_or(COREDNS_TYPES.len())] += 1;
        self.responses[Plugin::from(made).index()][coredns_code_index(code)] += 1;
        self.duration
            .observe_time(&TIMES.bounds, runtime::since(client.received));
        self.request_size[protocol].observe(&SIZES.bounds, u64::from(client.octets));
        self.response_size[protocol].observe(&SIZES.bounds, octets as u64);
        self.dnssec_ok += u64::from(asked.edns.is_some_and(|edns| edns.dnssec_ok));
        match made {
            ReplySource::Hit(stored) => self.hits[stored.index()] += 1,
            ReplySource::Stale => self.stale += 1,
            ReplySource::Fresh | ReplySource::Local | ReplySource::Own | ReplySource::Failure => {}
        }
    }
}

fn add_each(own: &mut [u64], other: &[u64]) {
    for (count, more) in own.iter_mut().zip(other) {
        *count += more;
    }
}

/// By listen address, and by zone: names answered here, queries that no route took, then the routes by index.
type Cells = Vec<Vec<Option<Box<Counts>>>>;

fn cell(cells: &mut Cells, listener: usize, zone: usize) -> &mut Counts {
    if cells.len() <= listener {
        cells.resize_with(listener + 1, Vec::new);
    }
    let zones = &mut cells[listener];
    if zones.len() <= zone {
        zones.resize_with(zone + 1, || None);
    }
    zones[zone].get_or_insert_default()
}

/// The counts of all workers.
#[derive(Debug, Default)]
pub struct ServedTotals {
    listeners: Mutex<Vec<SocketAddr>>,
    cells: Mutex<Cells>,
}

impl ServedTotals {
    /// The index of a listen address.
    #[must_use]
    pub fn listener(&self, address: SocketAddr) -> ListenerIndex {
        let mut listeners = lock(&self.listeners);
        let known = listeners.iter().position(|known| *known == address);
        let index = known.unwrap_or_else(|| {
            listeners.push(address);
            listeners.len() - 1
        });
        // From the 65,536th on, addresses share the last index.
        ListenerIndex(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// Counters for one worker.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> WorkerCounts {
        WorkerCounts {
            cells: RefCell::default(),
            totals: Arc::clone(self),
        }
    }

    /// The counts by CoreDNS's labels `server` and `zone`. `routes` are the labels of the routes by index.
    #[must_use]
    pub fn by_labels(&self, routes: &[&str]) -> BTreeMap<(String, String), Counts> {
        let listeners = lock(&self.listeners).clone();
        let mut by_labels: BTreeMap<_, Counts> = BTreeMap::new();
        let cells = lock(&self.cells);
        for (address, zones) in listeners.iter().zip(&*cells) {
            for (zone, counts) in zones.iter().enumerate() {
                if let Some(counts) = counts {
                    let labels = (server_label(*address), zone_label(zone, routes));
                    by_labels.entry(labels).or_default().add(counts);
                }
            }
        }
        by_labels
    }
}

/// CoreDNS's label of a listen address.
#[must_use]
pub fn server_label(address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        format!("dns://:{}", address.port())
    } else {
        format!("dns://{address}")
    }
}

fn zone_label(zone: usize, routes: &[&str]) -> String {
    match zone.checked_sub(NOT_ROUTES) {
        None if zone == 0 => ".".to_owned(),
        // CoreDNS's word.
        None => "dropped".to_owned(),
        Some(route) => route_label(routes.get(route).copied().unwrap_or(".")),
    }
}

/// CoreDNS's label of a route. A label that is not a name stands for many zones, and becomes `.`.
#[must_use]
pub fn route_label(zone: &str) -> String {
    if zone.ends_with('.') { zone } else { "." }.to_owned()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic cannot leave these lists and counters in a broken state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The counts of one worker since its last flush.
#[derive(Debug)]
pub struct WorkerCounts {
    cells: RefCell<Cells>,
    totals: Arc<ServedTotals>,
}

impl WorkerCounts {
    /// Counts a reply of `octets` octets.
    #[inline(never)]
    pub fn reply(
        &self,
        asked: &Asked<'_>,
        client: Client,
        (code, route): (u16, Option<u16>),
        made: ReplySource,
        octets: usize,
    ) {
        let zone = match route {
            Some(route) => usize::from(route) + NOT_ROUTES,
            None => usize::from(made == ReplySource::Failure),
        };
        self.count(client.listener, zone, |counts| {
            counts.reply(asked, client, code, made, octets);
        });
    }

    /// Counts a query that the cache could not answer.
    pub fn miss(&self, listener: ListenerIndex, route: u16) {
        let zone = usize::from(route) + NOT_ROUTES;
        self.count(listener, zone, |counts| counts.misses += 1);
    }

    #[inline]
    fn count(&self, listener: ListenerIndex, zone: usize, count: impl FnOnce(&mut Counts)) {
        let mut cells = self.cells.borrow_mut();
        let counts = cell(&mut cells, usize::from(listener.0), zone);
        counts.touched = true;
        count(counts);
    }

    /// Adds the counts to those of all workers.
    pub fn flush(&self) {
        let mut totals = lock(&self.totals.cells);
        for (listener, zones) in self.cells.borrow_mut().iter_mut().enumerate() {
            for (zone, counts) in zones.iter_mut().enumerate() {
                if let Some(counts) = counts
                    && counts.touched
                {
                    cell(&mut totals, listener, zone).add(counts);
                    **counts = Counts::default();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_coredns_own() {
        for (address, label) in [
            ("10.0.0.1:53", "dns://10.0.0.1:53"),
            ("0.0.0.0:53", "dns://:53"),
            ("[::]:53", "dns://:53"),
            ("[fd00::1]:53", "dns://[fd00::1]:53"),
        ] {
            assert_eq!(server_label(address.parse().expect("an address")), label);
        }
        let routes = [".", "corp.example.", "private_zones"];
        let labels: Vec<String> = (0..5).map(|zone| zone_label(zone, &routes)).collect();
        assert_eq!(labels, [".", "dropped", ".", "corp.example.", "."]);
    }

    #[test]
    fn counts_with_the_same_labels_are_added_up() {
        let totals = Arc::new(ServedTotals::default());
        let worker = totals.worker();
        for address in ["0.0.0.0:53", "[::]:53", "127.0.0.1:53", "0.0.0.0:53"] {
            worker.miss(totals.listener(address.parse().expect("an address")), 0);
        }
        assert!(
            totals.by_labels(&["."]).is_empty(),
            "before it is handed in"
        );
        worker.flush();
        worker.flush();
        let misses: Vec<_> = totals
            .by_labels(&["."])
            .into_iter()
            .map(|((server, zone), counts)| (server, zone, counts.misses))
            .collect();
        let expected = [("dns://127.0.0.1:53", 1), ("dns://:53", 3)]
            .map(|(server, misses)| (server.to_owned(), ".".to_owned(), misses));
        assert_eq!(misses, expected);
    }
}
