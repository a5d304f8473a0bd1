//! What a server that is slow, silent or not itself can make the process hold, and what it cannot make clients lose.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use crate::common::dns::{
    Ask, Message, Over, Section, failure, opt, rcode, read_frame, receive, record, response, rr,
    send_frame, udp_to, wire_name,
};
use crate::common::sockets::udp_connected;
use crate::common::stand_in::{StandIn, is_probe};
use crate::common::{Nodens, PATIENCE, free_sockets};
use crate::{MB, enlarge, growth, holds_within, in_mb};

/// A server over UDP whose every answer the test sends itself; probes are answered, so that it counts as good.
struct ByHand {
    address: SocketAddr,
    socket: UdpSocket,
    arrived: Receiver<Arrived>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A query that waits for its answer, and the address it came from.
struct Arrived {
    query: Vec<u8>,
    from: SocketAddr,
}

impl ByHand {
    fn new() -> Self {
        let (socket, _) = free_sockets();
        let address = socket.local_addr().expect("it is bound");
        let stopped = Arc::new(AtomicBool::new(false));
        let (passes_on, arrived) = channel();
        let (serves, stop) = (
            socket.try_clone().expect("a second handle"),
            Arc::clone(&stopped),
        );
        let thread = thread::spawn(move || serve_by_hand(&serves, &passes_on, &stop));
        Self {
            address,
            socket,
            arrived,
            stopped,
            thread: Some(thread),
        }
    }

    /// The next query.
    fn next(&self, what: &str) -> Arrived {
        let query = self.arrived.recv_timeout(PATIENCE);
        query.unwrap_or_else(|error| panic!("no query for {what}: {error}"))
    }

    fn send(&self, message: &[u8], to: SocketAddr) {
        self.socket.send_to(message, to).expect("sent");
    }
}

fn serve_by_hand(socket: &UdpSocket, passes_on: &Sender<Arrived>, stop: &AtomicBool) {
    let mut buffer = [0; 512];
    loop {
        // A port that was closed since the last answer went there is reported here: nothing to do with this query.
        let received = socket.recv_from(&mut buffer);
        if stop.load(Ordering::Acquire) {
            return;
        }
        let Ok((length, from)) = received else {
            continue;
        };
        let query = buffer[..length].to_vec();
        if is_probe(&query) {
            let _ = socket.send_to(&failure(&query, rcode::NXDOMAIN), from);
        } else if passes_on.send(Arrived { query, from }).is_err() {
            return;
        }
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        let woken = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(&[], self.address));
        if woken.is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

/// The right answer.
fn answer(query: &[u8]) -> Vec<u8> {
    response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])
}

fn assert_answered(reply: &Message) {
    assert_eq!(reply.rcode(), rcode::NOERROR, "{reply:?}");
    let records: Vec<_> = reply.section(Section::Answer).collect();
    assert_eq!(records.len(), 1, "{reply:?}");
    assert_eq!(records[0].rdata, [192, 0, 2, 1], "{reply:?}");
}

fn wait_until_good(nodens: &Nodens, server: &str) {
    let labels = [("server", server), ("state", "good")];
    nodens.wait_for_metric("nodens_upstream_state", &labels, 1.0);
}

