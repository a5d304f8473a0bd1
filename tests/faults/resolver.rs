//! The resolvers under test: nodens as cargo built it, and its peers where they are installed, each a process of its
//! own on a loopback port, with its own configuration, in the foreground, killed with its handle. The comparison
//! (`tests/comparison`) starts them by this module too.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::message;

/// How long a resolver may take to answer, or refuse, its first query.
const START: Duration = Duration::from_secs(10);

/// Which resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Nodens,
    Coredns,
    Dnsdist,
    Unbound,
    Dnsmasq,
}

impl Kind {
    pub(crate) const PEERS: [Self; 4] =
        [Self::Coredns, Self::Dnsdist, Self::Unbound, Self::Dnsmasq];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Nodens => "nodens",
            Self::Coredns => "CoreDNS",
            Self::Dnsdist => "dnsdist",
            Self::Unbound => "Unbound",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Nodens => nodens(),
            Self::Coredns => "coredns",
            Self::Dnsdist => "dnsdist",
            Self::Unbound => "unbound",
            Self::Dnsmasq => "dnsmasq",
        }
    }

    /// Name and version; none if it is not installed.
    pub(crate) fn version(self) -> Option<String> {
        let flag = match self {
            Self::Unbound => "-V",
            Self::Coredns => "-version",
            _ => "--version",
        };
        let output = Command::new(self.program()).arg(flag).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text
            .split(|c: char| c.is_whitespace() || c == '-')
            .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
        Some(format!("{} {version}", self.name()))
    }
}

/// A group of servers and the zones that go to it; with several groups for one zone, they are its tiers.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) servers: Vec<SocketAddr>,
}

/// What a resolver is told.
#[derive(Debug, Clone, Default)]
pub(crate) struct Setup {
    pub(crate) groups: Vec<Group>,
    /// Zone and the groups it goes to, in order; peers take the first of them.
    pub(crate) routes: Vec<(&'static str, Vec<&'static str>)>,
    /// Whether servers are asked over TCP only. dnsmasq has no such option.
    pub(crate) upstream_tcp: bool,
    /// After how many seconds a client's TCP connection is idle. dnsmasq has no such option.
    pub(crate) idle_seconds: Option<u32>,
    /// Whether servers may take seconds to answer, for which peers wait without being told.
    pub(crate) slow_servers: bool,
}

impl Setup {
    /// Everything to one group.
    pub(crate) fn one(servers: Vec<SocketAddr>) -> Self {
        Self {
            groups: vec![Group {
                name: "vpc",
                servers,
            }],
            routes: vec![(".", vec!["vpc"])],
            ..Self::default()
        }
    }

    /// Zones, each with the servers that it goes to.
    fn zones(&self) -> impl Iterator<Item = (&'static str, &[SocketAddr])> {
        self.routes.iter().map(|(zone, groups)| {
            let group = self.groups.iter().find(|group| group.name == groups[0]);
            let group = group.expect("a route leads to a group of the setup");
            (*zone, &group.servers[..])
        })
    }
}

/// A running resolver; dropping it kills it.
pub(crate) struct Resolver {
    pub(crate) address: SocketAddr,
    admin: SocketAddr,
    child: Child,
    log: Arc<Mutex<String>>,
    directory: PathBuf,
}

/// As in `tests/common`: this build's binary, or that of `NODENS_TEST_BINARY`.
fn nodens() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| {
        std::env::var("NODENS_TEST_BINARY")
            .unwrap_or_else(|_| env!("CARGO_BIN_EXE_nodens").to_owned())
    })
}

