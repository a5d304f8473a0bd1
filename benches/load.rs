//! A load generator: what dnsperf 2.10 does not have, namely percentiles of latency, thousands of TCP connections, and
//! one core that can outrun a fast server.
//!
//! One thread. `--rate` paces queries evenly and measures each; `--outstanding` keeps so many in flight, as fast as
//! they are answered. Every reply is compared with its query (ID and question) and its RCODE counted, so that a server
//! which fails fast does not look fast. Prints one JSON object.
//!
//!     cargo run --release --example load -- --server 127.0.0.1:5300 --queries names.txt --rate 20000
//!
//! Latency runs from before the system call that sends to after the one that receives, so it includes this program's
//! own turn in the receive loop: with `--spin`, which never sleeps, a few microseconds.

mod epoll;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{BorrowedFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Parser;
use epoll::{Epoll, Wait};
use nodens::net::batch::{MAX_BATCH, ReceiveBatch, SendBatch};
use nodens::net::process::raise_file_limit;

/// Octets of a message before its question (RFC 1035 §4.1.1).
const HEADER: usize = 12;

/// A query not answered after this long is lost, and another takes its place.
const PATIENCE: Duration = Duration::from_secs(2);

/// After the last query: when nothing came for this long, nothing will.
const SILENCE: Duration = Duration::from_millis(300);

/// Longest reply read over UDP.
const REPLY_LEN: usize = 4096;

/// A query that leaves later than this after its time counts as late: the machine was busy with something else.
const LATE: Duration = Duration::from_millis(1);

#[derive(Parser)]
#[command(about = "A DNS load generator that measures each query")]
struct Arguments {
    /// The server under load.
    #[arg(long)]
    server: SocketAddr,
    /// Lines of NAME TYPE, asked in turn, over and over.
    #[arg(long)]
    queries: PathBuf,
    /// Queries a second, evenly spaced.
    #[arg(long, required_unless_present = "outstanding")]
    rate: Option<u32>,
    /// Queries in flight, as fast as they are answered.
    #[arg(long, conflicts_with = "rate")]
    outstanding: Option<usize>,
    /// Over TCP, pipelined.
    #[arg(long)]
    tcp: bool,
    /// Sockets or connections, used in turn.
    #[arg(long, default_value_t = 10)]
    sockets: usize,
    /// Inherited UDP sockets, connected to the server, in place of own ones: they may be of other network namespaces.
    /// Each sends one query, and then the next socket has its turn.
    #[arg(long, value_delimiter = ',', conflicts_with_all = ["sockets", "tcp"])]
    fds: Vec<RawFd>,
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Queries carry EDNS with this payload size; none without.
    #[arg(long)]
    edns: Option<u16>,
    /// The file is asked once at most.
    #[arg(long)]
    once: bool,
    /// Never sleep: the CPU is this program's alone.
    #[arg(long)]
    spin: bool,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    raise_file_limit()?;
    let queries = Queries::read(&arguments.queries, arguments.edns)?;
    let mut load = Load::open(&arguments, &queries)?;
    let started = Instant::now();
    match (arguments.rate, arguments.outstanding) {
        (Some(rate), _) => load.pace(rate)?,
        (None, outstanding) => load.flood(outstanding.unwrap_or(1))?,
    }
    let took = started.elapsed();
    load.wait_for_the_rest()?;
    println!("{}", load.tally.report(took));
    Ok(())
}

/// The messages to be sent, one after the other in one buffer.
struct Queries {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// What follows each question: an OPT record or nothing.
    opt: Vec<u8>,
}

impl Queries {
    fn read(file: &Path, edns: Option<u16>) -> anyhow::Result<Self> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let mut queries = Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            opt: edns.map_or_else(Vec::new, |payload| {
                let [high, low] = payload.to_be_bytes();
                vec![0, 0, 41, high, low, 0, 0, 0, 0, 0, 0]
            }),
        };
        for (number, line) in text.lines().enumerate() {
            let at = || format!("{}:{}: {line}", file.display(), number + 1);
            queries.push(line).with_context(at)?;
        }
        if queries.ends.is_empty() {
            bail!("{}: no queries", file.display());
        }
        Ok(queries)
    }

    fn push(&mut self, line: &str) -> anyhow::Result<()> {
        let (name, kind) = line.split_once(' ').context("want NAME TYPE")?;
        let kind: u16 = match kind {
            "A" => 1,
            "AAAA" => 28,
            "TXT" => 16,
            _ => bail!("want type A, AAAA or TXT"),
        };
        // ID 0, RD set, one question.
        let additional = u8::from(!self.opt.is_empty());
        let header = [0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, additional];
        self.bytes.extend(header);
        for label in name.split('.').filter(|label| !label.is_empty()) {
            let length = u8::try_from(label.len()).ok().filter(|length| *length < 64);
            self.bytes
                .push(length.context("a label has 1 to 63 octets")?);
            self.bytes.extend(label.as_bytes());
        }
        self.bytes.push(0);
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend([0, 1]);
        self.bytes.extend(&self.opt);
        self.ends.push(self.bytes.len());
        Ok(())
    }

    fn len(&self) -> usize {
        self.ends.len()
    }

    /// The `number`-th query, with ID 0.
    fn get(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start..self.ends[number]]
    }

    /// The question of the `number`-th query.
    fn question(&self, number: usize) -> &[u8] {
        let query = self.get(number);
        &query[HEADER..query.len() - self.opt.len()]
    }
}

