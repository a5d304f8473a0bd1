//! A scripted server: UDP, TCP and TLS on one port of a loopback address. A script says what each query gets; a test
//! may give another script while the server runs.
//!
//! Unless a script wants them, the forwarder's own probes are answered with NXDOMAIN, which says that the server is
//! alive, and they are never among [`Server::asked`].

use std::collections::BinaryHeap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::common::dns::{Over, flag, question_end, u16_at};
use crate::common::tls::{Root, certificate_for};
use crate::common::{PATIENCE, free_sockets};
use crate::wire::{Says, type_of};

/// The name in the certificate of TLS servers.
const TLS_NAME: &str = "dot.example";

/// A query as the server sees it.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "header bits, as they came")]
pub(crate) struct Query {
    pub(crate) bytes: Vec<u8>,
    pub(crate) over: Over,
    /// QNAME as text, in lower case, with its final dot.
    pub(crate) name: String,
    pub(crate) qtype: u16,
    pub(crate) edns: bool,
    pub(crate) ad: bool,
    pub(crate) cd: bool,
    /// Sent by the forwarder on its own account.
    pub(crate) probe: bool,
    /// How often this question came, this time included.
    pub(crate) turn: usize,
    /// Number of the client's queries on this connection, this one included; 1 for a datagram.
    pub(crate) on_connection: usize,
}

impl Query {
    pub(crate) fn read(bytes: &[u8], over: Over, on_connection: usize) -> Self {
        let end = question_end(bytes);
        let name = &bytes[12..end - 4];
        // Loops are looked for beneath each group's zone.
        let probe = name == [0] || text_of(name).contains("nodens.invalid.");
        let flags = u16_at(bytes, 2).expect("a header");
        Self {
            bytes: bytes.to_vec(),
            over,
            name: text_of(name),
            qtype: u16_at(bytes, end - 4).expect("a question"),
            edns: u16_at(bytes, 10) > Some(0),
            ad: flags & flag::AD != 0,
            cd: flags & flag::CD != 0,
            probe,
            turn: 1,
            on_connection,
        }
    }

    /// Whether this is the question, written as `x.corp. A`.
    pub(crate) fn is(&self, question: &str) -> bool {
        let (name, qtype) = question.split_once(' ').expect("a name and a type");
        self.name == name && self.qtype == type_of(qtype)
    }

    /// A response to it; see [`Says::new`].
    pub(crate) fn says(&self, head: &str) -> Says {
        Says::new(&self.bytes, head)
    }

    /// What a server does without a fault: 192.0.2.1 for a client's name, NXDOMAIN for a probe.
    pub(crate) fn honest(&self) -> Says {
        if self.probe {
            self.says("NXDOMAIN")
        } else {
            self.says("NOERROR").answer("@ 300 A 192.0.2.1")
        }
    }
}

/// A name as text, lower-cased, escaped where it is odd.
pub(crate) fn text_of(mut wire: &[u8]) -> String {
    let mut text = String::new();
    while let [length, rest @ ..] = wire
        && *length > 0
    {
        let (label, rest) = rest.split_at(usize::from(*length));
        text.push_str(&label.to_ascii_lowercase().escape_ascii().to_string());
        text.push('.');
        wire = rest;
    }
    if text.is_empty() {
        text.push('.');
    }
    text
}

/// What a query gets.
#[derive(Debug, Clone)]
pub(crate) enum Does {
    Silence,
    Answers(Vec<u8>),
    AnswersAfter(Duration, Vec<u8>),
    /// Over TCP: answers, sends its FIN, and reads what the client still sends without answering it.
    AnswersAndCloses(Vec<u8>),
    /// Over TCP: answers and closes with whatever it has not read, which resets the connection.
    AnswersAndResets(Vec<u8>),
}

impl From<Vec<u8>> for Does {
    fn from(message: Vec<u8>) -> Self {
        Self::Answers(message)
    }
}

impl From<Says> for Does {
    fn from(says: Says) -> Self {
        Self::Answers(says.bytes())
    }
}

impl Says {
    /// Said after this long.
    pub(crate) fn after(self, delay: Duration) -> Does {
        Does::AnswersAfter(delay, self.bytes())
    }
}

type Script = dyn Fn(&Query) -> Does + Send + Sync;

