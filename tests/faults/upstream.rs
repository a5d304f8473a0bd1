//! Scriptable upstream servers: UDP and TCP on one port of a loopback address, a thread each, their behaviour switched
//! while they run. They count what arrives, so that what a resolver spends on its upstreams is known.
//!
//! Limits: a closed port counts nothing (the kernel answers); behaviours other than `Answer` and `Delay` over TCP are
//! those of [`Tcp`].

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

use crate::message::{self, Asked};

/// The first label of names that no server ever answers.
pub(crate) const NEVER: &[u8] = b"\x05never";
/// TTL unless [`Server::set_ttl`] says otherwise: long enough that nothing expires within a case.
const TTL: u32 = 300;
/// 127.0.0.200 answers in the place of those that answer from a wrong address.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 200);

/// What a server does with a query over UDP.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Udp {
    Answer,
    Silent,
    /// Loses this share of the queries, in percent.
    Drop(u32),
    /// Answers after this long.
    Delay(Duration),
    /// Answers with this response code.
    Code(u8),
    /// FORMERR to queries with OPT, the right answer to those without.
    FormerrToOpt,
    WrongId,
    WrongQuestion,
    /// Bytes that are no DNS message.
    Garbage,
    /// The right answer, two times.
    Twice,
    /// The right answer, from an address that was not asked.
    WrongSource,
    LyingCounts,
    CompressionLoop,
    /// TC, and no records.
    Truncated,
    Nxdomain,
    /// The port is closed: the kernel says "port unreachable".
    Closed,
}

/// What it does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tcp {
    Answer,
    /// Nobody listens.
    Refused,
    /// Half of the answer's frame, then nothing more.
    HalfFrame,
    /// Resets the connection once a query came.
    Reset,
}

/// What has arrived so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Count {
    /// Datagrams that ask for a client's names.
    pub(crate) queries: u64,
}

#[derive(Debug)]
struct State {
    udp: Udp,
    tcp: Tcp,
    /// Whether the sockets are open, to be waited for after a switch.
    udp_open: bool,
    tcp_open: bool,
    stop: bool,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    state: Mutex<State>,
    changed: Condvar,
    ttl: AtomicU32,
    queries: AtomicU64,
}

/// A server; dropping it stops its threads and closes its port.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Server {
    /// Answers everything on a free port of `ip`.
    pub(crate) fn start(ip: impl Into<IpAddr>) -> Self {
        let (udp, tcp) = bind_both(ip.into());
        let address = udp.local_addr().expect("a bound socket has an address");
        let state = State {
            udp: Udp::Answer,
            tcp: Tcp::Answer,
            udp_open: true,
            tcp_open: true,
            stop: false,
        };
        let shared = Arc::new(Shared {
            address,
            state: Mutex::new(state),
            changed: Condvar::new(),
            ttl: AtomicU32::new(TTL),
            queries: AtomicU64::new(0),
        });
        let (datagrams, streams) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            thread::spawn(move || serve_udp(&datagrams, udp)),
            thread::spawn(move || serve_tcp(&streams, tcp)),
        ];
        Self { shared, threads }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Switches; returns when the new behaviour is in force.
    pub(crate) fn set(&self, udp: Udp) {
        let mut state = self.shared.lock();
        state.udp = udp;
        self.shared.changed.notify_all();
        if (udp == Udp::Closed) != state.udp_open {
            return;
        }
        if state.udp_open {
            drop(state);
            self.wake_udp();
            state = self.shared.lock();
        }
        let open = udp != Udp::Closed;
        let waited = self
            .shared
            .changed
            .wait_while(state, |state| state.udp_open != open);
        drop(waited.expect("the server's thread lives"));
    }

    /// Switches what happens over TCP; returns when it is in force.
    pub(crate) fn set_tcp(&self, tcp: Tcp) {
        let mut state = self.shared.lock();
        state.tcp = tcp;
        self.shared.changed.notify_all();
        let open = tcp != Tcp::Refused;
        if state.tcp_open && !open {
            drop(state);
            self.wake_tcp();
            state = self.shared.lock();
        }
        let waited = self
            .shared
            .changed
            .wait_while(state, |state| state.tcp_open != open);
        drop(waited.expect("the server's thread lives"));
    }

    /// The TTL of answers from now on, in seconds.
    pub(crate) fn set_ttl(&self, ttl: u32) {
        self.shared.ttl.store(ttl, Ordering::Relaxed);
    }

    pub(crate) fn count(&self) -> Count {
        Count {
            queries: self.shared.queries.load(Ordering::Relaxed),
        }
    }

    /// An empty datagram has the thread look at its state again.
    fn wake_udp(&self) {
        let socket = UdpSocket::bind((self.address().ip(), 0)).expect("a free port");
        socket
            .send_to(&[], self.address())
            .expect("loopback takes a datagram");
    }

    fn wake_tcp(&self) {
        drop(TcpStream::connect(self.address()));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let (udp_open, tcp_open) = {
            let mut state = self.shared.lock();
            state.stop = true;
            self.shared.changed.notify_all();
            (state.udp_open, state.tcp_open)
        };
        if udp_open {
            self.wake_udp();
        }
        if tcp_open {
            self.wake_tcp();
        }
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(
                ended.is_ok() || thread::panicking(),
                "an upstream server's thread panicked; its message is above"
            );
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with the lock")
    }

    /// What to do with this query, after counting it.
    fn udp_behaviour(&self, asked: &Asked<'_>) -> Udp {
        if is_clients(asked) {
            self.queries.fetch_add(1, Ordering::Relaxed);
        }
        if asked.name.starts_with(NEVER) {
            return Udp::Silent;
        }
        self.lock().udp
    }
}

