//! How often queries allocate memory: hits never, misses no more than they have to.

#[path = "../benches/support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use nodens::listener::slots::{ConnectionMetrics, ConnectionSlots};
use nodens::metrics::Registry;
use nodens::net::open::{UdpOptions, listen_udp};
use nodens::process::threads::{Command, Datagrams, Heartbeat, Parts, run, runtime};
use support::{Edns, answer, client, hit, query, shared, store, worker, worker_of};
use tokio_util::sync::CancellationToken;

/// Longer than any reply takes.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_hit_allocates_nothing() {
    let worker = worker();
    // A worker's buffers stay as large as the largest reply made them.
    let mut out = Vec::with_capacity(8 << 10);
    for (case, name, edns, addresses) in [
        ("one address", "one.example", Edns::Without, 1),
        ("EDNS", "edns.example", Edns::With, 1),
        ("rotated addresses", "many.example", Edns::With, 8),
        ("cut to 512 octets", "cut.example", Edns::Without, 200),
        ("0x20", "MiXeD.eXaMpLe", Edns::Without, 1),
    ] {
        let query = query(name, edns);
        store(&worker.shared.cache, &query, addresses);
        let client = client();
        let counted = measure(|| {
            for _ in 0..100 {
                hit(&worker, &query, client, &mut out);
            }
        });
        assert_eq!(counted.count_total, 0, "{case}: {counted:?}");
    }
}

#[test]
fn nor_does_it_when_it_counts_under_corednss_names() {
    let worker =
        worker_of("metrics: {coredns: true}\nupstreams: {vpc: {servers: [\"127.0.0.1:53\"]}}\n");
    let mut out = Vec::with_capacity(8 << 10);
    let query = query("one.example", Edns::With);
    store(&worker.shared.cache, &query, 1);
    let client = client();
    let mut some_hits = || {
        measure(|| {
            for _ in 0..100 {
                hit(&worker, &query, client, &mut out);
            }
        })
    };
    let first = some_hits();
    assert!(first.count_total <= 4, "the counts of a zone: {first:?}");
    let counted = some_hits();
    assert_eq!(counted.count_total, 0, "{counted:?}");
}

/// What a worker allocates from its start to its end, while `talk` talks to its address.
fn of_a_worker(
    upstream: SocketAddr,
    talk: impl FnOnce(SocketAddr) + Send + 'static,
) -> AllocationInfo {
    let shared = shared(&format!(
        "workers: 1\nshutdown_grace: 1s\nupstreams: {{vpc: {{servers: [\"{upstream}\"]}}}}\n"
    ));
    let options = UdpOptions {
        receive_buffer: 1 << 20,
        send_buffer: 1 << 20,
    };
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let (udp, _) = listen_udp(any, options).expect("a free port");
    let address = udp.local_addr().expect("bound").as_socket().expect("IP");
    let (commands, receiver) = tokio::sync::mpsc::unbounded_channel();
    let (stop, listening) = (CancellationToken::new(), CancellationToken::new());
    let datagrams = Datagrams {
        socket: udp.into(),
        stop: listening.clone(),
    };
    assert!(commands.send(Command::Listen(datagrams)).is_ok());
    let stopped = stop.clone();
    let client = thread::spawn(move || {
        talk(address);
        stopped.cancel();
        listening.cancel();
        drop(commands);
    });
    let connections = ConnectionMetrics::register(&Registry::new());
    let parts = Parts {
        shared,
        slots: Arc::new(ConnectionSlots::new(connections, 1_024)),
        heartbeat: Arc::new(Heartbeat::new()),
        stop,
        realtime: None,
    };
    let counted = measure(|| {
        let runtime = runtime().expect("its runtime can be had");
        run(&runtime, parts, receiver).expect("it runs");
    });
    client.join().expect("every query was answered");
    counted
}

/// Asks one query after the other.
fn ask(server: SocketAddr, queries: impl Iterator<Item = Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    socket.connect(server).expect("loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("settable");
    let mut reply = [0; 2048];
    for query in queries {
        socket.send(&query).expect("sent");
        let length = socket.recv(&mut reply).expect("a reply");
        assert_eq!(reply[3] & 15, 0, "{:?}", &reply[..length]);
        assert!(length > query.len(), "no answer: {:?}", &reply[..length]);
    }
}

/// An upstream that answers everything until the value it returned is dropped.
fn upstream() -> (SocketAddr, mpsc::Sender<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let address = socket.local_addr().expect("bound");
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("settable");
    let (alive, ended) = mpsc::channel::<()>();
    thread::spawn(move || {
        let mut query = [0; 512];
        while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
            if let Ok((length, peer)) = socket.recv_from(&mut query) {
                let _ = socket.send_to(&answer(&query[..length], 1), peer);
            }
        }
    });
    (address, alive)
}

/// Allocations `count` queries cost a worker beyond those of a few.
fn per_query(name: impl Fn(u32) -> String + Copy + Send + 'static) -> f64 {
    const FEW: u32 = 200;
    const MANY: u32 = 4_200;
    let (server, _alive) = upstream();
    let of = |count: u32| {
        let asked = move |address| {
            ask(
                address,
                (0..count).map(|number| query(&name(number), Edns::With)),
            );
        };
        of_a_worker(server, asked).count_total
    };
    let (few, many) = (of(FEW), of(MANY));
    let more = many.cast_signed() - few.cast_signed();
    f64::from(i32::try_from(more).expect("not that many")) / f64::from(MANY - FEW)
}

#[test]
fn the_listener_and_the_runtime_allocate_nothing_for_a_hit() {
    let each = per_query(|_| "one.example".to_owned());
    println!("{each} allocations a hit");
    // What remains is the runtime's, for its timers: once in a thousand queries.
    assert!(each < 0.01, "{each} allocations a hit");
}

#[test]
fn a_miss_allocates_no_more_than_it_has_to() {
    let each = per_query(|number| format!("host-{number}.example"));
    println!("{each} allocations a miss");
    // The task with all that a flight needs, the flight's list of who waits, its key, what its tries share, the response,
    // and the entry. What is over is the runtime's, for new sockets.
    assert!(each < 6.5, "{each} allocations a miss");
}
