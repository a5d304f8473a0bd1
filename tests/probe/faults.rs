//! The confusion table: each fault of the fault suite's upstreams, and what it must be called.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use super::Scene;
use super::message;
use super::upstream::{Server, Tcp, Udp};

/// Cases that run at the same time: more would make each other slow, which is a finding.
const AT_ONCE: usize = 4;

/// A fault put on servers.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    fault: fn(&[Server]),
    servers: usize,
    arguments: &'static [&'static str],
    findings: &'static [&'static str],
    status: i32,
}

const NAME: &str = "www.suite.example.";

fn primary(name: &'static str, fault: fn(&[Server]), finding: &'static [&'static str]) -> Case {
    Case {
        name,
        fault,
        servers: 3,
        arguments: &[NAME],
        findings: finding,
        status: i32::from(!finding.is_empty()),
    }
}

fn only(name: &'static str, fault: fn(&[Server]), findings: &'static [&'static str]) -> Case {
    Case {
        servers: 1,
        status: if findings.contains(&"group_down") {
            2
        } else {
            i32::from(!findings.is_empty())
        },
        ..primary(name, fault, findings)
    }
}

fn slowly(case: Case) -> Case {
    Case {
        arguments: &[NAME, "--timeout", "3s"],
        ..case
    }
}

/// So often that a server which drops 20 % drops one: 25 tries are all answered in 4 of 1,000 runs.
fn often(case: Case) -> Case {
    Case {
        arguments: &[NAME, "--tries", "50"],
        ..case
    }
}

fn all(servers: &[Server], behaviour: Udp) {
    for server in servers {
        server.set(behaviour);
    }
}

fn silent(server: &Server) {
    server.set(Udp::Silent);
    server.set_tcp(Tcp::HalfFrame);
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn table() -> Vec<Case> {
    vec![
        primary("no fault", |_| {}, &[]),
        primary("silent over UDP and TCP", |s| silent(&s[0]), &["no_answer"]),
        primary("silent over UDP", |s| s[0].set(Udp::Silent), &["tcp_only"]),
        primary(
            "SERVFAIL",
            |s| s[0].set(Udp::Code(message::SERVFAIL)),
            &["refuses"],
        ),
        primary(
            "REFUSED",
            |s| s[0].set(Udp::Code(message::REFUSED)),
            &["refuses"],
        ),
        primary("NOTIMP", |s| s[0].set(Udp::Code(4)), &["refuses"]),
        primary(
            "FORMERR to OPT",
            |s| s[0].set(Udp::FormerrToOpt),
            &["edns_refused"],
        ),
        often(primary(
            "drops 20 %",
            |s| s[0].set(Udp::Drop(20)),
            &["loss"],
        )),
        slowly(primary(
            "answers after 900 ms",
            |s| s[0].set(Udp::Delay(Duration::from_millis(900))),
            &["slow"],
        )),
        slowly(primary(
            "answers after 200 ms",
            |s| s[0].set(Udp::Delay(Duration::from_millis(200))),
            &["slow"],
        )),
        primary("wrong ID", |s| s[0].set(Udp::WrongId), &["wrong_answers"]),
        primary(
            "wrong question",
            |s| s[0].set(Udp::WrongQuestion),
            &["wrong_answers"],
        ),
        primary("garbage", |s| s[0].set(Udp::Garbage), &["malformed"]),
        primary(
            "lying counts",
            |s| s[0].set(Udp::LyingCounts),
            &["malformed"],
        ),
        primary(
            "compression loop",
            |s| s[0].set(Udp::CompressionLoop),
            &["malformed"],
        ),
        primary(
            "wrong source",
            |s| s[0].set(Udp::WrongSource),
            &["wrong_source"],
        ),
        primary("answers twice", |s| s[0].set(Udp::Twice), &[]),
        primary("port unreachable", |s| s[0].set(Udp::Closed), &["refused"]),
        primary(
            "nobody listens",
            |s| {
                s[0].set(Udp::Closed);
                s[0].set_tcp(Tcp::Refused);
            },
            &["refused"],
        ),
        primary("TCP refused", |s| s[0].set_tcp(Tcp::Refused), &["udp_only"]),
        primary("TCP reset", |s| s[0].set_tcp(Tcp::Reset), &["udp_only"]),
        primary(
            "half a frame over TCP",
            |s| s[0].set_tcp(Tcp::HalfFrame),
            &["udp_only"],
        ),
        only(
            "truncates",
            |s| s[0].set(Udp::Truncated),
            &["needless_truncation"],
        ),
        primary(
            "truncates, TCP refused",
            |s| {
                s[0].set_tcp(Tcp::Refused);
                s[0].set(Udp::Truncated);
            },
            &["truncated_without_tcp"],
        ),
        primary(
            "truncates, half a frame",
            |s| {
                s[0].set_tcp(Tcp::HalfFrame);
                s[0].set(Udp::Truncated);
            },
            &["truncated_without_tcp"],
        ),
        primary(
            "truncates, TCP reset",
            |s| {
                s[0].set_tcp(Tcp::Reset);
                s[0].set(Udp::Truncated);
            },
            &["truncated_without_tcp"],
        ),
        often(only(
            "the only server drops 20 %",
            |s| s[0].set(Udp::Drop(20)),
            &["loss"],
        )),
        slowly(Case {
            findings: &["slow"],
            ..primary(
                "all 700 ms slow",
                |s| all(s, Udp::Delay(Duration::from_millis(700))),
                &["slow"],
            )
        }),
        Case {
            findings: &["no_answer", "group_down", "name_not_resolved"],
            status: 2,
            ..primary("all silent", |s| s.iter().for_each(silent), &[])
        },
        Case {
            findings: &["tcp_only", "group_down", "name_not_resolved"],
            ..only(
                "the only server silent over UDP",
                |s| s[0].set(Udp::Silent),
                &["group_down"],
            )
        },
        Case {
            findings: &["name_not_resolved"],
            arguments: &["never.suite.example."],
            status: 2,
            ..primary("a name never resolves", |_| {}, &[])
        },
        Case {
            findings: &["known_in_part", "name_not_resolved"],
            status: 2,
            ..primary("the first denies a name", |s| s[0].set(Udp::Nxdomain), &[])
        },
        primary(
            "the second denies a name",
            |s| s[1].set(Udp::Nxdomain),
            &["known_in_part"],
        ),
    ]
}

/// 127.88.0.1 and up, which nobody else uses.
fn next_ip() -> [u8; 4] {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    [127, 88, 0, NEXT.fetch_add(1, Ordering::Relaxed)]
}

impl Case {
    fn run(&self) -> Option<String> {
        let servers: Vec<_> = (0..self.servers)
            .map(|_| Server::start(next_ip()))
            .collect();
        (self.fault)(&servers);
        let addresses: Vec<_> = servers.iter().map(Server::address).collect();
        let said = Scene::of(&addresses).probe(self.arguments);
        let complaint = said.complaint(self.findings, self.status)?;
        Some(format!("{}: {complaint}", self.name))
    }
}

#[test]
fn each_fault_is_called_by_its_name_and_by_no_other() {
    let table = table();
    let (next, complaints) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = table.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let complaint = case.run();
                    complaints
                        .lock()
                        .expect("no thread panics with it")
                        .extend(complaint);
                }
            });
        }
    });
    let complaints = complaints.into_inner().expect("no thread panics with it");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
