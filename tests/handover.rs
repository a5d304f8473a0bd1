//! Two instances on one address: an upgrade loses no query and resets no connection. In release, because a debug build
//! under this load would measure its own stalls: `cargo test --release --test handover -- --ignored`. And the successor begins
//! with what its predecessor knew.

mod common;

use std::collections::HashMap;
use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use common::dns::{
    Ask, Message, Over, Section, rcode, read_frame, record, response, rr, send_frame, tcp_to,
};
use common::stand_in::StandIn;
use common::{Nodens, free_address, wait_for};

/// Replacements, one after the other.
const REPLACEMENTS: usize = 10;
/// UDP queries a second, all clients together.
const UDP_RATE: u64 = 5_000;
/// Threads that send them.
const UDP_THREADS: u64 = 4;
/// Sockets of each at any time; every one is replaced after [`USES`] queries.
const SOCKETS: usize = 32;
/// A new socket has a new port, which the kernel hashes to any of the listeners.
const USES: u32 = 50;
/// Clients over TCP.
const CONNECTIONS: u64 = 50;
/// A query without an answer for this long is lost: stub resolvers wait longer.
const LOST: Duration = Duration::from_secs(2);

/// What clients saw.
#[derive(Default)]
struct Seen {
    over: AtomicBool,
    udp_sent: AtomicU64,
    udp_answered: AtomicU64,
    tcp_answered: AtomicU64,
    tcp_connections: AtomicU64,
    /// A further query on an idle connection crossed our FIN: the client repeats it (RFC 7766 §6.2.4).
    crossed: AtomicU64,
}

impl Seen {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// One name in 20 is new, and has to be forwarded.
fn name(random: &mut u64) -> String {
    *random = random
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    match *random >> 33 {
        draw if draw % 20 == 0 => format!("new{draw}.example."),
        draw => format!("n{}.example.", draw % 100),
    }
}

/// A client socket and what it waits for.
struct Client {
    socket: UdpSocket,
    waiting: HashMap<u16, Instant>,
    uses: u32,
}

impl Client {
    fn new(server: SocketAddr) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.connect(server).expect("connects");
        socket.set_nonblocking(true).expect("a flag");
        Self {
            socket,
            waiting: HashMap::new(),
            uses: 0,
        }
    }

    fn send(&mut self, random: &mut u64, seen: &Seen) {
        let mut message = Ask::new(&name(random), rr::A).message();
        let id = u16::try_from(self.uses).expect("few uses");
        message[..2].copy_from_slice(&id.to_be_bytes());
        self.socket
            .send(&message)
            .unwrap_or_else(|error| panic!("a query was turned away: {error}"));
        self.waiting.insert(id, Instant::now());
        self.uses += 1;
        Seen::add(&seen.udp_sent);
    }

    fn receive(&mut self, seen: &Seen) {
        let mut buffer = [0; 1500];
        loop {
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let reply = Message::read(&buffer[..length]).expect("a message");
                    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
                    let id = u16::from_be_bytes([buffer[0], buffer[1]]);
                    assert!(
                        self.waiting.remove(&id).is_some(),
                        "an answer to nothing: {reply:?}"
                    );
                    Seen::add(&seen.udp_answered);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("a query was turned away: {error}"),
            }
        }
    }
}

fn udp_clients(server: SocketAddr, seen: &Arc<Seen>) -> Vec<JoinHandle<()>> {
    let thread = |number| {
        let seen = Arc::clone(seen);
        thread::spawn(move || {
            let mut random = number;
            let mut clients: Vec<_> = (0..SOCKETS).map(|_| Client::new(server)).collect();
            // Worn out, and still waiting for something.
            let mut old: Vec<Client> = Vec::new();
            let start = Instant::now();
            let mut sent = 0_u64;
            while !seen.over() {
                let due = u64::try_from(start.elapsed().as_micros()).expect("short") * UDP_RATE
                    / UDP_THREADS
                    / 1_000_000;
                while sent < due {
                    let client = &mut clients[usize::try_from(sent).expect("fits") % SOCKETS];
                    if client.uses >= USES {
                        old.push(std::mem::replace(client, Client::new(server)));
                    }
                    client.send(&mut random, &seen);
                    sent += 1;
                }
                for client in clients.iter_mut().chain(&mut old) {
                    client.receive(&seen);
                }
                old.retain(|client| !client.waiting.is_empty());
                let long = old
                    .iter()
                    .chain(&clients)
                    .flat_map(|client| client.waiting.values());
                assert!(
                    long.clone().all(|sent| sent.elapsed() < LOST),
                    "{} queries have no answer after {LOST:?}",
                    long.count()
                );
                thread::sleep(Duration::from_millis(1));
            }
            old.extend(clients);
            wait_for("the last answers", || {
                for client in &mut old {
                    client.receive(&seen);
                }
                old.iter()
                    .all(|client| client.waiting.is_empty())
                    .then_some(())
            });
        })
    };
    (0..UDP_THREADS).map(thread).collect()
}

