//! The load: queries at times fixed beforehand (open loop: a slow reply delays no later query), from many client
//! addresses as a node's pods have, and what became of each.
//!
//! A query's latency counts from the moment it was sent. How late the generator itself was is kept beside, so that a
//! busy machine is not mistaken for a slow resolver.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::message::{self, Outcome, Reply};

/// glibc's default: after this long a client has given up (resolv.conf(5), `timeout`).
pub(crate) const LOST: Duration = Duration::from_secs(5);
/// Client addresses, 127.1.0.1 and up: pods of a node. Each has its own share of the resolver's caps.
const CLIENTS: usize = 16;
/// How long a receiver waits before it looks whether the load is over.
const LOOK: Duration = Duration::from_millis(50);

/// Which names are asked for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Names {
    /// Another one each time.
    New,
    /// These many in turn.
    Repeated(usize),
    /// One that no server answers, its A and its AAAA records in turn, as stub resolvers ask.
    Never,
}

/// A load to be put on a resolver.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    pub(crate) target: SocketAddr,
    pub(crate) qps: u32,
    pub(crate) duration: Duration,
    pub(crate) names: Names,
    /// A label that no other case uses; with [`Names::Repeated`] the same label gives the same names.
    pub(crate) label: String,
}

/// What became of a query.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    /// When it was sent.
    pub(crate) sent: Instant,
    /// The first reply and how long it took; none within [`LOST`].
    pub(crate) reply: Option<(Duration, Reply)>,
}

impl Record {
    /// Whether the right records came in time.
    pub(crate) fn right(&self) -> bool {
        matches!(self.reply, Some((_, reply)) if reply.outcome == Outcome::Right)
    }
}

/// What became of a load.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) records: Vec<Record>,
    /// Replies beyond the first, and those that no query asked for.
    pub(crate) surplus: u64,
    /// How late a query left at worst.
    pub(crate) lateness: Duration,
}

/// A load that runs on its own threads.
pub(crate) struct Running {
    pub(crate) start: Instant,
    thread: thread::JoinHandle<Results>,
}

impl Running {
    /// Waits until every query is answered or lost.
    pub(crate) fn results(self) -> Results {
        self.thread
            .join()
            .expect("a load's thread panicked; its message is above")
    }
}

/// One client's queries: what the sender tells the receiver.
struct Client {
    socket: UdpSocket,
    /// Nanoseconds after the start at which each was sent, 0 for not yet; a query's ID is its index.
    sent: Vec<AtomicU64>,
    /// The wire name of each.
    names: Vec<Vec<u8>>,
    qtypes: [u16; 2],
    done: AtomicBool,
}

impl Load {
    /// Starts sending at once.
    pub(crate) fn start(self) -> Running {
        let total = self.qps as usize * self.duration.as_millis() as usize / 1000;
        let mut names: Vec<Vec<Vec<u8>>> = vec![Vec::new(); CLIENTS];
        for number in 0..total {
            names[number % CLIENTS].push(self.name(number));
        }
        let client = |(index, names): (usize, Vec<Vec<u8>>)| {
            Arc::new(Client {
                socket: self.socket(index),
                sent: names.iter().map(|_| AtomicU64::new(0)).collect(),
                names,
                qtypes: match self.names {
                    Names::Never => [message::A, message::AAAA],
                    Names::New | Names::Repeated(_) => [message::A; 2],
                },
                done: AtomicBool::new(false),
            })
        };
        let clients: Vec<Arc<Client>> = names.into_iter().enumerate().map(client).collect();
        let interval = Duration::from_secs(1) / self.qps;
        let start = Instant::now();
        let thread = thread::spawn(move || run(&clients, total, interval, start));
        Running { start, thread }
    }

    /// Runs to the end.
    pub(crate) fn run(self) -> Results {
        self.start().results()
    }

