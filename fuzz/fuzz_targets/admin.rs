//! Any bytes, and requests among them, on one connection to the admin interface, on made-up time. Each whole request gets one
//! response. A request that a peer may not make is refused in any spelling. Only requests over the Unix socket change the
//! cache. The connection ends after its client falls silent.

#![no_main]

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use nodens::budgets::{ADMIN_HEADER_TIME, ADMIN_REQUEST_INTERVAL};
use nodens::cache::{Bounds, Cache, Entry, Origin};
use nodens::config::Config;
use nodens::message::response::Response;
use nodens::net::network::{Connecting, Network, UdpSocket};
use nodens::process::admin::{Instance, Pages, RequestOrigin, Shows};
use nodens::process::coredns::HealthAnswers;
use nodens::process::metrics::Metrics;
use nodens::process::readiness::Readiness;
use nodens::process::reload_status::Reloads;
use nodens::process::threads::Heartbeat;
use nodens::runtime;
use nodens::serving::setup::Setup;
use nodens::serving::top::TopBoard;
use nodens::serving::worker::Shared;
use nodens::upstream::loops::LoopNames;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::runtime::Builder;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

const CONFIGURATION: &str = "\
allow: [all]
upstreams: {vpc: {servers: [10.0.0.2, tcp://10.0.0.3]}}
routes: {own.example: {answer: NXDOMAIN}, \".\": vpc}
records: {host.test: {A: [192.0.2.77]}}
status: {top: all}
";

/// Most steps of one input.
const MOST_STEPS: usize = 60;

/// Octets that the connection buffers in each direction: fewer than the page has, so that writing the page has to wait for the
/// client.
const ON_THE_WAY: usize = 4_096;

const METHODS: [&str; 4] = ["GET", "POST", "HEAD", "OPTIONS"];

const PATHS: [&str; 12] = [
    "/",
    "/status",
    "/metrics",
    "/health",
    "/ready",
    "/ask",
    "/cache/list",
    "/cache/get",
    "/cache/flush",
    "/nothing",
    "/?a=b",
    "/%2e%2e/status",
];

/// Values of `Host`. One is a host name: with it, the first two paths and /ask are refused to peers on the network.
const HOSTS: [&str; 4] = ["127.0.0.1:9153", "[::1]:9153", "localhost", "evil.example"];

const BODIES: [&str; 8] = [
    "",
    "{\"name\":\"www.example\",\"type\":\"A\"}",
    "{\"name\":\"host.test\",\"type\":\"TYPE65\"}",
    "{\"zone\":\"example\",\"limit\":10}",
    "{\"zone\":null,\"limit\":18446744073709551615}",
    "{\"name\":\"www.example\",\"qtype\":1}",
    "{\"name\":\"www.example\"}",
    "\"all\"",
];

/// A network without any server that can be reached.
#[derive(Debug)]
struct Nowhere;

impl Network for Nowhere {
    fn connect_udp(&self, _: SocketAddr) -> io::Result<UdpSocket> {
        Err(io::ErrorKind::NetworkUnreachable.into())
    }

    fn connect_tcp(&self, _: SocketAddr) -> Connecting {
        Box::pin(async { Err(io::ErrorKind::ConnectionRefused.into()) })
    }

    fn fill_random(&self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

/// The node that all inputs share.
struct Node {
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
}

static NODE: LazyLock<Node> = LazyLock::new(|| {
    let network: Arc<dyn Network> = Arc::new(Nowhere);
    let config = Config::from_yaml(CONFIGURATION).expect("it is valid");
    let metrics = Arc::new(Metrics::new());
    let setup = Setup::new(config, None, &metrics.upstream, &network, Instant::now());
    let setup = Arc::new(setup.unwrap_or_else(|errors| panic!("{errors:?}")));
    let seeds = ahash::RandomState::with_seeds;
    let shared = Shared {
        cache: Cache::with_hasher(&setup.config.cache, seeds(1, 2, 3, 4)),
        current: arc_swap::ArcSwap::new(setup),
        metrics: metrics.serving.clone(),
        failures: Arc::default(),
        top: TopBoard::default(),
        hasher: seeds(5, 6, 7, 8),
        loops: Arc::new(LoopNames::default()),
        upstream_sockets: 1_024,
    };
    Node {
        shared: Arc::new(shared),
        metrics,
    }
});

/// Puts two answers into the cache, which can be listed and flushed.
fn fill(cache: &Cache) {
    cache.flush(|_| true);
    let bounds = Bounds {
        max_ttl: 86_400,
        max_negative_ttl: 3_600,
        later_max_negative_ttl: 30,
        min_ttl: 0,
        max_lifetime: u32::MAX,
    };
    let origin = Origin {
        route: 0,
        tier: 0,
        took: Duration::ZERO,
    };
    for name in [&b"\x03www\x07example\0"[..], b"\x01<\x04\"&'>\x04test\0"] {
        let question = [name, &[0, 1, 0, 1]].concat();
        let header = [0, 0, 0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0];
        let record = [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 0, 0, 4, 10, 0, 0, 7];
        let message = [&header[..], &question, &record].concat();
        let response = Response::read(&message).expect("well-formed");
        let key = [&question[..], &[0]].concat();
        let entry = Entry::new(&key, &response, runtime::now(), origin, bounds);
        cache.insert(&key, &entry);
    }
}

/// A request that has no response yet.
#[derive(Debug)]
struct Sent {
    has_body: bool,
    may_be_done: bool,
}

/// The octets that the client has read.
#[derive(Debug, Default)]
struct Heard {
    octets: Vec<u8>,
    ended: bool,
}

struct Client<'a> {
    input: &'a [u8],
    shows: Shows,
    peer: RequestOrigin,
    writing: Option<WriteHalf<DuplexStream>>,
    heard: Arc<Mutex<Heard>>,
    sent: VecDeque<Sent>,
    /// Whether it is known which responses must come: only whole requests were sent so far, and the connection is not over.
    certain: bool,
    /// For how long the client has sent no whole request.
    silent: Duration,
    /// Whether the last request asked the server to close the connection.
    last: bool,
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().expect("one thread")
}

impl Client<'_> {
    fn next(&mut self) -> u8 {
        match self.input {
            [first, rest @ ..] => {
                self.input = rest;
                *first
            }
            [] => 0,
        }
    }

    async fn write(&mut self, octets: &[u8]) {
        if let Some(writing) = &mut self.writing {
            // If the server reads no more, writing waits. The server has a time limit then.
            let _ = timeout(Duration::from_secs(1), writing.write_all(octets)).await;
        }
    }

    async fn step(&mut self) {
        match self.next() % 8 {
            0..=3 => self.request().await,
            4 | 5 => {
                let count = usize::from(self.next()).min(self.input.len());
                let (octets, rest) = self.input.split_at(count);
                self.input = rest;
                self.certain &= octets.is_empty();
                self.write(octets).await;
            }
            6 => {
                let pause = self.next();
                let pause = Duration::from_millis(u64::from(pause) * 10);
                sleep(pause).await;
                // The connection may be over by now.
                self.silent += pause;
                self.certain &= self.silent < ADMIN_HEADER_TIME / 2;
            }
            _ => {
                let Some(mut writing) = self.writing.take() else {
                    return;
                };
                let _ = writing.shutdown().await;
                self.certain = false;
            }
        }
    }

    /// Sends a whole request.
    async fn request(&mut self) {
        let [what, headers, body] = [(); 3].map(|()| self.next());
        let (method, path) = (
            METHODS[usize::from(what % 4)],
            PATHS[usize::from(what >> 2) % PATHS.len()],
        );
        let host = HOSTS[usize::from(headers % 4)];
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n");
        let origin = headers >> 2 & 3;
        match origin {
            1 => text.push_str("Origin: http://evil.example\r\n"),
            2 => text.push_str(&format!("Origin: http://{host}\r\n")),
            3 => text.push_str("Sec-Fetch-Site: cross-site\r\n"),
            _ => {}
        }
        let closes = headers & 16 != 0;
        if closes {
            text.push_str("Connection: close\r\n");
        }
        let body = BODIES[usize::from(body) % BODIES.len()];
        if headers & 32 == 0 {
            text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        } else {
            text.push_str("Transfer-Encoding: chunked\r\n\r\n");
            if !body.is_empty() {
                text.push_str(&format!("{:x}\r\n{body}\r\n", body.len()));
            }
            text.push_str("0\r\n\r\n");
        }
        let host_is_refused = self.peer != RequestOrigin::Socket
            && host == "evil.example"
            && matches!(path, "/" | "/status" | "/ask" | "/?a=b");
        let act_is_refused =
            path == "/ask" && (matches!(origin, 1 | 3) || self.peer == RequestOrigin::Network);
        let is_shown = match path {
            "/health" | "/ready" | "/metrics" => true,
            "/" | "/status" | "/ask" | "/?a=b" => self.shows != Shows::Public,
            _ => path.starts_with("/cache/") && self.shows == Shows::Everything,
        };
        if !self.last {
            self.sent.push_back(Sent {
                has_body: method != "HEAD",
                may_be_done: is_shown && !host_is_refused && !act_is_refused,
            });
            self.last = closes;
        }
        // If a request is refused before its body is read, the following ones on the connection may be lost.
        self.certain &= is_shown && !host_is_refused && !act_is_refused || body.is_empty();
        self.write(text.as_bytes()).await;
        self.silent = Duration::ZERO;
        let is_read = method == "POST" && (path == "/ask" || path.starts_with("/cache/"));
        if !body.is_empty() && !is_read {
            // After a body that was not read, hyper may not read the next request until further octets come.
            self.wait_for_responses().await;
        }
    }

    /// Takes the responses that have come. If `certain`, the octets must be responses.
    fn take_responses(&mut self) {
        let mut heard = lock(&self.heard);
        while let Some(head_end) = end_of_head(&heard.octets) {
            let head = String::from_utf8(heard.octets[..head_end].to_vec());
            let head = head
                .expect("the header of a response is text")
                .to_lowercase();
            let status = head
                .strip_prefix("http/1.1 ")
                .or(head.strip_prefix("http/1.0 "));
            let status = status.unwrap_or_else(|| panic!("no response: {head}"));
            let status: u16 = status[..3].parse().expect("a status");
            let sent = self.sent.front();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map(|length| length.parse::<usize>().expect("a number"));
            let length = match sent {
                Some(sent) if self.certain && !sent.has_body => 0,
                _ => length.unwrap_or(0),
            };
            if heard.octets.len() < head_end + length {
                return;
            }
            heard.octets.drain(..head_end + length);
            if self.certain {
                let sent = self.sent.pop_front();
                let sent = sent.expect("a response to nothing");
                assert!(status >= 200, "{status}");
                assert!(sent.may_be_done || status >= 400, "{sent:?} is {status}");
            } else if !self.sent.is_empty() {
                self.sent.pop_front();
            }
        }
    }

    /// Waits until each request that must have a response has one. Questions of the page may take long, and the rate of
    /// requests is limited.
    async fn wait_for_responses(&mut self) {
        let mut patience = Duration::from_secs(120);
        while !self.answered() {
            let (sent, heard) = (&self.sent, lock(&self.heard));
            let text = String::from_utf8_lossy(&heard.octets);
            assert!(!patience.is_zero(), "no response to {sent:?}: {text:?}");
            assert!(!heard.ended, "closed before a response to {sent:?}");
            drop(text);
            drop(heard);
            sleep(ADMIN_REQUEST_INTERVAL).await;
            patience = patience.saturating_sub(ADMIN_REQUEST_INTERVAL);
        }
    }

    /// Whether each request that must have a response has one.
    fn answered(&mut self) -> bool {
        if self.certain {
            self.take_responses();
        }
        !self.certain || self.sent.is_empty()
    }
}

fn end_of_head(octets: &[u8]) -> Option<usize> {
    let end = octets.windows(4).position(|four| four == b"\r\n\r\n")?;
    Some(end + 4)
}

/// Reads all that the server sends.
async fn read(mut reading: ReadHalf<DuplexStream>, heard: Arc<Mutex<Heard>>) {
    let mut buffer = [0; 1_024];
    while let Ok(count @ 1..) = reading.read(&mut buffer).await {
        lock(&heard).octets.extend_from_slice(&buffer[..count]);
    }
    lock(&heard).ended = true;
}

async fn ended(connection: JoinHandle<()>, within: Duration) {
    let ended = timeout(within, connection).await;
    ended.expect("the connection ends").expect("no panic");
}

async fn run(bytes: &[u8]) {
    let [what, input @ ..] = bytes else { return };
    let shows = [Shows::Everything, Shows::Status, Shows::Public][usize::from(what % 3)];
    let peer = [
        RequestOrigin::Socket,
        RequestOrigin::Loopback,
        RequestOrigin::Network,
    ][usize::from(what / 3 % 3)];
    let Node { shared, metrics } = &*NODE;
    fill(&shared.cache);
    let entries = shared.cache.entries();
    let pages = Pages::new(Instance {
        shared: Arc::clone(shared),
        metrics: Arc::clone(metrics),
        heartbeats: vec![Arc::new(Heartbeat::new())],
        readiness: Arc::new(Readiness::new()),
        listen: Arc::default(),
        reloads: Arc::new(Reloads::new(metrics)),
        health: HealthAnswers::default(),
        admin: None,
        started: Instant::now(),
    });
    let (near, far) = tokio::io::duplex(ON_THE_WAY);
    let connection = tokio::spawn(async move { pages.serve_connection(near, shows, peer).await });
    let (reading, writing) = tokio::io::split(far);
    let heard = Arc::default();
    let reader = tokio::spawn(read(reading, Arc::clone(&heard)));
    let mut client = Client {
        input,
        shows,
        peer,
        writing: Some(writing),
        heard,
        sent: VecDeque::new(),
        certain: true,
        silent: Duration::ZERO,
        last: false,
    };
    for _ in 0..MOST_STEPS {
        if client.input.is_empty() {
            break;
        }
        client.step().await;
    }
    client.wait_for_responses().await;
    if client.certain {
        // The client sends nothing more.
        ended(connection, ADMIN_HEADER_TIME + Duration::from_secs(1)).await;
        assert!(client.answered() && lock(&client.heard).octets.is_empty());
        reader.await.expect("no panic");
    } else {
        // The client closes the connection.
        drop(client.writing.take());
        reader.abort();
        let _ = reader.await;
        ended(connection, Duration::from_secs(120)).await;
    }
    if shows != Shows::Everything {
        assert_eq!(shared.cache.entries(), entries, "flushed by somebody else");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(run(bytes));
});