impl Resolver {
    /// Starts it; returns when it takes queries, which with nodens costs no query.
    pub(crate) fn start(kind: Kind, setup: &Setup) -> Self {
        let directory = directory();
        let (address, admin) = (free_address(), free_address());
        let mut command = command(kind, setup, address, admin, &directory);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", kind.program()));
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (serving, started) = std::sync::mpsc::channel();
        let keeps = Arc::clone(&log);
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if line.contains("serving") {
                    let _ = serving.send(());
                }
                let mut log = keeps.lock().expect("no thread panics with the lock");
                if log.len() < 1 << 20 {
                    let _ = writeln!(log, "{line}");
                }
            }
        });
        let resolver = Self {
            address,
            admin,
            child,
            log,
            directory,
        };
        let ready = match kind {
            Kind::Nodens => started.recv_timeout(START).is_ok(),
            _ => resolver.answers_something(),
        };
        assert!(
            ready,
            "{} took no queries within {START:?}; its log:\n{}",
            kind.name(),
            resolver.log()
        );
        resolver
    }

    /// Sends SIGTERM.
    #[allow(dead_code, reason = "the comparison uses it")]
    pub(crate) fn terminate(&self) {
        let sent = Command::new("kill")
            .args(["-TERM", &self.child.id().to_string()])
            .status();
        assert!(sent.is_ok_and(|status| status.success()), "kill -TERM");
    }

    pub(crate) fn log(&self) -> String {
        self.log
            .lock()
            .expect("no thread panics with the lock")
            .clone()
    }

    /// Its open files, sockets included.
    pub(crate) fn files(&self) -> usize {
        let files = fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        files.expect("the resolver runs").count()
    }

    /// Memory it holds.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("the resolver runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.expect("VmRSS is a number of kB") * 1024
    }

    /// Sum of all of nodens's metrics whose line starts so.
    pub(crate) fn metric(&self, start: &str) -> f64 {
        let page = self.get("/metrics");
        page.lines()
            .filter(|line| line.starts_with(start))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// A page of nodens's admin interface.
    pub(crate) fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin)
            .unwrap_or_else(|error| panic!("admin {}: {error}", self.admin));
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: nodens\r\nconnection: close\r\n\r\n"
        )
        .expect("the admin interface reads");
        let mut page = String::new();
        stream
            .read_to_string(&mut page)
            .expect("the admin interface answers in UTF-8");
        assert!(page.starts_with("HTTP/1.1 200"), "{path}: {page}");
        page
    }

    /// Peers do not say when they are ready: asks until something comes back.
    fn answers_something(&self) -> bool {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        socket.connect(self.address).expect("loopback");
        let pause = Duration::from_millis(50);
        socket
            .set_read_timeout(Some(pause))
            .expect("a pause that is not zero");
        let end = Instant::now() + START;
        let (mut query, mut reply) = (Vec::new(), [0; 512]);
        while Instant::now() < end {
            message::query(
                1,
                &message::wire_name("ready.example"),
                message::A,
                &mut query,
            );
            let refused = socket.send(&query).is_err();
            match socket.recv(&mut reply) {
                Ok(_) => return true,
                Err(error) if refused || error.kind() == std::io::ErrorKind::ConnectionRefused => {
                    thread::sleep(pause);
                }
                Err(_) => {}
            }
        }
        false
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        // It has nothing to save, and a case must not wait for its grace.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// A directory for a process's files.
fn directory() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("nodens-faults-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory)
        .unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    directory
}

/// A port nobody has now, neither for UDP nor for TCP.
fn free_address() -> SocketAddr {
    loop {
        let udp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = udp.local_addr().expect("a bound socket has an address");
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}

/// As a careful operator writes it: servers in their order, a cache that keeps what expired, health checks.
fn command(
    kind: Kind,
    setup: &Setup,
    address: SocketAddr,
    admin: SocketAddr,
    directory: &Path,
) -> Command {
    let config = directory.join("config");
    let mut command = Command::new(kind.program());
    let text = match kind {
        Kind::Nodens => {
            command.args(["serve", "--config"]);
            nodens_config(setup, address, admin)
        }
        Kind::Coredns => {
            command.args(["-quiet", "-conf"]);
            coredns_config(setup, address)
        }
        Kind::Dnsdist => {
            command.args(["--supervised", "--disable-syslog", "-C"]);
            dnsdist_config(setup, address)
        }
        Kind::Unbound => {
            command.args(["-d", "-c"]);
            unbound_config(setup, address, directory)
        }
        Kind::Dnsmasq => {
            command.args(["-k", "-C"]);
            dnsmasq_config(setup, address)
        }
    };
    command.arg(&config);
    fs::write(&config, text).unwrap_or_else(|error| panic!("{}: {error}", config.display()));
    command
}

fn coredns_config(setup: &Setup, address: SocketAddr) -> String {
    let mut text = String::new();
    for (zone, servers) in setup.zones() {
        let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
        // Without `failover` it relays SERVFAIL and REFUSED of the first server.
        let _ = write!(
            text,
            "{zone}:{} {{\n  bind {}\n  errors\n  loadbalance\n  cache 3600 {{\n    serve_stale 24h verify 500ms\n  }}\n  \
             forward . {} {{\n    policy sequential\n    failover SERVFAIL REFUSED\n",
            address.port(),
            address.ip(),
            servers.join(" ")
        );
        if setup.upstream_tcp {
            text.push_str("    force_tcp\n");
        }
        text.push_str("  }\n");
        if let Some(seconds) = setup.idle_seconds {
            let _ = writeln!(
                text,
                "  timeouts {{\n    read {seconds}s\n    idle {seconds}s\n  }}"
            );
        }
        text.push_str("}\n");
    }
    text
}

fn dnsdist_config(setup: &Setup, address: SocketAddr) -> String {
    let mut text = format!(
        "setLocal('{address}', {{reusePort=true}})\naddLocal('{address}', {{reusePort=true}})\n\
         setACL('127.0.0.0/8')\nsetServerPolicy(firstAvailable)\nsetStaleCacheEntriesTTL(86400)\n"
    );
    if let Some(seconds) = setup.idle_seconds {
        let _ = writeln!(text, "setTCPRecvTimeout({seconds})");
    }
    for (zone, servers) in setup.zones() {
        let pool = if zone == "." { "" } else { zone };
        let _ = writeln!(
            text,
            "getPool('{pool}'):setCache(newPacketCache(100000, {{keepStaleData=true}}))"
        );
        if !pool.is_empty() {
            let _ = writeln!(text, "addAction('{zone}', PoolAction('{pool}'))");
        }
        for (order, server) in servers.iter().enumerate() {
            let tcp = if setup.upstream_tcp {
                ", tcpOnly=true"
            } else {
                ""
            };
            let _ = writeln!(
                text,
                "newServer({{address='{server}', order={order}, checkInterval=1, pool='{pool}'{tcp}}})"
            );
        }
    }
    text
}

fn unbound_config(setup: &Setup, address: SocketAddr, directory: &Path) -> String {
    let mut text = format!(
        "server:\n  interface: {ip}@{port}\n  port: {port}\n  do-daemonize: no\n  username: \"\"\n  \
         chroot: \"\"\n  directory: \"{directory}\"\n  pidfile: \"\"\n  use-syslog: no\n  logfile: \"\"\n  \
         num-threads: 2\n  so-reuseport: yes\n  access-control: 127.0.0.0/8 allow\n  \
         do-not-query-localhost: no\n  module-config: \"iterator\"\n  num-queries-per-thread: 4096\n  \
         outgoing-range: 8192\n  serve-expired: yes\n  serve-expired-client-timeout: 500\n  \
         msg-cache-size: 64m\n  rrset-cache-size: 64m\n",
        ip = address.ip(),
        port = address.port(),
        directory = directory.display()
    );
    if setup.upstream_tcp {
        text.push_str("  tcp-upstream: yes\n");
    }
    if let Some(seconds) = setup.idle_seconds {
        let _ = writeln!(text, "  tcp-idle-timeout: {}", seconds * 1000);
    }
    text.push_str("remote-control:\n  control-enable: no\n");
    for (zone, servers) in setup.zones() {
        let _ = writeln!(text, "forward-zone:\n  name: \"{zone}\"");
        for server in servers {
            let _ = writeln!(text, "  forward-addr: {}@{}", server.ip(), server.port());
        }
    }
    text
}

fn dnsmasq_config(setup: &Setup, address: SocketAddr) -> String {
    let mut text = format!(
        "no-resolv\nno-hosts\nlog-facility=-\nlisten-address={}\nport={}\n\
         bind-interfaces\npid-file=\ncache-size=10000\ndns-forward-max=10000\nuse-stale-cache=86400\n\
         user=root\n",
        address.ip(),
        address.port()
    );
    for (zone, servers) in setup.zones() {
        let zone = if zone == "." {
            String::new()
        } else {
            format!("/{zone}/")
        };
        for server in servers {
            let _ = writeln!(text, "server={zone}{}#{}", server.ip(), server.port());
        }
    }
    text
}

fn nodens_config(setup: &Setup, address: SocketAddr, admin: SocketAddr) -> String {
    let mut text = format!("listen: [\"{address}\"]\nadmin: \"{admin}\"\nworkers: 2\nupstreams:\n");
    for group in &setup.groups {
        let scheme = if setup.upstream_tcp { "tcp://" } else { "" };
        let servers = group.servers.iter();
        let servers: Vec<String> = servers.map(|s| format!("\"{scheme}{s}\"")).collect();
        let servers = servers.join(", ");
        let _ = write!(text, "  {}:\n    servers: [{servers}]\n", group.name);
        if setup.slow_servers {
            text.push_str("    try_timeout: 3s\n");
        }
    }
    text.push_str("routes:\n");
    for (zone, groups) in &setup.routes {
        let _ = writeln!(text, "  \"{zone}\": [{}]", groups.join(", "));
    }
    if let Some(seconds) = setup.idle_seconds {
        let _ = writeln!(text, "tcp: {{idle_timeout: {seconds}s}}");
    }
    if let Ok(more) = std::env::var("NODENS_FAULT_CONFIG") {
        let _ = writeln!(text, "{more}");
    }
    text
}