/// Whether a query is on behalf of a client of the suite rather than a probe.
fn is_clients(asked: &Asked<'_>) -> bool {
    matches!(asked.qtype, message::A | message::AAAA)
        && asked.name.ends_with(b"\x05suite\x07example\0")
}

fn bind_both(ip: IpAddr) -> (UdpSocket, TcpListener) {
    let mut last = None;
    // The kernel picks a port free for UDP; it may be taken for TCP.
    for _ in 0..50 {
        let udp = UdpSocket::bind((ip, 0)).unwrap_or_else(|error| panic!("{ip}: {error}"));
        let address = udp.local_addr().expect("a bound socket has an address");
        match TcpListener::bind(address) {
            Ok(tcp) => return (udp, tcp),
            Err(error) => last = Some(error),
        }
    }
    panic!("{ip}: no port is free for UDP and TCP: {last:?}");
}

/// Binds again the port that was given up a moment ago.
fn rebind<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> io::Result<T>) -> T {
    bind(address).unwrap_or_else(|error| panic!("{address} cannot be opened again: {error}"))
}

fn serve_udp(shared: &Arc<Shared>, socket: UdpSocket) {
    let elsewhere = UdpSocket::bind((ELSEWHERE, 0)).ok();
    let late = Late::start();
    let mut socket = Some(socket);
    let mut random = fastrand::Rng::with_seed(u64::from(shared.address.port()));
    let (mut buffer, mut out) = ([0; 4096], Vec::new());
    loop {
        let open = {
            let mut state = shared.lock();
            if state.udp == Udp::Closed {
                socket = None;
                state.udp_open = false;
                shared.changed.notify_all();
                state = shared
                    .changed
                    .wait_while(state, |state| state.udp == Udp::Closed && !state.stop)
                    .expect("no thread panics with the lock");
            }
            if state.stop {
                return;
            }
            let open = socket.get_or_insert_with(|| rebind(shared.address, UdpSocket::bind));
            if !state.udp_open {
                state.udp_open = true;
                shared.changed.notify_all();
            }
            &*open
        };
        let (length, client) = match open.recv_from(&mut buffer) {
            Ok(received) => received,
            // A resolver that closed its socket before our answer: news for it, not for us.
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
            Err(error) => panic!("{}: {error}", shared.address),
        };
        let Some(asked) = Asked::read(&buffer[..length]) else {
            continue;
        };
        let ttl = shared.ttl.load(Ordering::Relaxed);
        let behaviour = shared.udp_behaviour(&asked);
        let mut times = 1;
        let mut from = open;
        match behaviour {
            Udp::Silent | Udp::Closed => continue,
            Udp::Drop(percent) if random.u32(..100) < percent => continue,
            Udp::FormerrToOpt if asked.edns => asked.code(message::FORMERR, &mut out),
            Udp::Answer | Udp::Drop(_) | Udp::FormerrToOpt => asked.answer(ttl, &mut out),
            Udp::Delay(delay) => {
                asked.answer(ttl, &mut out);
                late.send(delay, open, out.clone(), client);
                continue;
            }
            Udp::Code(code) => asked.code(code, &mut out),
            Udp::WrongId => {
                asked.answer(ttl, &mut out);
                out[0] ^= 0x55;
            }
            Udp::WrongQuestion => asked.wrong_question(ttl, &mut out),
            Udp::Garbage => {
                out.clear();
                out.extend((0..random.usize(1..64)).map(|_| random.u8(..)));
            }
            Udp::Twice => {
                asked.answer(ttl, &mut out);
                times = 2;
            }
            Udp::WrongSource => {
                asked.answer(ttl, &mut out);
                from = elsewhere.as_ref().expect("127.0.0.200 is loopback");
            }
            Udp::LyingCounts => asked.lying_counts(ttl, &mut out),
            Udp::CompressionLoop => asked.compression_loop(ttl, &mut out),
            Udp::Truncated => asked.truncated(&mut out),
            Udp::Nxdomain => asked.negative(message::NXDOMAIN, ttl, &mut out),
        }
        for _ in 0..times {
            // Whoever is gone meanwhile does not want it.
            let _ = from.send_to(&out, client);
        }
    }
}