/// Answers on every connection but the first on which a client's query comes; that one is read and never answered.
fn first_connection_silent() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let connections = Arc::new(AtomicUsize::new(0));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let connections = Arc::clone(&connections);
            thread::spawn(move || {
                let mut number = None;
                while let Ok(query) = read_frame(&mut stream) {
                    // Probes come on connections of their own.
                    let silent = !is_probe(&query)
                        && *number
                            .get_or_insert_with(|| connections.fetch_add(1, Ordering::AcqRel))
                            == 0;
                    if !silent && send_frame(&mut stream, &answer(&query)).is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

#[test]
fn a_connection_that_never_answered_is_given_up_while_queries_keep_coming() {
    /// So few at once that no second connection is opened because the first is crowded.
    const PAUSE: Duration = Duration::from_millis(150);
    /// As long as an answer may take after the connection should have been given up.
    const IN_A_ROW: usize = 10;
    let server = format!("tcp://{}", first_connection_silent());
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams:\n  group:\n    servers: [\"{server}\"]\n    try_timeout: 300ms\n    deadline: 900ms\n    \
         failover: {{hedge_min: 200ms, hedge_max: 200ms}}\n"
    ));
    wait_until_good(&nodens, &server);
    let client = udp_to(nodens.address()).expect("a socket");
    client.set_read_timeout(Some(PAUSE)).expect("settable");
    let started = Instant::now();
    let (mut sent, mut failed, mut in_a_row) = (0, 0, 0);
    while in_a_row < IN_A_ROW {
        assert!(
            started.elapsed() < PATIENCE,
            "{sent} queries in {PATIENCE:?}, {failed} of them failed, and never {IN_A_ROW} in a row were answered"
        );
        let ask = Ask::new(&format!("name{sent}.example."), rr::A);
        client.send(&ask.message()).expect("sent");
        sent += 1;
        // One reply for each pause at most; those that are slow come in a later one.
        if let Ok(bytes) = receive(&client) {
            let reply = Message::read(&bytes).expect("a message");
            if reply.rcode() == rcode::NOERROR {
                in_a_row += 1;
            } else {
                failed += 1;
                in_a_row = 0;
            }
            thread::sleep(PAUSE);
        }
    }
    println!(
        "{failed} of {sent} queries failed, {:?} in all",
        started.elapsed()
    );
}

/// Accepts connections and reads nothing, from buffers that hold next to nothing.
fn never_reads() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("settable");
    // The sender's buffer grows with the segments it may send: loopback's are 64 KiB.
    socket.set_tcp_mss(536).expect("settable");
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    socket.bind(&any.into()).expect("a free port");
    socket.listen(128).expect("listens");
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let held: Vec<_> = listener.incoming().flatten().collect();
        drop(held);
    });
    address
}

/// Asks for `count` names of 255 octets, a few hundred at once, and takes whatever reply comes.
fn ask_long_names(nodens: &Nodens, prefix: &str, count: usize) {
    const AT_ONCE: usize = 400;
    let client = udp_to(nodens.address()).expect("a socket");
    enlarge(&client);
    let label = "n".repeat(63);
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < AT_ONCE {
            let name = format!("{prefix}{sent:06}.{label}.{label}.{label}.closed.");
            // Without RD nothing is remembered of a failure, whose table would grow as well.
            let ask = Ask::new(&name, rr::A).flags(0);
            client.send(&ask.message()).expect("sent");
            sent += 1;
        }
        receive(&client).unwrap_or_else(|error| panic!("{answered} of {count}: {error}"));
        answered += 1;
    }
}

#[test]
fn a_server_that_never_reads_makes_nothing_grow() {
    /// What the same load takes at first: questions in flight, and buffers for them and for the most connections there may be.
    const FIRST: usize = 20_000;
    /// Over 200 octets each: about 12 MB that nobody reads.
    const QUERIES: usize = 50_000;
    const MOST: u64 = 6 * MB;
    let (closed, open) = (never_reads(), StandIn::new(|query, _| vec![answer(query)]));
    let nodens = Nodens::start(&format!(
        "workers: 1\nlimits: {{client_in_flight: 10000}}\nupstreams:\n  closed:\n    servers: [\"tcp://{closed}\"]\n    \
         try_timeout: 10ms\n    deadline: 50ms\n    failover: {{hedge_min: 10ms, hedge_max: 10ms}}\n  \
         open: {{servers: [\"{}\"]}}\nroutes: {{closed.: closed, open.: open}}\n",
        open.address
    ));
    ask_long_names(&nodens, "first", FIRST);
    let before = nodens.rss_bytes();
    ask_long_names(&nodens, "then", QUERIES);
    let after = nodens.rss_bytes();
    println!(
        "{QUERIES} queries that nobody read: {}",
        growth(before, after)
    );
    let reply = Ask::new("name.open.", rr::A).send(nodens.address(), Over::Udp);
    assert_answered(&reply);
    assert!(
        after < before + MOST,
        "{QUERIES} queries that nobody read: {}; at most {:.0} MB",
        growth(before, after),
        in_mb(MOST)
    );
}