/// What came of the queries.
#[derive(Default)]
struct Tally {
    sent: u64,
    answered: u64,
    lost: u64,
    /// Replies to no query that waits: late, or another's.
    unexpected: u64,
    late_sends: u64,
    /// Connections that the server closed while queries waited on them; these were asked again on a new one.
    reconnects: u64,
    rcodes: BTreeMap<u8, u64>,
    reply_bytes: u64,
    nanoseconds: Vec<u32>,
}

impl Tally {
    fn report(&mut self, took: Duration) -> String {
        self.nanoseconds.sort_unstable();
        let sorted = &self.nanoseconds;
        let mut text = format!(
            r#"{{"seconds": {:.4}, "sent": {}, "answered": {}, "lost": {}, "unexpected": {}, "late_sends": {}, "reconnects": {}"#,
            took.as_secs_f64(),
            self.sent,
            self.answered,
            self.lost,
            self.unexpected,
            self.late_sends,
            self.reconnects,
        );
        let _ = write!(
            text,
            r#", "reply_bytes": {}, "rcodes": {{"#,
            self.reply_bytes
        );
        for (index, (rcode, count)) in self.rcodes.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(text, r#"{comma}"{}": {count}"#, rcode_name(*rcode));
        }
        text.push_str(r#"}, "latency_us": {"#);
        // Nearest rank: the smallest value that so many per mille do not exceed.
        for (name, per_mille) in [("p50", 500), ("p90", 900), ("p99", 990), ("p99.9", 999)] {
            let rank = (sorted.len() * per_mille).div_ceil(1000).max(1) - 1;
            let value = sorted.get(rank).copied().unwrap_or(0);
            let _ = write!(text, r#""{name}": {:.2}, "#, f64::from(value) / 1e3);
        }
        let most = sorted.last().copied().unwrap_or(0);
        let _ = write!(text, r#""max": {:.2}}}}}"#, f64::from(most) / 1e3);
        text
    }
}

fn rcode_name(rcode: u8) -> String {
    match rcode {
        0 => "NOERROR".into(),
        1 => "FORMERR".into(),
        2 => "SERVFAIL".into(),
        3 => "NXDOMAIN".into(),
        4 => "NOTIMP".into(),
        5 => "REFUSED".into(),
        other => format!("RCODE{other}"),
    }
}

/// A query that waits for its reply.
#[derive(Clone, Copy)]
struct Waiting {
    sent: Instant,
    query: u32,
    id: u16,
}

/// Queries of one socket by the low bits of their ID.
struct Slots {
    waiting: Vec<Option<Waiting>>,
    next_id: u16,
}

impl Slots {
    fn new(count: usize) -> Self {
        Self {
            waiting: vec![None; count],
            next_id: 0,
        }
    }

    /// Lists a query; returns its ID, and whether one that waited too long had to go for it.
    fn list(&mut self, query: usize, sent: Instant) -> (u16, Option<Waiting>) {
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        let slot = usize::from(id) & (self.waiting.len() - 1);
        let waiting = Waiting {
            sent,
            query: u32::try_from(query)
                .expect("a file of over four billion lines does not fit memory"),
            id,
        };
        (id, self.waiting[slot].replace(waiting))
    }

    /// Settles a reply; false if nothing waits for it.
    fn settle(&mut self, reply: &[u8], queries: &Queries, now: Instant, tally: &mut Tally) -> bool {
        let Some((header, _)) = reply.split_at_checked(HEADER) else {
            tally.unexpected += 1;
            return false;
        };
        let id = u16::from_be_bytes([header[0], header[1]]);
        let slot = usize::from(id) & (self.waiting.len() - 1);
        let matches = self.waiting[slot].filter(|waiting| {
            let question = queries.question(waiting.query as usize);
            waiting.id == id && header[2] & 0x80 != 0 && reply[HEADER..].starts_with(question)
        });
        let Some(waiting) = matches else {
            tally.unexpected += 1;
            return false;
        };
        self.waiting[slot] = None;
        tally.answered += 1;
        tally.reply_bytes += reply.len() as u64;
        *tally.rcodes.entry(header[3] & 0x0f).or_default() += 1;
        let took = now.saturating_duration_since(waiting.sent).as_nanos();
        tally
            .nanoseconds
            .push(u32::try_from(took).unwrap_or(u32::MAX));
        true
    }

    /// Gives up on what waits longer than [`PATIENCE`]; returns how many.
    fn expire(&mut self, now: Instant) -> u64 {
        let mut lost = 0;
        for slot in &mut self.waiting {
            if slot.is_some_and(|waiting| now.saturating_duration_since(waiting.sent) > PATIENCE) {
                *slot = None;
                lost += 1;
            }
        }
        lost
    }
}

enum Transport {
    Udp(UdpSocket),
    Tcp(Connection),
}

struct Connection {
    stream: TcpStream,
    /// Bytes of a reply that is not whole yet.
    partial: Vec<u8>,
    /// Bytes the kernel would not take yet.
    unsent: Vec<u8>,
}

struct Client {
    transport: Transport,
    slots: Slots,
}

struct Load<'a> {
    arguments: &'a Arguments,
    queries: &'a Queries,
    clients: Vec<Client>,
    epoll: Epoll,
    receive: ReceiveBatch,
    send: SendBatch,
    buffer: Vec<u8>,
    next_query: usize,
    next_client: usize,
    /// Queries sent over one socket before the next has its turn, at most.
    burst: usize,
    tally: Tally,
}

impl<'a> Load<'a> {
    fn open(arguments: &'a Arguments, queries: &'a Queries) -> anyhow::Result<Self> {
        let count = match arguments.fds.len() {
            0 => arguments.sockets,
            inherited => inherited,
        };
        // Many sockets share the load, so each needs to remember less. A power of two, for the mask.
        let slots = if count > 64 { 512 } else { 16_384 };
        let epoll = Epoll::new(256)?;
        let mut clients = Vec::with_capacity(count);
        for number in 0..count {
            let transport = if arguments.tcp {
                let connection = Connection::open(arguments.server)
                    .with_context(|| format!("connection {number} to {}", arguments.server))?;
                epoll.add(&connection.stream, number as u64, 0)?;
                Transport::Tcp(connection)
            } else {
                let socket = match arguments.fds.get(number) {
                    Some(&descriptor) => inherit_udp(descriptor, arguments.server)
                        .with_context(|| format!("--fds: descriptor {descriptor}"))?,
                    None => connect_udp(arguments.server)?,
                };
                epoll.add(&socket, number as u64, 0)?;
                Transport::Udp(socket)
            };
            let slots = Slots::new(slots);
            clients.push(Client { transport, slots });
        }
        Ok(Self {
            arguments,
            queries,
            clients,
            epoll,
            receive: ReceiveBatch::new(MAX_BATCH, REPLY_LEN),
            send: SendBatch::new(2_048, MAX_BATCH),
            buffer: vec![0; 1 << 18],
            next_query: 0,
            next_client: 0,
            burst: if arguments.fds.is_empty() {
                MAX_BATCH
            } else {
                1
            },
            tally: Tally::default(),
        })
    }

    /// Whether the file was asked through and must not be asked again.
    fn used_up(&self) -> bool {
        self.arguments.once && self.next_query >= self.queries.len()
    }

    /// Sends evenly spaced queries.
    fn pace(&mut self, rate: u32) -> anyhow::Result<()> {
        let gap = Duration::from_secs(1) / rate;
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.arguments.seconds);
        let mut due = started;
        loop {
            let now = Instant::now();
            if now >= end || self.used_up() {
                return Ok(());
            }
            if now >= due {
                self.tally.late_sends += u64::from(now - due > LATE);
                self.send_next(1);
                due += gap;
            }
            let wait = match due.checked_duration_since(Instant::now()) {
                Some(wait) if !self.arguments.spin => Wait::AtMost(wait),
                _ => Wait::Not,
            };
            self.receive_what_is_there(wait)?;
        }
    }

    /// Keeps a number of queries in flight.
    fn flood(&mut self, outstanding: usize) -> anyhow::Result<()> {
        let started = Instant::now();
        let end = started + Duration::from_secs_f64(self.arguments.seconds);
        let mut left = outstanding;
        while left > 0 {
            let share = left
                .min(outstanding.div_ceil(self.clients.len()))
                .min(self.burst);
            self.send_next(share);
            left -= share;
        }
        let mut next_look = started + PATIENCE;
        loop {
            let now = Instant::now();
            if now >= end || self.used_up() {
                return Ok(());
            }
            let mut answered = self.receive_what_is_there(Wait::AtMost(PATIENCE / 4))?;
            if now >= next_look {
                next_look = now + PATIENCE / 4;
                answered += self.expire(now);
            }
            while answered > 0 {
                let share = answered.min(self.burst);
                self.send_next(share);
                answered -= share;
            }
        }
    }

    fn expire(&mut self, now: Instant) -> usize {
        let clients = self.clients.iter_mut();
        let lost: u64 = clients.map(|client| client.slots.expire(now)).sum();
        self.tally.lost += lost;
        usize::try_from(lost).expect("it fits memory")
    }

    /// Sends the next `count` queries, at most [`MAX_BATCH`], over the next socket.
    fn send_next(&mut self, count: usize) {
        let turn = self.next_client;
        self.next_client = (turn + 1) % self.clients.len();
        let client = &mut self.clients[turn];
        let now = Instant::now();
        for _ in 0..count {
            let number = self.next_query % self.queries.len();
            if self.arguments.once && self.next_query >= self.queries.len() {
                break;
            }
            self.next_query += 1;
            let query = self.queries.get(number);
            let (id, displaced) = client.slots.list(number, now);
            self.tally.lost += u64::from(displaced.is_some());
            self.tally.sent += 1;
            match &mut client.transport {
                Transport::Udp(socket) if self.burst == 1 => {
                    let datagram = &mut self.buffer[..query.len()];
                    datagram.copy_from_slice(query);
                    datagram[..2].copy_from_slice(&id.to_be_bytes());
                    // As below.
                    drop(socket.send(datagram));
                }
                Transport::Udp(_) => {
                    let out = self.send.push(self.arguments.server, None);
                    out.extend(id.to_be_bytes());
                    out.extend(&query[2..]);
                }
                // A connection that was closed is found so when it is read.
                Transport::Tcp(connection) => drop(connection.send(id, query)),
            }
        }
        if let Transport::Udp(socket) = &client.transport {
            let mut sent = 0;
            while sent < self.send.len() {
                // What cannot be sent is lost, and will be counted so.
                sent += self.send.send(socket, sent).unwrap_or(1);
            }
            self.send.clear();
        }
    }

    /// Waits for replies and reads them; returns how many were answers to queries.
    fn receive_what_is_there(&mut self, wait: Wait) -> anyhow::Result<usize> {
        let mut answered = 0;
        let mut closed = Vec::new();
        for number in self.epoll.wait(wait)? {
            let number = usize::try_from(number).expect("it was a usize");
            let Client { transport, slots } = &mut self.clients[number];
            match transport {
                Transport::Udp(socket) => {
                    // An ICMP error is a reply that will not come.
                    let Ok(count) = self.receive.receive(socket) else {
                        continue;
                    };
                    let now = Instant::now();
                    for index in 0..count {
                        let reply = self.receive.datagram(index);
                        answered +=
                            usize::from(slots.settle(reply, self.queries, now, &mut self.tally));
                    }
                }
                Transport::Tcp(connection) => {
                    if !connection.read(&mut self.buffer) || connection.flush().is_err() {
                        closed.push(number);
                    }
                    let now = Instant::now();
                    let mut rest = connection.partial.as_slice();
                    while let Some((length, behind)) = rest.split_first_chunk() {
                        let length = usize::from(u16::from_be_bytes(*length));
                        let Some((reply, behind)) = behind.split_at_checked(length) else {
                            break;
                        };
                        answered +=
                            usize::from(slots.settle(reply, self.queries, now, &mut self.tally));
                        rest = behind;
                    }
                    let used = connection.partial.len() - rest.len();
                    connection.partial.drain(..used);
                }
            }
        }
        for number in closed {
            self.reconnect(number)?;
        }
        Ok(answered)
    }

    /// Opens a closed connection anew and asks again what waited on it (RFC 7766 §6.2.4).
    fn reconnect(&mut self, number: usize) -> anyhow::Result<()> {
        self.tally.reconnects += 1;
        let Client { transport, slots } = &mut self.clients[number];
        let mut connection = Connection::open(self.arguments.server).context("reconnecting")?;
        self.epoll.add(&connection.stream, number as u64, 0)?;
        let waiting: Vec<Waiting> = slots.waiting.iter_mut().filter_map(Option::take).collect();
        for Waiting { sent, query, .. } in waiting {
            let query = query as usize;
            let (id, _) = slots.list(query, sent);
            // Should it be closed again, so be it: the next read finds out.
            drop(connection.send(id, self.queries.get(query)));
        }
        *transport = Transport::Tcp(connection);
        Ok(())
    }

    /// Gives what is in flight its time, until nothing comes any more; the rest is lost.
    fn wait_for_the_rest(&mut self) -> anyhow::Result<()> {
        let mut heard = Instant::now();
        let missing = |tally: &Tally| tally.sent - tally.answered - tally.lost;
        while missing(&self.tally) > 0 && heard.elapsed() < SILENCE {
            if self.receive_what_is_there(Wait::AtMost(SILENCE / 10))? > 0 {
                heard = Instant::now();
            }
        }
        self.tally.lost += missing(&self.tally);
        Ok(())
    }
}

impl Connection {
    fn open(server: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(server)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            partial: Vec::new(),
            unsent: Vec::new(),
        })
    }

    /// Frames a query and sends it: one call each, as clients do that do not know each other's queries.
    fn send(&mut self, id: u16, query: &[u8]) -> io::Result<()> {
        let length = u16::try_from(query.len()).expect("a question has at most 259 octets");
        self.unsent.extend(length.to_be_bytes());
        self.unsent.extend(id.to_be_bytes());
        self.unsent.extend(&query[2..]);
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(count) => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads what is there; false if the server closed the connection.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        match self.stream.read(buffer) {
            Ok(count) => {
                self.partial.extend(&buffer[..count]);
                count > 0
            }
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

fn connect_udp(server: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(server)?;
    prepare(&socket)?;
    Ok(socket)
}

/// A socket that the parent process opened, in whichever network namespace, and connected to `server`.
#[allow(unsafe_code)]
fn inherit_udp(descriptor: RawFd, server: SocketAddr) -> anyhow::Result<UdpSocket> {
    // SAFETY: borrowed for the duplication alone, which fails where nothing is open.
    let duplicate = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned()?;
    let socket = UdpSocket::from(duplicate);
    let peer = socket.peer_addr().context("not a connected socket")?;
    if peer != server {
        bail!("connected to {peer} rather than {server}");
    }
    prepare(&socket)?;
    Ok(socket)
}

fn prepare(socket: &UdpSocket) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    // Replies to a whole second of queries must find room, or the loss is ours.
    socket2::SockRef::from(socket).set_recv_buffer_size(4 << 20)
}
