//! What each step of a query takes by itself, in time and allocations:
//!
//!     cargo bench --bench steps [-- FILTER]
//!
//! Time depends on the machine and on who else uses it; `tests/instructions.rs` has figures that can be compared.

mod support;

use std::fmt::Write as _;

use divan::{AllocProfiler, Bencher, black_box};
use nodens::cache::{Cache, Entry};
use nodens::config::{CacheConfig, Config};
use nodens::message::query::Query;
use nodens::message::reply::{self, Asked, Extras, Protocol, Ttls};
use nodens::message::response::Response;
use nodens::upstream::routes::Routes;
use support::{BOUNDS, Edns, ORIGIN, answer, client, hit, query, store, worker};

#[global_allocator]
static ALLOCATOR: AllocProfiler<mimalloc::MiMalloc> = AllocProfiler::new(mimalloc::MiMalloc);

const NAME: &str = "registry.ci.example.com";

/// A stored answer as replies are made from it.
fn source(entry: &Entry) -> reply::Source<'_> {
    reply::Source {
        response: entry.response(),
        ttl_cap: entry.ttl_cap(),
    }
}

fn main() {
    divan::main();
}

#[divan::bench(args = [Edns::Without, Edns::With])]
fn parse(bencher: Bencher<'_, '_>, edns: Edns) {
    let message = query(NAME, edns);
    bencher.bench(|| Query::read(black_box(&message)).is_ok());
}

#[divan::bench]
fn key(bencher: Bencher<'_, '_>) {
    let message = query(NAME, Edns::With);
    let query = Query::read(&message).expect("well-formed");
    bencher.bench(|| black_box(&query).key().as_bytes().len());
}

/// Entries a query finds its own among.
#[divan::bench(args = [1_000, 100_000, 1_000_000])]
fn lookup(bencher: Bencher<'_, '_>, entries: u32) {
    let cache = Cache::new(&CacheConfig {
        max_size: 512 << 20,
        ..CacheConfig::default()
    });
    let message = |number| query(&format!("host-{number:07}.bench.example"), Edns::Without);
    for number in 0..entries {
        store(&cache, &message(number), 1);
    }
    let mut random = fastrand::Rng::with_seed(1);
    bencher
        .with_inputs(|| {
            let message = message(random.u32(..entries));
            Query::read(&message).expect("well-formed").key()
        })
        .bench_local_values(|key| cache.get(key.as_bytes()).is_some());
}

#[divan::bench(args = [1, 8, 32])]
fn stamp(bencher: Bencher<'_, '_>, addresses: u8) {
    let message = query(NAME, Edns::With);
    let query = Query::read(&message).expect("well-formed");
    let response = Response::read(&answer(&message, addresses)).expect("well-formed");
    let entry = Entry::new(
        query.key().as_bytes(),
        &response,
        client().received,
        ORIGIN,
        BOUNDS,
    );
    let asked = Asked::new(&query, Protocol::Udp);
    let extras = Extras {
        rotate: 5,
        ..Extras::default()
    };
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        reply::answer(
            source(black_box(&entry)),
            &asked,
            Ttls::Aged(7),
            extras,
            &mut out,
        )
    });
}

/// A hit from the datagram's bytes to the reply's, as the listener has it served.
#[divan::bench(args = [1, 8])]
fn whole_hit(bencher: Bencher<'_, '_>, addresses: u8) {
    let worker = worker();
    let message = query(NAME, Edns::With);
    store(&worker.shared.cache, &message, addresses);
    let (client, mut out) = (client(), Vec::with_capacity(4096));
    bencher.bench_local(|| hit(&worker, black_box(&message), client, &mut out));
}

#[divan::bench(args = [1, 8, 32])]
fn response(bencher: Bencher<'_, '_>, addresses: u8) {
    let message = answer(&query(NAME, Edns::With), addresses);
    bencher.bench(|| Response::read(black_box(&message)));
}

/// Into a cache that is full, so that each answer makes another one go.
#[divan::bench]
fn insert(bencher: Bencher<'_, '_>) {
    let cache = Cache::new(&CacheConfig {
        max_size: 1 << 20,
        ..CacheConfig::default()
    });
    let mut number = 0_u64;
    bencher
        .with_inputs(|| {
            number += 1;
            let message = query(&format!("host-{number:09}.bench.example"), Edns::Without);
            let key = Query::read(&message).expect("well-formed").key();
            let response = Response::read(&answer(&message, 1)).expect("well-formed");
            let entry = Entry::new(key.as_bytes(), &response, client().received, ORIGIN, BOUNDS);
            (key, entry)
        })
        .bench_local_refs(|(key, entry)| cache.insert(key.as_bytes(), entry));
}

/// Routes a name finds its own among.
#[divan::bench(args = [1, 100, 10_000])]
fn route(bencher: Bencher<'_, '_>, routes: u32) {
    let mut yaml = format!("{}routes:\n  \".\": vpc\n", support::CONFIG);
    for number in 1..routes {
        writeln!(yaml, "  zone-{number}.example.com: vpc").expect("a String grows");
    }
    let config = Config::from_yaml(&yaml).unwrap_or_else(|errors| panic!("{errors}"));
    let Ok(routes) = Routes::replacing(&config, None) else {
        panic!("no routes of:\n{yaml}");
    };
    let message = query(NAME, Edns::Without);
    let key = Query::read(&message).expect("well-formed").key();
    let name = &key.as_bytes()[..key.as_bytes().len() - 5];
    bencher.bench(|| routes.find(black_box(name), 1));
}