/// Octets that are found nowhere but in the TSIG record.
const MARK: &[u8] = b"mark-of-the-tsig-record";

/// A TSIG record as servers with a key append it (RFC 8945 §4.2); its MAC is [`MARK`].
fn tsig() -> Vec<u8> {
    let mut rdata = wire_name("hmac-sha256");
    rdata.extend_from_slice(&[0, 0, 0x66, 0, 0, 0, 1, 44]);
    rdata.extend_from_slice(&u16::try_from(MARK.len()).expect("short").to_be_bytes());
    rdata.extend_from_slice(MARK);
    rdata.extend_from_slice(&[0, 0, 0, 0, 0, 0]);
    let mut record = wire_name("key.example");
    record.extend_from_slice(&rr::TSIG.to_be_bytes());
    record.extend_from_slice(&[0, 255, 0, 0, 0, 0]);
    record.extend_from_slice(&u16::try_from(rdata.len()).expect("short").to_be_bytes());
    record.extend_from_slice(&rdata);
    record
}

#[test]
fn nothing_of_a_tsig_record_reaches_clients_wherever_it_stands() {
    let signed = StandIn::new(|query, _| {
        let (tsig, opt) = (tsig(), opt(1232, 0, false));
        let additional = if query[13..].starts_with(b"before") {
            [tsig, opt]
        } else {
            [opt, tsig]
        };
        let mut message = answer(query);
        message[11] = 2;
        message.extend(additional.concat());
        vec![message]
    });
    let plain = StandIn::new(|query, _| vec![answer(query)]);
    let nodens = Nodens::start(&format!(
        "upstreams:\n  group:\n    servers: [\"{}\", \"{}\"]\n    failover: {{start_fanout: 1}}\n",
        signed.address, plain.address
    ));
    wait_until_good(&nodens, &signed.address.to_string());
    let mut leaked = Vec::new();
    for name in ["after.opt.example.", "before.opt.example."] {
        // The second and third are from the cache.
        for (what, edns) in [
            ("without OPT", None),
            ("with OPT", Some((1232, false))),
            ("without OPT", None),
        ] {
            let ask = Ask {
                edns,
                ..Ask::new(name, rr::A)
            };
            let client = udp_to(nodens.address()).expect("a socket");
            client.send(&ask.message()).expect("sent");
            let bytes = receive(&client).expect("a reply");
            if bytes.windows(MARK.len()).any(|octets| octets == MARK) {
                leaked.push(format!("{name} {what}: {} octets", bytes.len()));
                continue;
            }
            let reply = Message::read(&bytes).expect("a message");
            assert_answered(&reply);
            assert_eq!(reply.records.len(), 1, "{reply:?}");
            assert_eq!(reply.trailing, 0, "{reply:?}");
        }
    }
    assert!(
        !signed.asked().is_empty(),
        "the server with the key is asked first"
    );
    assert!(
        leaked.is_empty(),
        "replies with the TSIG record: {leaked:#?}"
    );
}

