//! What benchmarks and the test of allocations share: a worker without sockets, and messages.

#![allow(
    dead_code,
    reason = "every binary compiles this module and uses its own part of it"
)]

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nodens::cache::{Bounds, Cache, Entry, Origin};
use nodens::config::Config;
use nodens::message::query::Query;
use nodens::message::reply::Protocol;
use nodens::message::response::Response;
use nodens::net::network::kernel;
use nodens::process::metrics::Metrics;
use nodens::serving::client::{Client, ListenerIndex, Served};
use nodens::serving::setup::Setup;
use nodens::serving::top::TopBoard;
use nodens::serving::worker::{Shared, Worker};

/// Nobody answers there, and nobody is asked.
pub(crate) const CONFIG: &str = "workers: 1\nupstreams: {vpc: {servers: [192.0.2.53]}}\n";

pub(crate) const BOUNDS: Bounds = Bounds {
    max_ttl: 86_400,
    max_negative_ttl: 3_600,
    later_max_negative_ttl: 30,
    min_ttl: 0,
    max_lifetime: u32::MAX,
};

pub(crate) const ORIGIN: Origin = Origin {
    route: 0,
    tier: 0,
    took: Duration::ZERO,
};

/// What workers of this configuration share.
pub(crate) fn shared(yaml: &str) -> Arc<Shared> {
    let config = Config::from_yaml(yaml).unwrap_or_else(|errors| panic!("{errors}"));
    let mut metrics = Metrics::new();
    if config.metrics_coredns {
        metrics.count_for_coredns();
    }
    let cache = Cache::new(&config.cache);
    let Ok(setup) = Setup::new(config, None, &metrics.upstream, &kernel(), Instant::now()) else {
        panic!("no setup of:\n{yaml}");
    };
    Arc::new(Shared {
        current: ArcSwap::from_pointee(setup),
        cache,
        metrics: metrics.serving.clone(),
        failures: Arc::default(),
        top: TopBoard::default(),
        hasher: ahash::RandomState::new(),
        loops: Arc::default(),
        upstream_sockets: 1_024,
    })
}

/// A worker that never gets to ask anybody: for hits.
pub(crate) fn worker() -> Rc<Worker> {
    worker_of(CONFIG)
}

/// The same under a configuration of one's own.
pub(crate) fn worker_of(yaml: &str) -> Rc<Worker> {
    let shared = shared(yaml);
    let setup = shared.current.load_full();
    Rc::new(Worker::new(&shared, &setup, None))
}

/// Whether a query carries an OPT record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edns {
    Without,
    With,
}

/// A query for the addresses of a name, as stub resolvers ask it.
pub(crate) fn query(name: &str, edns: Edns) -> Vec<u8> {
    let additionals = u8::from(edns == Edns::With);
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, additionals];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        message.push(u8::try_from(label.len()).expect("a label has at most 63 octets"));
        message.extend_from_slice(label.as_bytes());
    }
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    if edns == Edns::With {
        message.extend_from_slice(&[0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0]);
    }
    message
}

/// An upstream's answer to such a query: so many addresses, and an OPT record if the query had one.
pub(crate) fn answer(query: &[u8], addresses: u8) -> Vec<u8> {
    let question_end = 12
        + query[12..]
            .iter()
            .position(|&octet| octet == 0)
            .expect("a name")
        + 5;
    let mut message = query[..question_end].to_vec();
    message[2..4].copy_from_slice(&[0x81, 0x80]);
    message[6..8].copy_from_slice(&[0, addresses]);
    for last in 0..addresses {
        message.extend_from_slice(&[
            0xc0, 12, 0, 1, 0, 1, 0, 1, 0x51, 0x80, 0, 4, 192, 0, 2, last,
        ]);
    }
    message.extend_from_slice(&query[question_end..]);
    message
}

/// Puts the answer to a query into a cache, as if it had come by the first route.
pub(crate) fn store(cache: &Cache, query: &[u8], addresses: u8) {
    let response = Response::read(&answer(query, addresses)).expect("well-formed");
    let key = Query::read(query).expect("well-formed").key();
    let entry = Entry::new(key.as_bytes(), &response, Instant::now(), ORIGIN, BOUNDS);
    cache.insert(key.as_bytes(), &entry);
}

/// A client on loopback whose query has just been read.
pub(crate) fn client() -> Client {
    Client {
        address: ([127, 0, 0, 1], 40_000).into(),
        protocol: Protocol::Udp,
        received: Instant::now(),
        octets: 30,
        listener: ListenerIndex::default(),
    }
}

/// Serves a query that must be a hit.
pub(crate) fn hit(worker: &Rc<Worker>, query: &[u8], client: Client, out: &mut Vec<u8>) {
    out.clear();
    let served = worker.serve(query, client, out, || unreachable!("it is in the cache"));
    assert_eq!(served, Served::Hit);
}