/// What stands behind the server's TCP port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tcp {
    /// The script, as over UDP.
    Serves,
    /// Nobody: connections are refused.
    Refused,
    /// Somebody who accepts and never says a word.
    Mute,
    /// Somebody whose queue of connections is full: the kernel drops each SYN.
    SynDropped,
}

/// A server; ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    threads: Vec<JoinHandle<()>>,
    root: Option<Root>,
    /// Keeps the queue of [`Tcp::SynDropped`] full.
    _queue: Vec<socket2::Socket>,
}

struct State {
    script: Mutex<Arc<Script>>,
    asked: Mutex<Vec<Query>>,
    /// Clients' queries read on each connection that had any.
    piles: Mutex<Vec<usize>>,
    stopped: AtomicBool,
}

impl Server {
    /// Answers clients' queries by this script.
    pub(crate) fn start<D: Into<Does>>(
        script: impl Fn(&Query) -> D + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(Tcp::Serves, script)
    }

    /// The same with something else behind the TCP port.
    pub(crate) fn start_with<D: Into<Does>>(
        tcp: Tcp,
        script: impl Fn(&Query) -> D + Send + Sync + 'static,
    ) -> Self {
        Self::launch(tcp, false, probes_apart(script))
    }

    /// Answers everything by this script, probes too.
    pub(crate) fn start_for_all<D: Into<Does>>(
        script: impl Fn(&Query) -> D + Send + Sync + 'static,
    ) -> Self {
        Self::launch(
            Tcp::Serves,
            false,
            Arc::new(move |query| script(query).into()),
        )
    }

    /// Speaks TLS on its TCP port, with a certificate of its own.
    pub(crate) fn tls<D: Into<Does>>(script: impl Fn(&Query) -> D + Send + Sync + 'static) -> Self {
        Self::launch(Tcp::Serves, true, probes_apart(script))
    }

    fn launch(tcp: Tcp, tls: bool, script: Arc<Script>) -> Self {
        let (socket, listener) = free_sockets();
        let address = socket.local_addr().expect("it is bound");
        let state = Arc::new(State {
            script: Mutex::new(script),
            asked: Mutex::default(),
            piles: Mutex::default(),
            stopped: AtomicBool::new(false),
        });
        let (config, root) = tls.then(|| certificate_for(TLS_NAME)).unzip();
        let config = config.map(Arc::new);
        let udp = Arc::clone(&state);
        let mut threads = vec![thread::spawn(move || udp.serve_udp(&socket))];
        let mut queue = Vec::new();
        match tcp {
            Tcp::Refused => drop(listener),
            Tcp::SynDropped => queue = filled(listener, address),
            Tcp::Serves | Tcp::Mute => {
                let state = Arc::clone(&state);
                threads.push(thread::spawn(move || {
                    state.serve_tcp(&listener, tcp == Tcp::Mute, config.as_ref());
                }));
            }
        }
        Self {
            address,
            state,
            threads,
            root,
            _queue: queue,
        }
    }

    /// From now on clients' queries get this.
    pub(crate) fn now_says<D: Into<Does>>(
        &self,
        script: impl Fn(&Query) -> D + Send + Sync + 'static,
    ) {
        *lock(&self.state.script) = probes_apart(script);
    }

    /// The same for probes too.
    pub(crate) fn now_says_to_all<D: Into<Does>>(
        &self,
        script: impl Fn(&Query) -> D + Send + Sync + 'static,
    ) {
        *lock(&self.state.script) = Arc::new(move |query| script(query).into());
    }

    /// From now on nothing gets an answer, probes included.
    pub(crate) fn falls_silent(&self) {
        *lock(&self.state.script) = Arc::new(|_| Does::Silence);
    }

    /// Closes its port: the kernel says "port unreachable" from now on.
    pub(crate) fn stops(&mut self) {
        // Connections that are open stay so, without a word.
        self.falls_silent();
        self.state.stopped.store(true, Ordering::Release);
        // Wakes the threads, which then see that they are to stop.
        let woken = UdpSocket::bind("127.0.0.1:0").and_then(|s| s.send_to(&[], self.address));
        drop(TcpStream::connect_timeout(
            &self.address,
            Duration::from_millis(100),
        ));
        if woken.is_ok() {
            for thread in self.threads.drain(..) {
                let _ = thread.join();
            }
        }
    }