    fn name(&self, number: usize) -> Vec<u8> {
        let label = &self.label;
        message::wire_name(&match self.names {
            Names::New => format!("n{number}.{label}.suite.example"),
            Names::Repeated(count) => format!("r{}.{label}.suite.example", number % count),
            Names::Never => format!("never.{label}.suite.example"),
        })
    }

    fn socket(&self, index: usize) -> UdpSocket {
        let ip = Ipv4Addr::new(127, 1, 0, u8::try_from(index + 1).expect("few clients"));
        let socket = UdpSocket::bind((ip, 0)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        socket
            .connect(self.target)
            .and_then(|()| socket.set_read_timeout(Some(LOOK)))
            .unwrap_or_else(|error| panic!("{}: {error}", self.target));
        socket
    }
}

fn run(clients: &[Arc<Client>], total: usize, interval: Duration, start: Instant) -> Results {
    let receive = |client: &Arc<Client>| {
        let client = Arc::clone(client);
        thread::spawn(move || receive(&client, start))
    };
    let receivers: Vec<_> = clients.iter().map(receive).collect();
    let mut lateness = Duration::ZERO;
    let mut query = Vec::new();
    for number in 0..total {
        let due = start + interval * u32::try_from(number).expect("a short load");
        let now = Instant::now();
        thread::sleep(due.saturating_duration_since(now));
        let client = &clients[number % clients.len()];
        let index = number / clients.len();
        let id = u16::try_from(index).expect("fewer than 65,536 queries a client");
        message::query(
            id,
            &client.names[index],
            client.qtypes[index % 2],
            &mut query,
        );
        let now = Instant::now();
        lateness = lateness.max(now.saturating_duration_since(due));
        let nanos = u64::try_from((now - start).as_nanos()).expect("a short load");
        client.sent[index].store(nanos.max(1), Ordering::Release);
        // A refusal by ICMP to an earlier query is that query's loss.
        let _ = client.socket.send(&query);
    }
    for client in clients {
        client.done.store(true, Ordering::Release);
    }
    let mut results = Results {
        lateness,
        ..Results::default()
    };
    for receiver in receivers {
        let (records, surplus) = receiver.join().expect("a receiver panicked; see above");
        results.records.extend(records);
        results.surplus += surplus;
    }
    results.records.sort_by_key(|record| record.sent);
    results
}

fn receive(client: &Client, start: Instant) -> (Vec<Record>, u64) {
    let mut replies: Vec<Option<(Duration, Reply)>> = vec![None; client.names.len()];
    let (mut missing, mut surplus) = (replies.len(), 0);
    let mut buffer = [0; 4096];
    let sent_at = |index: usize| {
        let nanos = client.sent[index].load(Ordering::Acquire);
        (nanos > 0).then(|| start + Duration::from_nanos(nanos))
    };
    loop {
        let received = client.socket.recv(&mut buffer);
        let now = Instant::now();
        match received {
            Ok(length) if length >= 2 => {
                let index = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
                let known = client.names.get(index).zip(sent_at(index));
                let reply = known.and_then(|(name, sent)| {
                    let reply =
                        message::read_reply(&buffer[..length], name, client.qtypes[index % 2])?;
                    Some((now - sent, reply))
                });
                match (reply, replies.get_mut(index)) {
                    (Some(reply), Some(slot @ None)) if reply.0 <= LOST => {
                        *slot = Some(reply);
                        missing -= 1;
                    }
                    _ => surplus += 1,
                }
            }
            Ok(_) => surplus += 1,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::ConnectionRefused
                ) => {}
            Err(error) => panic!("a client's socket: {error}"),
        }
        let last = client.sent.len().checked_sub(1).and_then(sent_at);
        let over = last.is_none_or(|last| now > last + LOST);
        if client.done.load(Ordering::Acquire) && (missing == 0 || over) {
            break;
        }
    }
    let record = |(index, reply)| Record {
        sent: sent_at(index).expect("all were sent"),
        reply,
    };
    let records = replies.into_iter().enumerate().map(record).collect();
    (records, surplus)
}