/// Sends answers when their time has come. Dropping it forgets those that wait.
struct Late(Sender<Parcel>);

struct Parcel {
    due: Instant,
    socket: UdpSocket,
    message: Vec<u8>,
    client: SocketAddr,
}

impl Late {
    fn start() -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || deliver(&receiver));
        Self(sender)
    }

    fn send(&self, delay: Duration, socket: &UdpSocket, message: Vec<u8>, client: SocketAddr) {
        let socket = socket.try_clone().expect("a file descriptor is left");
        let parcel = Parcel {
            due: Instant::now() + delay,
            socket,
            message,
            client,
        };
        self.0.send(parcel).expect("the thread lives as long as we");
    }
}

fn deliver(parcels: &Receiver<Parcel>) {
    // Every parcel of a case is delayed alike, so that the first to come is the first to go.
    let mut waiting: VecDeque<Parcel> = VecDeque::new();
    loop {
        let now = Instant::now();
        while waiting.front().is_some_and(|parcel| parcel.due <= now) {
            let Some(parcel) = waiting.pop_front() else {
                break;
            };
            let _ = parcel.socket.send_to(&parcel.message, parcel.client);
        }
        let received = match waiting.front() {
            Some(first) => parcels.recv_timeout(first.due.saturating_duration_since(now)),
            None => parcels.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(parcel) => waiting.push_back(parcel),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn serve_tcp(shared: &Arc<Shared>, listener: TcpListener) {
    let mut listener = Some(listener);
    loop {
        let open = {
            let mut state = shared.lock();
            if state.tcp == Tcp::Refused {
                listener = None;
                state.tcp_open = false;
                shared.changed.notify_all();
                state = shared
                    .changed
                    .wait_while(state, |state| state.tcp == Tcp::Refused && !state.stop)
                    .expect("no thread panics with the lock");
            }
            if state.stop {
                return;
            }
            let open = listener.get_or_insert_with(|| rebind(shared.address, TcpListener::bind));
            if !state.tcp_open {
                state.tcp_open = true;
                shared.changed.notify_all();
            }
            &*open
        };
        if let Ok((stream, _)) = open.accept() {
            let shared = Arc::clone(shared);
            // It ends with the connection, whose other end is the resolver's.
            thread::spawn(move || serve_stream(&shared, stream));
        }
    }
}

/// Serves a connection until either side has enough; an error of it is the resolver's own affair.
fn serve_stream(shared: &Shared, mut stream: TcpStream) -> Option<()> {
    let (mut out, mut frame) = (Vec::new(), Vec::new());
    loop {
        let mut length = [0; 2];
        stream.read_exact(&mut length).ok()?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        stream.read_exact(&mut message).ok()?;
        let asked = Asked::read(&message)?;
        asked.answer(shared.ttl.load(Ordering::Relaxed), &mut out);
        frame.clear();
        frame.extend_from_slice(&u16::try_from(out.len()).ok()?.to_be_bytes());
        frame.extend_from_slice(&out);
        let tcp = shared.lock().tcp;
        match tcp {
            Tcp::Answer => stream.write_all(&frame).ok()?,
            Tcp::HalfFrame => stream.write_all(&frame[..frame.len() / 2]).ok()?,
            Tcp::Refused | Tcp::Reset => {
                let socket = socket2::SockRef::from(&stream);
                socket.set_linger(Some(Duration::ZERO)).ok()?;
                return None;
            }
        }
    }
}