    /// Clients' queries so far.
    pub(crate) fn asked(&self) -> Vec<Query> {
        lock(&self.state.asked).clone()
    }

    /// How many they are.
    pub(crate) fn count(&self) -> usize {
        lock(&self.state.asked).len()
    }

    /// How often a question came, written as `x.corp. A`.
    pub(crate) fn asked_for(&self, question: &str) -> usize {
        let asked = lock(&self.state.asked);
        asked.iter().filter(|query| query.is(question)).count()
    }

    /// Clients' queries on each connection so far that had any.
    pub(crate) fn piles(&self) -> Vec<usize> {
        lock(&self.state.piles).clone()
    }

    /// As `servers` of a configuration name it: over UDP, or with `tcp://` or `tls://` in front.
    pub(crate) fn over(&self, scheme: &str) -> String {
        let name = if scheme == "tls://" {
            format!("#{TLS_NAME}")
        } else {
            String::new()
        };
        format!("{scheme}{}{name}", self.address)
    }

    /// A TLS server's root, for `tls_ca`.
    pub(crate) fn ca(&self) -> String {
        let root = self.root.as_ref().expect("a TLS server");
        root.file.display().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if !self.state.stopped.load(Ordering::Acquire) {
            self.stops();
        }
    }
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no thread panics with it")
}

fn probes_apart<D: Into<Does>>(
    script: impl Fn(&Query) -> D + Send + Sync + 'static,
) -> Arc<Script> {
    Arc::new(move |query| {
        if query.probe {
            query.honest().into()
        } else {
            script(query).into()
        }
    })
}

/// Shortens a listener's queue to nothing and fills it. Returns what keeps it full.
fn filled(listener: TcpListener, address: SocketAddr) -> Vec<socket2::Socket> {
    SockRef::from(&listener).listen(0).expect("it listens");
    let mut held = vec![socket2::Socket::from(listener)];
    for _ in 0..3 {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a file descriptor is left");
        socket.set_nonblocking(true).expect("settable");
        let _ = socket.connect(&address.into());
        held.push(socket);
    }
    let full = TcpStream::connect_timeout(&address, Duration::from_millis(300));
    assert!(full.is_err(), "the queue of {address} takes connections");
    held
}

impl State {
    /// Writes a query down and asks the script what it gets.
    fn decide(&self, mut query: Query) -> Does {
        let script = Arc::clone(&lock(&self.script));
        if !query.probe {
            let mut asked = lock(&self.asked);
            let same = |other: &&Query| other.name == query.name && other.qtype == query.qtype;
            query.turn += asked.iter().filter(same).count();
            asked.push(query.clone());
        }
        script(&query)
    }

    fn serve_udp(&self, socket: &UdpSocket) {
        let later = Later::start(socket.try_clone().expect("a file descriptor is left"));
        let mut buffer = vec![0; 65_535];
        while !self.stopped.load(Ordering::Acquire) {
            // An error is news of a client that is gone.
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            if length == 0 {
                continue;
            }
            match self.decide(Query::read(&buffer[..length], Over::Udp, 1)) {
                Does::Silence => {}
                Does::AnswersAfter(delay, answer) => later.send(delay, answer, client),
                Does::Answers(answer)
                | Does::AnswersAndCloses(answer)
                | Does::AnswersAndResets(answer) => {
                    // Who is gone meanwhile does not want it.
                    let _ = socket.send_to(&answer, client);
                }
            }
        }
    }

    fn serve_tcp(
        self: &Arc<Self>,
        listener: &TcpListener,
        mute: bool,
        tls: Option<&Arc<ServerConfig>>,
    ) {
        let mut held = Vec::new();
        for stream in listener.incoming().flatten() {
            if self.stopped.load(Ordering::Acquire) {
                return;
            }
            if mute {
                held.push(stream);
                continue;
            }
            let (state, tls) = (Arc::clone(self), tls.cloned());
            // Ends with the connection; how it ends is the client's affair.
            thread::spawn(move || drop(state.serve_connection(stream, tls)));
        }
    }

