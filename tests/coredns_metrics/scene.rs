//! One Corefile, run by nodens and by a real `CoreDNS`, before servers of the test's own.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;

use super::common::dns::{
    Ask, Message, Over, exchange, failure, rcode, record, response, rr, wire_name,
};
use super::common::stand_in::StandIn;
use super::common::{PATIENCE, Process, TempDir, free_address, nodens, wait_for};
use super::scrape::Scrape;

/// A server that has addresses at and below `ok.example` and `corp.example`, knows that there is no `gone.example`, and fails for
/// `sick.example`.
pub(crate) fn server() -> StandIn {
    StandIn::new(|query, _| {
        let name = &query[12..];
        let ends_with = |text: &str| {
            let wire = wire_name(text);
            name.windows(wire.len()).any(|part| part == wire)
        };
        let qtype = Message::read(query).map(|message| {
            let end = message.question.len() - 4;
            u16::from_be_bytes([message.question[end], message.question[end + 1]])
        });
        vec![if ends_with("sick.example") {
            failure(query, rcode::SERVFAIL)
        } else if ends_with("gone.example") {
            denial(query)
        } else if qtype == Ok(rr::A) {
            response(query, &[record(rr::A, 300, &[192, 0, 2, 1])])
        } else {
            response(query, &[])
        }]
    })
}

/// NXDOMAIN with a SOA, so that it may be kept.
fn denial(query: &[u8]) -> Vec<u8> {
    let mut soa = wire_name("ns.example");
    soa.extend(wire_name("root.example"));
    for number in [1_u32, 3600, 600, 86_400, 60] {
        soa.extend(number.to_be_bytes());
    }
    let mut message = failure(query, rcode::NXDOMAIN);
    message[9] = 1;
    message.extend(record(rr::SOA, 60, &soa));
    message
}

/// Who runs the Corefile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Nodens,
    Coredns,
}

/// The real one, if the environment names it.
pub(crate) fn coredns() -> Option<String> {
    std::env::var("NODENS_COREDNS").ok()
}

/// A process that runs the Corefile.
pub(crate) struct Running {
    process: Process,
    directory: TempDir,
    pub(crate) address: SocketAddr,
    pub(crate) health: SocketAddr,
    pub(crate) metrics: SocketAddr,
}

impl Running {
    /// Starts it, and waits until it says that it is well. Names below `down.example` are `silent`'s.
    pub(crate) fn start(who: Who, server: SocketAddr, silent: Option<SocketAddr>) -> Self {
        let directory = TempDir::new();
        let (address, health, metrics) = (free_address(), free_address(), free_address());
        let hosts = directory.write("hosts", "192.0.2.8 host.example\n");
        let (ip, port) = (address.ip(), address.port());
        let mut corefile = format!(
            ".:{port} {{
    bind {ip}
    errors
    health {health}
    hosts {} {{
        192.0.2.9 inline.example
        fallthrough
    }}
    template ANY ANY internal {{
        rcode NXDOMAIN
    }}
    prometheus {metrics}
    forward . {server} {{
        max_concurrent 1000
    }}
    cache 30
    reload 2s 1s
}}
corp.example:{port} {{
    bind {ip}
    prometheus {metrics}
    forward . {server}
    cache 30
}}
",
            hosts.display()
        );
        if let Some(silent) = silent {
            write!(
                corefile,
                "down.example:{port} {{
    bind {ip}
    errors
    prometheus {metrics}
    forward . {silent}
}}
"
            )
            .expect("a String grows");
        }
        let corefile = directory.write("Corefile", &corefile);
        let (name, mut command) = match who {
            Who::Nodens => {
                let mut command = nodens();
                command.args(["serve", "--set", "admin=null", "--config"]);
                ("nodens", command)
            }
            Who::Coredns => {
                let mut command = Command::new(coredns().expect("only if it is named"));
                command.arg("-conf");
                ("coredns", command)
            }
        };
        let mut process = Process::spawn(name, command.arg(&corefile), directory.path("log"));
        process.wait_until("200 from /health", || {
            get(health, "/health").filter(|(status, _)| *status == 200)
        });
        let running = Self {
            process,
            directory,
            address,
            health,
            metrics,
        };
        // A name of its own, so that nothing else is known afterwards.
        let first = Ask::new("first.ok.example", rr::A).message();
        wait_for("an answer", || {
            let reply = exchange(running.address, Over::Udp, &first).ok()?;
            let reply = Message::read(&reply).expect("a message");
            (reply.rcode() == rcode::NOERROR).then_some(())
        });
        running
    }

    /// The families as they are now.
    pub(crate) fn scrape(&self) -> Scrape {
        let answer = try_get(self.metrics, "/metrics");
        let (status, text) = answer
            .unwrap_or_else(|error| panic!("/metrics: {error}; it said:\n{}", self.process.log()));
        assert_eq!(status, 200, "{text}");
        Scrape::read(&text)
    }

    /// Puts a mistake into the Corefile, and waits for nothing.
    pub(crate) fn break_corefile(&self) {
        self.directory
            .write("Corefile", ".:53 {\n    foward . 192.0.2.1\n}\n");
    }

    /// What it wrote.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }
}

/// Status and body of a page, if it can be had.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    try_get(address, path).ok()
}

fn try_get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let read = || {
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    };
    read().ok_or_else(|| io::Error::other(format!("no answer: {answer:?}")))
}

/// One query, and the code of its reply.
pub(crate) type Query = (&'static str, u16, Over, bool, u16);

/// One of each kind: misses, hits, denials, other types, failures, names of the configuration.
pub(crate) const QUERIES: [Query; 14] = [
    ("a.ok.example", rr::A, Over::Udp, false, rcode::NOERROR),
    ("a.ok.example", rr::A, Over::Udp, false, rcode::NOERROR),
    ("a.ok.example", rr::A, Over::Tcp, false, rcode::NOERROR),
    ("b.ok.example", rr::A, Over::Udp, true, rcode::NOERROR),
    ("gone.example", rr::A, Over::Udp, false, rcode::NXDOMAIN),
    ("gone.example", rr::A, Over::Udp, false, rcode::NXDOMAIN),
    ("t.ok.example", rr::HTTPS, Over::Udp, false, rcode::NOERROR),
    ("t.ok.example", rr::CAA, Over::Udp, false, rcode::NOERROR),
    ("sick.example", rr::A, Over::Udp, false, rcode::SERVFAIL),
    ("host.example", rr::A, Over::Udp, false, rcode::NOERROR),
    ("inline.example", rr::A, Over::Tcp, false, rcode::NOERROR),
    ("x.internal", rr::A, Over::Udp, false, rcode::NXDOMAIN),
    ("a.corp.example", rr::A, Over::Udp, false, rcode::NOERROR),
    ("a.corp.example", rr::A, Over::Udp, false, rcode::NOERROR),
];

/// Asks them all, one after the other.
pub(crate) fn ask(server: SocketAddr) {
    for (name, qtype, over, dnssec_ok, code) in QUERIES {
        let ask = Ask::new(name, qtype);
        let ask = if dnssec_ok { ask.dnssec_ok() } else { ask };
        let reply = ask.send(server, over);
        assert_eq!(reply.rcode(), code, "{name} {qtype}");
    }
}