#[test]
fn an_answer_to_the_longest_name_is_read() {
    let server = StandIn::new(|query, _| vec![answer(query)]);
    let nodens = Nodens::start(&format!(
        "upstreams: {{group: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    let label = "n".repeat(63);
    let name = format!("{label}.{label}.{label}.{}.", "m".repeat(61));
    assert_eq!(wire_name(&name).len(), 255);
    let reply = Ask::new(&name, rr::A).send(nodens.address(), Over::Udp);
    assert_answered(&reply);
}

#[test]
fn a_port_that_is_guessed_at_is_closed_and_its_question_asked_from_another() {
    const GUESSES: u16 = 200;
    let server = ByHand::new();
    // So long that only the guesses can be the reason for a second query.
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams:\n  group:\n    servers: [\"{}\"]\n    try_timeout: 30s\n    deadline: 60s\n    \
         failover: {{hedge_min: 10s, hedge_max: 10s}}\n",
        server.address
    ));
    wait_until_good(&nodens, &server.address.to_string());
    let client = udp_to(nodens.address()).expect("a socket");
    client.set_read_timeout(Some(PATIENCE)).expect("settable");
    let ask = Ask::new("guessed.example.", rr::A);
    client.send(&ask.message()).expect("sent");
    let first = server.next("the name");
    let started = Instant::now();
    let id = u16::from_be_bytes([first.query[0], first.query[1]]);
    let mut forged = response(&first.query, &[record(rr::A, 300, &[203, 0, 113, 1])]);
    for guess in 1..=GUESSES {
        forged[..2].copy_from_slice(&id.wrapping_add(guess).to_be_bytes());
        server.send(&forged, first.from);
    }
    let labels = [("server", server.address.to_string())];
    let labels = labels.each_ref().map(|(key, value)| (*key, value.as_str()));
    // The hedge would follow after 10 s.
    let second = server.arrived.recv_timeout(Duration::from_secs(6));
    let closed = holds_within(Duration::from_secs(5), || {
        !udp_connected(first.from, server.address)
    });
    let took = started.elapsed();
    nodens.wait_for_metric("nodens_upstream_mismatched_total", &labels, 1.0);
    let ignored = nodens.metric("nodens_upstream_mismatched_total", &labels);
    println!(
        "{GUESSES} guesses, {ignored} of them read; asked again: {}; the port is closed: {closed}; {took:?}",
        second.is_ok()
    );
    let Ok(second) = second else {
        panic!(
            "{GUESSES} guesses, {ignored} read: not asked again after {took:?}; the port is closed: {closed}"
        );
    };
    assert_ne!(first.from, second.from, "another port");
    assert!(closed, "{} still waits for a guess", first.from);
    // A guess that is right comes too late now.
    forged[..2].copy_from_slice(&id.to_be_bytes());
    server.send(&forged, first.from);
    server.send(&answer(&second.query), second.from);
    let reply = Message::read(&receive(&client).expect("a reply")).expect("a message");
    assert_eq!(reply.id, ask.id);
    assert_answered(&reply);
}

#[test]
fn a_question_that_is_guessed_at_on_every_port_is_asked_over_tcp() {
    const GUESSES: u8 = 100;
    let server = StandIn::new(|query, over| {
        if over == Over::Tcp {
            return vec![answer(query)];
        }
        let guess = |number| {
            let mut forged = response(query, &[record(rr::A, 300, &[203, 0, 113, 1])]);
            forged[1] ^= number;
            forged
        };
        (1..=GUESSES).map(guess).collect()
    });
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams: {{group: {{servers: [\"{}\"]}}}}\n",
        server.address
    ));
    wait_until_good(&nodens, &server.address.to_string());
    let started = Instant::now();
    let reply = Ask::new("guessed.example.", rr::A).send(nodens.address(), Over::Udp);
    let took = started.elapsed();
    println!("answered over TCP after {took:?}");
    assert_answered(&reply);
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// A question that both servers were asked.
struct Asked {
    question: Ask,
    client: UdpSocket,
    /// What each server was asked, by the port it came from.
    arrived: [HashMap<SocketAddr, Vec<u8>>; 2],
}

impl Asked {
    fn new(nodens: &Nodens, servers: &[ByHand; 2], name: &str) -> Self {
        let client = udp_to(nodens.address()).expect("a socket");
        let question = Ask::new(name, rr::A).payload(1232);
        client.send(&question.message()).expect("sent");
        let arrived = servers.each_ref().map(|server| {
            loop {
                let Arrived { query, from } = server.next("both servers to be asked");
                // A question that was asked before may be asked again.
                if query[12..].starts_with(&question.question()) {
                    break HashMap::from([(from, query)]);
                }
            }
        });
        Self {
            question,
            client,
            arrived,
        }
    }

    /// Has one of the servers send what it makes of each query.
    fn send(&self, servers: &[ByHand; 2], number: usize, message: impl Fn(&[u8]) -> Vec<u8>) {
        for (from, query) in &self.arrived[number] {
            servers[number].send(&message(query), *from);
        }
    }
}

fn servfail(query: &[u8]) -> Vec<u8> {
    failure(query, rcode::SERVFAIL)
}

/// The process gets no CPU while two servers answer, one of them SERVFAIL, and until the deadline is over. When it goes on,
/// all it can do for the client is to read what has come.
#[test]
fn an_answer_that_has_come_counts_before_a_failure_that_has_come() {
    const DEADLINE: Duration = Duration::from_secs(2);
    let servers = [ByHand::new(), ByHand::new()];
    let addresses = servers.each_ref().map(|server| server.address.to_string());
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams:\n  group:\n    servers: {addresses:?}\n    \
         try_timeout: {DEADLINE:?}\n    deadline: {DEADLINE:?}\n    \
         failover: {{start_fanout: 1, hedge_min: 50ms, hedge_max: 50ms}}\nroutes: {{example.: group}}\n"
    ));
    for address in &addresses {
        wait_until_good(&nodens, address);
    }
    let asked = Instant::now();
    let good_first = Asked::new(&nodens, &servers, "good-first.example.");
    let good_last = Asked::new(&nodens, &servers, "good-last.example.");
    let last_asked = Instant::now();
    nodens.stop();
    assert!(
        asked.elapsed() < DEADLINE / 2,
        "too slow a machine: {:?}",
        asked.elapsed()
    );
    good_first.send(&servers, 0, answer);
    good_first.send(&servers, 1, servfail);
    good_last.send(&servers, 1, servfail);
    good_last.send(&servers, 0, answer);
    // Time itself is the condition: the deadline has to pass.
    thread::sleep((last_asked + DEADLINE).saturating_duration_since(Instant::now()));
    nodens.signal("CONT");

    let wrong: Vec<_> = [good_first, good_last]
        .into_iter()
        .filter_map(|asked| {
            let reply = receive(&asked.client).expect("a reply");
            let reply = Message::read(&reply).expect("a message");
            assert_eq!(reply.id, asked.question.id);
            (reply.rcode() != rcode::NOERROR).then(|| format!("{}: {reply:?}", asked.question.name))
        })
        .collect();
    assert!(
        wrong.is_empty(),
        "not what the good server said: {wrong:#?}"
    );
}

/// The process gets no CPU while its server answers, and until every time is over that a server has to answer. That says
/// nothing of the server.
#[test]
fn who_got_no_cpu_does_not_blame_the_server() {
    /// Beyond *deadline*, and beyond the age at which queries in flight are forgotten.
    const PAUSE: Duration = Duration::from_millis(3_500);
    let server = ByHand::new();
    let address = server.address.to_string();
    let nodens = Nodens::start(&format!(
        "workers: 1\nupstreams:\n  group: {{servers: [{address:?}], try_timeout: 1s, deadline: 3s}}\n\
         routes: {{example.: group}}\n"
    ));
    wait_until_good(&nodens, &address);
    let clients = ["one.example.", "two.example."].map(|name| {
        let client = udp_to(nodens.address()).expect("a socket");
        let question = Ask::new(name, rr::A);
        client.send(&question.message()).expect("sent");
        let arrived = loop {
            let arrived = server.next("the question");
            if arrived.query[12..].starts_with(&question.question()) {
                break arrived;
            }
        };
        (client, arrived)
    });
    nodens.stop();
    for (_, Arrived { query, from }) in &clients {
        server.send(&answer(query), *from);
    }
    // Time itself is the condition.
    thread::sleep(PAUSE);
    nodens.signal("CONT");
    for (client, _) in &clients {
        let reply = receive(client).expect("a reply");
        assert_answered(&Message::read(&reply).expect("a message"));
    }
    let tries = |outcome| nodens.metric("nodens_upstream_tries_total", &[("outcome", outcome)]);
    let labels = [("outcome", "answered")];
    nodens.wait_for_metric("nodens_upstream_tries_total", &labels, 2.0);
    assert!(tries("lost") + tries("unanswered") < 1.0);
    let state = [("server", &*address), ("state", "good")];
    assert!(nodens.metric("nodens_upstream_state", &state) > 0.0);
}