/// Connects, asks from one to four questions, waiting a little before each but the first, and starts again.
fn tcp_clients(server: SocketAddr, seen: &Arc<Seen>) -> Vec<JoinHandle<()>> {
    let thread = |number| {
        let seen = Arc::clone(seen);
        thread::spawn(move || {
            let mut random = 1_000 + number;
            while !seen.over() {
                let mut stream =
                    tcp_to(server).unwrap_or_else(|error| panic!("cannot connect: {error}"));
                Seen::add(&seen.tcp_connections);
                for question in 0..=random % 4 {
                    if question > 0 {
                        thread::sleep(Duration::from_millis(random % 50));
                    }
                    let message = Ask::new(&name(&mut random), rr::A).message();
                    let answer =
                        send_frame(&mut stream, &message).and_then(|()| read_frame(&mut stream));
                    match answer {
                        Ok(reply) => {
                            let reply = Message::read(&reply).expect("a message");
                            assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
                            Seen::add(&seen.tcp_answered);
                        }
                        Err(_) if question > 0 => {
                            Seen::add(&seen.crossed);
                            break;
                        }
                        Err(error) => panic!("a connection ended before it was answered: {error}"),
                    }
                }
            }
        })
    };
    (0..CONNECTIONS).map(thread).collect()
}

fn replace_under_load(workers: &[usize]) {
    let upstream =
        StandIn::new(|query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]);
    let (server, admin) = (free_address(), free_address());
    let start = |version: usize| {
        let yaml = format!(
            "workers: {}\nhandover: true\nnode_name: version{version}\nshutdown_grace: 5s\n\
             upstreams: {{all: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": all}}",
            workers[version % workers.len()],
            upstream.address
        );
        Nodens::start_at(&[&server.to_string()], &admin.to_string(), &yaml)
    };
    let seen = Arc::new(Seen::default());
    let mut current = start(0);
    let clients: Vec<_> = udp_clients(server, &seen)
        .into_iter()
        .chain(tcp_clients(server, &seen))
        .collect();
    let progress = |what: &AtomicU64, more: u64| {
        let goal = what.load(Ordering::Relaxed) + more;
        wait_for("clients to get answers", || {
            let ended = clients.iter().any(JoinHandle::is_finished);
            assert!(!ended, "a client found fault");
            (what.load(Ordering::Relaxed) >= goal).then_some(())
        });
    };
    for version in 1..=REPLACEMENTS {
        progress(&seen.udp_answered, UDP_RATE / 4);
        progress(&seen.tcp_answered, 100);
        let successor = start(version);
        progress(&seen.udp_answered, UDP_RATE / 4);
        let predecessor = std::mem::replace(&mut current, successor);
        let (status, log) = predecessor.terminate();
        assert!(status.success(), "{status}: {log}");
        wait_for("the successor to have the admin address", || {
            let (_, body) = admin_get(admin, "/status")?;
            body.contains(&format!("version{version}")).then_some(())
        });
    }
    progress(&seen.udp_answered, UDP_RATE / 4);
    seen.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client found fault");
    }
    let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "workers {workers:?}: {} UDP queries, {} TCP connections with {} answers; {} queries crossed a FIN",
        count(&seen.udp_sent),
        count(&seen.tcp_connections),
        count(&seen.tcp_answered),
        count(&seen.crossed)
    );
    assert_eq!(count(&seen.udp_sent), count(&seen.udp_answered));
}

