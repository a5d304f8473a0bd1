//! Clients over UDP and TCP that ask as pods do and repeat what gets no answer, as glibc does by default.

use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::common::dns::{Ask, Message, Section, flag, rcode, read_frame, rr, send_frame, tcp_to};

/// Lookups that the clients over UDP begin in a second. A lookup with a search path is several queries.
const LOOKUPS_PER_SECOND: f64 = 130.0;
/// resolv.conf(5): the default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(5);
/// resolv.conf(5): the default of `attempts`.
const ATTEMPTS: u32 = 2;
/// An answer that takes longer is counted.
const LATE: Duration = Duration::from_secs(1);
/// Names that are asked for again and again.
const POPULAR: u32 = 200;

/// A query that was not answered at its first try.
#[derive(Debug, Clone)]
pub(crate) struct Fault {
    pub(crate) from: Instant,
    pub(crate) to: Instant,
    /// Not answered at its last try either.
    pub(crate) lost: bool,
    pub(crate) what: String,
}

/// What all clients of an address saw.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    over: AtomicBool,
    pub(crate) udp: AtomicU64,
    pub(crate) tcp: AtomicU64,
    pub(crate) connections: AtomicU64,
    /// A further query on an idle connection crossed a FIN: the client repeats it (RFC 7766 §6.2.4).
    pub(crate) crossed: AtomicU64,
    pub(crate) denied: AtomicU64,
    pub(crate) truncated: AtomicU64,
    pub(crate) late: AtomicU64,
    pub(crate) faults: Mutex<Vec<Fault>>,
    /// Questions whose answers were truncated.
    large: Mutex<VecDeque<Ask>>,
}

impl Seen {
    fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    fn fault(&self, from: Instant, lost: bool, what: String) {
        let to = Instant::now();
        let fault = Fault {
            from,
            to,
            lost,
            what,
        };
        self.faults
            .lock()
            .expect("no thread panics with it")
            .push(fault);
    }
}

/// Clients of one address; they end when told.
pub(crate) struct Clients {
    pub(crate) seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    /// `number` seeds their randomness.
    pub(crate) fn start(server: SocketAddr, number: u64) -> Self {
        let seen = Arc::new(Seen::default());
        let (udp, tcp) = (Arc::clone(&seen), Arc::clone(&seen));
        let threads = vec![
            thread::spawn(move || ask_over_udp(server, fastrand::Rng::with_seed(number), &udp)),
            thread::spawn(move || ask_over_tcp(server, fastrand::Rng::with_seed(!number), &tcp)),
        ];
        Self { seen, threads }
    }

    /// Has them finish what they began.
    pub(crate) fn stop(self) -> Arc<Seen> {
        self.seen.over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client found fault");
        }
        self.seen
    }

    /// Fails if a client found something that must not be.
    pub(crate) fn check(&self) {
        let ended = self.threads.iter().any(JoinHandle::is_finished);
        assert!(!ended, "a client found fault");
    }
}

/// Questions one after the other, of which the first that is not denied ends the lookup.
fn lookup(random: &mut fastrand::Rng) -> VecDeque<Ask> {
    let qtype = if random.bool() { rr::A } else { rr::AAAA };
    let popular = random.u32(..POPULAR);
    let new = random.u64(..);
    let one = |name: String| VecDeque::from([Ask::new(&name, qtype).payload(1_232)]);
    match random.u32(..100) {
        0..50 => one(format!("n{popular}.example.")),
        50..65 => one(format!("once{new}.example.")),
        65..69 => one(format!("nx{popular}.example.")),
        69..73 => one(format!("nx{new}.example.")),
        73..78 => {
            let name = format!("big{}.example.", popular % 20);
            VecDeque::from([Ask::new(&name, rr::TXT).payload(1_232)])
        }
        78..83 => one(format!("svc{popular}.default.svc.cluster.local.")),
        _ => [
            "build.svc.cluster.local.",
            "svc.cluster.local.",
            "cluster.local.",
            "",
        ]
        .iter()
        .map(|suffix| Ask::new(&format!("www{}.example.com.{suffix}", popular % 50), qtype))
        .collect(),
    }
}

/// A query on its way.
struct Asking {
    /// The question, and those that follow if it is denied.
    questions: VecDeque<Ask>,
    socket: UdpSocket,
    begun: Instant,
    sent: Instant,
    tries: u32,
    /// What went wrong with earlier tries.
    wrong: Option<String>,
}

/// What became of a try.
enum Outcome {
    Waits,
    Answered(Message),
    Failed(String),
}

