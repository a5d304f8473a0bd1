//! Any bytes as a predecessor's entries, as its whole stream, and as a successor's request. Reading must not panic, an accepted
//! entry must be an answer that a server could have given, and a successor's cache must have the entries of its predecessor's.

#![no_main]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use nodens::budgets::{HANDOVER_ENTRY_BYTES, HANDOVER_TIME};
use nodens::cache::transfer::{MAGIC, Received, read_frame, write_frame};
use nodens::cache::{Bounds, Cache, Origin};
use nodens::config::Config;
use nodens::message::response::{Kind, Response};
use nodens::net::network::kernel;
use nodens::process::handover::{HandoverCounts, hand_over, take_from};
use nodens::process::metrics::Metrics;
use nodens::serving::setup::Setup;
use nodens::serving::top::TopBoard;
use nodens::serving::worker::Shared;
use nodens::upstream::loops::LoopNames;

const BOUNDS: Bounds = Bounds {
    max_ttl: 86_400,
    max_negative_ttl: 3_600,
    later_max_negative_ttl: 30,
    min_ttl: 0,
    max_lifetime: u32::MAX,
};

fuzz_target!(|bytes: &[u8]| {
    check(bytes);
    let (mut stream, mut frame) = (bytes, Vec::new());
    while let Ok(true) = read_frame(&mut stream, &mut frame, HANDOVER_ENTRY_BYTES) {
        check(&frame);
    }
    if bytes.len() > MOST_OCTETS {
        return;
    }
    // The input is the entries of a valid stream, or the whole stream.
    let cache = received(&[&*PREAMBLE, bytes].concat());
    received(bytes);
    let shared = shared(cache);
    asked(&shared, bytes);
    asked(&shared, &[&MAGIC[..], bytes].concat());
    handed_on(&shared);
});

/// Octets that can be written to a stream before they are read.
const MOST_OCTETS: usize = 16 << 10;

const CONFIGURATION: &str = "\
upstreams: {a: {servers: [10.0.0.2]}, b: {servers: [10.0.0.3]}}
routes: {cluster.local: a, \".\": [b, a]}
records: {host.test: {A: [192.0.2.77]}}
cache: {max_size: 64KiB}
";

static SETUP: LazyLock<Arc<Setup>> = LazyLock::new(|| {
    let config = Config::from_yaml(CONFIGURATION).expect("it is valid");
    let metrics = Metrics::new();
    let setup = Setup::new(config, None, &metrics.upstream, &kernel(), Instant::now());
    Arc::new(setup.unwrap_or_else(|errors| panic!("{errors:?}")))
});

/// The start of a stream of an instance with the same setup.
static PREAMBLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut preamble = MAGIC.to_vec();
    let words = serde_json::to_vec(&SETUP.words()).expect("words can be written");
    write_frame(&mut preamble, &words).expect("a Vec grows");
    preamble
});

/// A stream whose other end has sent these octets, and sends nothing more.
fn stream_with(octets: &[u8]) -> (UnixStream, UnixStream) {
    let (near, mut far) = UnixStream::pair().expect("a pair of sockets");
    far.write_all(octets).expect("there is room");
    far.shutdown(Shutdown::Write).expect("it is open");
    (near, far)
}

/// The cache of a successor that received this stream.
fn received(octets: &[u8]) -> Cache {
    let cache = Cache::new(&SETUP.config.cache);
    let (near, _far) = stream_with(octets);
    let mut counts = HandoverCounts::default();
    let deadline = Instant::now() + HANDOVER_TIME;
    let result = take_from(near, &cache, &SETUP, &mut counts, deadline);
    if let Err(error) = result {
        assert!(!error.to_string().is_empty());
    }
    assert!(cache.entries() <= counts.taken, "more than was taken");
    assert!(cache.bytes() <= SETUP.config.cache.max_size);
    for entry in cache.iter() {
        let route = entry.route().and_then(|route| SETUP.routes.existing(route));
        let route = route.expect("an entry has a route here");
        assert!(usize::from(entry.tier()) < route.tiers.len());
        assert!(entry.seconds_left(Instant::now()) <= route.bounds.max_ttl);
    }
    cache
}

fn shared(cache: Cache) -> Shared {
    Shared {
        current: arc_swap::ArcSwap::new(Arc::clone(&SETUP)),
        cache,
        metrics: Metrics::new().serving,
        failures: Arc::default(),
        top: TopBoard::default(),
        hasher: ahash::RandomState::with_seeds(5, 6, 7, 8),
        loops: Arc::new(LoopNames::default()),
        upstream_sockets: 1_024,
    }
}

/// Asks a predecessor for its cache by these octets.
fn asked(shared: &Shared, octets: &[u8]) {
    let (near, mut far) = stream_with(octets);
    let handed = hand_over(shared, near);
    let mut stream = Vec::new();
    // A request that is too long is not read completely, which resets the stream.
    let whole = far.read_to_end(&mut stream).is_ok();
    if let Ok(answers) = handed {
        assert!(answers <= shared.cache.entries());
        assert!(!whole || stream.starts_with(&PREAMBLE));
    }
}

/// Checks that a successor with the same setup gets the same cache.
fn handed_on(shared: &Shared) {
    let everything = [&MAGIC[..], &u64::MAX.to_be_bytes(), &u64::MAX.to_be_bytes()].concat();
    let (near, mut far) = stream_with(&everything);
    let answers = hand_over(shared, near).expect("nobody is in a hurry");
    let mut stream = Vec::new();
    far.read_to_end(&mut stream).expect("it ends");
    let cache = received(&stream);
    // An entry may be too large for a shard of the successor, or expire meanwhile.
    assert!(cache.entries() <= answers);
    for entry in cache.iter() {
        let key = [entry.response().question(), &[entry.question().bits()]].concat();
        let before = shared.cache.get(&key).expect("it had it");
        assert_eq!(entry.response().message(), before.response().message());
        assert_eq!(
            (entry.route(), entry.tier()),
            (before.route(), before.tier())
        );
        let now = Instant::now();
        // Ages are sent in whole milliseconds.
        assert!(entry.seconds_left(now) <= before.seconds_left(now) + 1);
    }
}

fn check(frame: &[u8]) {
    let Some(received) = Received::read(frame) else {
        return;
    };
    let message = received.response().view().message();
    let again = Response::read(message).expect("what was accepted is a response");
    assert!(matches!(again.kind(), Kind::Positive | Kind::Negative));
    assert!(!again.truncated());
    let now = Instant::now();
    let origin = Origin {
        route: 0,
        tier: 0,
        took: std::time::Duration::ZERO,
    };
    let Some(entry) = received.entry(now, origin, BOUNDS) else {
        return;
    };
    assert!(entry.seconds_left(now) <= BOUNDS.max_ttl);
    // Handed over again, the entry is the same.
    let mut frame = Vec::new();
    if entry.write(now, &mut frame) {
        let twice = Received::read(&frame).expect("an entry of ours");
        assert_eq!(twice.key(), received.key());
        assert_eq!(twice.response(), received.response());
    }
}