/// A page of the admin endpoint over TCP.
fn admin_get(admin: SocketAddr, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(admin).ok()?;
    stream.set_read_timeout(Some(LOST)).ok()?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

#[test]
#[ignore = "takes a minute, in release"]
fn ten_replacements_lose_no_query_and_reset_no_connection() {
    replace_under_load(&[2]);
}

#[test]
#[ignore = "takes a minute, in release"]
fn nor_do_they_when_the_number_of_workers_changes() {
    replace_under_load(&[1, 3, 2]);
}

#[test]
fn a_second_instance_without_handover_is_refused_by_one_with_it() {
    let upstream =
        StandIn::new(|query, _| vec![response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])]);
    let yaml = format!(
        "upstreams: {{all: {{servers: [\"{}\"]}}}}\nroutes: {{\".\": all}}",
        upstream.address
    );
    let first = Nodens::start(&format!("{yaml}\nhandover: true"));
    let dir = common::TempDir::new();
    let config = format!("listen: [\"{}\"]\nadmin: null\n{yaml}", first.address());
    let output = common::serve_and_fail(&dir.write("nodens.yaml", &config));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    for part in ["listen", &first.address().to_string(), "handover: true"] {
        assert!(said.contains(part), "{part} is not in: {said}");
    }
    let reply = Ask::new("still.example.", rr::A).send(first.address(), Over::Udp);
    assert_eq!(reply.rcode(), rcode::NOERROR);
}

/// A server that has this address for each name.
fn server(last: u8, ttl: u32) -> StandIn {
    StandIn::new(move |query, _| vec![response(query, &[record(rr::A, ttl, &[192, 0, 2, last])])])
}

/// An instance that may have a predecessor on its address.
fn start_warm(listen: SocketAddr, yaml: &str) -> Nodens {
    let yaml = format!("handover: true\nshutdown_grace: 1s\n{yaml}");
    Nodens::start_on(&[&listen.to_string()], &yaml)
}

/// The last octet of the address it has for a name.
fn answer(nodens: &Nodens, name: &str) -> Option<u8> {
    let reply = Ask::new(name, rr::A).send(nodens.address(), Over::Udp);
    let mut answers = reply.section(Section::Answer);
    answers
        .next()
        .and_then(|record| record.rdata.last().copied())
}

fn handed_over(nodens: &Nodens, result: &str) -> u32 {
    let count = nodens.metric("nodens_handover_answers", &[("result", result)]);
    count.to_string().parse().expect("a count")
}

#[test]
fn a_successor_answers_what_its_predecessor_knew_while_no_server_does() {
    let (listen, upstream) = (free_address(), server(7, 300));
    let yaml = format!(
        "upstreams: {{all: {{servers: [\"{}\"]}}}}",
        upstream.address
    );
    let first = start_warm(listen, &yaml);
    for number in 0..50 {
        assert_eq!(answer(&first, &format!("n{number}.example.")), Some(7));
    }
    drop(upstream);
    let second = start_warm(listen, &yaml);
    assert!(handed_over(&second, "taken") >= 50, "{}", second.log());
    assert_eq!(handed_over(&second, "refused"), 0);
    assert!(second.metric("nodens_handover_seconds", &[]) > 0.0);
    let (status, log) = first.terminate();
    assert!(status.success(), "{log}");
    assert!(log.contains("handed the cache over"), "{log}");
    for number in 0..50 {
        assert_eq!(answer(&second, &format!("n{number}.example.")), Some(7));
    }
    // And so on: the successor is a predecessor in its turn.
    let third = wait_for("the successor to hand over", || {
        let third = start_warm(listen, &yaml);
        (handed_over(&third, "taken") >= 50).then_some(third)
    });
    second.terminate();
    assert_eq!(answer(&third, "n0.example."), Some(7));
}

#[test]
fn what_was_stale_is_still_served_by_the_successor_while_its_servers_are_gone() {
    let (listen, upstream) = (free_address(), server(7, 1));
    let yaml = format!(
        "upstreams: {{cluster: {{servers: [\"{}\"]}}}}\nroutes: {{cluster.local: cluster}}",
        upstream.address
    );
    let first = start_warm(listen, &yaml);
    let name = "api.default.svc.cluster.local.";
    assert_eq!(answer(&first, name), Some(7));
    drop(upstream);
    wait_for("the answer to expire", || {
        let mut list = common::nodens();
        list.args(["cache", "list", "--socket"]);
        let list = list
            .arg(first.path("nodens.sock"))
            .output()
            .expect("it runs");
        let list = String::from_utf8(list.stdout).expect("UTF-8");
        list.contains("stale for").then_some(())
    });
    let second = start_warm(listen, &yaml);
    first.terminate();
    assert_eq!(answer(&second, name), Some(7));
    second.wait_for_log("took over");
}

