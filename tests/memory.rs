//! What the process weighs: idle, with answers in its cache, and with its cache full, as the kernel counts it.
//!
//! The bounds hold for the release build: `cargo test --release --test memory -- --ignored --test-threads=1 --nocapture`.

mod common;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use common::dns::{Ask, record, response, rr, udp_to};
use common::{Nodens, free_address};

/// Queries asked before their replies are waited for.
const WINDOW: usize = 64;

/// Bytes; memory is quoted in these.
const MB: u64 = 1_000_000;

/// An upstream that answers whatever it is asked with the records `answers` makes of the query.
struct Upstream {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    fn new(answers: impl Fn(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Self {
        let address = free_address();
        let socket = UdpSocket::bind(address).expect("the address is free");
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .expect("settable");
        let stopped = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopped);
        let thread = thread::spawn(move || {
            let mut query = [0; 512];
            while !stop.load(Ordering::Relaxed) {
                if let Ok((length, peer)) = socket.recv_from(&mut query) {
                    let query = &query[..length];
                    let reply = response(query, &answers(query));
                    // A reply that is lost is asked for again.
                    let _ = socket.send_to(&reply, peer);
                }
            }
        });
        Self {
            address,
            stopped,
            thread: Some(thread),
        }
    }

    /// One address record, as most answers are.
    fn of_addresses() -> Self {
        Self::new(|_| vec![record(rr::A, 86_400, &[192, 0, 2, 1])])
    }

    fn nodens(&self, settings: &str) -> Nodens {
        let address = self.address;
        Nodens::start(&format!(
            "workers: 1\nupstreams: {{vpc: {{servers: [\"{address}\"]}}}}\n{settings}"
        ))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks for the addresses of these names and waits for every reply.
fn ask_all(nodens: &Nodens, names: impl Iterator<Item = String>) {
    ask_all_for(nodens, rr::A, names);
}

/// Asks for records of this type.
fn ask_all_for(nodens: &Nodens, rtype: u16, names: impl Iterator<Item = String>) {
    let socket = udp_to(nodens.address()).expect("a socket");
    socket
        .set_read_timeout(Some(Duration::from_secs(2)))
        .expect("settable");
    let mut names = names.peekable();
    while names.peek().is_some() {
        let mut open: Vec<Ask> = names
            .by_ref()
            .take(WINDOW)
            .enumerate()
            .map(|(id, name)| {
                let mut ask = Ask::new(&name, rtype);
                ask.id = u16::try_from(id).expect("a window is small");
                ask
            })
            .collect();
        for attempt in 0.. {
            assert!(attempt < 10, "no reply to {:?}", open[0]);
            for ask in &open {
                socket.send(&ask.message()).expect("sent");
            }
            let answered = replies(&socket, open.len());
            open.retain(|ask| !answered.contains(&ask.id));
            if open.is_empty() {
                break;
            }
        }
    }
}

/// IDs of the next `count` replies, or of fewer if no more come.
fn replies(socket: &UdpSocket, count: usize) -> HashSet<u16> {
    let mut found = HashSet::new();
    let mut reply = [0; 2048];
    while found.len() < count {
        match socket.recv(&mut reply) {
            Ok(length) => {
                assert_eq!(reply[3] & 15, 0, "{:?}", &reply[..length]);
                found.insert(u16::from_be_bytes([reply[0], reply[1]]));
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => panic!("{error}"),
        }
    }
    found
}

#[expect(clippy::cast_precision_loss, reason = "to be read, not reckoned with")]
fn in_mb(bytes: u64) -> f64 {
    bytes as f64 / MB as f64
}

#[test]
#[ignore = "measures the release build; see the module"]
fn idle_and_with_a_hundred_thousand_answers() {
    let upstream = Upstream::of_addresses();
    let nodens = upstream.nodens("");
    ask_all(&nodens, std::iter::once("one.example".to_owned()));
    let (idle, own) = (nodens.rss_bytes(), nodens.anonymous_bytes());
    println!(
        "idle: {:.1} MB, {:.1} MB of its own",
        in_mb(idle),
        in_mb(own)
    );
    // The rest are pages of the program's file, which all instances of a node share and the kernel may drop. Every command
    // makes the program larger.
    assert!(own <= 3 * MB, "idle: {:.1} MB of its own", in_mb(own));
    // Of the image's, whose functions the linker has put in order, less is in memory: .ci/linked-first-record.
    let is_in_order =
        std::env::var_os("NODENS_TEST_BINARY").is_some() && cfg!(target_arch = "x86_64");
    let most = if is_in_order { 9 } else { 14 };
    assert!(idle <= most * MB, "idle: {:.1} MB", in_mb(idle));

    let names = || (0..100_000).map(|number| format!("host-{number:06}.bench.example"));
    ask_all(&nodens, names());
    nodens.wait_for_metric("nodens_cache_entries", &[], 100_000.0);
    let filled = nodens.peak_rss_bytes();
    println!("100,000 answers: {:.1} MB at most", in_mb(filled));
    assert!(
        filled <= 45 * MB,
        "100,000 answers: {:.1} MB",
        in_mb(filled)
    );
}

/// `max_size` is a promise of bytes in memory, whatever the answers look like: the weight of an entry must not be less
/// than what it costs.
#[test]
#[ignore = "measures the release build; see the module"]
fn a_full_cache_stays_within_its_size() {
    const MAX_SIZE: u64 = 64 << 20;
    let long_text = |_: &[u8]| vec![record(rr::TXT, 86_400, &[b'x'; 1000])];
    // Sizes from one name to the next as different as they get in a datagram.
    let mixed = |query: &[u8]| {
        let number = usize::from(query[query.len() / 2 - 3]) % 16;
        vec![record(rr::A, 86_400, &[192, 0, 2, 1]); number + 1]
    };
    for (what, rtype, names, upstream) in [
        ("one address each", rr::A, 700_000, Upstream::of_addresses()),
        ("1 to 16 addresses", rr::A, 400_000, Upstream::new(mixed)),
        (
            "1,000 octets of text",
            rr::TXT,
            150_000,
            Upstream::new(long_text),
        ),
    ] {
        let nodens = upstream.nodens(&format!("cache: {{max_size: {MAX_SIZE}}}"));
        ask_all(&nodens, std::iter::once("one.example".to_owned()));
        let idle = nodens.rss_bytes();
        ask_all_for(
            &nodens,
            rtype,
            (0..names).map(|number| format!("host-{number:06}.bench.example")),
        );
        nodens.wait_for_metric("nodens_cache_evictions_total", &[], 1_000.0);
        let grown = nodens.peak_rss_bytes() - idle;
        let entries = nodens.metric("nodens_cache_entries", &[]);
        let share = in_mb(grown) / in_mb(MAX_SIZE);
        println!(
            "{what}: {entries} entries, grown by {:.1} MB, {share:.3} of max_size",
            in_mb(grown)
        );
        assert!(share <= 1.15, "{what}: {share:.3} of max_size");
        // Nor may it promise bytes that it then leaves unused.
        assert!(share >= 0.75, "{what}: {share:.3} of max_size");
    }
}