    /// Counts a client's query on a connection; returns which one it is.
    fn add_to(&self, pile: &mut Option<usize>) -> usize {
        let mut piles = lock(&self.piles);
        let index = *pile.get_or_insert_with(|| {
            piles.push(0);
            piles.len() - 1
        });
        piles[index] += 1;
        piles[index]
    }

    fn serve_connection(
        &self,
        stream: TcpStream,
        tls: Option<Arc<ServerConfig>>,
    ) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut connection = match tls {
            None => Connection::Plain(stream),
            Some(config) => {
                let session = ServerConnection::new(config).map_err(io::Error::other)?;
                Connection::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        let mut pile = None;
        loop {
            let frame = connection.read_frame()?;
            let mut query = Query::read(&frame, Over::Tcp, 1);
            if !query.probe {
                query.on_connection = self.add_to(&mut pile);
            }
            match self.decide(query) {
                Does::Silence => {}
                Does::Answers(answer) => connection.write_frame(&answer)?,
                Does::AnswersAfter(delay, answer) => connection.write_later(delay, answer)?,
                Does::AnswersAndResets(answer) => return connection.write_frame(&answer),
                Does::AnswersAndCloses(answer) => {
                    connection.write_frame(&answer)?;
                    connection.finish()?;
                    loop {
                        connection.read_frame()?;
                        self.add_to(&mut pile);
                    }
                }
            }
        }
    }
}

/// A client's connection, with TLS or without.
enum Connection {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Connection {
    fn read_frame(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.stream().read_exact(&mut length)?;
        let mut message = vec![0; usize::from(u16::from_be_bytes(length))];
        self.stream().read_exact(&mut message)?;
        Ok(message)
    }

    fn write_frame(&mut self, message: &[u8]) -> io::Result<()> {
        self.stream().write_all(&framed(message))?;
        self.stream().flush()
    }

    /// Over TLS, what is behind waits too.
    fn write_later(&mut self, delay: Duration, message: Vec<u8>) -> io::Result<()> {
        match self {
            Self::Plain(stream) => {
                let mut stream = stream.try_clone()?;
                thread::spawn(move || {
                    thread::sleep(delay);
                    drop(stream.write_all(&framed(&message)));
                });
                Ok(())
            }
            Self::Tls(_) => {
                thread::sleep(delay);
                self.write_frame(&message)
            }
        }
    }

    /// Sends our FIN; reading goes on for a while.
    fn finish(&mut self) -> io::Result<()> {
        let stream = match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                stream.flush()?;
                &mut stream.sock
            }
        };
        stream.shutdown(Shutdown::Write)?;
        stream.set_read_timeout(Some(PATIENCE))
    }

    fn stream(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream,
        }
    }
}

trait ReadWrite: Read + Write {}
impl<T: Read + Write> ReadWrite for T {}

fn framed(message: &[u8]) -> Vec<u8> {
    let length = u16::try_from(message.len()).expect("fits a frame");
    [&length.to_be_bytes(), message].concat()
}

/// Sends datagrams when their time has come. Dropping it forgets those that wait.
struct Later(Sender<Parcel>);

#[derive(PartialEq, Eq)]
struct Parcel {
    due: Instant,
    message: Vec<u8>,
    client: SocketAddr,
}

impl Ord for Parcel {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the greatest first, which is to be the earliest.
        other.due.cmp(&self.due)
    }
}

impl PartialOrd for Parcel {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Later {
    fn start(socket: UdpSocket) -> Self {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || deliver(&socket, &receiver));
        Self(sender)
    }

    fn send(&self, delay: Duration, message: Vec<u8>, client: SocketAddr) {
        let due = Instant::now() + delay;
        let parcel = Parcel {
            due,
            message,
            client,
        };
        self.0.send(parcel).expect("the thread lives as long as we");
    }
}

fn deliver(socket: &UdpSocket, parcels: &Receiver<Parcel>) {
    let mut waiting = BinaryHeap::new();
    loop {
        let now = Instant::now();
        while waiting
            .peek()
            .is_some_and(|first: &Parcel| first.due <= now)
        {
            let parcel = waiting.pop().expect("it was there");
            let _ = socket.send_to(&parcel.message, parcel.client);
        }
        let received = match waiting.peek() {
            Some(first) => parcels.recv_timeout(first.due.saturating_duration_since(now)),
            None => parcels.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match received {
            Ok(parcel) => waiting.push(parcel),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