#[test]
fn a_successor_takes_no_answer_of_a_route_that_changed() {
    let listen = free_address();
    let (a, b) = (server(1, 300), server(2, 300));
    let config = |moved: &str| {
        format!(
            "upstreams: {{a: {{servers: [\"{}\"]}}, b: {{servers: [\"{}\"]}}}}\n\
             routes: {{same.: a, moved.: {moved}, more.: a}}",
            a.address, b.address
        )
    };
    let first = start_warm(listen, &config("a"));
    for name in ["x.same.", "x.moved.", "x.own.same.", "x.local.same."] {
        assert_eq!(answer(&first, name), Some(1), "{name}");
    }
    let yaml = config("b").replace("more.: a", "own.same.: b");
    let records = "records: {x.local.same: {A: [192.0.2.3]}}";
    let second = start_warm(listen, &format!("{yaml}\n{records}"));
    first.terminate();
    assert_eq!(handed_over(&second, "taken"), 1, "{}", second.log());
    assert_eq!(handed_over(&second, "refused"), 3);
    drop(a);
    for (name, want) in [
        ("x.same.", 1),
        ("x.moved.", 2),
        ("x.own.same.", 2),
        ("x.local.same.", 3),
    ] {
        assert_eq!(answer(&second, name), Some(want), "{name}");
    }
}

/// Octets of what a successor says first.
const REQUEST: usize = 31;

/// Whoever is met in the predecessor's place, in the same user's name.
fn impostor(
    listen: SocketAddr,
    talk: impl FnOnce(&mut std::os::unix::net::UnixStream) + Send + 'static,
) -> JoinHandle<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    let name = SocketAddr::from_abstract_name(format!("nodens/{listen}/cache")).expect("short");
    let place = UnixListener::bind_addr(&name).expect("nobody is there");
    thread::spawn(move || {
        let (mut stream, _) = place.accept().expect("somebody comes");
        // Closed with anything unread, a stream is reset, and nobody reads what it said.
        std::io::Read::read_exact(&mut stream, &mut [0; REQUEST]).expect("a request");
        talk(&mut stream);
    })
}

#[test]
fn whatever_a_predecessor_says_the_successor_starts_in_time() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    /// `HANDOVER_TIME`, and what a start takes by itself on a busy machine.
    const MOST: Duration = Duration::from_secs(2 + 6);
    type Talk = fn(&mut UnixStream);
    let cases: [(&str, Talk, &str); 7] = [
        (
            "nothing",
            |stream| drop(stream.read_to_end(&mut Vec::new())),
            "starts empty",
        ),
        ("good-bye", |_| {}, "starts empty"),
        (
            "garbage",
            |stream| drop(stream.write_all(&[0xa5; 4096])),
            "another format",
        ),
        (
            "a byte at a time",
            |stream| {
                while stream.write_all(b"n").is_ok() {
                    thread::sleep(Duration::from_millis(50));
                }
            },
            "starts empty",
        ),
        (
            "a length that lies",
            |stream| drop(stream.write_all(b"nodens cache 1\n\xff\xff\xff\xff")),
            "too long",
        ),
        (
            "no setup",
            |stream| drop(stream.write_all(b"nodens cache 1\n\0\0\0\x02[]\0\0\0\0")),
            "setup cannot be read",
        ),
        (
            "an entry that is none",
            |stream| {
                let setup = br#"{"routes":[],"local_names":0,"complete_cnames":true}"#;
                let length = u32::try_from(setup.len()).expect("short").to_be_bytes();
                let frames: [&[u8]; 5] = [
                    b"nodens cache 1\n",
                    &length,
                    setup,
                    b"\0\0\0\x04spam",
                    b"\0\0\0\0",
                ];
                drop(stream.write_all(&frames.concat()));
            },
            "took over the earlier instance's cache taken=0 refused=1",
        ),
    ];
    let upstream = server(7, 300);
    let yaml = format!(
        "upstreams: {{all: {{servers: [\"{}\"]}}}}",
        upstream.address
    );
    for (name, talk, said) in cases {
        let listen = free_address();
        let talking = impostor(listen, talk);
        let start = Instant::now();
        let nodens = start_warm(listen, &yaml);
        assert!(start.elapsed() < MOST, "{name}: {:?}", start.elapsed());
        assert_eq!(answer(&nodens, "www.example."), Some(7), "{name}");
        nodens.wait_for_log(said);
        assert_eq!(handed_over(&nodens, "taken"), 0, "{name}");
        drop(nodens);
        talking.join().expect("it cannot fail");
    }
}
