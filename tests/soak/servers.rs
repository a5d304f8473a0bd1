//! Servers that know made-up zones, of which one after the other has something wrong with it.

use std::collections::VecDeque;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::dns::{
    Over, failure, flag, question_end, rcode, read_frame, record, response, rr, send_frame, tcp_to,
    u16_at,
};
use crate::common::free_sockets;
use crate::common::stand_in::is_probe;

/// Servers of a group. One of them is sick at a time.
pub(crate) const SERVERS: u64 = 3;
/// How late a slow server answers.
const SLOW: Duration = Duration::from_millis(300);
/// Octets of text of a large answer: more than a datagram may have.
const LARGE: usize = 3_000;
const LARGE_TTL: u32 = 20;
/// TTL of a name that many ask for.
const TTL: u32 = 30;
/// TTL of a name that is asked for once, and of denials.
const SHORT_TTL: u32 = 5;

/// What is wrong with a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ailment {
    Silent,
    Fails,
    /// Loses one query in three.
    Loses,
    /// Answers over UDP with TC alone.
    Truncates,
    Slow,
}

const AILMENTS: [Ailment; 5] = [
    Ailment::Silent,
    Ailment::Fails,
    Ailment::Loses,
    Ailment::Truncates,
    Ailment::Slow,
];

/// Who is sick when.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Turns {
    pub(crate) start: Instant,
    pub(crate) length: Duration,
}

impl Turns {
    fn ailment(self, server: u64) -> Option<Ailment> {
        let turn = self.start.elapsed().as_millis() / self.length.as_millis();
        let turn = u64::try_from(turn).expect("a short run");
        let ailment = AILMENTS[usize::try_from(turn).expect("fits") % AILMENTS.len()];
        (turn % SERVERS == server).then_some(ailment)
    }
}

/// A server over UDP and TCP; ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct State {
    number: u64,
    turns: Turns,
    stopped: Arc<AtomicBool>,
}

impl Server {
    /// The server of this number of a group.
    pub(crate) fn new(number: u64, turns: Turns) -> Self {
        let (socket, listener) = free_sockets();
        let address = socket.local_addr().expect("it is bound");
        let stopped = Arc::new(AtomicBool::new(false));
        let state = State {
            number,
            turns,
            stopped: Arc::clone(&stopped),
        };
        let udp = state.clone();
        let threads = vec![
            thread::spawn(move || udp.serve_udp(&socket)),
            thread::spawn(move || state.serve_tcp(&listener)),
        ];
        Self {
            address,
            stopped,
            threads,
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        // Wakes the thread that accepts; the other one looks from time to time.
        if tcp_to(self.address).is_ok() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }
}

impl State {
    fn stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let mut buffer = [0; 4_096];
        let mut late: VecDeque<(Instant, Vec<u8>, SocketAddr)> = VecDeque::new();
        while !self.stopped() {
            let wait = if late.is_empty() { 100 } else { 5 };
            socket
                .set_read_timeout(Some(Duration::from_millis(wait)))
                .expect("not zero");
            if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                let ailment = self.turns.ailment(self.number);
                if let Some(answer) = answer(&buffer[..length], Over::Udp, ailment) {
                    if ailment == Some(Ailment::Slow) {
                        late.push_back((Instant::now() + SLOW, answer, client));
                    } else {
                        // The client may be gone; that is its business.
                        let _ = socket.send_to(&answer, client);
                    }
                }
            }
            while late.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
                let (_, answer, client) = late.pop_front().expect("there is one");
                let _ = socket.send_to(&answer, client);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.stopped() {
                return;
            }
            let state = self.clone();
            // Ends when the client closes the connection.
            thread::spawn(move || state.serve_connection(stream));
        }
    }

    fn serve_connection(&self, mut stream: TcpStream) {
        // A client may leave a connection idle for longer than a test waits for an answer.
        stream.set_read_timeout(None).expect("a flag");
        while let Ok(query) = read_frame(&mut stream) {
            let ailment = self.turns.ailment(self.number);
            if ailment == Some(Ailment::Slow) {
                thread::sleep(SLOW);
            }
            if let Some(answer) = answer(&query, Over::Tcp, ailment)
                && send_frame(&mut stream, &answer).is_err()
            {
                return;
            }
        }
    }
}

/// QNAME as text, in lower case.
fn name(query: &[u8]) -> String {
    let mut text = String::new();
    let mut at = 12;
    while query[at] != 0 {
        let label = &query[at + 1..=at + usize::from(query[at])];
        text.push_str(&String::from_utf8_lossy(label).to_ascii_lowercase());
        text.push('.');
        at += label.len() + 1;
    }
    text
}

fn answer(query: &[u8], over: Over, ailment: Option<Ailment>) -> Option<Vec<u8>> {
    match ailment {
        Some(Ailment::Silent) => return None,
        Some(Ailment::Loses) if over == Over::Udp && fastrand::u8(..3) == 0 => return None,
        Some(Ailment::Fails) => return Some(failure(query, rcode::SERVFAIL)),
        Some(Ailment::Truncates) if over == Over::Udp => return Some(truncated(query)),
        _ => {}
    }
    if is_probe(query) {
        return Some(failure(query, rcode::NXDOMAIN));
    }
    Some(known(query, &name(query), over))
}

/// What a healthy server says of a name.
fn known(query: &[u8], name: &str, over: Over) -> Vec<u8> {
    let qtype = u16_at(query, question_end(query) - 4).expect("a question");
    let in_cluster = name.ends_with("cluster.local.");
    if name.starts_with("nx") || in_cluster && !name.ends_with(".default.svc.cluster.local.") {
        return denial(query);
    }
    if name.starts_with("big") {
        if over == Over::Udp {
            return truncated(query);
        }
        let text = [&[250_u8][..], &[b'x'; 250]].concat().repeat(LARGE / 250);
        return response(query, &[record(rr::TXT, LARGE_TTL, &text)]);
    }
    let ttl = if name.starts_with("once") {
        SHORT_TTL
    } else {
        TTL
    };
    match qtype {
        rr::A => response(query, &[record(rr::A, ttl, &[192, 0, 2, 1])]),
        rr::AAAA => response(query, &[record(rr::AAAA, ttl, &[0xfd; 16])]),
        _ => response(query, &[]),
    }
}

fn truncated(query: &[u8]) -> Vec<u8> {
    let mut message = response(query, &[]);
    message[2] |= (flag::TC >> 8).to_be_bytes()[1];
    message
}

/// NXDOMAIN with the root's SOA.
fn denial(query: &[u8]) -> Vec<u8> {
    let mut message = failure(query, rcode::NXDOMAIN);
    let authorities = 8..10;
    message[authorities].copy_from_slice(&1_u16.to_be_bytes());
    let timers = [1, 3_600, 600, 86_400, SHORT_TTL].map(u32::to_be_bytes);
    let rdata = [&[0, 0][..], &timers.concat()].concat();
    let mut soa = record(rr::SOA, SHORT_TTL, &rdata);
    // The owner is the root, not the question's name.
    soa.splice(..2, [0]);
    message.extend_from_slice(&soa);
    message
}