impl Asking {
    fn new(server: SocketAddr, questions: VecDeque<Ask>) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        let now = Instant::now();
        let mut asking = Self {
            questions,
            socket,
            begun: now,
            sent: now,
            tries: 0,
            wrong: None,
        };
        asking.send();
        Ok(asking)
    }

    fn question(&self) -> &Ask {
        self.questions.front().expect("taken only at the end")
    }

    fn send(&mut self) {
        self.tries += 1;
        self.sent = Instant::now();
        // The error of an earlier try may be told here; then this try is sent by the next call.
        for _ in 0..2 {
            if self.socket.send(&self.question().message()).is_ok() {
                return;
            }
        }
    }

    fn outcome(&self) -> Outcome {
        let mut buffer = [0; 2_048];
        match self.socket.recv(&mut buffer) {
            Ok(length) => {
                let reply = Message::read(&buffer[..length]).expect("a message");
                let asked = self.question();
                assert_eq!((reply.id, &reply.question), (asked.id, &asked.question()));
                match reply.rcode() {
                    rcode::NOERROR | rcode::NXDOMAIN => Outcome::Answered(reply),
                    code => Outcome::Failed(format!("RCODE {code}")),
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if self.sent.elapsed() > TIMEOUT {
                    Outcome::Failed("no answer".to_owned())
                } else {
                    Outcome::Waits
                }
            }
            Err(error) => Outcome::Failed(error.to_string()),
        }
    }

    /// Whether it waits for more.
    fn go_on(&mut self, seen: &Seen) -> bool {
        match self.outcome() {
            Outcome::Waits => true,
            Outcome::Answered(reply) => self.take(&reply, seen),
            Outcome::Failed(why) => {
                let what = format!(
                    "{} TYPE{}: {why}",
                    self.question().name,
                    self.question().qtype
                );
                self.wrong = Some(what.clone());
                if self.tries < ATTEMPTS {
                    self.send();
                    return true;
                }
                seen.fault(self.begun, true, what);
                false
            }
        }
    }

    fn take(&mut self, reply: &Message, seen: &Seen) -> bool {
        Seen::add(&seen.udp);
        if self.begun.elapsed() > LATE {
            Seen::add(&seen.late);
        }
        if let Some(what) = self.wrong.take() {
            seen.fault(self.begun, false, what);
        }
        let question = self.questions.pop_front().expect("it was asked");
        check(&question, reply);
        if reply.rcode() == rcode::NXDOMAIN {
            Seen::add(&seen.denied);
        } else {
            self.questions.clear();
        }
        if reply.has(flag::TC) {
            Seen::add(&seen.truncated);
            let mut large = seen.large.lock().expect("no thread panics with it");
            large.push_back(question);
        }
        if self.questions.is_empty() {
            return false;
        }
        self.begun = Instant::now();
        self.tries = 0;
        self.send();
        true
    }
}

/// Fails if this is not what the servers know.
fn check(question: &Ask, reply: &Message) {
    let name = &question.name;
    let denied = name.starts_with("nx")
        || name.ends_with("cluster.local.") && !name.ends_with(".default.svc.cluster.local.");
    assert_eq!(
        reply.rcode() == rcode::NXDOMAIN,
        denied,
        "{name}: {reply:?}"
    );
    let whole = !denied && !reply.has(flag::TC);
    let expected = usize::from(whole);
    assert_eq!(reply.count(Section::Answer), expected, "{name}: {reply:?}");
}

fn ask_over_udp(server: SocketAddr, mut random: fastrand::Rng, seen: &Seen) {
    let start = Instant::now();
    let mut begun = 0.0;
    let mut asking: Vec<Asking> = Vec::new();
    while !seen.over() || !asking.is_empty() {
        while !seen.over() && begun < start.elapsed().as_secs_f64() * LOOKUPS_PER_SECOND {
            let questions = lookup(&mut random);
            asking.push(Asking::new(server, questions).expect("a socket"));
            begun += 1.0;
        }
        asking.retain_mut(|asking| asking.go_on(seen));
        // Only keeps the loop from spinning.
        thread::sleep(Duration::from_millis(3));
    }
}

/// A connection with one to four questions, with pauses between them, again and again; and what did not fit a datagram.
fn ask_over_tcp(server: SocketAddr, mut random: fastrand::Rng, seen: &Seen) {
    while !seen.over() {
        let large = || {
            seen.large
                .lock()
                .expect("no thread panics with it")
                .pop_front()
        };
        let mut stream = None;
        for number in 0..=random.u32(..4) {
            if number > 0 {
                thread::sleep(Duration::from_millis(random.u64(20..80)));
            }
            let question = large().unwrap_or_else(|| {
                // Those that follow are for whoever has a search path.
                lookup(&mut random).pop_front().expect("a question")
            });
            ask_on(&mut stream, server, &question, seen);
        }
    }
}

/// Asks on the connection, or on a new one if there is none or it ends.
fn ask_on(stream: &mut Option<TcpStream>, server: SocketAddr, question: &Ask, seen: &Seen) {
    let begun = Instant::now();
    let mut wrong = None;
    let mut tries = 0;
    while tries < ATTEMPTS {
        let used = stream.is_some();
        match exchange(stream, server, question, seen) {
            Ok(reply) => {
                Seen::add(&seen.tcp);
                if begun.elapsed() > LATE {
                    Seen::add(&seen.late);
                }
                check(question, &reply);
                if let Some(what) = wrong {
                    seen.fault(begun, false, what);
                }
                return;
            }
            Err(_) if used => Seen::add(&seen.crossed),
            Err(error) => {
                wrong = Some(format!("{} over TCP: {error}", question.name));
                tries += 1;
            }
        }
        *stream = None;
    }
    seen.fault(begun, true, wrong.expect("a try failed"));
}

fn exchange(
    stream: &mut Option<TcpStream>,
    server: SocketAddr,
    question: &Ask,
    seen: &Seen,
) -> io::Result<Message> {
    if stream.is_none() {
        *stream = Some(tcp_to(server)?);
        Seen::add(&seen.connections);
    }
    let stream = stream.as_mut().expect("set above");
    stream.set_read_timeout(Some(TIMEOUT))?;
    send_frame(stream, &question.message())?;
    let reply = Message::read(&read_frame(stream)?).expect("a message");
    assert_eq!(reply.question, question.question());
    assert!(!reply.has(flag::TC), "truncated over TCP: {reply:?}");
    match reply.rcode() {
        rcode::NOERROR | rcode::NXDOMAIN => Ok(reply),
        code => Err(io::Error::other(format!("RCODE {code}"))),
    }
}
